//! Calls of the engine from code that the engine calls: every one returns, and no caller elsewhere
//! notices.

use std::pin::Pin;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Barrier, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{default_scope, fresh, poll, request, small};
use crate::helpers::Callback;
use crate::inside::{Act, Tools, is_inside, is_refused};
use futures_executor::block_on;
use idemkv::sim::SimDisk;
use idemkv::{
    BackupError, Begin, BeginError, Claim, CommitError, Durability, Engine, Event, Observer, Options,
    Recovery, Scope, Status, Waited,
};

const LONG: Duration = Duration::from_secs(3_600);
const WATCHDOG: Duration = Duration::from_secs(60);

/// Every call that blocks, and what else may be done. Each is told, or done.
const ACTS: &[(&str, Act)] = &[
    ("begin", |tools| match tools.scope.begin("new", request()) {
        Ok(Begin::Fresh(claim)) => drop(claim.release()),
        Err(error) => assert!(is_inside(&error), "{error}"),
        other => panic!("{other:?}"),
    }),
    ("begin of what is known", |tools| {
        assert!(matches!(tools.scope.begin("done", request()), Ok(Begin::Done(_))));
        assert!(matches!(tools.scope.begin("theirs", request()), Ok(Begin::InFlight(_))));
        assert!(matches!(tools.engine.default_scope().get("done"), Ok(Status::Done(_))));
        assert!(tools.engine.entries().all(|entry| entry.is_ok()));
        drop(tools.engine.stats());
    }),
    ("begin of many", |tools| {
        let answers =
            tools.scope.begin_many(&[("done", request()), ("theirs", request()), ("many", request())]);
        let [Ok(Begin::Done(_)), Ok(Begin::InFlight(_)), last] = answers.as_slice() else {
            panic!("{answers:?}")
        };
        assert!(last.is_ok() || last.as_ref().is_err_and(is_inside), "{last:?}");
    }),
    ("waiting", |tools| {
        // The thread that calls may have the claim.
        assert!(tools.pending.wait_timeout(LONG).as_ref().is_err_and(is_inside));
        assert!(tools.pending.wait().as_ref().is_err_and(is_inside));
        let waited = tools.scope.begin_or_wait("theirs", request(), LONG);
        assert!(waited.as_ref().is_err_and(is_inside), "{waited:?}");
        let waited = tools.pending.wait_timeout(Duration::ZERO);
        assert!(matches!(waited, Ok(Waited::TimedOut)), "{waited:?}");
    }),
    ("complete", |tools| match tools.claim.complete("reply") {
        Ok(_) => {}
        Err(error) => {
            assert!(is_refused(error.reason()), "{error}");
            // It is as good as before.
            let claim = error.into_claim().unwrap();
            drop(claim.complete_async("reply"));
        }
    }),
    ("complete of many", |tools| {
        for ended in tools.engine.complete_many(vec![(tools.claim, "reply")]) {
            assert!(ended.is_ok() || ended.is_err_and(|error| is_refused(error.reason())));
        }
    }),
    ("complete of many with a body that the log has no room for", |tools| {
        for ended in tools.engine.complete_many(vec![(tools.claim, vec![7; 1 << 20])]) {
            let told =
                ended.as_ref().is_ok() || ended.as_ref().is_err_and(|error| is_refused(error.reason()));
            assert!(told, "{ended:?}");
        }
    }),
    ("release", |tools| {
        let released = tools.claim.release();
        assert!(released.is_ok() || released.is_err_and(|error| is_refused(error.reason())));
    }),
    ("progress of a claim", |mut tools| {
        let noted = tools.claim.save_progress("note");
        assert!(noted.is_ok() || noted.is_err_and(|error| is_refused(&error)));
        tools.claim.renew().unwrap();
    }),
    ("complete_in", |tools| drop(tools.claim.complete_in(|_| Ok::<_, String>("reply")))),
    ("read_tables", |tools| tools.engine.read_tables(|_| ()).unwrap()),
    ("forget", |tools| drop(tools.engine.default_scope().forget("done"))),
    ("resolve", |tools| drop(tools.scope.resolve("lost"))),
    ("declare", |tools| drop(tools.engine.set_policy("declared", tools.engine.policy()))),
    ("flush", |tools| {
        let flushed = tools.engine.flush();
        assert!(flushed.is_ok() || matches!(flushed, Err(CommitError::InsideCallback)));
    }),
    ("checkpoint", |tools| tools.engine.checkpoint().unwrap()),
    ("backup", |tools| {
        let scratch = tempfile::tempdir().unwrap();
        let made = tools.engine.backup(scratch.path().join("copy.idem"));
        let is_refused = matches!(made, Err(BackupError::Commit(CommitError::InsideCallback)));
        assert!(made.is_ok() || is_refused, "{made:?}");
    }),
    ("calls of tasks", |tools| {
        // Polled once, as an executor does that polls in `wake`.
        let mut begin = Box::pin(tools.scope.begin_async("new", request()));
        drop(poll(begin.as_mut()));
        let mut end = Box::pin(tools.claim.complete_async("reply"));
        drop(poll(end.as_mut()));
        drop((
            poll(Box::pin(tools.engine.flush_async()).as_mut()),
            poll(Box::pin(tools.engine.default_scope().get_async("done")).as_mut()),
        ));
    }),
    ("drop of a claim", |tools| drop(tools.claim)),
];

