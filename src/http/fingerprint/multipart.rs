//! Multipart bodies without their boundary (RFC 2046, section 5.1.1).

/// RFC 2046: a boundary has at most 70 characters.
const BOUNDARY_MAX: usize = 70;

/// A body, cut at its delimiters.
pub(super) struct Multipart<'a> {
    /// Without the boundary.
    pub(super) content_type: Vec<u8>,
    pub(super) pieces: Vec<&'a [u8]>,
}

/// Cuts a body at its delimiters. `None` where it is not multipart.
pub(super) fn split<'a>(content_type: &[u8], body: &'a [u8]) -> Option<Multipart<'a>> {
    let text = str::from_utf8(content_type).ok()?;
    let (essence, parameters) = text.split_once(';')?;
    if !essence.trim().to_ascii_lowercase().starts_with("multipart/") {
        return None;
    }
    let (mut boundary, mut kept) = (None, vec![essence.trim()]);
    for parameter in parameters.split(';').map(str::trim) {
        match parameter.split_once('=') {
            Some((name, value)) if name.eq_ignore_ascii_case("boundary") => {
                let value =
                    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
                // Two are one too many.
                if boundary.replace(value).is_some() {
                    return None;
                }
            }
            _ => kept.push(parameter),
        }
    }
    let boundary = boundary.filter(|boundary| (1..=BOUNDARY_MAX).contains(&boundary.len()))?;
    let content_type = kept.join(";").into_bytes();
    Some(Multipart { content_type, pieces: pieces(body, format!("--{boundary}").as_bytes()) })
}

/// What lies between the delimiters. They stand at the start of a line; elsewhere they are
/// content.
fn pieces<'a>(body: &'a [u8], delimiter: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut rest = body;
    let mut at = 0;
    while at < rest.len() {
        let is_at_line_start = match at {
            0 => pieces.is_empty(),
            _ => rest.get(at - 1) == Some(&b'\n'),
        };
        let Some(behind) = rest.get(at..).and_then(|from| from.strip_prefix(delimiter)) else {
            at += 1;
            continue;
        };
        if is_at_line_start {
            pieces.push(rest.split_at(at).0);
            (rest, at) = (behind, 0);
        } else {
            at += 1;
        }
    }
    pieces.push(rest);
    pieces
}
