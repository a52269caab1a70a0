//! The parts of an open engine, and the way of a call through them.

use super::claim::{Begin, Claim, Pending};
use super::follow::{Followed, follow};
use super::maintain::Rota;
use super::options::{Intents, Options};
use super::publisher::{Op, Publisher};
use super::scope::ScopeInner;
use super::{Handle, Status};
use crate::attempt::{Attempt, AttemptParts, Ended};
use crate::clock::{Deadline, EngineClock};
use crate::codec::{self, ENTRY_OVERHEAD_MAX, Entry, VacatedRow};
use crate::commit::Commit;
use crate::error::{BeginError, Busy, CommitError, Failure, ForgetError, IoFailure, ReadError};
use crate::index::{Change, Index, Slot};
use crate::key::{Digest, Secret};
use crate::record::{Place, Record};
use crate::state::{Decision, Event, Fence, Phase, State, decide};
use crate::store::Store;
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering};
use crate::tombstone::Tombstone;
use crate::wal::{Log, Room, frame::entry_bytes_max};
use crate::{Fingerprint, Timestamp};

pub(crate) struct Core {
    pub(super) options: Options,
    pub(super) secret: Secret,
    pub(super) clock: Arc<EngineClock>,
    pub(super) index: Arc<Index>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) commit: Commit<Publisher>,
    pub(super) room: Arc<Room>,
    pub(super) log: Arc<Log>,
    pub(super) store: Store,
    /// The next fence to grant; always below `fence_limit`.
    pub(super) fence_next: AtomicU64,
    /// What the file says of fences: none at or above this was ever granted.
    pub(super) fence_limit: AtomicU64,
    /// Claims that are out.
    pub(super) in_flight: AtomicUsize,
    pub(super) closed: AtomicBool,
    /// A checkpoint failed: claims that are out can still be completed, no new ones are granted.
    pub(super) halted: OnceLock<Failure>,
    /// Who found the disk full. Leaf lock.
    pub(super) full: Mutex<Full>,
    /// Who holds this does the work of the background, I/O included. Begins and claims never wait for it, but where a stepped
    /// engine has to make room; closing does.
    pub(super) rota: Mutex<Rota>,
    pub(super) nudge: crossbeam::channel::Sender<()>,
    pub(super) counters: Counters,
}

/// In short: an engine in somebody's log should not be its whole index.
impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Core")
            .field("path", &self.store.path())
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

/// Who wanted room on the disk and did not get it.
#[derive(Debug, Default)]
pub(crate) struct Full {
    /// The log, for another segment.
    pub(super) log: Option<IoFailure>,
    /// The store. It takes no more writes until it is opened again.
    pub(super) store: Option<IoFailure>,
}

impl Full {
    pub(super) fn any(&self) -> Option<IoFailure> {
        self.log.as_ref().or(self.store.as_ref()).cloned()
    }
}

/// Counters that belong to no other part.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(super) fresh: AtomicU64,
    pub(super) reused: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) interrupted: AtomicU64,
    pub(super) expired: AtomicU64,
    pub(super) checkpoints: AtomicU64,
    pub(super) reclaimed_blocks: AtomicU64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }
}

/// A key with what a call needs to know of it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) scope: &'a ScopeInner,
    pub(super) key: &'a [u8],
    pub(super) digest: Digest,
}

/// What a key was found to be.
enum Found {
    Record(Record),
    Slot(Slot),
    /// The index still names a place on disk, but what lies there, or lay there, is no longer remembered.
    Expired(Place),
}

impl Core {
    /// The hot path: a record in memory costs one lookup, and no lock but the shard's.
    #[inline]
    pub(super) fn begin(
        &self,
        handle: &Arc<Handle>,
        scope: &ScopeInner,
        key: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        let digest = scope.digest(key)?;
        if self.closed.load(Ordering::Relaxed) {
            return Err(BeginError::Closed);
        }
        if let Slot::Cached(record) = self.index.get(digest) {
            let state = State::Done(record.facts(), record.lifetime());
            if decide(state, Event::Begin { fingerprint, now: self.clock.now() }) == Decision::Replay {
                record.touch();
                self.index.count_replayed(digest);
                return Ok(Begin::Done(record));
            }
        }
        self.begin_slowly(handle, Asked { scope, key, digest }, fingerprint)
    }

