//! Leases: renewed, over, superseded.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use crate::common::{Machine, done, fresh, poll, ready, request, run};
use crate::helpers::{Count, Gap, LEASE, MS, jobs, note, pending, superseded};
use idemkv::{Begin, Claim, ClaimError, Status, Waited};

#[test]
fn a_renewed_claim_is_good_for_another_lease_each_time() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    for _ in 0..5 {
        machine.clock.advance(LEASE - MS);
        engine.step();
        claim.renew().unwrap();
        drop(pending(&scope, "key"));
    }
    machine.clock.advance(LEASE - MS);
    assert_eq!(claim.complete("reply").unwrap().attempt(), 1);
}

#[test]
fn a_superseded_claim_whose_keys_record_can_not_be_read_is_not_told_that_the_key_is_vacant() {
    let machine = Machine::rerun();
    let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(LEASE);
    fresh(&scope, "key").complete("in time").unwrap();
    engine.checkpoint().unwrap();
    // It is on disk alone now, and nothing is read any more.
    engine.close().unwrap();
    let refused = claim.complete("late").unwrap_err();
    let status = superseded(refused.reason());
    assert!(matches!(status, Status::Unreadable(_)), "{status}");
}

#[test]
fn whatever_a_superseded_claim_asks_for_is_refused_with_what_became_of_its_key() {
    type Late = fn(Claim) -> ClaimError;
    let calls: [(&str, Late); 6] = [
        ("complete", |claim| claim.complete("late").unwrap_err().reason().clone()),
        ("fail", |claim| claim.fail("late").unwrap_err().reason().clone()),
        ("release", |claim| claim.release().unwrap_err().reason().clone()),
        ("save_progress", |mut claim| claim.save_progress("late").unwrap_err()),
        ("renew", |claim| claim.renew().unwrap_err()),
        ("token", |claim| claim.into_token().unwrap_err().reason().clone()),
    ];
    for (name, late) in calls {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let keys = ["interrupted", "taken", "done", "vacant"];
        let claims = keys.map(|key| fresh(&scope, key));
        machine.clock.advance(LEASE);
        let taken = fresh(&scope, "taken");
        fresh(&scope, "done").complete("in time").unwrap();
        fresh(&scope, "vacant").release().unwrap();
        assert!(scope.forget("vacant").unwrap());
        let told = claims.map(late);
        assert!(matches!(superseded(&told[0]), Status::Interrupted(info) if info.attempt() == 1), "{name}");
        assert!(matches!(superseded(&told[1]), Status::InFlight(info) if info.attempt() == 2), "{name}");
        assert!(matches!(superseded(&told[2]), Status::Done(it) if it.body() == b"in time"), "{name}");
        assert!(matches!(superseded(&told[3]), Status::Vacant), "{name}");
        taken.complete("in time").unwrap();
        assert_eq!(done(&scope, "taken").body(), b"in time", "{name}");
        assert_eq!(fresh(&scope, "interrupted").attempt(), 2, "{name}");
        assert_eq!(engine.stats().in_flight, 0, "{name}");
    }
}

#[test]
fn of_two_that_meet_in_one_commit_only_the_current_claim_completes() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let first = fresh(&scope, "key");
    machine.clock.advance(LEASE);
    let second = fresh(&scope, "key");
    let mut in_time = second.complete_async("second");
    let mut late = first.complete_async("first");
    assert!(poll(pin!(&mut in_time)).is_pending());
    let told = ready(pin!(&mut late)).unwrap_err();
    assert!(matches!(superseded(told.reason()), Status::InFlight(info) if info.attempt() == 2));
    engine.step();
    assert_eq!(ready(pin!(&mut in_time)).unwrap().body(), b"second");
    drop((in_time, late));
    machine.kill((engine, scope));
    assert_eq!(done(&machine.open().scope("jobs"), "key").body(), b"second");
}

#[test]
fn a_completion_handed_over_before_the_lease_ends_wins_though_its_commit_is_later() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(LEASE - MS);
    let mut complete = claim.complete_async("in time");
    machine.clock.advance(LEASE);
    let waiting = pending(&scope, "key");
    let forget = scope.forget("key");
    assert!(matches!(forget, Err(idemkv::ForgetError::InFlight)));
    engine.step();
    assert_eq!(ready(pin!(&mut complete)).unwrap().body(), b"in time");
    assert!(matches!(waiting.wait(), Ok(Waited::Done(record)) if record.body() == b"in time"));
    drop((complete, waiting));
    machine.kill((engine, scope));
    assert_eq!(done(&machine.open().scope("jobs"), "key").body(), b"in time");
}

