//! What the machine answers when asked. Nothing here judges.

use std::collections::BTreeSet;
use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use creto_crypto_accel::processor::Processor;
use creto_io::ExecutorError;
use creto_io::discipline::{Discipline, discipline};
use creto_io::executor::{ExecutorConfig, preflight};
use creto_node::config::{Config, Origin, Shown};
use creto_node::data_dir::written_shards;
use creto_node::host::Host;
use creto_node::plan::Plan;
use creto_service::DatabaseUrl;
use creto_service::client::{Client, ClientError};
use creto_service::health::Readiness;
use rustix::fs::Access;
use rustix::process::{Resource, getrlimit};

use super::disk::{Disk, Room, nearest_existing};
use super::pair::Pair;
use crate::process::{self, soft_limit};
use crate::verb::tune::{Setting, Tuner, look};

/// How long a node that has its socket may take to say how it is.
const ANSWER: Duration = Duration::from_secs(10);
/// The secret keys that lie in the data folder, beside the private key, which the configuration names.
const SECRETS: &[&str] = &["audit/audit.key"];

/// Everything that the doctor looks at.
pub(super) struct Facts {
    /// Release of the kernel, as `uname -r` prints it.
    pub(super) kernel: String,
    /// Whether this process runs in a container, where the fix is made outside.
    pub(super) in_container: bool,
    /// Who runs it.
    pub(super) uid: u32,
    pub(super) host: Host,
    /// Most files that a process may have open, by its soft limit; `None` when unlimited.
    pub(super) open_files_max: Option<u64>,
    /// Whether this limit, and that of locked memory, are those of the node that runs, and not of whoever asks.
    pub(super) limits_of_the_node: bool,
    /// What came of making an executor as a shard does: only that shows seccomp filters, sysctls and limits at work.
    pub(super) executor: Result<(), ExecutorError>,
    /// `kernel.io_uring_disabled`: 0 for everyone, 1 for members of a group, 2 for no one.
    pub(super) uring_disabled: Option<u64>,
    pub(super) disk: Disk,
    pub(super) data: DataFolder,
    /// Most bytes a socket may buffer for receiving and for sending.
    pub(super) udp_buffer_bytes_max: (Option<u64>, Option<u64>),
    /// What happened when the address was bound.
    pub(super) address: Result<(), io::ErrorKind>,
    /// Instructions that cryptography is fast with, each with whether the CPU has it.
    pub(super) cpu_features: Vec<(&'static str, bool)>,
    /// The same, as cryptography chooses by it.
    pub(super) processor: Processor,
    pub(super) node: NodeSeen,
    pub(super) clock_source: Option<String>,
    pub(super) clock: Discipline,
    /// What `creto tune` would say of CPUs, interrupts and pages.
    pub(super) settings: Vec<Setting>,
    pub(super) files: Files,
}

/// What is heard of a node on this configuration's control socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NodeSeen {
    /// There is none.
    None,
    /// The socket is another user's.
    NotAllowed,
    /// Somebody holds the socket and does not answer: with why.
    Silent(String),
    /// It answers.
    Says(Readiness),
}

/// The folder of everything that the node keeps.
pub(super) struct DataFolder {
    pub(super) path: PathBuf,
    /// Its permission bits and its owner, if it is there.
    pub(super) owned: Option<(u32, u32)>,
    /// Whether whoever asks may write in it, or may make it.
    pub(super) is_writable: bool,
    /// Something of the node's in it that belongs to another user than the folder does: the node cannot write it.
    pub(super) stranger: Option<(PathBuf, u32)>,
    /// The names of other things in it that do: nobody needs them.
    pub(super) foreign: Vec<String>,
    /// Secret keys in it that others may read, with their permission bits.
    pub(super) open_secrets: Vec<(PathBuf, u32)>,
    /// How far the youngest file in it is dated ahead of the clock.
    pub(super) ahead: Duration,
    /// Shards that it was written with; 0 by a control service.
    pub(super) written_shards: Option<u16>,
    /// The room on its file system.
    pub(super) room: Room,
    /// Whether the log is on the same file system.
    pub(super) has_the_log: bool,
}

