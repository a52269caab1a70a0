//! `Watches`: the claims for which callers of this process wait, and those whose end other
//! processes are to be told of.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::attempt::{Attempt, Ended};
use crate::clock::Deadline;
use crate::error::StoreFailure;
use crate::key::{Digest, DigestMap};
use crate::state::Fence;
use crate::sync::{Arc, Mutex};

/// The longest time between two looks at a claim that callers wait for.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(1);
const PAUSE_MIN: Duration = Duration::from_millis(10);

#[derive(Default)]
pub(super) struct Watches {
    /// Leaf lock.
    table: Mutex<Table>,
    /// Wakes the watcher.
    pub(super) called: Notify,
}

#[derive(Default)]
struct Table {
    /// Of each key mostly one claim.
    watched: DigestMap<Vec<Watch>>,
    /// The claims that this process has.
    own: DigestMap<Arc<Attempt>>,
    plan: Plan,
}

/// When claims are to be looked at. A time that its claim's watch has no more is passed over, so
/// nothing is taken out before its time, which is a second away at most.
type Plan = BinaryHeap<Reverse<(Instant, Digest, Fence)>>;

impl Table {
    /// The watch of a claim, and the plan.
    fn of(&mut self, attempt: &Attempt) -> Option<(&mut Watch, &mut Plan)> {
        Some((watch_of(&mut self.watched, attempt.digest, attempt.fence)?, &mut self.plan))
    }

    fn is_own(&self, attempt: &Attempt) -> bool {
        self.own.get(&attempt.digest).is_some_and(|own| own.fence == attempt.fence)
    }
}

fn watch_of(watched: &mut DigestMap<Vec<Watch>>, digest: Digest, fence: Fence) -> Option<&mut Watch> {
    watched.get_mut(&digest)?.iter_mut().find(|watch| watch.attempt.fence == fence)
}

struct Watch {
    attempt: Arc<Attempt>,
    waiters: usize,
    due: Deadline,
    pause: Duration,
    /// The key was told of since the last look was sent.
    is_told: bool,
    /// Its look has no answer yet, so it is not due.
    is_looked_at: bool,
    /// Since when the store has not answered.
    failing_until: Option<Deadline>,
    failure: Option<StoreFailure>,
}

impl Watch {
    /// It is looked at after this time.
    fn is_due_after(&mut self, time: Duration, plan: &mut Plan) {
        self.due = Deadline::after(time);
        let at = self.due.instant().map(|at| Reverse((at, self.attempt.digest, self.attempt.fence)));
        plan.extend(at);
    }
}

/// A claim that is looked at.
pub(super) struct Due {
    pub(super) attempt: Arc<Attempt>,
    /// This process has it, and will tell its end itself.
    pub(super) is_own: bool,
}

impl Watches {
    /// Notes that this process has a claim.
    pub(super) fn add_own(&self, attempt: &Arc<Attempt>) {
        let before = self.table.lock().own.insert(attempt.digest, Arc::clone(attempt));
        drop(before);
    }

    /// Notes that this process has a claim no more.
    pub(super) fn remove_own(&self, attempt: &Attempt) {
        let mut table = self.table.lock();
        let removed = table.is_own(attempt).then(|| table.own.remove(&attempt.digest));
        drop(table);
        drop(removed);
    }

    /// The attempt on which callers of this process wait, if there is one: this process's own, or
    /// the stand-in for that of another.
    pub(super) fn known(&self, digest: Digest, fence: Fence) -> Option<Arc<Attempt>> {
        let table = self.table.lock();
        let watched = table.watched.get(&digest).into_iter().flatten().map(|watch| &watch.attempt);
        table.own.get(&digest).into_iter().chain(watched).find(|attempt| attempt.fence == fence).cloned()
    }

    /// A caller starts to wait, on the returned attempt: that of the first caller that waited. The
    /// first one has the claim looked at now.
    pub(super) fn join(&self, attempt: &Arc<Attempt>) -> Arc<Attempt> {
        let mut table = self.table.lock();
        let new = || Watch {
            attempt: Arc::clone(attempt),
            waiters: 1,
            due: Deadline::NEVER,
            pause: PAUSE_MIN,
            is_told: false,
            is_looked_at: false,
            failing_until: None,
            failure: None,
        };
        let Table { watched, plan, .. } = &mut *table;
        let of_key = watched.entry(attempt.digest).or_default();
        let mut given_up = None;
        let watched = match of_key.iter_mut().find(|watch| watch.attempt.fence == attempt.fence) {
            // The wait for it was given up, and somebody has not looked yet.
            Some(watch) if watch.failure.is_some() => {
                given_up = Some(std::mem::replace(watch, new()));
                watch.is_due_after(Duration::ZERO, plan);
                Arc::clone(attempt)
            }
            Some(watch) => {
                watch.waiters += 1;
                Arc::clone(&watch.attempt)
            }
            None => {
                let mut watch = new();
                watch.is_due_after(Duration::ZERO, plan);
                of_key.push(watch);
                Arc::clone(attempt)
            }
        };
        drop(table);
        drop(given_up);
        self.called.notify_one();
        watched
    }

