//! `Address`: where the server is, and how the way to it is secured. The words about TLS are taken
//! out of the address: the client takes fewer of them than libpq does.

use std::net::IpAddr;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// What `sslmode` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    /// In clear.
    Disable,
    /// Encrypted if the server offers it. Anybody on the way can take the offer out.
    Prefer,
    /// Encrypted. Without a root certificate, by any server.
    Require,
    /// Encrypted, by a server whose certificate leads to a root.
    VerifyCa,
    /// The same, and the certificate is that of the host that was asked for.
    VerifyFull,
}

/// An address.
pub(super) struct Address {
    pub(super) config: Config,
    pub(super) mode: Mode,
    /// `sslrootcert`: a file, or `system`.
    #[cfg_attr(not(feature = "postgres-tls"), allow(dead_code, reason = "read by TLS alone"))]
    pub(super) root: Option<String>,
}

impl Mode {
    /// What the client is told: it knows no more than whether there is to be TLS.
    pub(super) fn for_client(self) -> SslMode {
        match self {
            Self::Disable => SslMode::Disable,
            Self::Prefer => SslMode::Prefer,
            Self::Require | Self::VerifyCa | Self::VerifyFull => SslMode::Require,
        }
    }
}

impl Address {
    /// The server and the database, for a person to read: without the role and its password.
    pub(super) fn target(&self) -> String {
        let (hosts, addresses, ports) =
            (self.config.get_hosts(), self.config.get_hostaddrs(), self.config.get_ports());
        let server = |at: usize| {
            let host = match hosts.get(at) {
                Some(Host::Tcp(name)) => name.clone(),
                Some(Host::Unix(folder)) => folder.display().to_string(),
                None => String::new(),
            };
            // That is where it connects to, whatever the host is called.
            let host = match addresses.get(at) {
                Some(address) if host.is_empty() => address.to_string(),
                Some(address) => format!("{host} ({address})"),
                None => host,
            };
            // One port is that of all hosts.
            format!("{host}:{}", ports.get(at).or(ports.first()).copied().unwrap_or(5432))
        };
        let servers: Vec<_> = (0..hosts.len().max(addresses.len())).map(server).collect();
        let database = self.config.get_dbname().or(self.config.get_user()).unwrap_or_default();
        format!("{}/{database}", servers.join(","))
    }

    /// A URL, or words as libpq takes them.
    pub(super) fn read(text: &str) -> Result<Self, String> {
        let is_url = text.starts_with("postgres://") || text.starts_with("postgresql://");
        let (rest, mode, root) = if is_url { without_tls_in_url(text)? } else { without_tls_in_words(text)? };
        let config: Config = rest.parse().map_err(|error| format!("the address can't be read: {error}"))?;
        let asked = mode.as_deref().map(mode_of).transpose()?;
        let is_system = root.as_deref() == Some("system");
        if is_system && asked.is_some_and(|mode| mode != Mode::VerifyFull) {
            return Err("the system's roots vouch for any host on earth: `sslrootcert=system` needs `sslmode=verify-full`".to_owned());
        }
        let asked = asked.unwrap_or_else(|| {
            if is_system || root.is_some() || !is_on_this_machine(&config) {
                Mode::VerifyFull
            } else {
                Mode::Disable
            }
        });
        let is_file = config.get_hosts().iter().all(|host| !matches!(host, Host::Tcp(_)))
            && config.get_hostaddrs().is_empty();
        let mode = if is_file && !config.get_hosts().is_empty() {
            // As with libpq, there is no TLS over a local socket.
            Mode::Disable
        } else if asked == Mode::Require && root.is_some() {
            // As with libpq, a root certificate is not given for nothing.
            Mode::VerifyCa
        } else {
            asked
        };
        Ok(Self { config, mode, root })
    }
}

fn mode_of(word: &str) -> Result<Mode, String> {
    match word {
        "disable" => Ok(Mode::Disable),
        "prefer" => Ok(Mode::Prefer),
        "require" => Ok(Mode::Require),
        "verify-ca" => Ok(Mode::VerifyCa),
        "verify-full" => Ok(Mode::VerifyFull),
        other => Err(format!(
            "`sslmode={other}` can't be used: say `disable`, `prefer`, `require`, `verify-ca` or `verify-full`"
        )),
    }
}

/// Whether all hosts are on this machine, so that nobody is on the way.
fn is_on_this_machine(config: &Config) -> bool {
    let is_loopback = |host: &Host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    };
    let addresses = config.get_hostaddrs();
    if addresses.is_empty() {
        config.get_hosts().iter().all(is_loopback)
    } else {
        addresses.iter().all(IpAddr::is_loopback)
    }
}

/// The address without words about TLS, and what they said: mode and root.
type Parts = (String, Option<String>, Option<String>);

fn without_tls_in_url(text: &str) -> Result<Parts, String> {
    let Some((place, query)) = text.split_once('?') else { return Ok((text.to_owned(), None, None)) };
    let (mut mode, mut root, mut rest) = (None, None, Vec::new());
    for pair in query.split('&') {
        match pair.split_once('=') {
            Some(("sslmode", value)) => mode = Some(decoded(value)?),
            Some(("sslrootcert", value)) => root = Some(decoded(value)?),
            Some(_) | None => rest.push(pair),
        }
    }
    let rest = if rest.is_empty() { place.to_owned() } else { format!("{place}?{}", rest.join("&")) };
    Ok((rest, mode, root))
}

