//! Failovers between three real servers: what callers were told before holds after.
//!
//! A longer run: `IDEMKV_SECONDS=60 cargo test --release --features postgres --test shared failover::
//! -- --nocapture`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use idemkv::{Begin, ClaimError, Policy};

use crate::budget::Budget;
use crate::cluster::{Cluster, NO_QUORUM, QUORUM, options, wait_until};
use crate::ledger::{Caller, End, Ended, Ledger, Over};
use crate::proxy::Proxy;
use crate::random::Random;
use crate::server::{Client, Server, claim, request};

const LONG: Duration = Duration::from_secs(300);
static NEVER: AtomicBool = AtomicBool::new(false);

/// The servers, if this machine has `PostgreSQL`. Otherwise the test says so and is over.
macro_rules! cluster {
    ($quorum:expr) => {
        match Cluster::start($quorum) {
            Some(cluster) => cluster,
            None => {
                eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql");
                return;
            }
        }
    };
}

/// Two processes call while one primary after the other is killed. The claims of one stand over
/// all failovers, and those of the other only for as long as its short session.
#[test]
fn a_failover_within_the_quorum_loses_nothing_that_was_told() {
    let mut cluster = cluster!(QUORUM);
    let mut budget = Budget::new("shared::failover", "failovers", 2);
    let stores =
        [LONG, Duration::from_secs(3)].map(|session| cluster.options().session(session).connect().unwrap());
    let [long, short] =
        [0, 1].map(|of| Caller { scope: stores[of].scope(""), keeps: of == 0, is_parted: &NEVER });
    let ledger = Ledger::default();
    thread::scope(|threads| {
        let _over = Over(&ledger);
        for seed in 0..4 {
            ledger.start(threads, &long, seed * 2);
            ledger.start(threads, &short, seed * 2 + 1);
        }
        while let Some(seed) = budget.next_seed() {
            let held = ledger.granted(&long, &format!("held {seed}"));
            fail_over(&mut cluster, &ledger, &mut Random(seed));
            assert_eq!(ledger.end(&long, held, End::Complete), Ended::AsAsked);
            budget.count(1);
        }
    });
    ledger.check(cluster.primary(), &cluster.options().connect().unwrap().scope(""));
}

/// What was told last is on one standby alone. In the end each commit waits for a standby.
fn fail_over(cluster: &mut Cluster, ledger: &Ledger, random: &mut Random) {
    ledger.wait_for_changes(100);
    let mut standbys = cluster.standbys();
    let behind = standbys.remove(random.index(standbys.len()));
    cluster.stall(behind, true);
    ledger.wait_for_changes(60);
    cluster.stall(standbys[0], true);
    let before = ledger.changes();
    // Without a quorum the callers would go on. What they are told is lost, and found to be.
    wait_until("a commit waits", || cluster.has_waiting_commit() || ledger.changes() > before + 60);
    let killed = cluster.kill_primary(random.one_of(&["KILL", "QUIT"]));
    if random.below(2) == 0 {
        // What was on its way arrives, though nobody was told of it.
        cluster.stall(standbys[0], false);
    }
    cluster.part_standbys();
    cluster.promote();
    ledger.wait_for_changes(100);
    cluster.copy_anew(killed);
}

