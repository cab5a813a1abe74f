//! From the configuration as written to cores and sizes: a pure function of the configuration and the machine.
//!
//! It promises that a plan which is returned can be started as far as the machine's description tells; what works but
//! wastes something is a [`Warning`] that says so. It does not know how the machine is asked: [`crate::host`] does.

#[cfg(test)]
mod tests;

use std::fmt;

use creto_envelope::envelope::ENVELOPE_HEADER_BYTES;
use creto_envelope::limits::AEAD_TAG_BYTES;
use creto_io::executor::{DriverKind, IO_MEMORY_BYTES, MEMORY_LOCK_BYTES_MIN};
use creto_store::limits::MESSAGE_OVERHEAD_BYTES;

use crate::config::{Config, Cpus, Crypto, Shards, cpu_list_text, size_text};
use crate::host::Host;

/// An executor registers its direct-IO memory with each of its three rings, and each registration is locked.
const IO_MEMORY_REGISTRATIONS: u64 = 3;
/// What the rings themselves lock on kernels before 5.12; newer ones count it as ordinary memory.
const RING_MEMORY_BYTES: u64 = 96 << 10;
/// What a shard takes in and has not yet answered, at most (`creto_shard::limits`), and as much again for its
/// connections, index and caches when it is busy.
const WORKING_BYTES_PER_SHARD: u64 = 256 << 20;
/// What the index holds of a queued message.
const INDEX_ENTRY_BYTES: u64 = 64;
/// The envelope of an empty message in a session.
const MESSAGE_BYTES_MIN: u64 = (ENVELOPE_HEADER_BYTES + AEAD_TAG_BYTES) as u64;
/// Receive and send buffer asked from the kernel for each shard's socket: about 3 ms of 10 Gbit/s.
const UDP_BUFFER_BYTES: u32 = 4 << 20;
/// Submission entries of a shard's rings: a turn queues a few dozen operations.
const URING_ENTRIES: u32 = 256;
/// All rings between shards together hold at most this many slots, so that 256 shards do not pay for 65,280 deep rings.
const RING_SLOTS_TOTAL_MAX: u32 = 1 << 20;
const RING_SLOTS_MIN: u32 = 16;
const RING_SLOTS_MAX: u32 = 4096;

/// What one shard runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPlan {
    /// Position among the shards, from 0.
    pub shard_index: u16,
    /// The CPU it is pinned to; `None` when shards share CPUs and the kernel places them.
    pub cpu: Option<u16>,
}

/// Everything about the process that follows from configuration and machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One per shard, in the order of their indices; never empty.
    pub shards: Vec<ShardPlan>,
    /// The CPUs of the crypto workers, one each; empty when shards verify themselves.
    pub crypto_cpus: Vec<u16>,
    /// Slots of the ring from one shard to another, one ring per ordered pair; a power of two.
    pub ring_slots: u32,
    /// Submission entries of each shard's io_uring.
    pub uring_entries: u32,
    /// Receive and send buffer asked for each shard's UDP socket.
    pub udp_buffer_bytes: u32,
    /// `RLIMIT_MEMLOCK` below which the node does not start; 0 with a driver that locks nothing.
    pub memlock_bytes_min: u64,
    /// `RLIMIT_MEMLOCK` with which every shard can register its direct-IO memory with the kernel.
    pub memlock_bytes_wanted: u64,
    /// Most memory the node comes to use when every queue is full.
    pub memory_bytes_max: u64,
    /// Most disk the log comes to use, all shards together.
    pub wal_disk_bytes_max: u64,
    /// What works but is probably not meant.
    pub warnings: Vec<Warning>,
}

