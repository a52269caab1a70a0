//! Claims beyond begin and complete: policies, leases, progress, tokens, resolving, durability, limits, batches.
//!
//! On a simulated disk and a manual clock; every engine is stepped by hand.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::unchecked_time_subtraction,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod common;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Wake, Waker};
use std::time::Duration;

use common::{Machine, TTL, UNRESOLVED, done, fresh, poll, ready, request, run};
use idemkv::{
    Begin, BeginError, Busy, Claim, ClaimError, ClaimToken, CommitError, Durability, Engine, Fence,
    Fingerprint, Policy, Recovery, ResolveError, Scope, SetPolicyError, Status, TokenError, Waited,
};

const LEASE: Duration = Duration::from_secs(10);
const MS: Duration = Duration::from_millis(1);
/// Calls in one batch, at most.
const LIMIT: usize = 16_384;

/// A scope whose claims have leases.
fn jobs(engine: &Engine) -> Scope {
    engine.set_policy("jobs", rerun(engine).lease(LEASE)).unwrap()
}

/// For operations that may be repeated.
fn rerun(engine: &Engine) -> Policy {
    engine.policy().recovery(Recovery::Rerun)
}

fn with(engine: &Engine, name: &str, policy: Policy) -> Scope {
    engine.set_policy(name, policy).unwrap()
}

#[track_caller]
fn note(claim: &Claim) -> Option<String> {
    claim.last_progress().map(|note| String::from_utf8(note.to_vec()).unwrap())
}

#[track_caller]
fn pending(scope: &Scope, key: &str) -> idemkv::Pending {
    match scope.begin(key, request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{key} should be in flight, is {other:?}"),
    }
}

#[track_caller]
fn unresolved(scope: &Scope, key: &str) -> u32 {
    match scope.begin(key, request()) {
        Err(BeginError::Unresolved(attempt)) => attempt.attempt(),
        other => panic!("{key} should be unresolved, is {other:?}"),
    }
}

/// What a superseded claim is told of its key.
#[track_caller]
fn superseded(error: &ClaimError) -> &Status {
    match error {
        ClaimError::Superseded(status) => status,
        other => panic!("should be superseded: {other:?}"),
    }
}

/// Fences as they are seen, which must grow.
#[derive(Default)]
struct Fences(Option<Fence>);

impl Fences {
    #[track_caller]
    fn saw(&mut self, claim: Claim) -> Claim {
        assert!(Some(claim.fence()) > self.0, "{} after {:?}", claim.fence(), self.0);
        self.0 = Some(claim.fence());
        claim
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// What may happen to a file between two moments.
#[derive(Clone, Copy, Debug)]
enum Gap {
    Nothing,
    Kill,
    CheckpointAndKill,
    Close,
}

const GAPS: [Gap; 4] = [Gap::Nothing, Gap::Kill, Gap::CheckpointAndKill, Gap::Close];

/// Lets it happen; nothing but the engine may be held.
fn pass(machine: &Machine, engine: Engine, gap: Gap) -> Engine {
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

// Policies.

#[test]
fn a_file_remembers_the_policies_of_its_scopes_and_their_changes() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let first = engine.policy().ttl(TTL / 2).lease(LEASE).recovery(Recovery::Refuse).max_in_flight(3);
        let second = rerun(&engine).durability(Durability::Relaxed(LEASE));
        with(&engine, "changed", second);
        with(&engine, "changed", first);
        with(&engine, "kept", second);
        let engine = pass(&machine, engine, gap);
        assert_eq!(engine.scope("changed").policy(), first, "{gap:?}");
        assert_eq!(engine.scope("kept").policy(), second, "{gap:?}");
        assert_eq!(engine.scope("none").policy(), engine.policy());
        with(&engine, "kept", first);
        let engine = pass(&machine, engine, gap);
        assert_eq!(engine.scope("kept").policy(), first, "{gap:?}");
        assert_eq!(engine.policies().len(), 2);
    }
}

#[test]
fn a_policy_that_is_refused_changes_nothing() {
    let machine = Machine::default();
    let engine = machine.open();
    let policy = engine.policy().lease(LEASE);
    with(&engine, "scope", policy);
    let impossible = engine.set_policy("scope", policy.ttl(Duration::ZERO));
    assert!(matches!(impossible, Err(SetPolicyError::Policy(error)) if error.name() == "ttl"));
    assert!(matches!(engine.set_policy("s".repeat(256), policy), Err(SetPolicyError::Name(_))));
    machine.disk.fail_syncs(Some("-wal"));
    let failed = engine.set_policy("scope", engine.policy());
    assert!(matches!(failed, Err(SetPolicyError::Commit(CommitError::Failed(_)))));
    assert_eq!(engine.scope("scope").policy(), policy);
}

#[test]
fn a_declaration_of_a_task_holds_once_it_is_durable() {
    let machine = Machine::default();
    let engine = machine.open();
    let policy = engine.policy().lease(LEASE);
    {
        let mut declare = Box::pin(engine.set_policy_async("scope", policy));
        assert!(poll(declare.as_mut()).is_pending());
        assert_eq!(engine.scope("scope").policy(), engine.policy());
        engine.step();
        assert_eq!(ready(declare.as_mut()).unwrap().policy(), policy);
        let mut dropped = Box::pin(engine.set_policy_async("dropped", policy));
        assert!(poll(dropped.as_mut()).is_pending());
    }
    engine.step();
    machine.kill(engine);
    assert_eq!(machine.open().policies().len(), 2, "handed over, it is carried out");
}

#[test]
fn claims_and_records_keep_what_they_were_granted_under() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().ttl(TTL / 2));
    let unleased = fresh(&scope, "unleased");
    fresh(&scope, "done").complete("reply").unwrap();
    with(&engine, "scope", engine.policy().ttl(TTL * 2).lease(LEASE));
    assert_eq!(unleased.lease_until(), None);
    let leased = fresh(&scope, "leased");
    machine.clock.advance(LEASE);
    assert!(unleased.renew().is_ok() && leased.renew().is_err());
    let record = unleased.complete("reply").unwrap();
    assert_eq!(record.expires(), record.completed().saturating_add(TTL / 2));
    machine.clock.advance(TTL / 2 - LEASE - MS);
    done(&scope, "done");
    machine.clock.advance(MS);
    let again = fresh(&scope, "done").complete("reply").unwrap();
    assert_eq!(again.expires(), again.completed().saturating_add(TTL * 2));
}

// Recovery, attempts, resolving.

#[test]
fn a_scope_that_refuses_wants_its_interrupted_keys_resolved_however_they_came_about() {
    for gap in GAPS {
        let machine = Machine::default();
        let engine = machine.open();
        let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse).lease(LEASE));
        drop(fresh(&scope, "dropped"));
        let lapsed = fresh(&scope, "lapsed");
        machine.clock.advance(LEASE);
        assert_eq!((unresolved(&scope, "dropped"), unresolved(&scope, "lapsed")), (1, 1));
        drop((lapsed, scope));
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("scope");
        for key in ["dropped", "lapsed"] {
            assert_eq!(unresolved(&scope, key), 1, "{gap:?}");
            let reused = scope.begin(key, Fingerprint::of("another"));
            assert!(matches!(reused, Err(BeginError::KeyReused)));
            let claim = scope.resolve(key).unwrap();
            assert_eq!((claim.attempt(), claim.interrupted().unwrap().attempt()), (2, 1));
            assert_eq!(claim.fingerprint(), &request());
            claim.complete("charged").unwrap();
            assert_eq!(done(&scope, key).body(), b"charged");
        }
    }
}

