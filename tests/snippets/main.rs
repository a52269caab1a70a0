//! The README's handlers, with clients that hang up at random and try again, several at once: one effect a key, or an error that
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
    reason = "tests"
)]

mod bank;
mod handlers;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bank::{charge, effects, is_fatal, random, tokio};
use futures_executor::block_on;
use futures_util::future::join_all;
use handlers::{Error, plain, program, tasks, typed, waiting, web};
use idemkv::sim::{CrashKind, SimDisk};
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

/// One effect a key, whatever became of its clients; and no other after a kill. Gives how many keys are unresolved.
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
                200 => assert!(body.contains(&key)),
                409 => assert!(body.contains("attempt 1"), "{body}"),
                // The client whose own task panicked.
                500 => assert!(is_fatal(&key), "{body}"),
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
        ("program", |engine, key| handling(key, move |key| program::handle(&engine, key, key.as_bytes()))),
        ("typed", |engine, key| handling(key, move |key| typed::handle(&engine, key, request(key)))),
    ];
    for (name, handler) in blocking {
        assert_eq!(check(name, handler), fatal(name));
    }
}

/// The rig must be able to fail: this is the README's first handler, under the policy that was the default then.
#[test]
fn the_rig_notices_the_handler_that_was_in_the_readme_before() {
    let before: Handler = |engine, key| {
        Box::pin(async move {
            let rerun = engine.policy().recovery(Recovery::Rerun);
            let charges = engine.declare_async("charges", rerun).await.unwrap();
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

#[test]
fn the_readme_shows_what_is_tested() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let source = include_str!("handlers.rs");
    let mut shown = 0;
    for region in source.split("// README: ").skip(1) {
        let (name, rest) = region.split_once('\n').unwrap();
        let (text, _) = rest.split_once("// end").unwrap();
        let lines: Vec<&str> = text.trim_end().lines().collect();
        let indent = lines[0].len() - lines[0].trim_start().len();
        let text: Vec<&str> = lines.iter().map(|line| line.get(indent..).unwrap_or("")).collect();
        // The first program has its lines further to the right.
        let further: Vec<String> = text
            .iter()
            .map(|line| if line.is_empty() { String::new() } else { format!("    {line}") })
            .collect();
        let is_shown = readme.contains(&text.join("\n")) || readme.contains(&further.join("\n"));
        assert!(is_shown, "the README has another text for `{name}`:\n{}", text.join("\n"));
        shown += 1;
    }
    assert_eq!(shown, 6);
}
