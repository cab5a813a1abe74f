//! What can be set on a machine so that a node runs well on it: what it is now, what is wanted, and why.
//!
//! Everything is a file of the kernel's below a root, so that tests have machines that nobody here owns.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use creto_node::host::Host;
use creto_node::plan::Plan;
use creto_node::topology::{interrupts_of, network_devices};
use serde::{Deserialize, Serialize};

/// What is set.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub(crate) enum Tuner {
    /// How large a socket's buffers may be.
    SocketBuffers,
    /// How fast the CPUs of shards run.
    Governor,
    /// Which CPUs the network's interrupts go to.
    IrqAffinity,
    /// Whether memory comes in huge pages unasked.
    HugePages,
    /// How much memory the node may lock.
    MemoryLock,
}

impl Tuner {
    pub(crate) const ALL: [Self; 5] =
        [Self::SocketBuffers, Self::Governor, Self::IrqAffinity, Self::HugePages, Self::MemoryLock];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SocketBuffers => "socket-buffers",
            Self::Governor => "governor",
            Self::IrqAffinity => "irq-affinity",
            Self::HugePages => "huge-pages",
            Self::MemoryLock => "memory-lock",
        }
    }

    /// What it does, why, and what it costs.
    pub(crate) fn help(self) -> &'static str {
        match self {
            Self::SocketBuffers => {
                "net.core.rmem_max and wmem_max: the most that a socket may have waiting. Below what a shard asks for, a burst of datagrams is dropped and sent again, which senders see as latency. Costs memory only while datagrams wait."
            }
            Self::Governor => {
                "The frequency governor of the CPUs that shards and crypto workers are pinned to. With `powersave` or `schedutil` a shard that was idle for a moment begins slowly, and its first messages wait. `performance` costs power. Virtual machines mostly have no say in it."
            }
            Self::IrqAffinity => {
                "Which CPUs handle the interrupts of network queues. Where there are CPUs that no shard has, they get them, so that a shard is not interrupted; else the queues are spread over all. irqbalance undoes this: end it, or give it the same."
            }
            Self::HugePages => {
                "/sys/kernel/mm/transparent_hugepage/enabled. With `always` the kernel makes, zeroes and moves pages of 2 MiB whenever it likes, and a shard stalls meanwhile. `madvise` leaves them to programs that ask."
            }
            Self::MemoryLock => {
                "RLIMIT_MEMLOCK of the node's process. io_uring registers the buffers of direct IO within it; below what the plan wants, each write costs more, and far below a shard does not start. It is set where the node is started (LimitMEMLOCK of a systemd unit, --ulimit of a container), so it is shown and emitted, not applied."
            }
        }
    }
}

/// How one setting is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// As it is wanted, or better.
    Right,
    /// It would be changed.
    Differs,
    /// It is not as wanted, and set elsewhere: where the node is started.
    Elsewhere,
    /// This machine does not have it.
    Unsupported,
}

impl State {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Right => "right",
            Self::Differs => "differs",
            Self::Elsewhere => "elsewhere",
            Self::Unsupported => "unsupported",
        }
    }
}

/// A file of the kernel's that gets another value.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Change {
    /// From the root on, such as `proc/sys/net/core/rmem_max`.
    pub(crate) file: PathBuf,
    /// What it was.
    pub(crate) from: String,
    /// What it becomes.
    pub(crate) to: String,
}

/// One setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Setting {
    pub(crate) tuner: Tuner,
    /// Which of the tuner's, as people call it.
    pub(crate) what: String,
    pub(crate) now: String,
    pub(crate) wanted: String,
    pub(crate) state: State,
    /// Why it is so, where that is not plain.
    pub(crate) reason: String,
    /// Only where it differs.
    pub(crate) change: Option<Change>,
}

impl Setting {
    fn unsupported(tuner: Tuner, what: &str, reason: &str) -> Self {
        let (now, wanted) = ("-".to_owned(), "-".to_owned());
        Self {
            tuner,
            what: what.to_owned(),
            now,
            wanted,
            state: State::Unsupported,
            reason: reason.to_owned(),
            change: None,
        }
    }

    /// A file that is to have this value, unless it is `right` already.
    fn of_file(tuner: Tuner, what: String, file: PathBuf, now: String, wanted: String, right: bool) -> Self {
        let state = if right { State::Right } else { State::Differs };
        let change = (!right).then(|| Change { file, from: now.clone(), to: wanted.clone() });
        Self { tuner, what, now, wanted, state, reason: String::new(), change }
    }
}

/// Everything that these tuners say of the machine below `root`.
pub(crate) fn look(root: &Path, host: &Host, plan: &Plan, tuners: &BTreeSet<Tuner>) -> Vec<Setting> {
    let of = |tuner: &Tuner| match tuner {
        Tuner::SocketBuffers => socket_buffers(root, plan),
        Tuner::Governor => governor(root, plan),
        Tuner::IrqAffinity => irq_affinity(root, host, plan),
        Tuner::HugePages => vec![huge_pages(root)],
        Tuner::MemoryLock => vec![memory_lock(host, plan)],
    };
    tuners.iter().flat_map(of).collect()
}

