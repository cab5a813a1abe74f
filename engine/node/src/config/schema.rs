//! Every key there is: its kind, its range, what it means. Reading, showing, the template and the documentation all
//! come from this one table, so none of them can forget a key.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use creto_envelope::AgentName;
use creto_envelope::{TreeDigest, limits};
use creto_io::executor::DriverKind;
use creto_policy::mailbox;
use creto_service::limits::ADMINISTRATORS_MAX;
use creto_service::link::{LIFETIME_MAX, LIFETIME_MIN};
use creto_service::{DatabaseUrl, Enrolment, OnFailure, UrlError};

use super::value::{self, Written};
use super::{
    BATCH_MESSAGES_MAX, Config, Cpus, Crypto, LogFormat, LogLevel, SHARD_COUNT_MAX, Shards, WalSync, WritesInFlight,
};

/// One key, for documentation and completion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyDoc {
    /// Section without brackets.
    pub section: &'static str,
    /// Name inside the section.
    pub name: &'static str,
    /// Default in TOML.
    pub default: String,
    /// Values that are accepted.
    pub accepts: String,
    /// What it means.
    pub doc: &'static str,
    /// Environment variable that sets it.
    pub variable: String,
}

/// One row of the table.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    pub(super) doc: &'static str,
    field: Field,
}

/// Where a value lives in [`Config`].
#[derive(Debug)]
struct Access<T> {
    get: fn(&Config) -> &T,
    set: fn(&mut Config) -> &mut T,
}

#[derive(Debug)]
enum Field {
    Address(Access<SocketAddr>),
    /// `host:port` or nothing.
    Endpoint(Access<String>),
    /// A DNS-like name.
    Domain(Access<String>),
    Path(Access<PathBuf>),
    /// A path or nothing.
    OptionalPath(Access<PathBuf>),
    Count(Access<u32>, RangeInclusive<u32>),
    Size(Access<u64>, RangeInclusive<u64>),
    /// A time such as `7d`.
    Span(Access<Duration>, RangeInclusive<Duration>),
    Cpus(Access<Cpus>),
    Shards(Access<Shards>),
    Crypto(Access<Crypto>),
    Level(Access<LogLevel>),
    Format(Access<LogFormat>),
    Digest(Access<TreeDigest>),
    Driver(Access<DriverKind>),
    OnFailure(Access<OnFailure>),
    Enrolment(Access<Enrolment>),
    /// An address of this machine only, or nothing.
    Loopback(Access<Option<SocketAddr>>),
    Agents(Access<Vec<AgentName>>, usize),
    /// The URL of a database, or nothing. Shown without its password.
    Database(Access<Option<DatabaseUrl>>),
    Sync(Access<WalSync>),
    InFlight(Access<WritesInFlight>),
}

macro_rules! at {
    ($section:ident . $name:ident) => {
        Access { get: |config| &config.$section.$name, set: |config| &mut config.$section.$name }
    };
}

macro_rules! key {
    ($section:ident . $name:ident, $kind:ident $(($range:expr))?, $doc:expr) => {
        Key {
            section: stringify!($section),
            name: stringify!($name),
            doc: $doc,
            field: Field::$kind(at!($section.$name) $(, $range)?),
        }
    };
}

/// Sections in the order of the documentation, each with what it is about.
pub(super) const SECTIONS: &[(&str, &str)] = &[
    ("node", "Who this node is, and where it keeps things."),
    ("topology", "Which cores do the work. One shard is one core: it owns its connections, mailboxes and log."),
    ("engine", "How a shard works with the kernel."),
    ("wal", "The log on disk. A message is acknowledged only when it is durable here."),
    (
        "mailbox",
        "What one mailbox may hold, unless `creto mailbox set` says otherwise for it. Beyond it senders get `MailboxFull`; \
         nothing acknowledged is dropped.",
    ),
    ("net", "What is accepted from the network."),
    ("control", "The door for the operator: agents and their keys."),
    ("keys", "What becomes of an encryption key that its agent has replaced."),
    ("audit", "What is kept of what happened, for auditors."),
    (
        "alerts",
        "When an operator is to look: how much of something within how long. An alert is in the node's log and in the audit \
         log; `creto audit alerts` lists them.",
    ),
    (
        "policy",
        "Who may do what. Without a file, agents of one organization may talk to each other, and nobody else. \
         `creto policy check` reads a file before a node does.",
    ),
    (
        "link",
        "Control and nodes as processes of their own: `creto control` serves nodes that it admits, `creto serve` finds it by `control`. \
         See docs/operations.md.",
    ),
    ("crypto", "Which algorithms this deployment demands, where there is a choice."),
    ("metrics", "Who is told what the node counts and measures, beside the operator at the control socket."),
    ("log", "What the node says about itself, on standard error."),
];

