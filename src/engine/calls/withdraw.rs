//! Withdraws grants that have not reached their callers, as if the begin had never happened.
//!
//! A begin may be dropped, may wait until its lease runs out, or may be pending when the engine
//! closes. In none of these cases has the operation run. So the key is restored, also in the log:
//! it is vacant, or has its earlier interruption, and the claim does not count as an attempt.

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
    /// Withdraws a pending grant, if `is_due`, called under the lock of its key's shard, returns
    /// true. Nothing happens if the claim has reached its caller, or another thread has withdrawn
    /// it.
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
        if self.commit.append_if(Caller::Task, [(&*entry, record)], &mut reservation, take)?.is_some() {
            self.leases.forget(attempt);
        }
        Ok(())
    }

    /// Withdraws the grant, takes its log space, and leaves its place, in one step: callers who
    /// are told of the end find the place free.
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
                self.leave_undelivered(attempt);
                (Change::Set(Slot::Ending(Arc::clone(attempt))), true)
            } else {
                (Change::Keep, false)
            }
        })
    }

    /// Withdraws a grant that the log does not know, and restores the key. `reservation` gets the
    /// bytes that were reserved for the claim's end. The waiters learn the key's state now, or
    /// the `error` that stopped the engine.
    ///
    /// Nothing happens if the claim has reached its caller, or if another thread withdrew it.
    /// Only the thread that withdraws a grant may end its attempt, after the key has changed. If
    /// waiters were told before, they would find the same claim, and begin and wait again without
    /// a pause.
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
            // Before waiters are told: one of them may begin then, and takes the place.
            self.leave_undelivered(attempt);
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

    /// Withdraws all pending grants while the engine closes, through the log: a failed engine
    /// makes no last checkpoint, and the last checkpoint may fail. The gate is shut. After a failed
    /// commit nothing is written, and [`withdraw_at_close`](Self::withdraw_at_close) follows.
    pub(in crate::engine) fn withdraw_all_undelivered(&self) {
        // An intent that was queued before this has its claim in the index. A later one finds the
        // gate shut, and is not queued.
        self.commit.pass_intake();
        if self.limits.in_flight() == 0 {
            return;
        }
        for attempt in self.index.attempts_out().into_iter().filter(|attempt| attempt.is_undelivered()) {
            if self.withdraw(&attempt, || true).is_err() {
                return;
            }
            if attempt.is_withdrawn() {
                attempt.end(Ended::Closed);
            }
        }
    }

    /// Withdraws a grant while the engine closes, unless the claim has reached its caller. The
    /// log takes no more entries: after a failed commit it did not take the withdrawal either. The
    /// next opening may interrupt the claim then, so it must not reach its caller.
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
        self.leave_undelivered(attempt);
        self.leases.forget(attempt);
        attempt.end(Ended::Closed);
        self.publisher.show_last(&end_of(attempt));
    }
}

/// How an attempt ends for its waiters when the engine has stopped; `None` if the error says
/// nothing about the engine.
fn stopped(error: &CommitError) -> Option<Ended> {
    match error {
        CommitError::Busy(_) | CommitError::InsideCallback | CommitError::InsideTransaction => None,
        CommitError::Failed(failure) => Some(Ended::Failed(Box::new(failure.clone()))),
        CommitError::Closed => Some(Ended::Closed),
        #[cfg(feature = "postgres")]
        CommitError::Shared(_) => unreachable!("the engine is on a file"),
    }
}

/// How an attempt ends for its waiters when the key has this slot again. An expired interruption
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

/// The log record that undoes a grant.
fn end_of(attempt: &Arc<Attempt>) -> LogRecord {
    match attempt.never_held() {
        Some(before) => LogRecord::returned_as_before(before),
        None => LogRecord::Vacated(Arc::clone(attempt), None),
    }
}
