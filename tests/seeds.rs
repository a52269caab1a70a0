//! What fuzzing starts from: `fuzz/seeds` has what this makes. `IDEMKV_WRITE_SEEDS=1 cargo test --test seeds` makes it anew.

#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "damage/damage.rs"]
mod damage;
#[path = "damage/specimen.rs"]
mod specimen;

use std::fs;
use std::path::Path;

use idemkv::sim::Decoder;
use specimen::{Found, Specimen};

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
    let seeds = Decoder::ALL.iter().zip(0..).map(|(decoder, number): (_, u8)| {
        assert!(decoder.check(&decoder.example()));
        (format!("{decoder:?}").to_lowercase(), [vec![number], decoder.example()].concat())
    });
    assert_on_disk("codec", &seeds.collect());
}

/// Which files, which log, then damage: its kind, a sector (2), an offset, and what the kind needs. See `tests/damage`.
#[test]
fn open_starts_from_one_of_each_kind_of_damage() {
    use Found::{Refused, Torn, Whole};
    let in_log = 16;
    let seeds: [(&str, Found, &[u8]); 14] = [
        ("whole", Whole, &[1, 4]),
        ("log-missing", Refused, &[2, 0]),
        ("log-of-another", Refused, &[2, 1 + 8 * 3]),
        ("log-of-an-earlier-time", Torn, &[2, 2]),
        ("file-of-an-earlier-time", Refused, &[2, 3]),
        ("flip-in-file", Refused, &[1, 4, 0, 0, 0, 32, 3]),
        ("flip-in-log-header", Refused, &[2, 4, in_log, 0, 0, 4, 3]),
        ("flip-in-first-frame", Refused, &[3, 4, in_log, 8, 0, 40, 3]),
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
