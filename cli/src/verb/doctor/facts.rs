//! What the machine answers when asked. Nothing here judges.

use std::io;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use creto_crypto_accel::processor::Processor;
use creto_io::ExecutorError;
use creto_io::executor::{ExecutorConfig, preflight};
use creto_node::config::Config;
use creto_node::host::Host;

use super::disk::Disk;

/// Everything that the doctor looks at.
pub(super) struct Facts {
    /// Release of the kernel, as `uname -r` prints it.
    pub(super) kernel: String,
    /// Whether this process runs in a container, where the fix is made outside.
    pub(super) in_container: bool,
    pub(super) host: Host,
    /// What came of making an executor as a shard does: only that shows seccomp filters, sysctls and limits at work.
    pub(super) executor: Result<(), ExecutorError>,
    /// `kernel.io_uring_disabled`: 0 for everyone, 1 for members of a group, 2 for no one.
    pub(super) uring_disabled: Option<u64>,
    pub(super) disk: Disk,
    /// Most bytes a socket may buffer for receiving and for sending.
    pub(super) udp_buffer_bytes_max: (Option<u64>, Option<u64>),
    /// What happened when the address was bound.
    pub(super) address: Result<(), io::ErrorKind>,
    /// Instructions that cryptography is fast with, each with whether the CPU has it.
    pub(super) cpu_features: Vec<(&'static str, bool)>,
    /// The same, as cryptography chooses by it.
    pub(super) processor: Processor,
    /// Whether a node answers on the control socket.
    pub(super) node_runs: bool,
    pub(super) clock_source: Option<String>,
    pub(super) files: Files,
}

/// The files that `creto init` makes.
pub(super) struct Files {
    /// The configuration, if there is one.
    pub(super) config: Option<PathBuf>,
    pub(super) private_key: PathBuf,
    /// Permission bits of the private key, if it exists.
    pub(super) private_key_mode: Option<u32>,
    pub(super) certificate_exists: bool,
}

impl Facts {
    /// Asks everything; measuring the disk takes two seconds. `remember` has the next start write by what is measured.
    pub(super) fn gather(config: &Config, config_file: Option<&Path>, remember: bool) -> io::Result<Self> {
        let host = Host::probe()?;
        let private_key = config.private_key();
        let mode = std::fs::metadata(&private_key).ok().map(|metadata| metadata.permissions().mode() & 0o7777);
        Ok(Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            in_container: Path::new("/.dockerenv").exists() || Path::new("/run/.containerenv").exists(),
            host,
            executor: preflight(&ExecutorConfig { driver: config.engine.driver, ..ExecutorConfig::new(0, None) }),
            uring_disabled: number("/proc/sys/kernel/io_uring_disabled"),
            disk: Disk::measure(&config.data_dir(), &config.wal_dir(), remember),
            udp_buffer_bytes_max: (number("/proc/sys/net/core/rmem_max"), number("/proc/sys/net/core/wmem_max")),
            address: UdpSocket::bind(config.node.listen).map(drop).map_err(|error| error.kind()),
            node_runs: UnixStream::connect(config.control_socket()).is_ok(),
            cpu_features: cpu_features(),
            processor: Processor::detect(),
            clock_source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            files: Files {
                config: config_file.map(Path::to_owned),
                private_key,
                private_key_mode: mode,
                certificate_exists: config.certificate().is_file(),
            },
        })
    }
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
