//! Real processes on real files: killed at random moments and at numbered system calls, with
//! errors from the operating system, on a disk that is full, on a file system whose power is cut;
//! with an oracle outside the process.
//!
//! A test runs this very binary again as the process that is tormented. Where a test needs a tool
//! of the operating system, or a right, that is not there, it says so and passes: look for
//! `SKIPPED` in the output of `cargo test -- --nocapture`.
#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::format_collect,
    clippy::pedantic,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    clippy::match_bool,
    clippy::unnecessary_wraps,
    reason = "tests"
)]

#[path = "../common/budget.rs"]
mod budget;
mod calls;
mod errors;
mod full;
mod judge;
mod kill;
mod life;
mod names;
mod oracle;
mod power;
mod worker;

use std::process::Command;

use idemkv::{Engine, Fingerprint, Options, Recovery};

const FILE_VARIABLE: &str = "IDEMKV_REAL_FILE";
const ORDER_VARIABLE: &str = "IDEMKV_REAL_ORDER";

/// Splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What both sides derive from a key's number and a fence, without asking each other.
fn is_forgettable(key: u64) -> bool {
    key % 4 == 3
}

fn request_of(key: u64) -> Fingerprint {
    Fingerprint::of(format!("request {key}"))
}

/// A body that no other claim has; some fit a sector, some don't.
fn body_of(key: u64, fence: u64) -> Vec<u8> {
    let mut random = Random(key << 40 ^ fence);
    let len = if random.below(3) == 0 { 4_000 } else { 10 };
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(len).collect()
}

/// A body's length and digest, as told on the pipe.
fn sum_of(body: &[u8]) -> String {
    let digest = Fingerprint::of(body);
    let hex: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hex}", body.len())
}

/// With small ones, kills hit checkpoints, and segments that are recycled and added.
fn small_options() -> Options {
    Engine::options()
        .max_body_bytes(4_096)
        .reserve_bytes(4_096)
        .batch_bytes(4_096)
        .cache_bytes(16 << 10)
        .max_in_flight(64)
        .log_segment_bytes(64 << 10)
        .log_bytes(1 << 20)
}

/// What a worker is told to be.
struct Order {
    small: bool,
    /// Only walk over the file and close it.
    walk_only: bool,
    /// The number of its life.
    life: u64,
    seed: u64,
    /// After so many lines it aborts by itself; 0: never.
    lines_max: u64,
}

impl Order {
    fn to_text(&self) -> String {
        format!("{} {} {} {} {}", self.small, self.walk_only, self.life, self.seed, self.lines_max)
    }

    fn from_text(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        Self {
            small: words[0] == "true",
            walk_only: words[1] == "true",
            life: words[2].parse().unwrap(),
            seed: words[3].parse().unwrap(),
            lines_max: words[4].parse().unwrap(),
        }
    }

    fn options(&self) -> Options {
        let options = if self.small { small_options() } else { Engine::options() };
        // Half of all lives may run nothing again without resolving it.
        let recovery = if self.seed.is_multiple_of(2) { Recovery::Rerun } else { Recovery::Refuse };
        options.recovery(recovery)
    }
}

/// Whether a command of the operating system is there and allowed to do its work here.
fn works(command: &str, arguments: &[&str]) -> bool {
    let output = Command::new(command).args(arguments).output();
    output.is_ok_and(|output| output.status.success())
}

/// Whether system calls of a process can be counted, and be made to fail or kill.
fn can_inject() -> bool {
    let can = works("strace", &["-f", "-qq", "-o", "/dev/null", "-e", "trace=fdatasync", "true"]);
    if !can {
        println!("SKIPPED: needs strace, and the right to trace a child");
    }
    can
}
