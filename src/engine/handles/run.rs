//! Running an operation for its caller: begin, run, store; or wait, or replay.

use std::pin::Pin;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::claim::{Begin, Claim};
use super::scope::Scope;
use crate::Fingerprint;
use crate::clock::Deadline;
use crate::engine::common::completion::Completion;
use crate::engine::common::end_request::EndRequest;
use crate::engine::common::running::RunningMark;
use crate::error::{BeginError, Failure};
use crate::fault::Fault;
use crate::record::{Outcome, Record};
use crate::task::caller::{Caller, block};
use crate::task::reply;
use crate::task::reply::ReplySender;
use crate::typed::json;
use crate::typed::json::JsonError;
use crate::typed::run_error::{ReplayError, RunError, StoreError};

/// The result of an operation, new or stored, or the error of running it.
type Ran<T, E> = Result<Result<T, E>, RunError<T, E>>;

impl Scope {
    /// Runs the operation if it has not run, waits if another caller is running it, and returns
    /// the stored result if it has run. With the feature `serde`.
    ///
    /// The inner result is the operation's own: a success, or a [`Fault::Final`], which is stored
    /// as well. Both are stored as JSON. The call returns the value decoded from that JSON, so
    /// that the caller that ran the operation gets the same value as all others. A type may gain
    /// fields while records of it are kept, if they have a `#[serde(default)]`. Use
    /// [`begin`](Self::begin) for results that are bytes.
    ///
    /// It waits for the other caller without limit; see [`run_within`](Self::run_within). If the
    /// other caller releases the key, this call runs the operation; so it does after an
    /// interruption, if the policy allows. A panic in the operation leaves the key interrupted
    /// and continues to the caller. An operation that runs its own key again would wait for
    /// itself, and is refused with [`BeginError::OwnKey`](crate::BeginError::OwnKey).
    ///
    /// The operation can check whether an [earlier attempt was interrupted](Claim::interrupted),
    /// save how far it came with [`Claim::save_progress`], and give every step a key with
    /// [`Claim::step_key`].
    ///
    /// # Errors
    ///
    /// When the key could not be begun; when the operation gave [`Fault::Retry`] or
    /// [`Fault::Unknown`]; when its result could not be stored (the error has the result, and the
    /// claim if nothing was written); when the key's record is not a result of these types (the
    /// error has the record). Results that JSON would alter are not stored; see below.
    ///
    /// # What JSON alters
    ///
    /// Before a result is stored, its JSON is decoded again, and the serde calls of both values
    /// are compared: types of numbers, names of structs, fields and variants, options, lengths,
    /// contents. If they differ, the result is refused with
    /// [`JsonError::altered_at`](crate::JsonError::altered_at). So these are refused: a `NaN`, a
    /// `Some(None)`, a map with structured keys, a duplicate key, an untagged enum that decodes
    /// as another variant, and a skipped field that decodes with another default.
    ///
    /// The comparison does not find:
    ///
    /// - a field that serde never writes (`#[serde(skip)]`): it comes back with its default;
    /// - an untagged variant that decodes as another one with the same serde calls;
    /// - another order of a list, because sets have none; and a difference that the type's own
    ///   `Serialize` hides.
    ///
    /// ```
    /// # use idemkv::{Engine, Fault, Fingerprint};
    /// # use serde::{Deserialize, Serialize};
    /// #[derive(Debug, PartialEq, Serialize, Deserialize)]
    /// struct Receipt { cents: u64 }
    /// #[derive(Debug, PartialEq, Serialize, Deserialize)]
    /// struct Declined { why: String }
    ///
    /// # enum Reply { Charged(u64), Declined(String), Refused, Lost }
    /// # fn bank(_key: String) -> Reply { Reply::Charged(1000) }
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let charges = engine.scope("charges");
    /// let charge = || {
    ///     charges.run("key", Fingerprint::of("amount=1000"), |claim| match bank(claim.step_key("charge").to_string()) {
    ///         Reply::Charged(cents) => Ok(Receipt { cents }),
    ///         Reply::Declined(why) => Err(Fault::Final(Declined { why })),
    ///         Reply::Refused => Err(Fault::Retry(Declined { why: "connection refused".to_owned() })),
    ///         Reply::Lost => Err(Fault::Unknown(Declined { why: "no reply".to_owned() })),
    ///     })
    /// };
    /// assert_eq!(charge()?, Ok(Receipt { cents: 1000 })); // ran
    /// assert_eq!(charge()?, Ok(Receipt { cents: 1000 })); // replayed
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run<T, E>(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        op: impl FnOnce(&mut Claim) -> Result<T, Fault<E>>,
    ) -> Result<Result<T, E>, RunError<T, E>>
    where
        T: Serialize + DeserializeOwned,
        E: Serialize + DeserializeOwned,
    {
        self.run_until(Deadline::NEVER, key.as_ref(), fingerprint, op)
    }

