//! Tables of the version before are brought up to this library's.

use std::thread;

use idemkv::{
    Begin, BeginError, Busy, Engine, FailureKind, Migrated, OpenError, Policy, Recovery, SharedError,
    SharedOptions, StoreFailure,
};

use crate::server::{Server, claim, request};

/// Tables of version 3, with a key and a policy.
fn older(server: &Server, schema: &str) {
    let store = server.connect(schema);
    claim(&store.scope("charges"), "key").complete("reply").unwrap();
    store.set_policy("charges", Policy::default().recovery(Recovery::Rerun).max_attempts(7)).unwrap();
    store.close().unwrap();
    server.sql(&format!(
        "DROP TABLE {schema}.places; ALTER TABLE {schema}.policies DROP COLUMN max_in_flight; \
         UPDATE {schema}.meta SET version = 3"
    ));
}

fn is_whole(store: &Engine) {
    let charges = store.scope("charges");
    assert!(matches!(charges.begin("key", request()), Ok(Begin::Done(record)) if record.body() == b"reply"));
    assert_eq!(charges.policy().get_max_attempts(), Some(7));
    store.set_policy("charges", charges.policy().max_in_flight(1)).unwrap();
    let held = claim(&charges, "held");
    let refused = charges.begin("one more", request());
    assert!(matches!(refused, Err(BeginError::Busy(Busy::TooManyClaims { max: 1 }))), "{refused:?}");
    drop(held);
}

fn failure<T: std::fmt::Debug>(refused: Result<T, OpenError>) -> StoreFailure {
    match refused {
        Err(OpenError::Shared(SharedError::Unavailable(failure))) => failure,
        other => panic!("{other:?}"),
    }
}

/// What the server says to the statements that a person runs. They wait for ten seconds at most.
fn by_hand(server: &Server, schema: &str) -> Result<(), String> {
    let sql = SharedOptions::new("").schema(schema).migration_sql().unwrap();
    crate::server::on_runtime(async {
        let client = server.client().await;
        client.batch_execute("SET statement_timeout = '10s'").await.unwrap();
        let done = client.batch_execute(&sql).await;
        done.map_err(|error| {
            error.as_db_error().map_or(error.to_string(), |error| error.message().to_owned())
        })
    })
}

#[test]
fn tables_of_the_version_before_are_brought_up_by_the_first_that_connects() {
    let server = server!();
    older(server, "migrate_connect");
    let connect = || thread::spawn(|| server.connect("migrate_connect"));
    let stores: Vec<_> = [connect(), connect(), connect()].map(|one| one.join().unwrap()).into();
    is_whole(&stores[0]);
    assert_eq!(server.one("SELECT version FROM migrate_connect.meta"), "4");
}

#[test]
fn tables_are_brought_up_or_made_without_a_session() {
    let server = server!();
    older(server, "migrate_call");
    let options = || server.options("migrate_call");
    let sessions = || server.one("SELECT count(*) FROM migrate_call.sessions");
    let before = sessions();
    assert_eq!(options().migrate().unwrap(), Migrated::From(3));
    assert_eq!(options().migrate().unwrap(), Migrated::UpToDate);
    assert_eq!(sessions(), before);
    is_whole(&server.connect("migrate_call"));
    assert_eq!(server.options("migrate_new").migrate().unwrap(), Migrated::Made);
}

#[test]
fn a_role_that_does_not_own_the_tables_is_told_what_to_run_and_works_after_it() {
    let server = server!();
    older(server, "migrate_hand");
    server.sql(
        "CREATE ROLE tenant LOGIN; GRANT USAGE ON SCHEMA migrate_hand TO tenant; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON migrate_hand.keys, migrate_hand.sessions, migrate_hand.policies TO tenant; \
         GRANT SELECT, UPDATE ON migrate_hand.duties, migrate_hand.meta TO tenant; \
         GRANT USAGE ON SEQUENCE migrate_hand.fence TO tenant",
    );
    let options = || SharedOptions::new(server.url().replace("idemkv@", "tenant@")).schema("migrate_hand");
    for refused in [failure(options().connect()), failure(options().make_tables(false).connect())] {
        assert_eq!(refused.kind(), FailureKind::Schema, "{refused}");
        assert!(refused.to_string().contains("`idemkv migrate`"), "{refused}");
    }
    assert_eq!(server.one("SELECT version FROM migrate_hand.meta"), "3");
    // Of another version they stay as they are.
    server.sql("UPDATE migrate_hand.meta SET version = 2");
    let refused = by_hand(server, "migrate_hand");
    assert!(refused.as_ref().is_err_and(|error| error.contains("do not have version 3")), "{refused:?}");
    assert_eq!(server.one("SELECT version FROM migrate_hand.meta"), "2");
    server.sql("UPDATE migrate_hand.meta SET version = 3");
    server.sql(&options().migration_sql().unwrap());
    let refused = failure(options().connect());
    assert_eq!(refused.kind(), FailureKind::Forbidden, "{refused}");
    assert!(refused.to_string().contains("places"), "{refused}");
    server.sql("GRANT SELECT, INSERT, UPDATE ON migrate_hand.places TO tenant");
    is_whole(&options().connect().unwrap());
}

/// A dump holds the tables for as long as it runs. Whoever reads policies would wait behind.
#[test]
fn a_lock_that_others_hold_is_not_waited_for() {
    let server = server!();
    older(server, "migrate_locked");
    crate::server::on_runtime(async {
        let mut client = server.client().await;
        let dump = client.transaction().await.unwrap();
        dump.batch_execute("LOCK TABLE migrate_locked.policies IN ACCESS SHARE MODE").await.unwrap();
        let refused = thread::spawn(|| failure(server.options("migrate_locked").migrate()));
        let refused = refused.join().unwrap();
        assert!(refused.to_string().contains("lock timeout"), "{refused}");
        let refused = thread::spawn(|| by_hand(server, "migrate_locked")).join().unwrap();
        assert!(refused.as_ref().is_err_and(|error| error.contains("lock timeout")), "{refused:?}");
        dump.commit().await.unwrap();
    });
    is_whole(&server.connect("migrate_locked"));
}
