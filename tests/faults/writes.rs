//! Writes and syncs that fail, and power cuts: what is durable is replayed, and nothing more is
//! granted.

use std::path::Path;
use std::pin::pin;
use std::task::Poll;

use crate::common::{Machine, TTL, default_scope, done, fresh, poll, request, small};
use crate::helpers::claims_until_refused;
use idemkv::sim::{CrashKind, DiskFault, SimDisk};
use idemkv::{Begin, BeginError, ClaimError, CommitError, CommitMode, Durability, Engine, Status};

#[test]
fn after_a_failed_commit_nothing_is_granted_and_what_is_durable_is_still_replayed() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("reply").unwrap();
    let (first, second) = (fresh(&scope, "first"), fresh(&scope, "second"));
    let Ok(Begin::InFlight(pending)) = scope.begin("second", request()) else { panic!("it is out") };

    machine.disk.fail_syncs(Some("-wal"));
    let error = first.complete("unknown").unwrap_err();
    assert!(matches!(error.reason(), ClaimError::Commit(CommitError::Failed(_))), "{error}");
    assert!(error.into_claim().is_none());
    machine.disk.fail_syncs(None);

    assert_eq!(done(&scope, "done").body(), b"reply");
    assert!(matches!(scope.begin("new", request()), Err(BeginError::Failed(_))));
    assert!(matches!(scope.begin("first", request()), Err(BeginError::Failed(_))));
    assert!(
        !matches!(engine.default_scope().get("first").unwrap(), Status::Vacant),
        "nobody knows whether it is done"
    );
    assert!(matches!(pending.wait(), Err(BeginError::Failed(_))), "every waiter gets the error");
    assert!(second.complete("too late").is_err());
    assert!(engine.clone().close().is_err(), "close reports it");
}

#[test]
fn what_is_not_forgotten_because_a_commit_failed_is_still_replayed() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("reply").unwrap();
    let claim = fresh(&scope, "key");
    machine.disk.fail_syncs(Some("-wal"));
    assert!(claim.complete("unknown").is_err());
    assert!(scope.forget("done").is_err());
    assert_eq!(done(&scope, "done").body(), b"reply");
}

/// The page cache shows what a failed sync lost: a reopening in the same boot must not show it as
/// done, unless it made it durable first; a power cut after that must not take it back.
#[test]
fn a_failed_sync_and_a_reopening_in_the_same_boot_lose_and_invent_nothing() {
    for reboots in [CrashKind::DropAll, CrashKind::KeepAll, CrashKind::Torn(3)] {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        fresh(&scope, "done").complete("reply").unwrap();
        let claim = fresh(&scope, "key");
        machine.disk.fail_syncs(Some("-wal"));
        assert!(claim.complete("unknown").is_err());
        machine.disk.fail_syncs(None);
        drop((scope, engine));
        machine.disk.restart_process();

        let engine = machine.open();
        let seen = engine.default_scope().get("key").unwrap();
        machine.disk.crash_at(machine.disk.operations());
        drop(engine);
        machine.disk.reboot(reboots);

        let engine = machine.open();
        assert_eq!(done(&default_scope(&engine), "done").body(), b"reply");
        match (seen, engine.default_scope().get("key").unwrap()) {
            (Status::Done(before), Status::Done(after)) => assert_eq!(before.body(), after.body()),
            (Status::Interrupted(_), Status::Interrupted(_)) => {}
            (before, after) => panic!("{reboots:?}: it was {before:?}, and is {after:?}"),
        }
    }
}

