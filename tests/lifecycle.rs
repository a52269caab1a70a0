//! A key's life: granted, ended in each way, replayed, expired, forgotten, found again after a restart.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod common;

use std::time::Duration;

use common::{Machine, START_MS, TTL, UNRESOLVED, default_scope, done, fresh, request};
use idemkv::{
    Begin, BeginError, ClaimError, CommitError, CompleteInError, Durability, Engine, Fingerprint,
    ForgetError, Outcome, ReadError, ResolveError, SetPolicyError, Status, Timestamp, Verify, Waited,
};

#[test]
fn a_completed_key_is_replayed_with_everything_that_was_stored() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("POST /v1/charges");
    let claim = fresh(&scope, "key");
    machine.clock.advance(Duration::from_millis(250));
    claim.complete("reply").unwrap();
    let record = done(&scope, "key");
    assert_eq!((record.outcome(), record.body()), (Outcome::Success, &b"reply"[..]));
    assert_eq!((record.scope(), record.key()), (&b"POST /v1/charges"[..], &b"key"[..]));
    assert_eq!((record.attempt(), record.fingerprint()), (1, &request()));
    assert_eq!(record.started(), Timestamp::from_millis(START_MS));
    assert_eq!(record.completed(), Timestamp::from_millis(START_MS + 250));
    assert_eq!(record.expires(), record.completed().saturating_add(TTL));
}

#[test]
fn a_failure_is_replayed_as_faithfully_as_a_success() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").fail("card declined").unwrap();
    machine.kill(engine);
    let record = done(&default_scope(&machine.open()), "key");
    assert_eq!((record.outcome(), record.body()), (Outcome::Failure, &b"card declined"[..]));
}

#[test]
fn a_released_key_is_vacant_also_after_a_kill() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").release().unwrap();
    machine.kill(engine);
    let claim = fresh(&default_scope(&machine.open()), "key");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
}

#[test]
fn a_dropped_claim_leaves_an_interrupted_key_that_the_next_claim_tells_of() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let first = fresh(&scope, "key");
    let fence = first.fence();
    drop(first);
    let second = fresh(&scope, "key");
    let earlier = second.interrupted().unwrap();
    assert_eq!((earlier.attempt(), earlier.fence()), (1, fence));
    assert_eq!(earlier.started(), Timestamp::from_millis(START_MS));
    assert!(second.fence() > fence);
    let record = second.complete("reply").unwrap();
    assert_eq!(record.attempt(), 2);
}

#[test]
fn a_release_does_not_speak_for_an_earlier_attempt_that_was_interrupted() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    for attempt in 2..5 {
        let claim = fresh(&scope, "key");
        assert_eq!(claim.attempt(), attempt);
        assert_eq!(claim.interrupted().map(|earlier| earlier.attempt()), Some(1));
        claim.release().unwrap();
    }
    machine.kill((engine, scope));
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    assert_eq!((claim.attempt(), claim.interrupted().map(|earlier| earlier.attempt())), (5, Some(1)));
    claim.release().unwrap();
    assert!(engine.forget("key").unwrap());
    assert_eq!(fresh(&default_scope(&engine), "key").attempt(), 1);
}

#[test]
fn a_panic_leaves_the_key_interrupted() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    let panicked = std::thread::spawn(move || {
        let _claim = claim;
        std::panic::panic_any("on purpose");
    });
    assert!(panicked.join().is_err());
    assert_eq!(fresh(&scope, "key").attempt(), 2);
}

#[test]
fn a_kill_leaves_the_key_interrupted_at_once_and_attempts_count_on() {
    let machine = Machine::rerun();
    for attempt in 1..=3 {
        let engine = machine.open();
        let claim = fresh(&default_scope(&engine), "key");
        assert_eq!(claim.attempt(), attempt);
        assert_eq!(claim.interrupted().map_or(0, |earlier| earlier.attempt()), attempt - 1);
        machine.kill((engine, claim));
    }
}

#[test]
fn fences_grow_over_restarts_clean_or_not() {
    let machine = Machine::default();
    let mut last = None;
    for round in 0..6 {
        let engine = machine.open();
        let claim = fresh(&default_scope(&engine), &format!("key {round}"));
        assert!(Some(claim.fence()) > last);
        last = Some(claim.fence());
        claim.complete("").unwrap();
        if round % 2 == 0 {
            engine.close().unwrap();
        } else {
            machine.kill(engine);
        }
    }
}

