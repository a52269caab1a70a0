//! A body is code of others too: its `as_ref` and its drop may call the engine, or panic, wherever
//! the engine runs them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::common::{default_scope, done, fresh, request};
use idemkv::{Claim, Engine, Scope};

const WATCHDOG: Duration = Duration::from_secs(60);

/// What a body does when it is looked at, and when it is dropped.
struct Body {
    looked_at: fn(&Tools),
    dropped: fn(&Tools),
    tools: Tools,
}

struct Tools {
    engine: Engine,
    scope: Scope,
    other: std::sync::Mutex<Option<Claim>>,
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        (self.looked_at)(&self.tools);
        b"reply"
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        (self.dropped)(&self.tools);
    }
}

fn nothing(_: &Tools) {}

type Act = fn(&Tools);

const ACTS: [(&str, Act); 9] = [
    ("checkpoint", |tools| tools.engine.checkpoint().unwrap()),
    ("step", |tools| assert!(!tools.engine.step().checkpointed)),
    ("complete", |tools| drop(fresh(&tools.scope, "new").complete("reply").unwrap())),
    ("complete_in", |tools| {
        let other = tools.other.lock().unwrap().take();
        drop(other.map(|claim| claim.complete_in(|_| Ok::<_, ()>("reply"))));
    }),
    ("forget", |tools| drop(tools.scope.forget("stored"))),
    ("declare", |tools| drop(tools.engine.set_policy("scope", tools.engine.policy()))),
    ("read_tables", |tools| drop(tools.engine.read_tables(|_| ()))),
    ("wait", |tools| drop(tools.scope.begin_or_wait("out", request(), Duration::from_millis(1)))),
    ("close", |tools| drop(tools.engine.clone().close())),
];

fn try_body(name: &str, looked_at: fn(&Tools), dropped: fn(&Tools), fails: bool) {
    let (told, tells) = mpsc::channel();
    let helper = thread::spawn(move || {
        let scratch = tempfile::tempdir().unwrap();
        let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
        let scope = default_scope(&engine);
        fresh(&scope, "stored").complete("reply").unwrap();
        let _out = fresh(&scope, "out");
        let claim = fresh(&scope, "key");
        let other = Some(fresh(&scope, "other")).into();
        let body =
            Body { looked_at, dropped, tools: Tools { engine: engine.clone(), scope: scope.clone(), other } };
        let completed = if fails {
            claim.complete_in(|_| Err::<&str, _>(Box::new(body))).map(drop).map_err(drop)
        } else {
            claim.complete_in(|_| Ok::<_, ()>(body)).map(drop).map_err(drop)
        };
        assert_eq!(completed.is_err(), fails);
        engine.close().unwrap();
        told.send(()).unwrap();
    });
    if tells.recv_timeout(WATCHDOG).is_err() {
        assert!(helper.is_finished(), "{name} hangs");
        helper.join().unwrap();
    }
}

#[test]
fn a_body_of_a_transaction_may_call_the_engine_when_it_is_looked_at_and_when_it_is_dropped() {
    for (name, act) in ACTS {
        try_body(&format!("{name} in as_ref"), act, nothing, false);
        try_body(&format!("{name} in drop"), nothing, act, false);
        try_body(&format!("{name} in the drop of an error"), nothing, act, true);
    }
}

#[test]
fn a_body_that_panics_when_it_is_looked_at_leaves_nothing_and_stops_nobody() {
    let scratch = tempfile::tempdir().unwrap();
    let engine = Engine::open(scratch.path().join("x.idem")).unwrap();
    let scope = default_scope(&engine);
    let tools = |scope: &Scope| Tools { engine: engine.clone(), scope: scope.clone(), other: None.into() };
    let panics: fn(&Tools) = |_| panic!("as it was told to");
    let (claim, body) =
        (fresh(&scope, "key"), Body { looked_at: panics, dropped: nothing, tools: tools(&scope) });
    assert!(catch_unwind(AssertUnwindSafe(|| claim.complete_in(|_| Ok::<_, ()>(body)).map(drop))).is_err());
    assert!(matches!(engine.default_scope().get("key"), Ok(idemkv::Status::Interrupted(_))));
    let (claim, body) =
        (fresh(&scope, "other"), Body { looked_at: nothing, dropped: panics, tools: tools(&scope) });
    assert!(catch_unwind(AssertUnwindSafe(|| claim.complete_in(|_| Ok::<_, ()>(body)).map(drop))).is_err());
    // It was durable by then.
    assert_eq!(done(&scope, "other").body(), b"reply");
    fresh(&scope, "next").complete_in(|_| Ok::<_, ()>("reply")).unwrap();
    fresh(&scope, "last").complete("reply").unwrap();
    engine.checkpoint().unwrap();
    engine.close().unwrap();
}