/// The same for the length of a log that has grown: the page cache shows that, too.
#[test]
fn a_log_whose_growth_was_never_synced_is_not_missed_after_a_power_cut() {
    for (fails, reboots) in [
        (false, CrashKind::DropAll),
        (true, CrashKind::DropAll),
        (true, CrashKind::KeepAll),
        (true, CrashKind::Torn(3)),
    ] {
        let machine = Machine::default();
        let len = || machine.disk.read(Path::new("x.idem-wal")).map_or(0, |bytes| bytes.len());
        let engine = machine.options().stepped().open("x.idem").unwrap();
        let scope = default_scope(&engine);
        fresh(&scope, "done").complete("reply").unwrap();
        let (first, mut claims) = (len(), Vec::new());
        while len() == first {
            claims.push(fresh(&scope, &format!("key {}", claims.len())));
            engine.step();
        }
        if fails {
            machine.disk.fail_syncs(Some("-wal"));
        }
        assert_eq!(claims.pop().unwrap().complete("unknown").is_err(), fails);
        machine.disk.fail_syncs(None);
        assert_eq!(engine.checkpoint().is_err(), fails, "a failed engine says so");
        machine.disk.crash_at(machine.disk.operations());
        drop((claims, scope, engine));
        machine.disk.restart_process();

        let engine = machine.options().stepped().open("x.idem").unwrap();
        fresh(&default_scope(&engine), "after").complete("acknowledged").unwrap();
        machine.disk.crash_at(machine.disk.operations());
        drop(engine);
        machine.disk.reboot(reboots);

        let engine = machine.open();
        for (key, reply) in [("done", &b"reply"[..]), ("after", b"acknowledged")] {
            assert_eq!(done(&default_scope(&engine), key).body(), reply, "{fails} {reboots:?}");
        }
    }
}

/// The name of a new log is in memory alone until its directory is synced.
#[test]
fn an_opening_after_one_that_was_killed_anywhere_keeps_what_it_acknowledges_through_a_power_cut() {
    for at in 0.. {
        let machine = Machine::default();
        // Its log is made anew, in place of the old one.
        let next = || machine.options().log_segment_bytes(128 << 10).open("x.idem");
        let engine = machine.open();
        fresh(&default_scope(&engine), "done").complete("reply").unwrap();
        machine.kill(engine);
        machine.disk.crash_at(machine.disk.operations() + at);
        let opened = next();
        let is_over = opened.is_ok();
        machine.kill(opened);
        let engine = next().unwrap();
        fresh(&default_scope(&engine), "after").complete("acknowledged").unwrap();
        machine.kill(engine);
        for kind in [CrashKind::DropAll, CrashKind::KeepAll, CrashKind::Torn(at)] {
            let disk = machine.disk.image(kind);
            let found = machine.options().disk(&disk).open("x.idem");
            let found = found.unwrap_or_else(|error| panic!("killed at {at}, {kind:?}: {error}"));
            for (key, reply) in [("done", &b"reply"[..]), ("after", b"acknowledged")] {
                assert_eq!(done(&default_scope(&found), key).body(), reply, "killed at {at}, {kind:?}");
            }
        }
        if is_over {
            assert!(at > 20, "{at} operations");
            break;
        }
    }
}

/// The next opening takes nothing for durable because it reads it: what a sync failed to make so
/// may be in memory alone.
#[test]
fn an_opening_after_one_that_failed_anywhere_leaves_a_file_that_a_power_cut_does_not_close_for_good() {
    let mut failed = 0;
    for fault in [DiskFault::Error, DiskFault::Late] {
        for at in 0.. {
            let machine = Machine::default();
            let engine = machine.open();
            fresh(&default_scope(&engine), "done").complete("reply").unwrap();
            engine.close().unwrap();
            let before = machine.disk.operations();
            machine.disk.fault_at(before + at, fault);
            let opened = machine.options().open("x.idem");
            if opened.is_ok() && machine.disk.operations() <= before + at {
                break;
            }
            failed += usize::from(opened.is_err());
            machine.kill(opened);
            machine.disk.mend();
            let again = machine.open();
            for kind in [CrashKind::DropAll, CrashKind::KeepAll, CrashKind::Torn(at)] {
                let disk = machine.disk.image(kind);
                let found = machine.options().disk(&disk).open("x.idem");
                let found = found.unwrap_or_else(|error| panic!("{fault:?} at {at}, {kind:?}: {error}"));
                assert_eq!(done(&default_scope(&found), "done").body(), b"reply");
            }
            drop(again);
        }
    }
    assert!(failed > 8, "only {failed} openings failed");
}

