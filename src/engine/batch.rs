//! Many begins in one call.

use super::Engine;
use super::claim::Begin;
use super::core::Core;
use super::scope::{Scope, ScopeInner};
use crate::Fingerprint;
use crate::error::BeginError;
use crate::index::BATCH_MAX;
use crate::record::Record;
use crate::state::{Decision, Event, State, decide};
use crate::sync::Ordering;

impl Scope {
    /// Asks for many keys at once, in the order of `requests`; the results are in the same order.
    ///
    /// Each result is what [`begin`](Self::begin) would have given, and one that is an error stops none of the others. Keys
    /// whose record is in memory are looked up together, 64 at a time, which overlaps what each lookup waits for: at a
    /// million keys and more, 32 together cost less than half of 32 single calls. All other keys are begun one after
    /// the other. A key that comes twice is begun twice: where the first of the two is granted, the second is in flight.
    ///
    /// # Errors
    ///
    /// None of its own; each result is as for [`begin`](Self::begin).
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let queue = engine.scope("messages");
    /// let request = |body: &str| Fingerprint::of(body);
    /// # let Begin::Fresh(claim) = queue.begin("m-1", request("ship 7"))? else { panic!() };
    /// claim.complete("shipped")?;
    ///
    /// let batch = [("m-1", request("ship 7")), ("m-2", request("ship 8")), ("", request("?"))];
    /// for (result, (key, _)) in queue.begin_many(&batch).into_iter().zip(&batch) {
    ///     match result {
    ///         Ok(Begin::Done(record)) => assert_eq!((*key, record.body()), ("m-1", &b"shipped"[..])),
    ///         Ok(Begin::Fresh(claim)) => drop(claim.complete("shipped")?),
    ///         Ok(Begin::InFlight(_)) => unreachable!("nobody else is here"),
    ///         Err(error) => assert_eq!((*key, error.is_retryable()), ("", false)),
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "claims that are dropped leave their keys interrupted"]
    pub fn begin_many<K: AsRef<[u8]>>(
        &self,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        let core = self.handle.core();
        let mut results = Vec::with_capacity(requests.len());
        for chunk in requests.chunks(BATCH_MAX) {
            let replays = core.replays(&self.inner, chunk);
            for ((key, fingerprint), replay) in chunk.iter().zip(replays) {
                results.push(match replay {
                    Some(record) => Ok(Begin::Done(record)),
                    None => core.begin(&self.handle, &self.inner, key.as_ref(), fingerprint),
                });
            }
        }
        results
    }
}

impl Engine {
    /// [`Scope::begin_many`] in the default scope.
    #[must_use = "claims that are dropped leave their keys interrupted"]
    pub fn begin_many<K: AsRef<[u8]>>(
        &self,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        self.default.begin_many(requests)
    }
}

impl Core {
    /// The records in memory that answer requests, at most [`BATCH_MAX`] of them; nothing for all that needs more than that.
    fn replays<K: AsRef<[u8]>>(
        &self,
        scope: &ScopeInner,
        requests: &[(K, Fingerprint)],
    ) -> [Option<Record>; BATCH_MAX] {
        if self.closed.load(Ordering::Relaxed) {
            return [const { None }; BATCH_MAX];
        }
        let mut digests = [None; BATCH_MAX];
        for (digest, (key, _)) in digests.iter_mut().zip(requests) {
            *digest = scope.digest(key.as_ref()).ok();
        }
        let now = self.clock.now();
        let mut replayed = 0;
        let replays = self.index.records(&digests, |position, record| {
            let Some((_, fingerprint)) = requests.get(position) else { return false };
            let state = State::Done(record.facts(), record.expires());
            let replays = decide(state, Event::Begin { fingerprint, now }) == Decision::Replay;
            if replays {
                record.touch();
                replayed += 1;
            }
            replays
        });
        if replayed > 0
            && let Some(digest) = digests.iter().flatten().next()
        {
            self.index.count_replays(*digest, replayed);
        }
        replays
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Fingerprint {
        Fingerprint::of("request")
    }

    #[test]
    fn a_batch_notes_that_its_records_were_wanted_as_single_begins_do() {
        let scratch = tempfile::tempdir().unwrap();
        let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
        let complete = |key: &str| match engine.begin(key, request()).unwrap() {
            Begin::Fresh(claim) => claim.complete("reply").unwrap(),
            other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("{key} was {other:?}"),
        };
        let (wanted, reused) = (complete("wanted"), complete("reused"));
        assert!(wanted.take_touch() && reused.take_touch());
        let results = engine.begin_many(&[("wanted", request()), ("reused", Fingerprint::of("another"))]);
        assert!(matches!(results.as_slice(), [Ok(Begin::Done(_)), Err(BeginError::KeyReused)]));
        assert!(wanted.take_touch() && !reused.take_touch());
        assert_eq!(engine.stats().replayed, 1);
    }
}
