//! Keys whose operations were interrupted: who is told, what of, and for how long.

use std::future::pending;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::common::{Machine, TTL, UNRESOLVED, default_scope, done, fresh, poll, request};
use futures_executor::block_on;
use idemkv::{
    Begin, BeginError, Durability, Engine, Fault, Fingerprint, Interruption, OpenError, Policy, Recovery,
    ResolveError, RunError, Scope, Status, Timestamp,
};

const MS: Duration = Duration::from_millis(1);
const LEASE: Duration = Duration::from_secs(10);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3_600);

#[track_caller]
fn unresolved(scope: &Scope, key: &str) -> Interruption {
    match scope.begin(key, request()) {
        Err(BeginError::Unresolved(lost)) => lost,
        other => panic!("{key} should be unresolved, is {other:?}"),
    }
}

#[track_caller]
fn interrupted(scope: &Scope, key: &str) -> Interruption {
    match scope.get(key) {
        Ok(Status::Interrupted(lost)) => lost,
        other => panic!("{key} should be interrupted, is {other:?}"),
    }
}

fn is_vacant(scope: &Scope, key: &str) -> bool {
    matches!(scope.get(key), Ok(Status::Vacant))
}

/// What may happen to a file between two moments.
#[derive(Clone, Copy, Debug)]
enum Gap {
    Nothing,
    Checkpoint,
    Kill,
    CheckpointAndKill,
    Close,
}

const GAPS: [Gap; 5] = [Gap::Nothing, Gap::Checkpoint, Gap::Kill, Gap::CheckpointAndKill, Gap::Close];

fn pass(machine: &Machine, engine: Engine, gap: Gap) -> Engine {
    if matches!(gap, Gap::Checkpoint | Gap::CheckpointAndKill) {
        engine.checkpoint().unwrap();
    }
    match gap {
        Gap::Nothing | Gap::Checkpoint => return engine,
        Gap::Kill | Gap::CheckpointAndKill => machine.kill(engine),
        Gap::Close => drop(engine.close().unwrap()),
    }
    machine.open()
}

// Being told.

#[test]
fn by_default_an_interrupted_key_is_refused_with_all_that_is_known_of_it() {
    for gap in GAPS {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = default_scope(&engine);
        assert_eq!(scope.policy().get_recovery(), Recovery::Refuse);
        let mut claim = fresh(&scope, "secret key");
        let (fence, started) = (claim.fence(), claim.started());
        machine.clock.advance(MS);
        claim.save_progress("secret note").unwrap();
        machine.clock.advance(MS);
        drop(claim);
        let since = engine.now();
        drop(scope);
        let engine = pass(&machine, engine, gap);
        let scope = default_scope(&engine);
        for _ in 0..3 {
            let lost = unresolved(&scope, "secret key");
            assert_eq!((lost.attempt(), lost.fence(), lost.started()), (1, fence, started), "{gap:?}");
            assert_eq!(lost.interrupted_at(), since, "{gap:?}");
            assert_eq!(*lost.fingerprint(), request());
            assert_eq!(lost.last_progress().map(|note| &note[..]), Some(&b"secret note"[..]), "{gap:?}");
            assert_eq!(interrupted(&scope, "secret key"), lost, "{gap:?}");
            let said =
                [lost.to_string(), BeginError::Unresolved(lost.clone()).to_string(), format!("{lost:?}")];
            for said in said {
                assert!(!said.contains('\n') && !said.contains("secret"), "{said}");
            }
        }
        assert_eq!(
            engine.stats().fresh,
            u64::from(matches!(gap, Gap::Nothing | Gap::Checkpoint)),
            "looking uses up no attempt"
        );
        // A caller that resolves it is told the same.
        let claim = scope.resolve("secret key").unwrap();
        let told = claim.interrupted().unwrap();
        assert_eq!((told.attempt(), told.fence(), told.started()), (1, fence, started), "{gap:?}");
        assert_eq!((claim.attempt(), told.interrupted_at()), (2, since), "{gap:?}");
        claim.complete("charged").unwrap();
        assert_eq!(done(&scope, "secret key").body(), b"charged");
    }
}

#[test]
fn other_ways_to_begin_are_refused_too() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "key"));
    let is_refused = |begun: Result<Begin, BeginError>| matches!(begun, Err(BeginError::Unresolved(_)));
    assert!(is_refused(scope.begin_or_wait("key", request(), Duration::ZERO)));
    assert!(is_refused(block_on(scope.begin_async("key", request()))));
    assert!(is_refused(block_on(scope.begin_or_wait_async("key", request(), Duration::ZERO))));
    assert!(scope.begin_many(&[("key", request())]).into_iter().all(is_refused));
    let ran = scope.run("key", request(), |_| -> Result<u64, Fault<String>> { panic!("it ran") });
    assert!(matches!(ran, Err(RunError::Begin(BeginError::Unresolved(_)))));
    // Another request is refused as such, before anything else.
    assert!(matches!(scope.begin("key", Fingerprint::of("another")), Err(BeginError::KeyReused)));
    assert!(scope.forget("key").unwrap());
    assert_eq!(fresh(&scope, "key").attempt(), 1);
}

