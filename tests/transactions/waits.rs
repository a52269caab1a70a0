//! Waits inside the work of a transaction, which has the maintenance lock: none may be for
//! something that needs that lock.

use std::pin::{Pin, pin};
use std::sync::mpsc::{channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

use crate::common::{default_scope, done, fresh, poll, request, small};
use crate::helpers::{Anything, effect};
use futures_executor::block_on;
use idemkv::{
    Begin, BeginError, Claim, CommitError, Durability, Engine, Fault, Pending, Recovery, RunError, Scope,
    Waited,
};

const LONG: Duration = Duration::from_secs(600);

fn engine() -> (tempfile::TempDir, Engine) {
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    (scratch, engine)
}

/// Runs `call` on a thread of its own, and fails where that hangs.
#[track_caller]
fn in_time<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = sync_channel(1);
    thread::spawn(move || done.send(call()));
    is_done.recv_timeout(Duration::from_secs(60)).expect("it hangs")
}

#[track_caller]
fn pending(scope: &Scope, key: &str) -> Pending {
    match scope.begin(key, request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{key} should be in flight, is {other:?}"),
    }
}

type Ran = Result<Result<u64, String>, RunError<u64, String>>;

#[expect(clippy::unnecessary_wraps, reason = "an operation")]
fn seven(_: &mut Claim) -> Result<u64, Fault<String>> {
    Ok(7)
}

/// The results of every way to wait for the claim on this key, named.
fn waits(engine: &Engine, key: &str) -> Vec<(&'static str, Option<BeginError>)> {
    let scope = default_scope(engine);
    let spawn = |_task| unreachable!("the claim is another's");
    let ran = |ran: Ran| match ran {
        Err(RunError::Begin(error)) => Some(error),
        other => panic!("{other:?}"),
    };
    let pending = pending(&scope, key);
    vec![
        ("wait", pending.wait().err()),
        ("wait_timeout", pending.wait_timeout(LONG).err()),
        ("begin_or_wait", scope.begin_or_wait(key, request(), LONG).err()),
        ("run", ran(scope.run(key, request(), seven))),
        ("run_within", ran(scope.run_within(LONG, key, request(), seven))),
        ("wait_async", block_on(pending.wait_async()).err()),
        ("wait_timeout_async", block_on(pending.wait_timeout_async(LONG)).err()),
        ("await", block_on(async { pending.clone().await }).err()),
        ("begin_or_wait_async", block_on(scope.begin_or_wait_async(key, request(), LONG)).err()),
        ("run_async", ran(block_on(scope.run_async(key, request(), spawn, |_| Box::pin(async { Ok(7) }))))),
    ]
}

/// The other claim's holder waits for the maintenance lock, which the work has.
#[test]
fn work_that_would_wait_for_a_claim_whose_holder_waits_for_the_work_is_refused() {
    let (_scratch, engine) = engine();
    in_time(move || {
        let scope = default_scope(&engine);
        let (mine, theirs) = (fresh(&scope, "mine"), fresh(&scope, "theirs"));
        let (go, may_go) = channel();
        let holder = thread::spawn(move || {
            may_go.recv().unwrap();
            theirs.complete_in(|tables| effect(tables, "theirs")).unwrap();
        });
        mine.complete_in(|tables| {
            go.send(()).unwrap();
            for (way, refused) in waits(&engine, "theirs") {
                assert!(matches!(refused, Some(BeginError::InsideTransaction)), "{way}: {refused:?}");
            }
            // Nor is the read side of the file a way around.
            let read = engine.read_tables(|_| pending(&scope, "theirs").wait());
            assert!(matches!(read, Ok(Err(BeginError::InsideTransaction))), "{read:?}");
            // What need not wait is answered.
            let waited = pending(&scope, "theirs").wait_timeout(Duration::ZERO);
            assert!(matches!(waited, Ok(Waited::TimedOut)), "{waited:?}");
            effect(tables, "mine")
        })
        .unwrap();
        holder.join().unwrap();
        assert_eq!(done(&scope, "theirs").body(), b"effect 1");
        // Its thread waits as ever from here on.
        let claim = fresh(&scope, "later");
        let waiting = pending(&scope, "later");
        let waiting = thread::spawn(move || waiting.wait());
        claim.complete("reply").unwrap();
        assert!(matches!(waiting.join().unwrap(), Ok(Waited::Done(_))));
    });
}

