//! Lifecycles that survive: a key claimed durably, then completed durably, with so many in flight;
//! beside stores, and beside the disk.
//!
//! The limit is a bare loop that appends and syncs the groups that the engine committed, each of
//! their mean size, into a file of written zeros. All take turns, so that the machine's moods hit
//! all of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use idemkv::{Begin, Engine};
use serde_json::{Value, json};

use crate::figures::Spread;
use crate::fill::{REQUEST, body};
use crate::keys::{as_str, key};
use crate::options::Options;
use crate::plot::Plot;
use crate::store::{STORES, Session, Store};

const IN_FLIGHT: [usize; 4] = [1, 64, 256, 1_024];
const ROUNDS: usize = 5;
const WINDOW: Duration = Duration::from_millis(600);
/// Before every window, until all are on their way.
const PAUSE: Duration = Duration::from_millis(150);
const STACK: usize = 256 << 10;
/// With more in flight only tasks are measured: so many threads measure the scheduler.
const THREADS_MAX: usize = 2_000;
static NEXT: AtomicU64 = AtomicU64::new(0);

pub(crate) fn run(options: &Options) {
    let scratch = options.scratch();
    let stores =
        STORES.iter().filter(|(name, _)| options.wants(name)).filter_map(|(name, open)| {
            match open(scratch.path()).inspect(|store| check(store.as_ref())) {
                Ok(store) => Some((*name, store)),
                Err(why) => {
                    println!("SKIPPED: {name}: {why}");
                    None
                }
            }
        });
    let stores: Vec<_> = stores.collect();
    println!("lifecycles (claim and complete, both durable) a second: median, least .. greatest");
    let mut plot = Plot::new("Durable lifecycles a second");
    let mut rows = Vec::new();
    for in_flight in options.sizes_or(&IN_FLIGHT) {
        let row = Row::measure(options, scratch.path(), &stores, in_flight);
        plot.group(format!("{in_flight} in flight"), row.bars());
        rows.push(row.json());
    }
    plot.write(if options.tmpfs { "durable-tmpfs" } else { "durable" });
    println!("{}", json!({ "durable": rows, "tmpfs": options.tmpfs }));
}

/// One number in flight: lifecycles a second of each.
struct Row {
    in_flight: usize,
    subjects: Vec<Subject>,
}

struct Subject {
    name: &'static str,
    per_second: Vec<f64>,
    /// Of the engine: its share of what the bare loop does with the same groups.
    of_limit: Vec<f64>,
}

/// How the engine is called.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Threads,
    Tasks,
    /// Two threads, each with half of them at a time.
    Batches,
}

