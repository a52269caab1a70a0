//! What callers do with keys and claims, and what the oracle is told of it.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::Duration;

use idemkv::{
    Begin, BeginError, Claim, ClaimError, CompleteInError, EndError, Engine, Fence, ForgetError, Outcome,
    Record, ResolveError, Status, Timestamp, TokenError,
};

use crate::ending::{Ending, body};
use crate::harm::Trouble;
use crate::oracle::{Expect, Left, Notes, Reply, Token};
use crate::script::{Op, Random};
use crate::setting::{
    DEFAULT_KEYS, EFFECTS, KEYS, LEASE, SCOPES, fingerprint, forgets_claims, is_leased, name, refuses, scope,
    scope_of,
};
use crate::tasks::Waiter;
use crate::world::{World, is_declared};

/// A claim in the hands of the script.
pub(crate) struct Held {
    pub(crate) claim: Claim,
    resolves: bool,
    /// It was taken up from a token, so no room may be set aside for its end.
    resumed: bool,
}

impl Held {
    fn new(claim: Claim) -> Self {
        Self { claim, resolves: false, resumed: false }
    }

    pub(crate) fn is_over(&self, now: Timestamp) -> bool {
        self.claim.lease_until().is_some_and(|until| until <= now)
    }
}

/// What the callers of an engine have.
#[derive(Default)]
pub(crate) struct Callers {
    pub(crate) claims: HashMap<u64, Held>,
    pub(crate) waiters: Vec<Waiter>,
}

impl Callers {
    fn holds(&self, key: u64, now: Timestamp) -> bool {
        self.claims.get(&key).is_some_and(|held| !held.is_over(now))
    }

    /// The first key from this one on that has a claim, so that scripts do little in vain.
    fn nearest(&self, key: u64) -> u64 {
        nearest(key, |key| self.claims.contains_key(&key))
    }
}

fn nearest(key: u64, is_one: impl Fn(u64) -> bool) -> u64 {
    (0..KEYS).map(|n| (key + n) % KEYS).find(|key| is_one(*key)).unwrap_or(key)
}

impl World {
    pub(crate) fn operate(&mut self, engine: &Engine, callers: &mut Callers, op: Op) {
        match op {
            Op::Begin { key } => self.begin(engine, key, callers),
            Op::BeginTask { key, polls } => self.begin_task(engine, key, polls, callers),
            Op::BeginMany { key } => self.begin_many(engine, key, callers),
            Op::Resolve { key } => self.resolve(engine, key, None, callers),
            Op::ResolveIf { key, is_seen } => self.resolve_if(engine, key, is_seen, callers),
            Op::Forget { key } => self.forget(engine, key, callers),
            Op::TakeUp { key } => {
                let handed_over = nearest(key, |key| self.oracle.tokens.contains_key(&key));
                self.take_up(engine, handed_over, callers);
            }
            Op::CompleteMany => self.complete_many(engine, callers),
            Op::Finish { key, .. }
            | Op::FinishTask { key, .. }
            | Op::CompleteIn { key, .. }
            | Op::Release { key }
            | Op::PutBack { key }
            | Op::DropClaim { key }
            | Op::Panic { key }
            | Op::Renew { key }
            | Op::Note { key, .. }
            | Op::NoteTask { key, .. }
            | Op::HandOver { key } => {
                let key = callers.nearest(key);
                if let Some(held) = callers.claims.remove(&key) {
                    self.use_claim(engine, key, held, callers, op);
                }
            }
            Op::Declare { scope } => {
                let scope = SCOPES[usize::try_from(scope).unwrap() % SCOPES.len()];
                self.set_policy(engine, scope);
            }
            Op::Checkpoint => self.upkeep(engine, |engine| drop(engine.checkpoint())),
            Op::Step => {
                self.upkeep(engine, |engine| _ = engine.step());
                self.after_step(engine, callers);
            }
            Op::Flush => match self.during(|| engine.flush()) {
                Ok(()) => self.oracle.settle(Timestamp::from_millis(u64::MAX)),
                Err(error) => _ = self.is_unchanged_by(&format!("flush: {error}"), (&error).into()),
            },
            Op::Advance { seconds } => self.clock.advance(Duration::from_secs(seconds)),
            Op::JumpWall { to_ms } => {
                let before = engine.now();
                self.clock.jump_wall_to_millis(to_ms);
                assert_eq!(engine.now(), before, "the wall clock does not matter while the file is open");
            }
            Op::Reopen => unreachable!("needs the engine itself"),
        }
    }

