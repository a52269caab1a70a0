//! A begin that found a row: the state machine decides on it, and a grant compares and sets.

use super::core::{Core, SharedHandle};
use super::granting::{Asked, Granting, How, NewClaim, Stands, Tries, full};
use super::refusal::Refusal;
use super::row::{KeyRow, RowState};
use super::statement::Miss;
use super::statements::begin::Terms;
use super::statements::change::ChangeAsk;
use super::statements::end::Standing;
use super::statements::grant::GrantAsk;
use super::undelivered::{Answered, Undelivered};
use crate::attempt::progress::Progress;
use crate::clock::Deadline;
use crate::engine::handles::claim::Begin;
use crate::engine::handles::handle::Handle;
use crate::engine::handles::pending::Pending;
use crate::error::BeginError;
use crate::key::Digest;
use crate::policy::Policy;
use crate::record::tombstone::Tombstone;
use crate::state::{Decision, Event, Phase, decide};
use crate::sync::Arc;
use crate::{Fingerprint, Timestamp};

/// What the state machine says of an event, where a claim whose lease is over first becomes
/// interrupted. Also whether it did.
pub(super) fn decided(row: &KeyRow, event: Event<'_>, now: Timestamp) -> (Decision, bool) {
    let decision = decide(row.state(), event);
    let is_over = decision.becomes() == Some(Phase::Interrupted);
    (if is_over { decide(row.lapsed(now), event) } else { decision }, is_over)
}

/// The answer to a begin that found this row; `None` if the row has changed since.
pub(super) async fn answer<'a>(
    handle: &'a Arc<SharedHandle>,
    asked: &Asked,
    fingerprint: Fingerprint,
    (row, now): (&KeyRow, Timestamp),
    terms: &Terms,
    deadline: Deadline,
) -> Result<Option<Answered<'a>>, BeginError> {
    match decided_begin(row, &fingerprint, now, &terms.policy) {
        (Decision::Grant { attempt }, _) => {
            let claim =
                grant(handle, asked, fingerprint, (row, now), (attempt, false), terms, deadline).await?;
            Ok(claim.map(|claim| Answered::Granted(Box::new(claim))))
        }
        decided => {
            let answer = without_grant(handle, asked, row, decided, deadline).await?;
            Ok(answer.map(Answered::Without))
        }
    }
}

/// What the state machine says of a begin, as [`decided`] does.
pub(super) fn decided_begin(
    row: &KeyRow,
    fingerprint: &Fingerprint,
    now: Timestamp,
    policy: &Policy,
) -> (Decision, bool) {
    decided(row, Event::Begin { fingerprint, now, attempts_max: policy.attempts_max() }, now)
}

/// Whether the answer to a begin is the same under every policy.
pub(super) fn depends_on_none(row: &KeyRow, fingerprint: &Fingerprint, now: Timestamp) -> bool {
    !decided_begin(row, fingerprint, now, &Policy::default()).0.depends_on_policy()
}

/// The answer to a begin that is granted nothing; `None` if the key has to be looked up again.
pub(super) async fn without_grant(
    handle: &Arc<SharedHandle>,
    asked: &Asked,
    row: &KeyRow,
    (decision, is_over): (Decision, bool),
    deadline: Deadline,
) -> Result<Option<Begin>, BeginError> {
    let core = &*handle.0;
    match decision {
        Decision::Replay => Ok(Some(Begin::Done(row.record(asked.digest)))),
        Decision::Wait => Ok(Some(pending(handle, asked, row))),
        Decision::Expired => Err(BeginError::Expired(Tombstone::of(&row.record(asked.digest)))),
        Decision::Reused => Err(BeginError::KeyReused),
        // The row is to say so as well: how long it is remembered counts from now.
        Decision::Unresolved if is_over => {
            core.lapses(row, asked.digest, deadline).await.map_err(Core::refusal)?;
            Ok(None)
        }
        Decision::Unresolved => Err(BeginError::Unresolved(row.interruption(&core.budget))),
        Decision::Grant { .. }
        | Decision::Superseded
        | Decision::Busy
        | Decision::Become(_)
        | Decision::Stay => unreachable!("a begin without a grant waits, is replayed or refused"),
    }
}

