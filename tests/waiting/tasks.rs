//! Calls of tasks: they never block, they can be dropped at any point, and nobody is left waiting.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh, request};
use crate::helpers::{Count, Gone, pending, poll, ready};
use futures_executor::block_on;
use idemkv::{Begin, BeginError, Engine, Failure, Status, Waited};

#[test]
fn a_task_claims_completes_and_replays() {
    let machine = Machine::default();
    let engine = machine.open();
    {
        let mut begin = pin!(engine.default_scope().begin_async("key", request()));
        assert!(poll(begin.as_mut()).is_pending(), "a grant is not durable before its commit");
        engine.step();
        let Begin::Fresh(claim) = ready(begin.as_mut()).unwrap() else { panic!("fresh") };
        let mut complete = claim.complete_async("reply");
        assert!(poll(Pin::new(&mut complete)).is_pending(), "a completion is not durable before its commit");
        engine.step();
        assert_eq!(ready(Pin::new(&mut complete)).unwrap().body(), b"reply");
        let mut again = pin!(engine.default_scope().begin_async("key", request()));
        assert!(matches!(ready(again.as_mut()), Ok(Begin::Done(record)) if record.body() == b"reply"));
    }
    machine.kill(engine);
    assert_eq!(done(&default_scope(&machine.open()), "key").body(), b"reply");
}

#[test]
fn what_tasks_queue_meanwhile_is_one_commit() {
    let machine = Machine::default();
    let engine = machine.open();
    let keys: Vec<String> = (0..10).map(|n| format!("key {n}")).collect();
    let mut begins: Vec<_> =
        keys.iter().map(|key| Box::pin(engine.default_scope().begin_async(key, request()))).collect();
    for begin in &mut begins {
        assert!(poll(begin.as_mut()).is_pending());
    }
    engine.step();
    for begin in &mut begins {
        assert!(matches!(ready(begin.as_mut()), Ok(Begin::Fresh(_))));
    }
    let stats = engine.stats();
    assert_eq!((stats.commits, stats.committed_entries), (1, 10));
}

#[test]
fn a_begin_dropped_before_it_is_polled_claims_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    drop(engine.default_scope().begin_async("key", request()));
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
}

#[test]
fn a_begin_dropped_while_its_grant_is_on_its_way_gives_the_claim_back() {
    let machine = Machine::default();
    let engine = machine.open();
    {
        let mut begin = Box::pin(engine.default_scope().begin_async("key", request()));
        assert!(poll(begin.as_mut()).is_pending());
        let other = pending(&engine);
        drop(begin);
        engine.step();
        assert!(matches!(other.wait(), Ok(Waited::Vacant)), "who waited is told");
    }
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
    assert_eq!(engine.stats().in_flight, 0);
    machine.kill(engine);
    let claim = fresh(&default_scope(&machine.open()), "key");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None), "nobody had run it");
}

#[test]
fn a_begin_dropped_after_an_interruption_keeps_the_interruption() {
    let machine = Machine::rerun();
    let engine = machine.open();
    drop(fresh(&default_scope(&engine), "key"));
    {
        let mut begin = Box::pin(engine.default_scope().begin_async("key", request()));
        assert!(poll(begin.as_mut()).is_pending());
    }
    engine.step();
    assert!(
        matches!(engine.default_scope().get("key"), Ok(Status::Interrupted(attempt)) if attempt.attempt() == 1)
    );
    machine.kill(engine);
    let claim = fresh(&default_scope(&machine.open()), "key");
    assert_eq!(claim.interrupted().map(|earlier| earlier.attempt()), Some(1));
}

#[test]
fn a_completion_handed_over_is_carried_out_though_nobody_awaits_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claims = ["done", "failed", "released"].map(|key| fresh(&scope, key));
    let [to_complete, to_fail, to_release] = claims;
    drop(to_complete.complete_async("reply"));
    drop(to_fail.fail_async("no"));
    drop(to_release.release_async());
    assert!(
        matches!(engine.default_scope().get("done"), Ok(Status::InFlight(_))),
        "not before it is durable"
    );
    engine.step();
    assert_eq!((done(&scope, "done").body(), done(&scope, "failed").body()), (&b"reply"[..], &b"no"[..]));
    assert!(matches!(engine.default_scope().get("released"), Ok(Status::Vacant)));
    assert_eq!(engine.stats().in_flight, 0);
    drop(scope);
    machine.kill(engine);
    assert_eq!(done(&default_scope(&machine.open()), "done").body(), b"reply");
}

