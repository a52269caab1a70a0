//! Keys, scopes, results and reasons that clients chose to harm a reader.

use idemkv::Engine;
use serde_json::json;

use crate::client::{home, home_with, percent};

const HOSTILE: [&[u8]; 10] = [
    b"<script>alert(1)</script>",
    b"\"'><img src=x onerror=alert(1)>",
    "abc\u{202e}fdp.exe".as_bytes(),
    b"nul\0in the middle",
    b"\xff\xfe\x80 no text",
    b"\x1b[2J\x07\r\n",
    b"back\\slash and ${template} {{base}}",
    "\u{2028}\u{feff}\u{200b}\u{e000}".as_bytes(),
    "refund-7\u{3164}\u{115f}\u{1160}\u{ffa0}".as_bytes(),
    "pay \u{5d0}1-2 \u{627}3-4".as_bytes(),
];

/// All letters of these that are what they look like are ASCII.
fn is_plain(text: &str) -> bool {
    text.chars().all(|letter| letter.is_ascii_graphic() || letter == ' ')
}

#[tokio::test]
async fn hostile_keys_come_out_plain_and_can_be_named_by_what_was_shown() {
    let home = home();
    for key in HOSTILE {
        let mut claim = home.claim("s", key);
        claim.save_progress(key).unwrap();
    }
    let client = home.client();
    let names = client.names("state=interrupted").await;
    assert_eq!(names.len(), HOSTILE.len());
    for name in &names {
        assert!(is_plain(name), "{name:?}");
        let shown = client.key("s", name).await;
        assert_eq!((&shown["state"], &shown["key"]), (&"interrupted".into(), &name.as_str().into()));
        assert!(is_plain(&shown["progress"]["text"].as_str().unwrap().replace('\n', "")));
        let (state, fence) = (&shown["state"], &shown["fence"]);
        let asked = json!({"scope": "s", "key": name, "state": state, "fence": fence, "reason": name});
        assert_eq!(client.post("/api/forget", &asked).await.status, 200, "{name}");
    }
    assert_eq!(client.names("state=interrupted").await, [""; 0]);
}

#[tokio::test]
async fn hostile_scopes_and_results_come_out_plain() {
    let home = home();
    for bytes in HOSTILE {
        let scope = home.engine.scope(bytes);
        let idemkv::Begin::Fresh(claim) = scope.begin("k", idemkv::Fingerprint::of("r")).unwrap() else {
            panic!()
        };
        claim.complete(bytes).unwrap();
        drop(scope.begin("lost", idemkv::Fingerprint::of("r")).unwrap());
    }
    let client = home.client();
    let page = client.look("/api/keys?state=interrupted").await;
    for key in page["keys"].as_array().unwrap() {
        let scope = key["scope"].as_str().unwrap();
        assert!(is_plain(scope), "{scope:?}");
        let body = client.key(scope, "k").await["body"]["text"].as_str().unwrap().to_owned();
        assert!(is_plain(&body.replace('\n', "")), "{body:?}");
        assert_eq!(client.names(&format!("state=interrupted&scope={}", percent(scope))).await, ["lost"]);
    }
}

#[tokio::test]
async fn keys_of_any_length_are_listed_shown_and_forgotten() {
    let home = home_with(Engine::options().max_key_bytes(4_000));
    home.interrupt("", [0xff; 4_000]);
    let client = home.client();
    let name = client.names("state=interrupted").await.pop().unwrap();
    assert_eq!(name.len(), 16_000);
    let shown = client.key("", &name).await;
    let (state, fence) = (&shown["state"], &shown["fence"]);
    let asked = json!({"scope": "", "key": name, "state": state, "fence": fence, "reason": "long"});
    assert_eq!(client.post("/api/forget", &asked).await.status, 200);
}

#[tokio::test]
async fn title_and_path_are_no_markup_in_the_page() {
    let home = home();
    let router = home.admin().title("<script>\"&'").router();
    let nested = crate::client::Client(axum::Router::new().nest("/{any}", router));
    let page = nested.get("/a'b&c").await.text;
    assert!(page.contains("<title>&lt;script&gt;&quot;&amp;&#39; "));
    assert!(page.contains("href=\"./a&#39;b&amp;c/style.css\""), "{page}");
    assert_eq!(page.matches("<script").count(), 1);
}

/// The script takes no text for markup. The policy of the server forbids it, where a browser knows
/// that.
#[test]
fn the_page_has_no_way_to_take_text_for_markup() {
    let (page, script) =
        (include_str!("../../src/admin/page/page.html"), include_str!("../../src/admin/page/script.js"));
    for way in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
        "DOMParser",
        ".style",
    ] {
        assert!(!script.contains(way), "{way}");
    }
    for way in ["style=", " onclick", " onload", "<style", "javascript:", "http:", "https:", "//"] {
        assert!(!page.contains(way), "{way}");
    }
}
