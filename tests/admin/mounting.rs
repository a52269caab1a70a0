//! The page below any prefix, and its headers.

use axum::Router;
use axum::routing::get;

use crate::client::{Client, home};

#[tokio::test]
async fn it_works_below_any_prefix_and_leaves_other_routes_alone() {
    let home = home();
    let hello = || Router::new().route("/hello", get(async || "hello"));
    let nested = hello().nest("/ops/keys", home.admin().router());
    let as_service = hello().nest_service("/ops/keys", home.admin().router::<()>());
    for (service, name) in [(nested, "nested"), (as_service, "as a service")] {
        let client = Client(service);
        let page = client.get("/ops/keys").await;
        assert_eq!(page.status, 200, "{name}");
        // Relative to /ops/.
        assert!(
            page.text.contains("src=\"./keys/script.js\"") && page.text.contains("data-base=\"./keys/\"")
        );
        for (path, content_type) in [
            ("/ops/keys/script.js", "text/javascript; charset=utf-8"),
            ("/ops/keys/style.css", "text/css; charset=utf-8"),
            ("/ops/keys/api/overview", "application/json"),
        ] {
            let answer = client.get(path).await;
            assert_eq!(
                (answer.status.as_u16(), answer.headers["content-type"].as_bytes()),
                (200, content_type.as_bytes())
            );
        }
        assert_eq!(client.get("/hello").await.text, "hello");
        assert_eq!(client.get("/other").await.status, 404);
    }
    let merged = Client(hello().merge(home.admin().router()));
    assert!(merged.get("/").await.text.contains("src=\"./script.js\""));
    assert_eq!(merged.get("/hello").await.text, "hello");
}

#[tokio::test]
async fn every_answer_forbids_frames_inline_scripts_sniffing_and_caches() {
    let client = home().client();
    for path in ["/", "/script.js", "/style.css", "/api/overview", "/api/key", "/api/resolve"] {
        let headers = client.get(path).await.headers;
        let policy = headers["content-security-policy"].to_str().unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(
            (&headers["x-frame-options"], &headers["x-content-type-options"]),
            (&"DENY".parse().unwrap(), &"nosniff".parse().unwrap())
        );
        assert_eq!(
            (&headers["cache-control"], &headers["referrer-policy"]),
            (&"no-store".parse().unwrap(), &"no-referrer".parse().unwrap())
        );
        assert!(!headers.contains_key("set-cookie") && !headers.contains_key("access-control-allow-origin"));
    }
}
