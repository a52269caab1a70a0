//! Who waits in line keeps the place, whatever happens meanwhile that is no concern of the one that
//! waits.

use std::pin::{Pin, pin};
use std::task::Poll;

use crate::common::{Machine, default_scope, fresh, poll, ready, request, run};

use idemkv::{Begin, BeginError, Busy, Claim, Engine, Scope};

type Beginning = Pin<Box<dyn Future<Output = Result<Begin, BeginError>>>>;

fn begin(scope: &Scope, key: &str) -> Beginning {
    let (scope, key) = (scope.clone(), key.to_owned());
    Box::pin(async move { scope.begin_async(key, request()).await })
}

#[track_caller]
fn claim(begun: Result<Begin, BeginError>) -> Claim {
    match begun {
        Ok(Begin::Fresh(claim)) => claim,
        other => panic!("{other:?}"),
    }
}

/// Claims that fill the log, without a begin in line.
fn fill(engine: &Engine, scope: &Scope) -> Vec<Claim> {
    let mut claims = Vec::new();
    loop {
        let mut call = begin(scope, &format!("claim {}", claims.len()));
        assert!(poll(call.as_mut()).is_pending());
        if engine.stats().waiting_for_room > 0 {
            return claims;
        }
        engine.flush().unwrap();
        claims.push(claim(ready(call.as_mut())));
    }
}

/// Two begins of this scope wait in line for log space when a policy of the other is declared.
/// There is space for one of them then; this returns the claim of the first.
fn first_in_line(scope: &Scope, engine: &Engine, other: &str, limit: Option<u32>) -> (Claim, Vec<Claim>) {
    let mut claims = fill(engine, &default_scope(engine));
    let policy = limit.map_or(engine.policy(), |max| engine.policy().max_in_flight(max));
    let mut declares = pin!(engine.set_policy_async(other, policy));
    assert!(poll(declares.as_mut()).is_pending());
    assert_eq!((engine.stats().waiting_for_room, engine.stats().queued), (0, 1), "it has space");
    let mut first = begin(scope, "first");
    assert!(poll(first.as_mut()).is_pending());
    engine.flush().unwrap();
    assert!(poll(declares.as_mut()).is_ready());
    let mut second = begin(scope, "second");
    assert!(poll(second.as_mut()).is_pending());
    assert_eq!(engine.stats().waiting_for_room, 2);
    claims.drain(..2).for_each(|claim| claim.release().unwrap());
    for _ in 0..3 {
        if let Poll::Ready(begun) = poll(first.as_mut()) {
            return (claim(begun), claims);
        }
        assert!(poll(second.as_mut()).is_pending(), "it came later");
        engine.flush().unwrap();
    }
    panic!("there is space for it");
}

#[test]
fn a_begin_keeps_its_place_in_line_when_another_scope_gets_a_policy() {
    let machine = Machine::default();
    let engine = machine.open();
    drop(first_in_line(&default_scope(&engine), &engine, "another scope", None));
}

/// The log space that it was given stays its own.
#[test]
fn a_begin_keeps_its_place_in_line_when_its_own_scope_gets_a_limit_which_counts_it() {
    for limit in [None, Some(2)] {
        let machine = Machine::default();
        let engine = machine.open();
        let jobs = engine.scope("jobs");
        let (first, claims) = first_in_line(&jobs, &engine, "jobs", limit);
        drop(claims);
        engine.checkpoint().unwrap();
        let other = claim(run(&engine, jobs.begin_async("other", request())));
        let next = run(&engine, jobs.begin_async("next", request()));
        match limit {
            None => drop(claim(next)),
            Some(_) => {
                assert!(matches!(next, Err(BeginError::Busy(Busy::TooManyClaims { max: 2 }))), "{next:?}");
            }
        }
        first.release().unwrap();
        other.release().unwrap();
        drop(claim(run(&engine, jobs.begin_async("later", request()))));
    }
}

/// A begin in line has a place of its scope's limit, and so has a claim in flight. A lower limit has
/// one place for both.
#[test]
fn a_begin_in_line_is_refused_where_its_scope_gets_a_lower_limit_that_is_used_up() {
    for is_used_up in [true, false] {
        let machine = Machine::default();
        let engine = machine.open();
        let limit = |max| engine.policy().max_in_flight(max);
        let jobs = engine.set_policy("jobs", limit(2)).unwrap();
        let first = fresh(&jobs, "first");
        let mut claims = fill(&engine, &default_scope(&engine));
        let mut lowers = pin!(engine.set_policy_async("jobs", limit(1)));
        assert!(poll(lowers.as_mut()).is_pending());
        assert_eq!((engine.stats().waiting_for_room, engine.stats().queued), (0, 1), "it has space");
        let mut second = begin(&jobs, "second");
        assert!(poll(second.as_mut()).is_pending());
        assert_eq!(engine.stats().waiting_for_room, 1);
        engine.flush().unwrap();
        drop(ready(lowers.as_mut()).unwrap());
        let first = if is_used_up { Some(first) } else { first.release().map(|()| None).unwrap() };
        claims.drain(..2).for_each(|claim| claim.release().unwrap());
        let begun = run(&engine, second);
        if is_used_up {
            assert!(matches!(begun, Err(BeginError::Busy(Busy::TooManyClaims { max: 1 }))), "{begun:?}");
        } else {
            claim(begun).release().unwrap();
        }
        // Each place is counted once.
        if let Some(first) = first {
            first.release().unwrap();
        }
        let one = claim(run(&engine, jobs.begin_async("one", request())));
        let next = run(&engine, jobs.begin_async("next", request()));
        assert!(matches!(next, Err(BeginError::Busy(Busy::TooManyClaims { max: 1 }))), "{next:?}");
        drop(one);
    }
}

