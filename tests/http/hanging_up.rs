//! Clients that hang up, executors that lose runs, and the end of a service.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::poll_immediate;
use http::Request;
use http_body_util::Full;
use idemkv::Status;
use idemkv::http::{DetachedRun, ProblemKind};

use crate::client::{Client, Gate, Home, KEY, client, home, post, reply, request, serving};

fn gated(home: &Home, gate: &Gate) -> Client {
    let gate = gate.clone();
    serving(&home.layer(), move |_| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Ok(reply(201, "made"))
        }
    })
}

#[tokio::test]
async fn a_client_that_hangs_up_loses_no_result() {
    let home = home();
    let gate = Gate::new();
    let layer = home.layer();
    let handlers = gate.clone();
    let client = serving(&layer, move |_| {
        let gate = handlers.clone();
        async move {
            gate.pass().await;
            Ok(reply(201, "made"))
        }
    });
    let asked = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    asked.abort();
    assert!(asked.await.unwrap_err().is_cancelled());
    assert_eq!(layer.running(), 1);
    gate.open();
    layer.clone().scope("another route").drain().await;
    let retry = client.post(KEY, "").await;
    assert!(retry.is_replay() && retry.body == "made");
    assert_eq!((client.runs(), layer.running()), (1, 0));
}

/// Dropped at each poll in turn: nothing was claimed, or the handler runs to its end.
#[tokio::test]
async fn a_client_that_hangs_up_at_any_poll_causes_one_effect_at_most_and_loses_no_result() {
    let home = home();
    let layer = home.layer();
    let client = client(&layer, 201, "made");
    for polls in 0..40 {
        let key = polls.to_string();
        let mut asked = Box::pin(client.ask(post(&key, "")));
        for _ in 0..polls {
            if poll_immediate(&mut asked).await.is_some() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(asked);
        layer.drain().await;
        let before = client.runs();
        let mut retry = client.post(&key, "").await;
        // A claim that came too late for its client is still given back.
        while retry.problem() == Some(ProblemKind::InFlight) {
            tokio::task::yield_now().await;
            retry = client.post(&key, "").await;
        }
        assert_eq!((retry.status.as_u16(), &retry.body[..]), (201, &b"made"[..]), "{polls}");
        let ran = client.runs() - before;
        assert_eq!(ran == 0, retry.is_replay(), "{polls}");
    }
}

#[tokio::test]
async fn drain_waits_for_runs_and_for_nothing_else() {
    let home = home();
    let gate = Gate::new();
    let layer = home.layer();
    assert!(layer.drain().now_or_never().is_some());
    let handlers = gate.clone();
    let client = serving(&layer, move |_| {
        let gate = handlers.clone();
        async move {
            gate.pass().await;
            Ok(reply(201, "made"))
        }
    });
    let asked: Vec<_> = (0..3).map(|key| tokio::spawn(client.ask(post(&key.to_string(), "")))).collect();
    for _ in 0..3 {
        gate.reached().await;
    }
    let mut drained = Box::pin(layer.drain());
    for _ in 0..2 {
        gate.open();
    }
    assert!(poll_immediate(&mut drained).await.is_none());
    gate.open();
    drained.await;
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap().status, 201);
    }
}

#[tokio::test]
async fn a_run_that_its_executor_drops_interrupts_its_key() {
    let home = home();
    let layer = home.layer().spawner(|run| assert!(run.now_or_never().is_none()));
    let (client, _gate) = crate::client::gated(&layer);
    let answer = client.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (500, Some(ProblemKind::HandlerLost)));
    assert_eq!((client.runs(), layer.running()), (1, 0));
    assert!(matches!(home.engine.scope("charges").get(KEY).unwrap(), Status::Interrupted(_)));
}

/// It certainly did nothing: the executor is shutting down, or has no room.
#[tokio::test]
async fn a_run_that_its_executor_drops_before_it_began_leaves_its_key_as_it_was() {
    let home = home();
    let layer = home.layer().spawner(drop);
    let client = client(&layer, 201, "made");
    let answer = client.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (503, Some(ProblemKind::StoreBusy)));
    assert_eq!((client.runs(), layer.running()), (0, 0));
    home.engine.flush().unwrap();
    assert!(matches!(home.engine.scope("charges").get(KEY).unwrap(), Status::Vacant));
}

#[tokio::test]
async fn a_spawner_that_panics_leaves_the_key_as_it_was() {
    let home = home();
    let layer = home.layer().spawner(|_run| std::panic::resume_unwind(Box::new("a planned panic")));
    let client = client(&layer, 201, "made");
    assert!(tokio::spawn(client.ask(post(KEY, ""))).await.unwrap_err().is_panic());
    assert_eq!((client.runs(), layer.running()), (0, 0));
    home.engine.flush().unwrap();
    assert!(matches!(home.engine.scope("charges").get(KEY).unwrap(), Status::Vacant));
}

#[tokio::test]
async fn a_service_that_is_not_drained_leaves_its_keys_interrupted() {
    let home = home();
    let gate = Gate::new();
    let client = gated(&home, &gate);
    let asked = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    let closing = tokio::task::spawn_blocking({
        let engine = home.engine.clone();
        move || engine.close()
    });
    assert_eq!(closing.await.unwrap().unwrap().claims_left, 1);
    gate.open();
    let answer = asked.await.unwrap().unwrap();
    assert_eq!((answer.status.as_u16(), answer.problem()), (503, Some(ProblemKind::StoreFailed)));
}

#[test]
fn without_a_runtime_a_spawner_that_is_given_carries_runs_out() {
    let home = home();
    let runs: Arc<Mutex<Vec<DetachedRun>>> = Arc::default();
    let spawned = Arc::clone(&runs);
    let layer = home.layer().spawner(move |run| spawned.lock().unwrap().push(run));
    let given = client(&layer, 201, "made");
    let mut asked = Box::pin(given.ask(post(KEY, "")));
    futures_executor::block_on(async {
        let run = loop {
            assert!(poll_immediate(&mut asked).await.is_none());
            let run = runs.lock().unwrap().pop();
            if let Some(run) = run {
                break run;
            }
            std::thread::yield_now();
        };
        assert_eq!(layer.running(), 1);
        run.await;
        assert_eq!(asked.await.unwrap().status, 201);
    });
    let bare = client(&home.layer(), 201, "made");
    let answer = futures_executor::block_on(bare.post("other", ""));
    assert_eq!((answer.status.as_u16(), answer.problem()), (500, Some(ProblemKind::Misconfigured)));
    assert!(matches!(home.engine.scope("charges").get("other").unwrap(), Status::Vacant));
}

#[tokio::test]
async fn requests_that_need_no_key_run_with_their_client() {
    let home = home();
    let layer = home.layer().optional();
    let polled = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&polled);
    let client = serving(&layer, move |_| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            std::future::pending().await
        }
    });
    let asked: Request<Full<Bytes>> = request("POST", "/", &[], "");
    assert!(poll_immediate(Box::pin(client.ask(asked))).await.is_none());
    assert_eq!((polled.load(Ordering::SeqCst), layer.running()), (1, 0));
}
