//! `idemkv backup`: one file, verified.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use crate::answer::{Answer, Trouble};
use crate::asking::Consent;
use crate::format::bytes;
use crate::working::{Working, shown};
use crate::{opening, spans, verify};

#[derive(Debug, Args)]
pub(crate) struct Backup {
    file: PathBuf,
    /// The new file; it must not exist
    target: PathBuf,
    #[command(flatten)]
    consent: Consent,
}

impl Backup {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let engine = opening::to_change_nothing(&self.file, self.consent)?;
        let working = Working::start(format!("writes {}", shown(&self.target)));
        let made = engine.backup(&self.target).map_err(Trouble::refused);
        drop(working);
        opening::close_after(engine, made, out, |made, out| {
            writeln!(out, "{} written, as of {}", bytes(made.bytes), spans::date(made.time))?;
            let (answer, checked) = verify::check(&self.target)?;
            verify::show(out, &checked.map_err(|error| Trouble::new(answer, error))?)?;
            Ok(answer)
        })
    }
}
