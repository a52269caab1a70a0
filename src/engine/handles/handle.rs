//! The reference that every public handle has to the core: the one place where the public API and
//! the file-backed core meet.

use crate::engine::core::Core;
use crate::sync::Arc;

/// What is shared by all handles on an open file. Closes it when the last one is dropped.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(in crate::engine) core: Arc<Core>,
}

impl Handle {
    #[inline]
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }
}
