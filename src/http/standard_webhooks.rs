//! `StandardWebhooks`: the signatures of webhooks, as Standard Webhooks describes them.

use std::fmt;

use http::HeaderMap;
use standardwebhooks::Webhook;

use super::key::WEBHOOK_ID;
use super::layer::IdempotencyLayer;
use crate::{Engine, OptionError, Recovery, SetPolicyError};

/// Checks the signatures of webhooks, as [Standard Webhooks](https://www.standardwebhooks.com)
/// describes them. With the feature `standard-webhooks`.
///
/// A signature covers the header `webhook-id`, which is the key, the header `webhook-timestamp`,
/// and the body. A signature whose time is more than five minutes off is refused, so keep the
/// machine's clock synchronised.
///
/// ```
/// # use idemkv::{Engine, Recovery};
/// # use idemkv::http::{IdempotencyLayer, StandardWebhooks};
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// # let (secret, next) = ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
/// // The sender's secret, and the next one while it changes them.
/// let signatures = StandardWebhooks::new(secret)?.secret(next)?;
/// let layer = IdempotencyLayer::standard_webhooks(&engine, "events", Recovery::Rerun, signatures)?;
/// # drop(layer);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct StandardWebhooks {
    secrets: Vec<Webhook>,
}

impl StandardWebhooks {
    /// Checks signatures that were made with this secret: base64, with or without `whsec_` before
    /// it.
    ///
    /// # Errors
    ///
    /// If the secret is not base64, or empty.
    pub fn new(secret: &str) -> Result<Self, OptionError> {
        Self { secrets: Vec::new() }.secret(secret)
    }

    /// One more secret, while the sender changes them: a signature with any of them is valid.
    ///
    /// # Errors
    ///
    /// As for [`new`](Self::new).
    pub fn secret(mut self, secret: &str) -> Result<Self, OptionError> {
        let refused = || {
            let allowed = "base64, with or without `whsec_` before it, and not empty";
            OptionError::new("secret", format_args!("not shown"), allowed)
        };
        if secret.strip_prefix("whsec_").unwrap_or(secret).is_empty() {
            return Err(refused());
        }
        // The error would say at which letter of the secret.
        self.secrets.push(Webhook::new(secret).ok().ok_or_else(refused)?);
        Ok(self)
    }

    /// Whether headers and body are what the sender signed, at most five minutes ago.
    ///
    /// An id with a full stop is refused: the stop is also what separates the signed parts, so
    /// that such an id could stand for another message's id and time.
    #[must_use]
    pub fn is_signed(&self, headers: &HeaderMap, body: &[u8]) -> bool {
        let is_plain = headers.get(WEBHOOK_ID).is_some_and(|id| !id.as_bytes().contains(&b'.'));
        // The verifier subtracts before it looks at the signature, and may overflow.
        let time = headers.get("webhook-timestamp").and_then(|time| time.to_str().ok());
        let is_time = time.is_some_and(|time| time.parse::<u32>().is_ok());
        is_plain && is_time && self.secrets.iter().any(|secret| secret.verify(body, headers).is_ok())
    }
}

/// Without the secrets.
impl fmt::Debug for StandardWebhooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandardWebhooks").finish_non_exhaustive()
    }
}

impl IdempotencyLayer {
    /// The preset [`webhook`](Self::webhook), which also checks the signatures. With the feature
    /// `standard-webhooks`.
    ///
    /// # Errors
    ///
    /// As for [`webhook`](Self::webhook).
    pub fn standard_webhooks(
        engine: &Engine,
        scope: impl AsRef<[u8]>,
        recovery: Recovery,
        signatures: StandardWebhooks,
    ) -> Result<Self, SetPolicyError> {
        let layer = Self::webhook(engine, scope, recovery)?;
        Ok(layer.verify(move |parts, body| signatures.is_signed(&parts.headers, body)))
    }
}
