//! Claims that are handed over by a token.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::common::{Machine, done, fresh, poll, request, run};
use crate::helpers::{GAPS, LEASE, MS, jobs, note, pass, pending, rerun, with};
use idemkv::{
    Begin, BeginError, Busy, ClaimError, ClaimToken, CommitError, Durability, Policy, Recovery, Status,
    TokenError, Waited,
};

#[test]
fn a_claim_handed_over_stands_while_its_lease_lasts_whatever_becomes_of_the_process() {
    for durability in [Durability::Full, Durability::Completions] {
        for gap in GAPS {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(durability));
            let mut claim = fresh(&scope, "key");
            claim.save_progress("note").unwrap();
            machine.clock.advance(LEASE / 2);
            let (fence, token) = (claim.fence(), claim.into_token().unwrap());
            drop(scope);
            machine.clock.advance(LEASE / 2);
            let engine = pass(&machine, engine, gap);
            let engine = pass(&machine, engine, gap);
            assert_eq!(engine.stats().in_flight, 1, "{gap:?}");
            let scope = engine.scope("jobs");
            drop(pending(&scope, "key"));
            machine.clock.advance(LEASE / 2 - MS);
            let token = ClaimToken::from_bytes(token.as_bytes());
            let claim = scope.resume(&token).unwrap();
            assert_eq!((claim.attempt(), claim.fence()), (1, fence));
            assert_eq!((note(&claim).as_deref(), claim.fingerprint()), (Some("note"), &request()));
            claim.renew().unwrap();
            machine.clock.advance(LEASE - MS);
            claim.complete("reply").unwrap();
            assert_eq!(engine.stats().in_flight, 0, "{gap:?}");
            drop(scope);
            let engine = pass(&machine, engine, gap);
            assert_eq!(done(&engine.scope("jobs"), "key").fence(), fence, "{gap:?}");
        }
    }
}

#[test]
fn a_claim_that_stood_over_a_restart_is_released_with_room_of_its_own() {
    for is_task in [true, false] {
        let machine = Machine::default();
        let engine = machine.open();
        let token = fresh(&jobs(&engine), "key").into_token().unwrap();
        machine.kill(engine);
        let engine = machine.open();
        let others: Vec<_> = (0..4).map(|n| fresh(&engine.scope(""), &n.to_string())).collect();
        let claim = engine.scope("jobs").resume(&token).unwrap();
        if is_task {
            run(&engine, claim.release_async()).unwrap();
        } else {
            claim.release().unwrap();
        }
        // Its room is its own: what was promised to these is still there.
        for claim in others {
            claim.complete("reply").unwrap();
        }
        drop(fresh(&engine.scope("jobs"), "key"));
    }
}

#[test]
fn a_claim_handed_over_lapses_with_its_lease_while_the_file_is_open_or_not() {
    for gap in GAPS {
        for before in [true, false] {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = jobs(&engine);
            let token = fresh(&scope, "key").into_token().unwrap();
            drop(scope);
            if before {
                machine.clock.advance(LEASE);
            }
            let engine = pass(&machine, engine, gap);
            let scope = engine.scope("jobs");
            if !before {
                let waiting = pending(&scope, "key");
                machine.clock.advance(LEASE);
                engine.step();
                assert!(matches!(waiting.wait(), Ok(Waited::Interrupted)), "{gap:?}");
            }
            let refused = scope.resume(&token);
            let Err(TokenError::Superseded(status)) = refused else { panic!("{gap:?}: {refused:?}") };
            assert!(matches!(*status, Status::Interrupted(attempt) if attempt.attempt() == 1), "{gap:?}");
            assert_eq!(engine.stats().in_flight, 0, "{gap:?}");
            assert_eq!(fresh(&scope, "key").attempt(), 2);
        }
    }
}

#[test]
fn a_token_is_refused_that_is_damaged_or_of_elsewhere() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let bytes = token.as_bytes().to_vec();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let refused = scope.resume(&ClaimToken::from_bytes(damaged));
        assert!(matches!(refused, Err(TokenError::Malformed | TokenError::OtherFile)), "{bit}: {refused:?}");
    }
    for len in 0..bytes.len() {
        let refused = scope.resume(&ClaimToken::from_bytes(&bytes[..len]));
        assert!(matches!(refused, Err(TokenError::Malformed | TokenError::OtherFile)), "{len}: {refused:?}");
    }
    let longer = ClaimToken::from_bytes([&bytes[..], &[0]].concat());
    assert!(matches!(scope.resume(&longer), Err(TokenError::Malformed)));
    assert!(matches!(engine.scope("other").resume(&token), Err(TokenError::OtherScope)));
    let elsewhere = Machine::default().options().seed(2).open("x.idem").unwrap();
    assert!(matches!(jobs(&elsewhere).resume(&token), Err(TokenError::OtherFile)));
    assert!(!format!("{token:?}").contains(char::is_numeric));
    scope.resume(&token).unwrap().complete("reply").unwrap();
}

