//! What a run drives: a creto node of its own, one that runs, or a NATS server.

use std::path::{Path, PathBuf};

use creto_agent::TrustDomain;
use creto_loadgen::{CretoNode, NatsError, NatsServer, NodeSetup, Target};
use creto_node::config::{Config, WalSync};
use creto_service::client::Client;
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::sync::watch;

use crate::args::bench::BenchRunArgs;
use crate::client::{control_failure, node_certificate, resolve};
use crate::exit::{Exit, Failure, plain};
use crate::verb::demo::node::NodeHost;

/// What is shown of the words of a node that ended.
const LOG_LINES_SHOWN: usize = 12;
const CRETO: &str = "creto";
/// What a creto node and its agents do for every message: there is no way without it.
const CRETO_PROTECTION: &str = "QUIC with TLS 1.3 to the node; every message encrypted for its recipients by its sender, every batch signed with \
                                Ed25519 and ML-DSA-65, verified by the node and by each recipient";

/// The system that is driven, and what is known of it.
pub(super) struct Driven {
    pub(super) target: Target,
    /// Where agents and channels are registered: a creto node's.
    pub(super) control: Option<Client>,
    pub(super) setup: NodeSetup,
    /// The process, where it is a node of its own.
    pub(super) process: Option<Process>,
    /// Where the configuration and the certificate of a node of its own are.
    pub(super) folder: Option<PathBuf>,
}

impl Driven {
    pub(super) fn own(host: &NodeHost, cpus: Option<String>) -> Result<Self, Failure> {
        let described = host.described();
        Ok(Self {
            process: Some(Process::of(host)?),
            folder: Some(host.folder().to_owned()),
            target: Target::Creto(CretoNode::new(host.address(), host.certificate())),
            control: Some(Client::new(host.control_socket())),
            setup: NodeSetup {
                system: CRETO.to_owned(),
                protection: CRETO_PROTECTION.to_owned(),
                address: host.address().to_string(),
                is_own: true,
                cpus,
                pid: host.pid(),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                shards: described.shard_count(),
                durability: Some(described.log_written_by.clone()).filter(|text| !text.is_empty()),
            },
        })
    }

    /// One that runs, and that this configuration is of.
    pub(super) async fn running(
        address: &str,
        certificate: Option<&Path>,
        pid: Option<i32>,
        config: &Config,
    ) -> Result<Self, Failure> {
        let node = resolve(Some(address), config)?;
        let trust_domain = TrustDomain::parse(&config.node.trust_domain);
        let control = Client::new(config.control_socket());
        let status = control.status().await.map_err(|error| control_failure(&error))?;
        let shards = control.readiness().await.ok().and_then(|ready| u16::try_from(ready.shards.len()).ok());
        Ok(Self {
            target: Target::Creto(CretoNode {
                trust_domain: trust_domain.map_err(|error| Failure::of(Exit::Usage, &error))?,
                tree_digest: config.crypto.tree_digest,
                ..CretoNode::new(node, node_certificate(certificate, config)?)
            }),
            control: Some(control),
            setup: NodeSetup {
                system: CRETO.to_owned(),
                protection: CRETO_PROTECTION.to_owned(),
                address: node.to_string(),
                is_own: false,
                cpus: None,
                pid,
                version: Some(status.version),
                shards: shards.filter(|count| *count > 0),
                durability: durability(config),
            },
            process: None,
            folder: None,
        })
    }

    /// A NATS server that runs.
    pub(super) async fn nats(url: &str, args: &BenchRunArgs) -> Result<Self, Failure> {
        let Some((host, is_encrypted)) = nats_host(url) else {
            let what = format!("`{url}` is no target that this command can drive");
            return Err(Failure::new(
                Exit::Usage,
                what,
                "give nats://HOST:PORT or tls://HOST:PORT; a creto node is --connect HOST:PORT",
            ));
        };
        if args.certificate.is_some() && !is_encrypted {
            let what = format!("--certificate is of no use with {url}: nothing is encrypted there");
            return Err(Failure::new(Exit::Usage, what, "give tls://HOST:PORT, or leave it out"));
        }
        let server = NatsServer {
            url: url.to_owned(),
            certificate: args.certificate.clone(),
            monitor: args.nats_monitor.clone(),
            sync: args.nats_sync,
        };
        let found = server.look().await.map_err(|error| nats_failure(&error))?;
        let protection = if found.is_encrypted { "TLS to the server" } else { "plain TCP" };
        let target = Target::Nats(server);
        Ok(Self {
            setup: NodeSetup {
                system: target.system().to_owned(),
                protection: format!("{protection}; no message is signed or encrypted by its sender"),
                address: host.to_owned(),
                is_own: false,
                cpus: None,
                pid: args.node_pid,
                version: Some(found.version),
                shards: None,
                durability: Some(found.durability),
            },
            target,
            control: None,
            process: None,
            folder: None,
        })
    }

