//! The SDK of creto-messaging: sealed, signed, durable messages between agents.
//!
//! A message is sealed to its recipient (nobody else can read it, the node included), travels in a batch that is signed
//! once with Ed25519 **and** ML-DSA-65, and is acknowledged only when it is on the node's disk. The recipient verifies
//! and opens it again, sees it once, and acknowledges it when the work is done.
//!
//! ```
//! # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
//! # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
//! use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, NodeCertificate};
//!
//! # std::env::set_current_dir(&node.folder)?;
//! # let address = node.address;
//! let keys = AgentKeys::load("planner.keys")?; // made by `creto agent create acme/planner`
//! let certificate = NodeCertificate::from_file("data/node.crt")?; // made by `creto init`
//! let agent = Agent::connect(ConnectOptions::new(address, certificate, keys)).await?;
//!
//! // Resolves when the message is durable. A connection that breaks meanwhile is no error.
//! let receipt = agent.send(&AgentName::parse("acme/worker")?, "hello").await?;
//! println!("{} is durable", receipt.message_id.to_uuid_string());
//!
//! let mut mailbox = agent.subscribe()?;
//! while let Some(delivery) = mailbox.next().await {
//!     let delivery = delivery?;
//!     println!("{}: {} bytes", delivery.from, delivery.payload.len());
//!     delivery.ack(); // when the work is done
//! #   assert_eq!((delivery.from.as_str(), &delivery.payload[..]), ("acme/worker", &b"hello"[..]));
//! #   break;
//! }
//! # agent.close().await;
//! # Ok(()) }) }
//! ```
//!
//! # What is promised
//!
//! - **Durable**: [`Agent::send`] answers `Ok` only for a message that is on the node's disk.
//! - **At least once, shown once**: what was not answered is sent again under the same message id, and the node knows it
//!   again; what was not acknowledged is delivered again, and the SDK hides what the application holds or has
//!   acknowledged. A process that dies between its work and [`Delivery::ack`] sees the message again.
//! - **In order**: messages to one recipient that one task submits one after the other arrive in that order, over
//!   reconnects too, inside a priority class. A message that the node refused for now (mailbox full) may be passed by
//!   those that were in flight with it.
//! - **Bounded**: what is in flight, what the application holds, what is remembered. Above a bound callers wait.
//! - **Nothing on trust**: every delivery's signatures, tree path, sender and seal are checked here again. What fails is
//!   counted and reported ([`Agent::incidents`]), never shown, and never acknowledged on its own.
//!
//! # What is not
//!
//! The node's directory says which keys belong to a name. A record must be signed by its own keys and derive to the id
//! that was asked for, but a node that lies about a name can only be found out by comparing key ids over another channel
//! ([`AgentKeys::key_id`]).
#![forbid(unsafe_code)]

mod backoff;
mod client;
mod clock;
mod connection;
mod directory;
mod driver;
mod error;
mod keys;
pub mod limits;
pub mod proof;
pub mod raw;
mod receiver;
mod sender;
mod stats;
mod stream;
mod tls;
mod worker;

pub use client::{Agent, ConnectOptions};
pub use creto_envelope::{AgentId, AgentName, Kind, MessageId, Priority, RejectCode, SignedKeyRecord, TrustDomain};
pub use error::{CertificateReadError, ConnectError, KeysError, LookupError, ReceiveError, SendError};
pub use keys::AgentKeys;
pub use receiver::{Delivery, Incident, Incidents, Subscription};
pub use sender::{PendingSend, Receipt, SendOptions};
pub use stats::Stats;
pub use tls::NodeCertificate;
