//! Commits that take long. No time limit of a statement holds for its commit: it waits for the
//! disk and for standbys.

use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, BeginError, Policy, Recovery, SharedError, SharedOptions, Status};

use crate::proxy::Proxy;
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

/// A process is cut off when its grants have committed, until they are over. Others make the keys
/// interrupted meanwhile.
#[test]
fn a_grant_that_nobody_had_is_withdrawn_though_others_found_it_over() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let brief = Duration::from_secs(2);
    let options = server.options("late_over").sweep_every(None);
    let other = options.sweep_every(Some(Duration::from_millis(20))).connect().unwrap();
    let policy = Policy::default().recovery(Recovery::Rerun);
    let options = SharedOptions::new(proxy.url()).schema("late_over").policy(policy).sweep_every(None);
    let store = options.statement_timeout(brief).call_timeout(brief).connect().unwrap();
    let scope = &store.scope("");
    drop(claim(scope, "again"));
    assert!(within(Duration::from_secs(10), || matches!(scope.get("again"), Ok(Status::Interrupted(_)))));
    // One key has no row yet, and that of the other is changed.
    let gate = Gate::shut(server, "late_over", "INSERT OR UPDATE ON late_over.keys", "NEW.state = 1");
    thread::scope(|threads| {
        // One after the other, so that they share no statement.
        let starting = [("again", 1), ("new", 2)].map(|(key, held)| {
            let starting = threads.spawn(move || scope.begin(key, request()));
            gate.holds(held);
            starting
        });
        proxy.stall(true);
        gate.open();
        for begun in starting.map(|starting| starting.join().unwrap()) {
            assert!(matches!(begun, Err(BeginError::Shared(SharedError::Unavailable(_)))), "{begun:?}");
        }
    });
    let count = |what: &str| server.one(&format!("SELECT count(*) FROM late_over.keys WHERE {what}"));
    assert!(within(Duration::from_secs(10), || count("state = 1") == "2"));
    server.sql("UPDATE late_over.sessions SET until_ms = 1 WHERE id IN (SELECT session FROM late_over.keys)");
    assert!(within(Duration::from_secs(30), || count("state = 2 AND NOT returned") == "2"));
    proxy.stall(false);
    assert!(within(Duration::from_secs(30), || store.shared_stats().unwrap().loose_ends == 0));
    let left = other.scope("").get("new").unwrap();
    assert!(matches!(left, Status::Vacant), "{left:?}");
    assert_eq!(claim(&other.scope(""), "again").attempt(), 2, "the second attempt had no holder");
}

/// The same within one call, which is told of no attempt before it.
#[test]
fn a_begin_whose_own_grant_others_found_over_begins_anew() {
    let server = server!();
    let policy = Policy::default().recovery(Recovery::Refuse).lease(Duration::from_secs(1));
    let options = server.options("late_own").policy(policy).session(Duration::from_secs(300));
    let _other = options.clone().sweep_every(Some(Duration::from_millis(20))).connect().unwrap();
    let proxy = Proxy::to(server.port);
    let own = SharedOptions::new(proxy.url()).schema("late_own").policy(policy).sweep_every(None);
    let own = own.session(Duration::from_secs(300)).statement_timeout(Duration::from_millis(500));
    let store = own.call_timeout(Duration::from_secs(60)).connections(1).connect().unwrap();
    let scope = store.scope("");
    // Once, so that the statement is prepared.
    claim(&scope, "warm").release().unwrap();
    thread::scope(|threads| {
        proxy.mute(true);
        let starting = threads.spawn(|| scope.begin("key", request()));
        let is_over = "SELECT count(*) FROM late_own.keys WHERE state = 2";
        assert!(within(Duration::from_secs(30), || server.one(is_over) == "1"));
        proxy.mute(false);
        match starting.join().unwrap() {
            Ok(Begin::Fresh(claim)) => assert_eq!(claim.attempt(), 1, "nothing has run"),
            other => panic!("{other:?}"),
        }
    });
}

