//! The completion in the caller's transaction.

use std::time::{Duration, Instant};

use idemkv::{
    Begin, BeginInTx, ClaimError, CommitError, FailureKind, Policy, Recovery, SharedError, Status,
    StoreFailure, Waited,
};

use crate::server::{claim, on_runtime, request, within};

#[test]
fn an_effect_and_its_completion_are_committed_together_or_not_at_all() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("tx_both"), server.connect("tx_both"));
        server.sql("CREATE TABLE tx_both.accounts (name text, cents int); INSERT INTO tx_both.accounts VALUES ('a', 100)");
        let cents = || server.one("SELECT cents FROM tx_both.accounts");
        on_runtime(async {
            let mut client = caller.connect().await;
            let held = claim(&one.scope(""), "key");
            let mut transaction = client.transaction().await;
            transaction.execute("UPDATE tx_both.accounts SET cents = cents - 10").await.unwrap();
            let completed = transaction.complete_claim(held, "paid").await.unwrap();
            assert!(matches!(two.scope("").get("key"), Ok(Status::InFlight(_))));
            transaction.rollback().await.unwrap();
            assert_eq!(cents(), "100");
            let held = completed.rolled_back();
            assert!(matches!(two.scope("").get("key"), Ok(Status::InFlight(_))));

            let Ok(Begin::InFlight(pending)) = two.scope("").begin_async("key", request()).await else {
                panic!()
            };
            let waiting = std::thread::spawn(move || pending.wait());
            let mut transaction = client.transaction().await;
            transaction.execute("UPDATE tx_both.accounts SET cents = cents - 10").await.unwrap();
            let completed = transaction.complete_claim(held, "paid").await.unwrap();
            transaction.commit().await.unwrap();
            let record = completed.committed();
            assert_eq!((cents().as_str(), record.body()), ("90", &b"paid"[..]));
            assert!(matches!(waiting.join().unwrap(), Ok(Waited::Done(seen)) if seen.body() == b"paid"));
            let Ok(Begin::Done(seen)) = two.scope("").begin_async("key", request()).await else { panic!() };
            assert_eq!((seen.completed(), seen.expires()), (record.completed(), record.expires()));
        });
    }
}

/// A transaction that is cut off keeps its row until the server notices.
#[test]
fn an_end_whose_row_a_transaction_holds_holds_up_its_own_key_alone() {
    let server = server!();
    let options = server.options("tx_ends").call_timeout(Duration::from_secs(4)).sweep_every(None);
    let store = options.connections(1).session(Duration::from_secs(300)).connect().unwrap();
    let scope = store.scope("");
    let [first, second, third] = ["a", "b", "c"].map(|key| claim(&scope, key));
    let mut blocker = crate::server::Client::connect(server);
    blocker.run("BEGIN; SELECT FROM tx_ends.keys WHERE key = 'a' FOR UPDATE");
    let held = std::thread::scope(|threads| {
        let ended = threads.spawn(|| store.complete_many(vec![(first, "1"), (second, "2"), (third, "3")]));
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%tx_ends%'";
        assert!(within(Duration::from_secs(10), || server.one(waits) != "0"));
        // Those that come later wait for one moment at most, and not again and again.
        let started = Instant::now();
        for number in 0..10 {
            claim(&scope, &number.to_string()).complete("reply").unwrap();
        }
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        let mut ended = ended.join().unwrap().into_iter();
        let refused = ended.next().unwrap().unwrap_err();
        assert!(refused.is_retryable(), "{refused}");
        let is_locked = |failure: &StoreFailure| failure.kind() == FailureKind::Locked;
        assert!(
            matches!(refused.reason(), ClaimError::Commit(CommitError::Shared(SharedError::Unavailable(failure))) if is_locked(failure)),
            "{refused}"
        );
        assert!(ended.all(|ended| ended.is_ok()), "they waited for the first");
        refused.into_claim().unwrap()
    });
    blocker.run("COMMIT");
    held.complete("1").unwrap();
}

/// A call that may take as long as others wait for a row, or less.
#[test]
fn a_row_that_a_transaction_holds_fails_no_other_end_of_its_group_however_short_a_call_is() {
    let server = server!();
    let options = server.options("tx_brief").call_timeout(Duration::from_secs(1)).sweep_every(None);
    let store = options.connections(1).session(Duration::from_secs(300)).connect().unwrap();
    let scope = store.scope("");
    let claims = ["a", "b", "c"].map(|key| (claim(&scope, key), "reply"));
    let mut blocker = crate::server::Client::connect(server);
    blocker.run("BEGIN; SELECT FROM tx_brief.keys WHERE key = 'a' FOR UPDATE");
    let mut ended = store.complete_many(claims.into()).into_iter();
    assert!(ended.next().unwrap().unwrap_err().is_retryable());
    let failed: Vec<_> = ended.filter_map(Result::err).collect();
    assert!(failed.is_empty(), "{failed:?}");
}

#[test]
fn what_resolves_or_forgets_a_row_that_a_transaction_holds_is_told_so() {
    let server = server!();
    let options = server.options("tx_held").call_timeout(Duration::from_secs(1)).sweep_every(None);
    let store = options.session(Duration::from_secs(300)).connect().unwrap();
    let scope = store.scope("");
    drop(claim(&scope, "key"));
    assert!(within(Duration::from_secs(30), || matches!(scope.get("key"), Ok(Status::Interrupted(_)))));
    let mut blocker = crate::server::Client::connect(server);
    blocker.run("BEGIN; SELECT FROM tx_held.keys WHERE key = 'key' FOR UPDATE");
    let is_told = |error: &dyn std::error::Error| error.to_string().contains("still open");
    let resolved = scope.resolve("key").unwrap_err();
    assert!(is_told(&resolved), "{resolved}");
    let forgot = scope.forget("key").unwrap_err();
    assert!(is_told(&forgot), "{forgot}");
    let begun = scope.begin("key", request()).unwrap_err();
    assert!(is_told(&begun), "{begun}");
}

