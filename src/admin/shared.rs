//! What all requests share.

use std::path::PathBuf;

use super::access::Authorize;
use super::journal::Journal;
use super::samples::Samples;
use crate::Engine;

pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) authorize: Authorize,
    pub(super) title: String,
    pub(super) backups: Option<PathBuf>,
    pub(super) is_read_only: bool,
    pub(super) journal: Journal,
    pub(super) samples: Samples,
}