#[test]
fn attempts_are_granted_up_to_their_limit_and_the_policy_of_the_moment_decides() {
    let machine = Machine::rerun();
    let mut engine = machine.open();
    let policy = rerun(&engine).max_attempts(3).unresolved_forever();
    for attempt in 1..=3 {
        let scope = with(&engine, "scope", policy);
        let claim = fresh(&scope, "key");
        assert_eq!(claim.attempt(), attempt);
        machine.kill((engine, scope, claim));
        engine = machine.open();
    }
    let scope = engine.scope("scope");
    assert_eq!(unresolved(&scope, "key"), 3);
    let many = scope.begin_many(&[("key", request())]);
    assert!(matches!(many.as_slice(), [Err(BeginError::Unresolved(_))]));
    with(&engine, "scope", policy.max_attempts(4));
    drop(fresh(&scope, "key"));
    assert_eq!(unresolved(&scope, "key"), 4);
    machine.clock.advance(100 * TTL);
    engine.step();
    assert_eq!(
        unresolved(&scope, "key"),
        4,
        "what may not run again by itself stays until somebody resolves it"
    );
    scope.resolve("key").unwrap().release().unwrap();
    assert_eq!(fresh(&scope, "key").attempt(), 1);
}

#[test]
fn only_an_interrupted_key_is_resolved() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let status = |key: &str| match scope.resolve(key) {
        Err(ResolveError::NotInterrupted(status)) => *status,
        other => panic!("{key}: {other:?}"),
    };
    assert!(matches!(status("vacant"), Status::Vacant));
    let out = fresh(&scope, "out");
    assert!(matches!(status("out"), Status::InFlight(_)));
    fresh(&scope, "done").complete("reply").unwrap();
    assert!(matches!(status("done"), Status::Done(_)));
    drop(fresh(&scope, "expired"));
    machine.clock.advance(LEASE);
    let claim = scope.resolve("out").unwrap();
    assert!(claim.fence() > out.fence());
    assert!(matches!(status("out"), Status::InFlight(info) if info.attempt() == 2));
    machine.clock.advance(UNRESOLVED);
    assert!(matches!(status("expired"), Status::Vacant));
    assert!(matches!(scope.resolve(""), Err(ResolveError::Begin(BeginError::Key(_)))));
}

#[test]
fn the_release_of_a_resolver_speaks_for_all_attempts() {
    for durability in [Durability::Full, Durability::Completions] {
        for gap in GAPS {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse));
            drop(fresh(&scope, "key"));
            drop(scope.resolve("key").unwrap());
            with(&engine, "scope", rerun(&engine).durability(durability));
            let claim = scope.resolve("key").unwrap();
            assert_eq!(claim.attempt(), 3);
            claim.release().unwrap();
            drop(scope);
            let engine = pass(&machine, engine, gap);
            let claim = fresh(&engine.scope("scope"), "key");
            assert_eq!((claim.attempt(), claim.interrupted()), (1, None), "{durability:?} {gap:?}");
        }
    }
}

#[test]
fn a_resolve_dropped_on_its_way_says_nothing_of_the_attempts_before_it() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse));
    drop(fresh(&scope, "key"));
    {
        let mut resolve = Box::pin(scope.resolve_async("key"));
        assert!(poll(resolve.as_mut()).is_pending());
    }
    engine.step();
    assert_eq!(unresolved(&scope, "key"), 1);
    assert_eq!(engine.stats().in_flight, 0);
    machine.kill((engine, scope));
    assert_eq!(unresolved(&machine.open().scope("scope"), "key"), 1);
}

#[test]
fn a_resolver_that_is_lost_leaves_the_key_interrupted() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse));
    drop(fresh(&scope, "key"));
    let claim = run(&engine, scope.resolve_async("key")).unwrap();
    drop(claim);
    assert_eq!(unresolved(&scope, "key"), 2);
    let claim = scope.resolve("key").unwrap();
    machine.kill((engine, scope, claim));
    assert_eq!(unresolved(&machine.open().scope("scope"), "key"), 3);
}

#[test]
fn a_lease_ends_on_its_millisecond_and_the_next_claim_tells_of_it() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let first = fresh(&scope, "key");
    assert_eq!(first.lease_until(), Some(engine.now().saturating_add(LEASE)));
    machine.clock.advance(LEASE - MS);
    assert!(matches!(scope.get("key").unwrap(), Status::InFlight(_)));
    drop(pending(&scope, "key"));
    machine.clock.advance(MS);
    assert!(matches!(scope.get("key").unwrap(), Status::Interrupted(attempt) if attempt.attempt() == 1));
    let second = fresh(&scope, "key");
    assert_eq!((second.attempt(), second.interrupted().unwrap().fence()), (2, first.fence()));
    assert!(second.fence() > first.fence());
}

// Leases.

#[test]
fn a_renewed_claim_is_good_for_another_lease_each_time() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    for _ in 0..5 {
        machine.clock.advance(LEASE - MS);
        engine.step();
        claim.renew().unwrap();
        drop(pending(&scope, "key"));
    }
    machine.clock.advance(LEASE - MS);
    assert_eq!(claim.complete("reply").unwrap().attempt(), 1);
}

#[test]
fn a_superseded_claim_whose_keys_record_can_not_be_read_is_not_told_that_the_key_is_vacant() {
    let machine = Machine::rerun();
    let engine = machine.options().cache_bytes(0).open("x.idem").unwrap();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(LEASE);
    fresh(&scope, "key").complete("in time").unwrap();
    engine.checkpoint().unwrap();
    // It is on disk alone now, and nothing is read any more.
    engine.close().unwrap();
    let refused = claim.complete("late").unwrap_err();
    let status = superseded(refused.reason());
    assert!(matches!(status, Status::Unreadable(_)), "{status}");
}

#[test]
fn whatever_a_superseded_claim_asks_for_is_refused_with_what_became_of_its_key() {
    type Late = fn(Claim) -> ClaimError;
    let calls: [(&str, Late); 6] = [
        ("complete", |claim| claim.complete("late").unwrap_err().reason().clone()),
        ("fail", |claim| claim.fail("late").unwrap_err().reason().clone()),
        ("release", |claim| claim.release().unwrap_err().reason().clone()),
        ("save_progress", |mut claim| claim.save_progress("late").unwrap_err()),
        ("renew", |claim| claim.renew().unwrap_err()),
        ("token", |claim| claim.into_token().unwrap_err().reason().clone()),
    ];
    for (name, late) in calls {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let keys = ["interrupted", "taken", "done", "vacant"];
        let claims = keys.map(|key| fresh(&scope, key));
        machine.clock.advance(LEASE);
        let taken = fresh(&scope, "taken");
        fresh(&scope, "done").complete("in time").unwrap();
        fresh(&scope, "vacant").release().unwrap();
        assert!(scope.forget("vacant").unwrap());
        let told = claims.map(late);
        assert!(matches!(superseded(&told[0]), Status::Interrupted(info) if info.attempt() == 1), "{name}");
        assert!(matches!(superseded(&told[1]), Status::InFlight(info) if info.attempt() == 2), "{name}");
        assert!(matches!(superseded(&told[2]), Status::Done(it) if it.body() == b"in time"), "{name}");
        assert!(matches!(superseded(&told[3]), Status::Vacant), "{name}");
        taken.complete("in time").unwrap();
        assert_eq!(done(&scope, "taken").body(), b"in time", "{name}");
        assert_eq!(fresh(&scope, "interrupted").attempt(), 2, "{name}");
        assert_eq!(engine.stats().in_flight, 0, "{name}");
    }
}

