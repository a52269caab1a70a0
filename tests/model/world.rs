//! An engine on a simulated machine, and the model beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::tables::redb::{ReadableTable, TableDefinition};
use idemkv::{
    Claim, ClaimToken, Durability, Engine, Fence, Fingerprint, Options, Policy, Recovery, Scope, Verify,
};

use crate::key::{Kept, Seen, State};
use crate::script::{KEYS, SCOPES};

pub const FILE: &str = "x.idem";
const START_MS: u64 = 1_800_000_000_000;
const SECOND: Duration = Duration::from_secs(1);
pub const TTL: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(30);
/// How long interrupted keys are remembered: longer than a record, or not as long.
const UNRESOLVED: Duration = Duration::from_secs(100);
const UNRESOLVED_SHORT: Duration = Duration::from_secs(20);
pub const BODY_MAX: usize = 300;
const JUMP_MAX_MS: u64 = 3_600_000;
/// So that no clock comes to its end.
const ELAPSED_MAX: u64 = 1 << 62;
/// A wall clock that is set later than that is read as that.
const WALL_MAX: u64 = i64::MAX.cast_unsigned();
/// Claims that are held at once.
pub const HELD_MAX: usize = 10;
pub const TOKENS_MAX: usize = 10;
const EFFECTS: TableDefinition<'_, u64, u64> = TableDefinition::new("effects");

/// A key, as far as the calls so far tell.
#[derive(Clone, Debug)]
pub struct Key {
    /// What it may be. More than one only where what was promised leaves that open.
    pub live: Vec<State>,
    /// What an opening may find after a crash.
    pub disk: Vec<State>,
    /// What a close has stored with its time.
    closed_as: Option<State>,
}

impl Key {
    fn all_vacant() -> Vec<Self> {
        vec![Self { live: vec![State::Vacant], disk: vec![State::Vacant], closed_as: None }; SCOPES * KEYS]
    }

    pub fn is_interrupted(&self) -> bool {
        self.live.iter().any(|state| matches!(state, State::Interrupted { .. }))
    }

    /// Whether the file may say that a token stands for it. An interruption that the file has to
    /// the millisecond once it is closed: of a claim that it knows, and that was dropped. One
    /// whose lease ended may be found only by the next opening.
    fn interruption_stored_by_a_close(&self) -> Option<State> {
        let [live @ State::Interrupted { attempt, .. }] = &self.live[..] else { return None };
        let is_it = |state: &State| state.attempt().is_some_and(|known| known.info == attempt.info);
        let is_known = !self.disk.is_empty() && self.disk.iter().all(is_it);
        (is_known && attempt.lease.is_none()).then(|| live.clone())
    }

    pub fn is_detached_on_disk(&self) -> bool {
        let is_detached =
            |state: &State| matches!(state, State::Detached { .. } | State::Out { token_until: Some(_), .. });
        self.disk.iter().any(is_detached)
    }
}

/// A claim in the script's hands.
pub struct Held {
    pub claim: Claim,
    pub facts: Facts,
}

/// What is known of a claim.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    pub key: usize,
    pub fence: u64,
    pub kept: Kept,
    pub has_lease: bool,
    pub durability: Durability,
    /// Whether the disk knows of it.
    pub is_logged: bool,
    /// The file may know of the claim.
    pub may_be_logged: bool,
    pub resolves: bool,
    /// Its scope's limit counts it.
    pub is_counted: bool,
}

/// A token in the script's hands.
pub struct Given {
    pub token: ClaimToken,
    pub key: usize,
    pub fence: u64,
    pub is_counted: bool,
    /// The opening that it was made in.
    pub opening: u32,
}

