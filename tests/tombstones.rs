//! What is left of a record when it is no longer replayed: a very late retry is told so instead of being run again.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::unchecked_time_subtraction,
    reason = "tests"
)]

mod common;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Machine, START_MS, TTL, default_scope, done, fresh, request};
use idemkv::sim::CrashKind;
use idemkv::{
    Begin, BeginError, ClaimError, Completion, Engine, Fingerprint, Outcome, Scope, Status, Timestamp,
    Tombstone, Verify,
};

const TOMBSTONE_TTL: Duration = Duration::from_secs(10 * 3_600);
const TICK: Duration = Duration::from_millis(1);

fn open(machine: &Machine) -> Engine {
    machine.options().tombstone_ttl(TOMBSTONE_TTL).open("x.idem").unwrap()
}

/// With no room in the cache, so that every lookup goes to the file.
fn open_uncached(machine: &Machine) -> Engine {
    machine.options().tombstone_ttl(TOMBSTONE_TTL).cache_bytes(0).open("x.idem").unwrap()
}

#[track_caller]
fn expired(scope: &Scope, key: &str) -> Tombstone {
    match scope.begin(key, request()) {
        Err(BeginError::Expired(tombstone)) => tombstone,
        other => panic!("{key} should be expired, is {other:?}"),
    }
}

/// How the engine is treated between a completion and a late retry.
#[derive(Clone, Copy, Debug)]
enum Treatment {
    Nothing,
    /// Stored while it was live.
    Stored,
    /// Stored, and its block reclaimed.
    Reclaimed,
    /// First stored when its time was over.
    StoredLate,
    Reopened,
    Killed,
    ReclaimedAndKilled,
}

const TREATMENTS: [Treatment; 7] = [
    Treatment::Nothing,
    Treatment::Stored,
    Treatment::Reclaimed,
    Treatment::StoredLate,
    Treatment::Reopened,
    Treatment::Killed,
    Treatment::ReclaimedAndKilled,
];

/// An engine with one failed key, whose record has just expired.
fn just_expired(machine: &Machine, treatment: Treatment, open: fn(&Machine) -> Engine) -> Engine {
    let engine = open(machine);
    fresh(&default_scope(&engine), "key").fail("declined").unwrap();
    if matches!(treatment, Treatment::Stored | Treatment::Reclaimed | Treatment::ReclaimedAndKilled) {
        engine.checkpoint().unwrap();
    }
    machine.clock.advance(TTL);
    if matches!(treatment, Treatment::StoredLate | Treatment::Reclaimed | Treatment::ReclaimedAndKilled) {
        engine.checkpoint().unwrap();
    }
    match treatment {
        Treatment::Nothing | Treatment::Stored | Treatment::Reclaimed | Treatment::StoredLate => engine,
        Treatment::Reopened => {
            engine.close().unwrap();
            open(machine)
        }
        Treatment::Killed | Treatment::ReclaimedAndKilled => {
            machine.kill(engine);
            open(machine)
        }
    }
}

#[test]
fn a_late_retry_is_told_that_the_operation_has_run_until_the_last_millisecond() {
    for (treatment, open) in
        TREATMENTS.iter().flat_map(|it| [(*it, open as fn(&_) -> _), (*it, open_uncached)])
    {
        let machine = Machine::default();
        let engine = just_expired(&machine, treatment, open);
        let scope = default_scope(&engine);
        let tombstone = expired(&scope, "key");
        assert_eq!(tombstone.outcome(), Outcome::Failure, "{treatment:?}");
        assert_eq!((tombstone.attempt(), tombstone.fingerprint()), (1, &request()));
        let completed = Timestamp::from_millis(START_MS);
        assert_eq!(tombstone.completed(), completed);
        assert_eq!(tombstone.expired(), completed.saturating_add(TTL));
        assert_eq!(tombstone.remembered_until(), completed.saturating_add(TOMBSTONE_TTL));
        assert!(matches!(scope.get("key").unwrap(), Status::Expired(same) if same == tombstone));
        let other = scope.begin("key", Fingerprint::of("another request"));
        assert!(matches!(other, Err(BeginError::KeyReused)), "{treatment:?}: {other:?}");
        assert_eq!((engine.stats().late, engine.stats().reused), (1, 1));
        assert_eq!(engine.entries().count(), 1);

        machine.clock.advance(TOMBSTONE_TTL - TTL - TICK);
        engine.step();
        assert_eq!(expired(&scope, "key"), tombstone, "{treatment:?}");
        machine.clock.advance(TICK);
        assert!(matches!(scope.get("key").unwrap(), Status::Vacant), "{treatment:?}");
        assert_eq!(fresh(&scope, "key").attempt(), 1);
    }
}

