//! The current roles of the calling thread, so that application code that it runs never waits for
//! it.

use std::cell::RefCell;

use crate::sync::thread_local;

/// A role that a thread has further up its stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It leads or publishes: until it continues, nothing becomes durable, or nothing is
    /// published.
    Commits,
    /// It has the maintenance lock: until it continues, there is no checkpoint.
    Maintains,
    /// It reads an application's tables.
    Transaction,
    /// It has the maintenance lock for an application's transaction that writes: until it
    /// continues, there is no checkpoint.
    Writes,
    /// It runs the work of that transaction.
    Works,
    /// It is calling an observer. The thread may hold claims that its caller does not have yet.
    Tells,
}

thread_local! {
    /// The roles, each with the address of its engine or observer.
    static ROLES: RefCell<Vec<(usize, Activity)>> = const { RefCell::new(Vec::new()) };
}

/// Marks the thread until it is dropped.
#[must_use = "the mark goes with it"]
pub(crate) struct ActivityMark(());

impl ActivityMark {
    pub(crate) fn enter<T: ?Sized>(engine: &T, role: Activity) -> Self {
        // A thread that is ending keeps no list: its own thread-locals may have the last handle on
        // an engine.
        ROLES.try_with(|roles| roles.borrow_mut().push((id(engine), role))).ok();
        Self(())
    }
}

impl Drop for ActivityMark {
    fn drop(&mut self) {
        ROLES.try_with(|roles| roles.borrow_mut().pop()).ok();
    }
}

/// Whether the calling thread has one of these roles in this engine, or with this observer.
pub(crate) fn is_inside<T: ?Sized>(engine: &T, wanted: &[Activity]) -> bool {
    let id = id(engine);
    let is_it = |(of, role): &(usize, Activity)| *of == id && wanted.contains(role);
    // A thread that is ending has none.
    ROLES.try_with(|roles| roles.borrow().iter().any(is_it)).unwrap_or(false)
}

fn id<T: ?Sized>(engine: &T) -> usize {
    std::ptr::from_ref(engine).addr()
}
