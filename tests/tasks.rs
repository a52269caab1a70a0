//! Calls of tasks: they never block, they can be dropped at any point, and nobody is left waiting.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

mod common;

use std::panic::catch_unwind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use common::{Machine, TTL, default_scope, done, fresh, request, run, small};
use futures_executor::block_on;
use futures_util::future::join_all;
use idemkv::sim::DiskFault;
use idemkv::{
    Begin, BeginError, Busy, Claim, ClaimError, CommitError, CommitMode, Engine, Failure, Pending, Policy,
    Status, Waited,
};

/// Counts how often it was woken.
#[derive(Default)]
struct Count(AtomicUsize);

impl Count {
    fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
fn ready<F: Future>(future: Pin<&mut F>) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("should be ready"),
    }
}

#[track_caller]
fn pending(engine: &Engine) -> Pending {
    match engine.begin("key", request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("should be in flight, is {other:?}"),
    }
}

#[test]
fn a_task_claims_completes_and_replays() {
    let machine = Machine::default();
    let engine = machine.open();
    {
        let mut begin = pin!(engine.begin_async("key", request()));
        assert!(poll(begin.as_mut()).is_pending(), "a grant is not durable before its commit");
        engine.step();
        let Begin::Fresh(claim) = ready(begin.as_mut()).unwrap() else { panic!("fresh") };
        let mut complete = claim.complete_async("reply");
        assert!(poll(Pin::new(&mut complete)).is_pending(), "a completion is not durable before its commit");
        engine.step();
        assert_eq!(ready(Pin::new(&mut complete)).unwrap().body(), b"reply");
        let mut again = pin!(engine.begin_async("key", request()));
        assert!(matches!(ready(again.as_mut()), Ok(Begin::Done(record)) if record.body() == b"reply"));
    }
    machine.kill(engine);
    assert_eq!(done(&default_scope(&machine.open()), "key").body(), b"reply");
}

#[test]
fn what_tasks_queue_meanwhile_is_one_commit() {
    let machine = Machine::default();
    let engine = machine.open();
    let keys: Vec<String> = (0..10).map(|n| format!("key {n}")).collect();
    let mut begins: Vec<_> = keys.iter().map(|key| Box::pin(engine.begin_async(key, request()))).collect();
    for begin in &mut begins {
        assert!(poll(begin.as_mut()).is_pending());
    }
    engine.step();
    for begin in &mut begins {
        assert!(matches!(ready(begin.as_mut()), Ok(Begin::Fresh(_))));
    }
    let stats = engine.stats();
    assert_eq!((stats.commits, stats.committed_entries), (1, 10));
}

#[test]
fn a_task_waits_for_room_in_the_log_and_goes_on_once_there_is_some() {
    let machine = Machine::default();
    let engine = machine.options().log_bytes(128 << 10).open("x.idem").unwrap();
    let mut claims = Vec::new();
    loop {
        let key = format!("key {}", claims.len());
        let mut begin = Box::pin(engine.begin_async(key, request()));
        // Queued, or waiting for room.
        let stepped = poll(begin.as_mut()).is_pending().then(|| engine.step());
        match poll(begin.as_mut()) {
            Poll::Ready(Ok(Begin::Fresh(claim))) => claims.push(claim),
            Poll::Ready(other) => panic!("{other:?} after {stepped:?}"),
            Poll::Pending => {
                let count = Arc::new(Count::default());
                let waker = Waker::from(Arc::clone(&count));
                assert!(begin.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                claims.pop().unwrap().complete("reply").unwrap();
                engine.checkpoint().unwrap();
                assert!(count.get() > 0, "whoever makes room tells those who wait");
                let Begin::Fresh(claim) = common::run(&engine, begin.as_mut()).unwrap() else {
                    panic!("fresh")
                };
                drop((begin, claim));
                break;
            }
        }
    }
    assert!(claims.len() > 5);
}

#[test]
fn a_begin_dropped_before_it_is_polled_claims_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    drop(engine.begin_async("key", request()));
    assert!(matches!(engine.get("key"), Ok(Status::Vacant)));
}

#[test]
fn a_begin_dropped_while_its_grant_is_on_its_way_gives_the_claim_back() {
    let machine = Machine::default();
    let engine = machine.open();
    {
        let mut begin = Box::pin(engine.begin_async("key", request()));
        assert!(poll(begin.as_mut()).is_pending());
        let other = pending(&engine);
        drop(begin);
        engine.step();
        assert!(matches!(other.wait(), Ok(Waited::Vacant)), "who waited is told");
    }
    assert!(matches!(engine.get("key"), Ok(Status::Vacant)));
    assert_eq!(engine.stats().in_flight, 0);
    machine.kill(engine);
    let claim = fresh(&default_scope(&machine.open()), "key");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None), "nobody had run it");
}

