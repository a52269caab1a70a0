//! Keys for the steps of an operation, to be sent downstream.

use std::fmt;

use crate::Fingerprint;
use crate::key::Secret;

/// An idempotency key for one step of an operation; see
/// [`Claim::step_key`](crate::Claim::step_key). Its text has the form of a UUID, version 8 (RFC
/// 9562, section 5.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StepKey([u8; 16]);

impl StepKey {
    pub(crate) fn new(
        secret: &Secret,
        scope: &[u8],
        key: &[u8],
        fingerprint: &Fingerprint,
        step: &[u8],
    ) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(&secret.0);
        // Nothing else that the secret keys starts like this, and no part can run into the next.
        for part in [b"idemkv step key", scope, key, fingerprint.as_bytes(), step] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        let mut bytes = [0; 16];
        hasher.finalize_xof().fill(&mut bytes);
        // Version and variant, as the RFC wants them.
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Its sixteen bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step_key(scope: &[u8], key: &[u8], request: &str, step: &[u8]) -> StepKey {
        StepKey::new(&Secret([9; 32]), scope, key, &Fingerprint::of(request), step)
    }

    /// A change of this makes downstream services repeat their effects: never change it.
    #[test]
    fn golden_step_key() {
        let key = step_key(b"charges", b"key", "request", b"charge-card");
        assert_eq!(key.to_string(), "deac07cb-64f7-88f5-b6ed-a527965722e1");
    }

    #[test]
    fn every_part_counts_and_parts_do_not_run_into_each_other() {
        let key = step_key(b"a", b"b", "c", b"d");
        for other in [
            step_key(b"x", b"b", "c", b"d"),
            step_key(b"a", b"x", "c", b"d"),
            step_key(b"a", b"b", "x", b"d"),
            step_key(b"a", b"b", "c", b"x"),
            step_key(b"ab", b"", "c", b"d"),
        ] {
            assert_ne!(other, key);
        }
    }
}
