//! Forks in code of others that the engine calls: the child comes back into the middle of a call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::task::{Context, Wake, Waker};

use idemkv::tables::redb;
use idemkv::{
    BackupError, Begin, BeginError, ClaimError, CommitError, CompleteInError, Engine, Failure, Observer,
    OpenError, ReadError, Scope, Waited,
};

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

/// What a parent looks at before it forks, and again once the child is gone.
type Look = Box<dyn Fn() -> Vec<u8> + Send + Sync>;

/// A waker that forks when it is woken.
#[derive(Default)]
struct Forks {
    child: AtomicI32,
    is_child: AtomicBool,
    look: Option<Look>,
    /// That the child left with 0, and changed nothing of what its parent looks at.
    is_unchanged: AtomicBool,
}

impl Forks {
    fn that_looks(look: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { look: Some(Box::new(look)), ..Self::default() })
    }

    fn is_child(&self) -> bool {
        self.is_child.load(Ordering::Relaxed)
    }

    /// The engine is in the middle of its call meanwhile.
    fn waits_for(&self, child: i32, look: &Look, before: &[u8]) {
        let is_unchanged = catch_unwind(|| join(child)).is_ok() && look() == before;
        self.is_unchanged.store(is_unchanged, Ordering::Relaxed);
    }

    #[track_caller]
    fn assert_unchanged(&self) {
        assert!(self.is_unchanged.load(Ordering::Relaxed), "a child changed something, or was not made");
    }
}

