//! What will go wrong, and in which order events are delivered: the same in every run.

use crate::event::Event;
use crate::random::Random;

/// What happens to a handler, once in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mishap {
    /// Nothing.
    None,
    /// The other system says no, and will always say so.
    Declined,
    /// The other system can't be reached, so there certainly is no effect.
    Unreachable,
    /// The handler panics before its effect.
    PanicBefore,
    /// The handler panics after its effect, and before it could say so.
    PanicAfter,
}

impl Mishap {
    /// What happens to the handler of the event on this line.
    pub(crate) fn of(line: usize) -> Self {
        match draw(line, 0xbad).below(100) {
            0..6 => Self::Declined,
            6..12 => Self::Unreachable,
            12..18 => Self::PanicBefore,
            18..24 => Self::PanicAfter,
            _ => Self::None,
        }
    }
}

/// Whether somebody else uses the key of the event on this line for another payload.
pub(crate) fn is_reused(line: usize) -> bool {
    draw(line, 0x5e1f).below(10) == 0
}

/// How long the handler of the event on this line takes, in microseconds.
pub(crate) fn work_us(line: usize) -> u64 {
    200 + draw(line, 0x70b5).bits() % 1_800
}

/// The effect after which the first process aborts: somewhere in the middle, and one that happens
/// for certain.
pub(crate) fn crash_after(events: &[Event]) -> u64 {
    let third = events.len() / 3;
    u64::try_from(third + Random::new(0xdead).below(third)).unwrap_or(0).max(1)
}

/// Each event one to nine times, as positions in `events`, shuffled. An impatient sender's come
/// twice in a row.
pub(crate) fn deliveries(events: &[Event]) -> Vec<usize> {
    let mut random = Random::new(0xde11);
    let mut runs = Vec::new();
    for position in 0..events.len() {
        let mut left = 1 + random.below(9);
        while left > 0 {
            let run = if random.below(4) == 0 { left.min(2) } else { 1 };
            runs.push((position, run));
            left -= run;
        }
    }
    random.shuffle(&mut runs);
    runs.into_iter().flat_map(|(position, run)| std::iter::repeat_n(position, run)).collect()
}

fn draw(line: usize, salt: u64) -> Random {
    let line = u64::try_from(line).unwrap_or(0);
    Random::new(Random::new(line ^ (salt << 40)).bits())
}
