//! Names of scopes and keys as text. Clients choose keys, so a key may hold what a terminal obeys,
//! or what misleads a reader.
//!
//! The command `idemkv` has this file too, so that both write and read names alike.

use std::fmt::Write;

/// A name as text that no terminal obeys and no reader mistakes, and that [`parse`] reads back.
pub(crate) fn escaped(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter == '\\' {
                text.push_str("\\\\");
            } else if is_shown(letter) {
                text.push(letter);
            } else {
                text.extend(letter.escape_unicode());
            }
        }
        for byte in chunk.invalid() {
            // A string takes everything.
            write!(text, "\\x{byte:02x}").ok();
        }
    }
    text
}

/// Letters that are what they look like: no control, no mark of direction, nothing invisible, and
/// nothing that turns around what stands beside it.
fn is_shown(letter: char) -> bool {
    let is_plain = letter.is_alphanumeric() && !is_invisible(letter) && !is_right_to_left(letter);
    is_plain || letter == ' ' || letter.is_ascii_graphic()
}

/// Letters that are drawn as nothing: those that Unicode calls letters or marks of words, and
/// `Default_Ignorable_Code_Point` as well, and two blanks that it calls letters.
fn is_invisible(letter: char) -> bool {
    matches!(
        letter,
        '\u{115f}'
            | '\u{1160}'
            | '\u{17b4}'
            | '\u{17b5}'
            | '\u{3164}'
            | '\u{ffa0}'
            | '\u{13441}'
            | '\u{13442}'
    )
}

/// The blocks whose characters run from right to left, those to come included: the defaults of
/// `Bidi_Class` (Unicode's `DerivedBidiClass.txt`).
fn is_right_to_left(letter: char) -> bool {
    matches!(letter,
        '\u{590}'..='\u{8ff}'
        | '\u{fb1d}'..='\u{fdff}'
        | '\u{fe70}'..='\u{feff}'
        | '\u{10800}'..='\u{10fff}'
        | '\u{1e800}'..='\u{1efff}')
}

/// The name that [`escaped`] gave this text.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, String> {
    let mut name = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        name.extend_from_slice(plain.as_bytes());
        rest = take_escape(escape, &mut name)
            .ok_or_else(|| format!("`\\{escape}`: an escape is \\\\, \\xNN or \\u{{N}}"))?;
    }
    name.extend_from_slice(rest.as_bytes());
    Ok(name)
}

/// Reads what is behind a backslash; gives what follows.
fn take_escape<'a>(escape: &'a str, name: &mut Vec<u8>) -> Option<&'a str> {
    if let Some(rest) = escape.strip_prefix('\\') {
        name.push(b'\\');
        return Some(rest);
    }
    if let Some(code) = escape.strip_prefix('x') {
        let (digits, rest) = code.split_at_checked(2)?;
        name.push(
            digits
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit())
                .then_some(())
                .and_then(|()| u8::from_str_radix(digits, 16).ok())?,
        );
        return Some(rest);
    }
    let (digits, rest) = escape.strip_prefix("u{")?.split_once('}')?;
    let letter = u32::from_str_radix(digits, 16).ok().and_then(char::from_u32)?;
    name.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
    Some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_of_a_name_reaches_a_terminal_as_a_command_and_every_name_comes_back() {
        let hostile: [&[u8]; 9] = [
            b"plain key-1",
            b"\x1b[2Jgone",
            "\u{9b}31m".as_bytes(),
            "abc\u{202e}txt.exe".as_bytes(),
            b"\xff\xfe\\x41",
            "\u{200b}\u{feff}größe".as_bytes(),
            b"\r\n\t\0",
            "refund-7\u{3164}\u{115f}\u{1160}\u{ffa0}\u{13441}\u{13442}".as_bytes(),
            "pay \u{5d0}1-2 \u{627}3-4 \u{661}".as_bytes(),
        ];
        for name in hostile {
            let text = escaped(name);
            assert!(text.chars().all(is_shown), "{text:?}");
            assert!(text.chars().all(|letter| letter.is_ascii() || "größe".contains(letter)), "{text:?}");
            assert_eq!(parse(&text).unwrap(), name);
        }
        for byte in 0..=255 {
            assert_eq!(parse(&escaped(&[byte])).unwrap(), [byte]);
        }
    }

    #[test]
    fn half_an_escape_is_refused() {
        for text in ["\\", "\\x4", "\\xzz", "\\x+1", "\\u{", "\\u{d800}", "\\n"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
