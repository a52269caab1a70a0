//! `Attempt`: the state of one claim, from the grant until a later attempt takes its place.

mod ends;
mod hand_over;
pub(crate) mod interruption;
mod names;
mod parts;
pub(crate) mod place;
pub(crate) mod progress;
mod rows;
pub(crate) mod waited;

pub(crate) use hand_over::HandOver;
pub(crate) use parts::AttemptParts;

use std::time::Duration;

use crate::clock::millis;
use crate::error::Failure;
use crate::key::Digest;
use crate::record::retention::Retention;
use crate::state::{Facts, Fence};
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, OnceLock, Ordering};
use crate::task::wait_list::WaitList;
use crate::{Fingerprint, Record, Timestamp};
use interruption::{AttemptInfo, Earlier, Interruption};
use names::Names;
use place::Place;
use progress::Progress;

/// How an attempt ended, for its waiters.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Done(Record),
    Vacated,
    Interrupted,
    /// Boxed, because every attempt has a field for this.
    Failed(Box<Failure>),
    Closed,
}

pub(crate) struct Attempt {
    pub(crate) digest: Digest,
    pub(crate) fence: Fence,
    pub(crate) number: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) started: Timestamp,
    /// How long its record will be kept, unless its completion says otherwise.
    pub(crate) retention: Retention,
    /// How long the claim is good without being renewed.
    pub(crate) lease: Option<Duration>,
    /// How long it is remembered once it is interrupted; `None` until it is resolved or
    /// forgotten.
    pub(crate) unresolved_ttl: Option<Duration>,
    pub(crate) earlier: Option<Earlier>,
    names: Names,
    /// When the claim died, in ms; `ALIVE` before that.
    interrupted_ms: AtomicU64,
    /// How much later that was found, in ms.
    found_late_ms: AtomicU64,
    /// The log, or the store, has its intent.
    logged: AtomicBool,
    /// The claim was released without an effect, but an earlier attempt may have had one.
    returned: AtomicBool,
    /// The end of its interruption is queued, because its time is over.
    vacates: AtomicBool,
    replaced: Option<ReplacedInterruption>,
    /// The record that is being forgotten: then there is no claim. `None` for a claim.
    forgets: Option<Record>,
    /// While the grant is pending: the bytes of log that are reserved for the claim's end. Zero
    /// once the caller has the claim, [`WITHDRAWN`] once the grant was withdrawn. The thread that
    /// takes the bytes decides which.
    undelivered_bytes: AtomicU64,
    /// While the grant is pending: the claim's place among those in flight. Leaf lock.
    undelivered_place: Mutex<Place>,
    /// When its lease ends, in ms; changed under the lock of its key's shard.
    lease_until_ms: AtomicU64,
    /// Until when the claim is good although no process holds it, in ms; `NO_TOKEN` if it was
    /// never handed over. Durable, and kept when the claim is resumed: if that process is killed,
    /// the claim stands again until then.
    detached_until_ms: AtomicU64,
    /// The opening in which it was last handed over.
    detached_in: AtomicU64,
    /// Leaf lock.
    progress: Mutex<Option<Progress>>,
    /// Set once. Leaf lock: nothing else is locked under it.
    ended: Mutex<Option<Ended>>,
    woken: Condvar,
    /// Waiting tasks; made for the first of them, because most attempts have none.
    tasks: OnceLock<Box<WaitList>>,
}

const ALIVE: u64 = u64::MAX;

const NO_TOKEN: u64 = HandOver::REVOKED.as_millis();

const NO_END: Timestamp = Timestamp::from_millis(u64::MAX);

/// The value in place of the bytes once a grant was withdrawn.
const WITHDRAWN: u64 = u64::MAX;

/// The earlier interruption of the key, which the key gets back if the claim never reaches its
/// caller.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReplacedInterruption {
    since: Timestamp,
    unresolved_ttl: Option<Duration>,
}

