//! The service: what becomes of one request.

use std::error::Error;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use http_body_util::LengthLimitError;
use tokio::sync::oneshot;
use tower_service::Service;

use super::body::{LayerBody, Read, Whole, read};
use super::claim::SlotOwner;
use super::client_uri::RoutedUri;
use super::key::composed;
use super::problem::Fault;
use super::problem_kind::ProblemKind;
use super::refusal::{IN_FLIGHT, of_begin};
use super::reply::Reply;
use super::run::{Ran, Run};
use super::run_attempt::RunAttempt;
use super::runs::RunSpan;
use super::scope_source::tenant;
use super::shared::Shared;
use crate::clock::Stopwatch;
use crate::{Begin, BeginError, Claim, Fingerprint, Scope, Waited};

/// What a begin came to.
type Begun = Result<Begin, BeginError>;

/// What an [`IdempotencyLayer`](super::IdempotencyLayer) makes of an inner service: a service that
/// runs a request with a key once.
#[derive(Clone)]
pub struct Idempotency<S> {
    pub(super) inner: S,
    pub(super) layer: Arc<Shared>,
}

/// The answer of an [`Idempotency`] service, on its way.
#[must_use = "a request is not served before this was awaited"]
pub struct ResponseFuture<B: Body, E>(Pin<Box<dyn Future<Output = Answered<B, E>> + Send>>);

type Answered<B, E> = Result<Response<LayerBody<B>>, E>;

impl<B: Body, E> Future for ResponseFuture<B, E> {
    type Output = Answered<B, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(context)
    }
}

impl<B: Body, E> fmt::Debug for ResponseFuture<B, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for Idempotency<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotency").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for Idempotency<S>
where
    S: Service<Request<LayerBody<ReqBody>>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Body<Data = Bytes> + Send + 'static,
    ReqBody::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Send,
{
    type Response = Response<LayerBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<ResBody, S::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        // The one that is ready serves this request; its clone is asked anew whether it is ready.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        ResponseFuture(Box::pin(serve(inner, Arc::clone(&self.layer), request)))
    }
}

/// A request that was read, with its key.
struct Keyed {
    scope: Scope,
    key: String,
    /// Tenant and key, as the engine knows them.
    name: Vec<u8>,
    fingerprint: Fingerprint,
    parts: Parts,
    body: Whole,
}

/// What a request comes to before the engine is asked.
enum Prepared<ReqBody: Body> {
    Keyed(Keyed),
    /// It needs no key and has none.
    Passing(Request<LayerBody<ReqBody>>),
}

/// Answers one request.
async fn serve<S, ReqBody, ResBody>(
    mut inner: S,
    layer: Arc<Shared>,
    request: Request<ReqBody>,
) -> Answered<ResBody, S::Error>
where
    S: Service<Request<LayerBody<ReqBody>>, Response = Response<ResBody>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    ReqBody: Body<Data = Bytes> + Send + 'static,
    ReqBody::Error: Into<Box<dyn Error + Send + Sync>> + Send,
    ResBody: Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Send,
{
    let served = match layer.prepare(request).await {
        Ok(Prepared::Passing(request)) => {
            return inner.call(request).await.map(|response| response.map(LayerBody::passing));
        }
        Ok(Prepared::Keyed(keyed)) => layer.serve_keyed(inner, keyed).await?,
        Err(fault) => Err(fault),
    };
    Ok(served.unwrap_or_else(|fault| layer.config.answers.answer(fault).map(LayerBody::bytes)))
}

