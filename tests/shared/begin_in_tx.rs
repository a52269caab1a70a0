//! Claim, effect and result in one transaction of the caller's.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use idemkv::{
    Begin, BeginError, BeginInTx, ClaimError, ClaimInTx, CommitError, Engine, Event, FailureKind,
    Fingerprint, Observer, Outcome, Policy, Recovery, Scope, SharedError, Status,
};

use crate::caller::Tx;
use crate::server::{claim, on_runtime, request};

#[path = "../../examples/transfer.rs"]
#[allow(dead_code, reason = "it has a main of its own")]
mod transfer;

async fn begun(scope: &Scope, transaction: &mut Tx<'_>, key: &str) -> ClaimInTx {
    match transaction.begin(scope, key, request()).await {
        Ok(BeginInTx::Fresh(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

fn failure_kind(answer: Result<BeginInTx, BeginError>) -> FailureKind {
    match answer {
        Err(BeginError::Shared(SharedError::Unavailable(failure))) => failure.kind(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn claim_effect_and_result_are_committed_together_or_not_at_all() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("whole_tx"), server.connect("whole_tx"));
        server.sql("CREATE TABLE whole_tx.accounts (cents int); INSERT INTO whole_tx.accounts VALUES (100)");
        let cents = || server.one("SELECT cents FROM whole_tx.accounts");
        let keys = || server.one("SELECT count(*) FROM whole_tx.keys");
        let spend = "UPDATE whole_tx.accounts SET cents = cents - 10";
        let scope = one.scope("transfers");
        on_runtime(async {
            let mut client = caller.connect().await;
            // Rolled back before and after the completion, and by a client that is gone.
            for completes in [false, true] {
                let mut transaction = client.transaction().await;
                let held = begun(&scope, &mut transaction, "key").await;
                transaction.execute(spend).await.unwrap();
                if completes {
                    drop(transaction.complete(held, "paid").await.unwrap());
                }
                transaction.rollback().await.unwrap();
                assert_eq!((cents().as_str(), keys().as_str()), ("100", "0"));
            }
            let mut other = caller.connect().await;
            let mut transaction = other.transaction().await;
            let held = begun(&scope, &mut transaction, "key").await;
            drop(transaction.complete(held, "paid").await.unwrap());
            drop(transaction);
            drop(other);
            assert!(matches!(two.scope("transfers").get("key"), Ok(Status::Vacant)));

            let record = loop {
                let mut transaction = client.transaction().await;
                match transaction.begin(&scope, "key", request()).await {
                    Ok(BeginInTx::Fresh(held)) => {
                        transaction.execute(spend).await.unwrap();
                        let stored = transaction.complete(held, "paid").await.unwrap();
                        transaction.commit().await.unwrap();
                        break stored.committed();
                    }
                    // The server has not heard yet that the other client is gone.
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((record.body(), record.attempt(), cents().as_str()), (&b"paid"[..], 1, "90"));

            // It is replayed in a transaction and without, in every process, with all that was stored.
            let mut transaction = client.transaction().await;
            let again = transaction.begin(&two.scope("transfers"), "key", request()).await;
            let Ok(BeginInTx::Done(replayed)) = again else { panic!("{again:?}") };
            transaction.rollback().await.unwrap();
            let Ok(Begin::Done(outside)) = two.scope("transfers").begin_async("key", request()).await else {
                panic!()
            };
            for seen in [&replayed, &outside] {
                assert_eq!(
                    (seen.body(), seen.fence(), seen.started(), seen.completed(), seen.expires()),
                    (record.body(), record.fence(), record.started(), record.completed(), record.expires())
                );
            }
            let mut transaction = client.transaction().await;
            let reused = transaction.begin(&scope, "key", Fingerprint::of("another")).await;
            assert!(matches!(reused, Err(BeginError::KeyReused)), "{reused:?}");
        });
    }
}

#[test]
fn a_twin_in_another_transaction_is_told_so_and_then_gets_the_result() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("twin_tx"), server.connect("twin_tx"));
        on_runtime(async {
            let (mut first, mut second) = (caller.connect().await, caller.connect().await);
            let mut transaction = first.transaction().await;
            let held = begun(&one.scope(""), &mut transaction, "key").await;
            let mut twin = second.transaction().await;
            let told = twin.begin(&two.scope(""), "key", request()).await;
            assert_eq!(failure_kind(told), FailureKind::Locked);
            // Another key is free, and so is the same one in another scope.
            drop(begun(&two.scope(""), &mut twin, "other").await);
            drop(begun(&two.scope("elsewhere"), &mut twin, "key").await);
            let stored = transaction.complete(held, "paid").await.unwrap();
            transaction.commit().await.unwrap();
            drop(stored.committed());
            let told = twin.begin(&two.scope(""), "key", request()).await;
            assert!(matches!(told, Ok(BeginInTx::Done(_))), "{told:?}");
        });
    }
}

/// Until the transaction is committed its row is invisible, and an insert of the same key waits.
#[test]
fn a_result_that_is_not_committed_holds_up_its_own_key_alone() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("open_tx"), server.connect("open_tx"));
        let blocked = Duration::from_millis(900);
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut transaction = client.transaction().await;
            let held = begun(&one.scope(""), &mut transaction, "key").await;
            let stored = transaction.complete(held, "paid").await.unwrap();
            let keys: Vec<String> = (0..20)
                .map(|n| format!("other {n}"))
                .chain(["key".to_owned()])
                .chain((20..40).map(|n| format!("other {n}")))
                .collect();
            let requests: Vec<_> = keys.iter().map(|key| (key.clone(), request())).collect();
            let (scope, started) = (two.scope(""), std::time::Instant::now());
            let answers = scope.begin_many_async(&requests).await;
            assert!(started.elapsed() > blocked, "nothing was waited for: the test shows nothing");
            for (key, answer) in keys.iter().zip(&answers) {
                match answer {
                    Err(BeginError::Shared(SharedError::Unavailable(failure))) if key == "key" => {
                        assert_eq!(failure.kind(), FailureKind::Locked);
                    }
                    Ok(Begin::Fresh(_)) if key != "key" => {}
                    other => panic!("{key}: {other:?}"),
                }
            }
            // The next one waits no more: it is told so, and gets the result once that is committed.
            let again = scope.begin_async("key", request()).await;
            let Err(BeginError::Shared(SharedError::Unavailable(failure))) = again else {
                panic!("{again:?}")
            };
            assert_eq!(failure.kind(), FailureKind::Locked);
            transaction.commit().await.unwrap();
            drop(stored.committed());
            let answer = scope.begin_async("key", request()).await;
            assert!(matches!(answer, Ok(Begin::Done(_))), "{answer:?}");
        });
    }
}

