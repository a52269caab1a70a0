//! Waiting for a claim of another process.

use std::thread;
use std::time::{Duration, Instant};

use idemkv::{Begin, BeginError, Busy, Pooling, SharedOptions, Waited};

use crate::proxy::Proxy;
use crate::server::{claim, request, within};

/// Looks at the waiter's flag as another process does.
fn is_wanted(server: &crate::server::Server, schema: &str) -> bool {
    server.one(&format!("SELECT coalesce(bool_or(wanted), false) FROM {schema}.keys WHERE state = 1")) == "t"
}

#[test]
fn waiters_in_another_process_are_told_of_every_end_and_do_not_wait_for_a_poll() {
    let server = server!();
    let (one, two) = (server.connect("wait_told"), server.connect("wait_told"));
    let mut waits = Vec::new();
    for round in 0..12 {
        let (here, there) = (one.scope(""), two.scope(""));
        let key = format!("key {round}");
        let held = claim(&here, &key);
        let Ok(Begin::InFlight(pending)) = there.begin(&key, request()) else { panic!() };
        let waiting = thread::spawn(move || {
            let waited = pending.wait().unwrap();
            (waited, Instant::now())
        });
        while !is_wanted(server, "wait_told") {
            thread::yield_now();
        }
        let (ended, is_right): (Instant, fn(&Waited) -> bool) = match round % 4 {
            0 => (held.complete("").map(|_| Instant::now()).unwrap(), |waited| {
                matches!(waited, Waited::Done(_))
            }),
            1 => {
                (held.release().map(|()| Instant::now()).unwrap(), |waited| matches!(waited, Waited::Vacant))
            }
            2 => (held.fail("").map(|_| Instant::now()).unwrap(), |waited| matches!(waited, Waited::Done(_))),
            _ => {
                drop(held);
                (Instant::now(), |waited| matches!(waited, Waited::Interrupted))
            }
        };
        let (waited, told) = waiting.join().unwrap();
        assert!(is_right(&waited), "{round}: {waited}");
        waits.push(told.saturating_duration_since(ended));
    }
    println!("from the end of a claim to its waiter in another process: {waits:?}");
    waits.sort();
    // A poll comes after a second.
    assert!(waits[waits.len() / 2] < Duration::from_millis(500), "{waits:?}");
}

/// The row then has the number of the attempt before.
#[test]
fn waiters_are_told_of_an_interruption_though_a_later_attempt_was_put_back() {
    let server = server!();
    let (one, two) = (server.connect("wait_back"), server.connect("wait_back"));
    let held = claim(&one.scope(""), "key");
    let Ok(Begin::InFlight(pending)) = two.scope("").begin("key", request()) else { panic!() };
    drop(held);
    assert!(within(Duration::from_secs(20), || one.shared_stats().unwrap().loose_ends == 0));
    let again = claim(&one.scope(""), "key");
    assert_eq!(again.attempt(), 2);
    again.put_back().unwrap();
    let waited = pending.wait().unwrap();
    assert!(matches!(waited, Waited::Interrupted), "{waited}");
}

/// As many as may wait are waiting. A wait that need not wait is not refused.
#[test]
fn callers_that_wait_are_limited() {
    let server = server!();
    let store = server.options("wait_limit").max_waiters(1).connect().unwrap();
    let scope = store.scope("");
    let held = claim(&scope, "key");
    let pending = || match scope.begin("key", request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{other:?}"),
    };
    let (first, second) = (pending(), pending());
    thread::scope(|threads| {
        let waiting = threads.spawn(|| first.wait());
        assert!(within(Duration::from_secs(20), || store.stats().waiting == 1));
        let refused = second.wait();
        assert!(matches!(refused, Err(BeginError::Busy(Busy::TooManyWaiters { max: 1 }))), "{refused:?}");
        assert!(matches!(second.wait_timeout(Duration::ZERO), Ok(Waited::TimedOut)));
        held.complete("reply").unwrap();
        assert!(matches!(waiting.join().unwrap(), Ok(Waited::Done(_))));
    });
    assert!(matches!(second.wait(), Ok(Waited::Done(_))));
    assert_eq!((store.stats().waiting, store.stats().busy.waiters), (0, 1));
}

#[test]
fn a_waiter_that_no_notification_reaches_finds_out_by_itself() {
    let server = server!();
    let options = server.options("wait_poll").pooling(idemkv::Pooling::Transaction);
    let (one, two) = (server.connect("wait_poll"), options.connect().unwrap());
    let held = claim(&one.scope(""), "key");
    let Ok(Begin::InFlight(pending)) = two.scope("").begin("key", request()) else { panic!() };
    let waiting = thread::spawn(move || pending.wait().unwrap());
    while !is_wanted(server, "wait_poll") {
        thread::yield_now();
    }
    held.complete("reply").unwrap();
    assert!(matches!(waiting.join().unwrap(), Waited::Done(record) if record.body() == b"reply"));
}

#[test]
fn callers_that_were_told_to_wait_before_any_of_them_does_are_all_woken() {
    let server = server!();
    let (one, two) = (server.connect("wait_first"), server.connect("wait_first"));
    let held = claim(&one.scope(""), "key");
    let scope = two.scope("");
    let pendings: Vec<_> = (0..5)
        .map(|_| match scope.begin("key", request()) {
            Ok(Begin::InFlight(pending)) => pending,
            other => panic!("{other:?}"),
        })
        .collect();
    let waiters: Vec<_> = pendings
        .into_iter()
        .map(|pending| thread::spawn(move || pending.wait_timeout(Duration::from_secs(30))))
        .collect();
    while !is_wanted(server, "wait_first") {
        thread::yield_now();
    }
    held.complete("reply").unwrap();
    for waiter in waiters {
        assert!(matches!(waiter.join().unwrap(), Ok(Waited::Done(_))));
    }
}

