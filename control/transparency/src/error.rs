//! Why a key log is not believed.

use creto_audit::CheckpointError;
use thiserror::Error;

/// Why something that a node says about keys is not believed. Nothing of it is used, and what was seen before stays what the
/// log is held against.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum KeyLogError {
    /// The head is not signed by both keys of the log.
    #[error("the head of the key log does not hold: {0}")]
    Head(#[from] CheckpointError),
    /// The signed text is not that of a head.
    #[error("the signed text is not origin, size, root and time of a key log: update creto, on the older side")]
    HeadForm,
    /// The node's log has other keys than the one that was seen first.
    #[error(
        "the node's key log is signed by other keys than the log that this agent saw first: it is another log; use no key from it, and ask the operator why over another channel"
    )]
    OtherKeys,
    /// The node gives no usable keys of its log.
    #[error(
        "the keys that the node gives for its key log cannot be used ({0}); use no key from it, and ask the operator"
    )]
    Keys(String),
    /// The log was rolled back.
    #[error(
        "the key log has {found} leaves, but one with {seen} was seen before: it was rolled back, and keys that were replaced or revoked could come back; use no key from it, and ask the operator whether an older backup was restored"
    )]
    RolledBack {
        /// Leaves of the head that was seen.
        seen: u64,
        /// Leaves of this one.
        found: u64,
    },
    /// The log is not the one that was seen before.
    #[error(
        "the key log of {found} leaves did not grow out of the one with {seen} that was seen before: somebody is shown another log; use no key from it, keep both heads, and ask the operator"
    )]
    Forked {
        /// Leaves of the head that was seen.
        seen: u64,
        /// Leaves of this one.
        found: u64,
    },
    /// The proof does not say that the log grew out of the head that was seen.
    #[error(
        "the node does not show that its key log of {found} leaves grew out of the one with {seen} that was seen before: use no key from it, and ask the operator"
    )]
    NotShown {
        /// Leaves of the head that was seen.
        seen: u64,
        /// Leaves of this one.
        found: u64,
    },
    /// A proof for another head than the newest.
    #[error(
        "the node proves a key under a head of {found} leaves, and has shown one with {shown}: ask again; if it stays so, update the node"
    )]
    OtherHead {
        /// Leaves of the head that was shown.
        shown: u64,
        /// Leaves of the head that the proof is for.
        found: u64,
    },
    /// The bytes of a leaf are not those of one.
    #[error(
        "leaf {index} of the key log is not one of this version: update creto; if both sides are of one version, use no key from this node"
    )]
    LeafForm {
        /// Which.
        index: u64,
    },
    /// The leaf is of another record than the one that was given.
    #[error(
        "the key record that the node gave is not the one in its key log, leaf {index}: it was exchanged; do not use it, and ask the operator"
    )]
    OtherRecord {
        /// Which.
        index: u64,
    },
    /// The leaf is not in the tree.
    #[error(
        "the key record is not in the node's key log at leaf {index}: it was slipped in; do not use it, and ask the operator"
    )]
    NotInLog {
        /// Which.
        index: u64,
    },
    /// The leaves are not those of the tree whose head was signed.
    #[error(
        "the leaves that the node gives do not make the tree of {size} leaves that it signed: one is missing or was changed; use no key from it, and ask the operator"
    )]
    LeavesChanged {
        /// Leaves of the signed head.
        size: u64,
    },
    /// The node does not let this agent look.
    #[error(
        "the node did not let this agent look at its key log {looks} times in succession ({read} of {size} leaves are read): somebody else's key for its name could be among the rest; no key is used until it does, so ask the operator"
    )]
    Withheld {
        /// How often.
        looks: u32,
        /// Leaves that were read.
        read: u64,
        /// Leaves of the newest head that was seen.
        size: u64,
    },
    /// There is a record of this agent that it did not make.
    #[error(
        "leaf {index} of the key log gives this agent a key record (version {version}) that it did not make: whoever used it wrote to somebody else; tell those who write to you over another channel, and ask the operator"
    )]
    ForeignRecord {
        /// Which leaf.
        index: u64,
        /// The version that the record claims.
        version: u32,
    },
}

impl KeyLogError {
    /// A stable word for scripts.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Head(error) => error.code(),
            Self::HeadForm => "head_form",
            Self::OtherKeys => "other_log_keys",
            Self::Keys(_) => "log_keys",
            Self::RolledBack { .. } => "rolled_back",
            Self::Forked { .. } => "does_not_extend",
            Self::NotShown { .. } => "not_shown_to_extend",
            Self::OtherHead { .. } => "other_head",
            Self::LeafForm { .. } => "leaf_form",
            Self::OtherRecord { .. } => "record_exchanged",
            Self::NotInLog { .. } => "not_in_the_log",
            Self::LeavesChanged { .. } => "leaves_changed",
            Self::Withheld { .. } => "log_withheld",
            Self::ForeignRecord { .. } => "foreign_record",
        }
    }
}
