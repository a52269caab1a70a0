//! Progress that a claim saves, and which attempt inherits it.

use crate::common::{Machine, UNRESOLVED, fresh, poll, ready, request};
use crate::helpers::{GAPS, LEASE, jobs, note, pass, rerun, with};
use idemkv::{Begin, Busy, Claim, ClaimError, CommitError, Durability, Status};

#[test]
fn progress_outlives_every_end_but_an_outcome() {
    type Lose = fn(&Machine, Claim);
    let ends: [(&str, Lose); 2] = [
        ("dropped", |_, claim| drop(claim)),
        ("lapsed", |machine, claim| {
            machine.clock.advance(LEASE);
            drop(claim);
        }),
    ];
    for (end, lose) in ends {
        for gap in GAPS {
            for second in GAPS {
                let machine = Machine::rerun();
                let engine = machine.open();
                let scope = jobs(&engine);
                let mut claim = fresh(&scope, "key");
                assert_eq!(note(&claim), None);
                claim.save_progress("one").unwrap();
                claim.save_progress("two").unwrap();
                assert_eq!(note(&claim).as_deref(), Some("two"));
                lose(&machine, claim);
                drop(scope);
                let engine = pass(&machine, engine, gap);
                let scope = engine.scope("jobs");
                let claim = fresh(&scope, "key");
                assert_eq!(note(&claim).as_deref(), Some("two"), "{end}, {gap:?}");
                lose(&machine, claim);
                drop(scope);
                let engine = pass(&machine, engine, second);
                let mut claim = fresh(&engine.scope("jobs"), "key");
                assert_eq!((claim.attempt(), note(&claim).as_deref()), (3, Some("two")), "{end}, {second:?}");
                claim.save_progress("three").unwrap();
                lose(&machine, claim);
                let claim = fresh(&engine.scope("jobs"), "key");
                assert_eq!(note(&claim).as_deref(), Some("three"));
                claim.complete("reply").unwrap();
            }
        }
    }
}

#[test]
fn a_kill_of_the_holder_keeps_its_progress() {
    for stored in [false, true] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let mut claim = fresh(&scope, "key");
        claim.save_progress("note").unwrap();
        if stored {
            engine.checkpoint().unwrap();
        }
        machine.kill((engine, scope, claim));
        let claim = fresh(&machine.open().scope("jobs"), "key");
        assert_eq!((claim.attempt(), note(&claim).as_deref()), (2, Some("note")), "stored: {stored}");
    }
}

#[test]
fn a_release_that_returns_the_key_keeps_the_progress_of_the_attempt_before() {
    for durability in [Durability::Full, Durability::Completions] {
        for gap in GAPS {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(durability));
            let mut claim = fresh(&scope, "key");
            claim.save_progress("one").unwrap();
            drop((claim, scope));
            let engine = pass(&machine, engine, gap);
            fresh(&engine.scope("jobs"), "key").release().unwrap();
            let engine = pass(&machine, engine, gap);
            let scope = engine.scope("jobs");
            let mut claim = fresh(&scope, "key");
            assert_eq!(note(&claim).as_deref(), Some("one"), "{durability:?} {gap:?}");
            assert_eq!(claim.interrupted().unwrap().attempt(), 1);
            claim.save_progress("three").unwrap();
            claim.release().unwrap();
            drop(scope);
            let engine = pass(&machine, engine, gap);
            let claim = fresh(&engine.scope("jobs"), "key");
            assert_eq!(note(&claim).as_deref(), Some("three"), "{durability:?} {gap:?}");
            assert_eq!((claim.attempt(), claim.interrupted().unwrap().attempt()), (4, 1));
        }
    }
}

