//! The publisher: makes durable entries visible in the index, and is the only code that does.
//!
//! It applies each published group, and each frame that recovery replays.

use super::ending_proof::EndingProof;
use super::log_record::{LogRecord, NotedClaim};
use crate::attempt::{Attempt, Ended};
use crate::clock::EngineClock;
use crate::commit::Publish;
use crate::engine::common::policies::Policies;
use crate::error::Failure;
use crate::index::{Change, Index, Slot};
use crate::log_tail::{KeyState, LogTail};
use crate::record::Record;
use crate::state::{Decision, Event, Phase, decide};
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use crate::{Timestamp, fork};

/// So many changes, which take half a millisecond, are joined with an older tail under its lock.
const JOINED_UNDER_LOCK: usize = 1_024;
/// So often more are joined without it. To join them takes less time than to publish them, so
/// each time there are fewer.
const JOINS_MAX: usize = 16;

/// The result of interrupting a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interrupting {
    /// It is interrupted.
    Done,
    /// It was no longer in flight.
    NotOut,
    /// It is interrupted, but the file was closed before: the next opening finds and reports it.
    TooLate,
}

#[derive(Debug)]
pub(crate) struct Publisher {
    index: Arc<Index>,
    clock: Arc<EngineClock>,
    policies: Arc<Policies>,
    /// Only the locks of shards are taken under it.
    tail: Mutex<LogTail>,
    /// The last tail was taken: the next opening finds all later changes. Changed under the
    /// tail's lock.
    is_over: AtomicBool,
    /// Entries that were published, without the marks.
    but_marks: AtomicU64,
}

impl Publisher {
    pub(crate) fn new(index: Arc<Index>, clock: Arc<EngineClock>, policies: Arc<Policies>, seq: u64) -> Self {
        Self {
            index,
            clock,
            policies,
            tail: Mutex::new(LogTail::after(seq, 0)),
            is_over: AtomicBool::new(false),
            but_marks: AtomicU64::new(0),
        }
    }

    /// Takes the tail, to be checkpointed. Entries published from now on go into a new one.
    pub(crate) fn take_tail(&self) -> LogTail {
        let keys = self.tail.lock().len();
        let next = LogTail::after(0, keys);
        let mut tail = self.tail.lock();
        let seq = tail.seq;
        let taken = std::mem::replace(&mut *tail, next);
        tail.seq = seq;
        taken
    }

    /// Takes the last tail, for the checkpoint that closes the file, and counts the claims that
    /// callers still have. The next opening finds them dead. All queued entries are published, so
    /// a claim that is ending still is one whose end comes too late: its caller gets it back.
    pub(crate) fn take_last_tail(&self) -> (LogTail, usize) {
        let mut tail = self.tail.lock();
        self.is_over.store(true, Ordering::Relaxed);
        let next = LogTail::after(tail.seq, 0);
        let is_left = |attempt: &Arc<Attempt>| !attempt.is_undelivered() && !attempt.is_withdrawn();
        let left = self.index.count_out(|slot| slot.attempt_out().is_some_and(is_left));
        (std::mem::replace(&mut *tail, next), left)
    }

    /// The number of claims that callers have, or that were handed over as tokens. A claim that
    /// is on its way is not one, nor one whose end is.
    pub(crate) fn claims_held(&self) -> usize {
        self.index.count_out(|slot| matches!(slot, Slot::InFlight(attempt) if !attempt.is_undelivered()))
    }

    /// Counts every frame up to `seq` as covered, also those behind a gap, which were not
    /// published.
    pub(crate) fn skip_to(&self, seq: u64) {
        self.tail.lock().seq = seq;
    }

    /// Puts a tail whose checkpoint failed back. After a slow one much may have been published
    /// since. That is joined without the lock, for which ends of claims wait.
    pub(crate) fn put_tail_back(&self, mut taken: LogTail) {
        let newer = || {
            let mut tail = self.tail.lock();
            let next = LogTail::after(tail.seq, 0);
            (tail.len() > JOINED_UNDER_LOCK).then(|| std::mem::replace(&mut *tail, next))
        };
        std::iter::from_fn(newer).take(JOINS_MAX).for_each(|newer| taken.add(newer));
        self.tail.lock().put_back(taken);
    }

