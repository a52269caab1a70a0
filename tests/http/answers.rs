//! The answers to problems: status, members, headers, and the options for each.

use std::time::Duration;

use http::{Response, StatusCode};
use idemkv::http::{Keep, Problem, ProblemKind};

use crate::client::{KEY, client, gated, home, post, reply, request, serving};

#[test]
fn the_table_of_the_documentation_is_what_the_layer_does() {
    let page = include_str!("../../docs/http.md");
    for kind in ProblemKind::ALL {
        let code = format!("| `{}` |", kind.code());
        let row =
            page.lines().find(|line| line.contains(&code)).unwrap_or_else(|| panic!("{kind} has no row"));
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let yes_or_no = |yes| if yes { "yes" } else { "no" };
        let has_retry_after = cells[2].contains("Retry-After");
        assert!(cells[2].starts_with(kind.default_status().as_str()), "{row}");
        assert_eq!(cells[4], yes_or_no(kind.is_retryable()), "{row}");
        assert_eq!(has_retry_after, kind.is_retryable(), "{row}");
    }
}

#[tokio::test]
async fn problems_have_the_members_that_programs_need() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    let answer = client.send(request("POST", "/", &[], "")).await;
    let problem = answer.json();
    assert_eq!(problem["code"], "key_missing");
    assert_eq!((&problem["retryable"], &problem["safe_new_key"]), (&false.into(), &false.into()));
    assert!(problem["type"].as_str().unwrap().ends_with("/http/problems/key_missing"));
    assert!(problem.get("result_status").is_none());
    assert!(answer.forbids_retries());
    assert_eq!(answer.extensions.get::<Problem>().unwrap().kind(), ProblemKind::KeyMissing);
}

#[tokio::test]
async fn every_status_and_the_time_of_a_retry_are_options() {
    let home = home();
    let mut layer = home.layer().retry_after(ProblemKind::KeyMissing, Duration::from_millis(1_001));
    for kind in ProblemKind::ALL {
        layer = layer.status(kind, StatusCode::BAD_GATEWAY).status(kind, StatusCode::IM_A_TEAPOT);
    }
    let client = client(&layer, 201, "made");
    client.post(KEY, "").await;
    for asked in [request("POST", "/", &[], ""), post(KEY, "other"), post("a b", "")] {
        let answer = client.send(asked).await;
        assert_eq!((answer.status.as_u16(), &answer.json()["status"]), (418, &418.into()));
    }
    assert_eq!(client.send(request("POST", "/", &[], "")).await.header("retry-after"), Some("2"));
}

#[tokio::test]
async fn a_team_renders_problems_itself_and_headers_still_say_what_they_must() {
    let home = home();
    let layer = home.layer().render(|problem| {
        let mut response = Response::new(format!("{} {}", problem.kind(), problem.detail().len()).into());
        *response.status_mut() = problem.status();
        response
    });
    let client = client(&layer, 201, "made");
    let answer = client.send(request("POST", "/", &[], "")).await;
    assert!(answer.body.starts_with(b"key_missing "));
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (400, Some("no-store")));
    assert!(answer.forbids_retries());
}