impl Wake for Forks {
    fn wake(self: Arc<Self>) {
        if self.is_child() || self.child.load(Ordering::Relaxed) != 0 {
            return;
        }
        let before = self.look.as_ref().map(|look| look());
        match split() {
            Some(child) if before.is_some() => {
                self.child.store(child, Ordering::Relaxed);
                let (Some(look), Some(before)) = (&self.look, before) else { return };
                self.waits_for(child, look, &before);
            }
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
pub struct Hears(Forks, &'static str);

impl Hears {
    pub fn of(event: &'static str) -> Arc<Self> {
        Arc::new(Self(Forks::default(), event))
    }

    pub fn is_child(&self) -> bool {
        self.0.is_child()
    }

    /// Waits for the child, and fails unless it left with 0.
    #[track_caller]
    pub fn join(&self) {
        let child = self.0.child.load(Ordering::Relaxed);
        assert_ne!(child, 0, "nothing has forked");
        join(child);
    }
}

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

type Waiting = Pin<Box<dyn Future<Output = Result<Waited, BeginError>>>>;

/// A wait for a claim of this key, whose task has this waker.
fn waits(scope: &Scope, key: &str, forks: &Arc<Forks>) -> Waiting {
    let Ok(Begin::InFlight(pending)) = scope.begin(key, request()) else { panic!("it is out") };
    let mut waiting = Box::pin(async move { pending.wait_async().await });
    let waker = Waker::from(Arc::clone(forks));
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    waiting
}

/// Whether a file is there and locked.
fn is_locked(path: &Path) -> Vec<u8> {
    vec![u8::from(matches!(Engine::open(path), Err(OpenError::Locked(_))))]
}

#[test]
fn a_close_in_which_a_waker_forks_is_the_parents_alone() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "done").complete("reply").unwrap();
    let held = fresh(&scope, "held");
    let look = path.clone();
    let forks = Forks::that_looks(move || is_locked(&look));
    let waiting = waits(&scope, "held", &forks);
    let closed = catch_unwind(AssertUnwindSafe(|| engine.close()));
    if forks.is_child() {
        let is_told = matches!(closed, Ok(Err(Failure::Forked)));
        drop((waiting, held, scope));
        leave(i32::from(!is_told));
    }
    forks.assert_unchanged();
    closed.unwrap().unwrap();
    drop((waiting, held, scope));
    let engine = Engine::open(&path).unwrap();
    assert_eq!(done(&default_scope(&engine), "done").body(), b"reply");
}

#[test]
fn a_log_that_grows_while_a_waker_forks_is_the_parents_alone() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let options = Engine::options().stepped().max_body_bytes(4 << 20);
    let engine = options.log_segment_bytes(32 << 20).log_bytes(64 << 20).open(&path).unwrap();
    let scope = default_scope(&engine);
    let [small, large, third] = ["small", "large", "third"].map(|key| fresh(&scope, key));
    let log = scratch.path().join("x.idem-wal");
    let look = log.clone();
    let forks = Forks::that_looks(move || std::fs::read(&look).unwrap());
    let waker = Waker::from(Arc::clone(&forks));
    let mut first = Box::pin(small.complete_async(vec![1; 600 << 10]));
    let mut second = Box::pin(large.complete_async(vec![2; 3 << 20]));
    // Within a transaction no call makes the log longer: both stand in line for space.
    let completed = third.complete_in(|_| {
        let mut context = Context::from_waker(&waker);
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        Ok::<_, String>("reply")
    });
    completed.unwrap();
    assert_eq!(forks.child.load(Ordering::Relaxed), 0, "nothing has grown yet");
    engine.step();
    if forks.is_child() {
        drop((first, second, scope, engine));
        leave(0);
    }
    forks.assert_unchanged();
    assert!(std::fs::metadata(&log).unwrap().len() > 3 << 20, "both are served");
    crate::common::run(&engine, first).unwrap();
    crate::common::run(&engine, second).unwrap();
    drop(scope);
    engine.close().unwrap();
}

#[test]
fn a_backup_in_which_a_waker_forks_is_the_parents_alone() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let (path, to) = (scratch.path().join("x.idem"), scratch.path().join("copy.idem"));
    let engine = Engine::options().stepped().open(&path).unwrap();
    let scope = default_scope(&engine);
    let held = fresh(&scope, "held");
    let look = scratch.path().join("copy.idem-unfinished");
    let forks = Forks::that_looks(move || vec![u8::from(look.exists())]);
    let waiting = waits(&scope, "held", &forks);
    let mut ended = Box::pin(held.complete_async("reply"));
    assert!(ended.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // It flushes: this thread leads, and wakes.
    let backup = engine.backup(&to);
    if forks.is_child() {
        let is_told = matches!(backup, Err(BackupError::Commit(CommitError::Failed(Failure::Forked))));
        drop((waiting, ended, scope, engine));
        leave(i32::from(!is_told));
    }
    forks.assert_unchanged();
    backup.unwrap();
    let copy = Engine::open(&to).unwrap();
    assert_eq!(done(&default_scope(&copy), "held").body(), b"reply");
    drop((waiting, ended, scope));
}

#[test]
fn a_batch_in_which_a_waker_forks_is_refused_in_the_child() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::options().stepped().cache_bytes(0).open(&path).unwrap();
    let scope = default_scope(&engine);
    fresh(&scope, "stored").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    let held = fresh(&scope, "held");
    let forks = Forks::that_looks(Vec::new);
    let waiting = waits(&scope, "held", &forks);
    let mut ended = Box::pin(held.complete_async("reply"));
    assert!(ended.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // One of them waits for a record on disk, and the thread leads meanwhile.
    let answers = scope.begin_many(&[("stored", request()), ("new", request())]);
    if forks.is_child() {
        let is_refused =
            answers.iter().all(|answer| matches!(answer, Err(BeginError::Failed(Failure::Forked))));
        drop((answers, waiting, ended, scope, engine));
        leave(i32::from(!is_refused));
    }
    forks.assert_unchanged();
    assert!(matches!(answers.as_slice(), [Ok(Begin::Done(_)), Ok(Begin::Fresh(_))]), "{answers:?}");
    drop((answers, waiting, ended, scope));
    engine.close().unwrap();
}
