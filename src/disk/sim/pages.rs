//! The bytes of a file, in pages that copies share until one of them is written to.

use crate::sync::Arc;

const PAGE: usize = 4_096;
static ZEROS: [u8; PAGE] = [0; PAGE];

/// Bytes that are cheap to copy, and cheap where they are zero.
#[derive(Clone, Debug, Default)]
pub(super) struct Pages {
    len: usize,
    /// As many as `len` needs; `None` is a page of zeros. Bytes beyond `len` are zero.
    pages: Arc<Vec<Option<Arc<[u8; PAGE]>>>>,
}

impl Pages {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// New bytes are zero.
    pub(super) fn resize(&mut self, len: usize) {
        if len < self.len {
            self.fill(len..len.next_multiple_of(PAGE), |bytes| bytes.fill(0));
        }
        if len.div_ceil(PAGE) != self.pages.len() {
            Arc::make_mut(&mut self.pages).resize(len.div_ceil(PAGE), None);
        }
        self.len = len;
    }

    /// Fills `out` from `at` on; `false` if the bytes end before.
    #[must_use]
    pub(super) fn read(&self, at: usize, out: &mut [u8]) -> bool {
        if at.checked_add(out.len()).is_none_or(|end| end > self.len) {
            return false;
        }
        let (mut from, mut rest) = (at, out);
        while !rest.is_empty() {
            let skip = from % PAGE;
            let (now, later) = rest.split_at_mut((PAGE - skip).min(rest.len()));
            let page = self.pages.get(from / PAGE).and_then(Option::as_ref);
            match page.and_then(|page| page.get(skip..skip + now.len())) {
                Some(bytes) => now.copy_from_slice(bytes),
                None => now.fill(0),
            }
            from += now.len();
            rest = later;
        }
        true
    }

    /// Writes, and grows where needed.
    pub(super) fn write(&mut self, at: usize, bytes: &[u8]) {
        let end = at + bytes.len();
        if end > self.len {
            self.resize(end);
        }
        let (mut at, mut rest) = (at, bytes);
        while !rest.is_empty() {
            let (now, later) = rest.split_at((PAGE - at % PAGE).min(rest.len()));
            let end = at + now.len();
            // What is zero stays cheap, as the inside of a large value that an application writes.
            if !(ZEROS.starts_with(now) && self.is_zero(at..end)) {
                self.fill(at..end, |to| to.copy_from_slice(now));
            }
            (at, rest) = (end, later);
        }
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len];
        let whole = self.read(0, &mut bytes);
        debug_assert!(whole, "all of it is there");
        bytes
    }

    /// Whether a range is known to be zero.
    fn is_zero(&self, range: std::ops::Range<usize>) -> bool {
        let pages = self.pages.get(range.start / PAGE..range.end.div_ceil(PAGE));
        pages.is_some_and(|pages| pages.iter().all(Option::is_none))
    }

    /// Changes a range piece by piece, in order. There are pages for all of it.
    #[expect(clippy::indexing_slicing, reason = "callers see to the pages")]
    fn fill(&mut self, range: std::ops::Range<usize>, mut change: impl FnMut(&mut [u8])) {
        let pages = Arc::make_mut(&mut self.pages);
        let mut at = range.start;
        while at < range.end {
            let skip = at % PAGE;
            let len = (PAGE - skip).min(range.end - at);
            let page = pages[at / PAGE].get_or_insert_with(|| Arc::new([0; PAGE]));
            change(&mut Arc::make_mut(page)[skip..skip + len]);
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_keeps_its_bytes_and_what_was_cut_off_is_zero_when_it_comes_back() {
        let mut pages = Pages::default();
        pages.write(4_000, &[1; 5_000]);
        let copy = pages.clone();
        pages.write(4_095, &[2; 2]);
        pages.resize(4_097);
        pages.resize(10_000);
        let mut expected = vec![0; 10_000];
        expected[4_000..4_095].fill(1);
        expected[4_095..4_097].fill(2);
        assert_eq!(pages.to_vec(), expected);
        assert_eq!(copy.to_vec(), [vec![0; 4_000], vec![1; 5_000]].concat());
        assert!(!pages.read(9_999, &mut [0; 2]) && !pages.read(usize::MAX, &mut [0; 2]));
    }
}
