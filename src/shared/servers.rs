//! The servers of an address are tried one by one, each with a time limit of its own. The client
//! has a limit for its sockets alone: a server that takes the connection and is silent would keep
//! it from all that come after.

use std::net::IpAddr;
use std::time::Duration;

use tokio::net::lookup_host;
use tokio::time::timeout;
use tokio_postgres::config::{Host, LoadBalanceHosts};
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{Client, Config, Connection, Socket};

use super::tls::Tls;
use crate::error::{FailureKind, StoreFailure};
use crate::sync::Mutex;

/// The server that was connected to last. It is tried first, so that one that is away costs each
/// connection its time once, and not with every reconnect.
#[derive(Default)]
pub(super) struct Last(
    /// Leaf lock.
    Mutex<Option<Place>>,
);

/// A host of the address, by its number, and the address of its name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Place {
    host: usize,
    address: Option<IpAddr>,
}

type Connected = (Client, Connection<Socket, <Tls as MakeTlsConnect<Socket>>::Stream>);

/// Connects to the first server that takes the connection, within `limit` for each.
pub(super) async fn connect(
    config: &Config,
    tls: &Tls,
    limit: Duration,
    last: &Last,
) -> Result<Connected, StoreFailure> {
    let count = hosts(config)?;
    let before = *last.0.lock();
    let first = before.map_or_else(|| start(config, count), |place| place.host);
    let mut failure: Option<StoreFailure> = None;
    // A server that answered says more than one that did not.
    let mut fails = |next: StoreFailure| match &failure {
        Some(known) if known.code().is_some() || known.kind() != FailureKind::Unreachable => {}
        Some(_) | None => failure = Some(next),
    };
    for host in (0..count).map(|number| (first + number) % count) {
        let places = match timeout(limit, places(config, host)).await {
            Ok(Ok(places)) => places,
            Ok(Err(error)) => {
                fails(StoreFailure::new(FailureKind::Unreachable, format!("the host is not known: {error}")));
                continue;
            }
            Err(_) => {
                fails(silent(limit));
                continue;
            }
        };
        let (again, mut others): (Vec<_>, Vec<_>) =
            places.into_iter().partition(|place| before == Some(*place));
        if !others.is_empty() {
            // As libpq does, the addresses of one name are drawn from as well.
            let first = start(config, others.len());
            others.rotate_left(first);
        }
        for place in again.into_iter().chain(others) {
            match timeout(limit, alone(config, place).connect(Clone::clone(tls))).await {
                Ok(Ok(connected)) => {
                    *last.0.lock() = Some(place);
                    return Ok(connected);
                }
                Ok(Err(error)) => fails(StoreFailure::of(&error)),
                Err(_) => fails(silent(limit)),
            }
        }
    }
    Err(failure.unwrap_or_else(|| silent(limit)))
}

fn silent(limit: Duration) -> StoreFailure {
    StoreFailure::new(FailureKind::Unreachable, format!("no connection within {} ms", limit.as_millis()))
}

/// How many hosts the address has.
fn hosts(config: &Config) -> Result<usize, StoreFailure> {
    let (hosts, addresses, ports) =
        (config.get_hosts().len(), config.get_hostaddrs().len(), config.get_ports().len());
    let count = hosts.max(addresses);
    let fits = |number: usize| number == 0 || number == count;
    if count > 0 && fits(hosts) && fits(addresses) && (ports <= 1 || fits(ports)) {
        return Ok(count);
    }
    let message = format!("the address has {hosts} hosts, {addresses} addresses of hosts and {ports} ports");
    Err(StoreFailure::new(FailureKind::Options, message))
}

/// The first host to try. To spread processes over poolers is what `load_balance_hosts` is for:
/// each process then stays with its own.
fn start(config: &Config, count: usize) -> usize {
    let mut byte = [0];
    let is_drawn =
        config.get_load_balance_hosts() == LoadBalanceHosts::Random && getrandom::fill(&mut byte).is_ok();
    if is_drawn { usize::from(byte[0]) % count } else { 0 }
}

