//! `Blocked`: keys whose begins waited for an open transaction. A group that waits for one of them
//! makes hundreds of others wait, so the next begin of the key is not sent before a look shows that
//! the transaction is over.

use std::collections::HashSet;

use crate::key::Digest;
use crate::sync::{AtomicBool, Mutex, Ordering};

/// More keys than these are forgotten, and found again.
const KEYS_MAX: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct Blocked {
    has_some: AtomicBool,
    /// Leaf lock.
    keys: Mutex<HashSet<Digest>>,
}

impl Blocked {
    pub(super) fn add(&self, keys: impl Iterator<Item = Digest>) {
        let mut all = self.keys.lock();
        if all.len() > KEYS_MAX {
            all.clear();
        }
        all.extend(keys);
        self.has_some.store(!all.is_empty(), Ordering::Relaxed);
    }

    pub(super) fn contains(&self, key: Digest) -> bool {
        self.has_some.load(Ordering::Relaxed) && self.keys.lock().contains(&key)
    }

    /// Keeps those that are blocked still.
    pub(super) fn keep(&self, is_blocked: impl Fn(Digest) -> bool) {
        let mut all = self.keys.lock();
        all.retain(|key| is_blocked(*key));
        self.has_some.store(!all.is_empty(), Ordering::Relaxed);
    }
}