#[test]
fn of_two_that_meet_in_one_commit_only_the_current_claim_completes() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let first = fresh(&scope, "key");
    machine.clock.advance(LEASE);
    let second = fresh(&scope, "key");
    let mut in_time = second.complete_async("second");
    let mut late = first.complete_async("first");
    assert!(poll(pin!(&mut in_time)).is_pending());
    let told = ready(pin!(&mut late)).unwrap_err();
    assert!(matches!(superseded(told.reason()), Status::InFlight(info) if info.attempt() == 2));
    engine.step();
    assert_eq!(ready(pin!(&mut in_time)).unwrap().body(), b"second");
    drop((in_time, late));
    machine.kill((engine, scope));
    assert_eq!(done(&machine.open().scope("jobs"), "key").body(), b"second");
}

#[test]
fn a_completion_handed_over_before_the_lease_ends_wins_though_its_commit_is_later() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(LEASE - MS);
    let mut complete = claim.complete_async("in time");
    machine.clock.advance(LEASE);
    let waiting = pending(&scope, "key");
    let forget = scope.forget("key");
    assert!(matches!(forget, Err(idemkv::ForgetError::InFlight)));
    engine.step();
    assert_eq!(ready(pin!(&mut complete)).unwrap().body(), b"in time");
    assert!(matches!(waiting.wait(), Ok(Waited::Done(record)) if record.body() == b"in time"));
    drop((complete, waiting));
    machine.kill((engine, scope));
    assert_eq!(done(&machine.open().scope("jobs"), "key").body(), b"in time");
}

#[test]
fn who_waits_is_woken_when_the_lease_ends_and_not_before() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    let pending = pending(&scope, "key");
    let count = Arc::new(Count::default());
    let waker = Waker::from(Arc::clone(&count));
    let mut waiting = pin!(pending.wait_async());
    assert!(waiting.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    machine.clock.advance(LEASE - MS);
    claim.renew().unwrap();
    for (advance, woken) in [(MS, 0), (LEASE - MS - MS, 0), (MS, 1)] {
        machine.clock.advance(advance);
        engine.step();
        assert_eq!(count.0.load(Ordering::SeqCst), woken);
    }
    assert!(matches!(ready(waiting.as_mut()), Ok(Waited::Interrupted)));
    // A thread that waits finds it at once.
    assert!(matches!(pending.wait(), Ok(Waited::Interrupted)));
    drop(claim);
}

#[test]
fn a_claim_whose_lease_ended_in_passing_counts_until_its_holder_lets_it_go() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    machine.clock.advance(LEASE);
    engine.step();
    assert_eq!(engine.stats().in_flight, 1);
    drop(claim);
    assert_eq!(engine.stats().in_flight, 0);
}

#[test]
fn a_kill_interrupts_a_claim_whose_lease_lasts() {
    for gap in [Gap::Kill, Gap::CheckpointAndKill, Gap::Close] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let claim = fresh(&scope, "key");
        if let Gap::CheckpointAndKill = gap {
            engine.checkpoint().unwrap();
        }
        match gap {
            Gap::Close => assert_eq!(engine.close().unwrap().claims_left, 1),
            Gap::Nothing | Gap::Kill | Gap::CheckpointAndKill => machine.kill((engine, scope.clone())),
        }
        drop((claim, scope));
        machine.disk.restart_process();
        assert_eq!(fresh(&machine.open().scope("jobs"), "key").attempt(), 2, "{gap:?}");
    }
}

/// Progress waits in the queue until the lease is over; in memory the next claim has the key by then.
#[test]
fn a_claim_overtaken_in_memory_is_no_less_durable() {
    let machine = Machine::rerun();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = jobs(&engine);
    {
        let mut first = fresh(&scope, "key");
        let mut save = Box::pin(first.save_progress_async("so far"));
        assert!(poll(save.as_mut()).is_pending());
        machine.clock.advance(LEASE);
        let mut second = Box::pin(scope.begin_async("key", request()));
        assert!(poll(second.as_mut()).is_pending());
        engine.step();
        ready(save.as_mut()).unwrap();
        engine.checkpoint().unwrap();
        machine.disk.crash_at(machine.disk.operations());
        drop((save, second));
    }
    machine.kill((engine, scope));
    let claim = fresh(&machine.open().scope("jobs"), "key");
    assert_eq!(claim.interrupted().unwrap().attempt(), 1);
    assert_eq!(note(&claim).as_deref(), Some("so far"));
}

/// The other way round: a grant that waits for a place in the queue, and comes into it after a later one of its key.
#[test]
fn a_grant_overtaken_on_its_way_to_the_log_is_not_given_out() {
    let machine = Machine::rerun();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = jobs(&engine);
    // Without a lease.
    let other = engine.scope("other");
    let mut blocker = Box::pin(other.begin_async("blocker", request()));
    assert!(poll(blocker.as_mut()).is_pending());
    let mut first = Box::pin(scope.begin_async("key", request()));
    assert!(poll(first.as_mut()).is_pending());
    machine.clock.advance(LEASE);
    engine.step();
    let Ok(Begin::Fresh(blocking)) = ready(blocker.as_mut()) else { panic!("granted") };
    // There is a place now, and the second comes first.
    let second = fresh(&scope, "key");
    let Ok(Begin::InFlight(waiting)) = run(&engine, first.as_mut()) else { panic!("the second has it") };
    second.complete("second").unwrap();
    assert!(matches!(waiting.wait(), Ok(Waited::Done(_))));
    drop((blocker, first, blocking, waiting));
    drop(other);
    assert_eq!(engine.stats().in_flight, 0);
    machine.kill((engine, scope));
    assert_eq!(done(&machine.open().scope("jobs"), "key").body(), b"second");
}

// Progress.

#[test]
fn progress_outlives_every_end_but_an_outcome() {
    type Lose = fn(&Machine, Claim);
    let ends: [(&str, Lose); 2] = [
        ("dropped", |_, claim| drop(claim)),
        ("lapsed", |machine, claim| {
            machine.clock.advance(LEASE);
            drop(claim);
        }),
    ];
    for (end, lose) in ends {
        for gap in GAPS {
            for second in GAPS {
                let machine = Machine::rerun();
                let engine = machine.open();
                let scope = jobs(&engine);
                let mut claim = fresh(&scope, "key");
                assert_eq!(note(&claim), None);
                claim.save_progress("one").unwrap();
                claim.save_progress("two").unwrap();
                assert_eq!(note(&claim).as_deref(), Some("two"));
                lose(&machine, claim);
                drop(scope);
                let engine = pass(&machine, engine, gap);
                let scope = engine.scope("jobs");
                let claim = fresh(&scope, "key");
                assert_eq!(note(&claim).as_deref(), Some("two"), "{end}, {gap:?}");
                lose(&machine, claim);
                drop(scope);
                let engine = pass(&machine, engine, second);
                let mut claim = fresh(&engine.scope("jobs"), "key");
                assert_eq!((claim.attempt(), note(&claim).as_deref()), (3, Some("two")), "{end}, {second:?}");
                claim.save_progress("three").unwrap();
                lose(&machine, claim);
                let claim = fresh(&engine.scope("jobs"), "key");
                assert_eq!(note(&claim).as_deref(), Some("three"));
                claim.complete("reply").unwrap();
            }
        }
    }
}