#[test]
fn work_that_would_wait_for_its_own_claim_is_told_so() {
    let (_scratch, engine) = engine();
    in_time(move || {
        let scope = default_scope(&engine);
        fresh(&scope, "key")
            .complete_in(|tables| {
                for (way, refused) in waits(&engine, "key") {
                    assert!(matches!(refused, Some(BeginError::OwnKey)), "{way}: {refused:?}");
                }
                effect(tables, "key")
            })
            .unwrap();
        assert_eq!(done(&scope, "key").body(), b"effect 1");
    });
}

#[test]
fn a_wait_that_began_before_the_work_is_refused_inside_it_and_goes_on_after_it() {
    let (_scratch, engine) = engine();
    in_time(move || {
        let scope = default_scope(&engine);
        let (mine, theirs) = (fresh(&scope, "mine"), fresh(&scope, "theirs"));
        let waiting = pending(&scope, "theirs");
        let mut refused = pin!(waiting.wait_async());
        assert!(poll(refused.as_mut()).is_pending());
        mine.complete_in(|tables| {
            let refused = block_on(refused);
            assert!(matches!(refused, Err(BeginError::InsideTransaction)), "{refused:?}");
            effect(tables, "mine")
        })
        .unwrap();
        theirs.complete("reply").unwrap();
        assert!(matches!(block_on(waiting.wait_async()), Ok(Waited::Done(_))));
    });
}

#[test]
fn who_reads_tables_may_wait_for_a_claim() {
    let (_scratch, engine) = engine();
    in_time(move || {
        let scope = default_scope(&engine);
        let claim = fresh(&scope, "key");
        let holder = thread::spawn(move || drop(claim.complete_in(|tables| effect(tables, "key")).unwrap()));
        let waited = engine.read_tables(|_| {
            let waited = scope.begin_or_wait("key", request(), LONG);
            drop(block_on(scope.begin_or_wait_async("key", request(), LONG)).unwrap());
            waited
        });
        assert!(matches!(waited, Ok(Ok(Begin::Done(_)))), "{waited:?}");
        holder.join().unwrap();
    });
}

/// The close waits for the work, also where it began on another thread.
#[test]
fn a_close_that_began_elsewhere_is_answered_inside_the_work_and_inside_a_reader() {
    for reads in [false, true] {
        let (_scratch, engine) = engine();
        in_time(move || {
            let scope = default_scope(&engine);
            let (claim, _held) = (fresh(&scope, "key"), fresh(&scope, "held"));
            let mut close = Box::pin(engine.clone().close_async());
            let close_inside = || {
                thread::scope(|threads| {
                    threads.spawn(|| assert!(poll(close.as_mut()).is_pending())).join().unwrap();
                });
                block_on(close).unwrap().claims_left
            };
            let left = if reads {
                let left = engine.read_tables(|_| close_inside()).unwrap();
                drop(claim);
                left
            } else {
                let mut left = 0;
                let completed = claim.complete_in(|tables| {
                    left = close_inside();
                    effect(tables, "key")
                });
                assert_eq!(completed.unwrap().body(), b"effect 1");
                left
            };
            assert_eq!(left, 2);
            engine.close().unwrap();
        });
    }
}

