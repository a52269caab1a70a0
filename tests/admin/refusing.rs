//! What the service does not let through, what comes from elsewhere, and the page that only looks.

use idemkv::Status;
use idemkv::admin::{Access, Admin};
use serde_json::json;

use crate::client::{Client, FROM_THE_PAGE, Home, home};

const LOOKING: [&str; 7] = [
    "/",
    "/script.js",
    "/style.css",
    "/api/overview",
    "/api/answers",
    "/api/keys?state=interrupted",
    "/api/key?key=k",
];
const CHANGING: [&str; 3] = ["/api/resolve", "/api/forget", "/api/backup"];

/// A change that would be made.
fn release(home: &Home) -> serde_json::Value {
    if let Status::Vacant = home.engine.default_scope().get("k").unwrap() {
        home.interrupt("", "k");
    }
    let Status::Interrupted(lost) = home.engine.default_scope().get("k").unwrap() else { panic!() };
    let (state, fence) = ("interrupted", lost.fence().get());
    json!({"scope": "", "key": "k", "state": state, "fence": fence, "reason": "r", "outcome": "did-not-happen"})
}

fn is_as_it_was(home: &Home) -> bool {
    let files = std::fs::read_dir(home.dir.path()).unwrap().count();
    matches!(home.engine.default_scope().get("k").unwrap(), Status::Interrupted(_)) && files == 2
}

#[tokio::test]
async fn nothing_is_shown_or_changed_without_the_services_word() {
    let home = home();
    let asked = release(&home);
    let admin = Admin::new(&home.engine, |request| match request.headers.get("x-user") {
        Some(_) => Access::change("ada"),
        None => Access::Refused,
    });
    let client = Client(admin.backups_in(home.dir.path()).router());
    let refused = (403, "refused".to_owned());
    for path in LOOKING {
        assert_eq!(client.get(path).await.problem(), refused, "{path}");
        assert_eq!(client.ask("GET", path, &[("x-user", "ada")], "").await.status, 200, "{path}");
    }
    for path in CHANGING {
        assert_eq!(client.post(path, &asked).await.problem(), refused, "{path}");
    }
    assert!(is_as_it_was(&home));
}

#[tokio::test]
async fn a_request_that_may_look_changes_nothing() {
    let home = home();
    let asked = release(&home);
    let client = Client(Admin::new(&home.engine, |_| Access::Look).backups_in(home.dir.path()).router());
    for path in LOOKING {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    for path in CHANGING {
        assert_eq!(client.post(path, &asked).await.problem(), (403, "refused".to_owned()), "{path}");
    }
    let overview = client.look("/api/overview").await;
    assert_eq!((&overview["may_change"], &overview["may_back_up"]), (&false.into(), &false.into()));
    assert!(is_as_it_was(&home));
}

#[tokio::test]
async fn a_page_that_is_read_only_has_no_route_that_changes_anything() {
    let home = home();
    let asked = release(&home);
    let client = Client(home.admin().read_only().router());
    for path in LOOKING {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    for path in CHANGING {
        assert_eq!(client.get(path).await.status, 404, "{path}: there is no such route");
        let answer = client.post(path, &asked).await;
        assert!(answer.status.is_client_error(), "{path}: {}", answer.status);
    }
    let overview = client.look("/api/overview").await;
    assert_eq!((&overview["may_change"], &overview["may_back_up"]), (&false.into(), &false.into()));
    assert!(is_as_it_was(&home));
}

#[tokio::test]
async fn without_a_folder_there_is_no_route_for_backups() {
    let home = home();
    let client = Client(Admin::new(&home.engine, |_| Access::change("ada")).router());
    assert_eq!(client.post("/api/backup", &json!({})).await.status, 404);
    assert_eq!(client.look("/api/overview").await["may_back_up"], false);
}

#[tokio::test]
async fn a_change_from_another_site_is_refused() {
    let home = home();
    let asked = release(&home);
    let client = home.client();
    let json = ("content-type", "application/json");
    let ours = ("idemkv-admin", "1");
    let forgeries: [&[(&str, &str)]; 12] = [
        &[],
        &[json],
        &[ours],
        &[json, ("idemkv-admin", "0")],
        &[ours, ("content-type", "text/plain")],
        &[ours, ("content-type", "text/plain; application/json")],
        &[json, ours, ("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")],
        &[json, ours, ("sec-fetch-site", "same-site"), ("origin", "https://ops.example")],
        &[json, ours, ("sec-fetch-site", "none")],
        &[json, ours, ("origin", "https://evil.example")],
        &[json, ours, ("origin", "https://ops.example.evil.example")],
        &[json, ours, ("origin", "null")],
    ];
    for headers in forgeries {
        for path in CHANGING {
            let answer = client.ask("POST", path, headers, &asked).await;
            assert_eq!(answer.problem(), (403, "forged".to_owned()), "{path} {headers:?}");
        }
    }
    // A form of another site may say so in its address.
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let answer = client.ask(method, "/api/forget", &FROM_THE_PAGE, &asked).await;
        assert!(answer.status.is_client_error(), "{method}: {}", answer.status);
    }
    assert!(is_as_it_was(&home));
    // From the page, by browsers new and old, and from a script without one.
    for headers in [
        &[json, ours, ("sec-fetch-site", "same-origin")][..],
        &[json, ours, ("origin", "http://OPS.example")],
        &[json, ours],
    ] {
        let asked = release(&home);
        let answer = client.ask("POST", "/api/resolve", headers, &asked).await;
        assert_eq!(answer.status, 200, "{headers:?}: {}", answer.text);
    }
}
