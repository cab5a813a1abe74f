//! The machine as this process may use it: CPUs, control group, limits, memory.
//!
//! [`Host`] is a plain description, so that [`crate::plan`] can be tested for machines nobody here owns;
//! [`Host::probe`] fills it in from the system.

#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};

use crate::config::{cpu_list_from_text, cpu_list_text};

/// One CPU as the kernel counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Its number.
    pub cpu_index: u16,
    /// The lowest CPU number of its physical core.
    pub core_index: u16,
    /// 0 for the first thread of its core, 1 for the second.
    pub thread_of_core: u8,
}

/// What a plan needs to know of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// CPUs that this process may be scheduled on, by number.
    pub cpus: Vec<Cpu>,
    /// CPUs that the machine has, by number; empty when it does not say.
    pub online: Vec<u16>,
    /// Thousandths of a CPU that the control group grants; `None` when it does not limit.
    pub cpu_quota_millicpus: Option<u32>,
    /// Soft `RLIMIT_MEMLOCK`; `None` when unlimited.
    pub memlock_bytes: Option<u64>,
    /// Memory that this process may use: of the machine or of the control group, whichever is less.
    pub memory_bytes: u64,
}

impl Host {
    /// Asks the system.
    ///
    /// # Errors
    /// The list of CPUs or the size of the memory cannot be read.
    pub fn probe() -> io::Result<Self> {
        let allowed = core_affinity::get_core_ids()
            .ok_or_else(|| io::Error::other("the list of CPUs that this process may use cannot be read"))?;
        let allowed: Vec<u16> = allowed.iter().filter_map(|core| u16::try_from(core.id).ok()).collect();
        let memlock = rustix::process::getrlimit(rustix::process::Resource::Memlock);
        Self::describe(Path::new("/"), &allowed, memlock.current)
    }

    /// `count` CPUs, each a core of its own, with no limits: for tests and examples.
    #[must_use]
    pub fn with_cpus(count: u16) -> Self {
        let cpu = |cpu_index| Cpu { cpu_index, core_index: cpu_index, thread_of_core: 0 };
        Self {
            cpus: (0..count).map(cpu).collect(),
            online: (0..count).collect(),
            cpu_quota_millicpus: None,
            memlock_bytes: None,
            memory_bytes: 1 << 40,
        }
    }

    /// The CPUs as a list such as `0,2-3`.
    #[must_use]
    pub fn cpus_text(&self) -> String {
        cpu_list_text(&self.cpus.iter().map(|cpu| cpu.cpu_index).collect::<Vec<_>>())
    }

    /// Reads what the files below `root` say about the CPUs `allowed`.
    fn describe(root: &Path, allowed: &[u16], memlock_bytes: Option<u64>) -> io::Result<Self> {
        let mut cpus: Vec<Cpu> = allowed.iter().map(|cpu| describe_cpu(root, *cpu)).collect();
        cpus.sort_by_key(|cpu| cpu.cpu_index);
        let groups = control_groups(root);
        let quota = groups.iter().filter_map(|group| quota_millicpus(group)).min();
        let memory_max = groups.iter().filter_map(|group| group_memory_bytes(group)).min();
        let memory_bytes = total_memory_bytes(root)?;
        let online = std::fs::read_to_string(root.join("sys/devices/system/cpu/online")).ok();
        Ok(Self {
            cpus,
            online: online.and_then(|text| cpu_list_from_text(text.trim())).unwrap_or_default(),
            cpu_quota_millicpus: quota,
            memlock_bytes,
            memory_bytes: memory_max.map_or(memory_bytes, |max| max.min(memory_bytes)),
        })
    }
}

fn describe_cpu(root: &Path, cpu_index: u16) -> Cpu {
    let file = root.join(format!("sys/devices/system/cpu/cpu{cpu_index}/topology/thread_siblings_list"));
    // Without the file (some containers hide it) every CPU is taken for a core.
    let siblings = std::fs::read_to_string(file).ok().and_then(|text| cpu_list_from_text(text.trim()));
    let siblings = siblings.filter(|list| list.contains(&cpu_index)).unwrap_or_else(|| vec![cpu_index]);
    let below = siblings.iter().filter(|sibling| **sibling < cpu_index).count();
    Cpu {
        cpu_index,
        core_index: siblings.iter().copied().min().unwrap_or(cpu_index),
        thread_of_core: u8::try_from(below).unwrap_or(u8::MAX),
    }
}

/// Folders of the control groups that hold this process, from its own to the outermost.
fn control_groups(root: &Path) -> Vec<PathBuf> {
    let membership = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mut folders = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let mount = match controllers {
            "" => root.join("sys/fs/cgroup"),
            _ if controllers.split(',').any(|name| name == "cpu") => root.join("sys/fs/cgroup/cpu"),
            _ if controllers.split(',').any(|name| name == "memory") => root.join("sys/fs/cgroup/memory"),
            _ => continue,
        };
        // Inside a container the path may name a folder that is not visible there: its mount then is the group itself.
        let own = Path::new(path.trim_start_matches('/'));
        folders.extend(own.ancestors().map(|part| mount.join(part)).filter(|folder| folder.is_dir()));
    }
    folders
}

fn quota_millicpus(group: &Path) -> Option<u32> {
    let (quota, period) = match std::fs::read_to_string(group.join("cpu.max")) {
        Ok(text) => {
            let (quota, period) = text.trim().split_once(' ')?;
            (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?)
        }
        Err(_) => (number(&group.join("cpu.cfs_quota_us"))?, number(&group.join("cpu.cfs_period_us"))?),
    };
    u32::try_from((quota.checked_mul(1000)?).checked_div(period)?).ok().filter(|millis| *millis > 0)
}

fn group_memory_bytes(group: &Path) -> Option<u64> {
    number(&group.join("memory.max")).or_else(|| number(&group.join("memory.limit_in_bytes")))
}

/// A file with one number; `max` and `-1` are none.
fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn total_memory_bytes(root: &Path) -> io::Result<u64> {
    let text = std::fs::read_to_string(root.join("proc/meminfo"))?;
    let kib = text.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.map(|kib: u64| kib << 10).ok_or_else(|| io::Error::other("/proc/meminfo names no MemTotal"))
}
