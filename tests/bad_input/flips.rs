//! Flipped bits: refused or harmless, and never a wrong record.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::thread;

use crate::helpers::{claim, log_of, quietly, run_again, small};
use idemkv::sim::{CrashKind, SimDisk};
use idemkv::{Engine, OpenError, Options, Outcome, ReadError, Status, Verify};

/// What a key must be found to be, by its name.
type Expected = BTreeMap<String, Fate>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Done { fence: u64, attempt: u32, outcome: Outcome, body: Vec<u8> },
    Interrupted { fence: u64, attempt: u32 },
}

/// Files on a simulated disk, and what is in them.
struct Specimen {
    disk: SimDisk,
    expected: Expected,
    /// The key whose completion is the last frame of the log, which a flip makes look like a torn
    /// write.
    last: Option<String>,
}

/// What became of an opening of damaged files.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Everything is right.
    Right,
    /// The completion that was the last frame is not there; its claim is, as interrupted.
    LastIsTorn,
    /// A typed error.
    Refused,
    /// Anything else.
    Wrong(String),
}

/// Splitmix64.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn path() -> &'static Path {
    Path::new("x.idem")
}

fn on(disk: &SimDisk) -> Options {
    small().shards(4).cache_bytes(0).disk(disk).stepped()
}

/// Ends a claim on `key` in a way that depends on `n`, and notes what must be found.
fn fill(engine: &Engine, n: usize, expected: &mut Expected) {
    let key = format!("key {n}");
    let claim = claim(engine, &key);
    let (fence, attempt) = (claim.fence().get(), claim.attempt());
    let body: Vec<u8> = [0, 10, 600, 4_000][n % 4..][..1]
        .iter()
        .flat_map(|len| (0..*len).map(|at| u8::try_from((at * 7 + n * 13) % 251).unwrap()))
        .collect();
    let outcome = if n.is_multiple_of(5) { Outcome::Failure } else { Outcome::Success };
    match (n % 11, outcome) {
        (7, _) => {
            drop(claim);
            expected.insert(key, Fate::Interrupted { fence, attempt });
            return;
        }
        (_, Outcome::Failure) => claim.fail(&body).unwrap(),
        (_, Outcome::Success) => claim.complete(&body).unwrap(),
    };
    if n % 11 == 9 {
        assert!(engine.default_scope().forget(&key).unwrap());
        return;
    }
    expected.insert(key, Fate::Done { fence, attempt, outcome, body });
}

/// How a specimen's last process left it.
#[derive(Clone, Copy, Debug)]
enum Left {
    /// Closed.
    Clean,
    /// Killed, some time after a checkpoint.
    Checkpointed,
    /// Killed before any checkpoint: the last state of the store is the opening's.
    Opened,
}

const LEFT: [Left; 3] = [Left::Clean, Left::Checkpointed, Left::Opened];

/// Some sixty keys over two openings, several checkpoints, and the log.
fn specimen(left: Left) -> Specimen {
    let disk = SimDisk::new();
    let mut expected = Expected::new();
    let engine = on(&disk).open(path()).unwrap();
    for n in 0..30 {
        fill(&engine, n, &mut expected);
        if n % 12 == 11 {
            engine.checkpoint().unwrap();
        }
    }
    engine.close().unwrap();
    let engine = on(&disk).open(path()).unwrap();
    for n in 30..62 {
        fill(&engine, n, &mut expected);
        if n == 42 && !matches!(left, Left::Opened) {
            engine.checkpoint().unwrap();
        }
    }
    if matches!(left, Left::Clean) {
        engine.close().unwrap();
        return Specimen { disk, expected, last: None };
    }
    let last = Some("key 61".to_owned());
    Specimen { disk: disk.image(CrashKind::KeepAll), expected, last }
}

/// Opens the disk's file and reads everything in it, both ways.
fn examine(disk: &SimDisk, verify: Verify, specimen: &Specimen) -> Found {
    let read = quietly(|| read_all(disk, verify, specimen));
    read.unwrap_or_else(|| Found::Wrong("a panic came out".to_owned()))
}

