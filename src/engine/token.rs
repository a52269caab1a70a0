//! Claims on their way across a process boundary.

use std::fmt;

use super::Handle;
use super::claim::{Claim, Terms};
use super::core::Core;
use super::detached::Left;
use super::permit::Permit;
use super::scope::ScopeInner;
use crate::attempt::Attempt;
use crate::caller::Caller;
use crate::codec::{self, BadBytes, TokenRow};
use crate::error::{BeginError, TokenError};
use crate::index::Slot;
use crate::key::Digest;
use crate::state::{Event, Fence, Phase, decide};
use crate::sync::Arc;
use crate::wal::Reservation;

/// A claim in a form that crosses process boundaries: bytes, sealed by the file that granted it.
///
/// [`Claim::into_token`] gives one, [`Scope::resume`](crate::Scope::resume) takes it back. It is a bearer token: who has it can
/// end the claim, through a process that has the file open. With the feature `serde` it can be part of a message. Dropped, it leaves its
/// claim in flight until the lease runs out.
#[derive(Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[must_use = "nobody else can end the claim, which is in flight until its lease runs out"]
pub struct ClaimToken(Vec<u8>);

impl ClaimToken {
    /// Its bytes: at most 86 and the scope's name.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The token with these bytes. Whether they are one is found out when the claim is resumed.
    pub fn from_bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
}

/// Who has a token can end the claim: it does not belong in a log.
impl fmt::Debug for ClaimToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClaimToken(..)")
    }
}

/// Why a claim was not taken up.
enum NotTaken {
    /// Somebody has it.
    Held,
    /// It is not the current one.
    Superseded,
}

impl Core {
    /// What makes a token one of this file: BLAKE3 under a key derived from the file's secret. Tokens travel, so this withstands
    /// whoever would make one up; checksums of what is on disk need not.
    fn seal(&self, row: &[u8]) -> blake3::Hash {
        let key = blake3::derive_key("idemkv 2: tokens of claims", &self.secret.0);
        blake3::keyed_hash(&key, row)
    }

    pub(super) fn token(&self, attempt: &Attempt) -> ClaimToken {
        let mut row = Vec::new();
        let (digest, fence) = (attempt.digest.as_u128(), attempt.fence.get());
        codec::encode_into(
            &TokenRow { file_id: self.file_id, digest, fence, opening: self.opening, scope: attempt.scope() },
            &mut row,
        );
        let seal = self.seal(&row);
        // The row first: its start tells of which file it is, should it be of another one.
        row.extend_from_slice(seal.as_bytes());
        ClaimToken(row)
    }

    /// The claim that a token stands for, if it is still good and nobody has it.
    pub(super) async fn resume(
        &self,
        caller: Caller,
        handle: &Arc<Handle>,
        scope: &ScopeInner,
        token: &ClaimToken,
    ) -> Result<Claim, TokenError> {
        self.gate.check().map_err(BeginError::from)?;
        if let Some(failure) = self.commit.failure() {
            return Err(BeginError::Failed(failure.clone()).into());
        }
        let row = self.open_token(token)?;
        if row.scope != scope.name() {
            return Err(TokenError::OtherScope);
        }
        let (digest, fence) = (Digest::from_u128(row.digest), Fence::new(row.fence));
        // After a restart the claim has no log space yet. It is reserved before anything is changed.
        let more = match self.index.get(digest) {
            Slot::InFlight(attempt) => self.detached.lacks(fence, self.ending_needs(&attempt)),
            Slot::Vacant
            | Slot::Ending(_)
            | Slot::Interrupted(_)
            | Slot::Cached(..)
            | Slot::Stored { .. } => 0,
        };
        let more = self.reserve(caller, more).await.map_err(BeginError::from)?;
        match self.take_up(handle, &row, more) {
            Ok(claim) => Ok(claim),
            Err(NotTaken::Held) => Err(TokenError::Held),
            Err(NotTaken::Superseded) => {
                Err(TokenError::Superseded(Box::new(self.became(caller, digest).await)))
            }
        }
    }

    fn take_up(
        &self,
        handle: &Arc<Handle>,
        row: &TokenRow<'_>,
        more: Reservation,
    ) -> Result<Claim, NotTaken> {
        let (digest, fence) = (Digest::from_u128(row.digest), Fence::new(row.fence));
        let now = self.clock.now();
        // A claim is used; in the index nothing changes by that.
        let current = self.index.get(digest);
        let usable = decide(current.state(self.index.epoch()), Event::Use { fence, now }).becomes();
        let (Some(Phase::InFlight), Slot::InFlight(attempt)) = (usable, &current) else {
            return Err(NotTaken::Superseded);
        };
        // A backup that was put back may have granted this fence anew, to somebody else.
        if attempt.detached().is_none_or(|hand_over| hand_over.opening != row.opening) {
            return Err(NotTaken::Superseded);
        }
        // Only one of all who ask finds the share there.
        let Some(Left { mut share, durability }) = self.detached.take(fence) else {
            // Or nobody, where its lease was found ended meanwhile.
            return Err(if self.is_good(attempt) { NotTaken::Held } else { NotTaken::Superseded });
        };
        share.reservation.join(more);
        let terms = Terms { logged: true, resolves: false, durability };
        Ok(Claim::new(Arc::clone(attempt), Permit::of(share, handle), terms))
    }

    fn open_token<'a>(&self, token: &'a ClaimToken) -> Result<TokenRow<'a>, TokenError> {
        let Some((row, seal)) = token.0.split_last_chunk::<{ blake3::OUT_LEN }>() else {
            return Err(TokenError::Malformed);
        };
        let decoded: Result<TokenRow<'_>, BadBytes> = codec::decode(row);
        let Ok(decoded) = decoded else { return Err(TokenError::Malformed) };
        if decoded.file_id != self.file_id {
            return Err(TokenError::OtherFile);
        }
        if self.seal(row) != *seal {
            return Err(TokenError::Malformed);
        }
        Ok(decoded)
    }
}
