//! `idemkv copy`: the keys of a file in a shared store.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use idemkv::{CopyError, OpenError, SharedError};

use crate::answer::{Answer, Trouble};
use crate::asking::Consent;
use crate::opening;
use crate::store::Store;
use crate::working::{Working, shown};

#[derive(Debug, Args)]
pub(crate) struct Copy {
    /// The file; it is not changed
    file: PathBuf,
    // Its tables are made unless they are there.
    #[command(flatten)]
    store: Store,
    #[command(flatten)]
    consent: Consent,
}

impl Copy {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let (options, store) = self.store.options()?;
        let engine = opening::to_look(&self.file)?;
        let stats = engine.stats();
        self.consent.get(&[
            format!(
                "copies {} keys of {} into {store}; {} of them are interrupted",
                stats.entries,
                shown(&self.file),
                stats.interrupted
            ),
            "no service may use the file any more: an operation that is begun there again runs a second time"
                .to_owned(),
        ])?;
        let working = Working::start(format!("copies {}", shown(&self.file)));
        let copied = engine.copy_to(options);
        drop(working);
        let copied = copied.map_err(|error| match error {
            CopyError::Store(OpenError::Shared(SharedError::Unknown(_))) => Trouble::new(
                Answer::Inconclusive,
                format_args!("{error}.\nThe copy may be there: run the same again before you start any service; it says so"),
            ),
            _ => Trouble::refused(error),
        })?;
        opening::close_after(engine, Ok(copied), out, |copied, out| {
            writeln!(
                out,
                "{} results, {} interrupted keys, {} policies; step keys stay the same, and fences go on",
                copied.results, copied.interrupted, copied.policies
            )?;
            if copied.shifted_ms != 0 {
                writeln!(out, "{}", moved(copied.shifted_ms))?;
            }
            Ok(Answer::Fine)
        })
    }
}

fn moved(shifted_ms: i64) -> String {
    let side = if shifted_ms < 0 { "ahead of" } else { "behind" };
    format!("the file's clock was {} ms {side} the server's; times were moved", shifted_ms.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::moved;

    #[test]
    fn a_clock_that_is_ahead_is_said_to_be() {
        assert_eq!(moved(-1_500), "the file's clock was 1500 ms ahead of the server's; times were moved");
        assert_eq!(moved(1_500), "the file's clock was 1500 ms behind the server's; times were moved");
    }
}
