//! The content of the disk: names and bytes, durable or not.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use super::crash::{Change, Crash, CrashKind, Novelty, Pending};
use super::pages::Pages;

pub(super) type FileId = u64;

/// The disk's content. A copy shares all bytes until one of the two is written to.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    pub(super) names: HashMap<PathBuf, FileId>,
    /// The names on the platter, where there was a rename since they were synced; with the number
    /// of that operation.
    names_before: Option<(u64, HashMap<PathBuf, FileId>)>,
    pub(super) contents: BTreeMap<FileId, Contents>,
    pub(super) next_id: FileId,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Contents {
    /// What the process sees.
    pub(super) seen: Pages,
    /// What is on the platter.
    pub(super) durable: Pages,
    /// Since the last sync, in order.
    pub(super) pending: Vec<Pending>,
}

/// What a crash decides about.
enum Undecided {
    Change(FileId, Change),
    /// The names as they were before.
    Names(HashMap<PathBuf, FileId>),
}

impl Files {
    pub(super) fn used(&self) -> u64 {
        self.names
            .values()
            .filter_map(|id| self.contents.get(id))
            .map(|contents| contents.seen.len() as u64)
            .sum()
    }

    /// Gives a file another name, in place of any file of that name. Until the names are synced, a
    /// crash may undo that.
    pub(super) fn rename(&mut self, number: u64, from: &Path, to: &Path) -> io::Result<()> {
        let before = self.names.clone();
        let Some(id) = self.names.remove(from) else { return Err(io::ErrorKind::NotFound.into()) };
        self.names.insert(to.to_owned(), id);
        self.names_before.get_or_insert((number, before));
        Ok(())
    }

    /// Gives a new file its name, durably. Earlier renames stay undecided.
    pub(super) fn name(&mut self, path: &Path, id: FileId) {
        self.names.insert(path.to_owned(), id);
        if let Some((_, before)) = &mut self.names_before {
            before.insert(path.to_owned(), id);
        }
    }

    /// Makes the names durable.
    pub(super) fn sync_names(&mut self) {
        self.names_before = None;
    }

    /// Removes a name, durably; whether it was there. Earlier renames stay undecided.
    pub(super) fn remove(&mut self, path: &Path) -> bool {
        let was_there = self.names.remove(path).is_some();
        if let Some((_, before)) = self.names_before.as_mut().filter(|_| was_there) {
            before.remove(path);
        }
        was_there
    }

    pub(super) fn is_synced(&self) -> bool {
        self.names_before.is_none() && self.contents.values().all(|contents| contents.pending.is_empty())
    }

    pub(super) fn pieces(&self) -> u64 {
        let (mut novelty, mut count) = (Novelty::default(), u64::from(self.names_before.is_some()));
        for (id, contents) in &self.contents {
            for pending in &contents.pending {
                let mut is_new = |piece| novelty.is_new(*id, &contents.durable, &piece);
                pending.change.for_each_piece(|piece| count += u64::from(is_new(piece)));
            }
        }
        count
    }

    /// Decides what survives.
    pub(super) fn crash(&mut self, kind: CrashKind) {
        let mut crash = Crash::new(kind, || self.pieces());
        let mut pending = Vec::new();
        for (id, contents) in &mut self.contents {
            contents.seen.clone_from(&contents.durable);
            let changes = std::mem::take(&mut contents.pending).into_iter();
            pending.extend(changes.map(|pending| (pending.number, Undecided::Change(*id, pending.change))));
        }
        pending.extend(self.names_before.take().map(|(number, before)| (number, Undecided::Names(before))));
        pending.sort_unstable_by_key(|(number, _)| *number);
        for (_, undecided) in pending {
            match undecided {
                Undecided::Names(before) if !crash.keeps_names() => self.names = before,
                Undecided::Names(_) => {}
                Undecided::Change(id, change) => {
                    self.contents.entry(id).and_modify(|contents| {
                        crash.survive(id, &contents.durable, &mut contents.seen, &change);
                    });
                }
            }
        }
        for contents in self.contents.values_mut() {
            contents.durable.clone_from(&contents.seen);
        }
    }

    pub(super) fn name_of(&self, id: FileId) -> String {
        let named = self.names.iter().find(|(_, other)| **other == id);
        named.map(|(path, _)| path.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(super) fn contents(&mut self, id: FileId) -> io::Result<&mut Contents> {
        self.contents.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}