pub struct World {
    /// Scripts that were played here before this one, in scopes of their own.
    generation: u32,
    scopes: [String; SCOPES],
    pub disk: SimDisk,
    clock: ManualClock,
    engine: Option<Engine>,
    wall: u64,
    /// All time that went by, awake or asleep.
    elapsed: u64,
    /// The engine's time when it was opened, and how much had gone by.
    opened_at: (u64, u64),
    /// When something was last acknowledged as durable.
    durable_at: u64,
    /// The highest wall clock there was when something was acknowledged as durable: an opening
    /// knows of it.
    wall_durable: u64,
    /// The highest wall clock that an engine may have seen.
    wall_shown: u64,
    pub keys: Vec<Key>,
    pub held: Vec<Held>,
    pub tokens: Vec<Given>,
    /// Openings so far.
    pub openings: u32,
    /// In which opening a claim was handed over last, by its fence: for certain, and perhaps.
    /// Tokens of earlier ones don't count.
    pub handed_in: BTreeMap<u64, (u32, u32)>,
    /// What each scope may have as a policy of its own.
    policies: Vec<Vec<Option<Policy>>>,
    /// Fences of claims that were completed with an effect.
    pub effects: BTreeSet<u64>,
    /// One that a crash cut off.
    pub cut_effect: Option<(usize, u64)>,
    pub fence_max: u64,
    /// Fences of the claims so far.
    pub fences: Vec<Fence>,
    /// What it was before the call at work, which may be a batch.
    pub fence_before: u64,
}

/// Files to start from, so that a script need not make its own.
pub struct Image {
    disk: SimDisk,
    declared: Vec<Option<Policy>>,
}

impl Image {
    pub fn all() -> Vec<Self> {
        [[None, None, None], [None, Some(3), Some(7)], [Some(1), Some(2), Some(6)]].map(Self::make).into()
    }

    fn make(declared: [Option<u8>; SCOPES]) -> Self {
        let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(START_MS));
        let engine = options(&disk, &clock).open(FILE).unwrap();
        for (scope, choice) in scope_names(0).iter().zip(declared) {
            if let Some(choice) = choice {
                engine.set_policy(scope, policy(choice)).unwrap();
            }
        }
        engine.close().unwrap();
        Self { disk, declared: declared.map(|choice| choice.map(policy)).into() }
    }
}

fn options(disk: &SimDisk, clock: &ManualClock) -> Options {
    Engine::options()
        .disk(disk)
        .clock(clock)
        .stepped()
        .seed(5)
        .policy(policy(0))
        .max_body_bytes(BODY_MAX)
        .reserve_bytes(100)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(256 << 10)
        .shards(1)
        .cache_bytes(600)
        .queue_timeout(Duration::ZERO)
        .max_clock_jump(Duration::from_millis(JUMP_MAX_MS))
        // Nothing damages these files.
        .verify(Verify::UpTo(0))
}

/// Policies to declare; the last two are refused.
pub fn policy(choice: u8) -> Policy {
    let plain = Policy::default().ttl(TTL).unresolved_ttl(UNRESOLVED);
    let rerun = plain.recovery(Recovery::Rerun);
    let relaxed = Durability::Relaxed(60 * SECOND);
    match choice % 14 {
        1 => rerun.tombstone_ttl(150 * SECOND),
        2 => rerun.lease(LEASE),
        3 => plain.lease(LEASE).unresolved_forever(),
        4 => plain.unresolved_ttl(UNRESOLVED_SHORT).tombstone_ttl(150 * SECOND),
        5 => rerun.max_attempts(2).unresolved_forever(),
        6 => rerun.durability(Durability::Completions),
        7 => rerun.durability(relaxed).unresolved_ttl(UNRESOLVED_SHORT),
        8 => rerun.max_in_flight(1).unresolved_ttl(UNRESOLVED_SHORT),
        9 => rerun.durability(relaxed).lease(LEASE).tombstone_ttl(150 * SECOND),
        10 => rerun.durability(Durability::Completions).lease(LEASE),
        11 => plain.lease(LEASE).max_in_flight(2).ttl(5 * SECOND),
        12 => plain.durability(Durability::Completions),
        13 => plain.ttl(Duration::ZERO),
        _ => plain,
    }
}

/// Names of scopes, in the order of their bytes.
fn scope_names(generation: u32) -> [String; SCOPES] {
    match generation {
        0 => ["", "one", "two"].map(String::from),
        later => ["", "one", "two"].map(|name| format!("{name} {later}")),
    }
}

pub fn key_name(key: usize) -> &'static str {
    ["a", "b", "c", "a long name"][key % KEYS]
}

/// The request of which this is the fingerprint.
pub fn request_of(fingerprint: &Fingerprint) -> usize {
    usize::from(fingerprint.as_bytes()[0])
}

pub fn fingerprint(request: usize) -> Fingerprint {
    Fingerprint::from_bytes([u8::try_from(request).unwrap(); 32])
}