impl Attempt {
    pub(crate) fn new(parts: AttemptParts<'_>) -> Self {
        let lease_until = parts.lease.map_or(NO_END, |lease| parts.started.saturating_add(lease));
        Self {
            digest: parts.digest,
            fence: parts.fence,
            number: parts.number,
            fingerprint: parts.fingerprint,
            started: parts.started,
            retention: parts.retention,
            lease: parts.lease,
            unresolved_ttl: parts.unresolved_ttl,
            earlier: parts.earlier,
            names: Names::new(parts.scope, parts.key),
            interrupted_ms: AtomicU64::new(ALIVE),
            found_late_ms: AtomicU64::new(0),
            logged: AtomicBool::new(false),
            returned: AtomicBool::new(false),
            vacates: AtomicBool::new(false),
            replaced: parts.replaced,
            forgets: None,
            undelivered_bytes: AtomicU64::new(parts.undelivered_bytes),
            undelivered_place: Mutex::new(Place::default()),
            lease_until_ms: AtomicU64::new(lease_until.as_millis()),
            detached_until_ms: AtomicU64::new(NO_TOKEN),
            detached_in: AtomicU64::new(0),
            progress: Mutex::new(parts.progress),
            ended: Mutex::new(None),
            woken: Condvar::new(),
            tasks: OnceLock::new(),
        }
    }

    /// Takes the place of a record in the index while the record is being forgotten.
    pub(crate) fn forgetting(record: Record) -> Self {
        let bare = AttemptParts::bare(record.digest(), record.fence());
        let parts = AttemptParts {
            scope: record.scope(),
            key: record.key(),
            number: record.attempt(),
            fingerprint: *record.fingerprint(),
            started: record.started(),
            ..bare
        };
        let attempt = Self::new(parts);
        Self { forgets: Some(record), ..attempt }
    }

    /// The record that is being forgotten. Until that is durable, callers are shown the record.
    pub(crate) fn forgets(&self) -> Option<&Record> {
        self.forgets.as_ref()
    }

    pub(crate) fn scope(&self) -> &[u8] {
        self.names.split().0
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.names.split().1
    }

