//! Opening a file, up to the moment when calls can be answered.

use std::path::{Path, PathBuf};

use super::recovery::{Recovered, interrupt_all, recover, scan};
use crate::clock::{EngineClock, Stopwatch};
use crate::codec::Text;
use crate::commit::{Commit, Threads};
use crate::disk::{Kind, ReadOnlyDisk, UNFINISHED};
use crate::engine::common::counters::Counters;
use crate::engine::common::leases::Leases;
use crate::engine::common::limits::Limits;
use crate::engine::core::Core;
use crate::engine::core::closing::Closing;
use crate::engine::core::compaction::Compaction;
use crate::engine::core::current_log::CurrentLog;
use crate::engine::core::detached_claims::DetachedClaims;
use crate::engine::core::fences::Fences;
use crate::engine::core::health::Health;
use crate::engine::core::maintenance::{Maintenance, Unprepared};
use crate::engine::core::modes::Verify;
use crate::engine::core::observer_state::ObserverState;
use crate::engine::core::options::Options;
use crate::engine::core::reads::Reads;
use crate::engine::core::threads::{EngineThreads, Notifiers};
use crate::engine::file::handle::FileHandle;
use crate::error::{Damage, Failure, IoFailure, OpenError};
use crate::key::Secret;
use crate::store::{Found, Meta, Store, StoreError, Tallies};
use crate::sync::Arc;
use crate::task::timers::Timers;
use crate::wal::{Geometry, Identity, Log, LogSpace, Scanned};
use crate::{fork, store, wal};

impl FileHandle {
    /// Opens the file at `path`, or makes it, and starts the engine's threads.
    pub(in crate::engine) fn open(path: &Path, mut options: Options) -> Result<Arc<Self>, OpenError> {
        options.check()?;
        if options.read_only {
            options.disk = Arc::new(ReadOnlyDisk::new(options.disk));
        }
        let watch = Stopwatch::start();
        fork::watch().map_err(|error| IoFailure::new(path, "preparing to open", error))?;
        let core = Arc::new(Core::open(path, options, EngineThreads::notifiers())?);
        // Dropped where a thread can't be started, this closes the file.
        let handle = Arc::new(Self { core });
        // Before the threads, which tell the observer of other things.
        handle.core.tell_of_opening(&watch);
        if handle.core.options.workers {
            Core::start_threads(&handle.core)
                .map_err(|error| IoFailure::new(path, "starting a thread for", error))?;
        }
        Ok(handle)
    }
}