/// Code of others that does its work once.
struct Foreign {
    work: Mutex<Option<(Act, Tools)>>,
    done: SyncSender<bool>,
}

impl Foreign {
    fn run(&self) {
        let Some((act, tools)) = self.work.lock().unwrap().take() else { return };
        let acted = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(tools)));
        self.done.try_send(acted.is_ok()).unwrap_or_default();
    }
}

impl Foreign {
    fn wait_until_called(&self) {
        let started = Instant::now();
        while self.work.lock().unwrap().is_some() && started.elapsed() < WATCHDOG {
            thread::yield_now();
        }
    }
}

impl Wake for Foreign {
    fn wake(self: Arc<Self>) {
        self.run();
    }
}

/// Hears of an interruption.
#[derive(Default)]
struct Hears(Mutex<Option<Arc<Foreign>>>);

impl Observer for Hears {
    fn event(&self, event: &Event<'_>) {
        if let Event::Interrupted { key: b"interrupted", .. } = event
            && let Some(foreign) = self.0.lock().unwrap().take()
        {
            foreign.run();
        }
    }
}

/// Where the engine calls code of others.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// A task waits for a claim that a thread completes.
    Pending,
    /// A task waits for its completion, and a thread leads for it.
    Completion,
    /// A task waits for its grant.
    Grant,
    /// A task's time is up: the worker wakes it.
    Timer,
    /// A task reads a record from disk.
    Read,
    /// An observer, within the drop of a claim.
    Observer,
    /// A task waits for a claim that only memory knows, and a thread releases it.
    Release,
    /// A task waits for a claim that a thread completes in a transaction.
    Transaction,
}

const PLACES: [Place; 8] = [
    Place::Pending,
    Place::Completion,
    Place::Grant,
    Place::Timer,
    Place::Read,
    Place::Observer,
    Place::Release,
    Place::Transaction,
];

/// Has the engine call the waker at this place.
fn provoke(place: Place, memory: &Scope, scope: &Scope, foreign: &Arc<Foreign>) {
    let waker = &Waker::from(Arc::clone(foreign));
    let once =
        |call: Pin<&mut dyn Future<Output = ()>>| call.poll(&mut Context::from_waker(waker)).is_ready();
    let watched = |scope: &Scope, end: &dyn Fn(Claim)| {
        let claim = fresh(scope, "watched");
        let Ok(Begin::InFlight(pending)) = scope.begin("watched", request()) else { panic!("it is out") };
        let mut call = Box::pin(async { drop(pending.wait_async().await) });
        assert!(!once(call.as_mut()));
        end(claim);
    };
    match place {
        Place::Pending => watched(scope, &|claim| drop(claim.complete("reply").unwrap())),
        Place::Release => watched(memory, &|claim| claim.release().unwrap()),
        Place::Transaction => watched(scope, &|claim| {
            drop(claim.complete_in(|_| Ok::<_, String>("reply")).unwrap());
        }),
        Place::Completion => {
            let ended = fresh(scope, "watched").complete_async("reply");
            let mut call = Box::pin(async { drop(ended.await) });
            assert!(!once(call.as_mut()));
            fresh(scope, "another").complete("reply").unwrap();
            foreign.wait_until_called();
            drop(call);
        }
        Place::Grant => {
            let mut call = Box::pin(async { drop(scope.begin_async("watched", request()).await) });
            assert!(!once(call.as_mut()));
            fresh(scope, "another").complete("reply").unwrap();
            foreign.wait_until_called();
            drop(call);
        }
        Place::Timer => loop {
            let Ok(Begin::InFlight(pending)) = scope.begin("theirs", request()) else { panic!("it is out") };
            let mut call =
                Box::pin(async { drop(pending.wait_timeout_async(Duration::from_millis(1)).await) });
            // On a busy machine its time may be up before it waits.
            if !once(call.as_mut()) {
                foreign.wait_until_called();
                break;
            }
        },
        Place::Read => loop {
            let mut call = Box::pin(async { drop(scope.get_async("stored").await) });
            // It may be read before the task waits.
            if !once(call.as_mut()) {
                foreign.wait_until_called();
                break;
            }
        },
        Place::Observer => drop(fresh(scope, "interrupted")),
    }
}

