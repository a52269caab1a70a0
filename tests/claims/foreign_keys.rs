//! Keys are code of others: their `as_ref` may panic, or give other bytes each time. A batch asks
//! each key once, before it does anything.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::common::{Machine, default_scope, done, fresh, request};
use idemkv::{Begin, Status};

/// A key that counts how often it is asked.
struct Key<F>(AtomicUsize, F);

impl<F> Key<F> {
    fn new(answer: F) -> Self {
        Self(AtomicUsize::new(0), answer)
    }
}

impl<F: Fn(usize) -> &'static str> AsRef<[u8]> for Key<F> {
    fn as_ref(&self) -> &[u8] {
        (self.1)(self.0.fetch_add(1, Ordering::Relaxed)).as_bytes()
    }
}

#[test]
fn a_key_of_a_batch_that_panics_leaves_no_other_key_interrupted() {
    for panics_at in 0..4 {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        // Its begin is refused, and the observer told of the key.
        drop(fresh(&scope, "bad"));
        let key = |name: &'static str, panics_at: usize| {
            Key::new(move |times: usize| {
                assert!(times < panics_at, "a bad key");
                name
            })
        };
        let requests = [(key("good", usize::MAX), request()), (key("bad", panics_at), request())];
        let begun = catch_unwind(AssertUnwindSafe(|| scope.begin_many(&requests)));
        assert_eq!(begun.is_err(), panics_at == 0);
        if begun.is_err() {
            assert!(matches!(scope.get("good"), Ok(Status::Vacant)), "{:?}", scope.get("good"));
            assert_eq!(engine.stats().in_flight, 0);
        }
    }
}

#[test]
fn a_key_that_changes_is_what_it_was_when_the_batch_came_in() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let key = Key::new(|times| if times == 0 { "one" } else { "two" });
    let answer = scope.begin_many(&[(key, request())]).pop();
    let Some(Ok(Begin::Fresh(claim))) = answer else { panic!("{answer:?}") };
    assert_eq!(claim.key(), b"one");
    claim.complete("reply").unwrap();
    assert!(matches!(scope.get("two"), Ok(Status::Vacant)));
    engine.checkpoint().unwrap();
    drop(scope);
    engine.close().unwrap();
    assert_eq!(done(&default_scope(&machine.open()), "one").body(), b"reply");
}
