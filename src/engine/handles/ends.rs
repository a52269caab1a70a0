//! The ends of a claim that its holder calls: complete, fail, release.

use super::claim::{Claim, ClaimInner};
use super::ending::Ending;
use crate::engine::common::completion::Completion;
use crate::engine::common::end_request::EndRequest;
use crate::engine::common::untold::CallingProcess;
use crate::error::EndError;
use crate::record::{Outcome, Record};
use crate::task::caller::Caller;
#[cfg(feature = "postgres")]
use crate::task::caller::block;

impl Claim {
    /// Stores the reply of an operation that succeeded. Durable when it returns, and every retry
    /// gets it.
    ///
    /// # Errors
    ///
    /// When the body is too long, the queue or the disk stays full, a commit fails, or the engine
    /// is closed. If nothing was written, the error returns the claim: see
    /// [`EndError::into_claim`].
    pub fn complete(self, body: impl AsRef<[u8]>) -> Result<Record, EndError> {
        self.complete_with(body, Completion::new())
    }

    /// [`complete`](Self::complete), with a choice of what is kept and for how long.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete), and when a time of `completion` is out of range; the
    /// error then returns the claim.
    ///
    /// ```
    /// # use idemkv::{Begin, Completion, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # let Begin::Fresh(claim) = engine.default_scope().begin("key", request)? else { panic!() };
    /// claim.complete_with("a video of three gigabytes", Completion::new().discard_body())?;
    /// let Begin::Done(record) = engine.default_scope().begin("key", request)? else { panic!() };
    /// assert!(!record.is_body_kept()); // it ran; its result is kept elsewhere
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn complete_with(self, body: impl AsRef<[u8]>, completion: Completion) -> Result<Record, EndError> {
        self.end(EndRequest::store(Outcome::Success, body.as_ref(), completion)).map(stored)
    }

