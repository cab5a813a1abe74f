//! Which database, and how it is reached.

use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use thiserror::Error;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use zeroize::Zeroizing;

use crate::limits::ADDRESS_TIMEOUT;

/// Where the sockets of a database lie whose URL names no host.
const SOCKETS: &str = "/var/run/postgresql";
const PORT: u16 = 5_432;
const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// The URL of a PostgreSQL database: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=...&sslrootcert=...`.
///
/// Without a host, or with a folder (percent-encoded) in its place, it is reached over a Unix socket. Over TCP it has TLS, and its
/// certificate and name are checked, unless the URL says `sslmode=disable`: `require`, `verify-ca`, `verify-full` and nothing at
/// all mean the same. What may silently go without (`prefer`, `allow`) is refused.
///
/// Neither `Debug` nor `Display` shows the password.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl {
    /// Without what is said about TLS.
    text: Zeroizing<String>,
    password: Option<Zeroizing<String>>,
    has_password: bool,
    shown: String,
    place: String,
    tls: Tls,
    is_over_tcp: bool,
}

/// How the connection is protected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Tls {
    /// It is not: a Unix socket, or the URL wants it so.
    None,
    /// TLS, with a certificate that these vouch for; `None`: those that the system trusts.
    Verified(Option<PathBuf>),
}

/// Why a text is no URL of a database. Says nothing of what is in it: there may be a password.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum UrlError {
    /// it does not begin as one
    #[error("a database is named as postgres://USER@HOST/DATABASE")]
    Scheme,
    /// it cannot be read
    #[error(
        "the URL of the database cannot be read; write postgres://USER@HOST:PORT/DATABASE, with %40 for @, %2F for / and %3F for ? inside of a part"
    )]
    Malformed,
    /// it would go without TLS where the server wants none
    #[error(
        "sslmode=prefer and sslmode=allow may go without TLS and say nothing; write sslmode=verify-full, or sslmode=disable where nobody else can listen"
    )]
    SslMode,
    /// TLS over a socket file
    #[error("over a Unix socket there is no TLS; take sslmode out of the URL of the database")]
    TlsOnSocket,
    /// addresses without names
    #[error(
        "hostaddr goes with as many names of hosts, which certificates are checked by; name them, or take hostaddr out of the URL of the database"
    )]
    HostAddress,
    /// both kinds of hosts
    #[error("the hosts of a database are all reached over TCP, or all over a Unix socket")]
    MixedHosts,
}

impl FromStr for DatabaseUrl {
    type Err = UrlError;

    fn from_str(url: &str) -> Result<Self, UrlError> {
        if !SCHEMES.iter().any(|scheme| url.starts_with(scheme)) {
            return Err(UrlError::Scheme);
        }
        let (address, query) = url.split_once('?').unwrap_or((url, ""));
        // Who reads it otherwise shows a part of the password.
        if address.matches('@').count() > 1 || query.contains('@') {
            return Err(UrlError::Malformed);
        }
        let (mut others, mut mode, mut certificates) = (Vec::new(), None, None);
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some((key, _)) if key.contains('%') => return Err(UrlError::Malformed),
                Some(("sslmode", value)) => mode = Some(value),
                Some(("sslrootcert", value)) => certificates = Some(PathBuf::from(decoded(value)?)),
                _ => others.push(pair),
            }
        }
        let mut text = Zeroizing::new(address.to_owned());
        if !others.is_empty() {
            text.push('?');
            text.push_str(&others.join("&"));
        }
        let shown = shown(&text.parse().map_err(|_| UrlError::Malformed)?, query);
        let config = parsed(&text)?;
        let over_tcp = config.get_hosts().iter().filter(|host| matches!(host, Host::Tcp(_))).count();
        if over_tcp != 0 && over_tcp != config.get_hosts().len() {
            return Err(UrlError::MixedHosts);
        }
        // The library connects to the addresses, whatever the hosts are.
        let addresses = config.get_hostaddrs().len();
        if addresses != 0 && addresses != over_tcp {
            return Err(UrlError::HostAddress);
        }
        let tls = match (mode, over_tcp) {
            (Some("prefer" | "allow"), _) => return Err(UrlError::SslMode),
            (None | Some("disable"), 0) | (Some("disable"), _) => Tls::None,
            (Some("require" | "verify-ca" | "verify-full"), 0) => return Err(UrlError::TlsOnSocket),
            (None | Some("require" | "verify-ca" | "verify-full"), _) => Tls::Verified(certificates),
            _ => return Err(UrlError::Malformed),
        };
        let place = place(&config);
        let has_password = config.get_password().is_some();
        Ok(Self { text, password: None, has_password, shown, place, tls, is_over_tcp: over_tcp != 0 })
    }
}

