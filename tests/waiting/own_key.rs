//! An operation never waits for itself: its own key run again inside it, and keys that come twice
//! in a batch.

use std::cell::RefCell;
use std::pin::pin;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use crate::common::{default_scope, done, fresh, request};
use futures_executor::block_on;
use idemkv::{Begin, BeginError, Claim, Engine, Fault, Fingerprint, RunError, Scope, Waited};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const LONG: Duration = Duration::from_secs(600);

type Ran = Result<Result<u64, String>, RunError<u64, String>>;

fn engine() -> (tempfile::TempDir, Engine) {
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    (scratch, engine)
}

/// Runs `call` on a thread of its own, and fails where that hangs.
fn in_time<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, is_done) = sync_channel(1);
    thread::spawn(move || done.send(call()));
    is_done.recv_timeout(Duration::from_secs(60)).expect("it waits for itself")
}

#[expect(clippy::unnecessary_wraps, reason = "an operation")]
fn seven(_: &mut Claim) -> Result<u64, Fault<String>> {
    Ok(7)
}

#[track_caller]
fn assert_own(ran: &Ran) {
    assert!(matches!(ran, Err(RunError::Begin(BeginError::OwnKey))), "{ran:?}");
}

#[test]
fn an_operation_that_runs_its_own_key_is_told_and_goes_on() {
    let (_scratch, engine) = engine();
    let scope = engine.scope("charges");
    let inner = scope.clone();
    let outer: Ran = in_time(move || {
        scope.run("key", request(), |_| {
            assert_own(&inner.run("key", request(), seven));
            assert_own(&inner.run_within(LONG, "key", request(), seven));
            let waited = inner.begin_or_wait("key", request(), LONG);
            assert!(matches!(waited, Err(BeginError::OwnKey)), "{waited:?}");
            let Ok(Begin::InFlight(pending)) = inner.begin("key", request()) else {
                panic!("it is in flight")
            };
            assert!(matches!(pending.wait(), Err(BeginError::OwnKey)));
            assert!(matches!(block_on(pending.wait_async()), Err(BeginError::OwnKey)));
            // Another key, and the same key in another scope, are other operations; they may nest.
            let nested: Ran = inner.run("other", request(), |_| {
                assert_own(&inner.run("key", request(), seven));
                Ok(5)
            });
            assert_eq!(nested.unwrap(), Ok(5));
            // A request that does not belong to the key is refused as such.
            let reused: Ran = inner.run("key", Fingerprint::of("another"), seven);
            assert!(matches!(reused, Err(RunError::Begin(BeginError::KeyReused))));
            Ok(7)
        })
    });
    assert_eq!(outer.unwrap(), Ok(7));
    assert_eq!(done(&engine.scope("charges"), "key").body(), b"7");
}

#[test]
fn after_an_operation_the_thread_waits_for_others_with_the_same_key_as_ever() {
    let (_scratch, engine) = engine();
    let scope = default_scope(&engine);
    let lost: Ran = scope.run("key", request(), |_| Err(Fault::Retry("nothing".to_owned())));
    assert!(matches!(lost, Err(RunError::Retry(_))));
    let claim = fresh(&scope, "key");
    let waiting = {
        let scope = scope.clone();
        thread::spawn(move || scope.run("key", request(), seven))
    };
    claim.complete("9").unwrap();
    let waited: Ran = waiting.join().unwrap();
    // It either waited or came after the completion.
    assert_eq!(waited.unwrap(), Ok(9));
}

#[test]
fn a_panic_in_an_operation_leaves_its_thread_unmarked() {
    let (_scratch, engine) = engine();
    let scope = default_scope(&engine);
    let operation = std::panic::AssertUnwindSafe(|| {
        let ran: Ran = scope.run("key", request(), |_| panic!("in the middle"));
        drop(ran);
    });
    std::panic::catch_unwind(operation).unwrap_err();
    scope.resolve("key").unwrap().complete("1").unwrap();
    let ran: Ran = scope.run("key", request(), seven);
    assert_eq!(ran.unwrap(), Ok(1));
}

#[test]
fn an_operation_of_a_task_that_awaits_its_own_key_is_told() {
    let (_scratch, engine) = engine();
    let scope = default_scope(&engine);
    let ran: Ran = in_time(move || {
        let inner = scope.clone();
        let spawn = |task| drop(thread::spawn(|| block_on(task)));
        block_on(scope.run_async("key", request(), spawn, move |_| {
            Box::pin(async move {
                let again = inner.run_async("key", request(), spawn, |_| Box::pin(async { Ok(5) })).await;
                assert_own(&again);
                // Blocking in there is no better.
                assert_own(&inner.run("key", request(), seven));
                let pending = inner.begin_or_wait_async("key", request(), LONG).await;
                assert!(matches!(pending, Err(BeginError::OwnKey)));
                Ok(7)
            })
        }))
    });
    assert_eq!(ran.unwrap(), Ok(7));
}

