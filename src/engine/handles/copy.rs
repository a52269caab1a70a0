//! `Engine::copy_to`: the keys of a file in a shared store.

use super::engine::Engine;
use super::handle::Handle;
use crate::SharedOptions;
use crate::engine::file::entries::FileEntries;
use crate::error::{CopyError, Failure, OpenError};
use crate::key::Secret;
use crate::shared::copy::{Copied, Source, Times, copy};
use crate::shared::refusal::{carry, check_caller};
use crate::sync::Arc;
use crate::task::caller::{Caller, block};

impl Engine {
    /// Copies all keys of a file that was opened with
    /// [`Options::read_only`](crate::Options::read_only) into a shared store that was not used
    /// before, all or none.
    ///
    /// Results, tombstones, interruptions with their progress, and policies come along, with
    /// attempts and fences. Step keys stay the same, and fences go on above those of the file. The
    /// lag of the file's clock behind the server's is added to all times, so what is left of a TTL
    /// stays. A policy's durability is not copied: a shared store makes everything durable.
    ///
    /// The file stays as it is, and nothing marks it. **Start no service on it any more**: neither
    /// the file nor the store knows what is done in the other after the copy, and a retry runs it
    /// again. `docs/shared.md` says how a running service moves.
    ///
    /// It blocks, for the time of reading the file and writing as much to the store.
    ///
    /// # Errors
    ///
    /// When the file was opened for changes; when a claim stands that was handed over as a token;
    /// when the tables have been used; when the clocks of this machine and of the server differ by
    /// more than ten seconds; when a key or a policy does not fit a shared store; when the file
    /// can't be read, or the store can't be reached. The tables have no keys then, with one
    /// exception: after [`SharedError::Unknown`](crate::SharedError::Unknown) they may have all
    /// keys. Copy again before any service starts: [`CopyError::AlreadyCopied`] says that they do.
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
        // What is in flight here was handed over as a token: the file is open to look only.
        let keys = core.limits.in_flight();
        if keys > 0 {
            return Err(CopyError::InFlight { keys });
        }
        check_caller(Caller::Thread).map_err(OpenError::from)?;
        let clocks = Arc::clone(file);
        let times = move || {
            let core = clocks.core();
            Times { wall: core.options.time.wall(), file: core.clock.now() }
        };
        let source = Source {
            secret: Secret(core.secret.0),
            next_fence: core.fences.next(),
            times: Box::new(times),
            policies: core.declared_policies(),
            keys: FileEntries::new(file),
        };
        block(carry(Caller::Thread, copy(options, source)))
    }
}
