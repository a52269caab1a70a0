//! The process that is tormented: it begins keys and ends claims, and says on a pipe what it does,
//! each line with one write, so that what it said survives it.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use idemkv::{Begin, BeginError, Claim, Engine, Outcome, Record, ResolveError, Scope, Status, Waited};

use crate::{FILE_VARIABLE, ORDER_VARIABLE, Order, Random, body_of, is_forgettable, request_of, sum_of};

const THREADS: u64 = 4;

/// The end of the pipe to the oracle. A line is one write, so it arrives whole or not at all.
struct Pipe {
    file: File,
    said: AtomicU64,
    lines_max: u64,
}

impl Pipe {
    fn new(lines_max: u64) -> Self {
        let file = File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap());
        Self { file, said: AtomicU64::new(0), lines_max }
    }

    fn say(&self, line: &str) {
        let line = format!("\n@{line}\n");
        let written = (&self.file).write(line.as_bytes()).unwrap();
        assert_eq!(written, line.len());
        if self.said.fetch_add(1, Ordering::Relaxed) + 1 == self.lines_max {
            std::process::abort();
        }
    }
}

struct Worker {
    pipe: Pipe,
    engine: Engine,
    scopes: [Scope; 2],
    order: Order,
}

impl Worker {
    fn open(path: &Path, order: Order) -> Self {
        let pipe = Pipe::new(order.lines_max);
        let engine = match order.options().open(path) {
            Ok(engine) => engine,
            Err(error) => {
                pipe.say(&format!("! opening: {error}"));
                panic!("{error}");
            }
        };
        let scopes = [engine.scope(""), engine.scope("other")];
        Self { pipe, engine, scopes, order }
    }

    fn scope(&self, key: u64) -> &Scope {
        &self.scopes[usize::try_from(key % 2).unwrap()]
    }

    /// Tells of everything that the file holds.
    fn walk(&self) {
        for entry in self.engine.entries() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return self.pipe.say(&format!("! walking: {error}")),
            };
            let key: u64 = std::str::from_utf8(entry.key()).unwrap().parse().unwrap();
            let place_is_right = entry.scope() == self.scope(key).name();
            let status = match entry.status() {
                Status::Done(record) => format!("done {}", told(record)),
                Status::Interrupted(earlier) => format!("open {} {}", earlier.fence(), earlier.attempt()),
                other => format!("! {key} is {other:?}"),
            };
            match place_is_right && !status.starts_with('!') {
                true => self.pipe.say(&format!("walked {key} {status}")),
                false => self.pipe.say(&format!("! {key} in {:?}: {status}", entry.scope())),
            }
        }
        self.pipe.say("opened");
    }

    /// Begins keys and ends claims, until the kill.
    fn work(&self, thread: u64) {
        let mut random = Random(self.order.seed ^ thread << 32);
        for turn in 1_u64.. {
            let key = self.choose(&mut random);
            self.pipe.say(&format!("begin {key}"));
            match self.scope(key).begin(key.to_string(), request_of(key)) {
                Ok(Begin::Fresh(claim)) => self.end(key, claim, &mut random),
                Ok(Begin::InFlight(pending)) => match pending.wait_timeout(Duration::from_millis(2)) {
                    Ok(Waited::Done(record)) => self.pipe.say(&format!("replay {key} {}", told(&record))),
                    Ok(Waited::Vacant | Waited::Interrupted | Waited::TimedOut) => {
                        self.pipe.say(&format!("refused {key}"));
                    }
                    Err(error) => self.pipe.say(&format!("! waiting: {error}")),
                },
                Ok(Begin::Done(record)) => {
                    self.pipe.say(&format!("replay {key} {}", told(&record)));
                    if is_forgettable(key) && random.below(2) == 0 {
                        self.forget(key, thread);
                    }
                }
                Err(BeginError::Unresolved(_)) => match self.scope(key).resolve(key.to_string()) {
                    Ok(claim) => self.end(key, claim, &mut random),
                    Err(ResolveError::NotInterrupted(_) | ResolveError::Begin(BeginError::Busy(_))) => {
                        self.pipe.say(&format!("refused {key}"));
                    }
                    Err(error) => self.pipe.say(&format!("! resolve: {error}")),
                },
                Err(BeginError::Busy(_)) => self.pipe.say(&format!("refused {key}")),
                Err(error) => self.pipe.say(&format!("! begin: {error}")),
            }
            if turn % 16 == 0 && thread == 0 {
                let stats = self.engine.stats();
                self.pipe.say(&format!("stats {} {}", stats.checkpoints, stats.log_bytes));
            }
        }
    }

    /// New keys in every life, few enough that threads meet; forgettable ones, which never run
    /// out; and any.
    fn choose(&self, random: &mut Random) -> u64 {
        match random.below(4) {
            0 | 1 => self.order.life * 150 + random.below(300),
            2 => random.below(40) * 4 + 3,
            _ => random.below(self.order.life * 150 + 300),
        }
    }

    fn end(&self, key: u64, claim: Claim, random: &mut Random) {
        let fence = claim.fence();
        let (earlier_fence, earlier_attempt) =
            claim.interrupted().map_or((0, 0), |earlier| (earlier.fence().get(), earlier.attempt()));
        let attempt = claim.attempt();
        self.pipe.say(&format!("granted {key} {fence} {attempt} {earlier_fence} {earlier_attempt}"));
        (0..random.below(3)).for_each(|_| thread::yield_now());
        let body = body_of(key, fence.get());
        let ended = match random.below(16) {
            0 | 1 => {
                self.pipe.say(&format!("drop {key} {fence}"));
                return drop(claim);
            }
            // What a release after an interruption leaves is the simulated disk's to check.
            2 | 3 if claim.interrupted().is_none() => {
                self.pipe.say(&format!("release {key} {fence}"));
                claim.release().map(|()| format!("released {key} {fence}"))
            }
            choice => {
                let fails = choice < 6;
                self.pipe.say(&format!("end {key} {fence} {}", if fails { "failure" } else { "success" }));
                let record = if fails { claim.fail(&body) } else { claim.complete(&body) };
                record.map(|record| format!("done {key} {}", told(&record)))
            }
        };
        match ended {
            Ok(line) => self.pipe.say(&line),
            // The claim that comes back is dropped, which the oracle allows for.
            Err(error) if error.is_retryable() => {}
            Err(error) => self.pipe.say(&format!("! ending: {error}")),
        }
    }

    fn forget(&self, key: u64, thread: u64) {
        self.pipe.say(&format!("forget {key} {thread}"));
        let gone = self.scope(key).forget(key.to_string()).unwrap_or(false);
        self.pipe.say(&format!("forgot {key} {thread} {gone}"));
    }
}

fn told(record: &Record) -> String {
    let outcome = match record.outcome() {
        Outcome::Success => "success",
        Outcome::Failure => "failure",
    };
    format!("{} {} {outcome} {}", record.fence(), record.attempt(), sum_of(record.body()))
}

/// Not a test: the process that is killed. Returns at once where nobody ordered one.
#[test]
fn process() {
    let (Some(path), Ok(order)) = (std::env::var_os(FILE_VARIABLE), std::env::var(ORDER_VARIABLE)) else {
        return;
    };
    let worker = Worker::open(Path::new(&path), Order::from_text(&order));
    worker.walk();
    if worker.order.walk_only {
        let closed = worker.engine.clone().close();
        return worker.pipe.say(&format!("closed {}", closed.unwrap().claims_left));
    }
    thread::scope(|scope| {
        for number in 0..THREADS {
            let worker = &worker;
            scope.spawn(move || worker.work(number));
        }
    });
}