/// A task that is polled where it is woken.
struct Inline(Mutex<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Wake for Inline {
    fn wake(self: Arc<Self>) {
        let waker = Waker::from(Arc::clone(&self));
        let mut task = self.0.lock().unwrap();
        let _ready = task.as_mut().poll(&mut Context::from_waker(&waker));
    }
}

/// Work that completes another claim wakes tasks on its own thread. They do not block that thread.
#[test]
fn a_task_that_is_woken_by_the_work_may_wait_for_another_claim() {
    let (_scratch, engine) = engine();
    in_time(move || {
        let scope = default_scope(&engine);
        let [mine, first, second] = ["mine", "first", "second"].map(|key| fresh(&scope, key));
        let (told, is_told) = channel();
        let tasks = ["first", "mine"].map(|key| {
            let (awaited, next, told) = (pending(&scope, key), pending(&scope, "second"), told.clone());
            let task = async move {
                told.send(awaited.await.map(|_| ())).unwrap();
                told.send(next.await.map(|_| ())).unwrap();
            };
            let task = Arc::new(Inline(Mutex::new(Box::pin(task))));
            Arc::clone(&task).wake();
            task
        });
        mine.complete_in(|tables| {
            first.complete("reply").unwrap();
            effect(tables, "mine")
        })
        .unwrap();
        second.complete("reply").unwrap();
        for told in is_told.iter().take(4) {
            assert!(told.is_ok(), "{told:?}");
        }
        drop(tasks);
    });
}

/// The work keeps checkpoints from coming, so once the log is as long as it may get, there is no
/// space to be waited for.
#[test]
fn work_for_which_the_log_is_full_is_told_so_at_once() {
    let scratch = tempfile::tempdir().unwrap();
    let options = small(Engine::options()).queue_timeout(LONG);
    let engine = options.open(scratch.path().join("x.idem")).unwrap();
    in_time(move || {
        let scope = default_scope(&engine);
        let claim = fresh(&scope, "key");
        let worked = claim.complete_in(|_| {
            let mut claims = Vec::new();
            for n in 0.. {
                match scope.begin(n.to_string(), request()) {
                    Ok(Begin::Fresh(claim)) => claims.push(claim),
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => {
                        assert!(matches!(error, BeginError::InsideTransaction), "{error}");
                        break;
                    }
                }
            }
            // The log has grown for them.
            assert!(claims.len() > 50, "{}", claims.len());
            let task = block_on(scope.begin_async("task", request()));
            assert!(matches!(task, Err(BeginError::InsideTransaction)), "{task:?}");
            let noted = claims[0].save_progress("note");
            let is_told =
                matches!(noted, Err(idemkv::ClaimError::Commit(CommitError::InsideTransaction)) | Ok(()));
            assert!(is_told, "{noted:?}");
            // The ends of claims have their space.
            claims.into_iter().try_for_each(Claim::release)?;
            Ok::<_, Anything>("reply")
        });
        worked.unwrap();
        fresh(&scope, "later").release().unwrap();
    });
}

/// Checkpoints the engine when it is woken, and says before that it is.
struct Checkpoints(Engine, Mutex<std::sync::mpsc::Sender<()>>);

impl Wake for Checkpoints {
    fn wake(self: Arc<Self>) {
        self.1.lock().unwrap().send(()).unwrap();
        drop(self.0.checkpoint());
    }
}

/// The waker ran on the thread that commits, and waited for the work. The work waited for a commit.
#[test]
fn a_begin_in_the_work_returns_though_a_waker_makes_a_checkpoint() {
    let (_scratch, engine) = engine();
    let scope = default_scope(&engine);
    let (claim, other) = (fresh(&scope, "claim"), fresh(&scope, "other"));
    let (tell, told) = channel();
    let waker = Waker::from(Arc::new(Checkpoints(engine.clone(), Mutex::new(tell))));
    let pending = pending(&scope, "other");
    let mut waits = Box::pin(async move { pending.wait_async().await.map(drop) });
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let begun = in_time(move || {
        claim.complete_in(|_| {
            thread::spawn(move || other.complete("reply").map(drop));
            told.recv().unwrap();
            let third = fresh(&default_scope(&engine), "third");
            third.release().unwrap();
            Ok::<_, ()>("body")
        })
    });
    assert!(begun.is_ok());
}

/// Runs where it is woken.
struct Calls(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Calls {
    fn waker(call: impl FnOnce() + Send + 'static) -> Waker {
        Waker::from(Arc::new(Self(Mutex::new(Some(Box::new(call))))))
    }
}

impl Wake for Calls {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().unwrap().take();
        if let Some(call) = call {
            call();
        }
    }
}

/// A checkpoint, and a batch for which the log has no room, in a waker.
fn batch_where_woken(engine: &Engine) -> (Waker, std::sync::mpsc::Receiver<Vec<Result<Begin, BeginError>>>) {
    let (tell, told) = channel();
    let engine = engine.clone();
    let call = move || {
        engine.checkpoint().unwrap();
        let requests: Vec<_> = (0..3_000).map(|key| (format!("many {key}"), request())).collect();
        tell.send(default_scope(&engine).begin_many(&requests)).unwrap();
    };
    (Calls::waker(call), told)
}

/// The commit of a transaction frees log space while its thread has the maintenance lock. A batch
/// in the waker of the task that gets the space would wait for that lock.
#[test]
fn a_batch_in_a_waker_that_a_transaction_calls_does_not_wait_for_the_transaction() {
    let scratch = tempfile::tempdir().unwrap();
    let options = small(Engine::options()).queue_timeout(LONG);
    let engine = options.open(scratch.path().join("x.idem")).unwrap();
    in_time(move || {
        let memory = engine.policy().durability(Durability::Completions).recovery(Recovery::Rerun);
        let (scope, memory) = (default_scope(&engine), engine.set_policy("in memory", memory).unwrap());
        // The log gets as long as it may.
        let requests: Vec<_> = (0..3_000).map(|key| (format!("before {key}"), request())).collect();
        for claim in memory.begin_many(&requests) {
            match claim {
                Ok(Begin::Fresh(claim)) => claim.release().unwrap(),
                other => assert!(matches!(other, Err(BeginError::Busy(_))), "{other:?}"),
            }
        }
        let (waker, told) = batch_where_woken(&engine);
        let claim = fresh(&scope, "key");
        let waiting = Mutex::new(None);
        let completed = claim.complete_in(|tables| {
            thread::scope(|threads| {
                let fill = || {
                    for key in 0.. {
                        let memory = memory.clone();
                        let mut begin: Pin<Box<dyn Future<Output = _> + Send>> =
                            Box::pin(async move { memory.begin_async(key.to_string(), request()).await });
                        match begin.as_mut().poll(&mut Context::from_waker(&waker)) {
                            Poll::Ready(Ok(Begin::Fresh(claim))) => drop(claim.complete("reply").unwrap()),
                            Poll::Ready(other) => panic!("{other:?}"),
                            Poll::Pending => return begin,
                        }
                    }
                    unreachable!("the log has a limit")
                };
                *waiting.lock().unwrap() = Some(threads.spawn(fill).join().unwrap());
            });
            effect(tables, "key")
        });
        completed.unwrap();
        for answer in told.recv().unwrap() {
            let is_told = matches!(answer, Ok(Begin::Fresh(_)) | Err(BeginError::InsideCallback));
            assert!(is_told, "{answer:?}");
        }
        assert!(matches!(block_on(waiting.into_inner().unwrap().unwrap()), Ok(Begin::Fresh(_))));
    });
}

/// Calls the engine when it is dropped.
struct Body(Scope, std::sync::mpsc::Sender<Result<(), ()>>);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        // More than a claim may have.
        &[7; 5_000]
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        let claim = fresh(&self.0, "in the drop");
        self.1
            .send(claim.complete_in(|tables| effect(tables, "in the drop")).map(drop).map_err(drop))
            .unwrap();
    }
}

