//! Engines with many records in them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use idemkv::{Begin, CommitMode, Durability, Engine, Fingerprint, Options, Recovery};

use super::keys::{key, mixed};

pub(crate) const REQUEST: Fingerprint = Fingerprint::from_bytes([7; 32]);
/// Keys that are claimed together.
const BATCH: u64 = 1_000;

/// Options under which filling is fast; what is measured after it needs no sync.
pub(crate) fn unsynced() -> Options {
    let options = Engine::options().recovery(Recovery::Rerun).durability(Durability::Completions);
    options.commit_mode(CommitMode::Buffered)
}

/// The file at `path`, with a larger log than usual, so that a checkpoint has much to write at
/// once.
pub(crate) fn open_to_fill(path: &Path, cache_bytes: usize) -> Engine {
    let options = unsynced().cache_bytes(cache_bytes).log_segment_bytes(64 << 20).log_bytes(1 << 30);
    // A checkpoint of so much may take a while.
    let options = options.queue_timeout(Duration::from_secs(600));
    options.open(path).expect("the engine opens")
}

/// A body of 80 to 200 bytes, the same for a number at all times.
pub(crate) fn body(number: u64) -> &'static [u8] {
    Bodies::default().of(number)
}

/// How long bodies are.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bodies {
    /// 80 to 200 bytes where this does not say otherwise.
    pub(crate) bytes: Option<usize>,
}

impl Bodies {
    pub(crate) const MAX: usize = 64 << 10;

    pub(crate) fn of(self, number: u64) -> &'static [u8] {
        static LONGEST: [u8; Bodies::MAX] = [b'x'; Bodies::MAX];
        LONGEST.split_at(self.bytes.unwrap_or(80 + mixed(!number) as usize % 121)).0
    }
}

/// Completes all of these numbers' keys.
pub(crate) fn fill(
    engine: &Engine,
    numbers: std::ops::Range<u64>,
    body: impl Fn(u64) -> &'static [u8] + Sync,
) {
    in_parallel(numbers, BATCH, |numbers| complete(engine, numbers, &body));
}

/// Completes these numbers' keys with two commits.
pub(crate) fn complete(engine: &Engine, numbers: std::ops::Range<u64>, body: impl Fn(u64) -> &'static [u8]) {
    let requests: Vec<_> = numbers.clone().map(|number| (key(number), REQUEST)).collect();
    let begun = engine.default_scope().begin_many(&requests).into_iter().zip(numbers);
    let claims = begun.map(|(begun, number)| match begun.expect("an engine at rest grants") {
        Begin::Fresh(claim) => (claim, body(number)),
        other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
    });
    let completed = engine.complete_many(claims.collect());
    assert!(completed.iter().all(Result::is_ok), "a granted claim completes");
}

/// Calls `each` with all of these numbers, some at a time, from as many threads as there are
/// processors.
pub(crate) fn in_parallel(
    numbers: std::ops::Range<u64>,
    at_once: u64,
    each: impl Fn(std::ops::Range<u64>) + Sync,
) {
    let next = AtomicU64::new(numbers.start);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let from = next.fetch_add(at_once, Ordering::Relaxed);
                    if from >= numbers.end {
                        break;
                    }
                    each(from..(from + at_once).min(numbers.end));
                }
            });
        }
    });
}
