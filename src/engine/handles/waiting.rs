//! `begin_or_wait`: begins, or waits for the caller that has the claim.

use std::time::Duration;

use super::claim::Begin;
use super::scope::Scope;
use crate::Fingerprint;
use crate::attempt::waited::Waited;
use crate::clock::Deadline;
use crate::error::BeginError;
use crate::task::caller::{Caller, block};

impl Scope {
    /// [`begin`](Self::begin), but if another caller has the claim, this waits for at most
    /// `timeout` for the claim's end. It then returns the record, or begins again after a release
    /// or an interruption. [`Begin::InFlight`] means that the time is up.
    ///
    /// Each begin has a `queue_timeout` of its own for a full queue or log; `timeout` does not
    /// shorten it.
    ///
    /// # Errors
    ///
    /// As for [`begin`](Self::begin), and when
    /// [`Options::max_waiters`](crate::Options::max_waiters) calls already wait.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let charges = engine.scope("charges");
    /// let request = Fingerprint::of("request");
    /// let Begin::Fresh(claim) = charges.begin("key", request)? else { panic!() };
    /// std::thread::scope(|threads| {
    ///     let twin = threads.spawn(|| charges.begin_or_wait("key", request, Duration::from_secs(60)));
    ///     claim.complete("reply")?;
    ///     let Ok(Ok(Begin::Done(record))) = twin.join() else { panic!() };
    ///     assert_eq!(record.body(), b"reply");
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn begin_or_wait(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        timeout: Duration,
    ) -> Result<Begin, BeginError> {
        block(self.begin_until(Caller::Thread, Deadline::after(timeout), key.as_ref(), fingerprint))
    }

    /// [`begin_or_wait`](Self::begin_or_wait) for tasks. A dropped future claims nothing.
    ///
    /// # Errors
    ///
    /// As for [`begin_or_wait`](Self::begin_or_wait).
    pub async fn begin_or_wait_async(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        timeout: Duration,
    ) -> Result<Begin, BeginError> {
        self.begin_until(Caller::Task, Deadline::after(timeout), key.as_ref(), fingerprint).await
    }

    pub(super) async fn begin_until(
        &self,
        caller: Caller,
        deadline: Deadline,
        key: &[u8],
        fingerprint: Fingerprint,
    ) -> Result<Begin, BeginError> {
        loop {
            // Asked before the begin, which is then the last one.
            let is_last = deadline.has_passed();
            let pending = match self.begin_as(caller, key, &fingerprint).await? {
                Begin::InFlight(pending) => pending,
                answer @ (Begin::Fresh(_) | Begin::Done(_)) => return Ok(answer),
            };
            match pending.wait_until(caller, deadline).await? {
                Waited::Done(record) => return Ok(Begin::Done(record)),
                Waited::TimedOut => return Ok(Begin::InFlight(pending)),
                Waited::Vacant | Waited::Interrupted if is_last => return Ok(Begin::InFlight(pending)),
                Waited::Vacant | Waited::Interrupted => {}
            }
        }
    }
}
