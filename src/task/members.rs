//! `Members`: the calls of one task that wait side by side, each with a waker of its own.
//!
//! When the task is woken it polls the members that were woken. If it polled them all at each
//! answer, a batch would cost the square of its length.

use std::task::{Context, Wake, Waker};

use crate::foreign::TaskWaker;
use crate::fork::Origin;
use crate::sync::{Arc, Mutex};

#[derive(Debug)]
pub(crate) struct Members {
    wakers: Vec<Waker>,
    woken: Arc<Woken>,
}

#[derive(Debug)]
struct Woken {
    /// In a forked child the lock may be held for ever.
    origin: Origin,
    /// Leaf lock. Not held while a waker is called or dropped, because wakers are application
    /// code.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that were woken since the task last asked.
    members: Vec<usize>,
    /// The task's waker; `None` once it was called.
    task: Option<TaskWaker>,
}

impl Members {
    /// So many members. Each is to be polled once.
    pub(crate) fn new(members: usize) -> Self {
        let state = State { members: (0..members).collect(), task: None };
        let woken = Arc::new(Woken { origin: Origin::here(), state: Mutex::new(state) });
        let waker = |member| Waker::from(Arc::new(Member { member, woken: Arc::clone(&woken) }));
        Self { wakers: (0..members).map(waker).collect(), woken }
    }

    /// The members to poll now, each with its own [`context`](Self::context). The task is woken
    /// when there are more.
    pub(crate) fn woken(&self, context: &Context<'_>) -> Vec<usize> {
        if self.woken.origin.is_elsewhere() {
            // Every call says there that it is in a forked child.
            return (0..self.wakers.len()).collect();
        }
        let task = TaskWaker::of(context);
        let mut state = self.woken.state.lock();
        let members = std::mem::take(&mut state.members);
        let before = state.task.replace(task);
        drop(state);
        drop(before);
        members
    }

    pub(crate) fn context(&self, member: usize) -> Context<'_> {
        Context::from_waker(self.wakers.get(member).unwrap_or(Waker::noop()))
    }
}

/// The waker of a member.
#[derive(Debug)]
struct Member {
    member: usize,
    woken: Arc<Woken>,
}

impl Wake for Member {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.origin.is_elsewhere() {
            return;
        }
        let mut state = self.woken.state.lock();
        state.members.push(self.member);
        let task = state.task.take();
        drop(state);
        if let Some(task) = task {
            task.wake();
        }
    }
}
