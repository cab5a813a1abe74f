use creto_node::config::Config;
use creto_node::host::{Cpu, Host};
use creto_node::plan::Plan;
use creto_node::topology::{Cache, CpuPlace, MemoryNode, NetworkInterrupt, Topology};

use super::machine::Machine;
use super::text::{ASCII, Glyphs, UNICODE};
use super::{svg, text};

/// What a made-up machine has of each.
struct Made {
    sockets: u16,
    nodes_per_socket: u16,
    caches_per_node: u16,
    cores_per_cache: u16,
    threads: u16,
}

impl Made {
    fn cores(&self) -> u16 {
        self.sockets * self.nodes_per_socket * self.caches_per_node * self.cores_per_cache
    }

    /// As Linux numbers them: first threads of all cores, then the second ones.
    fn topology(&self, closed: &[u16]) -> (Topology, Host) {
        let cores = self.cores();
        let per_node = self.caches_per_node * self.cores_per_cache;
        let near = |cpu: &u16, from: u16, count: u16| (from..from + count).contains(&(cpu % cores));
        let all: Vec<u16> = (0..cores * self.threads).collect();
        let of = |from: u16, count: u16| all.iter().copied().filter(|cpu| near(cpu, from, count)).collect::<Vec<_>>();
        let place = |&cpu: &u16| {
            let core = cpu % cores;
            let cache_from = core / self.cores_per_cache * self.cores_per_cache;
            CpuPlace {
                cpu,
                siblings: of(core, 1),
                package: Some(core / (per_node * self.nodes_per_socket)),
                node: Some(core / per_node),
                caches: vec![
                    Cache { level: 2, bytes: Some(1 << 20), cpus: of(core, 1) },
                    Cache { level: 3, bytes: Some(32 << 20), cpus: of(cache_from, self.cores_per_cache) },
                ],
                allowed: !closed.contains(&cpu),
            }
        };
        let nodes = (0..self.sockets * self.nodes_per_socket)
            .map(|node| MemoryNode { node, cpus: of(node * per_node, per_node) });
        let topology = Topology { cpus: all.iter().map(place).collect(), nodes: nodes.collect() };
        let cpu = |&cpu_index: &u16| {
            let thread_of_core = u8::try_from(cpu_index / cores).unwrap();
            Cpu { cpu_index, core_index: cpu_index % cores, thread_of_core }
        };
        let usable = all.iter().filter(|cpu| !closed.contains(cpu)).map(cpu).collect();
        (topology, Host { cpus: usable, online: all.clone(), ..Host::with_cpus(0) })
    }
}

fn plan(host: &Host, topology: &str) -> Plan {
    let config = Config::parse("creto.toml", &format!("[topology]\n{topology}\n"), []).unwrap();
    Plan::resolve(&config, host).unwrap()
}

fn queue(irq: u32, cpu: u16) -> NetworkInterrupt {
    NetworkInterrupt { device: "eth0".into(), irq, cpus: vec![cpu] }
}

/// Without styles.
fn drawn(machine: &Machine, glyphs: &Glyphs) -> String {
    anstream::adapter::strip_str(&text::draw(machine, glyphs)).to_string()
}

#[track_caller]
fn is_golden(drawn: &str, file: &str) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    if std::env::var_os("CRETO_GOLDEN").is_some_and(|how| how == "write") {
        std::fs::write(&path, drawn).unwrap();
    }
    assert_eq!(drawn, std::fs::read_to_string(&path).unwrap(), "{file}: CRETO_GOLDEN=write writes it anew");
}

#[track_caller]
fn check(name: &str, machine: &Machine, glyphs: &Glyphs) {
    let drawn = drawn(machine, glyphs);
    is_golden(&drawn, &format!("src/verb/topology/golden/{name}.txt"));
    let widest = drawn.lines().map(|line| line.chars().count()).max().unwrap();
    assert!(widest <= 100, "{name} has lines of {widest} characters");
    // A frame is whole: all its lines are of one width.
    let framed = drawn.lines().filter(|line| !line.starts_with(' ') && !line.starts_with("memory"));
    for line in framed {
        let last = line.chars().last().unwrap();
        assert!("┐┘│┤+|".contains(last), "{line}");
    }
}

/// One core and one thread, of which nothing else is known: a small container.
fn one_core() -> Machine {
    let bare = CpuPlace { cpu: 0, siblings: vec![0], package: None, node: None, caches: Vec::new(), allowed: true };
    let host = Host::with_cpus(1);
    Machine::of(&Topology { cpus: vec![bare], nodes: Vec::new() }, Some(&plan(&host, "shards = 1")), &[])
}

