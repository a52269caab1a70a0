//! A claim that never reached its caller leaves no trace: not in its key, not in a list, not in
//! the claims that are granted beside it.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{Machine, UNRESOLVED, default_scope, fresh, poll, ready, request, run};
use idemkv::sim::CrashKind;
use idemkv::{Begin, BeginError, Busy, Claim, Engine, Recovery, Scope, Status};

const LEASE: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);

/// A begin that is pending and is dropped, in each way in which that can be.
fn never_held(engine: &Engine, scope: &Scope, is_written: bool) {
    let mut begin = Box::pin(scope.begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    if is_written {
        engine.flush().unwrap();
    }
    drop(begin);
    engine.step();
}

#[test]
fn a_claim_that_was_never_held_does_not_shorten_the_time_of_the_interruption_before_it() {
    for is_written in [false, true] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = default_scope(&engine);
        drop(fresh(&scope, "key"));
        machine.clock.advance(UNRESOLVED.checked_sub(SECOND).unwrap());
        // The interruption is remembered anew from here on.
        fresh(&scope, "key").release().unwrap();
        machine.clock.advance(UNRESOLVED.checked_sub(SECOND).unwrap());
        never_held(&engine, &scope, is_written);
        let Ok(Status::Interrupted(lost)) = scope.get("key") else { panic!("{:?}", scope.get("key")) };
        assert_eq!(lost.attempt(), 1);
        let found = machine.options().disk(&machine.disk.image(CrashKind::DropAll)).open("x.idem").unwrap();
        let claim = fresh(&default_scope(&found), "key");
        assert_eq!(
            claim.interrupted().map(|lost| lost.attempt()),
            Some(1),
            "it would run again without a word"
        );
        machine.clock.advance(SECOND);
        assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
    }
}

#[test]
fn a_claim_that_was_never_held_leaves_the_interruption_the_time_that_it_was_promised() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let rerun = engine.policy().recovery(Recovery::Rerun);
    let scope = engine.set_policy("scope", rerun.unresolved_forever()).unwrap();
    drop(fresh(&scope, "key"));
    engine.set_policy("scope", rerun.unresolved_ttl(SECOND)).unwrap();
    never_held(&engine, &scope, true);
    machine.clock.advance(1_000 * UNRESOLVED);
    engine.step();
    let Ok(Status::Interrupted(_)) = scope.get("key") else { panic!("{:?}", scope.get("key")) };
}

type Batch<'a> = Pin<Box<dyn Future<Output = Vec<Result<Begin, BeginError>>> + 'a>>;

fn batch<'a>(scope: &'a Scope, requests: &'a [(&'a str, idemkv::Fingerprint)]) -> Batch<'a> {
    let mut batch: Batch<'a> = Box::pin(scope.begin_many_async(requests));
    assert!(poll(batch.as_mut()).is_pending());
    batch
}

/// One of its claims was withdrawn, so the batch begins that key again. Its other claims are on
/// their way meanwhile.
#[test]
fn a_batch_that_is_dropped_while_it_begins_a_key_again_interrupts_none() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let requests = [("a", request()), ("b", request())];
    let mut dropped = batch(&jobs, &requests);
    engine.flush().unwrap();
    machine.clock.advance(LEASE);
    // It finds the lease of one claim over, and has it withdrawn.
    let mut other = Box::pin(jobs.begin_async("a", request()));
    let found = ready(other.as_mut());
    assert!(matches!(found, Ok(Begin::InFlight(_))), "{found:?}");
    assert!(poll(dropped.as_mut()).is_pending());
    drop(dropped);
    engine.step();
    engine.step();
    for key in ["a", "b"] {
        assert!(matches!(jobs.get(key), Ok(Status::Vacant)), "{key}: {:?}", jobs.get(key));
    }
    assert_eq!(engine.stats().in_flight, 0);
}

#[test]
fn a_batch_whose_claims_were_withdrawn_begins_them_again_and_has_all_at_once() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let requests = [("a", request()), ("b", request()), ("a", request())];
    let again = batch(&jobs, &requests);
    engine.flush().unwrap();
    machine.clock.advance(LEASE);
    engine.step();
    let answers = run(&engine, again);
    let [Ok(Begin::Fresh(a)), Ok(Begin::Fresh(b)), Err(BeginError::DuplicateInBatch { first: 0 })] =
        &answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!((a.attempt(), b.attempt()), (1, 1));
    assert!(a.renew().is_ok() && b.renew().is_ok(), "their leases had run out before the caller had them");
}

