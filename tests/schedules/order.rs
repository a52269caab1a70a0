//! The log has the entries about a key in the order in which its state changed, whichever thread
//! queues them: a forgetting, the sweeper, the end of a claim, a grant that is withdrawn. And each
//! answer is right at a time between its call and its return, whatever policy comes into force
//! meanwhile, and whatever expires.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use idemkv::sim::CrashKind;
use idemkv::{Begin, BeginError, Busy, ClaimToken, Durability, Engine, Recovery, Status, TokenError};
use shuttle::future::block_on;
use shuttle::thread::{spawn, yield_now};

use super::common::{fresh, request};
use super::world::{FOR_EVER, LEASE, Setup, World, explore, one_in};

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

/// Begins, and lets the future go if it is not ready after a while. Whether a claim was had, and
/// lost.
async fn begin_for_a_while(world: &World) -> bool {
    let mut begin = pin!(world.scope.begin_async("key", request()));
    let asked = poll_fn(|context| match begin.as_mut().poll(context) {
        Poll::Ready(begun) => Poll::Ready(Some(begun)),
        Poll::Pending => Poll::Ready(None),
    });
    match asked.await {
        // The lease of a claim may run out that was had for a moment.
        Some(Ok(Begin::Fresh(claim))) => claim.complete_async("reply").await.is_err(),
        Some(
            Ok(Begin::InFlight(_) | Begin::Done(_)) | Err(BeginError::Closed | BeginError::Unresolved(_)),
        ) => false,
        Some(Err(error)) => panic!("{error}"),
        None => {
            (0..3).for_each(|_| yield_now());
            false
        }
    }
}

fn is_not_interrupted(engine: &Engine) {
    let status = engine.scope("keys").get("key").unwrap();
    assert!(!matches!(status, Status::Interrupted(_)), "{status:?}, though nobody had it");
}

#[test]
fn a_begin_that_nobody_waited_for_interrupts_nothing() {
    let setup = Setup {
        options: |options| options.queue_entries(1),
        policy: |policy| policy.recovery(Recovery::Refuse).lease(LEASE),
    };
    explore("schedules::begins_let_go_with_leases", 8, setup, |world| {
        let is_lost = Arc::new(AtomicBool::new(false));
        let begins = [(); 2].map(|()| {
            let (world, is_lost) = (Arc::clone(&world), Arc::clone(&is_lost));
            spawn(move || {
                if block_on(begin_for_a_while(&world)) {
                    is_lost.store(true, Ordering::SeqCst);
                }
            })
        });
        let closes = one_in(2);
        if closes {
            world.engine.clone().close().unwrap();
        } else {
            for _ in 0..2 {
                yield_now();
                world.clock.advance(LEASE);
            }
        }
        begins.into_iter().for_each(|thread| thread.join().unwrap());
        if is_lost.load(Ordering::SeqCst) {
            return;
        }
        if closes {
            return is_not_interrupted(&world.opened_on(&world.disk));
        }
        is_not_interrupted(&world.engine);
        world.engine.flush().unwrap();
        is_not_interrupted(&world.opened_on(&world.disk.image(CrashKind::DropAll)));
        world.engine.clone().close().unwrap();
    });
}

#[test]
fn an_interruption_under_a_new_policy_does_not_run_again_by_an_old_one() {
    explore("schedules::policies", 8, Setup::default(), |world| {
        let theirs = Arc::clone(&world);
        let other = spawn(move || match theirs.scope.begin("key", request()) {
            Ok(Begin::Fresh(claim)) => {
                let fence = claim.fence();
                claim.complete("reply").unwrap();
                Some(fence)
            }
            Ok(Begin::InFlight(_)) | Err(BeginError::Unresolved(_)) => None,
            other => panic!("{other:?}"),
        });
        let refuse = world.scope.policy().recovery(Recovery::Refuse);
        drop(world.engine.set_policy("keys", refuse).unwrap());
        if let Ok(Begin::Fresh(claim)) = world.scope.begin("key", request()) {
            let fence = claim.fence();
            drop(claim);
            let later = other.join().unwrap().filter(|theirs| *theirs > fence);
            assert_eq!(later, None, "it ran again, though its policy refuses that");
        } else {
            other.join().unwrap();
        }
        world.engine.clone().close().unwrap();
    });
}

#[test]
fn a_begin_that_its_scope_refuses_takes_no_place_of_the_engine() {
    let setup =
        Setup { options: |options| options.max_in_flight(2), policy: |policy| policy.max_in_flight(1) };
    explore("schedules::limits", 8, setup, |world| {
        let held = fresh(&world.scope, "held");
        let theirs = Arc::clone(&world);
        let refused = spawn(move || {
            let refused = theirs.scope.begin("key", request());
            let is_full = matches!(refused, Err(BeginError::Busy(Busy::TooManyClaims { max: 1 })));
            assert!(is_full, "{refused:?}");
        });
        fresh(&world.engine.scope("free"), "key").release().unwrap();
        refused.join().unwrap();
        held.release().unwrap();
        world.engine.clone().close().unwrap();
    });
}

