//! `Cache`: results that this process replays from memory, while its session is known to live and
//! no other process can have forgotten them. `docs/design.md` has the rules.

use std::time::Duration;

use crate::clock::{boot_ms, millis};
use crate::index::{Change, Index, Slot};
use crate::key::Digest;
use crate::record::Record;
use crate::sync::{AtomicU64, Ordering};
use crate::{Fingerprint, Timestamp};

/// Each keeps at most one record that is larger than its part of the budget.
const SHARDS: usize = 16;

#[derive(Debug)]
pub(super) struct Cache {
    /// `None` if it is turned off.
    index: Option<Index>,
    /// Raised before records are dropped. A record that was read before is not kept.
    losses: AtomicU64,
    /// For how long after `sent_ms` records are replayed.
    span_ms: u64,
    /// When the last renewal of the session was sent, on the boot clock. Zero while the session is
    /// not known to live. Written after `server_ms` and read before it.
    sent_ms: AtomicU64,
    /// The server's time in its answer.
    server_ms: AtomicU64,
    /// The server's time was never later than this in this session. Written before `server_ms` and
    /// read after it.
    highest_ms: AtomicU64,
}

/// The server's time, so long after it told it, is not later than this. The fastest slewing of a
/// clock adds a twelfth. Two milliseconds are for what was rounded down.
fn at_most(server_ms: u64, passed_ms: u64) -> u64 {
    server_ms + passed_ms + passed_ms / 8 + 2
}

impl Cache {
    /// A session is over on the server a tenth of its length later than here: as much as the
    /// fastest slewing of a clock can take away.
    pub(super) fn new(bytes: usize, session: Duration) -> Self {
        Self {
            index: (bytes > 0).then(|| Index::new(SHARDS, bytes, Timestamp::default())),
            losses: AtomicU64::new(0),
            span_ms: millis(session) / 10 * 9,
            sent_ms: AtomicU64::new(0),
            server_ms: AtomicU64::new(0),
            highest_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.index.is_some()
    }

    /// The record that answers this request, if it is in memory and still counts.
    #[inline]
    pub(super) fn replay(&self, digest: Digest, asked: &Fingerprint) -> Option<Record> {
        let index = self.index.as_ref()?;
        // Before the look: what a session had in memory does not count for the next one.
        let now = self.now_at_most()?;
        index.replay(digest, |record| record.is_replayed(asked, now))
    }

    /// The server's time is not later than this. `None` while the session is not known to live.
    #[inline]
    fn now_at_most(&self) -> Option<Timestamp> {
        let sent = self.sent_ms.load(Ordering::Acquire);
        let server = self.server_ms.load(Ordering::Acquire);
        let highest = self.highest_ms.load(Ordering::Acquire);
        let passed = boot_ms().saturating_sub(sent);
        (sent != 0 && passed < self.span_ms)
            .then(|| Timestamp::from_millis(at_most(server, passed).max(highest)))
    }

    /// A session was started, with an empty memory.
    pub(super) fn started(&self, sent_ms: u64, now: Timestamp) {
        self.highest_ms.store(0, Ordering::Release);
        self.server_ms.store(now.as_millis(), Ordering::Release);
        self.sent_ms.store(sent_ms, Ordering::Release);
    }

    /// The session was renewed, and the server told its time. If its clock was set back, a key that
    /// had expired may have been used again: its record stays expired.
    pub(super) fn renewed(&self, sent_ms: u64, now: Timestamp) {
        let (server, sent) = (self.server_ms.load(Ordering::Relaxed), self.sent_ms.load(Ordering::Relaxed));
        let before = at_most(server, boot_ms().saturating_sub(sent));
        self.highest_ms.fetch_max(before, Ordering::Release);
        self.server_ms.store(now.as_millis(), Ordering::Release);
        self.sent_ms.store(sent_ms, Ordering::Release);
    }

    /// The session is not known to live.
    pub(super) fn stop(&self) {
        self.sent_ms.store(0, Ordering::Release);
    }

    /// To be asked before a read is sent whose result may be kept.
    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::SeqCst)
    }

    /// Keeps a record that was read, unless some were dropped since the read was sent.
    pub(super) fn keep(&self, record: &Record, losses: u64) {
        if let Some(index) = &self.index {
            index.cache_elsewhere(record, || self.losses() == losses);
        }
    }

    /// Drops the records of these keys.
    pub(super) fn lose(&self, keys: &[Digest]) {
        let Some(index) = &self.index else { return };
        // A read that was sent before is kept neither before this, nor after the shard's lock.
        self.losses.fetch_add(1, Ordering::SeqCst);
        for key in keys {
            index.change(*key, |_| (Change::Set(Slot::Vacant), ()));
        }
    }

    /// Drops all records.
    pub(super) fn lose_all(&self) {
        let Some(index) = &self.index else { return };
        self.losses.fetch_add(1, Ordering::SeqCst);
        index.clear();
    }

    /// Replays so far.
    pub(super) fn replayed(&self) -> u64 {
        self.index.as_ref().map_or(0, |index| index.hits().replayed)
    }

    /// Bytes of the records.
    pub(super) fn bytes(&self) -> usize {
        self.index.as_ref().map_or(0, |index| index.sizes().cached_bytes)
    }
}
