//! The watcher: looks at the claims that callers of this process wait for, when it is told to,
//! and at least once a second.

use tokio::task::spawn_local;

use super::connection::first;
use super::core::Core;
use super::row::{KeyRow, RowState};
use super::statement::Miss;
use super::statements::look::{LookAsk, Looked, WantAsk, Wanted};
use super::watches::Due;
use crate::Timestamp;
use crate::attempt::{Attempt, Ended};
use crate::clock::Deadline;
use crate::state::{Event, Phase, decide};
use crate::sync::{Arc, Ordering};
use crate::task::reply::Reply;

/// Watches until the runtime ends.
pub(super) async fn watch(core: Arc<Core>) {
    loop {
        let (due, next) = core.watches.due();
        if !due.is_empty() {
            look_at_all(&core, due);
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

/// A look that was sent.
enum Sent {
    Own(Result<Reply<Result<Looked, Miss>>, Miss>),
    Other(Result<Reply<Result<Wanted, Miss>>, Miss>),
}

/// All are sent before the first answer comes, so that they share statements. Each answer is waited
/// for by itself: a connection that falls silent delays those alone that it carries.
fn look_at_all(core: &Arc<Core>, due: Vec<Due>) {
    let deadline = core.deadline();
    for Due { attempt, is_own } in due {
        let digest = attempt.digest;
        let sent = if is_own {
            Sent::Own(core.send(LookAsk { digest }, deadline))
        } else {
            Sent::Other(core.send(WantAsk { digest, fence: attempt.fence }, deadline))
        };
        let core = Arc::clone(core);
        spawn_local(async move { look_at(&core, &attempt, sent, deadline).await });
    }
}

async fn look_at(core: &Core, attempt: &Attempt, sent: Sent, deadline: Deadline) {
    let seen = match sent {
        Sent::Own(Ok(look)) => look.get().await.unwrap_or(Err(Miss::Closed)).map(|looked| Seen {
            now: looked.now,
            is_told: true,
            row: looked.row,
        }),
        Sent::Other(Ok(want)) => want.get().await.unwrap_or(Err(Miss::Closed)).map(|wanted| Seen {
            now: wanted.now,
            // If the flag was neither there nor set, the row is locked or has changed since.
            is_told: wanted.is_flagged || wanted.row.as_ref().is_some_and(|row| row.wanted),
            row: wanted.row,
        }),
        Sent::Own(Err(miss)) | Sent::Other(Err(miss)) => Err(miss),
    };
    match seen.map(|seen| conclude(core, attempt, seen)) {
        Ok(None) => {}
        // Those of a group are answered together, so what they send shares a statement as well.
        Ok(Some(row)) => match core.lapses(&row, attempt.digest, deadline).await {
            Ok(true) => core.watches.ended(attempt, Ended::Interrupted),
            Ok(false) | Err(_) => core.watches.later(attempt, false),
        },
        Err(Miss::NotDone(failure) | Miss::Unknown(failure) | Miss::Unread(failure)) => {
            core.watches.failed(attempt, failure, core.options.call_timeout);
        }
        Err(Miss::Busy(_) | Miss::Closed) => core.watches.later(attempt, false),
    }
}

/// Ends the wait for a claim that has ended, or sets when it is looked at again. The row comes back
/// if its claim is over, and is to be made interrupted.
fn conclude(core: &Core, attempt: &Attempt, seen: Seen) -> Option<KeyRow> {
    let ended = match seen.row {
        None => Ended::Vacated,
        // The key has moved on since: a begin says how.
        Some(row) if row.fence != attempt.fence && is_after(&row, attempt) => Ended::Interrupted,
        Some(row) if row.fence != attempt.fence => Ended::Vacated,
        Some(row) => match row.state {
            RowState::Done => Ended::Done(row.record(attempt.digest)),
            RowState::Vacated => Ended::Vacated,
            RowState::Interrupted => Ended::Interrupted,
            RowState::InFlight => {
                let decision = decide(row.state(), Event::Sweep { now: seen.now });
                if decision.becomes() == Some(Phase::Interrupted) {
                    return Some(row);
                }
                let is_told = seen.is_told && core.is_listening.load(Ordering::Relaxed);
                core.watches.later(attempt, is_told);
                return None;
            }
        },
    };
    core.watches.ended(attempt, ended);
    None
}

/// Whether the row has a later attempt than this one, which was interrupted then. One that was put
/// back, or withdrawn, has left the number of the attempt before.
fn is_after(row: &KeyRow, attempt: &Attempt) -> bool {
    let stands_on_it = row.stands_on().is_some_and(|earlier| earlier.info.fence() == attempt.fence);
    row.attempt > attempt.number || stands_on_it
}