    /// Stores the reply of an operation that failed for good. It is replayed like a success.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Outcome};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # let Begin::Fresh(claim) = engine.default_scope().begin("key", request)? else { panic!() };
    /// claim.fail("card declined")?;
    /// let Begin::Done(record) = engine.default_scope().begin("key", request)? else { panic!() };
    /// assert_eq!((record.outcome(), record.body()), (Outcome::Failure, &b"card declined"[..]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn fail(self, body: impl AsRef<[u8]>) -> Result<Record, EndError> {
        self.fail_with(body, Completion::new())
    }

    /// [`fail`](Self::fail), with a choice of what is kept and for how long.
    ///
    /// # Errors
    ///
    /// As for [`complete_with`](Self::complete_with).
    pub fn fail_with(self, body: impl AsRef<[u8]>, completion: Completion) -> Result<Record, EndError> {
        self.end(EndRequest::store(Outcome::Failure, body.as_ref(), completion)).map(stored)
    }

    /// Reports that this attempt certainly did nothing. The key is then vacant again, durably when
    /// this returns. But if an earlier attempt was [interrupted](Self::interrupted), the key stays
    /// interrupted, because this attempt can't speak for the one before. (If you know that no
    /// attempt did anything, release the claim and then forget the key.)
    ///
    /// # Errors
    ///
    /// When the queue stays full, a commit fails, or the engine is closed; see
    /// [`EndError::into_claim`].
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint, Recovery};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let reports = engine.set_policy("reports", engine.policy().recovery(Recovery::Rerun))?;
    /// # let Begin::Fresh(claim) = reports.begin("key", request)? else { panic!() };
    /// claim.release()?; // the connection to the printer was refused
    /// let Begin::Fresh(claim) = reports.begin("key", request)? else { panic!() };
    /// assert!(claim.interrupted().is_none());
    ///
    /// drop(claim); // lost: nobody knows whether the printer was reached
    /// let Begin::Fresh(second) = reports.begin("key", request)? else { panic!() };
    /// second.release()?; // it did nothing, but what of the first?
    /// let Begin::Fresh(third) = reports.begin("key", request)? else { panic!() };
    /// assert_eq!(third.interrupted().unwrap().attempt(), 1);
    /// # third.release()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn release(self) -> Result<(), EndError> {
        self.end(EndRequest::Release).map(drop)
    }

    /// Gives the claim back unused: the key is as it was before the grant. It is vacant, or
    /// interrupted by the same attempt as before, since the same time, and remembered for as long.
    /// Progress that the claim saved stays with an interrupted key.
    ///
    /// It is for a claim of [`Scope::resolve_if`](crate::Scope::resolve_if) of which nothing came,
    /// because the result was too long, for example. A drop would leave the key interrupted by
    /// this claim, and count it as an attempt; a release would speak for the attempts before.
    /// (A claim that was resumed from a token is released.)
    ///
    /// # Errors
    ///
    /// As for [`release`](Self::release).
    ///
    /// ```
    /// # use idemkv::{Engine, Fingerprint, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::options().max_body_bytes(10).open(dir.path().join("x.idem"))?;
    /// let charges = engine.scope("charges");
    /// drop(charges.begin("key", Fingerprint::of("request"))?);
    /// let Status::Interrupted(seen) = charges.get("key")? else { panic!() };
    /// let Err(too_long) = charges.resolve_if("key", seen.fence())?.complete("charged 1000") else { panic!() };
    /// too_long.into_claim().unwrap().put_back()?;
    /// let Status::Interrupted(now) = charges.get("key")? else { panic!() };
    /// assert_eq!((now.attempt(), now.fence()), (1, seen.fence()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn put_back(self) -> Result<(), EndError> {
        self.end(EndRequest::PutBack).map(drop)
    }

    /// [`complete`](Self::complete) for tasks.
    ///
    /// If the body is within [`Options::reserve_bytes`](crate::Options::reserve_bytes), the
    /// result is queued before this returns, and becomes durable whether or not the future is
    /// polled. A longer body may have to wait for log space. If you drop the future meanwhile,
    /// the claim is dropped too.
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # futures_executor::block_on(async {
    /// let Begin::Fresh(claim) = engine.default_scope().begin_async("key", request).await? else { panic!() };
    /// claim.complete_async("reply").await?;
    /// let Begin::Done(record) = engine.default_scope().begin_async("key", request).await? else { panic!() };
    /// assert_eq!(record.body(), b"reply");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn complete_async(self, body: impl AsRef<[u8]>) -> Ending<Record> {
        self.complete_with_async(body, Completion::new())
    }

    /// [`fail`](Self::fail) for tasks; see [`complete_async`](Self::complete_async).
    ///
    /// # Errors
    ///
    /// As for [`complete`](Self::complete).
    pub fn fail_async(self, body: impl AsRef<[u8]>) -> Ending<Record> {
        self.fail_with_async(body, Completion::new())
    }

    /// [`complete_with`](Self::complete_with) for tasks; see
    /// [`complete_async`](Self::complete_async).
    ///
    /// # Errors
    ///
    /// As for [`complete_with`](Self::complete_with).
    pub fn complete_with_async(self, body: impl AsRef<[u8]>, completion: Completion) -> Ending<Record> {
        self.start_end(EndRequest::store(Outcome::Success, body.as_ref(), completion), stored)
    }

    /// [`fail_with`](Self::fail_with) for tasks; see [`complete_async`](Self::complete_async).
    ///
    /// # Errors
    ///
    /// As for [`complete_with`](Self::complete_with).
    pub fn fail_with_async(self, body: impl AsRef<[u8]>, completion: Completion) -> Ending<Record> {
        self.start_end(EndRequest::store(Outcome::Failure, body.as_ref(), completion), stored)
    }

    /// [`release`](Self::release) for tasks. The release is queued before this returns, and
    /// becomes durable whether or not the future is polled.
    ///
    /// # Errors
    ///
    /// As for [`release`](Self::release).
    pub fn release_async(self) -> Ending<()> {
        self.start_end(EndRequest::Release, drop)
    }

    /// [`put_back`](Self::put_back) for tasks. It is queued before this returns, and becomes
    /// durable whether or not the future is polled.
    ///
    /// # Errors
    ///
    /// As for [`put_back`](Self::put_back).
    pub fn put_back_async(self) -> Ending<()> {
        self.start_end(EndRequest::PutBack, drop)
    }

    fn end(self, request: EndRequest<'_>) -> Result<Option<Record>, EndError> {
        let asked = CallingProcess::here();
        asked.tell_end(match self.inner {
            ClaimInner::File(claim) => claim.start_end(Caller::Thread, request).wait(),
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => block(claim.end_for(Caller::Thread, request)),
        })
    }

    fn start_end<T>(self, request: EndRequest<'_>, result: fn(Option<Record>) -> T) -> Ending<T> {
        let asked = CallingProcess::here();
        match self.inner {
            ClaimInner::File(claim) => Ending::of(asked, claim.start_end(Caller::Task, request), result),
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => Ending::of_shared(asked, claim.start_end(request), result),
        }
    }

    /// Ends the claim for a caller of either kind. The record is `None` after a release.
    #[cfg(feature = "serde")]
    pub(super) async fn end_as(
        self,
        caller: Caller,
        request: EndRequest<'_>,
    ) -> Result<Option<Record>, EndError> {
        let asked = CallingProcess::here();
        asked.tell_end(match self.inner {
            ClaimInner::File(claim) => claim.start_end(caller, request).acknowledged(caller).await,
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => Box::pin(claim.end_for(caller, request)).await,
        })
    }
}

/// The record of an end with a result.
pub(super) fn stored(record: Option<Record>) -> Record {
    record.unwrap_or_else(|| unreachable!("a completion gives a record"))
}