fn try_at(options: Options, place: Place, name: &str, act: Act) {
    let scratch = tempfile::tempdir().unwrap();
    let hears = Arc::new(Hears::default());
    let engine =
        options.observer(Arc::clone(&hears)).cache_bytes(0).open(scratch.path().join("x.idem")).unwrap();
    let scope = default_scope(&engine);
    let memory = engine.policy().durability(Durability::Completions).recovery(Recovery::Rerun);
    let memory = engine.set_policy("in memory", memory).unwrap();
    fresh(&scope, "stored").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    fresh(&scope, "done").complete("reply").unwrap();
    drop(fresh(&scope, "lost"));
    let theirs = fresh(&scope, "theirs");
    let Ok(Begin::InFlight(pending)) = scope.begin("theirs", request()) else { panic!("it is out") };
    let claim = fresh(&scope, "mine");
    let tools = Tools { engine: engine.clone(), scope: scope.clone(), claim, pending };
    let (done, is_done) = sync_channel(1);
    let foreign = Arc::new(Foreign { work: Mutex::new(Some((act, tools))), done });
    *hears.0.lock().unwrap() = Some(Arc::clone(&foreign));
    let provoked = {
        let (memory, scope, foreign) = (memory.clone(), scope.clone(), Arc::clone(&foreign));
        thread::spawn(move || provoke(place, &memory, &scope, &foreign))
    };
    let acted = is_done
        .recv_timeout(WATCHDOG)
        .unwrap_or_else(|_| panic!("{name} at {place:?} hangs, or was never called"));
    assert!(acted, "{name} at {place:?} was answered otherwise");
    // A caller elsewhere.
    let (done, is_done) = sync_channel(1);
    let others = scope.clone();
    thread::spawn(move || {
        fresh(&others, "elsewhere").complete("reply").unwrap();
        block_on(fresh(&others, "of a task").complete_async("reply")).unwrap();
        done.send(()).unwrap();
    });
    is_done.recv_timeout(WATCHDOG).unwrap_or_else(|_| panic!("{name} at {place:?}: others wait for ever"));
    provoked.join().unwrap();
    theirs.complete("reply").unwrap();
    drop((memory, scope, hears));
    engine.close().unwrap();
}

#[test]
fn every_call_from_a_waker_or_an_observer_returns_and_nobody_else_notices() {
    for place in PLACES {
        for (name, act) in ACTS {
            try_at(Engine::options(), place, name, *act);
        }
    }
}

/// The batch may be on the thread that would make the room, or on one that has a claim that would.
#[test]
fn a_batch_for_which_the_log_has_no_room_is_refused_wherever_the_engine_calls() {
    let act: Act = |tools| {
        let requests: Vec<_> = (0..3_000).map(|key| (format!("many {key}"), request())).collect();
        let answers = tools.scope.begin_many(&requests);
        for answer in &answers {
            let told = matches!(answer, Ok(Begin::Fresh(_))) || answer.as_ref().is_err_and(is_inside);
            assert!(told, "{answer:?}");
        }
        assert!(answers.iter().any(Result::is_err), "the log had room for all");
    };
    for place in PLACES {
        try_at(small(Engine::options()).queue_timeout(LONG), place, "a batch", act);
    }
}

