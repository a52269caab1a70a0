//! Responses that a person stores or reads by hand.

use bytes::Bytes;
use http::Response;

use super::body::Whole;
use super::headers::Unstored;
use super::stored::{decode, encode};
use crate::Record;

/// A response in the form in which the layer stores it: complete a claim on a key of the layer
/// with this, and retries get the response.
///
/// For tools that resolve interrupted keys. Headers that are [never stored](super) are left out.
///
/// ```
/// # use idemkv::{Begin, Engine, Fingerprint, Status};
/// use idemkv::http::{body_of_record, response_of_record};
///
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// # let charges = engine.scope("POST /v1/charges");
/// # drop(charges.begin("key", Fingerprint::of("request"))?);
/// let response = http::Response::builder().status(201).header("content-type", "application/json");
/// let response = response.body(r#"{"id":"ch_1"}"#)?;
/// charges.resolve("key")?.complete(body_of_record(&response))?;
/// # let Status::Done(record) = charges.get("key")? else { panic!() };
/// assert_eq!(response_of_record(&record).unwrap().status(), 201);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn body_of_record(response: &Response<impl AsRef<[u8]>>) -> Vec<u8> {
    let (headers, data) = (response.headers(), Bytes::copy_from_slice(response.body().as_ref()));
    let whole = Whole { data, trailers: None };
    encode(response.status(), headers, &Unstored::of(headers, &[]), Some(&whole))
}

/// The response that the layer stored in a record; its body is `None` if that was not kept.
///
/// `None` where the record holds something else.
#[must_use]
pub fn response_of_record(record: &Record) -> Option<Response<Option<Bytes>>> {
    let stored = decode(record)?;
    let mut response = Response::new(stored.body.map(|whole| whole.data));
    *response.status_mut() = stored.status;
    *response.headers_mut() = stored.headers;
    Some(response)
}
