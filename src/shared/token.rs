//! Claims that are handed over as tokens, and resumed. Handed over, a claim stands by its lease
//! alone, and belongs to no session.

use std::rc::Rc;

use tokio_postgres::types::Type;

use super::claim::SharedClaim;
use super::columns::{Id, Params, signed};
use super::complete::UnderWay;
use super::connection::Link;
use super::core::{Core, SharedHandle};
use super::granting::{Asked, NewClaim, Stands, Tries, nonce, not_granted};
use super::refusal::{Refusal, carry, check_caller};
use super::row::{KeyRow, RowState};
use super::statements::end::EndAsk;
use crate::Status;
use crate::clock::{Deadline, Stopwatch, Timestamp, millis};
use crate::codec::TokenRow;
use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::handles::claim::Claim;
use crate::engine::handles::token::ClaimToken;
use crate::error::{ClaimError, EndError, TokenError};
use crate::key::Digest;
use crate::key::Secret;
use crate::state::{Decision, Event, Fence, decide};
use crate::sync::Arc;
use crate::task::caller::Caller;
use crate::token_seal;

const HAND_OVER: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}, \
      set_config('lock_timeout', '{LOCK_MS}', true) AS patience) \
    UPDATE {S}.keys k SET session = NULL, lease_until_ms = m.now_ms + k.lease_ms FROM moment m \
      WHERE k.digest = $1 AND k.nonce = $2 AND k.fence = $3 AND k.state = 1 AND k.lease_ms IS NOT NULL \
        AND {LEASE} > m.now_ms RETURNING k.fence";

/// The nonce changes, so that no other holder of the token is this one. A claim that was handed
/// back keeps the nonce, so that a late repetition does not take it again. A process whose session
/// is over, or that was replaced, gets nothing: the claim would be over with it.
const RESUME: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}) \
    UPDATE {S}.keys k SET nonce = $2, session = $4 FROM moment m \
      WHERE k.digest = $1 AND k.fence = $3 AND k.state = 1 AND k.session IS NULL AND k.nonce <> $2 \
        AND k.lease_until_ms > m.now_ms AND EXISTS (SELECT FROM {S}.sessions s \
          WHERE s.id = $4 AND NOT s.replaced AND s.until_ms > m.now_ms) RETURNING k.fence";

/// What tokens of a store with this secret name it by.
fn store_id(secret: &Secret) -> [u8; 16] {
    let name = blake3::derive_key("idemkv: name of a shared store in tokens", &secret.0);
    name.first_chunk().copied().unwrap_or_else(|| unreachable!("it has 32 bytes"))
}

impl SharedClaim {
    /// Hands the claim over as a token, for a caller of either kind. If the future is dropped, so
    /// is the claim.
    pub(crate) async fn into_token(mut self, caller: Caller) -> Result<ClaimToken, EndError> {
        if self.attempt.lease.is_none() {
            return Err(self.refused(ClaimError::NoLease));
        }
        if let Err(refusal) = check_caller(caller) {
            return Err(self.refused(refusal.into()));
        }
        let handed_over = carry(caller, self.hand_over()).await;
        if let Err(reason) = handed_over {
            return Err(self.refused(reason));
        }
        let secret = &self.core().secret;
        let token = TokenRow {
            file_id: store_id(secret),
            digest: self.attempt.digest.as_u128(),
            fence: self.attempt.fence.get(),
            opening: 0,
            scope: self.attempt.scope(),
        };
        let token = ClaimToken::new(token_seal::seal(secret, &token));
        self.is_handed_over();
        Ok(token)
    }

    /// The same again changes nothing but the lease's end, so an unknown outcome is tried again.
    async fn hand_over(&self) -> Result<(), ClaimError> {
        let core = self.core();
        core.check()?;
        let deadline = core.deadline();
        let mut tries = Tries::new(deadline);
        loop {
            let (digest, nonce, fence) = self.row();
            match change(core, deadline, HAND_OVER, (digest, nonce, fence), None).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(miss) => {
                    tries.again(core, miss).await?;
                    continue;
                }
            }
            match self.look(deadline).await {
                Ok(looked) => drop(self.why(looked, None, deadline).await?),
                Err(miss) => {
                    tries.again(core, miss).await?;
                    continue;
                }
            }
            tries.round(core).await?;
        }
    }
}