#[test]
fn another_fingerprint_is_refused_in_every_state() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let other = Fingerprint::of("another request");
    let refused = |state: &str| {
        let answer = scope.begin("key", other);
        assert!(matches!(answer, Err(BeginError::KeyReused)), "{state}: {answer:?}");
    };
    let claim = fresh(&scope, "key");
    refused("in flight");
    drop(claim);
    refused("interrupted");
    fresh(&scope, "key").complete("reply").unwrap();
    refused("done, in memory");
    engine.checkpoint().unwrap();
    drop(scope);
    engine.close().unwrap();
    let engine = machine.open();
    let answer = engine.begin("key", other);
    assert!(matches!(answer, Err(BeginError::KeyReused)), "done, on disk: {answer:?}");
    assert_eq!(engine.stats().reused, 1);
    machine.clock.advance(TTL);
    assert!(matches!(engine.begin("key", other), Ok(Begin::Fresh(_))), "an expired key is nobody's");
}

#[test]
fn a_record_lives_to_the_last_millisecond_of_its_ttl_and_no_longer() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    machine.clock.advance(TTL.checked_sub(Duration::from_millis(1)).unwrap());
    done(&scope, "key");
    machine.clock.advance(Duration::from_millis(1));
    let claim = fresh(&scope, "key");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
}

#[test]
fn expiry_holds_for_records_on_disk_alone_too() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(done(&scope, "key").body(), b"reply");
    assert_eq!(engine.stats().loaded, 1);
    machine.clock.advance(Duration::from_millis(1));
    fresh(&scope, "key").complete("second").unwrap();
    assert_eq!(done(&scope, "key").body(), b"second");
}

#[test]
fn a_claim_that_is_out_does_not_expire() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(TTL * 10);
    engine.step();
    assert!(matches!(scope.begin("key", request()), Ok(Begin::InFlight(_))));
    claim.complete("late").unwrap();
    assert_eq!(done(&scope, "key").body(), b"late");
}

#[test]
fn an_interrupted_key_is_remembered_for_its_time_and_its_row_goes_too() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    engine.checkpoint().unwrap();
    machine.clock.advance(UNRESOLVED.checked_sub(Duration::from_millis(1)).unwrap());
    engine.step();
    assert!(matches!(scope.get("key").unwrap(), Status::Interrupted(_)));
    machine.clock.advance(Duration::from_millis(1));
    assert!(matches!(scope.get("key").unwrap(), Status::Vacant));
    machine.clock.advance(TTL);
    engine.step();
    assert_eq!(engine.stats().entries, 0);
    drop(scope);
    engine.close().unwrap();
    assert_eq!(machine.open().entries().count(), 0);
}

#[test]
fn the_sweeper_removes_what_expired_and_nothing_else() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    for n in 0..300 {
        fresh(&scope, &format!("old {n}")).complete("reply").unwrap();
    }
    machine.clock.advance(TTL / 2);
    for n in 0..200 {
        fresh(&scope, &format!("new {n}")).complete("reply").unwrap();
    }
    machine.clock.advance(TTL / 2);
    assert_eq!(engine.stats().entries, 500);
    engine.step();
    assert_eq!(engine.stats().entries, 200);
    assert_eq!(engine.entries().count(), 200);
    assert_eq!(engine.stats().expired, 300);
    machine.clock.advance(TTL);
    engine.step();
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().entries, 0);
}

#[test]
fn forgetting_is_durable_and_lets_the_key_run_again() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "in the log").complete("reply").unwrap();
    fresh(&scope, "in the store").complete("reply").unwrap();
    drop(fresh(&scope, "interrupted"));
    engine.checkpoint().unwrap();
    for key in ["in the log", "in the store", "interrupted"] {
        assert!(scope.forget(key).unwrap(), "{key}");
        assert!(!scope.forget(key).unwrap(), "{key}");
    }
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(engine.entries().count(), 0);
    let scope = default_scope(&engine);
    fresh(&scope, "in the store").complete("again").unwrap();
    engine.checkpoint().unwrap();
    drop(scope);
    machine.kill(engine);
    assert_eq!(done(&default_scope(&machine.open()), "in the store").body(), b"again");
}

#[test]
fn a_key_forgotten_twice_stays_forgotten_when_the_first_records_time_has_come() {
    let machine = Machine::default();
    let engine = machine.open();
    for body in ["one", "two"] {
        fresh(&default_scope(&engine), "key").complete(body).unwrap();
        engine.checkpoint().unwrap();
        assert!(engine.forget("key").unwrap());
        engine.checkpoint().unwrap();
        machine.clock.advance(TTL / 2);
    }
    machine.clock.advance(TTL / 4);
    engine.checkpoint().unwrap();
    machine.kill(engine);
    let status = machine.open().get("key").unwrap();
    assert!(matches!(status, Status::Vacant), "{status:?}");
}

