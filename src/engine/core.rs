//! The parts of an open engine, and the way of a call through them.

use std::future::ready;

use super::claim::{Begin, Claim, Terms};
use super::closing::Closing;
use super::crew::Crew;
use super::detached::Detached;
use super::fences::Fences;
use super::follow::{Followed, follow};
use super::gate::Gate;
use super::granting::Granting;
use super::leases::Leases;
use super::maintain::Rota;
use super::options::Options;
use super::pending::Pending;
use super::permit::{Permit, Waiter, count_one_more};
use super::policies::{Policies, Version};
use super::publisher::Publisher;
use super::reads::Reads;
use super::scope::ScopeInner;
pub(super) use super::stats::Counters;
use super::tell::ToldOf;
use super::{Handle, Status};
use crate::attempt::{Attempt, AttemptParts, Budget, Ended};
use crate::caller::{Caller, block};
use crate::clock::{EngineClock, Patience};
use crate::commit::Commit;
use crate::error::{BeginError, Busy, ClaimError, CommitError, Failure, IoFailure, ReadError, ResolveError};
use crate::index::{Change, Index, Slot};
use crate::inside::{Role, is_inside};
use crate::key::{Digest, Secret};
use crate::nudge::Nudge;
use crate::observer::{Cause, EndKind, Event as Told};
use crate::policy::{Durability, Policy};
use crate::record::{Place, Record};
use crate::state::{Decision, Event, Fence, Phase, State, decide};
use crate::store::Store;
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, OnceLock, is_ours};
use crate::timers::Timers;
use crate::tombstone::Tombstone;
use crate::wal::{Log, LogSpace};
use crate::{Fingerprint, Timestamp};

pub(crate) struct Core {
    pub(super) options: Options,
    pub(super) secret: Secret,
    pub(super) file_id: [u8; 16],
    pub(super) clock: Arc<EngineClock>,
    pub(super) index: Arc<Index>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) commit: Commit<Publisher>,
    pub(super) space: Arc<LogSpace>,
    /// `None` where there is none yet, on a full disk. Leaf lock.
    pub(super) log: Mutex<Option<Arc<Log>>>,
    pub(super) store: Store,
    pub(super) fences: Fences,
    /// The salt of this opening: tokens that are made in it say so.
    pub(super) opening: u64,
    /// Claims that are out.
    pub(super) in_flight: AtomicUsize,
    /// Calls that wait for claims of others.
    pub(super) waiters: AtomicUsize,
    /// Claims that the opening found dead, until the observer is told.
    pub(super) recalled: Mutex<Vec<Arc<Attempt>>>,
    /// What the observer was told.
    pub(super) told: ToldOf,
    pub(super) gate: Gate,
    pub(super) closing: Closing,
    pub(super) crew: Crew,
    /// A checkpoint failed: claims that are out can still be completed, no new ones are granted.
    pub(super) halted: OnceLock<Failure>,
    /// When to look next whether the files are where they were opened, in ms.
    pub(super) look_at_ms: AtomicU64,
    /// Who found the disk full. Leaf lock.
    pub(super) full: Mutex<Full>,
    /// Who holds this does the work of the background, I/O included. Begins and claims never wait for it, but where a stepped
    /// engine has to make room; closing does.
    pub(super) rota: Mutex<Rota>,
    /// Wakes the worker.
    pub(super) worker: Nudge,
    /// Wakes the thread that waits for deadlines and the ends of leases.
    pub(super) timekeeper: Nudge,
    /// Deadlines of tasks.
    pub(super) timers: Arc<Timers>,
    pub(super) reads: Reads,
    pub(super) policies: Arc<Policies>,
    pub(super) leases: Leases,
    pub(super) detached: Detached,
    /// Bytes of progress in memory.
    pub(super) progress_bytes: Arc<Budget>,
    pub(super) counters: Counters,
}

/// In short: an engine in somebody's log should not be its whole index.
impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine")
            .field("path", &self.store.path())
            .field("is_open", &self.gate.is_open())
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

/// What is asked of a key that may be granted.
#[derive(Clone, Copy)]
pub(super) enum Wish<'a> {
    /// To run the operation.
    Begin(&'a Fingerprint),
    /// To say what became of it.
    Resolve,
}

impl<'a> Wish<'a> {
    fn event(self, now: Timestamp, policy: &Policy) -> Event<'a> {
        match self {
            Self::Begin(fingerprint) => {
                Event::Begin { fingerprint, now, attempts_max: policy.attempts_max() }
            }
            Self::Resolve => Event::Resolve { now },
        }
    }
}

/// What a grant goes by, as it was seen.
#[derive(Clone, Copy)]
struct Seen {
    policy: Policy,
    version: Version,
    /// Where a record lies that is over.
    expired: Option<Place>,
}

