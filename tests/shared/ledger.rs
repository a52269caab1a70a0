//! What callers of a store were told, whichever server told them, and what may be told after it.
//! Keys are not forgotten and do not expire, so there is one result of each key at most.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, BeginError, Claim, ClaimError, CommitError, Record, Scope, SharedError, Waited};

use crate::random::Random;
use crate::server::{Server, request};

/// How many keys callers ask for at the same time.
const WINDOW: u64 = 6;
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Ledger {
    keys: Mutex<BTreeMap<String, Told>>,
    fence_max: AtomicU64,
    /// Grants and ends that were told.
    changes: Mutex<u64>,
    changed: Condvar,
    /// So many begins were told that the store is away.
    refused: AtomicU64,
    /// The first key that callers ask for.
    first: AtomicU64,
    is_over: AtomicBool,
}

/// What was told of a key.
#[derive(Default)]
struct Told {
    /// By their fences.
    grants: BTreeMap<u64, Grant>,
    /// The fence of the result.
    done: Option<u64>,
    /// Fences of claims of which a caller has tried to store the result.
    tried: BTreeSet<u64>,
}

#[derive(Default)]
struct Grant {
    /// The fence of the attempt that its caller was warned of.
    warned_of: Option<u64>,
    /// Its caller has tried to release it. It knew that nothing had happened.
    may_be_released: bool,
}

/// A caller of one process.
#[derive(Clone)]
pub struct Caller<'a> {
    pub scope: Scope,
    /// Its session outlives what happens, so no claim of it is taken over.
    pub keeps: bool,
    /// While this is set its server has no quorum, so it can't grant or end anything.
    pub is_parted: &'a AtomicBool,
}

/// Ends the callers, also by a panic.
pub struct Over<'a>(pub &'a Ledger);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.is_over.store(true, Ordering::SeqCst);
    }
}

/// What the end of a claim came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    AsAsked,
    /// Another caller has the key, or had it.
    Superseded,
}

/// How a claim is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Complete,
    Release,
}

fn body(key: &str, fence: u64) -> String {
    format!("{key} by {fence}")
}

impl Caller<'_> {
    fn is_parted(&self) -> bool {
        self.is_parted.load(Ordering::SeqCst)
    }
}

