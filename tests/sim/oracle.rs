//! What each key must be, or may be where an operation was cut off.

use std::collections::{BTreeSet, HashMap};

use idemkv::tables::redb::ReadableTable;
use idemkv::{
    Claim, ClaimToken, Engine, Fence, Outcome, Policy, ReadError, Record, Status, Timestamp, Tombstone,
};

use crate::setting::{CLOCK_JUMP_MAX, EFFECTS, forgets_claims, name, scope, unresolved};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) outcome: Outcome,
    /// `None` where it was not kept.
    pub(crate) body: Option<Vec<u8>>,
    pub(crate) fence: Fence,
    pub(crate) expires: Timestamp,
    pub(crate) remembered_until: Timestamp,
}

impl Reply {
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            outcome: record.outcome(),
            body: record.is_body_kept().then(|| record.body().to_vec()),
            fence: record.fence(),
            expires: record.expires(),
            remembered_until: record.remembered_until(),
        }
    }
}

/// What is left of a reply.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Left {
    outcome: Outcome,
    fence: Fence,
    expired: Timestamp,
    remembered_until: Timestamp,
}

impl Left {
    pub(crate) fn of(tombstone: &Tombstone) -> Self {
        Self {
            outcome: tombstone.outcome(),
            fence: tombstone.fence(),
            expired: tombstone.expired(),
            remembered_until: tombstone.remembered_until(),
        }
    }
}

/// What a key may be found to be after a crash.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Expect {
    Vacant,
    /// Interrupted, and this attempt may have had an effect.
    Interrupted(u32),
    /// Interrupted, at an attempt after this one: a begin was cut off.
    InterruptedAfter(u32),
    Done(Reply),
    Expired(Left),
}

impl Expect {
    /// What time makes of it.
    fn at(self, now: Timestamp) -> Self {
        match self {
            Self::Done(Reply { remembered_until, .. }) | Self::Expired(Left { remembered_until, .. })
                if remembered_until <= now =>
            {
                Self::Vacant
            }
            Self::Done(reply) if reply.expires <= now => Self::Expired(Left {
                outcome: reply.outcome,
                fence: reply.fence,
                expired: reply.expires,
                remembered_until: reply.remembered_until,
            }),
            same @ (Self::Vacant
            | Self::Interrupted(_)
            | Self::InterruptedAfter(_)
            | Self::Done(_)
            | Self::Expired(_)) => same,
        }
    }

    fn of(status: &Status) -> Self {
        match status {
            Status::Vacant => Self::Vacant,
            Status::InFlight(info) => Self::Interrupted(info.attempt()),
            Status::Interrupted(lost) => Self::Interrupted(lost.attempt()),
            Status::Done(record) => Self::Done(Reply::of(record)),
            Status::Expired(tombstone) => Self::Expired(Left::of(tombstone)),
            other => panic!("{other:?}"),
        }
    }

    fn allows(&self, found: &Self) -> bool {
        match (self, found) {
            (Self::InterruptedAfter(before), Self::Interrupted(found)) => found > before,
            (expect, found) => expect == found,
        }
    }

    /// The attempt that may have had an effect; 0 where there is none.
    pub(crate) fn attempt(&self) -> u32 {
        match self {
            Self::Interrupted(attempt) | Self::InterruptedAfter(attempt) => *attempt,
            Self::Vacant | Self::Done(_) | Self::Expired(_) => 0,
        }
    }
}

/// A claim that was handed over, or was about to be.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) attempt: u32,
    pub(crate) until: Timestamp,
    /// `None` where the crash came before it was given out.
    pub(crate) given: Option<ClaimToken>,
    /// Nobody has taken it up.
    pub(crate) must_stand: bool,
}

impl Token {
    pub(crate) fn stands(&self, now: Timestamp) -> bool {
        self.must_stand && now < self.until
    }
}

/// What the application's table says of a key.
#[derive(Clone, Default)]
struct Effect {
    /// The fence of the claim that wrote it.
    is: Option<u64>,
    /// What it says if the transaction was committed that was cut off, and the reply that is there
    /// then.
    cut_off: Option<(u64, Reply)>,
}

/// What the next attempt of a key may find noted.
pub(crate) type Notes = BTreeSet<Option<Vec<u8>>>;

