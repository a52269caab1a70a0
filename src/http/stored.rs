//! The stored response: its form in a record. `docs/http.md`, "Format", describes it.

use bytes::{Buf, Bytes};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use super::body::Whole;
use super::headers::Unstored;
use crate::Record;

/// Raised with every change of the format.
const VERSION: u8 = 1;
const WHOLE: u8 = 0;
const HEAD_ONLY: u8 = 1;
/// In the length of a value: it is sensitive.
const SENSITIVE: u32 = 1 << 31;

/// A response as it was stored.
#[derive(Debug)]
pub(super) struct StoredResponse {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// `None` where it was not kept.
    pub(super) body: Option<Whole>,
}

/// A body that is to be stored.
#[derive(Clone, Copy)]
pub(super) struct StoredBody<'r> {
    data: &'r [u8],
    trailers: Option<&'r HeaderMap>,
}

impl<'r> From<&'r Whole> for StoredBody<'r> {
    fn from(whole: &'r Whole) -> Self {
        Self { data: &whole.data, trailers: whole.trailers.as_ref() }
    }
}

/// Whether a response says that the operation failed.
pub(super) fn is_failure(status: StatusCode) -> bool {
    status.is_client_error() || status.is_server_error()
}

/// The form of a whole response, but for the headers that are never stored, and these.
pub(super) fn encode_whole(response: &Response<impl AsRef<[u8]>>, never_store: &[HeaderName]) -> Vec<u8> {
    let unstored = Unstored::of(response.headers(), never_store);
    let body = StoredBody { data: response.body().as_ref(), trailers: None };
    encode(response.status(), response.headers(), &unstored, Some(body))
}

/// The form of a response, without its body where that is `None`.
pub(super) fn encode(
    status: StatusCode,
    headers: &HeaderMap,
    unstored: &Unstored<'_>,
    body: Option<StoredBody<'_>>,
) -> Vec<u8> {
    let data = body.map_or(&[][..], |body| body.data);
    let mut bytes = Vec::with_capacity(64 + 48 * headers.len() + data.len());
    bytes.extend([VERSION, if body.is_some() { WHOLE } else { HEAD_ONLY }]);
    bytes.extend(status.as_u16().to_le_bytes());
    let trailers = body.and_then(|body| body.trailers);
    for headers in [Some(headers), trailers] {
        put_headers(&mut bytes, || headers.into_iter().flatten().filter(|(name, _)| !unstored.has(name)));
    }
    bytes.extend(data);
    bytes
}

fn put_headers<'h, I>(bytes: &mut Vec<u8>, headers: impl Fn() -> I)
where
    I: Iterator<Item = (&'h HeaderName, &'h HeaderValue)>,
{
    // What does not fit its length makes the record longer than an engine takes.
    let short = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    bytes.extend(short(headers().count()).to_le_bytes());
    for (name, value) in headers() {
        let sensitive = if value.is_sensitive() { SENSITIVE } else { 0 };
        bytes.extend(short(name.as_str().len()).to_le_bytes());
        bytes.extend((short(value.len()) & !SENSITIVE | sensitive).to_le_bytes());
        bytes.extend(name.as_str().as_bytes());
        bytes.extend(value.as_bytes());
    }
}

/// Reads a stored response. `None` where the record is no response of a version that this crate
/// knows.
pub(super) fn decode(record: &Record) -> Option<StoredResponse> {
    // The body stays in the record.
    let mut reader = Reader(Bytes::from_owner(RecordBytes(record.clone())));
    let [version, parts] = reader.array()?;
    if version != VERSION || parts > HEAD_ONLY {
        return None;
    }
    let status = StatusCode::from_u16(u16::from_le_bytes(reader.array()?)).ok()?;
    let headers = reader.headers()?;
    let trailers = Some(reader.headers()?).filter(|trailers| !trailers.is_empty());
    let body = match parts {
        WHOLE => Some(Whole { data: reader.0, trailers }),
        _ if reader.0.is_empty() && trailers.is_none() => None,
        _ => return None,
    };
    Some(StoredResponse { status, headers, body })
}

struct RecordBytes(Record);

impl AsRef<[u8]> for RecordBytes {
    fn as_ref(&self) -> &[u8] {
        self.0.body()
    }
}

/// What is not read yet. It trusts no byte.
struct Reader(Bytes);

impl Reader {
    fn bytes(&mut self, len: u32) -> Option<Bytes> {
        let len = usize::try_from(len).ok()?;
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = self.0.first_chunk().copied()?;
        self.0.advance(N);
        Some(bytes)
    }

    fn headers(&mut self) -> Option<HeaderMap> {
        let count = u32::from_le_bytes(self.array()?);
        let mut headers = HeaderMap::new();
        for _ in 0..count {
            let name_len = u32::from_le_bytes(self.array()?);
            let value_len = u32::from_le_bytes(self.array()?);
            let name = HeaderName::from_bytes(&self.bytes(name_len)?).ok()?;
            let mut value = HeaderValue::from_maybe_shared(self.bytes(value_len & !SENSITIVE)?).ok()?;
            value.set_sensitive(value_len & SENSITIVE != 0);
            headers.try_append(name, value).ok()?;
        }
        Some(headers)
    }
}

#[cfg(test)]
#[path = "stored/tests.rs"]
mod tests;