#[test]
fn a_kill_of_the_holder_keeps_its_progress() {
    for stored in [false, true] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let mut claim = fresh(&scope, "key");
        claim.save_progress("note").unwrap();
        if stored {
            engine.checkpoint().unwrap();
        }
        machine.kill((engine, scope, claim));
        let claim = fresh(&machine.open().scope("jobs"), "key");
        assert_eq!((claim.attempt(), note(&claim).as_deref()), (2, Some("note")), "stored: {stored}");
    }
}

#[test]
fn a_release_that_returns_the_key_keeps_the_progress_of_the_attempt_before() {
    for durability in [Durability::Full, Durability::Completions] {
        for gap in GAPS {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(durability));
            let mut claim = fresh(&scope, "key");
            claim.save_progress("one").unwrap();
            drop((claim, scope));
            let engine = pass(&machine, engine, gap);
            fresh(&engine.scope("jobs"), "key").release().unwrap();
            let engine = pass(&machine, engine, gap);
            let scope = engine.scope("jobs");
            let mut claim = fresh(&scope, "key");
            assert_eq!(note(&claim).as_deref(), Some("one"), "{durability:?} {gap:?}");
            assert_eq!(claim.interrupted().unwrap().attempt(), 1);
            claim.save_progress("three").unwrap();
            claim.release().unwrap();
            drop(scope);
            let engine = pass(&machine, engine, gap);
            let claim = fresh(&engine.scope("jobs"), "key");
            assert_eq!(note(&claim).as_deref(), Some("three"), "{durability:?} {gap:?}");
            assert_eq!((claim.attempt(), claim.interrupted().unwrap().attempt()), (4, 1));
        }
    }
}

#[test]
fn a_key_that_starts_anew_knows_no_progress() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    for key in ["released", "completed", "expired", "forgotten"] {
        let mut claim = fresh(&scope, key);
        claim.save_progress("old").unwrap();
        match key {
            "released" => claim.release().unwrap(),
            "completed" => drop(claim.complete("reply").unwrap()),
            _ => drop(claim),
        }
    }
    assert!(scope.forget("forgotten").unwrap());
    for key in ["released", "forgotten"] {
        assert_eq!(note(&fresh(&scope, key)), None, "{key}");
    }
    machine.clock.advance(UNRESOLVED);
    for key in ["completed", "expired"] {
        let claim = fresh(&scope, key);
        assert_eq!((claim.attempt(), note(&claim)), (1, None), "{key}");
        machine.clock.advance(LEASE);
    }
    machine.kill((engine, scope));
    let scope = machine.open().scope("jobs");
    for key in ["released", "completed", "expired", "forgotten"] {
        assert_eq!(note(&fresh(&scope, key)), None, "{key}");
    }
}

#[test]
fn progress_in_flight_when_the_lease_ends_is_inherited_from_the_same_commit() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        {
            let mut first = fresh(&scope, "key");
            let commits = engine.stats().commits;
            let mut progress = Box::pin(first.save_progress_async("note"));
            assert!(poll(progress.as_mut()).is_pending());
            machine.clock.advance(LEASE);
            let mut begin = Box::pin(scope.begin_async("key", request()));
            assert!(poll(begin.as_mut()).is_pending());
            engine.step();
            assert_eq!(engine.stats().commits, commits + 1, "both are one commit");
            ready(progress.as_mut()).unwrap();
            let Ok(Begin::Fresh(second)) = ready(begin.as_mut()) else { panic!("granted") };
            assert_eq!((second.attempt(), note(&second).as_deref()), (2, Some("note")));
        }
        drop(scope);
        let engine = pass(&machine, engine, gap);
        let claim = fresh(&engine.scope("jobs"), "key");
        assert_eq!((claim.attempt(), note(&claim).as_deref()), (3, Some("note")), "{gap:?}");
    }
}

/// The next attempt has the key in memory, and is not in the log, when the progress becomes durable and the log moves to the file.
#[test]
fn progress_that_outruns_the_next_grant_is_not_lost_between_log_and_file() {
    for durability in [Durability::Full, Durability::Completions] {
        let machine = Machine::rerun();
        let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
        let scope = jobs(&engine);
        {
            let mut first = fresh(&scope, "key");
            engine.checkpoint().unwrap();
            let mut progress = Box::pin(first.save_progress_async("note"));
            assert!(poll(progress.as_mut()).is_pending());
            machine.clock.advance(LEASE);
            if durability == Durability::Completions {
                // PolicySet in memory by the time it is asked for, and not in the way of the queue.
                engine.step();
                with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(durability));
            }
            let mut begin = Box::pin(scope.begin_async("key", request()));
            let next = poll(begin.as_mut());
            assert_eq!(next.is_pending(), durability == Durability::Full);
            engine.step();
            ready(progress.as_mut()).unwrap();
            engine.checkpoint().unwrap();
            machine.disk.crash_at(machine.disk.operations());
            drop((begin, next));
        }
        machine.kill((engine, scope));
        let claim = fresh(&machine.open().scope("jobs"), "key");
        assert_eq!(note(&claim).as_deref(), Some("note"), "{durability:?}");
    }
}

/// The file knows of the old attempt, whose progress made it durable, and would know of no other.
#[test]
fn a_memory_only_claim_that_starts_anew_does_not_bring_back_the_attempt_before_it() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = with(&engine, "jobs", rerun(&engine).durability(Durability::Completions));
        for key in ["released", "lost"] {
            let mut claim = fresh(&scope, key);
            claim.save_progress("old").unwrap();
            drop(claim);
        }
        machine.clock.advance(UNRESOLVED);
        let (released, lost) = (fresh(&scope, "released"), fresh(&scope, "lost"));
        assert_eq!((lost.attempt(), note(&lost)), (1, None), "{gap:?}");
        released.release().unwrap();
        drop((lost, scope));
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("jobs");
        assert!(matches!(scope.get("released").unwrap(), Status::Vacant), "{gap:?}");
        assert_eq!(note(&fresh(&scope, "lost")), None, "{gap:?}");
    }
}

#[test]
fn progress_makes_a_memory_only_claim_durable() {
    for gap in GAPS {
        let machine = Machine::rerun();
        let engine = machine.open();
        let memory_only = rerun(&engine).lease(LEASE).durability(Durability::Completions);
        let scope = with(&engine, "jobs", memory_only);
        let commits = engine.stats().commits;
        let mut claim = fresh(&scope, "key");
        assert_eq!(engine.stats().commits, commits);
        claim.save_progress("note").unwrap();
        assert_eq!(engine.stats().commits, commits + 1);
        drop((claim, scope));
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("jobs");
        let claim = fresh(&scope, "key");
        assert_eq!((claim.attempt(), note(&claim).as_deref()), (2, Some("note")), "{gap:?}");
        claim.release().unwrap();
        // What the log knows of is undone there.
        let mut claim = fresh(&scope, "released");
        claim.save_progress("note").unwrap();
        claim.release().unwrap();
        drop(scope);
        let engine = pass(&machine, engine, gap);
        let scope = engine.scope("jobs");
        assert!(matches!(scope.get("released").unwrap(), Status::Vacant), "{gap:?}");
        assert_eq!(fresh(&scope, "key").interrupted().unwrap().attempt(), 1, "{gap:?}");
    }
}

