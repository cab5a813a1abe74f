use std::path::PathBuf;

use super::*;
use crate::config::Config;
use crate::host::Cpu;

/// A machine described by the files of /sys that it would show.
struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, path: &str, text: &str) {
        let path: PathBuf = self.0.path().join("sys/devices/system").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Two cores of two threads on each of two sockets; CPU 7 is closed to this process.
    fn two_sockets() -> (Self, Host) {
        let machine = Self::new();
        for cpu in 0..8u16 {
            let (core, socket) = (cpu % 4, cpu % 4 / 2);
            machine.file(&format!("cpu/cpu{cpu}/topology/thread_siblings_list"), &format!("{core},{}\n", core + 4));
            machine.file(&format!("cpu/cpu{cpu}/topology/physical_package_id"), &format!("{socket}\n"));
            let shared = [
                format!("{core},{}", core + 4),
                format!("{0}-{1},{2}-{3}", 2 * socket, 2 * socket + 1, 2 * socket + 4, 2 * socket + 5),
            ];
            for (index, level, kind, size, shared) in [
                (0, 1, "Data", "48K", &shared[0]),
                (1, 1, "Instruction", "32K", &shared[0]),
                (2, 2, "Unified", "2048K", &shared[0]),
                (3, 3, "Unified", "30M", &shared[1]),
            ] {
                let folder = format!("cpu/cpu{cpu}/cache/index{index}");
                for (name, text) in [("level", level.to_string()), ("type", kind.into()), ("size", size.into())] {
                    machine.file(&format!("{folder}/{name}"), &format!("{text}\n"));
                }
                machine.file(&format!("{folder}/shared_cpu_list"), &format!("{shared}\n"));
            }
        }
        machine.file("node/node0/cpulist", "0-1,4-5\n");
        machine.file("node/node1/cpulist", "2-3,6-7\n");
        machine.file("node/node2/cpulist", "\n");
        let cpu =
            |cpu_index: u16| Cpu { cpu_index, core_index: cpu_index % 4, thread_of_core: u8::from(cpu_index >= 4) };
        let host = Host { cpus: (0..7).map(cpu).collect(), online: (0..8).collect(), ..Host::with_cpus(0) };
        (machine, host)
    }
}

fn plan(host: &Host, topology: &str) -> Plan {
    let config = Config::parse("creto.toml", &format!("[topology]\n{topology}\n"), []).unwrap();
    Plan::resolve(&config, host).unwrap()
}

#[test]
fn cores_caches_and_memory_nodes_are_read_from_sys() {
    let (machine, host) = Machine::two_sockets();
    let topology = Topology::describe(machine.0.path(), &host);
    assert_eq!((topology.cpus.len(), topology.core_count()), (8, 4));
    let six = &topology.cpus[6];
    assert_eq!((six.siblings.as_slice(), six.package, six.node, six.allowed), (&[2, 6][..], Some(1), Some(1), true));
    let caches: Vec<_> = six.caches.iter().map(|cache| (cache.level, cache.bytes, cache.cpus.len())).collect();
    assert_eq!(caches, [(1, Some(48 << 10), 2), (2, Some(2 << 20), 2), (3, Some(30 << 20), 4)]);
    assert!(!topology.cpus[7].allowed);
    let nodes: Vec<_> = topology.nodes.iter().map(|node| (node.node, node.cpus.len())).collect();
    assert_eq!(nodes, [(0, 4), (1, 4), (2, 0)]);
}

#[test]
fn a_machine_that_tells_nothing_has_the_cpus_that_may_be_used() {
    let machine = Machine::new();
    let host = Host { online: Vec::new(), ..Host::with_cpus(2) };
    let topology = Topology::describe(machine.0.path(), &host);
    let bare =
        |cpu| CpuPlace { cpu, siblings: vec![cpu], package: None, node: None, caches: Vec::new(), allowed: true };
    assert_eq!(topology, Topology { cpus: vec![bare(0), bare(1)], nodes: Vec::new() });
}

#[test]
fn files_that_hold_nonsense_are_as_good_as_absent() {
    let machine = Machine::new();
    machine.file("cpu/cpu0/topology/thread_siblings_list", "0-\n");
    machine.file("cpu/cpu0/topology/physical_package_id", "-1\n");
    machine.file("cpu/cpu0/cache/index0/level", "one\n");
    machine.file("cpu/cpu0/cache/index0/type", "Data\n");
    machine.file("cpu/cpu0/cache/index9/level", "2\n");
    machine.file("cpu/cpu0/cache/index9/type", "Unified\n");
    machine.file("cpu/cpu0/cache/index9/size", "many\n");
    machine.file("cpu/cpu0/cache/power", "\n");
    machine.file("node/nodes", "\n");
    let topology = Topology::describe(machine.0.path(), &Host::with_cpus(1));
    let cpu = &topology.cpus[0];
    assert_eq!((cpu.siblings.as_slice(), cpu.package, topology.nodes.len()), (&[0][..], None, 0));
    assert_eq!(cpu.caches, [Cache { level: 2, bytes: None, cpus: vec![0] }]);
}

#[test]
fn who_runs_where_follows_from_the_plan() {
    let (machine, host) = Machine::two_sockets();
    let topology = Topology::describe(machine.0.path(), &host);
    let plan = plan(&host, "cpus = \"0-1\"\ncrypto = [4, 2]");
    let shown: Vec<_> = roles(&plan).into_iter().map(|(cpu, role)| format!("{cpu}: {role}")).collect();
    assert_eq!(shown, ["0: shard 0", "1: shard 1", "2: crypto worker 1", "4: crypto worker 0"]);
    assert_eq!(
        topology.remarks(&plan),
        [
            "shard 0 on CPU 0 and crypto worker 0 on CPU 4 are two threads of one core and slow each other down",
            "the CPUs in use are near 2 memory nodes (0, 1): what crosses between shards crosses between them, too",
        ]
    );
}

#[test]
fn threads_that_keep_apart_need_no_remark() {
    let (machine, host) = Machine::two_sockets();
    let topology = Topology::describe(machine.0.path(), &host);
    assert_eq!(topology.remarks(&plan(&host, "cpus = \"0-1\"")), Vec::<String>::new());
}

#[test]
fn interrupts_of_network_queues_are_where_the_kernel_says_that_they_come() {
    let machine = tempfile::tempdir().unwrap();
    let file = |path: &str, text: &str| {
        let path = machine.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    // Two queues of a device; of the first the kernel says which of the CPUs it chose.
    file("sys/class/net/eth0/device/msi_irqs/30", "msi\n");
    file("sys/class/net/eth0/device/msi_irqs/31", "msi\n");
    file("proc/irq/30/smp_affinity_list", "0-3\n");
    file("proc/irq/30/effective_affinity_list", "2\n");
    file("proc/irq/31/smp_affinity_list", "1\n");
    file("proc/irq/31/effective_affinity_list", "\n");
    // A device without queues of its own, and an interrupt of something else.
    file("sys/class/net/lo/mtu", "65536\n");
    file("proc/irq/9/smp_affinity_list", "0\n");
    let found = network_interrupts_in(machine.path());
    let shown: Vec<_> = found.iter().map(|it| (it.device.as_str(), it.irq, it.cpus.as_slice())).collect();
    assert_eq!(shown, [("eth0", 30, &[2][..]), ("eth0", 31, &[1][..])]);
    assert!(network_interrupts_in(&machine.path().join("nothing")).is_empty());
}
