//! Histories of one key, against a model written from the promises instead of the table.
//!
//! The input is a script of events. The state machine decides each; the model keeps, apart from it,
//! which caller holds a claim, what is durable and until when. Each step checks what callers were promised.

#![no_main]

use idemkv::sim::state::{Decision, Event, Facts, Lifetime, Phase, State, decide, fence};
use idemkv::{Fence, Fingerprint, Timestamp};
use libfuzzer_sys::fuzz_target;

const REQUESTS: [Fingerprint; 2] = [Fingerprint::from_bytes([1; 32]), Fingerprint::from_bytes([2; 32])];
const TTL_MS: u64 = 100;
/// How much longer than its record a key is remembered, as far as the script wants it to be.
const TOMBSTONE_MS: [u64; 2] = [0, 150];
/// How long a claim is good, as far as the script wants it to have a lease.
const LEASES_MS: [u64; 2] = [u64::MAX, 60];

/// What an owner of the key's state would keep: the facts that [`State`] only borrows.
#[derive(Clone, Copy, Debug)]
struct Owned {
    phase: Phase,
    fence: u64,
    attempt: u32,
    request: usize,
    expires_ms: u64,
    remembered_until_ms: u64,
    lease_until_ms: u64,
}

impl Owned {
    fn state(&self) -> State<'static> {
        let facts =
            Facts { fence: fence(self.fence), attempt: self.attempt, fingerprint: &REQUESTS[self.request] };
        let expires = Timestamp::from_millis(self.expires_ms);
        match self.phase {
            Phase::Vacant => State::Vacant,
            Phase::InFlight => State::InFlight(facts, Timestamp::from_millis(self.lease_until_ms)),
            Phase::Ending => State::Ending(facts),
            Phase::Interrupted => State::Interrupted(facts, expires),
            Phase::Done => {
                let remembered_until = Timestamp::from_millis(self.remembered_until_ms);
                State::Done(facts, Lifetime { expires, remembered_until })
            }
        }
    }
}

/// What was promised to callers so far.
#[derive(Debug, Default)]
struct Promises {
    /// The claim that is out and may still be ended, unless its lease is over.
    live: Option<u64>,
    /// The claim whose outcome the log has, but not yet durably.
    ending: Option<u64>,
    /// That one is taken back before its caller had it, so it has no outcome.
    is_withdrawn: bool,
    /// A durable record.
    done: Option<Promised>,
}

/// What was promised of a record.
#[derive(Clone, Copy, Debug)]
struct Promised {
    request: usize,
    replayed_until_ms: u64,
    remembered_until_ms: u64,
}

struct World {
    now_ms: u64,
    next_fence: u64,
    key: Owned,
    promises: Promises,
}

fuzz_target!(|script: &[u8]| {
    let key = Owned {
        phase: Phase::Vacant,
        fence: 0,
        attempt: 0,
        request: 0,
        expires_ms: 0,
        remembered_until_ms: 0,
        lease_until_ms: 0,
    };
    let mut world = World { now_ms: 1_000, next_fence: 1, key, promises: Promises::default() };
    for step in script.chunks_exact(2) {
        world.step(step[0], step[1]);
    }
});

