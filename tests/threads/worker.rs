//! A thread or a task that works on keys, and holds some of them.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use crate::common::request;
use crate::oracle::{Oracle, PATIENCE, Random, body_of, name};
use idemkv::{
    Begin, BeginError, Busy, Claim, ClaimError, ClaimToken, EndError, Engine, Fingerprint, Pending, Record,
    ResolveError, Scope, Timestamp, TokenError, Waited,
};

/// Keys that are worked on at a time: for each that is done another one comes in.
const WINDOW: u64 = 12;
const HELD_MAX: usize = 4;

pub struct Shared {
    pub engine: Engine,
    pub scopes: Vec<Scope>,
    pub oracle: Oracle,
    /// Claims on their way to other workers.
    pub tokens: Mutex<Vec<(u64, u64, ClaimToken)>>,
    pub stop: AtomicBool,
}

/// One worker, as a thread or as a task.
pub struct Worker<'a> {
    pub shared: &'a Shared,
    pub random: Random,
    pub is_task: bool,
    pub held: Vec<(u64, Claim)>,
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Option<F::Output> {
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Some(output)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl Worker<'_> {
    pub fn scope(&self, key: u64) -> &Scope {
        &self.shared.scopes[usize::try_from(key).unwrap() % self.shared.scopes.len()]
    }

    pub fn key(&mut self) -> u64 {
        self.shared.oracle.done.load(Ordering::Relaxed) + self.random.below(WINDOW)
    }

    pub fn granted(&mut self, key: u64, claim: Claim) {
        self.shared.oracle.granted(&self.shared.engine, key, &claim);
        self.held.push((key, claim));
    }

    pub async fn run(mut self) {
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

    pub async fn begin(&mut self) {
        let key = self.key();
        let begun = if self.is_task {
            self.scope(key).begin_async(name(key), request()).await
        } else {
            self.scope(key).begin(name(key), request())
        };
        if let Some(begun) = self.answer(key, begun) {
            self.begun(key, begun).await;
        }
    }

    /// The answer to a begin. On a busy machine a thread may not run for longer than a lease of
    /// milliseconds, again and again until its time to wait is over: that is an answer too.
    pub fn answer(&self, key: u64, begun: Result<Begin, BeginError>) -> Option<Begin> {
        match begun {
            Err(BeginError::Busy(Busy::LeaseTooShort { .. })) if self.has_lease(key) => None,
            begun => Some(begun.unwrap()),
        }
    }

    fn has_lease(&self, key: u64) -> bool {
        self.scope(key).policy().get_lease().is_some()
    }

    pub async fn begun(&mut self, key: u64, begun: Begin) {
        match begun {
            Begin::Fresh(claim) => self.granted(key, claim),
            Begin::Done(record) => self.shared.oracle.saw_done(key, &record),
            Begin::InFlight(pending) => {
                // Without a lease it may be this worker's own, or that of one who waits for this
                // one.
                if self.has_lease(key) {
                    self.wait(key, pending).await;
                }
            }
        }
    }

    pub async fn wait(&mut self, key: u64, pending: Pending) {
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
    pub async fn begin_and_give_up(&mut self) {
        let key = self.key();
        let scope = self.scope(key).clone();
        let mut begin = pin!(scope.begin_async(name(key), request()));
        for _ in 0..=self.random.below(2) {
            if let Some(begun) = poll_once(begin.as_mut()).await {
                if let Some(Begin::Fresh(claim)) = self.answer(key, begun) {
                    self.granted(key, claim);
                }
                return;
            }
            std::thread::yield_now();
        }
    }

    pub async fn begin_many(&mut self) {
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
            let Some(begun) = self.answer(key, result) else { continue };
            match begun {
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
    pub fn begin_as_another(&mut self) {
        let key = self.key();
        if self.shared.oracle.is_done(key) {
            let refused = self.scope(key).begin(name(key), Fingerprint::of("another"));
            assert!(matches!(refused, Err(BeginError::KeyReused)), "key {key}: {refused:?}");
        }
    }

    pub async fn resolve(&mut self) {
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
            Err(ResolveError::NotInterrupted(_)) => {}
            Err(ResolveError::Begin(error)) => drop(self.answer(key, Err(error))),
            Err(error) => panic!("key {key}: {error}"),
        }
    }

    pub async fn resume(&mut self) {
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

    pub async fn look(&mut self) {
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

    pub async fn use_claim(&mut self, key: u64, mut claim: Claim) {
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

    pub async fn hand_over(&mut self, key: u64, claim: Claim) {
        let fence = claim.fence().get();
        let lease = self.scope(key).policy().get_lease().unwrap_or_default();
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

    pub fn released(&self, key: u64, released: Result<(), EndError>) {
        if let Err(error) = released {
            self.refused(key, error.reason());
        }
    }

    pub fn ended(&self, key: u64, ended: Result<Record, EndError>) {
        match ended {
            Ok(record) => self.shared.oracle.saw_done(key, &record),
            Err(error) => self.refused(key, error.reason()),
        }
    }

    pub fn refused(&self, key: u64, reason: &ClaimError) {
        match reason {
            ClaimError::Superseded(_) => drop(self.shared.oracle.superseded.fetch_add(1, Ordering::Relaxed)),
            ClaimError::NoLease => {}
            other => panic!("key {key}: {other}"),
        }
    }
}
