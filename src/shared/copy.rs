//! Copies the keys of a file into tables that were not used before, all or none.

use std::time::Duration;

use tokio::task::LocalSet;
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::columns::{Params, signed};
use super::connection::Link;
use super::copied_row::{CopiedRow, INSERT, params};
use super::options::{SharedOptions, check_policy};
use super::row::Columns;
use super::set_policy::{WRITE, policy_params};
use super::sql::Sql;
use super::statement::Miss;
use super::{driver, schema};
use crate::Timestamp;
use crate::engine::common::names::KeyNames;
use crate::error::{CopyError, FailureKind, ReadError, SharedError, StoreFailure};
use crate::key::Secret;
use crate::policy::{Durability, Policy};
use crate::status::Status;
use crate::sync;
use crate::task::reply;

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
}

/// What a file has. None of it changes meanwhile.
pub(crate) struct Source<E> {
    pub(crate) secret: Secret,
    /// No fence at or above this was granted.
    pub(crate) next_fence: u64,
    pub(crate) now: Timestamp,
    pub(crate) policies: Vec<(Box<[u8]>, Policy)>,
    pub(crate) keys: E,
}

/// A statement has at most so many rows.
const ROWS: usize = 500;
/// A statement ends with the row whose progress and body bring it to so many bytes.
const BYTES: usize = 4 << 20;

/// Clocks that differ by more are not right.
const APART_MAX: Duration = Duration::from_secs(10);

/// Copies on a thread of its own, for the client needs a runtime.
pub(crate) async fn copy<E>(options: SharedOptions, source: Source<E>) -> Result<Copied, CopyError>
where
    E: Iterator<Item = Result<(Status, KeyNames), ReadError>> + Send + 'static,
{
    let (done, copied) = reply::pair();
    let thread = sync::spawn("idemkv-copy", move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        done.send(match runtime {
            Ok(runtime) => LocalSet::new().block_on(&runtime, run(&options, source)),
            Err(error) => Err(failed(format!("the runtime could not be started: {error}"))),
        });
    });
    // It ends by itself.
    drop(thread.map_err(|error| failed(format!("no thread could be started: {error}")))?);
    copied.get().await.unwrap_or_else(|| Err(failed("the thread that copies is gone".to_owned())))
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
    let (link_options, _) = driver::reach(options).await?;
    let link = Link::open(link_options, |_| {}).await.map_err(SharedError::Unavailable)?;
    let quoted = schema::quoted(&options.schema).map_err(SharedError::Unavailable)?;
    let into = Target {
        link,
        sql: Sql::new(&quoted, &options.clock, &options.server),
        max_key: options.max_key_bytes,
    };
    // A connection that ends without a commit leaves nothing.
    into.begin(source.now).await?;
    let mut copied = Copied { policies: policies.len(), ..Copied::default() };
    into.fill(source.keys, &mut copied).await?;
    for (scope, policy) in policies {
        into.run(WRITE, &policy_params(scope, &policy)).await?;
    }
    let number = Params::default().with(signed(source.next_fence), Type::INT8);
    into.run("SELECT setval('{S}.fence', $1, false)", &number).await?;
    let secret = Params::default().with(&source.secret.0[..], Type::BYTEA);
    into.run("UPDATE {S}.meta SET secret = $1 FROM (SELECT {SURE}) AS durable", &secret).await?;
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
    /// them.
    async fn begin(&self, file_now: Timestamp) -> Result<(), CopyError> {
        let tables = "BEGIN; LOCK TABLE {S}.meta, {S}.sessions, {S}.policies, {S}.keys IN EXCLUSIVE MODE";
        self.script(tables).await.map_err(SharedError::Unavailable)?;
        let used = "SELECT EXISTS (SELECT FROM {S}.keys) OR EXISTS (SELECT FROM {S}.sessions) \
                    OR EXISTS (SELECT FROM {S}.policies), {NOW}";
        let rows = self.run(used, &Params::default()).await?;
        let row = rows.first().ok_or_else(|| failed("the tables can't be looked at".to_owned()))?;
        let mut columns = Columns::new(row);
        if columns.take().map_err(SharedError::Unavailable)? {
            return Err(CopyError::InUse);
        }
        let now = columns.time().map_err(SharedError::Unavailable)?;
        let apart = now.saturating_since(file_now).max(file_now.saturating_since(now));
        if apart > APART_MAX { Err(CopyError::Clocks { apart }) } else { Ok(()) }
    }

    async fn fill(
        &self,
        keys: impl Iterator<Item = Result<(Status, KeyNames), ReadError>>,
        copied: &mut Copied,
    ) -> Result<(), CopyError> {
        let (mut rows, mut bytes, mut in_flight) = (Vec::with_capacity(ROWS), 0, 0);
        for key in keys {
            let (status, names) = key.map_err(CopyError::Read)?;
            let is_replayed = match status {
                Status::Done(_) => true,
                Status::Expired(_) | Status::Interrupted(_) => false,
                Status::InFlight(_) => {
                    in_flight += 1;
                    continue;
                }
                Status::Unreadable(error) => return Err(CopyError::Read(error)),
                Status::Vacant => continue,
            };
            let row = CopiedRow::new(names, is_replayed);
            if row.key().len() > self.max_key {
                return Err(CopyError::KeyTooLong { len: row.key().len(), max: self.max_key });
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

/// Without a commit nothing was done, whatever became of a statement.
fn none_done(rows: Result<Vec<Row>, Miss>) -> Result<Vec<Row>, CopyError> {
    rows.map_err(|miss| match miss {
        Miss::NotDone(failure) | Miss::Unknown(failure) => SharedError::Unavailable(failure).into(),
        Miss::Busy(_) | Miss::Closed => unreachable!("a connection refuses no statement"),
    })
}
