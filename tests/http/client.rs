//! A service with the layer in process, and a client of it.

use std::convert::Infallible;
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use idemkv::http::{IdempotencyLayer, LayerBody, Problem, ProblemKind, Replayed};
use idemkv::{Engine, Options};
use tokio::sync::Semaphore;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt, service_fn};

pub const KEY: &str = "8e03978e-40d5-43e8-bc93-6894a57f9324";

pub type BoxError = Box<dyn Error + Send + Sync>;
pub type Body = UnsyncBoxBody<Bytes, BoxError>;
pub type Seen = Request<LayerBody<Full<Bytes>>>;
type Service = BoxCloneSyncService<Request<Full<Bytes>>, Response<LayerBody<Body>>, Refused>;

/// The error of the inner service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub &'static str);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Error for Refused {}

/// An engine in a folder of its own.
pub struct Home {
    pub engine: Engine,
    _dir: tempfile::TempDir,
}

pub fn home() -> Home {
    home_with(Engine::options())
}

pub fn home_with(options: Options) -> Home {
    let dir = tempfile::tempdir().unwrap();
    Home { engine: options.open(dir.path().join("x.idem")).unwrap(), _dir: dir }
}

impl Home {
    pub fn layer(&self) -> IdempotencyLayer {
        IdempotencyLayer::new(&self.engine, "charges")
    }
}

/// A service, and how often its handler began.
#[derive(Clone)]
pub struct Client {
    service: Service,
    pub runs: Arc<AtomicUsize>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub extensions: Extensions,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
    /// The body ended with an error.
    pub is_broken: bool,
}

pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

pub fn reply(status: u16, body: &'static str) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

/// A client of a service that always answers so.
pub fn client(layer: &IdempotencyLayer, status: u16, body: &'static str) -> Client {
    serving(layer, move |_request| async move { Ok(reply(status, body)) })
}

/// A client of a handler that waits behind a gate, and then makes what was asked for.
pub fn gated(layer: &IdempotencyLayer) -> (Client, Gate) {
    let gate = Gate::new();
    let handlers = gate.clone();
    let client = serving(layer, move |_| {
        let gate = handlers.clone();
        async move {
            gate.pass().await;
            Ok(reply(201, "made"))
        }
    });
    (client, gate)
}

/// A client of a service with this handler.
pub fn serving<H, F>(layer: &IdempotencyLayer, handler: H) -> Client
where
    H: Fn(Seen) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Body>, Refused>> + Send + 'static,
{
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let inner = service_fn(move |request: Seen| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(handler(request)) as Pin<Box<dyn Future<Output = _> + Send>>
    });
    Client { service: BoxCloneSyncService::new(layer.layer(inner)), runs }
}

impl Client {
    pub fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }

    /// The future of an answer, which does nothing yet.
    pub fn ask(
        &self,
        request: Request<Full<Bytes>>,
    ) -> impl Future<Output = Result<Answer, Refused>> + use<> {
        let service = self.service.clone();
        async move {
            let (head, body) = service.oneshot(request).await?.into_parts();
            let (body, trailers, is_broken) = read(body).await;
            let (status, headers, extensions) = (head.status, head.headers, head.extensions);
            Ok(Answer { status, headers, extensions, body, trailers, is_broken })
        }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        self.ask(request).await.unwrap()
    }

    /// A POST with this key.
    pub async fn post(&self, key: &str, body: &str) -> Answer {
        self.send(post(key, body)).await
    }
}

async fn read(mut body: LayerBody<Body>) -> (Bytes, Option<HeaderMap>, bool) {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return (data.into(), trailers, true) };
        match frame.into_data() {
            Ok(piece) => data.extend(piece),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    (data.into(), trailers, false)
}

pub fn post(key: &str, body: &str) -> Request<Full<Bytes>> {
    request("POST", "/v1/charges", &[("idempotency-key", key), ("content-type", "text/plain")], body)
}

pub fn request(method: &str, uri: &str, headers: &[(&str, &str)], body: &str) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::from(body.to_owned())).unwrap()
}

impl Answer {
    pub fn is_replay(&self) -> bool {
        self.extensions.get::<Replayed>().is_some()
    }

    pub fn problem(&self) -> Option<ProblemKind> {
        self.extensions.get::<Problem>().map(Problem::kind)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Whether it tells clients not to send the request again.
    pub fn forbids_retries(&self) -> bool {
        let forbids = |name| self.header(name) == Some("false");
        assert_eq!(forbids("stripe-should-retry"), forbids("x-should-retry"));
        forbids("x-should-retry")
    }
}

/// Where handlers wait until the test lets them go on.
#[derive(Clone)]
pub struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub fn new() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// The handler's side.
    pub async fn pass(&self) {
        self.reached.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }

    /// Waits until a handler is here.
    pub async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    /// Lets one handler pass.
    pub fn open(&self) {
        self.open.add_permits(1);
    }
}