#[test]
fn a_key_that_starts_anew_knows_no_progress() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    for key in ["released", "completed", "expired", "forgotten"] {
        let mut claim = fresh(&scope, key);
        claim.save_progress("old").unwrap();
        match key {
            "released" => claim.release().unwrap(),
            "completed" => drop(claim.complete("reply").unwrap()),
            _ => drop(claim),
        }
    }
    assert!(scope.forget("forgotten").unwrap());
    for key in ["released", "forgotten"] {
        assert_eq!(note(&fresh(&scope, key)), None, "{key}");
    }
    machine.clock.advance(UNRESOLVED);
    for key in ["completed", "expired"] {
        let claim = fresh(&scope, key);
        assert_eq!((claim.attempt(), note(&claim)), (1, None), "{key}");
        machine.clock.advance(LEASE);
    }
    machine.kill((engine, scope));
    let scope = machine.open().scope("jobs");
    for key in ["released", "completed", "expired", "forgotten"] {
        assert_eq!(note(&fresh(&scope, key)), None, "{key}");
    }
}

#[test]
fn progress_in_flight_when_the_lease_ends_is_inherited_from_the_same_commit() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        {
            let mut first = fresh(&scope, "key");
            let commits = engine.stats().commits;
            let mut progress = Box::pin(first.save_progress_async("note"));
            assert!(poll(progress.as_mut()).is_pending());
            machine.clock.advance(LEASE);
            let mut begin = Box::pin(scope.begin_async("key", request()));
            assert!(poll(begin.as_mut()).is_pending());
            engine.step();
            assert_eq!(engine.stats().commits, commits + 1, "both are one commit");
            ready(progress.as_mut()).unwrap();
            let Ok(Begin::Fresh(second)) = ready(begin.as_mut()) else { panic!("granted") };
            assert_eq!((second.attempt(), note(&second).as_deref()), (2, Some("note")));
        }
        drop(scope);
        let engine = pass(&machine, engine, gap);
        let claim = fresh(&engine.scope("jobs"), "key");
        assert_eq!((claim.attempt(), note(&claim).as_deref()), (3, Some("note")), "{gap:?}");
    }
}

/// The next attempt has the key in memory, and is not in the log, when the progress becomes
/// durable and the log moves to the file.
#[test]
fn progress_that_outruns_the_next_grant_is_not_lost_between_log_and_file() {
    for durability in [Durability::Full, Durability::Completions] {
        let machine = Machine::rerun();
        let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
        let scope = jobs(&engine);
        {
            let mut first = fresh(&scope, "key");
            engine.checkpoint().unwrap();
            let mut progress = Box::pin(first.save_progress_async("note"));
            assert!(poll(progress.as_mut()).is_pending());
            machine.clock.advance(LEASE);
            if durability == Durability::Completions {
                // PolicySet in memory by the time it is asked for, and not in the way of the
                // queue.
                engine.step();
                with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(durability));
            }
            let mut begin = Box::pin(scope.begin_async("key", request()));
            let next = poll(begin.as_mut());
            assert_eq!(next.is_pending(), durability == Durability::Full);
            engine.step();
            ready(progress.as_mut()).unwrap();
            engine.checkpoint().unwrap();
            machine.disk.crash_at(machine.disk.operations());
            drop((begin, next));
        }
        machine.kill((engine, scope));
        let claim = fresh(&machine.open().scope("jobs"), "key");
        assert_eq!(note(&claim).as_deref(), Some("note"), "{durability:?}");
    }
}

/// The file knows of the old attempt, whose progress made it durable, and would know of no other.
#[test]
fn a_memory_only_claim_that_starts_anew_does_not_bring_back_the_attempt_before_it() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = with(&engine, "jobs", rerun(&engine).durability(Durability::Completions));
        for key in ["released", "lost"] {
            let mut claim = fresh(&scope, key);
            claim.save_progress("old").unwrap();
            drop(claim);
        }
        machine.clock.advance(UNRESOLVED);
        let (released, lost) = (fresh(&scope, "released"), fresh(&scope, "lost"));
        assert_eq!((lost.attempt(), note(&lost)), (1, None), "{gap:?}");
        released.release().unwrap();
        drop((lost, scope));
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("jobs");
        assert!(matches!(scope.get("released").unwrap(), Status::Vacant), "{gap:?}");
        assert_eq!(note(&fresh(&scope, "lost")), None, "{gap:?}");
    }
}

