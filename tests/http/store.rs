//! The store is full, has failed, is read only or was opened again.

use std::time::Duration;

use http::Response;
use idemkv::http::{ClaimSlot, CompleteHeldError, IdempotencyLayer, ProblemKind};
use idemkv::sim::{CrashKind, SimDisk};
use idemkv::{Begin, Engine, Fingerprint, Options};
use tokio::task::spawn_blocking;

use crate::client::{Answer, Client, Gate, KEY, Seen, client, full, home, post, reply, serving};

fn options(disk: &SimDisk) -> Options {
    Engine::options().disk(disk).queue_timeout(Duration::from_millis(10))
}

fn layer(engine: &Engine) -> IdempotencyLayer {
    IdempotencyLayer::new(engine, "charges")
}

fn gated(engine: &Engine, gate: &Gate, body: usize) -> Client {
    let gate = gate.clone();
    serving(&layer(engine), move |_| {
        let gate = gate.clone();
        async move {
            gate.pass().await;
            Ok(reply(201, "").map(|_| full(vec![b'x'; body])))
        }
    })
}

fn expect(answer: &Answer, status: u16, kind: ProblemKind) {
    assert_eq!((answer.status.as_u16(), answer.problem()), (status, Some(kind)), "{answer:?}");
}

/// Takes all the room that claims can have.
async fn fill(engine: &Engine) -> Vec<idemkv::Claim> {
    let scope = engine.scope("others");
    let mut claims = Vec::new();
    while let Ok(Begin::Fresh(claim)) = scope.begin_async(claims.len().to_string(), Fingerprint::of("")).await
    {
        claims.push(claim);
    }
    claims
}

#[tokio::test]
async fn on_a_full_disk_new_keys_are_refused_done_ones_replayed_and_results_of_work_done_stored() {
    let disk = SimDisk::new();
    let engine = options(&disk).open("x.idem").unwrap();
    let done = client(&layer(&engine), 201, "made");
    done.post("done", "").await;
    let gate = Gate::new();
    let (small, large) = (gated(&engine, &gate, 100), gated(&engine, &gate, 700_000));
    let asked = [tokio::spawn(small.ask(post("small", ""))), tokio::spawn(large.ask(post("large", "")))];
    for _ in &asked {
        gate.reached().await;
    }
    disk.set_capacity(Some(disk.used()));
    let claims = fill(&engine).await;
    let refused = done.post("new", "").await;
    expect(&refused, 503, ProblemKind::StoreBusy);
    assert_eq!((refused.header("retry-after"), refused.forbids_retries()), (Some("1"), false));
    assert!(done.post("done", "").await.is_replay());
    for asked in asked {
        gate.open();
        gate.open();
        assert_eq!(asked.await.unwrap().unwrap().status, 201, "the client gets its result");
    }
    assert!(small.post("small", "").await.is_replay());
    let retry = large.post("large", "").await;
    expect(&retry, 409, ProblemKind::ResultNotKept);
    assert_eq!(retry.json()["result_status"], 201, "the head had room set aside");
    disk.set_capacity(None);
    spawn_blocking(move || drop(claims)).await.unwrap();
    assert_eq!((small.runs(), large.runs(), done.runs()), (1, 1, 1));
}

