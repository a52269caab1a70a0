//! An engine as a whole: what it shows of its keys, its cache, its close.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh, poll, request};
use crate::helpers::{Count, jobs, pending};
use idemkv::{
    Begin, BeginError, ClaimError, CommitError, CompleteInError, Engine, ForgetError, ReadError,
    ResolveError, SetPolicyError, Status, Verify,
};

/// A task, and what it waits for.
type Waiting<'a> = (&'static str, Pin<Box<dyn Future<Output = ()> + 'a>>);

#[test]
fn closing_wakes_every_task_however_it_waits() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = jobs(&engine);
    let [mut noting, handed, ended, released] =
        ["noting", "handed", "ended", "released"].map(|key| fresh(&scope, key));
    let token = fresh(&scope, "token").into_token().unwrap();
    let (on_claim, on_token) = (pending(&scope, "noting"), pending(&scope, "token"));
    let requests = ["four", "five"].map(|key| (key, request()));
    let theirs = &engine;
    let policy = engine.policy();
    let scope = &scope;
    let waiting: Vec<Waiting<'_>> = vec![
        ("begin", Box::pin(async move { drop(scope.begin_async("one", request()).await) })),
        ("begin, no place", Box::pin(async move { drop(scope.begin_async("two", request()).await) })),
        ("begin of a batch", Box::pin(async { drop(scope.begin_many_async(&requests).await) })),
        ("save_progress", Box::pin(async { drop(noting.save_progress_async("note").await) })),
        ("token", Box::pin(async move { drop(handed.into_token_async().await) })),
        ("complete", Box::pin(async move { drop(ended.complete_async("reply").await) })),
        ("release", Box::pin(async move { drop(released.release_async().await) })),
        ("declare", Box::pin(async move { drop(theirs.set_policy_async("scope", policy).await) })),
        ("flush", Box::pin(async move { drop(theirs.flush_async().await) })),
        ("wait for a claim", Box::pin(async { drop(on_claim.wait_async().await) })),
        ("wait for a token", Box::pin(async { drop(on_token.wait_timeout_async(TTL).await) })),
    ];
    let mut waiting: Vec<_> =
        waiting.into_iter().map(|(name, future)| (name, future, Arc::new(Count::default()))).collect();
    for (name, future, count) in &mut waiting {
        let waker = Waker::from(Arc::clone(count));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "{name}");
    }
    engine.clone().close().unwrap();
    for (name, future, count) in &mut waiting {
        assert!(count.0.load(Ordering::SeqCst) > 0, "{name}: not woken");
        assert!(poll(future.as_mut()).is_ready(), "{name}: waits on");
    }
    drop(waiting);
    assert!(scope.resume(&token).is_err());
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
