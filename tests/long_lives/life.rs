//! One life.

use std::path::Path;

use idemkv::tables::redb::{Database, ReadableDatabase, ReadableTableMetadata, TableDefinition};
use idemkv::{Engine, Policy, Scope};

use crate::bounds::{self, Phase, SEGMENT};
use crate::common::{Machine, done, fresh};
use crate::model::{DAY, Draw, HOUR, KINDS, Key, SECOND, millis};

mod readers;
mod reads;

const BLOCKS: TableDefinition<'_, (u64, u64), &[u8]> = TableDefinition::new("idemkv.blocks");
const FORGOTTEN: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("idemkv.forgotten");
const SHARDS: usize = 4;
const LOG_BYTES: u64 = 512 << 10;
const BODY_MAX: usize = 4_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Burst,
    EveryMinute,
    EverySecond,
    Seldom,
    Shrink,
    Transactions,
    Forget,
    Replay,
    Reads,
    FullDisk,
    Close,
    Empty,
    Hours,
    Days,
    Months,
    Kill,
}

const ALL: [Kind; 16] = [
    Kind::Burst,
    Kind::EveryMinute,
    Kind::EverySecond,
    Kind::Seldom,
    Kind::Shrink,
    Kind::Transactions,
    Kind::Forget,
    Kind::Replay,
    Kind::Reads,
    Kind::FullDisk,
    Kind::Close,
    Kind::Empty,
    Kind::Hours,
    Kind::Days,
    Kind::Months,
    Kind::Kill,
];

pub struct Life {
    seed: u64,
    machine: Machine,
    engine: Option<Engine>,
    scopes: Vec<Scope>,
    draw: Draw,
    /// ms since the life began.
    now: u64,
    default_ttl: u64,
    cache: u64,
    /// Those that are remembered, and those that ended not long ago.
    keys: Vec<Key>,
    /// Of those that no checkpoint has stored: length of the body, when it expires, and until when
    /// the key is remembered.
    unstored: Vec<(u64, u64, u64)>,
    ended: Vec<u64>,
    /// Until when rows of forgotten keys are needed.
    rows: Vec<u64>,
    checkpoints: u64,
    peak: u64,
    entries: u64,
    /// The engine can't know how much of the file is live.
    is_shared: bool,
    doing: Kind,
    phase: Phase,
    passed: u64,
    /// How often the file was compacted in this phase.
    compactions: u64,
    names: u64,
}

impl Life {
    pub fn new(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let default_ttl = [SECOND, 600 * SECOND, DAY][usize::try_from(seed % 3).unwrap()];
        let cache = [64 << 10, 256 << 10][draw.below(2)];
        let mut life = Self {
            seed,
            machine: Machine::default(),
            engine: None,
            scopes: Vec::new(),
            draw,
            now: 0,
            default_ttl,
            cache,
            keys: Vec::new(),
            unstored: Vec::new(),
            ended: Vec::new(),
            rows: Vec::new(),
            checkpoints: 0,
            peak: 0,
            entries: 0,
            is_shared: false,
            doing: Kind::Burst,
            phase: Phase::default(),
            passed: 0,
            compactions: 0,
            names: 0,
        };
        life.open();
        life
    }

    /// Goes through every kind of phase so many times; gives the days that it took.
    pub fn live(mut self, times: usize) -> u64 {
        let mut phases = ALL.repeat(times);
        self.draw.shuffle(&mut phases);
        for kind in phases {
            if kind == Kind::Shrink {
                // An engine that has written to tables of others does not compact.
                self.go_through(Kind::Kill);
            }
            self.go_through(kind);
        }
        bounds::days(self.now)
    }

    fn open(&mut self) {
        let options = self.machine.options().policy(Policy::default().ttl(millis(self.default_ttl)));
        let cache = usize::try_from(self.cache).unwrap();
        let engine = options.cache_bytes(cache).shards(SHARDS).open("x.idem").unwrap();
        self.scopes = (0..KINDS.len())
            .map(|n| {
                let policy = Policy::default().ttl(millis(KINDS[n].ttl));
                let policy = policy.tombstone_ttl(millis(KINDS[n].remembered));
                engine.set_policy(format!("kind {n}"), policy).unwrap()
            })
            .collect();
        self.engine = Some(engine);
        self.checkpoints = 0;
        self.unstored.clear();
        self.keys.iter_mut().for_each(|key| key.is_unstored = false);
        self.is_shared = false;
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().unwrap()
    }

