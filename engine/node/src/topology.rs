//! What a machine looks like to someone who pins threads: cores, threads of a core, caches and who shares them, memory
//! nodes, and who runs where under a plan.
//!
//! Everything is read from files below `/sys`, and every one of them may be missing (containers hide them, virtual
//! machines leave them out): what is not told is unknown, never an error.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;

use crate::config::cpu_list_from_text;
use crate::host::Host;
use crate::plan::Plan;

mod network;
#[cfg(test)]
mod tests;

pub use network::{NetworkInterrupt, interrupts_of, network_devices, network_interrupts, network_interrupts_in};

/// A machine's CPUs and memory nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Topology {
    /// Every CPU that is switched on, by number.
    pub cpus: Vec<CpuPlace>,
    /// Memory nodes with the CPUs near them; empty when the machine does not say.
    pub nodes: Vec<MemoryNode>,
}

/// Where one CPU is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CpuPlace {
    /// Its number.
    pub cpu: u16,
    /// CPUs that are threads of the same core, this one among them.
    pub siblings: Vec<u16>,
    /// The socket.
    pub package: Option<u16>,
    /// The memory node that it is near.
    pub node: Option<u16>,
    /// Caches that hold data, smallest first.
    pub caches: Vec<Cache>,
    /// Whether this process may run on it.
    pub allowed: bool,
}

/// A cache, as one CPU sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cache {
    /// 1 for the one nearest to the core.
    pub level: u8,
    /// Its size, if it is told.
    pub bytes: Option<u64>,
    /// CPUs that share it, this one among them.
    pub cpus: Vec<u16>,
}

/// Memory, and the CPUs near it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryNode {
    /// Its number.
    pub node: u16,
    /// CPUs near it.
    pub cpus: Vec<u16>,
}

/// What a thread of the node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", content = "index")]
pub enum Role {
    /// Runs the shard with this index.
    Shard(u16),
    /// The crypto worker with this index.
    CryptoWorker(u16),
}

impl Topology {
    /// Asks the system; `host` knows what this process may use.
    #[must_use]
    pub fn probe(host: &Host) -> Self {
        Self::describe(Path::new("/"), host)
    }

    /// Reads what the files below `root` say.
    fn describe(root: &Path, host: &Host) -> Self {
        let allowed: Vec<u16> = host.cpus.iter().map(|cpu| cpu.cpu_index).collect();
        let nodes = memory_nodes(root);
        let there = if host.online.is_empty() { &allowed } else { &host.online };
        let cpus = there.iter().map(|&cpu| {
            let folder = root.join(format!("sys/devices/system/cpu/cpu{cpu}"));
            let siblings = list(&folder.join("topology/thread_siblings_list"));
            CpuPlace {
                cpu,
                siblings: siblings.filter(|list| list.contains(&cpu)).unwrap_or_else(|| vec![cpu]),
                package: number(&folder.join("topology/physical_package_id")),
                node: nodes.iter().find(|node| node.cpus.contains(&cpu)).map(|node| node.node),
                caches: caches(&folder.join("cache"), cpu),
                allowed: allowed.contains(&cpu),
            }
        });
        Self { cpus: cpus.collect(), nodes }
    }

    /// Number of physical cores among the CPUs.
    #[must_use]
    pub fn core_count(&self) -> usize {
        let mut cores: Vec<_> = self.cpus.iter().map(|cpu| cpu.siblings.iter().min()).collect();
        cores.sort_unstable();
        cores.dedup();
        cores.len()
    }

    /// What pinning under this plan costs and could be had for less: what [`Plan::warnings`] cannot know.
    #[must_use]
    pub fn remarks(&self, plan: &Plan) -> Vec<String> {
        let mut remarks = Vec::new();
        let pinned: Vec<(Role, &CpuPlace)> = roles(plan)
            .into_iter()
            .filter_map(|(cpu, role)| Some((role, self.cpus.iter().find(|place| place.cpu == cpu)?)))
            .collect();
        for (index, (role, place)) in pinned.iter().enumerate() {
            for (other, other_place) in &pinned[index + 1..] {
                if place.siblings.contains(&other_place.cpu) {
                    remarks.push(format!(
                        "{role} on CPU {} and {other} on CPU {} are two threads of one core and slow each other down",
                        place.cpu, other_place.cpu
                    ));
                }
            }
            if !place.allowed {
                remarks.push(format!("{role} is meant for CPU {}, on which this process may not run", place.cpu));
            }
        }
        let nodes: std::collections::BTreeSet<u16> = pinned.iter().filter_map(|(_, place)| place.node).collect();
        if nodes.len() > 1 {
            let nodes: Vec<String> = nodes.iter().map(ToString::to_string).collect();
            remarks.push(format!(
                "the CPUs in use are near {} memory nodes ({}): what crosses between shards crosses between them, too",
                nodes.len(),
                nodes.join(", ")
            ));
        }
        remarks
    }
}

/// Who is pinned where, by CPU.
#[must_use]
pub fn roles(plan: &Plan) -> BTreeMap<u16, Role> {
    let shards = plan.shards.iter().filter_map(|shard| Some((shard.cpu?, Role::Shard(shard.shard_index))));
    let workers = (0..).zip(&plan.crypto_cpus).map(|(index, &cpu)| (cpu, Role::CryptoWorker(index)));
    shards.chain(workers).collect()
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Shard(index) => write!(f, "shard {index}"),
            Self::CryptoWorker(index) => write!(f, "crypto worker {index}"),
        }
    }
}

fn memory_nodes(root: &Path) -> Vec<MemoryNode> {
    let Ok(entries) = std::fs::read_dir(root.join("sys/devices/system/node")) else { return Vec::new() };
    let node = |entry: std::fs::DirEntry| {
        let node = entry.file_name().to_str()?.strip_prefix("node")?.parse().ok()?;
        // A node of memory alone has an empty list.
        let cpus = list(&entry.path().join("cpulist")).unwrap_or_default();
        Some(MemoryNode { node, cpus })
    };
    let mut nodes: Vec<_> = entries.flatten().filter_map(node).collect();
    nodes.sort_by_key(|node| node.node);
    nodes
}

fn caches(folder: &Path, cpu: u16) -> Vec<Cache> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let cache = |entry: std::fs::DirEntry| {
        entry.file_name().to_str()?.strip_prefix("index")?.parse::<u16>().ok()?;
        let folder = entry.path();
        if text(&folder.join("type"))? == "Instruction" {
            return None;
        }
        let cpus = list(&folder.join("shared_cpu_list")).filter(|list| list.contains(&cpu));
        Some(Cache {
            level: number(&folder.join("level"))?,
            bytes: text(&folder.join("size")).and_then(|text| size(&text)),
            cpus: cpus.unwrap_or_else(|| vec![cpu]),
        })
    };
    let mut caches: Vec<_> = entries.flatten().filter_map(cache).collect();
    caches.sort_by_key(|cache| cache.level);
    caches
}

/// `48K`, `2048K`, `30M`: as the kernel writes it.
fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match &text[digits..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => return None,
    };
    text[..digits].parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn text(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().map(|text| text.trim().to_owned())
}

fn number<T: std::str::FromStr>(file: &Path) -> Option<T> {
    text(file)?.parse().ok()
}

fn list(file: &Path) -> Option<Vec<u16>> {
    cpu_list_from_text(&text(file)?)
}
