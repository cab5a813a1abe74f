//! What the facts mean for a node, each with the command that changes it. A pure function of configuration and facts.

mod keeping;

#[cfg(test)]
mod tests;

use std::io::ErrorKind;

use creto_crypto_accel::processor::{Processor, choices, has_dalek_avx512};
use creto_io::probe::{PROBE_BLOCK_BYTES, ProbeReport};
use creto_io::{Durability, ExecutorError};
use creto_node::config::{Config, WalSync, WritesInFlight, size_text};
use creto_node::plan::Plan;

use super::Finding;
use super::disk::Disk;
use super::facts::{Facts, Files, NodeSeen};
use crate::exit::plain;

/// Oldest kernel whose io_uring has what the executor needs.
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Oldest kernel that is still kept alive with fixes to io_uring.
const KERNEL_WANTED: (u32, u32) = (5, 15);
/// A lone message waits this long for the disk, and everything else takes 1 ms.
const FDATASYNC_US_MAX: u64 = 5_000;
/// Segments that a new log makes before it serves: the one it writes and the one it prepares.
const SEGMENTS_TO_START: u64 = 2;
/// Clock sources that are read without entering the kernel.
const FAST_CLOCKS: &[&str] = &["tsc", "kvm-clock", "hyperv_clocksource_tsc_page", "arch_sys_counter", "timebase"];

pub(super) fn judge(config: &Config, facts: &Facts) -> Vec<Finding> {
    let plan = Plan::resolve(config, &facts.host);
    let mut findings = vec![configuration(&facts.files)];
    findings.extend(keeping::pair(&facts.files));
    findings.extend(keeping::secrets(facts));
    findings.push(keeping::data_folder(plan.as_ref().ok(), facts));
    findings.extend([kernel(&facts.kernel), io_uring(facts)]);
    match plan {
        Ok(plan) => {
            findings.push(cpus(&plan, facts));
            findings.extend(plan.warnings.iter().map(|warning| {
                let text = warning.to_string();
                let (what, fix) = text.split_once("; ").unwrap_or((&text, ""));
                Finding::warn("plan", what, fix)
            }));
            findings.push(memlock(&plan, facts));
            findings.push(keeping::open_files(&plan, facts));
            findings.push(room(config, &plan, &facts.disk));
            findings.extend(keeping::data_space(&facts.data));
            findings.push(keeping::inodes(config, &plan, &facts.disk, &facts.data));
            findings.push(udp_buffers(&plan, facts));
        }
        Err(error) => {
            let text = error.to_string();
            let (what, fix) = text.split_once("; ").unwrap_or((&text, ""));
            findings.push(Finding::fail("cpus", what, fix));
        }
    }
    findings.push(file_system(&facts.disk));
    findings.extend(facts.disk.probe.as_ref().ok().and_then(latency));
    findings.extend(facts.disk.probe.as_ref().ok().map(|probe| log_writes(config, &facts.disk, probe)));
    findings.push(address(config, facts));
    findings.push(instructions(&facts.cpu_features));
    findings.push(cryptography(&facts.processor, has_dalek_avx512()));
    findings.push(clock(facts.clock_source.as_deref()));
    findings.push(keeping::time(facts));
    findings.extend(keeping::settings(&facts.settings));
    findings.push(keeping::node(facts));
    findings
}

