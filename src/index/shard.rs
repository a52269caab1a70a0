//! One shard of the index: a table, the bytes of cached bodies in it, and the hand that evicts them. Single-threaded.

use super::due::Due;
use super::slot::{Slot, SlotTime};
use super::table::{Probe, Table};
use crate::Timestamp;
use crate::key::Digest;
use crate::state::{Decision, Event, Phase, decide};

/// What a change does to a slot.
pub(crate) enum Change {
    Keep,
    Set(Slot),
}

#[derive(Debug, Default)]
pub(crate) struct Shard {
    table: Table,
    cached_bytes: usize,
    /// Keys without an outcome: with a claim that is out, or an interrupted one.
    open: usize,
    /// Of those, the interrupted ones.
    interrupted: usize,
    /// Where the eviction hand stands.
    hand: usize,
    due: Due,
}

impl Shard {
    #[inline]
    pub(crate) fn get(&self, digest: Digest) -> Option<&Slot> {
        self.table.get(digest)
    }

    /// Reads the cell where a key would be looked for first, for nothing but to have it in the cache.
    #[inline]
    pub(crate) fn warm(&self, digest: Digest) -> u64 {
        self.table.warm(digest)
    }

    pub(crate) fn change<R>(&mut self, digest: Digest, change: impl FnOnce(&Slot) -> (Change, R)) -> R {
        let found = self.table.find(digest);
        let (change, result) = change(self.table.slot(found));
        if let Change::Set(slot) = change {
            self.put(found, digest, slot);
        }
        result
    }

    fn set(&mut self, digest: Digest, slot: Slot) {
        self.put(self.table.find(digest), digest, slot);
    }

    /// Sets the slot of a key that was looked for just now.
    fn put(&mut self, found: Probe, digest: Digest, slot: Slot) {
        self.cached_bytes += slot.cached_bytes();
        self.open += usize::from(slot.is_open());
        self.interrupted += usize::from(slot.is_interrupted());
        if let Some(until) = slot.new_until() {
            self.due.add(until);
        }
        let old = self.table.put(found, digest, slot);
        self.cached_bytes -= old.cached_bytes();
        self.open -= usize::from(old.is_open());
        self.interrupted -= usize::from(old.is_interrupted());
    }

    pub(crate) fn reserve(&mut self, more: usize) {
        self.table.reserve(more);
    }

    /// Lets the hand pass over at most `steps` cells, or until cached bytes are within `budget`. A record that was looked
    /// up since the hand last passed stays; one that no checkpoint has stored yet must stay.
    pub(crate) fn evict(&mut self, budget: usize, steps: usize, epoch: Timestamp) {
        for _ in 0..steps.min(2 * self.table.cells()) {
            if self.cached_bytes <= budget {
                return;
            }
            self.hand = if self.hand + 1 < self.table.cells() { self.hand + 1 } else { 0 };
            if let Some((digest, Slot::Cached(record))) = self.table.cell(self.hand)
                && let Some(place) = record.place()
                && !record.take_touch()
            {
                let until = SlotTime::new(record.remembered_until(), epoch);
                self.set(digest, Slot::Stored { until, place });
            }
        }
    }

    /// Whether a pass of the sweeper pays.
    pub(crate) fn is_pass_due(&self, now: Timestamp) -> bool {
        self.due.is_pass_due(now, self.table.cells())
    }

    /// Removes what has expired from `cells` cells from `from` on; gives the keys of interrupted claims among it, which
    /// have rows on disk, and the number of keys removed.
    pub(crate) fn sweep(&mut self, from: usize, cells: usize, now: Timestamp, epoch: Timestamp) -> Swept {
        let mut due = Vec::new();
        let to = from.saturating_add(cells).min(self.table.cells());
        for at in from..to {
            let Some((digest, slot)) = self.table.cell(at) else { continue };
            if decide(slot.state(epoch), Event::Sweep { now }) == Decision::Become(Phase::Vacant) {
                due.push((digest, slot.clone()));
            } else if let Some(until) = slot.remembered_until(epoch) {
                self.due.leave(now, until);
            }
        }
        let mut swept = Swept { passed: to.saturating_sub(from), ..Swept::default() };
        for (digest, slot) in due {
            match slot {
                // Its row has to go first; the caller sees to that through the log.
                Slot::Interrupted(_) => swept.interrupted.push(digest),
                Slot::Vacant
                | Slot::InFlight(_)
                | Slot::Ending(_)
                | Slot::Cached(_)
                | Slot::Stored { .. } => {
                    self.set(digest, Slot::Vacant);
                    swept.removed += 1;
                }
            }
        }
        swept.done = from.saturating_add(cells) >= self.table.cells();
        if swept.done {
            self.table.shrink();
            self.due.pass_is_over(now, self.table.cells());
        }
        swept
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// Keys without an outcome.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Interrupted keys.
    pub(crate) fn interrupted(&self) -> usize {
        self.interrupted
    }

    pub(crate) fn cells(&self) -> usize {
        self.table.cells()
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    pub(crate) fn table_bytes(&self) -> usize {
        self.table.bytes()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Digest, &Slot)> {
        self.table.iter()
    }
}

/// What a pass of the sweeper found.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Cells passed.
    pub(crate) passed: usize,
    /// Keys removed.
    pub(crate) removed: usize,
    /// Expired keys with a row on disk.
    pub(crate) interrupted: Vec<Digest>,
    /// Whether the pass reached the end of the shard.
    pub(crate) done: bool,
}
