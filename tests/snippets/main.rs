//! Every snippet of the README and the guide: compiled, run, and shown there word for word.
//!
//! The handlers meet clients that hang up at random and try again, several at once. Each key has one effect, or an error
//! says why.

#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::items_after_statements,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod bank;
mod calls;
mod first;
mod handlers;
mod program;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::StatusCode;
use bank::{charge, effects, is_fatal, random, tokio};
use futures_executor::block_on;
use futures_util::future::join_all;
use handlers::{Error, faults, plain, reconciled, tasks, typed, waiting, web};
use idemkv::sim::{CrashKind, ManualClock, SimDisk};
use idemkv::{Begin, BeginError, CommitMode, Engine, Fingerprint, Recovery, Status};

const KEYS: usize = 1_000;
const THREADS: usize = 4;
/// Deliveries of one key, each of one to three clients at once, until one is answered.
const ROUNDS_MAX: usize = 1_000;

/// A handler on its way; what it gives is looked up in the file.
type Handling = Pin<Box<dyn Future<Output = ()> + Send>>;
type Handler = fn(Engine, String) -> Handling;

/// A client that hangs up once its handler was polled so often.
struct Client {
    handling: Handling,
    polls_left: Option<u64>,
}

impl Future for Client {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if let Poll::Ready(()) = self.handling.as_mut().poll(context) {
            return Poll::Ready(());
        }
        match self.polls_left.as_mut() {
            Some(0 | 1) => Poll::Ready(()),
            Some(polls) => {
                *polls -= 1;
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }
}

/// How a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    Done,
    Unresolved,
}

fn answer(engine: &Engine, key: &str) -> Option<Answer> {
    match engine.scope("charges").get(key).unwrap() {
        Status::Done(record) => {
            let body = String::from_utf8_lossy(record.body()).into_owned();
            assert!(body.contains(key) || body == "1000", "{key} is answered with {body}");
            Some(Answer::Done)
        }
        Status::Interrupted(lost) => {
            let refused = engine.scope("charges").begin(key, *lost.fingerprint());
            let Err(BeginError::Unresolved(told)) = refused else { panic!("{key}: {refused:?}") };
            assert_eq!(told, lost);
            Some(Answer::Unresolved)
        }
        Status::Vacant | Status::InFlight(_) | Status::Expired(_) | _ => None,
    }
}

/// Delivers a key until it is answered.
fn deliver(engine: &Engine, handler: Handler, key: &str) -> Option<Answer> {
    for _ in 0..ROUNDS_MAX {
        let client = |_| Client {
            handling: handler(engine.clone(), key.to_owned()),
            polls_left: (random(4) > 0).then(|| random(8)),
        };
        let clients = join_all((0..=random(3)).map(client));
        // A panic of the bank's goes through a handler that runs it itself.
        drop(catch_unwind(AssertUnwindSafe(|| drop(block_on(clients)))));
        if let Some(answer) = answer(engine, key) {
            return Some(answer);
        }
    }
    None
}

