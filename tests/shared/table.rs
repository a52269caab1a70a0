//! The state machine against the store: every state, event and time around each deadline, on rows
//! of a real server whose clock the test sets.

use std::thread;
use std::time::Duration;

use idemkv::sim::state::{Decision, Event, Facts, Lifetime, Phase, State, decide, fence};
use idemkv::{
    Begin, BeginError, Claim, ClaimError, Engine, Fingerprint, ForgetError, Policy, Recovery, ResolveError,
    Scope, Timestamp,
};

use crate::server::{Client, claim, request};

const START: u64 = 1_800_000_000_000;
const LEASE: u64 = START + 3_000;
const EXPIRES: u64 = START + 3_000;
const GONE: u64 = START + 6_000;
const UNRESOLVED: u64 = 4_000;
/// A session that no process has.
const SESSION: u64 = 1_000_000;

/// A state of a row, before the event.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Row {
    None,
    Vacated,
    InFlight,
    /// It stands while its session lives.
    Session,
    Interrupted,
    Done,
}

#[derive(Clone, Copy, Debug)]
enum Asks {
    Begin { same: bool, refuses: bool },
    Resolve,
    Use { same: bool },
    Renew { same: bool },
    Complete { same: bool },
    Release { same: bool },
    Abandon { same: bool },
    Forget,
    Sweep,
}

const ASKS: [Asks; 15] = [
    Asks::Begin { same: true, refuses: false },
    Asks::Begin { same: false, refuses: false },
    Asks::Begin { same: true, refuses: true },
    Asks::Begin { same: false, refuses: true },
    Asks::Resolve,
    Asks::Use { same: true },
    Asks::Use { same: false },
    Asks::Renew { same: true },
    Asks::Complete { same: true },
    Asks::Complete { same: false },
    Asks::Release { same: true },
    Asks::Release { same: false },
    Asks::Abandon { same: true },
    Asks::Abandon { same: false },
    Asks::Forget,
];

struct Rig {
    schema: &'static str,
    client: Client,
    store: Engine,
    rerun: Scope,
    refuse: Scope,
    next: u32,
}

impl Rig {
    fn at(&mut self, now: u64) {
        let schema = self.schema;
        self.client.run(&format!("UPDATE {schema}.clock SET now_ms = {now}"));
    }

    /// A key with this row, and the claim that was granted on it.
    fn prepare(&mut self, row: Row, scope: &Scope, same: bool) -> (String, Claim) {
        self.next += 1;
        let schema = self.schema;
        let key = format!("key {}", self.next);
        self.at(START);
        let claim = claim(scope, &key);
        let set = match row {
            Row::None => {
                self.client.run(&format!("DELETE FROM {schema}.keys WHERE key = '{key}'"));
                return (key, claim);
            }
            Row::Vacated => format!("state = 4, gone_ms = {GONE}"),
            Row::InFlight => format!("lease_ms = 3000, lease_until_ms = {LEASE}"),
            Row::Session => format!("session = {SESSION}"),
            Row::Interrupted => format!("state = 2, interrupted_ms = {START}, gone_ms = {GONE}"),
            Row::Done => format!(
                "state = 3, completed_ms = {START}, expires_ms = {EXPIRES}, gone_ms = {GONE}, outcome = 1, body = 'x', body_kept = true"
            ),
        };
        let other = if same { "" } else { ", fence = fence + 1000, nonce = gen_random_uuid()" };
        self.client.run(&format!("UPDATE {schema}.keys SET {set}{other} WHERE key = '{key}'"));
        (key, claim)
    }

    fn state_of(&mut self, key: &str) -> Option<String> {
        let schema = self.schema;
        let rows = self.client.run(&format!("SELECT state FROM {schema}.keys WHERE key = '{key}'"));
        rows.first().and_then(|row| row[0].clone())
    }

    fn settle(&self) {
        while self.store.shared_stats().unwrap().loose_ends > 0 {
            thread::yield_now();
        }
    }
}

fn is_superseded<T>(result: &Result<T, ClaimError>) -> bool {
    matches!(result, Err(ClaimError::Superseded(_)))
}

/// What the state machine says, with a claim whose lease is over made interrupted first. Also
/// whether it was.
fn decided(state: State<'_>, event: Event<'_>, now: u64) -> (Decision, bool) {
    match (decide(state, event), state) {
        (Decision::Become(Phase::Interrupted), State::InFlight(facts, _))
            if matches!(event, Event::Begin { .. } | Event::Resolve { .. } | Event::Forget { .. }) =>
        {
            let until = Timestamp::from_millis(now + UNRESOLVED);
            (decide(State::Interrupted(facts, until), event), true)
        }
        (decision, _) => (decision, false),
    }
}

