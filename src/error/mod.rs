//! Errors: a small enum for each kind of call. Each error says what happened and what to do.

mod backup;
mod begin;
mod busy;
mod claim;
mod commit;
mod complete_in;
#[cfg(feature = "postgres")]
mod copy;
mod damage;
mod end;
mod failure;
mod forget;
mod io;
mod key;
mod open;
mod option;
mod read;
mod resolve;
mod set_policy;
#[cfg(feature = "postgres")]
mod shared;
#[cfg(feature = "postgres")]
mod store_failure;
mod token;

use std::fmt;

pub use backup::BackupError;
pub use begin::BeginError;
pub use busy::Busy;
pub use claim::ClaimError;
pub use commit::CommitError;
pub use complete_in::CompleteInError;
#[cfg(feature = "postgres")]
pub use copy::CopyError;
pub use damage::Damage;
pub use end::EndError;
pub use failure::Failure;
pub use forget::ForgetError;
pub use io::IoFailure;
pub use key::KeyError;
pub use open::OpenError;
pub use option::OptionError;
pub use read::ReadError;
pub use resolve::ResolveError;
pub use set_policy::SetPolicyError;
#[cfg(feature = "postgres")]
pub use shared::SharedError;
#[cfg(feature = "postgres")]
pub use store_failure::{FailureKind, StoreFailure};
pub use token::TokenError;

const CLOSED: &str = "the engine is closed; open the file again";
const INSIDE_CALLBACK: &str = "a waker or an observer made a call that would wait for the thread that it runs on; \
    use its `_async` form there, or another thread";
const INSIDE_TRANSACTION: &str = "the work of `complete_in` would wait for something that may wait for the end of that work; \
    make the call before the transaction, or after it";
#[cfg(feature = "postgres")]
const NO_FILE: &str = "the call works on a file of idemkv, and this engine is on another store: call it on an engine that \
    was opened on a file";

const FORKED: &str = "this process is a fork of the one that opened the file, which still has it; \
    open files after the fork, in the process that uses them";

fn too_long_a_batch(f: &mut fmt::Formatter<'_>, len: usize, max: usize) -> fmt::Result {
    write!(f, "the batch has {len} calls, the limit is {max}; split it")
}
