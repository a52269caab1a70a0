//! The layer: what a service says of its idempotent routes.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use tower_layer::Layer;

use super::config::Config;
use super::fingerprint::RequestFingerprint;
use super::keep::Keep;
use super::key::KeySource;
use super::problem::Problem;
use super::problem_kind::ProblemKind;
use super::runs::{DetachedRun, Runs, Spawner};
use super::scope_source::ScopeSource;
use super::service::Idempotency;
use super::shared::Shared;
use crate::Engine;

/// A tower layer that runs a handler once for each idempotency key, and gives retries the stored
/// response.
///
/// Made with the name of a [scope](crate::Scope), such as the route's. Every option has a default
/// that is safe; each returns the layer. Clones are cheap, and share the count of
/// [runs](Self::running).
///
/// ```
/// use std::convert::Infallible;
///
/// use bytes::Bytes;
/// use http::{Request, Response};
/// use http_body_util::{BodyExt, Full};
/// use idemkv::Engine;
/// use idemkv::http::{IdempotencyLayer, LayerBody};
/// use tower::{Layer, ServiceExt, service_fn};
///
/// type Asked = Request<LayerBody<Full<Bytes>>>;
///
/// async fn charge(_: Asked) -> Result<Response<Full<Bytes>>, Infallible> {
///     Ok(Response::new(Full::from("charged")))
/// }
///
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("x.idem");
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let engine = Engine::open(path)?;
/// let service = IdempotencyLayer::new(&engine, "POST /v1/charges").layer(service_fn(charge));
///
/// let request = || {
///     let request = Request::post("/v1/charges").header("Idempotency-Key", "\"7\"");
///     request.body(Full::from("amount=10"))
/// };
/// let first = service.clone().oneshot(request()?).await?;
/// let retry = service.oneshot(request()?).await?; // the handler does not run
/// assert!(!first.headers().contains_key("idempotent-replayed"));
/// assert_eq!(retry.headers()["idempotent-replayed"], "true");
/// assert_eq!(retry.into_body().collect().await?.to_bytes(), "charged");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[must_use = "a layer does nothing until it is put around a service"]
pub struct IdempotencyLayer {
    shared: Arc<Shared>,
}

/// Where keys, scopes and tenants come from.
impl IdempotencyLayer {
    fn of(engine: &Engine, scope: ScopeSource) -> Self {
        let (config, spawner, runs) = (Config::default(), Spawner::default(), Runs::default());
        Self { shared: Arc::new(Shared { engine: engine.clone(), scope, config, spawner, runs }) }
    }

    /// A layer whose keys are in this scope.
    pub fn new(engine: &Engine, scope: impl AsRef<[u8]>) -> Self {
        Self::of(engine, ScopeSource::Fixed(engine.scope(scope)))
    }

    /// A layer for several routes: a function names the scope of each request. If it names none,
    /// the request gets [`Misconfigured`](ProblemKind::Misconfigured).
    ///
    /// Give few names: a scope is a route, not a resource or a client. A raw path is not a good
    /// name.
    pub fn scope_by(
        engine: &Engine,
        scope: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        Self::of(engine, ScopeSource::Function(Arc::new(scope)))
    }

