//! Files as engines leave them behind, and what they have to say.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{
    AttemptInfo, Begin, BeginError, Claim, Completion, Durability, Engine, Fingerprint, Interruption,
    OpenError, Options, Outcome, Policy, ReadError, Recovery, Status, Timestamp,
};

pub const STORE: &str = "x.idem";
pub const LOG: &str = "x.idem-wal";
const START_MS: u64 = 1_800_000_000_000;
const SECTOR: usize = 512;
/// Calls between two moments that a specimen keeps the files of.
const OLDER_EVERY: usize = 8;
const SCOPES: [&str; 3] = ["", "bank", "jobs"];
/// Keys of each scope, used or not.
const KEYS: usize = 12;

/// A file and its log.
#[derive(Clone, PartialEq)]
pub struct Files {
    pub store: Vec<u8>,
    pub log: Vec<u8>,
}

/// Two files that an engine left behind, and all that they have been.
pub struct Specimen {
    pub files: Files,
    /// What the files were at some moments before.
    pub older: Vec<Files>,
    /// What was found after each call.
    states: Vec<Known>,
    /// The first of the states whose later calls the store does not know.
    covered: usize,
}

/// What was known after a call.
struct Known {
    /// Which bytes of the log the call wrote and nobody has overwritten.
    frame: Range<usize>,
    /// The highest fence that the process granted whose call it was, then or later: what it opened
    /// says of all of them that they may be out.
    fence_max: u64,
    answers: Answers,
}

/// How a specimen's last process left it.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// Just made, and killed.
    Empty,
    /// Closed.
    Clean,
    /// Killed, some time after a checkpoint.
    Checkpointed,
    /// Killed before any checkpoint: the last state of the store is the opening's.
    Opened,
}

/// What an engine says of one key.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Vacant,
    InFlight(AttemptInfo),
    /// The attempt that was interrupted, and whether it may run again.
    Interrupted(Lost, bool),
    Done(Box<Reply>),
    Expired(Fingerprint, u64),
    /// The record could not be read.
    Refused,
}

/// A lost attempt. Since when it is known to be dead is not compared: an older state of a file
/// does not tell.
#[derive(Clone, Debug, PartialEq)]
struct Lost {
    fence: u64,
    attempt: u32,
    started_ms: u64,
    fingerprint: Fingerprint,
    note: Option<Fingerprint>,
}

