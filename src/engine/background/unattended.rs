//! Entries that no caller waits for: the time, and ends of interruptions that are no longer
//! remembered.

use std::time::Duration;

use crate::Timestamp;
use crate::engine::core::Core;
use crate::engine::core::log_record::LogRecord;
use crate::index::Slot;
use crate::key::Digest;
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::task::wait_queue::Priority;
use crate::wal::Reservation;
use crate::wal::frame::entry_bytes_max;

/// The least time between two time marks of an idle engine, even with a short `max_clock_jump`,
const MARK_EVERY_MIN: Duration = Duration::from_secs(10);
/// and the most, even with a long one.
const MARK_EVERY_MAX: Duration = Duration::from_secs(600);

/// What became of an entry that no caller waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) enum Unattended {
    Queued,
    /// It is not to be written any more.
    Dropped,
    /// The log has no space now. It can be tried again later.
    NoSpace,
}

impl Core {
    /// Writes a time mark into the log if the last one is old, or if the wall clock was set
    /// forward, so that a crash does not lose the time. A transaction may have the maintenance lock
    /// for a minute, so the mark does not wait for that.
    pub(super) fn mark(&self, now: Timestamp) {
        let (mark_at, has_leapt) = (self.maintenance.mark_at(), self.clock.has_wall_leapt());
        if now < mark_at && !has_leapt {
            return;
        }
        let first = mark_at == Timestamp::default() && !has_leapt;
        // Where the log has no space for it, the next step tries again.
        if first || !matches!(self.append_unattended(LogRecord::Mark, || true), Unattended::NoSpace) {
            let every = (self.options.max_clock_jump / 4).clamp(MARK_EVERY_MIN, MARK_EVERY_MAX);
            self.maintenance.set_mark_at(now.saturating_add(every));
        }
    }

    /// Vacates an interrupted key through the log, if it has expired.
    pub(in crate::engine) fn vacate_if_expired(&self, digest: Digest, now: Timestamp) -> Unattended {
        let Slot::Interrupted(attempt) = self.index.get(digest) else { return Unattended::Dropped };
        if attempt.remembered_until() > now {
            return Unattended::Dropped;
        }
        // Behind the record of a later claim, which a checkpoint may have moved to the store by
        // then, it would undo that.
        let still = Arc::clone(&attempt);
        let is_still =
            || matches!(self.index.get(digest), Slot::Interrupted(now) if Arc::ptr_eq(&now, &still));
        // Another pass may find it while the commit of the first one's entry takes its time.
        let may = || is_still() && still.vacates_first();
        self.append_unattended(LogRecord::Vacated(attempt, None), may)
    }

