//! `Options`: the settings of an opening.

use std::time::Duration;

use super::entropy::Entropy;
use super::modes::{CommitMode, Verify};
use crate::clock::TimeSource;
use crate::disk::{Disk, RealDisk};
use crate::observer::{Hooks, Observer};
use crate::policy::{Durability, Policy, Recovery};
use crate::sync::Arc;

/// Options of an engine. Every value is checked when the file is opened.
///
/// ```
/// use idemkv::{Engine, OpenError};
/// use std::time::Duration;
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("charges.idem");
/// let engine = Engine::options()
///     .ttl(Duration::from_secs(7 * 24 * 3600))
///     .cache_bytes(256 << 20)
///     .open(&path)?;
/// engine.close()?;
///
/// let refused = Engine::options().ttl(Duration::ZERO).open(&path);
/// assert!(matches!(refused, Err(OpenError::Option(error)) if error.name() == "ttl"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `open`"]
pub struct Options {
    pub(crate) policy: Policy,
    pub(crate) cache_bytes: usize,
    pub(crate) max_key_bytes: usize,
    pub(crate) max_body_bytes: usize,
    pub(crate) reserve_bytes: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) max_progress_bytes: usize,
    pub(crate) max_waiters: usize,
    pub(crate) hooks: Hooks,
    pub(crate) queue_bytes: usize,
    pub(crate) queue_entries: usize,
    pub(crate) batch_bytes: usize,
    pub(crate) queue_timeout: Duration,
    pub(crate) shards: usize,
    pub(crate) log_segment_bytes: u64,
    pub(crate) log_bytes: u64,
    pub(crate) commit_mode: CommitMode,
    pub(crate) max_clock_jump: Duration,
    pub(crate) verify: Verify,
    pub(crate) time: TimeSource,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) entropy: Entropy,
    pub(crate) workers: bool,
    pub(crate) read_only: bool,
    pub(crate) existing: bool,
}

pub(super) const MIB: usize = 1 << 20;

/// Publishing fewer entries than this takes less time than waking a thread for it.
pub(super) const PUBLISHED_BY_LEADER: usize = 16;

impl Default for Options {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            cache_bytes: 64 * MIB,
            max_key_bytes: 255,
            max_body_bytes: MIB,
            reserve_bytes: 4 << 10,
            max_in_flight: 65_536,
            max_progress_bytes: 64 * MIB,
            max_waiters: 65_536,
            hooks: Hooks::default(),
            queue_bytes: 64 * MIB,
            queue_entries: 65_536,
            batch_bytes: MIB,
            queue_timeout: Duration::from_secs(5),
            shards: 64,
            log_segment_bytes: 8 * MIB as u64,
            log_bytes: 512 * MIB as u64,
            commit_mode: CommitMode::Synced,
            max_clock_jump: Duration::from_secs(3_600),
            verify: Verify::default(),
            time: TimeSource::System,
            disk: Arc::new(RealDisk),
            entropy: Entropy::System,
            workers: true,
            read_only: false,
            existing: false,
        }
    }
}

