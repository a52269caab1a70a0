//! Reads that last so long that the file is opened again meanwhile.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;

use crate::common::{Machine, default_scope, done, fresh};
use crate::helpers::{MANY, all_are_replayed, results_on_disk_alone};
use idemkv::{Engine, Verify};

/// Holds one of the next reads of the file until it is dropped. All others pass.
struct HeldRead {
    held: Receiver<()>,
    /// Its drop lets the read go.
    _go: Sender<()>,
}

impl HeldRead {
    fn nth(machine: &Machine, number: i64) -> Self {
        let (is_held, held) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let (may_go, left) = (Mutex::new(may_go), AtomicI64::new(number));
        machine.disk.before_reads(move |name| {
            if name == "x.idem" && left.fetch_sub(1, Ordering::SeqCst) == 0 {
                is_held.send(()).unwrap();
                // The other side is dropped.
                may_go.lock().unwrap().recv().unwrap_err();
            }
        });
        Self { held, _go: go }
    }

    fn wait(&self) {
        self.held.recv().unwrap();
    }
}

/// Another read fails, and the file is opened again.
fn open_again(machine: &Machine, engine: &Engine, count: usize) {
    let failed = engine.stats().failed_reads;
    machine.disk.fail_read(machine.disk.reads());
    all_are_replayed(engine, count);
    assert_eq!(engine.stats().failed_reads, failed + 1);
    fresh(&default_scope(engine), "between").complete("reply").unwrap();
    engine.checkpoint().unwrap();
}

/// It stopped the database that was opened after its own. A transaction that was under way
/// committed all the same, beside a view without it, and its record was missing.
#[test]
fn a_slow_read_that_fails_late_stops_no_database_but_its_own() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let (scope, count) = (default_scope(&engine), results_on_disk_alone(&engine));
    thread::scope(|threads| {
        let held = HeldRead::nth(&machine, 0);
        let slow = threads.spawn(|| all_are_replayed(&engine, count));
        held.wait();
        open_again(&machine, &engine, count);
        let completed = fresh(&scope, "late").complete_in(|tables| {
            tables.open_table(MANY)?.insert(1, &[1_u8; 10][..])?;
            machine.disk.fail_read(machine.disk.reads());
            drop(held);
            slow.join().unwrap();
            assert!(engine.read_tables(|tables| tables.open_table(MANY).is_err()).unwrap());
            Ok::<_, Box<dyn std::error::Error>>([7; 4_000])
        });
        completed.unwrap();
    });
    all_are_replayed(&engine, count);
    assert_eq!(done(&scope, "late").body(), [7; 4_000]);
    assert!(engine.read_tables(|tables| tables.open_table(MANY).is_ok()).unwrap());
    // Beside a reader the file can't be opened again. Nor is that needed.
    let checkpoint = || {
        fresh(&scope, "last").complete("reply").unwrap();
        engine.checkpoint().unwrap();
    };
    engine.read_tables(|_| thread::scope(|threads| threads.spawn(checkpoint).join().unwrap())).unwrap();
    assert!(!engine.stats().has_failed && !engine.stats().is_file_not_ready);
}

/// Its database knows nothing of what the next one writes where its pages were. It told of damage
/// where there was none.
#[test]
fn a_slow_read_of_a_database_that_was_opened_again_finds_its_record_in_the_next() {
    for number in 0..3 {
        let machine = Machine::default();
        let open = || machine.options().cache_bytes(8 << 10).verify(Verify::UpTo(0)).open("x.idem").unwrap();
        let engine = open();
        let count = results_on_disk_alone(&engine);
        engine.close().unwrap();
        // Nothing of the blocks is in redb's cache.
        let engine = open();
        let scope = default_scope(&engine);
        thread::scope(|threads| {
            let held = HeldRead::nth(&machine, number);
            let slow = threads.spawn(|| all_are_replayed(&engine, count));
            held.wait();
            open_again(&machine, &engine, count);
            for n in 0..40 {
                fresh(&scope, &format!("more {n}")).complete([7; 4_000]).unwrap();
                engine.checkpoint().unwrap();
            }
            drop(held);
            slow.join().unwrap();
        });
        all_are_replayed(&engine, count);
    }
}
