//! Every call that an engine, a scope, a claim and a future have.

use std::pin::Pin;
use std::time::Duration;

use idemkv::{
    Begin, BeginError, Claim, ClaimError, CommitError, CompleteInError, EndError, Engine, Failure, Fault,
    ForgetError, OpenError, Pending, ReadError, ResolveError, RunError, Scope, Status, TokenError,
};

use crate::child::{Way, alone, in_child};
use crate::common::{default_scope, done, fresh, poll, ready, request};

const LONG: Duration = Duration::from_secs(600);

type Waiting<T> = Pin<Box<dyn Future<Output = T>>>;

/// What a parent has when it forks. In the child all of it is a copy.
struct Held {
    engine: Option<Engine>,
    scope: Scope,
    jobs: Scope,
    claims: Vec<Claim>,
    job: Option<Claim>,
    pending: Pending,
    futures: Futures,
}

/// Calls of tasks on their way.
struct Futures {
    begin: Waiting<Result<Begin, BeginError>>,
    wait: Waiting<Result<idemkv::Waited, BeginError>>,
    read: Waiting<Result<Status, ReadError>>,
    end: Waiting<Result<idemkv::Record, EndError>>,
    flush: Waiting<Result<(), CommitError>>,
}

impl Held {
    fn new(engine: &Engine) -> Self {
        let scope = default_scope(engine);
        fresh(&scope, "done").complete("reply").unwrap();
        engine.checkpoint().unwrap();
        let lease = engine.policy().lease(LONG);
        let jobs = engine.set_policy("jobs", lease).unwrap();
        let claims = (0..12).map(|n| fresh(&scope, &format!("claim {n}"))).collect();
        let ended = fresh(&scope, "ended by a task");
        let Ok(Begin::InFlight(pending)) = scope.begin("claim 0", request()) else { panic!("it is out") };
        let futures = Futures {
            begin: begin(&scope),
            wait: {
                let pending = pending.clone();
                Box::pin(async move { pending.wait_async().await })
            },
            read: {
                let scope = scope.clone();
                Box::pin(async move { scope.get_async("done").await })
            },
            end: Box::pin(ended.complete_async("reply")),
            flush: {
                let engine = engine.clone();
                Box::pin(async move { engine.flush_async().await })
            },
        };
        let job = Some(fresh(&jobs, "job"));
        Self { engine: Some(engine.clone()), scope, jobs, claims, job, pending, futures }
    }
}

fn begin(scope: &Scope) -> Waiting<Result<Begin, BeginError>> {
    let scope = scope.clone();
    Box::pin(async move { scope.begin_async("begun by a task", request()).await })
}

fn is_forked(failure: &Failure) -> bool {
    matches!(failure, Failure::Forked)
}

#[track_caller]
fn assert_begin<T: std::fmt::Debug>(answer: Result<T, BeginError>) {
    assert!(matches!(&answer, Err(BeginError::Failed(failure)) if is_forked(failure)), "{answer:?}");
}

#[track_caller]
fn assert_read<T: std::fmt::Debug>(answer: Result<T, ReadError>) {
    assert!(matches!(answer, Err(ReadError::Forked)), "{answer:?}");
}

#[track_caller]
fn assert_commit<T: std::fmt::Debug>(answer: Result<T, CommitError>) {
    assert!(matches!(&answer, Err(CommitError::Failed(failure)) if is_forked(failure)), "{answer:?}");
}

#[track_caller]
fn assert_claim<T>(answer: Result<T, ClaimError>) {
    match answer {
        Err(ClaimError::Commit(error)) => assert_commit::<()>(Err(error)),
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("it was done"),
    }
}

#[track_caller]
fn assert_end<T>(answer: Result<T, EndError>) {
    assert_claim::<()>(answer.map(drop).map_err(|error| error.reason().clone()));
}

