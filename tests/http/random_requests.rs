//! Random sequences of requests, twins, cut connections, panics, restarts and full disks, over
//! loopback. Each effect happens once, and each replay is the response byte for byte.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use idemkv::Engine;
use idemkv::http::{IdempotencyLayer, Keep};
use idemkv::sim::{CrashKind, SimDisk};
use tokio::task::yield_now;

use crate::loopback::{Raw, Server};

#[path = "../common/budget.rs"]
mod budget;
#[path = "../../examples/webhooks/random.rs"]
#[allow(dead_code, reason = "made for an example")]
mod random;

use budget::Budget;
use random::Random;

const KEYS: usize = 12;
const STEPS: usize = 60;
/// Far more than anything takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the world outside knows.
#[derive(Default)]
struct Ledger {
    effects: HashMap<String, u32>,
    /// Processes that died. Handlers of theirs have no effect any more.
    deaths: u32,
    random: Option<Random>,
}

/// A handler's side of it.
#[derive(Clone)]
struct Bank {
    ledger: Arc<Mutex<Ledger>>,
    process: u32,
}

impl Bank {
    fn random(&self, limit: usize) -> usize {
        self.ledger.lock().unwrap().random.as_mut().unwrap().below(limit)
    }

    async fn takes_time(&self) {
        for _ in 0..self.random(5) {
            yield_now().await;
        }
    }
}

async fn charge(State(bank): State<Bank>, headers: HeaderMap, body: String) -> Response {
    let key = headers["idempotency-key"].to_str().unwrap().to_owned();
    assert_eq!(key, body);
    bank.takes_time().await;
    let plan = bank.random(10);
    if plan < 2 {
        let mut response = (StatusCode::SERVICE_UNAVAILABLE, "refused").into_response();
        response.extensions_mut().insert(Keep::not_started());
        return response;
    }
    let is_alive = {
        let mut ledger = bank.ledger.lock().unwrap();
        let is_alive = ledger.deaths == bank.process;
        if is_alive {
            *ledger.effects.entry(key.clone()).or_default() += 1;
        }
        is_alive
    };
    if !is_alive {
        std::future::pending::<()>().await;
    }
    bank.takes_time().await;
    if plan == 2 {
        std::panic::resume_unwind(Box::new("a planned panic"));
    }
    let receipt = format!("{key} {}", bank.random(1 << 30));
    let headers = [("x-b", "1"), ("x-a", "a, b"), ("location", "/v1/charges/7")];
    let mut response = (StatusCode::CREATED, headers, receipt).into_response();
    response.headers_mut().append("x-b", "2".parse().unwrap());
    response
}

/// A process with its disk.
struct Process {
    disk: SimDisk,
    layer: IdempotencyLayer,
    server: Server,
    engine: Engine,
}

impl Process {
    async fn start(disk: SimDisk, ledger: &Arc<Mutex<Ledger>>) -> Self {
        let engine =
            Engine::options().disk(&disk).queue_timeout(Duration::from_millis(50)).open("x.idem").unwrap();
        let layer = IdempotencyLayer::new(&engine, "charges");
        let process = ledger.lock().unwrap().deaths;
        let bank = Bank { ledger: Arc::clone(ledger), process };
        let router = Router::new().route("/v1/charges", post(charge).layer(layer.clone())).with_state(bank);
        Self { disk, layer, server: Server::start(router).await, engine }
    }

    /// What `waited` gives. Says what is known of the process where it does not come.
    async fn within<T>(&self, what: &str, waited: impl Future<Output = T>) -> T {
        let Ok(given) = tokio::time::timeout(PATIENCE, waited).await else {
            panic!("{what} does not end; runs: {}, {:?}", self.layer.running(), self.engine.stats());
        };
        given
    }

