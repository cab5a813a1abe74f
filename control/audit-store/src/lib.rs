//! The audit log on disk: written by one thread, read by anyone.
//!
//! [`Writer`] takes events of sources and makes them durable together with where each source is to go on after a crash; at most
//! every second it signs what is durable. [`LogReader`] reads what is signed, while a node writes or without one. [`export`] and
//! [`verify_export`] write and check a log in one file, [`prove`] makes the proof of one entry.
//!
//! Everything here blocks: it belongs on a thread of its own. `docs/audit-format.md` gives the files.
#![forbid(unsafe_code)]

mod commit;
pub mod disk;
mod error;
mod export;
pub mod keys;
pub mod layout;
mod moment;
mod reader;
mod recovery;
mod shown;
mod writer;

pub use commit::{RESUME_BYTES, Resume, VERSION as FORMAT};
pub use error::StoreError;
pub use export::{ExportFailure, Exported, export, prove, verify_export, verify_log};
pub use moment::{Moment, MomentFile, check_copy, is_log_file};
pub use reader::{Block, EventPage, LogReader};
pub use shown::event_json;
pub use writer::{Committed, Writer};
