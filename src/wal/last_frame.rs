//! Whether the end of a log can be told from a damaged last frame.
//!
//! To an opening, the log ends where it finds no next frame. A torn write looks like that, and so
//! does a last frame with a flipped bit. This module looks at every place where the next frame
//! could start. If no frame starts there, or an older whole frame lies there, nothing was written
//! there since.

use std::ops::Range;

use super::Log;
use super::frame::{Frame, MAGIC, MAGIC_PLACE, SALT_PLACE, SECTOR};
use crate::codec::Checksummer;
use crate::error::IoFailure;

/// Of 32 and of 64 bits, so many may differ where a frame is taken to have been begun. Other bytes
/// are as near by chance once in hundreds of times.
const MAGIC_BITS: u32 = 8;
const SALT_BITS: u32 = 16;

/// What is behind the last whole frame of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogEnd {
    /// Whole frames that the store does not have.
    pub(crate) frames: u64,
    /// Offset in the file of bytes that may be a torn or damaged frame; `None` if there are none.
    pub(crate) unclear: Option<u64>,
}

/// The last frame, as far as the search has come.
#[derive(Clone, Debug)]
struct Last {
    seq: u64,
    /// Offset behind it.
    end: u64,
    segment: Range<u64>,
}

/// Looks for the end of the log of the opening with this salt.
///
/// # Errors
///
/// When the log can't be read.
pub(crate) fn find_end(
    log: &Log,
    checksummer: &Checksummer,
    salt: u64,
    checkpointed: u64,
) -> Result<LogEnd, IoFailure> {
    let (mut last, mut frames): (Option<Last>, u64) = (None, 0);
    // Every segment starts with a frame. The next one is behind the last, or is the first of
    // another segment.
    let mut unclear = Vec::new();
    let mut bytes = Vec::new();
    for (start, len) in log.segments()? {
        read(log, start, len, &mut bytes)?;
        if !is_settled(&bytes, checksummer, salt) {
            unclear.push(start);
        }
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= SECTOR) {
            let frame = Frame::read(rest, checksummer, salt);
            at += frame.as_ref().map_or(SECTOR, Frame::len);
            let Some(frame) = frame else { continue };
            frames += u64::from(frame.seq > checkpointed);
            if last.as_ref().is_none_or(|last| last.seq < frame.seq) {
                let segment = start..start + len as u64;
                last = Some(Last { seq: frame.seq, end: start + at as u64, segment });
            }
        }
    }
    let Some(Last { seq, end, segment }) = last else {
        return Ok(LogEnd { frames, unclear: unclear.first().copied() });
    };
    read(log, end, usize::try_from(segment.end - end).unwrap_or_default(), &mut bytes)?;
    let is_gap = seq > checkpointed && seq - checkpointed != frames;
    if is_gap || !is_settled(&bytes, checksummer, salt) {
        return Ok(LogEnd { frames, unclear: Some(end) });
    }
    let elsewhere = unclear.into_iter().find(|start| *start != segment.start);
    Ok(LogEnd { frames, unclear: elsewhere })
}

fn read(log: &Log, start: u64, len: usize, bytes: &mut Vec<u8>) -> Result<(), IoFailure> {
    bytes.resize(len, 0);
    log.file.read_at(start, bytes).map_err(|error| IoFailure::new(&log.path, "reading", error))
}

/// Whether no frame was begun at the start of these bytes, or a whole one is there.
///
/// A frame starts with its magic and its salt. Where neither is there, up to a few bits, the bytes
/// are zeros, or from the middle of a frame of an earlier use of the segment.
fn is_settled(bytes: &[u8], checksummer: &Checksummer, salt: u64) -> bool {
    let Some(sector) = bytes.get(..SECTOR) else { return true };
    let is_begun = is_near(sector.get(MAGIC_PLACE), &MAGIC.to_le_bytes(), MAGIC_BITS)
        || is_near(sector.get(SALT_PLACE), &salt.to_le_bytes(), SALT_BITS);
    !is_begun || Frame::peek(sector).is_some_and(|(salt, _)| Frame::read(bytes, checksummer, salt).is_some())
}

/// Whether the two differ in no more bits than these.
fn is_near(found: Option<&[u8]>, wanted: &[u8], bits: u32) -> bool {
    let differing = |found: &[u8]| found.iter().zip(wanted).map(|(a, b)| (a ^ b).count_ones()).sum::<u32>();
    found.is_some_and(|found| differing(found) <= bits)
}