/// A key with what a call needs to know of it.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) scope: &'a ScopeInner,
    pub(super) key: &'a [u8],
    pub(super) digest: Digest,
}

/// What the hot path has to say.
enum Replay {
    Record(Record),
    /// Not a record in memory that can be replayed. Here is the key's digest.
    Not(Digest),
}

/// What a key was found to be.
pub(super) enum Found {
    Record(Record),
    Slot(Slot),
    /// The index still names a place on disk, but what lies there, or lay there, is no longer remembered.
    Expired(Place),
}

/// How far a begin comes without waiting for the log.
pub(super) enum Begun {
    Answered(Begin),
    /// A claim, once it has settled.
    Granting(Granting),
}

impl Begun {
    /// The answer. A grant has settled; `None` where it was withdrawn on its way.
    fn answer(self, core: &Core) -> Option<Begin> {
        match self {
            Self::Answered(begin) => Some(begin),
            Self::Granting(granting) => granting.arrive(core).map(Begin::Fresh),
        }
    }
}

impl Core {
    #[inline]
    pub(super) fn begin(
        &self,
        handle: &Arc<Handle>,
        scope: &ScopeInner,
        key: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        match self.replay(scope, key, fingerprint) {
            Ok(Replay::Record(record)) => Ok(Begin::Done(record)),
            Ok(Replay::Not(digest)) => self.begin_blocking(handle, Asked { scope, key, digest }, fingerprint),
            Err(error) => Err(self.refused(scope, key, error)),
        }
    }

    /// A function of its own, so that a replay has a small stack frame.
    #[inline(never)]
    fn begin_blocking(
        &self,
        handle: &Arc<Handle>,
        asked: Asked<'_>,
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        let begun = block(self.begin_to_the_end(Caller::Thread, handle, asked, fingerprint));
        begun.map_err(|error| self.refused(asked.scope, asked.key, error))
    }

    pub(super) async fn begin_one(
        &self,
        caller: Caller,
        handle: &Arc<Handle>,
        scope: &ScopeInner,
        key: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        match self.replay(scope, key, fingerprint) {
            Ok(Replay::Record(record)) => Ok(Begin::Done(record)),
            Ok(Replay::Not(digest)) => {
                let asked = Asked { scope, key, digest };
                let begun = self.begin_to_the_end(caller, handle, asked, fingerprint).await;
                begun.map_err(|error| self.refused(scope, key, error))
            }
            Err(error) => Err(self.refused(scope, key, error)),
        }
    }

