//! Callers that wait for the claims of others.

use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use idemkv::{Begin, Outcome, Waited};

use crate::world::{World, fresh, pending, request};

over_every_core!(
    those_who_wait_learn_how_it_ended,
    tasks_that_wait_learn_how_it_ended,
    a_wait_ends_with_its_time,
    one_that_begins_or_waits_gets_the_claim_after_a_release,
    of_many_threads_with_one_key_one_runs_and_the_others_get_its_result,
);

fn those_who_wait_learn_how_it_ended(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let keys = ["a", "b", "c", "d"];
    let [a, b, c, d] = keys.map(|key| fresh(scope, key));
    let waits = keys.map(|key| {
        let pending = pending(scope, key);
        assert_eq!(pending.attempt(), 1);
        thread::spawn(move || pending.wait().unwrap())
    });
    a.complete("reply").unwrap();
    b.fail("refused").unwrap();
    c.release().unwrap();
    drop(d);
    let ends = waits.map(|wait| wait.join().unwrap());
    assert!(matches!(&ends[0], Waited::Done(record) if record.outcome() == Outcome::Success));
    assert!(matches!(&ends[1], Waited::Done(record) if record.outcome() == Outcome::Failure));
    assert!(matches!(ends[2], Waited::Vacant));
    assert!(matches!(ends[3], Waited::Interrupted));
}

fn tasks_that_wait_learn_how_it_ended(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    block_on(async {
        let Begin::Fresh(claim) = scope.begin_async("key", request()).await.unwrap() else { panic!() };
        let Begin::InFlight(pending) = scope.begin_async("key", request()).await.unwrap() else { panic!() };
        let brief = Duration::from_millis(20);
        assert!(matches!(pending.wait_timeout_async(brief).await, Ok(Waited::TimedOut)));
        let (waited, completed) = futures_util::join!(pending.wait_async(), claim.complete_async("reply"));
        completed.unwrap();
        assert!(matches!(waited.unwrap(), Waited::Done(record) if record.body() == b"reply"));
        // It knows from then on.
        assert!(matches!(pending.await, Ok(Waited::Done(_))));
    });
}

fn a_wait_ends_with_its_time(world: &dyn World) {
    let engine = world.open();
    let scope = engine.default_scope();
    let claim = fresh(scope, "key");
    let pending = pending(scope, "key");
    assert!(matches!(pending.wait_timeout(Duration::ZERO), Ok(Waited::TimedOut)));
    assert!(matches!(pending.wait_timeout(Duration::from_millis(20)), Ok(Waited::TimedOut)));
    let begun = scope.begin_or_wait("key", request(), Duration::from_millis(20));
    assert!(matches!(begun, Ok(Begin::InFlight(_))), "{begun:?}");
    claim.complete("").unwrap();
}

fn one_that_begins_or_waits_gets_the_claim_after_a_release(world: &dyn World) {
    let engine = world.open();
    let scope = engine.scope("");
    let claim = fresh(&scope, "key");
    let twin = thread::spawn({
        let scope = scope.clone();
        move || scope.begin_or_wait("key", request(), Duration::from_secs(60))
    });
    while engine.stats().waiting == 0 {
        thread::yield_now();
    }
    claim.release().unwrap();
    let Ok(Begin::Fresh(claim)) = twin.join().unwrap() else { panic!() };
    claim.complete("reply").unwrap();
}

fn of_many_threads_with_one_key_one_runs_and_the_others_get_its_result(world: &dyn World) {
    let engine = world.open();
    for round in 0..5 {
        let key = format!("key {round}");
        let ran = std::sync::atomic::AtomicUsize::new(0);
        thread::scope(|threads| {
            for _ in 0..8 {
                threads.spawn(|| {
                    let scope = engine.default_scope();
                    match scope.begin_or_wait(&key, request(), Duration::from_secs(60)).unwrap() {
                        Begin::Fresh(claim) => {
                            ran.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                            claim.complete(&key).unwrap();
                        }
                        Begin::Done(record) => assert_eq!(record.body(), key.as_bytes()),
                        Begin::InFlight(_) => panic!("a minute has not passed"),
                    }
                });
            }
        });
        assert_eq!(ran.into_inner(), 1);
    }
}