    /// It dies at this moment; another one starts with what is on its disk.
    async fn die(self, ledger: &Arc<Mutex<Ledger>>, kind: CrashKind) -> Self {
        let disk = {
            let mut ledger = ledger.lock().unwrap();
            ledger.deaths += 1;
            self.disk.image(kind)
        };
        Self::start(disk, ledger).await
    }
}

/// What clients were told.
#[derive(Default)]
struct Told {
    responses: HashMap<String, Raw>,
    unknown: HashSet<String>,
}

impl Told {
    /// `is_late`: it was asked when there was a response already.
    fn hear(&mut self, key: &str, answer: &Raw, is_late: bool, ledger: &Mutex<Ledger>) {
        let effects = || ledger.lock().unwrap().effects.get(key).copied().unwrap_or(0);
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        let says = |code: &str| body.contains(&format!("\"code\":\"{code}\""));
        match answer.status {
            201 => {
                assert!(!self.unknown.contains(key), "{key} is known after all: {answer:?}");
                assert_eq!(effects(), 1, "{key}");
                let first = self.responses.entry(key.to_owned()).or_insert_with(|| answer.kept());
                assert_eq!(*first, answer.kept());
                return;
            }
            409 if says("in_flight") => {}
            409 if says("outcome_unknown") => drop(self.unknown.insert(key.to_owned())),
            500 if says("handler_lost") => drop(self.unknown.insert(key.to_owned())),
            503 if says("store_busy") || body == "refused" => {}
            _ => panic!("{key}: {answer:?}"),
        }
        assert!(!is_late, "{key} had a response: {answer:?}");
    }
}

async fn play(seed: u64) -> u64 {
    let mut random = Random::new(seed);
    let ledger = Arc::new(Mutex::new(Ledger { random: Some(Random::new(!seed)), ..Ledger::default() }));
    let mut process = Process::start(SimDisk::new(), &ledger).await;
    let mut told = Told::default();
    let mut requests = 0;
    for step in 0..STEPS {
        let key = format!("{}-{}", random.below(KEYS), step / 20);
        let is_late = told.responses.contains_key(&key);
        match random.below(20) {
            0 => {
                let kind = [CrashKind::KeepAll, CrashKind::DropAll, CrashKind::Torn(seed)][random.below(3)];
                process = process.die(&ledger, kind).await;
            }
            1 => process.disk.set_capacity(Some(process.disk.used())),
            2 => process.disk.set_capacity(None),
            3..7 => {
                let connection = process.server.send(&key, &key).await;
                for _ in 0..random.below(20) {
                    yield_now().await;
                }
                drop(connection);
            }
            7..11 => {
                let mut twins = Vec::new();
                for _ in 0..3 {
                    twins.push(process.server.send(&key, &key).await);
                }
                for twin in twins {
                    let answer = process.within("a twin", Raw::read(twin)).await;
                    told.hear(&key, &answer, is_late, &ledger);
                    requests += 1;
                }
            }
            _ => {
                let answer = process.within("a request", process.server.post(&key, &key)).await;
                told.hear(&key, &answer, is_late, &ledger);
                requests += 1;
            }
        }
    }
    process.disk.set_capacity(None);
    process.within("a run", process.layer.drain()).await;
    let ledger = &*ledger;
    assert!(ledger.lock().unwrap().effects.values().all(|effects| *effects == 1));
    for (key, first) in told.responses {
        let retry = process.server.post(&key, &key).await;
        assert!(retry.is_replay());
        assert_eq!(first, retry.kept());
    }
    requests
}

#[test]
fn whatever_happens_each_effect_happens_once_and_each_replay_is_the_response() {
    let rig =
        "http::random_requests::whatever_happens_each_effect_happens_once_and_each_replay_is_the_response";
    let mut budget = Budget::new(rig, "requests", 20);
    while let Some(seed) = budget.next_seed() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        budget.count(runtime.block_on(play(seed)));
        // Handlers of dead processes never end.
        runtime.shutdown_background();
    }
}