    fn go_through(&mut self, kind: Kind) {
        self.doing = kind;
        self.prune();
        let (bytes, before) = (self.machine.disk.written(), self.engine().stats());
        let started = self.now;
        (self.passed, self.compactions) = (0, 0);
        self.phase = Phase { default_ttl: self.default_ttl, shards: SHARDS as u64, ..Phase::default() };
        self.act(kind);
        self.prune();
        if matches!(kind, Kind::Kill | Kind::Close) {
            // The engine counts anew.
            return;
        }
        let after = self.engine().stats();
        self.phase.time = self.now - started;
        self.phase.log_grown = after.log_bytes - before.log_bytes;
        self.phase.file = after.file_bytes.max(before.file_bytes);
        let checkpoints = after.checkpoints - before.checkpoints;
        self.holds("checkpoints", checkpoints, self.phase.checkpoints());
        let written = self.machine.disk.written() - bytes;
        self.holds("bytes written", written, self.phase.written(checkpoints));
        self.holds("compactions", self.compactions, bounds::COMPACTIONS);
        self.holds("cells passed", self.passed, self.phase.passed());
        self.look();
        let is_rest = matches!(kind, Kind::Hours | Kind::Days | Kind::Months) && !self.is_shared;
        if is_rest {
            let (live, now) = (self.live_bytes(), self.now);
            self.holds("bytes of the file at rest", after.file_bytes, bounds::file_at_rest(live));
            let keys = self.keys.iter().map(|key| if now < key.expires { key.body as u64 } else { 0 });
            let may_be = bounds::cached_at_rest(keys);
            self.holds("bytes of records in memory at rest", after.cached_bytes as u64, may_be);
        }
    }

    #[track_caller]
    fn holds(&self, what: &str, is: u64, may_be: u64) {
        assert!(
            is <= may_be,
            "seed {}, {:?}: {is} {what}, where {may_be} may be; {:?}, default TTL {} s, {} keys",
            self.seed,
            self.doing,
            self.phase,
            self.default_ttl / SECOND,
            self.keys.len()
        );
    }

    fn act(&mut self, kind: Kind) {
        match kind {
            Kind::Burst => self.burst(600, 0..KINDS.len(), 20),
            Kind::EveryMinute => self.steadily(60 * SECOND, 8 * HOUR),
            Kind::EverySecond => self.steadily(SECOND, HOUR / 3),
            Kind::Seldom => self.seldom(),
            Kind::Shrink => self.shrink(),
            Kind::Transactions => self.transactions(),
            Kind::Forget => self.forget(),
            Kind::Replay => self.replay(),
            Kind::Reads => self.read_long_among_short(),
            Kind::FullDisk => self.full_disk(),
            Kind::Close => self.close(),
            Kind::Empty => {
                self.burst(6_000, 2..3, 2);
                self.pass(2 * HOUR, 5 * SECOND);
            }
            Kind::Hours => self.pass(6 * HOUR, SECOND),
            Kind::Days => self.pass(4 * DAY, 20 * SECOND),
            Kind::Months => self.pass(30 * DAY, 60 * SECOND),
            Kind::Kill => {
                self.scopes.clear();
                let engine = self.engine.take();
                self.machine.kill(engine);
                self.open();
                self.replay();
            }
        }
    }

    fn burst(&mut self, keys: usize, kinds: std::ops::Range<usize>, every_ms: u64) {
        for n in 0..keys {
            let kind = kinds.start + self.draw.below(kinds.len());
            let body = if kinds.len() == 1 {
                BODY_MAX / if kinds.start == 5 { 6 } else { 1 }
            } else {
                self.draw.below(BODY_MAX)
            };
            self.complete(kind, body);
            self.now += every_ms;
            self.machine.clock.advance(millis(every_ms));
            if n % 8 == 0 {
                self.step();
            }
        }
    }

    fn steadily(&mut self, every: u64, time: u64) {
        // Those that fall due soon, and often others as well.
        let others = if every == SECOND { 2 } else { KINDS.len() };
        let kinds = [self.draw.below(2), self.draw.below(others)];
        for n in 0..time / every {
            let body = self.draw.below(BODY_MAX);
            self.complete(kinds[usize::try_from(n % 2).unwrap()], body);
            self.pass(every, (every / 6).max(SECOND));
        }
    }