impl World {
    pub fn new(image: &Image) -> Self {
        let clock = ManualClock::at_millis(START_MS);
        let mut world = Self {
            generation: 0,
            scopes: scope_names(0),
            disk: image.disk.image(CrashKind::DropAll),
            clock,
            engine: None,
            wall: START_MS,
            elapsed: 0,
            opened_at: (START_MS, 0),
            durable_at: START_MS,
            wall_durable: START_MS,
            wall_shown: START_MS,
            keys: Key::all_vacant(),
            held: Vec::new(),
            tokens: Vec::new(),
            openings: 0,
            handed_in: BTreeMap::new(),
            policies: image.declared.iter().map(|policy| vec![*policy]).collect(),
            effects: BTreeSet::new(),
            cut_effect: None,
            fence_max: 0,
            fences: Vec::new(),
            fence_before: 0,
        };
        world.open(START_MS, Boot::Same);
        world
    }

    pub fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    pub fn scope(&self, scope: usize) -> Scope {
        self.engine().scope(&self.scopes[scope])
    }

    /// The engine's time.
    pub fn now(&self) -> u64 {
        self.opened_at.0.saturating_add(self.elapsed - self.opened_at.1)
    }

    /// The policy of a scope. After a call that a crash cut off it is looked at before it is
    /// needed.
    pub fn policy(&self, scope: usize) -> Policy {
        self.policies[scope][0].unwrap_or_else(|| policy(0))
    }

    /// Something is durable, and so is the time by now.
    pub fn acknowledged(&mut self) {
        self.durable_at = self.now();
        self.see_wall();
        self.wall_durable = self.wall_durable.max(self.wall.min(WALL_MAX));
    }

    /// An engine that is open may see the wall clock at any time.
    fn see_wall(&mut self) {
        self.wall_shown = self.wall_shown.max(self.wall.min(WALL_MAX));
    }

    pub fn set_policy(&mut self, scope: usize, choice: u8) {
        let wanted = policy(choice);
        match self.engine().set_policy(&self.scopes[scope], wanted) {
            Ok(_) => {
                assert!(choice % 14 < 12, "an impossible policy was declared");
                self.policies[scope] = vec![Some(wanted)];
                self.acknowledged();
            }
            Err(idemkv::SetPolicyError::Policy(_)) => assert!(choice % 14 >= 12, "a policy was refused"),
            Err(error) => {
                assert!(self.disk.crashed(), "declare: {error}");
                self.policies[scope].push(Some(wanted));
            }
        }
    }
}

// Several scripts, for whom openings would cost more than the calls.
impl World {
    /// Whether another script would have enough of its clock, and not too much of others' to walk
    /// over.
    #[allow(dead_code, reason = "of use to the fuzz target alone")]
    pub fn has_room_for_another(&self) -> bool {
        self.generation < 31 && self.elapsed < ELAPSED_MAX / 2
    }

    /// Makes room for another script: nobody holds anything, and no name was ever used.
    #[allow(dead_code, reason = "of use to the fuzz target alone")]
    pub fn start_over(&mut self) {
        self.generation += 1;
        self.scopes = scope_names(self.generation);
        // One that was ordered and never came.
        self.disk.crash_at(u64::MAX);
        self.held.clear();
        self.tokens.clear();
        self.keys = Key::all_vacant();
        self.policies = vec![vec![None]; SCOPES];
        self.wall = START_MS;
        self.clock.jump_wall_to_millis(self.wall);
        self.see_wall();
    }
}

/// Nobody will look at what a file is closed with.
impl Drop for World {
    fn drop(&mut self) {
        self.disk.crash_at(self.disk.operations());
    }
}

// Time.
impl World {
    pub fn advance(&mut self, millis: u64) {
        if self.goes_by(millis) {
            self.clock.advance(Duration::from_millis(millis));
            self.see_wall();
        }
    }

    pub fn advance_some(&mut self, choice: u8) {
        self.advance(span(choice));
    }

    /// The machine sleeps, and the engine's worker wakes with it. Whether there was time for that.
    pub fn sleep(&mut self, choice: u8) -> bool {
        let millis = span(choice);
        let goes_by = self.goes_by(millis);
        if goes_by {
            self.clock.sleep(Duration::from_millis(millis));
            self.see_wall();
            self.engine().step();
        }
        goes_by
    }

