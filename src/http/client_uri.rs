//! The URI as the client sent it. A router takes the prefix off that it has matched. What is left
//! can be the same for two resources.

use http::Uri;
use http::request::Parts;

/// What a router left of the URI of a request, while the request has the client's.
#[derive(Debug)]
pub(super) struct RoutedUri {
    /// `None` where it is the client's.
    left: Option<Uri>,
}

impl RoutedUri {
    /// Gives the request the URI that its client sent.
    pub(super) fn exchange(parts: &mut Parts) -> Self {
        let sent = sent(parts).filter(|sent| *sent != parts.uri);
        Self { left: sent.map(|sent| std::mem::replace(&mut parts.uri, sent)) }
    }

    /// Gives the request the URI that the inner service is to get.
    pub(super) fn put_back(self, parts: &mut Parts) {
        if let Some(left) = self.left {
            parts.uri = left;
        }
    }

    /// The inner service's URI, where it is no rest of the client's: a middleware has made it from
    /// something else in the request.
    pub(super) fn rewritten(&self, sent: &Uri) -> Option<&Uri> {
        let is_rest = |left: &Uri| {
            let is_rest = left.path() == "/" || sent.path().ends_with(left.path());
            is_rest && left.query() == sent.query()
        };
        self.left.as_ref().filter(|left| !is_rest(left))
    }
}

/// As the outermost router of axum got it.
#[cfg(feature = "axum")]
fn sent(parts: &Parts) -> Option<Uri> {
    parts.extensions.get::<axum::extract::OriginalUri>().map(|original| original.0.clone())
}

/// Nothing that this crate knows of has changed it.
#[cfg(not(feature = "axum"))]
fn sent(_parts: &Parts) -> Option<Uri> {
    None
}
