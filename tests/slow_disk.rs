//! Promises of time on a slow disk: 64 callers, real threads, syncs that take 1 to 20 ms, and a
//! watchdog that looks how late each promise is kept. None may be more than 100 ms late: timeouts,
//! ends of leases, `queue_timeout`, sweeping, closing. No caller gets through much less often than
//! the others.
//!
//! ```text
//! IDEMKV_SECONDS=60 cargo test --release --test slow_disk -- --nocapture
//! ```

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "tests; the time is real"
)]

mod common;

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::budget::Budget;
use common::{fresh, request, small};
use futures_executor::block_on;
use idemkv::sim::SimDisk;
use idemkv::{Begin, BeginError, Busy, Claim, Engine, Options, Recovery, Scope, Timestamp, Waited};

const SYNC_MS: u64 = 20;
/// How many times as long syncs of the store take where the log is always full. No promise to a
/// caller waits for them.
const STORE_TIMES: u64 = 15;
const PATIENCE: Duration = Duration::from_millis(200);
const LEASE: Duration = Duration::from_millis(40);
const LATE_MAX: Duration = Duration::from_millis(100);
/// What a commit may take once it is queued: one that is being written, the groups in front, its
/// own.
const COMMIT: Duration = Duration::from_millis(5 * SYNC_MS);
/// How long records live: many are always to be swept.
const TTL: Duration = Duration::from_millis(100);
/// What the worker may take beside: a checkpoint, and what was queued when it began.
const SWEEP: Duration = Duration::from_millis(100);
const ROUND: Duration = Duration::from_millis(700);
const LOAD: usize = 56;
const WATCHERS: usize = 4;
/// Callers of a round in which they compete for a place in the queue, and nothing else goes on.
const RIVALS: usize = 6;

/// Groups that the worker writes one after the other at most, in a few steps of its own: it has
/// other things to do.
const WORKER_GROUPS_MAX: usize = 40;
const FILE: &str = "x.idem";

/// How late each promise was kept at most.
#[derive(Default)]
struct Watchdog {
    late: Mutex<Vec<(&'static str, Duration, u64)>>,
    /// How late the machine itself wakes a thread, at most.
    machine_us: AtomicU64,
    is_over: AtomicBool,
}

impl Watchdog {
    /// Notes how long something took that should have taken `due` at most.
    fn saw(&self, promise: &'static str, took: Duration, due: Duration) {
        let by = took.saturating_sub(due);
        let mut late = self.late.lock().unwrap();
        match late.iter_mut().find(|(name, ..)| *name == promise) {
            Some((_, most, count)) => (*most, *count) = ((*most).max(by), *count + 1),
            None => late.push((promise, by, 1)),
        }
    }

    /// Sees how late a thread is woken that waits for nothing but the time.
    fn watch_the_machine(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            let started = Instant::now();
            thread::sleep(Duration::from_millis(2));
            let late = started.elapsed().saturating_sub(Duration::from_millis(2));
            self.machine_us.fetch_max(u64::try_from(late.as_micros()).unwrap(), Ordering::Relaxed);
        }
    }

    /// A machine that has more to do than it can wakes everybody late. Being told takes up to
    /// three threads one after the other.
    fn check(&self) {
        let machine = Duration::from_micros(self.machine_us.load(Ordering::Relaxed));
        for (promise, late, count) in &*self.late.lock().unwrap() {
            println!("{promise}: {count} times, at most {late:.1?} late (the machine: {machine:.1?})");
            assert!(
                *late <= LATE_MAX + 3 * machine,
                "{promise} was {late:.1?} late (the machine: {machine:.1?})"
            );
        }
    }
}

/// The watchdog's work ends, with a panic too.
struct Over<'a>(&'a Watchdog);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::Relaxed);
    }
}

/// A disk whose syncs take their time; adds up how many milliseconds.
fn slow_disk(seed: u64, sync_ms: u64, store_times: u64) -> (SimDisk, Arc<AtomicU64>) {
    let (disk, slept) = (SimDisk::new(), Arc::new(AtomicU64::new(0)));
    let (counted, random) = (Arc::clone(&slept), AtomicU64::new(seed));
    disk.before_syncs(move |path| {
        note_group(path);
        let drawn =
            random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let times = if path == FILE { store_times } else { 1 };
        let ms = times * (1 + (drawn >> 33) % sync_ms);
        counted.fetch_add(ms, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(ms));
    });
    (disk, slept)
}

thread_local! {
    /// Syncs of the log that this thread made one after the other, and when the last one was over.
    static GROUPS: Cell<(usize, Option<Instant>)> = const { Cell::new((0, None)) };
}

