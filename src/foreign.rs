//! Runs application code: wakers, observers, bodies. A mark on the thread says so, and no panic
//! gets out.
//!
//! A waker is kept as a [`TaskWaker`] from the moment it is cloned. That type has no way to run or
//! to drop it without the mark.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::{Context, Waker};

use crate::activity::CallMark;

/// Calls application code; `None` if it panics. A blocking call in it is refused where it would
/// wait: see [`CallMark`].
pub(crate) fn call<T>(code: impl FnOnce() -> T) -> Option<T> {
    let _called = CallMark::enter();
    contain(code)
}

/// Calls application code whose panic is its caller's own.
pub(crate) fn call_through<T>(code: impl FnOnce() -> T) -> T {
    let _called = CallMark::enter();
    code()
}

/// The waker of a task. Its clone, its call and its drop are application code.
#[derive(Debug)]
pub(crate) struct TaskWaker(Option<Waker>);

impl TaskWaker {
    /// A panic unwinds the poll of this task alone.
    pub(crate) fn of(context: &Context<'_>) -> Self {
        Self(Some(call_through(|| context.waker().clone())))
    }

    /// Calls it. A panic is contained, because the thread has other tasks to wake.
    pub(crate) fn wake(mut self) {
        if let Some(waker) = self.0.take() {
            call(|| waker.wake());
        }
    }

    /// Whether both wake the same task.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.0.as_ref().zip(other.0.as_ref()).is_some_and(|(this, other)| this.will_wake(other))
    }
}

/// A panic is contained, because it must not unwind a call in the middle of a change.
impl Drop for TaskWaker {
    fn drop(&mut self) {
        if let Some(waker) = self.0.take() {
            call(|| drop(waker));
        }
    }
}

/// The result of `code`; `None` if it panics. For application code, use [`call`].
pub(crate) fn contain<T>(code: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(given) => Some(given),
        Err(payload) => {
            discard(payload);
            None
        }
    }
}

/// Drops what a caught panic carries. That is foreign too, and may panic as it is dropped. The
/// second payload is never dropped.
pub(crate) fn discard(payload: Box<dyn Any + Send>) {
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::panic_any;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic_any(Bomb);
        }
    }

    #[test]
    fn a_panic_that_carries_what_panics_as_it_is_dropped_does_not_get_out() {
        assert_eq!(contain(|| 7), Some(7));
        let contained = catch_unwind(|| contain(|| panic_any(Bomb)));
        assert!(contained.map_err(std::mem::forget).is_ok_and(|given: Option<()>| given.is_none()));
    }
}
