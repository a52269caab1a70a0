//! `cache_bytes` is kept under reads, with few long bodies among many short keys.

use crate::common::{Machine, request};
use idemkv::{Begin, Engine, Scope};

const CACHE: usize = 128 << 10;
const BODY: usize = 60_000;
const LONG: usize = 40;

fn complete(engine: &Engine, scope: &Scope, keys: &[String], body: &[u8]) {
    for keys in keys.chunks(500) {
        let requests: Vec<_> = keys.iter().map(|key| (key.as_str(), request())).collect();
        let fresh = scope.begin_many(&requests).into_iter().map(|begun| {
            let Ok(Begin::Fresh(claim)) = begun else { panic!("{begun:?}") };
            (claim, body.to_vec())
        });
        engine.complete_many(fresh.collect::<Vec<_>>()).into_iter().for_each(|ended| drop(ended.unwrap()));
    }
}

/// Only a checkpoint brought back what reads had put into memory.
#[test]
fn long_bodies_that_are_read_among_many_short_keys_stay_within_the_cache() {
    let machine = Machine::default();
    let options = machine.options().max_body_bytes(64 << 10).reserve_bytes(1_024).batch_bytes(256 << 10);
    let options = options.log_segment_bytes(2 << 20).log_bytes(16 << 20).cache_bytes(CACHE).shards(1);
    let engine = options.open("x.idem").unwrap();
    let scope = engine.scope("");
    let short: Vec<_> = (0..12_000).map(|key| format!("short {key}")).collect();
    let long: Vec<_> = (0..LONG).map(|key| format!("long {key}")).collect();
    complete(&engine, &scope, &short, b"reply");
    long.chunks(8).for_each(|keys| complete(&engine, &scope, keys, &vec![1; BODY]));
    engine.checkpoint().unwrap();
    for round in 0..3 {
        for key in &long {
            let Begin::Done(record) = scope.begin(key, request()).unwrap() else { panic!("{key}") };
            assert_eq!(record.body().len(), BODY);
            let cached = engine.stats().cached_bytes;
            assert!(cached <= CACHE, "{cached} bytes in round {round}");
        }
    }
}
