//! The sweeper's work follows what falls due, not how many keys there are.

use std::thread;
use std::time::{Duration, Instant};

use crate::common::{Machine, default_scope, fresh, request, run};
use idemkv::sim::{ManualClock, SimDisk};
use idemkv::{Begin, Claim, Durability, Engine, Policy, Recovery, Scope};

/// Keys that stay for a week, beside a default policy of half a second.
const LONG: usize = 20_000;
const SHORT_TTL: Duration = Duration::from_millis(500);

/// An engine, and how many cells it passes to find out what it has.
fn with_long_lived_keys(machine: &Machine) -> (Engine, usize) {
    let options = machine.options().policy(Policy::default().ttl(SHORT_TTL)).cache_bytes(1 << 20).shards(4);
    let engine = options.log_bytes(16 << 20).open("x.idem").unwrap();
    let week = Policy::default().ttl(Duration::from_secs(7 * 24 * 3_600));
    let long = engine.set_policy("long", week).unwrap();
    for key in 0..LONG {
        fresh(&long, &key.to_string()).complete([]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(Duration::from_secs(60));
    (engine.clone(), engine.step().passed)
}

#[test]
fn an_idle_engine_does_not_pass_all_keys_again_and_again() {
    let machine = Machine::default();
    let (engine, cells) = with_long_lived_keys(&machine);
    assert!(cells >= LONG);
    let mut passed = 0;
    // Ten minutes, in steps of a worker's.
    for _ in 0..12_000 {
        machine.clock.advance(Duration::from_millis(50));
        passed += engine.step().passed;
    }
    assert!(passed <= 10 * cells, "{passed} cells in ten minutes, of {cells}");
}

#[test]
fn keys_with_a_short_life_leave_memory_at_a_cost_for_each_and_soon() {
    let machine = Machine::default();
    let (engine, cells) = with_long_lived_keys(&machine);
    let (mut passed, mut most) = (0, 0);
    let rounds = 200;
    for round in 0..rounds {
        for key in 0..100 {
            fresh(&engine.scope(""), &format!("{round} {key}")).complete([]).unwrap();
        }
        machine.clock.advance(Duration::from_millis(100));
        passed += engine.step().passed;
        most = most.max(engine.stats().entries);
    }
    let short = rounds * 100;
    assert!(passed <= 20 * short, "{passed} cells for {short} keys");
    // Those of the last half second, and a sixteenth of the cells.
    assert!(most <= LONG + 600 + cells / 8, "{most} keys");
    machine.clock.advance(Duration::from_secs(600));
    engine.step();
    assert_eq!(engine.stats().entries, LONG);
}

#[test]
fn interrupted_keys_leave_memory_once_their_time_is_over_after_a_kill_too() {
    let lost = 50;
    for is_killed in [false, true] {
        let machine = Machine::default();
        let (mut engine, cells) = with_long_lived_keys(&machine);
        let policy = engine.policy().unresolved_ttl(Duration::from_secs(1));
        let scope = engine.set_policy("lost", policy).unwrap();
        (0..lost).for_each(|key| drop(fresh(&scope, &key.to_string())));
        assert_eq!(engine.stats().interrupted, lost);
        if is_killed {
            machine.kill((engine, scope));
            engine =
                machine.options().cache_bytes(1 << 20).shards(4).log_bytes(16 << 20).open("x.idem").unwrap();
        }
        let mut passed = 0;
        for _ in 0..600 {
            machine.clock.advance(Duration::from_secs(1));
            passed += engine.step().passed;
        }
        assert_eq!((engine.stats().interrupted, engine.stats().entries), (0, LONG), "killed: {is_killed}");
        assert!(passed <= 10 * cells, "{passed} cells in ten minutes, of {cells}");
    }
}

/// Transactions one after the other have the maintenance lock nearly all the time.
#[test]
fn expired_keys_leave_memory_while_a_transaction_is_at_work() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    for key in 0..100 {
        fresh(&scope, &key.to_string()).complete([]).unwrap();
    }
    let claim = fresh(&scope, "in a transaction");
    machine.clock.advance(Duration::from_secs(24 * 3_600));
    let mut swept = 0;
    claim
        .complete_in(|_| {
            swept = thread::scope(|threads| threads.spawn(|| engine.step().swept).join().unwrap());
            Ok::<_, std::convert::Infallible>([])
        })
        .unwrap();
    assert_eq!(swept, 100);
}

/// Claims of which only memory knows, until they are dropped.
fn in_memory(scope: &Scope, claims: usize) -> Vec<Claim> {
    let requests: Vec<_> = (0..claims).map(|key| (key.to_string(), request())).collect();
    let begun = requests.chunks(1_000).flat_map(|some| scope.begin_many(some));
    let claim = |begun| match begun {
        Ok(Begin::Fresh(claim)) => claim,
        other => panic!("{other:?}"),
    };
    begun.map(claim).collect()
}

/// All those of one kill fall due together.
#[test]
fn interruptions_that_fall_due_together_are_vacated_in_steps_of_one_commit() {
    const LOST: usize = 11_000;
    let machine = Machine::default();
    let engine = machine.options().log_bytes(64 << 20).reserve_bytes(64).open("x.idem").unwrap();
    let policy = engine.policy().recovery(Recovery::Rerun).durability(Durability::Completions);
    let scope = run(&engine, engine.set_policy_async("jobs", policy)).unwrap();
    drop(in_memory(&scope, LOST));
    let lost = engine.stats().interrupted;
    assert_eq!(lost, LOST);
    machine.clock.advance(policy.get_unresolved_ttl().unwrap());
    let mut swept = 0;
    while swept < lost {
        let before = engine.stats().commits;
        let step = engine.step().swept;
        let commits = engine.stats().commits - before;
        assert!(step > 0 && commits <= 8, "{step} keys in {commits} commits of one step");
        swept += step;
    }
    assert_eq!((swept, engine.stats().entries), (lost, 0));
}

/// The worker looks once a second, but not once a second for each commit.
#[test]
fn interruptions_that_fall_due_together_are_vacated_without_pauses() {
    const LOST: usize = 10_000;
    let clock = ManualClock::at_millis(1_000);
    let options = Engine::options().disk(&SimDisk::new()).clock(&clock).reserve_bytes(64);
    let policy = Policy::default().recovery(Recovery::Rerun).durability(Durability::Completions);
    let engine = options.policy(policy).open("x.idem").unwrap();
    drop(in_memory(&default_scope(&engine), LOST));
    assert_eq!(engine.stats().interrupted, LOST);
    clock.advance(policy.get_unresolved_ttl().unwrap());
    let started = Instant::now();
    while engine.stats().interrupted > 0 {
        assert!(started.elapsed() < Duration::from_secs(20), "{} are left", engine.stats().interrupted);
        thread::yield_now();
    }
}