#[test]
fn a_record_is_replayed_to_its_last_millisecond_though_its_key_is_remembered_for_longer() {
    let machine = Machine::default();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    fresh(&scope, "key").complete("reply").unwrap();
    machine.clock.advance(TTL - TICK);
    let record = done(&scope, "key");
    assert_eq!((record.body(), record.is_body_kept()), (&b"reply"[..], true));
    assert_eq!(record.remembered_until().saturating_since(record.expires()), TOMBSTONE_TTL - TTL);
    machine.clock.advance(TICK);
    let error = scope.begin("key", request()).unwrap_err();
    assert!(!error.is_retryable());
    assert!(error.to_string().contains("no longer kept") && error.to_string().contains("new key"), "{error}");
}

#[test]
fn entries_shows_what_is_left_of_a_record_with_its_names() {
    let machine = Machine::default();
    let engine = open_uncached(&machine);
    fresh(&engine.scope("charges"), "key").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL);
    for _ in 0..2 {
        let entries: Vec<_> = engine.entries().map(Result::unwrap).collect();
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].scope(), entries[0].key()), (&b"charges"[..], &b"key"[..]));
        assert!(matches!(entries[0].status(), Status::Expired(_)));
        engine.checkpoint().unwrap();
    }
}

#[test]
fn when_its_time_is_over_nothing_is_left_of_a_key_in_memory_and_on_disk() {
    let machine = Machine::default();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    for n in 0..300 {
        fresh(&scope, &format!("key {n}")).complete("reply").unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL);
    engine.step();
    assert_eq!((engine.stats().entries, engine.stats().expired), (300, 0));
    machine.clock.advance(TOMBSTONE_TTL - TTL - TICK);
    engine.step();
    assert_eq!(engine.stats().entries, 300);
    // The sweeper's rhythm is a minute here; that nothing is answered from what it has not removed yet is held elsewhere.
    machine.clock.advance(Duration::from_secs(60));
    let blocks = engine.stats().reclaimed_blocks;
    engine.step();
    assert_eq!((engine.stats().entries, engine.stats().expired), (0, 300));
    assert!(engine.stats().reclaimed_blocks > blocks);
    drop(scope);
    machine.kill(engine);
    assert_eq!(open(&machine).entries().count(), 0);
}

#[test]
fn a_tombstone_can_be_forgotten_and_does_not_come_back() {
    for treatment in TREATMENTS {
        let machine = Machine::default();
        let engine = just_expired(&machine, treatment, open_uncached);
        assert!(engine.forget("key").unwrap(), "{treatment:?}");
        assert!(!engine.forget("key").unwrap(), "{treatment:?}");
        for round in 0..3 {
            assert!(matches!(engine.get("key").unwrap(), Status::Vacant), "{treatment:?}, round {round}");
            engine.checkpoint().unwrap();
            machine.clock.advance(TICK);
        }
        machine.kill(engine);
        let engine = open(&machine);
        assert!(matches!(engine.get("key").unwrap(), Status::Vacant), "{treatment:?}");
        fresh(&default_scope(&engine), "key").complete("again").unwrap();
        engine.checkpoint().unwrap();
        machine.kill(engine);
        assert_eq!(done(&default_scope(&open(&machine)), "key").body(), b"again", "{treatment:?}");
    }
}

