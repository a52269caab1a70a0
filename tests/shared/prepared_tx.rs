//! Transactions of a caller's that has our statements prepared on its connection.

use std::time::Duration;

use idemkv::{
    Begin, BeginError, BeginInTx, ClaimError, ClaimInTx, CommitError, Engine, FailureKind, Fingerprint,
    Policy, Recovery, Scope, SharedError, Status, TxStatements,
};
use tokio_postgres::Transaction;

use crate::server::{claim, on_runtime, request};

async fn begun(
    scope: &Scope,
    statements: &TxStatements,
    transaction: &mut Transaction<'_>,
    key: &str,
) -> ClaimInTx {
    match scope.begin_in_tx_with(statements, transaction, key, request()).await {
        Ok(BeginInTx::Fresh(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

#[test]
fn prepared_statements_give_every_answer_that_others_do() {
    let server = server!();
    let (one, two) = (server.connect("prepared_tx"), server.connect("prepared_tx"));
    let scope = one.scope("transfers");
    on_runtime(async {
        let (mut client, mut other) = (server.client().await, server.client().await);
        let (mine, theirs) =
            (one.prepare_for_tx(&client).await.unwrap(), two.prepare_for_tx(&other).await.unwrap());
        for round in 0..10 {
            let key = format!("key {round}");
            // Rolled back, then committed; a twin is told so meanwhile, and then gets the result.
            let mut transaction = client.transaction().await.unwrap();
            drop(
                begun(&scope, &mine, &mut transaction, &key)
                    .await
                    .complete(&mut transaction, "x")
                    .await
                    .unwrap(),
            );
            transaction.rollback().await.unwrap();
            let mut transaction = client.transaction().await.unwrap();
            let held = begun(&scope, &mine, &mut transaction, &key).await;
            let mut twin = other.transaction().await.unwrap();
            let told = two.scope("transfers").begin_in_tx_with(&theirs, &mut twin, &key, request()).await;
            let Err(BeginError::Shared(SharedError::Unavailable(failure))) = &told else {
                panic!("{told:?}")
            };
            assert_eq!(failure.kind(), FailureKind::Locked);
            let stored = held.complete(&mut transaction, "paid").await.unwrap();
            transaction.commit().await.unwrap();
            let record = stored.committed();
            let told = two.scope("transfers").begin_in_tx_with(&theirs, &mut twin, &key, request()).await;
            let Ok(BeginInTx::Done(replayed)) = told else { panic!("{told:?}") };
            assert_eq!(
                (replayed.body(), replayed.completed(), replayed.expires()),
                (record.body(), record.completed(), record.expires())
            );
            let another = Fingerprint::of("another");
            let reused = two.scope("transfers").begin_in_tx_with(&theirs, &mut twin, &key, another).await;
            assert!(matches!(reused, Err(BeginError::KeyReused)), "{reused:?}");
            twin.rollback().await.unwrap();
        }

        // A claim of its own is in flight, and is completed within the transaction.
        let Ok(Begin::Fresh(held)) = scope.begin_async("own", request()).await else { panic!() };
        let mut transaction = client.transaction().await.unwrap();
        let told = scope.begin_in_tx_with(&mine, &mut transaction, "own", request()).await;
        assert!(matches!(told, Ok(BeginInTx::InFlight(_))), "{told:?}");
        let completed = held.complete_in_tx_with(&mine, &mut transaction, "paid").await.unwrap();
        transaction.commit().await.unwrap();
        drop(completed.committed());
        assert!(matches!(two.scope("transfers").get_async("own").await, Ok(Status::Done(_))));

        // An earlier attempt is taken over.
        let Ok(Begin::Fresh(lost)) = scope.begin_async("lost", request()).await else { panic!() };
        drop(lost);
        let mut transaction = client.transaction().await.unwrap();
        let held = loop {
            match scope.begin_in_tx_with(&mine, &mut transaction, "lost", request()).await.unwrap() {
                BeginInTx::Fresh(held) => break held,
                BeginInTx::InFlight(_) => {}
                BeginInTx::Done(record) => panic!("{record:?}"),
            }
        };
        assert_eq!(held.attempt(), 2);
        let stored = held.complete(&mut transaction, "again").await.unwrap();
        transaction.commit().await.unwrap();
        assert_eq!(stored.committed().attempt(), 2);
    });
}

/// What was granted meanwhile, and what was set meanwhile, refuses a result.
#[test]
fn a_result_by_a_prepared_statement_is_refused_for_the_same_reasons() {
    let server = server!();
    let store = server.connect("prepared_late");
    let scope = store.scope("");
    on_runtime(async {
        let mut client = server.client().await;
        let mine = store.prepare_for_tx(&client).await.unwrap();
        let mut transaction = client.transaction().await.unwrap();
        let late = begun(&scope, &mine, &mut transaction, "key").await;
        let Ok(Begin::Fresh(held)) = scope.begin_async("key", request()).await else { panic!() };
        let refused = late.complete(&mut transaction, "late").await;
        let is_superseded = matches!(&refused, Err(ClaimError::Superseded(status)) if matches!(**status, Status::InFlight(_)));
        assert!(is_superseded, "{refused:?}");
        transaction.rollback().await.unwrap();
        drop(held.complete_async("first").await.unwrap());

        let mut transaction = client.transaction().await.unwrap();
        let late = begun(&scope, &mine, &mut transaction, "other").await;
        let policy = Policy::default().ttl(Duration::from_secs(60)).recovery(Recovery::Rerun);
        store.set_policy_async("", policy).await.unwrap();
        let refused = late.complete(&mut transaction, "late").await;
        let Err(ClaimError::Commit(CommitError::Shared(SharedError::Unavailable(failure)))) = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!(failure.kind(), FailureKind::Locked);
        transaction.rollback().await.unwrap();
    });
    assert!(matches!(scope.get("other"), Ok(Status::Vacant)));
}

#[test]
fn statements_of_another_connection_or_store_are_refused() {
    let server = server!();
    let (store, other) = (server.connect("prepared_here"), server.connect("prepared_there"));
    on_runtime(async {
        let (mut client, stranger) = (server.client().await, server.client().await);
        let strange = store.prepare_for_tx(&stranger).await.unwrap();
        let mut transaction = client.transaction().await.unwrap();
        let refused = store.scope("").begin_in_tx_with(&strange, &mut transaction, "key", request()).await;
        assert!(matches!(refused, Err(BeginError::Shared(SharedError::Unavailable(_)))), "{refused:?}");
        transaction.rollback().await.unwrap();

        let mine = store.prepare_for_tx(&client).await.unwrap();
        let mut transaction = client.transaction().await.unwrap();
        let refused = other.scope("").begin_in_tx_with(&mine, &mut transaction, "key", request()).await;
        let Err(BeginError::Shared(SharedError::Unavailable(failure))) = &refused else {
            panic!("{refused:?}")
        };
        assert_eq!(failure.kind(), FailureKind::Options);

        let scratch = tempfile::tempdir().unwrap();
        let file = Engine::open(scratch.path().join("x.idem")).unwrap();
        assert!(file.prepare_for_tx(&stranger).await.is_err());
    });
    drop(claim(&store.scope(""), "key"));
}
