//! Backups: a whole node, as it was at one moment, in a folder or a tar archive; and a data folder made of one.
//!
//! ```text
//! node.json  control.redb  creto.toml  wal/shard-0000/segment-*.wal  audit/...  [node.crt node.key audit/audit.key]
//! manifest.sha256  manifest.json
//! ```
//!
//! - **Consistent.** The log of each shard up to a point P that was durable when the backup was asked for, so everything
//!   that was acknowledged before is in it; then the directory at one later moment ([`creto_service::backup`] argues the
//!   order). The last segment is cut at P. The audit log as it is committed when the logs are held: what is missing there
//!   is in the logs and in the directory's outbox, and is told again by the next start, as after a crash.
//! - **Complete or refused.** The manifest is written last, after everything else is on the disk and the node has said that
//!   the logs were held all the time. It names every file with its length and SHA-256, and its own digest stands beside it;
//!   without both there is nothing to restore.
//! - **Not in the way.** The files are read by whoever asks for the backup, not by the node, past the page cache, at a
//!   bounded rate. The node only holds files that it would otherwise reuse.
//!
//! A digest finds damage. It does not stop somebody who can write to the backup and computes it anew: keep backups where
//! only those can write who may also write to the node.

mod copy;
pub(crate) mod host;
mod manifest;
mod restore;
mod take;
mod tar;
mod target;

use std::io;
use std::path::{Path, PathBuf};

use creto_store::SourceError;
use thiserror::Error;

pub use manifest::{AuditPoint, BACKUP_FORMAT, FileEntry, Formats, Manifest, ShardPoint};
pub use restore::{RESTORED_AUDIT_DIR, Restored, Source, restore};
pub use take::{Order, Stopped, take};
pub use target::{FolderTarget, TarTarget, Target};

use crate::data_dir::DataDirError;

/// Why there is no backup, or nothing was restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BackupError {
    /// Something is where it should go.
    #[error("{0} is not empty; name a folder or a file that does not exist yet")]
    NotEmpty(PathBuf),
    /// A node whose control service is elsewhere.
    #[error(
        "{0} has no directory of agents: the control service of this node is elsewhere, and is backed up there; copy this folder as it is \
         while the node is stopped"
    )]
    NoDirectory(PathBuf),
    /// The backup was begun and not finished.
    #[error("{0} is not a complete backup: it has no manifest.json; take another one")]
    Incomplete(PathBuf),
    /// Not what was written.
    #[error("the backup is damaged at {0}; nothing was restored, use another backup")]
    Damaged(String),
    /// A later version wrote it.
    #[error(
        "the backup has {what} format {found}, this version reads up to {known}; restore it with the version that wrote it, or a later one"
    )]
    Format {
        /// Of what.
        what: &'static str,
        /// In the backup.
        found: u64,
        /// Of this version.
        known: u64,
    },
    /// Too large for a header of tar.
    #[error("{name} has {bytes} bytes, more than a tar archive takes; take the backup to a folder")]
    TooLargeForTar {
        /// The file.
        name: String,
        /// Its length.
        bytes: u64,
    },
    /// A file ended early.
    #[error("{0} is shorter than it should be; nothing was finished, look at the disk and try again")]
    Short(PathBuf),
    /// The log of a node that is stopped is damaged.
    #[error(
        "the log of shard {shard} is damaged: {problem}; `creto wal verify` shows all of it, and a plain copy of the folder keeps it as it is"
    )]
    LogDamaged {
        /// Which shard.
        shard: u16,
        /// What is wrong.
        problem: String,
    },
    /// The node did not hold its logs until the end.
    #[error("{0}")]
    Lost(String),
    /// Whoever asked for it does not want it any more.
    #[error("interrupted; what was written is removed")]
    Interrupted,
    /// The data folder.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// The directory cannot be copied out of its database.
    #[error(transparent)]
    Directory(#[from] creto_service::ServiceError),
    /// The audit log cannot be read.
    #[error(transparent)]
    Audit(#[from] creto_audit_store::StoreError),
    /// A log cannot be read.
    #[error(transparent)]
    Log(#[from] SourceError),
    /// The system refused.
    #[error("cannot {what} {path}: {error}; check the folder, its space and its owner")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

fn failed<'a>(what: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> BackupError + use<'a> {
    move |error| BackupError::Io { what, path: path.to_owned(), error }
}

#[cfg(test)]
mod tests;