    fn use_claim(&mut self, engine: &Engine, key: u64, held: Held, callers: &mut Callers, op: Op) {
        match op {
            Op::Finish { outcome, seed, .. } => self.finish(engine, key, held, outcome, seed),
            Op::FinishTask { seed, polls, .. } => self.finish_task(engine, key, held, seed, polls),
            Op::CompleteIn { seed, .. } => self.complete_in(engine, key, held, callers, seed),
            Op::Release { .. } => self.release(engine, key, held),
            Op::PutBack { .. } => self.put_back(engine, key, held),
            Op::Panic { .. } => {
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    let _held = held;
                    resume_unwind(Box::new("a caller panics"));
                }));
                self.meet("panic with a claim", panicked.is_err());
            }
            Op::Renew { .. } => {
                let is_over = held.is_over(engine.now());
                match held.claim.renew() {
                    Ok(()) => assert!(!is_over, "key {key}: a superseded claim was renewed"),
                    Err(ClaimError::Superseded(_)) => assert!(is_over, "key {key}: superseded too early"),
                    Err(error) => _ = self.is_unchanged_by(&format!("renew: {error}"), (&error).into()),
                }
                callers.claims.insert(key, held);
            }
            Op::Note { seed, .. } => self.note(engine, key, held, callers, seed),
            Op::NoteTask { seed, polls, .. } => self.note_task(engine, key, held, callers, seed, polls),
            Op::HandOver { .. } => self.hand_over(engine, key, held, callers),
            _ => drop(held),
        }
    }

    fn upkeep(&mut self, engine: &Engine, keep_up: impl Fn(&Engine)) {
        let before = engine.stats().reclaimed_blocks;
        self.during(|| keep_up(engine));
        let reclaimed = engine.stats().reclaimed_blocks > before;
        self.meet("reclaim with tombstones", reclaimed && self.has_tombstone(engine.now()));
    }
}

// Begins.
impl World {
    pub(crate) fn begin(&mut self, engine: &Engine, key: u64, callers: &mut Callers) {
        if !is_declared(engine, scope_of(key)) {
            return;
        }
        self.oracle.start_grant(key, engine.now());
        self.failed_before = self.failed;
        let begun = self.during(|| scope(engine, key).begin(name(key), fingerprint(key)));
        self.begun(engine, key, begun, callers);
    }

    fn begin_many(&mut self, engine: &Engine, key: u64, callers: &mut Callers) {
        let first = usize::try_from(key).unwrap();
        let keys: Vec<_> = (0..3).map(|n| DEFAULT_KEYS[(first + n) % 3]).collect();
        let requests: Vec<_> = keys.iter().map(|key| (name(*key), fingerprint(*key))).collect();
        for key in &keys {
            self.oracle.start_grant(*key, engine.now());
        }
        self.failed_before = self.failed;
        let begun = self.during(|| engine.default_scope().begin_many(&requests));
        let mut begun: Vec<_> = keys.into_iter().zip(begun).collect();
        // Within a batch fences come in any order.
        begun.sort_by_key(|(_, begun)| match begun {
            Ok(Begin::Fresh(claim)) => Some(claim.fence()),
            _ => None,
        });
        let granted = begun.iter().filter(|(_, begun)| matches!(begun, Ok(Begin::Fresh(_)))).count();
        self.meet("batch of claims", granted > 1);
        for (key, begun) in begun {
            self.begun(engine, key, begun, callers);
        }
    }

