//! What fuzzing starts from: `fuzz/seeds` has what this makes. `IDEMKV_WRITE_SEEDS=1 cargo test --test seeds` makes it anew.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::Path;

use idemkv::sim::Decoder;

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
