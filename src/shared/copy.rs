//! Copies the keys of a file into tables that were not used before, all or none.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::columns::{Params, signed};
use super::connection::{Link, LinkOptions};
use super::copied_row::{CopiedRow, INSERT, Shift, params};
use super::options::{SharedOptions, check_policy};
use super::row::Columns;
use super::sql::Sql;
use super::statement::Miss;
use super::{client_thread, schema};
use crate::Timestamp;
use crate::engine::common::names::KeyNames;
use crate::error::{CopyError, FailureKind, ReadError, SharedError, StoreFailure};
use crate::key::Secret;
use crate::policy::{Durability, Policy};
use crate::status::Status;

/// What was copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Copied {
    /// Keys with a result, or with what is remembered of it.
    pub results: u64,
    /// Interrupted keys.
    pub interrupted: u64,
    /// Scopes with a policy of their own.
    pub policies: usize,
    /// What was added to all times, in ms: the file's clock was behind the server's by so much;
    /// negative if it was ahead. Zero if the two differed by less than a second.
    pub shifted_ms: i64,
}

/// What a file has. None of it changes meanwhile.
pub(crate) struct Source<E> {
    pub(crate) secret: Secret,
    /// No fence at or above this was granted.
    pub(crate) next_fence: u64,
    /// What its clocks show now.
    pub(crate) times: Box<dyn Fn() -> Times + Send>,
    pub(crate) policies: Vec<(Box<[u8]>, Policy)>,
    pub(crate) keys: E,
}

/// The clocks of a file, at one moment.
#[derive(Clone, Copy)]
pub(crate) struct Times {
    /// The machine's wall clock.
    pub(crate) wall: Timestamp,
    /// The file's own, which steps of the wall clock do not move.
    pub(crate) file: Timestamp,
}

/// A statement has at most so many rows.
const ROWS: usize = 500;
/// A statement ends with the row whose progress and body bring it to so many bytes.
const BYTES: usize = 4 << 20;

/// Clocks that differ by more are not right.
const APART_MAX: Duration = Duration::from_secs(10);

/// A file's clock that differs by less is the server's.
const SHIFTED_FROM_MS: i64 = 1_000;

/// The commit waits for standbys that are behind, as they may be after a large copy.
const PATIENCE: Duration = Duration::from_secs(600);

const POLICIES: &str = "INSERT INTO {S}.policies (scope, ttl_ms, tombstone_ms, refuse, unresolved_ms, max_attempts, lease_ms, \
      max_in_flight) \
    SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bigint[], $4::bool[], $5::bigint[], $6::bigint[], $7::bigint[], \
      $8::bigint[])";

pub(crate) async fn copy<E>(options: SharedOptions, source: Source<E>) -> Result<Copied, CopyError>
where
    E: Iterator<Item = Result<(Status, KeyNames), ReadError>> + Send + 'static,
{
    let copying = move || async move { run(&options, source).await };
    let copied = client_thread::aside("idemkv-copy", copying).await;
    copied.map_err(SharedError::Unavailable)?
}

fn failed(message: String) -> CopyError {
    SharedError::Unavailable(StoreFailure::new(FailureKind::Options, message)).into()
}

async fn run<E>(options: &SharedOptions, source: Source<E>) -> Result<Copied, CopyError>
where
    E: Iterator<Item = Result<(Status, KeyNames), ReadError>>,
{
    options.check()?;
    let policies = copied_policies(&source.policies)?;
    let (link_options, _) = client_thread::reach(options).await?;
    let link_options = LinkOptions { statement_timeout: PATIENCE, ..link_options };
    let link = Link::open(link_options, |_| {}).await.map_err(SharedError::Unavailable)?;
    let quoted = schema::quoted(&options.schema).map_err(SharedError::Unavailable)?;
    let into = Target { link, sql: options.sql(&quoted), max_key: options.max_key_bytes };
    // A connection that ends without a commit leaves nothing.
    let shift = into.begin(&source.secret, &*source.times).await?;
    into.raise_fences(source.next_fence).await?;
    let mut copied = Copied { policies: policies.len(), shifted_ms: shift.0, ..Copied::default() };
    into.fill(source.keys, shift, &mut copied).await?;
    into.set_policies(&policies).await?;
    into.name(&source.secret).await?;
    into.commit().await?;
    Ok(copied)
}

