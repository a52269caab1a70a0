//! What each key must be, or may be where an operation was cut off.

use std::collections::{BTreeSet, HashMap};

use idemkv::{Claim, ClaimToken, Engine, Fence, Outcome, Policy, Record, Status, Timestamp, Tombstone};

use crate::{KEYS, TTL, name, scope};

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

/// The oracle: what each key is, and what else it may be if the operation under way was cut off.
#[derive(Clone, Default)]
pub(crate) struct Oracle {
    keys: HashMap<u64, Expect>,
    under_way: Option<(u64, Expect)>,
    /// When each key was last granted. One that is interrupted is forgotten a TTL after it was found dead, so not before a
    /// TTL after this.
    granted: HashMap<u64, Timestamp>,
    fence_max: Option<Fence>,
    /// Claims that were handed over.
    pub(crate) tokens: HashMap<u64, Token>,
    /// What the next attempt may find noted; nothing at first, two where a crash came between.
    notes: HashMap<u64, BTreeSet<Option<Vec<u8>>>>,
    /// What the leased scope's policy may be.
    policies: Vec<Policy>,
}

// Keys.
impl Oracle {
    /// What a key is by now.
    pub(crate) fn at(&self, key: u64, now: Timestamp) -> Expect {
        self.keys.get(&key).cloned().unwrap_or(Expect::Vacant).at(now)
    }

    /// An operation starts that makes a key `next`.
    pub(crate) fn start(&mut self, key: u64, next: Expect) {
        self.under_way = Some((key, next));
    }

    /// One starts that may grant a key.
    pub(crate) fn start_grant(&mut self, key: u64, now: Timestamp) {
        // An interruption that is forgotten by now lets attempts count from 1 again.
        let counted = if self.may_be_forgotten(key, now) { 0 } else { self.at(key, now).attempt() };
        self.start(key, Expect::InterruptedAfter(counted));
    }

    /// It was acknowledged.
    pub(crate) fn acknowledge(&mut self) {
        let (key, next) = self.under_way.take().expect("an operation is under way");
        self.keys.insert(key, next);
    }

    /// It was acknowledged, and nobody has the key any more.
    pub(crate) fn acknowledge_end(&mut self, key: u64) {
        self.acknowledge();
        self.tokens.remove(&key);
    }

    /// It was refused, and changed nothing.
    pub(crate) fn refuse(&mut self) {
        self.under_way = None;
    }

    /// Whether an interruption of this key may have been forgotten by now.
    pub(crate) fn may_be_forgotten(&self, key: u64, now: Timestamp) -> bool {
        self.granted.get(&key).is_none_or(|granted| granted.saturating_add(TTL) <= now)
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
        let before = self.at(key, now);
        let free = !matches!(before, Expect::Done(_) | Expect::Expired(_));
        assert!(free, "key {key} was granted over {before:?}");
        assert!(self.fence_max.is_none_or(|max| claim.fence() > max), "not above {:?}", self.fence_max);
        self.fence_max = Some(claim.fence());
        let told = claim.interrupted().map_or(0, |earlier| earlier.attempt());
        let forgotten = told == 0 && self.may_be_forgotten(key, now);
        assert!(told == before.attempt() || forgotten, "key {key}: {before:?} was not told of");
        assert!(claim.attempt() > told);
        assert_eq!(claim.interrupted().is_some(), claim.attempt() > 1);
        self.saw_note(key, claim);
        self.granted.insert(key, now);
        self.start(key, Expect::Interrupted(claim.attempt()));
        self.acknowledge();
    }
}

// Notes.
impl Oracle {
    /// A checkpoint starts; gives what to put back where it is refused.
    pub(crate) fn start_note(&mut self, key: u64, note: Vec<u8>) -> BTreeSet<Option<Vec<u8>>> {
        let notes = self.notes.entry(key).or_insert_with(|| BTreeSet::from([None]));
        let before = notes.clone();
        notes.insert(Some(note));
        before
    }