/// Forgotten while it was live, so that its row hides its block by number; the rest of the block then moves to a higher number.
#[test]
fn a_forgotten_record_does_not_move_with_the_rest_of_its_block() {
    let machine = Machine::default();
    let engine = open(&machine);
    let scope = default_scope(&engine);
    for key in ["kept", "forgotten", "forgotten late", "run again"] {
        fresh(&scope, key).complete("reply").unwrap();
    }
    engine.checkpoint().unwrap();
    assert!(scope.forget("forgotten").unwrap());
    assert!(scope.forget("run again").unwrap());
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL / 2);
    fresh(&scope, "run again").complete("second").unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL / 2);
    // In the very checkpoint that moves the block.
    assert!(scope.forget("forgotten late").unwrap());
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().reclaimed_blocks, 1);
    drop(scope);
    machine.kill(engine);
    let engine = open(&machine);
    let scope = default_scope(&engine);
    expired(&scope, "kept");
    assert!(matches!(scope.get("forgotten").unwrap(), Status::Vacant));
    assert!(matches!(scope.get("forgotten late").unwrap(), Status::Vacant));
    assert_eq!(done(&scope, "run again").body(), b"second");
}

/// The row that hides the first record must stay as long as that would have been remembered, though the second one is short-lived.
#[test]
fn a_key_forgotten_twice_stays_forgotten_when_the_second_record_was_the_shorter_lived() {
    let machine = Machine::default();
    let engine = open(&machine);
    fresh(&default_scope(&engine), "key").complete("long").unwrap();
    engine.checkpoint().unwrap();
    assert!(engine.forget("key").unwrap());
    engine.checkpoint().unwrap();
    let short = Completion::new().ttl(TTL / 4).tombstone_ttl(TTL / 4);
    fresh(&default_scope(&engine), "key").complete_with("short", short).unwrap();
    engine.checkpoint().unwrap();
    assert!(engine.forget("key").unwrap());
    for _ in 0..2 {
        engine.checkpoint().unwrap();
        machine.clock.advance(TTL / 2);
    }
    machine.kill(engine);
    let status = open(&machine).get("key").unwrap();
    assert!(matches!(status, Status::Vacant), "{status:?}");
}

#[test]
fn bodies_leave_memory_and_disk_when_they_expire_and_keys_stay() {
    const KEYS: usize = 600;
    let machine = Machine::default();
    let engine = machine.options().tombstone_ttl(TOMBSTONE_TTL).cache_bytes(64 << 20).open("x.idem").unwrap();
    let scope = default_scope(&engine);
    for n in 0..KEYS {
        fresh(&scope, &format!("key {n}")).complete([7; 4_000]).unwrap();
    }
    engine.checkpoint().unwrap();
    engine.step();
    engine.step();
    let full = engine.stats();
    assert!(full.cached_bytes > KEYS * 4_000 && full.file_bytes > (KEYS * 4_000) as u64);
    machine.clock.advance(TTL);
    engine.step();
    assert!(engine.stats().cached_bytes < 4_096, "{:?}", engine.stats());
    // Nothing is written for a while, so the file is compacted.
    engine.step();
    machine.clock.advance(Duration::from_secs(10));
    engine.step();
    let small = engine.stats();
    assert_eq!(small.entries, KEYS);
    assert!(small.file_bytes < full.file_bytes / 2, "{} bytes of {}", small.file_bytes, full.file_bytes);
    for n in 0..KEYS {
        expired(&scope, &format!("key {n}"));
    }
}

