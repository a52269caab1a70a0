//! An effect and its completion in one transaction: both or neither, whatever happens in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use crate::common::{Machine, TTL, default_scope, done, fresh, request};
use crate::helpers::{Anything, effect, effects};
use idemkv::sim::CrashKind;
use idemkv::tables::TableError;
use idemkv::tables::redb::TableDefinition;
use idemkv::{Begin, ClaimError, CompleteInError, Durability, Engine, Event, Observer, Policy, Status};

#[test]
fn the_effect_and_the_completion_are_there_together_also_after_a_power_cut() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    fresh(&scope, "through the log").complete("reply").unwrap();
    let open = fresh(&scope, "open");
    let record = fresh(&scope, "key").complete_in(|tables| effect(tables, "key")).unwrap();
    assert_eq!((record.body(), record.is_durable()), (&b"effect 1"[..], true));
    assert_eq!(done(&scope, "key").body(), b"effect 1");
    assert_eq!(effects(&engine, "key"), 1);
    drop((open, scope));
    machine.kill(engine);
    machine.disk.reboot(CrashKind::DropAll);

    let engine = machine.open();
    let scope = default_scope(&engine);
    assert_eq!(done(&scope, "key").body(), b"effect 1");
    assert_eq!(effects(&engine, "key"), 1);
    assert_eq!(done(&scope, "through the log").body(), b"reply");
    assert!(matches!(engine.default_scope().get("open"), Ok(Status::Interrupted(_))));
}

#[test]
fn after_a_crash_at_any_point_there_are_both_or_neither() {
    let (mut both, mut neither) = (0, 0);
    for crash in 0.. {
        let machine = Machine::rerun();
        let engine = machine.open();
        let claim = fresh(&default_scope(&engine), "key");
        machine.disk.crash_at(machine.disk.operations() + crash);
        let completed = claim.complete_in(|tables| effect(tables, "key"));
        let crashed = machine.disk.crashed();
        drop(engine);
        for kind in [CrashKind::DropAll, CrashKind::KeepAll, CrashKind::Torn(crash)] {
            let image = machine.disk.image(kind);
            let engine = machine.options().disk(&image).open("x.idem").unwrap();
            let effects = effects(&engine, "key");
            match engine.default_scope().begin("key", request()).unwrap() {
                Begin::Done(record) => {
                    assert_eq!((record.body(), effects), (&b"effect 1"[..], 1));
                    both += 1;
                }
                Begin::Fresh(claim) => {
                    assert_eq!((claim.attempt(), effects), (2, 0), "the interruption is told");
                    assert!(completed.is_err(), "acknowledged, and lost");
                    neither += 1;
                    // And the retry has the effect once.
                    claim.complete_in(|tables| effect(tables, "key")).unwrap();
                    assert_eq!(self::effects(&engine, "key"), 1);
                }
                Begin::InFlight(_) => panic!("nobody else is here"),
            }
        }
        if !crashed {
            break;
        }
    }
    assert!(both > 3 && neither > 3, "{both} images with both, {neither} with neither");
}

#[test]
fn an_error_of_the_work_gives_the_claim_back_and_leaves_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let refused = claim.complete_in(|tables| {
        effect(tables, "key")?;
        Err::<String, Anything>("no funds".into())
    });
    let Err(CompleteInError::Work { error, claim }) = refused else { panic!("{refused:?}") };
    assert_eq!(error.to_string(), "no funds");
    assert_eq!(effects(&engine, "key"), 0);
    claim.complete_in(|tables| effect(tables, "key")).unwrap();
    assert_eq!(effects(&engine, "key"), 1);
}

#[test]
fn our_own_tables_are_out_of_reach() {
    const OURS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("idemkv.meta");
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let refused = claim.complete_in(|tables| {
        assert!(matches!(tables.delete_table(OURS), Err(TableError::Reserved(_))));
        tables.open_table(OURS).map(|_| "")
    });
    let Err(CompleteInError::Work { error: TableError::Reserved(name), .. }) = refused else { panic!() };
    assert_eq!(name, "idemkv.meta");
    let read = engine.read_tables(|tables| tables.open_table(OURS).err().map(|error| error.to_string()));
    assert!(read.unwrap().unwrap().contains("the engine's own"));
}

