//! A script of requests to the HTTP layer: keys, headers, bodies, handlers that answer this or that, clients that hang up.
//!
//! Each response is from a run of the same tenant, key and request. A response that was kept comes back byte for byte. A key runs once
//! more only where the run before it said that nothing was started. Scripts share an engine, each with a tenant of its own.

#![no_main]

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use idemkv::Engine;
use idemkv::http::{ClaimSlot, IdempotencyLayer, Keep, LayerBody, Problem, RequestFingerprint};
use idemkv::sim::SimDisk;
use libfuzzer_sys::fuzz_target;
use tokio::runtime::Runtime;
use tower::{Layer, Service, ServiceExt, service_fn};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Scripts that share an engine.
const SCRIPTS_MAX: u32 = 500;
const REQUEST_BYTES_MAX: usize = 64;

#[derive(Clone)]
struct Tenant(String);

/// What a run did and said, by the number that its response has.
struct Run {
    key: Vec<u8>,
    request: (Method, String, Vec<u8>, Vec<u8>),
    answer: Answer,
    is_kept: bool,
    is_not_started: bool,
}

#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

struct Stage {
    runtime: Runtime,
    engine: Engine,
    layer: IdempotencyLayer,
    scripts: u32,
}

static STAGE: LazyLock<Mutex<Stage>> = LazyLock::new(|| Mutex::new(Stage::new()));

impl Stage {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let engine = Engine::options().disk(&SimDisk::new()).open("x.idem").unwrap();
        let layer = IdempotencyLayer::new(&engine, "fuzz")
            .optional()
            .max_request_bytes(REQUEST_BYTES_MAX)
            .max_response_bytes(48)
            .fingerprint(RequestFingerprint::new().json_key_order().query_order().multipart_boundary())
            .tenant(|parts| parts.extensions.get::<Tenant>().map(|tenant| tenant.0.clone()));
        Self { runtime, engine, layer, scripts: 0 }
    }
}

/// What is left of a script.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn bytes(&mut self, max: u8) -> &'a [u8] {
        let len = usize::from(self.byte() % max).min(self.0.len());
        let (bytes, rest) = self.0.split_at(len);
        self.0 = rest;
        bytes
    }

    fn is_over(&self) -> bool {
        self.0.is_empty()
    }
}

/// The key that a header says, where the layer takes it.
fn said(value: &[u8]) -> Vec<u8> {
    let Some(quoted) = value.trim_ascii().strip_prefix(b"\"") else { return value.trim_ascii().to_vec() };
    let mut key = Vec::new();
    let mut bytes = quoted.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => break,
            b'\\' => key.extend(bytes.next()),
            _ => key.push(*byte),
        }
    }
    key
}

fn request(script: &mut Script<'_>, tenant: &Tenant) -> Request<Full<Bytes>> {
    let methods = [Method::POST, Method::POST, Method::PATCH, Method::GET, Method::HEAD, Method::PUT];
    let method = methods[usize::from(script.byte()) % methods.len()].clone();
    let uris = ["/", "/a", "/a?x=1&y=2", "/a?y=2&x=1", "/?"];
    let uri = uris[usize::from(script.byte()) % uris.len()];
    let types = ["", "application/json", "multipart/form-data; boundary=b", "text/plain"];
    let content_type = types[usize::from(script.byte()) % types.len()];
    let mut request = Request::builder().method(method).uri(uri).body(()).unwrap();
    let headers = request.headers_mut();
    headers.insert("content-type", HeaderValue::from_static(content_type));
    for _ in 0..[1, 1, 1, 0, 2][usize::from(script.byte()) % 5] {
        if let Ok(value) = HeaderValue::from_bytes(script.bytes(12)) {
            headers.append("idempotency-key", value);
        }
    }
    request.extensions_mut().insert(tenant.clone());
    let body = Bytes::copy_from_slice(script.bytes(80));
    request.map(|_| Full::new(body))
}

/// The number of the run, and what the script says.
fn response(script: &mut Script<'_>, number: usize) -> (Response<Body>, Answer, bool) {
    let statuses = [200, 201, 204, 302, 402, 409, 429, 500, 503, 599];
    let status = StatusCode::from_u16(statuses[usize::from(script.byte()) % statuses.len()]).unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("x-run", HeaderValue::from(number));
    for _ in 0..script.byte() % 4 {
        let names = ["x-a", "set-cookie", "connection", "link", "date", "x-b"];
        let name = HeaderName::from_static(names[usize::from(script.byte()) % names.len()]);
        if let Ok(value) = HeaderValue::from_bytes(script.bytes(16)) {
            headers.append(name, value);
        }
    }
    let body = script.bytes(96).to_vec();
    let is_stream = script.byte() % 8 == 7;
    let sent = Bytes::from(body.clone());
    let sent = if is_stream {
        StreamBody::new(futures_util::stream::iter([Ok(Frame::data(sent))])).boxed_unsync()
    } else {
        Full::new(sent).boxed_unsync()
    };
    let mut response = Response::new(sent);
    (*response.status_mut(), *response.headers_mut()) = (status, headers.clone());
    (response, Answer { status, headers, body: body.clone() }, !is_stream && body.len() <= 48)
}

