//! A record that is forgotten leaves the memory of every process first. It gets a number, processes
//! are told, and each says up to which number it has dropped what it was told of.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::columns::{Id, Params};
use super::connection::Link;
use super::core::Core;
use super::granting::Tries;
use super::refusal::Refusal;
use super::row::Columns;
use crate::clock::Deadline;
use crate::error::{FailureKind, StoreFailure};
use crate::key::Digest;
use crate::sync::Arc;

pub(super) const LISTEN: &str = "LISTEN \"{FORGETS}\"";

/// What is heard of records that are to be dropped, on one connection.
#[derive(Default)]
pub(super) struct Heard {
    notes: RefCell<Vec<(i64, Vec<Digest>)>>,
    /// Everything up to this number was dropped. A new connection may be to another server, which
    /// counts for itself: nothing is known.
    seen: Cell<Option<i64>>,
    /// The server that gave the numbers. A pooler changes it under a connection.
    server: Cell<i64>,
}

/// Notes that wait to be read. What does not fit counts as missed.
const NOTES_MAX: usize = 10_000;
/// Digits of one key.
const DIGITS: usize = 32;

impl Heard {
    /// A notification has arrived: a number, and the keys.
    pub(super) fn hear(&self, payload: &str) {
        let Some((number, digits)) = payload.split_once(':') else { return };
        let Ok(number) = number.parse() else { return };
        let keys = digits.as_bytes().chunks_exact(DIGITS).filter_map(|key| std::str::from_utf8(key).ok());
        let keys = keys.filter_map(|key| u128::from_str_radix(key, 16).ok()).map(Digest::from_u128).collect();
        let mut notes = self.notes.borrow_mut();
        if notes.len() < NOTES_MAX {
            notes.push((number, keys));
        }
    }

    /// Drops what was told. The number up to which everything is dropped.
    pub(super) fn drop_told(&self, core: &Core) -> Option<i64> {
        for (number, keys) in self.notes.take() {
            match self.seen.get() {
                Some(seen) if number <= seen => {}
                Some(seen) if number == seen + 1 && !keys.is_empty() => {
                    core.cache.lose(&keys);
                    self.seen.set(Some(number));
                }
                // One was missed.
                Some(_) | None => {
                    core.cache.lose_all();
                    self.seen.set(Some(number));
                }
            }
        }
        self.seen.get()
    }

    /// Everything was dropped, after a statement had read this number of this server's.
    pub(super) fn dropped_all(&self, number: i64, server: i64) {
        self.seen.set(Some(number));
        self.server.set(server);
    }

    pub(super) fn server(&self) -> i64 {
        self.server.get()
    }
}

/// How many sessions of other processes may still replay what has this number. A session whose
/// time is over can't be renewed any more once it is counted as such.
const LAGGING: &str = "WITH moment AS MATERIALIZED (SELECT {NOW} AS now_ms, {SURE}), \
    over AS MATERIALIZED (SELECT s.id FROM {S}.sessions s CROSS JOIN moment m \
      WHERE s.seen < $1 AND s.replays_until_ms <= m.now_ms AND s.nonce <> $2 ORDER BY s.id FOR NO KEY UPDATE OF s), \
    ended AS (UPDATE {S}.sessions s SET seen = NULL FROM over o WHERE s.id = o.id RETURNING s.id) \
    SELECT count(*) FROM {S}.sessions s WHERE s.seen < $1 AND s.nonce <> $2 \
      AND NOT EXISTS (SELECT FROM ended e WHERE e.id = s.id)";

const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

impl Core {
    /// Waits until no process can replay a record from memory that is leaving under this number:
    /// each has dropped it, or its session is over.
    pub(super) async fn leave_memories(&self, digest: Digest, number: i64) -> Result<(), Refusal> {
        self.cache.lose(&[digest]);
        let until = Deadline::after(self.options.session + self.options.call_timeout);
        let (mut tries, mut pause) = (Tries::new(until), PAUSE_MIN);
        loop {
            let (sql, nonce) = (self.sql.filled(LAGGING), Id(self.nonce));
            let asked = self.errand(self.deadline(), async move |link: Rc<Link>| {
                let params = Params::default().with(number, Type::INT8).with(nonce, Type::UUID);
                link.once(&sql, &params).await
            });
            let lagging = match asked.await {
                Ok(rows) => rows.first().and_then(|row| Columns::new(row).number().ok()),
                // It is as good the second time.
                Err(miss) => {
                    tries.again(self, miss).await?;
                    continue;
                }
            };
            if lagging == Some(0) {
                return Ok(());
            }
            if until.has_passed() {
                let message = "a process that may have the record in memory has not said that it dropped it";
                return Err(Refusal::unavailable(StoreFailure::new(FailureKind::TimedOut, message)));
            }
            self.sleep(Deadline::after(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }
}

/// Takes notifications in, and wakes the keeper for each.
pub(super) fn hearing(core: &Arc<Core>, heard: &Rc<Heard>) -> impl Fn(&str) + 'static {
    let (core, heard) = (Arc::clone(core), Rc::clone(heard));
    move |payload| {
        heard.hear(payload);
        core.session.called.notify_one();
    }
}
