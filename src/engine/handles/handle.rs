//! What callers' types share of an open file.

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
