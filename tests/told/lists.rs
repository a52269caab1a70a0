//! Lists of keys in flight and of interrupted ones.

use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, fresh, request};
use idemkv::{Begin, Engine, OpenKey, ReadError, Timestamp};

const SECOND: Duration = Duration::from_secs(1);

fn keys(list: &[OpenKey]) -> Vec<&str> {
    list.iter().map(|entry| std::str::from_utf8(entry.key()).unwrap()).collect()
}

/// The names of interrupted keys, and of those in flight.
fn listed(engine: &Engine) -> (Vec<String>, Vec<String>) {
    let names = |list: Vec<OpenKey>| keys(&list).into_iter().map(str::to_owned).collect();
    (names(engine.interrupted().get().unwrap()), names(engine.in_flight().get().unwrap()))
}

#[test]
fn interrupted_keys_are_listed_oldest_first_with_all_that_is_known_and_nothing_is_read_or_changed() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("charges");
    for n in 0..50 {
        fresh(&scope, &format!("done {n}")).complete("reply").unwrap();
    }
    let started = engine.now();
    let mut claims = ["c", "a", "b"].map(|key| fresh(&scope, key));
    let fences = [claims[0].fence(), claims[1].fence(), claims[2].fence()];
    claims[0].save_progress("half").unwrap();
    for claim in claims {
        machine.clock.advance(SECOND);
        drop(claim);
    }
    engine.checkpoint().unwrap();
    let (reads, operations) = (machine.disk.reads(), machine.disk.operations());
    for _ in 0..2 {
        let list = engine.interrupted().get().unwrap();
        assert_eq!(keys(&list), ["c", "a", "b"]);
        for (n, entry) in list.iter().enumerate() {
            assert_eq!((entry.scope(), entry.fingerprint()), (&b"charges"[..], request()));
            let attempt = entry.attempt();
            assert_eq!((attempt.attempt(), attempt.fence(), attempt.started()), (1, fences[n], started));
            let at = Timestamp::from_millis(started.as_millis() + 1_000 * (n as u64 + 1));
            assert_eq!((entry.interrupted_at(), entry.lease_until()), (Some(at), None));
            assert_eq!(entry.last_progress(), (n == 0).then_some(&b"half"[..]));
            assert!(!format!("{entry:?}").contains("key"), "{entry:?}");
        }
    }
    assert_eq!(
        (machine.disk.reads(), machine.disk.operations()),
        (reads, operations),
        "nothing was read or written"
    );
    assert!(engine.in_flight().get().unwrap().is_empty());
    let Ok(claim) = scope.resolve("a") else { panic!("it was interrupted") };
    assert_eq!(claim.attempt(), 2, "a look uses up no attempt");
}

#[test]
fn keys_in_flight_are_listed_oldest_first_until_their_claims_end() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claims = ["c", "a", "b"].map(|key| {
        machine.clock.advance(SECOND);
        fresh(&scope, key)
    });
    let list = engine.in_flight().get().unwrap();
    assert_eq!(keys(&list), ["c", "a", "b"]);
    for (entry, claim) in list.iter().zip(&claims) {
        assert_eq!((entry.attempt().fence(), entry.interrupted_at()), (claim.fence(), None));
    }
    let [c, a, b] = claims;
    c.complete("reply").unwrap();
    a.release().unwrap();
    drop(b);
    assert_eq!(listed(&engine), (vec!["b".to_owned()], vec![]));
}

#[test]
fn a_list_comes_in_pages_of_one_scope_and_every_entry_comes_once() {
    let machine = Machine::default();
    let engine = machine.open();
    for n in 0..100 {
        if n % 3 == 0 {
            machine.clock.advance(SECOND);
        }
        drop(fresh(&engine.scope("mine"), &format!("{n:02}")));
        drop(fresh(&engine.scope("theirs"), &format!("{n:02}")));
    }
    let mut seen = Vec::new();
    let mut page = engine.interrupted().scope("mine").limit(7).get().unwrap();
    while let Some(last) = page.last().map(OpenKey::position) {
        assert!(page.len() <= 7 && page.iter().all(|entry| entry.scope() == b"mine"));
        seen.extend(keys(&page).into_iter().map(str::to_owned));
        page = engine.interrupted().scope("mine").limit(7).after(last).get().unwrap();
    }
    assert_eq!(seen, (0..100).map(|n| format!("{n:02}")).collect::<Vec<_>>());
    assert_eq!(engine.interrupted().limit(1_000).get().unwrap().len(), 200);
    assert!(engine.interrupted().limit(0).get().unwrap().is_empty());
    assert!(engine.interrupted().scope("nobody's").get().unwrap().is_empty());
}

#[test]
fn a_claim_whose_lease_is_over_is_listed_as_interrupted_at_its_end() {
    let machine = Machine::default();
    let engine = machine.open();
    let jobs = engine.set_policy("jobs", engine.policy().lease(10 * SECOND)).unwrap();
    let claim = fresh(&jobs, "key");
    let until = claim.lease_until();
    assert_eq!(engine.in_flight().get().unwrap()[0].lease_until(), until);
    machine.clock.advance(10 * SECOND);
    let list = engine.interrupted().get().unwrap();
    assert_eq!((keys(&list), list[0].interrupted_at()), (vec!["key"], until));
    assert!(engine.in_flight().get().unwrap().is_empty());
    engine.step();
    assert_eq!(listed(&engine), (vec!["key".to_owned()], vec![]), "the worker's coming by changes nothing");
    drop(claim);
}

#[test]
fn claims_that_a_kill_left_behind_are_listed_after_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claims = ["b", "a"].map(|key| fresh(&scope, key));
    drop(fresh(&scope, "dropped"));
    machine.kill((claims, scope, engine));
    machine.clock.advance(SECOND);
    let engine = machine.open();
    let list = engine.interrupted().get().unwrap();
    // All of them were found dead at the opening; the oldest claim comes first.
    assert_eq!(keys(&list), ["b", "a", "dropped"]);
    assert_eq!(engine.in_flight().get().unwrap().len(), 0);
}

#[test]
fn what_is_no_longer_remembered_is_not_listed_and_a_closed_engine_lists_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let Ok(Begin::Fresh(claim)) = engine.default_scope().begin("key", request()) else { panic!("it is new") };
    drop(claim);
    assert_eq!(engine.interrupted().get().unwrap().len(), 1);
    let remembered = engine.policy().get_ttl().max(TTL) * 1_000;
    machine.clock.advance(remembered);
    assert!(engine.interrupted().get().unwrap().is_empty());
    engine.clone().close().unwrap();
    assert!(matches!(engine.interrupted().get(), Err(ReadError::Closed)));
}