/// Why the node cannot run as configured on this machine.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A CPU was named that this process may not use.
    #[error(
        "{key} names CPU {cpu}, but this process may only run on {allowed}; \
         name CPUs of that list, or widen it (taskset, cpuset cgroup, docker --cpuset-cpus)"
    )]
    CpuNotAllowed {
        /// The key that names it.
        key: &'static str,
        /// The CPU.
        cpu: u16,
        /// CPUs that may be used, as a list.
        allowed: String,
    },
    /// A CPU was named that the machine does not have.
    #[error("{key} names CPU {cpu}, but this machine has {online}; name CPUs of that list")]
    NoSuchCpu {
        /// The key that names it.
        key: &'static str,
        /// The CPU.
        cpu: u16,
        /// CPUs that are there, as a list.
        online: String,
    },
    /// A shard and a crypto worker on one CPU.
    #[error(
        "CPU {cpu} is named in topology.cpus and in topology.crypto: a shard and a worker on one CPU take turns; \
         name it in one of them, or set crypto = \"inline\""
    )]
    CpuUsedTwice {
        /// The CPU.
        cpu: u16,
    },
    /// The crypto workers leave no CPU for a shard.
    #[error(
        "topology.crypto names all CPUs that this process may use ({cpus}), and no shard could run; \
         name fewer, or set crypto = \"inline\""
    )]
    NoCpuForShards {
        /// The CPUs, as a list.
        cpus: String,
    },
    /// More shards than CPUs, and the CPUs were named one by one.
    #[error(
        "topology.shards is {shard_count}, but topology.cpus names {cpu_count} ({cpus}); \
         lower shards to {cpu_count}, name more CPUs, or set cpus = \"auto\" to let shards share"
    )]
    MoreShardsThanNamedCpus {
        /// Shards asked for.
        shard_count: u16,
        /// CPUs named.
        cpu_count: usize,
        /// The CPUs, as a list.
        cpus: String,
    },
    /// The machine's description names no CPU.
    #[error("no CPU may be used by this process; check its cpuset (`taskset -cp $$`)")]
    NoCpu,
}

/// What works but is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Shards take turns on CPUs: latency follows the scheduler.
    ShardsShareCpus {
        /// Shards.
        shard_count: u16,
        /// CPUs that may be used.
        cpu_count: usize,
    },
    /// CPUs were named that no shard gets.
    CpusLeftOver {
        /// The CPUs, as a list.
        cpus: String,
    },
    /// The control group gives less CPU time than the shards' cores could use: it stops all of them when it is spent.
    QuotaBelowShards {
        /// Shards.
        shard_count: u16,
        /// Thousandths of a CPU.
        quota_millicpus: u32,
    },
    /// Two shards or workers sit on the two threads of one core.
    ShardsShareCore {
        /// First CPU.
        cpu: u16,
        /// Second CPU.
        sibling: u16,
    },
    /// Full queues would not fit into memory.
    MemoryMayRunOut {
        /// What full queues take.
        memory_bytes_max: u64,
        /// What there is.
        memory_bytes: u64,
    },
}

impl Plan {
    /// Lays the shards over the CPUs that may be used and sizes what each needs.
    ///
    /// # Errors
    /// The configuration names what this machine does not have.
    pub fn resolve(config: &Config, host: &Host) -> Result<Self, PlanError> {
        let mut warnings = Vec::new();
        let shards = place(config, host, &mut warnings)?;
        let shard_count = u16::try_from(shards.len()).expect("the configuration allows at most 256 shards");
        let memory_bytes_max = shard_memory_bytes(config) * u64::from(shard_count);
        if memory_bytes_max > host.memory_bytes {
            warnings.push(Warning::MemoryMayRunOut { memory_bytes_max, memory_bytes: host.memory_bytes });
        }
        let (memlock_bytes_min, memlock_bytes_wanted) = match config.engine.driver {
            DriverKind::Glommio => {
                let locked_bytes = IO_MEMORY_BYTES as u64 * IO_MEMORY_REGISTRATIONS + RING_MEMORY_BYTES;
                (MEMORY_LOCK_BYTES_MIN, MEMORY_LOCK_BYTES_MIN.max(locked_bytes * u64::from(shard_count)))
            }
            // It registers no buffers, and its ring is ordinary memory.
            DriverKind::IoUring => (0, 0),
        };
        Ok(Self {
            crypto_cpus: crypto_cpus(config).to_vec(),
            ring_slots: ring_slots(shard_count),
            uring_entries: URING_ENTRIES,
            udp_buffer_bytes: UDP_BUFFER_BYTES,
            memlock_bytes_min,
            memlock_bytes_wanted,
            memory_bytes_max,
            wal_disk_bytes_max: config.wal.wal_bytes_max * u64::from(shard_count),
            shards,
            warnings,
        })
    }

