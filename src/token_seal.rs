//! Tokens of claims, sealed: BLAKE3 under a key derived from the store's secret. Tokens travel, so
//! the seal must withstand forgery; checksums of bytes on disk need not.

use crate::codec;
use crate::codec::{BadBytes, TokenRow};
use crate::error::TokenError;
use crate::key::Secret;

fn hash(secret: &Secret, row: &[u8]) -> blake3::Hash {
    let key = blake3::derive_key("idemkv 2: tokens of claims", &secret.0);
    blake3::keyed_hash(&key, row)
}

/// The bytes of a token.
pub(crate) fn seal(secret: &Secret, token: &TokenRow<'_>) -> Vec<u8> {
    let mut row = Vec::new();
    codec::encode_into(token, &mut row);
    let seal = hash(secret, &row);
    // The row first: its start tells of which file it is, should it be of another one.
    row.extend_from_slice(seal.as_bytes());
    row
}

/// What a token of this store says.
pub(crate) fn open<'a>(
    secret: &Secret,
    file_id: [u8; 16],
    bytes: &'a [u8],
) -> Result<TokenRow<'a>, TokenError> {
    let Some((row, seal)) = bytes.split_last_chunk::<{ blake3::OUT_LEN }>() else {
        return Err(TokenError::Malformed);
    };
    let decoded: Result<TokenRow<'_>, BadBytes> = codec::decode(row);
    let Ok(decoded) = decoded else { return Err(TokenError::Malformed) };
    if decoded.file_id != file_id {
        return Err(TokenError::OtherFile);
    }
    if hash(secret, row) != *seal {
        return Err(TokenError::Malformed);
    }
    Ok(decoded)
}
