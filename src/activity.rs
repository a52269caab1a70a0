//! The current roles of the calling thread, so that application code that it runs never waits for
//! it.

use std::cell::{Cell, RefCell};

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
    /// It has the maintenance lock, and runs the work of an application's transaction: until that
    /// ends, there is no checkpoint.
    Works,
}

thread_local! {
    /// The roles, each with the address of its engine.
    static ROLES: RefCell<Vec<(usize, Activity)>> = const { RefCell::new(Vec::new()) };
    /// How many calls of application code the thread is inside of.
    static CALLS: Cell<usize> = const { Cell::new(0) };
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

    /// Gives the thread another role while `code` runs. No mark was entered after this one.
    pub(crate) fn lend<R>(&mut self, role: Activity, code: impl FnOnce() -> R) -> R {
        let _back = Lent(self, replace_last(role));
        code()
    }
}

impl Drop for ActivityMark {
    fn drop(&mut self) {
        ROLES.try_with(|roles| roles.borrow_mut().pop()).ok();
    }
}

/// Gives the last mark its own role back.
struct Lent<'a>(#[expect(dead_code, reason = "it lives for as long")] &'a mut ActivityMark, Option<Activity>);

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(role) = self.1 {
            replace_last(role);
        }
    }
}

fn replace_last(role: Activity) -> Option<Activity> {
    let replace = |roles: &RefCell<Vec<(usize, Activity)>>| {
        roles.borrow_mut().last_mut().map(|(_, last)| std::mem::replace(last, role))
    };
    ROLES.try_with(replace).ok().flatten()
}

/// Marks the thread while it calls application code: a waker, an observer, a body. The call may
/// come from anywhere in the engine, so the thread may have claims that no caller has yet.
#[must_use = "the mark goes with it"]
pub(crate) struct CallMark(());

impl CallMark {
    #[inline]
    pub(crate) fn enter() -> Self {
        CALLS.try_with(|calls| calls.set(calls.get() + 1)).ok();
        Self(())
    }
}

impl Drop for CallMark {
    #[inline]
    fn drop(&mut self) {
        CALLS.try_with(|calls| calls.set(calls.get() - 1)).ok();
    }
}

/// Whether an engine, this one or another, called the code that the thread runs.
pub(crate) fn is_called() -> bool {
    CALLS.try_with(|calls| calls.get() > 0).unwrap_or(false)
}

/// Whether the calling thread has one of these roles in this engine.
pub(crate) fn is_inside<T: ?Sized>(engine: &T, wanted: &[Activity]) -> bool {
    let id = id(engine);
    has_role(|(of, role)| *of == id && wanted.contains(role))
}

/// Whether the calling thread has one of these roles in any engine.
pub(crate) fn is_inside_any(wanted: &[Activity]) -> bool {
    has_role(|(_, role)| wanted.contains(role))
}

#[inline]
fn has_role(is_it: impl Fn(&(usize, Activity)) -> bool) -> bool {
    // A thread that is ending has none.
    ROLES.try_with(|roles| roles.borrow().iter().any(is_it)).unwrap_or(false)
}

fn id<T: ?Sized>(engine: &T) -> usize {
    std::ptr::from_ref(engine).addr()
}
