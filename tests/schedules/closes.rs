//! Closing from everywhere at once, with a full queue, a full log and futures that are dropped:
//! every call returns, every close tells the same, and what was acknowledged is found again.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use idemkv::{Begin, BeginError, Busy, Closed, Options, Status};
use shuttle::future::block_on;
use shuttle::thread::{JoinHandle, spawn};

use super::common::request;
use super::world::{Setup, World, explore, one_in};

/// Works on keys of its own until the engine is closed; notes the keys whose completion was
/// acknowledged.
fn work(world: &Arc<World>, number: usize, acknowledged: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let (scope, acknowledged, is_task) = (world.scope.clone(), Arc::clone(acknowledged), number % 2 == 0);
    spawn(move || {
        for n in 0..3 {
            let key = format!("{number} {n}");
            if is_task && one_in(3) {
                // It gives up where it has to wait.
                let mut begin = pin!(scope.begin_async(&key, request()));
                let begun = begin.as_mut().poll(&mut Context::from_waker(Waker::noop()));
                drop(begun);
                continue;
            }
            let begun = if is_task {
                block_on(scope.begin_async(&key, request()))
            } else {
                scope.begin(&key, request())
            };
            let claim = match begun {
                Ok(Begin::Fresh(claim)) => claim,
                Err(BeginError::Closed) => return,
                Err(BeginError::Busy(Busy::QueueFull { .. })) => continue,
                other => panic!("{key}: {other:?}"),
            };
            let ended = match one_in(4) {
                true => claim.complete_in(|_| Ok::<_, String>("reply")).is_ok(),
                false if is_task => block_on(claim.complete_async("reply")).is_ok(),
                false => claim.complete("reply").is_ok(),
            };
            if ended {
                acknowledged.lock().unwrap().push(key);
            }
        }
    })
}

/// Closes as a thread, as a task, or inside a transaction. What a close inside gives is not the
/// last word.
fn close(world: &Arc<World>, way: usize) -> JoinHandle<Option<Closed>> {
    let world = Arc::clone(world);
    spawn(move || {
        let engine = world.engine.clone();
        match way {
            0 => Some(engine.close().unwrap()),
            1 => Some(block_on(engine.close_async()).unwrap()),
            _ => {
                if let Ok(Begin::Fresh(claim)) = world.scope.begin("inside", request()) {
                    drop(claim.complete_in(|_| engine.close().map(|_| "reply")));
                }
                None
            }
        }
    })
}

fn close_from_everywhere(world: &Arc<World>) {
    let acknowledged = Arc::default();
    let working: Vec<_> = (0..3).map(|number| work(world, number, &acknowledged)).collect();
    let closing: Vec<_> = (0..3).map(|way| close(world, way)).collect();
    working.into_iter().for_each(|thread| thread.join().unwrap());
    let told: Vec<_> = closing.into_iter().filter_map(|thread| thread.join().unwrap()).collect();
    assert_eq!(told[0], told[1], "two closes tell different things");
    let found = world.opened_on(&world.disk.image(idemkv::sim::CrashKind::DropAll));
    for key in &*acknowledged.lock().unwrap() {
        let status = found.scope("keys").get(key).unwrap();
        assert!(matches!(status, Status::Done(_)), "{key} is {status:?}");
    }
}

#[test]
fn a_full_queue_that_is_closed_from_everywhere() {
    let options = |options: Options| options.queue_entries(1);
    explore("schedules::a_full_queue_is_closed", 8, Setup { options, ..Setup::default() }, |world| {
        close_from_everywhere(&world);
    });
}

#[test]
fn a_full_log_that_is_closed_from_everywhere() {
    // Room for about eleven claims, of which eight are out.
    let options = |options: Options| options.max_body_bytes(12_000).reserve_bytes(12_000);
    explore("schedules::a_full_log_is_closed", 8, Setup { options, ..Setup::default() }, |world| {
        let held: Vec<_> = (0..8).map(|n| super::common::fresh(&world.scope, &format!("held {n}"))).collect();
        close_from_everywhere(&world);
        drop(held);
    });
}

/// Either the engine tells of the interruption and the file has it, or the close counts the claim
/// and the next opening tells.
#[test]
fn a_claim_dropped_beside_a_close_is_told_of_once() {
    explore("schedules::drops_and_closes", 8, Setup::default(), |world| {
        let claims = ["one", "two"].map(|key| super::common::fresh(&world.scope, key));
        if one_in(2) {
            world.engine.checkpoint().unwrap();
        }
        let dropping = claims.map(|claim| spawn(move || drop(claim)));
        let closed = close(&world, 0).join().unwrap().unwrap();
        dropping.into_iter().for_each(|thread| thread.join().unwrap());
        let told = world.engine.stats().dropped;
        let found = world.opened_on(&world.disk.image(idemkv::sim::CrashKind::DropAll));
        let (left, stats) = (closed.claims_left as u64, found.stats());
        assert_eq!((told + left, stats.found_interrupted, stats.interrupted), (2, left, 2));
    });
}

#[test]
fn tasks_whose_wakers_close_the_engine() {
    explore("schedules::wakers_close", 8, Setup::default(), |world| {
        let claim = super::common::fresh(&world.scope, "key");
        let closes = Arc::new(Closes(Arc::clone(&world)));
        let Ok(Begin::InFlight(pending)) = world.scope.begin("key", request()) else { panic!("it is out") };
        let mut waiting = Box::pin(async move { pending.wait_async().await });
        let waker = Waker::from(closes);
        assert!(matches!(waiting.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending));
        let others = [close(&world, 0), close(&world, 1)];
        let completed = claim.complete("reply").is_ok();
        others.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        let found = world.opened_on(&world.disk.image(idemkv::sim::CrashKind::DropAll));
        let status = found.scope("keys").get("key").unwrap();
        assert!(!completed || matches!(status, Status::Done(_)), "{status:?}");
    });
}

struct Closes(Arc<World>);

impl std::task::Wake for Closes {
    fn wake(self: Arc<Self>) {
        self.0.engine.clone().close().map(drop).unwrap();
    }
}
