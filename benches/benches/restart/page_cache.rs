//! Files as after a start of the machine: nothing of them in memory.

use std::fs::{self, File};
use std::path::PathBuf;

use rustix::fs::{Advice, fadvise};
use serde::Serialize;

/// What the system was made to forget.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Dropped {
    /// Everything that it held of files, names and inodes included. Only root may ask for that.
    Everything,
    /// What the files of the log hold.
    Content,
}

/// Has the system forget what it holds in memory of these folders.
pub(crate) fn drop(folders: &[PathBuf]) -> Dropped {
    // What is not on disk cannot be forgotten.
    rustix::fs::sync();
    if fs::write("/proc/sys/vm/drop_caches", "3").is_ok() {
        return Dropped::Everything;
    }
    for entry in folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let file = File::open(entry.unwrap().path()).unwrap();
        fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    }
    Dropped::Content
}
