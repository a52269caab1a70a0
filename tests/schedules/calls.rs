//! Calls at random, on one key mostly.

use std::sync::Arc;
use std::time::Duration;

use idemkv::{Durability, Recovery};

use super::actor::{Habits, act};
use super::world::{LEASE, Setup, World, explore};

#[test]
fn threads_on_one_key() {
    explore("schedules::threads_on_one_key", 8, Setup::default(), |world| {
        act(&world, 3, 0, 3, Habits { checkpoints: true, ..Habits::default() });
        world.finish();
    });
}

#[test]
fn threads_on_keys_whose_intents_are_not_durable() {
    let policy = |policy: idemkv::Policy| policy.durability(Durability::Completions);
    explore("schedules::intents_in_memory", 8, Setup { policy, ..Setup::default() }, |world| {
        act(&world, 3, 0, 3, Habits { checkpoints: true, ..Habits::default() });
        world.finish();
    });
}

#[test]
fn threads_on_keys_that_are_refused_where_they_are_interrupted() {
    let policy = |policy: idemkv::Policy| policy.recovery(Recovery::Refuse);
    explore("schedules::refused", 8, Setup { policy, ..Setup::default() }, |world| {
        act(&world, 2, 1, 3, Habits { checkpoints: true, batches: true, ..Habits::default() });
        world.finish();
    });
}

#[test]
fn tasks_and_a_thread_with_futures_that_are_dropped() {
    explore("schedules::dropped_futures", 8, Setup::default(), |world| {
        act(&world, 1, 2, 3, Habits { drops: true, checkpoints: true, ..Habits::default() });
        world.finish();
    });
}

#[test]
fn batches_of_threads_and_tasks() {
    explore("schedules::batches", 8, Setup::default(), |world| {
        act(&world, 2, 1, 3, Habits { batches: true, ..Habits::default() });
        world.finish();
    });
}

#[test]
fn a_queue_with_one_place() {
    let options = |options: idemkv::Options| options.queue_entries(1);
    explore("schedules::a_queue_with_one_place", 8, Setup { options, ..Setup::default() }, |world| {
        act(&world, 2, 2, 2, Habits { drops: true, batches: true, ..Habits::default() });
        world.finish();
    });
}

fn leases(policy: idemkv::Policy) -> idemkv::Policy {
    policy.lease(LEASE)
}

/// Lets leases run out while others work.
fn time_passes(world: &Arc<World>) -> shuttle::thread::JoinHandle<()> {
    let world = Arc::clone(world);
    shuttle::thread::spawn(move || {
        for _ in 0..3 {
            shuttle::thread::yield_now();
            world.advance(LEASE / 2 + Duration::from_millis(10));
        }
    })
}

#[test]
fn threads_and_tasks_with_leases_that_run_out() {
    explore("schedules::leases", 8, Setup { policy: leases, ..Setup::default() }, |world| {
        let time = time_passes(&world);
        act(&world, 2, 1, 3, Habits { leases: true, ..Habits::default() });
        time.join().unwrap();
        // What was handed over and never taken up lapses.
        world.advance(LEASE);
        while world.engine.stats().in_flight > 0 {
            world.clock.advance(Duration::from_millis(10));
            shuttle::thread::yield_now();
        }
        world.finish();
    });
}