#[test]
fn a_claim_whose_lease_is_over_is_unresolved_since_its_end() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.set_policy("jobs", engine.policy().lease(LEASE)).unwrap();
    let claim = fresh(&scope, "key");
    let ended = claim.started().saturating_add(LEASE);
    machine.clock.advance(LEASE + MS);
    assert_eq!(interrupted(&scope, "key").interrupted_at(), ended, "nobody has noted it yet");
    assert_eq!(unresolved(&scope, "key").interrupted_at(), ended);
    let token = scope.resolve("key").unwrap().into_token().unwrap();
    machine.clock.advance(LEASE);
    assert_eq!(unresolved(&scope, "key").attempt(), 2);
    assert!(scope.resume(&token).is_err());
}

// One effect.

/// Ways in which an operation can end so that nobody knows its effect.
#[derive(Clone, Copy, Debug)]
enum Lost {
    Unknown,
    Panic,
    Task,
}

fn charge(
    scope: &Scope,
    lost: Lost,
    effects: &AtomicUsize,
) -> Result<Result<u64, String>, RunError<u64, String>> {
    let effect = || {
        effects.fetch_add(1, Ordering::SeqCst);
    };
    match lost {
        Lost::Unknown => scope.run("key", request(), |_| {
            effect();
            Err(Fault::Unknown("the bank does not answer".to_owned()))
        }),
        Lost::Panic => {
            let run = || {
                scope.run("key", request(), |_| {
                    effect();
                    resume_unwind(Box::new("a planned panic"))
                })
            };
            catch_unwind(AssertUnwindSafe(run)).unwrap_or(Err(RunError::TaskLost))
        }
        Lost::Task => block_on(scope.run_async(
            "key",
            request(),
            |mut task| {
                // An executor that is shut down when the operation has begun.
                assert!(poll(task.as_mut()).is_pending());
                effect();
            },
            |_claim| Box::pin(pending::<Result<u64, Fault<String>>>()),
        )),
    }
}