#[test]
fn the_body_of_a_refused_transaction_is_dropped_once_the_transaction_is_over() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = small(Engine::options()).open(scratch.path().join("x.idem")).unwrap();
    in_time(move || {
        let scope = default_scope(&engine);
        let (tell, told) = channel();
        let refused = fresh(&scope, "key").complete_in(|_| Ok::<_, ()>(Body(scope.clone(), tell)));
        assert!(refused.is_err(), "its body is too long");
        told.recv().unwrap().unwrap();
    });
}

/// The transaction is over by then, so the waker's own is not refused.
#[test]
fn a_waker_that_is_told_of_a_transaction_runs_outside_of_it() {
    let (_scratch, engine) = engine();
    in_time(move || {
        let scope = default_scope(&engine);
        let (claim, other) = (fresh(&scope, "key"), fresh(&scope, "other"));
        let (tell, told) = channel();
        let waker = Calls::waker(move || {
            let completed = other.complete_in(|tables| effect(tables, "other"));
            tell.send(completed.map(drop).map_err(|error| error.to_string())).unwrap();
        });
        let waits = pending(&scope, "key");
        let mut waits = pin!(waits.wait_async());
        assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        claim.complete_in(|tables| effect(tables, "key")).unwrap();
        assert_eq!(told.recv().unwrap(), Ok(()));
    });
}
