//! Checking a whole conversation, from the proofs of its messages and their opened payloads. Pure: no node, network or clock.

use std::collections::{BTreeMap, BTreeSet};

use creto_crypto_accel::digest::sha256;
use creto_envelope::limits::{PAYLOAD_PLAINTEXT_BYTES_MAX, PROOF_BYTES_MAX};
use creto_envelope::proof::ProofView;
use creto_envelope::thread::TypedPayload;
use creto_envelope::{AgentId, AgentName, Kind, MessageId};
use rkyv::util::AlignedVec;
use thiserror::Error;

use super::{MessageType, THREAD_MESSAGES_MAX, is_committed};
use crate::proof::{self, ProofError, Proven};

type Hash = [u8; 32];

/// Domain of the digest of a thread.
const DOMAIN: &[u8] = b"creto/thread/v1";

/// A message of a thread that holds by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ThreadMessage {
    /// What it was added as, such as the name of a file.
    pub label: String,
    /// What it is.
    pub message_type: MessageType,
    /// SHA-256 of all bytes of its envelope.
    pub hash: [u8; 32],
    /// Hash of the message that it follows.
    pub parent: Option<[u8; 32]>,
    /// SHA-256 of what is handed over.
    pub handoff: Option<[u8; 32]>,
    /// The name in the sender's key record: as good as the comparison of the fingerprint.
    pub sender: AgentName,
    /// The id that this name derives to.
    pub sender_id: AgentId,
    /// Names the sender's signing keys. This is what to compare over another channel.
    pub signing_fingerprint: [u8; 32],
    /// Whom it is for.
    pub recipient_id: AgentId,
    /// The message's id.
    pub message_id: MessageId,
    /// When the sender made it, by the sender's clock, Unix milliseconds.
    pub timestamp_ms: u64,
    /// Bytes of its content.
    pub content_bytes: usize,
}

/// A conversation that is being checked. Messages may be added in any order; one that is added twice counts once.
#[derive(Debug, Default)]
pub struct Thread {
    by_hash: BTreeMap<Hash, ThreadMessage>,
}

/// A conversation of which every message fits.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct VerifiedThread {
    /// Its messages: each behind the one that it follows, and of several that follow the same one by message id.
    pub messages: Vec<ThreadMessage>,
    /// One value for all of it: whoever has the same has the same messages, no more and no fewer.
    pub digest: [u8; 32],
}

/// The first message that does not fit, and why.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[non_exhaustive]
pub enum ThreadError {
    /// Nobody is proven to have signed it.
    #[error("{label}: {source}")]
    Proof {
        /// Which.
        label: String,
        /// What does not hold.
        source: ProofError,
    },
    /// Its payload is not that of a typed message.
    #[error("{label}: the payload is not that of a typed message of a version that is read here")]
    NotTyped {
        /// Which.
        label: String,
    },
    /// Its payload is not the one that its sender signed.
    #[error(
        "{label}: the payload is not the one that the signed ids commit to: one of the two was exchanged or changed"
    )]
    NotCommitted {
        /// Which.
        label: String,
    },
    /// Its sender signed another envelope under the same id.
    #[error(
        "{label}: its sender signed another envelope with the same message id ({other}); keep one of them, or ask which was meant"
    )]
    SecondEnvelope {
        /// Which.
        label: String,
        /// The one that was there before.
        other: String,
    },
    /// There are too many.
    #[error("a thread of more than {THREAD_MESSAGES_MAX} messages is not checked; check parts of it")]
    TooMany,
    /// There is none.
    #[error("there is no message to check; export some with `creto recv --proofs`")]
    Empty,
    /// The message that it follows is missing.
    #[error(
        "{label}: the message that it follows is missing, SHA-256 {}; get it from whoever sent or received it",
        hex(parent)
    )]
    MissingParent {
        /// Which.
        label: String,
        /// Hash of the missing one.
        parent: [u8; 32],
    },
    /// It begins another thread.
    #[error("{label}: it follows no message, and neither does {first}: these are two threads; check each by itself")]
    SecondBeginning {
        /// Which.
        label: String,
        /// The beginning with the smaller message id.
        first: String,
    },
    /// Its sender neither sent nor received the message that it follows.
    #[error(
        "{label}: its sender neither sent nor received the message that it follows, so cannot have had it by right"
    )]
    Stranger {
        /// Which.
        label: String,
    },
    /// Its sender has other signing keys here than in an earlier message.
    #[error("{label}: its sender has other signing keys than in {earlier}: one of the two is somebody else")]
    OtherKeys {
        /// Which.
        label: String,
        /// The earlier one.
        earlier: String,
    },
    /// It approves a handoff that was not asked of its sender before.
    #[error("{label}: it approves a handoff that nobody before it in the thread asked its sender to take")]
    Handoff {
        /// Which.
        label: String,
    },
}

