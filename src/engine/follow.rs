//! From a key's slot to its record, while blocks go and tombstones move.

use crate::Timestamp;
use crate::error::ReadError;
use crate::index::Slot;
use crate::record::{Place, Record};

/// Where a key's slot led to.
#[derive(Debug)]
pub(super) enum Followed {
    /// All that is to be known is in memory.
    Slot(Slot),
    /// The record at this place was read.
    Read(Place, Record),
    /// The slot names this place, but nothing there is to be remembered any more.
    Over(Place),
}

/// Looks at a slot and reads what it names on disk.
///
/// The block may go between the two. What is still to be remembered of it has another place in the index before that, so a place that
/// the index names again after its block was found gone is over; any other answer of the index is looked at anew.
pub(super) async fn follow<R: Future<Output = Result<Option<Record>, ReadError>>>(
    mut slot: impl FnMut() -> Slot,
    mut read: impl FnMut(Place) -> R,
    epoch: Timestamp,
    now: Timestamp,
) -> Result<Followed, ReadError> {
    let mut gone = None;
    loop {
        let place = match slot() {
            Slot::Stored { until, place } if until.at_latest(epoch) <= now || gone == Some(place) => {
                return Ok(Followed::Over(place));
            }
            Slot::Stored { place, .. } => place,
            slot @ (Slot::Vacant
            | Slot::InFlight(_)
            | Slot::Ending(_)
            | Slot::Interrupted(_)
            | Slot::Cached(..)) => return Ok(Followed::Slot(slot)),
        };
        match read(place).await? {
            Some(record) => return Ok(Followed::Read(place, record)),
            None => gone = Some(place),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::block;
    use crate::index::SlotTime;
    use std::future::{Ready, ready};

    const EPOCH: Timestamp = Timestamp::from_millis(0);
    const NOW: Timestamp = Timestamp::from_millis(1_000);

    fn stored(block: u64) -> Slot {
        let until = SlotTime::new(Timestamp::from_millis(9_000), EPOCH);
        Slot::Stored { until, place: Place::new(block, 0) }
    }

    /// Follows slots that change from look to look, while no block can be found.
    fn follow_into_the_void(slots: &[Slot]) -> Followed {
        let mut looks = slots.iter();
        block(follow(|| looks.next().unwrap().clone(), |_| ready(Ok(None)), EPOCH, NOW)).unwrap()
    }

    #[test]
    fn a_block_that_is_gone_says_nothing_until_the_index_was_asked_again() {
        let found = follow_into_the_void(&[stored(1), Slot::Vacant]);
        assert!(matches!(found, Followed::Slot(Slot::Vacant)));
        let found = follow_into_the_void(&[stored(1), stored(2), stored(2)]);
        assert!(matches!(found, Followed::Over(place) if place.block() == 2), "{found:?}");
        let found = follow_into_the_void(&[stored(1), stored(1)]);
        assert!(matches!(found, Followed::Over(place) if place.block() == 1), "{found:?}");
    }

    #[test]
    fn what_is_over_by_the_slots_time_is_not_read() {
        let late = Timestamp::from_millis(9_000);
        let read = |_| -> Ready<_> { panic!("the disk was asked") };
        assert!(matches!(block(follow(|| stored(1), read, EPOCH, late)), Ok(Followed::Over(_))));
    }
}