/// The oracle: what each key is, and what else it may be if operations under way were cut off.
#[derive(Clone, Default)]
pub(crate) struct Oracle {
    keys: HashMap<u64, Expect>,
    /// What keys may have become: their operations are under way, were cut off, or nobody waited
    /// for them.
    under_way: Vec<(u64, Expect)>,
    /// Of these, those that nothing but a crash or a failed commit undoes, and when they are
    /// durable at the latest.
    certain: HashMap<u64, Timestamp>,
    /// Keys whose claims were given back while they were granted.
    leaving: BTreeSet<u64>,
    /// When each key was last granted. One that is interrupted is forgotten some time after it was
    /// found dead, so not before that time after this.
    granted: HashMap<u64, Timestamp>,
    /// What that was before the last grant: a claim that is put back leaves the time as it was.
    granted_before: HashMap<u64, Timestamp>,
    /// The last attempt that is durable, of keys whose claims need not be.
    durable_attempt: HashMap<u64, u32>,
    /// Later ones that may be durable, for nobody waited for what the log was told of them.
    told_to_nobody: BTreeSet<(u64, u32)>,
    /// What keys were before their first attempt, which the file need not know of.
    before_claim: HashMap<u64, Expect>,
    pub(crate) fence_max: Option<Fence>,
    /// Claims that were handed over.
    pub(crate) tokens: HashMap<u64, Token>,
    /// What the next attempt may find noted; nothing at first, two where a crash came between.
    notes: HashMap<u64, Notes>,
    /// What the policies of scopes may be.
    policies: HashMap<&'static str, Vec<Policy>>,
    /// What the application has written.
    effects: HashMap<u64, Effect>,
    /// The last time that is durable, and the last one that was seen.
    pub(crate) time_durable: Timestamp,
    pub(crate) time_max: Timestamp,
    /// The machine has booted since the file was last open.
    pub(crate) has_booted: bool,
}

// Keys.
impl Oracle {
    /// What a key is by now.
    pub(crate) fn at(&self, key: u64, now: Timestamp) -> Expect {
        self.keys.get(&key).cloned().unwrap_or(Expect::Vacant).at(now)
    }

    /// An operation starts that makes a key `next`.
    pub(crate) fn start(&mut self, key: u64, next: Expect) {
        self.under_way.push((key, next));
    }

    /// One starts that may grant a key.
    pub(crate) fn start_grant(&mut self, key: u64, now: Timestamp) {
        // An interruption that is forgotten by now lets attempts count from 1 again.
        let counted = if self.may_be_forgotten(key, now) { 0 } else { self.at(key, now).attempt() };
        self.start(key, Expect::InterruptedAfter(counted));
    }

    /// The last one that was started for a key was acknowledged; earlier ones are over with it.
    pub(crate) fn acknowledge(&mut self, key: u64) {
        let last = self.under_way.iter().rposition(|(other, _)| *other == key);
        let (_, next) = self.under_way.remove(last.expect("an operation is under way"));
        self.under_way.retain(|(other, _)| *other != key);
        self.certain.remove(&key);
        self.leaving.remove(&key);
        self.keys.insert(key, next);
    }

    /// A claim is being put back. Its interruption is forgotten as early as if the key had not been
    /// granted again.
    pub(crate) fn start_put_back(&mut self, key: u64) {
        if forgets_claims(key) {
            return;
        }
        self.granted.remove(&key);
        self.granted.extend(self.granted_before.get(&key).map(|before| (key, *before)));
    }

    /// It was acknowledged, and nobody has the key any more.
    pub(crate) fn acknowledge_end(&mut self, key: u64) {
        self.acknowledge(key);
        self.tokens.remove(&key);
        let left = self.keys.get(&key).map_or(0, Expect::attempt);
        self.last_durable_attempt(key, Some(left));
    }

    /// The last one that was started for a key was refused, and changed nothing.
    pub(crate) fn refuse(&mut self, key: u64) {
        let last = self.under_way.iter().rposition(|(other, _)| *other == key);
        self.under_way.remove(last.expect("an operation is under way"));
    }

    /// It will be carried out though nobody waits for it, and is durable from `by` on.
    pub(crate) fn leave_to_the_engine(&mut self, key: u64, by: Timestamp) {
        self.certain.insert(key, by);
        // Until it is durable a claim that was taken up from a token may stand again.
        if let Some(token) = self.tokens.get_mut(&key) {
            token.must_stand = false;
        }
    }

    /// A claim is given back that nobody waited for.
    pub(crate) fn leave(&mut self, key: u64) {
        self.leaving.insert(key);
    }

    /// Whether a key may be in flight because the engine is at work on it.
    pub(crate) fn is_in_the_engines_hands(&self, key: u64) -> bool {
        self.certain.contains_key(&key) || self.leaving.contains(&key)
    }

