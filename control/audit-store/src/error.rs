//! Why the log cannot be opened, read or written.

use std::io;

use creto_audit::{CheckpointError, KeysError};
use thiserror::Error;

/// What went wrong.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// a file operation failed
    #[error(
        "cannot {what} {file} of the audit log: {source}; look at the free space and the device, then restart the node"
    )]
    File {
        /// A verb.
        what: &'static str,
        /// Which file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// an earlier write failed, and nothing is written after it
    #[error("the audit log is closed after a failed write; look at the device, then restart the node")]
    Fenced,
    /// the log is damaged
    #[error(
        "the audit log is damaged: {what} (leaf {leaf}); what was signed is never cut: keep the folder, restore it from a backup, or move it away to begin a new log"
    )]
    Damaged {
        /// What does not fit.
        what: String,
        /// The first leaf that is concerned.
        leaf: u64,
    },
    /// the commit file is of another version
    #[error(
        "the audit log has format {0}, which this program does not know; start the version that wrote it, or a later one"
    )]
    Version(u32),
    /// The checkpoint does not hold.
    #[error("the audit log's checkpoint does not hold: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// The keys are not what they should be.
    #[error("the audit log's keys cannot be used: {0}")]
    Keys(#[from] KeysError),
    /// there are more sources than a log can have
    #[error("the audit log has {0} sources, more than it can have; report this fault")]
    Sources(usize),
    /// there is nothing to read
    #[error(
        "there is no signed audit log in {0}; give the folder `audit` in a node's data folder, once the node has run"
    )]
    NoLog(String),
    /// the leaf is not there
    #[error("the audit log has no leaf {0}, or its entry was dropped; `creto audit query` lists what is there")]
    NoLeaf(u64),
    /// the system gives no randomness
    #[error("the system gives no randomness, so no event can be salted: {0}; check the kernel's random device")]
    Random(getrandom::Error),
}

impl StoreError {
    pub(crate) fn file(what: &'static str, file: &str) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        move |source| Self::File { what, file, source }
    }
}