#[test]
fn blocks_are_reclaimed_some_at_a_time_and_every_key_is_answered_all_the_while() {
    const KEYS: usize = 1_500;
    let machine = Machine::default();
    let engine = open_uncached(&machine);
    let scope = default_scope(&engine);
    for n in 0..KEYS {
        fresh(&scope, &format!("key {n}")).complete([7; 4_096]).unwrap();
    }
    engine.checkpoint().unwrap();
    machine.clock.advance(TTL);
    let mut last = engine.stats().reclaimed_blocks;
    loop {
        engine.checkpoint().unwrap();
        let reclaimed = engine.stats().reclaimed_blocks;
        // Of 64 KiB each, and their part of the index: no more than 4 MiB and the last of them.
        assert!(reclaimed - last <= 64, "{} blocks in one step", reclaimed - last);
        for n in 0..KEYS {
            expired(&scope, &format!("key {n}"));
        }
        if reclaimed == last {
            break;
        }
        last = reclaimed;
    }
    assert!(last > 64, "the test needs more than one step, {last} blocks went");
}

/// The old block goes and the new one comes in one transaction: at every operation of it a crash finds one of the two.
#[test]
fn a_crash_at_any_operation_of_a_reclaim_finds_every_tombstone_and_nothing_forgotten() {
    let script = |machine: &Machine| {
        let engine = open(machine);
        let scope = default_scope(&engine);
        for key in ["a", "b", "forgotten", "forgotten now"] {
            fresh(&scope, key).complete(format!("reply {key}")).unwrap();
        }
        engine.checkpoint().unwrap();
        assert!(scope.forget("forgotten").unwrap());
        engine.checkpoint().unwrap();
        machine.clock.advance(TTL / 2);
        fresh(&scope, "live").complete("reply live").unwrap();
        machine.clock.advance(TTL / 2);
        assert!(scope.forget("forgotten now").unwrap());
        engine
    };
    let machine = Machine::default();
    let engine = script(&machine);
    let first = machine.disk.operations();
    engine.checkpoint().unwrap();
    assert_eq!(engine.stats().reclaimed_blocks, 1);
    let last = machine.disk.operations();
    drop(engine);
    assert!(last > first + 2);
    for operation in first..=last {
        for kind in
            [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(operation), CrashKind::Torn(!operation)]
        {
            let context = format!("crash at operation {operation}, {kind:?}");
            let machine = Machine::default();
            let engine = script(&machine);
            machine.disk.crash_at(operation);
            drop(engine.checkpoint());
            drop(engine);
            machine.disk.reboot(kind);
            for round in 0..3 {
                let engine = open_uncached(&machine);
                let scope = default_scope(&engine);
                assert_eq!(expired(&scope, "a").expired(), expired(&scope, "b").expired(), "{context}");
                assert_eq!(done(&scope, "live").body(), b"reply live", "{context}");
                for key in ["forgotten", "forgotten now"] {
                    assert!(
                        matches!(scope.get(key).unwrap(), Status::Vacant),
                        "{context}, round {round}: {key}"
                    );
                }
                engine.checkpoint().unwrap();
                drop(scope);
                engine.close().unwrap();
            }
        }
    }
}

