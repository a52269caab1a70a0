//! Connections that are secured, by a server with a certificate of an authority of the test's own.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use idemkv::{Begin, Engine, FailureKind, OpenError, SharedError, SharedOptions, Waited};

use crate::server::{Server, claim, request, within};

/// Makes an authority, a certificate for `localhost` by it, and another authority.
const MAKE: &str = r"set -e; cd DIRECTORY
new='-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes'
openssl req -x509 $new -keyout ca.key -out ca.crt -subj /CN=authority -days 2
openssl req -x509 $new -keyout other.key -out other.crt -subj /CN=other -days 2
openssl req -new $new -keyout server.key -out server.csr -subj /CN=localhost
echo subjectAltName=DNS:localhost >names
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt
chmod 600 server.key";

struct Secured {
    server: Server,
    data: PathBuf,
}

impl Secured {
    /// A server that lets the role `secure` in over TLS alone, and with a password.
    fn start() -> Option<Self> {
        let has_openssl =
            Command::new("openssl").arg("version").output().is_ok_and(|ran| ran.status.success());
        let server = has_openssl.then(crate::server::another).flatten();
        let Some(server) = server else {
            eprintln!("SKIPPED: no PostgreSQL in /usr/lib/postgresql, or no openssl");
            return None;
        };
        let data = PathBuf::from(server.one("SHOW data_directory"));
        // The server's user runs it, and so owns the key.
        let make = MAKE.replace("DIRECTORY", &data.display().to_string()).replace('\'', "''");
        server.sql(&format!("COPY (SELECT) TO PROGRAM '{make}'"));
        let rules = data.join("pg_hba.conf");
        let before = fs::read_to_string(&rules).unwrap();
        let first = "hostssl all secure 127.0.0.1/32 scram-sha-256\nhost all secure 127.0.0.1/32 reject\n";
        fs::write(&rules, format!("{first}{before}")).unwrap();
        server.sql("CREATE ROLE secure LOGIN SUPERUSER PASSWORD 'secret word'");
        server.sql("ALTER SYSTEM SET ssl = on");
        server.sql("SELECT pg_reload_conf()");
        assert!(within(Duration::from_secs(20), || server.one("SHOW ssl") == "on"));
        Some(Self { server, data })
    }

    fn connect(&self, host: &str, words: &str) -> Result<Engine, OpenError> {
        let port = self.server.port;
        let address = format!(
            "host={host} hostaddr=127.0.0.1 port={port} user=secure password='secret word' dbname=postgres {words}"
        );
        SharedOptions::new(address).schema("tls").connect()
    }

    fn root(&self, name: &str) -> String {
        format!("sslrootcert='{}'", self.data.join(name).display())
    }
}

#[track_caller]
fn kind<T: std::fmt::Debug>(refused: Result<T, OpenError>) -> FailureKind {
    match refused {
        Err(OpenError::Shared(SharedError::Unavailable(failure))) => failure.kind(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_server_is_checked_as_the_address_says() {
    let Some(secured) = Secured::start() else { return };
    let (right, wrong) = (secured.root("ca.crt"), secured.root("other.crt"));
    let good = [
        ("localhost", format!("sslmode=verify-full {right}")),
        ("localhost", right.clone()),
        ("127.0.0.1", format!("sslmode=verify-ca {right}")),
        ("127.0.0.1", format!("sslmode=require {right}")),
        ("127.0.0.1", "sslmode=require".to_owned()),
        ("127.0.0.1", "sslmode=prefer".to_owned()),
    ];
    for (host, words) in good {
        let store = secured.connect(host, &words).unwrap_or_else(|error| panic!("{words}: {error}"));
        let other = secured.connect(host, &words).unwrap();
        let held = claim(&store.scope(""), "key");
        let Ok(Begin::InFlight(pending)) = other.scope("").begin("key", request()) else { panic!() };
        let waiting = thread::spawn(move || pending.wait().unwrap());
        // Those for statements, that for the session, and of them the one that hears notifications.
        let of = |is: &str| {
            secured.server.one(&format!(
                "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = 'secure' AND {is}"
            ))
        };
        assert!(within(Duration::from_secs(20), || of("ssl") == "6"), "{} {}", of("ssl"), of("true"));
        assert_eq!(of("NOT ssl"), "0");
        held.release().unwrap();
        assert!(matches!(waiting.join().unwrap(), Waited::Vacant));
        store.close().unwrap();
        other.close().unwrap();
        assert!(within(Duration::from_secs(20), || of("true") == "0"));
    }
    let bad = [
        ("127.0.0.1", format!("sslmode=verify-full {right}")),
        ("localhost", format!("sslmode=verify-full {wrong}")),
        ("localhost", format!("sslmode=verify-ca {wrong}")),
        ("localhost", format!("sslmode=require {wrong}")),
        // The system knows nothing of the authority.
        ("localhost", "sslmode=verify-full".to_owned()),
        ("localhost", "sslrootcert=system".to_owned()),
    ];
    for (host, words) in bad {
        let refused = kind(secured.connect(host, &words));
        let has_roots = Path::new("/etc/ssl/certs/ca-certificates.crt").exists() || words.contains('/');
        assert!(refused == FailureKind::Tls || !has_roots, "{host} {words}: {refused:?}");
    }
    for (words, expected) in [
        ("sslmode=disable", FailureKind::Forbidden),
        ("sslmode=verify-ca sslrootcert=/nowhere", FailureKind::Options),
        ("sslmode=require sslrootcert=system", FailureKind::Options),
        ("sslmode=allow", FailureKind::Options),
    ] {
        assert_eq!(kind(secured.connect("localhost", words)), expected, "{words}");
    }
}

#[test]
fn nothing_is_told_to_a_server_that_does_not_secure_the_connection() {
    let server = server!();
    for mode in ["require", "verify-ca", "verify-full"] {
        // One that keeps what it is sent.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut all = vec![0; 8];
            client.read_exact(&mut all).unwrap();
            client.write_all(b"N").unwrap();
            client.read_to_end(&mut all).unwrap();
            all
        });
        let address = |port: u16| format!("postgres://idemkv:word@127.0.0.1:{port}/postgres?sslmode={mode}");
        assert_eq!(kind(SharedOptions::new(address(port)).connect()), FailureKind::Tls);
        let asked_for_tls = [0, 0, 0, 8, 4, 210, 22, 47];
        assert_eq!(heard.join().unwrap(), asked_for_tls, "{mode}");
        // A real one, without TLS.
        assert_eq!(kind(SharedOptions::new(address(server.port)).connect()), FailureKind::Tls);
    }
}
