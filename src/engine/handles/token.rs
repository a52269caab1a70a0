//! Claims on their way across a process boundary.

use std::fmt;

use crate::attempt::Attempt;
use crate::codec;
use crate::codec::{BadBytes, TokenRow};
use crate::engine::core::Core;
use crate::error::TokenError;

/// A claim in a form that crosses process boundaries: bytes, sealed by the file that granted it.
///
/// [`Claim::into_token`](crate::Claim::into_token) gives one, [`Scope::resume`](crate::Scope::resume) takes it back. It is a bearer token: who has it can
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

impl Core {
    /// What makes a token one of this file: BLAKE3 under a key derived from the file's secret. Tokens travel, so this withstands
    /// somebody who would make one up; checksums of what is on disk need not.
    fn seal(&self, row: &[u8]) -> blake3::Hash {
        let key = blake3::derive_key("idemkv 2: tokens of claims", &self.secret.0);
        blake3::keyed_hash(&key, row)
    }

    pub(in crate::engine) fn token(&self, attempt: &Attempt) -> ClaimToken {
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

    pub(in crate::engine) fn open_token<'a>(
        &self,
        token: &'a ClaimToken,
    ) -> Result<TokenRow<'a>, TokenError> {
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
