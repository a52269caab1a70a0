//! What a transaction of the caller's needs of its client, whichever that is.

use std::task::Poll;

use idemkv::{
    Begin, BeginInTx, Claim, ClaimError, CommitError, Fingerprint, Pooling, Scope, SharedError, Status,
    StoreFailure,
};

use crate::caller::{Caller, Connection, Tx};
use crate::server::{claim, on_runtime, request};

fn failure(error: &ClaimError) -> StoreFailure {
    match error {
        ClaimError::Commit(CommitError::Shared(SharedError::Unavailable(failure))) => failure.clone(),
        other => panic!("{other:?}"),
    }
}

/// What the server refuses is told alike, and the claim comes back.
#[test]
fn an_error_of_the_server_is_the_same_whichever_client_brings_it() {
    let codes = [
        "25006", "40001", "40P01", "42501", "42P01", "53100", "55P03", "57014", "57P01", "08006", "23505",
        "XX000",
    ];
    let mut told: Vec<Vec<String>> = Vec::new();
    for caller in callers!() {
        let server = &caller.server;
        let store = server.connect("errors_tx");
        server.sql(
            "CREATE TABLE errors_tx.next (code text); INSERT INTO errors_tx.next VALUES ('');
             CREATE FUNCTION errors_tx.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE code text; BEGIN
                 SELECT n.code INTO code FROM errors_tx.next n;
                 IF code <> '' THEN
                     RAISE EXCEPTION 'as planned' USING ERRCODE = code, DETAIL = 'what the row has';
                 END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER refuse BEFORE UPDATE ON errors_tx.keys FOR EACH ROW EXECUTE FUNCTION errors_tx.refuse()",
        );
        let next = |code: &str| server.sql(&format!("UPDATE errors_tx.next SET code = '{code}'"));
        let mut mine = Vec::new();
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut held = claim(&store.scope(""), "key");
            for code in codes {
                next(code);
                let mut transaction = client.transaction().await;
                let error = transaction.complete_claim(held, "paid").await.unwrap_err();
                transaction.rollback().await.unwrap();
                let failure = failure(error.reason());
                assert_eq!(failure.code(), Some(code));
                mine.push(format!("{:?} {failure} {}", failure.kind(), error.reason().is_retryable()));
                held = error.into_claim().unwrap();
            }
            next("");
            // The session of the connection is ended, which the client learns of by its next statement.
            let mut transaction = client.transaction().await;
            let process = transaction.number("SELECT pg_backend_pid()::bigint").await;
            server.sql(&format!("SELECT pg_terminate_backend({process}, 10000)"));
            let error = transaction.complete_claim(held, "paid").await.unwrap_err();
            mine.push(format!("{:?}", failure(error.reason()).kind()));
            drop(transaction);
            let mut client = caller.connect().await;
            let mut transaction = client.transaction().await;
            let completed = transaction.complete_claim(error.into_claim().unwrap(), "paid").await.unwrap();
            transaction.commit().await.unwrap();
            assert_eq!(completed.committed().body(), b"paid");
        });
        told.push(mine);
    }
    assert_eq!(told[0].last().unwrap(), "Unreachable");
    for other in &told {
        assert_eq!(*other, told[0]);
    }
}

