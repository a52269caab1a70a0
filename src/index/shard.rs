//! One shard of the index: its table, and which cached records are evicted. Single-threaded.

use super::cached::{CachePosition, CachedRecords, Moved};
use super::due::Due;
use super::slot::{Slot, SlotTime};
use super::table::{Probe, Table, WalkPlace};
use crate::Timestamp;
use crate::key::Digest;
use crate::record::RecordLocation;
use crate::state::{Decision, Event, Phase, decide};

/// Cells that one step of the sweeper, or of a list, passes under one lock, and records that one
/// step checks for having been stored: tens of microseconds.
pub(crate) const CELLS_PER_STEP: usize = 2_048;

/// The most records that are evicted under one lock: tens of microseconds.
const EVICTED_MAX: usize = 128;
/// The most records that are spared under one lock because they were looked up: it bounds the
/// work of an eviction.
const SPARED_MAX: usize = 64;

/// What a change does to a slot.
pub(crate) enum Change {
    Keep,
    Set(Slot),
}

/// The table is first, on the cache line of the shard's lock.
#[derive(Debug, Default)]
#[repr(C)]
pub(crate) struct Shard {
    table: Table,
    cached_bytes: usize,
    /// Keys without an outcome: in flight or interrupted.
    open: usize,
    /// Of those, the interrupted ones.
    interrupted: usize,
    /// Of cached records.
    cached: CachedRecords,
    /// The position of a stored record where the eviction hand stands.
    hand: usize,
    /// Records that evictions looked at.
    #[cfg(test)]
    pub(super) looks: usize,
    due: Due,
}

impl Shard {
    #[inline]
    pub(crate) fn get(&self, digest: Digest) -> Option<&Slot> {
        self.table.get(digest)
    }

    /// Reads the cell where a search for a key starts, only to bring it into the cache.
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

    /// Sets the slot of a key that was just searched for.
    fn put(&mut self, found: Probe, digest: Digest, mut slot: Slot) {
        let position = match self.table.slot(found) {
            Slot::Cached(_, position) => Some(*position),
            Slot::Vacant
            | Slot::InFlight(_)
            | Slot::Ending(_)
            | Slot::Interrupted(_)
            | Slot::Stored { .. } => None,
        };
        let is_cached = if let Slot::Cached(record, its) = &mut slot {
            *its =
                position.unwrap_or_else(|| self.cached.add(digest.first_half(), record.location().is_some()));
            true
        } else {
            false
        };
        self.cached_bytes += slot.cached_bytes();
        self.open += usize::from(slot.is_open());
        self.interrupted += usize::from(slot.is_interrupted());
        if let Some(until) = slot.new_due() {
            self.due.add(until);
        }
        let old = self.table.put(found, digest, slot);
        self.cached_bytes -= old.cached_bytes();
        self.open -= usize::from(old.is_open());
        self.interrupted -= usize::from(old.is_interrupted());
        if let Some(position) = position
            && !is_cached
        {
            self.free(position);
        }
    }

    pub(crate) fn reserve(&mut self, more: usize) {
        self.table.reserve(more);
    }

    /// Evicts up to [`EVICTED_MAX`] records, until cached bytes are within `budget`; returns the
    /// evicted bytes, or `None` if no record may be evicted.
    ///
    /// A record that was looked up since the hand last passed stays, until [`SPARED_MAX`] such
    /// records were spared. A record that no checkpoint has stored yet must stay.
    pub(crate) fn evict(&mut self, budget: usize, epoch: Timestamp) -> Option<usize> {
        let before = self.cached_bytes;
        let (mut done, mut spared) = (0, 0);
        while self.cached_bytes > budget && done < EVICTED_MAX {
            #[cfg(test)]
            (self.looks += 1);
            let at = if self.hand < self.cached.stored() { self.hand } else { 0 };
            self.hand = at;
            let Some(found) = self.cached.get_stored(at) else { break };
            let Some((digest, Slot::Cached(record, position))) =
                self.seated(found, CachePosition::stored(at))
            else {
                break;
            };
            match record.location() {
                // A tombstone took its record's place.
                None => {
                    let position = *position;
                    self.change_seat(found, position, false);
                    done += 1;
                }
                Some(_) if record.take_touch() && spared < SPARED_MAX => {
                    spared += 1;
                    self.hand += 1;
                }
                Some(place) => {
                    let until = SlotTime::new(record.remembered_until(), epoch);
                    let is_elsewhere = place == RecordLocation::ELSEWHERE;
                    self.set(digest, if is_elsewhere { Slot::Vacant } else { Slot::Stored { until, place } });
                    done += 1;
                }
            }
        }
        (done > 0).then(|| before - self.cached_bytes)
    }

