//! The primitives of `sync` for a scheduler that chooses the next thread, shuttle's or loom's,
//! with the same interface as those of the real build.

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
pub(crate) use scheduler::thread::{Builder, JoinHandle};

use super::Arc;

/// In loom, a swap may return the value before a store that its own thread knows of, if that
/// store and an earlier swap did not know of each other. Neither processors nor the language
/// allow that, so a store is a swap here too.
#[cfg(idemkv_loom)]
#[derive(Debug)]
pub(crate) struct AtomicBool(scheduler::sync::atomic::AtomicBool);

#[cfg(idemkv_loom)]
impl Default for AtomicBool {
    fn default() -> Self {
        Self::new(false)
    }
}

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

/// `None` only while a thread waits with it.
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
            None => unreachable!("a thread that waits does not look"),
        }
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        match &mut self.0 {
            Some(guard) => guard,
            None => unreachable!("a thread that waits does not look"),
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

    /// For a thread that may already have it; no test does that.
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
/// The test sets the time; see `time`. In loom's models it does not pass.
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
