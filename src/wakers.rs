//! Tasks that wait for something, kept so that they can be woken.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Poll, Waker};

use crate::sync::Mutex;

/// Tasks that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Wakers {
    /// Leaf lock. Not held while a waker is called or dropped: that is foreign code.
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    next: u64,
    wakers: BTreeMap<u64, Waker>,
}

impl Wakers {
    /// Waits until `ready` gives something. It is asked again whenever this list is woken: whoever changes its answer
    /// does so before waking.
    pub(crate) async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        let mut place = Place { wakers: self, id: None };
        poll_fn(|context| {
            if let Some(value) = ready() {
                return Poll::Ready(value);
            }
            place.take(context.waker());
            // Once more: it may have happened before the waker was in its place.
            ready().map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Wakes all who wait.
    pub(crate) fn wake_all(&self) {
        let woken = std::mem::take(&mut self.list.lock().wakers);
        woken.into_values().for_each(wake);
    }

    /// How many wait.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.list.lock().wakers.len()
    }
}

/// Calls a waker. A panic in there is its executor's affair: whoever wakes has others to wake.
pub(crate) fn wake(waker: Waker) {
    drop(catch_unwind(AssertUnwindSafe(|| waker.wake())));
}

/// One task's place in the list; given up when dropped.
struct Place<'a> {
    wakers: &'a Wakers,
    id: Option<u64>,
}

impl Place<'_> {
    fn take(&mut self, waker: &Waker) {
        let waker = waker.clone();
        let mut list = self.wakers.list.lock();
        let id = *self.id.get_or_insert_with(|| {
            list.next += 1;
            list.next
        });
        let old = list.wakers.insert(id, waker);
        drop(list);
        drop(old);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let waker = self.wakers.list.lock().wakers.remove(&id);
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::{Arc, AtomicUsize, Ordering};
    use std::pin::pin;
    use std::task::{Context, Wake};

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
        let (wakers, count, answer) = (Wakers::default(), Arc::new(Count::default()), AtomicUsize::new(0));
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
        let wakers = Wakers::default();
        let mut context = Context::from_waker(Waker::noop());
        {
            let mut waiting = pin!(wakers.until(|| None::<()>));
            assert!(waiting.as_mut().poll(&mut context).is_pending());
            assert_eq!(wakers.len(), 1);
        }
        assert_eq!(wakers.len(), 0);
    }

    #[test]
    fn a_waker_that_panics_keeps_nobody_else_asleep() {
        let (wakers, count) = (Wakers::default(), Arc::new(Count::default()));
        let (bad, good) = (Waker::from(Arc::new(Panics)), Waker::from(Arc::clone(&count)));
        let (mut first, mut second) = (pin!(wakers.until(|| None::<()>)), pin!(wakers.until(|| None::<()>)));
        assert!(first.as_mut().poll(&mut Context::from_waker(&bad)).is_pending());
        assert!(second.as_mut().poll(&mut Context::from_waker(&good)).is_pending());
        wakers.wake_all();
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
    }
}
