//! Threads and tasks together on one file, with leases of milliseconds on a clock that another thread moves: claims lapse, are
//! lost, handed over, taken up, resolved and ended late. An oracle outside the engine knows who may hold what.
//!
//! `IDEMKV_SEED=n` repeats the choices of a run, though not its interleaving.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod common;

use std::collections::{HashMap, HashSet};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{START_MS, done, request};
use futures_executor::block_on;
use futures_util::future::join_all;
use idemkv::sim::ManualClock;
use idemkv::{
    Begin, BeginError, Claim, ClaimError, ClaimToken, CommitMode, Durability, EndError, Engine, Fingerprint,
    Options, Pending, Record, Recovery, Scope, Timestamp, TokenError, Waited,
};

const THREADS: u64 = 4;
/// Each runs two tasks.
const EXECUTORS: u64 = 2;
const RUN: Duration = Duration::from_secs(4);
/// Nobody waits for longer than this, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(60);
/// Keys that are worked on at a time: for each that is done another one comes in.
const WINDOW: u64 = 12;
const HELD_MAX: usize = 4;

/// A small generator, so that a seed means the same choices everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// What the world outside knows of a key.
#[derive(Default)]
struct Key {
    fences: HashSet<u64>,
    fence_max: u64,
    /// Claims that have not been ended: fence, and a time before which the lease does not end.
    live: HashMap<u64, u64>,
    done: Option<(u64, Vec<u8>)>,
}

/// Told of a grant after it was given and of an end before it is asked for, so what it takes for live is live.
#[derive(Default)]
struct Oracle {
    keys: Mutex<HashMap<u64, Key>>,
    done: AtomicU64,
    grants: AtomicU64,
    superseded: AtomicU64,
    resumed: AtomicU64,
}

impl Oracle {
    fn with<T>(&self, key: u64, look: impl FnOnce(&mut Key) -> T) -> T {
        look(self.keys.lock().unwrap().entry(key).or_default())
    }

    fn granted(&self, engine: &Engine, key: u64, claim: &Claim) {
        self.grants.fetch_add(1, Ordering::Relaxed);
        let fence = claim.fence().get();
        let until = claim.lease_until().map_or(u64::MAX, Timestamp::as_millis);
        self.with(key, |known| {
            let now = engine.now().as_millis();
            assert!(known.fences.insert(fence), "key {key}: fence {fence} was granted twice");
            for (other, other_until) in &known.live {
                let over = if *other < fence { *other_until } else { until };
                assert!(
                    over <= now,
                    "key {key}: {other} until {other_until} and {fence} until {until} at {now}"
                );
            }
            // Where a lease is over before its holder has been told of the claim, a later one may be seen first.
            assert!(fence > known.fence_max || until <= now, "key {key}: {fence} after {}", known.fence_max);
            known.fence_max = known.fence_max.max(fence);
            if let Some((ended, _)) = &known.done {
                assert!(fence < *ended, "key {key}: {fence} was granted after {ended} had completed");
            }
            known.live.insert(fence, until);
        });
    }

    /// Its lease was renewed; unless somebody has taken it up from a copy of its token, and ended it, meanwhile.
    fn lives_until(&self, key: u64, fence: u64, until: u64) {
        self.with(key, |known| known.live.get_mut(&fence).map(|known| *known = until));
    }

    fn ends(&self, key: u64, fence: u64) {
        self.with(key, |known| known.live.remove(&fence));
    }

    fn saw_done(&self, key: u64, record: &Record) {
        let (fence, body) = (record.fence().get(), record.body().to_vec());
        assert_eq!(body, body_of(key, fence), "key {key}");
        self.with(key, |known| {
            assert!(known.fences.contains(&fence), "key {key}: {fence} was never granted");
            assert_eq!(known.fence_max, fence, "key {key}: a superseded claim completed");
            let first = known.done.get_or_insert_with(|| {
                self.done.fetch_add(1, Ordering::Relaxed);
                (fence, body.clone())
            });
            assert_eq!(*first, (fence, body), "key {key}: a record changed");
        });
    }

    fn is_done(&self, key: u64) -> bool {
        self.with(key, |known| known.done.is_some())
    }
}

fn name(key: u64) -> String {
    format!("key {key}")
}

fn body_of(key: u64, fence: u64) -> Vec<u8> {
    format!("key {key}, fence {fence}").into_bytes()
}

struct Shared {
    engine: Engine,
    scopes: Vec<Scope>,
    oracle: Oracle,
    /// Claims on their way to other workers.
    tokens: Mutex<Vec<(u64, u64, ClaimToken)>>,
    stop: AtomicBool,
}