    fn goes_by(&mut self, millis: u64) -> bool {
        let fits = self.elapsed.saturating_add(millis) <= ELAPSED_MAX;
        if fits {
            self.elapsed += millis;
            self.wall = self.wall.wrapping_add(millis);
        }
        fits
    }

    /// To the next time at which something ends, or a millisecond before or after that.
    pub fn advance_to(&mut self, which: u8, by: u8) {
        let now = self.now();
        let states = self.keys.iter().flat_map(|key| &key.live);
        let mut times: Vec<u64> = states.flat_map(State::deadlines).filter(|time| *time > now).collect();
        times.sort_unstable();
        times.dedup();
        let Some(time) = times.get(usize::from(which) % times.len().max(1)) else { return };
        self.advance((*time - now).saturating_add(u64::from(by % 3)).saturating_sub(1));
    }

    pub fn set_wall(&mut self, choice: u8) {
        let hour = 3_600_000;
        let year = 8_766 * hour;
        let walls = [
            0,
            1,
            START_MS,
            START_MS + 100 * year,
            START_MS - 30 * year,
            self.wall.wrapping_add(hour),
            self.wall.wrapping_sub(hour),
            self.wall.wrapping_add(1_000),
            self.wall.wrapping_sub(1_000),
            u64::MAX,
            1 << 63,
        ];
        self.wall = walls[usize::from(choice) % walls.len()];
        self.clock.jump_wall_to_millis(self.wall);
        self.see_wall();
    }
}

fn span(choice: u8) -> u64 {
    let day = 86_400_000;
    let spans =
        [1, 999, 5_000, 29_999, 30_000, 59_999, 60_000, 150_000, 3_600_000, day, 3_650 * day, 1 << 60];
    spans[usize::from(choice) % spans.len()]
}

/// Which boot of the machine an opening is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Boot {
    /// That of the opening before.
    Same,
    New,
}

// Ends of the process, and openings.
impl World {
    /// The file is closed, and opened again.
    pub fn close(&mut self) {
        let before = self.now();
        self.leave_orderly();
        self.open(before, Boot::Same);
    }

    /// The file is closed, the machine is off for a while, and boots again.
    pub fn restart(&mut self, choice: u8) {
        let before = self.now();
        self.leave_orderly();
        let millis = span(choice);
        if self.goes_by(millis) {
            self.clock.advance(Duration::from_millis(millis));
        }
        self.clock.reboot();
        self.open(before, Boot::New);
    }

    fn leave_orderly(&mut self) {
        let engine = self.engine.take().unwrap();
        let now = self.now();
        // One whose lease ran out counts until somebody looks.
        let may_be_out = |state: &State| matches!(state, State::Out { .. } | State::Detached { .. });
        let is_out = |state: &State| may_be_out(state) && matches!(state.seen(now)[0], Seen::InFlight(_));
        let least = self.keys.iter().filter(|key| key.live.iter().all(is_out)).count();
        let most = self.keys.iter().filter(|key| key.live.iter().any(may_be_out)).count();
        match engine.close() {
            Ok(closed) => {
                let left = closed.claims_left;
                // Tokens of earlier scripts stand for claims too.
                let is_possible = least <= left && (left <= most || self.generation > 0);
                assert!(is_possible, "{left} claims left, not {least} to {most}");
                self.acknowledged();
                for key in &mut self.keys {
                    if let Some(State::Ending { reply, .. }) =
                        key.live.iter().find(|state| matches!(state, State::Ending { .. }))
                    {
                        key.disk = vec![State::Done(reply.clone())];
                    }
                    key.closed_as = key.interruption_stored_by_a_close();
                }
                self.refuse_on_a_closed_engine();
                self.leave();
            }
            Err(error) => {
                assert!(self.disk.crashed(), "close: {error}");
                self.leave();
                self.disk.reboot(CrashKind::KeepAll);
            }
        }
    }

    fn refuse_on_a_closed_engine(&mut self) {
        let Some(held) = self.held.pop() else { return };
        let error = held.claim.complete("late").unwrap_err();
        let is_over = matches!(error.reason(), idemkv::ClaimError::Superseded(_));
        let is_closed = matches!(error.reason(), idemkv::ClaimError::Commit(idemkv::CommitError::Closed));
        assert!(is_over || is_closed && error.into_claim().is_some(), "a claim of a closed engine");
    }