#[test]
fn a_hundred_duplicates_of_an_operation_whose_effect_is_unknown_make_one_effect() {
    const DUPLICATES: usize = 100;
    for lost in [Lost::Unknown, Lost::Panic, Lost::Task] {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::open(dir.path().join("x.idem")).unwrap();
        let (scope, effects, start) =
            (engine.scope("charges"), AtomicUsize::new(0), Barrier::new(DUPLICATES));
        let told: Vec<_> = std::thread::scope(|threads| {
            let duplicate = || {
                start.wait();
                charge(&scope, lost, &effects)
            };
            let threads: Vec<_> = (0..DUPLICATES).map(|_| threads.spawn(duplicate)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(effects.load(Ordering::SeqCst), 1, "{lost:?}");
        let (mut refused, mut lost_itself) = (0, 0);
        for told in told {
            match told {
                Err(RunError::Begin(BeginError::Unresolved(told))) => {
                    assert_eq!(told.attempt(), 1);
                    refused += 1;
                }
                Err(RunError::Unknown(_) | RunError::TaskLost) => lost_itself += 1,
                other => panic!("{lost:?}: {other:?}"),
            }
        }
        assert_eq!((refused, lost_itself), (DUPLICATES - 1, 1), "{lost:?}");
        assert_eq!(engine.stats().fresh, 1);
    }
}

#[test]
fn a_duplicate_that_waits_for_a_time_is_told_the_same_or_that_the_time_is_up() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let ran = scope.run("key", request(), |_claim| {
        let twin = scope.run_within(Duration::ZERO, "key", request(), |_| -> Result<u64, Fault<String>> {
            panic!("it ran")
        });
        // Its own key it can't wait for.
        assert!(matches!(twin, Err(RunError::Begin(BeginError::OwnKey) | RunError::InFlight(_))), "{twin:?}");
        Err::<u64, _>(Fault::Unknown("lost".to_owned()))
    });
    assert!(matches!(ran, Err(RunError::Unknown(_))));
    let late = scope.run_within(Duration::ZERO, "key", request(), |_| Ok::<u64, Fault<String>>(7));
    assert!(matches!(late, Err(RunError::Begin(BeginError::Unresolved(_)))));
}

// For how long.

/// A record's TTL, and how long interrupted keys are remembered.
const SPANS: [(Duration, Duration); 3] = [(TTL, UNRESOLVED), (UNRESOLVED, TTL), (TTL, TTL)];

#[test]
fn how_long_an_interrupted_key_is_remembered_has_nothing_to_do_with_records() {
    for (ttl, time) in SPANS {
        for recovery in [Recovery::Refuse, Recovery::Rerun] {
            for gap in GAPS {
                let context = format!("{ttl:?}, {time:?}, {recovery:?}, {gap:?}");
                let machine = Machine::default();
                let engine = machine.open();
                let policy = engine.policy().recovery(recovery).ttl(ttl).unresolved_ttl(time);
                let scope = engine.set_policy("scope", policy).unwrap();
                let claim = fresh(&scope, "key");
                // It counts from when it was found interrupted.
                machine.clock.advance(ttl + time);
                drop(claim);
                drop(scope);
                let engine = pass(&machine, engine, gap);
                let scope = engine.scope("scope");
                assert_eq!(scope.policy(), policy, "the file knows it");
                machine.clock.advance(time.checked_sub(MS).unwrap());
                engine.step();
                assert_eq!(interrupted(&scope, "key").attempt(), 1, "{context}");
                assert_eq!(scope.resolve("key").unwrap().attempt(), 2, "{context}");
                // That claim was lost as well, and counts anew.
                machine.clock.advance(time.checked_sub(MS).unwrap());
                assert_eq!(interrupted(&scope, "key").attempt(), 2, "{context}");
                machine.clock.advance(MS);
                assert!(is_vacant(&scope, "key"), "{context}");
                let late = scope.resolve("key");
                assert!(matches!(late, Err(ResolveError::NotInterrupted(_))), "{context}: {late:?}");
                assert!(!scope.forget("key").unwrap(), "{context}");
                engine.step();
                assert_eq!(engine.stats().entries, 0, "{context}");
                let claim = fresh(&scope, "key");
                assert_eq!((claim.attempt(), claim.interrupted()), (1, None), "{context}");
                claim.complete("reply").unwrap();
            }
        }
    }
}

#[test]
fn an_interrupted_key_that_waits_to_be_resolved_waits_for_ever() {
    for gap in GAPS {
        let machine = Machine::default();
        let engine = machine.open();
        let forever = engine.policy().unresolved_forever();
        let scope = engine.set_policy("scope", forever).unwrap();
        drop(fresh(&scope, "key"));
        drop(scope);
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("scope");
        machine.clock.advance(900 * YEAR);
        engine.step();
        assert_eq!(unresolved(&scope, "key").attempt(), 1, "{gap:?}");
        // What was settled at its grant holds, whatever the scope's policy says by now.
        engine.set_policy("scope", forever.unresolved_ttl(MS)).unwrap();
        assert_eq!(unresolved(&scope, "key").attempt(), 1, "{gap:?}");
        scope.resolve("key").unwrap().release().unwrap();
        assert!(is_vacant(&scope, "key"), "{gap:?}");
    }
}

#[test]
fn a_release_after_an_interruption_tells_of_the_interruption_and_counts_its_time_anew() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = default_scope(&engine);
        let mut first = fresh(&scope, "key");
        first.save_progress("charged").unwrap();
        let (fence, since) = (first.fence(), engine.now());
        drop(first);
        machine.clock.advance(UNRESOLVED.checked_sub(MS).unwrap());
        fresh(&scope, "key").release().unwrap();
        drop(scope);
        let engine = pass(&machine, engine, gap);
        let scope = default_scope(&engine);
        machine.clock.advance(UNRESOLVED.checked_sub(MS).unwrap());
        let lost = interrupted(&scope, "key");
        assert_eq!((lost.attempt(), lost.fence(), lost.interrupted_at()), (1, fence, since), "{gap:?}");
        assert_eq!(lost.last_progress().map(|note| &note[..]), Some(&b"charged"[..]), "{gap:?}");
        machine.clock.advance(MS);
        assert!(is_vacant(&scope, "key"), "{gap:?}");
    }
}

#[test]
fn a_scope_that_no_longer_lets_keys_run_again_refuses_those_that_are_interrupted() {
    for gap in GAPS {
        let machine = Machine::default();
        let engine = machine.open();
        let rerun = engine.policy().recovery(Recovery::Rerun);
        let scope = engine.set_policy("scope", rerun).unwrap();
        drop(fresh(&scope, "key"));
        assert_eq!(fresh(&scope, "key").attempt(), 2);
        drop(engine.set_policy("scope", rerun.recovery(Recovery::Refuse).unresolved_ttl(MS)).unwrap());
        drop(scope);
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("scope");
        machine.clock.advance(UNRESOLVED.checked_sub(MS).unwrap());
        assert_eq!(unresolved(&scope, "key").attempt(), 2, "{gap:?}: its own time counts");
        engine.set_policy("scope", rerun.max_attempts(2)).unwrap();
        assert_eq!(unresolved(&scope, "key").attempt(), 2, "{gap:?}: two attempts were made");
        engine.set_policy("scope", rerun.max_attempts(3)).unwrap();
        assert_eq!(fresh(&scope, "key").attempt(), 3, "{gap:?}");
    }
}

