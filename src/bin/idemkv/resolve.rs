//! `idemkv resolve`: an interrupted key gets the outcome that its operation had.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
#[cfg(feature = "http")]
use idemkv::Outcome;
use idemkv::{Completion, Engine, ResolveError};

use crate::answer::{Answer, Trouble};
use crate::asking::Consent;
use crate::entry::{Entry, MAY_BE_AT_WORK, State, describe, summary};
#[cfg(feature = "http")]
use crate::http_response::HttpResponse;
use crate::selection::Selection;
use crate::{names, opening, spans};

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    file: PathBuf,
    #[command(flatten)]
    key: Selection,
    /// How the operation ended, in whichever attempt
    #[arg(long = "as", value_enum, value_name = "OUTCOME")]
    outcome: HowItEnded,
    /// The result that retries get
    #[arg(long, conflicts_with = "body_file")]
    body: Option<String>,
    /// A file with that result
    #[arg(long, value_name = "PATH")]
    body_file: Option<PathBuf>,
    #[cfg(feature = "http")]
    #[command(flatten)]
    response: HttpResponse,
    /// For how long the result is replayed, such as 24h; the scope's policy says it if there is
    /// one
    #[arg(long, value_parser = spans::parse, value_name = "SPAN")]
    ttl: Option<Duration>,
    /// For how long the key is remembered in all, such as 7d: a retry that comes after the TTL is
    /// told so, and runs nothing. If it is as long as the TTL, such a retry runs the operation. The
    /// scope's policy says it if there is one
    #[arg(long, value_parser = spans::parse, value_name = "SPAN")]
    remember: Option<Duration>,
    #[command(flatten)]
    consent: Consent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum HowItEnded {
    /// It took effect
    Completed,
    /// It failed, and a retry must get that failure
    Failed,
    /// It certainly did not happen, in no attempt: a retry runs it
    DidNotHappen,
}

impl Resolve {
    pub(crate) fn run(self, out: &mut impl Write) -> Result<Answer, Trouble> {
        let body = self.body()?;
        let (engine, (entry, kept)) =
            opening::to_change(&self.file, self.consent, |engine| self.plan(engine, body.len()))?;
        let resolved = resolve(&engine, &entry, self.outcome, &body, kept);
        opening::close_after(engine, resolved, out, |(), out| {
            writeln!(out, "resolved: {}", describe(&entry))?;
            Ok(Answer::Fine)
        })
    }

    fn body(&self) -> Result<Vec<u8>, Trouble> {
        let body = match (&self.body, &self.body_file) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(path)) => Some(fs::read(path)?),
            (None, None) => None,
        };
        #[cfg(feature = "http")]
        if self.outcome == HowItEnded::DidNotHappen && self.response.is_given() {
            return Err(Trouble::refused(
                "an operation that did not happen has no response: leave its status out",
            ));
        }
        if self.outcome == HowItEnded::DidNotHappen && (self.ttl.is_some() || self.remember.is_some()) {
            return Err(Trouble::refused(
                "an operation that did not happen leaves nothing to remember: leave --ttl and --remember out",
            ));
        }
        match (self.outcome, body) {
            (HowItEnded::DidNotHappen, Some(_)) => {
                Err(Trouble::refused("an operation that did not happen has no result: leave the body out"))
            }
            (HowItEnded::DidNotHappen, None) => Ok(Vec::new()),
            (HowItEnded::Completed | HowItEnded::Failed, body) => {
                let body = body.ok_or_else(|| {
                    Trouble::refused(
                        "retries get the result: give it with --body or --body-file (it may be empty)",
                    )
                })?;
                self.in_form(body)
            }
        }
    }

    /// The result in the form in which it is stored.
    #[cfg(feature = "http")]
    fn in_form(&self, body: Vec<u8>) -> Result<Vec<u8>, Trouble> {
        let is_failure = self.outcome == HowItEnded::Failed;
        self.response.stored(if is_failure { Outcome::Failure } else { Outcome::Success }, body)
    }

    /// The result in the form in which it is stored.
    #[cfg(not(feature = "http"))]
    #[expect(clippy::unnecessary_wraps, clippy::unused_self, reason = "with the feature `http` it may fail")]
    fn in_form(&self, body: Vec<u8>) -> Result<Vec<u8>, Trouble> {
        Ok(body)
    }

    /// Gives the key, and the times that the plan names: the claim has those of its begin, which
    /// may differ.
    fn plan(&self, engine: &Engine, body_len: usize) -> Result<(Vec<String>, (Entry, Completion)), Trouble> {
        let entry = self.key.find(engine)?;
        if entry.state != State::Interrupted {
            return Err(Trouble::refused(format_args!(
                "{} is {}: only a key that is {} can be resolved",
                describe(&entry),
                entry.state.name(),
                State::Interrupted.name()
            )));
        }
        let known = format!("{} is {}; {MAY_BE_AT_WORK}", describe(&entry), summary(&entry));
        let result = match self.outcome {
            HowItEnded::Completed => "success",
            HowItEnded::Failed => "failure",
            HowItEnded::DidNotHappen => {
                let effect = "the next request with it runs the operation, as the first".to_owned();
                return Ok((vec![known, effect], (entry, Completion::new())));
            }
        };
        let (replayed, remembered) = self.times(engine, &entry)?;
        let kept = spans::show(replayed);
        let effect = format!("retries get a {result} of {body_len} bytes, for {kept}");
        let after = if remembered > replayed {
            let in_all = spans::show(remembered);
            format!(
                "after that, retries are told that they come too late: the key is remembered for {in_all} in all"
            )
        } else {
            format!("a retry that comes after {kept} runs the operation again")
        };
        let times = Completion::new().ttl(replayed).tombstone_ttl(remembered);
        Ok((vec![known, effect, after], (entry, times)))
    }

    /// For how long the result is replayed, and the key remembered. A service's default policy is
    /// not in its file, so where the scope has no policy of its own, a person has to say both.
    fn times(&self, engine: &Engine, entry: &Entry) -> Result<(Duration, Duration), Trouble> {
        let policies = engine.policies();
        let declared = policies.iter().find(|(scope, _)| **scope == *entry.scope).map(|(_, policy)| policy);
        let times = match (self.ttl, self.remember, declared) {
            (Some(ttl), Some(remembered), _) => (ttl, remembered),
            (ttl, remembered, Some(policy)) => {
                let ttl = ttl.unwrap_or(policy.get_ttl());
                let kept = policy.get_tombstone_ttl().map_or(ttl, |kept| kept.max(ttl));
                (ttl, remembered.unwrap_or(kept))
            }
            (_, _, None) => {
                return Err(Trouble::refused(format_args!(
                    "scope \"{}\" has no policy in the file, so this command can't know for how long the service keeps \
                     results, and remembers keys after that: give --ttl and --remember",
                    names::escaped(&entry.scope)
                )));
            }
        };
        if times.1 < times.0 {
            return Err(Trouble::refused(format_args!(
                "a key is remembered for as long as its result is replayed, at least: give --remember {} or more",
                spans::show(times.0)
            )));
        }
        Ok(times)
    }
}