#[test]
fn progress_takes_no_more_memory_than_it_may() {
    let machine = Machine::default();
    let options = || machine.options().max_progress_bytes(1_000);
    let engine = options().open("x.idem").unwrap();
    let scope = jobs(&engine);
    let full = |claim: &mut Claim, len: usize| match claim.save_progress("x".repeat(len)) {
        Err(ClaimError::Commit(CommitError::Busy(Busy::TooManyProgressBytes { max: 1_000 }))) => true,
        Ok(()) => false,
        Err(other) => panic!("{other}"),
    };
    let (mut first, mut second) = (fresh(&scope, "first"), fresh(&scope, "second"));
    assert!(!full(&mut first, 600) && full(&mut second, 401) && !full(&mut second, 400));
    first.complete("reply").unwrap();
    assert!(full(&mut second, 601) && !full(&mut second, 600));
    drop(second);
    machine.kill((engine, scope));
    let engine = options().open("x.idem").unwrap();
    let scope = engine.scope("jobs");
    let mut third = fresh(&scope, "third");
    assert!(full(&mut third, 401), "what an interrupted key keeps counts");
    assert!(scope.forget("second").unwrap());
    assert!(!full(&mut third, 1_000));
    assert!(matches!(third.save_progress(vec![0; 5_000]), Err(ClaimError::BodyTooLarge { len: 5_000, .. })));
    assert_eq!(third.last_progress().unwrap().len(), 1_000);
}

// Tokens.

#[test]
fn a_claim_handed_over_stands_while_its_lease_lasts_whatever_becomes_of_the_process() {
    for durability in [Durability::Full, Durability::Completions] {
        for gap in GAPS {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = with(&engine, "jobs", rerun(&engine).lease(LEASE).durability(durability));
            let mut claim = fresh(&scope, "key");
            claim.save_progress("note").unwrap();
            machine.clock.advance(LEASE / 2);
            let (fence, token) = (claim.fence(), claim.into_token().unwrap());
            drop(scope);
            machine.clock.advance(LEASE / 2);
            let engine = pass(&machine, engine, gap);
            let engine = pass(&machine, engine, gap);
            assert_eq!(engine.stats().in_flight, 1, "{gap:?}");
            let scope = engine.scope("jobs");
            drop(pending(&scope, "key"));
            machine.clock.advance(LEASE / 2 - MS);
            let token = ClaimToken::from_bytes(token.as_bytes());
            let claim = scope.resume(&token).unwrap();
            assert_eq!((claim.attempt(), claim.fence()), (1, fence));
            assert_eq!((note(&claim).as_deref(), claim.fingerprint()), (Some("note"), &request()));
            claim.renew().unwrap();
            machine.clock.advance(LEASE - MS);
            claim.complete("reply").unwrap();
            assert_eq!(engine.stats().in_flight, 0, "{gap:?}");
            drop(scope);
            let engine = pass(&machine, engine, gap);
            assert_eq!(done(&engine.scope("jobs"), "key").fence(), fence, "{gap:?}");
        }
    }
}

#[test]
fn a_claim_that_stood_over_a_restart_is_released_with_room_of_its_own() {
    for is_task in [true, false] {
        let machine = Machine::default();
        let engine = machine.open();
        let token = fresh(&jobs(&engine), "key").into_token().unwrap();
        machine.kill(engine);
        let engine = machine.open();
        let others: Vec<_> = (0..4).map(|n| fresh(&engine.scope(""), &n.to_string())).collect();
        let claim = engine.scope("jobs").resume(&token).unwrap();
        if is_task {
            run(&engine, claim.release_async()).unwrap();
        } else {
            claim.release().unwrap();
        }
        // Its room is its own: what was promised to these is still there.
        for claim in others {
            claim.complete("reply").unwrap();
        }
        drop(fresh(&engine.scope("jobs"), "key"));
    }
}

#[test]
fn a_claim_handed_over_lapses_with_its_lease_while_the_file_is_open_or_not() {
    for gap in GAPS {
        for before in [true, false] {
            let machine = Machine::rerun();
            let engine = machine.open();
            let scope = jobs(&engine);
            let token = fresh(&scope, "key").into_token().unwrap();
            drop(scope);
            if before {
                machine.clock.advance(LEASE);
            }
            let engine = pass(&machine, engine, gap);
            let scope = engine.scope("jobs");
            if !before {
                let waiting = pending(&scope, "key");
                machine.clock.advance(LEASE);
                engine.step();
                assert!(matches!(waiting.wait(), Ok(Waited::Interrupted)), "{gap:?}");
            }
            let refused = scope.resume(&token);
            let Err(TokenError::Superseded(status)) = refused else { panic!("{gap:?}: {refused:?}") };
            assert!(matches!(*status, Status::Interrupted(attempt) if attempt.attempt() == 1), "{gap:?}");
            assert_eq!(engine.stats().in_flight, 0, "{gap:?}");
            assert_eq!(fresh(&scope, "key").attempt(), 2);
        }
    }
}

#[test]
fn a_token_is_refused_that_is_damaged_or_of_elsewhere() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let bytes = token.as_bytes().to_vec();
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let refused = scope.resume(&ClaimToken::from_bytes(damaged));
        assert!(matches!(refused, Err(TokenError::Malformed | TokenError::OtherFile)), "{bit}: {refused:?}");
    }
    for len in 0..bytes.len() {
        let refused = scope.resume(&ClaimToken::from_bytes(&bytes[..len]));
        assert!(matches!(refused, Err(TokenError::Malformed | TokenError::OtherFile)), "{len}: {refused:?}");
    }
    let longer = ClaimToken::from_bytes([&bytes[..], &[0]].concat());
    assert!(matches!(scope.resume(&longer), Err(TokenError::Malformed)));
    assert!(matches!(engine.scope("other").resume(&token), Err(TokenError::OtherScope)));
    let elsewhere = Machine::default().options().seed(2).open("x.idem").unwrap();
    assert!(matches!(jobs(&elsewhere).resume(&token), Err(TokenError::OtherFile)));
    assert!(!format!("{token:?}").contains(char::is_numeric));
    scope.resume(&token).unwrap().complete("reply").unwrap();
}