/// The files that `creto init` makes.
pub(super) struct Files {
    /// The configuration, if there is one.
    pub(super) config: Option<PathBuf>,
    /// Its permission bits.
    pub(super) config_mode: Option<u32>,
    /// Whether a password stands in it.
    pub(super) config_has_password: bool,
    pub(super) private_key: PathBuf,
    /// Permission bits of the private key, if it exists.
    pub(super) private_key_mode: Option<u32>,
    /// Whether whoever asks may not even see if it exists.
    pub(super) private_key_is_hidden: bool,
    pub(super) certificate: PathBuf,
    pub(super) certificate_exists: bool,
    /// What the two are to each other, where both can be read.
    pub(super) pair: Pair,
}

impl Facts {
    /// Asks everything; measuring the disk takes two seconds. `remember` has the next start write by what is measured.
    pub(super) fn gather(config: &Config, config_file: Option<&Path>, remember: bool) -> io::Result<Self> {
        let mut host = Host::probe()?;
        let mut open_files_max = getrlimit(Resource::Nofile).current;
        // What holds for the shell of whoever asks is nothing to a node that somebody else has started.
        let node = process::behind(&config.control_socket());
        let of_node =
            node.and_then(|pid| Some((soft_limit(pid, "Max locked memory")?, soft_limit(pid, "Max open files")?)));
        if let Some((memlock_bytes, open_files)) = of_node {
            (host.memlock_bytes, open_files_max) = (memlock_bytes, open_files);
        }
        // Its unit may give it fewer CPUs, and with them fewer shards.
        if let Some(cpus) = node.and_then(process::cpus) {
            host.cpus.retain(|cpu| cpus.contains(&cpu.cpu_index));
        }
        // Without a plan there are other things to mend first.
        let plan = Plan::resolve(config, &host).ok();
        let tuners = BTreeSet::from([Tuner::Governor, Tuner::IrqAffinity, Tuner::HugePages]);
        let settings = plan.map(|plan| look(Path::new("/"), &host, &plan, &tuners)).unwrap_or_default();
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            in_container: Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists(),
            uid: rustix::process::geteuid().as_raw(),
            host,
            open_files_max,
            limits_of_the_node: of_node.is_some(),
            executor: preflight(&ExecutorConfig { driver: config.engine.driver, ..ExecutorConfig::new(0, None) }),
            uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            disk: Disk::measure(&config.data_dir(), &config.wal_dir(), remember),
            data: DataFolder::look(&config.data_dir(), &config.wal_dir()),
            udp_buffer_bytes_max: (number("/proc/sys/net/core/rmem_max"), number("/proc/sys/net/core/wmem_max")),
            address: UdpSocket::bind(config.node.listen).map(drop).map_err(|error| error.kind()),
            node: NodeSeen::ask(&config.control_socket()),
            cpu_features: cpu_features(),
            processor: Processor::detect(),
            clock_source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            clock: discipline(),
            settings,
            files: Files::look(config, config_file),
        })
    }
}

impl NodeSeen {
    fn ask(socket: &Path) -> Self {
        match UnixStream::connect(socket) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Self::NotAllowed,
            Err(_) => return Self::None,
        }
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return Self::Silent(error.to_string()),
        };
        match runtime.block_on(Client::new(socket).with_timeout(ANSWER).readiness()) {
            Ok(readiness) => Self::Says(readiness),
            Err(ClientError::NotAllowed(_)) => Self::NotAllowed,
            Err(error) => Self::Silent(error.to_string()),
        }
    }
}

