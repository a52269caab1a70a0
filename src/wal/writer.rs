//! `LogWriter`: the only code that appends to the log. The holder of the writer is the leader;
//! there is only one.

use super::frame::FrameBuf;
use super::{Log, LogSpace, Spot};
use crate::clock::FrameTime;
use crate::codec::Checksummer;
use crate::error::IoFailure;
use crate::sync::Arc;

/// The right to append, and the header fields of the next frame.
#[derive(Debug)]
pub(crate) struct LogWriter {
    log: Arc<Log>,
    space: Arc<LogSpace>,
    checksummer: Checksummer,
    salt: u64,
    /// Whether a frame is synced, or only handed to the operating system.
    synced: bool,
    next_seq: u64,
}

impl LogWriter {
    /// A writer into an empty log; its first frame gets the sequence after `last_seq`.
    pub(crate) fn new(
        log: Arc<Log>,
        space: Arc<LogSpace>,
        checksummer: Checksummer,
        salt: u64,
        synced: bool,
        last_seq: u64,
    ) -> Self {
        Self { log, space, checksummer, salt, synced, next_seq: last_seq + 1 }
    }

    /// Appends a frame and makes it durable; returns its sequence.
    ///
    /// After an error the frame may or may not be there, and nothing may be appended behind it.
    pub(crate) fn append(&mut self, frame: &mut FrameBuf, time: FrameTime) -> Result<u64, IoFailure> {
        let failed = |doing, error| IoFailure::new(&self.log.path, doing, error);
        let (len, seq) = (frame.len() as u64, self.next_seq);
        let Some(Spot { segment, at, log_bytes }) = self.space.spot(len, seq - 1) else {
            unreachable!("every append has a reservation")
        };
        let bytes = frame.seal(&self.checksummer, self.salt, seq, time);
        let offset = self.log.segment_start(segment) + at;
        self.log.file.write_at(offset, bytes).map_err(|error| failed("writing", error))?;
        if self.synced {
            self.log.file.sync().map_err(|error| failed("syncing", error))?;
        }
        self.next_seq += 1;
        self.space.wrote(len, if self.synced { log_bytes } else { 0 });
        Ok(seq)
    }
}
