//! Answers that get lost. Every outcome is found out, by nonce or fence, or the error says that it
//! is unknown; nothing hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use idemkv::{
    Begin, BeginError, ClaimError, CommitError, FailureKind, OpenError, SharedError, SharedOptions, Status,
    Waited,
};

use crate::proxy::Proxy;
use crate::random::Random;
use crate::server::{Server, claim, request, within};

/// A store behind the proxy that sends nothing by itself.
fn behind(server: &Server, proxy: &Proxy, schema: &str) -> SharedOptions {
    server.connect(schema).close().unwrap();
    SharedOptions::new(proxy.url())
        .schema(schema)
        .policy(idemkv::Policy::default().recovery(idemkv::Recovery::Rerun))
        .sweep_every(None)
        .count_every(None)
        .session(Duration::from_secs(300))
        .connections(1)
}

#[test]
fn whatever_is_cut_between_request_and_reply_is_found_out() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let store = behind(server, &proxy, "unknown_cut").connect().unwrap();
    let scope = store.scope("");
    for cut in [Proxy::cut_reply, Proxy::cut_request] {
        let key = format!("key {}", proxy.cuts());
        let mut cuts = proxy.cuts();
        let mut cut = || {
            cut(&proxy);
            cuts += 1;
            cuts
        };
        // Once, so that every statement is prepared.
        claim(&scope, "warm").release().unwrap();
        let after = cut();
        let mut first = claim(&scope, &key);
        assert_eq!((proxy.cuts(), first.attempt()), (after, 1));
        let after = cut();
        first.save_progress("half").unwrap();
        assert_eq!(proxy.cuts(), after);
        // Nobody waits for what a drop says, and it arrives all the same.
        let after = cut();
        drop(first);
        let limit = Instant::now() + Duration::from_secs(30);
        while !matches!(scope.get(&key), Ok(Status::Interrupted(_))) {
            assert!(Instant::now() < limit);
        }
        assert_eq!(proxy.cuts(), after);
        let after = cut();
        let second = claim(&scope, &key);
        assert_eq!((proxy.cuts(), second.attempt()), (after, 2));
        let (after, fence) = (cut(), second.fence());
        let record = second.complete("reply").unwrap();
        assert_eq!((proxy.cuts(), record.fence()), (after, fence));
        let Ok(Begin::Done(stored)) = scope.begin(&key, request()) else { panic!() };
        assert_eq!((stored.body(), stored.completed()), (record.body(), record.completed()));
        let after = cut();
        assert!(scope.forget(&key).unwrap());
        assert_eq!(proxy.cuts(), after);
        let third = claim(&scope, &key);
        let after = cut();
        third.release().unwrap();
        assert_eq!(proxy.cuts(), after);
        assert!(matches!(scope.get(&key), Ok(Status::Vacant)));
    }
    let of_two = server.one("SELECT count(*) FROM unknown_cut.keys WHERE state = 1");
    assert_eq!(of_two, "0");
}

