//! A plain open-addressing table from digests to slots: linear probing, deletion by shifting back.
//!
//! The digest is uniform and secret, so the table needs no other hash: the digest's first half,
//! scaled to the number of cells, is the home of a key. Cells are 32 bytes, so one lookup costs
//! about one cache miss here. The number of cells need not be a power of two, so the table can
//! grow by less than doubling.

use super::cached::{CachePosition, Moved};
use super::slot::Slot;
use crate::key::Digest;

/// Grow above this load: 25 of 32.
const LOAD_MAX: (usize, usize) = (25, 32);
const CELLS_MIN: usize = 16;

/// Aligned, so that none lies in two cache lines: allocators align to 16 bytes.
#[derive(Debug)]
#[repr(align(32))]
struct Cell {
    digest: Digest,
    /// [`Slot::Vacant`] marks an empty cell.
    slot: Slot,
}

impl Cell {
    const EMPTY: Self = Self { digest: Digest::from_u128(0), slot: Slot::Vacant };

    fn is_empty(&self) -> bool {
        matches!(self.slot, Slot::Vacant)
    }
}

/// Where a search for a key ended: at its cell, or at the empty cell where it would go. Valid
/// until the table is changed.
pub(crate) type Probe = Result<usize, usize>;

#[derive(Debug, Default)]
pub(crate) struct Table {
    cells: Vec<Cell>,
    used: usize,
}

/// The home of all keys with this first half of their digests.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "a number below the number of cells")]
fn home(half: u64, cells: usize) -> usize {
    ((u128::from(half) * cells as u128) >> 64) as usize
}

#[expect(
    clippy::indexing_slicing,
    reason = "every position is reduced to the number of cells where it is made"
)]
impl Table {
    /// Keys in the table.
    pub(crate) fn len(&self) -> usize {
        self.used
    }

    /// Cells in the table, for walks through it.
    pub(crate) fn cells(&self) -> usize {
        self.cells.len()
    }

    /// Bytes of memory the cells take.
    pub(crate) fn bytes(&self) -> usize {
        self.cells.capacity() * size_of::<Cell>()
    }

    #[inline]
    pub(crate) fn get(&self, digest: Digest) -> Option<&Slot> {
        self.find(digest).ok().map(|at| &self.cells[at].slot)
    }

    /// The slot in the cell that was found; [`Slot::Vacant`] if the key is absent.
    pub(crate) fn slot(&self, found: Probe) -> &Slot {
        found.map_or(&Slot::Vacant, |at| &self.cells[at].slot)
    }

    /// Reads the cell where a search for a key starts.
    #[inline]
    pub(crate) fn warm(&self, digest: Digest) -> u64 {
        self.cells.get(home(digest.first_half(), self.cells.len())).map_or(0, |cell| cell.digest.first_half())
    }

    /// Looks for the cell that `is_it` accepts, from the home of keys with this half on.
    #[inline]
    fn search(&self, half: u64, is_it: impl Fn(&Cell) -> bool) -> Probe {
        let cells = self.cells.len();
        let mut at = home(half, cells);
        // Ends: the load limit keeps empty cells in the table. A table may have no cells at all.
        while let Some(cell) = self.cells.get(at) {
            if cell.is_empty() {
                break;
            }
            if is_it(cell) {
                return Ok(at);
            }
            at = if at + 1 == cells { 0 } else { at + 1 };
        }
        Err(at)
    }

    /// Looks for a key.
    #[inline]
    pub(crate) fn find(&self, digest: Digest) -> Probe {
        self.search(digest.first_half(), |cell| cell.digest == digest)
    }

    /// The cell of the cached record with this position, by the first half of its key's digest.
    pub(crate) fn find_seated(&self, half: u64, position: CachePosition) -> Option<usize> {
        let is_it = |cell: &Cell| {
            matches!(&cell.slot, Slot::Cached(_, its) if *its == position) && cell.digest.first_half() == half
        };
        self.search(half, is_it).ok()
    }

    /// Tells a cached record that it has another position now.
    pub(crate) fn reseat(&mut self, moved: &Moved) {
        let found = self.find_seated(moved.half, moved.from);
        debug_assert!(found.is_some(), "every position has its slot");
        if let Some(at) = found
            && let Slot::Cached(_, position) = &mut self.cells[at].slot
        {
            *position = moved.to;
        }
    }

