//! Scopes that limit their claims in flight, over several processes.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_executor::block_on;
use futures_util::future::join_all;
use idemkv::{
    Begin, BeginError, BeginInTx, Busy, Claim, Engine, OpenError, Policy, Recovery, Scope, SetPolicyError,
};

use crate::random::Random;
use crate::server::{claim, on_runtime, request, within};

const LONG: Duration = Duration::from_secs(30);

fn rerun() -> Policy {
    Policy::default().ttl(Duration::from_secs(3_600)).recovery(Recovery::Rerun)
}

fn is_full(begun: &Result<Begin, BeginError>, of: usize) -> bool {
    matches!(begun, Err(BeginError::Busy(Busy::TooManyClaims { max })) if *max == of)
}

#[track_caller]
fn full(scope: &Scope, of: usize) {
    let begun = scope.begin("one more", request());
    assert!(is_full(&begun, of), "{begun:?}");
}

/// How many statements in this schema wait for a lock. Other tests run meanwhile.
fn waiting_in(schema: &str) -> String {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    format!("{waiting} AND query LIKE '%{schema}%'")
}

/// Two processes, and the scope in each.
fn two(schema: &str, limit: u32) -> Option<(Engine, Engine, Scope, Scope)> {
    let server = crate::server::get()?;
    let (one, two) = (server.connect(schema), server.connect(schema));
    let here = one.set_policy("jobs", rerun().max_in_flight(limit)).unwrap();
    let there = two.scope("jobs");
    Some((one, two, here, there))
}

#[test]
fn two_processes_reach_a_scopes_limit_together_and_neither_goes_beyond() {
    let server = server!();
    let Some((one, two, here, there)) = two("places_two", 3) else { return };
    let mut held = [claim(&here, "a"), claim(&there, "b"), claim(&here, "c")].into_iter();
    full(&here, 3);
    full(&there, 3);
    // Other scopes go on, and so do keys that have an answer.
    claim(&two.scope("other"), "one more").complete("").unwrap();
    assert!(matches!(there.begin("a", request()), Ok(Begin::InFlight(_))));
    held.next().unwrap().complete("reply").unwrap();
    assert!(matches!(there.begin("a", request()), Ok(Begin::Done(_))));
    let fourth = claim(&there, "d");
    full(&here, 3);
    drop(fourth);
    assert!(within(LONG, || !is_full(&here.begin("e", request()), 3)));
    // Not many more rows than claims at once; ends write none of them.
    let rows = server.one("SELECT count(*) FROM places_two.places");
    assert!((3..=6).contains(&rows.parse::<u32>().unwrap()), "{rows}");
    drop(one);
}

/// Each begin of the scope reads all of its places.
#[test]
fn places_are_used_again_however_many_a_scope_may_have() {
    let server = server!();
    let Some((_one, _two, here, there)) = two("places_again_used", 1_000) else { return };
    for n in 0..100 {
        let held = [(&here, "a"), (&there, "b")].map(|(scope, name)| claim(scope, &format!("{name} {n}")));
        for claim in held {
            claim.release().unwrap();
        }
    }
    let rows: u32 = server.one("SELECT count(*) FROM places_again_used.places").parse().unwrap();
    assert!((2..=4).contains(&rows), "{rows}");
}

/// The begin that waits for the transaction has a place meanwhile.
#[test]
fn a_result_that_is_not_committed_holds_up_a_place_for_a_moment() {
    let server = server!();
    let Some((_one, _two, here, there)) = two("places_open", 1) else { return };
    on_runtime(async {
        let mut client = server.client().await;
        let mut transaction = client.transaction().await.unwrap();
        let begun = here.begin_in_tx(&mut transaction, "key", request()).await;
        let Ok(BeginInTx::Fresh(held)) = begun else { panic!("{begun:?}") };
        let stored = held.complete(&mut transaction, "paid").await.unwrap();
        let scope = here.clone();
        let waits = thread::spawn(move || scope.begin("key", request()));
        let waiting = waiting_in("places_open");
        assert!(within(LONG, || server.one(&waiting) == "1" || waits.is_finished()));
        let started = Instant::now();
        let other = thread::spawn(move || there.begin("other", request())).join().unwrap();
        assert!(matches!(other, Ok(Begin::Fresh(_))), "{other:?}");
        assert!(started.elapsed() < Duration::from_millis(700), "{:?}", started.elapsed());
        let told = waits.join().unwrap();
        assert!(told.as_ref().is_err_and(|error| error.to_string().contains("transaction")), "{told:?}");
        transaction.commit().await.unwrap();
        drop(stored.committed());
    });
}

