use std::io;
use std::path::PathBuf;

use creto_io::probe::{Choice, ProbeResult};
use creto_node::host::Host;

use super::super::State;
use super::*;

/// A machine on which everything is as it should be.
fn good() -> Facts {
    let row = |block_bytes, durability, p50_us| ProbeResult {
        block_bytes,
        durability,
        in_flight: 1,
        writes: 64,
        p50_us,
        p99_us: 2 * p50_us,
        max_us: 3 * p50_us,
        bytes_per_s: 1e9,
    };
    let rows = PROBE_BLOCK_BYTES.iter().zip([310, 350, 380]).flat_map(|(block_bytes, p50_us)| {
        [row(*block_bytes, Durability::Fdatasync, p50_us), row(*block_bytes, Durability::Dsync, 3_000)]
    });
    let choice = Choice { durability: Durability::Fdatasync, writes_in_flight: 2 };
    let probe = ProbeReport { direct_io: true, results: rows.collect(), choice };
    Facts {
        kernel: "6.18.0".to_owned(),
        in_container: false,
        host: Host::with_cpus(2),
        executor: Ok(()),
        uring_disabled: Some(0),
        disk: Disk {
            folder: PathBuf::from("/data"),
            file_system: "ext4".to_owned(),
            free_bytes: 1 << 40,
            probe: Ok(probe),
            remembered: None,
        },
        udp_buffer_bytes_max: (Some(8 << 20), Some(8 << 20)),
        address: Ok(()),
        node_runs: false,
        cpu_features: vec![("aes", true), ("avx2", true), ("vaes", false)],
        processor: Processor { aes: true, sha256: true, avx2: true, ..Processor::default() },
        clock_source: Some("tsc".to_owned()),
        files: Files {
            config: Some(PathBuf::from("creto.toml")),
            private_key: PathBuf::from("data/node.key"),
            private_key_mode: Some(0o600),
            certificate_exists: true,
        },
    }
}

/// Changes the good machine and expects one finding of that name, in full: `state: text | fix`.
fn check(change: impl FnOnce(&mut Facts), name: &str, expect: &str) {
    let mut facts = good();
    change(&mut facts);
    let findings = judge(&Config::default(), &facts);
    let shown: Vec<String> = findings
        .iter()
        .filter(|finding| finding.name == name)
        .map(|finding| format!("{:?}: {} | {}", finding.state, finding.text, finding.fix))
        .collect();
    assert_eq!(shown, [expect]);
    for finding in &findings {
        assert!(finding.name == name || finding.state == State::Ok, "{finding:?}");
        assert_eq!(finding.state == State::Ok, finding.fix.is_empty(), "{finding:?}");
    }
}

#[test]
fn nothing_is_to_be_done_on_a_good_machine() {
    for finding in judge(&Config::default(), &good()) {
        assert_eq!((finding.state, finding.fix.as_str()), (State::Ok, ""), "{finding:?}");
    }
}

#[test]
fn the_shell_that_has_no_configuration_is_told_to_make_one() {
    check(
        |facts| facts.files.config = None,
        "configuration",
        "Warn: no creto.toml here; the machine is held against the defaults | creto init",
    );
    check(
        |facts| facts.files.private_key_mode = Some(0o644),
        "configuration",
        "Fail: data/node.key has mode 0644: others on this machine can read the node's key | chmod 600 data/node.key",
    );
    check(
        |facts| facts.files.private_key_mode = None,
        "configuration",
        "Fail: data/node.key is missing: the node has no TLS key | creto init --force",
    );
}

#[test]
fn old_kernels_are_told_apart() {
    check(
        |facts| facts.kernel = "5.4.0-150-generic".to_owned(),
        "kernel",
        "Fail: Linux 5.4.0-150-generic is older than 5.8: its io_uring lacks what a shard needs | \
         boot a kernel of at least 5.15",
    );
    check(
        |facts| facts.kernel = "5.10.200".to_owned(),
        "kernel",
        "Warn: Linux 5.10.200 no longer gets the fixes that io_uring had | boot a kernel of at least 5.15",
    );
}

#[test]
fn a_refused_ring_is_explained_by_who_refused_it() {
    let refuse = |facts: &mut Facts, errno: i32| {
        facts.executor = Err(ExecutorError::IoUringRefused(io::Error::from_raw_os_error(errno)));
    };
    let eperm = rustix::io::Errno::PERM.raw_os_error();
    let enosys = rustix::io::Errno::NOSYS.raw_os_error();
    check(
        |facts| {
            refuse(facts, eperm);
            facts.uring_disabled = Some(2);
        },
        "io_uring",
        "Fail: switched off by the sysctl kernel.io_uring_disabled = 2 | sudo sysctl -w kernel.io_uring_disabled=0",
    );
    check(
        |facts| {
            refuse(facts, eperm);
            facts.in_container = true;
        },
        "io_uring",
        "Fail: refused inside this container (operation not permitted): its seccomp profile blocks io_uring | \
         docker run --security-opt seccomp=creto-seccomp.json … (docs/operations.md says how to make it)",
    );
    check(
        |facts| refuse(facts, eperm),
        "io_uring",
        "Fail: refused (operation not permitted): a seccomp filter or security module blocks io_uring | \
         allow io_uring_setup, io_uring_enter and io_uring_register in the filter of this service",
    );
    check(
        |facts| refuse(facts, enosys),
        "io_uring",
        "Fail: this kernel has none (function not implemented) | boot a kernel with CONFIG_IO_URING=y",
    );
}

