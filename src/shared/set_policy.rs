//! The policies of scopes are read, and set.

use std::collections::HashMap;
use std::rc::Rc;

use tokio_postgres::types::Type;

use super::columns::{Params, signed};
use super::connection::Link;
use super::core::{Core, SharedHandle};
use super::granting::Tries;
use super::options::check_policy;
use super::row::{Columns, damaged};
use super::statement::Miss;
use crate::clock::Deadline;
use crate::codec::PolicyRow;
use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::SCOPE_MAX;
use crate::error::{CommitError, KeyError, SetPolicyError, StoreFailure};
use crate::observer::Event;
use crate::policy::Policy;
use crate::sync::Arc;

const READ: &str = "SELECT m.policies, p.scope, p.ttl_ms, p.tombstone_ms, p.refuse, p.unresolved_ms, p.max_attempts, \
    p.lease_ms, p.max_in_flight FROM {S}.meta m LEFT JOIN {S}.policies p ON true";

/// A change of the row in `meta` makes the change visible at once, to every process: a grant names
/// the version that it was decided under. The version is a random number of 60 bits: one that was
/// lost with a failover does not come again for other policies.
const WRITE: &str = "WITH version AS (UPDATE {S}.meta SET policies = \
      ('x' || left(replace(gen_random_uuid()::text, '-', ''), 12) || right(gen_random_uuid()::text, 3))::bit(60)::bigint \
      FROM (SELECT {SURE}) AS durable) \
    INSERT INTO {S}.policies (scope, ttl_ms, tombstone_ms, refuse, unresolved_ms, max_attempts, lease_ms, \
      max_in_flight) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (scope) DO UPDATE SET ttl_ms = excluded.ttl_ms, \
      tombstone_ms = excluded.tombstone_ms, refuse = excluded.refuse, unresolved_ms = excluded.unresolved_ms, \
      max_attempts = excluded.max_attempts, lease_ms = excluded.lease_ms, \
      max_in_flight = excluded.max_in_flight";

impl SharedHandle {
    /// Gives a scope a policy of its own. In force in every process when it returns.
    pub(crate) async fn set_policy(&self, scope: &[u8], policy: Policy) -> Result<(), SetPolicyError> {
        self.0.set_policy(scope, policy).await
    }
}

impl Core {
    /// Reads the policies of all scopes.
    pub(super) async fn load_policies(&self, deadline: Deadline) -> Result<(), Miss> {
        let sql = self.sql.filled(READ);
        let ticket = self.policies.ticket();
        let rows =
            self.errand(deadline, async move |link: Rc<Link>| link.once(&sql, &Params::default()).await);
        let mut read = (0, HashMap::new());
        for row in &rows.await? {
            let mut columns = Columns::new(row);
            read.0 = columns.take().map_err(Miss::NotDone)?;
            if let Some((scope, policy)) = one(&mut columns).map_err(Miss::NotDone)? {
                read.1.insert(scope, policy);
            }
        }
        self.policies.set(ticket, read.0, read.1);
        Ok(())
    }

    async fn set_policy(self: &Arc<Self>, scope: &[u8], policy: Policy) -> Result<(), SetPolicyError> {
        self.check()?;
        if scope.len() > SCOPE_MAX {
            return Err(SetPolicyError::Name(KeyError::ScopeTooLong { len: scope.len(), max: SCOPE_MAX }));
        }
        check_policy(&policy)?;
        let (sql, row, scope) = (self.sql.filled(WRITE), policy.row(), scope.to_vec());
        let deadline = self.deadline();
        // The same again changes nothing but the version, so an unknown outcome is tried again.
        let mut tries = Tries::new(deadline);
        loop {
            let (sql, scope, row) = (sql.clone(), scope.clone(), row);
            let written = self.errand(deadline, async move |link: Rc<Link>| {
                let number = |value: Option<u64>| value.map(signed);
                let params = Params::default()
                    .with(scope, Type::BYTEA)
                    .with(signed(row.ttl_ms), Type::INT8)
                    .with(number(row.tombstone_ms), Type::INT8)
                    .with(row.refuse, Type::BOOL)
                    .with(number(row.unresolved_ms), Type::INT8)
                    .with(row.max_attempts.map(i64::from), Type::INT8)
                    .with(number(row.lease_ms), Type::INT8)
                    .with(row.max_in_flight.map(i64::from), Type::INT8);
                link.once(&sql, &params).await
            });
            match written.await {
                Ok(_) => break,
                Err(miss) => tries.again(self, miss).await.map_err(CommitError::from)?,
            }
        }
        self.load_policies(deadline).await.map_err(|miss| CommitError::from(Self::refusal(miss)))?;
        Counters::count(&self.counters.policies_set);
        self.options.hooks.tell(|| Event::PolicySet { scope: &scope, policy });
        Ok(())
    }
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
