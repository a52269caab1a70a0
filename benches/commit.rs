//! What claims and completions cost, for engineers that tune them. Beside stores and the disk's
//! own limit: `benches/peers`, command `durable`.
//!
//! ```text
//! cargo bench --bench commit
//! BENCH_DIR=/dev/shm cargo bench --bench commit      # where a sync is free: what the processor does
//! ```

#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on stops")]
#![allow(missing_docs, reason = "what the macros make")]

use std::cell::Cell;

use common::{REQUEST, as_str, body, key};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use futures_executor::block_on;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use idemkv::{Begin, Claim, Engine};

mod common;

fn commit(criterion: &mut Criterion) {
    let scratch = common::scratch();
    let engine = Engine::open(scratch.path().join("commit.idem")).unwrap();
    let next = Cell::new(0);
    let number = || next.replace(next.get() + 1);
    let mut group = criterion.benchmark_group("commit");
    group.throughput(Throughput::Elements(1));
    group.bench_function("one_lifecycle", |bencher| {
        bencher.iter(|| {
            let number = number();
            let claim = granted(engine.default_scope().begin(as_str(&key(number)), REQUEST).unwrap());
            claim.complete(body(number)).unwrap()
        });
    });
    group.bench_function("claim_and_release", |bencher| {
        bencher.iter(|| {
            let claim = granted(engine.default_scope().begin(as_str(&key(number())), REQUEST).unwrap());
            claim.release().unwrap();
        });
    });
    for in_flight in [64, 1_024] {
        group.throughput(Throughput::Elements(in_flight));
        group.bench_function(format!("{in_flight}_tasks"), |bencher| {
            bencher.iter(|| {
                let tasks: FuturesUnordered<_> =
                    (0..in_flight).map(|_| lifecycle(&engine, number())).collect();
                block_on(tasks.collect::<()>());
            });
        });
        group.bench_function(format!("a_batch_of_{in_flight}"), |bencher| {
            bencher.iter(|| {
                let numbers: Vec<u64> = (0..in_flight).map(|_| number()).collect();
                let requests: Vec<_> = numbers.iter().map(|number| (key(*number), REQUEST)).collect();
                let begun = engine.default_scope().begin_many(&requests).into_iter().zip(numbers);
                let claims = begun.map(|(begun, number)| (granted(begun.unwrap()), body(number)));
                assert!(engine.complete_many(claims.collect()).iter().all(Result::is_ok));
            });
        });
    }
    group.finish();
    engine.close().unwrap();
}

async fn lifecycle(engine: &Engine, number: u64) {
    let begun = engine.default_scope().begin_async(as_str(&key(number)), REQUEST).await;
    drop(granted(begun.unwrap()).complete_async(body(number)).await.unwrap());
}

fn granted(begun: Begin) -> Claim {
    match begun {
        Begin::Fresh(claim) => claim,
        other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
    }
}

criterion_group!(benches, commit);
criterion_main!(benches);
