//! The keys of a file in a shared store.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use idemkv::{
    Begin, BeginError, BeginInTx, Completion, Copied, CopyError, Durability, Engine, FailureKind, OpenError,
    Policy, Recovery, Scope, SharedError, SharedOptions, Status,
};

use crate::server::{claim, on_runtime, request, within};

const HOUR: Duration = Duration::from_secs(3_600);

fn writable(path: &Path) -> Engine {
    Engine::options().policy(Policy::default().ttl(HOUR)).open(path).unwrap()
}

fn read_only(path: &Path) -> Engine {
    Engine::options().read_only().open(path).unwrap()
}

/// Everything that callers can see of a key.
fn seen(status: &Status) -> String {
    match status {
        Status::Done(record) => format!(
            "{:?} {:?} {:?} kept {}, from {:?} to {:?} to {:?}, until {:?}",
            (record.outcome(), record.fence(), record.attempt()),
            record.fingerprint(),
            record.body().escape_ascii().to_string(),
            record.is_body_kept(),
            record.started(),
            record.completed(),
            record.expires(),
            record.remembered_until()
        ),
        Status::Expired(tombstone) => {
            format!("{tombstone:?} {:?} {:?}", tombstone.fingerprint(), tombstone.remembered_until())
        }
        Status::Interrupted(lost) => {
            format!(
                "{lost:?} {:?} {:?}",
                lost.fingerprint(),
                lost.last_progress().map(|bytes| bytes.to_vec())
            )
        }
        other => format!("{other:?}"),
    }
}

fn all(engine: &Engine) -> BTreeMap<(Vec<u8>, Vec<u8>), String> {
    let entries = engine.entries().map(|entry| {
        let entry = entry.unwrap();
        ((entry.scope().to_vec(), entry.key().to_vec()), seen(entry.status()))
    });
    entries.collect()
}

/// Interrupts the key's attempt, and another one that is given back.
fn interrupt_and_give_back(scope: &Scope, key: &str) {
    drop(claim(scope, key));
    assert!(within(HOUR, || matches!(scope.get(key), Ok(Status::Interrupted(_)))));
    claim(scope, key).release().unwrap();
}

/// A file with a key in each state, which is closed.
fn fill(path: &Path) -> String {
    let engine = writable(path);
    let plain = engine.scope("plain");
    claim(&plain, "paid").complete("reply").unwrap();
    claim(&plain, "failed").fail("no funds").unwrap();
    claim(&plain, "empty").complete("").unwrap();
    claim(&plain, "without a body").complete_with("x", Completion::new().discard_body()).unwrap();
    let brief = Completion::new().ttl(Duration::from_millis(1)).tombstone_ttl(HOUR);
    claim(&plain, "expired").complete_with("reply", brief).unwrap();
    assert!(within(HOUR, || matches!(plain.get("expired"), Ok(Status::Expired(_)))));
    claim(&plain, "over").complete_with("reply", Completion::new().ttl(Duration::from_millis(1))).unwrap();
    assert!(within(HOUR, || matches!(plain.get("over"), Ok(Status::Vacant))));
    let rerun = Policy::default().ttl(HOUR).recovery(Recovery::Rerun).unresolved_forever().max_in_flight(2);
    let again = engine.set_policy("again", rerun.durability(Durability::Completions)).unwrap();
    interrupt_and_give_back(&again, "given back");
    let mut halfway = claim(&again, "halfway");
    halfway.save_progress("reserved").unwrap();
    let step = halfway.step_key("charge").to_string();
    drop(halfway);
    drop(claim(&plain, "interrupted"));
    claim(&engine.scope(b"\xff\x00"), "odd scope").complete(b"\x00\xff").unwrap();
    engine.close().unwrap();
    step
}

