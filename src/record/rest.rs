//! The fields of a record that no lookup reads, packed apart from the others.

use crate::Timestamp;
use crate::key::Digest;
use crate::state::Fence;

/// The fields that a lookup does not read, packed as bytes behind body and names.
#[derive(Clone, Copy)]
pub(super) struct Rest {
    pub(super) remembered_until: Timestamp,
    pub(super) digest: Digest,
    pub(super) fence: Fence,
    pub(super) attempt: u32,
    pub(super) started: Timestamp,
    pub(super) completed: Timestamp,
}

pub(super) const REST: usize = 52;

impl Rest {
    pub(super) fn to_bytes(self) -> [u8; REST] {
        let mut bytes = [0; REST];
        let mut free = bytes.as_mut_slice();
        let mut put = |field: &[u8]| {
            let (to, rest) = std::mem::take(&mut free).split_at_mut(field.len());
            to.copy_from_slice(field);
            free = rest;
        };
        put(&self.remembered_until.as_millis().to_le_bytes());
        put(&self.digest.as_u128().to_le_bytes());
        put(&self.fence.get().to_le_bytes());
        put(&self.started.as_millis().to_le_bytes());
        put(&self.completed.as_millis().to_le_bytes());
        put(&self.attempt.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; REST]) -> Self {
        let mut left = bytes.as_slice();
        let mut take = |len: usize| {
            let (field, rest) = left.split_at(len);
            left = rest;
            field
        };
        let mut word = || u64::from_le_bytes(take(8).try_into().unwrap_or_default());
        Self {
            remembered_until: Timestamp::from_millis(word()),
            digest: Digest::from_u128(u128::from(word()) | u128::from(word()) << 64),
            fence: Fence::new(word()),
            started: Timestamp::from_millis(word()),
            completed: Timestamp::from_millis(word()),
            attempt: u32::from_le_bytes(take(4).try_into().unwrap_or_default()),
        }
    }
}
