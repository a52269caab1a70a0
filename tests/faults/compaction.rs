//! Compaction: when it is left alone, and what a fault during it does.

use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh, request};
use idemkv::sim::DiskFault;
use idemkv::{BeginError, Busy, CommitError, Engine, Failure};

/// After so long without a write the engine is idle.
const IDLE: Duration = Duration::from_secs(10);

/// An engine that is idle, with a file that is mostly free; some keys in it are live.
fn wasteful(machine: &Machine) -> Engine {
    wasteful_with(machine, 0)
}

/// The same, with so many keys more that are live.
fn wasteful_with(machine: &Machine, more: usize) -> Engine {
    let engine = machine
        .options()
        .cache_bytes(0)
        .max_body_bytes(64 << 10)
        .log_segment_bytes(512 << 10)
        .log_bytes(4 << 20)
        .open("x.idem")
        .unwrap();
    let scope = default_scope(&engine);
    for n in 0..100 {
        fresh(&scope, &format!("expires {n}")).complete(vec![n; 60_000]).unwrap();
    }
    let kept = engine.set_policy("kept", engine.policy().ttl(TTL * 9)).unwrap();
    for n in 0..10 {
        fresh(&kept, &n.to_string()).complete([n; 4_000]).unwrap();
    }
    for n in 0..more {
        fresh(&kept, &format!("more {n}")).complete([7; 4_000]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL);
    engine.checkpoint().unwrap();
    engine.step();
    machine.clock.advance(IDLE);
    engine
}

#[track_caller]
fn assert_kept(engine: &Engine) {
    let kept = engine.scope("kept");
    (0..10).for_each(|n: u8| assert_eq!(done(&kept, &n.to_string()).body(), [n; 4_000]));
}

#[test]
fn a_compaction_that_fails_loses_nothing_and_stops_grants_or_is_made_up_for() {
    let machine = Machine::default();
    let engine = wasteful(&machine);
    let (full, first) = (engine.stats().file_bytes, machine.disk.operations());
    engine.step();
    let last = machine.disk.operations();
    assert!(engine.stats().file_bytes < full / 2 && last > first, "the file was compacted");
    assert_kept(&engine);
    let mut stopped = 0;
    for at in [first, first.midpoint(last), last - 1] {
        let machine = Machine::default();
        let engine = wasteful(&machine);
        assert_eq!(machine.disk.operations(), first);
        machine.disk.fault_at(at, DiskFault::Error);
        engine.step();
        assert_kept(&engine);
        match engine.default_scope().begin("new", request()) {
            Err(BeginError::Failed(_)) => stopped += 1,
            begun => drop(begun.unwrap()),
        }
        machine.kill(engine);
        let engine = machine.open();
        assert_kept(&engine);
        drop(fresh(&default_scope(&engine), "new"));
    }
    assert!(stopped > 0, "no fault mattered");
}

#[test]
fn a_file_is_not_compacted_while_tables_are_read_but_right_after() {
    let machine = Machine::default();
    let engine = wasteful(&machine);
    let stepped = || {
        let before = machine.disk.operations();
        engine.step();
        machine.disk.operations() - before
    };
    // Nobody compacts what is being read, however long that takes.
    let operations = engine.read_tables(|_| {
        std::thread::scope(|threads| threads.spawn(|| [stepped(), stepped(), stepped()]).join().unwrap())
    });
    assert_eq!(operations.unwrap(), [0, 0, 0]);
    let full = engine.stats().file_bytes;
    assert!(stepped() > 0);
    assert!(engine.stats().file_bytes < full / 2);
    assert_eq!(stepped(), 0, "there is no more to be had");
    assert_kept(&engine);
}

#[track_caller]
fn assert_left_alone(machine: &Machine, engine: &Engine) {
    let operations = machine.disk.operations();
    for _ in 0..3 {
        machine.clock.advance(IDLE);
        engine.step();
    }
    assert_eq!(machine.disk.operations(), operations);
}

#[test]
fn a_file_is_not_compacted_between_commits_nor_after_a_failed_one() {
    let machine = Machine::default();
    let engine = wasteful(&machine);
    let full = engine.stats().file_bytes;
    fresh(&engine.scope("kept"), "one more").complete("reply").unwrap();
    engine.step();
    assert_eq!(engine.stats().file_bytes, full);
    for commit_of_the_log in [true, false] {
        let machine = Machine::default();
        let engine = wasteful(&machine);
        machine.disk.fault_at(machine.disk.operations(), DiskFault::Error);
        if commit_of_the_log {
            assert!(engine.default_scope().begin("new", request()).is_err());
        } else {
            assert!(engine.checkpoint().is_err());
        }
        assert_left_alone(&machine, &engine);
    }
}

#[test]
fn an_idle_engine_leaves_a_file_alone_that_has_little_room_to_give_back() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    engine.step();
    assert_left_alone(&machine, &engine);
}

