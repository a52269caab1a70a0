//! A bell for one thread: it is enough that one ring waits for it.

use crate::clock::Deadline;
use crate::fork;
use crate::sync::{Arc, Condvar, Mutex, OnceLock};

/// The button.
#[derive(Debug)]
pub(crate) struct Nudge(Arc<Bell>);

/// The bell.
#[derive(Debug)]
pub(crate) struct Nudges(Arc<Bell>);

struct Bell {
    /// Leaf lock.
    state: Mutex<State>,
    changed: Condvar,
    generation: u64,
    /// Starts the thread, where that waits for the first ring.
    start: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl std::fmt::Debug for Bell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bell").field("state", &self.state).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct State {
    rings: bool,
    buttons: usize,
    /// A thread listens, or is about to.
    has_thread: bool,
}

impl Nudge {
    pub(crate) fn pair() -> (Self, Nudges) {
        let state = Mutex::new(State { rings: false, buttons: 1, has_thread: false });
        let bell = Arc::new(Bell {
            state,
            changed: Condvar::new(),
            generation: fork::generation(),
            start: OnceLock::new(),
        });
        (Self(Arc::clone(&bell)), Nudges(bell))
    }

    /// Rings, unless a ring waits already. The first ring may start the thread.
    pub(crate) fn nudge(&self) {
        // In a forked child nobody listens, and the bell may be locked for ever.
        if self.0.generation != fork::generation() {
            return;
        }
        let mut state = self.0.state.lock();
        let rang = std::mem::replace(&mut state.rings, true);
        let has_thread = state.has_thread;
        drop(state);
        if !rang {
            self.0.changed.notify_all();
        }
        if !has_thread && let Some(start) = self.0.start.get() {
            start();
        }
    }
}

impl Clone for Nudge {
    fn clone(&self) -> Self {
        self.0.state.lock().buttons += 1;
        Self(Arc::clone(&self.0))
    }
}

impl Drop for Nudge {
    fn drop(&mut self) {
        self.0.state.lock().buttons -= 1;
        self.0.changed.notify_all();
    }
}

impl Nudges {
    /// Waits for a ring, until the deadline; `false` once there is nobody left to ring. It sleeps at once: on a machine with few
    /// processors, whoever looks out for a ring takes its time from those who would ring.
    pub(crate) fn wait(&self, deadline: Deadline) -> bool {
        // In a forked child nobody rings.
        if self.0.generation != fork::generation() {
            return false;
        }
        let mut state = self.0.state.lock();
        while !state.rings {
            if state.buttons == 0 {
                return false;
            }
            match deadline.instant() {
                Some(at) if self.0.changed.wait_until(&mut state, at).timed_out() => break,
                Some(_) => {}
                None => self.0.changed.wait(&mut state),
            }
        }
        state.rings = false;
        true
    }

    /// Has `start` called at each ring, the ones before included, until a thread [listens](Self::take_up).
    pub(crate) fn start_when_called(&self, start: impl Fn() + Send + Sync + 'static) {
        let start = self.0.start.get_or_init(|| Box::new(start));
        let rang = self.0.state.lock().rings;
        if rang {
            start();
        }
    }

    /// Notes that a thread listens from now on; `false` where one does already.
    pub(crate) fn take_up(&self) -> bool {
        !std::mem::replace(&mut self.0.state.lock().has_thread, true)
    }

    /// Notes that no thread listens.
    pub(crate) fn lay_down(&self) {
        self.0.state.lock().has_thread = false;
    }

    /// Whether a ring waited.
    #[cfg(test)]
    pub(crate) fn take(&self) -> bool {
        std::mem::take(&mut self.0.state.lock().rings)
    }
}
