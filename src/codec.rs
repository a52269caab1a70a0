//! What goes into the log and the store, as bytes: the only module that calls bincode.
//!
//! Bytes from disk are never trusted: every run of them carries a checksum, a version and lengths, decoding has
//! a size limit and refuses trailing bytes, and nothing here panics on any input.

use std::cmp::Ordering;
use std::hash::Hasher;
use std::path::Path;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::de::BorrowDecoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use siphasher::sip::SipHasher13;

use crate::error::{Damage, OpenError};
use crate::key::{Digest, Secret};
use crate::record::{Outcome, Record, RecordParts};
use crate::state::{Fence, Lifetime};
use crate::{Fingerprint, Timestamp};

/// Version of everything on disk. A file with another one is refused. Version 1 had checksums of BLAKE3, version 2 numbers of fixed
/// width, in version 3 a log did not say to which opening of the file it belongs.
pub(crate) const FORMAT_VERSION: u32 = 4;

/// Refuses a file with another version than this build's.
pub(crate) fn check_version(file: &Path, found: u32) -> Result<(), OpenError> {
    let (file, supported) = (|| file.to_owned(), FORMAT_VERSION);
    match found.cmp(&supported) {
        Ordering::Less if found == 0 => {
            Err(Damage::new(&file(), "its format version", "there never was a version 0").into())
        }
        Ordering::Less => Err(OpenError::OlderVersion { file: file(), found, supported }),
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(OpenError::NewerVersion { file: file(), found, supported }),
    }
}

/// Largest encoded entry that decoding accepts: far above the largest body that options allow.
const ENTRY_LIMIT: usize = 32 << 20;

const CONFIG: Configuration<LittleEndian, Varint, Limit<ENTRY_LIMIT>> =
    bincode::config::standard().with_little_endian().with_variable_int_encoding().with_limit::<ENTRY_LIMIT>();

/// Bytes that don't decode: what is wrong with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadBytes(pub(crate) String);

/// Text that is kept. It is decoded from the bytes that are there: bincode's own `String` asks for memory by the length that they claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode)]
pub(crate) struct Text(pub(crate) String);

impl<'de, C> BorrowDecode<'de, C> for Text {
    fn borrow_decode<D: BorrowDecoder<'de, Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        <&str>::borrow_decode(decoder).map(|text| Self(text.to_owned()))
    }
}

/// One entry of the log.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) enum Entry<'a> {
    /// A claim was granted.
    Intent(IntentRow<'a>),
    /// The claim of this key, by its digest, was completed or failed.
    Completion(u128, CompletionRow<'a>),
    /// A claim was released, or a key forgotten.
    Vacated(VacatedRow),
    /// Nothing happened but time.
    Mark,
    /// The progress of a claim was saved.
    Progress(ProgressRow<'a>),
    /// A claim was handed over as a token.
    Detached(DetachedRow),
    /// A scope was given a policy.
    PolicySet(ScopeRow<'a>),
}

/// A claim that was granted and, as far as this row knows, has not ended.
#[derive(Clone, Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct IntentRow<'a> {
    pub(crate) digest: u128,
    pub(crate) scope: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) fingerprint: [u8; 32],
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) started_ms: u64,
    pub(crate) ttl_ms: u64,
    pub(crate) remembered_ms: u64,
    /// The attempt before this one, if it was interrupted.
    pub(crate) earlier: Option<EarlierRow>,
    /// Since when the claim is known to be dead.
    pub(crate) interrupted_ms: Option<u64>,
    /// The claim was released and did nothing: it is the earlier attempt that may have.
    pub(crate) returned: bool,
    pub(crate) lease_ms: Option<u64>,
    /// How long it is remembered once it is interrupted; `None` until somebody resolves it.
    pub(crate) unresolved_ms: Option<u64>,
    /// The claim was handed over as a token: until when it is good although no process holds it, and the opening in which that was done.
    pub(crate) detached: Option<(u64, u64)>,
    /// Its progress, in the store. In the log it has entries of its own.
    pub(crate) progress: Option<&'a [u8]>,
}

