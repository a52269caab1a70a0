//! What a layer and all its services have in common.

use super::config::Config;
use super::runs::{Runs, Spawner};
use super::scope_source::ScopeSource;
use crate::Engine;

/// A layer as it was set up, and its runs. Its clones have the same runs.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) engine: Engine,
    pub(super) scope: ScopeSource,
    pub(super) config: Config,
    pub(super) spawner: Spawner,
    pub(super) runs: Runs,
}
