//! A real process is killed at random moments, again and again, with an oracle outside it: nothing acknowledged is lost, and
//! nothing is granted twice without the claim saying so.
//!
//! The test runs this very binary again as a worker. The worker says on a pipe what it is about to do and what was answered,
//! each line with one write, so that what it said survives it. Of every key the oracle knows what may be durable, and a walk
//! over the file at the start of each life must show nothing else.
#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::format_collect,
    clippy::pedantic,
    clippy::wildcard_enum_match_arm,
    clippy::print_stdout,
    clippy::match_bool,
    clippy::unnecessary_wraps,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::Duration;

use idemkv::{
    Begin, BeginError, Claim, Engine, Fingerprint, Options, Outcome, Record, Scope, Status, Waited,
};

/// Files, and kills of each: 120 in all.
const FILES: u64 = 8;
const KILLS: u64 = 15;
const THREADS: u64 = 4;
/// A kill signal.
const SIGKILL: i32 = 9;

const FILE_VARIABLE: &str = "IDEMKV_KILL_FILE";
const ORDER_VARIABLE: &str = "IDEMKV_KILL_ORDER";
/// Set it to the seed that a failure printed to see the same keys, options and moments again.
const SEED_VARIABLE: &str = "IDEMKV_SEED";

/// Splitmix64: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// What both sides derive from a key's number and a fence, without asking each other.
fn is_forgettable(key: u64) -> bool {
    key % 4 == 3
}

fn request_of(key: u64) -> Fingerprint {
    Fingerprint::of(format!("request {key}"))
}

/// A body that no other claim has; some fit a sector, some don't.
fn body_of(key: u64, fence: u64) -> Vec<u8> {
    let mut random = Random(key << 40 ^ fence);
    let len = if random.below(3) == 0 { 4_000 } else { 10 };
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(len).collect()
}

/// A body's length and digest, as told on the pipe.
fn sum_of(body: &[u8]) -> String {
    let digest = Fingerprint::of(body);
    let hex: String = digest.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{hex}", body.len())
}

/// What a worker is told to be: the number of its life, a seed, and whether it only walks over the file and closes it.
struct Order {
    small: bool,
    walk_only: bool,
    life: u64,
    seed: u64,
}

impl Order {
    fn to_text(&self) -> String {
        format!("{} {} {} {}", self.small, self.walk_only, self.life, self.seed)
    }

    fn from_text(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        Self {
            small: words[0] == "true",
            walk_only: words[1] == "true",
            life: words[2].parse().unwrap(),
            seed: words[3].parse().unwrap(),
        }
    }

    /// With small ones, kills hit checkpoints, and segments that are recycled and added.
    fn options(&self) -> Options {
        if !self.small {
            return Engine::options();
        }
        Engine::options()
            .max_body_bytes(4_096)
            .reserve_bytes(4_096)
            .batch_bytes(4_096)
            .cache_bytes(16 << 10)
            .max_in_flight(64)
            .log_segment_bytes(64 << 10)
            .log_bytes(1 << 20)
    }
}

// ---------------------------------------------------------------------------------------------- the worker

/// The end of the pipe to the oracle. A line is one write, so it arrives whole or not at all.
struct Pipe(File);

impl Pipe {
    fn say(&self, line: &str) {
        let line = format!("\n@{line}\n");
        let written = (&self.0).write(line.as_bytes()).unwrap();
        assert_eq!(written, line.len());
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
        let pipe = Pipe(File::from(std::io::stdout().as_fd().try_clone_to_owned().unwrap()));
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
                Status::InFlight(_) | Status::Expired(_) | Status::Vacant => {
                    format!("! {key} is {:?}", entry.status())
                }
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
                Err(BeginError::Busy(_)) => self.pipe.say(&format!("refused {key}")),
                Err(error) => self.pipe.say(&format!("! begin: {error}")),
            }
            if turn % 16 == 0 && thread == 0 {
                let stats = self.engine.stats();
                self.pipe.say(&format!("stats {} {}", stats.checkpoints, stats.log_bytes));
            }
        }
    }

    /// New keys in every life, few enough that threads meet; forgettable ones, which never run out; and any.
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
fn worker_process() {
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

// ---------------------------------------------------------------------------------------------- the oracle

/// What may lie on disk of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    Vacant,
    Open { fence: u64, attempt: u32 },
    Done { fence: u64 },
}

