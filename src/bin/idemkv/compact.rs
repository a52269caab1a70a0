//! `idemkv compact`: room back to the disk.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::answer::{Answer, Trouble};
use crate::asking::Consent;
use crate::format::bytes;
use crate::opening;
use crate::working::{Working, shown};

#[derive(Debug, Args)]
pub(crate) struct Compact {
    file: PathBuf,
    #[command(flatten)]
    consent: Consent,
}

impl Compact {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let (engine, before) = opening::to_change(&self.file, self.consent, |engine| {
            let before = engine.stats().file_bytes;
            let line =
                format!("drops what has expired, and moves what is live together, in {}", bytes(before));
            Ok((vec![line], before))
        })?;
        let working = Working::start(format!("compacts {}", shown(&self.file)));
        let compacted = engine.compact().map_err(Trouble::refused);
        drop(working);
        opening::close_after(engine, compacted, out, |compacted, out| {
            if !compacted {
                return Err(Trouble::refused("nothing was compacted"));
            }
            let after = fs::metadata(&self.file)?.len();
            writeln!(out, "{} before, {} after", bytes(before), bytes(after))?;
            Ok(Answer::Fine)
        })
    }
}