/// The worker's own work must not wait for as long as others have something to write.
fn note_group(path: &str) {
    if thread::current().name() != Some("idemkv-worker") {
        return;
    }
    let (groups, last) = GROUPS.get();
    let goes_on =
        path != FILE && last.is_some_and(|last| last.elapsed() < Duration::from_millis(2 * SYNC_MS));
    let groups = if goes_on { groups + 1 } else { 1 };
    GROUPS.set((groups, Some(Instant::now())));
    // A panic would be a fault of the disk.
    LED_BY_WORKER.fetch_max(groups, Ordering::Relaxed);
}

/// The most groups that a worker wrote one after the other.
static LED_BY_WORKER: AtomicUsize = AtomicUsize::new(0);

/// What a round makes scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scarce {
    /// Places in the queue.
    Places,
    /// Room in the log.
    Room,
    Nothing,
}

impl Scarce {
    fn of(seed: u64) -> Self {
        match seed % 3 {
            0 => Self::Places,
            1 => Self::Room,
            _ => Self::Nothing,
        }
    }

    fn options(self) -> Options {
        let options = Engine::options().queue_timeout(PATIENCE).recovery(Recovery::Rerun).ttl(TTL);
        match self {
            Self::Places => options.queue_entries(4),
            Self::Room => {
                small(options).reserve_bytes(4_096).log_segment_bytes(64 << 10).log_bytes(192 << 10)
            }
            Self::Nothing => options,
        }
    }
}

type Work = fn(&Caller);

struct Caller {
    is_task: bool,
    number: usize,
    scope: Scope,
    leased: Scope,
    watchdog: Arc<Watchdog>,
}

impl Caller {
    fn begin(&self, scope: &Scope, key: &str) -> Result<Begin, BeginError> {
        if self.is_task { block_on(scope.begin_async(key, request())) } else { scope.begin(key, request()) }
    }

    /// A claim, where there is one to be had; `None` once the engine is closed.
    fn claim(&self, scope: &Scope, key: &str) -> Option<Result<Claim, Busy>> {
        let started = Instant::now();
        let begun = self.begin(scope, key);
        // For room in the log and for a place in the queue together.
        self.watchdog.saw("queue_timeout", started.elapsed(), PATIENCE + COMMIT);
        match begun {
            Ok(Begin::Fresh(claim)) => Some(Ok(claim)),
            Err(BeginError::Busy(busy)) => Some(Err(busy)),
            Err(BeginError::Closed) => None,
            other => panic!("{key}: {other:?}"),
        }
    }

    /// Keeps the engine busy.
    fn load(&self) {
        for n in 0.. {
            let claim = match self.claim(&self.scope, &format!("{}-{n}", self.number)) {
                Some(Ok(claim)) => claim,
                Some(Err(_)) => continue,
                None => return,
            };
            let ended = if self.is_task {
                block_on(claim.complete_async("reply")).map(drop)
            } else {
                claim.complete("reply").map(drop)
            };
            if ended.is_err() {
                return;
            }
        }
    }

    /// Waits for a claim that does not end.
    fn time_out(&self) {
        for n in 0..u64::MAX {
            let (started, timeout) = (Instant::now(), Duration::from_millis(5 + n % 25));
            let begun = if self.is_task {
                block_on(self.scope.begin_or_wait_async("held", request(), timeout))
            } else {
                self.scope.begin_or_wait("held", request(), timeout)
            };
            let Ok(Begin::InFlight(_)) = begun else { return };
            self.watchdog.saw("timeouts", started.elapsed(), timeout);
        }
    }

    /// Waits for the ends of leases.
    fn wait_for_leases(&self) {
        for n in 0.. {
            let key = format!("{}-{n}", self.number);
            let claim = match self.claim(&self.leased, &key) {
                Some(Ok(claim)) => claim,
                Some(Err(_)) => continue,
                None => return,
            };
            let Some(end) = claim.lease_until() else { panic!("it has a lease") };
            let pending = match self.begin(&self.leased, &key) {
                Ok(Begin::InFlight(pending)) => pending,
                // The lease was over by then.
                Ok(_) | Err(BeginError::Busy(_)) => continue,
                Err(_) => return,
            };
            let told = if self.is_task { block_on(pending.wait_async()) } else { pending.wait() };
            let Ok(Waited::Interrupted) = told else { return };
            self.watchdog.saw("leases", since(end), Duration::ZERO);
        }
    }
}

/// How long ago a time of the engine's was. The file is new, so its clock is the wall clock.
fn since(time: Timestamp) -> Duration {
    let time = time.to_system_time().unwrap();
    SystemTime::now().duration_since(time).unwrap_or_default()
}

/// Notes how long no key is swept, although some are always due.
fn watch_the_sweeper(engine: &Engine, watchdog: &Watchdog, is_closing: &AtomicBool) {
    let (mut swept, mut since) = (0, Instant::now());
    while !is_closing.load(Ordering::Relaxed) {
        let now = engine.stats().expired;
        if now > swept {
            watchdog.saw("sweeping", since.elapsed(), TTL + SWEEP);
            (swept, since) = (now, Instant::now());
        }
        thread::sleep(Duration::from_millis(2));
    }
    watchdog.saw("sweeping", since.elapsed(), TTL + SWEEP);
}

