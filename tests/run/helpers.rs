//! What several of these modules need.

use std::cell::RefCell;
use std::fmt::Debug;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::common::request;
use idemkv::{Claim, Engine, Fault, RunError, Running, Scope, Status};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    pub cents: u64,
    pub note: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Declined {
    NoFunds { short_by: u64 },
    Stolen,
}

pub type Ran = Result<Result<Receipt, Declined>, RunError<Receipt, Declined>>;

pub fn receipt() -> Receipt {
    Receipt { cents: 1000, note: Some("dinner".to_owned()) }
}

/// Runs an operation that gives this, and says whether it ran.
pub fn run(scope: &Scope, given: Result<Receipt, Fault<Declined>>) -> (Ran, bool) {
    let mut has_run = false;
    let ran = scope.run("key", request(), |_claim| {
        has_run = true;
        given
    });
    (ran, has_run)
}

#[track_caller]
pub fn replayed(scope: &Scope) -> Result<Receipt, Declined> {
    let (ran, has_run) = run(scope, Err(Fault::Unknown(Declined::Stolen)));
    assert!(!has_run, "should be replayed");
    ran.unwrap()
}

#[track_caller]
pub fn interrupted(scope: &Scope) -> u32 {
    match scope.get("key") {
        Ok(Status::Interrupted(attempt)) => attempt.attempt(),
        other => panic!("should be interrupted, is {other:?}"),
    }
}

/// An executor: a list of tasks, and nobody who runs them until they are run.
#[derive(Default)]
pub struct Tasks(pub RefCell<Vec<Task>>);

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Tasks {
    pub fn spawn(&self, task: Task) {
        self.0.borrow_mut().push(task);
    }

    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// Polls every task once, and keeps those that are not ready.
    pub fn poll_all(&self) {
        self.0.borrow_mut().retain_mut(|task| poll(task.as_mut()).is_pending());
    }

    /// Runs all tasks to their ends.
    pub fn run_all(&self, engine: &Engine) {
        for _ in 0..10 {
            self.poll_all();
            engine.step();
        }
        assert!(self.is_empty(), "a task has not ended");
    }

    pub fn drop_all(&self) {
        self.0.borrow_mut().clear();
    }
}

/// Runs an operation as a task, which gives this after it was polled twice.
pub fn run_task<'a>(
    scope: &'a Scope,
    tasks: &'a Tasks,
    given: Result<Receipt, Fault<Declined>>,
) -> Pin<Box<dyn Future<Output = Ran> + 'a>> {
    let spawn = |task| tasks.spawn(task);
    Box::pin(scope.run_async("key", request(), spawn, move |_claim| {
        Box::pin(async move {
            yield_once().await;
            given
        })
    }))
}

/// Is ready when it is polled for the second time.
async fn yield_once() {
    let mut yielded = false;
    std::future::poll_fn(
        |_context| {
            if std::mem::replace(&mut yielded, true) { Poll::Ready(()) } else { Poll::Pending }
        },
    )
    .await;
}

pub fn charged(_claim: &mut Claim) -> Running<'_, Receipt, Declined> {
    Box::pin(async { Ok(receipt()) })
}

pub fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[track_caller]
pub fn ready<F: Future + ?Sized>(future: Pin<&mut F>) -> F::Output {
    match poll(future) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("should be ready"),
    }
}
