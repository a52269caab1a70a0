//! Headers of responses that are not stored.

use http::header::{self, HeaderMap, HeaderName};

/// For one connection, one client or one moment: RFC 9110 section 7.6.1, RFC 9111 section 3.1.
const NEVER_STORED: [HeaderName; 10] = [
    header::SET_COOKIE,
    header::WWW_AUTHENTICATE,
    header::DATE,
    header::CONTENT_LENGTH,
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// The same, for which `http` has no constants.
const NEVER_STORED_EITHER: [&str; 4] =
    ["keep-alive", "proxy-connection", "proxy-authentication-info", "set-cookie2"];

/// What is not stored of one response.
#[derive(Debug)]
pub(super) struct Unstored<'a> {
    /// Headers that the response itself says are for this connection.
    named: Vec<HeaderName>,
    chosen: &'a [HeaderName],
}

impl<'a> Unstored<'a> {
    /// `chosen` by the service's owner.
    pub(super) fn of(headers: &HeaderMap, chosen: &'a [HeaderName]) -> Self {
        let connection = headers.get_all(header::CONNECTION).iter();
        let items = connection.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
        let named = items.filter_map(|item| HeaderName::from_bytes(item.trim_ascii()).ok()).collect();
        Self { named, chosen }
    }

    pub(super) fn has(&self, name: &HeaderName) -> bool {
        NEVER_STORED.contains(name)
            || NEVER_STORED_EITHER.contains(&name.as_str())
            || self.named.contains(name)
            || self.chosen.contains(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn what_a_response_names_in_its_connection_header_is_not_stored_either() {
        let mut headers = HeaderMap::new();
        headers.append(header::CONNECTION, HeaderValue::from_static("close, X-Hop"));
        headers.append(header::CONNECTION, HeaderValue::from_static(",,not a name"));
        let chosen = [HeaderName::from_static("x-request-id")];
        let unstored = Unstored::of(&headers, &chosen);
        for name in ["x-hop", "close", "x-request-id", "set-cookie", "keep-alive", "date"] {
            assert!(unstored.has(&HeaderName::from_static(name)), "{name}");
        }
        headers.append(header::CONNECTION, HeaderValue::from_bytes(b"x-\xff, X-Beside").unwrap());
        assert!(Unstored::of(&headers, &chosen).has(&HeaderName::from_static("x-beside")));
        for name in ["location", "content-type", "etag"] {
            assert!(!unstored.has(&HeaderName::from_static(name)), "{name}");
        }
    }
}
