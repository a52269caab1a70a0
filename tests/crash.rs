//! Crashes at every write, change of length and sync of a simulated disk, with unsynced writes kept, dropped or torn,
//! and again while recovering; after each, everything acknowledged must be there and nothing else.
//!
//! The engine runs without threads on a manual clock; a script is drawn from a seed, and a failure prints the seed and the
//! operation that crashed.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "tests"
)]

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{
    Begin, Claim, ClaimError, ClaimToken, Engine, Fence, Fingerprint, Options, Outcome, Policy, Record,
    Scope, Status, Timestamp, TokenError,
};

const START_MS: u64 = 1_800_000_000_000;
const TTL: Duration = Duration::from_secs(1_800);
const KEYS: u64 = 5;
/// Keys from this one on are of a scope whose claims have leases, once it was declared.
const LEASED_FROM: u64 = 3;
const LEASE: Duration = Duration::from_secs(300);

fn options(disk: &SimDisk, clock: &ManualClock) -> Options {
    Engine::options()
        .disk(disk)
        .clock(clock)
        .stepped()
        .seed(7)
        .ttl(TTL)
        .max_body_bytes(4_096)
        .reserve_bytes(4_096)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(256 << 10)
        .shards(2)
        .cache_bytes(8 << 10)
}

/// A small generator, so that a seed means the same script everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Result_ {
    outcome: Outcome,
    body: Vec<u8>,
    fence: Fence,
    expires: Timestamp,
}

/// What a key may be found to be after a crash.
#[derive(Clone, Debug, PartialEq)]
enum Expect {
    Vacant,
    /// Interrupted, and this attempt may have had an effect.
    Interrupted(u32),
    /// Interrupted, at an attempt after this one: a begin was cut off.
    InterruptedAfter(u32),
    Done(Result_),
}

/// The oracle: what each key is, and what else it may be if the operation under way was cut off.
#[derive(Default)]
struct Oracle {
    keys: HashMap<u64, Expect>,
    under_way: Option<(u64, Expect)>,
    /// When each key was last granted. One that is interrupted is forgotten a TTL after it was found dead, so not before a
    /// TTL after this.
    granted: HashMap<u64, Timestamp>,
    fence_max: Option<Fence>,
    /// Claims that were handed over.
    tokens: HashMap<u64, Token>,
    /// What the next attempt may find noted; nothing at first, two where a crash came between.
    notes: HashMap<u64, BTreeSet<Option<Vec<u8>>>>,
    /// What the leased scope's policy may be.
    policies: Vec<Policy>,
    declared: u32,
}

/// A claim that was handed over, or was about to be.
#[derive(Clone, Debug)]
struct Token {
    attempt: u32,
    until: Timestamp,
    /// `None` where the crash came before it was given out.
    given: Option<ClaimToken>,
    /// Nobody has taken it up.
    must_stand: bool,
}

/// A claim in the hands of the script.
struct Held {
    claim: Claim,
    resolves: bool,
}

impl Held {
    fn is_over(&self, engine: &Engine) -> bool {
        self.claim.lease_until().is_some_and(|until| until <= engine.now())
    }
}

type Claims = HashMap<u64, Held>;

impl Oracle {
    /// Whether a claim that nobody holds may be found in flight.
    fn may_stand(&self, key: u64, now: Timestamp) -> bool {
        self.tokens.get(&key).is_some_and(|token| now < token.until)
    }

    fn note_starts(&mut self, key: u64, note: Vec<u8>) {
        self.notes.entry(key).or_insert_with(|| BTreeSet::from([None])).insert(Some(note));
    }

    fn note_is(&mut self, key: u64, note: Option<Vec<u8>>) {
        self.notes.insert(key, BTreeSet::from([note]));
    }

    /// What a claim that was granted finds noted.
    fn saw_note(&mut self, key: u64, claim: &Claim) {
        let note = claim.last_checkpoint().map(|note| note.to_vec());
        let nothing = BTreeSet::from([None]);
        let allowed = self.notes.get(&key).filter(|_| claim.attempt() > 1).unwrap_or(&nothing);
        assert!(allowed.contains(&note), "key {key}: attempt {} finds {note:?}", claim.attempt());
        self.note_is(key, note);
    }

    fn check_policy(&mut self, engine: &Engine, context: &str) {
        let found = engine.scope("leased").policy();
        let allowed = &self.policies;
        assert!(allowed.contains(&found) || allowed.is_empty(), "{context}: {found:?}, not of {allowed:?}");
        self.policies = vec![found];
    }

    fn at(&self, key: u64) -> Expect {
        self.keys.get(&key).cloned().unwrap_or(Expect::Vacant)
    }