/// A shared store makes everything durable, whatever a policy asks for.
fn copied_policies(declared: &[(Box<[u8]>, Policy)]) -> Result<Vec<(&[u8], Policy)>, CopyError> {
    let copied = declared.iter().map(|(scope, policy)| {
        let policy = policy.durability(Durability::Full);
        match check_policy(&policy) {
            Ok(()) => Ok((&**scope, policy)),
            Err(error) => Err(CopyError::Policy { scope: scope.clone(), error }),
        }
    });
    copied.collect()
}

/// The tables, in one transaction.
struct Target {
    link: Link,
    sql: Sql,
    max_key: usize,
}

impl Target {
    /// Holds the tables against processes that connect meanwhile, and makes sure that none has used
    /// them. What is to be added to the file's times.
    async fn begin(&self, secret: &Secret, times: &dyn Fn() -> Times) -> Result<Shift, CopyError> {
        let tables = "BEGIN; SET LOCAL lock_timeout = '10s'; \
                      LOCK TABLE {S}.meta, {S}.sessions, {S}.policies, {S}.keys IN EXCLUSIVE MODE";
        self.script(tables).await.map_err(SharedError::Unavailable)?;
        let look = "SELECT EXISTS (SELECT FROM {S}.keys) OR EXISTS (SELECT FROM {S}.sessions) \
                    OR EXISTS (SELECT FROM {S}.policies), t.secret = $1, {NOW} FROM {S}.meta t";
        let rows = self.run(look, &Params::default().with(&secret.0[..], Type::BYTEA)).await?;
        let Times { wall, file } = times();
        let row = rows.first().ok_or_else(|| failed("the tables can't be looked at".to_owned()))?;
        let mut columns = Columns::new(row);
        let is_used: bool = columns.take().map_err(SharedError::Unavailable)?;
        let is_of_this_file: bool = columns.take().map_err(SharedError::Unavailable)?;
        if is_used {
            return Err(if is_of_this_file { CopyError::AlreadyCopied } else { CopyError::InUse });
        }
        let now = columns.time().map_err(SharedError::Unavailable)?;
        let apart = now.saturating_since(wall).max(wall.saturating_since(now));
        if apart > APART_MAX {
            return Err(CopyError::Clocks { apart });
        }
        let shift = signed(now.as_millis()) - signed(file.as_millis());
        Ok(Shift(if shift.abs() < SHIFTED_FROM_MS { 0 } else { shift }))
    }

    /// Above all fences of the file. A sequence that is ahead harms nobody, so it may be early: it
    /// needs a right that nothing else needs.
    async fn raise_fences(&self, next: u64) -> Result<(), CopyError> {
        let number = Params::default().with(signed(next), Type::INT8);
        self.run("SELECT setval('{S}.fence', greatest($1, nextval('{S}.fence')), false)", &number)
            .await
            .map(drop)
    }