/// Of a kept response, what must come back.
fn without_unstored(mut answer: Answer) -> Answer {
    let named: Vec<HeaderName> = answer
        .headers
        .get_all("connection")
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        .collect();
    for name in named.iter().map(HeaderName::as_str).chain(["set-cookie", "connection", "date"]) {
        answer.headers.remove(name);
    }
    for name in ["stripe-should-retry", "x-should-retry", "idempotent-replayed"] {
        answer.headers.remove(name);
    }
    answer
}

fn play(stage: &Stage, input: &[u8]) {
    let runs: Arc<Mutex<Vec<Run>>> = Arc::default();
    let tenant = Tenant(stage.scripts.to_string());
    let mut script = Script(input);
    // By number of the run: its response was seen.
    let mut seen: HashMap<usize, Answer> = HashMap::new();
    for _ in 0..12 {
        if script.is_over() {
            break;
        }
        let request = request(&mut script, &tenant);
        let how = script.byte();
        let plan: Vec<u8> = script.bytes(64).to_vec();
        let noted = Arc::clone(&runs);
        let handler = service_fn(move |request: Request<LayerBody<Full<Bytes>>>| {
            let (noted, plan) = (Arc::clone(&noted), plan.clone());
            async move {
                let is_keyed = request.extensions().get::<ClaimSlot>().is_some();
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes().to_vec();
                tokio::task::yield_now().await;
                let mut noted = noted.lock().unwrap();
                let (mut response, answer, fits) = response(&mut Script(&plan), noted.len());
                let key =
                    parts.headers.get("idempotency-key").map_or(Vec::new(), |value| said(value.as_bytes()));
                let keep = [
                    None,
                    None,
                    None,
                    Some(Keep::not_started()),
                    Some(Keep::unknown()),
                    Some(Keep::outcome()),
                ][usize::from(how) % 6];
                if let Some(keep) = keep {
                    response.extensions_mut().insert(keep);
                }
                if is_keyed {
                    let query = parts.uri.query().unwrap_or_default();
                    let mut query: Vec<&str> = query.split('&').collect();
                    query.sort_unstable();
                    let content_type = parts.headers["content-type"].as_bytes().to_vec();
                    let request = (
                        parts.method,
                        format!("{}?{}", parts.uri.path(), query.join("&")),
                        content_type,
                        body,
                    );
                    let is_panic = how >= 240;
                    noted.push(Run {
                        key,
                        request,
                        answer,
                        is_kept: fits && keep.is_none() && !is_panic,
                        is_not_started: keep == Some(Keep::not_started()) && !is_panic,
                    });
                    drop(noted);
                    if is_panic {
                        // Past the hook of panics, which would end the fuzzer.
                        std::panic::resume_unwind(Box::new("a planned panic"));
                    }
                }
                Ok::<_, Infallible>(response)
            }
        });
        let asked_key = request.headers().get("idempotency-key").map(|value| said(value.as_bytes()));
        let mut service = stage.layer.layer(handler);
        let answered = stage.runtime.block_on(async {
            let service = service.ready().await.unwrap();
            let mut answer = pin!(service.call(request));
            if how & 0x40 != 0 {
                // The client looks so often, and hangs up.
                for _ in 0..how & 3 {
                    let mut context = Context::from_waker(Waker::noop());
                    if answer.as_mut().poll(&mut context).is_ready() {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
                return None;
            }
            let answer = answer.await.unwrap();
            let (parts, body) = answer.into_parts();
            let is_problem = parts.extensions.get::<Problem>().is_some();
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            (!is_problem).then_some(Answer { status: parts.status, headers: parts.headers, body })
        });
        stage.runtime.block_on(stage.layer.drain());
        let runs = runs.lock().unwrap();
        if let Some(answer) = answered
            && let Some(key) = asked_key
            && let Some(number) =
                answer.headers.get("x-run").and_then(|number| number.to_str().ok()?.parse::<usize>().ok())
            && answer.headers.contains_key("idempotent-replayed")
        {
            let run = &runs[number];
            assert!(run.is_kept, "a response that was not kept came back");
            assert_eq!(run.key, key, "a response came back for another key");
            assert_eq!(without_unstored(answer.clone()), without_unstored(run.answer.clone()));
            let before = seen.entry(number).or_insert_with(|| answer.clone());
            assert_eq!(*before, answer, "two replays differ");
        }
    }
    let runs = runs.lock().unwrap();
    let mut last: HashMap<&[u8], &Run> = HashMap::new();
    for run in &*runs {
        if let Some(before) = last.insert(&run.key, run) {
            assert!(before.is_not_started, "{:?} ran twice", run.key);
        }
        let (method, _, _, body) = &run.request;
        assert!(*method == Method::POST || *method == Method::PATCH, "{method} had a claim");
        assert!(body.len() <= REQUEST_BYTES_MAX, "a body over the limit ran");
    }
}

fuzz_target!(|input: &[u8]| {
    let mut stage = STAGE.lock().unwrap();
    if stage.scripts == SCRIPTS_MAX {
        stage.runtime.block_on(stage.layer.drain());
        stage.engine.clone().close().unwrap();
        *stage = Stage::new();
    }
    stage.scripts += 1;
    play(&stage, input);
    assert_eq!(stage.layer.running(), 0);
});
