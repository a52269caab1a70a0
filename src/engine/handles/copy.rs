//! `Engine::copy_to`: the keys of a file in a shared store.

use super::engine::Engine;
use super::handle::Handle;
use crate::SharedOptions;
use crate::engine::file::entries::FileEntries;
use crate::error::{CopyError, Failure, OpenError};
use crate::key::Secret;
use crate::shared::copy::{Copied, Source, copy};
use crate::shared::refusal::{carry, check_caller};
use crate::task::caller::{Caller, block};

impl Engine {
    /// Copies all keys of a file that was opened with [`Options::read_only`](crate::Options::read_only)
    /// into a shared store that was not used before, all or none.
    ///
    /// Results, tombstones, interruptions with their progress, and policies come along as they are,
    /// with attempts, fences and times. Step keys stay the same, and fences go on above those of the
    /// file. A policy's durability does not come along: a shared store makes everything durable.
    ///
    /// The file stays as it is. No service may use it any more: a key that is begun there again would
    /// run a second time. `docs/shared.md` says how a running service moves.
    ///
    /// It blocks, for the time of reading the file and writing as much to the store.
    ///
    /// # Errors
    ///
    /// When the file was opened for changes; when a claim stands that was handed over as a token; when
    /// the tables have been used; when the clocks of file and server differ by more than ten seconds;
    /// when a key or a policy does not fit a shared store; when the file can't be read, or the store
    /// not be reached. The tables have no keys then. Only with
    /// [`SharedError::Unknown`](crate::SharedError::Unknown) they may have them all: a second copy
    /// then says that the tables have been used.
    ///
    /// ```no_run
    /// # use idemkv::{Engine, SharedOptions};
    /// let file = Engine::options().read_only().open("charges.idem")?;
    /// let copied = file.copy_to(SharedOptions::new("postgres://service@db.internal/payments"))?;
    /// println!("{} results, {} interrupted keys", copied.results, copied.interrupted);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn copy_to(&self, options: SharedOptions) -> Result<Copied, CopyError> {
        let Handle::File(file) = &self.handle else { return Err(CopyError::NotReadOnly) };
        let core = file.core();
        if !matches!(core.health.failure(), Some(Failure::ReadOnly)) {
            return Err(CopyError::NotReadOnly);
        }
        check_caller(Caller::Thread).map_err(OpenError::from)?;
        let source = Source {
            secret: Secret(core.secret.0),
            next_fence: core.fences.next(),
            now: core.clock.now(),
            policies: core.declared_policies(),
            keys: FileEntries::new(file),
        };
        block(carry(Caller::Thread, copy(options, source)))
    }
}
