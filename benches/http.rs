//! What the HTTP layer costs.
//!
//! ```text
//! cargo bench --features http --bench http -- replay   # in process: a replay through the layer, beside the engine's own
//! cargo bench --features http --bench http -- posts    # over loopback: durable POSTs with the layer, and without it
//! cargo bench --features http --bench http -- paced    # the same at 1,000 requests a second
//! ```

#![allow(clippy::unwrap_used, clippy::panic, reason = "a benchmark that can't go on stops")]
#![allow(clippy::disallowed_methods, reason = "it measures time")]
#![allow(clippy::cast_precision_loss, reason = "counts are far below the limits")]
#![allow(clippy::print_stdout, reason = "that is what it is for")]

use std::convert::Infallible;
use std::env;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use bytes::Bytes;
use common::{REQUEST, Spread, key, scratch, unsynced};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use idemkv::http::IdempotencyLayer;
use idemkv::{Begin, Engine, Fingerprint};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tower::{Layer, Service, service_fn};

mod common;

const KEYS: u64 = 10_000;
const ROUNDS: u64 = 11;
const BODY: &[u8] = &[b'x'; 80];
/// Connections that send one request after the other.
const CLIENTS: u32 = 64;
const SLICE: Duration = Duration::from_secs(4);
/// Requests a second of all clients together, where they are paced.
const PACE: u32 = 1_000;

fn main() {
    match env::args().skip(1).find(|word| !word.starts_with("--")).as_deref() {
        Some("replay") => replay(),
        Some("posts") => posts(None),
        Some("paced") => posts(Some(PACE)),
        _ => {
            replay();
            posts(None);
            posts(Some(PACE));
        }
    }
}

fn request(number: u64) -> Request<Full<Bytes>> {
    let request = Request::post("/v1/charges").header("content-type", "application/json");
    let request = request.header("idempotency-key", &*String::from_utf8_lossy(&key(number)));
    request.body(Full::from(BODY)).unwrap()
}

async fn charged<B>(_: Request<B>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::builder().header("location", "/v1/charges/7").body(Full::from(BODY)).unwrap())
}

/// Nanoseconds a request: each key once, in an order without a pattern.
async fn through<S, B>(mut service: S) -> f64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = Infallible>,
    B: http_body::Body<Data = Bytes>,
    B::Error: std::fmt::Debug,
{
    let started = Instant::now();
    for number in 0..KEYS {
        let response = service.call(request(number * 7 % KEYS)).await.unwrap();
        black_box(response.into_body().collect().await.unwrap().to_bytes());
    }
    started.elapsed().as_nanos() as f64 / KEYS as f64
}

fn replay() {
    let scratch = scratch();
    let engine = unsynced().open(scratch.path().join("http.idem")).unwrap();
    let scope = engine.scope("engine");
    for number in 0..KEYS {
        let Begin::Fresh(claim) = scope.begin(key(number), REQUEST).unwrap() else { panic!("it is new") };
        claim.complete(BODY).unwrap();
    }
    let layer = IdempotencyLayer::new(&engine, "layer");
    let runtime = Builder::new_current_thread().build().unwrap();
    let (mut own, mut bare, mut layered, mut cost) = (vec![], vec![], vec![], vec![]);
    runtime.block_on(async {
        through(layer.layer(service_fn(charged))).await;
        for _ in 0..ROUNDS {
            let started = Instant::now();
            for number in 0..KEYS {
                let Ok(Begin::Done(record)) = scope.begin(key(number * 7 % KEYS), REQUEST) else {
                    panic!("it is done")
                };
                black_box(record);
            }
            let engines = started.elapsed().as_nanos() as f64 / KEYS as f64;
            let without = through(service_fn(charged)).await;
            let with = through(layer.layer(service_fn(charged))).await;
            own.push(engines);
            bare.push(without);
            layered.push(with);
            cost.push(with - without - engines);
        }
    });
    println!("nanoseconds a request, median of {ROUNDS} rounds of {KEYS} (least, greatest)");
    for (what, figures) in [
        ("the engine's own replay", own),
        ("a service without the layer: request made, called, response read", bare),
        ("a replay through the layer: the same", layered),
        ("cost of the layer: what is left", cost),
    ] {
        let Spread { median, min, max } = Spread::of(figures);
        println!("{median:8.0} ({min:.0}, {max:.0})  {what}");
    }
    engine.close().unwrap();
}

