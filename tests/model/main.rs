//! Long histories of calls, on an engine and on a naive model of its promises: every answer is one
//! that the model gives.
//!
//! Claims, tokens, batches, policies, effects, clocks that jump, closing, kills, power cuts, and
//! all of it again. proptest makes a history that fails as short as it can.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::struct_excessive_bools,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

#[path = "../common/budget.rs"]
mod budget;
mod calls;
mod key;
mod script;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};

use budget::Budget;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};

use script::{CALL_BYTES, Call};
use world::{Image, World};

/// Calls of the longest histories.
const CALLS_MAX: usize = 400;

fn runner(seed: u64) -> TestRunner {
    let mut bytes = [0; 32];
    bytes.iter_mut().zip(seed.to_le_bytes()).for_each(|(to, from)| *to = from);
    let config = Config { failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// A place to start from, and calls.
fn history() -> impl Strategy<Value = (usize, Vec<[u8; CALL_BYTES]>)> {
    (0_usize..3, proptest::collection::vec(any::<[u8; CALL_BYTES]>(), 0..CALLS_MAX))
}

/// The rig must be able to fail: a disk that ignores syncs loses what was acknowledged, and that
/// must be noticed.
#[test]
fn the_model_notices_a_disk_that_ignores_syncs() {
    let images = Image::all();
    let drop_all = [1, 5, 9].map(|after| [script::CRASH, 0, after, 1]);
    let complete = [[script::BEGIN, 0, 0, 0], [script::COMPLETE, 0, 2, 0], [script::BEGIN, 1, 0, 0]];
    let caught = drop_all.into_iter().filter(|crash| {
        let calls = [complete.as_slice(), &[*crash], &complete, &complete, &complete].concat();
        let run = || {
            let mut world = World::new(&images[0]);
            world.disk.ignore_syncs("");
            calls::run(&mut world, Call::all(calls.as_flattened()), true);
        };
        catch_unwind(AssertUnwindSafe(run)).is_err()
    });
    assert!(caught.count() > 0, "no crash without syncs was noticed");
}

#[test]
fn every_answer_of_a_long_history_is_one_that_was_promised() {
    let images = Image::all();
    // Of a failing history only the shortest form is told.
    let loud = std::panic::take_hook();
    let said = Arc::new(Mutex::new(String::new()));
    let heard = Arc::clone(&said);
    std::panic::set_hook(Box::new(move |panic| *heard.lock().unwrap() = panic.to_string()));
    let mut budget =
        Budget::new("model::every_answer_of_a_long_history_is_one_that_was_promised", "model histories", 300);
    while let Some(seed) = budget.next_seed() {
        let mut runner = runner(seed);
        let tree = history().new_tree(&mut runner).unwrap();
        let result = runner.run_one(tree, |(image, script)| {
            let run = || calls::run(&mut World::new(&images[image]), Call::all(script.as_flattened()), true);
            catch_unwind(AssertUnwindSafe(run))
                .map_err(|_panic| TestCaseError::fail(said.lock().unwrap().clone()))
        });
        if let Err(TestError::Fail(reason, (image, script))) = result {
            std::panic::set_hook(loud);
            let calls = Call::all(script.as_flattened()).map(|call| format!("{call:?}\n"));
            panic!("from image {image}:\n{}{reason}", calls.collect::<String>());
        }
        budget.count(1);
    }
}