/// A key whose attempt was interrupted has a row. A new claim on it needs a place as any other.
#[test]
fn a_later_attempt_needs_a_place_and_so_does_a_resolution() {
    server!();
    let Some((_one, _two, here, there)) = two("places_again", 2) else { return };
    for key in ["lost", "found"] {
        drop(claim(&here, key));
        assert!(within(LONG, || matches!(there.get(key), Ok(idemkv::Status::Interrupted(_)))));
    }
    let (first, second) = (claim(&here, "a"), claim(&there, "lost"));
    assert_eq!(second.attempt(), 2);
    assert!(is_full(&here.begin("found", request()), 2));
    let resolved = there.resolve("found").map_err(|error| error.to_string());
    assert!(resolved.as_ref().is_err_and(|error| error.contains("2 claims are in flight")), "{resolved:?}");
    first.release().unwrap();
    assert_eq!(there.resolve("found").unwrap().attempt(), 2);
}

/// Its claims before may have had another place, which is free.
#[test]
fn a_key_that_is_claimed_again_counts_once() {
    server!();
    let Some((_one, _two, here, there)) = two("places_once", 2) else { return };
    for _ in 0..20 {
        let (first, second) = (claim(&here, "a"), claim(&there, "b"));
        full(&here, 2);
        first.release().unwrap();
        second.release().unwrap();
    }
}

/// Both have seen the place free when they come to take it.
#[test]
fn of_two_claims_that_find_the_same_place_free_one_is_granted() {
    let server = server!();
    let Some((_one, _two, here, there)) = two("places_same", 1) else { return };
    claim(&here, "before").complete("").unwrap();
    drop(claim(&here, "again"));
    assert!(within(LONG, || matches!(there.get("again"), Ok(idemkv::Status::Interrupted(_)))));
    for (round, keys) in [["a", "b"], ["c", "again"]].into_iter().enumerate() {
        let begun: Vec<_> = on_runtime(async {
            let mut client = server.client().await;
            let transaction = client.transaction().await.unwrap();
            transaction.execute("SELECT FROM places_same.places FOR UPDATE", &[]).await.unwrap();
            let begins = [(&here, keys[0]), (&there, keys[1])].map(|(scope, key)| {
                let scope = scope.clone();
                thread::spawn(move || scope.begin(key, request()))
            });
            let waiting = waiting_in("places_same");
            let until = Instant::now() + LONG;
            while server.one(&waiting) != "2" {
                assert!(Instant::now() < until, "they do not wait for the place");
            }
            transaction.commit().await.unwrap();
            begins.into_iter().map(|begin| begin.join().unwrap()).collect()
        });
        let fresh = begun.iter().filter(|begun| matches!(begun, Ok(Begin::Fresh(_)))).count();
        let refused = begun.iter().filter(|begun| is_full(begun, 1)).count();
        assert_eq!((fresh, refused), (1, 1), "{round}: {begun:?}");
        for begun in begun.into_iter().flatten() {
            let Begin::Fresh(claim) = begun else { continue };
            claim.release().unwrap();
        }
    }
}

