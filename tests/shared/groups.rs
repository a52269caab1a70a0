//! Calls that share statements.

use std::sync::Barrier;
use std::thread;

use futures_executor::block_on;
use futures_util::future::join_all;
use idemkv::{Begin, Claim, Record, Status};

use crate::random::Random;
use crate::server::{claim, request};

#[test]
fn calls_that_arrive_together_share_statements_and_each_gets_its_own_answer() {
    let server = server!();
    let store = server.options("groups_shared").sweep_every(None).count_every(None).connect().unwrap();
    let scope = store.scope("");
    let before = store.shared_stats().unwrap();
    let records = block_on(join_all((0..500).map(|number: u32| {
        let scope = scope.clone();
        async move {
            let Ok(Begin::Fresh(claim)) = scope.begin_async(format!("key {number}"), request()).await else {
                panic!()
            };
            assert_eq!(claim.key(), format!("key {number}").as_bytes());
            claim.complete_async(format!("reply {number}")).await.unwrap()
        }
    })));
    let after = store.shared_stats().unwrap();
    let (calls, groups) = (after.grouped - before.grouped, after.groups - before.groups);
    assert_eq!(calls, 1_000);
    assert!(groups < 300, "{groups} statements for {calls} calls");
    let mut fences: Vec<_> = records.iter().map(Record::fence).collect();
    fences.sort();
    fences.dedup();
    assert_eq!(fences.len(), 500);
    for number in [0, 250, 499] {
        let Ok(Begin::Done(record)) = scope.begin(format!("key {number}"), request()) else { panic!() };
        assert_eq!(record.body(), format!("reply {number}").as_bytes());
    }
}

/// Its row is still there, so each of them is a grant that compares and sets. Callers that wait
/// are woken together.
#[test]
fn begins_of_a_key_that_was_released_share_statements() {
    let server = server!();
    let store = server.options("groups_released").sweep_every(None).count_every(None).connect().unwrap();
    let scope = store.scope("");
    claim(&scope, "key").release().unwrap();
    let before = store.shared_stats().unwrap();
    let begun = block_on(join_all((0..200).map(|_| scope.begin_async("key", request()))));
    let granted = begun.iter().filter(|begun| matches!(begun, Ok(Begin::Fresh(_)))).count();
    assert!(begun.iter().all(|begun| matches!(begun, Ok(Begin::Fresh(_) | Begin::InFlight(_)))));
    let after = store.shared_stats().unwrap();
    let groups = after.groups - before.groups;
    assert!(granted == 1 && groups < 50, "{granted} granted, {groups} statements");
}

/// 40 MiB are too much for one answer.
#[test]
fn replays_of_large_bodies_come_back_in_parts() {
    let server = server!();
    let store = server.options("groups_large").sweep_every(None).count_every(None).connect().unwrap();
    let scope = store.scope("");
    let body = |number: u8| vec![number; 1 << 20];
    let keys: Vec<_> = (0..40_u8).map(|number| (number, format!("key {number}"))).collect();
    for (number, key) in &keys {
        claim(&scope, key).complete(body(*number)).unwrap();
    }
    let statements = || store.shared_stats().unwrap().statements;
    let before = statements();
    let begun = block_on(join_all(keys.iter().map(|(_, key)| scope.begin_async(key, request()))));
    for ((number, key), begun) in keys.iter().zip(begun) {
        let Ok(Begin::Done(record)) = begun else { panic!("{key}: {begun:?}") };
        assert!(record.body() == body(*number), "{key}");
    }
    assert!(statements() - before >= 5, "{} statements for 40 MiB", statements() - before);
    // Looks as well: waiters that come late, and `get`.
    let before = statements();
    let found = block_on(join_all(keys.iter().map(|(_, key)| scope.get_async(key))));
    assert!(found.iter().zip(&keys).all(|(found, (number, _))| {
        matches!(found, Ok(Status::Done(record)) if record.body() == body(*number))
    }));
    assert!(statements() - before >= 5, "{} statements for 40 MiB", statements() - before);
    let before = statements();
    let entries: Vec<_> = store.entries().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 40);
    assert!(
        entries.iter().all(|entry| {
            matches!(entry.status(), Status::Done(record) if record.body().len() == 1 << 20)
        })
    );
    assert!(statements() - before >= 5, "{} statements for 40 MiB", statements() - before);
}

#[test]
fn of_twins_in_one_group_one_is_granted() {
    let server = server!();
    let store = server.connect("groups_twins");
    let scope = store.scope("");
    for round in 0..10 {
        let key = format!("key {round}");
        let begun = block_on(join_all((0..100).map(|_| scope.begin_async(&key, request()))));
        let fresh = begun.iter().filter(|begun| matches!(begun, Ok(Begin::Fresh(_)))).count();
        let waiting = begun.iter().filter(|begun| matches!(begun, Ok(Begin::InFlight(_)))).count();
        assert_eq!((fresh, waiting), (1, 99));
    }
}

/// Two processes begin the same keys in groups of many, each in another order: unsorted, their
/// statements would lock each other out.
#[test]
fn groups_of_several_processes_do_not_deadlock() {
    let server = server!();
    let deadlocks =
        || server.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
    let before = deadlocks();
    let stores: Vec<_> = (0..3).map(|_| server.connect("groups_sorted")).collect();
    let barrier = Barrier::new(stores.len());
    let granted: Vec<usize> = thread::scope(|threads| {
        let run = |number: usize| {
            let (store, barrier) = (&stores[number], &barrier);
            move || {
                let scope = store.scope("");
                let mut random = Random(number as u64);
                let mut granted = 0;
                for round in 0..30 {
                    let mut keys: Vec<u32> = (0..200).collect();
                    for at in (1..keys.len()).rev() {
                        keys.swap(at, random.index(at + 1));
                    }
                    barrier.wait();
                    let begins =
                        keys.iter().map(|key| scope.begin_async(format!("{round} {key}"), request()));
                    let claims: Vec<Claim> = block_on(join_all(begins))
                        .into_iter()
                        .filter_map(|begun| match begun.unwrap() {
                            Begin::Fresh(claim) => Some(claim),
                            Begin::InFlight(_) | Begin::Done(_) => None,
                        })
                        .collect();
                    granted += claims.len();
                    block_on(join_all(claims.into_iter().map(|claim| claim.complete_async(""))));
                }
                granted
            }
        };
        let running: Vec<_> = (0..stores.len()).map(|number| threads.spawn(run(number))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(granted.iter().sum::<usize>(), 30 * 200, "{granted:?}");
    // The server counts them when a connection is over or a second has passed.
    drop(stores);
    server.sql("SELECT pg_stat_clear_snapshot(); SELECT pg_sleep(1.2)");
    assert_eq!(deadlocks(), before);
}
