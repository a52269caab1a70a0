//! What is counted, and how the counts get from one process to the other.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::sync::atomic::{AtomicU64, Ordering};

/// One thing that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    /// Deliveries that are to be made, but for those that reuse a key.
    Planned,
    /// Deliveries that were answered. Each counts as exactly one of the next five.
    Deliveries,
    /// Got a claim.
    Fresh,
    /// Found another's claim, and got its outcome by waiting.
    Waited,
    /// Got the stored outcome.
    Replayed,
    /// Refused: the key came with another payload.
    Reused,
    /// Told to come back, because waiting took too long or the engine was busy.
    ComeBack,
    /// Claims that follow an interruption.
    Interrupted,
    /// Of those, the ones whose effect turned out to have happened.
    Found,
    /// Claims that were completed.
    Completed,
    /// Claims that were failed, for good.
    Failed,
    /// Claims that were released.
    Released,
    /// Claims that were lost in a panic.
    Panicked,
    /// Effects.
    Effects,
    /// Completions of an earlier process that were looked for, and are there.
    Kept,
    /// Replays that were only made to see how many there can be.
    Lookups,
    /// Milliseconds that those took.
    LookupsMs,
}

impl Count {
    const ALL: [(Self, &str); 17] = [
        (Self::Planned, "planned"),
        (Self::Deliveries, "deliveries"),
        (Self::Fresh, "fresh"),
        (Self::Waited, "waited"),
        (Self::Replayed, "replayed"),
        (Self::Reused, "reused"),
        (Self::ComeBack, "come_back"),
        (Self::Interrupted, "interrupted"),
        (Self::Found, "found"),
        (Self::Completed, "completed"),
        (Self::Failed, "failed"),
        (Self::Released, "released"),
        (Self::Panicked, "panicked"),
        (Self::Effects, "effects"),
        (Self::Kept, "kept"),
        (Self::Lookups, "lookups"),
        (Self::LookupsMs, "lookups_ms"),
    ];
}

/// The counters of a process.
#[derive(Debug)]
pub(crate) struct Tally(BTreeMap<Count, AtomicU64>);

impl Tally {
    /// All at zero.
    pub(crate) fn new() -> Self {
        Self(Count::ALL.into_iter().map(|(count, _)| (count, AtomicU64::new(0))).collect())
    }

    /// Counts `n` more, and gives the sum.
    pub(crate) fn add(&self, count: Count, n: u64) -> u64 {
        self.0.get(&count).map_or(0, |counter| counter.fetch_add(n, Ordering::Relaxed) + n)
    }

    /// The counts now.
    pub(crate) fn counts(&self) -> Counts {
        Counts(self.0.iter().map(|(count, counter)| (*count, counter.load(Ordering::Relaxed))).collect())
    }
}

/// A copy of a process's counters, as it was at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts(BTreeMap<Count, u64>);

impl Counts {
    /// One of them.
    pub(crate) fn get(&self, count: Count) -> u64 {
        self.0.get(&count).copied().unwrap_or(0)
    }

    /// Reads what [`Display`] writes: `name=value`, separated by blanks.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let pair = |pair: &str| {
            let (name, value) = pair.split_once('=')?;
            let (count, _) = Count::ALL.into_iter().find(|(_, known)| *known == name)?;
            Some((count, value.parse().ok()?))
        };
        line.split_whitespace().map(pair).collect::<Option<_>>().map(Self)
    }
}

impl Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (count, name) in Count::ALL {
            write!(f, "{name}={} ", self.get(count))?;
        }
        Ok(())
    }
}
