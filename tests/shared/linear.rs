//! Histories of two processes on one key, with and without results in memory, each explained by one
//! thing that does one call after the other.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_executor::block_on;
use idemkv::{Begin, BeginError, Claim, Pooling, Recovery, Scope, SharedOptions};

use checker::{Model, Timed, is_linearizable, overlaps};
use key::{Begun, Call, Forgot, Grant, Outcome, Seen, State, accepted, resolved};

use crate::random::Random;
use crate::server::{Server, request};

#[path = "../linear/checker.rs"]
#[allow(dead_code, reason = "the rig of a file uses the rest")]
mod checker;
#[path = "../linear/key.rs"]
#[allow(dead_code, reason = "the rig of a file uses the rest")]
mod key;

/// Two in each process: one is a thread, the other a task.
const ACTORS: usize = 4;
const CALLS: u32 = 5;
/// How long a record is asked for in a row.
const SPIN: Duration = Duration::from_millis(3);

/// What the processes have in memory.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Memory {
    Nothing,
    Results,
    /// The second process hears of a forget at the next renewal of its session.
    Deaf,
}

impl Memory {
    fn options(self, server: &Server, schema: &str, process: usize) -> SharedOptions {
        let options = server.options(schema).cache_bytes(if self == Self::Nothing { 0 } else { 1 << 20 });
        if self == Self::Deaf && process == 1 {
            return options.pooling(Pooling::Transaction).session(Duration::from_secs(1));
        }
        options
    }

    fn histories(self) -> usize {
        match self {
            Self::Nothing | Self::Results => 150,
            Self::Deaf => 15,
        }
    }
}

/// A key whose record is there until it is forgotten.
struct SharedKey;

impl Model for SharedKey {
    type State = State;
    type Call = Call;

    fn step(state: &State, call: &Call, step: u32) -> Vec<(u32, State)> {
        match call {
            Call::Forget(Forgot::Something) => {
                let begun = key::Key::step(state, call, 0).into_iter();
                begun.flat_map(|(next, state)| key::Key::step(&state, call, next)).collect()
            }
            other => key::Key::step(state, other, step),
        }
    }

    fn drift(_state: &State) -> Vec<State> {
        Vec::new()
    }
}

