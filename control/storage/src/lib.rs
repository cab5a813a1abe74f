//! Where the control service keeps its tables: one interface, and behind it a redb file or a PostgreSQL database.
//!
//! ```text
//!            Backend: begin_read -> Reading (a snapshot), begin_write -> Writing (one at a time)
//!               |                                   |
//!           RedbFile                             Postgres
//!    one file, typed tables               schema creto, a table of (key, value) for each
//!    a commit is fsynced, two-phase       a commit is synchronous, its number stands in the same transaction
//! ```
//!
//! A table has a name and two types ([`Table`]). What the back ends see are bytes: those of a key order as the key does, byte by
//! byte, so both return the same rows in the same order. The redb file keeps the types that it always had.
//!
//! - [`Backend`], [`Reading`], [`Writing`]: what a back end does.
//! - [`Rows`], [`Scan`]: tables as typed rows; a scan holds one page of them at a time.
//! - [`RedbFile`], [`Postgres`]: the two.
//! - [`copy_rows`]: from one to the other.
//!
//! This crate knows nothing of agents. Everything here blocks: it belongs on a thread that may wait.
#![forbid(unsafe_code)]

mod backend;
mod error;
pub mod limits;
mod postgres;
mod redb_file;
mod rows;
mod table;

pub use backend::{Backend, Order, Reading, Row, Span, Writing};
pub use error::StorageError;
pub use postgres::{DatabaseUrl, Postgres, UrlError};
pub use redb_file::RedbFile;
pub use rows::{Rows, Scan, copy_rows};
pub use table::{Key, Table, TableRef, Value};
