//! Claims that come back: from `complete_in` because the disk is full, as the lease ends; and from a
//! begin that was dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use idemkv::sim::DiskFault;
use idemkv::{Begin, Waited};
use shuttle::thread::{spawn, yield_now};

use super::common::{fresh, request};
use super::world::{LEASE, Setup, explore};

#[test]
fn the_end_of_a_lease_is_told_though_the_claim_comes_back_from_a_full_disk() {
    let setup = Setup { policy: |policy| policy.lease(LEASE), ..Setup::default() };
    explore("schedules::given_back", 4, setup, |world| {
        let claim = fresh(&world.scope, "key");
        let Ok(Begin::InFlight(pending)) = world.scope.begin("key", request()) else { panic!("it is out") };
        let is_told = Arc::new(AtomicBool::new(false));
        let tells = Arc::clone(&is_told);
        let waiting = spawn(move || {
            let told = pending.wait();
            tells.store(true, Ordering::SeqCst);
            told
        });
        let theirs = Arc::clone(&world);
        let works = spawn(move || {
            // The claim that comes back is kept.
            claim.complete_in(|_| {
                theirs.disk.fault_at(theirs.disk.operations(), DiskFault::Full);
                Ok::<_, ()>("reply")
            })
        });
        world.clock.advance(LEASE + Duration::from_millis(10));
        let ended = works.join().unwrap();
        // Time goes by until it is told. Where that takes for ever, the scheduler says so.
        while !is_told.load(Ordering::SeqCst) {
            world.clock.advance(Duration::from_millis(10));
            yield_now();
        }
        let told = waiting.join().unwrap();
        let is_right = match &ended {
            Ok(_) => matches!(told, Ok(Waited::Done(_))),
            Err(_) => matches!(told, Ok(Waited::Interrupted)),
        };
        assert!(is_right, "{told:?} after {}", if ended.is_ok() { "a completion" } else { "a refusal" });
        world.disk.crash_at(world.disk.operations());
    });
}

/// A call that waited for it begins next, in a scope with one place.
#[test]
fn a_grant_that_is_taken_back_leaves_its_place_before_its_end_is_told() {
    let setup = Setup { policy: |policy| policy.max_in_flight(1), ..Setup::default() };
    explore("schedules::a_grant_that_is_taken_back", 4, setup, |world| {
        let scope = world.scope.clone();
        let mut begin = Box::pin(scope.begin_async("key", request()));
        let is_granted = begin.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready();
        let theirs = world.scope.clone();
        let waits = spawn(move || match theirs.begin("key", request()) {
            Ok(Begin::InFlight(pending)) => pending.wait().map(|_| theirs.begin("next", request())),
            other => Ok(other),
        });
        drop(begin);
        let next = waits.join().unwrap();
        let is_fresh = matches!(&next, Ok(Ok(Begin::Fresh(_))));
        assert!(is_fresh || is_granted, "{next:?}");
        drop(next);
        world.disk.crash_at(world.disk.operations());
    });
}
