//! Many ends of claims in one call.

#[cfg(feature = "postgres")]
use std::pin::Pin;
use std::time::Duration;

use super::claim::{Claim, ClaimInner};
use super::ends::stored;
use super::engine::Engine;
use crate::engine::common::completion::Completion;
use crate::engine::common::end_request::EndRequest;
use crate::engine::common::request::CALLS_MAX;
use crate::engine::common::untold::CallingProcess;
#[cfg(feature = "postgres")]
use crate::engine::common::untold::Untold;
use crate::engine::file::pending_end::PendingEnd;
use crate::error::{ClaimError, EndError};
use crate::foreign::call_through;
use crate::record::{Outcome, Record};
#[cfg(feature = "postgres")]
use crate::shared::refusal::carry;
use crate::task::caller::{Caller, park_on};

/// How a claim ends, for [`Engine::end_many`].
#[derive(Clone, Copy, PartialEq, Eq)]
#[must_use = "it says something to `end_many` only"]
pub struct End<B> {
    way: Way<B>,
    completion: Completion,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Way<B> {
    Stored(Outcome, B),
    Released,
}

impl<B> End<B> {
    /// As [`Claim::complete`] does.
    pub fn complete(body: B) -> Self {
        Self { way: Way::Stored(Outcome::Success, body), completion: Completion::new() }
    }

    /// As [`Claim::fail`] does.
    pub fn fail(body: B) -> Self {
        Self { way: Way::Stored(Outcome::Failure, body), completion: Completion::new() }
    }

    /// As [`Claim::release`] does.
    pub fn release() -> Self {
        Self { way: Way::Released, completion: Completion::new() }
    }

    /// Sets what is kept of the result, and for how long. A release keeps nothing.
    pub fn with(mut self, completion: Completion) -> Self {
        self.completion = completion;
        self
    }
}

impl<B: AsRef<[u8]>> End<B> {
    fn request(&self) -> EndRequest<'_> {
        match &self.way {
            Way::Stored(outcome, body) => {
                EndRequest::store(*outcome, call_through(|| body.as_ref()), self.completion)
            }
            Way::Released => EndRequest::Release,
        }
    }
}

/// Without the body.
impl<B> std::fmt::Debug for End<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let way = match self.way {
            Way::Stored(Outcome::Success, _) => "Complete",
            Way::Stored(Outcome::Failure, _) => "Fail",
            Way::Released => "Release",
        };
        f.debug_tuple("End").field(&way).finish()
    }
}

impl Engine {
    /// Ends many claims, of any scopes, each in its own way, with one commit.
    ///
    /// The results are in the order of the claims, and an error does not affect the others. A
    /// result is the record, or `None` for a released claim.
    ///
    /// Bodies over [`Options::reserve_bytes`](crate::Options::reserve_bytes) may need more log
    /// space. They wait for it after all others are durable, and together for at most
    /// [`Options::queue_timeout`](crate::Options::queue_timeout). If only the end of other claims
    /// could free space, they are refused at once, and the error returns the claim.
    ///
    /// # Errors
    ///
    /// Each result is as for [`Claim::complete_with`] or [`Claim::release`]. A batch of more than
    /// 16,384 claims is refused as a whole, and each error returns its claim.
    ///
    /// A consumer of messages, whose batch may have a message twice:
    ///
    /// ```
    /// # use idemkv::{Begin, BeginError, Completion, End, Engine, Fingerprint};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # enum Shipped { Yes(String), Never(String), NotReached }
    /// # fn ship(body: &str) -> Shipped {
    /// #     match body { "7" => Shipped::Yes("box 7".into()), "8" => Shipped::Never("sold out".into()), _ => Shipped::NotReached }
    /// # }
    /// # fn acknowledge(_id: &str) {}
    /// # fn try_again_later(_id: &str) {}
    /// let queue = engine.scope("messages");
    /// let messages = [("m-1", "7"), ("m-2", "8"), ("m-3", "9"), ("m-1", "7")];
    /// let requests = messages.map(|(id, body)| (id, Fingerprint::of(body)));
    /// let (mut ids, mut ends) = (Vec::new(), Vec::new());
    /// for (begun, (id, body)) in queue.begin_many(&requests).into_iter().zip(messages) {
    ///     match begun {
    ///         Ok(Begin::Fresh(claim)) => {
    ///             let end = match ship(body) {
    ///                 Shipped::Yes(label) => End::complete(label),
    ///                 Shipped::Never(why) => End::fail(why).with(Completion::new().ttl(Duration::from_secs(60))),
    ///                 Shipped::NotReached => End::release(),
    ///             };
    ///             ids.push(id);
    ///             ends.push((claim, end));
    ///         }
    ///         Ok(Begin::Done(_)) => acknowledge(id),
    ///         Ok(Begin::InFlight(_)) => try_again_later(id), // another consumer has it
    ///         Err(BeginError::DuplicateInBatch { .. }) => {} // the first of the two answers for both
    ///         // No `?` here: it would drop the claims of what was shipped.
    ///         Err(error) => {
    ///             eprintln!("{id}: {error}");
    ///             try_again_later(id);
    ///         }
    ///     }
    /// }
    /// for (ended, id) in engine.end_many(ends).into_iter().zip(ids) {
    ///     match ended {
    ///         Ok(Some(_record)) => acknowledge(id),
    ///         Ok(None) => try_again_later(id), // released
    ///         // It has run, and its key is interrupted.
    ///         Err(error) => {
    ///             eprintln!("{id}: {error}");
    ///             try_again_later(id);
    ///         }
    ///     }
    /// }
    /// # assert!(matches!(queue.begin("m-1", requests[0].1)?, Begin::Done(_)));
    /// # assert!(matches!(queue.begin("m-3", requests[2].1)?, Begin::Fresh(_)));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use = "each claim has a result of its own"]
    pub fn end_many<B: AsRef<[u8]>>(
        &self,
        claims: Vec<(Claim, End<B>)>,
    ) -> Vec<Result<Option<Record>, EndError>> {
        self.end_all(claims.into_iter())
    }

