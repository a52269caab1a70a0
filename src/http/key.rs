//! The idempotency key of a request: where it comes from, and which are refused.

use std::borrow::Cow;
use std::sync::Arc;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use sfv::visitor::{Ignored, ParameterVisitor, parameter_visitor_with};
use sfv::{BareItemFromInput, Parser};

use super::problem::Fault;
use super::problem_kind::ProblemKind;

pub(super) const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(super) const WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// Bytes of the longest key that a client may choose.
const KEY_BYTES_MAX: usize = 255;
/// Between a tenant and a key. No key has it.
const BORDER: u8 = 0x1f;

type KeyOf = Arc<dyn Fn(&Parts, &[u8]) -> Option<String> + Send + Sync>;
type Check = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Where the key of a request is.
#[derive(Clone)]
pub(super) enum KeySource {
    Header(HeaderName),
    Function(KeyOf),
}

/// Which keys are taken.
#[derive(Clone)]
pub(super) struct KeyRules {
    pub(super) source: KeySource,
    /// Whether a key in a header must be an RFC 9651 String.
    pub(super) is_strict: bool,
    pub(super) check: Option<Check>,
}

impl Default for KeyRules {
    fn default() -> Self {
        Self { source: KeySource::Header(IDEMPOTENCY_KEY), is_strict: false, check: None }
    }
}

impl KeyRules {
    /// Whether the key is known before the body is.
    pub(super) fn is_in_header(&self) -> bool {
        matches!(self.source, KeySource::Header(_))
    }

    /// The key in the request's headers; `None` without one.
    pub(super) fn in_header(&self, headers: &HeaderMap) -> Result<Option<String>, Fault> {
        let KeySource::Header(name) = &self.source else { return Ok(None) };
        let mut values = headers.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(malformed("The header with the key was sent more than once."));
        }
        let key = parsed(value, self.is_strict).ok_or_else(|| {
            malformed(if self.is_strict {
                "The key is not a string in double quotes, as RFC 9651 describes it."
            } else {
                "The key is neither a string in double quotes, as RFC 9651 describes it, nor a bare key of letters, \
                 digits and some signs."
            })
        })?;
        self.checked(key).map(Some)
    }

    /// The key elsewhere in the request; `None` without one.
    pub(super) fn in_request(&self, parts: &Parts, body: &[u8]) -> Result<Option<String>, Fault> {
        let KeySource::Function(function) = &self.source else { return Ok(None) };
        function(parts, body).map(|key| self.checked(key)).transpose()
    }

    fn checked(&self, key: String) -> Result<String, Fault> {
        if key.is_empty() || key.len() > KEY_BYTES_MAX {
            return Err(malformed("The key is empty, or longer than 255 bytes."));
        }
        if key.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(malformed("The key has a control character."));
        }
        if self.check.as_ref().is_some_and(|check| !check(&key)) {
            return Err(malformed("The key is not of the form that this service asks for."));
        }
        Ok(key)
    }
}

fn malformed(detail: &str) -> Fault {
    Fault::new(ProblemKind::KeyMalformed, detail)
}

/// The key in the value of a header.
fn parsed(value: &HeaderValue, is_strict: bool) -> Option<String> {
    let bytes = value.as_bytes().trim_ascii();
    if is_strict || bytes.starts_with(b"\"") {
        Parser::new(bytes).parse_item_with_visitor(string_item).ok()
    } else {
        bare(bytes).map(str::to_owned)
    }
}

/// A key without quotes. Its signs are those of RFC 9651 Tokens, and two that base64 and addresses
/// have; at the start only those that start nothing else in RFC 9651.
fn bare(bytes: &[u8]) -> Option<&str> {
    const SIGNS: &[u8] = b"!#$%&'*+-.^_`|~";
    const INNER_SIGNS: &[u8] = b":/=@";
    let is_first = |byte: &u8| byte.is_ascii_alphanumeric() || SIGNS.contains(byte);
    let all = bytes.iter().all(|byte| is_first(byte) || INNER_SIGNS.contains(byte));
    if all && bytes.first().is_some_and(is_first) { str::from_utf8(bytes).ok() } else { None }
}

#[derive(Debug)]
struct NotAString;

impl std::fmt::Display for NotAString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("not a string")
    }
}

impl std::error::Error for NotAString {}

/// Takes a String, and ignores its parameters.
fn string_item(item: BareItemFromInput<'_>) -> Result<impl ParameterVisitor<'_, Out = String>, NotAString> {
    let BareItemFromInput::String(key) = item else { return Err(NotAString) };
    let key = key.as_str().to_owned();
    Ok(parameter_visitor_with(Ignored, move |()| Ok(key)))
}

/// What the engine knows a key by: a client's key, or a tenant and its key.
pub(super) fn composed<'k>(tenant: Option<&str>, key: &'k str) -> Cow<'k, [u8]> {
    match tenant {
        None => Cow::Borrowed(key.as_bytes()),
        // A key has no such byte, so the last one is always this border.
        Some(tenant) => Cow::Owned([tenant.as_bytes(), &[BORDER], key.as_bytes()].concat()),
    }
}

/// Whether a key is a UUID (RFC 9562) of any version: 36 characters, in either case. For
/// [`check_key`](super::IdempotencyLayer::check_key).
///
/// ```
/// use idemkv::http::is_uuid;
///
/// assert!(is_uuid("8e03978e-40d5-43e8-bc93-6894a57f9324"));
/// assert!(!is_uuid("8e03978e40d543e8bc936894a57f9324"));
/// ```
#[must_use]
pub fn is_uuid(key: &str) -> bool {
    key.len() == 36
        && key.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
#[path = "key/tests.rs"]
mod tests;
