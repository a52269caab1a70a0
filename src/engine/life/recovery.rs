//! Recovery: fills the index from the file, replays the log over it, and interrupts claims
//! without a holder.

use std::thread;

use crate::attempt::Attempt;
use crate::attempt::progress::Budget;
use crate::clock::{EngineClock, Past};
use crate::codec::BadBytes;
use crate::commit::Publish;
use crate::engine::common::leases::Leases;
use crate::engine::common::policies::Policies;
use crate::engine::core::detached_claims::{DetachedClaim, DetachedClaims};
use crate::engine::core::log_record::LogRecord;
use crate::engine::core::options::Options;
use crate::engine::core::publisher::Publisher;
use crate::error::{Damage, OpenError};
use crate::index::{Change, Index, LoadPartition, Slot};
use crate::store::{Meta, Store, Stored};
use crate::sync::Arc;
use crate::wal::{Identity, Log, LogSpace, Scanned};
use crate::{Timestamp, wal};

/// The parts of an engine that an opening fills from the file and the log.
pub(super) struct Recovered {
    pub(super) clock: Arc<EngineClock>,
    pub(super) index: Arc<Index>,
    pub(super) policies: Arc<Policies>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) budget: Arc<Budget>,
}

/// Reads the frames of the log that the store does not have yet.
pub(super) fn scan(log: Option<&Log>, meta: &Meta, id: &Identity) -> Result<Scanned, OpenError> {
    if let Some(log) = log {
        wal::check_not_newer(log, &id.checksummer, meta.salt, meta.checkpointed_seq)?;
    }
    match log {
        Some(log) if !meta.log_empty => {
            wal::scan(log, &id.checksummer, meta.salt, meta.checkpointed_seq, meta.log_buffered)
        }
        Some(_) | None => Ok(Scanned { frames: Vec::new(), seq_max: meta.checkpointed_seq }),
    }
}

/// Loads the store, and replays the log over it.
pub(super) fn recover(
    store: &Store,
    options: &Options,
    meta: &Meta,
    log: Option<&Log>,
    frames: Vec<wal::Found>,
) -> Result<Recovered, OpenError> {
    let past = Past {
        mark: meta.time(),
        frame: frames.last().map(|found| found.frame.time),
        is_empty: meta.tallies.index.rows == 0 && meta.tallies.claims.rows == 0 && frames.is_empty(),
    };
    let clock = Arc::new(EngineClock::resume(options.time.clone(), &past, options.max_clock_jump));
    // Cells count whole seconds from here: what had expired by then is not loaded.
    let mut index = Index::new(options.shards, options.cache_bytes, clock.now());
    let policies = Arc::new(Policies::new(options.policy));
    let budget = Arc::default();
    load(store, &mut index, &policies, &clock, &budget, options.workers)?;
    let index = Arc::new(index);
    let publisher = Arc::new(Publisher::new(
        Arc::clone(&index),
        Arc::clone(&clock),
        Arc::clone(&policies),
        meta.checkpointed_seq,
    ));
    if let Some(log) = log {
        replay(log, frames, &publisher, &budget)?;
    }
    Ok(Recovered { clock, index, policies, publisher, budget })
}

/// The opening thread alone loads fewer keys than this: starting more threads would not pay.
const KEYS_FOR_THREADS: usize = 100_000;

/// The most loading threads: each reads every row, and fills its part of the index.
const THREADS_MAX: usize = 8;

/// Fills the index from the store.
fn load(
    store: &Store,
    index: &mut Index,
    policies: &Policies,
    clock: &EngineClock,
    budget: &Arc<Budget>,
    may_use_threads: bool,
) -> Result<(), OpenError> {
    let (now, keys) = (clock.now(), store.keys_hint());
    let threads = if may_use_threads && keys >= KEYS_FOR_THREADS {
        thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
    } else {
        1
    };
    let mut open = Vec::new();
    let takers = index.parts(threads).into_iter().map(|part| filler(part, keys, now)).collect();
    store.load(
        takers,
        |row| open.push(Arc::new(Attempt::from_row(row, budget))),
        |scope, policy| policies.set(scope, policy),
    )?;
    for attempt in open {
        let digest = attempt.digest;
        let slot = match attempt.interrupted() {
            Some(_) => Slot::Interrupted(attempt),
            // Whether it still is, the log may know.
            None => Slot::InFlight(attempt),
        };
        index.change(digest, |_| (Change::Set(slot), ()));
    }
    Ok(())
}

/// Fills one part of the index with all records that have not expired.
fn filler(mut part: LoadPartition<'_>, keys: usize, now: Timestamp) -> impl FnMut(&[Stored]) + Send {
    let mut is_reserved = false;
    move |records| {
        // In the thread that fills it: most of this is the first touch of memory.
        if !std::mem::replace(&mut is_reserved, true) {
            part.reserve(keys);
        }
        let live = records.iter().filter(|record| record.until > now);
        part.load(live.map(|record| (record.digest, record.until, record.place)));
    }
}

/// Publishes every frame that the store does not cover, as its leader did.
fn replay(
    log: &Log,
    frames: Vec<wal::Found>,
    publisher: &Publisher,
    budget: &Arc<Budget>,
) -> Result<(), OpenError> {
    for found in frames {
        let mut records = Vec::new();
        let decoded = found.frame.for_each(|entry| {
            records.push(LogRecord::replayed(entry, budget)?);
            Ok::<(), BadBytes>(())
        });
        decoded.map_err(|bad| Damage::new(log.path(), format!("offset {}", found.offset), bad.0))?;
        publisher.publish(found.frame.seq, &mut records);
    }
    Ok(())
}

/// Interrupts claims in flight: their holders are dead, because this process has the file's lock.
/// A claim with a valid token stands. Returns the number of claims that stand, and the
/// interrupted ones.
pub(super) fn interrupt_all(
    index: &Index,
    publisher: &Publisher,
    policies: &Policies,
    clock: &EngineClock,
    leases: &Leases,
    detached: &DetachedClaims,
    space: &Arc<LogSpace>,
) -> (usize, Vec<Arc<Attempt>>) {
    let now = clock.now();
    let (mut standing, mut recalled) = (0, Vec::new());
    for attempt in index.attempts_out() {
        if attempt.detached_until().is_some_and(|until| until > now) {
            leases.watch(&attempt);
            detached.put(attempt.fence, DetachedClaim::of_standing(&attempt, policies, space));
            standing += 1;
        } else {
            publisher.recall(Arc::clone(&attempt), now);
            recalled.push(attempt);
        }
    }
    (standing, recalled)
}