    /// Everything that the engine had in hand and that is due by now is durable.
    pub(crate) fn settle(&mut self, now: Timestamp) {
        let due: Vec<_> = self.certain.iter().filter(|(_, by)| **by <= now).map(|(key, _)| *key).collect();
        for key in due {
            self.carried_out(key);
        }
        for key in std::mem::take(&mut self.leaving) {
            self.under_way.retain(|(other, next)| *other != key || matches!(next, Expect::Done(_)));
        }
    }

    /// What was left to the engine is durable.
    fn carried_out(&mut self, key: u64) {
        self.under_way.retain(|(other, next)| *other != key || matches!(next, Expect::Done(_)));
        self.acknowledge_end(key);
    }

    /// A reply is shown, or what is left of it: then it is durable.
    pub(crate) fn saw_end(&mut self, key: u64, found: &Expect, now: Timestamp) {
        let by_the_engine = |(other, next): &(u64, Expect)| *other == key && next.clone().at(now) == *found;
        if self.certain.contains_key(&key) && self.under_way.iter().any(by_the_engine) {
            self.carried_out(key);
        }
        assert_eq!(self.at(key, now), *found, "what key {key} is told to be");
    }

    /// Whether an interruption of this key may have been forgotten by now.
    pub(crate) fn may_be_forgotten(&self, key: u64, now: Timestamp) -> bool {
        let is_over =
            |granted: &Timestamp| unresolved(key).is_some_and(|span| granted.saturating_add(span) <= now);
        self.granted.get(&key).map_or(unresolved(key).is_some(), is_over)
    }

    /// Whether a claim that nobody holds may be found in flight.
    pub(crate) fn may_stand(&self, key: u64, now: Timestamp) -> bool {
        self.tokens.get(&key).is_some_and(|token| now < token.until)
    }

    /// A key that could be granted was.
    pub(crate) fn saw_claim(&mut self, key: u64, claim: &Claim, now: Timestamp) {
        if let Some(token) = self.tokens.remove(&key) {
            assert!(!token.stands(now), "key {key} was granted over a claim handed over: {token:?}");
        }
        if self.certain.contains_key(&key) {
            // The key can't be granted before it has ended, nor while its record is remembered.
            self.carried_out(key);
        }
        let before = self.at(key, now);
        let free = !matches!(before, Expect::Done(_) | Expect::Expired(_));
        assert!(free, "key {key} was granted over {before:?}");
        self.saw_fence(claim);
        let told = claim.interrupted().map_or(0, |earlier| earlier.attempt());
        let forgotten = told == 0 && self.may_be_forgotten(key, now);
        assert!(told == before.attempt() || forgotten, "key {key}: {before:?} was not told of");
        assert!(claim.attempt() > told);
        assert_eq!(claim.interrupted().is_some(), claim.attempt() > 1);
        self.saw_note(key, claim);
        if told == 0 || !forgets_claims(key) {
            // Where claims are not durable, the file may know of an earlier attempt alone.
            let before = self.granted.insert(key, now);
            self.granted_before.remove(&key);
            self.granted_before.extend(before.map(|before| (key, before)));
        }
        if told == 0 {
            self.last_durable_attempt(key, None);
            // Where the file may still know of an attempt that is forgotten by now, the log is
            // told of the one that starts anew.
            if forgets_claims(key) {
                self.attempt_may_be_durable(key, claim.attempt());
            }
            self.before_claim.insert(key, self.keys.get(&key).cloned().unwrap_or(Expect::Vacant));
        }
        self.start(key, Expect::Interrupted(claim.attempt()));
        self.acknowledge(key);
    }

    /// A claim was granted on a key that is not looked at.
    pub(crate) fn saw_fence(&mut self, claim: &Claim) {
        assert!(self.fence_max.is_none_or(|max| claim.fence() > max), "not above {:?}", self.fence_max);
        self.fence_max = Some(claim.fence());
    }

    /// This attempt is durable, whatever the key's claims are otherwise.
    pub(crate) fn attempt_is_durable(&mut self, key: u64, attempt: u32) {
        self.last_durable_attempt(key, Some(attempt));
    }

    /// This one may be.
    pub(crate) fn attempt_may_be_durable(&mut self, key: u64, attempt: u32) {
        self.told_to_nobody.insert((key, attempt));
    }

    fn last_durable_attempt(&mut self, key: u64, attempt: Option<u32>) {
        self.durable_attempt.remove(&key);
        self.durable_attempt.extend(attempt.map(|attempt| (key, attempt)));
        self.told_to_nobody.retain(|(other, _)| *other != key);
    }
}

// Notes.
impl Oracle {
    /// Progress is being saved; gives what to put back where it is refused.
    pub(crate) fn start_note(&mut self, key: u64, note: Vec<u8>) -> Notes {
        let notes = self.notes.entry(key).or_insert_with(|| BTreeSet::from([None]));
        let before = notes.clone();
        notes.insert(Some(note));
        before
    }