    /// Ends when a node of its own does, with why.
    pub(super) async fn died(&self) -> Failure {
        match &self.process {
            Some(process) => process.died().await,
            None => std::future::pending().await,
        }
    }
}

/// The process of a node of its own, to notice its end. Whoever started it collects it.
pub(super) struct Process {
    /// How it ended, once it has.
    ended: watch::Receiver<Option<String>>,
    log: PathBuf,
}

impl Process {
    fn of(host: &NodeHost) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::new(Exit::System, format!("the node's process cannot be watched: {}", plain(&error)), "")
        };
        let pid = host.pid().and_then(Pid::from_raw).ok_or_else(|| cannot(std::io::ErrorKind::NotFound.into()))?;
        let (end, ended) = watch::channel(None);
        // Ends with the node, at the latest when the run is over.
        let thread = std::thread::Builder::new().name("creto-node-end".to_owned()).spawn(move || {
            let status = loop {
                match waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                    Err(Errno::INTR) => {}
                    status => break status.ok().flatten(),
                }
            };
            let how = match status.map(|status| (status.terminating_signal(), status.exit_status())) {
                Some((Some(signal), _)) => format!(" by signal {signal}"),
                Some((None, Some(status))) => format!(" with status {status}"),
                _ => String::new(),
            };
            end.send_replace(Some(how));
        });
        thread.map_err(cannot)?;
        Ok(Self { ended, log: host.folder().join("node.log") })
    }

    async fn died(&self) -> Failure {
        let mut ended = self.ended.clone();
        let how = match ended.wait_for(Option::is_some).await {
            Ok(how) => how.clone().unwrap_or_default(),
            // Nothing tells any more; agents notice by themselves that nobody answers.
            Err(_) => return std::future::pending().await,
        };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
        let what = format!("the node ended{how} while it was under load; what it wrote last:\n{}", last.join("\n"));
        Failure::new(Exit::Unreachable, what, "`creto doctor` looks at the machine and prints the fix")
    }
}

/// How the node of this configuration makes writes durable: as it is told, or as it measured and remembers.
fn durability(config: &Config) -> Option<String> {
    match config.wal.sync {
        WalSync::Fdatasync => Some("write + fdatasync, as configured".to_owned()),
        WalSync::Dsync => Some("O_DSYNC, as configured".to_owned()),
        WalSync::Auto => {
            let measured = creto_node::device::remembered(&config.data_dir(), &config.wal_dir())?;
            Some(measured.report.choice.to_string())
        }
    }
}

/// Host and port of a NATS server's address, and whether it is spoken to over TLS.
fn nats_host(url: &str) -> Option<(&str, bool)> {
    let (scheme, host) = url.split_once("://")?;
    let is_encrypted = match scheme {
        "nats" => false,
        "tls" => true,
        _ => return None,
    };
    let (name, port) = host.rsplit_once(':')?;
    (!name.is_empty() && port.parse::<u16>().is_ok()).then_some((host, is_encrypted))
}

pub(super) fn nats_failure(error: &NatsError) -> Failure {
    match error {
        NatsError::LeftOut => Failure::of(Exit::Usage, error),
        NatsError::Connect { .. } | NatsError::Monitor { .. } => Failure::of(Exit::Unreachable, error),
        _ => Failure::of(Exit::Refused, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_a_scheme_a_host_and_a_port() {
        assert_eq!(nats_host("nats://127.0.0.1:4222"), Some(("127.0.0.1:4222", false)));
        assert_eq!(nats_host("tls://[::1]:4222"), Some(("[::1]:4222", true)));
        for wrong in ["127.0.0.1:4222", "nats://127.0.0.1", "nats://:4222", "kafka://host:9092", "nats://host:port"] {
            assert_eq!(nats_host(wrong), None, "{wrong}");
        }
    }
}
