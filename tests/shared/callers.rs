//! Callers: threads that run an executor, wakers that the store calls, and tasks that go away.

use std::pin::{Pin, pin};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{
    Begin, BeginError, CommitError, ForgetError, Policy, ReadError, Recovery, ResolveError, SetPolicyError,
    SharedError, SharedOptions, Status, TokenError, Waited,
};

use crate::inside::{Act, Tools, is_inside, is_refused};
use crate::proxy::Proxy;
use crate::server::{Client, claim, request, within};

const WATCHDOG: Duration = Duration::from_secs(30);

/// The executor's thread waits meanwhile, and the store's thread answers.
#[test]
fn a_call_that_blocks_is_answered_inside_any_executor() {
    let server = server!();
    let store = server.connect("callers_inside");
    let scope = store.scope("");
    let all = |name: &str| {
        let held = claim(&scope, name);
        let Ok(Begin::InFlight(pending)) = scope.begin(name, request()) else { panic!() };
        let waiting = thread::spawn(move || held.complete("reply").unwrap());
        assert!(matches!(pending.wait(), Ok(Waited::Done(record)) if record.body() == b"reply"));
        waiting.join().unwrap();
        drop(store.set_policy(name, store.policy()).unwrap());
        assert!(store.entries().all(|entry| entry.is_ok()));
        server.connect("callers_inside").close().unwrap();
    };
    let one = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    one.block_on(async { all("one thread") });
    tokio::task::LocalSet::new().block_on(&one, async { all("local tasks") });
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    many.block_on(async { tokio::task::spawn_blocking(|| ()).await.unwrap() });
    thread::scope(|threads| {
        let inside = threads.spawn(|| many.block_on(async { all("many threads") }));
        inside.join().unwrap();
    });
    futures_executor::block_on(async { all("another executor") });
}

/// Calls that would wait for the store's thread, which is the one that makes them.
const ACTS: &[Act] = &[
    |tools| assert!(tools.scope.begin("new", request()).as_ref().is_err_and(is_inside)),
    |tools| {
        let answers = tools.scope.begin_many(&[("new", request()), ("newer", request())]);
        assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(is_inside)));
    },
    |tools| {
        assert!(tools.pending.wait().as_ref().is_err_and(is_inside));
        let waited = tools.scope.begin_or_wait("held", request(), WATCHDOG);
        assert!(waited.as_ref().is_err_and(is_inside));
    },
    |mut tools| {
        assert!(is_refused(&tools.claim.save_progress("half").unwrap_err()));
        assert!(is_refused(&tools.claim.renew().unwrap_err()));
        let error = tools.claim.complete("reply").unwrap_err();
        assert!(is_refused(error.reason()));
        let error = error.into_claim().unwrap().release().unwrap_err();
        assert!(is_refused(error.reason()));
        // It is as good as before, and its end is stored by the store's thread.
        drop(error.into_claim().unwrap().complete_async("by a waker"));
    },
    |tools| {
        let ended = tools.engine.complete_many(vec![(tools.claim, "reply")]);
        assert!(ended.iter().all(|ended| ended.as_ref().is_err_and(|error| is_refused(error.reason()))));
    },
    |tools| {
        assert!(matches!(tools.scope.get("held"), Err(ReadError::InsideCallback)));
        assert!(matches!(tools.engine.interrupted().get(), Err(ReadError::InsideCallback)));
        let entries: Vec<_> = tools.engine.entries().collect();
        assert!(matches!(&entries[..], [Err(ReadError::InsideCallback)]));
        let forgotten = tools.scope.forget("held");
        assert!(matches!(forgotten, Err(ForgetError::Commit(CommitError::InsideCallback))), "{forgotten:?}");
        let resolved = tools.scope.resolve("held");
        assert!(matches!(resolved, Err(ResolveError::Begin(BeginError::InsideCallback))), "{resolved:?}");
        let set = tools.engine.set_policy("other", tools.engine.policy());
        assert!(matches!(set, Err(SetPolicyError::Commit(CommitError::InsideCallback))), "{set:?}");
        drop((tools.engine.stats(), tools.engine.shared_stats(), tools.engine.now(), tools.engine.flush()));
    },
    // Futures do not block.
    |tools| {
        let mut begin = Box::pin(tools.scope.begin_async("new", request()));
        assert!(poll(begin.as_mut(), Waker::noop()).is_pending());
    },
    // The thread that ends it is this one.
    |tools| drop(tools.engine.close()),
    drop,
];

fn poll<F: Future + ?Sized>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(waker))
}

