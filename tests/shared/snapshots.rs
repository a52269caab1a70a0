//! Transactions that keep the snapshot of their first statement.

use std::time::Duration;

use idemkv::{BeginInTx, Policy, Recovery};

use crate::server::{claim, request, within};

#[test]
fn a_claim_that_was_renewed_since_the_snapshot_is_not_taken_over() {
    for caller in callers!() {
        let server = &caller.server;
        let one = server.options("renewed_tx").session(Duration::from_secs(2)).connect().unwrap();
        let two = server.connect("renewed_tx");
        let held = claim(&one.scope(""), "key");
        crate::server::on_runtime(async {
            let mut client = caller.connect().await;
            let mut transaction = client.snapshot().await;
            let until = transaction.number("SELECT min(until_ms) FROM renewed_tx.sessions").await;
            let is_over = format!("SELECT extract(epoch FROM clock_timestamp()) * 1000 > {until}");
            assert!(within(Duration::from_secs(20), || server.one(&is_over) == "t"));
            // By its snapshot the session is over.
            let told = transaction.begin(&two.scope(""), "key", request()).await;
            assert!(matches!(told, Ok(BeginInTx::InFlight(_))), "{told:?}");
            transaction.rollback().await.unwrap();
        });
        let record = held.complete("reply").unwrap();
        assert_eq!((record.attempt(), record.body()), (1, &b"reply"[..]));
    }
}

/// A claim that is over is made interrupted outside of the transaction, and the next one sees that.
#[test]
fn a_claim_that_is_over_is_taken_over_by_a_later_snapshot() {
    for caller in callers!() {
        let server = &caller.server;
        let (one, two) = (server.connect("over_tx"), server.connect("over_tx"));
        let short = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_millis(400));
        one.set_policy("", short).unwrap();
        std::mem::forget(claim(&one.scope(""), "key"));
        crate::server::on_runtime(async {
            let mut client = caller.connect().await;
            let record = loop {
                let mut transaction = client.snapshot().await;
                match transaction.begin(&two.scope(""), "key", request()).await {
                    Ok(BeginInTx::Fresh(held)) => {
                        let stored = transaction.complete(held, "paid").await.unwrap();
                        transaction.commit().await.unwrap();
                        break stored.committed();
                    }
                    Ok(BeginInTx::InFlight(_)) => {}
                    Err(error) => assert!(error.is_retryable(), "{error}"),
                    other => panic!("{other:?}"),
                }
            };
            assert_eq!((record.attempt(), record.body()), (2, &b"paid"[..]));
        });
    }
}
