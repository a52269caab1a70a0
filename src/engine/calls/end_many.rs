//! Many ends of claims in one call.

use std::time::Duration;

use crate::clock::Deadline;
use crate::engine::common::end_request::NewResult;
use crate::engine::common::untold::Untold;
use crate::engine::file::pending_end::PendingEnd;
use crate::error::EndError;
use crate::record::Record;
use crate::task::caller::Caller;

impl PendingEnd {
    /// Waits for log space, if it needs any, but not for the end of claims: the batch may hold
    /// those itself.
    async fn with_space(self, deadline: Deadline) -> Self {
        match self {
            Self::Waits(claim, outcome, body, completion) => {
                let result = NewResult { outcome, body: &body, completion };
                claim.complete_with_space(Caller::Member, result, Some(deadline)).await
            }
            Self::Queued(_) | Self::Released | Self::Superseded(..) | Self::Refused(_) => self,
        }
    }

    /// Waits for all ends of a batch: first for the queued ones, which free log space; then for
    /// those that need space, which share one deadline.
    pub(in crate::engine) async fn all_acknowledged(
        caller: Caller,
        ends: Vec<Self>,
        queue_timeout: Duration,
    ) -> Vec<Result<Untold<Option<Record>>, EndError>> {
        let mut results: Vec<_> = ends.iter().map(|_| None).collect();
        let mut waiting = Vec::new();
        for (end, result) in ends.into_iter().zip(&mut results) {
            match end {
                Self::Waits(..) => waiting.push((end, result)),
                // In place: a future would move each end twice more.
                Self::Queued(queued) if caller == Caller::Thread => *result = Some(queued.wait()),
                Self::Queued(_) | Self::Released | Self::Superseded(..) | Self::Refused(_) => {
                    *result = Some(end.acknowledged(caller).await);
                }
            }
        }
        let deadline = Deadline::after(queue_timeout);
        let mut ready = Vec::with_capacity(waiting.len());
        for (end, result) in waiting {
            let end = end.with_space(deadline).await;
            if caller != Caller::Thread {
                end.call_leader();
            }
            ready.push((end, result));
        }
        for (end, result) in ready {
            *result = Some(end.acknowledged(caller).await);
        }
        let settled = |result: Option<_>| result.unwrap_or_else(|| unreachable!("every claim has a result"));
        results.into_iter().map(settled).collect()
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use crate::Status;
    use crate::commit::Duty;
    use crate::engine::calls::lookup::tests::{claim, open};

    /// The body of the second claim panics as it is looked at.
    struct Body(bool);

    impl AsRef<[u8]> for Body {
        fn as_ref(&self) -> &[u8] {
            assert!(!self.0, "a bad body");
            b"reply"
        }
    }

    #[test]
    fn ends_before_a_body_that_panics_are_written_though_nobody_waits_for_them() {
        let engine = open();
        let claims = [("one", Body(false)), ("two", Body(true))];
        let claims = claims.map(|(key, body)| (claim(&engine, key), body)).into_iter().collect();
        assert!(catch_unwind(AssertUnwindSafe(|| engine.complete_many(claims))).is_err());
        // What idemkv-commit does when it is called.
        engine.handle.core().commit.lead_if_called(Duty::Sole);
        let found = ["one", "two"].map(|key| engine.default_scope().get(key).unwrap());
        assert!(matches!(found, [Status::Done(_), Status::Interrupted(_)]), "{found:?}");
    }
}
