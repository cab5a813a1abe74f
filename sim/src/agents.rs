//! Agents with real keys, and the real, signed batches that they send.

use std::sync::Arc;

use creto_crypto_accel::merkle::{Tree, TreeHash};
use creto_crypto_accel::seal::{RecipientKey, RecipientSecret, message_key};
use creto_crypto_accel::session::{
    CHANNEL_SECRET_BYTES, ChannelEnds, ChannelReceiveChain, ChannelSendChain, Peers, ReceiveChain, SendChain,
};
use creto_crypto_accel::sign::SigningKeys;
use creto_envelope::batch::{FN_DSA_512_SIGNATURE_BYTES, Statement, encode_signed_batch};
use creto_envelope::control::{Login, login_statement};
use creto_envelope::key_record::FN_DSA_512_PUBLIC_BYTES;
use creto_envelope::limits::WRAPPED_KEY_BYTES;
use creto_envelope::{
    AgentId, AgentName, AgentState, BatchHeader, ChannelId, EnvelopeHeader, EnvelopeView, InSession, KeyId, KeyRecord,
    MessageId, SignatureSuite, SignedKeyRecord, TreeDigest, TrustDomain,
};
use creto_policy::{Policy, Snapshot, SnapshotBuilder};

/// An agent with its private keys.
pub struct SimAgent {
    /// Its id.
    pub id: AgentId,
    /// Its key record, signed by itself.
    pub record: Arc<SignedKeyRecord>,
    signing: SigningKeys,
    recipient: RecipientSecret,
    recipient_key: RecipientKey,
    seeds: Seeds,
}

/// What the private keys of an agent follow from.
#[derive(Clone, Copy)]
pub struct Seeds {
    /// Of its Ed25519 key.
    pub ed25519: [u8; 32],
    /// Of its ML-DSA-65 key.
    pub ml_dsa_65: [u8; 32],
    /// Of its encryption key.
    pub x_wing: [u8; 32],
}

impl std::fmt::Debug for SimAgent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimAgent({})", self.record.record.name)
    }
}

impl SimAgent {
    /// The agent of this name; the same number gives the same keys.
    ///
    /// # Panics
    /// When the name is not one.
    #[must_use]
    pub fn new(name: &str, number: u8) -> Self {
        Self::with_keys(name, 1, number, number)
    }

    /// The same agent with the next version of its record: the same signing keys, `number` its name's as for
    /// [`SimAgent::new`], and other encryption keys that follow from `encryption`.
    #[must_use]
    pub fn with_next_key(&self, number: u8, encryption: u8) -> Self {
        Self::with_keys(self.record.record.name.as_str(), self.record.record.version + 1, number, encryption)
    }

    fn with_keys(name: &str, version: u32, number: u8, encryption: u8) -> Self {
        let seeds = Seeds { ed25519: [number; 32], ml_dsa_65: [number ^ 0x55; 32], x_wing: [encryption ^ 0xaa; 32] };
        let signing = SigningKeys::from_seeds(&seeds.ed25519, &seeds.ml_dsa_65);
        let recipient = RecipientSecret::from_seed(&seeds.x_wing);
        let public = recipient.public();
        let record = KeyRecord {
            version,
            state: AgentState::Active,
            valid_from_ms: 0,
            valid_until_ms: u64::MAX,
            ed25519: signing.public().ed25519,
            x25519: public.x25519,
            ml_dsa_65: Box::new(signing.public().ml_dsa_65),
            ml_kem_768: Box::new(public.ml_kem_768),
            name: AgentName::parse(name).expect("a simulated agent has a proper name"),
            trust_domain: TrustDomain::default(),
            fn_dsa_512: None,
            purpose: None,
        };
        let signature = signing.sign(&record.signed_bytes());
        let recipient_key = RecipientKey::parse(public).expect("a key just made is well formed");
        Self {
            id: record.agent_id(),
            record: Arc::new(SignedKeyRecord {
                record,
                ed25519: signature.ed25519,
                ml_dsa_65: Box::new(*signature.ml_dsa_65),
            }),
            signing,
            recipient,
            recipient_key,
            seeds,
        }
    }

    /// The seeds of its keys, for another implementation that is to be the same agent.
    #[must_use]
    pub fn seeds(&self) -> &Seeds {
        &self.seeds
    }

    /// Its private signing keys, for measuring.
    #[must_use]
    pub fn signing(&self) -> &SigningKeys {
        &self.signing
    }

    /// Its private encryption key, for measuring.
    #[must_use]
    pub fn recipient(&self) -> &RecipientSecret {
        &self.recipient
    }

    /// The key that others seal to, parsed.
    #[must_use]
    pub fn recipient_key(&self) -> &RecipientKey {
        &self.recipient_key
    }

    /// A login on the connection with this exporter value.
    #[must_use]
    pub fn login(&self, exporter: &[u8; 32]) -> Login {
        let key_record_version = self.record.record.version;
        let signature = self.signing.sign(&login_statement(exporter, &self.id, key_record_version));
        Login {
            agent: self.id,
            key_record_version,
            ed25519: signature.ed25519,
            ml_dsa_65: Box::new(*signature.ml_dsa_65),
        }
    }

