//! `Session`: what this process knows of its row among the sessions. Its claims stand while the
//! row lives.

use tokio::sync::Notify;

use crate::clock::Deadline;
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::task::reply::{self, Reply, ReplySender};

/// What is known.
#[derive(Clone, Copy, Debug)]
pub(super) enum SessionState {
    /// There is none: it is being started.
    None,
    /// It lives at least until then. The time counts from before the request that renewed it was
    /// sent, on the monotonic clock, so it ends before the server's does.
    Live { id: i64, until: Deadline },
    /// Another process started with this one's name.
    Replaced,
    /// The tables have another secret: they are not those that it connected to.
    OtherStore,
}

pub(super) struct Session {
    /// Leaf lock.
    state: Mutex<SessionState>,
    /// There was one before.
    was_started: AtomicBool,
    /// Wakes the keeper.
    pub(super) called: Notify,
    /// Callers that wait for the keeper's next try; `None` once there is no keeper. Leaf lock.
    waiting: Mutex<Option<Vec<ReplySender<()>>>>,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            state: Mutex::new(SessionState::None),
            was_started: AtomicBool::new(false),
            called: Notify::new(),
            waiting: Mutex::new(Some(Vec::new())),
        }
    }
}

impl Session {
    pub(super) fn state(&self) -> SessionState {
        *self.state.lock()
    }

    pub(super) fn set(&self, state: SessionState) {
        if matches!(state, SessionState::Live { .. }) {
            self.was_started.store(true, Ordering::Relaxed);
        }
        *self.state.lock() = state;
    }

    /// Whether this process had a session before.
    pub(super) fn was_started(&self) -> bool {
        self.was_started.load(Ordering::Relaxed)
    }

    /// Whether the session with this number is known to live.
    pub(super) fn lives(&self, session: i64) -> bool {
        matches!(self.state(), SessionState::Live { id, until } if id == session && !until.has_passed())
    }

    /// Has the session renewed now; ready after the next try, whether or not it succeeded.
    pub(super) fn renewed(&self) -> Reply<()> {
        let (reply, tried) = reply::pair();
        if let Some(waiting) = self.waiting.lock().as_mut() {
            waiting.push(reply);
        }
        self.called.notify_one();
        tried
    }

    /// Tells the callers that the keeper has tried.
    pub(super) fn has_tried(&self) {
        let waiting = self.waiting.lock().as_mut().map(std::mem::take);
        drop(waiting);
    }

    /// There is no keeper any more, so nobody waits for it.
    pub(super) fn close(&self) {
        let waiting = self.waiting.lock().take();
        drop(waiting);
    }
}
