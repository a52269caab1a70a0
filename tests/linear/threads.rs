//! Threads that meet on one key after the other, and what each of them was told when.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_executor::block_on;
use idemkv::sim::{ManualClock, SimDisk};
use idemkv::{Begin, Claim, Durability, Engine, Recovery, Scope, Status};

use super::checker::Timed;
use super::common::{START_MS, request, small};
use super::key::{Begun, Call, Forgot, Grant, Outcome, Resolved, Seen, State, accepted, resolved};

const THREADS: usize = 4;
const CALLS: u64 = 4;
const LEASE: Duration = Duration::from_millis(10);

/// What is promised of the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Durable,
    Completions,
    Leases,
    Refuse,
    RefuseLeases,
}

impl Kind {
    pub fn of(seed: u64) -> Self {
        let all = [Self::Durable, Self::Refuse, Self::Completions, Self::RefuseLeases, Self::Leases];
        all[usize::try_from(seed % 5).unwrap()]
    }

    pub fn has_leases(self) -> bool {
        matches!(self, Self::Leases | Self::RefuseLeases)
    }

    pub fn state(self) -> State {
        match self {
            Self::Refuse | Self::RefuseLeases => State::refusing(),
            Self::Durable | Self::Completions | Self::Leases => State::new(),
        }
    }
}

/// A small generator, so that a seed means the same choices everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// Where all threads meet before each history.
#[derive(Default)]
struct Gate {
    arrived: AtomicUsize,
}

impl Gate {
    fn pass(&self, round: usize) {
        self.arrived.fetch_add(1, Ordering::AcqRel);
        let mut spins = 0;
        while self.arrived.load(Ordering::Acquire) < THREADS * (round + 1) {
            spins += 1;
            if spins % 64 == 0 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}

/// Histories of so many keys, one after the other.
pub fn histories(seed: u64, kind: Kind, count: usize) -> Vec<Vec<Timed<Call>>> {
    let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(START_MS));
    let engine = small(Engine::options()).disk(&disk).clock(&clock).open("x.idem").unwrap();
    let rerun = engine.policy().recovery(Recovery::Rerun);
    let policy = match kind {
        Kind::Durable => rerun,
        Kind::Completions => rerun.durability(Durability::Completions),
        Kind::Leases => rerun.lease(LEASE),
        Kind::Refuse => engine.policy(),
        Kind::RefuseLeases => engine.policy().lease(LEASE),
    };
    let scope = engine.set_policy("keys", policy).unwrap();
    let (gate, time) = (Gate::default(), AtomicU64::new(0));
    let mut histories = vec![Vec::new(); count];
    std::thread::scope(|threads| {
        let actors: Vec<_> = (0..THREADS)
            .map(|number| {
                let random = Random((seed + 1).wrapping_mul(2 * number as u64 + 0x9e37_79b9_7f4a_7c15) | 1);
                let mut actor = Actor {
                    number,
                    random,
                    engine: &engine,
                    scope: &scope,
                    clock: kind.has_leases().then_some(&clock),
                    time: &time,
                    held: None,
                    calls: Vec::new(),
                };
                let gate = &gate;
                threads.spawn(move || {
                    let work = |round| {
                        gate.pass(round);
                        actor.work(&format!("key {round}"))
                    };
                    (0..count).map(work).collect::<Vec<_>>()
                })
            })
            .collect();
        for actor in actors {
            for (history, calls) in histories.iter_mut().zip(actor.join().unwrap()) {
                history.extend(calls);
            }
        }
    });
    assert_eq!(engine.close().unwrap().claims_left, 0);
    histories
}

struct Actor<'a> {
    number: usize,
    random: Random,
    engine: &'a Engine,
    scope: &'a Scope,
    /// To let leases run out, where there are any.
    clock: Option<&'a ManualClock>,
    time: &'a AtomicU64,
    held: Option<Claim>,
    calls: Vec<Timed<Call>>,
}

