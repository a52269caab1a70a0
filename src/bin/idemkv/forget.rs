//! `idemkv forget`: a key's operation may run again.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::answer::{Answer, Trouble};
use crate::asking::Consent;
use crate::entry::{describe, summary};
use crate::opening;
use crate::selection::Selection;

#[derive(Debug, Args)]
pub(crate) struct Forget {
    file: PathBuf,
    #[command(flatten)]
    key: Selection,
    #[command(flatten)]
    consent: Consent,
}

impl Forget {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let (engine, entry) = opening::to_change(&self.file, self.consent, |engine| {
            let entry = self.key.find(engine)?;
            let line = format!(
                "forgets {}, which is {}: the next request with it runs the operation again",
                describe(&entry),
                summary(&entry)
            );
            Ok((vec![line], entry))
        })?;
        let forgotten = engine.scope(&entry.scope).forget(&entry.key).map_err(Trouble::refused);
        opening::close(engine)?;
        if !forgotten? {
            return Err(Trouble::new(Answer::Absent, "the key was over before it could be forgotten"));
        }
        writeln!(out, "forgotten: {}", describe(&entry))?;
        Ok(Answer::Fine)
    }
}