    fn begin_slowly(
        &self,
        handle: &Arc<Handle>,
        asked: Asked<'_>,
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        loop {
            let event = Event::Begin { fingerprint, now: self.clock.now() };
            let found = self.find(asked)?;
            let decision = match &found {
                Found::Record(record) => decide(State::Done(record.facts(), record.lifetime()), event),
                Found::Slot(slot) => decide(slot.state(self.index.epoch()), event),
                Found::Expired(_) => decide(State::Vacant, event),
            };
            match (decision, found) {
                (Decision::Grant { .. }, found) => {
                    let expired = match found {
                        Found::Expired(place) => Some(place),
                        Found::Record(_) | Found::Slot(_) => None,
                    };
                    if let Some(claim) = self.grant(handle, asked, fingerprint, expired)? {
                        return Ok(Begin::Fresh(claim));
                    }
                    // Somebody else was faster: look again.
                }
                (Decision::Replay, Found::Record(record)) => {
                    record.touch();
                    self.index.count_replayed(asked.digest);
                    return Ok(Begin::Done(record));
                }
                (Decision::Expired, Found::Record(record)) => {
                    self.counters.late.fetch_add(1, Ordering::Relaxed);
                    return Err(BeginError::Expired(Tombstone::of(&record)));
                }
                (Decision::Wait, Found::Slot(slot)) => {
                    if let Some(failure) = self.commit.failure() {
                        return Err(BeginError::Failed(failure.clone()));
                    }
                    let Some(attempt) = slot.attempt() else { continue };
                    self.index.count_waited(asked.digest);
                    return Ok(Begin::InFlight(Pending::new(Arc::clone(attempt), handle)));
                }
                (Decision::Reused, _) => {
                    self.counters.reused.fetch_add(1, Ordering::Relaxed);
                    return Err(BeginError::KeyReused);
                }
                (
                    Decision::Replay
                    | Decision::Expired
                    | Decision::Wait
                    | Decision::Superseded
                    | Decision::Busy
                    | Decision::Become(_)
                    | Decision::Stay,
                    _,
                ) => unreachable!("a begin is granted, waits, is replayed or refused"),
            }
        }
    }

    /// What the index says of a key; a record that is on disk alone is read, and cached.
    fn find(&self, asked: Asked<'_>) -> Result<Found, ReadError> {
        let followed = follow(
            || self.index.get(asked.digest),
            |place| self.store.read(place, asked.digest),
            self.index.epoch(),
            self.clock.now(),
        )?;
        let (place, record) = match followed {
            Followed::Slot(Slot::Cached(record)) => return Ok(Found::Record(record)),
            Followed::Slot(slot) => return Ok(Found::Slot(slot)),
            Followed::Over(place) => return Ok(Found::Expired(place)),
            Followed::Read(place, record) => (place, record),
        };
        if record.key() != asked.key || record.scope() != asked.scope.name() {
            let what = "a record of another key has this key's digest";
            let place = format!("block {}, offset {}", place.block(), place.offset());
            return Err(ReadError::Damaged(crate::Damage::new(self.store.path(), place, what)));
        }
        if record.remembered_until() <= self.clock.now() {
            return Ok(Found::Expired(place));
        }
        self.index.count_loaded(asked.digest);
        self.index.cache(asked.digest, &record);
        Ok(Found::Record(record))
    }

    /// Grants a claim, durably where the options say so. `None` where the key's state changed meanwhile.
    fn grant(
        &self,
        handle: &Arc<Handle>,
        asked: Asked<'_>,
        fingerprint: &Fingerprint,
        expired: Option<Place>,
    ) -> Result<Option<Claim>, BeginError> {
        self.check_granting()?;
        let permit = Permit::take(handle, self.claim_promise(asked))?;
        let placed = self.index.change(asked.digest, |slot| {
            let event = Event::Begin { fingerprint, now: self.clock.now() };
            let state = match slot {
                Slot::Stored { place, .. } if Some(*place) == expired => State::Vacant,
                // Another record than the one that was found expired.
                Slot::Stored { .. } => return (Change::Keep, None),
                Slot::Vacant
                | Slot::InFlight(_)
                | Slot::Ending(_)
                | Slot::Interrupted(_)
                | Slot::Cached(_) => slot.state(self.index.epoch()),
            };
            let Decision::Grant { attempt: number } = decide(state, event) else {
                return (Change::Keep, None);
            };
            // Drawn here and not before: a key's fences must grow in the order in which its claims are granted.
            let fence = match self.next_fence() {
                Ok(fence) => fence,
                Err(busy) => return (Change::Keep, Some(Err(busy))),
            };
            let earlier = slot.attempt().filter(|_| number > 1).map(|attempt| attempt.as_earlier());
            let attempt = Arc::new(Attempt::new(&AttemptParts {
                digest: asked.digest,
                scope: asked.scope.name(),
                key: asked.key,
                fence,
                number,
                fingerprint: *fingerprint,
                started: self.clock.now(),
                retention: asked.scope.retention(),
                earlier,
            }));
            (Change::Set(Slot::InFlight(Arc::clone(&attempt))), Some(Ok((attempt, slot.clone()))))
        });
        let Some((attempt, before)) = placed.transpose()? else { return Ok(None) };
        let logged = self.options.intents == Intents::Durable;
        let mut permit = permit;
        if logged {
            self.log_intent(&attempt, before, &mut permit)?;
        }
        if attempt.earlier.is_some() {
            self.counters.interrupted.fetch_add(1, Ordering::Relaxed);
        }
        self.counters.fresh.fetch_add(1, Ordering::Relaxed);
        Ok(Some(Claim::new(attempt, permit, logged)))
    }