/// Resolves the interruption that was shown. The file was closed since, and a service may have
/// changed the key.
fn resolve(
    engine: &Engine,
    shown: &Entry,
    outcome: HowItEnded,
    body: &[u8],
    how: Completion,
) -> Result<(), Trouble> {
    let claim = match engine.scope(&shown.scope).resolve_if(&shown.key, shown.fence()) {
        Ok(claim) => claim,
        Err(ResolveError::NotInterrupted(_) | ResolveError::AnotherAttempt(_)) => {
            return Err(opening::changed(engine, shown));
        }
        Err(error) => return Err(Trouble::refused(error)),
    };
    let ended = match outcome {
        HowItEnded::Completed => claim.complete_with(body, how).map(drop),
        HowItEnded::Failed => claim.fail_with(body, how).map(drop),
        HowItEnded::DidNotHappen => claim.release(),
    };
    ended.map_err(|error| {
        let trouble = Trouble::refused(&error);
        // Nothing was written, and the key becomes what it was. If that fails, the claim is lost,
        // as it is in a crash.
        if let Some(claim) = error.into_claim() {
            claim.put_back().ok();
        }
        trouble
    })
}

#[cfg(test)]
mod tests {
    use idemkv::Status;

    use super::*;
    use crate::opening::tests::{lose, open, shown};

    /// Between the question and the answer a service has run it again, and was killed.
    #[test]
    fn an_attempt_that_was_lost_while_the_question_stood_is_not_resolved() {
        let (file, before) = shown();
        let engine = open(&file);
        lose(&engine);
        let status = || engine.scope(&before.scope).get(&before.key).unwrap();
        for outcome in [HowItEnded::Completed, HowItEnded::Failed, HowItEnded::DidNotHappen] {
            let refused = resolve(&engine, &before, outcome, b"", Completion::new()).unwrap_err();
            assert!(refused.to_string().contains("attempt 2"), "{refused}");
            assert!(matches!(status(), Status::Interrupted(now) if now.attempt() == 2), "{outcome:?}");
        }
    }

    #[test]
    fn a_result_that_is_too_long_leaves_the_key_as_it_was() {
        let (file, before) = shown();
        let engine = open(&file);
        let result = vec![0; 100 << 20];
        resolve(&engine, &before, HowItEnded::Completed, &result, Completion::new()).unwrap_err();
        let Status::Interrupted(now) = engine.scope(&before.scope).get(&before.key).unwrap() else {
            unreachable!("it stays interrupted")
        };
        assert_eq!((now.attempt(), now.fence()), (1, before.fence()));
        assert_eq!(now.interrupted_at(), before.since());
    }
}
