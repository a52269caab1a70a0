//! Closes of an engine that has failed: what no caller ever had is not interrupted.

use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::common::{Machine, default_scope, fresh, poll, ready, request};
use idemkv::sim::CrashKind;
use idemkv::{Begin, BeginError, Engine, Failure, ResolveError, Status};

fn fail_a_checkpoint(machine: &Machine, engine: &Engine) {
    machine.disk.fail_syncs(Some(".idem"));
    assert!(engine.checkpoint().is_err());
    machine.disk.fail_syncs(None);
}

/// Claims are on their way to tasks that are not polled any more when a checkpoint fails and the
/// engine closes. The log is intact.
#[test]
fn a_close_after_a_failed_checkpoint_interrupts_no_key_whose_claim_no_caller_had() {
    for (is_written, crashes) in [(false, false), (true, false), (false, true), (true, true)] {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        drop(fresh(&scope, "before"));
        let leased = engine.set_policy("leased", engine.policy().lease(crate::common::TTL)).unwrap();
        let requests = [("first", request()), ("second", request())];
        let mut single = pin!(scope.begin_async("key", request()));
        let mut lease = pin!(leased.begin_async("key", request()));
        let mut batch = pin!(scope.begin_many_async(&requests));
        let mut resolve = pin!(scope.resolve_async("before"));
        let _held = fresh(&scope, "held");
        assert!(poll(single.as_mut()).is_pending() && poll(lease.as_mut()).is_pending());
        assert!(poll(batch.as_mut()).is_pending() && poll(resolve.as_mut()).is_pending());
        if is_written {
            engine.flush().unwrap();
        }
        fail_a_checkpoint(&machine, &engine);
        assert!(engine.clone().close().is_err(), "it says that a checkpoint failed");
        for refused in [ready(single.as_mut()), ready(lease.as_mut())] {
            assert!(matches!(refused, Err(BeginError::Closed)), "{refused:?}");
        }
        assert!(ready(batch.as_mut()).iter().all(|refused| matches!(refused, Err(BeginError::Closed))));
        let refused = ready(resolve.as_mut());
        assert!(matches!(refused, Err(ResolveError::Begin(BeginError::Closed))), "{refused:?}");
        if crashes {
            machine.disk.reboot(CrashKind::DropAll);
        }

        let engine = machine.open();
        for (scope, key) in [("", "key"), ("leased", "key"), ("", "first"), ("", "second")] {
            let found = engine.scope(scope).get(key).unwrap();
            assert!(matches!(found, Status::Vacant), "{is_written}: {key} of {scope:?} is {found:?}");
        }
        let Status::Interrupted(before) = engine.default_scope().get("before").unwrap() else { panic!() };
        assert_eq!(before.attempt(), 1);
        let Status::Interrupted(held) = engine.default_scope().get("held").unwrap() else { panic!() };
        assert_eq!(held.attempt(), 1, "its caller may have begun");
        engine.close().unwrap();
    }
}

/// Polls a begin where it is woken.
struct PollsBegin(Mutex<Option<Begins>>);

type Begins = Pin<Box<dyn Future<Output = Result<Begin, BeginError>> + Send>>;

impl Wake for PollsBegin {
    fn wake(self: Arc<Self>) {
        if let Some(begin) = &mut *self.0.lock().unwrap() {
            let polled = poll(begin.as_mut());
            assert!(!matches!(polled, Poll::Ready(Ok(_))), "{polled:?}");
        }
    }
}

/// It waits for a place in the queue, and is polled once the close has withdrawn its grant. Were its
/// intent queued now, it would follow its own end in the log.
#[test]
fn a_begin_that_is_polled_in_the_middle_of_a_close_leaves_no_trace_in_the_log() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(2).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let begin = || -> Begins {
        let scope = scope.clone();
        Box::pin(async move { scope.begin_async("key", request()).await })
    };
    let claims = ["first", "second"].map(|key| fresh(&scope, key));
    let ends = claims.map(|claim| claim.complete_async("reply"));
    let mut waits_for_queue = begin();
    assert!(poll(waits_for_queue.as_mut()).is_pending());
    let Ok(Begin::InFlight(pending)) = ready(begin().as_mut()) else { panic!("it is on its way") };
    // It makes places in the queue.
    engine.flush().unwrap();
    drop(ends);
    let waker = Waker::from(Arc::new(PollsBegin(Mutex::new(Some(waits_for_queue)))));
    let mut waits = pin!(pending.wait_async());
    assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());

    // The last checkpoint fails, so that only the log says what became of it.
    machine.disk.fail_syncs(Some(".idem"));
    assert!(engine.clone().close().is_err());
    machine.disk.fail_syncs(None);
    let told = ready(waits.as_mut());
    assert!(matches!(told, Err(BeginError::Closed)), "{told:?}");
    let found = machine.open().default_scope().get("key").unwrap();
    assert!(matches!(found, Status::Vacant), "{found:?}");
}

/// Where the log itself has failed, nothing can be written: only the next opening decides.
#[test]
fn a_close_after_a_failed_commit_says_so_and_what_was_on_its_way_may_be_interrupted() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let mut begin = pin!(scope.begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    engine.flush().unwrap();
    let claim = fresh(&scope, "claim");
    machine.disk.fail_syncs(Some("-wal"));
    assert!(claim.complete("unknown").is_err());
    machine.disk.fail_syncs(None);
    assert!(engine.clone().close().is_err());
    assert!(matches!(ready(begin.as_mut()), Err(BeginError::Closed | BeginError::Failed(_))));
    let found = machine.open().default_scope().get("key").unwrap();
    assert!(matches!(found, Status::Interrupted(_)), "{found:?}");
}