    pub(crate) fn notes_are(&mut self, key: u64, notes: Notes) {
        self.notes.insert(key, notes);
    }

    pub(crate) fn note_is(&mut self, key: u64, note: Option<Vec<u8>>) {
        self.notes_are(key, BTreeSet::from([note]));
    }

    /// What is told of a key that is interrupted: progress that is on its way to the log too,
    /// which a crash may take.
    pub(crate) fn told_of_note(&self, key: u64, note: Option<&Vec<u8>>) {
        let nothing = BTreeSet::from([None]);
        let allowed = self.notes.get(&key).unwrap_or(&nothing);
        assert!(allowed.contains(&note.cloned()), "key {key}: told of {note:?}, may be {allowed:?}");
    }

    /// What a claim that was granted finds noted.
    fn saw_note(&mut self, key: u64, claim: &Claim) {
        let note = claim.last_progress().map(|note| note.to_vec());
        let nothing = BTreeSet::from([None]);
        let allowed = self.notes.get(&key).filter(|_| claim.attempt() > 1).unwrap_or(&nothing);
        assert!(allowed.contains(&note), "key {key}: attempt {} finds {note:?}", claim.attempt());
        // A claim that is not durable may be shown what is not durable either, and a crash takes
        // both.
        if claim.attempt() == 1 || !forgets_claims(key) {
            self.note_is(key, note);
        }
    }
}

// Policies.
impl Oracle {
    pub(crate) fn start_policy(&mut self, engine: &Engine, scope: &'static str, policy: Policy) {
        let known = self.policies.entry(scope).or_default();
        if known.is_empty() {
            known.push(engine.scope(scope).policy());
        }
        known.push(policy);
    }

    pub(crate) fn policy_is(&mut self, scope: &'static str, policy: Policy) {
        self.policies.insert(scope, vec![policy]);
    }

    /// The scope has the policy that it had.
    pub(crate) fn policy_is_refused(&mut self, scope: &'static str) {
        self.policies.entry(scope).or_default().pop();
    }

    fn check_policies(&mut self, engine: &Engine, context: &str) {
        for (scope, allowed) in &mut self.policies {
            let found = engine.scope(scope).policy();
            assert!(allowed.contains(&found), "{context}: `{scope}` has {found:?}, allowed is {allowed:?}");
            *allowed = vec![found];
        }
    }
}

// What the application writes.
impl Oracle {
    pub(crate) fn start_effect(&mut self, key: u64, reply: Reply) {
        self.effects.entry(key).or_default().cut_off = Some((reply.fence.get(), reply));
    }

    pub(crate) fn effect_is(&mut self, key: u64, effect: Fence) {
        self.effects.insert(key, Effect { is: Some(effect.get()), cut_off: None });
    }

    pub(crate) fn effect_is_refused(&mut self, key: u64) {
        self.effects.entry(key).or_default().cut_off = None;
    }

    /// Both are there, the effect and the reply, or neither.
    fn check_effects(&mut self, engine: &Engine, context: &str) {
        for (key, effect) in &mut self.effects {
            let (found, now) = (effect_of(engine, *key), engine.now());
            let is = self.keys.get(key).cloned().unwrap_or(Expect::Vacant);
            match effect.cut_off.take() {
                Some((fence, reply)) if found == Some(fence) => {
                    let with = Expect::Done(reply).at(now);
                    assert_eq!(is, with, "{context}: key {key} has its effect without its reply");
                }
                Some((_, reply)) => {
                    let with = Expect::Done(reply).at(now);
                    let has_reply = with != Expect::Vacant && is == with;
                    assert!(!has_reply, "{context}: key {key} has its reply without its effect");
                }
                None => assert_eq!(found, effect.is, "{context}: the effect of key {key}"),
            }
            effect.is = found;
        }
    }
}

// After an opening.
impl Oracle {
    /// Compares with what an engine says of every key, and takes its word where two were possible.
    pub(crate) fn check(&mut self, engine: &Engine, keys: u64, context: &str) {
        let now = engine.now();
        let under_way = std::mem::take(&mut self.under_way);
        self.check_time(engine, keys, &under_way, context);
        self.certain.clear();
        self.leaving.clear();
        self.check_policies(engine, context);
        for key in 0..keys {
            let allowed = self.allowed(key, &under_way, now);
            let found = self.found(engine, key, context);
            let fits = allowed.iter().any(|expect| expect.allows(&found));
            assert!(fits, "{context}: key {key} is {found:?}, allowed is {allowed:?}");
            if under_way.contains(&(key, Expect::InterruptedAfter(0))) {
                // Attempts may count from 1 again, and the first has nothing noted.
                self.notes.entry(key).or_default().insert(None);
            }
            self.last_durable_attempt(key, Some(found.attempt()));
            self.keys.insert(key, found);
        }
        self.check_effects(engine, context);
    }

