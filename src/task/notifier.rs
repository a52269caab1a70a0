//! `Notifier`: wakes one thread of the engine. Several wake-ups before the thread looks count as
//! one.

use crate::clock::Deadline;
use crate::fork;
use crate::sync::{Arc, Condvar, Mutex, OnceLock};

/// Wakes the thread. May be cloned.
#[derive(Debug)]
pub(crate) struct Notifier(Arc<Shared>);

/// The thread's end, on which it waits.
#[derive(Debug)]
pub(crate) struct Listener(Arc<Shared>);

struct Shared {
    /// Leaf lock.
    state: Mutex<State>,
    changed: Condvar,
    generation: u64,
    /// Starts the thread, if it waits for the first wake-up.
    start: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    is_called: bool,
    notifiers: usize,
    /// A thread listens, or is about to.
    has_thread: bool,
}

impl Notifier {
    pub(crate) fn pair() -> (Self, Listener) {
        let state = Mutex::new(State { is_called: false, notifiers: 1, has_thread: false });
        let shared = Arc::new(Shared {
            state,
            changed: Condvar::new(),
            generation: fork::generation(),
            start: OnceLock::new(),
        });
        (Self(Arc::clone(&shared)), Listener(shared))
    }

    /// Wakes the thread, unless a wake-up is already pending. The first one may start the thread.
    pub(crate) fn notify(&self) {
        // In a forked child nobody listens, and the state may be locked for ever.
        if self.0.generation != fork::generation() {
            return;
        }
        let mut state = self.0.state.lock();
        let was_called = std::mem::replace(&mut state.is_called, true);
        let has_thread = state.has_thread;
        drop(state);
        if !was_called {
            self.0.changed.notify_all();
        }
        if !has_thread && let Some(start) = self.0.start.get() {
            start();
        }
    }
}

impl Clone for Notifier {
    fn clone(&self) -> Self {
        self.0.state.lock().notifiers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.0.state.lock().notifiers -= 1;
        self.0.changed.notify_all();
    }
}

impl Listener {
    /// Waits for a wake-up, until the deadline; `false` once no notifier is left. It sleeps at
    /// once: with few processors, a spinning thread takes time from the threads that would wake
    /// it.
    pub(crate) fn wait(&self, deadline: Deadline) -> bool {
        // In a forked child nobody calls.
        if self.0.generation != fork::generation() {
            return false;
        }
        let mut state = self.0.state.lock();
        while !state.is_called {
            if state.notifiers == 0 {
                return false;
            }
            match deadline.instant() {
                Some(at) if self.0.changed.wait_until(&mut state, at).timed_out() => break,
                Some(_) => {}
                None => self.0.changed.wait(&mut state),
            }
        }
        state.is_called = false;
        true
    }

    /// Calls `start` at each wake-up, earlier ones included, until a thread
    /// [listens](Self::take_up).
    pub(crate) fn start_when_called(&self, start: impl Fn() + Send + Sync + 'static) {
        let start = self.0.start.get_or_init(|| Box::new(start));
        let was_called = self.0.state.lock().is_called;
        if was_called {
            start();
        }
    }

    /// Notes that a thread listens from now on; `false` if one already does.
    pub(crate) fn take_up(&self) -> bool {
        !std::mem::replace(&mut self.0.state.lock().has_thread, true)
    }

    /// Whether a thread listens, or is about to.
    pub(crate) fn has_thread(&self) -> bool {
        self.0.state.lock().has_thread
    }

    /// Notes that no thread listens.
    pub(crate) fn lay_down(&self) {
        self.0.state.lock().has_thread = false;
    }

    /// Whether a wake-up was pending.
    #[cfg(test)]
    pub(crate) fn take(&self) -> bool {
        std::mem::take(&mut self.0.state.lock().is_called)
    }
}