/// Without syncs a power cut leaves any part of the log, gaps and all: what comes back is true,
/// and the file goes on working.
#[test]
fn a_power_cut_without_syncs_leaves_a_file_that_opens_with_true_records_only() {
    let mut lost = 0;
    for seed in 0..40 {
        let machine = Machine::default();
        let options = || machine.options().commit_mode(CommitMode::Buffered);
        let engine = options().open("x.idem").unwrap();
        let scope = default_scope(&engine);
        for n in 0..90 {
            fresh(&scope, &format!("key {n}")).complete(format!("reply {n}")).unwrap();
        }
        machine.disk.crash_at(machine.disk.operations());
        drop((engine, scope));
        machine.disk.reboot(CrashKind::Torn(seed));
        // Openings that commit nothing: what lies behind a gap must stay history for the next one
        // too.
        options().open("x.idem").unwrap().close().unwrap();
        options().open("x.idem").unwrap().close().unwrap();
        for round in 0..2 {
            let engine = options().open("x.idem").unwrap();
            let scope = default_scope(&engine);
            for n in 0..90 {
                match scope.get(format!("key {n}")).unwrap() {
                    Status::Done(record) => assert_eq!(record.body(), format!("reply {n}").as_bytes()),
                    Status::Vacant | Status::Interrupted(_) => lost += 1,
                    Status::InFlight(_) | Status::Expired(_) | _ => {
                        panic!("key {n} was completed a moment ago")
                    }
                }
            }
            fresh(&scope, &format!("round {round}")).complete("reply").unwrap();
            machine.kill((engine, scope));
        }
        let engine = options().open("x.idem").unwrap();
        done(&default_scope(&engine), "round 0");
        done(&default_scope(&engine), "round 1");
    }
    assert!(lost > 0, "no power cut lost anything: this tests nothing");
}

#[test]
fn a_closed_engine_does_not_touch_its_file_again() {
    let machine = Machine::default();
    let engine = machine.open();
    fresh(&default_scope(&engine), "key").complete("reply").unwrap();
    machine.disk.set_capacity(Some(machine.disk.used()));
    assert!(engine.checkpoint().is_err() || machine.disk.used() > 0);
    machine.disk.set_capacity(None);
    engine.clone().close().unwrap();
    let other = machine.open();
    let before = machine.disk.operations();
    engine.checkpoint().unwrap();
    engine.step();
    assert_eq!(engine.clone().close().unwrap().claims_left, 0);
    assert_eq!(machine.disk.operations(), before);
    done(&default_scope(&other), "key");
}

#[test]
fn a_failed_checkpoint_stops_grants_but_not_completions() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    machine.disk.fail_syncs(Some(".idem"));
    assert!(engine.checkpoint().is_err());
    machine.disk.fail_syncs(None);
    claim.complete("reply").unwrap();
    assert!(matches!(scope.begin("new", request()), Err(BeginError::Failed(_))));
    drop(scope);
    assert!(engine.close().is_err());
    machine.disk.reboot(CrashKind::DropAll);
    assert_eq!(done(&default_scope(&machine.open()), "key").body(), b"reply");
}

/// With threads: the worker makes the log longer while the claims wait.
#[test]
fn after_a_failed_checkpoint_the_log_grows_for_results_that_are_longer_than_was_reserved() {
    for _ in 0..5 {
        let disk = SimDisk::new();
        let options = small(Engine::options()).reserve_bytes(0).log_bytes(16 << 20);
        let engine = options.disk(&disk).open("x.idem").unwrap();
        let scope = default_scope(&engine);
        let claims: Vec<_> = (0..300).map(|n| fresh(&scope, &n.to_string())).collect();
        disk.fail_syncs(Some(".idem"));
        assert!(engine.checkpoint().is_err());
        for claim in claims {
            claim.complete(vec![7; 4_000]).unwrap();
        }
    }
}

/// The claims are told of the failure and not that the queue is full, and no later one finds a log
/// that was made longer all the same.
#[test]
fn after_a_failed_checkpoint_an_error_of_any_operation_refuses_results_for_good() {
    let mut failed = 0;
    for at in 0.. {
        let machine = Machine::default();
        let engine = machine.options().reserve_bytes(0).log_bytes(16 << 20).open("x.idem").unwrap();
        let claims: Vec<_> = (0..60).map(|n| fresh(&default_scope(&engine), &n.to_string())).collect();
        machine.disk.fail_syncs(Some(".idem"));
        assert!(engine.checkpoint().is_err());
        machine.disk.fail_syncs(None);
        let before = machine.disk.operations();
        machine.disk.fault_at(before + at, DiskFault::Error);
        let ended: Vec<_> = claims.into_iter().map(|claim| claim.complete(vec![7; 4_000])).collect();
        let Some(first) = ended.iter().position(Result::is_err) else {
            if machine.disk.operations() <= before + at {
                break;
            }
            // The log was to be longer than anybody needed.
            continue;
        };
        for error in ended.into_iter().skip(first).map(Result::unwrap_err) {
            let is_told = matches!(error.reason(), ClaimError::Commit(CommitError::Failed(_)));
            assert!(is_told, "operation {at}: {error}");
        }
        failed += 1;
    }
    assert!(failed > 60, "{failed} operations");
}

