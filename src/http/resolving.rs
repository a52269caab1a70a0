//! What the service's owner says of an interrupted request: the response that its retries get.

use bytes::Bytes;
use http::Response;

use super::body::Whole;
use super::headers::Unstored;
use super::layer::IdempotencyLayer;
use super::stored::encode;
use crate::{Claim, EndError, Record};

impl IdempotencyLayer {
    /// Completes a claim with the response that retries get from now on.
    ///
    /// For an interrupted request whose outcome the owner has found out: a crash came between the
    /// charge and the response. The claim comes from [`Scope::resolve`](crate::Scope::resolve). Give
    /// the response that the handler would have given. It is stored whole, whatever
    /// [`Keep`](super::Keep) and this layer's limits say.
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
    /// for open in engine.interrupted().scope(charges.name()).get()? { // again until it is empty
    ///     let claim = charges.resolve_async(open.key()).await?;
    ///     // .. ask the bank for a charge with the reference `claim.step_key("charge")` ..
    ///     layer.complete(claim, http::Response::new("charged")).await?;
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
        let (head, body) = response.into_parts();
        let never_store = self.headers_not_stored();
        let unstored = Unstored::of(&head.headers, &never_store);
        let whole = Whole { data: body.into(), trailers: None };
        let stored = encode(head.status, &head.headers, &unstored, Some(&whole));
        if head.status.is_client_error() || head.status.is_server_error() {
            claim.fail_async(stored).await
        } else {
            claim.complete_async(stored).await
        }
    }
}