    /// Most of a file expires at once, and then there is a commit now and then that may double it.
    fn shrink(&mut self) {
        for n in 0..1_600 {
            let live = self.draw.below(100) < 30;
            self.complete(if live { 4 } else { 2 }, BODY_MAX);
            if n % 8 == 0 {
                self.step();
            }
        }
        self.pass(2 * HOUR, 5 * SECOND);
        for _ in 0..12 {
            self.complete(5, BODY_MAX);
            self.engine().checkpoint().unwrap();
            self.phase.asked += 1;
            self.observe();
            self.pass(HOUR / 6, 5 * SECOND);
        }
    }

    /// Bodies that expire soon and keys that are remembered for a day, so seldom that the log
    /// never fills; and a cache that is full of others.
    fn seldom(&mut self) {
        self.burst(400, 5..6, 1);
        self.engine().checkpoint().unwrap();
        self.phase.asked += 1;
        self.observe();
        self.replay();
        self.replay();
        for _ in 0..24 {
            self.complete(1, BODY_MAX / 4);
            self.pass(HOUR / 6, 20 * SECOND);
        }
    }

    fn transactions(&mut self) {
        // Only those that live for longer than this takes.
        let kind = 2 + self.draw.below(KINDS.len() - 2);
        let before = self.rows_of_the_file().0;
        let calls = 150;
        for _ in 0..calls {
            let key = self.new_key(kind, 100);
            let claim = fresh(&self.scopes[kind], &key.name);
            claim.complete_in(|_| Ok::<_, std::io::Error>(vec![7; key.body])).unwrap();
            self.is_shared = true;
            self.phase.frames += 1;
            self.phase.asked += 1;
            self.observe();
            self.phase.stored += key.file_bytes(self.now);
            self.keys.push(key);
            self.pass(SECOND, SECOND);
        }
        let after = self.rows_of_the_file().0;
        self.holds("blocks", after.saturating_sub(before), calls / 16 + 2 * 16 + 8);
    }

    fn forget(&mut self) {
        for _ in 0..60 {
            // One that the store has, and one that it does not.
            let stored: Vec<usize> = (0..self.keys.len())
                .filter(|at| !self.keys[*at].is_unstored && self.keys[*at].is_live(self.now))
                .collect();
            if !stored.is_empty() {
                let at = stored[self.draw.below(stored.len())];
                self.forget_at(at);
            }
            self.complete(5, 50);
            let last = self.keys.len() - 1;
            self.forget_at(last);
            self.pass(SECOND, SECOND);
        }
    }

    fn forget_at(&mut self, at: usize) {
        let key = self.keys.swap_remove(at);
        let before = self.engine().stats().checkpoints;
        self.scopes[key.kind].forget(&key.name).unwrap();
        self.phase.frames += 1;
        // What is left of it in the file is due at its time all the same.
        self.phase.due += key.file_bytes(0);
        if !key.is_unstored || self.engine().stats().checkpoints != before {
            self.rows.push(key.until);
        }
        self.ended.push(self.now);
    }

    fn replay(&mut self) {
        for _ in 0..400 {
            if self.keys.is_empty() {
                return;
            }
            let key = self.keys[self.draw.below(self.keys.len())].clone();
            if self.now < key.expires {
                assert_eq!(done(&self.scopes[key.kind], &key.name).body().len(), key.body);
            }
            self.check_memory();
        }
    }

    fn new_key(&mut self, kind: usize, body: usize) -> Key {
        self.names += 1;
        let (expires, until) = (self.now + KINDS[kind].ttl, self.now + KINDS[kind].remembered);
        Key {
            name: format!("key {}", self.names),
            kind,
            body,
            expires,
            until,
            is_unstored: true,
            is_body_gone: false,
        }
    }

    fn complete(&mut self, kind: usize, body: usize) {
        let key = self.new_key(kind, body);
        fresh(&self.scopes[kind], &key.name).complete(vec![7; body]).unwrap();
        self.observe();
        self.phase.frames += 2;
        self.phase.bodies += body as u64;
        self.phase.stored += key.file_bytes(self.now);
        self.unstored.push((body as u64, key.expires, key.until));
        self.keys.push(key);
    }

