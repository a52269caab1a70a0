//! Observers that wait for claims. The thread that tells an observer may have claims in hand that
//! its caller does not have yet, so a wait for one of them would never end.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::{Context, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Machine, default_scope, fresh, request};
use idemkv::{Begin, BeginError, Claim, Engine, Event, Observer, Record, Scope};

const LONG: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(10);
const WATCHDOG: Duration = Duration::from_secs(60);

/// Waits for a key whenever it is told of anything, and notes what it was answered.
#[derive(Default)]
struct Waits {
    /// Not there while it waits, nor before it is to.
    scope: Mutex<Option<Scope>>,
    answers: Mutex<Vec<(&'static str, Result<Begin, BeginError>)>>,
}

impl Waits {
    fn wait(&self, told: &'static str) {
        let Some(scope) = self.scope.lock().unwrap().take() else { return };
        let answer = scope.begin_or_wait("key", request(), LONG);
        self.answers.lock().unwrap().push((told, answer));
        *self.scope.lock().unwrap() = Some(scope);
    }

    /// What it was told of, and that it waited for nothing.
    fn take(&self) -> Vec<&'static str> {
        let answers = std::mem::take(&mut *self.answers.lock().unwrap());
        let was_refused = |(told, answer): (_, Result<Begin, BeginError>)| {
            assert!(matches!(answer, Err(BeginError::InsideCallback)), "{told}: {answer:?}");
            told
        };
        answers.into_iter().map(was_refused).collect()
    }
}

impl Observer for Waits {
    fn event(&self, event: &Event<'_>) {
        self.wait(event.name());
    }

    fn replayed(&self, _: &Record) {
        self.wait("replayed");
    }
}

#[test]
fn an_observer_that_waits_for_a_claim_is_refused_whatever_it_is_told() {
    let (done, is_done) = channel();
    let helper = thread::spawn(move || {
        let scratch = tempfile::tempdir().unwrap();
        let waits = Arc::new(Waits::default());
        let engine =
            Engine::options().observer(Arc::clone(&waits)).open(scratch.path().join("x.idem")).unwrap();
        let scope = default_scope(&engine);
        fresh(&scope, "done").complete("reply").unwrap();
        drop(fresh(&scope, "lost"));
        *waits.scope.lock().unwrap() = Some(scope.clone());
        let claim = fresh(&scope, "key");
        assert_eq!(waits.take(), ["granted"]);
        drop(scope.begin("done", request()));
        assert_eq!(waits.take(), ["replayed"]);
        drop(scope.begin("lost", request()));
        assert_eq!(waits.take(), ["refused"]);
        let other = fresh(&scope, "other");
        assert_eq!(waits.take(), ["granted"]);
        other.complete("reply").unwrap();
        assert_eq!(waits.take(), ["ended"]);
        drop(fresh(&scope, "dropped"));
        assert_eq!(waits.take(), ["granted", "interrupted"]);
        claim.release().unwrap();
        drop(waits.scope.lock().unwrap().take());
        waits.answers.lock().unwrap().clear();
        // The first claim is there when the observer is told of the other key.
        *waits.scope.lock().unwrap() = Some(scope.clone());
        let answers = scope.begin_many(&[("key", request()), ("lost", request())]);
        assert!(matches!(answers[..], [Ok(Begin::Fresh(_)), Err(BeginError::Unresolved(_))]), "{answers:?}");
        assert_eq!(waits.take(), ["granted", "refused"]);
        drop(waits.scope.lock().unwrap().take());
        drop(answers);
        done.send(()).unwrap();
    });
    // A panic of the helper is told by its join.
    let is_over = is_done.recv_timeout(WATCHDOG).is_ok() || helper.is_finished();
    assert!(is_over, "an observer waits for a claim that its own thread has");
    helper.join().unwrap();
}

/// Has a task with a deadline that is over once the first lease has ended; counts the leases that end
/// before the deadline is told.
#[derive(Default)]
struct Counts {
    scope: Mutex<Option<Scope>>,
    call: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
    leases: AtomicUsize,
    leases_before: Arc<OnceLock<usize>>,
}

struct Told(Weak<Counts>);

impl Wake for Told {
    fn wake(self: Arc<Self>) {
        let counts = self.0.upgrade().unwrap();
        counts.leases_before.set(counts.leases.load(Ordering::SeqCst)).ok();
    }
}

struct CountsLeases(Arc<Counts>);

