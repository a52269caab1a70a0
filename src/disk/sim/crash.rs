//! Which unsynced writes survive a crash.

use std::collections::HashSet;

use super::pages::Pages;
use crate::sync::Arc;

const SECTOR: usize = 512;

/// Which unsynced writes survive a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CrashKind {
    /// All of them survive, as when only the process dies.
    KeepAll,
    /// None does.
    DropAll,
    /// Each sector of each write survives or not, by this seed; in any order, so torn in the
    /// middle too.
    Torn(u64),
    /// Exactly these pieces survive. A piece is a rename, a change of length, or a sector of a
    /// write; sectors that equal the platter's content are not counted.
    Subset {
        /// The newest 64 pieces of all files, the newest first: those whose bit is set survive.
        newest: u64,
        /// Whether the older pieces survive.
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

    /// Applies the surviving pieces of a change.
    fn apply_some(&self, pages: &mut Pages, mut is_kept: impl FnMut(&Piece<'_>) -> bool) {
        self.for_each_piece(|piece| {
            if is_kept(&piece) {
                piece.apply(pages);
            }
        });
    }

    /// Everything that can survive without the rest.
    pub(super) fn for_each_piece<'a>(&'a self, mut each: impl FnMut(Piece<'a>)) {
        match self {
            Self::Len(len) => each(Piece::Len(*len)),
            Self::Write { at, bytes } => {
                let (mut at, mut rest) = (*at, &**bytes);
                while !rest.is_empty() {
                    let (bytes, later) = rest.split_at((SECTOR - at % SECTOR).min(rest.len()));
                    each(Piece::Sector { at, bytes });
                    at += bytes.len();
                    rest = later;
                }
            }
        }
    }
}

/// A part of a change that can survive without the rest.
pub(super) enum Piece<'a> {
    Len(usize),
    Sector { at: usize, bytes: &'a [u8] },
}

impl Piece<'_> {
    fn apply(&self, pages: &mut Pages) {
        match self {
            Self::Len(len) => pages.resize(*len),
            Self::Sector { at, bytes } => pages.write(*at, bytes),
        }
    }
}

/// Tells pieces that count from those that equal the platter's content.
#[derive(Default)]
pub(super) struct Novelty {
    /// Sectors of files that an earlier piece may have changed.
    touched: HashSet<(u64, usize)>,
}

impl Novelty {
    /// Whether a piece of a file changes the platter's content; asked in the order of pieces.
    pub(super) fn is_new(&mut self, file: u64, durable: &Pages, piece: &Piece<'_>) -> bool {
        let Piece::Sector { at, bytes } = piece else { return true };
        let mut there = [0; SECTOR];
        let (there, _) = there.split_at_mut(bytes.len());
        let is_same = durable.read(*at, there) && there == *bytes;
        let is_touched = self.touched.contains(&(file, at / SECTOR));
        if !is_same {
            self.touched.insert((file, at / SECTOR));
        }
        !is_same || is_touched
    }
}

/// A crash in progress: it decides about one change after the other.
pub(super) enum Crash {
    KeepAll,
    DropAll,
    Torn(u64),
    /// The number of pieces that count and are still undecided.
    Subset {
        newest: u64,
        older: bool,
        left: u64,
        novelty: Novelty,
    },
}

impl Crash {
    /// `pieces` is their total number.
    pub(super) fn new(kind: CrashKind, pieces: impl FnOnce() -> u64) -> Self {
        match kind {
            CrashKind::KeepAll => Self::KeepAll,
            CrashKind::DropAll => Self::DropAll,
            CrashKind::Torn(seed) => Self::Torn(seed),
            CrashKind::Subset { newest, older } => {
                Self::Subset { newest, older, left: pieces(), novelty: Novelty::default() }
            }
        }
    }

    /// Applies the surviving pieces of a change to `pages`. Changes come in the order in which
    /// they were made; `durable` is the platter's content before the first.
    pub(super) fn survive(&mut self, file: u64, durable: &Pages, pages: &mut Pages, change: &Change) {
        match self {
            Self::DropAll => {}
            Self::KeepAll => change.apply(pages),
            Self::Torn(random) => match change {
                Change::Len(_) => change.apply_some(pages, |_| next(random).is_multiple_of(2)),
                Change::Write { .. } => {
                    // All, nothing, or any sectors of it.
                    let fate = next(random) % 4;
                    change.apply_some(pages, |_| fate == 0 || (fate > 1 && next(random).is_multiple_of(2)));
                }
            },
            Self::Subset { newest, older, left, novelty } => change.apply_some(pages, |piece| {
                novelty.is_new(file, durable, piece) && is_kept(*newest, *older, left)
            }),
        }
    }

    /// Whether a rename survives.
    pub(super) fn keeps_names(&mut self) -> bool {
        match self {
            Self::DropAll => false,
            Self::KeepAll => true,
            Self::Torn(random) => next(random).is_multiple_of(2),
            Self::Subset { newest, older, left, .. } => is_kept(*newest, *older, left),
        }
    }
}

/// Whether the next piece of a subset survives.
fn is_kept(newest: u64, older: bool, left: &mut u64) -> bool {
    *left -= 1;
    if *left < 64 { newest >> *left & 1 == 1 } else { older }
}

/// A small generator, so that a crash is the same for the same seed everywhere.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *random;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