/// Changes the row of one claim; `false` if it was not as it must be.
async fn change(
    core: &Core,
    deadline: Deadline,
    sql: &str,
    (digest, nonce, fence): (Digest, u128, Fence),
    session: Option<i64>,
) -> Result<bool, super::statement::Miss> {
    let sql = core.sql.filled(sql);
    let changed = core.errand(deadline, async move |link: Rc<Link>| {
        let params = Params::default()
            .with(Id(digest.as_u128()), Type::UUID)
            .with(Id(nonce), Type::UUID)
            .with(signed(fence.get()), Type::INT8);
        let params = match session {
            Some(session) => params.with(session, Type::INT8),
            None => params,
        };
        link.once(&sql, &params).await
    });
    Ok(!changed.await?.is_empty())
}

/// A claim that may have been resumed. If it does not reach its caller, it is handed back.
struct Resuming<'a> {
    core: &'a Core,
    row: (Digest, u128, Fence),
    is_sent: bool,
}

impl Drop for Resuming<'_> {
    fn drop(&mut self) {
        if self.is_sent && !self.core.is_forked() {
            let until = self.core.last_statement();
            self.core.loose_ends.hand_back(EndAsk::hand_back(self.row), until);
        }
    }
}

impl SharedHandle {
    /// Takes a claim that was handed over. Of all holders of a token, one gets it. After an error
    /// none has it by this call, nor after a drop of the future.
    pub(crate) async fn resume(
        self: &Arc<Self>,
        scope: &ScopeInner,
        token: &ClaimToken,
    ) -> Result<Claim, TokenError> {
        let core = &*self.0;
        let _under_way = UnderWay::start(self)?;
        let named = token_seal::open(&core.secret, store_id(&core.secret), token.as_bytes())?;
        if named.scope != scope.name() {
            return Err(TokenError::OtherScope);
        }
        let (digest, fence) = (Digest::from_u128(named.digest), Fence::new(named.fence));
        let deadline = core.deadline();
        let nonce = nonce()?;
        let mut resuming = Resuming { core, row: (digest, nonce, fence), is_sent: false };
        let mut tries = Tries::new(deadline);
        let in_time = |refusal: Refusal| not_granted(refusal.into());
        loop {
            let session = core.session(deadline).await.map_err(in_time)?;
            let sent_before = std::mem::replace(&mut resuming.is_sent, true);
            let resumed = change(core, deadline, RESUME, resuming.row, Some(session)).await;
            // A statement that did nothing leaves nothing to hand back, unless one before it did.
            resuming.is_sent = sent_before || !matches!(resumed, Ok(false));
            if let Err(miss) = resumed {
                tries.again(core, miss).await.map_err(in_time)?;
            }
            let since = Stopwatch::start();
            let looked = match core.look(digest, tries.unknown.is_some(), deadline).await {
                Ok(looked) => looked,
                Err(miss) => {
                    tries.again(core, miss).await.map_err(in_time)?;
                    continue;
                }
            };
            let superseded = |now: Status| TokenError::Superseded(Box::new(now));
            let Some(row) = looked.row else { return Err(superseded(Status::Vacant)) };
            let used = decide(row.state(), Event::Use { fence, now: looked.now });
            if used == Decision::Superseded {
                return Err(superseded(row.status(digest, looked.now, &core.budget)));
            }
            if row.is_free && row.state == RowState::InFlight {
                // Nobody has it: the statement did nothing, because this session is over or the
                // request was lost.
                core.catch_up(false, core.policies.version(), deadline).await.map_err(in_time)?;
                tries.round(core).await.map_err(in_time)?;
                continue;
            }
            if row.nonce != nonce || row.state != RowState::InFlight {
                return Err(TokenError::Held);
            }
            // While the look was awaited it may have ended. The next one says so.
            if !Stands::found(&row, looked.now).has_lease(&since) {
                tries.round(core).await.map_err(in_time)?;
                continue;
            }
            resuming.is_sent = false;
            Counters::count(&core.counters.token_claims);
            return Ok(self.claim_of(&row, digest, nonce).into());
        }
    }

    fn claim_of(self: &Arc<Self>, row: &KeyRow, digest: Digest, nonce: u128) -> SharedClaim {
        let (scope, key) = row.names();
        let asked = Asked { scope: scope.into(), key: key.into(), digest };
        let known = self.0.watches.known(digest, row.fence).filter(|known| known.ended_so_far().is_none());
        let attempt = known.unwrap_or_else(|| Arc::new(NewClaim::found(row, &self.0).attempt(&asked)));
        if let Some(lease) = attempt.lease {
            attempt.renew(Timestamp::from_millis(row.lease.as_millis().saturating_sub(millis(lease))));
        }
        SharedClaim::of_attempt(self, attempt, nonce, false)
    }
}