#[tokio::test]
async fn a_result_that_could_not_be_stored_is_told_to_nobody_and_after_an_opening_its_outcome_is_known_or_unknown()
 {
    let disk = SimDisk::new();
    let engine = options(&disk).open("x.idem").unwrap();
    let done = client(&layer(&engine), 201, "made");
    done.post("done", "").await;
    let gate = Gate::new();
    let lost = gated(&engine, &gate, 10);
    let asked = tokio::spawn(lost.ask(post(KEY, "")));
    gate.reached().await;
    disk.fail_syncs(Some(""));
    gate.open();
    let first = asked.await.unwrap().unwrap();
    expect(&first, 503, ProblemKind::StoreFailed);
    assert!(!first.forbids_retries());
    expect(&done.post("new", "").await, 503, ProblemKind::StoreFailed);
    expect(&lost.post(KEY, "").await, 503, ProblemKind::StoreFailed);
    assert!(done.post("done", "").await.is_replay());
    for kind in [CrashKind::DropAll, CrashKind::KeepAll] {
        let image = disk.image(kind);
        let again = options(&image).open("x.idem").unwrap();
        let retry = client(&layer(&again), 201, "ran again").post(KEY, "").await;
        assert!(
            retry.is_replay() || retry.problem() == Some(ProblemKind::OutcomeUnknown),
            "{kind:?} {retry:?}"
        );
        assert_ne!(retry.body, "ran again");
    }
}