impl Observer for CountsLeases {
    fn event(&self, event: &Event<'_>) {
        if !matches!(event, Event::Interrupted { .. }) {
            return;
        }
        self.0.leases.fetch_add(1, Ordering::SeqCst);
        let Some(scope) = self.0.scope.lock().unwrap().take() else { return };
        let waits = async move { drop(scope.begin_or_wait_async("held", request(), MOMENT).await) };
        let mut call: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(waits);
        let waker = Waker::from(Arc::new(Told(Arc::downgrade(&self.0))));
        assert!(call.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        *self.0.call.lock().unwrap() = Some(call);
        let started = Instant::now();
        while started.elapsed() <= MOMENT {}
    }
}

/// Many leases end together, as after a sleep of the machine, and the observer takes its time.
#[test]
fn a_deadline_is_told_while_many_leases_end() {
    const LEASES: usize = 1_000;
    let (machine, counts) = (Machine::rerun(), Arc::new(Counts::default()));
    let options = machine.options().observer(Arc::new(CountsLeases(Arc::clone(&counts))));
    let engine = options.log_bytes(64 << 20).open("x.idem").unwrap();
    let (jobs, others) =
        (engine.set_policy("jobs", engine.policy().lease(LONG)).unwrap(), default_scope(&engine));
    let held = fresh(&others, "held");
    let claims: Vec<_> = (0..LEASES).map(|key| fresh(&jobs, &key.to_string())).collect();
    *counts.scope.lock().unwrap() = Some(others);
    machine.clock.advance(LONG);
    engine.step();
    assert_eq!(counts.leases.load(Ordering::SeqCst), LEASES);
    let before = counts.leases_before.get().copied();
    assert!(before.is_some_and(|before| before < 100), "told after {before:?} of {LEASES}");
    counts.call.lock().unwrap().take();
    drop((claims, held));
}

/// Makes every call that needs the maintenance lock, once, when a lease is over.
#[derive(Default)]
struct Maintains(Mutex<Option<Calls>>);

struct Calls {
    engine: Engine,
    claim: Claim,
    done: Sender<Vec<String>>,
}

impl Observer for Maintains {
    fn event(&self, event: &Event<'_>) {
        if !matches!(event, Event::Interrupted { .. }) {
            return;
        }
        let Some(Calls { engine, claim, done }) = self.0.lock().unwrap().take() else { return };
        let in_one = claim.complete_in(|_| Ok::<_, String>("reply"));
        let told = [
            format!("{:?}", engine.checkpoint()),
            format!("{:?}", engine.compact()),
            format!("{:?}", in_one.map(drop).map_err(|error| error.to_string())),
        ];
        done.send(told.into()).unwrap();
    }
}

/// The work of a transaction has the maintenance lock, and may wait for the thread that tells: for
/// the worker, say, which makes the log longer.
#[test]
fn an_observer_on_a_thread_of_the_engine_does_not_wait_for_the_work_of_a_transaction() {
    let scratch = tempfile::tempdir().unwrap();
    let observer = Arc::new(Maintains::default());
    let engine =
        Engine::options().observer(Arc::clone(&observer)).open(scratch.path().join("x.idem")).unwrap();
    let leased = engine.set_policy("leased", engine.policy().lease(MOMENT)).unwrap();
    let (claim, other) = (fresh(&default_scope(&engine), "key"), fresh(&default_scope(&engine), "other"));
    let (done, is_done) = channel();
    *observer.0.lock().unwrap() = Some(Calls { engine: engine.clone(), claim: other, done });
    let mut told = None;
    claim
        .complete_in(|_| {
            let lost = fresh(&leased, "lost");
            told = is_done.recv_timeout(WATCHDOG).ok();
            drop(lost);
            Ok::<_, String>("reply")
        })
        .unwrap();
    let told = told.expect("it waits for the work");
    let refused = "Err(\"a waker or an observer made a call";
    assert_eq!(told.first().map(String::as_str), Some("Ok(())"));
    assert_eq!(told.get(1).map(String::as_str), Some("Ok(false)"));
    assert!(told.get(2).is_some_and(|told| told.starts_with(refused)), "{told:?}");
    engine.close().unwrap();
}

const LEASE: Duration = Duration::from_secs(10);

/// Takes half of a lease for each of the first three grants and refusals that it hears of.
struct Slow(idemkv::sim::ManualClock, AtomicUsize);

impl Observer for Slow {
    fn event(&self, event: &Event<'_>) {
        let is_slow = matches!(event, Event::Granted { .. } | Event::Refused { .. });
        if is_slow && self.1.fetch_add(1, Ordering::Relaxed) < 3 {
            self.0.advance(LEASE / 2);
        }
    }
}

/// What an observer takes counts while claims are on their way. So a claim is granted again if its
/// lease is over by then, instead of being given out dead.
#[test]
fn claims_arrive_with_their_leases_however_slow_the_observer_is() {
    let twins = &["a", "a", "a", "a"];
    for keys in [&["a", "b", "c"][..], &["a", "refused", "refused too", "refused as well"], twins] {
        let machine = Machine::default();
        let observer = Arc::new(Slow(machine.clock.clone(), AtomicUsize::new(0)));
        let engine = machine.options().observer(observer).queue_timeout(LONG).open("x.idem").unwrap();
        let policy = engine.policy().lease(LEASE).max_in_flight(if keys.len() == 4 { 1 } else { 3 });
        let leased = engine.set_policy("leased", policy).unwrap();
        let requests: Vec<_> = keys.iter().map(|key| (key, request())).collect();
        let mut claims = Vec::new();
        for answer in leased.begin_many(&requests) {
            match answer {
                Ok(Begin::Fresh(claim)) => claims.push(claim),
                Err(BeginError::Busy(_) | BeginError::DuplicateInBatch { first: 0 }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(claims.len(), if keys.len() == 4 { 1 } else { 3 });
        assert!(claims.iter_mut().all(|claim| claim.renew().is_ok()), "{keys:?}");
        engine.step();
        assert_eq!(engine.stats().lease_expired, 0);
    }
}
