//! The run of a handler, detached from its client: the response is stored, then sent.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::sync::oneshot;
use tower_service::Service;

use super::body::{LayerBody, Read, Reading, Whole};
use super::claim::{ClaimSlot, Returned, SlotOwner};
use super::config::Config;
use super::headers::Unstored;
use super::keep::{Keep, What};
use super::problem::Fault;
use super::refusal::of_end;
use super::reply::Reply;
use super::run_attempt::RunAttempt;
use super::runs::RunMark;
use super::shared::Shared;
use super::stored::{encode, is_failure};
use crate::clock::Deadline;
use crate::{Claim, ClaimError, Completion, Ending, Record, Status};

/// What a client that still waits is told: a response, a fault, or the inner service's error.
pub(super) type Ran<B, E> = Result<Result<Response<LayerBody<B>>, Fault>, E>;

/// A run on its way to an executor. Dropped from the first to the last: a client that is told that
/// the run is lost finds the key interrupted, or as it was before if the run had not begun.
pub(super) struct Run<S, ReqBody: Body, ResBody: Body, E> {
    pub(super) slot: SlotOwner,
    pub(super) inner: S,
    pub(super) request: Request<LayerBody<ReqBody>>,
    pub(super) layer: Arc<Shared>,
    pub(super) reply: Reply,
    pub(super) attempt: RunAttempt,
    pub(super) mark: RunMark,
    pub(super) client: oneshot::Sender<Ran<ResBody, E>>,
}

impl<S, ReqBody, ResBody> Run<S, ReqBody, ResBody, S::Error>
where
    S: Service<Request<LayerBody<ReqBody>>, Response = Response<ResBody>>,
    ReqBody: Body,
    ResBody: Body<Data = Bytes>,
{
    /// Runs the handler, stores its response, and tells its client, if that still waits.
    pub(super) async fn carry_out(self) {
        // Dropped from the last to the first.
        let Self { client, mark: _mark, reply, attempt, layer, request, mut inner, slot } = self;
        // A handler that waits for its own key is told so.
        let ran = match slot.begins() {
            Some(marker) => marker.run(|| Box::pin(inner.call(request))).await,
            None => Some(inner.call(request).await),
        };
        // A forked child must not run what its parent runs.
        let Some(ran) = ran else { return };
        let ran = match ran {
            Ok(response) => Ok(settle(slot, &layer, &reply, attempt, response).await),
            Err(error) => {
                drop(slot);
                Err(error)
            }
        };
        // Where the client has gone, this is nobody's.
        drop(client.send(ran));
    }
}

/// Ends the claim as the response says; gives what the client gets.
async fn settle<B: Body<Data = Bytes>>(
    slot: SlotOwner,
    layer: &Shared,
    reply: &Reply,
    attempt: RunAttempt,
    response: Response<B>,
) -> Result<Response<LayerBody<B>>, Fault> {
    let config = &layer.config;
    let lent = slot.slot.clone();
    let claim = match slot.returned(config.claim_wait).await {
        Returned::Claim(claim) => claim,
        Returned::Stored(record) => return reply.first(config, &record, response.headers()),
        Returned::Lost(reason) => return not_stored(&reason, config, reply, attempt),
        Returned::Interrupted => return Err(attempt.lost()),
    };
    let keep = said_of(&response, config, &lent);
    match keep.what {
        What::NotStarted => {
            // If it fails the key is interrupted, or the store has failed. That nothing happened
            // is true all the same.
            drop(claim.insisting().release_async().await);
            Ok(reply.not_kept(config, attempt.started, response))
        }
        What::Unknown => {
            drop(claim);
            Ok(reply.not_kept(config, attempt.started, response))
        }
        What::Response if config.keeps_streams || response.body().size_hint().exact().is_some() => {
            let (head, body) = response.into_parts();
            let read = read_in_time(layer, &claim, body).await;
            store(claim, config, reply, attempt, keep, Response::from_parts(head, read)).await
        }
        What::Response | What::Outcome => {
            let passing = response.map(|body| Read::TooLong(LayerBody::passing(body)));
            store(claim, config, reply, attempt, keep, passing).await
        }
    }
}