fn read_all(disk: &SimDisk, verify: Verify, specimen: &Specimen) -> Found {
    let engine = match on(disk).verify(verify).open(path()) {
        Ok(engine) => engine,
        Err(error) => return judge_refusal(&error),
    };
    let mut found = BTreeMap::new();
    let mut unreadable = 0;
    for entry in engine.entries() {
        let Ok(entry) = entry else {
            unreadable += 1;
            continue;
        };
        let key = String::from_utf8_lossy(entry.key()).into_owned();
        if found.insert(key.clone(), fate_of(entry.status())).is_some() {
            return Found::Wrong(format!("{key} is there twice"));
        }
    }
    let found = found.into_iter().filter_map(|(key, fate)| Some((key, fate?))).collect();
    let by_walk = compare(&found, unreadable, specimen);
    let mut found = Expected::new();
    let mut unreadable = 0;
    for n in 0..62 {
        let key = format!("key {n}");
        match engine.default_scope().get(&key) {
            Ok(status) => found.extend(fate_of(&status).map(|fate| (key, fate))),
            Err(ReadError::Damaged(_) | ReadError::Io(_)) => unreadable += 1,
            Err(error) => return Found::Wrong(format!("{key}: {error}")),
        }
    }
    let by_key = compare(&found, unreadable, specimen);
    if by_walk == by_key { by_key } else { Found::Wrong(format!("walk {by_walk:?}, keys {by_key:?}")) }
}

fn judge_refusal(error: &OpenError) -> Found {
    match error {
        OpenError::Damaged(_)
        | OpenError::NotIdemkv(_)
        | OpenError::NewerVersion { .. }
        | OpenError::OlderVersion { .. }
        | OpenError::LogOfAnotherFile(_)
        | OpenError::Io(_) => Found::Refused,
        other => Found::Wrong(format!("refused with {other:?}")),
    }
}

fn fate_of(status: &Status) -> Option<Fate> {
    match status {
        Status::Done(record) => Some(Fate::Done {
            fence: record.fence().get(),
            attempt: record.attempt(),
            outcome: record.outcome(),
            body: record.body().to_vec(),
        }),
        Status::Interrupted(lost) => {
            Some(Fate::Interrupted { fence: lost.fence().get(), attempt: lost.attempt() })
        }
        Status::InFlight(info) => {
            Some(Fate::Interrupted { fence: info.fence().get(), attempt: info.attempt() })
        }
        Status::Expired(_) | Status::Vacant => None,
        other => panic!("{other:?}"),
    }
}

fn compare(found: &Expected, unreadable: usize, specimen: &Specimen) -> Found {
    let mut missing = 0;
    let mut torn = false;
    for (key, expected) in &specimen.expected {
        match (found.get(key), expected) {
            (Some(found), expected) if found == expected => {}
            (None, _) => missing += 1,
            (Some(Fate::Interrupted { fence: found, attempt: 1 }), Fate::Done { fence, attempt: 1, .. })
                if specimen.last.as_ref() == Some(key) && found == fence =>
            {
                torn = true
            }
            (Some(found), expected) => return Found::Wrong(format!("{key} is {found:?}, not {expected:?}")),
        }
    }
    if let Some(key) = found.keys().find(|key| !specimen.expected.contains_key(*key)) {
        return Found::Wrong(format!("{key} should not be there"));
    }
    match (missing, unreadable) {
        (0, 0) if torn => Found::LastIsTorn,
        (0, 0) => Found::Right,
        // What is missing was refused with an error, each of them.
        (missing, unreadable) if missing == unreadable => Found::Refused,
        (missing, unreadable) => Found::Wrong(format!("{missing} are missing, with {unreadable} errors")),
    }
}

/// A bit of the file or of its log.
#[derive(Clone, Copy, Debug)]
struct Flip {
    in_log: bool,
    bit: u64,
}

