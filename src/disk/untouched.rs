//! A view of a file that keeps what is written to it to itself.

use std::collections::BTreeMap;
use std::io;

use super::DiskFile;
use crate::sync::{Arc, UnseenMutex};

const PAGE: usize = 4_096;

/// For looking into a file through a library that writes to whatever it opens.
#[derive(Debug)]
pub(crate) struct Untouched {
    file: Arc<dyn DiskFile>,
    /// Leaf lock, but for reads of the file below.
    state: UnseenMutex<State>,
}

#[derive(Debug)]
struct State {
    len: u64,
    /// How much of the file below still shows.
    shown: u64,
    written: BTreeMap<u64, Vec<u8>>,
}

impl Untouched {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, state: UnseenMutex::new(State { len, shown: len, written: BTreeMap::new() }) })
    }

    fn below(&self, shown: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        let there = usize::try_from(shown.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        self.file.read_at(offset, out.split_at_mut(there).0)
    }
}

impl DiskFile for Untouched {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock();
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= state.len);
        let Some(end) = end else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        self.below(state.shown, offset, out)?;
        let first = offset / PAGE as u64;
        for (number, page) in state.written.range(first..end.div_ceil(PAGE as u64)) {
            let start = number * PAGE as u64;
            let skip = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
            let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
            out.iter_mut().skip(skip).zip(page.iter().skip(from)).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let number = at / PAGE as u64;
            let from = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let (now, later) = rest.split_at(rest.len().min(PAGE - from));
            if !state.written.contains_key(&number) {
                let mut page = vec![0; PAGE];
                self.below(state.shown, number * PAGE as u64, &mut page)?;
                state.written.insert(number, page);
            }
            let page = state.written.entry(number).or_default();
            page.iter_mut().skip(from).zip(now).for_each(|(to, from)| *to = *from);
            at += now.len() as u64;
            rest = later;
        }
        state.len = state.len.max(at);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.len = len;
        state.shown = state.shown.min(len);
        state.written.retain(|number, _| number * (PAGE as u64) < len);
        let cut = usize::try_from(len % PAGE as u64).unwrap_or(0);
        if let Some(page) = state.written.get_mut(&(len / PAGE as u64)) {
            page.iter_mut().skip(cut).for_each(|byte| *byte = 0);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn unlock(&self) -> io::Result<()> {
        Ok(())
    }
}