/// The index keeps expiry in whole seconds, the record in milliseconds; with no room in the cache the two meet at every begin.
#[test]
fn a_record_that_expired_within_the_second_is_found_so_without_a_cache() {
    let machine = Machine::default();
    let ttl = Duration::from_millis(1_500);
    let engine = machine.options().cache_bytes(0).shards(1).ttl(ttl).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("one").unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(ttl);
    assert_eq!(fresh(&scope, "key").attempt(), 1);
}

#[test]
fn a_key_forgotten_run_again_and_released_does_not_come_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    assert!(scope.forget("key").unwrap());
    fresh(&scope, "key").release().unwrap();
    drop(scope);
    engine.close().unwrap();
    assert!(matches!(machine.open().get("key").unwrap(), Status::Vacant));
}

#[test]
fn a_key_in_flight_cannot_be_forgotten() {
    let machine = Machine::default();
    let engine = machine.open();
    let _claim = fresh(&default_scope(&engine), "key");
    assert!(matches!(engine.forget("key"), Err(ForgetError::InFlight)));
    assert!(!engine.forget("another").unwrap());
}

#[test]
fn memory_only_intents_cost_no_commit_and_are_gone_after_a_kill() {
    let machine = Machine::rerun();
    let engine = machine.options().durability(Durability::Completions).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let out = fresh(&scope, "out");
    fresh(&scope, "released").release().unwrap();
    assert_eq!(engine.stats().commits, 0);
    fresh(&scope, "done").complete("reply").unwrap();
    assert_eq!(engine.stats().commits, 1);
    machine.kill((engine, scope, out));
    let engine = machine.open();
    assert!(matches!(engine.get("out").unwrap(), Status::Vacant));
    assert_eq!(done(&default_scope(&engine), "done").body(), b"reply");
}

#[test]
fn entries_shows_every_live_key_of_every_scope() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&engine.scope("a"), "done").complete("reply").unwrap();
    let _out = fresh(&engine.scope("b"), "out");
    drop(fresh(&engine.scope("c"), "dropped"));
    let mut seen: Vec<_> = engine
        .entries()
        .map(|entry| {
            let entry = entry.unwrap();
            let status = match entry.status() {
                Status::Vacant => "vacant",
                Status::InFlight(_) => "in flight",
                Status::Interrupted(_) => "interrupted",
                Status::Done(_) => "done",
                Status::Expired(_) => "expired",
                other => panic!("{other:?}"),
            };
            (
                String::from_utf8(entry.scope().to_vec()).unwrap(),
                String::from_utf8(entry.key().to_vec()).unwrap(),
                status,
            )
        })
        .collect();
    seen.sort();
    let expected = [("a", "done", "done"), ("b", "out", "in flight"), ("c", "dropped", "interrupted")];
    assert_eq!(seen, expected.map(|(scope, key, status)| (scope.to_owned(), key.to_owned(), status)));
}

#[test]
fn closing_with_claims_out_counts_them_and_leaves_them_interrupted() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("reply").unwrap();
    let claim = fresh(&scope, "out");
    let Ok(Begin::InFlight(pending)) = scope.begin("out", request()) else { panic!("it is out") };
    assert_eq!(engine.clone().close().unwrap().claims_left, 1);
    assert!(matches!(pending.wait(), Err(BeginError::Closed)));
    assert!(matches!(scope.begin("another", request()), Err(BeginError::Closed)));
    assert!(matches!(scope.begin("done", request()), Err(BeginError::Closed)));
    let error = claim.complete("too late").unwrap_err();
    assert!(!error.is_retryable());
    drop(error);
    // The handles on the closed engine are still alive, and do not keep the file.
    let reopened = machine.open();
    let claim = fresh(&default_scope(&reopened), "out");
    assert_eq!(claim.interrupted().map(|earlier| earlier.attempt()), Some(1));
    done(&default_scope(&reopened), "done");
    drop((engine, scope));
}

#[test]
fn the_file_stays_open_until_the_last_handle_is_gone() {
    let machine = Machine::default();
    let claim = fresh(&machine.open().scope("only the claim is left"), "key");
    assert!(machine.options().open("x.idem").is_err());
    claim.complete("reply").unwrap();
    assert_eq!(done(&machine.open().scope("only the claim is left"), "key").body(), b"reply");
}

