//! Wakers whose drop panics: it is code of others, and no call of the engine is unwound by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use crate::common::{Machine, default_scope, fresh, request};
use crate::helpers::{poll, ready};
use idemkv::{Begin, Status};

/// Panics as the last of its clones is dropped.
struct Bomb(Arc<AtomicBool>);

impl Wake for Bomb {
    fn wake(self: Arc<Self>) {}
}

impl Drop for Bomb {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        panic!("a bad executor");
    }
}

/// Its begin waited for a place in the queue, and drops the waker in the step that has its intent
/// queued.
#[test]
fn a_begin_whose_waker_panics_as_it_is_dropped_has_its_claim() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let mut filler = Box::pin(scope.begin_async("filler", request()));
    assert!(poll(filler.as_mut()).is_pending());
    let has_gone_off = Arc::new(AtomicBool::new(false));
    let bomb = Waker::from(Arc::new(Bomb(Arc::clone(&has_gone_off))));
    let mut begin = Box::pin(scope.begin_async("key", request()));
    assert!(begin.as_mut().poll(&mut Context::from_waker(&bomb)).is_pending());
    drop(bomb);
    engine.flush().unwrap();
    assert!(!has_gone_off.load(Ordering::SeqCst), "the timer has it");
    assert!(poll(begin.as_mut()).is_pending());
    assert!(has_gone_off.load(Ordering::SeqCst));
    engine.step();
    let Ok(Begin::Fresh(claim)) = ready(begin.as_mut()) else { panic!("{:?}", scope.get("key")) };
    claim.complete("reply").unwrap();
    assert!(matches!(scope.get("key"), Ok(Status::Done(_))));
}

/// A place in a list of waiters, given up with its future.
#[test]
fn a_wait_whose_waker_panics_as_it_is_dropped_can_be_given_up() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    let Ok(Begin::InFlight(pending)) = scope.begin("key", request()) else { panic!("it is out") };
    for replaced in [false, true] {
        let has_gone_off = Arc::new(AtomicBool::new(false));
        let bomb = Waker::from(Arc::new(Bomb(Arc::clone(&has_gone_off))));
        let mut wait = Box::pin(pending.wait_async());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&bomb)).is_pending());
        drop(bomb);
        if replaced {
            assert!(poll(wait.as_mut()).is_pending());
            assert!(has_gone_off.load(Ordering::SeqCst));
        }
        drop(wait);
        assert!(has_gone_off.load(Ordering::SeqCst));
    }
    claim.complete("reply").unwrap();
}
