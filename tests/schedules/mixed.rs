//! Transactions beside leases, tokens, progress, checkpoints and full disks: each claim of one key
//! ends in any way, and what was acknowledged is found after a power cut.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use idemkv::sim::{CrashKind, DiskFault};
use idemkv::{Begin, BeginError, Claim, CompleteInError, EndError, Recovery, Status};
use shuttle::future::block_on;
use shuttle::thread::{JoinHandle, spawn, yield_now};

use super::common::{poll, request};
use super::world::{FOR_EVER, LEASE, Setup, World, below, explore, one_in};

/// Begins and ends the claims of one key.
struct Caller {
    world: Arc<World>,
    is_task: bool,
    leases: bool,
    /// A result was.
    acknowledged: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
}

impl Caller {
    fn start(self) -> JoinHandle<()> {
        spawn(move || {
            for _ in 0..2 {
                if !self.begin() {
                    break;
                }
            }
            self.done.fetch_add(1, Ordering::SeqCst);
        })
    }

    /// Whether the engine may still grant claims.
    fn begin(&self) -> bool {
        let was_acknowledged = self.acknowledged.load(Ordering::SeqCst);
        let scope = &self.world.scope;
        let begun = if self.is_task {
            block_on(scope.begin_or_wait_async("key", request(), FOR_EVER))
        } else {
            scope.begin_or_wait("key", request(), FOR_EVER)
        };
        match begun {
            Ok(Begin::Fresh(claim)) => {
                assert!(!was_acknowledged, "a result that was acknowledged is granted again");
                if self.end(claim) {
                    self.acknowledged.store(true, Ordering::SeqCst);
                }
                true
            }
            Ok(Begin::Done(_)) => true,
            Ok(Begin::InFlight(_)) => panic!("it does not wait for ever"),
            Err(BeginError::Failed(_) | BeginError::Busy(_)) => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// Whether a result was acknowledged.
    fn end(&self, claim: Claim) -> bool {
        let mut held = Some(claim);
        while let Some(mut claim) = held {
            held = match below(if self.leases { 10 } else { 8 }) {
                0 => {
                    drop(claim.release());
                    None
                }
                1 => return claim.complete("reply").is_ok(),
                2 => return block_on(claim.complete_async("reply")).is_ok(),
                3 => None,
                4 | 5 => match self.complete_in(claim) {
                    Ok(()) => return true,
                    Err(error) => error.into_claim(),
                },
                6 => {
                    drop(claim.save_progress("so far"));
                    Some(claim)
                }
                7 => {
                    // Queued, and no caller waits for it.
                    drop(poll(Box::pin(claim.save_progress_async("so far")).as_mut()));
                    Some(claim)
                }
                8 => {
                    drop(claim.renew());
                    Some(claim)
                }
                _ => match claim.into_token() {
                    Ok(token) => self.world.scope.resume(&token).ok(),
                    Err(error) => error.into_claim(),
                },
            };
        }
        false
    }

    /// On a disk that may be full by then.
    fn complete_in(&self, claim: Claim) -> Result<(), EndError> {
        let disk = &self.world.disk;
        let is_full = one_in(2);
        let completed = claim.complete_in(|_| {
            if is_full {
                disk.fault_at(disk.operations(), DiskFault::Full);
            }
            Ok::<_, String>("reply")
        });
        completed.map(drop).map_err(|error| match error {
            CompleteInError::End(error) => error,
            other => panic!("{other}"),
        })
    }
}

fn mixed(world: &Arc<World>, leases: bool) {
    let (acknowledged, done) = (Arc::default(), Arc::<AtomicUsize>::default());
    let callers = [false, true, false].map(|is_task| {
        let (world, acknowledged, done) = (Arc::clone(world), Arc::clone(&acknowledged), Arc::clone(&done));
        Caller { world, is_task, leases, acknowledged, done }.start()
    });
    let theirs = Arc::clone(world);
    let checkpoints = spawn(move || {
        for _ in 0..3 {
            if one_in(3) {
                theirs.disk.fault_at(theirs.disk.operations(), DiskFault::Full);
            }
            drop(theirs.engine.checkpoint());
            yield_now();
        }
    });
    while done.load(Ordering::SeqCst) < callers.len() {
        // Seldom: where time runs on, no claim arrives within its lease.
        if one_in(30) {
            world.clock.advance(if one_in(2) { LEASE } else { Duration::from_millis(11) });
        }
        yield_now();
    }
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    checkpoints.join().unwrap();
    // A disk that was full has room again.
    drop(world.engine.checkpoint());
    let status = world.scope.get("key").unwrap();
    if acknowledged.load(Ordering::SeqCst) {
        assert!(matches!(status, Status::Done(_)), "{status:?}, though a result was acknowledged");
        let found = world.opened_on(&world.disk.image(CrashKind::DropAll));
        let status = found.scope("keys").get("key").unwrap();
        assert!(matches!(status, Status::Done(_)), "{status:?} after a power cut");
    }
    if !world.engine.stats().has_failed {
        // A token that nobody resumed is out until its lease ends.
        for _ in 0..1_000 {
            if world.engine.stats().in_flight == 0 {
                break;
            }
            world.clock.advance(LEASE);
            yield_now();
        }
        assert_eq!(world.engine.stats().in_flight, 0, "{:?}", world.scope.get("key"));
    }
    world.disk.crash_at(world.disk.operations());
}

#[test]
fn transactions_beside_full_disks_and_checkpoints() {
    let setup = Setup { policy: |policy| policy.recovery(Recovery::Rerun), ..Setup::default() };
    explore("schedules::mixed", 4, setup, |world| mixed(&world, false));
}

#[test]
fn transactions_beside_leases_and_tokens() {
    let setup = Setup { policy: |policy| policy.recovery(Recovery::Rerun).lease(LEASE), ..Setup::default() };
    explore("schedules::mixed_leases", 4, setup, |world| mixed(&world, true));
}
