//! Giving a scope its own policy.

use crate::engine::common::counters::Counters;
use crate::engine::common::namespace::SCOPE_MAX;
use crate::engine::common::policies::SCOPES_MAX;
use crate::engine::core::Core;
use crate::engine::core::log_record::LogRecord;
use crate::error::{CommitError, KeyError, SetPolicyError};
use crate::observer::Event;
use crate::policy::Policy;
use crate::task::caller::Caller;
use crate::wal::frame::entry_bytes_max;

impl Core {
    /// Gives a scope a policy, durably.
    pub(in crate::engine) async fn set_policy(
        &self,
        caller: Caller,
        scope: &[u8],
        policy: Policy,
    ) -> Result<(), SetPolicyError> {
        if scope.len() > SCOPE_MAX {
            return Err(SetPolicyError::Name(KeyError::ScopeTooLong { len: scope.len(), max: SCOPE_MAX }));
        }
        policy.check()?;
        self.health.check().map_err(CommitError::from)?;
        self.check_blocking(caller)?;
        let Some(place) = self.policies.enter_declared(scope) else {
            return Err(SetPolicyError::TooManyScopes { max: SCOPES_MAX });
        };
        let record = LogRecord::PolicySet(Box::new((scope.into(), policy)));
        let entry = record.encoded();
        let cost = entry_bytes_max(entry.len()) as u64;
        let mut reservation = self.reserve(caller, cost).await?;
        // It stands over any earlier declaration.
        let entries = [(&*entry, record)];
        let ticket = self.commit.append_if(caller, entries, &mut reservation, |_| true)?;
        let Some(mut ticket) = ticket else { unreachable!("it was not asked") };
        place.keep();
        drop(reservation);
        // The caller may stop waiting from here on: the policy comes into force all the same.
        Counters::count(&self.counters.policies_set);
        self.options.hooks.tell(|| Event::PolicySet { scope, policy });
        Ok(self.commit.settled(caller, &mut ticket).await?)
    }
}
