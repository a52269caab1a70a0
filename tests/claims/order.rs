//! Who may queue what, and when: the log has the entries about a key in the order in which its
//! state changed, whatever its callers wait for meanwhile.

use std::pin::{Pin, pin};
use std::time::Duration;

use crate::common::{Machine, done, fresh, poll, ready, request, run};
use idemkv::{Begin, BeginError, Busy, Durability, Engine, Recovery, Scope, Status};

const LEASE: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(60);

type Begins<'a> = Pin<Box<dyn Future<Output = Result<Begin, BeginError>> + 'a>>;

/// A begin whose intent is queued, or waits for a place in the queue.
fn begun<'a>(scope: &'a Scope, key: &'a str) -> Begins<'a> {
    let mut begin: Begins<'a> = Box::pin(scope.begin_async(key, request()));
    assert!(poll(begin.as_mut()).is_pending());
    begin
}

fn with_lease(engine: &Engine) -> Scope {
    engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap()
}

/// Lets the lease of every claim run out, and the worker find it.
fn lapse(machine: &Machine, engine: &Engine) {
    machine.clock.advance(LEASE);
    engine.step();
    engine.step();
}

#[test]
fn a_begin_that_is_dropped_after_its_lease_leaves_its_key_as_it_was() {
    for is_written in [false, true] {
        let machine = Machine::default();
        let engine = machine.open();
        let jobs = with_lease(&engine);
        let begin = begun(&jobs, "key");
        if is_written {
            engine.flush().unwrap();
        }
        lapse(&machine, &engine);
        drop(begin);
        engine.step();
        assert!(matches!(jobs.get("key"), Ok(Status::Vacant)), "{:?}", jobs.get("key"));
        assert_eq!(engine.stats().in_flight, 0);
        machine.kill((engine, jobs));
        let engine = machine.open();
        let claim = fresh(&engine.scope("jobs"), "key");
        assert_eq!((claim.attempt(), claim.interrupted().is_none()), (1, true));
    }
}

/// The caller may drop the future much later, or never.
#[test]
fn a_begin_that_nobody_polls_keeps_its_key_no_longer_than_its_lease() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = with_lease(&engine);
    let mut first = begun(&jobs, "key");
    engine.flush().unwrap();
    let pending = begin_in_flight(&jobs);
    let mut wait = pin!(pending.wait_async());
    assert!(poll(wait.as_mut()).is_pending());
    lapse(&machine, &engine);
    ready(wait.as_mut()).unwrap();
    let second = run(&engine, jobs.begin_async("key", request()));
    let Ok(Begin::Fresh(second)) = second else { panic!("{second:?}") };
    assert_eq!((second.attempt(), second.interrupted().is_none()), (1, true));
    // It looks again, and finds the claim of the other.
    assert!(matches!(ready(first.as_mut()), Ok(Begin::InFlight(_))));
    second.complete("reply").unwrap();
    assert_eq!(engine.stats().lease_expired, 0);
    assert_eq!(engine.stats().in_flight, 0);
}

/// A disk whose syncs take longer than the lease.
#[test]
fn a_lease_that_is_shorter_than_a_commit_is_told_as_that() {
    let machine = Machine::default();
    let engine = machine.options().queue_timeout(Duration::ZERO).open("x.idem").unwrap();
    let jobs = with_lease(&engine);
    let mut begin = begun(&jobs, "key");
    lapse(&machine, &engine);
    let refused = ready(begin.as_mut());
    assert!(matches!(refused, Err(BeginError::Busy(Busy::LeaseTooShort { .. }))), "{refused:?}");
    assert!(matches!(jobs.get("key"), Ok(Status::Vacant)));
    assert_eq!((engine.stats().in_flight, engine.stats().refused), (0, 1));
}

fn begin_in_flight(scope: &Scope) -> idemkv::Pending {
    match scope.begin("key", request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{other:?}"),
    }
}

/// Its own claim is the one that ends.
#[test]
fn a_begin_whose_claim_was_withdrawn_does_not_find_itself_in_flight() {
    for is_batch in [false, true] {
        let machine = Machine::default();
        let engine = machine.open();
        let jobs = with_lease(&engine);
        let mut first: Begins<'_> = Box::pin(async {
            if is_batch {
                return jobs.begin_many_async(&[("key", request())]).await.remove(0);
            }
            jobs.begin_async("key", request()).await
        });
        assert!(poll(first.as_mut()).is_pending());
        engine.flush().unwrap();
        machine.clock.advance(LEASE);
        // It finds the lease over, and the entry that takes the claim back waits to be written.
        drop(begin_in_flight(&jobs));
        let first = run(&engine, first);
        let Ok(Begin::Fresh(claim)) = first else { panic!("{first:?}") };
        assert_eq!((claim.attempt(), claim.interrupted().is_none()), (1, true));
    }
}

