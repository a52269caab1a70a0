//! Several processes on one database: sessions, takeovers, and one grant at a time.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, BeginError, ClaimError, Fence, Policy, Recovery, SharedError, Status, Waited};

use crate::random::Random;
use crate::server::{claim, request};

/// Runs in a process of its own: claims a key, says so, and holds it until it is killed.
#[test]
fn a_child_that_holds_a_claim() {
    let Ok(url) = std::env::var("IDEMKV_TEST_CHILD") else { return };
    let schema = std::env::var("IDEMKV_TEST_SCHEMA").unwrap();
    let mut options = idemkv::SharedOptions::new(url).schema(schema).session(Duration::from_secs(1));
    if let Ok(name) = std::env::var("IDEMKV_TEST_INSTANCE") {
        options = options.instance(name).session(Duration::from_secs(600));
    }
    let store = options.connect().unwrap();
    let held = claim(&store.scope("jobs"), "key");
    println!("\nheld {}", held.fence());
    let until = Instant::now() + Duration::from_secs(60);
    while Instant::now() < until {
        thread::park_timeout(Duration::from_secs(60));
    }
}

fn child(server: &crate::server::Server, schema: &str, instance: Option<&str>) -> (std::process::Child, u64) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "processes::a_child_that_holds_a_claim", "--nocapture"]);
    command.env("IDEMKV_TEST_CHILD", server.url()).env("IDEMKV_TEST_SCHEMA", schema);
    if let Some(name) = instance {
        command.env("IDEMKV_TEST_INSTANCE", name);
    }
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let held = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("held ")?.parse().ok());
    (child, held.unwrap())
}

#[test]
fn the_claims_of_a_killed_process_are_taken_over_when_its_session_ends() {
    let server = server!();
    let store = server.connect("process_killed");
    let jobs = store.scope("jobs");
    let (mut child, fence) = child(server, "process_killed", None);
    // While it lives, its session is renewed and its claim stands.
    let Ok(Begin::InFlight(pending)) = jobs.begin("key", request()) else { panic!() };
    assert!(matches!(pending.wait_timeout(Duration::from_millis(1_700)), Ok(Waited::TimedOut)));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(pending.wait(), Ok(Waited::Interrupted)));
    let next = claim(&jobs, "key");
    assert_eq!((next.attempt(), next.interrupted().unwrap().fence().get()), (2, fence));
    assert!(next.fence().get() > fence);
}

#[test]
fn the_places_of_a_killed_process_are_free_when_its_session_ends() {
    let server = server!();
    // Nobody finds the claim over, so its row stays in flight.
    let store = server.options("process_places").sweep_every(None).connect().unwrap();
    let policy = Policy::default().recovery(Recovery::Rerun).max_in_flight(1);
    let jobs = store.set_policy("jobs", policy).unwrap();
    let (mut child, _) = child(server, "process_places", None);
    let is_full = || matches!(jobs.begin("one more", request()), Err(BeginError::Busy(_)));
    assert!(is_full());
    child.kill().unwrap();
    child.wait().unwrap();
    let until = Instant::now() + Duration::from_secs(30);
    let another = loop {
        match jobs.begin("another", request()) {
            Ok(Begin::Fresh(claim)) => break claim,
            _ => assert!(Instant::now() < until, "its place is not free"),
        }
    };
    assert!(is_full());
    another.release().unwrap();
    assert_eq!(claim(&jobs, "key").attempt(), 2);
}

#[test]
fn an_instance_that_starts_again_ends_the_claims_of_the_one_before_at_once() {
    let server = server!();
    let store = server.connect("process_named");
    let jobs = store.scope("jobs");
    let (mut child, fence) = child(server, "process_named", Some("worker-1"));
    child.kill().unwrap();
    child.wait().unwrap();
    // Its session would last for ten minutes.
    assert!(matches!(jobs.begin("key", request()), Ok(Begin::InFlight(_))));
    let again = server.options("process_named").instance("worker-1").connect().unwrap();
    let next = claim(&again.scope("jobs"), "key");
    assert_eq!((next.attempt(), next.interrupted().unwrap().fence().get()), (2, fence));
    // One that is alive is told when another takes its name, and takes it back from nobody.
    let third = server.options("process_named").instance("worker-1").connect().unwrap();
    let limit = Instant::now() + Duration::from_secs(30);
    let error = loop {
        assert!(Instant::now() < limit);
        match again.scope("jobs").begin("other", request()) {
            Ok(_) => thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, BeginError::Shared(SharedError::Replaced)), "{error}");
    let error = next.complete("late").unwrap_err();
    assert!(matches!(error.reason(), ClaimError::Superseded(_)), "{error}");
    assert!(matches!(third.scope("jobs").get("key"), Ok(Status::Interrupted(_))));
}

#[test]
fn a_process_whose_session_lapsed_goes_on_with_another_and_its_claims_are_over() {
    let server = server!();
    let one = server.options("process_lapsed").session(Duration::from_secs(600)).connect().unwrap();
    let two = server.connect("process_lapsed");
    let held = claim(&one.scope(""), "key");
    let leased = {
        let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_secs(60));
        one.set_policy("leased", policy).unwrap();
        claim(&one.scope("leased"), "key")
    };
    server.sql("UPDATE process_lapsed.sessions SET until_ms = 1");
    let next = claim(&two.scope(""), "key");
    assert_eq!(next.attempt(), 2);
    let error = held.complete("late").unwrap_err();
    assert!(matches!(error.reason(), ClaimError::Superseded(_)), "{error}");
    // A lease of its own stands without a session.
    assert!(matches!(two.scope("leased").begin("key", request()), Ok(Begin::InFlight(_))));
    leased.complete("in time").unwrap();
    claim(&one.scope(""), "other").complete("reply").unwrap();
    next.complete("reply").unwrap();
}