#[test]
fn what_would_wait_for_the_transaction_is_refused_inside_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = default_scope(&engine);
    let (claim, inner) = (fresh(&scope, "key"), fresh(&scope, "inner"));
    claim
        .complete_in(|tables| {
            let refused = inner.complete_in(|tables| effect(tables, "inner"));
            let Err(CompleteInError::End(error)) = refused else { panic!("{refused:?}") };
            assert!(matches!(error.reason(), ClaimError::InsideTransaction));
            drop(error.into_claim());
            // The log is another matter.
            fresh(&scope, "log").complete("reply").unwrap();
            engine.checkpoint().unwrap();
            engine.step();
            effect(tables, "key")
        })
        .unwrap();
    assert_eq!((effects(&engine, "key"), effects(&engine, "inner")), (1, 0));
    assert_eq!(done(&scope, "log").body(), b"reply");
}

#[test]
fn closing_inside_a_transaction_waits_for_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let claim = fresh(&default_scope(&engine), "key");
    let again = engine.clone();
    claim
        .complete_in(|tables| {
            again.close().unwrap();
            effect(tables, "key")
        })
        .unwrap();
    drop(engine);
    let engine = loop {
        match Engine::open(&path) {
            Ok(engine) => break engine,
            Err(idemkv::OpenError::Locked(_)) => std::thread::yield_now(),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(effects(&engine, "key"), 1);
    assert_eq!(done(&default_scope(&engine), "key").body(), b"effect 1");
}

#[test]
fn a_claim_superseded_during_the_work_has_no_effect() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let second = Duration::from_secs(1);
    let scope = engine.set_policy("jobs", engine.policy().lease(second)).unwrap();
    let claim = fresh(&scope, "key");
    let late = claim.complete_in(|tables| {
        machine.clock.advance(second);
        effect(tables, "key")
    });
    let Err(CompleteInError::End(error)) = late else { panic!("{late:?}") };
    assert!(matches!(error.reason(), ClaimError::Superseded(now) if matches!(**now, Status::Interrupted(_))));
    assert_eq!(effects(&engine, "key"), 0);
    let next = fresh(&scope, "key");
    assert_eq!(next.attempt(), 2);
    next.complete_in(|tables| effect(tables, "key")).unwrap();
    assert_eq!(effects(&engine, "key"), 1);
}

/// Another claim's work has the maintenance lock for longer than the lease.
#[test]
fn a_claim_superseded_before_its_turn_runs_no_work() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let second = Duration::from_secs(1);
    let scope = engine.set_policy("jobs", engine.policy().lease(second)).unwrap();
    let (late, first) = (fresh(&scope, "late"), fresh(&default_scope(&engine), "first"));
    let (go, may_go) = channel();
    let (comes, is_coming) = channel();
    let has_run = &AtomicBool::new(false);
    let late = thread::scope(|threads| {
        let late = threads.spawn(move || {
            may_go.recv().unwrap();
            comes.send(()).unwrap();
            late.complete_in(|tables| {
                has_run.store(true, Ordering::Relaxed);
                effect(tables, "late").map_err(|error| error.to_string())
            })
        });
        let completed = first.complete_in(|tables| {
            go.send(())?;
            is_coming.recv()?;
            machine.clock.advance(second);
            effect(tables, "first")
        });
        drop(completed.unwrap());
        late.join().unwrap()
    });
    let Err(CompleteInError::End(error)) = late else { panic!("{late:?}") };
    assert!(matches!(error.reason(), ClaimError::Superseded(now) if matches!(**now, Status::Interrupted(_))));
    assert!(error.into_claim().is_none());
    assert!(!has_run.load(Ordering::Relaxed), "its work ran, to be undone");
    assert_eq!((engine.stats().superseded, engine.stats().in_flight), (1, 0));
    fresh(&scope, "late").complete_in(|tables| effect(tables, "late")).unwrap();
    assert_eq!((effects(&engine, "first"), effects(&engine, "late")), (1, 1));
}

#[test]
fn a_claim_that_the_log_knows_nothing_of_can_be_completed_so() {
    let machine = Machine::rerun();
    let engine = machine.options().durability(Durability::Completions).open("x.idem").unwrap();
    fresh(&default_scope(&engine), "key").complete_in(|tables| effect(tables, "key")).unwrap();
    machine.kill(engine);
    let engine = machine.open();
    assert_eq!(effects(&engine, "key"), 1);
    assert_eq!(done(&default_scope(&engine), "key").body(), b"effect 1");
}

