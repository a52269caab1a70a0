//! Which claims' leases end when, so that those who wait for them are told in time. Whether a lease has ended is decided
//! elsewhere, from the clock, by whoever looks.

use std::collections::BTreeMap;

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::nudge::Nudge;
use crate::state::Fence;
use crate::sync::{Arc, Mutex};

#[derive(Debug)]
pub(crate) struct Leases {
    /// Told of a lease that ends before all others.
    worker: Nudge,
    /// Leaf lock.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// By a time at or before the end of the lease: renewing does not touch this.
    due: BTreeMap<(Timestamp, Fence), Arc<Attempt>>,
    at: std::collections::HashMap<Fence, Timestamp>,
}

impl Leases {
    pub(super) fn new(worker: Nudge) -> Self {
        Self { worker, table: Mutex::default() }
    }

    /// Watches a claim's lease, if it has one.
    pub(super) fn watch(&self, attempt: &Arc<Attempt>) {
        if attempt.lease.is_none() {
            return;
        }
        let until = attempt.lease_until();
        let mut table = self.table.lock();
        if let Some(before) = table.at.insert(attempt.fence, until) {
            table.due.remove(&(before, attempt.fence));
        }
        table.due.insert((until, attempt.fence), Arc::clone(attempt));
        let is_next = table.due.first_key_value().is_some_and(|((_, first), _)| *first == attempt.fence);
        drop(table);
        if is_next {
            self.worker.nudge();
        }
    }

    /// Watches it no longer.
    pub(super) fn forget(&self, attempt: &Attempt) {
        if attempt.lease.is_none() {
            return;
        }
        let mut table = self.table.lock();
        let gone = table.at.remove(&attempt.fence).and_then(|at| table.due.remove(&(at, attempt.fence)));
        drop(table);
        drop(gone);
    }

    /// When to look again.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.table.lock().due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Claims whose leases have ended by now. Those that were renewed meanwhile are watched on.
    pub(super) fn take_due(&self, now: Timestamp) -> Vec<Arc<Attempt>> {
        let mut table = self.table.lock();
        let mut due = Vec::new();
        while let Some(first) = table.due.first_entry()
            && first.key().0 <= now
        {
            let attempt = first.remove();
            let until = attempt.lease_until();
            if until <= now {
                table.at.remove(&attempt.fence);
                due.push(attempt);
            } else {
                table.at.insert(attempt.fence, until);
                table.due.insert((until, attempt.fence), attempt);
            }
        }
        due
    }
}