/// A release whose answer got lost is sent again for as long as a call may take.
#[test]
fn a_released_key_keeps_its_row_for_as_long_as_calls_ask_what_became_of_it() {
    let server = server!();
    let options = server.options("late_release").sweep_every(None);
    let store = options.call_timeout(Duration::from_secs(600)).connect().unwrap();
    claim(&store.scope(""), "key").release().unwrap();
    let stays: u64 = server.one("SELECT gone_ms - started_ms FROM late_release.keys").parse().unwrap();
    assert!(stays >= 3 * 600_000, "{stays} ms");
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

/// The keeper waits for an answer, and callers for the keeper.
#[test]
fn a_begin_without_a_session_waits_no_longer_than_a_call_may_take() {
    let server = server!();
    server.connect("late_session").close().unwrap();
    let proxy = Proxy::to(server.port);
    let options = SharedOptions::new(proxy.url()).schema("late_session").session(Duration::from_secs(1));
    let store = options.call_timeout(Duration::from_millis(300)).connect().unwrap();
    proxy.stall(true);
    within(Duration::from_millis(1_200), || false);
    let started = Instant::now();
    let begun = store.scope("").begin("key", request());
    assert!(matches!(begun, Err(BeginError::Shared(SharedError::NoSession(_)))), "{begun:?}");
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    proxy.stall(false);
}

/// The start of a session is being committed while the engine is closed.
#[test]
fn a_session_that_is_started_during_a_close_is_ended_by_it() {
    let server = server!();
    let options = server.options("late_ended").session(Duration::from_secs(300)).sweep_every(None);
    let store = options.call_timeout(Duration::from_millis(300)).connect().unwrap();
    let gate = Gate::shut(server, "late_ended", "INSERT ON late_ended.sessions", "true");
    server.sql("UPDATE late_ended.sessions SET until_ms = 0");
    let begun = store.scope("").begin("key", request());
    assert!(matches!(begun, Err(BeginError::Shared(_))), "{begun:?}");
    gate.holds(1);
    thread::scope(|threads| {
        let close = threads.spawn(move || store.close());
        within(Duration::from_millis(500), || close.is_finished());
        gate.open();
        close.join().unwrap().unwrap();
    });
    let count = |which: &str| server.one(&format!("SELECT count(*) FROM late_ended.sessions WHERE {which}"));
    assert!(within(Duration::from_secs(20), || count("true") == "2"));
    assert_eq!(count("until_ms > extract(epoch FROM clock_timestamp()) * 1000"), "0", "it goes on");
}

/// Each renewal finds that another process has forgotten a record meanwhile.
#[cfg(feature = "sim")]
#[test]
fn a_caller_waits_for_a_renewal_and_not_for_the_end_of_all_forgets() {
    let server = server!();
    let store = server.options("late_forgets").session(Duration::from_secs(300)).connect().unwrap();
    server.sql(
        "CREATE FUNCTION late_forgets.forget() RETURNS trigger LANGUAGE plpgsql AS \
           'BEGIN UPDATE late_forgets.meta SET forgets = forgets + 1; RETURN NEW; END'; \
         CREATE TRIGGER forget BEFORE UPDATE ON late_forgets.sessions \
           FOR EACH ROW EXECUTE FUNCTION late_forgets.forget()",
    );
    let renews = store.renews_shared();
    let (done, is_done) = std::sync::mpsc::sync_channel(1);
    thread::spawn(move || {
        renews();
        done.send(()).unwrap();
    });
    assert!(is_done.recv_timeout(Duration::from_secs(20)).is_ok(), "it is renewed again and again");
}

/// Callers wait for a session while the server takes no connections, as one that is starting.
#[test]
fn a_store_that_refuses_connections_is_tried_with_pauses() {
    let server = server!();
    server.connect("late_refused").close().unwrap();
    let proxy = Proxy::to(server.port);
    let options = SharedOptions::new(format!("{}?application_name=idemkv_refused", proxy.url()));
    let options = options.schema("late_refused").session(Duration::from_secs(1)).connections(1);
    let store = options.call_timeout(Duration::from_secs(2)).connect().unwrap();
    proxy.refuse(true);
    let cut =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idemkv_refused'";
    server.sql(cut);
    within(Duration::from_secs(1), || false);
    let before = proxy.connections();
    let begun = store.scope("").begin("key", request());
    assert!(matches!(begun, Err(BeginError::Shared(SharedError::NoSession(_)))), "{begun:?}");
    let tries = proxy.connections() - before;
    assert!(tries < 40, "{tries} tries to connect in two seconds");
    proxy.refuse(false);
    assert!(within(Duration::from_secs(20), || store.scope("").begin("key", request()).is_ok()));
}

/// It takes the connection and says nothing, as a machine that is stopped. The server that answers
/// is found, also by connections that are made anew.
#[test]
fn a_host_that_is_silent_does_not_keep_the_next_from_being_tried() {
    let server = server!();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let brief = Duration::from_millis(500);
    let of_hosts = |first: u16| {
        let words =
            format!("host=127.0.0.1,127.0.0.1 port={first},{} user=idemkv dbname=postgres", server.port);
        let options = SharedOptions::new(words).schema("late_hosts").connect_timeout(brief);
        options.statement_timeout(brief).session(Duration::from_secs(300)).sweep_every(None)
    };
    server.connect("late_hosts").close().unwrap();
    let store = of_hosts(silent.local_addr().unwrap().port()).connect().unwrap();
    claim(&store.scope(""), "at start").complete("reply").unwrap();
    // The first one serves, until it says nothing any more.
    let proxy = Proxy::to(server.port);
    let store = of_hosts(proxy.port).connect().unwrap();
    claim(&store.scope(""), "before").complete("reply").unwrap();
    assert!(proxy.connections() > 0);
    proxy.stall(true);
    assert!(within(Duration::from_secs(20), || {
        let begun = store.scope("").begin("after", request());
        match begun {
            Ok(Begin::Fresh(claim)) => claim.complete("").is_ok(),
            _ => false,
        }
    }));
}

/// The keeper's connection falls silent, and no other one. A statement may take longer than a
/// session.
#[test]
fn a_session_outlives_a_connection_that_falls_silent() {
    let server = server!();
    server.connect("late_silent").close().unwrap();
    for session in [Duration::from_secs(1), Duration::from_secs(3)] {
        let proxy = Proxy::to(server.port);
        let options = SharedOptions::new(proxy.url()).schema("late_silent").session(session);
        let options = options.statement_timeout(Duration::from_secs(30)).sweep_every(None);
        let store = options.connect().unwrap();
        let held = claim(&store.scope(""), &format!("{session:?}"));
        proxy.hold_of_present(".sessions s SET until_ms = m.now_ms");
        proxy.wait_for_held(1);
        within(session * 2, || false);
        let ended = held.complete("reply");
        assert!(ended.is_ok(), "the session of {session:?} was lost: {ended:?}");
        store.close().unwrap();
    }
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