#[test]
fn a_begin_dropped_after_an_interruption_keeps_the_interruption() {
    let machine = Machine::rerun();
    let engine = machine.open();
    drop(fresh(&default_scope(&engine), "key"));
    {
        let mut begin = Box::pin(engine.begin_async("key", request()));
        assert!(poll(begin.as_mut()).is_pending());
    }
    engine.step();
    assert!(matches!(engine.get("key"), Ok(Status::Interrupted(attempt)) if attempt.attempt() == 1));
    machine.kill(engine);
    let claim = fresh(&default_scope(&machine.open()), "key");
    assert_eq!(claim.interrupted().map(|earlier| earlier.attempt()), Some(1));
}

#[test]
fn a_begin_dropped_while_it_waits_for_the_queue_leaves_the_key_as_it_was() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let mut first = Box::pin(engine.begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    let mut second = Box::pin(engine.begin_async("second", request()));
    assert!(poll(second.as_mut()).is_pending());
    assert!(matches!(engine.get("second"), Ok(Status::InFlight(_))));
    drop(second);
    assert!(matches!(engine.get("second"), Ok(Status::Vacant)));
    engine.step();
    assert!(matches!(ready(first.as_mut()), Ok(Begin::Fresh(_))));
    assert_eq!(engine.stats().committed_entries, 1);
}

#[test]
fn a_task_waits_for_a_place_in_the_queue_and_no_longer_than_its_patience() {
    let machine = Machine::default();
    let patient = machine.options().queue_entries(1).open("x.idem").unwrap();
    let mut first = Box::pin(patient.begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    let mut second = Box::pin(patient.begin_async("second", request()));
    assert!(poll(second.as_mut()).is_pending());
    patient.step();
    assert!(poll(second.as_mut()).is_pending());
    patient.step();
    assert!(matches!(ready(second.as_mut()), Ok(Begin::Fresh(_))));

    let machine = Machine::default();
    let options = machine.options().queue_entries(1).queue_timeout(Duration::ZERO);
    let hasty = options.open("x.idem").unwrap();
    let mut first = Box::pin(hasty.begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    let mut second = pin!(hasty.begin_async("second", request()));
    let refused = ready(second.as_mut());
    assert!(matches!(refused, Err(BeginError::Busy(Busy::QueueFull { .. }))), "{refused:?}");
    assert!(matches!(hasty.get("second"), Ok(Status::Vacant)));
}

#[test]
fn a_completion_handed_over_is_carried_out_though_nobody_awaits_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claims = ["done", "failed", "released"].map(|key| fresh(&scope, key));
    let [to_complete, to_fail, to_release] = claims;
    drop(to_complete.complete_async("reply"));
    drop(to_fail.fail_async("no"));
    drop(to_release.release_async());
    assert!(matches!(engine.get("done"), Ok(Status::InFlight(_))), "not before it is durable");
    engine.step();
    assert_eq!((done(&scope, "done").body(), done(&scope, "failed").body()), (&b"reply"[..], &b"no"[..]));
    assert!(matches!(engine.get("released"), Ok(Status::Vacant)));
    assert_eq!(engine.stats().in_flight, 0);
    drop(scope);
    machine.kill(engine);
    assert_eq!(done(&default_scope(&machine.open()), "done").body(), b"reply");
}

#[test]
fn a_body_that_is_too_long_gives_the_claim_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let error = block_on(claim.complete_async(vec![0; 5_000])).unwrap_err();
    let claim = error.into_claim().expect("nothing was written");
    let mut complete = claim.complete_async("short");
    assert!(poll(Pin::new(&mut complete)).is_pending());
    engine.step();
    assert!(ready(Pin::new(&mut complete)).is_ok());
}