/// The progress of a claim.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct ProgressRow<'a> {
    pub(crate) digest: u128,
    pub(crate) fence: u64,
    pub(crate) bytes: &'a [u8],
}

/// A claim that was handed over as a token.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct DetachedRow {
    pub(crate) digest: u128,
    pub(crate) fence: u64,
    /// Until when it is good.
    pub(crate) until_ms: u64,
    /// The salt of the opening in which it was handed over.
    pub(crate) opening: u64,
}

/// A claim, as a token names it.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct TokenRow<'a> {
    pub(crate) file_id: [u8; 16],
    pub(crate) digest: u128,
    pub(crate) fence: u64,
    /// The salt of the opening in which the claim was handed over.
    pub(crate) opening: u64,
    pub(crate) scope: &'a [u8],
}

/// A scope and its policy.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct ScopeRow<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) policy: PolicyRow,
}

/// A policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub(crate) struct PolicyRow {
    pub(crate) ttl_ms: u64,
    pub(crate) tombstone_ms: Option<u64>,
    pub(crate) refuse: bool,
    pub(crate) unresolved_ms: Option<u64>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) lease_ms: Option<u64>,
    pub(crate) intents: bool,
    pub(crate) relaxed_ms: Option<u64>,
    pub(crate) max_in_flight: Option<u32>,
}

/// An earlier attempt that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct EarlierRow {
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) started_ms: u64,
    pub(crate) interrupted_ms: u64,
}

/// A record, but for the digest of its key, which everybody who looks for it has.
///
/// Times are spans from the one before, which need few bytes. They wrap: a row holds any times, also those that make no sense.
#[derive(Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct CompletionRow<'a> {
    pub(crate) scope: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) fingerprint: [u8; 32],
    pub(crate) fence: u64,
    pub(crate) attempt: u32,
    pub(crate) failed: bool,
    pub(crate) started_ms: u64,
    /// From the start to the completion.
    pub(crate) took_ms: u64,
    /// From the completion until the body expires.
    pub(crate) ttl_ms: u64,
    /// From then until the key is no longer remembered.
    pub(crate) tombstone_ms: u64,
    pub(crate) body_kept: bool,
    pub(crate) body: &'a [u8],
}

/// A key that is vacant again.
#[derive(Clone, Copy, Debug, PartialEq, Encode, BorrowDecode)]
pub(crate) struct VacatedRow {
    pub(crate) digest: u128,
    pub(crate) fence: u64,
    /// For a forgotten record: until when it would have been remembered.
    pub(crate) forgotten_until_ms: Option<u64>,
}

impl<'a> From<&'a Record> for CompletionRow<'a> {
    fn from(record: &'a Record) -> Self {
        let parts = record.parts();
        let [started, completed, expires, remembered_until] =
            [parts.started, parts.completed, parts.lifetime.expires, parts.lifetime.remembered_until]
                .map(Timestamp::as_millis);
        Self {
            scope: parts.scope,
            key: parts.key,
            fingerprint: *parts.fingerprint.as_bytes(),
            fence: parts.fence.get(),
            attempt: parts.attempt,
            failed: parts.outcome == Outcome::Failure,
            started_ms: started,
            took_ms: completed.wrapping_sub(started),
            ttl_ms: expires.wrapping_sub(completed),
            tombstone_ms: remembered_until.wrapping_sub(expires),
            body_kept: parts.body_kept,
            body: parts.body,
        }
    }
}

impl<'a> CompletionRow<'a> {
    /// The same record without its body.
    pub(crate) fn without_body(self) -> Self {
        Self { body_kept: false, body: &[], ..self }
    }

