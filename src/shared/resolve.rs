//! A claim on an interrupted key, for a caller that knows the outcome.

use super::claim::SharedClaim;
use super::core::Handle;
use super::error::SharedError;
use super::granting::{Asked, Tries};
use super::statements::look::LookAsk;
use super::take_over::{decided, grant};
use crate::Status;
use crate::state::{Decision, Event};
use crate::sync::Arc;

pub(super) async fn resolve(handle: &Arc<Handle>, asked: &Asked) -> Result<SharedClaim, SharedError> {
    let core = &*handle.0;
    core.check()?;
    let deadline = core.deadline();
    let mut tries = Tries::new(deadline);
    loop {
        let looked = match core.ask(LookAsk { digest: asked.digest }, deadline).await {
            Ok(looked) => looked,
            Err(miss) => {
                tries.again(core, miss).await?;
                continue;
            }
        };
        let Some(row) = looked.row else {
            return Err(SharedError::NotInterrupted(Box::new(Status::Vacant)));
        };
        row.check_names(&asked.scope, &asked.key).map_err(SharedError::Unavailable)?;
        let (decision, _) = decided(&row, Event::Resolve { now: looked.now }, looked.now);
        let Decision::Grant { attempt } = decision else {
            let status = row.status(asked.digest, looked.now, &core.budget);
            return Err(SharedError::NotInterrupted(Box::new(status)));
        };
        let terms = core.terms(&asked.scope, deadline).await?;
        let (at, how) = ((&row, looked.now), (attempt, true));
        if let Some(claim) = grant(handle, asked, row.fingerprint, at, how, &terms, deadline).await? {
            return Ok(claim);
        }
        tries.check(core)?;
    }
}