/// Readers of records on disk hold a place while its block goes: whatever they see, it is never "run it".
#[test]
fn a_late_retry_in_the_middle_of_a_reclaim_is_never_granted() {
    const KEYS: usize = 64;
    for _ in 0..6 {
        let machine = Machine::default();
        let engine = open_uncached(&machine);
        let scope = default_scope(&engine);
        for n in 0..KEYS {
            fresh(&scope, &format!("key {n}")).complete([7; 4_000]).unwrap();
        }
        engine.checkpoint().unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            for start in 0..2 {
                let (scope, stop, engine) = (scope.clone(), &stop, &engine);
                threads.spawn(move || {
                    for n in (start..).step_by(7) {
                        let key = format!("key {}", n % KEYS);
                        match scope.begin(&key, request()) {
                            Ok(Begin::Done(_)) | Err(BeginError::Expired(_)) => {}
                            other => panic!("{key}: {other:?}"),
                        }
                        let status = scope.get(&key).unwrap();
                        assert!(matches!(status, Status::Done(_) | Status::Expired(_)), "{key}: {status:?}");
                        if n % KEYS == 0 {
                            assert_eq!(engine.entries().map(Result::unwrap).count(), KEYS);
                        }
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                    }
                });
            }
            machine.clock.advance(TTL);
            for _ in 0..20 {
                engine.checkpoint().unwrap();
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(engine.stats().reclaimed_blocks > 0);
    }
}

#[test]
fn a_full_disk_puts_a_reclaim_off_and_loses_no_tombstone() {
    // redb's file has slack of a size that is its own affair; at some number of keys the tombstones don't fit into it.
    let put_off = (1..=8).filter(|n| reclaim_on_a_full_disk(n * 400)).count();
    assert!(put_off > 0, "the test needs a reclaim that does not fit");
}

/// Whether the reclaim had to wait for room.
fn reclaim_on_a_full_disk(keys: usize) -> bool {
    let machine = Machine::default();
    let engine = open_uncached(&machine);
    let scope = default_scope(&engine);
    for n in 0..keys {
        fresh(&scope, &format!("key {n}")).complete("reply").unwrap();
    }
    engine.checkpoint().unwrap();
    fresh(&scope, "in the log").complete("reply").unwrap();
    machine.clock.advance(TTL);
    machine.disk.set_capacity(Some(machine.disk.used()));
    let put_off = engine.checkpoint().is_err();
    for n in 0..keys {
        expired(&scope, &format!("key {n}"));
    }
    assert!(scope.forget("key 0").unwrap() && scope.forget("in the log").unwrap());
    machine.disk.set_capacity(None);
    machine.clock.advance(Duration::from_secs(1));
    // One checkpoint drops a bounded number of blocks.
    for _ in 0..4 {
        engine.checkpoint().unwrap();
    }
    assert!(engine.stats().reclaimed_blocks > 0);
    assert!(engine.stats().cached_bytes < 4_096, "{:?}", engine.stats());
    drop(scope);
    machine.kill(engine);
    let scope = default_scope(&open(&machine));
    for n in 1..keys {
        expired(&scope, &format!("key {n}"));
    }
    assert!(matches!(scope.get("key 0").unwrap(), Status::Vacant));
    assert!(matches!(scope.get("in the log").unwrap(), Status::Vacant));
    put_off
}

/// A block that can't be read can't be moved: its keys are answered with the damage for as long as they would have been remembered.
#[test]
fn a_damaged_block_stays_and_its_keys_are_never_granted() {
    let machine = Machine::default();
    let engine = open(&machine);
    let body = b"a body to be found in the file";
    fresh(&default_scope(&engine), "damaged").complete(body).unwrap();
    engine.close().unwrap();
    let file = Path::new("x.idem");
    let image = machine.disk.read(file).unwrap();
    let at = image.windows(body.len()).position(|bytes| bytes == body).unwrap();
    assert!(machine.disk.flip(file, at as u64 * 8));

    let options = machine.options().tombstone_ttl(TOMBSTONE_TTL).verify(Verify::UpTo(0));
    let engine = options.open("x.idem").unwrap();
    let scope = default_scope(&engine);
    machine.clock.advance(TTL);
    for _ in 0..3 {
        engine.checkpoint().unwrap();
        let refused = scope.begin("damaged", request());
        assert!(matches!(refused, Err(BeginError::Damaged(_))), "{refused:?}");
    }
    assert_eq!(engine.stats().reclaimed_blocks, 0);
    fresh(&scope, "whole").complete("reply").unwrap();
    let checkpoints = engine.stats().checkpoints;
    machine.clock.advance(Duration::from_secs(60));
    engine.step();
    assert_eq!(engine.stats().checkpoints, checkpoints, "a block that can't go is not tried at every step");
    machine.clock.advance(TOMBSTONE_TTL);
    engine.step();
    assert_eq!(engine.stats().reclaimed_blocks, 1);
    fresh(&scope, "damaged").complete("reply").unwrap();
}

#[test]
fn a_body_that_is_discarded_is_nowhere_and_the_key_is_done() {
    let machine = Machine::default();
    let engine = machine.open();
    let secret = b"a body that must not be stored";
    let claim = fresh(&default_scope(&engine), "key");
    let long: Vec<u8> = secret.iter().copied().cycle().take(100_000).collect();
    let record = claim.complete_with(&long, Completion::new().discard_body()).unwrap();
    assert_eq!((record.body(), record.is_body_kept()), (&b""[..], false));
    fresh(&default_scope(&engine), "failed").fail_with(secret, Completion::new().discard_body()).unwrap();
    fresh(&default_scope(&engine), "empty").complete("").unwrap();
    machine.kill(engine);
    for _ in 0..2 {
        let engine = machine.open();
        let scope = default_scope(&engine);
        let record = done(&scope, "key");
        assert_eq!(
            (record.outcome(), record.body(), record.is_body_kept()),
            (Outcome::Success, &b""[..], false)
        );
        let failed = done(&scope, "failed");
        assert_eq!((failed.outcome(), failed.is_body_kept()), (Outcome::Failure, false));
        assert!(done(&scope, "empty").is_body_kept());
        engine.checkpoint().unwrap();
        for file in ["x.idem", "x.idem-wal"] {
            let image = machine.disk.read(Path::new(file)).unwrap();
            assert!(!image.windows(secret.len()).any(|bytes| bytes == secret), "{file}");
        }
        drop(scope);
        machine.kill(engine);
    }
    machine.clock.advance(TTL);
    assert_eq!(fresh(&default_scope(&machine.open()), "key").attempt(), 1);
}

#[test]
fn a_completion_decides_for_itself_how_long_it_is_kept() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let (minute, hour) = (Duration::from_secs(60), Duration::from_secs(3_600));
    let completion = Completion::new().ttl(minute).tombstone_ttl(hour);
    fresh(&scope, "short").fail_with("overloaded", completion).unwrap();
    fresh(&scope, "no tombstone").complete_with("reply", Completion::new().ttl(minute)).unwrap();
    fresh(&scope, "long").complete_with("reply", Completion::new().ttl(2 * TTL)).unwrap();
    engine.checkpoint().unwrap();
    machine.clock.advance(minute);
    expired(&scope, "short");
    fresh(&scope, "no tombstone").release().unwrap();
    drop(scope);
    machine.kill(engine);
    let engine = machine.open();
    let scope = default_scope(&engine);
    expired(&scope, "short");
    machine.clock.advance(hour - minute);
    fresh(&scope, "short").release().unwrap();
    assert_eq!(done(&scope, "long").body(), b"reply");
    machine.clock.advance(2 * TTL);
    fresh(&scope, "long").release().unwrap();
}

#[test]
fn a_completion_out_of_range_gives_the_claim_back_and_says_which_value() {
    let machine = Machine::default();
    let engine = open(&machine);
    let mut claim = fresh(&default_scope(&engine), "key");
    let bad = [
        (Completion::new().ttl(Duration::ZERO), "ttl"),
        (Completion::new().ttl(Duration::MAX), "ttl"),
        (Completion::new().tombstone_ttl(TTL - TICK), "tombstone_ttl"),
        (Completion::new().tombstone_ttl(Duration::MAX), "tombstone_ttl"),
        (Completion::new().ttl(2 * TTL).tombstone_ttl(TTL), "tombstone_ttl"),
    ];
    for (completion, name) in bad {
        let error = claim.complete_with("reply", completion).unwrap_err();
        assert!(error.to_string().contains(name) && error.to_string().contains("allowed is"), "{error}");
        assert!(matches!(error.reason(), ClaimError::Option(option) if option.name() == name), "{error}");
        assert!(!error.is_retryable());
        claim = error.into_claim().unwrap();
    }
    claim.complete("reply").unwrap();
}
