//! Whether what threads were told can have come from one thing that does one call after the other,
//! each between its call and its return: the search of Wing and Gong, which never looks at the
//! same calls done and the same state twice.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What the calls are about, as one thread alone would see it.
pub trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Call: Debug;

    /// What this step of a call, the first of which is 0, may lead to with the answer that it got:
    /// the call's next step, or [`DONE`], and the state. None where it can't have got that. Others
    /// may come between two steps.
    fn step(state: &Self::State, call: &Self::Call, step: u32) -> Vec<(u32, Self::State)>;

    /// Every state that may come by itself.
    fn drift(state: &Self::State) -> Vec<Self::State>;
}

/// A call with its answer, and when it was called and returned on a clock that all threads share.
#[derive(Clone, Debug)]
pub struct Timed<C> {
    pub thread: usize,
    pub called: u64,
    /// `None` where it never returned: it may have had its effect or not.
    pub returned: Option<u64>,
    pub call: C,
}

/// Calls of one history, at most.
pub const CALLS_MAX: usize = 64;
/// A call has taken effect. All its steps have lower numbers.
pub const DONE: u32 = 0b11;
const BITS: u32 = 2;

/// The next step of each call.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Progress(u128);

impl Progress {
    fn of(self, call: usize) -> u32 {
        let step = self.0 >> (BITS as usize * call) & u128::from(DONE);
        u32::try_from(step).unwrap()
    }

    fn with(self, call: usize, step: u32) -> Self {
        assert!(step <= DONE, "step {step} has no place");
        let shift = BITS as usize * call;
        Self(self.0 & !(u128::from(DONE) << shift) | u128::from(step) << shift)
    }
}

/// Whether there is an order of the calls that explains every answer.
///
/// # Panics
///
/// Where there are more than [`CALLS_MAX`].
pub fn is_linearizable<M: Model>(start: M::State, calls: &[Timed<M::Call>]) -> bool {
    assert!(calls.len() <= CALLS_MAX, "{} calls are too many", calls.len());
    let mut seen = HashSet::new();
    let mut open = vec![(Progress(0), start)];
    while let Some((progress, state)) = open.pop() {
        if !seen.insert((progress, state.clone())) {
            continue;
        }
        let unfinished = || calls.iter().enumerate().filter(|(n, _)| progress.of(*n) != DONE);
        // Whatever is called after this comes behind a call that is not finished.
        let Some(first_return) = unfinished().filter_map(|(_, timed)| timed.returned).min() else {
            return true;
        };
        open.extend(M::drift(&state).into_iter().map(|state| (progress, state)));
        for (n, timed) in unfinished().filter(|(_, timed)| timed.called < first_return) {
            let next = M::step(&state, &timed.call, progress.of(n));
            open.extend(next.into_iter().map(|(step, state)| (progress.with(n, step), state)));
        }
    }
    false
}

/// Pairs of calls of different threads that were under way at the same time.
pub fn overlaps<C>(calls: &[Timed<C>]) -> usize {
    let end = |timed: &Timed<C>| timed.returned.unwrap_or(u64::MAX);
    let overlap = |one: &Timed<C>, other: &Timed<C>| {
        one.thread != other.thread && one.called < end(other) && other.called < end(one)
    };
    calls
        .iter()
        .enumerate()
        .map(|(n, one)| calls.iter().skip(n + 1).filter(|other| overlap(one, other)).count())
        .sum()
}