/// What a response says of its operation. A failure that says nothing itself, and comes from a
/// panic of the handler, says that the outcome is unknown.
fn said_of<B>(response: &Response<B>, config: &Config, lent: &ClaimSlot) -> Keep {
    let status = response.status();
    match response.extensions().get::<Keep>() {
        Some(said) => *said,
        None if status.is_server_error() && lent.panicked() => Keep::unknown(),
        None => config.keep(status),
    }
}

/// Reads a body that is to be stored. If it does not end in time, its rest passes through: the
/// operation is done, and no client waits for ever.
async fn read_in_time<B: Body<Data = Bytes>>(layer: &Shared, claim: &Claim, body: B) -> Read<B> {
    let config = &layer.config;
    let mut reading = Reading::new(body, config.response_bytes_max);
    let reached = {
        let mut reached = pin!(reading.read_on());
        // A body that is there at once needs no deadline.
        let mut over = pin!(async {
            let budget = claim.lease_until().map_or(config.body_wait, |until| {
                // The other half is for storing the head.
                config.body_wait.min(until.saturating_since(layer.engine.now()) / 2)
            });
            claim.pending().lost(Deadline::after(budget)).await
        });
        let first = poll_fn(|context| match reached.as_mut().poll(context) {
            Poll::Ready(reached) => Poll::Ready(Some(reached)),
            Poll::Pending => over.as_mut().poll(context).map(|_| None),
        });
        first.await
    };
    reading.finish(reached)
}

/// Stores as much of a response as was read and can be stored; gives it, once that is durable.
async fn store<B: Body<Data = Bytes>>(
    claim: Claim,
    config: &Config,
    reply: &Reply,
    attempt: RunAttempt,
    keep: Keep,
    response: Response<Read<B>>,
) -> Result<Response<LayerBody<B>>, Fault> {
    let (mut head, body) = response.into_parts();
    let never_store = config.never_store();
    let unstored = Unstored::of(&head.headers, &never_store);
    let encoded =
        |whole: Option<&Whole>| encode(head.status, &head.headers, &unstored, whole.map(Into::into));
    let whole = match &body {
        Read::Whole(whole) => Some(encoded(Some(whole))),
        Read::TooLong(_) | Read::Failed(..) => None,
    };
    let completion = attempt.completion(keep);
    if let Err(reason) = end(claim, is_failure(head.status), completion, whole, encoded(None)).await {
        return not_stored(&reason, config, reply, attempt);
    }
    reply.mark_first(config, attempt.started, &mut head);
    let body = match body {
        Read::Whole(whole) => LayerBody::whole(whole),
        Read::TooLong(body) => body,
        Read::Failed(read, error) => LayerBody::broken(read, error),
    };
    Ok(Response::from_parts(head, body))
}

/// What the client gets of a run whose result could not be stored: the response that the key has
/// meanwhile, or else a problem.
fn not_stored<B: Body<Data = Bytes>>(
    reason: &ClaimError,
    config: &Config,
    reply: &Reply,
    attempt: RunAttempt,
) -> Result<Response<LayerBody<B>>, Fault> {
    if let ClaimError::Superseded(now) = reason
        && let Status::Done(record) = &**now
        && *record.fingerprint() == reply.fingerprint
    {
        return reply.replay(config, record);
    }
    Err(of_end(reason, attempt, &reply.fingerprint))
}

/// Ends the claim with the whole response. Where that can't be stored, with its head, for which
/// room was set aside nearly always; and else without a word of it.
async fn end(
    claim: Claim,
    is_failure: bool,
    completion: Completion,
    whole: Option<Vec<u8>>,
    head: Vec<u8>,
) -> Result<(), ClaimError> {
    let mut claim = claim.insisting();
    for body in whole.into_iter().chain([head]) {
        match end_with(claim, is_failure, &body, completion).await {
            Ok(_record) => return Ok(()),
            Err(error) => claim = error.for_less()?,
        }
    }
    let ended = end_with(claim, is_failure, &[], completion.discard_body()).await;
    ended.map(drop).map_err(|error| error.reason().clone())
}

fn end_with(claim: Claim, is_failure: bool, body: &[u8], completion: Completion) -> Ending<Record> {
    if is_failure {
        claim.fail_with_async(body, completion)
    } else {
        claim.complete_with_async(body, completion)
    }
}