    async fn fill(
        &self,
        keys: impl Iterator<Item = Result<(Status, KeyNames), ReadError>>,
        shift: Shift,
        copied: &mut Copied,
    ) -> Result<(), CopyError> {
        let (mut rows, mut bytes, mut in_flight) = (Vec::with_capacity(ROWS), 0, 0);
        for key in keys {
            let (status, names) = key.map_err(CopyError::Read)?;
            let row = match (status, names) {
                (Status::Unreadable(error), _) => return Err(CopyError::Read(error)),
                (Status::Vacant, _) => continue,
                (Status::InFlight(_), _) => None,
                (Status::Done(_), KeyNames::Record(record)) => {
                    Some(CopiedRow::of_record(record, true, shift))
                }
                (_, KeyNames::Record(record)) => Some(CopiedRow::of_record(record, false, shift)),
                (_, KeyNames::Attempt(attempt)) => CopiedRow::of_attempt(attempt, shift),
            };
            let Some(row) = row else {
                in_flight += 1;
                continue;
            };
            let (len, max) = (row.key().len(), self.max_key);
            if len > max {
                return Err(CopyError::KeyTooLong { key: row.key_hash(), len, max });
            }
            *(if row.is_result() { &mut copied.results } else { &mut copied.interrupted }) += 1;
            bytes += row.bytes();
            rows.push(row);
            if rows.len() == ROWS || bytes >= BYTES {
                self.insert(&mut rows).await?;
                bytes = 0;
            }
        }
        if in_flight > 0 {
            return Err(CopyError::InFlight { keys: in_flight });
        }
        self.insert(&mut rows).await
    }

    async fn insert(&self, rows: &mut Vec<CopiedRow>) -> Result<(), CopyError> {
        self.run(INSERT, &params(rows)).await?;
        rows.clear();
        Ok(())
    }

    async fn set_policies(&self, policies: &[(&[u8], Policy)]) -> Result<(), CopyError> {
        let rows: Vec<_> = policies.iter().map(|(scope, policy)| (*scope, policy.row())).collect();
        let (rows, number) = (rows.iter(), |value: Option<u64>| value.map(signed));
        let params = Params::default()
            .bytes(rows.clone().map(|(scope, _)| Some(*scope)))
            .numbers(rows.clone().map(|(_, row)| Some(signed(row.ttl_ms))))
            .numbers(rows.clone().map(|(_, row)| number(row.tombstone_ms)))
            .bools(rows.clone().map(|(_, row)| row.refuse))
            .numbers(rows.clone().map(|(_, row)| number(row.unresolved_ms)))
            .numbers(rows.clone().map(|(_, row)| row.max_attempts.map(i64::from)))
            .numbers(rows.clone().map(|(_, row)| number(row.lease_ms)))
            .numbers(rows.map(|(_, row)| row.max_in_flight.map(i64::from)));
        self.run(POLICIES, &params).await.map(drop)
    }

    /// Makes this the store of the file's keys. Another identity, too: a process that connected
    /// before knows the old one, and is refused also in transactions of its callers'.
    async fn name(&self, secret: &Secret) -> Result<(), CopyError> {
        let secret = Params::default().with(&secret.0[..], Type::BYTEA);
        let name = "UPDATE {S}.meta SET secret = $1, id = gen_random_uuid() FROM (SELECT {SURE}) AS durable";
        self.run(name, &secret).await.map(drop)
    }

    /// If its answer gets lost, the copy may be there or not.
    async fn commit(&self) -> Result<(), CopyError> {
        match self.link.once("COMMIT", &Params::default()).await {
            Err(Miss::Unknown(failure)) => Err(SharedError::Unknown(failure).into()),
            committed => none_done(committed).map(drop),
        }
    }

    async fn script(&self, script: &str) -> Result<(), StoreFailure> {
        self.link.script(&self.sql.filled(script)).await
    }

    async fn run(&self, text: &str, params: &Params<'_>) -> Result<Vec<Row>, CopyError> {
        none_done(self.link.once(&self.sql.filled(text), params).await)
    }
}

/// Without a commit nothing was done, however a statement ended.
fn none_done(rows: Result<Vec<Row>, Miss>) -> Result<Vec<Row>, CopyError> {
    rows.map_err(|miss| match miss {
        Miss::NotDone(failure) | Miss::Unknown(failure) | Miss::Unread(failure) => {
            SharedError::Unavailable(failure).into()
        }
        Miss::Busy(_) | Miss::Closed => unreachable!("a connection refuses no statement"),
    })
}
