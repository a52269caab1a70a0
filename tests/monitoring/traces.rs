//! Events for the crate `tracing`: levels, fields, and no key unless asked.

use std::fmt::{Debug, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idemkv::{Begin, BeginError, Fault, Fingerprint, Recovery, TracingObserver};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::common::{Machine, fresh, request};

/// Keeps each event as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => write!(self.0, " {value:?}:").unwrap(),
            "took" => {}
            name => write!(self.0, " {name}={value:?}").unwrap(),
        }
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "idemkv"
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[test]
fn events_name_a_key_by_its_hash_with_scope_attempt_and_fence() {
    let lines = Lines::default();
    let _default = tracing::subscriber::set_default(lines.clone());
    let machine = Machine::default();
    let engine = machine.options().observer(Arc::new(TracingObserver::new())).open("x.idem").unwrap();
    let jobs = engine.set_policy("jobs", engine.policy().recovery(Recovery::Rerun)).unwrap();
    drop(lines.take());
    let hash = jobs.key_hash("secret").unwrap();
    let lost = fresh(&jobs, "secret");
    let first = lost.fence();
    drop(lost);
    let claim = fresh(&jobs, "secret");
    let fences = [first.get(), claim.fence().get()];
    assert!(matches!(jobs.begin("secret", request()), Ok(Begin::InFlight(_))));
    machine.clock.advance(Duration::from_secs(1));
    drop(claim.complete("body").unwrap());
    assert!(matches!(jobs.begin("secret", request()), Ok(Begin::Done(_))));
    assert!(matches!(jobs.begin("secret", Fingerprint::of("other")), Err(BeginError::KeyReused)));
    let of = |attempt: usize| {
        format!("scope=\"jobs\" key.hash={hash} attempt={attempt} fence={}", fences[attempt - 1])
    };
    let seen = lines.take();
    let expected = [
        format!("DEBUG claim granted: {} resolves=false", of(1)),
        format!("WARN claim interrupted: {} cause=Dropped", of(1)),
        format!("DEBUG claim granted: {} resolves=false", of(2)),
        format!("DEBUG found in flight: {}", of(2)),
        format!("DEBUG claim ended: {} end=Completed body_bytes=4", of(2)),
        format!("TRACE replayed: {}", of(2)),
    ];
    assert_eq!(seen[..6], expected);
    let refused = format!("DEBUG begin refused: scope=\"jobs\" key.hash={hash} error=");
    assert!(seen.len() == 7 && seen[6].starts_with(&refused), "{seen:?}");
    assert!(seen.iter().all(|line| !line.contains("secret") && !line.contains("body\"")));
    engine.close().unwrap();
    assert_eq!(lines.take(), ["INFO closed: claims_left=0"]);
}

#[test]
fn faults_of_the_program_are_errors_whether_a_begin_or_a_wait_meets_them() {
    let lines = Lines::default();
    let _default = tracing::subscriber::set_default(lines.clone());
    let machine = Machine::default();
    let options = machine.options().observer(Arc::new(TracingObserver::new()));
    let engine = options.open("x.idem").unwrap();
    let jobs = engine.scope("jobs");
    drop(lines.take());
    let many: Vec<_> = (0..16_385).map(|key| (key.to_string(), request())).collect();
    drop(jobs.begin_many(&many));
    let refused = lines.take();
    assert!(refused[0].starts_with("ERROR begin refused: scope=\"jobs\""), "{}", refused[0]);
    let inside = jobs.clone();
    let own = jobs.run("own", request(), move |_| {
        let Ok(Begin::InFlight(pending)) = inside.begin("own", request()) else { panic!() };
        assert!(matches!(pending.wait(), Err(BeginError::OwnKey)));
        Ok::<_, Fault<String>>(1_u32)
    });
    assert!(own.is_ok());
    let seen = lines.take();
    let refused = seen.iter().find(|line| line.contains("wait refused"));
    assert!(
        refused.is_some_and(|line| line.starts_with("ERROR wait refused: scope=\"jobs\" key.hash=")),
        "{seen:?}"
    );
}

#[test]
fn a_key_is_shown_if_that_is_asked_for() {
    let lines = Lines::default();
    let _default = tracing::subscriber::set_default(lines.clone());
    let machine = Machine::default();
    let observer = Arc::new(TracingObserver::new().with_keys());
    let engine = machine.options().observer(observer).open("x.idem").unwrap();
    drop(lines.take());
    fresh(&engine.scope("jobs"), "named").release().unwrap();
    let seen = lines.take();
    assert_eq!(seen.iter().filter(|line| line.contains("key=\"named\"")).count(), 2, "{seen:?}");
}