    pub(crate) fn parts(&self, digest: Digest) -> Result<RecordParts<'a>, BadBytes> {
        check_names(self.scope, self.key)?;
        let completed = self.started_ms.wrapping_add(self.took_ms);
        let expires = completed.wrapping_add(self.ttl_ms);
        let remembered_until = expires.wrapping_add(self.tombstone_ms);
        if remembered_until < expires || (!self.body_kept && !self.body.is_empty()) {
            return Err(BadBytes("a record that contradicts itself".to_owned()));
        }
        Ok(RecordParts {
            digest,
            scope: self.scope,
            key: self.key,
            fingerprint: Fingerprint::from_bytes(self.fingerprint),
            fence: Fence::new(self.fence),
            attempt: self.attempt,
            outcome: if self.failed { Outcome::Failure } else { Outcome::Success },
            started: Timestamp::from_millis(self.started_ms),
            completed: Timestamp::from_millis(completed),
            lifetime: Lifetime {
                expires: Timestamp::from_millis(expires),
                remembered_until: Timestamp::from_millis(remembered_until),
            },
            body_kept: self.body_kept,
            body: self.body,
        })
    }
}

/// Longest scope or key that any options allow.
pub(crate) const NAME_MAX: usize = 4_096;

/// Bytes that an encoded entry can need beside its scope, key and body.
pub(crate) const ENTRY_OVERHEAD_MAX: usize = 192;

pub(crate) fn check_names(scope: &[u8], key: &[u8]) -> Result<(), BadBytes> {
    if key.is_empty() || key.len() > NAME_MAX || scope.len() > NAME_MAX {
        return Err(BadBytes(format!("a scope of {} and a key of {} bytes", scope.len(), key.len())));
    }
    Ok(())
}

impl Entry<'_> {
    pub(crate) fn encoded(&self) -> Vec<u8> {
        let variable = match self {
            Self::Intent(row) => row.scope.len() + row.key.len(),
            Self::Completion(_, row) => row.scope.len() + row.key.len() + row.body.len(),
            Self::Progress(row) => row.bytes.len(),
            Self::PolicySet(row) => row.name.len(),
            Self::Vacated(_) | Self::Mark | Self::Detached(_) => 0,
        };
        let mut bytes = Vec::with_capacity(ENTRY_OVERHEAD_MAX + variable);
        encode_into(self, &mut bytes);
        bytes
    }
}

/// Appends the encoding of `value` to `out`.
///
/// # Panics
///
/// Never: a vector takes any number of bytes, and rows are far below the limit, which options guard.
pub(crate) fn encode_into(value: &impl Encode, out: &mut Vec<u8>) {
    if let Err(error) = bincode::encode_into_writer(value, Appended(out), CONFIG) {
        unreachable!("encoding into memory failed: {error}");
    }
}

/// A vector as bincode writes to it: without the errors of a stream, which cost as much as the bytes.
struct Appended<'a>(&'a mut Vec<u8>);

impl Writer for Appended<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// How lengths are written in front of what they are the length of: in four bytes.
///
/// # Panics
///
/// Never: options keep entries below 32 MiB, blocks and frames below 64 MiB.
pub(crate) fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or_else(|_| unreachable!("{bytes} bytes in one piece")).to_le_bytes()
}

/// Decodes exactly `bytes`.
pub(crate) fn decode<'a, T: BorrowDecode<'a, ()>>(bytes: &'a [u8]) -> Result<T, BadBytes> {
    let (value, used) = bincode::borrow_decode_from_slice(bytes, CONFIG)
        .map_err(|error| BadBytes(format!("an entry does not decode: {error}")))?;
    if used != bytes.len() {
        return Err(BadBytes(format!("an entry of {used} bytes is followed by {} more", bytes.len() - used)));
    }
    Ok(value)
}

pub(crate) const CHECKSUM_BYTES: usize = 8;