    /// A caller waits no longer.
    pub(super) fn leave(&self, attempt: &Attempt) {
        let mut table = self.table.lock();
        let Some(of_key) = table.watched.get_mut(&attempt.digest) else { return };
        let is_of_it = |watch: &Watch| std::ptr::eq(&raw const *watch.attempt, attempt);
        let Some(at) = of_key.iter().position(is_of_it) else { return };
        let Some(watch) = of_key.get_mut(at) else { return };
        watch.waiters = watch.waiters.saturating_sub(1);
        let removed = (watch.waiters == 0).then(|| of_key.swap_remove(at));
        if of_key.is_empty() {
            table.watched.remove(&attempt.digest);
        }
        drop(table);
        drop(removed);
    }

    /// Callers that wait.
    #[cfg(test)]
    fn waiters(&self) -> usize {
        self.table.lock().watched.values().flatten().map(|watch| watch.waiters).sum()
    }

    /// Why the wait for a claim was given up, if the store did not answer.
    pub(super) fn failure(&self, attempt: &Attempt) -> Option<StoreFailure> {
        self.table.lock().of(attempt).and_then(|(watch, _)| watch.failure.clone())
    }

    /// The claims to look at now, and when the next ones are due.
    pub(super) fn due(&self) -> (Vec<Due>, Option<Instant>) {
        let mut table = self.table.lock();
        let Table { watched, own, plan } = &mut *table;
        let is_own =
            |attempt: &Arc<Attempt>| own.get(&attempt.digest).is_some_and(|own| own.fence == attempt.fence);
        let (mut due, now) = (Vec::new(), Deadline::after(Duration::ZERO).instant());
        while let Some(&Reverse((at, digest, fence))) = plan.peek() {
            if now.is_some_and(|now| at > now) {
                return (due, Some(at));
            }
            plan.pop();
            let Some(watch) = watch_of(watched, digest, fence) else { continue };
            if !watch.is_looked_at && watch.due.instant() == Some(at) {
                (watch.is_told, watch.is_looked_at) = (false, true);
                due.push(Due { attempt: Arc::clone(&watch.attempt), is_own: is_own(&watch.attempt) });
            }
        }
        (due, None)
    }

    /// A claim has ended: it is not looked at again, and its waiters are told. They may
    /// wait on a stand-in: for a claim of this process too, if the first one read the key before the
    /// grant was known here, or after the end was.
    pub(super) fn ended(&self, attempt: &Attempt, how: Ended) {
        let mut table = self.table.lock();
        let stand_in = table.of(attempt).and_then(|(watch, _)| {
            watch.due = Deadline::NEVER;
            (!std::ptr::eq(&raw const *watch.attempt, attempt)).then(|| Arc::clone(&watch.attempt))
        });
        drop(table);
        if let Some(stand_in) = stand_in {
            stand_in.end(how.clone());
        }
        attempt.end(how);
    }

    /// Sets when a claim is looked at again. A claim whose end will be told can wait; the others
    /// are looked at more and more rarely.
    pub(super) fn later(&self, attempt: &Attempt, is_told: bool) {
        let mut table = self.table.lock();
        if let Some((watch, plan)) = table.of(attempt) {
            watch.is_looked_at = false;
            watch.failing_until = None;
            watch.pause = if is_told { PAUSE_MAX } else { watch.pause.mul_f32(1.6).min(PAUSE_MAX) };
            // What was told meanwhile, the look may have been too early for.
            watch.is_due_after(if watch.is_told { Duration::ZERO } else { watch.pause }, plan);
        }
        drop(table);
        self.called.notify_one();
    }

    /// The store did not answer. After `patience` the wait is given up, but for a claim of this
    /// process, whose end its holder will tell.
    pub(super) fn failed(&self, attempt: &Attempt, failure: StoreFailure, patience: Duration) {
        let mut table = self.table.lock();
        let is_own = table.is_own(attempt);
        let Some((watch, plan)) = table.of(attempt) else { return };
        watch.is_looked_at = false;
        watch.is_due_after(PAUSE_MAX, plan);
        self.called.notify_one();
        if is_own {
            return;
        }
        let until = *watch.failing_until.get_or_insert_with(|| Deadline::after(patience));
        let given_up = until.has_passed().then(|| {
            watch.failure = Some(failure);
            Arc::clone(&watch.attempt)
        });
        drop(table);
        if let Some(attempt) = given_up {
            attempt.end(Ended::Closed);
        }
    }

    /// Has a key looked at now.
    pub(super) fn told(&self, digest: Digest) {
        let mut table = self.table.lock();
        let Table { watched, plan, .. } = &mut *table;
        let Some(of_key) = watched.get_mut(&digest) else { return };
        for watch in of_key {
            watch.is_due_after(Duration::ZERO, plan);
            watch.is_told = true;
        }
        drop(table);
        self.called.notify_one();
    }