    fn log_intent(
        &self,
        attempt: &Arc<Attempt>,
        before: Slot,
        permit: &mut Permit,
    ) -> Result<(), CommitError> {
        let mut entry = Vec::new();
        codec::encode_into(&Entry::Intent(attempt.row()), &mut entry);
        let cost = entry_bytes_max(entry.len()) as u64;
        let appended =
            self.commit.append(&entry, Op::Granted(Arc::clone(attempt)), cost, self.options.patience);
        match appended {
            Ok(ticket) => {
                permit.spend(cost);
                self.commit.wait(&ticket).inspect_err(|error| attempt.end(ended_by(error)))
            }
            Err(error) => {
                // Nothing was written: the key is as it was before.
                self.put_back(attempt, before);
                attempt.end(ended_by(&error));
                Err(error)
            }
        }
    }

    /// Takes an attempt that came to nothing out of the index again.
    pub(super) fn put_back(&self, attempt: &Arc<Attempt>, before: Slot) {
        self.index.change(attempt.digest, |slot| {
            let is_it = slot.attempt().is_some_and(|current| Arc::ptr_eq(current, attempt));
            (if is_it { Change::Set(before) } else { Change::Keep }, ())
        });
    }

    /// Whether claims are granted at all.
    fn check_granting(&self) -> Result<(), BeginError> {
        match self.commit.failure().or(self.halted.get()) {
            Some(failure) => Err(BeginError::Failed(failure.clone())),
            None => Ok(()),
        }
    }

    fn next_fence(&self) -> Result<Fence, BeginError> {
        let fence = self.fence_next.fetch_add(1, Ordering::Relaxed);
        if fence < self.fence_limit.load(Ordering::Acquire) {
            return Ok(Fence::new(fence));
        }
        // A million million claims since the last checkpoint, which would move the limit.
        self.nudge();
        Err(BeginError::Busy(Busy::QueueFull { waited: std::time::Duration::ZERO }))
    }

    /// Bytes of log to promise to a claim: its intent, its completion with a body of the reserved size.
    fn claim_promise(&self, asked: Asked<'_>) -> Promise {
        let names = ENTRY_OVERHEAD_MAX + asked.scope.name().len() + asked.key.len();
        let body = self.options.reserve_bytes.min(self.options.max_body_bytes);
        Promise { intent: entry_bytes_max(names) as u64, ending: entry_bytes_max(names + body) as u64 }
    }

    /// Promises room in the log, waiting for it if need be.
    pub(super) fn promise(&self, bytes: u64) -> Result<(), CommitError> {
        if self.room.try_promise(bytes) {
            return Ok(());
        }
        let deadline = Deadline::after(self.options.patience);
        loop {
            if self.options.workers {
                self.nudge();
            } else {
                self.make_room();
            }
            if self.room.try_promise(bytes) {
                return Ok(());
            }
            if let Some(failure) = self.commit.failure().or(self.halted.get()) {
                return Err(CommitError::Failed(failure.clone()));
            }
            if self.closed.load(Ordering::Acquire) {
                return Err(CommitError::Closed);
            }
            let full = self.full.lock().any();
            if let Some(failure) = full {
                return Err(CommitError::Busy(Busy::DiskFull(failure)));
            }
            if deadline.has_passed() || !self.options.workers {
                return Err(CommitError::Busy(Busy::QueueFull { waited: self.options.patience }));
            }
            self.room.wait(bytes, deadline);
        }
    }

