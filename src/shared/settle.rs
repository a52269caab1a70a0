//! Loose ends are settled: claims that were dropped, and grants whose caller went away.

use super::connection::first;
use super::core::Core;
use super::statement::Miss;
use super::statements::end::GentleEnd;
use crate::clock::Deadline;
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
            let is_settled = match answer {
                Ok(ended) if ended.is_done => true,
                Ok(ended) => !ended.is_locked && end.until.is_none_or(Deadline::has_passed),
                Err(_) => false,
            };
            if !is_settled {
                core.loose_ends.put_back(end);
                continue;
            }
            if let Some((attempt, ended)) = end.attempt {
                core.watches.remove_own(&attempt);
                attempt.end(ended);
            }
        }
        core.loose_ends.settled();
    }
}
