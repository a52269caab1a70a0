//! Messages that say what their handler does, and an executor stepped by hand.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::Poll;

use crate::common::poll;
use idemkv::queue::{BatchLost, Consumer, Delivery, Settled, Settlement};
use idemkv::{Claim, Engine, Fault, Fingerprint};

/// What a handler does with a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Does {
    Succeeds(Vec<u8>),
    FailsForGood,
    Nothing,
    Loses,
    Panics,
    /// Never ends.
    Hangs,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub key: String,
    pub body: String,
    pub count: u32,
    pub group: Option<&'static str>,
    pub does: Does,
}

/// A message whose handler succeeds.
pub fn message(key: &str) -> Message {
    Message {
        key: key.to_owned(),
        body: "ship 7".to_owned(),
        count: 0,
        group: None,
        does: Does::Succeeds(b"shipped".to_vec()),
    }
}

impl Message {
    pub fn that(self, does: Does) -> Self {
        Self { does, ..self }
    }

    pub fn delivered(self, count: u32) -> Self {
        Self { count, ..self }
    }

    pub fn of(self, group: &'static str) -> Self {
        Self { group: Some(group), ..self }
    }
}

pub fn describe(message: &Message) -> Delivery {
    let delivery = Delivery::new(&message.key, Fingerprint::of(&message.body)).count(message.count);
    match message.group {
        Some(group) => delivery.group(group),
        None => delivery,
    }
}

/// The keys whose handlers ran, in their order.
#[derive(Clone, Default)]
pub struct Handled(Arc<Mutex<Vec<String>>>);

impl Handled {
    pub fn keys(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn note(&self, claim: &Claim) {
        self.0.lock().unwrap().push(String::from_utf8_lossy(claim.key()).into_owned());
    }
}

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// An executor that is stepped by hand.
#[derive(Default)]
pub struct Tasks(RefCell<Vec<Task>>);

impl Tasks {
    pub fn spawn(&self, task: Task) {
        self.0.borrow_mut().push(task);
    }

    pub fn poll_all(&self) {
        self.0.borrow_mut().retain_mut(|task| poll(task.as_mut()).is_pending());
    }

    pub fn drop_all(&self) {
        self.0.borrow_mut().clear();
    }

    /// Runs a call and the tasks that it spawns.
    #[track_caller]
    pub fn run<F: Future>(&self, engine: &Engine, call: F) -> F::Output {
        let mut call = pin!(call);
        for _ in 0..400 {
            if let Poll::Ready(output) = poll(call.as_mut()) {
                return output;
            }
            self.poll_all();
            engine.step();
        }
        panic!("should be ready by now")
    }
}

/// A batch whose handlers do as their messages say.
pub fn start<'t>(
    consumer: &'t Consumer,
    tasks: &'t Tasks,
    batch: Vec<Message>,
    handled: &Handled,
) -> impl Future<Output = Result<Vec<Settled<Message>>, BatchLost>> + 't {
    let handled = handled.clone();
    consumer.handle(
        batch,
        describe,
        |task| tasks.spawn(task),
        move |claim, message: &Message| {
            handled.note(claim);
            Box::pin(async {
                match message.does.clone() {
                    Does::Succeeds(body) => Ok(body),
                    Does::FailsForGood => Err(Fault::Final(b"no such order".to_vec())),
                    Does::Nothing => Err(Fault::Retry(b"refused".to_vec())),
                    Does::Loses => Err(Fault::Unknown(b"no reply".to_vec())),
                    Does::Panics => std::panic::resume_unwind(Box::new("a bug")),
                    Does::Hangs => std::future::pending().await,
                }
            })
        },
    )
}

/// Handles a batch, and returns what became of it and whose handlers ran.
#[track_caller]
pub fn handle(
    engine: &Engine,
    consumer: &Consumer,
    batch: Vec<Message>,
) -> (Vec<Settled<Message>>, Vec<String>) {
    let (tasks, handled) = (Tasks::default(), Handled::default());
    let sent = batch.clone();
    let settled = tasks.run(engine, start(consumer, &tasks, batch, &handled)).unwrap();
    assert_eq!(settled.iter().map(|done| done.message.clone()).collect::<Vec<_>>(), sent, "in their order");
    (settled, handled.keys())
}

pub fn settlements(settled: &[Settled<Message>]) -> Vec<Settlement> {
    settled.iter().map(Settled::settlement).collect()
}
