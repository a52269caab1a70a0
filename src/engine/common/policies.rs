//! Per-scope state: the policy of each scope that has its own, and the number of its claims in
//! flight.

use std::collections::HashMap;

use crate::error::{BeginError, Busy};
use crate::fork::Origin;
use crate::policy::Policy;
use crate::sync::{AtomicU64, Mutex, Ordering, RwLock};

/// The most scopes with their own policy.
pub(crate) const SCOPES_MAX: usize = 65_536;

/// A policy as a call found it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SeenPolicy {
    pub(crate) policy: Policy,
    /// The version of all policies at that moment.
    version: u64,
}

#[derive(Debug)]
pub(crate) struct Policies {
    default: Policy,
    /// Leaf lock.
    declared: RwLock<HashMap<Box<[u8]>, Policy>>,
    /// How often `declared` was changed; raised under its lock.
    version: AtomicU64,
    /// Declarations that are not in `declared` yet, by scope. Locked before `declared`.
    declaring: Mutex<HashMap<Box<[u8]>, u32>>,
    /// Claims in flight of scopes that limit them. Leaf lock.
    in_flight: Mutex<HashMap<Box<[u8]>, u32>>,
}

impl Policies {
    pub(crate) fn new(default: Policy) -> Self {
        Self {
            default,
            declared: RwLock::default(),
            version: AtomicU64::new(0),
            declaring: Mutex::default(),
            in_flight: Mutex::default(),
        }
    }

    pub(crate) fn of(&self, scope: &[u8]) -> Policy {
        self.seen(scope).policy
    }

    /// A scope's policy, and when it was in force. A call that has waited asks
    /// [`is_current`](Self::is_current) before it decides.
    pub(crate) fn seen(&self, scope: &[u8]) -> SeenPolicy {
        let declared = self.declared.read();
        let version = self.version.load(Ordering::Relaxed);
        SeenPolicy { policy: declared.get(scope).copied().unwrap_or(self.default), version }
    }

    /// Whether the scope has the same policy now.
    #[inline]
    pub(crate) fn is_current(&self, scope: &[u8], seen: &SeenPolicy) -> bool {
        self.version.load(Ordering::Acquire) == seen.version || self.is_still(scope, &seen.policy)
    }

    /// Some policy has changed: perhaps that of another scope, or to the same value.
    #[cold]
    fn is_still(&self, scope: &[u8], policy: &Policy) -> bool {
        self.of(scope) == *policy
    }

    pub(crate) fn default(&self) -> Policy {
        self.default
    }

    pub(crate) fn set(&self, scope: &[u8], policy: Policy) {
        let mut declaring = self.declaring.lock();
        let mut declared = self.declared.write();
        declared.insert(scope.into(), policy);
        self.version.fetch_add(1, Ordering::Release);
        drop(declared);
        drop_one(&mut declaring, scope);
    }

    /// A place among the scopes with their own policy; `None` if none is left. It counts until
    /// [`set`](Self::set), or until it is dropped.
    pub(crate) fn enter_declared(&self, scope: &[u8]) -> Option<PolicySlot<'_>> {
        let mut declaring = self.declaring.lock();
        let declared = self.declared.read();
        let coming = declaring.keys().filter(|name| !declared.contains_key(*name)).count();
        let is_known = declared.contains_key(scope) || declaring.contains_key(scope);
        if !is_known && declared.len() + coming >= SCOPES_MAX {
            return None;
        }
        *declaring.entry(scope.into()).or_default() += 1;
        Some(PolicySlot { policies: self, scope: Some(scope.into()), origin: Origin::here() })
    }

    pub(crate) fn declared(&self) -> Vec<(Box<[u8]>, Policy)> {
        let mut all: Vec<_> =
            self.declared.read().iter().map(|(name, policy)| (name.clone(), *policy)).collect();
        all.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        all
    }

    /// Counts a claim of the scope and of the engine; `false` if the policy has no limit for the
    /// scope. It takes both places in one step, or neither: a place held by a begin that is then
    /// refused would cause another begin to be refused.
    pub(crate) fn enter(
        &self,
        scope: &[u8],
        policy: &Policy,
        enter_engine: impl FnOnce() -> Result<(), BeginError>,
    ) -> Result<bool, BeginError> {
        let Some(max) = policy.max_in_flight else { return enter_engine().map(|()| false) };
        let mut in_flight = self.in_flight.lock();
        if in_flight.get(scope).is_some_and(|count| *count >= max) {
            return Err(BeginError::Busy(Busy::TooManyClaims { max: max as usize }));
        }
        enter_engine()?;
        *in_flight.entry(scope.into()).or_default() += 1;
        Ok(true)
    }

    /// Counts a claim under another policy than before, where `is_counted` says whether the scope
    /// counts it already; `false` if the new policy has no limit. One that is refused is counted no
    /// more: of two that a lower limit finds in line, the second would be refused for the first.
    pub(crate) fn count_again(
        &self,
        scope: &[u8],
        policy: &Policy,
        is_counted: bool,
    ) -> Result<bool, BeginError> {
        let mut in_flight = self.in_flight.lock();
        let Some(max) = policy.max_in_flight else {
            if is_counted {
                drop_one(&mut in_flight, scope);
            }
            return Ok(false);
        };
        let others = in_flight.get(scope).map_or(0, |count| *count - u32::from(is_counted));
        if others >= max {
            if is_counted {
                drop_one(&mut in_flight, scope);
            }
            return Err(BeginError::Busy(Busy::TooManyClaims { max: max as usize }));
        }
        if !is_counted {
            *in_flight.entry(scope.into()).or_default() += 1;
        }
        Ok(true)
    }

    /// Counts a claim that already stands, even beyond the limit; `false` if the scope has no
    /// limit.
    pub(crate) fn reenter(&self, scope: &[u8]) -> bool {
        let limited = self.of(scope).max_in_flight.is_some();
        if limited {
            *self.in_flight.lock().entry(scope.into()).or_default() += 1;
        }
        limited
    }

    /// Takes back what [`enter`](Self::enter) counted.
    pub(crate) fn leave(&self, scope: &[u8]) {
        drop_one(&mut self.in_flight.lock(), scope);
    }
}

