//! What is kept, and by whom: the data folder, keys and certificate, room for files, limits, clocks, and the node that runs.

use std::time::Duration;

use creto_io::discipline::Discipline;
use creto_node::config::Config;
use creto_node::plan::Plan;

use super::super::Finding;
use super::super::disk::{Disk, Room};
use super::super::facts::{DataFolder, Facts, Files, NodeSeen};
use super::super::pair::{Pair, Validity};
use super::about;
use crate::verb::tune::{Setting, TunerState};

/// Files that a shard has open: its ring and eventfds, its socket, segments that are written, read and made. Measured: 12 idle, and the
/// driver has at most 64 operations of the disk under way.
const OPEN_FILES_PER_SHARD: u64 = 64;
/// What the rest of a node has open: logs and sockets of control, the audit log, its clients on the control socket.
const OPEN_FILES_BESIDE: u64 = 128;
/// Files of a shard's log that a start makes: a segment, the next one, and what is beside them.
const FILES_TO_START_PER_SHARD: u64 = 8;
/// What the data folder needs beside the log: the directory, and files of the audit log.
const FILES_BESIDE: u64 = 1_024;
/// Below this the audit log and the directory stop soon.
const DATA_BYTES_WANTED: u64 = 1 << 30;
/// Below this they stop now.
const DATA_BYTES_MIN: u64 = 64 << 20;
/// A certificate that is renewed a month ahead is renewed in time.
const RENEW_DAYS: i64 = 30;
/// An end further away is not worth a word.
const FAR_DAYS: i64 = 3_650;
const DAY_S: i64 = 86_400;
/// What agents date further ahead of the node's clock is refused, so the node's clock must be right within this.
const CLOCK_ERROR_US_MAX: u64 = 1_000_000;
/// A clock that files are ahead of by more has gone back.
const AHEAD_MAX: Duration = Duration::from_secs(120);
/// Foreign files that are named.
const FOREIGN_NAMED: usize = 3;

/// Makes another pair, and leaves the configuration as it is.
pub(super) const NEW_PAIR: &str = "creto init --keep-config --force";

pub(super) fn pair(files: &Files) -> Option<Finding> {
    const NAME: &str = "certificate";
    let file = files.certificate.display();
    let renew = format!("{NEW_PAIR}, then give the new certificate to every agent");
    match &files.pair {
        Pair::Unread => None,
        Pair::Broken(why) => Some(Finding::fail(NAME, format!("{file} and its key: {why}"), renew)),
        Pair::Sound(Validity { from_s, until_s, now_s }) => {
            let days = (until_s - now_s) / DAY_S;
            // Our own agents were given this very certificate, and do not look at its dates; what else connects may.
            Some(if now_s < from_s {
                let text = format!("{file} counts in {} days only, by this clock", (from_s - now_s) / DAY_S + 1);
                Finding::warn(NAME, text, format!("set the clock (timedatectl), or make the pair anew: {NEW_PAIR}"))
            } else if now_s >= until_s {
                let text = format!("{file} ended {} days ago; agents that were given it go on", -days);
                Finding::warn(NAME, text, renew)
            } else if days < RENEW_DAYS {
                Finding::warn(NAME, format!("{file} ends in {days} days"), renew)
            } else {
                // Those that `creto init` makes have no end that anybody will see.
                let left = if days < FAR_DAYS { format!(", for {days} days more") } else { String::new() };
                Finding::ok(NAME, format!("{file} and its key belong together{left}"))
            })
        }
    }
}

/// Who may read what nobody else should, beside the private key.
pub(super) fn secrets(facts: &Facts) -> Option<Finding> {
    const NAME: &str = "secrets";
    if let Some((file, mode)) = facts.data.open_secrets.first() {
        let text = format!("{} has mode {mode:04o}: others on this machine can read it", file.display());
        return Some(Finding::fail(NAME, text, format!("chmod 600 {}", file.display())));
    }
    let Files { config: Some(config), config_mode: Some(mode), config_has_password: true, .. } = &facts.files else {
        return None;
    };
    let file = config.display();
    Some(match mode & 0o007 != 0 {
        true => Finding::fail(
            NAME,
            format!("{file} has a password in it and mode {mode:04o}: others on this machine can read it"),
            format!("chmod 640 {file}"),
        ),
        false => Finding::ok(NAME, format!("{file} has a password in it, and mode {mode:04o}")),
    })
}