/// What the oracle knows of a key.
#[derive(Debug)]
struct Known {
    may: Vec<Durable>,
    /// The claim that is out, until its holder says that it is about to end it.
    live: Option<u64>,
    /// The last claim that was granted.
    current: u64,
    /// Begins that were not answered yet.
    begins: u32,
    /// A begin was not answered before the process died: a claim may be on disk that nobody heard of.
    unheard: bool,
    /// Forgets that were not answered yet: by which thread, and the current claim when it asked.
    forgets: HashMap<u64, u64>,
    /// A forget was under way at some time since the current claim was granted.
    forgotten: bool,
}

impl Known {
    fn new() -> Self {
        Self {
            may: vec![Durable::Vacant],
            live: None,
            current: 0,
            begins: 0,
            unheard: false,
            forgets: HashMap::new(),
            forgotten: false,
        }
    }

    fn set(&mut self, may: &[Durable]) {
        self.may = may.to_vec();
        if self.forgotten && !may.contains(&Durable::Vacant) {
            self.may.push(Durable::Vacant);
        }
    }

    /// The state is durable now, unless a forget interferes or it is long past.
    fn settle(&mut self, fence: u64, state: Durable) {
        if self.current == fence && !self.forgotten {
            self.may = vec![state];
        }
    }

    /// Whether a claim that nobody heard of, granted on top of what may be there, explains this one.
    fn explains_unheard(&self, attempt: u32) -> bool {
        self.unheard
            && self.may.iter().any(|may| match may {
                Durable::Vacant => attempt == 1,
                Durable::Open { attempt: before, .. } => attempt == before + 1,
                Durable::Done { .. } => false,
            })
    }
}

/// What a completion was to store.
#[derive(Debug, PartialEq, Eq)]
struct Stored {
    key: u64,
    attempt: u32,
    outcome: String,
    sum: String,
}

#[derive(Debug, Default)]
struct Totals {
    kills: u64,
    before_opened: u64,
    lines: u64,
    granted: u64,
    interrupted: u64,
    unheard: u64,
    done: u64,
    released: u64,
    forgotten: u64,
    replayed: u64,
    walked: u64,
    checkpoints: u64,
    /// Times that a log was seen to have grown.
    grown: u64,
}

#[derive(Default)]
struct Oracle {
    keys: BTreeMap<u64, Known>,
    /// Every completion that was ever tried, by fence.
    tried: HashMap<u64, Stored>,
    attempts: HashMap<u64, u32>,
    fences: BTreeSet<u64>,
    /// No fence of this life may be at or below this one.
    floor: u64,
    walked: BTreeMap<u64, Durable>,
    opened: bool,
    closed: bool,
    /// Of this life, when last heard of.
    checkpoints: u64,
    log_bytes: u64,
    totals: Totals,
}

type Verdict = Result<(), String>;

fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(otherwise()) }
}

impl Oracle {
    /// Takes in one line of the pipe; what is not ours is the test harness's.
    fn hear(&mut self, line: &str) -> Verdict {
        let Some(line) = line.strip_prefix('@') else { return Ok(()) };
        self.totals.lines += 1;
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let (key, second) = (number(1), number(2));
        let heard = match words[0] {
            "begin" => self.begin(key),
            "granted" => self.granted(key, second, number(3), (number(4), number(5))),
            "refused" => self.refused(key),
            "end" => self.end(key, second, words[3]),
            "done" => self.done(key, &words[2..]),
            "replay" => self.replay(key, &words[2..]),
            "drop" => self.ending(key, second, &[]),
            "release" => self.ending(key, second, &[Durable::Vacant]),
            "released" => self.released(key, second),
            "forget" => self.forget(key, second),
            "forgot" => self.forgot(key, second, words[3] == "true"),
            "walked" => self.walked(key, words[2], &words[3..]),
            "opened" => self.opened(),
            "stats" => self.stats(key, second),
            "closed" => {
                self.closed = true;
                ensure(key == 0, || "a clean close left claims".to_owned())
            }
            _ => Err("the worker complains".to_owned()),
        };
        heard.map_err(|what| format!("{what}; heard {line:?}, known {:?}", self.keys.get(&key)))
    }

    fn known(&mut self, key: u64) -> &mut Known {
        self.keys.entry(key).or_insert_with(Known::new)
    }

    fn begin(&mut self, key: u64) -> Verdict {
        self.known(key).begins += 1;
        Ok(())
    }

