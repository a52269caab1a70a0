//! `idemkv migrate`: the tables of a shared store for this version of the library.

use std::io::Write;

use clap::Args;
use idemkv::Migrated;

use crate::answer::{Answer, Trouble, tell_done};
use crate::asking::Consent;
use crate::store::Store;

#[derive(Debug, Args)]
pub(crate) struct Migrate {
    #[command(flatten)]
    store: Store,
    #[command(flatten)]
    consent: Consent,
}

impl Migrate {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let (options, name) = self.store.options()?;
        self.consent.get(&[
            format!(
                "brings the tables in {name} up to this version of idemkv; makes them where there are none"
            ),
            "a service of the version before goes on, but does not start again".to_owned(),
        ])?;
        let migrated = options.migrate().map_err(Trouble::refused)?;
        tell_done(out, |out| {
            match migrated {
                Migrated::Made => writeln!(out, "the tables were made")?,
                Migrated::From(version) => {
                    writeln!(out, "the tables had version {version}, and fit this version of idemkv now")?;
                    let rights = "SELECT, INSERT and UPDATE on the table `places`";
                    writeln!(out, "grant {rights} to the roles of services that do not own it")?;
                }
                Migrated::UpToDate => {
                    writeln!(out, "the tables fit this version of idemkv; nothing was done")?;
                }
                other => writeln!(out, "{other:?}")?,
            }
            Ok(Answer::Fine)
        })
    }
}
