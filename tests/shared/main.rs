//! The shared store over a real `PostgreSQL`, which these tests start for themselves. Without one on
//! the machine they say SKIPPED.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]

#[path = "../common/budget.rs"]
mod budget;
#[path = "../common/random.rs"]
mod random;

/// The server, if this machine has `PostgreSQL`. Otherwise the test says so and is over.
macro_rules! server {
    () => {
        match $crate::server::get() {
            Some(server) => server,
            None => {
                eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
                return;
            }
        }
    };
}

/// The caller by each client that a transaction may be of.
macro_rules! callers {
    () => {
        match $crate::caller::all() {
            Some(callers) => callers,
            None => {
                eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
                return;
            }
        }
    };
}

mod any_client;
mod basic;
mod batches;
mod begin_in_tx;
mod bouncer;
mod cache;
mod caller;
mod callers;
mod closing;
mod cluster;
mod copy;
mod durable;
mod failover;
mod file_only;
mod groups;
mod in_tx;
#[path = "../common/inside.rs"]
mod inside;
mod lapsed;
mod late;
mod ledger;
mod linear;
mod lists;
mod migrating;
mod places;
mod policies;
mod prepared_tx;
mod processes;
#[allow(dead_code, reason = "the tests of the HTTP layer alone use the rest")]
mod proxy;
#[allow(dead_code, reason = "the tests of the HTTP layer and the queue alone use the rest")]
mod server;
mod snapshots;
mod sweep;
mod table;
#[cfg(feature = "postgres-tls")]
mod tls;
mod tokens;
mod told;
mod unknown;
mod waiting;
