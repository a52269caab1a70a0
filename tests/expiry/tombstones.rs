//! What is left of a record when it is no longer replayed: a very late retry is told so instead of
//! being run again.

use std::path::Path;
use std::time::Duration;

use crate::common::{Machine, START_MS, TTL, default_scope, done, fresh, request};
use crate::helpers::{TOMBSTONE_TTL, expired, open, open_uncached};
use idemkv::{BeginError, ClaimError, Completion, Engine, Fingerprint, Outcome, Status, Timestamp};

const TICK: Duration = Duration::from_millis(1);

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
        assert_eq!((engine.stats().too_late, engine.stats().reused), (1, 1));
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
    // The sweeper's rhythm is a minute here; that nothing is answered from what it has not removed
    // yet is held elsewhere.
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
        assert!(engine.default_scope().forget("key").unwrap(), "{treatment:?}");
        assert!(!engine.default_scope().forget("key").unwrap(), "{treatment:?}");
        for round in 0..3 {
            assert!(
                matches!(engine.default_scope().get("key").unwrap(), Status::Vacant),
                "{treatment:?}, round {round}"
            );
            engine.checkpoint().unwrap();
            machine.clock.advance(TICK);
        }
        machine.kill(engine);
        let engine = open(&machine);
        assert!(matches!(engine.default_scope().get("key").unwrap(), Status::Vacant), "{treatment:?}");
        fresh(&default_scope(&engine), "key").complete("again").unwrap();
        engine.checkpoint().unwrap();
        machine.kill(engine);
        assert_eq!(done(&default_scope(&open(&machine)), "key").body(), b"again", "{treatment:?}");
    }
}

/// The row that hides the first record must stay as long as that would have been remembered,
/// though the second one is short-lived.
#[test]
fn a_key_forgotten_twice_stays_forgotten_when_the_second_record_was_the_shorter_lived() {
    let machine = Machine::default();
    let engine = open(&machine);
    fresh(&default_scope(&engine), "key").complete("long").unwrap();
    engine.checkpoint().unwrap();
    assert!(engine.default_scope().forget("key").unwrap());
    engine.checkpoint().unwrap();
    let short = Completion::new().ttl(TTL / 4).tombstone_ttl(TTL / 4);
    fresh(&default_scope(&engine), "key").complete_with("short", short).unwrap();
    engine.checkpoint().unwrap();
    assert!(engine.default_scope().forget("key").unwrap());
    for _ in 0..2 {
        engine.checkpoint().unwrap();
        machine.clock.advance(TTL / 2);
    }
    machine.kill(engine);
    let status = open(&machine).default_scope().get("key").unwrap();
    assert!(matches!(status, Status::Vacant), "{status:?}");
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
