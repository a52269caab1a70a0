//! What policies cost the other calls.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use futures_executor::block_on;
use futures_util::future::join_all;
use idemkv::{Begin, BeginError, Engine, Fingerprint, Policy, Recovery, SetPolicyError};

use crate::server::{Server, claim, request};

fn quiet(server: &Server, schema: &str) -> Engine {
    let options = server.options(schema).session(Duration::from_secs(300)).cache_bytes(0);
    options.sweep_every(None).count_every(None).connect().unwrap()
}

fn statements(store: &Engine) -> u64 {
    store.shared_stats().unwrap().statements
}

/// Another one each time.
fn policy(number: u64) -> Policy {
    Policy::default().ttl(Duration::from_secs(60 + number)).recovery(Recovery::Rerun)
}

#[test]
fn a_policy_that_is_in_force_is_not_written_again() {
    let server = server!();
    let (one, two) = (quiet(server, "policies_same"), quiet(server, "policies_same"));
    let version = || server.one("SELECT policies FROM policies_same.meta");
    one.set_policy("scope", policy(1)).unwrap();
    let before = version();
    assert_eq!(two.set_policy("scope", policy(1)).unwrap().policy(), policy(1));
    one.set_policy("scope", policy(1)).unwrap();
    assert_eq!(version(), before);
    two.set_policy("scope", policy(2)).unwrap();
    assert_ne!(version(), before);
    assert_eq!(one.set_policy("scope", policy(2)).unwrap().policy(), policy(2));
}

#[test]
fn a_new_policy_is_read_once_for_all_calls_that_wait_for_it() {
    let server = server!();
    let (one, two) = (quiet(server, "policies_once"), quiet(server, "policies_once"));
    let scope = two.scope("");
    one.set_policy("other", policy(1)).unwrap();
    let before = statements(&two);
    let begun = block_on(join_all((0..256).map(|key| scope.begin_async(format!("key {key}"), request()))));
    assert!(begun.iter().all(|begun| matches!(begun, Ok(Begin::Fresh(_)))));
    let taken = statements(&two) - before;
    assert!(taken < 60, "{taken}");
}

#[test]
fn what_depends_on_no_policy_is_answered_though_one_was_set() {
    let server = server!();
    let (one, two) = (quiet(server, "policies_replay"), quiet(server, "policies_replay"));
    let scope = two.scope("");
    claim(&scope, "done").complete("reply").unwrap();
    let _held = claim(&scope, "held");
    let mut number = 0;
    let mut answer = |key: &str, print: &str| {
        number += 1;
        one.set_policy("other", policy(number)).unwrap();
        let before = statements(&two);
        let begun = scope.begin(key, Fingerprint::of(print));
        assert_eq!(statements(&two) - before, 1, "{key}");
        begun
    };
    assert!(matches!(answer("done", "request"), Ok(Begin::Done(_))));
    assert!(matches!(answer("held", "request"), Ok(Begin::InFlight(_))));
    assert!(matches!(answer("done", "another"), Err(BeginError::KeyReused)));
}

#[test]
fn policies_that_are_set_in_a_row_hold_up_no_begin_for_long() {
    let server = server!();
    let (one, two) = (quiet(server, "policies_row"), quiet(server, "policies_row"));
    let is_over = AtomicBool::new(false);
    thread::scope(|threads| {
        threads.spawn(|| {
            let mut number = 0;
            while !is_over.load(Ordering::Acquire) {
                number += 1;
                one.set_policy("other", policy(number % 2)).unwrap();
            }
        });
        let scope = two.scope("");
        let begun = block_on(join_all((0..64).map(|key| scope.begin_async(format!("key {key}"), request()))));
        is_over.store(true, Ordering::Release);
        for begun in begun {
            assert!(matches!(begun, Ok(Begin::Fresh(_))), "{begun:?}");
        }
    });
}

/// As over a file.
#[test]
fn so_many_scopes_have_policies_and_no_more() {
    let server = server!();
    let store = quiet(server, "policies_many");
    server.sql(
        "INSERT INTO policies_many.policies (scope, ttl_ms, refuse) \
         SELECT convert_to('scope ' || n, 'UTF8'), 1000, false FROM generate_series(1, 65536) n",
    );
    let error = store.set_policy("one more", policy(1)).unwrap_err();
    assert!(matches!(error, SetPolicyError::TooManyScopes { max: 65_536 }), "{error:?}");
    store.set_policy("scope 7", policy(1)).unwrap();
}
