//! What a request may do, as the service decides it.

use std::sync::Arc;

use http::request::Parts;

/// What a request to the [operator's page](super::Admin) may do. The service decides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: it gets 403, for the page too.
    Refused,
    /// Look at keys and results.
    Look,
    /// Also resolve, forget and back up, in the name of this operator. The name is kept and shown
    /// with each change.
    Change {
        /// The person, as your authentication knows them.
        operator: String,
    },
}

impl Access {
    /// [`Change`](Self::Change) for this operator.
    pub fn change(operator: impl Into<String>) -> Self {
        Self::Change { operator: operator.into() }
    }
}

/// Decides it.
pub(super) type Authorize = Arc<dyn Fn(&Parts) -> Access + Send + Sync>;

/// In the extensions of a request that may change something.
#[derive(Clone, Debug)]
pub(super) struct Operator(pub(super) Arc<str>);
