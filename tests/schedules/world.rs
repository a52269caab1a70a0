//! A small engine on a simulated machine, made anew for each schedule, and what its callers are
//! told.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{Begin, Engine, Options, Policy, Recovery, Scope, Verify};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{
    PctScheduler, RandomScheduler, ReplayScheduler, Scheduler, UncontrolledNondeterminismCheckScheduler,
};
use shuttle::{Config, Runner};

use super::checker::{Model, Timed, is_linearizable};
use super::common::budget::Budget;
use super::common::{START_MS, request};
use super::key::{Begun, Call, Key, LeasedKey, State};

/// Schedules of one seed. The first of PCT's is one thread after the other, to see how long it
/// takes.
const SCHEDULES: usize = 100;
/// Changes of who goes first, in every other round.
const PCT_DEPTH: usize = 3;
const STACK_BYTES: usize = 512 << 10;
/// A schedule that takes more steps has somebody in it who waits without sleeping.
const STEPS_MAX: usize = 200_000;
const SCHEDULE_VARIABLE: &str = "IDEMKV_SCHEDULE";
/// Longer than any schedule.
pub const FOR_EVER: Duration = Duration::from_secs(1_000_000);
pub const LEASE: Duration = Duration::from_millis(50);
const KEYS: [&str; 2] = ["one", "two"];

/// What makes one test's engine another than that of the next.
#[derive(Clone, Copy)]
pub struct Setup {
    pub options: fn(Options) -> Options,
    pub policy: fn(Policy) -> Policy,
}

impl Default for Setup {
    fn default() -> Self {
        Self { options: |options| options, policy: |policy| policy }
    }
}

pub struct World {
    setup: Setup,
    pub disk: SimDisk,
    pub clock: ManualClock,
    pub engine: Engine,
    pub scope: Scope,
    /// Counts calls and returns.
    time: AtomicU64,
    /// What was told of each key. No thread is interrupted while it has this.
    calls: Mutex<BTreeMap<&'static str, Vec<Timed<Call>>>>,
}

fn options(setup: Setup, disk: &SimDisk, clock: &ManualClock) -> Options {
    let small = Engine::options()
        .recovery(Recovery::Rerun)
        .max_body_bytes(64)
        .reserve_bytes(16)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(192 << 10)
        .shards(2)
        // Records are read from disk once a checkpoint has stored them.
        .cache_bytes(0)
        // The disk is taken for whole here, and each schedule opens the file anew.
        .verify(Verify::UpTo(0));
    (setup.options)(small).seed(1).disk(disk).clock(clock)
}

impl World {
    fn open(setup: Setup, prepared: &SimDisk) -> Arc<Self> {
        let (disk, clock) = (prepared.image(CrashKind::KeepAll), ManualClock::at_millis(START_MS));
        let engine = options(setup, &disk, &clock).open("x.idem").unwrap();
        let scope = engine.scope("keys");
        Arc::new(Self { setup, disk, clock, engine, scope, time: AtomicU64::new(0), calls: Mutex::default() })
    }

    /// An engine on what another disk holds, without threads.
    pub fn opened_on(&self, disk: &SimDisk) -> Engine {
        options(self.setup, disk, &self.clock).stepped().open("x.idem").unwrap()
    }