#[test]
fn every_key_of_a_file_comes_along_as_it_is_and_fences_and_step_keys_go_on() {
    let server = server!();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let step = fill(&path);
    let file = read_only(&path);
    let copied = file.copy_to(server.options("copy_all")).unwrap();
    assert_eq!((copied.results, copied.interrupted, copied.policies), (6, 3, 1));
    let store = server.connect("copy_all");
    assert_eq!(all(&store), all(&file));
    assert_eq!(all(&store).len(), 9);
    // A shared store makes everything durable, and keeps the limits of scopes.
    let declared: Vec<_> = file
        .policies()
        .iter()
        .map(|(scope, policy)| (scope.clone(), policy.durability(Durability::Full)))
        .collect();
    assert_eq!(store.policies(), declared);

    let highest = store.entries().map(|entry| fence(entry.unwrap().status())).max().unwrap();
    let again = store.scope("again");
    let halfway = claim(&again, "halfway");
    assert_eq!(halfway.step_key("charge").to_string(), step);
    assert_eq!(halfway.attempt(), 2);
    assert_eq!(
        halfway.interrupted().unwrap().last_progress().map(|bytes| bytes.to_vec()),
        Some(b"reserved".to_vec())
    );
    assert!(halfway.fence().get() > highest, "{:?} {highest}", halfway.fence());
    halfway.complete("reply").unwrap();
    let given_back = claim(&again, "given back");
    assert_eq!((given_back.attempt(), given_back.interrupted().unwrap().attempt()), (3, 1));
    let plain = store.scope("plain");
    let Ok(Begin::Done(record)) = plain.begin("paid", request()) else { panic!() };
    assert_eq!(record.body(), b"reply");
    let strict = store.set_policy("plain", Policy::default().recovery(Recovery::Refuse)).unwrap();
    assert!(matches!(strict.begin("interrupted", request()), Err(BeginError::Unresolved(_))));
    drop(claim(&plain, "new"));
}

