//! How long a rig runs: some rounds in `cargo test`, or for as long as it is told to.
//!
//! `IDEMKV_SECONDS=n` makes every rig go on for about that long, from a seed of its own choice,
//! and say how far it is. `IDEMKV_SEED=n` starts at a seed: the first round is then the one that a
//! failure named.

#![allow(
    dead_code,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "each rig uses a part of it; its time is real"
)]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

const SECONDS_VARIABLE: &str = "IDEMKV_SECONDS";
const SEED_VARIABLE: &str = "IDEMKV_SEED";
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Rounds of a rig, and what they came to. Says so on standard output when it is dropped.
#[derive(Debug)]
pub struct Budget {
    /// The test, as `cargo test` names it: `binary::path`.
    rig: &'static str,
    /// What is counted.
    what: &'static str,
    started: Instant,
    length: Length,
    first_seed: u64,
    next_seed: u64,
    count: u64,
    told: Instant,
}

#[derive(Debug)]
enum Length {
    Rounds(u64),
    Time(Duration),
}

impl Budget {
    /// A rig that counts `what`, and has so many `rounds` in `cargo test`.
    pub fn new(rig: &'static str, what: &'static str, rounds: u64) -> Self {
        let length = match number(SECONDS_VARIABLE) {
            Some(seconds) => Length::Time(Duration::from_secs(seconds)),
            None => Length::Rounds(rounds),
        };
        let first_seed = number(SEED_VARIABLE).unwrap_or_else(|| match length {
            Length::Rounds(_) => 1,
            // Far from the others' seeds, and short enough to be typed.
            Length::Time(_) => RandomState::new().build_hasher().finish() >> 24,
        });
        let now = Instant::now();
        Self { rig, what, started: now, length, first_seed, next_seed: first_seed, count: 0, told: now }
    }

    /// Whether this is more than `cargo test` asks for.
    pub fn is_long(&self) -> bool {
        matches!(self.length, Length::Time(_))
    }

    /// The seed of the next round, as long as there is one.
    pub fn next_seed(&mut self) -> Option<u64> {
        let seed = self.next_seed;
        let goes_on = match self.length {
            Length::Rounds(rounds) => seed - self.first_seed < rounds,
            Length::Time(time) => self.started.elapsed() < time,
        };
        if self.is_long() && self.told.elapsed() >= PROGRESS_EVERY {
            self.told = Instant::now();
            println!("{}: {} {} in {} s", self.rig, self.count, self.what, self.started.elapsed().as_secs());
        }
        self.next_seed += 1;
        goes_on.then_some(seed)
    }

    /// So many more of what it counts.
    pub fn count(&mut self, more: u64) {
        self.count += more;
    }

    pub fn total(&self) -> u64 {
        self.count
    }
}

impl Drop for Budget {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let seed = self.next_seed.saturating_sub(1);
            eprintln!("{}: failed at {SEED_VARIABLE}={seed}, after {} {}", self.rig, self.count, self.what);
            return;
        }
        let seconds = self.started.elapsed().as_secs_f64();
        let seeds = format!("{}..{}", self.first_seed, self.next_seed.saturating_sub(1));
        println!("evidence: {} | {} | {} | {seconds:.1} s | seeds {seeds}", self.rig, self.count, self.what);
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
