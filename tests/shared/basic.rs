//! One process: begins, ends, and what they leave.

use std::time::Duration;

use idemkv::{
    Begin, BeginError, Durability, FailureKind, Fingerprint, OpenError, Outcome, Policy, Recovery,
    ResolveError, SetPolicyError, SharedError, Status, Waited,
};

use crate::server::{claim, on_runtime, request};

#[test]
fn a_completed_key_is_replayed_to_every_process() {
    let server = server!();
    let (one, two) = (server.connect("basic_replay"), server.connect("basic_replay"));
    let (here, there) = (one.scope("charges"), two.scope("charges"));
    let first = claim(&here, "key");
    assert_eq!((first.attempt(), first.interrupted().is_none()), (1, true));
    assert!(matches!(there.begin("key", request()), Ok(Begin::InFlight(_))));
    assert!(matches!(there.begin("key", Fingerprint::of("other")), Err(BeginError::KeyReused)));
    assert!(matches!(there.get("key"), Ok(Status::InFlight(info)) if info.fence() == first.fence()));
    let step = first.step_key("charge");
    let done = first.complete("reply").unwrap();
    let Ok(Begin::Done(record)) = there.begin("key", request()) else { panic!() };
    assert_eq!((record.body(), record.key(), record.scope()), (&b"reply"[..], &b"key"[..], &b"charges"[..]));
    assert_eq!(
        (record.completed(), record.expires(), record.fence()),
        (done.completed(), done.expires(), done.fence())
    );
    assert_eq!((record.started(), record.attempt(), record.outcome()), (done.started(), 1, Outcome::Success));
    assert!(matches!(there.begin("key", Fingerprint::of("other")), Err(BeginError::KeyReused)));
    let failed = claim(&here, "other").fail("no").unwrap();
    assert!(
        matches!(there.begin("other", request()), Ok(Begin::Done(record)) if record.outcome() == failed.outcome() && record.body() == b"no")
    );
    // Another store with the same secret gives the same step keys; another scope does not.
    assert_ne!(claim(&two.scope("refunds"), "key").step_key("charge"), step);
    one.close().unwrap();
    assert!(matches!(here.begin("key", request()), Err(BeginError::Closed)));
    assert!(matches!(there.begin("key", request()), Ok(Begin::Done(_))));
}

#[test]
fn a_released_key_is_vacant_and_a_dropped_one_interrupted() {
    let server = server!();
    let (one, two) = (server.connect("basic_drop"), server.connect("basic_drop"));
    let (here, there) = (one.scope(""), two.scope(""));
    let first = claim(&here, "key");
    let fence = first.fence();
    first.release().unwrap();
    let mut second = claim(&there, "key");
    assert!(second.attempt() == 1 && second.fence() > fence && second.interrupted().is_none());
    second.save_progress("half").unwrap();
    let Ok(Begin::InFlight(pending)) = here.begin("key", request()) else { panic!() };
    let fence = second.fence();
    drop(second);
    assert!(matches!(pending.wait(), Ok(Waited::Interrupted)));
    let third = claim(&here, "key");
    let lost = third.interrupted().unwrap();
    assert_eq!((third.attempt(), lost.attempt(), lost.fence()), (2, 1, fence));
    assert_eq!(third.last_progress().unwrap()[..], *b"half");
    // Given back: the first attempt is still the one that may have had an effect.
    third.release().unwrap();
    assert!(matches!(there.get("key"), Ok(Status::Interrupted(lost)) if lost.fence() == fence));
    let resolving = there.resolve("key").unwrap();
    assert_eq!((resolving.attempt(), resolving.interrupted().unwrap().fence()), (3, fence));
    resolving.release().unwrap();
    assert!(matches!(there.get("key"), Ok(Status::Vacant)));
    assert!(matches!(there.resolve("key"), Err(ResolveError::NotInterrupted(_))));
}

