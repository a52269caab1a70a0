//! How many keys are interrupted, for `Stats`: counted by each process now and then, from the index
//! of interruptions.

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::columns::Params;
use super::core::Core;
use super::interrupted_count::Interrupted;
use super::lists::read;
use super::refusal::Refusal;
use super::row::Columns;
use crate::Timestamp;
use crate::clock::Stopwatch;
use crate::error::StoreFailure;
use crate::sync::Arc;

/// The most keys of one statement.
const KEYS: i64 = 10_000;
/// The most statements of one count. What is beyond them is not counted.
const STATEMENTS: u32 = 10;
/// A process counts for at most one part of its time in so many.
const SHARE: u32 = 50;

/// Some interrupted keys after one of them, by scope and attempt; and the last of them, which has
/// no scope.
const COUNT: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms), \
    part AS MATERIALIZED (SELECT scope, attempt, gone_ms, {SINCE} AS since, {OF_FENCE} AS of_fence FROM {S}.keys \
      WHERE interrupted_ms IS NOT NULL AND ({SINCE}, {OF_FENCE}) > ($1, $2) ORDER BY {SINCE}, {OF_FENCE} LIMIT $3) \
    SELECT f.scope, f.attempt, count(*), min(f.since), NULL::bigint FROM part f CROSS JOIN moment m \
      WHERE f.gone_ms IS NULL OR f.gone_ms > m.now_ms GROUP BY f.scope, f.attempt \
    UNION ALL (SELECT NULL, NULL, count(*) OVER (), f.since, f.of_fence FROM part f \
      ORDER BY f.since DESC, f.of_fence DESC LIMIT 1)";

/// Counts until the runtime ends.
pub(super) async fn count(core: Arc<Core>) {
    let Some(every) = core.options.count_every else { return };
    loop {
        let watch = Stopwatch::start();
        // What failed, the next one makes good.
        drop(step(&core).await);
        let rest = every.max(watch.elapsed() * SHARE);
        tokio::time::sleep(rest).await;
    }
}

/// Counts once.
async fn step(core: &Core) -> Result<(), Refusal> {
    let (mut all, mut after) = (Interrupted::default(), (-1, -1));
    for _ in 0..STATEMENTS {
        let params = move || {
            let numbers = [after.0, after.1, KEYS];
            numbers.into_iter().fold(Params::default(), |params, number| params.with(number, Type::INT8))
        };
        let mut next = None;
        for row in &read(core, COUNT, params).await? {
            next = add(core, row, &mut all).map_err(Refusal::unavailable)?.or(next);
        }
        match next {
            Some(last) => after = last,
            None => break,
        }
    }
    core.interrupted.set(all);
    Ok(())
}

/// Adds a row; where to go on, if it is the one that says so.
fn add(core: &Core, row: &Row, all: &mut Interrupted) -> Result<Option<(i64, i64)>, StoreFailure> {
    let mut columns = Columns::new(row);
    let scope: Option<&[u8]> = columns.take()?;
    let attempt: Option<i32> = columns.take()?;
    let (keys, since): (i64, i64) = (columns.take()?, columns.take()?);
    let (Some(scope), Some(attempt)) = (scope, attempt) else {
        let fence: i64 = columns.take()?;
        return Ok((keys >= KEYS).then_some((since, fence)));
    };
    let keys = usize::try_from(keys).unwrap_or(0);
    let since = Timestamp::from_millis(u64::try_from(since).unwrap_or(0));
    let earlier = |other: Option<Timestamp>| Some(other.map_or(since, |other| other.min(since)));
    (all.keys, all.oldest) = (all.keys + keys, earlier(all.oldest));
    // As a begin decides.
    if u32::try_from(attempt).unwrap_or(u32::MAX) >= core.policies.of(scope).0.attempts_max() {
        all.unresolved += keys;
        all.oldest_unresolved = earlier(all.oldest_unresolved);
    }
    Ok(None)
}
