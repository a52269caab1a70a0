//! The tables: made by the library, or by hand before.

use tokio_postgres::Client;

use super::columns::Id;
use super::sql::{OF_FENCE, SINCE};
use crate::error::{FailureKind, StoreFailure};
use crate::key::Secret;

/// The version of the tables. The one before is brought up to it; any other is refused.
pub(super) const VERSION: i32 = 4;
const BEFORE: i32 = VERSION - 1;

/// `keys` is filled to 70 %, so that a completion finds room on its page and changes no index.
/// Nothing but `digest` and interruptions is indexed for the same reason: the sweep reads the table
/// page by page.
const TABLES: &str = r"CREATE SCHEMA IF NOT EXISTS {S};
CREATE SEQUENCE {S}.fence AS bigint MINVALUE 1 MAXVALUE 9007199254740991 CACHE 1;
CREATE TABLE {S}.meta (
  one boolean PRIMARY KEY DEFAULT true CHECK (one),
  version integer NOT NULL,
  id uuid NOT NULL DEFAULT gen_random_uuid(),
  secret bytea NOT NULL CHECK (length(secret) = 32),
  policies bigint NOT NULL DEFAULT 1,
  forgets bigint NOT NULL DEFAULT 0
);
CREATE TABLE {S}.sessions (
  id bigint PRIMARY KEY,
  nonce uuid NOT NULL,
  instance text,
  until_ms bigint NOT NULL,
  started_ms bigint NOT NULL,
  replaced boolean NOT NULL DEFAULT false,
  seen bigint,
  replays_until_ms bigint NOT NULL DEFAULT 0
);
CREATE UNIQUE INDEX sessions_instance ON {S}.sessions (instance) WHERE NOT replaced;
CREATE TABLE {S}.policies (
  scope bytea PRIMARY KEY,
  ttl_ms bigint NOT NULL,
  tombstone_ms bigint,
  refuse boolean NOT NULL,
  unresolved_ms bigint,
  max_attempts bigint,
  lease_ms bigint,
  max_in_flight bigint
);
{PLACES}CREATE TABLE {S}.duties (name text PRIMARY KEY, page bigint NOT NULL DEFAULT 0, due_ms bigint NOT NULL DEFAULT 0);
CREATE TABLE {S}.keys (
  digest uuid PRIMARY KEY,
  nonce uuid NOT NULL,
  fence bigint NOT NULL,
  session bigint,
  started_ms bigint NOT NULL,
  ttl_ms bigint NOT NULL,
  remembered_ms bigint NOT NULL,
  unresolved_ms bigint,
  lease_ms bigint,
  lease_until_ms bigint,
  gone_ms bigint,
  completed_ms bigint,
  expires_ms bigint,
  interrupted_ms bigint,
  e_fence bigint,
  e_started_ms bigint,
  e_interrupted_ms bigint,
  e_attempt integer,
  attempt integer NOT NULL,
  state smallint NOT NULL CHECK (state BETWEEN 1 AND 4),
  outcome smallint,
  wanted boolean NOT NULL DEFAULT false,
  returned boolean NOT NULL DEFAULT false,
  leaving boolean NOT NULL DEFAULT false,
  body_kept boolean NOT NULL DEFAULT false,
  fingerprint bytea NOT NULL,
  scope bytea NOT NULL,
  key bytea NOT NULL,
  progress bytea,
  body bytea
) WITH (fillfactor = 70);
CREATE INDEX keys_interrupted ON {S}.keys (({SINCE}), ({OF_FENCE})) WHERE interrupted_ms IS NOT NULL;
INSERT INTO {S}.duties (name) VALUES ('sweep');
INSERT INTO {S}.meta (version, secret) VALUES ({VERSION},
  decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
";

/// The claims that have the places of scopes with a limit, by their fences.
const PLACES: &str = r"CREATE TABLE {S}.places (
  scope bytea,
  place bigint,
  digest uuid NOT NULL,
  fence bigint NOT NULL,
  before bigint NOT NULL,
  PRIMARY KEY (scope, place)
) WITH (fillfactor = 50);
";

/// Brings the tables of the version before up to this one. A process of the version before that
/// runs meanwhile goes on: it does not use what is added.
const MIGRATION: &str = r"ALTER TABLE {S}.policies ADD COLUMN max_in_flight bigint;
{PLACES}UPDATE {S}.meta SET version = {VERSION};
";

