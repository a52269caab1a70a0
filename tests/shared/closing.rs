//! What a close overtakes, and what it leaves.

use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use idemkv::{ClaimError, CommitError, ForgetError, Policy, Recovery, SharedError, Status};

use crate::server::{Gate, claim, within};

/// The store has it soon after, and the thread that would have told so has ended.
#[test]
fn an_end_whose_answer_a_close_overtakes_is_not_said_not_to_have_happened() {
    let server = server!();
    for (schema, is_task) in [("closing_task", true), ("closing_thread", false)] {
        let options = server.options(schema).sweep_every(None).statement_timeout(Duration::from_millis(200));
        let store = options.call_timeout(Duration::from_secs(60)).connect().unwrap();
        let (held, of_thread) = (claim(&store.scope(""), "key"), store.clone());
        let gate = Gate::shut(server, schema, &format!("UPDATE ON {schema}.keys"), "NEW.state = 3");
        let end = move || {
            if is_task {
                block_on(held.complete_async("reply"))
            } else {
                of_thread.complete_many(vec![(held, "reply")]).remove(0)
            }
        };
        let ending = thread::spawn(end);
        gate.holds(1);
        store.close().unwrap();
        let error = ending.join().unwrap().unwrap_err();
        let is_unknown =
            matches!(error.reason(), ClaimError::Commit(CommitError::Shared(SharedError::Unknown(_))));
        assert!(is_unknown, "{error:?}");
        gate.open();
        let done = format!("SELECT count(*) FROM {schema}.keys WHERE state = 3");
        assert!(within(Duration::from_secs(30), || server.one(&done) == "1"));
    }
}

/// The same of a forget.
#[test]
fn a_forget_that_a_close_overtakes_is_not_said_not_to_have_happened() {
    let server = server!();
    let store = server.options("closing_forget").sweep_every(None).connect().unwrap();
    let other = server.connect("closing_forget");
    let scope = store.scope("");
    drop(claim(&scope, "key"));
    assert!(within(Duration::from_secs(10), || matches!(scope.get("key"), Ok(Status::Interrupted(_)))));
    let gate = Gate::shut(server, "closing_forget", "UPDATE ON closing_forget.keys", "NEW.state = 4");
    thread::scope(|threads| {
        let forgetting = threads.spawn(|| scope.forget("key"));
        gate.holds(1);
        store.close().unwrap();
        let forgotten = forgetting.join().unwrap();
        let is_unknown =
            matches!(forgotten, Err(ForgetError::Commit(CommitError::Shared(SharedError::Unknown(_)))));
        assert!(is_unknown, "{forgotten:?}");
    });
    gate.open();
    assert!(within(Duration::from_secs(10), || matches!(other.scope("").get("key"), Ok(Status::Vacant))));
}

/// Their holders can't end them any more, so nobody waits for their leases.
#[test]
fn claims_with_a_lease_that_are_out_at_a_close_are_interrupted_at_once() {
    let server = server!();
    let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_secs(3_600));
    let options = server.options("closing_lease").policy(policy).sweep_every(None);
    let (store, other) = (options.clone().connect().unwrap(), options.connect().unwrap());
    let older = claim(&store.scope(""), "older");
    // It goes on with another session, as it does after it was cut off.
    server.sql(
        "UPDATE closing_lease.sessions SET until_ms = 1 WHERE id = (SELECT session FROM closing_lease.keys)",
    );
    let newer = claim(&store.scope(""), "newer");
    assert_eq!(server.one("SELECT count(DISTINCT session) FROM closing_lease.keys"), "2");
    let token = claim(&store.scope(""), "token").into_token().unwrap();
    store.close().unwrap();
    for key in ["older", "newer"] {
        let left = other.scope("").get(key).unwrap();
        assert!(matches!(left, Status::Interrupted(_)), "{key}: {left:?}");
        assert_eq!(claim(&other.scope(""), key).attempt(), 2);
    }
    // One that was handed over stands by itself.
    other.scope("").resume(&token).unwrap().complete("reply").unwrap();
    drop((older, newer));
}