#[test]
fn a_waiting_task_wakes_however_the_claim_ends() {
    type End = fn(Engine, idemkv::Claim) -> Option<Engine>;
    let ends: [(&str, End); 5] = [
        ("done", |engine, claim| claim.complete("reply").map(|_| engine).ok()),
        ("failed", |engine, claim| claim.fail("reply").map(|_| engine).ok()),
        ("vacant", |engine, claim| claim.release().map(|()| engine).ok()),
        ("interrupted", |engine, claim| {
            drop(claim);
            Some(engine)
        }),
        ("closed", |engine, claim| {
            engine.close().unwrap();
            drop(claim);
            None
        }),
    ];
    for (name, end) in ends {
        let machine = Machine::default();
        let engine = machine.open();
        let claim = fresh(&default_scope(&engine), "key");
        let pending = pending(&engine);
        let (count, mut waiting) = (Arc::new(Count::default()), pin!(pending.wait_async()));
        let waker = Waker::from(Arc::clone(&count));
        assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        let engine = end(engine, claim);
        assert!(count.get() > 0, "{name}: not woken");
        let waited = ready(waiting.as_mut());
        match name {
            "done" | "failed" => {
                assert!(matches!(waited, Ok(Waited::Done(record)) if record.body() == b"reply"));
            }
            "vacant" => assert!(matches!(waited, Ok(Waited::Vacant))),
            "interrupted" => assert!(matches!(waited, Ok(Waited::Interrupted))),
            _ => assert!(matches!(waited, Err(BeginError::Closed))),
        }
        drop(engine);
    }
}

#[test]
fn waiting_tasks_are_told_of_a_failed_commit() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let pending = pending(&engine);
    let mut waiting = pin!(pending.wait_async());
    assert!(poll(waiting.as_mut()).is_pending());
    let mut begin = pin!(engine.begin_async("other", request()));
    assert!(poll(begin.as_mut()).is_pending());
    machine.disk.fail_syncs(Some("-wal"));
    engine.step();
    assert!(matches!(ready(waiting.as_mut()), Err(BeginError::Failed(Failure::Io(_)))));
    assert!(matches!(ready(begin.as_mut()), Err(BeginError::Failed(Failure::Io(_)))));
    drop(claim);
}

#[test]
fn a_wait_with_a_timeout_ends_with_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let _claim = fresh(&default_scope(&engine), "key");
    let pending = pending(&engine);
    assert!(matches!(block_on(pending.wait_timeout_async(Duration::ZERO)), Ok(Waited::TimedOut)));
    let mut waiting = pin!(pending.wait_timeout_async(Duration::from_secs(3_600)));
    assert!(poll(waiting.as_mut()).is_pending());
}

#[test]
fn the_worker_wakes_a_task_at_its_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    let _claim = fresh(&default_scope(&engine), "key");
    let pending = pending(&engine);
    let waited = block_on(pending.wait_timeout_async(Duration::from_millis(5)));
    assert!(matches!(waited, Ok(Waited::TimedOut)));
}

/// The log's growth is the worker's own work on the disk; whose operation panics depends on the threads, so each is tried.
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

/// Whether it was the worker who did the operation that panics, so many after the first claims, and the task timed out.
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
    let mut begin = pin!(engine.begin_async("key", request()));
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
fn a_key_is_forgotten_for_a_task_even_if_it_does_not_wait() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    {
        let mut forget = Box::pin(engine.forget_async("key"));
        assert!(poll(forget.as_mut()).is_pending());
    }
    engine.step();
    assert!(matches!(engine.get("key"), Ok(Status::Vacant)));
}

