//! What several of these modules need.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Wake;
use std::time::Duration;

use crate::common::{Machine, request};
use idemkv::{Begin, Claim, ClaimError, Engine, Fence, Policy, Recovery, Scope, Status};

pub const LEASE: Duration = Duration::from_secs(10);
pub const MS: Duration = Duration::from_millis(1);

/// A scope whose claims have leases.
pub fn jobs(engine: &Engine) -> Scope {
    engine.set_policy("jobs", rerun(engine).lease(LEASE)).unwrap()
}

/// For operations that may be repeated.
pub fn rerun(engine: &Engine) -> Policy {
    engine.policy().recovery(Recovery::Rerun)
}

pub fn with(engine: &Engine, name: &str, policy: Policy) -> Scope {
    engine.set_policy(name, policy).unwrap()
}

#[track_caller]
pub fn note(claim: &Claim) -> Option<String> {
    claim.last_progress().map(|note| String::from_utf8(note.to_vec()).unwrap())
}

#[track_caller]
pub fn pending(scope: &Scope, key: &str) -> idemkv::Pending {
    match scope.begin(key, request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{key} should be in flight, is {other:?}"),
    }
}

/// What a superseded claim is told of its key.
#[track_caller]
pub fn superseded(error: &ClaimError) -> &Status {
    match error {
        ClaimError::Superseded(status) => status,
        other => panic!("should be superseded: {other:?}"),
    }
}

/// Fences as they are seen, which must grow.
#[derive(Default)]
pub struct Fences(pub Option<Fence>);

impl Fences {
    #[track_caller]
    pub fn saw(&mut self, claim: Claim) -> Claim {
        assert!(Some(claim.fence()) > self.0, "{} after {:?}", claim.fence(), self.0);
        self.0 = Some(claim.fence());
        claim
    }
}

#[derive(Default)]
pub struct Count(pub AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What may happen to a file between two moments.
#[derive(Clone, Copy, Debug)]
pub enum Gap {
    Nothing,
    Kill,
    CheckpointAndKill,
    Close,
}

pub const GAPS: [Gap; 4] = [Gap::Nothing, Gap::Kill, Gap::CheckpointAndKill, Gap::Close];

/// Lets it happen; nothing but the engine may be held.
pub fn pass(machine: &Machine, engine: Engine, gap: Gap) -> Engine {
    match gap {
        Gap::Nothing => engine,
        Gap::Kill => {
            machine.kill(engine);
            machine.open()
        }
        Gap::CheckpointAndKill => {
            engine.checkpoint().unwrap();
            machine.kill(engine);
            machine.open()
        }
        Gap::Close => {
            engine.close().unwrap();
            machine.open()
        }
    }
}