/// A begin waits for log space. Then a sync of the log, or of the store, fails, and claims that
/// end give their space to it.
fn granted_after_a_failure_that_came_while_it_waited(durability: Durability, file: &str) {
    let machine = Machine::rerun();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().durability(durability)).unwrap();
    let (mut claims, _) = claims_until_refused(&engine);
    let batch = [("in a batch", request())];
    let mut waits = pin!(jobs.begin_async("waits", request()));
    let mut batch = pin!(jobs.begin_many_async(&batch));
    assert!(
        poll(waits.as_mut()).is_pending() && poll(batch.as_mut()).is_ready(),
        "batches do not wait for claims"
    );
    engine.step();
    assert!(poll(waits.as_mut()).is_pending(), "there is no space");

    machine.disk.fail_syncs(Some(file));
    // Whichever comes first meets the failure.
    assert!(engine.checkpoint().is_err() | claims.pop().unwrap().complete("reply").is_err());
    assert!(engine.stats().has_failed);
    drop(claims);
    for _ in 0..3 {
        if let Poll::Ready(answer) = poll(waits.as_mut()) {
            assert!(matches!(answer, Err(BeginError::Failed(_))), "{durability:?}, {file}: {answer:?}");
            return;
        }
        engine.step();
    }
    panic!("{durability:?}, {file}: it waits on");
}

#[test]
fn a_begin_that_waited_for_log_space_is_not_granted_after_a_failure() {
    for durability in [Durability::Full, Durability::Completions] {
        for file in ["-wal", ".idem"] {
            granted_after_a_failure_that_came_while_it_waited(durability, file);
        }
    }
}

#[test]
fn the_log_does_not_grow_behind_a_failed_commit() {
    for fails in [false, true] {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        let claims: Vec<_> = (0..15).map(|n| fresh(&scope, &n.to_string())).collect();
        let before = engine.stats().log_bytes;
        if fails {
            machine.disk.fail_syncs(Some("-wal"));
            assert!(scope.begin("key", request()).is_err());
            machine.disk.fail_syncs(None);
        }
        // The second finds the engine idle.
        engine.step();
        engine.step();
        assert_eq!(engine.stats().log_bytes == before, fails, "with less than a segment left it grows");
        drop(claims);
    }
}

/// What an observer is told of happens in the middle of a step.
struct Closes(std::sync::Mutex<Option<Engine>>);

impl idemkv::Observer for Closes {
    fn event(&self, event: &idemkv::Event<'_>) {
        if event.name() != "interrupted" {
            return;
        }
        let engine = self.0.lock().unwrap().take();
        if let Some(engine) = engine {
            engine.close().unwrap();
        }
    }
}

#[test]
fn an_engine_closed_in_the_middle_of_a_step_does_not_touch_its_file_again() {
    let machine = Machine::default();
    let observer = std::sync::Arc::new(Closes(std::sync::Mutex::default()));
    let engine = machine.options().observer(std::sync::Arc::clone(&observer)).open("x.idem").unwrap();
    let leased = engine.set_policy("leased", engine.policy().lease(TTL)).unwrap();
    // The log is to grow, which is work that the step would do.
    let claims: Vec<_> = (0..15).map(|n| fresh(&leased, &n.to_string())).collect();
    *observer.0.lock().unwrap() = Some(engine.clone());
    machine.clock.advance(TTL);
    let before = engine.stats().log_bytes;
    assert!(!engine.step().checkpointed);
    assert!(observer.0.lock().unwrap().is_none(), "nobody was told");
    assert_eq!(machine.disk.read("x.idem-wal".as_ref()).unwrap().len() as u64, before);
    done_elsewhere(&machine);
    drop(claims);
}

/// The engine that has the file now is alone.
fn done_elsewhere(machine: &Machine) {
    let engine = machine.open();
    fresh(&default_scope(&engine), "elsewhere").complete("reply").unwrap();
    engine.close().unwrap();
    done(&default_scope(&machine.open()), "elsewhere");
}
