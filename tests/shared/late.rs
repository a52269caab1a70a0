//! Commits that take long. No time limit of a statement holds for its commit: it waits for the
//! disk and for standbys.

use std::thread;
use std::time::Duration;

use idemkv::{Begin, BeginError, Policy, Recovery, SharedError};

use crate::server::{Gate, claim, request, within};

/// A begin gives up, and its grant commits after that. Nobody has it, so the key must become free.
#[test]
fn a_grant_that_commits_long_after_its_caller_gave_up_is_withdrawn() {
    let server = server!();
    let brief = Duration::from_millis(200);
    let options = server.options("late_grant").session(Duration::from_secs(300)).sweep_every(None);
    let store = options.statement_timeout(brief).call_timeout(brief).connect().unwrap();
    let gate = Gate::shut(server, "late_grant", "INSERT ON late_grant.keys", "NEW.state = 1");
    let begun = store.scope("").begin("key", request());
    assert!(matches!(begun, Err(BeginError::Shared(SharedError::Unavailable(_)))), "{begun:?}");
    gate.holds(1);
    // However long that takes: as if no withdrawal had found anything for longer than any
    // statement may take.
    within(Duration::from_secs(3), || store.shared_stats().unwrap().loose_ends == 0);
    gate.open();
    let other = server.connect("late_grant");
    let mut granted = None;
    let is_granted = within(Duration::from_secs(10), || {
        granted = match other.scope("").begin("key", request()) {
            Ok(Begin::Fresh(claim)) => Some(claim),
            _ => None,
        };
        granted.is_some()
    });
    assert!(is_granted, "nobody has the key, and nobody gets it");
    let granted = granted.unwrap();
    assert_eq!(granted.attempt(), 1, "nothing has run");
    granted.complete("reply").unwrap();
    assert!(within(Duration::from_secs(10), || store.shared_stats().unwrap().loose_ends == 0));
}

/// Also one that comes after the withdrawal has found no row at all.
#[test]
fn a_withdrawal_that_finds_no_row_leaves_one_that_keeps_a_late_grant_away() {
    let server = server!();
    let brief = Duration::from_millis(200);
    let options = server.options("late_none").session(Duration::from_secs(300)).sweep_every(None);
    let store = options.statement_timeout(brief).call_timeout(brief).connections(1).connect().unwrap();
    // A begin whose statement waits, and is aborted: no row is there.
    let mut blocker = crate::server::Client::connect(server);
    blocker.run("BEGIN; LOCK TABLE late_none.keys IN ACCESS EXCLUSIVE MODE");
    let begun = store.scope("").begin("key", request());
    assert!(matches!(begun, Err(BeginError::Shared(SharedError::Unavailable(_)))), "{begun:?}");
    drop(store.scope("").begin_async("other", request()));
    blocker.run("COMMIT");
    assert!(within(Duration::from_secs(10), || store.shared_stats().unwrap().loose_ends == 0));
    claim(&store.scope(""), "key").complete("reply").unwrap();
}

/// The claim was good for less time than its answer took. It goes to nobody.
#[test]
fn a_grant_whose_lease_is_over_when_it_arrives_is_not_given_out() {
    let server = server!();
    let lease = Duration::from_millis(300);
    let policy = Policy::default().recovery(Recovery::Refuse).lease(lease);
    for (schema, timeout) in [("late_lease", 5_000), ("late_lease_found", 100)] {
        let options = server.options(schema).policy(policy).statement_timeout(Duration::from_millis(timeout));
        let store = options.session(Duration::from_secs(300)).sweep_every(None).connect().unwrap();
        let scope = store.scope("");
        claim(&scope, "warm").complete("reply").unwrap();
        let condition = "NEW.state = 1 AND NEW.key = 'key'";
        let gate = Gate::shut(server, schema, &format!("INSERT ON {schema}.keys"), condition);
        thread::scope(|threads| {
            let starting = threads.spawn(|| scope.begin("key", request()));
            gate.holds(1);
            // With the short limit its connection is given up meanwhile.
            let before = store.shared_stats().unwrap().lost_connections;
            within(Duration::from_millis(700), || {
                timeout < 1_000 && store.shared_stats().unwrap().lost_connections > before
            });
            gate.open();
            match starting.join().unwrap() {
                Ok(Begin::Fresh(claim)) => {
                    assert_eq!(claim.attempt(), 1, "{schema}: nothing has run");
                    let ended = claim.complete("reply");
                    assert!(ended.is_ok(), "{schema}: a claim was given out that was over: {ended:?}");
                }
                other => panic!("{schema}: {other:?}"),
            }
        });
    }
}

