//! idemkv beside what one would use instead, on the same work in the same run, and beside the
//! physical limit.
//!
//! ```text
//! cargo run --release --manifest-path benches/peers/Cargo.toml -- lookup    # replay, beside concurrent maps
//! ... -- inline      # what other layouts of the index would bring: sketches
//! ... -- stored      # replay of records that are on disk alone, beside redb
//! ... -- durable     # claim and complete durably, beside stores
//! ... -- open        # open a file, beside redb's reading of the same rows
//! ... -- churn       # keys that expire as fast as new ones come, beside the same without expiry
//! ... -- memory      # bytes a key, beside concurrent maps
//! ... -- large       # 100 million keys: memory, opening, lookups
//! ```
//!
//! `--help` after a command tells its options. Each command prints a table, writes a plot (SVG) to
//! `target/peers/`, and ends with a line of JSON. Files of stores go to `BENCH_DIR`, or else below
//! the build's own directory.

#[path = "../../common/figures.rs"]
#[allow(dead_code, reason = "shared with the criterion benches")]
mod figures;
#[path = "../../common/fill.rs"]
mod fill;
#[path = "../../common/keys.rs"]
mod keys;

mod churn;
mod durable;
mod inline;
mod large;
mod lookup;
mod map;
mod memory;
mod open;
mod options;
mod plot;
mod server;
mod store;
mod stored;

use std::env;
use std::process::ExitCode;

const COMMANDS: [(&str, fn(&options::Options)); 8] = [
    ("lookup", lookup::run),
    ("inline", inline::run),
    ("stored", stored::run),
    ("durable", durable::run),
    ("open", open::run),
    ("churn", churn::run),
    ("memory", memory::run),
    ("large", large::run),
];

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let wanted = arguments.next().unwrap_or_default();
    let Some((_, run)) = COMMANDS.iter().find(|(name, _)| *name == wanted) else {
        let names: Vec<_> = COMMANDS.iter().map(|(name, _)| *name).collect();
        eprintln!("which comparison? One of: {}", names.join(", "));
        return ExitCode::FAILURE;
    };
    match options::Options::parse(arguments) {
        Ok(options) => {
            run(&options);
            ExitCode::SUCCESS
        }
        Err(told) => {
            eprintln!("{told}");
            ExitCode::FAILURE
        }
    }
}
