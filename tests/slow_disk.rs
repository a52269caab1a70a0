//! Promises of time on a slow disk: 64 callers, real threads, syncs that take 1 to 20 ms, and a watchdog that looks how late each
//! promise is kept. None may be more than 100 ms late: timeouts, ends of leases, `patience`, closing.
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

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use common::budget::Budget;
use common::{fresh, request, small};
use futures_executor::block_on;
use idemkv::sim::SimDisk;
use idemkv::{Begin, BeginError, Busy, Claim, Engine, Options, Recovery, Scope, Timestamp, Waited};

const SYNC_MS: u64 = 20;
const PATIENCE: Duration = Duration::from_millis(200);
const LEASE: Duration = Duration::from_millis(40);
const LATE_MAX: Duration = Duration::from_millis(100);
/// What a commit may take once it is queued: one that is being written, the groups in front, its own.
const COMMIT: Duration = Duration::from_millis(5 * SYNC_MS);
const ROUND: Duration = Duration::from_millis(700);
const LOAD: usize = 56;
const WATCHERS: usize = 4;

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

    /// A machine that has more to do than it can wakes everybody late. Being told takes up to three threads one after the other.
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

/// A disk whose syncs take their time; counts them.
fn slow_disk(seed: u64) -> (SimDisk, Arc<AtomicU64>) {
    let (disk, syncs) = (SimDisk::new(), Arc::new(AtomicU64::new(0)));
    let (counted, random) = (Arc::clone(&syncs), AtomicU64::new(seed));
    disk.before_syncs(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        let drawn =
            random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        thread::sleep(Duration::from_millis(1 + (drawn >> 33) % SYNC_MS));
    });
    (disk, syncs)
}

/// A queue of few places, a log that is always full, or neither.
fn options(seed: u64) -> Options {
    let options = Engine::options().patience(PATIENCE).recovery(Recovery::Rerun);
    match seed % 3 {
        0 => options.queue_entries(4),
        1 => small(options).reserve_bytes(4_096).log_segment_bytes(64 << 10).log_bytes(192 << 10),
        _ => options,
    }
}

type Work = fn(&Caller);

struct Caller {
    number: usize,
    scope: Scope,
    leased: Scope,
    watchdog: Arc<Watchdog>,
}

impl Caller {
    fn is_task(&self) -> bool {
        self.number.is_multiple_of(2)
    }

    fn begin(&self, scope: &Scope, key: &str) -> Result<Begin, BeginError> {
        if self.is_task() { block_on(scope.begin_async(key, request())) } else { scope.begin(key, request()) }
    }

    /// A claim, where there is one to be had; `None` once the engine is closed.
    fn claim(&self, scope: &Scope, key: &str) -> Option<Result<Claim, Busy>> {
        let started = Instant::now();
        let begun = self.begin(scope, key);
        // For room in the log and for a place in the queue together.
        self.watchdog.saw("patience", started.elapsed(), PATIENCE + COMMIT);
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
            let ended = if self.is_task() {
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
            let begun = if self.is_task() {
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
            let told = if self.is_task() { block_on(pending.wait_async()) } else { pending.wait() };
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

fn round(seed: u64, watchdog: &Arc<Watchdog>) {
    let (disk, syncs) = slow_disk(seed);
    let engine = options(seed).disk(&disk).open("x.idem").unwrap();
    let scope = engine.scope("");
    let leased = engine.declare("leased", engine.policy().lease(LEASE)).unwrap();
    let held = fresh(&scope, "held");
    let works: [(usize, Work); 3] =
        [(LOAD, Caller::load), (WATCHERS, Caller::time_out), (WATCHERS, Caller::wait_for_leases)];
    thread::scope(|threads| {
        for (count, work) in works {
            for number in 0..count {
                let (scope, leased) = (scope.clone(), leased.clone());
                let caller = Caller { number, scope, leased, watchdog: Arc::clone(watchdog) };
                threads.spawn(move || work(&caller));
            }
        }
        thread::sleep(ROUND);
        let (before, started) = (syncs.load(Ordering::Relaxed), Instant::now());
        engine.close().unwrap();
        // Closing waits for the disk, and for nothing else.
        let synced = u32::try_from(syncs.load(Ordering::Relaxed) - before + 1).unwrap();
        watchdog.saw("closing", started.elapsed(), synced * Duration::from_millis(SYNC_MS));
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
            round(seed, &watchdog);
            watchdog.is_over.store(true, Ordering::Relaxed);
        });
        watchdog.check();
        budget.count(1);
    }
}
