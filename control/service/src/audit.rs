//! The audit log as the API shows it: whoever keeps it reads it.

use crate::api::AuditPage;

/// Whoever can read the audit log of this node. Each call may wait for the disk.
pub trait AuditLogSource: Send + Sync + 'static {
    /// The log's public keys, as `audit.pub` has them.
    ///
    /// # Errors
    /// [`AuditUnread`].
    fn keys(&self) -> Result<String, AuditUnread>;

    /// The newest checkpoint, a note that both keys have signed.
    ///
    /// # Errors
    /// [`AuditUnread`].
    fn checkpoint(&self) -> Result<String, AuditUnread>;

    /// The entry of a leaf with the proof that it is in the log, as `creto audit prove` writes it.
    ///
    /// # Errors
    /// [`AuditUnread`].
    fn proof(&self, leaf: u64) -> Result<String, AuditUnread>;

    /// What the leaves from `from` on say, at most `limit` of them.
    ///
    /// # Errors
    /// [`AuditUnread`].
    fn events(&self, from: u64, limit: usize) -> Result<AuditPage, AuditUnread>;
}

/// Why it was not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AuditUnread {
    /// There is no such leaf, or its entry was dropped.
    NoLeaf,
    /// Nothing is signed yet, or the disk refuses: for the node's log.
    Unavailable(String),
}
