//! A small service that uses an engine, and answers each scrape of Prometheus with its metrics.
//!
//!     idemkv-exporter FILE        prints the address that it listens on

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;

use idemkv::{Begin, Engine, Fingerprint, MetricsObserver};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};

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
        let (mut client, _) = listener.accept()?;
        // Reads the request's head.
        for line in BufReader::new(&client).lines() {
            if line?.is_empty() {
                break;
            }
        }
        work(&engine, scrape)?;
        observer.publish(&engine);
        recorder.run_upkeep();
        let page = recorder.render();
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/plain; version=0.0.4";
        write!(client, "{head}\r\nContent-Length: {}\r\n\r\n{page}", page.len())?;
    }
    Ok(())
}

/// What a service does between two scrapes: new operations, a retry, a client's mistakes, and an
/// operation that is lost.
fn work(engine: &Engine, round: u64) -> Result<(), Box<dyn Error>> {
    let charges = engine.scope("POST /v1/charges");
    let request = Fingerprint::of("amount=10");
    for at in 0..10 {
        if let Begin::Fresh(claim) = charges.begin(format!("charge {round} {at}"), request)? {
            claim.complete("charged")?;
        }
    }
    drop(charges.begin(format!("charge {round} 0"), request)?);
    drop(charges.begin(format!("charge {round} 0"), Fingerprint::of("amount=11")));
    drop(charges.begin("", request));
    drop(engine.scope("emails").begin(format!("lost {round}"), request)?);
    Ok(())
}
