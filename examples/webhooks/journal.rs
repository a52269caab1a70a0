//! A journal outside the engine: the other system, on which a handler has its effect.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::Result;

/// What the other system did with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It accepted the event.
    Accepted,
    /// It refused the event for good. That is an effect too: asking again would get two refusals
    /// on record.
    Declined,
}

impl Verdict {
    /// As it is written.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Declined => "declined",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [Self::Accepted, Self::Declined].into_iter().find(|verdict| verdict.name() == name)
    }
}

/// A file with one line for each thing that happened: the line of an event, and a verdict.
///
/// It takes every line it is given. It has no opinion on lines that are already there, so that a
/// handler which acts twice leaves two.
#[derive(Debug)]
pub(crate) struct Journal {
    file: File,
    /// What the file says, by event. Held while a line is written, so that the two never differ.
    known: Mutex<BTreeMap<usize, Verdict>>,
}

impl Journal {
    /// Opens the journal at `path`, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, known: Mutex::new(read(path)?.into_iter().collect()) })
    }

    /// Adds a line. One write on a file that is open for appending: the operating system has all
    /// of it or nothing, and keeps it when this process dies.
    pub(crate) fn append(&self, line: usize, verdict: Verdict) -> io::Result<()> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        (&self.file).write_all(format!("{line} {}\n", verdict.name()).as_bytes())?;
        known.insert(line, verdict);
        Ok(())
    }

    /// What happened to an event, if anything has.
    pub(crate) fn find(&self, line: usize) -> Option<Verdict> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&line).copied()
    }

    /// Everything that happened.
    pub(crate) fn known(&self) -> BTreeMap<usize, Verdict> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// All lines of the journal at `path`, in the order in which they were written.
pub(crate) fn read(path: &Path) -> Result<Vec<(usize, Verdict)>> {
    let text = fs::read_to_string(path)?;
    let entry = |line: &str| {
        let (event, verdict) = line.split_once(' ')?;
        Some((event.parse().ok()?, Verdict::of_name(verdict)?))
    };
    text.lines()
        .map(|line| entry(line).ok_or_else(|| format!("{} holds the line {line:?}", path.display()).into()))
        .collect()
}