    /// [`run`](Self::run), which waits for another caller for at most `timeout`. If this call
    /// runs the operation, its time is not limited.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run), and [`RunError::InFlight`] when the time is up.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fault, Fingerprint, RunError};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// let charges = engine.scope("charges");
    /// let Begin::Fresh(claim) = charges.begin("key", request)? else { panic!() };
    /// let charge = |_: &mut _| Ok::<u64, Fault<String>>(1000);
    /// let waited = charges.run_within(Duration::from_millis(1), "key", request, charge);
    /// assert!(matches!(waited, Err(RunError::InFlight(_)))); // 409
    /// claim.complete("1000")?;
    /// assert_eq!(charges.run_within(Duration::ZERO, "key", request, charge)?, Ok(1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn run_within<T, E>(
        &self,
        timeout: Duration,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        op: impl FnOnce(&mut Claim) -> Result<T, Fault<E>>,
    ) -> Result<Result<T, E>, RunError<T, E>>
    where
        T: Serialize + DeserializeOwned,
        E: Serialize + DeserializeOwned,
    {
        self.run_until(Deadline::after(timeout), key.as_ref(), fingerprint, op)
    }

    /// [`run`](Self::run) for tasks, on any executor: `spawn` gets the operation as a separate
    /// task, so that dropping this future, because the client has hung up, does not lose the
    /// result. `spawn` is called only if the operation is to run.
    ///
    /// Use it in the handler of a web request: see `docs/guide.md`, "A safe endpoint".
    ///
    /// If you drop the future before it calls `spawn`, it claims nothing. After that, the
    /// operation runs to its end and its result is stored, even if no caller waits for it.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run), and [`RunError::TaskLost`] when the executor drops the task, or
    /// the operation panics: the panic continues in the task, and the key is interrupted.
    ///
    /// ```
    /// # use idemkv::{Engine, Fault, Fingerprint};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # mod tokio { pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
    /// #     std::thread::spawn(|| futures_executor::block_on(task));
    /// # } }
    /// # async fn bank(_key: String) -> Result<u64, String> { Ok(1000) }
    /// # futures_executor::block_on(async {
    /// let charges = engine.scope("charges");
    /// let charged: Result<u64, String> = charges
    ///     .run_async(
    ///         "key",
    ///         Fingerprint::of("amount=1000"),
    ///         |task| drop(tokio::spawn(task)),
    ///         |claim| {
    ///             Box::pin(async move {
    ///                 bank(claim.step_key("charge").to_string()).await.map_err(Fault::Unknown)
    ///             })
    ///         },
    ///     )
    ///     .await?;
    /// assert_eq!(charged, Ok(1000));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn run_async<T, E>(
        &self,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        spawn: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>),
        op: impl for<'c> FnOnce(&'c mut Claim) -> Running<'c, T, E> + Send + 'static,
    ) -> Result<Result<T, E>, RunError<T, E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Serialize + DeserializeOwned + Send + 'static,
    {
        self.run_until_async(Deadline::NEVER, key.as_ref(), fingerprint, spawn, op).await
    }

    /// [`run_within`](Self::run_within) for tasks; see [`run_async`](Self::run_async).
    ///
    /// # Errors
    ///
    /// As for [`run_async`](Self::run_async), and [`RunError::InFlight`] when the time is up.
    ///
    /// ```
    /// # use idemkv::{Begin, Engine, Fault, Fingerprint, RunError};
    /// # use std::time::Duration;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let request = Fingerprint::of("request");
    /// # futures_executor::block_on(async {
    /// let charges = engine.scope("charges");
    /// let Begin::Fresh(claim) = charges.begin_async("key", request).await? else { panic!() };
    /// let spawn = |_task| unreachable!("the claim is another's");
    /// let waited = charges
    ///     .run_within_async(Duration::from_millis(1), "key", request, spawn, |_claim| {
    ///         Box::pin(async { Ok::<u64, Fault<String>>(1000) })
    ///     })
    ///     .await;
    /// assert!(matches!(waited, Err(RunError::InFlight(_)))); // 409
    /// # claim.release_async().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn run_within_async<T, E>(
        &self,
        timeout: Duration,
        key: impl AsRef<[u8]>,
        fingerprint: Fingerprint,
        spawn: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>),
        op: impl for<'c> FnOnce(&'c mut Claim) -> Running<'c, T, E> + Send + 'static,
    ) -> Result<Result<T, E>, RunError<T, E>>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Serialize + DeserializeOwned + Send + 'static,
    {
        self.run_until_async(Deadline::after(timeout), key.as_ref(), fingerprint, spawn, op).await
    }

    fn run_until<T, E>(
        &self,
        deadline: Deadline,
        key: &[u8],
        fingerprint: Fingerprint,
        op: impl FnOnce(&mut Claim) -> Result<T, Fault<E>>,
    ) -> Ran<T, E>
    where
        T: Serialize + DeserializeOwned,
        E: Serialize + DeserializeOwned,
    {
        match block(self.begin_until(Caller::Thread, deadline, key, fingerprint))? {
            Begin::Fresh(mut claim) => {
                let running = RunningMark::enter(claim.of());
                let given = op(&mut claim);
                drop(running);
                block(end(Caller::Thread, claim, given))
            }
            Begin::InFlight(pending) => Err(RunError::InFlight(pending)),
            Begin::Done(record) => replay(record),
        }
    }

    async fn run_until_async<T, E>(
        &self,
        deadline: Deadline,
        key: &[u8],
        fingerprint: Fingerprint,
        spawn: impl FnOnce(Pin<Box<dyn Future<Output = ()> + Send>>),
        op: impl for<'c> FnOnce(&'c mut Claim) -> Running<'c, T, E> + Send + 'static,
    ) -> Ran<T, E>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
        E: Serialize + DeserializeOwned + Send + 'static,
    {
        match self.begin_until(Caller::Task, deadline, key, fingerprint).await? {
            Begin::Fresh(claim) => {
                // From here to the task's being the executor's there is no point at which this can
                // be dropped.
                let (replier, awaited) = reply::pair();
                spawn(Box::pin(carry_out(Job { claim: Unbegun(Some(claim)), op, replier })));
                let lost = || match self.handle.check_process() {
                    Ok(()) => RunError::TaskLost,
                    Err(forked) => BeginError::Failed(forked).into(),
                };
                awaited.get().await.unwrap_or_else(|| Err(lost()))
            }
            Begin::InFlight(pending) => Err(RunError::InFlight(pending)),
            Begin::Done(record) => replay(record),
        }
    }
}

