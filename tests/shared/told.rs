//! What the observers of several processes are told.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, Cause, Event, Failure, Observer, SharedError, SharedOptions};

use crate::proxy::Proxy;
use crate::server::{Gate, claim, on_runtime, request, within};

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Log {
    fn wait_for(&self, line: &str) -> Vec<String> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let told = self.0.lock().unwrap().clone();
            if told.iter().any(|told| told == line) {
                return told;
            }
            assert!(Instant::now() < until, "{line} is not in {told:?}");
            thread::yield_now();
        }
    }
}

impl Observer for Log {
    fn event(&self, event: &Event<'_>) {
        let line = match event {
            Event::Ended { key, end, body_len, .. } => {
                format!("{} {end:?} {body_len}", String::from_utf8_lossy(key))
            }
            Event::Interrupted { key, interruption, cause, .. } => {
                assert!(interruption.interrupted_at() >= interruption.started());
                assert!(!matches!(cause, Cause::Lease), "none has a lease");
                format!("{} {cause:?}", String::from_utf8_lossy(key))
            }
            Event::Failed { failure, .. } => {
                assert!(matches!(failure, Failure::Replaced));
                assert_eq!(failure.to_string(), SharedError::Replaced.to_string());
                String::new()
            }
            _ => String::new(),
        };
        self.0.lock().unwrap().push(format!("{} {line}", event.name()).trim_end().to_owned());
    }
}

/// The release is being committed when its call's time is up, and its claim is dropped.
#[test]
fn a_release_whose_answer_got_lost_is_told_as_what_it_became() {
    let server = server!();
    let log = Arc::<Log>::default();
    let brief = Duration::from_millis(200);
    let options = server.options("told_release").session(Duration::from_secs(300)).sweep_every(None);
    let options = options.statement_timeout(brief).call_timeout(brief).observer(Arc::clone(&log));
    let store = options.connect().unwrap();
    let scope = store.scope("");
    drop(claim(&scope, "again"));
    assert!(within(Duration::from_secs(20), || store.shared_stats().unwrap().loose_ends == 0));
    for (number, (key, end)) in
        [("key", "Released"), ("key", "PutBack"), ("again", "Released"), ("again", "PutBack")]
            .into_iter()
            .enumerate()
    {
        let held = claim(&scope, key);
        let on = "UPDATE ON told_release.keys";
        let gate = Gate::shut(server, "told_release", on, "NEW.state IN (2, 4)");
        let error = if end == "PutBack" { held.put_back() } else { held.release() }.unwrap_err();
        assert!(error.reason().is_retryable(), "{error}");
        gate.holds(1);
        drop(error);
        gate.open();
        let said = format!("ended {key} {end} 0");
        log.wait_for(&said);
        assert!(within(Duration::from_secs(20), || store.shared_stats().unwrap().loose_ends == 0));
        assert_eq!(store.stats().lease_expired, 0, "{number}");
    }
}