#[test]
fn a_token_gives_its_claim_to_one_holder_at_a_time() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = run(&engine, scope.resume_async(&token)).unwrap();
    assert!(matches!(scope.resume(&token), Err(TokenError::Held)));
    let again = claim.into_token().unwrap();
    assert_eq!(again, token);
    let claim = scope.resume(&token).unwrap();
    claim.complete("reply").unwrap();
    let ended = scope.resume(&token);
    assert!(matches!(&ended, Err(TokenError::Superseded(status)) if matches!(**status, Status::Done(_))));
    let lost = fresh(&scope, "lost").into_token().unwrap();
    drop(scope.resume(&lost).unwrap());
    let ended = scope.resume(&lost);
    assert!(
        matches!(&ended, Err(TokenError::Superseded(status)) if matches!(**status, Status::Interrupted(_)))
    );
    let passed_on = fresh(&scope, "taken").into_token().unwrap();
    machine.clock.advance(LEASE);
    let next = fresh(&scope, "taken");
    let Err(TokenError::Superseded(status)) = scope.resume(&passed_on) else { panic!("superseded") };
    assert!(matches!(*status, Status::InFlight(attempt) if attempt.fence() == next.fence()));
    drop(next);
    assert_eq!(engine.stats().in_flight, 0);
    engine.close().unwrap();
    assert!(matches!(scope.resume(&token), Err(TokenError::Begin(BeginError::Closed))));
}

#[test]
fn a_claim_taken_up_stands_again_after_a_kill_of_its_holder() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = scope.resume(&token).unwrap();
    machine.kill((engine, scope, claim));
    let engine = machine.open();
    let scope = engine.scope("jobs");
    scope.resume(&token).unwrap().complete("reply").unwrap();
    assert_eq!(done(&scope, "key").attempt(), 1);
}

/// The row that a checkpoint writes of a claim must not say that a process has it.
#[test]
fn a_claim_taken_up_stands_again_though_a_checkpoint_came_between_or_the_file_was_closed() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = scope.resume(&token).unwrap();
    engine.checkpoint().unwrap();
    machine.kill((engine, scope, claim));

    let engine = machine.open();
    let scope = engine.scope("jobs");
    let claim = scope.resume(&token).unwrap();
    engine.close().unwrap();
    drop((scope, claim));

    let engine = machine.open();
    let scope = engine.scope("jobs");
    // Once it is dropped, and that was written, it does not stand any more.
    let mut claim = scope.resume(&token).unwrap();
    claim.save_progress("note").unwrap();
    drop(claim);
    engine.checkpoint().unwrap();
    machine.kill((engine, scope));

    let engine = machine.open();
    let scope = engine.scope("jobs");
    assert!(matches!(scope.resume(&token), Err(TokenError::Superseded(_))));
    assert_eq!(fresh(&scope, "key").attempt(), 2);
}

/// The file says that the claim stands, and knows nothing of what became of it since.
#[test]
fn a_token_does_not_bring_its_claim_back_over_a_later_one_that_only_memory_knows() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let policy = rerun(&engine).lease(LEASE).durability(Durability::Completions);
    let scope = with(&engine, "jobs", policy);
    let token = fresh(&scope, "key").into_token().unwrap();
    let claim = scope.resume(&token).unwrap();
    engine.checkpoint().unwrap();
    drop(claim);
    let later = fresh(&scope, "key");
    assert_eq!(later.attempt(), 2);
    machine.kill((engine, scope, later));

    let engine = machine.open();
    let scope = engine.scope("jobs");
    assert!(matches!(scope.resume(&token), Err(TokenError::Superseded(_))));
    assert_eq!(fresh(&scope, "key").interrupted().unwrap().attempt(), 2);
}

#[test]
fn a_claim_without_a_lease_is_not_handed_over_and_comes_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let error = fresh(&engine.scope(""), "key").into_token().unwrap_err();
    assert!(matches!(error.reason(), ClaimError::NoLease));
    error.into_claim().unwrap().complete("reply").unwrap();
}

#[test]
fn a_hand_over_that_nobody_waits_for_stands_until_its_lease_ends() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    {
        let mut hand_over = Box::pin(claim.into_token_async());
        assert!(poll(hand_over.as_mut()).is_pending());
    }
    engine.step();
    drop(pending(&scope, "key"));
    assert_eq!(engine.stats().in_flight, 1);
    machine.clock.advance(LEASE);
    engine.step();
    assert_eq!((engine.stats().in_flight, fresh(&scope, "key").attempt()), (0, 2));
}

// Durability.

#[test]
fn a_relaxed_result_is_seen_by_others_once_it_is_flushed() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let relaxed = rerun(&engine).durability(Durability::Relaxed(Duration::from_secs(60)));
    let scope = with(&engine, "scope", relaxed);
    let commits = engine.stats().commits;
    let record = fresh(&scope, "key").complete("reply").unwrap();
    let task = run(&engine, fresh(&scope, "task").complete_async("reply")).unwrap();
    assert!(!record.is_durable() && !task.is_durable());
    assert_eq!(engine.stats().commits, commits);
    let waiting = pending(&scope, "key");
    engine.flush().unwrap();
    assert!(record.is_durable() && task.is_durable());
    assert_eq!(engine.stats().commits, commits + 1);
    assert!(matches!(waiting.wait(), Ok(Waited::Done(_))));
    let stepped = fresh(&scope, "stepped").complete("reply").unwrap();
    engine.step();
    assert!(stepped.is_durable());
    run(&engine, engine.flush_async()).unwrap();
    fresh(&scope, "forgotten").complete("reply").unwrap();
    drop(waiting);
    machine.kill((engine, scope));
    let engine = machine.open();
    let scope = engine.scope("scope");
    assert_eq!(done(&scope, "key").body(), b"reply");
    let claim = fresh(&scope, "forgotten");
    assert_eq!((claim.attempt(), claim.interrupted()), (1, None));
}

#[test]
fn a_relaxed_result_is_flushed_by_closing() {
    let machine = Machine::rerun();
    let engine = machine.open();
    let relaxed = rerun(&engine).durability(Durability::Relaxed(Duration::from_secs(60)));
    let scope = with(&engine, "scope", relaxed);
    fresh(&scope, "key").complete("reply").unwrap();
    engine.close().unwrap();
    drop(scope);
    done(&machine.open().scope("scope"), "key");
}

#[test]
fn each_durability_leaves_what_it_promises_after_a_kill() {
    let classes = [Durability::Full, Durability::Completions, Durability::Relaxed(LEASE)];
    for durability in classes {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = with(&engine, "scope", rerun(&engine).durability(durability));
        let out = fresh(&scope, "out");
        fresh(&scope, "done").complete("reply").unwrap();
        machine.kill((engine, scope, out));
        let engine = machine.open();
        let scope = engine.scope("scope");
        let (out, ended) = (scope.get("out").unwrap(), scope.get("done").unwrap());
        assert_eq!(matches!(out, Status::Interrupted(_)), durability == Durability::Full, "{out:?}");
        assert_eq!(
            matches!(ended, Status::Vacant),
            matches!(durability, Durability::Relaxed(_)),
            "{ended:?}"
        );
    }
}

#[test]
fn a_real_engine_flushes_relaxed_results_within_their_time() {
    let dir = tempfile::tempdir().unwrap();
    let engine = Engine::open(dir.path().join("x.idem")).unwrap();
    let relaxed = rerun(&engine).durability(Durability::Relaxed(MS));
    let scope = with(&engine, "scope", relaxed);
    for n in 0..20 {
        let key = format!("key {n}");
        fresh(&scope, &key).complete("reply").unwrap();
        // Without anybody else's commit, this ends only if the engine's own thread leads.
        if let Begin::InFlight(pending) = scope.begin(&key, request()).unwrap() {
            assert!(matches!(pending.wait(), Ok(Waited::Done(_))));
        }
    }
}

// Limits.

