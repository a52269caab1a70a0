//! What a claim's holder reports while the operation runs: its progress, and that it still works.

use super::claim::{Claim, ClaimInner};
use crate::error::ClaimError;
#[cfg(feature = "postgres")]
use crate::shared::refusal::carry_checked;
use crate::task::caller::{Caller, block};

impl Claim {
    /// Saves how far the operation has come, durably: if this attempt is interrupted, the next
    /// one finds it. A later call replaces it.
    ///
    /// # Errors
    ///
    /// When it is longer than a body may be, the progress of claims takes too much memory already,
    /// the claim's lease ran out, the disk stays full, a commit fails, or the engine is closed.
    ///
    /// ```
    /// # use idemkv::{Begin, BeginError, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let Begin::Fresh(mut claim) = engine.default_scope().begin("key", request)? else { panic!() };
    /// claim.save_progress("card charged")?;
    /// drop(claim); // the process dies before the receipt is sent
    ///
    /// let Err(BeginError::Unresolved(lost)) = engine.default_scope().begin("key", request) else { panic!() };
    /// assert_eq!(lost.last_progress().unwrap()[..], *b"card charged");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn save_progress(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        block(self.save_progress_as(Caller::Thread, note.as_ref()))
    }

    /// [`save_progress`](Self::save_progress) for tasks. If the future is dropped, the progress
    /// may be saved or not.
    ///
    /// # Errors
    ///
    /// As for [`save_progress`](Self::save_progress).
    pub async fn save_progress_async(&mut self, note: impl AsRef<[u8]>) -> Result<(), ClaimError> {
        self.save_progress_as(Caller::Task, note.as_ref()).await
    }

    async fn save_progress_as(&mut self, caller: Caller, note: &[u8]) -> Result<(), ClaimError> {
        match &mut self.inner {
            ClaimInner::File(claim) => claim.save_progress(caller, note).await,
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => carry_checked(caller, Box::pin(claim.save_progress(note))).await,
        }
    }

    /// Starts the claim's lease again, for a worker that needs longer. Without a lease it does
    /// nothing and succeeds. It does no I/O, unless the lease has run out and the record of the
    /// claim that came after it is only on disk.
    ///
    /// # Errors
    ///
    /// When the lease has run out: the key is interrupted, or another caller has it by now. When
    /// the engine is closed or a commit failed.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let jobs = engine.set_policy("jobs", engine.policy().lease(Duration::from_secs(30)))?;
    /// let Begin::Fresh(claim) = jobs.begin("key", request)? else { panic!() };
    /// claim.renew()?;
    /// # claim.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn renew(&self) -> Result<(), ClaimError> {
        block(self.renew_as(Caller::Thread))
    }

    /// [`renew`](Self::renew) for tasks.
    ///
    /// # Errors
    ///
    /// As for [`renew`](Self::renew).
    pub async fn renew_async(&self) -> Result<(), ClaimError> {
        self.renew_as(Caller::Task).await
    }

    async fn renew_as(&self, caller: Caller) -> Result<(), ClaimError> {
        match &self.inner {
            ClaimInner::File(claim) => claim.renew(caller).await,
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => carry_checked(caller, Box::pin(claim.renew())).await,
        }
    }
}