    pub fn key() -> &'static str {
        KEYS[usize::from(one_in(4))]
    }

    pub fn now(&self) -> u64 {
        self.time.fetch_add(1, Ordering::SeqCst)
    }

    pub fn tell(&self, key: &'static str, told: Timed<Call>) {
        self.calls.lock().unwrap().entry(key).or_default().push(told);
    }

    /// Moves the clock on, which every key may tell.
    pub fn advance(&self, by: Duration) {
        let called = self.now();
        self.clock.advance(by);
        let returned = Some(self.now());
        for key in KEYS {
            self.tell(key, Timed { thread: usize::MAX, called, returned, call: Call::Advance });
        }
    }

    /// Begins every key once all others are done, so that whatever was left to be done has to be.
    fn settle(&self) {
        for key in KEYS {
            let called = self.now();
            let begun = self.scope.begin_or_wait(key, request(), FOR_EVER);
            let call = Call::Begin(Begun::of(&begun));
            self.tell(key, Timed { thread: usize::MAX, called, returned: Some(self.now()), call });
            if let Ok(Begin::Fresh(claim)) = begun {
                claim.release().unwrap();
            }
        }
    }

    fn explain<M: Model<State = State, Call = Call>>(&self) {
        for (key, calls) in &*self.calls.lock().unwrap() {
            let refuses = self.scope.policy().get_recovery() == Recovery::Refuse;
            let state = if refuses { State::refusing() } else { State::new() };
            if !is_linearizable::<M>(state, calls) {
                for call in calls {
                    println!("{key}: {call:?}");
                }
                panic!("{key}: nothing that does one call after the other answers like this");
            }
        }
    }

    /// Ends a schedule in which nothing failed: all are done, nobody has a claim.
    pub fn finish(self: Arc<Self>) {
        let has_leases = self.scope.policy().get_lease().is_some();
        if !has_leases {
            self.settle();
        }
        assert_eq!(self.engine.stats().in_flight, 0);
        if !one_in(8) {
            // Closing costs as much as all the rest; most of the time the power goes instead.
            self.disk.crash_at(self.disk.operations());
        } else {
            assert_eq!(self.engine.clone().close().unwrap().claims_left, 0);
        }
        if has_leases {
            self.explain::<LeasedKey>();
        } else {
            self.explain::<Key>();
        }
    }
}

pub fn one_in(chances: u32) -> bool {
    below(chances) == 0
}

pub fn below(limit: u32) -> u32 {
    thread_rng().gen_range(0..limit)
}

fn config() -> Config {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.max_steps = shuttle::MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    config
}

fn run(scheduler: impl Scheduler + 'static, scenario: impl Fn() + Send + Sync + 'static) -> u64 {
    Runner::new(scheduler, config()).run(scenario) as u64
}

/// A new file, closed; with a scope that has the policy.
fn prepare(setup: Setup) -> SimDisk {
    let disk = SimDisk::new();
    let prepared = disk.clone();
    run(RandomScheduler::new_from_seed(0, 1), move || {
        let clock = ManualClock::at_millis(START_MS);
        let engine = options(setup, &disk, &clock).stepped().open("x.idem").unwrap();
        drop(engine.set_policy("keys", (setup.policy)(engine.policy())).unwrap());
        engine.close().unwrap();
    });
    prepared
}

/// A failure can be repeated only where nothing but the schedule decides what happens.
fn check_replays(setup: Setup, prepared: &SimDisk, scenario: fn(Arc<World>)) {
    let scheduler = UncontrolledNondeterminismCheckScheduler::new(RandomScheduler::new_from_seed(0, 4));
    let prepared = prepared.clone();
    run(scheduler, move || scenario(World::open(setup, &prepared)));
}

/// Runs a scenario under many schedules.
pub fn explore(rig: &'static str, rounds: u64, setup: Setup, scenario: fn(Arc<World>)) {
    let prepared = prepare(setup);
    check_replays(setup, &prepared, scenario);
    let run_on = |scheduler: Box<dyn Scheduler + Send>| {
        let prepared = prepared.clone();
        run(scheduler, move || scenario(World::open(setup, &prepared)))
    };
    if let Ok(schedule) = std::env::var(SCHEDULE_VARIABLE) {
        // As it is printed, with its line breaks.
        let schedule: String = schedule.chars().filter(char::is_ascii_hexdigit).collect();
        run_on(Box::new(ReplayScheduler::new_from_encoded(&schedule)));
        return;
    }
    let mut budget = Budget::new(rig, "shuttle schedules", rounds);
    while let Some(seed) = budget.next_seed() {
        let schedules = if seed % 2 == 0 {
            run_on(Box::new(PctScheduler::new_from_seed(seed, PCT_DEPTH, SCHEDULES)))
        } else {
            run_on(Box::new(RandomScheduler::new_from_seed(seed, SCHEDULES)))
        };
        budget.count(schedules);
    }
}
