//! Forks in code of others that the engine calls: the child comes back into the middle of a call.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::task::{Context, Wake, Waker};

use idemkv::tables::redb;
use idemkv::{ClaimError, CommitError, CompleteInError, Engine, Failure, Observer, OpenError, ReadError};

use crate::child::{alone, join, leave, split};
use crate::common::{default_scope, done, fresh, request};

const TABLE: redb::TableDefinition<'_, u64, u64> = redb::TableDefinition::new("mine");

#[test]
fn a_fork_within_complete_in_writes_once_and_in_the_parent() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    let mut child = Some(0);
    let completed = claim.complete_in(|tables| {
        tables.open_table(TABLE).unwrap().insert(1, 1).unwrap();
        child = split();
        tables.open_table(TABLE).unwrap().insert(2, 2).unwrap();
        Ok::<_, String>("reply")
    });
    let Some(child) = child else {
        let is_told = match completed {
            Err(CompleteInError::End(error)) => {
                matches!(error.reason(), ClaimError::Commit(CommitError::Failed(Failure::Forked)))
            }
            _ => false,
        };
        drop((scope, engine));
        leave(i32::from(!is_told));
    };
    join(child);
    completed.unwrap();
    let rows = engine.read_tables(|tables| {
        use redb::ReadableTableMetadata;
        let rows = tables.open_table(TABLE).unwrap().len().unwrap();
        match split() {
            None => (None, rows),
            child => (child, rows),
        }
    });
    match rows.unwrap() {
        (None, _) => leave(i32::from(!matches!(engine.read_tables(|_| ()), Err(ReadError::Forked)))),
        (Some(child), rows) => {
            join(child);
            assert_eq!(rows, 2);
        }
    }
    assert!(matches!(Engine::open(&path), Err(OpenError::Locked(_))));
    fresh(&scope, "next").complete_in(|_| Ok::<_, String>("reply")).unwrap();
    drop(scope);
    engine.close().unwrap();
    let engine = Engine::open(&path).unwrap();
    assert_eq!(done(&default_scope(&engine), "key").body(), b"reply");
}

/// A waker that forks when it is woken.
#[derive(Default)]
struct Forks {
    child: AtomicI32,
    is_child: AtomicBool,
}

impl Wake for Forks {
    fn wake(self: Arc<Self>) {
        if self.child.load(Ordering::Relaxed) != 0 {
            return;
        }
        match split() {
            Some(child) => self.child.store(child, Ordering::Relaxed),
            None => self.is_child.store(true, Ordering::Relaxed),
        }
    }
}

#[test]
fn a_waker_that_forks_leaves_a_child_that_stops_leading() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    let held = fresh(&scope, "held");
    let Ok(idemkv::Begin::InFlight(pending)) = scope.begin("held", request()) else { panic!("it is out") };
    let forks = Arc::new(Forks::default());
    let waker = Waker::from(Arc::clone(&forks));
    let mut waiting = Box::pin(pending.into_future());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    // This thread leads, and wakes.
    let completed = held.complete("reply");
    if forks.is_child.load(Ordering::Relaxed) {
        let is_refused = scope.begin("new", request()).is_err();
        drop((waiting, scope, engine));
        leave(i32::from(completed.is_ok() || !is_refused));
    }
    completed.unwrap();
    join(forks.child.load(Ordering::Relaxed));
    fresh(&scope, "next").complete("reply").unwrap();
    drop((waiting, scope));
    engine.close().unwrap();
    let engine = Engine::open(&path).unwrap();
    assert_eq!(done(&default_scope(&engine), "next").body(), b"reply");
}

/// An observer that forks when it hears of an event of this name, once.
struct Hears(Forks, &'static str);

impl Observer for Hears {
    fn event(&self, event: &idemkv::Event<'_>) {
        let has_forked = self.0.is_child.load(Ordering::Relaxed) || self.0.child.load(Ordering::Relaxed) != 0;
        if event.name() != self.1 || has_forked {
            return;
        }
        match split() {
            Some(child) => self.0.child.store(child, Ordering::Relaxed),
            None => self.0.is_child.store(true, Ordering::Relaxed),
        }
    }
}

#[test]
fn an_observer_that_forks_leaves_a_child_that_is_refused() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let hears = Arc::new(Hears(Forks::default(), "interrupted"));
    let engine = Engine::options().observer(Arc::clone(&hears)).open(&path).unwrap();
    let scope = default_scope(&engine);
    drop(fresh(&scope, "lost"));
    if hears.0.is_child.load(Ordering::Relaxed) {
        let is_refused = scope.begin("new", request()).is_err();
        drop((scope, engine));
        leave(i32::from(!is_refused));
    }
    join(hears.0.child.load(Ordering::Relaxed));
    assert!(matches!(Engine::open(&path), Err(OpenError::Locked(_))));
    scope.resolve("lost").unwrap().complete("reply").unwrap();
}

/// It is told right before the claim arrives. The claim is the parent's.
#[test]
fn an_observer_that_forks_at_a_grant_gives_the_child_no_claim() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    for batch in [false, true] {
        let hears = Arc::new(Hears(Forks::default(), "granted"));
        let engine = Engine::options().observer(Arc::clone(&hears)).open(&path).unwrap();
        let scope = default_scope(&engine);
        let mut answers = if batch {
            scope.begin_many(&[("first", request()), ("second", request())])
        } else {
            vec![scope.begin("single", request())]
        };
        if hears.0.is_child.load(Ordering::Relaxed) {
            let is_refused = answers.iter().all(Result::is_err);
            drop((answers, scope, engine));
            leave(i32::from(!is_refused));
        }
        join(hears.0.child.load(Ordering::Relaxed));
        for answer in answers.drain(..) {
            let Ok(idemkv::Begin::Fresh(claim)) = answer else { panic!("{answer:?}") };
            claim.complete("reply").unwrap();
        }
    }
}