    /// The same layer for another route: another scope, all options as they are.
    pub fn scope(&self, scope: impl AsRef<[u8]>) -> Self {
        let scope = ScopeSource::Fixed(self.shared.engine.scope(scope));
        Self { shared: Arc::new(Shared { scope, ..Shared::clone(&self.shared) }) }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut Arc::make_mut(&mut self.shared).config);
        self
    }

    /// Serves requests without a key too: they pass through. By default they get
    /// [`KeyMissing`](ProblemKind::KeyMissing).
    ///
    /// Keys may come unasked: some browsers send them by themselves.
    pub fn optional(self) -> Self {
        self.with(|config| config.is_required = false)
    }

    /// Requires a key again, after [`optional`](Self::optional) or a preset in which keys are
    /// optional.
    pub fn required(self) -> Self {
        self.with(|config| config.is_required = true)
    }

    /// The methods whose requests need keys. Default POST and PATCH. Requests with other methods
    /// pass through, and so do those with safe methods, even if named here.
    pub fn methods(self, methods: impl IntoIterator<Item = Method>) -> Self {
        let methods = methods.into_iter().filter(|method| !method.is_safe()).collect();
        self.with(|config| config.methods = methods)
    }

    /// The header that has the key. Default `Idempotency-Key`.
    pub fn key_header(self, name: HeaderName) -> Self {
        self.with(|config| config.keys.source = KeySource::Header(name))
    }

    /// A key from anywhere in the request, its body included. `None` is a request without a key.
    /// Do not derive keys from the payload: two payments of one amount are two payments.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let layer = IdempotencyLayer::new(&engine, "payments").key_from(|_parts, body| {
    ///     let body: serde_json::Value = serde_json::from_slice(body).ok()?;
    ///     Some(body.get("idempotency_key")?.as_str()?.to_owned())
    /// });
    /// # drop(layer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn key_from(self, key: impl Fn(&Parts, &[u8]) -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|config| config.keys.source = KeySource::Function(Arc::new(key)))
    }

    /// Accepts only RFC 9651 Strings as keys in the header, as the draft has it. By default bare
    /// keys are accepted too, because all known clients send those.
    pub fn strict(self) -> Self {
        self.with(|config| config.keys.is_strict = true)
    }

    /// A format that keys must have, such as [`is_uuid`](super::is_uuid). Default any, up to 255
    /// bytes.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let layer = IdempotencyLayer::new(&engine, "POST /v1/charges").check_key(|key| {
    ///     (16..=64).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    /// });
    /// # drop(layer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check_key(self, check: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.keys.check = Some(Arc::new(check)))
    }

    /// Names the tenant of a request. The keys of two tenants never collide. If the function gives
    /// `None`, the request gets [`TenantMissing`](ProblemKind::TenantMissing). Default no tenants:
    /// all clients share the keys of a scope.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// #[derive(Clone)]
    /// struct Account(String); // put into the extensions by the authentication in front
    ///
    /// let layer = IdempotencyLayer::new(&engine, "POST /v1/charges")
    ///     .tenant(|parts| parts.extensions.get::<Account>().map(|account| account.0.clone()));
    /// # drop(layer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn tenant(self, tenant: impl Fn(&Parts) -> Option<String> + Send + Sync + 'static) -> Self {
        self.with(|config| config.tenant_of = Some(Arc::new(tenant)))
    }

    /// Checks whether a request is what its sender signed. The function is called with head and
    /// body before the key is looked up, so a forged request neither learns what a key stands for
    /// nor takes it. A request for which the function gives `false` gets
    /// [`NotVerified`](ProblemKind::NotVerified). Default: no check.
    ///
    /// Requests without a key are checked too, where keys are [optional](Self::optional). Requests
    /// with methods that the layer [lets pass](Self::methods) are not.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # fn is_signed(_signature: &[u8], _body: &[u8]) -> bool { true }
    /// let layer = IdempotencyLayer::new(&engine, "events").verify(|parts, body| {
    ///     // `is_signed` compares in constant time.
    ///     parts.headers.get("x-hub-signature-256").is_some_and(|signature| is_signed(signature.as_bytes(), body))
    /// });
    /// # drop(layer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn verify(self, check: impl Fn(&Parts, &[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.with(|config| config.verify = Some(Arc::new(check)))
    }

    /// Which parts of a request count. Default [`RequestFingerprint::new`].
    pub fn fingerprint(self, fingerprint: RequestFingerprint) -> Self {
        self.with(|config| config.fingerprint = fingerprint)
    }

    /// The longest body of a request with a key. It is read before the handler runs. Default 2
    /// MiB.
    pub fn max_request_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.request_bytes_max = bytes)
    }
}

/// What is kept of responses.
impl IdempotencyLayer {
    /// What is kept of a response that has no [`Keep`] in its extensions, by its status. Default
    /// every response but a time-out: after 408 and 504 the outcome is [unknown](Keep::unknown).
    ///
    /// A rule replaces the default one. Name in it every status that a layer behind this one gives
    /// when it drops a handler. A 500 of a layer that catches panics needs no rule if the handler
    /// had taken its claim.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::{IdempotencyLayer, Keep};
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// // This service answers 400 only before it has begun.
    /// let layer = IdempotencyLayer::new(&engine, "POST /v1/charges");
    /// let layer = layer.keep(|status| match status.as_u16() {
    ///     400 => Keep::not_started(),
    ///     408 | 504 => Keep::unknown(),
    ///     _ => Keep::response(),
    /// });
    /// # drop(layer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn keep(self, rule: impl Fn(StatusCode) -> Keep + Send + Sync + 'static) -> Self {
        self.with(|config| config.keep_rule = Some(Arc::new(rule)))
    }

    /// The longest body that is stored. A longer one passes through: its key is done, and retries
    /// get [`ResultNotKept`](ProblemKind::ResultNotKept). Default 1 MiB; the engine's limit
    /// ([`max_body_bytes`](crate::Options::max_body_bytes)) holds for status, headers and body
    /// together.
    pub fn max_response_bytes(self, bytes: usize) -> Self {
        self.with(|config| config.response_bytes_max = bytes)
    }

    /// Also stores bodies whose length is not known beforehand, up to the limit. The response is
    /// held back until its body has ended, for the budget of [`wait_for_body`](Self::wait_for_body)
    /// at most. That is for the whole body, however steadily it comes. By default such bodies count
    /// as streams, and pass through.
    pub fn keep_streams(self) -> Self {
        self.with(|config| config.keeps_streams = true)
    }

    /// A header of responses that is not stored, besides those that [never
    /// are](super#what-is-stored).
    pub fn never_store(self, name: HeaderName) -> Self {
        self.with(|config| config.never_store.push(name))
    }

    /// What replays are marked with. Default `Idempotent-Replayed: true`.
    pub fn replay_header(self, name: HeaderName, value: HeaderValue) -> Self {
        self.with(|config| config.marks.replayed = Some((name, value)))
    }

    /// Replays are not marked.
    pub fn no_replay_header(self) -> Self {
        self.with(|config| config.marks.replayed = None)
    }

    /// The value of the same header on first replies, such as `false`. Default none.
    pub fn first_reply_value(self, value: HeaderValue) -> Self {
        self.with(|config| config.marks.first = Some(value))
    }

    /// A header of responses that repeats the key. Default none.
    pub fn echo_key(self, name: HeaderName) -> Self {
        self.with(|config| config.marks.key = Some(name))
    }

    /// A header of responses that tells when the run began, in milliseconds since 1970. Default
    /// none.
    pub fn started_header(self, name: HeaderName) -> Self {
        self.with(|config| config.marks.started = Some(name))
    }
}