/// A compaction moves every page, one that can't be read among them, and leaves a file behind that
/// can't be opened.
#[test]
fn after_a_read_that_failed_the_file_is_not_compacted_until_it_is_opened_anew() {
    let machine = Machine::default();
    let engine = wasteful_with(&machine, 400);
    machine.disk.fail_read(machine.disk.reads());
    let kept = engine.scope("kept");
    (0..400).for_each(|n| drop(done(&kept, &format!("more {n}"))));
    assert_eq!(engine.stats().failed_reads, 1);
    // redb takes writes again from here on.
    engine.checkpoint().unwrap();
    assert_left_alone(&machine, &engine);
    let full = engine.stats().file_bytes;
    engine.close().unwrap();
    let engine = machine.open();
    for _ in 0..3 {
        machine.clock.advance(IDLE);
        engine.step();
    }
    assert!(engine.stats().file_bytes < full / 2);
    assert_kept(&engine);
}

/// Compaction reads much of the file. One read that failed stopped grants.
#[test]
fn a_read_that_fails_while_the_file_is_compacted_stops_nobody() {
    let mut failed = 0;
    for at in (0..).step_by(17) {
        let machine = Machine::default();
        let engine = wasteful_with(&machine, 400);
        let first = machine.disk.reads();
        machine.disk.fail_read(first + at);
        engine.step();
        let reads = machine.disk.reads() - first;
        machine.disk.mend();
        failed += engine.stats().failed_reads;
        assert!(!engine.stats().has_failed, "read {at} of {reads}");
        assert_kept(&engine);
        drop(fresh(&default_scope(&engine), "new").complete("reply").unwrap());
        machine.clock.advance(Duration::from_secs(1));
        engine.step();
        assert!(!engine.stats().is_file_not_ready, "read {at} of {reads}");
        machine.kill(engine);
        let engine = machine.open();
        assert_kept(&engine);
        drop(done(&default_scope(&engine), "new"));
        if at >= reads {
            break;
        }
    }
    assert!(failed > 0, "nothing was read");
}

#[test]
fn a_compaction_on_request_with_a_fault_at_any_operation_loses_nothing() {
    let machine = Machine::default();
    let engine = wasteful(&machine);
    let (full, first) = (engine.stats().file_bytes, machine.disk.operations());
    assert!(engine.compact().unwrap());
    assert!(engine.stats().file_bytes < full / 2);
    assert_kept(&engine);
    let last = machine.disk.operations();
    for at in first..last {
        let faults = [DiskFault::Error, DiskFault::Full, DiskFault::Late];
        let machine = Machine::default();
        let engine = wasteful(&machine);
        machine.disk.fault_at(at, faults[usize::try_from(at % 3).unwrap()]);
        // A fault that a retry makes up for is no error.
        drop(engine.compact());
        assert_kept(&engine);
        machine.kill(engine);
        let engine = machine.open();
        assert_kept(&engine);
        drop(fresh(&default_scope(&engine), "new"));
    }
}

#[test]
fn a_compaction_on_request_is_refused_after_a_failed_read_and_waits_for_nobody_who_reads_tables() {
    let machine = Machine::default();
    let engine = wasteful_with(&machine, 400);
    let by_others = || std::thread::scope(|threads| threads.spawn(|| engine.compact()).join().unwrap());
    let (inside, beside) = engine.read_tables(|_| (engine.compact(), by_others())).unwrap();
    assert!(matches!((inside, beside), (Ok(false), Ok(false))));
    machine.disk.fail_read(machine.disk.reads());
    let kept = engine.scope("kept");
    (0..400).for_each(|n| drop(done(&kept, &format!("more {n}"))));
    assert_eq!(engine.stats().failed_reads, 1);
    let full = engine.stats().file_bytes;
    let refused = engine.compact();
    assert!(matches!(refused, Err(CommitError::Failed(Failure::FileNotReady(_)))), "{refused:?}");
    assert_eq!(engine.stats().file_bytes, full);
    drop(kept);
    engine.clone().close().unwrap();
    assert!(engine.compact().is_err());
    let reader = machine.options().read_only().open("x.idem").unwrap();
    assert!(matches!(reader.compact(), Err(CommitError::Failed(Failure::ReadOnly))));
    drop(reader);
    let engine = machine.open();
    assert!(engine.compact().unwrap());
    assert_kept(&engine);
}

/// Its checkpoint comes first and says so, too.
#[test]
fn a_compaction_on_request_that_finds_the_disk_full_says_so() {
    let checkpointed = |machine: &Machine| {
        let engine = wasteful(machine);
        engine.checkpoint().unwrap();
        engine
    };
    let machine = Machine::default();
    let engine = checkpointed(&machine);
    let first = machine.disk.operations();
    assert!(engine.compact().unwrap());
    let last = machine.disk.operations();
    let mut told = 0;
    for at in first..last {
        let machine = Machine::default();
        let engine = checkpointed(&machine);
        machine.disk.fault_at(at, DiskFault::Full);
        let compacted = engine.compact();
        let stats = engine.stats();
        if compacted.is_err() && stats.is_disk_full && !stats.has_failed {
            let is_told = matches!(compacted, Err(CommitError::Busy(Busy::DiskFull(_))));
            assert!(is_told, "operation {}: {compacted:?}", at - first);
            told += 1;
        }
    }
    assert!(told > 0, "the disk was never full");
}