    pub(crate) fn notes_are(&mut self, key: u64, notes: BTreeSet<Option<Vec<u8>>>) {
        self.notes.insert(key, notes);
    }

    pub(crate) fn note_is(&mut self, key: u64, note: Option<Vec<u8>>) {
        self.notes_are(key, BTreeSet::from([note]));
    }

    /// What a claim that was granted finds noted.
    fn saw_note(&mut self, key: u64, claim: &Claim) {
        let note = claim.last_checkpoint().map(|note| note.to_vec());
        let nothing = BTreeSet::from([None]);
        let allowed = self.notes.get(&key).filter(|_| claim.attempt() > 1).unwrap_or(&nothing);
        assert!(allowed.contains(&note), "key {key}: attempt {} finds {note:?}", claim.attempt());
        self.note_is(key, note);
    }
}

// Policies.
impl Oracle {
    pub(crate) fn start_policy(&mut self, engine: &Engine, policy: Policy) {
        if self.policies.is_empty() {
            self.policies.push(engine.scope("leased").policy());
        }
        self.policies.push(policy);
    }

    pub(crate) fn policy_is(&mut self, policy: Policy) {
        self.policies = vec![policy];
    }

    fn check_policy(&mut self, engine: &Engine, context: &str) {
        let found = engine.scope("leased").policy();
        let allowed = &self.policies;
        assert!(allowed.contains(&found) || allowed.is_empty(), "{context}: {found:?}, not of {allowed:?}");
        self.policies = vec![found];
    }
}

// After an opening.
impl Oracle {
    /// Compares with what an engine says of every key, and takes its word where two were possible.
    pub(crate) fn check(&mut self, engine: &Engine, context: &str) {
        let now = engine.now();
        let under_way = self.under_way.take();
        self.check_policy(engine, context);
        for key in 0..KEYS {
            let before = self.at(key, now);
            let cut_off = under_way.as_ref().filter(|(other, _)| *other == key).map(|(_, next)| next);
            let mut allowed: Vec<_> = [Some(&before), cut_off].into_iter().flatten().cloned().collect();
            allowed = allowed.into_iter().map(|expect| expect.at(now)).collect();
            let interrupted = allowed.iter().any(|expect| matches!(expect, Expect::Interrupted(_)));
            if interrupted && self.may_be_forgotten(key, now) {
                allowed.push(Expect::Vacant);
            }
            let found = self.found(engine, key, context);
            let fits = allowed.iter().any(|expect| expect.allows(&found));
            assert!(fits, "{context}: key {key} is {found:?}, allowed is {allowed:?}");
            if cut_off == Some(&Expect::InterruptedAfter(0)) {
                // Attempts may count from 1 again, and the first has nothing noted.
                self.notes.entry(key).or_default().insert(None);
            }
            self.keys.insert(key, found);
        }
    }

    /// What a key is right after an opening. One that is claimed counts as interrupted; only one that was handed over may be.
    fn found(&self, engine: &Engine, key: u64, context: &str) -> Expect {
        let token = self.tokens.get(&key);
        let stands = token.is_some_and(|token| token.stands(engine.now()));
        let found = match scope(engine, key).get(name(key)).unwrap() {
            Status::InFlight(info) => {
                let may = self.may_stand(key, engine.now());
                let same = token.is_some_and(|token| token.attempt == info.attempt());
                assert!(may && same, "{context}: key {key} is in flight after an opening: {token:?}");
                return Expect::Interrupted(info.attempt());
            }
            Status::Vacant => Expect::Vacant,
            Status::Interrupted(earlier) => Expect::Interrupted(earlier.attempt()),
            Status::Done(record) => Expect::Done(Reply::of(&record)),
            Status::Expired(tombstone) => Expect::Expired(Left::of(&tombstone)),
        };
        assert!(!stands, "{context}: key {key} is {found:?}, and lost its holder: {token:?}");
        found
    }
}
