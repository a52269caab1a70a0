//! Blocks that commits could not read, and how long commits leave blocks alone after that.

use std::collections::HashMap;
use std::time::Duration;

use crate::Timestamp;

/// The first rest. After each failed try this doubles,
const REST: Duration = Duration::from_secs(600);
/// up to this.
const REST_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Blocks that commits could not read, and whether transactions of applications take blocks.
#[derive(Debug, Default)]
pub(super) struct Unreadable {
    /// How long each was left out after its last failed try.
    blocks: HashMap<u64, Duration>,
    /// The last rest of transactions of applications, and when it is over.
    rest: (Duration, Timestamp),
}

impl Unreadable {
    /// Notes that a block could not be read; returns until when it is left out.
    pub(super) fn failed(&mut self, block: u64, now: Timestamp) -> Timestamp {
        now.saturating_add(longer(self.blocks.entry(block).or_default()))
    }

    /// Whether the last try to read this block failed.
    pub(super) fn has(&self, block: u64) -> bool {
        self.blocks.contains_key(&block)
    }

    /// The block is gone.
    pub(super) fn is_gone(&mut self, block: u64) {
        self.blocks.remove(&block);
    }

    /// Whether a transaction of an application may take blocks. It has one try, and its caller
    /// pays for a block that can't be read. After one, there may be others.
    pub(super) fn has_rested(&self, now: Timestamp) -> bool {
        self.rest.1 <= now
    }

    /// A transaction of an application took a block that could not be read.
    pub(super) fn rests(&mut self, now: Timestamp) {
        self.rest.1 = now.saturating_add(longer(&mut self.rest.0));
    }

    /// A transaction of an application took blocks and was committed.
    pub(super) fn rests_no_more(&mut self) {
        self.rest = Default::default();
    }
}

/// The next rest, twice as long.
fn longer(rest: &mut Duration) -> Duration {
    *rest = (*rest * 2).clamp(REST, REST_MAX);
    *rest
}
