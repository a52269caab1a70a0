//! Calls that only one kind of store has, on the other kind.

use idemkv::{
    BackupError, Begin, ClaimError, CommitError, CompleteInError, Engine, Failure, ReadError, Status,
};

use crate::server::{claim, on_runtime, request};

#[test]
fn what_only_a_file_has_is_refused_and_the_claim_comes_back() {
    let server = server!();
    let store = server.connect("no_file");
    let scope = store.scope("");
    assert!(matches!(store.checkpoint(), Err(Failure::NoFile)));
    assert!(matches!(store.compact(), Err(CommitError::Failed(Failure::NoFile))));
    let scratch = tempfile::tempdir().unwrap();
    let copy = scratch.path().join("copy.idem");
    let made = store.backup(&copy);
    assert!(matches!(made, Err(BackupError::Commit(CommitError::Failed(Failure::NoFile)))), "{made:?}");
    assert!(!copy.exists());
    let mut is_run = false;
    assert!(matches!(store.read_tables(|_| is_run = true), Err(ReadError::NoFile)));
    let completed = claim(&scope, "key").complete_in(|_| {
        is_run = true;
        Ok::<_, String>("reply")
    });
    let Err(CompleteInError::End(error)) = completed else { panic!("{completed:?}") };
    assert!(matches!(error.reason(), ClaimError::Commit(CommitError::Failed(Failure::NoFile))), "{error}");
    assert!(!is_run && !error.is_retryable());
    assert!(error.to_string().contains("file"), "{error}");
    error.into_claim().unwrap().complete("reply").unwrap();
    assert!(matches!(scope.get("key"), Ok(Status::Done(_))));
    // The engine has not failed by that.
    assert!(store.flush().is_ok());
    claim(&scope, "next").release().unwrap();
}

#[test]
fn what_only_a_shared_store_has_is_refused_on_a_file_and_the_claim_comes_back() {
    let server = server!();
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    assert!(engine.shared_stats().is_none());
    let claim = claim(engine.default_scope(), "key");
    on_runtime(async {
        let mut client = server.client().await;
        client.batch_execute("CREATE TEMP TABLE effects (n int)").await.unwrap();
        let mut transaction = client.transaction().await.unwrap();
        transaction.execute("INSERT INTO effects VALUES (1)", &[]).await.unwrap();
        let error = claim.complete_in_tx(&mut transaction, "paid").await.unwrap_err();
        assert!(matches!(error.reason(), ClaimError::NotShared), "{error}");
        assert!(!error.is_retryable());
        // The transaction was not touched, and goes on.
        transaction.commit().await.unwrap();
        assert_eq!(client.query("SELECT n FROM effects", &[]).await.unwrap().len(), 1);
        error.into_claim().unwrap().complete_async("reply").await.unwrap();
    });
    assert!(matches!(engine.default_scope().begin("key", request()), Ok(Begin::Done(_))));
}