    /// Checks which records have been stored meanwhile, at most `steps` of those with positions
    /// below `end`; returns the next end, or `None` after the last.
    pub(crate) fn settle(&mut self, end: usize, steps: usize) -> Option<usize> {
        let mut at = end.min(self.cached.unstored());
        // From the last one on, so that nearly none has to move to where another one was.
        for _ in 0..steps {
            let Some(before) = at.checked_sub(1) else {
                self.cached.shrink();
                return None;
            };
            at = before;
            let Some(found) = self.cached.get_unstored(at) else { continue };
            let position = CachePosition::unstored(at);
            if let Some((_, Slot::Cached(record, _))) = self.seated(found, position)
                && record.location().is_some()
            {
                self.change_seat(found, position, true);
            }
        }
        Some(at)
    }

    /// Records that no checkpoint had stored at the last check.
    pub(crate) fn unsettled(&self) -> usize {
        self.cached.unstored()
    }

    /// The key and slot with a position.
    fn seated(&self, half: u64, position: CachePosition) -> Option<(Digest, &Slot)> {
        let found = self.table.find_seated(half, position);
        debug_assert!(found.is_some(), "every position has its slot");
        found.and_then(|at| self.table.cell(at))
    }

    /// Gives a record a position in the list of stored records, or in the list of the others.
    fn change_seat(&mut self, half: u64, from: CachePosition, is_stored: bool) {
        let to = self.cached.add(half, is_stored);
        self.table.reseat(&Moved { half, from, to });
        self.free(from);
    }

    fn free(&mut self, position: CachePosition) {
        if let Some(moved) = self.cached.remove(position) {
            self.table.reseat(&moved);
        }
    }

    /// Whether a pass of the sweeper pays.
    pub(crate) fn is_pass_due(&self, now: Timestamp) -> bool {
        self.due.is_pass_due(now, self.table.cells())
    }

    /// Removes expired keys from `cells` cells from `from` on, and removes records with expired
    /// bodies from memory. Returns the expired interrupted keys, which have rows on disk, and the
    /// number of keys removed.
    pub(crate) fn sweep(&mut self, from: usize, cells: usize, now: Timestamp, epoch: Timestamp) -> Swept {
        let (mut due, mut expired) = (Vec::new(), Vec::new());
        let to = from.saturating_add(cells).min(self.table.cells());
        for at in from..to {
            let Some((digest, slot)) = self.table.cell(at) else { continue };
            if decide(slot.state(epoch), Event::Sweep { now }) == Decision::Become(Phase::Vacant) {
                due.push((digest, slot.clone()));
                continue;
            }
            if let Some(stored) = slot.without_expired_body(now, epoch) {
                expired.push((digest, stored));
            }
            if let Some(until) = slot.due_after(now, epoch) {
                self.due.leave(now, until);
            }
        }
        for (digest, stored) in expired {
            self.set(digest, stored);
        }
        let mut swept = Swept { passed: to.saturating_sub(from), ..Swept::default() };
        for (digest, slot) in due {
            match slot {
                // Its row has to go first; the caller sees to that through the log.
                Slot::Interrupted(_) => swept.interrupted.push(digest),
                Slot::Vacant
                | Slot::InFlight(_)
                | Slot::Ending(_)
                | Slot::Cached(..)
                | Slot::Stored { .. } => {
                    self.set(digest, Slot::Vacant);
                    swept.removed += 1;
                }
            }
        }
        swept.done = from.saturating_add(cells) >= self.table.cells();
        if swept.done {
            self.table.shrink();
            self.cached.shrink();
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

    /// Those of them whose claims are in flight or ending.
    pub(crate) fn out(&self) -> usize {
        self.open - self.interrupted
    }

    /// Interrupted keys.
    pub(crate) fn interrupted(&self) -> usize {
        self.interrupted
    }

    pub(crate) fn cached_bytes(&self) -> usize {
        self.cached_bytes
    }

    pub(crate) fn table_bytes(&self) -> usize {
        self.table.bytes() + self.cached.bytes()
    }

    /// One step of a walk over all keys; see [`Table::walk`].
    pub(crate) fn walk<'a>(
        &'a self,
        from: WalkPlace,
        cells: usize,
        visit: impl FnMut(Digest, &'a Slot),
    ) -> Option<WalkPlace> {
        self.table.walk(from, cells, visit)
    }
}

#[cfg(test)]
impl Shard {
    /// Where the table lies.
    pub(super) fn table_addr(&self) -> *const u8 {
        std::ptr::from_ref(&self.table).cast()
    }

    /// How many positions are taken.
    pub(super) fn cached(&self) -> usize {
        self.cached.stored() + self.cached.unstored()
    }

    /// Whether a key's slot has the position, and the position names the key.
    pub(super) fn is_seated(&self, digest: Digest, position: CachePosition) -> bool {
        self.seated(digest.first_half(), position).is_some_and(|(found, _)| found == digest)
            && self.cached.is_of(position, digest.first_half())
    }
}

/// The result of a pass of the sweeper.
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