    /// Has all looked at now, because something may have been missed.
    pub(super) fn all_due(&self) {
        let mut table = self.table.lock();
        let Table { watched, plan, .. } = &mut *table;
        for watch in watched.values_mut().flatten() {
            watch.is_due_after(Duration::ZERO, plan);
            watch.is_told = true;
            watch.pause = PAUSE_MIN;
        }
        drop(table);
        self.called.notify_one();
    }

    /// Ends all waits, because the store is closed.
    pub(super) fn close(&self) {
        let table = std::mem::take(&mut *self.table.lock());
        for watch in table.watched.values().flatten() {
            watch.attempt.end(Ended::Closed);
        }
        for own in table.own.values() {
            own.end(Ended::Closed);
        }
    }
}

/// The keys whose change is to be told to other processes.
#[derive(Default)]
pub(super) struct Outbox(
    /// Leaf lock.
    Mutex<Vec<Digest>>,
);

impl Outbox {
    /// Whether it was empty, so that it has to be sent.
    pub(super) fn put(&self, digest: Digest) -> bool {
        let mut keys = self.0.lock();
        keys.push(digest);
        keys.len() == 1
    }

    pub(super) fn take(&self) -> Vec<Digest> {
        std::mem::take(&mut *self.0.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt::AttemptParts;
    use crate::error::FailureKind;

    #[test]
    fn a_wait_that_was_given_up_is_not_joined_though_one_of_its_waiters_sleeps_on() {
        let watches = Watches::default();
        let [first, second] = [(); 2].map(|()| Arc::new(Attempt::new(AttemptParts::example(2))));
        let sleeps = watches.join(&first);
        watches.failed(&first, StoreFailure::new(FailureKind::TimedOut, ""), Duration::ZERO);
        assert!(matches!(sleeps.ended_so_far(), Some(Ended::Closed)));
        let waits = watches.join(&second);
        assert!(waits.ended_so_far().is_none() && watches.failure(&waits).is_none());
        watches.leave(&sleeps);
        assert_eq!(watches.waiters(), 1);
        watches.leave(&waits);
        assert_eq!(watches.waiters(), 0);
    }

    /// Notifications name the keys of all processes: one that nobody waits for here costs a
    /// look-up.
    #[test]
    fn a_key_that_is_told_of_costs_no_walk_over_all_that_are_waited_for() {
        let watches = Watches::default();
        let attempt =
            |key: u128| Attempt::new(AttemptParts { digest: key_of(key), ..AttemptParts::example(2) });
        for key in 0..50_000 {
            watches.join(&Arc::new(attempt(key)));
        }
        let started = crate::clock::Stopwatch::start();
        for key in 0..50_000 {
            watches.told(key_of(1_000_000 + key));
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!(watches.waiters(), 50_000);
    }

    #[test]
    fn a_look_costs_no_walk_over_all_that_are_waited_for() {
        let watches = Watches::default();
        let attempts: Vec<_> = (0..50_000)
            .map(|key| Attempt::new(AttemptParts { digest: key_of(key), ..AttemptParts::example(2) }))
            .map(Arc::new)
            .collect();
        for attempt in &attempts {
            watches.join(attempt);
        }
        assert_eq!(watches.due().0.len(), attempts.len());
        for attempt in &attempts {
            watches.later(attempt, true);
        }
        let (started, mut looks) = (crate::clock::Stopwatch::start(), 0);
        for _ in 0..50_000 {
            watches.told(key_of(7));
            looks += watches.due().0.len();
            watches.later(&attempts[7], true);
        }
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        // The others may have come due once.
        assert!((50_000..=100_000).contains(&looks), "{looks}");
    }

    /// Digests are spread over the whole range.
    fn key_of(number: u128) -> Digest {
        Digest::from_u128(number.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    }

    #[test]
    fn what_is_told_while_a_key_is_looked_at_has_it_looked_at_again_at_once() {
        let watches = Watches::default();
        let attempt = Arc::new(Attempt::new(AttemptParts::example(2)));
        watches.join(&attempt);
        for is_told in [true, false] {
            assert_eq!(watches.due().0.len(), 1, "its look is sent");
            watches.told(attempt.digest);
            watches.later(&attempt, is_told);
        }
        assert_eq!(watches.due().0.len(), 1);
        watches.later(&attempt, true);
        assert!(watches.due().0.is_empty());
    }

    #[test]
    fn an_end_is_told_to_those_that_wait_on_another_stand_in_for_the_claim() {
        let watches = Watches::default();
        let [own, stand_in] = [(); 2].map(|()| Arc::new(Attempt::new(AttemptParts::example(2))));
        let waited_for = watches.join(&stand_in);
        watches.ended(&own, Ended::Vacated);
        assert!(matches!(waited_for.ended_so_far(), Some(Ended::Vacated)));
        assert!(matches!(own.ended_so_far(), Some(Ended::Vacated)));
    }
}
