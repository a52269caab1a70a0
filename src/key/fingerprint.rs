//! `Fingerprint`: identifies a request, in 32 bytes.

use std::fmt;
use std::sync::LazyLock;

use blake3::Hasher;
use blake3::hazmat::{ContextKey, HasherExt as _, hash_derive_key_context};

/// A fingerprint of fields differs from that of one run of bytes.
static OF_FIELDS: LazyLock<ContextKey> =
    LazyLock::new(|| hash_derive_key_context("idemkv 2026-11 fingerprint of fields"));
/// Bytes of fields that are hashed at once, where they are short.
const GATHERED_MAX: usize = 256;

/// A BLAKE3 digest of a request. The same key with another fingerprint is a reused key, and
/// refused.
///
/// Include everything that makes the request what it is, and nothing that differs between two
/// tries of the same request (a date header, a trace id).
///
/// ```
/// use idemkv::Fingerprint;
///
/// assert_eq!(Fingerprint::of(b"amount=10"), Fingerprint::of(b"amount=10"));
/// assert_ne!(Fingerprint::of(b"amount=10"), Fingerprint::of(b"amount=11"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of one run of bytes, such as a request body.
    #[must_use]
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(*blake3::hash(bytes.as_ref()).as_bytes())
    }

    /// A fingerprint of several labelled fields.
    ///
    /// Every label and value goes in with its length in front, so fields can't run into each
    /// other. The order of the fields counts.
    ///
    /// ```
    /// use idemkv::Fingerprint;
    ///
    /// let one = Fingerprint::builder().field("payer", "ab").field("payee", "c").finish();
    /// let other = Fingerprint::builder().field("payer", "a").field("payee", "bc").finish();
    /// assert_ne!(one, other);
    /// ```
    pub fn builder() -> FingerprintBuilder {
        let hasher = Hasher::new_from_context_key(&OF_FIELDS);
        FingerprintBuilder(Box::new(Fields { hasher, gathered: [0; GATHERED_MAX], len: 0 }))
    }

    /// A fingerprint computed elsewhere: any 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The first eight bytes in hexadecimal: enough to tell two apart in a log.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(")?;
        for byte in self.0.iter().take(8) {
            write!(f, "{byte:02x}")?;
        }
        f.write_str("..)")
    }
}

/// Collects labelled fields; see [`Fingerprint::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `finish`"]
pub struct FingerprintBuilder(Box<Fields>);

#[derive(Clone)]
struct Fields {
    hasher: Hasher,
    /// What is not hashed yet, up to `len`. Most parts are a few bytes, and each update of the
    /// hasher costs as much as hashing some tens.
    gathered: [u8; GATHERED_MAX],
    len: usize,
}

impl Fields {
    fn put(&mut self, part: &[u8]) {
        let room = self.gathered.get_mut(self.len..).and_then(|rest| rest.get_mut(..part.len()));
        if let Some(room) = room {
            room.copy_from_slice(part);
            self.len += part.len();
        } else {
            self.hash_gathered();
            self.hasher.update(part);
        }
    }

    fn hash_gathered(&mut self) {
        self.hasher.update(self.gathered.get(..self.len).unwrap_or_default());
        self.len = 0;
    }
}

impl FingerprintBuilder {
    /// Adds one field.
    pub fn field(mut self, label: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Self {
        for part in [label.as_ref(), value.as_ref()] {
            self.0.put(&(part.len() as u64).to_le_bytes());
            self.0.put(part);
        }
        self
    }

    /// The fingerprint of all fields so far.
    #[must_use]
    pub fn finish(mut self) -> Fingerprint {
        self.0.hash_gathered();
        Fingerprint(*self.0.hasher.finalize().as_bytes())
    }
}

/// Without the fields.
impl fmt::Debug for FingerprintBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FingerprintBuilder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_values_cannot_run_into_each_other() {
        let a = Fingerprint::builder().field("ab", "c").finish();
        let b = Fingerprint::builder().field("a", "bc").finish();
        let c = Fingerprint::builder().field("abc", "").finish();
        let d = Fingerprint::builder().field("ab", "").field("c", "").finish();
        assert!(a != b && b != c && a != c && c != d && a != d);
    }

    #[test]
    fn of_one_field_differs_from_of_its_bytes() {
        assert_ne!(Fingerprint::of("x"), Fingerprint::builder().field("", "x").finish());
    }

    /// A change of this makes every retry look like a reused key.
    #[test]
    fn golden_fingerprints() {
        let fields = Fingerprint::builder().field("payer", "a").field("amount", "10").finish();
        let shown = format!("{:?} {fields:?}", Fingerprint::of("request"));
        assert_eq!(shown, "Fingerprint(154b69cbf0aaa75b..) Fingerprint(f8f235dde183c6fe..)");
    }

    /// However long the fields are, and wherever they end among those that are hashed at once.
    #[test]
    fn fields_are_hashed_one_after_the_other() {
        let bytes = [7; 3 * GATHERED_MAX];
        for first in 0..2 * GATHERED_MAX {
            for second in [0, 1, GATHERED_MAX, 3 * GATHERED_MAX] {
                let values = [&bytes[..first], &bytes[..second], b"end"];
                let mut plain = Hasher::new_derive_key("idemkv 2026-11 fingerprint of fields");
                let mut fields = Fingerprint::builder();
                for value in values {
                    for part in [b"label", value] {
                        plain.update(&(part.len() as u64).to_le_bytes()).update(part);
                    }
                    fields = fields.field("label", value);
                }
                assert_eq!(fields.finish().as_bytes(), plain.finalize().as_bytes(), "{first}, {second}");
            }
        }
    }

    #[test]
    fn debug_shows_a_prefix_only() {
        let shown = format!("{:?}", Fingerprint::from_bytes([0xab; 32]));
        assert_eq!(shown, "Fingerprint(abababababababab..)");
    }
}
