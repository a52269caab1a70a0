//! `Policies`: the policies of scopes as this process last read them, with their version. The
//! store grants nothing under another version.

use std::collections::HashMap;

use super::statement::Miss;
use crate::policy::Policy;
use crate::sync::{Arc, Mutex, Ordering, UnseenU64};
use crate::task::reply::{self, Reply, ReplySender};

pub(super) struct Policies {
    /// Of scopes that have none of their own. It is an option of the process.
    pub(super) default: Policy,
    /// Leaf lock.
    table: Mutex<Table>,
    /// Reads so far.
    tickets: UnseenU64,
    /// Callers that wait for the read under way; `None` while there is none. Leaf lock.
    followers: Mutex<Option<Vec<ReplySender<Read>>>>,
}

type Read = Result<(), Miss>;

#[derive(Default)]
struct Table {
    version: i64,
    /// Of the read that it is from.
    ticket: u64,
    of_scopes: HashMap<Vec<u8>, Policy>,
}

impl Policies {
    pub(super) fn new(default: Policy) -> Self {
        Self { default, table: Mutex::default(), tickets: UnseenU64::new(0), followers: Mutex::default() }
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

    /// Joins the read under way. If there is none, the caller is to make one.
    pub(super) fn join(self: &Arc<Self>) -> Result<Reply<Read>, Reading> {
        let mut followers = self.followers.lock();
        let Some(followers) = followers.as_mut() else {
            *followers = Some(Vec::new());
            return Err(Reading { policies: Arc::clone(self), read: None });
        };
        let (reply, answer) = reply::pair();
        followers.push(reply);
        Ok(answer)
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

/// A read that other callers may join. Its drop answers them, or tells them that nobody made it.
pub(super) struct Reading {
    policies: Arc<Policies>,
    read: Option<Read>,
}

impl Reading {
    pub(super) fn ends(mut self, read: &Read) {
        self.read = Some(read.clone());
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let followers = self.policies.followers.lock().take();
        for follower in followers.into_iter().flatten() {
            if let Some(read) = &self.read {
                follower.send(read.clone());
            }
        }
    }
}