    /// [`end_many`](Self::end_many) for tasks. Ends with bodies within
    /// [`Options::reserve_bytes`](crate::Options::reserve_bytes) are queued before this returns,
    /// and become durable whether or not the future is polled.
    ///
    /// # Errors
    ///
    /// As for [`end_many`](Self::end_many).
    pub fn end_many_async<B: AsRef<[u8]>>(
        &self,
        claims: Vec<(Claim, End<B>)>,
    ) -> impl Future<Output = Vec<Result<Option<Record>, EndError>>> + Send + use<B> {
        self.end_all_async(claims.into_iter())
    }

    /// Completes all claims, as [`end_many`](Self::end_many) does.
    ///
    /// # Errors
    ///
    /// As for [`end_many`](Self::end_many).
    #[must_use = "each claim has a result of its own"]
    pub fn complete_many<B: AsRef<[u8]>>(&self, claims: Vec<(Claim, B)>) -> Vec<Result<Record, EndError>> {
        self.end_all(all_complete(claims)).into_iter().map(|ended| ended.map(stored)).collect()
    }

    /// [`complete_many`](Self::complete_many) for tasks; see
    /// [`end_many_async`](Self::end_many_async).
    ///
    /// # Errors
    ///
    /// As for [`end_many`](Self::end_many).
    pub fn complete_many_async<B: AsRef<[u8]>>(
        &self,
        claims: Vec<(Claim, B)>,
    ) -> impl Future<Output = Vec<Result<Record, EndError>>> + Send + use<B> {
        let ended = self.end_all_async(all_complete(claims));
        async move { ended.await.into_iter().map(|ended| ended.map(stored)).collect() }
    }

    fn end_all<B: AsRef<[u8]>>(
        &self,
        claims: impl ExactSizeIterator<Item = (Claim, End<B>)>,
    ) -> Vec<Result<Option<Record>, EndError>> {
        let asked = CallingProcess::here();
        let ends = start_all(Caller::Thread, claims);
        park_on(ends.acknowledged(Caller::Thread, asked, self.handle.queue_timeout()))
    }

    fn end_all_async<B: AsRef<[u8]>, I: ExactSizeIterator<Item = (Claim, End<B>)>>(
        &self,
        claims: I,
    ) -> impl Future<Output = Vec<Result<Option<Record>, EndError>>> + Send + use<B, I> {
        let asked = CallingProcess::here();
        let ends = start_all(Caller::Task, claims);
        ends.of_files.iter().for_each(PendingEnd::call_leader);
        ends.acknowledged(Caller::Task, asked, self.handle.queue_timeout())
    }
}

