//! The log has the entries about a key in the order in which its state changed, whoever queues them: a forgetting, the sweeper, the end of
//! a claim.

use std::sync::Arc;
use std::time::Duration;

use idemkv::sim::CrashKind;
use idemkv::{Begin, Status};
use shuttle::thread::spawn;

use super::common::{fresh, request};
use super::world::{FOR_EVER, Setup, World, explore};

/// How long an interrupted key is remembered in here.
const UNRESOLVED: Duration = Duration::from_secs(10);

/// A kill right now would leave the key as its callers see it.
fn is_the_same_after_a_kill(world: &World) {
    let seen = world.scope.get("key").unwrap();
    let found = world.opened_on(&world.disk.image(CrashKind::DropAll));
    match (&seen, found.scope("keys").get("key").unwrap()) {
        (Status::Done(before), Status::Done(after)) => assert_eq!(before.fence(), after.fence()),
        (Status::Vacant, Status::Vacant) => {}
        (before, after) => panic!("{before:?} is {after:?} after a kill"),
    }
}

#[test]
fn a_forgetting_destroys_no_result_that_came_later() {
    let setup = Setup {
        options: |options| options.cache_bytes(1 << 20),
        policy: |policy| policy.unresolved_ttl(UNRESOLVED),
    };
    explore("schedules::forget_and_sweep", 4, setup, |world| {
        drop(fresh(&world.scope, "key"));
        world.clock.advance(UNRESOLVED);
        let works: [fn(&World); 3] = [
            |world| {
                world.engine.step();
            },
            |world| drop(world.scope.forget("key")),
            |world| {
                match world.scope.begin_or_wait("key", request(), FOR_EVER).unwrap() {
                    Begin::Fresh(claim) => drop(claim.complete("reply").unwrap()),
                    other => panic!("{other:?}"),
                }
                world.engine.checkpoint().unwrap();
            },
        ];
        let threads = works.map(|work| {
            let world = Arc::clone(&world);
            spawn(move || work(&world))
        });
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        is_the_same_after_a_kill(&world);
        assert_eq!(world.engine.clone().close().unwrap().claims_left, 0);
    });
}
