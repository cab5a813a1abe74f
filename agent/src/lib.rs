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
//! - **Confirmed, if asked for**: with [`SendOptions::receipt`] the recipient's SDK answers with a receipt when the
//!   application there acknowledges: a message of its own, sealed and signed, that names the exact bytes
//!   ([`Delivery::receipt`]). Until its node has the receipt, the message counts as not acknowledged. With
//!   [`SendOptions::delivered`] it says, too, when it has opened the message, if it is willing to ([`ReceiptPolicy`]).
//!
//! - **Told when it expires**: a message whose lifetime is over before it was acknowledged, or that its mailbox keeps no
//!   longer, leads to a notice in the sender's own mailbox ([`Agent::notices`]), durable before the message is forgotten.
//!   Only when the sender's mailbox is full does it go without. [`SendOptions::notice`] leaves it out.
//!
//! - **Forward secret**: a session is opened to a prekey of its recipient, a key for this one session, which the recipient
//!   erases when the session is on its disk. Whoever steals the recipient's keys later, and has recorded everything, opens
//!   none of these sessions. [`PrekeyPolicy`] says what happens where there is no prekey; an agent that receives has some. One of
//!   last resort, and the key of the record, protect less.
//!
//! - **A session pays for many messages**: the first message to a recipient opens one (one key encapsulation, no extra
//!   message, one question to the node), and every message of it has a key of its own that is erased once it is used. A session
//!   ends after 1,000 messages or an hour ([`SessionPolicy`]), on demand ([`Agent::renew_sessions`]), and with the
//!   recipient's key.
//!
//! # Requests
//!
//! [`Agent::request`] asks another agent and waits for its answer, for as long as it is told; [`Agent::serve`] answers, several
//! requests at a time. The deadline travels with the request, a request is acknowledged when its answer is durable, and an answer
//! counts only from the agent that was asked. `docs/patterns.md` has the bytes, and what becomes of a request when somebody dies.
//!
//! # Channels
//!
//! [`Agent::publisher`] publishes to whoever subscribes, and [`Agent::subscribe_channel`] reads, alone or as a member of a group that shares
//! the work. Content is encrypted under keys that its publisher gives to those whom the channel's owner allows. Whose a channel is, an agent
//! believes once and then keeps to, unless it is told ([`SubscribeOptions::owner`], [`PublisherOptions::owner`]): [`channel`].
//!
//! # Threads
//!
//! [`Agent::send_typed`] sends a message of a known type that names the one it follows and commits to its payload, so that a conversation
//! can be shown to others: [`thread`] checks one without a node.
//!
//! # Refusing, and dead letters
//!
//! A [`Delivery`] that cannot be worked on now is refused with [`Delivery::nack`] and comes again after a pause; one that never
//! can is rejected with [`Delivery::reject`]. What is rejected, and what failed too often, is a **dead letter**: the node keeps
//! it in the mailbox, counts it in its quota, and does not deliver it. [`Agent::dead_letters`] lists them,
//! [`Agent::dead_letter`] opens one to look at, [`Agent::replay_dead_letters`] has them delivered again, and
//! [`Agent::purge_dead_letters`] deletes them (the key of a purged message stays with its session until that is forgotten). Only
//! the agent itself can. What a consumer had in hand first when it
//! disappeared counts as a failed delivery, too; what it had besides does not.
//!
//! # The state directory
//!
//! What was acknowledged must stay readable and must not be shown again, also after a restart. So an agent whose keys
//! are in a file keeps its sessions in a folder beside it (`planner.keys` and `planner.keys.sessions/`, mode 0700);
//! [`ConnectOptions::state`] names another. `prekeys` has the secret halves of the agent's prekeys: **what is sent to them opens
//! only where this file is**. Identities that several machines take turns with want [`PrekeyPolicy::Off`], or a new key
//! ([`Agent::rotate_keys`]) after each move. `incoming.redb` is written before acknowledgements leave, and belongs to the
//! one process that is subscribed, to the mailbox or to channels, whose keys are in it, too; `outgoing.redb` is read when an agent
//! connects, emptied, and written when it closes. `publishing.redb` has the sessions of channels, and belongs to the one process that
//! publishes.
//!
//! - **Keys that outlive the process need a state directory.** Keys that were never a file keep their sessions in memory:
//!   when they are made again from the same seeds elsewhere, messages in the mailbox that do not carry their session's key
//!   are refused there as [`RejectCode::UnknownSession`] (an [`Incident`], not acknowledged) and stay unreadable. Messages
//!   that are sent later can be read once their senders renew their sessions or know another encryption key of the agent.
//! - **Never copy it back**: a folder from a backup knows less than the agent does. With an old `outgoing.redb` a key
//!   could encrypt two messages. A copy of it is recognised as one and its sessions are ignored, but not what is written
//!   over the very same file, or a whole disk that is set back: delete the file then, it costs one encapsulation for each
//!   recipient. `publishing.redb` is the same: with an old one a key could encrypt two messages, and whoever left a channel could
//!   read on. With an old `incoming.redb` messages may be shown again, and those of sessions that were opened since cannot
//!   be opened, nor what was published under keys that were given since.
//! - Lost, `outgoing.redb` costs nothing else. A process that is killed loses its outgoing sessions, too: the next one
//!   opens new ones. Lost, `publishing.redb` costs new sessions; who then subscribes to a channel with history is not given the keys of
//!   what this agent published before, and the agent believes anew whoever the node says owns the channel.
//!
//! # Replacing the encryption key
//!
//! [`Agent::rotate_keys`], or [`ConnectOptions::rotation`] on a schedule: the new key is in the key file before the node
//! hears of it, and whatever a crash leaves behind is settled with the next connection. What is sealed to a replaced key
//! opens for [`ConnectOptions::key_grace`]. [`Agent::rotate_compromised_keys`] ends the old keys at once.
//!
//! # Key transparency
//!
//! The node's directory says which keys belong to a name, and has to say it to everybody: no key record is used before the node
//! has proven that it is a leaf of its key log, under a head that both of the log's keys signed and that grew out of the one
//! that was seen before. The keys of the log are those that were seen first; both are kept beside the key file
//! (`planner.keys.keylog`). Every agent reads the leaves, too: a key record of its own that it did not make is an alarm
//! ([`Agent::key_log`], [`Stats::key_log_alarms`]), and no further key is used then. What no honest node says is a
//! [`LookupError::KeyLog`] with a code of its own. `docs/key-transparency.md` says what an operator can still do.
//!
//! # What is not
//!
//! A node that shows one agent another log from the first day on is found out only by comparing over another channel:
//! fingerprints ([`Agent::fingerprint`], `creto agent fingerprint`) or heads of the log.
#![forbid(unsafe_code)]