fn all_complete<B>(claims: Vec<(Claim, B)>) -> impl ExactSizeIterator<Item = (Claim, End<B>)> {
    claims.into_iter().map(|(claim, body)| (claim, End::complete(body)))
}

#[cfg(feature = "postgres")]
type SharedEnd = Pin<Box<dyn Future<Output = Result<Untold<Option<Record>>, EndError>> + Send>>;

/// Ends of claims that are on their way.
#[derive(Default)]
struct Started {
    of_files: Vec<PendingEnd>,
    /// With their places among all.
    #[cfg(feature = "postgres")]
    of_shared: Vec<(usize, SharedEnd)>,
}

impl Started {
    async fn acknowledged(
        mut self,
        caller: Caller,
        asked: CallingProcess,
        queue_timeout: Duration,
    ) -> Vec<Result<Option<Record>, EndError>> {
        let of_files = std::mem::take(&mut self.of_files);
        let ended = PendingEnd::all_acknowledged(caller, of_files, queue_timeout).await;
        #[cfg(feature = "postgres")]
        let ended = {
            let mut ended = ended;
            for (at, end) in std::mem::take(&mut self.of_shared) {
                ended.insert(at, carry(caller, end).await);
            }
            ended
        };
        // Once all are over: a later one may have run the code that forked.
        ended.into_iter().map(|ended| asked.tell_end(ended)).collect()
    }
}

/// If a body panics, no caller waits for the ends before it, and none would lead for them.
impl Drop for Started {
    fn drop(&mut self) {
        self.of_files.iter().for_each(PendingEnd::call_leader);
    }
}

/// Queues all ends that need not wait for log space. No thread leads yet, so they share one
/// commit.
fn start_all<B: AsRef<[u8]>>(
    caller: Caller,
    claims: impl ExactSizeIterator<Item = (Claim, End<B>)>,
) -> Started {
    let (len, max) = (claims.len(), CALLS_MAX);
    let mut started = Started::default();
    started.of_files.reserve(len);
    for (claim, end) in claims {
        if len > max {
            let reason = ClaimError::BatchTooLong { len, max };
            started.of_files.push(PendingEnd::Refused(EndError::new(reason, Some(claim))));
            continue;
        }
        match claim.inner {
            // The claim may be another engine's.
            ClaimInner::File(claim) => {
                let member = claim.core().member(caller);
                started.of_files.push(claim.start_end(member, end.request()));
            }
            #[cfg(feature = "postgres")]
            ClaimInner::Shared(claim) => {
                let at = started.of_files.len() + started.of_shared.len();
                started.of_shared.push((at, Box::pin(claim.start_end_for(caller, end.request()))));
            }
        }
        // A body is foreign code, and the batch has claims, and ends that no thread writes yet.
        call_through(|| drop(end));
    }
    started
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::Status;
    use crate::commit::Duty;
    use crate::engine::calls::lookup::tests::{claim, open};

    /// Panics as it is looked at, or as it is dropped.
    enum Body {
        Fine,
        PanicsLookedAt,
        PanicsDropped,
    }

    impl AsRef<[u8]> for Body {
        fn as_ref(&self) -> &[u8] {
            assert!(!matches!(self, Self::PanicsLookedAt), "as it was told to");
            b"reply"
        }
    }

    impl Drop for Body {
        fn drop(&mut self) {
            assert!(!matches!(self, Self::PanicsDropped), "as it was told to");
        }
    }

    #[test]
    fn the_ends_before_a_body_that_panics_find_a_thread_that_writes_them() {
        for last in [|| Body::PanicsLookedAt, || Body::PanicsDropped] {
            for is_task in [false, true] {
                let engine = open();
                let claims = vec![(claim(&engine, "first"), Body::Fine), (claim(&engine, "last"), last())];
                let ended = catch_unwind(AssertUnwindSafe(|| {
                    if is_task {
                        drop(engine.complete_many_async(claims));
                    } else {
                        drop(engine.complete_many(claims));
                    }
                }));
                assert!(ended.is_err(), "the panic is the caller's own");
                // As the engine's thread does, which leads only if it was called.
                engine.handle.core().commit.lead_if_called(Duty::Sole);
                assert!(matches!(engine.default_scope().get("first"), Ok(Status::Done(_))));
            }
        }
    }
}