    /// The hot path: a record in memory costs one lookup, and no lock but the shard's; not even that where this thread asked for the
    /// same key last.
    #[inline]
    fn replay(
        &self,
        scope: &ScopeInner,
        key: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<Replay, BeginError> {
        let digest = scope.digest(key)?;
        self.gate.check()?;
        let answers = |record: &Record| record.is_replayed(fingerprint, self.clock.now());
        let Some(record) = self.index.replay(digest, answers) else { return Ok(Replay::Not(digest)) };
        self.options.hooks.call(|observer| observer.replayed(&record));
        Ok(Replay::Record(record))
    }

    /// Begins; a refusal is not counted yet.
    pub(super) async fn begin_to_the_end(
        &self,
        caller: Caller,
        handle: &Arc<Handle>,
        asked: Asked<'_>,
        fingerprint: &Fingerprint,
    ) -> Result<Begin, BeginError> {
        let mut patience = Patience::new(self.options.patience);
        loop {
            let mut begun = self.start(caller, handle, asked, fingerprint, &mut patience).await?;
            if let Begun::Granting(granting) = &mut begun {
                granting.settled(self, caller).await?;
            }
            if let Some(answer) = begun.answer(self) {
                return Ok(answer);
            }
            Box::pin(self.look_again(caller, &mut patience)).await?;
        }
    }

    /// Waits until a grant that was withdrawn on its way is gone, so that its own caller does not find it in flight. The caller may look at
    /// the key again while its patience lasts.
    pub(super) async fn look_again(&self, caller: Caller, patience: &mut Patience) -> Result<(), BeginError> {
        self.gate.check()?;
        self.commit.flush(caller).await?;
        if patience.until().has_passed() {
            return Err(BeginError::Busy(Busy::LeaseTooShort { waited: patience.span() }));
        }
        Ok(())
    }

    /// Counts a begin that was refused, and tells the observer.
    #[cold]
    pub(super) fn refused(&self, scope: &ScopeInner, key: &[u8], error: BeginError) -> BeginError {
        self.counters.count_refusal(&error);
        self.options.hooks.tell(|| Told::Refused { scope: scope.name(), key, error: &error });
        error
    }

    /// Begins, up to the point from which on nothing but the log is waited for.
    pub(super) async fn start(
        &self,
        caller: Caller,
        handle: &Arc<Handle>,
        asked: Asked<'_>,
        fingerprint: &Fingerprint,
        patience: &mut Patience,
    ) -> Result<Begun, BeginError> {
        let wish = Wish::Begin(fingerprint);
        loop {
            let Some((decision, found, terms)) = self.look(caller, asked, wish).await? else { continue };
            match (decision, found) {
                (Decision::Grant { .. }, _) => {
                    let granting = self.grant(caller, handle, asked, terms, wish, patience).await?;
                    if let Some(granting) = granting {
                        return Ok(Begun::Granting(granting));
                    }
                    // Somebody else was faster: look again.
                }
                (Decision::Replay, Found::Record(record)) => {
                    record.touch();
                    self.index.count_replayed(asked.digest);
                    self.options.hooks.call(|observer| observer.replayed(&record));
                    return Ok(Begun::Answered(Begin::Done(record)));
                }
                (Decision::Expired, Found::Record(record)) => {
                    return Err(BeginError::Expired(Tombstone::of(&record)));
                }
                (Decision::Wait, Found::Slot(Slot::InFlight(attempt) | Slot::Ending(attempt))) => {
                    if let Some(failure) = self.commit.failure() {
                        return Err(BeginError::Failed(failure.clone()));
                    }
                    self.index.count_waited(asked.digest);
                    return Ok(Begun::Answered(Begin::InFlight(Pending::new(attempt, handle))));
                }
                (Decision::Become(Phase::Interrupted), Found::Slot(Slot::InFlight(attempt))) => {
                    self.lapse(&attempt)?;
                }
                (Decision::Reused, _) => {
                    return Err(BeginError::KeyReused);
                }
                (Decision::Unresolved, Found::Slot(Slot::Interrupted(attempt))) => {
                    return Err(BeginError::Unresolved(attempt.interruption()));
                }
                (
                    Decision::Replay
                    | Decision::Expired
                    | Decision::Wait
                    | Decision::Unresolved
                    | Decision::Superseded
                    | Decision::Busy
                    | Decision::Become(_)
                    | Decision::Stay,
                    _,
                ) => unreachable!("a begin is granted, waits, is replayed or refused"),
            }
        }
    }

    /// Looks at a key, and decides. `None` where the answer changed on the way: look again.
    async fn look(
        &self,
        caller: Caller,
        asked: Asked<'_>,
        wish: Wish<'_>,
    ) -> Result<Option<(Decision, Found, Seen)>, ReadError> {
        let (policy, version) = self.policies.seen(asked.scope.name());
        let before = self.clock.now();
        let found = self.find(caller, asked, before).await?;
        let decided = self.decide_throughout(&found, before, |now| wish.event(now, &policy));
        // The policy must have been in force when the key was found like this.
        let is_current = self.policies.is_current(version);
        let expired = match found {
            Found::Expired(place) => Some(place),
            Found::Record(_) | Found::Slot(_) => None,
        };
        let seen = Seen { policy, version, expired };
        Ok(decided.filter(|_| is_current).map(|decision| (decision, found, seen)))
    }

    /// Decides on a key that was found after `before`. `None` where the time makes a difference: then the key has to be looked at again.
    ///
    /// The key may have changed since the look. A record that has expired since then may be gone by now, and the key begun again, so that
    /// at no time there was an expired record.
    pub(super) fn decide_throughout<'e>(
        &self,
        found: &Found,
        before: Timestamp,
        event: impl Fn(Timestamp) -> Event<'e>,
    ) -> Option<Decision> {
        let now = self.clock.now();
        let decision = self.decide(found, event(now));
        (now == before || decision == self.decide(found, event(before))).then_some(decision)
    }

    fn decide(&self, found: &Found, event: Event<'_>) -> Decision {
        match found {
            Found::Record(record) => decide(State::Done(record.facts(), record.lifetime()), event),
            Found::Slot(slot) => decide(slot.state(self.index.epoch()), event),
            Found::Expired(_) => decide(State::Vacant, event),
        }
    }