impl ThreadError {
    /// A short name that does not change, for programs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Proof { source, .. } => source.code(),
            Self::NotTyped { .. } => "not_typed",
            Self::NotCommitted { .. } => "not_committed",
            Self::SecondEnvelope { .. } => "second_envelope",
            Self::TooMany => "too_many",
            Self::Empty => "empty",
            Self::MissingParent { .. } => "missing_parent",
            Self::SecondBeginning { .. } => "second_beginning",
            Self::Stranger { .. } => "stranger",
            Self::OtherKeys { .. } => "other_keys",
            Self::Handoff { .. } => "handoff",
        }
    }

    /// Which message it is about, as it was added.
    #[must_use]
    pub fn label(&self) -> Option<&str> {
        match self {
            Self::Proof { label, .. }
            | Self::NotTyped { label }
            | Self::NotCommitted { label }
            | Self::SecondEnvelope { label, .. }
            | Self::MissingParent { label, .. }
            | Self::SecondBeginning { label, .. }
            | Self::Stranger { label }
            | Self::OtherKeys { label, .. }
            | Self::Handoff { label } => Some(label),
            Self::TooMany | Self::Empty => None,
        }
    }
}

fn hex(hash: &Hash) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Thread {
    /// A conversation without messages.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a message: its proof ([`Delivery::proof`](crate::Delivery::proof)) and its payload as it was opened, header and all
    /// ([`Delivery::payload`](crate::Delivery)). It is checked by itself; `label` is what errors call it.
    ///
    /// # Errors
    /// [`ThreadError`] when it does not hold; nothing is added then.
    pub fn add(
        &mut self,
        label: impl Into<String>,
        proof: &[u8],
        payload: &[u8],
    ) -> Result<&ThreadMessage, ThreadError> {
        let label = label.into();
        if proof.len() > PROOF_BYTES_MAX || payload.len() > PAYLOAD_PLAINTEXT_BYTES_MAX {
            return Err(ThreadError::NotTyped { label });
        }
        let proven = match proof::verify(proof) {
            Ok(proven) => proven,
            Err(source) => return Err(ThreadError::Proof { label, source }),
        };
        let message = Self::message(label, &proven, envelope_hash(proof), payload)?;
        if self.by_hash.len() >= THREAD_MESSAGES_MAX && !self.by_hash.contains_key(&message.hash) {
            return Err(ThreadError::TooMany);
        }
        Ok(self.by_hash.entry(message.hash).or_insert(message))
    }

    fn message(label: String, proven: &Proven, hash: Hash, payload: &[u8]) -> Result<ThreadMessage, ThreadError> {
        let typed = TypedPayload::parse(payload).ok().flatten().filter(|_| proven.kind == Kind::Direct);
        let Some(typed) = typed else { return Err(ThreadError::NotTyped { label }) };
        if !is_committed(payload, proven.message_id, proven.correlation_id) {
            return Err(ThreadError::NotCommitted { label });
        }
        Ok(ThreadMessage {
            label,
            message_type: typed.message_type,
            hash,
            parent: typed.parent,
            handoff: typed.handoff,
            sender: proven.sender.clone(),
            sender_id: proven.sender_id,
            signing_fingerprint: proven.signing_fingerprint,
            recipient_id: proven.recipient,
            message_id: proven.message_id,
            timestamp_ms: proven.timestamp_ms,
            content_bytes: typed.content.len(),
        })
    }

    /// Checks that the messages that were added are one conversation: one beginning, every other message behind the one that it
    /// names, sent by somebody who had that one, handoffs approved by whoever was asked.
    ///
    /// # Errors
    /// [`ThreadError`] of the first message that does not fit: from the beginning on, and of those that follow the same one by
    /// message id. What hangs on nothing comes last.
    pub fn verify(&self) -> Result<VerifiedThread, ThreadError> {
        // By message id, and then by hash: the same whatever order they were added in.
        let mut by_id: Vec<&ThreadMessage> = self.by_hash.values().collect();
        by_id.sort_by_key(|message| (message.message_id, message.hash));
        let mut ids: BTreeMap<(AgentId, MessageId), &ThreadMessage> = BTreeMap::new();
        for message in &by_id {
            if let Some(other) = ids.insert((message.sender_id, message.message_id), message) {
                let (label, other) = (message.label.clone(), other.label.clone());
                return Err(ThreadError::SecondEnvelope { label, other });
            }
        }
        let mut beginnings = by_id.iter().filter(|message| message.parent.is_none());
        let (first, second) = (beginnings.next(), beginnings.next());
        if let (Some(first), Some(second)) = (first, second) {
            let (label, first) = (second.label.clone(), first.label.clone());
            return Err(ThreadError::SecondBeginning { label, first });
        }

        let mut children: BTreeMap<Hash, Vec<&ThreadMessage>> = BTreeMap::new();
        for message in &by_id {
            if let Some(parent) = message.parent {
                children.entry(parent).or_default().push(message);
            }
        }
        let mut keys: BTreeMap<AgentId, &ThreadMessage> = BTreeMap::new();
        let mut reached: BTreeSet<Hash> = BTreeSet::new();
        let mut messages: Vec<ThreadMessage> = Vec::new();
        let mut next: Vec<&ThreadMessage> = first.into_iter().copied().collect();
        // Whoever follows another comes behind it, and whoever began a side talk first is done with it first.
        while let Some(message) = next.pop() {
            self.fits(message, &mut keys)?;
            reached.insert(message.hash);
            messages.push(message.clone());
            next.extend(children.get(&message.hash).into_iter().flatten().rev());
        }
        let lost =
            by_id.iter().find(|message| message.parent.is_some_and(|parent| !self.by_hash.contains_key(&parent)));
        if let Some((message, parent)) = lost.and_then(|message| Some((message, message.parent?))) {
            return Err(ThreadError::MissingParent { label: message.label.clone(), parent });
        }
        if messages.is_empty() {
            return Err(ThreadError::Empty);
        }
        // A message cannot name the hash of one that names its own.
        assert_eq!(reached.len(), self.by_hash.len(), "what is not reached lacks a parent");
        let hashes: Vec<&[u8]> = self.by_hash.keys().map(<[u8; 32]>::as_slice).collect();
        let count = (hashes.len() as u64).to_le_bytes();
        let digest = sha256(&[&[DOMAIN, &count], &hashes[..]].concat());
        Ok(VerifiedThread { messages, digest })
    }

    /// Whether a message fits behind those before it.
    fn fits<'t>(
        &'t self,
        message: &'t ThreadMessage,
        keys: &mut BTreeMap<AgentId, &'t ThreadMessage>,
    ) -> Result<(), ThreadError> {
        let label = || message.label.clone();
        let earlier = *keys.entry(message.sender_id).or_insert(message);
        if earlier.signing_fingerprint != message.signing_fingerprint {
            return Err(ThreadError::OtherKeys { label: label(), earlier: earlier.label.clone() });
        }
        let Some(parent) = message.parent.and_then(|parent| self.by_hash.get(&parent)) else {
            // It is the beginning: nothing before it can have been handed over.
            return match message.message_type {
                MessageType::HandoffApproval => Err(ThreadError::Handoff { label: label() }),
                _ => Ok(()),
            };
        };
        if ![parent.sender_id, parent.recipient_id].contains(&message.sender_id) {
            return Err(ThreadError::Stranger { label: label() });
        }
        if message.message_type == MessageType::HandoffApproval {
            let mut before = Some(parent);
            let asked = loop {
                match before {
                    Some(request)
                        if request.message_type == MessageType::HandoffRequest
                            && request.handoff == message.handoff =>
                    {
                        break Some(request);
                    }
                    Some(other) => before = other.parent.and_then(|parent| self.by_hash.get(&parent)),
                    None => break None,
                }
            };
            if asked.is_none_or(|request| request.recipient_id != message.sender_id) {
                return Err(ThreadError::Handoff { label: label() });
            }
        }
        Ok(())
    }
}

/// SHA-256 of the envelope in a proof that holds.
fn envelope_hash(proof: &[u8]) -> Hash {
    let mut aligned = AlignedVec::<8>::new();
    aligned.extend_from_slice(proof);
    let view = ProofView::parse(&aligned).expect("it was verified");
    sha256(&[view.envelope.as_bytes()])
}

#[cfg(test)]
impl Thread {
    /// Fills it up to so many with messages that nobody signed: signing that many takes too long.
    pub(super) fn fill_for_a_test(&mut self, count: usize) {
        let one = self.by_hash.values().next().expect("there is one").clone();
        for number in 0u64.. {
            if self.by_hash.len() >= count {
                break;
            }
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            self.by_hash.insert(hash, ThreadMessage { hash, ..one.clone() });
        }
    }
}
