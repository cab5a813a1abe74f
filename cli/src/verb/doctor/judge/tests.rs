use std::io;
use std::path::PathBuf;
use std::time::Duration;

use creto_io::discipline::Discipline;
use creto_io::executor::DriverKind;
use creto_io::probe::{Choice, ProbeResult};
use creto_node::host::Host;
use creto_service::health::{Readiness, ShardHealth, ShardState};

use super::super::State;
use super::super::disk::Room;
use super::super::facts::DataFolder;
use super::super::pair::{Pair, Validity};
use super::*;
use crate::verb::tune::{Setting, Tuner, TunerState};

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
        uid: 998,
        host: Host::with_cpus(2),
        open_files_max: Some(1024),
        limits_of_the_node: false,
        executor: Ok(()),
        uring_disabled: Some(0),
        disk: Disk {
            folder: PathBuf::from("/data"),
            file_system: "ext4".to_owned(),
            room: Room { free_bytes: 1 << 40, free_files: Some(1 << 20) },
            is_read_only: false,
            probe: Ok(probe),
            remembered: None,
        },
        data: DataFolder {
            path: PathBuf::from("data"),
            owned: Some((0o700, 998)),
            is_writable: true,
            stranger: None,
            foreign: Vec::new(),
            open_secrets: Vec::new(),
            ahead: Duration::ZERO,
            written_shards: Some(2),
            room: Room { free_bytes: 1 << 40, free_files: Some(1 << 20) },
            has_the_log: true,
        },
        udp_buffer_bytes_max: (Some(8 << 20), Some(8 << 20)),
        address: Ok(()),
        node: NodeSeen::None,
        cpu_features: vec![("aes", true), ("avx2", true), ("vaes", false)],
        processor: Processor { aes: true, sha256: true, avx2: true, ..Processor::default() },
        clock_source: Some("tsc".to_owned()),
        clock: Discipline::Kept { error_us: 1_500 },
        settings: vec![setting(TunerState::Right), setting(TunerState::Unsupported)],
        files: Files {
            config: Some(PathBuf::from("creto.toml")),
            private_key: PathBuf::from("data/node.key"),
            private_key_mode: Some(0o600),
            private_key_is_hidden: false,
            config_mode: Some(0o644),
            config_has_password: false,
            certificate: PathBuf::from("data/node.crt"),
            certificate_exists: true,
            pair: Pair::Sound(Validity { from_s: 0, until_s: 400 * 86_400, now_s: 86_400 }),
        },
    }
}

fn ready() -> Readiness {
    let shard = ShardHealth { shard: 0, state: ShardState::Serving, since_ms: 0, cause: String::new() };
    Readiness { ready: true, directory: String::new(), control: None, nodes: Vec::new(), shards: vec![shard] }
}

fn setting(state: TunerState) -> Setting {
    let text = |text: &str| text.to_owned();
    let (what, now, wanted) = (text("transparent huge pages"), text("always"), text("madvise"));
    Setting { tuner: Tuner::HugePages, what, now, wanted, state, reason: String::new(), change: None }
}

/// Changes the good machine and expects one finding of that name, in full: `state: text | fix`.
fn check(change: impl FnOnce(&mut Facts), name: &str, expect: &str) {
    check_with(&Config::default(), change, name, expect);
}

