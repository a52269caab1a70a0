//! What several tests need.

#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test uses a part of it"
)]

pub mod budget;
pub mod random;
pub mod shown;

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use idemkv::sim::{ManualClock, SimDisk};
use idemkv::{Begin, Claim, Engine, Fingerprint, Options, Policy, Record, Recovery, Scope};

pub const START_MS: u64 = 1_800_000_000_000;
pub const TTL: Duration = Duration::from_secs(3_600);
/// How long interrupted keys are remembered.
pub const UNRESOLVED: Duration = Duration::from_secs(3 * 3_600);

/// A simulated machine: a disk and a clock.
#[derive(Clone)]
pub struct Machine {
    pub disk: SimDisk,
    pub clock: ManualClock,
    pub recovery: Recovery,
}

impl Default for Machine {
    fn default() -> Self {
        Self { disk: SimDisk::new(), clock: ManualClock::at_millis(START_MS), recovery: Recovery::default() }
    }
}

impl Machine {
    /// One whose engines grant interrupted keys again.
    pub fn rerun() -> Self {
        Self { recovery: Recovery::Rerun, ..Self::default() }
    }

    /// Options of a small engine without threads.
    pub fn options(&self) -> Options {
        let policy = Policy::default().ttl(TTL).unresolved_ttl(UNRESOLVED).recovery(self.recovery);
        small(Engine::options()).disk(&self.disk).clock(&self.clock).stepped().seed(1).policy(policy)
    }

    pub fn open(&self) -> Engine {
        self.options().open("x.idem").unwrap()
    }

    /// The process dies with all it held, and starts again; the machine goes on.
    pub fn kill<T>(&self, held: T) {
        self.disk.crash_at(self.disk.operations());
        drop(held);
        self.disk.restart_process();
    }
}

/// A log small enough that tests fill it.
pub fn small(options: Options) -> Options {
    options
        .max_body_bytes(4_096)
        .reserve_bytes(4_096)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(512 << 10)
}

pub fn request() -> Fingerprint {
    Fingerprint::of("request")
}

#[track_caller]
pub fn fresh(scope: &Scope, key: &str) -> Claim {
    match scope.begin(key, request()) {
        Ok(Begin::Fresh(claim)) => claim,
        other => panic!("{key} should be fresh, is {other:?}"),
    }
}

#[track_caller]
pub fn done(scope: &Scope, key: &str) -> Record {
    match scope.begin(key, request()) {
        Ok(Begin::Done(record)) => record,
        other => panic!("{key} should be done, is {other:?}"),
    }
}

pub fn default_scope(engine: &Engine) -> Scope {
    engine.scope("")
}

/// Asks a future once.
pub fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
pub fn ready<F: Future + ?Sized>(future: Pin<&mut F>) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("should be ready"),
    }
}

/// Carries out a task's call on an engine that is stepped by hand.
#[track_caller]
pub fn run<F: Future>(engine: &Engine, call: F) -> F::Output {
    let mut call = pin!(call);
    for _ in 0..8 {
        if let Poll::Ready(output) = poll(call.as_mut()) {
            return output;
        }
        engine.step();
    }
    panic!("should be ready by now")
}