fn configuration(files: &Files) -> Finding {
    const NAME: &str = "configuration";
    let Some(config) = &files.config else {
        return Finding::warn(NAME, "no creto.toml here; the machine is held against the defaults", "creto init");
    };
    let key = files.private_key.display();
    match files.private_key_mode {
        // Never told to make one: it would take the place of the node's.
        None if files.private_key_is_hidden => Finding::fail(
            NAME,
            format!("{key} cannot be seen by this user"),
            "sudo -u USER creto doctor, with the user that runs the node",
        ),
        None if !files.certificate_exists => {
            Finding::fail(NAME, format!("{key} is missing: the node has no TLS key"), "creto init --keep-config")
        }
        None => Finding::fail(
            NAME,
            format!("{key} is missing: the node has no TLS key"),
            format!("put it back from a backup, or make a new pair: {}", keeping::NEW_PAIR),
        ),
        Some(_) if !files.certificate_exists => {
            Finding::fail(NAME, "the node's certificate is missing", keeping::NEW_PAIR)
        }
        Some(mode) if mode & 0o077 != 0 => Finding::fail(
            NAME,
            format!("{key} has mode {mode:04o}: others on this machine can read the node's key"),
            format!("chmod 600 {key}"),
        ),
        Some(_) => Finding::ok(NAME, format!("{}, with key and certificate", config.display())),
    }
}

fn kernel(release: &str) -> Finding {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let text = format!("Linux {release}");
    let ((major, minor), (wanted_major, wanted_minor)) = (KERNEL_MIN, KERNEL_WANTED);
    if version < KERNEL_MIN {
        let fix = format!("boot a kernel of at least {wanted_major}.{wanted_minor}");
        Finding::fail(
            "kernel",
            format!("{text} is older than {major}.{minor}: its io_uring lacks what a shard needs"),
            fix,
        )
    } else if version < KERNEL_WANTED {
        let fix = format!("boot a kernel of at least {wanted_major}.{wanted_minor}");
        Finding::warn("kernel", format!("{text} no longer gets the fixes that io_uring had"), fix)
    } else {
        Finding::ok("kernel", text)
    }
}

fn io_uring(facts: &Facts) -> Finding {
    const NAME: &str = "io_uring";
    let error = match &facts.executor {
        Ok(()) => return Finding::ok(NAME, "an executor could be made, as a shard makes it"),
        // The check of the limit says it better.
        Err(ExecutorError::MemoryLock { .. }) => {
            return Finding::warn(NAME, "not tried: too little memory may be locked", memlock_fix(facts));
        }
        Err(error) => error,
    };
    let said = match error {
        ExecutorError::IoUringRefused(error) => plain(error),
        other => other.to_string(),
    };
    let (text, fix) = match (error, facts.uring_disabled) {
        (_, Some(level @ 1..)) => (
            format!("switched off by the sysctl kernel.io_uring_disabled = {level}"),
            "sudo sysctl -w kernel.io_uring_disabled=0",
        ),
        (ExecutorError::IoUringRefused(error), _) if error.kind() == ErrorKind::Unsupported => {
            (format!("this kernel has none ({said})"), "boot a kernel with CONFIG_IO_URING=y")
        }
        (ExecutorError::IoUringRefused(_), _) if facts.in_container => (
            format!("refused inside this container ({said}): its seccomp profile blocks io_uring"),
            "docker run --security-opt seccomp=packaging/docker/seccomp.json … (it is in the repository and in the package)",
        ),
        (ExecutorError::IoUringRefused(_), _) => (
            format!("refused ({said}): a seccomp filter or security module blocks io_uring"),
            "allow io_uring_setup, io_uring_enter and io_uring_register in the filter of this service",
        ),
        _ => (format!("no executor could be made: {said}"), "boot a newer kernel, and look at `dmesg | tail`"),
    };
    Finding::fail(NAME, text, fix)
}

fn cpus(plan: &Plan, facts: &Facts) -> Finding {
    let shards = plan.shard_count();
    let shards = if shards == 1 { "1 shard".to_owned() } else { format!("{shards} shards") };
    let pinned = match plan.shards.iter().all(|shard| shard.cpu.is_some()) {
        true => format!("pinned to CPU {}", plan.cpus_text()),
        false => "not pinned".to_owned(),
    };
    let quota = match facts.host.cpu_quota_millicpus {
        Some(quota) => format!(", {}.{} CPUs of time", quota / 1000, quota % 1000 / 100),
        None => String::new(),
    };
    Finding::ok("cpus", format!("{shards} {pinned}; this process may use CPU {}{quota}", facts.host.cpus_text()))
}