#[test]
fn a_named_process_whose_session_lapsed_keeps_its_leased_claims_until_another_takes_its_name() {
    let server = server!();
    // No sweep has a row locked when it is begun again: its claim would seem to stand.
    let options =
        || server.options("process_lapsed_name").session(Duration::from_secs(600)).sweep_every(None);
    let one = options().instance("worker-1").connect().unwrap();
    let two = options().connect().unwrap();
    let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_secs(3_600));
    let leased = one.set_policy("leased", policy).unwrap();
    let [first, second] = ["first", "second"].map(|key| claim(&leased, key));
    server.sql("UPDATE process_lapsed_name.sessions SET until_ms = 1 WHERE instance = 'worker-1'");
    // It starts another session under the same name.
    let third = claim(&leased, "third");
    let sessions = "SELECT count(*) FROM process_lapsed_name.sessions WHERE NOT replaced";
    assert_eq!(server.one(sessions), "3");
    let begun = two.scope("leased").begin("first", request());
    assert!(matches!(begun, Ok(Begin::InFlight(_))), "{begun:?}");
    first.complete("in time").unwrap();
    // A successor ends the claims of both sessions.
    drop(options().instance("worker-1").connect().unwrap());
    for late in [second, third] {
        let key = String::from_utf8_lossy(late.key()).into_owned();
        assert_eq!(claim(&two.scope("leased"), &key).attempt(), 2, "{key}");
        let error = late.complete("late").unwrap_err();
        assert!(matches!(error.reason(), ClaimError::Superseded(_)), "{error}");
    }
}

/// Three processes' worth of callers on few keys, with claims that are completed, released,
/// dropped and left until their lease is over.
#[test]
fn of_all_callers_one_has_a_good_claim_and_fences_grow() {
    let server = server!();
    let stores: Vec<_> = (0..3).map(|_| server.connect("process_random")).collect();
    let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_millis(40));
    stores[0].set_policy("", policy.ttl(Duration::from_millis(30))).unwrap();
    // The last fence of each key, and its last completion.
    let seen: Mutex<HashMap<String, Fence>> = Mutex::default();
    let until = Instant::now() + Duration::from_secs(4);
    thread::scope(|threads| {
        for caller in 0..9 {
            let (scope, seen) = (stores[caller % 3].scope(""), &seen);
            threads.spawn(move || {
                let mut random = Random(caller as u64);
                while Instant::now() < until {
                    let key = format!("key {}", random.below(4));
                    let claim = match scope.begin(&key, request()) {
                        Ok(Begin::Fresh(claim)) => claim,
                        Ok(Begin::InFlight(pending)) => {
                            drop(pending.wait_timeout(Duration::from_millis(50)).unwrap());
                            continue;
                        }
                        Ok(Begin::Done(_)) => continue,
                        Err(other) => panic!("{other}"),
                    };
                    let fence = claim.fence();
                    if random.below(3) == 0 {
                        // Past its lease.
                        let late = Instant::now() + Duration::from_millis(60);
                        while Instant::now() < late {
                            thread::yield_now();
                        }
                    }
                    match random.below(4) {
                        0 => drop(claim),
                        1 => drop(claim.release()),
                        _ => {
                            if claim.complete(&key).is_ok() {
                                // A claim that completes is the newest of its key: no later one has completed.
                                let before = seen.lock().unwrap().insert(key.clone(), fence);
                                assert!(
                                    before.is_none_or(|before| before < fence),
                                    "{key}: {before:?} then {fence}"
                                );
                            }
                        }
                    }
                }
            });
        }
    });
    assert_eq!(seen.lock().unwrap().len(), 4);
    let fences = server.sql("SELECT count(*), count(DISTINCT fence) FROM process_random.keys");
    assert_eq!(fences[0][0], fences[0][1]);
}

#[test]
fn the_number_of_a_session_that_was_lost_is_not_given_again() {
    let server = server!();
    let schema = "process_numbers";
    let one = server.options(schema).session(Duration::from_secs(300)).connect().unwrap();
    claim(&one.scope(""), "warm").release().unwrap();
    // As after a failover that has lost it, or a restore.
    server.sql(&format!("TRUNCATE {schema}.sessions RESTART IDENTITY"));
    let two = server.connect(schema);
    let held = claim(&one.scope(""), "key");
    // The claim stands by its own session, not by that of the other process.
    two.close().unwrap();
    held.complete("reply").unwrap();
}

#[test]
fn tables_that_were_made_anew_are_refused_by_those_who_knew_the_old_ones() {
    let server = server!();
    let schema = "process_anew";
    let stores: Vec<_> = (0..2)
        .map(|number| {
            let options = server.options(schema);
            let options = if number == 0 { options.instance("one") } else { options };
            options.connect().unwrap()
        })
        .collect();
    server.sql(&format!("DROP SCHEMA {schema} CASCADE"));
    let third = server.options(schema).instance("one").connect().unwrap();
    let held = claim(&third.scope(""), "key");
    for store in &stores {
        let refused = store.scope("").begin("key", request());
        let Err(error @ BeginError::Shared(SharedError::OtherStore)) = &refused else {
            panic!("{refused:?}")
        };
        assert!(!error.is_retryable());
        assert!(store.stats().has_failed);
    }
    held.complete("reply").unwrap();
    assert!(!third.stats().has_failed);
}