    /// Time goes by, a step a tick.
    fn pass(&mut self, time: u64, tick: u64) {
        for n in 0..time / tick {
            self.now += tick;
            self.machine.clock.advance(millis(tick));
            self.step();
            if n % 512 == 0 {
                self.prune();
                self.check_entries(tick);
            }
        }
        self.prune();
        self.check_entries(tick);
    }

    fn step(&mut self) {
        let stepped = self.engine().step();
        self.passed += stepped.passed as u64;
        if stepped.compacted {
            self.compactions += 1;
            self.phase.compacted += self.engine().stats().file_bytes + bounds::commit(0);
        }
        self.observe();
        if self.unstored.len() < 64 || self.now.is_multiple_of(64) {
            self.check_memory();
        }
    }

    /// Whether a checkpoint has stored what there was.
    fn observe(&mut self) {
        let stats = self.engine().stats();
        let checkpoints = stats.checkpoints;
        if checkpoints != self.checkpoints {
            self.checkpoints = checkpoints;
            // What was over is not stored, and waits for the sweeper.
            let now = self.now;
            self.unstored.retain(|(_, expires, until)| *until <= now && expires + HOUR > now);
            self.keys.iter_mut().for_each(|key| key.is_unstored = false);
        }
    }

    /// Leaves keys behind that have ended.
    fn prune(&mut self) {
        let now = self.now;
        let (live, over): (Vec<Key>, Vec<Key>) =
            std::mem::take(&mut self.keys).into_iter().partition(|key| key.is_live(now));
        self.keys = live;
        for key in over {
            self.phase.ended += 1;
            // Its body, and what was left of it.
            self.phase.due += if key.is_body_gone { 0 } else { key.file_bytes(0) } + 400;
            self.ended.push(key.until);
        }
        for key in self.keys.iter_mut().filter(|key| !key.is_body_gone && key.expires <= now) {
            key.is_body_gone = true;
            // The sweeper comes for the body, too.
            self.phase.ended += 1;
            self.phase.due += key.file_bytes(0) + 400;
        }
        self.ended.retain(|until| until + 10 * 60 * SECOND > now);
        // Tables do not shrink.
        self.entries = self.entries.max((self.keys.len() + self.ended.len()) as u64);
        self.phase.entries = self.entries;
        self.peak = self.peak.max(self.live_bytes());
    }

    fn live_bytes(&self) -> u64 {
        self.keys.iter().map(|key| key.file_bytes(self.now)).sum()
    }

    fn check_memory(&self) {
        let stats = self.engine().stats();
        let late = bounds::body_late(self.default_ttl, stats.file_bytes) + 120 * SECOND;
        let unstored = self.unstored.iter().filter(|(_, expires, _)| self.now < expires + late);
        let may_be = bounds::cached(self.cache, unstored.map(|(body, ..)| *body));
        self.holds("bytes of records in memory", stats.cached_bytes as u64, may_be);
    }

    fn check_entries(&self, tick: u64) {
        let stats = self.engine().stats();
        let live = self.keys.len() as u64;
        let waiting = (3 * live + 64 * SHARDS as u64) / 16;
        let may_be = bounds::entries(live, self.ended.iter().copied(), self.now, tick) + waiting;
        self.holds("keys in the index", stats.entries as u64, may_be);
        self.holds("bytes of the log", stats.log_bytes, LOG_BYTES + SEGMENT);
        self.holds("bytes of the file", stats.file_bytes, bounds::file_under_load(self.peak));
    }

    /// Looks into the file.
    fn look(&mut self) {
        self.engine().checkpoint().unwrap();
        self.observe();
        let now = self.now;
        self.rows.retain(|until| *until > now);
        let (_, rows) = self.rows_of_the_file();
        self.holds("rows of forgotten keys", rows, self.rows.len() as u64);
    }

    /// Blocks, and rows of forgotten keys.
    fn rows_of_the_file(&self) -> (u64, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("copy");
        std::fs::write(&path, self.machine.disk.read(Path::new("x.idem")).unwrap()).unwrap();
        let database = Database::open(&path).unwrap();
        let reader = database.begin_read().unwrap();
        let blocks = reader.open_table(BLOCKS).unwrap().len().unwrap();
        (blocks, reader.open_table(FORGOTTEN).unwrap().len().unwrap())
    }
}
