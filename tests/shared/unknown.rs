//! Answers that get lost. Every outcome is found out, by nonce or fence, or the error says that it
//! is unknown; nothing hangs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use idemkv::{
    Begin, BeginError, ClaimError, CommitError, FailureKind, ForgetError, OpenError, Pending, Policy,
    ReadError, SetPolicyError, SharedError, SharedOptions, Status, Waited,
};

use crate::bouncer::Bouncer;
use crate::proxy::Proxy;
use crate::random::Random;
use crate::server::{Gate, Server, claim, request, within};

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

#[test]
fn a_forget_whose_answer_is_lost_is_counted() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let store = behind(server, &proxy, "unknown_forget").connect().unwrap();
    let scope = store.scope("");
    drop(claim(&scope, "key"));
    assert!(within(Duration::from_secs(30), || matches!(scope.get("key"), Ok(Status::Interrupted(_)))));
    let gate = Gate::shut(server, "unknown_forget", "UPDATE ON unknown_forget.keys", "NEW.state = 4");
    std::thread::scope(|threads| {
        let forgetting = threads.spawn(|| scope.forget("key"));
        gate.holds(1);
        let before = proxy.cuts();
        proxy.cut_reply();
        gate.open();
        assert!(forgetting.join().unwrap().unwrap());
        assert_eq!(proxy.cuts(), before + 1);
    });
    assert_eq!(store.stats().forgotten, 1);
}

/// The reply of a forget is lost, and another caller gets the key before the forget asks again. It
/// has forgotten what it was to forget, and nothing else.
#[test]
fn a_forget_whose_answer_is_lost_forgets_nothing_that_came_since() {
    let server = server!();
    for (round, (by_fence, completes)) in
        [(false, true), (true, true), (false, false), (true, false)].into_iter().enumerate()
    {
        let schema = format!("unknown_since_{round}");
        let proxy = Proxy::to(server.port);
        let store = behind(server, &proxy, &schema).cache_bytes(0).connect().unwrap();
        let direct = server.connect(&schema);
        let (scope, of_other) = (store.scope(""), direct.scope(""));
        let fence = claim(&scope, "key").complete("old").unwrap().fence();
        let gate = Gate::shut(server, &schema, &format!("UPDATE ON {schema}.keys"), "NEW.state = 4");
        let claimed = std::thread::scope(|threads| {
            let forgetting = threads.spawn(|| {
                if by_fence {
                    scope.forget_if("key", idemkv::Seen::Result(fence))
                } else {
                    scope.forget("key")
                }
            });
            gate.holds(1);
            // The next connection waits until the key has been begun.
            proxy.refuse(true);
            proxy.cut_reply();
            gate.open();
            let mut claimed = None;
            within(Duration::from_secs(20), || {
                if let Ok(Begin::Fresh(claim)) = of_other.begin("key", request()) {
                    claimed = Some(claim);
                }
                claimed.is_some()
            });
            if completes {
                claimed.take().unwrap().complete("new").unwrap();
            }
            proxy.refuse(false);
            let forgot = forgetting.join().unwrap();
            assert!(matches!(forgot, Ok(true)), "by fence {by_fence}, completed {completes}: {forgot:?}");
            claimed
        });
        assert_eq!(claimed.is_some(), !completes);
        claimed.map(|claimed| claimed.complete("new").unwrap());
        let status = of_other.get("key");
        assert!(matches!(&status, Ok(Status::Done(record)) if record.body() == b"new"), "{status:?}");
        assert_eq!(store.stats().forgotten, 1);
    }
}

/// The commit of a completion takes longer than its answer is waited for, and than the lease lasts.
/// The call meets its own statement's lock, and is not told that it came too late.
#[test]
fn an_end_that_is_still_being_committed_is_not_said_to_come_too_late() {
    let server = server!();
    let schema = "unknown_own_lock";
    let options = server.options(schema).statement_timeout(Duration::from_millis(400));
    let options = options.call_timeout(Duration::from_secs(60)).session(Duration::from_secs(300));
    let store = options.sweep_every(None).connections(2).connect().unwrap();
    let lease = Policy::default().recovery(idemkv::Recovery::Rerun).lease(Duration::from_secs(2));
    store.set_policy("", lease).unwrap();
    let held = claim(&store.scope(""), "key");
    let gate = Gate::shut(server, schema, "UPDATE ON unknown_own_lock.keys", "NEW.state = 3");
    std::thread::scope(|threads| {
        let ending = threads.spawn(|| held.complete("reply"));
        gate.holds(1);
        let is_over =
            "SELECT lease_until_ms < extract(epoch FROM clock_timestamp()) * 1000 FROM unknown_own_lock.keys";
        assert!(within(Duration::from_secs(30), || server.one(is_over) == "t"));
        // It asks some more times.
        let trips = || store.shared_stats().unwrap().statements;
        let before = trips();
        assert!(within(Duration::from_secs(30), || trips() > before + 10 || ending.is_finished()));
        gate.open();
        let ended = ending.join().unwrap();
        assert!(matches!(&ended, Ok(record) if record.body() == b"reply"), "{ended:?}");
    });
}

