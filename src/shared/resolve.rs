//! A claim on an interrupted key, for a caller that knows the outcome.

use super::claim::SharedClaim;
use super::complete::UnderWay;
use super::core::SharedHandle;
use super::granting::{Asked, Tries, not_granted};
use super::refusal::Refusal;
use super::statements::look::LookAsk;
use super::take_over::{decided, grant};
use crate::Status;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::handles::claim::Claim;
use crate::error::{BeginError, ResolveError};
use crate::state::{Decision, Event, Fence};
use crate::sync::Arc;

impl SharedHandle {
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        scope: &ScopeInner,
        key: &[u8],
        only: Option<Fence>,
    ) -> Result<Claim, ResolveError> {
        let watch = self.0.options.hooks.watch();
        let asked = Asked::of(scope, key).map_err(BeginError::Key)?;
        let resolved = resolve(self, &asked, only).await.map_err(|error| match error {
            ResolveError::Begin(error) => ResolveError::Begin(not_granted(error)),
            changed @ (ResolveError::NotInterrupted(_) | ResolveError::AnotherAttempt(_)) => changed,
        });
        let claim = resolved?;
        self.0.note_grant(claim.of(), true, watch.as_ref());
        Ok(claim.into())
    }
}

async fn resolve(
    handle: &Arc<SharedHandle>,
    asked: &Asked,
    only: Option<Fence>,
) -> Result<SharedClaim, ResolveError> {
    let core = &*handle.0;
    let _under_way = UnderWay::start(handle)?;
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
            return Err(ResolveError::NotInterrupted(Box::new(Status::Vacant)));
        };
        row.check_names(&asked.scope, &asked.key).map_err(Refusal::unavailable)?;
        let (decision, _) = decided(&row, Event::Resolve { now: looked.now }, looked.now);
        let Decision::Grant { attempt } = decision else {
            let status = row.status(asked.digest, looked.now, &core.budget);
            return Err(ResolveError::NotInterrupted(Box::new(status)));
        };
        // The grant compares the row's fence, so it finds out what is lost from here on.
        if only.is_some_and(|only| only != row.as_earlier().info.fence()) {
            return Err(ResolveError::AnotherAttempt(row.interruption(&core.budget)));
        }
        let terms = core.terms(&asked.scope, deadline).await?;
        let (at, how) = ((&row, looked.now), (attempt, true));
        if let Some(claim) = grant(handle, asked, row.fingerprint, at, how, &terms, deadline).await? {
            return Ok(claim.deliver(handle)?);
        }
        tries.round_of(core, &row).await?;
    }
}
