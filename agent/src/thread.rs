//! Threads: typed messages that name the message they follow, so that a conversation can be shown to somebody else.
//!
//! A typed message is one of kind direct whose payload begins with a header of its own (`docs/threads.md`): what it is, the hash of
//! the envelope that it follows, and the hash of what it hands over. **It commits to its payload**: 202 bits of the payload's
//! SHA-256 are its correlation id and the random part of its message id, which its sender signs with everything else. So
//! whoever has the proof of a message and its opened payload can check that they belong together, which a sealed payload alone does
//! not allow. [`Thread`] checks a whole conversation, without a node, network or clock.

use bytes::Bytes;
use creto_crypto_accel::digest::sha256;
use creto_envelope::limits::PAYLOAD_PLAINTEXT_BYTES_MAX;
use creto_envelope::thread::{TYPED_HEADER_BYTES, TypedPayload};
use creto_envelope::{AgentName, Kind, MessageId, Priority};

use crate::client::Agent;
use crate::clock;
use crate::error::SendError;
use crate::receiver::Delivery;
use crate::sender::{PendingSend, Receipt, SendOptions};
use crate::submit::Handling;

mod verify;

pub use creto_envelope::thread::MessageType;
pub use verify::{Thread, ThreadError, ThreadMessage, VerifiedThread};

/// Most messages of a thread that is checked.
pub const THREAD_MESSAGES_MAX: usize = 4_096;

/// A typed message to send.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypedMessage {
    /// What it is.
    pub message_type: MessageType,
    /// Hash of the envelope that it follows: of one that came ([`Typed::hash`]), or of one that was sent
    /// ([`Receipt::envelope_sha256`]). None for the first of a thread.
    pub parent: Option<[u8; 32]>,
    /// SHA-256 of what is handed over. A request and an approval of a handoff must have it.
    pub handoff: Option<[u8; 32]>,
    /// The application's own: JSON as a rule. It is hashed and sent byte by byte.
    pub content: Bytes,
    /// How urgent it is.
    pub priority: Priority,
}

impl TypedMessage {
    /// The first message of a thread, of normal priority.
    pub fn new(message_type: MessageType, content: impl Into<Bytes>) -> Self {
        Self { message_type, parent: None, handoff: None, content: content.into(), priority: Priority::Normal }
    }

    /// The same, as one that follows `parent`.
    #[must_use]
    pub fn after(self, parent: [u8; 32]) -> Self {
        Self { parent: Some(parent), ..self }
    }

    /// The same, and what it hands over has this SHA-256.
    #[must_use]
    pub fn handing_over(self, sha256: [u8; 32]) -> Self {
        Self { handoff: Some(sha256), ..self }
    }
}

/// Says how long the content is, not what it is: this ends up in logs.
impl std::fmt::Debug for TypedMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TypedMessage")
            .field("message_type", &self.message_type)
            .field("content_bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// A typed message that came: [`Delivery::typed`].
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Typed {
    /// What it is.
    pub message_type: MessageType,
    /// Hash of the envelope that it follows. That there is such a message, and that its sender had it, only a [`Thread`] shows.
    pub parent: Option<[u8; 32]>,
    /// SHA-256 of what is handed over.
    pub handoff: Option<[u8; 32]>,
    /// The application's own.
    pub content: Bytes,
    /// SHA-256 of all bytes of the envelope: what a message that follows this one names.
    pub hash: [u8; 32],
}

/// Says how long the content is, not what it is: this ends up in logs.
impl std::fmt::Debug for Typed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Typed")
            .field("message_type", &self.message_type)
            .field("content_bytes", &self.content.len())
            .finish_non_exhaustive()
    }
}

/// Why a payload that says it is typed is not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TypedError {
    /// Its header breaks a rule, or is of a later version.
    #[error("the message says that it is typed, and its header has no form that this version reads: update creto")]
    Malformed,
    /// Its ids are not those that its payload has.
    #[error(
        "the message says that it is typed, and its ids do not commit to its payload: it cannot be shown to others"
    )]
    NotCommitted,
}

