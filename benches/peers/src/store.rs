//! Stores: what one would keep results in where they have to survive. Each is used as its own
//! documentation advises.
//!
//! The job is the same for all: claim a key if nobody has, durably; complete it with a body,
//! durably; give the body back.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::server::Server;

type Error = Box<dyn std::error::Error>;
type Done<T> = Result<T, Error>;

/// A store, open.
pub(crate) trait Store: Sync {
    /// What one caller works with.
    fn session(&self) -> Done<Box<dyn Session + '_>>;

    /// Callers beyond so many wait in front of the store.
    fn sessions_max(&self) -> usize {
        usize::MAX
    }
}

pub(crate) trait Session {
    /// Claims a key, durably; whether nobody had.
    fn claim(&mut self, key: &str) -> Done<bool>;
    /// Completes a claimed key, durably.
    fn complete(&mut self, key: &str, body: &[u8]) -> Done<()>;
    /// The body of a completed key.
    fn replay(&mut self, key: &str) -> Done<Option<Vec<u8>>>;
}

/// Opens a store in a directory; an error says why it can't be compared with here.
pub(crate) type Open = fn(&Path) -> Done<Box<dyn Store>>;
pub(crate) const STORES: &[(&str, Open)] = &[
    ("fjall", |dir| Ok(Box::new(Fjall::open(dir)?))),
    ("lmdb", |dir| Ok(Box::new(Lmdb::open(dir)?))),
    ("sqlite", |dir| Ok(Box::new(Sqlite::open(dir)?))),
    ("redb", |dir| Ok(Box::new(Redb::open(dir)?))),
    #[cfg(feature = "rocksdb")]
    ("rocksdb", |dir| Ok(Box::new(Rocks::open(dir)?))),
    ("redis", |dir| Ok(Box::new(Redis::open(dir)?))),
    ("postgres", |dir| Ok(Box::new(Postgres::open(dir)?))),
];

/// A row's first byte where it is claimed, and before the body where it is completed.
const CLAIMED: u8 = 0;
const COMPLETED: u8 = 1;

fn completed(body: &[u8]) -> Vec<u8> {
    [&[COMPLETED], body].concat()
}

fn body_of(row: &[u8]) -> Option<Vec<u8>> {
    row.split_first().filter(|(state, _)| **state == COMPLETED).map(|(_, body)| body.to_vec())
}

struct Fjall {
    database: fjall::OptimisticTxDatabase,
    keys: fjall::OptimisticTxKeyspace,
}

impl Fjall {
    fn open(dir: &Path) -> Done<Self> {
        let database = fjall::OptimisticTxDatabase::builder(dir.join("fjall")).open()?;
        let keys = database.keyspace("keys", fjall::KeyspaceCreateOptions::default)?;
        Ok(Self { database, keys })
    }

    fn transaction(&self) -> Done<fjall::OptimisticWriteTx> {
        Ok(self.database.write_tx()?.durability(Some(fjall::PersistMode::SyncData)))
    }
}

impl Store for Fjall {
    fn session(&self) -> Done<Box<dyn Session + '_>> {
        Ok(Box::new(self))
    }
}

impl Session for &Fjall {
    fn claim(&mut self, key: &str) -> Done<bool> {
        use fjall::Readable;
        let mut transaction = self.transaction()?;
        if transaction.get(&self.keys, key)?.is_some() {
            return Ok(false);
        }
        transaction.insert(&self.keys, key, [CLAIMED]);
        Ok(transaction.commit()?.is_ok())
    }

    fn complete(&mut self, key: &str, body: &[u8]) -> Done<()> {
        let mut transaction = self.transaction()?;
        transaction.insert(&self.keys, key, completed(body));
        Ok(transaction.commit()??)
    }

    fn replay(&mut self, key: &str) -> Done<Option<Vec<u8>>> {
        Ok(self.keys.get(key)?.and_then(|row| body_of(&row)))
    }
}

type LmdbTable = heed::Database<heed::types::Str, heed::types::Bytes>;

struct Lmdb {
    env: heed::Env,
    keys: LmdbTable,
}

impl Lmdb {
    fn open(dir: &Path) -> Done<Self> {
        let dir = dir.join("lmdb");
        std::fs::create_dir(&dir)?;
        // SAFETY: the directory is new, and this process the only one that opens it, once.
        let env = unsafe { heed::EnvOpenOptions::new().map_size(32 << 30).max_readers(2_048).open(dir)? };
        let mut transaction = env.write_txn()?;
        let keys = env.create_database(&mut transaction, None)?;
        transaction.commit()?;
        Ok(Self { env, keys })
    }
}

