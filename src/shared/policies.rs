//! `Policies`: the policies of scopes as this process last read them, with their version. The
//! store grants nothing under another version.

use std::collections::HashMap;

use crate::policy::Policy;
use crate::sync::{Mutex, Ordering, UnseenU64};

pub(super) struct Policies {
    /// Of scopes that have none of their own. It is an option of the process.
    pub(super) default: Policy,
    /// Leaf lock.
    table: Mutex<Table>,
    /// Reads so far.
    tickets: UnseenU64,
}

#[derive(Default)]
struct Table {
    version: i64,
    /// Of the read that it is from.
    ticket: u64,
    of_scopes: HashMap<Vec<u8>, Policy>,
}

impl Policies {
    pub(super) fn new(default: Policy) -> Self {
        Self { default, table: Mutex::default(), tickets: UnseenU64::new(0) }
    }

    /// The policy of a scope, and the version that it is from.
    pub(super) fn of(&self, scope: &[u8]) -> (Policy, i64) {
        let table = self.table.lock();
        (table.of_scopes.get(scope).copied().unwrap_or(self.default), table.version)
    }

    /// All policies of scopes, by name.
    pub(super) fn declared(&self) -> Vec<(Box<[u8]>, Policy)> {
        let table = self.table.lock();
        let mut all: Vec<_> =
            table.of_scopes.iter().map(|(name, policy)| (name.as_slice().into(), *policy)).collect();
        drop(table);
        all.sort_unstable_by(|(a, _): &(Box<[u8]>, _), (b, _)| a.cmp(b));
        all
    }

    pub(super) fn version(&self) -> i64 {
        self.table.lock().version
    }

    /// A read is about to be sent.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Takes what was read, unless a read that was sent later is here already. No version is newer
    /// than another: a failover or a restore can bring an old one back.
    pub(super) fn set(&self, ticket: u64, version: i64, of_scopes: HashMap<Vec<u8>, Policy>) {
        let mut table = self.table.lock();
        if ticket > table.ticket {
            *table = Table { version, ticket, of_scopes };
        }
    }
}
