//! Key transparency: every change of an agent's key record is a leaf of a Merkle log that only grows.
//!
//! ```text
//!  node                                                    agent
//!  ------------------------------------------------------  --------------------------------------------------------
//!  key record and its leaf: one transaction
//!  tree head, signed by Ed25519 and ML-DSA-65
//!  record, leaf, index, path, head, consistency proof -->  Watch: both signatures, grown out of what was seen,
//!                                                          the leaf is of this very record, and in the tree
//!  every leaf, page by page --------------------------->  Scan: the leaves are those of the head's tree,
//!                                                          and none of them is a record of mine that I did not make
//! ```
//!
//! Tree, proofs, notes and keys are those of the audit log (`creto-audit`); `docs/key-transparency.md` gives every byte.
//!
//! - [`leaf`]: what a leaf says.
//! - [`head`]: the signed size and root.
//! - [`watch`]: what an agent believes of a log, and why it stops to.
//! - [`scan`]: an agent looks for records of its own.
//! - [`fingerprint`]: what two people compare aloud.
//! - [`memory`]: a whole log in memory, for tests of either end.
//!
//! This crate is pure: bytes and time come in as arguments.
#![forbid(unsafe_code)]

pub mod error;
pub mod fingerprint;
#[cfg(test)]
mod fixture;
pub mod head;
pub mod leaf;
pub mod memory;
pub mod scan;
pub mod watch;

pub use creto_audit::{LogKeys, LogPublic};
pub use error::KeyLogError;
pub use head::{SignedHead, TreeHead, origin_beside};
pub use leaf::{KeyLeaf, LeafKind};
pub use scan::{Scan, ScanSelf};
pub use watch::{Evidence, Watch};
