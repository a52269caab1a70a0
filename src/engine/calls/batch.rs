//! Many begins in one call.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::hash::BuildHasherDefault;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use super::begin::BeginProgress;
use super::pending_grant::PendingGrant;
use crate::clock::{QueueTimeout, Stopwatch};
use crate::engine::common::namespace::{KeyRef, ScopeInner};
use crate::engine::common::request::{BeginRequest, CALLS_MAX};
use crate::engine::core::Core;
use crate::engine::file::handle::FileHandle;
use crate::engine::handles::claim::Begin;
use crate::error::{BeginError, Busy};
use crate::index::BATCH_MAX;
use crate::key::{Digest, DigestMap};
use crate::record::Record;
use crate::sync::Arc;
use crate::task::caller::{Caller, poll_once};
use crate::task::members::Members;

impl Core {
    /// Begins many keys; the grants among them are one commit.
    pub(in crate::engine) async fn begin_many(
        &self,
        caller: Caller,
        handle: &Arc<FileHandle>,
        scope: &ScopeInner,
        requests: &[BeginRequest<'_>],
    ) -> Vec<Result<Begin, BeginError>> {
        if requests.len() > CALLS_MAX {
            return self.refuse_all(scope, requests);
        }
        // One spare place on the heap, for all calls that need not wait.
        let (mut waiting, mut spare) = (Vec::new(), None);
        let (member, watch) = (self.member(caller), self.options.hooks.watch());
        let digests: Vec<_> = requests.iter().map(|request| scope.digest(request.key).ok()).collect();
        let mut results = self.replay_all(requests, &digests);
        let answered = |result: Option<_>| result.unwrap_or_else(|| unreachable!("every call has an answer"));
        let missed = results.iter().filter(|result| result.is_none()).count();
        if missed == 0 {
            return results.into_iter().map(answered).collect();
        }
        // Claims that are not in `results` yet: dropped in here they are given back, for nobody
        // saw them.
        let mut granting = Vec::with_capacity(missed);
        let leaders = leaders(requests, &digests);
        let started = |BeginRequest { key, fingerprint },
                       digest: Option<Digest>,
                       mut queue_timeout: QueueTimeout| async move {
            let digest = digest.map_or_else(|| scope.digest(key), Ok)?;
            self.health.check()?;
            self.start(member, handle, &KeyRef { scope, key, digest }, fingerprint, &mut queue_timeout).await
        };
        let asked = requests.iter().zip(digests.iter().copied()).zip(&leaders);
        for (at, (((request, digest), leader), result)) in asked.zip(&mut results).enumerate() {
            if result.is_some() || *leader != at {
                continue;
            }
            let mut call = spare.take().unwrap_or_else(|| Box::pin(None));
            call.set(Some(started(*request, digest, QueueTimeout::new(self.options.queue_timeout))));
            match call.as_mut().as_pin_mut().map(poll_once) {
                Some(Poll::Ready(begun)) => {
                    note(begun, at, result, &mut granting);
                    spare = Some(call);
                }
                Some(Poll::Pending) => waiting.push((at, call)),
                None => unreachable!("it was put there"),
            }
        }
        // One for the batch: what its members wait for runs at the same time.
        let mut queue_timeout = QueueTimeout::new(self.options.queue_timeout);
        let mut answers = Answers { scope, requests, leaders, told: vec![false; requests.len()] };
        loop {
            self.begin_waiting(caller, &mut queue_timeout, &mut waiting, &mut results, &mut granting).await;
            self.settle_all(caller, &mut results, &mut granting).await;
            self.tell_of_grants(&results, &mut granting, watch.as_ref());
            answers.tell(self, &mut results, &granting);
            let lost = self.take_lost(&results, &mut granting);
            if lost.is_empty() {
                break;
            }
            let looked = Box::pin(self.look_again(caller, &mut queue_timeout)).await;
            for at in lost {
                let (Some(request), Some(digest), Some(result)) =
                    (requests.get(at), digests.get(at), results.get_mut(at))
                else {
                    continue;
                };
                match &looked {
                    Ok(()) => {
                        let again = started(*request, *digest, queue_timeout.rest());
                        waiting.push((at, Box::pin(Some(again))));
                    }
                    Err(refused) => *result = Some(Err(refused.clone())),
                }
            }
        }
        self.arrive_all(&mut results, granting, queue_timeout.span());
        answers.tell(self, &mut results, &[]);
        results.into_iter().map(answered).collect()
    }

    /// Refuses a batch that is too long.
    fn refuse_all(
        &self,
        scope: &ScopeInner,
        requests: &[BeginRequest<'_>],
    ) -> Vec<Result<Begin, BeginError>> {
        let error = || BeginError::BatchTooLong { len: requests.len(), max: CALLS_MAX };
        requests.iter().map(|request| Err(self.refused(scope, request.key, error()))).collect()
    }

    /// Answers the calls whose records are in memory, and tells the observer. This comes before
    /// the first grant, because observers may be slow.
    fn replay_all(
        &self,
        requests: &[BeginRequest<'_>],
        digests: &[Option<Digest>],
    ) -> Vec<Option<Result<Begin, BeginError>>> {
        let mut results = Vec::with_capacity(requests.len());
        for (requests, digests) in requests.chunks(BATCH_MAX).zip(digests.chunks(BATCH_MAX)) {
            let replays = self.replays(digests, requests).into_iter();
            results.extend(replays.map(|replay| replay.map(|record| Ok(Begin::Done(record)))));
        }
        for result in results.iter().flatten() {
            if let Ok(Begin::Done(record)) = result {
                self.options.hooks.call(|observer| observer.replayed(record));
            }
        }
        results
    }

    /// Makes all claims at once: a caller never waits while the leases of some of its claims run.
    fn arrive_all(
        &self,
        results: &mut [Option<Result<Begin, BeginError>>],
        granting: Vec<(usize, PendingGrant)>,
        waited: Duration,
    ) {
        for (at, mut granting) in granting {
            let Some(result @ None) = results.get_mut(at) else { continue };
            let late = || match self.health.check() {
                Ok(()) => BeginError::Busy(Busy::LeaseTooShort { waited }),
                Err(shut) => shut.into(),
            };
            *result = Some(match granting.arrive(self) {
                Ok(claim) => claim.map(|claim| Begin::Fresh(claim.into())).ok_or_else(late),
                Err(failed) => Err(failed.into()),
            });
        }
    }

    /// Begins the calls that wait for a place in the queue or for log space.
    async fn begin_waiting<F: Future<Output = Result<BeginProgress, BeginError>>>(
        &self,
        caller: Caller,
        queue_timeout: &mut QueueTimeout,
        waiting: &mut Vec<(usize, Pin<Box<Option<F>>>)>,
        results: &mut [Option<Result<Begin, BeginError>>],
        granting: &mut Vec<(usize, PendingGrant)>,
    ) {
        if waiting.is_empty() {
            return;
        }
        queue_timeout.until();
        let (members, mut left) = (Members::new(waiting.len()), waiting.len());
        poll_fn(|context| {
            for member in members.woken(context) {
                let Some((at, call)) = waiting.get_mut(member) else { continue };
                let polled = call.as_mut().as_pin_mut().map(|call| call.poll(&mut members.context(member)));
                let (Some(Poll::Ready(begun)), Some(result)) = (polled, results.get_mut(*at)) else {
                    continue;
                };
                call.set(None);
                note(begun, *at, result, granting);
                left -= 1;
            }
            if left == 0 {
                return Poll::Ready(());
            }
            // All that can be queued is.
            match caller {
                Caller::Task | Caller::Member => self.commit.call(),
                Caller::Thread => self.help_tasks(),
            }
            if self.health.is_forked() {
                // A waker forked. Nobody else wakes a child's thread, and each call refuses it.
                context.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
        waiting.clear();
    }

    /// Waits until all grants are durable.
    async fn settle_all(
        &self,
        caller: Caller,
        results: &mut [Option<Result<Begin, BeginError>>],
        granting: &mut [(usize, PendingGrant)],
    ) {
        // A thread leads while it waits.
        if !granting.is_empty() && caller != Caller::Thread {
            self.commit.call();
        }
        // From the last one on, for those before it are settled by then.
        for (at, granting) in granting.iter_mut().rev() {
            if let Err(error) = granting.settled(self, caller).await
                && let Some(result) = results.get_mut(*at)
            {
                *result = Some(Err(error.into()));
            }
        }
    }

    /// Tells the observer of grants that have settled. This comes before any claim arrives, because
    /// observers may be slow.
    fn tell_of_grants(
        &self,
        results: &[Option<Result<Begin, BeginError>>],
        granting: &mut [(usize, PendingGrant)],
        watch: Option<&Stopwatch>,
    ) {
        for (at, granting) in granting {
            if results.get(*at).is_some_and(Option::is_none) {
                granting.tell(self, watch);
            }
        }
    }

    /// Returns the calls whose grants are withdrawn, because their leases ran out or the engine
    /// closed. The calls begin again before any claim of the batch is made.
    fn take_lost(
        &self,
        results: &[Option<Result<Begin, BeginError>>],
        granting: &mut Vec<(usize, PendingGrant)>,
    ) -> Vec<usize> {
        let lost: Vec<_> = granting.extract_if(.., |(_, grant)| grant.is_lost(self)).collect();
        let lost = lost.into_iter().map(|(at, _)| at);
        lost.filter(|at| results.get(*at).is_some_and(Option::is_none)).collect()
    }

    /// The records in memory that answer requests, at most [`BATCH_MAX`]; `None` for a request
    /// that needs more than a record in memory.
    fn replays(&self, digests: &[Option<Digest>], requests: &[BeginRequest<'_>]) -> Vec<Option<Record>> {
        if !self.health.is_open() {
            return vec![None; digests.len()];
        }
        // Read once no record can change any more: one that has expired since may have lost its
        // body.
        let now = OnceCell::new();
        let mut replayed = 0;
        let replays = self.index.records(digests, |position, record| {
            let now = *now.get_or_init(|| self.clock.now());
            let answers = |request: &BeginRequest<'_>| record.is_replayed(request.fingerprint, now);
            let is_wanted = requests.get(position).is_some_and(answers);
            if is_wanted {
                record.touch();
                replayed += 1;
            }
            is_wanted
        });
        if let Some(first) = replays.iter().flatten().next() {
            self.index.count_replays(first.digest(), replayed);
        }
        replays
    }
}

/// What is told of the answers of a batch, apart from replays from memory and grants.
struct Answers<'a> {
    scope: &'a ScopeInner,
    requests: &'a [BeginRequest<'a>],
    leaders: Vec<usize>,
    /// Refusals: each is told once.
    told: Vec<bool>,
}

impl Answers<'_> {
    /// Counts refusals that are new, and tells the observer; also answers twins.
    fn tell(
        &mut self,
        core: &Core,
        results: &mut [Option<Result<Begin, BeginError>>],
        granting: &[(usize, PendingGrant)],
    ) {
        self.answer_twins(core, results, granting);
        for ((result, told), request) in results.iter().zip(&mut self.told).zip(self.requests) {
            if let Some(Err(error)) = result
                && !std::mem::replace(told, true)
            {
                core.counters.count_refusal(error);
                core.options.hooks.refused(self.scope, request.key, error);
            }
        }
    }

    /// Answers the requests for the same as one before them in the batch, as that one is answered.
    /// If it was granted they are refused: they must not wait for the caller's own claim. That
    /// answer stands, also if the grant is lost on its last steps and its request begins again.
    fn answer_twins(
        &self,
        core: &Core,
        results: &mut [Option<Result<Begin, BeginError>>],
        granting: &[(usize, PendingGrant)],
    ) {
        let mut granted = None;
        for (at, &first) in self.leaders.iter().enumerate() {
            if first == at || !matches!(results.get(at), Some(None)) {
                continue;
            }
            let answer = match results.get(first) {
                Some(Some(Ok(Begin::InFlight(pending)))) => {
                    core.count_waited(pending.of());
                    Ok(Begin::InFlight(pending.clone()))
                }
                Some(Some(Ok(Begin::Done(record)))) => {
                    core.index.count_replayed(record.digest());
                    core.options.hooks.call(|observer| observer.replayed(record));
                    Ok(Begin::Done(record.clone()))
                }
                Some(Some(Err(error))) => Err(error.clone()),
                Some(Some(Ok(Begin::Fresh(claim)))) => {
                    core.count_waited(claim.of());
                    Err(BeginError::DuplicateInBatch { first })
                }
                Some(None) | None => {
                    let granted: &HashMap<_, _> = granted
                        .get_or_insert_with(|| granting.iter().map(|(at, grant)| (*at, grant)).collect());
                    // A grant that was lost begins again.
                    let grant = granted.get(&first).filter(|grant| !grant.is_lost(core));
                    let Some(attempt) = grant.and_then(|grant| grant.attempt()) else { continue };
                    core.count_waited(attempt);
                    Err(BeginError::DuplicateInBatch { first })
                }
            };
            if let Some(result) = results.get_mut(at) {
                *result = Some(answer);
            }
        }
    }
}

/// For each request the first in the batch with its key and fingerprint. Only that one begins; the
/// others are its twins.
fn leaders(requests: &[BeginRequest<'_>], digests: &[Option<Digest>]) -> Vec<usize> {
    let mut of_keys = DigestMap::with_capacity_and_hasher(requests.len(), BuildHasherDefault::default());
    let mut of_others = HashMap::new();
    let asked = requests.iter().zip(digests).enumerate();
    let leaders = asked.map(|(at, (request, digest))| {
        let Some(digest) = *digest else { return at };
        let (first, of_first) = *of_keys.entry(digest).or_insert((at, request.fingerprint));
        if of_first == request.fingerprint {
            return first;
        }
        *of_others.entry((digest, request.fingerprint)).or_insert(at)
    });
    leaders.collect()
}

/// Notes the result of a call of a batch.
fn note(
    begun: Result<BeginProgress, BeginError>,
    at: usize,
    result: &mut Option<Result<Begin, BeginError>>,
    granting: &mut Vec<(usize, PendingGrant)>,
) {
    match begun {
        Ok(BeginProgress::Answered(answer)) => *result = Some(Ok(answer)),
        Ok(BeginProgress::PendingGrant(claim)) => granting.push((at, claim)),
        Err(error) => *result = Some(Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::task::{Context, Waker};

    use super::*;
    use crate::{Engine, Fingerprint};

    fn request() -> Fingerprint {
        Fingerprint::of("request")
    }

    #[test]
    fn a_batch_notes_that_its_records_were_wanted_as_single_begins_do() {
        let scratch = tempfile::tempdir().unwrap();
        let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
        let complete = |key: &str| match engine.default_scope().begin(key, request()).unwrap() {
            Begin::Fresh(claim) => claim.complete("reply").unwrap(),
            other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("{key} was {other:?}"),
        };
        let (wanted, reused) = (complete("wanted"), complete("reused"));
        assert!(wanted.take_touch() && reused.take_touch());
        let results = engine
            .default_scope()
            .begin_many(&[("wanted", request()), ("reused", Fingerprint::of("another"))]);
        assert!(matches!(results.as_slice(), [Ok(Begin::Done(_)), Err(BeginError::KeyReused)]));
        assert!(wanted.take_touch() && !reused.take_touch());
        assert_eq!(engine.stats().replayed, 1);
    }

    /// Thousands may wait for records on disk, which come one after the other.
    #[test]
    fn a_batch_polls_only_those_of_its_members_that_were_woken() {
        const MEMBERS: usize = 1_000;
        let scratch = tempfile::tempdir().unwrap();
        let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
        let (polls, wakers) = (Cell::new(0), RefCell::new(vec![None; MEMBERS]));
        let (polls, wakers) = (&polls, &wakers);
        let member = |at: usize| {
            poll_fn(move |context| {
                polls.set(polls.get() + 1);
                let waker: &mut Option<Waker> = &mut wakers.borrow_mut()[at];
                match waker.replace(context.waker().clone()) {
                    Some(_) => Poll::Ready(Err(BeginError::KeyReused)),
                    None => Poll::Pending,
                }
            })
        };
        let mut waiting: Vec<_> = (0..MEMBERS).map(|at| (at, Box::pin(Some(member(at))))).collect();
        let mut results: Vec<_> = waiting.iter().map(|_| None).collect();
        let (mut timeout, mut granting) = (QueueTimeout::new(Duration::ZERO), Vec::new());
        let core = engine.handle.core();
        let mut batch = Box::pin(core.begin_waiting(
            Caller::Task,
            &mut timeout,
            &mut waiting,
            &mut results,
            &mut granting,
        ));
        let mut context = Context::from_waker(Waker::noop());
        assert!(batch.as_mut().poll(&mut context).is_pending());
        for at in (0..MEMBERS).rev() {
            let waker = wakers.borrow()[at].clone().unwrap();
            waker.wake();
            assert_eq!(batch.as_mut().poll(&mut context).is_ready(), at == 0);
        }
        drop(batch);
        assert_eq!(polls.get(), 2 * MEMBERS);
        assert!(results.iter().all(Option::is_some));
    }
}
