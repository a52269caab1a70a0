//! Somebody who makes a few calls at random, as a thread or as a task, and notes what they were
//! told.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use idemkv::{Begin, Claim, ClaimToken, TokenError};

use super::checker::Timed;
use super::common::request;
use super::key::{Begun, Call, Forgot, Grant, Outcome, Seen, accepted, resolved};
use super::world::{FOR_EVER, World, below, one_in};

/// What an actor does besides beginning and ending.
#[derive(Clone, Copy, Default)]
pub struct Habits {
    /// Lets futures go that are not ready at once.
    pub drops: bool,
    /// Renews, and hands claims over as tokens.
    pub leases: bool,
    /// Has the log moved to the store.
    pub checkpoints: bool,
    /// Asks for both keys at once.
    pub batches: bool,
}

pub struct Actor {
    number: usize,
    is_task: bool,
    habits: Habits,
    world: Arc<World>,
    held: Vec<(&'static str, Claim)>,
}

/// Has so many threads and tasks make so many calls each, and waits for them.
pub fn act(world: &Arc<World>, threads: usize, tasks: usize, calls: u32, habits: Habits) {
    let actor =
        |number, is_task| Actor { number, is_task, habits, world: Arc::clone(world), held: Vec::new() };
    let tasks: Vec<_> =
        (0..tasks).map(|n| shuttle::future::spawn(actor(threads + n, true).work(calls))).collect();
    let threads = (0..threads).map(|n| {
        let actor = actor(n, false);
        shuttle::thread::spawn(move || shuttle::future::block_on(actor.work(calls)))
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    tasks.into_iter().for_each(|task| shuttle::future::block_on(task).unwrap());
}

/// Polls once; `None` where it is not ready, and is let go.
async fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

impl Actor {
    async fn work(mut self, calls: u32) {
        for _ in 0..calls {
            if !self.held.is_empty() && !one_in(3) {
                let (key, claim) = self.held.remove(0);
                self.use_claim(key, claim).await;
            } else {
                self.ask().await;
            }
        }
        for (key, claim) in std::mem::take(&mut self.held) {
            self.end(key, claim).await;
        }
    }

    fn tell(&self, key: &'static str, called: u64, returned: Option<u64>, call: Call) {
        self.world.tell(key, Timed { thread: self.number, called, returned, call });
    }

    async fn ask(&mut self) {
        let (key, scope, is_task) = (World::key(), self.world.scope.clone(), self.is_task);
        let called = self.world.now();
        let call = match below(16) {
            0..9 => return self.begin(key).await,
            9..11 => {
                let seen = if is_task { scope.get_async(key).await } else { scope.get(key) };
                Call::Get(Seen::of(&seen.unwrap()))
            }
            11..13 => {
                let forgot = if is_task { scope.forget_async(key).await } else { scope.forget(key) };
                Call::Forget(Forgot::of(&forgot))
            }
            13..15 => {
                let claim = if is_task { scope.resolve_async(key).await } else { scope.resolve(key) };
                let claim = resolved(claim);
                let call = Call::Resolve(claim.as_ref().map(Grant::of));
                self.held.extend(claim.map(|claim| (key, claim)));
                call
            }
            _ if self.habits.checkpoints && !is_task => return self.world.engine.checkpoint().unwrap(),
            _ if self.habits.batches => return self.begin_both().await,
            _ => return,
        };
        self.tell(key, called, Some(self.world.now()), call);
    }

    async fn begin(&mut self, key: &'static str) {
        let scope = self.world.scope.clone();
        // An actor that has a claim must not wait for another's.
        let queue_timeout = if self.held.is_empty() && one_in(2) { FOR_EVER } else { Duration::ZERO };
        let called = self.world.now();
        let begun = if !self.is_task {
            if queue_timeout.is_zero() {
                scope.begin(key, request())
            } else {
                scope.begin_or_wait(key, request(), queue_timeout)
            }
        } else if self.habits.drops && one_in(3) {
            match once(scope.begin_async(key, request())).await {
                Some(begun) => begun,
                None => return self.tell(key, called, None, Call::LetGo),
            }
        } else if queue_timeout.is_zero() {
            scope.begin_async(key, request()).await
        } else {
            scope.begin_or_wait_async(key, request(), queue_timeout).await
        };
        self.tell(key, called, Some(self.world.now()), Call::Begin(Begun::of(&begun)));
        if let Ok(Begin::Fresh(claim)) = begun {
            self.held.push((key, claim));
        }
    }

    async fn begin_both(&mut self) {
        let scope = self.world.scope.clone();
        let requests = [("one", request()), ("two", request())];
        let called = self.world.now();
        let begun =
            if self.is_task { scope.begin_many_async(&requests).await } else { scope.begin_many(&requests) };
        let returned = Some(self.world.now());
        for ((key, _), begun) in requests.into_iter().zip(begun) {
            self.tell(key, called, returned, Call::Begin(Begun::of(&begun)));
            if let Ok(Begin::Fresh(claim)) = begun {
                self.held.push((key, claim));
            }
        }
        if self.held.len() == 2 && one_in(2) {
            self.complete_both().await;
        }
    }

    async fn complete_both(&mut self) {
        let claims = std::mem::take(&mut self.held);
        let keys: Vec<_> = claims.iter().map(|(key, claim)| (*key, claim.fence().get())).collect();
        let claims = claims.into_iter().map(|(_, claim)| {
            let body = claim.fence().get().to_le_bytes();
            (claim, body)
        });
        let claims = claims.collect();
        let called = self.world.now();
        let ended = if self.is_task {
            self.world.engine.complete_many_async(claims).await
        } else {
            self.world.engine.complete_many(claims)
        };
        let returned = Some(self.world.now());
        for ((key, fence), ended) in keys.into_iter().zip(ended) {
            let outcome = Outcome { fence, failed: false, body: fence.to_le_bytes().to_vec() };
            self.tell(key, called, returned, Call::Complete { outcome, accepted: accepted(&ended) });
        }
    }

    async fn use_claim(&mut self, key: &'static str, mut claim: Claim) {
        if !self.habits.leases || one_in(2) {
            return self.end(key, claim).await;
        }
        match below(4) {
            // Refused where the lease is over: that shows at the end.
            0 => drop(claim.renew()),
            1 if self.is_task => drop(claim.save_progress_async("so far").await),
            1 => drop(claim.save_progress("so far")),
            _ => return self.hand_over(key, claim).await,
        }
        self.held.push((key, claim));
    }

    /// As a token, to the faster of two.
    async fn hand_over(&mut self, key: &'static str, claim: Claim) {
        let (fence, called) = (claim.fence().get(), self.world.now());
        let handed = if self.is_task { claim.into_token_async().await } else { claim.into_token() };
        let Ok(token) = handed else { return };
        self.tell(key, called, Some(self.world.now()), Call::HandOver { fence });
        let twin = (one_in(2)).then(|| {
            let (world, token) = (Arc::clone(&self.world), ClaimToken::from_bytes(token.as_bytes().to_vec()));
            shuttle::thread::spawn(move || resume(&world, &token, fence))
        });
        let mine = resume(&self.world, &token, fence);
        let theirs = twin.and_then(|twin| twin.join().unwrap());
        assert!(mine.is_none() || theirs.is_none(), "fence {fence} was taken up twice");
        self.held.extend(mine.or(theirs).map(|claim| (key, claim)));
    }

    async fn end(&mut self, key: &'static str, claim: Claim) {
        let (fence, body) = (claim.fence().get(), claim.fence().get().to_le_bytes());
        let called = self.world.now();
        let call = match below(8) {
            0 => {
                drop(claim);
                Call::Drop { fence }
            }
            1 | 2 => {
                let ended = if self.is_task { claim.release_async().await } else { claim.release() };
                Call::Release { fence, accepted: accepted(&ended) }
            }
            fate => {
                let failed = fate == 3;
                let outcome = Outcome { fence, failed, body: body.to_vec() };
                if self.is_task && self.habits.drops && one_in(3) {
                    drop(claim.complete_async(body));
                    let outcome = Outcome { failed: false, ..outcome };
                    return self.tell(key, called, None, Call::Complete { outcome, accepted: true });
                }
                let ended = match (failed, self.is_task) {
                    (false, false) => claim.complete(body),
                    (true, false) => claim.fail(body),
                    (false, true) => claim.complete_async(body).await,
                    (true, true) => claim.fail_async(body).await,
                };
                Call::Complete { outcome, accepted: accepted(&ended) }
            }
        };
        self.tell(key, called, Some(self.world.now()), call);
    }
}

fn resume(world: &World, token: &ClaimToken, fence: u64) -> Option<Claim> {
    match world.scope.resume(token) {
        Ok(claim) => {
            assert_eq!(claim.fence().get(), fence);
            Some(claim)
        }
        Err(TokenError::Superseded(_) | TokenError::Held) => None,
        Err(error) => panic!("fence {fence}: {error}"),
    }
}
