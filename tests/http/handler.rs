//! What a handler has of its claim, and what its response says of the operation.

use std::future::pending;
use std::panic::{AssertUnwindSafe, resume_unwind};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::poll_immediate;
use http::{HeaderName, Response};
use http_body_util::BodyExt;
use idemkv::http::{ClaimSlot, CompleteHeldError, HeldClaim, IdempotencyLayer, Keep, ProblemKind};
use idemkv::sim::ManualClock;
use idemkv::tables::redb::{ReadableTable, TableDefinition};
use idemkv::{Engine, Event, Observer, Outcome, Recovery, Status};

use crate::client::{
    Body, Client, Gate, Home, KEY, Refused, Seen, client, full, home, home_with, post, reply, serving,
};

const BALANCES: TableDefinition<'_, &str, u64> = TableDefinition::new("balances");

fn held(request: &Seen) -> HeldClaim {
    request.extensions().get::<ClaimSlot>().unwrap().take().unwrap()
}

fn saying(home: &Home, keep: Keep) -> Client {
    serving(&home.layer(), move |_| async move {
        let mut response = reply(503, "result");
        response.extensions_mut().insert(keep);
        Ok(response)
    })
}

#[tokio::test]
async fn a_handler_finds_fence_attempt_step_key_and_saves_progress() {
    let home = home();
    let client = serving(&home.layer(), |request: Seen| async move {
        let mut claim = held(&request);
        assert!(request.extensions().get::<ClaimSlot>().unwrap().take().is_none(), "one holder at a time");
        assert_eq!((claim.attempt(), claim.key(), claim.scope()), (1, KEY.as_bytes(), &b"charges"[..]));
        assert!(claim.interrupted().is_none());
        claim.save_progress("half").await.unwrap();
        assert_eq!(&claim.last_progress().unwrap()[..], b"half");
        Ok(reply(200, "").map(|_| full(format!("{} {}", claim.fence().get() > 0, claim.step_key("charge")))))
    });
    let answer = client.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, "true ".len() + 36));
}

#[tokio::test]
async fn the_next_attempt_is_told_of_the_one_that_was_interrupted() {
    let home = home_with(Engine::options().recovery(Recovery::Rerun));
    let client = serving(&home.layer(), |request: Seen| async move {
        let mut claim = held(&request);
        let Some(earlier) = claim.interrupted() else {
            claim.save_progress("charged").await.unwrap();
            return Err(Refused("lost"));
        };
        assert_eq!((claim.attempt(), earlier.attempt()), (2, 1));
        assert_eq!(&claim.last_progress().unwrap()[..], b"charged");
        Ok(reply(201, "second"))
    });
    assert_eq!(client.ask(post(KEY, "")).await.unwrap_err(), Refused("lost"));
    assert_eq!(client.post(KEY, "").await.body, "second");
    assert!(client.post(KEY, "").await.is_replay());
}

