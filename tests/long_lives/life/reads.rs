//! Reads from disk: few long bodies among many short keys.

use super::{BODY_MAX, Life};
use crate::bounds;
use crate::common::done;

const SHORT: usize = 3_000;
const LONG: usize = 120;
const ROUNDS: usize = 3;

impl Life {
    /// Reads long bodies again and again, in a cycle that the cache can't hold, and asks for one
    /// of them before each of the others.
    pub(super) fn read_long_among_short(&mut self) {
        let first = self.keys.len() + SHORT;
        for n in 0..SHORT + LONG {
            self.complete(2, if n < SHORT { 5 } else { BODY_MAX });
            if n % 8 == 0 {
                self.step();
            }
        }
        self.engine().checkpoint().unwrap();
        self.phase.asked += 1;
        self.observe();
        let names: Vec<_> = self.keys[first..].iter().map(|key| key.name.clone()).collect();
        let scope = self.scopes[2].clone();
        let (wanted, others) = names.split_first().unwrap();
        let mut again = 0;
        for name in (0..ROUNDS).flat_map(|_| others) {
            let before = self.engine().stats().loaded;
            assert_eq!(done(&scope, wanted).body().len(), BODY_MAX);
            again += self.engine().stats().loaded - before;
            assert_eq!(done(&scope, name).body().len(), BODY_MAX);
            self.check_memory();
        }
        let may_be = bounds::read_again((ROUNDS * others.len()) as u64);
        self.holds("reads from disk of a record that is asked for all the time", again, may_be);
    }
}
