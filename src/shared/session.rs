//! `Session`: what this process knows of its row among the sessions. Its claims stand while the
//! row lives.

use tokio::sync::Notify;

use crate::clock::Deadline;
use crate::fork;
use crate::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use crate::task::wait_list::WaitList;

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
    /// A statement that starts one was sent.
    may_have_started: AtomicBool,
    /// Wakes the keeper.
    pub(super) called: Notify,
    is_stopping: AtomicBool,
    /// Tells the keeper to stop.
    stops: Notify,
    /// So often the keeper has tried.
    tries: AtomicU64,
    /// There is no keeper any more.
    is_closed: AtomicBool,
    /// Callers that wait for the keeper's next try.
    waiting: WaitList,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            state: Mutex::new(SessionState::None),
            was_started: AtomicBool::new(false),
            may_have_started: AtomicBool::new(false),
            called: Notify::new(),
            is_stopping: AtomicBool::new(false),
            stops: Notify::new(),
            tries: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
            waiting: WaitList::default(),
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

    /// A statement that starts one is about to be sent.
    pub(super) fn may_start(&self) {
        self.may_have_started.store(true, Ordering::Relaxed);
    }

    /// Whether the store may have a session of this process.
    pub(super) fn may_have_started(&self) -> bool {
        self.may_have_started.load(Ordering::Relaxed)
    }

    /// Whether the session with this number is known to live.
    pub(super) fn lives(&self, session: i64) -> bool {
        matches!(self.state(), SessionState::Live { id, until } if id == session && !until.has_passed())
    }

    /// Has the session renewed now; ready after the next try, whether or not it succeeded.
    pub(super) async fn renewed(&self) {
        let (before, here) = (self.tries.load(Ordering::SeqCst), fork::generation());
        self.called.notify_one();
        let has_tried = || {
            let is_over = self.is_closed.load(Ordering::SeqCst) || here != fork::generation();
            (is_over || self.tries.load(Ordering::SeqCst) != before).then_some(())
        };
        self.waiting.until(has_tried).await;
    }

    /// Tells the callers that the keeper has tried.
    pub(super) fn has_tried(&self) {
        self.tries.fetch_add(1, Ordering::SeqCst);
        self.waiting.wake_all();
    }

    /// Tells the keeper to stop after what it has under way.
    pub(super) fn stop(&self) {
        self.is_stopping.store(true, Ordering::SeqCst);
        self.stops.notify_one();
        self.called.notify_one();
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    /// Waits until the keeper is told to stop. For the keeper only.
    pub(super) async fn stopped(&self) {
        self.stops.notified().await;
    }

    /// There is no keeper any more, so nobody waits for it.
    pub(super) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
        self.waiting.wake_all();
    }
}
