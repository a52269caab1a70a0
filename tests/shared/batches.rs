//! Batches of begins: what one of them was granted before all have an answer.

use std::pin::pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use idemkv::{Begin, Engine, Policy, Recovery, Status};

use crate::server::{Gate, Server, request, within};

/// Each call goes by itself, so one can be held up while others are answered.
fn connect(server: &Server, schema: &str, policy: Policy) -> Engine {
    let options = server.options(schema).policy(policy).group_max(1).sweep_every(None);
    options.session(Duration::from_secs(300)).connect().unwrap()
}

/// Waits until the store has a claim on the key.
fn wait_for_grant(server: &Server, schema: &str, key: &str) {
    let granted = format!("SELECT count(*) FROM {schema}.keys WHERE key = '{key}' AND state = 1");
    assert!(within(Duration::from_secs(30), || server.one(&granted) == "1"));
}

/// Its task went away, and no operation has run.
#[test]
fn a_batch_that_is_dropped_leaves_no_key_interrupted() {
    let server = server!();
    let store = connect(server, "batches_dropped", Policy::default().recovery(Recovery::Refuse));
    let scope = store.scope("");
    let gate = Gate::shut(server, "batches_dropped", "INSERT ON batches_dropped.keys", "NEW.key = 'late'");
    let requests = [("early", request()), ("late", request())];
    {
        let mut batch = pin!(scope.begin_many_async(&requests));
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = || assert!(batch.as_mut().poll(&mut context).is_pending());
        poll();
        gate.holds(1);
        wait_for_grant(server, "batches_dropped", "early");
        // Its answer is in by then.
        within(Duration::from_millis(300), || {
            poll();
            false
        });
    }
    gate.open();
    for key in ["early", "late"] {
        let mut left = None;
        let is_vacant = within(Duration::from_secs(10), || {
            left = scope.get(key).ok();
            matches!(left, Some(Status::Vacant))
        });
        assert!(is_vacant, "{key}: {left:?}");
    }
    assert_eq!(store.stats().dropped, 0);
}

/// Both callers would run the operation.
#[test]
fn a_claim_whose_lease_ends_while_others_of_its_batch_are_awaited_is_not_given_out() {
    let server = server!();
    let policy = Policy::default().recovery(Recovery::Rerun).lease(Duration::from_secs(1));
    let store = connect(server, "batches_late", policy);
    let other = server.options("batches_late").policy(policy).connect().unwrap();
    let scope = store.scope("");
    let gate = Gate::shut(server, "batches_late", "INSERT ON batches_late.keys", "NEW.key = 'late'");
    let requests = [("taken", request()), ("left", request()), ("late", request())];
    let answers = thread::scope(|threads| {
        let beginning = threads.spawn(|| scope.begin_many(&requests));
        gate.holds(1);
        wait_for_grant(server, "batches_late", "taken");
        wait_for_grant(server, "batches_late", "left");
        let mut taken = None;
        assert!(within(Duration::from_secs(10), || {
            taken = match other.scope("").begin("taken", request()) {
                Ok(Begin::Fresh(claim)) => Some(claim),
                _ => None,
            };
            taken.is_some()
        }));
        taken.unwrap().complete("by another").unwrap();
        gate.open();
        beginning.join().unwrap()
    });
    let [taken, left, late] = <[_; 3]>::try_from(answers).unwrap();
    assert!(matches!(&taken, Ok(Begin::Done(record)) if record.body() == b"by another"), "{taken:?}");
    let (Ok(Begin::Fresh(left)), Ok(Begin::Fresh(late))) = (left, late) else { panic!() };
    let stored = [left.complete("reply"), late.complete("reply")];
    assert!(stored.iter().all(Result::is_ok), "{stored:?}");
    let stats = store.stats();
    assert_eq!((stats.fresh, stats.dropped, stats.superseded), (2, 0, 0));
}
