//! The audit log: what happened, as bytes that an outsider can verify.
//!
//! Each source (a shard, or control) tells [`Event`]s. They are chained per source ([`Chain`]), salted, and become the leaves of
//! one RFC 6962 Merkle log, whose size and root are signed by two keys. `docs/audit-format.md` gives every byte.
//!
//! - [`event`], [`chain`]: what happened, and its place in its source's hash chain.
//! - [`budget`]: how many events of a stranger's making are told one by one.
//! - [`monitor`]: which events an operator should look at.
//! - [`tree`], [`tile`]: the Merkle tree, its proofs, and the names under which its parts are kept.
//! - [`note`], [`keys`], [`checkpoint`]: the signed size and root.
//! - [`proof`]: one entry, proven in one file.
//! - [`export`]: a whole log in one file, and its verification.
//!
//! This crate is pure: bytes, time and randomness come in as arguments; files are `creto-audit-store`'s.
#![forbid(unsafe_code)]

pub mod budget;
pub mod chain;
pub mod checkpoint;
pub mod event;
pub mod export;
#[cfg(test)]
mod fixture;
pub mod keys;
pub mod limits;
pub mod monitor;
pub mod note;
pub mod proof;
mod reader;
pub mod tile;
pub mod tree;

pub use chain::{Chain, ChainHash};
pub use checkpoint::{Checkpoint, CheckpointError, LogVerifier, SignedCheckpoint};
pub use event::{ChainedEvent, Event, EventError, Label, SourceId, What};
pub use keys::{KeysError, LogKeys, LogPublic};
