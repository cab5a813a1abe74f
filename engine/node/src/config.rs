//! The configuration as written: one TOML file, every key also from the environment.
//!
//! It promises that a value which is loaded was understood: an unknown key, a wrong type or a number out of range is
//! an error that points at the place and names the nearest right thing. It does not know the machine:
//! [`crate::plan`] turns what is written here into cores and sizes.
//!
//! ```
//! use creto_node::config::Config;
//!
//! let error = Config::parse("creto.toml", "[wal]\nsegment_byte = 4096\n", []).unwrap_err();
//! assert_eq!(
//!     error.to_string(),
//!     "creto.toml:2:1: unknown key `segment_byte` in [wal]\n  \
//!      |\n\
//!      2 | segment_byte = 4096\n  \
//!      | ^^^^^^^^^^^^ did you mean `segment_bytes`?"
//! );
//! ```

mod problem;
mod read;
mod schema;
mod show;
mod value;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use creto_audit::monitor::{Limit, Limits, Rule, usual};
use creto_envelope::{AgentName, TreeDigest, limits};
use creto_io::executor::DriverKind;
use creto_service::{DatabaseUrl, Enrolment, OnFailure, PolicyOptions};

pub use problem::{ConfigError, Place, Problem};
pub use schema::KeyDoc;
pub use show::{Origin, Shown};
pub use value::{
    Cpus, Crypto, LogFormat, LogLevel, Shards, WalSync, WritesInFlight, parse_size, parse_span, size_text, span_text,
};
pub use value::{cpu_list_from_text, cpu_list_text};

/// What every environment variable that sets a key begins with: `CRETO__SECTION__KEY`.
pub const ENV_PREFIX: &str = "CRETO__";
/// What those begin with that are looked at, because one with too few underscores was probably meant to set a key. Others of it belong to
/// the command line (`CRETO_CONFIG`), or to Kubernetes, which makes `CRETO_NODE_SERVICE_HOST` of a service's name: they are left alone.
const ENV_PREFIX_LIKE: &str = "CRETO_";

/// Largest number of shards: each owns at least one partition.
pub const SHARD_COUNT_MAX: u16 = limits::PARTITION_COUNT;

const BATCH_MESSAGES_MAX: u32 = 1_024;
const _: () = assert!(BATCH_MESSAGES_MAX as usize == limits::BATCH_MESSAGES_MAX);

/// The whole configuration of one node, checked, with defaults filled in.
///
/// Two configurations are equal when their values are, wherever those came from.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Who the node is and where it keeps things.
    pub node: NodeSection,
    /// Which cores do the work.
    pub topology: TopologySection,
    /// How a shard works with the kernel.
    pub engine: EngineSection,
    /// The log on disk.
    pub wal: WalSection,
    /// What one mailbox may hold.
    pub mailbox: MailboxSection,
    /// What one node accepts from the network.
    pub net: NetSection,
    /// The door for the operator.
    pub control: ControlSection,
    /// What becomes of encryption keys that agents replaced.
    pub keys: KeysSection,
    /// The audit log.
    pub audit: AuditSection,
    /// When an operator is to look.
    pub alerts: AlertsSection,
    /// Who may do what.
    pub policy: PolicySection,
    /// Control and nodes as processes of their own.
    pub link: LinkSection,
    /// Which algorithms are demanded.
    pub crypto: CryptoSection,
    /// Who is told what the node counts.
    pub metrics: MetricsSection,
    /// What the node says about itself.
    pub log: LogSection,
    /// Folder that relative paths start from: the one of the file.
    base: PathBuf,
    /// Where each value came from, in the order of the schema.
    origins: Vec<Origin>,
}

/// `[node]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSection {
    /// UDP address that every shard listens on.
    pub listen: SocketAddr,
    /// `host:port` told to agents; empty means the same as `listen`.
    pub advertise: String,
    /// Folder of everything the node keeps.
    pub data_dir: PathBuf,
    /// Trust domain in which agent names are unique.
    pub trust_domain: String,
    /// TLS certificate in PEM.
    pub certificate: PathBuf,
    /// TLS private key in PEM.
    pub private_key: PathBuf,
}