/// `%41` is `A`.
fn decoded(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` in the address can't be read: `%` has two digits after it");
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = [rest.next().ok_or_else(wrong)?, rest.next().ok_or_else(wrong)?];
        let digits = std::str::from_utf8(&digits).or(Err(wrong()))?;
        bytes.push(u8::from_str_radix(digits, 16).or(Err(wrong()))?);
    }
    String::from_utf8(bytes).or(Err(wrong()))
}

fn without_tls_in_words(text: &str) -> Result<Parts, String> {
    let (mut mode, mut root, mut rest) = (None, None, String::new());
    let mut left = text.trim_start();
    while !left.is_empty() {
        let (key, after) = left.split_once('=').ok_or("the address can't be read: a word has no `=`")?;
        let (value, after) = word(after.trim_start())?;
        match key.trim_end() {
            "sslmode" => mode = Some(value),
            "sslrootcert" => root = Some(value),
            key => {
                let value = value.replace('\\', "\\\\").replace('\'', "\\'");
                rest.extend([key, "='", &value, "' "]);
            }
        }
        left = after.trim_start();
    }
    Ok((rest, mode, root))
}

/// A value, which may be in quotes, and what comes after it.
fn word(text: &str) -> Result<(String, &str), String> {
    let quoted = text.strip_prefix('\'');
    let (mut value, mut chars) = (String::new(), quoted.unwrap_or(text).chars());
    loop {
        let left = chars.as_str();
        match chars.next() {
            Some('\\') => value.extend(chars.next()),
            Some('\'') if quoted.is_some() => return Ok((value, chars.as_str())),
            Some(space) if quoted.is_none() && space.is_whitespace() => return Ok((value, left)),
            Some(char) => value.push(char),
            None if quoted.is_some() => {
                return Err("the address can't be read: a quote has no end".to_owned());
            }
            None => return Ok((value, "")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Mode, Option<String>) {
        let address = Address::read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        (address.mode, address.root)
    }

    #[test]
    fn an_address_that_says_nothing_of_tls_is_verified_unless_it_is_on_this_machine() {
        for local in [
            "postgres://a:b@127.0.0.1:5/x",
            "postgres://[::1]/x",
            "host=localhost user=a",
            "host=/run/postgresql user=a",
            "host=db.internal hostaddr=127.0.0.1",
            "postgres:///x?host=/run/postgresql",
        ] {
            assert_eq!(read(local), (Mode::Disable, None), "{local}");
        }
        for remote in
            ["postgres://a:b@db.internal/x", "host=10.0.0.1", "host=localhost,db", "hostaddr=10.0.0.1"]
        {
            assert_eq!(read(remote), (Mode::VerifyFull, None), "{remote}");
        }
    }

    /// `hostaddr` is where it connects to, whatever the host is called.
    #[test]
    fn a_socket_with_an_address_is_no_local_socket() {
        let words = "host=/run/postgresql hostaddr=10.0.0.1 user=a sslmode=verify-full";
        assert_eq!(read(words).0, Mode::VerifyFull);
        assert_eq!(read("host=/run/postgresql hostaddr=10.0.0.1 user=a").0, Mode::VerifyFull);
        assert_eq!(read("host=/run/postgresql user=a sslmode=verify-full").0, Mode::Disable);
    }

    #[test]
    fn a_person_is_shown_server_and_database_and_no_password() {
        for (text, shown) in [
            ("postgres://bank:secret@db.internal/payments", "db.internal:5432/payments"),
            ("postgres://bank:secret@a:1,b:2/payments", "a:1,b:2/payments"),
            ("host=a,b port=7 user=bank password=secret", "a:7,b:7/bank"),
            ("host=db hostaddr=10.0.0.1 user=bank dbname=x", "db (10.0.0.1):5432/x"),
            ("hostaddr=10.0.0.1 user=bank", "10.0.0.1:5432/bank"),
            ("host=/run/postgresql user=bank password=secret", "/run/postgresql:5432/bank"),
        ] {
            assert_eq!(Address::read(text).map(|address| address.target()), Ok(shown.to_owned()), "{text}");
        }
    }

    #[test]
    fn each_mode_is_what_libpq_makes_of_it() {
        let root = |file: &str| Some(file.to_owned());
        assert_eq!(read("postgres://db/x?sslmode=disable"), (Mode::Disable, None));
        assert_eq!(read("postgres://db/x?sslmode=prefer&application_name=a"), (Mode::Prefer, None));
        assert_eq!(read("postgres://db/x?sslmode=require"), (Mode::Require, None));
        assert_eq!(
            read("postgres://db/x?sslmode=require&sslrootcert=/a%20b"),
            (Mode::VerifyCa, root("/a b"))
        );
        assert_eq!(
            read("host=db sslmode = verify-ca sslrootcert='/a \\'b'"),
            (Mode::VerifyCa, root("/a 'b"))
        );
        assert_eq!(read("sslmode=verify-full host=db password='a b\\\\'"), (Mode::VerifyFull, None));
        assert_eq!(read("host=db sslrootcert=system"), (Mode::VerifyFull, root("system")));
        assert_eq!(read("host=/run sslmode=verify-full"), (Mode::Disable, None), "as over any local socket");
        let kept = Address::read("sslmode=verify-full host=db password='a b\\\\'")
            .unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(kept.config.get_password(), Some(&b"a b\\"[..]));
        for wrong in [
            "postgres://db/x?sslmode=allow",
            "host=db sslmode=require sslrootcert=system",
            "host=db sslmode='x",
            "host",
            "postgres://db/x?sslmode=%4",
        ] {
            assert!(Address::read(wrong).is_err(), "{wrong}");
        }
    }
}