    fn refused(&mut self, key: u64) -> Verdict {
        self.known(key).begins -= 1;
        Ok(())
    }

    fn granted(&mut self, key: u64, fence: u64, attempt: u64, earlier: (u64, u64)) -> Verdict {
        let attempt = u32::try_from(attempt).unwrap_or(u32::MAX);
        let floor = self.floor;
        ensure(fence > floor, || format!("fence {fence} is not above {floor}, of an earlier life"))?;
        ensure(self.fences.insert(fence), || format!("fence {fence} was granted twice"))?;
        self.attempts.insert(fence, attempt);
        let known = self.known(key);
        ensure(known.live.is_none(), || "two claims are out".to_owned())?;
        let before = match earlier {
            (0, _) => Durable::Vacant,
            (fence, attempt) => Durable::Open { fence, attempt: u32::try_from(attempt).unwrap_or(0) },
        };
        let follows = match before {
            Durable::Open { attempt: before, .. } => attempt == before + 1,
            Durable::Vacant | Durable::Done { .. } => attempt == 1,
        };
        ensure(follows && known.may.contains(&before), || format!("a grant on top of {before:?}"))?;
        known.begins -= 1;
        known.live = Some(fence);
        known.current = fence;
        known.forgotten = !known.forgets.is_empty();
        known.may = vec![Durable::Open { fence, attempt }];
        self.totals.granted += 1;
        self.totals.interrupted += u64::from(earlier.0 > 0);
        Ok(())
    }

    /// The holder is about to end its claim; beside what it was, its key may become one of `states`.
    fn ending(&mut self, key: u64, fence: u64, states: &[Durable]) -> Verdict {
        let attempt = self.attempts.get(&fence).copied().unwrap_or(0);
        let known = self.known(key);
        ensure(known.live == Some(fence), || "a claim that isn't out is ended".to_owned())?;
        known.live = None;
        known.set(&[&[Durable::Open { fence, attempt }], states].concat());
        Ok(())
    }

    fn end(&mut self, key: u64, fence: u64, outcome: &str) -> Verdict {
        let attempt = self.attempts.get(&fence).copied().unwrap_or(0);
        let sum = sum_of(&body_of(key, fence));
        self.tried.insert(fence, Stored { key, attempt, outcome: outcome.to_owned(), sum });
        self.ending(key, fence, &[Durable::Done { fence }])
    }

    /// Whether a record is, byte for byte, one that somebody tried to store under this key.
    fn check_record(&self, key: u64, told: &[&str]) -> Result<u64, String> {
        let [fence, attempt, outcome, sum] = told else { return Err("no record".to_owned()) };
        let (Ok(fence), Ok(attempt)) = (fence.parse(), attempt.parse()) else {
            return Err("no record".to_owned());
        };
        let found = Stored { key, attempt, outcome: (*outcome).to_owned(), sum: (*sum).to_owned() };
        let tried = self.tried.get(&fence);
        ensure(tried == Some(&found), || format!("a record {found:?} where {tried:?} was stored"))?;
        Ok(fence)
    }

    fn done(&mut self, key: u64, told: &[&str]) -> Verdict {
        let fence = self.check_record(key, told)?;
        self.totals.done += 1;
        self.known(key).settle(fence, Durable::Done { fence });
        Ok(())
    }

    /// Whoever sees a record could crash and see it again, so this is as good as an acknowledgement.
    fn replay(&mut self, key: u64, told: &[&str]) -> Verdict {
        let fence = self.check_record(key, told)?;
        self.totals.replayed += 1;
        let known = self.known(key);
        known.begins -= 1;
        // A forgotten record may have been seen before, and be told of after.
        let is_late = is_forgettable(key) && (known.current != fence || known.may == [Durable::Vacant]);
        ensure(is_late || known.may.contains(&Durable::Done { fence }), || {
            "a record is replayed that can't be there".to_owned()
        })?;
        known.settle(fence, Durable::Done { fence });
        Ok(())
    }

    fn released(&mut self, key: u64, fence: u64) -> Verdict {
        self.totals.released += 1;
        self.known(key).settle(fence, Durable::Vacant);
        Ok(())
    }

    fn forget(&mut self, key: u64, thread: u64) -> Verdict {
        let known = self.known(key);
        known.forgets.insert(thread, known.current);
        known.forgotten = true;
        if known.live.is_none() {
            let may = known.may.clone();
            known.set(&may);
        }
        Ok(())
    }

