//! What is known of the keys of a life.

use std::time::Duration;

pub const SECOND: u64 = 1_000;
pub const HOUR: u64 = 3_600 * SECOND;
pub const DAY: u64 = 24 * HOUR;

/// A scope: how long its records are replayed, and its keys remembered, ms.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub ttl: u64,
    pub remembered: u64,
}

pub const KINDS: [Kind; 6] = [
    Kind { ttl: 2 * SECOND, remembered: 2 * SECOND },
    Kind { ttl: 60 * SECOND, remembered: DAY },
    Kind { ttl: HOUR, remembered: HOUR },
    Kind { ttl: DAY, remembered: 30 * DAY },
    Kind { ttl: 30 * DAY, remembered: 30 * DAY },
    Kind { ttl: 365 * DAY, remembered: 365 * DAY },
];

/// A key that was completed.
#[derive(Clone, Debug)]
pub struct Key {
    pub name: String,
    pub kind: usize,
    pub body: usize,
    pub expires: u64,
    pub until: u64,
    /// No checkpoint was made since it was completed.
    pub is_unstored: bool,
    /// Its body was counted as gone.
    pub is_body_gone: bool,
}

impl Key {
    pub fn is_live(&self, now: u64) -> bool {
        now < self.until
    }

    /// Bytes of the file for it: its part of a block, and of the index row; and a quarter of that
    /// for pages that are not full.
    pub fn file_bytes(&self, now: u64) -> u64 {
        let body = if now < self.expires { self.body } else { 0 };
        (body as u64 + 200) * 5 / 4
    }
}

/// A source of numbers that a seed repeats.
#[derive(Debug)]
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % limit as u64).unwrap()
    }

    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, self.below(at + 1));
        }
    }
}

pub fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