    /// The number of keys that wait for a checkpoint, and since when.
    pub(crate) fn tail_lag(&self) -> (usize, Option<Timestamp>) {
        let tail = self.tail.lock();
        (tail.len(), tail.since)
    }

    /// How many entries were published. Marks do not count: an idle engine writes them too.
    pub(crate) fn entries_but_marks(&self) -> u64 {
        self.but_marks.load(Ordering::Relaxed)
    }

    /// Whether a body that waits for a checkpoint has expired.
    pub(crate) fn has_due(&self, now: Timestamp) -> bool {
        self.tail.lock().has_due(now)
    }

    /// Puts a claim whose holder is dead into the index, as interrupted, and adds its row with
    /// the date to the tail.
    pub(crate) fn recall(&self, attempt: Arc<Attempt>, now: Timestamp) {
        attempt.interrupt(now);
        self.index.change(attempt.digest, |_| (Change::Set(Slot::Interrupted(Arc::clone(&attempt))), ()));
        self.tail.lock().fold(attempt.digest, KeyState::Open(attempt), None, now);
    }

    /// Interrupts a claim in flight, if `event` does that, and adds its row with the date to the
    /// tail, for the next checkpoint or the close.
    ///
    /// The log has no entry for that, so the tail gets this change without one. The change cannot
    /// undo an entry about the key that is still to be published: an entry of a later claim comes
    /// after this claim is interrupted, and an end of this claim finds the claim ending.
    pub(crate) fn interrupt(&self, attempt: &Arc<Attempt>, event: Event<'_>, now: Timestamp) -> Interrupting {
        let mut tail = self.tail.lock();
        let is_over = self.is_over.load(Ordering::Relaxed);
        let interrupted = self.index.change(attempt.digest, |slot| {
            let is_it = slot.attempt().is_some_and(|current| Arc::ptr_eq(current, attempt));
            if is_it && decide(slot.state(self.index.epoch()), event) == Decision::Become(Phase::Interrupted)
            {
                // The last checkpoint may be about to write the row: with a date the next opening
                // would not find it dead.
                if !is_over {
                    attempt.lose(now);
                }
                (Change::Set(Slot::Interrupted(Arc::clone(attempt))), true)
            } else {
                (Change::Keep, false)
            }
        });
        if !interrupted {
            return Interrupting::NotOut;
        }
        if is_over {
            return Interrupting::TooLate;
        }
        // A claim that the log does not know leaves nothing to be written. If its intent is on the
        // way, that is folded in by itself.
        if attempt.is_logged() {
            tail.fold(attempt.digest, KeyState::Open(Arc::clone(attempt)), None, now);
        }
        Interrupting::Done
    }

    /// Shows a completion that went to the store and not to the log. The caller has the maintenance
    /// lock, and tells the waiters once it has released that.
    pub(crate) fn complete(&self, attempt: &Arc<Attempt>, record: &Record) -> Waiters {
        // The store has the last word on the key already, so the tail needs none.
        let mut ended = Vec::new();
        drop(self.apply(&LogRecord::Completed(Arc::clone(attempt), record.clone()), &mut ended));
        ended.push((Arc::clone(attempt), Ended::Done(record.clone())));
        Waiters(ended)
    }

    /// Shows the end of a claim that the log no longer takes, for the checkpoint that closes the
    /// file.
    pub(crate) fn show_last(&self, record: &LogRecord) {
        let now = self.clock.now();
        let mut displaced = Vec::new();
        self.show(record, &mut self.tail.lock(), &mut displaced, now);
        end_all(displaced, fork::generation());
    }

    /// Shows an entry in the index, and notes it in the tail if it is the last change of its key.
    fn show(
        &self,
        record: &LogRecord,
        tail: &mut LogTail,
        displaced: &mut Vec<(Arc<Attempt>, Ended)>,
        now: Timestamp,
    ) {
        if let (Some((last, forgotten)), Some(digest)) = (self.apply(record, displaced), record.digest()) {
            tail.fold(digest, last, forgotten, now);
        }
    }