/// `[topology]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopologySection {
    /// CPUs that shards are pinned to.
    pub cpus: Cpus,
    /// How many shards.
    pub shards: Shards,
    /// Who verifies signatures.
    pub crypto: Crypto,
}

/// `[engine]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineSection {
    /// What carries out a shard's work.
    pub driver: DriverKind,
}

/// `[wal]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalSection {
    /// Folder of the log; one sub-folder per shard.
    pub dir: PathBuf,
    /// Bytes of one preallocated segment file, a multiple of 4096.
    pub segment_bytes: u64,
    /// Most bytes of log that one shard keeps on disk.
    pub wal_bytes_max: u64,
    /// How a write is made durable.
    pub sync: WalSync,
    /// Group commits of one shard on their way to the device at once.
    pub writes_in_flight: WritesInFlight,
}

/// `[mailbox]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailboxSection {
    /// Most messages queued in one mailbox.
    pub messages_max: u32,
    /// Most bytes queued in one mailbox.
    pub bytes_max: u64,
    /// Most bytes queued on one shard, all its mailboxes together: on disk.
    pub shard_bytes_max: u64,
    /// Bytes of queued messages that one shard keeps in memory.
    pub cache_bytes: u64,
    /// Message ids remembered per sender to hide duplicates.
    pub dedup_window_messages: u32,
    /// Age up to which a message id is accepted and remembered.
    pub dedup_window: Duration,
    /// How long what nobody acknowledges is kept.
    pub retention: Duration,
    /// Pause before a message is delivered again that its consumer refused, in milliseconds; it doubles.
    pub redelivery_base_ms: u32,
    /// The longest such pause, in milliseconds.
    pub redelivery_max_ms: u32,
    /// Failed deliveries after which a message goes to the dead letters; 0 = never.
    pub max_deliveries: u32,
}

/// `[net]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetSection {
    /// Most connections that one shard keeps open.
    pub connections_max: u32,
    /// Most unacknowledged messages of one connection.
    pub in_flight_messages_max: u32,
    /// Most messages under one batch signature.
    pub batch_messages_max: u32,
    /// Most bytes of one signed batch.
    pub batch_bytes_max: u64,
    /// Seconds of silence after which a connection is closed.
    pub idle_timeout_s: u32,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSection {
    /// Unix socket of the control API.
    pub socket: PathBuf,
    /// Who may register agents there.
    pub enrolment: Enrolment,
    /// Where the same API listens on TCP, of this machine only; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// The agents whose signed requests are taken there.
    pub administrators: Vec<AgentName>,
    /// Trust bundle (PEM) whose SVIDs register agents there; empty: none do.
    pub spiffe_bundle: PathBuf,
    /// The database that has the directory instead of the file in the data folder.
    pub database: Option<DatabaseUrl>,
}

/// `[keys]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeysSection {
    /// How long messages are accepted that are sealed to a key that was replaced.
    pub grace: Duration,
}

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsSection {
    /// Where what the node counts and measures is told to whoever asks, of this machine only; `None`: nowhere.
    pub listen: Option<SocketAddr>,
}

/// `[audit]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditSection {
    /// How long entries of the audit log are kept; their hashes are kept for ever.
    pub retention: Duration,
}

