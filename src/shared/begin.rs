//! Begins: a call asks for a key, and is granted a claim, answered, or told to wait.

use super::complete::UnderWay;
use super::core::{Core, SharedHandle};
use super::granting::{Asked, Granting, How, NewClaim, Stands, Tries, full, not_granted};
use super::refusal::{Refusal, carry_checked};
use super::row::RowState;
use super::statement::Miss;
use super::statements::begin::{BeginAsk, Terms};
use super::take_over::{self, depends_on_none};
use super::undelivered::Answered;
use crate::Fingerprint;
use crate::clock::Deadline;
use crate::engine::common::namespace::ScopeInner;
use crate::engine::handles::claim::Begin;
use crate::error::BeginError;
use crate::record::Record;
use crate::sync::Arc;
use crate::task::caller::Caller;

impl SharedHandle {
    /// Asks whether to run the operation with this key. A future that is dropped claims nothing:
    /// what it was granted is withdrawn.
    pub(crate) async fn begin(
        self: &Arc<Self>,
        caller: Caller,
        scope: &ScopeInner,
        key: &[u8],
        fingerprint: Fingerprint,
    ) -> Result<Begin, BeginError> {
        if let Some(record) = self.0.replay(scope, key, &fingerprint) {
            return Ok(Begin::Done(record));
        }
        let watch = self.0.options.hooks.watch();
        let begun = Box::pin(async {
            let asked = Asked::to_grant(scope, key)?;
            let _under_way = UnderWay::start(self)?;
            let answered = begin(self, &asked, fingerprint, self.0.deadline()).await;
            answered.and_then(|answered| Ok(answered.deliver(self)?)).map_err(not_granted)
        });
        let answer = carry_checked(caller, begun).await;
        self.0.note_begin(scope, key, &answer, watch.as_ref());
        answer
    }
}

impl Core {
    /// The result of this request, if it is in memory.
    #[inline]
    pub(super) fn replay(&self, scope: &ScopeInner, key: &[u8], fingerprint: &Fingerprint) -> Option<Record> {
        // If anything is wrong, the call on the store reports it.
        self.check().ok()?;
        let record = self.cache.replay(scope.digest(key).ok()?, fingerprint)?;
        self.options.hooks.call(|observer| observer.replayed(&record));
        Some(record)
    }
}

fn ask(asked: &Asked, nonce: u128, fingerprint: Fingerprint, terms: Terms) -> BeginAsk {
    let (scope, key) = (Arc::clone(&asked.scope), Arc::clone(&asked.key));
    BeginAsk { digest: asked.digest, nonce, fingerprint, scope, key, terms }
}

/// Asks for one key. The caller says when a begin is under way: a claim that it has not got is
/// withdrawn.
pub(super) async fn begin<'a>(
    handle: &'a Arc<SharedHandle>,
    asked: &Asked,
    fingerprint: Fingerprint,
    deadline: Deadline,
) -> Result<Answered<'a>, BeginError> {
    let core = &*handle.0;
    let mut tries = Tries::new(deadline);
    let mut granting = Granting::new(core, asked, How::Inserts)?;
    let mut refused = None;
    loop {
        core.check()?;
        let terms = core.terms(&asked.scope, deadline).await?;
        granting.sends(terms.session);
        let begun = match core.ask_begin(ask(asked, granting.nonce, fingerprint, terms), deadline).await {
            Ok(begun) => begun,
            Err(miss) => {
                if tries.unknown.is_none() && !matches!(miss, Miss::Unknown(_)) {
                    granting.granted_nothing();
                }
                tries.again(core, miss).await?;
                continue;
            }
        };
        let new = |fence| NewClaim::granted(&terms, fingerprint, fence, begun.now);
        let mut granted = begun.granted.map(|fence| (new(fence), Stands::granted(&terms)));
        if let Some(row) = &begun.seen {
            row.check_names(&asked.scope, &asked.key).map_err(Refusal::unavailable)?;
            if granting.is_of(row) {
                granted = take_over::found(core, asked, &mut granting, deadline).await?;
                if granted.is_none() {
                    tries.round(core).await?;
                    continue;
                }
            }
        }
        if let Some((claim, stands)) = granted {
            if granting.is_good(stands) {
                return Ok(Answered::granted(granting, stands, claim.attempt(asked)));
            }
            granting.start_again(deadline).await?;
            tries.round(core).await?;
            continue;
        }
        if tries.unknown.is_none() {
            granting.granted_nothing();
        }
        if begun.is_full {
            return Err(full(&terms));
        }
        // What the row means mostly depends on the policy: then it must be the current one.
        let is_current = begun.policies == terms.policies;
        if let Some(row) =
            begun.seen.filter(|row| is_current || depends_on_none(row, &fingerprint, begun.now))
        {
            let at = (&row, begun.now);
            if let Some(answer) = take_over::answer(handle, asked, fingerprint, at, &terms, deadline).await? {
                if let Answered::Without(answer) = &answer {
                    granting.keeps(answer, &row);
                }
                return Ok(answer);
            }
            // Its lease is over, but a transaction has the row, as that of a completion: the claim
            // stands until the transaction has ended.
            let seen = Some((row.fence, row.state));
            if std::mem::replace(&mut refused, seen) == seen && row.state == RowState::InFlight {
                return Ok(Answered::Without(take_over::pending(handle, asked, &row)));
            }
            tries.pauses();
            core.catch_up(begun.is_alive, begun.policies, deadline).await?;
            tries.round_of(core, &row).await?;
            continue;
        }
        // In this order: policies that are set in a row would be old again after the pause.
        tries.round(core).await?;
        core.catch_up(begun.is_alive, begun.policies, deadline).await?;
    }
}