/// The largest group commit fits into the smallest segment.
const SEGMENT_BYTES_MIN: u64 = 8 * MIB;
/// What `creto_store` asks of a log: one segment is written, one prepared, and room must stay to settle and trim.
pub(super) const SEGMENTS_MIN: u64 = 5;
/// What one shard remembers over all senders.
const DEDUP_MESSAGES_MAX: u32 = 4 << 20;
/// Beside them the driver has room for other disk operations.
const WRITES_IN_FLIGHT_MAX: u16 = 8;
const _: () = assert!(SEGMENT_BYTES_MIN >= creto_store::limits::WRITE_BYTES_MAX as u64);
const _: () = assert!(DEDUP_MESSAGES_MAX as usize <= creto_store::limits::DEDUP_SHARD_IDS_MAX);
const _: () = assert!((WRITES_IN_FLIGHT_MAX as usize) < creto_io::limits::DISK_OPERATIONS_MAX);

const RETENTION_MIN: Duration = Duration::from_secs(*mailbox::RETENTION_S.start() as u64);
const RETENTION_MAX: Duration = Duration::from_secs(*mailbox::RETENTION_S.end() as u64);
const DEDUP_WINDOW_MIN: Duration = Duration::from_secs(600);
const DEDUP_WINDOW_MAX: Duration = Duration::from_secs(86_400);
const KEY_GRACE_MIN: Duration = Duration::from_secs(3_600);
const KEY_GRACE_MAX: Duration = Duration::from_secs(30 * 86_400);
const ALERT_THRESHOLD_MAX: u32 = 1_000_000;
const ALERT_WINDOW_MIN: Duration = Duration::from_secs(1);
const ALERT_WINDOW_MAX: Duration = Duration::from_secs(86_400);
const AUDIT_RETENTION_MIN: Duration = Duration::from_secs(86_400);
const AUDIT_RETENTION_MAX: Duration = Duration::from_secs(36_500 * 86_400);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;

