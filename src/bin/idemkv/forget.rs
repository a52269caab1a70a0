//! `idemkv forget`: a key's operation may run again.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use idemkv::{Engine, Seen};

use crate::answer::{Answer, Trouble};
use crate::asking::Consent;
use crate::entry::{Entry, MAY_BE_AT_WORK, State, describe, summary};
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
        let (engine, entry) = opening::to_change(&self.file, self.consent, |engine| self.plan(engine))?;
        let forgotten = forget(&engine, &entry);
        opening::close_after(engine, forgotten, out, |(), out| {
            writeln!(out, "forgotten: {}", describe(&entry))?;
            Ok(Answer::Fine)
        })
    }

    fn plan(&self, engine: &Engine) -> Result<(Vec<String>, Entry), Trouble> {
        let entry = self.key.find(engine)?;
        if entry.state == State::InFlight {
            // By the answer it may be done.
            return Err(Trouble::refused("the key is in flight: only its own claim can end it"));
        }
        let line = format!(
            "forgets {}, which is {}: the next request with it runs the operation again",
            describe(&entry),
            summary(&entry)
        );
        let warning = (entry.state == State::Interrupted).then(|| MAY_BE_AT_WORK.to_owned());
        Ok(([line].into_iter().chain(warning).collect(), entry))
    }
}

/// Forgets what was shown. The file was closed since, and a service may have changed the key.
fn forget(engine: &Engine, shown: &Entry) -> Result<(), Trouble> {
    let scope = engine.scope(&shown.scope);
    let seen = match shown.state {
        State::Interrupted => Seen::Interruption(shown.fence()),
        State::InFlight | State::Done | State::Expired => Seen::Result(shown.fence()),
    };
    if scope.forget_if(&shown.key, seen).map_err(Trouble::refused)? {
        return Ok(());
    }
    Err(opening::changed(engine, shown))
}

#[cfg(test)]
mod tests {
    use idemkv::Status;

    use super::*;
    use crate::opening::tests::{lose, open, retry, shown};

    /// Between the question and the answer a service has run it again.
    #[test]
    fn what_came_while_the_question_stood_is_not_forgotten() {
        let (file, before) = shown();
        let engine = open(&file);
        lose(&engine);
        let refused = forget(&engine, &before).unwrap_err();
        assert!(refused.to_string().contains("interrupted since"), "{refused}");
        retry(&engine);
        let refused = forget(&engine, &before).unwrap_err();
        assert!(refused.to_string().contains("now it is done"), "{refused}");
        assert!(matches!(engine.scope(&before.scope).get(&before.key), Ok(Status::Done(_))));
    }
}
