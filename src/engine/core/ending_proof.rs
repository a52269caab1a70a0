//! Proof that a claim is ending by its holder's call.

use crate::attempt::Attempt;
use crate::clock::EngineClock;
use crate::index::{Change, Index, Slot};
use crate::state::{Event, decide};
use crate::sync::Arc;

/// Shows that a claim is ending by its holder's call. No other caller changes its key until the
/// entry that ends it is published, so only that entry may be queued later: see `docs/design.md`,
/// "The order of a key's entries".
#[derive(Debug)]
pub(crate) struct EndingProof(());

/// Marks a claim as ending, so that no other caller can end it; `None` if it is not the current
/// one.
pub(in crate::engine) fn take_for_ending(
    index: &Index,
    clock: &EngineClock,
    attempt: &Arc<Attempt>,
) -> Option<EndingProof> {
    index.change(attempt.digest, |slot| {
        let event = Event::End { fence: attempt.fence, now: clock.now() };
        match decide(slot.state(index.epoch()), event).becomes() {
            Some(_ending) => (Change::Set(Slot::Ending(Arc::clone(attempt))), Some(EndingProof(()))),
            None => (Change::Keep, None),
        }
    })
}