    /// Sets the slot of a key that was just searched for; [`Slot::Vacant`] removes the key.
    /// Returns the earlier slot.
    #[inline]
    pub(crate) fn put(&mut self, found: Probe, digest: Digest, slot: Slot) -> Slot {
        match (found, slot) {
            (Ok(at), Slot::Vacant) => self.remove(at),
            (Ok(at), slot) => std::mem::replace(&mut self.cells[at].slot, slot),
            (Err(_), Slot::Vacant) => Slot::Vacant,
            (Err(empty), slot) => {
                let (cell, cells) = (Cell { digest, slot }, self.cells.len());
                self.reserve(1);
                if self.cells.len() == cells {
                    self.cells[empty] = cell;
                } else {
                    self.add(cell);
                }
                self.used += 1;
                Slot::Vacant
            }
        }
    }

    /// Puts an absent key into the first empty cell from its home on.
    fn add(&mut self, cell: Cell) {
        let cells = self.cells.len();
        let mut at = home(cell.digest.first_half(), cells);
        while !self.cells[at].is_empty() {
            at = if at + 1 == cells { 0 } else { at + 1 };
        }
        self.cells[at] = cell;
    }

    fn remove(&mut self, mut hole: usize) -> Slot {
        let removed = std::mem::replace(&mut self.cells[hole], Cell::EMPTY).slot;
        self.used -= 1;
        let cells = self.cells.len();
        let mut at = hole;
        loop {
            at = (at + 1) % cells;
            if self.cells[at].is_empty() {
                return removed;
            }
            // A cell moves into the hole unless its home lies behind the hole, cyclically.
            let back_to_home = (at + cells - home(self.cells[at].digest.first_half(), cells)) % cells;
            let behind_hole = (at + cells - hole) % cells;
            if back_to_home >= behind_hole {
                self.cells.swap(at, hole);
                hole = at;
            }
        }
    }

    /// Makes room for `more` keys.
    pub(crate) fn reserve(&mut self, more: usize) {
        let needed = (self.used + more) * LOAD_MAX.1 / LOAD_MAX.0 + 1;
        if needed > self.cells.len() {
            self.resize(needed.max(self.cells.len() + self.cells.len() / 3).max(CELLS_MIN));
        }
    }

    fn resize(&mut self, cells: usize) {
        let mut resized = Vec::new();
        resized.resize_with(cells, || Cell::EMPTY);
        for cell in std::mem::replace(&mut self.cells, resized) {
            if !cell.is_empty() {
                self.add(cell);
            }
        }
    }

    /// Gives memory back if the table is mostly empty.
    pub(crate) fn shrink(&mut self) {
        if self.cells.len() > 4 * CELLS_MIN && self.used < self.cells.len() / 4 {
            self.resize((self.used * 2).max(CELLS_MIN));
        }
    }

    /// The key and slot in the cell with this number, if there is one.
    pub(crate) fn cell(&self, at: usize) -> Option<(Digest, &Slot)> {
        self.cells.get(at).filter(|cell| !cell.is_empty()).map(|cell| (cell.digest, &cell.slot))
    }

    /// Visits the keys of about so many cells, in the order of their homes; returns from where the
    /// walk goes on, or `None` after the last key.
    ///
    /// The table may change between two steps, and grow or shrink: each step visits the keys of a
    /// range of digests. So a walk meets every key that is there all the while exactly once, and no
    /// key twice.
    pub(crate) fn walk<'a>(
        &'a self,
        from: WalkPlace,
        cells: usize,
        mut visit: impl FnMut(Digest, &'a Slot),
    ) -> Option<WalkPlace> {
        let first = home(from.0, self.cells.len());
        // A key lies between its home and the next empty cell. So before an empty cell are all keys
        // with homes up to it.
        let end = (first.saturating_add(cells)..self.cells.len()).find(|at| self.cells[*at].is_empty());
        let next = end.map(|end| WalkPlace::at_home(end, self.cells.len()));
        let mut visit_range = |cells: &'a [Cell]| {
            for Cell { digest, slot } in cells.iter().filter(|cell| !cell.is_empty()) {
                let half = digest.first_half();
                // Others were visited before, or lie here because the last cells are full.
                if half >= from.0 && next.is_none_or(|next| half < next.0) {
                    visit(*digest, slot);
                }
            }
        };
        visit_range(&self.cells[first..end.unwrap_or(self.cells.len())]);
        if end.is_none() {
            let wrapped = self.cells[..first].iter().take_while(|cell| !cell.is_empty()).count();
            visit_range(&self.cells[..wrapped]);
        }
        next
    }
}