impl Options {
    /// How long a record is replayed, counted from its completion. Default 24 hours; 1 ms to 100
    /// years.
    ///
    /// The same as setting it in the [`policy`](Self::policy).
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.policy.ttl = ttl;
        self
    }

    /// The policy of all scopes that have none of their own. See [`Policy`] for its parts and
    /// their defaults.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policy = policy;
        self
    }

    /// How long a key is remembered, counted from the completion as [`ttl`](Self::ttl) is.
    /// Default: as long as the record; `ttl` to 100 years.
    ///
    /// A retry that comes after the `ttl` finds nothing to replay. Without this it is granted a
    /// claim, and the operation runs again. With it, a tombstone is kept (about 200 bytes on disk
    /// and 32 in memory), and the retry gets [`BeginError::Expired`](crate::BeginError::Expired).
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// # use idemkv::{Begin, BeginError, Engine, Fingerprint, sim::ManualClock};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("x.idem");
    /// # let clock = ManualClock::at_millis(1_800_000_000_000);
    /// # let day = Duration::from_secs(24 * 3_600);
    /// # let request = Fingerprint::of("request");
    /// let engine = Engine::options().ttl(day).tombstone_ttl(30 * day).clock(&clock).open(&path)?;
    /// let Begin::Fresh(claim) = engine.default_scope().begin("key", request)? else { panic!() };
    /// let completed = claim.complete("reply")?.completed();
    ///
    /// clock.advance(2 * day);
    /// let Err(BeginError::Expired(tombstone)) = engine.default_scope().begin("key", request) else { panic!() };
    /// assert_eq!(tombstone.completed(), completed);
    ///
    /// clock.advance(28 * day);
    /// assert!(matches!(engine.default_scope().begin("key", request)?, Begin::Fresh(_)));
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tombstone_ttl(mut self, ttl: Duration) -> Self {
        self.policy.tombstone_ttl = Some(ttl);
        self
    }

    /// Bytes of memory for records that are also on disk. Default 64 MiB; any number. Records
    /// that no checkpoint has stored yet are in memory too, at most as many as fit the log. The
    /// store's own page cache takes half of this budget, or a 128th of the file's length at the
    /// opening if that is more (1 to 64 MiB). The budget is split evenly over the shards. A
    /// record that is larger than a shard's part is read from disk each time.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// The longest key. Default 255; 1 to 4,096.
    pub fn max_key_bytes(mut self, bytes: usize) -> Self {
        self.max_key_bytes = bytes;
        self
    }

    /// The longest body. Default 1 MiB; 0 to 16 MiB. Above about 2 MiB,
    /// [`log_segment_bytes`](Self::log_segment_bytes) has to be raised with it.
    pub fn max_body_bytes(mut self, bytes: usize) -> Self {
        self.max_body_bytes = bytes;
        self
    }

    /// Bytes of log that a grant reserves for the body of its completion. A completion with a
    /// body up to this succeeds on a full disk too. A longer one may have to wait for log space;
    /// if there is none, it is refused and the error returns the claim. Default 4 KiB; 0 to
    /// `max_body_bytes` (more counts as that).
    pub fn reserve_bytes(mut self, bytes: usize) -> Self {
        self.reserve_bytes = bytes;
        self
    }

    /// The most claims in flight at once. Default 65,536; at least 1.
    pub fn max_in_flight(mut self, claims: usize) -> Self {
        self.max_in_flight = claims;
        self
    }

    /// Bytes of memory for the progress of claims in flight and of interrupted keys. Default 64
    /// MiB; any number.
    pub fn max_progress_bytes(mut self, bytes: usize) -> Self {
        self.max_progress_bytes = bytes;
        self
    }

    /// The most calls that wait for claims of other callers at once. Default 65,536; any number.
    pub fn max_waiters(mut self, waiters: usize) -> Self {
        self.max_waiters = waiters;
        self
    }

    /// The observer of replays and other [events](crate::Event). Default none.
    pub fn observer(mut self, observer: Arc<impl Observer + 'static>) -> Self {
        self.hooks = Hooks::new(observer);
        self
    }

    /// Bytes that may wait for a commit. Default 64 MiB; at least 4,096.
    pub fn queue_bytes(mut self, bytes: usize) -> Self {
        self.queue_bytes = bytes;
        self
    }

    /// Entries that may wait for a commit. Default 65,536; at least 1.
    pub fn queue_entries(mut self, entries: usize) -> Self {
        self.queue_entries = entries;
        self
    }

    /// Bytes in one commit. Default 1 MiB; 4,096 to 16 MiB. An entry longer than this is committed
    /// alone.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.batch_bytes = bytes;
        self
    }

    /// How long a call waits, in total, for a place in the queue and for log space before it
    /// fails with [`Busy`](crate::Busy). Default 5 s; up to an hour.
    pub fn queue_timeout(mut self, queue_timeout: Duration) -> Self {
        self.queue_timeout = queue_timeout;
        self
    }

    /// Shards of the index, each with a lock. Default 64; a power of two up to 65,536.
    pub fn shards(mut self, shards: usize) -> Self {
        self.shards = shards;
        self
    }

    /// Bytes of one segment of the log, which grows and is recycled by segments. Default 8 MiB; 64
    /// KiB to 1 GiB, a multiple of 512, and at least four times the longest commit
    /// (`max_body_bytes` or `batch_bytes`, plus overhead).
    pub fn log_segment_bytes(mut self, bytes: u64) -> Self {
        self.log_segment_bytes = bytes;
        self
    }

    /// The most bytes of the log. They bound the memory of records that are not stored yet, the
    /// number of claims in flight (each reserves [`reserve_bytes`](Self::reserve_bytes)), and the
    /// time of an opening after a crash. Default 512 MiB, enough for `max_in_flight` claims with
    /// the longest names; at least two segments, up to 64 GiB.
    pub fn log_bytes(mut self, bytes: u64) -> Self {
        self.log_bytes = bytes;
        self
    }

    /// What a begin of an interrupted key gets. Default [`Recovery::Refuse`].
    ///
    /// The same as setting it in the [`policy`](Self::policy).
    pub fn recovery(mut self, recovery: Recovery) -> Self {
        self.policy.recovery = recovery;
        self
    }

    /// What is durable when it is acknowledged. Default [`Durability::Full`]; another only with
    /// [`Recovery::Rerun`].
    ///
    /// The same as setting it in the [`policy`](Self::policy).
    pub fn durability(mut self, durability: Durability) -> Self {
        self.policy.durability = durability;
        self
    }

    /// What a commit waits for. Default [`CommitMode::Synced`].
    pub fn commit_mode(mut self, mode: CommitMode) -> Self {
        self.commit_mode = mode;
        self
    }

    /// How far the engine's clock may advance over a reboot of the machine. Default an hour; any
    /// duration.
    ///
    /// Within one boot (Linux) the boot clock measures every stop of the process and every sleep
    /// of the machine exactly. Neither this limit nor the wall clock matters then.
    ///
    /// Over a reboot, and if the boot is not known (other systems, another machine), only the
    /// wall clock can tell how much time has passed, and it can be wrong by decades. The engine's
    /// clock then advances as far as the wall clock has passed its highest earlier time, but by
    /// at most this limit. If the limit cuts the advance, the engine's clock lags behind the wall
    /// clock, and keys live longer by the difference: `Stats::clock_lag_ms`. Raise the limit if
    /// machines stay off for long and their wall clocks are right at boot.
    ///
    /// In a file without records and claims, the engine's clock is set to the wall clock, if that
    /// is later.
    pub fn max_clock_jump(mut self, jump: Duration) -> Self {
        self.max_clock_jump = jump;
        self
    }

    /// When an opening verifies the whole file. Default: if it has no more than 64 MiB.
    pub fn verify(mut self, verify: Verify) -> Self {
        self.verify = verify;
        self
    }

    /// Reads a file that no engine has open, and changes nothing: on a read-only mount, on a full
    /// disk, or in a backup.
    ///
    /// It replays results and shows keys and statistics, also from the log of a killed process. A
    /// begin that would be granted, and every other call that changes something, is refused with
    /// [`Failure::ReadOnly`](crate::Failure::ReadOnly). Several processes can read at once;
    /// meanwhile the file can't be opened for writing. The writes of the store's library at an
    /// opening stay in memory. After a kill, the results shown may not be durable yet: only an
    /// opening for writing makes them so.
    ///
    /// ```
    /// # use idemkv::{Begin, BeginError, Engine, Failure, Fingerprint, Status};
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("x.idem");
    /// # let request = Fingerprint::of("request");
    /// let engine = Engine::open(&path)?;
    /// let Begin::Fresh(claim) = engine.default_scope().begin("key", request)? else { panic!() };
    /// claim.complete("reply")?;
    /// engine.close()?;
    ///
    /// let reader = Engine::options().read_only().open(&path)?;
    /// assert!(matches!(reader.default_scope().get("key")?, Status::Done(record) if record.body() == b"reply"));
    /// let refused = reader.default_scope().begin("new", request);
    /// assert!(matches!(refused, Err(BeginError::Failed(Failure::ReadOnly))));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Opens a file that is there, and makes none. Without this, an opening makes a file where
    /// there is none.
    ///
    /// For a service that has had its file for some time, and for tools. A new file in the place of
    /// one that was moved, or whose mount is missing, knows nothing of what was done.
    ///
    /// ```
    /// # use idemkv::{Engine, OpenError};
    /// # let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("x.idem");
    /// assert!(matches!(Engine::options().existing().open(&path), Err(OpenError::Io(_))));
    /// assert!(!path.exists());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn existing(mut self) -> Self {
        self.existing = true;
        self
    }
}

/// For deterministic tests.
#[cfg(feature = "sim")]
impl Options {
    /// Runs on a manual clock.
    pub fn clock(mut self, clock: &crate::sim::ManualClock) -> Self {
        self.time = TimeSource::Manual(clock.clone());
        self
    }

    /// Runs on a disk in memory.
    pub fn disk(mut self, disk: &crate::sim::SimDisk) -> Self {
        self.disk = Arc::new(disk.clone());
        self
    }

    /// Draws the file's secret and the log's salts from this seed, so that a run writes the same
    /// bytes each time.
    pub fn seed(mut self, seed: u64) -> Self {
        self.entropy = Entropy::Seeded(seed);
        self
    }

    /// Starts no threads: checkpoints and expiry happen in [`Engine::step`](crate::Engine::step),
    /// and when a call needs log space.
    ///
    /// Calls for tasks leave commits and reads to a thread of the engine. In a stepped engine
    /// their futures become ready only when [`Engine::step`](crate::Engine::step), or a blocking
    /// call on another thread, does that work. So don't block on such a future alone: poll it,
    /// step, and poll it again.
    pub fn stepped(mut self) -> Self {
        self.workers = false;
        self
    }
}
