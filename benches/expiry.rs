//! What it costs to get rid of what has expired, for engineers that tune it. Under load:
//! `benches/peers`, command `churn`.
//!
//! ```text
//! cargo bench --bench expiry
//! ```

#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on stops")]
#![allow(missing_docs, reason = "what the macros make")]

use std::time::Duration;

use common::{REQUEST, as_str, body, fill, key, scratch};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use idemkv::sim::ManualClock;
use idemkv::{Begin, Engine};
use tempfile::TempDir;

mod common;

const KEYS: u64 = 20_000;
const TTL: Duration = Duration::from_secs(3_600);

/// An engine whose records have all expired, and which has nothing else to do.
struct Expired {
    engine: Engine,
    _scratch: TempDir,
}

impl Expired {
    fn new() -> Self {
        let (scratch, clock) = (scratch(), ManualClock::at_millis(1_800_000_000_000));
        let options = common::unsynced().stepped().clock(&clock).ttl(TTL);
        let engine = options.open(scratch.path().join("expiry.idem")).unwrap();
        fill(&engine, 0..KEYS, body);
        engine.checkpoint().unwrap();
        clock.advance(TTL);
        Self { engine, _scratch: scratch }
    }
}

fn expiry(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("expiry");
    group.sample_size(10).throughput(Throughput::Elements(KEYS));
    // Keys leave memory, and blocks the file.
    group.bench_function("sweep_and_reclaim", |bencher| {
        bencher.iter_batched(
            Expired::new,
            |expired| {
                while expired.engine.stats().entries > 0 {
                    expired.engine.step();
                }
                expired
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("sweep_with_tombstones", |bencher| {
        bencher.iter_batched(
            || {
                let (scratch, clock) = (scratch(), ManualClock::at_millis(1_800_000_000_000));
                let options = common::unsynced().stepped().clock(&clock).ttl(TTL).tombstone_ttl(4 * TTL);
                let engine = options.open(scratch.path().join("expiry.idem")).unwrap();
                fill(&engine, 0..KEYS, body);
                engine.checkpoint().unwrap();
                clock.advance(2 * TTL);
                Expired { engine, _scratch: scratch }
            },
            |expired| {
                expired.engine.checkpoint().unwrap();
                expired
            },
            BatchSize::PerIteration,
        );
    });
    group.throughput(Throughput::Elements(1));
    // Expiry is decided by the clock: a key whose time is over is granted again, whether anybody
    // swept it or not.
    group.bench_function("begin_on_expired", |bencher| {
        let expired = Expired::new();
        let mut number = 0;
        bencher.iter(|| {
            number = (number + 1) % KEYS;
            match expired.engine.default_scope().begin(as_str(&key(number)), REQUEST).unwrap() {
                Begin::Fresh(claim) => claim.release().unwrap(),
                other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("an expired key was {other:?}"),
            }
        });
    });
    group.finish();
}

criterion_group!(benches, expiry);
criterion_main!(benches);