/// The policy of scopes that have none of their own is not in the file.
#[test]
fn a_tool_that_declares_nothing_refuses_what_the_service_may_run_again() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let undeclared = default_scope(&engine);
    let declared = engine.set_policy("declared", engine.policy()).unwrap();
    drop((fresh(&undeclared, "key"), fresh(&declared, "key")));
    machine.kill((engine, undeclared, declared));
    let tool = Machine { recovery: Recovery::default(), ..machine }.open();
    assert_eq!(unresolved(&default_scope(&tool), "key").attempt(), 1);
    assert_eq!(fresh(&tool.scope("declared"), "key").attempt(), 2);
}

#[test]
fn a_policy_that_could_not_keep_its_promise_is_refused() {
    let machine = Machine::default();
    let weak = [Durability::Completions, Durability::Relaxed(MS)];
    for durability in weak {
        let opened = machine.options().durability(durability).open("x.idem");
        let Err(OpenError::Option(error)) = opened else { panic!("{opened:?}") };
        assert_eq!(error.name(), "recovery");
        let said = error.to_string();
        assert!(
            said.contains("because a crash forgets") && said.contains("choose Recovery::Rerun by name"),
            "{said}"
        );
        drop(machine.options().recovery(Recovery::Rerun).durability(durability).open("x.idem").unwrap());
    }
    let engine = machine.open();
    let weak = engine.policy().durability(Durability::Completions);
    assert!(engine.set_policy("scope", weak).is_err());
    assert!(engine.set_policy("scope", engine.policy().max_attempts(3)).is_err());
    assert_eq!(engine.scope("scope").policy(), engine.policy());
    assert_eq!(Policy::default().get_unresolved_ttl(), Some(Duration::from_secs(30 * 24 * 3_600)));
    assert!(engine.now() > Timestamp::default());
}

/// A retry began, and came to nothing: its claim was released, or its begin was dropped.
type Retry = fn(&Engine, &Scope);

const RETRIES: [Retry; 2] = [
    |_, scope| fresh(scope, "key").release().unwrap(),
    |engine, scope| {
        let mut begin = Box::pin(scope.begin_async("key", request()));
        assert!(poll(begin.as_mut()).is_pending());
        drop(begin);
        engine.flush().unwrap();
    },
];

/// An operator sees an interruption, before a retry or after it, and forgets what was seen.
#[test]
fn an_interruption_that_a_retry_left_standing_is_forgotten_by_the_fence_that_is_shown() {
    for retry in RETRIES {
        for is_killed in [false, true] {
            let machine = Machine::rerun();
            let mut engine = machine.open();
            let mut scope = default_scope(&engine);
            drop(fresh(&scope, "key"));
            let before = interrupted(&scope, "key");
            retry(&engine, &scope);
            if is_killed {
                machine.kill((engine, scope));
                engine = machine.open();
                scope = default_scope(&engine);
            }
            assert_eq!(interrupted(&scope, "key").fence(), before.fence(), "it is the same interruption");
            assert!(scope.forget_if("key", &before).unwrap());
            assert!(is_vacant(&scope, "key"));
        }
    }
}

/// A list, a lookup, a statistic and a refusal say the same of one interruption.
#[test]
fn an_interruption_that_a_retry_left_standing_has_one_time_and_one_place_in_lists() {
    for retry in RETRIES {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = default_scope(&engine);
        drop(fresh(&scope, "key"));
        let (lost_at, listed) = (engine.now(), engine.interrupted().get().unwrap());
        machine.clock.advance(60 * 1_000 * MS);
        retry(&engine, &scope);
        machine.clock.advance(60 * 1_000 * MS);
        let now = engine.interrupted().get().unwrap();
        assert_eq!(
            (now[0].attempt().fence(), now[0].position()),
            (listed[0].attempt().fence(), listed[0].position())
        );
        assert_eq!(
            (now[0].interrupted_at(), interrupted(&scope, "key").interrupted_at()),
            (Some(lost_at), lost_at)
        );
        assert_eq!(engine.stats().interrupted_longest, 120 * 1_000 * MS);
        // The next page does not have it again.
        assert!(engine.interrupted().after(listed[0].position()).get().unwrap().is_empty());
    }
}