/// `[alerts]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AlertsSection {
    /// Signatures that do not hold, of one agent or address, that raise an alert.
    pub forged_signatures: u32,
    /// Within so long.
    pub forged_signatures_window: Duration,
    /// Messages that came again too late, or in another name, of one agent or address, that raise an alert.
    pub replays: u32,
    /// Within so long.
    pub replays_window: Duration,
    /// Messages that policy denies, of one agent or address, that raise an alert.
    pub denials: u32,
    /// Within so long.
    pub denials_window: Duration,
    /// Logins and enrolments that fail, of one agent or address, that raise an alert.
    pub login_failures: u32,
    /// Within so long.
    pub login_failures_window: Duration,
    /// Messages that are dated too far from the clock, of one agent or address, that raise an alert.
    pub clock_skew: u32,
    /// Within so long.
    pub clock_skew_window: Duration,
    /// Uses of revoked or suspended keys, of one agent or address, that raise an alert.
    pub revoked_keys: u32,
    /// Within so long.
    pub revoked_keys_window: Duration,
}

impl AlertsSection {
    /// As the audit log's monitor takes it.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let limit = |threshold, window: Duration| Limit {
            threshold,
            window_s: u32::try_from(window.as_secs()).unwrap_or(u32::MAX),
        };
        Limits::usual()
            .with(Rule::ForgedSignatures, limit(self.forged_signatures, self.forged_signatures_window))
            .with(Rule::Replays, limit(self.replays, self.replays_window))
            .with(Rule::Denials, limit(self.denials, self.denials_window))
            .with(Rule::LoginFailures, limit(self.login_failures, self.login_failures_window))
            .with(Rule::ClockSkew, limit(self.clock_skew, self.clock_skew_window))
            .with(Rule::RevokedKeys, limit(self.revoked_keys, self.revoked_keys_window))
    }
}

/// `[policy]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicySection {
    /// The file of policy; empty: agents of one organization may talk to each other.
    pub file: PathBuf,
    /// What holds when the node starts and the file cannot be loaded.
    pub on_failure: OnFailure,
    /// Decisions that one shard keeps, 64 bytes each.
    pub decisions_max: u32,
}

/// `[link]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSection {
    /// `host:port` of this node's control service; empty: it is in this process.
    pub control: String,
    /// That one's TLS certificate in PEM.
    pub control_certificate: PathBuf,
    /// Where a control service takes nodes.
    pub listen: SocketAddr,
    /// Folder of the certificates of nodes that it serves.
    pub nodes: PathBuf,
    /// How long a node goes by what it knew last.
    pub snapshot_lifetime: Duration,
}

/// `[crypto]`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CryptoSection {
    /// Hash of the tree under each batch signature.
    pub tree_digest: TreeDigest,
}

/// `[log]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSection {
    /// Least severe line that is written.
    pub level: LogLevel,
    /// Shape of a line.
    pub format: LogFormat,
}

impl Config {
    /// Reads the file at `path` and lays the variables of `env` (usually `std::env::vars_os()`) over it.
    ///
    /// # Errors
    /// The file cannot be read, or something in it or in the environment was not understood. Every problem is listed.
    pub fn load(path: &Path, env: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Self, ConfigError> {
        let bytes = std::fs::read(path).map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let base = path.parent().unwrap_or(Path::new(""));
        read::read(&path.display().to_string(), base, &bytes, env)
    }

    /// Reads `text`, called `name` in errors and in origins; relative paths stay relative to the working folder.
    ///
    /// # Errors
    /// Something in the text or in the environment was not understood.
    pub fn parse(
        name: &str,
        text: &str,
        env: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        read::read(name, Path::new(""), text.as_bytes(), env)
    }

    /// Every value with where it came from, in the order of the documentation.
    ///
    /// Its `Display` is itself a configuration file: loading it gives an equal configuration.
    #[must_use]
    pub fn show(&self) -> Vec<Shown> {
        show::rows(self)
    }

    /// The shown values as a TOML file, each with a comment that names its origin.
    #[must_use]
    pub fn to_toml(&self) -> String {
        show::to_toml(&self.show())
    }

    /// Every key there is, for documentation and completion.
    #[must_use]
    pub fn keys() -> Vec<KeyDoc> {
        schema::docs()
    }

    /// A commented file with every key at its default, except those in `chosen` (`("node.listen", "\"[::]:7443\"")`,
    /// the value in TOML), which are written out.
    #[must_use]
    pub fn template(chosen: &[(&str, String)]) -> String {
        show::template(chosen)
    }

    /// The same configuration as if its file lay in `folder`: relative paths start there.
    #[must_use]
    pub fn in_folder(self, folder: &Path) -> Self {
        Self { base: folder.to_owned(), ..self }
    }

    /// Folder of everything the node keeps.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.base.join(&self.node.data_dir)
    }

