//! Places in the queue, and room in the log: which calls wait for them, and for how long.

use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh, request, run};
use crate::helpers::{Callback, Count, poll, ready};
use futures_executor::block_on;
use idemkv::{Begin, BeginError, Busy, Claim, ClaimError, CommitError, Durability, Engine, Policy, Status};

const LEASE: Duration = Duration::from_secs(10);

#[test]
fn a_task_waits_for_room_in_the_log_and_goes_on_once_there_is_some() {
    let machine = Machine::default();
    let engine = machine.options().log_bytes(128 << 10).open("x.idem").unwrap();
    let mut claims = Vec::new();
    loop {
        let key = format!("key {}", claims.len());
        let mut begin = Box::pin(engine.default_scope().begin_async(key, request()));
        // Queued, or waiting for room.
        let stepped = poll(begin.as_mut()).is_pending().then(|| engine.step());
        match poll(begin.as_mut()) {
            Poll::Ready(Ok(Begin::Fresh(claim))) => claims.push(claim),
            Poll::Ready(other) => panic!("{other:?} after {stepped:?}"),
            Poll::Pending => {
                let count = Arc::new(Count::default());
                let waker = Waker::from(Arc::clone(&count));
                assert!(begin.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
                claims.pop().unwrap().complete("reply").unwrap();
                engine.checkpoint().unwrap();
                assert!(count.get() > 0, "the thread that makes room tells those who wait");
                let Begin::Fresh(claim) = crate::common::run(&engine, begin.as_mut()).unwrap() else {
                    panic!("fresh")
                };
                drop((begin, claim));
                break;
            }
        }
    }
    assert!(claims.len() > 5);
}

#[test]
fn a_begin_dropped_while_it_waits_for_the_queue_leaves_the_key_as_it_was() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let mut first = Box::pin(engine.default_scope().begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    let mut second = Box::pin(engine.default_scope().begin_async("second", request()));
    assert!(poll(second.as_mut()).is_pending());
    assert!(matches!(engine.default_scope().get("second"), Ok(Status::InFlight(_))));
    drop(second);
    assert!(matches!(engine.default_scope().get("second"), Ok(Status::Vacant)));
    engine.step();
    assert!(matches!(ready(first.as_mut()), Ok(Begin::Fresh(_))));
    assert_eq!(engine.stats().committed_entries, 1);
}

#[test]
fn a_task_waits_for_a_place_in_the_queue_and_no_longer_than_its_patience() {
    let machine = Machine::default();
    let patient = machine.options().queue_entries(1).open("x.idem").unwrap();
    let mut first = Box::pin(patient.default_scope().begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    let mut second = Box::pin(patient.default_scope().begin_async("second", request()));
    assert!(poll(second.as_mut()).is_pending());
    patient.step();
    assert!(poll(second.as_mut()).is_pending());
    patient.step();
    assert!(matches!(ready(second.as_mut()), Ok(Begin::Fresh(_))));

    let machine = Machine::default();
    let options = machine.options().queue_entries(1).queue_timeout(Duration::ZERO);
    let hasty = options.open("x.idem").unwrap();
    let mut first = Box::pin(hasty.default_scope().begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    let mut second = pin!(hasty.default_scope().begin_async("second", request()));
    let refused = ready(second.as_mut());
    assert!(matches!(refused, Err(BeginError::Busy(Busy::QueueFull { .. }))), "{refused:?}");
    assert!(matches!(hasty.default_scope().get("second"), Ok(Status::Vacant)));
}

/// A claim of it is withdrawn while others of it wait. It begins that key again, in the time that
/// is left.
#[test]
fn all_waits_of_a_batch_are_over_with_its_patience() {
    let patience = Duration::from_millis(20);
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).queue_timeout(patience).open("x.idem").unwrap();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let plain = default_scope(&engine);
    let _out = fresh(&plain, "out");
    let Ok(Begin::InFlight(out)) = plain.begin("out", request()) else { panic!("it is out") };
    let requests = [("a", request()), ("b", request())];
    let mut batch = Box::pin(jobs.begin_many_async(&requests));
    assert!(poll(batch.as_mut()).is_pending(), "one waits for a place");
    drop(out.wait_timeout(2 * patience));
    machine.clock.advance(LEASE);
    let found = ready(pin!(jobs.begin_async("a", request())));
    assert!(matches!(found, Ok(Begin::InFlight(_))), "{found:?}");
    engine.step();
    let Poll::Ready(answers) = poll(batch.as_mut()) else { panic!("it waits on") };
    for answer in answers {
        assert!(matches!(answer, Err(BeginError::Busy(Busy::LeaseTooShort { .. }))), "{answer:?}");
    }
}

#[test]
fn a_thread_that_would_wait_for_a_place_in_the_queue_inside_a_waker_is_refused_whatever_its_patience() {
    for queue_timeout in [Duration::ZERO, Duration::from_millis(2)] {
        let machine = Machine::default();
        let engine = machine.options().queue_entries(1).queue_timeout(queue_timeout).open("x.idem").unwrap();
        let (theirs, (tell, told)) = (engine.clone(), std::sync::mpsc::channel());
        let waker = Callback::waker(move || {
            let mut next = Box::pin(theirs.default_scope().begin_async("next", request()));
            assert!(poll(next.as_mut()).is_pending(), "it has the only place");
            tell.send(theirs.default_scope().begin("key", request())).unwrap();
        });
        let mut first = pin!(engine.default_scope().begin_async("first", request()));
        assert!(first.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        engine.step();
        let refused = told.try_recv().unwrap();
        assert!(matches!(&refused, Err(BeginError::InsideCallback)), "{refused:?}");
        assert!(matches!(engine.default_scope().get("key"), Ok(Status::Vacant)));
        assert!(matches!(ready(first.as_mut()), Ok(Begin::Fresh(_))));
    }
}

#[test]
fn a_thread_that_finds_no_place_leads_for_the_tasks_that_have_them() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).queue_timeout(Duration::ZERO).open("x.idem").unwrap();
    let mut first = pin!(engine.default_scope().begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    drop(fresh(&default_scope(&engine), "second"));
    assert!(matches!(ready(first.as_mut()), Ok(Begin::Fresh(_))));
}

#[test]
fn long_entries_fill_the_queue_as_many_do() {
    let machine = Machine::default();
    let engine = machine.options().queue_bytes(4_096).open("x.idem").unwrap();
    let long = fresh(&default_scope(&engine), "long").complete_async(vec![0; 4_096]);
    let mut begin = pin!(engine.default_scope().begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    engine.step();
    assert_eq!(block_on(long).unwrap().body().len(), 4_096);
    let commits = engine.stats().commits;
    assert!(poll(begin.as_mut()).is_pending(), "it had no place before");
    engine.step();
    assert!(matches!(ready(begin.as_mut()), Ok(Begin::Fresh(_))));
    assert_eq!(engine.stats().commits, commits + 1);
}

/// Nobody else could go on where a batch's thread has led for long enough.
#[test]
fn a_batch_gets_its_claims_however_many_commits_are_before_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let keys: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    for key in &keys {
        // Each too long to share a commit.
        drop(fresh(&scope, key).complete_async(vec![b'x'; 4_000]));
    }
    let results = scope.begin_many(&[("key", request())]);
    assert!(matches!(results.as_slice(), [Ok(Begin::Fresh(_))]));
    for key in &keys {
        assert_eq!(done(&scope, key).body().len(), 4_000);
    }
}

/// An engine whose claims have no room for a body promised, and claims that have all of its log.
fn full_log(machine: &Machine, queue_timeout: Duration) -> (Engine, Vec<Claim>) {
    let options =
        machine.options().reserve_bytes(0).log_bytes(128 << 10).cache_bytes(0).queue_timeout(queue_timeout);
    let engine = options.policy(Policy::default().ttl(TTL).lease(TTL)).open("x.idem").unwrap();
    let mut claims = Vec::new();
    while let Ok(Begin::Fresh(claim)) = engine.default_scope().begin(claims.len().to_string(), request()) {
        claims.push(claim);
    }
    (engine, claims)
}

#[test]
fn a_body_longer_than_what_was_reserved_is_handed_over_once_it_is_awaited() {
    let machine = Machine::default();
    let engine = machine.options().reserve_bytes(0).open("x.idem").unwrap();
    let mut complete = fresh(&default_scope(&engine), "key").complete_async(vec![7; 4_000]);
    engine.step();
    assert!(matches!(engine.default_scope().get("key"), Ok(Status::InFlight(_))), "there was no room for it");
    assert!(poll(Pin::new(&mut complete)).is_pending());
    engine.step();
    assert_eq!(ready(Pin::new(&mut complete)).unwrap().body(), [7; 4_000]);
}

#[test]
fn a_body_that_a_full_log_has_no_room_for_gives_the_claim_back() {
    let machine = Machine::default();
    let (engine, mut claims) = full_log(&machine, Duration::ZERO);
    let is_busy = |error: &idemkv::EndError| {
        matches!(error.reason(), ClaimError::Commit(CommitError::Busy(Busy::QueueFull { .. })))
    };
    let refused = claims.pop().unwrap().complete(vec![0; 4_000]).unwrap_err();
    assert!(is_busy(&refused), "{refused}");
    let refused = block_on(refused.into_claim().unwrap().complete_async(vec![0; 4_000])).unwrap_err();
    assert!(is_busy(&refused), "{refused}");
    let claim = refused.into_claim().unwrap();
    let many = engine.default_scope().begin_many(&[("one", request()), ("two", request())]);
    assert!(many.iter().all(|one| matches!(one, Err(BeginError::Busy(Busy::QueueFull { .. })))), "{many:?}");
    // What every claim has is room to say that it came to something, or to nothing.
    claim.complete("").unwrap();
    engine.clone().close().unwrap();
    let closed = claims.pop().unwrap().complete(vec![0; 4_000]).unwrap_err();
    assert!(matches!(closed.reason(), ClaimError::Commit(CommitError::Closed)), "{closed}");
    assert!(closed.into_claim().is_some());
}

#[test]
fn what_still_waits_for_room_in_the_log_is_dropped_with_its_claim() {
    let machine = Machine::default();
    let (engine, mut claims) = full_log(&machine, Duration::from_secs(600));
    let scope = default_scope(&engine);
    let mut give_up = |wait: &dyn Fn(Claim)| {
        let key = (claims.len() - 1).to_string();
        wait(claims.pop().unwrap());
        assert!(matches!(scope.get(&key), Ok(Status::Interrupted(_))), "key {key}");
    };
    give_up(&|claim| assert!(poll(Box::pin(claim.into_token_async()).as_mut()).is_pending()));
    give_up(&|claim| {
        let mut complete = claim.complete_async(vec![0; 4_000]);
        assert!(poll(Pin::new(&mut complete)).is_pending());
    });
}

#[test]
fn the_end_of_a_claim_does_not_wait_for_a_place_in_the_queue() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let (completed, released) = (fresh(&scope, "completed"), fresh(&scope, "released"));
    let mut has_the_place = Box::pin(engine.default_scope().begin_async("new", request()));
    assert!(poll(has_the_place.as_mut()).is_pending());
    let commits = engine.stats().commits;
    drop((completed.complete_async("reply"), released.release_async()));
    engine.step();
    assert_eq!(engine.stats().commits, commits + 1);
    drop(has_the_place);
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(done(&default_scope(&engine), "completed").body(), b"reply");
    assert!(matches!(engine.default_scope().get("released"), Ok(Status::Vacant)));
}

#[test]
fn a_task_that_waited_for_room_in_the_log_finds_what_others_did_meanwhile() {
    let machine = Machine::default();
    let (engine, mut claims) = full_log(&machine, Duration::from_secs(600));
    let scope = default_scope(&engine);
    let mut begin = Box::pin(engine.default_scope().begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    for claim in claims.drain(..10) {
        claim.complete("").unwrap();
    }
    engine.checkpoint().unwrap();
    fresh(&scope, "key").complete("reply").unwrap();
    // From here on the record is on disk alone.
    engine.checkpoint().unwrap();
    let found = run(&engine, begin);
    assert!(matches!(&found, Ok(Begin::Done(record)) if record.body() == b"reply"), "{found:?}");
}

#[test]
fn a_full_queue_is_not_told_as_a_log_that_claims_keep() {
    let machine = Machine::default();
    let options = machine.options().queue_entries(1).queue_timeout(Duration::ZERO);
    let engine = options.open("x.idem").unwrap();
    let scope = engine.default_scope();
    let mut first = pin!(scope.begin_async("first", request()));
    assert!(poll(first.as_mut()).is_pending());
    let refused = ready(pin!(scope.begin_async("second", request())).as_mut()).unwrap_err();
    assert!(matches!(refused, BeginError::Busy(Busy::QueueFull { waited: Duration::ZERO })), "{refused:?}");
    let said = refused.to_string();
    assert!(said.contains("try again later") && !said.contains("is reserved"), "{said}");
}

/// A call that waits for a claim begins with the end of that claim. The claim's place is free by then,
/// though its holder has not taken the answer to the end yet.
#[test]
fn a_claim_that_ends_leaves_its_place_to_the_call_that_waits_for_it() {
    let ends: [fn(Claim, &Engine); 4] = [
        |claim, engine| {
            let ending = claim.release_async();
            engine.flush().unwrap();
            drop(ending);
        },
        |claim, _| claim.release().unwrap(),
        |claim, _| drop(claim),
        |claim, _| drop(claim.complete_in(|_| Ok::<_, ()>("reply")).unwrap()),
    ];
    for durability in [Durability::Full, Durability::Completions] {
        for (way, end) in ends.into_iter().enumerate() {
            let machine = Machine::rerun();
            let engine = machine.open();
            let policy = engine.policy().max_in_flight(1).durability(durability);
            let jobs = engine.set_policy("jobs", policy).unwrap();
            let claim = fresh(&jobs, "key");
            let Ok(Begin::InFlight(pending)) = jobs.begin("key", request()) else { panic!() };
            let refused = Arc::new(Mutex::new(Vec::new()));
            let (begins, noted) = (jobs.clone(), Arc::clone(&refused));
            let waker = Callback::waker(move || {
                let mut next = pin!(begins.begin_async("next", request()));
                if let Poll::Ready(Err(error)) = poll(next.as_mut()) {
                    noted.lock().unwrap().push(error.to_string());
                }
            });
            let mut waits = pin!(pending.wait_async());
            assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            end(claim, &engine);
            assert!(waits.as_mut().poll(&mut Context::from_waker(&waker)).is_ready(), "{durability:?} {way}");
            assert_eq!(*refused.lock().unwrap(), [""; 0], "{durability:?} {way}");
        }
    }
}

#[test]
fn an_end_whose_answer_nobody_takes_keeps_no_place_and_no_log_space() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().max_in_flight(1)).unwrap();
    let first = fresh(&jobs, "first").complete_async("reply");
    engine.flush().unwrap();
    let second = fresh(&jobs, "second").complete_async("reply");
    engine.flush().unwrap();
    assert_eq!(engine.stats().in_flight, 0);
    let used = engine.stats().log_used_bytes;
    drop((first, second));
    assert_eq!(engine.stats().log_used_bytes, used);
}

