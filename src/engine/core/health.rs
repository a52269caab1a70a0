//! Health: whether the engine may grant claims, and if not, why.

use super::disk_full::DiskFull;
use super::gate::{Gate, Unavailable};
use crate::error::{Busy, CommitError, Failure, IoFailure};
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
use crate::fork::Origin;
use crate::sync::{Arc, Mutex, OnceLock};

/// All reasons for which an engine grants nothing: it is closed, or in a forked child; a commit
/// or a checkpoint failed; a file was taken away; the disk is full; the file takes no writes at
/// the moment.
#[derive(Debug)]
pub(crate) struct Health {
    gate: Gate,
    /// A commit failed: claims can be neither granted nor completed. The commits set it.
    commit: Arc<OnceLock<Failure>>,
    /// A failure that leaves the log intact: no claims are granted, but those in flight can be
    /// completed.
    poisoned: OnceLock<Failure>,
    /// The log could not grow, and the engine does not try again.
    stopped_growing: OnceLock<()>,
    disk: DiskFull,
    /// The file takes no writes at the moment, though the disk has space. Leaf lock.
    file_not_ready: Mutex<Option<IoFailure>>,
}

impl Health {
    /// The health of an engine that was just opened; it fails when a commit sets `commit`.
    pub(in crate::engine) fn new(commit: Arc<OnceLock<Failure>>) -> Self {
        Self {
            gate: Gate::open(),
            commit,
            poisoned: OnceLock::new(),
            stopped_growing: OnceLock::new(),
            disk: DiskFull::default(),
            file_not_ready: Mutex::default(),
        }
    }

    /// Whether claims are granted at all. Ask before a call waits, and again before its claim
    /// arrives: a failure in between stops that claim too.
    pub(in crate::engine) fn may_grant(&self) -> Result<(), CommitError> {
        // Code of others may have forked since the call came in.
        if self.is_forked() {
            return Err(CommitError::Failed(Failure::Forked));
        }
        self.check_failure()
    }

    /// Whether the engine still writes to its file.
    pub(in crate::engine) fn may_write(&self) -> Result<(), CommitError> {
        self.check()?;
        self.check_failure()
    }

    /// Whether nothing has failed. A closed engine counts as sound.
    pub(in crate::engine) fn check_failure(&self) -> Result<(), CommitError> {
        self.failure().map_or(Ok(()), |failure| Err(CommitError::Failed(failure.clone())))
    }

    /// Whether claims in flight are still good. They are not once the engine is closed, because
    /// the next opening interrupts them, nor after a failed commit. A failed checkpoint leaves
    /// them good. Ask under the lock of the key's shard: a close shuts the gate before it counts
    /// the claims and unlocks the file.
    pub(in crate::engine) fn may_use(&self) -> Result<(), CommitError> {
        self.check()?;
        self.commit.get().map_or(Ok(()), |failure| Err(CommitError::Failed(failure.clone())))
    }

    /// Why a caller that waits for log space will get none, if that is known. The caller passes
    /// how often the disk had been found full before it came, because that full disk may be over.
    /// A failed checkpoint is no reason if the log `grows` for the caller.
    pub(in crate::engine) fn why_no_space(
        &self,
        full_before: Option<u64>,
        grows: bool,
    ) -> Option<CommitError> {
        let poisoned = || self.poisoned.get().filter(|_| !grows);
        if let Some(failure) = self.commit.get().or_else(poisoned) {
            return Some(CommitError::Failed(failure.clone()));
        }
        if let Err(shut) = self.check() {
            return Some(shut.into());
        }
        if full_before.is_some_and(|before| before == self.disk.times()) {
            return None;
        }
        // A file that can't be read is tried again soon, so a caller that can wait does.
        let waits = full_before.is_some();
        let not_ready = || self.file_not_ready().filter(|_| !waits).map(Busy::FileNotReady);
        self.disk.any().map(Busy::DiskFull).or_else(not_ready).map(CommitError::Busy)
    }

    /// The failure that stops grants. A full disk is not a failure.
    pub(in crate::engine) fn failure(&self) -> Option<&Failure> {
        self.commit.get().or(self.poisoned.get())
    }

    /// The same, but not that the engine was opened to look only.
    pub(in crate::engine) fn trouble(&self) -> Option<&Failure> {
        self.failure().filter(|failure| !matches!(failure, Failure::ReadOnly))
    }

