//! Rows that vanish without a trace: every bit of the number of entries that a page of rows says
//! it has.

use std::collections::BTreeMap;
use std::path::Path;

use idemkv::sim::CrashKind;
use idemkv::{Engine, Options, Policy, Status, Verify};

use crate::common::{Machine, TTL, UNRESOLVED, fresh};

const PAGE: usize = 4_096;
/// What a page of rows begins with, in redb's format.
const LEAF: u8 = 1;
/// The bits of its number of entries.
const ENTRIES: std::ops::Range<usize> = 16..32;

const KEYS: usize = 40;
const FORGOTTEN: [usize; 2] = [0, 8];
const INTERRUPTED: [&str; 3] = ["a", "b", "c"];

/// As if the file were longer than those that an opening verifies.
fn options(machine: &Machine) -> Options {
    machine.options().verify(Verify::UpTo(0))
}

fn policy(scope: usize) -> Policy {
    let hours = TTL * u32::try_from(scope + 2).unwrap();
    Policy::default().unresolved_ttl(UNRESOLVED).ttl(hours)
}

/// A file with rows in every table.
fn write(machine: &Machine) {
    let engine = options(machine).open("x.idem").unwrap();
    let scope = engine.scope("keys");
    for key in 0..KEYS {
        fresh(&scope, &key.to_string()).complete(vec![b'x'; 200]).unwrap();
    }
    engine.checkpoint().unwrap();
    for key in FORGOTTEN {
        scope.forget(key.to_string()).unwrap();
    }
    for (number, name) in ["first", "second"].into_iter().enumerate() {
        engine.set_policy(name, policy(number)).unwrap();
    }
    let _interrupted = INTERRUPTED.map(|key| drop(fresh(&scope, key)));
    engine.close().unwrap();
}

/// What an engine says that it never said before, if there is anything.
fn what_is_new(engine: &Engine) -> Option<&'static str> {
    let scope = engine.scope("keys");
    let is = |key: &str, expected: fn(&Status) -> bool| match scope.get(key) {
        Ok(status) => expected(&status),
        // Damage that is said to be damage.
        Err(_) => true,
    };
    let wrong = |key: &usize| !is(&key.to_string(), |status| matches!(status, Status::Vacant));
    if FORGOTTEN.iter().any(wrong) {
        return Some("a forgotten record is back");
    }
    let done = |key: usize| is(&key.to_string(), |status| matches!(status, Status::Done(_)));
    if !(0..KEYS).filter(|key| !FORGOTTEN.contains(key)).all(done) {
        return Some("a record is gone");
    }
    if !INTERRUPTED.iter().all(|key| is(key, |status| matches!(status, Status::Interrupted(_)))) {
        return Some("an interruption is gone");
    }
    let is_policy = |(number, name)| engine.scope(name).policy() == policy(number);
    if !["first", "second"].into_iter().enumerate().all(is_policy) {
        return Some("a policy is gone");
    }
    None
}

#[test]
fn a_page_that_says_that_it_has_other_rows_is_refused_or_harmless() {
    crate::hide_panics_of_redb();
    let machine = Machine::default();
    write(&machine);
    let bytes = machine.disk.read(Path::new("x.idem")).unwrap();
    assert_eq!(what_is_new(&options(&machine).open("x.idem").unwrap()), None);
    let leaves = (1..bytes.len() / PAGE).filter(|page| bytes[page * PAGE] == LEAF);
    let mut met = BTreeMap::new();
    for (page, bit) in leaves.flat_map(|page| ENTRIES.map(move |bit| (page, bit))) {
        let disk = machine.disk.image(CrashKind::KeepAll);
        assert!(disk.flip(Path::new("x.idem"), (page * PAGE * 8 + bit) as u64));
        let damaged = Machine { disk, ..machine.clone() };
        let found = match options(&damaged).open("x.idem") {
            Err(_) => "refused",
            Ok(engine) => match what_is_new(&engine) {
                Some(wrong) => panic!("page {page}, bit {bit}: {wrong}"),
                None => "harmless",
            },
        };
        *met.entry(found).or_insert(0) += 1;
    }
    println!("{met:?}");
    assert!(met.len() == 2 && met["refused"] > 40, "only {met:?} was met");
}
