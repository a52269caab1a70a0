//! Runs application code so that no panic of it gets out.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// The result of `code`; `None` if it panics.
pub(crate) fn contain<T>(code: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(given) => Some(given),
        Err(payload) => {
            // What a panic carries is foreign too, and may panic as it is dropped. The second
            // payload is never dropped.
            if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
                std::mem::forget(second);
            }
            None
        }
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