/// What a consumer of messages does with a batch: nobody waits for a claim of his own.
fn consume(scope: &Scope, engine: &Engine, keys: &[&str]) -> Vec<bool> {
    let requests: Vec<_> = keys.iter().map(|key| (*key, request())).collect();
    let mut is_done = vec![false; keys.len()];
    let (mut run, mut twins) = (Vec::new(), Vec::new());
    for (at, answer) in scope.begin_many(&requests).into_iter().enumerate() {
        match answer {
            Ok(Begin::Fresh(claim)) => run.push((at, (claim, "reply"))),
            Ok(Begin::Done(_)) => is_done[at] = true,
            Ok(Begin::InFlight(pending)) => is_done[at] = matches!(pending.wait(), Ok(Waited::Done(_))),
            Err(BeginError::DuplicateInBatch { first }) => twins.push((at, first)),
            Err(error) => panic!("{error}"),
        }
    }
    let (ran, claims): (Vec<_>, Vec<_>) = run.into_iter().unzip();
    for (at, stored) in ran.into_iter().zip(engine.complete_many(claims)) {
        is_done[at] = stored.is_ok();
    }
    for (at, first) in twins {
        assert!(first < at && keys[first] == keys[at]);
        is_done[at] = is_done[first];
    }
    is_done
}

#[test]
fn a_consumer_whose_batch_has_a_key_twice_never_waits_for_itself() {
    let (_scratch, engine) = engine();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("reply").unwrap();
    let consumed = in_time(move || consume(&scope, &engine, &["a", "b", "a", "done", "a", "done", "b"]));
    assert_eq!(consumed, [true; 7]);
}

#[test]
fn a_twin_is_told_apart_from_claims_of_others_from_other_requests_and_from_records() {
    let (_scratch, engine) = engine();
    let scope = default_scope(&engine);
    let theirs = fresh(&scope, "theirs");
    let other = Fingerprint::of("another request");
    let batch =
        [("a", request()), ("theirs", request()), ("a", other), ("a", request()), ("theirs", request())];
    let mut answers = scope.begin_many(&batch).into_iter();
    let Some(Ok(Begin::Fresh(first))) = answers.next() else { panic!("it is new") };
    let Some(Ok(Begin::InFlight(_))) = answers.next() else { panic!("somebody else has it") };
    let Some(Err(BeginError::KeyReused)) = answers.next() else { panic!("it is another request") };
    let Some(Err(twin @ BeginError::DuplicateInBatch { first: 0 })) = answers.next() else {
        panic!("it is a twin")
    };
    let Some(Ok(Begin::InFlight(_))) = answers.next() else { panic!("somebody else has it") };
    assert!(twin.to_string().contains("request 0") && !twin.is_retryable());
    first.complete("reply").unwrap();
    theirs.complete("reply").unwrap();
    let batch = [("a", request()), ("a", request())];
    assert!(scope.begin_many(&batch).iter().all(|answer| matches!(answer, Ok(Begin::Done(_)))));
}

#[test]
fn tasks_are_told_of_twins_too() {
    let (_scratch, engine) = engine();
    let scope = default_scope(&engine);
    let batch = [("a", request()), ("a", request())];
    let answers = block_on(pin!(scope.begin_many_async(&batch)));
    assert!(matches!(
        answers.as_slice(),
        [Ok(Begin::Fresh(_)), Err(BeginError::DuplicateInBatch { first: 0 })]
    ));
}

thread_local! {
    static SCOPE: RefCell<Option<Scope>> = const { RefCell::new(None) };
}

/// A result that looks for its own key, each time that it is written or read.
#[derive(Debug)]
struct Curious;

impl Curious {
    fn looks() {
        SCOPE.with_borrow(|scope| {
            let Some(scope) = scope else { return };
            let again = scope.begin_or_wait("key", request(), Duration::ZERO);
            assert!(matches!(again, Err(BeginError::OwnKey)), "{again:?}");
        });
    }
}

impl Serialize for Curious {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::looks();
        serializer.serialize_u8(7)
    }
}

impl<'de> Deserialize<'de> for Curious {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::looks();
        u8::deserialize(deserializer).map(|_| Self)
    }
}

#[test]
fn a_result_that_runs_its_own_key_as_it_is_written_is_told() {
    let (_scratch, engine) = engine();
    let scope = engine.scope("charges");
    SCOPE.set(Some(scope.clone()));
    let ran: Result<Result<Curious, String>, RunError<Curious, String>> =
        scope.run("key", request(), |_| Ok(Curious));
    SCOPE.set(None);
    assert!(matches!(ran, Ok(Ok(Curious))), "{ran:?}");
}
