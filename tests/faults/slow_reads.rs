//! Reads that last so long that the file is opened again meanwhile.

use std::ops::Range;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::task::Poll;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Machine, default_scope, done, fresh, poll, request, small};
use crate::helpers::{MANY, all_are_replayed, results_on_disk_alone};
use futures_executor::block_on;
use idemkv::{Begin, ClaimError, CompleteInError, Engine, Scope, Verify};

/// Holds some of the next reads of the file until it is dropped. All others pass.
struct HeldRead {
    held: Receiver<()>,
    /// Its drop lets the read go.
    _go: Sender<()>,
}

impl HeldRead {
    fn nth(machine: &Machine, number: usize) -> Self {
        Self::each_of(machine, number..number + 1)
    }

    fn each_of(machine: &Machine, numbers: Range<usize>) -> Self {
        let (is_held, held) = mpsc::channel();
        let (go, may_go) = mpsc::channel::<()>();
        let (may_go, reads) = (Mutex::new(may_go), AtomicUsize::new(0));
        machine.disk.before_reads(move |name| {
            if name == "x.idem" && numbers.contains(&reads.fetch_add(1, Ordering::SeqCst)) {
                is_held.send(()).unwrap();
                // The other side is dropped.
                may_go.lock().unwrap().recv().unwrap_err();
            }
        });
        Self { held, _go: go }
    }

    fn wait(&self) {
        self.held.recv_timeout(Duration::from_secs(20)).expect("no thread comes to it");
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

/// An engine with its own threads, and how many results it has. Most of them are in no memory.
fn opened_with_results_on_disk(machine: &Machine) -> (Engine, usize) {
    let options = || small(Engine::options()).disk(&machine.disk).cache_bytes(8 << 10);
    let open = || options().verify(Verify::UpTo(0)).open("x.idem").unwrap();
    let engine = open();
    let count = results_on_disk_alone(&engine);
    engine.close().unwrap();
    (open(), count)
}

/// After a failed read the file is opened again for the transaction, here for longer than the lease.
#[test]
fn a_claim_whose_lease_ends_while_its_transaction_opens_runs_no_work() {
    let machine = Machine::rerun();
    let engine = machine.options().cache_bytes(8 << 10).open("x.idem").unwrap();
    let count = results_on_disk_alone(&engine);
    let second = Duration::from_secs(1);
    let scope = engine.set_policy("jobs", engine.policy().lease(second)).unwrap();
    let late = fresh(&scope, "late");
    machine.disk.fail_read(machine.disk.reads());
    all_are_replayed(&engine, count);
    let clock = machine.clock.clone();
    machine.disk.before_reads(move |_| clock.advance(second));
    let mut has_run = false;
    let late = late.complete_in(|_| {
        has_run = true;
        Ok::<_, String>("reply")
    });
    machine.disk.before_reads(|_| {});
    let Err(CompleteInError::End(error)) = late else { panic!("{late:?}") };
    assert!(matches!(error.reason(), ClaimError::Superseded(_)), "{error}");
    assert!(!has_run, "its work ran, to be undone");
    fresh(&scope, "late").complete_in(|_| Ok::<_, String>("reply")).unwrap();
}

/// A begin of a task; whether it was replayed.
type Task = Pin<Box<dyn Future<Output = bool>>>;

fn task(scope: &Scope, n: usize) -> Task {
    let (scope, key) = (scope.clone(), format!("key {n}"));
    Box::pin(async move { matches!(scope.begin_async(key, request()).await, Ok(Begin::Done(_))) })
}

/// Polls a task until it is replayed.
fn assert_replayed_soon(mut task: Task, why: &str) {
    let until = Instant::now() + Duration::from_secs(20);
    while poll(task.as_mut()).is_pending() {
        assert!(Instant::now() < until, "{why}");
        thread::yield_now();
    }
}

/// The first key that redb's cache does not have, and a task that waits for its read, which is held.
fn held_task(scope: &Scope, count: usize, held: &HeldRead) -> (usize, Task) {
    let until = Instant::now() + Duration::from_secs(20);
    let found = (0..count).find_map(|n| {
        let mut task = task(scope, n);
        while poll(task.as_mut()).is_pending() {
            if held.held.try_recv().is_ok() {
                return Some((n, task));
            }
            assert!(Instant::now() < until, "no thread reads key {n}");
            thread::yield_now();
        }
        None
    });
    found.expect("all records are in redb's cache")
}

/// A disk may take half a minute to give a sector up. Each such read had every task's read wait.
#[test]
fn slow_reads_of_a_few_tasks_hold_up_no_other_task() {
    const SLOW: usize = 3;
    /// More records than a block has.
    const BLOCK: usize = 20;
    let machine = Machine::default();
    let (engine, count) = opened_with_results_on_disk(&machine);
    let scope = default_scope(&engine);
    let held = HeldRead::each_of(&machine, 0..SLOW);
    let mut tasks: Vec<_> = (0..count).map(|n| task(&scope, n)).collect();
    let is_waiting = |task: &mut Task| match poll(task.as_mut()) {
        Poll::Ready(is_replayed) => !is_replayed,
        Poll::Pending => true,
    };
    tasks.retain_mut(is_waiting);
    (0..SLOW).for_each(|_| held.wait());
    // A task that wants a record of one of these blocks waits, too.
    let until = Instant::now() + Duration::from_secs(20);
    while tasks.len() > SLOW * BLOCK {
        assert!(Instant::now() < until, "{} tasks wait for {SLOW} reads", tasks.len());
        thread::yield_now();
        tasks.retain_mut(is_waiting);
    }
    drop(held);
    assert!(tasks.into_iter().all(block_on));
    engine.close().unwrap();
}

/// A task that comes while another's read is slow is spared it, too, though nothing waited before.
#[test]
fn a_slow_read_holds_up_no_task_that_comes_later() {
    let machine = Machine::default();
    let (engine, count) = opened_with_results_on_disk(&machine);
    let scope = default_scope(&engine);
    let held = HeldRead::nth(&machine, 0);
    let (n, mut first) = held_task(&scope, count, &held);
    // Of another block.
    assert_replayed_soon(task(&scope, (n + count / 2) % count), "it waits for the read of another block");
    assert!(poll(first.as_mut()).is_pending());
    drop(held);
    assert!(block_on(first));
    engine.close().unwrap();
}

/// Requests for a block under a bad sector took all places: those of clients that try again and again,
/// and give up. All threads but one slept.
#[test]
fn more_requests_for_a_slow_block_than_may_wait_hold_up_no_task_that_wants_another() {
    let machine = Machine::default();
    let (engine, count) = opened_with_results_on_disk(&machine);
    let scope = default_scope(&engine);
    let held = HeldRead::nth(&machine, 0);
    let (n, first) = held_task(&scope, count, &held);
    let mut again: Vec<_> = (0..2_000).map(|_| task(&scope, n)).collect();
    for again in &mut again {
        assert!(poll(again.as_mut()).is_pending());
    }
    let waits = again.split_off(1_900);
    drop(again);
    assert_replayed_soon(task(&scope, (n + count / 2) % count), "it waits for a place");
    drop(held);
    assert!(waits.into_iter().chain([first]).all(block_on));
    engine.close().unwrap();
}
