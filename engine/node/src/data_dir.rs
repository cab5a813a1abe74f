//! The data directory: whose it is, what shape it has, and that only one process uses it.
//!
//! ```text
//! data_dir/node.json            format, shard count (0: a control service without shards): written once
//! data_dir/lock                 held as long as the process lives
//! data_dir/audit/               the audit log, and its keys
//! data_dir/control.redb         the control service's storage
//! data_dir/control.redb.in-database   it is in a database: no new file is made
//! data_dir/control.elsewhere    the control service of this node is another process: it has no directory of its own
//! wal_dir/wal.lock              held as long as the process lives: a wal_dir may be on another device than its data_dir
//! wal_dir/shard-0000/segment-*  the log of each shard
//! ```

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The format of a data directory that this version writes.
pub const DATA_FORMAT: u32 = 1;

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataDirError {
    /// Another process uses it.
    #[error("{0} is in use by another node; stop that one first, or set node.data_dir to another folder")]
    InUse(PathBuf),
    /// It was written by a newer version.
    #[error("{path} has format {found}, this version reads {DATA_FORMAT}; start it with the version that wrote it")]
    Format {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: u32,
    },
    /// It was written with another number of shards.
    #[error(
        "{path} was written with {written} shards and the configuration asks for {wanted}; set topology.shards = {written}"
    )]
    ShardCount {
        /// The directory.
        path: PathBuf,
        /// What it was written with.
        written: u16,
        /// What the plan says.
        wanted: u16,
    },
    /// It is a control service's, and a node was to be started on it.
    #[error(
        "{0} is the data folder of a control service; start it with `creto control`, and the node on a folder of its own"
    )]
    OfControl(PathBuf),
    /// It is a node's, and a control service was to be started on it.
    #[error(
        "{0} is the data folder of a node; start it with `creto serve`, and the control service on a folder of its own"
    )]
    OfNode(PathBuf),
    /// It has a directory of agents, and its node was to go by another one.
    #[error(
        "{0} has a directory of agents of its own, and this node was to have its control service elsewhere; start it without link.control, or \
         move control.redb and control.redb.in-database out of that folder when its agents are registered there"
    )]
    HasDirectory(PathBuf),
    /// It is of a node whose control service is elsewhere, and that was to have a directory of its own.
    #[error(
        "the control service of the node in {0} is elsewhere; name it in link.control (--control), or remove the file control.elsewhere in \
         that folder if this node is to begin with an empty directory of its own"
    )]
    ControlElsewhere(PathBuf),
    /// A log is gone.
    #[error(
        "{missing} is missing, although {path} was in use before; mount the disk that holds it or set wal.dir back, \
         and if the messages in it are lost for good, make that folder to start without them"
    )]
    LogMissing {
        /// The directory.
        path: PathBuf,
        /// The folder of a shard's log.
        missing: PathBuf,
    },
    /// A restore into it did not come to its end.
    #[error("a restore into {0} did not come to its end; empty that folder and restore again")]
    Restoring(PathBuf),
    /// There is no node's data in it.
    #[error("{0} is not the data folder of a node: it has no node.json; name the right folder in node.data_dir")]
    NotOne(PathBuf),
    /// Its description cannot be read.
    #[error(
        "{path} is not a description of a data directory ({reason}); restore it from a backup, or start with an empty folder"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system refused.
    #[error("cannot {what} {path}: {error}; check that the folder exists and belongs to the user that runs the node")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Where a restore puts everything until all of it was checked.
pub(crate) const RESTORE_DIR: &str = "restore.partial";
/// The file that describes a data directory.
pub(crate) const DESCRIPTION_FILE: &str = "node.json";
/// The file that says that the control service of a node is elsewhere.
const ELSEWHERE_FILE: &str = "control.elsewhere";
/// The folder of the audit log in a data folder.
pub(crate) const AUDIT_DIR: &str = "audit";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    shard_count: u16,
}

/// Only as much of a description as every version writes.
#[derive(Deserialize)]
struct Version {
    format: u32,
}

/// A data directory that this process holds.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    wal_path: PathBuf,
    // Held until the process ends; the kernel lets go of them even after SIGKILL.
    _locks: [File; 2],
}

fn io_error<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> DataDirError + use<'a> {
    move |error| DataDirError::Io { what, path: path.to_owned(), error }
}

