//! `Run`: consecutive fields of a row, in bincode's encoding, to be written at once.
//!
//! bincode writes each field by itself, which costs more instructions than its bytes. The rows of
//! every claim, [`IntentRow`](super::IntentRow) and [`CompletionRow`](super::CompletionRow), write
//! runs. The tests compare them with what bincode makes of the same fields.

use bincode::enc::write::Writer;
use bincode::error::EncodeError;

/// Bytes of the longest run: a fingerprint, 11 numbers and 3 flags, and the 8 bytes that the last
/// number may write too much.
const RUN: usize = 144;

#[derive(Debug)]
pub(super) struct Run {
    bytes: [u8; RUN],
    len: usize,
}

impl Run {
    #[inline]
    pub(super) fn new() -> Self {
        Self { bytes: [0; RUN], len: 0 }
    }

    /// A number of any type but `u8`: small ones take one byte, others a mark and 2 to 16.
    #[inline]
    pub(super) fn number(&mut self, number: impl Into<u128>) -> &mut Self {
        let number = number.into();
        let bytes = number.to_le_bytes();
        let Ok(short) = u64::try_from(number) else { return self.put(&[254]).put(&bytes) };
        let [low, ..] = bytes;
        let (first, used) = match short {
            0..=250 => (low, 0),
            251..=0xffff => (251, 2),
            0x1_0000..=0xffff_ffff => (252, 4),
            _ => (253, 8),
        };
        // All eight bytes, whose number is fixed: the next field covers what is too much.
        let end = self.len + 1 + used;
        self.put(&[first]).put(&short.to_le_bytes()).len = end;
        self
    }

    /// Whether something follows: a flag, or an `Option`.
    #[inline]
    pub(super) fn flag(&mut self, is_set: bool) -> &mut Self {
        self.put(&[u8::from(is_set)])
    }

    #[inline]
    pub(super) fn option(&mut self, number: Option<u64>) -> &mut Self {
        match number {
            Some(number) => self.flag(true).number(number),
            None => self.flag(false),
        }
    }

    /// The length in front of a slice.
    #[inline]
    pub(super) fn length_of(&mut self, slice: &[u8]) -> &mut Self {
        self.number(slice.len() as u64)
    }

    /// Bytes as they are: an array, whose length is not written.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a run has room for the fields of its row")]
    pub(super) fn put<const N: usize>(&mut self, bytes: &[u8; N]) -> &mut Self {
        self.bytes[self.len..self.len + N].copy_from_slice(bytes);
        self.len += N;
        self
    }

    /// Writes the run, and starts the next one.
    #[inline]
    pub(super) fn write(&mut self, writer: &mut impl Writer) -> Result<(), EncodeError> {
        let run = self.bytes.split_at(self.len).0;
        self.len = 0;
        writer.write(run)
    }
}
