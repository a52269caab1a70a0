//! `PendingEnd`: the end of a claim that is queued for the log.

use std::task::{Context, Poll};

use crate::attempt::Attempt;
use crate::commit::Ticket;
use crate::engine::handles::claim::Claim;
use crate::engine::handles::handle::Handle;
use crate::error::{ClaimError, CommitError, EndError};
use crate::policy::Durability;
use crate::sync::Arc;
use crate::task::caller::Caller;

/// Why the end of a claim was not queued.
pub(super) enum EndRejected {
    /// The claim is not the current one.
    Superseded(Arc<Handle>, Arc<Attempt>),
    Other(EndError),
}

impl EndRejected {
    pub(super) async fn explained(self, caller: Caller) -> EndError {
        match self {
            Self::Superseded(handle, attempt) => {
                EndError::new(handle.core().superseded(caller, &attempt).await, None)
            }
            Self::Other(error) => error,
        }
    }
}

/// The end of a claim that is queued for the log. It takes effect even if this is dropped.
#[derive(Debug)]
pub(super) struct PendingEnd {
    /// The attempt, which has ended. Held so that the thread that allocated the attempt also
    /// frees it. Freeing on the leader's thread made allocators contend.
    pub(super) claim: Claim,
    pub(super) ticket: Ticket,
}

impl PendingEnd {
    /// Has it written soon.
    pub(super) fn call_leader(&self) {
        self.claim.core().commit.call();
    }

    /// Whether the end must be durable before it is acknowledged, by the scope's policy.
    fn is_awaited(&self) -> bool {
        match self.claim.terms.durability {
            Durability::Full | Durability::Completions => true,
            Durability::Relaxed(_) => false,
        }
    }

    /// Waits until it may be acknowledged, as a thread.
    pub(super) fn wait(self) -> Result<(), EndError> {
        if self.is_awaited() {
            self.claim.core().commit.wait(&self.ticket).map_err(not_committed)
        } else {
            Ok(())
        }
    }

    /// Waits until it may be acknowledged, as a task.
    pub(super) fn poll_acknowledged(&mut self, context: &Context<'_>) -> Poll<Result<(), EndError>> {
        if !self.is_awaited() {
            return Poll::Ready(Ok(()));
        }
        let Self { claim, ticket } = self;
        claim.core().commit.poll_settled(ticket, context).map_err(not_committed)
    }

    /// Waits until it may be acknowledged.
    pub(super) async fn acknowledged(self, caller: Caller) -> Result<(), EndError> {
        if self.is_awaited() { self.settled(caller).await } else { Ok(()) }
    }

    /// Waits until it is durable.
    async fn settled(mut self, caller: Caller) -> Result<(), EndError> {
        self.claim.core().commit.settled(caller, &mut self.ticket).await.map_err(not_committed)
    }
}

fn not_committed(error: CommitError) -> EndError {
    EndError::new(ClaimError::Commit(error), None)
}

pub(super) async fn released(
    caller: Caller,
    handed: Result<Option<PendingEnd>, EndRejected>,
) -> Result<(), EndError> {
    match handed {
        Ok(Some(handed)) => handed.settled(caller).await,
        Ok(None) => Ok(()),
        Err(refusal) => Err(refusal.explained(caller).await),
    }
}