    fn forgot(&mut self, key: u64, thread: u64, gone: bool) -> Verdict {
        let known = self.known(key);
        let asked_at = known.forgets.remove(&thread);
        // Not where a claim was granted since: then nobody knows which came first.
        if gone && asked_at == Some(known.current) && known.live.is_none() {
            known.may = vec![Durable::Vacant];
        }
        self.totals.forgotten += u64::from(gone);
        Ok(())
    }

    fn stats(&mut self, checkpoints: u64, log_bytes: u64) -> Verdict {
        ensure(checkpoints >= self.checkpoints, || "checkpoints were undone".to_owned())?;
        self.totals.checkpoints += checkpoints - self.checkpoints;
        self.checkpoints = checkpoints;
        self.totals.grown += u64::from(self.log_bytes > 0 && log_bytes > self.log_bytes);
        self.log_bytes = log_bytes;
        Ok(())
    }

    fn walked(&mut self, key: u64, state: &str, told: &[&str]) -> Verdict {
        let found = match state {
            "done" => Durable::Done { fence: self.check_record(key, told)? },
            _ => Durable::Open { fence: told[0].parse().unwrap_or(0), attempt: told[1].parse().unwrap_or(0) },
        };
        self.totals.walked += 1;
        ensure(self.keys.contains_key(&key), || "a key that nobody ever began".to_owned())?;
        let twice = self.walked.insert(key, found).is_some();
        ensure(!twice, || "a key twice in one walk".to_owned())
    }

    /// The walk is over: what it found, and what it didn't, is what there is.
    fn opened(&mut self) -> Verdict {
        self.opened = true;
        let walked = std::mem::take(&mut self.walked);
        for (key, known) in &mut self.keys {
            let found = walked.get(key).copied().unwrap_or(Durable::Vacant);
            if !known.may.contains(&found) {
                let Durable::Open { fence, attempt } = found else {
                    return Err(format!("key {key} is {found:?}, but {known:?}"));
                };
                let is_new = fence > self.floor && self.fences.insert(fence);
                ensure(is_new && known.explains_unheard(attempt), || {
                    format!("key {key} is {found:?}, but {known:?}")
                })?;
                self.attempts.insert(fence, attempt);
                self.totals.unheard += 1;
            }
            if let Durable::Open { fence, .. } | Durable::Done { fence } = found {
                known.current = fence;
            }
            known.may = vec![found];
            known.unheard = false;
        }
        self.floor = self.fences.last().copied().unwrap_or(0);
        Ok(())
    }

    /// The process is gone, and with it every claim that was out.
    fn bury(&mut self) {
        for known in self.keys.values_mut() {
            known.unheard |= known.begins > 0;
            known.begins = 0;
            known.live = None;
            known.forgets.clear();
            known.forgotten = false;
        }
        self.walked.clear();
        self.checkpoints = 0;
        self.log_bytes = 0;
        self.totals.before_opened += u64::from(!self.opened);
        self.opened = false;
    }
}

// ---------------------------------------------------------------------------------------------- the killing

/// When the process is killed.
#[derive(Clone, Copy, Debug)]
enum Moment {
    /// So long after it was started: while it opens the file, too.
    Started(Duration),
    /// So long after it had opened the file.
    Opened(Duration),
    /// After so many lines, and so long.
    Line(u64, Duration),
}

impl Moment {
    fn draw(random: &mut Random) -> Self {
        match random.below(4) {
            0 => Self::Started(Duration::from_micros(random.below(60_000))),
            1 => Self::Opened(Duration::from_micros(random.below(120_000))),
            _ => Self::Line(1 + random.below(4_000), Duration::from_micros(random.below(500))),
        }
    }

    fn delay(self) -> Duration {
        match self {
            Self::Started(delay) | Self::Opened(delay) | Self::Line(_, delay) => delay,
        }
    }

    /// Whether the clock starts, now that this line is heard.
    fn is_due(self, line: &str, heard: u64) -> bool {
        match self {
            Self::Started(_) => false,
            Self::Opened(_) => line == "@opened",
            Self::Line(count, _) => heard == count,
        }
    }
}

fn start(path: &Path, order: &Order) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["worker_process", "--exact", "--nocapture", "--test-threads=1", "--quiet"])
        .env(FILE_VARIABLE, path)
        .env(ORDER_VARIABLE, order.to_text())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for the word, or the end of the pipe, then so long, then kills.