    /// An operation starts that makes a key `next`.
    fn start(&mut self, key: u64, next: Expect) {
        self.under_way = Some((key, next));
    }

    /// It was acknowledged.
    fn acknowledge(&mut self) {
        let (key, next) = self.under_way.take().expect("an operation is under way");
        self.keys.insert(key, next);
    }

    fn saw_fence(&mut self, fence: Fence) {
        assert!(self.fence_max.is_none_or(|max| fence > max), "fence {fence} after {:?}", self.fence_max);
        self.fence_max = Some(fence);
    }

    /// Whether an interruption of this key may have been forgotten by now.
    fn may_be_forgotten(&self, key: u64, now: Timestamp) -> bool {
        self.granted.get(&key).is_none_or(|granted| granted.saturating_add(TTL) <= now)
    }

    /// Compares with what an engine says of every key, and takes its word where two were possible.
    fn check(&mut self, engine: &Engine, context: &str) {
        let now = engine.now();
        let under_way = self.under_way.take();
        self.check_policy(engine, context);
        for key in 0..KEYS {
            let mut allowed = vec![self.at(key)];
            allowed.extend(under_way.iter().filter(|(other, _)| *other == key).map(|(_, next)| next.clone()));
            for expect in &mut allowed {
                if matches!(expect, Expect::Done(result) if result.expires <= now) {
                    *expect = Expect::Vacant;
                }
            }
            let interrupted = allowed.iter().any(|expect| matches!(expect, Expect::Interrupted(_)));
            if interrupted && self.may_be_forgotten(key, now) {
                allowed.push(Expect::Vacant);
            }
            let found = match (found(engine, key), self.tokens.get(&key)) {
                (Found::Standing(attempt), Some(token)) => {
                    assert!(now < token.until && attempt == token.attempt, "{context}: key {key}: {token:?}");
                    Expect::Interrupted(attempt)
                }
                (Found::Standing(_), None) => panic!("{context}: key {key} is in flight after an opening"),
                (Found::Is(found), Some(token)) => {
                    let lost = found == Expect::Interrupted(token.attempt) && token.must_stand;
                    assert!(!lost || token.until <= now, "{context}: key {key} lost its holder: {token:?}");
                    found
                }
                (Found::Is(found), None) => found,
            };
            let fits = allowed.iter().any(|expect| fits(expect, &found));
            assert!(fits, "{context}: key {key} is {found:?}, allowed is {allowed:?}");
            self.keys.insert(key, found);
        }
    }
}

fn fits(expect: &Expect, found: &Expect) -> bool {
    match (expect, found) {
        // The fence and the expiry of a completion that was cut off are not known to the oracle.
        (Expect::Done(expect), Expect::Done(found)) => {
            (expect.outcome, &expect.body) == (found.outcome, &found.body)
        }
        (Expect::InterruptedAfter(before), Expect::Interrupted(found)) => found > before,
        (expect, found) => expect == found,
    }
}

fn result(record: &Record) -> Result_ {
    Result_ {
        outcome: record.outcome(),
        body: record.body().to_vec(),
        fence: record.fence(),
        expires: record.expires(),
    }
}

/// What a key is right after an opening.
enum Found {
    Is(Expect),
    /// Claimed, though nobody in this process has the claim.
    Standing(u32),
}

fn found(engine: &Engine, key: u64) -> Found {
    match scope(engine, key).get(name(key)).unwrap() {
        Status::Vacant => Found::Is(Expect::Vacant),
        Status::Expired(_) => panic!("key {key} has a tombstone"),
        Status::InFlight(info) => Found::Standing(info.attempt()),
        Status::Interrupted(earlier) => Found::Is(Expect::Interrupted(earlier.attempt())),
        Status::Done(record) => Found::Is(Expect::Done(result(&record))),
    }
}

fn scope(engine: &Engine, key: u64) -> Scope {
    engine.scope(if key < LEASED_FROM { "" } else { "leased" })
}

fn name(key: u64) -> String {
    format!("key {key}")
}

fn fingerprint(key: u64) -> Fingerprint {
    Fingerprint::of(key.to_le_bytes())
}

fn body(random: &mut Random, fence: Fence) -> Vec<u8> {
    let len = if random.below(4) == 0 { 4_000 } else { random.below(300) };
    let mut body = fence.get().to_le_bytes().to_vec();
    body.resize(8 + usize::try_from(len).unwrap(), b'b');
    body
}

