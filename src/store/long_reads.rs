//! Readers of tables, which read for as long as an application's closure runs, and the thread
//! that needs the database alone.
//!
//! Readers come in short, overlapping calls. A plain read-write lock would let in one after the
//! other for ever, past the waiting thread. Here, close refuses later readers; and after a full
//! disk, later readers wait until the file is opened again.

use std::time::Duration;

use crate::activity::{Activity, ActivityMark, is_inside};
use crate::clock::Deadline;
use crate::sync::{Condvar, Mutex};

/// The longest wait of a reader for a thread that asked to be alone. That thread asks again
/// within a second. It never waits itself, because a reader may be waiting for it.
const HOLD_MAX: Duration = Duration::from_secs(2);

/// The number of readers, and whether a thread is alone with the database.
#[derive(Debug, Default)]
pub(super) struct LongReads {
    /// Leaf lock.
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    reading: usize,
    is_alone: bool,
    /// Until when new readers wait for a thread that asked to be alone.
    wanted_until: Option<Deadline>,
    /// No reader is let in any more.
    is_closed: bool,
    /// Readers that wait to be let in.
    #[cfg(test)]
    waiting: usize,
}

/// A reader. Meanwhile no thread gets the database alone.
#[must_use = "it ends with it"]
pub(super) struct Reading<'a> {
    of: &'a LongReads,
    _inside: ActivityMark,
}

/// A thread that has the database alone.
#[must_use = "it ends with it"]
pub(super) struct Alone<'a>(&'a LongReads);

impl LongReads {
    /// Lets a reader in; `None` once [`close`](Self::close) was called.
    ///
    /// A thread that is already a reader does not wait, because the thread that asked to be alone
    /// waits for its end. Nor does one that may itself have asked, which passes `is_asker`.
    pub(super) fn enter(&self, is_asker: bool) -> Option<Reading<'_>> {
        let queue_timeout = Deadline::after(HOLD_MAX);
        let is_nested = is_inside(self, &[Activity::Transaction]);
        let mut state = self.state.lock();
        #[cfg(test)]
        (state.waiting += 1);
        while !state.is_closed {
            let until = match state.wanted_until {
                _ if is_nested => None,
                _ if is_asker && !state.is_alone => None,
                _ if state.is_alone => Some(Deadline::NEVER),
                wanted => wanted.map(|wanted| wanted.min(queue_timeout)).filter(|until| !until.has_passed()),
            };
            match until.map(Deadline::instant) {
                None => break,
                Some(None) => self.changed.wait(&mut state),
                Some(Some(at)) => drop(self.changed.wait_until(&mut state, at)),
            }
        }
        #[cfg(test)]
        (state.waiting -= 1);
        if state.is_closed {
            return None;
        }
        state.reading += 1;
        drop(state);
        Some(Reading { of: self, _inside: ActivityMark::enter(self, Activity::Transaction) })
    }

    /// Gets the database alone, if there are no readers now.
    pub(super) fn try_alone(&self) -> Option<Alone<'_>> {
        self.take(|_| ())
    }

    /// The same. If there are readers, later ones wait until this is called again.
    pub(super) fn ask_alone(&self) -> Option<Alone<'_>> {
        // The thread's own reader can't end while it is in here.
        let is_reader = is_inside(self, &[Activity::Transaction]);
        self.take(|state| {
            if !is_reader {
                state.wanted_until = Some(Deadline::after(HOLD_MAX));
            }
        })
    }

    fn take(&self, refused: impl FnOnce(&mut State)) -> Option<Alone<'_>> {
        let mut state = self.state.lock();
        if state.reading > 0 || state.is_alone {
            refused(&mut state);
            return None;
        }
        state.is_alone = true;
        state.wanted_until = None;
        Some(Alone(self))
    }

    /// Refuses readers from now on.
    pub(super) fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Waits for the running readers. Call [`close`](Self::close) first, so that no others come.
    pub(super) fn wait_for_all(&self) {
        let mut state = self.state.lock();
        while state.reading > 0 || state.is_alone {
            self.changed.wait(&mut state);
        }
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.of.state.lock().reading -= 1;
        self.of.changed.notify_all();
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.state.lock().is_alone = false;
        self.0.changed.notify_all();
    }
}

#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
mod tests {
    use std::thread;

    use super::*;

    fn spin_until(is_so: impl Fn() -> bool) {
        while !is_so() {
            thread::yield_now();
        }
    }

    #[test]
    fn a_reader_that_comes_after_a_thread_asked_to_be_alone_waits_until_it_was() {
        let reads = LongReads::default();
        let first = reads.enter(false);
        thread::scope(|threads| {
            // Asked by another thread than the reader's.
            assert!(threads.spawn(|| reads.ask_alone().is_none()).join().unwrap());
            let late = threads.spawn(|| drop(reads.enter(false).unwrap()));
            spin_until(|| reads.state.lock().waiting == 1);
            drop(reads.enter(false).unwrap());
            drop(first);
            assert_eq!(reads.state.lock().reading, 0, "the late one is not let in yet");
            let alone = reads.ask_alone().unwrap();
            assert_eq!(reads.state.lock().waiting, 1);
            drop(alone);
            late.join().unwrap();
        });
    }

    /// It was not asked for before: there was no reader to wait for.
    #[test]
    fn a_reader_waits_while_another_thread_is_alone() {
        let reads = LongReads::default();
        let alone = reads.try_alone().unwrap();
        thread::scope(|threads| {
            let late = threads.spawn(|| drop(reads.enter(false).unwrap()));
            spin_until(|| reads.state.lock().waiting == 1 || late.is_finished());
            assert!(!late.is_finished(), "it reads beside the thread that is alone");
            drop(alone);
            late.join().unwrap();
        });
    }

    #[test]
    fn a_thread_that_reads_holds_nobody_up_by_asking_to_be_alone() {
        let reads = LongReads::default();
        let first = reads.enter(false);
        assert!(reads.ask_alone().is_none() && reads.try_alone().is_none());
        assert!(reads.state.lock().wanted_until.is_none());
        thread::scope(|threads| threads.spawn(|| drop(reads.enter(false).unwrap())).join().unwrap());
        drop(first);
        assert!(reads.try_alone().is_some());
    }

    /// A waker that the thread calls meanwhile may read tables. It waited for its own thread.
    #[test]
    fn the_thread_that_asked_to_be_alone_may_read_before_it_is() {
        let reads = LongReads::default();
        let first = reads.enter(false);
        thread::scope(|threads| {
            let asks = || assert!(reads.ask_alone().is_none() && reads.enter(true).is_some());
            let started = crate::clock::Stopwatch::start();
            threads.spawn(asks).join().unwrap();
            assert!(started.elapsed() < HOLD_MAX, "it waited for itself");
        });
        drop(first);
    }

    #[test]
    fn close_refuses_readers_that_wait_and_lets_those_end_that_are_in() {
        let reads = LongReads::default();
        let first = reads.enter(false);
        thread::scope(|threads| {
            assert!(threads.spawn(|| reads.ask_alone().is_none()).join().unwrap());
            let late = threads.spawn(|| reads.enter(false).is_none());
            spin_until(|| reads.state.lock().waiting == 1);
            reads.close();
            assert!(late.join().unwrap(), "it was refused");
            let waits = threads.spawn(|| reads.wait_for_all());
            assert!(reads.enter(false).is_none(), "not even by a thread that reads");
            drop(first);
            waits.join().unwrap();
        });
    }
}