/// Every key, in the order of the documentation.
pub(super) const KEYS: &[Key] = &[
    key!(node.listen, Address, "UDP address for agents. Every shard listens on it; the kernel spreads connections."),
    key!(node.advertise, Endpoint, "`host:port` that agents are told, when it differs from `listen`. Empty: the same."),
    key!(node.data_dir, Path, "Folder of everything the node keeps. Relative to this file."),
    key!(
        node.trust_domain,
        Domain,
        "Trust domain in which agent names are unique. Part of every agent id: never change it."
    ),
    key!(node.certificate, Path, "TLS certificate (PEM). Relative to `data_dir`."),
    key!(node.private_key, Path, "TLS private key (PEM), mode 0600. Relative to `data_dir`."),
    key!(topology.cpus, Cpus, "CPUs to pin shards to: \"auto\", or a list such as \"0,2-3\"."),
    key!(topology.shards, Shards, "Number of shards. \"auto\" is one per CPU."),
    key!(
        topology.crypto,
        Crypto,
        "Who verifies signatures: \"inline\" is each shard itself, a list such as \"4-5\" is one worker on each of these \
         CPUs for all shards."
    ),
    key!(
        engine.driver,
        Driver,
        "What carries out a shard's work: a task of a glommio executor, or a loop with a ring of io_uring to itself."
    ),
    key!(wal.dir, Path, "Folder of the log; put it on the fastest durable device. Relative to `data_dir`."),
    key!(
        wal.segment_bytes,
        Size(SEGMENT_BYTES_MIN..=creto_store::limits::SEGMENT_BYTES_MAX),
        "Size of one preallocated segment file, a multiple of 4 KiB."
    ),
    key!(
        wal.wal_bytes_max,
        Size(SEGMENTS_MIN * SEGMENT_BYTES_MIN..=64 * TIB),
        "Most log that one shard keeps on disk; at least five segments. Full: senders get `StorageFull`."
    ),
    key!(
        wal.sync,
        Sync,
        "How a write is made durable: a sync after it, or a file opened with O_DSYNC. \"auto\" measures the device once."
    ),
    key!(
        wal.writes_in_flight,
        InFlight,
        "Group commits of one shard on their way to the device at once. \"auto\" measures the device once."
    ),
    key!(mailbox.messages_max, Count(mailbox::MESSAGES_MAX), "Most messages queued in one mailbox."),
    key!(mailbox.bytes_max, Size(mailbox::BYTES_MAX), "Most bytes queued in one mailbox."),
    key!(
        mailbox.shard_bytes_max,
        Size(64 * MIB..=4 * TIB),
        "Most bytes queued on one shard, all its mailboxes together. They are on disk."
    ),
    key!(
        mailbox.cache_bytes,
        Size(MIB..=TIB),
        "Bytes of queued messages that one shard keeps in memory, the latest first; the others are read back from disk."
    ),
    key!(
        mailbox.dedup_window_messages,
        Count(1024..=DEDUP_MESSAGES_MAX),
        "Message ids remembered per sender, so that a message sent again is stored once."
    ),
    key!(
        mailbox.dedup_window,
        Span(DEDUP_WINDOW_MIN..=DEDUP_WINDOW_MAX),
        "Age up to which a message id is accepted, and remembered: one that is older is refused, for nobody could tell \
         whether it came before."
    ),
    key!(
        mailbox.retention,
        Span(RETENTION_MIN..=RETENTION_MAX),
        "How long a message is kept that nobody acknowledges, if its sender says no less. Longer by 25 hours for one that \
         brings the key of a session."
    ),
    key!(
        mailbox.redelivery_base_ms,
        Count(100..=3_600_000),
        "Milliseconds before a message is delivered again that its consumer refused; twice as many every time."
    ),
    key!(
        mailbox.redelivery_max_ms,
        Count(100..=86_400_000),
        "Most milliseconds of that, unless the consumer asks for more."
    ),
    key!(
        mailbox.max_deliveries,
        Count(0..=255),
        "Failed deliveries after which a message goes to the dead letters of its mailbox: at least 2, or 0 for never."
    ),
    key!(net.connections_max, Count(1..=1_000_000), "Most connections that one shard keeps open."),
    key!(
        net.in_flight_messages_max,
        Count(1..=limits::IN_FLIGHT_MESSAGES_MAX),
        "Most messages of one connection that wait for their acknowledgement."
    ),
    key!(net.batch_messages_max, Count(1..=BATCH_MESSAGES_MAX), "Most messages under one batch signature."),
    key!(
        net.batch_bytes_max,
        Size(64 * KIB..=limits::BATCH_BYTES_MAX as u64),
        "Most bytes of one signed batch. Less than 2 MiB also makes the largest message smaller."
    ),
    key!(net.idle_timeout_s, Count(1..=3600), "Seconds of silence after which a connection is closed."),
    key!(control.socket, Path, "Unix socket of the control API, mode 0600. Relative to `data_dir`."),
    key!(
        control.enrolment,
        Enrolment,
        "Who may register agents there: \"open\" is whoever may use the socket, \"token\" whoever brings a token of `creto token create`, too."
    ),
    key!(
        control.listen,
        Loopback,
        "TCP address of the same API for administrators, who sign each request. Empty: none. There is no TLS in it, so it is \
         for this machine, for SSH and for a proxy."
    ),
    key!(control.administrators, Agents(ADMINISTRATORS_MAX), "Agents whose signed requests are taken there."),
    key!(
        control.spiffe_bundle,
        OptionalPath,
        "Trust bundle (PEM) of `node.trust_domain`: whoever has an X.509-SVID from it registers the agent of its path, without a token. Relative to this file. Empty: nobody."
    ),
    key!(
        control.database,
        Database,
        "PostgreSQL database that has the agents and their keys instead of the file `control.redb`: \
         `postgres://USER@HOST/DATABASE`, see docs/operations.md. Without a password there it is `PGPASSWORD`. Empty: the file."
    ),
    key!(
        keys.grace,
        Span(KEY_GRACE_MIN..=KEY_GRACE_MAX),
        "How long messages are accepted that are sealed to a replaced key. An emergency ends the old keys at once."
    ),
    key!(
        audit.retention,
        Span(AUDIT_RETENTION_MIN..=AUDIT_RETENTION_MAX),
        "How long what happened is kept. Then the entries go, in files of 65,536; their hashes stay, and what is left verifies."
    ),
    key!(
        alerts.forged_signatures,
        Count(0..=ALERT_THRESHOLD_MAX),
        "Signatures of one agent that do not hold before an alert is raised; 0: never."
    ),
    key!(alerts.forged_signatures_window, Span(ALERT_WINDOW_MIN..=ALERT_WINDOW_MAX), "Within so long."),
    key!(
        alerts.replays,
        Count(0..=ALERT_THRESHOLD_MAX),
        "Messages of one agent that come again too late to be told from new ones, or in another agent's name; 0: never."
    ),
    key!(alerts.replays_window, Span(ALERT_WINDOW_MIN..=ALERT_WINDOW_MAX), "Within so long."),
    key!(
        alerts.denials,
        Count(0..=ALERT_THRESHOLD_MAX),
        "Messages of one agent that policy denies, or that are for nobody; 0: never."
    ),
    key!(alerts.denials_window, Span(ALERT_WINDOW_MIN..=ALERT_WINDOW_MAX), "Within so long."),
    key!(
        alerts.login_failures,
        Count(0..=ALERT_THRESHOLD_MAX),
        "Logins from one address, and enrolments, without the right keys or token; 0: never."
    ),
    key!(alerts.login_failures_window, Span(ALERT_WINDOW_MIN..=ALERT_WINDOW_MAX), "Within so long."),
    key!(
        alerts.clock_skew,
        Count(0..=ALERT_THRESHOLD_MAX),
        "Messages of one agent that are dated too far from the node's clock; 0: never."
    ),
    key!(alerts.clock_skew_window, Span(ALERT_WINDOW_MIN..=ALERT_WINDOW_MAX), "Within so long."),
    key!(
        alerts.revoked_keys,
        Count(0..=ALERT_THRESHOLD_MAX),
        "Uses of an agent's keys after it was revoked or suspended; 0: never."
    ),
    key!(alerts.revoked_keys_window, Span(ALERT_WINDOW_MIN..=ALERT_WINDOW_MAX), "Within so long."),
    key!(policy.file, OptionalPath, "Policy in Rego, see docs/policy.md. Relative to this file. Empty: none."),
    key!(
        policy.on_failure,
        OnFailure,
        "What holds when the node starts and the file cannot be loaded: with \"deny\" it does not start; with \"allow\" everything \
         is allowed, counted and logged until it can."
    ),
    key!(
        policy.decisions_max,
        Count(1_024..=16_777_216),
        "Decisions about pairs of agents that one shard keeps, 64 bytes each, taken at the start."
    ),
    key!(
        link.control,
        Endpoint,
        "`host:port` of this node's control service. Empty: it is in the node's own process. With one, the sections `policy` and `keys` \
         and all of `control` but its socket are for that service."
    ),
    key!(
        link.control_certificate,
        Path,
        "TLS certificate (PEM) of that control service: exactly this one is believed. Relative to this file."
    ),
    key!(link.listen, Address, "TCP address on which `creto control` takes nodes."),
    key!(
        link.nodes,
        Path,
        "Folder of the certificates of nodes that `creto control` serves, `NAME.crt` each: a file there admits a node, within a second. \
         Relative to `data_dir`."
    ),
    key!(
        link.snapshot_lifetime,
        Span(LIFETIME_MIN..=LIFETIME_MAX),
        "How long nodes of `creto control` go by what they knew last when they lose it. Then they deny everything: it is also how long \
         a revoked agent can act where nobody hears of it."
    ),
    key!(
        crypto.tree_digest,
        Digest,
        "Hash of the tree under each batch signature: batches over another one are refused. SDKs are told with `tree_digest`."
    ),
    key!(
        metrics.listen,
        Loopback,
        "TCP address that answers `GET /metrics` for Prometheus, unsigned, with numbers only. Empty: none. It is for this machine, \
         for a collector on it and for a proxy. See docs/metrics.md."
    ),
    key!(log.level, Level, "Least severe line that is written."),
    key!(log.format, Format, "\"text\" for people, \"json\" for machines: one object per line."),
];