/// A record that is on disk is found, whatever policies scopes are given meanwhile.
#[test]
fn a_begin_that_reads_its_record_from_disk_is_answered_while_scopes_get_policies() {
    for is_its_own in [false, true] {
        let machine = Machine::default();
        let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
        let jobs = engine.scope("jobs");
        fresh(&jobs, "key").complete("reply").unwrap();
        engine.checkpoint().unwrap();
        let mut call = begin(&jobs, "key");
        assert!(poll(call.as_mut()).is_pending());
        let name = if is_its_own { "jobs" } else { "another scope" };
        drop(engine.set_policy(name, engine.policy().max_in_flight(7)).unwrap());
        engine.step();
        let begun = ready(call.as_mut());
        assert!(matches!(begun, Ok(Begin::Done(_))), "{begun:?}");
    }
}

/// A begin of a vacant key may be granted by its policy alone, so a change of that is looked at, but
/// not a declaration of the same.
#[test]
fn a_policy_declared_again_as_it_was_changes_nothing_for_those_that_wait() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().max_in_flight(7)).unwrap();
    drop(first_in_line(&jobs, &engine, "jobs", Some(7)));
}

/// A task whose record is read from disk waits for one of 1,024 places.
#[test]
fn a_task_that_waits_for_a_read_is_not_passed_by_those_that_come_later() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    let crowd = || -> Vec<_> {
        let mut calls: Vec<_> = (0..1_024).map(|_| begin(&scope, "key")).collect();
        assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
        calls
    };
    let mut before = crowd();
    let mut first = begin(&scope, "key");
    assert!(poll(first.as_mut()).is_pending());
    let mut dropped = begin(&scope, "key");
    assert!(poll(dropped.as_mut()).is_pending());
    let mut second = begin(&scope, "key");
    assert!(poll(second.as_mut()).is_pending());
    // One that goes leaves its place to the next, before it was given one and after.
    drop(dropped);
    engine.step();
    assert!(before.iter_mut().all(|call| ready(call.as_mut()).is_ok()));
    // They come before the first, which was given a place, runs.
    let mut after = crowd();
    assert!(poll(first.as_mut()).is_pending() && poll(second.as_mut()).is_pending());
    engine.step();
    assert!(ready(first.as_mut()).is_ok() && ready(second.as_mut()).is_ok());
    after.retain_mut(|call| poll(call.as_mut()).is_pending());
    assert_eq!(after.len(), 2, "those that came last");
    engine.step();
    assert!(after.iter_mut().all(|call| ready(call.as_mut()).is_ok()));
}

/// Completes `key` and leaves its record on disk alone.
fn on_disk_alone(scope: &Scope, engine: &Engine) {
    fresh(scope, "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
}

fn reads(scope: &Scope, count: usize) -> Vec<Beginning> {
    let mut calls: Vec<_> = (0..count).map(|_| begin(scope, "key")).collect();
    assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
    calls
}

#[test]
fn a_place_for_a_read_that_a_task_was_given_and_does_not_take_goes_to_the_next() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    on_disk_alone(&scope, &engine);
    let calls = reads(&scope, 3 * 1_024);
    engine.step();
    // All that were in line were given places, because no job was left. They go.
    drop(calls);
    let mut later = reads(&scope, 1_024);
    engine.step();
    assert!(later.iter_mut().all(|call| ready(call.as_mut()).is_ok()), "their places are lost");
}

/// Their executor is blocked, or keeps them without a poll.
#[test]
fn tasks_that_do_not_come_for_their_reads_hold_up_no_others() {
    let machine = Machine::default();
    let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    on_disk_alone(&scope, &engine);
    let mut kept = reads(&scope, 3 * 1_024);
    let (mut in_line, mut later) = (begin(&scope, "key"), begin(&scope, "key"));
    assert!(poll(in_line.as_mut()).is_pending());
    engine.step();
    assert!(poll(in_line.as_mut()).is_pending() && poll(later.as_mut()).is_pending());
    engine.step();
    assert!(poll(in_line.as_mut()).is_ready(), "it waits for as long as nobody polls the others");
    assert!(poll(later.as_mut()).is_pending());
    engine.step();
    assert!(poll(later.as_mut()).is_ready(), "it waits for as long as nobody polls the others");
    // Those that come late are answered as well.
    kept.retain_mut(|call| poll(call.as_mut()).is_pending());
    engine.step();
    assert!(kept.iter_mut().all(|call| ready(call.as_mut()).is_ok()));
}

/// On a slow disk, clients that give up and come again would make reads for nobody, before those of
/// the clients that wait.
#[test]
fn a_read_for_which_no_task_waits_any_more_is_not_made() {
    let machine = Machine::default();
    let options = Engine::options().disk(&machine.disk).clock(&machine.clock).stepped();
    let engine = options.cache_bytes(0).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let keys: Vec<_> = (0..12).map(|key| key.to_string()).collect();
    for key in &keys {
        fresh(&scope, key).complete(vec![7; 200 << 10]).unwrap();
    }
    engine.checkpoint().unwrap();
    // Together they are longer than what redb keeps in memory.
    let begin_all = || -> Vec<_> {
        let mut calls: Vec<_> = keys.iter().map(|key| begin(&scope, key)).collect();
        assert!(calls.iter_mut().all(|call| poll(call.as_mut()).is_pending()));
        calls
    };
    let before = machine.disk.reads();
    drop(begin_all());
    engine.step();
    assert_eq!(machine.disk.reads(), before, "they are made all the same");
    let mut waits = begin_all();
    engine.step();
    assert!(waits.iter_mut().all(|call| ready(call.as_mut()).is_ok()) && machine.disk.reads() > before);
}
