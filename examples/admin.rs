//! A service with the operator's page, and keys to look at.
//!
//! ```console
//! $ cargo run --features admin --example admin
//! ```
//!
//! Then open <http://127.0.0.1:8080/ops/idempotency>. Every request is the operator "demo": a real
//! service asks its own authentication instead. `--port 0` takes any port, and prints it.

#![allow(clippy::print_stdout, reason = "it says where the page is")]

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use idemkv::admin::{Access, Admin};
use idemkv::http::IdempotencyLayer;
use idemkv::{Begin, Claim, Engine, Fingerprint};

/// Keys as clients might choose them who wish the operator ill.
const HOSTILE: [&[u8]; 6] = [
    b"<script>document.title='gone'</script>",
    b"\"><img src=x onerror=\"document.title='gone'\">",
    "invoice-\u{202e}fdp.exe".as_bytes(),
    b"nul\0 and \x1b[2J",
    b"no text: \xff\xfe\x80",
    b"' onfocus=alert(1) autofocus='",
];

fn claim(engine: &Engine, scope: &str, key: &[u8]) -> Result<Claim, Box<dyn Error>> {
    match engine.scope(scope).begin(key, Fingerprint::of(key))? {
        Begin::Fresh(claim) => Ok(claim),
        Begin::InFlight(_) | Begin::Done(_) => Err("the key is in use".into()),
    }
}

/// Keys in every state. Gives the claims that are in flight.
fn fill(engine: &Engine) -> Result<Vec<Claim>, Box<dyn Error>> {
    let charges = "POST /v1/charges";
    for number in 0..40 {
        let key = format!("order-{number:04}");
        claim(engine, charges, key.as_bytes())?.complete(format!("{{\"id\":\"ch_{number}\"}}"))?;
        for _ in 0..number % 4 {
            drop(engine.scope(charges).begin(&key, Fingerprint::of(&key))?);
        }
    }
    let mut lost = claim(engine, charges, b"order-0040")?;
    lost.save_progress("card authorised: auth_81723\ncapture sent")?;
    drop(lost);
    for number in 41..45 {
        drop(claim(engine, charges, format!("order-{number:04}").as_bytes())?);
    }
    for key in HOSTILE {
        drop(claim(engine, charges, key)?);
    }
    drop(claim(engine, "refunds", b"refund-7")?);
    drop(claim(engine, "refunds", "long-".repeat(50).as_bytes())?);
    (1..=3).map(|number| claim(engine, "payouts", format!("payout-{number}").as_bytes())).collect()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let argument = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let home = tempfile::tempdir()?;
    let engine = Engine::open(home.path().join("charges.idem"))?;
    let _in_flight = fill(&engine)?;

    let admin = Admin::new(&engine, |_request| Access::change("demo"))
        .title("charges, demo")
        .backups_in(home.path())
        .router();
    let looking =
        Admin::new(&engine, |_request| Access::Look).title("charges, to look at").read_only().router();
    let charges = IdempotencyLayer::new(&engine, "POST /v1/charges");
    let service = Router::new()
        // On the route: a layer of the router would be around its fallback too.
        .route("/v1/charges", post(async || r#"{"id":"ch_1"}"#).layer(charges))
        .nest("/ops/idempotency", admin)
        .nest("/look", looking);

    let port = argument("--port").unwrap_or_else(|| "8080".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("http://{}/ops/idempotency", listener.local_addr()?);
    tokio::spawn(retries(engine.clone()));
    Ok(axum::serve(listener, service).await?)
}

/// Clients that retry, so that the plot has something to show. Their keys are there, so that no more
/// are in flight than those that stay.
async fn retries(engine: Engine) {
    let charges = engine.scope("POST /v1/charges");
    for number in 0_u64.. {
        let key = format!("order-{:04}", number * 7 % 41);
        let body = if number.is_multiple_of(5) { "another body" } else { &key };
        if let Ok(Begin::Fresh(claim)) = charges.begin_async(&key, Fingerprint::of(body)).await {
            drop(claim.complete_async("{}").await);
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
