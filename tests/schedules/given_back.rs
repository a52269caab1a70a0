//! A claim that comes back from `complete_in` because the disk is full, as its lease ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
