//! Lists of keys, for operators and tools.

use std::collections::BTreeSet;

use idemkv::{ListPosition, Status};

use crate::world::{LEASE, MS, World, done, fresh, lose};

over_every_core!(
    keys_without_an_outcome_are_listed_oldest_first_and_page_by_page,
    an_interruption_that_stands_is_listed_as_it_was,
    all_live_keys_are_listed_with_what_they_are,
);

fn keys_without_an_outcome_are_listed_oldest_first_and_page_by_page(world: &dyn World) {
    let engine = world.open();
    let (scope, jobs) = (engine.scope("a"), engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap());
    let mut held = Vec::new();
    for number in 0..5 {
        lose(&scope, fresh(&scope, &format!("lost {number}")));
        held.push(fresh(&scope, &format!("held {number}")));
        world.advance(MS);
    }
    let leased = fresh(&jobs, "job");
    fresh(&scope, "done").complete("").unwrap();
    fresh(&scope, "released").release().unwrap();
    let lost = engine.interrupted().get().unwrap();
    let keys: Vec<_> = lost.iter().map(|key| String::from_utf8(key.key().to_vec()).unwrap()).collect();
    assert_eq!(keys, ["lost 0", "lost 1", "lost 2", "lost 3", "lost 4"]);
    assert!(lost.iter().all(|key| key.interrupted_at().is_some() && key.attempt().attempt() == 1));
    let (since, fence) = lost[1].position().parts();
    let page = engine.interrupted().after(ListPosition::from_parts(since, fence)).limit(2).get().unwrap();
    assert_eq!((page.len(), page[0].key(), page[1].key()), (2, &b"lost 2"[..], &b"lost 3"[..]));
    let out = engine.in_flight().get().unwrap();
    assert_eq!((out.len(), out[0].key(), out[5].key()), (6, &b"held 0"[..], &b"job"[..]));
    assert_eq!((out[5].lease_until(), out[0].lease_until()), (leased.lease_until(), None));
    assert!(out.iter().all(|key| key.interrupted_at().is_none()));
    let jobs_out = engine.in_flight().scope("jobs").get().unwrap();
    assert_eq!((jobs_out.len(), jobs_out[0].attempt().fence()), (1, leased.fence()));
    // A claim whose lease is over is interrupted since then.
    world.advance(LEASE + MS);
    let lapsed = engine.interrupted().scope("jobs").get().unwrap();
    assert_eq!((lapsed.len(), lapsed[0].interrupted_at()), (1, leased.lease_until()));
    assert!(engine.in_flight().scope("jobs").get().unwrap().is_empty());
}

fn an_interruption_that_stands_is_listed_as_it_was(world: &dyn World) {
    let engine = world.open();
    let scope = &engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let mut first = fresh(scope, "key");
    first.save_progress("half").unwrap();
    let until = first.lease_until();
    lose(scope, first);
    let before = engine.interrupted().get().unwrap();
    world.advance(MS);
    fresh(scope, "key").release().unwrap();
    let after = engine.interrupted().get().unwrap();
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_eq!((before[0].position(), before[0].attempt()), (after[0].position(), after[0].attempt()));
    assert_eq!(after[0].last_progress().unwrap(), b"half");
    assert!(until.is_some() && before[0].lease_until() == until);
    assert_eq!(after[0].lease_until(), None, "the lease of the attempt that was given back");
    assert!(scope.forget_if("key", idemkv::Seen::Interruption(after[0].attempt().fence())).unwrap());
    assert!(engine.interrupted().get().unwrap().is_empty());
}

fn all_live_keys_are_listed_with_what_they_are(world: &dyn World) {
    let engine = world.open();
    let scope = engine.scope("many");
    let requests: Vec<_> =
        (0..700).map(|number| (format!("key {number}"), crate::world::request())).collect();
    let claims = scope.begin_many(&requests).into_iter().map(|begun| match begun {
        Ok(idemkv::Begin::Fresh(claim)) => (claim, "reply"),
        other => panic!("{other:?}"),
    });
    assert!(engine.complete_many(claims.collect()).iter().all(Result::is_ok));
    lose(engine.default_scope(), fresh(engine.default_scope(), "lost"));
    let held = fresh(engine.default_scope(), "held");
    fresh(engine.default_scope(), "released").release().unwrap();
    let (mut records, mut others) = (BTreeSet::new(), Vec::new());
    for entry in engine.entries() {
        let entry = entry.unwrap();
        match entry.status() {
            Status::Done(record) => {
                assert_eq!(
                    (entry.scope(), record.key(), record.body()),
                    (&b"many"[..], entry.key(), &b"reply"[..])
                );
                assert!(records.insert(entry.key().to_vec()), "it is listed twice");
            }
            other => others.push((
                String::from_utf8(entry.key().to_vec()).unwrap(),
                matches!(other, Status::InFlight(_)),
            )),
        }
    }
    others.sort();
    assert_eq!(records.len(), 700);
    assert_eq!(others, [("held".to_owned(), true), ("lost".to_owned(), false)]);
    held.complete("").unwrap();
    assert_eq!(done(engine.default_scope(), "held").body(), b"");
}