/// One worker, as a thread or as a task.
struct Worker<'a> {
    shared: &'a Shared,
    random: Random,
    is_task: bool,
    held: Vec<(u64, Claim)>,
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl Worker<'_> {
    fn scope(&self, key: u64) -> &Scope {
        &self.shared.scopes[usize::try_from(key).unwrap() % self.shared.scopes.len()]
    }

    fn key(&mut self) -> u64 {
        self.shared.oracle.done.load(Ordering::Relaxed) + self.random.below(WINDOW)
    }

    fn granted(&mut self, key: u64, claim: Claim) {
        self.shared.oracle.granted(&self.shared.engine, key, &claim);
        self.held.push((key, claim));
    }

    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.held.len() >= HELD_MAX || (!self.held.is_empty() && self.random.one_in(2)) {
                let at = usize::try_from(self.random.below(self.held.len() as u64)).unwrap();
                let (key, claim) = self.held.swap_remove(at);
                self.use_claim(key, claim).await;
                continue;
            }
            match self.random.below(16) {
                0..9 => self.begin().await,
                9 => self.begin_and_give_up().await,
                10 => self.begin_many().await,
                11 => self.begin_as_another(),
                12 => self.resolve().await,
                13..15 => self.resume().await,
                _ => self.look().await,
            }
        }
        for (key, claim) in std::mem::take(&mut self.held) {
            self.shared.oracle.ends(key, claim.fence().get());
            drop(claim);
        }
    }

    async fn begin(&mut self) {
        let key = self.key();
        let begun = if self.is_task {
            self.scope(key).begin_async(name(key), request()).await
        } else {
            self.scope(key).begin(name(key), request())
        };
        self.begun(key, begun.unwrap()).await;
    }

    async fn begun(&mut self, key: u64, begun: Begin) {
        match begun {
            Begin::Fresh(claim) => self.granted(key, claim),
            Begin::Done(record) => self.shared.oracle.saw_done(key, &record),
            Begin::InFlight(pending) => {
                // Without a lease it may be this worker's own, or that of one who waits for this one.
                if self.scope(key).policy().lease.is_some() {
                    self.wait(key, pending).await;
                }
            }
        }
    }

    async fn wait(&mut self, key: u64, pending: Pending) {
        let waited = if self.is_task {
            pending.wait_timeout_async(PATIENCE).await
        } else {
            pending.wait_timeout(PATIENCE)
        };
        match waited.unwrap() {
            Waited::Done(record) => self.shared.oracle.saw_done(key, &record),
            Waited::Vacant | Waited::Interrupted => {}
            Waited::TimedOut => panic!("key {key}: a waiter was forgotten"),
        }
    }

    /// Begins as a task, and asks no more than once or twice.
    async fn begin_and_give_up(&mut self) {
        let key = self.key();
        let scope = self.scope(key).clone();
        let mut begin = pin!(scope.begin_async(name(key), request()));
        for _ in 0..=self.random.below(2) {
            if let Some(begun) = poll_once(begin.as_mut()).await {
                if let Begin::Fresh(claim) = begun.unwrap() {
                    self.granted(key, claim);
                }
                return;
            }
            std::thread::yield_now();
        }
    }

    async fn begin_many(&mut self) {
        let first = self.key();
        let scope = self.scope(first).clone();
        // All of one scope.
        let keys: Vec<u64> = (0..4).map(|n| first + n * self.shared.scopes.len() as u64).collect();
        let batch: Vec<_> = keys.iter().map(|key| (name(*key), request())).collect();
        let results = if self.random.one_in(3) {
            let mut begins = pin!(scope.begin_many_async(&batch));
            match poll_once(begins.as_mut()).await {
                Some(results) => results,
                None => return,
            }
        } else if self.is_task {
            scope.begin_many_async(&batch).await
        } else {
            scope.begin_many(&batch)
        };
        let mut claims = Vec::new();
        let completes = self.random.one_in(3);
        for (key, result) in keys.into_iter().zip(results) {
            match result.unwrap() {
                Begin::Fresh(claim) => {
                    self.shared.oracle.granted(&self.shared.engine, key, &claim);
                    if completes { &mut claims } else { &mut self.held }.push((key, claim));
                }
                Begin::Done(record) => self.shared.oracle.saw_done(key, &record),
                Begin::InFlight(_) => {}
            }
        }
        let keys: Vec<u64> = claims.iter().map(|(key, _)| *key).collect();
        let bodies = claims.into_iter().map(|(key, claim)| {
            let fence = claim.fence().get();
            self.shared.oracle.ends(key, fence);
            (claim, body_of(key, fence))
        });
        let bodies = bodies.collect();
        let results = if self.is_task {
            self.shared.engine.complete_many_async(bodies).await
        } else {
            self.shared.engine.complete_many(bodies)
        };
        for (key, result) in keys.into_iter().zip(results) {
            self.ended(key, result);
        }
    }

    /// Another request under the key of one that is done.
    fn begin_as_another(&mut self) {
        let key = self.key();
        if self.shared.oracle.is_done(key) {
            let refused = self.scope(key).begin(name(key), Fingerprint::of("another"));
            assert!(matches!(refused, Err(BeginError::KeyReused)), "key {key}: {refused:?}");
        }
    }

    async fn resolve(&mut self) {
        let key = self.key();
        let scope = self.scope(key).clone();
        let resolved = if self.random.one_in(4) {
            let mut resolve = pin!(scope.resolve_async(name(key)));
            match poll_once(resolve.as_mut()).await {
                Some(resolved) => resolved,
                None => return,
            }
        } else if self.is_task {
            scope.resolve_async(name(key)).await
        } else {
            scope.resolve(name(key))
        };
        match resolved {
            Ok(claim) => self.granted(key, claim),
            Err(error) => assert!(matches!(error, idemkv::ResolveError::NotInterrupted(_)), "{error}"),
        }
    }

    async fn resume(&mut self) {
        let (key, fence, token) = {
            let mut tokens = self.shared.tokens.lock().unwrap();
            let at = usize::try_from(self.random.below(tokens.len().max(1) as u64)).unwrap();
            if tokens.is_empty() {
                return;
            }
            // Some are sent twice.
            if self.random.one_in(3) && tokens.len() < 64 {
                tokens[at].clone()
            } else {
                tokens.swap_remove(at)
            }
        };
        let resumed = if self.is_task {
            self.scope(key).resume_async(&token).await
        } else {
            self.scope(key).resume(&token)
        };
        match resumed {
            Ok(claim) => {
                assert_eq!(claim.fence().get(), fence);
                self.shared.oracle.resumed.fetch_add(1, Ordering::Relaxed);
                self.held.push((key, claim));
            }
            Err(TokenError::Superseded(_) | TokenError::Held) => {}
            Err(error) => panic!("key {key}: {error}"),
        }
    }

    async fn look(&mut self) {
        let key = self.key();
        let status = if self.is_task {
            self.scope(key).get_async(name(key)).await
        } else {
            self.scope(key).get(name(key))
        };
        if let idemkv::Status::Done(record) = status.unwrap() {
            self.shared.oracle.saw_done(key, &record);
        }
        match self.random.below(24) {
            0 => self.shared.engine.checkpoint().unwrap(),
            1 if self.is_task => self.shared.engine.flush_async().await.unwrap(),
            1 => self.shared.engine.flush().unwrap(),
            _ => {}
        }
    }

    async fn use_claim(&mut self, key: u64, mut claim: Claim) {
        let (oracle, fence) = (&self.shared.oracle, claim.fence().get());
        let choice = self.random.below(30);
        if choice < 10 {
            let used = match (choice, self.is_task) {
                (0..6, true) => claim.save_progress_async(body_of(key, fence)).await,
                (0..6, false) => claim.save_progress(body_of(key, fence)),
                _ => claim.renew(),
            };
            match used {
                Ok(()) => {
                    let until = claim.lease_until().map_or(u64::MAX, Timestamp::as_millis);
                    oracle.lives_until(key, fence, until);
                    let inherited = claim.last_progress().map(|note| note.to_vec());
                    assert!(choice >= 6 || inherited == Some(body_of(key, fence)));
                    self.held.push((key, claim));
                }
                Err(error) => {
                    self.refused(key, &error);
                    oracle.ends(key, fence);
                }
            }
            return;
        }
        if choice < 15 {
            return self.hand_over(key, claim).await;
        }
        oracle.ends(key, fence);
        let body = body_of(key, fence);
        match (choice, self.is_task) {
            (15..20, _) => drop(claim),
            (20..22, _) => {
                let panicked = catch_unwind(AssertUnwindSafe(|| {
                    let _claim = claim;
                    resume_unwind(Box::new("on purpose"));
                }));
                assert!(panicked.is_err());
            }
            (22, _) => drop(claim.complete_async(body)),
            (23..25, _) => drop(claim.release_async()),
            (25..28, true) => self.released(key, claim.release_async().await),
            (25..28, false) => self.released(key, claim.release()),
            (_, true) => {
                let result = claim.complete_async(body).await;
                self.ended(key, result);
            }
            (_, false) => self.ended(key, claim.complete(body)),
        }
    }

    async fn hand_over(&mut self, key: u64, claim: Claim) {
        let fence = claim.fence().get();
        let lease = self.scope(key).policy().lease.unwrap_or_default();
        // The lease starts after this.
        let until = self.shared.engine.now().saturating_add(lease).as_millis();
        let handed = if self.is_task { claim.into_token_async().await } else { claim.into_token() };
        match handed {
            Ok(token) => {
                self.shared.oracle.lives_until(key, fence, until);
                self.shared.tokens.lock().unwrap().push((key, fence, token));
            }
            Err(error) => {
                self.refused(key, error.reason());
                match error.into_claim() {
                    Some(claim) => self.held.push((key, claim)),
                    None => self.shared.oracle.ends(key, fence),
                }
            }
        }
    }

    fn released(&self, key: u64, released: Result<(), EndError>) {
        if let Err(error) = released {
            self.refused(key, error.reason());
        }
    }

    fn ended(&self, key: u64, ended: Result<Record, EndError>) {
        match ended {
            Ok(record) => self.shared.oracle.saw_done(key, &record),
            Err(error) => self.refused(key, error.reason()),
        }
    }

    fn refused(&self, key: u64, reason: &ClaimError) {
        match reason {
            ClaimError::Superseded(_) => drop(self.shared.oracle.superseded.fetch_add(1, Ordering::Relaxed)),
            ClaimError::NoLease => {}
            other => panic!("key {key}: {other}"),
        }
    }
}