    /// Whether grants have stopped while the log is intact.
    pub(in crate::engine) fn is_poisoned(&self) -> bool {
        self.poisoned.get().is_some()
    }

    /// Whether the log may be made longer.
    pub(in crate::engine) fn may_grow(&self) -> bool {
        self.stopped_growing.get().is_none()
    }

    /// Notes that the log does not grow any more, so that callers that wait for space are refused
    /// instead of waiting on.
    pub(in crate::engine) fn stop_growing(&self) {
        self.stopped_growing.set(()).ok();
    }

    /// Stops grants; whether they had not stopped before. Only the first failure counts.
    pub(in crate::engine) fn poison(&self, failure: Failure) -> bool {
        let is_first = self.poisoned.set(failure).is_ok();
        // The file is not tried again. Afterwards: a checkpoint that failed is told of one or the
        // other at every moment.
        *self.file_not_ready.lock() = None;
        is_first
    }
}

/// The store.
impl Health {
    /// Notes that the store took no commit, and wrote nothing that counts, though the disk has
    /// space.
    pub(in crate::engine) fn set_file_not_ready(&self, failure: IoFailure) {
        let mut not_ready = self.file_not_ready.lock();
        *not_ready = Some(failure).filter(|_| !self.is_poisoned());
    }

    /// Why the file takes no writes, other than for a full disk.
    pub(in crate::engine) fn file_not_ready(&self) -> Option<IoFailure> {
        self.file_not_ready.lock().clone()
    }

    /// The store took a commit.
    pub(in crate::engine) fn store_is_ready(&self) {
        self.disk.store_has_room();
        *self.file_not_ready.lock() = None;
    }

    /// Why the store did not take the last commit, if the commit will be tried again.
    pub(in crate::engine) fn store_is_busy(&self) -> Option<Busy> {
        let full = self.disk.of_store().map(Busy::DiskFull);
        full.or_else(|| self.file_not_ready().map(Busy::FileNotReady))
    }
}

/// The gate, and the disk.
impl Health {
    /// Where the disk was found full.
    pub(in crate::engine) fn disk(&self) -> &DiskFull {
        &self.disk
    }

    pub(in crate::engine) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Lets a call in, or says why not.
    #[inline]
    pub(in crate::engine) fn check(&self) -> Result<(), Unavailable> {
        self.gate.check()
    }

    #[inline]
    pub(in crate::engine) fn is_open(&self) -> bool {
        self.gate.is_open()
    }

    /// Closes it; whether it was open.
    pub(in crate::engine) fn shut(&self) -> bool {
        self.gate.shut()
    }

    /// Whether this is a forked child, closed or not.
    #[inline]
    pub(in crate::engine) fn is_forked(&self) -> bool {
        self.gate.is_forked()
    }

    /// The same for calls that go to the disk, which can afford to ask the system too.
    pub(in crate::engine) fn is_forked_for_sure(&self) -> bool {
        self.gate.is_forked_for_sure()
    }

    /// The process that opened the engine.
    #[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
    pub(in crate::engine) fn origin(&self) -> Origin {
        self.gate.origin()
    }

    /// Lets a call in that works on a closed engine as well.
    pub(in crate::engine) fn check_process(&self) -> Result<(), Failure> {
        self.gate.check_process()
    }
}

#[cfg(test)]
#[cfg(not(any(idemkv_loom, idemkv_shuttle)))]
mod tests {
    use super::*;
    use crate::clock::Stopwatch;
    use std::path::Path;
    use std::time::Duration;

    fn broken() -> IoFailure {
        IoFailure::new(Path::new("x.idem"), "reading", std::io::Error::from_raw_os_error(5))
    }

    /// Told of neither, a checkpoint that failed would count as made.
    #[test]
    fn a_file_that_is_not_tried_again_has_failed_before_it_is_not_busy_any_more() {
        let health = Health::new(Arc::default());
        health.set_file_not_ready(broken());
        std::thread::scope(|threads| {
            // Between the two steps.
            let held = health.file_not_ready.lock();
            threads.spawn(|| health.poison(Failure::TakenAway(Path::new("x.idem").into())));
            let watch = Stopwatch::start();
            while !health.is_poisoned() {
                assert!(watch.elapsed() < Duration::from_secs(10), "it is neither busy nor failed");
                std::thread::yield_now();
            }
            drop(held);
        });
        assert!(health.file_not_ready().is_none());
        health.set_file_not_ready(broken());
        assert!(health.file_not_ready().is_none(), "and it stays so");
    }
}