impl World {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.now_ms)
    }

    /// A fence that an event may carry: the current one, an older or a newer one.
    fn some_fence(&self, choice: u8) -> Fence {
        fence(match choice % 3 {
            0 => self.key.fence,
            1 => self.key.fence.saturating_sub(1),
            _ => self.next_fence,
        })
    }

    fn step(&mut self, what: u8, detail: u8) {
        match what % 12 {
            0 => self.begin(detail),
            1 => self.end(self.some_fence(detail)),
            7 => self.use_it(self.some_fence(detail)),
            8 => self.resolve(detail),
            9 => self.note(self.some_fence(detail)),
            2 => self.abandon(self.some_fence(detail)),
            3 => self.durable(detail),
            4 => self.forget(),
            5 => self.sweep(),
            6 => self.crash(),
            10 => self.withdraw(self.some_fence(detail)),
            _ => self.now_ms += u64::from(detail),
        }
    }

    /// The claim that is out and whose lease is not over.
    fn live(&self) -> Option<u64> {
        self.promises.live.filter(|_| self.now_ms < self.key.lease_until_ms)
    }

    /// What every caller must find to be interrupted.
    fn lapse(&mut self) {
        assert!(self.live().is_none(), "a claim was lost before its lease was over");
        assert!(self.promises.live.take().is_some(), "nobody had a claim");
        self.interrupt();
    }

    fn interrupt(&mut self) {
        self.key.phase = Phase::Interrupted;
        self.key.expires_ms = self.now_ms + TTL_MS;
    }

    fn grant(&mut self, attempt: u32, request: usize, detail: u8) {
        let lease_until_ms = self.now_ms.saturating_add(LEASES_MS[usize::from(detail / 16 % 2)]);
        let (phase, fence) = (Phase::InFlight, self.next_fence);
        self.key = Owned { phase, fence, attempt, request, lease_until_ms, ..self.key };
        self.next_fence += 1;
        self.promises = Promises { live: Some(fence), ..Promises::default() };
    }

    fn begin(&mut self, detail: u8) {
        let request = usize::from(detail % 2);
        let attempts_max = [u32::MAX, 1, 2, 3][usize::from(detail / 2 % 4)];
        let before = self.key;
        let live = self.live().is_some() || self.promises.ending.is_some();
        let remembered = self.promises.done.filter(|done| self.now_ms < done.remembered_until_ms);
        let replayed = remembered.filter(|done| self.now_ms < done.replayed_until_ms);
        let interrupted = before.phase == Phase::Interrupted && self.now_ms < before.expires_ms;
        let event = Event::Begin { fingerprint: &REQUESTS[request], now: self.now(), attempts_max };
        match decide(before.state(), event) {
            Decision::Grant { attempt } => {
                assert!(!live, "granted while a claim is out");
                assert!(remembered.is_none(), "granted over a record that is to be remembered");
                assert_eq!(attempt > 1, interrupted, "an interruption is told, and nothing else is");
                assert!(attempt <= attempts_max, "granted more often than the policy wants");
                self.grant(attempt, request, detail);
            }
            Decision::Become(Phase::Interrupted) => {
                self.lapse();
                self.begin(detail);
            }
            Decision::Unresolved => {
                assert!(interrupted && before.attempt >= attempts_max && request == before.request)
            }
            Decision::Wait => assert!(live && request == before.request, "told to wait for nobody"),
            Decision::Replay => {
                assert_eq!(replayed.map(|done| done.request), Some(request), "replayed another's record");
            }
            Decision::Expired => {
                assert!(replayed.is_none(), "a live record was not replayed");
                assert_eq!(remembered.map(|done| done.request), Some(request), "told of another's record");
            }
            Decision::Reused => assert_ne!(request, before.request, "refused its own request"),
            other => panic!("a begin was answered with {other:?}"),
        }
    }

    /// Somebody says what became of an interrupted claim.
    fn resolve(&mut self, detail: u8) {
        let before = self.key;
        let interrupted = before.phase == Phase::Interrupted && self.now_ms < before.expires_ms;
        match decide(before.state(), Event::Resolve { now: self.now() }) {
            Decision::Grant { attempt } => {
                assert!(interrupted && attempt == before.attempt + 1, "resolved what was not interrupted");
                self.grant(attempt, before.request, detail);
            }
            Decision::Become(Phase::Interrupted) => {
                self.lapse();
                self.resolve(detail);
            }
            Decision::Busy => assert!(self.live().is_some() || self.promises.ending.is_some()),
            Decision::Stay => assert!(!interrupted, "an interruption could not be resolved"),
            other => panic!("a resolving was answered with {other:?}"),
        }
    }

    /// The holder renews its lease, or saves its progress.
    fn use_it(&mut self, by: Fence) {
        match decide(self.key.state(), Event::Use { fence: by, now: self.now() }) {
            Decision::Become(Phase::InFlight) => {
                assert_eq!(self.live(), Some(by.get()), "used without the claim");
                if self.key.lease_until_ms != u64::MAX {
                    self.key.lease_until_ms = self.now_ms + LEASES_MS[1];
                }
            }
            Decision::Superseded => assert_ne!(self.live(), Some(by.get()), "the holder was refused"),
            other => panic!("a use was answered with {other:?}"),
        }
    }

    /// The log reports progress: it belongs to the attempt that the key has, or to nobody.
    fn note(&mut self, by: Fence) {
        let before = self.key;
        match decide(before.state(), Event::Noted { fence: by }) {
            Decision::Become(phase) => assert_eq!((phase, by.get()), (before.phase, before.fence)),
            Decision::Stay => {}
            other => panic!("a note was answered with {other:?}"),
        }
    }

    fn end(&mut self, by: Fence) {
        match decide(self.key.state(), Event::End { fence: by, now: self.now() }) {
            Decision::Become(Phase::Ending) => {
                assert_eq!(self.live(), Some(by.get()), "ended without the claim");
                self.promises.live = None;
                self.promises.ending = Some(by.get());
                self.key.phase = Phase::Ending;
            }
            Decision::Superseded => assert_ne!(self.live(), Some(by.get()), "the holder was refused"),
            other => panic!("an end was answered with {other:?}"),
        }
    }

    fn abandon(&mut self, by: Fence) {
        match decide(self.key.state(), Event::Abandon { fence: by }) {
            Decision::Become(Phase::Interrupted) => {
                assert_eq!(self.promises.live.take(), Some(by.get()));
                self.interrupt();
            }
            Decision::Stay => {
                assert_ne!(self.promises.live, Some(by.get()), "the holder's death went unnoticed")
            }
            other => panic!("an abandonment was answered with {other:?}"),
        }
    }

    /// A grant is taken back before it reached its caller, whether its lease is over or not.
    fn withdraw(&mut self, by: Fence) {
        match decide(self.key.state(), Event::Withdraw { fence: by }) {
            Decision::Become(Phase::Ending) => {
                assert_eq!(self.promises.live, Some(by.get()), "took back what somebody else had");
                self.promises =
                    Promises { ending: Some(by.get()), is_withdrawn: true, ..Promises::default() };
                self.key.phase = Phase::Ending;
            }
            Decision::Stay => assert_ne!(self.promises.live, Some(by.get()), "could not be taken back"),
            other => panic!("a withdrawal was answered with {other:?}"),
        }
    }

    /// The log reports what it has: the outcome of the claim that is ending, or something old.
    fn durable(&mut self, detail: u8) {
        let current = self.promises.ending.filter(|_| detail >= 64).map(fence);
        let by = current.unwrap_or_else(|| fence(self.key.fence.saturating_sub(1)));
        let completed = detail % 2 == 0 && !(current.is_some() && self.promises.is_withdrawn);
        let event = if completed { Event::Completed { fence: by } } else { Event::Vacated { fence: by } };
        let expected = if completed { Phase::Done } else { Phase::Vacant };
        match (decide(self.key.state(), event), current) {
            (Decision::Become(phase), Some(_)) => {
                assert_eq!(phase, expected);
                let replayed_until_ms = self.now_ms + TTL_MS;
                let remembered_until_ms = replayed_until_ms + TOMBSTONE_MS[usize::from(detail / 2 % 2)];
                let promised = Promised { request: self.key.request, replayed_until_ms, remembered_until_ms };
                self.promises = Promises { done: completed.then_some(promised), ..Promises::default() };
                self.key = Owned { phase, expires_ms: replayed_until_ms, remembered_until_ms, ..self.key };
            }
            (Decision::Stay, None) => {}
            // A completion of a claim that nothing else is known of: its intent was in memory only.
            (Decision::Become(Phase::Done), None) => {
                assert_eq!(self.key.phase, Phase::Vacant, "history changed the present");
            }
            (other, current) => panic!("{event:?} with {current:?} ending was answered with {other:?}"),
        }
    }

    fn forget(&mut self) {
        let done = self.promises.done.is_some_and(|done| self.now_ms < done.remembered_until_ms);
        match decide(self.key.state(), Event::Forget { now: self.now() }) {
            Decision::Busy => assert!(self.live().is_some() || self.promises.ending.is_some()),
            Decision::Become(Phase::Interrupted) => {
                self.lapse();
                self.forget();
            }
            Decision::Become(Phase::Ending) => {
                assert!(done || self.key.phase == Phase::Interrupted, "nothing to forget");
                self.promises = Promises { ending: Some(self.key.fence), ..Promises::default() };
                self.key.phase = Phase::Ending;
            }
            Decision::Stay => assert!(!done, "a record was not forgotten"),
            other => panic!("a forgetting was answered with {other:?}"),
        }
    }

    fn sweep(&mut self) {
        match decide(self.key.state(), Event::Sweep { now: self.now() }) {
            Decision::Become(Phase::Vacant) => {
                assert!(
                    self.promises.live.is_none() && self.promises.ending.is_none(),
                    "a claim that is out expired"
                );
                assert!(
                    self.promises.done.is_none_or(|done| self.now_ms >= done.remembered_until_ms),
                    "expired before its time"
                );
                self.key.phase = Phase::Vacant;
                self.promises = Promises::default();
            }
            Decision::Become(Phase::Interrupted) => self.lapse(),
            Decision::Stay => {
                assert_eq!(self.live(), self.promises.live, "the end of a lease went unnoticed");
            }
            other => panic!("a sweep was answered with {other:?}"),
        }
    }

    /// The process dies; recovery finds a claim that was out, or whose outcome did not make it to the log.
    fn crash(&mut self) {
        if self.promises.ending.take().is_some() {
            self.promises.is_withdrawn = false;
            self.key.phase = Phase::InFlight;
            self.key.lease_until_ms = u64::MAX;
            self.promises.live = Some(self.key.fence);
        }
        self.abandon(fence(self.key.fence));
    }
}
