//! The store's thread: it runs the client and everything that the store does by itself.

use std::time::Duration;

use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::timeout;

use super::awaited::{self, Awaited};
use super::connection::{Link, LinkOptions, Settings, race};
use super::core::{Core, SharedHandle};
use super::granting::nonce;
use super::options::{Pooling, SharedOptions};
use super::refusal::Refusal;
use super::{count_interrupted, keeper, schema, settle, sweep, wait, worker};
use crate::clock::{Deadline, Stopwatch};
use crate::error::{FailureKind, OpenError, SharedError, StoreFailure};
use crate::fork;
use crate::sync::{self, Arc, Ordering};
use crate::task::reply::{self, ReplySender};

/// Connects, and starts the thread.
pub(crate) async fn start(options: SharedOptions) -> Result<Arc<SharedHandle>, OpenError> {
    options.check()?;
    let failed = |message: String| unavailable(StoreFailure::new(FailureKind::Options, message));
    fork::watch().map_err(|error| failed(format!("forks can't be watched: {error}")))?;
    let (ready, started) = reply::pair();
    let (_waits, awaited) = awaited::pair();
    let thread = sync::spawn("idemkv-shared", move || run(options, ready, awaited));
    // It ends by itself once the store is closed, or nobody waits for it any more.
    drop(thread.map_err(|error| failed(format!("no thread could be started: {error}")))?);
    started.get().await.unwrap_or(Err(Refusal::Closed.into()))
}

fn unavailable(failure: StoreFailure) -> OpenError {
    Refusal::unavailable(failure).into()
}

/// An answer that nobody takes is dropped, and its drop closes the store.
type Ready = ReplySender<Result<Arc<SharedHandle>, OpenError>>;

fn run(options: SharedOptions, ready: Ready, awaited: Awaited) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let message = format!("the runtime could not be started: {error}");
            let failure = StoreFailure::new(FailureKind::Options, message);
            return ready.send(Err(unavailable(failure)));
        }
    };
    let tasks = LocalSet::new();
    tasks.block_on(&runtime, live(options, ready, awaited));
}

async fn live(options: SharedOptions, ready: Ready, awaited: Awaited) {
    let core = match race(awaited.left(), prepared(options, &awaited)).await {
        Ok(()) => return,
        Err(Ok(core)) => Arc::new(core),
        Err(Err(error)) => return ready.send(Err(error)),
    };
    let _ended = Ended(Arc::clone(&core));
    for number in 0..core.options.connections {
        spawn_local(worker::serve(Arc::clone(&core), number == 0));
    }
    spawn_local(run_jobs(Arc::clone(&core)));
    spawn_local(expire(Arc::clone(&core)));
    spawn_local(wait::watch(Arc::clone(&core)));
    spawn_local(settle::settle(Arc::clone(&core)));
    // The connections are yet to be made.
    let deadline = core.deadline().later_by(core.options.connect_timeout);
    match race(awaited.left(), core.load_policies(deadline)).await {
        Ok(()) => return,
        Err(Err(miss)) => return ready.send(Err(Core::refusal(miss).into())),
        Err(Ok(())) => {}
    }
    // The session comes last: it takes the name from the instance before.
    let keeper = spawn_local(keeper::keep(Arc::clone(&core)));
    match race(awaited.left(), begun(&core, deadline)).await {
        Ok(()) => keeper::end(&core, keeper).await,
        Err(Err(error)) => {
            ready.send(Err(error.into()));
            keeper::end(&core, keeper).await;
        }
        Err(Ok(())) => serve(&core, ready, keeper).await,
    }
}

/// Waits until the session is started.
async fn begun(core: &Core, deadline: Deadline) -> Result<(), Refusal> {
    match core.session(deadline).await {
        Ok(_) => Ok(()),
        // What kept the session from being started says more.
        Err(Refusal::Shared(SharedError::NoSession(_))) => Err(Refusal::unavailable(core.failure())),
        Err(error) => Err(error),
    }
}

/// Serves until the store is closed.
async fn serve(core: &Arc<Core>, ready: Ready, keeper: JoinHandle<()>) {
    spawn_local(sweep::sweep(Arc::clone(core)));
    spawn_local(count_interrupted::count(Arc::clone(core)));
    core.tell_of_connection();
    ready.send(Ok(Arc::new(SharedHandle(Arc::clone(core)))));
    core.closing.notified().await;
    let watch = Stopwatch::start();
    close(core, keeper).await;
    core.tell_of_close(&watch);
}