#[tokio::test]
async fn an_interrupted_request_is_completed_with_the_response_that_its_retries_get() {
    let home = home();
    let layer = home.layer().never_store(HeaderName::from_static("x-request-id"));
    let client = saying(&home, Keep::unknown());
    let charges = home.engine.scope("charges");
    for (key, status, outcome) in [("made", 201, Outcome::Success), ("declined", 402, Outcome::Failure)] {
        client.post(key, "").await;
        assert_eq!(client.post(key, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
        let response = Response::builder().status(status).header("location", "/v1/charges/7");
        let response =
            response.header("set-cookie", "a=b").header("x-request-id", "1").body("found").unwrap();
        let claim = charges.resolve_async(key).await.unwrap();
        let record = layer.complete(claim, response).await.unwrap();
        assert_eq!((record.outcome(), record.attempt()), (outcome, 2));
        let retry = client.post(key, "").await;
        assert!(retry.is_replay());
        assert_eq!((retry.status.as_u16(), &retry.body[..]), (status, &b"found"[..]));
        assert_eq!(retry.header("location"), Some("/v1/charges/7"));
        assert!(!retry.headers.contains_key("set-cookie") && !retry.headers.contains_key("x-request-id"));
    }
    assert_eq!(client.runs(), 2);
}

#[tokio::test]
async fn a_response_says_what_became_of_the_operation() {
    let home = home();
    let started = saying(&home, Keep::not_started());
    for _ in 0..3 {
        assert_eq!(started.post("a", "").await.body, "result");
    }
    assert_eq!(started.runs(), 3);
    let unknown = saying(&home, Keep::unknown());
    assert_eq!(unknown.post("b", "").await.body, "result");
    assert_eq!(unknown.post("b", "").await.problem(), Some(ProblemKind::OutcomeUnknown));
    let outcome = saying(&home, Keep::outcome());
    assert_eq!(outcome.post("c", "").await.body, "result");
    assert_eq!(outcome.post("c", "").await.problem(), Some(ProblemKind::ResultNotKept));
    assert_eq!((unknown.runs(), outcome.runs()), (1, 1));
}

#[tokio::test]
async fn a_rule_by_status_holds_where_the_response_says_nothing() {
    let home = home();
    let rule = |status: http::StatusCode| if status == 400 { Keep::not_started() } else { Keep::response() };
    let layer = home.layer().keep(rule);
    let bad = client(&layer, 400, "no amount");
    bad.post("a", "").await;
    assert!(!bad.post("a", "").await.is_replay());
    let says = serving(&layer, |_| async {
        let mut response = reply(400, "declined");
        response.extensions_mut().insert(Keep::response());
        Ok(response)
    });
    says.post("b", "").await;
    assert!(says.post("b", "").await.is_replay());
}

/// A layer behind this one has dropped a handler that charges.
#[tokio::test]
async fn a_time_out_behind_the_layer_leaves_the_outcome_unknown() {
    let home = home();
    let charges = home.engine.scope("charges");
    for status in [408, 504] {
        let client = serving(&home.layer(), move |request: Seen| async move {
            let hangs = async move {
                let _claim = held(&request);
                pending::<()>().await;
            };
            assert!(poll_immediate(hangs).await.is_none());
            Ok(reply(status, "it took too long"))
        });
        let key = status.to_string();
        let first = client.post(&key, "").await;
        assert_eq!((first.status.as_u16(), first.forbids_retries()), (status, false));
        assert!(matches!(charges.get(&key).unwrap(), Status::Interrupted(_)), "{status}");
        assert_eq!(client.post(&key, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
        assert_eq!(client.runs(), 1);
        // A handler may know better.
        let says = serving(&home.layer(), move |_| async move {
            let mut response = reply(status, "the bank refused: it is too late");
            response.extensions_mut().insert(Keep::response());
            Ok(response)
        });
        let key = format!("{status}-said");
        says.post(&key, "").await;
        assert!(says.post(&key, "").await.is_replay());
    }
}

/// As a layer does that answers a panic with 500.
async fn caught(handler: impl Future<Output = ()>, status: u16) -> Result<http::Response<Body>, Refused> {
    AssertUnwindSafe(handler).catch_unwind().await.unwrap_err();
    Ok(reply(status, "it panicked"))
}

#[tokio::test]
async fn a_panic_that_a_layer_behind_this_one_catches_leaves_the_outcome_unknown() {
    let home = home();
    // A rule by status can't see it.
    let layer = home.layer().keep(|_| Keep::response());
    let panics = |claim: HeldClaim| async move {
        let _claim = claim;
        resume_unwind(Box::new("a planned panic"));
    };
    let client = serving(&layer, move |request: Seen| caught(panics(held(&request)), 500));
    assert_eq!(client.post(KEY, "").await.status, 500);
    assert!(matches!(home.engine.scope("charges").get(KEY).unwrap(), Status::Interrupted(_)));
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
    // A handler that knows how its operation ended says so.
    let knows = serving(&layer, move |request: Seen| caught(panics(held(&request)), 201));
    knows.post("known", "").await;
    assert!(knows.post("known", "").await.is_replay());
}

#[tokio::test]
async fn a_response_can_have_a_time_of_its_own() {
    let clock = idemkv::sim::ManualClock::at_millis(1_800_000_000_000);
    let home = home_with(Engine::options().clock(&clock));
    let client = saying(&home, Keep::response().ttl(Duration::from_secs(60)));
    client.post(KEY, "").await;
    clock.advance(Duration::from_secs(59));
    assert!(client.post(KEY, "").await.is_replay());
    let absurd = saying(&home, Keep::response().ttl(Duration::MAX));
    absurd.post("absurd", "").await;
    assert!(absurd.post("absurd", "").await.is_replay());
}

/// A retry comes in the time for which the policy remembers the key.
#[tokio::test]
async fn a_response_with_a_shorter_time_frees_its_key_no_earlier() {
    let minute = Duration::from_secs(60);
    let hour = 60 * minute;
    for options in [Engine::options().ttl(hour), Engine::options().ttl(2 * minute).tombstone_ttl(hour)] {
        let clock = ManualClock::at_millis(1_800_000_000_000);
        let home = home_with(options.clock(&clock));
        let client = saying(&home, Keep::response().ttl(minute));
        client.post(KEY, "").await;
        clock.advance(minute);
        assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::Expired));
        clock.advance(Duration::from_millis(59 * 60_000 - 1));
        assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::Expired));
        assert_eq!(client.runs(), 1);
        clock.advance(Duration::from_millis(1));
        assert_eq!((client.post(KEY, "").await.problem(), client.runs()), (None, 2));
    }
}

