//! `SharedHandle`: what a connected store says about itself, and how it is closed.

#[cfg(feature = "sim")]
use super::core::Core;
use super::core::SharedHandle;
use super::refusal::{Refusal, carry, check_caller};
#[cfg(feature = "sim")]
use super::sweep;
use crate::Timestamp;
use crate::engine::handles::stats::Stats;
#[cfg(feature = "sim")]
use crate::error::CommitError;
use crate::error::Failure;
#[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
use crate::fork::Origin;
use crate::key::Secret;
use crate::policy::Policy;
#[cfg(feature = "sim")]
use crate::sync::Arc;
use crate::sync::Ordering;
use crate::task::caller::Caller;
#[cfg(feature = "sim")]
use crate::task::caller::block;

/// Statistics of one process that uses a shared store, besides [`Stats`](crate::Stats).
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SharedStats {
    /// Statements sent.
    pub statements: u64,
    /// Of these, groups of calls.
    pub groups: u64,
    /// Calls in those groups.
    pub grouped: u64,
    /// Replays from the memory of this process, without a statement.
    pub replayed_from_memory: u64,
    /// Connections that were lost.
    pub lost_connections: u64,
    /// Rows that the sweep deleted.
    pub swept: u64,
    /// Ends of claims that no caller waits for, and that the store does not have yet.
    pub loose_ends: usize,
    /// Whether a pooler in transaction mode is in between.
    pub is_pooled: bool,
}

impl SharedHandle {
    pub(crate) fn secret(&self) -> &Secret {
        &self.0.secret
    }

    pub(crate) fn max_key_bytes(&self) -> usize {
        self.0.options.max_key_bytes
    }

    pub(crate) fn is_forked(&self) -> bool {
        self.0.is_forked()
    }

    /// The process that opened the engine.
    #[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
    pub(crate) fn origin(&self) -> Origin {
        self.0.origin()
    }

    /// The server's time, as far as it was told.
    pub(crate) fn now(&self) -> Timestamp {
        self.0.now()
    }

    pub(crate) fn default_policy(&self) -> Policy {
        self.0.policies.default
    }

    /// A scope's policy, as this process last read it.
    pub(crate) fn policy_of(&self, scope: &[u8]) -> Policy {
        self.0.policies.of(scope).0
    }

    pub(crate) fn declared_policies(&self) -> Vec<(Box<[u8]>, Policy)> {
        if self.is_forked() { Vec::new() } else { self.0.policies.declared() }
    }

    /// Whether calls are answered.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        self.0.check()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.0.stats()
    }

    pub(crate) fn shared_stats(&self) -> SharedStats {
        let (core, of) = (&*self.0, Ordering::Relaxed);
        SharedStats {
            statements: core.traffic.trips.load(of),
            groups: core.traffic.groups.load(of),
            grouped: core.traffic.grouped.load(of),
            replayed_from_memory: core.cache.replayed(),
            lost_connections: core.traffic.reconnects.load(of),
            swept: core.traffic.swept.load(of),
            loose_ends: core.loose_ends.len(),
            is_pooled: core.is_pooled.load(of),
        }
    }

    /// Renews the session. A renewal that is under way may have read the server's time before.
    #[cfg(feature = "sim")]
    pub(crate) fn renews(&self) -> Box<dyn Fn() + Send> {
        let core = Arc::clone(&self.0);
        Box::new(move || {
            for _ in 0..2 {
                block(carry(Caller::Thread, async { core.session.renewed().await }));
            }
        })
    }

    /// Sweeps some pages now, if the sweep is due and no other process has it.
    #[cfg(feature = "sim")]
    pub(crate) async fn sweep(&self) -> Result<bool, CommitError> {
        sweep::step(&self.0).await.map_err(|miss| Core::refusal(miss).into())
    }

    /// Ends the session, and with it all claims that are still out. How many there were. A thread
    /// that others wait for does not wait for the end of the store's.
    pub(crate) async fn close(&self, caller: Caller) -> Result<usize, Failure> {
        if self.is_forked() {
            return Err(Failure::Forked);
        }
        self.0.close();
        if check_caller(caller).is_ok() {
            carry(caller, self.0.closed()).await;
        }
        // Those whose ends were under way have ended.
        Ok(*self.0.left.get_or_init(|| self.0.held.load(Ordering::Relaxed)))
    }
}

/// In short, and without the address, which may have a password.
impl std::fmt::Debug for SharedHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedEngine").field("schema", &self.0.options.schema).finish_non_exhaustive()
    }
}