/// Counts one claim less of a scope with a limit.
fn drop_one(counts: &mut HashMap<Box<[u8]>, u32>, scope: &[u8]) {
    let was_last = counts.get_mut(scope).is_some_and(|count| {
        *count -= 1;
        *count == 0
    });
    if was_last {
        counts.remove(scope);
    }
}

/// A declaration that is not in the log yet.
pub(crate) struct PolicySlot<'a> {
    policies: &'a Policies,
    /// `None` once it is kept.
    scope: Option<Box<[u8]>>,
    /// In a forked child the lock may be held for ever.
    origin: Origin,
}

impl PolicySlot<'_> {
    /// The log has the declaration, so the publisher will set it.
    pub(crate) fn keep(mut self) {
        self.scope = None;
    }
}

impl Drop for PolicySlot<'_> {
    fn drop(&mut self) {
        if let Some(scope) = self.scope.as_deref().filter(|_| !self.origin.is_elsewhere()) {
            drop_one(&mut self.policies.declaring.lock(), scope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SetPolicyError;

    #[test]
    fn a_limit_holds_for_its_scope_alone() {
        let policies = Policies::new(Policy::default());
        let limited = Policy::default().max_in_flight(1);
        policies.set(b"a", limited);
        assert_eq!(policies.of(b"a"), limited);
        assert_eq!(policies.of(b"b"), Policy::default());
        let enter = |scope: &[u8], policy: &Policy| policies.enter(scope, policy, || Ok(())).ok();
        assert_eq!(enter(b"a", &limited), Some(true));
        // Refused by its scope, it does not ask the engine.
        assert!(policies.enter(b"a", &limited, || panic!("it takes a place of the engine")).is_err());
        assert_eq!(enter(b"b", &Policy::default()), Some(false));
        policies.leave(b"a");
        // Refused by the engine, it leaves its scope as it was.
        let engine_is_full = || Err(BeginError::Busy(Busy::TooManyClaims { max: 0 }));
        assert!(policies.enter(b"a", &limited, engine_is_full).is_err());
        assert_eq!(enter(b"a", &limited), Some(true));
        assert_eq!(policies.declared(), [(b"a".as_slice().into(), limited)]);
    }

    #[test]
    fn of_two_that_wait_while_the_limit_is_lowered_one_keeps_its_place() {
        let policies = Policies::new(Policy::default());
        let [two, one] = [2, 1].map(|max| Policy::default().max_in_flight(max));
        for _ in 0..2 {
            assert_eq!(policies.enter(b"a", &two, || Ok(())).ok(), Some(true));
        }
        assert!(policies.count_again(b"a", &one, true).is_err());
        assert_eq!(policies.count_again(b"a", &one, true).ok(), Some(true));
        // One that was not counted finds that place taken, and leaves it.
        assert!(policies.count_again(b"a", &one, false).is_err());
        policies.leave(b"a");
        assert!(policies.in_flight.lock().is_empty());
    }

    #[test]
    fn a_declaration_that_a_forked_child_drops_takes_no_lock() {
        let policies = Policies::new(Policy::default());
        for (origin, left) in [(Origin::here(), 0), (Origin::of_another(), 1)] {
            let mut slot = policies.enter_declared(b"a").unwrap();
            slot.origin = origin;
            drop(slot);
            assert_eq!(policies.declaring.lock().len(), left);
        }
    }

    #[cfg(feature = "sim")]
    #[test]
    fn a_file_has_so_many_policies_and_those_it_has_can_still_be_changed() {
        let engine = crate::engine::calls::lookup::tests::open();
        let core = engine.handle.core();
        for n in 1..SCOPES_MAX {
            core.policies.set(n.to_string().as_bytes(), engine.policy());
        }
        let last = core.policies.enter_declared(b"0").unwrap();
        assert!(core.policies.enter_declared(b"one more").is_none(), "the last place is taken");
        assert!(core.policies.enter_declared(b"0").is_some(), "by this one");
        drop(last);
        core.policies.enter_declared(b"0").unwrap().keep();
        core.policies.set(b"0", engine.policy());
        assert!(core.policies.declaring.lock().is_empty());
        // One that is on its way counts.
        assert!(core.policies.enter_declared(b"7").is_some(), "it has a policy");
        let refused = engine.set_policy("one more", engine.policy());
        assert!(matches!(refused, Err(SetPolicyError::TooManyScopes { max: SCOPES_MAX })), "{refused:?}");
        let changed = engine.policy().max_in_flight(7);
        assert_eq!(engine.set_policy("7", changed).unwrap().policy(), changed);
    }
}
