//! The device that the log is on: its file system, its room, and how long it takes to make a write durable, measured by
//! the same probe that a node uses.

use std::io;
use std::path::{Path, PathBuf};

use creto_io::probe::{Choice, ProbeReport, THOROUGH, probe};
use creto_node::device;

/// What was found where the log is, or will be.
#[derive(Debug)]
pub(super) struct Disk {
    /// The folder that was looked at: the log's, or the nearest above it that exists.
    pub(super) folder: PathBuf,
    /// Name of the file system, or its magic number in hex.
    pub(super) file_system: String,
    pub(super) room: Room,
    /// Whether it is mounted so that nothing may be written.
    pub(super) is_read_only: bool,
    /// What the writes took, or why none could be made.
    pub(super) probe: Result<ProbeReport, io::Error>,
    /// What was chosen when this device was measured at a start, and the next start writes by.
    pub(super) remembered: Option<Choice>,
}

/// What a file system has left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) free_bytes: u64,
    /// Files that can still be made; `None` where the file system makes room for them as it goes.
    pub(super) free_files: Option<u64>,
}

impl Room {
    /// Of the file system that this folder is on.
    pub(super) fn of(folder: &Path) -> Self {
        rustix::fs::statvfs(folder).map_or_else(
            |_| Self::default(),
            |stat| Self {
                free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
                free_files: (stat.f_files > 0).then_some(stat.f_favail),
            },
        )
    }
}

impl Disk {
    /// Looks at the file system of `wal_dir` and writes a file there for two seconds, which it removes again.
    pub(super) fn measure(data_dir: &Path, wal_dir: &Path, remember: bool) -> Self {
        let folder = nearest_existing(wal_dir);
        let probe = match remember && wal_dir.is_dir() {
            true => device::measure(data_dir, wal_dir, THOROUGH),
            false => probe(&folder, THOROUGH),
        };
        let statfs = rustix::fs::statfs(&folder);
        let statvfs = rustix::fs::statvfs(&folder);
        Self {
            file_system: statfs.map_or_else(|_| "unknown".to_owned(), |stat| file_system_name(stat.f_type)),
            room: Room::of(&folder),
            is_read_only: statvfs.is_ok_and(|stat| stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)),
            probe,
            remembered: device::remembered(data_dir, wal_dir).map(|measured| measured.report.choice),
            folder,
        }
    }
}

pub(crate) fn nearest_existing(folder: &Path) -> PathBuf {
    let existing = folder.ancestors().find(|ancestor| !ancestor.as_os_str().is_empty() && ancestor.is_dir());
    existing.unwrap_or(Path::new(".")).to_owned()
}

fn file_system_name(magic: impl TryInto<i64>) -> String {
    let magic: i64 = magic.try_into().unwrap_or(0);
    let name = match magic & 0xffff_ffff {
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        0xca45_1a4e => "bcachefs",
        0x0102_1994 => "tmpfs",
        0x8584_58f6 => "ramfs",
        0x794c_7630 => "overlay",
        0x6969 => "nfs",
        0xff53_4d42 | 0xfe53_4d42 => "cifs",
        0x0102_1997 => "9p",
        0x6573_5546 => "fuse",
        other => return format!("{other:#x}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_not_there_yet_is_measured_above() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(nearest_existing(&dir.path().join("data/wal")), dir.path());
        assert_eq!(nearest_existing(Path::new("data/no/such")), Path::new("."));
    }

    #[test]
    fn measuring_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::measure(dir.path(), dir.path(), false);
        assert!(disk.room.free_bytes > 0 && !disk.is_read_only && disk.probe.is_ok(), "{disk:?}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
