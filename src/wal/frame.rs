//! One frame of the log: the bytes that a group commit appends, with a header that binds them to
//! file, opening and sequence.
//!
//! A frame starts on a sector boundary and fills whole sectors, so that no later write touches a
//! sector that holds acknowledged bytes. Layout, little-endian: magic (4), payload length (4),
//! number of entries (4), zero (4), salt (8), sequence (8), engine time in ms (8), highest wall
//! clock in ms (8), checksum (8), then the payload: each entry with its length (4) in front.

use std::ops::Range;

use crate::Timestamp;
use crate::clock::FrameTime;
use crate::codec::{self, CHECKSUM_BYTES, Checksummer, Entry};

/// The bytes that a disk writes at once; a torn write ends at such a boundary.
pub(crate) const SECTOR: usize = 512;
/// Where the magic and the salt lie in a frame.
pub(super) const MAGIC_PLACE: Range<usize> = 0..4;
pub(super) const SALT_PLACE: Range<usize> = 16..24;
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"idmF");
/// Bytes of a header that come before its checksum.
pub(crate) const CHECKED: usize = 48;
pub(crate) const HEADER: usize = CHECKED + CHECKSUM_BYTES;
const LENGTH: usize = 4;

/// Bytes of log that a frame with this much payload takes.
pub(crate) const fn frame_bytes(payload: usize) -> usize {
    (HEADER + payload).next_multiple_of(SECTOR)
}

/// The most bytes of log that an entry of this many bytes takes: those of a separate frame.
pub(crate) const fn entry_bytes_max(entry: usize) -> usize {
    frame_bytes(LENGTH + entry)
}

/// A frame that is being filled.
#[derive(Debug)]
pub(crate) struct FrameBuf {
    bytes: Vec<u8>,
    entries: u32,
}

impl Default for FrameBuf {
    fn default() -> Self {
        Self { bytes: vec![0; HEADER], entries: 0 }
    }
}

impl FrameBuf {
    pub(crate) fn push(&mut self, entry: &[u8]) {
        self.bytes.extend_from_slice(&codec::length(entry.len()));
        self.bytes.extend_from_slice(entry);
        self.entries += 1;
    }

    /// Bytes of log that this frame takes as it is.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len().next_multiple_of(SECTOR)
    }

    /// Completes header and padding; gives the bytes to write.
    pub(crate) fn seal(&mut self, checksummer: &Checksummer, salt: u64, seq: u64, time: FrameTime) -> &[u8] {
        let (time_ms, wall_ms) = (time.time.as_millis(), time.wall_max.as_millis());
        let place = [salt, seq, time_ms, wall_ms, self.entries.into()];
        let (head, body) = self.bytes.split_at_mut(HEADER);
        let head = put(head, &MAGIC.to_le_bytes());
        let head = put(head, &codec::length(body.len()));
        let head = put(head, &self.entries.to_le_bytes());
        let head = put(head, &[0; 4]);
        let head = put(head, &salt.to_le_bytes());
        let head = put(head, &seq.to_le_bytes());
        let head = put(head, &time_ms.to_le_bytes());
        let head = put(head, &wall_ms.to_le_bytes());
        put(head, &checksummer.checksum("frame", &place, body));
        self.bytes.resize(self.bytes.len().next_multiple_of(SECTOR), 0);
        &self.bytes
    }

    /// Makes the buffer an empty frame again, keeping a modest amount of its memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.truncate(HEADER);
        self.bytes.shrink_to(1 << 20);
        self.entries = 0;
    }
}

/// Writes a field to the start of `to`; gives the rest.
fn put<'a>(to: &'a mut [u8], field: &[u8]) -> &'a mut [u8] {
    let (here, rest) = to.split_at_mut(field.len());
    here.copy_from_slice(field);
    rest
}

/// A frame read back and verified.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) seq: u64,
    pub(crate) time: FrameTime,
    entries: u32,
    payload: Vec<u8>,
}

impl Frame {
    /// Bytes of log that the frame takes.
    pub(crate) fn len(&self) -> usize {
        frame_bytes(self.payload.len())
    }

    /// Salt and length of a possible frame, unverified.
    pub(crate) fn peek(sector: &[u8]) -> Option<(u64, usize)> {
        let mut rest = sector;
        let magic = u32::from_le_bytes(take(&mut rest)?);
        let payload = u32::from_le_bytes(take(&mut rest)?) as usize;
        let _entries_and_zero: [u8; 8] = take(&mut rest)?;
        let salt = u64::from_le_bytes(take(&mut rest)?);
        (magic == MAGIC).then(|| (salt, frame_bytes(payload)))
    }

