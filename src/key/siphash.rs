//! SipHash-1-3 with 128 bits, for whole messages.
//!
//! `siphasher` computes the same, but it also takes messages in pieces, and keeps what it needs
//! for that in memory. Here four words stay in registers. The tests compare the two.

/// The four words of the hash.
#[derive(Clone, Copy)]
pub(super) struct SipState {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

impl SipState {
    /// The state before the first byte, for a hash key.
    pub(super) fn new(key: &[u8; 16]) -> Self {
        let ([low, high], []) = key.as_chunks() else { unreachable!("16 bytes are two words") };
        let [low, high] = [*low, *high].map(u64::from_le_bytes);
        Self {
            v0: low ^ 0x736f_6d65_7073_6575,
            // The last byte says that 128 bits are wanted.
            v1: high ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: low ^ 0x6c79_6765_6e65_7261,
            v3: high ^ 0x7465_6462_7974_6573,
        }
    }

    /// The digest of a message.
    #[inline]
    pub(super) fn hash(mut self, message: &[u8]) -> u128 {
        for word in message.as_chunks().0 {
            self.absorb(u64::from_le_bytes(*word));
        }
        self.absorb(last_word(message));
        self.v2 ^= 0xee;
        let first = self.finish();
        self.v1 ^= 0xdd;
        let second = self.finish();
        u128::from(second) << 64 | u128::from(first)
    }

    #[inline]
    fn absorb(&mut self, word: u64) {
        self.v3 ^= word;
        self.round();
        self.v0 ^= word;
    }

    #[inline]
    fn finish(&mut self) -> u64 {
        self.round();
        self.round();
        self.round();
        self.v0 ^ self.v1 ^ self.v2 ^ self.v3
    }

    #[inline]
    fn round(&mut self) {
        self.v0 = self.v0.wrapping_add(self.v1);
        self.v2 = self.v2.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(13) ^ self.v0;
        self.v3 = self.v3.rotate_left(16) ^ self.v2;
        self.v0 = self.v0.rotate_left(32);
        self.v2 = self.v2.wrapping_add(self.v1);
        self.v0 = self.v0.wrapping_add(self.v3);
        self.v1 = self.v1.rotate_left(17) ^ self.v2;
        self.v3 = self.v3.rotate_left(21) ^ self.v0;
        self.v2 = self.v2.rotate_left(32);
    }
}

/// The bytes behind the last whole word, and the message's length in the highest byte.
#[inline]
fn last_word(message: &[u8]) -> u64 {
    let left = message.len() % 8;
    let bytes = match message.last_chunk() {
        // Two shifts, because one by 64 bits would not be zero.
        Some(last) => u64::from_le_bytes(*last) >> 8 >> (56 - 8 * left),
        None => message.iter().rev().fold(0, |bytes, byte| bytes << 8 | u64::from(*byte)),
    };
    (message.len() as u64) << 56 | bytes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use siphasher::sip128::SipHasher13;

    use super::*;

    #[track_caller]
    fn assert_same(key: [u8; 16], message: &[u8]) {
        let expected = SipHasher13::new_with_key(&key).hash(message).as_u128();
        let digest = SipState::new(&key).hash(message);
        assert_eq!(digest, expected, "{} bytes", message.len());
    }

    fn bytes(mut seed: u64, len: usize) -> Vec<u8> {
        let next = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            seed.to_be_bytes()[0]
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    #[test]
    fn every_length_that_a_key_may_have_is_hashed_as_siphash_does() {
        let key = bytes(0, 16).try_into().unwrap();
        for len in 0..=crate::key::NAME_MAX {
            assert_same(key, &bytes(len as u64, len));
            assert_same(key, &vec![0xff; len]);
        }
    }

    proptest! {
        #[test]
        fn any_key_and_message_are_hashed_as_siphash_does(
            key in any::<[u8; 16]>(),
            message in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            assert_same(key, &message);
        }
    }
}