    /// Changes the index as the state machine decides; returns the key's last change, if this is
    /// it.
    ///
    /// An attempt that leaves the index here without an entry of its own goes to `displaced`. The
    /// caller has to end it: once it has left the index, a failed commit no longer finds it, and
    /// its waiters would never be told.
    fn apply(
        &self,
        record: &LogRecord,
        displaced: &mut Vec<(Arc<Attempt>, Ended)>,
    ) -> Option<(KeyState, Option<Timestamp>)> {
        match record {
            LogRecord::Granted(attempt) => self.index.change(attempt.digest, |slot| {
                attempt.set_logged();
                let event = Event::Granted { fence: attempt.fence };
                let word = || Some((KeyState::Open(Arc::clone(attempt)), None));
                // A claim that was taken back is not shown again: nobody has it, so nobody would
                // end it.
                let is_shown = !attempt.is_withdrawn()
                    && decide(slot.state(self.index.epoch()), event).becomes().is_some();
                if is_shown {
                    if let Some(earlier) = slot.attempt().filter(|_| attempt.earlier.is_some()) {
                        attempt.inherit(earlier);
                    }
                    displaced.extend(out_of(slot, attempt).map(|other| (other, Ended::Interrupted)));
                    return (Change::Set(Slot::InFlight(Arc::clone(attempt))), word());
                }
                // The usual case: the claim was put into the index before its intent went to the
                // log.
                (Change::Keep, if is_last_in_log(slot) { word() } else { None })
            }),
            LogRecord::Completed(attempt, record) => {
                record.set_durable();
                self.become_if_decided(
                    attempt,
                    Event::Completed { fence: attempt.fence },
                    |slot| {
                        displaced
                            .extend(out_of(slot, attempt).map(|other| (other, Ended::Done(record.clone()))));
                        Slot::cached(record.clone())
                    },
                    || (KeyState::Done(record.clone()), None),
                )
            }
            LogRecord::Vacated(attempt, forgotten_until) => self.become_if_decided(
                attempt,
                Event::Vacated { fence: attempt.fence },
                |slot| {
                    displaced.extend(out_of(slot, attempt).map(|other| (other, Ended::Vacated)));
                    Slot::Vacant
                },
                || (KeyState::Vacant, *forgotten_until),
            ),
            LogRecord::Returned(attempt, now) => self.become_if_decided(
                attempt,
                Event::Returned { fence: attempt.fence },
                |slot| {
                    if let Some(current) = slot.attempt() {
                        attempt.inherit(current);
                    }
                    displaced.extend(out_of(slot, attempt).map(|other| (other, Ended::Interrupted)));
                    attempt.give_back(*now);
                    Slot::Interrupted(Arc::clone(attempt))
                },
                || (KeyState::Open(Arc::clone(attempt)), None),
            ),
            LogRecord::Progress(claim, progress) => {
                self.note(claim, |attempt| attempt.set_progress(progress.clone()))
            }
            LogRecord::Detached(claim, hand_over) => self.note(claim, |attempt| attempt.detach(**hand_over)),
            LogRecord::PolicySet(_) | LogRecord::Mark => None,
        }
    }

    /// The tail's change for a note on a claim. `change` is what a replay does to the attempt, in
    /// any state of the key.
    fn note(
        &self,
        claim: &NotedClaim,
        change: impl FnOnce(&Attempt),
    ) -> Option<(KeyState, Option<Timestamp>)> {
        let word = |attempt: &Arc<Attempt>| Some((KeyState::Open(Arc::clone(attempt)), None));
        match claim {
            NotedClaim::Live(attempt) => self.index.change(attempt.digest, |slot| {
                (Change::Keep, if is_last_in_log(slot) { word(attempt) } else { None })
            }),
            NotedClaim::Replayed(of) => self.index.change(of.0, |slot| {
                let decision = decide(slot.state(self.index.epoch()), Event::Noted { fence: of.1 });
                let Some(attempt) = slot.attempt().filter(|_| decision.becomes().is_some()) else {
                    return (Change::Keep, None);
                };
                change(attempt);
                (Change::Keep, word(attempt))
            }),
        }
    }

