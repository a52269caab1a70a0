//! An embedded idempotency engine: ask before you act, and a retried request gets the stored
//! result instead of a second charge.
//!
//! ```
//! use idemkv::{Begin, Engine, Fingerprint, Record};
//!
//! # fn charge(_: &[u8]) -> String { "charged".to_owned() }
//! # let dir = tempfile::tempdir()?;
//! # std::env::set_current_dir(&dir)?;
//! # let body = b"amount=10";
//! let engine = Engine::open("charges.idem")?;                       // or Engine::options().ttl(..).cache_bytes(..).open(path)
//! let charges = engine.scope("POST /v1/charges");                   // a namespace for keys
//! match charges.begin("5a8e7a6b-c7d8-4e9f-a0b1-2c3d4e5f6a7b", Fingerprint::of(body))? {
//!     Begin::Fresh(claim)     => { let reply = charge(body); claim.complete(reply)?; }   // durable when it returns
//!     Begin::InFlight(pending) => { /* 409, or pending.wait_timeout(..) */ }
//!     Begin::Done(record)     => { /* replay record.outcome(), record.body() */ }
//! }
//! engine.close()?;                                                  // reports what drop can't
//! # let engine = Engine::open("charges.idem")?;
//! # let again = engine.scope("POST /v1/charges").begin("5a8e7a6b-c7d8-4e9f-a0b1-2c3d4e5f6a7b", Fingerprint::of(body))?;
//! # let Begin::Done(record) = again else { panic!("the retry was not replayed") };
//! # let record: Record = record;
//! # assert_eq!(record.body(), b"charged");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What holds
//!
//! With the default [`Durability`] and [`CommitMode`]:
//!
//! - Of all callers with one key, at most one holds a [`Claim`] at any time. [`Begin::Fresh`] is
//!   returned once the grant is durable.
//! - [`Begin::Done`] is returned only for a completion that survives a power cut.
//! - The same key with another [`Fingerprint`] is refused: [`BeginError::KeyReused`].
//! - A claim that ends without an outcome (dropped, panicked, process killed) leaves its key
//!   *interrupted*: its effect may have happened. The next begin is refused with the details
//!   ([`BeginError::Unresolved`]) until the key is resolved. With [`Recovery::Rerun`] it gets a
//!   claim that knows of the interruption ([`Claim::interrupted`]).
//! - A web framework drops the handler of a request whose client hangs up, and with it the claim.
//!   So run the operation in its own task, as [`Scope::run_async`] does (feature `serde`).
//! - After a failed commit the engine grants nothing more, but still replays durable results.
//!
//! # Features
//!
//! - none (default): the engine.
//! - `serde`: [`Scope::run`](crate::Scope) and similar calls, which store typed results as JSON;
//!   `Serialize` and `Deserialize` for the small types.
//! - `http`: a tower layer for the `Idempotency-Key` header: see the module `http`.
//! - `axum`: `http`, and what needs axum: the URI as the client sent it, scopes by matched path,
//!   extractors.
//! - `admin`: a page for operators, to be mounted in an axum router: see the module `admin`.
//! - `standard-webhooks`: the layer checks the signatures of webhooks.
//! - `metrics`: `MetricsObserver` counts and times for the crate `metrics`: see
//!   `docs/monitoring.md`.
//! - `tracing`: `TracingObserver` writes events; runs of the layer have spans.
//! - `queue`: a consumer of messages, each handled once: see the module `queue`.
//! - `cli`: the command `idemkv`, for operators: see `docs/command.md`.
//! - `postgres`: `Engine::connect`, an engine on a store for several processes. Unfinished: see
//!   `docs/shared.md`.
//! - `postgres-tls`: the same with TLS.
//! - `sqlx-0_8`, `sqlx-0_9`: its calls in transactions take those of `SQLx` as well, of that version.
//! - `sim`: a simulated disk, a manual clock, and engines without threads, for deterministic
//!   tests. Not for production.
//!
//! `docs/guarantees.md` names the test that holds each promise, and `docs/guide.md` shows every
//! call.