fn memlock(plan: &Plan, facts: &Facts) -> Finding {
    const NAME: &str = "memlock";
    let fix = memlock_fix(facts);
    match facts.host.memlock_bytes {
        None => Finding::ok(NAME, "unlimited"),
        Some(limit) if plan.memlock_bytes_wanted == 0 => {
            Finding::ok(NAME, format!("{}; this driver locks no memory", size_text(limit)))
        }
        Some(limit) if limit < plan.memlock_bytes_min => Finding::fail(
            NAME,
            format!(
                "RLIMIT_MEMLOCK is {}; a shard does not start below {}",
                size_text(limit),
                size_text(plan.memlock_bytes_min)
            ),
            fix,
        ),
        Some(limit) if limit < plan.memlock_bytes_wanted => Finding::warn(
            NAME,
            format!(
                "RLIMIT_MEMLOCK is {}; below {} some shards cannot register their buffers, and each write costs more",
                size_text(limit),
                size_text(plan.memlock_bytes_wanted)
            ),
            fix,
        ),
        Some(limit) => Finding::ok(NAME, size_text(limit)),
    }
}

fn memlock_fix(facts: &Facts) -> &'static str {
    match (facts.in_container, facts.limits_of_the_node) {
        (true, _) => "docker run --ulimit memlock=-1 …",
        (false, true) => "systemctl edit creto: [Service] LimitMEMLOCK=infinity, then systemctl restart creto",
        (false, false) => "sudo prlimit --pid $$ --memlock=unlimited",
    }
}

fn room(config: &Config, plan: &Plan, disk: &Disk) -> Finding {
    const NAME: &str = "disk space";
    let shards = u64::from(plan.shard_count());
    let needed = SEGMENTS_TO_START * config.wal.segment_bytes * shards;
    let free = about(disk.room.free_bytes);
    let folder = disk.folder.display();
    if disk.room.free_bytes < needed {
        let text = format!("{free} free at {folder}; the log needs {} to start", about(needed));
        Finding::fail(NAME, text, "make room, or move the log: CRETO__WAL__DIR=/path/with/room")
    } else if disk.room.free_bytes < plan.wal_disk_bytes_max {
        let per_shard = (disk.room.free_bytes / shards / 2) >> 30;
        let fix = match per_shard {
            0 => "make room, or move the log: CRETO__WAL__DIR=/path/with/room".to_owned(),
            gib => format!("CRETO__WAL__WAL_BYTES_MAX=\"{gib} GiB\", or move the log to a larger device"),
        };
        let text = format!("{free} free at {folder}; the log may grow to {}", about(plan.wal_disk_bytes_max));
        Finding::warn(NAME, text, fix)
    } else {
        Finding::ok(NAME, format!("{free} free at {folder}; the log takes at most {}", about(plan.wal_disk_bytes_max)))
    }
}

