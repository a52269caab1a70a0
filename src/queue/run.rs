//! One message after the other: begin, run the handler, store the result.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;

use futures_util::FutureExt;

use super::groups::Item;
use super::settled::{Reason, Settled, Settlement};
use crate::error::{BeginError, EndError, Failure};
use crate::fault::Fault;
use crate::foreign::discard;
use crate::{Begin, Claim, Completion, Ending, Outcome, Record, Scope};

/// A handler that runs: the return value of the last argument of
/// [`Consumer::handle`](super::Consumer::handle), made with `Box::pin(async move { .. })`. The
/// bytes are the result, which is stored.
///
/// - `Ok`: done. Bad news, such as a declined card, is a result too.
/// - [`Fault::Final`]: this message can't be handled, now or later. It is stored, and the message
///   becomes a dead letter.
/// - [`Fault::Retry`]: nothing was done. The message comes again.
/// - [`Fault::Unknown`]: the effect may have happened. The key is interrupted.
pub type Handling<'c> = Pin<Box<dyn Future<Output = Result<Vec<u8>, Fault<Vec<u8>>>> + Send + 'c>>;

/// The handler of a batch, and what its messages have in common.
pub(super) struct Runner<H> {
    scope: Scope,
    deliveries_max: Option<u32>,
    handler: H,
}

impl<H> Runner<H> {
    pub(super) fn new(scope: Scope, deliveries_max: Option<u32>, handler: H) -> Self {
        Self { scope, deliveries_max, handler }
    }

    /// Handles the messages of a group, in their order.
    pub(super) async fn handle_group<M>(&self, group: Vec<Item<M>>) -> Vec<(usize, Settled<M>)>
    where
        H: for<'c> Fn(&'c mut Claim, &'c M) -> Handling<'c>,
    {
        let mut settled = Vec::with_capacity(group.len());
        let mut is_blocked = false;
        for item in group {
            let reason = if is_blocked { Reason::Behind } else { self.handle(&item).await };
            is_blocked |= reason.settlement() == Settlement::RetryLater;
            settled.push((item.at, Settled { message: item.message, reason }));
        }
        settled
    }

    async fn handle<M>(&self, item: &Item<M>) -> Reason
    where
        H: for<'c> Fn(&'c mut Claim, &'c M) -> Handling<'c>,
    {
        match self.scope.begin_async(&item.delivery.key, item.delivery.fingerprint).await {
            Ok(Begin::Fresh(claim)) => self.run(claim, item).await,
            Ok(Begin::InFlight(pending)) => Reason::InFlight(pending),
            Ok(Begin::Done(record)) => Reason::Replayed(record),
            Err(error) => Reason::NotBegun(error),
        }
    }

    async fn run<M>(&self, mut claim: Claim, item: &Item<M>) -> Reason
    where
        H: for<'c> Fn(&'c mut Claim, &'c M) -> Handling<'c>,
    {
        let last = self.last_delivery(item);
        let interrupted = claim.interrupted();
        if let Some((count, max)) = last
            && count > max
            && interrupted.is_some()
        {
            // What became of the attempt before stays open, and its key interrupted by that one.
            let reason = Reason::TooManyDeliveries { count, interrupted };
            return told(claim.insisting().put_back_async(), reason).await;
        }
        // A panic in here drops the claim, which interrupts the key.
        let handled = AssertUnwindSafe(async {
            let handled = claim.marker().run(|| (self.handler)(&mut claim, &item.message)).await;
            (claim, handled)
        });
        let (claim, handled) = match handled.catch_unwind().await {
            Ok((claim, Some(handled))) => (claim, handled),
            Ok((_claim, None)) => return Reason::NotBegun(BeginError::Failed(Failure::Forked)),
            Err(panic) => {
                discard(panic);
                return Reason::Panicked;
            }
        };
        match handled {
            Ok(body) => store(claim, Outcome::Success, body).await,
            Err(Fault::Final(body)) => store(claim, Outcome::Failure, body).await,
            Err(Fault::Retry(said)) => {
                let reason = match last {
                    Some((count, _)) => Reason::TooManyDeliveries { count, interrupted },
                    None => Reason::NothingDone(said),
                };
                told(claim.insisting().release_async(), reason).await
            }
            Err(Fault::Unknown(said)) => {
                drop(claim);
                Reason::Unknown(said)
            }
        }
    }

    /// The number of this delivery and that of the last one allowed, if it is the last or later.
    fn last_delivery<M>(&self, item: &Item<M>) -> Option<(u32, u32)> {
        let (count, max) = (item.delivery.count?.get(), self.deliveries_max?);
        (count >= max).then_some((count, max))
    }
}

/// The reason, once the claim of an attempt that did nothing has ended.
async fn told(ending: Ending<()>, reason: Reason) -> Reason {
    match ending.await {
        Ok(()) => reason,
        Err(error) => Reason::NotStored(error.reason().clone()),
    }
}

/// Stores a result. Of one that is too long, or for which the log has no room, it stores that the
/// operation has run, and how it ended.
async fn store(claim: Claim, outcome: Outcome, body: Vec<u8>) -> Reason {
    let refused = match end(claim.insisting(), outcome, &body, Completion::new()).await {
        Ok(record) => return Reason::Ran(record),
        Err(refused) => refused,
    };
    let reason = refused.reason().clone();
    if let Ok(claim) = refused.for_less()
        && let Ok(record) = end(claim, outcome, &[], Completion::new().discard_body()).await
    {
        return Reason::Ran(record);
    }
    Reason::NotStored(reason)
}

async fn end(
    claim: Claim,
    outcome: Outcome,
    body: &[u8],
    completion: Completion,
) -> Result<Record, EndError> {
    match outcome {
        Outcome::Success => claim.complete_with_async(body, completion).await,
        Outcome::Failure => claim.fail_with_async(body, completion).await,
    }
}