struct Actor<'a> {
    number: usize,
    random: Random,
    scope: &'a Scope,
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
        match self.random.below(20) {
            0..12 => {
                // A thread that has a claim must not wait for another's.
                let waits = self.held.is_none() && self.random.below(2) == 0;
                let patience = Duration::from_secs(if waits { 60 } else { 0 });
                let begin = || match (is_task, waits) {
                    (true, false) => block_on(scope.begin_async(key, request())),
                    (true, true) => block_on(scope.begin_or_wait_async(key, request(), patience)),
                    (false, false) => scope.begin(key, request()),
                    (false, true) => scope.begin_or_wait(key, request(), patience),
                };
                let answer = self.note(begin, |begun| Call::Begin(Begun::of(begun)));
                if matches!(answer, Ok(Begin::Done(_))) {
                    self.replay(key);
                } else {
                    self.hold(answer);
                }
            }
            12..15 => {
                let get = || if is_task { block_on(scope.get_async(key)) } else { scope.get(key) };
                drop(self.note(get, |status| Call::Get(Seen::of(status.as_ref().unwrap()))));
            }
            15..18 => {
                let forget = || if is_task { block_on(scope.forget_async(key)) } else { scope.forget(key) };
                drop(self.note(forget, |forgot| Call::Forget(Forgot::of(forgot))));
            }
            _ => {
                let resolve = || {
                    resolved(if is_task { block_on(scope.resolve_async(key)) } else { scope.resolve(key) })
                };
                let granted = self.note(resolve, |claim| Call::Resolve(claim.as_ref().map(Grant::of)));
                if let Some(claim) = granted {
                    drop(self.held.replace(claim));
                }
            }
        }
    }

    /// Keeps the claim of a begin. One that is held already is good, and the checker says so.
    fn hold(&mut self, begun: Result<Begin, BeginError>) {
        if let Ok(Begin::Fresh(claim)) = begun {
            drop(self.held.replace(claim));
        }
    }

    /// Asks for the record again and again, for it may be forgotten at any time. Of all answers that
    /// are alike the last one is noted.
    fn replay(&mut self, key: &str) {
        let until = Instant::now() + SPIN;
        let mut last = None;
        loop {
            let called = self.time.fetch_add(1, Ordering::SeqCst);
            let begun = self.scope.begin(key, request());
            let returned = Some(self.time.fetch_add(1, Ordering::SeqCst));
            let call = Call::Begin(Begun::of(&begun));
            let timed = Timed { thread: self.number, called, returned, call };
            let is_alike = last.as_ref().is_none_or(|last: &Timed<Call>| last.call == timed.call);
            if matches!(begun, Ok(Begin::Done(_))) && is_alike && Instant::now() < until {
                last = Some(timed);
                continue;
            }
            self.calls.extend(last);
            self.calls.push(timed);
            return self.hold(begun);
        }
    }

    fn end(&mut self, claim: Claim) {
        let (fence, is_task) = (claim.fence().get(), self.is_task());
        match self.random.below(8) {
            0 => {
                // The store hears of it later.
                let called = self.time.fetch_add(1, Ordering::SeqCst);
                drop(claim);
                self.calls.push(Timed {
                    thread: self.number,
                    called,
                    returned: None,
                    call: Call::Drop { fence },
                });
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

fn histories(server: &Server, schema: &str, memory: Memory, refuses: bool) -> Vec<Vec<Timed<Call>>> {
    let engines: Vec<_> =
        (0..2).map(|process| memory.options(server, schema, process).connect().unwrap()).collect();
    let count = memory.histories();
    let recovery = if refuses { Recovery::Refuse } else { Recovery::Rerun };
    let policy = engines[0].policy().recovery(recovery);
    engines[0].set_policy("keys", policy).unwrap();
    let scopes: Vec<_> = engines.iter().map(|engine| engine.scope("keys")).collect();
    let (gate, time) = (Barrier::new(ACTORS), AtomicU64::new(0));
    let mut histories = vec![Vec::new(); count];
    std::thread::scope(|threads| {
        let actors: Vec<_> = (0..ACTORS)
            .map(|number| {
                let mut actor = Actor {
                    number,
                    random: Random(number as u64 + 1),
                    scope: &scopes[number / 2],
                    time: &time,
                    held: None,
                    calls: Vec::new(),
                };
                let gate = &gate;
                threads.spawn(move || {
                    let work = |round| {
                        gate.wait();
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
    if memory != Memory::Nothing {
        let replayed = |engine: &idemkv::Engine| engine.shared_stats().unwrap().replayed_from_memory;
        assert!(engines.iter().all(|engine| replayed(engine) > 0), "nothing was replayed from memory");
    }
    histories
}

fn explain(schema: &str, memory: Memory) {
    let server = server!();
    for refuses in [false, true] {
        let start = if refuses { State::refusing() } else { State::new() };
        let histories = histories(server, &format!("{schema}_{refuses}"), memory, refuses);
        for history in &histories {
            if !is_linearizable::<SharedKey>(start.clone(), history) {
                for call in history {
                    eprintln!("{call:?}");
                }
                panic!("nothing that does one call after the other answers like this");
            }
        }
        let overlapping = histories.iter().filter(|history| overlaps(history) > 0).count();
        assert!(
            overlapping > memory.histories() / 2,
            "{overlapping} histories overlap: processes have to meet"
        );
    }
}

#[test]
fn what_two_processes_are_told_of_a_key_comes_from_one_call_after_the_other() {
    explain("linear", Memory::Nothing);
}

#[test]
fn results_in_memory_are_told_as_if_they_came_from_the_store() {
    explain("linear_memory", Memory::Results);
}

#[test]
fn a_process_that_hears_of_a_forget_late_tells_of_no_forgotten_result() {
    explain("linear_deaf", Memory::Deaf);
}
