//! The layer over a store that several processes share.

use std::sync::Arc;
use std::time::Duration;

use http::Response;
use idemkv::http::{IdempotencyLayer, Keep, ProblemKind};
use idemkv::{Engine, Policy, SharedOptions};
use tokio::task::spawn_blocking;

use crate::client::{Answer, Body, Gate, KEY, client, full, gated, post, reply, serving};
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

/// A request whose handler gives `response`, and whose store is silent from then on for longer than
/// one call takes. Gives the answer, and what a retry gets.
async fn served_in_a_silence(
    server: &'static Server,
    schema: &str,
    response: fn() -> Response<Body>,
) -> (Answer, Answer, usize) {
    drop(connect(server, schema).await);
    let (proxy, brief) = (Arc::new(Proxy::to(server.port)), Duration::from_secs(2));
    // With one connection, another one means that a call was given up.
    let options = SharedOptions::new(proxy.url()).schema(schema).connections(1).sweep_every(None);
    let options = options.statement_timeout(brief).call_timeout(brief).session(Duration::from_secs(300));
    let engine = options.connect_async().await.unwrap();
    let gate = Gate::new();
    let handlers = gate.clone();
    let service = serving(&layer(&engine), move |_| {
        let gate = handlers.clone();
        async move {
            gate.pass().await;
            Ok(response())
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
    let first = asked.await.unwrap().unwrap();
    gate.open();
    let retry = service.post(KEY, "").await;
    (first, retry, service.runs())
}

/// As the bank's refusal of the connection, while the store is away for longer than a call waits.
#[tokio::test]
async fn what_did_not_start_is_released_though_the_store_is_silent_for_longer_than_a_call() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let (first, retry, runs) = served_in_a_silence(server, "http_not_started", || {
        let mut response = reply(503, "the bank was not reached");
        response.extensions_mut().insert(Keep::not_started());
        response
    })
    .await;
    assert_eq!(
        (&first.body[..], &retry.body[..], runs),
        (&b"the bank was not reached"[..], &first.body[..], 2)
    );
}

#[tokio::test]
async fn a_result_is_stored_though_the_store_is_silent_for_longer_than_a_call() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let (first, retry, runs) = served_in_a_silence(server, "http_result", || reply(201, "made")).await;
    assert_eq!((&first.body[..], &retry.body[..], runs), (&b"made"[..], &b"made"[..], 1));
    assert!(!first.is_replay() && retry.is_replay());
}

#[tokio::test]
async fn a_result_waits_for_a_store_at_whose_address_a_standby_answers() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let engine = connect(server, "http_standby").await;
    let (service, gate) = gated(&layer(&engine));
    let mut asked = tokio::spawn(service.ask(post(KEY, "")));
    gate.reached().await;
    let refusals = server.refuse_changes("http_standby", "25006", "true");
    gate.open();
    let refused = spawn_blocking(move || {
        refusals.wait_for(4);
        refusals
    });
    let refusals = tokio::select! {
        biased;
        answer = &mut asked => panic!("the result was given up: {answer:?}"),
        refused = refused => refused.unwrap(),
    };
    spawn_blocking(move || drop(refusals)).await.unwrap();
    assert_eq!(asked.await.unwrap().unwrap().body, "made");
    assert!(service.post(KEY, "").await.is_replay());
}

#[tokio::test]
async fn of_a_result_for_which_the_store_has_no_room_the_head_is_kept() {
    let Some(server) = crate::server::get() else {
        eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
        return;
    };
    let engine = connect(server, "http_full").await;
    let large = serving(&layer(&engine), |_| async { Ok(reply(201, "").map(|_| full(vec![b'x'; 2_000]))) });
    let _full = server.refuse_changes("http_full", "53100", "length(NEW.body) > 1000");
    assert_eq!(large.post(KEY, "").await.body.len(), 2_000);
    let retry = large.post(KEY, "").await;
    expect(&retry, 409, ProblemKind::ResultNotKept);
    assert_eq!((&retry.json()["result_status"], large.runs()), (&201.into(), 1));
}
