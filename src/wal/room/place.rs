//! A caller's place in the line for space in the log.

use std::task::{Context, Poll};

use super::Room;
use crate::clock::Deadline;
use crate::fork;
use crate::line::{Bell, Number, Rank};
use crate::sync::{Arc, Condvar};

/// A place in the line. Dropped, it is given up, and what it was promised and did not take goes to the next in line.
#[derive(Debug)]
#[must_use = "a place is given up when it is dropped"]
pub(crate) struct Place<'a> {
    room: &'a Room,
    bytes: u64,
    /// `None` once the promise was taken.
    number: Option<Number>,
    /// Calls of [`Room::wake`] before the caller last looked for what else may have happened.
    wakes: u64,
    generation: u64,
}

impl Room {
    /// Lines up for a promise of `bytes`. A caller that waits only while they may come in a log of `bytes_max` is woken when they can't.
    pub(crate) fn line_up(&self, bytes: u64, rank: Rank, bytes_max: Option<u64>) -> Place<'_> {
        let mut state = self.state.lock();
        state.wanted = state.wanted.max(bytes);
        state.bytes_max = bytes_max.or(state.bytes_max);
        let number = Some(state.line.join(bytes, rank, bytes_max.is_some()));
        let wakes = state.wakes;
        let rings = self.serve(&mut state);
        drop(state);
        rings.ring();
        Place { room: self, bytes, number, wakes, generation: fork::generation() }
    }
}

impl Place<'_> {
    /// Takes the promise, where it was made by now. `ask` is called where it was not: it may make space, or say why none will come.
    pub(crate) fn look<T>(&mut self, ask: impl FnOnce() -> Option<T>) -> Option<Result<(), T>> {
        if self.take() {
            return Some(Ok(()));
        }
        let refusal = ask();
        if self.take() {
            return Some(Ok(()));
        }
        refusal.map(Err)
    }

    /// Waits for the promise as a task.
    pub(crate) fn poll<T>(
        &mut self,
        context: &Context<'_>,
        ask: impl Fn() -> Option<T>,
    ) -> Poll<Result<(), T>> {
        loop {
            if let Some(end) = self.look(&ask) {
                return Poll::Ready(end);
            }
            let waker = context.waker().clone();
            if self.is_elsewhere() || self.set_waker(waker) {
                return Poll::Pending;
            }
        }
    }

    /// `false` where something happened since the last look.
    fn set_waker(&mut self, waker: std::task::Waker) -> bool {
        let mut state = self.room.state.lock();
        let is_old = std::mem::replace(&mut self.wakes, state.wakes) == state.wakes;
        let Some(number) = self.number.filter(|number| is_old && state.line.has(*number)) else {
            drop(state);
            return false;
        };
        let before = state.line.set_bell(number, Bell::Task(waker));
        drop(state);
        drop(before);
        true
    }

    /// Waits as a thread until something happened since the last look, or until the deadline.
    pub(crate) fn wait(&mut self, deadline: Deadline) {
        let mut state = self.room.state.lock();
        if let Some(number) = self.number
            && state.wakes == self.wakes
            && state.line.has(number)
        {
            let bell = Arc::new(Condvar::new());
            drop(state.line.set_bell(number, Bell::Thread(Arc::clone(&bell))));
            match deadline.instant() {
                Some(at) => {
                    bell.wait_until(&mut state, at);
                }
                None => bell.wait(&mut state),
            }
        }
        self.wakes = state.wakes;
    }

    fn take(&mut self) -> bool {
        let Some(number) = self.number.filter(|_| !self.is_elsewhere()) else { return false };
        let is_served = !self.room.state.lock().line.has(number);
        if is_served {
            self.number = None;
        }
        is_served
    }

    /// In a forked child the lock may be held for ever.
    fn is_elsewhere(&self) -> bool {
        self.generation != fork::generation()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let Some(number) = self.number.filter(|_| !self.is_elsewhere()) else { return };
        let mut state = self.room.state.lock();
        let left = state.line.leave(number);
        if left.is_none() {
            state.promised = state.promised.saturating_sub(self.bytes);
        }
        // What it did not take, or stood in front of, is somebody else's.
        let rings = self.room.serve(&mut state);
        drop(state);
        drop(left);
        rings.ring();
    }
}
