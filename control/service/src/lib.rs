//! The directory of agents, beside the data plane: who exists, with which keys, under which policy.
//!
//! ```text
//!  creto agent create            control thread                                     shards
//!  ------------------            -------------------------------------------------  ------------------------
//!  POST /v1/agents  -- socket -> registration: names, ids, keys, both signatures
//!                                directory:    one transaction for all that wait
//!                                              commit (durable)
//!                                              new Snapshot  --- SnapshotSink ----> hold it, decide by it
//!                  <-- 201 ----  answer
//!
//!                               rotation:     the next key record of an agent <--- Publisher ----- control stream
//!                               the same commit and snapshot                   --- Reply --------> Published
//! ```
//!
//! An answer comes after the commit and after the shards were given the snapshot: who was told "registered" can log
//! in. Shards never ask this service anything while a message is on its way. They hold no keys: a snapshot has what decisions read
//! of an agent, and a shard asks for a record when somebody logs in or wants to read it.
//!
//! The service runs on a thread of its own with a single-threaded tokio runtime. Its HTTP API is reachable through a
//! Unix-domain socket, by the user that runs the node (and root) only; [`client`] speaks it.
//!
//! - [`Service::open`], [`Service::spawn`], [`ServiceHandle`]: start and stop.
//! - [`registration`]: what a key record must fulfil; a pure function.
//! - [`rotation`]: how agents replace their encryption keys, through the shard that has their connection.
//! - [`mailboxes`]: what is set for single mailboxes.
//! - [`attributes`]: type, roles and capabilities of agents.
//! - [`tokens`]: who may register agents, when not everybody may.
//! - [`svid`]: workloads that SPIFFE knows register their agents with their certificate.
//! - [`states`]: who may not act for now, and who never may again.
//! - [`channel_records`]: the records of channels, the same.
//! - [`key_records`]: the key records that shards ask for, one by one.
//! - [`prekeys`]: prekeys that agents upload, each handed out once.
//! - [`storage`]: the tables and their bytes.
//! - [`api`]: the JSON of the HTTP API and its stable error codes.
//! - [`key_log`]: every change of a key record as a leaf of a log, and the proofs that agents ask for.
//! - [`link`]: nodes with which this service shares no process.
//! - [`policy`]: the policy in force, from the operator's file, and why it decides as it does.
//! - [`health`]: whether the node serves, shard by shard.
//! - [`client`]: the API as typed calls, for the command line.
//! - [`backup`]: holds logs and copies the directory while a backup is taken.
//! - `fill`, with the feature of that name: directories of very many agents, to measure what they cost.
//! - [`offline`]: reads the directory of a node that is stopped.
#![forbid(unsafe_code)]

pub mod api;
pub mod attributes;
pub mod audit;
pub mod backup;
pub mod channel_records;
pub mod channels;
pub mod client;
pub mod dashboard;
pub mod depths;
mod directory;
pub mod enrolment;
mod error;
#[cfg(feature = "fill")]
pub mod fill;
#[cfg(test)]
mod fixture;
pub mod health;
mod http;
pub mod key_log;
pub mod key_records;
pub mod limits;
pub mod link;
pub mod mailboxes;
pub mod metrics_server;
pub mod offline;
pub mod outbox;
pub mod policy;
pub mod prekeys;
pub mod registration;
pub mod rotation;
mod service;
pub mod signed_request;
mod socket;
pub mod states;
pub mod storage;
pub mod svid;
mod telling;
pub mod tokens;
mod writer;

pub use creto_control_storage::{DatabaseUrl, StorageError, UrlError};
pub use error::{Extent, ServiceError};
pub use http::openapi::openapi;
pub use mailboxes::MailboxDefaults;
pub use policy::{OnFailure, PolicyOptions};
pub use service::{PolicyReloader, RemoteOptions, Service, ServiceHandle, ServiceOptions, SnapshotSink};
pub use tokens::Enrolment;
