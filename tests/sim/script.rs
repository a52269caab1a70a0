//! Scripts as data: what callers, time and whoever opens the file do, one after the other.

use idemkv::Outcome;

use crate::KEYS;

/// A small generator, so that a seed means the same script everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Seeds that are neighbours must not draw alike.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..4).for_each(|_| _ = random.below(2));
        random
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// One thing that happens. A key that is named is the first to look at; where it is of no use, the next one is taken that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Begin {
        key: u64,
    },
    /// `seed` draws the body, and what is said about the record.
    Finish {
        key: u64,
        outcome: Outcome,
        seed: u64,
    },
    Release {
        key: u64,
    },
    DropClaim {
        key: u64,
    },
    Forget {
        key: u64,
    },
    Resolve {
        key: u64,
    },
    Note {
        key: u64,
        seed: u64,
    },
    HandOver {
        key: u64,
    },
    TakeUp {
        key: u64,
    },
    Declare,
    Checkpoint,
    Step,
    Advance {
        seconds: u64,
    },
    /// A clean close, and the next opening.
    Reopen,
}

impl Op {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let (key, seed) = (random.below(KEYS), random.below(1 << 40));
        match random.below(29) {
            0..8 => Self::Begin { key },
            8..10 => Self::Finish { key, outcome: Outcome::Success, seed },
            10 => Self::Finish { key, outcome: Outcome::Failure, seed },
            11 => Self::Release { key },
            12 => Self::DropClaim { key },
            13..15 => Self::Forget { key },
            15 => Self::Checkpoint,
            16..18 => Self::Step,
            // A lease or two at most, or up to more than a TTL.
            18 => Self::Advance { seconds: seed % 600 },
            19 => Self::Advance { seconds: seed % 3_000 },
            20..22 => Self::Note { key, seed },
            22..24 => Self::HandOver { key },
            24..26 => Self::TakeUp { key },
            26 => Self::Resolve { key },
            27 => Self::Declare,
            _ => Self::Reopen,
        }
    }
}

/// What one seed stands for.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    pub(crate) ops: Vec<Op>,
}

impl Script {
    pub(crate) fn draw(seed: u64, len: usize) -> Self {
        let mut random = Random::new(seed);
        Self { seed, ops: (0..len).map(|_| Op::draw(&mut random)).collect() }
    }
}
