//! An engine with the page in process, and a client of it.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use idemkv::admin::{Access, Admin};
use idemkv::{Begin, Claim, Engine, Fingerprint, Options};
use serde_json::Value;
use tower::ServiceExt;

pub struct Home {
    pub engine: Engine,
    pub dir: tempfile::TempDir,
}

pub fn home() -> Home {
    home_with(Engine::options())
}

pub fn home_with(options: Options) -> Home {
    let dir = tempfile::tempdir().unwrap();
    Home { engine: options.open(dir.path().join("x.idem")).unwrap(), dir }
}

impl Home {
    pub fn claim(&self, scope: &str, key: impl AsRef<[u8]>) -> Claim {
        match self.engine.scope(scope).begin(key, Fingerprint::of("request")).unwrap() {
            Begin::Fresh(claim) => claim,
            other => panic!("{other:?}"),
        }
    }

    pub fn interrupt(&self, scope: &str, key: impl AsRef<[u8]>) {
        drop(self.claim(scope, key));
    }

    pub fn admin(&self) -> Admin {
        Admin::new(&self.engine, |_| Access::change("ada")).backups_in(self.dir.path())
    }

    pub fn client(&self) -> Client {
        Client(self.admin().router())
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    /// The code of a problem, behind its status.
    pub fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let (status, json) = (self.status.as_u16(), self.json());
        assert_eq!(json["status"], status);
        assert!(json["title"].is_string() && json["detail"].is_string());
        (status, json["code"].as_str().unwrap().to_owned())
    }
}

/// What the page sends with a change.
pub const FROM_THE_PAGE: [(&str, &str); 3] =
    [("content-type", "application/json"), ("idemkv-admin", "1"), ("sec-fetch-site", "same-origin")];

pub struct Client(pub Router);

impl Client {
    pub async fn ask(
        &self,
        method: &str,
        uri: &str,
        headers: &[(&str, &str)],
        body: impl ToString,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(uri).header("host", "ops.example");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        let response = self.0.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = to_bytes(body, 64 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        Answer { status: parts.status, headers: parts.headers, text }
    }

    pub async fn get(&self, uri: &str) -> Answer {
        self.ask("GET", uri, &[], "").await
    }

    /// What a route gives that looks.
    pub async fn look(&self, uri: &str) -> Value {
        let answer = self.get(uri).await;
        assert_eq!(answer.status, 200, "{uri}: {}", answer.text);
        answer.json()
    }

    pub async fn post(&self, uri: &str, body: &Value) -> Answer {
        self.ask("POST", uri, &FROM_THE_PAGE, body).await
    }

    pub async fn key(&self, scope: &str, key: &str) -> Value {
        self.look(&format!("/api/key?scope={}&key={}", percent(scope), percent(key))).await
    }

    /// The names of all keys of a list, page by page.
    pub async fn names(&self, query: &str) -> Vec<String> {
        let (mut names, mut after) = (Vec::new(), String::new());
        loop {
            let page = self.look(&format!("/api/keys?{query}{after}")).await;
            let keys = page["keys"].as_array().unwrap();
            names.extend(keys.iter().map(|key| key["key"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => after = format!("&after={next}"),
                None => return names,
            }
        }
    }
}

pub fn percent(text: &str) -> String {
    text.bytes().flat_map(|byte| format!("%{byte:02x}").into_bytes()).map(char::from).collect()
}