#[test]
fn a_claim_that_is_found_over_is_told_by_one_process_and_a_replaced_one_grants_nothing_more() {
    let server = server!();
    let (before, after, other) = <(Arc<Log>, Arc<Log>, Arc<Log>)>::default();
    let named = |log: &Arc<Log>| {
        let options = server.options("told_replaced").instance("x").session(Duration::from_secs(1));
        options.observer(Arc::clone(log)).connect().unwrap()
    };
    let third = server.options("told_replaced").observer(Arc::clone(&other)).connect().unwrap();
    let first = named(&before);
    let keys: Vec<_> = (0..8).map(|n| format!("key {n}")).collect();
    let held: Vec<_> = keys.iter().map(|key| claim(&first.scope(""), key)).collect();
    assert!(!first.stats().has_failed);
    let second = named(&after);
    // The keys are found by begins of two processes, or by the sweep of either.
    for (number, key) in keys.iter().enumerate() {
        let finder = if number % 2 == 0 { &second } else { &third };
        loop {
            match finder.scope("").begin(key, request()).unwrap() {
                Begin::Fresh(claim) => break claim.release().unwrap(),
                // The sweep has its row at this moment.
                Begin::InFlight(pending) => drop(pending.wait().unwrap()),
                Begin::Done(_) => panic!("none has completed it"),
            }
        }
    }
    before.wait_for("failed");
    assert!(first.stats().has_failed && !second.stats().has_failed);
    let told: Vec<_> =
        [&before, &after, &other].iter().flat_map(|log| log.0.lock().unwrap().clone()).collect();
    for key in &keys {
        let line = format!("interrupted {key} Restart");
        assert_eq!(told.iter().filter(|told| **told == line).count(), 1, "{key}: {told:?}");
    }
    let found = [&first, &second, &third].iter().map(|store| store.stats().found_interrupted).sum::<u64>();
    assert_eq!(found, 8);
    assert_eq!(told.iter().filter(|told| *told == "connected").count(), 3);
    assert_eq!(told.iter().filter(|told| *told == "failed").count(), 1);
    drop(held);
}

#[test]
fn a_completion_in_a_transaction_of_which_no_word_is_said_is_told_as_what_it_became() {
    let server = server!();
    let log = Arc::new(Log::default());
    let store = server.options("told_tx").observer(Arc::clone(&log)).connect().unwrap();
    on_runtime(async {
        let mut client = server.client().await;
        for is_committed in [true, false] {
            let key = if is_committed { "committed" } else { "rolled back" };
            let held = claim(&store.scope(""), key);
            let mut transaction = client.transaction().await.unwrap();
            let completed = held.complete_in_tx(&mut transaction, "paid").await.unwrap();
            drop(completed);
            if is_committed {
                transaction.commit().await.unwrap();
            } else {
                transaction.rollback().await.unwrap();
            }
        }
    });
    log.wait_for("ended committed Completed 4");
    let told = log.wait_for("interrupted rolled back Dropped");
    assert_eq!(told.len(), 5, "{told:?}");
    let stats = store.stats();
    assert_eq!((stats.completed, stats.dropped, stats.in_flight), (1, 1, 0));
}

#[test]
fn a_drop_whose_answer_gets_lost_is_told_as_a_drop() {
    let server = server!();
    let (proxy, log) = (Proxy::to(server.port), Arc::new(Log::default()));
    let options = SharedOptions::new(proxy.url())
        .schema("told_lost")
        .sweep_every(None)
        .count_every(None)
        .connections(1);
    let options = options.session(Duration::from_secs(300)).observer(Arc::clone(&log));
    let store = options.connect().unwrap();
    // Once, so that the statement is prepared.
    drop(claim(&store.scope(""), "warm"));
    log.wait_for("interrupted warm Dropped");
    let held = claim(&store.scope(""), "key");
    proxy.cut_reply();
    drop(held);
    log.wait_for("interrupted key Dropped");
    let stats = store.stats();
    assert_eq!((proxy.cuts(), stats.dropped, stats.lease_expired), (1, 2, 0));
}

/// A row of another scope can't be read.
#[test]
fn a_policy_that_is_in_force_is_told_though_others_can_not_be_read() {
    let server = server!();
    let log = Arc::<Log>::default();
    let store = server.options("told_policy").observer(Arc::clone(&log)).connect().unwrap();
    drop(store.set_policy("damaged", store.policy()).unwrap());
    server.sql("UPDATE told_policy.policies SET max_in_flight = 5000000000");
    let policy = store.policy().ttl(Duration::from_secs(60));
    store.set_policy("scope", policy).unwrap();
    assert_eq!(server.one("SELECT ttl_ms FROM told_policy.policies WHERE scope = 'scope'"), "60000");
    let told = log.wait_for("policy set");
    assert_eq!(told.iter().filter(|event| *event == "policy set").count(), 2, "{told:?}");
    assert_eq!(store.stats().policies_set, 2);
}
