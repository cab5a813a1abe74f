use std::path::Path;

use super::*;

/// A machine described by the files of /proc and /sys that it would show.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.file("proc/meminfo", "MemTotal:       16384000 kB\nMemFree: 1 kB\n");
        machine
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    fn describe(&self, allowed: &[u16]) -> Host {
        Host::describe(self.0.path(), allowed, Some(8 << 20)).unwrap()
    }
}

#[test]
fn a_bare_machine_has_its_cpus_and_its_memory() {
    let host = Machine::new().describe(&[3, 0]);
    assert_eq!(host.cpus_text(), "0,3");
    assert!(host.cpus.iter().all(|cpu| cpu.core_index == cpu.cpu_index && cpu.thread_of_core == 0));
    assert_eq!((host.cpu_quota_millicpus, host.memory_bytes), (None, 16_384_000 << 10));
}

#[test]
fn threads_of_one_core_are_told_apart() {
    let machine = Machine::new();
    for (cpu, siblings) in [(0, "0,2\n"), (1, "1,3\n"), (2, "0,2\n"), (3, "1,3\n")] {
        machine.file(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"), siblings);
    }
    let threads: Vec<_> =
        machine.describe(&[0, 1, 2, 3]).cpus.iter().map(|c| (c.core_index, c.thread_of_core)).collect();
    assert_eq!(threads, [(0, 0), (1, 0), (0, 1), (1, 1)]);
}

#[test]
fn the_tightest_control_group_counts() {
    let machine = Machine::new();
    machine
        .file("proc/self/cgroup", "0::/system.slice/creto.service\n")
        .file("sys/fs/cgroup/system.slice/creto.service/cpu.max", "max 100000\n")
        .file("sys/fs/cgroup/system.slice/creto.service/memory.max", "2147483648\n")
        .file("sys/fs/cgroup/system.slice/cpu.max", "250000 100000\n")
        .file("sys/fs/cgroup/system.slice/memory.max", "max\n");
    let host = machine.describe(&[0]);
    assert_eq!((host.cpu_quota_millicpus, host.memory_bytes), (Some(2500), 2 << 30));
}

#[test]
fn a_container_that_sees_only_its_own_group_is_read() {
    let machine = Machine::new();
    machine
        .file("proc/self/cgroup", "0::/docker/0123456789abcdef\n")
        .file("sys/fs/cgroup/cpu.max", "50000 100000\n")
        .file("sys/fs/cgroup/memory.max", "1073741824\n");
    let host = machine.describe(&[0]);
    assert_eq!((host.cpu_quota_millicpus, host.memory_bytes), (Some(500), 1 << 30));
}

#[test]
fn the_first_version_of_control_groups_is_read() {
    let machine = Machine::new();
    machine
        .file("proc/self/cgroup", "4:cpu,cpuacct:/jobs\n5:memory:/jobs\n9:freezer:/\n")
        .file("sys/fs/cgroup/cpu/jobs/cpu.cfs_quota_us", "150000\n")
        .file("sys/fs/cgroup/cpu/jobs/cpu.cfs_period_us", "100000\n")
        .file("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n")
        .file("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
        .file("sys/fs/cgroup/memory/jobs/memory.limit_in_bytes", "536870912\n");
    let host = machine.describe(&[0]);
    assert_eq!((host.cpu_quota_millicpus, host.memory_bytes), (Some(1500), 512 << 20));
}

#[test]
fn files_that_say_nonsense_limit_nothing() {
    let machine = Machine::new();
    machine
        .file("proc/self/cgroup", "nonsense\n0::/\n")
        .file("sys/fs/cgroup/cpu.max", "1000000\n")
        .file("sys/fs/cgroup/memory.max", "lots\n")
        .file("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "7\n");
    let host = machine.describe(&[0]);
    assert_eq!((host.cpu_quota_millicpus, host.memory_bytes), (None, 16_384_000 << 10));
    assert_eq!(host.cpus[0].core_index, 0);
    assert!(Host::describe(Path::new("/nonexistent"), &[0], None).is_err());
}

#[test]
fn this_machine_can_be_described() {
    let host = Host::probe().unwrap();
    assert!(!host.cpus.is_empty() && host.memory_bytes > 0, "{host:?}");
}
