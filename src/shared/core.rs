//! `Core`: the parts of a connected store that callers and the store's thread share.

use std::pin::Pin;
use std::rc::Rc;

use tokio::sync::Notify;

use super::awaited::Awaited;
use super::blocked::Blocked;
use super::cache::Cache;
use super::columns::{Params, signed};
use super::confirm::sure_look;
use super::connection::{Link, LinkOptions, Settings, first};
use super::intake::{Errand, Intake, Queued};
use super::interrupted_count::Count;
use super::jobs::{self, Job};
use super::loose_ends::LooseEnds;
use super::options::SharedOptions;
use super::policies::Policies;
use super::refusal::Refusal;
use super::row::{Columns, damaged};
use super::schema::Found;
use super::session::{Session, SessionState};
use super::sql::{Sql, VACATED_MS};
use super::statement::{Ask, Miss, Statement};
use super::statements::look::{LookAsk, Looked};
use super::tx_sql::TxSql;
use super::watches::{Outbox, Watches};
use crate::Timestamp;
use crate::attempt::progress::Budget;
use crate::clock::{Deadline, Stopwatch, millis};
use crate::engine::common::counters::Counters;
use crate::error::{FailureKind, SharedError, StoreFailure};
use crate::fork::Origin;
use crate::key::{Digest, Secret};
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, OnceLock, Ordering, UnseenU64};
use crate::task::reply::{self, Reply, ReplySender};

/// What goes to the server.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) trips: Arc<UnseenU64>,
    pub(super) groups: UnseenU64,
    pub(super) grouped: UnseenU64,
    pub(super) reconnects: UnseenU64,
    pub(super) swept: UnseenU64,
}

/// Answers of begins that `Counters` does not count.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) replayed: UnseenU64,
    pub(super) waited: UnseenU64,
}

/// Engines that this process opened on stores.
static OPENINGS: AtomicU64 = AtomicU64::new(1);

pub(crate) struct Core {
    pub(super) options: SharedOptions,
    pub(super) link: LinkOptions,
    pub(super) sql: Sql,
    pub(super) tx_sql: TxSql,
    pub(super) secret: Secret,
    /// Tells this store from others.
    pub(super) store: u128,
    /// Tells the sessions of this process from those of others with its instance name.
    pub(super) nonce: u128,
    pub(super) intake: Intake,
    pub(super) session: Session,
    /// Whether the caller that connects still waits.
    pub(super) connecting: Awaited,
    pub(super) policies: Arc<Policies>,
    pub(super) watches: Watches,
    pub(super) outbox: Outbox,
    pub(super) loose_ends: LooseEnds,
    pub(super) blocked: Blocked,
    pub(super) cache: Cache,
    pub(super) budget: Arc<Budget>,
    pub(super) traffic: Traffic,
    pub(super) counters: Counters,
    pub(super) answers: Answers,
    /// Of all processes.
    pub(super) interrupted: Count,
    /// Tells it from other engines of this process.
    pub(super) opening: u64,
    pub(super) opened: Stopwatch,
    /// Claims that callers have.
    pub(super) held: AtomicUsize,
    /// Calls that wait for claims of others.
    pub(super) waiting: AtomicUsize,
    /// Begins and ends of claims that are under way, which a close waits for.
    pub(super) ending: AtomicUsize,
    /// How many claims there were at the close.
    pub(super) left: OnceLock<usize>,
    /// The server's time when it was last told, and how long ago that was. Leaf lock.
    clock: Mutex<Option<(Timestamp, Stopwatch)>>,
    /// A pooler in transaction mode is in between.
    pub(super) is_pooled: AtomicBool,
    /// The connection that hears notifications is there.
    pub(super) is_listening: AtomicBool,
    origin: Origin,
    /// Leaf lock.
    last_failure: Mutex<Option<StoreFailure>>,
    /// `None` once the store's thread has ended. Leaf lock.
    jobs: Mutex<Option<Vec<Job>>>,
    pub(super) has_jobs: Notify,
    is_closing: AtomicBool,
    pub(super) closing: Notify,
    /// Callers that wait for the end of the store's thread; `None` once it has ended. Leaf lock.
    closers: Mutex<Option<Vec<ReplySender<()>>>>,
}

impl Core {
    pub(super) fn new(
        options: SharedOptions,
        link: LinkOptions,
        sql: Sql,
        (found, nonce): (Found, u128),
        connecting: Awaited,
    ) -> Self {
        Self {
            intake: Intake::new(options.group_max, options.max_queued),
            session: Session::default(),
            connecting,
            policies: Arc::new(Policies::new(options.policy)),
            watches: Watches::default(),
            outbox: Outbox::default(),
            loose_ends: LooseEnds::default(),
            blocked: Blocked::default(),
            cache: Cache::new(options.cache_bytes, options.session),
            budget: Arc::default(),
            traffic: Traffic { trips: Arc::clone(&link.trips), ..Traffic::default() },
            counters: Counters::default(),
            answers: Answers::default(),
            interrupted: Count::default(),
            opening: OPENINGS.fetch_add(1, Ordering::Relaxed),
            opened: Stopwatch::start(),
            held: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            ending: AtomicUsize::new(0),
            left: OnceLock::new(),
            clock: Mutex::new(None),
            is_pooled: AtomicBool::new(link.is_pooled()),
            is_listening: AtomicBool::new(false),
            origin: Origin::here(),
            last_failure: Mutex::new(None),
            jobs: Mutex::new(Some(Vec::new())),
            has_jobs: Notify::new(),
            is_closing: AtomicBool::new(false),
            closing: Notify::new(),
            closers: Mutex::new(Some(Vec::new())),
            options,
            link,
            tx_sql: TxSql::new(&sql),
            sql,
            secret: found.secret,
            store: found.id,
            nonce,
        }
    }

