//! Forked children. A child of `fork` has a copy of every engine, but the file and its lock are
//! the parent's: it may touch neither.
//!
//! The only module with `unsafe` code: it registers a handler that the C library runs in every
//! forked child. So a check costs one load and one comparison, and no system call.

use std::io;

use crate::sync::{Ordering, UnseenU64};

/// How often this process and its ancestors were forked since the handler was registered.
static GENERATION: UnseenU64 = UnseenU64::new(0);

/// The generation of the calling process.
#[inline]
pub(crate) fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

/// Registers the handler, so that forks are noticed from now on. Called before a file is opened.
#[cfg(unix)]
#[expect(unsafe_code, reason = "the C library's handlers of fork have no safe form")]
pub(crate) fn watch() -> io::Result<()> {
    use std::sync::OnceLock;

    static ERROR: OnceLock<libc::c_int> = OnceLock::new();

    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }

    // SAFETY: the handler is a function of this program, and lives as long as it. It does one
    // atomic addition, which a handler may do in the child of a process with many threads: it
    // takes no lock and allocates nothing.
    match ERROR.get_or_init(|| unsafe { libc::pthread_atfork(None, None, Some(in_child)) }) {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(*error)),
    }
}

/// Other systems have no `fork`.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "as on systems that have `fork`")]
pub(crate) fn watch() -> io::Result<()> {
    Ok(())
}

/// The process that owns something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    generation: u64,
    process: u32,
}

impl Origin {
    /// The calling process.
    pub(crate) fn here() -> Self {
        Self { generation: generation(), process: std::process::id() }
    }

    /// A process that this one was forked from.
    #[cfg(test)]
    pub(crate) fn of_another() -> Self {
        Self { generation: generation().wrapping_sub(1), ..Self::here() }
    }

    /// Whether the calling process is a forked child of that process.
    #[inline]
    pub(crate) fn is_elsewhere(self) -> bool {
        self.generation != generation()
    }

    /// The same, but also asks the system, for a child that was forked without the C library.
    /// Costs a system call.
    pub(crate) fn is_elsewhere_for_sure(self) -> bool {
        self.is_elsewhere() || self.process != std::process::id()
    }
}
