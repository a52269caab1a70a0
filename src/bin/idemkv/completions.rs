//! `idemkv completions`: what a shell completes.

use std::io::Write;

use clap::{Args, Command};
use clap_complete::Shell;

use crate::answer::{Answer, Trouble};

#[derive(Debug, Args)]
pub(crate) struct Completions {
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self, mut command: Command, out: &mut impl Write) -> Result<Answer, Trouble> {
        // To memory first: the generator panics where a pipe is closed.
        let mut text = Vec::new();
        clap_complete::generate(self.shell, &mut command, "idemkv", &mut text);
        out.write_all(&text)?;
        Ok(Answer::Fine)
    }
}
