//! The data directory: whose it is, what shape it has, and that only one process uses it.
//!
//! ```text
//! data_dir/node.json            format, shard count: written once
//! data_dir/lock                 held as long as the process lives
//! data_dir/control.redb         the control service's storage
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

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u32,
    shard_count: u16,
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
        let locks = [lock(path, "lock")?, lock(wal_path, "wal.lock")?];
        let data_dir = Self { path: path.to_owned(), wal_path: wal_path.to_owned(), _locks: locks };
        let description_path = path.join("node.json");
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
    let found: Description = serde_json::from_slice(bytes)
        .map_err(|error| DataDirError::Damaged { path: description_path.to_owned(), reason: error.to_string() })?;
    if found.format != DATA_FORMAT {
        return Err(DataDirError::Format { path: path.to_owned(), found: found.format });
    }
    if found.shard_count != shard_count {
        // Mailboxes are spread by shard: with another count they would be looked for in the wrong log.
        let (written, wanted) = (found.shard_count, shard_count);
        return Err(DataDirError::ShardCount { path: path.to_owned(), written, wanted });
    }
    Ok(())
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
    fn a_newer_format_and_a_damaged_description_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("node.json"), r#"{"format":2,"shard_count":1}"#).unwrap();
        assert!(matches!(DataDir::open(dir.path(), dir.path(), 1), Err(DataDirError::Format { found: 2, .. })));
        fs::write(dir.path().join("node.json"), "{").unwrap();
        assert!(matches!(DataDir::open(dir.path(), dir.path(), 1), Err(DataDirError::Damaged { .. })));
    }
}