#[tokio::test]
async fn a_panic_interrupts_the_key_and_gives_500() {
    let home = home();
    let client = serving(&home.layer(), |request: Seen| async move {
        let claim = held(&request);
        tokio::task::yield_now().await;
        std::panic::resume_unwind(Box::new(format!("a planned panic in attempt {}", claim.attempt())))
    });
    let answer = client.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (500, Some(ProblemKind::HandlerLost)));
    assert!(answer.forbids_retries());
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
    assert_eq!(client.runs(), 1);
}

/// Clients that obey `x-should-retry` would give up an operation that the next try finishes.
#[tokio::test]
async fn a_panic_is_called_retryable_as_long_as_a_retry_runs() {
    let home = home();
    let policy = home.engine.policy().recovery(Recovery::Rerun).max_attempts(2);
    home.engine.set_policy("charges", policy).unwrap();
    let client = serving(&home.layer(), |_| async { std::panic::resume_unwind(Box::new("a planned panic")) });
    for (runs, kind) in
        [(1, ProblemKind::HandlerLost), (2, ProblemKind::HandlerLost), (2, ProblemKind::OutcomeUnknown)]
    {
        let answer = client.post(KEY, "").await;
        let retries = answer.problem() == Some(ProblemKind::HandlerLost) && runs < 2;
        assert_eq!((answer.problem(), client.runs()), (Some(kind), runs));
        assert_eq!(answer.json()["retryable"], retries, "{answer:?}");
        assert_eq!((answer.forbids_retries(), answer.header("retry-after").is_some()), (!retries, retries));
    }
}

