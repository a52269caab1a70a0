//! Which operator changed a key, and why: kept as records of the engine itself, in a scope of
//! their own. So reasons are durable, come along in backups, and go when their time is over.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::problem::Problem;
use crate::{Begin, Completion, Engine, Fence, Fingerprint, Scope, Seen, Status};

/// The scope of the records.
pub(super) const SCOPE: &str = "idemkv admin";
/// Changes that are kept of one key.
const KEPT: usize = 8;
/// Places for them: the oldest keeps its own until a later change is made, and a few changes may
/// be under way.
const SLOTS: usize = KEPT + 4;

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

/// The key of a change in the journal, and the fence of its record there. Another change may be
/// noted in its place later.
type Place = (String, Fence);

/// A change that was noted, and is made or refused now.
#[must_use = "the journal has to be told whether the change was made"]
pub(super) struct Noted {
    place: Place,
    /// Where the changes are that go once this one is made.
    oldest: Vec<Place>,
}

impl Journal {
    pub(super) fn of(engine: &Engine) -> Self {
        Self { scope: engine.scope(SCOPE), keep: Duration::from_secs(90 * 24 * 3_600) }
    }

    /// Notes a change before it is made, durably, so that no change is without its reason.
    pub(super) async fn note(&self, scope: &[u8], key: &[u8], change: &Change) -> Result<Noted, Problem> {
        let body = serde_json::to_vec(change).map_err(Problem::internal)?;
        let (mut changes, mut vacant) = (Vec::new(), None);
        for slot in slots(scope, key) {
            match self.read(&slot).await? {
                Slot::Vacant => vacant = vacant.or(Some(slot)),
                Slot::Change(change, fence) => changes.push((change.at_ms, (slot, fence))),
                Slot::Other => {}
            }
        }
        changes.sort_by_key(|(at, _)| *at);
        // A change under way counts as one that is kept.
        let surplus = (changes.len() + 1).saturating_sub(KEPT);
        let mut oldest: Vec<_> = changes.into_iter().take(surplus).map(|(_, place)| place).collect();
        let slot = if let Some(slot) = vacant {
            slot
        } else if oldest.is_empty() {
            return Err(Problem::busy("other changes of this key are being noted"));
        } else {
            // The engine stopped in the middle of changes, say.
            let (slot, fence) = oldest.remove(0);
            // Another change may have been noted in its place since it was read.
            if !self.scope.forget_if_async(&slot, Seen::Result(fence)).await.map_err(Problem::of_forget)? {
                return Err(Problem::busy("other changes of this key are being noted"));
            }
            slot
        };
        match self.scope.begin_async(&slot, Fingerprint::of(&body)).await.map_err(Problem::of_begin)? {
            Begin::Fresh(claim) => {
                let completion = Completion::new().ttl(self.keep).tombstone_ttl(self.keep);
                let error = match claim.complete_with_async(&body, completion).await {
                    Ok(noted) => return Ok(Noted { place: (slot, noted.fence()), oldest }),
                    Err(error) => error,
                };
                let problem = Problem::of_end(&error);
                // Dropped, the claim would leave the place interrupted, and take it away for good.
                if let Some(claim) = error.into_claim() {
                    claim.put_back_async().await.ok();
                }
                Err(problem)
            }
            Begin::InFlight(_) | Begin::Done(_) => {
                Err(Problem::busy("another change of this key is being noted"))
            }
        }
    }

    /// The change was made: the oldest go, if there are too many.
    pub(super) async fn made(&self, noted: Noted) {
        for (slot, fence) in noted.oldest {
            // Best effort: the next change takes it along.
            self.scope.forget_if_async(slot, Seen::Result(fence)).await.ok();
        }
    }

    /// Takes back what was noted of a change that was not made.
    pub(super) async fn take_back(&self, noted: Noted) {
        // Best effort: otherwise the key's own state says that it was not made.
        let (slot, fence) = noted.place;
        self.scope.forget_if_async(slot, Seen::Result(fence)).await.ok();
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

    fn note(engine: &Engine, journal: &Journal, at_ms: u64) -> Noted {
        let noted = run(engine, journal.note(b"charges", b"key", &change(at_ms)));
        noted.unwrap_or_else(|_| panic!("{at_ms} is noted"))
    }

    /// A journal in which a key has so many changes, each read from the disk.
    fn journal(changes: usize) -> (Engine, Journal) {
        let options = Engine::options().disk(&SimDisk::new()).stepped().cache_bytes(0);
        let engine = options.open("x.idem").unwrap();
        let journal = Journal::of(&engine);
        for at_ms in 0..changes as u64 {
            // The engine stops before it knows whether the change was made.
            drop(note(&engine, &journal, at_ms));
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
        let (engine, journal) = journal(SLOTS);
        let (slow, fast) = (change(100), change(101));
        let mut slow = pin!(journal.note(b"charges", b"key", &slow));
        for _ in 0..SLOTS / 2 {
            assert!(poll(slow.as_mut()).is_pending());
            engine.step();
        }
        assert!(run(&engine, journal.note(b"charges", b"key", &fast)).is_ok());
        assert!(run(&engine, slow).is_err(), "it is told to try again");
        let expected: Vec<_> = [101].into_iter().chain((1..SLOTS).rev()).map(|at| at.to_string()).collect();
        assert_eq!(reasons(&engine, &journal), expected);
    }

    /// It lost the oldest to a change that was then refused: the key was not as it was shown.
    #[test]
    fn a_full_journal_loses_its_oldest_reason_to_no_change_that_is_refused() {
        let (engine, journal) = journal(KEPT);
        let all = reasons(&engine, &journal);
        let refused = note(&engine, &journal, 100);
        run(&engine, journal.take_back(refused));
        assert_eq!(reasons(&engine, &journal), all);
        let made = note(&engine, &journal, 101);
        run(&engine, journal.made(made));
        assert_eq!(reasons(&engine, &journal), ["101", "7", "6", "5", "4", "3", "2", "1"]);
    }

    #[test]
    fn a_change_that_is_made_takes_away_the_reason_of_no_other_that_is_under_way() {
        let (engine, journal) = journal(KEPT);
        let (first, second) = (note(&engine, &journal, 100), note(&engine, &journal, 101));
        run(&engine, journal.made(first));
        run(&engine, journal.made(second));
        assert_eq!(reasons(&engine, &journal), ["101", "100", "7", "6", "5", "4", "3", "2"]);
    }

    #[test]
    fn a_reason_that_is_taken_back_takes_no_later_one_along() {
        let (engine, journal) = journal(SLOTS);
        let noted = note(&engine, &journal, 100);
        for at_ms in 101..=SLOTS as u64 + 100 {
            drop(note(&engine, &journal, at_ms));
        }
        run(&engine, journal.take_back(noted));
        assert_eq!(reasons(&engine, &journal).len(), SLOTS);
    }
}
