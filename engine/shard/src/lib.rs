//! One core's share of a node, without IO: events in, actions out.
//!
//! [`Shard`] is the machine; `path.rs` is the path of a message as a table of contents, and each of its stages has a
//! file under `stage/`. A driver (`engine/io` with `engine/node`) or the simulator stands around it.
#![forbid(unsafe_code)]

pub mod admission;
mod audit;
pub mod channels;
mod connection;
mod enrol;
pub mod event;
mod expiry;
mod key_log;
mod key_records;
pub mod limits;
mod meter;
pub mod observe;
mod path;
mod prekeys;
mod presence;
mod request;
pub mod room;
pub mod route;
mod shard;
mod stage;
pub mod stages;
mod workers;

pub use audit::{AuditBatch, events_of};
pub use event::{Action, ConnectionId, Event, KeyRefused, Now, ShardIndex, StreamId};
pub use expiry::Retention;
pub use prekeys::{PrekeyQuestion, PrekeyTopic};
pub use room::Room;
pub use route::{Placement, ShardMessage};
pub use shard::Shard;
pub use stage::log::Log;
pub use stage::log::hold::{HoldAnswer, HoldEnd, HoldId, HoldRequest};
pub use stage::log::letters::LetterQuestion;
pub use stage::verify::{Scratch, VerifyJob, VerifyOutcome};
