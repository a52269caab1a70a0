//! What an engine costs in an hour, and how late its promises of time are, by the length of its
//! file and what the service does.
//!
//! ```text
//! cargo bench --bench long_lives                # files of 0.1 and 1 GB
//! cargo bench --bench long_lives -- 0.1 1 10    # files of so many GB, each of which is removed again
//! cargo bench --bench long_lives -- hour 1      # a real hour with a file of 1 GB, one key a minute, each for 20 minutes
//! ```
//!
//! Each file is filled by one process and each row measured by another, so that memory is the
//! row's own. Bytes and processor are counted by the kernel (`/proc/self/io`, `schedstat` of the
//! engine's threads), so this runs on Linux alone. A window of 20 s is measured, of a minute for
//! one key a minute, with nothing due. An hour is reckoned from it: the window's bytes, and the
//! commits for expiry that an hour may have at most, each as costly as one that was measured.
//! Lateness is measured for another 20 s, under the same load and with a checkpoint each second.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that can't go on stops")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    reason = "figures to look at"
)]
#![allow(clippy::print_stdout, reason = "that is what it is for")]
#![allow(clippy::wildcard_enum_match_arm, reason = "anything else stops it")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use common::{REQUEST, key, open_to_fill, scratch};
use idemkv::{Begin, Engine, Policy, Scope, Waited};

mod common;

const GB: f64 = 1e9;
const BODY: [u8; 4_000] = [b'x'; 4_000];
const SHORT: usize = 150;
const WINDOW: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_millis(20);
const LOADS: [(&str, u64); 4] =
    [("idle", 0), ("one a minute", 1), ("one a second", 60), ("10,000 a second", 600_000)];

fn main() {
    let words: Vec<String> = env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["fill", path, bytes] => fill(Path::new(path), bytes.parse().unwrap()),
        ["measure", path, load] => measure(Path::new(path), load.parse().unwrap()),
        ["hour", size] => hour(size.parse().unwrap()),
        _ => all(&words),
    }
}

fn all(words: &[String]) {
    let sizes = if words.is_empty() {
        vec![0.1, 1.0]
    } else {
        words.iter().map(|word| word.parse().unwrap()).collect()
    };
    println!(
        "| file | service | bytes an hour | of them commits for expiry | engine's threads | memory (cache and page cache may take) \
         | opened in | latest: a thread that only sleeps | deadline | lease | claim and completion p50, p99.9, longest | close |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let scratch = scratch();
    for size in sizes {
        let path = scratch.path().join("x.idem");
        again(&["fill", path.to_str().unwrap(), &((size * GB) as u64).to_string()]);
        for load in 0..LOADS.len() {
            again(&["measure", path.to_str().unwrap(), &load.to_string()]);
        }
        for file in fs::read_dir(scratch.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
    }
}

fn again(words: &[&str]) {
    assert!(Command::new(env::current_exe().unwrap()).args(words).status().unwrap().success());
}

fn fill(path: &Path, bytes: u64) {
    let engine = open_to_fill(path, 1 << 20);
    let keys = bytes / (BODY.len() as u64 + 200);
    common::fill(&engine, 0..keys, |_| &BODY);
    engine.close().unwrap();
}

/// What the kernel has counted for this process: bytes that it wrote, and time of the engine's
/// threads.
#[derive(Clone, Copy)]
struct Counts {
    at: Instant,
    written: u64,
    threads: Duration,
}

impl Counts {
    fn now() -> Self {
        let io = fs::read_to_string("/proc/self/io").unwrap();
        let written = io.lines().find_map(|line| line.strip_prefix("wchar: ")).unwrap().parse().unwrap();
        let mut threads = Duration::ZERO;
        for task in fs::read_dir("/proc/self/task").unwrap() {
            let task: PathBuf = task.unwrap().path();
            // It may have ended.
            let name = fs::read_to_string(task.join("comm")).unwrap_or_default();
            if name.starts_with("idemkv-") {
                let ran = fs::read_to_string(task.join("schedstat")).unwrap_or_default();
                let nanos = ran.split(' ').next().and_then(|nanos| nanos.parse().ok()).unwrap_or(0);
                threads += Duration::from_nanos(nanos);
            }
        }
        Self { at: Instant::now(), written, threads }
    }
}

/// Memory of this process in MB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.parse().ok())
        .unwrap();
    kib / 1_000
}

/// A service that completes so many keys a minute.
struct Service<'e> {
    engine: &'e Engine,
    scope: Scope,
    a_minute: u64,
    next: AtomicU64,
    is_over: AtomicBool,
}