impl Core {
    /// Makes a claim interrupted that seemed to be over. `false` if it is not over by now, if its row
    /// has changed, or if a transaction has the row.
    pub(super) async fn lapses(
        &self,
        row: &KeyRow,
        digest: Digest,
        deadline: Deadline,
    ) -> Result<bool, Miss> {
        let lapse = ChangeAsk { digest, seen: (row.fence, row.state), to: RowState::Interrupted };
        let is_done = self.ask(lapse, deadline).await?.is_done;
        if is_done {
            self.note_lapse(row, digest);
        }
        Ok(is_done)
    }
}

/// The handle on the claim that this row has.
pub(super) fn pending(handle: &Arc<SharedHandle>, asked: &Asked, row: &KeyRow) -> Begin {
    let known = handle.0.watches.known(asked.digest, row.fence);
    let attempt = known.unwrap_or_else(|| Arc::new(NewClaim::found(row, &handle.0).attempt(asked)));
    Begin::InFlight(Pending::new(attempt, Handle::Shared(Arc::clone(handle))))
}

/// Grants a claim on a key that has this row; `None` if the row has changed since, or a
/// transaction has locked it.
pub(super) async fn grant<'a>(
    handle: &'a Arc<SharedHandle>,
    asked: &Asked,
    fingerprint: Fingerprint,
    (row, now): (&KeyRow, Timestamp),
    (attempt, resolves): (u32, bool),
    terms: &Terms,
    deadline: Deadline,
) -> Result<Option<Undelivered<'a>>, BeginError> {
    let core = &*handle.0;
    let earlier = (attempt > 1).then(|| row.as_earlier());
    let standing = (attempt > 1).then(|| Standing {
        attempt: row.attempt,
        interrupted_at: row.interrupted_at(),
        gone: row.remembered_until(now),
    });
    let mut granting = Granting::new(core, asked, How::Changes(standing))?;
    let mut tries = Tries::new(deadline);
    loop {
        core.check()?;
        granting.sends(terms.session);
        let ask = GrantAsk {
            digest: asked.digest,
            nonce: granting.nonce,
            fingerprint,
            terms: *terms,
            seen: (row.fence, row.state),
            attempt,
            earlier,
        };
        let granted = match core.ask_grant(ask, deadline).await {
            Ok(granted) => granted,
            Err(miss) => {
                if tries.unknown.is_none() && !matches!(miss, Miss::Unknown(_)) {
                    granting.granted_nothing();
                }
                tries.again(core, miss).await?;
                continue;
            }
        };
        let (mut claim, stands) = match granted.fence {
            Some(_) if !granting.is_good(Stands::granted(terms)) => {
                granting.start_again(deadline).await?;
                return Ok(None);
            }
            Some(fence) => {
                (NewClaim::granted(terms, fingerprint, fence, granted.now), Stands::granted(terms))
            }
            // The grant before this one may have happened, and its answer got lost.
            None if tries.unknown.is_some() => {
                let found = found(core, asked, &mut granting, deadline).await?;
                let Some(found) = found else { return Ok(None) };
                found
            }
            None => {
                granting.granted_nothing();
                if granted.is_full {
                    return Err(full(terms));
                }
                core.catch_up(granted.is_alive, granted.policies, deadline).await?;
                return Ok(None);
            }
        };
        if row.state == RowState::InFlight {
            core.note_lapse(row, asked.digest);
        }
        claim.number = attempt;
        claim.earlier = earlier;
        if attempt > 1 {
            claim.progress = row.progress.as_deref().map(|bytes| Progress::new(bytes, &core.budget));
        }
        let attempt = claim.attempt(asked);
        return Ok(Some(Undelivered { granting, stands, attempt, standing, resolves }));
    }
}

/// The claim that an earlier statement granted, if it did and the claim is still good.
pub(super) async fn found(
    core: &Core,
    asked: &Asked,
    granting: &mut Granting<'_>,
    deadline: Deadline,
) -> Result<Option<(NewClaim, Stands)>, Refusal> {
    granting.looks();
    let looked = core.sure_look(asked.digest, deadline).await.map_err(Core::refusal)?;
    let Some(row) = looked.row.filter(|row| granting.is_of(row)) else { return Ok(None) };
    let stands = Stands::found(&row, looked.now);
    if granting.is_good(stands) {
        return Ok(Some((NewClaim::found(&row, core), stands)));
    }
    granting.start_again(deadline).await?;
    Ok(None)
}