fn file_system(disk: &Disk) -> Finding {
    const NAME: &str = "file system";
    const MOVE: &str = "move the log to ext4 or xfs: CRETO__WAL__DIR=/path/on/ext4";
    let (kind, folder) = (&disk.file_system, disk.folder.display());
    if disk.is_read_only {
        let fix = format!(
            "sudo mount -o remount,rw {folder}, and look at `dmesg`: a file system with errors becomes so by itself"
        );
        return Finding::fail(NAME, format!("{kind} at {folder} is mounted read-only"), fix);
    }
    match &disk.probe {
        Ok(probe) if probe.direct_io => {}
        Ok(_) => return Finding::fail(NAME, format!("{kind} at {folder} cannot write with O_DIRECT"), MOVE),
        Err(error) => {
            let text = format!("{folder} cannot be written: {}", plain(error));
            return match error.kind() {
                ErrorKind::PermissionDenied => Finding::fail(NAME, text, format!("sudo chown $USER {folder}")),
                _ => Finding::fail(NAME, text, MOVE),
            };
        }
    }
    match kind.as_str() {
        "ext4" | "xfs" => Finding::ok(NAME, format!("{kind} at {folder}, direct writes work")),
        "tmpfs" | "ramfs" => {
            Finding::warn(NAME, format!("{kind} at {folder} is memory: every message is gone after a reboot"), MOVE)
        }
        "btrfs" => Finding::warn(
            NAME,
            format!("btrfs at {folder} copies every block it writes"),
            format!("chattr +C {folder}"),
        ),
        "overlay" => Finding::warn(
            NAME,
            format!("{folder} is a container's own layer: slow, and gone with the container"),
            "docker run -v creto-data:/data …, and CRETO__NODE__DATA_DIR=/data",
        ),
        "nfs" | "cifs" | "9p" | "fuse" => {
            Finding::warn(NAME, format!("{kind} at {folder}: durability is as good as the other side's"), MOVE)
        }
        _ => Finding::warn(NAME, format!("{kind} at {folder} works, but was never measured; ext4 and xfs were"), MOVE),
    }
}

fn latency(probe: &ProbeReport) -> Option<Finding> {
    const NAME: &str = "disk latency";
    let [small, ..] = PROBE_BLOCK_BYTES;
    let of = |block_bytes| probe.result(block_bytes, Durability::Fdatasync);
    let lone = of(small)?;
    let sizes = PROBE_BLOCK_BYTES.iter().filter_map(|block_bytes| of(*block_bytes));
    let sizes = sizes.map(|row| format!("{} {}", size_text(row.block_bytes as u64), millis(row.p50_us)));
    let sizes = sizes.collect::<Vec<_>>().join(", ");
    let worst = PROBE_BLOCK_BYTES.iter().filter_map(|block_bytes| of(*block_bytes)).map(|row| row.p99_us).max();
    let dsync = probe.result(small, Durability::Dsync).map_or(0, |row| row.p50_us);
    let text = format!("write + fdatasync: {sizes} (p99 {}); O_DSYNC: {}", millis(worst.unwrap_or(0)), millis(dsync));
    Some(if lone.p50_us > FDATASYNC_US_MAX {
        let fix = "put the log on a device with power-loss protection: CRETO__WAL__DIR=/path";
        Finding::warn(NAME, format!("{text}. Every acknowledgement waits that long"), fix)
    } else {
        Finding::ok(NAME, text)
    })
}

/// How the log is written, and whether what was measured today says the same.
fn log_writes(config: &Config, disk: &Disk, probe: &ProbeReport) -> Finding {
    const NAME: &str = "log writes";
    let today = probe.choice;
    let is_open = config.wal.sync == WalSync::Auto || config.wal.writes_in_flight == WritesInFlight::Auto;
    match disk.remembered {
        _ if !is_open => Finding::ok(NAME, format!("as [wal] says; this device would be written by {today}")),
        None => Finding::ok(NAME, format!("{today}; the first start measures and remembers it")),
        Some(choice) if choice == today => Finding::ok(NAME, format!("{choice}")),
        // Not a warning: two measurements of a device that others use, too, differ.
        Some(choice) => Finding {
            fix: "creto doctor --probe, then start the node again, if it says so again".to_owned(),
            ..Finding::ok(NAME, format!("{choice}, as measured at a start; today it would be {today}"))
        },
    }
}

fn udp_buffers(plan: &Plan, facts: &Facts) -> Finding {
    const NAME: &str = "udp buffers";
    let wanted = u64::from(plan.udp_buffer_bytes);
    let (Some(receive), Some(send)) = facts.udp_buffer_bytes_max else {
        return Finding::warn(NAME, "the limits of socket buffers cannot be read", "cat /proc/sys/net/core/rmem_max");
    };
    if receive < wanted || send < wanted {
        Finding::warn(
            NAME,
            format!(
                "receive {}, send {}; below {} bursts are dropped and sent again",
                size_text(receive),
                size_text(send),
                size_text(wanted)
            ),
            format!("sudo sysctl -w net.core.rmem_max={wanted} net.core.wmem_max={wanted}"),
        )
    } else {
        Finding::ok(NAME, format!("receive {}, send {}", size_text(receive), size_text(send)))
    }
}

