//! When leases end, so that waiters are told in time. Whether a lease has ended is decided
//! elsewhere, by the clock at each call.

use std::collections::BTreeMap;

use crate::Timestamp;
use crate::attempt::Attempt;
use crate::state::Fence;
use crate::sync::{Arc, Mutex};
use crate::task::notifier::Notifier;

#[derive(Debug)]
pub(crate) struct Leases {
    /// Wakes the timers' thread when a new lease ends before all others.
    timekeeper: Notifier,
    /// Leaf lock.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Keyed by a time at or before the end of the lease: a renewal does not change it.
    due: BTreeMap<(Timestamp, Fence), Arc<Attempt>>,
    at: std::collections::HashMap<Fence, Timestamp>,
}

impl Leases {
    pub(crate) fn new(timekeeper: Notifier) -> Self {
        Self { timekeeper, table: Mutex::default() }
    }

    /// Watches a claim's lease, if it has one.
    pub(crate) fn watch(&self, attempt: &Arc<Attempt>) {
        if attempt.lease.is_none() {
            return;
        }
        let until = attempt.lease_until();
        let mut table = self.table.lock();
        if let Some(before) = table.at.insert(attempt.fence, until) {
            table.due.remove(&(before, attempt.fence));
        }
        table.due.insert((until, attempt.fence), Arc::clone(attempt));
        let is_next = table.due.first_key_value().is_some_and(|((_, first), _)| *first == attempt.fence);
        drop(table);
        if is_next {
            self.timekeeper.notify();
        }
    }

    /// Watches a claim's lease, if it has one and its key says that the claim is out.
    ///
    /// The claim may have ended meanwhile, and its end found no lease to remove. So this adds the
    /// lease first and then asks: the end of a claim changes the key first and then removes the
    /// lease. An end that is undone changes the key back first and then adds the lease, which this
    /// may remove. So it asks again after that.
    pub(crate) fn watch_while(&self, attempt: &Arc<Attempt>, is_out: impl Fn() -> bool) {
        if attempt.lease.is_none() {
            return;
        }
        loop {
            self.watch(attempt);
            if is_out() {
                return;
            }
            self.forget(attempt);
            if !is_out() {
                return;
            }
        }
    }

    /// Watches it no longer.
    pub(crate) fn forget(&self, attempt: &Attempt) {
        if attempt.lease.is_none() {
            return;
        }
        let mut table = self.table.lock();
        let gone = table.at.remove(&attempt.fence).and_then(|at| table.due.remove(&(at, attempt.fence)));
        drop(table);
        drop(gone);
    }