    #[inline]
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts { fence: self.fence, attempt: self.number, fingerprint: &self.fingerprint }
    }

    /// Until when this attempt is remembered if it is interrupted. The time counts from when it
    /// was found interrupted, or released.
    pub(crate) fn remembered_until(&self) -> Timestamp {
        let Some(time) = self.remembered_for() else { return NO_END };
        self.interrupted().unwrap_or(self.started).saturating_add(time)
    }

    /// For how long it is remembered, counted from the date of the interruption.
    fn remembered_for(&self) -> Option<Duration> {
        let late = Duration::from_millis(self.found_late_ms.load(Ordering::Acquire));
        self.unresolved_ttl.map(|ttl| ttl.saturating_add(late))
    }

    /// When its lease ends; the end of time without a lease.
    #[inline]
    pub(crate) fn lease_until(&self) -> Timestamp {
        Timestamp::from_millis(self.lease_until_ms.load(Ordering::Acquire))
    }

    /// Starts the lease again.
    pub(crate) fn renew(&self, now: Timestamp) {
        if let Some(lease) = self.lease {
            self.lease_until_ms.store(now.saturating_add(lease).as_millis(), Ordering::Release);
        }
    }

    /// Notes that the claim was handed over, and is good without a holder; or that this was
    /// [revoked](HandOver::REVOKED).
    pub(crate) fn detach(&self, hand_over: HandOver) {
        let until = hand_over.until.as_millis();
        if until != NO_TOKEN {
            self.lease_until_ms.store(until, Ordering::Release);
        }
        self.detached_in.store(hand_over.opening, Ordering::Release);
        self.detached_until_ms.store(until, Ordering::Release);
    }

    /// The last hand-over of the claim as a token, if there was one.
    pub(crate) fn detached(&self) -> Option<HandOver> {
        match self.detached_until_ms.load(Ordering::Acquire) {
            NO_TOKEN => None,
            until => Some(HandOver {
                until: Timestamp::from_millis(until),
                opening: self.detached_in.load(Ordering::Acquire),
            }),
        }
    }

    /// Until when the claim stands over openings, if it was handed over as a token.
    pub(crate) fn detached_until(&self) -> Option<Timestamp> {
        self.detached().map(|hand_over| hand_over.until)
    }

    /// The progress last saved, by this attempt or one before it.
    pub(crate) fn progress(&self) -> Option<Progress> {
        self.progress.lock().clone()
    }

    pub(crate) fn set_progress(&self, progress: Progress) {
        let before = self.progress.lock().replace(progress);
        drop(before);
    }

    /// Takes over the progress of the attempt before it, unless it has one.
    pub(crate) fn inherit(&self, earlier: &Self) {
        let inherited = earlier.progress();
        let mut progress = self.progress.lock();
        if progress.is_none() {
            *progress = inherited;
        }
    }

    pub(crate) fn interrupted(&self) -> Option<Timestamp> {
        match self.interrupted_ms.load(Ordering::Acquire) {
            ALIVE => None,
            at => Some(Timestamp::from_millis(at)),
        }
    }

    /// Notes that the claim was found dead now, once.
    pub(crate) fn interrupt(&self, now: Timestamp) {
        self.interrupt_since(now, now);
    }

    /// Notes that the claim was found dead while its process lives. A claim whose lease is over
    /// died at the end of its lease.
    ///
    /// It is remembered as long as if it had died now. Perhaps no caller has begun its key since
    /// its lease ended, and the first one that does must learn of the interruption.
    pub(crate) fn lose(&self, now: Timestamp) {
        self.interrupt_since(self.lease_until().min(now), now);
    }

    /// Called under the lock of its key's shard, or by an opening.
    fn interrupt_since(&self, since: Timestamp, found: Timestamp) {
        let at = since.as_millis().min(ALIVE - 1);
        // A row from disk may know the time already; it stays.
        if self.interrupted().is_some() {
            return;
        }
        // Before the date: a checkpoint that writes the row meanwhile must not find the date alone,
        // which would count from the end of the lease.
        self.found_late_ms.store(millis(found.saturating_since(since)), Ordering::Release);
        self.interrupted_ms.compare_exchange(ALIVE, at, Ordering::AcqRel, Ordering::Acquire).unwrap_or(at);
    }

    /// Notes that the log, or the store, has its intent.
    pub(crate) fn set_logged(&self) {
        self.logged.store(true, Ordering::Release);
    }

    /// Whether the log, or the store, has its intent, so that the log also needs its end.
    pub(crate) fn is_logged(&self) -> bool {
        self.logged.load(Ordering::Acquire)
    }

    /// Notes that the claim was released without an effect, so that only an earlier attempt may
    /// have had one.
    pub(crate) fn give_back(&self, now: Timestamp) {
        self.returned.store(true, Ordering::Release);
        self.detached_until_ms.store(NO_TOKEN, Ordering::Release);
        self.interrupt(now);
    }

    /// Whether the key is interrupted by an attempt before this one.
    pub(crate) fn is_returned(&self) -> bool {
        self.returned.load(Ordering::Acquire)
    }

    /// Notes that the end of its interruption is queued; whether this is the first time.
    pub(crate) fn vacates_first(&self) -> bool {
        !self.vacates.swap(true, Ordering::Relaxed)
    }

    /// Its end came while a later claim had the key, and changed nothing. If that claim is
    /// withdrawn, the end is queued once more.
    pub(crate) fn was_not_vacated(&self) {
        self.vacates.store(false, Ordering::Relaxed);
    }

    /// Whether its grant is pending: the caller does not have the claim yet.
    pub(crate) fn is_undelivered(&self) -> bool {
        !matches!(self.undelivered_bytes.load(Ordering::Acquire), 0 | WITHDRAWN)
    }

    /// Whether its grant was withdrawn before it reached its caller. The key changed in the same
    /// step.
    pub(crate) fn is_withdrawn(&self) -> bool {
        self.undelivered_bytes.load(Ordering::Acquire) == WITHDRAWN
    }

    /// Takes the bytes that a pending grant has reserved for the claim's end, because the claim
    /// reaches its caller or the engine closes. Only one call gets them, this one or
    /// [`withdraw`](Self::withdraw).
    pub(crate) fn deliver(&self) -> Option<u64> {
        self.decide_delivery(0)
    }

    /// Takes the bytes that a pending grant has reserved for the claim's end, because the grant
    /// is withdrawn. The caller holds the lock of the key's shard and changes the key in the same
    /// step: between two steps the claim would look as if its caller had it.
    pub(crate) fn withdraw(&self) -> Option<u64> {
        self.decide_delivery(WITHDRAWN)
    }

    fn decide_delivery(&self, mark: u64) -> Option<u64> {
        let undecided = |bytes| (!matches!(bytes, 0 | WITHDRAWN)).then_some(mark);
        self.undelivered_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, undecided).ok()
    }

    /// Keeps the place of the claim while its grant is pending.
    pub(crate) fn keeping(mut self, place: Place) -> Self {
        self.undelivered_place = Mutex::new(place);
        self
    }

    /// Takes the place of a pending grant. The thread that decides what becomes of the grant takes
    /// it: the claim gets it, or it is left. No later call gets it again.
    pub(crate) fn take_place(&self) -> Place {
        std::mem::take(&mut *self.undelivered_place.lock())
    }

    /// The interruption that a new claim over this attempt would restore if it is withdrawn.
    pub(crate) fn as_replaced(&self) -> ReplacedInterruption {
        let since = self.interrupted().unwrap_or_else(|| self.lease_until());
        ReplacedInterruption { since, unresolved_ttl: self.remembered_for() }
    }

    /// The interruption that the key gets back if the claim never reached its caller: as it was,
    /// but with this fence. It is remembered for as long as before. `None` if there was none.
    pub(crate) fn never_held(&self) -> Option<Self> {
        let (earlier, replaced) = (self.earlier?, self.replaced?);
        let back = Self::new(AttemptParts {
            digest: self.digest,
            scope: self.scope(),
            key: self.key(),
            fence: self.fence,
            number: self.number.saturating_sub(1),
            fingerprint: self.fingerprint,
            started: self.started,
            retention: self.retention,
            lease: self.lease,
            unresolved_ttl: replaced.unresolved_ttl,
            earlier: Some(earlier),
            progress: self.progress(),
            replaced: None,
            undelivered_bytes: 0,
        });
        back.give_back(replaced.since);
        Some(back)
    }

    /// The attempt that may have had an effect, as a later one remembers it. A claim whose lease
    /// is over, but which is not marked as interrupted yet, counts as interrupted since the end
    /// of its lease.
    pub(crate) fn as_earlier(&self) -> Earlier {
        self.earlier.filter(|_| self.is_returned()).unwrap_or_else(|| {
            let interrupted_at = self.interrupted().unwrap_or_else(|| self.lease_until());
            Earlier { info: self.info(), interrupted_at }
        })
    }

    /// The attempt that may have had an effect, for callers.
    pub(crate) fn interruption(&self) -> Interruption {
        self.interruption_of(self.as_earlier())
    }

    /// The interruption before this attempt, for its holder.
    pub(crate) fn interruption_before(&self) -> Option<Interruption> {
        self.earlier.map(|earlier| self.interruption_of(earlier))
    }

    fn interruption_of(&self, earlier: Earlier) -> Interruption {
        Interruption { earlier, fingerprint: self.fingerprint, progress: self.progress() }
    }

    pub(crate) fn info(&self) -> AttemptInfo {
        AttemptInfo { fence: self.fence, attempt: self.number, started: self.started }
    }
}