    fn become_if_decided<R>(
        &self,
        attempt: &Attempt,
        event: Event<'_>,
        slot: impl FnOnce(&Slot) -> Slot,
        word: impl FnOnce() -> R,
    ) -> Option<R> {
        self.index.change(attempt.digest, |current| {
            let Some(phase) = decide(current.state(self.index.epoch()), event).becomes() else {
                attempt.was_not_vacated();
                return (Change::Keep, None);
            };
            let slot = slot(current);
            assert_eq!(slot.phase(), phase, "the slot is what the state machine decided");
            (Change::Set(slot), Some(word()))
        })
    }
}

/// The waiters of attempts that have ended, to be told while no lock is held.
#[must_use = "they wait until they are told"]
pub(crate) struct Waiters(Vec<(Arc<Attempt>, Ended)>);

impl Waiters {
    pub(crate) fn tell(self) {
        end_all(self.0, fork::generation());
    }
}

/// The attempt in flight in a slot, if it is not this one.
fn out_of(slot: &Slot, than: &Arc<Attempt>) -> Option<Arc<Attempt>> {
    slot.attempt_out().filter(|out| !Arc::ptr_eq(out, than)).cloned()
}

/// Tells all waiters of these attempts. No lock is held, because wakers are application code.
fn end_all(displaced: Vec<(Arc<Attempt>, Ended)>, generation: u64) {
    if displaced.is_empty() {
        return;
    }
    for (attempt, how) in displaced {
        // The task that was woken last may have forked.
        if generation != fork::generation() {
            return;
        }
        attempt.end(how);
    }
}

/// Whether this claim is the last one of its key in the log. The index may have a later one,
/// granted in memory after this claim's lease ran out. The log gets a key's claims in the order
/// of their grants, so the later one is not in the log yet. Until it is, a checkpoint has to move
/// this claim to the store.
fn is_last_in_log(slot: &Slot) -> bool {
    slot.attempt().is_some()
}

impl Publish for Publisher {
    type Op = LogRecord;
    type Held = EndingProof;

    fn publish(&self, seq: u64, records: &mut Vec<LogRecord>) {
        let now = self.clock.now();
        // One lock for the whole group: a checkpoint sees all of a frame or nothing of it.
        let mut tail = self.tail.lock();
        let mut displaced = Vec::new();
        let but_marks = records.iter().filter(|record| !matches!(record, LogRecord::Mark)).count() as u64;
        self.but_marks.fetch_add(but_marks, Ordering::Relaxed);
        for record in records.iter() {
            self.show(record, &mut tail, &mut displaced, now);
            if let LogRecord::PolicySet(declared) = record {
                let (scope, policy) = &**declared;
                tail.set_policy(scope, *policy, now);
            }
        }
        tail.seq = seq;
        drop(tail);
        let generation = fork::generation();
        end_all(displaced, generation);
        for record in records.drain(..) {
            // The task that was woken last may have forked.
            if generation != fork::generation() {
                return;
            }
            match record {
                LogRecord::Completed(attempt, record) => attempt.end(Ended::Done(record)),
                LogRecord::Vacated(attempt, _) => attempt.end(Ended::Vacated),
                LogRecord::Returned(attempt, _) => attempt.end(Ended::Interrupted),
                LogRecord::PolicySet(declared) => self.policies.set(&declared.0, declared.1),
                LogRecord::Granted(_)
                | LogRecord::Progress(..)
                | LogRecord::Detached(..)
                | LogRecord::Mark => {}
            }
        }
    }

    fn failed(&self, failure: &Failure) {
        let failed = || Ended::Failed(Box::new(failure.clone()));
        let out = self.index.attempts_out().into_iter().map(|attempt| (attempt, failed()));
        end_all(out.collect(), fork::generation());
    }
}

#[cfg(test)]
mod tests;
