//! From a key's slot to its record, while blocks go and tombstones move.

use crate::Timestamp;
use crate::error::ReadError;
use crate::index::Slot;
use crate::record::{Record, RecordLocation};

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
/// after the block was dropped, the record is no longer remembered. Any other slot is resolved
/// again.
pub(super) async fn resolve_slot<R: Future<Output = Result<Option<Record>, ReadError>>>(
    mut slot: impl FnMut() -> Slot,
    mut read: impl FnMut(RecordLocation) -> R,
    epoch: Timestamp,
    now: Timestamp,
) -> Result<ResolvedSlot, ReadError> {
    let mut gone = None;
    loop {
        let place = match slot() {
            Slot::Stored { until, place } if until.at_latest(epoch) <= now || gone == Some(place) => {
                return Ok(ResolvedSlot::Over(place));
            }
            Slot::Stored { place, .. } => place,
            slot @ (Slot::Vacant
            | Slot::InFlight(_)
            | Slot::Ending(_)
            | Slot::Interrupted(_)
            | Slot::Cached(..)) => return Ok(ResolvedSlot::Slot(slot)),
        };
        match read(place).await? {
            Some(record) => return Ok(ResolvedSlot::Read(place, record)),
            None => gone = Some(place),
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

    /// Resolves a slot that changes between reads, while its blocks are dropped.
    fn follow_into_the_void(slots: &[Slot]) -> ResolvedSlot {
        let mut looks = slots.iter();
        block(resolve_slot(|| looks.next().unwrap().clone(), |_| ready(Ok(None)), EPOCH, NOW)).unwrap()
    }

    #[test]
    fn a_block_that_is_gone_says_nothing_until_the_index_was_asked_again() {
        let found = follow_into_the_void(&[stored(1), Slot::Vacant]);
        assert!(matches!(found, ResolvedSlot::Slot(Slot::Vacant)));
        let found = follow_into_the_void(&[stored(1), stored(2), stored(2)]);
        assert!(matches!(found, ResolvedSlot::Over(place) if place.block() == 2), "{found:?}");
        let found = follow_into_the_void(&[stored(1), stored(1)]);
        assert!(matches!(found, ResolvedSlot::Over(place) if place.block() == 1), "{found:?}");
    }

    #[test]
    fn what_is_over_by_the_slots_time_is_not_read() {
        let late = Timestamp::from_millis(9_000);
        let read = |_| -> Ready<_> { panic!("the disk was asked") };
        assert!(matches!(block(resolve_slot(|| stored(1), read, EPOCH, late)), Ok(ResolvedSlot::Over(_))));
    }
}
