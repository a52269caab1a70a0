//! The handler of an event: what a service does with a claim.

use std::process::abort;
use std::thread::sleep;
use std::time::Duration;

use idemkv::{Claim, Outcome, Record};

use crate::Result;
use crate::event::Event;
use crate::journal::{Journal, Verdict};
use crate::plan::{self, Mishap};
use crate::tally::{Count, Tally};

/// What a planned panic carries, to be told from one that is a bug.
#[derive(Debug)]
pub(crate) struct PlannedPanic;

/// How a handler ended its claim.
#[derive(Debug)]
pub(crate) enum Handled {
    /// With an outcome.
    Ended(Record),
    /// Without one, and without an effect.
    Released,
}

/// Handles events: has an effect on another system, and stores the reply.
#[derive(Debug)]
pub(crate) struct Handler {
    /// The other system.
    pub(crate) effects: Journal,
    /// Outcomes that the engine has acknowledged. Not one of them may be lost.
    pub(crate) acknowledged: Journal,
    pub(crate) tally: Tally,
    /// The effect after which the process aborts.
    pub(crate) crash_after: Option<u64>,
}

impl Handler {
    /// Does what the claim gives the right to.
    ///
    /// # Panics
    ///
    /// Where the mishap is a panic.
    pub(crate) fn run(&self, claim: Claim, event: &Event, mishap: Mishap) -> Result<Handled> {
        if claim.interrupted().is_some() {
            self.tally.add(Count::Interrupted, 1);
            // The attempt before this one died, perhaps with its effect behind it. A handler that
            // acts now without asking charges twice. One that asks first, as here, completes the
            // claim with what happened then.
            if let Some(verdict) = self.effects.find(event.line) {
                self.tally.add(Count::Found, 1);
                return self.end(claim, event, verdict);
            }
        }
        match mishap {
            Mishap::PanicBefore => self.panic(),
            Mishap::Unreachable => {
                // Nothing happened, for certain: say so. An interruption before this attempt
                // stands.
                claim.release()?;
                self.tally.add(Count::Released, 1);
                return Ok(Handled::Released);
            }
            Mishap::None | Mishap::Declined | Mishap::PanicAfter => {}
        }
        sleep(Duration::from_micros(plan::work_us(event.line)));
        let verdict = verdict_on(event);
        self.effects.append(event.line, verdict)?;
        if Some(self.tally.add(Count::Effects, 1)) == self.crash_after {
            // No farewell: this claim and those of the other threads are out, and what is queued
            // is lost.
            abort();
        }
        if mishap == Mishap::PanicAfter {
            self.panic();
        }
        self.end(claim, event, verdict)
    }

    fn end(&self, claim: Claim, event: &Event, verdict: Verdict) -> Result<Handled> {
        let reply = reply(event, verdict);
        let record = match verdict {
            Verdict::Accepted => claim.complete(reply)?,
            Verdict::Declined => claim.fail(reply)?,
        };
        self.acknowledged.append(event.line, verdict)?;
        self.tally.add(if verdict == Verdict::Accepted { Count::Completed } else { Count::Failed }, 1);
        Ok(Handled::Ended(record))
    }

    fn panic(&self) {
        self.tally.add(Count::Panicked, 1);
        std::panic::panic_any(PlannedPanic);
    }
}

/// What the other system makes of an event.
fn verdict_on(event: &Event) -> Verdict {
    if Mishap::of(event.line) == Mishap::Declined { Verdict::Declined } else { Verdict::Accepted }
}

/// The reply that a sender gets, now and in every retry. It has the payload in it, so that no two
/// are alike.
fn reply(event: &Event, verdict: Verdict) -> String {
    format!("{} {} {}\n{}", verdict.name(), event.name, event.key, event.payload)
}

/// Checks that a record is the one that the handler of this event stored.
pub(crate) fn check(record: &Record, event: &Event) -> Result<()> {
    let verdict = verdict_on(event);
    let outcome = match verdict {
        Verdict::Accepted => Outcome::Success,
        Verdict::Declined => Outcome::Failure,
    };
    if record.outcome() == outcome && record.body() == reply(event, verdict).as_bytes() {
        return Ok(());
    }
    let body = String::from_utf8_lossy(record.body());
    let body = body.lines().next().unwrap_or("nothing");
    Err(format!("line {} ({}) was answered with {:?} {body}", event.line, event.name, record.outcome())
        .into())
}
