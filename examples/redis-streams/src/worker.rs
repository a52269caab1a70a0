//! The worker: reads orders, ships each once, and tells the broker what to do with them.

use std::path::Path;
use std::time::Duration;

use idemkv::queue::{Consumer, Delivery, Handling, Settlement};
use idemkv::{Claim, Engine, Fault, Fingerprint};
use redis::aio::MultiplexedConnection;
use redis::streams::{StreamAutoClaimReply, StreamId, StreamPendingCountReply, StreamReadReply};
use redis::{AsyncCommands, cmd};

use crate::{DEAD, GROUP, ORDERS, Result, SHIPPED};

const BATCH: usize = 32;
/// After so long without an answer a message counts as lost, and is delivered again.
pub const VISIBILITY_TIMEOUT: Duration = Duration::from_millis(300);
const DELIVERIES_MAX: u32 = 6;

/// An order, as it lies in the stream.
pub struct Order {
    /// Redis's id of this message. It differs between two sendings of an order.
    id: String,
    /// The producer's number of the order. This is the key.
    number: String,
    content: String,
    delivered: u32,
}

/// Works until no message is left.
pub async fn work(url: &str, file: &Path) -> Result<()> {
    let engine = Engine::open(file)?;
    let mut redis = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    let consumer = Consumer::new(&engine.scope("shipments"))
        .deliveries_max(DELIVERIES_MAX)
        .visibility_timeout(VISIBILITY_TIMEOUT)?;
    loop {
        let batch = receive(&mut redis).await?;
        if batch.is_empty() && is_done(&mut redis).await? {
            break;
        }
        let carrier = redis.clone();
        let settled = consumer
            .handle(
                batch,
                |order: &Order| Delivery::new(&order.number, Fingerprint::of(&order.content)).count(order.delivered),
                |task| drop(tokio::spawn(task)),
                move |claim, order| ship(carrier.clone(), claim, order),
            )
            .await?;
        for done in settled {
            match done.settlement() {
                Settlement::Acknowledge => {}
                // It stays among the pending ones, and is claimed again after the timeout.
                Settlement::RetryLater => continue,
                Settlement::DeadLetter => {
                    let letter = [("number", &done.message.number), ("content", &done.message.content)];
                    redis.xadd::<_, _, _, _, ()>(DEAD, "*", &letter).await?;
                }
            }
            redis.xack::<_, _, _, ()>(ORDERS, GROUP, &[&done.message.id]).await?;
        }
    }
    engine.close()?;
    Ok(())
}

/// Has the carrier ship an order. It takes its time, and is not always well.
fn ship<'c>(mut carrier: MultiplexedConnection, claim: &'c mut Claim, order: &'c Order) -> Handling<'c> {
    Box::pin(async move {
        let luck = claim.fence().get() % 23;
        if luck == 1 {
            return Err(Fault::Retry(b"the carrier refuses orders at the moment".to_vec()));
        }
        let shipped = carrier.hincr::<_, _, _, u32>(SHIPPED, &order.number, 1).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        match shipped {
            Ok(_) if luck == 2 => Err(Fault::Unknown(b"no answer".to_vec())),
            Ok(_) => Ok(format!("shipped {}", order.content).into_bytes()),
            Err(error) => Err(Fault::Unknown(error.to_string().into_bytes())),
        }
    })
}

/// Messages without an answer for too long, and new ones.
async fn receive(redis: &mut MultiplexedConnection) -> Result<Vec<Order>> {
    let timeout_ms = VISIBILITY_TIMEOUT.as_millis();
    let again: StreamAutoClaimReply = cmd("XAUTOCLAIM")
        .arg(&[ORDERS, GROUP, "worker"])
        .arg(timeout_ms as u64)
        .arg(&["0", "COUNT", &BATCH.to_string()])
        .query_async(redis)
        .await?;
    let new: Option<StreamReadReply> = cmd("XREADGROUP")
        .arg(&["GROUP", GROUP, "worker", "COUNT", &BATCH.to_string(), "BLOCK", "20", "STREAMS", ORDERS, ">"])
        .query_async(redis)
        .await?;
    let new = new.into_iter().flat_map(|reply| reply.keys).flat_map(|stream| stream.ids);
    let mut orders = Vec::new();
    for message in again.claimed {
        let pending: StreamPendingCountReply =
            redis.xpending_count(ORDERS, GROUP, &message.id, &message.id, 1).await?;
        let delivered = pending.ids.first().map_or(0, |pending| pending.times_delivered);
        orders.push(order(message, u32::try_from(delivered).unwrap_or(u32::MAX)));
    }
    orders.extend(new.map(|message| order(message, 1)));
    Ok(orders)
}

fn order(message: StreamId, delivered: u32) -> Order {
    let field = |name| message.get(name).unwrap_or_default();
    Order { number: field("number"), content: field("content"), delivered, id: message.id }
}

/// Whether every message is answered for good.
async fn is_done(redis: &mut MultiplexedConnection) -> Result<bool> {
    let pending: redis::streams::StreamPendingReply = redis.xpending(ORDERS, GROUP).await?;
    Ok(pending.count() == 0)
}