/// Clients that get no answer ask again.
#[test]
fn a_key_that_is_asked_for_again_and_again_holds_up_no_others() {
    for caller in callers!() {
        let server = &caller.server;
        let one = server.connect("stuck_tx");
        let two = server.options("stuck_tx").call_timeout(Duration::from_secs(3)).connect().unwrap();
        let is_over = AtomicBool::new(false);
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut transaction = client.transaction().await;
            let held = begun(&one.scope(""), &mut transaction, "key").await;
            let stored = transaction.complete(held, "paid").await.unwrap();
            let others = thread::scope(|threads| {
                for _ in 0..8 {
                    threads.spawn(|| {
                        while !is_over.load(Ordering::Relaxed) {
                            drop(two.scope("").begin("key", request()));
                        }
                    });
                }
                let others: Vec<_> =
                    (0..200).map(|n| two.scope("").begin(format!("other {n}"), request())).collect();
                is_over.store(true, Ordering::Relaxed);
                others
            });
            let failed: Vec<_> = others.iter().filter(|other| other.is_err()).collect();
            assert!(failed.is_empty(), "{} of 200: {:?}", failed.len(), failed.first());
            transaction.commit().await.unwrap();
            drop(stored.committed());
            let done = two.scope("").begin_async("key", request()).await;
            assert!(matches!(done, Ok(Begin::Done(_))), "{done:?}");
        });
    }
}

#[test]
fn a_snapshot_from_before_a_policy_is_told_so_at_once() {
    for caller in callers!() {
        let server = &caller.server;
        let one = server.options("snapshot_tx").call_timeout(Duration::from_secs(600)).connect().unwrap();
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut transaction = client.snapshot().await;
            transaction.execute("SELECT 1 FROM snapshot_tx.meta").await.unwrap();
            one.set_policy("other", Policy::default()).unwrap();
            let told = transaction.begin(&one.scope(""), "key", request()).await;
            assert_eq!(failure_kind(told), FailureKind::Locked);
        });
    }
}