impl DataFolder {
    fn look(path: &Path, wal_dir: &Path) -> Self {
        let metadata = std::fs::metadata(path).ok();
        let owner = metadata.as_ref().map(MetadataExt::uid);
        let entries = || std::fs::read_dir(path).into_iter().flatten().flatten();
        let of_others = entries().filter_map(|entry| {
            let uid = entry.metadata().ok()?.uid();
            // A file system of its own has that folder, and it is root's.
            (Some(uid) != owner && entry.file_name() != "lost+found").then(|| (entry.path(), uid))
        });
        let (own, foreign): (Vec<_>, Vec<_>) = of_others.partition(|(file, _)| is_of_the_node(file, wal_dir));
        let name = |(file, _): (PathBuf, u32)| Some(file.file_name()?.to_string_lossy().into_owned());
        let mut foreign: Vec<String> = foreign.into_iter().filter_map(name).collect();
        foreign.sort();
        let youngest = entries().filter_map(|entry| entry.metadata().ok()?.modified().ok()).max();
        let open_secrets = SECRETS.iter().filter_map(|name| {
            let (file, mode) = (path.join(name), mode_of(&path.join(name))?);
            (mode & 0o077 != 0).then_some((file, mode))
        });
        let (here, there) = (nearest_existing(path), nearest_existing(wal_dir));
        let device = |folder: &Path| std::fs::metadata(folder).ok().map(|metadata| metadata.dev());
        Self {
            path: path.to_owned(),
            owned: metadata.map(|metadata| (metadata.permissions().mode() & 0o7777, metadata.uid())),
            is_writable: rustix::fs::access(&here, Access::WRITE_OK | Access::EXEC_OK).is_ok(),
            stranger: own.into_iter().next(),
            foreign,
            open_secrets: open_secrets.collect(),
            ahead: youngest.and_then(|youngest| youngest.duration_since(SystemTime::now()).ok()).unwrap_or_default(),
            written_shards: written_shards(path),
            room: Room::of(&here),
            has_the_log: device(&here) == device(&there),
        }
    }
}

/// Whether something in the data folder is what a node or a control service keeps there.
fn is_of_the_node(file: &Path, wal_dir: &Path) -> bool {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    wal_dir.starts_with(file)
        || name.starts_with("control.")
        || name.starts_with("node.")
        || matches!(&*name, "audit" | "nodes" | "restore.partial")
}

impl Files {
    fn look(config: &Config, file: Option<&Path>) -> Self {
        let (private_key, certificate) = (config.private_key(), config.certificate());
        let is_of_the_file = |row: &Shown| row.name == "database" && matches!(row.origin, Origin::File { .. });
        let has_password = config.control.database.as_ref().is_some_and(DatabaseUrl::has_password)
            && config.show().iter().any(is_of_the_file);
        Self {
            config: file.map(Path::to_owned),
            config_mode: file.and_then(mode_of),
            config_has_password: has_password,
            private_key_mode: mode_of(&private_key),
            private_key_is_hidden: std::fs::metadata(&private_key)
                .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied),
            certificate_exists: certificate.is_file(),
            pair: Pair::look(&certificate, &private_key),
            private_key,
            certificate,
        }
    }
}

fn mode_of(file: &Path) -> Option<u32> {
    std::fs::metadata(file).ok().map(|metadata| metadata.permissions().mode() & 0o7777)
}

fn cpu_features() -> Vec<(&'static str, bool)> {
    #[cfg(target_arch = "x86_64")]
    return vec![
        ("aes", std::arch::is_x86_feature_detected!("aes")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("sha", std::arch::is_x86_feature_detected!("sha")),
        ("vaes", std::arch::is_x86_feature_detected!("vaes")),
        ("avx512ifma", std::arch::is_x86_feature_detected!("avx512ifma")),
    ];
    #[cfg(target_arch = "aarch64")]
    return vec![
        ("aes", std::arch::is_aarch64_feature_detected!("aes")),
        ("sha2", std::arch::is_aarch64_feature_detected!("sha2")),
        ("sha3", std::arch::is_aarch64_feature_detected!("sha3")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Vec::new();
}

fn text(path: &str) -> Option<String> {
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

fn number(path: &str) -> Option<u64> {
    text(path)?.parse().ok()
}
