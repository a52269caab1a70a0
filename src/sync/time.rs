//! Time for shuttle's schedules, which have none: a test lets it pass, which wakes the threads
//! whose deadline has come.
//!
//! Nothing else ends a wait with a deadline. So a caller that is not woken waits for ever here,
//! where a timeout would save it in a real program, and the test finds it.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use shuttle::sync::Condvar;

use super::{Arc, UnseenMutex};

shuttle::lazy_static! {
    /// The time of the current schedule.
    static ref TIME: UnseenMutex<Time> = UnseenMutex::default();
}

#[derive(Default)]
struct Time {
    passed: Duration,
    next: u64,
    sleepers: Vec<(u64, Instant, Arc<Condvar>)>,
}

/// The time of the schedule.
pub(crate) fn now() -> Instant {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(origin);
    *ORIGIN + TIME.lock().passed
}

#[expect(
    clippy::disallowed_methods,
    reason = "an instant can't be made of anything else; only differences count"
)]
fn origin() -> Instant {
    Instant::now()
}

/// A thread that waits with a deadline; leaves the list when dropped.
pub(super) struct Sleeper(u64);

/// Wakes all waiters of `condvar` at this time.
pub(super) fn wake_at(at: Instant, condvar: &Arc<Condvar>) -> Sleeper {
    let mut time = TIME.lock();
    let id = time.next;
    time.next += 1;
    time.sleepers.push((id, at, Arc::clone(condvar)));
    Sleeper(id)
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        TIME.lock().sleepers.retain(|(id, ..)| *id != self.0);
    }
}

/// Lets `span` pass.
pub(crate) fn pass(span: Duration) {
    TIME.lock().passed += span;
    let now = now();
    let time = TIME.lock();
    let due: Vec<_> = time.sleepers.iter().filter(|(_, at, _)| *at <= now).cloned().collect();
    drop(time);
    // Somebody else runs in here.
    due.iter().for_each(|(.., condvar)| condvar.notify_all());
}
