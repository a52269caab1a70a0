//! What is logged in a handler is in the span of its request, though its run is a task of its own.

use std::cell::RefCell;
use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument, Metadata, Subscriber};
use tracing_core::span::Current;

use crate::client::{home, post, reply, serving};

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Notes the span in which each event is.
#[derive(Clone, Default)]
struct Watched {
    seen: Arc<Mutex<Seen>>,
    /// The filter lets the spans of runs pass.
    has_runs: bool,
}

#[derive(Default)]
struct Seen {
    spans: Vec<&'static Metadata<'static>>,
    events: Vec<Option<u64>>,
    /// The fields of runs, each with the span in which it was made.
    runs: Vec<(Option<u64>, String)>,
}

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, "{field}={value:?} ").unwrap();
    }
}

fn entered() -> Option<u64> {
    ENTERED.with_borrow(|entered| entered.last().copied())
}

impl Subscriber for Watched {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == module_path!() || self.has_runs && metadata.name() == "run"
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut seen = self.seen.lock().unwrap();
        if span.metadata().name() == "run" {
            let mut fields = Fields(String::new());
            span.record(&mut fields);
            seen.runs.push((entered(), fields.0));
        }
        seen.spans.push(span.metadata());
        Id::from_u64(seen.spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.seen.lock().unwrap().events.push(entered());
    }

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, _: &Id) {
        ENTERED.with_borrow_mut(Vec::pop);
    }

    fn current_span(&self) -> Current {
        let metadata = |id: u64| self.seen.lock().unwrap().spans[usize::try_from(id).unwrap() - 1];
        entered().map_or_else(Current::none, |id| Current::new(Id::from_u64(id), metadata(id)))
    }
}

#[tokio::test]
async fn a_run_has_the_span_of_its_request_and_no_other() {
    let watched = Watched::default();
    let _default = tracing::subscriber::set_default(watched.clone());
    let home = home();
    let client = serving(&home.layer(), |_| async {
        tracing::info!("in the handler");
        tokio::task::yield_now().await;
        tracing::info!("after a wait");
        Ok(reply(201, "made"))
    });
    for key in ["a", "b"] {
        client.ask(post(key, "")).instrument(tracing::info_span!("request")).await.unwrap();
    }
    client.post("c", "").await;
    let seen = watched.seen.lock().unwrap();
    assert_eq!(seen.events, [Some(1), Some(1), Some(2), Some(2), None, None]);
}

#[tokio::test]
async fn a_run_has_a_span_within_that_of_its_request_which_names_the_key_by_its_hash() {
    let watched = Watched { has_runs: true, ..Watched::default() };
    let _default = tracing::subscriber::set_default(watched.clone());
    let home = home();
    let client = serving(&home.layer(), |_| async {
        tracing::info!("in the handler");
        Ok(reply(201, "made"))
    });
    // Another test may have been the first to come by the span. `tracing` then asked the subscriber
    // of that thread alone, and there was none.
    client.post("first", "").await;
    tracing::callsite::rebuild_interest_cache();
    *watched.seen.lock().unwrap() = Seen::default();
    client.ask(post("secret", "")).instrument(tracing::info_span!("request")).await.unwrap();
    let scope = home.engine.scope("charges");
    let hash = scope.key_hash("secret").unwrap();
    let seen = watched.seen.lock().unwrap();
    let [(within, fields)] = seen.runs.as_slice() else { panic!("{:?}", seen.runs) };
    assert_eq!((within, seen.events.as_slice()), (&Some(1), [Some(2)].as_slice()));
    let named = format!("scope=\"charges\" key.hash={hash} attempt=1 fence=");
    assert!(fields.starts_with(&named) && !fields.contains("secret"), "{fields}");
}