impl Row {
    fn measure(
        options: &Options,
        dir: &Path,
        stores: &[(&'static str, Box<dyn Store>)],
        in_flight: usize,
    ) -> Self {
        let engine = Engine::open(dir.join(format!("{in_flight}.idem"))).expect("the engine opens");
        let bare = Bare::new(&dir.join("bare"));
        let window = options.time_or(WINDOW);
        let mut kinds = vec![("idemkv tasks", Kind::Tasks)];
        if in_flight <= THREADS_MAX {
            kinds.insert(0, ("idemkv threads", Kind::Threads));
        }
        if in_flight > 1 {
            kinds.push(("idemkv batches", Kind::Batches));
        }
        let names = kinds.iter().map(|(name, _)| *name).chain(stores.iter().map(|(name, _)| *name));
        let mut subjects: Vec<_> =
            names.map(|name| Subject { name, per_second: Vec::new(), of_limit: Vec::new() }).collect();
        // The first window of each grows its log, and is not counted.
        for round in 0..=options.rounds_or(ROUNDS) {
            let mut figures = subjects.iter_mut();
            for ((_, kind), subject) in kinds.iter().zip(figures.by_ref()) {
                let before = engine.stats();
                let run = run_engine(&engine, *kind, in_flight, window);
                let after = engine.stats();
                let (groups, bytes) =
                    (after.commits - before.commits, after.committed_bytes - before.committed_bytes);
                let limit = bare.append(groups, bytes / groups.max(1));
                if round > 0 {
                    subject.per_second.push(run.per_second());
                    subject.of_limit.push(limit.as_secs_f64() / run.all_took.as_secs_f64());
                }
            }
            for ((_, store), subject) in stores.iter().zip(figures) {
                let threads = in_flight.min(store.sessions_max()).min(THREADS_MAX);
                let run = run_threads(
                    threads,
                    window,
                    || store.session().expect("a session"),
                    |session| lifecycle(session.as_mut()),
                );
                if round > 0 {
                    subject.per_second.push(run.per_second());
                }
            }
        }
        engine.close().expect("the engine closes");
        std::fs::remove_file(dir.join("bare")).expect("the file is there");
        let row = Self { in_flight, subjects };
        row.print();
        row
    }

    fn print(&self) {
        println!("{} in flight", self.in_flight);
        for subject in &self.subjects {
            let speed = subject.speed();
            print!("{:>16} {:>10.0} ({:.0} .. {:.0})", subject.name, speed.median, speed.min, speed.max);
            match subject.limit() {
                Some(share) => {
                    println!("   {:.2} of the limit ({:.2} .. {:.2})", share.median, share.min, share.max)
                }
                None => println!("   ours to it: {:.2}", self.best_of_ours() / speed.median),
            }
        }
    }

    fn best_of_ours(&self) -> f64 {
        let ours = self.subjects.iter().filter(|subject| !subject.of_limit.is_empty());
        ours.map(|subject| subject.speed().median).fold(0.0, f64::max)
    }

    fn bars(&self) -> Vec<(String, f64)> {
        self.subjects.iter().map(|subject| (subject.name.to_owned(), subject.speed().median)).collect()
    }

    fn json(&self) -> Value {
        let theirs = self.subjects.iter().filter(|subject| subject.of_limit.is_empty());
        let best = theirs.map(|subject| subject.speed().median).max_by(f64::total_cmp);
        let subjects: serde_json::Map<_, _> = self
            .subjects
            .iter()
            .map(|subject| {
                let figure = json!({ "per_second": subject.speed().json(), "of_limit": subject.limit().map(Spread::json) });
                (subject.name.to_owned(), figure)
            })
            .collect();
        json!({
            "in_flight": self.in_flight, "subjects": subjects,
            "ours_to_best_store": best.map(|best| self.best_of_ours() / best),
        })
    }
}

impl Subject {
    fn speed(&self) -> Spread {
        Spread::of(self.per_second.iter().copied())
    }

    fn limit(&self) -> Option<Spread> {
        (!self.of_limit.is_empty()).then(|| Spread::of(self.of_limit.iter().copied()))
    }
}

/// What went on in the window in the middle of a run, and how long the whole run took.
struct Run {
    done: u64,
    took: Duration,
    all_took: Duration,
}

impl Run {
    fn per_second(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64()
    }
}

/// A new key, and the body of its completion.
fn next() -> ([u8; 36], &'static [u8]) {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    (key(number), body(number))
}

fn lifecycle(session: &mut dyn Session) {
    let (key, body) = next();
    assert!(session.claim(as_str(&key)).expect("a store at rest claims"), "a new key was there");
    session.complete(as_str(&key), body).expect("a store at rest completes");
}

/// That a store does the job at all.
fn check(store: &dyn Store) {
    let mut session = store.session().expect("a session");
    let (key, body) = next();
    let key = as_str(&key);
    assert!(session.claim(key).expect("a claim"), "a new key was there");
    assert!(!session.claim(key).expect("a second claim"), "a key was claimed twice");
    session.complete(key, body).expect("a completion");
    assert_eq!(session.replay(key).expect("a replay").as_deref(), Some(body));
}

fn run_engine(engine: &Engine, kind: Kind, in_flight: usize, window: Duration) -> Run {
    if kind == Kind::Threads {
        return run_threads(
            in_flight,
            window,
            || (),
            |()| {
                let (key, body) = next();
                match engine.default_scope().begin(as_str(&key), REQUEST).expect("an engine at rest grants") {
                    Begin::Fresh(claim) => drop(claim.complete(body).expect("a granted claim completes")),
                    other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
                }
            },
        );
    }
    if kind == Kind::Batches {
        return timed(2, window, |goes_on, count| {
            while goes_on() {
                batch(engine, in_flight / 2);
                (0..in_flight / 2).for_each(|_| count());
            }
        });
    }
    timed(1, window, |goes_on, count| {
        let task = async || {
            while goes_on() {
                let (key, body) = next();
                match engine
                    .default_scope()
                    .begin_async(as_str(&key), REQUEST)
                    .await
                    .expect("an engine at rest grants")
                {
                    Begin::Fresh(claim) => {
                        drop(claim.complete_async(body).await.expect("a granted claim completes"))
                    }
                    other @ (Begin::InFlight(_) | Begin::Done(_)) => panic!("a new key was {other:?}"),
                }
                count();
            }
        };
        let tasks: FuturesUnordered<_> = (0..in_flight).map(|_| task()).collect();
        block_on(tasks.collect::<()>());
    })
}

fn batch(engine: &Engine, size: usize) {
    let (keys, bodies): (Vec<_>, Vec<_>) = (0..size).map(|_| next()).unzip();
    let requests: Vec<_> = keys.iter().map(|key| (as_str(key), REQUEST)).collect();
    let claims = engine.default_scope().begin_many(&requests).into_iter().map(|begun| match begun {
        Ok(Begin::Fresh(claim)) => claim,
        other => panic!("a new key was {other:?}"),
    });
    let ended = engine.complete_many(claims.zip(bodies).collect());
    assert!(ended.iter().all(Result::is_ok), "a granted claim completes");
}

fn run_threads<S>(
    threads: usize,
    window: Duration,
    session: impl Fn() -> S + Sync,
    lifecycle: impl Fn(&mut S) + Sync,
) -> Run {
    timed(threads, window, |goes_on, count| {
        let mut session = session();
        while goes_on() {
            lifecycle(&mut session);
            count();
        }
    })
}

/// Runs so many threads, which are told whether to go on, and count what they did.
fn timed(threads: usize, window: Duration, work: impl Fn(&dyn Fn() -> bool, &dyn Fn()) + Sync) -> Run {
    let (done, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    let start = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let thread = || {
            start.wait();
            work(&|| !stop.load(Ordering::Relaxed), &|| {
                done.fetch_add(1, Ordering::Relaxed);
            });
        };
        let started: Vec<_> = (0..threads)
            .map(|_| {
                thread::Builder::new().stack_size(STACK).spawn_scoped(scope, thread).expect("a thread starts")
            })
            .collect();
        start.wait();
        let all = Instant::now();
        thread::sleep(PAUSE);
        let (begun, first) = (Instant::now(), done.load(Ordering::Relaxed));
        thread::sleep(window);
        let (took, last) = (begun.elapsed(), done.load(Ordering::Relaxed));
        stop.store(true, Ordering::Relaxed);
        started.into_iter().for_each(|thread| thread.join().expect("no lifecycle fails"));
        Run { done: last - first, took, all_took: all.elapsed() }
    })
}

/// The disk with nothing in front of it.
struct Bare {
    file: File,
}

impl Bare {
    const FILE: usize = 64 << 20;
    /// What a frame of the log has in front of its entries, and what it is padded to.
    const HEADER: usize = 48;
    const SECTOR: usize = 512;

    fn new(path: &Path) -> Self {
        let file = File::create_new(path).expect("a file");
        file.write_all_at(&vec![0; Self::FILE], 0).expect("room for it");
        file.sync_all().expect("a sync");
        Self { file }
    }

    /// Appends and syncs so many groups of so many bytes; gives the time.
    fn append(&self, groups: u64, bytes: u64) -> Duration {
        let frame = vec![b'x'; (Self::HEADER + bytes as usize).next_multiple_of(Self::SECTOR)];
        let mut at = 0;
        let started = Instant::now();
        for _ in 0..groups {
            if at + frame.len() > Self::FILE {
                at = 0;
            }
            self.file.write_all_at(&frame, at as u64).expect("a write");
            self.file.sync_data().expect("a sync");
            at += frame.len();
        }
        started.elapsed()
    }
}
