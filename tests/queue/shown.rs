//! The consumer of `docs/patterns.md`: compiled, run, and shown there word for word.

use std::cell::RefCell;

use idemkv::queue::Reason;

use crate::common::shown::{blocks, regions};

pub struct Order {
    number: String,
    content: String,
    delivered: u32,
}

/// A broker with one batch.
pub struct Broker {
    batch: RefCell<Option<Vec<Order>>>,
    told: RefCell<Vec<(String, &'static str)>>,
}

impl Broker {
    #[allow(clippy::unused_async, reason = "a real one waits")]
    async fn receive(&self) -> Option<Vec<Order>> {
        self.batch.borrow_mut().take()
    }

    fn acknowledge(&self, order: &Order) {
        self.told.borrow_mut().push((order.number.clone(), "acknowledge"));
    }

    fn retry_later(&self, order: &Order) {
        self.told.borrow_mut().push((order.number.clone(), "later"));
    }

    fn dead_letter(&self, order: &Order, _reason: &Reason) {
        self.told.borrow_mut().push((order.number.clone(), "dead"));
    }
}

#[allow(clippy::unused_async, reason = "a real one waits")]
async fn carrier(content: &str, key: &str) -> Result<Vec<u8>, Vec<u8>> {
    assert_eq!(key.len(), 36);
    if content == "lost" { Err(b"no answer".to_vec()) } else { Ok(content.as_bytes().to_vec()) }
}

mod consumer {
    use super::{Broker, Order, carrier};

    // shown: consumer
    use std::error::Error;

    use idemkv::queue::{Consumer, Delivery, Settlement};
    use idemkv::{Engine, Fault, Fingerprint};

    pub async fn consume(engine: &Engine, broker: &Broker) -> Result<(), Box<dyn Error>> {
        let consumer = Consumer::new(&engine.scope("shipments")).deliveries_max(5);
        while let Some(batch) = broker.receive().await {
            let settled = consumer
                .handle(
                    batch,
                    |order: &Order| {
                        Delivery::new(&order.number, Fingerprint::of(&order.content)).count(order.delivered)
                    },
                    |batch| drop(tokio::spawn(batch)),
                    |claim, order| {
                        Box::pin(async move {
                            let key = claim.step_key("ship").to_string();
                            carrier(&order.content, &key).await.map_err(Fault::Unknown)
                        })
                    },
                )
                .await?;
            for done in settled {
                match done.settlement() {
                    Settlement::Acknowledge => broker.acknowledge(&done.message),
                    Settlement::RetryLater => broker.retry_later(&done.message),
                    Settlement::DeadLetter => broker.dead_letter(&done.message, &done.reason),
                }
            }
        }
        Ok(())
    }
    // end
}

#[test]
fn the_document_shows_what_is_tested() {
    let shown = blocks(include_str!("../../docs/patterns.md"))[0];
    assert_eq!(shown, regions(include_str!("shown.rs"))[0]);
}

#[tokio::test]
async fn the_consumer_tells_the_broker_what_became_of_each_order() {
    let dir = tempfile::tempdir().unwrap();
    let engine = idemkv::Engine::open(dir.path().join("x.idem")).unwrap();
    let order = |number: &str, content: &str| Order {
        number: number.to_owned(),
        content: content.to_owned(),
        delivered: 1,
    };
    let mut told = Vec::new();
    for _ in 0..2 {
        let batch = vec![order("1", "7 of 1"), order("2", "lost"), order("1", "7 of 1")];
        let broker = Broker { batch: RefCell::new(Some(batch)), told: RefCell::default() };
        consumer::consume(&engine, &broker).await.unwrap();
        told.extend(broker.told.into_inner());
    }
    let told: Vec<_> = told.iter().map(|(number, told)| (&**number, *told)).collect();
    assert_eq!(
        told,
        [
            ("1", "acknowledge"),
            ("2", "later"),
            ("1", "acknowledge"),
            ("1", "acknowledge"),
            ("2", "dead"),
            ("1", "acknowledge"),
        ]
    );
}