#[test]
fn a_begin_that_never_came_to_its_caller_is_no_attempt() {
    for has_lapsed in [false, true] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE).max_attempts(2)).unwrap();
        drop(fresh(&jobs, "key"));
        let begin = begun(&jobs, "key");
        engine.flush().unwrap();
        if has_lapsed {
            lapse(&machine, &engine);
        }
        drop(begin);
        engine.step();
        machine.kill((engine, jobs));
        let engine = machine.open();
        let claim = fresh(&engine.scope("jobs"), "key");
        assert_eq!((claim.attempt(), claim.interrupted().unwrap().attempt()), (2, 1), "{has_lapsed}");
    }
}

#[test]
fn a_begin_whose_lease_runs_out_before_it_is_queued_is_no_attempt() {
    let machine = Machine::rerun();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE).max_attempts(2)).unwrap();
    let other = begun(&jobs, "other");
    let mut first = begun(&jobs, "key");
    machine.clock.advance(LEASE);
    let second = run(&engine, jobs.begin_async("key", request()));
    let second = match second {
        Ok(Begin::InFlight(pending)) => {
            run(&engine, pending.wait_async()).unwrap();
            run(&engine, jobs.begin_async("key", request()))
        }
        answered => answered,
    };
    let Ok(Begin::Fresh(claim)) = second else { panic!("{second:?}") };
    assert_eq!((claim.attempt(), claim.interrupted().is_none()), (1, true));
    drop(claim);
    let again = run(&engine, jobs.begin_async("key", request()));
    let Ok(Begin::Fresh(claim)) = again else { panic!("{again:?}") };
    assert_eq!((claim.attempt(), claim.interrupted().unwrap().attempt()), (2, 1));
    drop((claim, other));
    let first = ready(first.as_mut());
    assert!(matches!(first, Err(BeginError::Unresolved(_))), "{first:?}");
}

#[test]
fn a_begin_that_is_pending_when_the_engine_closes_leaves_its_key_as_it_was() {
    for (recovery, is_written) in [Recovery::Refuse, Recovery::Rerun].into_iter().zip([false, true]) {
        let machine = Machine { recovery, ..Machine::default() };
        let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
        let scope = engine.scope("");
        if recovery == Recovery::Rerun {
            drop(fresh(&scope, "key"));
        }
        let mut begins = [begun(&scope, "key"), begun(&scope, "behind")];
        if is_written {
            engine.flush().unwrap();
        }
        assert_eq!(engine.clone().close().unwrap().claims_left, 0);
        assert!(matches!(ready(begins[1].as_mut()), Err(BeginError::Closed)));
        assert!(!is_written || matches!(ready(begins[0].as_mut()), Err(BeginError::Closed)));
        drop(begins);
        drop((engine, scope));
        let engine = machine.open();
        let scope = engine.scope("");
        assert_eq!(fresh(&scope, "behind").attempt(), 1);
        let claim = fresh(&scope, "key");
        assert_eq!(claim.attempt(), if recovery == Recovery::Rerun { 2 } else { 1 });
    }
}

/// The next opening may interrupt such a claim, and grant the key again. A caller that asks after
/// the close must not get it then.
#[test]
fn a_begin_that_is_pending_when_a_failed_engine_closes_never_comes() {
    for failing in [".idem", "-wal"] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = engine.scope("");
        let mut begin = begun(&scope, "key");
        engine.flush().unwrap();
        machine.disk.fail_syncs(Some(failing));
        assert_eq!(scope.begin("behind", request()).is_err(), failing == "-wal");
        assert!(engine.checkpoint().is_err());
        machine.disk.fail_syncs(None);
        assert!(engine.clone().close().is_err());
        machine.disk.reboot(idemkv::sim::CrashKind::DropAll);
        let later = machine.open();
        let next = fresh(&later.scope(""), "key");
        // After a failed commit nobody knows whether it came. An intact log took the withdrawal.
        assert_eq!(next.attempt(), if failing == "-wal" { 2 } else { 1 });
        let first = ready(begin.as_mut());
        assert!(matches!(first, Err(BeginError::Closed)), "{failing}: {first:?}");
        next.complete("reply").unwrap();
    }
}

