//! Every synchronisation primitive the engine uses, from one place, so that a scheduler for model
//! checking can be slotted in here and nowhere else.

pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(feature = "sim")]
pub(crate) use std::sync::Weak;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
pub(crate) use std::sync::{Arc, OnceLock};
pub(crate) use std::thread::{JoinHandle, Thread, current, park};

use std::cell::Cell;
use std::io;

thread_local! {
    static OURS: Cell<bool> = const { Cell::new(false) };
}

/// Starts a named thread.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(|| {
        OURS.set(true);
        body();
    })
}

/// Whether the calling thread was started by [`spawn`].
pub(crate) fn is_ours() -> bool {
    OURS.get()
}