fn kill(child: &Mutex<Child>, due: &Receiver<()>, over: &Receiver<()>, moment: Moment) {
    // An error says that the process is gone by itself, which its exit status tells.
    if due.recv().is_ok() && over.recv_timeout(moment.delay()).is_err() {
        child.lock().unwrap().kill().unwrap();
    }
}

/// One life of the process, heard to its end.
fn live(
    path: &Path,
    order: &Order,
    moment: Option<Moment>,
    oracle: &mut Oracle,
) -> Result<ExitStatus, String> {
    let mut child = start(path, order);
    let pipe = BufReader::new(child.stdout.take().unwrap());
    let child = Mutex::new(child);
    let mut verdict = Ok(());
    thread::scope(|scope| {
        let (due, due_here) = sync_channel(1);
        let (over, over_here) = sync_channel::<()>(1);
        let mut due = Some(due);
        if let Some(moment) = moment {
            let child = &child;
            scope.spawn(move || kill(child, &due_here, &over_here, moment));
        }
        if matches!(moment, Some(Moment::Started(_))) {
            due.take().unwrap().send(()).unwrap();
        }
        let mut heard = 0;
        for line in pipe.lines().map_while(Result::ok) {
            heard += u64::from(line.starts_with('@'));
            if moment.is_some_and(|moment| moment.is_due(&line, heard))
                && let Some(due) = due.take()
            {
                due.send(()).unwrap();
            }
            // To the end of the pipe even after a violation, or the process would wait for a reader.
            if verdict.is_ok() {
                verdict = oracle.hear(&line);
            }
            if verdict.is_err() {
                child.lock().unwrap().kill().unwrap();
            }
        }
        over.try_send(()).unwrap_or(());
    });
    let status = child.lock().unwrap().wait().unwrap();
    oracle.bury();
    verdict.map(|()| status)
}

/// One file, killed again and again, then closed and opened once more.
fn torment(path: &Path, small: bool, random: &mut Random, oracle: &mut Oracle) -> Verdict {
    for life in 0..KILLS {
        let order = Order { small, walk_only: false, life, seed: random.next() };
        let moment = Moment::draw(random);
        let status = live(path, &order, Some(moment), oracle)
            .map_err(|what| format!("life {life}, killed at {moment:?}: {what}"))?;
        ensure(status.signal() == Some(SIGKILL), || format!("life {life} ended by itself: {status}"))?;
        oracle.totals.kills += 1;
    }
    for _ in 0..2 {
        let order = Order { small, walk_only: true, life: KILLS, seed: 0 };
        let status = live(path, &order, None, oracle)?;
        ensure(status.success() && oracle.closed, || format!("the last life was not closed: {status}"))?;
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_granted_twice_in_120_kills() {
    let seed = std::env::var(SEED_VARIABLE).ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| RandomState::new().build_hasher().finish());
    let mut random = Random(seed);
    let mut totals = Totals::default();
    for file in 0..FILES {
        let directory = tempfile::tempdir().unwrap();
        let mut oracle = Oracle { totals, ..Oracle::default() };
        let small = file % 4 != 3;
        let verdict = torment(&directory.path().join("killed.idem"), small, &mut random, &mut oracle);
        totals = oracle.totals;
        if let Err(what) = verdict {
            let kept = directory.keep();
            panic!(
                "{what}\nfile {file}, {SEED_VARIABLE}={seed}, {totals:?}, files kept in {}",
                kept.display()
            );
        }
    }
    println!("{} kills, {SEED_VARIABLE}={seed}, {totals:?}", totals.kills);
    // A rig that saw none of these saw nothing.
    assert_eq!(totals.kills, FILES * KILLS);
    for (what, seen) in [
        ("grants", totals.granted),
        ("completions", totals.done),
        ("interrupted claims", totals.interrupted),
        ("claims that nobody heard of", totals.unheard),
        ("releases", totals.released),
        ("forgets", totals.forgotten),
        ("replays", totals.replayed),
        ("checkpoints", totals.checkpoints),
        ("logs that grew", totals.grown),
        ("kills before the file was open", totals.before_opened),
    ] {
        assert!(seen > 0, "no {what} were seen, seed {seed}: {totals:?}");
    }
}

/// A file gets its name by a link, after which the temporary name goes. A kill between the two leaves both.
#[test]
fn a_temporary_name_left_by_a_kill_does_not_endanger_the_file_that_was_made() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.idem");
    let moved = directory.path().join("moved.idem");
    let engine = Engine::open(&path).unwrap();
    let Begin::Fresh(claim) = engine.begin("key", request_of(1)).unwrap() else { panic!("not fresh") };
    claim.complete("reply").unwrap();
    engine.close().unwrap();
    std::fs::hard_link(&path, directory.path().join("x.idem-new")).unwrap();
    // The file moves to another name, and a new one is made under the old name.
    std::fs::rename(&path, &moved).unwrap();
    std::fs::rename(directory.path().join("x.idem-wal"), directory.path().join("moved.idem-wal")).unwrap();
    let made = Engine::open(&path).unwrap();
    assert!(matches!(made.get("key").unwrap(), Status::Vacant));
    let engine = Engine::open(&moved).unwrap();
    assert!(matches!(engine.get("key").unwrap(), Status::Done(record) if record.body() == b"reply"));
}

