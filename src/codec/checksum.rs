//! The checksum of frames and rows: over their bytes and the place that they belong to.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use super::bad_bytes::BadBytes;
use crate::key::Secret;

pub(crate) const CHECKSUM_BYTES: usize = 8;

/// Checksums that are bound to the file and to the place of the bytes, so that bytes of another
/// file or another row fail: SipHash-1-3, under a key derived from the file's secret, over the
/// place and then the bytes.
///
/// They detect damage done by disks. A program that can write the file can also read the secret
/// in it. A client chooses bodies, but can't forge a frame of the log in one.
#[derive(Clone)]
pub(crate) struct Checksummer(SipHasher13);

impl std::fmt::Debug for Checksummer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checksummer(..)")
    }
}

impl Checksummer {
    pub(crate) fn new(secret: &Secret) -> Self {
        Self(SipHasher13::new_with_key(&secret.derived("idemkv 3: checksums of what is on disk")))
    }

    pub(crate) fn checksum(&self, table: &str, place: &[u64], bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
        let mut hasher = self.0;
        // No table's name is the start of another's, and all places of a table have one length.
        hasher.write(table.as_bytes());
        for part in place {
            // Little-endian on every machine; a slice of so few bytes would take four times as
            // long.
            hasher.write_u64(part.to_le());
        }
        hasher.write(bytes);
        hasher.finish().to_le_bytes()
    }

    /// The checksum, then the bytes.
    pub(crate) fn seal(&self, table: &str, place: &[u64], bytes: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::with_capacity(CHECKSUM_BYTES + bytes.len());
        sealed.extend_from_slice(&self.checksum(table, place, bytes));
        sealed.extend_from_slice(bytes);
        sealed
    }

    /// The bytes of a sealed row, if they were sealed for this place.
    pub(crate) fn open<'a>(
        &self,
        table: &str,
        place: &[u64],
        sealed: &'a [u8],
    ) -> Result<&'a [u8], BadBytes> {
        let Some((checksum, bytes)) = sealed.split_first_chunk::<CHECKSUM_BYTES>() else {
            return Err(BadBytes(format!("a row of {} bytes is too short", sealed.len())));
        };
        if *checksum != self.checksum(table, place, bytes) {
            return Err(BadBytes("the checksum does not match".to_owned()));
        }
        Ok(bytes)
    }
}
