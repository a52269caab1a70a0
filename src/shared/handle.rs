//! `Shared`: a connected store.

use super::core::{Core, Handle};
use super::driver;
use super::error::SharedError;
use super::options::SharedOptions;
use super::scope::SharedScope;
use super::sweep;
use crate::sync::{Arc, Ordering};
use crate::task::caller::park_on;

/// A connected store. Cheap to clone. The last of its handles, scopes and claims closes it.
#[derive(Clone)]
pub struct Shared(Arc<Handle>);

/// Statistics of one process.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SharedStats {
    /// Statements sent.
    pub statements: u64,
    /// Of these, groups of calls.
    pub groups: u64,
    /// Calls in those groups.
    pub grouped: u64,
    /// Connections that were lost.
    pub lost_connections: u64,
    /// Rows that the sweep deleted.
    pub swept: u64,
    /// Ends of claims that no caller waits for, and that the store does not have yet.
    pub loose_ends: usize,
    /// Whether a pooler in transaction mode is in between.
    pub is_pooled: bool,
}

impl Shared {
    /// Connects to a store, makes its tables if need be, and starts a session.
    ///
    /// # Errors
    ///
    /// When the server does not answer in time or refuses the role, the tables are missing and
    /// can't be made, or have another version, or an option is out of range.
    pub fn connect(options: SharedOptions) -> Result<Self, SharedError> {
        park_on(Self::connect_async(options))
    }

    /// [`connect`](Self::connect) for tasks, on any executor.
    ///
    /// # Errors
    ///
    /// As for [`connect`](Self::connect).
    pub async fn connect_async(options: SharedOptions) -> Result<Self, SharedError> {
        Ok(Self(Arc::new(Handle(driver::start(options).await?))))
    }

    /// A namespace for keys.
    #[must_use]
    pub fn scope(&self, name: impl AsRef<[u8]>) -> SharedScope {
        SharedScope::new(&self.0, name.as_ref())
    }

    /// Statistics of this process.
    #[must_use]
    pub fn stats(&self) -> SharedStats {
        let counters = &self.core().counters;
        SharedStats {
            statements: counters.trips.load(Ordering::Relaxed),
            groups: counters.groups.load(Ordering::Relaxed),
            grouped: counters.grouped.load(Ordering::Relaxed),
            lost_connections: counters.reconnects.load(Ordering::Relaxed),
            swept: counters.swept.load(Ordering::Relaxed),
            loose_ends: self.core().loose_ends.len(),
            is_pooled: self.core().is_pooled.load(Ordering::Relaxed),
        }
    }

    /// Sweeps some pages now, if the sweep is due and no other process has it.
    ///
    /// # Errors
    ///
    /// When the store does not answer in time.
    pub fn sweep(&self) -> Result<bool, SharedError> {
        park_on(sweep::step(&self.0.0)).map_err(Core::refusal)
    }

    /// Ends the session, and with it all claims that are still out.
    pub fn close(&self) {
        park_on(self.close_async());
    }

    /// [`close`](Self::close) for tasks.
    pub async fn close_async(&self) {
        if self.core().is_forked() {
            return;
        }
        self.core().close();
        self.core().closed().await;
    }

    fn core(&self) -> &Core {
        &self.0.0
    }
}

/// In short, and without the address, which may have a password.
impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("schema", &self.core().options.schema).finish_non_exhaustive()
    }
}