/// Delivers all keys. Gives how many of them are done, and how many are unresolved.
fn deliver_all(engine: &Engine, handler: Handler, name: &str) -> (usize, usize) {
    let (next, done, unresolved) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|threads| {
        for _ in 0..THREADS {
            threads.spawn(|| {
                while let number @ 0..KEYS = next.fetch_add(1, Ordering::Relaxed) {
                    let key = format!("{name} {number}");
                    let count = match deliver(engine, handler, &key) {
                        Some(Answer::Done) => &done,
                        Some(Answer::Unresolved) => &unresolved,
                        None => panic!("{key} is not answered"),
                    };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    (done.into_inner(), unresolved.into_inner())
}

fn keys(name: &str) -> impl Iterator<Item = String> + '_ {
    (0..KEYS).map(move |number| format!("{name} {number}"))
}

fn open(disk: &SimDisk) -> Engine {
    Engine::options().disk(disk).commit_mode(CommitMode::Buffered).open("x.idem").unwrap()
}

/// Each key has one effect, though its clients hang up, and no other after a kill. Gives how many keys are unresolved.
fn check(name: &str, handler: Handler) -> usize {
    let disk = SimDisk::new();
    let engine = open(&disk);
    let (done, unresolved) = deliver_all(&engine, handler, name);
    assert_eq!(done + unresolved, KEYS);
    // What a process finds that comes after this one was killed.
    let after = open(&disk.image(CrashKind::KeepAll));
    for key in keys(name) {
        let is_done = answer(&engine, &key) == Some(Answer::Done);
        // Nobody asked the bank where the claim was lost before that.
        assert!(effects(&key) == 1 || !is_done && effects(&key) == 0, "{key}: {} effects", effects(&key));
        assert_eq!(answer(&after, &key), answer(&engine, &key), "{key}");
        drop(catch_unwind(AssertUnwindSafe(|| block_on(handler(after.clone(), key.clone())))));
        assert!(effects(&key) <= 1, "{key}: charged again after a kill");
    }
    assert_eq!(engine.stats().in_flight, 0);
    println!("{name}: {done} done, {unresolved} unresolved");
    unresolved
}

/// Keys that are unresolved because their bank panicked.
fn fatal(name: &str) -> usize {
    keys(name).filter(|key| is_fatal(key)).count()
}

fn request(key: &str) -> Fingerprint {
    Fingerprint::of(key)
}

#[test]
fn a_web_handler_charges_once_and_loses_no_result_whenever_its_clients_hang_up() {
    let unresolved = check("web", |engine, key| {
        Box::pin(async move {
            let (status, body) = web::post_charge(engine.scope("charges"), key.clone(), key.clone()).await;
            match status {
                StatusCode::OK => assert!(body.contains(&key)),
                // The client whose own task panicked is told as its retries are.
                StatusCode::CONFLICT => assert!(is_fatal(&key) && body.contains("not known yet"), "{body}"),
                status => panic!("{key} is answered with {status}: {body}"),
            }
        })
    });
    // Nobody but a panic loses a claim.
    assert_eq!(unresolved, fatal("web"));
}

#[test]
fn a_handler_without_serde_charges_once_and_loses_no_result_either() {
    let unresolved = check("plain", |engine, key| {
        Box::pin(async move {
            let charged = plain::post_charge(engine.scope("charges"), key.clone(), key.clone()).await;
            if let Err(error) = charged {
                assert!(is_fatal(&key), "{key}: {error}");
            }
        })
    });
    assert_eq!(unresolved, fatal("plain"));
}

/// What a snippet gives that is not the web's.
fn told(key: &str, handled: Result<(), Error>) {
    if let Err(error) = handled {
        let begun = error.downcast_ref::<BeginError>();
        assert!(matches!(begun, Some(BeginError::Unresolved(_))) || is_fatal(key), "{key}: {error}");
    }
}

#[test]
fn a_handler_that_is_dropped_with_its_claim_charges_no_second_time() {
    let unresolved = check("tasks", |engine, key| {
        Box::pin(async move {
            let request = request(&key);
            told(&key, tasks::handle(engine, key.clone(), request).await);
        })
    });
    assert!(unresolved > fatal("tasks"), "clients that hang up are to be noticed");
}

#[test]
fn handlers_that_block_charge_once() {
    /// On a thread of its own, as a framework runs what blocks.
    fn handling(key: String, handle: impl FnOnce(&str) -> Result<(), Error> + Send + 'static) -> Handling {
        let handled = tokio::spawn_blocking(move || told(&key, handle(&key)));
        Box::pin(async move { drop(handled.await) })
    }
    let blocking: [(&str, Handler); 3] = [
        ("waiting", |engine, key| handling(key, move |key| waiting::handle(&engine, key, request(key)))),
        ("program", |engine, key| {
            handling(key, move |key| handlers::program::handle(&engine, key, key.as_bytes()))
        }),
        ("typed", |engine, key| handling(key, move |key| typed::handle(&engine, key, request(key)))),
    ];
    for (name, handler) in blocking {
        assert_eq!(check(name, handler), fatal(name));
    }
}

/// The program with the real axum and tokio.
#[test]
fn an_endpoint_asks_for_a_key_and_answers_a_retry_with_the_stored_result() {
    use ::axum::body::Body;
    use ::axum::http::Request;
    let engine = open(&SimDisk::new());
    let runtime = ::tokio::runtime::Builder::new_current_thread().build().unwrap();
    let post = |key: Option<&str>, body: &'static str| {
        let request = Request::post("/v1/charges");
        let request = key.into_iter().fold(request, |request, key| request.header("idempotency-key", key));
        let answer =
            tower::ServiceExt::oneshot(program::app(&engine), request.body(Body::from(body)).unwrap());
        runtime.block_on(async {
            let answer = answer.await.unwrap();
            let status = answer.status();
            let body = ::axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
            (status, String::from_utf8(body.to_vec()).unwrap())
        })
    };
    assert_eq!(post(None, "10").0, StatusCode::BAD_REQUEST);
    let first = post(Some("key"), "10");
    assert_eq!((first.0, &*first.1), (StatusCode::OK, "charged 10"));
    assert_eq!(post(Some("key"), "10"), first);
    assert_eq!(post(Some(&"k".repeat(256)), "10").0, StatusCode::BAD_REQUEST);
    assert_eq!(post(Some("key"), "11").0, StatusCode::UNPROCESSABLE_ENTITY);
}

/// An error of the engine names the file, and what an operator can do.
#[test]
fn a_client_is_told_nothing_of_the_inside() {
    let disk = SimDisk::new();
    let engine = Engine::options().disk(&disk).open("secret/x.idem").unwrap();
    let post = |key: &str| {
        block_on(web::post_charge(engine.scope("charges"), key.to_owned(), "a client's request".to_owned()))
    };
    drop(engine.scope("charges").begin("lost", request("a client's request")).unwrap());
    let (status, unresolved) = post("lost");
    assert_eq!((status, unresolved.contains("fence")), (StatusCode::CONFLICT, false), "{unresolved}");
    disk.fail_syncs(Some(""));
    for key in ["a", "b"] {
        let (status, failed) = post(key);
        assert!(status.is_server_error() && !failed.contains("x.idem"), "{status}: {failed}");
    }
}

#[test]
fn what_was_interrupted_gets_what_the_bank_knows_as_the_run_would_have_stored_it() {
    let clock = ManualClock::at_millis(1_800_000_000_000);
    let engine = Engine::options().disk(&SimDisk::new()).clock(&clock).open("x.idem").unwrap();
    let charges = engine.scope("POST /v1/charges");
    let late = request("late");
    for key in ["a", "b", "c"] {
        drop(charges.begin(key, late).unwrap());
        clock.advance(Duration::from_secs(1));
    }
    let left = || {
        let left = engine.interrupted().get().unwrap();
        assert!(left.iter().all(|open| open.attempt().attempt() == 1), "an attempt was used up");
        left.iter().map(|open| open.key().to_vec()).collect::<Vec<_>>()
    };
    block_on(reconciled::reconcile(&engine)).unwrap();
    // The bank did not answer of `b`, and may get the charge of `c` yet.
    assert_eq!(left(), [b"b", b"c"]);
    clock.advance(Duration::from_secs(300));
    block_on(reconciled::reconcile(&engine)).unwrap();
    assert!(left().is_empty());
    let again = |key| charges.run(key, late, |_| Ok::<_, idemkv::Fault<String>>("charged anew".to_owned()));
    assert_eq!(again("a").unwrap(), Ok("charged \"late\"".to_owned()));
    assert_eq!(again("b").unwrap(), Ok("charged anew".to_owned()));
}

#[test]
fn the_readmes_program_charges_and_then_replays() {
    let dir = tempfile::tempdir().unwrap();
    std::env::set_current_dir(&dir).unwrap();
    first::run().unwrap();
    first::run().unwrap();
    let engine = Engine::open(dir.path().join("charges.idem")).unwrap();
    let status = engine.scope("POST /v1/charges").get("5a8e7a6b-c7d8-4e9f-a0b1-2c3d4e5f6a7b").unwrap();
    let Status::Done(record) = status else { panic!("{status:?}") };
    assert_eq!((record.body(), record.attempt()), (&b"charged 10"[..], 1));
}

#[test]
fn the_guides_calls_do_what_they_are_shown_for() {
    let dir = tempfile::tempdir().unwrap();
    let engine = calls::open(&dir.path().join("x.idem")).unwrap();
    calls::policies(&engine).unwrap();
    calls::lease(&engine, request("lease")).unwrap();
    // A batch goes on without a key that is refused, wherever it is.
    let queue = engine.scope("messages");
    let Begin::Fresh(other) = queue.begin("m-1", request("another message")).unwrap() else { panic!() };
    other.complete("of another message").unwrap();
    calls::batch(&engine);
    assert!(matches!(queue.get("m-2").unwrap(), Status::Done(_)));
    queue.forget("m-1").unwrap();
    calls::batch(&engine);
    for _ in 0..2 {
        assert_eq!(calls::transaction(&engine, request("deposit")).unwrap(), Some(10));
        calls::steps(&engine, request("order")).unwrap();
    }
    for (scope, key) in [("messages", "m-1"), ("messages", "m-2"), ("", "deposit-1"), ("orders", "order-7")] {
        assert!(matches!(engine.scope(scope).get(key).unwrap(), Status::Done(_)), "{key}");
    }
    let charges = engine.scope("POST /v1/charges");
    drop(charges.begin("key", request("key")).unwrap());
    calls::list(&engine).unwrap();
    assert!(matches!(charges.get("key").unwrap(), Status::Interrupted(_)));
}

/// The rig must be able to fail: this was the first handler of the documents, under the policy
/// that was the default then.
#[test]
fn the_rig_notices_the_handler_that_was_shown_before() {
    let before: Handler = |engine, key| {
        Box::pin(async move {
            let rerun = engine.policy().recovery(Recovery::Rerun);
            let charges = engine.set_policy_async("charges", rerun).await.unwrap();
            match charges.begin_async(&key, request(&key)).await.unwrap() {
                Begin::Fresh(claim) => {
                    let reply = charge(key.clone()).await;
                    claim.complete_async(reply).await.unwrap();
                }
                Begin::InFlight(pending) => drop(pending.await),
                Begin::Done(_) => {}
            }
        })
    };
    let engine = open(&SimDisk::new());
    let mut charged_again = 0;
    for key in keys("before").take(200).filter(|key| !is_fatal(key)) {
        for _ in 0..20 {
            let client =
                Client { handling: before(engine.clone(), key.clone()), polls_left: Some(1 + random(8)) };
            block_on(client);
        }
        charged_again += effects(&key).saturating_sub(1);
    }
    println!("before: {charged_again} effects too many");
    assert!(charged_again > 10, "{charged_again} effects too many were noticed");
}

/// What the guide says of each fault, and that a key of a typed run is resolved with JSON.
#[test]
fn each_fault_of_the_bank_has_the_retry_that_the_guide_promises() {
    use faults::{BankError, fault};
    let charges = open(&SimDisk::new()).scope("charges");
    let request = Fingerprint::of("request");
    let fails = |key, error| charges.run(key, request, |_| Err::<String, _>(fault(error))).map(|_| ());
    let retry = |key| charges.run(key, request, |_| Ok::<_, idemkv::Fault<String>>("charged".to_owned()));

    assert!(fails("declined", BankError::Declined("no money".to_owned())).is_ok());
    assert_eq!(retry("declined").unwrap(), Err("no money".to_owned()));
    assert!(fails("busy", BankError::Busy).is_err());
    assert_eq!(retry("busy").unwrap(), Ok("charged".to_owned()));
    assert!(fails("late", BankError::TimedOut).is_err());
    assert!(retry("late").is_err());
    charges.resolve("late").unwrap().complete(serde_json::to_vec("it was charged").unwrap()).unwrap();
    assert_eq!(retry("late").unwrap(), Ok("it was charged".to_owned()));
}

/// The lines between the marks of a source, from the first one's indentation on.
fn regions(source: &str) -> impl Iterator<Item = (&str, String)> {
    source.split("// shown: ").skip(1).map(|region| {
        let (name, rest) = region.split_once('\n').unwrap();
        let (text, _) = rest.split_once("// end").unwrap();
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let indent = lines[0].len() - lines[0].trim_start().len();
        let lines: Vec<&str> = lines.iter().map(|line| line.get(indent..).unwrap_or("")).collect();
        (name, lines.join("\n"))
    })
}

#[test]
fn the_documents_show_what_is_tested() {
    let read = |name| std::fs::read_to_string(format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let documents = [read("README.md"), read("docs/guide.md")];
    let sources = [
        include_str!("handlers.rs"),
        include_str!("calls.rs"),
        include_str!("first.rs"),
        include_str!("program.rs"),
    ];
    let tested: Vec<(&str, String)> = sources.iter().flat_map(|source| regions(source)).collect();
    let mut untested: Vec<&str> = Vec::new();
    let mut not_shown: Vec<&str> = tested.iter().map(|(name, _)| *name).collect();
    for block in documents.iter().flat_map(|document| document.split("```rust").skip(1)) {
        let (text, _) = block.trim_start_matches('\n').split_once("\n```").unwrap();
        match tested.iter().find(|(_, tested)| tested == text) {
            Some((name, _)) => not_shown.retain(|left| left != name),
            None => untested.push(text),
        }
    }
    assert!(
        untested.is_empty(),
        "these snippets of the documents are not tested:\n{}",
        untested.join("\n\n")
    );
    assert!(not_shown.is_empty(), "the documents have another text for {not_shown:?}");
    assert_eq!(tested.len(), 20);
    // What is there twice is the same.
    for (name, text) in &tested {
        assert!(tested.iter().all(|(other, same)| other != name || same == text), "{name}");
    }
}
