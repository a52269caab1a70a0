//! Blocks whose reads failed: each is read again only after a pause, which doubles.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use crate::Timestamp;
use crate::error::IoFailure;
use crate::sync::{AtomicBool, Ordering, UnseenMutex};

/// So many reads of a block may fail in a row before one is put off.
const AT_ONCE: u32 = 3;
/// How long the first is put off. After each failed read this doubles,
const PAUSE: Duration = Duration::from_millis(100);
/// up to this.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// More blocks than these are not put off. A disk with so many bad sectors has failed.
const BLOCKS_MAX: usize = 4_096;

/// Blocks whose last reads failed.
///
/// A failed read stops the database in which a commit may be under way at that moment. So a client
/// that asks for one key under a bad sector again and again would keep every commit from
/// succeeding. It gets the disk's last answer from here instead. When the block may be read again,
/// one caller reads it, and the others still get that answer: reads that each take their time would
/// follow each other without a pause.
#[derive(Debug, Default)]
pub(super) struct Unread {
    has_some: AtomicBool,
    /// Leaf lock.
    blocks: UnseenMutex<HashMap<u64, Failed>>,
}

#[derive(Debug)]
struct Failed {
    /// The disk's last answer.
    failure: IoFailure,
    /// How many reads failed in a row.
    count: u32,
    /// When the block may be read again.
    again: Timestamp,
    /// A caller is reading it now, after a rest.
    is_probed: bool,
}

/// Whether a block may be read now.
#[derive(Debug)]
pub(super) enum MayRead<'a> {
    AsOften,
    /// One time, by this caller alone.
    Once(Probe<'a>),
    /// The disk's last answer, instead.
    No(IoFailure),
}

/// The read of a block after a rest. Until it is dropped no other caller reads the block.
#[derive(Debug)]
#[must_use = "it is over with it"]
pub(super) struct Probe<'a> {
    unread: &'a Unread,
    block: u64,
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        if let Some(failed) = self.unread.blocks.lock().get_mut(&self.block) {
            failed.is_probed = false;
        }
    }
}

impl Unread {
    /// Whether a caller may read the block.
    pub(super) fn ask(&self, block: u64, now: Timestamp) -> MayRead<'_> {
        if !self.has_some.load(Ordering::Relaxed) {
            return MayRead::AsOften;
        }
        let mut blocks = self.blocks.lock();
        match blocks.get_mut(&block) {
            Some(failed) if failed.is_probed || now < failed.again => MayRead::No(failed.failure.clone()),
            Some(failed) if failed.count >= AT_ONCE => {
                failed.is_probed = true;
                MayRead::Once(Probe { unread: self, block })
            }
            Some(_) | None => MayRead::AsOften,
        }
    }

    /// Notes a failed read, which took this time.
    pub(super) fn failed(&self, block: u64, failure: &IoFailure, took: Range<Timestamp>) {
        let mut blocks = self.blocks.lock();
        if blocks.len() >= BLOCKS_MAX && !blocks.contains_key(&block) {
            // Perhaps no caller asks for it any more. A block that is put off stays.
            let oldest = blocks.iter().min_by_key(|(_, failed)| failed.again);
            let Some(oldest) = oldest.filter(|(_, failed)| failed.again <= took.end).map(|(block, _)| *block)
            else {
                return;
            };
            drop(blocks.remove(&oldest));
        }
        self.has_some.store(true, Ordering::Relaxed);
        let before = blocks.get(&block);
        // This one began before the pause that another has caused.
        if before.is_some_and(|failed| took.start < failed.again) {
            return;
        }
        let count = before.map_or(0, |failed| failed.count).saturating_add(1);
        let is_probed = before.is_some_and(|failed| failed.is_probed);
        let again = took.end.saturating_add(pause(count));
        blocks.insert(block, Failed { failure: failure.clone(), count, again, is_probed });
    }

    /// How many blocks are noted.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.blocks.lock().len()
    }

    /// Notes that a block could be read, or is gone.
    pub(super) fn is_fine(&self, block: u64) {
        if self.has_some.load(Ordering::Relaxed) {
            let mut blocks = self.blocks.lock();
            drop(blocks.remove(&block));
            self.has_some.store(!blocks.is_empty(), Ordering::Relaxed);
        }
    }
}