struct World {
    disk: SimDisk,
    clock: ManualClock,
    oracle: Oracle,
    random: Random,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            disk: SimDisk::new(),
            clock: ManualClock::at_millis(START_MS),
            oracle: Oracle::default(),
            random: Random(seed | 1),
        }
    }

    /// Runs a script of operations until its end or the crash.
    fn run(&mut self, steps: u64) {
        let Ok(mut engine) = options(&self.disk, &self.clock).open("x.idem") else {
            assert!(self.disk.crashed());
            return;
        };
        self.declare(&engine);
        let mut claims = HashMap::new();
        for _ in 0..steps {
            if self.disk.crashed() {
                return;
            }
            if self.random.below(25) == 0 {
                claims.clear();
                if engine.close().is_err() {
                    assert!(self.disk.crashed());
                    return;
                }
                let Ok(opened) = options(&self.disk, &self.clock).open("x.idem") else { return };
                engine = opened;
                self.oracle.check(&engine, "after a clean close");
                continue;
            }
            self.operate(&engine, &mut claims);
        }
    }

    fn operate(&mut self, engine: &Engine, claims: &mut Claims) {
        let key = self.random.below(KEYS);
        match self.random.below(26) {
            0..6 => self.begin(engine, key, claims),
            6..12 => self.finish(engine, key, claims, Outcome::Success),
            12 => self.finish(engine, key, claims, Outcome::Failure),
            13 => self.release(engine, key, claims),
            14 => drop(claims.remove(&key)),
            15 => self.forget(engine, key, claims),
            16 => drop(engine.checkpoint()),
            17 => self.clock.advance(Duration::from_secs(self.random.below(600))),
            18..20 => drop(engine.step()),
            20..22 => self.note(engine, key, claims),
            22 => self.hand_over(engine, key, claims),
            23 => self.take_up(engine, key, claims),
            24 => self.resolve(engine, key, claims),
            _ => self.declare(engine),
        }
    }

    fn declare(&mut self, engine: &Engine) {
        self.oracle.declared += 1;
        let policy = engine.policy().lease(LEASE).max_in_flight(100 + self.oracle.declared);
        if self.oracle.policies.is_empty() {
            self.oracle.policies.push(engine.scope("leased").policy());
        }
        self.oracle.policies.push(policy);
        match engine.declare("leased", policy) {
            Ok(_) => self.oracle.policies = vec![policy],
            Err(error) => assert!(self.disk.crashed(), "declare failed: {error}"),
        }
    }

    /// A key is about to be granted, after what it was.
    fn start_grant(&mut self, key: u64) -> u32 {
        let earlier = match self.oracle.at(key) {
            Expect::Interrupted(attempt) | Expect::InterruptedAfter(attempt) => attempt,
            Expect::Vacant | Expect::Done(_) => 0,
        };
        self.oracle.start(key, Expect::InterruptedAfter(earlier));
        earlier
    }

    fn granted(&mut self, engine: &Engine, key: u64, earlier: u32, held: Held, claims: &mut Claims) {
        let claim = &held.claim;
        if let Some(token) = self.oracle.tokens.remove(&key) {
            let stands = token.must_stand && engine.now() < token.until;
            assert!(!stands, "key {key} was granted over a claim handed over: {token:?}");
        }
        if let Expect::Done(result) = self.oracle.at(key) {
            assert!(result.expires <= engine.now(), "key {key} was granted over a live record");
        }
        self.oracle.saw_fence(claim.fence());
        let told = claim.interrupted().map_or(0, |earlier| earlier.attempt());
        let forgotten = told == 0 && self.oracle.may_be_forgotten(key, engine.now());
        assert!(told == earlier || forgotten, "key {key}: interruption {earlier} was not told of");
        assert!(claim.attempt() > told);
        assert_eq!(claim.interrupted().is_some(), claim.attempt() > 1);
        self.oracle.saw_note(key, claim);
        self.oracle.granted.insert(key, engine.now());
        self.oracle.start(key, Expect::Interrupted(claim.attempt()));
        self.oracle.acknowledge();
        if let Some(late) = claims.insert(key, held) {
            assert!(late.is_over(engine), "key {key} was granted twice");
            let refused = late.claim.complete("late").unwrap_err();
            assert!(matches!(refused.reason(), ClaimError::Superseded(_)), "key {key}: {refused}");
        }
    }

    fn begin(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let before = self.oracle.at(key);
        let earlier = self.start_grant(key);
        match scope(engine, key).begin(name(key), fingerprint(key)) {
            Ok(Begin::Fresh(claim)) => {
                self.granted(engine, key, earlier, Held { claim, resolves: false }, claims);
            }
            Ok(Begin::InFlight(_)) => {
                let is_held = claims.get(&key).is_some_and(|held| !held.is_over(engine));
                let may_stand = self.oracle.may_stand(key, engine.now());
                assert!(is_held || may_stand, "key {key} is in flight and nobody has it");
                self.oracle.under_way = None;
            }
            Ok(Begin::Done(record)) => {
                assert_eq!(before, Expect::Done(result(&record)), "key {key} was replayed");
                assert!(record.expires() > engine.now());
                self.oracle.under_way = None;
            }
            Err(error) => assert!(self.disk.crashed(), "begin failed: {error}"),
        }
    }

    fn resolve(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let earlier = self.start_grant(key);
        match scope(engine, key).resolve(name(key)) {
            Ok(claim) => {
                assert!(earlier > 0, "key {key} was not interrupted");
                self.granted(engine, key, earlier, Held { claim, resolves: true }, claims);
            }
            Err(idemkv::ResolveError::NotInterrupted(_)) => self.oracle.under_way = None,
            Err(error) => assert!(self.disk.crashed(), "resolve failed: {error}"),
        }
    }

    /// A claim was refused something: then its lease is over, or the power is gone.
    fn refused(&mut self, key: u64, is_over: bool, reason: &ClaimError) {
        if matches!(reason, ClaimError::Superseded(_)) {
            assert!(is_over, "key {key}: superseded before its lease was over");
            self.oracle.under_way = None;
        } else {
            assert!(self.disk.crashed(), "key {key}: {reason}");
        }
    }

    fn note(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let Some(held) = claims.get_mut(&key) else { return };
        let (is_over, note) = (held.is_over(engine), body(&mut self.random, held.claim.fence()));
        let before = self.oracle.notes.get(&key).cloned();
        self.oracle.note_starts(key, note.clone());
        match held.claim.checkpoint(&note) {
            Ok(()) => self.oracle.note_is(key, Some(note)),
            Err(error) => {
                if matches!(error, ClaimError::Superseded(_)) {
                    self.oracle.notes.extend(before.map(|before| (key, before)));
                }
                self.refused(key, is_over, &error);
            }
        }
    }

    fn hand_over(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let Some(held) = claims.remove(&key) else { return };
        let is_over = held.is_over(engine);
        let mut token = Token {
            attempt: held.claim.attempt(),
            until: engine.now().saturating_add(LEASE),
            given: None,
            must_stand: false,
        };
        let before = self.oracle.tokens.insert(key, token.clone());
        match held.claim.into_token() {
            Ok(given) => {
                token.given = Some(given);
                token.must_stand = true;
                self.oracle.tokens.insert(key, token);
            }
            Err(error) if matches!(error.reason(), ClaimError::NoLease) => {
                self.oracle.tokens.remove(&key);
            }
            Err(error) => {
                if matches!(error.reason(), ClaimError::Superseded(_)) {
                    self.oracle.tokens.remove(&key);
                    self.oracle.tokens.extend(before.map(|before| (key, before)));
                }
                self.refused(key, is_over, error.reason());
            }
        }
    }

    fn take_up(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let Some(known) = self.oracle.tokens.get_mut(&key) else { return };
        let Some(token) = &known.given else { return };
        let stands = known.must_stand && engine.now() < known.until;
        match scope(engine, key).resume(token) {
            Ok(claim) => {
                assert!(
                    engine.now() < known.until && claim.attempt() == known.attempt,
                    "key {key}: {known:?}"
                );
                known.must_stand = false;
                claims.insert(key, Held { claim, resolves: false });
            }
            Err(TokenError::Superseded(_)) => assert!(!stands, "key {key}: {known:?} does not stand"),
            Err(TokenError::Held) => assert!(claims.contains_key(&key)),
            Err(error) => assert!(self.disk.crashed(), "key {key}: {error}"),
        }
    }

    fn finish(&mut self, engine: &Engine, key: u64, claims: &mut Claims, outcome: Outcome) {
        let Some(held) = claims.remove(&key) else { return };
        let (is_over, claim) = (held.is_over(engine), held.claim);
        let (fence, body) = (claim.fence(), body(&mut self.random, claim.fence()));
        let result_ =
            Result_ { outcome, body: body.clone(), fence, expires: Timestamp::from_millis(u64::MAX) };
        self.oracle.start(key, Expect::Done(result_));
        let ended = match outcome {
            Outcome::Success => claim.complete(body),
            Outcome::Failure => claim.fail(body),
        };
        match ended {
            Ok(record) => {
                assert!(!is_over, "key {key}: a superseded claim completed");
                self.oracle.start(key, Expect::Done(result(&record)));
                self.oracle.acknowledge();
                self.oracle.tokens.remove(&key);
            }
            Err(error) => self.refused(key, is_over, error.reason()),
        }
    }

    fn release(&mut self, engine: &Engine, key: u64, claims: &mut Claims) {
        let Some(held) = claims.remove(&key) else { return };
        let (is_over, earlier) = (held.is_over(engine), held.claim.interrupted());
        let after = match earlier {
            Some(earlier) if !held.resolves => Expect::Interrupted(earlier.attempt()),
            Some(_) | None => Expect::Vacant,
        };
        self.oracle.start(key, after);
        match held.claim.release() {
            Ok(()) => {
                self.oracle.acknowledge();
                self.oracle.tokens.remove(&key);
            }
            Err(error) => self.refused(key, is_over, error.reason()),
        }
    }

    fn forget(&mut self, engine: &Engine, key: u64, claims: &Claims) {
        self.oracle.start(key, Expect::Vacant);
        match scope(engine, key).forget(name(key)) {
            Ok(_) => {
                self.oracle.acknowledge();
                self.oracle.tokens.remove(&key);
            }
            Err(idemkv::ForgetError::InFlight) => {
                assert!(claims.contains_key(&key) || self.oracle.may_stand(key, engine.now()));
                self.oracle.under_way = None;
            }
            Err(error) => assert!(self.disk.crashed(), "forget failed: {error}"),
        }
    }
}

