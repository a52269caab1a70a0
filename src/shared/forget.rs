//! Records, tombstones and interruptions are forgotten before their time.

use super::core::{Core, SharedHandle};
use super::granting::{Asked, Tries};
use super::refusal::Refusal;
use super::row::RowState;
use super::statements::change::{ChangeAsk, Changed};
use super::statements::look::LookAsk;
use super::take_over::decided;
#[cfg(feature = "http")]
use crate::attempt::Attempt;
use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::ScopeInner;
use crate::error::{ForgetError, ReadError};
use crate::state::{Decision, Event, Phase};
use crate::{Fence, Status};

impl SharedHandle {
    /// The state of a key.
    pub(crate) async fn status(&self, scope: &ScopeInner, key: &[u8]) -> Result<Status, ReadError> {
        self.0.status(&Asked::of(scope, key)?).await
    }

    /// Forgets what the key has, if it still has that of `fence`; `false` if there was nothing.
    pub(crate) async fn forget(
        &self,
        scope: &ScopeInner,
        key: &[u8],
        fence: Option<Fence>,
    ) -> Result<bool, ForgetError> {
        let asked = Asked::of(scope, key).map_err(ReadError::Key)?;
        self.0.forget(&asked, fence).await
    }
}

impl Core {
    async fn forget(&self, asked: &Asked, fence: Option<Fence>) -> Result<bool, ForgetError> {
        self.check()?;
        let mut deadline = self.deadline();
        let mut tries = Tries::new(deadline);
        // The fence of a record that no process has in memory.
        let mut left = None;
        // The fence of what may have been forgotten by a statement whose answer got lost.
        let mut sent = None;
        loop {
            let looked = match self.ask(LookAsk { digest: asked.digest }, deadline).await {
                Ok(looked) => looked,
                Err(miss) => {
                    tries.again(self, miss).await?;
                    continue;
                }
            };
            let Some(row) = looked.row else { return Ok(sent.is_some()) };
            row.check_names(&asked.scope, &asked.key).map_err(Refusal::unavailable)?;
            if row.state == RowState::Vacated && sent == Some(row.fence) {
                self.confirm(deadline).await?;
                return Ok(true);
            }
            if fence.is_some_and(|fence| fence != row.as_earlier().info.fence()) {
                return Ok(false);
            }
            let decision = decided(&row, Event::Forget { now: looked.now }, looked.now).0;
            if decision == Decision::Busy {
                return Err(ForgetError::InFlight);
            }
            if decision.becomes() != Some(Phase::Ending) {
                return Ok(false);
            }
            // A failover may have taken the mark back, and another process may have kept it again.
            if row.state == RowState::Done && (left != Some(row.fence) || !row.is_leaving) {
                let leave =
                    ChangeAsk { digest: asked.digest, seen: (row.fence, row.state), to: RowState::Done };
                match self.ask(leave, deadline).await {
                    Ok(Changed { number: Some(number), .. }) => {
                        self.leave_memories(asked.digest, number).await?;
                        left = Some(row.fence);
                        deadline = self.deadline();
                        tries = Tries::new(deadline);
                    }
                    Ok(_) => tries.round(self).await?,
                    Err(miss) => tries.again(self, miss).await?,
                }
                continue;
            }
            let change =
                ChangeAsk { digest: asked.digest, seen: (row.fence, row.state), to: RowState::Vacated };
            match self.ask(change, deadline).await {
                Ok(changed) if changed.is_done => {
                    Counters::count(&self.counters.forgotten);
                    return Ok(true);
                }
                Ok(_) => tries.round(self).await?,
                Err(miss) => {
                    sent = Some(row.fence);
                    tries.again(self, miss).await?;
                }
            }
        }
    }

    /// The state of an attempt's key now.
    #[cfg(feature = "http")]
    pub(super) async fn became(&self, attempt: &Attempt) -> Status {
        let (scope, key) = (attempt.scope().into(), attempt.key().into());
        let asked = Asked { scope, key, digest: attempt.digest };
        self.status(&asked).await.unwrap_or_else(Status::Unreadable)
    }

    async fn status(&self, asked: &Asked) -> Result<Status, ReadError> {
        self.check()?;
        let deadline = self.deadline();
        let mut tries = Tries::new(deadline);
        loop {
            match self.ask(LookAsk { digest: asked.digest }, deadline).await {
                Ok(looked) => {
                    let Some(row) = looked.row else { return Ok(Status::Vacant) };
                    row.check_names(&asked.scope, &asked.key).map_err(Refusal::unavailable)?;
                    return Ok(row.status(asked.digest, looked.now, &self.budget));
                }
                // A look changes nothing, so its outcome is never unknown.
                Err(miss) => tries.again(self, miss).await?,
            }
        }
    }
}