    /// When to look again.
    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.table.lock().due.first_key_value().map(|((at, _), _)| *at)
    }

    /// Claims whose leases have ended by now, up to so many. Renewed leases stay watched.
    pub(crate) fn take_due(&self, now: Timestamp, max: usize) -> Vec<Arc<Attempt>> {
        let mut table = self.table.lock();
        let mut due = Vec::new();
        while due.len() < max
            && let Some(first) = table.due.first_entry()
            && first.key().0 <= now
        {
            let attempt = first.remove();
            let until = attempt.lease_until();
            if until <= now {
                table.at.remove(&attempt.fence);
                due.push(attempt);
            } else {
                table.at.insert(attempt.fence, until);
                table.due.insert((until, attempt.fence), attempt);
            }
        }
        due
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::time::Duration;

    use crate::Begin;
    use crate::Claim;
    use crate::Durability;
    use crate::Engine;
    use crate::Fingerprint;
    use crate::Recovery;
    use crate::Timestamp;
    use crate::engine::core::Core;
    use crate::sim::ManualClock;
    use crate::sim::SimDisk;
    use crate::sync::Arc;

    const LEASE: Duration = Duration::from_secs(10);

    fn open(durability: Durability) -> (Engine, ManualClock) {
        let clock = ManualClock::at_millis(1_000);
        let options = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().queue_entries(1);
        let engine = options.open("x.idem").unwrap();
        let rerun = engine.policy().recovery(Recovery::Rerun);
        drop(engine.set_policy("jobs", rerun.lease(LEASE).durability(durability)).unwrap());
        (engine, clock)
    }

    fn claim(engine: &Engine) -> Claim {
        match engine.scope("jobs").begin("key", Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => claim,
            other => panic!("{other:?}"),
        }
    }

    fn watched(core: &Core) -> (usize, usize) {
        let table = core.leases.table.lock();
        (table.due.len(), table.at.len())
    }

    #[test]
    fn a_claim_is_watched_until_it_ends_and_no_longer() {
        for durability in [Durability::Full, Durability::Completions] {
            let ends: [fn(Claim); 4] = [
                |claim| drop(claim.complete("").unwrap()),
                |claim| claim.release().unwrap(),
                drop,
                |claim| drop(claim.into_token().unwrap_err()),
            ];
            let last = ends.len() - 1;
            for (n, end) in ends.into_iter().enumerate() {
                let (engine, clock) = open(durability);
                let core = engine.handle.core();
                let claim = claim(&engine);
                assert_eq!(watched(core), (1, 1));
                if n == last {
                    clock.advance(LEASE);
                }
                end(claim);
                assert_eq!(watched(core), (0, 0), "{durability:?}, end {n}");
            }
        }
    }

    /// A claim that a transaction gives back may no longer be watched, because its lease may have
    /// been found over meanwhile.
    #[test]
    fn a_lease_is_watched_once_however_often_it_is_asked_for() {
        let (engine, clock) = open(Durability::Full);
        let core = engine.handle.core();
        let claim = claim(&engine);
        clock.advance(LEASE / 2);
        claim.renew().unwrap();
        core.leases.watch(claim.of());
        assert_eq!((watched(core), core.leases.next()), ((1, 1), claim.lease_until()));
        claim.release().unwrap();
        assert_eq!(watched(core), (0, 0));
    }

    #[test]
    fn a_begin_that_came_to_nothing_is_not_watched() {
        let (engine, _clock) = open(Durability::Full);
        let scope = engine.scope("jobs");
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut begins = ["one", "two"].map(|key| Box::pin(scope.begin_async(key, Fingerprint::of(""))));
        for begin in &mut begins {
            assert!(begin.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(watched(engine.handle.core()), (2, 2));
        drop(begins);
        assert_eq!(watched(engine.handle.core()), (0, 0));
    }

    /// A renewal reads the clock before the lease ends, and may be held up until the worker has
    /// found it ended.
    #[test]
    fn a_lease_renewed_while_it_is_found_ended_is_watched_on() {
        let (engine, clock) = open(Durability::Full);
        let core = engine.handle.core();
        let claim = claim(&engine);
        let end = Timestamp::from_millis(1_000).saturating_add(LEASE);
        let due = core.leases.take_due(end, 2);
        assert!(due.iter().any(|attempt| Arc::ptr_eq(attempt, claim.of())) && core.leases.next().is_none());
        clock.advance(Duration::from_millis(9_999));
        claim.renew().unwrap();
        for attempt in &due {
            core.expire_if_due(attempt);
        }
        assert_eq!(core.leases.next(), claim.lease_until());
    }

    /// The worker may be held up between its look at a claim and the moment when it watches the
    /// claim on.
    #[test]
    fn a_claim_that_has_ended_is_not_watched_on() {
        let (engine, _clock) = open(Durability::Full);
        let core = engine.handle.core();
        let claim = claim(&engine);
        let attempt = Arc::clone(claim.of());
        claim.complete("").unwrap();
        core.watch(&attempt);
        assert_eq!(watched(core), (0, 0));
    }

    /// The end of the claim is undone after it was asked for, and before the lease is removed.
    #[test]
    fn a_claim_that_comes_back_meanwhile_is_watched_on() {
        let (engine, _clock) = open(Durability::Full);
        let core = engine.handle.core();
        let claim = claim(&engine);
        let asked = std::cell::Cell::new(0);
        core.leases.watch_while(claim.of(), || {
            asked.set(asked.get() + 1);
            if asked.get() == 1 {
                core.leases.watch(claim.of());
            }
            asked.get() > 1
        });
        assert_eq!(watched(core), (1, 1));
        claim.complete("").unwrap();
        assert_eq!(watched(core), (0, 0));
    }

    #[test]
    fn a_claim_whose_end_fails_is_not_watched_on() {
        let disk = SimDisk::new();
        let options = Engine::options().disk(&disk).clock(&ManualClock::at_millis(1_000)).stepped();
        let engine = options.open("x.idem").unwrap();
        drop(engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap());
        let claim = claim(&engine);
        disk.fail_syncs(Some("-wal"));
        assert!(engine.scope("other").begin("key", Fingerprint::of("")).is_err());
        assert!(claim.complete("").is_err());
        assert_eq!(watched(engine.handle.core()), (0, 0));
    }
}