    /// Wakes the worker; it is enough that one wake-up waits for it.
    pub(super) fn nudge(&self) {
        self.nudge.try_send(()).unwrap_or(());
    }

    /// Looks at a key without claiming it.
    pub(super) fn status(&self, scope: &ScopeInner, key: &[u8]) -> Result<Status, ReadError> {
        let digest = scope.digest(key)?;
        if self.closed.load(Ordering::Acquire) {
            return Err(ReadError::Closed);
        }
        Ok(self.status_of(self.find(Asked { scope, key, digest })?))
    }

    fn status_of(&self, found: Found) -> Status {
        let now = self.clock.now();
        match found {
            Found::Record(record) if record.expires() > now => Status::Done(record),
            Found::Record(record) if record.remembered_until() > now => {
                Status::Expired(Tombstone::of(&record))
            }
            Found::Record(_) | Found::Expired(_) => Status::Vacant,
            Found::Slot(slot) => match (&slot.phase(), slot.attempt()) {
                (Phase::InFlight | Phase::Ending, Some(attempt)) => Status::InFlight(attempt.info()),
                (Phase::Interrupted, Some(attempt)) if attempt.remembered_until() > now => {
                    Status::Interrupted(attempt.as_earlier())
                }
                _ => Status::Vacant,
            },
        }
    }

    /// Reads what a slot of a snapshot stands for; `None` where it is over or vacant by now.
    pub(super) fn resolve(
        &self,
        digest: Digest,
        slot: Slot,
    ) -> Result<Option<(Status, SlotNames)>, ReadError> {
        let mut seen = Some(slot);
        let followed = follow(
            || seen.take().unwrap_or_else(|| self.index.get(digest)),
            |place| self.store.read(place, digest),
            self.index.epoch(),
            self.clock.now(),
        )?;
        let record = match followed {
            Followed::Over(_) => return Ok(None),
            Followed::Read(_, record) | Followed::Slot(Slot::Cached(record)) => record,
            Followed::Slot(slot) => {
                let Some(attempt) = slot.attempt().cloned() else { return Ok(None) };
                let status = self.status_of(Found::Slot(slot));
                return Ok(Some((status, SlotNames::Attempt(attempt))));
            }
        };
        let status = self.status_of(Found::Record(record.clone()));
        Ok(Some((status, SlotNames::Record(record))))
    }

    /// Forgets a record or an interrupted claim, durably. Whether there was one.
    pub(super) fn forget(&self, scope: &ScopeInner, key: &[u8]) -> Result<bool, ForgetError> {
        let digest = scope.digest(key).map_err(ReadError::Key)?;
        let asked = Asked { scope, key, digest };
        if self.closed.load(Ordering::Acquire) {
            return Err(ReadError::Closed.into());
        }
        loop {
            let found = self.find(asked)?;
            let event = Event::Forget { now: self.clock.now() };
            let (decision, doomed) = match found {
                Found::Record(record) => {
                    (decide(State::Done(record.facts(), record.lifetime()), event), Slot::Cached(record))
                }
                Found::Slot(slot) => (decide(slot.state(self.index.epoch()), event), slot),
                Found::Expired(_) => return Ok(false),
            };
            match decision {
                Decision::Busy => return Err(ForgetError::InFlight),
                Decision::Become(_) => {
                    if self.forget_slot(asked, &doomed)? {
                        return Ok(true);
                    }
                }
                Decision::Stay
                | Decision::Grant { .. }
                | Decision::Wait
                | Decision::Replay
                | Decision::Expired
                | Decision::Reused
                | Decision::Superseded => return Ok(false),
            }
        }
    }