    /// The process dies; the machine goes on.
    pub fn kill(&mut self) {
        let now = self.now();
        self.disk.crash_at(self.disk.operations());
        self.leave();
        self.disk.restart_process();
        self.open(now, Boot::Same);
    }

    /// The power is gone.
    pub fn reboot(&mut self, kind: u8, again: Option<u64>) {
        let now = self.now();
        self.leave();
        let kind = match kind % 4 {
            0 => CrashKind::KeepAll,
            1 => CrashKind::DropAll,
            _ => CrashKind::Torn(u64::from(kind)),
        };
        self.disk.reboot(kind);
        self.clock.reboot();
        if let Some(after) = again {
            self.disk.crash_at(self.disk.operations() + after);
            let opened = options(&self.disk, &self.clock).open(FILE);
            assert!(opened.is_ok() || self.disk.crashed(), "does not open: {:?}", opened.err());
            self.disk.crash_at(self.disk.operations());
            drop(opened);
            self.disk.reboot(kind);
            self.clock.reboot();
        }
        self.open(now, Boot::New);
    }

    /// All that a process holds is gone.
    fn leave(&mut self) {
        self.held.clear();
        self.engine = None;
    }

    /// Opens the file; `before` was the engine's time when the file was left.
    fn open(&mut self, before: u64, boot: Boot) {
        let engine = match options(&self.disk, &self.clock).open(FILE) {
            Ok(engine) => engine,
            Err(error) => {
                assert!(self.disk.crashed(), "does not open: {error}");
                // The power went in the middle of it.
                self.disk.reboot(CrashKind::KeepAll);
                self.clock.reboot();
                return self.open(before, Boot::New);
            }
        };
        self.openings += 1;
        self.opened_at = (engine.now().as_millis(), self.elapsed);
        self.engine = Some(engine);
        let now = self.now();
        self.check_time(before, boot);
        self.see_wall();
        self.wall_durable = self.wall_durable.max(self.wall.min(WALL_MAX));
        // No opening since then was at an earlier time.
        let since = std::mem::replace(&mut self.durable_at, now);
        self.see_policies();
        for key in 0..self.keys.len() {
            let found = &mut self.keys[key];
            found.live = match found.closed_as.take() {
                Some(interrupted) => vec![interrupted],
                None => found.disk.drain(..).map(|state| state.opened(since, now)).collect(),
            };
            self.see(key);
            let Key { live, disk, .. } = &mut self.keys[key];
            disk.clone_from(live);
        }
        for given in 0..self.tokens.len() {
            let scope = self.tokens[given].key / KEYS;
            self.tokens[given].is_counted = self.policy(scope).get_max_in_flight().is_some();
        }
        self.see_effects();
    }

    /// Within a boot the boot clock counts, and that did not move since the file was left. Over a
    /// reboot the wall clock counts, by what it says beyond the highest that it ever said.
    fn check_time(&self, before: u64, boot: Boot) {
        let now = self.now();
        let wall = self.wall.min(WALL_MAX);
        let counted = |wall_max: u64| wall.saturating_sub(wall_max).min(JUMP_MAX_MS);
        let (from, to) = match boot {
            Boot::Same => (before, before),
            Boot::New => (
                self.durable_at.saturating_add(counted(self.wall_shown)),
                before.saturating_add(counted(self.wall_durable)),
            ),
        };
        // A file that has nothing in it takes the wall clock as it is.
        let may_be_vacant =
            |key: &Key| key.disk.iter().any(|state| state.seen(before).contains(&Seen::Vacant));
        let takes_wall = now == wall && wall >= from && self.keys.iter().all(may_be_vacant);
        assert!(
            (from..=to).contains(&now) || takes_wall,
            "the clock went from {before} to {now}, not to {from} to {to}; the wall clock shows {wall}"
        );
    }

    fn see_policies(&mut self) {
        let found = self.engine().policies();
        for scope in 0..SCOPES {
            let declared = found.iter().find(|(name, _)| **name == *self.scopes[scope].as_bytes());
            let declared = declared.map(|(_, policy)| *policy);
            let allowed = &self.policies[scope];
            assert!(allowed.contains(&declared), "scope {scope} has {declared:?}, may have {allowed:?}");
            self.policies[scope] = vec![declared];
        }
    }

