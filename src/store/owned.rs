//! `Owned`: owns a redb value whose drop may panic.
//!
//! After a panic inside redb its locks are poisoned, and the drop of a database, a transaction or
//! a table unwraps them. So every such value lives in an [`Owned`], on error paths too. The panic
//! is caught inside the destructor, because a second panic that leaves a destructor during an
//! unwind would abort the process.

use std::ops::{Deref, DerefMut};

use super::backend_error::catch_backend_panic;

/// A value whose drop never panics.
#[derive(Debug)]
pub(super) struct Owned<T>(Option<T>);

impl<T> Owned<T> {
    pub(super) fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Without the guard, for a call that consumes the value. Make it inside
    /// [`catch_backend_panic`].
    pub(super) fn into_inner(mut self) -> T {
        self.0.take().unwrap_or_else(|| unreachable!("it is there until it is consumed"))
    }
}

impl<T> Deref for Owned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0.as_ref().unwrap_or_else(|| unreachable!("it is there until it is consumed"))
    }
}

impl<T> DerefMut for Owned<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.0.as_mut().unwrap_or_else(|| unreachable!("it is there until it is consumed"))
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        let value = self.0.take();
        let dropped = catch_backend_panic(|| {
            drop(value);
            Ok(())
        });
        // What is lost with it, the next opening finds out.
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    struct Loud;

    impl Drop for Loud {
        fn drop(&mut self) {
            panic!("a poisoned lock");
        }
    }

    #[test]
    fn a_drop_that_panics_is_not_heard_of() {
        drop(Owned::new(Loud));
    }

    #[test]
    fn a_drop_that_panics_during_an_unwind_does_not_abort() {
        let owned = Owned::new(Loud);
        let caught = catch_unwind(AssertUnwindSafe(|| {
            let _inside = owned;
            panic!("the first");
        }));
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"the first"));
    }

    #[test]
    fn what_is_consumed_is_not_dropped_twice() {
        assert_eq!(Owned::new(7).into_inner(), 7);
    }
}