    /// What a begin came to.
    pub(crate) fn begun(
        &mut self,
        engine: &Engine,
        key: u64,
        begun: Result<Begin, BeginError>,
        callers: &mut Callers,
    ) {
        let now = engine.now();
        match begun {
            Ok(Begin::Fresh(claim)) => {
                self.granted(engine, key, Held::new(claim), callers);
            }
            Ok(Begin::InFlight(pending)) => {
                let held = callers.holds(key, now);
                let may_stand = self.oracle.may_stand(key, now);
                let engines = self.oracle.is_in_the_engines_hands(key) || self.failed;
                assert!(held || may_stand || engines, "key {key} is in flight and nobody has it");
                self.meet("begin of a key handed over", !held && may_stand);
                self.oracle.refuse(key);
                callers.waiters.extend(Waiter::new(key, pending));
            }
            Ok(Begin::Done(record)) => {
                assert!(record.expires() > now);
                self.oracle.refuse(key);
                self.oracle.saw_end(key, &Expect::Done(Reply::of(&record)), now);
                self.meet("replay", true);
            }
            Err(BeginError::Expired(tombstone)) => {
                self.oracle.refuse(key);
                self.oracle.saw_end(key, &Expect::Expired(Left::of(&tombstone)), now);
                self.meet("begin of a tombstone", true);
            }
            Err(BeginError::Unresolved(lost)) => {
                self.oracle.refuse(key);
                let before = self.oracle.at(key, now);
                assert!(refuses(key), "key {key} may run again");
                assert_eq!(before, Expect::Interrupted(lost.attempt()), "key {key} is unresolved");
                assert_eq!(*lost.fingerprint(), fingerprint(key));
                let at = lost.interrupted_at();
                assert!(
                    lost.started() <= at && at <= now,
                    "key {key} was interrupted at {at}, and it is {now}"
                );
                self.oracle.told_of_note(key, lost.last_progress().map(|note| note.to_vec()).as_ref());
                self.meet("unresolved key", true);
            }
            Err(error) => {
                let failed = self.failed_before;
                if self.is_unchanged_by(&format!("begin of key {key}: {error}"), (&error).into()) || failed {
                    self.oracle.refuse(key);
                }
            }
        }
    }

    fn granted(&mut self, engine: &Engine, key: u64, held: Held, callers: &mut Callers) {
        assert!(!self.failed, "key {key} was granted after a commit had failed");
        let (claim, now) = (&held.claim, engine.now());
        let is_told = claim.interrupted().is_some();
        assert!(!is_told || !refuses(key) || held.resolves, "key {key} may not run again by itself");
        let forgotten = !is_told && self.oracle.at(key, now).attempt() > 0;
        // What was started for the grant is over.
        self.oracle.refuse(key);
        self.oracle.saw_claim(key, claim, now);
        if !forgets_claims(key) {
            self.oracle.time_durable = self.oracle.time_durable.max(now);
        }
        self.meet("begin over an interruption", is_told);
        self.meet("begin over a forgotten interruption", forgotten);
        self.meet("inherited progress", claim.last_progress().is_some());
        if let Some(late) = callers.claims.insert(key, held) {
            assert!(late.is_over(now), "key {key} was granted twice");
            let refused = late.claim.complete("late").unwrap_err();
            assert!(matches!(refused.reason(), ClaimError::Superseded(_)), "key {key}: {refused}");
        }
    }

    /// An operator resolves what it saw of a key.
    fn resolve_if(&mut self, engine: &Engine, key: u64, is_seen: bool, callers: &mut Callers) {
        let only = if is_seen {
            match self.during(|| scope(engine, key).get(name(key))) {
                Ok(Status::Interrupted(lost)) => Some(lost.fence()),
                // Where the disk is in trouble, other calls tell.
                Ok(_) | Err(_) => None,
            }
        } else {
            self.oracle.fence_max
        };
        if only.is_some() {
            self.resolve(engine, key, only, callers);
        }
    }

    fn resolve(&mut self, engine: &Engine, key: u64, only: Option<Fence>, callers: &mut Callers) {
        if !is_declared(engine, scope_of(key)) {
            return;
        }
        let now = engine.now();
        let earlier = self.oracle.at(key, now).attempt();
        self.oracle.start_grant(key, now);
        let scope = scope(engine, key);
        let resolved = self.during(|| match only {
            Some(fence) => scope.resolve_if(name(key), fence),
            None => scope.resolve(name(key)),
        });
        match resolved {
            Ok(claim) => {
                assert!(earlier > 0, "key {key} was not interrupted");
                let told = claim.interrupted().map(|lost| lost.fence());
                assert!(only.is_none() || told == only, "key {key}: {told:?} is resolved, not {only:?}");
                self.granted(engine, key, Held { resolves: true, ..Held::new(claim) }, callers);
                self.meet("resolved key", true);
            }
            Err(ResolveError::AnotherAttempt(lost)) => {
                assert!(only.is_some_and(|only| only != lost.fence()), "key {key}: {lost:?} is {only:?}");
                assert!(earlier > 0, "key {key} was not interrupted");
                self.oracle.refuse(key);
                self.meet("resolution of another attempt", true);
            }
            Err(ResolveError::NotInterrupted(is)) => {
                let has_holder = callers.holds(key, now) || self.oracle.may_stand(key, now);
                let engines = self.oracle.is_in_the_engines_hands(key) || self.failed;
                let gone = earlier == 0 || self.oracle.may_be_forgotten(key, now);
                assert!(has_holder || engines || gone, "key {key}: interruption {earlier} is {is:?}");
                self.oracle.refuse(key);
            }
            Err(error) => {
                let failed = self.failed;
                if self.is_unchanged_by(&format!("resolve of key {key}: {error}"), (&error).into()) || failed
                {
                    self.oracle.refuse(key);
                }
            }
        }
    }