    /// Whether a session has the statements that were prepared on it when they are next sent.
    #[cfg(any(feature = "sqlx-0_8", feature = "sqlx-0_9"))]
    pub(super) fn keeps_statements(&self) -> bool {
        !self.is_pooled.load(Ordering::Relaxed)
    }

    pub(super) fn link_options(&self) -> LinkOptions {
        let link = self.link.clone();
        if self.is_pooled.load(Ordering::Relaxed) {
            LinkOptions { settings: Settings::None, ..link }
        } else {
            link
        }
    }

    /// Refuses calls in a forked child, where nothing would answer, and after the close.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.is_forked() {
            return Err(Refusal::Forked);
        }
        if self.is_closing.load(Ordering::Acquire) { Err(Refusal::Closed) } else { Ok(()) }
    }

    /// The process that opened the engine.
    #[cfg(any(feature = "http", feature = "queue", feature = "serde"))]
    pub(super) fn origin(&self) -> Origin {
        self.origin
    }

    pub(super) fn is_forked(&self) -> bool {
        self.origin.is_elsewhere()
    }

    /// The deadline of a call that starts now.
    pub(super) fn deadline(&self) -> Deadline {
        Deadline::after(self.options.call_timeout)
    }

    /// The same for an end of a claim for which there is no later call.
    pub(super) fn last_deadline(&self) -> Deadline {
        Deadline::after(self.options.call_timeout * 3)
    }

    /// Until when a statement of a call that ends now can still run: one that waits, or that was
    /// cut off.
    pub(super) fn last_statement(&self) -> Deadline {
        Deadline::after(self.options.call_timeout + self.options.statement_timeout * 2)
    }

    /// How long the row of a vacated key stays, so that a call that may have vacated it finds out.
    pub(super) fn vacated_ms(&self) -> i64 {
        let longest = self.options.call_timeout * 3 + self.options.statement_timeout * 2;
        VACATED_MS.max(signed(millis(longest)))
    }

    /// Sends a call to the store.
    pub(super) fn send<S: Queued>(
        &self,
        what: S,
        deadline: Deadline,
    ) -> Result<Reply<Result<S::Answer, Miss>>, Miss> {
        let (reply, answer) = reply::pair();
        self.intake.push(Ask { what, deadline, reply })?;
        Ok(answer)
    }

    /// Sends a call to the store, and waits for the answer.
    pub(super) async fn ask<S: Queued>(&self, what: S, deadline: Deadline) -> Result<S::Answer, Miss> {
        self.send(what, deadline)?.get().await.unwrap_or(Err(Miss::Closed))
    }

    /// Does something with a connection by itself.
    pub(super) async fn errand<T, F, W>(&self, deadline: Deadline, work: W) -> Result<T, Miss>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, Miss>> + 'static,
        W: FnOnce(Rc<Link>) -> F + Send + 'static,
    {
        let (reply, answer) = reply::pair();
        let has_started = Arc::new(AtomicBool::new(false));
        let starts = Arc::clone(&has_started);
        let run = Box::new(move |link: Rc<Link>| {
            starts.store(true, Ordering::Release);
            let working = work(link);
            Box::pin(async move { reply.send(working.await) }) as Pin<Box<dyn Future<Output = ()>>>
        });
        self.intake.push_errand(Errand { deadline, run })?;
        answer.get().await.unwrap_or_else(|| {
            // Taken from the queue, it may have been carried out: by a thread that ended meanwhile.
            let has_run = has_started.load(Ordering::Acquire);
            Err(if has_run { Miss::Unknown(self.failure()) } else { Miss::NotDone(self.failure()) })
        })
    }

    /// Looks at a key. After an unknown outcome the look has to be a sure one.
    pub(super) async fn look(
        &self,
        digest: Digest,
        is_sure: bool,
        deadline: Deadline,
    ) -> Result<Looked, Miss> {
        if is_sure {
            return self.sure_look(digest, deadline).await;
        }
        self.ask(LookAsk { digest }, deadline).await
    }

    /// Looks at a key after an unknown outcome: its row may be visible although no standby has it.
    /// So the look is a commit as well, which waits for the standbys. A commit by itself could reach
    /// the next primary after a failover, and say nothing of what the one before has shown.
    pub(super) async fn sure_look(&self, digest: Digest, deadline: Deadline) -> Result<Looked, Miss> {
        let sql = self.sql.filled(&sure_look());
        let looked = self.errand(deadline, async move |link: Rc<Link>| {
            let params = Params::default().ids(std::iter::once(digest.as_u128()));
            link.once(&sql, &params).await
        });
        let rows = looked.await.map_err(Miss::of_a_read)?;
        let mut columns =
            Columns::new(rows.first().ok_or_else(|| Miss::Unread(damaged("a look has no row")))?);
        columns.skip();
        LookAsk::answer(&mut columns).map_err(Miss::Unread)
    }

    /// Runs a job on the store's thread.
    pub(super) fn spawn(&self, job: Job) {
        if let Some(jobs) = self.jobs.lock().as_mut() {
            jobs.push(job);
        }
        self.has_jobs.notify_one();
    }

    pub(super) fn take_jobs(&self) -> Vec<Job> {
        self.jobs.lock().as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Sleeps until the deadline, on any executor.
    pub(super) async fn sleep(&self, deadline: Deadline) {
        let (job, sleeping) = jobs::sleep(deadline);
        self.spawn(job);
        sleeping.await;
    }

    /// The server has told its time.
    pub(super) fn tell_time(&self, now: Timestamp) {
        *self.clock.lock() = Some((now, Stopwatch::start()));
    }

    /// The server's time, as far as it was told.
    pub(super) fn now(&self) -> Timestamp {
        let clock = self.clock.lock();
        clock.as_ref().map_or_else(Timestamp::default, |(now, since)| now.saturating_add(since.elapsed()))
    }

    pub(super) fn note_failure(&self, failure: &StoreFailure) {
        *self.last_failure.lock() = Some(failure.clone());
    }

    /// Why the store does not answer, as far as is known.
    pub(super) fn failure(&self) -> StoreFailure {
        let last = self.last_failure.lock().clone();
        last.unwrap_or_else(|| {
            StoreFailure::new(FailureKind::TimedOut, "no connection was free within the call's time")
        })
    }

    pub(super) fn failed_to_connect(&self, failure: StoreFailure) {
        // One has come in between since this process connected.
        if self.link.settings == Settings::AtStart && failure.is_of_a_pooler() {
            self.is_pooled.store(true, Ordering::Relaxed);
        }
        *self.last_failure.lock() = Some(failure);
    }

    pub(super) fn is_connected(&self, listens: bool) {
        *self.last_failure.lock() = None;
        if listens {
            self.is_listening.store(!self.is_pooled.load(Ordering::Relaxed), Ordering::Relaxed);
            // What was told meanwhile was not heard.
            self.watches.all_due();
        }
    }

    pub(super) fn is_disconnected(&self, listens: bool) {
        self.traffic.reconnects.fetch_add(1, Ordering::Relaxed);
        if listens {
            self.is_listening.store(false, Ordering::Relaxed);
        }
    }

    pub(super) fn close(&self) {
        if !self.is_forked() && !self.is_closing.swap(true, Ordering::AcqRel) {
            self.closing.notify_one();
        }
    }

    /// Waits until the store's thread has ended.
    pub(super) async fn closed(&self) {
        let (reply, closed) = reply::pair();
        match self.closers.lock().as_mut() {
            Some(closers) => closers.push(reply),
            None => return,
        }
        closed.get().await;
    }

    /// Answers all that wait for something: the store's thread ends, and answers nothing more.
    pub(super) fn has_closed(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.intake.close();
        self.session.close();
        self.watches.close();
        self.cache.lose_all();
        let jobs = self.jobs.lock().take();
        drop(jobs);
        let closers = self.closers.lock().take();
        drop(closers);
    }

    /// The session of this process, once it is known to live.
    pub(super) async fn session(&self, deadline: Deadline) -> Result<i64, Refusal> {
        loop {
            match self.session.state() {
                SessionState::Live { id, until } if !until.has_passed() => return Ok(id),
                SessionState::Replaced => return Err(SharedError::Replaced.into()),
                SessionState::OtherStore => return Err(SharedError::OtherStore.into()),
                SessionState::Live { .. } | SessionState::None => {}
            }
            self.check()?;
            if deadline.has_passed() {
                return Err(SharedError::NoSession(self.options.call_timeout).into());
            }
            self.renewed(deadline).await;
        }
    }

    /// Has the session renewed now: returns after the next try, or at the deadline.
    pub(super) async fn renewed(&self, deadline: Deadline) {
        first(self.session.renewed(), self.sleep(deadline)).await;
    }

    /// What a caller is told of a miss.
    pub(super) fn refusal(miss: Miss) -> Refusal {
        match miss {
            Miss::NotDone(failure) | Miss::Unread(failure) => Refusal::unavailable(failure),
            Miss::Unknown(failure) => SharedError::Unknown(failure).into(),
            Miss::Busy(max) => SharedError::Busy { max }.into(),
            Miss::Closed => Refusal::Closed,
        }
    }
}

/// What callers hold. The last one closes the store.
pub(crate) struct SharedHandle(pub(super) Arc<Core>);

impl Drop for SharedHandle {
    fn drop(&mut self) {
        self.0.close();
    }
}
