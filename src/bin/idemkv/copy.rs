//! `idemkv copy`: the keys of a file in a shared store.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use idemkv::{CopyError, OpenError, SharedError, SharedOptions};

use crate::answer::{Answer, Trouble};
use crate::asking::Consent;
use crate::opening;
use crate::working::{Working, shown};

#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// The file; it is not changed
    file: PathBuf,
    /// The address of the store, as postgres://...; - reads it from the standard input, so that no
    /// password is shown among the processes
    store: String,
    /// The schema of the store's tables, which are made unless they are there; they must not have
    /// been used
    #[arg(long, default_value = "idemkv")]
    schema: String,
    #[command(flatten)]
    consent: Consent,
}

impl Copy {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let url =
            if self.store == "-" { io::read_to_string(io::stdin())?.trim().to_owned() } else { self.store };
        let engine = opening::to_look(&self.file)?;
        let stats = engine.stats();
        self.consent.get(&[
            format!(
                "copies {} keys of {} into the schema \"{}\"; {} of them are interrupted",
                stats.entries,
                shown(&self.file),
                self.schema.escape_debug(),
                stats.interrupted
            ),
            "no service may use the file any more: an operation that is begun there again runs a second time"
                .to_owned(),
        ])?;
        let working = Working::start(format!("copies {}", shown(&self.file)));
        let copied = engine.copy_to(SharedOptions::new(url).schema(self.schema));
        drop(working);
        let copied = copied.map_err(|error| match error {
            CopyError::Store(OpenError::Shared(SharedError::Unknown(_))) => Trouble::new(
                Answer::Inconclusive,
                format_args!("{error}.\nThe copy may be there: run the same again before you start any service; it says so"),
            ),
            _ => Trouble::refused(error),
        })?;
        writeln!(
            out,
            "{} results, {} interrupted keys, {} policies; step keys stay the same, and fences go on",
            copied.results, copied.interrupted, copied.policies
        )?;
        if copied.shifted_ms != 0 {
            writeln!(
                out,
                "the file's clock was {} ms behind the server's; times were moved",
                copied.shifted_ms
            )?;
        }
        opening::close(engine)?;
        Ok(Answer::Fine)
    }
}
