//! `EncodedEntry`: an entry's bytes, on their way into a frame.

use std::cell::Cell;
use std::ops::Deref;

use super::{Entry, encode_into};
use crate::sync::thread_local;

/// A longer buffer is freed and not kept: each thread may have one, for as long as it lives.
const KEPT_MAX: usize = 4 << 10;

thread_local! {
    /// A buffer for the thread's next entry. Nearly every entry is copied into a frame within the
    /// call that encodes it, so that one buffer serves them all.
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The bytes of an entry. Its drop keeps the buffer for the thread's next entry.
#[derive(Debug)]
pub(crate) struct EncodedEntry(Vec<u8>);

impl EncodedEntry {
    pub(super) fn new(entry: &Entry<'_>, bytes_max: usize) -> Self {
        // A thread that ends may have none any more.
        let mut bytes = SPARE.try_with(Cell::take).unwrap_or_default();
        bytes.clear();
        bytes.reserve(bytes_max);
        encode_into(entry, &mut bytes);
        Self(bytes)
    }
}

impl Deref for EncodedEntry {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for EncodedEntry {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for EncodedEntry {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.0);
        if bytes.capacity() <= KEPT_MAX {
            SPARE.try_with(|spare| spare.set(bytes)).ok();
        }
    }
}