impl Flip {
    /// Any bit, or one of a byte that isn't zero: most of a file is.
    fn draw(random: &mut u64, contents: &[Vec<u8>; 2]) -> Self {
        let in_log = next(random).is_multiple_of(3);
        let bytes = &contents[usize::from(in_log)];
        let mut at = next(random) % bytes.len() as u64;
        if !next(random).is_multiple_of(4) {
            let from = usize::try_from(at).unwrap();
            at = bytes[from..].iter().position(|byte| *byte != 0).map_or(at, |skip| at + skip as u64);
        }
        Self { in_log, bit: at * 8 + next(random) % 8 }
    }

    fn examine(self, specimen: &Specimen, verify: Verify) -> Found {
        let disk = specimen.disk.image(CrashKind::KeepAll);
        let file = if self.in_log { log_of(path()) } else { path().to_owned() };
        assert!(disk.flip(&file, self.bit), "{self:?} is outside");
        let first = examine(&disk, verify, specimen);
        if first == Found::LastIsTorn && !self.in_log {
            return Found::Wrong("the last frame is torn, by a flip outside the log".to_owned());
        }
        if first != Found::Refused {
            return first;
        }
        // An opening that was refused must not have made a later one believe that all is well.
        match examine(&disk, verify, specimen) {
            Found::Wrong(what) => Found::Wrong(format!("at the second opening: {what}")),
            Found::Right | Found::LastIsTorn | Found::Refused => Found::Refused,
        }
    }
}

fn contents(specimen: &Specimen) -> [Vec<u8>; 2] {
    [specimen.disk.read(path()).unwrap(), specimen.disk.read(&log_of(path())).unwrap()]
}