#[test]
fn a_body_that_is_too_long_gives_the_claim_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let error = block_on(claim.complete_async(vec![0; 5_000])).unwrap_err();
    let claim = error.into_claim().expect("nothing was written");
    let mut complete = claim.complete_async("short");
    assert!(poll(Pin::new(&mut complete)).is_pending());
    engine.step();
    assert!(ready(Pin::new(&mut complete)).is_ok());
}

#[test]
fn a_waiting_task_wakes_however_the_claim_ends() {
    type End = fn(Engine, idemkv::Claim) -> Option<Engine>;
    let ends: [(&str, End); 5] = [
        ("done", |engine, claim| claim.complete("reply").map(|_| engine).ok()),
        ("failed", |engine, claim| claim.fail("reply").map(|_| engine).ok()),
        ("vacant", |engine, claim| claim.release().map(|()| engine).ok()),
        ("interrupted", |engine, claim| {
            drop(claim);
            Some(engine)
        }),
        ("closed", |engine, claim| {
            engine.close().unwrap();
            drop(claim);
            None
        }),
    ];
    for (name, end) in ends {
        let machine = Machine::default();
        let engine = machine.open();
        let claim = fresh(&default_scope(&engine), "key");
        let pending = pending(&engine);
        let (count, mut waiting) = (Arc::new(Count::default()), pin!(pending.wait_async()));
        let waker = Waker::from(Arc::clone(&count));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let engine = end(engine, claim);
        assert!(count.get() > 0, "{name}: not woken");
        let waited = ready(waiting.as_mut());
        match name {
            "done" | "failed" => {
                assert!(matches!(waited, Ok(Waited::Done(record)) if record.body() == b"reply"));
            }
            "vacant" => assert!(matches!(waited, Ok(Waited::Vacant))),
            "interrupted" => assert!(matches!(waited, Ok(Waited::Interrupted))),
            _ => assert!(matches!(waited, Err(BeginError::Closed))),
        }
        drop(engine);
    }
}

#[test]
fn waiting_tasks_are_told_of_a_failed_commit() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let pending = pending(&engine);
    let mut waiting = pin!(pending.wait_async());
    assert!(poll(waiting.as_mut()).is_pending());
    let mut begin = pin!(engine.default_scope().begin_async("other", request()));
    assert!(poll(begin.as_mut()).is_pending());
    machine.disk.fail_syncs(Some("-wal"));
    engine.step();
    assert!(matches!(ready(waiting.as_mut()), Err(BeginError::Failed(Failure::Io(_)))));
    assert!(matches!(ready(begin.as_mut()), Err(BeginError::Failed(Failure::Io(_)))));
    drop(claim);
}

#[test]
fn a_wait_with_a_timeout_ends_with_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let _claim = fresh(&default_scope(&engine), "key");
    let pending = pending(&engine);
    assert!(matches!(block_on(pending.wait_timeout_async(Duration::ZERO)), Ok(Waited::TimedOut)));
    let mut waiting = pin!(pending.wait_timeout_async(Duration::from_secs(3_600)));
    assert!(poll(waiting.as_mut()).is_pending());
}

#[test]
fn a_key_is_forgotten_for_a_task_even_if_it_does_not_wait() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    {
        let mut forget = Box::pin(engine.default_scope().forget_async("key"));
        assert!(poll(forget.as_mut()).is_pending());
    }
    engine.step();
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
}

#[test]
fn a_begin_may_be_dropped_by_the_waker_that_tells_of_a_failed_commit() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "first");
    // A group of its own, so that the begin is in the one behind it.
    let mut first = claim.complete_async(vec![b'x'; 4_000]);
    assert!(poll(Pin::new(&mut first)).is_pending());
    let theirs = engine.clone();
    let mut begin: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        drop(theirs.default_scope().begin_async("key", request()).await);
    });
    let gone = Arc::new(Gone(std::sync::Mutex::default()));
    let waker = Waker::from(Arc::clone(&gone));
    assert!(begin.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    *gone.0.lock().unwrap() = Some(begin);
    machine.disk.fail_syncs(Some("-wal"));
    engine.step();
    assert!(gone.0.lock().unwrap().is_none(), "it was woken");
    assert!(ready(Pin::new(&mut first)).is_err());
    assert_eq!(engine.stats().in_flight, 0);
}

#[test]
fn a_failure_of_a_task_is_kept_as_its_completion_says() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let completion = idemkv::Completion::new().ttl(TTL / 2).discard_body();
    drop(fresh(&scope, "key").fail_with_async("declined", completion));
    engine.step();
    let record = done(&scope, "key");
    assert_eq!(
        (record.outcome(), record.is_body_kept(), record.body()),
        (idemkv::Outcome::Failure, false, &b""[..])
    );
    machine.clock.advance(TTL / 2);
    drop(fresh(&scope, "key"));
}
