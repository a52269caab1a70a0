//! How many instructions a call takes: counts can be repeated where times can't.
//!
//! `benches/instructions` runs this under callgrind, which counts within the functions named
//! `counted_..` alone, and compares with `benches/instructions.txt`. By itself this program only
//! does the work.
//!
//! The engine is stepped by hand and draws its secrets from a seed, so that two runs do the same.

#![allow(clippy::print_stdout, reason = "a benchmark says what it found")]
#![allow(clippy::disallowed_methods, reason = "shared with benchmarks that measure time")]
#![allow(clippy::unwrap_used, reason = "a benchmark that can't go on stops")]

use std::hint::black_box;

use common::{REQUEST, as_str, key};
use idemkv::{Begin, BeginError, CommitMode, Engine, Fingerprint, Scope, Status};

mod common;

/// Calls that are counted, of each kind.
const CALLS: u64 = 2_000;
const BODY: [u8; 80] = [b'x'; 80];
const BATCH: usize = 32;

fn main() {
    let scratch = common::scratch();
    // A log that never fills, so that nothing but what is asked for goes to the store.
    let options = Engine::options().stepped().seed(1).commit_mode(CommitMode::Buffered);
    let options = options.log_segment_bytes(32 << 20).log_bytes(256 << 20);
    let engine = options.open(scratch.path().join("instructions.idem")).unwrap();
    grow_the_log(&engine);
    // What the first calls set up is not counted.
    (0..100).for_each(|number| complete(&engine, number));
    counted_claim_and_complete(&engine);
    counted_lookup_hit(&engine);
    begin_on_done(&engine);
    counted_lookup_miss(&engine);
    tidy_memory();
    counted_batch_hit(&engine);
    engine.checkpoint().unwrap();
    counted_batch_claim_and_complete(&engine);
    counted_checkpoint(&engine);
    println!("{CALLS} calls of each kind");
    engine.close().unwrap();
}

/// A log starts small and is as long as claims that are out want it. It does not shrink, so that
/// writing its zeros is not counted.
fn grow_the_log(engine: &Engine) {
    let keys: Vec<_> = (0..12_000).map(|number| (format!("early {number}"), REQUEST)).collect();
    for claim in engine.default_scope().begin_many(&keys) {
        match claim.unwrap() {
            Begin::Fresh(claim) => claim.release().unwrap(),
            other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
        }
    }
    engine.checkpoint().unwrap();
    tidy_memory();
}

/// Has the allocator put together what was freed, so that no call that is counted happens to do
/// it: glibc's does with a large free.
fn tidy_memory() {
    drop(black_box(vec![1_u8; 100_000]));
}

#[inline(never)]
fn complete(engine: &Engine, number: u64) {
    match engine.default_scope().begin(as_str(&key(number)), REQUEST).unwrap() {
        Begin::Fresh(claim) => drop(claim.complete(BODY).unwrap()),
        other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
    }
}

#[inline(never)]
fn counted_claim_and_complete(engine: &Engine) {
    (100..100 + CALLS).for_each(|number| complete(engine, number));
}

#[inline(never)]
fn counted_lookup_hit(engine: &Engine) {
    for number in 100..100 + CALLS {
        match engine.default_scope().begin(as_str(&key(number)), REQUEST) {
            Ok(Begin::Done(record)) => drop(black_box(record)),
            other => panic!("key {number} was {other:?}"),
        }
    }
}

/// The same lookups, of which only the begin is counted.
fn begin_on_done(engine: &Engine) {
    let scope = engine.default_scope();
    for number in 100..100 + CALLS {
        match counted_begin_on_done(scope, as_str(&key(number)), REQUEST) {
            Ok(Begin::Done(record)) => drop(black_box(record)),
            other => panic!("key {number} was {other:?}"),
        }
    }
}

#[inline(never)]
fn counted_begin_on_done(scope: &Scope, key: &str, request: Fingerprint) -> Result<Begin, BeginError> {
    scope.begin(key, request)
}

#[inline(never)]
fn counted_lookup_miss(engine: &Engine) {
    for number in 0..CALLS {
        let status = engine.default_scope().get(as_str(&key(u64::MAX - number)));
        assert!(matches!(black_box(status), Ok(Status::Vacant)));
    }
}

#[inline(never)]
fn counted_batch_hit(engine: &Engine) {
    let mut requests = [([0; 36], REQUEST); BATCH];
    for first in (100..100 + CALLS).step_by(BATCH) {
        let last = (first + BATCH as u64).min(100 + CALLS);
        requests.iter_mut().zip(first..last).for_each(|((to, _), number)| *to = key(number));
        black_box(engine.default_scope().begin_many(&requests));
    }
}

/// Two commits for [`CALLS`] claims: what a claim costs beside its share of a commit.
#[inline(never)]
fn counted_batch_claim_and_complete(engine: &Engine) {
    let requests: Vec<_> = (0..CALLS).map(|number| (key(1_000_000 + number), REQUEST)).collect();
    let claims = engine.default_scope().begin_many(&requests).into_iter().map(|begun| match begun.unwrap() {
        Begin::Fresh(claim) => (claim, BODY),
        other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
    });
    assert!(engine.complete_many(claims.collect()).iter().all(Result::is_ok));
}

/// The records of all calls so far go to the store: what the background does for each.
#[inline(never)]
fn counted_checkpoint(engine: &Engine) {
    engine.checkpoint().unwrap();
}
