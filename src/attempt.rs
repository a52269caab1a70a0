//! One attempt at an operation: what the engine knows of a claim, from the grant until a later attempt takes its place.

use crate::clock::Deadline;
use crate::codec::{EarlierRow, IntentRow};
use crate::error::Failure;
use crate::key::Digest;
use crate::retention::Retention;
use crate::state::{Facts, Fence};
use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, Ordering};
use crate::{Fingerprint, Record, Timestamp};

/// What is known of an attempt at an operation.
///
/// Where it ended without an outcome, its effect may have happened or not: find out before acting again, or act in a way that
/// can be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptInfo {
    pub(crate) fence: Fence,
    pub(crate) attempt: u32,
    pub(crate) started: Timestamp,
}

impl AttemptInfo {
    /// The fence of its claim.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence
    }

    /// Its number: 1 for the first claim of a key.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// When its claim was granted.
    #[must_use]
    pub fn started(&self) -> Timestamp {
        self.started
    }
}

/// How an attempt ended, as those who wait for it are told.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    Done(Record),
    Vacated,
    Interrupted,
    Failed(Failure),
    Closed,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) digest: Digest,
    pub(crate) fence: Fence,
    pub(crate) number: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) started: Timestamp,
    /// How long its record will be kept, unless whoever completes it says otherwise.
    pub(crate) retention: Retention,
    pub(crate) earlier: Option<AttemptInfo>,
    /// Scope, then key.
    names: Box<[u8]>,
    scope_len: usize,
    /// When the claim was found dead, in ms; `ALIVE` before.
    interrupted_ms: AtomicU64,
    /// The claim was released and did nothing, but an earlier attempt may have.
    returned: AtomicBool,
    /// Set once. Leaf lock: nothing else is locked under it.
    ended: Mutex<Option<Ended>>,
    woken: Condvar,
}

const ALIVE: u64 = u64::MAX;

/// All that makes an attempt, by name.
pub(crate) struct AttemptParts<'a> {
    pub(crate) digest: Digest,
    pub(crate) scope: &'a [u8],
    pub(crate) key: &'a [u8],
    pub(crate) fence: Fence,
    pub(crate) number: u32,
    pub(crate) fingerprint: Fingerprint,
    pub(crate) started: Timestamp,
    pub(crate) retention: Retention,
    pub(crate) earlier: Option<AttemptInfo>,
}

impl Attempt {
    pub(crate) fn new(parts: &AttemptParts<'_>) -> Self {
        Self {
            digest: parts.digest,
            fence: parts.fence,
            number: parts.number,
            fingerprint: parts.fingerprint,
            started: parts.started,
            retention: parts.retention,
            earlier: parts.earlier,
            names: [parts.scope, parts.key].concat().into(),
            scope_len: parts.scope.len(),
            interrupted_ms: AtomicU64::new(ALIVE),
            returned: AtomicBool::new(false),
            ended: Mutex::new(None),
            woken: Condvar::new(),
        }
    }

    /// The attempt that a row from disk tells of. Its names were checked when the row was decoded.
    pub(crate) fn from_row(row: &IntentRow<'_>) -> Self {
        let earlier = row.earlier.map(|earlier| AttemptInfo {
            fence: Fence::new(earlier.fence),
            attempt: earlier.attempt,
            started: Timestamp::from_millis(earlier.started_ms),
        });
        let attempt = Self::new(&AttemptParts {
            digest: Digest::from_u128(row.digest),
            scope: row.scope,
            key: row.key,
            fence: Fence::new(row.fence),
            number: row.attempt,
            fingerprint: Fingerprint::from_bytes(row.fingerprint),
            started: Timestamp::from_millis(row.started_ms),
            retention: Retention::from_millis(row.ttl_ms, row.remembered_ms),
            earlier,
        });
        attempt.interrupted_ms.store(row.interrupted_ms.unwrap_or(ALIVE), Ordering::Release);
        attempt.returned.store(row.returned, Ordering::Release);
        attempt
    }

    pub(crate) fn row(&self) -> IntentRow<'_> {
        IntentRow {
            digest: self.digest.as_u128(),
            scope: self.scope(),
            key: self.key(),
            fingerprint: *self.fingerprint.as_bytes(),
            fence: self.fence.get(),
            attempt: self.number,
            started_ms: self.started.as_millis(),
            ttl_ms: self.retention.ttl_ms(),
            remembered_ms: self.retention.remembered_ms(),
            earlier: self.earlier.map(|earlier| EarlierRow {
                fence: earlier.fence.get(),
                attempt: earlier.attempt,
                started_ms: earlier.started.as_millis(),
            }),
            interrupted_ms: self.interrupted().map(Timestamp::as_millis),
            returned: self.returned.load(Ordering::Acquire),
        }
    }

    pub(crate) fn scope(&self) -> &[u8] {
        self.names.split_at(self.scope_len).0
    }

    pub(crate) fn key(&self) -> &[u8] {
        self.names.split_at(self.scope_len).1
    }

    #[inline]
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts { fence: self.fence, attempt: self.number, fingerprint: &self.fingerprint }
    }

    /// Until when this attempt, if it is interrupted, is remembered: one TTL after it was found dead.
    pub(crate) fn remembered_until(&self) -> Timestamp {
        let since = self.interrupted().unwrap_or(self.started);
        since.saturating_add(self.retention.ttl())
    }

    pub(crate) fn interrupted(&self) -> Option<Timestamp> {
        match self.interrupted_ms.load(Ordering::Acquire) {
            ALIVE => None,
            at => Some(Timestamp::from_millis(at)),
        }
    }

    /// Notes when the claim was found dead, once.
    pub(crate) fn interrupt(&self, now: Timestamp) {
        let at = now.as_millis().min(ALIVE - 1);
        // A row from disk may know the time already; it stays.
        self.interrupted_ms.compare_exchange(ALIVE, at, Ordering::AcqRel, Ordering::Acquire).unwrap_or(at);
    }

    /// Notes that the claim was released and did nothing, so that it is an earlier attempt that may have.
    pub(crate) fn give_back(&self, now: Timestamp) {
        self.returned.store(true, Ordering::Release);
        self.interrupt(now);
    }

    /// Which attempt may have had an effect, as a later one is told.
    pub(crate) fn as_earlier(&self) -> AttemptInfo {
        if self.returned.load(Ordering::Acquire)
            && let Some(earlier) = self.earlier
        {
            return earlier;
        }
        self.info()
    }

    pub(crate) fn info(&self) -> AttemptInfo {
        AttemptInfo { fence: self.fence, attempt: self.number, started: self.started }
    }

    /// Tells all who wait how it ended. Only the first call counts.
    pub(crate) fn end(&self, how: Ended) {
        let mut ended = self.ended.lock();
        if ended.is_none() {
            *ended = Some(how);
        }
        drop(ended);
        self.woken.notify_all();
    }

    /// Waits for the end; `None` when the deadline passes first.
    pub(crate) fn wait(&self, deadline: Deadline) -> Option<Ended> {
        let mut ended = self.ended.lock();
        while ended.is_none() {
            match deadline.instant() {
                Some(at) => {
                    if self.woken.wait_until(&mut ended, at).timed_out() {
                        break;
                    }
                }
                None => self.woken.wait(&mut ended),
            }
        }
        ended.clone()
    }
}
