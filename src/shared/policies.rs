//! `Policies`: the policies of scopes as this process last read them, with their version. The
//! store grants nothing under another version.

use std::collections::HashMap;

use crate::policy::Policy;
use crate::sync::Mutex;

pub(super) struct Policies {
    /// Of scopes that have none of their own. It is an option of the process.
    pub(super) default: Policy,
    /// Leaf lock.
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    version: i64,
    of_scopes: HashMap<Vec<u8>, Policy>,
}

impl Policies {
    pub(super) fn new(default: Policy) -> Self {
        Self { default, table: Mutex::default() }
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

    /// Takes what was read, unless something newer was.
    pub(super) fn set(&self, version: i64, of_scopes: HashMap<Vec<u8>, Policy>) {
        let mut table = self.table.lock();
        if version > table.version {
            *table = Table { version, of_scopes };
        }
    }
}
