//! Records, tombstones and interruptions are forgotten before their time.

use super::core::{Core, SharedHandle};
use super::granting::{Asked, Tries};
use super::refusal::Refusal;
use super::row::{KeyRow, RowState};
use super::statement::Miss;
use super::statements::change::{ChangeAsk, Changed};
use super::take_over::decided;
#[cfg(feature = "http")]
use crate::attempt::Attempt;
use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::common::untold::Untold;
use crate::error::{ForgetError, ReadError, SharedError};
use crate::seen::Seen;
use crate::state::{Decision, Event, Phase};
use crate::{Fence, Status};

impl SharedHandle {
    /// The state of a key.
    pub(crate) async fn status(&self, scope: &ScopeInner, key: &[u8]) -> Result<Status, ReadError> {
        self.0.status(&Asked::of(scope, key)?).await
    }

    /// Forgets what the key has, if it still has that of `only`; `false` if there was nothing.
    pub(crate) async fn forget(
        &self,
        scope: &ScopeInner,
        key: &[u8],
        only: Option<Seen>,
    ) -> Result<Untold<bool>, ForgetError> {
        let asked = Asked::of(scope, key).map_err(ReadError::Key)?;
        self.0.forget(&asked, only).await.map(Untold::new)
    }
}

/// A vacate whose answer got lost. It knows its own deed by what stands in the row, and by nothing
/// else: another caller may have begun the key since.
struct Vacating {
    /// By which the statement finds the row.
    fence: Fence,
    state: RowState,
    /// The attempt whose result or interruption is forgotten.
    of: Fence,
}

impl Vacating {
    fn new(row: &KeyRow) -> Self {
        Self { fence: row.fence, state: row.state, of: row.as_earlier().info.fence() }
    }

    /// Whether it has happened, by what was read since; `None` if that does not say.
    fn has_happened(&self, row: Option<&KeyRow>) -> Option<bool> {
        let Some(row) = row else { return Some(true) };
        if row.fence == self.fence {
            return Some(row.state == RowState::Vacated);
        }
        // A record is not taken over. An interruption may also have been resolved.
        if self.state == RowState::Done {
            return Some(true);
        }
        let was_taken_over = row.stands_on().is_some_and(|earlier| earlier.info.fence() == self.of);
        was_taken_over.then_some(false)
    }
}

fn found(row: &KeyRow) -> Seen {
    match row.state {
        RowState::Done => Seen::Result(row.fence),
        RowState::InFlight | RowState::Interrupted | RowState::Vacated => {
            Seen::Interruption(row.as_earlier().info.fence())
        }
    }
}

fn change(asked: &Asked, row: &KeyRow, to: RowState) -> ChangeAsk {
    ChangeAsk { digest: asked.digest, seen: (row.fence, row.state), to }
}

impl Core {
    async fn forget(&self, asked: &Asked, only: Option<Seen>) -> Result<bool, ForgetError> {
        self.check()?;
        let mut deadline = self.deadline();
        let mut tries = Tries::new(deadline);
        // The fence of a record that no process has in memory.
        let mut left = None;
        let mut sent: Option<Vacating> = None;
        loop {
            let looked = match self.look(asked.digest, sent.is_some(), deadline).await {
                Ok(looked) => looked,
                Err(miss) => {
                    tries.again(self, miss).await?;
                    continue;
                }
            };
            if let Some(row) = &looked.row {
                row.check_names(&asked.scope, &asked.key).map_err(Refusal::unavailable)?;
            }
            if self.has_vacated(sent.as_ref(), looked.row.as_ref(), &tries)? {
                return Ok(self.has_forgotten());
            }
            let Some(row) = looked.row else { return Ok(false) };
            // Of another row it will not happen any more.
            sent = sent.filter(|sent| sent.fence == row.fence);
            if only.is_some_and(|only| only != found(&row)) {
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
                match self.ask(change(asked, &row, RowState::Done), deadline).await {
                    Ok(Changed { number: Some(number), .. }) => {
                        self.leave_memories(asked.digest, number).await?;
                        // That wait is no part of the call's time, but for records that follow.
                        if left.is_none() {
                            deadline = self.deadline();
                            tries = Tries::new(deadline);
                        } else {
                            tries.round(self).await?;
                        }
                        left = Some(row.fence);
                    }
                    Ok(_) => tries.round_of(self, &row).await?,
                    Err(miss) => tries.again(self, miss).await?,
                }
                continue;
            }
            match self.ask(change(asked, &row, RowState::Vacated), deadline).await {
                Ok(changed) if changed.is_done => return Ok(self.has_forgotten()),
                Ok(_) => tries.round_of(self, &row).await?,
                Err(miss) => {
                    if matches!(miss, Miss::Unknown(_)) {
                        sent = Some(Vacating::new(&row));
                    }
                    tries.again(self, miss).await?;
                }
            }
        }
    }

    /// Whether a vacate whose answer got lost has happened, by what was read since.
    fn has_vacated(
        &self,
        sent: Option<&Vacating>,
        row: Option<&KeyRow>,
        tries: &Tries,
    ) -> Result<bool, Refusal> {
        let Some(sent) = sent else { return Ok(false) };
        sent.has_happened(row).ok_or_else(|| {
            let failure = tries.unknown.clone().unwrap_or_else(|| self.failure());
            SharedError::Unknown(failure).into()
        })
    }

    /// Counts a key that was forgotten by this call.
    fn has_forgotten(&self) -> bool {
        Counters::count(&self.counters.forgotten);
        true
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
            match self.look(asked.digest, false, deadline).await {
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