/// The primary and two processes are on one side, the standbys and a third process on the other.
/// On the first side all that waits is cancelled, so results without a quorum can be seen there,
/// and read as done. Nothing is granted there, and nobody is told that a claim has ended.
#[test]
fn a_primary_without_its_quorum_grants_nothing_beside_the_next_one() {
    let mut cluster = cluster!(QUORUM);
    let others = cluster.ports(&cluster.standbys());
    // The standbys, as the first side reaches them.
    let far = [others[0], others[1]].map(Proxy::to);
    refuse(&far, true);
    let ports = [cluster.primary().port, far[0].port, far[1].port];
    // What was read there would be replayed from memory until the next renewal.
    let near = |session| options(&ports).call_timeout(Duration::from_secs(1)).session(session).cache_bytes(0);
    let stores = [LONG, Duration::from_secs(2)].map(|session| near(session).connect().unwrap());
    let is_parted = AtomicBool::new(false);
    let [long, short] =
        [0, 1].map(|of| Caller { scope: stores[of].scope(""), keeps: of == 0, is_parted: &is_parted });
    let ledger = Ledger::default();
    thread::scope(|threads| {
        let _over = Over(&ledger);
        ledger.start(threads, &long, 0);
        ledger.start(threads, &short, 1);
        let of_long = ledger.granted(&long, "held by the long session");
        let of_short = ledger.granted(&short, "held by the short session");
        ledger.wait_for_changes(60);
        for standby in cluster.standbys() {
            cluster.stall(standby, true);
        }
        cluster.part_standbys();
        // Nothing that is asked from now on is confirmed.
        is_parted.store(true, Ordering::SeqCst);
        let canceller = Canceller::start(cluster.primary());
        let first = cluster.promote();
        // These have no claim that they would have to end.
        ledger.start(threads, &long, 2);
        ledger.start(threads, &short, 3);
        let of_long = threads.spawn(|| ledger.end(&long, of_long, End::Complete));
        let of_short = threads.spawn(|| ledger.end(&short, of_short, End::Complete));

        let third = options(&others).session(LONG).connect().unwrap();
        let beyond = Caller { scope: third.scope(""), keeps: true, is_parted: &NEVER };
        ledger.start(threads, &beyond, 4);
        ledger.start(threads, &beyond, 5);
        // One claim stands, and the other is over with its session.
        assert!(ledger.begin(&beyond, "held by the long session").is_none());
        let taken = ledger.granted(&beyond, "held by the short session");
        assert_eq!(ledger.end(&beyond, taken, End::Complete), Ended::AsAsked);
        let (refused, mut number) = (ledger.refused(), 0);
        wait_until("the first side is refused", || {
            number += 1;
            let key = format!("on both sides {number}");
            assert!(ledger.begin(&long, &key).is_none());
            let claim = ledger.granted(&beyond, &key);
            assert_eq!(ledger.end(&beyond, claim, End::Complete), Ended::AsAsked);
            canceller.count() >= 20 && ledger.refused() >= refused + 6
        });

        canceller.end();
        cluster.kill(first, "KILL");
        is_parted.store(false, Ordering::SeqCst);
        refuse(&far, false);
        assert_eq!(of_long.join().unwrap(), Ended::AsAsked);
        assert_eq!(of_short.join().unwrap(), Ended::Superseded);
        for (caller, key) in [(&long, "long goes on"), (&short, "short goes on")] {
            ledger.end(caller, ledger.granted(caller, key), End::Complete);
        }
    });
    ledger.check(cluster.primary(), &long.scope);
}

/// A process has connections to a primary without its quorum, where its results can be seen, and
/// one to the next primary. That one can't confirm what the first one shows.
#[test]
fn what_one_server_shows_is_not_confirmed_by_another() {
    let mut cluster = cluster!(QUORUM);
    let near = Proxy::to(cluster.primary().port);
    let far = cluster.ports(&cluster.standbys()).into_iter().map(Proxy::to).collect::<Vec<_>>();
    refuse(&far, true);
    let options = options(&[near.port, far[0].port, far[1].port]).session(LONG).cache_bytes(0);
    let options = options.connections(3).sweep_every(None).count_every(None);
    let store = options.call_timeout(Duration::from_secs(1)).connect().unwrap();
    let scope = store.scope("");
    let held: Vec<_> = (0..4).map(|number| (claim(&scope, &format!("key {number}")), "reply")).collect();
    cluster.part_standbys();
    let canceller = Canceller::start(cluster.primary());
    let held = store.complete_many(held).into_iter().map(|ended| ended.unwrap_err().into_claim().unwrap());
    let held: Vec<_> = held.collect();
    let first = cluster.promote();
    // One of three connections for statements goes over. A call then goes from one to the next.
    near.refuse(true);
    refuse(&far, false);
    cluster.server(first).sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'idemkv' \
           AND query NOT LIKE '%INSERT INTO \"failover\".sessions%' LIMIT 1",
    );
    let is_ready = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idemkv' \
                      AND state = 'idle' AND (query LIKE '%emit_message%' OR query LIKE 'LISTEN%')";
    wait_until("a connection goes over", || cluster.one(is_ready) == "1");
    for claim in held {
        let key = String::from_utf8(claim.key().to_vec()).unwrap();
        if claim.complete("reply").is_ok() {
            let state = cluster.one(&format!("SELECT state FROM failover.keys WHERE key = '{key}'"));
            assert_eq!(state, "3", "{key} is told as done, and is not");
        }
    }
    canceller.end();
}