    /// Number of shards, at least one.
    #[must_use]
    pub fn shard_count(&self) -> u16 {
        u16::try_from(self.shards.len()).expect("the configuration allows at most 256 shards")
    }

    /// The CPUs that shards are pinned to, as a list such as `0,2-3`; `unpinned` when the kernel places them.
    #[must_use]
    pub fn cpus_text(&self) -> String {
        let cpus: Vec<u16> = self.shards.iter().filter_map(|shard| shard.cpu).collect();
        if cpus.is_empty() { "unpinned".to_owned() } else { cpu_list_text(&cpus) }
    }
}

/// What a shard takes when as much is queued on it as may be: the cache with what lies beside messages in it, the index, and
/// its work.
fn shard_memory_bytes(config: &Config) -> u64 {
    let mailbox = &config.mailbox;
    let messages_max = mailbox.shard_bytes_max / (MESSAGE_OVERHEAD_BYTES + MESSAGE_BYTES_MIN);
    mailbox.cache_bytes / 3 * 4 + messages_max * INDEX_ENTRY_BYTES + WORKING_BYTES_PER_SHARD
}

fn place(config: &Config, host: &Host, warnings: &mut Vec<Warning>) -> Result<Vec<ShardPlan>, PlanError> {
    if host.cpus.is_empty() {
        return Err(PlanError::NoCpu);
    }
    let crypto = crypto_cpus(config);
    check_named("topology.crypto", crypto, host)?;
    let (shard_count, cpus) = match &config.topology.cpus {
        Cpus::List(named) => {
            check_named("topology.cpus", named, host)?;
            if let Some(&cpu) = named.iter().find(|cpu| crypto.contains(cpu)) {
                return Err(PlanError::CpuUsedTwice { cpu });
            }
            place_named(config.topology.shards, named, warnings)?
        }
        Cpus::Auto => place_auto(config.topology.shards, host, crypto),
    };
    if cpus.is_empty() {
        return Err(PlanError::NoCpuForShards { cpus: host.cpus_text() });
    }
    let pinned = cpus.len() >= usize::from(shard_count);
    if pinned {
        let shards_then_workers = [&cpus[..usize::from(shard_count)], crypto].concat();
        warn_of_shared_cores(&shards_then_workers, host, warnings);
    } else {
        warnings.push(Warning::ShardsShareCpus { shard_count, cpu_count: cpus.len() });
    }
    if let Some(quota_millicpus) = host.cpu_quota_millicpus
        && quota_millicpus < u32::from(shard_count) * 1000
    {
        warnings.push(Warning::QuotaBelowShards { shard_count, quota_millicpus });
    }
    let cpu = |index: u16| if pinned { Some(cpus[usize::from(index)]) } else { None };
    Ok((0..shard_count).map(|shard_index| ShardPlan { shard_index, cpu: cpu(shard_index) }).collect())
}

fn crypto_cpus(config: &Config) -> &[u16] {
    match &config.topology.crypto {
        Crypto::Inline => &[],
        Crypto::Workers(cpus) => cpus,
    }
}

fn check_named(key: &'static str, named: &[u16], host: &Host) -> Result<(), PlanError> {
    let is_allowed = |cpu: &u16| host.cpus.iter().any(|allowed| allowed.cpu_index == *cpu);
    let Some(&cpu) = named.iter().find(|cpu| !is_allowed(cpu)) else { return Ok(()) };
    // A machine that does not say which CPUs it has is believed to have all of them.
    let is_there = host.online.is_empty() || host.online.contains(&cpu);
    Err(match is_there {
        true => PlanError::CpuNotAllowed { key, cpu, allowed: host.cpus_text() },
        false => PlanError::NoSuchCpu { key, cpu, online: cpu_list_text(&host.online) },
    })
}

fn place_named(shards: Shards, named: &[u16], warnings: &mut Vec<Warning>) -> Result<(u16, Vec<u16>), PlanError> {
    let shard_count = match shards {
        Shards::Auto => shard_count_of(named.len()),
        Shards::Exactly(count) => count,
    };
    if usize::from(shard_count) > named.len() {
        let (cpu_count, cpus) = (named.len(), cpu_list_text(named));
        return Err(PlanError::MoreShardsThanNamedCpus { shard_count, cpu_count, cpus });
    }
    let left_over = &named[usize::from(shard_count)..];
    if !left_over.is_empty() {
        warnings.push(Warning::CpusLeftOver { cpus: cpu_list_text(left_over) });
    }
    Ok((shard_count, named.to_vec()))
}

