//! A scope's name as text for labels and logs.

/// The most characters of a label.
const CHARS_MAX: usize = 64;

/// The name, lossily: control characters and bytes that are not UTF-8 become `U+FFFD`, and a long
/// name is cut. Parentheses mark the default scope, whose name is empty.
pub(crate) fn scope_label(scope: &[u8]) -> String {
    if scope.is_empty() {
        return "(default)".to_owned();
    }
    let text = String::from_utf8_lossy(scope);
    let shown = |char: char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char };
    let mut chars = text.chars().map(shown);
    let mut label: String = chars.by_ref().take(CHARS_MAX).collect();
    if chars.next().is_some() {
        label.pop();
        label.push('…');
    }
    label
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_text_of_at_most_64_characters_whatever_the_name_is() {
        assert_eq!(scope_label(b""), "(default)");
        assert_eq!(scope_label("POST /zahlungen/ü".as_bytes()), "POST /zahlungen/ü");
        assert_eq!(scope_label(b"a\n\xff\"b"), "a\u{fffd}\u{fffd}\"b");
        assert_eq!(scope_label(&[b'x'; 64]), "x".repeat(64));
        assert_eq!(scope_label(&[b'x'; 65]), "x".repeat(63) + "…");
        assert_eq!(scope_label(&[0xff; 255]).chars().count(), 64);
    }
}
