//! What fuzzing starts from: `fuzz/seeds` has what this makes. `IDEMKV_WRITE_SEEDS=1 cargo test
//! --test seeds` makes it anew.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::struct_excessive_bools,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "model/calls.rs"]
mod calls;
#[path = "damage/damage.rs"]
mod damage;
#[path = "model/key.rs"]
mod key;
#[path = "model/script.rs"]
mod script;
#[path = "damage/specimen.rs"]
mod specimen;
#[path = "model/world.rs"]
mod world;

use std::fs;
use std::path::Path;

use idemkv::sim::Decoder;
use script::{
    ADVANCE, ADVANCE_TO, BEGIN, BEGIN_MANY, CALL_BYTES, CHECKPOINT, CLOSE, COMPLETE, COMPLETE_IN,
    COMPLETE_MANY, CRASH, CRASH_AGAIN, Call, DECLARE, DROP, ENTRIES, FAIL, FLUSH, FORGET, GET, INTO_TOKEN,
    KILL, NOTE, PUT_BACK, RELEASE, RENEW, RESOLVE, RESOLVE_IF, RESTART, RESUME, SET_WALL, SLEEP, STEP,
};
use specimen::{Found, Specimen};
use world::{Image, World};

/// Seeds of a target, by name.
type Seeds = Vec<(String, Vec<u8>)>;

fn assert_on_disk(target: &str, seeds: &Seeds) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let fuzz = folder.ancestors().nth(2).unwrap();
    if !fuzz.exists() {
        eprintln!("{target}: a packaged crate has no fuzz targets");
        return;
    }
    if std::env::var_os("IDEMKV_WRITE_SEEDS").is_some() {
        fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes).unwrap();
        }
    }
    for (name, bytes) in seeds {
        assert_eq!(&fs::read(folder.join(name)).unwrap(), bytes, "{target}/{name} is not what is made here");
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), seeds.len(), "{target} has seeds that nobody makes");
}

