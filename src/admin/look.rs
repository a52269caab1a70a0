//! Requests that only look.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use http::Uri;
use serde::{Deserialize, Serialize};

use super::access::Operator;
use super::names::parse;
use super::problem::Problem;
use super::samples::{INTERVAL, Sample};
use super::shared::Shared;
use super::view::{KeyDetails, ListedKey};
use crate::{ListPosition, OpenKey, Stats, Timestamp};

/// Keys on a page of a list, unless it is asked for fewer.
const PAGE: usize = 100;
/// Keys that the engine lists at once.
const LOOK: usize = 1_000;
/// So many times for one page, so that a filter that few keys pass does not search for ever.
const LOOKS: usize = 20;

#[derive(Debug, Serialize)]
pub(super) struct Overview {
    title: String,
    now_ms: u64,
    /// Empty if the request may change nothing.
    operator: String,
    may_change: bool,
    may_back_up: bool,
    stats: Stats,
}

pub(super) async fn overview(
    State(shared): State<Arc<Shared>>,
    operator: Option<axum::Extension<Operator>>,
) -> Json<Overview> {
    let operator = operator.filter(|_| !shared.is_read_only).map(|operator| operator.0.0.to_string());
    Json(Overview {
        title: shared.title.clone(),
        now_ms: shared.engine.now().as_millis(),
        may_change: operator.is_some(),
        may_back_up: operator.is_some() && shared.backups.is_some(),
        operator: operator.unwrap_or_default(),
        stats: shared.engine.stats(),
    })
}

#[derive(Debug, Serialize)]
pub(super) struct Answers {
    every_ms: u64,
    samples: Vec<Sample>,
}

/// The samples, and one of this moment.
pub(super) async fn answers(State(shared): State<Arc<Shared>>) -> Json<Answers> {
    let mut samples = shared.samples.all();
    samples.push(Sample::of(shared.engine.now().as_millis(), &shared.engine.stats()));
    Json(Answers { every_ms: u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX), samples })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum OpenState {
    InFlight,
    Interrupted,
}

/// Which keys are wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    state: OpenState,
    scope: Option<String>,
    prefix: Option<String>,
    hash: Option<String>,
    older_s: Option<u64>,
    younger_s: Option<u64>,
    /// `next` of the page before.
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
pub(super) struct Page {
    keys: Vec<ListedKey>,
    /// Where the next page begins; `None` if there is none.
    next: Option<String>,
}

pub(super) async fn keys(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<Page>, Problem> {
    let Query(wanted) =
        Query::<Wanted>::try_from_uri(&uri).map_err(|error| Problem::bad(error.body_text()))?;
    let filter = Filter::of(wanted, shared.engine.now())?;
    let found = tokio::task::spawn_blocking(move || filter.page(&shared)).await;
    Ok(Json(found.map_err(Problem::internal)??))
}

struct Filter {
    state: OpenState,
    scope: Option<Vec<u8>>,
    prefix: Vec<u8>,
    hash: Option<String>,
    /// Since when at the latest, and after when.
    until: Timestamp,
    since: Timestamp,
    after: Option<ListPosition>,
    limit: usize,
}

impl Filter {
    fn of(wanted: Wanted, now: Timestamp) -> Result<Self, Problem> {
        let name = |text: String| parse(&text).map_err(Problem::bad);
        let ago = |seconds: u64| {
            Timestamp::from_millis(now.as_millis().saturating_sub(seconds.saturating_mul(1_000)))
        };
        Ok(Self {
            state: wanted.state,
            scope: wanted.scope.map(name).transpose()?,
            prefix: wanted.prefix.map(name).transpose()?.unwrap_or_default(),
            hash: wanted.hash.map(|hash| hash.trim_start_matches('#').to_ascii_lowercase()),
            until: wanted.older_s.map_or(Timestamp::from_millis(u64::MAX), ago),
            since: wanted.younger_s.map_or(Timestamp::default(), ago),
            after: wanted.after.as_deref().map(position).transpose()?,
            limit: wanted.limit.unwrap_or(PAGE).clamp(1, LOOK),
        })
    }

    fn page(self, shared: &Shared) -> Result<Page, Problem> {
        let (mut keys, mut after) = (Vec::new(), self.after);
        for _ in 0..LOOKS {
            let open = self.look(shared, after)?;
            let is_last = open.len() < LOOK;
            for key in open {
                // The oldest come first.
                if key.position().parts().0 > self.until {
                    return Ok(Page { keys, next: None });
                }
                after = Some(key.position());
                if !self.has(&key) {
                    continue;
                }
                let listed = ListedKey::of(&shared.engine, &key)?;
                if self.hash.as_ref().is_none_or(|hash| listed.has_hash(hash)) {
                    keys.push(listed);
                }
                if keys.len() == self.limit {
                    return Ok(Page { keys, next: after.map(cursor) });
                }
            }
            if is_last {
                return Ok(Page { keys, next: None });
            }
        }
        Ok(Page { keys, next: after.map(cursor) })
    }

    fn look(&self, shared: &Shared, after: Option<ListPosition>) -> Result<Vec<OpenKey>, Problem> {
        let mut listing = match self.state {
            OpenState::InFlight => shared.engine.in_flight(),
            OpenState::Interrupted => shared.engine.interrupted(),
        }
        .limit(LOOK);
        if let Some(scope) = &self.scope {
            listing = listing.scope(scope);
        }
        if let Some(after) = after {
            listing = listing.after(after);
        }
        listing.get().map_err(Problem::of_read)
    }

    /// Whether the key is one of those that are wanted, but for its hash.
    fn has(&self, key: &OpenKey) -> bool {
        key.position().parts().0 > self.since && key.key().starts_with(&self.prefix)
    }
}

fn cursor(position: ListPosition) -> String {
    let (since, fence) = position.parts();
    format!("{}-{fence}", since.as_millis())
}

fn position(cursor: &str) -> Result<ListPosition, Problem> {
    let parts = cursor.split_once('-').and_then(|(since, fence)| {
        let since = Timestamp::from_millis(since.parse().ok()?);
        Some(ListPosition::from_parts(since, fence.parse().ok()?))
    });
    parts.ok_or_else(|| Problem::bad("`after` is not what a page gave as its `next`"))
}

/// One key by its names.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    #[serde(default)]
    scope: String,
    key: String,
}

pub(super) async fn key(State(shared): State<Arc<Shared>>, uri: Uri) -> Result<Json<KeyDetails>, Problem> {
    let Query(named) = Query::<Named>::try_from_uri(&uri).map_err(|error| Problem::bad(error.body_text()))?;
    let scope = parse(&named.scope).map_err(Problem::bad)?;
    let key = parse(&named.key).map_err(Problem::bad)?;
    let status = shared.engine.scope(&scope).get_async(&key).await.map_err(Problem::of_read)?;
    let changes = shared.journal.of_key(&scope, &key).await?;
    Ok(Json(KeyDetails::of(&shared.engine, &scope, &key, &status, changes)?))
}