#[test]
fn an_interrupted_key_is_refused_where_the_policy_of_its_scope_says_so() {
    let server = server!();
    let (one, two) = (server.connect("basic_policy"), server.connect("basic_policy"));
    let (here, there) = (one.scope("strict"), two.scope("strict"));
    drop(claim(&here, "key"));
    // Known to the other process before its next grant, without a word to it.
    one.set_policy("strict", Policy::default().recovery(Recovery::Refuse)).unwrap();
    let refused = loop {
        match there.begin("key", request()) {
            Ok(Begin::InFlight(pending)) => drop(pending.wait()),
            other => break other,
        }
    };
    assert!(matches!(refused, Err(BeginError::Unresolved(lost)) if lost.attempt() == 1));
    two.set_policy("strict", Policy::default().recovery(Recovery::Rerun).max_attempts(2)).unwrap();
    drop(claim(&here, "key"));
    let refused = loop {
        match there.begin("key", request()) {
            Ok(Begin::InFlight(pending)) => drop(pending.wait()),
            other => break other,
        }
    };
    assert!(matches!(refused, Err(BeginError::Unresolved(lost)) if lost.attempt() == 2));
    assert!(here.forget("key").unwrap());
    assert!(!here.forget("key").unwrap());
    assert_eq!(claim(&there, "key").attempt(), 1);
    let refused = one.set_policy(
        "strict",
        Policy::default().recovery(Recovery::Rerun).durability(Durability::Completions),
    );
    assert!(matches!(refused, Err(SetPolicyError::Policy(error)) if error.name() == "durability"));
}

#[test]
fn tasks_of_any_executor_begin_wait_and_complete() {
    let server = server!();
    let store = server.connect("basic_tasks");
    let scope = store.scope("");
    futures_executor::block_on(async {
        let Ok(Begin::Fresh(claim)) = scope.begin_async("key", request()).await else { panic!() };
        let Ok(Begin::InFlight(pending)) = scope.begin_async("key", request()).await else { panic!() };
        let brief = Duration::from_millis(30);
        assert!(matches!(pending.wait_timeout_async(brief).await, Ok(Waited::TimedOut)));
        claim.complete_async("reply").await.unwrap();
        assert!(matches!(pending.wait_async().await, Ok(Waited::Done(record)) if record.body() == b"reply"));
    });
    on_runtime(async {
        let begun = scope.begin_async("key", request()).await;
        assert!(matches!(begun, Ok(Begin::Done(_))));
    });
}