#[test]
fn a_token_gives_its_claim_to_one_holder_at_a_time() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = run(&engine, scope.resume_async(&token)).unwrap();
    assert!(matches!(scope.resume(&token), Err(TokenError::Held)));
    let again = claim.into_token().unwrap();
    assert_eq!(again, token);
    let claim = scope.resume(&token).unwrap();
    claim.complete("reply").unwrap();
    let ended = scope.resume(&token);
    assert!(matches!(&ended, Err(TokenError::Superseded(status)) if matches!(**status, Status::Done(_))));
    let lost = fresh(&scope, "lost").into_token().unwrap();
    drop(scope.resume(&lost).unwrap());
    let ended = scope.resume(&lost);
    assert!(
        matches!(&ended, Err(TokenError::Superseded(status)) if matches!(**status, Status::Interrupted(_)))
    );
    let passed_on = fresh(&scope, "taken").into_token().unwrap();
    machine.clock.advance(LEASE);
    let next = fresh(&scope, "taken");
    let Err(TokenError::Superseded(status)) = scope.resume(&passed_on) else { panic!("superseded") };
    assert!(matches!(*status, Status::InFlight(attempt) if attempt.fence() == next.fence()));
    drop(next);
    assert_eq!(engine.stats().in_flight, 0);
    engine.close().unwrap();
    assert!(matches!(scope.resume(&token), Err(TokenError::Begin(BeginError::Closed))));
}

#[test]
fn a_claim_taken_up_stands_again_after_a_kill_of_its_holder() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = scope.resume(&token).unwrap();
    machine.kill((engine, scope, claim));
    let engine = machine.open();
    let scope = engine.scope("jobs");
    scope.resume(&token).unwrap().complete("reply").unwrap();
    assert_eq!(done(&scope, "key").attempt(), 1);
}

/// The row that a checkpoint writes of a claim must not say that a process has it.
#[test]
fn a_claim_taken_up_stands_again_though_a_checkpoint_came_between_or_the_file_was_closed() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = scope.resume(&token).unwrap();
    engine.checkpoint().unwrap();
    machine.kill((engine, scope, claim));

    let engine = machine.open();
    let scope = engine.scope("jobs");
    let claim = scope.resume(&token).unwrap();
    engine.close().unwrap();
    drop((scope, claim));

    let engine = machine.open();
    let scope = engine.scope("jobs");
    // Once it is dropped, and that was written, it does not stand any more.
    let mut claim = scope.resume(&token).unwrap();
    claim.save_progress("note").unwrap();
    drop(claim);
    engine.checkpoint().unwrap();
    machine.kill((engine, scope));

    let engine = machine.open();
    let scope = engine.scope("jobs");
    assert!(matches!(scope.resume(&token), Err(TokenError::Superseded(_))));
    assert_eq!(fresh(&scope, "key").attempt(), 2);
}

/// The file says that the claim stands, and knows nothing of what became of it since.
#[test]
fn a_token_does_not_bring_its_claim_back_over_a_later_one_that_only_memory_knows() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let policy = rerun(&engine).lease(LEASE).durability(Durability::Completions);
    let scope = with(&engine, "jobs", policy);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = scope.resume(&token).unwrap();
    engine.checkpoint().unwrap();
    drop(claim);
    let later = fresh(&scope, "key");
    assert_eq!(later.attempt(), 2);
    machine.kill((engine, scope, later));

    let engine = machine.open();
    let scope = engine.scope("jobs");
    assert!(matches!(scope.resume(&token), Err(TokenError::Superseded(_))));
    assert_eq!(fresh(&scope, "key").interrupted().unwrap().attempt(), 2);
}

#[test]
fn a_claim_without_a_lease_is_not_handed_over_and_comes_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let error = fresh(&engine.scope(""), "key").into_token().unwrap_err();
    assert!(matches!(error.reason(), ClaimError::NoLease));
    error.into_claim().unwrap().complete("reply").unwrap();
}

#[test]
fn a_hand_over_that_nobody_waits_for_stands_until_its_lease_ends() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    {
        let mut hand_over = Box::pin(claim.into_token_async());
        assert!(poll(hand_over.as_mut()).is_pending());
    }
    engine.step();
    drop(pending(&scope, "key"));
    assert_eq!(engine.stats().in_flight, 1);
    machine.clock.advance(LEASE);
    engine.step();
    assert_eq!((engine.stats().in_flight, fresh(&scope, "key").attempt()), (0, 2));
}