/// What a file of the kernel's says: its text, or the word in brackets where it lists all that there are.
pub(crate) fn value(root: &Path, file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(root.join(file)).ok()?;
    let text = text.trim();
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    Some(chosen.map_or(text, |(chosen, _)| chosen).to_owned())
}

fn socket_buffers(root: &Path, plan: &Plan) -> Vec<Setting> {
    let wanted = u64::from(plan.udp_buffer_bytes);
    let of = |name: &str| {
        let file = PathBuf::from(format!("proc/sys/net/core/{name}"));
        let what = format!("net.core.{name}");
        match value(root, &file).and_then(|now| now.parse::<u64>().ok()) {
            Some(now) => Setting::of_file(
                Tuner::SocketBuffers,
                what,
                file,
                now.to_string(),
                wanted.max(now).to_string(),
                now >= wanted,
            ),
            None => Setting::unsupported(
                Tuner::SocketBuffers,
                &what,
                "it is not shown here: in a container, set it on the machine",
            ),
        }
    };
    vec![of("rmem_max"), of("wmem_max")]
}

/// The CPUs that shards and crypto workers are pinned to.
fn planned(plan: &Plan) -> BTreeSet<u16> {
    plan.shards.iter().filter_map(|shard| shard.cpu).chain(plan.crypto_cpus.iter().copied()).collect()
}

fn governor(root: &Path, plan: &Plan) -> Vec<Setting> {
    let cpus = planned(plan);
    let of = |cpu: &u16| {
        let file = PathBuf::from(format!("sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor"));
        let now = value(root, &file)?;
        let is_right = now == "performance";
        Some(Setting::of_file(Tuner::Governor, format!("CPU {cpu}"), file, now, "performance".to_owned(), is_right))
    };
    let all: Vec<Setting> = cpus.iter().filter_map(of).collect();
    if all.is_empty() {
        let reason = match cpus.is_empty() {
            true => "no shard is pinned",
            false => "the CPUs have no governor here, as in most virtual machines",
        };
        return vec![Setting::unsupported(Tuner::Governor, "CPUs of the node", reason)];
    }
    all
}

fn irq_affinity(root: &Path, host: &Host, plan: &Plan) -> Vec<Setting> {
    const WHAT: &str = "network queues";
    let planned = planned(plan);
    let online: Vec<u16> = match host.online.is_empty() {
        true => host.cpus.iter().map(|cpu| cpu.cpu_index).collect(),
        false => host.online.clone(),
    };
    let spare: Vec<u16> = online.iter().copied().filter(|cpu| !planned.contains(cpu)).collect();
    let takers = if spare.is_empty() { online } else { spare };
    let mut all = Vec::new();
    let mut next = takers.iter().cycle();
    for device in network_devices(root) {
        let name = device.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        for irq in interrupts_of(root, &device) {
            let file = PathBuf::from(format!("proc/irq/{irq}/smp_affinity_list"));
            let Some(now) = value(root, &file) else { continue };
            // One that is on some of them already is left there.
            let is_right = creto_node::config::cpu_list_from_text(&now)
                .is_some_and(|cpus| !cpus.is_empty() && cpus.iter().all(|cpu| takers.contains(cpu)));
            let wanted = match is_right {
                true => now.clone(),
                false => next.next().map_or_else(|| now.clone(), ToString::to_string),
            };
            all.push(Setting::of_file(
                Tuner::IrqAffinity,
                format!("{name}, interrupt {irq}"),
                file,
                now,
                wanted,
                is_right,
            ));
        }
    }
    match () {
        () if takers.len() < 2 && planned.len() < 2 => {
            vec![Setting::unsupported(Tuner::IrqAffinity, WHAT, "there is one CPU for everything")]
        }
        () if all.is_empty() => {
            let reason = "no network device here has interrupts of its own that can be moved";
            vec![Setting::unsupported(Tuner::IrqAffinity, WHAT, reason)]
        }
        () => all,
    }
}

fn huge_pages(root: &Path) -> Setting {
    const WHAT: &str = "transparent huge pages";
    let file = PathBuf::from("sys/kernel/mm/transparent_hugepage/enabled");
    match value(root, &file) {
        // Who has switched them off meant it.
        Some(now) if now != "always" => {
            let wanted = now.clone();
            Setting::of_file(Tuner::HugePages, WHAT.to_owned(), file, now, wanted, true)
        }
        Some(now) => Setting::of_file(Tuner::HugePages, WHAT.to_owned(), file, now, "madvise".to_owned(), false),
        None => Setting::unsupported(Tuner::HugePages, WHAT, "this kernel has none"),
    }
}

fn memory_lock(host: &Host, plan: &Plan) -> Setting {
    let text = |bytes: Option<u64>| bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
    let is_right = host.memlock_bytes.is_none_or(|bytes| bytes >= plan.memlock_bytes_wanted);
    Setting {
        tuner: Tuner::MemoryLock,
        what: "RLIMIT_MEMLOCK of this shell".to_owned(),
        now: text(host.memlock_bytes),
        wanted: match plan.memlock_bytes_wanted {
            0 => "any: the driver locks no memory".to_owned(),
            bytes => format!("{bytes} or more"),
        },
        state: if is_right { State::Right } else { State::Elsewhere },
        reason: if is_right {
            String::new()
        } else {
            "set it where the node is started: LimitMEMLOCK=infinity".to_owned()
        },
        change: None,
    }
}
