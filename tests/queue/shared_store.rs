//! A consumer over a store that several processes share.

use std::sync::Arc;

use crate::helpers::{Message, describe, message};
use crate::server::{Refusals, Server, on_runtime};
use idemkv::queue::Settlement::{Acknowledge, RetryLater};
use idemkv::queue::{Consumer, Reason, Settled};
use idemkv::{Engine, Fault};

/// Handles a message whose handler ends so, while the store refuses changes: for as long as it has
/// refused four of them.
fn handle(
    server: &'static Server,
    engine: &Engine,
    (schema, code, when): (&str, &str, &str),
    ends: impl Fn() -> Result<Vec<u8>, Fault<Vec<u8>>> + Clone + Send + Sync + 'static,
) -> Settled<Message> {
    let consumer = Consumer::new(&engine.scope("shipments"));
    let (schema, code, when) = (schema.to_owned(), code.to_owned(), when.to_owned());
    let is_for_good = when != "true";
    let refuse = Arc::new(move || {
        let refusals: Refusals = server.refuse_changes(&schema, &code, &when);
        if is_for_good {
            std::mem::forget(refusals);
        } else {
            std::thread::spawn(move || refusals.wait_for(4));
        }
    });
    on_runtime(async move {
        let handled = consumer.handle(
            vec![message("a")],
            describe,
            |task| drop(tokio::spawn(task)),
            move |_claim, _message: &Message| {
                let (refuse, ends) = (Arc::clone(&refuse), ends.clone());
                Box::pin(async move {
                    tokio::task::spawn_blocking(move || refuse()).await.unwrap();
                    ends()
                })
            },
        );
        handled.await.unwrap().remove(0)
    })
}

#[test]
fn an_end_waits_for_a_store_at_whose_address_a_standby_answers() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let nothing = server.connect("queue_nothing");
    let settled =
        handle(server, &nothing, ("queue_nothing", "25006", "true"), || Err(Fault::Retry(Vec::new())));
    assert!(matches!(settled.reason, Reason::NothingDone(_)), "{settled:?}");
    assert_eq!(settled.settlement(), RetryLater);
    let done = server.connect("queue_done");
    let settled = handle(server, &done, ("queue_done", "25006", "true"), || Ok(b"shipped".to_vec()));
    let Reason::Ran(record) = &settled.reason else { panic!("{settled:?}") };
    assert_eq!((record.body(), settled.settlement()), (&b"shipped"[..], Acknowledge));
}

#[test]
fn a_result_for_which_the_store_has_no_room_is_remembered_as_done() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let engine = server.connect("queue_full");
    let full = ("queue_full", "53100", "length(NEW.body) > 1000");
    let settled = handle(server, &engine, full, || Ok(vec![b'x'; 2_000]));
    let Reason::Ran(record) = &settled.reason else { panic!("{settled:?}") };
    assert_eq!((record.is_body_kept(), settled.settlement()), (false, Acknowledge));
}
