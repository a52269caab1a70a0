//! The checker of `tests/linear/` beside that of stateright, which looks at every order of a few
//! calls: on small histories at random, right ones and ones with a wrong answer, both have to say
//! the same.
//!
//! `cargo test --release --manifest-path tests/linear-check/Cargo.toml -- --nocapture`

#![cfg(test)]
#![allow(dead_code, clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

#[path = "../common/budget.rs"]
mod budget;
#[path = "../linear/checker.rs"]
mod checker;
#[path = "../linear/key.rs"]
mod key;

use budget::Budget;
use checker::{DONE, Model, Timed, is_linearizable};
use key::{Begun, Call, Forgot, Grant, Key, Outcome, Resolved, Seen, State};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

const THREADS: u64 = 3;
const CALLS: u64 = 8;
const HISTORIES: u64 = 100;

/// A key that is forgotten in one step: stateright knows of no others.
#[derive(Clone)]
struct AtomicKey(State);

impl Model for AtomicKey {
    type State = State;
    type Call = Call;

    fn step(state: &State, call: &Call, step: u32) -> Vec<(u32, State)> {
        let next = Key::step(state, call, step);
        let ends = |(step, state)| {
            if step == DONE { vec![(step, state)] } else { Self::step(&state, call, step) }
        };
        next.into_iter().flat_map(ends).collect()
    }

    fn drift(_state: &State) -> Vec<State> {
        Vec::new()
    }
}

impl SequentialSpec for AtomicKey {
    /// All that counts is in the answer.
    type Op = ();
    type Ret = Call;

    fn invoke(&mut self, (): &()) -> Call {
        unreachable!("answers are checked, not made")
    }

    fn is_valid_step(&mut self, (): &(), call: &Call) -> bool {
        let states = Self::step(&self.0, call, 0);
        assert!(states.len() < 2, "{call:?} has one effect");
        states.into_iter().next().map(|(_, state)| self.0 = state).is_some()
    }
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn outcome(&mut self) -> Outcome {
        let fence = self.below(CALLS / 2) + 1;
        Outcome { fence, failed: false, body: vec![] }
    }

    /// Any call with any answer.
    fn call(&mut self) -> Call {
        let outcome = self.outcome();
        let fence = outcome.fence;
        let grant = Grant { fence, attempt: u32::try_from(self.below(3)).unwrap() + 1 };
        let accepted = self.below(4) > 0;
        match self.below(17) {
            0..3 => Call::Begin(Begun::Fresh(grant)),
            3 => Call::Begin(Begun::InFlight),
            4 => Call::Begin(Begun::Done(outcome)),
            5 => Call::Resolve(Some(grant)),
            6 => Call::Resolve(None),
            7 | 8 => Call::Complete { outcome, accepted },
            9 => Call::Release { fence, accepted },
            10 => Call::Drop { fence },
            14 => Call::PutBack { fence, accepted },
            15 => Call::ResolveIf { only: fence, resolved: Resolved::Granted(grant) },
            16 => {
                let resolved = [Resolved::NotInterrupted, Resolved::Another][self.below(2) as usize];
                Call::ResolveIf { only: fence, resolved }
            }
            11 => {
                Call::Get([Seen::Vacant, Seen::InFlight, Seen::Interrupted][self.below(3) as usize].clone())
            }
            12 => Call::Get(Seen::Done(outcome)),
            _ => Call::Forget([Forgot::Something, Forgot::Nothing, Forgot::Refused][self.below(3) as usize]),
        }
    }

    /// Calls whose answers are right in the order in which they take effect, each under way before
    /// and after that.
    fn history(&mut self) -> Vec<Timed<Call>> {
        let mut state = State::new();
        let mut history: Vec<Timed<Call>> = Vec::new();
        for n in 1..=CALLS {
            let (call, next) = loop {
                let call = self.call();
                if let Some((_, next)) = AtomicKey::step(&state, &call, 0).pop() {
                    break (call, next);
                }
            };
            state = next;
            let (thread, effect) = (self.below(THREADS) as usize, 1_000 * n);
            // Between the effects of two calls of one thread: the return of the first, the second
            // call.
            let earlier = history.iter_mut().rfind(|earlier| earlier.thread == thread);
            let start = earlier.as_ref().map_or(0, |earlier| earlier.called.max(effect_of(earlier)) + 1);
            let between = start + self.below(effect - start - 10);
            if let Some(earlier) = earlier {
                earlier.returned = Some(between);
            }
            history.push(Timed {
                thread,
                called: between + 1 + self.below(effect - between - 1),
                returned: None,
                call,
            });
            // For `effect_of`, until its return is known.
            history.last_mut().unwrap().returned = Some(effect);
        }
        let mut unique = 0;
        for timed in &mut history {
            timed.called = timed.called * 100 + unique;
            timed.returned = timed.returned.map(|at| at * 100 + unique + 50);
            unique += 1;
        }
        history
    }

    /// Gives one call an answer of its own making.
    fn spoil(&mut self, history: &mut [Timed<Call>]) {
        let at = self.below(CALLS) as usize;
        history[at].call = self.call();
    }
}

/// When a call takes effect whose return is not known yet.
fn effect_of(timed: &Timed<Call>) -> u64 {
    timed.returned.unwrap()
}

fn other_verdict(history: &[Timed<Call>]) -> bool {
    let mut events: Vec<_> = history
        .iter()
        .flat_map(|timed| [(timed.called, timed, true), (timed.returned.unwrap(), timed, false)])
        .collect();
    events.sort_by_key(|(at, ..)| *at);
    let mut tester = LinearizabilityTester::new(AtomicKey(State::new()));
    for (_, timed, is_call) in events {
        if is_call {
            tester.on_invoke(timed.thread, ()).unwrap();
        } else {
            tester.on_return(timed.thread, timed.call.clone()).unwrap();
        }
    }
    tester.is_consistent()
}

#[test]
fn both_checkers_say_the_same_of_small_histories() {
    let mut budget = Budget::new("linear-check::both_checkers", "histories compared with stateright", 100);
    let (mut right, mut wrong) = (0, 0);
    while let Some(seed) = budget.next_seed() {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for n in 0..HISTORIES {
            let mut history = random.history();
            if n % 3 > 0 {
                random.spoil(&mut history);
            }
            let verdict = is_linearizable::<AtomicKey>(State::new(), &history);
            assert_eq!(verdict, other_verdict(&history), "{history:#?}");
            assert!(verdict || n % 3 > 0, "a right history was refused: {history:#?}");
            *(if verdict { &mut right } else { &mut wrong }) += 1;
        }
        budget.count(HISTORIES);
    }
    println!("{right} of them right, {wrong} wrong");
    assert!(right > wrong / 4 && wrong > right / 4, "both kinds have to be there");
}
