//! The three stations of a message: its sender, the node that admits it, its recipient. Each does what the path does there,
//! with the same functions, on batches of 1 KiB messages of one session.

use std::hint::black_box;

use bytes::Bytes;
use creto_crypto_accel::merkle::{PathVerifier, Tree, leaf_hash, leaf_hashes, root_from_path};
use creto_crypto_accel::seal::message_key;
use creto_crypto_accel::session::{Peers, ReceiveChain, SendChain};
use creto_crypto_accel::verify::{Item, RootCache, VerifyingKeys};
use creto_envelope::batch::{Statement, encode_signed_batch};
use creto_envelope::deliver::{Deliver, DeliverEncoder, MessageToDeliver};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::limits::WRAPPED_KEY_BYTES;
use creto_envelope::{BatchHeader, EnvelopeHeader, EnvelopeView, FrameType, InSession, KeyId, MessageId, Suite};
use creto_sim::agents::{SimAgent, snapshot};

use super::median::CpuTime;
use super::{Effort, PAYLOAD_BYTES};
use crate::{InstantShard, NOW, SUBMIT, aligned};

/// Messages after which a sender opens the next session, unless it is told otherwise.
const SESSION_RENEWAL_MESSAGES: u64 = 1_000;
/// Batches that a node admits in one sample, and that a recipient opens.
const SAMPLE_BATCHES: usize = 15;

/// A sender with all the memory that it needs: what is measured is work, not growth.
pub struct Sender<'a> {
    from: &'a SimAgent,
    to: &'a SimAgent,
    peers: Peers,
    chain: SendChain,
    wrapped_key: [u8; WRAPPED_KEY_BYTES],
    renewal_messages: u64,
    payload: Vec<u8>,
    salts: Vec<[u8; 16]>,
    randoms: Vec<[u8; 10]>,
    envelopes: Vec<Vec<u8>>,
    leaves: Vec<[u8; 32]>,
    tree: Tree,
    frame: Vec<u8>,
    sequence: u64,
}

impl<'a> Sender<'a> {
    /// A sender with a fresh session, which it renews every 1,000 messages.
    #[must_use]
    pub fn new(from: &'a SimAgent, to: &'a SimAgent) -> Self {
        Self::with_renewal(from, to, SESSION_RENEWAL_MESSAGES)
    }

    fn with_renewal(from: &'a SimAgent, to: &'a SimAgent, renewal_messages: u64) -> Self {
        let peers = Peers { sender: from.id.0, recipient: to.id.0, key_id: to.recipient_key().key_id() };
        let (chain, wrapped_key) = SendChain::open(to.recipient_key(), &peers);
        Self {
            from,
            to,
            peers,
            chain,
            wrapped_key,
            renewal_messages,
            payload: vec![0x5a; PAYLOAD_BYTES],
            salts: Vec::new(),
            randoms: Vec::new(),
            envelopes: Vec::new(),
            leaves: Vec::new(),
            tree: Tree::new(),
            frame: Vec::new(),
            sequence: 0,
        }
    }

    /// The SignedBatch frame of the next `messages` messages of the session.
    ///
    /// # Panics
    /// Without randomness, or above the limits of a batch.
    pub fn batch(&mut self, messages: usize) -> &[u8] {
        self.prepare(messages);
        for index in 0..messages {
            if self.chain.counter() == self.renewal_messages {
                (self.chain, self.wrapped_key) = SendChain::open(self.to.recipient_key(), &self.peers);
            }
            let (counter, key) = self.chain.next().expect("a session is renewed before it is full");
            let position = InSession { session_id: self.chain.session_id(), counter, with_wrapped_key: counter == 0 };
            let header = EnvelopeHeader::session(
                self.from.id,
                self.to.id,
                KeyId(self.peers.key_id),
                MessageId::from_parts(NOW.unix_ms, self.randoms[index]),
                NOW.unix_ms,
                self.payload.len(),
                &position,
            );
            let header = header.expect("a payload of 1 KiB is within the limits");
            let header_bytes = header.to_bytes();
            let envelope = &mut self.envelopes[index];
            envelope.clear();
            envelope.extend_from_slice(&header_bytes);
            if position.with_wrapped_key {
                envelope.extend_from_slice(&self.wrapped_key);
            }
            key.seal_append(&header.nonce, &header_bytes, &self.payload, envelope);
        }
        self.sign_and_frame();
        &self.frame
    }

