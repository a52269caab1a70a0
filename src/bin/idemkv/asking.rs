//! Asking before a change.

use std::io::{self, IsTerminal, Write};

use clap::Args;

use crate::answer::Trouble;

/// Whether a change needs to be asked for.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Consent {
    /// Do it without asking
    #[arg(long)]
    pub(crate) yes: bool,
}

impl Consent {
    /// Shows what would be done, and asks.
    ///
    /// # Errors
    ///
    /// When the answer is no, or there is nobody to ask.
    pub(crate) fn get(self, plan: &[String]) -> Result<(), Trouble> {
        let mut shown = io::stderr().lock();
        for line in plan {
            writeln!(shown, "- {line}")?;
        }
        if self.yes {
            return Ok(());
        }
        if !io::stdin().is_terminal() {
            return Err(Trouble::refused("nothing was done: there is nobody to ask; give --yes"));
        }
        write!(shown, "Go on? [y/N] ")?;
        shown.flush()?;
        let mut said = String::new();
        io::stdin().read_line(&mut said)?;
        if matches!(said.trim(), "y" | "Y" | "yes") {
            Ok(())
        } else {
            Err(Trouble::refused("nothing was done"))
        }
    }
}