    /// A claim on an interrupted key, for whoever knows what became of it.
    pub(super) async fn resolve_key(
        &self,
        caller: Caller,
        handle: &Arc<Handle>,
        scope: &ScopeInner,
        key: &[u8],
    ) -> Result<Claim, ResolveError> {
        let digest = scope.digest(key).map_err(BeginError::Key)?;
        self.gate.check().map_err(BeginError::from)?;
        let asked = Asked { scope, key, digest };
        let mut patience = Patience::new(self.options.patience);
        loop {
            let before = self.clock.now();
            let looked = self.look(caller, asked, Wish::Resolve).await.map_err(BeginError::from)?;
            let Some((decision, found, terms)) = looked else { continue };
            match (decision, found) {
                (Decision::Grant { .. }, _) => {
                    let granting =
                        self.grant(caller, handle, asked, terms, Wish::Resolve, &mut patience).await?;
                    let Some(mut granting) = granting else { continue };
                    granting.settled(self, caller).await.map_err(BeginError::from)?;
                    if let Some(claim) = granting.arrive(self) {
                        return Ok(claim);
                    }
                    Box::pin(self.look_again(caller, &mut patience)).await?;
                }
                (Decision::Become(Phase::Interrupted), Found::Slot(Slot::InFlight(attempt))) => {
                    self.lapse(&attempt).map_err(BeginError::from)?;
                }
                (_, found) => {
                    if let Some(status) = self.status_of(found, before) {
                        return Err(ResolveError::NotInterrupted(Box::new(status)));
                    }
                }
            }
        }
    }

    /// Makes a claim interrupted whose lease was due.
    pub(super) fn lapse_due(&self, attempt: &Arc<Attempt>) {
        // What can't be withdrawn after a failed commit, or by an engine that closes, need not be looked at again.
        let is_known = self.lapse(attempt).is_ok();
        // It may have been renewed since it was taken from those that are watched.
        if is_known {
            self.watch(attempt);
        }
    }

    /// Watches the lease of a claim, if it is out.
    ///
    /// It may have ended since its caller looked, and its end found nothing to forget. So the table has it first, and then the key is
    /// looked at: whoever ends the claim changes the key first, and then forgets its lease.
    pub(super) fn watch(&self, attempt: &Arc<Attempt>) {
        if attempt.lease.is_none() {
            return;
        }
        self.leases.watch(attempt);
        let is_out =
            matches!(self.index.get(attempt.digest), Slot::InFlight(out) if Arc::ptr_eq(&out, attempt));
        if !is_out {
            self.leases.forget(attempt);
        }
    }

    /// Makes a claim interrupted whose lease has run out, and tells those who wait. One that has not reached its caller yet is taken back
    /// instead: nobody has run anything.
    ///
    /// # Errors
    ///
    /// When the log takes nothing any more, so that the claim can't be taken back.
    pub(super) fn lapse(&self, attempt: &Arc<Attempt>) -> Result<(), CommitError> {
        if attempt.is_coming() {
            return self.withdraw(attempt, || attempt.lease_until() <= self.clock.now());
        }
        let now = self.clock.now();
        let lapsed = self.index.change(attempt.digest, |slot| {
            let is_it = slot.attempt().is_some_and(|current| Arc::ptr_eq(current, attempt));
            let decision = decide(slot.state(self.index.epoch()), Event::Sweep { now });
            if is_it && decision == Decision::Become(Phase::Interrupted) {
                attempt.interrupt(now);
                (Change::Set(Slot::Interrupted(Arc::clone(attempt))), true)
            } else {
                (Change::Keep, false)
            }
        });
        if lapsed {
            self.leases.forget(attempt);
            self.detached.drop(attempt, self);
            attempt.end(Ended::Interrupted);
            self.tell_of_interruption(attempt, Cause::Lease);
        }
        Ok(())
    }

    /// Counts an interruption, and tells the observer.
    pub(super) fn tell_of_interruption(&self, attempt: &Attempt, cause: Cause) {
        Counters::count(match cause {
            Cause::Dropped => &self.counters.dropped,
            Cause::Lease => &self.counters.lapsed,
            Cause::Restart => &self.counters.recalled,
        });
        self.options.hooks.tell(|| {
            let (scope, key) = (attempt.scope(), attempt.key());
            Told::Interrupted { scope, key, interruption: attempt.interruption(), cause }
        });
    }