#[test]
fn a_claim_in_an_open_transaction_is_not_taken_over_even_past_its_lease() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("tx_open"), server.connect("tx_open"));
        let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_secs(1));
        one.set_policy("", policy).unwrap();
        on_runtime(async {
            let mut client = caller.connect().await;
            let held = claim(&one.scope(""), "key");
            let mut transaction = client.transaction().await;
            let completed = transaction.complete_claim(held, "paid").await.unwrap();
            while server
                .one("SELECT lease_until_ms < extract(epoch FROM clock_timestamp()) * 1000 FROM tx_open.keys")
                != "t"
            {
                tokio::task::yield_now().await;
            }
            let Ok(Begin::InFlight(pending)) = two.scope("").begin_async("key", request()).await else {
                panic!()
            };
            assert!(matches!(pending.wait_timeout(Duration::from_millis(300)), Ok(Waited::TimedOut)));
            let mut other = caller.connect().await;
            let mut twin = other.transaction().await;
            let told = twin.begin(&two.scope(""), "key", request()).await;
            assert!(matches!(told, Ok(BeginInTx::InFlight(_))), "{told:?}");
            twin.rollback().await.unwrap();
            transaction.commit().await.unwrap();
            drop(completed.committed());
            assert!(matches!(pending.wait(), Ok(Waited::Done(_))));

            // One that was rolled back, and of which no word is said, is interrupted by then.
            let held = claim(&one.scope(""), "other");
            let mut transaction = client.transaction().await;
            let completed = transaction.complete_claim(held, "paid").await.unwrap();
            drop(completed);
            let Ok(Begin::InFlight(pending)) = two.scope("").begin_async("other", request()).await else {
                panic!()
            };
            transaction.rollback().await.unwrap();
            assert!(matches!(pending.wait(), Ok(Waited::Interrupted)));
            // One that was committed without a word is done.
            let held = claim(&one.scope(""), "third");
            let mut transaction = client.transaction().await;
            let completed = transaction.complete_claim(held, "paid").await.unwrap();
            transaction.commit().await.unwrap();
            drop(completed);
            assert!(matches!(two.scope("").begin_async("third", request()).await, Ok(Begin::Done(_))));
        });
    }
}

/// An attempt whose lease is over looks interrupted while a transaction completes it. It has one
/// fence in both states.
#[test]
fn a_result_that_is_committed_after_an_operator_looked_is_not_forgotten() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("tx_seen"), server.connect("tx_seen"));
        one.set_policy("", Policy::default().lease(Duration::from_secs(1))).unwrap();
        on_runtime(async {
            let mut client = caller.connect().await;
            let held = claim(&one.scope(""), "key");
            let mut transaction = client.transaction().await;
            let completed = transaction.complete_claim(held, "paid").await.unwrap();
            let mut seen = None;
            assert!(within(Duration::from_secs(10), || {
                if let Ok(Status::Interrupted(lost)) = two.scope("").get("key") {
                    seen = Some(lost);
                }
                seen.is_some()
            }));
            let (seen, scope) = (seen.unwrap(), two.scope(""));
            let sent = || two.shared_stats().unwrap().statements;
            let before = sent();
            let forgetting = std::thread::spawn(move || scope.forget_if("key", &seen));
            // It has looked, and was passed over.
            assert!(within(Duration::from_secs(10), || sent() >= before + 3));
            transaction.commit().await.unwrap();
            let record = completed.committed();
            let forgotten = forgetting.join().unwrap();
            assert!(matches!(forgotten, Ok(false)), "{forgotten:?}");
            assert!(matches!(two.scope("").get("key"), Ok(Status::Done(_))));
            assert!(two.scope("").forget_if("key", &record).unwrap());
        });
    }
}

#[test]
fn a_claim_that_was_taken_over_does_not_complete_in_a_transaction_either() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("tx_late"), server.connect("tx_late"));
        let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_millis(400));
        one.set_policy("", policy).unwrap();
        on_runtime(async {
            let mut client = caller.connect().await;
            let held = claim(&one.scope(""), "key");
            let later = loop {
                match two.scope("").begin_async("key", request()).await {
                    Ok(Begin::Fresh(claim)) => break claim,
                    Ok(Begin::InFlight(pending)) => drop(pending.wait_async().await),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!(later.attempt(), 2);
            let mut transaction = client.transaction().await;
            let error = transaction.complete_claim(held, "paid").await.unwrap_err();
            assert!(matches!(error.reason(), ClaimError::Superseded(_)), "{error}");
            assert!(error.into_claim().is_none());
            transaction.rollback().await.unwrap();

            // A transaction whose snapshot is older than the claim can't see it.
            let mut transaction = client.snapshot().await;
            transaction.execute("SELECT 1 FROM tx_late.keys").await.unwrap();
            one.set_policy("free", Policy::default()).unwrap();
            let held = claim(&one.scope("free"), "key");
            let error = transaction.complete_claim(held, "paid").await.unwrap_err();
            assert!(error.to_string().contains("does not see the claim"), "{error}");
            transaction.rollback().await.unwrap();
            error.into_claim().unwrap().complete("reply").unwrap();
        });
    }
}
