//! The reference that every handle on an open file has to the file-backed core.

use crate::engine::core::Core;
use crate::sync::Arc;

/// What is shared by all handles on an open file. Closes it when the last one is dropped.
#[derive(Debug)]
pub(crate) struct FileHandle {
    pub(in crate::engine) core: Arc<Core>,
}

impl FileHandle {
    #[inline]
    pub(in crate::engine) fn core(&self) -> &Core {
        &self.core
    }
}