    /// The frame of one message of the sealed suite, alone in its batch.
    ///
    /// # Panics
    /// As [`Sender::batch`].
    pub fn single(&mut self) -> &[u8] {
        self.prepare(1);
        let header = EnvelopeHeader::sealed(
            self.from.id,
            self.to.id,
            KeyId(self.peers.key_id),
            MessageId::from_parts(NOW.unix_ms, self.randoms[0]),
            NOW.unix_ms,
            self.payload.len(),
        );
        let header = header.expect("a payload of 1 KiB is within the limits");
        let header_bytes = header.to_bytes();
        let (wrapped_key, secret) = self.to.recipient_key().encapsulate();
        let envelope = &mut self.envelopes[0];
        envelope.clear();
        envelope.extend_from_slice(&header_bytes);
        envelope.extend_from_slice(&wrapped_key);
        message_key(&secret, &header_bytes).seal_append(&header.nonce, &header_bytes, &self.payload, envelope);
        self.sign_and_frame();
        &self.frame
    }

    /// Memory, salts and message ids for this many messages.
    fn prepare(&mut self, messages: usize) {
        self.salts.resize(messages, [0; 16]);
        self.randoms.resize(messages, [0; 10]);
        if self.envelopes.len() < messages {
            self.envelopes.resize_with(messages, Vec::new);
        }
        for bytes in [self.salts.as_flattened_mut(), self.randoms.as_flattened_mut()] {
            getrandom::fill(bytes).expect("the system gives randomness");
        }
    }

    fn sign_and_frame(&mut self) -> BatchHeader {
        self.leaves.clear();
        // There are as many salts as messages; of the envelopes some may be left over from a larger batch.
        leaf_hashes(self.salts.iter().zip(self.envelopes.iter().map(Vec::as_slice)), &mut self.leaves);
        self.tree.rebuild(&self.leaves);
        let statement = Statement {
            sender: self.from.id,
            key_record_version: 1,
            tree_size: self.tree.size(),
            root: self.tree.root(),
            signed_at_ms: NOW.unix_ms,
        };
        let signature = self.from.signing().sign(&statement.to_bytes());
        let header = BatchHeader::new(&statement, &signature.ed25519, &signature.ml_dsa_65);
        self.frame.clear();
        self.sequence += 1;
        let envelopes = self.envelopes[..self.salts.len()].iter().map(Vec::as_slice);
        let entries = self.salts.iter().zip(envelopes);
        encode_signed_batch(&mut self.frame, self.sequence, &header, entries).expect("a batch within the limits");
        header
    }

    /// Body of the Deliver frame in which the last batch would come to one recipient.
    fn delivery(&mut self) -> Bytes {
        let header = self.sign_and_frame();
        let mut frame = Vec::new();
        let mut encoder = DeliverEncoder::begin(&mut frame, Some(&header.to_bytes()));
        let mut path = Vec::new();
        for (index, (salt, envelope)) in (0u32..).zip(self.salts.iter().zip(&self.envelopes)) {
            self.tree.path(index, &mut path);
            encoder.push(&MessageToDeliver {
                mailbox_sequence: u64::from(index),
                leaf_index: index,
                attempt: 0,
                salt,
                path: &path,
                envelope,
            });
        }
        encoder.finish();
        aligned(&frame[FRAME_HEADER_BYTES..])
    }
}

/// A shard in memory, and batches for it.
pub struct Admission<'a> {
    agents: [&'a SimAgent; 2],
    bodies: Vec<Bytes>,
    batch_messages: usize,
}

impl<'a> Admission<'a> {
    /// Batches of this many messages.
    #[must_use]
    pub fn new(from: &'a SimAgent, to: &'a SimAgent, batch_messages: usize) -> Self {
        let mut sender = Sender::new(from, to);
        let body = |_| aligned(&sender.batch(batch_messages)[FRAME_HEADER_BYTES..]);
        Self { agents: [from, to], bodies: (0..SAMPLE_BATCHES).map(body).collect(), batch_messages }
    }

