//! The directory: the facts about every block that are known without a read.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use super::block::{self, Block};
use crate::Timestamp;

/// A block with fewer records, and no more bytes, is small: its share of the directory, and of
/// what an opening reads, is large beside what it holds.
const SMALL_ENTRIES: u32 = 16;
const SMALL_BYTES: u32 = 16 << 10;
/// The least number of small blocks that are worth merging. So each record moves once, or a few
/// times if records are long.
const MERGED_MIN: usize = 16;
/// The most blocks that are merged at once,
const MERGED_MAX: usize = 64;
/// the most bytes of them,
const MERGED_BYTES: u32 = 512 << 10;
/// and the most blocks that one search passes.
const LOOKED_AT_MAX: usize = 256;

/// The directory's entry for a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlockInfo {
    /// When the last of its bodies expires, or the last of its keys if it has no bodies; with its
    /// number, its key.
    pub(super) due: Timestamp,
    /// When the last of its keys is no longer remembered. Later than `due` if it has tombstones
    /// that have to move.
    pub(super) remembered_until: Timestamp,
    /// Until when it stays, because it can't be read. Zero for all others.
    stays_until: Timestamp,
    /// Bytes.
    len: u32,
    /// Records in it.
    pub(super) entries: u32,
}

impl BlockInfo {
    pub(super) fn new(due: Timestamp, contents: block::Contents) -> Self {
        let block::Contents { len, entries, remembered_until } = contents;
        Self { due, remembered_until, stays_until: Timestamp::default(), len, entries }
    }

    pub(super) fn of(block: &Block) -> Self {
        Self::new(block.due, block.contents())
    }

    /// When its space can be freed.
    fn goes_at(&self) -> Timestamp {
        self.due.max(self.stays_until)
    }

    fn is_small(&self) -> bool {
        self.entries < SMALL_ENTRIES && self.len <= SMALL_BYTES
    }

    /// Bytes of pages that the block and its index row take: large values have pages of a power of
    /// two.
    pub(super) fn file_bytes(&self) -> u64 {
        let page = (u64::from(self.len) + block::PAGE_OVERHEAD as u64).next_power_of_two();
        page + u64::from(self.entries) * block::INDEX_ENTRY as u64
    }
}

/// That a block was gone. It may come back: the commit that drops it may fail. So this says
/// something of the present only while the store [says so](super::Store::is_still_gone).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone(u64);

impl Gone {
    #[cfg(test)]
    pub(crate) fn example(number: u64) -> Self {
        Self(number)
    }
}

/// Every block there is.
#[derive(Debug, Default)]
pub(super) struct Directory {
    blocks: HashMap<u64, BlockInfo>,
    /// Blocks by the time when their space can be freed: there are hundreds of thousands, and
    /// every checkpoint asks for those that are due.
    order: BTreeSet<(Timestamp, u64)>,
    /// Small blocks, by when each is due.
    small: BTreeSet<(Timestamp, u64)>,
    /// Where the next search for blocks to merge starts.
    merges_from: (Timestamp, u64),
    /// Bytes of the pages of all.
    file_bytes: u64,
    /// How often blocks were put back.
    returns: u64,
}

impl Directory {
    /// Makes room for so many.
    pub(super) fn reserve(&mut self, blocks: u64) {
        self.blocks.reserve(usize::try_from(blocks).unwrap_or(0));
    }

    pub(super) fn get(&self, number: u64) -> Option<&BlockInfo> {
        self.blocks.get(&number)
    }

