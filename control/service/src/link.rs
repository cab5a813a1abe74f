//! The link between a control service and the nodes that it serves from a process of its own.
//!
//! ```text
//!  node                                          control
//!  --------------------------------------------  ----------------------------------------------------
//!  doors of the shards --> client --- TLS 1.3 ---> server --> the same doors, of the service
//!  Lease: a snapshot   <--        <-------------         <-- SnapshotSink of the service
//!  Lease: until when   <--        <-- Renewed --         <-- Ownership: this service still has the directory
//! ```
//!
//! A shard does not know which of the two it has: it asks through the same doors. What differs is that the other side may be away. Then questions are answered with "later", and the node goes by the snapshot that it has for as
//! long as its [`Lease`] says. It counts from the moment in which the node *asked* whether its snapshot still holds, so that no delay
//! on the way makes it longer, and by a clock that goes on while the machine sleeps. When it is over every shard denies, by itself.
//!
//! Both sides know each other by one certificate each, byte for byte: the node is configured with control's, and control has a folder
//! of those that it admits. `docs/control-link.md` has the bytes, `docs/operations.md` what an operator does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use creto_envelope::TrustDomain;
use rustls::{ClientConfig, ServerConfig};

use crate::channel_records::{ChannelDoor, ChannelQuestions};
use crate::enrolment::{EnrolmentDoor, Enrolments};
use crate::key_log::{Questioner, Questions};
use crate::key_records::{KeyRecordDoor, KeyRecordQuestions};
use crate::limits;
use crate::prekeys::{PrekeyDoor, PrekeyRequests};
use crate::rotation::{Publications, Publisher};

pub use admitted::{Admitted, AdmittedError, fingerprint, read_certificate};
pub use client::{LinkHandle, LinkSink, NodeLink};
pub use lease::{Lease, Moment};
pub use server::{LinkFeed, LinkServer};

mod admitted;
mod client;
mod doors;
mod lease;
mod ownership;
mod questions;
mod server;
mod wire;

/// How long a node may go by a snapshot: the shortest and the longest time that can be set, by whoever sets it.
pub const LIFETIME_MIN: Duration = Duration::from_secs(2);
/// See there.
pub const LIFETIME_MAX: Duration = Duration::from_secs(3_600);
/// How often a node asks whether its snapshot still holds.
pub(crate) const ASK_EVERY: Duration = Duration::from_millis(500);
/// A link over which nothing came for so long is given up. It is below the time for which most nodes have a snapshot.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Longest wait for a connection, and for each step until both know each other.
pub(crate) const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// Longest wait until the other side takes a frame.
pub(crate) const WRITE_MAX: Duration = Duration::from_secs(20);
/// Handshakes at a time, of whoever: the next ones wait in the backlog.
pub(crate) const HANDSHAKES_MAX: usize = 32;
/// Handshakes at a time of one address (of one IPv6 network of 64 bits): more are closed, so that no stranger keeps the nodes out.
pub(crate) const HANDSHAKES_OF_ONE_MAX: usize = 8;
/// Longest wait for the first byte: whoever connects speaks first.
pub(crate) const FIRST_BYTE_MAX: Duration = Duration::from_secs(2);
/// A link of the same node that begins sooner after another one than this is not told to the audit log.
pub(crate) const LINKED_TOLD_EVERY: Duration = Duration::from_secs(10);
/// Most bytes of answers that wait for a node that reads slowly: without room nothing more of it is read.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Nodes that can be admitted.
pub const NODES_MAX: usize = 256;
/// How often the folder of admitted nodes is read.
pub(crate) const ADMITTED_POLL: Duration = Duration::from_millis(250);
/// Shortest and longest wait before a link is tried again; it doubles between them, and is up to half of it shorter by chance.
pub(crate) const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3));
/// Notices about prekeys that wait for a node that reads slowly; the oldest go.
pub(crate) const NOTICES_MAX: usize = 1_024;

// A node takes every directory that a service can have.
const _: () = assert!(limits::CHANNELS_MAX <= creto_link::limits::CHANNELS_MAX as u64);
const _: () = assert!(limits::CHANNEL_LISTED_MAX <= creto_link::limits::CHANNEL_LISTED_MAX);
const _: () = assert!(ASK_EVERY.as_millis() * 4 <= LIFETIME_MIN.as_millis());

/// What a control service needs to know to serve nodes.
#[derive(Clone, Debug)]
pub struct LinkServerOptions {
    /// Where nodes connect to. Port 0: any.
    pub listen: SocketAddr,
    /// TLS that admits whoever [`Admitted`] says.
    pub tls: Arc<ServerConfig>,
    /// Which nodes are served.
    pub admitted: Admitted,
    /// How long a node goes by a snapshot after it has asked: [`LIFETIME_MIN`] to [`LIFETIME_MAX`].
    pub lifetime: Duration,
    /// How long mailboxes keep what nobody acknowledges, in seconds: nodes keep it as long.
    pub retention_s: u32,
}

/// The doors of a service, for questions of nodes.
#[derive(Clone, Debug)]
pub struct ServiceDoors {
    /// For key records that agents publish.
    pub publisher: Publisher,
    /// For enrolments.
    pub enrolments: EnrolmentDoor,
    /// For key records that shards want.
    pub key_records: KeyRecordDoor,
    /// For questions about the key log.
    pub key_log: Questioner,
    /// For prekeys.
    pub prekeys: PrekeyDoor,
    /// For the records of channels.
    pub channels: ChannelDoor,
}

/// What a node needs to know of its control service.
#[derive(Clone, Debug)]
pub struct LinkClientOptions {
    /// `host:port`.
    pub control: String,
    /// TLS that trusts exactly control's certificate and shows the node's.
    pub tls: Arc<ClientConfig>,
    /// SHA-256 of the node's certificate, for messages.
    pub fingerprint: String,
    /// The node's trust domain: control has the same.
    pub trust_domain: TrustDomain,
    /// As in [`LinkServerOptions`].
    pub retention_s: u32,
    /// The socket of the node's own API: how it is, and its audit log.
    pub socket_path: PathBuf,
}

/// Where a node's link takes from what the node's shards ask: the other ends of their doors.
#[derive(Debug)]
pub struct ShardQuestions {
    /// What agents publish.
    pub publications: Publications,
    /// Who wants to be registered.
    pub enrolments: Enrolments,
    /// Key records that are wanted.
    pub key_records: KeyRecordQuestions,
    /// Questions about the key log.
    pub key_log: Questions,
    /// What is wanted of prekeys.
    pub prekeys: PrekeyRequests,
    /// Records of channels that are wanted.
    pub channels: ChannelQuestions,
}
