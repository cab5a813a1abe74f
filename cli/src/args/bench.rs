//! Arguments of `creto bench`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use creto_agent::BatchOptions;
use creto_io::executor::DriverKind;
use creto_loadgen::{Arrival, NatsSync, PriorityMix, Scenario, SizeMix};

use crate::verb::bench::cpus::CpuList;
use crate::verb::bench::parse_duration;
use crate::verb::bench::worker::Worker;

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) verb: BenchVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BenchVerb {
    /// Send messages when they are due, whatever the node does; latency counts from when each was due.
    ///
    /// Without --connect it starts a node of its own and removes it afterwards. Status 1: the run is not valid, or something that was
    /// acknowledged is missing. docs/performance.md says how it measures.
    Run(Box<BenchRunArgs>),
    /// Hold one run against another, with a verdict: status 1 when the second is worse.
    Compare(BenchCompareArgs),
    /// Set reports of several systems under the same load side by side, as a table in Markdown: status 1 when a run is not valid.
    Peers(BenchPeersArgs),
    /// Read a run's ledger back: was everything acknowledged delivered, once, in order, as it was sent?
    Verify(BenchVerifyArgs),
    /// Measure what cryptography costs on one core of this machine: sender, node and recipient.
    ///
    /// Needs no node; it starts one of its own to replace a key on, and removes it.
    Crypto(BenchCryptoArgs),
    /// Measure the log on a real disk beside what the disk does by itself, in turns.
    ///
    /// Needs no node; beside one that runs it measures what that one leaves. Writes about a gigabyte, and removes it.
    Store(BenchStoreArgs),
    /// Measure what identities, policy and audit cost on this machine: decisions, revocation, the audit log.
    ///
    /// Needs no node; it starts one of its own to revoke agents on, and removes it. Writes some 300 MB, and removes them.
    Control(BenchControlArgs),
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("running").args(["connect", "target"])))]
pub(crate) struct BenchRunArgs {
    /// What is sent to whom: direct, fan-in, fan-out, channel, request or mixed.
    #[arg(long, value_name = "NAME", default_value_t = Scenario::Direct)]
    pub(crate) scenario: Scenario,
    /// Messages per second, all senders together.
    #[arg(long, value_name = "MESSAGES", default_value_t = 1_000)]
    pub(crate) rate: u64,
    /// How the times at which messages are due lie to each other: fixed, or poisson (independent of each other).
    #[arg(long, value_name = "NAME", default_value_t = Arrival::Fixed)]
    pub(crate) arrival: Arrival,
    /// A closed loop instead: so many messages are under way, and the next is sent when one is answered.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["rate", "arrival", "find_max"])]
    pub(crate) closed_loop: Option<usize>,
    /// For how long, such as 30s or 2m.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// Send for so long first without measuring.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration)]
    pub(crate) warmup: Duration,
    /// How often; histograms are added up, and the spread is shown.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) repeat: u32,
    /// Decides everything that is left to chance [default: another one each time; it is printed].
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    /// Bytes of each payload, from 16 on; or a mix, such as 256=70,1024=20,65536=10.
    #[arg(long, value_name = "BYTES", default_value = "1024")]
    pub(crate) size: SizeMix,
    /// How urgent messages are: low, normal, high, critical; or a mix, such as normal=9,high=1.
    #[arg(long, value_name = "NAME", default_value = "normal")]
    pub(crate) priority: PriorityMix,
    /// Messages that a sender signs together at most.
    #[arg(long, value_name = "MESSAGES", default_value_t = BatchOptions::default().messages)]
    pub(crate) batch: usize,
    /// How long the first message of a batch waits for others at most, while earlier ones are under way.
    #[arg(long, value_name = "TIME", default_value = "1ms", value_parser = parse_duration)]
    pub(crate) batch_age: Duration,
    /// Connections that send, each of an agent of its own [default: 1; 8 for fan-in, 2 for mixed].
    #[arg(long, alias = "pairs", value_name = "COUNT")]
    pub(crate) connections: Option<usize>,
    /// Agents that receive: mailboxes, subscribers of each channel, agents that answer [default: as many as connections; 1 for fan-in and
    /// channel, 8 for fan-out].
    #[arg(long, value_name = "COUNT")]
    pub(crate) agents: Option<usize>,
    /// The first recipients get more than the last: by Zipf's law with this exponent, such as 1.0.
    #[arg(long, value_name = "EXPONENT")]
    pub(crate) skew: Option<f64>,
    /// So many of those that receive take their time with each message.
    #[arg(long, value_name = "COUNT", default_value_t = 0)]
    pub(crate) slow_consumers: usize,
    /// How much.
    #[arg(long, value_name = "TIME", default_value = "10ms", value_parser = parse_duration)]
    pub(crate) slow_by: Duration,
    /// Those that receive are away until everything was sent; how fast they read then is measured, too.
    #[arg(long)]
    pub(crate) offline_then_drain: bool,
    /// One after the other of those that receive leaves and comes back, each so long after the one before.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub(crate) churn: Option<Duration>,
    /// Keep the ids of what was acknowledged here, synced as they come; it must not exist.
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: Option<PathBuf>,
    /// Search the highest rate that holds instead, from --rate on: valid, p99 within --p99, no backlog that grows.
    #[arg(long, conflicts_with_all = ["ledger", "offline_then_drain"])]
    pub(crate) find_max: bool,
    /// What p99 of publish to delivered may be at most.
    #[arg(long, value_name = "TIME", default_value = "5ms", value_parser = parse_duration)]
    pub(crate) p99: Duration,
    /// How close the search comes, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0, requires = "find_max")]
    pub(crate) precision: f64,
    /// The search ends at this rate.
    #[arg(long, value_name = "MESSAGES", default_value_t = 1_000_000, requires = "find_max")]
    pub(crate) rate_max: u64,
    /// Drive the node that runs at this address, instead of one of its own; it is the configuration's.
    #[arg(long, alias = "node", value_name = "HOST:PORT")]
    pub(crate) connect: Option<String>,
    /// Drive another system instead, for comparison: nats://HOST:PORT or tls://HOST:PORT, a NATS server with JetStream.
    #[arg(long, value_name = "URL")]
    pub(crate) target: Option<String>,
    /// Where that NATS server's monitoring is: it says when files are synced.
    #[arg(long, value_name = "HOST:PORT", requires = "target")]
    pub(crate) nats_monitor: Option<String>,
    /// How that NATS server syncs, where its monitoring is not asked: always, or default.
    #[arg(long, value_name = "HOW", requires = "target", conflicts_with = "nats_monitor")]
    pub(crate) nats_sync: Option<NatsSync>,
    /// The process of that node or server, if it is on this machine: its CPU time is measured.
    #[arg(long, value_name = "PID", requires = "running", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) node_pid: Option<i32>,
    /// That node's certificate [default: the configuration's]; of a NATS server the one to trust [default: whom the system trusts].
    #[arg(long, value_name = "FILE", requires = "running")]
    pub(crate) certificate: Option<PathBuf>,
    /// Shards of the node of its own [default: as a node chooses by itself].
    #[arg(long, value_name = "COUNT", conflicts_with = "running", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) shards: Option<u16>,
    /// Divide the generator among so many processes, each with its share of connections and agents.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) processes: u32,
    /// CPUs that the generator may use, such as 2-5,8; of several processes each has its share of them.
    #[arg(long, value_name = "CPUS")]
    pub(crate) pin: Option<CpuList>,
    /// CPUs that the node of its own may use [default: those that this process may].
    #[arg(long, value_name = "CPUS", conflicts_with = "running")]
    pub(crate) node_cpus: Option<CpuList>,
    /// What this process does for another one, as that one says it.
    #[arg(long, value_name = "JSON", hide = true)]
    pub(crate) worker: Option<Worker>,
    /// Where the node of its own has its data [default: a folder for temporary files, on a disk where there is one].
    #[arg(long, value_name = "DIR", conflicts_with = "running")]
    pub(crate) dir: Option<PathBuf>,
    /// Write a page with charts that needs nothing but itself.
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// Write every second as comma-separated values.
    #[arg(long, value_name = "FILE")]
    pub(crate) csv: Option<PathBuf>,
    /// Write the histograms of every second as a log that the tools of HdrHistogram read.
    #[arg(long, value_name = "FILE")]
    pub(crate) hdr: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchCompareArgs {
    /// What `creto bench run --json` printed before.
    #[arg(value_name = "BEFORE")]
    pub(crate) before: PathBuf,
    /// And after.
    #[arg(value_name = "AFTER")]
    pub(crate) after: PathBuf,
    /// By how many percent percentiles of latencies may be worse.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    pub(crate) max_latency: f64,
    /// By how many percent CPU time of a message may be worse.
    #[arg(long, value_name = "PERCENT", default_value_t = 5.0)]
    pub(crate) max_cpu: f64,
    /// By how many percent the rate that was achieved may be lower.
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    pub(crate) max_rate: f64,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchPeersArgs {
    /// What `creto bench run --json` printed, with whose it is: creto=FILE. Repetitions have the same name; the first is what others are
    /// set against.
    #[arg(value_name = "NAME=FILE", required = true)]
    pub(crate) reports: Vec<PeerReport>,
    /// Say in the table that this was left out, and why.
    #[arg(long, value_name = "TEXT")]
    pub(crate) left_out: Vec<String>,
    /// Write the table into this document, between the marks that are there for it.
    #[arg(long, value_name = "FILE")]
    pub(crate) into: Option<PathBuf>,
}

/// A report, and whose it is.
#[derive(Clone, Debug)]
pub(crate) struct PeerReport {
    pub(crate) label: String,
    pub(crate) path: PathBuf,
}

impl std::str::FromStr for PeerReport {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((label, path)) if !label.is_empty() && !path.is_empty() && !label.contains('|') => {
                Ok(Self { label: label.to_owned(), path: path.into() })
            }
            _ => Err(format!("`{text}` is not NAME=FILE, such as creto=first.json")),
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct BenchVerifyArgs {
    /// The ledger that `creto bench run --ledger` wrote.
    #[arg(long, value_name = "FILE")]
    pub(crate) ledger: PathBuf,
    /// Compare the files alone; do not read back what is still in the mailboxes.
    #[arg(long)]
    pub(crate) files_only: bool,
    /// Address of the node [default: the configuration's].
    #[arg(long, alias = "node", value_name = "HOST:PORT")]
    pub(crate) connect: Option<String>,
    /// The node's certificate [default: the configuration's].
    #[arg(long, value_name = "FILE")]
    pub(crate) certificate: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchControlArgs {
    /// Where the audit log is written [default: the system's folder for temporary files].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show that measuring works, in no time; the figures mean nothing.
    #[arg(long, hide = true)]
    pub(crate) trial: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BenchStoreArgs {
    /// Where to measure [default: the folder of the log, or the one above it that exists].
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// For how long each of the three loads, such as 10s.
    #[arg(long, value_name = "TIME", default_value = "6s", value_parser = parse_duration)]
    pub(crate) duration: Duration,
    /// What carries out the shard's work [default: as the configuration says].
    #[arg(long, value_enum)]
    pub(crate) driver: Option<DriverArg>,
    /// How writes are made durable [default: as the device does it better].
    #[arg(long, value_enum)]
    pub(crate) sync: Option<SyncArg>,
    /// Group commits on their way at once [default: as many as the device gains from].
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=8))]
    pub(crate) writes_in_flight: Option<u16>,
    /// Messages that wait for their acknowledgement when the log is written as fast as it goes.
    #[arg(long, value_name = "MESSAGES", default_value_t = 4_096, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    pub(crate) in_flight: u64,
    /// Make every segment anew, as a log does that only grows.
    #[arg(long)]
    pub(crate) fresh_segments: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What carries out a shard's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum DriverArg {
    /// A task of a glommio executor.
    Glommio,
    /// A loop with a ring of io_uring to itself.
    IoUring,
}

impl DriverArg {
    pub(crate) fn kind(self) -> DriverKind {
        match self {
            Self::Glommio => DriverKind::Glommio,
            Self::IoUring => DriverKind::IoUring,
        }
    }
}

/// How writes are made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum SyncArg {
    /// fdatasync after the write.
    Fdatasync,
    /// O_DSYNC on the file.
    Dsync,
}

#[derive(Debug, Args)]
pub(crate) struct BenchCryptoArgs {
    /// Print one JSON object.
    #[arg(long)]
    pub(crate) json: bool,
    /// Show that measuring works, in no time; the figures mean nothing.
    #[arg(long, hide = true)]
    pub(crate) trial: bool,
}
