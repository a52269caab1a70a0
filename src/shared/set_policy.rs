//! The policies of scopes are read, and set.

use std::collections::HashMap;
use std::rc::Rc;

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::columns::{Params, signed};
use super::confirm::CONFIRM;
use super::connection::{Link, race};
use super::core::{Core, SharedHandle};
use super::granting::{Tries, nonce};
use super::options::check_policy;
use super::policies::Policies;
use super::refusal::Refusal;
use super::row::{Columns, damaged};
use super::statement::Miss;
use crate::clock::Deadline;
use crate::codec::PolicyRow;
use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::SCOPE_MAX;
use crate::engine::common::policies::SCOPES_MAX;
use crate::error::{KeyError, SetPolicyError, SharedError, StoreFailure};
use crate::observer::Event;
use crate::policy::Policy;
use crate::sync::Arc;

const READ: &str = "SELECT m.policies, p.scope, p.ttl_ms, p.tombstone_ms, p.refuse, p.unresolved_ms, p.max_attempts, \
    p.lease_ms, p.max_in_flight FROM {S}.meta m LEFT JOIN {S}.policies p ON true";

/// A change of the row in `meta` makes the change visible at once, to every process: a grant names
/// the version that it was decided under. The version is a random number of 60 bits: one that was
/// lost with a failover does not come again for other policies. By it a call whose answer got lost
/// knows its own change.
///
/// It changes nothing if the version is neither its own nor the one that was read before.
const WRITE: &str = "WITH version AS (UPDATE {S}.meta SET policies = $9 FROM (SELECT {SURE}) AS durable \
      WHERE policies IN ($9, $10) RETURNING 1) \
    INSERT INTO {S}.policies (scope, ttl_ms, tombstone_ms, refuse, unresolved_ms, max_attempts, lease_ms, \
      max_in_flight) \
    SELECT $1, $2, $3, $4, $5, $6, $7, $8 FROM version ON CONFLICT (scope) DO UPDATE SET ttl_ms = excluded.ttl_ms, \
      tombstone_ms = excluded.tombstone_ms, refuse = excluded.refuse, unresolved_ms = excluded.unresolved_ms, \
      max_attempts = excluded.max_attempts, lease_ms = excluded.lease_ms, \
      max_in_flight = excluded.max_in_flight RETURNING 1";

/// The policy of one scope, and how many scopes have one, with a commit that confirms what it reads:
/// what a call finds in force counts only once it is durable.
fn in_force_sql() -> String {
    format!(
        "WITH sure AS MATERIALIZED ({CONFIRM} AS at) \
        SELECT m.policies, (SELECT count(*) FROM {{S}}.policies), p.scope, p.ttl_ms, p.tombstone_ms, p.refuse, \
        p.unresolved_ms, p.max_attempts, p.lease_ms, p.max_in_flight, s.at \
        FROM {{S}}.meta m LEFT JOIN {{S}}.policies p ON p.scope = $1 CROSS JOIN sure s"
    )
}

/// What the store has when a policy is to be set.
struct InForce {
    version: i64,
    scopes: u64,
    /// That of the scope.
    policy: Option<Policy>,
}

impl SharedHandle {
    /// Gives a scope a policy of its own. In force in every process when it returns.
    pub(crate) async fn set_policy(&self, scope: &[u8], policy: Policy) -> Result<(), SetPolicyError> {
        self.0.set_policy(scope, policy).await
    }
}

impl Core {
    /// Reads the policies of all scopes, as they are when this is called or later.
    pub(super) async fn load_policies(&self, deadline: Deadline) -> Result<(), Miss> {
        let (sql, policies) = (self.sql.filled(READ), Arc::clone(&self.policies));
        self.errand(deadline, async move |link: Rc<Link>| read(&link, &sql, &policies).await)
            .await
            .map_err(Miss::of_a_read)
    }

    /// Reads them, or waits for the read under way: after a policy was set, all calls want to know
    /// it at once. That read may be too old, and then the call finds out, and is here again.
    pub(super) async fn catch_up_with_policies(&self, deadline: Deadline) -> Result<(), Miss> {
        match self.policies.join() {
            // The store's thread goes on with it for the others, if nobody polls this call any more.
            Err(reading) => {
                let (sql, policies) = (self.sql.filled(READ), Arc::clone(&self.policies));
                let reads = async move |link: Rc<Link>| {
                    let read = read(&link, &sql, &policies).await;
                    reading.ends(&read);
                    read
                };
                self.errand(deadline, reads).await.map_err(Miss::of_a_read)
            }
            Ok(answer) => match race(answer.get(), self.sleep(deadline)).await {
                Ok(Some(read)) => read,
                // The other call had no more time for it.
                Ok(None) | Err(()) => Ok(()),
            },
        }
    }

    async fn in_force(
        &self,
        scope: &[u8],
        tries: &mut Tries,
        deadline: Deadline,
    ) -> Result<InForce, Refusal> {
        loop {
            let (sql, scope) = (self.sql.filled(&in_force_sql()), scope.to_vec());
            let read = self.errand(deadline, async move |link: Rc<Link>| {
                link.once(&sql, &Params::default().with(scope, Type::BYTEA)).await
            });
            match read.await {
                Ok(rows) => {
                    let row = rows.first().ok_or_else(|| damaged("the table `meta` is empty"));
                    return row.and_then(in_force).map_err(Refusal::unavailable);
                }
                Err(miss) => tries.again(self, miss.of_a_read()).await?,
            }
        }
    }

