//! `WaitQueue`: callers that wait in line for a limited resource. They are served in order, and
//! only a served caller is woken, so freeing some of the resource costs no more if many wait.

use crate::foreign::TaskWaker;
use crate::fork;
use crate::sync::{Arc, Condvar};
use std::collections::{BTreeMap, BTreeSet};

/// Which callers are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Priority {
    /// A claim in flight: its end frees more than it takes now.
    Claim,
    /// Any other caller.
    Other,
}

/// A place in the line. Lower numbers are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(Priority, u64);

/// How a caller that waits is woken.
#[derive(Debug)]
pub(crate) enum Wakeup {
    Thread(Arc<Condvar>),
    Task(TaskWaker),
}

/// The line. The lock of the resource protects it. Callers are woken after that lock is released,
/// because wakers are application code.
#[derive(Debug, Default)]
pub(crate) struct WaitQueue {
    next: u64,
    waiting: BTreeMap<Turn, Waiting>,
    /// The callers that stop waiting once waiting is in vain.
    hopeful: BTreeSet<Turn>,
}

/// A caller in the line.
#[derive(Debug)]
pub(crate) struct Waiting {
    bytes: u64,
    /// `None` until it waits, and once it was woken.
    wakeup: Option<Wakeup>,
}

/// Callers to wake.
#[derive(Debug, Default)]
#[must_use = "somebody waits for them"]
pub(crate) struct Wakeups(Vec<Wakeup>);

impl Wakeups {
    pub(crate) fn wake(self) {
        if self.0.is_empty() {
            return;
        }
        let (generation, mut wakeups) = (fork::generation(), self.0.into_iter());
        for wakeup in wakeups.by_ref() {
            match wakeup {
                Wakeup::Thread(condvar) => {
                    condvar.notify_all();
                }
                Wakeup::Task(waker) => waker.wake(),
            }
            if generation != fork::generation() {
                // In a child the others are the parent's.
                std::mem::forget(wakeups);
                return;
            }
        }
    }
}

impl WaitQueue {
    /// Puts a caller that needs so many bytes behind the others of its priority. A `hopeful` one
    /// is woken when it waits in vain.
    pub(crate) fn join(&mut self, bytes: u64, priority: Priority, hopeful: bool) -> Turn {
        let turn = Turn(priority, self.next);
        self.next += 1;
        if hopeful {
            self.hopeful.insert(turn);
        }
        self.waiting.insert(turn, Waiting { bytes, wakeup: None });
        turn
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// The bytes that the first caller needs; `None` if no caller waits.
    pub(crate) fn first_bytes(&self) -> u64 {
        self.waiting.first_key_value().map_or(0, |(_, first)| first.bytes)
    }

    /// The bytes that the first hopeful caller needs.
    pub(crate) fn first_hopeful_bytes(&self) -> Option<u64> {
        self.hopeful.first().and_then(|turn| self.waiting.get(turn)).map(|waiting| waiting.bytes)
    }

    /// Wakes the first hopeful caller.
    pub(crate) fn wake_first_hopeful(&mut self, wakeups: &mut Wakeups) {
        let first = self.hopeful.first().and_then(|turn| self.waiting.get_mut(turn));
        wakeups.0.extend(first.and_then(|waiting| waiting.wakeup.take()));
    }

    /// Whether a caller that comes now would be the first.
    pub(crate) fn is_free_for(&self, priority: Priority) -> bool {
        self.waiting.first_key_value().is_none_or(|(Turn(first, _), _)| *first > priority)
    }

    /// Whether a caller waits and is the first.
    pub(crate) fn is_first(&self, turn: Turn) -> bool {
        self.waiting.first_key_value().is_some_and(|(first, _)| *first == turn)
    }

    /// Whether a caller still waits: not once it was served.
    pub(crate) fn has(&self, turn: Turn) -> bool {
        self.waiting.contains_key(&turn)
    }

    /// Sets how a caller is woken; returns the earlier wake-up, to be dropped without the lock.
    pub(crate) fn set_wakeup(&mut self, turn: Turn, wakeup: Wakeup) -> Option<Wakeup> {
        self.waiting.get_mut(&turn).and_then(|waiting| waiting.wakeup.replace(wakeup))
    }

    /// Takes back how a caller is woken, to be dropped without the lock.
    pub(crate) fn take_wakeup(&mut self, turn: Turn) -> Option<Wakeup> {
        self.waiting.get_mut(&turn).and_then(|waiting| waiting.wakeup.take())
    }

    /// How many callers wait.
    #[cfg(all(test, feature = "sim", not(any(idemkv_loom, idemkv_shuttle))))]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Serves callers from the first on, as long as `take` succeeds.
    pub(crate) fn serve(&mut self, mut take: impl FnMut(u64) -> bool) -> Wakeups {
        let mut wakeups = Wakeups::default();
        while let Some(first) = self.waiting.first_entry()
            && take(first.get().bytes)
        {
            self.hopeful.remove(first.key());
            wakeups.0.extend(first.remove().wakeup);
        }
        wakeups
    }

    /// Removes a caller that no longer waits; `None` if it was served before.
    pub(crate) fn leave(&mut self, turn: Turn) -> Option<Waiting> {
        self.hopeful.remove(&turn);
        self.waiting.remove(&turn)
    }

    /// Wakes all, so that they check again. They keep their places.
    pub(crate) fn wake_all(&mut self) -> Wakeups {
        Wakeups(self.waiting.values_mut().filter_map(|waiting| waiting.wakeup.take()).collect())
    }
}