/// The same for a person. A lock that others hold for long is not waited for there either.
const BY_HAND: &str = r"SET LOCAL lock_timeout = '2s';
DO $$ BEGIN
  IF (SELECT version FROM {S}.meta) IS DISTINCT FROM {BEFORE} THEN
    RAISE EXCEPTION 'the tables do not have version {BEFORE}';
  END IF;
END $$;
{MIGRATION}";

/// The tables as plain SQL, for a person to run before the service starts under a role that may
/// not create tables.
///
/// # Errors
///
/// When the name can't be that of a schema.
pub(super) fn plain_sql(schema: &str) -> Result<String, StoreFailure> {
    Ok(filled(TABLES, &quoted(schema)?))
}

/// What brings tables of the version before up to this one, as plain SQL.
///
/// # Errors
///
/// When the name can't be that of a schema.
pub(super) fn migration_sql(schema: &str) -> Result<String, StoreFailure> {
    Ok(format!("BEGIN;\n{}COMMIT;\n", filled(BY_HAND, &quoted(schema)?)))
}

fn filled(text: &str, quoted: &str) -> String {
    let text = text.replace("{MIGRATION}", MIGRATION).replace("{BEFORE}", &BEFORE.to_string());
    let text = text.replace("{PLACES}", PLACES).replace("{SINCE}", SINCE).replace("{OF_FENCE}", OF_FENCE);
    text.replace("{S}", quoted).replace("{VERSION}", &VERSION.to_string())
}

/// A schema's name in quotes.
pub(super) fn quoted(schema: &str) -> Result<String, StoreFailure> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if schema.is_empty() || schema.len() > 50 || !schema.chars().all(fits) {
        let message = format!(
            "{schema:?} can't be the schema's name: use 1 to 50 letters, digits and underscores of ASCII"
        );
        return Err(StoreFailure::new(FailureKind::Options, message));
    }
    Ok(format!("\"{schema}\""))
}

/// What a process learns from the tables when it connects.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) secret: Secret,
    /// Tells the store from others. No secret.
    pub(super) id: u128,
    pub(super) migrated: Migrated,
}

/// What became of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Migrated {
    /// There were none, so they were made.
    Made,
    /// They had this version, and have that of this library now.
    From(i32),
    /// They have the version of this library, and had it before.
    UpToDate,
}

/// Makes the tables where there are none and the role may, brings those of the version before up
/// to this one, and checks them.
pub(super) async fn prepare(client: &Client, schema: &str, makes: bool) -> Result<Found, StoreFailure> {
    let quoted = quoted(schema)?;
    let mut migrated = Migrated::UpToDate;
    if !is_there(client, &quoted).await? {
        migrated = Migrated::Made;
        if !makes {
            return Err(missing(schema, "the options forbid to make them"));
        }
        if let Err(error) = make(client, schema, &quoted).await {
            let is_forbidden = error.kind() == FailureKind::Forbidden;
            return Err(if is_forbidden { missing(schema, error.message()) } else { error });
        }
    }
    check_rights(client, &quoted, &NEEDED_FIRST).await?;
    let version = version(client, schema, &quoted).await?;
    if version == BEFORE {
        if !makes {
            return Err(outdated(schema, "the options forbid to change them"));
        }
        if let Err(error) = migrate(client, schema, &quoted).await {
            let is_forbidden = error.kind() == FailureKind::Forbidden;
            return Err(if is_forbidden { outdated(schema, error.message()) } else { error });
        }
        migrated = Migrated::From(version);
    } else if version != VERSION {
        let message = format!(
            "the tables in schema {quoted} have version {version}, this library needs {VERSION}; \
             use the library that fits them"
        );
        return Err(StoreFailure::new(FailureKind::Schema, message));
    }
    check_rights(client, &quoted, &NEEDED).await?;
    found(client, &quoted, migrated).await
}

async fn is_there(client: &Client, quoted: &str) -> Result<bool, StoreFailure> {
    let sql = format!("SELECT to_regclass('{quoted}.meta') IS NOT NULL");
    let row = client.query_typed_one(&sql, &[]).await.map_err(|error| StoreFailure::of(&error))?;
    row.try_get(0).map_err(|error| StoreFailure::of(&error))
}

async fn make(client: &Client, schema: &str, quoted: &str) -> Result<(), StoreFailure> {
    let condition = format!("to_regclass('{quoted}.meta') IS NULL");
    change(client, schema, (&condition, &filled(TABLES, quoted))).await
}