impl DatabaseUrl {
    /// Whether there is a password in it.
    #[must_use]
    pub fn has_password(&self) -> bool {
        self.has_password
    }

    /// The same with this password, whatever the URL says.
    #[must_use]
    pub fn with_password(self, password: String) -> Self {
        Self { password: Some(Zeroizing::new(password)), has_password: true, ..self }
    }

    /// The URL as it is understood, without its password.
    #[must_use]
    pub fn without_password(&self) -> &str {
        &self.shown
    }

    /// The same, with a relative path of certificates meant from this folder.
    #[must_use]
    pub fn relative_to(self, folder: &Path) -> Self {
        let tls = match self.tls {
            Tls::Verified(Some(path)) => Tls::Verified(Some(folder.join(path))),
            other => other,
        };
        Self { tls, ..self }
    }

    /// Whether it may be on another machine.
    pub(crate) fn is_over_tcp(&self) -> bool {
        self.is_over_tcp
    }

    pub(crate) fn tls(&self) -> &Tls {
        &self.tls
    }

    pub(crate) fn config(&self) -> Config {
        let mut config = parsed(&self.text).expect("it was read before");
        if let Some(password) = &self.password {
            config.password(password.as_bytes());
        }
        config
            .ssl_mode(if self.tls == Tls::None { SslMode::Disable } else { SslMode::Require })
            .target_session_attrs(TargetSessionAttrs::ReadWrite)
            .application_name("creto")
            .connect_timeout(ADDRESS_TIMEOUT);
        config
    }
}

/// A URL that means the same, without the password: of what was understood, not of what was written.
fn shown(config: &Config, query: &str) -> String {
    let user = config.get_user().map(|user| format!("{}@", encoded(user.as_bytes()))).unwrap_or_default();
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
        let name = match host {
            Host::Tcp(name) if name.contains(':') => format!("[{name}]"),
            Host::Tcp(name) => encoded(name.as_bytes()),
            Host::Unix(folder) => encoded(folder.as_os_str().as_bytes()),
        };
        match port(config, index) {
            PORT => name,
            port => format!("{name}:{port}"),
        }
    });
    let hosts = hosts.collect::<Vec<_>>().join(",");
    let database = config.get_dbname().map(|name| format!("/{}", encoded(name.as_bytes()))).unwrap_or_default();
    let is_shown = |pair: &&str| {
        !pair.is_empty() && !matches!(pair.split('=').next(), Some("password" | "user" | "host" | "port" | "dbname"))
    };
    let query: Vec<_> = query.split('&').filter(is_shown).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("postgres://{user}{hosts}{database}{mark}{}", query.join("&"))
}

/// The port of a host, counted from 0.
fn port(config: &Config, index: usize) -> u16 {
    let ports = config.get_ports();
    ports.get(index).or(ports.first()).copied().unwrap_or(PORT)
}

fn encoded(part: &[u8]) -> String {
    part.iter().fold(String::new(), |mut text, &byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
        text
    })
}

fn parsed(text: &str) -> Result<Config, UrlError> {
    let mut config: Config = text.parse().map_err(|_| UrlError::Malformed)?;
    if config.get_hosts().is_empty() {
        config.host_path(SOCKETS);
    }
    Ok(config)
}

/// Undoes the percent-encoding of a path.
fn decoded(value: &str) -> Result<String, UrlError> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = rest.split_at_checked(2).ok_or(UrlError::Malformed)?;
        let digit = |at: usize| (digits.0[at] as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(0).zip(digit(1)).map(|(high, low)| high * 16 + low).ok_or(UrlError::Malformed)?);
        rest = digits.1;
    }
    String::from_utf8(bytes).map_err(|_| UrlError::Malformed)
}