    /// Folder of the log, which may be on a device of its own.
    #[must_use]
    pub fn wal_dir(&self) -> PathBuf {
        self.data_dir().join(&self.wal.dir)
    }

    /// Path of the control socket.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.data_dir().join(&self.control.socket)
    }

    /// Path of the TLS certificate.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.data_dir().join(&self.node.certificate)
    }

    /// Path of the TLS private key.
    #[must_use]
    pub fn private_key(&self) -> PathBuf {
        self.data_dir().join(&self.node.private_key)
    }

    /// The trust bundle of SPIFFE, if one is configured.
    #[must_use]
    pub fn spiffe_bundle(&self) -> Option<PathBuf> {
        let path = &self.control.spiffe_bundle;
        (!path.as_os_str().is_empty()).then(|| self.base.join(path))
    }

    /// The database of the directory, if one is configured, with the password of the environment (`PGPASSWORD`, as PostgreSQL's
    /// own programs take it) where its URL has none.
    #[must_use]
    pub fn database(&self) -> Option<DatabaseUrl> {
        let url = self.control.database.clone()?.relative_to(&self.base);
        if url.has_password() {
            return Some(url);
        }
        match std::env::var("PGPASSWORD") {
            Ok(password) if !password.is_empty() => Some(url.with_password(password)),
            _ => Some(url),
        }
    }

    /// The file of policy, if one is configured, and what holds without it.
    #[must_use]
    pub fn policy_options(&self) -> PolicyOptions {
        let file = (!self.policy.file.as_os_str().is_empty()).then(|| self.base.join(&self.policy.file));
        PolicyOptions { file, on_failure: self.policy.on_failure }
    }

    /// Whether the control service of this node is a process elsewhere.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        !self.link.control.is_empty()
    }

    /// The certificate of this node's control service.
    #[must_use]
    pub fn control_certificate(&self) -> PathBuf {
        self.base.join(&self.link.control_certificate)
    }

    /// Folder of the certificates of nodes that a control service serves.
    #[must_use]
    pub fn link_nodes(&self) -> PathBuf {
        self.data_dir().join(&self.link.nodes)
    }

    /// Keys that are set, and that a node with its control service elsewhere does not look at.
    pub(crate) fn of_control_only(&self) -> Vec<&'static str> {
        let default = Self::default();
        [
            ("policy.file", self.policy.file == default.policy.file),
            ("policy.on_failure", self.policy.on_failure == default.policy.on_failure),
            ("keys.grace", self.keys == default.keys),
            ("control.listen", self.control.listen == default.control.listen),
            ("control.administrators", self.control.administrators == default.control.administrators),
            ("control.enrolment", self.control.enrolment == default.control.enrolment),
            ("control.spiffe_bundle", self.control.spiffe_bundle == default.control.spiffe_bundle),
            ("control.database", self.control.database == default.control.database),
        ]
        .into_iter()
        .filter_map(|(key, is_default)| (!is_default).then_some(key))
        .collect()
    }

    /// The `host:port` that agents are told.
    #[must_use]
    pub fn advertised(&self) -> String {
        if self.node.advertise.is_empty() { self.node.listen.to_string() } else { self.node.advertise.clone() }
    }
}

impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
            && self.topology == other.topology
            && self.wal == other.wal
            && self.mailbox == other.mailbox
            && self.net == other.net
            && self.control == other.control
            && self.keys == other.keys
            && self.audit == other.audit
            && self.alerts == other.alerts
            && self.policy == other.policy
            && self.link == other.link
            && self.crypto == other.crypto
            && self.metrics == other.metrics
            && self.log == other.log
    }
}