    fn see_effects(&mut self) {
        if self.effects.is_empty() && self.cut_effect.is_none() {
            return;
        }
        let found = self.engine().read_tables(|tables| {
            let Ok(table) = tables.open_table(EFFECTS) else { return BTreeSet::new() };
            table.iter().unwrap().map(|row| row.unwrap().0.value()).collect::<BTreeSet<_>>()
        });
        let found = found.unwrap();
        if let Some((key, fence)) = self.cut_effect.take() {
            let has_effect = found.contains(&fence);
            let key = &mut self.keys[key];
            let is_done =
                |state: &State| matches!(state, State::Done(reply) if reply.attempt.fence == Some(fence));
            key.live.retain(|state| is_done(state) == has_effect);
            assert!(!key.live.is_empty(), "an effect without its completion, or the other way: {key:#?}");
            key.disk.clone_from(&key.live);
            if has_effect {
                self.effects.insert(fence);
            }
        }
        assert_eq!(found, self.effects);
    }
}

/// Notes an effect in a table of the script's own.
pub fn have_effect(
    tables: &idemkv::tables::Tables<'_>,
    fence: u64,
) -> Result<(), Box<dyn std::error::Error>> {
    tables.open_table(EFFECTS)?.insert(fence, 1)?;
    Ok(())
}

// Looking.
impl World {
    /// Looks at a key.
    pub fn see(&mut self, key: usize) {
        let found = self.scope(key / KEYS).get(key_name(key));
        match found {
            Ok(status) => self.saw(key, &Seen::of(&status)),
            Err(error) => assert!(self.disk.crashed(), "get: {error}"),
        }
    }

    /// Keeps of what a key may be what it was seen as.
    pub fn saw(&mut self, key: usize, found: &Seen) {
        let now = self.now();
        let key_state = &mut self.keys[key];
        let states = std::mem::take(&mut key_state.live);
        let seen = states.iter().filter(|state| state.may_be_seen_as(found, now));
        key_state.live = seen.map(|state| state.clone().seen_as(found, now)).collect();
        assert!(!key_state.live.is_empty(), "key {key} at {now} is {found:#?}, may be {states:#?}");
    }

    /// Walks over everything.
    pub fn walk(&mut self) {
        let mut found = vec![Seen::Vacant; self.keys.len()];
        for entry in self.engine().entries() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    assert!(self.disk.crashed(), "entries: {error}");
                    return;
                }
            };
            if !self.scopes.iter().any(|scope| scope.as_bytes() == entry.scope()) {
                assert!(self.generation > 0, "a scope that nobody used");
                continue;
            }
            let of = |key: &usize| {
                self.scopes[key / KEYS].as_bytes() == entry.scope()
                    && key_name(*key).as_bytes() == entry.key()
            };
            let key = (0..found.len()).find(of).expect("a key that nobody used");
            assert_eq!(found[key], Seen::Vacant, "key {key} is there twice");
            found[key] = Seen::of(entry.status());
        }
        for (key, seen) in found.iter().enumerate() {
            self.saw(key, seen);
        }
        let declared = self.engine().policies().into_iter();
        let is_ours = |name: &[u8]| self.scopes.iter().any(|scope| scope.as_bytes() == name);
        let ours = declared.filter_map(|(name, policy)| is_ours(&name).then_some(policy));
        let by_name = [0, 1, 2].into_iter().filter_map(|scope| self.policies[scope][0]);
        assert_eq!(ours.collect::<Vec<_>>(), by_name.collect::<Vec<_>>());
    }

    /// Somebody asks for a key in a way that finds a lease ended.
    pub fn touch(&mut self, key: usize) {
        let now = self.now();
        let live = &mut self.keys[key].live;
        *live = live.drain(..).map(|state| state.at(now)).collect();
    }

    /// Notes which results have become durable since they were acknowledged.
    pub fn settle(&mut self) {
        for key in &mut self.keys {
            for state in &mut key.live {
                if let State::Ending { reply, record, .. } = state
                    && record.is_durable()
                {
                    key.disk = vec![State::Done(reply.clone())];
                    *state = State::Done(reply.clone());
                }
            }
        }
    }
}