#[test]
fn many_tasks_on_a_real_file_with_the_engines_own_threads() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::options().commit_mode(CommitMode::Buffered).open(dir.path().join("x.idem")).unwrap();
    let effects: Vec<AtomicUsize> = (0..200).map(|_| AtomicUsize::new(0)).collect();
    let deliver = async |n: usize| {
        let key = format!("key {}", n % 200);
        loop {
            match engine.begin_async(&key, request()).await.unwrap() {
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

/// Drops a future as it is woken, as an executor that shuts down may.
struct Gone(std::sync::Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>);

impl Wake for Gone {
    fn wake(self: Arc<Self>) {
        let future = self.0.lock().unwrap().take();
        drop(future);
    }
}

#[test]
fn a_begin_may_be_dropped_by_the_waker_that_tells_of_a_failed_commit() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "first");
    // A group of its own, so that the begin is in the one behind it.
    let mut first = claim.complete_async(vec![b'x'; 4_000]);
    assert!(poll(Pin::new(&mut first)).is_pending());
    let theirs = engine.clone();
    let mut begin: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        drop(theirs.begin_async("key", request()).await);
    });
    let gone = Arc::new(Gone(std::sync::Mutex::default()));
    let waker = Waker::from(Arc::clone(&gone));
    assert!(begin.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    *gone.0.lock().unwrap() = Some(begin);
    machine.disk.fail_syncs(Some("-wal"));
    engine.step();
    assert!(gone.0.lock().unwrap().is_none(), "it was woken");
    assert!(ready(Pin::new(&mut first)).is_err());
    assert_eq!(engine.stats().in_flight, 0);
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

/// Runs something where it is woken: in the middle of a commit, on the thread that leads it.
struct Callback(std::sync::Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Callback {
    fn waker(call: impl FnOnce() + Send + 'static) -> Waker {
        Waker::from(Arc::new(Self(std::sync::Mutex::new(Some(Box::new(call))))))
    }
}

impl Wake for Callback {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().unwrap().take();
        if let Some(call) = call {
            call();
        }
    }
}

#[test]
fn a_thread_that_would_wait_for_a_place_in_the_queue_inside_a_waker_is_refused_whatever_its_patience() {
    for queue_timeout in [Duration::ZERO, Duration::from_millis(2)] {
        let machine = Machine::default();
        let engine = machine.options().queue_entries(1).queue_timeout(queue_timeout).open("x.idem").unwrap();
        let (theirs, (tell, told)) = (engine.clone(), std::sync::mpsc::channel());
        let waker = Callback::waker(move || {
            let mut next = Box::pin(theirs.begin_async("next", request()));
            assert!(poll(next.as_mut()).is_pending(), "it has the only place");
            tell.send(theirs.begin("key", request())).unwrap();
        });
        let mut first = pin!(engine.begin_async("first", request()));
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        engine.step();
        let refused = told.try_recv().unwrap();
        assert!(matches!(&refused, Err(BeginError::InsideCallback)), "{refused:?}");
        assert!(matches!(engine.get("key"), Ok(Status::Vacant)));
        assert!(matches!(ready(first.as_mut()), Ok(Begin::Fresh(_))));
    }
}

#[test]
fn a_thread_that_finds_no_place_leads_for_the_tasks_that_have_them() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).queue_timeout(Duration::ZERO).open("x.idem").unwrap();
    let mut first = pin!(engine.begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    drop(fresh(&default_scope(&engine), "second"));
    assert!(matches!(ready(first.as_mut()), Ok(Begin::Fresh(_))));
}

#[test]
fn long_entries_fill_the_queue_as_many_do() {
    let machine = Machine::default();
    let engine = machine.options().queue_bytes(4_096).open("x.idem").unwrap();
    let long = fresh(&default_scope(&engine), "long").complete_async(vec![0; 4_096]);
    let mut begin = pin!(engine.begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    engine.step();
    assert_eq!(block_on(long).unwrap().body().len(), 4_096);
    let commits = engine.stats().commits;
    assert!(poll(begin.as_mut()).is_pending(), "it had no place before");
    engine.step();
    assert!(matches!(ready(begin.as_mut()), Ok(Begin::Fresh(_))));
    assert_eq!(engine.stats().commits, commits + 1);
}

/// Nobody else could go on where a batch's thread has led for long enough.
#[test]
fn a_batch_gets_its_claims_however_many_commits_are_before_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let keys: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    for key in &keys {
        // Each too long to share a commit.
        drop(fresh(&scope, key).complete_async(vec![b'x'; 4_000]));
    }
    let results = scope.begin_many(&[("key", request())]);
    assert!(matches!(results.as_slice(), [Ok(Begin::Fresh(_))]));
    for key in &keys {
        assert_eq!(done(&scope, key).body().len(), 4_000);
    }
}

/// An engine whose claims have no room for a body promised, and claims that have all of its log.
fn full_log(machine: &Machine, queue_timeout: Duration) -> (Engine, Vec<Claim>) {
    let options =
        machine.options().reserve_bytes(0).log_bytes(128 << 10).cache_bytes(0).queue_timeout(queue_timeout);
    let engine = options.policy(Policy::default().ttl(TTL).lease(TTL)).open("x.idem").unwrap();
    let mut claims = Vec::new();
    while let Ok(Begin::Fresh(claim)) = engine.begin(claims.len().to_string(), request()) {
        claims.push(claim);
    }
    (engine, claims)
}

#[test]
fn a_body_longer_than_what_was_reserved_is_handed_over_once_it_is_awaited() {
    let machine = Machine::default();
    let engine = machine.options().reserve_bytes(0).open("x.idem").unwrap();
    let mut complete = fresh(&default_scope(&engine), "key").complete_async(vec![7; 4_000]);
    engine.step();
    assert!(matches!(engine.get("key"), Ok(Status::InFlight(_))), "there was no room for it");
    assert!(poll(Pin::new(&mut complete)).is_pending());
    engine.step();
    assert_eq!(ready(Pin::new(&mut complete)).unwrap().body(), [7; 4_000]);
}