/// Where a walk over a table stands: the least first half of a digest that it has not come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WalkPlace(u64);

impl WalkPlace {
    /// The least half whose home is this cell.
    #[expect(clippy::cast_possible_truncation, reason = "a cell is below the number of cells")]
    fn at_home(cell: usize, cells: usize) -> Self {
        Self(((cell as u128) << 64).div_ceil(cells as u128) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::super::slot::SlotTime;
    use super::*;
    use crate::Timestamp;
    use crate::record::RecordLocation;

    impl Table {
        fn set(&mut self, digest: Digest, slot: Slot) -> Slot {
            self.put(self.find(digest), digest, slot)
        }
    }

    fn slot(n: u64) -> Slot {
        Slot::Stored {
            until: SlotTime::new(Timestamp::from_millis(0), Timestamp::from_millis(0)),
            place: RecordLocation::new(n, 0),
        }
    }

    fn number(slot: &Slot) -> Option<u64> {
        if let Slot::Stored { place, .. } = slot { Some(place.block()) } else { None }
    }

    /// All keys, in one step.
    fn keys(table: &Table) -> Vec<(Digest, u64)> {
        let mut keys = Vec::new();
        let next = table.walk(WalkPlace::default(), usize::MAX, |digest, slot| {
            keys.push((digest, number(slot).unwrap()));
        });
        assert_eq!(next, None);
        keys
    }

    #[test]
    fn a_cell_is_half_a_cache_line() {
        assert_eq!((size_of::<Cell>(), align_of::<Cell>()), (32, 32));
    }

    #[test]
    fn the_last_home_wraps_around() {
        let mut table = Table::default();
        for low in 0..8_u64 {
            table.set(Digest::from_u128(u128::MAX - u128::from(low)), slot(low));
        }
        for low in (0..8_u64).rev() {
            let removed = table.set(Digest::from_u128(u128::MAX - u128::from(low)), Slot::Vacant);
            assert_eq!(number(&removed), Some(low));
        }
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn keys_with_the_same_first_half_are_all_kept_and_found() {
        let digest = |n: u64| Digest::from_u128(u128::from(n) << 64 | 7);
        let mut table = Table::default();
        (0..6).for_each(|n| drop(table.set(digest(n), slot(n))));
        for removed in 0..6 {
            assert_eq!(number(&table.set(digest(removed), Slot::Vacant)), Some(removed));
            for n in 0..6 {
                assert_eq!(table.get(digest(n)).and_then(number), (n > removed).then_some(n));
            }
        }
    }

    #[test]
    fn a_table_that_is_mostly_empty_shrinks_and_keeps_every_key() {
        let digest = |n: u64| Digest::from_u128(u128::from(n) << 54);
        let mut table = Table::default();
        (0..1_000).for_each(|n| drop(table.set(digest(n), slot(n))));
        let cells = table.cells();
        table.shrink();
        assert_eq!(table.cells(), cells, "a full table stays as it is");
        (100..1_000).for_each(|n| drop(table.set(digest(n), Slot::Vacant)));
        table.shrink();
        assert!(table.cells() < cells / 4 && table.len() == 100);
        for n in 0..1_000 {
            assert_eq!(table.get(digest(n)).and_then(number), (n < 100).then_some(n));
        }
        (0..100).for_each(|n| drop(table.set(digest(n), Slot::Vacant)));
        table.shrink();
        table.shrink();
        table.set(digest(1), slot(1));
        assert_eq!((table.len(), keys(&table).len()), (1, 1));
    }

    #[test]
    fn a_table_has_as_many_cells_as_its_load_asks_for_and_grows_by_a_third() {
        let digest = |n: u64| Digest::from_u128(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).into());
        let cells_for = |keys: usize| keys * LOAD_MAX.1 / LOAD_MAX.0 + 1;
        let mut table = Table::default();
        table.reserve(1);
        assert_eq!(table.cells(), CELLS_MIN);
        table.reserve(3_000);
        assert_eq!(table.cells(), cells_for(3_000));
        table.reserve(3_000);
        assert_eq!(table.cells(), cells_for(3_000), "nothing is there yet, so it has the room");
        table.reserve(3_001);
        assert_eq!(table.cells(), cells_for(3_000) + cells_for(3_000) / 3);
        let cells = table.cells();
        let keys = (0_u64..).take_while(|n| {
            drop(table.set(digest(*n), slot(*n)));
            table.cells() == cells
        });
        assert!(keys.count() >= 3_001);
        assert_eq!(table.cells(), cells + cells / 3);
        // Down to a quarter nothing happens; below that, half of what is there is left free.
        let cells = table.cells();
        let mut keys = u64::try_from(table.len()).unwrap();
        while table.len() >= cells / 4 {
            table.shrink();
            assert_eq!(table.cells(), cells);
            keys -= 1;
            drop(table.set(digest(keys), Slot::Vacant));
        }
        table.shrink();
        assert_eq!(table.cells(), 2 * table.len());
        // A small one is left as it is.
        let mut small = Table::default();
        small.resize(4 * CELLS_MIN);
        small.shrink();
        assert_eq!(small.cells(), 4 * CELLS_MIN);
        small.resize(4 * CELLS_MIN + 1);
        small.shrink();
        assert_eq!(small.cells(), CELLS_MIN);
    }

    proptest! {
        /// Few first halves and many operations, so that runs of cells collide, wrap and shift.
        #[test]
        fn behaves_like_a_map(ops in proptest::collection::vec((0..64_u128, any::<bool>(), any::<u32>()), 1..600)) {
            let mut table = Table::default();
            let mut model = HashMap::new();
            for (key, keep, value) in ops {
                let digest = Digest::from_u128(key << 64 | (key % 5) << 61);
                let value = u64::from(value);
                let old = if keep { table.set(digest, slot(value)) } else { table.set(digest, Slot::Vacant) };
                let expected = if keep { model.insert(digest, value) } else { model.remove(&digest) };
                prop_assert_eq!(number(&old), expected);
                table.shrink();
                prop_assert_eq!(table.len(), model.len());
            }
            for (digest, value) in &model {
                prop_assert_eq!(table.get(*digest).and_then(number), Some(*value));
            }
            let found: HashMap<_, _> = keys(&table).into_iter().collect();
            prop_assert_eq!(&found, &model);
        }

        /// Between the steps others come and go, and the table grows and shrinks.
        #[test]
        fn a_walk_meets_what_stays_once_and_nothing_twice(
            stay in proptest::collection::hash_set(halves(), 0..200),
            ops in proptest::collection::vec((halves(), any::<bool>()), 0..400),
            cells in 1..40_usize,
            ops_per_step in 0..40_usize,
        ) {
            let key = |half: u64, other: u64| Digest::from_u128(u128::from(other) << 64 | u128::from(half));
            let mut table = Table::default();
            for half in &stay {
                table.set(key(*half, 1), slot(1));
            }
            let (mut met, mut ops) = (HashMap::new(), ops.into_iter());
            let mut place = Some(WalkPlace::default());
            while let Some(from) = place {
                place = table.walk(from, cells, |digest, _| *met.entry(digest).or_insert(0) += 1);
                prop_assert!(place.is_none_or(|next| next > from));
                for (half, comes) in ops.by_ref().take(ops_per_step) {
                    table.set(key(half, 2), if comes { slot(2) } else { Slot::Vacant });
                }
                table.shrink();
            }
            prop_assert!(met.values().all(|times| *times == 1), "{:?}", met);
            prop_assert!(stay.iter().all(|half| met.contains_key(&key(*half, 1))));
        }
    }

    /// Many with homes at the end, whose runs wrap around, and some alike.
    fn halves() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), (0..20_u64).prop_map(|n| u64::MAX - n), 0..20_u64]
    }
}