impl Key {
    /// `section.name`
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// The environment variable that sets it.
    pub(super) fn variable(&self) -> String {
        format!("{}{}__{}", super::ENV_PREFIX, self.section.to_uppercase(), self.name.to_uppercase())
    }

    /// Sets the value from what was written, or says in one line what is wrong with it.
    pub(super) fn read(&self, config: &mut Config, written: &Written<'_>) -> Result<(), String> {
        match &self.field {
            Field::Address(at) => *(at.set)(config) = read_address(written)?,
            Field::Endpoint(at) => *(at.set)(config) = read_endpoint(written)?,
            Field::Domain(at) => *(at.set)(config) = read_domain(written)?,
            Field::Path(at) => *(at.set)(config) = read_path(written)?,
            Field::OptionalPath(at) if written.text() == Some("") => *(at.set)(config) = PathBuf::new(),
            Field::OptionalPath(at) => *(at.set)(config) = read_path(written)?,
            Field::OnFailure(at) => *(at.set)(config) = value::read_word(written)?,
            Field::Count(at, range) => *(at.set)(config) = value::read_count(written, range)?,
            Field::Size(at, range) => *(at.set)(config) = value::read_size(written, range)?,
            Field::Span(at, range) => *(at.set)(config) = value::read_span(written, range)?,
            Field::Cpus(at) => *(at.set)(config) = value::read_cpus(written)?,
            Field::Crypto(at) => *(at.set)(config) = value::read_crypto(written)?,
            Field::Shards(at) => *(at.set)(config) = value::read_shards(written, SHARD_COUNT_MAX)?,
            Field::Level(at) => *(at.set)(config) = value::read_word(written)?,
            Field::Format(at) => *(at.set)(config) = value::read_word(written)?,
            Field::Digest(at) => *(at.set)(config) = value::read_word(written)?,
            Field::Driver(at) => *(at.set)(config) = value::read_word(written)?,
            Field::Enrolment(at) => *(at.set)(config) = value::read_word(written)?,
            Field::Loopback(at) if written.text() == Some("") => *(at.set)(config) = None,
            Field::Loopback(at) => *(at.set)(config) = Some(read_loopback(written)?),
            Field::Agents(at, most) => *(at.set)(config) = value::read_agents(written, *most)?,
            Field::Database(at) if written.text() == Some("") => *(at.set)(config) = None,
            Field::Database(at) => *(at.set)(config) = Some(read_database(written)?),
            Field::Sync(at) => *(at.set)(config) = value::read_word(written)?,
            Field::InFlight(at) => *(at.set)(config) = value::read_in_flight(written, WRITES_IN_FLIGHT_MAX)?,
        }
        Ok(())
    }