/// How long after so many failed reads in a row the next one is put off.
fn pause(count: u32) -> Duration {
    match count.checked_sub(AT_ONCE) {
        None => Duration::ZERO,
        Some(doubled) => 2_u32.checked_pow(doubled).map_or(PAUSE_MAX, |times| (PAUSE * times).min(PAUSE_MAX)),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;

    impl Unread {
        /// The answer for a block that is not to be read.
        fn answer(&self, block: u64, now: Timestamp) -> Option<IoFailure> {
            match self.ask(block, now) {
                MayRead::No(failure) => Some(failure),
                MayRead::Once(_) | MayRead::AsOften => None,
            }
        }
    }

    #[test]
    fn a_block_is_read_less_often_the_more_reads_of_it_fail() {
        let unread = Unread::default();
        let failure = IoFailure::new(Path::new("x.idem"), "reading", io::Error::from_raw_os_error(5));
        let mut now = Timestamp::from_millis(1_000);
        let mut pauses = Vec::new();
        for _ in 0..40 {
            assert!(unread.answer(7, now).is_none() && unread.answer(8, now).is_none());
            unread.failed(7, &failure, now..now);
            let failed = now;
            while unread.answer(7, now).is_some() {
                now = now.saturating_add(PAUSE);
            }
            pauses.push(now.saturating_since(failed));
        }
        let millis: Vec<_> = pauses.iter().map(Duration::as_millis).take(6).collect();
        assert_eq!(millis, [0, 0, 100, 200, 400, 800]);
        assert_eq!(pauses.last(), Some(&PAUSE_MAX));
        unread.failed(7, &failure, now..now);
        unread.is_fine(7);
        assert!(unread.answer(7, now).is_none());
        unread.failed(7, &failure, now..now);
        assert!(unread.answer(7, now).is_none(), "it counts anew");
    }

    /// Many reads of a block are under way at once when the disk fails for a moment.
    #[test]
    fn reads_that_fail_at_the_same_time_are_no_failures_in_a_row() {
        let unread = Unread::default();
        let failure = IoFailure::new(Path::new("x.idem"), "reading", io::Error::from_raw_os_error(5));
        let now = Timestamp::from_millis(1_000);
        (0..64).for_each(|_| unread.failed(7, &failure, now..now));
        assert!(unread.answer(7, now).is_some() && unread.answer(7, now.saturating_add(PAUSE)).is_none());
    }

    /// A read takes its time. Had each caller its own, one would be under way at every moment.
    #[test]
    fn after_a_rest_one_caller_reads_and_the_others_have_the_last_answer_until_that_is_over() {
        let unread = Unread::default();
        let failure = IoFailure::new(Path::new("x.idem"), "reading", io::Error::from_raw_os_error(5));
        let mut now = Timestamp::from_millis(1_000);
        (0..AT_ONCE).for_each(|_| unread.failed(7, &failure, now..now));
        for _ in 0..3 {
            now = now.saturating_add(PAUSE_MAX);
            let MayRead::Once(probe) = unread.ask(7, now) else { panic!("it has rested") };
            let began = now;
            now = now.saturating_add(PAUSE_MAX);
            assert!(unread.answer(7, now).is_some(), "it is being read");
            unread.failed(7, &failure, began..now);
            assert!(unread.answer(7, now.saturating_add(PAUSE_MAX)).is_some(), "it is not over");
            drop(probe);
            assert!(unread.answer(7, now).is_some(), "it rests");
        }
        // It may end without a word: by a panic, say.
        now = now.saturating_add(PAUSE_MAX);
        drop(unread.ask(7, now));
        assert!(matches!(unread.ask(7, now), MayRead::Once(_)));
    }

    #[test]
    fn more_blocks_than_the_limit_are_not_noted_and_room_comes_back() {
        let unread = Unread::default();
        let failure = IoFailure::new(Path::new("x.idem"), "reading", io::Error::from_raw_os_error(5));
        let now = Timestamp::from_millis(1_000);
        let is_noted = |block| {
            (0..AT_ONCE).for_each(|_| unread.failed(block, &failure, now..now));
            unread.answer(block, now).is_some()
        };
        assert!((0..BLOCKS_MAX as u64).all(is_noted));
        assert!(!is_noted(1 << 40));
        unread.is_fine(3);
        assert!(is_noted(1 << 40));
    }

    /// A path to the disk was away for a moment, and few of the keys are asked for again.
    #[test]
    fn blocks_that_no_caller_asks_for_again_make_room_for_others() {
        let unread = Unread::default();
        let failure = IoFailure::new(Path::new("x.idem"), "reading", io::Error::from_raw_os_error(5));
        let mut now = Timestamp::from_millis(1_000);
        (0..BLOCKS_MAX as u64).for_each(|block| unread.failed(block, &failure, now..now));
        (0..AT_ONCE).for_each(|_| unread.failed(7, &failure, now..now));
        now = now.saturating_add(PAUSE / 2);
        for block in [1 << 40, 1 << 41] {
            (0..AT_ONCE).for_each(|_| unread.failed(block, &failure, now..now));
            assert!(unread.answer(block, now).is_some(), "it is read again and again");
        }
        assert!(unread.answer(7, now).is_some(), "it is put off, and gave its place away");
        assert_eq!(unread.len(), BLOCKS_MAX);
    }
}
