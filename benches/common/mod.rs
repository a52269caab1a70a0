//! What the benchmarks share.

#![allow(dead_code, unused_imports, reason = "not every benchmark uses all of it")]
#![allow(unreachable_pub, reason = "a module of several programs")]

use std::env;
use std::path::PathBuf;
use std::time::Instant;

pub(crate) use figures::{Spread, millis, rounded, verdict};
use idemkv::Fingerprint;
pub(crate) use keys::{as_str, key, mixed};
use tempfile::TempDir;

mod figures;
mod keys;

/// The fingerprint of every request: what it takes to compute one is not what is measured.
pub(crate) const REQUEST: Fingerprint = Fingerprint::from_bytes([7; 32]);

/// A fresh directory under `BENCH_DIR`, or else under the build's own directory, which lies on a disk where the
/// system's temporary directory may not. It goes away with the value.
pub(crate) fn scratch() -> TempDir {
    let base = env::var_os("BENCH_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    scratch_in(base)
}

pub(crate) fn scratch_in(base: impl Into<PathBuf>) -> TempDir {
    let base = base.into();
    TempDir::with_prefix_in("bench-", &base)
        .unwrap_or_else(|error| panic!("no directory in {}: {error}", base.display()))
}

/// The arguments that say what to run; cargo's own flags say nothing here.
pub(crate) fn arguments() -> Vec<String> {
    env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect()
}

/// Whether a flag was given.
pub(crate) fn flag(name: &str) -> bool {
    env::args().any(|arg| arg == name)
}

pub(crate) fn now() -> Instant {
    Instant::now()
}