/// Cuts what these lead to off, or not any more.
fn refuse(proxies: &[Proxy], refuses: bool) {
    for proxy in proxies {
        proxy.refuse(refuses);
    }
}

/// Cancels whatever waits for a standby, as a person may who finds that it hangs. The server then
/// calls the commit a success, with a warning, and shows it to all.
struct Canceller {
    is_over: Arc<AtomicBool>,
    cancelled: Arc<AtomicU64>,
    thread: thread::JoinHandle<()>,
}

impl Canceller {
    fn start(server: &Server) -> Self {
        let (is_over, cancelled) = (Arc::default(), Arc::default());
        let (ends, counts, mut client) =
            (Arc::clone(&is_over), Arc::clone(&cancelled), Client::connect(server));
        let cancels =
            "SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        let thread = thread::spawn(move || {
            while !AtomicBool::load(&ends, Ordering::SeqCst) {
                let count = client.run(cancels)[0][0].as_ref().unwrap().parse().unwrap();
                AtomicU64::fetch_add(&counts, count, Ordering::SeqCst);
            }
        });
        Self { is_over, cancelled, thread }
    }

    fn count(&self) -> u64 {
        self.cancelled.load(Ordering::SeqCst)
    }

    fn end(self) {
        self.is_over.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
    }
}

/// What `docs/shared.md` warns of.
#[test]
fn without_a_quorum_a_failover_loses_claims_results_fences_and_policies() {
    let mut cluster = cluster!(NO_QUORUM);
    let store = cluster.options().session(LONG).connect().unwrap();
    let scope = store.scope("");
    claim(&scope, "before").complete("reply").unwrap();
    cluster.catch_up();
    for standby in cluster.standbys() {
        cluster.stall(standby, true);
    }
    let held = claim(&scope, "held");
    store.set_policy("strict", Policy::default()).unwrap();
    // The sequence of fences is some dozens ahead in the log.
    let fences: Vec<_> = (0..60)
        .map(|number| claim(&scope, &format!("key {number}")).complete("reply").unwrap().fence())
        .collect();
    cluster.kill_primary("KILL");
    cluster.part_standbys();
    cluster.promote();
    let next = cluster.options().connect().unwrap();
    assert!(matches!(next.scope("").begin("before", request()), Ok(Begin::Done(_))));
    assert!(next.policies().iter().all(|(scope, _)| **scope != *b"strict"));
    for key in ["held", "key 0"] {
        let again = claim(&next.scope(""), key);
        assert_eq!(
            (again.attempt(), again.interrupted().is_none()),
            (1, true),
            "{key} says nothing of before"
        );
        assert!(fences.contains(&again.fence()), "{} was told before", again.fence());
        again.complete("another reply").unwrap();
    }
    let mut ended = held.complete("reply");
    while let Err(error) = ended {
        match error.reason() {
            ClaimError::Superseded(_) => return,
            _ => ended = error.into_claim().unwrap().complete("reply"),
        }
    }
    panic!("the claim that was lost has ended well");
}