fn round(seed: u64, watchdog: &Arc<Watchdog>) {
    let scarce = Scarce::of(seed);
    let store_times = if scarce == Scarce::Room { STORE_TIMES } else { 1 };
    let (disk, slept) = slow_disk(seed, SYNC_MS, store_times);
    let engine = scarce.options().disk(&disk).open(FILE).unwrap();
    let scope = engine.scope("");
    let leased = engine.set_policy("leased", engine.policy().lease(LEASE)).unwrap();
    let held = fresh(&scope, "held");
    let works: [(usize, Work); 3] =
        [(LOAD, Caller::load), (WATCHERS, Caller::time_out), (WATCHERS, Caller::wait_for_leases)];
    let is_closing = AtomicBool::new(false);
    thread::scope(|threads| {
        for (count, work) in works {
            for number in 0..count {
                let (scope, leased) = (scope.clone(), leased.clone());
                // Where one is a task, the engine's own thread leads, and threads hardly hand
                // over.
                let is_task = scarce != Scarce::Nothing && number % 2 == 0;
                let caller = Caller { is_task, number, scope, leased, watchdog: Arc::clone(watchdog) };
                threads.spawn(move || work(&caller));
            }
        }
        if scarce == Scarce::Nothing {
            threads.spawn(|| watch_the_sweeper(&engine, watchdog, &is_closing));
        }
        thread::sleep(ROUND);
        is_closing.store(true, Ordering::Relaxed);
        let (before, started) = (slept.load(Ordering::Relaxed), Instant::now());
        engine.clone().close().unwrap();
        // Closing waits for the disk, and for nothing else: for a sync that was under way, and for
        // its own.
        let slept = slept.load(Ordering::Relaxed) - before + store_times * SYNC_MS;
        watchdog.saw("closing", started.elapsed(), Duration::from_millis(slept));
    });
    drop(held);
}

#[test]
fn no_promise_of_time_is_kept_late_on_a_slow_disk() {
    let mut budget = Budget::new("slow_disk::no_promise_of_time_is_kept_late", "rounds of 64 callers", 3);
    while let Some(seed) = budget.next_seed() {
        let watchdog = Arc::new(Watchdog::default());
        thread::scope(|threads| {
            threads.spawn(|| watchdog.watch_the_machine());
            let _over = Over(&watchdog);
            round(seed, &watchdog);
        });
        watchdog.check();
        let led = LED_BY_WORKER.swap(0, Ordering::Relaxed);
        println!("the worker wrote {led} groups one after the other at most");
        assert!(led <= WORKER_GROUPS_MAX, "the worker wrote {led} groups, and did nothing else");
        budget.count(1);
    }
}

thread_local! {
    /// Syncs made by this thread.
    static SYNCS: Cell<usize> = const { Cell::new(0) };
}

/// Takes places in a queue of one; gives the most groups that it wrote in one call.
fn compete(scope: &Scope, number: usize, is_over: &AtomicBool) -> usize {
    let mut most = 0;
    for n in 0.. {
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let before = SYNCS.get();
        let begun = scope.begin(format!("{number}-{n}"), request());
        most = most.max(SYNCS.get() - before);
        match begun {
            Ok(Begin::Fresh(claim)) => drop(claim.complete("reply").unwrap()),
            Err(BeginError::Busy(Busy::QueueFull { .. })) => {}
            other => panic!("{other:?}"),
        }
    }
    most
}

#[test]
fn a_begin_writes_few_groups_on_a_slow_disk() {
    let mut budget = Budget::new("slow_disk::a_begin_writes_few_groups", "rounds of rivals", 2);
    while budget.next_seed().is_some() {
        let disk = SimDisk::new();
        disk.before_syncs(|_| {
            SYNCS.set(SYNCS.get() + 1);
            // A leader hands over after each group.
            thread::sleep(Duration::from_millis(11));
        });
        let options = Engine::options().queue_timeout(10 * PATIENCE).queue_entries(1);
        let engine = options.disk(&disk).open(FILE).unwrap();
        let (scope, is_over) = (&engine.scope(""), &AtomicBool::new(false));
        let most = thread::scope(|threads| {
            let rivals: Vec<_> =
                (0..RIVALS).map(|number| threads.spawn(move || compete(scope, number, is_over))).collect();
            thread::sleep(ROUND);
            is_over.store(true, Ordering::Relaxed);
            rivals.into_iter().map(|rival| rival.join().unwrap()).max()
        });
        println!("{most:?}");
        // One or a few for its place, beside ends of claims that need none; one with its own
        // entry.
        assert!(most <= Some(10), "a begin wrote {most:?} groups");
        engine.close().unwrap();
        budget.count(1);
    }
}