#[test]
fn a_lowered_limit_counts_the_claims_that_stand_and_a_removed_one_counts_none() {
    server!();
    let Some((one, two, here, there)) = two("places_lowered", 5) else { return };
    let held = |key: &str| claim(&here, key);
    let mut claims: Vec<Claim> = (0..5).map(|n| held(&n.to_string())).collect();
    // Known to the other process at its next begin, without a word to it.
    one.set_policy("jobs", rerun().max_in_flight(2)).unwrap();
    for _ in 0..3 {
        full(&there, 2);
        claims.remove(0).complete("").unwrap();
    }
    full(&there, 2);
    // Those that are left may have the places above the limit.
    claims.remove(0).complete("").unwrap();
    claims.push(claim(&there, "another"));
    full(&here, 2);
    two.set_policy("jobs", rerun()).unwrap();
    let uncounted: Vec<_> = (0..4).map(|n| claim(&here, &format!("free {n}"))).collect();
    one.set_policy("jobs", rerun().max_in_flight(2)).unwrap();
    full(&there, 2);
    claims.remove(0).complete("").unwrap();
    let third = claim(&there, "third");
    full(&here, 2);
    drop((third, uncounted));
}

/// Claims that are completed, released, dropped and left until their lease is over, of few keys and
/// more callers than there are places.
#[test]
fn never_are_more_claims_in_flight_than_a_scope_may_have() {
    const LIMIT: u32 = 3;
    const GRANTS: u32 = 300;
    server!();
    let Some((_one, _two, here, there)) = two("places_random", LIMIT) else { return };
    let (in_flight, highest, granted) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    let until = Instant::now() + LONG;
    thread::scope(|threads| {
        for caller in 0..8 {
            let scope = if caller % 2 == 0 { here.clone() } else { there.clone() };
            let (in_flight, highest, granted) = (&in_flight, &highest, &granted);
            threads.spawn(move || {
                let mut random = Random(caller);
                while granted.load(Ordering::SeqCst) < GRANTS && Instant::now() < until {
                    let begun = scope.begin(format!("key {}", random.below(200)), request());
                    let claim = match begun {
                        Ok(Begin::Fresh(claim)) => claim,
                        Ok(_) => continue,
                        Err(BeginError::Busy(Busy::TooManyClaims { .. })) => continue,
                        Err(error) => panic!("{error}"),
                    };
                    let now = in_flight.fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(now <= LIMIT, "{now} at once");
                    highest.fetch_max(now, Ordering::SeqCst);
                    granted.fetch_add(1, Ordering::SeqCst);
                    (0..random.below(50)).for_each(|_| thread::yield_now());
                    in_flight.fetch_sub(1, Ordering::SeqCst);
                    match random.below(4) {
                        0 => drop(claim.complete("").unwrap()),
                        1 | 2 => claim.release().unwrap(),
                        _ => drop(claim),
                    }
                }
            });
        }
    });
    assert_eq!(highest.into_inner(), LIMIT);
    assert!(granted.into_inner() >= GRANTS);
    let store = crate::server::get().unwrap().connect("places_random");
    assert!(within(LONG, || !is_full(&store.scope("jobs").begin("last", request()), 3)));
}

/// Some of a group get the places, and the others are told at once that there are no more.
#[test]
fn a_group_that_is_larger_than_the_places_is_answered_in_one_statement() {
    let server = server!();
    let store = server.options("places_group").connections(1).sweep_every(None).count_every(None);
    let store = store.connect().unwrap();
    let jobs = store.set_policy("jobs", rerun().max_in_flight(5)).unwrap();
    for round in 0..3 {
        let before = store.shared_stats().unwrap();
        let keys: Vec<_> = (0..40).map(|n| (format!("{round} {n}"), request())).collect();
        let begun = jobs.begin_many(&keys);
        let after = store.shared_stats().unwrap();
        assert_eq!(begun.iter().filter(|begun| matches!(begun, Ok(Begin::Fresh(_)))).count(), 5);
        assert_eq!(begun.iter().filter(|begun| is_full(begun, 5)).count(), 35);
        assert_eq!(after.grouped - before.grouped, 40, "each is sent once");
        begun.into_iter().flatten().for_each(|begun| match begun {
            Begin::Fresh(claim) => claim.release().unwrap(),
            other => panic!("{other:?}"),
        });
    }
}