/// As many claims as the log has room for.
fn fill(scope: &Scope) -> Vec<idemkv::Claim> {
    let mut held = Vec::new();
    loop {
        match scope.begin(format!("held {}", held.len()), request()) {
            Ok(Begin::Fresh(claim)) => held.push(claim),
            Err(BeginError::Busy(_)) => return held,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_begin_that_waited_goes_by_the_policy_of_now() {
    for resolves in [false, true] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let (scope, jobs) = (engine.scope(""), engine.scope("jobs"));
        if resolves {
            drop(fresh(&jobs, "key"));
        }
        let mut held = fill(&scope);
        let mut call: Pin<Box<dyn Future<Output = _>>> = if resolves {
            Box::pin(async { Ok(Begin::Fresh(jobs.resolve_async("key").await.unwrap())) })
        } else {
            Box::pin(jobs.begin_async("key", request()))
        };
        assert!(poll(call.as_mut()).is_pending());
        // Room is given in line: the begin has its own by then, and does not know.
        held.drain(..3).for_each(|claim| claim.release().unwrap());
        engine.checkpoint().unwrap();
        let refuse = engine.policy().recovery(Recovery::Refuse).lease(LEASE);
        drop(engine.set_policy("jobs", refuse).unwrap());
        if resolves {
            let Ok(Begin::Fresh(claim)) = run(&engine, call) else { panic!("it is interrupted") };
            assert!(claim.lease_until().is_some());
        } else {
            // An interruption that arises under the new policy does not run again.
            drop(fresh(&jobs, "key"));
            let begun = run(&engine, call);
            assert!(matches!(begun, Err(BeginError::Unresolved(_))), "{begun:?}");
        }
    }
}

#[test]
fn a_claim_that_is_taken_up_again_is_as_durable_as_it_was_granted() {
    for is_restarted in [false, true] {
        let machine = Machine::rerun();
        let mut engine = machine.open();
        let mut jobs = with_lease(&engine);
        let token = fresh(&jobs, "key").into_token().unwrap();
        let relaxed = engine.policy().lease(LEASE).durability(Durability::Relaxed(LEASE));
        drop(engine.set_policy("jobs", relaxed).unwrap());
        if is_restarted {
            machine.kill((engine, jobs));
            engine = machine.open();
            jobs = engine.scope("jobs");
        }
        jobs.resume(&token).unwrap().complete("reply").unwrap();
        machine.kill((engine, jobs));
        assert_eq!(done(&machine.open().scope("jobs"), "key").body(), b"reply");
    }
}

/// The record is read while its key is forgotten, and then its time is over.
#[test]
fn a_record_that_expires_while_it_is_looked_at_is_looked_at_again() {
    for remembered in [TTL, 3 * TTL] {
        let machine = Machine::default();
        let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
        let scope = engine.set_policy("jobs", engine.policy().ttl(TTL).tombstone_ttl(remembered)).unwrap();
        for key in ["begun", "seen", "forgotten"] {
            fresh(&scope, key).complete("reply").unwrap();
        }
        engine.checkpoint().unwrap();
        let mut first = pin!(scope.begin_async("begun", request()));
        let mut see = pin!(scope.get_async("seen"));
        let mut second = pin!(scope.forget_async("forgotten"));
        assert!(poll(first.as_mut()).is_pending() && poll(see.as_mut()).is_pending());
        assert!(poll(second.as_mut()).is_pending());
        // At no time from here on is there nothing, or an expired record.
        let mut claims = Vec::new();
        for key in ["begun", "seen", "forgotten"] {
            assert!(scope.forget(key).unwrap());
            claims.push(fresh(&scope, key));
        }
        machine.clock.advance(remembered);
        let begun = run(&engine, first);
        assert!(matches!(begun, Ok(Begin::InFlight(_))), "{begun:?}");
        let seen = run(&engine, see);
        assert!(matches!(seen, Ok(Status::InFlight(_))), "{seen:?}");
        let forgot = run(&engine, second);
        assert!(matches!(forgot, Err(idemkv::ForgetError::InFlight)), "{forgot:?}");
        for claim in claims {
            claim.release().unwrap();
        }
    }
}
