//! What an opening costs, for engineers that tune it. For large files, and beside redb:
//! `benches/peers`, command `open`.
//!
//! ```text
//! cargo bench --bench open
//! ```

#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on stops")]
#![allow(missing_docs, reason = "what the macros make")]

use std::path::Path;

use common::{body, fill, open_to_fill, scratch, unsynced};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use idemkv::Engine;
use idemkv::sim::{CrashKind, SimDisk};

mod common;

const KEYS: u64 = 100_000;
/// Lifecycles in a log that is replayed.
const LOGGED: u64 = 5_000;

fn open(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("open");
    group.sample_size(20);
    group.throughput(Throughput::Elements(KEYS));
    group.bench_function("after_a_clean_close", |bencher| {
        let scratch = scratch();
        let path = scratch.path().join("open.idem");
        let engine = open_to_fill(&path, 0);
        fill(&engine, 0..KEYS, body);
        engine.close().unwrap();
        bencher.iter_batched(|| (), |()| reopened(&path), BatchSize::PerIteration);
    });
    group.throughput(Throughput::Elements(LOGGED));
    group.bench_function("with_a_log_to_replay", |bencher| {
        let disk = SimDisk::new();
        let engine = unsynced().disk(&disk).stepped().open("open.idem").unwrap();
        fill(&engine, 0..LOGGED, body);
        bencher.iter_batched(
            || disk.image(CrashKind::KeepAll),
            |disk| {
                let engine = unsynced().disk(&disk).stepped().open("open.idem").unwrap();
                assert_eq!(engine.stats().entries as u64, LOGGED);
                engine
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn reopened(path: &Path) -> Engine {
    let engine = unsynced().open(path).unwrap();
    assert_eq!(engine.stats().entries as u64, KEYS);
    engine
}

criterion_group!(benches, open);
criterion_main!(benches);