/// Replies and requests are cut at random. No key ends as granted to nobody.
#[test]
fn under_random_cuts_every_key_is_done_once_and_none_is_left_behind() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let (one, two) = (
        behind(server, &proxy, "unknown_random").connect().unwrap(),
        behind(server, &proxy, "unknown_random").connections(2).connect().unwrap(),
    );
    let mut random = Random(7);
    let (mut done, mut unknown) = (0, 0);
    for round in 0..60_u64 {
        let key = format!("key {}", round / 3);
        let scope = if random.below(2) == 0 { one.scope("") } else { two.scope("") };
        match random.below(4) {
            0 => proxy.cut_reply(),
            1 => proxy.cut_request(),
            _ => {}
        }
        match scope.begin(&key, request()) {
            Ok(Begin::Fresh(claim)) => {
                if random.below(3) == 0 {
                    proxy.cut_reply();
                }
                match claim.complete(round.to_string()) {
                    Ok(_) => done += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            Ok(Begin::Done(_)) => {}
            Ok(Begin::InFlight(pending)) => {
                assert!(!matches!(pending.wait_timeout(Duration::from_secs(20)), Ok(Waited::TimedOut)));
            }
            Err(BeginError::Shared(SharedError::Unavailable(_))) => unknown += 1,
            Err(other) => panic!("{other}"),
        }
    }
    println!("{done} completed, {unknown} begins without an answer, {} cuts", proxy.cuts());
    assert!(proxy.cuts() > 10);
    let rows = server.sql("SELECT state, count(*) FROM unknown_random.keys GROUP BY state ORDER BY state");
    assert_eq!(rows, [[Some("3".to_owned()), Some(done.to_string())]]);
}

#[test]
fn a_store_that_falls_silent_is_a_typed_error_in_time_and_no_wait_hangs() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let brief = Duration::from_millis(400);
    let options = behind(server, &proxy, "unknown_silent");
    let options = options.statement_timeout(brief).call_timeout(brief).connect_timeout(brief);
    let store = options.connect().unwrap();
    let direct = server.connect("unknown_silent");
    let scope = store.scope("");
    let mut held = claim(&scope, "key");
    let other = claim(&direct.scope(""), "other");
    let Ok(Begin::InFlight(pending)) = scope.begin("other", request()) else { panic!() };
    proxy.stall(true);
    let started = Instant::now();
    assert!(matches!(
        scope.begin("another", request()),
        Err(BeginError::Shared(SharedError::Unavailable(_)))
    ));
    // Which of the two is a matter of when the connection was given up.
    let saved = held.save_progress("x");
    assert!(
        matches!(
            saved,
            Err(ClaimError::Commit(CommitError::Shared(
                SharedError::Unknown(_) | SharedError::Unavailable(_)
            )))
        ),
        "{saved:?}"
    );
    let error = held.complete("reply").unwrap_err();
    assert!(error.reason().is_retryable(), "{error}");
    let waited = pending.wait();
    assert!(matches!(waited, Err(BeginError::Shared(SharedError::Unavailable(_)))), "{waited:?}");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
    proxy.stall(false);
    // The claim came back, and is as good as before.
    let mut claim = error.into_claim().unwrap();
    let record = loop {
        match claim.complete("reply") {
            Ok(record) => break record,
            Err(error) => {
                assert!(error.reason().is_retryable(), "{error}");
                claim = error.into_claim().unwrap();
            }
        }
    };
    assert_eq!(record.body(), b"reply");
    // So is the wait that was given up.
    assert!(matches!(pending.wait_timeout(Duration::from_millis(50)), Ok(Waited::TimedOut)));
    drop(other);
    let waited = loop {
        match pending.wait() {
            Err(BeginError::Shared(SharedError::Unavailable(_))) => {}
            other => break other,
        }
    };
    assert!(matches!(waited, Ok(Waited::Interrupted)), "{waited:?}");
    let refused = SharedOptions::new("postgres://idemkv@127.0.0.1:1/postgres").connect();
    let Err(refused) = refused else { panic!("nobody listens there") };
    assert!(
        matches!(&refused, OpenError::Shared(SharedError::Unavailable(failure)) if failure.kind() == FailureKind::Unreachable),
        "{refused}"
    );
}

/// The grant whose answer got lost for good is withdrawn: another caller gets the key.
#[test]
fn a_grant_that_no_caller_learns_of_is_withdrawn() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let brief = Duration::from_millis(400);
    let options = behind(server, &proxy, "unknown_orphan").statement_timeout(brief).call_timeout(brief);
    let store = options.connect().unwrap();
    let direct = server.connect("unknown_orphan");
    claim(&store.scope(""), "warm").release().unwrap();
    // The reply is cut off, and no new connection gets through for the rest of the call.
    proxy.cut_reply();
    let begun = std::thread::scope(|threads| {
        let begin = threads.spawn(|| store.scope("").begin("key", request()));
        while server.one("SELECT count(*) FROM unknown_orphan.keys WHERE key = 'key'") == "0" {
            std::thread::yield_now();
        }
        proxy.stall(true);
        let answer = begin.join().unwrap();
        proxy.stall(false);
        answer
    });
    match begun {
        // The connection was quicker than the stall.
        Ok(Begin::Fresh(claim)) => claim.release().unwrap(),
        Err(BeginError::Shared(SharedError::Unavailable(_))) => {}
        other => panic!("{other:?}"),
    }
    let again = loop {
        match direct.scope("").begin("key", request()) {
            Ok(Begin::Fresh(claim)) => break claim,
            Ok(Begin::InFlight(pending)) => {
                assert!(!matches!(pending.wait_timeout(Duration::from_secs(20)), Ok(Waited::TimedOut)));
            }
            other => panic!("{other:?}"),
        }
    };
    // It says nothing of an earlier attempt: none has run.
    assert_eq!(again.attempt(), 1);
    again.complete("reply").unwrap();
}

