//! Deadlines of tasks: a task can't sleep until a deadline, so a thread of the engine wakes it.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::clock::Deadline;
use crate::foreign::TaskWaker;
use crate::fork;
use crate::sync::Mutex;
use crate::task::notifier::Notifier;

/// The deadlines of waiting tasks.
#[derive(Debug)]
pub(crate) struct Timers {
    /// Wakes the timers' thread when a new deadline comes before all others.
    timekeeper: Notifier,
    generation: u64,
    /// Leaf lock. Not held while a waker is called or dropped.
    due: Mutex<Due>,
}

#[derive(Debug, Default)]
struct Due {
    next: u64,
    wakers: BTreeMap<(Instant, u64), TaskWaker>,
}

impl Timers {
    pub(crate) fn new(timekeeper: Notifier) -> Self {
        Self { timekeeper, generation: fork::generation(), due: Mutex::default() }
    }

    /// Runs `future` until the deadline; `None` if the deadline passes first.
    pub(crate) async fn timeout<T>(&self, deadline: Deadline, future: impl Future<Output = T>) -> Option<T> {
        let mut future = pin!(future);
        let mut timer = Timer { timers: self, key: None };
        poll_fn(|context| {
            if let Poll::Ready(value) = future.as_mut().poll(context) {
                return Poll::Ready(Some(value));
            }
            if deadline.has_passed() {
                return Poll::Ready(None);
            }
            if let Some(at) = deadline.instant()
                && timer.set(at, context)
            {
                self.timekeeper.notify();
            }
            Poll::Pending
        })
        .await
    }

    /// The next deadline.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.lock().wakers.first_key_value().map(|((at, _), _)| *at)
    }

    /// Wakes all whose deadline has passed by now. Those that pass meanwhile are for the next call:
    /// there may be no end of them, and leases end in between.
    pub(crate) fn fire(&self) {
        let now = Deadline::after(Duration::ZERO);
        // The task that was woken last may have forked.
        while self.generation == fork::generation() {
            let mut due = self.due.lock();
            let Some(first) = due.wakers.first_entry() else { return };
            if now.is_before(Deadline::at(first.key().0)) {
                return;
            }
            let waker = first.remove();
            drop(due);
            waker.wake();
        }
    }
}

/// One task's deadline; its drop removes it.
struct Timer<'a> {
    timers: &'a Timers,
    key: Option<(Instant, u64)>,
}

impl Timer<'_> {
    /// Whether this has become the next of all deadlines.
    fn set(&mut self, at: Instant, context: &Context<'_>) -> bool {
        let waker = TaskWaker::of(context);
        let mut due = self.timers.due.lock();
        let key = *self.key.get_or_insert_with(|| {
            due.next += 1;
            (at, due.next)
        });
        let old = due.wakers.insert(key, waker);
        let is_next = old.is_none() && due.wakers.first_key_value().is_some_and(|(first, _)| *first == key);
        drop(due);
        drop(old);
        is_next
    }
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let Some(key) = self.key else { return };
        // In a forked child they may be locked for ever.
        if self.timers.generation != fork::generation() {
            return;
        }
        let waker = self.timers.due.lock().wakers.remove(&key);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::task::{Wake, Waker};

    #[test]
    fn what_is_ready_is_given_even_past_the_deadline() {
        let timers = Timers::new(Notifier::pair().0);
        let mut context = Context::from_waker(Waker::noop());
        let mut waiting = pin!(timers.timeout(Deadline::after(Duration::ZERO), ready(7)));
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(Some(7)));
        let mut waiting = pin!(timers.timeout(Deadline::after(Duration::ZERO), pending::<()>()));
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(None));
    }

    /// A task that waits again as soon as it is woken.
    struct WaitsAgain(Arc<Timers>, Mutex<u32>);

    impl Wake for WaitsAgain {
        fn wake(self: Arc<Self>) {
            let mut woken = self.1.lock();
            *woken += 1;
            if *woken < 1_000 {
                drop(woken);
                self.wait();
            }
        }
    }

    impl WaitsAgain {
        fn wait(self: &Arc<Self>) {
            let waker = Waker::from(Arc::clone(self));
            let mut timer = Timer { timers: &self.0, key: None };
            timer.set(Deadline::after(Duration::ZERO).instant().unwrap(), &Context::from_waker(&waker));
            std::mem::forget(timer);
        }
    }

    #[test]
    fn deadlines_that_pass_one_after_the_other_do_not_keep_the_timekeeper_from_leases() {
        let timers = Arc::new(Timers::new(Notifier::pair().0));
        let task = Arc::new(WaitsAgain(Arc::clone(&timers), Mutex::default()));
        task.wait();
        timers.fire();
        let woken = *task.1.lock();
        assert!((1..1_000).contains(&woken), "{woken}");
        timers.fire();
        assert!(*task.1.lock() > woken);
    }

    #[test]
    fn the_earliest_deadline_calls_the_timekeeper_and_a_dropped_one_is_forgotten() {
        let (notifier, listener) = Notifier::pair();
        let timers = Timers::new(notifier);
        let mut context = Context::from_waker(Waker::noop());
        let hour = Duration::from_secs(3_600);
        {
            let mut early = pin!(timers.timeout(Deadline::after(hour), pending::<()>()));
            let mut late = pin!(timers.timeout(Deadline::after(2 * hour), pending::<()>()));
            for called in [true, false] {
                assert!(early.as_mut().poll(&mut context).is_pending());
                assert_eq!(listener.take(), called);
                assert!(late.as_mut().poll(&mut context).is_pending());
                assert!(!listener.take());
            }
            timers.fire();
            assert!(timers.next().is_some());
        }
        assert!(timers.next().is_none());
    }
}
