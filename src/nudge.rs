//! A bell for one thread: it is enough that one ring waits for it.

use crate::clock::Deadline;
use crate::sync::{Arc, Condvar, Mutex};

/// The button.
#[derive(Debug)]
pub(crate) struct Nudge(Arc<Bell>);

/// The bell.
#[derive(Debug)]
pub(crate) struct Nudges(Arc<Bell>);

#[derive(Debug)]
struct Bell {
    /// Leaf lock.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    rings: bool,
    buttons: usize,
}

impl Nudge {
    pub(crate) fn pair() -> (Self, Nudges) {
        let state = Mutex::new(State { rings: false, buttons: 1 });
        let bell = Arc::new(Bell { state, changed: Condvar::new() });
        (Self(Arc::clone(&bell)), Nudges(bell))
    }

    /// Rings, unless a ring waits already.
    pub(crate) fn nudge(&self) {
        let rang = std::mem::replace(&mut self.0.state.lock().rings, true);
        if !rang {
            self.0.changed.notify_all();
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

    /// Whether a ring waited.
    #[cfg(test)]
    pub(crate) fn take(&self) -> bool {
        std::mem::take(&mut self.0.state.lock().rings)
    }
}