/// The same of a later attempt: the key gets its interruption back.
#[test]
fn a_later_attempt_whose_lease_is_over_when_it_arrives_is_not_given_out() {
    let server = server!();
    let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_millis(300));
    let store = server.options("late_again").policy(policy).sweep_every(None).connect().unwrap();
    let scope = store.scope("");
    drop(claim(&scope, "key"));
    assert!(within(Duration::from_secs(10), || store.shared_stats().unwrap().loose_ends == 0));
    let condition = "NEW.state = 1 AND NEW.attempt = 2";
    let gate = Gate::shut(server, "late_again", "UPDATE ON late_again.keys", condition);
    thread::scope(|threads| {
        let starting = threads.spawn(|| scope.begin("key", request()));
        gate.holds(1);
        within(Duration::from_millis(500), || false);
        gate.open();
        let Ok(Begin::Fresh(claim)) = starting.join().unwrap() else { panic!() };
        assert_eq!(claim.attempt(), 2);
        claim.complete("reply").unwrap();
    });
}

/// A close comes while a grant commits. Its caller is told that nothing was granted.
#[test]
fn a_close_during_begins_leaves_no_interruption() {
    let server = server!();
    let store = server.options("late_close").sweep_every(None).connect().unwrap();
    let other = server.connect("late_close");
    let gate = Gate::shut(server, "late_close", "INSERT ON late_close.keys", "NEW.key = 'key'");
    let scope = store.scope("");
    thread::scope(|threads| {
        let starting = threads.spawn(|| scope.begin("key", request()));
        gate.holds(1);
        let close = threads.spawn(move || store.close());
        within(Duration::from_secs(10), || {
            matches!(scope.begin("later", request()), Err(BeginError::Closed))
        });
        // Unless the session is ended now, the close waits.
        let now = "extract(epoch FROM clock_timestamp()) * 1000";
        within(Duration::from_millis(500), || {
            server.one(&format!("SELECT count(*) FROM late_close.sessions WHERE until_ms <= {now}")) != "0"
        });
        gate.open();
        let begun = starting.join().unwrap();
        assert!(matches!(begun, Err(BeginError::Closed)), "{begun:?}");
        close.join().unwrap().unwrap();
    });
    let next = claim(&other.scope(""), "key");
    assert_eq!(next.attempt(), 1, "nothing has run");
}

/// An instance whose answer got lost when it started its session again is not its own successor.
#[test]
fn an_instance_whose_new_session_commits_late_is_not_replaced_by_itself() {
    let server = server!();
    let options = server.options("late_start").instance("w1").statement_timeout(Duration::from_millis(200));
    let store = options.session(Duration::from_secs(300)).sweep_every(None).connect().unwrap();
    let gate = Gate::shut(server, "late_start", "INSERT ON late_start.sessions", "true");
    server.sql("UPDATE late_start.sessions SET until_ms = 0");
    thread::scope(|threads| {
        let starting = threads.spawn(|| store.scope("").begin("key", request()));
        gate.holds(1);
        let starts = "SELECT count(*) FROM pg_stat_activity \
                      WHERE wait_event = 'transactionid' AND query LIKE '%late_start\".sessions%'";
        assert!(within(Duration::from_secs(10), || server.one(starts) != "0"));
        gate.open();
        let begun = starting.join().unwrap();
        assert!(matches!(begun, Ok(Begin::Fresh(_))), "{begun:?}");
    });
    // Another one with the name is still told from it.
    let _other = server.options("late_start").instance("w1").connect().unwrap();
    assert!(within(Duration::from_secs(20), || {
        server.sql("UPDATE late_start.sessions SET until_ms = 0 WHERE replaced");
        let begun = store.scope("").begin("next", request());
        matches!(begun, Err(BeginError::Shared(SharedError::Replaced)))
    }));
}

/// Nothing that keeps the connections busy keeps the session from being renewed.
#[test]
fn a_session_is_renewed_while_every_connection_is_busy() {
    let server = server!();
    let options = server.options("late_renewal").connections(1).session(Duration::from_secs(1));
    let store = options.sweep_every(None).connect().unwrap();
    let held = claim(&store.scope(""), "key");
    let mut blocker = crate::server::Client::connect(server);
    blocker.run("BEGIN; LOCK TABLE late_renewal.policies IN ACCESS EXCLUSIVE MODE");
    thread::scope(|threads| {
        let busy = threads.spawn(|| store.set_policy("other", Policy::default().recovery(Recovery::Rerun)));
        let waits = "SELECT count(*) FROM pg_stat_activity \
                     WHERE wait_event_type = 'Lock' AND query LIKE '%late_renewal\".policies%'";
        assert!(within(Duration::from_secs(10), || server.one(waits) != "0"));
        within(Duration::from_millis(1_500), || false);
        blocker.run("COMMIT");
        busy.join().unwrap().unwrap();
    });
    held.complete("reply").unwrap();
}
