//! Opening a file: recovery, up to the moment when calls can be answered.

use std::path::{Path, PathBuf};
use std::thread;

use super::closing::Closing;
use super::core::{Core, Counters};
use super::detached_claims::{DetachedClaim, DetachedClaims};
use super::disk_full::DiskFull;
use super::fences::Fences;
use super::gate::Gate;
use super::leases::Leases;
use super::maintenance_state::{MaintenanceState, Unprepared};
use super::observer_state::ObserverState;
use super::options::{Options, Verify};
use super::policies::Policies;
use super::publisher::{Op, Publisher};
use super::reads::Reads;
use super::threads::Notifiers;

use crate::Timestamp;
use crate::attempt::progress::{Budget, Progress};
use crate::attempt::{Attempt, AttemptParts, HandOver};
use crate::clock::{EngineClock, Past};
use crate::codec::{BadBytes, Entry, Text};
use crate::commit::{Commit, Publish, Threads};
use crate::disk::{Kind, UNFINISHED};
use crate::error::{Damage, Failure, IoFailure, OpenError};
use crate::index::{Change, Index, LoadPartition, Slot};
use crate::key::{Digest, Secret};
use crate::policy::Policy;
use crate::record::Record;
use crate::state::Fence;
use crate::store::{self, Found, Meta, Store, StoreError, Stored};
use crate::sync::{Arc, AtomicU64, AtomicUsize, Mutex, OnceLock};
use crate::task::timers::Timers;
use crate::wal::{self, Geometry, Identity, Log, LogSpace, Scanned};

impl Core {
    /// Opens the file at `path`, or makes it.
    pub(super) fn open(path: &Path, options: Options, notifiers: Notifiers) -> Result<Self, OpenError> {
        let path = &real_name(path, &options)?;
        let store = open_store(path, &options)?;
        let meta = store.meta();
        let secret = Secret(meta.secret);
        let id = Identity { file_id: meta.file_id, checksummer: store.checksummer().clone() };
        let log = find_log(path, &options, &meta, &id)?;
        if let Some(log) = &log {
            wal::check_not_newer(log, &id.checksummer, meta.salt, meta.checkpointed_seq)?;
        }
        let scanned = match &log {
            Some(log) if !meta.log_empty => {
                wal::scan(log, &id.checksummer, meta.salt, meta.checkpointed_seq, meta.log_buffered)?
            }
            Some(_) | None => Scanned { frames: Vec::new(), seq_max: meta.checkpointed_seq },
        };
        let Scanned { frames, seq_max: last_seq } = scanned;

        let past = Past {
            mark: meta.time(),
            frame: frames.last().map(|found| found.frame.time),
            is_empty: meta.keys == 0 && meta.claims == 0 && frames.is_empty(),
        };
        let clock = Arc::new(EngineClock::resume(options.time.clone(), &past, options.max_clock_jump));
        // Cells count whole seconds from here: what had expired by then is not loaded.
        let mut index = Index::new(options.shards, options.cache_bytes, clock.now());
        let policies = Arc::new(Policies::new(options.policy));
        let budget = Arc::default();
        load(&store, &mut index, &policies, &clock, &budget, options.workers)?;
        let index = Arc::new(index);
        let publisher = Arc::new(Publisher::new(
            Arc::clone(&index),
            Arc::clone(&clock),
            Arc::clone(&policies),
            meta.checkpointed_seq,
        ));
        let replayed = frames.iter().map(|found| (found.offset, found.frame.len())).collect::<Vec<_>>();
        if let Some(log) = &log {
            replay(log, frames, &publisher, &budget)?;
        }
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
        let mut unprepared = Some(Unprepared { path: path.clone(), id, last_seq });
        let core = Self {
            options,
            secret,
            file_id: meta.file_id,
            clock,
            index,
            publisher,
            commit,
            space,
            log: Mutex::new(log.map(Arc::new)),
            store,
            fences,
            opening: salt,
            in_flight: AtomicUsize::new(in_flight),
            waiters: AtomicUsize::new(0),
            recalled: Mutex::new(recalled),
            told: ObserverState::after(last_seq - meta.checkpointed_seq),
            gate: Gate::open(),
            closing: Closing::default(),
            threads: notifiers.threads,
            poisoned: OnceLock::new(),
            look_at_ms: AtomicU64::new(0),
            full: DiskFull::default(),
            maintenance: Mutex::new(MaintenanceState::default()),
            growing: Mutex::default(),
            worker: notifiers.worker,
            timekeeper: notifiers.timekeeper,
            timers,
            reads: Reads::new(notifiers.reader),
            policies,
            leases,
            detached,
            progress_bytes: budget,
            counters: Counters::after_opening(in_flight),
        };
        core.make_ready(&mut unprepared, &replayed)?;
        core.maintenance.lock().unprepared = unprepared;
        Ok(core)
    }

