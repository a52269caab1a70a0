//! The page: three files that need no build step and nothing from elsewhere.

use std::sync::Arc;

use axum::extract::{OriginalUri, State};
use axum::response::Html;
use http::header::{self, HeaderName};

use super::shared::Shared;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/script.js");

/// Its links are relative to the address that the browser has. So it works below any prefix, with
/// a slash at the end or without.
pub(super) async fn page(State(shared): State<Arc<Shared>>, OriginalUri(uri): OriginalUri) -> Html<String> {
    let base = match uri.path().rsplit_once('/') {
        Some((_, last)) if !last.is_empty() => format!("./{last}/"),
        _ => "./".to_owned(),
    };
    Html(PAGE.replace("{{base}}", &escaped(&base)).replace("{{title}}", &escaped(&shared.title)))
}

pub(super) async fn style() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], STYLE)
}

pub(super) async fn script() -> ([(HeaderName, &'static str); 1], &'static str) {
    ([(header::CONTENT_TYPE, "text/javascript; charset=utf-8")], SCRIPT)
}

/// Text as HTML, also within quotes.
fn escaped(text: &str) -> String {
    let mut html = String::new();
    for letter in text.chars() {
        match letter {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            _ => html.push(letter),
        }
    }
    html
}