/// A caller that polls its future late or never would hold up its scope, and then the engine, though
/// the key is vacant.
#[test]
fn grants_that_the_engine_takes_back_leave_their_places_before_their_callers_come() {
    let machine = Machine::default();
    let engine = machine.options().max_in_flight(2).open("x.idem").unwrap();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE).max_in_flight(2)).unwrap();
    let requests = [("one", request()), ("two", request())];
    let mut late = pin!(jobs.begin_many_async(&requests));
    assert!(poll(late.as_mut()).is_pending());
    let mut waits = pin!(jobs.begin_or_wait_async("one", request(), TTL));
    assert!(poll(waits.as_mut()).is_pending());
    machine.clock.advance(LEASE);
    engine.step();
    engine.step();
    assert_eq!(engine.stats().in_flight, 0);
    let other = fresh(&jobs, "other");
    let Ok(Begin::Fresh(claim)) = run(&engine, waits) else { panic!("it was told that the key is vacant") };
    // Then the first caller finds its grants gone. It leaves no place a second time.
    let answers = run(&engine, late);
    assert!(
        matches!(
            answers.as_slice(),
            [Ok(Begin::InFlight(_)), Err(BeginError::Busy(Busy::TooManyClaims { max: 2 }))]
        ),
        "{answers:?}"
    );
    assert_eq!(engine.stats().in_flight, 2);
    drop((other, claim));
    assert_eq!(engine.stats().in_flight, 0);
}

/// The log takes nothing more, so the grant stays in the index; its caller has got an answer.
#[test]
fn a_grant_whose_commit_failed_leaves_its_place_once() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(LEASE).max_in_flight(1)).unwrap();
    let claim = fresh(&default_scope(&engine), "claim");
    let mut begin = pin!(jobs.begin_async("key", request()));
    assert!(poll(begin.as_mut()).is_pending());
    assert_eq!(engine.stats().in_flight, 2);
    machine.disk.fail_syncs(Some("-wal"));
    engine.step();
    assert!(ready(begin.as_mut()).is_err());
    assert_eq!(engine.stats().in_flight, 1);
    machine.clock.advance(LEASE);
    engine.step();
    assert_eq!(engine.stats().in_flight, 1);
    drop(claim);
    drop(engine.clone().close());
    assert_eq!(engine.stats().in_flight, 0);
}