#[test]
fn a_body_that_is_too_long_undoes_the_effect() {
    let machine = Machine::default();
    let engine = machine.open();
    let claim = fresh(&default_scope(&engine), "key");
    let refused = claim.complete_in(|tables| effect(tables, "key").map(|_| vec![0; 5_000]));
    let Err(CompleteInError::End(error)) = refused else { panic!("{refused:?}") };
    assert!(matches!(error.reason(), ClaimError::BodyTooLarge { .. }));
    assert_eq!(effects(&engine, "key"), 0);
    assert!(error.into_claim().unwrap().complete("short").is_ok());
}

#[test]
fn many_threads_with_and_without_transactions_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    std::thread::scope(|threads| {
        for thread in 0..4 {
            let scope = &scope;
            threads.spawn(move || {
                for n in 0..40 {
                    let key = format!("{thread} {n}");
                    let claim = fresh(scope, &key);
                    if n % 4 == 0 {
                        claim.complete_in(|tables| effect(tables, &key)).unwrap();
                    } else {
                        claim.complete("reply").unwrap();
                    }
                }
            });
        }
    });
    drop((engine, scope));
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    for (thread, n) in (0..4).flat_map(|thread| (0..40).map(move |n| (thread, n))) {
        let key = format!("{thread} {n}");
        let body: &[u8] = if n % 4 == 0 { b"effect 1" } else { b"reply" };
        assert_eq!(done(&scope, &key).body(), body);
    }
}

#[derive(Default)]
struct Interruptions(AtomicUsize);

impl Observer for Interruptions {
    fn event(&self, event: &Event<'_>) {
        self.0.fetch_add(usize::from(event.name() == "interrupted"), Ordering::Relaxed);
    }
}

#[test]
fn a_step_inside_a_transaction_does_nothing() {
    let machine = Machine::default();
    let told = Arc::new(Interruptions::default());
    let options =
        machine.options().policy(Policy::default().ttl(TTL).lease(TTL / 2)).observer(Arc::clone(&told));
    let engine = options.open("x.idem").unwrap();
    let scope = default_scope(&engine);
    let _late = fresh(&scope, "late");
    machine.clock.advance(TTL / 4);
    let claim = fresh(&scope, "key");
    machine.clock.advance(TTL / 4);
    let completed = claim.complete_in(|_| {
        engine.step();
        assert_eq!(told.0.load(Ordering::Relaxed), 0, "a lease that is over comes to its end outside");
        Ok::<_, ()>("reply")
    });
    assert_eq!(completed.unwrap().body(), b"reply");
    engine.step();
    assert_eq!(told.0.load(Ordering::Relaxed), 1);
}

#[test]
fn progress_of_an_earlier_attempt_that_nobody_waited_for_does_not_open_the_key_again() {
    for durability in [Durability::Completions, Durability::Relaxed(Duration::from_secs(60))] {
        let machine = Machine::rerun();
        let engine = machine.options().durability(durability).open("x.idem").unwrap();
        let scope = default_scope(&engine);
        let mut first = fresh(&scope, "key");
        {
            let mut progress = std::pin::pin!(first.save_progress_async("half"));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(progress.as_mut().poll(&mut context).is_pending());
        }
        drop(first);
        let second = fresh(&scope, "key");
        assert_eq!(second.attempt(), 2);
        second.complete_in(|tables| effect(tables, "key")).unwrap();
        let _record = fresh(&scope, "other").complete("reply").unwrap();
        engine.flush().unwrap();
        machine.kill(engine);
        let engine = machine.open();
        assert_eq!(done(&default_scope(&engine), "key").body(), b"effect 1");
        assert_eq!(effects(&engine, "key"), 1);
    }
}

#[test]
fn progress_that_nobody_waited_for_does_not_open_the_key_again() {
    for durability in [Durability::Full, Durability::Completions] {
        let machine = Machine::rerun();
        let engine = machine.options().durability(durability).open("x.idem").unwrap();
        let mut claim = fresh(&default_scope(&engine), "key");
        {
            let mut progress = std::pin::pin!(claim.save_progress_async("half"));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(progress.as_mut().poll(&mut context).is_pending());
        }
        claim.complete_in(|tables| effect(tables, "key")).unwrap();
        engine.step();
        engine.checkpoint().unwrap();
        fresh(&default_scope(&engine), "other").complete("reply").unwrap();
        machine.kill(engine);
        let engine = machine.open();
        assert_eq!(done(&default_scope(&engine), "key").body(), b"effect 1");
        assert_eq!(effects(&engine, "key"), 1);
    }
}