impl Service<'_> {
    /// Gives how long claims and their completions took.
    fn run(&self) -> Vec<Duration> {
        let mut times = Vec::new();
        if self.a_minute == 0 {
            return times;
        }
        // Many keys come as batches, ten thousand a second as a batch each 10 ms.
        let batch = (self.a_minute / 6_000).max(1);
        let every = Duration::from_secs(60).mul_f64(batch as f64 / self.a_minute as f64);
        let mut due = Instant::now();
        while !self.is_over.load(Ordering::Acquire) {
            let first = self.next.fetch_add(batch, Ordering::Relaxed);
            let started = Instant::now();
            let requests: Vec<_> = (first..first + batch).map(|number| (key(number), REQUEST)).collect();
            let claims = self.scope.begin_many(&requests).into_iter().map(|begun| match begun.unwrap() {
                Begin::Fresh(claim) => (claim, &BODY[..SHORT]),
                other => panic!("a new key was {other:?}"),
            });
            assert!(self.engine.complete_many(claims.collect()).iter().all(Result::is_ok));
            times.push(started.elapsed());
            due = (due + every).max(Instant::now().checked_sub(every).unwrap());
            while Instant::now() < due && !self.is_over.load(Ordering::Acquire) {
                thread::sleep((due - Instant::now().min(due)).min(Duration::from_millis(100)));
            }
        }
        times
    }
}

/// How late each was, at most.
#[derive(Default)]
struct Late {
    machine: Duration,
    deadline: Duration,
    lease: Duration,
}

/// What a waiting thread is told, and when, until `until`.
fn lateness(engine: &Engine, until: Instant) -> Late {
    let leased = engine.set_policy("leased", Policy::default().lease(LEASE)).unwrap();
    let scope = engine.scope("held");
    let name = format!("held {:?}", Instant::now());
    let Begin::Fresh(held) = scope.begin(&name, REQUEST).unwrap() else { panic!("a new key") };
    let late = thread::scope(|threads| {
        let machine = threads.spawn(|| {
            let mut most = Duration::ZERO;
            while Instant::now() < until {
                let started = Instant::now();
                thread::sleep(PATIENCE);
                most = most.max(started.elapsed().saturating_sub(PATIENCE));
            }
            most
        });
        let deadline = threads.spawn(|| {
            let mut most = Duration::ZERO;
            while Instant::now() < until {
                let Begin::InFlight(pending) = scope.begin(&name, REQUEST).unwrap() else {
                    panic!("it is held")
                };
                let started = Instant::now();
                drop(pending.wait_timeout(PATIENCE).unwrap());
                most = most.max(started.elapsed().saturating_sub(PATIENCE));
            }
            most
        });
        let lease = threads.spawn(|| {
            let mut most = Duration::ZERO;
            for n in 0.. {
                if Instant::now() >= until {
                    break;
                }
                let name = format!("{name} {n}");
                let Begin::Fresh(claim) = leased.begin(&name, REQUEST).unwrap() else { panic!("a new key") };
                let granted = Instant::now();
                let Begin::InFlight(pending) = leased.begin(&name, REQUEST).unwrap() else {
                    panic!("it is held")
                };
                let told = pending.wait().unwrap();
                assert!(matches!(told, Waited::Interrupted), "{told:?}");
                most = most.max(granted.elapsed().saturating_sub(LEASE));
                drop(claim);
            }
            most
        });
        Late {
            machine: machine.join().unwrap(),
            deadline: deadline.join().unwrap(),
            lease: lease.join().unwrap(),
        }
    });
    held.release().unwrap();
    late
}