#[test]
fn no_answer_tells_of_an_expiry_that_the_key_did_not_see() {
    const TTL: Duration = Duration::from_secs(60);
    let setup = Setup { policy: |policy| policy.ttl(TTL).tombstone_ttl(2 * TTL), ..Setup::default() };
    explore("schedules::expiry", 8, setup, |world| {
        drop(fresh(&world.scope, "key").complete("reply").unwrap());
        world.engine.checkpoint().unwrap();
        let asks: [fn(&World); 3] = [
            |world| {
                let seen = world.scope.get("key").unwrap();
                assert!(!matches!(seen, Status::Expired(_)), "{seen:?}");
            },
            |world| match world.scope.begin("key", request()) {
                Ok(Begin::Done(_) | Begin::InFlight(_)) => {}
                Ok(Begin::Fresh(claim)) => claim.release().unwrap(),
                Err(error) => panic!("{error}"),
            },
            |world| match block_on(world.scope.begin_async("key", request())) {
                Ok(Begin::Done(_) | Begin::InFlight(_)) => {}
                Ok(Begin::Fresh(claim)) => claim.release().unwrap(),
                Err(error) => panic!("{error}"),
            },
        ];
        let asking = asks.map(|ask| {
            let world = Arc::clone(&world);
            spawn(move || ask(&world))
        });
        // The record is gone before its time is over. A caller that finds the key vacant releases
        // it.
        assert!(world.scope.forget("key").unwrap());
        world.clock.advance(TTL);
        asking.into_iter().for_each(|thread| thread.join().unwrap());
        world.engine.clone().close().unwrap();
    });
}

#[test]
fn a_claim_taken_up_again_is_as_durable_as_when_it_was_granted() {
    let setup = Setup { policy: |policy| policy.lease(FOR_EVER), ..Setup::default() };
    explore("schedules::tokens", 8, setup, |world| {
        let claim = fresh(&world.scope, "key");
        let theirs = Arc::clone(&world);
        let other = spawn(move || {
            let relaxed = Durability::Relaxed(Duration::from_secs(60));
            drop(theirs.engine.set_policy("keys", theirs.scope.policy().durability(relaxed)).unwrap());
        });
        let token = claim.into_token().unwrap();
        let twin = Arc::clone(&world);
        let bytes = token.as_bytes().to_vec();
        // Two processes have the token; one of them takes the claim up.
        let twin = spawn(move || twin.scope.resume(&ClaimToken::from_bytes(bytes)).map(drop).err());
        let mine = world.scope.resume(&token);
        let theirs = twin.join().unwrap();
        match (mine, theirs) {
            (Ok(claim), Some(TokenError::Held)) => {
                assert!(claim.complete("reply").unwrap().is_durable());
                is_the_same_after_a_kill(&world);
            }
            // The other one had it, and let it go.
            (Err(TokenError::Held | TokenError::Superseded(_)) | Ok(_), _) => {}
            (Err(error), _) => panic!("{error}"),
        }
        other.join().unwrap();
        world.engine.clone().close().unwrap();
    });
}

#[test]
fn nobody_is_told_that_too_many_wait_where_no_more_wait_than_may() {
    let setup = Setup { options: |options| options.max_waiters(2), ..Setup::default() };
    explore("schedules::waiters", 8, setup, |world| {
        let held = fresh(&world.scope, "key");
        let waiting = [false, true].map(|is_task| {
            let world = Arc::clone(&world);
            spawn(move || {
                for _ in 0..2 {
                    if is_task && one_in(2) {
                        let mut wait = pin!(world.scope.begin_or_wait_async("key", request(), FOR_EVER));
                        let mut context = Context::from_waker(Waker::noop());
                        drop(wait.as_mut().poll(&mut context).map(|begun| begun.unwrap()));
                        continue;
                    }
                    let begun = if is_task {
                        block_on(world.scope.begin_or_wait_async("key", request(), FOR_EVER))
                    } else {
                        world.scope.begin_or_wait("key", request(), FOR_EVER)
                    };
                    match begun {
                        Ok(Begin::Fresh(claim)) => claim.release().unwrap(),
                        Ok(Begin::Done(_)) => {}
                        other => panic!("{other:?}"),
                    }
                }
            })
        });
        if one_in(2) {
            held.release().unwrap();
        } else {
            drop(held.complete("reply").unwrap());
        }
        waiting.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(world.engine.stats().waiting, 0);
        world.engine.clone().close().unwrap();
    });
}