impl Store for Lmdb {
    fn session(&self) -> Done<Box<dyn Session + '_>> {
        Ok(Box::new(self))
    }
}

impl Session for &Lmdb {
    fn claim(&mut self, key: &str) -> Done<bool> {
        let mut transaction = self.env.write_txn()?;
        let was_there = self.keys.get_or_put(&mut transaction, key, &[CLAIMED])?.is_some();
        transaction.commit()?;
        Ok(!was_there)
    }

    fn complete(&mut self, key: &str, body: &[u8]) -> Done<()> {
        let mut transaction = self.env.write_txn()?;
        self.keys.put(&mut transaction, key, &completed(body))?;
        Ok(transaction.commit()?)
    }

    fn replay(&mut self, key: &str) -> Done<Option<Vec<u8>>> {
        let transaction = self.env.read_txn()?;
        Ok(self.keys.get(&transaction, key)?.and_then(body_of))
    }
}

/// One connection that writes, as SQLite has one writer at a time; waiting for a lock of ours
/// costs less than for its.
struct Sqlite {
    writer: Mutex<rusqlite::Connection>,
}

impl Sqlite {
    fn open(dir: &Path) -> Done<Self> {
        let connection = rusqlite::Connection::open(dir.join("sqlite.db"))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute("CREATE TABLE keys (key TEXT PRIMARY KEY, body BLOB) WITHOUT ROWID", [])?;
        Ok(Self { writer: Mutex::new(connection) })
    }
}

impl Store for Sqlite {
    fn session(&self) -> Done<Box<dyn Session + '_>> {
        Ok(Box::new(self))
    }
}

impl Session for &Sqlite {
    fn claim(&mut self, key: &str) -> Done<bool> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut insert =
            writer.prepare_cached("INSERT INTO keys (key) VALUES (?1) ON CONFLICT DO NOTHING")?;
        Ok(insert.execute([key])? == 1)
    }

    fn complete(&mut self, key: &str, body: &[u8]) -> Done<()> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut update = writer.prepare_cached("UPDATE keys SET body = ?2 WHERE key = ?1")?;
        update.execute(rusqlite::params![key, body])?;
        Ok(())
    }

    fn replay(&mut self, key: &str) -> Done<Option<Vec<u8>>> {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut select = writer.prepare_cached("SELECT body FROM keys WHERE key = ?1")?;
        Ok(select.query_row([key], |row| row.get(0))?)
    }
}

const REDB_KEYS: redb::TableDefinition<'_, u128, &[u8]> = redb::TableDefinition::new("keys");

/// Keyed by a digest, which is shorter than the key and makes every row's key the same length.
struct Redb {
    database: redb::Database,
}

impl Redb {
    fn open(dir: &Path) -> Done<Self> {
        let database = redb::Database::create(dir.join("redb"))?;
        let transaction = database.begin_write()?;
        transaction.open_table(REDB_KEYS)?;
        transaction.commit()?;
        Ok(Self { database })
    }
}

fn digest(key: &str) -> u128 {
    let mut bytes = [0; 16];
    blake3::Hasher::new().update(key.as_bytes()).finalize_xof().fill(&mut bytes);
    u128::from_le_bytes(bytes)
}

impl Store for Redb {
    fn session(&self) -> Done<Box<dyn Session + '_>> {
        Ok(Box::new(self))
    }
}

impl Session for &Redb {
    fn claim(&mut self, key: &str) -> Done<bool> {
        use redb::ReadableTable;
        let transaction = self.database.begin_write()?;
        let is_free = {
            let mut table = transaction.open_table(REDB_KEYS)?;
            let is_free = table.get(digest(key))?.is_none();
            if is_free {
                table.insert(digest(key), [CLAIMED].as_slice())?;
            }
            is_free
        };
        transaction.commit()?;
        Ok(is_free)
    }

    fn complete(&mut self, key: &str, body: &[u8]) -> Done<()> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(REDB_KEYS)?.insert(digest(key), completed(body).as_slice())?;
        Ok(transaction.commit()?)
    }

    fn replay(&mut self, key: &str) -> Done<Option<Vec<u8>>> {
        use redb::ReadableDatabase;
        let table = self.database.begin_read()?.open_table(REDB_KEYS)?;
        Ok(table.get(digest(key))?.and_then(|row| body_of(row.value())))
    }
}

