//! Readers of tables: neither closing nor opening the file again after a full disk waits for
//! readers that come later.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Machine, done, fresh, request};
use idemkv::{BeginError, Engine, ReadError};

const TRIED_FOR: Duration = Duration::from_secs(20);

#[test]
fn once_close_is_called_no_reader_of_tables_is_let_in() {
    let machine = Machine::default();
    let engine = machine.open();
    let closed = engine.read_tables(|_| {
        let (other, late) = (engine.clone(), engine.clone());
        let closing = thread::spawn(move || other.close());
        // Close has been called when a begin is refused for it.
        while !matches!(engine.default_scope().begin("key", request()), Err(BeginError::Closed)) {
            thread::yield_now();
        }
        let read = thread::scope(|threads| threads.spawn(|| late.read_tables(|_| ())).join().unwrap());
        assert!(matches!(read, Err(ReadError::Closed)), "{read:?}");
        // Nor one within one that goes on.
        let read = engine.read_tables(|_| ());
        assert!(matches!(read, Err(ReadError::Closed)), "{read:?}");
        assert!(!closing.is_finished(), "it waits for this reader");
        closing
    });
    closed.unwrap().join().unwrap().unwrap();
    machine.open().close().unwrap();
}

/// Starts threads that read in short, overlapping calls until they are refused or told to stop.
fn with_busy_readers<R>(engine: &Engine, body: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    let (told, started) = mpsc::channel();
    thread::scope(|threads| {
        for _ in 0..4 {
            let (stop, told) = (&stop, told.clone());
            threads.spawn(move || {
                let mut first = Some(told);
                while !stop.load(Ordering::Relaxed)
                    && engine
                        .read_tables(|_| {
                            if let Some(told) = first.take() {
                                told.send(()).unwrap();
                            }
                            (0..200).for_each(|_| thread::yield_now());
                        })
                        .is_ok()
                {}
            });
        }
        (0..4).for_each(|_| started.recv().unwrap());
        let result = body();
        stop.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn close_returns_while_threads_read_tables_in_overlapping_calls() {
    let machine = Machine::default();
    let engine = machine.open();
    with_busy_readers(&engine, || engine.clone().close().unwrap());
    machine.open().close().unwrap();
}

#[test]
fn after_a_full_disk_readers_of_tables_do_not_keep_the_file_from_being_opened_again() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("");
    let body = |key: usize| vec![7; 100 * (key % 30)];
    for key in 0..40 {
        fresh(&scope, &key.to_string()).complete(body(key)).unwrap();
    }
    machine.disk.set_capacity(Some(machine.disk.used()));
    assert!(engine.checkpoint().is_err(), "the disk is full");
    machine.disk.set_capacity(None);
    // Readers never stop by themselves: without the mend no try succeeds, however many there are.
    let started = Instant::now();
    let is_moved = with_busy_readers(&engine, || {
        while started.elapsed() < TRIED_FOR {
            if engine.checkpoint().is_ok() {
                return true;
            }
            // As long as a reader stays.
            (0..400).for_each(|_| thread::yield_now());
        }
        false
    });
    assert!(is_moved, "readers that came later kept the file from being opened again");
    (0..40).for_each(|key| assert_eq!(done(&scope, &key.to_string()).body(), body(key)));
    engine.close().unwrap();
}

/// The last checkpoint has to open the file again first.
#[test]
fn closing_after_a_full_disk_waits_for_a_reader_and_loses_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("");
    (0..40).for_each(|key| drop(fresh(&scope, &key.to_string()).complete(vec![7; 2_000]).unwrap()));
    machine.disk.set_capacity(Some(machine.disk.used()));
    assert!(engine.checkpoint().is_err(), "the disk is full");
    machine.disk.set_capacity(None);
    let closing = engine.read_tables(|_| {
        let other = engine.clone();
        let closing = thread::spawn(move || other.close());
        while !matches!(engine.default_scope().begin("key", request()), Err(BeginError::Closed)) {
            thread::yield_now();
        }
        closing
    });
    closing.unwrap().join().unwrap().unwrap();
    let engine = machine.open();
    (0..40).for_each(|key| assert_eq!(done(&engine.scope(""), &key.to_string()).body(), [7; 2_000]));
}