    /// A place among the calls that wait for claims of others.
    pub(super) fn waiter(&self) -> Result<Waiter<'_>, BeginError> {
        let max = self.options.max_waiters;
        if !count_one_more(&self.waiters, max) {
            return Err(BeginError::Busy(Busy::TooManyWaiters { max }));
        }
        Ok(Waiter(&self.waiters))
    }

    /// Whether a claim is the current one for its key, and its lease lasts.
    pub(super) fn is_good(&self, attempt: &Attempt) -> bool {
        let event = Event::Use { fence: attempt.fence, now: self.clock.now() };
        decide(self.index.get(attempt.digest).state(self.index.epoch()), event).becomes().is_some()
    }

    /// What a claim is told that is not the current one.
    pub(super) async fn superseded(&self, caller: Caller, attempt: &Attempt) -> ClaimError {
        Counters::count(&self.counters.superseded);
        self.options.hooks.tell(|| {
            let (scope, key) = (attempt.scope(), attempt.key());
            Told::Superseded { scope, key, attempt: attempt.info() }
        });
        ClaimError::Superseded(Box::new(self.became(caller, attempt.digest).await))
    }

    /// What became of a key.
    pub(super) async fn became(&self, caller: Caller, digest: Digest) -> Status {
        // Whoever asks may begin again at once, and wants no place taken by a claim whose lease has run out.
        if let Slot::InFlight(current) = self.index.get(digest)
            && current.lease_until() <= self.clock.now()
        {
            // Where that fails, the status says what it is all the same.
            drop(self.lapse(&current));
        }
        loop {
            let before = self.clock.now();
            let followed = follow(
                || self.index.get(digest),
                |place| self.read(caller, place, digest),
                self.index.epoch(),
                before,
            );
            let found = match followed.await {
                Ok(Followed::Slot(Slot::Cached(record, _)) | Followed::Read(_, record)) => {
                    Found::Record(record)
                }
                Ok(Followed::Slot(slot)) => Found::Slot(slot),
                Ok(Followed::Over(_)) => return Status::Vacant,
                Err(error) => return Status::Unreadable(error),
            };
            if let Some(status) = self.status_of(found, before) {
                return status;
            }
        }
    }

    async fn read(&self, caller: Caller, place: Place, digest: Digest) -> Result<Option<Record>, ReadError> {
        match caller {
            Caller::Thread => self.store.read(place, digest),
            Caller::Task | Caller::Member => self.reads.read(place, digest, &self.gate).await,
        }
    }

    /// What the index says of a key; a record that is on disk alone is read, and cached. A record counts as over only where it was at
    /// `before`, which is a time before this look.
    pub(super) async fn find(
        &self,
        caller: Caller,
        asked: Asked<'_>,
        before: Timestamp,
    ) -> Result<Found, ReadError> {
        match self.index.get(asked.digest) {
            Slot::Cached(record, _) => Ok(Found::Record(record)),
            // Boxed, so that whoever asks for a key that is not on disk does not carry it along.
            slot @ Slot::Stored { .. } => Box::pin(self.find_stored(caller, asked, slot, before)).await,
            slot @ (Slot::Vacant | Slot::InFlight(_) | Slot::Ending(_) | Slot::Interrupted(_)) => {
                Ok(Found::Slot(slot))
            }
        }
    }

    async fn find_stored(
        &self,
        caller: Caller,
        asked: Asked<'_>,
        seen: Slot,
        before: Timestamp,
    ) -> Result<Found, ReadError> {
        let mut seen = Some(seen);
        let followed = follow(
            || seen.take().unwrap_or_else(|| self.index.get(asked.digest)),
            |place| self.read(caller, place, asked.digest),
            self.index.epoch(),
            before,
        );
        let (place, record) = match followed.await? {
            Followed::Slot(Slot::Cached(record, _)) => return Ok(Found::Record(record)),
            Followed::Slot(slot) => return Ok(Found::Slot(slot)),
            Followed::Over(place) => return Ok(Found::Expired(place)),
            Followed::Read(place, record) => (place, record),
        };
        if record.key() != asked.key || record.scope() != asked.scope.name() {
            let what = "a record of another key has this key's digest";
            let place = format!("block {}, offset {}", place.block(), place.offset());
            return Err(ReadError::Damaged(crate::Damage::new(self.store.path(), place, what)));
        }
        if record.remembered_until() <= before {
            return Ok(Found::Expired(place));
        }
        self.index.count_loaded(asked.digest);
        self.index.cache(asked.digest, &record);
        Ok(Found::Record(record))
    }

    /// Grants a claim, and hands it to the log where its policy says so. `None` where the key's state, or a policy, changed meanwhile.
    async fn grant(
        &self,
        caller: Caller,
        handle: &Arc<Handle>,
        asked: Asked<'_>,
        seen: Seen,
        wish: Wish<'_>,
        patience: &mut Patience,
    ) -> Result<Option<Granting>, BeginError> {
        // A child made past the C library is found out by its process alone, and before a lock that it may have inherited.
        self.gate.check_process().map_err(BeginError::Failed)?;
        self.check_granting()?;
        self.check_blocking(caller)?;
        if let Wish::Begin(_) = wish {
            asked.scope.check_granted(asked.key)?;
        }
        let permit =
            Permit::take(caller, handle, asked.scope.name(), &seen.policy, self.claim_needs(asked), patience)
                .await?;
        let Some(mut granting) = self.put(asked, permit, seen, wish)? else { return Ok(None) };
        if granting.log(self, caller, patience).await? {
            return Ok(Some(granting));
        }
        drop(granting);
        Box::pin(self.look_again(caller, patience)).await?;
        Ok(None)
    }

    /// Puts a new claim into the index. `None` where the key's state, or a policy, changed meanwhile.
    fn put(
        &self,
        asked: Asked<'_>,
        mut permit: Permit,
        seen: Seen,
        wish: Wish<'_>,
    ) -> Result<Option<Granting>, BeginError> {
        let policy = &seen.policy;
        let coming = self.claim_needs(asked).ending;
        let placed = self.index.change(asked.digest, |slot| {
            // An interruption that arose under a later policy is not to be decided by this one.
            if !self.policies.is_current(seen.version) {
                return (Change::Keep, None);
            }
            let now = self.clock.now();
            let state = match slot {
                Slot::Stored { place, .. } if Some(*place) == seen.expired => State::Vacant,
                // Another record than the one that was found expired.
                Slot::Stored { .. } => return (Change::Keep, None),
                Slot::Vacant
                | Slot::InFlight(_)
                | Slot::Ending(_)
                | Slot::Interrupted(_)
                | Slot::Cached(..) => slot.state(self.index.epoch()),
            };
            let Decision::Grant { attempt: number } = decide(state, wish.event(now, policy)) else {
                return (Change::Keep, None);
            };
            // Drawn here and not before: a key's fences must grow in the order in which its claims are granted.
            let fence = match self.next_fence() {
                Ok(fence) => fence,
                Err(busy) => return (Change::Keep, Some(Err(busy))),
            };
            let earlier = slot.attempt().filter(|_| number > 1);
            let fingerprint = match (wish, earlier) {
                (Wish::Begin(fingerprint), _) => *fingerprint,
                (Wish::Resolve, Some(earlier)) => earlier.fingerprint,
                (Wish::Resolve, None) => unreachable!("only an interrupted key is resolved"),
            };
            let attempt = Arc::new(Attempt::new(AttemptParts {
                digest: asked.digest,
                scope: asked.scope.name(),
                key: asked.key,
                fence,
                number,
                fingerprint,
                started: now,
                retention: policy.retention(),
                lease: policy.lease,
                unresolved_ttl: policy.unresolved_ttl,
                earlier: earlier.map(|attempt| attempt.as_earlier()),
                progress: earlier.and_then(|attempt| attempt.progress()),
                coming,
            }));
            (Change::Set(Slot::InFlight(Arc::clone(&attempt))), Some(Ok((attempt, slot.clone()))))
        });
        let Some((attempt, before)) = placed.transpose()? else { return Ok(None) };
        // Until the claim arrives, the attempt has its log space, for the thread that takes it from there.
        permit.reservation().lend(coming);
        if let Err(shut) = self.gate.check() {
            // Closing may have passed this shard before the claim was there, and would never tell those who wait for it.
            if let Some(bytes) = attempt.take_coming() {
                permit.reservation().take_back(bytes);
                self.put_back(&attempt, before);
                attempt.end(Ended::Closed);
            }
            return Err(shut.into());
        }
        // An interruption that is no longer remembered may still be in the file: after a crash it would come back in this one's
        // place, with what was noted then.
        let starts_anew = attempt.earlier.is_none() && matches!(before, Slot::Interrupted(_));
        // So would one that was handed over as a token, which stands in the file until then.
        let stands_until = before.attempt().and_then(|earlier| earlier.detached_until());
        let stood = stands_until.is_some_and(|until| until > self.clock.now());
        let logged = policy.durability == Durability::Full || starts_anew || stood;
        let resolves = matches!(wish, Wish::Resolve);
        self.leases.watch(&attempt);
        let claim = Claim::new(attempt, permit, Terms { logged, resolves, durability: policy.durability });
        Ok(Some(Granting::new(claim, before)))
    }

    /// Counts a claim that is given to its caller, and tells the observer.
    pub(super) fn count_grant(&self, attempt: &Attempt, resolves: bool) {
        if resolves {
            Counters::count(&self.counters.resolved);
        } else {
            Counters::count(&self.counters.fresh);
            if attempt.earlier.is_some() {
                Counters::count(&self.counters.rerun);
            }
        }
        self.options.hooks.tell(|| Told::Granted {
            scope: attempt.scope(),
            key: attempt.key(),
            attempt: attempt.info(),
            interrupted: attempt.interruption_before(),
            resolves,
        });
    }

    /// Counts an end of a claim that the log, or the store, has, and tells the observer.
    pub(super) fn count_end(&self, attempt: &Attempt, end: EndKind, body_len: usize) {
        Counters::count(match end {
            EndKind::Completed => &self.counters.completed,
            EndKind::Failed => &self.counters.failed,
            EndKind::Released => &self.counters.released,
        });
        self.options.hooks.tell(|| Told::Ended {
            scope: attempt.scope(),
            key: attempt.key(),
            attempt: attempt.info(),
            end,
            took: self.clock.now().saturating_since(attempt.started),
            body_len,
        });
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
        // Code of others may have forked since the call came in.
        if self.gate.is_forked() {
            return Err(BeginError::Failed(Failure::Forked));
        }
        match self.commit.failure().or(self.halted.get()) {
            Some(failure) => Err(BeginError::Failed(failure.clone())),
            None => Ok(()),
        }
    }

    /// Waits until everything queued by now is durable.
    pub(super) async fn flush(&self, caller: Caller) -> Result<(), CommitError> {
        self.gate.check_process().map_err(CommitError::Failed)?;
        self.check_blocking(caller)?;
        self.commit.flush(caller).await
    }

    /// Refuses a call that blocks where the calling thread is the one that it would wait for. Asked before anything is changed.
    pub(super) fn check_blocking(&self, caller: Caller) -> Result<(), CommitError> {
        if caller == Caller::Thread && is_inside(&self.commit, &[Role::Commits, Role::Maintains]) {
            return Err(CommitError::InsideCallback);
        }
        Ok(())
    }

    /// The same for a wait that may last: the engine's own threads have others to serve.
    pub(super) fn check_waiting(&self) -> Result<(), BeginError> {
        if is_ours() {
            return Err(BeginError::InsideCallback);
        }
        Ok(self.check_blocking(Caller::Thread)?)
    }

    /// How a batch makes its calls. A thread that must not wait makes each as a thread, which is refused what it would wait for.
    pub(super) fn member(&self, caller: Caller) -> Caller {
        let must_not_wait = caller == Caller::Thread && self.check_waiting().is_err();
        if must_not_wait { Caller::Thread } else { Caller::Member }
    }

    fn next_fence(&self) -> Result<Fence, BeginError> {
        if let Ok(fence) = self.fences.draw() {
            return Ok(fence);
        }
        // Four million claims since the last checkpoint, which would move the limit.
        self.worker.nudge();
        Err(BeginError::Busy(Busy::QueueFull { waited: std::time::Duration::ZERO }))
    }

    /// Calls all threads, so that they see what changed.
    pub(super) fn call_all(&self) {
        self.worker.nudge();
        self.commit.nudge_threads();
        self.reads.nudge();
        self.timekeeper.nudge();
    }

    /// Looks at a key without claiming it.
    pub(super) async fn status(
        &self,
        caller: Caller,
        scope: &ScopeInner,
        key: &[u8],
    ) -> Result<Status, ReadError> {
        let digest = scope.digest(key)?;
        self.gate.check()?;
        loop {
            let before = self.clock.now();
            let found = self.find(caller, Asked { scope, key, digest }, before).await?;
            if let Some(status) = self.status_of(found, before) {
                return Ok(status);
            }
        }
    }

    /// What was found of a key, where the time was `before` when it was looked for. `None` where a time has come since that makes a
    /// difference: the key may have changed since it was found, and has to be looked at again. Only a lease is judged by `before` alone.
    fn status_of(&self, found: Found, before: Timestamp) -> Option<Status> {
        let now = self.clock.now();
        let has_come = |time: Timestamp| before < time && time <= now;
        Some(match found {
            // One that has expired may have lost its body.
            Found::Record(record) if has_come(record.expires()) || has_come(record.remembered_until()) => {
                return None;
            }
            Found::Record(record) if now < record.expires() => Status::Done(record),
            Found::Record(record) if now < record.remembered_until() => {
                Status::Expired(Tombstone::of(&record))
            }
            Found::Record(_) | Found::Expired(_) => Status::Vacant,
            Found::Slot(slot) => match (&slot.phase(), slot.attempt()) {
                // The worker will come by; until then the clock decides. A claim that nobody has is still on its way.
                (Phase::InFlight, Some(attempt))
                    if attempt.lease_until() <= before && !attempt.is_coming() =>
                {
                    Status::Interrupted(attempt.interruption())
                }
                (Phase::InFlight | Phase::Ending, Some(attempt)) => Status::InFlight(attempt.info()),
                (Phase::Interrupted, Some(attempt)) if has_come(attempt.remembered_until()) => return None,
                (Phase::Interrupted, Some(attempt)) if now < attempt.remembered_until() => {
                    Status::Interrupted(attempt.interruption())
                }
                _ => Status::Vacant,
            },
        })
    }

    /// Reads what a slot stands for of a snapshot that was taken after `before`; `None` where it is over or vacant by now.
    pub(super) fn resolve(
        &self,
        digest: Digest,
        slot: Slot,
        mut before: Timestamp,
    ) -> Result<Option<(Status, SlotNames)>, ReadError> {
        let mut seen = Some(slot);
        loop {
            let followed = follow(
                || seen.take().unwrap_or_else(|| self.index.get(digest)),
                |place| ready(self.store.read(place, digest)),
                self.index.epoch(),
                before,
            );
            let (found, names) = match block(followed)? {
                Followed::Over(_) => return Ok(None),
                Followed::Read(_, record) | Followed::Slot(Slot::Cached(record, _)) => {
                    (Found::Record(record.clone()), SlotNames::Record(record))
                }
                Followed::Slot(slot) => {
                    let Some(attempt) = slot.attempt().cloned() else { return Ok(None) };
                    (Found::Slot(slot), SlotNames::Attempt(attempt))
                }
            };
            let now = self.clock.now();
            if let Some(status) = self.status_of(found, before) {
                return Ok(Some((status, names)));
            }
            before = now;
        }
    }
}