/// The database without its password.
fn place(config: &Config) -> String {
    let user = config.get_user().map(|user| format!("{user}@")).unwrap_or_default();
    let hosts = config.get_hosts().iter().enumerate().map(|(index, host)| {
        let port = port(config, index);
        match host {
            Host::Tcp(name) => format!("{name}:{port}"),
            Host::Unix(folder) => format!("{}:{port}", folder.display()),
        }
    });
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("postgres://{user}{}/{database}", hosts.collect::<Vec<_>>().join(","))
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Result<DatabaseUrl, UrlError> {
        text.parse()
    }

    #[test]
    fn a_url_shows_no_password_whatever_it_is_printed_with() {
        for text in [
            "postgres://creto:se%40cret@db.example:6432/agents",
            "postgresql://creto:se%40cret@db.example:6432/agents?keepalives=1",
        ] {
            let url = url(text).unwrap();
            assert_eq!(url.config().get_password(), Some(&b"se@cret"[..]));
            assert_eq!(format!("{url} {url:?}"), ["postgres://creto@db.example:6432/agents"; 2].join(" "));
            let other = url.with_password("other".to_owned());
            assert_eq!(other.config().get_password(), Some(&b"other"[..]));
            assert!(!format!("{other:?}").contains("other"));
        }
    }

    #[test]
    fn a_url_is_shown_as_it_is_understood_but_for_its_password_and_reads_back() {
        for (written, shown) in [
            (
                "postgres://creto:se%40cret@db:6432/agents?sslmode=disable",
                "postgres://creto@db:6432/agents?sslmode=disable",
            ),
            (
                "postgres://creto@db/agents?password=secret&sslrootcert=ca.pem",
                "postgres://creto@db/agents?sslrootcert=ca.pem",
            ),
            ("postgresql://creto:se%3Fcr%40t@[::1],db:6432/agents", "postgres://creto@[::1],db:6432/agents"),
            ("postgres://db/agents", "postgres://db/agents"),
            ("postgres:///agents", "postgres:///agents"),
            ("postgres://%2Frun%2Fpg:5433/agents", "postgres://%2Frun%2Fpg:5433/agents"),
        ] {
            let url = url(written).unwrap();
            assert_eq!(url.without_password(), shown);
            assert_eq!(url.has_password(), written != shown);
            let back: DatabaseUrl = shown.parse().unwrap();
            assert_eq!((back.place, back.tls), (url.place, url.tls));
        }
    }

    #[test]
    fn over_tcp_there_is_tls_unless_the_url_says_no() {
        let tls = |text: &str| url(text).map(|url| url.tls().clone());
        let verified = || Ok(Tls::Verified(None));
        assert_eq!(tls("postgres://creto@db/agents"), verified());
        for mode in ["require", "verify-ca", "verify-full"] {
            assert_eq!(tls(&format!("postgres://creto@db/agents?sslmode={mode}")), verified());
            assert_eq!(tls(&format!("postgres://creto@%2Frun%2Fpg/agents?sslmode={mode}")), Err(UrlError::TlsOnSocket));
        }
        assert_eq!(
            tls("postgres://creto@db/agents?sslrootcert=%2Fetc%2Fca.pem&sslmode=verify-full"),
            Ok(Tls::Verified(Some("/etc/ca.pem".into())))
        );
        assert_eq!(tls("postgres://creto@db/agents?sslmode=disable"), Ok(Tls::None));
        for mode in ["prefer", "allow"] {
            assert_eq!(tls(&format!("postgres://creto@db/agents?sslmode={mode}")), Err(UrlError::SslMode));
        }
        assert_eq!(tls("postgres://creto@db/agents?sslmode=maybe"), Err(UrlError::Malformed));
        // What is connected to are the addresses, and what is checked are the names.
        assert_eq!(tls("postgres://creto@db/agents?hostaddr=192.0.2.1"), verified());
        assert_eq!(tls("postgres://creto@db,eb/agents?hostaddr=192.0.2.1,192.0.2.2"), verified());
        for text in [
            "postgres://creto@/agents?hostaddr=192.0.2.1",
            "postgres://creto@%2Frun%2Fpg/agents?hostaddr=192.0.2.1",
            "postgres://creto@db/agents?hostaddr=192.0.2.1,192.0.2.2",
        ] {
            assert_eq!(tls(text), Err(UrlError::HostAddress), "{text}");
        }
    }

    #[test]
    fn a_url_without_a_host_means_the_socket_of_this_machine() {
        for text in
            ["postgres:///agents", "postgres://creto@%2Frun%2Fpg/agents", "postgres://creto@/agents?host=%2Frun%2Fpg"]
        {
            let url = url(text).unwrap();
            assert!(matches!(url.config().get_hosts(), [Host::Unix(_)]), "{text}");
            assert_eq!(url.tls(), &Tls::None);
        }
        let mixed = "postgres://creto@%2Frun%2Fpg,db/agents";
        assert_eq!(url(mixed).unwrap_err(), UrlError::MixedHosts);
    }

    #[test]
    fn what_is_no_url_is_refused_without_being_repeated() {
        for text in ["", "agents", "mysql://creto:secret@db/agents", "host=db password=secret"] {
            assert_eq!(url(text).unwrap_err(), UrlError::Scheme);
        }
        for text in [
            "postgres://creto:secret@db:port/agents",
            "postgres://creto@db/agents?nonsense=1",
            "postgres://db/a?sslrootcert=%2",
            // Parts of these passwords would be taken for something else, and shown.
            "postgres://creto:pa?secret@db/agents",
            "postgres://creto:p@secret@db/agents",
            "postgres://creto@db/agents?password=p@secret",
            "postgres://creto@db/agents?%70assword=secret",
        ] {
            let error = url(text).unwrap_err();
            assert_eq!(error, UrlError::Malformed, "{text}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