/// An operation that runs with a claim: the return value of the last argument of
/// [`Scope::run_async`], made with `Box::pin(async move { .. })`.
pub type Running<'c, T, E> = Pin<Box<dyn Future<Output = Result<T, Fault<E>>> + Send + 'c>>;

/// An operation that `spawn` hands to an executor.
struct Job<Op, T, E> {
    /// Dropped before the replier: a caller that learns that the task is lost finds what became of
    /// the key.
    claim: Unbegun,
    op: Op,
    replier: ReplySender<Ran<T, E>>,
}

/// The claim of an operation that has not begun, and so certainly did nothing. If the executor
/// drops the operation, or panics, the claim is put back.
struct Unbegun(Option<Claim>);

impl Unbegun {
    fn begins(mut self) -> Claim {
        self.0.take().unwrap_or_else(|| unreachable!("it begins once"))
    }
}

impl Drop for Unbegun {
    fn drop(&mut self) {
        if let Some(claim) = self.0.take() {
            // Queued before it is polled.
            drop(claim.put_back_async());
        }
    }
}

async fn carry_out<T, E, Op>(job: Job<Op, T, E>)
where
    T: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
    Op: for<'c> FnOnce(&'c mut Claim) -> Running<'c, T, E>,
{
    // Dropped from the last to the first, so that here too the replier goes after the claim.
    let Job { replier, op, claim } = job;
    let mut claim = claim.begins();
    let Some(given) = claim.marker().run(|| op(&mut claim)).await else {
        // A forked child must not run what its parent runs.
        return replier.send(Err(BeginError::Failed(Failure::Forked).into()));
    };
    replier.send(end(Caller::Task, claim, given).await);
}