fn fence(status: &Status) -> u64 {
    match status {
        Status::Done(record) => record.fence().get(),
        Status::Expired(tombstone) => tombstone.fence().get(),
        Status::Interrupted(lost) => lost.fence().get(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_of_many_statements_is_copied_whole_or_not_at_all() {
    let server = server!();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = writable(&path);
    let scope = engine.scope("many");
    let keys: Vec<_> = (0..1_700).map(|n| format!("key {n}")).collect();
    for key in &keys {
        let body = vec![b'x'; if key.ends_with("77") { 1 << 20 } else { 10 }];
        claim(&scope, key).complete(body).unwrap();
    }
    engine.close().unwrap();
    let file = read_only(&path);

    // Tables that a person has made, with a row that they refuse.
    let options = || server.options("copy_whole");
    server.sql(&options().plain_sql().unwrap());
    let secret = || server.one("SELECT encode(secret, 'hex') FROM copy_whole.meta");
    let before = secret();
    server.sql("ALTER TABLE copy_whole.keys ADD CHECK (key <> 'key 1234')");
    match file.copy_to(options()) {
        // It names the constraint, and shows nobody the row.
        Err(CopyError::Store(OpenError::Shared(SharedError::Unavailable(failure)))) => {
            let said = failure.to_string();
            assert!(said.contains("keys_key_check") && !said.contains("Failing row"), "{said}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.one("SELECT count(*) FROM copy_whole.keys"), "0");
    assert_eq!(secret(), before);

    server.sql("ALTER TABLE copy_whole.keys DROP CONSTRAINT keys_key_check");
    assert_eq!(file.copy_to(options()).unwrap().results, 1_700);
    assert_ne!(secret(), before);
    assert_eq!(all(&options().connect().unwrap()), all(&file));
}

#[test]
fn what_can_not_be_copied_is_refused_and_leaves_no_key() {
    let server = server!();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = writable(&path);
    claim(&engine.scope("a"), "key").complete("reply").unwrap();
    let refused = |file: &Engine, options: SharedOptions| -> CopyError { file.copy_to(options).unwrap_err() };
    let options = || server.options("copy_refused");
    let error = refused(&engine, options());
    assert!(matches!(error, CopyError::NotReadOnly) && error.to_string().contains("read_only"), "{error}");
    // Handed over for a while.
    let leased = engine.set_policy("leased", engine.policy().lease(Duration::from_millis(1_500))).unwrap();
    drop(claim(&leased, "token").into_token().unwrap());
    engine.close().unwrap();
    let file = read_only(&path);
    let error = refused(&file, options());
    assert!(matches!(error, CopyError::InFlight { keys: 1 }), "{error}");
    assert!(within(HOUR, || file.stats().in_flight == 0));
    assert!(matches!(file.scope("leased").get("token"), Ok(Status::Interrupted(_))));
    // A server whose clock is an hour ahead.
    let ahead = "(extract(epoch FROM clock_timestamp()) * 1000)::bigint + 3600000";
    let error = refused(&file, options().clock(ahead));
    assert!(matches!(error, CopyError::Clocks { apart } if apart > HOUR / 2), "{error}");
    let error = refused(&file, SharedOptions::new("postgres://idemkv@127.0.0.1:1/postgres"));
    let CopyError::Store(OpenError::Shared(SharedError::Unavailable(failure))) = &error else {
        panic!("{error:?}")
    };
    assert_eq!(failure.kind(), FailureKind::Unreachable);
    assert!(matches!(refused(&file, options().connections(9)), CopyError::Store(OpenError::Option(_))));
    assert_eq!(server.one("SELECT count(*) FROM copy_refused.keys"), "0");

    let copied = file.copy_to(options()).unwrap();
    assert_eq!((copied.results, copied.interrupted), (1, 1));
    // The one that had been handed over is in the list, with its date.
    let store = options().connect().unwrap();
    assert_eq!(store.interrupted().get().unwrap().len(), 1);
    drop(store);
    assert!(matches!(refused(&file, options()), CopyError::AlreadyCopied));
    // Nor into tables to which a service has connected, though it has no keys.
    let used = server.connect("copy_used");
    let error = refused(&file, server.options("copy_used"));
    assert!(matches!(error, CopyError::InUse) && error.to_string().contains("schema"), "{error}");
    assert!(matches!(refused(&used, options()), CopyError::NotReadOnly));
}

fn engine_hash(path: &Path) -> String {
    read_only(path).entries().next().unwrap().unwrap().key_hash().to_string()
}

#[test]
fn keys_and_policies_that_a_shared_store_does_not_take_are_named() {
    let server = server!();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::options().max_key_bytes(300).open(&path).unwrap();
    let long = "k".repeat(256);
    claim(&engine.scope("a"), &long).complete("reply").unwrap();
    engine.close().unwrap();
    let error = read_only(&path).copy_to(server.options("copy_long")).unwrap_err();
    assert!(matches!(error, CopyError::KeyTooLong { len: 256, max: 255, .. }), "{error}");
    let hash = engine_hash(&path);
    assert!(error.to_string().contains(&hash), "{error}");
    assert!(server.connect("copy_long").entries().next().is_none());
    // A limit of claims that is too high for all processes together.
    let path = scratch.path().join("y.idem");
    let engine = writable(&path);
    engine.set_policy("crowd", Policy::default().max_in_flight(1_001)).unwrap();
    engine.close().unwrap();
    let error = read_only(&path).copy_to(server.options("copy_crowd")).unwrap_err();
    let CopyError::Policy { scope, error } = &error else { panic!("{error:?}") };
    assert_eq!((&**scope, error.name()), (&b"crowd"[..], "max_in_flight"));
}

#[test]
fn a_process_that_connected_before_the_copy_is_told_that_the_store_is_another() {
    let server = server!();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    fill(&path);
    let early = server.connect("copy_early");
    // Its session ends, and its row goes.
    early.close().unwrap();
    server.sql("DELETE FROM copy_early.sessions");
    let early = server.options("copy_early").session(Duration::from_secs(1)).connect().unwrap();
    // It begins another as soon as it finds its own gone, and then the tables are in use.
    let mut copied = None;
    assert!(within(Duration::from_secs(10), || {
        server.sql("DELETE FROM copy_early.sessions");
        match read_only(&path).copy_to(server.options("copy_early")) {
            Err(CopyError::InUse) => false,
            of_tables => copied.insert(of_tables.unwrap()).results > 0,
        }
    }));
    let copied: Copied = copied.unwrap();
    assert_eq!(copied.results, 6);
    // It knows the id of the tables as they were: so its callers' transactions are refused, too.
    on_runtime(async {
        let mut client = server.client().await;
        let mut transaction = client.transaction().await.unwrap();
        let begun = early.scope("plain").begin_in_tx(&mut transaction, "paid", request()).await;
        assert!(begun.is_err(), "{begun:?}");
    });
    let refused = |error: &BeginError| matches!(error, BeginError::Shared(SharedError::OtherStore));
    assert!(within(Duration::from_secs(10), || early
        .scope("plain")
        .begin("new", request())
        .is_err_and(|e| refused(&e))));
}

/// By its snapshot the tables are those that the engine connected to.
#[test]
fn a_transaction_with_a_snapshot_from_before_the_copy_stores_nothing() {
    let server = server!();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    fill(&path);
    let early = server.options("copy_snapshot").session(Duration::from_secs(300)).connect().unwrap();
    on_runtime(async {
        let mut client = server.client().await;
        let keeps = tokio_postgres::IsolationLevel::RepeatableRead;
        let mut transaction = client.build_transaction().isolation_level(keeps).start().await.unwrap();
        transaction.batch_execute("SELECT FROM copy_snapshot.meta").await.unwrap();
        server.sql("DELETE FROM copy_snapshot.sessions");
        read_only(&path).copy_to(server.options("copy_snapshot")).unwrap();
        let begun = early.scope("plain").begin_in_tx(&mut transaction, "paid", request()).await;
        let Ok(BeginInTx::Fresh(held)) = begun else { panic!("{begun:?}") };
        let error = held.complete(&mut transaction, "again").await.unwrap_err();
        assert!(error.to_string().contains("another store"), "{error}");
        transaction.rollback().await.unwrap();
    });
    let copied = server.connect("copy_snapshot");
    let paid = copied.scope("plain").get("paid");
    assert!(matches!(&paid, Ok(Status::Done(_))), "{paid:?}");
}

/// The file's clock lags where its machine was off: spans stay, and dates move.
#[cfg(feature = "sim")]
#[test]
fn what_is_left_of_a_ttl_stays_though_the_files_clock_lags() {
    use idemkv::sim::{ManualClock, SimDisk};

    const START: u64 = 1_800_000_000_000;
    let server = server!();
    let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(START));
    let options =
        || Engine::options().disk(&disk).clock(&clock).stepped().policy(Policy::default().ttl(30 * HOUR));
    let engine = options().open("x.idem").unwrap();
    claim(&engine.scope("a"), "key").complete("reply").unwrap();
    drop(claim(&engine.scope("a"), "lost"));
    engine.close().unwrap();
    clock.advance(3 * HOUR);
    clock.reboot();
    // Counts an hour of the three, and stays behind.
    let lag = |engine: &Engine| clock.wall_millis() - engine.now().as_millis();
    let file = options().read_only().open("x.idem").unwrap();
    assert!(lag(&file) > 3_600_000, "{}", lag(&file));
    let left = |engine: &Engine| match engine.scope("a").get("key").unwrap() {
        Status::Done(record) => record.expires().as_millis() - engine.now().as_millis(),
        other => panic!("{other:?}"),
    };
    let now = format!("{}::bigint", clock.wall_millis());
    let copied = file.copy_to(server.options("copy_lag").clock(now.clone())).unwrap();
    assert_eq!(copied.shifted_ms, i64::try_from(lag(&file)).unwrap());
    let store = server.options("copy_lag").clock(now).connect().unwrap();
    let minute = 60_000;
    assert!(left(&store).abs_diff(left(&file)) < minute, "{} {}", left(&store), left(&file));
    let listed =
        |engine: &Engine| engine.interrupted().get().unwrap()[0].interrupted_at().unwrap().as_millis();
    assert_eq!(listed(&store), listed(&file) + lag(&file));
}

/// The role that `docs/shared.md` names for a service may not set the sequence: that is said at once.
#[test]
fn a_role_that_may_not_set_fences_is_told_so_before_a_row_is_written() {
    let server = server!();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    fill(&path);
    let owner = server.options("copy_rights");
    server.sql(&owner.plain_sql().unwrap());
    server.sql(
        "CREATE ROLE copier LOGIN; GRANT USAGE ON SCHEMA copy_rights TO copier; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON copy_rights.keys, copy_rights.sessions, copy_rights.policies TO copier; \
         GRANT SELECT, INSERT, UPDATE ON copy_rights.places TO copier; \
         GRANT SELECT, UPDATE ON copy_rights.duties, copy_rights.meta TO copier; \
         GRANT USAGE ON SEQUENCE copy_rights.fence TO copier",
    );
    let url = format!("postgres://copier@127.0.0.1:{}/postgres", server.port);
    let options = || SharedOptions::new(url.clone()).schema("copy_rights");
    let file = read_only(&path);
    match file.copy_to(options()) {
        Err(CopyError::Store(OpenError::Shared(SharedError::Unavailable(failure)))) => {
            assert_eq!(failure.kind(), FailureKind::Forbidden, "{failure}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(server.one("SELECT pg_relation_size('copy_rights.keys')"), "0");
    server.sql("GRANT UPDATE ON SEQUENCE copy_rights.fence TO copier");
    assert_eq!(file.copy_to(options()).unwrap().results, 6);
}
