//! Real threads and tasks on one file.
//!
//! Under `ThreadSanitizer`, with the nightly toolchain and its `rust-src`:
//!
//! ```text
//! TSAN_OPTIONS=suppressions=$PWD/tests/tsan.supp RUSTFLAGS=-Zsanitizer=thread cargo +nightly test --release \
//!     -Zbuild-std --target x86_64-unknown-linux-gnu --target-dir target/tsan --test threads --test waiting \
//!     -- races:: mixed:: tasks:: places:: own_threads::
//! ```

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "../common/mod.rs"]
mod common;
mod mixed;
mod oracle;
mod races;
mod worker;
