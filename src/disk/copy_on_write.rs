//! `CopyOnWriteFile`: a view of a file that keeps writes in memory.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::DiskFile;
use crate::sync::{Arc, UnseenMutex};

const PAGE: usize = 4_096;

/// For reading a file through a library that writes to every file it opens.
#[derive(Debug)]
pub(crate) struct CopyOnWriteFile {
    file: Arc<dyn DiskFile>,
    /// Leaf lock, held only to look and to change. A read takes the written pages first, and reads
    /// the file below after that. As long as the file does not change, together they are the view at
    /// that moment. Writes and changes of length come from one thread at a time, or a page that is
    /// fetched for a write could miss a cut.
    state: UnseenMutex<State>,
}

#[derive(Debug)]
struct State {
    len: u64,
    /// How much of the file below is still visible.
    shown: u64,
    written: BTreeMap<u64, Vec<u8>>,
}

impl CopyOnWriteFile {
    pub(crate) fn new(file: Arc<dyn DiskFile>) -> io::Result<Self> {
        let len = file.len()?;
        Ok(Self { file, state: UnseenMutex::new(State { len, shown: len, written: BTreeMap::new() }) })
    }

    /// Brings a page that is about to be written into memory.
    fn fetch(&self, number: u64) -> io::Result<()> {
        let state = self.state.lock();
        let (is_there, shown) = (state.written.contains_key(&number), state.shown);
        drop(state);
        if !is_there {
            let mut page = vec![0; PAGE];
            self.below(shown, number * PAGE as u64, &mut page)?;
            self.state.lock().written.entry(number).or_insert(page);
        }
        Ok(())
    }

    fn below(&self, shown: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        out.fill(0);
        let there = usize::try_from(shown.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        if there == 0 { Ok(()) } else { self.file.read_at(offset, out.split_at_mut(there).0) }
    }
}

impl DiskFile for CopyOnWriteFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock();
        let end = offset.checked_add(out.len() as u64).filter(|end| *end <= state.len);
        let Some(end) = end else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        let shown = state.shown;
        let written = state.written.range(offset / PAGE as u64..end.div_ceil(PAGE as u64));
        let written: Vec<_> = written.map(|(number, page)| (*number, page.clone())).collect();
        drop(state);
        self.below(shown, offset, out)?;
        for (number, page) in written {
            let start = number * PAGE as u64;
            let skip = usize::try_from(start.saturating_sub(offset)).unwrap_or(usize::MAX);
            let from = usize::try_from(offset.saturating_sub(start)).unwrap_or(usize::MAX);
            out.iter_mut().skip(skip).zip(page.iter().skip(from)).for_each(|(to, from)| *to = *from);
        }
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        // As with files: nothing is written, and nothing grows.
        if bytes.is_empty() {
            return Ok(());
        }
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let number = at / PAGE as u64;
            let from = usize::try_from(at % PAGE as u64).unwrap_or(0);
            let (now, later) = rest.split_at(rest.len().min(PAGE - from));
            self.fetch(number)?;
            let mut state = self.state.lock();
            let page = state.written.entry(number).or_default();
            page.iter_mut().skip(from).zip(now).for_each(|(to, from)| *to = *from);
            at += now.len() as u64;
            rest = later;
            state.len = state.len.max(at);
        }
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

    fn is_gone_from(&self, path: &Path) -> bool {
        self.file.is_gone_from(path)
    }
}

