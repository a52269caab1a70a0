//! `idemkv man`: the manual page.

use std::io::Write;

use clap::{Args, Command};

use crate::answer::{Answer, Trouble};

#[derive(Debug, Args)]
pub(crate) struct Man {
    /// Of this subcommand
    subcommand: Option<String>,
}

impl Man {
    pub(crate) fn run(self, mut command: Command, out: &mut impl Write) -> Result<Answer, Trouble> {
        command.build();
        let page = match &self.subcommand {
            None => command,
            Some(name) => command
                .find_subcommand(name)
                .cloned()
                .ok_or_else(|| Trouble::refused(format_args!("there is no subcommand {name}")))?,
        };
        clap_mangen::Man::new(page).render(out)?;
        Ok(Answer::Fine)
    }
}
