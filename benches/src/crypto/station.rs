//! The three stations of a message: its sender, the node that admits it, its recipient, on batches of 1 KiB messages. Sender
//! and recipient are the ends of the SDK, the node is a shard: what is measured is what runs.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use creto_agent::raw::{ReceivingEnd, SendingEnd};
use creto_agent::{AgentKeys, BatchOptions, SessionPolicy};
use creto_crypto_accel::merkle::{Tree, leaf_hash, leaf_hashes, root_from_path};
use creto_crypto_accel::seal::message_key;
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::batch::BatchView;
use creto_envelope::deliver::{Deliver, DeliverEncoder, MessageToDeliver};
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::{EnvelopeView, FrameType};
use creto_sim::agents::{Seeds, SimAgent, snapshot};

use super::median::CpuTime;
use super::{Effort, PAYLOAD_BYTES};
use crate::{InstantShard, NOW, SUBMIT, aligned};

/// Batches that a node admits in one sample, and that a recipient opens.
const SAMPLE_BATCHES: usize = 15;
/// What is sent.
static PAYLOAD: [u8; PAYLOAD_BYTES] = [0x5a; PAYLOAD_BYTES];

/// The keys of an agent, as its SDK has them.
fn keys(agent: &SimAgent) -> Arc<AgentKeys> {
    let record = &agent.record.record;
    let Seeds { ed25519, ml_dsa_65, x_wing } = agent.seeds();
    let (name, trust_domain) = (record.name.clone(), record.trust_domain.clone());
    Arc::new(AgentKeys::from_seeds(name, trust_domain, record.version, ed25519, ml_dsa_65, x_wing))
}

/// The sender's end of the SDK. What it sends is acknowledged when the next batch is made.
pub struct Sender {
    in_sessions: SendingEnd,
    sealed: SendingEnd,
}

impl Sender {
    /// A sender that renews its session as the SDK does.
    ///
    /// # Panics
    /// Never: the record of an agent is a good one.
    #[must_use]
    pub fn new(from: &SimAgent, to: &SimAgent) -> Self {
        let keys = keys(from);
        // As many messages as are asked for, whatever their size.
        let batches = BatchOptions { messages: usize::MAX, bytes: usize::MAX, ..BatchOptions::default() };
        let end = |sessions| SendingEnd::new(Arc::clone(&keys), &to.record, batches, sessions).expect(HONEST);
        Self { in_sessions: end(SessionPolicy::default()), sealed: end(SessionPolicy::Off) }
    }

    /// The SignedBatch frame of the next `messages` messages: taken from the application, sealed, signed, framed.
    ///
    /// # Panics
    /// Without randomness, or above the limits of a batch.
    pub fn batch(&mut self, messages: usize) -> Vec<u8> {
        self.submit(messages);
        self.frame()
    }

    /// Takes messages from the application.
    ///
    /// # Panics
    /// Without randomness.
    pub fn submit(&mut self, messages: usize) {
        for _ in 0..messages {
            self.in_sessions.submit(Bytes::from_static(&PAYLOAD), NOW.unix_ms).expect(HONEST);
        }
    }

    /// The SignedBatch frame of what was taken.
    ///
    /// # Panics
    /// If nothing was, or more than a batch holds.
    pub fn frame(&mut self) -> Vec<u8> {
        self.in_sessions.next_frame(NOW.unix_ms).expect("what was submitted is a batch")
    }

    /// The frame of one message of the sealed suite, alone in its batch.
    ///
    /// # Panics
    /// Without randomness.
    pub fn single(&mut self) -> Vec<u8> {
        self.sealed.submit(Bytes::from_static(&PAYLOAD), NOW.unix_ms).expect(HONEST);
        self.sealed.next_frame(NOW.unix_ms).expect("one message is a batch")
    }
}

