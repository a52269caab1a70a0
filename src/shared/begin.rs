//! Begins: a call asks for a key, and is granted a claim, answered, or told to wait.

use super::claim::{SharedBegin, SharedClaim};
use super::core::Handle;
use super::error::SharedError;
use super::granting::{Asked, Granting, NewClaim, Tries};
use super::row::RowState;
use super::statement::Miss;
use super::statements::begin::BeginAsk;
use super::take_over;
use crate::Fingerprint;
use crate::sync::Arc;

pub(super) async fn begin(
    handle: &Arc<Handle>,
    asked: &Asked,
    fingerprint: Fingerprint,
) -> Result<SharedBegin, SharedError> {
    let core = &*handle.0;
    core.check()?;
    let deadline = core.deadline();
    let mut tries = Tries::new(deadline);
    let mut granting = Granting::new(core, asked.digest, None)?;
    let mut refused = None;
    loop {
        let terms = core.terms(&asked.scope, deadline).await?;
        granting.sends();
        let ask = BeginAsk {
            digest: asked.digest,
            nonce: granting.nonce,
            fingerprint,
            scope: Arc::clone(&asked.scope),
            key: Arc::clone(&asked.key),
            terms,
        };
        let begun = match core.ask(ask, deadline).await {
            Ok(begun) => begun,
            Err(miss) => {
                if tries.unknown.is_none() && !matches!(miss, Miss::Unknown(_)) {
                    granting.granted_nothing();
                }
                tries.again(core, miss).await?;
                continue;
            }
        };
        if let Some(fence) = begun.granted {
            let claim = NewClaim::granted(&terms, fingerprint, fence, begun.now).attempt(asked);
            return Ok(SharedBegin::Fresh(SharedClaim::new(handle, claim, granting.arrives(), false)));
        }
        if let Some(row) = &begun.seen {
            row.check_names(&asked.scope, &asked.key).map_err(SharedError::Unavailable)?;
            if row.nonce == granting.nonce && row.state == RowState::InFlight {
                core.confirm(deadline).await?;
                let claim = NewClaim::found(row, core).attempt(asked);
                return Ok(SharedBegin::Fresh(SharedClaim::new(handle, claim, granting.arrives(), false)));
            }
        }
        if tries.unknown.is_none() {
            granting.granted_nothing();
        }
        // What the row means depends on the policy: it must be the current one.
        if let Some(row) = begun.seen.filter(|_| begun.policies == terms.policies) {
            let at = (&row, begun.now);
            if let Some(answer) = take_over::answer(handle, asked, fingerprint, at, &terms, deadline).await? {
                return Ok(answer);
            }
            // Its lease is over, but a transaction has the row, as that of a completion: the claim
            // stands until the transaction has ended.
            let seen = Some((row.fence, row.state));
            if std::mem::replace(&mut refused, seen) == seen && row.state == RowState::InFlight {
                return Ok(take_over::pending(handle, asked, &row));
            }
        }
        core.catch_up(begun.is_alive, begun.policies, deadline).await?;
        tries.check(core)?;
    }
}