/// The number of the decoder, then bytes that it takes.
#[test]
fn codec_starts_from_what_each_decoder_takes() {
    let mut seeds: Seeds = Vec::new();
    for (decoder, number) in Decoder::ALL.iter().zip(0_u8..) {
        assert!(decoder.check(&decoder.example()));
        let name = format!("{decoder:?}").to_lowercase();
        seeds.push((name.clone(), [vec![number], decoder.example()].concat()));
        if matches!(decoder, Decoder::Json) {
            // No other bytes ask for as much memory a byte: one number more than a power of two.
            let numbers = format!(r#"{{"Ok":[[null,[{}0]]]}}"#, "0,".repeat(512));
            assert!(decoder.check(numbers.as_bytes()));
            seeds.push((name + "-of-numbers", [vec![number], numbers.into_bytes()].concat()));
        }
    }
    assert_on_disk("codec", &seeds);
}

/// Which files, which log, then damage: its kind, a sector (2), an offset, and what the kind
/// needs. See `tests/damage`.
#[test]
fn open_starts_from_one_of_each_kind_of_damage() {
    use Found::{Refused, Torn, Whole};
    let in_log = 16;
    let seeds: [(&str, Found, &[u8]); 14] = [
        ("whole", Whole, &[1, 4]),
        ("log-missing", Refused, &[2, 0]),
        ("log-of-another", Refused, &[2, 1 + 8 * 3]),
        ("log-of-an-earlier-time", Refused, &[2, 2]),
        ("file-of-an-earlier-time", Refused, &[2, 3]),
        ("flip-in-file", Refused, &[1, 4, 0, 0, 0, 32, 3]),
        ("flip-in-log-header", Refused, &[2, 4, in_log, 0, 0, 4, 3]),
        ("flip-in-first-frame", Refused, &[3, 4, in_log, 8, 0, 20, 3]),
        ("overwritten", Refused, &[1, 4, 4 + 192, 0, 0, 5, 1, 2, 3, 4]),
        ("file-cut-off", Refused, &[1, 4, 6, 30, 0, 0]),
        ("log-cut-off", Refused, &[2, 4, 6 + in_log, 30, 0, 0]),
        ("log-zeroed", Torn, &[3, 4, 8 + in_log, 8, 0, 0, 255]),
        ("swapped", Refused, &[1, 4, 12, 8, 0, 0, 16, 0, 0, 0, 2]),
        ("pages-of-another", Refused, &[1, 4, 14, 8, 0, 0, 2, 0, 255]),
    ];
    let specimens = Specimen::all();
    for (name, found, script) in &seeds {
        assert_eq!(damage::examine(&specimens, script), *found, "{name}");
    }
    let files = seeds.iter().map(|(name, _, script)| ((*name).to_owned(), script.to_vec()));
    assert_on_disk("open", &files.collect());
}

/// The first key of the first scope, with another request.
const OTHER_REQUEST: u8 = 84;
const BEGUN: [u8; CALL_BYTES] = [BEGIN, 0, 0, 0];

/// Where to start and whether to be killed at the end, then calls. See `tests/model`.
const HISTORIES: [(&str, u8, &[[u8; CALL_BYTES]]); 13] = [
    (
        "replay",
        0,
        &[BEGUN, BEGUN, [COMPLETE, 0, 2, 0], BEGUN, [BEGIN, OTHER_REQUEST, 0, 0], [FORGET, 0, 0, 0]],
    ),
    (
        "interrupted",
        0,
        &[BEGUN, [NOTE, 0, 2, 0], [DROP, 0, 0, 0], BEGUN, [RELEASE, 0, 0, 0], [KILL, 0, 0, 0], BEGUN],
    ),
    (
        "resolved",
        0,
        &[[DECLARE, 0, 4, 0], BEGUN, [CLOSE, 0, 0, 0], BEGUN, [RESOLVE, 0, 0, 0], [FAIL, 0, 2, 0], BEGUN],
    ),
    (
        "put-back",
        0,
        &[
            BEGUN,
            [NOTE, 0, 2, 0],
            [DROP, 0, 0, 0],
            [RESOLVE_IF, 0, 1, 0],
            [COMPLETE, 0, 5, 0],
            [PUT_BACK, 0, 0, 0],
            [KILL, 0, 0, 0],
            [RESOLVE_IF, 0, 1, 0],
            [DROP, 0, 0, 0],
            [RESOLVE_IF, 0, 0, 0],
            [GET, 0, 0, 0],
        ],
    ),
    (
        "token",
        1,
        &[
            [BEGIN, 4, 0, 0],
            [INTO_TOKEN, 0, 0, 0],
            [KILL, 0, 0, 0],
            [RESUME, 0, 0, 0],
            [RENEW, 0, 0, 0],
            [RESUME, 0, 0, 7],
        ],
    ),
    (
        "taken-up",
        1,
        &[
            [BEGIN, 4, 0, 0],
            [INTO_TOKEN, 0, 0, 0],
            [RESUME, 0, 0, 0],
            [CHECKPOINT, 0, 0, 0],
            [KILL, 0, 0, 0],
            [RESUME, 0, 0, 0],
        ],
    ),
    (
        "lease",
        1,
        &[
            [BEGIN, 4, 0, 0],
            [ADVANCE_TO, 0, 1, 0],
            [RENEW, 0, 0, 0],
            [STEP, 0, 0, 0],
            [RESOLVE, 4, 0, 0],
            [COMPLETE, 1, 2, 0],
        ],
    ),
    (
        "relaxed",
        1,
        &[
            [BEGIN, 8, 0, 0],
            [COMPLETE, 0, 2, 0],
            [GET, 8, 0, 0],
            [FLUSH, 0, 0, 0],
            [CRASH, 0, 0, 1],
            [CHECKPOINT, 0, 0, 0],
        ],
    ),
    (
        "late",
        2,
        &[
            BEGUN,
            [COMPLETE, 0, 2, 5],
            [ADVANCE_TO, 0, 1, 0],
            BEGUN,
            [ADVANCE_TO, 0, 0, 0],
            BEGUN,
            [ADVANCE, 0, 0, 0],
            BEGUN,
        ],
    ),
    (
        "effect",
        0,
        &[
            BEGUN,
            [CRASH, 0, 3, 2],
            [COMPLETE_IN, 0, 2, 0],
            [BEGIN, 1, 0, 0],
            [COMPLETE_IN, 0, 2, 0],
            [ENTRIES, 0, 0, 0],
        ],
    ),
    (
        "batch",
        0,
        &[[BEGIN_MANY, 0, 15, 0], [COMPLETE_MANY, 3, 2, 0], [CRASH_AGAIN, 0, 1, 30], [BEGIN_MANY, 1, 15, 0]],
    ),
    (
        "clock",
        0,
        &[
            BEGUN,
            [SET_WALL, 0, 9, 0],
            [CLOSE, 0, 0, 0],
            BEGUN,
            [COMPLETE, 0, 1, 0],
            [SET_WALL, 0, 0, 0],
            [KILL, 0, 0, 0],
            BEGUN,
        ],
    ),
    (
        "boot",
        0,
        &[
            BEGUN,
            [COMPLETE, 0, 1, 0],
            [SLEEP, 0, 4, 0],
            [SET_WALL, 0, 0, 0],
            [RESTART, 0, 3, 0],
            BEGUN,
            [SET_WALL, 0, 2, 0],
            [RESTART, 0, 8, 0],
            BEGUN,
        ],
    ),
];

#[test]
fn api_starts_from_one_of_each_kind_of_history() {
    let images = Image::all();
    for (name, first, calls) in &HISTORIES {
        eprintln!("{name}");
        calls::run(&mut World::new(&images[usize::from(*first)]), Call::all(calls.as_flattened()), true);
    }
    let files = HISTORIES.iter().map(|(name, first, calls)| {
        let bytes = [&[*first], calls.as_flattened()].concat();
        ((*name).to_owned(), bytes)
    });
    assert_on_disk("api", &files.collect());
}