/// The reply to a release is lost, and another caller begins the key before the release asks again.
#[test]
fn a_release_whose_answer_is_lost_is_not_said_to_come_too_late() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let schema = "unknown_release";
    let store = behind(server, &proxy, schema).connect().unwrap();
    let direct = server.connect(schema);
    let held = claim(&store.scope(""), "key");
    let gate = Gate::shut(server, schema, "UPDATE ON unknown_release.keys", "NEW.state = 4");
    std::thread::scope(|threads| {
        let releasing = threads.spawn(|| held.release());
        gate.holds(1);
        // The next connection waits until the key has been begun.
        proxy.refuse(true);
        proxy.cut_reply();
        gate.open();
        let mut begun = None;
        within(Duration::from_secs(20), || {
            if let Ok(Begin::Fresh(claim)) = direct.scope("").begin("key", request()) {
                begun = Some(claim);
            }
            begun.is_some()
        });
        proxy.refuse(false);
        let released = releasing.join().unwrap();
        assert!(released.is_ok(), "{released:?}");
        let record = begun.unwrap().complete("new").unwrap();
        assert_eq!(record.attempt(), 1);
    });
}

/// The release may never have arrived: its claim was over by then, and another caller has forgotten
/// that. The row says nothing of it.
#[test]
fn a_release_of_which_nothing_is_left_is_neither_said_to_have_happened_nor_not_to_have() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let schema = "unknown_past";
    let store = behind(server, &proxy, schema).connect().unwrap();
    let direct = server.options(schema).cache_bytes(0).connect().unwrap();
    let lease = Policy::default().recovery(idemkv::Recovery::Rerun).lease(Duration::from_secs(1));
    direct.set_policy("", lease).unwrap();
    let (scope, of_other) = (store.scope(""), direct.scope(""));
    let held = claim(&scope, "key");
    let refusals = server.refuse_changes(schema, "08006", "NEW.state = 4");
    std::thread::scope(|threads| {
        let releasing = threads.spawn(|| held.release());
        refusals.wait_for(1);
        proxy.refuse(true);
        drop(refusals);
        assert!(within(Duration::from_secs(20), || matches!(of_other.forget("key"), Ok(true))));
        let claimed = claim(&of_other, "key");
        proxy.refuse(false);
        let error = releasing.join().unwrap().unwrap_err();
        assert!(is_unknown(error.reason()) && !error.is_retryable(), "{error}");
        // It is over in any case.
        assert!(error.into_claim().is_none());
        claimed.complete("new").unwrap();
    });
}

/// The reply to a forget of an interruption is lost, and another caller resolves the key.
#[test]
fn a_forget_whose_answer_is_lost_does_not_say_that_it_forgot_what_was_resolved() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let schema = "unknown_resolved";
    let store = behind(server, &proxy, schema).cache_bytes(0).connect().unwrap();
    let direct = server.connect(schema);
    let (scope, of_other) = (store.scope(""), direct.scope(""));
    drop(claim(&scope, "key"));
    assert!(within(Duration::from_secs(30), || matches!(scope.get("key"), Ok(Status::Interrupted(_)))));
    let refusals = server.refuse_changes(schema, "08006", "NEW.state = 4");
    std::thread::scope(|threads| {
        let forgetting = threads.spawn(|| scope.forget("key"));
        refusals.wait_for(1);
        proxy.refuse(true);
        drop(refusals);
        let resolved = of_other.resolve("key");
        resolved.unwrap().release().unwrap();
        let claimed = claim(&of_other, "key");
        proxy.refuse(false);
        let forgot = forgetting.join().unwrap();
        assert!(!matches!(forgot, Ok(true)), "{forgot:?}");
        claimed.complete("new").unwrap();
    });
}

/// The reply to a policy is lost, and another process sets one before the call asks what became of
/// it.
#[test]
fn a_policy_whose_answer_is_lost_does_not_replace_a_later_one() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let store = behind(server, &proxy, "unknown_policy").connect().unwrap();
    let direct = server.connect("unknown_policy");
    let policy = |seconds: u64| Policy::default().ttl(Duration::from_secs(seconds));
    let on = "INSERT OR UPDATE ON unknown_policy.policies";
    let gate = Gate::shut(server, "unknown_policy", on, "NEW.ttl_ms = 1000");
    std::thread::scope(|threads| {
        let setting = threads.spawn(|| store.set_policy("scope", policy(1)).map(drop));
        gate.holds(1);
        proxy.refuse(true);
        proxy.cut_reply();
        gate.open();
        direct.set_policy("scope", policy(2)).unwrap();
        proxy.refuse(false);
        let set = setting.join().unwrap();
        let is_said = |error: &CommitError| matches!(error, CommitError::Shared(SharedError::Unknown(_)));
        assert!(matches!(&set, Err(SetPolicyError::Commit(error)) if is_said(error)), "{set:?}");
    });
    assert_eq!(server.one("SELECT ttl_ms FROM unknown_policy.policies"), "2000");
    // The same call again is one that comes later.
    store.set_policy("scope", policy(1)).unwrap();
    assert_eq!(server.one("SELECT ttl_ms FROM unknown_policy.policies"), "1000");
    proxy.cut_reply();
    store.set_policy("scope", policy(3)).unwrap();
    assert_eq!(server.one("SELECT ttl_ms FROM unknown_policy.policies"), "3000");
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

