//! A backup that is put back: what was granted after it was taken neither comes again nor counts.

use std::path::Path;
use std::time::Duration;

use crate::common::{Machine, START_MS, fresh};
use idemkv::sim::ManualClock;
use idemkv::{Engine, Scope, TokenError};

const FILES: [&str; 2] = ["x.idem", "x.idem-wal"];

fn at(millis: u64) -> Machine {
    Machine { clock: ManualClock::at_millis(millis), ..Machine::default() }
}

fn jobs(engine: &Engine) -> Scope {
    engine.set_policy("jobs", engine.policy().lease(Duration::from_secs(600))).unwrap()
}

/// The files of a machine as they are: a backup of both, taken while the file is closed.
fn backup(machine: &Machine) -> Vec<Vec<u8>> {
    FILES.iter().map(|file| machine.disk.read(Path::new(file)).unwrap()).collect()
}

fn restore(machine: &Machine, files: &[Vec<u8>]) {
    for (name, bytes) in FILES.iter().zip(files) {
        machine.disk.put(Path::new(name), bytes).unwrap();
    }
}

#[test]
fn a_token_from_after_the_backup_does_not_take_up_a_claim_that_was_granted_after_it_was_put_back() {
    // Also where the clock was never set, so that fences come again.
    for start in [START_MS, 1_000] {
        let machine = at(start);
        let engine = machine.open();
        drop(jobs(&engine));
        engine.close().unwrap();
        let files = backup(&machine);

        let engine = machine.open();
        let claim = fresh(&engine.scope("jobs"), "key");
        let (fence, token) = (claim.fence(), claim.into_token().unwrap());
        engine.close().unwrap();

        restore(&machine, &files);
        // Another process draws another salt.
        let engine = machine.options().seed(2).open("x.idem").unwrap();
        let scope = engine.scope("jobs");
        let claim = fresh(&scope, "key");
        let again = claim.fence();
        let own = claim.into_token().unwrap();
        let refused = scope.resume(&token);
        assert!(
            matches!(refused, Err(TokenError::Superseded(_))),
            "{start}: fence {fence}, then {again}: {refused:?}"
        );
        scope.resume(&own).unwrap().complete("reply").unwrap();
    }
}

#[test]
fn fences_after_a_backup_is_put_back_are_above_all_that_were_granted_before() {
    let machine = at(START_MS);
    machine.open().close().unwrap();
    let files = backup(&machine);
    let mut last = 0;
    for round in 0..20_u64 {
        let engine = machine.options().seed(round).open("x.idem").unwrap();
        let scope = engine.scope("");
        for n in 0..50 {
            let claim = fresh(&scope, &format!("{round} {n}"));
            assert!(claim.fence().get() > last, "round {round}");
            assert!(claim.fence().get() < 1 << 53, "JavaScript counts no further");
            last = claim.fence().get();
            claim.release().unwrap();
        }
        machine.clock.advance(Duration::from_millis(1));
        drop(scope);
        engine.close().unwrap();
        restore(&machine, &files);
    }
}

#[test]
fn a_token_counts_over_restarts_of_the_line_that_made_it() {
    let machine = at(START_MS);
    let engine = machine.open();
    let token = fresh(&jobs(&engine), "key").into_token().unwrap();
    machine.kill(engine);
    for _ in 0..3 {
        let engine = machine.open();
        engine.close().unwrap();
    }
    let engine = machine.open();
    engine.scope("jobs").resume(&token).unwrap().complete("reply").unwrap();
}
