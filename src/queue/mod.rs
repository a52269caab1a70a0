//! A consumer of a queue: each message is handled once, however often the broker delivers it.
//!
//! With the feature `queue`. The messages come in batches, from any broker and of any type. A
//! [`Consumer`] begins each, runs its handler, stores the result, and says what to tell the
//! broker: see [`Settlement`].
//!
//! ```
//! use idemkv::queue::{Consumer, Delivery, Settlement};
//! use idemkv::{Engine, Fault, Fingerprint};
//!
//! # struct Message { id: &'static str, body: &'static str, count: u32 }
//! # async fn receive() -> Vec<Message> {
//! #     vec![Message { id: "m-1", body: "ship 7", count: 1 }, Message { id: "m-1", body: "ship 7", count: 2 }]
//! # }
//! # async fn ship(_order: &str, _key: String) -> Result<String, String> { Ok("shipped".to_owned()) }
//! # mod tokio { pub fn spawn(task: impl Future<Output = ()> + Send + 'static) {
//! #     std::thread::spawn(|| futures_executor::block_on(task));
//! # } }
//! # let dir = tempfile::tempdir()?;
//! # futures_executor::block_on(async {
//! let engine = Engine::open(dir.path().join("messages.idem"))?;
//! let consumer = Consumer::new(&engine.scope("shipments")).deliveries_max(5);
//!
//! // In the loop of the consumer:
//! let settled = consumer
//!     .handle(
//!         receive().await,
//!         |message: &Message| Delivery::new(message.id, Fingerprint::of(message.body)).count(message.count),
//!         |batch| drop(tokio::spawn(batch)),
//!         |claim, message| {
//!             Box::pin(async move {
//!                 let key = claim.step_key("ship").to_string(); // the carrier's idempotency key
//!                 ship(message.body, key).await.map(String::into_bytes).map_err(|error| Fault::Unknown(error.into_bytes()))
//!             })
//!         },
//!     )
//!     .await?;
//! for done in settled {
//!     match done.settlement() {
//!         Settlement::Acknowledge => {} // tell the broker that `done.message` is done
//!         Settlement::RetryLater => {}  // have the broker deliver it again, after a delay
//!         Settlement::DeadLetter => {}  // hand it to a person, with `done.reason`
//!     }
//! #   assert_eq!(done.settlement(), Settlement::Acknowledge);
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # })?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod consumer;
mod delivery;
mod groups;
mod run;
mod settled;

pub use consumer::{BatchLost, Consumer, DetachedBatch};
pub use delivery::Delivery;
pub use run::Handling;
pub use settled::{Reason, Settled, Settlement};
