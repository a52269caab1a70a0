//! How a list is written.

/// The formats of lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// JSON, a line for each key
    Json,
    /// Comma-separated values, with a header
    Csv,
}

/// The formats of everything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Plain {
    /// For people
    #[default]
    Text,
    /// One JSON value
    Json,
}

/// A table that a terminal of any width shows.
pub(crate) fn table(header: &[&str]) -> comfy_table::Table {
    let mut table = comfy_table::Table::new();
    table.load_preset(comfy_table::presets::UTF8_HORIZONTAL_ONLY).set_header(header.to_vec());
    table
}

/// One line of comma-separated values (RFC 4180). Clients choose keys, and a spreadsheet takes a
/// cell that starts with one of these for a formula. So it starts with its escape, as in a name.
/// Where a spreadsheet takes `;` for the separator, a cell starts behind each of them too.
pub(crate) fn csv(cells: &[String]) -> String {
    let quoted = cells.iter().map(|cell| {
        let mut quoted = String::from("\"");
        let mut starts = true;
        for letter in cell.chars() {
            match letter {
                '"' => quoted.push_str("\"\""),
                '=' | '+' | '-' | '@' if starts => quoted.extend(letter.escape_unicode()),
                _ => quoted.push(letter),
            }
            // What stands between them may be cut off.
            starts = letter == ';' || (starts && matches!(letter, ' ' | '"'));
        }
        quoted + "\""
    });
    quoted.collect::<Vec<_>>().join(",")
}

/// Bytes in the unit that suits them.
pub(crate) fn bytes(count: u64) -> String {
    match count {
        0..10_240 => format!("{count} B"),
        10_240..10_485_760 => format!("{} KiB", count >> 10),
        10_485_760..10_737_418_240 => format!("{} MiB", count >> 20),
        _ => format!("{} GiB", count >> 30),
    }
}