/// A virtual machine of one socket, with a queue of the network for each CPU.
fn small() -> Machine {
    let made = Made { sockets: 1, nodes_per_socket: 1, caches_per_node: 1, cores_per_cache: 4, threads: 1 };
    let (topology, host) = made.topology(&[3]);
    Machine::of(&topology, Some(&plan(&host, "cpus = \"0-1\"")), &[queue(30, 2), queue(31, 2), queue(32, 0)])
}

/// Two sockets of 32 cores of two threads each.
fn large() -> Machine {
    let made = Made { sockets: 2, nodes_per_socket: 1, caches_per_node: 1, cores_per_cache: 32, threads: 2 };
    let (topology, host) = made.topology(&[127]);
    let plan = plan(&host, "cpus = \"0-15\"\ncrypto = [16, 17]");
    Machine::of(&topology, Some(&plan), &[queue(70, 40), queue(71, 41), queue(72, 41)])
}

/// One socket of four memory nodes, each with two caches of four cores, and memory without CPUs beside it.
fn chiplets() -> Machine {
    let made = Made { sockets: 1, nodes_per_socket: 4, caches_per_node: 2, cores_per_cache: 4, threads: 2 };
    let (mut topology, host) = made.topology(&[]);
    topology.nodes.push(MemoryNode { node: 4, cpus: Vec::new() });
    Machine::of(&topology, Some(&plan(&host, "cpus = \"0-7\"")), &[])
}

#[test]
fn pictures_of_machines_are_as_their_golden_files() {
    check("one-core", &one_core(), &UNICODE);
    check("small", &small(), &UNICODE);
    check("small-ascii", &small(), &ASCII);
    check("two-sockets", &large(), &UNICODE);
    check("chiplets", &chiplets(), &UNICODE);
}

#[test]
fn the_picture_in_the_documentation_is_the_one_that_is_drawn() {
    let lines = ["shards: 16 on CPU 0-15", "crypto workers: 2 on CPU 16,17"].map(str::to_owned);
    is_golden(&svg::draw(&large(), "128 CPUs, 64 cores, 2 memory nodes", &lines), "../docs/pictures/topology.svg");
    is_golden(&svg::draw(&small(), "4 CPUs, 4 cores, 1 memory node", &[]), "src/verb/topology/golden/small.svg");
    is_golden(&svg::draw(&one_core(), "1 CPU, 1 core, 1 memory node", &[]), "src/verb/topology/golden/one-core.svg");
}

#[test]
fn a_terminal_without_unicode_gets_none() {
    let with = |variables: &'static [(&str, &str)]| {
        let glyphs = Glyphs::of_environment(|name| {
            variables.iter().find(|(of, _)| *of == name).map(|(_, value)| (*value).to_owned())
        });
        glyphs.free == UNICODE.free
    };
    assert!(with(&[("LANG", "de_DE.UTF-8")]) && with(&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8")]));
    assert!(!with(&[]) && !with(&[("LANG", "C")]) && !with(&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")]));
    for machine in [one_core(), small(), large(), chiplets()] {
        assert!(drawn(&machine, &ASCII).is_ascii());
    }
}

#[test]
fn every_cpu_is_in_a_picture_once_whatever_the_machine_tells() {
    for machine in [one_core(), small(), large(), chiplets()] {
        let mut cpus: Vec<u16> = machine.threads().map(|thread| thread.cpu).collect();
        cpus.sort_unstable();
        assert!(cpus.iter().copied().eq(0..u16::try_from(cpus.len()).unwrap()), "{cpus:?}");
        let svg = svg::draw(&machine, "a machine", &[]);
        assert_eq!(svg.matches("height=\"24\" rx=\"4\"").count(), cpus.len());
    }
    let (topology, _) =
        Made { sockets: 2, nodes_per_socket: 1, caches_per_node: 1, cores_per_cache: 2, threads: 2 }.topology(&[]);
    let unplanned = Machine::of(&topology, None, &[]);
    assert!(drawn(&unplanned, &UNICODE).contains("free"), "a plan that cannot be made hides no machine");
}

#[test]
fn a_picture_as_svg_is_well_formed_and_needs_nothing_else() {
    let svg = svg::draw(&large(), "128 CPUs & \"more\" <here>", &["shards: 16".to_owned()]);
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"));
    assert!(svg.contains("128 CPUs &amp; &quot;more&quot; &lt;here&gt;") && svg.contains("prefers-color-scheme:dark"));
    assert!(!svg.replace("http://www.w3.org/2000/svg", "").contains("://"), "nothing is loaded");
    // Tags close in the order in which they opened.
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let name: &str = tag.split(|letter: char| !letter.is_alphanumeric() && letter != '/').next().unwrap();
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.split('>').next().unwrap().ends_with('/') => {}
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
}
