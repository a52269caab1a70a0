//! Whether the caller for whom the store's thread does something still waits for it.

use tokio::sync::Notify;

use crate::fork;
use crate::sync::{Arc, AtomicBool, Ordering};

/// Both ends.
pub(super) fn pair() -> (Waits, Awaited) {
    let shared = Arc::new(Shared { has_left: AtomicBool::new(false), left: Notify::new() });
    (Waits { shared: Arc::clone(&shared), generation: fork::generation() }, Awaited(shared))
}

struct Shared {
    has_left: AtomicBool,
    left: Notify,
}

/// The caller's end. Its drop says that nobody waits any more.
pub(super) struct Waits {
    shared: Arc<Shared>,
    generation: u64,
}

impl Drop for Waits {
    fn drop(&mut self) {
        // In a forked child nothing runs that it could be said to.
        if self.generation == fork::generation() {
            self.shared.has_left.store(true, Ordering::SeqCst);
            self.shared.left.notify_one();
        }
    }
}

/// The end of the store's thread.
#[derive(Clone)]
pub(super) struct Awaited(Arc<Shared>);

impl Awaited {
    pub(super) fn has_left(&self) -> bool {
        self.0.has_left.load(Ordering::SeqCst)
    }

    /// Waits until the caller has left. For one task only.
    pub(super) async fn left(&self) {
        self.0.left.notified().await;
    }
}