fn check(rig: &mut Rig, row: Row, at: u64, asks: Asks) {
    let same = match asks {
        Asks::Use { same }
        | Asks::Renew { same }
        | Asks::Complete { same }
        | Asks::Release { same }
        | Asks::Abandon { same } => same,
        Asks::Begin { .. } | Asks::Resolve | Asks::Forget | Asks::Sweep => true,
    };
    let refuses = matches!(asks, Asks::Begin { refuses: true, .. });
    let scope = if refuses { rig.refuse.clone() } else { rig.rerun.clone() };
    let (key, held) = rig.prepare(row, &scope, same);
    let stored = fence(held.fence().get() + if same { 0 } else { 1_000 });
    let (mine, asked, other) = (held.fence(), request(), Fingerprint::of("other"));
    let facts = Facts { fence: stored, attempt: 1, fingerprint: &asked };
    let time = Timestamp::from_millis;
    let state = match row {
        Row::None | Row::Vacated => State::Vacant,
        Row::InFlight | Row::Session => State::InFlight(facts, time(LEASE)),
        Row::Interrupted => State::Interrupted(facts, time(GONE)),
        Row::Done => State::Done(facts, Lifetime { expires: time(EXPIRES), remembered_until: time(GONE) }),
    };
    let now = time(at);
    let event = match asks {
        Asks::Begin { same, refuses } => Event::Begin {
            fingerprint: if same { &asked } else { &other },
            now,
            attempts_max: if refuses { 1 } else { u32::MAX },
        },
        Asks::Resolve => Event::Resolve { now },
        Asks::Use { .. } | Asks::Renew { .. } => Event::Use { fence: mine, now },
        Asks::Complete { .. } | Asks::Release { .. } => Event::End { fence: mine, now },
        Asks::Abandon { .. } => Event::Abandon { fence: mine },
        Asks::Forget => Event::Forget { now },
        Asks::Sweep => Event::Sweep { now },
    };
    let (mut decision, was_over) = decided(state, event, at);
    // The completion has happened already, and its answer got lost: this one finds that out.
    if row == Row::Done && matches!(asks, Asks::Complete { same: true }) {
        decision = Decision::Replay;
    }
    let said = format!("{row:?} at {} ms, {asks:?}: {decision:?}", at - START);
    rig.at(at);
    let before = rig.state_of(&key);
    apply(rig, &scope, (&key, held), asks, (decision, was_over), before, &said);
    // Nothing of this case is in the way of the next.
    rig.settle();
}

