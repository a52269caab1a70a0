//! A small service that uses an engine, and answers each scrape of Prometheus with its metrics.
//!
//!     idemkv-exporter FILE        prints the address that it listens on

use std::error::Error;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use idemkv::{Begin, Engine, Fingerprint, MetricsObserver};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

/// How long a client may take to send and to read.
const TIMEOUT: Duration = Duration::from_secs(1);
const HEAD_BYTES_MAX: u64 = 8 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("give the path of a file")?;
    // First the recorder, then the observer.
    let seconds = Matcher::Suffix("duration_seconds".to_owned());
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(seconds, MetricsObserver::BUCKETS_SECONDS)?
        .install_recorder()?;
    let observer = Arc::new(MetricsObserver::new("charges"));
    let engine = Engine::options().observer(Arc::clone(&observer)).open(path)?;
    let listener = TcpListener::bind("127.0.0.1:0")?;
    println!("{}", listener.local_addr()?);
    for scrape in 0_u64.. {
        work(&engine, scrape)?;
        let page = || {
            observer.publish(&engine);
            recorder.run_upkeep();
            recorder.render()
        };
        // A client that hangs up, or sends nothing, ends its own scrape and no other.
        if let Err(error) = listener.accept().and_then(|(client, _)| answer(&client, page)) {
            eprintln!("a scrape failed: {error}");
        }
    }
    Ok(())
}

/// Answers one request, whatever it asks for.
fn answer(mut client: &TcpStream, page: impl FnOnce() -> String) -> io::Result<()> {
    client.set_read_timeout(Some(TIMEOUT))?;
    client.set_write_timeout(Some(TIMEOUT))?;
    // The request's head.
    for line in BufReader::new(client.take(HEAD_BYTES_MAX)).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let page = page();
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain; version=0.0.4";
    write!(client, "{head}\r\nContent-Length: {}\r\n\r\n{page}", page.len())
}

/// What a service does between two scrapes: new operations, a retry, a client's mistakes, and an
/// operation that is lost. A second run on the same file finds the keys of the first: replays, or
/// refusals of those that were interrupted.
fn work(engine: &Engine, round: u64) -> Result<(), Box<dyn Error>> {
    let charges = engine.scope("POST /v1/charges");
    let request = Fingerprint::of("amount=10");
    for at in 0..10 {
        if let Ok(Begin::Fresh(claim)) = charges.begin(format!("charge {round} {at}"), request) {
            claim.complete("charged")?;
        }
    }
    drop(charges.begin(format!("charge {round} 0"), request));
    drop(charges.begin(format!("charge {round} 0"), Fingerprint::of("amount=11")));
    drop(charges.begin("", request));
    drop(engine.scope("emails").begin(format!("lost {round}"), request));
    Ok(())
}