fn seed() -> u64 {
    std::env::var("IDEMKV_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x1de4)
}

/// Examines all the flips, on two threads; gives how many were right, torn and refused.
fn examine_all(flips: &[Flip], specimen: &Specimen, verify: Verify) -> [usize; 3] {
    let (front, back) = flips.split_at(flips.len() / 2);
    let run = |flips: &[Flip]| {
        let mut counts = [0; 3];
        let mut wrong = Vec::new();
        for flip in flips {
            match flip.examine(specimen, verify) {
                Found::Right => counts[0] += 1,
                Found::LastIsTorn => counts[1] += 1,
                Found::Refused => counts[2] += 1,
                Found::Wrong(what) => wrong.push(format!("{flip:?}: {what}")),
            }
        }
        (counts, wrong)
    };
    let (one, other) = thread::scope(|scope| {
        let other = scope.spawn(|| run(back));
        (run(front), other.join().unwrap())
    });
    let wrong = [one.1, other.1].concat();
    assert!(
        wrong.is_empty(),
        "{} of {} flips, seed {}:\n{}",
        wrong.len(),
        flips.len(),
        seed(),
        wrong.join("\n")
    );
    [one.0[0] + other.0[0], one.0[1] + other.0[1], one.0[2] + other.0[2]]
}

#[test]
fn what_the_flips_are_made_on_is_right_to_begin_with() {
    for left in LEFT {
        let specimen = specimen(left);
        for verify in [Verify::default(), Verify::UpTo(0)] {
            let found = examine(&specimen.disk.image(CrashKind::KeepAll), verify, &specimen);
            assert_eq!(found, Found::Right, "{left:?}");
        }
    }
}

#[test]
fn two_thousand_flipped_bits_are_refused_or_harmless() {
    let mut random = seed();
    for (left, count) in LEFT.into_iter().zip([600, 800, 600]) {
        let specimen = specimen(left);
        let contents = contents(&specimen);
        let flips: Vec<Flip> = (0..count).map(|_| Flip::draw(&mut random, &contents)).collect();
        let [right, torn, refused] = examine_all(&flips, &specimen, Verify::default());
        println!("{left:?}, seed {}: {right} right, {torn} torn, {refused} refused", seed());
        assert!(refused > 50 && right > 0, "{refused} were noticed: the flips hit nothing");
    }
}

/// The bits that say which state of a file counts are few, and random flips hit few of them.
#[test]
fn a_flipped_bit_in_any_byte_of_the_headers_is_refused_or_harmless() {
    let mut random = seed();
    for left in LEFT {
        let specimen = specimen(left);
        // All bits of the flags; one of every byte.
        let store = (72..88).chain((0..320).map(|byte| byte * 8 + next(&mut random) % 8));
        let mut flips: Vec<Flip> = store.map(|bit| Flip { in_log: false, bit }).collect();
        flips.extend((0..64).map(|byte| Flip { in_log: true, bit: byte * 8 + next(&mut random) % 8 }));
        let [right, torn, refused] = examine_all(&flips, &specimen, Verify::default());
        println!("{left:?}, seed {}: {right} right, {torn} torn, {refused} refused", seed());
        assert!(refused > 100 && torn == 0);
    }
}

const FLIP_VARIABLE: &str = "IDEMKV_FLIP_FROM";
/// For each way of leaving a file.
const UNVERIFIED_FLIPS: usize = 170;

fn unverified_flips(specimen: &Specimen) -> Vec<Flip> {
    let (mut random, contents) = (!seed(), contents(specimen));
    (0..UNVERIFIED_FLIPS).map(|_| Flip::draw(&mut random, &contents)).collect()
}

/// Not a test: a process that may abort. Returns at once where nobody ordered one.
#[test]
fn flipping_process() {
    let Ok(from) = std::env::var(FLIP_VARIABLE) else { return };
    let from: usize = from.parse().unwrap();
    let specimen = specimen(LEFT[from % 3]);
    for (n, flip) in unverified_flips(&specimen).into_iter().enumerate().skip(from / 3) {
        println!("\n@at {n} {flip:?}");
        let found = flip.examine(&specimen, Verify::UpTo(0));
        println!("\n@found {found:?}");
    }
    println!("\n@over");
}

/// Runs flips from number `from` on, until they are over or the process aborts; gives where to go
/// on.
fn flip_in_a_process(left: usize, from: usize, counts: &mut BTreeMap<String, usize>) -> usize {
    let mut child = run_again("flips::flipping_process", &[(FLIP_VARIABLE, &(from * 3 + left).to_string())]);
    let (mut at, mut flip, mut over) = (from, String::new(), false);
    for line in BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap) {
        if let Some(found) = line.strip_prefix("@found ") {
            assert!(!found.starts_with("Wrong"), "{flip}, left {:?}: {found}", LEFT[left]);
            *counts.entry(found.to_owned()).or_default() += 1;
            at += 1;
        }
        over |= line == "@over";
        flip = if line.starts_with("@at") { line } else { flip };
    }
    let status = child.wait().unwrap();
    if over {
        assert!(status.success(), "{status}");
        return UNVERIFIED_FLIPS;
    }
    // A panic of redb's while it unwinds from another: nothing that a library can catch.
    assert_eq!(status.signal(), Some(SIGABRT), "{flip}, left {:?}: {status}", LEFT[left]);
    println!("aborted at {flip}, left {:?}", LEFT[left]);
    *counts.entry("Aborted".to_owned()).or_default() += 1;
    at + 1
}

const SIGABRT: i32 = 6;

/// Without the check of all pages redb may abort the process, as the documentation of [`Verify`]
/// says; it must not lie.
#[test]
fn flipped_bits_in_a_file_that_is_not_verified_never_give_a_wrong_record() {
    let mut counts = BTreeMap::new();
    for left in 0..3 {
        let mut from = 0;
        while from < UNVERIFIED_FLIPS {
            from = flip_in_a_process(left, from, &mut counts);
        }
    }
    println!("seed {}: {counts:?}", seed());
    assert_eq!(counts.values().sum::<usize>(), 3 * UNVERIFIED_FLIPS);
    assert!(counts["Refused"] > 50 && counts["Right"] > 50);
}
