//! What the engine's own threads do for tasks, and what tasks may do to them.

use std::panic::catch_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use crate::common::{Machine, default_scope, done, fresh, request, run, small};
use crate::helpers::{Callback, Gone, pending, poll, ready};
use futures_executor::block_on;
use futures_util::future::join_all;
use idemkv::sim::DiskFault;
use idemkv::{Begin, BeginError, CommitMode, Engine, Failure, Status, Waited};

#[test]
fn the_worker_wakes_a_task_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    let _claim = fresh(&default_scope(&engine), "key");
    let pending = pending(&engine);
    let waited = block_on(pending.wait_timeout_async(Duration::from_millis(5)));
    assert!(matches!(waited, Ok(Waited::TimedOut)));
}

/// The log's growth is the worker's own work on the disk; whose operation panics depends on the
/// threads, so each is tried.
#[test]
fn a_task_is_woken_at_its_deadline_by_a_worker_that_panicked() {
    let (timed_out, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for ahead in 0..200 {
            // The caller's own operation may be the one that panics.
            if let Ok(true) = catch_unwind(|| a_task_times_out_where_the_worker_panics(ahead)) {
                timed_out.send(()).unwrap();
            }
        }
    });
    end.recv_timeout(Duration::from_secs(60)).expect("no worker panicked, or a task was never woken");
}

/// Whether it was the worker who did the operation that panics, so many after the first claims,
/// and the task timed out.
fn a_task_times_out_where_the_worker_panics(ahead: u64) -> bool {
    let machine = Machine::default();
    let options = small(Engine::options()).disk(&machine.disk).queue_timeout(Duration::from_millis(10));
    let engine = options.open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let (_claim, whole) = (fresh(&scope, "key"), fresh(&scope, "whole"));
    let pending = pending(&engine);
    machine.disk.fault_at(machine.disk.operations() + ahead, DiskFault::Panic);
    let _claims: Vec<_> = (0..100).map_while(|n| scope.begin(n.to_string(), request()).ok()).collect();
    // A panic in a commit ends the log; one of the worker leaves it whole.
    matches!(scope.begin("new", request()), Err(BeginError::Failed(Failure::Panicked)))
        && whole.complete("reply").is_ok()
        && matches!(block_on(pending.wait_timeout_async(Duration::from_millis(5))), Ok(Waited::TimedOut))
}

#[test]
fn a_record_on_disk_is_read_for_a_task_by_somebody_else() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    engine.close().unwrap();
    let engine = machine.open();
    let mut begin = pin!(engine.default_scope().begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending(), "a task does not read");
    engine.step();
    assert!(matches!(ready(begin.as_mut()), Ok(Begin::Done(record)) if record.body() == b"reply"));

    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    engine.close().unwrap();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let mut begin = pin!(scope.get_async("key"));
    assert!(poll(begin.as_mut()).is_pending());
    engine.close().unwrap();
    assert!(ready(begin.as_mut()).is_err(), "a closed engine answers");
}

#[test]
fn many_tasks_on_a_real_file_with_the_engines_own_threads() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::options().commit_mode(CommitMode::Buffered).open(dir.path().join("x.idem")).unwrap();
    let effects: Vec<AtomicUsize> = (0..200).map(|_| AtomicUsize::new(0)).collect();
    let deliver = async |n: usize| {
        let key = format!("key {}", n % 200);
        loop {
            match engine.default_scope().begin_async(&key, request()).await.unwrap() {
                Begin::Fresh(claim) => {
                    effects[n % 200].fetch_add(1, Ordering::SeqCst);
                    return drop(claim.complete_async(&key).await.unwrap());
                }
                Begin::InFlight(pending) => drop(pending.await.unwrap()),
                Begin::Done(record) => return assert_eq!(record.body(), key.as_bytes()),
            }
        }
    };
    block_on(join_all((0..2_000).map(deliver)));
    assert!(effects.iter().all(|effects| effects.load(Ordering::SeqCst) == 1));
    engine.close().unwrap();
}

/// Drops the last handle on an engine where its own thread wakes it.
struct Last(std::sync::Mutex<Option<Engine>>);

impl Wake for Last {
    fn wake(self: Arc<Self>) {
        drop(self.0.lock().unwrap().take());
    }
}

