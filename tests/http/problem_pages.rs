//! Every page of `docs/problems` shows the answer that the layer sends.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use idemkv::http::{IdempotencyLayer, Keep, LayerBody, ProblemKind};
use idemkv::{Begin, Engine, Options, Status};
use tower::{Layer, ServiceExt, service_fn};

use crate::client::{Answer, KEY, Refused, client, gated, home, home_with, post, reply, request, serving};
use crate::hostile::Broken;

/// What an answer or a page says: status line, headers, JSON.
#[derive(Debug, PartialEq)]
struct Shown {
    status: String,
    headers: BTreeMap<String, String>,
    body: serde_json::Value,
}

impl From<Answer> for Shown {
    fn from(answer: Answer) -> Self {
        let value = |value: &http::HeaderValue| value.to_str().unwrap().to_owned();
        Self {
            status: answer.status.to_string(),
            headers: answer.headers.iter().map(|(name, it)| (name.to_string(), value(it))).collect(),
            body: answer.json(),
        }
    }
}

/// The example of a page.
fn documented(kind: ProblemKind) -> Shown {
    let path = format!("{}/docs/problems/{}.md", env!("CARGO_MANIFEST_DIR"), kind.code());
    let page = std::fs::read_to_string(&path).unwrap();
    let example = page.split("```http\n").nth(1).unwrap().split("```").next().unwrap();
    let (head, body) = example.split_once("\n\n").unwrap();
    let (status, headers) = head.split_once('\n').unwrap();
    let header = |line: &str| line.split_once(": ").map(|(name, it)| (name.to_owned(), it.to_owned()));
    Shown {
        status: status.strip_prefix("HTTP/1.1 ").unwrap().to_owned(),
        headers: headers.lines().map(|line| header(line).unwrap()).collect(),
        body: serde_json::from_str(body).unwrap(),
    }
}

/// What is set of a layer.
type Set = fn(IdempotencyLayer) -> IdempotencyLayer;

/// A request that gets this problem, and the answer.
async fn provoked(kind: ProblemKind, set: Set) -> Answer {
    let home = home();
    let layer = set(home.layer());
    let plain = client(&layer, 201, "made");
    match kind {
        ProblemKind::KeyMissing => plain.send(request("POST", "/", &[], "")).await,
        ProblemKind::KeyMalformed => {
            let twice = [("idempotency-key", KEY), ("idempotency-key", KEY)];
            plain.send(request("POST", "/", &twice, "")).await
        }
        ProblemKind::NotVerified => client(&layer.verify(|_, _| false), 201, "").post(KEY, "").await,
        ProblemKind::TenantMissing => client(&layer.tenant(|_| None), 201, "").post(KEY, "").await,
        ProblemKind::KeyReused => {
            plain.post(KEY, "amount=10").await;
            plain.post(KEY, "amount=11").await
        }
        ProblemKind::InFlight => {
            let (client, gate) = gated(&layer);
            let first = tokio::spawn(client.ask(post(KEY, "")));
            gate.reached().await;
            let answer = client.post(KEY, "").await;
            gate.open();
            first.await.unwrap().unwrap();
            answer
        }
        ProblemKind::OutcomeUnknown => {
            let unknown = serving(&layer, |_| async { Err(Refused("lost")) });
            unknown.ask(post(KEY, "")).await.unwrap_err();
            unknown.post(KEY, "").await
        }
        ProblemKind::ResultNotKept => {
            let secret = serving(&layer, |_| async {
                let mut response = reply(201, "a secret");
                response.headers_mut().insert("location", "/v1/charges/7".parse().unwrap());
                response.extensions_mut().insert(Keep::outcome());
                Ok(response)
            });
            secret.post(KEY, "").await;
            secret.post(KEY, "").await
        }
        ProblemKind::BodyTooLarge => plain.post(KEY, &"x".repeat((2 << 20) + 1)).await,
        ProblemKind::BodyUnreadable => broken_off(&layer).await,
        _ => provoked_of_the_store(kind, set).await,
    }
}

/// The same for problems of the service or of its store.
async fn provoked_of_the_store(kind: ProblemKind, set: Set) -> Answer {
    let home = home();
    let layer = set(home.layer());
    let plain = client(&layer, 201, "made");
    match kind {
        ProblemKind::Expired => expired(set).await,
        ProblemKind::StoreBusy => {
            let home = home_with(Engine::options().max_in_flight(1));
            let (client, gate) = gated(&set(home.layer()));
            let first = tokio::spawn(client.ask(post("another", "")));
            gate.reached().await;
            let answer = client.post(KEY, "").await;
            gate.open();
            first.await.unwrap().unwrap();
            answer
        }
        ProblemKind::StoreFailed => {
            home.engine.clone().close().unwrap();
            plain.post(KEY, "").await
        }
        ProblemKind::RecordUnreadable => {
            plain.post(KEY, "").await;
            let scope = home.engine.scope("charges");
            let Ok(Status::Done(stored)) = scope.get(KEY) else { panic!() };
            scope.forget(KEY).unwrap();
            let Ok(Begin::Fresh(claim)) = scope.begin(KEY, *stored.fingerprint()) else { panic!() };
            claim.complete("what another program stored").unwrap();
            plain.post(KEY, "").await
        }
        ProblemKind::HandlerLost => {
            let panics = serving(&layer, |_| async { std::panic::resume_unwind(Box::new("planned")) });
            panics.post(KEY, "").await
        }
        ProblemKind::Misconfigured => {
            let layer = set(IdempotencyLayer::scope_by(&home.engine, |_| None));
            client(&layer, 201, "").post(KEY, "").await
        }
        _ => panic!("{kind} is new: say how a request gets it"),
    }
}