/// Operations of a script.
const STEPS: u64 = 60;

fn crash_kinds(seed: u64) -> [CrashKind; 4] {
    [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(seed), CrashKind::Torn(!seed)]
}

/// Opens what a crash left; crashes again at the given operations of the recoveries.
fn recover(world: &mut World, kind: CrashKind, again: &[u64], context: &str) {
    world.disk.reboot(kind);
    for after in again {
        world.disk.crash_at(world.disk.operations() + after);
        let opened = options(&world.disk, &world.clock).open("x.idem");
        if let Ok(engine) = opened {
            drop(engine);
        }
        world.disk.reboot(kind);
    }
    let engine = match options(&world.disk, &world.clock).open("x.idem") {
        Ok(engine) => engine,
        Err(error) => panic!("{context}: does not open: {error}"),
    };
    world.oracle.check(&engine, context);
    let key = world.random.below(KEYS);
    world.begin(&engine, key, &mut HashMap::new());
}

/// Crashes at one operation of a seed's script, in every way.
fn crash_at(seed: u64, operation: u64, again: &[u64]) -> u64 {
    for kind in crash_kinds(seed ^ operation) {
        let mut world = World::new(seed);
        world.disk.crash_at(operation);
        world.run(STEPS);
        let context = format!("seed {seed}, crash at operation {operation}, {kind:?}, again at {again:?}");
        recover(&mut world, kind, again, &context);
    }
    4
}