    /// The value in TOML, so that reading it back gives the same.
    pub(super) fn write(&self, config: &Config) -> String {
        match &self.field {
            Field::Address(at) => toml_string(&(at.get)(config).to_string()),
            Field::Endpoint(at) | Field::Domain(at) => toml_string((at.get)(config)),
            Field::Path(at) | Field::OptionalPath(at) => toml_string(&(at.get)(config).to_string_lossy()),
            Field::OnFailure(at) => toml_string(value::Word::word(*(at.get)(config))),
            Field::Count(at, _) => (at.get)(config).to_string(),
            Field::Size(at, _) => toml_string(&value::size_text(*(at.get)(config))),
            Field::Span(at, _) => toml_string(&value::span_text(*(at.get)(config))),
            Field::Cpus(at) => toml_string(&(at.get)(config).to_string()),
            Field::Crypto(at) => toml_string(&(at.get)(config).to_string()),
            Field::Shards(at) => match (at.get)(config) {
                Shards::Auto => toml_string("auto"),
                Shards::Exactly(count) => count.to_string(),
            },
            Field::Level(at) => toml_string(&(at.get)(config).to_string()),
            Field::Format(at) => toml_string(&(at.get)(config).to_string()),
            Field::Digest(at) => toml_string(value::Word::word(*(at.get)(config))),
            Field::Driver(at) => toml_string(value::Word::word(*(at.get)(config))),
            Field::Enrolment(at) => toml_string(value::Word::word(*(at.get)(config))),
            Field::Loopback(at) => {
                toml_string(&(at.get)(config).map(|address| address.to_string()).unwrap_or_default())
            }
            Field::Agents(at, _) => {
                let names = (at.get)(config).iter().map(AgentName::as_str);
                toml_string(&names.collect::<Vec<_>>().join(", "))
            }
            Field::Database(at) => {
                toml_string((at.get)(config).as_ref().map(DatabaseUrl::without_password).unwrap_or_default())
            }
            Field::Sync(at) => toml_string(value::Word::word(*(at.get)(config))),
            Field::InFlight(at) => match (at.get)(config) {
                WritesInFlight::Auto => toml_string("auto"),
                WritesInFlight::Exactly(count) => count.to_string(),
            },
        }
    }