async fn places(config: &Config, host: usize) -> std::io::Result<Vec<Place>> {
    if let Some(address) = config.get_hostaddrs().get(host) {
        return Ok(vec![Place { host, address: Some(*address) }]);
    }
    match config.get_hosts().get(host) {
        Some(Host::Tcp(name)) => {
            let found = lookup_host((name.as_str(), port(config, host))).await?;
            Ok(found.map(|found| Place { host, address: Some(found.ip()) }).collect())
        }
        Some(Host::Unix(_)) | None => Ok(vec![Place { host, address: None }]),
    }
}

/// One port is that of all hosts.
fn port(config: &Config, host: usize) -> u16 {
    let ports = config.get_ports();
    ports.get(host).or(ports.first()).copied().unwrap_or(5432)
}

/// The same with one server: the client takes none out.
fn alone(config: &Config, place: Place) -> Config {
    let mut one = Config::new();
    match config.get_hosts().get(place.host) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        Some(Host::Unix(folder)) => drop(one.host_path(folder)),
        None => {}
    }
    place.address.map(|address| one.hostaddr(address));
    one.port(port(config, place.host));
    config.get_user().map(|user| one.user(user));
    config.get_password().map(|password| one.password(password));
    config.get_dbname().map(|name| one.dbname(name));
    config.get_options().map(|options| one.options(options));
    config.get_application_name().map(|name| one.application_name(name));
    config.get_connect_timeout().map(|limit| one.connect_timeout(*limit));
    config.get_tcp_user_timeout().map(|limit| one.tcp_user_timeout(*limit));
    config.get_keepalives_interval().map(|interval| one.keepalives_interval(interval));
    config.get_keepalives_retries().map(|retries| one.keepalives_retries(retries));
    one.keepalives(config.get_keepalives())
        .keepalives_idle(config.get_keepalives_idle())
        .ssl_mode(config.get_ssl_mode())
        .ssl_negotiation(config.get_ssl_negotiation())
        .target_session_attrs(config.get_target_session_attrs())
        .channel_binding(config.get_channel_binding())
        .load_balance_hosts(config.get_load_balance_hosts());
    one
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &str) -> Config {
        words.parse().unwrap_or_else(|error| panic!("{words}: {error}"))
    }

    /// Each word of an address that the client knows, as a word of one server's.
    #[test]
    fn every_word_of_the_address_goes_with_each_of_its_servers() {
        let rest = "user=a password=b dbname=c options='-c x=y' application_name=d sslmode=require \
                    connect_timeout=3 tcp_user_timeout=4 keepalives=0 keepalives_idle=5 \
                    keepalives_interval=6 keepalives_retries=7 target_session_attrs=read-write \
                    channel_binding=require load_balance_hosts=random sslnegotiation=direct";
        let both = read(&format!("host=one,/run hostaddr=10.0.0.1,10.0.0.2 port=8,9 {rest}"));
        let address = |text: &str| text.parse().ok();
        let first = alone(&both, Place { host: 0, address: address("10.0.0.1") });
        assert!(first == read(&format!("host=one hostaddr=10.0.0.1 port=8 {rest}")), "{first:?}");
        let second = alone(&both, Place { host: 1, address: address("10.0.0.2") });
        assert!(second == read(&format!("host=/run hostaddr=10.0.0.2 port=9 {rest}")), "{second:?}");
        let without = alone(&read("hostaddr=10.0.0.1"), Place { host: 0, address: address("10.0.0.1") });
        assert!(without == read("hostaddr=10.0.0.1 port=5432"), "{without:?}");
    }

    #[test]
    fn an_address_with_more_ports_than_hosts_is_refused() {
        for (words, count) in [
            ("host=a,b port=1,2", Some(2)),
            ("host=a,b port=1", Some(2)),
            ("host=a,b", Some(2)),
            ("hostaddr=10.0.0.1", Some(1)),
            ("host=a,b port=1,2,3", None),
            ("host=a,b hostaddr=10.0.0.1", None),
            ("user=a", None),
        ] {
            assert_eq!(hosts(&read(words)).ok(), count, "{words}");
        }
    }
}
