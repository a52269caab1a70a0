//! The producer, the death of the worker, and the person who looks at dead letters.

use std::collections::BTreeMap;
use std::env;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use idemkv::{Engine, Status};
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use redis::streams::StreamRangeReply;

use crate::{DEAD, GROUP, ORDERS, Result, SHIPPED, WORKER_DIR};

const COUNT: u32 = 300;
const KILLS: u64 = 6;
const GIVE_UP_AFTER: Duration = Duration::from_secs(120);

pub async fn supervise(url: &str) -> Result<()> {
    let dir = env::temp_dir().join(format!("idemkv-redis-streams-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let mut redis = redis::Client::open(url)?.get_multiplexed_async_connection().await?;
    for key in [ORDERS, DEAD, SHIPPED] {
        redis.del::<_, ()>(key).await?;
    }
    redis.xgroup_create_mkstream::<_, _, _, ()>(ORDERS, GROUP, "0").await?;
    let mut sent = 0;
    for number in 0..COUNT {
        for _ in 0..=number % 3 {
            send(&mut redis, &number.to_string(), &format!("7 of {number}")).await?;
            sent += 1;
        }
    }
    println!("{COUNT} orders in {sent} messages");

    for kill in 1..=KILLS {
        let mut worker = start(url, &dir)?;
        tokio::time::sleep(Duration::from_millis(40 * kill)).await;
        worker.kill()?;
        worker.wait()?;
    }
    println!("the worker was killed {KILLS} times");

    let (mut letters, mut rounds) = (0, 0);
    loop {
        wait(start(url, &dir)?).await?;
        let resolved = resolve(&mut redis, &dir.join("shipments.idem")).await?;
        if resolved == 0 {
            break;
        }
        (letters, rounds) = (letters + resolved, rounds + 1);
    }
    println!("{letters} dead letters were looked at, in {rounds} rounds");

    let shipped: BTreeMap<String, u32> = redis.hgetall(SHIPPED).await?;
    let twice: Vec<_> = shipped.iter().filter(|(_, times)| **times != 1).collect();
    if shipped.len() != COUNT as usize || !twice.is_empty() {
        return Err(format!("{} of {COUNT} orders are shipped, and these not once: {twice:?}", shipped.len()).into());
    }
    println!("every order is shipped once");
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

async fn send(redis: &mut MultiplexedConnection, number: &str, content: &str) -> Result<()> {
    redis.xadd::<_, _, _, _, ()>(ORDERS, "*", &[("number", number), ("content", content)]).await?;
    Ok(())
}

fn start(url: &str, dir: &Path) -> Result<Child> {
    Ok(Command::new(env::current_exe()?).env("REDIS_URL", url).env(WORKER_DIR, dir).spawn()?)
}

async fn wait(mut worker: Child) -> Result<()> {
    let started = Instant::now();
    loop {
        if let Some(status) = worker.try_wait()? {
            return if status.success() { Ok(()) } else { Err(format!("a worker ended with {status}").into()) };
        }
        if started.elapsed() > GIVE_UP_AFTER {
            worker.kill()?;
            return Err("the worker does not come to an end".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a person does with dead letters: asks the carrier, and says what is so. Returns how many
/// there were.
async fn resolve(redis: &mut MultiplexedConnection, file: &Path) -> Result<usize> {
    let engine = Engine::open(file)?;
    let shipments = engine.scope("shipments");
    let letters: StreamRangeReply = redis.xrange_all(DEAD).await?;
    for letter in &letters.ids {
        let number: String = letter.get("number").unwrap_or_default();
        let content: String = letter.get("content").unwrap_or_default();
        let is_shipped = redis.hexists(SHIPPED, &number).await?;
        match shipments.get(&number)? {
            Status::Interrupted(_) if is_shipped => {
                shipments.resolve(&number)?.complete(format!("shipped {content}"))?;
            }
            Status::Interrupted(_) => shipments.resolve(&number)?.release()?,
            _ => {}
        }
        if !is_shipped {
            send(redis, &number, &content).await?;
        }
        redis.xdel::<_, _, ()>(DEAD, &[&letter.id]).await?;
    }
    engine.close()?;
    Ok(letters.ids.len())
}