#[tokio::test]
async fn a_panic_while_another_task_has_the_claim_interrupts_the_key_when_that_drops_it() {
    let home = home();
    let gate = Gate::new();
    let tasks = gate.clone();
    let client = serving(&home.layer(), move |request: Seen| {
        let gate = tasks.clone();
        async move {
            // Who else has the slot, and for how long, does not matter.
            std::mem::forget(request.extensions().get::<ClaimSlot>().cloned());
            let claim = held(&request);
            tokio::spawn(async move {
                gate.pass().await;
                drop(claim);
                gate.pass().await;
            });
            std::panic::resume_unwind(Box::new("a planned panic"))
        }
    });
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::HandlerLost));
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::InFlight));
    gate.reached().await;
    gate.open();
    gate.reached().await;
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_handed_on_and_interrupts_the_key() {
    let home = home();
    let client = serving(&home.layer(), |_| async { Err::<Response<Body>, _>(Refused("timed out")) });
    assert_eq!(client.ask(post(KEY, "")).await.unwrap_err(), Refused("timed out"));
    let retry = client.post(KEY, "").await;
    assert_eq!((retry.status.as_u16(), retry.problem()), (409, Some(ProblemKind::OutcomeUnknown)));
    home.engine.scope("charges").resolve(KEY).unwrap().release().unwrap();
    assert_eq!(client.ask(post(KEY, "")).await.unwrap_err(), Refused("timed out"));
    assert_eq!(client.runs(), 2);
}

/// A response that is there while a task still has the claim, until the gate opens.
fn with_claim_in_a_task(layer: &IdempotencyLayer, gate: &Gate) -> Client {
    let gate = gate.clone();
    serving(layer, move |request: Seen| {
        let gate = gate.clone();
        async move {
            let claim = held(&request);
            tokio::spawn(async move {
                gate.pass().await;
                drop(claim);
            });
            Ok(reply(202, "begun"))
        }
    })
}

#[tokio::test]
async fn a_response_waits_for_the_task_that_has_the_claim() {
    let home = home();
    let gate = Gate::new();
    let client = with_claim_in_a_task(&home.layer(), &gate);
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::InFlight));
    gate.open();
    assert_eq!(first.await.unwrap().unwrap().status, 202);
    assert!(client.post(KEY, "").await.is_replay());
}

/// The claims of the scope have a lease of a second.
fn home_with_leases(clock: &ManualClock) -> Home {
    let home = home_with(Engine::options().clock(clock));
    home.engine.set_policy("charges", home.engine.policy().lease(Duration::from_secs(1))).unwrap();
    home
}

/// The task hangs in a call of the bank's.
#[tokio::test]
async fn a_response_waits_no_longer_than_the_lease_of_the_claim_that_a_task_has() {
    let clock = ManualClock::at_millis(1_800_000_000_000);
    let home = home_with_leases(&clock);
    let layer = home.layer();
    let gate = Gate::new();
    let tasks = gate.clone();
    let client = serving(&layer, move |request: Seen| {
        let gate = tasks.clone();
        async move {
            let claim = held(&request);
            tokio::spawn(async move {
                gate.pass().await;
                drop(claim);
                gate.pass().await;
            });
            Ok(reply(202, "begun"))
        }
    });
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    clock.advance(Duration::from_secs(2));
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
    let late = first.await.unwrap().unwrap();
    assert_eq!(late.problem(), Some(ProblemKind::OutcomeUnknown));
    layer.drain().await;
    gate.open();
    gate.reached().await;
    let now = home.engine.scope("charges").get(KEY).unwrap();
    assert!(matches!(now, Status::Interrupted(lost) if lost.attempt() == 1), "the late drop changes nothing");
}

/// A response whose body has the claim: the layer would send it once the claim is back.
fn with_claim_inside(layer: &IdempotencyLayer) -> Client {
    serving(layer, |request: Seen| async move {
        let claim = held(&request);
        let body = full("a part").map_frame(move |frame| {
            assert_eq!(claim.attempt(), 1);
            frame
        });
        Ok(Response::new(body.boxed_unsync()))
    })
}

#[tokio::test]
async fn a_response_that_has_its_own_claim_is_given_up_at_the_end_of_the_lease() {
    let clock = ManualClock::at_millis(1_800_000_000_000);
    let home = home_with_leases(&clock);
    let layer = home.layer();
    let client = with_claim_inside(&layer);
    let mut first = Box::pin(client.ask(post(KEY, "")));
    while client.runs() == 0 {
        assert!(poll_immediate(&mut first).await.is_none());
        tokio::task::yield_now().await;
    }
    clock.advance(Duration::from_secs(2));
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
    assert_eq!(first.await.unwrap().problem(), Some(ProblemKind::OutcomeUnknown));
    layer.drain().await;
}