    /// Forgets what a slot holds, if it still does; the key is in flight meanwhile.
    fn forget_slot(&self, asked: Asked<'_>, doomed: &Slot) -> Result<bool, CommitError> {
        let cost = entry_bytes_max(ENTRY_OVERHEAD_MAX) as u64;
        self.promise(cost)?;
        let (attempt, until) = match (doomed, doomed.attempt()) {
            (Slot::Cached(record), _) => {
                (Arc::new(forgetting(asked, record)), Some(record.remembered_until()))
            }
            // A new one: those who waited for the old one were told how it ended.
            (_, Some(attempt)) => (Arc::new(Attempt::from_row(&attempt.row())), None),
            (_, None) => unreachable!("only records and interrupted claims are forgotten"),
        };
        let taken = self.index.change(asked.digest, |slot| {
            let same = match (slot, doomed) {
                (Slot::Cached(now), Slot::Cached(then)) => now.fence() == then.fence(),
                // Evicted since; the place is that of the record that was read.
                (Slot::Stored { place, .. }, Slot::Cached(then)) => Some(*place) == then.place(),
                (Slot::Interrupted(now), Slot::Interrupted(then)) => Arc::ptr_eq(now, then),
                _ => false,
            };
            // What is there now is what may have to be put back: the record may lie elsewhere than when it was found.
            let before = same.then(|| slot.clone());
            (if same { Change::Set(Slot::Ending(Arc::clone(&attempt))) } else { Change::Keep }, before)
        });
        let Some(before) = taken else {
            self.room.withdraw(cost);
            return Ok(false);
        };
        self.log_vacated(&attempt, until, cost).inspect_err(|error| {
            if !matches!(error, CommitError::Failed(_)) {
                self.put_back(&attempt, before);
                attempt.end(ended_by(error));
            }
        })?;
        Ok(true)
    }

    /// Logs that a key is vacant. The promise of `cost` bytes is used up or withdrawn.
    pub(super) fn log_vacated(
        &self,
        attempt: &Arc<Attempt>,
        forgotten_until: Option<Timestamp>,
        cost: u64,
    ) -> Result<(), CommitError> {
        let entry = vacated_entry(attempt, forgotten_until);
        let op = Op::Vacated(Arc::clone(attempt), forgotten_until);
        let ticket = self
            .commit
            .append(&entry, op, cost, self.options.patience)
            .inspect_err(|_| self.room.withdraw(cost))?;
        self.commit.wait(&ticket)
    }
}

pub(super) fn vacated_entry(attempt: &Attempt, forgotten_until: Option<Timestamp>) -> Vec<u8> {
    let mut entry = Vec::new();
    let row = VacatedRow {
        digest: attempt.digest.as_u128(),
        fence: attempt.fence.get(),
        forgotten_until_ms: forgotten_until.map(Timestamp::as_millis),
    };
    codec::encode_into(&Entry::Vacated(row), &mut entry);
    entry
}

/// What waiters are told when a commit did not happen.
pub(super) fn ended_by(error: &CommitError) -> Ended {
    match error {
        CommitError::Busy(_) => Ended::Vacated,
        CommitError::Failed(failure) => Ended::Failed(failure.clone()),
        CommitError::Closed => Ended::Closed,
    }
}

/// Stands in the index for a record that is being forgotten.
fn forgetting(asked: Asked<'_>, record: &Record) -> Attempt {
    Attempt::new(&AttemptParts {
        digest: asked.digest,
        scope: asked.scope.name(),
        key: asked.key,
        fence: record.fence(),
        number: record.attempt(),
        fingerprint: *record.fingerprint(),
        started: record.started(),
        retention: asked.scope.retention(),
        earlier: None,
    })
}

/// Where the names of a slot's key are kept.
#[derive(Debug)]
pub(super) enum SlotNames {
    Record(Record),
    Attempt(Arc<Attempt>),
}

/// Room for one claim.
#[derive(Clone, Copy, Debug)]
pub(super) struct Promise {
    intent: u64,
    ending: u64,
}

/// A claim's place among those that may be out, and its room in the log. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    pub(super) handle: Arc<Handle>,
    promised: u64,
}

impl Permit {
    fn take(handle: &Arc<Handle>, promise: Promise) -> Result<Self, BeginError> {
        let core = handle.core();
        let max = core.options.max_in_flight;
        // The permit exists from here on, so that every way out gives it back.
        let mut permit = Self { handle: Arc::clone(handle), promised: 0 };
        if core.in_flight.fetch_add(1, Ordering::Relaxed) >= max {
            return Err(BeginError::Busy(Busy::TooManyClaims { max }));
        }
        let bytes = promise.intent + promise.ending;
        core.promise(bytes)?;
        permit.promised = bytes;
        Ok(permit)
    }

    /// Notes that `bytes` of the promise are the commit queue's now.
    pub(super) fn spend(&mut self, bytes: u64) {
        self.promised = self.promised.saturating_sub(bytes);
    }

    /// Makes sure that at least `bytes` are promised.
    pub(super) fn raise(&mut self, bytes: u64) -> Result<(), CommitError> {
        let more = bytes.saturating_sub(self.promised);
        if more > 0 {
            self.handle.core().promise(more)?;
            self.promised += more;
        }
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let core = self.handle.core();
        core.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.promised > 0 {
            core.room.withdraw(self.promised);
        }
    }
}