#[test]
fn a_body_that_a_full_log_has_no_room_for_gives_the_claim_back() {
    let machine = Machine::default();
    let (engine, mut claims) = full_log(&machine, Duration::ZERO);
    let is_busy = |error: &idemkv::EndError| {
        matches!(error.reason(), ClaimError::Commit(CommitError::Busy(Busy::QueueFull { .. })))
    };
    let refused = claims.pop().unwrap().complete(vec![0; 4_000]).unwrap_err();
    assert!(is_busy(&refused), "{refused}");
    let refused = block_on(refused.into_claim().unwrap().complete_async(vec![0; 4_000])).unwrap_err();
    assert!(is_busy(&refused), "{refused}");
    let claim = refused.into_claim().unwrap();
    let many = engine.begin_many(&[("one", request()), ("two", request())]);
    assert!(many.iter().all(|one| matches!(one, Err(BeginError::Busy(Busy::QueueFull { .. })))), "{many:?}");
    // What every claim has is room to say that it came to something, or to nothing.
    claim.complete("").unwrap();
    engine.clone().close().unwrap();
    let closed = claims.pop().unwrap().complete(vec![0; 4_000]).unwrap_err();
    assert!(matches!(closed.reason(), ClaimError::Commit(CommitError::Closed)), "{closed}");
    assert!(closed.into_claim().is_some());
}

#[test]
fn what_still_waits_for_room_in_the_log_is_dropped_with_its_claim() {
    let machine = Machine::default();
    let (engine, mut claims) = full_log(&machine, Duration::from_secs(600));
    let scope = default_scope(&engine);
    let mut give_up = |wait: &dyn Fn(Claim)| {
        let key = (claims.len() - 1).to_string();
        wait(claims.pop().unwrap());
        assert!(matches!(scope.get(&key), Ok(Status::Interrupted(_))), "key {key}");
    };
    give_up(&|claim| assert!(poll(Box::pin(claim.into_token_async()).as_mut()).is_pending()));
    give_up(&|claim| {
        let mut complete = claim.complete_async(vec![0; 4_000]);
        assert!(poll(Pin::new(&mut complete)).is_pending());
    });
}

#[test]
fn the_end_of_a_claim_does_not_wait_for_a_place_in_the_queue() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let (completed, released) = (fresh(&scope, "completed"), fresh(&scope, "released"));
    let mut has_the_place = Box::pin(engine.begin_async("new", request()));
    assert!(poll(has_the_place.as_mut()).is_pending());
    let commits = engine.stats().commits;
    drop((completed.complete_async("reply"), released.release_async()));
    engine.step();
    assert_eq!(engine.stats().commits, commits + 1);
    drop(has_the_place);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(done(&default_scope(&engine), "completed").body(), b"reply");
    assert!(matches!(engine.get("released"), Ok(Status::Vacant)));
}

#[test]
fn a_task_that_waited_for_room_in_the_log_finds_what_others_did_meanwhile() {
    let machine = Machine::default();
    let (engine, mut claims) = full_log(&machine, Duration::from_secs(600));
    let scope = default_scope(&engine);
    let mut begin = Box::pin(engine.begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    for claim in claims.drain(..10) {
        claim.complete("").unwrap();
    }
    engine.checkpoint().unwrap();
    fresh(&scope, "key").complete("reply").unwrap();
    // From here on the record is on disk alone.
    engine.checkpoint().unwrap();
    let found = run(&engine, begin);
    assert!(matches!(&found, Ok(Begin::Done(record)) if record.body() == b"reply"), "{found:?}");
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
    let begun = block_on(engine.begin_async("begun", request()));
    assert!(matches!(begun, Ok(Begin::Done(record)) if record.body() == b"begun"));
    let status = block_on(engine.get_async("looked at"));
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
        let mut reads: Vec<_> = (0..=READS_MAX).map(|_| Box::pin(engine.get_async("key"))).collect();
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
    assert!(matches!(engine.begin("new", request()), Err(BeginError::Closed)));
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
    let begun = block_on(engine.begin_async("key", request()));
    assert!(matches!(begun, Err(BeginError::Failed(Failure::Panicked))), "{begun:?}");
    assert!(matches!(engine.close(), Err(Failure::Panicked)));
}

#[test]
fn a_failure_of_a_task_is_kept_as_its_completion_says() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let completion = idemkv::Completion::new().ttl(TTL / 2).discard_body();
    drop(fresh(&scope, "key").fail_with_async("declined", completion));
    engine.step();
    let record = done(&scope, "key");
    assert_eq!(
        (record.outcome(), record.is_body_kept(), record.body()),
        (idemkv::Outcome::Failure, false, &b""[..])
    );
    machine.clock.advance(TTL / 2);
    drop(fresh(&scope, "key"));
}
