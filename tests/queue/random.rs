//! A broker that delivers too often, handlers that fail, and a process that is killed.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::task::Poll;

use crate::common::{Machine, poll};
use crate::helpers::{Does, Handled, Message, Tasks, message, start};
use idemkv::queue::{Consumer, Settled, Settlement};
use idemkv::{Engine, Status};
use proptest::prelude::*;
use proptest::test_runner::TestRng;

const MESSAGES: usize = 6;

/// The broker and the world outside: what is to be delivered, and which effects happened.
struct Broker {
    queued: Vec<Message>,
    dead: HashSet<String>,
    acknowledged: HashSet<String>,
    effects: HashMap<String, u32>,
    is_uncertain: HashSet<String>,
}

impl Broker {
    /// Tells the broker what became of a batch.
    fn settle(&mut self, settled: Vec<Settled<Message>>) {
        for done in settled {
            let key = done.message.key.clone();
            match done.settlement() {
                Settlement::Acknowledge => drop(self.acknowledged.insert(key)),
                Settlement::DeadLetter => drop(self.dead.insert(key)),
                Settlement::RetryLater => self.queued.push(done.message),
            }
        }
    }

    /// Handlers ran: each of these messages may have had its effect once more.
    fn note(&mut self, batch: &[Message], ran: Vec<String>) {
        for key in ran {
            let does = batch.iter().find(|message| message.key == key).map(|message| message.does.clone());
            match does {
                Some(Does::Nothing) | None => {}
                Some(Does::Loses | Does::Panics | Does::Hangs) => {
                    self.is_uncertain.insert(key.clone());
                    *self.effects.entry(key).or_default() += 1;
                }
                Some(Does::Succeeds(_) | Does::FailsForGood) => *self.effects.entry(key).or_default() += 1,
            }
        }
    }
}

fn does(number: u32) -> Does {
    match number % 10 {
        0 => Does::Nothing,
        1 => Does::Loses,
        2 => Does::Panics,
        3 => Does::FailsForGood,
        _ => Does::Succeeds(b"shipped".to_vec()),
    }
}

/// Handles a batch for at most so many steps, after which the process is killed; `None` if it was.
fn handle_for(
    steps: u32,
    engine: &Engine,
    consumer: &Consumer,
    batch: Vec<Message>,
    handled: &Handled,
) -> Option<Vec<Settled<Message>>> {
    let tasks = Tasks::default();
    let mut call = pin!(start(consumer, &tasks, batch, handled));
    for _ in 0..steps {
        if let Poll::Ready(settled) = poll(call.as_mut()) {
            return settled.ok();
        }
        tasks.poll_all();
        engine.step();
    }
    None
}

fn live(seed: &mut TestRng) {
    let machine = Machine::default();
    let mut broker = Broker {
        queued: Vec::new(),
        dead: HashSet::new(),
        acknowledged: HashSet::new(),
        effects: HashMap::new(),
        is_uncertain: HashSet::new(),
    };
    for number in 0..MESSAGES {
        for _ in 0..=seed.next_u32() % 3 {
            broker.queued.push(message(&format!("m-{number}")));
        }
    }
    let mut engine = machine.open();
    for round in 0..200_u32 {
        if broker.queued.is_empty() {
            break;
        }
        let len = 1 + seed.next_u32() as usize % broker.queued.len();
        let mut batch: Vec<_> = broker.queued.drain(..len).collect();
        // The same key does the same thing within a batch. After some rounds all handlers are well.
        for at in 0..batch.len() {
            let twin = batch[..at].iter().find(|other| other.key == batch[at].key);
            batch[at].does = match twin {
                Some(twin) => twin.does.clone(),
                None if round > 100 => Does::Succeeds(b"shipped".to_vec()),
                None => does(seed.next_u32()),
            };
        }
        let consumer = Consumer::new(&engine.scope("shipments")).concurrency(1 + round as usize % 3);
        let handled = Handled::default();
        let steps = if seed.next_u32().is_multiple_of(4) { seed.next_u32() % 8 } else { 400 };
        let settled = handle_for(steps, &engine, &consumer, batch.clone(), &handled);
        broker.note(&batch, handled.keys());
        if let Some(settled) = settled {
            broker.settle(settled);
            continue;
        }
        // What a killed process ran, or was about to run, may not be stored.
        broker.is_uncertain.extend(batch.iter().map(|message| message.key.clone()));
        broker.queued.extend(batch);
        drop(consumer);
        machine.kill(engine);
        engine = machine.open();
    }
    assert!(broker.queued.is_empty(), "some messages never end: {:?}", broker.queued);
    for number in 0..MESSAGES {
        let key = format!("m-{number}");
        let effects = broker.effects.get(&key).copied().unwrap_or(0);
        assert!(effects <= 1, "{key} had {effects} effects");
        let status = engine.scope("shipments").get(&key).unwrap();
        if broker.acknowledged.contains(&key) {
            assert_eq!(effects, 1, "{key} is acknowledged, and has no effect");
            assert!(matches!(status, Status::Done(_)), "{key} is acknowledged, and is {status:?}");
        } else {
            assert!(broker.dead.contains(&key));
            let is_known = matches!(status, Status::Done(_)) || broker.is_uncertain.contains(&key);
            assert!(is_known, "{key} is a dead letter for no reason, and is {status:?}");
        }
    }
}

proptest! {
    #[test]
    fn no_effect_happens_twice_and_no_message_is_forgotten(seed in any::<[u8; 32]>()) {
        let mut seed = TestRng::from_seed(prop::test_runner::RngAlgorithm::ChaCha, &seed);
        live(&mut seed);
    }
}