#[test]
fn the_last_handle_may_go_on_one_of_the_engines_own_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let claim = fresh(&default_scope(&engine), "key");
    let pending = pending(&engine);
    let last = Arc::new(Last(std::sync::Mutex::new(Some(engine.clone()))));
    let waker = Waker::from(Arc::clone(&last));
    let mut waiting = Box::pin(pending.into_future());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let complete = claim.complete_async("reply");
    drop(engine);
    drop((complete, waker));
    // The future of the one who waits holds a handle too.
    while last.0.lock().unwrap().is_some() {
        std::thread::yield_now();
    }
    drop(waiting);
    let engine = loop {
        match Engine::open(&path) {
            Ok(engine) => break engine,
            Err(idemkv::OpenError::Locked(_)) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(done(&default_scope(&engine), "key").body(), b"reply");
}

#[test]
fn the_engines_own_threads_read_for_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Engine::open(dir.path().join("x.idem")).unwrap();
    let engine = open();
    for key in ["begun", "looked at"] {
        fresh(&default_scope(&engine), key).complete(key).unwrap();
    }
    engine.close().unwrap();
    let engine = open();
    let begun = block_on(engine.default_scope().begin_async("begun", request()));
    assert!(matches!(begun, Ok(Begin::Done(record)) if record.body() == b"begun"));
    let status = block_on(engine.default_scope().get_async("looked at"));
    assert!(matches!(status, Ok(Status::Done(record)) if record.body() == b"looked at"));
    assert_eq!(engine.stats().loaded, 2);
}

#[test]
fn as_many_reads_wait_as_may_and_those_behind_them_have_their_turn_or_are_told_of_the_end() {
    const READS_MAX: usize = 1_024;
    for closes in [false, true] {
        let machine = Machine::default();
        let engine = machine.open();
        fresh(&default_scope(&engine), "key").complete("reply").unwrap();
        engine.close().unwrap();
        let engine = machine.open();
        let mut reads: Vec<_> =
            (0..=READS_MAX).map(|_| Box::pin(engine.default_scope().get_async("key"))).collect();
        assert!(reads.iter_mut().all(|read| poll(read.as_mut()).is_pending()));
        if closes {
            engine.clone().close().unwrap();
            for mut read in reads {
                assert!(matches!(ready(read.as_mut()), Err(idemkv::ReadError::Closed)));
            }
        } else {
            engine.step();
            let mut last = reads.pop().unwrap();
            assert!(poll(last.as_mut()).is_pending());
            for mut read in reads {
                assert!(matches!(ready(read.as_mut()), Ok(Status::Done(_))));
            }
            assert!(matches!(run(&engine, last), Ok(Status::Done(_))));
        }
    }
}

/// Opens a file that is being closed by somebody else.
fn open_once_closed(path: &std::path::Path) -> Engine {
    loop {
        match Engine::open(path) {
            Ok(engine) => return engine,
            Err(idemkv::OpenError::Locked(_)) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn an_engine_may_be_closed_by_one_of_its_own_threads() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let claim = fresh(&default_scope(&engine), "key");
    let pending = pending(&engine);
    let (theirs, (tell, told)) = (engine.clone(), std::sync::mpsc::channel());
    let waker = Callback::waker(move || tell.send(theirs.close()).unwrap());
    let mut waiting = Box::pin(pending.into_future());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    drop(claim.complete_async("reply"));
    told.recv().unwrap().unwrap();
    let reopened = open_once_closed(&path);
    assert_eq!(done(&default_scope(&reopened), "key").body(), b"reply");
    assert!(matches!(engine.default_scope().begin("new", request()), Err(BeginError::Closed)));
}

#[test]
fn the_last_handle_may_go_with_a_task_that_one_of_the_engines_own_threads_drops() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let jobs = engine.set_policy("jobs", engine.policy().lease(Duration::from_secs(600))).unwrap();
    let token = fresh(&jobs, "key").into_token().unwrap();
    let Ok(Begin::InFlight(pending)) = jobs.begin("key", request()) else { panic!("it is out") };
    let mut waiting: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        drop(pending.wait_timeout_async(Duration::from_millis(20)).await);
    });
    let gone = Arc::new(Gone(std::sync::Mutex::default()));
    let waker = Waker::from(Arc::clone(&gone));
    // Nobody is woken before the task has the last handle.
    let mut place = gone.0.lock().unwrap();
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    *place = Some(waiting);
    drop((engine, jobs, waker));
    drop(place);
    let engine = open_once_closed(&path);
    assert!(gone.0.lock().unwrap().is_none(), "it was woken");
    engine.scope("jobs").resume(&token).unwrap().complete("reply").unwrap();
}

#[test]
fn closing_reports_that_one_of_the_engines_own_threads_panicked() {
    let machine = Machine::default();
    let engine = small(Engine::options()).disk(&machine.disk).open("x.idem").unwrap();
    machine.disk.fault_at(machine.disk.operations(), DiskFault::Panic);
    let begun = block_on(engine.default_scope().begin_async("key", request()));
    assert!(matches!(begun, Err(BeginError::Failed(Failure::Panicked))), "{begun:?}");
    assert!(matches!(engine.close(), Err(Failure::Panicked)));
}
