//! Scripts as data: what callers, time and openings do, one after the other.

use idemkv::Outcome;

use crate::setting::{KEYS, LEASE, START_MS, forgets_claims, is_leased};

const YEAR_MS: u64 = 365 * 24 * 3_600_000;

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

    /// One of the keys of which this is true.
    fn key(&mut self, is_one: fn(u64) -> bool) -> u64 {
        let keys: Vec<u64> = (0..KEYS).filter(|key| is_one(*key)).collect();
        let which = self.below(keys.len() as u64);
        keys[usize::try_from(which).unwrap()]
    }
}

/// One thing that happens. A key that is named is the first to look at; where it is of no use, the
/// next one is taken that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Begin {
        key: u64,
    },
    /// A task that gives up after so many polls, with a step of the engine between two of them.
    BeginTask {
        key: u64,
        polls: u64,
    },
    BeginMany {
        key: u64,
    },
    /// `seed` draws the body, and what is said about the record.
    Finish {
        key: u64,
        outcome: Outcome,
        seed: u64,
    },
    /// A task that stops waiting after so many polls.
    FinishTask {
        key: u64,
        seed: u64,
        polls: u64,
    },
    CompleteIn {
        key: u64,
        seed: u64,
    },
    /// All claims that are out.
    CompleteMany,
    Release {
        key: u64,
    },
    /// Nothing was done with the claim.
    PutBack {
        key: u64,
    },
    DropClaim {
        key: u64,
    },
    /// The caller panics, and the claim is lost in that.
    Panic {
        key: u64,
    },
    Renew {
        key: u64,
    },
    Forget {
        key: u64,
    },
    Resolve {
        key: u64,
    },
    /// Only the attempt that is seen at the moment, or only the last one that was granted any key.
    ResolveIf {
        key: u64,
        is_seen: bool,
    },
    Note {
        key: u64,
        seed: u64,
    },
    /// A task that stops waiting for its progress after so many polls.
    NoteTask {
        key: u64,
        seed: u64,
        polls: u64,
    },
    HandOver {
        key: u64,
    },
    TakeUp {
        key: u64,
    },
    Declare {
        scope: u64,
    },
    Checkpoint,
    Step,
    Flush,
    Advance {
        seconds: u64,
    },
    /// Somebody sets the wall clock.
    JumpWall {
        to_ms: u64,
    },
    /// A clean close, and the next opening.
    Reopen,
}

impl Op {
    pub(crate) fn draw(random: &mut Random) -> Self {
        let (key, seed, polls) = (random.below(KEYS), random.below(1 << 40), random.below(4));
        match random.below(50) {
            0..10 => Self::Begin { key },
            10..13 => Self::BeginTask { key, polls },
            13 => Self::BeginMany { key },
            14..18 => Self::Finish { key, outcome: Outcome::Success, seed },
            18 => Self::Finish { key, outcome: Outcome::Failure, seed },
            19 => Self::FinishTask { key, seed, polls },
            20 => Self::CompleteIn { key, seed },
            21 if seed.is_multiple_of(2) => Self::CompleteMany,
            21 => Self::Panic { key },
            23 if seed.is_multiple_of(2) => Self::PutBack { key },
            22 | 23 => Self::Release { key },
            24 | 25 => Self::DropClaim { key },
            26 | 27 => Self::Forget { key },
            28 | 29 => Self::Checkpoint,
            30..34 => Self::Step,
            // A lease or two at most, or up to more than a TTL.
            34 | 35 => Self::Advance { seconds: seed % 600 },
            36 => Self::Advance { seconds: seed % 3_000 },
            37 if seed.is_multiple_of(3) => Self::JumpWall { to_ms: wall(seed / 3) },
            37 => Self::Renew { key },
            38 if seed.is_multiple_of(2) => Self::NoteTask { key, seed, polls },
            38..41 => Self::Note { key, seed },
            41..44 => Self::HandOver { key: key.clamp(3, 4) },
            44 | 45 => Self::TakeUp { key },
            47 if seed.is_multiple_of(2) => Self::ResolveIf { key, is_seen: !seed.is_multiple_of(3) },
            46 | 47 => Self::Resolve { key },
            48 if seed.is_multiple_of(2) => Self::Declare { scope: seed / 2 },
            48 => Self::Flush,
            _ => Self::Reopen,
        }
    }

    /// Calls in a row that chance alone would seldom bring about: a claim that memory alone knows
    /// of is given up while its progress is on the way, and the next one ends in the store, past
    /// the log.
    fn note_given_up(random: &mut Random) -> [Self; 5] {
        let (key, seed) = (random.key(forgets_claims), random.below(1 << 40));
        let note = Self::NoteTask { key, seed, polls: 1 };
        [
            Self::Begin { key },
            note,
            Self::DropClaim { key },
            Self::Begin { key },
            Self::CompleteIn { key, seed },
        ]
    }

    /// And a claim that is handed over, and taken up when its lease is over and somebody else has
    /// the key.
    fn token_too_late(random: &mut Random) -> [Self; 6] {
        let key = random.key(is_leased);
        let (begin, over) = (Self::Begin { key }, Self::Advance { seconds: LEASE.as_secs() });
        [begin, Self::HandOver { key }, begin, over, begin, Self::TakeUp { key }]
    }
}

/// Where a wall clock may be set: years off in either direction, and at the ends.
fn wall(draw: u64) -> u64 {
    let years = (draw / 8 % 200) * YEAR_MS;
    match draw % 8 {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - years,
        3 => i64::MAX.cast_unsigned(),
        4 => START_MS.saturating_sub(years),
        5 => START_MS,
        _ => START_MS + years,
    }
}

/// What one seed stands for.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    pub(crate) seed: u64,
    /// What the wall clock says when the file is made.
    pub(crate) start_ms: u64,
    pub(crate) ops: Vec<Op>,
}

impl Script {
    pub(crate) fn draw(seed: u64, len: usize) -> Self {
        let mut random = Random::new(seed);
        let mut ops = Vec::with_capacity(len + 5);
        while ops.len() < len {
            match random.below(80) {
                0 => ops.extend(Op::note_given_up(&mut random)),
                1 => ops.extend(Op::token_too_late(&mut random)),
                _ => ops.push(Op::draw(&mut random)),
            }
        }
        ops.truncate(len);
        Self { seed, start_ms: START_MS, ops }
    }

    /// One that begins at a time far off.
    pub(crate) fn draw_at_an_edge(seed: u64, len: usize) -> Self {
        Self { start_ms: wall(Random::new(!seed).below(1 << 32)), ..Self::draw(seed, len) }
    }
}