pub(super) fn data_folder(plan: Option<&Plan>, facts: &Facts) -> Finding {
    const NAME: &str = "data folder";
    let DataFolder { path, owned, is_writable, stranger, foreign, ahead, written_shards, .. } = &facts.data;
    let folder = path.display();
    let Some((mode, owner)) = *owned else {
        return match is_writable {
            true => Finding::ok(NAME, format!("{folder} is not there yet; the first start makes it")),
            false => Finding::fail(
                NAME,
                format!("{folder} is not there, and cannot be made by this user"),
                format!("sudo install -d -m 700 -o \"$(id -un)\" {folder}"),
            ),
        };
    };
    if facts.uid != owner && facts.uid != 0 {
        let text = format!("{folder} belongs to user {owner}, and this is user {}", facts.uid);
        return Finding::fail(NAME, text, format!("sudo -u '#{owner}' creto doctor"));
    }
    if !is_writable {
        return Finding::fail(NAME, format!("{folder} cannot be written"), format!("chmod 700 {folder}"));
    }
    if let Some((file, uid)) = stranger {
        let text = format!("{} belongs to user {uid}, and {folder} to user {owner}", file.display());
        return Finding::fail(NAME, text, format!("sudo chown -R {owner} {folder}"));
    }
    if !foreign.is_empty() {
        let mut names = foreign.iter().take(FOREIGN_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
        if let Some(more @ 1..) = foreign.len().checked_sub(FOREIGN_NAMED) {
            names = format!("{names} and {more} more");
        }
        let text = format!("{folder} has files of other users that are none of the node's: {names}");
        return Finding::warn(NAME, text, format!("move them out of {folder}, or sudo chown -R {owner} {folder}"));
    }
    if mode & 0o077 != 0 {
        let text = format!("{folder} has mode {mode:04o}: others on this machine can look inside");
        return Finding::warn(NAME, text, format!("chmod 700 {folder}"));
    }
    if *ahead > AHEAD_MAX {
        let text = format!("files in {folder} are dated {} s ahead of the clock: it went back", ahead.as_secs());
        return Finding::warn(NAME, text, "set the clock before the node starts: timedatectl");
    }
    match (*written_shards, plan.map(Plan::shard_count)) {
        (Some(written @ 1..), Some(planned)) if written != planned => Finding::fail(
            NAME,
            format!("{folder} was written with {written} shards, and {planned} are planned: the node does not start"),
            format!("CRETO__TOPOLOGY__SHARDS={written}, or topology.shards = {written} in creto.toml"),
        ),
        (Some(0), _) => Finding::ok(NAME, format!("{folder}, of a control service, mode {mode:04o}")),
        (Some(written), _) => Finding::ok(NAME, format!("{folder}, written with {written} shards, mode {mode:04o}")),
        (None, _) => Finding::ok(NAME, format!("{folder}, mode {mode:04o}; no node has started in it yet")),
    }
}

/// Room for what is not the log, where that is on a file system of its own.
pub(super) fn data_space(data: &DataFolder) -> Option<Finding> {
    const NAME: &str = "data space";
    let (free, folder) = (data.room.free_bytes, data.path.display());
    if data.has_the_log {
        return None;
    }
    let fix = "make room, or shorten audit.retention: CRETO__AUDIT__RETENTION=30d";
    let left = about(free);
    Some(if free < DATA_BYTES_MIN {
        let text = format!("{left} free at {folder}: the audit log and the directory cannot be written any more");
        Finding::fail(NAME, text, fix)
    } else if free < DATA_BYTES_WANTED {
        Finding::warn(NAME, format!("{left} free at {folder}, for the audit log and the directory"), fix)
    } else {
        Finding::ok(NAME, format!("{left} free at {folder}, for the audit log and the directory"))
    })
}

/// Files that can still be made. A log takes a file for each segment and one for its digest.
pub(super) fn inodes(config: &Config, plan: &Plan, disk: &Disk, data: &DataFolder) -> Finding {
    const NAME: &str = "inodes";
    let shards = u64::from(plan.shard_count());
    let segments = config.wal.wal_bytes_max / config.wal.segment_bytes.max(1);
    let beside = if data.has_the_log { FILES_BESIDE } else { 0 };
    let (start, most) = (shards * FILES_TO_START_PER_SHARD, shards * segments * 2 + beside);
    let folder = disk.folder.display();
    let Room { free_files: Some(free), .. } = disk.room else {
        return Finding::ok(NAME, format!("the file system at {folder} has as many as it needs"));
    };
    let fix = format!("df -i {folder}; delete what has many small files there, or move the log: CRETO__WAL__DIR=/path");
    if free < start {
        Finding::fail(NAME, format!("{free} files can still be made at {folder}; a start needs {start}"), fix)
    } else if free < most {
        Finding::warn(NAME, format!("{free} files can still be made at {folder}; a full log has {most}"), fix)
    } else {
        Finding::ok(NAME, format!("{free} files can still be made at {folder}; a full log has {most}"))
    }
}

pub(super) fn open_files(plan: &Plan, facts: &Facts) -> Finding {
    const NAME: &str = "open files";
    let wanted = u64::from(plan.shard_count()) * OPEN_FILES_PER_SHARD + OPEN_FILES_BESIDE;
    let fix = match (facts.in_container, facts.limits_of_the_node) {
        (true, _) => "docker run --ulimit nofile=65536:65536 …",
        (false, true) => "systemctl edit creto: [Service] LimitNOFILE=65536, then systemctl restart creto",
        (false, false) => "sudo prlimit --pid $$ --nofile=65536:65536",
    };
    match facts.open_files_max {
        None => Finding::ok(NAME, "unlimited"),
        Some(limit) if limit < wanted / 4 => {
            let text = format!("RLIMIT_NOFILE is {limit}; the shards of this plan have about {} open", wanted / 4);
            Finding::fail(NAME, text, fix)
        }
        Some(limit) if limit < wanted => {
            Finding::warn(NAME, format!("RLIMIT_NOFILE is {limit}; under load a node may need {wanted}"), fix)
        }
        Some(limit) => Finding::ok(NAME, format!("{limit}; a node of this plan needs at most {wanted}")),
    }
}

/// Whether somebody sets the clock.
pub(super) fn time(facts: &Facts) -> Finding {
    const NAME: &str = "time";
    let fix = match facts.in_container {
        true => "run NTP on the machine that runs this container",
        false => "sudo timedatectl set-ntp true, or install chrony",
    };
    match facts.clock {
        Discipline::Kept { error_us } if error_us > CLOCK_ERROR_US_MAX => {
            let text = format!(
                "the clock is set, and may be off by {}.{} s",
                error_us / 1_000_000,
                error_us % 1_000_000 / 100_000
            );
            Finding::warn(NAME, text, "chronyc tracking, or timedatectl timesync-status: is the time server reached?")
        }
        Discipline::Kept { error_us } => {
            Finding::ok(NAME, format!("the clock is set, and right within {} ms", error_us.div_ceil(1_000)))
        }
        Discipline::Free => Finding::warn(
            NAME,
            "nobody sets the clock: messages that are dated more than five minutes ahead of it are refused",
            fix,
        ),
        Discipline::Unknown => Finding::ok(NAME, "the kernel does not say here whether somebody sets the clock"),
    }
}

/// What `creto tune` would change and nothing else here looks at.
pub(super) fn settings(settings: &[Setting]) -> Option<Finding> {
    const NAME: &str = "tuning";
    let differ: Vec<String> = settings
        .iter()
        .filter(|setting| setting.state == TunerState::Differs)
        .map(|setting| format!("{} {} (wanted {})", setting.what, setting.now, setting.wanted))
        .collect();
    match (&differ[..], settings) {
        (_, []) => None,
        ([], _) => Some(Finding::ok(NAME, "CPUs, interrupts and pages are as a node wants them")),
        (differ, _) => {
            Some(Finding::warn(NAME, differ.join(", "), "sudo creto tune --apply (creto tune --explain says why)"))
        }
    }
}

/// Whether the node of this configuration runs, and serves.
pub(super) fn node(facts: &Facts) -> Finding {
    const NAME: &str = "node";
    match &facts.node {
        NodeSeen::None => Finding::ok(NAME, "none runs here yet"),
        NodeSeen::NotAllowed => Finding::warn(
            NAME,
            "one runs, and its control socket is another user's",
            "sudo -u USER creto doctor, with the user that runs the node",
        ),
        NodeSeen::Silent(why) => Finding::fail(
            NAME,
            format!("something holds the control socket and does not say how it is: {why}"),
            "creto status; look at the node's log (journalctl -u creto -n 100), then restart it",
        ),
        NodeSeen::Says(readiness) if readiness.ready => {
            let shards = readiness.shards.len();
            Finding::ok(NAME, format!("it serves, with {shards} shard{}", if shards == 1 { "" } else { "s" }))
        }
        NodeSeen::Says(readiness) => Finding::fail(
            NAME,
            format!("it runs and is not ready: {}", readiness.why()),
            "creto status, and do what it says",
        ),
    }
}
