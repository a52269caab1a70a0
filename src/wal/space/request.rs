//! A caller that waits in line for log space.

use std::task::{Context, Poll};

use super::{LogSpace, Reservation};
use crate::clock::Deadline;
use crate::foreign::TaskWaker;
use crate::sync::{Arc, Condvar};
use crate::task::wait_queue::{Priority, Turn, Wakeup};

/// A place in the line. Its drop gives up the place, and bytes already reserved for it go to the
/// next in line.
#[derive(Debug)]
#[must_use = "a place in the line is given up when it is dropped"]
pub(crate) struct Request<'a> {
    space: &'a Arc<LogSpace>,
    bytes: u64,
    /// `None` once the caller has its reservation.
    turn: Option<Turn>,
    /// Calls of [`LogSpace::wake`] before the caller last looked for other events.
    wakes: u64,
}

impl<'a> Request<'a> {
    /// Lines up for `bytes`. A caller with `bytes_max` waits only while a log of so many bytes
    /// may have the space, and is woken when that is no longer possible.
    pub(crate) fn line_up(
        space: &'a Arc<LogSpace>,
        bytes: u64,
        priority: Priority,
        bytes_max: Option<u64>,
    ) -> Self {
        let mut state = space.state.lock();
        state.wanted = state.wanted.max(bytes);
        state.bytes_max = bytes_max.or(state.bytes_max);
        let turn = Some(state.line.join(bytes, priority, bytes_max.is_some()));
        let wakes = state.wakes;
        let wakeups = space.serve(&mut state);
        drop(state);
        wakeups.wake();
        Self { space, bytes, turn, wakes }
    }

    /// Takes the reservation, if there is one by now. If not, it calls `ask`, which may make
    /// space, or return why none will come.
    pub(crate) fn look<T>(&mut self, ask: impl FnOnce() -> Option<T>) -> Option<Result<Reservation, T>> {
        if let Some(reservation) = self.take() {
            return Some(Ok(reservation));
        }
        let refusal = ask();
        if let Some(reservation) = self.take() {
            return Some(Ok(reservation));
        }
        refusal.map(Err)
    }

    /// Waits for the reservation as a task.
    pub(crate) fn poll<T>(
        &mut self,
        context: &Context<'_>,
        ask: impl Fn() -> Option<T>,
    ) -> Poll<Result<Reservation, T>> {
        loop {
            if let Some(end) = self.look(&ask) {
                return Poll::Ready(end);
            }
            if self.space.is_elsewhere() || self.set_waker(TaskWaker::of(context)) {
                return Poll::Pending;
            }
        }
    }

    /// `false` if another event happened since the last check.
    fn set_waker(&mut self, waker: TaskWaker) -> bool {
        let mut state = self.space.state.lock();
        let is_old = std::mem::replace(&mut self.wakes, state.wakes) == state.wakes;
        let Some(turn) = self.turn.filter(|turn| is_old && state.line.has(*turn)) else {
            drop(state);
            drop(waker);
            return false;
        };
        let before = state.line.set_wakeup(turn, Wakeup::Task(waker));
        drop(state);
        drop(before);
        true
    }

    /// Waits as a thread until an event since the last check, or until the deadline.
    pub(crate) fn wait(&mut self, deadline: Deadline) {
        let mut state = self.space.state.lock();
        if let Some(turn) = self.turn
            && state.wakes == self.wakes
            && state.line.has(turn)
        {
            let wakeup = Arc::new(Condvar::new());
            drop(state.line.set_wakeup(turn, Wakeup::Thread(Arc::clone(&wakeup))));
            match deadline.instant() {
                Some(at) => {
                    wakeup.wait_until(&mut state, at);
                }
                None => wakeup.wait(&mut state),
            }
        }
        self.wakes = state.wakes;
    }

    fn take(&mut self) -> Option<Reservation> {
        let turn = self.turn.filter(|_| !self.space.is_elsewhere())?;
        let is_served = !self.space.state.lock().line.has(turn);
        is_served.then(|| {
            self.turn = None;
            Reservation::of(self.space, self.bytes)
        })
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let Some(turn) = self.turn.filter(|_| !self.space.is_elsewhere()) else { return };
        let mut state = self.space.state.lock();
        let left = state.line.leave(turn);
        if left.is_none() {
            state.reserved = state.reserved.saturating_sub(self.bytes);
        }
        // The next in line gets the bytes, or is no longer behind this one.
        let wakeups = self.space.serve(&mut state);
        drop(state);
        drop(left);
        wakeups.wake();
    }
}
