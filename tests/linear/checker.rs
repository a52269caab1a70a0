//! Whether what threads were told can have come from one thing that does one call after the other, each between its call and its
//! return: the search of Wing and Gong, which never looks at the same calls done and the same state twice.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;

/// What the calls are about, as one thread alone would see it.
pub trait Model {
    type State: Clone + Eq + Hash + Debug;
    type Call: Debug;

    /// In how many steps a call takes effect, 1 to 3; others may come between.
    fn steps(call: &Self::Call) -> u32;

    /// Every state that this step of a call may lead to, with the answer that it got. None where it can't have got that.
    fn step(state: &Self::State, call: &Self::Call, step: u32) -> Vec<Self::State>;

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
const BITS: u32 = 2;

/// How many steps of each call are done.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Progress(u128);

impl Progress {
    fn of(self, call: usize) -> u32 {
        let steps = self.0 >> (BITS as usize * call) & 0b11;
        u32::try_from(steps).unwrap()
    }

    fn step(self, call: usize) -> Self {
        Self(self.0 + (1 << (BITS as usize * call)))
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
        let unfinished =
            || calls.iter().enumerate().filter(|(n, timed)| progress.of(*n) < M::steps(&timed.call));
        // Whatever is called after this comes behind a call that is not finished.
        let Some(first_return) = unfinished().filter_map(|(_, timed)| timed.returned).min() else {
            return true;
        };
        open.extend(M::drift(&state).into_iter().map(|state| (progress, state)));
        for (n, timed) in unfinished().filter(|(_, timed)| timed.called < first_return) {
            let next = M::step(&state, &timed.call, progress.of(n));
            open.extend(next.into_iter().map(|state| (progress.step(n), state)));
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