pub mod attachment;
mod backoff;
pub mod channel;
mod client;
mod clock;
mod connection;
mod directory;
mod driver;
pub mod enrol;
mod error;
mod fingerprint;
mod key_log;
mod keys;
pub mod keystore;
mod letters;
pub mod limits;
mod prekeys;
mod presence;
pub mod proof;
pub mod raw;
mod receiver;
mod request;
mod rotation;
mod self_destruct;
mod sender;
mod signal;
mod state;
mod stats;
mod stream;
mod submit;
pub mod thread;
mod tls;
pub mod trace;
mod worker;

pub use channel::{
    ChannelError, ChannelMessage, ChannelName, ChannelPattern, ChannelSubscription, PatternEvent, PatternSubscription,
    PendingPublish, PublishOptions, Publisher, PublisherOptions, SubscribeOptions,
};
pub use client::{Agent, ConnectOptions};
pub use creto_envelope::letters::{DeadLetterEntry, DeadLetters, DeathCause, REASON_SENDER_REVOKED};
pub use creto_envelope::notice::NoticeCause;
pub use creto_envelope::{
    AgentId, AgentName, ChannelId, GroupId, Kind, MessageId, Priority, Purpose, RejectCode, SignedKeyRecord,
    TreeDigest, TrustDomain,
};
pub use creto_transparency::KeyLogError;
pub use creto_transparency::fingerprint::Fingerprint;
pub use error::{
    CertificateReadError, ConnectError, DeadLetterError, KeyLogFileError, KeysError, LookupError, PrekeyError,
    PresenceError, ReceiveError, RequestError, RespondError, RotateError, SendError, StateError,
};
pub use fingerprint::AgentFingerprint;
pub use key_log::{KEY_LOG_FILE_FORMAT, KeyLogStatus, KeyPlace};
pub use keys::{AgentKeys, KEY_FILE_FORMAT};
pub use letters::DeadLetter;
pub use prekeys::PrekeyPolicy;
pub use presence::{Presence, PresencePolicy};
pub use receiver::acknowledgements::{Acknowledged, Acknowledgements};
pub use receiver::incidents::{Incident, Incidents};
pub use receiver::notices::{Notice, Notices};
pub use receiver::receipts::{DeliveryReceipt, ReceiptKind, ReceiptPolicy};
pub use receiver::signals::{Signal, Signals};
pub use receiver::{Delivery, Subscription};
pub use request::{Failure, IncomingRequest, RequestOptions, Response, ServeOptions, ServeOutcome, Served, Server};
pub use rotation::{KeyRotation, RotationSchedule};
pub use self_destruct::{SelfDestruct, SelfDestructing};
pub use sender::batcher::BatchOptions;
pub use sender::sessions::SessionPolicy;
pub use sender::{PendingSend, Receipt, SendOptions};
pub use signal::{SIGNAL_PLAINTEXT_BYTES_MAX, SIGNAL_TTL_S_MAX, SignalOptions, WorkState, Working};
pub use state::prekeys::PREKEY_FILE_FORMAT;
pub use state::{STATE_FORMAT, StateDirectory};
pub use stats::Stats;
pub use tls::NodeCertificate;
