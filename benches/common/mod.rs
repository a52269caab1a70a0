//! What the benchmarks share.

#![allow(dead_code, unused_imports, reason = "not every benchmark uses all of it")]
#![allow(unreachable_pub, reason = "a module of several programs")]
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a benchmark that can't go on stops")]
#![allow(clippy::cast_possible_truncation, reason = "counts are far below the limits of their types")]

use std::env;
use std::path::PathBuf;

pub(crate) use figures::{Spread, millis, rounded, verdict};
pub(crate) use fill::{REQUEST, body, fill, open_to_fill, unsynced};
pub(crate) use keys::{as_str, key, mixed};
use tempfile::TempDir;

mod figures;
mod fill;
mod keys;

/// A fresh directory under `BENCH_DIR`, or else under the build's own directory, which lies on a
/// disk where the system's temporary directory may not. It goes away with the value.
pub(crate) fn scratch() -> TempDir {
    let base = env::var_os("BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    scratch_in(base)
}

pub(crate) fn scratch_in(base: impl Into<PathBuf>) -> TempDir {
    let base = base.into();
    TempDir::with_prefix_in("bench-", &base)
        .unwrap_or_else(|error| panic!("no directory in {}: {error}", base.display()))
}
