//! `UnwindSafe` for the handles: they may be used after a caught panic.
//!
//! The engine keeps its state consistent: a panic of the background work or of a commit stops
//! grants, and a claim that is dropped during an unwind is interrupted. So a web framework that
//! catches panics may share handles among its handlers.

use std::panic::{RefUnwindSafe, UnwindSafe};

use super::handles::claim::Claim;
use super::handles::ending::Ending;
use super::handles::engine::Engine;
use super::handles::entries::Entries;
use super::handles::pending::Pending;
use super::handles::scope::Scope;
use crate::IoFailure;

macro_rules! unwind_safe {
    ($($handle:ty),*) => {
        $(impl UnwindSafe for $handle {}
        impl RefUnwindSafe for $handle {})*
    };
}

unwind_safe!(Engine, Scope, Claim, Pending, Entries);
// An error of the system, which nobody changes any more. It is in answers.
unwind_safe!(IoFailure);

impl<T> UnwindSafe for Ending<T> {}
impl<T> RefUnwindSafe for Ending<T> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Begin;
    use crate::Record;
    use crate::Status;

    fn may_cross_a_caught_panic<T: UnwindSafe + RefUnwindSafe + Send>() {}

    #[test]
    fn handles_and_answers_may_cross_a_caught_panic() {
        may_cross_a_caught_panic::<Engine>();
        may_cross_a_caught_panic::<Scope>();
        may_cross_a_caught_panic::<Claim>();
        may_cross_a_caught_panic::<Pending>();
        may_cross_a_caught_panic::<Entries>();
        may_cross_a_caught_panic::<Begin>();
        may_cross_a_caught_panic::<Ending<Record>>();
        may_cross_a_caught_panic::<Record>();
        may_cross_a_caught_panic::<Status>();
    }
}
