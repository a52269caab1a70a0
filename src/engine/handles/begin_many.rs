//! Many begins in one call.

use super::claim::Begin;
use super::handle::Handle;
use super::scope::Scope;
use crate::Fingerprint;
use crate::engine::common::request::BeginRequest;
use crate::error::BeginError;
use crate::task::caller::{Caller, park_on};

impl Scope {
    /// Asks for many keys at once, in the order of `requests`; the results are in the same order.
    ///
    /// Each result is the one that [`begin`](Self::begin) would give, and an error does not
    /// affect the others. Keys are looked up 64 at a time, so that their cache misses overlap:
    /// from a million keys on, 32 together cost less than half of 32 single calls. One commit
    /// makes all granted claims durable. If two requests have the same key and the first is
    /// granted, the second gets [`BeginError::DuplicateInBatch`], which names the first: the
    /// result of the first answers both.
    ///
    /// A batch waits for the disk, for a place in the queue, and for log space from a checkpoint
    /// or a longer log. It does not wait for claims to end, because it may hold them itself: if
    /// only their end could free log space, a key gets
    /// [`Busy::QueueFull`](crate::Busy::QueueFull) at once, and the others get their claims.
    ///
    /// # Errors
    ///
    /// Each result is as for [`begin`](Self::begin). A batch of more than 16,384 requests is
    /// refused as a whole: each result is [`BeginError::BatchTooLong`].
    ///
    /// ```
    /// # use idemkv::{Begin, BeginError, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let queue = engine.scope("messages");
    /// let request = |body: &str| Fingerprint::of(body);
    /// # let Begin::Fresh(claim) = queue.begin("m-1", request("ship 7"))? else { panic!() };
    /// claim.complete("shipped")?;
    ///
    /// // A consumer of messages; the broker delivered "m-2" twice.
    /// let batch = [("m-1", "ship 7"), ("m-2", "ship 8"), ("m-2", "ship 8"), ("", "?")];
    /// let requests = batch.map(|(key, body)| (key, request(body)));
    /// // What is in none of these is not acknowledged: the broker delivers it again.
    /// let (mut run, mut acknowledge, mut dead_letters) = (Vec::new(), Vec::new(), Vec::new());
    /// for (at, answer) in queue.begin_many(&requests).into_iter().enumerate() {
    ///     match answer {
    ///         Ok(Begin::Fresh(claim)) => run.push((at, claim)),
    ///         Ok(Begin::Done(_)) => acknowledge.push(at), // it ran before
    ///         Ok(Begin::InFlight(_)) => {}                // another consumer has it
    ///         Err(BeginError::DuplicateInBatch { first }) => assert_eq!((first, at), (1, 2)), // delivered again, it is done
    ///         // No delivery can change these, so a person looks at them.
    ///         Err(BeginError::Key(_) | BeginError::KeyReused | BeginError::Unresolved(_)) => dead_letters.push(at),
    ///         Err(_) => {}                                // the engine is busy, or has failed
    ///     }
    /// }
    /// // The operations run here.
    /// let (ran, claims): (Vec<_>, Vec<_>) = run.into_iter().map(|(at, claim)| (at, (claim, "shipped"))).unzip();
    /// for (at, stored) in ran.into_iter().zip(engine.complete_many(claims)) {
    ///     match stored {
    ///         Ok(_record) => acknowledge.push(at),
    ///         // No `?` here: the others are stored. This one has run, and its key is interrupted.
    ///         Err(error) => eprintln!("{}: {error}", requests[at].0),
    ///     }
    /// }
    /// assert_eq!((acknowledge, dead_letters), (vec![0, 1], vec![3]));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "claims that are dropped leave their keys interrupted"]
    pub fn begin_many<K: AsRef<[u8]>>(
        &self,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        park_on(self.begin_all(Caller::Thread, requests))
    }

    /// [`begin_many`](Self::begin_many) for tasks. A dropped future claims nothing.
    ///
    /// # Errors
    ///
    /// As for [`begin_many`](Self::begin_many).
    pub async fn begin_many_async<K: AsRef<[u8]> + Sync>(
        &self,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        self.begin_all(Caller::Task, requests).await
    }

    async fn begin_all<K: AsRef<[u8]>>(
        &self,
        caller: Caller,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        let requests = BeginRequest::all(requests);
        match &self.handle {
            Handle::File(file) => file.core().begin_many(caller, file, &self.inner, &requests).await,
            #[cfg(feature = "postgres")]
            Handle::Shared(shared) => Box::pin(shared.begin_many(caller, &self.inner, &requests)).await,
        }
    }
}