    /// The frame at the start of `bytes`, if a complete and valid one with this salt starts
    /// there.
    pub(crate) fn read(bytes: &[u8], checksummer: &Checksummer, salt: u64) -> Option<Self> {
        let mut rest = bytes;
        let magic = u32::from_le_bytes(take(&mut rest)?);
        let payload = u32::from_le_bytes(take(&mut rest)?) as usize;
        let entries = u32::from_le_bytes(take(&mut rest)?);
        let zero = u32::from_le_bytes(take(&mut rest)?);
        let found_salt = u64::from_le_bytes(take(&mut rest)?);
        if magic != MAGIC || found_salt != salt || zero != 0 {
            return None;
        }
        let seq = u64::from_le_bytes(take(&mut rest)?);
        let time_ms = u64::from_le_bytes(take(&mut rest)?);
        let wall_ms = u64::from_le_bytes(take(&mut rest)?);
        let checksum: [u8; CHECKSUM_BYTES] = take(&mut rest)?;
        let payload = rest.get(..payload)?;
        if checksum != checksummer.checksum("frame", &[salt, seq, time_ms, wall_ms, entries.into()], payload)
        {
            return None;
        }
        let [time, wall_max] = [time_ms, wall_ms].map(Timestamp::from_millis);
        Some(Self { seq, time: FrameTime { time, wall_max }, entries, payload: payload.to_vec() })
    }

    /// Passes every entry to `each`, in order.
    pub(crate) fn for_each<E: From<codec::BadBytes>>(
        &self,
        mut each: impl FnMut(Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = self.payload.as_slice();
        for _ in 0..self.entries {
            let entry = take(&mut rest).map(|len| u32::from_le_bytes(len) as usize).and_then(|len| {
                let (entry, behind) = rest.split_at_checked(len)?;
                rest = behind;
                Some(entry)
            });
            let entry = entry.ok_or_else(|| codec::BadBytes("an entry is cut off".to_owned()))?;
            each(codec::decode(entry)?)?;
        }
        Ok(())
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Secret;

    fn checksummer() -> Checksummer {
        Checksummer::new(&Secret([1; 32]))
    }

    fn time() -> FrameTime {
        FrameTime { time: Timestamp::from_millis(11), wall_max: Timestamp::from_millis(13) }
    }

    fn mark() -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode_into(&Entry::Mark, &mut bytes);
        bytes
    }

    #[test]
    fn a_frame_reads_back_under_its_own_salt_and_key_only() {
        let mut frame = FrameBuf::default();
        frame.push(&mark());
        frame.push(&mark());
        let bytes = frame.seal(&checksummer(), 7, 9, time()).to_vec();
        assert_eq!(bytes.len(), SECTOR);
        let back = Frame::read(&bytes, &checksummer(), 7).unwrap();
        assert_eq!((back.seq, back.time, back.len()), (9, time(), SECTOR));
        let mut entries = 0;
        back.for_each(|entry| {
            assert_eq!(entry, Entry::Mark);
            entries += 1;
            Ok::<(), codec::BadBytes>(())
        })
        .unwrap();
        assert_eq!(entries, 2);
        assert!(Frame::read(&bytes, &checksummer(), 8).is_none());
        assert!(Frame::read(&bytes, &Checksummer::new(&Secret([2; 32])), 7).is_none());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let mut frame = FrameBuf::default();
        frame.push(&mark());
        let bytes = frame.seal(&checksummer(), 7, 9, time()).to_vec();
        let used = HEADER + LENGTH + mark().len();
        for bit in 0..used * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Frame::read(&flipped, &checksummer(), 7).is_none(), "bit {bit}");
        }
        for len in 0..used {
            assert!(Frame::read(&bytes[..len], &checksummer(), 7).is_none());
        }
    }

    #[test]
    fn sizes_add_up() {
        assert_eq!(frame_bytes(SECTOR - HEADER), SECTOR);
        assert_eq!(frame_bytes(SECTOR - HEADER + 1), 2 * SECTOR);
        let mut frame = FrameBuf::default();
        frame.push(&[0; 1_000]);
        assert_eq!(frame.len(), entry_bytes_max(1_000));
    }
}