impl DataDir {
    /// Opens the directory for a node of `shard_count` shards; an empty one is described first.
    ///
    /// # Errors
    /// [`DataDirError`] says what stands in the way and what to do.
    pub fn open(path: &Path, wal_path: &Path, shard_count: u16) -> Result<Self, DataDirError> {
        for folder in [path, wal_path] {
            create_dir(folder)?;
        }
        if path.join(RESTORE_DIR).exists() {
            return Err(DataDirError::Restoring(path.to_owned()));
        }
        let locks = [lock(path, "lock")?, lock(wal_path, "wal.lock")?];
        let data_dir = Self { path: path.to_owned(), wal_path: wal_path.to_owned(), _locks: locks };
        let description_path = path.join(DESCRIPTION_FILE);
        match fs::read(&description_path) {
            Ok(bytes) => {
                check(path, &description_path, &bytes, shard_count)?;
                data_dir.check_logs(shard_count)?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Described last: a directory with a description has its logs.
                for shard_index in 0..shard_count {
                    create_dir(&data_dir.shard_dir(shard_index))?;
                }
                describe(path, &description_path, shard_count)?;
            }
            Err(error) => return Err(io_error("read", &description_path)(error)),
        }
        Ok(data_dir)
    }

    /// Opens the directory for a control service, which has no shards; an empty one is described first.
    ///
    /// # Errors
    /// [`DataDirError`] says what stands in the way and what to do.
    pub fn open_control(path: &Path, wal_path: &Path) -> Result<Self, DataDirError> {
        Self::open(path, wal_path, 0)
    }

    /// Opens the directory of a node that is stopped, to look at it; no node starts on it meanwhile. Nothing is made.
    /// Returns its number of shards, too.
    ///
    /// # Errors
    /// [`DataDirError`] says what stands in the way and what to do.
    pub fn open_stopped(path: &Path, wal_path: &Path) -> Result<(Self, u16), DataDirError> {
        let description_path = path.join(DESCRIPTION_FILE);
        let bytes = match fs::read(&description_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(DataDirError::NotOne(path.to_owned())),
            read => read.map_err(io_error("read", &description_path))?,
        };
        let shard_count = parse(path, &description_path, &bytes)?.shard_count;
        let missing = || DataDirError::LogMissing { path: path.to_owned(), missing: wal_path.to_owned() };
        if !wal_path.is_dir() {
            return Err(missing());
        }
        let locks = [lock(path, "lock")?, lock(wal_path, "wal.lock")?];
        let data_dir = Self { path: path.to_owned(), wal_path: wal_path.to_owned(), _locks: locks };
        data_dir.check_logs(shard_count)?;
        Ok((data_dir, shard_count))
    }

    /// An empty log is a sound one: a disk that is not mounted would lose every message without a word.
    fn check_logs(&self, shard_count: u16) -> Result<(), DataDirError> {
        let missing = (0..shard_count).map(|shard_index| self.shard_dir(shard_index)).find(|folder| !folder.is_dir());
        missing.map_or(Ok(()), |missing| Err(DataDirError::LogMissing { path: self.path.clone(), missing }))
    }

    /// The folder of a shard's log.
    #[must_use]
    pub fn shard_dir(&self, shard_index: u16) -> PathBuf {
        self.wal_path.join(format!("shard-{shard_index:04}"))
    }

    /// The audit log.
    #[must_use]
    pub fn audit_dir(&self) -> PathBuf {
        self.path.join(AUDIT_DIR)
    }

    /// Says where the directory of the node's agents is, for every later start: a node does not go by one that is no longer kept, nor begin
    /// an empty one, because somebody left a line out.
    ///
    /// # Errors
    /// [`DataDirError::HasDirectory`], [`DataDirError::ControlElsewhere`], or what the system refuses.
    pub fn settle_control(&self, is_elsewhere: bool) -> Result<(), DataDirError> {
        let mark = self.path.join(ELSEWHERE_FILE);
        match (is_elsewhere, self.is_control_elsewhere()) {
            (false, false) | (true, true) => Ok(()),
            (false, true) => Err(DataDirError::ControlElsewhere(self.path.clone())),
            (true, false) => {
                let own = self.control_path();
                if own.exists() || own.with_extension("redb.in-database").exists() {
                    return Err(DataDirError::HasDirectory(self.path.clone()));
                }
                // Nothing reads this but people: what counts is that there is a file.
                let text =
                    "The control service of this node is another process, which has the directory of its agents.\n";
                let write = || -> io::Result<()> {
                    let mut file = File::create(&mark)?;
                    file.write_all(text.as_bytes())?;
                    file.sync_all()
                };
                write().map_err(io_error("write", &mark))?;
                sync_dir(&self.path)
            }
        }
    }

