//! What is logged in a handler is in the span of its request, though its run is a task of its own.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Instrument, Metadata, Subscriber};
use tracing_core::span::Current;

use crate::client::{home, post, reply, serving};

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// Notes the span in which each event is.
#[derive(Clone, Default)]
struct Watched(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    spans: Vec<&'static Metadata<'static>>,
    events: Vec<Option<u64>>,
}

fn entered() -> Option<u64> {
    ENTERED.with_borrow(|entered| entered.last().copied())
}

impl Subscriber for Watched {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == module_path!()
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let spans = &mut self.0.lock().unwrap().spans;
        spans.push(span.metadata());
        Id::from_u64(spans.len() as u64)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {
        self.0.lock().unwrap().events.push(entered());
    }

    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }

    fn exit(&self, _: &Id) {
        ENTERED.with_borrow_mut(Vec::pop);
    }

    fn current_span(&self) -> Current {
        let metadata = |id: u64| self.0.lock().unwrap().spans[usize::try_from(id).unwrap() - 1];
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
    let seen = watched.0.lock().unwrap();
    assert_eq!(seen.events, [Some(1), Some(1), Some(2), Some(2), None, None]);
}
