//! Loose ends are settled: claims that were dropped, and grants whose caller went away.

use super::connection::first;
use super::core::Core;
use super::loose_ends::LooseEnd;
use super::row::{KeyRow, RowState};
use super::statement::Miss;
use super::statements::end::{Ended, GentleEnd};
use super::statements::look::LookAsk;
use crate::attempt::Ended as How;
use crate::clock::Deadline;
use crate::engine::common::counters::Counters;
use crate::sync::Arc;

/// Settles until the runtime ends.
pub(super) async fn settle(core: Arc<Core>) {
    loop {
        let (due, next) = core.loose_ends.take_due();
        if due.is_empty() {
            let called = core.loose_ends.called.notified();
            match next {
                Some(at) => first(tokio::time::sleep_until(at.into()), called).await,
                None => called.await,
            }
            continue;
        }
        let deadline = core.deadline();
        let sent: Vec<_> =
            due.into_iter().map(|end| (core.send(GentleEnd(end.end.clone()), deadline), end)).collect();
        for (answer, end) in sent {
            let answer = match answer {
                Ok(answer) => answer.get().await.unwrap_or(Err(Miss::Closed)),
                Err(miss) => Err(miss),
            };
            if !settled(&core, &end, answer).await {
                core.loose_ends.put_back(end);
            }
        }
        core.loose_ends.settled();
    }
}

/// Whether a loose end is settled by this answer.
async fn settled(core: &Core, end: &LooseEnd, answer: Result<Ended, Miss>) -> bool {
    let Ok(ended) = answer else { return false };
    let Some(attempt) = &end.attempt else {
        return ended.is_done || !ended.is_locked && end.until.is_none_or(Deadline::has_passed);
    };
    let how = if ended.is_done {
        attempt.interrupt(ended.now);
        core.note_drop(attempt);
        How::Interrupted
    } else if ended.is_locked {
        return false;
    } else {
        // It had ended: by a transaction of which no word was said, by this end, or with its lease.
        let Ok(looked) = core.ask(LookAsk { digest: attempt.digest }, core.deadline()).await else {
            return false;
        };
        let is_its_own = |row: &KeyRow| row.nonce == end.end.nonce && row.fence == attempt.fence;
        match looked.row.filter(is_its_own) {
            Some(row) if row.state == RowState::Done => {
                let record = row.record(attempt.digest);
                core.note_result(attempt, &record);
                How::Done(record)
            }
            // By this end, whose answer got lost: a lease that is over ends the claim no sooner.
            Some(row) if row.state == RowState::Interrupted && row.interrupted_at() < row.lease => {
                attempt.interrupt(row.interrupted_at());
                core.note_drop(attempt);
                How::Interrupted
            }
            _ => {
                Counters::count(&core.counters.lease_expired);
                How::Interrupted
            }
        }
    };
    core.watches.remove_own(attempt);
    attempt.end(how);
    true
}