impl Actor<'_> {
    fn work(&mut self, key: &str) -> Vec<Timed<Call>> {
        for _ in 0..CALLS {
            match self.held.take() {
                Some(claim) if self.random.below(3) > 0 => self.end(claim),
                held => {
                    self.held = held;
                    self.ask(key);
                }
            }
            for _ in 0..self.random.below(3) {
                std::thread::yield_now();
            }
        }
        if let Some(claim) = self.held.take() {
            self.end(claim);
        }
        std::mem::take(&mut self.calls)
    }

    /// Notes a call. `tell` makes of its answer what is compared.
    fn note<T>(&mut self, call: impl FnOnce() -> T, tell: impl FnOnce(&T) -> Call) -> T {
        let called = self.time.fetch_add(1, Ordering::SeqCst);
        let answer = call();
        let returned = Some(self.time.fetch_add(1, Ordering::SeqCst));
        self.calls.push(Timed { thread: self.number, called, returned, call: tell(&answer) });
        answer
    }

    fn is_task(&self) -> bool {
        self.number % 2 == 1
    }

    fn ask(&mut self, key: &str) {
        let (scope, is_task) = (self.scope, self.is_task());
        // Where there are leases, time passes as often as anything else happens.
        let kinds = if self.clock.is_some() { 26 } else { 21 };
        match self.random.below(kinds) {
            0..10 => {
                // A thread that has a claim must not wait for another's.
                let queue_timeout = if self.held.is_none() && self.random.below(2) == 0 { 60 } else { 0 };
                let queue_timeout = Duration::from_secs(queue_timeout);
                let begin = || match (is_task, queue_timeout.is_zero()) {
                    (true, true) => block_on(scope.begin_async(key, request())),
                    (true, false) => block_on(scope.begin_or_wait_async(key, request(), queue_timeout)),
                    (false, true) => scope.begin(key, request()),
                    (false, false) => scope.begin_or_wait(key, request(), queue_timeout),
                };
                let answer = self.note(begin, |begun| Call::Begin(Begun::of(begun)));
                if let Ok(Begin::Fresh(claim)) = answer {
                    self.hold(claim);
                }
            }
            10..13 => {
                let get = || if is_task { block_on(scope.get_async(key)) } else { scope.get(key) };
                drop(self.note(get, |status| Call::Get(Seen::of(status.as_ref().unwrap()))));
            }
            13..16 => {
                let forget = || if is_task { block_on(scope.forget_async(key)) } else { scope.forget(key) };
                drop(self.note(forget, |forgot| Call::Forget(Forgot::of(forgot))));
            }
            16..18 => {
                let resolve =
                    || if is_task { block_on(scope.resolve_async(key)) } else { scope.resolve(key) };
                let resolve = || resolved(resolve());
                if let Some(claim) = self.note(resolve, |claim| Call::Resolve(claim.as_ref().map(Grant::of)))
                {
                    self.hold(claim);
                }
            }
            18 | 19 => self.resolve_what_is_seen(key),
            20 => self.engine.checkpoint().unwrap(),
            _ => {
                if let Some(clock) = self.clock {
                    self.note(|| clock.advance(LEASE), |()| Call::Advance);
                }
            }
        }
    }

    /// As operators do: what was lost since the look is not resolved.
    fn resolve_what_is_seen(&mut self, key: &str) {
        let (scope, is_task) = (self.scope, self.is_task());
        let get = || if is_task { block_on(scope.get_async(key)) } else { scope.get(key) };
        let status = self.note(get, |status| Call::Get(Seen::of(status.as_ref().unwrap())));
        let Ok(Status::Interrupted(lost)) = status else { return };
        for _ in 0..self.random.below(3) {
            std::thread::yield_now();
        }
        let fence = lost.fence();
        let resolve = || {
            if is_task { block_on(scope.resolve_if_async(key, fence)) } else { scope.resolve_if(key, fence) }
        };
        let resolved = self.note(resolve, |resolved| Call::ResolveIf {
            only: fence.get(),
            resolved: Resolved::of(resolved),
        });
        if let Ok(claim) = resolved {
            self.hold(claim);
        }
    }

    /// Takes a claim; one that is held already has lapsed, and is dropped.
    fn hold(&mut self, claim: Claim) {
        if let Some(lapsed) = self.held.replace(claim) {
            self.drop_claim(lapsed);
        }
    }

    fn drop_claim(&mut self, claim: Claim) {
        let fence = claim.fence().get();
        self.note(|| drop(claim), |()| Call::Drop { fence });
    }

    fn end(&mut self, claim: Claim) {
        let (fence, is_task) = (claim.fence().get(), self.is_task());
        match self.random.below(9) {
            0 => self.drop_claim(claim),
            8 => {
                let put_back = || if is_task { block_on(claim.put_back_async()) } else { claim.put_back() };
                drop(self.note(put_back, |ended| Call::PutBack { fence, accepted: accepted(ended) }));
            }
            1 => {
                let release = || if is_task { block_on(claim.release_async()) } else { claim.release() };
                drop(self.note(release, |ended| Call::Release { fence, accepted: accepted(ended) }));
            }
            fate => {
                let failed = fate == 2;
                let body = fence.to_le_bytes();
                let complete = || match (failed, is_task) {
                    (false, false) => claim.complete(body),
                    (false, true) => block_on(claim.complete_async(body)),
                    (true, false) => claim.fail(body),
                    (true, true) => block_on(claim.fail_async(body)),
                };
                drop(self.note(complete, |ended| {
                    let outcome = Outcome { fence, failed, body: body.to_vec() };
                    Call::Complete { outcome, accepted: accepted(ended) }
                }));
            }
        }
    }
}