    /// Lets a fresh shard take every batch, each inside of `around`, and gives what that gives.
    pub fn each_batch<T>(&self, mut around: impl FnMut(&mut dyn FnMut()) -> T) -> Vec<T> {
        let mut shard = InstantShard::new(&self.agents);
        let connection = shard.connect(1, self.agents[0]);
        let take = |body: &Bytes| {
            around(&mut || {
                shard.frame(connection, SUBMIT, FrameType::SignedBatch, body.clone());
                shard.turns();
            })
        };
        self.bodies.iter().map(take).collect()
    }

    /// Messages that a shard takes per second: decoded, verified, authorized. Each batch is verified once: a verdict that is
    /// remembered would cost nothing.
    ///
    /// # Panics
    /// Never: every message is admitted.
    #[must_use]
    pub fn messages_per_s(&self, effort: Effort) -> f64 {
        let [from, _] = self.agents;
        let sample = || {
            let mut admission = creto_shard::admission::Admission::new(snapshot(self.agents), from.id);
            let begun = CpuTime::now();
            let admit = |body: &Bytes| admission.authorize(NOW, body.clone());
            let admitted: usize = self.bodies.iter().map(admit).sum();
            let took = begun.elapsed().as_secs_f64();
            assert_eq!(admitted, self.bodies.len() * self.batch_messages, "every message is admitted");
            took
        };
        sample_rate(effort, self.bodies.len() * self.batch_messages, sample)
    }
}

/// A recipient, and what is pushed to it.
pub struct Recipient<'a> {
    to: &'a SimAgent,
    peers: Peers,
    wrapped_key: [u8; WRAPPED_KEY_BYTES],
    session_id: [u8; 16],
    keys: VerifyingKeys,
    deliveries: Vec<Bytes>,
    batch_messages: usize,
}

impl<'a> Recipient<'a> {
    /// Deliveries of this many messages each, all of one session.
    ///
    /// # Panics
    /// Never: the keys of an agent are good ones.
    #[must_use]
    pub fn new(from: &'a SimAgent, to: &'a SimAgent, batch_messages: usize) -> Self {
        let mut sender = Sender::with_renewal(from, to, u64::MAX);
        let delivery = |_| {
            sender.batch(batch_messages);
            sender.delivery()
        };
        let deliveries: Vec<_> = (0..SAMPLE_BATCHES).map(delivery).collect();
        let record = &from.record.record;
        let keys = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).expect("an agent's keys are good ones");
        let (peers, wrapped_key, session_id) = (sender.peers, sender.wrapped_key, sender.chain.session_id());
        Self { to, peers, wrapped_key, session_id, keys, deliveries, batch_messages }
    }

    /// Opens every delivery, each inside of `around`, and gives what that gives. Cutting the frame into pieces is outside.
    ///
    /// # Panics
    /// Never: everything is as it was made.
    pub fn each_delivery<T>(&self, mut around: impl FnMut(&mut dyn FnMut()) -> T) -> Vec<T> {
        let mut opening = self.opening();
        let open = |body: &Bytes| {
            let deliver = Deliver::parse(body).expect(HONEST);
            around(&mut || opening.open(self, body, &deliver))
        };
        self.deliveries.iter().map(open).collect()
    }

    /// Messages that one core takes in per second: frame parsed, root verified (from memory), leaf and path, key step,
    /// decrypted, settled.
    ///
    /// # Panics
    /// Never: everything is as it was made.
    #[must_use]
    pub fn messages_per_s(&self, effort: Effort) -> f64 {
        let mut opening = self.opening();
        let sample = || {
            opening.chain = self.chain();
            let begun = CpuTime::now();
            for body in &self.deliveries {
                opening.open(self, body, &Deliver::parse(body).expect(HONEST));
            }
            begun.elapsed().as_secs_f64()
        };
        sample_rate(effort, self.deliveries.len() * self.batch_messages, sample)
    }

    fn chain(&self) -> ReceiveChain {
        let chain = ReceiveChain::accept(self.to.recipient(), &self.peers, &self.session_id, &self.wrapped_key);
        chain.expect("the session was opened for this recipient")
    }

    fn opening(&self) -> Opening {
        Opening {
            chain: self.chain(),
            roots: RootCache::new(SAMPLE_BATCHES * 2),
            paths: PathVerifier::new(&[0; 32], 0),
            leaves: Vec::new(),
            plaintexts: Vec::new(),
        }
    }
}