/// A waker that acts once.
struct Acts {
    work: Mutex<Option<(Act, Tools)>>,
    done: SyncSender<bool>,
}

impl Wake for Acts {
    fn wake(self: Arc<Self>) {
        let Some((act, tools)) = self.work.lock().unwrap().take() else { return };
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(tools)));
        self.done.try_send(acted.is_ok()).unwrap_or_default();
    }
}

#[test]
fn a_call_that_blocks_is_refused_in_a_waker_that_the_store_calls() {
    let server = server!();
    for (number, act) in ACTS.iter().enumerate() {
        let store = server.connect("callers_wakers");
        let (scope, key) = (store.scope(""), format!("held {number}"));
        let claim = claim(&scope, &key);
        let Ok(Begin::InFlight(pending)) = scope.begin(&key, request()) else { panic!() };
        let (done, is_done): (_, Receiver<bool>) = sync_channel(1);
        let tools = Tools { engine: store.clone(), scope: scope.clone(), claim, pending };
        let waker = Waker::from(Arc::new(Acts { work: Mutex::new(Some((*act, tools))), done }));
        let asked = format!("asked {number}");
        let mut begin = Box::pin(scope.begin_async(&asked, request()));
        assert!(poll(begin.as_mut(), &waker).is_pending());
        assert_eq!(is_done.recv_timeout(WATCHDOG), Ok(true), "act {number}");
        drop(begin);
        // What the store's thread was given to do, it did.
        let other = server.connect("callers_wakers");
        let left = loop {
            match other.scope("").get(&key).unwrap() {
                Status::InFlight(_) => thread::yield_now(),
                left => break left,
            }
        };
        match number {
            3 => assert!(matches!(left, Status::Done(record) if record.body() == b"by a waker")),
            _ => assert!(matches!(left, Status::Interrupted(_)), "{number}: {left:?}"),
        }
    }
}

/// Wakes a thread that polls by hand.
struct Unparks(thread::Thread);