    fn accepts(&self) -> String {
        match &self.field {
            Field::Address(_) => "`IP:port`".to_owned(),
            Field::Endpoint(_) => "`host:port` or empty".to_owned(),
            Field::Domain(_) => "a name: `a-z 0-9 . -`".to_owned(),
            Field::Path(_) => "a path".to_owned(),
            Field::OptionalPath(_) => "a path or empty".to_owned(),
            Field::OnFailure(_) => words::<OnFailure>(),
            Field::Count(_, range) => format!("{} to {}", range.start(), range.end()),
            Field::Size(_, range) => {
                format!("{} to {}", value::size_text(*range.start()), value::size_text(*range.end()))
            }
            Field::Span(_, range) => {
                format!("`\"{}\"` to `\"{}\"`", value::span_text(*range.start()), value::span_text(*range.end()))
            }
            Field::Cpus(_) => "`\"auto\"`, `\"0,2-3\"`, `[0, 2, 3]`".to_owned(),
            Field::Crypto(_) => "`\"inline\"`, `\"4-5\"`, `[4, 5]`".to_owned(),
            Field::Shards(_) => format!("`\"auto\"`, 1 to {SHARD_COUNT_MAX}"),
            Field::Level(_) => words::<LogLevel>(),
            Field::Format(_) => words::<LogFormat>(),
            Field::Digest(_) => words::<TreeDigest>(),
            Field::Driver(_) => words::<DriverKind>(),
            Field::Enrolment(_) => words::<Enrolment>(),
            Field::Loopback(_) => "`127.0.0.1:port`, `[::1]:port` or empty".to_owned(),
            Field::Agents(_, most) => format!("`\"acme/ops, acme/night\"`, `[\"acme/ops\"]`, at most {most}"),
            Field::Database(_) => "`postgres://user@host/database` or empty".to_owned(),
            Field::Sync(_) => words::<WalSync>(),
            Field::InFlight(_) => format!("`\"auto\"`, 1 to {WRITES_IN_FLIGHT_MAX}"),
        }
    }
}

/// Every key for documentation.
pub(super) fn docs() -> Vec<KeyDoc> {
    let defaults = Config::default();
    let doc = |key: &Key| KeyDoc {
        section: key.section,
        name: key.name,
        default: key.write(&defaults),
        accepts: key.accepts(),
        doc: key.doc,
        variable: key.variable(),
    };
    KEYS.iter().map(doc).collect()
}

/// `text` as a TOML basic string.
pub(super) fn toml_string(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn words<W: value::Word>() -> String {
    W::WORDS.iter().map(|(word, _)| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
}

/// What is wrong is said without what was written: there may be a password in it.
fn read_database(written: &Written<'_>) -> Result<DatabaseUrl, String> {
    written.text().unwrap_or_default().parse().map_err(|error: UrlError| error.to_string())
}

fn read_address(written: &Written<'_>) -> Result<SocketAddr, String> {
    let expected = || format!("expected an IP address and port such as \"127.0.0.1:7443\", found {}", written.found());
    written.text().ok_or_else(expected)?.parse().map_err(|_| expected())
}

/// Reads an address that nobody else can reach.
fn read_loopback(written: &Written<'_>) -> Result<SocketAddr, String> {
    let address = read_address(written)?;
    match address.ip().is_loopback() {
        true => Ok(address),
        false => Err(format!("{} can be reached from elsewhere: use 127.0.0.1 or [::1]", address.ip())),
    }
}

fn read_endpoint(written: &Written<'_>) -> Result<String, String> {
    let expected = || format!("expected a host and port such as \"node-1.example:7443\", found {}", written.found());
    let text = written.text().ok_or_else(expected)?;
    let host_and_port = text.rsplit_once(':').is_some_and(|(host, port)| {
        let host_chars = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
        !host.is_empty() && host.chars().all(host_chars) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    if text.is_empty() || host_and_port { Ok(text.to_owned()) } else { Err(expected()) }
}

fn read_domain(written: &Written<'_>) -> Result<String, String> {
    const DOMAIN_BYTES_MAX: usize = 255;
    let expected = || {
        format!(
            "expected a name of lower-case letters, digits, dots and dashes, such as \"creto.local\", found {}",
            written.found()
        )
    };
    let text = written.text().ok_or_else(expected)?;
    let label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if text.len() <= DOMAIN_BYTES_MAX && text.split('.').all(label) { Ok(text.to_owned()) } else { Err(expected()) }
}

fn read_path(written: &Written<'_>) -> Result<PathBuf, String> {
    match written.text() {
        Some(text) if !text.is_empty() && !text.contains('\0') => Ok(Path::new(text).to_owned()),
        _ => Err(format!("expected a path, found {}", written.found())),
    }
}
