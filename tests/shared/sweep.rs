//! Expired rows are deleted, by one process at a time.

use std::time::Duration;

use futures_executor::block_on;
use futures_util::future::join_all;
use idemkv::{Begin, OpenError, Policy, Recovery, SharedOptions, Status};

use crate::lapsed::{LONG, Shifted};
use crate::server::{claim, request, within};

#[test]
fn expired_rows_are_deleted_and_others_stay() {
    let server = server!();
    let brief = Duration::from_millis(20);
    let options = || server.options("sweep_expired").sweep_every(Some(brief));
    let (one, two) = (options().connect().unwrap(), options().connect().unwrap());
    let gone = one.scope("gone");
    one.set_policy("gone", Policy::default().ttl(Duration::from_millis(1)).recovery(Recovery::Rerun))
        .unwrap();
    claim(&one.scope("kept"), "done").complete("reply").unwrap();
    let held = claim(&gone, "held");
    block_on(join_all((0..300).map(|number| {
        let gone = gone.clone();
        async move {
            let Ok(Begin::Fresh(claim)) = gone.begin_async(format!("key {number}"), request()).await else {
                panic!()
            };
            claim.complete_async("x".repeat(100)).await.unwrap();
        }
    })));
    while server.one("SELECT count(*) FROM sweep_expired.keys WHERE state = 3") != "1" {
        std::thread::yield_now();
    }
    // A sweep may still be on its way back to the process that counts it.
    let swept = || one.shared_stats().unwrap().swept + two.shared_stats().unwrap().swept;
    while swept() < 300 {
        std::thread::yield_now();
    }
    assert_eq!(swept(), 300);
    assert!(matches!(one.scope("kept").get("done"), Ok(Status::Done(_))));
    held.complete("reply").unwrap();
}

/// Together they take longer than a statement may.
#[test]
fn rows_with_large_results_are_deleted_in_parts() {
    let server = server!();
    let store = server.options("sweep_large").sweep_every(None).connect().unwrap();
    let policy = Policy::default().ttl(Duration::from_millis(1)).recovery(Recovery::Rerun);
    let scope = store.set_policy("", policy).unwrap();
    let mut random = crate::random::Random(1);
    let body: Vec<u8> = (0..1 << 17).flat_map(|_| random.below(u64::MAX).to_le_bytes()).collect();
    for number in 0..24 {
        claim(&scope, &number.to_string()).complete(&body).unwrap();
    }
    server.sql(
        "CREATE FUNCTION sweep_large.slow() RETURNS trigger LANGUAGE plpgsql \
           AS 'BEGIN PERFORM pg_sleep(0.05); RETURN OLD; END'; \
         CREATE TRIGGER slow BEFORE DELETE ON sweep_large.keys FOR EACH ROW EXECUTE FUNCTION sweep_large.slow()",
    );
    let options = server.options("sweep_large").statement_timeout(Duration::from_millis(900));
    let sweeper = options.sweep_every(Some(Duration::from_millis(20))).connect().unwrap();
    let left = || server.one("SELECT count(*) FROM sweep_large.keys");
    assert!(within(Duration::from_secs(30), || left() == "0"), "{} are left", left());
    sweeper.close().unwrap();
}

#[test]
fn a_claim_whose_process_is_gone_is_interrupted_without_a_begin() {
    let server = server!();
    let options = || {
        server
            .options("sweep_lapse")
            .session(Duration::from_secs(1))
            .sweep_every(Some(Duration::from_millis(50)))
    };
    let (one, two) = (options().connect().unwrap(), options().connect().unwrap());
    std::mem::forget(claim(&one.scope(""), "key"));
    one.close().unwrap();
    while server.one("SELECT state FROM sweep_lapse.keys") != "2" {
        std::thread::yield_now();
    }
    assert!(matches!(two.scope("").get("key"), Ok(Status::Interrupted(_))));
}

/// The duty rested until a time of the clock before.
#[test]
fn a_clock_that_is_set_back_does_not_stop_the_sweep() {
    let server = server!();
    let clock = Shifted::new(server, "sweep_back");
    clock.set(Duration::from_secs(3_600));
    let store = clock.options(LONG).sweep_every(Some(Duration::from_millis(20))).connect().unwrap();
    let policy = Policy::default().ttl(Duration::from_millis(1)).recovery(Recovery::Rerun);
    let scope = store.set_policy("", policy).unwrap();
    for back in [false, true] {
        if back {
            clock.set(Duration::ZERO);
        }
        claim(&scope, "key").complete("reply").unwrap();
        let left = || server.one("SELECT count(*) FROM sweep_back.keys");
        assert!(within(Duration::from_secs(30), || left() == "0"), "{back}");
    }
}

#[test]
fn spans_that_would_keep_the_server_busy_are_refused() {
    let options = || SharedOptions::new("postgres://idemkv@127.0.0.1:1/postgres");
    for every in [Duration::ZERO, Duration::from_millis(9), Duration::from_secs(86_401), Duration::MAX] {
        for options in [options().sweep_every(Some(every)), options().count_every(Some(every))] {
            let error = options.connect();
            assert!(matches!(error, Err(OpenError::Option(_))), "{every:?}: {error:?}");
        }
    }
}
