//! Policies of scopes: declared, remembered, changed.

use std::time::Duration;

use crate::common::{Machine, TTL, done, fresh, poll, ready};
use crate::helpers::{GAPS, LEASE, MS, pass, rerun, with};
use idemkv::{CommitError, Durability, Recovery, SetPolicyError};

#[test]
fn a_file_remembers_the_policies_of_its_scopes_and_their_changes() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let first = engine.policy().ttl(TTL / 2).lease(LEASE).recovery(Recovery::Refuse).max_in_flight(3);
        let second = rerun(&engine).durability(Durability::Relaxed(LEASE));
        with(&engine, "changed", second);
        with(&engine, "changed", first);
        with(&engine, "kept", second);
        let engine = pass(&machine, engine, gap);
        assert_eq!(engine.scope("changed").policy(), first, "{gap:?}");
        assert_eq!(engine.scope("kept").policy(), second, "{gap:?}");
        assert_eq!(engine.scope("none").policy(), engine.policy());
        with(&engine, "kept", first);
        let engine = pass(&machine, engine, gap);
        assert_eq!(engine.scope("kept").policy(), first, "{gap:?}");
        assert_eq!(engine.policies().len(), 2);
    }
}

#[test]
fn a_policy_that_is_refused_changes_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let policy = engine.policy().lease(LEASE);
    with(&engine, "scope", policy);
    let impossible = engine.set_policy("scope", policy.ttl(Duration::ZERO));
    assert!(matches!(impossible, Err(SetPolicyError::Policy(error)) if error.name() == "ttl"));
    assert!(matches!(engine.set_policy("s".repeat(256), policy), Err(SetPolicyError::Name(_))));
    machine.disk.fail_syncs(Some("-wal"));
    let failed = engine.set_policy("scope", engine.policy());
    assert!(matches!(failed, Err(SetPolicyError::Commit(CommitError::Failed(_)))));
    assert_eq!(engine.scope("scope").policy(), policy);
}

#[test]
fn a_declaration_of_a_task_holds_once_it_is_durable() {
    let machine = Machine::default();
    let engine = machine.open();
    let policy = engine.policy().lease(LEASE);
    {
        let mut declare = Box::pin(engine.set_policy_async("scope", policy));
        assert!(poll(declare.as_mut()).is_pending());
        assert_eq!(engine.scope("scope").policy(), engine.policy());
        engine.step();
        assert_eq!(ready(declare.as_mut()).unwrap().policy(), policy);
        let mut dropped = Box::pin(engine.set_policy_async("dropped", policy));
        assert!(poll(dropped.as_mut()).is_pending());
    }
    engine.step();
    machine.kill(engine);
    assert_eq!(machine.open().policies().len(), 2, "handed over, it is carried out");
}

#[test]
fn claims_and_records_keep_what_they_were_granted_under() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().ttl(TTL / 2));
    let unleased = fresh(&scope, "unleased");
    fresh(&scope, "done").complete("reply").unwrap();
    with(&engine, "scope", engine.policy().ttl(TTL * 2).lease(LEASE));
    assert_eq!(unleased.lease_until(), None);
    let leased = fresh(&scope, "leased");
    machine.clock.advance(LEASE);
    assert!(unleased.renew().is_ok() && leased.renew().is_err());
    let record = unleased.complete("reply").unwrap();
    assert_eq!(record.expires(), record.completed().saturating_add(TTL / 2));
    machine.clock.advance(TTL / 2 - LEASE - MS);
    done(&scope, "done");
    machine.clock.advance(MS);
    let again = fresh(&scope, "done").complete("reply").unwrap();
    assert_eq!(again.expires(), again.completed().saturating_add(TTL * 2));
}