#[test]
fn a_begin_that_is_dropped_claims_nothing() {
    let server = server!();
    let store = server.connect("basic_dropped_begin");
    let scope = store.scope("");
    for round in 0..20_u32 {
        let key = format!("key {round}");
        {
            let mut begin = std::pin::pin!(scope.begin_async(&key, request()));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(begin.as_mut().poll(&mut context).is_pending());
            for _ in 0..round * 10_000 {
                std::hint::spin_loop();
            }
        }
        let claim = loop {
            match scope.begin(&key, request()) {
                Ok(Begin::Fresh(claim)) => break claim,
                Ok(Begin::InFlight(pending)) => {
                    assert!(!matches!(pending.wait(), Ok(Waited::TimedOut)));
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((claim.attempt(), claim.interrupted().is_none()), (1, true));
        claim.complete("").unwrap();
    }
}

#[test]
fn a_begin_and_a_completion_are_one_round_trip_each_and_a_takeover_is_two() {
    let server = server!();
    let store = server.options("basic_trips").sweep_every(None).count_every(None).connect().unwrap();
    let scope = store.scope("");
    let trips = |call: &mut dyn FnMut()| {
        // A renewal of the session may come in between.
        (0..3)
            .map(|_| {
                let before = store.shared_stats().unwrap().statements;
                call();
                store.shared_stats().unwrap().statements - before
            })
            .min()
            .unwrap()
    };
    let mut next = 0;
    let mut claims = Vec::new();
    let begin = trips(&mut || {
        next += 1;
        claims.push(claim(&scope, &format!("key {next}")));
    });
    let complete = trips(&mut || drop(claims.pop().unwrap().complete("reply").unwrap()));
    let mut keys = ["key 1", "key 2", "key 3"].iter();
    let replay = trips(&mut || {
        assert!(matches!(scope.begin(keys.next().unwrap(), request()), Ok(Begin::Done(_))));
    });
    assert_eq!((begin, complete, replay), (1, 1, 1));
    for key in ["a", "b", "c"] {
        drop(claim(&scope, key));
        while !matches!(scope.get(key), Ok(Status::Interrupted(_))) {}
    }
    let mut keys = ["a", "b", "c"].iter();
    let again = trips(&mut || claims.push(claim(&scope, keys.next().unwrap())));
    assert_eq!(again, 2);
}

#[test]
fn tables_of_another_version_and_none_at_all_are_clear_errors() {
    let server = server!();
    let missing = server.options("basic_none").make_tables(false).connect();
    let Err(OpenError::Shared(SharedError::Unavailable(failure))) = missing else { panic!("{missing:?}") };
    assert_eq!(failure.kind(), FailureKind::Schema);
    assert!(failure.to_string().contains("plain_sql"), "{failure}");

    server.connect("basic_version").close().unwrap();
    server.sql("UPDATE basic_version.meta SET version = 99");
    let Err(OpenError::Shared(SharedError::Unavailable(failure))) = server.options("basic_version").connect()
    else {
        panic!()
    };
    assert_eq!(failure.kind(), FailureKind::Schema);
    assert!(failure.to_string().contains("version 99"), "{failure}");
}

#[test]
fn a_role_that_may_not_create_works_with_tables_made_by_hand() {
    let server = server!();
    server.sql("CREATE ROLE modest LOGIN; REVOKE CREATE ON DATABASE postgres FROM PUBLIC");
    let url = server.url().replace("idemkv@", "modest@");
    let options = idemkv::SharedOptions::new(url).schema("basic_hand");
    let Err(OpenError::Shared(SharedError::Unavailable(failure))) = options.clone().connect() else {
        panic!()
    };
    assert_eq!(failure.kind(), FailureKind::Schema);
    server.sql(&options.plain_sql().unwrap());
    server.sql("GRANT USAGE ON SCHEMA basic_hand TO modest; GRANT SELECT ON ALL TABLES IN SCHEMA basic_hand TO modest");
    let Err(OpenError::Shared(SharedError::Unavailable(failure))) = options.clone().connect() else {
        panic!()
    };
    assert_eq!(failure.kind(), FailureKind::Forbidden);
    assert!(failure.to_string().contains("grant"), "{failure}");
    // As `docs/shared.md` has them.
    server.sql(
        "GRANT SELECT, INSERT, UPDATE, DELETE ON basic_hand.keys, basic_hand.sessions, basic_hand.policies TO modest; \
         GRANT SELECT, INSERT, UPDATE ON basic_hand.places TO modest; \
         GRANT SELECT, UPDATE ON basic_hand.duties, basic_hand.meta TO modest; \
         GRANT USAGE ON SEQUENCE basic_hand.fence TO modest",
    );
    let store = options.connect().unwrap();
    claim(&store.scope(""), "key").complete("reply").unwrap();
    assert!(matches!(store.scope("").begin("key", request()), Ok(Begin::Done(_))));
}

/// A file that was copied can have results as long.
#[test]
fn how_long_a_result_may_be_is_an_option() {
    let server = server!();
    let (long, usual) = (vec![7; 3 << 20], server.connect("basic_long"));
    let store = server.options("basic_long").max_body_bytes(3 << 20).connect().unwrap();
    let mut held = claim(&store.scope(""), "key");
    held.save_progress(&long).unwrap();
    held.complete(&long).unwrap();
    // It is replayed by those that store no such result.
    assert!(
        matches!(usual.scope("").begin("key", request()), Ok(Begin::Done(record)) if record.body() == long)
    );
    assert!(claim(&usual.scope(""), "other").complete(&long).is_err());
    let refused = server.options("basic_long").max_body_bytes((16 << 20) + 1).connect();
    assert!(
        matches!(&refused, Err(OpenError::Option(error)) if error.name() == "max_body_bytes"),
        "{refused:?}"
    );
}

/// A failover or a restore can lose a change of the policies that a process has read.
#[test]
fn policies_that_go_back_are_taken_as_they_are() {
    let server = server!();
    let store = server.options("basic_back").call_timeout(Duration::from_secs(2)).connect().unwrap();
    let before = server.one("SELECT policies FROM basic_back.meta");
    store.set_policy("later", Policy::default().recovery(Recovery::Refuse)).unwrap();
    server.sql(&format!("UPDATE basic_back.meta SET policies = {before}; DELETE FROM basic_back.policies"));
    claim(&store.scope(""), "key").complete("reply").unwrap();
    assert_eq!(store.policies(), []);
}

#[test]
fn what_cannot_be_an_instance_is_refused_and_no_password_is_printed() {
    let server = server!();
    for name in ["", "a\0b", &"long ".repeat(1_000)] {
        let refused = server.options("basic_name").instance(name).connect();
        assert!(matches!(refused, Err(OpenError::Option(_))), "{name:?}");
    }
    let options = idemkv::SharedOptions::new("postgres://service:secret@localhost/payments");
    assert!(!format!("{options:?}").contains("secret"));
}