/// Groups of begins and of later attempts take places of two scopes.
#[test]
fn groups_that_take_places_do_not_deadlock() {
    let server = server!();
    let deadlocks =
        || server.one("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()");
    let before = deadlocks();
    let stores: Vec<_> = (0..3).map(|_| server.connect("places_sorted")).collect();
    for name in ["a", "b"] {
        stores[0].set_policy(name, rerun().max_in_flight(40)).unwrap();
    }
    let run = |number: usize| {
        let scopes = ["a", "b"].map(|name| stores[number].scope(name));
        move || {
            let mut random = Random(number as u64);
            let mut granted = 0;
            for _ in 0..30 {
                let begins = (0..100).map(|_| {
                    let scope = random.index(2);
                    scopes[scope].begin_async(format!("key {}", random.below(60)), request())
                });
                let begins: Vec<_> = begins.collect();
                for begun in block_on(join_all(begins)) {
                    match begun {
                        Ok(Begin::Fresh(claim)) => {
                            granted += 1;
                            if random.below(2) == 0 { drop(claim) } else { claim.release().unwrap() }
                        }
                        Ok(_) | Err(BeginError::Busy(Busy::TooManyClaims { .. })) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            granted
        }
    };
    let granted: u32 = thread::scope(|threads| {
        let running: Vec<_> = (0..3).map(|number| threads.spawn(run(number))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(granted > 500, "{granted}");
    // The server counts them when a connection is over or a second has passed.
    drop(stores);
    server.sql("SELECT pg_stat_clear_snapshot(); SELECT pg_sleep(1.2)");
    assert_eq!(deadlocks(), before);
}

/// Whatever the size of the tables when a connection's statements are planned.
#[test]
fn places_and_their_claims_are_looked_up_by_primary_keys() {
    let server = server!();
    let store = server.options("places_plans").connections(1).sweep_every(None).count_every(None);
    let store = store.connect().unwrap();
    let jobs = store.set_policy("jobs", rerun().max_in_flight(20)).unwrap();
    claim(&jobs, "first").release().unwrap();
    drop(claim(&jobs, "lost"));
    assert!(within(LONG, || matches!(jobs.get("lost"), Ok(idemkv::Status::Interrupted(_)))));
    claim(&jobs, "lost").release().unwrap();
    server.sql(
        "INSERT INTO places_plans.keys (state, digest, nonce, fence, attempt, fingerprint, started_ms, ttl_ms, remembered_ms, \
           scope, key) SELECT 4, gen_random_uuid(), gen_random_uuid(), 1, 1, '', 0, 0, 0, 'jobs', '' FROM generate_series(1, 20000);
         INSERT INTO places_plans.places SELECT 'others', n, gen_random_uuid(), 1, 0 FROM generate_series(1, 20000) n",
    );
    let looked = || -> Vec<u64> {
        let rows = server.sql(
            "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), sum(idx_scan) FROM pg_stat_user_tables \
             WHERE schemaname = 'places_plans' AND relname IN ('keys', 'places')",
        );
        rows[0].iter().map(|sum| sum.as_ref().unwrap().parse().unwrap()).collect()
    };
    for n in 0..20 {
        let claimed = claim(&jobs, &format!("key {n}"));
        let again = claim(&jobs, "lost");
        again.release().unwrap();
        claimed.release().unwrap();
    }
    store.close().unwrap();
    // A connection that ends tells what it has read.
    assert!(within(LONG, || looked()[1] > 80), "{:?}", looked());
    assert!(looked()[0] < 5_000, "{:?}", looked());
}

#[test]
fn a_limit_that_the_store_can_not_keep_is_refused() {
    let server = server!();
    let store = server.connect("places_range");
    for limit in [0, 1_001] {
        let refused = store.set_policy("jobs", rerun().max_in_flight(limit));
        assert!(
            matches!(&refused, Err(SetPolicyError::Policy(error)) if error.name() == "max_in_flight"),
            "{refused:?}"
        );
    }
    let refused = server.options("places_range").policy(rerun().max_in_flight(3)).connect();
    let Err(OpenError::Option(error)) = &refused else { panic!("{refused:?}") };
    assert!(error.name() == "max_in_flight" && error.to_string().contains("set_policy"), "{error}");
}