impl Ledger {
    /// Starts a caller, who calls until it is over.
    pub fn start<'scope>(
        &'scope self,
        threads: &'scope thread::Scope<'scope, '_>,
        caller: &Caller<'scope>,
        seed: u64,
    ) {
        let caller = caller.clone();
        threads.spawn(move || self.call(&caller, &mut Random(seed)));
    }

    fn call(&self, caller: &Caller, random: &mut Random) {
        while !self.is_over.load(Ordering::SeqCst) {
            let key = self.first.load(Ordering::SeqCst) + random.below(WINDOW);
            let Some(claim) = self.begin(caller, &format!("key {key}")) else { continue };
            match random.below(8) {
                // Interrupted.
                0 => drop(claim),
                1 => drop(self.end(caller, claim, End::Release)),
                _ => {
                    self.end(caller, claim, End::Complete);
                    self.first.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    }

    /// A claim, as soon as it is granted.
    pub fn granted(&self, caller: &Caller, key: &str) -> Claim {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(claim) = self.begin(caller, key) {
                return claim;
            }
            assert!(Instant::now() < until, "{key} is not granted");
        }
    }

    /// A claim, if it is granted.
    pub fn begin(&self, caller: &Caller, key: &str) -> Option<Claim> {
        let floor = self.fence_max.load(Ordering::SeqCst);
        let was_parted = caller.is_parted();
        let told = match caller.scope.begin(key, request()) {
            Ok(Begin::Fresh(claim)) => {
                assert!(
                    !(was_parted && caller.is_parted()),
                    "{key} is granted by a server without its quorum"
                );
                self.is_granted(key, floor, &claim);
                return Some(claim);
            }
            Ok(Begin::Done(record)) => Ok(Some(record)),
            Ok(Begin::InFlight(pending)) => match pending.wait_timeout(Duration::from_millis(20)) {
                Ok(Waited::Done(record)) => Ok(Some(record)),
                Ok(Waited::Vacant | Waited::Interrupted | Waited::TimedOut) => Ok(None),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match told {
            Ok(record) => record.inspect(|record| {
                self.replayed(key, record, was_parted || caller.is_parted());
            }),
            Err(BeginError::Shared(
                SharedError::Unavailable(_) | SharedError::NoSession(_) | SharedError::Busy { .. },
            )) => {
                self.refused.fetch_add(1, Ordering::SeqCst);
                None
            }
            Err(other) => panic!("{key}: {other}"),
        };
        None
    }

    fn is_granted(&self, key: &str, floor: u64, claim: &Claim) {
        let fence = claim.fence().get();
        // The begin started after `floor` was told.
        assert!(fence > floor, "{key} is granted with fence {fence}, after {floor} was told");
        self.fence_max.fetch_max(fence, Ordering::SeqCst);
        let warned_of = claim.interrupted().map(|earlier| earlier.fence().get());
        let grant = Grant { warned_of, may_be_released: false };
        let before = self.keys.lock().unwrap().entry(key.to_owned()).or_default().grants.insert(fence, grant);
        assert!(before.is_none(), "{key} is granted twice with fence {fence}");
        self.has_changed();
    }

    fn replayed(&self, key: &str, record: &Record, may_be_parted: bool) {
        let fence = record.fence().get();
        let mut keys = self.keys.lock().unwrap();
        let told = keys.entry(key.to_owned()).or_default();
        if may_be_parted && told.done != Some(fence) {
            // Somebody has cancelled the wait for the quorum, so others can see the result.
            assert!(told.tried.contains(&fence), "{key} is done by {fence}, which nobody has tried");
            return;
        }
        assert_eq!(record.body(), body(key, fence).as_bytes());
        told.is_done(key, fence);
    }

    /// Ends a claim, however often that takes.
    pub fn end(&self, caller: &Caller, mut claim: Claim, how: End) -> Ended {
        let (key, fence) = (String::from_utf8(claim.key().to_vec()).unwrap(), claim.fence().get());
        self.note(&key, |told| match how {
            End::Complete => drop(told.tried.insert(fence)),
            End::Release => told.grants.get_mut(&fence).unwrap().may_be_released = true,
        });
        let until = Instant::now() + PATIENCE;
        loop {
            let was_parted = caller.is_parted();
            let ended = match how {
                End::Complete => claim.complete(body(&key, fence)).map(drop),
                End::Release => claim.release(),
            };
            let error = match ended {
                Ok(()) => {
                    assert!(
                        !(was_parted && caller.is_parted()),
                        "{key} is ended by a server without its quorum"
                    );
                    if how == End::Complete {
                        self.note(&key, |told| told.is_done(&key, fence));
                    }
                    self.has_changed();
                    return Ended::AsAsked;
                }
                Err(error) => error,
            };
            match error.reason() {
                ClaimError::Commit(CommitError::Shared(_)) if error.is_retryable() => {}
                // A release that was carried out is not found any more once the key is granted again.
                ClaimError::Superseded(_) if !caller.keeps || how == End::Release => {
                    return Ended::Superseded;
                }
                _ => panic!("{key} with fence {fence}: {error}"),
            }
            assert!(Instant::now() < until, "{key}: {error}");
            claim = error.into_claim().unwrap();
        }
    }

    fn note(&self, key: &str, change: impl FnOnce(&mut Told)) {
        change(self.keys.lock().unwrap().get_mut(key).unwrap());
    }

    fn has_changed(&self) {
        *self.changes.lock().unwrap() += 1;
        self.changed.notify_all();
    }

    pub fn changes(&self) -> u64 {
        *self.changes.lock().unwrap()
    }

    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::SeqCst)
    }

    /// Waits until so many more grants and ends were told.
    pub fn wait_for_changes(&self, more: u64) {
        let changes = self.changes.lock().unwrap();
        let end = *changes + more;
        let waited = self.changed.wait_timeout_while(changes, PATIENCE, |changes| *changes < end).unwrap();
        assert!(!waited.1.timed_out(), "the callers do not go on");
    }

    /// Compares what was told with what the store has in the end.
    pub fn check(&self, server: &Server, scope: &Scope) {
        let rows = server.sql("SELECT convert_from(key, 'UTF8'), state, fence FROM failover.keys");
        let stored: BTreeMap<_, _> = rows
            .into_iter()
            .map(|row| {
                let [key, state, fence] = <[_; 3]>::try_from(row).unwrap().map(Option::unwrap);
                (key, (state.parse::<u32>().unwrap(), fence.parse::<u64>().unwrap()))
            })
            .collect();
        let keys = self.keys.lock().unwrap();
        for (key, told) in &*keys {
            told.check(key, stored.get(key).copied());
            let begun = told.done.map(|fence| (fence, scope.begin(key, request())));
            match begun {
                Some((fence, Ok(Begin::Done(record)))) => {
                    assert_eq!((record.fence().get(), record.body()), (fence, body(key, fence).as_bytes()));
                }
                None => {}
                other => panic!("{key} was done: {other:?}"),
            }
        }
    }
}

impl Told {
    fn is_done(&mut self, key: &str, fence: u64) {
        let before = self.done.replace(fence);
        assert!(
            before.is_none_or(|before| before == fence),
            "{key} was done by {before:?}, and is by {fence}"
        );
    }

    /// `stored` is its row: state and fence.
    fn check(&self, key: &str, stored: Option<(u32, u64)>) {
        const IN_FLIGHT: u32 = 1;
        const INTERRUPTED: u32 = 2;
        const DONE: u32 = 3;
        let pairs = self.grants.iter().zip(self.grants.iter().skip(1));
        for ((fence, grant), (next, later)) in pairs {
            assert!(
                grant.may_be_released || later.warned_of.is_some_and(|earlier| earlier >= *fence),
                "{key} is granted with {next} without a warning of {fence}"
            );
        }
        let last = self.grants.last_key_value();
        if let Some(done) = self.done {
            assert_eq!(stored, Some((DONE, done)), "{key} was done by {done}");
            assert!(last.is_none_or(|(fence, _)| *fence <= done), "{key} was done by {done}: {last:?}");
            return;
        }
        if let Some((fence, Grant { may_be_released: false, .. })) = last {
            let is_known =
                |(state, stored)| [IN_FLIGHT, INTERRUPTED, DONE].contains(&state) && stored >= *fence;
            assert!(stored.is_some_and(is_known), "{key} was granted with {fence}, and has {stored:?}");
        }
    }
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "warned of {:?}", self.warned_of)
    }
}