#[tokio::test]
async fn over_a_restart_results_are_replayed_and_lost_runs_told() {
    let disk = SimDisk::new();
    let engine = options(&disk).open("x.idem").unwrap();
    let done = client(&layer(&engine), 201, "made");
    let first = done.post("done", "").await;
    let gate = Gate::new();
    let asked = tokio::spawn(gated(&engine, &gate, 10).ask(post("lost", "")));
    gate.reached().await;
    // The process dies here.
    let after = options(&disk.image(CrashKind::DropAll)).open("x.idem").unwrap();
    let client = client(&layer(&after), 201, "ran again");
    let retry = client.post("done", "").await;
    assert_eq!((retry.status, &retry.body, retry.is_replay()), (first.status, &first.body, true));
    expect(&client.post("lost", "").await, 409, ProblemKind::OutcomeUnknown);
    assert_eq!(client.runs(), 0);
    after.scope("charges").resolve("lost").unwrap().release().unwrap();
    assert_eq!(client.post("lost", "").await.body, "ran again");
    gate.open();
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_limit_of_claims_is_a_retry_for_later() {
    let home = crate::client::home_with(Engine::options().max_in_flight(1));
    let gate = Gate::new();
    let client = gated(&home.engine, &gate, 1);
    let asked = tokio::spawn(client.ask(post("a", "")));
    gate.reached().await;
    expect(&client.post("b", "").await, 503, ProblemKind::StoreBusy);
    gate.open();
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_store_that_is_read_only_replays_and_runs_nothing() {
    let disk = SimDisk::new();
    let engine = options(&disk).open("x.idem").unwrap();
    client(&layer(&engine), 201, "made").post(KEY, "").await;
    engine.close().unwrap();
    let reader = options(&disk).read_only().open("x.idem").unwrap();
    let client = client(&layer(&reader), 201, "ran again");
    assert_eq!(client.post(KEY, "").await.body, "made");
    expect(&client.post("new", "").await, 503, ProblemKind::StoreFailed);
    assert_eq!(client.runs(), 0);
}

/// What became of a key whose first claim outlived its lease.
#[derive(Clone, Copy, Debug)]
enum Meanwhile {
    Interrupted,
    Released,
    Completed,
    CompletedByAnotherProgram,
    CompletedForAnotherRequest,
    Held,
    Expired,
    ExpiredForAnotherRequest,
}

/// A handler that waits behind the gate; it stores its response itself, or leaves that to the
/// layer.
fn slow(layer: &IdempotencyLayer, gate: &Gate, in_transaction: bool) -> Client {
    let gate = gate.clone();
    serving(layer, move |request: Seen| {
        let gate = gate.clone();
        async move {
            let claim = request.extensions().get::<ClaimSlot>().unwrap().take().filter(|_| in_transaction);
            gate.pass().await;
            if let Some(claim) = claim {
                let late =
                    spawn_blocking(move || claim.complete_in(|_| Ok::<_, ()>(Response::new("late")))).await;
                let Err(CompleteHeldError::NotStored { claim: None, .. }) = late.unwrap() else { panic!() };
            }
            Ok(reply(201, "late"))
        }
    })
}

#[tokio::test]
async fn a_claim_whose_lease_ran_out_gives_its_client_what_the_key_has_now() {
    let clock = idemkv::sim::ManualClock::at_millis(1_800_000_000_000);
    let home = crate::client::home_with(Engine::options().clock(&clock));
    let (second, day) = (Duration::from_secs(1), Duration::from_secs(24 * 3_600));
    let policy = home.engine.policy().lease(second).ttl(day).tombstone_ttl(7 * day);
    let scope = home.engine.set_policy("charges", policy).unwrap();
    let layer = home.layer().started_header(http::HeaderName::from_static("started"));
    let another = client(&layer, 201, "of another request");
    for (now, kind) in [
        (Meanwhile::Interrupted, Some(ProblemKind::OutcomeUnknown)),
        (Meanwhile::Released, Some(ProblemKind::OutcomeUnknown)),
        (Meanwhile::Completed, None),
        (Meanwhile::CompletedByAnotherProgram, Some(ProblemKind::RecordUnreadable)),
        (Meanwhile::CompletedForAnotherRequest, Some(ProblemKind::OutcomeUnknown)),
        (Meanwhile::Held, Some(ProblemKind::InFlight)),
        (Meanwhile::Expired, Some(ProblemKind::Expired)),
        (Meanwhile::ExpiredForAnotherRequest, Some(ProblemKind::OutcomeUnknown)),
    ] {
        for in_transaction in [false, true] {
            let (key, gate) = (format!("{now:?}-{in_transaction}"), Gate::new());
            let asked = tokio::spawn(slow(&layer, &gate, in_transaction).ask(post(&key, "")));
            gate.reached().await;
            clock.advance(2 * second);
            let resolve = || scope.resolve(&key).unwrap();
            let mut held = None;
            match now {
                Meanwhile::Interrupted => {}
                Meanwhile::Released => resolve().release().unwrap(),
                Meanwhile::Held => held = Some(resolve()),
                Meanwhile::CompletedForAnotherRequest | Meanwhile::ExpiredForAnotherRequest => {
                    resolve().release().unwrap();
                    assert_eq!(another.post(&key, "amount=20").await.status, 201);
                    if matches!(now, Meanwhile::ExpiredForAnotherRequest) {
                        clock.advance(2 * day);
                    }
                }
                Meanwhile::Completed => {
                    layer.complete(resolve(), Response::new("found")).await.unwrap();
                }
                Meanwhile::CompletedByAnotherProgram => drop(resolve().complete("of another").unwrap()),
                Meanwhile::Expired => {
                    resolve().complete("of another").unwrap();
                    clock.advance(2 * day);
                }
            }
            gate.open();
            let answer = asked.await.unwrap().unwrap();
            drop(held);
            assert_eq!((answer.problem(), answer.is_replay()), (kind, kind.is_none()), "{key}: {answer:?}");
            let retries = matches!(now, Meanwhile::Released | Meanwhile::Held);
            assert_eq!(answer.forbids_retries(), kind.is_some() && !retries, "{key}: {answer:?}");
            if answer.is_replay() {
                let retry = another.post(&key, "").await;
                assert_eq!(answer.header("started"), retry.header("started"), "of the run that is replayed");
            }
            let says =
                (answer.body == "found", String::from_utf8_lossy(&answer.body).contains("resolved the key"));
            assert_eq!(says, (kind.is_none(), false), "nobody has to resolve a vacant key: {answer:?}");
        }
    }
}

#[tokio::test]
async fn one_layer_serves_as_many_tasks_as_there_are() {
    let home = home();
    let client = client(&home.layer().wait(Duration::from_secs(60)), 201, "made");
    let asked: Vec<_> =
        (0..200).map(|number| tokio::spawn(client.ask(post(&(number % 20).to_string(), "")))).collect();
    for asked in asked {
        assert_eq!(asked.await.unwrap().unwrap().body, "made");
    }
    assert_eq!(client.runs(), 20);
}