    /// The last step of an opening: from here on the files are changed.
    fn make_ready(
        &self,
        unprepared: &mut Option<Unprepared>,
        replayed: &[(u64, usize)],
    ) -> Result<(), OpenError> {
        if self.options.read_only {
            // They stay as they are: nothing is granted, and the log is never prepared.
            drop(self.poisoned.set(Failure::ReadOnly));
            return Ok(());
        }
        match self.prepare(unprepared) {
            Ok(()) => Ok(()),
            Err(StoreError::Full(failure)) => self.open_on_a_full_disk(replayed, failure),
            Err(error) => Err(error.into_open_error()),
        }
    }

    /// Makes what was read from the log durable where it is, for nothing else has space: what is replayed to callers must not be known
    /// to the operating system alone.
    fn open_on_a_full_disk(&self, replayed: &[(u64, usize)], failure: IoFailure) -> Result<(), OpenError> {
        let log = self.log.lock().clone();
        log.map_or(Ok(()), |log| log.write_again(replayed))?;
        self.full.found_by_store(failure);
        Ok(())
    }
}

fn open_store(path: &Path, options: &Options) -> Result<Store, OpenError> {
    let disk = &*options.disk;
    let log_path = wal::path_of(path);
    let kind = |path: &Path| disk.kind(path).map_err(|error| IoFailure::new(path, "looking at", error));
    match kind(path)? {
        Kind::Other => return Err(OpenError::NotAFile(path.to_owned())),
        Kind::ReadOnlyFile => return Err(OpenError::ReadOnly(path.to_owned())),
        // Before the store is opened, which changes its first bytes.
        Kind::File => match kind(&log_path)? {
            Kind::Other => return Err(OpenError::NotAFile(log_path)),
            Kind::ReadOnlyFile => return Err(OpenError::ReadOnly(log_path)),
            Kind::Missing if !options.read_only && store::is_reservation(disk, path)? => {
                Store::create(disk, path, Found::Reservation, &first_meta(options)?)?;
            }
            Kind::File | Kind::Missing => {}
        },
        Kind::Missing if options.read_only => {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(OpenError::from_io(path, "opening", missing));
        }
        Kind::Missing => {
            if kind(&log_path)? != Kind::Missing {
                return Err(OpenError::LogWithoutFile(log_path));
            }
            // Where somebody else makes the file at the same time, theirs is as good; it will be locked.
            Store::create(disk, path, Found::Nothing, &first_meta(options)?)?;
        }
    }
    // redb's own cache holds pages. Half of what bodies get is plenty for blocks; but the inner pages of its tables, about a 200th of the
    // file, should have room, or they are read from the file again for every record.
    let cache = |len: u64| {
        let inner = usize::try_from(len / 128).unwrap_or(usize::MAX);
        (options.cache_bytes / 2).max(inner).clamp(1 << 20, 64 << 20)
    };
    let opened = Store::open(disk, path, cache, |len| match options.verify {
        Verify::Always => true,
        Verify::UpTo(bytes) => len <= bytes,
    });
    match opened {
        // What a log of ours lies beside was ours, whatever it looks like.
        Err(OpenError::NotIdemkv(_)) if Log::is_log(disk, &log_path) => {
            let what = "it does not start as idemkv files do, but the log of one lies beside it";
            Err(Damage::new(path, "its first page", what).into())
        }
        opened => opened,
    }
}

/// Bytes that the name of a file may have, on file systems that are in use.
const FILE_NAME_MAX: usize = 255;

/// By whatever name the file is opened, this is the one it goes by, and its log is beside it.
fn real_name(path: &Path, options: &Options) -> Result<PathBuf, OpenError> {
    if path.as_os_str().is_empty() {
        return Err(OpenError::NoPath);
    }
    let path = options.disk.resolve(path).map_err(|error| OpenError::from_io(path, "looking for", error))?;
    check_name(&path)?;
    Ok(path)
}

/// Checks that the names of the log, and of a log that is being made, fit as well. Before anything is made.
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
        blocks: 0,
        keys: 0,
        claims: 0,
        high_water_ms: 0,
        wall_max_ms: 0,
        boot_id: None,
        boot_ms: 0,
    };
    meta.set_time(clock.mark());
    Ok(meta)
}

/// The log that belongs to the file, if there is one and if it is whole.
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
        // Every opening says so before it makes a log, so this one was left by what a backup takes the place of.
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

/// Fewer keys than that are loaded by the thread that opens: others are not worth their start.
const KEYS_FOR_THREADS: usize = 100_000;
/// Threads that load, at most: each reads every row of what there is, and fills its part of the index.
const THREADS_MAX: usize = 8;

