//! The encoding of log and store: nothing else calls bincode. Bodies are written in `rows.rs`.
//!
//! Bytes from disk are never trusted: every run of them carries a checksum, a version and lengths,
//! decoding has a size limit and refuses trailing bytes, and nothing here panics on any input.

mod bad_bytes;
mod checksum;
mod encoded;
mod names;
mod rows;
mod run;

pub(crate) use bad_bytes::BadBytes;
pub(crate) use checksum::{CHECKSUM_BYTES, Checksummer};
pub(crate) use encoded::EncodedEntry;
pub(crate) use names::check_names;
pub(crate) use rows::{
    ClaimRow, CompletionRow, DetachedRow, EarlierRow, IntentRow, PolicyRow, ProgressRow, ScopeRow, TokenRow,
    VacatedRow,
};

use std::cmp::Ordering;
use std::path::Path;

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bincode::de::BorrowDecoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};

use crate::error::{Damage, OpenError};

/// Version of everything on disk. A file with another version is refused. `docs/file-format.md`
/// lists the earlier ones.
pub(crate) const FORMAT_VERSION: u32 = 5;

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

/// Text that is stored. It is decoded from the bytes that exist: bincode's own `String` allocates
/// by the length that the bytes claim.
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
    /// A time mark.
    Mark,
    /// The progress of a claim was saved.
    Progress(ProgressRow<'a>),
    /// A claim was handed over as a token.
    Detached(DetachedRow),
    /// A scope was given a policy.
    PolicySet(ScopeRow<'a>),
    /// A claim that followed an interruption was released. The interruption stands, and counts
    /// from this time.
    Returned(IntentRow<'a>, u64),
}

/// Bytes that an encoded entry can need beside its scope, key and body.
pub(crate) const ENTRY_OVERHEAD_MAX: usize = 192;

impl Entry<'_> {
    pub(crate) fn encoded(&self) -> EncodedEntry {
        let variable = match self {
            Self::Intent(row) | Self::Returned(row, _) => row.scope.len() + row.key.len(),
            Self::Completion(_, row) => row.scope.len() + row.key.len() + row.body.len(),
            Self::Progress(row) => row.bytes.len(),
            Self::PolicySet(row) => row.name.len(),
            Self::Vacated(_) | Self::Mark | Self::Detached(_) => 0,
        };
        EncodedEntry::new(self, ENTRY_OVERHEAD_MAX + variable)
    }
}

/// Appends the encoding of `value` to `out`.
///
/// # Panics
///
/// Never: a vector takes any number of bytes, and the options keep rows far below the limit.
pub(crate) fn encode_into(value: &impl Encode, out: &mut Vec<u8>) {
    if let Err(error) = bincode::encode_into_writer(value, Appended(out), CONFIG) {
        unreachable!("encoding into memory failed: {error}");
    }
}

/// A vector as a bincode writer, without the errors of a stream, which cost as much as the bytes.
struct Appended<'a>(&'a mut Vec<u8>);

impl Writer for Appended<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

/// The encoding of a length in front of its bytes: four bytes.
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

#[cfg(test)]
mod tests;
