//! For how long a layer waits, and for what.

use std::time::Duration;

use super::layer::IdempotencyLayer;
#[cfg(doc)]
use super::problem_kind::ProblemKind;

/// How long the layer waits.
impl IdempotencyLayer {
    /// How long a request waits for the end of an earlier one with its key, before it gets
    /// [`InFlight`](ProblemKind::InFlight). Default not at all.
    ///
    /// If the earlier one comes to nothing, the request stands in line for a place in the inner
    /// service, as a new one does. The budget does not count that.
    pub fn wait(self, budget: Duration) -> Self {
        self.with(|config| config.wait = budget)
    }

    /// For how long a response waits for a claim without a lease that the handler has given to a
    /// task of its own. After that the client gets [`HandlerLost`](ProblemKind::HandlerLost), and
    /// the key is interrupted as soon as that task drops the claim. A claim with a lease is waited
    /// for until its lease ends. Default one minute.
    pub fn wait_for_claim(self, budget: Duration) -> Self {
        self.with(|config| config.claim_wait = budget)
    }

    /// For how long a response waits for the end of its body, if the body is to be stored. After
    /// that the key is done, and of the response only status and headers are stored: the client
    /// gets the body as it comes, and retries get [`ResultNotKept`](ProblemKind::ResultNotKept). A
    /// claim with a lease waits for half of what is left of that at most. Default one minute.
    ///
    /// Only bodies wait whose bytes come from elsewhere, such as another service's.
    pub fn wait_for_body(self, budget: Duration) -> Self {
        self.with(|config| config.body_wait = budget)
    }
}
