//! A server on loopback, and clients that speak HTTP/1.1 by hand: what goes over the wire, and
//! connections that are cut.

use std::convert::Infallible;
use std::net::SocketAddr;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::StreamBody;
use idemkv::http::IdempotencyLayer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::client::{Gate, KEY, home};

/// A server, until it is dropped.
pub struct Server {
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Server {
    pub async fn start(router: Router) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { address, serving }
    }

    /// Sends a POST, and gives the connection.
    pub async fn send(&self, key: &str, body: &str) -> TcpStream {
        Self::send_json(self.address, key, body).await
    }

    pub async fn send_json(address: SocketAddr, key: &str, body: &str) -> TcpStream {
        let mut connection = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let request = format!(
            "POST /v1/charges HTTP/1.1\r\nhost: a\r\nconnection: close\r\nidempotency-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        connection
    }

    pub async fn post(&self, key: &str, body: &str) -> Raw {
        Raw::read(self.send(key, body).await).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A response as it came over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    pub status: u16,
    /// Lines of the head, in order.
    pub headers: Vec<String>,
    pub body: Vec<u8>,
}

impl Raw {
    pub async fn read(mut connection: TcpStream) -> Self {
        let mut bytes = Vec::new();
        connection.read_to_end(&mut bytes).await.unwrap();
        let end = bytes.windows(4).position(|part| part == b"\r\n\r\n").expect("a head");
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.split("\r\n").map(str::to_owned);
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, headers: lines.collect(), body: bytes[end + 4..].to_vec() }
    }

    pub fn is_replay(&self) -> bool {
        self.headers.iter().any(|line| line == "idempotent-replayed: true")
    }

    /// Without what may differ between a response and its replay.
    pub fn kept(&self) -> Self {
        let mut kept = self.clone();
        kept.headers
            .retain(|line| !["date: ", "idempotent-replayed: "].iter().any(|name| line.starts_with(name)));
        kept
    }
}

async fn charge(State(gate): State<Gate>, body: String) -> (StatusCode, HeaderMap, String) {
    gate.pass().await;
    let mut headers = HeaderMap::new();
    for (name, value) in [("x-b", "1"), ("location", "/v1/charges/7"), ("x-a", "a, b"), ("x-b", "2")] {
        headers.append(name, HeaderValue::from_static(value));
    }
    (StatusCode::CREATED, headers, format!("charged {body}"))
}

fn router(layer: &IdempotencyLayer, gate: &Gate) -> Router {
    Router::new().route("/v1/charges", post(charge).layer(layer.clone())).with_state(gate.clone())
}

#[tokio::test]
async fn a_replay_is_the_response_byte_for_byte_in_the_order_of_its_headers() {
    let home = home();
    let gate = Gate::new();
    let server = Server::start(router(&home.layer(), &gate)).await;
    gate.open();
    let (first, retry) = (server.post(KEY, "10").await, server.post(KEY, "10").await);
    assert_eq!((first.status, &first.body[..]), (201, &b"charged 10"[..]));
    assert!(!first.is_replay() && retry.is_replay());
    assert_eq!(first.kept(), retry.kept());
    assert!(first.headers.iter().any(|line| line == "content-length: 10"));
}

/// In chunks: a body that has a `Content-Length` has no trailers.
#[tokio::test]
async fn trailers_reach_a_client_that_takes_them_in_the_first_reply_and_in_a_replay() {
    let home = home();
    let streamed = || async {
        let pieces = ["made", " it"].map(|piece| Ok::<_, Infallible>(Frame::data(Bytes::from(piece))));
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("7"))]);
        let pieces = pieces.into_iter().chain([Ok(Frame::trailers(trailers))]);
        ([("trailer", "x-sum")], Body::new(StreamBody::new(futures_util::stream::iter(pieces))))
    };
    let layer = home.layer().keep_streams();
    let server = Server::start(Router::new().route("/v1/charges", post(streamed).layer(layer))).await;
    for is_replay in [false, true] {
        let mut connection = TcpStream::connect(server.address).await.unwrap();
        let request = format!(
            "POST /v1/charges HTTP/1.1\r\nhost: a\r\nconnection: close, te\r\nte: trailers\r\n\
             idempotency-key: {KEY}\r\ncontent-length: 0\r\n\r\n"
        );
        connection.write_all(request.as_bytes()).await.unwrap();
        let answer = Raw::read(connection).await;
        assert_eq!((answer.status, answer.is_replay()), (200, is_replay));
        let body = String::from_utf8(answer.body).unwrap();
        assert_eq!(body, "7\r\nmade it\r\n0\r\nx-sum: 7\r\n\r\n");
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_after_the_request_loses_no_result() {
    let home = home();
    let (layer, gate) = (home.layer(), Gate::new());
    let server = Server::start(router(&layer, &gate)).await;
    let connection = server.send(KEY, "10").await;
    gate.reached().await;
    drop(connection);
    assert_eq!(server.post(KEY, "10").await.status, 409, "it goes on");
    gate.open();
    layer.drain().await;
    let retry = server.post(KEY, "10").await;
    assert!(retry.is_replay() && retry.status == 201);
}

#[tokio::test]
async fn a_connection_that_is_cut_within_the_request_leaves_nothing_behind() {
    let home = home();
    let gate = Gate::new();
    let server = Server::start(router(&home.layer(), &gate)).await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "POST /v1/charges HTTP/1.1\r\nhost: a\r\nidempotency-key: {KEY}\r\ncontent-length: 100\r\n\r\nhalf"
    );
    connection.write_all(head.as_bytes()).await.unwrap();
    connection.shutdown().await.unwrap();
    let mut rest = Vec::new();
    connection.read_to_end(&mut rest).await.unwrap();
    gate.open();
    let retry = server.post(KEY, "10").await;
    assert!(!retry.is_replay() && retry.status == 201);
    assert_eq!(home.engine.stats().begins(), 1);
}

#[tokio::test]
async fn a_body_that_comes_in_chunks_is_the_same_request() {
    let home = home();
    let gate = Gate::new();
    let server = Server::start(router(&home.layer(), &gate)).await;
    gate.open();
    server.post(KEY, "10").await;
    let mut connection = TcpStream::connect(server.address).await.unwrap();
    let chunked = format!(
        "POST /v1/charges HTTP/1.1\r\nhost: a\r\nconnection: close\r\nidempotency-key: \"{KEY}\"\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n1\r\n1\r\n1\r\n0\r\n0\r\n\r\n"
    );
    connection.write_all(chunked.as_bytes()).await.unwrap();
    assert!(Raw::read(connection).await.is_replay());
}
