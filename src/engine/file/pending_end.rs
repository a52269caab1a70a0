//! `PendingEnd`: the end of a claim on its way into the log.

use std::task::{Context, Poll};

use super::claim::FileClaim;
use super::handle::FileHandle;
use crate::attempt::Attempt;
use crate::commit::Ticket;
use crate::engine::common::completion::Completion;
use crate::engine::common::end_request::NewResult;
use crate::engine::common::untold::Untold;
use crate::error::{ClaimError, CommitError, EndError};
use crate::policy::Durability;
use crate::record::{Outcome, Record};
use crate::sync::Arc;
use crate::task::caller::{Caller, block};

/// How far the end of a claim has come without waiting.
#[derive(Debug)]
pub(crate) enum PendingEnd {
    /// The log has it.
    Queued(QueuedEnd),
    /// Its result needs more log space than the claim has reserved.
    Waits(FileClaim, Outcome, Box<[u8]>, Completion),
    /// The claim was released, and the log need not know.
    Released,
    /// The claim is not the current one.
    Superseded(Arc<FileHandle>, Arc<Attempt>),
    Refused(EndError),
}

/// The end of a claim that is queued for the log. It takes effect even if this is dropped.
#[derive(Debug)]
pub(crate) struct QueuedEnd {
    /// The attempt, which has ended. Held so that the thread that allocated the attempt also
    /// frees it. Freeing on the leader's thread made allocators contend.
    pub(in crate::engine) claim: FileClaim,
    pub(in crate::engine) ticket: Ticket,
    /// What was stored; `None` for a release.
    pub(in crate::engine) record: Option<Record>,
}

impl PendingEnd {
    /// Gives back the log space that the claim does not need any more. The last step before a
    /// wait: it wakes tasks, and their code may fork.
    pub(in crate::engine) fn with_space_given_back(mut self) -> Self {
        if let Self::Queued(queued) = &mut self {
            queued.claim.reservation().give_back();
        }
        self
    }

    /// Has it written soon.
    pub(in crate::engine) fn call_leader(&self) {
        if let Self::Queued(queued) = self {
            queued.claim.core().commit.call();
        }
    }

    /// Waits until it may be acknowledged, as a thread.
    pub(in crate::engine) fn wait(self) -> Result<Untold<Option<Record>>, EndError> {
        match self {
            Self::Queued(queued) => queued.wait(),
            slow @ (Self::Waits(..) | Self::Released | Self::Superseded(..) | Self::Refused(_)) => {
                block(slow.acknowledged(Caller::Thread))
            }
        }
    }

    /// Waits until it may be acknowledged.
    pub(in crate::engine) async fn acknowledged(
        self,
        caller: Caller,
    ) -> Result<Untold<Option<Record>>, EndError> {
        let ready = match self {
            Self::Waits(claim, outcome, body, completion) => {
                let result = NewResult { outcome, body: &body, completion };
                claim.complete_with_space(caller, result, None).await
            }
            Self::Queued(_) | Self::Released | Self::Superseded(..) | Self::Refused(_) => self,
        };
        match ready {
            Self::Queued(queued) => queued.acknowledged(caller).await,
            Self::Released => Ok(Untold::new(None)),
            Self::Superseded(handle, attempt) => {
                Err(EndError::new(handle.core().superseded(caller, &attempt).await, None))
            }
            Self::Refused(error) => Err(error),
            Self::Waits(..) => unreachable!("it was queued, or refused"),
        }
    }
}

impl QueuedEnd {
    /// Whether the end must be durable before it is acknowledged: a release must, a result by the
    /// scope's policy.
    fn is_awaited(&self) -> bool {
        match self.claim.terms.durability {
            Durability::Full | Durability::Completions => true,
            Durability::Relaxed(_) => self.record.is_none(),
        }
    }

    /// Waits until it may be acknowledged, as a thread.
    pub(in crate::engine) fn wait(self) -> Result<Untold<Option<Record>>, EndError> {
        if self.is_awaited() {
            self.claim.core().commit.wait(&self.ticket).map_err(not_committed)?;
        }
        Ok(Untold::new(self.record))
    }

    /// Waits until it may be acknowledged.
    async fn acknowledged(mut self, caller: Caller) -> Result<Untold<Option<Record>>, EndError> {
        if self.is_awaited() {
            self.claim.core().commit.settled(caller, &mut self.ticket).await.map_err(not_committed)?;
        }
        Ok(Untold::new(self.record))
    }

    /// Waits until it may be acknowledged, as a task. It has its record once.
    pub(in crate::engine) fn poll_acknowledged(
        &mut self,
        context: &Context<'_>,
    ) -> Poll<Result<Untold<Option<Record>>, EndError>> {
        if self.is_awaited() {
            let Self { claim, ticket, .. } = self;
            match claim.core().commit.poll_settled(ticket, context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(settled) => settled.map_err(not_committed)?,
            }
        }
        Poll::Ready(Ok(Untold::new(self.record.take())))
    }
}

fn not_committed(error: CommitError) -> EndError {
    EndError::new(ClaimError::Commit(error), None)
}