#[test]
fn a_claim_that_another_caller_was_granted_meanwhile_is_not_overwritten() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("lost_tx"), server.connect("lost_tx"));
        on_runtime(async {
            let mut client = caller.connect().await;
            for ends in [false, true] {
                let key = if ends { "ended" } else { "held" };
                let mut transaction = client.transaction().await;
                let held = begun(&one.scope(""), &mut transaction, key).await;
                let others = claim(&two.scope(""), key);
                let others = if ends {
                    others.complete("theirs").unwrap();
                    None
                } else {
                    Some(others)
                };
                let lost = transaction.complete(held, "mine").await.unwrap_err();
                let ClaimError::Superseded(status) = lost else { panic!("{lost:?}") };
                assert_eq!(matches!(*status, Status::Done(_)), ends);
                transaction.rollback().await.unwrap();
                if let Some(others) = others {
                    others.complete("theirs").unwrap();
                }
                let mut transaction = client.transaction().await;
                let again = transaction.begin(&one.scope(""), key, request()).await;
                assert!(matches!(again, Ok(BeginInTx::Done(record)) if record.body() == b"theirs"));
            }
            // A claim that is out is told at the begin.
            let others = claim(&two.scope(""), "out");
            let mut transaction = client.transaction().await;
            let told = transaction.begin(&one.scope(""), "out", request()).await;
            let Ok(BeginInTx::InFlight(pending)) = told else { panic!("{told:?}") };
            transaction.rollback().await.unwrap();
            others.complete("theirs").unwrap();
            assert!(pending.wait_async().await.is_ok());

            // With a snapshot from before, the conflict is the server's error, and nothing is stored.
            let mut transaction = client.snapshot().await;
            let held = begun(&one.scope(""), &mut transaction, "old snapshot").await;
            claim(&two.scope(""), "old snapshot").complete("theirs").unwrap();
            let error = transaction.complete(held, "mine").await.unwrap_err();
            assert!(!matches!(error, ClaimError::Superseded(_)), "{error:?}");
            transaction.rollback().await.unwrap();
        });
    }
}

#[test]
fn rows_of_earlier_attempts_are_taken_over_as_the_policy_says() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("rows_tx"), server.connect("rows_tx"));
        // Longer than a busy machine takes to hand a claim out.
        let short = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_millis(400));
        one.set_policy("lapses", short).unwrap();
        one.set_policy("refuses", short.recovery(Recovery::Refuse)).unwrap();
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut take_over = async |scope: &Scope, key: &str, ends: fn(idemkv::Claim)| {
                ends(claim(scope, key));
                loop {
                    let mut transaction = client.transaction().await;
                    match transaction.begin(&two.scope(scope.name()), key, request()).await {
                        Ok(BeginInTx::Fresh(held)) => {
                            let (number, fence) = (held.attempt(), held.fence());
                            let stored = transaction.fail(held, "declined").await.unwrap();
                            transaction.commit().await.unwrap();
                            let record = stored.committed();
                            assert_eq!((record.attempt(), record.fence()), (number, fence));
                            break number;
                        }
                        // A drop and the end of a lease take a moment.
                        Ok(BeginInTx::InFlight(_)) => drop(transaction),
                        other => panic!("{other:?}"),
                    }
                }
            };
            let scope = one.scope("");
            assert_eq!(take_over(&scope, "dropped", drop).await, 2);
            assert_eq!(take_over(&scope, "released", |held| held.release().unwrap()).await, 1);
            assert_eq!(take_over(&one.scope("lapses"), "lapsed", std::mem::forget).await, 2);
            for (scope, key) in [("", "dropped"), ("", "released"), ("lapses", "lapsed")] {
                let Ok(Begin::Done(record)) = two.scope(scope).begin_async(key, request()).await else {
                    panic!()
                };
                assert_eq!((record.outcome(), record.body()), (Outcome::Failure, &b"declined"[..]));
            }

            std::mem::forget(claim(&one.scope("refuses"), "key"));
            let refused = loop {
                let mut transaction = client.transaction().await;
                match transaction.begin(&two.scope("refuses"), "key", request()).await {
                    Ok(BeginInTx::InFlight(_)) => {}
                    other => break other,
                }
            };
            assert!(matches!(refused, Err(BeginError::Unresolved(_))), "{refused:?}");
        });
    }
}

/// Only its caller knows what became of the transaction.
#[test]
fn a_begin_in_a_transaction_does_not_say_that_its_outcome_is_unknown() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("known_tx"), server.connect("known_tx"));
        let short = Policy::default().recovery(Recovery::Refuse).lease(Duration::from_millis(400));
        one.set_policy("", short).unwrap();
        std::mem::forget(claim(&one.scope(""), "key"));
        // As poolers tell of a connection that broke.
        let _refusals = server.refuse_changes("known_tx", "08006", "NEW.state = 2");
        on_runtime(async {
            let mut client = caller.connect().await;
            let told = loop {
                let mut transaction = client.transaction().await;
                match transaction.begin(&two.scope(""), "key", request()).await {
                    Ok(BeginInTx::InFlight(_)) => {}
                    other => break other,
                }
            };
            assert!(matches!(told, Err(BeginError::Shared(SharedError::Unavailable(_)))), "{told:?}");
        });
    }
}