/// Checksums that are bound to the file and to the place of the bytes, so that neither another file's bytes nor
/// bytes of another row pass: SipHash-1-3, under a key derived from the file's secret, over the place and then the bytes.
///
/// They are there for what disks do. Who could write to the file could as well read the secret in it; a client, who chooses bodies, can't make one
/// that would pass for a frame of the log.
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
            // Little-endian on every machine; a slice of so few bytes would take four times as long.
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

    /// The bytes of a sealed row, if they are the ones that were sealed for this place.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn intent() -> Entry<'static> {
        Entry::Intent(IntentRow {
            digest: 0x0102_0304,
            scope: b"s",
            key: b"key",
            fingerprint: [7; 32],
            fence: 5,
            attempt: 2,
            started_ms: 1_000,
            ttl_ms: 60,
            remembered_ms: 61,
            earlier: Some(EarlierRow { fence: 4, attempt: 1, started_ms: 900, interrupted_ms: 950 }),
            interrupted_ms: None,
            returned: false,
            lease_ms: Some(8),
            unresolved_ms: Some(9),
            detached: None,
            progress: None,
        })
    }

    const DIGEST: Digest = Digest::from_u128(1);

    fn completion(body: &[u8]) -> CompletionRow<'_> {
        CompletionRow {
            scope: b"",
            key: b"k",
            fingerprint: [0; 32],
            fence: 2,
            attempt: 1,
            failed: true,
            started_ms: 1_800_000_000_000,
            took_ms: 4,
            ttl_ms: 86_400_000,
            tombstone_ms: 600,
            body_kept: true,
            body,
        }
    }

    fn hex(entry: &Entry<'_>) -> String {
        let mut bytes = Vec::new();
        encode_into(entry, &mut bytes);
        bytes
            .iter()
            .flat_map(|byte| [byte >> 4, byte & 15])
            .map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)]))
            .collect()
    }

    /// Files depend on it, so on how the hasher takes a number, too, which its documentation does not promise.
    #[test]
    fn a_checksum_is_that_of_the_bytes_behind_each_other() {
        let secret = Secret([9; 32]);
        let key = secret.derived("idemkv 3: checksums of what is on disk");
        let place = [1, u64::MAX - 7, 0x0102_0304_0506_0708];
        let joined = [b"frame".as_slice(), &place.map(u64::to_le_bytes).concat(), b"bytes"].concat();
        let expected = SipHasher13::new_with_key(&key).hash(&joined).to_le_bytes();
        assert_eq!(Checksummer::new(&secret).checksum("frame", &place, b"bytes"), expected);
    }

    /// A change of these is a change of the file format: raise `FORMAT_VERSION`.
    #[test]
    fn golden_bytes() {
        let (sevens, zeros) = ("07".repeat(32), "00".repeat(32));
        let earlier = "010401fb8403fbb603";
        assert_eq!(
            hex(&intent()),
            format!("00fc040302010173036b6579{sevens}0502fbe8033c3d{earlier}0000010801090000")
        );
        let times = "fd00505c18a301000004fc005c2605fb5802";
        assert_eq!(
            hex(&Entry::Completion(1 << 100, completion(b"hi"))),
            format!("01fe0000000000000000000000001000000000016b{zeros}020101{times}01026869")
        );
        let vacated = Entry::Vacated(VacatedRow { digest: 1, fence: 2, forgotten_until_ms: Some(3) });
        assert_eq!(hex(&vacated), "0201020103");
        assert_eq!(hex(&Entry::Mark), "03");
        let progress = Entry::Progress(ProgressRow { digest: 1, fence: 2, bytes: b"hi" });
        assert_eq!(hex(&progress), "040102026869");
        let detached = Entry::Detached(DetachedRow { digest: 1, fence: 2, until_ms: 3, opening: 4 });
        assert_eq!(hex(&detached), "0501020304");
        let declared = Entry::PolicySet(ScopeRow { name: b"s", policy: crate::Policy::default().row() });
        assert_eq!(hex(&declared), "060173fc005c2605000101fc00c87e9a0000010000");
    }

    #[test]
    fn a_record_that_contradicts_itself_is_refused() {
        let row = completion(b"");
        assert!(row.parts(DIGEST).is_ok());
        let back_in_time = 1_u64.wrapping_neg();
        assert!(CompletionRow { tombstone_ms: back_in_time, ..row }.parts(DIGEST).is_err());
        assert!(CompletionRow { body_kept: false, ..completion(b"hi") }.parts(DIGEST).is_err());
    }

    #[test]
    fn names_of_no_possible_length_are_refused() {
        let (longest, longer) = ([b'x'; NAME_MAX], [b'x'; NAME_MAX + 1]);
        for (scope, key) in [(&b""[..], &b"k"[..]), (&longest, &longest)] {
            assert_eq!(check_names(scope, key), Ok(()));
        }
        for (scope, key) in [(&b""[..], &b""[..]), (b"", &longer), (&longer, b"k")] {
            assert!(check_names(scope, key).is_err(), "{} and {} bytes", scope.len(), key.len());
            assert!(CompletionRow { scope, key, ..completion(b"hi") }.parts(DIGEST).is_err());
        }
    }

    #[test]
    fn the_overhead_bound_holds() {
        let intent = IntentRow {
            digest: u128::MAX,
            scope: &[b'x'; NAME_MAX],
            key: &[b'x'; NAME_MAX],
            fingerprint: [7; 32],
            fence: u64::MAX,
            attempt: u32::MAX,
            started_ms: u64::MAX,
            ttl_ms: u64::MAX,
            remembered_ms: u64::MAX,
            earlier: Some(EarlierRow {
                fence: u64::MAX,
                attempt: u32::MAX,
                started_ms: u64::MAX,
                interrupted_ms: u64::MAX,
            }),
            interrupted_ms: Some(u64::MAX),
            returned: true,
            lease_ms: Some(u64::MAX),
            unresolved_ms: Some(u64::MAX),
            detached: Some((u64::MAX, u64::MAX)),
            progress: Some(&[b'x'; NAME_MAX]),
        };
        let completion = CompletionRow {
            scope: &[b'x'; NAME_MAX],
            key: &[b'x'; NAME_MAX],
            fingerprint: [7; 32],
            fence: u64::MAX,
            attempt: u32::MAX,
            failed: true,
            started_ms: u64::MAX,
            took_ms: u64::MAX,
            ttl_ms: u64::MAX,
            tombstone_ms: u64::MAX,
            body_kept: true,
            body: &[b'x'; NAME_MAX],
        };
        for entry in [Entry::Intent(intent), Entry::Completion(u128::MAX, completion)] {
            let mut bytes = Vec::new();
            encode_into(&entry, &mut bytes);
            // What a body of 2 GiB takes in front of it.
            let overhead = bytes.len() - 3 * NAME_MAX + 2;
            assert!(overhead <= ENTRY_OVERHEAD_MAX, "{overhead} bytes");
        }
    }

    #[test]
    fn a_sealed_row_opens_at_its_own_place_only() {
        let checksummer = Checksummer::new(&Secret([3; 32]));
        assert_eq!(format!("{checksummer:?}"), "Checksummer(..)", "the secret is nobody else's");
        let row = checksummer.seal("blocks", &[1, 2], b"bytes");
        assert_eq!(checksummer.open("blocks", &[1, 2], &row), Ok(&b"bytes"[..]));
        assert!(checksummer.open("blocks", &[2, 1], &row).is_err());
        assert!(checksummer.open("index", &[1, 2], &row).is_err());
        assert!(Checksummer::new(&Secret([4; 32])).open("blocks", &[1, 2], &row).is_err());
        for bit in 0..row.len() * 8 {
            let mut flipped = row.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(checksummer.open("blocks", &[1, 2], &flipped).is_err(), "bit {bit}");
        }
        for len in 0..row.len() {
            assert!(checksummer.open("blocks", &[1, 2], &row[..len]).is_err(), "{len} bytes of it");
        }
    }

    proptest! {
        #[test]
        fn decoding_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            prop_assert!(matches!(decode::<Entry<'_>>(&bytes), Ok(_) | Err(BadBytes(_))));
        }

        #[test]
        fn what_was_encoded_decodes_to_itself(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = Vec::new();
            encode_into(&completion(&body), &mut bytes);
            prop_assert_eq!(decode(&bytes), Ok(completion(&body)));
            bytes.push(0);
            prop_assert!(decode::<CompletionRow<'_>>(&bytes).is_err());
        }
    }
}
