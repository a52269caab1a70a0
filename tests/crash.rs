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

use std::collections::HashMap;
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{
    Begin, BeginError, Claim, Completion, Engine, Fence, Fingerprint, Options, Outcome, Record, Status,
    Timestamp, Tombstone,
};

const START_MS: u64 = 1_800_000_000_000;
const TTL: Duration = Duration::from_secs(1_800);
const TOMBSTONE_TTL: Duration = Duration::from_secs(3 * 1_800);
const KEYS: u64 = 5;

fn options(disk: &SimDisk, clock: &ManualClock) -> Options {
    Engine::options()
        .disk(disk)
        .clock(clock)
        .stepped()
        .seed(7)
        .ttl(TTL)
        .tombstone_ttl(TOMBSTONE_TTL)
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
    /// `None` where it was not kept.
    body: Option<Vec<u8>>,
    fence: Fence,
    expires: Timestamp,
    remembered_until: Timestamp,
}

/// What is left of a result.
#[derive(Clone, Debug, PartialEq)]
struct Left {
    outcome: Outcome,
    fence: Fence,
    expired: Timestamp,
    remembered_until: Timestamp,
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
    Expired(Left),
}

impl Expect {
    /// What time makes of it.
    fn at(self, now: Timestamp) -> Self {
        match self {
            Self::Done(Result_ { remembered_until, .. }) | Self::Expired(Left { remembered_until, .. })
                if remembered_until <= now =>
            {
                Self::Vacant
            }
            Self::Done(result) if result.expires <= now => Self::Expired(Left {
                outcome: result.outcome,
                fence: result.fence,
                expired: result.expires,
                remembered_until: result.remembered_until,
            }),
            same @ (Self::Vacant
            | Self::Interrupted(_)
            | Self::InterruptedAfter(_)
            | Self::Done(_)
            | Self::Expired(_)) => same,
        }
    }
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
}

impl Oracle {
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
        for key in 0..KEYS {
            let mut allowed = vec![self.at(key)];
            allowed.extend(under_way.iter().filter(|(other, _)| *other == key).map(|(_, next)| next.clone()));
            allowed = allowed.into_iter().map(|expect| expect.at(now)).collect();
            let interrupted = allowed.iter().any(|expect| matches!(expect, Expect::Interrupted(_)));
            if interrupted && self.may_be_forgotten(key, now) {
                allowed.push(Expect::Vacant);
            }
            let found = found(engine, key);
            let fits = allowed.iter().any(|expect| fits(expect, &found));
            assert!(fits, "{context}: key {key} is {found:?}, allowed is {allowed:?}");
            self.keys.insert(key, found);
        }
    }
}

fn fits(expect: &Expect, found: &Expect) -> bool {
    match (expect, found) {
        // The fence and the times of a completion that was cut off are not known to the oracle.
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
        body: record.is_body_kept().then(|| record.body().to_vec()),
        fence: record.fence(),
        expires: record.expires(),
        remembered_until: record.remembered_until(),
    }
}

fn left(tombstone: &Tombstone) -> Left {
    Left {
        outcome: tombstone.outcome(),
        fence: tombstone.fence(),
        expired: tombstone.expired(),
        remembered_until: tombstone.remembered_until(),
    }
}