    /// Whether the control service of this folder's node is another process.
    #[must_use]
    pub fn is_control_elsewhere(&self) -> bool {
        self.path.join(ELSEWHERE_FILE).exists()
    }

    /// The control service's storage.
    #[must_use]
    pub fn control_path(&self) -> PathBuf {
        self.path.join("control.redb")
    }
}

/// Makes a folder, and makes its name durable: what is synced into a folder that is gone after a power failure is gone too.
fn create_dir(folder: &Path) -> Result<(), DataDirError> {
    let made: Vec<_> = folder.ancestors().take_while(|ancestor| !ancestor.exists()).collect();
    fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    for parent in made.into_iter().filter_map(Path::parent) {
        sync_dir(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
    }
    Ok(())
}

fn lock(folder: &Path, name: &str) -> Result<File, DataDirError> {
    let lock_path = folder.join(name);
    let lock = File::create(&lock_path).map_err(io_error("create", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(DataDirError::InUse(folder.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &lock_path)(error)),
    }
}

fn check(path: &Path, description_path: &Path, bytes: &[u8], shard_count: u16) -> Result<(), DataDirError> {
    let found = parse(path, description_path, bytes)?;
    if found.shard_count != shard_count {
        // Mailboxes are spread by shard: with another count they would be looked for in the wrong log.
        let (path, written, wanted) = (path.to_owned(), found.shard_count, shard_count);
        return Err(match (written, wanted) {
            (0, _) => DataDirError::OfControl(path),
            (_, 0) => DataDirError::OfNode(path),
            (written, wanted) => DataDirError::ShardCount { path, written, wanted },
        });
    }
    Ok(())
}

fn parse(path: &Path, description_path: &Path, bytes: &[u8]) -> Result<Description, DataDirError> {
    let damaged = |error: serde_json::Error| {
        let (path, reason) = (description_path.to_owned(), error.to_string());
        DataDirError::Damaged { path, reason }
    };
    // The version first: another one may have other fields.
    let Version { format } = serde_json::from_slice(bytes).map_err(damaged)?;
    if format != DATA_FORMAT {
        return Err(DataDirError::Format { path: path.to_owned(), found: format });
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

/// The number of shards that a data directory was written with, 0 for that of a control service; `None` where there is none that this
/// version reads. Nothing is locked or made.
#[must_use]
pub fn written_shards(path: &Path) -> Option<u16> {
    described_shards(&fs::read(path.join(DESCRIPTION_FILE)).ok()?)
}

/// The shard count that a description of this version states.
pub(crate) fn described_shards(description: &[u8]) -> Option<u16> {
    let found: Description = serde_json::from_slice(description).ok()?;
    (found.format == DATA_FORMAT).then_some(found.shard_count)
}

/// Written beside, synced and renamed, so that it is whole or absent after a crash.
fn describe(path: &Path, description_path: &Path, shard_count: u16) -> Result<(), DataDirError> {
    let description = Description { format: DATA_FORMAT, shard_count };
    let text = serde_json::to_string(&description).expect("two numbers are always JSON");
    let beside = path.join("node.json.new");
    let write = || -> io::Result<()> {
        let mut file = File::create(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&beside, description_path)
    };
    write().map_err(io_error("write", description_path))?;
    sync_dir(path)
}

fn sync_dir(path: &Path) -> Result<(), DataDirError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_described_once_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("wal");
        drop(DataDir::open(dir.path(), &wal, 2).unwrap());
        let again = DataDir::open(dir.path(), &wal, 2).unwrap();
        assert!(again.shard_dir(1).is_dir());
    }

    #[test]
    fn a_second_node_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = DataDir::open(dir.path(), dir.path(), 1).unwrap();
        let second = DataDir::open(dir.path(), dir.path(), 1);
        assert!(matches!(second, Err(DataDirError::InUse(_))), "{second:?}");
    }

    #[test]
    fn two_nodes_do_not_share_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("wal");
        let _first = DataDir::open(&dir.path().join("a"), &wal, 1).unwrap();
        let second = DataDir::open(&dir.path().join("b"), &wal, 1);
        assert!(matches!(second, Err(DataDirError::InUse(folder)) if folder == wal));
    }

    #[test]
    fn a_log_that_is_gone_is_missed() {
        let dir = tempfile::tempdir().unwrap();
        let (data, wal) = (dir.path().join("data"), dir.path().join("disk/wal"));
        drop(DataDir::open(&data, &wal, 2).unwrap());
        // The disk is not mounted: its mount point is an empty folder.
        fs::remove_dir_all(&wal).unwrap();
        let error = DataDir::open(&data, &wal, 2).unwrap_err();
        assert!(matches!(&error, DataDirError::LogMissing { missing, .. } if *missing == wal.join("shard-0000")));
        assert!(!wal.join("shard-0000").exists(), "nothing hides what is missing");
    }

    #[test]
    fn another_shard_count_is_refused_with_the_right_one() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), dir.path(), 4).unwrap());
        let error = DataDir::open(dir.path(), dir.path(), 2).unwrap_err();
        assert!(error.to_string().ends_with("set topology.shards = 4"), "{error}");
    }

    #[test]
    fn a_node_and_a_control_service_do_not_take_each_others_folders() {
        let dir = tempfile::tempdir().unwrap();
        let (control, node) = (dir.path().join("control"), dir.path().join("node"));
        drop(DataDir::open_control(&control, &control.join("wal")).unwrap());
        drop(DataDir::open_control(&control, &control.join("wal")).unwrap());
        drop(DataDir::open(&node, &node.join("wal"), 2).unwrap());
        assert!(matches!(DataDir::open(&control, &control.join("wal"), 2), Err(DataDirError::OfControl(_))));
        assert!(matches!(DataDir::open_control(&node, &node.join("wal")), Err(DataDirError::OfNode(_))));
    }

    #[test]
    fn a_folder_knows_whether_its_directory_is_elsewhere_and_no_start_without_a_line_changes_that() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| DataDir::open(&dir.path().join(name), &dir.path().join(name).join("wal"), 1).unwrap();
        let linked = open("linked");
        assert!(!linked.is_control_elsewhere());
        linked.settle_control(true).unwrap();
        linked.settle_control(true).unwrap();
        assert!(linked.is_control_elsewhere());
        let error = linked.settle_control(false).unwrap_err();
        assert!(matches!(&error, DataDirError::ControlElsewhere(_)) && error.to_string().contains("link.control"));
        assert!(!linked.control_path().exists());

        for file in ["control.redb", "control.redb.in-database"] {
            let own = open(file);
            own.settle_control(false).unwrap();
            fs::write(own.path.join(file), "").unwrap();
            own.settle_control(false).unwrap();
            let error = own.settle_control(true).unwrap_err();
            assert!(matches!(error, DataDirError::HasDirectory(_)), "{error}");
            assert!(!own.is_control_elsewhere());
        }
    }

    #[test]
    fn a_restore_that_did_not_come_to_its_end_is_no_empty_folder() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(RESTORE_DIR)).unwrap();
        let error = DataDir::open(dir.path(), dir.path(), 1).unwrap_err();
        assert!(matches!(error, DataDirError::Restoring(_)), "{error}");
    }

    #[test]
    fn the_directory_of_a_stopped_node_is_opened_once_and_nothing_is_made() {
        let dir = tempfile::tempdir().unwrap();
        let wal = dir.path().join("wal");
        assert!(matches!(DataDir::open_stopped(dir.path(), &wal), Err(DataDirError::NotOne(_))));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let running = DataDir::open(dir.path(), &wal, 3).unwrap();
        assert!(matches!(DataDir::open_stopped(dir.path(), &wal), Err(DataDirError::InUse(_))));
        drop(running);
        let (_stopped, shard_count) = DataDir::open_stopped(dir.path(), &wal).unwrap();
        assert_eq!(shard_count, 3);
        assert!(matches!(DataDir::open(dir.path(), &wal, 3), Err(DataDirError::InUse(_))));
    }

    #[test]
    fn a_newer_format_and_a_damaged_description_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.json"), r#"{"format":2,"shard_count":1,"of a later version":{}}"#).unwrap();
        assert!(matches!(DataDir::open(dir.path(), dir.path(), 1), Err(DataDirError::Format { found: 2, .. })));
        fs::write(dir.path().join("node.json"), "{").unwrap();
        assert!(matches!(DataDir::open(dir.path(), dir.path(), 1), Err(DataDirError::Damaged { .. })));
    }
}
