//! `WaitList`: the wakers of tasks that wait for the same thing.

use std::future::poll_fn;
use std::task::{Context, Poll};

use crate::foreign::TaskWaker;
use crate::fork;
use crate::sync::{Mutex, MutexGuard};

/// Tasks that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct WaitList {
    /// Leaf lock. Not held while a waker is called or dropped, because wakers are application
    /// code.
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    /// How often all were woken; places of earlier rounds are gone.
    round: u64,
    wakers: Vec<Option<TaskWaker>>,
    /// Places in `wakers` that were given up.
    free: Vec<usize>,
}

impl WaitList {
    /// Waits until `ready` returns a value. `ready` is called again whenever this list is woken;
    /// a thread that changes its answer does so before it wakes the list.
    pub(crate) async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        let mut place = PlaceGuard { wakers: self, waiter: WaiterId::default() };
        poll_fn(|context| self.poll(&mut place.waiter, context, &mut ready)).await
    }

    /// [`until`](Self::until), for futures that are written by hand. If such a future is dropped,
    /// it gives up its id with [`leave`](Self::leave).
    pub(crate) fn poll<T>(
        &self,
        waiter: &mut WaiterId,
        context: &Context<'_>,
        mut ready: impl FnMut() -> Option<T>,
    ) -> Poll<T> {
        if let Some(value) = ready() {
            return Poll::Ready(value);
        }
        self.take(waiter, TaskWaker::of(context));
        // Once more: it may have happened before the waker was in its place.
        ready().map_or(Poll::Pending, Poll::Ready)
    }

    fn take(&self, waiter: &mut WaiterId, waker: TaskWaker) {
        let waker = Some(waker);
        let mut list = self.list.lock();
        let round = list.round;
        let mine = waiter.0.filter(|(of, _)| *of == round).map(|(_, at)| at).or_else(|| list.free.pop());
        let place = mine.and_then(|at| list.wakers.get_mut(at));
        let old = if let Some(place) = place {
            std::mem::replace(place, waker)
        } else {
            list.wakers.push(waker);
            None
        };
        waiter.1 = fork::generation();
        waiter.0 = Some((round, mine.unwrap_or(list.wakers.len() - 1)));
        drop(list);
        drop(old);
    }

    /// Gives an id up.
    pub(crate) fn leave(&self, waiter: &WaiterId) {
        let Some((round, at)) = waiter.0 else { return };
        // In a forked child the list may be locked for ever.
        if waiter.1 != fork::generation() {
            return;
        }
        let mut list = self.list.lock();
        if list.round != round {
            return;
        }
        let waker = list.wakers.get_mut(at).and_then(Option::take);
        list.free.push(at);
        drop(list);
        drop(waker);
    }

    /// Wakes all waiters.
    #[inline]
    pub(crate) fn wake_all(&self) {
        let list = self.list.lock();
        if !list.wakers.is_empty() {
            Self::wake(list);
        }
    }

    fn wake(mut list: MutexGuard<'_, List>) {
        list.round += 1;
        list.free.clear();
        let mut woken = std::mem::take(&mut list.wakers);
        drop(list);
        // A batch waits for each of its entries, but is one task.
        woken.dedup_by(|a, b| a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a.is_same(b)));
        let (generation, mut woken) = (fork::generation(), woken.into_iter().flatten());
        for waker in woken.by_ref() {
            waker.wake();
            if generation != fork::generation() {
                // In a child the others are the parent's.
                std::mem::forget(woken);
                return;
            }
        }
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.list.lock().wakers.iter().flatten().count()
    }
}

/// One task's place in a list: its round and position, `None` before it first waits; and the fork
/// generation of the process that took it.
#[derive(Debug, Default)]
pub(crate) struct WaiterId(Option<(u64, usize)>, u64);

/// An id that its drop gives up.
struct PlaceGuard<'a> {
    wakers: &'a WaitList,
    waiter: WaiterId,
}

impl Drop for PlaceGuard<'_> {
    fn drop(&mut self) {
        self.wakers.leave(&self.waiter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Arc, AtomicUsize, Ordering};
    use std::pin::pin;
    use std::task::{Wake, Waker};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct Panics;

    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a bad executor");
        }
    }

    #[test]
    fn a_task_is_woken_once_and_asks_again() {
        let (wakers, count, answer) = (WaitList::default(), Arc::new(Count::default()), AtomicUsize::new(0));
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let ready = || match answer.load(Ordering::Relaxed) {
            0 => None,
            value => Some(value),
        };
        let mut waiting = pin!(wakers.until(ready));
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert!(waiting.as_mut().poll(&mut context).is_pending());
        assert_eq!(wakers.len(), 1);
        wakers.wake_all();
        assert_eq!((count.0.load(Ordering::Relaxed), wakers.len()), (1, 0));
        answer.store(7, Ordering::Relaxed);
        assert_eq!(waiting.as_mut().poll(&mut context), Poll::Ready(7));
    }

    #[test]
    fn a_dropped_task_leaves_the_list() {
        let wakers = WaitList::default();
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut waiting = pin!(wakers.until(|| None::<()>));
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            assert_eq!(wakers.len(), 1);
        }
        assert_eq!(wakers.len(), 0);
    }

    #[test]
    fn places_are_used_again_and_those_of_an_earlier_round_are_gone() {
        let wakers = WaitList::default();
        let mut context = Context::from_waker(Waker::noop());
        let mut stale = Box::pin(wakers.until(|| None::<()>));
        assert!(stale.as_mut().poll(&mut context).is_pending());
        for _ in 0..10 {
            assert!(pin!(wakers.until(|| None::<()>)).poll(&mut context).is_pending());
        }
        assert_eq!((wakers.len(), wakers.list.lock().wakers.len()), (1, 2));
        wakers.wake_all();
        let mut next = pin!(wakers.until(|| None::<()>));
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(stale);
        assert_eq!(wakers.len(), 1, "a place of the round before is not that of somebody else");
    }

    #[test]
    fn a_waker_that_panics_keeps_nobody_else_asleep() {
        let (wakers, count) = (WaitList::default(), Arc::new(Count::default()));
        let (bad, good) = (Waker::from(Arc::new(Panics)), Waker::from(Arc::clone(&count)));
        let (mut first, mut second) = (pin!(wakers.until(|| None::<()>)), pin!(wakers.until(|| None::<()>)));
        assert!(first.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
        assert!(second.as_mut().poll(&mut Context::from_waker(&good)).is_pending());
        wakers.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