fn calls_of_the_engine(engine: &Engine, scope: &Scope) {
    assert_begin(engine.default_scope().begin("new", request()));
    assert_begin(engine.default_scope().begin("done", request()));
    assert_begin(scope.begin("claim 0", request()));
    assert_begin(scope.begin_or_wait("claim 0", request(), LONG));
    assert_begin(ready(begin(scope).as_mut()));
    for answer in scope.begin_many(&[("done", request()), ("new", request()), ("claim 1", request())]) {
        assert_begin(answer);
    }
    for answer in futures_executor::block_on(scope.begin_many_async(&[("done", request())])) {
        assert_begin(answer);
    }
    assert_read(engine.default_scope().get("done"));
    assert_read(ready(Box::pin(engine.default_scope().get_async("done")).as_mut()));
    assert!(matches!(engine.default_scope().forget("done"), Err(ForgetError::Read(ReadError::Forked))));
    assert!(
        matches!(scope.resolve("new"), Err(ResolveError::Begin(error)) if matches!(&error, BeginError::Failed(failure) if is_forked(failure)))
    );
    let token = idemkv::ClaimToken::from_bytes([7; 80]);
    assert!(
        matches!(scope.resume(&token), Err(TokenError::Begin(BeginError::Failed(failure))) if is_forked(&failure))
    );
    assert!(engine.set_policy("jobs", engine.policy()).is_err());
    assert_commit(engine.flush());
    assert!(matches!(engine.checkpoint(), Err(failure) if is_forked(&failure)));
    assert_read(engine.read_tables(|_| ()));
    assert!(engine.entries().all(|entry| matches!(entry, Err(ReadError::Forked))));
    let ran: Result<Result<u64, String>, _> = scope.run("new", request(), |_| Ok::<_, Fault<String>>(7));
    assert!(matches!(ran, Err(RunError::Begin(BeginError::Failed(failure))) if is_forked(&failure)));
    // These have nothing to be refused by; what they say is nothing.
    assert_eq!(engine.stats(), idemkv::Stats::default());
    assert!(engine.policies().is_empty());
    drop((engine.policy(), scope.policy(), engine.now(), engine.scope("another"), format!("{engine:?}")));
}

fn calls_of_claims(engine: &Engine, claims: &mut Vec<Claim>) {
    let mut next = || claims.pop().unwrap();
    let mut claim = next();
    assert_claim(claim.save_progress("note"));
    assert_claim(claim.renew());
    assert!(claim.last_progress().is_none());
    let error = claim.complete("reply").unwrap_err();
    assert!(error.to_string().contains("fork"), "{error}");
    // It comes back, and is as harmless to drop as before.
    let error = error.into_claim().unwrap().put_back().unwrap_err();
    assert!(error.to_string().contains("fork"), "{error}");
    let claim = error.into_claim().unwrap();
    assert_end(claim.fail("reply"));
    assert_end(next().release());
    assert_end(futures_executor::block_on(next().complete_async("reply")));
    assert_end(futures_executor::block_on(next().release_async()));
    let completed = next().complete_in(|_| -> Result<&str, String> { panic!("it runs") });
    match completed {
        Err(CompleteInError::End(error)) => assert_end::<()>(Err(error)),
        other => panic!("{other:?}"),
    }
    for ended in engine.complete_many(vec![(next(), "reply"), (next(), "reply")]) {
        assert_end(ended);
    }
    drop(next());
}

fn calls_of_futures(held: &mut Held) {
    let Futures { begin, wait, read, end, flush } = &mut held.futures;
    assert_begin(ready(begin.as_mut()));
    assert_begin(ready(wait.as_mut()));
    assert_read(ready(read.as_mut()));
    assert_end(ready(end.as_mut()));
    assert_commit(ready(flush.as_mut()));
    assert_begin(held.pending.wait());
    assert_begin(held.pending.wait_timeout(Duration::ZERO));
    assert_begin(ready(Box::pin(held.pending.wait_async()).as_mut()));
}

/// Everything that a child can do with what it has.
fn all_calls(held: &mut Held, path: &std::path::Path) {
    let engine = held.engine.clone().unwrap();
    calls_of_the_engine(&engine, &held.scope.clone());
    calls_of_claims(&engine, &mut held.claims);
    calls_of_futures(held);
    assert_end(held.job.take().unwrap().into_token());
    assert!(matches!(Engine::open(path), Err(OpenError::Locked(_))));
    assert!(matches!(engine.clone().close(), Err(failure) if is_forked(&failure)));
    let closed = futures_executor::block_on(engine.close_async());
    assert!(matches!(closed, Err(failure) if is_forked(&failure)));
}