// ---------------------------------------------------------------------------------------------- the oracle's own tests

fn judge(lines: &[&str]) -> Verdict {
    let mut oracle = Oracle::default();
    for line in lines {
        match *line {
            "killed" => oracle.bury(),
            line => oracle.hear(&format!("@{line}"))?,
        }
    }
    Ok(())
}

fn record(fence: u64, attempt: u32) -> String {
    format!("{fence} {attempt} success {}", sum_of(&body_of(8, fence)))
}

#[test]
fn the_oracle_notices_a_lost_record_and_an_altered_one() {
    let done = format!("done 8 {}", record(1, 1));
    let lived = ["opened", "begin 8", "granted 8 1 1 0 0", "end 8 1 success", &done, "killed"];
    let walked = format!("walked 8 done {}", record(1, 1));
    assert_eq!(judge(&[&lived[..], &[&walked, "opened"]].concat()), Ok(()));
    assert!(judge(&[&lived[..], &["opened"]].concat()).is_err());
    assert!(judge(&[&lived[..], &["walked 8 open 1 1", "opened"]].concat()).is_err());
    for altered in [record(2, 1), record(1, 2), record(1, 1).replace("success", "failure")] {
        let walked = format!("walked 8 done {altered}");
        assert!(judge(&[&lived[..], &[&walked, "opened"]].concat()).is_err(), "{altered}");
    }
}

#[test]
fn the_oracle_allows_either_fate_of_what_was_not_acknowledged() {
    let walked = format!("walked 8 done {}", record(1, 1));
    let lived = ["opened", "begin 8", "granted 8 1 1 0 0", "end 8 1 success", "killed"];
    assert_eq!(judge(&[&lived[..], &[&walked, "opened"]].concat()), Ok(()));
    assert_eq!(judge(&[&lived[..], &["walked 8 open 1 1", "opened"]].concat()), Ok(()));
    assert!(judge(&[&lived[..], &["opened"]].concat()).is_err());
    // A claim that nobody heard of is there only if somebody asked for one.
    assert_eq!(judge(&["opened", "begin 8", "killed", "walked 8 open 1 1", "opened"]), Ok(()));
    assert!(judge(&["opened", "begin 8", "refused 8", "killed", "walked 8 open 1 1", "opened"]).is_err());
    assert!(judge(&["opened", "begin 8", "killed", "walked 8 open 1 2", "opened"]).is_err());
}

#[test]
fn the_oracle_notices_a_second_grant_and_a_fence_that_falls_back() {
    let granted = ["opened", "begin 8", "begin 8", "granted 8 5 1 0 0"];
    assert!(judge(&[&granted[..], &["granted 8 6 1 0 0"]].concat()).is_err());
    assert!(judge(&[&granted[..], &["granted 8 6 2 5 1"]].concat()).is_err());
    let again = ["killed", "walked 8 open 5 1", "opened", "begin 8"];
    let lives = [&granted[..], &again].concat();
    assert_eq!(judge(&[&lives[..], &["granted 8 6 2 5 1"]].concat()), Ok(()));
    assert!(judge(&[&lives[..], &["granted 8 6 1 0 0"]].concat()).is_err());
    assert!(judge(&[&lives[..], &["granted 8 4 2 5 1"]].concat()).is_err());
    let done = format!("done 8 {}", record(5, 1));
    let ended = [&granted[..], &["end 8 5 success", &done]].concat();
    assert!(judge(&[&ended[..], &["granted 8 6 1 0 0"]].concat()).is_err());
}
