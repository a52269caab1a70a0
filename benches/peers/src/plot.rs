//! Bars, as a picture that a page can show.

use std::fmt::Write;
use std::path::PathBuf;

const WIDTH: usize = 720;
const BAR: usize = 16;
const LABEL: usize = 180;
/// Room for the figure behind a bar.
const FIGURE: usize = 80;

/// Groups of bars that lie on one scale.
pub(crate) struct Plot {
    title: String,
    groups: Vec<(String, Vec<(String, f64)>)>,
}

impl Plot {
    pub(crate) fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), groups: Vec::new() }
    }

    pub(crate) fn group(&mut self, name: impl Into<String>, bars: Vec<(String, f64)>) {
        self.groups.push((name.into(), bars));
    }

    fn svg(&self) -> String {
        let rows: usize = self.groups.iter().map(|(_, bars)| bars.len() + 2).sum();
        let height = (rows + 2) * (BAR + 4);
        let longest =
            self.groups.iter().flat_map(|(_, bars)| bars).map(|(_, value)| *value).fold(0.0, f64::max);
        let mut svg = format!(
            "<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' font-family='sans-serif' font-size='12'>\n\
             <rect width='100%' height='100%' fill='white'/>\n<text x='8' y='18' font-size='14'>{}</text>\n",
            self.title
        );
        let mut y = 2 * (BAR + 4);
        for (name, bars) in &self.groups {
            y += BAR + 4;
            writeln!(svg, "<text x='8' y='{}' font-weight='bold'>{name}</text>", y - 6).unwrap();
            for (label, value) in bars {
                let width = value / longest * (WIDTH - LABEL - FIGURE) as f64;
                let color = if label.starts_with("idemkv") { "#c0392b" } else { "#7f8c8d" };
                writeln!(
                    svg,
                    "<text x='{}' y='{}' text-anchor='end'>{label}</text>\
                     <rect x='{LABEL}' y='{y}' width='{width:.1}' height='{BAR}' fill='{color}'/>\
                     <text x='{:.1}' y='{}'>{value:.2}</text>",
                    LABEL - 8,
                    y + BAR - 4,
                    LABEL as f64 + width + 6.0,
                    y + BAR - 4,
                )
                .unwrap();
                y += BAR + 4;
            }
            y += BAR + 4;
        }
        svg + "</svg>\n"
    }

    /// Writes the picture, and says where.
    pub(crate) fn write(&self, name: &str) {
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/peers"));
        let file = folder.join(format!("{name}.svg"));
        let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&file, self.svg()));
        match written {
            Ok(()) => println!("plot: {}", file.display()),
            Err(error) => println!("no plot: {error}"),
        }
    }
}