/// The ids of a typed message: what they say of its payload.
fn committed(payload: &[u8], time_ms: u64) -> (MessageId, MessageId) {
    let digest = sha256(&[payload]);
    let (correlation, rest) = digest.split_first_chunk::<16>().expect("half of it");
    let random = rest.first_chunk::<10>().expect("less than the other half");
    (MessageId::from_parts(time_ms, *random), MessageId(*correlation))
}

/// Whether a payload is the one that these ids commit to.
fn is_committed(payload: &[u8], message_id: MessageId, correlation_id: Option<MessageId>) -> bool {
    committed(payload, message_id.unix_ms()) == (message_id, correlation_id.unwrap_or(MessageId::ZERO))
}

impl Delivery {
    /// The typed message that this delivery is; none when it is none.
    ///
    /// # Errors
    /// [`TypedError`] when it says that it is one and does not hold.
    pub fn typed(&self) -> Result<Option<Typed>, TypedError> {
        let Some(hash) = self.envelope_sha256.filter(|_| self.kind == Kind::Direct) else { return Ok(None) };
        let parsed = TypedPayload::parse(&self.payload).map_err(|_| TypedError::Malformed)?;
        let Some(TypedPayload { message_type, parent, handoff, .. }) = parsed else { return Ok(None) };
        if !is_committed(&self.payload, self.message_id, self.correlation_id) {
            return Err(TypedError::NotCommitted);
        }
        let content = self.payload.slice(TYPED_HEADER_BYTES..);
        Ok(Some(Typed { message_type, parent, handoff, content, hash }))
    }
}

impl Agent {
    /// Sends a typed message and waits until it is durable. [`Receipt::envelope_sha256`] is what the next one of the thread names.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use creto_agent::AgentName;
    /// # use creto_agent::thread::{MessageType, TypedMessage};
    /// # let agent = node.connect("planner").await?;
    /// let worker = AgentName::parse("acme/worker")?;
    /// let task = TypedMessage::new(MessageType::TaskAssignment, r#"{"find":"the missing colon"}"#);
    /// let sent = agent.send_typed(&worker, task).await?;
    /// let hash = sent.envelope_sha256.ok_or("the node had it already")?;
    /// let more = TypedMessage::new(MessageType::StatusUpdate, r#"{"still":"waiting"}"#).after(hash);
    /// agent.send_typed(&worker, more).await?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// As [`send`](Self::send); [`SendError::NoHandoff`] when a handoff does not say what is handed over.
    pub async fn send_typed(&self, to: &AgentName, message: TypedMessage) -> Result<Receipt, SendError> {
        self.submit_typed(to, message).await?.await
    }

    async fn submit_typed(&self, to: &AgentName, message: TypedMessage) -> Result<PendingSend, SendError> {
        let TypedMessage { message_type, parent, handoff, content, priority } = message;
        if content.len() > PAYLOAD_PLAINTEXT_BYTES_MAX - TYPED_HEADER_BYTES {
            return Err(SendError::TooLarge { bytes: content.len() + TYPED_HEADER_BYTES });
        }
        let typed = TypedPayload { message_type, blinding: clock::random(), parent, handoff, content: &content };
        let payload = typed.to_bytes().ok_or(SendError::NoHandoff)?;
        let (message_id, correlation_id) = committed(&payload, clock::now_ms());
        let options = SendOptions {
            kind: Kind::Direct,
            priority,
            correlation_id: Some(correlation_id),
            ..SendOptions::default()
        };
        let submitter = self.submitter();
        let handling = Handling { digest: true, ..submitter.usual() };
        submitter.submit_so(handling, message_id, to, Bytes::from(payload), options, None).await
    }
}

#[cfg(test)]
mod tests;
