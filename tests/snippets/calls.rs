//! The guide's calls, word for word: the lines between two marks are shown there. Each function is called by a test.

use idemkv::{Engine, Fingerprint, Status};

pub type Error = Box<dyn std::error::Error>;

pub fn open(path: &std::path::Path) -> Result<Engine, Error> {
    // shown: options
    use idemkv::Engine;
    use std::time::Duration;

    let day = Duration::from_secs(24 * 3_600);
    let engine = Engine::options()
        .ttl(day)
        .tombstone_ttl(7 * day) // a very late retry is told that it comes too late
        .cache_bytes(16 * 1024 * 1024)
        .open(path)?;
    // end
    Ok(engine)
}

pub fn policies(engine: &Engine) -> Result<(), Error> {
    // shown: policies
    use idemkv::{Durability, Recovery};
    use std::time::Duration;

    let week = Duration::from_secs(7 * 24 * 3_600);
    let charges = engine.set_policy("charges", engine.policy().ttl(week))?;
    let clicks = engine.policy().recovery(Recovery::Rerun).durability(Durability::Completions);
    let clicks = engine.set_policy("clicks", clicks)?; // a click may be counted twice
    assert_eq!(charges.policy().get_recovery(), Recovery::Refuse); // the default
    // end
    assert_eq!(clicks.policy().get_recovery(), Recovery::Rerun);
    Ok(())
}

pub fn steps(engine: &Engine, request: Fingerprint) -> Result<(), Error> {
    // shown: steps
    use idemkv::{Begin, Recovery};

    fn bank(_key: &str) -> String {
        "charged".to_owned() // a service that acts once for each key
    }

    let orders = engine.set_policy("orders", engine.policy().recovery(Recovery::Rerun))?;
    if let Begin::Fresh(mut claim) = orders.begin("order-7", request)? {
        let charged = if let Some(note) = claim.last_progress() {
            String::from_utf8_lossy(&note).into_owned() // an earlier attempt got so far
        } else {
            let charged = bank(&claim.step_key("charge-card").to_string());
            claim.save_progress(&charged)?; // durable when it returns
            charged
        };
        claim.complete(charged)?;
    }
    // end
    Ok(())
}

pub fn list(engine: &Engine) -> Result<(), Error> {
    // shown: list
    for open in engine.interrupted().scope("POST /v1/charges").limit(100).get()? {
        let (key, lost) = (open.key().escape_ascii(), open.attempt());
        println!("{key}: attempt {}, fence {}", lost.attempt(), lost.fence());
        println!("  since {:?}, {:?}", open.interrupted_at(), open.last_progress());
    }
    // end
    Ok(())
}

pub fn lease(engine: &Engine, request: Fingerprint) -> Result<(), Error> {
    // shown: lease
    use idemkv::{Begin, ClaimToken};
    use std::time::Duration;

    let jobs = engine.set_policy("jobs", engine.policy().lease(Duration::from_secs(30)))?;
    if let Begin::Fresh(claim) = jobs.begin("key", request)? {
        claim.renew()?; // good for another 30 s; touches no disk
        let message = claim.into_token()?.as_bytes().to_vec(); // to a worker in another process
        // .. and back, with its result:
        jobs.resume(&ClaimToken::from_bytes(message))?.complete("reply")?;
    }
    // end
    assert!(matches!(jobs.get("key")?, Status::Done(_)));
    Ok(())
}

pub fn transaction(engine: &Engine, request: Fingerprint) -> Result<Option<u64>, Error> {
    // shown: transaction
    use idemkv::Begin;
    use idemkv::tables::redb::{ReadableTable, TableDefinition};

    const BALANCES: TableDefinition<'_, &str, u64> = TableDefinition::new("balances");

    if let Begin::Fresh(claim) = engine.default_scope().begin("deposit-1", request)? {
        claim.complete_in(|tables| {
            let mut balances = tables.open_table(BALANCES)?;
            let balance = balances.get("alice")?.map_or(0, |balance| balance.value()) + 10;
            balances.insert("alice", balance)?;
            Ok::<_, Box<dyn std::error::Error>>(format!("balance={balance}"))
        })?;
    }
    let balance = engine.read_tables(|tables| {
        let balances = tables.open_table(BALANCES)?;
        let balance = balances.get("alice")?.map(|balance| balance.value());
        Ok::<_, Box<dyn std::error::Error>>(balance)
    })??;
    println!("{balance:?}");
    // end
    Ok(balance)
}

pub fn batch(engine: &Engine) {
    // shown: batch
    use idemkv::{Begin, Fingerprint};

    let queue = engine.scope("messages");
    let batch = [("m-1", Fingerprint::of("ship 7")), ("m-2", Fingerprint::of("ship 8"))];
    let mut done = Vec::new();
    for (result, (key, _)) in queue.begin_many(&batch).into_iter().zip(&batch) {
        match result {
            Ok(Begin::Fresh(claim)) => done.push((claim, format!("shipped {key}"))),
            Ok(Begin::Done(_) | Begin::InFlight(_)) => {}
            // No `?` here: it would drop the claims of the others, and interrupt their keys.
            Err(error) => eprintln!("{key}: {error}"),
        }
    }
    for result in engine.complete_many(done) {
        if let Err(error) = result {
            eprintln!("{error}"); // it has run: a retry finds its key interrupted
        }
    }
    // end
}