fn found(engine: &Engine, key: u64) -> Expect {
    match engine.get(name(key)).unwrap() {
        Status::Vacant => Expect::Vacant,
        Status::InFlight(_) => panic!("key {key} is in flight right after an opening"),
        Status::Interrupted(earlier) => Expect::Interrupted(earlier.attempt()),
        Status::Done(record) => Expect::Done(result(&record)),
        Status::Expired(tombstone) => Expect::Expired(left(&tombstone)),
    }
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

    fn operate(&mut self, engine: &Engine, claims: &mut HashMap<u64, Claim>) {
        let key = self.random.below(KEYS);
        match self.random.below(20) {
            0..6 => self.begin(engine, key, claims),
            6..12 => self.finish(key, claims, Outcome::Success),
            12 => self.finish(key, claims, Outcome::Failure),
            13 => self.release(key, claims),
            14 => drop(claims.remove(&key)),
            15 => self.forget(engine, key, claims),
            16 => drop(engine.checkpoint()),
            17 => self.clock.advance(Duration::from_secs(self.random.below(3_000))),
            _ => drop(engine.step()),
        }
    }

    fn begin(&mut self, engine: &Engine, key: u64, claims: &mut HashMap<u64, Claim>) {
        let before = self.oracle.at(key).at(engine.now());
        let earlier = match &before {
            Expect::Interrupted(attempt) | Expect::InterruptedAfter(attempt) => *attempt,
            Expect::Vacant | Expect::Done(_) | Expect::Expired(_) => 0,
        };
        // An interruption that is forgotten by now lets attempts count from 1 again.
        let counted = if self.oracle.may_be_forgotten(key, engine.now()) { 0 } else { earlier };
        self.oracle.start(key, Expect::InterruptedAfter(counted));
        match engine.begin(name(key), fingerprint(key)) {
            Ok(Begin::Fresh(claim)) => {
                assert!(!claims.contains_key(&key), "key {key} was granted twice");
                let free = !matches!(before, Expect::Done(_) | Expect::Expired(_));
                assert!(free, "key {key} was granted over {before:?}");
                self.oracle.saw_fence(claim.fence());
                let told = claim.interrupted().map_or(0, |earlier| earlier.attempt());
                let forgotten = told == 0 && self.oracle.may_be_forgotten(key, engine.now());
                assert!(told == earlier || forgotten, "key {key}: interruption {earlier} was not told of");
                assert!(claim.attempt() > told);
                self.oracle.granted.insert(key, engine.now());
                assert_eq!(claim.interrupted().is_some(), claim.attempt() > 1);
                self.oracle.start(key, Expect::Interrupted(claim.attempt()));
                self.oracle.acknowledge();
                claims.insert(key, claim);
            }
            Ok(Begin::InFlight(_)) => {
                assert!(claims.contains_key(&key), "key {key} is in flight and nobody has it");
                self.oracle.under_way = None;
            }
            Ok(Begin::Done(record)) => {
                assert_eq!(before, Expect::Done(result(&record)), "key {key} was replayed");
                assert!(record.expires() > engine.now());
                self.oracle.under_way = None;
            }
            Err(BeginError::Expired(tombstone)) => {
                assert_eq!(before, Expect::Expired(left(&tombstone)), "key {key} was told to be expired");
                self.oracle.under_way = None;
            }
            Err(error) => assert!(self.disk.crashed(), "begin failed: {error}"),
        }
    }

    fn finish(&mut self, key: u64, claims: &mut HashMap<u64, Claim>, outcome: Outcome) {
        let Some(claim) = claims.remove(&key) else { return };
        let (fence, body) = (claim.fence(), body(&mut self.random, claim.fence()));
        let (completion, kept) = self.completion();
        let never = Timestamp::from_millis(u64::MAX);
        let body_stored = kept.then(|| body.clone());
        self.oracle.start(
            key,
            Expect::Done(Result_ {
                outcome,
                body: body_stored,
                fence,
                expires: never,
                remembered_until: never,
            }),
        );
        let ended = match outcome {
            Outcome::Success => claim.complete_with(body, completion),
            Outcome::Failure => claim.fail_with(body, completion),
        };
        match ended {
            Ok(record) => {
                self.oracle.start(key, Expect::Done(result(&record)));
                self.oracle.acknowledge();
            }
            Err(error) => assert!(self.disk.crashed(), "complete failed: {error}"),
        }
    }

    /// Usually nothing special; and whether the body is kept.
    fn completion(&mut self) -> (Completion, bool) {
        match self.random.below(8) {
            0 => (Completion::new().tombstone_ttl(TTL), true),
            1 => (Completion::new().ttl(TTL / 8), true),
            2 => (Completion::new().discard_body(), false),
            _ => (Completion::new(), true),
        }
    }

    fn release(&mut self, key: u64, claims: &mut HashMap<u64, Claim>) {
        let Some(claim) = claims.remove(&key) else { return };
        let after =
            claim.interrupted().map_or(Expect::Vacant, |earlier| Expect::Interrupted(earlier.attempt()));
        self.oracle.start(key, after);
        match claim.release() {
            Ok(()) => self.oracle.acknowledge(),
            Err(error) => assert!(self.disk.crashed(), "release failed: {error}"),
        }
    }

    fn forget(&mut self, engine: &Engine, key: u64, claims: &HashMap<u64, Claim>) {
        self.oracle.start(key, Expect::Vacant);
        match engine.forget(name(key)) {
            Ok(_) => self.oracle.acknowledge(),
            Err(idemkv::ForgetError::InFlight) => {
                assert!(claims.contains_key(&key));
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
