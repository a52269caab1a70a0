//! Routes that look.

use std::time::Duration;

use idemkv::Engine;
use idemkv::sim::ManualClock;

use crate::client::{home, home_with, percent};

#[tokio::test]
async fn lists_are_paged_and_filtered_by_scope_prefix_and_hash() {
    let home = home();
    for number in 0..25 {
        home.interrupt(if number % 2 == 0 { "even" } else { "odd" }, format!("key-{number:02}"));
    }
    let _held = home.claim("even", "held");
    let client = home.client();
    let all = client.names("state=interrupted&limit=7").await;
    assert_eq!(all, (0..25).map(|number| format!("key-{number:02}")).collect::<Vec<_>>());
    assert_eq!(client.names("state=interrupted&scope=odd&limit=5").await.len(), 12);
    assert_eq!(client.names("state=interrupted&prefix=key-1&limit=3").await.len(), 10);
    assert_eq!(client.names("state=in-flight").await, ["held"]);
    let hash = home.engine.scope("odd").key_hash("key-07").unwrap().to_string();
    for hash in [hash.clone(), hash.to_uppercase(), percent(&format!("#{hash}"))] {
        assert_eq!(client.names(&format!("state=interrupted&hash={hash}")).await, ["key-07"]);
    }
    let page = client.look("/api/keys?state=interrupted&limit=1").await;
    let key = &page["keys"][0];
    assert_eq!(
        (&key["state"], &key["attempt"], &key["scope"]),
        (&"interrupted".into(), &1.into(), &"even".into())
    );
}

#[tokio::test]
async fn lists_are_filtered_by_age() {
    let clock = ManualClock::at_millis(1_800_000_000_000);
    let home = home_with(Engine::options().clock(&clock));
    home.interrupt("", "old");
    clock.advance(Duration::from_secs(100));
    home.interrupt("", "young");
    let client = home.client();
    assert_eq!(client.names("state=interrupted&older_s=60").await, ["old"]);
    assert_eq!(client.names("state=interrupted&younger_s=60").await, ["young"]);
    assert_eq!(client.names("state=interrupted&older_s=101").await, [""; 0]);
}

#[tokio::test]
async fn a_key_is_shown_in_every_state() {
    let home = home();
    let client = home.client();
    assert_eq!(client.key("s", "k").await["state"], "vacant");
    let mut claim = home.claim("s", "k");
    assert_eq!(client.key("s", "k").await["state"], "in-flight");
    claim.save_progress("half\nway").unwrap();
    drop(claim);
    let shown = client.key("s", "k").await;
    assert_eq!((&shown["state"], &shown["progress"]["text"]), (&"interrupted".into(), &"half\nway".into()));
    home.engine.scope("s").resolve("k").unwrap().complete("a".repeat(20_000)).unwrap();
    let shown = client.key("s", "k").await;
    assert_eq!((&shown["state"], &shown["outcome"]), (&"done".into(), &"success".into()));
    let body = &shown["body"];
    assert_eq!((&body["bytes"], &body["is_cut"]), (&20_000.into(), &true.into()));
    assert_eq!(body["text"].as_str().unwrap().len(), 16 << 10);
}

#[tokio::test]
async fn the_overview_has_the_engines_statistics() {
    let home = home();
    home.interrupt("", "k");
    let overview = home.client().look("/api/overview").await;
    assert_eq!((&overview["title"], &overview["operator"]), (&"idemkv".into(), &"ada".into()));
    assert_eq!((&overview["may_change"], &overview["may_back_up"]), (&true.into(), &true.into()));
    assert_eq!((&overview["stats"]["interrupted"], &overview["stats"]["fresh"]), (&1.into(), &1.into()));
}

/// Tokio's time passes by itself when nothing else is to be done.
#[tokio::test(start_paused = true)]
async fn answers_are_noted_every_ten_seconds_for_an_hour_at_most() {
    let home = home();
    let client = home.client();
    home.interrupt("", "k");
    tokio::time::sleep(Duration::from_secs(35)).await;
    let answers = client.look("/api/answers").await;
    let fresh: Vec<u64> =
        answers["samples"].as_array().unwrap().iter().map(|s| s["fresh"].as_u64().unwrap()).collect();
    assert_eq!(fresh, [1, 1, 1, 1, 1], "at 0, 10, 20, 30 s and now");
    tokio::time::sleep(Duration::from_secs(5_000)).await;
    assert_eq!(client.look("/api/answers").await["samples"].as_array().unwrap().len(), 362);
}

#[tokio::test]
async fn what_can_not_be_read_is_a_problem() {
    let client = home().client();
    for uri in [
        "/api/keys",
        "/api/keys?state=done",
        "/api/keys?state=interrupted&limit=many",
        "/api/keys?state=interrupted&after=7",
        "/api/keys?state=interrupted&prefix=%5Cq",
        "/api/keys?state=interrupted&unknown=1",
        "/api/key",
        "/api/key?key=",
        "/api/key?key=%5Cx4",
    ] {
        assert_eq!(client.get(uri).await.problem(), (400, "bad_request".to_owned()), "{uri}");
    }
}

#[tokio::test]
async fn a_closed_engine_is_said_to_have_stopped() {
    let home = home();
    let client = home.client();
    home.engine.clone().close().unwrap();
    assert_eq!(client.get("/api/keys?state=interrupted").await.problem(), (503, "stopped".to_owned()));
    assert_eq!(client.get("/api/key?key=k").await.problem(), (503, "stopped".to_owned()));
}
