//! What a run was made on and with: without it a figure says nothing.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use creto_agent::BatchOptions;
use serde::{Deserialize, Serialize};

use crate::options::RunOptions;

/// The node, as whoever started or found it knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeSetup {
    /// Which system it is of: `creto`, or another one.
    #[serde(default)]
    pub system: String,
    /// What is done to each message and on the wire, in words: it is part of the price.
    #[serde(default)]
    pub protection: String,
    /// Its address.
    pub address: String,
    /// Whether it was started for the run, on the same machine.
    pub is_own: bool,
    /// The process whose CPU time is the node's.
    pub pid: Option<i32>,
    /// Its version, where it tells it.
    pub version: Option<String>,
    /// How many shards it has, where that is known.
    pub shards: Option<u16>,
    /// How it makes writes durable, as it says itself.
    pub durability: Option<String>,
    /// CPUs that it was given, where it was started for the run.
    #[serde(default)]
    pub cpus: Option<String>,
}

/// The options of a run, with every default that held.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Options {
    /// What is sent to whom.
    pub scenario: String,
    /// `open`, or `closed`.
    pub r#loop: String,
    /// Messages that are under way in a closed loop.
    pub closed_loop: Option<usize>,
    /// Messages a second that were asked for; none in a closed loop.
    pub rate: Option<u64>,
    /// How the times at which they are due lie to each other.
    pub arrival: String,
    /// Seconds before it is measured.
    pub warmup_s: f64,
    /// Seconds that are measured.
    pub duration_s: f64,
    /// How often the run is made.
    pub repeat: u32,
    /// Bytes of each payload.
    pub size: String,
    /// How urgent they are.
    pub priority: String,
    /// Messages of a batch at most, which a sender signs as one; for another system it does not matter. Reports that do not say it are of
    /// the default.
    #[serde(default = "default_batch_messages")]
    pub batch_messages: usize,
    /// Microseconds that the first message of a batch waits for others at most.
    #[serde(default = "default_batch_age_us")]
    pub batch_age_us: u64,
    /// Connections that send.
    pub connections: usize,
    /// Agents that receive.
    pub agents: usize,
    /// Exponent of Zipf's law over recipients.
    pub skew: Option<f64>,
    /// Consumers that take their time.
    pub slow_consumers: usize,
    /// How much, in milliseconds; of a run without any it does not matter.
    pub slow_by_ms: u64,
    /// Whether those that receive are away until everything was sent.
    pub offline_then_drain: bool,
    /// How long after each other agents leave and come back, in milliseconds.
    pub churn_ms: Option<u64>,
    /// Whether acknowledged ids are written to a file and synced.
    pub ledger: bool,
}

/// What a run was made on and with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Name of the generator's machine.
    pub host: String,
    /// Its processor.
    pub cpu_model: String,
    /// CPUs that the generator may use.
    pub cores: usize,
    /// Release of the kernel.
    pub kernel: String,
    /// Runnable tasks of the machine in the minute before the start.
    pub load_average: Option<f64>,
    /// Version of the generator.
    pub version: String,
    /// The commit it was built from, if whoever built it said so.
    pub commit: Option<String>,
    /// `release`, or `debug`.
    pub build: String,
    /// The node.
    pub node: NodeSetup,
    /// The options.
    pub options: Options,
    /// Decides everything that is left to chance.
    pub seed: u64,
    /// When the first run began, Unix milliseconds.
    pub started_at_ms: u64,
    /// Processes that the generator was divided among; 0 in reports that do not say it.
    #[serde(default)]
    pub processes: u32,
    /// CPUs that it was pinned to.
    #[serde(default)]
    pub generator_cpus: Option<String>,
}

impl Setup {
    /// Of this machine and build.
    pub(crate) fn of(options: &RunOptions, repeat: u32, node: NodeSetup) -> Self {
        let line = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default();
        let load = line("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok());
        Self {
            host: line("/proc/sys/kernel/hostname"),
            cpu_model: cpu_model(&line("/proc/cpuinfo")),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: line("/proc/sys/kernel/osrelease"),
            load_average: load,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("CRETO_COMMIT").map(str::to_owned),
            build: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
            node,
            options: Options::of(options, repeat),
            seed: options.seed,
            started_at_ms: now_ms(),
            processes: options.processes,
            generator_cpus: options.pinned_to.clone(),
        }
    }
}

impl Options {
    fn of(options: &RunOptions, repeat: u32) -> Self {
        let shape = options.whole_shape();
        Self {
            scenario: options.scenario.name().to_owned(),
            r#loop: if options.closed_loop.is_some() { "closed" } else { "open" }.to_owned(),
            closed_loop: options.closed_loop,
            rate: options.closed_loop.is_none().then_some(options.rate_per_s),
            arrival: options.arrival.name().to_owned(),
            warmup_s: options.warmup.as_secs_f64(),
            duration_s: options.duration.as_secs_f64(),
            repeat,
            size: options.sizes.to_string(),
            priority: options.priorities.to_string(),
            batch_messages: options.batch.messages,
            batch_age_us: age_us(options.batch),
            connections: shape.senders,
            agents: shape.receivers + shape.servers + shape.channels * shape.subscribers,
            skew: options.skew,
            slow_consumers: options.slow_consumers,
            slow_by_ms: u64::try_from(options.slow_by.as_millis()).unwrap_or(u64::MAX),
            offline_then_drain: options.offline_then_drain,
            churn_ms: options.churn.map(|every| u64::try_from(every.as_millis()).unwrap_or(u64::MAX)),
            ledger: options.ledger.is_some(),
        }
    }
}

fn default_batch_messages() -> usize {
    BatchOptions::default().messages
}

fn default_batch_age_us() -> u64 {
    age_us(BatchOptions::default())
}

fn age_us(batch: BatchOptions) -> u64 {
    u64::try_from(batch.age.as_micros()).unwrap_or(u64::MAX)
}

/// What `/proc/cpuinfo` calls the processor; empty where it does not.
fn cpu_model(cpuinfo: &str) -> String {
    let named = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    named.map(|(_, name)| name.trim().to_owned()).unwrap_or_default()
}

/// Tells what one run makes in a system from what another one does.
pub(crate) fn run_label() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    // Runs of one process may begin in the same millisecond.
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    format!("{:x}-{:x}-{run:x}", now_ms(), std::process::id())
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_is_called_what_the_kernel_calls_it() {
        let text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC 9R14: 96 cores\nflags\t: fpu";
        assert_eq!(cpu_model(text), "AMD EPYC 9R14: 96 cores");
        assert_eq!(cpu_model("processor\t: 0\n"), "");
    }
}
