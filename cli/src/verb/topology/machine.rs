//! A machine as boxes in boxes: sockets, memory nodes, caches that cores share, cores, and what runs on their threads. Pure.

use std::collections::{BTreeMap, BTreeSet};

use creto_node::plan::Plan;
use creto_node::topology::{CpuPlace, NetworkInterrupt, Role, Topology, roles};

/// Caches from this level on are boxes around cores; those below it are a core's own on nearly every machine.
const SHARED_LEVEL: u8 = 3;

/// All of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Machine {
    pub(super) sockets: Vec<Socket>,
    /// Memory without CPUs near it.
    pub(super) far_nodes: Vec<u16>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Socket {
    /// Unknown where the machine does not say.
    pub(super) number: Option<u16>,
    pub(super) nodes: Vec<Node>,
}

/// A memory node, as far as it is in one socket.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) number: Option<u16>,
    pub(super) clusters: Vec<Cluster>,
}

/// Cores that share a cache.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Cluster {
    pub(super) cache: Option<SharedCache>,
    pub(super) cores: Vec<Core>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SharedCache {
    pub(super) level: u8,
    pub(super) bytes: Option<u64>,
    /// Cores of another memory node or socket share it, too.
    pub(super) reaches_beyond: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Core {
    pub(super) threads: Vec<Thread>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Thread {
    pub(super) cpu: u16,
    pub(super) runs: Runs,
    /// Interrupts of network queues that come here.
    pub(super) interrupts: usize,
}

/// What a CPU is for under the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Runs {
    Shard(u16),
    CryptoWorker(u16),
    /// Nothing is pinned to it: the control thread, the kernel and other programs run here.
    Housekeeping,
    /// This process may not run there.
    Closed,
}

impl Machine {
    pub(super) fn of(topology: &Topology, plan: Option<&Plan>, interrupts: &[NetworkInterrupt]) -> Self {
        let roles = plan.map(roles).unwrap_or_default();
        let mut sockets = BTreeMap::<_, BTreeMap<_, BTreeMap<_, BTreeMap<u16, Vec<&CpuPlace>>>>>::new();
        for place in &topology.cpus {
            let core = place.siblings.iter().min().copied().unwrap_or(place.cpu);
            let cluster = shared_cache(place).map(|cache| (cache.level, cache.cpus.iter().min().copied()));
            let nodes = sockets.entry(place.package).or_default();
            let clusters = nodes.entry(place.node).or_default();
            clusters.entry(cluster).or_default().entry(core).or_default().push(place);
        }
        let thread = |place: &CpuPlace| Thread {
            cpu: place.cpu,
            runs: match roles.get(&place.cpu) {
                Some(Role::Shard(index)) => Runs::Shard(*index),
                Some(Role::CryptoWorker(index)) => Runs::CryptoWorker(*index),
                None if place.allowed => Runs::Housekeeping,
                None => Runs::Closed,
            },
            interrupts: interrupts.iter().filter(|interrupt| interrupt.cpus.contains(&place.cpu)).count(),
        };
        let cluster = |cores: BTreeMap<u16, Vec<&CpuPlace>>| {
            let inside: BTreeSet<u16> = cores.values().flatten().map(|place| place.cpu).collect();
            let first = cores.values().flatten().next().copied();
            let cache = first.and_then(shared_cache).map(|cache| SharedCache {
                level: cache.level,
                bytes: cache.bytes,
                reaches_beyond: cache.cpus.iter().any(|cpu| !inside.contains(cpu) && is_there(topology, *cpu)),
            });
            let cores = cores.into_values().map(|places| Core { threads: places.into_iter().map(thread).collect() });
            Cluster { cache, cores: cores.collect() }
        };
        let node = |(number, clusters): (_, BTreeMap<_, _>)| Node {
            number,
            clusters: clusters.into_values().map(cluster).collect(),
        };
        let socket =
            |(number, nodes): (_, BTreeMap<_, _>)| Socket { number, nodes: nodes.into_iter().map(node).collect() };
        let far_nodes = topology.nodes.iter().filter(|node| node.cpus.is_empty()).map(|node| node.node).collect();
        Self { sockets: sockets.into_iter().map(socket).collect(), far_nodes }
    }

    pub(super) fn threads(&self) -> impl Iterator<Item = &Thread> {
        let nodes = self.sockets.iter().flat_map(|socket| &socket.nodes);
        let cores = nodes.flat_map(|node| &node.clusters).flat_map(|cluster| &cluster.cores);
        cores.flat_map(|core| &core.threads)
    }

    /// Whether anything is known of it beside its CPUs.
    pub(super) fn has_sockets(&self) -> bool {
        self.sockets
            .iter()
            .any(|socket| socket.number.is_some() || socket.nodes.iter().any(|node| node.number.is_some()))
    }
}

impl Socket {
    pub(super) fn title(&self) -> String {
        self.number.map_or_else(|| "socket".to_owned(), |number| format!("socket {number}"))
    }
}

impl Node {
    pub(super) fn title(&self) -> String {
        self.number.map_or_else(|| "memory node not known".to_owned(), |number| format!("memory node {number}"))
    }
}

impl SharedCache {
    pub(super) fn title(&self) -> String {
        let size = self.bytes.map_or_else(String::new, |bytes| format!(" {}", creto_node::config::size_text(bytes)));
        let beyond = if self.reaches_beyond { ", shared beyond this box" } else { "" };
        format!("L{}{size}{beyond}", self.level)
    }
}

/// The largest cache that is not a core's own by its level.
fn shared_cache(place: &CpuPlace) -> Option<&creto_node::topology::Cache> {
    place.caches.iter().rfind(|cache| cache.level >= SHARED_LEVEL)
}

fn is_there(topology: &Topology, cpu: u16) -> bool {
    topology.cpus.iter().any(|place| place.cpu == cpu)
}
