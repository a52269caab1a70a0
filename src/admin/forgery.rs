//! Whether a request that changes something comes from the page itself, and not from another site
//! that an operator's browser has open.

use http::header::{self, HeaderMap};
use http::request::Parts;

/// The page sends it. Another site can't without asking first, and the router answers no such
/// question (a CORS preflight).
const HEADER: &str = "idemkv-admin";

/// # Errors
///
/// With what is missing, or gives the request away.
pub(super) fn check(parts: &Parts) -> Result<(), &'static str> {
    let headers = &parts.headers;
    if headers.get(HEADER).is_none_or(|value| value != "1") {
        return Err("the header `Idemkv-Admin: 1` is missing");
    }
    if !is_json(headers) {
        return Err("the content type is not `application/json`");
    }
    // Browsers set it, and no script can. It is missing without TLS.
    if let Some(site) = headers.get("sec-fetch-site") {
        return if site == "same-origin" { Ok(()) } else { Err("it comes from another site") };
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().ok().and_then(|origin| origin.split_once("://")).map(|(_, host)| host);
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let host = host.or(parts.uri.authority().map(http::uri::Authority::as_str));
        let is_ours = origin.zip(host).is_some_and(|(origin, host)| origin.eq_ignore_ascii_case(host));
        return if is_ours { Ok(()) } else { Err("it comes from another origin than its host") };
    }
    // No browser.
    Ok(())
}

/// A form can't send it.
fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}
