//! From a key's slot to its record, while blocks go and tombstones move.

use crate::Timestamp;
use crate::error::ReadError;
use crate::index::Slot;
use crate::record::{Record, RecordLocation};
use crate::store::{Gone, StoredRecord};

/// What a key's slot led to.
#[derive(Debug)]
pub(super) enum ResolvedSlot {
    /// The state is in memory.
    Slot(Slot),
    /// The record at this location was read.
    Read(RecordLocation, Record),
    /// The slot names this location, but the record there is no longer remembered.
    Over(RecordLocation),
}

/// Reads a slot, and the record on disk that it names.
///
/// The block may be dropped between the two. Before that, every record of the block that is still
/// remembered gets another location in the index. So if the index still names the old location
/// while the block is gone, the record is no longer remembered. Any other slot is resolved again.
///
/// A block that was gone may be there again by then: the commit that dropped it failed. So
/// `is_still_gone` is asked after the second look at the index.
pub(super) async fn resolve_slot<R: Future<Output = Result<StoredRecord, ReadError>>>(
    mut slot: impl FnMut() -> Slot,
    mut read: impl FnMut(RecordLocation) -> R,
    is_still_gone: impl Fn(Gone) -> bool,
    epoch: Timestamp,
    now: Timestamp,
) -> Result<ResolvedSlot, ReadError> {
    let mut gone: Option<(RecordLocation, Gone)> = None;
    loop {
        let place = match slot() {
            Slot::Stored { until, place } if until.at_latest(epoch) <= now => {
                return Ok(ResolvedSlot::Over(place));
            }
            Slot::Stored { place, .. } => place,
            slot @ (Slot::Vacant
            | Slot::InFlight(_)
            | Slot::Ending(_)
            | Slot::Interrupted(_)
            | Slot::Cached(..)) => return Ok(ResolvedSlot::Slot(slot)),
        };
        if gone.is_some_and(|(from, gone)| from == place && is_still_gone(gone)) {
            return Ok(ResolvedSlot::Over(place));
        }
        match read(place).await? {
            StoredRecord::Found(record) => return Ok(ResolvedSlot::Read(place, record)),
            StoredRecord::Gone(now) => gone = Some((place, now)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::SlotTime;
    use crate::task::caller::block;
    use std::future::{Ready, ready};

    const EPOCH: Timestamp = Timestamp::from_millis(0);
    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn stored(block: u64) -> Slot {
        let until = SlotTime::new(Timestamp::from_millis(9_000), EPOCH);
        Slot::Stored { until, place: RecordLocation::new(block, 0) }
    }

    /// Resolves a slot that changes between reads, while its blocks are dropped. Each read but the
    /// last that are named here finds a block that comes back before the next look.
    fn follow_into_the_void(slots: &[Slot], come_back: usize) -> ResolvedSlot {
        let (mut looks, mut reads) = (slots.iter(), 0..);
        let read = |_| ready(Ok(StoredRecord::Gone(Gone::example(reads.next().unwrap()))));
        let is_still_gone = |gone| (0..come_back as u64).all(|number| Gone::example(number) != gone);
        block(resolve_slot(|| looks.next().unwrap().clone(), read, is_still_gone, EPOCH, NOW)).unwrap()
    }

    #[test]
    fn a_block_that_is_gone_says_nothing_until_the_index_was_asked_again() {
        let found = follow_into_the_void(&[stored(1), Slot::Vacant], 0);
        assert!(matches!(found, ResolvedSlot::Slot(Slot::Vacant)));
        let found = follow_into_the_void(&[stored(1), stored(2), stored(2)], 0);
        assert!(matches!(found, ResolvedSlot::Over(place) if place.block() == 2), "{found:?}");
        let found = follow_into_the_void(&[stored(1), stored(1)], 0);
        assert!(matches!(found, ResolvedSlot::Over(place) if place.block() == 1), "{found:?}");
    }

    /// Its record was granted again: the commit that dropped the block had failed.
    #[test]
    fn a_block_that_was_gone_and_came_back_is_read_again() {
        let found = follow_into_the_void(&[stored(1), stored(1), stored(1), Slot::Vacant], 3);
        assert!(matches!(found, ResolvedSlot::Slot(Slot::Vacant)), "{found:?}");
        let found = follow_into_the_void(&[stored(1), stored(1), stored(1)], 1);
        assert!(matches!(found, ResolvedSlot::Over(_)), "{found:?}");
    }

    #[test]
    fn what_is_over_by_the_slots_time_is_not_read() {
        let late = Timestamp::from_millis(9_000);
        let read = |_| -> Ready<_> { panic!("the disk was asked") };
        let resolved = block(resolve_slot(|| stored(1), read, |_| false, EPOCH, late));
        assert!(matches!(resolved, Ok(ResolvedSlot::Over(_))));
    }
}