// docs.rs says which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod activity;
#[cfg(feature = "admin")]
pub mod admin;
mod attempt;
mod clock;
mod codec;
mod commit;
#[cfg(feature = "sim")]
mod decoders;
mod disk;
mod engine;
mod error;
#[cfg(any(feature = "serde", feature = "queue"))]
mod fault;
mod foreign;
mod fork;
#[cfg(feature = "http")]
pub mod http;
mod index;
mod key;
mod log_tail;
#[cfg(all(test, idemkv_loom, feature = "sim"))]
mod models;
#[cfg(any(feature = "metrics", feature = "tracing"))]
mod monitoring;
mod observer;
mod policy;
#[cfg(feature = "queue")]
pub mod queue;
mod record;
mod seen;
#[cfg(feature = "postgres")]
mod shared;
#[cfg_attr(not(feature = "sim"), allow(unreachable_pub, reason = "public with the feature `sim`"))]
mod state;
mod status;
mod store;
mod sync;
mod task;
mod token_seal;
#[cfg(feature = "serde")]
mod typed;
mod wal;

pub use attempt::interruption::{AttemptInfo, Interruption};
pub use attempt::progress::Progress;
pub use attempt::waited::Waited;
pub use clock::Timestamp;
#[cfg(feature = "serde")]
pub use engine::Running;
pub use engine::{
    Backup, Begin, Checked, Claim, ClaimToken, Closed, CommitMode, Completion, End, Ending, Engine, Entries,
    KeyEntry, ListPosition, Listing, OpenKey, Options, Pending, Scope, Stats, Verdict, Verify,
};
pub use error::{
    BackupError, BeginError, Busy, ClaimError, CommitError, CompleteInError, Damage, EndError, Failure,
    ForgetError, IoFailure, KeyError, OpenError, OptionError, ReadError, ResolveError, SetPolicyError,
    TokenError,
};
#[cfg(feature = "postgres")]
pub use error::{CopyError, FailureKind, SharedError, StoreFailure};
#[cfg(any(feature = "serde", feature = "queue"))]
pub use fault::Fault;
pub use key::KeyHash;
pub use key::fingerprint::{Fingerprint, FingerprintBuilder};
pub use key::step_key::StepKey;
#[cfg(feature = "metrics")]
pub use monitoring::MetricsObserver;
#[cfg(feature = "tracing")]
pub use monitoring::TracingObserver;
pub use observer::{Cause, EndKind, Event, Observer};
pub use policy::{Durability, Policy, Recovery};
pub use record::tombstone::Tombstone;
pub use record::{Body, Outcome, Record};
pub use seen::Seen;
#[cfg(feature = "postgres")]
pub use shared::{
    BeginInTx, ClaimInTx, CompletedInTx, Copied, Migrated, OpenTx, Pooling, SharedOptions, SharedStats,
    TxStatements, UncommittedRecord,
};
pub use state::Fence;
pub use status::Status;
#[cfg(feature = "serde")]
pub use typed::json::JsonError;
#[cfg(feature = "serde")]
pub use typed::run_error::{ReplayError, RunError, StoreError};

/// Tables of your own in the engine's file: see [`Claim::complete_in`] and
/// [`Engine::read_tables`].
///
/// redb, the store behind the file, is public only here and in the types of these tables. So a
/// new major version of redb changes only this module.
pub mod tables {
    pub use redb;

    pub use crate::store::{ReadTables, TableError, Tables};
}

/// Tools for deterministic tests: a simulated disk, a manual clock, hand-stepped workers, and the
/// state machine itself.
///
/// For tests of this crate and of services built on it. Its API may change in any release.
#[cfg(feature = "sim")]
pub mod sim {
    pub use crate::clock::ManualClock;
    pub use crate::decoders::Decoder;
    pub use crate::disk::sim::{CrashKind, DiskFault, Moment, Operation, SimDisk};
    pub use crate::engine::Stepped;
    /// The state machine of one key.
    pub mod state {
        pub use crate::state::{Decision, Event, Facts, Lifetime, Phase, State, decide};

        /// A fence with this number.
        #[must_use]
        pub fn fence(number: u64) -> crate::Fence {
            crate::Fence::new(number)
        }
    }
}