#[test]
fn progress_makes_a_memory_only_claim_durable() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let memory_only = rerun(&engine).lease(LEASE).durability(Durability::Completions);
        let scope = with(&engine, "jobs", memory_only);
        let commits = engine.stats().commits;
        let mut claim = fresh(&scope, "key");
        assert_eq!(engine.stats().commits, commits);
        claim.save_progress("note").unwrap();
        assert_eq!(engine.stats().commits, commits + 1);
        drop((claim, scope));
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("jobs");
        let claim = fresh(&scope, "key");
        assert_eq!((claim.attempt(), note(&claim).as_deref()), (2, Some("note")), "{gap:?}");
        claim.release().unwrap();
        // What the log knows of is undone there.
        let mut claim = fresh(&scope, "released");
        claim.save_progress("note").unwrap();
        claim.release().unwrap();
        drop(scope);
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("jobs");
        assert!(matches!(scope.get("released").unwrap(), Status::Vacant), "{gap:?}");
        assert_eq!(fresh(&scope, "key").interrupted().unwrap().attempt(), 1, "{gap:?}");
    }
}

#[test]
fn progress_takes_no_more_memory_than_it_may() {
    let machine = Machine::default();
    let options = || machine.options().max_progress_bytes(1_000);
    let engine = options().open("x.idem").unwrap();
    let scope = jobs(&engine);
    let full = |claim: &mut Claim, len: usize| match claim.save_progress("x".repeat(len)) {
        Err(ClaimError::Commit(CommitError::Busy(Busy::TooManyProgressBytes { max: 1_000 }))) => true,
        Ok(()) => false,
        Err(other) => panic!("{other}"),
    };
    let (mut first, mut second) = (fresh(&scope, "first"), fresh(&scope, "second"));
    assert!(!full(&mut first, 600) && full(&mut second, 401) && !full(&mut second, 400));
    first.complete("reply").unwrap();
    assert!(full(&mut second, 601) && !full(&mut second, 600));
    drop(second);
    machine.kill((engine, scope));
    let engine = options().open("x.idem").unwrap();
    let scope = engine.scope("jobs");
    let mut third = fresh(&scope, "third");
    assert!(full(&mut third, 401), "what an interrupted key keeps counts");
    assert!(scope.forget("second").unwrap());
    assert!(!full(&mut third, 1_000));
    assert!(matches!(third.save_progress(vec![0; 5_000]), Err(ClaimError::BodyTooLarge { len: 5_000, .. })));
    assert_eq!(third.last_progress().unwrap().len(), 1_000);
    assert_eq!(engine.stats().busy.progress_bytes, 1);
}

#[test]
fn progress_of_several_threads_takes_no_more_memory_than_it_may() {
    let machine = Machine::default();
    let engine = machine.options().max_progress_bytes(1_000).open("x.idem").unwrap();
    let scope = jobs(&engine);
    for round in 0..100 {
        let claims = [0, 1, 2, 3].map(|n| fresh(&scope, &format!("{round} {n}")));
        let barrier = std::sync::Barrier::new(claims.len());
        let kept: Vec<_> = std::thread::scope(|threads| {
            let save = |mut claim: Claim| {
                let barrier = &barrier;
                threads.spawn(move || {
                    barrier.wait();
                    drop(claim.save_progress([7; 600]));
                    claim
                })
            };
            claims.map(save).into_iter().map(|saved| saved.join().unwrap()).collect()
        });
        assert!(engine.stats().progress_bytes <= 1_000, "{}", engine.stats().progress_bytes);
        for claim in kept {
            claim.complete("reply").unwrap();
        }
    }
}
