//! What the command is told: its subcommands and their arguments.

use std::io::Write;

use clap::{CommandFactory, Parser, Subcommand};

use crate::answer::{Answer, Trouble};
use crate::{
    backup, bench, compact, completions, doctor, export, forget, get, import, list, man, resolve, restore,
    stats, verify,
};

/// Looks into a file of idemkv, and mends it.
///
/// What only looks changes nothing. What changes something says what it would do, and asks;
/// `--yes` answers for scripts.
#[derive(Debug, Parser)]
#[command(name = "idemkv", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, sound; 1 refused, or an error; 2 wrong arguments; 3 damaged; \
                          4 inconclusive; 5 the file is in use; 6 no such key; 7 done, but the file could not be \
                          closed, or the output not be written";

#[derive(Debug, Subcommand)]
enum Command {
    /// Counts keys by state and scope, and shows sizes
    Stats(stats::Stats),
    /// Lists keys
    List(list::List),
    /// Shows one key and its result
    Get(get::Get),
    /// Gives an interrupted key the outcome that its operation had
    Resolve(resolve::Resolve),
    /// Forgets a key, so that its operation may run again
    Forget(forget::Forget),
    /// Reads everything and says: sound, damaged or inconclusive
    Verify(verify::Verify),
    /// Gives free room in the file back to the disk
    Compact(compact::Compact),
    /// Writes a backup: one file, verified
    Backup(backup::Backup),
    /// Puts a backup in the place of a file, which is moved aside
    Restore(restore::Restore),
    /// Writes all keys as JSON lines
    Export(export::Export),
    /// Makes a new file of an export
    Import(import::Import),
    /// Copies all keys of a file into the tables of a shared store
    #[cfg(feature = "postgres")]
    Copy(crate::copy::Copy),
    /// Brings the tables of a shared store up to this version, or makes them
    #[cfg(feature = "postgres")]
    Migrate(crate::migrate::Migrate),
    /// Says what is wrong with a file, what can be saved, and what to do
    Doctor(doctor::Doctor),
    /// Measures this disk and the engine, side by side
    Bench(bench::Bench),
    /// Prints the completions of a shell
    Completions(completions::Completions),
    /// Prints the manual page
    Man(man::Man),
}

impl Arguments {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        match self.command {
            Command::Stats(stats) => stats.run(out),
            Command::List(list) => list.run(out),
            Command::Get(get) => get.run(out),
            Command::Resolve(resolve) => resolve.run(out),
            Command::Forget(forget) => forget.run(out),
            Command::Verify(verify) => verify.run(out),
            Command::Compact(compact) => compact.run(out),
            Command::Backup(backup) => backup.run(out),
            Command::Restore(restore) => restore.run(out),
            Command::Export(export) => export.run(out),
            Command::Import(import) => import.run(out),
            #[cfg(feature = "postgres")]
            Command::Copy(copy) => copy.run(out),
            #[cfg(feature = "postgres")]
            Command::Migrate(migrate) => migrate.run(out),
            Command::Doctor(doctor) => doctor.run(out),
            Command::Bench(bench) => bench.run(out),
            Command::Completions(completions) => completions.run(Self::command(), out),
            Command::Man(man) => man.run(Self::command(), out),
        }
    }
}