fn operations_of(seed: u64) -> u64 {
    let mut world = World::new(seed);
    world.run(STEPS);
    world.disk.operations()
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged_and_invents_nothing() {
    let mut images = 0;
    for seed in 1..=seeds(6) {
        for operation in 0..operations_of(seed) {
            images += crash_at(seed, operation, &[]);
        }
    }
    println!("{images} crash images");
}

#[test]
fn crashes_during_recovery_three_deep_lose_nothing_either() {
    let mut images = 0;
    for seed in 100..100 + seeds(12) {
        let total = operations_of(seed);
        let mut random = Random(seed);
        for _ in 0..25 {
            let again = [random.below(40), random.below(40), random.below(40)];
            images += crash_at(seed, random.below(total), &again);
        }
    }
    println!("{images} crash images");
}

/// More seeds for a longer run: set `IDEMKV_SEEDS` to a factor.
fn seeds(default: u64) -> u64 {
    std::env::var("IDEMKV_SEEDS").ok().and_then(|factor| factor.parse::<u64>().ok()).unwrap_or(1) * default
}

/// The rig must be able to fail: a disk that ignores syncs loses acknowledged records, and that must be noticed.
#[test]
fn the_rig_notices_a_disk_that_ignores_syncs() {
    let caught = (0..20).filter(|extra| {
        let outcome = std::panic::catch_unwind(|| {
            let mut world = World::new(1);
            drop(options(&world.disk, &world.clock).open("x.idem").unwrap());
            world.disk.ignore_syncs();
            world.disk.crash_at(world.disk.operations() + 30 + extra);
            world.run(STEPS);
            recover(&mut world, CrashKind::DropAll, &[], "syncs ignored");
        });
        outcome.is_err()
    });
    assert!(caught.count() > 0, "no crash without syncs was noticed");
}