impl Core {
    /// Opens the file at `path`, or makes it.
    fn open(path: &Path, options: Options, notifiers: Notifiers) -> Result<Self, OpenError> {
        let path = &real_name(path, &options)?;
        let store = open_store(path, &options)?;
        let meta = store.meta();
        let secret = Secret(meta.secret);
        let id = Identity { file_id: meta.file_id, checksummer: store.checksummer().clone() };
        let log = find_log(path, &options, &meta, &id)?;
        let Scanned { frames, seq_max: last_seq } = scan(log.as_ref(), &meta, &id)?;
        let replayed = frames.iter().map(|found| (found.offset, found.frame.len())).collect::<Vec<_>>();
        let Recovered { clock, index, policies, publisher, budget } =
            recover(&store, &options, &meta, log.as_ref(), frames)?;
        // Frames behind a gap, which a log without syncs may have, are history from here on.
        publisher.skip_to(last_seq);
        let space = Arc::new(LogSpace::new(geometry_of(&options)));
        let leases = Leases::new(notifiers.timekeeper.clone());
        let detached = DetachedClaims::default();
        let (in_flight, recalled) =
            interrupt_all(&index, &publisher, &policies, &clock, &leases, &detached, &space);

        let fences = Fences::open(meta.fence_next, options.time.wall());
        // The sequence makes it another salt at every opening, from one seed too.
        let purpose = format!("salt {} {}", meta.salt, meta.checkpointed_seq);
        let salt = u64::from_le_bytes(options.entropy.draw(&purpose)?);
        let timers = Arc::new(Timers::new(notifiers.timekeeper.clone()));
        let threads = if options.workers { notifiers.of_commits() } else { Threads::default() };
        let commit = Commit::new(
            Arc::clone(&publisher),
            Arc::clone(&space),
            Arc::clone(&clock),
            Arc::clone(&timers),
            options.limits(),
            threads,
        );
        let health = Health::new(commit.failure_cell());
        let limits = Limits::new(options.limits_max(), in_flight, budget);
        let mut unprepared = Some(Unprepared { path: path.clone(), id, last_seq, is_durable: false });
        let opened_at = clock.now();
        let core = Self {
            options,
            secret,
            file_id: meta.file_id,
            clock,
            index,
            publisher,
            commit,
            space,
            log: CurrentLog::new(log),
            store,
            fences,
            opening: salt,
            opened_at,
            health,
            limits,
            told: ObserverState::after(last_seq - meta.checkpointed_seq, recalled),
            closing: Closing::default(),
            threads: notifiers.threads,
            maintenance: Maintenance::default(),
            worker: notifiers.worker,
            timekeeper: notifiers.timekeeper.clone(),
            timers,
            reads: Reads::new(notifiers.readers, notifiers.timekeeper),
            policies,
            leases,
            detached,
            counters: Counters::after_opening(in_flight),
        };
        core.make_ready(&mut unprepared, &replayed)?;
        let mut maintenance = core.lock_maintenance();
        maintenance.unprepared = unprepared;
        maintenance.compaction = Compaction::after_opening(meta.compacted_live);
        drop(maintenance);
        Ok(core)
    }

    /// The last step of an opening, and the first that changes the files.
    fn make_ready(
        &self,
        unprepared: &mut Option<Unprepared>,
        replayed: &[(u64, usize)],
    ) -> Result<(), OpenError> {
        if self.options.read_only {
            // They stay as they are: nothing is granted, and the log is never prepared.
            self.health.poison(Failure::ReadOnly);
            return Ok(());
        }
        match self.prepare(unprepared) {
            Ok(()) => Ok(()),
            Err(StoreError::Full(failure)) => self.open_on_a_full_disk(replayed, failure),
            Err(error) => Err(error.into_open_error()),
        }
    }

    /// Rewrites and syncs the frames of the log in place, because there is no other space.
    /// Without that, replayed results might not be durable.
    fn open_on_a_full_disk(&self, replayed: &[(u64, usize)], failure: IoFailure) -> Result<(), OpenError> {
        let log = self.log.get();
        log.map_or(Ok(()), |log| log.write_again(replayed))?;
        self.health.disk().found_by_store(failure);
        Ok(())
    }
}

fn open_store(path: &Path, options: &Options) -> Result<Store, OpenError> {
    let disk = &*options.disk;
    let log_path = wal::path_of(path);
    let makes_files = !options.read_only && !options.existing;
    let kind = |path: &Path| disk.kind(path).map_err(|error| IoFailure::new(path, "looking at", error));
    match kind(path)? {
        Kind::Other => return Err(OpenError::NotAFile(path.to_owned())),
        Kind::ReadOnlyFile => return Err(OpenError::ReadOnly(path.to_owned())),
        // Before the store is opened, which changes its first bytes.
        Kind::File => match kind(&log_path)? {
            Kind::Other => return Err(OpenError::NotAFile(log_path)),
            Kind::ReadOnlyFile => return Err(OpenError::ReadOnly(log_path)),
            Kind::Missing if makes_files && store::is_reservation(disk, path)? => {
                Store::create(disk, path, Found::Reservation, &first_meta(options)?)?;
            }
            Kind::File | Kind::Missing => {}
        },
        Kind::Missing if kind(&log_path)? != Kind::Missing => {
            return Err(OpenError::LogWithoutFile(log_path));
        }
        Kind::Missing if !makes_files => {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(OpenError::from_io(path, "opening", missing));
        }
        Kind::Missing => {
            // Where somebody else makes the file at the same time, theirs is as good; it will be
            // locked.
            Store::create(disk, path, Found::Nothing, &first_meta(options)?)?;
        }
    }
    // redb's own cache holds pages. Half of what bodies get is plenty for blocks; but the inner
    // pages of its tables, about a 200th of the file, should have room, or they are read from the
    // file again for every record.
    let cache = |len: u64| {
        let inner = usize::try_from(len / 128).unwrap_or(usize::MAX);
        (options.cache_bytes / 2).max(inner).clamp(1 << 20, 64 << 20)
    };
    let opened = Store::open(disk, path, cache, |len| match options.verify {
        Verify::Always => true,
        Verify::UpTo(bytes) => len <= bytes,
    });
    match opened {
        // A file with a log of ours beside it was ours, however it looks.
        Err(OpenError::NotIdemkv(_)) if Log::is_log(disk, &log_path) => {
            let what = "it does not start as idemkv files do, but the log of one lies beside it";
            Err(Damage::new(path, "its first page", what).into())
        }
        opened => opened,
    }
}

