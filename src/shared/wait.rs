//! The watcher: looks at the claims that callers of this process wait for, when it is told to,
//! and at least once a second.

use super::connection::first;
use super::core::Core;
use super::row::{KeyRow, RowState};
use super::statement::Miss;
use super::statements::change::ChangeAsk;
use super::statements::look::{LookAsk, WantAsk};
use super::watches::Due;
use crate::Timestamp;
use crate::attempt::{Attempt, Ended};
use crate::state::{Event, Phase, decide};
use crate::sync::{Arc, Ordering};

/// Watches until the runtime ends.
pub(super) async fn watch(core: Arc<Core>) {
    loop {
        let (due, next) = core.watches.due();
        if !due.is_empty() {
            look_at_all(&core, due).await;
            continue;
        }
        let called = core.watches.called.notified();
        match next {
            Some(at) => first(tokio::time::sleep_until(at.into()), called).await,
            None => called.await,
        }
    }
}

/// A row as it came back; for a claim of another process also whether its end will be told.
struct Seen {
    now: Timestamp,
    is_told: bool,
    row: Option<KeyRow>,
}

async fn look_at_all(core: &Arc<Core>, due: Vec<Due>) {
    let deadline = core.deadline();
    let mut looks = Vec::new();
    // All are sent before the first answer is awaited, so that they share a statement.
    for Due { attempt, is_own } in due {
        let digest = attempt.digest;
        let (own, other) = if is_own {
            (Some(core.send(LookAsk { digest }, deadline)), None)
        } else {
            (None, Some(core.send(WantAsk { digest, fence: attempt.fence }, deadline)))
        };
        looks.push((attempt, own, other));
    }
    for (attempt, own, other) in looks {
        let seen = match (own, other) {
            (Some(Ok(look)), _) => look.get().await.unwrap_or(Err(Miss::Closed)).map(|looked| Seen {
                now: looked.now,
                is_told: true,
                row: looked.row,
            }),
            (_, Some(Ok(want))) => want.get().await.unwrap_or(Err(Miss::Closed)).map(|wanted| Seen {
                now: wanted.now,
                // If the flag was neither there nor set, the row is locked or has changed since.
                is_told: wanted.is_flagged || wanted.row.as_ref().is_some_and(|row| row.wanted),
                row: wanted.row,
            }),
            (Some(Err(miss)), _) | (_, Some(Err(miss))) => Err(miss),
            (None, None) => continue,
        };
        match seen {
            Ok(seen) => conclude(core, &attempt, seen).await,
            Err(Miss::NotDone(failure) | Miss::Unknown(failure)) => {
                core.watches.failed(&attempt, failure, core.options.call_timeout);
            }
            Err(Miss::Busy(_) | Miss::Closed) => core.watches.later(&attempt, false),
        }
    }
}

async fn conclude(core: &Arc<Core>, attempt: &Arc<Attempt>, seen: Seen) {
    let ended = match seen.row {
        None => Some(Ended::Vacated),
        // The key has moved on since: a begin says how.
        Some(row) if row.fence != attempt.fence && row.attempt > attempt.number => Some(Ended::Interrupted),
        Some(row) if row.fence != attempt.fence => Some(Ended::Vacated),
        Some(row) => match row.state {
            RowState::Done => Some(Ended::Done(row.record(attempt.digest))),
            RowState::Vacated => Some(Ended::Vacated),
            RowState::Interrupted => Some(Ended::Interrupted),
            RowState::InFlight => {
                let decision = decide(row.state(), Event::Sweep { now: seen.now });
                let is_over = decision.becomes() == Some(Phase::Interrupted);
                if is_over { lapse(core, attempt, &row).await } else { None }
            }
        },
    };
    if let Some(ended) = ended {
        core.watches.ended(attempt, ended);
    } else {
        let is_told = seen.is_told && core.is_listening.load(Ordering::Relaxed);
        core.watches.later(attempt, is_told);
    }
}

/// Makes a claim interrupted whose lease is over.
async fn lapse(core: &Core, attempt: &Attempt, row: &KeyRow) -> Option<Ended> {
    let change =
        ChangeAsk { digest: attempt.digest, seen: (row.fence, row.state), to: RowState::Interrupted };
    let changed = core.ask(change, core.deadline()).await;
    let is_done = changed.is_ok_and(|changed| changed.is_done);
    is_done.then(|| {
        core.note_lapse(row, attempt.digest);
        Ended::Interrupted
    })
}