#[test]
fn who_waits_is_woken_when_the_lease_ends_and_not_before() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    let pending = pending(&scope, "key");
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut waiting = pin!(pending.wait_async());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    machine.clock.advance(LEASE - MS);
    claim.renew().unwrap();
    for (advance, woken) in [(MS, 0), (LEASE - MS - MS, 0), (MS, 1)] {
        machine.clock.advance(advance);
        engine.step();
        assert_eq!(count.0.load(Ordering::SeqCst), woken);
    }
    assert!(matches!(ready(waiting.as_mut()), Ok(Waited::Interrupted)));
    // A thread that waits finds it at once.
    assert!(matches!(pending.wait(), Ok(Waited::Interrupted)));
    drop(claim);
}

#[test]
fn a_claim_whose_lease_ended_in_passing_counts_until_its_holder_lets_it_go() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(LEASE);
    engine.step();
    assert_eq!(engine.stats().in_flight, 1);
    drop(claim);
    assert_eq!(engine.stats().in_flight, 0);
}

#[test]
fn a_kill_interrupts_a_claim_whose_lease_lasts() {
    for gap in [Gap::Kill, Gap::CheckpointAndKill, Gap::Close] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let claim = fresh(&scope, "key");
        if let Gap::CheckpointAndKill = gap {
            engine.checkpoint().unwrap();
        }
        match gap {
            Gap::Close => assert_eq!(engine.close().unwrap().claims_left, 1),
            Gap::Nothing | Gap::Kill | Gap::CheckpointAndKill => machine.kill((engine, scope.clone())),
        }
        drop((claim, scope));
        machine.disk.restart_process();
        assert_eq!(fresh(&machine.open().scope("jobs"), "key").attempt(), 2, "{gap:?}");
    }
}

/// Progress waits in the queue until the lease is over; in memory the next claim has the key by
/// then.
#[test]
fn a_claim_overtaken_in_memory_is_no_less_durable() {
    let machine = Machine::rerun();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = jobs(&engine);
    {
        let mut first = fresh(&scope, "key");
        let mut save = Box::pin(first.save_progress_async("so far"));
        assert!(poll(save.as_mut()).is_pending());
        machine.clock.advance(LEASE);
        let mut second = Box::pin(scope.begin_async("key", request()));
        assert!(poll(second.as_mut()).is_pending());
        engine.step();
        ready(save.as_mut()).unwrap();
        engine.checkpoint().unwrap();
        machine.disk.crash_at(machine.disk.operations());
        drop((save, second));
    }
    machine.kill((engine, scope));
    let claim = fresh(&machine.open().scope("jobs"), "key");
    assert_eq!(claim.interrupted().unwrap().attempt(), 1);
    assert_eq!(note(&claim).as_deref(), Some("so far"));
}

/// The other way round: a grant that waits for a place in the queue, and comes into it after a
/// later one of its key.
#[test]
fn a_grant_overtaken_on_its_way_to_the_log_is_not_given_out() {
    let machine = Machine::rerun();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = jobs(&engine);
    // Without a lease.
    let other = engine.scope("other");
    let mut blocker = Box::pin(other.begin_async("blocker", request()));
    assert!(poll(blocker.as_mut()).is_pending());
    let mut first = Box::pin(scope.begin_async("key", request()));
    assert!(poll(first.as_mut()).is_pending());
    machine.clock.advance(LEASE);
    engine.step();
    let Ok(Begin::Fresh(blocking)) = ready(blocker.as_mut()) else { panic!("granted") };
    // There is a place now, and the second comes first.
    let second = fresh(&scope, "key");
    let Ok(Begin::InFlight(waiting)) = run(&engine, first.as_mut()) else { panic!("the second has it") };
    second.complete("second").unwrap();
    assert!(matches!(waiting.wait(), Ok(Waited::Done(_))));
    drop((blocker, first, blocking, waiting));
    drop(other);
    assert_eq!(engine.stats().in_flight, 0);
    machine.kill((engine, scope));
    assert_eq!(done(&machine.open().scope("jobs"), "key").body(), b"second");
}

#[test]
fn a_task_renews_as_a_thread_does() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    for _ in 0..3 {
        machine.clock.advance(LEASE / 2);
        run(&engine, claim.renew_async()).unwrap();
    }
    machine.clock.advance(LEASE);
    let refused = run(&engine, claim.renew_async());
    assert!(
        matches!(refused, Err(ClaimError::Superseded(status)) if matches!(*status, Status::Interrupted(_)))
    );
}