/// Bytes that the name of a file may have, on file systems that are in use.
const FILE_NAME_MAX: usize = 255;

/// The resolved name of the file, the same for any path to it. Its log is beside it.
fn real_name(path: &Path, options: &Options) -> Result<PathBuf, OpenError> {
    if path.as_os_str().is_empty() {
        return Err(OpenError::NoPath);
    }
    let path = options.disk.resolve(path).map_err(|error| OpenError::from_io(path, "looking for", error))?;
    check_name(&path)?;
    Ok(path)
}

/// Checks, before any file is made, that the names of the log and of its temporary file fit too.
pub(super) fn check_name(path: &Path) -> Result<(), OpenError> {
    let max = FILE_NAME_MAX - "-wal".len() - UNFINISHED.len();
    let len = path.file_name().map_or(0, std::ffi::OsStr::len);
    if len > max {
        return Err(OpenError::NameTooLong { path: path.to_owned(), len, max });
    }
    Ok(())
}

fn first_meta(options: &Options) -> Result<Meta, OpenError> {
    let clock = EngineClock::new(options.time.clone());
    let mut meta = Meta {
        file_id: options.entropy.draw("file id")?,
        secret: options.entropy.draw("secret")?,
        checkpointed_seq: 0,
        salt: 0,
        log_empty: true,
        opened_as: Text::default(),
        log_buffered: false,
        log_bytes: 0,
        // Zero stands for "older than every claim".
        fence_next: 1,
        block_next: 0,
        keys: 0,
        tallies: Tallies::default(),
        compacted_live: None,
        high_water_ms: 0,
        wall_max_ms: 0,
        boot_id: None,
        boot_ms: 0,
    };
    meta.set_time(clock.mark());
    Ok(meta)
}

/// The file's log, if there is one and it is intact.
fn find_log(path: &Path, options: &Options, meta: &Meta, id: &Identity) -> Result<Option<Log>, OpenError> {
    let log_path = wal::path_of(path);
    let log = Log::open(&*options.disk, &log_path, id)?;
    let Some(log) = log else {
        if meta.log_empty {
            return Ok(None);
        }
        return Err(OpenError::LogMissing { log: log_path, opened_as: meta.opened_as.0.as_str().into() });
    };
    if meta.opened_as.0.is_empty() {
        // Every opening says so before it makes a log, so this one was left by what a backup takes
        // the place of.
        return Err(OpenError::LogBesideBackup(log_path));
    }
    if meta.log_empty {
        // Nothing in it is needed, whichever opening left it.
        return Ok(Some(log));
    }
    log.check_opening(meta.salt, &meta.opened_as.0)?;
    let bytes = log.bytes()?;
    if bytes < meta.log_bytes {
        let what = format!("{} bytes were there, {bytes} are", meta.log_bytes);
        return Err(Damage::new(log.path(), "its end", what).into());
    }
    Ok(Some(log))
}

fn geometry_of(options: &Options) -> Geometry {
    Geometry { segment: options.log_segment_bytes, frame_max: options.frame_max() }
}