/// The server has committed and says so, with a warning: no standby has confirmed it.
#[test]
fn a_commit_that_no_standby_confirms_is_no_success() {
    let Some(server) = crate::server::another() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let options = server.options("unknown_standby").call_timeout(Duration::from_secs(1));
    let store = options.sweep_every(None).session(Duration::from_secs(300)).connect().unwrap();
    let scope = store.scope("");
    let held = claim(&scope, "key");
    let reload = |names: &str| {
        server.sql(&format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        server.sql("SELECT pg_reload_conf()");
        while server.one("SHOW synchronous_standby_names") != names {
            std::thread::yield_now();
        }
    };
    reload("nobody");
    let is_over = AtomicBool::new(false);
    let error = std::thread::scope(|threads| {
        // Somebody cancels what hangs. The server then reports success, with a warning.
        threads.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                server
                    .sql("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
            }
        });
        let ended = held.complete("reply");
        let begun = scope.begin("other", request());
        is_over.store(true, Ordering::Relaxed);
        assert!(matches!(begun, Err(BeginError::Shared(SharedError::Unavailable(_)))), "{begun:?}");
        ended.unwrap_err()
    });
    let ClaimError::Commit(CommitError::Shared(SharedError::Unknown(failure))) = error.reason() else {
        panic!("{error}")
    };
    assert_eq!(failure.kind(), FailureKind::NotReplicated, "{failure}");
    reload("");
    let record = error.into_claim().unwrap().complete("reply").unwrap();
    assert_eq!(record.body(), b"reply");
    assert!(matches!(scope.begin("key", request()), Ok(Begin::Done(_))));
}

/// The reply to a completion is lost, and then the store. The claim may be over, so no call on it
/// says that nothing was done.
#[test]
fn an_end_that_may_have_happened_is_never_said_not_to_have() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let brief = Duration::from_millis(300);
    let options = behind(server, &proxy, "unknown_twice").statement_timeout(brief).call_timeout(brief);
    let store = options.connect_timeout(brief).connect().unwrap();
    let scope = store.scope("");
    claim(&scope, "warm").complete("reply").unwrap();
    let held = claim(&scope, "key");
    proxy.cut_reply();
    let mut claim = std::thread::scope(|threads| {
        let end = threads.spawn(|| held.complete("reply"));
        while server.one("SELECT count(*) FROM unknown_twice.keys WHERE key = 'key' AND state = 3") == "0" {}
        proxy.stall(true);
        match end.join().unwrap() {
            Err(error) => {
                assert!(is_unknown(error.reason()), "{error}");
                Some(error.into_claim().unwrap())
            }
            // The connection was quicker than the stall.
            Ok(_) => None,
        }
    });
    for _ in 0..3 {
        let Some(held) = claim.take() else { break };
        let error = held.complete("reply").unwrap_err();
        assert!(is_unknown(error.reason()), "{error}");
        claim = error.into_claim();
    }
    proxy.stall(false);
    while let Some(held) = claim.take() {
        match held.complete("reply") {
            Ok(record) => assert_eq!(record.body(), b"reply"),
            Err(error) => {
                assert!(is_unknown(error.reason()), "{error}");
                claim = error.into_claim();
            }
        }
    }
}

fn is_unknown(reason: &ClaimError) -> bool {
    matches!(reason, ClaimError::Commit(CommitError::Shared(SharedError::Unknown(_))))
}

/// Calls that are dropped while the store is away leave withdrawals. Those are limited.
#[test]
fn withdrawals_are_limited_while_the_store_is_away() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let options = behind(server, &proxy, "unknown_many").call_timeout(Duration::from_millis(300));
    let store = options.max_queued(500).connect().unwrap();
    let scope = store.scope("");
    claim(&scope, "warm").release().unwrap();
    proxy.stall(true);
    let loose_ends = || store.shared_stats().unwrap().loose_ends;
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let (until, mut busy, mut next) = (Instant::now() + Duration::from_secs(3), 0, 0);
    while Instant::now() < until {
        next += 1;
        let mut begin = std::pin::pin!(scope.begin_async(format!("key {next}"), request()));
        if let std::task::Poll::Ready(begun) = begin.as_mut().poll(&mut context) {
            assert!(matches!(begun, Err(BeginError::Shared(SharedError::Busy { max: 500 }))), "{begun:?}");
            busy += 1;
        }
        assert!(loose_ends() <= 500, "{} withdrawals after {next} calls", loose_ends());
    }
    assert!(busy > 0 && loose_ends() == 500, "{busy} {}", loose_ends());
    proxy.stall(false);
    assert!(within(Duration::from_secs(60), || loose_ends() == 0), "{}", loose_ends());
    claim(&scope, "after").complete("").unwrap();
}