#[test]
fn a_claim_on_its_way_is_in_no_list_of_interrupted_keys() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let mut begin = pin!(jobs.begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    machine.clock.advance(LEASE);
    assert!(matches!(jobs.get("key"), Ok(Status::InFlight(_))));
    assert_eq!(engine.interrupted().get().unwrap().len(), 0);
    assert_eq!(engine.in_flight().get().unwrap().len(), 1);
    assert_eq!(engine.stats().interrupted_longest, Duration::ZERO);
    let answer = run(&engine, begin);
    let is_right = matches!(answer, Ok(Begin::Fresh(_)) | Err(BeginError::Busy(Busy::LeaseTooShort { .. })));
    assert!(is_right, "{answer:?}");
}

/// A sync takes longer than the lease, and the thread that looks for leases has not come yet.
fn once_slower_than_the_lease(machine: &Machine) {
    let (clock, is_slow) = (machine.clock.clone(), AtomicBool::new(true));
    machine.disk.before_syncs(move |_| {
        if is_slow.swap(false, Ordering::SeqCst) {
            clock.advance(LEASE);
        }
    });
}

fn first_and_good(claim: &Claim) {
    assert_eq!((claim.attempt(), claim.interrupted().is_none()), (1, true));
    let renewed = claim.renew();
    assert!(renewed.is_ok(), "the lease was over before the caller had the claim: {renewed:?}");
}

#[test]
fn a_thread_gets_no_claim_whose_lease_is_over() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    once_slower_than_the_lease(&machine);
    first_and_good(&fresh(&jobs, "key"));
    assert_eq!(engine.stats().lease_expired, 0);
}

#[test]
fn a_task_gets_no_claim_whose_lease_is_over() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let mut begin = pin!(jobs.begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    engine.flush().unwrap();
    machine.clock.advance(LEASE);
    let answer = run(&engine, begin);
    let Ok(Begin::Fresh(claim)) = answer else { panic!("{answer:?}") };
    first_and_good(&claim);
}

#[test]
fn a_batch_has_no_claim_whose_lease_is_over() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    once_slower_than_the_lease(&machine);
    let answers = jobs.begin_many(&[("a", request()), ("b", request())]);
    let [Ok(Begin::Fresh(a)), Ok(Begin::Fresh(b))] = &answers[..] else { panic!("{answers:?}") };
    first_and_good(a);
    first_and_good(b);
}

#[test]
fn a_resolver_gets_no_claim_whose_lease_is_over() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    drop(fresh(&jobs, "key"));
    once_slower_than_the_lease(&machine);
    let claim = jobs.resolve("key").unwrap();
    assert!(claim.renew().is_ok(), "the lease was over before the caller had the claim");
    assert_eq!(claim.attempt(), 2);
}

/// A begin whose client hung up, and whose grant is not yet taken back on the disk.
fn hung_up(engine: &Engine, scope: &Scope) {
    let mut begin = Box::pin(scope.begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    engine.flush().unwrap();
    drop(begin);
}

#[test]
fn while_a_grant_is_taken_back_its_key_is_shown_as_it_was_before() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    hung_up(&engine, &scope);
    let Ok(Status::Interrupted(lost)) = scope.get("key") else { panic!("{:?}", scope.get("key")) };
    assert_eq!(lost.attempt(), 1, "nobody has had the second");
    let listed = engine.interrupted().get().unwrap();
    assert_eq!((listed.len(), engine.in_flight().get().unwrap().len()), (1, 0));
    assert_eq!(engine.stats().in_flight, 0);
}

#[test]
fn a_key_whose_grant_is_taken_back_can_be_resolved_and_forgotten() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    hung_up(&engine, &scope);
    let resolver = scope.resolve("key").unwrap();
    assert_eq!(resolver.interrupted().map(|lost| lost.attempt()), Some(1));
    drop(resolver);
    hung_up(&engine, &scope);
    assert!(scope.forget("key").unwrap());
    hung_up(&engine, &scope);
    assert!(!scope.forget("key").unwrap(), "it was vacant");
    assert!(matches!(scope.get("key"), Ok(Status::Vacant)));
}

/// The forgetting, or the resolution, itself finds the lease over, and takes the grant back.
#[test]
fn a_grant_that_lapsed_on_its_way_hinders_neither_a_resolution_nor_a_forgetting() {
    let machine = Machine::default();
    let engine = machine.open();
    let rerun = engine.policy().recovery(Recovery::Rerun).lease(LEASE);
    let jobs = engine.set_policy("jobs", rerun).unwrap();
    for resolves in [true, false] {
        drop(fresh(&jobs, "key"));
        let mut late = pin!(jobs.begin_async("key", request()));
        assert!(poll(late.as_mut()).is_pending());
        engine.flush().unwrap();
        machine.clock.advance(LEASE);
        if resolves {
            jobs.resolve("key").unwrap().release().unwrap();
        } else {
            assert!(jobs.forget("key").unwrap());
        }
    }
}
