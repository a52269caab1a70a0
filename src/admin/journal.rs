//! Which operator changed a key, and why: kept as records of the engine itself, in a scope of
//! their own. So reasons are durable, come along in backups, and go when their time is over.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::{Begin, Completion, Engine, Fingerprint, Scope, Status};

/// The scope of the records.
pub(super) const SCOPE: &str = "idemkv admin";
/// Changes that are kept of one key.
const SLOTS: usize = 8;

/// A change of one key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Change {
    pub(super) at_ms: u64,
    /// Such as `completed` or `forgotten`.
    pub(super) did: String,
    pub(super) operator: String,
    pub(super) reason: String,
    pub(super) scope: String,
    pub(super) key: String,
    pub(super) hash: String,
}

pub(super) struct Journal {
    scope: Scope,
    pub(super) keep: Duration,
}

/// A change that was noted.
pub(super) struct Noted(String);

impl Journal {
    pub(super) fn of(engine: &Engine) -> Self {
        Self { scope: engine.scope(SCOPE), keep: Duration::from_secs(90 * 24 * 3_600) }
    }

    /// Notes a change before it is made, durably, so that no change is without its reason. In the
    /// place of the oldest of that key, if there are too many.
    pub(super) async fn note(&self, scope: &[u8], key: &[u8], change: &Change) -> Result<Noted, Problem> {
        let body = serde_json::to_vec(change).map_err(Problem::internal)?;
        let (mut oldest, mut vacant): (Option<(u64, String)>, _) = (None, None);
        for slot in slots(scope, key) {
            match self.read(&slot).await? {
                Slot::Vacant => vacant = vacant.or(Some(slot)),
                Slot::Change(change) if oldest.as_ref().is_none_or(|(at, _)| change.at_ms < *at) => {
                    oldest = Some((change.at_ms, slot));
                }
                Slot::Change(_) | Slot::Other => {}
            }
        }
        let slot = match (vacant, oldest) {
            (Some(slot), _) => slot,
            (None, Some((_, slot))) => {
                self.scope.forget_async(&slot).await.map_err(Problem::of_forget)?;
                slot
            }
            (None, None) => return Err(Problem::busy("other changes of this key are being noted")),
        };
        match self.scope.begin_async(&slot, Fingerprint::of(&body)).await.map_err(Problem::of_begin)? {
            Begin::Fresh(claim) => {
                let completion = Completion::new().ttl(self.keep).tombstone_ttl(self.keep);
                claim
                    .complete_with_async(&body, completion)
                    .await
                    .map_err(|error| Problem::of_end(&error))?;
                Ok(Noted(slot))
            }
            Begin::InFlight(_) | Begin::Done(_) => {
                Err(Problem::busy("another change of this key is being noted"))
            }
        }
    }

    /// Takes back what was noted of a change that was not made.
    pub(super) async fn take_back(&self, noted: Noted) {
        // Best effort: otherwise the key's own state says that it was not made.
        self.scope.forget_async(noted.0).await.ok();
    }

    /// The changes of a key, the last first.
    pub(super) async fn of_key(&self, scope: &[u8], key: &[u8]) -> Result<Vec<Change>, Problem> {
        let mut changes = Vec::new();
        for slot in slots(scope, key) {
            if let Slot::Change(change) = self.read(&slot).await? {
                changes.push(change);
            }
        }
        changes.sort_by_key(|change| std::cmp::Reverse(change.at_ms));
        Ok(changes)
    }

    async fn read(&self, slot: &str) -> Result<Slot, Problem> {
        Ok(match self.scope.get_async(slot).await.map_err(Problem::of_read)? {
            Status::Vacant => Slot::Vacant,
            Status::Done(record) => serde_json::from_slice(record.body()).map_or(Slot::Other, Slot::Change),
            Status::InFlight(_) | Status::Interrupted(_) | Status::Expired(_) | Status::Unreadable(_) => {
                Slot::Other
            }
        })
    }
}

enum Slot {
    Vacant,
    Change(Change),
    /// Not to be written to, nor read.
    Other,
}

/// The keys of a key's changes. They are short, however long the key is.
fn slots(scope: &[u8], key: &[u8]) -> impl Iterator<Item = String> {
    let digest = Fingerprint::builder().field("scope", scope).field("key", key).finish();
    let mut name = String::new();
    for byte in digest.as_bytes().iter().take(16) {
        // A string takes everything.
        write!(name, "{byte:02x}").ok();
    }
    (0..SLOTS).map(move |slot| format!("{name}-{slot}"))
}
