//! Rules about the repository that a compiler does not know, run as tests: `cargo test -p xtask`.
//!
//! Each check is a function from a [`Tree`] to complaints, so each is also held against a small tree that breaks it:
//! a check that cannot fail is worth nothing. `tests/tidy.rs` runs them all on the real tree.
#![forbid(unsafe_code)]

pub mod documents;
pub mod figures;
pub mod manifests;
pub mod rejects;
pub mod security;
pub mod source;
pub mod tree;

pub use tree::{Complaint, Tree};
