//! A recorder that keeps all it is told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};

/// A metric's kind, unit and meaning.
pub(crate) type Described = (&'static str, &'static str, String);

/// What a recorder was told. Counters, gauges, and the values of histograms by `name{label=value}`.
#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    described: BTreeMap<String, Described>,
    used: BTreeMap<String, &'static str>,
    values: BTreeMap<String, Vec<f64>>,
    at_next: Option<(String, Hook)>,
}

type Hook = Box<dyn FnOnce() + Send>;

struct Cell(Kept, String);

fn named(key: &Key) -> String {
    let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
    format!("{}{{{}}}", key.name(), labels.join(","))
}

impl Kept {
    pub(crate) fn described(&self) -> BTreeMap<String, Described> {
        self.0.lock().unwrap().described.clone()
    }

    /// The kind of every metric that got a value.
    pub(crate) fn used(&self) -> BTreeMap<String, &'static str> {
        self.0.lock().unwrap().used.clone()
    }

    /// The sum of a counter, or a gauge's value.
    pub(crate) fn value(&self, name: &str) -> f64 {
        self.values(name).iter().sum()
    }

    pub(crate) fn values(&self, name: &str) -> Vec<f64> {
        self.0.lock().unwrap().values.get(name).cloned().unwrap_or_default()
    }

    /// Names with labels.
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().values.keys().cloned().collect()
    }

    /// Calls the hook once, after this metric got a value.
    pub(crate) fn at_next(&self, name: &str, hook: impl FnOnce() + Send + 'static) {
        self.0.lock().unwrap().at_next = Some((name.to_owned(), Box::new(hook)));
    }

    fn describe(&self, name: &KeyName, kind: &'static str, unit: Option<Unit>, text: &SharedString) {
        let unit = unit.map_or("", |unit| unit.as_str());
        self.0.lock().unwrap().described.insert(name.as_str().to_owned(), (kind, unit, text.to_string()));
    }

    fn cell(&self, key: &Key, kind: &'static str) -> Arc<Cell> {
        let mut contents = self.0.lock().unwrap();
        contents.used.insert(key.name().to_owned(), kind);
        contents.values.entry(named(key)).or_default();
        Arc::new(Cell(self.clone(), named(key)))
    }
}

impl Cell {
    fn push(&self, value: f64) {
        let mut contents = self.0.0.lock().unwrap();
        contents.values.get_mut(&self.1).unwrap().push(value);
        let hook = contents.at_next.take_if(|(name, _)| *name == self.1);
        drop(contents);
        if let Some((_, hook)) = hook {
            hook();
        }
    }
}

impl CounterFn for Cell {
    fn increment(&self, value: u64) {
        self.push(f64::from(u32::try_from(value).unwrap()));
    }

    fn absolute(&self, _: u64) {
        unimplemented!("the counters of an engine start anew with each opening");
    }
}

impl GaugeFn for Cell {
    fn increment(&self, _: f64) {
        unimplemented!();
    }

    fn decrement(&self, _: f64) {
        unimplemented!();
    }

    fn set(&self, value: f64) {
        self.0.0.lock().unwrap().values.get_mut(&self.1).unwrap().clear();
        self.push(value);
    }
}

impl HistogramFn for Cell {
    fn record(&self, value: f64) {
        self.push(value);
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&key, "counter", unit, &text);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&key, "gauge", unit, &text);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, text: SharedString) {
        self.describe(&key, "histogram", unit, &text);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.cell(key, "counter"))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.cell(key, "gauge"))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.cell(key, "histogram"))
    }
}