    fn take_up(&mut self, engine: &Engine, key: u64, callers: &mut Callers) {
        let now = engine.now();
        let Some(known) = self.oracle.tokens.get(&key).cloned() else { return };
        let Some(token) = &known.given else { return };
        let stands = known.stands(now);
        match self.during(|| scope(engine, key).resume(token)) {
            Ok(claim) => {
                assert!(now < known.until && claim.attempt() == known.attempt, "key {key}: {known:?}");
                self.oracle.tokens.insert(key, Token { must_stand: false, ..known });
                callers.claims.insert(key, Held { resumed: true, ..Held::new(claim) });
                self.meet("resumed claim", true);
            }
            Err(TokenError::Superseded(_)) => {
                assert!(!stands || self.failed, "key {key}: {known:?} does not stand");
                self.meet("superseded token", true);
            }
            Err(TokenError::Held) => assert!(callers.holds(key, now)),
            Err(error) => _ = self.is_unchanged_by(&format!("resume: {error}"), (&error).into()),
        }
    }

    fn forget(&mut self, engine: &Engine, key: u64, callers: &Callers) {
        let now = engine.now();
        let held = callers.holds(key, now);
        let stands = self.oracle.tokens.get(&key).is_some_and(|token| token.stands(now));
        let is_tombstone = matches!(self.oracle.at(key, now), Expect::Expired(_));
        self.oracle.start(key, Expect::Vacant);
        match self.during(|| scope(engine, key).forget(name(key))) {
            Ok(was_there) => {
                assert!(!held && !stands, "key {key} was forgotten under its holder");
                // Of a claim that only memory knew nothing is left to forget once its time is
                // over; what it came after may be there.
                let is_over = !was_there && forgets_claims(key);
                if is_over {
                    self.oracle.refuse(key);
                } else if was_there || self.oracle.at(key, now).attempt() > 0 {
                    self.oracle.acknowledge_end(key);
                } else {
                    assert_eq!(self.oracle.at(key, now), Expect::Vacant, "there was nothing to forget");
                    self.oracle.refuse(key);
                }
                self.meet("forgotten tombstone", is_tombstone);
            }
            Err(ForgetError::InFlight) => {
                let engines = self.oracle.is_in_the_engines_hands(key) || self.failed;
                assert!(held || self.oracle.may_stand(key, now) || engines);
                self.oracle.refuse(key);
            }
            Err(error) => {
                if self.is_unchanged_by(&format!("forget of key {key}: {error}"), (&error).into()) {
                    self.oracle.refuse(key);
                }
            }
        }
    }
}

// What is done with a claim.
impl World {
    /// A claim was refused something: then its lease is over, or something is wrong with the disk.
    fn refused(&mut self, key: u64, is_over: bool, reason: &ClaimError) {
        if matches!(reason, ClaimError::Superseded(_)) {
            assert!(is_over || self.failed, "key {key}: superseded before its lease was over");
            self.meet("superseded claim", true);
            self.oracle.refuse(key);
        } else if self.is_unchanged_by(&format!("key {key}: {reason}"), reason.into()) {
            self.oracle.refuse(key);
        }
    }

    /// The end of a claim was refused; where nothing is lost, it comes back.
    pub(crate) fn end_refused(&mut self, key: u64, is_over: bool, resumed: bool, error: &EndError) {
        let reason = error.reason();
        let is_full = Trouble::from(reason) == Trouble::Full;
        assert!(
            !is_full || resumed || !self.is_only_full(),
            "key {key}: its end has room set aside: {reason}"
        );
        self.refused(key, is_over, reason);
    }

    fn note(&mut self, engine: &Engine, key: u64, mut held: Held, callers: &mut Callers, seed: u64) {
        let (is_over, note) = (held.is_over(engine.now()), body(&mut Random::new(seed), held.claim.fence()));
        let before = self.oracle.start_note(key, note.clone());
        let noted = self.during(|| held.claim.save_progress(&note));
        self.noted(key, &held, is_over, before, noted.map(|()| note));
        callers.claims.insert(key, held);
    }