#[test]
fn a_scopes_limit_counts_its_claims_and_no_others_however_they_end() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().lease(LEASE).max_in_flight(2));
    let full = |scope: &Scope| {
        let refused = scope.begin("one more", request());
        matches!(refused, Err(BeginError::Busy(Busy::TooManyClaims { max: 2 })))
    };
    let first = fresh(&scope, "first");
    let second = fresh(&scope, "second");
    assert!(full(&scope));
    fresh(&engine.scope("other"), "key").complete("reply").unwrap();
    done(&engine.scope("other"), "key");
    let ends: [fn(Claim); 5] = [
        |claim| drop(claim.complete("").unwrap()),
        |claim| drop(claim.fail("").unwrap()),
        |claim| claim.release().unwrap(),
        drop,
        |claim| drop(claim.into_token().unwrap()),
    ];
    first.complete("").unwrap();
    for (n, end) in ends.into_iter().enumerate() {
        end(fresh(&scope, &format!("key {n}")));
    }
    assert!(full(&scope), "a claim handed over is out");
    machine.clock.advance(LEASE);
    engine.step();
    drop(fresh(&scope, "another"));
    let third = fresh(&scope, "third");
    assert!(full(&scope), "a holder that is late still counts");
    assert!(second.complete("late").is_err());
    assert!(!full(&scope));
    drop(third);
    assert_eq!(engine.stats().in_flight, 0);
}

#[test]
fn a_scopes_limit_counts_claims_handed_over_before_a_restart() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = with(&engine, "scope", engine.policy().lease(LEASE).max_in_flight(1));
    let token = fresh(&scope, "key").into_token().unwrap();
    machine.kill((engine, scope));
    let engine = machine.open();
    let scope = engine.scope("scope");
    let refused = scope.begin("another", request());
    assert!(matches!(refused, Err(BeginError::Busy(Busy::TooManyClaims { max: 1 }))), "{refused:?}");
    scope.resume(&token).unwrap().complete("reply").unwrap();
    fresh(&scope, "another").complete("reply").unwrap();
}

/// The log is small and each claim has thousands of bytes of it promised, so a promise that is not taken back is missed soon.
#[test]
fn nothing_stays_promised_or_counted_whatever_becomes_of_claims() {
    let machine = Machine::rerun();
    let engine = machine.options().queue_timeout(Duration::ZERO).open("x.idem").unwrap();
    let scopes = [Durability::Full, Durability::Completions, Durability::Relaxed(LEASE)].map(|durability| {
        let policy = rerun(&engine).lease(LEASE).durability(durability).max_in_flight(3);
        with(&engine, &format!("{durability:?}"), policy)
    });
    let mut fences = Fences::default();
    for round in 0..150 {
        for scope in &scopes {
            let key = |name: &str| format!("{name} {round}");
            let mut noted = fences.saw(fresh(scope, &key("noted")));
            noted.save_progress("note").unwrap();
            noted.release().unwrap();
            let token = fences.saw(fresh(scope, &key("token"))).into_token().unwrap();
            let lost = fences.saw(fresh(scope, &key("lost"))).into_token().unwrap();
            scope.resume(&token).unwrap().complete("reply").unwrap();
            let mut late = fences.saw(fresh(scope, &key("late")));
            machine.clock.advance(LEASE);
            assert!(scope.resume(&lost).is_err() && late.save_progress("late").is_err());
            let next = fences.saw(fresh(scope, &key("late")));
            assert!(late.complete("late").is_err());
            next.release().unwrap();
            fences.saw(scope.resolve(key("late")).unwrap()).release().unwrap();
            // Given up before it was asked, while it is on its way, and once it is there.
            for steps in 0..3 {
                let mut begin = Box::pin(scope.begin_async(key("dropped"), request()));
                for _ in 0..steps {
                    if poll(begin.as_mut()).is_ready() {
                        break;
                    }
                    engine.step();
                }
            }
            if let Ok(claim) = scope.resolve(key("dropped")) {
                claim.release().unwrap();
            }
        }
        if round % 50 == 0 {
            engine.checkpoint().unwrap();
        }
    }
    assert_eq!(engine.stats().in_flight, 0);
}

// Batches.

#[test]
fn a_batch_of_begins_is_one_commit_and_so_are_its_completions() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let keys: Vec<_> = (0..20).map(|n| format!("key {}", n % 15)).collect();
    let requests: Vec<_> = keys.iter().map(|key| (key, request())).collect();
    let commits = engine.stats().commits;
    let (mut claims, mut twins, mut fences) = (Vec::new(), 0, Fences::default());
    for result in scope.begin_many(&requests) {
        match result {
            Ok(Begin::Fresh(claim)) => claims.push((fences.saw(claim), "reply")),
            Err(BeginError::Twin { .. }) => twins += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((claims.len(), twins, engine.stats().commits), (15, 5, commits + 1));
    assert!(engine.complete_many(claims).iter().all(Result::is_ok));
    assert_eq!((engine.stats().commits, engine.stats().in_flight), (commits + 2, 0));
}

#[test]
fn a_superseded_claim_in_a_batch_stops_none_of_the_others() {
    for as_task in [false, true] {
        let machine = Machine::rerun();
        let engine = machine.open();
        let scope = jobs(&engine);
        let unleased = engine.scope("unleased");
        let late = fresh(&scope, "late");
        let lapsed = fresh(&scope, "lapsed");
        machine.clock.advance(LEASE);
        let next = fresh(&scope, "late");
        let batch = vec![
            (late, "late".to_owned()),
            (next, "next".to_owned()),
            (fresh(&unleased, "too long"), "x".repeat(5_000)),
            (lapsed, "late".to_owned()),
            (fresh(&unleased, "key"), "reply".to_owned()),
        ];
        let commits = engine.stats().commits;
        let results = if as_task {
            run(&engine, engine.complete_many_async(batch))
        } else {
            engine.complete_many(batch)
        };
        assert_eq!(engine.stats().commits, commits + 1);
        let [late, next, too_long, lapsed, plain] = <[_; 5]>::try_from(results).unwrap();
        superseded(late.unwrap_err().reason());
        assert!(matches!(superseded(lapsed.unwrap_err().reason()), Status::Interrupted(_)));
        assert_eq!((next.unwrap().body(), plain.unwrap().body()), (&b"next"[..], &b"reply"[..]));
        too_long.unwrap_err().into_claim().unwrap().complete("short").unwrap();
        assert_eq!(done(&scope, "late").body(), b"next");
        assert_eq!(engine.stats().in_flight, 0);
    }
}

#[test]
fn a_batch_over_the_limit_is_refused_whole_and_gives_its_claims_back() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = engine.scope("");
    let requests = vec![("key", request()); LIMIT + 1];
    let results = scope.begin_many(&requests);
    assert_eq!(results.len(), LIMIT + 1);
    assert!(results.iter().all(|result| matches!(result, Err(BeginError::BatchTooLong { .. }))));
    assert!(matches!(scope.get("key").unwrap(), Status::Vacant));
    let results = scope.begin_many(&requests[1..]);
    assert_eq!(results.iter().filter(|result| matches!(result, Ok(Begin::Fresh(_)))).count(), 1);
}

