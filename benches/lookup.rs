//! What a lookup costs, for engineers that tune it. Beside other maps: `benches/peers`, command
//! `lookup`.
//!
//! ```text
//! cargo bench --bench lookup
//! cargo bench --bench lookup -- begin_done
//! ```

#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on stops")]
#![allow(missing_docs, reason = "what the macros make")]

use std::hint::black_box;

use common::{REQUEST, as_str, body, fill, key, mixed, open_to_fill};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use idemkv::{Begin, Engine, Status};

mod common;

const SIZES: [u64; 2] = [100_000, 1_000_000];
const BATCH: u64 = 32;

fn lookup(criterion: &mut Criterion) {
    for keys in SIZES {
        let scratch = common::scratch();
        let engine = open_to_fill(&scratch.path().join("lookup.idem"), usize::MAX / 2);
        fill(&engine, 0..keys, body);
        engine.checkpoint().unwrap();
        of_size(criterion, &engine, keys);
        engine.close().unwrap();
    }
}

fn of_size(criterion: &mut Criterion, engine: &Engine, keys: u64) {
    let mut group = criterion.benchmark_group(format!("lookup/{keys}"));
    let mut draw = 0;
    let mut next = || {
        draw += 1;
        mixed(draw) % keys
    };
    group.bench_function("begin_done", |bencher| bencher.iter(|| begin(engine, next())));
    group.bench_function("begin_done_one_hot_key", |bencher| bencher.iter(|| begin(engine, 0)));
    group.bench_function("get_done", |bencher| {
        bencher.iter(|| {
            let status = engine.default_scope().get(as_str(&key(next()))).unwrap();
            assert!(matches!(black_box(status), Status::Done(_)));
        });
    });
    group.bench_function("get_unknown", |bencher| {
        bencher.iter(|| {
            let status = engine.default_scope().get(as_str(&key(u64::MAX - next()))).unwrap();
            assert!(matches!(black_box(status), Status::Vacant));
        });
    });
    group.throughput(Throughput::Elements(BATCH));
    group.bench_function("begin_many_of_32_done", |bencher| {
        bencher.iter(|| {
            let requests: Vec<_> = (0..BATCH).map(|_| (key(next()), REQUEST)).collect();
            for begun in engine.default_scope().begin_many(&requests) {
                assert!(matches!(black_box(begun), Ok(Begin::Done(_))));
            }
        });
    });
    group.finish();
}

fn begin(engine: &Engine, number: u64) {
    match engine.default_scope().begin(as_str(&key(number)), REQUEST) {
        Ok(Begin::Done(record)) => drop(black_box(record)),
        other => panic!("key {number} was {other:?}"),
    }
}

criterion_group!(benches, lookup);
criterion_main!(benches);
