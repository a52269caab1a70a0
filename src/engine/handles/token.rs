//! `ClaimToken`: a claim in bytes, to cross a process boundary.

use std::fmt;

use super::claim::{Claim, ClaimInner};
use crate::error::EndError;
use crate::task::caller::{Caller, block};

/// A claim in a form that crosses process boundaries: bytes, sealed by the file that granted it.
///
/// [`Claim::into_token`](crate::Claim::into_token) gives one,
/// [`Scope::resume`](crate::Scope::resume) takes it back. It is a bearer token: any holder can end
/// the claim, through a process that has the file open. With the feature `serde` it can be part of
/// a message. A dropped token leaves its claim in flight until the lease runs out.
#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "nobody else can end the claim, which is in flight until its lease runs out"]
pub struct ClaimToken(Vec<u8>);

impl ClaimToken {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Its bytes: at most 86 and the scope's name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The token with these bytes. They are checked only when the claim is resumed.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
}

/// Any holder of a token can end the claim: it does not belong in a log.
impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimToken(..)")
    }
}

impl Claim {
    /// Hands the claim over as a token, which another process can keep while it does the work.
    /// The claim stays in flight, also across a restart of this process, until
    /// [`Scope::resume`](crate::Scope::resume) resumes it or its lease runs out. The lease starts
    /// again now.
    ///
    /// # Errors
    ///
    /// When the claim has no lease; otherwise as for [`save_progress`](Self::save_progress). If
    /// nothing was written, the error returns the claim.
    ///
    /// ```
    /// # use idemkv::{Begin, ClaimToken, Engine, Fingerprint};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let jobs = engine.set_policy("jobs", engine.policy().lease(Duration::from_secs(30)))?;
    /// let Begin::Fresh(claim) = jobs.begin("key", request)? else { panic!() };
    /// let token = claim.into_token()?;
    /// let message = token.as_bytes().to_vec(); // to a worker, and back with its result
    /// jobs.resume(&ClaimToken::from_bytes(message))?.complete("reply")?;
    /// assert!(matches!(jobs.begin("key", request)?, Begin::Done(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn into_token(self) -> Result<ClaimToken, EndError> {
        block(self.into_token_as(Caller::Thread))
    }

    /// [`into_token`](Self::into_token) for tasks. If you drop the future before the hand-over is
    /// queued, the claim is dropped too. After that, the key stays in flight until the lease runs
    /// out.
    ///
    /// # Errors
    ///
    /// As for [`into_token`](Self::into_token).
    pub async fn into_token_async(self) -> Result<ClaimToken, EndError> {
        self.into_token_as(Caller::Task).await
    }

    async fn into_token_as(self, caller: Caller) -> Result<ClaimToken, EndError> {
        match self.inner {
            ClaimInner::File(claim) => claim.into_token(caller).await,
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => Box::pin(claim.into_token(caller)).await,
        }
    }
}
