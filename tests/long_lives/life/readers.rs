//! Readers of tables, in short calls that overlap: each comes before the one before it has gone.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use idemkv::sim::DiskFault;
use idemkv::{Engine, ReadError};

use super::Life;
use crate::bounds;

/// How long the rig waits until a reader is let in. A reader that is held up costs this much time.
/// No verdict on a right engine depends on it: after that, the reader before it goes all the same.
const LET_IN_WITHIN: Duration = Duration::from_millis(10);

/// A thread in `read_tables`, until it is told to end.
struct Reader {
    thread: JoinHandle<Result<(), ReadError>>,
    let_in: Receiver<()>,
    end: Sender<()>,
}

impl Reader {
    fn start(engine: &Engine) -> Self {
        let (told, let_in) = channel();
        let (end, ended) = channel::<()>();
        let engine = engine.clone();
        let thread = thread::spawn(move || {
            engine.read_tables(|_| {
                told.send(()).unwrap();
                // It ends when the other side of the channel goes.
                assert!(ended.recv().is_err());
            })
        });
        Self { thread, let_in, end }
    }

    /// One that nobody holds up.
    fn start_and_wait(engine: &Engine) -> Self {
        let reader = Self::start(engine);
        reader.let_in.recv().unwrap();
        reader
    }

    /// Whether it is let in soon.
    fn is_let_in(&self) -> bool {
        self.let_in.recv_timeout(LET_IN_WITHIN).is_ok()
    }

    fn end(self) -> Result<(), ReadError> {
        drop(self.end);
        self.thread.join().unwrap()
    }
}

impl Life {
    /// The disk is full for one write of a checkpoint. The file is opened again while readers come
    /// and go without a gap.
    pub(super) fn full_disk(&mut self) {
        self.burst(40, 2..5, 20);
        let disk = &self.machine.disk;
        disk.fault_at(disk.operations(), DiskFault::Full);
        assert!(self.engine().checkpoint().is_err());
        assert!(self.engine().stats().is_disk_full);
        self.replay();
        let mut reader = Reader::start_and_wait(self.engine());
        let mut tries = 0;
        while self.engine().checkpoint().is_err() {
            tries += 1;
            self.holds("tries to open the file again", tries, bounds::REOPENINGS);
            let next = Reader::start(self.engine());
            next.is_let_in();
            reader.end().unwrap();
            reader = next;
        }
        reader.end().unwrap();
        self.phase.asked += 1;
        self.observe();
        self.replay();
    }

    /// The engine is closed while readers come and go without a gap.
    pub(super) fn close(&mut self) {
        let reader = Reader::start_and_wait(self.engine());
        let engine = self.engine().clone();
        let closing = thread::spawn(move || engine.close());
        // Close has been called once calls are refused.
        while self.scopes[0].get("no key").is_ok() {
            thread::yield_now();
        }
        let late = (0..3).filter(|_| Reader::start(self.engine()).is_let_in()).count();
        self.holds("readers that were let in after close", late as u64, 0);
        assert!(!closing.is_finished(), "it waits for the reader");
        reader.end().unwrap();
        assert_eq!(closing.join().unwrap().unwrap().claims_left, 0);
        self.scopes.clear();
        self.engine = None;
        self.open();
        self.replay();
    }
}
