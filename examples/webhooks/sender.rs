//! Senders: one delivery of one event, from the first begin to an answer.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use idemkv::{Begin, BeginError, Fingerprint, Record, Scope, Status, Waited};

use crate::Result;
use crate::event::Event;
use crate::handler::{Handled, Handler, PlannedPanic, check};
use crate::plan::{self, Mishap};
use crate::tally::Count;

/// How long a delivery waits for another one's claim before it gives up.
const WAIT_MAX: Duration = Duration::from_secs(5);

/// An event on its way to the service.
#[derive(Debug)]
pub(crate) struct Sender {
    pub(crate) event: Event,
    pub(crate) scope: Scope,
    /// The payload that somebody else sends under this event's key.
    pub(crate) other: Option<Fingerprint>,
    /// Whether this event's mishap has happened in this process.
    tripped: AtomicBool,
}

/// What a sender is told.
#[derive(Debug)]
enum Answer {
    /// The outcome of the event.
    Reply(Record),
    /// The handler got nowhere, and its key is vacant.
    Released,
    /// The handler panicked, and its key is interrupted.
    Panicked,
    /// Not now.
    ComeBack,
}

impl Sender {
    pub(crate) fn new(event: Event, scope: Scope, other: Option<Fingerprint>) -> Self {
        let other = other.filter(|other| *other != event.fingerprint && plan::is_reused(event.line));
        Self { event, scope, other, tripped: AtomicBool::new(false) }
    }

    /// Whether the event has its outcome.
    pub(crate) fn is_done(&self) -> Result<bool> {
        Ok(matches!(self.scope.get(&self.event.key)?, Status::Done(_)))
    }

    /// Delivers the event once, and for some events another payload under the same key.
    pub(crate) fn deliver(&self, handler: &Handler) -> Result<()> {
        let known = match self.attempt(handler)? {
            Answer::Reply(record) => check(&record, &self.event).map(|()| true)?,
            Answer::Panicked => true,
            // The key is vacant, or may be: the next delivery is the first.
            Answer::Released | Answer::ComeBack => false,
        };
        handler.tally.add(Count::Deliveries, 1);
        match self.other {
            Some(other) if known => self.intrude(handler, other),
            Some(_) | None => Ok(()),
        }
    }

    /// Asks, until there is an answer. Of several deliveries that wait for a claim that comes to
    /// nothing one gets the next.
    fn attempt(&self, handler: &Handler) -> Result<Answer> {
        loop {
            match self.scope.begin(&self.event.key, self.event.fingerprint) {
                Ok(Begin::Fresh(claim)) => {
                    handler.tally.add(Count::Fresh, 1);
                    // A panic takes the claim with it; that is what makes its key interrupted.
                    let run = AssertUnwindSafe(|| handler.run(claim, &self.event, self.mishap()));
                    return match catch_unwind(run) {
                        Ok(ended) => Ok(match ended? {
                            Handled::Ended(record) => Answer::Reply(record),
                            Handled::Released => Answer::Released,
                        }),
                        Err(payload) if payload.is::<PlannedPanic>() => Ok(Answer::Panicked),
                        Err(payload) => resume_unwind(payload),
                    };
                }
                Ok(Begin::InFlight(pending)) => match pending.wait_timeout(WAIT_MAX)? {
                    Waited::Done(record) => {
                        handler.tally.add(Count::Waited, 1);
                        return Ok(Answer::Reply(record));
                    }
                    Waited::Vacant | Waited::Interrupted => {}
                    Waited::TimedOut => return Ok(come_back(handler)),
                },
                Ok(Begin::Done(record)) => {
                    handler.tally.add(Count::Replayed, 1);
                    return Ok(Answer::Reply(record));
                }
                Err(error) if error.is_retryable() => return Ok(come_back(handler)),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends another payload under the key, which is in flight, interrupted or done, and has to be
    /// refused.
    fn intrude(&self, handler: &Handler, other: Fingerprint) -> Result<()> {
        match self.scope.begin(&self.event.key, other) {
            Err(BeginError::KeyReused) => {
                handler.tally.add(Count::Reused, 1);
                handler.tally.add(Count::Deliveries, 1);
                Ok(())
            }
            answer => {
                Err(format!("the key of line {} was reused, and got {answer:?}", self.event.line).into())
            }
        }
    }

    /// The event's mishap, the first time it is asked for.
    fn mishap(&self) -> Mishap {
        if self.tripped.swap(true, Ordering::Relaxed) { Mishap::None } else { Mishap::of(self.event.line) }
    }
}

fn come_back(handler: &Handler) -> Answer {
    handler.tally.add(Count::ComeBack, 1);
    Answer::ComeBack
}
