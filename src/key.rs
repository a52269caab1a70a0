//! The identity of a key: a 128-bit keyed digest of (scope, key).

pub(crate) mod fingerprint;
mod siphash;
pub(crate) mod step_key;

use std::fmt;

use siphash::SipState;

/// Longest scope or key that any options allow.
pub(crate) const NAME_MAX: usize = 4_096;

/// A digest under a secret drawn when the file is made. Clients choose keys, so without the
/// secret a client could search for two keys with one digest. With it, 10 billion keys collide
/// with probability below 10⁻¹⁸.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(u128);

impl Digest {
    pub(crate) const fn from_u128(value: u128) -> Self {
        Self(value)
    }

    /// The upper half and the lower one.
    pub(crate) fn halves(self) -> [u64; 2] {
        let low = self.0 & u128::from(u64::MAX);
        [self.0 >> 64, low]
            .map(|half| u64::try_from(half).unwrap_or_else(|_| unreachable!("half of 128 bits")))
    }

    /// The half that is made first, and that gives a key its place in memory: the lower one.
    #[inline]
    pub(crate) fn first_half(self) -> u64 {
        let [_, low] = self.halves();
        low
    }

    pub(crate) const fn as_u128(self) -> u128 {
        self.0
    }

    pub(crate) fn key_hash(self) -> KeyHash {
        KeyHash(u32::try_from(self.0 >> 96).unwrap_or_else(|_| unreachable!("the upper 32 of 128 bits")))
    }
}

/// A short name of a key for logs and metrics: 8 hexadecimal digits. It reveals nothing about the
/// key.
///
/// It depends on a secret of the file, the scope and the key, so it is the same in every process
/// that opens the file. Among 9,300 keys, two have the same name with probability 1 %. All
/// `Debug` output names keys this way.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(u32);

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{self}")
    }
}

/// Hashes digests for maps: they are uniform already, and clients can't construct collisions.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct DigestHasher(u64);

impl std::hash::Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("only digests are hashed so");
    }

    fn write_u128(&mut self, digest: u128) {
        self.0 = Digest(digest).first_half();
    }
}

/// A map by digest.
pub(crate) type DigestMap<V> =
    std::collections::HashMap<Digest, V, std::hash::BuildHasherDefault<DigestHasher>>;

/// The file's secret.
#[derive(Clone, Copy)]
pub(crate) struct Secret(pub(crate) [u8; 32]);

impl Secret {
    /// A key for one purpose, which the keys for other purposes do not reveal.
    pub(crate) fn derived(&self, purpose: &str) -> [u8; 16] {
        first_half(&blake3::derive_key(purpose, &self.0))
    }
}

fn first_half(bytes: &[u8; 32]) -> [u8; 16] {
    bytes.first_chunk().copied().unwrap_or_default()
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Digests the keys of one scope. Every scope has its own hash key, derived from the file's
/// secret and the scope's name, so the name costs nothing in a lookup.
#[derive(Clone)]
pub(crate) struct KeyHasher(SipState);

/// The hash key must not end up in a log: an attacker that knows it can construct collisions.
impl std::fmt::Debug for KeyHasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyHasher(..)")
    }
}

impl KeyHasher {
    pub(crate) fn new(secret: &Secret, scope: &[u8]) -> Self {
        let derived = blake3::keyed_hash(&secret.0, scope);
        Self(SipState::new(&first_half(derived.as_bytes())))
    }

    #[inline]
    pub(crate) fn digest(&self, key: &[u8]) -> Digest {
        Digest(self.0.hash(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_key_in_two_scopes_or_files_has_two_digests() {
        let (a, b) = (Secret([1; 32]), Secret([2; 32]));
        let digest = |secret, scope: &[u8]| KeyHasher::new(secret, scope).digest(b"key");
        assert_ne!(digest(&a, b"x"), digest(&a, b"y"));
        assert_ne!(digest(&a, b"x"), digest(&b, b"x"));
        assert_eq!(digest(&a, b"x"), digest(&a, b"x"));
    }

    /// A change of this orphans every key of every file: raise the format version.
    #[test]
    fn golden_digest() {
        let digest = KeyHasher::new(&Secret([9; 32]), b"scope").digest(b"key");
        assert_eq!(format!("{:032x}", digest.as_u128()), "8c9bbc0d71af1e1ea5ba2662af15bad7");
    }

    #[test]
    fn debug_output_gives_no_secret_away() {
        let secret = Secret([7; 32]);
        assert_eq!(format!("{secret:?} {:?}", KeyHasher::new(&secret, b"x")), "Secret(..) KeyHasher(..)");
    }
}