#[expect(clippy::too_many_lines, reason = "one arm a call")]
fn apply(
    rig: &mut Rig,
    scope: &Scope,
    (key, mut held): (&str, Claim),
    asks: Asks,
    (decision, was_over): (Decision, bool),
    before: Option<String>,
    said: &str,
) {
    match asks {
        Asks::Begin { same, .. } => {
            let asked = if same { request() } else { Fingerprint::of("other") };
            let begun = scope.begin(key, asked);
            let is_right = match (&begun, decision) {
                (Ok(Begin::Fresh(claim)), Decision::Grant { attempt }) => {
                    claim.attempt() == attempt && claim.interrupted().is_some() == (attempt > 1)
                }
                (Ok(Begin::InFlight(_)), Decision::Wait) => true,
                (Ok(Begin::Done(record)), Decision::Replay) => record.body() == b"x",
                (Err(BeginError::Expired(_)), Decision::Expired) => true,
                (Err(BeginError::KeyReused), Decision::Reused) => true,
                (Err(BeginError::Unresolved(lost)), Decision::Unresolved) => {
                    lost.interrupted_at().as_millis() == if was_over { LEASE } else { START }
                }
                _ => false,
            };
            assert!(is_right, "{said}: {begun:?}");
        }
        Asks::Resolve => {
            let resolved = scope.resolve(key);
            let is_right = match (&resolved, decision) {
                (Ok(claim), Decision::Grant { attempt }) => claim.attempt() == attempt,
                (Err(ResolveError::NotInterrupted(_)), Decision::Stay | Decision::Busy) => true,
                _ => false,
            };
            assert!(is_right, "{said}: {resolved:?}");
        }
        Asks::Use { .. } | Asks::Renew { .. } => {
            let used =
                if matches!(asks, Asks::Use { .. }) { held.save_progress("half") } else { held.renew() };
            let is_right = if decision == Decision::Superseded { is_superseded(&used) } else { used.is_ok() };
            assert!(is_right, "{said}: {used:?}");
        }
        Asks::Complete { same } | Asks::Release { same } => {
            let is_release = matches!(asks, Asks::Release { .. });
            let ended =
                if is_release { held.release().map(|()| None) } else { held.complete("reply").map(Some) };
            let ended = ended.map_err(|error| error.reason().clone());
            let is_right =
                if decision == Decision::Superseded { is_superseded(&ended) } else { ended.is_ok() };
            assert!(is_right, "{said}: {ended:?}");
            if let (Ok(Some(record)), Decision::Replay) = (&ended, decision) {
                assert_eq!(record.body(), b"x");
            }
            let after = if decision == Decision::Superseded {
                // Of a claim that was over the row says so by now.
                before.map(|state| if same && state == "1" { "2".to_owned() } else { state })
            } else {
                Some(if is_release { "4" } else { "3" }.to_owned())
            };
            assert_eq!(rig.state_of(key), after, "{said}");
            return;
        }
        Asks::Abandon { .. } => {
            drop(held);
            rig.settle();
            let after =
                if decision == Decision::Become(Phase::Interrupted) { Some("2".to_owned()) } else { before };
            assert_eq!(rig.state_of(key), after, "{said}");
            return;
        }
        Asks::Forget => {
            let forgotten = scope.forget(key);
            let is_right = matches!(
                (&forgotten, decision),
                (Ok(true), Decision::Become(Phase::Ending))
                    | (Ok(false), Decision::Stay)
                    | (Err(ForgetError::InFlight), Decision::Busy)
            );
            assert!(is_right, "{said}: {forgotten:?}");
        }
        Asks::Sweep => {
            let schema = rig.schema;
            rig.client.run(&format!("UPDATE {schema}.duties SET page = 0, due_ms = 0"));
            assert!(rig.store.sweep_shared().unwrap());
            let after = match decision.becomes() {
                Some(Phase::Vacant) => None,
                Some(Phase::Interrupted) => Some("2".to_owned()),
                Some(Phase::InFlight | Phase::Ending | Phase::Done) | None => before,
            };
            assert_eq!(rig.state_of(key), after, "{said}");
        }
    }
    // The claim of the preparation says nothing.
    drop(held);
}

#[test]
fn the_store_does_what_the_state_machine_says_in_every_state_around_every_deadline() {
    check_all("table_decide", true);
}

/// The statements for groups decide the same as those for one call.
#[test]
fn in_groups_the_store_does_what_the_state_machine_says_as_well() {
    check_all("table_groups", false);
}

fn check_all(schema: &'static str, alone: bool) {
    let server = server!();
    let mut client = Client::connect(server);
    client.run(&format!(
        "CREATE SCHEMA {schema}; CREATE TABLE {schema}.clock (now_ms bigint); INSERT INTO {schema}.clock VALUES ({START})"
    ));
    let ttl = Duration::from_secs(3_600);
    let rerun = Policy::default().ttl(ttl).unresolved_ttl(Duration::from_millis(UNRESOLVED));
    let rerun = rerun.recovery(Recovery::Rerun);
    let clock = format!("(SELECT now_ms FROM {schema}.clock)");
    let options = server
        .options(schema)
        .policy(rerun)
        .clock(clock)
        .sweep_every(None)
        .cache_bytes(0)
        .one_call_plans(alone);
    let store = options.connect().unwrap();
    // A session that ends at the lease, and was never this process's. No process has it: a renewal
    // that was under way at a close would prolong it.
    client.run(&format!("INSERT INTO {schema}.sessions (id, nonce, until_ms, started_ms) VALUES ({SESSION}, gen_random_uuid(), {LEASE}, {START})"));
    let refuse = store.scope("refuse");
    store.set_policy("refuse", rerun.recovery(Recovery::Refuse)).unwrap();
    let mut rig = Rig { schema, client, rerun: store.scope("rerun"), refuse, store, next: 0 };
    let around = |deadline: u64| [deadline - 1, deadline, deadline + 1];
    let mut checked = 0;
    for (row, times) in [
        (Row::None, vec![START]),
        (Row::Vacated, vec![START]),
        (Row::InFlight, around(LEASE).to_vec()),
        (Row::Session, around(LEASE).to_vec()),
        (Row::Interrupted, around(GONE).to_vec()),
        (Row::Done, [around(EXPIRES), around(GONE)].concat()),
    ] {
        for at in times {
            for asks in ASKS.into_iter().chain([Asks::Sweep]) {
                // A claim without a lease of its own has nothing to renew, but may say that it is used.
                check(&mut rig, row, at, asks);
                checked += 1;
            }
        }
    }
    assert_eq!(checked, 17 * 16);
}
