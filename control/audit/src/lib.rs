//! The audit log: what happened, as bytes that an outsider can verify.
//!
//! Each source (a shard, or control) tells [`Event`]s. They are chained per source ([`Chain`]), salted, and become the leaves of
//! one RFC 6962 Merkle log, whose size and root are signed by two keys. `docs/audit-format.md` gives every byte.
//!
//! This crate is pure: bytes, time and randomness come in as arguments; files are `creto-audit-store`'s.
#![forbid(unsafe_code)]

pub mod chain;
pub mod event;
pub mod limits;
mod reader;

pub use chain::{Chain, ChainHash};
pub use event::{ChainedEvent, Event, EventError, Label, SourceId, What};