fn everything_is_refused_in_a_child_made_by(way: Way) {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::options().cache_bytes(0).open(&path).unwrap();
    let mut held = Held::new(&engine);
    // The first half of their way is gone before the fork.
    assert!(poll(held.futures.wait.as_mut()).is_pending());
    assert!(poll(held.futures.begin.as_mut()).is_pending());
    if way == Way::Clone {
        // Past the C library the engine learns of the child where it goes to the disk. A lock that
        // another thread has at this moment stays locked there, so the engine's threads are to be
        // at rest.
        engine.flush().unwrap();
    }
    in_child(way, || {
        if way == Way::Fork {
            all_calls(&mut held, &path);
        } else {
            // What reads memory alone can't know.
            let engine = held.engine.clone().unwrap();
            assert!(engine.default_scope().begin("new", request()).is_err());
            calls_of_claims(&engine, &mut held.claims);
            assert!(matches!(engine.clone().close(), Err(failure) if is_forked(&failure)));
        }
    });
    // Another that says nothing, and drops everything; and one that does so where a process
    // leaves.
    in_child(way, || {
        held.claims.clear();
        held.job = None;
        held.engine = None;
        let (one, two) = (Box::pin(std::future::pending()), Box::pin(std::future::pending()));
        held.futures.begin = one;
        held.futures.wait = two;
    });
    if way == Way::Fork {
        in_child(way, || std::process::exit(0));
    }
    assert!(matches!(Engine::open(&path), Err(OpenError::Locked(_))), "a child released the lock");
    // The parent's claims, futures and lock are as they were.
    assert!(matches!(futures_executor::block_on(held.futures.begin.as_mut()), Ok(Begin::Fresh(_))));
    for (n, claim) in held.claims.drain(..).enumerate() {
        claim.complete(format!("reply {n}")).unwrap();
    }
    assert!(matches!(futures_executor::block_on(held.futures.wait.as_mut()), Ok(idemkv::Waited::Done(_))));
    futures_executor::block_on(held.futures.end.as_mut()).unwrap();
    let token = held.job.take().unwrap().into_token().unwrap();
    held.jobs.resume(&token).unwrap().complete("reply").unwrap();
    drop(held);
    engine.close().unwrap();
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    for n in 0..12 {
        assert_eq!(done(&scope, &format!("claim {n}")).body(), format!("reply {n}").as_bytes());
    }
    assert_eq!(done(&scope, "done").body(), b"reply");
    assert_eq!(done(&scope, "ended by a task").body(), b"reply");
    assert_eq!(done(&engine.scope("jobs"), "job").body(), b"reply");
}

#[test]
fn every_call_in_a_forked_child_is_refused_and_the_parent_loses_nothing() {
    let _alone = alone();
    everything_is_refused_in_a_child_made_by(Way::Fork);
}

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
#[test]
fn a_child_made_past_the_c_library_writes_and_unlocks_nothing_either() {
    // In a process of its own: nobody looks after the allocator's locks in such a child, and
    // another test may hold one.
    const HERE: &str = "IDEMKV_TEST_FORK_CLONE";
    if std::env::var_os(HERE).is_some() {
        return everything_is_refused_in_a_child_made_by(Way::Clone);
    }
    let test = "calls::a_child_made_past_the_c_library_writes_and_unlocks_nothing_either";
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    let output = command.args([test, "--exact", "--test-threads=1"]).env(HERE, "1").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_child_opens_files_of_its_own_and_its_children_are_refused_those() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("parent.idem")).unwrap();
    let path = scratch.path().join("child.idem");
    in_child(Way::Fork, || {
        let own = Engine::open(&path).unwrap();
        let claim = fresh(&default_scope(&own), "key");
        in_child(Way::Fork, || {
            assert_begin(own.default_scope().begin("other", request()));
            assert_begin(engine.default_scope().begin("other", request()));
            assert!(matches!(Engine::open(&path), Err(OpenError::Locked(_))));
        });
        assert_begin(engine.default_scope().begin("other", request()));
        claim.complete("the child's").unwrap();
        own.close().unwrap();
    });
    fresh(&default_scope(&engine), "key").complete("the parent's").unwrap();
    let theirs = Engine::open(&path).unwrap();
    assert_eq!(done(&default_scope(&theirs), "key").body(), b"the child's");
}

/// The job of a call for tasks runs nothing before its first poll.
#[test]
fn a_job_that_is_queued_over_a_fork_runs_in_the_parent_alone() {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, Mutex};

    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    let scope = default_scope(&engine);
    let (ran, queued) = (Arc::new(AtomicU64::new(0)), Mutex::new(None));
    let counts = Arc::clone(&ran);
    let spawn = |task| *queued.lock().unwrap() = Some(task);
    let mut call = Box::pin(scope.run_async("job", request(), spawn, move |_| {
        Box::pin(async move { Ok::<_, Fault<String>>(counts.fetch_add(1, Ordering::Relaxed) + 1) })
    }));
    let mut job: Waiting<()> = loop {
        assert!(poll(call.as_mut()).is_pending());
        let job = queued.lock().unwrap().take();
        if let Some(job) = job {
            break job;
        }
        engine.flush().unwrap();
    };
    in_child(Way::Fork, || {
        ready(job.as_mut());
        assert_eq!(ran.load(Ordering::Relaxed), 0, "it ran in the child");
    });
    futures_executor::block_on(job);
    assert_eq!(futures_executor::block_on(call).unwrap(), Ok(1));
}

#[test]
fn other_programs_are_started_as_ever_and_disturb_nobody() {
    let _alone = alone();
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("x.idem");
    let engine = Engine::open(&path).unwrap();
    let scope = default_scope(&engine);
    let claim = fresh(&scope, "key");
    for _ in 0..5 {
        assert!(std::process::Command::new("true").status().unwrap().success());
        assert!(matches!(Engine::open(&path), Err(OpenError::Locked(_))));
    }
    claim.complete("reply").unwrap();
    engine.close().unwrap();
}
