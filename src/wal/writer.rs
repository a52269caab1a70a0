//! The one place that appends to the log. Who holds the writer is the leader; there is only one.

use super::frame::FrameBuf;
use super::{Log, Room};
use crate::clock::FrameTime;
use crate::codec::Sealer;
use crate::error::IoFailure;
use crate::sync::Arc;

/// The right to append, and where the next frame goes.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: Arc<Log>,
    room: Arc<Room>,
    sealer: Sealer,
    salt: u64,
    /// Whether a frame is synced, or only handed to the operating system.
    synced: bool,
    segment: Option<u32>,
    /// Next free byte in the segment.
    at: u64,
    next_seq: u64,
}

impl LogWriter {
    /// A writer into an empty log; its first frame gets the sequence after `last_seq`.
    pub(crate) fn new(
        log: Arc<Log>,
        room: Arc<Room>,
        sealer: Sealer,
        salt: u64,
        synced: bool,
        last_seq: u64,
    ) -> Self {
        Self { log, room, sealer, salt, synced, segment: None, at: 0, next_seq: last_seq + 1 }
    }

    /// Appends a frame and makes it durable; gives its sequence.
    ///
    /// After an error the frame may or may not be there, and nothing may be appended behind it.
    pub(crate) fn append(&mut self, frame: &mut FrameBuf, time: FrameTime) -> Result<u64, IoFailure> {
        let failed = |doing, error| IoFailure::new(&self.log.path, doing, error);
        let len = frame.len() as u64;
        let segment = match self.segment {
            Some(segment) if self.at + len <= self.log.segment_bytes => segment,
            full @ (Some(_) | None) => {
                let Some(next) = self.room.next_segment(full, self.next_seq - 1) else {
                    unreachable!("every append was promised room")
                };
                self.segment = Some(next);
                self.at = 0;
                next
            }
        };
        let seq = self.next_seq;
        let segments = self.room.segments();
        let bytes = frame.seal(&self.sealer, self.salt, seq, time);
        let offset = self.log.segment_start(segment) + self.at;
        self.log.file.write_at(offset, bytes).map_err(|error| failed("writing", error))?;
        if self.synced {
            self.log.file.sync().map_err(|error| failed("syncing", error))?;
        }
        self.at += len;
        self.next_seq += 1;
        self.room.wrote(len, if self.synced { segments } else { 0 });
        Ok(seq)
    }
}
