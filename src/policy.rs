//! `Policy`: the promises to a scope's keys.

use std::time::Duration;

use crate::clock::millis;
use crate::codec::{BadBytes, PolicyRow};
use crate::error::OptionError;
use crate::record::retention::{RETENTION_MAX, Retention};

/// The promises to a scope's keys: how long results are kept, whether interrupted keys run again,
/// and what is durable when.
///
/// [`Options::policy`](crate::Options::policy) sets the policy of all scopes that have none of
/// their own, [`Engine::set_policy`](crate::Engine::set_policy) gives a scope its own.
///
/// ```
/// # use idemkv::{Engine, Policy, Recovery};
/// # use std::time::Duration;
/// # let dir = tempfile::tempdir()?;
/// # let engine = Engine::open(dir.path().join("x.idem"))?;
/// let week = Duration::from_secs(7 * 24 * 3600);
/// let charges = engine.set_policy("POST /v1/charges", engine.policy().ttl(week))?;
/// let reports = engine.set_policy("reports", engine.policy().recovery(Recovery::Rerun))?;
/// assert_eq!(charges.policy().get_recovery(), Recovery::Refuse); // the default
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Policy {
    pub(crate) ttl: Duration,
    pub(crate) tombstone_ttl: Option<Duration>,
    pub(crate) recovery: Recovery,
    /// `None` for ever.
    pub(crate) unresolved_ttl: Option<Duration>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) lease: Option<Duration>,
    pub(crate) durability: Durability,
    pub(crate) max_in_flight: Option<u32>,
}

/// The answer to a begin of an interrupted key. The effect of the earlier attempt may or may not
/// have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Recovery {
    /// A claim that knows of the earlier attempt: see
    /// [`Claim::interrupted`](crate::Claim::interrupted). For operations that can find out how
    /// far the attempt came, or that may be repeated.
    Rerun,
    /// [`BeginError::Unresolved`](crate::BeginError::Unresolved), until the key is resolved
    /// ([`Scope::resolve`](crate::Scope::resolve)) or forgotten, or its
    /// [time](Policy::unresolved_ttl) is over.
    #[default]
    Refuse,
}

/// What is durable when it is acknowledged. With every choice, other callers see a result only
/// once it is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Durability {
    /// Grants and results: after a crash, a key whose claim was in flight is *interrupted*, and
    /// the next begin says so. Two syncs a lifecycle.
    #[default]
    Full,
    /// Results: a begin costs no sync, and a crash forgets claims in flight. Operations may then
    /// silently run again, so this needs [`Recovery::Rerun`].
    Completions,
    /// Neither: a grant costs no sync, and a completion returns before its result is durable. The
    /// result is durable within this time (1 ms to 60 s), or after the next
    /// [`Engine::flush`](crate::Engine::flush); [`Record::is_durable`](crate::Record::is_durable)
    /// tells. Until then other callers find the key in flight, and a crash forgets that the
    /// operation ran. This needs [`Recovery::Rerun`] too.
    Relaxed(Duration),
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(24 * 3_600),
            tombstone_ttl: None,
            recovery: Recovery::Refuse,
            unresolved_ttl: Some(UNRESOLVED_TTL),
            max_attempts: None,
            lease: None,
            durability: Durability::Full,
            max_in_flight: None,
        }
    }
}

const UNRESOLVED_TTL: Duration = Duration::from_secs(30 * 24 * 3_600);
const LEASE_MAX: Duration = Duration::from_secs(30 * 24 * 3_600);
const RELAXED_MAX: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

impl Policy {
    /// How long a record is replayed, counted from its completion. Default 24 hours; 1 ms to 100
    /// years.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// How long a key is remembered, counted from its completion, so that a very late retry is
    /// refused and not run again. Default none: as long as its record is replayed. From the TTL
    /// to 100 years.
    #[must_use]
    pub fn tombstone_ttl(mut self, ttl: Duration) -> Self {
        self.tombstone_ttl = Some(ttl);
        self
    }