impl Eq for Config {}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7443)),
            advertise: String::new(),
            data_dir: PathBuf::from("data"),
            trust_domain: "creto.local".to_owned(),
            certificate: PathBuf::from("node.crt"),
            private_key: PathBuf::from("node.key"),
        }
    }
}

impl Default for WalSection {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("wal"),
            segment_bytes: 64 << 20,
            wal_bytes_max: 16 << 30,
            sync: WalSync::Auto,
            writes_in_flight: WritesInFlight::Auto,
        }
    }
}

impl Default for MailboxSection {
    fn default() -> Self {
        Self {
            messages_max: 100_000,
            bytes_max: 64 << 20,
            shard_bytes_max: creto_store::limits::SHARD_BYTES_MAX,
            cache_bytes: creto_store::limits::CACHE_BYTES as u64,
            dedup_window_messages: 65_536,
            dedup_window: Duration::from_millis(creto_store::limits::DEDUP_WINDOW_MS),
            retention: Duration::from_millis(creto_shard::limits::RETENTION_MS),
            redelivery_base_ms: 1_000,
            redelivery_max_ms: 300_000,
            max_deliveries: u32::from(creto_store::limits::DELIVERIES_MAX),
        }
    }
}

impl Default for NetSection {
    fn default() -> Self {
        Self {
            connections_max: 4096,
            in_flight_messages_max: limits::IN_FLIGHT_MESSAGES_MAX,
            batch_messages_max: BATCH_MESSAGES_MAX,
            batch_bytes_max: limits::BATCH_BYTES_MAX as u64,
            idle_timeout_s: 30,
        }
    }
}

impl Default for ControlSection {
    fn default() -> Self {
        Self {
            socket: PathBuf::from("control.sock"),
            enrolment: Enrolment::default(),
            spiffe_bundle: PathBuf::new(),
            listen: None,
            administrators: Vec::new(),
            database: None,
        }
    }
}

impl Default for PolicySection {
    fn default() -> Self {
        Self {
            file: PathBuf::new(),
            on_failure: OnFailure::Deny,
            decisions_max: u32::try_from(creto_shard::limits::DECISION_TABLE_ENTRIES).expect("it is far below"),
        }
    }
}

impl Default for LinkSection {
    fn default() -> Self {
        Self {
            control: String::new(),
            control_certificate: PathBuf::from("control.crt"),
            listen: SocketAddr::from(([127, 0, 0, 1], 7444)),
            nodes: PathBuf::from("nodes"),
            snapshot_lifetime: Duration::from_secs(60),
        }
    }
}

impl Default for AuditSection {
    fn default() -> Self {
        Self { retention: Duration::from_secs(365 * 86_400) }
    }
}

impl Default for AlertsSection {
    fn default() -> Self {
        let threshold = |rule| usual(rule).threshold;
        let window = |rule| Duration::from_secs(usual(rule).window_s.into());
        Self {
            forged_signatures: threshold(Rule::ForgedSignatures),
            forged_signatures_window: window(Rule::ForgedSignatures),
            replays: threshold(Rule::Replays),
            replays_window: window(Rule::Replays),
            denials: threshold(Rule::Denials),
            denials_window: window(Rule::Denials),
            login_failures: threshold(Rule::LoginFailures),
            login_failures_window: window(Rule::LoginFailures),
            clock_skew: threshold(Rule::ClockSkew),
            clock_skew_window: window(Rule::ClockSkew),
            revoked_keys: threshold(Rule::RevokedKeys),
            revoked_keys_window: window(Rule::RevokedKeys),
        }
    }
}

impl Default for KeysSection {
    fn default() -> Self {
        Self { grace: Duration::from_millis(creto_policy::KEY_GRACE_MS) }
    }
}