    async fn set_policy(self: &Arc<Self>, scope: &[u8], policy: Policy) -> Result<(), SetPolicyError> {
        self.check()?;
        if scope.len() > SCOPE_MAX {
            return Err(SetPolicyError::Name(KeyError::ScopeTooLong { len: scope.len(), max: SCOPE_MAX }));
        }
        check_policy(&policy)?;
        let (sql, row, scope) = (self.sql.filled(WRITE), policy.row(), scope.to_vec());
        let deadline = self.deadline();
        let mut tries = Tries::new(deadline);
        let version = new_version()?;
        let mut before = self.in_force(&scope, &mut tries, deadline).await?;
        // What is in force is not written again: with each version all processes read the policies.
        let in_force = loop {
            if before.policy == Policy::from_row(&row).ok() {
                break before.version;
            }
            if before.policy.is_none() && before.scopes >= SCOPES_MAX as u64 {
                return Err(SetPolicyError::TooManyScopes { max: SCOPES_MAX });
            }
            let (sql, for_scope, row, old) = (sql.clone(), scope.clone(), row, before.version);
            let written = self.errand(deadline, async move |link: Rc<Link>| {
                let number = |value: Option<u64>| value.map(signed);
                let params = Params::default()
                    .with(for_scope, Type::BYTEA)
                    .with(signed(row.ttl_ms), Type::INT8)
                    .with(number(row.tombstone_ms), Type::INT8)
                    .with(row.refuse, Type::BOOL)
                    .with(number(row.unresolved_ms), Type::INT8)
                    .with(row.max_attempts.map(i64::from), Type::INT8)
                    .with(number(row.lease_ms), Type::INT8)
                    .with(row.max_in_flight.map(i64::from), Type::INT8)
                    .with(version, Type::INT8)
                    .with(old, Type::INT8);
                link.once(&sql, &params).await
            });
            match written.await {
                Ok(rows) if !rows.is_empty() => break version,
                // Another call came in between.
                Ok(_) => tries.round(self).await?,
                Err(miss) => tries.again(self, miss).await?,
            }
            let now = self.in_force(&scope, &mut tries, deadline).await?;
            if now.version == version {
                break version;
            }
            // Whether the other call came after this one, nothing says.
            if let Some(failure) = tries.unknown.clone().filter(|_| now.version != before.version) {
                return Err(Refusal::from(SharedError::Unknown(failure)).into());
            }
            before = now;
        };
        // It is in force. If this fails, the next grant finds out, and reads the policies.
        if self.policies.version() != in_force
            && let Err(Miss::NotDone(failure) | Miss::Unknown(failure)) = self.load_policies(deadline).await
        {
            self.note_failure(&failure);
        }
        Counters::count(&self.counters.policies_set);
        self.options.hooks.tell(|| Event::PolicySet { scope: &scope, policy });
        Ok(())
    }
}

/// A number that no policies had before.
fn new_version() -> Result<i64, SetPolicyError> {
    let random = nonce()?;
    Ok(i64::try_from(random & ((1 << 60) - 1)).unwrap_or_else(|_| unreachable!("it has 60 bits")))
}

async fn read(link: &Link, sql: &str, policies: &Policies) -> Result<(), Miss> {
    let ticket = policies.ticket();
    let rows = link.once(sql, &Params::default()).await.map_err(Miss::of_a_read)?;
    let mut read = (0, HashMap::new());
    for row in &rows {
        let mut columns = Columns::new(row);
        read.0 = columns.take().map_err(Miss::NotDone)?;
        if let Some((scope, policy)) = one(&mut columns).map_err(Miss::NotDone)? {
            read.1.insert(scope, policy);
        }
    }
    policies.set(ticket, read.0, read.1);
    Ok(())
}

fn in_force(row: &Row) -> Result<InForce, StoreFailure> {
    let mut columns = Columns::new(row);
    let (version, scopes) = (columns.take()?, columns.number()?);
    Ok(InForce { version, scopes, policy: one(&mut columns)?.map(|(_, policy)| policy) })
}

fn one(columns: &mut Columns<'_>) -> Result<Option<(Vec<u8>, Policy)>, StoreFailure> {
    let scope: Option<Vec<u8>> = columns.take()?;
    let Some(scope) = scope else { return Ok(None) };
    let row = PolicyRow {
        ttl_ms: columns.number()?,
        tombstone_ms: columns.number_or_none()?,
        refuse: columns.take()?,
        unresolved_ms: columns.number_or_none()?,
        max_attempts: small(columns)?,
        lease_ms: columns.number_or_none()?,
        intents: true,
        relaxed_ms: None,
        max_in_flight: small(columns)?,
    };
    let policy = Policy::from_row(&row).map_err(|error| damaged(&format!("{error:?}")))?;
    Ok(Some((scope, policy)))
}

fn small(columns: &mut Columns<'_>) -> Result<Option<u32>, StoreFailure> {
    let number = columns.number_or_none()?;
    number.map(u32::try_from).transpose().or(Err(damaged("the limit of a policy is too high")))
}
