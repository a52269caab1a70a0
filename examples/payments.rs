//! Payments: a service that charges each payment once, and a client that retries until it is sure,
//! though anything may break between the two.
//!
//! ```text
//! cargo run --example payments --features axum               # both, and each fault in turn
//! cargo run --example payments --features axum -- --serve    # the service alone, for curl
//! ```
//!
//! With `--store postgres://..`, and the feature `postgres`, several services share their keys in
//! one database: `--serve 127.0.0.1:4242 /tmp/payments --store postgres://..`, and another on a
//! port of its own. The folder has the bank.
//!
//! Copy `serve`, `charge`, `reconcile` with `settle`, and the client's `pay`. The bank is a file
//! here. It knows no idempotency keys: if a request ran twice, the file would show two charges.
//!
//! A switch, `PUT /fault/{name}`, makes the next charge meet a fault, after the bank has made it and
//! before the client knows: `drop` (the connection), `slow`, `lost` (the bank's answer), `crash`.
//! After `full` the disk is full, until `none`. `docs/http.md` has the `curl` lines.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example says what it does")]

use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Seek as _, Write as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{self, Form, State};
use axum::http::header::{CONTENT_TYPE, HOST, HeaderValue, RETRY_AFTER};
use axum::http::{Request, Response, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::IntoResponse;
use axum::routing::{get, put};
use axum::{Json, Router};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use idemkv::http::{HeldClaim, IdempotencyLayer, Keep, Problem, Replayed};
use idemkv::{Begin, Claim, Engine, Fingerprint, OpenKey, Recovery, ResolveError, Scope};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, oneshot};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{sleep, timeout};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const SCOPE: &str = "POST /v1/charges";
/// How long a retry waits at the service for the end of the first request. Some clients take the
/// 409 that comes then for final.
const WAIT: Duration = Duration::from_secs(5);
/// How long the client waits for an answer.
const TIMEOUT: Duration = Duration::from_millis(500);
const TRIES_MAX: u32 = 20;
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// What a slow charge takes.
const SLOW: Duration = Duration::from_millis(1_200);
/// No attempt takes longer, and by then the bank has all charges that it will ever have of one.
/// Longer than a session of a shared store (15 s) and a pause of a process. Yours may need minutes.
const LONGEST: Duration = Duration::from_secs(60);
/// How often the bank is asked for charges of interrupted requests.
const RECONCILED_EVERY: Duration = Duration::from_secs(5);
/// How long a charge waits for room in the log, before it is refused.
const ROOM_WAIT: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let mut words = args.iter().map(String::as_str).collect::<Vec<_>>();
    let store = words.iter().position(|word| *word == "--store").map(|at| {
        words.remove(at);
        if at < words.len() { words.remove(at) } else { "" }
    });
    let folder = env::temp_dir().join("idemkv-payments");
    let result = match words[..] {
        [] if store.is_none() => show_all().await,
        ["--serve"] => serve_alone("127.0.0.1:4242", &folder, store).await,
        ["--serve", address] => serve_alone(address, &folder, store).await,
        ["--serve", address, folder] => serve_alone(address, Path::new(folder), store).await,
        _ => Err("usage: payments [--serve [ADDRESS [FOLDER]] [--store URL]]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("payments: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- The service ----

#[derive(Clone)]
struct Shared {
    bank: Arc<Mutex<Bank>>,
    /// What the next charge meets.
    fault: Arc<Mutex<Option<Fault>>>,
    disk: Arc<Mutex<Disk>>,
}

#[derive(Deserialize)]
struct Payment {
    amount: u64,
    currency: String,
}

/// Serves until it is told to stop. Runs whose clients have gone are waited for.
async fn serve(
    engine: Engine,
    bank: Bank,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<()> {
    // Its answers are of Stripe's form, so that Stripe's clients can be clients of it.
    let layer = IdempotencyLayer::stripe(&engine, SCOPE).required().wait(WAIT);
    let bank = Arc::new(Mutex::new(bank));
    reconcile(&engine, &layer, &bank).await?;
    let (reconciles, stopped) = oneshot::channel();
    let reconciling =
        tokio::spawn(keep_reconciling(engine.clone(), layer.clone(), Arc::clone(&bank), stopped));
    println!("  service: listens on http://{}", listener.local_addr()?);

    let disk = Disk { engine: engine.clone(), scope: None, others: Vec::new() };
    let shared = Shared { bank, fault: Arc::default(), disk: Arc::new(Mutex::new(disk)) };
    let app = Router::new()
        .route("/v1/charges", get(charges).post(charge).layer(layer.clone()))
        .route("/fault/{fault}", put(set_fault))
        .layer(from_fn(hang_up))
        .with_state(shared);
    axum::serve(listener, app).with_graceful_shutdown(stop).await?;
    layer.drain().await;
    drop(reconciles);
    reconciling.await?;
    engine.close_async().await?;
    Ok(())
}

async fn charge(
    State(shared): State<Shared>,
    claim: HeldClaim,
    Form(payment): Form<Payment>,
) -> std::result::Result<Response<String>, BankError> {
    // The same in every attempt of this request. A bank that takes idempotency keys gets it as one.
    let reference = claim.step_key("charge").to_string();
    let charge = shared.bank.lock().await.charge(reference, payment).map_err(BankError)?;
    shared.meet_fault(receipt(&charge)).await
}

/// The response of a charge, now and in every retry.
fn receipt(charge: &Charge) -> Response<String> {
    let Charge { id, amount, currency, .. } = charge;
    let body = serde_json::json!({
        "id": id, "object": "charge", "amount": amount, "currency": currency, "status": "succeeded",
    });
    let mut response = Response::new(body.to_string());
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

struct BankError(io::Error);

impl IntoResponse for BankError {
    fn into_response(self) -> axum::response::Response {
        // The charge may have been made. The key stays interrupted until the next `reconcile`.
        let message = format!("the bank's answer did not come: {}", self.0);
        let error = Json(serde_json::json!({ "error": { "type": "api_error", "message": message } }));
        (StatusCode::GATEWAY_TIMEOUT, Keep::unknown(), error).into_response()
    }
}

/// Until `stop` is dropped, and never in the middle: a claim that is dropped is one more attempt.
async fn keep_reconciling(
    engine: Engine,
    layer: IdempotencyLayer,
    bank: Arc<Mutex<Bank>>,
    mut stop: oneshot::Receiver<()>,
) {
    while timeout(RECONCILED_EVERY, &mut stop).await.is_err() {
        if let Err(error) = reconcile(&engine, &layer, &bank).await {
            println!("  service: it will look for interrupted charges again: {error}");
        }
    }
}

/// Ends what was interrupted, as after a crash: only the bank knows whether a charge was made.
async fn reconcile(engine: &Engine, layer: &IdempotencyLayer, bank: &Mutex<Bank>) -> Result<()> {
    // A list has a limit, and what can't be told yet stays in it.
    let mut keys = engine.interrupted().scope(SCOPE);
    loop {
        let open = keys.get()?;
        let Some(last) = open.last() else { return Ok(()) };
        keys = engine.interrupted().scope(SCOPE).after(last.position());
        for open in &open {
            settle(engine, layer, bank, open).await?;
        }
    }
}

/// "Interrupted" does not mean dead: where claims have leases, or a store is shared, the first
/// attempt may be at the bank yet.
async fn settle(engine: &Engine, layer: &IdempotencyLayer, bank: &Mutex<Bank>, open: &OpenKey) -> Result<()> {
    let (key, lost) = (String::from_utf8_lossy(open.key()), open.attempt());
    let claim = match engine.scope(SCOPE).resolve_if_async(open.key(), lost.fence()).await {
        // A retry was faster, or another service that shares the store.
        Err(ResolveError::NotInterrupted(_) | ResolveError::AnotherAttempt(_)) => return Ok(()),
        resolved => resolved?,
    };
    let is_over = engine.now().saturating_since(lost.started()) > LONGEST;
    let found = bank.lock().await.find(&claim.step_key("charge").to_string());
    let ended = match found {
        Ok(Some(charge)) => {
            println!("  service: {key} was interrupted; the bank has its charge, {}", charge.id);
            layer.complete(claim, receipt(&charge)).await.map(drop)
        }
        Ok(None) if is_over => {
            println!("  service: {key} was interrupted; the bank has no charge, so a retry may run");
            claim.release_async().await
        }
        // The charge may be on its way, or the bank does not answer. The key stays as it was.
        Ok(None) | Err(_) => claim.put_back_async().await,
    };
    if let Err(error) = ended {
        println!("  service: {key} stays interrupted: {error}");
        if let Some(claim) = error.into_claim() {
            claim.put_back_async().await?;
        }
    }
    Ok(())
}

async fn charges(State(shared): State<Shared>) -> std::result::Result<Json<Vec<Charge>>, BankError> {
    Ok(Json(shared.bank.lock().await.charges().map_err(BankError)?))
}

async fn serve_alone(address: &str, folder: &Path, store: Option<&str>) -> Result<()> {
    fs::create_dir_all(folder)?;
    let listener = TcpListener::bind(address).await?;
    let engine = match store {
        None => Engine::options().queue_timeout(ROOM_WAIT).open(folder.join("payments.idem"))?,
        Some(url) => connect(url, address).await?,
    };
    let bank = Bank::open(&ledger(folder))?;
    println!("  service: its files are in {}", folder.display());
    serve(engine, bank, listener, async { drop(tokio::signal::ctrl_c().await) }).await
}

/// A store for several services. One that starts again at its address ends the claims of the one
/// before at once.
#[cfg(feature = "postgres")]
async fn connect(url: &str, address: &str) -> Result<Engine> {
    Ok(idemkv::SharedOptions::new(url).instance(address).connect_async().await?)
}

#[cfg(not(feature = "postgres"))]
async fn connect(_url: &str, _address: &str) -> Result<Engine> {
    Err("--store needs the feature `postgres`".into())
}

// ---- The client ----

/// Pays once: sends the same request with the same key until the answer is certain.
async fn pay(address: SocketAddr, key: &str, amount: u64) -> Result<Response<String>> {
    let mut pause = Duration::from_millis(50);
    for number in 1..=TRIES_MAX {
        // Without an answer nobody knows whether the charge was made. The same key finds out, and
        // makes no second one.
        match timeout(TIMEOUT, post(address, key, amount)).await {
            Ok(Ok(answer)) => {
                println!("  client: try {number}: {}", told(&answer));
                let Some(after) = retry_after(&answer, pause)? else { return Ok(answer) };
                pause = after;
            }
            Ok(Err(error)) => println!("  client: try {number}: {error}"),
            Err(_elapsed) => println!("  client: try {number}: no answer in time"),
        }
        sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
    Err(format!("nobody knows yet whether {key} was paid: try again later, with the same key").into())
}

/// How long to wait before a retry. `None` where no retry can get another answer.
fn retry_after(answer: &Response<String>, pause: Duration) -> Result<Option<Duration>> {
    if let Some(seconds) = answer.headers().get(RETRY_AFTER) {
        return Ok(Some(Duration::from_secs(seconds.to_str()?.parse()?)));
    }
    let may_change = answer.status().is_server_error() && !answer.headers().contains_key("x-should-retry");
    Ok(may_change.then_some(pause))
}

/// An answer in short: its status, and the code of an error or the body.
fn told(answer: &Response<String>) -> String {
    let body: serde_json::Value = serde_json::from_str(answer.body()).unwrap_or_default();
    let code = body.pointer("/error/code").and_then(|code| code.as_str());
    format!("{} {}", answer.status(), code.unwrap_or(answer.body()))
}

async fn post(address: SocketAddr, key: &str, amount: u64) -> Result<Response<String>> {
    let request = Request::post("/v1/charges")
        .header("idempotency-key", key)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    send(address, request.header(HOST, address.to_string()).body(format!("amount={amount}&currency=eur"))?)
        .await
}

async fn send(address: SocketAddr, request: Request<String>) -> Result<Response<String>> {
    let stream = TokioIo::new(TcpStream::connect(address).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(head, String::from_utf8(body.into())?))
}

// ---- The bank ----

/// A bank that knows no idempotency keys: each call is a charge, and a line of its file.
struct Bank {
    ledger: File,
}

#[derive(Clone, Serialize, Deserialize)]
struct Charge {
    id: String,
    reference: String,
    amount: u64,
    currency: String,
}

impl Bank {
    fn open(ledger: &Path) -> Result<Self> {
        Ok(Self { ledger: File::options().create(true).append(true).read(true).open(ledger)? })
    }

    /// All charges, of any service.
    fn charges(&mut self) -> io::Result<Vec<Charge>> {
        self.ledger.rewind()?;
        let lines = io::read_to_string(&self.ledger)?;
        Ok(lines.lines().map(serde_json::from_str).collect::<serde_json::Result<_>>()?)
    }

    fn charge(&mut self, reference: String, payment: Payment) -> io::Result<Charge> {
        let Payment { amount, currency } = payment;
        let number = self.charges()?.len() + 1;
        let charge = Charge { id: format!("ch_{number}"), reference, amount, currency };
        writeln!(self.ledger, "{}", serde_json::to_string(&charge)?)?;
        self.ledger.sync_all()?;
        Ok(charge)
    }

    fn find(&mut self, reference: &str) -> io::Result<Option<Charge>> {
        Ok(self.charges()?.into_iter().find(|charge| charge.reference == reference))
    }
}

fn ledger(folder: &Path) -> PathBuf {
    folder.join("bank.jsonl")
}

// ---- The faults ----

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Fault {
    Drop,
    Slow,
    Lost,
    Crash,
    Full,
    None,
}

/// In the extensions of a response that the client does not get.
#[derive(Clone)]
struct Dropped;

async fn set_fault(
    State(shared): State<Shared>,
    extract::Path(fault): extract::Path<Fault>,
) -> std::result::Result<String, (StatusCode, String)> {
    let mut disk = shared.disk.lock().await;
    let set = match fault {
        Fault::Full => disk.fill().await,
        Fault::None => disk.free().await,
        Fault::Drop | Fault::Slow | Fault::Lost | Fault::Crash => Ok(()),
    };
    set.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")))?;
    *shared.fault.lock().await = Some(fault);
    Ok(format!("the next charge meets: {fault:?}\n"))
}

/// The disk under the engine.
struct Disk {
    engine: Engine,
    /// The scope of the other requests, once it was declared.
    scope: Option<Scope>,
    others: Vec<Claim>,
}

impl Disk {
    /// No file of this process can grow any more, and other requests take the room that the log
    /// still has.
    async fn fill(&mut self) -> Result<()> {
        let log_bytes = self.engine.stats().log_bytes;
        if log_bytes == 0 {
            return Err("a shared store is on the disk of its server".into());
        }
        if self.scope.is_none() {
            // A service that was stopped while its disk was full left these keys interrupted.
            let again = self.engine.policy().recovery(Recovery::Rerun);
            self.scope = Some(self.engine.set_policy_async("others", again).await?);
        }
        let Some(others) = &self.scope else { unreachable!("it was just declared") };
        limit_files(&log_bytes.to_string())?;
        loop {
            match others.begin_async(self.others.len().to_string(), Fingerprint::of("")).await {
                Ok(Begin::Fresh(claim)) => self.others.push(claim),
                Ok(other) => return Err(format!("this key is of the switch alone: {other:?}").into()),
                Err(full) if full.is_retryable() => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn free(&mut self) -> Result<()> {
        limit_files("unlimited")?;
        // The last one first: their keys are their places.
        while let Some(claim) = self.others.pop() {
            if let Err(error) = claim.release_async().await {
                let reason = error.reason().clone();
                self.others.extend(error.into_claim());
                return Err(reason.into());
            }
        }
        Ok(())
    }
}

/// Limits how long this process can make a file. A longer one is refused with an error, which the
/// engine takes for a full disk.
#[cfg(unix)]
fn limit_files(bytes: &str) -> Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    const SIGXFSZ: i32 = 25;
    // Where nobody handles it, it ends the process.
    drop(signal(SignalKind::from_raw(SIGXFSZ))?);
    let pid = std::process::id().to_string();
    let status = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={bytes}:")]).status()?;
    ensure(status.success(), "prlimit (of util-linux) limits the files of this process")
}

#[cfg(not(unix))]
fn limit_files(_: &str) -> Result<()> {
    Err("only Unix can limit the files of a process".into())
}

impl Shared {
    async fn meet_fault(
        &self,
        mut response: Response<String>,
    ) -> std::result::Result<Response<String>, BankError> {
        let fault = self.fault.lock().await.take();
        match fault {
            // A full disk was found at the begin.
            None | Some(Fault::Full | Fault::None) => {}
            Some(Fault::Drop) => drop(response.extensions_mut().insert(Dropped)),
            Some(Fault::Slow) => sleep(SLOW).await,
            Some(Fault::Lost) => return Err(BankError(io::ErrorKind::TimedOut.into())),
            Some(Fault::Crash) => std::process::abort(),
        }
        Ok(response)
    }
}

/// Tells of each answer, or closes the connection in its place.
async fn hang_up(request: extract::Request, next: Next) -> axum::response::Response {
    let asked = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    if response.extensions().get::<Dropped>().is_some() {
        println!("  service: {asked}: drops the connection");
        std::panic::resume_unwind(Box::new("ends the task of this connection"));
    }
    let replayed = if response.extensions().get::<Replayed>().is_some() { ", replayed" } else { "" };
    let problem = response.extensions().get::<Problem>();
    let cause = problem.and_then(Problem::cause).map(|cause| format!(": {cause}")).unwrap_or_default();
    println!("  service: {asked}: {}{replayed}{cause}", response.status());
    response
}

// ---- Each fault in turn ----

async fn show_all() -> Result<()> {
    let folder = env::temp_dir().join(format!("idemkv-payments-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let shown = show_each(&folder).await;
    fs::remove_dir_all(&folder)?;
    shown
}

async fn show_each(folder: &Path) -> Result<()> {
    println!("The connection is dropped after the charge.");
    let service = Service::start(Engine::open(folder.join("payments.idem"))?, folder).await?;
    meet(service.address, "drop").await?;
    pay(service.address, "order-1", 1_000).await?;
    check(service.address, "order-1", 1_000, folder).await?;

    println!("The charge takes longer than the client waits.");
    meet(service.address, "slow").await?;
    pay(service.address, "order-2", 2_000).await?;
    check(service.address, "order-2", 2_000, folder).await?;
    service.stop().await?;

    println!("The process crashes after the charge, and is started again.");
    show_crash(folder).await?;
    println!("The disk is full before the charge.");
    show_full_disk(folder).await?;

    let charges = Bank::open(&ledger(folder))?.charges()?.len();
    println!("4 payments, {charges} charges: each payment was charged exactly once.");
    Ok(())
}

async fn show_crash(folder: &Path) -> Result<()> {
    let (mut service, address) = ServiceProcess::start("127.0.0.1:0".parse()?, folder).await?;
    meet(address, "crash").await?;
    let paying = tokio::spawn(async move { pay(address, "order-3", 3_000).await });
    spawn_blocking(move || service.0.wait()).await??;
    println!("  service: its process is gone");
    let (service, address) = ServiceProcess::start(address, folder).await?;
    paying.await??;
    check(address, "order-3", 3_000, folder).await?;
    drop(service);
    Ok(())
}

async fn show_full_disk(folder: &Path) -> Result<()> {
    let (service, address) = ServiceProcess::start("127.0.0.1:0".parse()?, folder).await?;
    refuse_on_full_disk(address, folder).await?;
    drop(service);
    println!("  service: it is stopped, and started again");
    let (service, address) = ServiceProcess::start(address, folder).await?;
    refuse_on_full_disk(address, folder).await?;

    meet(address, "none").await?;
    println!("  the disk has room again");
    pay(address, "order-4", 4_000).await?;
    check(address, "order-4", 4_000, folder).await?;
    drop(service);
    Ok(())
}

async fn refuse_on_full_disk(address: SocketAddr, folder: &Path) -> Result<()> {
    meet(address, "full").await?;
    let refused = post(address, "order-4", 4_000).await?;
    println!("  client: {}", told(&refused));
    ensure(refused.headers().contains_key(RETRY_AFTER), "a full disk is over some time")?;
    let charges = Bank::open(&ledger(folder))?.charges()?.len();
    ensure(charges == 3, "nothing is charged that can't be remembered")
}

/// Whether a payment has one charge, and a retry gets just that.
async fn check(address: SocketAddr, key: &str, amount: u64, folder: &Path) -> Result<()> {
    let retry = post(address, key, amount).await?;
    ensure(retry.headers().contains_key("idempotent-replayed"), "a retry is a replay")?;
    let charges = Bank::open(&ledger(folder))?.charges()?;
    let made: Vec<_> = charges.iter().filter(|charge| charge.amount == amount).collect();
    println!("  bank: {} charge of {amount}\n", made.len());
    ensure(matches!(made[..], [charge] if *retry.body() == *receipt(charge).body()), "one charge, replayed")
}

fn ensure(holds: bool, what: &str) -> Result<()> {
    if holds { Ok(()) } else { Err(format!("this must hold, and does not: {what}").into()) }
}

/// Sets the switch.
async fn meet(address: SocketAddr, fault: &str) -> Result<()> {
    let request = Request::put(format!("/fault/{fault}")).header(HOST, address.to_string());
    let answer = send(address, request.body(String::new())?).await?;
    ensure(answer.status().is_success(), answer.body())
}

/// A service in this process.
struct Service {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<()>>,
}

impl Service {
    async fn start(engine: Engine, folder: &Path) -> Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let bank = Bank::open(&ledger(folder))?;
        let serving = tokio::spawn(serve(engine, bank, listener, async { drop(stopped.await) }));
        Ok(Self { address, stop, serving })
    }

    async fn stop(self) -> Result<()> {
        drop(self.stop);
        self.serving.await?
    }
}

/// A service in a process of its own.
struct ServiceProcess(Child);

impl ServiceProcess {
    async fn start(address: SocketAddr, folder: &Path) -> Result<(Self, SocketAddr)> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("--serve").arg(address.to_string()).arg(folder);
        let mut child = Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?);
        let mut lines = child.0.stdout.take().map(BufReader::new).into_iter().flat_map(BufReader::lines);
        let (address, told) = oneshot::channel();
        let mut address = Some(address);
        spawn_blocking(move || {
            for line in lines.by_ref().map_while(io::Result::ok) {
                println!("{line}");
                if let Some(at) = line.strip_prefix("  service: listens on http://") {
                    address.take().map(|address| address.send(at.parse()));
                }
            }
        });
        Ok((child, told.await??))
    }
}

impl Drop for ServiceProcess {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