    /// What is not refused as damaged is as it should be.
    pub(crate) fn check_damaged(&self, engine: &Engine, keys: u64) -> Result<(), String> {
        let now = engine.now();
        for key in 0..keys {
            let found = match scope(engine, key).get(name(key)) {
                Err(ReadError::Damaged(_)) => continue,
                Err(error) => return Err(format!("key {key}: {error}")),
                Ok(status) => Expect::of(&status),
            };
            let allowed = self.allowed(key, &self.under_way, now);
            if !allowed.iter().any(|expect| expect.allows(&found)) {
                return Err(format!("key {key} is {found:?}, allowed is {allowed:?}"));
            }
        }
        Ok(())
    }

    /// Within a boot the engine's clock is exact. Over a reboot it never goes back behind what is
    /// durable, and never leaps; but where nothing is kept it may be the wall clock.
    fn check_time(&mut self, engine: &Engine, keys: u64, under_way: &[(u64, Expect)], context: &str) {
        let now = engine.now();
        let (from, to) = if std::mem::take(&mut self.has_booted) {
            (self.time_durable, self.time_max.saturating_add(CLOCK_JUMP_MAX))
        } else {
            (self.time_max, self.time_max)
        };
        let is_first = self.time_max == Timestamp::default();
        let may_be_vacant = |key| self.allowed(key, under_way, self.time_max).contains(&Expect::Vacant);
        let takes_wall = || engine.stats().clock_lag_ms == 0 && from <= now && (0..keys).all(may_be_vacant);
        assert!(
            is_first || (from <= now && now <= to) || takes_wall(),
            "{context}: it is {now}, not between {from} and {to}"
        );
        self.time_durable = now;
        self.time_max = now;
    }

    fn allowed(&self, key: u64, under_way: &[(u64, Expect)], now: Timestamp) -> Vec<Expect> {
        let before = self.at(key, now);
        let cut_off =
            under_way.iter().filter(|(other, _)| *other == key).map(|(_, next)| next.clone().at(now));
        let mut allowed: Vec<_> = [before].into_iter().chain(cut_off).collect();
        let attempt_max = allowed.iter().map(Expect::attempt).max().unwrap_or(0);
        let interrupted = allowed.iter().any(|expect| matches!(expect, Expect::Interrupted(_)));
        if interrupted && self.may_be_forgotten(key, now) {
            allowed.push(Expect::Vacant);
        }
        if attempt_max > 0 && forgets_claims(key) {
            match self.durable_attempt.get(&key).copied().unwrap_or(0) {
                0 => {
                    // With the claim the time may be forgotten at which the record before it was
                    // over.
                    let before = self.before_claim.get(&key).cloned().unwrap_or(Expect::Vacant);
                    allowed.extend([Expect::Vacant, before.at(now)]);
                }
                durable => allowed.extend((durable..attempt_max).map(Expect::Interrupted)),
            }
            let told_to_nobody = self.told_to_nobody.iter().filter(|(other, _)| *other == key);
            allowed.extend(told_to_nobody.map(|(_, attempt)| Expect::Interrupted(*attempt)));
        }
        allowed
    }

    /// What a key is right after an opening. One that is claimed counts as interrupted; only one
    /// that was handed over may be.
    fn found(&self, engine: &Engine, key: u64, context: &str) -> Expect {
        let token = self.tokens.get(&key);
        let stands = token.is_some_and(|token| token.stands(engine.now()));
        match scope(engine, key).get(name(key)).unwrap() {
            Status::InFlight(info) => {
                let may = self.may_stand(key, engine.now());
                let same = token.is_some_and(|token| token.attempt == info.attempt());
                assert!(may && same, "{context}: key {key} is in flight after an opening: {token:?}");
                Expect::Interrupted(info.attempt())
            }
            status => {
                let found = Expect::of(&status);
                assert!(!stands, "{context}: key {key} is {found:?}, and lost its holder: {token:?}");
                found
            }
        }
    }
}

/// What the application's table says of a key.
fn effect_of(engine: &Engine, key: u64) -> Option<u64> {
    let read = engine.read_tables(|tables| {
        let table = tables.open_table(EFFECTS).ok()?;
        table.get(key).unwrap().map(|fence| fence.value())
    });
    read.unwrap()
}