#[test]
fn a_row_that_another_transaction_has_is_not_waited_for() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("locked_tx"), server.connect("locked_tx"));
        claim(&one.scope(""), "key").release().unwrap();
        let mut blocker = crate::server::Client::connect(server);
        blocker.run("BEGIN; SELECT FROM locked_tx.keys FOR UPDATE");
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut transaction = client.transaction().await;
            transaction.execute("SET LOCAL lock_timeout = '10s'").await.unwrap();
            let held = begun(&two.scope(""), &mut transaction, "key").await;
            let error = transaction.complete(held, "paid").await.unwrap_err();
            assert!(
                matches!(&error, ClaimError::Commit(CommitError::Shared(SharedError::Unavailable(failure))) if failure.kind() == FailureKind::Locked),
                "{error}"
            );
            transaction.rollback().await.unwrap();
        });
    }
}

#[test]
fn a_policy_that_is_set_meanwhile_is_in_force_at_the_completion() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("policy_tx"), server.connect("policy_tx"));
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut transaction = client.transaction().await;
            let held = begun(&one.scope(""), &mut transaction, "key").await;
            let policy = Policy::default().ttl(Duration::from_secs(7_200));
            two.set_policy("", policy).unwrap();
            let error = transaction.complete(held, "paid").await.unwrap_err();
            assert!(error.to_string().contains("policy") && error.is_retryable(), "{error}");
            transaction.rollback().await.unwrap();
            let mut transaction = client.transaction().await;
            let held = begun(&one.scope(""), &mut transaction, "key").await;
            let stored = transaction.complete(held, "paid").await.unwrap();
            transaction.commit().await.unwrap();
            let record = stored.committed();
            let ttl = record.expires().as_millis() - record.completed().as_millis();
            assert_eq!(ttl, 7_200_000);
        });
    }
}

#[test]
fn a_transaction_on_another_store_and_an_engine_on_a_file_are_refused() {
    for caller in callers!() {
        let server = &caller.server;
        let one = server.connect("here_tx");
        let dir = tempfile::tempdir().unwrap();
        let file = Engine::open(dir.path().join("x.idem")).unwrap();
        let elsewhere = server.database(&format!("elsewhere_{:?}", caller.client));
        let other = elsewhere.connect("here_tx");
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut transaction = client.transaction().await;
            for engine in [&file, &other] {
                let told = transaction.begin(&engine.scope(""), "key", request()).await;
                assert_eq!(failure_kind(told), FailureKind::Options);
            }
            drop(begun(&one.scope(""), &mut transaction, "key").await);
        });
    }
}

#[derive(Debug, Default)]
struct Told(Mutex<Vec<&'static str>>);

impl Observer for Told {
    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(event.name());
    }
}

#[test]
fn what_a_transaction_did_is_told_when_it_was_committed_and_only_then() {
    for caller in callers!() {
        let server = &caller.server;
        let told = Arc::new(Told::default());
        let one = server.options("told_tx").observer(Arc::clone(&told)).connect().unwrap();
        let counts = || {
            let stats = one.stats();
            (stats.fresh, stats.completed)
        };
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut transaction = client.transaction().await;
            let held = begun(&one.scope(""), &mut transaction, "key").await;
            drop(transaction.complete(held, "paid").await.unwrap());
            transaction.rollback().await.unwrap();
            assert_eq!(*told.0.lock().unwrap(), ["connected"]);
            assert_eq!(counts(), (0, 0));
            let mut transaction = client.transaction().await;
            let held = begun(&one.scope(""), &mut transaction, "key").await;
            let stored = transaction.complete(held, "paid").await.unwrap();
            transaction.commit().await.unwrap();
            drop(stored.committed());
            assert_eq!(*told.0.lock().unwrap(), ["connected", "granted", "ended"]);
            assert_eq!(counts(), (1, 1));
        });
    }
}

/// Runs in a process of its own: a worker of the example.
#[test]
fn a_worker_that_is_killed() {
    let Ok(url) = std::env::var("IDEMKV_TEST_WORKER") else { return };
    let number = std::env::var("IDEMKV_TEST_NUMBER").unwrap();
    on_runtime(async { transfer::work(&url, &number).await.map_err(|error| error.to_string()) }).unwrap();
}

/// The example, with this program as its workers.
#[test]
fn transfers_of_processes_that_are_killed_are_made_once() {
    let server = server!();
    let url = server.url();
    let worker = |number: usize| {
        let mut command = std::process::Command::new(std::env::current_exe()?);
        command.args(["--exact", "begin_in_tx::a_worker_that_is_killed", "--nocapture"]);
        command.env("IDEMKV_TEST_WORKER", &url).env("IDEMKV_TEST_NUMBER", number.to_string());
        command.stdout(std::process::Stdio::null());
        Ok(command)
    };
    on_runtime(async { transfer::show(&url, worker).await.map_err(|error| error.to_string()) }).unwrap();
}