fn check_with(config: &Config, change: impl FnOnce(&mut Facts), name: &str, expect: &str) {
    let mut facts = good();
    change(&mut facts);
    let findings = judge(config, &facts);
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
        "Fail: data/node.key is missing: the node has no TLS key | \
         put it back from a backup, or make a new pair: creto init --keep-config --force",
    );
    check(
        |facts| (facts.files.private_key_mode, facts.files.certificate_exists) = (None, false),
        "configuration",
        "Fail: data/node.key is missing: the node has no TLS key | creto init --keep-config",
    );
    // Whoever may not look must not be told to replace what is there.
    check(
        |facts| (facts.files.private_key_mode, facts.files.private_key_is_hidden) = (None, true),
        "configuration",
        "Fail: data/node.key cannot be seen by this user | sudo -u USER creto doctor, with the user that runs the node",
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
         docker run --security-opt seccomp=packaging/docker/seccomp.json … (it is in the repository and in the package)",
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
fn too_little_locked_memory_stops_or_slows_the_driver_that_locks_memory() {
    // As in a container of Docker.
    check(|facts| facts.host.memlock_bytes = Some(64 << 10), "memlock", "Ok: 64 KiB; this driver locks no memory | ");
    let check = |change: fn(&mut Facts), name: &str, expect: &str| {
        let mut config = Config::default();
        config.engine.driver = DriverKind::Glommio;
        check_with(&config, change, name, expect);
    };
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
            facts.data.written_shards = None;
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
        |facts| facts.disk.room.free_bytes = 100 << 20,
        "disk space",
        "Fail: 100 MiB free at /data; the log needs 256 MiB to start | \
         make room, or move the log: CRETO__WAL__DIR=/path/with/room",
    );
    check(
        |facts| facts.disk.room.free_bytes = 10 << 30,
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
            facts.node = NodeSeen::Says(ready());
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

#[test]
fn a_certificate_is_looked_at_with_its_key_and_its_dates() {
    let renew = "creto init --keep-config --force, then give the new certificate to every agent";
    let dated = |facts: &mut Facts, now_days: i64| {
        facts.files.pair =
            Pair::Sound(Validity { from_s: 10 * 86_400, until_s: 100 * 86_400, now_s: now_days * 86_400 });
    };
    check(|_| {}, "certificate", "Ok: data/node.crt and its key belong together, for 399 days more | ");
    check(|facts| dated(facts, 90), "certificate", &format!("Warn: data/node.crt ends in 10 days | {renew}"));
    check(
        |facts| dated(facts, 103),
        "certificate",
        &format!("Warn: data/node.crt ended 3 days ago; agents that were given it go on | {renew}"),
    );
    check(
        |facts| dated(facts, 5),
        "certificate",
        "Warn: data/node.crt counts in 6 days only, by this clock | \
         set the clock (timedatectl), or make the pair anew: creto init --keep-config --force",
    );
    check(
        |facts| facts.files.pair = Pair::Broken("keys may not be consistent".to_owned()),
        "certificate",
        &format!("Fail: data/node.crt and its key: keys may not be consistent | {renew}"),
    );
}

#[test]
fn secrets_that_others_may_read_are_a_failure() {
    check(
        |facts| facts.data.open_secrets = vec![(PathBuf::from("data/audit/audit.key"), 0o640)],
        "secrets",
        "Fail: data/audit/audit.key has mode 0640: others on this machine can read it | chmod 600 data/audit/audit.key",
    );
    check(
        |facts| facts.files.config_has_password = true,
        "secrets",
        "Fail: creto.toml has a password in it and mode 0644: others on this machine can read it | chmod 640 creto.toml",
    );
    check(
        |facts| {
            facts.files.config_has_password = true;
            facts.files.config_mode = Some(0o640);
        },
        "secrets",
        "Ok: creto.toml has a password in it, and mode 0640 | ",
    );
}

#[test]
fn the_data_folder_must_belong_to_whoever_runs_the_node_and_fit_the_plan() {
    check(|_| {}, "data folder", "Ok: data, written with 2 shards, mode 0700 | ");
    check(
        |facts| facts.uid = 1000,
        "data folder",
        "Fail: data belongs to user 998, and this is user 1000 | sudo -u '#998' creto doctor",
    );
    check(|facts| facts.uid = 0, "data folder", "Ok: data, written with 2 shards, mode 0700 | ");
    check(
        |facts| facts.data.stranger = Some((PathBuf::from("data/control.redb"), 0)),
        "data folder",
        "Fail: data/control.redb belongs to user 0, and data to user 998 | sudo chown -R 998 data",
    );
    check(
        |facts| facts.data.foreign = ["a.tar", "b", "c", "d", "e"].map(str::to_owned).to_vec(),
        "data folder",
        "Warn: data has files of other users that are none of the node's: a.tar, b, c and 2 more | \
         move them out of data, or sudo chown -R 998 data",
    );
    check(
        |facts| facts.data.owned = Some((0o755, 998)),
        "data folder",
        "Warn: data has mode 0755: others on this machine can look inside | chmod 700 data",
    );
    check(|facts| facts.data.is_writable = false, "data folder", "Fail: data cannot be written | chmod 700 data");
    check(
        |facts| {
            facts.data.owned = None;
            facts.data.is_writable = false;
        },
        "data folder",
        "Fail: data is not there, and cannot be made by this user | sudo install -d -m 700 -o \"$(id -un)\" data",
    );
    check(
        |facts| facts.data.ahead = Duration::from_secs(7_200),
        "data folder",
        "Warn: files in data are dated 7200 s ahead of the clock: it went back | \
         set the clock before the node starts: timedatectl",
    );
    check(
        |facts| facts.data.written_shards = Some(3),
        "data folder",
        "Fail: data was written with 3 shards, and 2 are planned: the node does not start | \
         CRETO__TOPOLOGY__SHARDS=3, or topology.shards = 3 in creto.toml",
    );
    check(|facts| facts.data.written_shards = Some(0), "data folder", "Ok: data, of a control service, mode 0700 | ");
}

#[test]
fn room_for_files_is_counted_as_room_for_bytes_is() {
    let fix = "df -i /data; delete what has many small files there, or move the log: CRETO__WAL__DIR=/path";
    check(
        |facts| facts.disk.room.free_files = Some(15),
        "inodes",
        &format!("Fail: 15 files can still be made at /data; a start needs 16 | {fix}"),
    );
    check(
        |facts| facts.disk.room.free_files = Some(2_047),
        "inodes",
        &format!("Warn: 2047 files can still be made at /data; a full log has 2048 | {fix}"),
    );
    check(
        |facts| facts.disk.room.free_files = None,
        "inodes",
        "Ok: the file system at /data has as many as it needs | ",
    );
    let other_device = |facts: &mut Facts, free_bytes| {
        facts.data.has_the_log = false;
        facts.data.room.free_bytes = free_bytes;
    };
    check(
        |facts| other_device(facts, 2 << 30),
        "data space",
        "Ok: 2.0 GiB free at data, for the audit log and the directory | ",
    );
    let fix = "make room, or shorten audit.retention: CRETO__AUDIT__RETENTION=30d";
    check(
        |facts| other_device(facts, 500 << 20),
        "data space",
        &format!("Warn: 500 MiB free at data, for the audit log and the directory | {fix}"),
    );
    check(
        |facts| other_device(facts, 3 << 20),
        "data space",
        &format!("Fail: 3 MiB free at data: the audit log and the directory cannot be written any more | {fix}"),
    );
    check(
        |facts| facts.disk.is_read_only = true,
        "file system",
        "Fail: ext4 at /data is mounted read-only | \
         sudo mount -o remount,rw /data, and look at `dmesg`: a file system with errors becomes so by itself",
    );
}

#[test]
fn a_limit_on_open_files_is_held_against_the_plan() {
    check(|facts| facts.open_files_max = None, "open files", "Ok: unlimited | ");
    check(
        |facts| facts.open_files_max = Some(200),
        "open files",
        "Warn: RLIMIT_NOFILE is 200; under load a node may need 256 | sudo prlimit --pid $$ --nofile=65536:65536",
    );
    check(
        |facts| {
            facts.open_files_max = Some(200);
            facts.limits_of_the_node = true;
        },
        "open files",
        "Warn: RLIMIT_NOFILE is 200; under load a node may need 256 | \
         systemctl edit creto: [Service] LimitNOFILE=65536, then systemctl restart creto",
    );
    check(
        |facts| {
            facts.open_files_max = Some(32);
            facts.in_container = true;
        },
        "open files",
        "Fail: RLIMIT_NOFILE is 32; the shards of this plan have about 64 open | \
         docker run --ulimit nofile=65536:65536 …",
    );
}

#[test]
fn a_clock_that_nobody_sets_is_a_warning() {
    check(
        |facts| facts.clock = Discipline::Free,
        "time",
        "Warn: nobody sets the clock: messages that are dated more than five minutes ahead of it are refused | \
         sudo timedatectl set-ntp true, or install chrony",
    );
    check(
        |facts| facts.clock = Discipline::Kept { error_us: 2_340_000 },
        "time",
        "Warn: the clock is set, and may be off by 2.3 s | \
         chronyc tracking, or timedatectl timesync-status: is the time server reached?",
    );
    check(
        |facts| facts.clock = Discipline::Unknown,
        "time",
        "Ok: the kernel does not say here whether somebody sets the clock | ",
    );
}

#[test]
fn what_tune_would_change_is_said_in_one_line() {
    check(
        |facts| facts.settings.push(setting(TunerState::Differs)),
        "tuning",
        "Warn: transparent huge pages always (wanted madvise) | sudo creto tune --apply (creto tune --explain says why)",
    );
}

#[test]
fn a_node_that_runs_is_asked_whether_it_serves() {
    check(|_| {}, "node", "Ok: none runs here yet | ");
    check(|facts| facts.node = NodeSeen::Says(ready()), "node", "Ok: it serves, with 1 shard | ");
    check(
        |facts| {
            let mut readiness = ready();
            readiness.ready = false;
            readiness.shards[0].state = ShardState::Fenced;
            readiness.shards[0].cause = "the disk said no".to_owned();
            facts.node = NodeSeen::Says(readiness);
        },
        "node",
        "Fail: it runs and is not ready: shard 0 is fenced: the disk said no | creto status, and do what it says",
    );
    check(
        |facts| facts.node = NodeSeen::Silent("no answer in 3 s".to_owned()),
        "node",
        "Fail: something holds the control socket and does not say how it is: no answer in 3 s | \
         creto status; look at the node's log (journalctl -u creto -n 100), then restart it",
    );
    check(
        |facts| facts.node = NodeSeen::NotAllowed,
        "node",
        "Warn: one runs, and its control socket is another user's | \
         sudo -u USER creto doctor, with the user that runs the node",
    );
}