#[cfg(test)]
#[cfg(feature = "sim")]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::disk::Disk;
    use crate::disk::sim::SimDisk;

    const LEN: usize = 3 * PAGE + 100;

    #[derive(Clone, Debug)]
    enum Op {
        Write { at: usize, len: usize, byte: u8 },
        SetLen(usize),
        Read { at: usize, len: usize },
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            (0..5 * PAGE, 0..2 * PAGE, 1..u8::MAX).prop_map(|(at, len, byte)| Op::Write { at, len, byte }),
            (0..6 * PAGE).prop_map(Op::SetLen),
            (0..5 * PAGE, 0..2 * PAGE).prop_map(|(at, len)| Op::Read { at, len }),
        ];
        proptest::collection::vec(op, 1..40)
    }

    #[test]
    fn a_slow_read_holds_up_no_other() {
        let disk = SimDisk::new();
        disk.put(Path::new("f"), &[7; LEN]).unwrap();
        let view = CopyOnWriteFile::new(disk.open(Path::new("f")).unwrap()).unwrap();
        view.write_at(0, &[8; 10]).unwrap();
        let (is_held, held) = mpsc::sync_channel(1);
        let (go, may_go) = mpsc::sync_channel::<()>(1);
        let (may_go, is_first) = (std::sync::Mutex::new(may_go), AtomicBool::new(true));
        disk.before_reads(move |_| {
            if is_first.swap(false, Ordering::SeqCst) {
                is_held.send(()).unwrap();
                // The other side is dropped.
                may_go.lock().unwrap().recv().unwrap_err();
            }
        });
        let read = |at| {
            let mut out = [0; 20];
            view.read_at(at, &mut out).map(|()| out)
        };
        thread::scope(|threads| {
            let go = go;
            let slow = threads.spawn(|| read(0).unwrap());
            held.recv().unwrap();
            let (told, others) = mpsc::sync_channel(1);
            threads.spawn(move || told.send(read(PAGE as u64)));
            assert_eq!(others.recv_timeout(Duration::from_secs(20)).unwrap().unwrap(), [7; 20]);
            // What is written meanwhile is not in it.
            view.write_at(5, &[9; 10]).unwrap();
            drop(go);
            let slow = slow.join().unwrap();
            assert!(slow[..10] == [8; 10] && slow[10..] == [7; 10], "{slow:?}");
        });
        assert_eq!(read(0).unwrap()[5..15], [9; 10]);
    }

    #[test]
    fn writing_nothing_behind_the_end_does_not_move_it() {
        let disk = SimDisk::new();
        disk.put(Path::new("f"), b"three").unwrap();
        let view = CopyOnWriteFile::new(disk.open(Path::new("f")).unwrap()).unwrap();
        view.write_at(9, b"").unwrap();
        assert_eq!(view.len().unwrap(), 5);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_view_is_like_a_file_and_leaves_the_one_below_as_it_is(ops in ops()) {
            let disk = SimDisk::new();
            let mut model: Vec<u8> = (0..LEN).map(|at| u8::try_from(at % 251).unwrap()).collect();
            disk.put(Path::new("f"), &model).unwrap();
            let below = disk.open(Path::new("f")).unwrap();
            let (before, operations) = (model.clone(), disk.operations());
            let view = CopyOnWriteFile::new(below).unwrap();
            for op in ops {
                match op {
                    Op::Write { at, len, byte } => {
                        view.write_at(at as u64, &vec![byte; len]).unwrap();
                        if len > 0 {
                            model.resize(model.len().max(at + len), 0);
                            model[at..at + len].fill(byte);
                        }
                    }
                    Op::SetLen(len) => {
                        view.set_len(len as u64).unwrap();
                        model.resize(len, 0);
                    }
                    Op::Read { at, len } => {
                        let mut out = vec![0; len];
                        let read = view.read_at(at as u64, &mut out);
                        if let Some(bytes) = model.get(at..at + len) {
                            prop_assert_eq!((read.is_ok(), &out[..]), (true, bytes));
                        } else {
                            prop_assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
                        }
                    }
                }
                view.sync().unwrap();
                prop_assert_eq!(view.len().unwrap(), model.len() as u64);
            }
            let mut all = vec![0; model.len()];
            view.read_at(0, &mut all).unwrap();
            prop_assert_eq!(all, model);
            prop_assert_eq!((disk.operations(), disk.read(Path::new("f")).unwrap()), (operations, before));
            // Nor is its lock a view's to give up.
            view.unlock().unwrap();
            prop_assert!(disk.open(Path::new("f")).is_err());
        }
    }
}