#[tokio::test]
async fn a_twin_waits_for_the_first_and_gets_its_response() {
    let home = home();
    let (client, gate) = gated(&home.layer().wait(Duration::from_secs(60)));
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    let twins: Vec<_> = (0..10).map(|_| tokio::spawn(client.ask(post(KEY, "")))).collect();
    gate.open();
    assert!(!first.await.unwrap().unwrap().is_replay());
    for twin in twins {
        let twin = twin.await.unwrap().unwrap();
        assert!(twin.is_replay() && twin.status == 201 && twin.body == "made");
    }
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn a_twin_whose_budget_is_over_is_told_that_the_first_is_in_flight() {
    let home = home();
    let (client, gate) = gated(&home.layer().wait(Duration::from_millis(1)));
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    assert_eq!(client.post(KEY, "").await.problem(), Some(ProblemKind::InFlight));
    gate.open();
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn when_all_places_to_wait_are_taken_a_twin_is_told_that_the_first_is_in_flight() {
    let home = crate::client::home_with(idemkv::Engine::options().max_waiters(0));
    let (client, gate) = gated(&home.layer().wait(Duration::from_secs(60)));
    let first = tokio::spawn(client.ask(post(KEY, "")));
    gate.reached().await;
    let twin = client.post(KEY, "").await;
    assert_eq!((twin.status.as_u16(), twin.problem()), (409, Some(ProblemKind::InFlight)));
    gate.open();
    first.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_result_that_was_not_kept_is_told_with_its_status_and_its_place() {
    let home = home();
    let client = serving(&home.layer(), |_| async {
        let mut response = reply(201, "a secret");
        response.headers_mut().insert("location", "/v1/charges/7".parse().unwrap());
        response.extensions_mut().insert(Keep::outcome());
        Ok(response)
    });
    assert_eq!(client.post(KEY, "").await.body, "a secret");
    let retry = client.post(KEY, "").await;
    assert_eq!((retry.status.as_u16(), retry.problem()), (409, Some(ProblemKind::ResultNotKept)));
    assert_eq!(
        (&retry.json()["result_status"], retry.header("location")),
        (&201.into(), Some("/v1/charges/7"))
    );
    assert!(retry.forbids_retries() && !retry.body.windows(6).any(|part| part == b"secret"));
    assert_eq!(client.runs(), 1);
}

#[tokio::test]
async fn stored_responses_that_clients_would_retry_tell_them_not_to() {
    let home = home();
    for (status, forbids) in
        [(200, false), (402, false), (404, false), (409, true), (429, true), (500, true), (503, true)]
    {
        let client = client(&home.layer(), status, "result");
        let key = status.to_string();
        for _ in 0..2 {
            assert_eq!(client.post(&key, "").await.forbids_retries(), forbids, "{status}");
        }
    }
    let client = serving(&home.layer(), |_| async {
        let mut response = reply(503, "later");
        response.extensions_mut().insert(Keep::not_started());
        Ok(response)
    });
    assert!(!client.post(KEY, "").await.forbids_retries(), "a retry runs");
}

#[tokio::test]
async fn problems_of_the_store_give_nothing_of_its_inside_away() {
    let home = home();
    let client = client(&home.layer(), 201, "made");
    home.engine.clone().close().unwrap();
    let answer = client.post(KEY, "").await;
    assert_eq!((answer.status.as_u16(), answer.problem()), (503, Some(ProblemKind::StoreFailed)));
    assert_eq!(answer.header("retry-after"), Some("30"));
    let problem = answer.extensions.get::<Problem>().unwrap();
    assert!(problem.cause().is_some_and(|cause| cause.to_string().contains("closed")));
    assert!(!answer.json()["detail"].as_str().unwrap().contains("closed"));
    assert_eq!(client.runs(), 0, "fails closed");
}

#[test]
fn every_problem_has_a_page_that_says_the_same_of_it() {
    for kind in ProblemKind::ALL {
        let path = format!("{}/docs/problems/{}.md", env!("CARGO_MANIFEST_DIR"), kind.code());
        let page = std::fs::read_to_string(&path).unwrap();
        let says = |yes| if yes { "yes" } else { "no" };
        let line = format!(
            "Status {}, code `{kind}`. Retry the same request: {}. Go on with a new key: no.",
            kind.default_status().as_u16(),
            says(kind.is_retryable()),
        );
        assert!(page.starts_with(&format!("# {}\n", kind.title())), "{path}");
        assert!(page.contains(&line), "{path}: {line}");
        let example = page.split("\n\n{").nth(1).unwrap().split("\n```").next().unwrap();
        let example: serde_json::Value = serde_json::from_str(&format!("{{{example}")).unwrap();
        assert_eq!(
            (&example["code"], &example["title"]),
            (&kind.code().into(), &kind.title().into()),
            "{path}"
        );
        let forbids = page.contains("\nx-should-retry: false\n");
        assert_eq!(
            (forbids, page.contains("\nretry-after: ")),
            (!kind.is_retryable(), kind.is_retryable()),
            "{path}"
        );
    }
}
