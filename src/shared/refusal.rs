//! `Refusal`: why a call on the shared store was refused; one type for all calls. Also the wait
//! for a call, as its caller waits.

use crate::activity::is_called;
use crate::error::{
    BeginError, ClaimError, CommitError, Failure, FailureKind, ForgetError, OpenError, ReadError,
    ResolveError, SetPolicyError, SharedError, StoreFailure, TokenError,
};
use crate::sync::is_ours;
use crate::task::caller::{Caller, park_on};

/// Why a call was refused.
#[derive(Clone, Debug)]
pub(crate) enum Refusal {
    Shared(SharedError),
    Closed,
    Forked,
    InsideCallback,
}

impl Refusal {
    /// The store did nothing, because of this.
    pub(super) fn unavailable(failure: StoreFailure) -> Self {
        Self::Shared(SharedError::Unavailable(failure))
    }
}

/// Refuses to make a thread wait that others wait for: one of an engine's, or one that runs code
/// that an engine called.
pub(crate) fn check_caller(caller: Caller) -> Result<(), Refusal> {
    match caller {
        Caller::Thread | Caller::Member if is_called() || is_ours() => Err(Refusal::InsideCallback),
        Caller::Thread | Caller::Member | Caller::Task => Ok(()),
    }
}

/// Waits for a call, as its caller waits: the future of a thread's call is ready at its first
/// poll.
pub(crate) async fn carry<T>(caller: Caller, call: impl Future<Output = T>) -> T {
    match caller {
        Caller::Thread | Caller::Member => park_on(call),
        Caller::Task => call.await,
    }
}

/// The same, for a call that may be refused.
pub(crate) async fn carry_checked<T, E: From<Refusal>>(
    caller: Caller,
    call: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    check_caller(caller)?;
    carry(caller, call).await
}

impl From<SharedError> for Refusal {
    fn from(error: SharedError) -> Self {
        Self::Shared(error)
    }
}

impl From<Refusal> for BeginError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Shared(error) => Self::Shared(error),
            Refusal::Closed => Self::Closed,
            Refusal::Forked => Self::Failed(Failure::Forked),
            Refusal::InsideCallback => Self::InsideCallback,
        }
    }
}

impl From<Refusal> for CommitError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Shared(error) => Self::Shared(error),
            Refusal::Closed => Self::Closed,
            Refusal::Forked => Self::Failed(Failure::Forked),
            Refusal::InsideCallback => Self::InsideCallback,
        }
    }
}

impl From<Refusal> for ReadError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Shared(error) => Self::Shared(error),
            Refusal::Closed => Self::Closed,
            Refusal::Forked => Self::Forked,
            Refusal::InsideCallback => Self::InsideCallback,
        }
    }
}

/// Of a store that is being connected to.
impl From<Refusal> for OpenError {
    fn from(refusal: Refusal) -> Self {
        let message = match refusal {
            Refusal::Shared(error) => return Self::Shared(error),
            Refusal::Closed => "the connection was closed before it was ready",
            Refusal::Forked => "the process was forked meanwhile",
            Refusal::InsideCallback => "a thread of an engine can't wait for a connection",
        };
        Self::Shared(SharedError::Unavailable(StoreFailure::new(FailureKind::Options, message)))
    }
}

macro_rules! through {
    ($error:ty, $by:ty) => {
        impl From<Refusal> for $error {
            fn from(refusal: Refusal) -> Self {
                <$by>::from(refusal).into()
            }
        }
    };
}

through!(ClaimError, CommitError);
through!(SetPolicyError, CommitError);
through!(ForgetError, CommitError);
through!(ResolveError, BeginError);
through!(TokenError, BeginError);