fn address(config: &Config, facts: &Facts) -> Finding {
    const NAME: &str = "address";
    let listen = config.node.listen;
    match facts.address {
        Ok(()) => Finding::ok(NAME, format!("{listen} is free")),
        Err(ErrorKind::AddrInUse) if facts.node != NodeSeen::None => {
            Finding::ok(NAME, format!("{listen}, where the node runs"))
        }
        Err(ErrorKind::AddrInUse) => Finding::warn(
            NAME,
            format!("{listen} is in use by something else"),
            format!("ss -ulpn sport = :{}", listen.port()),
        ),
        Err(ErrorKind::AddrNotAvailable) => Finding::fail(
            NAME,
            format!("{} is not an address of this machine", listen.ip()),
            "ip -brief address, then set CRETO__NODE__LISTEN",
        ),
        Err(kind) => Finding::fail(
            NAME,
            format!("{listen} cannot be bound: {kind}"),
            "set CRETO__NODE__LISTEN to another address or port",
        ),
    }
}

fn instructions(features: &[(&'static str, bool)]) -> Finding {
    const NAME: &str = "instructions";
    const NEEDED: &[&str] = &["aes", "avx2", "sha2"];
    let list =
        |has: bool| features.iter().filter(|(_, found)| *found == has).map(|(name, _)| *name).collect::<Vec<_>>();
    let (found, missing) = (list(true), list(false));
    let slow: Vec<_> = missing.iter().filter(|name| NEEDED.contains(name)).copied().collect();
    if !slow.is_empty() {
        let text = format!("without {} cryptography is several times slower", slow.join(", "));
        return Finding::warn(NAME, text, "in a virtual machine: pass the host's CPU through (qemu -cpu host)");
    }
    let missing = if missing.is_empty() { String::new() } else { format!("; not {}", missing.join(", ")) };
    Finding::ok(NAME, format!("{}{missing}", found.join(", ")))
}

/// What runs, and what this build or this processor leaves out.
fn cryptography(processor: &Processor, dalek_avx512: bool) -> Finding {
    const NAME: &str = "crypto";
    let choices = choices(processor, dalek_avx512);
    let text = choices.iter().map(|choice| format!("{}: {}", choice.primitive, choice.by)).collect::<Vec<_>>();
    let text = text.join(" · ");
    if choices.iter().any(|choice| choice.is_slow) {
        let fix = "in a virtual machine: pass the host's CPU through (qemu -cpu host)";
        return Finding::warn(NAME, text, fix);
    }
    // Nothing to do: it was measured, and made no difference to a verification.
    let unused = processor.avx512_ifma && !dalek_avx512;
    let note = if unused { " (AVX-512 IFMA is not built in, see docs/building.md)" } else { "" };
    Finding::ok(NAME, format!("{text}{note}"))
}

fn clock(source: Option<&str>) -> Finding {
    const NAME: &str = "clock";
    match source {
        Some(source) if FAST_CLOCKS.contains(&source) => {
            Finding::ok(NAME, format!("{source}, read without a system call"))
        }
        Some(source) => Finding::warn(
            NAME,
            format!("{source} needs a system call for every reading"),
            "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource",
        ),
        None => Finding::ok(NAME, "the kernel does not say which"),
    }
}

fn millis(us: u64) -> String {
    if us < 100_000 { format!("{}.{:02} ms", us / 1000, us % 1000 / 10) } else { format!("{} ms", us / 1000) }
}

fn about(bytes: u64) -> String {
    if bytes < 1 << 30 {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
    }
}
