//! Many begins in one call.

use std::future::poll_fn;
use std::task::Poll;

use super::claim::{Begin, Claim, Completing, Given};
use super::core::Core;
use super::scope::{Scope, ScopeInner};
use super::{Engine, Handle};
use crate::Fingerprint;
use crate::caller::{Caller, block, park_on};
use crate::error::{BeginError, ClaimError, EndError};
use crate::index::BATCH_MAX;
use crate::record::{Outcome, Record};
use crate::sync::{Arc, Ordering};

/// Calls in one batch, at most.
const CALLS_MAX: usize = 16_384;

impl Scope {
    /// Asks for many keys at once, in the order of `requests`; the results are in the same order.
    ///
    /// Each result is what [`begin`](Self::begin) would have given, and one that is an error stops none of the others. Keys
    /// whose record is in memory are looked up together, 64 at a time, which overlaps what each lookup waits for: at a
    /// million keys and more, 32 together cost less than half of 32 single calls. All claims that are granted are durable
    /// with one commit. A key that comes twice is begun twice: where the first of the two is granted, the second is in flight.
    ///
    /// # Errors
    ///
    /// Each result is as for [`begin`](Self::begin). A batch of more than 16,384 requests is refused whole: each result is
    /// [`BeginError::BatchTooLong`].
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
    /// let mut done = Vec::new();
    /// for (result, (key, _)) in queue.begin_many(&batch).into_iter().zip(&batch) {
    ///     match result {
    ///         Ok(Begin::Done(record)) => assert_eq!((*key, record.body()), ("m-1", &b"shipped"[..])),
    ///         Ok(Begin::Fresh(claim)) => done.push((claim, "shipped")),
    ///         Ok(Begin::InFlight(_)) => unreachable!("nobody else is here"),
    ///         Err(error) => assert_eq!((*key, error.is_retryable()), ("", false)),
    ///     }
    /// }
    /// assert!(engine.complete_many(done).iter().all(Result::is_ok));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "claims that are dropped leave their keys interrupted"]
    pub fn begin_many<K: AsRef<[u8]>>(
        &self,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        let core = self.handle.core();
        park_on(core.begin_many(Caller::Thread, &self.handle, &self.inner, requests))
    }

    /// [`begin_many`](Self::begin_many) for tasks. A future that is dropped has claimed nothing.
    ///
    /// # Errors
    ///
    /// As for [`begin_many`](Self::begin_many).
    pub async fn begin_many_async<K: AsRef<[u8]> + Sync>(
        &self,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        self.handle.core().begin_many(Caller::Task, &self.handle, &self.inner, requests).await
    }
}

impl Engine {
    /// [`Scope::begin_many`] in the default scope.
    ///
    /// # Errors
    ///
    /// As for [`Scope::begin_many`].
    #[must_use = "claims that are dropped leave their keys interrupted"]
    pub fn begin_many<K: AsRef<[u8]>>(
        &self,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        self.default.begin_many(requests)
    }

    /// Completes many claims, of any scopes, with one commit. The results are in the order of the claims, and one that is an error
    /// stops none of the others.
    ///
    /// # Errors
    ///
    /// Each result is as for [`Claim::complete`]. A batch of more than 16,384 claims is refused whole, and
    /// each result gives its claim back.
    #[must_use = "each claim has a result of its own"]
    pub fn complete_many<B: AsRef<[u8]>>(&self, claims: Vec<(Claim, B)>) -> Vec<Result<Record, EndError>> {
        let handed = hand_over_all(Caller::Thread, claims);
        // The first that waits leads for all.
        handed.into_iter().map(|handed| block(handed.acknowledged(Caller::Thread))).collect()
    }

