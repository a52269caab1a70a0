//! A consumer of Redis streams that ships each order once, through kills and lost answers.
//!
//! ```text
//! examples/redis-streams/run       # starts a Redis of its own; or, with yours:
//! REDIS_URL=redis://127.0.0.1/ cargo run --release --manifest-path examples/redis-streams/Cargo.toml
//! ```
//!
//! It deletes the keys that start with `idemkv-example:`, and makes them anew.
//!
//! A producer sends 300 orders, each one to three times. A worker reads them in a consumer group,
//! and is killed at random moments. The carrier sometimes refuses an order, and sometimes does not
//! answer though it shipped. The worker acknowledges, leaves for later, or puts on the stream of
//! dead letters, as the consumer says. At the end this process does what a person does with dead
//! letters: it asks the carrier what became of an order, and resolves the key. Then every order
//! must have been shipped exactly once.
//!
//! Copy from `worker.rs`.

mod supervisor;
mod worker;

use std::env;
use std::error::Error;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Orders, and those that a person has to look at.
pub const ORDERS: &str = "idemkv-example:orders";
pub const DEAD: &str = "idemkv-example:dead";
pub const GROUP: &str = "shippers";
/// What the carrier shipped: how often, by order.
pub const SHIPPED: &str = "idemkv-example:shipped";

/// Set for a worker: the folder of its file.
const WORKER_DIR: &str = "IDEMKV_REDIS_STREAMS_DIR";

#[tokio::main]
async fn main() -> Result<()> {
    let url = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1/".to_owned());
    match env::var_os(WORKER_DIR) {
        Some(dir) => worker::work(&url, &PathBuf::from(dir).join("shipments.idem")).await,
        None => supervisor::supervise(&url).await,
    }
}
