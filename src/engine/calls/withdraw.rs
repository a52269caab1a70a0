//! Claims that are taken back before their callers had them, as if nobody had begun.
//!
//! A begin may be dropped, may wait for so long that the lease runs out, or may be pending when
//! the engine closes. In none of these cases has anybody run the operation. So the key goes back
//! to what it was, also in the log: it is vacant, or has the interruption that it had, and the
//! claim does not count as an attempt.

use crate::Timestamp;
use crate::attempt::{Attempt, Ended};
use crate::engine::core::Core;
use crate::engine::core::log_record::LogRecord;
use crate::error::CommitError;
use crate::index::{Change, Slot};
use crate::state::{Event, decide};
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::wal::Reservation;

impl Core {
    /// Takes a claim back that is on its way to its caller, if `is_due`, asked under the lock of
    /// its key's shard, says so. Nothing happens where the claim has arrived meanwhile, or was
    /// withdrawn by another thread.
    pub(super) fn withdraw(
        &self,
        attempt: &Arc<Attempt>,
        is_due: impl FnOnce() -> bool,
    ) -> Result<(), CommitError> {
        let record = end_of(attempt);
        let entry = record.encoded();
        let mut reservation = Reservation::none(&self.space);
        // In the step that queues the entry: an intent that is queued later than this is not
        // queued at all.
        let take = |reservation: &mut _| self.take_back(attempt, reservation, is_due);
        if self
            .commit
            .append_if(Caller::Task, [(entry.as_slice(), record)], &mut reservation, take)?
            .is_some()
        {
            self.leases.forget(attempt);
        }
        Ok(())
    }

    /// Takes the claim off its caller's way, and its log space with it.
    fn take_back(
        &self,
        attempt: &Arc<Attempt>,
        reservation: &mut Reservation,
        is_due: impl FnOnce() -> bool,
    ) -> bool {
        self.index.change(attempt.digest, |slot| {
            let event = Event::Withdraw { fence: attempt.fence };
            let decided = decide(slot.state(self.index.epoch()), event).becomes();
            let bytes = decided.filter(|_| is_due()).and_then(|_| attempt.withdraw());
            if let Some(bytes) = bytes {
                reservation.take_back(bytes);
                (Change::Set(Slot::Ending(Arc::clone(attempt))), true)
            } else {
                (Change::Keep, false)
            }
        })
    }

    /// Takes a claim back that the log knows nothing of: the key is as it was before.
    /// `reservation` gets the bytes that were reserved for its end, and its waiters are told what
    /// the key is now, or the `error` that stopped the engine.
    ///
    /// Nothing happens where the claim has arrived, or where another thread withdrew it. Only the
    /// thread that takes a claim back may end its attempt: the key has changed by then. If its
    /// waiters were told before, they would find the same claim there, begin and wait again
    /// without a pause.
    pub(super) fn withdraw_unlogged(
        &self,
        attempt: &Arc<Attempt>,
        before: Slot,
        reservation: &mut Reservation,
        error: Option<&CommitError>,
    ) {
        let earlier = before.attempt().cloned();
        let taken = self.index.change(attempt.digest, |slot| {
            let is_it = slot.attempt().is_some_and(|current| Arc::ptr_eq(current, attempt));
            let Some(bytes) = is_it.then(|| attempt.withdraw()).flatten() else {
                return (Change::Keep, None);
            };
            let ended = error.and_then(stopped).unwrap_or_else(|| now_is(&before, self.clock.now()));
            (Change::Set(before), Some((bytes, ended)))
        });
        if let Some((bytes, ended)) = taken {
            reservation.take_back(bytes);
            // Its dropped claim may have found this one in its place, and have left it at that.
            if let Some(earlier) = earlier {
                self.revoke_token(&earlier, self.clock.now(), reservation);
            }
            attempt.end(ended);
        }
    }

    /// Takes a claim back while the engine closes, unless it has arrived: the log takes nothing
    /// any more, and the last checkpoint is still to come. An engine that has failed makes none,
    /// so the next opening may interrupt the claim: all the more it must not arrive.
    pub(in crate::engine) fn withdraw_at_close(&self, attempt: &Arc<Attempt>) {
        let bytes = self.index.change(attempt.digest, |slot| {
            let is_it = slot.attempt().is_some_and(|current| Arc::ptr_eq(current, attempt));
            match is_it.then(|| attempt.withdraw()).flatten() {
                Some(bytes) => (Change::Set(Slot::Ending(Arc::clone(attempt))), Some(bytes)),
                None => (Change::Keep, None),
            }
        });
        let Some(bytes) = bytes else { return };
        let mut reservation = Reservation::none(&self.space);
        reservation.take_back(bytes);
        self.leases.forget(attempt);
        attempt.end(Ended::Closed);
        self.publisher.show_last(&end_of(attempt));
    }
}

/// What waiters are told of an engine that was stopped; `None` where the error says nothing about
/// the engine.
fn stopped(error: &CommitError) -> Option<Ended> {
    match error {
        CommitError::Busy(_) | CommitError::InsideCallback => None,
        CommitError::Failed(failure) => Some(Ended::Failed(Box::new(failure.clone()))),
        CommitError::Closed => Some(Ended::Closed),
    }
}

/// What waiters are told of a key that is this again. An interruption that is no longer remembered
/// counts as vacant.
fn now_is(before: &Slot, now: Timestamp) -> Ended {
    match before {
        Slot::Interrupted(earlier) if now < earlier.remembered_until() => Ended::Interrupted,
        Slot::Interrupted(_)
        | Slot::Vacant
        | Slot::InFlight(_)
        | Slot::Ending(_)
        | Slot::Cached(..)
        | Slot::Stored { .. } => Ended::Vacated,
    }
}

/// The record that says that a claim never was.
fn end_of(attempt: &Arc<Attempt>) -> LogRecord {
    let Some(before) = attempt.never_held() else {
        return LogRecord::Vacated(Arc::clone(attempt), None);
    };
    let since = before.interrupted().unwrap_or_default();
    LogRecord::Returned(Arc::new(before), since)
}
