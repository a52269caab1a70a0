//! Which operator changed a key, and why: kept as records of the engine itself, in a scope of
//! their own. So reasons are durable, come along in backups, and go when their time is over.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::{Begin, Completion, Engine, Fence, Fingerprint, Scope, Status};

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

/// A change that was noted: its key in the journal, and the fence of its record there. Another
/// change may be noted in its place later.
pub(super) struct Noted(String, Fence);

impl Journal {
    pub(super) fn of(engine: &Engine) -> Self {
        Self { scope: engine.scope(SCOPE), keep: Duration::from_secs(90 * 24 * 3_600) }
    }

    /// Notes a change before it is made, durably, so that no change is without its reason. In the
    /// place of the oldest of that key, if there are too many.
    pub(super) async fn note(&self, scope: &[u8], key: &[u8], change: &Change) -> Result<Noted, Problem> {
        let body = serde_json::to_vec(change).map_err(Problem::internal)?;
        let (mut oldest, mut vacant): (Option<(u64, String, Fence)>, _) = (None, None);
        for slot in slots(scope, key) {
            match self.read(&slot).await? {
                Slot::Vacant => vacant = vacant.or(Some(slot)),
                Slot::Change(change, fence) if oldest.as_ref().is_none_or(|(at, ..)| change.at_ms < *at) => {
                    oldest = Some((change.at_ms, slot, fence));
                }
                Slot::Change(..) | Slot::Other => {}
            }
        }
        let slot = match (vacant, oldest) {
            (Some(slot), _) => slot,
            (None, Some((_, slot, fence))) => {
                // Another change may have been noted in its place since it was read.
                if !self.scope.forget_if_async(&slot, fence).await.map_err(Problem::of_forget)? {
                    return Err(Problem::busy("other changes of this key are being noted"));
                }
                slot
            }
            (None, None) => return Err(Problem::busy("other changes of this key are being noted")),
        };
        match self.scope.begin_async(&slot, Fingerprint::of(&body)).await.map_err(Problem::of_begin)? {
            Begin::Fresh(claim) => {
                let completion = Completion::new().ttl(self.keep).tombstone_ttl(self.keep);
                let noted = claim
                    .complete_with_async(&body, completion)
                    .await
                    .map_err(|error| Problem::of_end(&error))?;
                Ok(Noted(slot, noted.fence()))
            }
            Begin::InFlight(_) | Begin::Done(_) => {
                Err(Problem::busy("another change of this key is being noted"))
            }
        }
    }

    /// Takes back what was noted of a change that was not made.
    pub(super) async fn take_back(&self, noted: Noted) {
        // Best effort: otherwise the key's own state says that it was not made.
        let Noted(slot, fence) = noted;
        self.scope.forget_if_async(slot, fence).await.ok();
    }

    /// The changes of a key, the last first.
    pub(super) async fn of_key(&self, scope: &[u8], key: &[u8]) -> Result<Vec<Change>, Problem> {
        let mut changes = Vec::new();
        for slot in slots(scope, key) {
            if let Slot::Change(change, _) = self.read(&slot).await? {
                changes.push(change);
            }
        }
        changes.sort_by_key(|change| std::cmp::Reverse(change.at_ms));
        Ok(changes)
    }

    async fn read(&self, slot: &str) -> Result<Slot, Problem> {
        Ok(match self.scope.get_async(slot).await.map_err(Problem::of_read)? {
            Status::Vacant => Slot::Vacant,
            Status::Done(record) => serde_json::from_slice(record.body())
                .map_or(Slot::Other, |change| Slot::Change(change, record.fence())),
            Status::InFlight(_) | Status::Interrupted(_) | Status::Expired(_) | Status::Unreadable(_) => {
                Slot::Other
            }
        })
    }
}

enum Slot {
    Vacant,
    Change(Change, Fence),
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

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::sim::SimDisk;

    fn poll<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn run<F: Future>(engine: &Engine, call: F) -> F::Output {
        let mut call = pin!(call);
        for _ in 0..100 {
            if let Poll::Ready(output) = poll(call.as_mut()) {
                return output;
            }
            engine.step();
        }
        panic!("it hangs");
    }

    fn change(at_ms: u64) -> Change {
        let name = || "name".to_owned();
        Change {
            at_ms,
            did: name(),
            operator: name(),
            reason: at_ms.to_string(),
            scope: name(),
            key: name(),
            hash: name(),
        }
    }

    /// A journal in which a key has as many changes as are kept, each read from the disk.
    fn full() -> (Engine, Journal) {
        let options = Engine::options().disk(&SimDisk::new()).stepped().cache_bytes(0);
        let engine = options.open("x.idem").unwrap();
        let journal = Journal::of(&engine);
        for at_ms in 0..SLOTS as u64 {
            assert!(run(&engine, journal.note(b"charges", b"key", &change(at_ms))).is_ok());
        }
        engine.checkpoint().unwrap();
        (engine, journal)
    }

    fn reasons(engine: &Engine, journal: &Journal) -> Vec<String> {
        let Ok(changes) = run(engine, journal.of_key(b"charges", b"key")) else { panic!("it is read") };
        changes.into_iter().map(|change| change.reason).collect()
    }

    /// Two operators change a key. One is held up between its look at the oldest reason and the
    /// moment in which it would take that one's place.
    #[test]
    fn a_reason_that_was_noted_meanwhile_is_not_replaced() {
        let (engine, journal) = full();
        let (slow, fast) = (change(100), change(101));
        let mut slow = pin!(journal.note(b"charges", b"key", &slow));
        for _ in 0..SLOTS / 2 {
            assert!(poll(slow.as_mut()).is_pending());
            engine.step();
        }
        assert!(run(&engine, journal.note(b"charges", b"key", &fast)).is_ok());
        assert!(run(&engine, slow).is_err(), "it is told to try again");
        assert_eq!(reasons(&engine, &journal), ["101", "7", "6", "5", "4", "3", "2", "1"]);
    }

    #[test]
    fn a_reason_that_is_taken_back_takes_no_later_one_along() {
        let (engine, journal) = full();
        let Ok(noted) = run(&engine, journal.note(b"charges", b"key", &change(100))) else {
            panic!("it is noted")
        };
        for at_ms in 101..=SLOTS as u64 + 100 {
            assert!(run(&engine, journal.note(b"charges", b"key", &change(at_ms))).is_ok());
        }
        run(&engine, journal.take_back(noted));
        assert_eq!(reasons(&engine, &journal).len(), SLOTS);
    }
}