/// A close inside a transaction returns before the engine is closed, with what is out by then.
#[test]
fn a_claim_on_its_way_is_not_counted_among_those_that_a_close_leaves() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let (claim, _held) = (fresh(&scope, "key"), fresh(&scope, "held"));
    fresh(&scope, "forgotten").complete("reply").unwrap();
    let mut begin = pin!(scope.begin_async("on its way", request()));
    assert!(poll(begin.as_mut()).is_pending());
    let mut forgetting = pin!(scope.forget_async("forgotten"));
    let again = engine.clone();
    claim
        .complete_in(|_| {
            assert!(poll(forgetting.as_mut()).is_pending());
            // Its own, and the one that is held.
            assert_eq!(again.close().unwrap().claims_left, 2);
            Ok::<_, String>("reply")
        })
        .unwrap();
    assert_eq!(engine.close().unwrap().claims_left, 1);
}

/// Each durable commit of the store costs two syncs, and in a large file megabytes. The last
/// checkpoint has none of its own.
#[test]
fn the_last_checkpoint_and_the_close_of_the_store_are_one_durable_commit() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    let syncs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&syncs);
    machine.disk.before_syncs(move |path| {
        counted.fetch_add(usize::from(!path.ends_with("-wal")), Ordering::Relaxed);
    });
    engine.close().unwrap();
    let syncs = syncs.load(Ordering::Relaxed);
    assert!((2..=SYNCS_OF_A_CLOSE).contains(&syncs), "{syncs} syncs");
    machine.disk.reboot(CrashKind::DropAll);
    let found = machine.open().default_scope().get("key").unwrap();
    assert!(matches!(found, Status::Done(_)), "{found:?}");
}

/// Two of the commit, one of the file that it made shorter, one of the mark that it was closed.
const SYNCS_OF_A_CLOSE: usize = 4;

/// The close of the store fails after the last checkpoint was written.
#[test]
fn a_checkpoint_is_not_stored_before_the_store_is_closed() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    machine.disk.fail_syncs(Some(".idem"));
    assert!(engine.clone().close().is_err());
    let stored = engine.checkpoint();
    assert!(matches!(stored, Err(Failure::Io(_))), "{stored:?}");
    machine.disk.fail_syncs(None);
    machine.disk.reboot(CrashKind::DropAll);
    let found = machine.open().default_scope().get("key").unwrap();
    assert!(matches!(found, Status::Done(_)), "the log has it: {found:?}");
}

/// redb makes no commit in a thread that panics.
#[test]
fn an_engine_that_a_panic_drops_leaves_a_file_that_needs_no_log() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _last = engine;
        panic!("a handler's");
    }));
    assert!(unwound.is_err());
    assert!(machine.disk.remove(Path::new("x.idem-wal")));
    machine.disk.reboot(CrashKind::DropAll);
    let found = machine.open().default_scope().get("key").unwrap();
    assert!(matches!(found, Status::Done(_)), "{found:?}");
}

/// The engine fails between the commit of a grant and the poll for which its task comes late.
#[test]
fn no_claim_arrives_after_the_engine_has_failed() {
    type Fail = fn(&Machine, &Engine);
    let ways: [Fail; 3] = [
        |machine, engine| {
            machine.disk.fail_syncs(Some("-wal"));
            assert!(default_scope(engine).begin("behind", request()).is_err());
            machine.disk.fail_syncs(None);
        },
        fail_a_checkpoint,
        |machine, engine| {
            assert!(machine.disk.rename(Path::new("x.idem"), Path::new("y.idem")));
            machine.clock.advance(std::time::Duration::from_secs(2));
            engine.step();
        },
    ];
    for (way, fail) in ways.into_iter().enumerate() {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        drop(fresh(&scope, "before"));
        let requests = [("first", request()), ("second", request())];
        let mut single = pin!(scope.begin_async("key", request()));
        let mut batch = pin!(scope.begin_many_async(&requests));
        let mut resolve = pin!(scope.resolve_async("before"));
        assert!(poll(single.as_mut()).is_pending() && poll(batch.as_mut()).is_pending());
        assert!(poll(resolve.as_mut()).is_pending());
        engine.flush().unwrap();
        fail(&machine, &engine);
        assert!(engine.stats().has_failed, "{way}");
        let answer = ready(single.as_mut());
        assert!(matches!(answer, Err(BeginError::Failed(_))), "{way}: {answer:?}");
        let answers = ready(batch.as_mut());
        assert!(
            answers.iter().all(|answer| matches!(answer, Err(BeginError::Failed(_)))),
            "{way}: {answers:?}"
        );
        let answer = ready(resolve.as_mut());
        assert!(matches!(answer, Err(ResolveError::Begin(BeginError::Failed(_)))), "{way}: {answer:?}");
    }
}

/// The second of its commits fails.
#[test]
fn a_batch_of_which_a_commit_fails_grants_nothing() {
    let keys: Vec<_> = (0..60).map(|n| (format!("{n:0>100}"), request())).collect();
    let syncs = Arc::new(AtomicUsize::new(0));
    let machine = Machine::default();
    let engine = machine.options().batch_bytes(4_096).open("x.idem").unwrap();
    let (count, disk) = (Arc::clone(&syncs), machine.disk.clone());
    machine.disk.before_syncs(move |path| {
        if path.ends_with("-wal") && count.fetch_add(1, Ordering::Relaxed) == 1 {
            disk.fail_syncs(Some("-wal"));
        }
    });
    let answers = default_scope(&engine).begin_many(&keys);
    assert!(syncs.load(Ordering::Relaxed) >= 2, "the batch is one commit");
    assert!(answers.iter().all(|answer| matches!(answer, Err(BeginError::Failed(_)))), "{answers:?}");
}
