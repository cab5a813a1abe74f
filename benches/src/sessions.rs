//! Envelopes as the SDK seals them, made before the clock starts: what is measured afterwards is the node's work.

use creto_agent::AgentKeys;
use creto_agent::raw::signed_batch_frame;
use creto_crypto_accel::keys::RecipientPublic;
use creto_crypto_accel::seal::RecipientKey;
use creto_crypto_accel::session::{Peers, SendChain};
use creto_envelope::envelope::{InSession, nonce};
use creto_envelope::limits::WRAPPED_KEY_BYTES;
use creto_envelope::{AgentId, EnvelopeHeader, KeyId, MessageId};

use crate::node::now_ms;

/// Sessions from one agent to another, renewed every thousand messages, of which the first carries the wrapped key.
#[derive(Debug)]
pub struct Sessions {
    peers: Peers,
    key: RecipientKey,
    current: Option<(SendChain, Box<[u8; WRAPPED_KEY_BYTES]>)>,
    messages: u128,
    batches: u64,
}

impl Sessions {
    const MESSAGES: u64 = 1_000;

    /// The first is opened with the first message.
    ///
    /// # Panics
    /// When the recipient's own key does not hold.
    #[must_use]
    pub fn between(sender: &AgentKeys, recipient: &AgentKeys) -> Self {
        let record = recipient.signed_record(1, 0, u64::MAX).record;
        let public = RecipientPublic { ml_kem_768: *record.ml_kem_768, x25519: record.x25519 };
        let peers = Peers { sender: sender.id().0, recipient: recipient.id().0, key_id: recipient.key_id().0 };
        let key = RecipientKey::parse(&public).expect("it was made by the SDK");
        Self { peers, key, current: None, messages: 0, batches: 0 }
    }

    /// The next message.
    ///
    /// # Panics
    /// When the payload is above the limit.
    pub fn envelope(&mut self, payload: &[u8]) -> Vec<u8> {
        if self.current.as_ref().is_none_or(|(chain, _)| chain.counter() == Self::MESSAGES) {
            let (chain, wrapped_key) = SendChain::open(&self.key, &self.peers);
            self.current = Some((chain, Box::new(wrapped_key)));
        }
        let (chain, wrapped_key) = self.current.as_mut().expect("it was opened above");
        let (counter, key) = chain.next().expect("it is renewed before it is full");
        let position = InSession { session_id: chain.session_id(), counter, with_wrapped_key: counter == 0 };
        self.messages += 1;
        let random = self.messages.to_be_bytes()[6..].try_into().expect("ten of sixteen bytes");
        let now_ms = now_ms();
        let header = EnvelopeHeader::session(
            AgentId(self.peers.sender),
            AgentId(self.peers.recipient),
            KeyId(self.peers.key_id),
            MessageId::from_parts(now_ms, random),
            now_ms,
            payload.len(),
            &position,
        );
        let header = header.expect("the payload is within the limit").to_bytes();
        let mut envelope = header.to_vec();
        if counter == 0 {
            envelope.extend_from_slice(&wrapped_key[..]);
        }
        key.seal_append(&nonce(counter), &header, payload, &mut envelope);
        envelope
    }

    /// The SignedBatch frame of the next messages; frames are to be sent on one stream, in their order.
    ///
    /// # Panics
    /// When they are above the limits of a batch.
    pub fn batch(&mut self, sender: &AgentKeys, messages: usize, payload: &[u8]) -> Vec<u8> {
        let envelopes: Vec<_> = (0..messages).map(|_| self.envelope(payload)).collect();
        self.batches += 1;
        signed_batch_frame(sender, self.batches, &envelopes).expect("a batch within the limits")
    }
}