#[track_caller]
fn assert_interrupted_once_it_is_back(pending: &Pending) {
    let waited = loop {
        match pending.wait() {
            Err(BeginError::Shared(SharedError::Unavailable(_))) => {}
            other => break other,
        }
    };
    assert!(matches!(waited, Ok(Waited::Interrupted)), "{waited:?}");
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
    let dropped = claim(&scope, "dropped");
    let Ok(Begin::InFlight(of_own)) = scope.begin("dropped", request()) else { panic!() };
    proxy.stall(true);
    let started = Instant::now();
    // What reads says that nothing was done: there is nothing to be done. It comes first, so that it
    // is sent.
    let read = scope.get("key");
    assert!(matches!(read, Err(ReadError::Shared(SharedError::Unavailable(_)))), "{read:?}");
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
    // A claim of this process has no holder any more.
    drop(dropped);
    let waited = of_own.wait_timeout(Duration::from_secs(20));
    assert!(matches!(waited, Err(BeginError::Shared(SharedError::Unavailable(_)))), "{waited:?}");
    let forgot = scope.forget("other");
    let is_said = |error: &CommitError| matches!(error, CommitError::Shared(SharedError::Unavailable(_)));
    assert!(matches!(&forgot, Err(ForgetError::Commit(error)) if is_said(error)), "{forgot:?}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    proxy.stall(false);
    assert_interrupted_once_it_is_back(&of_own);
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
    assert_interrupted_once_it_is_back(&pending);
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

#[test]
fn a_commit_that_no_standby_confirms_is_no_success() {
    let Some(server) = another() else { return };
    no_standby_confirms(&server, server.options("unknown_standby"));
}

/// The role wants to hear of errors alone. Behind the pooler no connection can set anything.
#[test]
fn a_commit_that_no_standby_confirms_is_no_success_for_a_role_that_wants_no_warnings() {
    for is_pooled in [false, true] {
        let Some(server) = another() else { return };
        server.sql("ALTER ROLE idemkv SET client_min_messages = error");
        let options = if is_pooled {
            let Some(bouncer) = Bouncer::start(&server, "transaction", "") else { return };
            bouncer.options("unknown_standby")
        } else {
            server.options("unknown_standby")
        };
        no_standby_confirms(&server, options);
    }
}

fn another() -> Option<Server> {
    let server = crate::server::another();
    if server.is_none() {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
    }
    server
}

/// The server has committed and says so, with a warning: no standby has confirmed it.
fn no_standby_confirms(server: &Server, options: SharedOptions) {
    let options = options.call_timeout(Duration::from_secs(1));
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

/// A warning of the server, as its protocol has it.
fn warning(routine: &str) -> Vec<u8> {
    let fields = ["SWARNING", "VWARNING", "C01000", "Msomething may be wrong", &format!("R{routine}")];
    let mut body: Vec<u8> = fields.iter().flat_map(|field| [field.as_bytes(), &[0]].concat()).collect();
    body.push(0);
    let len = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
    [&b"N"[..], &len, &body].concat()
}

/// Short of numbers for transactions, the server warns with each change.
#[test]
fn a_warning_that_numbers_run_out_says_nothing_of_a_commit() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let options = behind(server, &proxy, "unknown_numbers").call_timeout(Duration::from_secs(1));
    let store = options.connect().unwrap();
    let scope = store.scope("");
    claim(&scope, "warm").release().unwrap();
    for routine in ["GetNewTransactionId", "GetNewMultiXactId"] {
        proxy.say(Some(warning(routine)));
        claim(&scope, routine).complete("reply").unwrap();
    }
    let held = claim(&scope, "key");
    proxy.say(Some(warning("SyncRepWaitForLSN")));
    let error = held.complete("reply").unwrap_err();
    proxy.say(None);
    assert!(is_unknown(error.reason()), "{error}");
    error.into_claim().unwrap().complete("reply").unwrap();
}

/// As poolers tell of a connection to the server that broke.
#[test]
fn an_error_that_says_that_a_connection_broke_is_an_unknown_outcome() {
    let server = server!();
    let schema = "unknown_broken";
    for code in ["08006", "57P01"] {
        let store = server.options(schema).call_timeout(Duration::from_millis(300)).connect().unwrap();
        let held = claim(&store.scope(""), code);
        let refusals = server.refuse_changes(schema, code, "NEW.state = 3");
        let error = held.complete("reply").unwrap_err();
        assert!(is_unknown(error.reason()), "{error}");
        drop(refusals);
        server.sql("DROP SEQUENCE unknown_broken.refusals; DROP FUNCTION unknown_broken.refuse");
        error.into_claim().unwrap().complete("reply").unwrap();
    }
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