/// A lock that others hold for long, as a dump does, is not waited for: every process that reads
/// policies would wait behind.
async fn migrate(client: &Client, schema: &str, quoted: &str) -> Result<(), StoreFailure> {
    let condition = format!("(SELECT version FROM {quoted}.meta) = {BEFORE}");
    change(client, schema, (&condition, &filled(MIGRATION, quoted))).await
}

/// In one transaction. Of several processes that start at once, one changes the tables.
async fn change(client: &Client, schema: &str, (condition, sql): (&str, &str)) -> Result<(), StoreFailure> {
    let script = format!(
        "BEGIN; SET LOCAL lock_timeout = '2s'; SELECT pg_advisory_xact_lock(hashtext('idemkv {schema}')); \
         DO $idemkv$ BEGIN IF {condition} THEN {sql} END IF; END $idemkv$; COMMIT"
    );
    let made = client.batch_execute(&script).await.map_err(|error| StoreFailure::of(&error));
    if made.is_err() {
        // Best effort: the connection is given up with the error.
        drop(client.batch_execute("ROLLBACK").await);
    }
    made
}

const NEEDED_FIRST: [(&str, &str); 1] = [("meta", "SELECT, UPDATE")];

const NEEDED: [(&str, &str); 6] = [
    ("keys", "SELECT, INSERT, UPDATE, DELETE"),
    ("sessions", "SELECT, INSERT, UPDATE, DELETE"),
    ("policies", "SELECT, INSERT, UPDATE, DELETE"),
    ("places", "SELECT, INSERT, UPDATE"),
    ("duties", "SELECT, UPDATE"),
    ("fence", "USAGE"),
];

async fn check_rights(client: &Client, quoted: &str, needed: &[(&str, &str)]) -> Result<(), StoreFailure> {
    for (table, rights) in needed {
        for right in rights.split(", ") {
            let function = if *table == "fence" { "has_sequence_privilege" } else { "has_table_privilege" };
            let sql = format!("SELECT {function}('{quoted}.{table}', '{right}')");
            let row = client.query_typed_one(&sql, &[]).await.map_err(|error| StoreFailure::of(&error))?;
            if !row.try_get::<_, bool>(0).map_err(|error| StoreFailure::of(&error))? {
                let message = format!("the role has no right to {right} on {quoted}.{table}; grant it");
                return Err(StoreFailure::new(FailureKind::Forbidden, message));
            }
        }
    }
    Ok(())
}

async fn version(client: &Client, schema: &str, quoted: &str) -> Result<i32, StoreFailure> {
    let sql = format!("SELECT version FROM {quoted}.meta");
    let row = client.query_typed_opt(&sql, &[]).await.map_err(|error| StoreFailure::of(&error))?;
    let Some(row) = row else { return Err(missing(schema, "the table `meta` is empty")) };
    row.try_get(0).map_err(|error| StoreFailure::of(&error))
}

async fn found(client: &Client, quoted: &str, migrated: Migrated) -> Result<Found, StoreFailure> {
    let sql = format!("SELECT secret, id FROM {quoted}.meta");
    let row = client.query_typed_one(&sql, &[]).await.map_err(|error| StoreFailure::of(&error))?;
    let secret: &[u8] = row.try_get(0).map_err(|error| StoreFailure::of(&error))?;
    let Ok(secret) = secret.try_into() else {
        let message = format!("the secret in {quoted}.meta does not have 32 bytes; restore the row");
        return Err(StoreFailure::new(FailureKind::Damaged, message));
    };
    let Id(id) = row.try_get(1).map_err(|error| StoreFailure::of(&error))?;
    Ok(Found { secret: Secret(secret), id, migrated })
}

fn missing(schema: &str, why: &str) -> StoreFailure {
    let message = format!(
        "the tables are not in schema {schema:?} and can't be made ({why}); run the SQL of `SharedOptions::plain_sql` \
         as a role that may create them"
    );
    StoreFailure::new(FailureKind::Schema, message)
}

fn outdated(schema: &str, why: &str) -> StoreFailure {
    let message = format!(
        "the tables in schema {schema:?} have version {BEFORE}, this library needs {VERSION}, and they can't be changed \
         ({why}); run `idemkv migrate`, or the SQL of `SharedOptions::migration_sql`, as the role that owns them"
    );
    StoreFailure::new(FailureKind::Schema, message)
}
