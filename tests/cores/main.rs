//! One suite for every core: the same calls on an engine on a file and on one on a shared store
//! have the same answers. A test is a function of a `World`, which makes engines, lets time pass
//! and lets processes die.
//!
//! The shared store is a real `PostgreSQL`, whose clock the tests set. Without one on the machine
//! its half says SKIPPED; without the feature `postgres` it is not there.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unchecked_time_subtraction,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

/// Makes a test of each function, over each core.
macro_rules! over_every_core {
    ($($test:ident),* $(,)?) => {
        mod on_a_file {
            $(#[test]
            fn $test() {
                super::$test(&$crate::world::File::default());
            })*
        }

        #[cfg(feature = "postgres")]
        mod on_a_shared_store {
            $(#[test]
            fn $test() {
                match $crate::world::Shared::new(concat!(module_path!(), "::", stringify!($test))) {
                    Some(world) => super::$test(&world),
                    None => eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql"),
                }
            })*
        }

        #[cfg(feature = "postgres")]
        mod on_a_shared_store_with_memory {
            $(#[test]
            fn $test() {
                match $crate::world::Shared::with_memory(concat!(module_path!(), "::", stringify!($test))) {
                    Some(world) => super::$test(&world),
                    None => eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql"),
                }
            })*
        }
    };
}

mod batches;
mod claims;
mod events;
mod leases;
mod limits;
mod lists;
mod policies;
mod runs;
#[cfg(feature = "postgres")]
#[path = "../shared/server.rs"]
#[allow(dead_code, reason = "the tests of the shared store alone use the rest")]
mod server;
mod tokens;
mod waiting;
mod world;