fn place_auto(shards: Shards, host: &Host, crypto: &[u16]) -> (u16, Vec<u16>) {
    // Whole cores first: the second thread of a core adds a fraction of a core, a core of its own adds a whole one.
    let mut cpus: Vec<_> = host.cpus.iter().filter(|cpu| !crypto.contains(&cpu.cpu_index)).collect();
    cpus.sort_by_key(|cpu| (cpu.thread_of_core, cpu.cpu_index));
    let shard_count = match shards {
        Shards::Exactly(count) => count,
        // A quota of two CPUs on a machine of 64 is spent by 64 busy shards in a thirtieth of each period.
        Shards::Auto => {
            let quota_cpus = host.cpu_quota_millicpus.map_or(usize::MAX, |quota| quota.div_ceil(1000).max(1) as usize);
            // The workers spend of the quota, too.
            shard_count_of(cpus.len().min(quota_cpus.saturating_sub(crypto.len()).max(1)))
        }
    };
    (shard_count, cpus.into_iter().map(|cpu| cpu.cpu_index).collect())
}

fn shard_count_of(cpu_count: usize) -> u16 {
    u16::try_from(cpu_count).unwrap_or(u16::MAX).min(crate::config::SHARD_COUNT_MAX)
}

fn warn_of_shared_cores(cpus: &[u16], host: &Host, warnings: &mut Vec<Warning>) {
    let used: Vec<_> = cpus.iter().filter_map(|cpu| host.cpus.iter().find(|host| host.cpu_index == *cpu)).collect();
    // Worth a line only when a free core is left that a shard could have had.
    let free_core = host.cpus.iter().any(|cpu| used.iter().all(|used| used.core_index != cpu.core_index));
    let pairs = used.iter().enumerate();
    let shared = pairs.flat_map(|(index, first)| used[index + 1..].iter().map(move |second| (first, second)));
    if free_core
        && let Some((first, second)) = shared.into_iter().find(|(first, second)| first.core_index == second.core_index)
    {
        warnings.push(Warning::ShardsShareCore { cpu: first.cpu_index, sibling: second.cpu_index });
    }
}

fn ring_slots(shard_count: u16) -> u32 {
    let pairs = u32::from(shard_count) * (u32::from(shard_count).max(2) - 1);
    let slots = (RING_SLOTS_TOTAL_MAX / pairs).clamp(RING_SLOTS_MIN, RING_SLOTS_MAX);
    1 << slots.ilog2()
}

const _: () = assert!(RING_SLOTS_MIN.is_power_of_two() && RING_SLOTS_MAX.is_power_of_two());

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ShardsShareCpus { shard_count, cpu_count } => write!(
                f,
                "{shard_count} shards share {cpu_count} CPUs and are not pinned; set topology.shards to {cpu_count}"
            ),
            Self::CpusLeftOver { cpus } => {
                write!(f, "no shard runs on CPU {cpus} of topology.cpus; raise topology.shards or leave it out")
            }
            Self::QuotaBelowShards { shard_count, quota_millicpus } => write!(
                f,
                "the control group allows {}.{} CPUs to {shard_count} shards and stops them when they are spent; \
                 raise cpu.max, or lower topology.shards to {}",
                quota_millicpus / 1000,
                quota_millicpus % 1000 / 100,
                (quota_millicpus / 1000).max(1)
            ),
            Self::ShardsShareCore { cpu, sibling } => write!(
                f,
                "CPUs {cpu} and {sibling} are two threads of one core while another core is free; \
                 name one CPU per core in [topology]"
            ),
            Self::MemoryMayRunOut { memory_bytes_max, memory_bytes } => write!(
                f,
                "full mailboxes could take {} and there are {}; lower mailbox.cache_bytes, mailbox.shard_bytes_max or \
                 topology.shards",
                about(*memory_bytes_max),
                about(*memory_bytes)
            ),
        }
    }
}

/// A size rounded to whole MiB, for a sentence.
fn about(bytes: u64) -> String {
    size_text(bytes >> 20 << 20)
}
