//! Blocks that come back, because the commit that was to drop them failed.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::Poll;
use std::time::Duration;

use crate::common::{Machine, done, fresh, poll, request};
use idemkv::sim::DiskFault;
use idemkv::{Begin, Engine, Policy, Scope, Status, Verify};

pub const DAY: Duration = Duration::from_secs(86_400);

/// Two groups of small blocks, each of which one checkpoint merges, and more than redb keeps in
/// memory.
pub fn two_groups(machine: &Machine) -> Engine {
    let open = || machine.options().cache_bytes(0).verify(Verify::UpTo(0)).open("x.idem").unwrap();
    let engine = open();
    let scope = |name, days| engine.set_policy(name, Policy::default().ttl(DAY * days)).unwrap();
    let (first, second, bulk) = (scope("first", 1), scope("second", 30), scope("bulk", 90));
    for n in 0..800 {
        fresh(&bulk, &n.to_string()).complete("charged ".repeat(500)).unwrap();
        if n % 40 == 39 {
            engine.checkpoint().unwrap();
        }
    }
    for n in 0..16 {
        for scope in [&first, &second] {
            fresh(scope, &n.to_string()).complete("charged ".repeat(400)).unwrap();
        }
        engine.checkpoint().unwrap();
        machine.clock.advance(Duration::from_millis(10));
    }
    drop((first, second, bulk));
    machine.kill(engine);
    open()
}

/// A task's read of a record finds its block gone, for a checkpoint that fails then. The task
/// goes on after the next checkpoint, which succeeds.
fn retry_meanwhile(fail: impl FnOnce(&Machine, &Engine)) {
    let machine = Machine::default();
    let engine = two_groups(&machine);
    let scope: Scope = engine.scope("first");
    let armed = Arc::new(AtomicBool::new(false));
    let (is_committing, committing) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let (may_go, arm) = (std::sync::Mutex::new(may_go), Arc::clone(&armed));
    machine.disk.before_syncs(move |name| {
        if name == "x.idem" && arm.swap(false, Ordering::SeqCst) {
            is_committing.send(()).unwrap();
            // The other side is dropped.
            may_go.lock().unwrap().recv().unwrap_err();
        }
    });
    let mut retry = pin!(scope.begin_async("3", request()));
    assert!(poll(retry.as_mut()).is_pending());
    armed.store(true, Ordering::SeqCst);
    std::thread::scope(|threads| {
        let checkpoint = threads.spawn(|| engine.checkpoint());
        committing.recv().unwrap();
        // What the engine's reading thread does.
        engine.step();
        fail(&machine, &engine);
        drop(go);
        if checkpoint.join().unwrap().is_err() {
            engine.checkpoint().unwrap();
        }
    });
    machine.disk.before_syncs(|_| {});
    let answer = loop {
        match poll(retry.as_mut()) {
            Poll::Ready(answer) => break answer.unwrap(),
            Poll::Pending => drop(engine.step()),
        }
    };
    let Begin::Done(record) = answer else { panic!("{answer:?}") };
    assert_eq!(record.body(), "charged ".repeat(400).as_bytes());
    assert!(matches!(scope.get("3"), Ok(Status::Done(_))));
    drop(done(&engine.scope("second"), "3"));
}

#[test]
fn a_record_whose_block_is_on_its_way_out_is_replayed() {
    retry_meanwhile(|_, _| ());
}

/// It was granted again: a result that was acknowledged ran a second time.
#[test]
fn a_record_whose_block_was_gone_until_a_full_disk_was_met_is_replayed() {
    retry_meanwhile(|machine, _| machine.disk.fault_at(machine.disk.operations() + 1, DiskFault::Full));
}

#[test]
fn a_record_whose_block_was_gone_until_somebody_elses_read_failed_is_replayed() {
    retry_meanwhile(|machine, engine| {
        (0..2).for_each(|_| machine.disk.fail_read(machine.disk.reads()));
        for n in 0..800 {
            assert!(engine.scope("bulk").get(n.to_string()).is_ok());
        }
    });
}