/// Waits for begins and ends that are under way, settles what is loose, ends the session, and
/// answers all that still wait.
async fn close(core: &Arc<Core>, keeper: JoinHandle<()>) {
    let patience = Deadline::after(core.options.statement_timeout);
    let is_busy =
        || core.loose_ends.len() > 0 || !core.intake.is_empty() || core.ending.load(Ordering::Acquire) > 0;
    while is_busy() && !patience.has_passed() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    keeper::end(core, keeper).await;
}

/// The thread's end, also by a panic: nobody may wait for it any more.
struct Ended(Arc<Core>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.has_closed();
    }
}

async fn run_jobs(core: Arc<Core>) {
    loop {
        for job in core.take_jobs() {
            spawn_local(job());
        }
        core.has_jobs.notified().await;
    }
}

/// Answers calls whose time is up while no connection took them.
async fn expire(core: Arc<Core>) {
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        core.intake.expire(&core.failure());
    }
}

/// Does something on a thread of its own, for the client needs a runtime.
pub(super) async fn aside<T, F>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> Result<T, StoreFailure>
where
    T: Send + 'static,
    F: Future<Output = T>,
{
    let failed = |message: String| StoreFailure::new(FailureKind::Options, message);
    let (done, answer) = reply::pair();
    let thread = sync::spawn(name, move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build();
        done.send(match runtime {
            Ok(runtime) => Ok(LocalSet::new().block_on(&runtime, work())),
            Err(error) => Err(failed(format!("the runtime could not be started: {error}"))),
        });
    });
    // It ends by itself.
    drop(thread.map_err(|error| failed(format!("no thread could be started: {error}")))?);
    answer.get().await.unwrap_or_else(|| Err(failed("the thread that did it is gone".to_owned())))
}

/// Makes the tables, or brings them up to this library's version.
pub(crate) async fn migrate(options: SharedOptions) -> Result<schema::Migrated, OpenError> {
    options.check()?;
    let migrating = move || async move { reach(&options).await.map(|(_, found)| found.migrated) };
    aside("idemkv-migrate", migrating).await.map_err(unavailable)?
}

/// What every call needs.
async fn prepared(options: SharedOptions, awaited: &Awaited) -> Result<Core, OpenError> {
    let quoted = schema::quoted(&options.schema).map_err(unavailable)?;
    let (link_options, found) = reach(&options).await?;
    let sql = options.sql(&quoted);
    let nonce = nonce()?;
    Ok(Core::new(options, link_options, sql, (found, nonce), awaited.clone()))
}

/// Looks at the server, and makes the tables or brings them up to this library's version.
pub(super) async fn reach(options: &SharedOptions) -> Result<(LinkOptions, schema::Found), OpenError> {
    let (config, tls) = options.config()?;
    let link_options = LinkOptions {
        config,
        tls,
        connect_timeout: options.connect_timeout,
        statement_timeout: options.statement_timeout,
        margin: Duration::from_millis(500),
        settings: match options.pooling {
            Pooling::Detect => Settings::AtStart,
            Pooling::Session => Settings::ByStatements,
            Pooling::Transaction => Settings::None,
        },
        last: Arc::default(),
        trips: Arc::default(),
    };
    let (link, link_options) = found(link_options).await.map_err(unavailable)?;
    link.check_server().await.map_err(unavailable)?;
    if link_options.settings == Settings::AtStart {
        // Making tables may take longer than a statement, and waits for other processes that make
        // them.
        link.script("SET statement_timeout = 0; SET lock_timeout = 0").await.map_err(unavailable)?;
    }
    let preparing = schema::prepare(link.client(), &options.schema, options.makes_tables);
    let patience = options.connect_timeout + options.statement_timeout;
    let Ok(found) = timeout(patience, preparing).await else {
        let message = "the tables could not be looked at in time";
        return Err(unavailable(StoreFailure::new(FailureKind::TimedOut, message)));
    };
    Ok((link_options, found.map_err(unavailable)?))
}

/// Connects, and finds out whether a pooler is in between. A pooler refuses the settings that a
/// connection starts with, or drops them. Whether it is in session mode can't be seen, so it
/// counts as one in transaction mode, where nothing is left with connections of others.
async fn found(options: LinkOptions) -> Result<(Link, LinkOptions), StoreFailure> {
    let pooled = || LinkOptions { settings: Settings::None, ..options.clone() };
    match Link::connect(options.clone(), |_| {}).await {
        Ok(link) if options.settings != Settings::AtStart || link.has_settings().await? => {
            Ok((link, options))
        }
        Ok(_) => Ok((Link::connect(pooled(), |_| {}).await?, pooled())),
        Err(failure) if options.settings == Settings::AtStart && failure.is_of_a_pooler() => {
            Ok((Link::connect(pooled(), |_| {}).await?, pooled()))
        }
        Err(failure) => Err(failure),
    }
}