fn measure(path: &Path, load: usize) {
    let (name, a_minute) = LOADS[load];
    let started = Instant::now();
    let engine = Engine::open(path).unwrap();
    let opened = started.elapsed();
    let file = engine.stats().file_bytes;
    let first = (1 << 40) * (load as u64 + 1);
    let scope = engine.scope("");
    let (next, is_over) = (AtomicU64::new(first), AtomicBool::new(false));
    let service = Service { engine: &engine, scope, a_minute, next, is_over };
    let (counts, commit, late, times) = thread::scope(|threads| {
        let times = threads.spawn(|| service.run());
        // What the opening has left for later.
        thread::sleep(Duration::from_secs(2));
        let before = Counts::now();
        thread::sleep(if a_minute == 1 { 3 * WINDOW } else { WINDOW });
        let after = Counts::now();
        let commits = 5;
        let start = Counts::now().written;
        if load == 0 {
            (0..commits).for_each(|_| engine.checkpoint().unwrap());
        }
        let commit = (Counts::now().written - start) / commits;
        let until = Instant::now() + WINDOW;
        let late = thread::scope(|threads| {
            threads.spawn(|| {
                while Instant::now() < until {
                    engine.checkpoint().unwrap();
                    thread::sleep(Duration::from_secs(1));
                }
            });
            lateness(&engine, until)
        });
        service.is_over.store(true, Ordering::Release);
        ((before, after), commit, late, times.join().unwrap())
    });
    let memory = memory();
    let keys = engine.stats().entries;
    let started = Instant::now();
    engine.close().unwrap();
    let closed = started.elapsed();
    // The commits of the idle engine are those that are reckoned with in every row of its file.
    let noted = path.with_extension("commit");
    if load == 0 {
        fs::write(&noted, commit.to_string()).unwrap();
    }
    let commit: u64 = fs::read_to_string(&noted).unwrap().parse().unwrap();
    let (before, after) = counts;
    let window = after.at - before.at;
    let hours = window.as_secs_f64() / 3_600.0;
    // Ten minutes apart, in a file over 21 GB longer.
    let expiry = 6.0 * commit as f64;
    let bytes = (after.written - before.written) as f64 / hours + expiry;
    let share = after.threads.saturating_sub(before.threads).as_secs_f64() / window.as_secs_f64() * 100.0;
    let cached = 64 + (file / 128).clamp(32 << 20, 64 << 20) / 1_000_000;
    println!(
        "| {:.1} GB | {name} | {:.2} MB | {:.2} MB | {share:.2} % | {memory} MB ({cached} and {} a key) | {opened:.1?} | {:.1?} | {:.1?} | {:.1?} | {} | {closed:.1?} |",
        file as f64 / GB,
        bytes / 1e6,
        expiry / 1e6,
        (memory.saturating_sub(cached) * 1_000_000) / keys as u64,
        late.machine,
        late.deadline,
        late.lease,
        spread(times),
    );
}

/// Nothing is reckoned here: an hour passes, in which keys come and fall due.
fn hour(size: f64) {
    let scratch = scratch();
    let path = scratch.path().join("x.idem");
    again(&["fill", path.to_str().unwrap(), &((size * GB) as u64).to_string()]);
    let engine = Engine::open(&path).unwrap();
    let scope = engine.set_policy("short", Policy::default().ttl(Duration::from_secs(20 * 60))).unwrap();
    let (next, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    let service = Service { engine: &engine, scope, a_minute: 1, next, is_over };
    thread::scope(|threads| {
        threads.spawn(|| service.run());
        let (before, started) = (Counts::now(), engine.stats());
        for minutes in (10..=60).step_by(10) {
            thread::sleep(Duration::from_secs(600));
            let (now, stats) = (Counts::now(), engine.stats());
            println!(
                "after {minutes} minutes: {:.3} MB written, {} commits of the store, {} frames of the log, {:.3} % of a core",
                (now.written - before.written) as f64 / 1e6,
                stats.checkpoints - started.checkpoints,
                stats.commits - started.commits,
                now.threads.saturating_sub(before.threads).as_secs_f64() / (now.at - before.at).as_secs_f64()
                    * 100.0,
            );
        }
        service.is_over.store(true, Ordering::Release);
    });
    engine.close().unwrap();
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at =
        |share: usize| times.get(times.len().saturating_sub(1) * share / 1_000).copied().unwrap_or_default();
    format!("{:.2?}, {:.2?}, {:.2?}", at(500), at(999), at(1_000))
}