/// Polls a call until a statement of the caller's connection waits for a lock, and drops it then.
async fn drop_where_it_waits<T>(caller: &Caller, process: i64, call: impl Future<Output = T>) {
    let mut call = Box::pin(call);
    let waits = format!("SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = {process}");
    let mut is_waiting = false;
    while !is_waiting {
        let polled = std::future::poll_fn(|context| Poll::Ready(call.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "it did not wait");
        is_waiting = caller.server.one(&waits) == "t";
        tokio::task::yield_now().await;
    }
}

/// What a caller holds when its call is dropped.
enum Call {
    Begin(Scope),
    Complete(Claim),
}

/// The future of a call may be dropped while the server is at the statement: its caller's time is up.
/// The table is locked, so the server already waits to plan; or the row is, and it waits to change it.
#[test]
fn a_call_that_is_dropped_in_its_statement_leaves_the_connection_good_and_nothing_done() {
    for caller in callers!() {
        let server = &caller.server;
        let store = server.connect("dropped_tx");
        let scope = store.scope("");
        on_runtime(async {
            let mut client = caller.connect().await;
            let mut other = server.client().await;
            let locks = ["LOCK TABLE dropped_tx.keys", "SELECT 1 FROM dropped_tx.keys FOR UPDATE"];
            for (round, lock) in locks.into_iter().enumerate() {
                // The first use of a statement, then that of one that the client may keep.
                for again in 0..2 {
                    let key = format!("key {round} {again}");
                    let calls = [Call::Begin(scope.clone()), Call::Complete(claim(&scope, &key))];
                    for call in calls {
                        let mut transaction = client.transaction().await;
                        let process = transaction.number("SELECT pg_backend_pid()::bigint").await;
                        let holder = other.transaction().await.unwrap();
                        holder.batch_execute(lock).await.unwrap();
                        match call {
                            // A look waits for no row.
                            Call::Begin(_) if round == 1 => {}
                            Call::Begin(scope) => {
                                let call = transaction.begin(&scope, "other", request());
                                drop_where_it_waits(caller, process, call).await;
                            }
                            Call::Complete(held) => {
                                let call = transaction.complete_claim(held, "paid");
                                drop_where_it_waits(caller, process, call).await;
                            }
                        }
                        holder.rollback().await.unwrap();
                        transaction.rollback().await.unwrap();
                    }
                    transfer(&mut client, &scope, &format!("next {round} {again}")).await;
                    let again = loop {
                        match scope.begin_async(&key, request()).await {
                            Ok(Begin::Fresh(again)) => break again,
                            // The drop of the claim takes a moment.
                            Ok(Begin::InFlight(pending)) => drop(pending.wait_async().await),
                            other => panic!("{other:?}"),
                        }
                    };
                    assert_eq!(again.attempt(), 2);
                    drop(again.complete_async("paid").await.unwrap());
                }
            }
        });
        assert!(matches!(scope.get("other"), Ok(Status::Vacant)));
    }
}

/// Claim and result in one transaction.
async fn transfer(client: &mut Connection, scope: &Scope, key: &str) {
    let mut transaction = client.transaction().await;
    let held = match transaction.begin(scope, key, request()).await {
        Ok(BeginInTx::Fresh(held)) => held,
        other => panic!("{other:?}"),
    };
    let stored = transaction.complete(held, "paid").await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(stored.committed().body(), b"paid");
}

/// Of statements of this crate, on the connection.
async fn kept(transaction: &mut Tx<'_>) -> i64 {
    let ours = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%kept_tx%'";
    transaction.number(ours).await
}

/// Behind a pooler the next statement may come to another session, which does not have them.
#[test]
fn statements_are_prepared_once_by_sqlx_and_not_at_all_behind_a_pooler() {
    for caller in callers!() {
        let server = &caller.server;
        let direct = server.connect("kept_tx");
        let pooled = server.options("kept_tx").pooling(Pooling::Transaction).connect().unwrap();
        let is_sqlx = caller.client != crate::caller::Client::TokioPostgres;
        on_runtime(async {
            for (way, store, expected) in
                [("direct", &direct, if is_sqlx { 2 } else { 0 }), ("pooled", &pooled, 0)]
            {
                let mut client = caller.connect().await;
                for round in 0..3 {
                    transfer(&mut client, &store.scope(""), &format!("{way} {round}")).await;
                }
                assert_eq!(kept(&mut client.transaction().await).await, expected);
            }
        });
    }
}

/// Bytes of every value, and a body and a key at their limits, come back as they were stored.
#[test]
fn every_byte_comes_through_every_client() {
    for caller in callers!() {
        let store = caller.server.connect("bytes_tx");
        let scope = store.scope("a scope of 'letters' and \u{0}");
        let body: Vec<u8> = (0..1_048_576_u32).map(|n| n.to_be_bytes()[3]).collect();
        on_runtime(async {
            let mut client = caller.connect().await;
            for (key, body) in [(vec![b'k'; 255], &body[..]), ((0..=254).collect(), &b""[..])] {
                let mut transaction = client.transaction().await;
                let fingerprint = Fingerprint::of("bytes");
                let Ok(BeginInTx::Fresh(held)) = transaction.begin(&scope, &key, fingerprint).await else {
                    panic!()
                };
                let stored = transaction.complete(held, body).await.unwrap();
                transaction.commit().await.unwrap();
                drop(stored.committed());
                let mut transaction = client.transaction().await;
                let replayed = transaction.begin(&scope, &key, fingerprint).await;
                let Ok(BeginInTx::Done(record)) = replayed else { panic!("{replayed:?}") };
                assert!(record.body() == body && record.key() == key);
            }
        });
    }
}

/// In no transaction every statement is committed by itself, and the result before the effect.
#[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
#[test]
fn a_connection_of_sqlx_in_no_transaction_is_refused_and_the_claim_comes_back() {
    use idemkv::{BeginError, FailureKind};

    for caller in callers!() {
        let store = caller.server.connect("no_tx");
        let scope = store.scope("");
        macro_rules! refused {
            ($connection:expr) => {{
                let told = scope.begin_in_tx($connection, "key", request()).await;
                let Err(BeginError::Shared(SharedError::Unavailable(told))) = told else {
                    panic!("{told:?}")
                };
                let held = claim(&scope, "key");
                let error = held.complete_in_tx($connection, "paid").await.unwrap_err();
                let failures = [told, failure(error.reason())];
                assert_eq!(failures.map(|failure| failure.kind()), [FailureKind::Options; 2]);
                error.into_claim().unwrap().release().unwrap();
            }};
        }
        on_runtime(async {
            match caller.connect().await {
                Connection::TokioPostgres(_) => {}
                #[cfg(feature = "sqlx-0_8")]
                Connection::Sqlx08(mut connection) => refused!(&mut connection),
                #[cfg(feature = "sqlx-0_9")]
                Connection::Sqlx09(mut connection) => refused!(&mut connection),
            }
        });
        assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
    }
}
