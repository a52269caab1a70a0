//! Any bytes, to every decoder of what the engine reads from disk.
//!
//! The first byte chooses the decoder. None may panic, and what decodes encodes to the same bytes. None may ask for memory by a
//! length that the bytes only claim to have.

#![no_main]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

use idemkv::sim::Decoder;
use libfuzzer_sys::fuzz_target;

/// The system's allocator, and the most that it was asked for at once.
struct Watched;

static ASKED_MAX: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Watched = Watched;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED_MAX.fetch_max(layout.size(), Ordering::Relaxed);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// A page for a header of the log, a sector for a frame, and what growing vectors take beyond what they hold.
///
/// Two characters of JSON may be a number. The comparison of a typed result with what its JSON gives back holds it in 64 bytes, and
/// a vector that has grown has room for up to twice what it holds.
fn memory_max(decoder: Decoder, bytes: usize) -> usize {
    8_192 + bytes * if matches!(decoder, Decoder::Json) { 64 } else { 4 }
}

fuzz_target!(|input: &[u8]| {
    let Some((which, bytes)) = input.split_first() else { return };
    let decoder = Decoder::ALL[usize::from(*which) % Decoder::ALL.len()];
    ASKED_MAX.store(0, Ordering::Relaxed);
    let _taken = decoder.check(bytes);
    let asked = ASKED_MAX.load(Ordering::Relaxed);
    assert!(asked <= memory_max(decoder, bytes.len()), "{decoder:?} asks for {asked} bytes for {}", bytes.len());
});