    /// Seals `plaintext` for another agent.
    ///
    /// # Panics
    /// When the plaintext is above the limit.
    #[must_use]
    pub fn seal(&self, to: &SimAgent, message_id: MessageId, unix_ms: u64, plaintext: &[u8]) -> Vec<u8> {
        let key_id = to.record.record.key_id();
        let header = EnvelopeHeader::sealed(self.id, to.id, key_id, message_id, unix_ms, plaintext.len())
            .expect("a simulated payload is small");
        self.seal_under(to, &header, plaintext)
    }

    /// Seals `plaintext` for another agent under this header, which is one of the sealed suite for that length.
    #[must_use]
    pub fn seal_under(&self, to: &SimAgent, header: &EnvelopeHeader, plaintext: &[u8]) -> Vec<u8> {
        let header_bytes = header.to_bytes();
        let (wrapped_key, secret) = to.recipient_key.encapsulate();
        let mut out = header_bytes.to_vec();
        out.extend_from_slice(&wrapped_key);
        message_key(&secret, &header_bytes).seal_append(&header.nonce, &header_bytes, plaintext, &mut out);
        out
    }

    /// Opens an envelope that was sealed for this agent.
    ///
    /// # Panics
    /// When it was not, or was changed.
    #[must_use]
    pub fn open(&self, envelope: &EnvelopeView<'_>) -> Vec<u8> {
        let wrapped_key = envelope.wrapped_key().expect("a simulated message is of the sealed suite");
        let secret = self.recipient.decapsulate(wrapped_key).expect("sealed for this agent");
        message_key(&secret, envelope.header_bytes())
            .open(&envelope.header().nonce, envelope.header_bytes(), envelope.payload())
            .expect("not changed on the way")
    }

    /// Opens a session to another agent.
    #[must_use]
    pub fn open_session(&self, to: &SimAgent) -> SimSession {
        let peers = Peers { sender: self.id.0, recipient: to.id.0, key_id: to.record.record.key_id().0 };
        let (chain, wrapped_key) = SendChain::open(&to.recipient_key, &peers);
        SimSession { peers, chain, wrapped_key }
    }

    /// Begins to publish in a channel; the same secret gives the same session.
    #[must_use]
    pub fn publish_in(&self, channel: ChannelId, secret: [u8; CHANNEL_SECRET_BYTES]) -> SimPublisher {
        let ends = ChannelEnds { channel: channel.0, publisher: self.id.0 };
        SimPublisher { sender: self.id, channel, chain: ChannelSendChain::new(ends, &secret) }
    }

    /// The session that an envelope for this agent opens with its wrapped key.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn accept_session(&self, opener: &EnvelopeView<'_>) -> ReceiveChain {
        let peers = Peers { sender: opener.sender().0, recipient: self.id.0, key_id: opener.key_id().0 };
        let wrapped_key = opener.wrapped_key().expect("an opener carries the wrapped key");
        ReceiveChain::accept(&self.recipient, &peers, &opener.session_id(), wrapped_key).expect("sealed for this agent")
    }

    /// Signs a batch over these envelopes.
    ///
    /// # Panics
    /// With no envelope, or more than a batch holds.
    #[must_use]
    pub fn sign(&self, envelopes: &[Vec<u8>], signed_at_ms: u64) -> SimBatch {
        self.sign_over(TreeDigest::Sha256, None, envelopes, signed_at_ms)
    }

    /// The same agent, whose key record demands a third signature under this key.
    #[must_use]
    pub fn with_fn_dsa_512(mut self, public: &[u8; FN_DSA_512_PUBLIC_BYTES]) -> Self {
        let mut signed = SignedKeyRecord::clone(&self.record);
        signed.record.fn_dsa_512 = Some(Box::new(*public));
        let signature = self.signing.sign(&signed.record.signed_bytes());
        (signed.ed25519, signed.ml_dsa_65) = (signature.ed25519, signature.ml_dsa_65);
        self.record = Arc::new(signed);
        self
    }

    /// Signs a batch over a tree of this hash, with a third signature if something makes it.
    ///
    /// # Panics
    /// As [`SimAgent::sign`].
    #[must_use]
    pub fn sign_over(
        &self,
        digest: TreeDigest,
        third: Option<&ThirdSigner<'_>>,
        envelopes: &[Vec<u8>],
        signed_at_ms: u64,
    ) -> SimBatch {
        let hash = match digest {
            TreeDigest::Sha256 => TreeHash::Sha256,
            TreeDigest::Sha3_256 => TreeHash::Sha3_256,
        };
        let salts: Vec<[u8; 16]> = (0u128..).zip(envelopes).map(|(index, _)| index.to_le_bytes()).collect();
        let leaves: Vec<_> = salts.iter().zip(envelopes).map(|(salt, envelope)| hash.leaf(salt, envelope)).collect();
        let mut tree = Tree::new();
        hash.rebuild(&mut tree, &leaves);
        let statement = Statement {
            sender: self.id,
            key_record_version: self.record.record.version,
            tree_size: tree.size(),
            root: tree.root(),
            signed_at_ms,
        };
        let statement_bytes = statement.to_bytes_in(SignatureSuite::of(digest, third.is_some()));
        let signature = self.signing.sign(&statement_bytes);
        let third = third.map(|sign| sign(&statement_bytes));
        let header = BatchHeader::over(digest, &statement, &signature.ed25519, &signature.ml_dsa_65, third);
        SimBatch { header, salts, envelopes: envelopes.to_vec() }
    }
}