/// Body of the Deliver frame in which the messages of a SignedBatch frame would come to their recipient.
fn delivery(frame: &[u8]) -> Bytes {
    let body = aligned(&frame[FRAME_HEADER_BYTES..]);
    let batch_bytes = &body[size_of::<u64>()..];
    let mut entries = Vec::new();
    let batch = BatchView::parse(batch_bytes, &mut entries).expect(HONEST);
    let mut leaves = Vec::new();
    leaf_hashes(entries.iter().map(|entry| (&entry.salt, &batch_bytes[entry.envelope.clone()])), &mut leaves);
    let mut tree = Tree::new();
    tree.rebuild(&leaves);
    let (mut frame, mut path) = (Vec::new(), Vec::new());
    let mut encoder = DeliverEncoder::begin(&mut frame, Some(batch.header.as_bytes()));
    for (index, entry) in (0u32..).zip(&entries) {
        tree.path(index, &mut path);
        encoder.push(&MessageToDeliver {
            mailbox_sequence: u64::from(index),
            leaf_index: index,
            attempt: 0,
            salt: &entry.salt,
            path: &path,
            envelope: &batch_bytes[entry.envelope.clone()],
        });
    }
    encoder.finish();
    aligned(&frame[FRAME_HEADER_BYTES..])
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
            let mut admission = creto_shard::admission::Admission::new(snapshot(self.agents), from.record.clone());
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

/// The recipient's end of the SDK, and what is pushed to it.
pub struct Recipient {
    end: ReceivingEnd,
    deliveries: Vec<Bytes>,
    batch_messages: usize,
}

impl Recipient {
    /// Deliveries of this many messages each, in the sessions that a sender makes.
    ///
    /// # Panics
    /// Never: the keys of an agent are good ones.
    #[must_use]
    pub fn new(from: &SimAgent, to: &SimAgent, batch_messages: usize) -> Self {
        let mut sender = Sender::new(from, to);
        let deliveries = (0..SAMPLE_BATCHES).map(|_| delivery(&sender.batch(batch_messages))).collect();
        let end = ReceivingEnd::new(keys(to), &from.record).expect(HONEST);
        Self { end, deliveries, batch_messages }
    }

    /// Opens every delivery, each inside of `around`, and gives what that gives.
    ///
    /// # Panics
    /// Never: everything is as it was made.
    pub fn each_delivery<T>(&mut self, mut around: impl FnMut(&mut dyn FnMut()) -> T) -> Vec<T> {
        let Self { end, deliveries, batch_messages } = self;
        let open = |body: &Bytes| around(&mut || receive(end, body, *batch_messages));
        deliveries.iter().map(open).collect()
    }

    /// Messages that one core takes in per second: frame parsed, root verified (from memory), leaf and path, key step,
    /// decrypted, settled.
    ///
    /// # Panics
    /// Never: everything is as it was made.
    #[must_use]
    pub fn messages_per_s(&mut self, effort: Effort) -> f64 {
        let Self { end, deliveries, batch_messages } = self;
        let sample = || {
            end.forget_sessions();
            let begun = CpuTime::now();
            deliveries.iter().for_each(|body| receive(end, body, *batch_messages));
            begun.elapsed().as_secs_f64()
        };
        sample_rate(effort, deliveries.len() * *batch_messages, sample)
    }
}

fn receive(end: &mut ReceivingEnd, body: &Bytes, messages: usize) {
    let mut payloads = Vec::with_capacity(messages);
    end.open(body, &mut payloads).expect(HONEST);
    assert_eq!(black_box(payloads).len(), messages, "every message opens");
    end.settle();
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
        let record = &from.record.record;
        let keys = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65).expect("an agent's keys are good ones");
        Self { to, keys, delivery: delivery(&Sender::new(from, to).single()) }
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
        assert_eq!(root_from_path(leaf, 0, 1, span.path(&self.delivery)).as_ref(), Ok(batch.root()));
        let secret = self.to.recipient().decapsulate(envelope.wrapped_key().expect(HONEST)).expect(HONEST);
        let key = message_key(&secret, envelope.header_bytes());
        let plaintext = key.open(&envelope.header().nonce, envelope.header_bytes(), envelope.payload());
        black_box(plaintext.expect(HONEST));
    }
}