#[tokio::test]
async fn a_response_that_has_its_own_claim_is_given_up_in_time_without_a_lease() {
    let home = home();
    let layer = home.layer().wait_for_claim(Duration::ZERO);
    let client = with_claim_inside(&layer);
    let answer = client.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (500, Some(ProblemKind::HandlerLost)));
    layer.drain().await;
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
}

#[tokio::test]
async fn a_claim_that_a_task_has_is_waited_for_no_longer_than_the_engine_is_open() {
    let home = home();
    let gate = Gate::new();
    let client = with_claim_in_a_task(&home.layer(), &gate);
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    assert_eq!(home.engine.clone().close_async().await.unwrap().claims_left, 1);
    assert_eq!(first.await.unwrap().unwrap().problem(), Some(ProblemKind::StoreFailed));
}

/// A deposit of 10 that is stored with its response.
async fn deposit(claim: HeldClaim, fails: bool) -> Result<Response<Body>, CompleteHeldError<&'static str>> {
    let stored = tokio::task::spawn_blocking(move || {
        claim.complete_in(|tables| {
            let mut balances = tables.open_table(BALANCES).unwrap();
            let balance = balances.get("alice").unwrap().map_or(0, |balance| balance.value()) + 10;
            balances.insert("alice", balance).unwrap();
            if fails {
                Err("refused")
            } else {
                Ok(Response::builder().status(201).body(balance.to_string()).unwrap())
            }
        })
    });
    Ok(stored.await.unwrap()?.map(full))
}

fn balance(engine: &Engine) -> Option<u64> {
    let read = engine.read_tables(|tables| {
        let Ok(balances) = tables.open_table(BALANCES) else { return None };
        balances.get("alice").unwrap().map(|balance| balance.value())
    });
    read.unwrap()
}

#[tokio::test]
async fn an_effect_in_the_same_file_and_its_response_are_one() {
    let home = home();
    let client = serving(&home.layer(), |request: Seen| async move {
        let mut response = deposit(held(&request), false).await.unwrap();
        // Not what was stored: retries could not get it.
        *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
        Ok(response)
    });
    for is_replay in [false, true] {
        let answer = client.post(KEY, "").await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..], answer.is_replay()),
            (201, &b"10"[..], is_replay)
        );
    }
    assert_eq!(balance(&home.engine), Some(10));
}

/// A secret that is shown once, and the cookie of a session.
#[tokio::test]
async fn the_first_reply_of_a_transaction_has_the_headers_that_are_never_stored() {
    const UNSTORED: [(&str, &str); 4] =
        [("set-cookie", "a=b"), ("set-cookie", "c=d"), ("x-client-secret", "7"), ("x-hop", "8")];
    let home = home();
    let layer = home.layer().never_store(HeaderName::from_static("x-client-secret"));
    let client = serving(&layer, |request: Seen| async move {
        let claim = held(&request);
        let stored = tokio::task::spawn_blocking(move || {
            claim.complete_in(|_| {
                let mut response = Response::builder().status(201).header("location", "/v1/charges/7");
                for (name, value) in [("set-cookie", "a=b"), ("x-client-secret", "7")] {
                    response = response.header(name, value);
                }
                Ok::<_, ()>(response.body("made").unwrap())
            })
        });
        let mut response = stored.await.unwrap().unwrap().map(full);
        // A middleware behind the layer adds its own; another body would have another length.
        for (name, value) in [
            ("set-cookie", "c=d"),
            ("connection", "x-hop, location"),
            ("x-hop", "8"),
            ("content-length", "400"),
            ("x-other", "not stored, and nobody said so"),
        ] {
            response.headers_mut().append(HeaderName::from_static(name), value.parse().unwrap());
        }
        Ok(response)
    });
    for is_replay in [false, true] {
        let answer = client.post(KEY, "").await;
        assert_eq!((answer.status.as_u16(), answer.is_replay()), (201, is_replay));
        let headers = |of: &[&str]| -> Vec<String> {
            let values = of.iter().flat_map(|name| answer.headers.get_all(*name));
            values.map(|value| value.to_str().unwrap().to_owned()).collect()
        };
        let expected = if is_replay { vec![] } else { UNSTORED.map(|(_, value)| value.to_owned()).to_vec() };
        assert_eq!(headers(&["set-cookie", "x-client-secret", "x-hop"]), expected);
        assert_eq!(headers(&["location"]), ["/v1/charges/7"]);
        assert_eq!(headers(&["content-length", "x-other"]), Vec::<String>::new());
    }
}

