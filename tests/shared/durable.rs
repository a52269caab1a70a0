//! Durability: what the server was told to do, and what it is told otherwise.

use std::time::Duration;

use idemkv::{Begin, BeginError, FailureKind, OpenError, SharedError};

use crate::server::{Server, claim, on_runtime, request, within};

/// Notes how each commit that changes a key is made.
fn note_commits(server: &Server, schema: &str) {
    server.sql(&format!(
        "CREATE TABLE {schema}.commits (setting text); \
         CREATE FUNCTION {schema}.note() RETURNS trigger LANGUAGE plpgsql AS \
           'BEGIN INSERT INTO {schema}.commits VALUES (current_setting(''synchronous_commit'')); RETURN NULL; END'; \
         CREATE CONSTRAINT TRIGGER note AFTER INSERT OR UPDATE ON {schema}.keys DEFERRABLE INITIALLY DEFERRED \
           FOR EACH ROW EXECUTE FUNCTION {schema}.note()"
    ));
}

fn commits(server: &Server, schema: &str) -> String {
    server.one(&format!("SELECT string_agg(DISTINCT setting, ' ') FROM {schema}.commits"))
}

fn another() -> Option<Server> {
    let server = crate::server::another();
    if server.is_none() {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
    }
    server
}

fn set(server: &Server, name: &str, value: &str) {
    server.sql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
    server.sql("SELECT pg_reload_conf()");
    assert!(within(Duration::from_secs(10), || server.one(&format!("SHOW {name}")) == value));
}

#[test]
fn no_setting_of_the_server_or_of_a_transaction_makes_a_commit_less_durable() {
    let Some(server) = another() else { return };
    let store = server.connect("durable");
    note_commits(&server, "durable");
    let scope = store.scope("");
    let (first, second) = (claim(&scope, "first"), claim(&scope, "second"));
    // After the connections were made.
    set(&server, "synchronous_commit", "off");
    first.complete("reply").unwrap();
    claim(&scope, "third").release().unwrap();
    assert_eq!(commits(&server, "durable"), "on");
    on_runtime(async {
        let (mut client, connection) =
            tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute("SET synchronous_commit = off").await.unwrap();
        let mut transaction = client.transaction().await.unwrap();
        let completed = second.complete_in_tx(&mut transaction, "paid").await.unwrap();
        transaction.commit().await.unwrap();
        drop(completed.committed());
        let after = client.query_one("SHOW synchronous_commit", &[]).await.unwrap();
        assert_eq!(after.get::<_, &str>(0), "off", "the caller's setting is its own again");
    });
    assert_eq!(commits(&server, "durable"), "on");
}

/// A standby that has written a commit to its file system can still lose it.
#[test]
fn a_commit_that_standbys_have_only_written_is_not_durable() {
    let Some(server) = another() else { return };
    set(&server, "synchronous_commit", "remote_write");
    let store = server.connect("durable_written");
    note_commits(&server, "durable_written");
    let (first, second) = (claim(&store.scope(""), "first"), claim(&store.scope(""), "second"));
    first.complete("reply").unwrap();
    on_runtime(async {
        let mut client = server.client().await;
        let mut transaction = client.transaction().await.unwrap();
        let completed = second.complete_in_tx(&mut transaction, "paid").await.unwrap();
        transaction.commit().await.unwrap();
        drop(completed.committed());
    });
    assert_eq!(commits(&server, "durable_written"), "on");
}

/// As after a failover.
#[test]
fn a_server_is_looked_at_again_by_each_connection() {
    let Some(server) = another() else { return };
    let store = server.options("durable_again").call_timeout(Duration::from_secs(2)).connect().unwrap();
    set(&server, "fsync", "off");
    let ours = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idemkv'";
    server.sql(ours);
    let scope = store.scope("");
    let refused = || match scope.begin("key", request()) {
        Err(BeginError::Shared(error)) => error.to_string().contains("fsync"),
        other => panic!("{other:?}"),
    };
    assert!(within(Duration::from_secs(30), refused));
    set(&server, "fsync", "on");
    let granted = || matches!(scope.begin("key", request()), Ok(Begin::Fresh(_)));
    assert!(within(Duration::from_secs(30), granted));
}

#[test]
fn a_server_that_can_lose_what_it_has_synced_is_refused() {
    let Some(server) = another() else { return };
    for name in ["fsync", "full_page_writes"] {
        set(&server, name, "off");
        let Err(OpenError::Shared(SharedError::Unavailable(failure))) = server.options("durable").connect()
        else {
            panic!("{name} is off")
        };
        assert_eq!(failure.kind(), FailureKind::Options);
        assert!(failure.to_string().contains(name), "{failure}");
        set(&server, name, "on");
    }
    server.connect("durable").close().unwrap();
}

/// The server crashes while a completion waits for its standby. Then the record is there, though
/// no standby has it.
#[test]
fn after_a_crash_nothing_counts_that_no_standby_has_confirmed() {
    let Some(server) = another() else { return };
    let (one, two) = (server.connect("durable_crash"), {
        let options = server.options("durable_crash").call_timeout(Duration::from_secs(1));
        options.session(Duration::from_secs(300)).connect().unwrap()
    });
    let held = claim(&one.scope(""), "key");
    set(&server, "synchronous_standby_names", "nobody");
    std::thread::scope(|threads| {
        let end = threads.spawn(|| held.complete("reply"));
        let ends =
            "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query LIKE '%SET state = %'";
        assert!(within(Duration::from_secs(10), || !server.sql(ends).is_empty()));
        let killed = std::process::Command::new("kill").args(["-9", &server.one(ends)]).status();
        assert!(killed.unwrap().success());
        let seen = "SELECT state FROM durable_crash.keys";
        assert!(within(Duration::from_secs(30), || {
            server.try_sql(seen).is_ok_and(|rows| rows == [[Some("3".to_owned())]])
        }));
        let begun = two.scope("").begin("key", request());
        assert!(matches!(begun, Err(BeginError::Shared(_))), "{begun:?}");
        set(&server, "synchronous_standby_names", "");
        drop(end.join().unwrap());
    });
    assert!(within(Duration::from_secs(20), || {
        matches!(two.scope("").begin("key", request()), Ok(Begin::Done(record)) if record.body() == b"reply")
    }));
}