/// Makes an FN-DSA-512 signature over a statement.
pub type ThirdSigner<'s> = dyn Fn(&[u8]) -> Box<[u8; FN_DSA_512_SIGNATURE_BYTES]> + 's;

/// The sender's end of a session.
#[derive(Debug)]
pub struct SimSession {
    peers: Peers,
    chain: SendChain,
    wrapped_key: [u8; WRAPPED_KEY_BYTES],
}

impl SimSession {
    /// Seals the next message of the session.
    ///
    /// # Panics
    /// When the session is full or the plaintext above the limit.
    #[must_use]
    pub fn seal(&mut self, with_wrapped_key: bool, message_id: MessageId, unix_ms: u64, plaintext: &[u8]) -> Vec<u8> {
        let (counter, key) = self.chain.next().expect("a simulated session is short");
        let header = EnvelopeHeader::session(
            AgentId(self.peers.sender),
            AgentId(self.peers.recipient),
            KeyId(self.peers.key_id),
            message_id,
            unix_ms,
            plaintext.len(),
            &InSession { session_id: self.chain.session_id(), counter, with_wrapped_key },
        )
        .expect("a simulated payload is small");
        let header_bytes = header.to_bytes();
        let mut out = header_bytes.to_vec();
        if with_wrapped_key {
            out.extend_from_slice(&self.wrapped_key);
        }
        key.seal_append(&header.nonce, &header_bytes, plaintext, &mut out);
        out
    }
}

/// The publisher's end of a channel's session.
#[derive(Debug)]
pub struct SimPublisher {
    sender: AgentId,
    channel: ChannelId,
    chain: ChannelSendChain,
}

impl SimPublisher {
    /// Seals the next message of the session.
    ///
    /// # Panics
    /// When the session is full or the plaintext above the limit.
    #[must_use]
    pub fn seal(&mut self, message_id: MessageId, unix_ms: u64, plaintext: &[u8]) -> Vec<u8> {
        self.seal_for(message_id, unix_ms, 0, plaintext)
    }

    /// The same for a message that loses its meaning after so many seconds; 0 for never.
    ///
    /// # Panics
    /// As [`SimPublisher::seal`].
    #[must_use]
    pub fn seal_for(&mut self, message_id: MessageId, unix_ms: u64, ttl_s: u32, plaintext: &[u8]) -> Vec<u8> {
        let session_id = self.chain.session_id();
        let (counter, key) = self.chain.next().expect("a simulated session is short");
        let (sender, channel, bytes) = (self.sender, self.channel, plaintext.len());
        let header = EnvelopeHeader::published(sender, channel, message_id, unix_ms, bytes, session_id, counter);
        let header = EnvelopeHeader { ttl_s, ..header.expect("a simulated payload is small") };
        let header_bytes = header.to_bytes();
        let mut out = header_bytes.to_vec();
        key.seal_append(&header.nonce, &header_bytes, plaintext, &mut out);
        out
    }

    /// What a subscriber opens the messages from now on with.
    #[must_use]
    pub fn receiver(&self) -> ChannelReceiveChain {
        ChannelReceiveChain::new(self.chain.key())
    }
}

/// A signed batch, before it is framed.
#[derive(Clone, Debug)]
pub struct SimBatch {
    /// Its header; tests break it.
    pub header: BatchHeader,
    /// Salts of its leaves.
    pub salts: Vec<[u8; 16]>,
    /// Its envelopes; tests break them.
    pub envelopes: Vec<Vec<u8>>,
}

impl SimBatch {
    /// The body of a SignedBatch frame.
    ///
    /// # Panics
    /// When the batch is above a limit.
    #[must_use]
    pub fn body(&self, submit_sequence: u64) -> Vec<u8> {
        let mut frame = Vec::new();
        let entries = self.salts.iter().zip(self.envelopes.iter().map(Vec::as_slice));
        encode_signed_batch(&mut frame, submit_sequence, &self.header, entries).expect("a simulated batch is small");
        frame.split_off(creto_envelope::frame::FRAME_HEADER_BYTES)
    }
}

/// Agents and the default policy, as control would publish them.
///
/// # Panics
/// When two agents have one name.
#[must_use]
pub fn snapshot<'a>(agents: impl IntoIterator<Item = &'a SimAgent>) -> Arc<Snapshot> {
    let mut builder = SnapshotBuilder::with_policy(Policy::SameOrganization);
    for agent in agents {
        builder
            .insert(AgentState::Active, vec![Arc::clone(&agent.record)])
            .expect("simulated agents have one proper record each");
    }
    Arc::new(builder.build(1))
}