#[test]
fn those_who_wait_learn_how_it_ended() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let pending = |key: &str| match scope.begin(key, request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{key} should be in flight: {other:?}"),
    };
    let (a, b, c, d) = (fresh(&scope, "a"), fresh(&scope, "b"), fresh(&scope, "c"), fresh(&scope, "d"));
    let waits: Vec<_> = ["a", "b", "c", "d"]
        .map(pending)
        .into_iter()
        .map(|pending| std::thread::spawn(move || pending.wait().unwrap()))
        .collect();
    a.complete("reply").unwrap();
    b.fail("refused").unwrap();
    c.release().unwrap();
    drop(d);
    let ends: Vec<_> = waits.into_iter().map(|wait| wait.join().unwrap()).collect();
    assert!(matches!(&ends[0], Waited::Done(record) if record.outcome() == Outcome::Success));
    assert!(matches!(&ends[1], Waited::Done(record) if record.outcome() == Outcome::Failure));
    assert!(matches!(ends[2], Waited::Vacant));
    assert!(matches!(ends[3], Waited::Interrupted));
}

#[test]
fn bodies_are_evicted_within_the_budget_and_read_back_whole() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(64 << 10).shards(4).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let body = |n: u32| vec![u8::try_from(n % 251).unwrap(); 1_000 + n as usize];
    for n in 0..400 {
        fresh(&scope, &format!("key {n}")).complete(body(n)).unwrap();
    }
    engine.checkpoint().unwrap();
    assert!(engine.stats().cached_bytes <= 64 << 10, "{:?}", engine.stats());
    for n in 0..400 {
        assert_eq!(done(&scope, &format!("key {n}")).body(), body(n));
    }
    assert!(engine.stats().loaded > 300);
    assert!(engine.stats().cached_bytes <= (64 << 10) + 4 * 2_000, "{:?}", engine.stats());
}

#[test]
fn an_engine_is_usable_from_many_threads() {
    fn assert_shared<T: Send + Sync + 'static>() {}
    assert_shared::<Engine>();
    assert_shared::<idemkv::Scope>();
    assert_shared::<idemkv::Claim>();
    assert_shared::<idemkv::Pending>();
    assert_shared::<idemkv::Record>();
    assert_shared::<idemkv::Body>();
}

#[test]
fn a_closed_engine_refuses_every_call_and_gives_claims_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let leased = engine.set_policy("leased", engine.policy().lease(TTL)).unwrap();
    fresh(&scope, "done").complete("reply").unwrap();
    drop(fresh(&scope, "interrupted"));
    let [completed, in_transaction] = ["1", "2"].map(|key| fresh(&scope, key));
    let [handed_over, mut noted] = ["1", "2"].map(|key| fresh(&leased, key));
    let mut entries = engine.entries();
    assert!(entries.next().unwrap().is_ok());
    engine.clone().close().unwrap();

    assert!(matches!(scope.begin("new", request()), Err(BeginError::Closed)));
    assert!(matches!(scope.begin("done", request()), Err(BeginError::Closed)));
    assert!(matches!(scope.get("done"), Err(ReadError::Closed)));
    assert!(matches!(scope.forget("done"), Err(ForgetError::Read(ReadError::Closed))));
    assert!(matches!(scope.resolve("interrupted"), Err(ResolveError::Begin(BeginError::Closed))));
    let declared = engine.set_policy("new", engine.policy());
    assert!(matches!(declared, Err(SetPolicyError::Commit(CommitError::Closed))), "{declared:?}");
    assert!(entries.all(|entry| matches!(entry, Err(ReadError::Closed))));
    assert!(matches!(engine.read_tables(|_| ()), Err(ReadError::Closed)));
    assert!(matches!(noted.save_progress("note"), Err(ClaimError::Commit(CommitError::Closed))));
    for refused in [completed.complete("reply").unwrap_err(), handed_over.into_token().unwrap_err()] {
        assert!(matches!(refused.reason(), ClaimError::Commit(CommitError::Closed)), "{refused}");
        assert!(refused.into_claim().is_some());
    }
    let refused = in_transaction.complete_in(|_| Ok::<_, ()>("reply")).unwrap_err();
    let CompleteInError::End(refused) = refused else { panic!("{refused:?}") };
    assert!(matches!(refused.reason(), ClaimError::Commit(CommitError::Closed)), "{refused}");
    assert!(refused.into_claim().is_some());
}