impl Shared {
    /// All that is done before the engine is asked. Of a client that hangs up meanwhile nothing is
    /// left.
    async fn prepare<ReqBody>(&self, request: Request<ReqBody>) -> Result<Prepared<ReqBody>, Fault>
    where
        ReqBody: Body<Data = Bytes>,
        ReqBody::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let config = &self.config;
        let pass = |request: Request<ReqBody>| Ok(Prepared::Passing(request.map(LayerBody::passing)));
        if !config.methods.contains(request.method()) {
            return pass(request);
        }
        let key = config.keys.in_header(request.headers())?;
        if key.is_none() && config.keys.is_in_header() {
            if config.is_required {
                return Err(missing());
            }
            if config.verify.is_none() {
                return pass(request);
            }
        }
        let (mut parts, body) = request.into_parts();
        let routed = RoutedUri::exchange(&mut parts);
        let scope = self.scope.scope(&self.engine, &parts)?;
        let tenant = tenant(config.tenant_of.as_ref(), &parts)?;
        let body = whole(body, config.request_bytes_max).await?;
        if config.verify.as_ref().is_some_and(|verify| !verify(&parts, &body.data)) {
            let detail = "The request is not signed, or not as it came, or was signed too long ago.";
            return Err(Fault::new(ProblemKind::NotVerified, detail));
        }
        let found = if key.is_some() { key } else { config.keys.in_request(&parts, &body.data)? };
        let Some(key) = found else {
            routed.put_back(&mut parts);
            let request = Request::from_parts(parts, LayerBody::whole(body));
            return if config.is_required { Err(missing()) } else { Ok(Prepared::Passing(request)) };
        };
        let fingerprint = config.fingerprint.of_request(&parts, routed.rewritten(&parts.uri), &body.data);
        routed.put_back(&mut parts);
        let name = composed(tenant.as_deref(), &key).into_owned();
        Ok(Prepared::Keyed(Keyed { scope, key, name, fingerprint, parts, body }))
    }

    /// Begins. Gives the inner service back, which is ready if there is a claim.
    ///
    /// A duplicate that waits has no place in the inner service, and gets one before it can get a
    /// claim: a claim would wait for its place for as long as the service is busy.
    async fn begin<S, Asked>(&self, keyed: &Keyed, mut inner: S) -> Result<(Begun, S), S::Error>
    where
        S: Service<Asked> + Clone,
    {
        let Keyed { scope, name, fingerprint, .. } = keyed;
        let mut left = self.config.wait;
        loop {
            let begun = scope.begin_async(name, *fingerprint).await;
            let Ok(Begin::InFlight(pending)) = begun else { return Ok((begun, inner)) };
            if left.is_zero() {
                return Ok((Ok(Begin::InFlight(pending)), inner));
            }
            let mut unready = inner.clone();
            drop(inner);
            let waiting = Stopwatch::start();
            let begun = match pending.wait_timeout_async(left).await {
                Ok(Waited::Vacant | Waited::Interrupted) => {
                    left = left.saturating_sub(waiting.elapsed());
                    poll_fn(|context| unready.poll_ready(context)).await?;
                    inner = unready;
                    continue;
                }
                Ok(Waited::Done(record)) => Ok(Begin::Done(record)),
                Ok(Waited::TimedOut) => Ok(Begin::InFlight(pending)),
                Err(error) => Err(error),
            };
            return Ok((begun, unready));
        }
    }

    async fn serve_keyed<S, ReqBody, ResBody>(
        self: &Arc<Self>,
        inner: S,
        keyed: Keyed,
    ) -> Ran<ResBody, S::Error>
    where
        S: Service<Request<LayerBody<ReqBody>>, Response = Response<ResBody>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Send + 'static,
        ReqBody: Body<Data = Bytes> + Send + 'static,
        ReqBody::Error: Send,
        ResBody: Body<Data = Bytes> + Send + 'static,
        ResBody::Error: Send,
    {
        let Some(spawner) = self.spawner.ready() else {
            let detail = "The service has no runtime for its operations.";
            return Ok(Err(Fault::new(ProblemKind::Misconfigured, detail)));
        };
        let (begun, inner) = self.begin(&keyed, inner).await?;
        let claim = match begun {
            Ok(Begin::Fresh(claim)) => claim,
            Ok(Begin::InFlight(_pending)) => return Ok(Err(Fault::new(ProblemKind::InFlight, IN_FLIGHT))),
            Ok(Begin::Done(record)) => {
                let reply = Reply { key: keyed.key, fingerprint: keyed.fingerprint };
                return Ok(reply.replay(&self.config, &record));
            }
            Err(error) => return Ok(Err(of_begin(error))),
        };
        // From here to the run's being the executor's there is no point at which this can be
        // dropped.
        let (client, awaited) = oneshot::channel();
        let (attempt, within) = (RunAttempt::of(&claim, &keyed.scope), RunSpan::of(&claim));
        let run = self.run(inner, keyed, claim, attempt, client);
        let slot = run.slot.slot.clone();
        spawner.spawn(run.carry_out(), within);
        awaited.await.unwrap_or_else(|_lost| Ok(Err(attempt.dropped(slot.has_begun()))))
    }

    fn run<S, ReqBody: Body<Data = Bytes>, ResBody: Body, E>(
        self: &Arc<Self>,
        inner: S,
        keyed: Keyed,
        claim: Claim,
        attempt: RunAttempt,
        client: oneshot::Sender<Ran<ResBody, E>>,
    ) -> Run<S, ReqBody, ResBody, E> {
        let reply = Reply { key: keyed.key, fingerprint: keyed.fingerprint };
        let slot = SlotOwner::new(claim, self.config.never_store());
        let mut request = Request::from_parts(keyed.parts, LayerBody::whole(keyed.body));
        request.extensions_mut().insert(slot.slot.clone());
        Run { slot, inner, request, layer: Arc::clone(self), reply, attempt, mark: self.runs.enter(), client }
    }
}

fn missing() -> Fault {
    Fault::new(
        ProblemKind::KeyMissing,
        "This operation requires an idempotency key. Send one, and the same with each retry.",
    )
}

/// Reads the body of a request.
async fn whole<B>(body: B, limit: usize) -> Result<Whole, Fault>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let too_large =
        || Fault::new(ProblemKind::BodyTooLarge, format!("The body has more than {limit} bytes."));
    match read(body, limit).await {
        Read::Whole(whole) => Ok(whole),
        Read::TooLong(_) => Err(too_large()),
        Read::Failed(_, error) => {
            // A limit of a layer around this one.
            if is_limit(&*error.into()) {
                return Err(Fault::new(
                    ProblemKind::BodyTooLarge,
                    "The body is longer than the service takes.",
                ));
            }
            Err(Fault::new(ProblemKind::BodyUnreadable, "The body ended early, or could not be read."))
        }
    }
}

fn is_limit(error: &(dyn Error + 'static)) -> bool {
    error.is::<LengthLimitError>() || error.source().is_some_and(is_limit)
}