    /// Appends an entry if the log has space and `may` agrees. `may` runs under the queue's lock.
    fn append_unattended(&self, record: LogRecord, may: impl FnOnce() -> bool) -> Unattended {
        let entry = record.encoded();
        let cost = entry_bytes_max(entry.len()) as u64;
        let Some(mut reservation) = Reservation::try_new(&self.space, Priority::Claim, cost) else {
            return Unattended::NoSpace;
        };
        let appended =
            self.commit.append_if(Caller::Thread, [(&*entry, record)], &mut reservation, |_| may());
        match appended {
            Ok(Some(_)) => Unattended::Queued,
            // A log that takes nothing more is closed, or failed.
            Ok(None) | Err(_) => Unattended::Dropped,
        }
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use super::*;
    use crate::Begin;
    use crate::Engine;
    use crate::Fingerprint;
    use crate::Status;
    use crate::engine::calls::lookup::tests::claim;
    use crate::sim::ManualClock;
    use crate::sim::SimDisk;
    use crate::task::caller::poll_once;

    /// A power cut in that minute would have an opening count the leap as time that passed.
    #[test]
    fn a_leap_of_the_wall_clock_is_noted_while_a_transaction_has_the_maintenance_lock() {
        let clock = ManualClock::at_millis(1_000);
        let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().open("x.idem").unwrap();
        let core = engine.handle.core();
        clock.jump_wall_to_millis(3_600_000);
        assert!(core.clock.has_wall_leapt());
        let held = core.lock_maintenance();
        std::thread::scope(|threads| {
            threads.spawn(|| engine.step());
        });
        assert!(!core.clock.has_wall_leapt());
        drop(held);
    }

    /// An idle engine would have had no mark for ten minutes more, and a crash would lose the time
    /// of two intervals.
    #[test]
    fn a_time_mark_for_which_the_log_had_no_space_is_tried_again() {
        let clock = ManualClock::at_millis(1_000);
        let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().open("x.idem").unwrap();
        let core = engine.handle.core();
        engine.step();
        let due = core.maintenance.mark_at();
        clock.advance(MARK_EVERY_MAX);
        let mut held = Vec::new();
        for bytes in [1 << 20, 1 << 10, 1] {
            let reserve = || Reservation::try_new(&core.space, Priority::Claim, bytes);
            held.extend(std::iter::from_fn(reserve));
        }
        core.mark(core.clock.now());
        assert_eq!(core.maintenance.mark_at(), due);
        drop(held);
        engine.step();
        assert!(core.maintenance.mark_at() > due);
    }

    /// A sweep checks the keys again, because other calls may run during its commits.
    #[test]
    fn only_an_interruption_whose_time_is_over_by_now_is_swept() {
        let clock = ManualClock::at_millis(1_000);
        let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().open("x.idem").unwrap();
        let core = engine.handle.core();
        let begin = || match engine.default_scope().begin("key", Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => claim,
            other => panic!("{other:?}"),
        };
        let digest = engine.default.inner.digest(b"key").unwrap();
        let sweep = || core.vacate_if_expired(digest, core.clock.now()) == Unattended::Queued;
        assert!(!sweep());
        drop(begin());
        assert!(!sweep());
        let remembered = engine.policy().unresolved_ttl.unwrap();
        clock.advance(remembered);
        let again = begin();
        assert!(!sweep());
        drop(again);
        clock.advance(remembered);
        assert!(sweep() && !sweep(), "its end is queued once");
        core.commit.drain();
        assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
        assert_eq!(engine.stats().entries, 0);
    }

    /// The begin waits for a place in the queue while the interruption's end is written.
    #[test]
    fn an_expired_interruption_is_vacated_though_a_begin_that_gave_up_was_in_its_way() {
        let clock = ManualClock::at_millis(1_000);
        let options = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().queue_entries(1);
        let engine = options.open("x.idem").unwrap();
        let (core, scope) = (engine.handle.core(), engine.default_scope());
        let digest = engine.default.inner.digest(b"key").unwrap();
        let sweep = || core.vacate_if_expired(digest, core.clock.now()) == Unattended::Queued;
        drop(claim(&engine, "key"));
        clock.advance(engine.policy().unresolved_ttl.unwrap());
        assert!(sweep());
        let mut begin = Box::pin(scope.begin_async("key", Fingerprint::of("")));
        assert!(poll_once(begin.as_mut()).is_pending());
        assert!(matches!(core.index.get(digest), Slot::InFlight(_)), "it is granted, but not in the log");
        core.commit.drain();
        drop(begin);
        assert!(matches!(core.index.get(digest), Slot::Interrupted(_)));
        assert!(sweep() && !sweep(), "its end is queued once more");
        core.commit.drain();
        assert_eq!(engine.stats().entries, 0);
    }

    /// Claims in flight may have the whole log. The next pass over a large shard comes hours
    /// later.
    #[test]
    fn an_interruption_for_which_the_log_had_no_space_is_vacated_once_it_has() {
        let clock = ManualClock::at_millis(1_000);
        let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().open("x.idem").unwrap();
        let (core, policy) = (engine.handle.core(), engine.policy());
        drop(claim(&engine, "lost"));
        let unresolved = policy.unresolved_ttl.unwrap();
        clock.advance(unresolved.saturating_sub(policy.ttl / 2));
        claim(&engine, "done").complete("").unwrap();
        let mut all = Vec::new();
        loop {
            let had = all.len();
            all.extend(std::iter::from_fn(|| Reservation::try_new(&core.space, Priority::Claim, 512)));
            if all.len() == had {
                break;
            }
            // The log may grow.
            engine.step();
        }
        clock.advance(policy.ttl / 2);
        assert_eq!((engine.step().swept, engine.stats().interrupted), (0, 1));
        // Other keys do not wait for it.
        clock.advance(policy.ttl / 2);
        assert_eq!((engine.step().swept, engine.stats().interrupted), (1, 1));
        drop(all);
        assert_eq!((engine.step().swept, engine.stats().interrupted), (1, 0));
    }
}
