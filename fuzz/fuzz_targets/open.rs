//! Files that were damaged as the input says: they are refused, or say what they have said before. See `tests/damage`.

#![no_main]

#[path = "../../tests/damage/damage.rs"]
mod damage;
#[path = "../../tests/damage/specimen.rs"]
mod specimen;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use specimen::Specimen;

fn specimens() -> &'static [Specimen] {
    static SPECIMENS: OnceLock<Vec<Specimen>> = OnceLock::new();
    SPECIMENS.get_or_init(Specimen::all)
}

/// A panic of redb's on an altered page is caught, and reported as damage; all others end the run.
fn let_redb_panic() {
    let fatal = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if panic.location().is_none_or(|at| !at.file().contains("redb-")) {
            fatal(panic);
        }
    }));
}

fuzz_target!(init: let_redb_panic(), |input: &[u8]| {
    damage::examine(specimens(), input);
});