    /// What a begin of an interrupted key gets. Default [`Recovery::Refuse`].
    ///
    /// The policy at the time of that begin decides.
    #[must_use]
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.recovery = recovery;
        self
    }

    /// How long an interrupted key is remembered, counted from when it was found interrupted.
    /// Default 30 days; 1 ms to 100 years.
    ///
    /// After that time the key is vacant: the next begin gets a first claim that does not know of
    /// the interruption. The policy at the time of the grant decides.
    #[must_use]
    pub fn unresolved_ttl(mut self, ttl: Duration) -> Self {
        self.unresolved_ttl = Some(ttl);
        self
    }

    /// An interrupted key is remembered until it is resolved or forgotten: no
    /// [`unresolved_ttl`](Self::unresolved_ttl).
    #[must_use]
    pub fn unresolved_forever(mut self) -> Self {
        self.unresolved_ttl = None;
        self
    }

    /// How many attempts are granted before an interrupted key is refused as with
    /// [`Recovery::Refuse`]. Only with [`Recovery::Rerun`]. Default any number; at least 1.
    #[must_use]
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = Some(attempts);
        self
    }

    /// How long a claim is good without a renewal. Default none: as long as its holder has it. 1
    /// ms to 30 days.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.lease = Some(lease);
        self
    }

    /// What is durable when it is acknowledged. Default [`Durability::Full`].
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// The most claims of a scope in flight at once; the engine's own limit holds as well.
    /// Default none; at least 1. Over a shared store it counts the claims of all processes, and is
    /// at most 1,000.
    #[must_use]
    pub fn max_in_flight(mut self, claims: u32) -> Self {
        self.max_in_flight = Some(claims);
        self
    }

    /// What [`ttl`](Self::ttl) set.
    #[must_use]
    pub fn get_ttl(&self) -> Duration {
        self.ttl
    }

    /// What [`tombstone_ttl`](Self::tombstone_ttl) set.
    #[must_use]
    pub fn get_tombstone_ttl(&self) -> Option<Duration> {
        self.tombstone_ttl
    }

    /// What [`recovery`](Self::recovery) set.
    #[must_use]
    pub fn get_recovery(&self) -> Recovery {
        self.recovery
    }

    /// What [`unresolved_ttl`](Self::unresolved_ttl) set; `None` for ever.
    #[must_use]
    pub fn get_unresolved_ttl(&self) -> Option<Duration> {
        self.unresolved_ttl
    }

    /// What [`max_attempts`](Self::max_attempts) set.
    #[must_use]
    pub fn get_max_attempts(&self) -> Option<u32> {
        self.max_attempts
    }

    /// What [`lease`](Self::lease) set.
    #[must_use]
    pub fn get_lease(&self) -> Option<Duration> {
        self.lease
    }

    /// What [`durability`](Self::durability) set.
    #[must_use]
    pub fn get_durability(&self) -> Durability {
        self.durability
    }

    /// What [`max_in_flight`](Self::max_in_flight) set.
    #[must_use]
    pub fn get_max_in_flight(&self) -> Option<u32> {
        self.max_in_flight
    }

    pub(crate) fn check(&self) -> Result<(), OptionError> {
        Retention::new(self.ttl, self.tombstone_ttl)?;
        if let Some(attempts) = self.max_attempts {
            OptionError::unless_within("max_attempts", attempts, 1, u32::MAX - 1)?;
        }
        if let Some(lease) = self.lease {
            OptionError::unless_within("lease", lease, MILLISECOND, LEASE_MAX)?;
        }
        if let Durability::Relaxed(within) = self.durability {
            OptionError::unless_within("durability", within, MILLISECOND, RELAXED_MAX)?;
        }
        if let Some(ttl) = self.unresolved_ttl {
            OptionError::unless_within("unresolved_ttl", ttl, MILLISECOND, RETENTION_MAX)?;
        }
        self.check_recovery()?;
        if let Some(claims) = self.max_in_flight {
            OptionError::unless_within("max_in_flight", claims, 1, u32::MAX)?;
        }
        Ok(())
    }

    /// Whether the parts about interrupted keys agree with each other.
    fn check_recovery(&self) -> Result<(), OptionError> {
        let durability = self.durability;
        match (self.recovery, self.max_attempts) {
            (Recovery::Rerun, None) => Ok(()),
            (Recovery::Refuse, Some(attempts)) => {
                let allowed = "none with Recovery::Refuse, which grants no second attempt; choose Recovery::Rerun by name";
                Err(OptionError::new("max_attempts", attempts, allowed))
            }
            (Recovery::Rerun, Some(_)) | (Recovery::Refuse, None) if durability == Durability::Full => Ok(()),
            (Recovery::Rerun, Some(attempts)) => {
                let allowed = format!(
                    "none with Durability::{durability:?}, because a crash forgets how many attempts there were; \
                     choose Durability::Full"
                );
                Err(OptionError::new("max_attempts", attempts, &allowed))
            }
            (Recovery::Refuse, None) => {
                let allowed = format!(
                    "Rerun with Durability::{durability:?}, because a crash forgets that an operation was started; \
                     choose Recovery::Rerun by name if it may be repeated, or Durability::Full"
                );
                Err(OptionError::new("recovery", self.recovery, &allowed))
            }
        }
    }

    /// How long records are kept. The policy was checked.
    pub(crate) fn retention(&self) -> Retention {
        Retention::checked(self.ttl, self.tombstone_ttl)
    }

    /// How many attempts are granted without a `resolve`.
    pub(crate) fn attempts_max(&self) -> u32 {
        match self.recovery {
            Recovery::Refuse => 1,
            Recovery::Rerun => self.max_attempts.unwrap_or(u32::MAX),
        }
    }

    pub(crate) fn row(&self) -> PolicyRow {
        let (intents, relaxed_ms) = match self.durability {
            Durability::Full => (true, None),
            Durability::Completions => (false, None),
            Durability::Relaxed(within) => (false, Some(millis(within))),
        };
        PolicyRow {
            ttl_ms: millis(self.ttl),
            tombstone_ms: self.tombstone_ttl.map(millis),
            refuse: self.recovery == Recovery::Refuse,
            unresolved_ms: self.unresolved_ttl.map(millis),
            max_attempts: self.max_attempts,
            lease_ms: self.lease.map(millis),
            intents,
            relaxed_ms,
            max_in_flight: self.max_in_flight,
        }
    }

    pub(crate) fn from_row(row: &PolicyRow) -> Result<Self, BadBytes> {
        let policy = Self {
            ttl: Duration::from_millis(row.ttl_ms),
            tombstone_ttl: row.tombstone_ms.map(Duration::from_millis),
            recovery: if row.refuse { Recovery::Refuse } else { Recovery::Rerun },
            unresolved_ttl: row.unresolved_ms.map(Duration::from_millis),
            max_attempts: row.max_attempts,
            lease: row.lease_ms.map(Duration::from_millis),
            durability: match (row.intents, row.relaxed_ms) {
                (true, _) => Durability::Full,
                (false, None) => Durability::Completions,
                (false, Some(within)) => Durability::Relaxed(Duration::from_millis(within)),
            },
            max_in_flight: row.max_in_flight,
        };
        policy.check().map_err(|error| BadBytes(format!("a policy is not possible: {error}")))?;
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rerun() -> Policy {
        Policy::default().recovery(Recovery::Rerun)
    }

    #[test]
    fn a_policy_comes_back_from_its_row() {
        let second = Duration::from_secs(1);
        let policies = [
            Policy::default(),
            Policy::default().unresolved_ttl(second).lease(second).max_in_flight(7),
            rerun().unresolved_forever().max_attempts(3),
            rerun().ttl(second).tombstone_ttl(2 * second).durability(Durability::Completions),
            rerun().durability(Durability::Relaxed(second)),
        ];
        for policy in policies {
            assert_eq!(Policy::from_row(&policy.row()), Ok(policy));
        }
        let impossible = PolicyRow { ttl_ms: 0, ..Policy::default().row() };
        assert!(Policy::from_row(&impossible).is_err());
    }

    #[test]
    fn every_value_out_of_range_is_refused_by_name() {
        let policy = Policy::default;
        let cases = [
            (policy().ttl(Duration::ZERO), "ttl"),
            (policy().ttl(Duration::MAX), "ttl"),
            (policy().tombstone_ttl(Duration::from_secs(1)), "tombstone_ttl"),
            (policy().unresolved_ttl(Duration::ZERO), "unresolved_ttl"),
            (policy().unresolved_ttl(Duration::MAX), "unresolved_ttl"),
            (rerun().max_attempts(0), "max_attempts"),
            (policy().max_attempts(2), "max_attempts"),
            (rerun().max_attempts(2).durability(Durability::Completions), "max_attempts"),
            (policy().durability(Durability::Completions), "recovery"),
            (policy().durability(Durability::Relaxed(MILLISECOND)), "recovery"),
            (policy().lease(Duration::ZERO), "lease"),
            (policy().lease(Duration::MAX), "lease"),
            (rerun().durability(Durability::Relaxed(Duration::ZERO)), "durability"),
            (policy().max_in_flight(0), "max_in_flight"),
        ];
        for (policy, name) in cases {
            assert_eq!(policy.check().unwrap_err().name(), name);
        }
    }

    #[test]
    fn parts_that_contradict_each_other_are_refused_with_the_reason_and_the_way_out() {
        let said = |policy: Policy| policy.check().unwrap_err().to_string();
        assert_eq!(
            said(Policy::default().durability(Durability::Completions)),
            "option `recovery` is Refuse; allowed is Rerun with Durability::Completions, because a crash forgets that an \
             operation was started; choose Recovery::Rerun by name if it may be repeated, or Durability::Full"
        );
        assert_eq!(
            said(rerun().max_attempts(3).durability(Durability::Completions)),
            "option `max_attempts` is 3; allowed is none with Durability::Completions, because a crash forgets how many \
             attempts there were; choose Durability::Full"
        );
        assert_eq!(
            said(Policy::default().max_attempts(3)),
            "option `max_attempts` is 3; allowed is none with Recovery::Refuse, which grants no second attempt; \
             choose Recovery::Rerun by name"
        );
    }

    #[test]
    fn refusing_is_the_default_and_a_limit_of_one_attempt() {
        assert_eq!(Policy::default().recovery, Recovery::default());
        assert_eq!(Policy::default().attempts_max(), 1);
        assert_eq!(rerun().attempts_max(), u32::MAX);
        assert_eq!(rerun().max_attempts(3).attempts_max(), 3);
    }
}