/// How problems are answered.
impl IdempotencyLayer {
    /// The status of a problem, in place of its [default](ProblemKind::default_status).
    pub fn status(self, kind: ProblemKind, status: StatusCode) -> Self {
        self.with(|config| config.answers.set_status(kind, status))
    }

    /// The `Retry-After` of a problem, in whole seconds, rounded up. Default 1 second in flight
    /// and where the store is busy, 30 seconds where it failed.
    pub fn retry_after(self, kind: ProblemKind, after: Duration) -> Self {
        self.with(|config| config.answers.set_retry_after(kind, after))
    }

    /// The address of the pages that explain problems; the [code](ProblemKind::code) is appended
    /// to it. Default this crate's own pages.
    pub fn documentation(self, base: impl Into<String>) -> Self {
        self.with(|config| config.answers.set_documentation(base.into()))
    }

    /// The response to a problem, in place of problem details (RFC 9457). The layer adds
    /// `Cache-Control`, `Retry-After` and the other headers that a problem needs, unless they are
    /// set.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// let layer = IdempotencyLayer::new(&engine, "POST /v1/charges").render(|problem| {
    ///     let body = format!("<error>{}</error>", problem.kind());
    ///     let mut response = http::Response::new(body.into());
    ///     *response.status_mut() = problem.status();
    ///     response
    /// });
    /// # drop(layer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn render(self, render: impl Fn(&Problem) -> Response<Bytes> + Send + Sync + 'static) -> Self {
        self.with(|config| config.answers.renderer = Some(Arc::new(render)))
    }
}

/// Runs without their clients.
impl IdempotencyLayer {
    /// The spawner of runs. Default the tokio runtime in which the request is served. It is called
    /// where the request is served, so that it can hand on what is current there.
    ///
    /// A run that it drops interrupts its key. A run that it drops before the first poll has done
    /// nothing: its key is as it was before, and the client gets
    /// [`StoreBusy`](ProblemKind::StoreBusy). If the spawner panics, the key is as it was
    /// too, and the panic goes on.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let engine = Engine::open(dir.path().join("x.idem"))?;
    /// # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    /// let background = runtime.handle().clone(); // a runtime of its own for handlers
    /// let layer = IdempotencyLayer::new(&engine, "POST /v1/charges");
    /// let layer = layer.spawner(move |run| drop(background.spawn(run)));
    /// # drop(layer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn spawner(mut self, spawn: impl Fn(DetachedRun) + Send + Sync + 'static) -> Self {
        Arc::make_mut(&mut self.shared).spawner = Spawner::Given(Arc::new(spawn));
        self
    }

    /// Runs of this layer, its clones and those that [`scope`](Self::scope) gave, that have not
    /// ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.runs.count()
    }

    /// Waits until no run is left. Call it at the end of a service: stop accepting requests, drain,
    /// then close the engine. A claim in flight when the engine closes is interrupted.
    ///
    /// ```
    /// # use idemkv::Engine;
    /// # use idemkv::http::IdempotencyLayer;
    /// # let dir = tempfile::tempdir()?;
    /// # let path = dir.path().join("x.idem");
    /// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
    /// let engine = Engine::open(path)?;
    /// let layer = IdempotencyLayer::new(&engine, "POST /v1/charges");
    /// // .. serve, until it is enough ..
    /// layer.drain().await;
    /// assert_eq!(layer.running(), 0);
    /// engine.close_async().await?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub async fn drain(&self) {
        self.shared.runs.drained().await;
    }

    /// Headers that are not stored, besides those that never are.
    pub(super) fn headers_not_stored(&self) -> Vec<HeaderName> {
        self.shared.config.never_store()
    }
}

impl<S> Layer<S> for IdempotencyLayer {
    type Service = Idempotency<S>;

    fn layer(&self, inner: S) -> Idempotency<S> {
        Idempotency { inner, layer: Arc::clone(&self.shared) }
    }
}

/// In short.
impl fmt::Debug for IdempotencyLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdempotencyLayer")
            .field("spawner", &self.shared.spawner)
            .field("running", &self.running())
            .finish_non_exhaustive()
    }
}