#[test]
fn one_step_sweeps_however_many_keys_one_shard_has() {
    const KEYS: usize = 5_000;
    let machine = Machine::rerun();
    let options = machine.options().shards(1).reserve_bytes(0).durability(Durability::Completions);
    let engine = options.open("x.idem").unwrap();
    for first in (0..KEYS).step_by(100) {
        let requests: Vec<_> = (first..first + 100).map(|n| (n.to_string(), request())).collect();
        let claims = engine.begin_many(&requests).into_iter().map(|begun| match begun {
            Ok(Begin::Fresh(claim)) => (claim, ""),
            other => panic!("{other:?}"),
        });
        assert!(engine.complete_many(claims.collect()).iter().all(Result::is_ok));
    }
    assert_eq!(engine.step().swept, 0);
    machine.clock.advance(TTL);
    let swept = engine.step().swept;
    assert!(swept > KEYS - 10, "{swept}");
    // A key that a removal moved to where the pass had been comes next time.
    machine.clock.advance(TTL);
    assert_eq!(swept + engine.step().swept, KEYS);
    assert_eq!(engine.stats().entries, 0);
}

#[test]
fn a_file_whose_every_page_is_verified_opens_as_it_was() {
    let machine = Machine::default();
    fresh(&default_scope(&machine.open()), "key").complete("reply").unwrap();
    let verified = machine.options().verify(Verify::Always).open("x.idem").unwrap();
    assert_eq!(done(&default_scope(&verified), "key").body(), b"reply");
}

#[test]
fn the_means_of_commits_are_those_of_their_sums_also_where_there_were_none() {
    let machine = Machine::default();
    let engine = machine.open();
    let idle = engine.stats();
    assert!(idle.commits == 0 && idle.commit_entries_mean() == 0.0 && idle.commit_time_mean().is_zero());
    let scope = default_scope(&engine);
    drop(["1", "2", "3"].map(|key| fresh(&scope, key)).map(|claim| claim.complete_async("")));
    engine.step();
    let mut busy = engine.stats();
    assert_eq!((busy.commits, busy.committed_entries), (4, 6));
    assert!((busy.commit_entries_mean() - 1.5).abs() < f64::EPSILON);
    busy.commit_time_total = Duration::from_micros(10);
    assert_eq!(busy.commit_time_mean(), Duration::from_nanos(2_500));
}

#[test]
fn an_engine_in_a_log_says_which_file_it_has_and_nothing_of_what_is_in_it() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "a key").complete("a body").unwrap();
    let said = format!("{engine:?}");
    assert!(said.contains("x.idem") && said.contains("is_open: true"), "{said}");
    assert!(!said.contains("a key") && !said.contains("a body") && !said.contains("secret"), "{said}");
    let ending = fresh(&default_scope(&engine), "another").complete_async("a body");
    assert_eq!(format!("{ending:?}"), "Ending { .. }");
}

/// The iterator has a copy of the slots, in which the key still is.
#[test]
fn entries_passes_over_a_key_that_is_gone_meanwhile_with_its_block() {
    let machine = Machine::default();
    let options = machine.options().shards(1).cache_bytes(0).ttl(Duration::from_millis(1_500));
    let engine = options.open("x.idem").unwrap();
    let scope = default_scope(&engine);
    for key in ["one", "two"] {
        fresh(&scope, key).complete("reply").unwrap();
    }
    engine.checkpoint().unwrap();
    let mut entries = engine.entries();
    let first = entries.next().unwrap().unwrap();
    let other = if first.key() == b"one" { "two" } else { "one" };
    assert!(scope.forget(other).unwrap());
    // In memory a time is rounded up to whole seconds; the block goes before that.
    machine.clock.advance(Duration::from_millis(1_600));
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().reclaimed_blocks, 1);
    assert!(entries.next().is_none());
}

#[test]
fn whoever_waits_can_tell_since_when_the_other_has_run() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(Duration::from_secs(7));
    let Ok(Begin::InFlight(pending)) = scope.begin("key", request()) else { panic!("it is out") };
    assert_eq!((pending.started(), pending.attempt()), (claim.started(), 1));
    assert_eq!(engine.now().saturating_since(pending.started()), Duration::from_secs(7));
}

#[test]
fn a_steps_key_is_the_same_in_every_attempt_and_in_no_other_operation() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let first = fresh(&scope, "key");
    let charge = first.step_key("charge");
    let others = [
        first.step_key("receipt"),
        fresh(&scope, "other").step_key("charge"),
        fresh(&engine.scope("other"), "key").step_key("charge"),
    ];
    assert!(others.iter().all(|other| *other != charge));
    drop(scope);
    machine.kill((engine, first));
    let engine = machine.open();
    let again = fresh(&default_scope(&engine), "key");
    assert_eq!((again.attempt(), again.step_key("charge")), (2, charge));
    let elsewhere = Machine::rerun().options().seed(2).open("x.idem").unwrap();
    assert_ne!(fresh(&default_scope(&elsewhere), "key").step_key("charge"), charge);
}