/// What a recipient keeps from frame to frame.
struct Opening {
    chain: ReceiveChain,
    roots: RootCache,
    paths: PathVerifier,
    leaves: Vec<[u8; 32]>,
    /// A copy of the frame that becomes plaintext, message by message.
    plaintexts: Vec<u8>,
}

impl Opening {
    fn open(&mut self, recipient: &Recipient<'_>, body: &[u8], deliver: &Deliver<'_>) {
        let batch = deliver.batch_header.expect(HONEST);
        let statement = batch.statement().to_bytes();
        let (ed25519, ml_dsa_65) = (batch.ed25519(), batch.ml_dsa_65());
        let item = Item { keys: &recipient.keys, statement: &statement, ed25519, ml_dsa_65 };
        self.roots.verify(&item).expect(HONEST);
        self.paths.restart(batch.root(), batch.tree_size());
        self.leaves.clear();
        let salted = deliver.messages.iter().map(|span| (&span.salt, &body[span.envelope.clone()]));
        leaf_hashes(salted, &mut self.leaves);
        self.plaintexts.clear();
        self.plaintexts.extend_from_slice(body);
        for (span, leaf) in deliver.messages.iter().zip(&self.leaves) {
            let envelope = EnvelopeView::parse(&body[span.envelope.clone()]).expect(HONEST);
            self.paths.verify(*leaf, span.leaf_index, &span.path).expect(HONEST);
            assert_eq!((envelope.sender(), envelope.recipient()), (batch.sender(), recipient.to.id));
            assert_eq!((envelope.suite(), envelope.session_id()), (Suite::Session, recipient.session_id));
            let counter = envelope.counter();
            let sealed = &mut self.plaintexts[span.envelope.end - envelope.payload().len()..span.envelope.end];
            let opened = self.chain.open_in_place(counter, &envelope.header().nonce, envelope.header_bytes(), sealed);
            black_box(opened.expect(HONEST));
            self.chain.settle(counter);
        }
    }
}

/// Why nothing here fails.
const HONEST: &str = "what this bench made is as the format says";

/// Messages per second, from samples in seconds. Their number is that of the effort, after one to warm up.
fn sample_rate(effort: Effort, messages: usize, mut sample: impl FnMut() -> f64) -> f64 {
    sample();
    messages as f64 / effort.median_of(sample).max(1e-9)
}

/// A message of the sealed suite that was alone in its batch, as its recipient gets it.
pub struct Alone<'a> {
    to: &'a SimAgent,
    keys: VerifyingKeys,
    delivery: Bytes,
}

impl<'a> Alone<'a> {
    /// Such a message.
    ///
    /// # Panics
    /// Never: the keys of an agent are good ones.
    #[must_use]
    pub fn new(from: &'a SimAgent, to: &'a SimAgent) -> Self {
        let mut sender = Sender::new(from, to);
        sender.single();
        let record = &from.record.record;
        let keys = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).expect("an agent's keys are good ones");
        Self { to, keys, delivery: sender.delivery() }
    }

    /// Everything that its recipient does: both signatures, leaf, decapsulation, key, decryption.
    ///
    /// # Panics
    /// Never: it is as it was made.
    pub fn receive(&self) {
        let deliver = Deliver::parse(&self.delivery).expect(HONEST);
        let batch = deliver.batch_header.expect(HONEST);
        let statement = batch.statement().to_bytes();
        self.keys.verify(&statement, batch.ed25519(), batch.ml_dsa_65()).expect(HONEST);
        let span = &deliver.messages[0];
        let envelope = EnvelopeView::parse(&self.delivery[span.envelope.clone()]).expect(HONEST);
        let leaf = leaf_hash(&span.salt, envelope.as_bytes());
        assert_eq!(root_from_path(leaf, 0, 1, &span.path).as_ref(), Ok(batch.root()));
        let secret = self.to.recipient().decapsulate(envelope.wrapped_key().expect(HONEST)).expect(HONEST);
        let key = message_key(&secret, envelope.header_bytes());
        let plaintext = key.open(&envelope.header().nonce, envelope.header_bytes(), envelope.payload());
        black_box(plaintext.expect(HONEST));
    }
}