/// Ends a claim by the result of its operation.
async fn end<T, E>(caller: Caller, claim: Claim, given: Result<T, Fault<E>>) -> Ran<T, E>
where
    T: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    match given {
        Ok(value) => store(caller, claim, Ok(value)).await,
        Err(Fault::Final(error)) => store(caller, claim, Err(error)).await,
        Err(Fault::Retry(error)) => match claim.end_as(caller, EndRequest::Release).await {
            Ok(_vacant) => Err(RunError::Retry(error)),
            Err(reason) => Err(RunError::NotReleased { error, reason }),
        },
        Err(Fault::Unknown(error)) => {
            drop(claim);
            Err(RunError::Unknown(error))
        }
    }
}

/// Stores a result, and returns it as it will be replayed.
async fn store<T, E>(caller: Caller, claim: Claim, result: Result<T, E>) -> Ran<T, E>
where
    T: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    // The application's own code, which must not wait for the claim either.
    let running = RunningMark::enter(claim.of());
    let encoded = encode(&result);
    drop(running);
    let (outcome, body, read) = match encoded {
        Ok(encoded) => encoded,
        Err(error) => {
            let (claim, reason) = (Some(Box::new(claim)), StoreError::Json(error));
            return Err(RunError::NotStored { result, claim, reason });
        }
    };
    match claim.end_as(caller, EndRequest::store(outcome, &body, Completion::new())).await {
        Ok(_record) => Ok(read),
        Err(error) => {
            let (reason, claim) = error.into_parts();
            Err(RunError::NotStored { result, claim, reason: StoreError::End(reason) })
        }
    }
}

/// A result as it is stored, and as it will be replayed.
type Encoded<T, E> = (Outcome, Vec<u8>, Result<T, E>);

fn encode<T, E>(result: &Result<T, E>) -> Result<Encoded<T, E>, JsonError>
where
    T: Serialize + DeserializeOwned,
    E: Serialize + DeserializeOwned,
{
    match result {
        Ok(value) => json::encode(value).map(|(body, read)| (Outcome::Success, body, Ok(read))),
        Err(error) => json::encode(error).map(|(body, read)| (Outcome::Failure, body, Err(read))),
    }
}

fn replay<T: DeserializeOwned, E: DeserializeOwned>(record: Record) -> Ran<T, E> {
    if !record.is_body_kept() {
        return Err(RunError::NotReplayed { record, reason: ReplayError::NotKept });
    }
    let read = match record.outcome() {
        Outcome::Success => json::decode(record.body()).map(Ok),
        Outcome::Failure => json::decode(record.body()).map(Err),
    };
    read.map_err(|error| RunError::NotReplayed { record, reason: ReplayError::Json(error) })
}
