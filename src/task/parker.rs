//! `Parker`: where one thread of an application waits until another thread calls it.
//!
//! It does not use the thread's own park token, which belongs to the application. Its executor may
//! park the thread between two polls, with `Thread::unpark` as its waker. A blocking call within a
//! poll would use that token up, and the executor would then sleep for ever.

use std::task::Wake;

use crate::sync::{Arc, Condvar, Mutex};

/// A call that comes before the thread waits is kept.
#[derive(Debug, Default)]
pub(crate) struct Parker {
    /// Leaf lock.
    is_called: Mutex<bool>,
    called: Condvar,
}

impl Parker {
    /// Waits until it is called, and forgets the call.
    pub(crate) fn wait(&self) {
        let mut is_called = self.is_called.lock();
        while !std::mem::take(&mut *is_called) {
            self.called.wait(&mut is_called);
        }
    }

    /// Has the thread return from [`wait`](Self::wait), now or when it comes there.
    pub(crate) fn call(&self) {
        *self.is_called.lock() = true;
        self.called.notify_all();
    }
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.call();
    }
}