    /// What saving progress came to.
    pub(crate) fn noted(
        &mut self,
        key: u64,
        held: &Held,
        is_over: bool,
        before: Notes,
        noted: Result<Vec<u8>, ClaimError>,
    ) {
        match noted {
            Ok(note) => {
                assert!(!is_over, "key {key}: a superseded claim saved progress");
                self.oracle.note_is(key, Some(note));
                self.oracle.attempt_is_durable(key, held.claim.attempt());
            }
            Err(ClaimError::Superseded(_)) => {
                assert!(is_over || self.failed, "key {key}: superseded before its lease was over");
                self.oracle.notes_are(key, before);
                self.meet("superseded claim", true);
            }
            Err(error) => {
                if self.is_unchanged_by(&format!("progress of key {key}: {error}"), (&error).into()) {
                    self.oracle.notes_are(key, before);
                }
            }
        }
    }

    fn hand_over(&mut self, engine: &Engine, key: u64, held: Held, callers: &mut Callers) {
        let (is_over, resolves) = (held.is_over(engine.now()), held.resolves);
        let attempt = held.claim.attempt();
        let until = engine.now().saturating_add(LEASE);
        let token = Token { attempt, until, given: None, must_stand: false };
        let before = self.oracle.tokens.insert(key, token.clone());
        match self.during(|| held.claim.into_token()) {
            Ok(given) => {
                assert!(!is_over, "key {key}: a superseded claim was handed over");
                self.oracle.tokens.insert(key, Token { given: Some(given), must_stand: true, ..token });
                self.oracle.attempt_is_durable(key, attempt);
                return;
            }
            Err(error) => {
                let unchanged = match error.reason() {
                    ClaimError::NoLease => {
                        assert!(!is_leased(key), "key {key} has a lease");
                        true
                    }
                    ClaimError::Superseded(_) => {
                        assert!(is_over || self.failed, "key {key}: superseded too early");
                        self.meet("superseded claim", true);
                        true
                    }
                    reason => self.is_unchanged_by(&format!("token of key {key}: {reason}"), reason.into()),
                };
                if let Some(claim) = error.into_claim() {
                    callers.claims.insert(key, Held { resolves, ..Held::new(claim) });
                }
                if !unchanged {
                    return;
                }
            }
        }
        self.oracle.tokens.remove(&key);
        self.oracle.tokens.extend(before.map(|before| (key, before)));
    }

    fn finish(&mut self, engine: &Engine, key: u64, held: Held, outcome: Outcome, seed: u64) {
        let (now, is_over, resumed) = (engine.now(), held.is_over(engine.now()), held.resumed);
        let (body, ending) = Ending::draw(&mut Random::new(seed), held.claim.fence());
        let reply = ending.reply(outcome, &body, held.claim.fence(), now);
        self.oracle.start(key, Expect::Done(reply.clone()));
        let ended = self.during(|| match outcome {
            Outcome::Success => held.claim.complete_with(body, ending.completion),
            Outcome::Failure => held.claim.fail_with(body, ending.completion),
        });
        match ended {
            Ok(record) => {
                assert!(!is_over, "key {key}: a superseded claim completed");
                self.finished(key, &record, &reply, now);
            }
            Err(error) => self.end_refused(key, is_over, resumed, &error),
        }
    }

    /// A completion was acknowledged.
    pub(crate) fn finished(&mut self, key: u64, record: &Record, reply: &Reply, now: Timestamp) {
        assert_eq!(&Reply::of(record), reply, "key {key}");
        self.meet("reply without a body", !record.is_body_kept());
        if record.is_durable() {
            self.oracle.acknowledge_end(key);
            self.oracle.time_durable = self.oracle.time_durable.max(now);
        } else {
            assert_eq!(scope_of(key), "relaxed", "key {key} is acknowledged early");
            self.oracle.leave_to_the_engine(key, now.saturating_add(crate::setting::RELAXED));
            self.meet("relaxed reply", true);
        }
    }

