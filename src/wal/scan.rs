//! Reading the log back after a crash.

use std::collections::BTreeMap;

use super::Log;
use super::frame::{Frame, SECTOR};
use crate::codec::Checksummer;
use crate::error::{Damage, IoFailure, OpenError};

/// A frame and where it lies.
pub(crate) struct Found {
    pub(crate) frame: Frame,
    /// Offset in the file.
    pub(crate) offset: u64,
}

/// The content of the log.
pub(crate) struct Scanned {
    /// Frames to replay, in order, without a gap.
    pub(crate) frames: Vec<Found>,
    /// The highest sequence there is.
    pub(crate) seq_max: u64,
}

/// Every frame with this salt and a sequence above `after`, in order, without a gap.
///
/// The log ends where the next frame in sequence is missing, as after a torn write. Frames are
/// written one after the other, each synced before the next. So if a *later* frame exists, an
/// acknowledged one was damaged, and that is an error. Only in a log that was written without
/// syncs (`buffered`) can a power cut leave gaps; there the first gap is the end.
pub(crate) fn scan(
    log: &Log,
    checksummer: &Checksummer,
    salt: u64,
    after: u64,
    buffered: bool,
) -> Result<Scanned, OpenError> {
    let mut found = BTreeMap::new();
    let mut bytes = Vec::new();
    for (start, len) in log.segments()? {
        bytes.resize(len, 0);
        log.file.read_at(start, &mut bytes).map_err(|error| IoFailure::new(&log.path, "reading", error))?;
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| rest.len() >= SECTOR) {
            let frame = Frame::read(rest, checksummer, salt);
            let step = frame.as_ref().map_or(SECTOR, Frame::len);
            if let Some(frame) = frame.filter(|frame| frame.seq > after) {
                found.insert(frame.seq, Found { frame, offset: start + at as u64 });
            }
            at += step;
        }
    }
    let seq_max = found.last_key_value().map_or(after, |(seq, _)| *seq);
    Ok(Scanned { frames: without_gap(log, after, found, buffered)?, seq_max })
}

/// Refuses a store that is older than its log: one that was restored without its log, or one
/// whose header names an earlier state.
///
/// An opening checkpoints every frame before it draws a new salt. So if a frame has another salt
/// than the store's, the store covers its sequence, or the store doesn't know the opening that
/// wrote it. Every opening starts at the first segment, and every segment starts with a frame, so
/// the first frames of segments are enough to tell.
pub(crate) fn check_not_newer(
    log: &Log,
    checksummer: &Checksummer,
    salt: u64,
    checkpointed: u64,
) -> Result<(), OpenError> {
    let mut bytes = Vec::new();
    for (start, len) in log.segments()? {
        bytes.resize(len, 0);
        let read = |bytes: &mut [u8]| {
            log.file.read_at(start, bytes).map_err(|error| IoFailure::new(&log.path, "reading", error))
        };
        let Some((head, _)) = bytes.split_at_mut_checked(SECTOR) else { continue };
        read(head)?;
        let Some((found_salt, len)) = Frame::peek(head) else { continue };
        if found_salt == salt {
            continue;
        }
        let Some((whole, _)) = bytes.split_at_mut_checked(len) else { continue };
        read(whole)?;
        if let Some(frame) =
            Frame::read(whole, checksummer, found_salt).filter(|frame| frame.seq > checkpointed)
        {
            let what = format!(
                "frame {} was written after the state that the file names; the file is older than its log",
                frame.seq
            );
            return Err(Damage::new(&log.path, format!("offset {start}"), what).into());
        }
    }
    Ok(())
}

fn without_gap(
    log: &Log,
    after: u64,
    found: BTreeMap<u64, Found>,
    buffered: bool,
) -> Result<Vec<Found>, OpenError> {
    let mut frames: Vec<Found> = Vec::with_capacity(found.len());
    for (expected, (seq, next)) in (after + 1..).zip(found) {
        if seq != expected && buffered {
            break;
        }
        if seq != expected {
            let end = frames.last().map_or_else(
                || "its start".to_owned(),
                |last| format!("offset {}", last.offset + last.frame.len() as u64),
            );
            let what = format!(
                "frame {expected} is damaged or missing, but frame {seq} at offset {} is there",
                next.offset
            );
            return Err(Damage::new(&log.path, end, what).into());
        }
        frames.push(next);
    }
    Ok(frames)
}
