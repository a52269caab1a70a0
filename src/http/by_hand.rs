//! Responses that a person stores or reads by hand.

use bytes::Bytes;
use http::Response;

use super::layer::IdempotencyLayer;
use super::stored::{decode, encode_whole, is_failure};
use crate::{Claim, EndError, Record};

impl IdempotencyLayer {
    /// Completes a claim with the response that retries get from now on.
    ///
    /// For an interrupted request whose outcome the owner has found out: a crash came between the
    /// charge and the response. The claim comes from
    /// [`Scope::resolve_if`](crate::Scope::resolve_if). "Interrupted requests" in `docs/http.md`
    /// has the whole loop: what to do if the bank has no charge, or does not answer.
    /// Give the response that the handler would have given, headers included. It is stored whole,
    /// whether or not [`Keep`](super::Keep) and this layer's limits would allow it.
    ///
    /// # Errors
    ///
    /// As for [`Claim::complete`].
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("x.idem");
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let engine = Engine::open(path)?;
    /// let layer = IdempotencyLayer::new(&engine, "POST /v1/charges");
    /// let charges = engine.scope("POST /v1/charges");
    /// for open in engine.interrupted().scope(charges.name()).get()? {
    ///     // A retry may have been faster.
    ///     let seen = open.attempt().fence();
    ///     let Ok(claim) = charges.resolve_if_async(open.key(), seen).await else { continue };
    ///     // .. the bank has a charge with the reference `claim.step_key("charge")` ..
    ///     let response = http::Response::builder().header("content-type", "text/plain");
    ///     if let Err(refused) = layer.complete(claim, response.body("charged")?).await {
    ///         // It stays interrupted, as it was.
    ///         if let Some(claim) = refused.into_claim() {
    ///             claim.put_back_async().await?;
    ///         }
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn complete(
        &self,
        claim: Claim,
        response: Response<impl Into<Bytes>>,
    ) -> Result<Record, EndError> {
        let response = response.map(Into::into);
        let stored = encode_whole(&response, &self.headers_not_stored());
        if is_failure(response.status()) {
            claim.fail_async(stored).await
        } else {
            claim.complete_async(stored).await
        }
    }
}

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
    encode_whole(response, &[])
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