/// What waiters are told when a commit did not happen.
pub(super) fn ended_by(error: &CommitError) -> Ended {
    match error {
        CommitError::Busy(_) | CommitError::InsideCallback => Ended::Vacated,
        CommitError::Failed(failure) => Ended::Failed(Box::new(failure.clone())),
        CommitError::Closed => Ended::Closed,
    }
}

/// Where the names of a slot's key are kept.
#[derive(Debug)]
pub(super) enum SlotNames {
    Record(Record),
    Attempt(Arc<Attempt>),
}

#[cfg(test)]
#[cfg(feature = "sim")]
pub(super) mod tests {
    use super::*;
    use crate::Engine;
    use crate::sim::{ManualClock, SimDisk};

    pub(in crate::engine) fn open() -> Engine {
        let options = Engine::options().disk(&SimDisk::new()).clock(&ManualClock::at_millis(1_000)).stepped();
        options.cache_bytes(0).open("x.idem").unwrap()
    }

    pub(in crate::engine) fn claim(engine: &Engine, key: &str) -> Claim {
        match engine.begin(key, Fingerprint::of("")) {
            Ok(Begin::Fresh(claim)) => claim,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_record_of_another_key_with_the_same_digest_is_damage_and_no_answer() {
        let engine = open();
        claim(&engine, "key").complete("reply").unwrap();
        engine.checkpoint().unwrap();
        let (core, scope) = (engine.handle.core(), &engine.default.inner);
        let (digest, now) = (scope.digest(b"key").unwrap(), core.clock.now());
        let found = block(core.find(Caller::Thread, Asked { scope, key: b"another", digest }, now));
        let Err(ReadError::Damaged(damage)) = found.map(|_| ()) else { panic!("it was found") };
        let said = damage.to_string();
        assert!(said.contains("x.idem") && said.contains("block 0") && said.contains("digest"), "{said}");
        assert!(block(core.find(Caller::Thread, Asked { scope, key: b"key", digest }, now)).is_ok());
    }

    /// Between looking at the key and at the clock.
    #[test]
    fn a_claim_completed_in_time_is_never_said_to_be_interrupted() {
        let clock = ManualClock::at_millis(1_000);
        let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).stepped().open("x.idem").unwrap();
        let lease = std::time::Duration::from_secs(10);
        drop(engine.declare("", engine.policy().lease(lease)).unwrap());
        let (core, scope) = (engine.handle.core(), &engine.default.inner);
        let claim = claim(&engine, "key");
        let (before, digest) = (core.clock.now(), scope.digest(b"key").unwrap());
        let found = block(core.find(Caller::Thread, Asked { scope, key: b"key", digest }, before)).unwrap();
        let mut entries = core.index.snapshot(core.index.shard_of(digest)).into_iter();
        claim.complete("reply").unwrap();
        clock.advance(lease);
        assert!(matches!(core.status_of(found, before), Some(Status::InFlight(_))));
        let (digest, slot) = entries.next().unwrap();
        assert!(matches!(core.resolve(digest, slot, before), Ok(Some((Status::InFlight(_), _)))));
    }

    #[test]
    fn no_fence_at_the_files_limit_is_granted_before_a_checkpoint_moves_it() {
        let engine = open();
        let core = engine.handle.core();
        let last = claim(&engine, "last").fence();
        core.fences.exhaust();
        let refused = engine.begin("next", Fingerprint::of(""));
        assert!(matches!(refused, Err(BeginError::Busy(Busy::QueueFull { .. }))), "{refused:?}");
        assert_eq!(engine.stats().in_flight, 0);
        engine.checkpoint().unwrap();
        assert!(claim(&engine, "next").fence() > last);
    }
}