async fn expired(set: Set) -> Answer {
    let clock = idemkv::sim::ManualClock::at_millis(1_800_000_000_000);
    let day = Duration::from_secs(24 * 3_600);
    let options: Options = Engine::options().clock(&clock).ttl(day).tombstone_ttl(7 * day);
    let home = home_with(options);
    let client = client(&set(home.layer()), 201, "made");
    client.post(KEY, "").await;
    clock.advance(2 * day);
    client.post(KEY, "").await
}

/// The body breaks off.
async fn broken_off(layer: &IdempotencyLayer) -> Answer {
    let made =
        |_: Request<LayerBody<Broken>>| async { Ok::<_, Infallible>(Response::new(Full::from("made"))) };
    let asked = Request::post("/v1/charges").header("idempotency-key", KEY).body(Broken).unwrap();
    let (head, body) = layer.layer(service_fn(made)).oneshot(asked).await.unwrap().into_parts();
    let body: Bytes = body.collect().await.unwrap().to_bytes();
    Answer {
        status: head.status,
        headers: head.headers,
        extensions: head.extensions,
        body,
        trailers: None,
        is_broken: false,
    }
}

#[tokio::test]
async fn every_page_shows_the_answer_that_is_sent() {
    for kind in ProblemKind::ALL {
        let answer = provoked(kind, |layer| layer).await;
        assert_eq!(answer.problem(), Some(kind));
        assert_eq!(Shown::from(answer), documented(kind), "docs/problems/{kind}.md");
    }
}

#[tokio::test]
async fn every_problem_has_the_status_and_the_form_that_a_team_chose() {
    for kind in ProblemKind::ALL {
        let answer = provoked(kind, |layer| {
            ProblemKind::ALL
                .into_iter()
                .fold(layer, |layer, kind| layer.status(kind, StatusCode::IM_A_TEAPOT))
        });
        let answer = answer.await;
        assert_eq!((answer.status, answer.problem()), (StatusCode::IM_A_TEAPOT, Some(kind)));
        assert_eq!(answer.json()["status"], 418, "{kind}");
        let answer = provoked(kind, |layer| {
            layer.render(|problem| Response::new(format!("ours: {}", problem.kind()).into()))
        });
        let answer = answer.await;
        assert_eq!(answer.body, format!("ours: {kind}"));
        let says = (answer.forbids_retries(), answer.header("retry-after").is_some());
        assert_eq!(
            (says, answer.header("cache-control")),
            ((!kind.is_retryable(), kind.is_retryable()), Some("no-store"))
        );
    }
}

/// A client that was told "a new key is safe" about a retry of a charge that was made would charge
/// again.
#[tokio::test]
async fn a_new_key_is_called_safe_to_no_retry_of_a_request_that_ran_and_was_hurt_on_its_way() {
    let home = home();
    let layer = home.layer().tenant(|parts| Some(parts.headers.get("account")?.to_str().ok()?.to_owned()));
    let layer = layer.verify(|parts, _| parts.headers.contains_key("signature"));
    let client = client(&layer, 201, "made");
    let asked = |more: &[(&str, &str)]| {
        let headers = [&[("idempotency-key", KEY)], more].concat();
        request("POST", "/v1/charges", &headers, "amount=10")
    };
    let whole = [("account", "a"), ("signature", "s")];
    assert_eq!(client.send(asked(&whole)).await.status, 201);
    let with_key = [&whole[..], &[("idempotency-key", KEY)]].concat();
    let hurt = [
        client.send(asked(&whole[1..])).await,
        client.send(asked(&whole[..1])).await,
        broken_off(&home.layer()).await,
        // A proxy removes or doubles the key, and a client builds the body anew.
        client.send(request("POST", "/v1/charges", &whole, "amount=10")).await,
        client.send(asked(&with_key)).await,
        client.send(request("POST", "/v1/charges", &with_key, "amount=010")).await,
    ];
    let kinds = [
        ProblemKind::TenantMissing,
        ProblemKind::NotVerified,
        ProblemKind::BodyUnreadable,
        ProblemKind::KeyMissing,
        ProblemKind::KeyMalformed,
        ProblemKind::KeyReused,
    ];
    for (answer, kind) in hurt.into_iter().zip(kinds) {
        assert_eq!((answer.problem(), &answer.json()["safe_new_key"]), (Some(kind), &false.into()));
    }
    assert!(client.send(asked(&whole)).await.is_replay());
}
