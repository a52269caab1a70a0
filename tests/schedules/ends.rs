//! Everybody who waits is woken: at the end of a claim, of its lease, of his time, of the queue,
//! of the room in the log, of the engine.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idemkv::{Begin, BeginError, ClaimError, CommitError, Durability, EndError, Engine, Scope, Waited};
use shuttle::future::block_on;
use shuttle::thread::{JoinHandle, spawn, yield_now};

use super::common::{fresh, request};
use super::world::{FOR_EVER, LEASE, Setup, World, below, explore, one_in};

const TICK: Duration = Duration::from_millis(10);

/// Lets time go by until so many are done.
fn pass_until(world: &World, done: &AtomicUsize, count: usize) {
    while done.load(Ordering::SeqCst) < count {
        world.clock.advance(TICK);
        yield_now();
    }
}

/// A thread or a task that begins, waits and completes.
fn serve(world: &Arc<World>, is_task: bool, done: &Arc<AtomicUsize>) -> JoinHandle<()> {
    let (scope, done) = (world.scope.clone(), Arc::clone(done));
    spawn(move || {
        let begun = if is_task {
            block_on(scope.begin_or_wait_async("key", request(), FOR_EVER))
        } else {
            scope.begin_or_wait("key", request(), FOR_EVER)
        };
        match begun.unwrap() {
            Begin::Fresh(claim) => drop(claim.complete("reply")),
            Begin::Done(record) => assert_eq!(record.body(), b"reply"),
            Begin::InFlight(_) => panic!("it does not wait for ever"),
        }
        done.fetch_add(1, Ordering::SeqCst);
    })
}

#[test]
fn the_end_of_a_lease_wakes_those_who_wait_for_its_holder() {
    let setup = Setup { policy: |policy| policy.lease(LEASE), ..Setup::default() };
    explore("schedules::the_end_of_a_lease", 4, setup, |world| {
        let hung = fresh(&world.scope, "key");
        let done = Arc::default();
        let waiting = [false, false, true].map(|is_task| serve(&world, is_task, &done));
        // Two leases long, and no longer: where time ran on, no claim might arrive within its
        // lease.
        for _ in 0..10 {
            world.clock.advance(TICK);
            yield_now();
        }
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        let late = hung.complete("late").unwrap_err();
        assert!(matches!(late.reason(), ClaimError::Superseded(_)), "{late}");
        world.engine.clone().close().unwrap();
    });
}

#[test]
fn who_waits_for_a_while_waits_no_longer() {
    explore("schedules::who_waits_for_a_while", 4, Setup::default(), |world| {
        let claim = fresh(&world.scope, "key");
        let done: Arc<AtomicUsize> = Arc::default();
        let waiting = [false, true].map(|is_task| {
            let (world, done) = (Arc::clone(&world), Arc::clone(&done));
            spawn(move || {
                let started = world.engine.now();
                let begun = if is_task {
                    block_on(world.scope.begin_or_wait_async("key", request(), 2 * TICK))
                } else {
                    world.scope.begin_or_wait("key", request(), 2 * TICK)
                };
                let waited = world.engine.now().saturating_since(started);
                assert!(
                    matches!(begun, Ok(Begin::InFlight(_))) && waited >= 2 * TICK,
                    "{begun:?} after {waited:?}"
                );
                done.fetch_add(1, Ordering::SeqCst);
            })
        });
        pass_until(&world, &done, waiting.len());
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        claim.release().unwrap();
        world.engine.clone().close().unwrap();
    });
}

fn large(options: idemkv::Options) -> idemkv::Options {
    options.max_body_bytes(14 << 10).reserve_bytes(14 << 10).log_bytes(128 << 10)
}

#[test]
fn the_end_of_a_claim_makes_room_for_those_who_wait_for_it() {
    explore("schedules::room", 2, Setup { options: large, ..Setup::default() }, |world| {
        // As many as the log has room for.
        let mut held = Vec::new();
        for key in 0..5 {
            held.push(fresh(&world.scope, &format!("held {key}")));
        }
        let waiting = [false, true, false].map(|is_task| {
            let scope = world.scope.clone();
            spawn(move || {
                let key = format!("{is_task}");
                let begun = if is_task {
                    block_on(scope.begin_async(&key, request()))
                } else {
                    scope.begin_or_wait(&key, request(), FOR_EVER)
                };
                match begun.unwrap() {
                    Begin::Fresh(claim) if is_task => drop(block_on(claim.complete_async("reply")).unwrap()),
                    Begin::Fresh(claim) => drop(claim.complete("reply").unwrap()),
                    Begin::Done(record) => assert_eq!(record.body(), b"reply"),
                    Begin::InFlight(pending) => panic!("{pending:?}"),
                }
            })
        });
        for claim in held {
            if one_in(2) { drop(claim) } else { claim.release().unwrap() }
        }
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        world.engine.clone().close().unwrap();
    });
}

/// What was acknowledged: key and fence.
type Acknowledged = Arc<Mutex<Vec<(String, u64)>>>;

/// Whether a call failed because the engine was closed, or a commit had failed.
fn is_over_begin(error: &BeginError) -> bool {
    matches!(error, BeginError::Closed | BeginError::Failed(_))
}

