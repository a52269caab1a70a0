//! Callers that wait in line for something limited. They are served in order, and only a caller that is served is woken: what is given
//! back costs no more where many wait.

use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;

use crate::sync::{Arc, Condvar};
use crate::wakers::wake;

/// Which callers are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// A claim that is out: once it has ended it gives back more than it takes now.
    Claim,
    /// Anything else.
    Other,
}

/// A place in the line. Lower numbers are served first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Number(Rank, u64);

/// How a caller that waits is woken.
#[derive(Debug)]
pub(crate) enum Bell {
    Thread(Arc<Condvar>),
    Task(Waker),
}

/// The line. It lies under the lock of what it is a line for; bells are rung once that is free, for a waker is code of others.
#[derive(Debug, Default)]
pub(crate) struct Line {
    next: u64,
    waiting: BTreeMap<Number, Waiting>,
    /// Those of them that stop waiting when they are told that it is in vain.
    hopeful: BTreeSet<Number>,
}

/// A caller in the line.
#[derive(Debug)]
pub(crate) struct Waiting {
    bytes: u64,
    /// `None` until it waits, and once it was woken.
    bell: Option<Bell>,
}

/// Bells to ring.
#[derive(Debug, Default)]
#[must_use = "somebody waits for them"]
pub(crate) struct Rings(Vec<Bell>);

impl Rings {
    pub(crate) fn ring(self) {
        if self.0.is_empty() {
            return;
        }
        for bell in self.0 {
            match bell {
                Bell::Thread(condvar) => {
                    condvar.notify_all();
                }
                Bell::Task(waker) => wake(waker),
            }
        }
    }
}

impl Line {
    /// Puts a caller that needs so many bytes at the end of its rank. One that is `hopeful` is told when it waits in vain.
    pub(crate) fn join(&mut self, bytes: u64, rank: Rank, hopeful: bool) -> Number {
        let number = Number(rank, self.next);
        self.next += 1;
        if hopeful {
            self.hopeful.insert(number);
        }
        self.waiting.insert(number, Waiting { bytes, bell: None });
        number
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// What the first needs; nothing where nobody waits.
    pub(crate) fn first_bytes(&self) -> u64 {
        self.waiting.first_key_value().map_or(0, |(_, first)| first.bytes)
    }

    /// What the first of those needs that are told when they wait in vain.
    pub(crate) fn first_hopeful_bytes(&self) -> Option<u64> {
        self.hopeful.first().and_then(|number| self.waiting.get(number)).map(|waiting| waiting.bytes)
    }

    /// Wakes the first of those.
    pub(crate) fn wake_first_hopeful(&mut self, rings: &mut Rings) {
        let first = self.hopeful.first().and_then(|number| self.waiting.get_mut(number));
        rings.0.extend(first.and_then(|waiting| waiting.bell.take()));
    }

    /// Whether a caller that comes now would be the first.
    pub(crate) fn is_free_for(&self, rank: Rank) -> bool {
        self.waiting.first_key_value().is_none_or(|(Number(first, _), _)| *first > rank)
    }

    /// Whether a caller still waits: not once it was served.
    pub(crate) fn has(&self, number: Number) -> bool {
        self.waiting.contains_key(&number)
    }

    /// Has a caller woken by `bell`; gives its bell before, to be dropped without the lock.
    pub(crate) fn set_bell(&mut self, number: Number, bell: Bell) -> Option<Bell> {
        self.waiting.get_mut(&number).and_then(|waiting| waiting.bell.replace(bell))
    }

    /// Serves callers from the first on, as long as `take` has what they need.
    pub(crate) fn serve(&mut self, mut take: impl FnMut(u64) -> bool) -> Rings {
        let mut rings = Rings::default();
        while let Some(first) = self.waiting.first_entry()
            && take(first.get().bytes)
        {
            self.hopeful.remove(first.key());
            rings.0.extend(first.remove().bell);
        }
        rings
    }

    /// Takes a caller out that no longer waits; `None` where it was served before.
    pub(crate) fn leave(&mut self, number: Number) -> Option<Waiting> {
        self.hopeful.remove(&number);
        self.waiting.remove(&number)
    }

    /// Wakes all, so that they look again. They keep their places.
    pub(crate) fn wake_all(&mut self) -> Rings {
        Rings(self.waiting.values_mut().filter_map(|waiting| waiting.bell.take()).collect())
    }
}