/// Fills the index from the store.
fn load(
    store: &Store,
    index: &mut Index,
    policies: &Policies,
    clock: &EngineClock,
    budget: &Arc<Budget>,
    may_use_threads: bool,
) -> Result<(), OpenError> {
    let (now, keys) = (clock.now(), store.keys_hint());
    let threads = if may_use_threads && keys >= KEYS_FOR_THREADS {
        thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX)
    } else {
        1
    };
    let mut open = Vec::new();
    let takers = index.parts(threads).into_iter().map(|part| filler(part, keys, now)).collect();
    store.load(
        takers,
        |row| open.push(Arc::new(Attempt::from_row(row, budget))),
        |scope, policy| policies.set(scope, policy),
    )?;
    for attempt in open {
        let digest = attempt.digest;
        let slot = match attempt.interrupted() {
            Some(_) => Slot::Interrupted(attempt),
            // Whether it still is, the log may know.
            None => Slot::InFlight(attempt),
        };
        index.change(digest, |_| (Change::Set(slot), ()));
    }
    Ok(())
}

/// Fills one part of the index with what is not over.
fn filler(mut part: LoadPartition<'_>, keys: usize, now: Timestamp) -> impl FnMut(&[Stored]) + Send {
    let mut is_reserved = false;
    move |records| {
        // In the thread that fills it: most of this is the first touch of memory.
        if !std::mem::replace(&mut is_reserved, true) {
            part.reserve(keys);
        }
        let live = records.iter().filter(|record| record.until > now);
        part.load(live.map(|record| (record.digest, record.until, record.place)));
    }
}

/// Publishes every frame that the store does not know, as their leaders did.
fn replay(
    log: &Log,
    frames: Vec<wal::Found>,
    publisher: &Publisher,
    budget: &Arc<Budget>,
) -> Result<(), OpenError> {
    for found in frames {
        let mut ops = Vec::new();
        let decoded = found.frame.for_each(|entry| {
            ops.push(op_of(entry, budget)?);
            Ok::<(), BadBytes>(())
        });
        decoded.map_err(|bad| Damage::new(log.path(), format!("offset {}", found.offset), bad.0))?;
        publisher.publish(found.frame.seq, &mut ops);
    }
    Ok(())
}

fn op_of(entry: Entry<'_>, budget: &Arc<Budget>) -> Result<Op, BadBytes> {
    Ok(match entry {
        Entry::Intent(row) => {
            crate::codec::check_names(row.scope, row.key)?;
            let attempt = Arc::new(Attempt::from_row(&row, budget));
            match row.interrupted_ms.filter(|_| row.returned) {
                Some(at) => Op::Returned(attempt, Timestamp::from_millis(at)),
                None => Op::Granted(attempt),
            }
        }
        Entry::Completion(digest, row) => {
            let record = Record::new(&row.parts(Digest::from_u128(digest))?, None);
            let parts = AttemptParts::bare(record.digest(), record.fence());
            Op::Completed(Arc::new(Attempt::new(parts)), record)
        }
        Entry::Vacated(row) => {
            let parts = AttemptParts::bare(Digest::from_u128(row.digest), Fence::new(row.fence));
            Op::Vacated(Arc::new(Attempt::new(parts)), row.forgotten_until_ms.map(Timestamp::from_millis))
        }
        Entry::Mark => Op::Mark,
        Entry::Progress(row) => {
            let progress = Progress::new(row.bytes, budget);
            Op::Progress(Digest::from_u128(row.digest), Fence::new(row.fence), progress)
        }
        Entry::Detached(row) => {
            let hand_over = HandOver::from_row((row.until_ms, row.opening));
            Op::Detached(Digest::from_u128(row.digest), Fence::new(row.fence), hand_over)
        }
        Entry::PolicySet(row) => Op::PolicySet(Box::new((row.name.into(), Policy::from_row(&row.policy)?))),
    })
}

/// Whoever held a claim is dead, for this process has the file's lock; but not the holder of a token. Gives the number of
/// claims that stand, and those that don't.
fn interrupt_all(
    index: &Index,
    publisher: &Publisher,
    policies: &Policies,
    clock: &EngineClock,
    leases: &Leases,
    detached: &DetachedClaims,
    space: &Arc<LogSpace>,
) -> (usize, Vec<Arc<Attempt>>) {
    let now = clock.now();
    let (mut standing, mut recalled) = (0, Vec::new());
    for attempt in index.attempts_out() {
        if attempt.detached_until().is_some_and(|until| until > now) {
            leases.watch(&attempt);
            detached.put(attempt.fence, DetachedClaim::of_standing(&attempt, policies, space));
            standing += 1;
        } else {
            publisher.recall(Arc::clone(&attempt), now);
            recalled.push(attempt);
        }
    }
    (standing, recalled)
}