#[test]
fn a_hand_over_that_a_full_log_has_no_room_for_gives_the_claim_back() {
    let mut refused = 0;
    for reserve_bytes in (0..1_000).step_by(25) {
        let machine = Machine::rerun();
        let options = machine.options().reserve_bytes(reserve_bytes).log_bytes(128 << 10);
        let policy =
            Policy::default().recovery(Recovery::Rerun).lease(LEASE).durability(Durability::Completions);
        let engine = options.policy(policy).queue_timeout(Duration::ZERO).open("x.idem").unwrap();
        let mut claims = Vec::new();
        while let Ok(Begin::Fresh(claim)) = engine.default_scope().begin(claims.len().to_string(), request())
        {
            claims.push(claim);
        }
        // What is left of the log may be enough for this.
        let Err(error) = claims.pop().unwrap().into_token() else { continue };
        let is_busy = matches!(error.reason(), ClaimError::Commit(CommitError::Busy(Busy::QueueFull { .. })));
        assert!(is_busy, "{error}");
        error.into_claim().unwrap().complete("reply").unwrap();
        refused += 1;
    }
    assert!(refused > 0, "there was room each time");
}

#[test]
fn a_claim_is_not_taken_up_after_a_commit_that_failed_while_it_waited_for_log_space() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let token = fresh(&jobs(&engine), "key").into_token().unwrap();
    machine.kill(engine);
    let engine = machine.open();
    let mut others = Vec::new();
    while let Ok(Begin::Fresh(claim)) = engine.default_scope().begin(format!("{}", others.len()), request()) {
        others.push(claim);
    }
    let scope = engine.scope("jobs");
    let mut resumed = pin!(scope.resume_async(&token));
    assert!(poll(resumed.as_mut()).is_pending());
    machine.disk.fail_syncs(Some("-wal"));
    others.pop().unwrap().complete("reply").unwrap_err();
    drop(others);
    let answer = poll(resumed.as_mut());
    assert!(matches!(answer, Poll::Ready(Err(TokenError::Begin(BeginError::Failed(_))))), "{answer:?}");
}

/// The log is whole then, and there is only no room in it. The claim was thrown away.
#[test]
fn a_claim_whose_token_finds_no_room_after_a_failed_checkpoint_comes_back() {
    let machine = Machine::default();
    let options = machine.options().max_body_bytes(4_096).batch_bytes(4_096).log_segment_bytes(64 << 10);
    let engine = options.log_bytes(128 << 10).max_in_flight(4).open("x.idem").unwrap();
    let scope = with(&engine, "jobs", engine.policy().lease(LEASE));
    let (mut eater, claim) = (fresh(&scope, "eater"), fresh(&scope, "key"));
    machine.disk.fail_syncs(Some("idem"));
    assert!(engine.checkpoint().is_err());
    machine.disk.fail_syncs(None);
    for len in [2_000, 100, 1] {
        while eater.save_progress(vec![7; len]).is_ok() {}
    }
    let refused = claim.into_token().unwrap_err();
    assert!(matches!(refused.reason(), ClaimError::Commit(CommitError::Failed(_))), "{refused:?}");
    assert_eq!(refused.into_claim().unwrap().complete("reply").unwrap().body(), b"reply");
}

/// Begins wait in line for room; a claim that stands comes before them, as all claims that are out do.
#[test]
fn a_claim_that_stood_over_a_restart_gets_log_space_before_begins_that_wait() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let token = fresh(&jobs(&engine), "key").into_token().unwrap();
    machine.kill(engine);
    let engine = machine.open();
    let (mut others, mut waiting) = (Vec::new(), Vec::new());
    for number in 0.. {
        let (scope, key) = (engine.default_scope().clone(), number.to_string());
        let mut begin = Box::pin(async move { scope.begin_async(key, request()).await });
        if poll(begin.as_mut()).is_pending() {
            engine.flush().unwrap();
        }
        match poll(begin.as_mut()) {
            Poll::Ready(Ok(Begin::Fresh(claim))) => others.push(claim),
            Poll::Pending => waiting.push(begin),
            other @ Poll::Ready(_) => panic!("{other:?}"),
        }
        if waiting.len() == 3 {
            break;
        }
    }
    let scope = engine.scope("jobs");
    let mut resumed = pin!(scope.resume_async(&token));
    assert!(poll(resumed.as_mut()).is_pending());
    // Room for one.
    others.pop().unwrap().release().unwrap();
    engine.step();
    let answer = poll(resumed.as_mut());
    assert!(matches!(answer, Poll::Ready(Ok(_))), "{answer:?}");
}
