//! What runs in a forked child, and how its parent learns what came of it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A child that hangs is killed after so many seconds.
const SECONDS_MAX: u32 = 60;

/// One test at a time: in a child that was made past the C library, its allocator may be locked by
/// a thread of another test.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a process is forked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As programs do.
    Fork,
    /// Past the C library, whose handlers don't run.
    #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
    Clone,
}

#[expect(unsafe_code, reason = "fork has no safe form")]
fn fork(way: Way) -> libc::pid_t {
    // SAFETY: the child goes on alone with a copy of all memory. It takes no lock that another
    // thread may have held, but for the allocator's, which the C library sees to; finding out
    // otherwise is what these tests are for, and a hang ends by the alarm.
    unsafe {
        match way {
            Way::Fork => libc::fork(),
            #[cfg(all(target_os = "linux", target_arch = "x86_64"))]
            Way::Clone => {
                let none = 0_usize;
                let made = libc::syscall(libc::SYS_clone, libc::SIGCHLD, none, none, none, none);
                libc::pid_t::try_from(made).unwrap()
            }
        }
    }
}

/// Ends the process at once.
#[expect(unsafe_code, reason = "nothing else leaves without running what others registered")]
pub fn leave(code: i32) -> ! {
    #[cfg(coverage)]
    save_coverage();
    // SAFETY: it does not come back.
    unsafe { libc::_exit(code) }
}

/// Adds what ran in the child to the measurement, which is otherwise saved at an orderly exit.
#[cfg(coverage)]
#[expect(unsafe_code, reason = "the compiler's runtime has no other interface")]
fn save_coverage() {
    unsafe extern "C" {
        fn __llvm_profile_write_file() -> libc::c_int;
    }
    // SAFETY: no other thread of the child runs, and the function takes no arguments.
    unsafe { __llvm_profile_write_file() };
}

#[expect(unsafe_code, reason = "a watchdog that needs no thread")]
fn set_alarm() {
    // SAFETY: the signal's default ends the process.
    unsafe { libc::alarm(SECONDS_MAX) };
}

#[expect(unsafe_code, reason = "a child that was forked by hand is waited for by hand")]
fn wait(child: libc::pid_t) -> i32 {
    let mut status = 0;
    // SAFETY: `status` is there for as long as the call lasts.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!(waited, child);
    status
}

/// Runs `body` in a child, and waits for that; fails where it panics, hangs or dies.
#[track_caller]
pub fn in_child(way: Way, body: impl FnOnce()) {
    let child = fork(way);
    assert!(child >= 0, "the system forks");
    if child == 0 {
        set_alarm();
        // The hook of the tests takes locks.
        std::panic::set_hook(Box::new(|panic| {
            let said = format!("in a forked child: {panic}\n");
            drop(std::fs::write("/dev/stderr", said));
        }));
        leave(i32::from(catch_unwind(AssertUnwindSafe(body)).is_err()));
    }
    let status = wait(child);
    assert!(libc::WIFEXITED(status), "the child hung, or died: {status:#x}");
    assert_eq!(libc::WEXITSTATUS(status), 0, "the child found something");
}

/// Forks; `None` in the child, which has to [`leave`]. In the parent, what to [`join`].
pub fn split() -> Option<libc::pid_t> {
    let child = fork(Way::Fork);
    assert!(child >= 0, "the system forks");
    if child == 0 {
        set_alarm();
        return None;
    }
    Some(child)
}

/// Waits for a child, and fails unless it left with 0.
#[track_caller]
pub fn join(child: libc::pid_t) {
    assert_eq!(wait(child), 0, "the child hung, died, or found something");
}
