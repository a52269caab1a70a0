//! Every synchronisation primitive of the engine, so that a scheduler for model checking can
//! replace them in one place.
//!
//! `--cfg idemkv_shuttle` and `--cfg idemkv_loom` do that; see `model`. `tests/schedules/` says
//! how to run the first of them, `src/models/` the second.

use std::cell::Cell;
use std::{io, thread};

#[cfg(any(idemkv_loom, idemkv_shuttle))]
mod model;
#[cfg(idemkv_shuttle)]
pub(crate) mod time;

#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
mod real {
    pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize};
    pub(crate) use std::thread::{Builder, JoinHandle};
}

#[cfg(any(idemkv_loom, idemkv_shuttle))]
pub(crate) use model::*;
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
pub(crate) use real::*;

/// A lock that no scheduler sees, for code that redb calls. redb has its own locks, so the
/// scheduler must not switch threads while one is inside redb.
pub(crate) use parking_lot::{Mutex as UnseenMutex, RwLock as UnseenRwLock};
#[cfg(feature = "sim")]
pub(crate) use std::sync::Weak;
pub(crate) use std::sync::atomic::{
    AtomicBool as UnseenBool, AtomicI64 as UnseenI64, AtomicU64 as UnseenU64, Ordering,
};
pub(crate) use std::sync::{Arc, OnceLock};

#[cfg(idemkv_shuttle)]
pub(crate) use shuttle::thread_local;
#[cfg(not(idemkv_shuttle))]
pub(crate) use std::thread_local;

thread_local! {
    static OURS: Cell<bool> = const { Cell::new(false) };
}

#[cfg(test)]
thread_local! {
    /// From now on the system refuses new threads to the calling thread.
    static BARREN: Cell<bool> = const { Cell::new(false) };
}

/// Runs code that can start no threads.
#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
pub(crate) fn without_threads(body: impl FnOnce()) {
    BARREN.set(true);
    body();
    BARREN.set(false);
}

/// Starts a named thread.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    if is_refused() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    Builder::new().name(name.to_owned()).spawn(|| {
        OURS.with(|ours| ours.set(true));
        body();
    })
}

/// Starts a named thread that ends before its scope does. It is seen by no scheduler.
pub(crate) fn spawn_scoped<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    body: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<thread::ScopedJoinHandle<'scope, T>> {
    if is_refused() {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, body)
}

/// Whether a test refuses the thread, as the system may.
fn is_refused() -> bool {
    #[cfg(test)]
    return BARREN.with(Cell::get);
    #[cfg(not(test))]
    false
}

/// Sleeps for so long, so that other threads get the processor and the disk.
pub(crate) fn pause(time: std::time::Duration) {
    std::thread::sleep(time);
}

/// Whether the calling thread was started by [`spawn`].
pub(crate) fn is_ours() -> bool {
    OURS.with(Cell::get)
}
