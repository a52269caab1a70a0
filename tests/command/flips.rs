//! `verify` finds every flipped bit, or proves it harmless.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::helpers::{claim, closed, flip, killed, log_of, on};
use idemkv::{CommitMode, Engine};
use serde_json::Value;
use tempfile::TempDir;

/// Splitmix64.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Flips for each way in which a process left its file.
fn flips() -> u64 {
    std::env::var("IDEMKV_COMMAND_FLIPS").map_or(340, |flips| flips.parse().unwrap())
}

fn seed() -> u64 {
    std::env::var("IDEMKV_SEED").map_or(1, |seed| seed.parse().unwrap())
}

/// Everything that a file says. A claim of a killed process counts as interrupted at the opening,
/// whenever that is.
fn export(file: &Path) -> Vec<String> {
    let ran = on(file, "export", &[]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let mut lines: Vec<_> = ran
        .out
        .lines()
        .skip(1)
        .map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            if line["key"] == "in flight" {
                line["interrupted_ms"].take();
            }
            line.to_string()
        })
        .collect();
    lines.sort_unstable();
    lines
}

/// The same after the file was opened for writing and closed.
fn export_by_writer(file: &Path) -> Vec<String> {
    Engine::open(file).unwrap().close().unwrap();
    export(file)
}

/// A backup, which is one file.
fn backup() -> (TempDir, PathBuf) {
    let (folder, file) = closed();
    let copy = folder.path().join("copy.idem");
    let engine = Engine::open(file).unwrap();
    engine.backup(&copy).unwrap();
    engine.close().unwrap();
    (folder, copy)
}

/// Where the last frame of a log lies: the last place with the start of one, as no segment was
/// used again.
fn last_frame(log: &Path) -> std::ops::Range<usize> {
    let bytes = fs::read(log).unwrap();
    let sectors = bytes.len() / 512;
    let last =
        (0..sectors).rev().map(|sector| sector * 512).find(|at| bytes[*at..].starts_with(b"idmF")).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512);
    last..end
}

/// A bit, three times of four of a byte that isn't zero: most of a file is.
fn draw(random: &mut u64, bytes: &[u8]) -> usize {
    let from = usize::try_from(next(random) % bytes.len() as u64).unwrap();
    let is_any = next(random).is_multiple_of(4);
    let written = bytes[from..].iter().position(|byte| *byte != 0).map_or(from, |skip| from + skip);
    let at = if is_any { from } else { written };
    at * 8 + usize::try_from(next(random) % 8).unwrap()
}

fn flip_bits(name: &'static str, file: &Path, counts: &mut BTreeMap<(&'static str, i32), u64>) {
    let original = export(file);
    let folder = tempfile::tempdir().unwrap();
    let flipped = folder.path().join("x.idem");
    let has_log = log_of(file).exists();
    let mut random = seed();
    for number in 0..flips() {
        drop(fs::remove_file(&flipped));
        drop(fs::remove_file(log_of(&flipped)));
        fs::copy(file, &flipped).unwrap();
        if has_log {
            fs::copy(log_of(file), log_of(&flipped)).unwrap();
        }
        let in_log = has_log && number % 3 == 0;
        let victim = if in_log { log_of(&flipped) } else { flipped.clone() };
        let bit = draw(&mut random, &fs::read(&victim).unwrap());
        flip(&victim, bit);
        let said = on(&flipped, "verify", &[]);
        let context = format!("{name}, seed {}, bit {bit} of {}: {said:?}", seed(), victim.display());
        match said.code {
            // Harmless: it reads the same, and an engine goes on with it.
            0 => {
                assert!(export(&flipped) == original, "{context}");
                // It syncs some ten times.
                assert!(number % 8 != 0 || export_by_writer(&flipped) == original, "{context}");
            }
            3 => {}
            4 if in_log && name == "killed" => {
                // The last frame, or where the next one would start.
                let frame = last_frame(&log_of(file));
                assert!((frame.start..frame.end + 24).contains(&(bit / 8)), "{context}");
            }
            _ => panic!("{context}"),
        }
        *counts.entry((name, said.code)).or_default() += 1;
    }
}

#[test]
fn verify_finds_every_flipped_bit_or_it_is_harmless() {
    let mut counts = BTreeMap::new();
    for (name, (_folder, file)) in [("closed", closed()), ("killed", killed()), ("backup", backup())] {
        flip_bits(name, &file, &mut counts);
    }
    println!("{counts:?}");
    assert!(counts[&("closed", 3)] > 0 && counts[&("killed", 3)] > 0 && counts[&("backup", 3)] > 0);
}

/// All bits of its header, and some of its contents.
#[test]
fn of_a_flip_in_the_last_frame_of_the_log_verify_cannot_tell() {
    let (_folder, file) = killed();
    let log = log_of(&file);
    let (bytes, frame) = (fs::read(&log).unwrap(), last_frame(&log));
    let header = 56;
    let behind = bytes[frame.clone()].iter().rposition(|byte| *byte != 0).unwrap();
    for at in (0..header).chain((header..behind).step_by(7)) {
        let mut flipped = bytes.clone();
        flipped[frame.start + at] ^= 1 << (at % 8);
        fs::write(&log, flipped).unwrap();
        let said = on(&file, "verify", &[]);
        assert_eq!(said.code, 4, "byte {at} of the frame: {said:?}");
    }
}

/// Where the newest frame of a log starts.
fn newest_frame(log: &[u8]) -> usize {
    let starts = (0..log.len()).step_by(512).filter(|at| log[*at..].starts_with(b"idmF"));
    starts.max_by_key(|at| u64::from_le_bytes(log[at + 24..at + 32].try_into().unwrap())).unwrap()
}

/// Behind the last frame are bytes from the middle of older ones then.
#[test]
fn a_log_that_was_used_again_and_again_is_sound_after_a_kill_but_not_with_a_flip_in_its_last_frame() {
    let folder = tempfile::tempdir().unwrap();
    let (live, file) = (folder.path().join("live.idem"), folder.path().join("x.idem"));
    let options = Engine::options().commit_mode(CommitMode::Buffered).max_body_bytes(8 << 10);
    let options = options.batch_bytes(8 << 10).log_segment_bytes(64 << 10).log_bytes(256 << 10);
    let engine = options.open(&live).unwrap();
    let mut random = seed();
    for round in 0..20 {
        for number in 0..next(&mut random) % 200 {
            let body = vec![7; usize::try_from(next(&mut random) % 3_000).unwrap()];
            claim(&engine, "", format!("{round} {number}")).complete(body).unwrap();
        }
        // The worker has nothing to do for the moment, so the two files are of one.
        engine.checkpoint().unwrap();
        claim(&engine, "", format!("last of {round}")).complete("reply").unwrap();
        fs::copy(&live, &file).unwrap();
        fs::copy(log_of(&live), log_of(&file)).unwrap();
        let said = on(&file, "verify", &[]);
        assert_eq!(said.code, 0, "round {round}: {said:?}");
        let at = newest_frame(&fs::read(log_of(&file)).unwrap());
        flip(&log_of(&file), at * 8 + usize::try_from(next(&mut random) % (56 * 8)).unwrap());
        let said = on(&file, "verify", &[]);
        assert_eq!(said.code, 4, "round {round}: {said:?}");
    }
}
