//! What a crash makes of writes that were not synced.

use super::pages::Pages;
use crate::sync::Arc;

const SECTOR: usize = 512;

/// What becomes of unsynced writes in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// All of them survive, as when only the process dies.
    KeepAll,
    /// None does.
    DropAll,
    /// Each sector of each write survives or not, by this seed; in any order, so torn in the middle too.
    Torn(u64),
    /// Exactly these pieces survive; a piece is a sector of a write, or a change of length.
    Subset {
        /// The newest 64 pieces of all files, the newest first: those whose bit is set survive.
        newest: u64,
        /// Whether those before them do.
        older: bool,
    },
}

/// A write or change of length since the last sync.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    /// The operation that made it.
    pub(super) number: u64,
    pub(super) change: Change,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write { at: usize, bytes: Arc<[u8]> },
    Len(usize),
}

impl Change {
    pub(super) fn apply(&self, pages: &mut Pages) {
        match self {
            Self::Len(len) => pages.resize(*len),
            Self::Write { at, bytes } => pages.write(*at, bytes),
        }
    }

    /// How many pieces can survive one without the other.
    pub(super) fn pieces(&self) -> u64 {
        match self {
            Self::Len(_) => 1,
            Self::Write { at, bytes } => ((at + bytes.len()).div_ceil(SECTOR) - at / SECTOR) as u64,
        }
    }

    /// Applies the pieces that are kept.
    fn apply_some(&self, pages: &mut Pages, mut is_kept: impl FnMut() -> bool) {
        match self {
            Self::Len(len) => {
                if is_kept() {
                    pages.resize(*len);
                }
            }
            Self::Write { at, bytes } => {
                let (mut at, mut rest) = (*at, &**bytes);
                while !rest.is_empty() {
                    let (sector, later) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
                    if is_kept() {
                        pages.write(at, sector);
                    }
                    at += sector.len();
                    rest = later;
                }
            }
        }
    }
}

/// A crash that is under way: it decides about one change after the other.
pub(super) enum Crash {
    KeepAll,
    DropAll,
    Torn(u64),
    /// How many pieces are still to be decided about.
    Subset {
        newest: u64,
        older: bool,
        left: u64,
    },
}

impl Crash {
    /// `pieces` is how many there are in all.
    pub(super) fn new(kind: CrashKind, pieces: u64) -> Self {
        match kind {
            CrashKind::KeepAll => Self::KeepAll,
            CrashKind::DropAll => Self::DropAll,
            CrashKind::Torn(seed) => Self::Torn(seed),
            CrashKind::Subset { newest, older } => Self::Subset { newest, older, left: pieces },
        }
    }

    /// Lets of a change survive what does. Changes come in the order in which they were made.
    pub(super) fn survive(&mut self, pages: &mut Pages, change: &Change) {
        match self {
            Self::DropAll => {}
            Self::KeepAll => change.apply(pages),
            Self::Torn(random) => match change {
                Change::Len(_) => change.apply_some(pages, || next(random).is_multiple_of(2)),
                Change::Write { .. } => {
                    // All, nothing, or any sectors of it.
                    let fate = next(random) % 4;
                    change.apply_some(pages, || fate == 0 || (fate > 1 && next(random).is_multiple_of(2)));
                }
            },
            Self::Subset { newest, older, left } => change.apply_some(pages, || {
                *left -= 1;
                if *left < 64 { *newest >> *left & 1 == 1 } else { *older }
            }),
        }
    }
}

/// A small generator, so that a crash is the same for the same seed everywhere.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
