//! `idemkv export`: all keys as JSON lines.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use idemkv::{Engine, Verify};

use crate::answer::{Answer, Trouble};
use crate::entry::{Detail, Entry, line};
use crate::saved;
use crate::working::{Working, shown};

#[derive(Debug, Args)]
pub(crate) struct Export {
    file: PathBuf,
    /// Read on where pages are damaged: what is written is right, and some is missing
    #[arg(long)]
    unverified: bool,
}

const STEP_KEYS: &str = "Step keys are derived from a secret of the file, which no export has. In a file made of this \
                         export the step keys are others: a downstream service does not recognise an operation that is \
                         run again there. Tables of the application are not in an export \
                         either. A backup has both.";

impl Export {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let verify = if self.unverified { Verify::UpTo(0) } else { Verify::default() };
        let engine = Engine::options().read_only().verify(verify).open(&self.file)?;
        writeln!(out, "{}", line(&saved::header(&engine)))?;
        let (mut end, mut answer) = (saved::End::default(), Answer::Fine);
        for (scope, policy) in engine.policies() {
            writeln!(out, "{}", line(&saved::policy(&scope, &policy)))?;
            end.policies += 1;
        }
        let working = Working::beside_lines(format!("reads keys of {}", shown(&self.file)));
        for entry in engine.entries() {
            working.count();
            match entry {
                Ok(entry) => {
                    let Some(entry) = Entry::of(&entry) else { continue };
                    writeln!(out, "{}", line(&entry.to_json(Detail::Full)))?;
                    end.keys += 1;
                }
                Err(error) => {
                    end.unread += 1;
                    answer = answer.and(Trouble::from(error).answer());
                }
            }
        }
        drop(working);
        writeln!(out, "{}", line(&end.line()))?;
        out.flush()?;
        eprintln!("{} keys written. {STEP_KEYS}", end.keys);
        if end.unread > 0 {
            eprintln!("{} keys can't be read, and are missing", end.unread);
        }
        Ok(answer)
    }
}
