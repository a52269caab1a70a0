//! What the world outside the engine knows: who may hold which key, and what became of it.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use idemkv::{Claim, Engine, Record, Timestamp};

/// Nobody waits for longer than this, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A small generator, so that a seed means the same choices everywhere.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }

    pub fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }
}

/// What the world outside knows of a key.
#[derive(Default)]
pub struct Key {
    pub fences: HashSet<u64>,
    pub fence_max: u64,
    /// Claims that have not been ended: fence, and a time before which the lease does not end.
    pub live: HashMap<u64, u64>,
    pub done: Option<(u64, Vec<u8>)>,
}

/// Told of a grant after it was given and of an end before it is asked for, so what it takes for
/// live is live.
#[derive(Default)]
pub struct Oracle {
    pub keys: Mutex<HashMap<u64, Key>>,
    pub done: AtomicU64,
    pub grants: AtomicU64,
    pub superseded: AtomicU64,
    pub resumed: AtomicU64,
}

impl Oracle {
    pub fn with<T>(&self, key: u64, look: impl FnOnce(&mut Key) -> T) -> T {
        look(self.keys.lock().unwrap().entry(key).or_default())
    }

    pub fn granted(&self, engine: &Engine, key: u64, claim: &Claim) {
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
            // Where a lease is over before its holder has been told of the claim, a later one may
            // be seen first.
            assert!(fence > known.fence_max || until <= now, "key {key}: {fence} after {}", known.fence_max);
            known.fence_max = known.fence_max.max(fence);
            if let Some((ended, _)) = &known.done {
                assert!(fence < *ended, "key {key}: {fence} was granted after {ended} had completed");
            }
            known.live.insert(fence, until);
        });
    }

    /// Its lease was renewed; unless somebody has taken it up from a copy of its token, and ended
    /// it, meanwhile.
    pub fn lives_until(&self, key: u64, fence: u64, until: u64) {
        self.with(key, |known| known.live.get_mut(&fence).map(|known| *known = until));
    }

    pub fn ends(&self, key: u64, fence: u64) {
        self.with(key, |known| known.live.remove(&fence));
    }

    pub fn saw_done(&self, key: u64, record: &Record) {
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

    pub fn is_done(&self, key: u64) -> bool {
        self.with(key, |known| known.done.is_some())
    }
}

pub fn name(key: u64) -> String {
    format!("key {key}")
}

pub fn body_of(key: u64, fence: u64) -> Vec<u8> {
    format!("key {key}, fence {fence}").into_bytes()
}
