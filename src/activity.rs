//! What the calling thread is in the middle of, further up its stack, so that code of others that
//! it runs never waits for it.

use std::cell::RefCell;

use crate::sync::thread_local;

/// What a thread is in the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Activity {
    /// It leads or publishes: nothing is durable, or nothing is shown, before it goes on.
    Commits,
    /// It has the maintenance lock: no checkpoint is made before it goes on.
    Maintains,
    /// It is in a transaction of an application's, to write or to read.
    Transaction,
    /// It tells an observer of something. The thread may have claims in hand that its caller does
    /// not have yet.
    Tells,
}

thread_local! {
    /// By engine or observer, as the address of something in it.
    static ROLES: RefCell<Vec<(usize, Activity)>> = const { RefCell::new(Vec::new()) };
}

/// Marks the thread for as long as it lives.
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
