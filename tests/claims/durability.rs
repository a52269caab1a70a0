//! What each class of durability promises.

use std::time::Duration;

use crate::common::{Machine, done, fresh, request, run};
use crate::helpers::{LEASE, MS, pending, rerun, with};
use idemkv::{Begin, Durability, Engine, Status, Waited};

#[test]
fn a_relaxed_result_is_seen_by_others_once_it_is_flushed() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let relaxed = rerun(&engine).durability(Durability::Relaxed(Duration::from_secs(60)));
    let scope = with(&engine, "scope", relaxed);
    let commits = engine.stats().commits;
    let record = fresh(&scope, "key").complete("reply").unwrap();
    let task = run(&engine, fresh(&scope, "task").complete_async("reply")).unwrap();
    assert!(!record.is_durable() && !task.is_durable());
    assert_eq!(engine.stats().commits, commits);
    let waiting = pending(&scope, "key");
    engine.flush().unwrap();
    assert!(record.is_durable() && task.is_durable());
    assert_eq!(engine.stats().commits, commits + 1);
    assert!(matches!(waiting.wait(), Ok(Waited::Done(_))));
    let stepped = fresh(&scope, "stepped").complete("reply").unwrap();
    engine.step();
    assert!(stepped.is_durable());
    run(&engine, engine.flush_async()).unwrap();
    fresh(&scope, "forgotten").complete("reply").unwrap();
    drop(waiting);
    machine.kill((engine, scope));
    let engine = machine.open();
    let scope = engine.scope("scope");
    assert_eq!(done(&scope, "key").body(), b"reply");
    let claim = fresh(&scope, "forgotten");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
}

#[test]
fn a_relaxed_result_is_flushed_by_closing() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let relaxed = rerun(&engine).durability(Durability::Relaxed(Duration::from_secs(60)));
    let scope = with(&engine, "scope", relaxed);
    fresh(&scope, "key").complete("reply").unwrap();
    engine.close().unwrap();
    drop(scope);
    done(&machine.open().scope("scope"), "key");
}

#[test]
fn each_durability_leaves_what_it_promises_after_a_kill() {
    let classes = [Durability::Full, Durability::Completions, Durability::Relaxed(LEASE)];
    for durability in classes {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = with(&engine, "scope", rerun(&engine).durability(durability));
        let out = fresh(&scope, "out");
        fresh(&scope, "done").complete("reply").unwrap();
        machine.kill((engine, scope, out));
        let engine = machine.open();
        let scope = engine.scope("scope");
        let (out, ended) = (scope.get("out").unwrap(), scope.get("done").unwrap());
        assert_eq!(matches!(out, Status::Interrupted(_)), durability == Durability::Full, "{out:?}");
        assert_eq!(
            matches!(ended, Status::Vacant),
            matches!(durability, Durability::Relaxed(_)),
            "{ended:?}"
        );
    }
}

#[test]
fn a_real_engine_flushes_relaxed_results_within_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    let relaxed = rerun(&engine).durability(Durability::Relaxed(MS));
    let scope = with(&engine, "scope", relaxed);
    for n in 0..20 {
        let key = format!("key {n}");
        fresh(&scope, &key).complete("reply").unwrap();
        // Without anybody else's commit, this ends only if the engine's own thread leads.
        if let Begin::InFlight(pending) = scope.begin(&key, request()).unwrap() {
            assert!(matches!(pending.wait(), Ok(Waited::Done(_))));
        }
    }
}