    /// [`complete_many`](Self::complete_many) for tasks. The results are handed over before this returns, where their bodies are within
    /// [`Options::reserve_bytes`](crate::Options::reserve_bytes).
    ///
    /// # Errors
    ///
    /// As for [`complete_many`](Self::complete_many).
    pub fn complete_many_async<B: AsRef<[u8]>>(
        &self,
        claims: Vec<(Claim, B)>,
    ) -> impl Future<Output = Vec<Result<Record, EndError>>> + Send + use<B> {
        let handed = hand_over_all(Caller::Member, claims);
        handed.iter().for_each(Completing::call_leader);
        async move {
            let mut results = Vec::with_capacity(handed.len());
            for handed in handed {
                results.push(handed.acknowledged(Caller::Task).await);
            }
            results
        }
    }
}

fn hand_over_all<B: AsRef<[u8]>>(caller: Caller, claims: Vec<(Claim, B)>) -> Vec<Completing> {
    let (len, max) = (claims.len(), CALLS_MAX);
    let refused =
        |claim| Completing::Refused(EndError::new(ClaimError::BatchTooLong { len, max }, Some(claim)));
    claims
        .into_iter()
        .map(|(claim, body)| {
            if len <= max {
                claim.start_completing(caller, Given::new(Outcome::Success, body.as_ref()))
            } else {
                refused(claim)
            }
        })
        .collect()
}

/// What a batch of begins has come to so far. Claims in it that nobody came for are given back when it is dropped: its caller never saw them.
struct Results(Vec<Option<Result<Begin, BeginError>>>);

impl Results {
    fn take(mut self) -> Vec<Result<Begin, BeginError>> {
        std::mem::take(&mut self.0).into_iter().flatten().collect()
    }
}

impl Drop for Results {
    fn drop(&mut self) {
        for result in self.0.drain(..).flatten() {
            if let Ok(Begin::Fresh(claim)) = result {
                claim.give_up();
            }
        }
    }
}

impl Core {
    /// Begins many keys; the grants among them are one commit.
    async fn begin_many<K: AsRef<[u8]>>(
        &self,
        caller: Caller,
        handle: &Arc<Handle>,
        scope: &ScopeInner,
        requests: &[(K, Fingerprint)],
    ) -> Vec<Result<Begin, BeginError>> {
        let (len, max) = (requests.len(), CALLS_MAX);
        if len > max {
            return requests.iter().map(|_| Err(BeginError::BatchTooLong { len, max })).collect();
        }
        let mut results = Results(Vec::with_capacity(len));
        for chunk in requests.chunks(BATCH_MAX) {
            let replays = self.replays(scope, chunk).into_iter().take(chunk.len());
            results.0.extend(replays.map(|replay| replay.map(|record| Ok(Begin::Done(record)))));
        }
        let mut calls = Vec::new();
        for (result, (key, fingerprint)) in results.0.iter_mut().zip(requests) {
            if let Some(Ok(Begin::Done(record))) = result {
                self.options.hooks.call(|observer| observer.replayed(record));
            } else {
                let call = self.begin_one(Caller::Member, handle, scope, key.as_ref(), fingerprint);
                calls.push((result, Box::pin(call)));
            }
        }
        poll_fn(|context| {
            calls.retain_mut(|(result, call)| match call.as_mut().poll(context) {
                Poll::Pending => true,
                Poll::Ready(given) => {
                    **result = Some(given);
                    false
                }
            });
            if calls.is_empty() {
                return Poll::Ready(());
            }
            // All that can be queued is.
            match caller {
                Caller::Task | Caller::Member => self.commit.call(),
                Caller::Thread => self.help_tasks(),
            }
            Poll::Pending
        })
        .await;
        drop(calls);
        results.take()
    }

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
        let replays = self.index.records(&digests, |position, record| {
            requests.get(position).is_some_and(|(_, fingerprint)| record.is_replayed(fingerprint, now))
        });
        let mut replayed = 0;
        for record in replays.iter().flatten() {
            record.touch();
            replayed += 1;
        }
        if let Some(first) = replays.iter().flatten().next() {
            self.index.count_replays(first.digest(), replayed);
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
