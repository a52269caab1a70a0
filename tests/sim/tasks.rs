//! Callers that are tasks: futures that are polled some times and dropped, and waiters that must
//! be woken.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use idemkv::{BeginError, Engine, Outcome, Pending, Status, Waited};

use crate::calls::{Callers, Held};
use crate::ending::{Ending, body};
use crate::oracle::Expect;
use crate::script::Random;
use crate::setting::{fingerprint, name, scope, scope_of};
use crate::world::{World, is_declared};

/// As many wait at most.
const WAITERS_MAX: usize = 6;

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

type Waiting = Pin<Box<dyn Future<Output = Result<Waited, BeginError>>>>;

/// A task that waits for somebody else's claim.
pub(crate) struct Waiter {
    key: u64,
    attempt: u32,
    future: Waiting,
    woken: Arc<Flag>,
}

impl Waiter {
    /// `None` where the claim has ended meanwhile.
    pub(crate) fn new(key: u64, pending: Pending) -> Option<Self> {
        let attempt = pending.attempt();
        let future: Waiting = Box::pin(async move { pending.await });
        let mut waiter = Self { key, attempt, future, woken: Arc::default() };
        waiter.poll().is_pending().then_some(waiter)
    }

    fn poll(&mut self) -> Poll<Result<Waited, BeginError>> {
        let waker = Waker::from(Arc::clone(&self.woken));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }

    /// Whether it has been told how it ended; it must have been woken for that.
    fn is_told(&mut self) -> bool {
        let is_woken = self.woken.0.load(Ordering::Acquire);
        let is_told = self.poll().is_ready();
        assert!(is_woken || !is_told, "who waits for key {} was never woken", self.key);
        is_told
    }
}

impl Callers {
    /// The engine was closed: nobody waits any longer.
    pub(crate) fn all_are_woken(&mut self) {
        for mut waiter in self.waiters.drain(..) {
            assert!(waiter.is_told(), "who waits for key {} waits for ever", waiter.key);
        }
    }
}

fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

impl World {
    /// A begin that is given up after some polls, if it has not ended by then.
    pub(crate) fn begin_task(&mut self, engine: &Engine, key: u64, polls: u64, callers: &mut Callers) {
        if !is_declared(engine, scope_of(key)) {
            return;
        }
        self.oracle.start_grant(key, engine.now());
        let scope = scope(engine, key);
        let (name, fingerprint) = (name(key), fingerprint(key));
        self.failed_before = self.failed;
        let mut future = Box::pin(scope.begin_async(&name, fingerprint));
        for turn in 0..polls {
            if turn > 0 {
                self.during(|| engine.step());
            }
            if let Poll::Ready(begun) = self.during(|| poll(future.as_mut())) {
                self.meet("task that was granted", begun.as_ref().is_ok_and(is_fresh));
                drop(future);
                return self.begun(engine, key, begun, callers);
            }
        }
        self.during(|| drop(future));
        if polls == 0 {
            self.oracle.refuse(key);
        } else {
            self.oracle.leave(key);
            self.meet("begin given up on its way", true);
        }
    }

    /// Progress that nobody waits for after some polls.
    pub(crate) fn note_task(
        &mut self,
        engine: &Engine,
        key: u64,
        mut held: Held,
        callers: &mut Callers,
        seed: u64,
        polls: u64,
    ) {
        let (is_over, attempt) = (held.is_over(engine.now()), held.claim.attempt());
        let note = body(&mut Random::new(seed), held.claim.fence());
        let before = self.oracle.start_note(key, note.clone());
        let mut future = Box::pin(held.claim.save_progress_async(&note));
        let noted = (0..polls).find_map(|turn| {
            if turn > 0 {
                self.during(|| engine.step());
            }
            match self.during(|| poll(future.as_mut())) {
                Poll::Ready(noted) => Some(noted),
                Poll::Pending => None,
            }
        });
        self.during(|| drop(future));
        match noted {
            Some(noted) => self.noted(key, &held, is_over, before, noted.map(|()| note)),
            None if polls == 0 => self.oracle.notes_are(key, before),
            None => {
                self.oracle.attempt_may_be_durable(key, attempt);
                self.meet("progress given up on its way", true);
            }
        }
        callers.claims.insert(key, held);
    }

    /// A completion that nobody waits for after some polls.
    pub(crate) fn finish_task(&mut self, engine: &Engine, key: u64, held: Held, seed: u64, polls: u64) {
        let (now, is_over) = (engine.now(), held.is_over(engine.now()));
        let fence = held.claim.fence();
        let (body, ending) = Ending::draw(&mut Random::new(seed), fence);
        let reply = ending.reply(Outcome::Success, &body, fence, now);
        self.oracle.start(key, Expect::Done(reply.clone()));
        let mut future = self.during(|| held.claim.complete_with_async(body, ending.completion));
        for turn in 0..polls {
            if turn > 0 {
                self.during(|| engine.step());
            }
            match self.during(|| poll(Pin::new(&mut future))) {
                Poll::Ready(Ok(record)) => {
                    assert!(!is_over, "key {key}: a superseded claim completed");
                    return self.finished(key, &record, &reply, now);
                }
                Poll::Ready(Err(error)) => return self.end_refused(key, is_over, true, &error),
                Poll::Pending => {}
            }
        }
        self.during(|| drop(future));
        if is_over {
            self.oracle.refuse(key);
        } else if !self.disk.crashed() {
            self.oracle.leave_to_the_engine(key, now);
            self.meet("completion that nobody waited for", true);
        }
    }

    /// After a step of the engine what it had in hand is durable, and who waits knows what there
    /// is to know.
    pub(crate) fn after_step(&mut self, engine: &Engine, callers: &mut Callers) {
        if self.disk.crashed() || self.is_harmed() {
            return;
        }
        self.oracle.settle(engine.now());
        let mut told = 0;
        callers.waiters.retain_mut(|waiter| {
            let status = scope(engine, waiter.key).get(name(waiter.key)).unwrap();
            let stands = matches!(status, Status::InFlight(info) if info.attempt() == waiter.attempt);
            let is_told = waiter.is_told();
            assert!(is_told || stands, "who waits for key {} is not told that it is {status:?}", waiter.key);
            told += usize::from(is_told);
            !is_told
        });
        callers.waiters.truncate(WAITERS_MAX);
        self.meet("waiter that was woken", told > 0);
    }
}

fn is_fresh(begin: &idemkv::Begin) -> bool {
    matches!(begin, idemkv::Begin::Fresh(_))
}