#[cfg(feature = "rocksdb")]
struct Rocks {
    database: rocksdb::OptimisticTransactionDB,
}

#[cfg(feature = "rocksdb")]
impl Rocks {
    fn open(dir: &Path) -> Done<Self> {
        Ok(Self { database: rocksdb::OptimisticTransactionDB::open_default(dir.join("rocksdb"))? })
    }

    fn synced() -> rocksdb::WriteOptions {
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(true);
        options
    }
}

#[cfg(feature = "rocksdb")]
impl Store for Rocks {
    fn session(&self) -> Done<Box<dyn Session + '_>> {
        Ok(Box::new(self))
    }
}

#[cfg(feature = "rocksdb")]
impl Session for &Rocks {
    fn claim(&mut self, key: &str) -> Done<bool> {
        let options = rocksdb::OptimisticTransactionOptions::default();
        let transaction = self.database.transaction_opt(&Rocks::synced(), &options);
        if transaction.get_for_update(key, true)?.is_some() {
            return Ok(false);
        }
        transaction.put(key, [CLAIMED])?;
        Ok(transaction.commit().is_ok())
    }

    fn complete(&mut self, key: &str, body: &[u8]) -> Done<()> {
        Ok(self.database.put_opt(key, completed(body), &Rocks::synced())?)
    }

    fn replay(&mut self, key: &str) -> Done<Option<Vec<u8>>> {
        Ok(self.database.get_pinned(key)?.and_then(|row| body_of(&row)))
    }
}

struct Redis {
    client: redis::Client,
    _server: Server,
}

impl Redis {
    fn open(dir: &Path) -> Done<Self> {
        let server = Server::redis(dir)?;
        Ok(Self { client: redis::Client::open(server.address())?, _server: server })
    }
}

impl Store for Redis {
    fn session(&self) -> Done<Box<dyn Session + '_>> {
        Ok(Box::new(self.client.get_connection()?))
    }
}

impl Session for redis::Connection {
    fn claim(&mut self, key: &str) -> Done<bool> {
        let set: Option<String> = redis::cmd("SET").arg(key).arg(&[CLAIMED]).arg("NX").query(self)?;
        Ok(set.is_some())
    }

    fn complete(&mut self, key: &str, body: &[u8]) -> Done<()> {
        Ok(redis::cmd("SET").arg(key).arg(completed(body)).arg("XX").query(self)?)
    }

    fn replay(&mut self, key: &str) -> Done<Option<Vec<u8>>> {
        let row: Option<Vec<u8>> = redis::cmd("GET").arg(key).query(self)?;
        Ok(row.and_then(|row| body_of(&row)))
    }
}

struct Postgres {
    server: Server,
}

impl Postgres {
    fn open(dir: &Path) -> Done<Self> {
        let server = Server::postgres(dir)?;
        let mut client = postgres::Client::connect(server.address(), postgres::NoTls)?;
        client.batch_execute("CREATE TABLE keys (key text PRIMARY KEY, body bytea)")?;
        Ok(Self { server })
    }
}

struct PostgresSession {
    client: postgres::Client,
    insert: postgres::Statement,
    update: postgres::Statement,
    select: postgres::Statement,
}

impl Store for Postgres {
    fn session(&self) -> Done<Box<dyn Session + '_>> {
        let mut client = postgres::Client::connect(self.server.address(), postgres::NoTls)?;
        let insert = client.prepare("INSERT INTO keys (key) VALUES ($1) ON CONFLICT DO NOTHING")?;
        let update = client.prepare("UPDATE keys SET body = $2 WHERE key = $1")?;
        let select = client.prepare("SELECT body FROM keys WHERE key = $1")?;
        Ok(Box::new(PostgresSession { client, insert, update, select }))
    }

    fn sessions_max(&self) -> usize {
        // Its manual advises a pool, not a connection for each of many callers; its default limit
        // is 100.
        90
    }
}

impl Session for PostgresSession {
    fn claim(&mut self, key: &str) -> Done<bool> {
        Ok(self.client.execute(&self.insert, &[&key])? == 1)
    }

    fn complete(&mut self, key: &str, body: &[u8]) -> Done<()> {
        self.client.execute(&self.update, &[&key, &body])?;
        Ok(())
    }

    fn replay(&mut self, key: &str) -> Done<Option<Vec<u8>>> {
        Ok(self.client.query_one(&self.select, &[&key])?.get(0))
    }
}