/// Closing, and the drop of the last handle.
#[test]
fn the_file_can_be_closed_from_a_waker_and_an_observer() {
    for place in PLACES {
        for act in [(|tools| drop(tools.engine.close())) as Act, |tools| drop(tools)] {
            let scratch = tempfile::tempdir().unwrap();
            let path = scratch.path().join("x.idem");
            let hears = Arc::new(Hears::default());
            let engine = Engine::options().observer(Arc::clone(&hears)).cache_bytes(0).open(&path).unwrap();
            let scope = default_scope(&engine);
            let memory = engine.policy().durability(Durability::Completions).recovery(Recovery::Rerun);
            let memory = engine.set_policy("in memory", memory).unwrap();
            fresh(&scope, "stored").complete("reply").unwrap();
            engine.checkpoint().unwrap();
            let theirs = fresh(&scope, "theirs");
            let Ok(Begin::InFlight(pending)) = scope.begin("theirs", request()) else { panic!("it is out") };
            let tools =
                Tools { engine: engine.clone(), scope: scope.clone(), claim: fresh(&scope, "mine"), pending };
            let (done, is_done) = sync_channel(1);
            let foreign = Arc::new(Foreign { work: Mutex::new(Some((act, tools))), done });
            *hears.0.lock().unwrap() = Some(Arc::clone(&foreign));
            drop(engine);
            // What it does after that may find the engine closed.
            thread::spawn(move || {
                provoke(place, &memory, &scope, &foreign);
                drop(theirs);
            });
            assert!(is_done.recv_timeout(WATCHDOG).unwrap_or_else(|_| panic!("closing at {place:?} hangs")));
            drop(hears);
            let started = Instant::now();
            while Engine::open(&path).is_err() {
                assert!(started.elapsed() < WATCHDOG, "closing at {place:?}: the file stays locked");
                thread::yield_now();
            }
        }
    }
}

/// A batch may have claims of any engine, also of the one whose thread it would wait for.
#[test]
fn a_batch_of_another_engine_with_claims_of_the_one_that_calls_returns() {
    let scratch = tempfile::tempdir().unwrap();
    let [engine, other] = ["x", "y"].map(|name| Engine::open(scratch.path().join(name)).unwrap());
    let scope = default_scope(&engine);
    let Ok(Begin::InFlight(pending)) = ({
        std::mem::forget(fresh(&scope, "theirs"));
        scope.begin("theirs", request())
    }) else {
        panic!("it is out")
    };
    let tools = Tools { engine: other, claim: fresh(&scope, "mine"), scope: scope.clone(), pending };
    let (done, is_done) = sync_channel(1);
    let act: Act = |tools| {
        let ended = tools.engine.complete_many(vec![(tools.claim, "reply")]);
        assert!(ended.iter().all(|ended| ended.as_ref().is_err_and(|error| is_refused(error.reason()))));
    };
    let foreign = Arc::new(Foreign { work: Mutex::new(Some((act, tools))), done });
    thread::spawn(move || provoke(Place::Pending, &scope, &scope, &foreign));
    assert!(is_done.recv_timeout(WATCHDOG).expect("the batch waits for its own thread"));
}

/// Each waker runs on a thread that commits for its engine, and calls the other engine.
#[test]
fn wakers_of_two_engines_that_call_each_other_return() {
    let calls: [fn(&Engine); 3] = [
        |engine| {
            let begun = default_scope(engine).begin("from a waker", request());
            assert!(begun.is_err_and(|error| matches!(error, BeginError::InsideCallback)));
        },
        |engine| drop(engine.flush().unwrap_err()),
        |engine| engine.checkpoint().unwrap(),
    ];
    for call in calls {
        let disk = SimDisk::new();
        let engines = ["a.idem", "b.idem"]
            .map(|path| Engine::options().disk(&disk).recovery(Recovery::Rerun).open(path).unwrap());
        // No commit is over before both begins wait for theirs.
        let (both_wait, may_sync) = sync_channel::<()>(1);
        let may_sync = Mutex::new(may_sync);
        disk.before_syncs(move |_| {
            // The other side is dropped.
            may_sync.lock().unwrap().recv().unwrap_err();
        });
        let both = Arc::new(Barrier::new(2));
        let (returned, returns) = sync_channel(2);
        let mut begins = Vec::new();
        for (one, other) in [(0, 1), (1, 0)] {
            let (both, returned, other) = (Arc::clone(&both), returned.clone(), engines[other].clone());
            let waker = Callback::waker(move || {
                both.wait();
                call(&other);
                returned.send(()).unwrap();
            });
            let scope = default_scope(&engines[one]);
            let mut begin = Box::pin(async move { scope.begin_async("key", request()).await });
            assert!(begin.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            begins.push(begin);
        }
        drop(both_wait);
        for _ in 0..2 {
            if returns.recv_timeout(WATCHDOG).is_err() {
                // Nothing here ever ends.
                begins.into_iter().for_each(std::mem::forget);
                std::mem::forget(engines);
                panic!("they wait for each other, or were answered otherwise");
            }
        }
    }
}
