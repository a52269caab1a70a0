//! `Admin`: the page as a router, and its options.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::{get, post};
use axum::{Router, middleware};
use http::request::Parts;

use super::access::{Access, Authorize};
use super::gate::{pass, start_sampling};
use super::journal::Journal;
use super::samples::Samples;
use super::shared::Shared;
use super::{change, look, page};
use crate::Engine;

/// The operator's page of an engine: see the [module](super).
#[must_use = "`router` gives the router"]
pub struct Admin {
    engine: Engine,
    authorize: Authorize,
    title: String,
    backups: Option<PathBuf>,
    is_read_only: bool,
    keep_reasons: Option<Duration>,
}

impl Admin {
    /// The page of this engine. `authorize` is called for every request, before anything else.
    ///
    /// The page has no login. So put your own authentication in front of it, and let `authorize`
    /// say what its outcome means. A request that it lets through may see all keys and results,
    /// and with [`Access::Change`] resolve and forget them.
    pub fn new(engine: &Engine, authorize: impl Fn(&Parts) -> Access + Send + Sync + 'static) -> Self {
        Self {
            engine: engine.clone(),
            authorize: Arc::new(authorize),
            title: "idemkv".to_owned(),
            backups: None,
            is_read_only: false,
            keep_reasons: None,
        }
    }

    /// The title of the page, such as the service's name and environment.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = title.into();
        self
    }

    /// Lets operators make backups, into this folder. The operator does not choose their names.
    pub fn backups_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.backups = Some(folder.into());
        self
    }

    /// The router has no route that changes anything, even if `authorize` allows changes.
    pub fn read_only(mut self) -> Self {
        self.is_read_only = true;
        self
    }

    /// For how long the reasons of changes are kept. Default 90 days. At most as long as a
    /// [TTL](crate::Policy::ttl) can be.
    pub fn keep_reasons(mut self, time: Duration) -> Self {
        self.keep_reasons = Some(time);
        self
    }

    /// The router, to be nested or merged anywhere. It keeps the engine open. Below a prefix, nest
    /// it: `.nest("/ops/idempotency", router)`.
    ///
    /// On a tokio runtime it notes the engine's counters every ten seconds from now on, otherwise
    /// from the first request on.
    pub fn router<S: Clone + Send + Sync + 'static>(self) -> Router<S> {
        let mut journal = Journal::of(&self.engine);
        journal.keep = self.keep_reasons.unwrap_or(journal.keep);
        let shared = Arc::new(Shared {
            engine: self.engine,
            authorize: self.authorize,
            title: self.title,
            backups: self.backups,
            is_read_only: self.is_read_only,
            journal,
            samples: Samples::default(),
        });
        start_sampling(&shared);
        let mut router = Router::new()
            .route("/", get(page::page))
            .route("/style.css", get(page::style))
            .route("/script.js", get(page::script))
            .route("/api/overview", get(look::overview))
            .route("/api/answers", get(look::answers))
            .route("/api/keys", get(look::keys))
            .route("/api/key", get(look::key));
        if !shared.is_read_only {
            router = router
                .route("/api/resolve", post(change::resolve))
                .route("/api/forget", post(change::forget));
            if shared.backups.is_some() {
                router = router.route("/api/backup", post(change::backup));
            }
        }
        router.layer(middleware::from_fn_with_state(Arc::clone(&shared), pass)).with_state(shared)
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin")
            .field("title", &self.title)
            .field("backups", &self.backups)
            .field("is_read_only", &self.is_read_only)
            .finish_non_exhaustive()
    }
}
