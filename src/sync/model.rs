//! The primitives of `sync` for a scheduler that decides which thread goes on: shuttle's or loom's, in the shape in which the engine
//! uses those of the real build.

use std::collections::VecDeque;
use std::ops::{Deref, DerefMut};
use std::sync::PoisonError;
use std::time::Instant;

#[cfg(idemkv_loom)]
use loom as scheduler;
#[cfg(idemkv_shuttle)]
use shuttle as scheduler;

#[cfg(idemkv_shuttle)]
pub(crate) use scheduler::sync::atomic::AtomicBool;
pub(crate) use scheduler::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize};
pub(crate) use scheduler::thread::{Builder, JoinHandle, Thread, current, park, yield_now};

use super::Arc;

/// Loom has a swap give the value before a store that its own thread knows of, where that store and an earlier swap did not know of each
/// other. No processor, and not the language, allows that; so a store is a swap as well here.
#[cfg(idemkv_loom)]
#[derive(Debug)]
pub(crate) struct AtomicBool(scheduler::sync::atomic::AtomicBool);

#[cfg(idemkv_loom)]
impl AtomicBool {
    pub(crate) fn new(value: bool) -> Self {
        Self(scheduler::sync::atomic::AtomicBool::new(value))
    }

    pub(crate) fn load(&self, order: super::Ordering) -> bool {
        self.0.load(order)
    }

    pub(crate) fn store(&self, value: bool, order: super::Ordering) {
        self.0.swap(value, order);
    }

    pub(crate) fn swap(&self, value: bool, order: super::Ordering) -> bool {
        self.0.swap(value, order)
    }
}

/// A lock that does not know of poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(scheduler::sync::Mutex<T>);

/// `None` only while somebody waits with it.
#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T>(Option<scheduler::sync::MutexGuard<'a, T>>);

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(scheduler::sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        MutexGuard(Some(self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match &self.0 {
            Some(guard) => guard,
            None => unreachable!("whoever waits does not look"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(guard) => guard,
            None => unreachable!("whoever waits does not look"),
        }
    }
}

/// A lock for many readers that does not know of poison.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(scheduler::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(scheduler::sync::RwLock::new(value))
    }

    pub(crate) fn read(&self) -> scheduler::sync::RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// For a thread that may have it already, which no test does.
    pub(crate) fn read_recursive(&self) -> scheduler::sync::RwLockReadGuard<'_, T> {
        self.read()
    }

    pub(crate) fn write(&self) -> scheduler::sync::RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get_mut(&mut self) -> &mut T {
        self.0.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn try_write(&self) -> Option<scheduler::sync::RwLockWriteGuard<'_, T>> {
        self.0.try_write().ok()
    }
}

/// A condition to wait for.
///
/// Time is what the test makes of it; see `time`. In loom's models it does not pass.
#[derive(Debug, Default)]
pub(crate) struct Condvar(Arc<scheduler::sync::Condvar>);

/// Whether a wait ended because its time was up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    pub(crate) fn timed_out(self) -> bool {
        self.0
    }
}

impl Condvar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    #[expect(clippy::unused_self, reason = "as in the real build")]
    fn taken<'a, T>(&self, guard: &mut MutexGuard<'a, T>) -> scheduler::sync::MutexGuard<'a, T> {
        match guard.0.take() {
            Some(taken) => taken,
            None => unreachable!("a guard waits once at a time"),
        }
    }

    pub(crate) fn wait<T>(&self, guard: &mut MutexGuard<'_, T>) {
        let taken = self.taken(guard);
        guard.0 = Some(self.0.wait(taken).unwrap_or_else(PoisonError::into_inner));
    }

    #[cfg(idemkv_shuttle)]
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, at: Instant) -> WaitTimeoutResult {
        if super::time::now() < at {
            let _sleeper = super::time::wake_at(at, &self.0);
            self.wait(guard);
        }
        WaitTimeoutResult(super::time::now() >= at)
    }

    #[cfg(idemkv_loom)]
    pub(crate) fn wait_until<T>(&self, guard: &mut MutexGuard<'_, T>, _at: Instant) -> WaitTimeoutResult {
        self.wait(guard);
        WaitTimeoutResult(false)
    }
}

/// A channel for so many messages.
pub(crate) fn bounded<T>(max: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { queue: VecDeque::new(), max, senders: 1, received: true };
    let channel = Arc::new(Channel { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

#[derive(Debug)]
struct Channel<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct State<T> {
    queue: VecDeque<T>,
    max: usize,
    senders: usize,
    /// Whether there is somebody to receive.
    received: bool,
}

/// Why nothing was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RecvTimeoutError {
    Timeout,
    Disconnected,
}

#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<Channel<T>>);

impl<T> Sender<T> {
    /// Gives the message back where it finds no place, or nobody to receive it.
    pub(crate) fn try_send(&self, message: T) -> Result<(), T> {
        let mut state = self.0.state.lock();
        if !state.received || state.queue.len() >= state.max {
            return Err(message);
        }
        state.queue.push_back(message);
        drop(state);
        self.0.changed.notify_all();
        Ok(())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state.lock().senders -= 1;
        self.0.changed.notify_all();
    }
}

#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<Channel<T>>);

impl<T> Receiver<T> {
    pub(crate) fn recv(&self) -> Result<T, RecvTimeoutError> {
        self.receive(None)
    }

    pub(crate) fn recv_deadline(&self, at: Instant) -> Result<T, RecvTimeoutError> {
        self.receive(Some(at))
    }

    #[cfg(test)]
    pub(crate) fn try_recv(&self) -> Result<T, RecvTimeoutError> {
        self.0.state.lock().queue.pop_front().ok_or(RecvTimeoutError::Timeout)
    }

    fn receive(&self, at: Option<Instant>) -> Result<T, RecvTimeoutError> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(message) = state.queue.pop_front() {
                return Ok(message);
            }
            if state.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            match at {
                None => self.0.changed.wait(&mut state),
                Some(at) if self.0.changed.wait_until(&mut state, at).timed_out() => {
                    return state.queue.pop_front().ok_or(RecvTimeoutError::Timeout);
                }
                Some(_) => {}
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        self.0.state.lock().received = false;
    }
}