#[tokio::test]
async fn an_effect_that_was_refused_gives_the_claim_back() {
    let home = home();
    let client = serving(&home.layer(), |request: Seen| async move {
        let Err(CompleteHeldError::Work { error, claim }) = deposit(held(&request), true).await else {
            panic!()
        };
        assert_eq!(claim.attempt(), 1);
        drop(claim);
        Ok(reply(402, error))
    });
    assert_eq!(client.post(KEY, "").await.body, "refused");
    let retry = client.post(KEY, "").await;
    assert!(retry.is_replay() && retry.status == 402);
    assert_eq!(balance(&home.engine), None);
}

#[tokio::test]
async fn a_panic_in_a_transaction_that_the_handler_survives_interrupts_the_key() {
    let home = home();
    let client = serving(&home.layer(), |request: Seen| async move {
        let claim = held(&request);
        let work = tokio::task::spawn_blocking(move || {
            claim.complete_in(|_| -> Result<Response<String>, ()> {
                std::panic::resume_unwind(Box::new("a planned panic"))
            })
        });
        assert!(work.await.is_err());
        Ok(reply(200, "as if nothing had happened"))
    });
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::HandlerLost));
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::OutcomeUnknown));
    assert!(matches!(home.engine.scope("charges").get(KEY).unwrap(), Status::Interrupted(_)));
}

/// Holds the thread that tells it of an interruption, until the other side of the channel is dropped.
struct HeldAtInterruption(Mutex<Receiver<()>>);

impl Observer for HeldAtInterruption {
    fn event(&self, event: &Event<'_>) {
        if matches!(event, Event::Interrupted { .. }) {
            self.0.lock().unwrap().recv().unwrap_err();
        }
    }
}

/// The client's answer does not depend on which thread comes first.
#[tokio::test]
async fn a_claim_that_a_panic_is_about_to_drop_is_told_as_one_that_it_has_dropped() {
    let (go, may_go) = channel();
    let observer = Arc::new(HeldAtInterruption(Mutex::new(may_go)));
    let home = home_with(Engine::options().observer(observer));
    let client = serving(&home.layer(), |request: Seen| async move {
        let claim = held(&request);
        std::thread::spawn(move || {
            claim.complete_in(|_| -> Result<Response<String>, ()> {
                std::panic::resume_unwind(Box::new("a planned panic"))
            })
        });
        Ok(reply(202, "begun"))
    });
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::HandlerLost));
    assert_eq!(home.engine.stats().superseded, 0, "nobody called too late");
    drop(go);
}

#[tokio::test]
async fn a_handler_that_waits_for_its_own_key_is_told_so() {
    let home = home();
    let charges = home.engine.scope("charges");
    let client = serving(&home.layer(), move |request: Seen| {
        let charges = charges.clone();
        async move {
            let fingerprint = *held(&request).fingerprint();
            // With a longer time it would wait for itself.
            let again = charges.begin_or_wait_async(KEY, fingerprint, Duration::ZERO).await;
            Ok(reply(200, "").map(|_| full(format!("{again:?}"))))
        }
    });
    assert_eq!(client.post(KEY, "").await.body, "Err(OwnKey)");
}
