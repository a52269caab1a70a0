//! From a script that fails to a small one that fails too.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::script::{Op, Script};
use crate::world::Context;

thread_local! {
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What went wrong, and where.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) what: String,
    pub(crate) at: String,
}

/// Runs a script; where it fails, shrinks it, and panics with the seed, the smallest script that
/// still fails, and where it does.
pub(crate) fn examine<T>(script: &Script, run: impl Fn(&Script) -> T) -> T {
    match attempt(script, &run) {
        Ok(result) => result,
        Err(failed) => {
            let (smallest, last) = shrink(script, failed, |script| attempt(script, &run).err());
            panic!(
                "seed {}: {} of {} operations are enough, from {} ms on:{}\n{}\n{}",
                script.seed,
                smallest.ops.len(),
                script.ops.len(),
                smallest.start_ms,
                smallest.ops.iter().fold(String::new(), |ops, op| ops + &format!("\n  {op:?}")),
                last.at,
                last.what
            );
        }
    }
}

/// Runs without a word on standard error.
pub(crate) fn attempt<T>(script: &Script, run: impl Fn(&Script) -> T) -> Result<T, Failed> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !IS_QUIET.get() {
                loud(info);
            }
        }));
    });
    drop(Context::take_failed());
    let was_quiet = IS_QUIET.replace(true);
    let result = catch_unwind(AssertUnwindSafe(|| run(script)));
    IS_QUIET.set(was_quiet);
    result.map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        let said = said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned()));
        Failed { what: said.unwrap_or_default(), at: Context::take_failed().unwrap_or_default() }
    })
}

/// Leaves operations out, many at a time and then single ones, as long as what is left fails.
pub(crate) fn shrink(
    script: &Script,
    failed: Failed,
    fails: impl Fn(&Script) -> Option<Failed>,
) -> (Script, Failed) {
    let (mut smallest, mut last) = (script.clone(), failed);
    let mut chunk = smallest.ops.len().div_ceil(2).max(1);
    loop {
        let before = smallest.ops.len();
        let mut from = 0;
        while from < smallest.ops.len() {
            let without: Vec<Op> =
                [&smallest.ops[..from], &smallest.ops[(from + chunk).min(smallest.ops.len())..]].concat();
            let candidate = Script { ops: without, ..smallest.clone() };
            match fails(&candidate) {
                Some(failed) => (smallest, last) = (candidate, failed),
                None => from += chunk,
            }
        }
        if chunk == 1 && smallest.ops.len() == before {
            return (smallest, last);
        }
        chunk = (chunk / 2).max(1);
    }
}