/// What the layer does, done by the handler: the same syncs, and nothing else.
async fn by_hand(State(engine): State<Engine>, headers: HeaderMap, body: Bytes) -> (HeaderMap, Bytes) {
    let key = headers.get("idempotency-key").unwrap().as_bytes();
    match engine.scope("by hand").begin_async(key, Fingerprint::of(&body)).await.unwrap() {
        Begin::Fresh(claim) => drop(claim.complete_async(BODY).await.unwrap()),
        Begin::Done(_) | Begin::InFlight(_) => panic!("each key is new"),
    }
    located().await
}

async fn located() -> (HeaderMap, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert("location", http::HeaderValue::from_static("/v1/charges/7"));
    (headers, Bytes::from_static(BODY))
}

/// Sends request after request, until it is told to stop. With a pace, each is due at its time,
/// and its latency counts from then.
async fn client(
    address: SocketAddr,
    keys: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    pace: Option<Pace>,
) -> Vec<f64> {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.set_nodelay(true).unwrap();
    let mut times = vec![];
    let mut due = pace.map(|pace| Instant::now() + pace.first);
    while !stop.load(Ordering::Relaxed) {
        if let Some(due) = due {
            tokio::time::sleep_until(due.into()).await;
        }
        let number = keys.fetch_add(1, Ordering::Relaxed);
        let (key, body) = (key(number), String::from_utf8_lossy(BODY));
        let key = String::from_utf8_lossy(&key);
        let request = format!(
            "POST /v1/charges HTTP/1.1\r\nhost: a\r\nidempotency-key: {key}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let started = due.unwrap_or_else(Instant::now);
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = vec![];
        // Each response ends with the body.
        while !bytes.ends_with(BODY) {
            assert_ne!(connection.read_buf(&mut bytes).await.unwrap(), 0, "the server hung up");
        }
        assert!(bytes.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&bytes));
        times.push(started.elapsed().as_secs_f64() * 1e3);
        due = due.zip(pace).map(|(due, pace)| due + pace.every);
    }
    times
}

/// When a client's requests are due.
#[derive(Clone, Copy)]
struct Pace {
    first: Duration,
    every: Duration,
}

/// `a_second`: how many requests all clients together send, or `None`: as fast as they are
/// answered.
fn posts(a_second: Option<u32>) {
    let scratch = scratch();
    let engine = Engine::open(scratch.path().join("http.idem")).unwrap();
    let layer = IdempotencyLayer::new(&engine, "layer");
    let routers = [
        ("by hand", Router::new().route("/v1/charges", post(by_hand)).with_state(engine.clone())),
        ("with the layer", Router::new().route("/v1/charges", post(located).layer(layer))),
    ];
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let keys = Arc::new(AtomicU64::new(0));
    let (mut rates, mut ratios) = ([vec![], vec![]], vec![]);
    let load = a_second.map_or("as fast as they are answered".to_owned(), |pace| format!("{pace} a second"));
    println!(
        "durable POSTs over loopback, {CLIENTS} connections, {load}, slices of {} s in turn",
        SLICE.as_secs()
    );
    for round in 0..6 {
        for ((name, router), rates) in routers.iter().zip(&mut rates) {
            let (keys, router) = (Arc::clone(&keys), router.clone());
            let mut times = runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = listener.local_addr().unwrap();
                let server = tokio::spawn(async move { axum::serve(listener, router).await });
                let stop = Arc::new(AtomicBool::new(false));
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|number| {
                        let pace = a_second.map(|a_second| {
                            let between = Duration::from_secs(1) / a_second;
                            Pace { first: between * number, every: between * CLIENTS }
                        });
                        tokio::spawn(client(address, Arc::clone(&keys), Arc::clone(&stop), pace))
                    })
                    .collect();
                tokio::time::sleep(SLICE).await;
                stop.store(true, Ordering::Relaxed);
                let mut times = vec![];
                for client in clients {
                    times.extend(client.await.unwrap());
                }
                server.abort();
                times
            });
            // The first warms up.
            if round > 0 {
                let rate = times.len() as f64 / SLICE.as_secs_f64();
                let p99 = p99(&mut times);
                println!(
                    "{rate:8.0} a second, median {:.1} ms, p99 {p99:.1} ms  {name}",
                    Spread::of(times).median
                );
                rates.push(rate);
            }
        }
    }
    let [by_hand, layered] = rates;
    ratios.extend(layered.iter().zip(&by_hand).map(|(with, without)| with / without));
    let Spread { median, min, max } = Spread::of(ratios);
    println!("with the layer to by hand: {median:.3} ({min:.3}, {max:.3}), at least 0.9 wanted");
    engine.close().unwrap();
}

fn p99(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() * 99 / 100).copied().unwrap_or_default()
}
