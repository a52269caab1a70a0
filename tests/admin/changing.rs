//! Routes that change something.

use axum::http::Request;
use idemkv::http::{IdempotencyLayer, RequestFingerprint};
use idemkv::{Begin, Engine, Fingerprint, Outcome, Recovery, Status};
use serde_json::{Value, json};
use tower::{Layer, ServiceExt, service_fn};

use crate::client::{Client, Home, home};

async fn target(client: &Client, key: &str) -> Value {
    let shown = client.key("charges", key).await;
    let (state, fence) = (&shown["state"], &shown["fence"]);
    json!({"scope": "charges", "key": key, "state": state, "fence": fence, "reason": "the bank's report"})
}

fn with(mut body: Value, more: &Value) -> Value {
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    body
}

fn status(home: &Home, key: &str) -> Status {
    home.engine.scope("charges").get(key).unwrap()
}

#[tokio::test]
async fn a_key_is_resolved_as_completed_failed_or_did_not_happen_with_its_reason() {
    let home = home();
    let client = home.client();
    let bytes = json!({"form": "bytes", "body": "ch_1"});
    for (outcome, result) in [("completed", Some(&bytes)), ("failed", Some(&bytes)), ("did-not-happen", None)]
    {
        home.interrupt("charges", outcome);
        let mut asked = with(target(&client, outcome).await, &json!({"outcome": outcome}));
        if let Some(result) = result {
            asked["result"] = result.clone();
        }
        let answer = client.post("/api/resolve", &asked).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let did = format!("resolved as {}", outcome.replace('-', " "));
        assert_eq!(answer.json()["did"], *did);
        match (outcome, status(&home, outcome)) {
            ("completed", Status::Done(record)) => {
                assert_eq!((record.outcome(), record.body()), (Outcome::Success, &b"ch_1"[..]));
            }
            ("failed", Status::Done(record)) => {
                assert_eq!((record.outcome(), record.body()), (Outcome::Failure, &b"ch_1"[..]));
            }
            ("did-not-happen", Status::Vacant) => {}
            (_, other) => panic!("{outcome}: {other}"),
        }
        let change = &client.key("charges", outcome).await["changes"][0];
        assert_eq!(change["did"], *did);
        assert_eq!((&change["operator"], &change["reason"]), (&"ada".into(), &"the bank's report".into()));
    }
}

#[tokio::test]
async fn a_retry_gets_the_response_that_an_operator_gave() {
    let home = home();
    home.interrupt("charges", "key-1");
    let client = home.client();
    let result = json!({"form": "response", "status": 201, "content_type": "application/json", "body": "{}"});
    let asked = with(target(&client, "key-1").await, &json!({"outcome": "completed", "result": result}));
    assert_eq!(client.post("/api/resolve", &asked).await.status, 200);
    let shown = client.key("charges", "key-1").await;
    assert_eq!(shown["response"]["status"], 201);
    assert_eq!(shown["response"]["headers"], json!([["content-type", "application/json"]]));
    assert_eq!(shown["response"]["body"]["text"], "{}");

    // As a client of the layer gets it, whose request is the one that was interrupted.
    let handler = service_fn(async |_request| -> Result<_, std::convert::Infallible> {
        Ok(axum::http::Response::new(axum::body::Body::from("it was run again")))
    });
    let layer = IdempotencyLayer::new(&home.engine, "charges")
        .fingerprint(RequestFingerprint::custom(|_, _| Fingerprint::of("request")));
    let request =
        Request::post("/").header("idempotency-key", "key-1").body(axum::body::Body::empty()).unwrap();
    let response = layer.layer(handler).oneshot(request).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), response.headers()["content-type"].as_bytes()),
        (201, &b"application/json"[..])
    );
}

#[tokio::test]
async fn a_key_is_forgotten_and_the_reason_kept_over_a_restart() {
    let home = home();
    home.interrupt("charges", "k");
    let client = home.client();
    let asked = target(&client, "k").await;
    assert_eq!(client.post("/api/forget", &asked).await.json()["did"], "forgotten");
    assert!(matches!(status(&home, "k"), Status::Vacant));
    assert_eq!(client.post("/api/forget", &asked).await.problem(), (404, "absent".to_owned()));
    let dir = home.dir;
    drop(client);
    home.engine.close().unwrap();
    let home = Home { engine: Engine::open(dir.path().join("x.idem")).unwrap(), dir };
    let shown = home.client().key("charges", "k").await;
    assert_eq!(shown["changes"][0]["reason"], "the bank's report");
    assert_eq!(shown["changes"].as_array().unwrap().len(), 1, "the refused one is not among them");
}

#[tokio::test]
async fn what_the_operator_did_not_see_is_not_changed() {
    let home = home();
    home.interrupt("charges", "k");
    let client = home.client();
    let seen = with(target(&client, "k").await, &json!({"outcome": "did-not-happen"}));
    // Meanwhile another attempt is made, and lost.
    drop(home.engine.scope("charges").resolve("k").unwrap());
    let changed = (409, "changed".to_owned());
    assert_eq!(client.post("/api/resolve", &seen).await.problem(), changed);
    assert_eq!(client.post("/api/forget", &seen).await.problem(), changed);
    let shown = client.key("charges", "k").await;
    assert_eq!((&shown["state"], &shown["changes"]), (&"interrupted".into(), &json!([])));
    // Nor what is not interrupted.
    let held = home.claim("charges", "held");
    let asked = with(target(&client, "held").await, &json!({"outcome": "did-not-happen"}));
    assert_eq!(client.post("/api/resolve", &asked).await.problem(), changed);
    assert_eq!(client.post("/api/forget", &asked).await.problem(), changed);
    held.complete("done").unwrap();
    assert_eq!(client.post("/api/resolve", &asked).await.problem(), changed);
    // It has the fence that it had in flight.
    assert_eq!(client.post("/api/forget", &asked).await.problem(), changed);
    assert!(matches!(status(&home, "held"), Status::Done(_)));
}