#[test]
fn too_little_locked_memory_stops_or_slows() {
    check(
        |facts| facts.host.memlock_bytes = Some(64 << 10),
        "memlock",
        "Fail: RLIMIT_MEMLOCK is 64 KiB; a shard does not start below 512 KiB | \
         sudo prlimit --pid $$ --memlock=unlimited",
    );
    check(
        |facts| {
            facts.host.memlock_bytes = Some(600 << 10);
            facts.host.cpus = Host::with_cpus(8).cpus;
            facts.in_container = true;
        },
        "memlock",
        "Warn: RLIMIT_MEMLOCK is 600 KiB; below 2304 KiB some shards cannot register their buffers, and each write costs \
         more | docker run --ulimit memlock=-1 …",
    );
}

#[test]
fn a_disk_without_room_is_found_before_the_log_finds_it() {
    check(
        |facts| facts.disk.free_bytes = 100 << 20,
        "disk space",
        "Fail: 100 MiB free at /data; the log needs 256 MiB to start | \
         make room, or move the log: CRETO__WAL__DIR=/path/with/room",
    );
    check(
        |facts| facts.disk.free_bytes = 10 << 30,
        "disk space",
        "Warn: 10.0 GiB free at /data; the log may grow to 32.0 GiB | \
         CRETO__WAL__WAL_BYTES_MAX=\"2 GiB\", or move the log to a larger device",
    );
}

#[test]
fn file_systems_that_do_not_keep_or_cannot_write_are_named() {
    check(
        |facts| facts.disk.file_system = "tmpfs".to_owned(),
        "file system",
        "Warn: tmpfs at /data is memory: every message is gone after a reboot | \
         move the log to ext4 or xfs: CRETO__WAL__DIR=/path/on/ext4",
    );
    check(
        |facts| facts.disk.probe.as_mut().unwrap().direct_io = false,
        "file system",
        "Fail: ext4 at /data cannot write with O_DIRECT | move the log to ext4 or xfs: CRETO__WAL__DIR=/path/on/ext4",
    );
    check(
        |facts| facts.disk.probe = Err(rustix::io::Errno::ACCESS.into()),
        "file system",
        "Fail: /data cannot be written: permission denied | sudo chown $USER /data",
    );
}

#[test]
fn a_slow_disk_is_said_in_figures() {
    check(
        |facts| facts.disk.probe.as_mut().unwrap().results[0].p50_us = 12_340,
        "disk latency",
        "Warn: write + fdatasync: 4 KiB 12.34 ms, 64 KiB 0.35 ms, 256 KiB 0.38 ms (p99 0.76 ms); O_DSYNC: 3.00 ms. \
         Every acknowledgement waits that long | \
         put the log on a device with power-loss protection: CRETO__WAL__DIR=/path",
    );
}

#[test]
fn the_network_is_looked_at() {
    check(
        |facts| facts.udp_buffer_bytes_max = (Some(212_992), Some(212_992)),
        "udp buffers",
        "Warn: receive 208 KiB, send 208 KiB; below 4 MiB bursts are dropped and sent again | \
         sudo sysctl -w net.core.rmem_max=4194304 net.core.wmem_max=4194304",
    );
    check(
        |facts| facts.address = Err(ErrorKind::AddrInUse),
        "address",
        "Warn: 127.0.0.1:7443 is in use by something else | ss -ulpn sport = :7443",
    );
    check(
        |facts| {
            facts.address = Err(ErrorKind::AddrInUse);
            facts.node_runs = true;
        },
        "address",
        "Ok: 127.0.0.1:7443, where the node runs | ",
    );
    check(
        |facts| facts.address = Err(ErrorKind::AddrNotAvailable),
        "address",
        "Fail: 127.0.0.1 is not an address of this machine | ip -brief address, then set CRETO__NODE__LISTEN",
    );
}

#[test]
fn a_slow_clock_and_missing_instructions_are_named() {
    check(
        |facts| facts.clock_source = Some("hpet".to_owned()),
        "clock",
        "Warn: hpet needs a system call for every reading | \
         echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource",
    );
    check(
        |facts| facts.cpu_features[0].1 = false,
        "instructions",
        "Warn: without aes cryptography is several times slower | \
         in a virtual machine: pass the host's CPU through (qemu -cpu host)",
    );
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_computes_each_primitive_is_named() {
    check(
        |facts| facts.processor.vector_aes = true,
        "crypto",
        "Ok: AES-256-GCM: aws-lc, VAES and AVX-512 · SHA-256: SHA instructions, two messages at once · \
         ML-DSA-65, ML-KEM-768: aws-lc, AVX2 · Ed25519 verification: dalek, AVX2 | ",
    );
    check(
        |facts| facts.processor.sha256 = false,
        "crypto",
        "Warn: AES-256-GCM: aws-lc, AES instructions · SHA-256: aws-lc, no SHA instructions · \
         ML-DSA-65, ML-KEM-768: aws-lc, AVX2 · Ed25519 verification: dalek, AVX2 | \
         in a virtual machine: pass the host's CPU through (qemu -cpu host)",
    );
}

#[test]
fn a_configuration_that_this_machine_cannot_hold_is_a_failure() {
    let config = Config::parse("creto.toml", "[topology]\ncpus = [0, 9]\n", []).unwrap();
    let findings = judge(&config, &good());
    let cpus = findings.iter().find(|finding| finding.name == "cpus").unwrap();
    assert_eq!(cpus.state, State::Fail);
    assert_eq!(cpus.text, "topology.cpus names CPU 9, but this machine has 0-1");
}
