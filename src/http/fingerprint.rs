//! What makes a request the same as an earlier one.

mod json;
mod multipart;

use std::fmt;
use std::sync::Arc;

use http::Uri;
use http::header::{self, HeaderName};
use http::request::Parts;

use crate::{Fingerprint, FingerprintBuilder};

type Custom = Arc<dyn Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync>;

/// Which parts of a request count. The same key with a request that differs in one of them is
/// refused.
///
/// By default: method, path, query, content type and body, byte for byte. Headers do not count
/// unless they are [named](Self::header): dates, trace ids and signatures differ between two
/// tries.
///
/// ```
/// use idemkv::http::RequestFingerprint;
///
/// let currency = http::HeaderName::from_static("x-currency");
/// let fingerprint = RequestFingerprint::new().json_key_order().header(currency);
/// ```
#[derive(Clone)]
#[must_use = "it does something in a layer only"]
pub struct RequestFingerprint {
    counts: Counts,
    headers: Vec<HeaderName>,
    sorts_json: bool,
    sorts_query: bool,
    ignores_boundary: bool,
}

#[derive(Clone)]
enum Counts {
    Request,
    Body,
    Nothing,
    Custom(Custom),
}

impl RequestFingerprint {
    fn of_counts(counts: Counts) -> Self {
        Self { counts, headers: Vec::new(), sorts_json: false, sorts_query: false, ignores_boundary: false }
    }

    /// Method, path, query, content type and body.
    pub fn new() -> Self {
        Self::of_counts(Counts::Request)
    }

    /// The body alone. For webhooks, whose senders may deliver one event to several addresses, and
    /// sign the time of each try.
    pub fn body_only() -> Self {
        Self::of_counts(Counts::Body)
    }

    /// Nothing: a key with another payload gets the stored response. For contracts that promise
    /// that.
    pub fn ignored() -> Self {
        Self::of_counts(Counts::Nothing)
    }

    /// The fingerprint that `function` makes of the request. The other options have no effect on
    /// it. The function sees the [URI that the client sent](super#what-the-layer-sees). A URI that
    /// a middleware behind the router has written counts besides.
    ///
    /// ```
    /// use idemkv::Fingerprint;
    /// use idemkv::http::RequestFingerprint;
    ///
    /// let fingerprint = RequestFingerprint::custom(|parts, body| {
    ///     Fingerprint::builder().field("path", parts.uri.path()).field("body", body).finish()
    /// });
    /// ```
    pub fn custom(function: impl Fn(&Parts, &[u8]) -> Fingerprint + Send + Sync + 'static) -> Self {
        Self::of_counts(Counts::Custom(Arc::new(function)))
    }

    /// The values of this header count too, in their order.
    pub fn header(mut self, name: HeaderName) -> Self {
        self.headers.push(name);
        self
    }

    /// The order of keys and the white space between values do not count in JSON bodies. Numbers
    /// and strings count as they are written. A body that is not JSON, has a key twice in one
    /// object, or is nested more than 16 deep counts byte for byte.
    pub fn json_key_order(mut self) -> Self {
        self.sorts_json = true;
        self
    }

    /// The order of the query's parameters does not count; the order of values of one parameter
    /// does.
    pub fn query_order(mut self) -> Self {
        self.sorts_query = true;
        self
    }

    /// The boundary of multipart bodies does not count: many clients draw one for each try.
    pub fn multipart_boundary(mut self) -> Self {
        self.ignores_boundary = true;
        self
    }

    /// `parts` have the URI that the client sent. If the inner service gets another one that is no
    /// rest of it, that counts too.
    pub(super) fn of_request(&self, parts: &Parts, rewritten: Option<&Uri>, body: &[u8]) -> Fingerprint {
        let fields = Fingerprint::builder();
        match &self.counts {
            Counts::Request => self.of_whole_request(parts, rewritten, body),
            Counts::Body => self.body(self.of_headers(fields, parts), parts, body).finish(),
            Counts::Nothing => fields.finish(),
            Counts::Custom(function) => {
                let of_function = function(parts, body);
                let Some(uri) = rewritten else { return of_function };
                self.written(fields.field("custom", of_function.as_bytes()), uri).finish()
            }
        }
    }

    fn of_whole_request(&self, parts: &Parts, rewritten: Option<&Uri>, body: &[u8]) -> Fingerprint {
        let mut fields =
            Fingerprint::builder().field("method", parts.method.as_str()).field("path", parts.uri.path());
        if let Some(query) = parts.uri.query() {
            fields = fields.field("query", self.query(query));
        }
        if let Some(uri) = rewritten {
            fields = self.written(fields, uri);
        }
        self.body(self.of_headers(fields, parts), parts, body).finish()
    }

    /// The URI that a middleware has made.
    fn written(&self, fields: FingerprintBuilder, uri: &Uri) -> FingerprintBuilder {
        let fields = fields.field("rewritten path", uri.path());
        match uri.query() {
            Some(query) => fields.field("rewritten query", self.query(query)),
            None => fields,
        }
    }

    fn query(&self, query: &str) -> String {
        let mut parameters: Vec<&str> = query.split('&').collect();
        if self.sorts_query {
            parameters.sort_by_key(|parameter| parameter.split('=').next());
        }
        parameters.join("&")
    }

    fn of_headers(&self, mut fields: FingerprintBuilder, parts: &Parts) -> FingerprintBuilder {
        for name in &self.headers {
            for value in parts.headers.get_all(name) {
                fields = fields.field(name, value);
            }
        }
        fields
    }

    /// The body, and what its content type says of it.
    fn body(&self, mut fields: FingerprintBuilder, parts: &Parts, body: &[u8]) -> FingerprintBuilder {
        let mut content_types = parts.headers.get_all(header::CONTENT_TYPE).iter();
        let content_type = content_types.next().map_or(&b""[..], |value| value.as_bytes());
        if self.ignores_boundary
            && let Some(multipart) = multipart::split(content_type, body)
        {
            fields = fields.field("multipart", multipart.content_type);
            return multipart.pieces.iter().fold(fields, |fields, piece| fields.field("piece", piece));
        }
        if let Counts::Request = self.counts {
            fields = fields.field("content-type", content_type);
            fields = content_types.fold(fields, |fields, more| fields.field("content-type", more));
        }
        if self.sorts_json
            && json::is_json(content_type)
            && let Some(sorted) = json::sorted(body)
        {
            return fields.field("json", sorted);
        }
        fields.field("body", body)
    }
}

impl Default for RequestFingerprint {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for RequestFingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = match self.counts {
            Counts::Request => "request",
            Counts::Body => "body",
            Counts::Nothing => "nothing",
            Counts::Custom(_) => "custom",
        };
        f.debug_struct("RequestFingerprint")
            .field("counts", &counts)
            .field("headers", &self.headers)
            .field("json_key_order", &self.sorts_json)
            .field("query_order", &self.sorts_query)
            .field("multipart_boundary", &self.ignores_boundary)
            .finish()
    }
}

#[cfg(test)]
mod tests;
