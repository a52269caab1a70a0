//! Lengths that bytes from disk claim to have are not believed: no decoder asks for memory by one.

#![allow(missing_docs, unreachable_pub, clippy::indexing_slicing, reason = "tests")]
#![allow(unsafe_code, reason = "an allocator that counts")]
#![cfg(feature = "sim")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use idemkv::sim::Decoder;

thread_local! {
    static ASKED_MAX: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, and the most that a thread asked it for at once.
struct Watched;

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED_MAX.with(|max| max.set(max.get().max(layout.size())));
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// A page for a header of the log, a sector for a frame, and what short strings in errors take.
const SMALL: usize = 8_192;

/// 64,507 bytes, 16 MiB, 4 GiB and more, as bincode and as the log and the blocks write lengths.
const CLAIMS: [&[u8]; 5] =
    [&[0xfb, 0xfb, 0xfb], &[0xfc, 0, 0, 0, 1], &[0xfd, 0, 0, 0, 0, 1, 0, 0, 0], &[0, 0, 0, 1], &[0xff; 8]];

#[test]
fn no_decoder_asks_for_memory_by_a_length_that_bytes_only_claim() {
    let mut tried = 0;
    for decoder in Decoder::ALL {
        let example = decoder.example();
        assert!(example.len() < 1_024, "{decoder:?}: too long to show it");
        for at in 0..example.len() {
            for claim in CLAIMS {
                // In place of what is there, and in front of it.
                for skipped in [claim.len(), 1] {
                    let mut bytes = example.clone();
                    bytes.splice(at..(at + skipped).min(example.len()), claim.iter().copied());
                    ASKED_MAX.set(0);
                    let _taken = decoder.check(&bytes);
                    let asked = ASKED_MAX.get();
                    assert!(
                        asked <= SMALL + 4 * bytes.len(),
                        "{decoder:?} asks for {asked} bytes for {}, at {at}",
                        bytes.len()
                    );
                    tried += 1;
                }
            }
        }
    }
    assert!(tried > 1_000);
}