#[test]
fn a_batch_of_begins_dropped_on_its_way_has_claimed_nothing() {
    // Each of its grants is a commit of its own, so after some steps some of them are there and some are not.
    for steps in 0..4 {
        let machine = Machine::default();
        let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
        let scope = with(&engine, "scope", engine.policy().recovery(Recovery::Refuse));
        let requests = ["one", "two", "three", "four", "five"].map(|key| (key, request()));
        {
            let mut begins = Box::pin(scope.begin_many_async(&requests));
            assert!(poll(begins.as_mut()).is_pending());
            for _ in 0..steps {
                engine.step();
                assert!(poll(begins.as_mut()).is_pending());
            }
        }
        engine.step();
        for (key, _) in &requests {
            assert!(matches!(scope.get(key).unwrap(), Status::Vacant), "{key} after {steps} steps");
        }
        assert_eq!(engine.stats().in_flight, 0);
    }
}

// All together.

/// A task, and what it waits for.
type Waiting<'a> = (&'static str, Pin<Box<dyn Future<Output = ()> + 'a>>);

#[test]
fn closing_wakes_every_task_however_it_waits() {
    let machine = Machine::default();
    let engine = machine.options().queue_entries(1).open("x.idem").unwrap();
    let scope = jobs(&engine);
    let [mut noting, handed, ended, released] =
        ["noting", "handed", "ended", "released"].map(|key| fresh(&scope, key));
    let token = fresh(&scope, "token").into_token().unwrap();
    let (on_claim, on_token) = (pending(&scope, "noting"), pending(&scope, "token"));
    let requests = ["four", "five"].map(|key| (key, request()));
    let theirs = &engine;
    let policy = engine.policy();
    let scope = &scope;
    let waiting: Vec<Waiting<'_>> = vec![
        ("begin", Box::pin(async move { drop(scope.begin_async("one", request()).await) })),
        ("begin, no place", Box::pin(async move { drop(scope.begin_async("two", request()).await) })),
        ("begin of a batch", Box::pin(async { drop(scope.begin_many_async(&requests).await) })),
        ("save_progress", Box::pin(async { drop(noting.save_progress_async("note").await) })),
        ("token", Box::pin(async move { drop(handed.into_token_async().await) })),
        ("complete", Box::pin(async move { drop(ended.complete_async("reply").await) })),
        ("release", Box::pin(async move { drop(released.release_async().await) })),
        ("declare", Box::pin(async move { drop(theirs.set_policy_async("scope", policy).await) })),
        ("flush", Box::pin(async move { drop(theirs.flush_async().await) })),
        ("wait for a claim", Box::pin(async { drop(on_claim.wait_async().await) })),
        ("wait for a token", Box::pin(async { drop(on_token.wait_timeout_async(TTL).await) })),
    ];
    let mut waiting: Vec<_> =
        waiting.into_iter().map(|(name, future)| (name, future, Arc::new(Count::default()))).collect();
    for (name, future, count) in &mut waiting {
        let waker = Waker::from(Arc::clone(count));
        assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending(), "{name}");
    }
    engine.clone().close().unwrap();
    for (name, future, count) in &mut waiting {
        assert!(count.0.load(Ordering::SeqCst) > 0, "{name}: not woken");
        assert!(poll(future.as_mut()).is_ready(), "{name}: waits on");
    }
    drop(waiting);
    assert!(scope.resume(&token).is_err());
}

#[test]
fn fences_grow_through_leases_tokens_resolving_and_restarts() {
    let machine = Machine::rerun();
    let mut fences = Fences::default();
    let mut engine = machine.open();
    jobs(&engine);
    for gap in GAPS.into_iter().cycle().take(12) {
        let scope = engine.scope("jobs");
        let late = fences.saw(fresh(&scope, "key"));
        machine.clock.advance(LEASE);
        drop(fences.saw(fresh(&scope, "key")));
        let token = fences.saw(scope.resolve("key").unwrap()).into_token().unwrap();
        assert!(late.complete("late").is_err());
        drop(scope);
        engine = pass(&machine, engine, gap);
        let scope = engine.scope("jobs");
        drop(scope.resume(&token).unwrap());
        drop(fences.saw(fresh(&scope, "other")));
        fences.saw(scope.resolve("key").unwrap()).release().unwrap();
        drop(scope);
        engine = pass(&machine, engine, gap);
    }
}

#[test]
fn a_task_renews_as_a_thread_does() {
    let machine = Machine::default();
    let engine = machine.open();
    let scope = jobs(&engine);
    let claim = fresh(&scope, "key");
    for _ in 0..3 {
        machine.clock.advance(LEASE / 2);
        run(&engine, claim.renew_async()).unwrap();
    }
    machine.clock.advance(LEASE);
    let refused = run(&engine, claim.renew_async());
    assert!(
        matches!(refused, Err(ClaimError::Superseded(status)) if matches!(*status, Status::Interrupted(_)))
    );
}

#[test]
fn a_batch_of_completions_over_the_limit_is_refused_whole_and_gives_its_claims_back() {
    let machine = Machine::rerun();
    let options = machine.options().reserve_bytes(0).log_segment_bytes(1 << 20).log_bytes(128 << 20);
    let engine = options.durability(Durability::Completions).open("x.idem").unwrap();
    let scope = engine.scope("");
    let mut claims = Vec::new();
    for first in (0..=LIMIT).step_by(4_096) {
        let requests: Vec<_> =
            (first..(first + 4_096).min(LIMIT + 1)).map(|n| (n.to_string(), request())).collect();
        let begun = scope.begin_many(&requests).into_iter().map(|begun| match begun {
            Ok(Begin::Fresh(claim)) => (claim, ""),
            other => panic!("{other:?}"),
        });
        claims.extend(begun);
    }
    assert_eq!(claims.len(), LIMIT + 1);
    let results = engine.complete_many(claims).into_iter().map(|result| {
        let refused = result.unwrap_err();
        assert!(matches!(refused.reason(), ClaimError::BatchTooLong { .. }), "{refused}");
        (refused.into_claim().unwrap(), "")
    });
    let mut claims: Vec<_> = results.collect();
    assert!(claims.pop().unwrap().0.release().is_ok());
    assert!(engine.complete_many(claims).iter().all(Result::is_ok));
    assert_eq!(engine.stats().in_flight, 0);
}

#[test]
fn a_hand_over_that_a_full_log_has_no_room_for_gives_the_claim_back() {
    let mut refused = 0;
    for reserve_bytes in (0..1_000).step_by(25) {
        let machine = Machine::rerun();
        let options = machine.options().reserve_bytes(reserve_bytes).log_bytes(128 << 10);
        let policy =
            Policy::default().recovery(Recovery::Rerun).lease(LEASE).durability(Durability::Completions);
        let engine = options.policy(policy).queue_timeout(Duration::ZERO).open("x.idem").unwrap();
        let mut claims = Vec::new();
        while let Ok(Begin::Fresh(claim)) = engine.begin(claims.len().to_string(), request()) {
            claims.push(claim);
        }
        // What is left of the log may be enough for this.
        let Err(error) = claims.pop().unwrap().into_token() else { continue };
        let is_busy = matches!(error.reason(), ClaimError::Commit(CommitError::Busy(Busy::QueueFull { .. })));
        assert!(is_busy, "{error}");
        error.into_claim().unwrap().complete("reply").unwrap();
        refused += 1;
    }
    assert!(refused > 0, "there was room each time");
}
