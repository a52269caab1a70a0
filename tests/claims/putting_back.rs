//! Claims that are given back unused.

use std::pin::pin;
use std::time::Duration;

use crate::common::{Machine, UNRESOLVED, default_scope, fresh, poll, ready, request};
use crate::helpers::{GAPS, pass, pending};
use idemkv::{BeginError, Durability, Interruption, Scope, Status, Waited};

const MINUTE: Duration = Duration::from_secs(60);

#[track_caller]
fn interrupted(scope: &Scope, key: &str) -> Interruption {
    match scope.get(key) {
        Ok(Status::Interrupted(lost)) => lost,
        other => panic!("{key} should be interrupted, is {other:?}"),
    }
}

/// An operator's result is refused again and again. The interruption is the same all the while, and
/// over in its time.
#[test]
fn an_interruption_counts_its_time_whatever_is_put_back() {
    for durability in [Durability::Full, Durability::Completions] {
        for gap in GAPS {
            let machine = Machine::rerun();
            let engine = machine.open();
            engine.set_policy("scope", engine.policy().durability(durability)).unwrap();
            let scope = engine.scope("scope");
            let mut claim = fresh(&scope, "key");
            claim.save_progress("half").unwrap();
            drop(claim);
            let before = interrupted(&scope, "key");
            machine.clock.advance(MINUTE);
            scope.resolve("key").unwrap().put_back().unwrap();
            drop(scope);
            let engine = pass(&machine, engine, gap);
            let scope = engine.scope("scope");
            let now = interrupted(&scope, "key");
            assert_eq!((now.attempt(), now.fence()), (1, before.fence()), "{durability:?} {gap:?}");
            assert_eq!(now.interrupted_at(), before.interrupted_at(), "{durability:?} {gap:?}");
            assert_eq!(&now.last_progress().unwrap()[..], b"half", "{durability:?} {gap:?}");
            machine.clock.advance(UNRESOLVED - MINUTE);
            assert!(matches!(scope.get("key"), Ok(Status::Vacant)), "{durability:?} {gap:?}");
        }
    }
}

#[test]
fn those_that_wait_for_a_claim_are_told_when_it_is_put_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    let before = interrupted(&scope, "key");
    let claim = scope.resolve("key").unwrap();
    let waiting = pending(&scope, "key");
    let mut wait = pin!(waiting.wait_async());
    assert!(poll(wait.as_mut()).is_pending());
    claim.put_back().unwrap();
    assert!(matches!(ready(wait.as_mut()), Ok(Waited::Interrupted)));
    let answer = scope.begin("key", request());
    assert!(
        matches!(&answer, Err(BeginError::Unresolved(lost)) if lost.fence() == before.fence()),
        "{answer:?}"
    );
}

/// Its end is queued before the future is polled, and takes effect if that is dropped.
#[test]
fn a_task_that_puts_a_claim_back_may_be_dropped() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    let before = interrupted(&scope, "key");
    drop(scope.resolve("key").unwrap().put_back_async());
    engine.flush().unwrap();
    let now = interrupted(&scope, "key");
    assert_eq!((now.attempt(), now.fence()), (1, before.fence()));
}