fn options(clock: &ManualClock) -> Options {
    common::small(Engine::options()).log_bytes(4 << 20).clock(clock).commit_mode(CommitMode::Buffered)
}

fn declare(engine: &Engine) -> Vec<Scope> {
    let policy = engine.policy().recovery(Recovery::Rerun);
    let lease = |ms| policy.lease(Duration::from_millis(ms));
    let policies = [
        lease(5),
        lease(2).durability(Durability::Completions),
        lease(20).durability(Durability::Relaxed(Duration::from_millis(1))),
        policy,
    ];
    let named = policies.into_iter().enumerate();
    named.map(|(n, policy)| engine.set_policy(format!("scope {n}"), policy).unwrap()).collect()
}

#[test]
fn threads_and_tasks_with_short_leases_never_hold_a_key_twice_nor_wait_for_ever() {
    let seed = std::env::var("IDEMKV_SEED").ok().and_then(|seed| seed.parse().ok());
    let nanos = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
    let seed: u64 = seed.unwrap_or_else(|| u64::from(nanos()) | 1);
    println!("IDEMKV_SEED={seed}");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.idem");
    let clock = ManualClock::at_millis(START_MS);
    let engine = options(&clock).open(&path).unwrap();
    let shared = Shared {
        scopes: declare(&engine),
        engine,
        oracle: Oracle::default(),
        tokens: Mutex::default(),
        stop: AtomicBool::new(false),
    };
    let worker = |number: u64, is_task| Worker {
        shared: &shared,
        random: Random(seed.wrapping_mul(number + 1) | 1),
        is_task,
        held: Vec::new(),
    };
    let started = Instant::now();
    std::thread::scope(|threads| {
        let mut workers = Vec::new();
        for number in 0..THREADS {
            let worker = worker(number, false);
            workers.push(threads.spawn(|| block_on(worker.run())));
        }
        for number in 0..EXECUTORS {
            let first = THREADS + 2 * number;
            let tasks = [first, first + 1].map(|number| worker(number, true));
            workers.push(threads.spawn(|| {
                block_on(join_all(tasks.map(Worker::run)));
            }));
        }
        // Time goes by until the last of them is done, for they may be waiting for a lease to end.
        while !workers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            if started.elapsed() > RUN {
                shared.stop.store(true, Ordering::Relaxed);
            }
            clock.advance(Duration::from_millis(1));
            std::thread::park_timeout(Duration::from_micros(100));
        }
    });
    // Claims that were handed over and never taken up lapse by themselves.
    clock.advance(Duration::from_secs(1));
    while shared.engine.stats().in_flight > 0 {
        assert!(
            started.elapsed() < PATIENCE,
            "{} places are taken for ever",
            shared.engine.stats().in_flight
        );
        std::thread::yield_now();
    }
    let Shared { engine, scopes, oracle, .. } = shared;
    println!("{:?}, {} keys", engine.stats(), oracle.keys.lock().unwrap().len());
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} grants, {} superseded, {} taken up",
        count(&oracle.grants),
        count(&oracle.superseded),
        count(&oracle.resumed)
    );
    assert!(count(&oracle.grants) > 100 && count(&oracle.superseded) > 0 && count(&oracle.resumed) > 0);
    assert_eq!(engine.close().unwrap().claims_left, 0);
    drop(scopes);
    let engine = options(&clock).open(&path).unwrap();
    let keys = oracle.keys.into_inner().unwrap();
    assert!(keys.values().any(|known| known.done.is_some()));
    for (key, known) in keys {
        let Some((fence, body)) = known.done else { continue };
        let record = done(&engine.scope(format!("scope {}", key % 4)), &name(key));
        assert_eq!((record.fence().get(), record.body()), (fence, &body[..]));
    }
}