#[tokio::test]
async fn the_last_eight_changes_of_a_key_are_kept() {
    let home = home();
    let client = home.client();
    for number in 0..10 {
        home.interrupt("charges", "k");
        let asked = with(target(&client, "k").await, &json!({"reason": format!("reason {number}")}));
        assert_eq!(client.post("/api/forget", &asked).await.status, 200);
    }
    let shown = client.key("charges", "k").await;
    let mut reasons: Vec<&str> = shown["changes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|change| change["reason"].as_str().unwrap())
        .collect();
    reasons.sort_unstable();
    assert_eq!(reasons.len(), 8);
    assert!(reasons.contains(&"reason 9"), "{reasons:?}");
}

#[tokio::test]
async fn a_change_that_is_not_whole_changes_nothing() {
    let home = home();
    home.interrupt("charges", "k");
    let client = home.client();
    let whole = with(
        target(&client, "k").await,
        &json!({"outcome": "completed", "result": {"form": "bytes", "body": ""}}),
    );
    let too_long = "x".repeat(3_000);
    for (more, what) in [
        (json!({"reason": ""}), "no reason"),
        (json!({"reason": " \n"}), "a blank reason"),
        (json!({"reason": too_long}), "a long reason"),
        (json!({"fence": null}), "no fence"),
        (json!({"state": null}), "no state"),
        (json!({"outcome": "perhaps"}), "an outcome that is none"),
        (json!({"result": null}), "no result"),
        (json!({"outcome": "did-not-happen"}), "a result of nothing"),
        (json!({"key": "\\q"}), "a key that is no name"),
        (json!({"result": {"form": "response", "status": 99, "content_type": "", "body": ""}}), "no status"),
        (
            json!({"result": {"form": "response", "status": 200, "content_type": "a\nb", "body": ""}}),
            "two headers",
        ),
        (
            json!({"result": {"form": "response", "status": 500, "content_type": "", "body": ""}}),
            "a success with the status of a failure",
        ),
        (
            json!({"outcome": "failed", "result": {"form": "response", "status": 201, "content_type": "", "body": ""}}),
            "a failure with the status of a success",
        ),
    ] {
        let answer = client.post("/api/resolve", &with(whole.clone(), &more)).await;
        assert_eq!(answer.problem(), (400, "bad_request".to_owned()), "{what}");
    }
    assert!(matches!(status(&home, "k"), Status::Interrupted(_)));
    assert_eq!(client.post("/api/resolve", &whole).await.status, 200);
}

#[tokio::test]
async fn a_result_that_is_too_long_leaves_key_and_journal_as_they_were() {
    let home = crate::client::home_with(Engine::options().max_body_bytes(2_000));
    let twice = home.engine.policy().recovery(Recovery::Rerun).max_attempts(2);
    home.engine.set_policy("charges", twice).unwrap();
    home.interrupt("charges", "k");
    let client = home.client();
    let before = client.key("charges", "k").await;
    assert_eq!((&before["state"], &before["attempt"]), (&"interrupted".into(), &1.into()));
    let result = json!({"form": "bytes", "body": "x".repeat(3_000)});
    for _ in 0..2 {
        let asked = with(target(&client, "k").await, &json!({"outcome": "completed", "result": result}));
        assert_eq!(client.post("/api/resolve", &asked).await.problem(), (413, "too_large".to_owned()));
        assert_eq!(client.key("charges", "k").await, before);
    }
    assert_eq!(home.claim("charges", "k").attempt(), 2, "the operator's claims were no attempts");
}

#[tokio::test]
async fn a_reason_that_is_not_stored_leaves_nothing_behind() {
    let home = crate::client::home_with(Engine::options().max_body_bytes(64));
    home.interrupt("charges", "k");
    let client = home.client();
    let asked = target(&client, "k").await;
    // More often than there are places for reasons.
    for _ in 0..13 {
        assert_eq!(client.post("/api/forget", &asked).await.problem(), (413, "too_large".to_owned()));
        assert_eq!(home.engine.stats().interrupted, 1);
    }
}

#[tokio::test]
async fn a_backup_goes_into_the_folder_and_nowhere_else() {
    let home = home();
    home.claim("charges", "k").complete("ch_1").unwrap();
    let client = home.client();
    let chosen = json!({"file": "../elsewhere.idem"});
    assert_eq!(client.post("/api/backup", &chosen).await.problem(), (400, "bad_request".to_owned()));
    let made = client.post("/api/backup", &json!({})).await.json();
    let copy = Engine::open(home.dir.path().join(made["file"].as_str().unwrap())).unwrap();
    let again = copy.scope("charges").begin("k", Fingerprint::of("request")).unwrap();
    assert!(matches!(again, Begin::Done(record) if record.body() == b"ch_1"));
}