impl Wake for Unparks {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn given_up(proxy: &Proxy) -> SharedOptions {
    let url = format!("{}?application_name=idemkv_dropped", proxy.url());
    SharedOptions::new(url).schema("callers_dropped").instance("worker-1")
}

/// A service gives up and tries again. What it gave up must not take the name from the next try.
#[test]
fn a_connect_that_is_dropped_replaces_nobody_however_late_it_arrives() {
    let server = server!();
    let direct = || server.options("callers_dropped").instance("worker-1").connect().unwrap();
    // It has the name, and the start that is held names it.
    let first = direct();
    let proxy = Proxy::to(server.port);
    proxy.hold(Some("sessions (id, nonce"));
    {
        let mut connecting = pin!(given_up(&proxy).connect_async());
        assert!(poll(connecting.as_mut(), Waker::noop()).is_pending());
        proxy.wait_for_held(1);
    }
    let again = direct();
    drop(first);
    let held = claim(&again.scope(""), "key");
    proxy.hold(None);
    let connections =
        || server.one("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idemkv_dropped'");
    assert!(within(WATCHDOG, || connections() == "0"), "what was dropped goes on");
    held.complete("reply").unwrap();
    claim(&again.scope(""), "next").complete("reply").unwrap();
}

/// It can't read the policies: a later library has written one.
#[test]
fn a_connect_that_fails_replaces_nobody() {
    let server = server!();
    let options = || server.options("callers_failed").instance("worker-1");
    let first = options().connect().unwrap();
    let held = claim(&first.scope(""), "key");
    server.sql("INSERT INTO callers_failed.policies (scope, ttl_ms, refuse) VALUES ('x', -1, false)");
    assert!(options().connect().is_err());
    held.complete("reply").unwrap();
    claim(&first.scope(""), "next").complete("reply").unwrap();
}

/// Its session was started beside the read of the policies, which is held up here.
#[test]
fn a_connect_that_fails_late_replaces_nobody_either() {
    let server = server!();
    let options = || server.options("callers_late").instance("worker-1");
    let first = options().connect().unwrap();
    let held = claim(&first.scope(""), "key");
    let mut blocker = Client::connect(server);
    blocker.run("BEGIN; LOCK TABLE callers_late.policies IN ACCESS EXCLUSIVE MODE");
    let brief = Duration::from_millis(500);
    assert!(options().statement_timeout(brief).call_timeout(brief).connect().is_err());
    blocker.run("ROLLBACK");
    held.complete("reply").unwrap();
    claim(&first.scope(""), "next").complete("reply").unwrap();
}

#[test]
fn a_connect_that_is_dropped_leaves_nothing_behind() {
    let server = server!();
    server.connect("callers_left").close().unwrap();
    let proxy = Proxy::to(server.port);
    let url = format!("{}?application_name=idemkv_left", proxy.url());
    let options = || SharedOptions::new(url.clone()).schema("callers_left");
    proxy.stall(true);
    {
        let mut connecting = pin!(options().connect_async());
        assert!(poll(connecting.as_mut(), Waker::noop()).is_pending());
        proxy.wait_for_connections(1);
    }
    proxy.stall(false);
    assert!(!within(Duration::from_secs(1), || proxy.connections() > 1), "it goes on");
    // It has connected, and nobody took the answer.
    server.sql("UPDATE callers_left.duties SET due_ms = 0");
    {
        let mut connecting = pin!(options().connect_async());
        assert!(poll(connecting.as_mut(), Waker::noop()).is_pending());
        assert!(within(WATCHDOG, || server.one("SELECT due_ms FROM callers_left.duties") != "0"));
    }
    let connections =
        || server.one("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idemkv_left'");
    assert!(within(WATCHDOG, || connections() == "0"), "{} connections are left", connections());
    let now = "extract(epoch FROM clock_timestamp()) * 1000";
    let living = server.one(&format!("SELECT count(*) FROM callers_left.sessions WHERE until_ms > {now}"));
    assert_eq!(living, "0", "a session that nobody has");
}

/// As on a file, where a resume that is dropped has not happened.
#[test]
fn a_resume_that_is_dropped_leaves_the_token_good() {
    let server = server!();
    let store = server.connect("callers_resume");
    let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_secs(3_600));
    let jobs = store.set_policy("jobs", policy).unwrap();
    let waker = Waker::from(Arc::new(Unparks(thread::current())));
    // After the first poll and after the second. A store that is quick may have answered by then: then
    // the next key does.
    let (mut left, until) = (vec![2, 1], Instant::now() + WATCHDOG);
    for number in 0.. {
        let Some(polls) = left.last().copied() else { break };
        assert!(Instant::now() < until, "it is never under way after {polls} polls");
        let key = format!("key {number}");
        let token = claim(&jobs, &key).into_token().unwrap();
        let is_dropped = {
            let mut resume = pin!(jobs.resume_async(&token));
            let mut is_pending = true;
            for poll_number in 0..polls {
                if poll_number > 0 {
                    thread::park_timeout(Duration::from_secs(1));
                }
                is_pending = poll(resume.as_mut(), &waker).is_pending();
                if !is_pending {
                    break;
                }
            }
            is_pending
        };
        if !is_dropped {
            continue;
        }
        left.pop();
        // What it may have taken comes back by itself, long before the lease is over.
        let until = Instant::now() + WATCHDOG;
        let resumed = loop {
            match jobs.resume(&token) {
                Ok(claim) => break claim,
                Err(TokenError::Held) if Instant::now() < until => thread::yield_now(),
                other => panic!("dropped after {polls} polls: {other:?}"),
            }
        };
        resumed.complete("reply").unwrap();
        assert!(matches!(jobs.get(&key), Ok(Status::Done(_))));
    }
}

/// The answer gets lost, and the store does not say more in the call's time.
#[test]
fn a_resume_of_which_nothing_is_known_leaves_the_token_good() {
    let server = server!();
    let other = server.connect("callers_unknown");
    let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_secs(3_600));
    let token = claim(&other.set_policy("jobs", policy).unwrap(), "key").into_token().unwrap();
    let proxy = Proxy::to(server.port);
    let brief = Duration::from_millis(300);
    let options =
        SharedOptions::new(proxy.url()).schema("callers_unknown").sweep_every(None).count_every(None);
    let options = options.statement_timeout(brief).call_timeout(brief).session(Duration::from_secs(300));
    let store = options.connect().unwrap();
    let jobs = store.scope("jobs");
    proxy.mute(true);
    let resumed = jobs.resume(&token);
    let is_told = matches!(resumed, Err(TokenError::Begin(BeginError::Shared(SharedError::Unavailable(_)))));
    assert!(is_told, "{resumed:?}");
    assert_ne!(
        server.one("SELECT coalesce(session, 0) FROM callers_unknown.keys"),
        "0",
        "it was carried out"
    );
    proxy.mute(false);
    let until = Instant::now() + WATCHDOG;
    loop {
        match other.scope("jobs").resume(&token) {
            Ok(claim) => break drop(claim.complete("reply").unwrap()),
            Err(TokenError::Held) if Instant::now() < until => thread::yield_now(),
            other => panic!("{other:?}"),
        }
    }
}