/// Hundreds of waiters in one process look at the key together, and rarely.
#[test]
fn many_waiters_of_one_process_cost_one_look_a_second() {
    let server = server!();
    let (one, two) = (server.connect("wait_many"), server.connect("wait_many"));
    let held = claim(&one.scope(""), "key");
    let scope = two.scope("");
    let waiters: Vec<_> = (0..100)
        .map(|_| {
            let Ok(Begin::InFlight(pending)) = scope.begin("key", request()) else { panic!() };
            thread::spawn(move || pending.wait().unwrap())
        })
        .collect();
    while !is_wanted(server, "wait_many") {
        thread::yield_now();
    }
    let before = two.shared_stats().unwrap().statements;
    let until = Instant::now() + Duration::from_secs(2);
    while Instant::now() < until {
        thread::yield_now();
    }
    let looks = two.shared_stats().unwrap().statements - before;
    assert!(looks < 25, "{looks} statements in two seconds");
    held.complete("reply").unwrap();
    for waiter in waiters {
        assert!(matches!(waiter.join().unwrap(), Waited::Done(_)));
    }
}

/// The claims of a process that is gone are made interrupted together.
/// Its look at one claim goes on a connection that falls silent.
#[test]
fn a_connection_that_falls_silent_keeps_no_waits_but_its_own() {
    let server = server!();
    let proxy = Proxy::to(server.port);
    let direct = server.connect("wait_silent");
    // Without prepared statements the text goes with each request.
    let options = SharedOptions::new(proxy.url()).schema("wait_silent").pooling(Pooling::Transaction);
    let options = options.connections(2).sweep_every(None).count_every(None);
    let limit = Duration::from_secs(60);
    let store = options.statement_timeout(limit).session(limit * 5).connect().unwrap();
    let (here, there) = (store.scope(""), direct.scope(""));
    let (first, second) = (claim(&there, "first"), claim(&there, "second"));
    let pending = |key: &str| match here.begin(key, request()) {
        Ok(Begin::InFlight(pending)) => pending,
        other => panic!("{other:?}"),
    };
    let (of_first, of_second) = (pending("first"), pending("second"));
    proxy.hold_one("SET wanted = true");
    thread::scope(|threads| {
        threads.spawn(|| drop(of_first.wait()));
        proxy.wait_for_held(1);
        second.complete("reply").unwrap();
        let waited = of_second.wait_timeout(Duration::from_secs(20));
        assert!(matches!(waited, Ok(Waited::Done(_))), "{waited:?}");
        proxy.hold(None);
        first.complete("reply").unwrap();
    });
}

#[test]
fn claims_that_are_found_over_together_share_a_statement() {
    let server = server!();
    let options = || server.options("wait_over").sweep_every(None).count_every(None);
    let (one, two) = (options().connect().unwrap(), options().connect().unwrap());
    let keys: Vec<_> = (0..80).map(|number| format!("key {number}")).collect();
    for key in &keys {
        std::mem::forget(claim(&one.scope(""), key));
    }
    let scope = two.scope("");
    let pendings: Vec<_> = keys
        .iter()
        .map(|key| match scope.begin(key, request()) {
            Ok(Begin::InFlight(pending)) => pending,
            other => panic!("{other:?}"),
        })
        .collect();
    one.close().unwrap();
    let before = two.shared_stats().unwrap().statements;
    let ended = futures_executor::block_on(futures_util::future::join_all(
        pendings.iter().map(idemkv::Pending::wait_async),
    ));
    assert!(ended.iter().all(|ended| matches!(ended, Ok(Waited::Interrupted))), "{ended:?}");
    let statements = two.shared_stats().unwrap().statements - before;
    assert!(statements < 60, "{statements} statements for 80 claims");
}

#[test]
fn waiters_are_told_of_a_claim_that_is_taken_over() {
    let server = server!();
    let policy = idemkv::Policy::default().recovery(idemkv::Recovery::Rerun).lease(Duration::from_millis(10));
    let store = server.options("wait_taken").policy(policy).sweep_every(None).connect().unwrap();
    let scope = store.scope("");
    let held = claim(&scope, "key");
    // As the first waiter of another process does.
    server.sql("UPDATE wait_taken.keys SET wanted = true");
    while !matches!(scope.get("key"), Ok(idemkv::Status::Interrupted(_))) {}
    let told = crate::server::on_runtime(async {
        let (client, mut connection) =
            tokio_postgres::connect(&server.url(), tokio_postgres::NoTls).await.unwrap();
        let (send, mut told) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let messages = futures_util::stream::poll_fn(move |context| connection.poll_message(context));
            let mut messages = std::pin::pin!(messages);
            while let Some(Ok(message)) = futures_util::StreamExt::next(&mut messages).await {
                if let tokio_postgres::AsyncMessage::Notification(note) = message {
                    send.send(note.payload().to_owned()).ok();
                }
            }
        });
        client.batch_execute("LISTEN \"idemkv:wait_taken\"").await.unwrap();
        let Ok(Begin::Fresh(second)) = scope.begin_async("key", request()).await else { panic!() };
        assert_eq!(second.attempt(), 2);
        tokio::time::timeout(Duration::from_secs(10), told.recv()).await.ok().flatten()
    });
    let digest = server.one("SELECT replace(digest::text, '-', '') FROM wait_taken.keys");
    assert_eq!(told, Some(digest));
    drop(held);
}
