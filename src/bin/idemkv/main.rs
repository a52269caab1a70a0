//! The command `idemkv`: looks into a file, resolves and forgets keys, checks, backs up, restores.
//!
//! `docs/command.md` describes it. Each subcommand is a file. Everything that only looks opens the
//! file as [`idemkv::Options::read_only`] does, and changes nothing.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "the library's enums may grow, so every match has a wildcard"
)]

mod answer;
mod arguments;
mod asking;
mod backup;
mod bench;
mod compact;
mod completions;
#[cfg(feature = "postgres")]
mod copy;
mod doctor;
mod entry;
mod export;
mod forget;
mod format;
mod get;
mod hex;
#[cfg(feature = "http")]
mod http_response;
mod identity;
mod import;
mod list;
mod man;
#[cfg(feature = "postgres")]
mod migrate;
#[path = "../../admin/names.rs"]
mod names;
mod opening;
mod resolve;
mod restore;
mod saved;
mod selection;
mod spans;
mod stats;
#[cfg(feature = "postgres")]
mod store;
mod verify;
mod working;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    let mut out = BufWriter::new(io::stdout().lock());
    let answer = arguments.run(&mut out).and_then(|answer| {
        out.flush()?;
        Ok(answer)
    });
    match answer {
        Ok(answer) => answer.into(),
        Err(trouble) => {
            // What was found so far is still worth showing. Where that fails too, the reader is
            // gone.
            drop(out.flush());
            if !trouble.is_reader_gone() {
                eprintln!("idemkv: {trouble}");
            }
            trouble.answer().into()
        }
    }
}