fn is_over_end(error: &EndError) -> bool {
    matches!(error.reason(), ClaimError::Commit(CommitError::Closed | CommitError::Failed(_)))
}

/// Begins, waits and completes until there is nothing to do, or no engine.
fn work(scope: &Scope, is_task: bool, acknowledged: &Acknowledged) {
    for _ in 0..2 {
        let key = format!("{}", below(2));
        let begun =
            if is_task { block_on(scope.begin_async(&key, request())) } else { scope.begin(&key, request()) };
        match begun {
            Ok(Begin::Fresh(claim)) => {
                let fence = claim.fence().get();
                let ended = if is_task { block_on(claim.complete_async(&key)) } else { claim.complete(&key) };
                match ended {
                    Ok(_) => acknowledged.lock().unwrap().push((key, fence)),
                    Err(error) => assert!(is_over_end(&error), "{error}"),
                }
            }
            Ok(Begin::Done(record)) => acknowledged.lock().unwrap().push((key, record.fence().get())),
            Ok(Begin::InFlight(pending)) => {
                let waited = if is_task { block_on(pending.wait_async()) } else { pending.wait() };
                match waited {
                    Ok(Waited::Done(record)) => {
                        acknowledged.lock().unwrap().push((key, record.fence().get()))
                    }
                    Ok(Waited::Vacant | Waited::Interrupted) => {}
                    Ok(Waited::TimedOut) => panic!("it does not wait for ever"),
                    Err(error) => assert!(is_over_begin(&error), "{error}"),
                }
            }
            Err(error) => assert!(is_over_begin(&error), "{error}"),
        }
    }
}

fn workers(world: &Arc<World>, acknowledged: &Acknowledged) -> Vec<JoinHandle<()>> {
    let start = |is_task| {
        let (scope, acknowledged) = (world.scope.clone(), Arc::clone(acknowledged));
        spawn(move || work(&scope, is_task, &acknowledged))
    };
    [false, true, false].map(start).into()
}

fn is_all_there(engine: &Engine, acknowledged: &Acknowledged) {
    let scope = engine.scope("keys");
    for (key, fence) in &*acknowledged.lock().unwrap() {
        let found = scope.begin(key, request());
        let Ok(Begin::Done(record)) = &found else { panic!("{key} is {found:?}") };
        assert_eq!((record.fence().get(), record.body()), (*fence, key.as_bytes()));
    }
}

#[test]
fn closing_wakes_everybody_and_keeps_what_was_acknowledged() {
    explore("schedules::closing", 4, Setup::default(), |world| {
        let acknowledged = Acknowledged::default();
        let workers = workers(&world, &acknowledged);
        if one_in(2) {
            world.engine.checkpoint().unwrap();
        }
        world.engine.clone().close().unwrap();
        workers.into_iter().for_each(|thread| thread.join().unwrap());
        is_all_there(&world.opened_on(&world.disk), &acknowledged);
    });
}

#[test]
fn a_failed_commit_wakes_everybody_and_loses_nothing_that_was_acknowledged() {
    explore("schedules::a_failed_commit", 4, Setup::default(), |world| {
        let acknowledged = Acknowledged::default();
        let workers = workers(&world, &acknowledged);
        for _ in 0..below(40) {
            yield_now();
        }
        world.disk.fail_syncs(Some("-wal"));
        workers.into_iter().for_each(|thread| thread.join().unwrap());
        drop(world.engine.clone().close());
        world.disk.fail_syncs(None);
        let found = world.disk.image(idemkv::sim::CrashKind::DropAll);
        is_all_there(&world.opened_on(&found), &acknowledged);
    });
}

#[test]
fn what_is_acknowledged_early_is_flushed_when_its_time_has_come() {
    let policy = |policy: idemkv::Policy| policy.durability(Durability::Relaxed(2 * TICK));
    explore("schedules::relaxed", 4, Setup { policy, ..Setup::default() }, |world| {
        let records = [false, true].map(|is_task| {
            let scope = world.scope.clone();
            spawn(move || {
                let claim = fresh(&scope, if is_task { "task" } else { "thread" });
                if is_task {
                    block_on(claim.complete_async("reply")).unwrap()
                } else {
                    claim.complete("reply").unwrap()
                }
            })
        });
        let flush = one_in(2).then(|| {
            let engine = world.engine.clone();
            spawn(move || engine.flush().unwrap())
        });
        let records = records.map(|thread| thread.join().unwrap());
        // Nobody asks for it: idemkv-commit has to.
        while !records.iter().all(idemkv::Record::is_durable) {
            world.clock.advance(TICK);
            yield_now();
        }
        flush.into_iter().for_each(|thread| thread.join().unwrap());
        let found = world.opened_on(&world.disk.image(idemkv::sim::CrashKind::DropAll));
        for record in &records {
            let key = String::from_utf8_lossy(record.key()).into_owned();
            assert!(matches!(found.scope("keys").begin(&key, request()), Ok(Begin::Done(_))), "{key}");
        }
        world.engine.clone().close().unwrap();
    });
}