    fn complete_many(&mut self, engine: &Engine, callers: &mut Callers) {
        let now = engine.now();
        let mut claims: Vec<_> = callers.claims.drain().collect();
        claims.sort_unstable_by_key(|(key, _)| *key);
        let mut expected = Vec::new();
        let mut handed = Vec::new();
        for (key, held) in claims {
            let fence = held.claim.fence();
            let body = format!("one of many, {fence:?}").into_bytes();
            let reply = Ending::plain().reply(Outcome::Success, &body, fence, now);
            self.oracle.start(key, Expect::Done(reply.clone()));
            expected.push((key, held.is_over(now), held.resumed, reply));
            handed.push((held.claim, body));
        }
        let ended = self.during(|| engine.complete_many(handed));
        for ((key, is_over, resumed, reply), ended) in expected.into_iter().zip(ended) {
            match ended {
                Ok(record) => {
                    assert!(!is_over, "key {key}: a superseded claim completed");
                    self.finished(key, &record, &reply, now);
                }
                Err(error) => self.end_refused(key, is_over, resumed, &error),
            }
        }
    }

    fn complete_in(&mut self, engine: &Engine, key: u64, held: Held, callers: &mut Callers, seed: u64) {
        let (now, is_over) = (engine.now(), held.is_over(engine.now()));
        let (fence, resolves) = (held.claim.fence(), held.resolves);
        let mut body = body(&mut Random::new(seed), fence);
        body.extend_from_slice(b", with an effect");
        let reply = Ending::plain().reply(Outcome::Success, &body, fence, now);
        self.oracle.start(key, Expect::Done(reply.clone()));
        self.oracle.start_effect(key, reply.clone());
        let ended = self.during(|| {
            held.claim.complete_in(|tables| {
                tables.open_table(EFFECTS)?.insert(key, fence.get())?;
                Ok::<_, Box<dyn std::error::Error>>(body)
            })
        });
        match ended {
            Ok(record) => {
                assert!(!is_over, "key {key}: a superseded claim had an effect");
                assert!(record.is_durable());
                self.finished(key, &record, &reply, now);
                self.oracle.effect_is(key, fence);
                self.meet("completion in a transaction", true);
            }
            Err(CompleteInError::Work { error, claim }) => {
                assert!(self.is_harmed() || self.disk.crashed(), "key {key}: the effect failed: {error}");
                self.oracle.refuse(key);
                self.oracle.effect_is_refused(key);
                callers.claims.insert(key, Held { resolves, ..Held::new(*claim) });
            }
            Err(CompleteInError::End(error)) => {
                let is_unknown = self.disk.crashed() || Trouble::from(error.reason()) == Trouble::Failed;
                self.refused(key, is_over, error.reason());
                if !is_unknown {
                    self.oracle.effect_is_refused(key);
                }
                if let Some(claim) = error.into_claim() {
                    // It comes back only where nothing was written.
                    if is_unknown {
                        self.oracle.refuse(key);
                        self.oracle.effect_is_refused(key);
                    }
                    callers.claims.insert(key, Held { resolves, ..Held::new(claim) });
                }
            }
            Err(error) => panic!("key {key}: {error}"),
        }
    }

    fn release(&mut self, engine: &Engine, key: u64, held: Held) {
        let (is_over, resumed, earlier) =
            (held.is_over(engine.now()), held.resumed, held.claim.interrupted());
        let after = match earlier {
            Some(earlier) if !held.resolves => Expect::Interrupted(earlier.attempt()),
            Some(_) | None => Expect::Vacant,
        };
        self.oracle.start(key, after);
        match self.during(|| held.claim.release()) {
            Ok(()) => {
                assert!(!is_over, "key {key}: a superseded claim was released");
                self.oracle.acknowledge_end(key);
            }
            Err(error) => self.end_refused(key, is_over, resumed, &error),
        }
    }

    /// The key is as it was before the grant.
    fn put_back(&mut self, engine: &Engine, key: u64, held: Held) {
        let (is_over, resumed, earlier) =
            (held.is_over(engine.now()), held.resumed, held.claim.interrupted());
        let is_told = earlier.is_some();
        self.oracle.start(key, earlier.map_or(Expect::Vacant, |lost| Expect::Interrupted(lost.attempt())));
        // A claim that was taken up from a token is released instead.
        if is_told && !resumed {
            self.oracle.start_put_back(key);
        }
        match self.during(|| held.claim.put_back()) {
            Ok(()) => {
                assert!(!is_over, "key {key}: a superseded claim was put back");
                self.oracle.acknowledge_end(key);
                self.meet("claim put back", is_told && !resumed);
            }
            Err(error) => self.end_refused(key, is_over, resumed, &error),
        }
    }
}