impl Lost {
    fn of(lost: &Interruption) -> Self {
        Self {
            fence: lost.fence().get(),
            attempt: lost.attempt(),
            started_ms: lost.started().as_millis(),
            fingerprint: *lost.fingerprint(),
            note: lost.last_progress().map(|note| Fingerprint::of(&**note)),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Reply {
    fingerprint: Fingerprint,
    fence: u64,
    attempt: u32,
    outcome: Outcome,
    times_ms: [u64; 4],
    body: Fingerprint,
}

/// What an engine says of everything.
#[derive(Clone, Debug)]
struct Answers {
    keys: BTreeMap<(usize, usize), Answer>,
    policies: Vec<(Box<[u8]>, Policy)>,
    /// The lowest fence of the claims that were granted as they were asked for. It is not
    /// compared.
    fence_min: u64,
}

/// What became of an opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// All is as it was.
    Whole,
    /// The end of the log looks torn.
    Torn,
    Refused,
}

impl Specimen {
    /// One of each kind. No two of them are of one file, for their secrets are not the same.
    pub fn all() -> Vec<Self> {
        let lefts = [Left::Empty, Left::Clean, Left::Checkpointed, Left::Opened];
        lefts.into_iter().zip(1..).map(|(left, seed)| Self::make(left, seed)).collect()
    }

    fn make(left: Left, seed: u64) -> Self {
        let mut making = Making::new(seed);
        let mut engine = making.open();
        if !matches!(left, Left::Empty) {
            making.first_life(&engine);
            engine.close().unwrap();
            engine = making.open();
            making.second_life(&engine, left);
        }
        if matches!(left, Left::Clean) {
            engine.close().unwrap();
            making.called();
            making.checkpointed();
        }
        making.finish()
    }

    /// Opens damaged files and asks for everything; panics where they lie.
    pub fn examine(&self, damaged: &Files, has_log: bool) -> Found {
        let disk = disk(damaged, has_log);
        let first = self.judge(&disk, damaged, has_log);
        if first == Found::Refused {
            // An opening that was refused must not have made a later one believe that all is well.
            return match self.judge(&disk, damaged, has_log) {
                Found::Whole | Found::Torn | Found::Refused => Found::Refused,
            };
        }
        first
    }

    fn judge(&self, disk: &SimDisk, damaged: &Files, has_log: bool) -> Found {
        let clock = ManualClock::at_millis(END_MS);
        let engine = match options(disk, &clock).open(STORE) {
            Ok(engine) => engine,
            Err(error) => {
                self.judge_refusal(&error, damaged, has_log);
                return Found::Refused;
            }
        };
        let found = Answers::of(&engine);
        // Dropped without the writes that nobody will look at.
        disk.crash_at(disk.operations());
        drop(engine);
        let last = self.states.len() - 1;
        let (store, log) = (damaged.store != self.files.store, damaged.log != self.files.log || !has_log);
        let first = if store { 0 } else { self.covered };
        // A file of an earlier time is told by the log behind it; where that is damaged too,
        // nothing may be left to tell it.
        let may_be_older = store && log;
        // From the last state on back to the one before which a frame is whole.
        for (number, state) in self.states.iter().enumerate().skip(first).rev() {
            if state.answers.allows(&found) {
                let known = if may_be_older { state } else { &self.states[last] };
                assert!(found.fence_min > known.fence_max, "fence {} was granted again", found.fence_min);
                return if number == last { Found::Whole } else { Found::Torn };
            }
            let frame = || state.frame.clone();
            let is_whole = self.files.log.get(frame()) == damaged.log.get(frame());
            if !state.frame.is_empty() && is_whole && has_log && !may_be_older {
                break;
            }
        }
        panic!("the files lie: {}", self.states[last].answers.difference(&found));
    }

    fn judge_refusal(&self, error: &OpenError, damaged: &Files, has_log: bool) {
        let is_altered = *damaged != self.files || !has_log;
        assert!(is_altered, "what is whole was refused: {error}");
        let is_of_damage = matches!(
            error,
            OpenError::Damaged(_)
                | OpenError::NotIdemkv(_)
                | OpenError::NewerVersion { .. }
                | OpenError::OlderVersion { .. }
                | OpenError::LogOfAnotherFile(_)
                | OpenError::LogOfEarlierOpening { .. }
                | OpenError::Io(_)
        );
        let log_is_missing = !has_log && matches!(error, OpenError::LogMissing { .. });
        assert!(is_of_damage || log_is_missing, "refused with {error:?}");
    }
}

/// A disk with these files.
fn disk(files: &Files, has_log: bool) -> SimDisk {
    let disk = SimDisk::new();
    disk.put(Path::new(STORE), &files.store).unwrap();
    if has_log {
        disk.put(Path::new(LOG), &files.log).unwrap();
    }
    disk
}

fn options(disk: &SimDisk, clock: &ManualClock) -> Options {
    Engine::options()
        .disk(disk)
        .clock(clock)
        .stepped()
        .ttl(TTL)
        .tombstone_ttl(2 * TTL)
        .max_body_bytes(4_096)
        .reserve_bytes(4_096)
        .batch_bytes(4_096)
        .log_segment_bytes(64 << 10)
        .log_bytes(256 << 10)
        .shards(1)
        .cache_bytes(0)
}

const TTL: Duration = Duration::from_secs(600);
const LEASE: Duration = Duration::from_secs(3_000);
/// When damaged files are opened: some records have expired, some keys' times are over, tokens
/// stand. Interruptions are all remembered: for how long depends on since when the claim is known
/// to be dead, which an older state of a file does not tell.
const END_MS: u64 = START_MS + 400_000;

fn request(key: usize) -> Fingerprint {
    Fingerprint::of(key.to_le_bytes())
}

fn name(key: usize) -> String {
    format!("key {key}")
}

fn body(key: usize) -> Vec<u8> {
    let len = [0, 10, 600, 4_000][key % 4];
    (0..len).map(|at: usize| u8::try_from((at * 7 + key * 13) % 251).unwrap()).collect()
}

fn claim(engine: &Engine, scope: usize, key: usize) -> Claim {
    match engine.scope(SCOPES[scope]).begin(name(key), request(key)) {
        Ok(Begin::Fresh(claim)) => claim,
        other => panic!("key {key} should be fresh, is {other:?}"),
    }
}

impl Answers {
    fn of(engine: &Engine) -> Self {
        let mut walked = BTreeMap::new();
        let (mut refused, mut fence_min) = (0, u64::MAX);
        for entry in engine.entries() {
            match entry {
                Ok(entry) => {
                    let place = (entry.scope().to_vec(), entry.key().to_vec());
                    let before = walked.insert(place, Answer::of(entry.status()));
                    assert!(before.is_none(), "a key is there twice");
                }
                Err(ReadError::Damaged(_) | ReadError::Io(_)) => refused += 1,
                Err(error) => panic!("walking gives {error}"),
            }
        }
        let mut keys = BTreeMap::new();
        for (scope, name_of) in SCOPES.iter().enumerate() {
            for key in 0..KEYS {
                let by_walk = walked.remove(&(name_of.as_bytes().to_vec(), name(key).into_bytes()));
                let answer = answer(engine, scope, key, &mut fence_min);
                match (&by_walk, &answer) {
                    (None, Answer::Refused) => refused -= 1,
                    (None, Answer::Vacant) => {}
                    (by_walk, answer) => {
                        let by_walk = by_walk.as_ref().map(Answer::without_begin);
                        assert_eq!(by_walk, Some(answer.without_begin()), "scope {scope}, key {key}");
                    }
                }
                keys.insert((scope, key), answer);
            }
        }
        assert!(walked.is_empty() && refused == 0, "{walked:?} and {refused} errors are of no key");
        Self { keys, policies: engine.policies(), fence_min }
    }

    /// Whether these are the answers, or errors in their place.
    fn allows(&self, found: &Self) -> bool {
        let mut pairs = self.keys.values().zip(found.keys.values());
        self.policies == found.policies
            && pairs.all(|(expected, found)| found == expected || *found == Answer::Refused)
    }
}

impl Answers {
    fn difference(&self, found: &Self) -> String {
        let differ = self.keys.iter().filter(|(place, expected)| found.keys.get(place) != Some(expected));
        let lines =
            differ.map(|(place, was)| format!("{place:?} was {was:?}, is {:?}\n", found.keys.get(place)));
        format!("{}policies {:?}, are {:?}", lines.collect::<String>(), self.policies, found.policies)
    }
}

/// Asks for a key in both ways, which have to agree.
fn answer(engine: &Engine, scope: usize, key: usize, fence_min: &mut u64) -> Answer {
    let scope = engine.scope(SCOPES[scope]);
    let status = match scope.get(name(key)) {
        Ok(status) => Answer::of(&status),
        Err(ReadError::Damaged(_) | ReadError::Io(_)) => Answer::Refused,
        Err(error) => panic!("key {key}: {error}"),
    };
    match (scope.begin(name(key), request(key)), status) {
        (Ok(Begin::Done(record)), Answer::Done(reply)) => {
            assert_eq!(Answer::of(&Status::Done(record)), Answer::Done(reply.clone()));
            Answer::Done(reply)
        }
        (Ok(Begin::Fresh(claim)), status @ (Answer::Vacant | Answer::Interrupted(..))) => {
            *fence_min = claim.fence().get().min(*fence_min);
            let note = claim.last_progress().map(|note| Fingerprint::of(&*note));
            match (claim.interrupted().as_ref().map(Lost::of), status) {
                (None, Answer::Vacant) if note.is_none() => Answer::Vacant,
                (Some(told), Answer::Interrupted(earlier, _)) if told == earlier && told.note == note => {
                    Answer::Interrupted(earlier, true)
                }
                (told, status) => panic!("key {key} is {status:?}, but its claim says {told:?}, {note:?}"),
            }
        }
        (Err(BeginError::Unresolved(told)), Answer::Interrupted(earlier, _))
            if Lost::of(&told) == earlier =>
        {
            Answer::Interrupted(earlier, false)
        }
        (Ok(Begin::InFlight(_)), status @ Answer::InFlight(_))
        | (Err(BeginError::Expired(_)), status @ Answer::Expired(..)) => status,
        (Err(BeginError::Damaged(_) | BeginError::Io(_)), Answer::Refused) => Answer::Refused,
        (begin, status) => panic!("key {key} is {status:?}, and its begin {begin:?}"),
    }
}

impl Answer {
    fn of(status: &Status) -> Self {
        match status {
            Status::Vacant => Self::Vacant,
            Status::InFlight(attempt) => Self::InFlight(*attempt),
            Status::Interrupted(lost) => Self::Interrupted(Lost::of(lost), false),
            Status::Done(record) => {
                let times =
                    [record.started(), record.completed(), record.expires(), record.remembered_until()];
                Self::Done(Box::new(Reply {
                    fingerprint: *record.fingerprint(),
                    fence: record.fence().get(),
                    attempt: record.attempt(),
                    outcome: record.outcome(),
                    times_ms: times.map(Timestamp::as_millis),
                    body: Fingerprint::of(record.body()),
                }))
            }
            Status::Expired(left) => Self::Expired(*left.fingerprint(), left.fence().get()),
            other => panic!("{other:?}"),
        }
    }

    /// What a walk can tell.
    fn without_begin(&self) -> Self {
        if let Self::Interrupted(lost, _) = self {
            return Self::Interrupted(lost.clone(), false);
        }
        self.clone()
    }
}

/// A specimen in the making.
struct Making {
    disk: SimDisk,
    clock: ManualClock,
    seed: u64,
    /// The files after each call, the process that called, and what they answer.
    states: Vec<(Files, usize, Answers)>,
    covered: usize,
    /// The highest fence that each process granted.
    fences: Vec<u64>,
}

impl Making {
    fn new(seed: u64) -> Self {
        let (disk, clock) = (SimDisk::new(), ManualClock::at_millis(START_MS));
        Self { disk, clock, seed, states: Vec::new(), covered: 0, fences: vec![0] }
    }

    fn open(&mut self) -> Engine {
        let engine = options(&self.disk, &self.clock).seed(self.seed).open(STORE).unwrap();
        // What is there now says no more than the process before has left.
        self.called();
        self.checkpointed();
        self.fences.push(self.fences.last().copied().unwrap());
        engine
    }

    /// Notes what a call left behind.
    fn called(&mut self) {
        self.clock.advance(Duration::from_millis(1));
        let image = self.disk.image(CrashKind::KeepAll);
        let read = |name| image.read(Path::new(name)).unwrap();
        let files = Files { store: read(STORE), log: read(LOG) };
        let clock = ManualClock::at_millis(END_MS);
        let engine = options(&image, &clock).open(STORE).unwrap();
        self.states.push((files, self.fences.len() - 1, Answers::of(&engine)));
    }

    fn checkpointed(&mut self) {
        self.covered = self.states.len() - 1;
    }

    fn set_policy(&mut self, engine: &Engine) {
        engine.set_policy("bank", engine.policy().unresolved_forever()).unwrap();
        self.called();
        engine.set_policy("jobs", engine.policy().recovery(Recovery::Rerun).lease(LEASE)).unwrap();
        self.called();
    }

    /// Claims a key and ends it, in a way that depends on the key.
    fn fill(&mut self, engine: &Engine, scope: usize, key: usize) {
        let mut claim = claim(engine, scope, key);
        *self.fences.last_mut().unwrap() = claim.fence().get();
        self.called();
        let short = Completion::new().ttl(Duration::from_secs(1));
        match key % 6 {
            0 => drop(claim.fail(body(key)).unwrap()),
            1 => {
                claim.save_progress(body(key)).unwrap();
                self.called();
                drop(claim);
            }
            2 if scope == 2 => drop(claim.into_token().unwrap()),
            2 => drop(claim.complete_with(body(key), short).unwrap()),
            3 => {
                claim.complete(body(key)).unwrap();
                self.called();
                assert!(engine.scope(SCOPES[scope]).forget(name(key)).unwrap());
            }
            4 => drop(claim.complete_with(body(key), short.tombstone_ttl(Duration::from_secs(2))).unwrap()),
            _ => drop(claim.complete_with(body(key), Completion::new().ttl(8 * TTL)).unwrap()),
        }
        self.called();
    }

    fn first_life(&mut self, engine: &Engine) {
        self.set_policy(engine);
        for (scope, keys) in [(0, 0..6), (1, 0..3), (2, 0..4)] {
            keys.for_each(|key| self.fill(engine, scope, key));
        }
        engine.checkpoint().unwrap();
        self.clock.advance(Duration::from_secs(100));
        (4..6).for_each(|key| self.fill(engine, 2, key));
    }

    fn second_life(&mut self, engine: &Engine, left: Left) {
        let clicks = engine.policy().recovery(Recovery::Rerun).durability(Durability::Completions);
        engine.set_policy("clicks", clicks).unwrap();
        self.called();
        (6..9).for_each(|key| self.fill(engine, 0, key));
        if !matches!(left, Left::Opened) {
            engine.checkpoint().unwrap();
            self.called();
            self.checkpointed();
        }
        for (scope, keys) in [(1, 6..9), (2, 6..12)] {
            keys.for_each(|key| self.fill(engine, scope, key));
        }
    }

    fn finish(self) -> Specimen {
        let image = self.disk.image(CrashKind::KeepAll);
        let read = |name| image.read(Path::new(name)).unwrap();
        let files = Files { store: read(STORE), log: read(LOG) };
        let mut before: &[u8] = &[];
        let mut states = Vec::new();
        for (at, process, answers) in &self.states {
            let frame = frame_between(before, &at.log, &files.log);
            states.push(Known { frame, fence_max: self.fences[*process], answers: answers.clone() });
            before = &at.log;
        }
        let older = self.states.iter().step_by(OLDER_EVERY).map(|(files, ..)| files.clone()).collect();
        Specimen { files, older, states, covered: self.covered }
    }
}

/// Bytes of a frame before its entries.
const FRAME_HEADER: usize = 56;

/// The bytes of the frame that was written between two states of a log, if they are still there at
/// last.
fn frame_between(before: &[u8], after: &[u8], last: &[u8]) -> Range<usize> {
    let changed = |at: &usize| before.get(*at..at + SECTOR) != after.get(*at..at + SECTOR);
    let Some(start) = (4_096..after.len()).step_by(SECTOR).find(changed) else { return 0..0 };
    let len = u32::from_le_bytes(after[start + 4..start + 8].try_into().unwrap()) as usize;
    let frame = start..start + FRAME_HEADER + len;
    let is_frame = &after[start..start + 4] == b"idmF" && last.get(frame.clone()) == after.get(frame.clone());
    if is_frame { frame } else { 0..0 }
}
