//! The layer over a store that several processes share.

use std::sync::Arc;
use std::time::Duration;

use idemkv::http::{IdempotencyLayer, Keep, ProblemKind};
use idemkv::{Engine, Policy, SharedOptions};
use tokio::task::spawn_blocking;

use crate::client::{Answer, Gate, KEY, client, gated, post, reply, serving};
use crate::proxy::Proxy;
use crate::server::Server;

fn layer(engine: &Engine) -> IdempotencyLayer {
    IdempotencyLayer::new(engine, "charges")
}

async fn connect(server: &Server, schema: &str) -> Engine {
    server.options(schema).policy(Policy::default()).connect_async().await.unwrap()
}

fn expect(answer: &Answer, status: u16, kind: ProblemKind) {
    assert_eq!((answer.status.as_u16(), answer.problem()), (status, Some(kind)), "{answer:?}");
}

#[tokio::test]
async fn a_request_runs_once_in_all_processes_and_each_replays_it() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let (one, two) = (connect(server, "http_once").await, connect(server, "http_once").await);
    let (here, gate) = gated(&layer(&one));
    let there = client(&layer(&two), 500, "it ran again");
    let waits = client(&layer(&two).wait(Duration::from_secs(60)), 500, "it ran again");
    let asked = tokio::spawn(here.ask(post(KEY, "amount=10")));
    gate.reached().await;
    let twin = there.post(KEY, "amount=10").await;
    expect(&twin, 409, ProblemKind::InFlight);
    assert_eq!(twin.header("retry-after"), Some("1"));
    expect(&there.post(KEY, "amount=20").await, 422, ProblemKind::KeyReused);
    let waiting = tokio::spawn(waits.ask(post(KEY, "amount=10")));
    gate.open();
    let first = asked.await.unwrap().unwrap();
    assert_eq!((first.status.as_u16(), &first.body[..], first.is_replay()), (201, &b"made"[..], false));
    for replay in [waiting.await.unwrap().unwrap(), there.post(KEY, "amount=10").await] {
        assert_eq!((replay.status.as_u16(), &replay.body[..], replay.is_replay()), (201, &b"made"[..], true));
    }
    // A client that hangs up stops nothing.
    let mut asked = Box::pin(here.ask(post("second", "")));
    tokio::select! { _ = &mut asked => panic!("the gate is closed"), () = gate.reached() => {} }
    drop(asked);
    gate.open();
    let waited = waits.post("second", "").await;
    assert_eq!((&waited.body[..], waited.is_replay()), (&b"made"[..], true));
    assert_eq!((here.runs(), there.runs(), waits.runs()), (2, 0, 0));
}

#[tokio::test]
async fn while_the_store_does_not_answer_nothing_runs_and_work_that_was_done_is_stored_later() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    drop(connect(server, "http_silent").await);
    let (proxy, brief) = (Proxy::to(server.port), Duration::from_millis(300));
    let options = SharedOptions::new(proxy.url()).schema("http_silent").sweep_every(None);
    let options = options.statement_timeout(brief).call_timeout(brief).session(Duration::from_secs(300));
    let engine = options.connect_async().await.unwrap();
    let (service, gate) = gated(&layer(&engine));
    let asked = tokio::spawn(service.ask(post(KEY, "")));
    gate.reached().await;
    proxy.stall(true);
    let refused = client(&layer(&engine), 500, "it ran").post("new", "").await;
    expect(&refused, 503, ProblemKind::StoreFailed);
    assert!(refused.header("retry-after").is_some() && !refused.forbids_retries());
    gate.open();
    let first = asked.await.unwrap().unwrap();
    expect(&first, 503, ProblemKind::StoreFailed);
    assert!(!first.forbids_retries());
    proxy.stall(false);
    // Whether the result arrived is up to the moment of the stall; that it does not run again is not.
    let retry = loop {
        let retry = service.post(KEY, "").await;
        match retry.problem() {
            Some(ProblemKind::StoreFailed | ProblemKind::InFlight) => {}
            _ => break retry,
        }
    };
    let is_told = retry.is_replay() || retry.problem() == Some(ProblemKind::OutcomeUnknown);
    assert!(is_told && service.runs() == 1, "{retry:?}");
}

/// As the bank's refusal of the connection, while the store is away for longer than a call waits.
#[tokio::test]
async fn what_did_not_start_is_released_though_the_store_is_silent_for_longer_than_a_call() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    drop(connect(server, "http_not_started").await);
    let (proxy, brief) = (Arc::new(Proxy::to(server.port)), Duration::from_secs(2));
    // With one connection, another one means that a call was given up.
    let options = SharedOptions::new(proxy.url()).schema("http_not_started").connections(1).sweep_every(None);
    let options = options.statement_timeout(brief).call_timeout(brief).session(Duration::from_secs(300));
    let engine = options.connect_async().await.unwrap();
    let gate = Gate::new();
    let handlers = gate.clone();
    let service = serving(&layer(&engine), move |_| {
        let gate = handlers.clone();
        async move {
            gate.pass().await;
            let mut response = reply(503, "the bank was not reached");
            response.extensions_mut().insert(Keep::not_started());
            Ok(response)
        }
    });
    let mut asked = tokio::spawn(service.ask(post(KEY, "")));
    gate.reached().await;
    proxy.stall(true);
    gate.open();
    let (another, waits) = (proxy.connections() + 1, Arc::clone(&proxy));
    let given_up = spawn_blocking(move || waits.wait_for_connections(another));
    tokio::select! {
        biased;
        answer = &mut asked => panic!("the key was given up after one call: {answer:?}"),
        waited = given_up => waited.unwrap(),
    }
    proxy.stall(false);
    assert_eq!(asked.await.unwrap().unwrap().body, "the bank was not reached");
    let mut again = tokio::spawn(service.ask(post(KEY, "")));
    tokio::select! { answer = &mut again => panic!("{answer:?}"), () = gate.reached() => {} }
    gate.open();
    assert_eq!((again.await.unwrap().unwrap().status.as_u16(), service.runs()), (503, 2));
}
