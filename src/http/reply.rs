//! Replies from stored responses, and what the layer adds to responses.

use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap};
use http::response;
use http_body::Body;

use super::body::LayerBody;
use super::config::Config;
use super::headers::Unstored;
use super::problem::{Fault, KeptHead, forbid_retries, invites_retries};
use super::problem_kind::ProblemKind;
use super::stored::decode;
use crate::{Fingerprint, Record, Timestamp};

/// In the extensions of a response that was replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed(());

/// The request that replies are for.
#[derive(Debug)]
pub(super) struct Reply {
    /// As the client sent it.
    pub(super) key: String,
    pub(super) fingerprint: Fingerprint,
}

impl Reply {
    /// The stored response, for a client that asks again.
    pub(super) fn replay<B: Body<Data = Bytes>>(
        &self,
        config: &Config,
        record: &Record,
    ) -> Result<Response<LayerBody<B>>, Fault> {
        let (mut head, body) = from_record(record)?.into_parts();
        self.mark(config, true, record.started(), &mut head);
        let mut response = Response::from_parts(head, body);
        response.extensions_mut().insert(Replayed(()));
        Ok(response)
    }

    /// The stored response, for the client whose request ran, with those headers of the handler's
    /// answer that are never stored.
    pub(super) fn first<B: Body<Data = Bytes>>(
        &self,
        config: &Config,
        record: &Record,
        answered: &HeaderMap,
    ) -> Result<Response<LayerBody<B>>, Fault> {
        let (mut head, body) = from_record(record)?.into_parts();
        add_unstored(&mut head.headers, config, answered);
        self.mark_first(config, record.started(), &mut head);
        Ok(Response::from_parts(head, body))
    }

    /// A response of the run that began then, of which nothing is stored: a retry may get another.
    pub(super) fn not_kept<B: Body<Data = Bytes>>(
        &self,
        config: &Config,
        started: Timestamp,
        response: Response<B>,
    ) -> Response<LayerBody<B>> {
        let mut response = response.map(LayerBody::passing);
        config.marks.put(response.headers_mut(), false, &self.key, started);
        response
    }

    /// A response that was just stored, of the run that began then.
    pub(super) fn mark_first(&self, config: &Config, started: Timestamp, head: &mut response::Parts) {
        self.mark(config, false, started, head);
    }

    fn mark(&self, config: &Config, is_replay: bool, started: Timestamp, head: &mut response::Parts) {
        // It is stored, so every retry gets it again.
        if invites_retries(head.status) {
            forbid_retries(&mut head.headers);
        }
        config.marks.put(&mut head.headers, is_replay, &self.key, started);
    }
}

/// Adds what is for this reply alone, but not how the body is framed: the body is the stored one.
fn add_unstored(headers: &mut HeaderMap, config: &Config, answered: &HeaderMap) {
    let never_store = config.never_store();
    let unstored = Unstored::of(answered, &never_store);
    let stored = headers.clone();
    for (name, value) in answered {
        let frames = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name);
        if unstored.has(name) && !frames && !stored.contains_key(name) {
            // As many as there is room for.
            headers.try_append(name.clone(), value.clone()).ok();
        }
    }
}

/// The response in a record.
fn from_record<B: Body<Data = Bytes>>(record: &Record) -> Result<Response<LayerBody<B>>, Fault> {
    const NOT_KEPT: &str = "The operation has run, and its response was not kept. Look for its effect.";
    let not_kept = || Fault::new(ProblemKind::ResultNotKept, NOT_KEPT);
    if !record.is_body_kept() {
        return Err(not_kept());
    }
    let Some(stored) = decode(record) else {
        let detail = "The stored response is of a form that this version of the service can't read.";
        return Err(Fault::new(ProblemKind::RecordUnreadable, detail));
    };
    let Some(whole) = stored.body else {
        let location = stored.headers.get(header::LOCATION).cloned();
        return Err(not_kept().with_head(KeptHead { status: stored.status, location }));
    };
    let mut response = Response::new(LayerBody::whole(whole));
    *response.status_mut() = stored.status;
    *response.headers_mut() = stored.headers;
    Ok(response)
}
