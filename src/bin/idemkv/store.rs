//! A shared store, as it is named on the command line.

use std::io;

use clap::Args;
use idemkv::SharedOptions;

use crate::answer::Trouble;

#[derive(Debug, Args)]
pub(crate) struct Store {
    /// The address of the store, as postgres://...; - reads it from the standard input, so that no
    /// password is shown among the processes
    store: String,
    /// The schema of the store's tables
    #[arg(long, default_value = "idemkv")]
    schema: String,
}

impl Store {
    /// How to connect to it, and its name for a person to agree to.
    pub(crate) fn options(self) -> Result<(SharedOptions, String), Trouble> {
        let url =
            if self.store == "-" { io::read_to_string(io::stdin())?.trim().to_owned() } else { self.store };
        let options = SharedOptions::new(url).schema(&self.schema);
        let target = options.target().map_err(Trouble::refused)?;
        Ok((options, format!("the schema \"{}\" of {}", self.schema.escape_debug(), target.escape_debug())))
    }
}