    pub(super) fn insert(&mut self, number: u64, block: BlockInfo) {
        if let Some(before) = self.blocks.insert(number, block) {
            self.leave_out(number, &before);
        }
        self.order.insert((block.goes_at(), number));
        if block.is_small() {
            self.small.insert((block.due, number));
        }
        self.file_bytes += block.file_bytes();
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<BlockInfo> {
        let removed = self.blocks.remove(&number)?;
        self.leave_out(number, &removed);
        Some(removed)
    }

    /// Puts blocks back that were removed for a commit, which failed.
    pub(super) fn put_back(&mut self, blocks: &[(u64, BlockInfo)]) {
        self.returns += 1;
        for (number, block) in blocks {
            self.insert(*number, *block);
        }
    }

    /// What can be said of a block that is not here now.
    pub(super) fn gone(&self) -> Gone {
        Gone(self.returns)
    }

    /// Uncounts a block that was removed.
    fn leave_out(&mut self, number: u64, block: &BlockInfo) {
        self.order.remove(&(block.goes_at(), number));
        self.small.remove(&(block.due, number));
        self.file_bytes -= block.file_bytes();
    }

    /// Notes that a block can't be read, and stays until `until`.
    pub(super) fn keep(&mut self, number: u64, until: Timestamp) {
        if let Some(block) = self.remove(number) {
            self.insert(number, BlockInfo { stays_until: until, ..block });
        }
    }

    /// Whether a block's space can be freed by `now`.
    pub(super) fn has_due(&self, now: Timestamp) -> bool {
        self.order.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Whether blocks with at least so many bytes can be freed by `now`.
    pub(super) fn has_due_bytes(&self, now: Timestamp, bytes: u64) -> bool {
        let due = self.order.iter().take_while(|(at, _)| *at <= now);
        let mut sums = due.filter_map(|(_, number)| self.get(*number)).scan(0, |sum, block| {
            *sum += block.file_bytes();
            Some(*sum)
        });
        sums.any(|sum| sum >= bytes)
    }

    /// The blocks that can be freed by `now`, earliest first: enough for at least `bytes`.
    pub(super) fn due(&self, now: Timestamp, bytes: u64) -> Vec<(u64, BlockInfo)> {
        let mut sum = 0;
        let due = self.order.iter().take_while(|(at, _)| *at <= now);
        let blocks = due.filter_map(|(_, number)| self.get(*number).map(|block| (*number, *block)));
        let within = blocks.take_while(|(_, block)| {
            let has_place = sum < bytes;
            sum += block.file_bytes();
            has_place
        });
        within.collect()
    }

    /// Small blocks to merge: enough of them, and due so close together that one block may hold
    /// their records. Mostly there are none. Each call searches some more blocks, and over time
    /// all.
    pub(super) fn mergeable(&mut self, now: Timestamp) -> Vec<(u64, BlockInfo)> {
        let from = self.merges_from.max((now.saturating_add(Duration::from_millis(1)), 0));
        let (mut run, mut bytes) = (VecDeque::new(), 0);
        let mut looked_at = 0;
        // Where the blocks end, the next look begins with the first.
        let mut next = (Timestamp::default(), 0);
        for at in self.small.range(from..) {
            let block = self.blocks.get(&at.1);
            let Some(block) = block.filter(|block| block.stays_until <= now) else { continue };
            let fits = |first: &(Timestamp, u64)| block::spans(first.0, at.0, now);
            let is_full = run.len() == MERGED_MAX || bytes + block.len > MERGED_BYTES;
            if run.len() >= MERGED_MIN && (is_full || !run.front().is_some_and(fits)) {
                next = *at;
                break;
            }
            while run.front().is_some_and(|first| !fits(first)) {
                let gone = run.pop_front().and_then(|(_, number)| self.blocks.get(&number));
                bytes -= gone.map_or(0, |block| block.len);
            }
            looked_at += 1;
            if looked_at > LOOKED_AT_MAX {
                next = run.pop_front().unwrap_or(*at);
                run.clear();
                break;
            }
            run.push_back(*at);
            bytes += block.len;
        }
        self.merges_from = next;
        if run.len() < MERGED_MIN {
            return Vec::new();
        }
        run.iter().filter_map(|(_, number)| self.get(*number).map(|block| (*number, *block))).collect()
    }

    /// Bytes of the pages of all blocks and their index rows.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(due: u64, remembered_until: u64) -> BlockInfo {
        let remembered_until = Timestamp::from_millis(remembered_until);
        let contents = block::Contents { len: 5_000, entries: 10, remembered_until };
        BlockInfo::new(Timestamp::from_millis(due), contents)
    }

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    fn due(directory: &Directory, now: u64, bytes: u64) -> Vec<u64> {
        directory.due(at(now), bytes).iter().map(|(number, _)| *number).collect()
    }

    #[test]
    fn blocks_are_due_in_order_and_so_many_as_have_the_bytes() {
        let mut directory = Directory::default();
        assert!(!directory.has_due(at(u64::MAX)));
        for (number, due_at) in [(1, 300), (2, 200), (3, 100), (4, 100)] {
            directory.insert(number, block(due_at, due_at));
        }
        assert!(!directory.has_due(at(99)) && directory.has_due(at(100)));
        assert_eq!(due(&directory, 99, u64::MAX), [0; 0]);
        assert_eq!(due(&directory, 200, u64::MAX), [3, 4, 2]);
        let bytes = block(1, 1).file_bytes();
        assert_eq!(due(&directory, 200, 2 * bytes), [3, 4]);
        assert_eq!(due(&directory, 200, bytes + 1), [3, 4]);
        assert!(
            directory.has_due_bytes(at(200), 3 * bytes) && !directory.has_due_bytes(at(200), 3 * bytes + 1)
        );
        assert!(!directory.has_due_bytes(at(99), 0));
        assert_eq!((due(&directory, 200, 1), due(&directory, 200, 0)), (vec![3], vec![]));
        assert!([2, 3, 4].into_iter().all(|number| directory.remove(number).is_some()));
        assert!(!directory.has_due(at(299)) && directory.has_due(at(300)));
        directory.insert(5, block(50, 50));
        assert!(directory.has_due(at(50)));
        assert_eq!(due(&directory, 50, 1), [5]);
    }

    #[test]
    fn a_block_that_cannot_be_read_goes_when_nobody_needs_it() {
        let mut directory = Directory::default();
        directory.insert(1, block(100, 900));
        directory.keep(1, at(900));
        assert_eq!(due(&directory, 899, 1), [0; 0]);
        assert!(!directory.has_due(at(899)) && directory.has_due(at(900)));
        assert_eq!(due(&directory, 900, 1), [1]);
    }

    #[test]
    fn bytes_are_those_of_the_pages_of_what_is_there() {
        let mut directory = Directory::default();
        directory.insert(1, block(1, 1));
        directory.insert(2, block(1, 1));
        directory.insert(2, block(2, 2));
        assert_eq!(directory.file_bytes(), 2 * (8_192 + 260));
        directory.remove(1);
        directory.remove(7);
        assert_eq!(directory.file_bytes(), 8_192 + 260);
    }
}
