//! The messages of every run, sealed and signed once. Signing is what costs; a run only chooses what is sent when.
//!
//! Sealing and signing draw randomness from the system, so the bytes differ from process to process. Sizes, ids, senders
//! and recipients do not, and nothing in a run's schedule depends on anything else.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use creto_crypto_accel::merkle::{leaf_hash, root_from_path};
use creto_envelope::control::Login;
use creto_envelope::deliver::DeliveredSpan;
use creto_envelope::envelope::FLAG_NOTICE_WANTED;
use creto_envelope::{AgentId, BatchHeaderView, ChannelId, EnvelopeHeader, MessageId, Priority, SignedKeyRecord};
use creto_policy::Snapshot;
use creto_shard::Placement;
use rkyv::util::AlignedVec;

use crate::agents::{SimAgent, SimPublisher, snapshot};
use crate::channels::{self, CHANNEL_AGENTS, CHANNELS, MESSAGES_PER_PUBLISHER, PUBLISHERS};
use crate::clock::START_MS;
use crate::patterns::messages::{self as pattern_messages, MESSAGES_PER_SENDER, PATTERN_MESSAGES};
use crate::patterns::{self, CALLER, STRANGER};
use crate::random::mix;

/// Agents of a run that write to each other. All send and all receive. Behind them stand those of channels and those of the patterns.
pub(crate) const AGENTS: usize = 3;
/// Messages that each agent may send in a run.
pub(crate) const MESSAGES_PER_AGENT: usize = 40;
/// The first message of the patterns.
pub(crate) const FIRST_OF_PATTERNS: MessageNumber = AGENTS * MESSAGES_PER_AGENT;
/// The first message that is published in a channel: those before it go to agents.
pub(crate) const FIRST_PUBLISHED: MessageNumber = FIRST_OF_PATTERNS + PATTERN_MESSAGES;
/// All messages.
pub(crate) const MESSAGES: usize = FIRST_PUBLISHED + PUBLISHERS * MESSAGES_PER_PUBLISHER;
/// Sizes of the batches that are signed ahead, from every first message on.
const WINDOW_SIZES: [usize; 4] = [1, 2, 4, 8];
/// Connections of one agent share so many exporter values, so that logins can be signed ahead.
const EXPORTERS: u8 = 4;

/// Messages, batches and logins, ready to be sent.
#[derive(Debug)]
pub struct Pool {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) agents: Vec<SimAgent>,
    pub(crate) channels: [ChannelId; CHANNELS],
    pub(crate) messages: Vec<PoolMessage>,
    batches: Vec<PoolBatch>,
    batch_by_root: BTreeMap<[u8; 32], usize>,
    logins: Vec<Login>,
}

/// Names a message of the pool: its place.
pub(crate) type MessageNumber = usize;

/// A sealed message.
#[derive(Debug)]
pub(crate) struct PoolMessage {
    pub(crate) sender: usize,
    pub(crate) to: Recipient,
    /// Its place among its sender's messages.
    pub(crate) order: usize,
    pub(crate) priority: Priority,
    /// It loses its meaning after a second.
    pub(crate) expires: bool,
    /// Its sender asks to be told if it does.
    pub(crate) wants_notice: bool,
    pub(crate) envelope: Vec<u8>,
}

/// Whom a message is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Recipient {
    Agent(usize),
    Channel(usize),
}

/// A signed batch of messages that follow each other.
#[derive(Debug)]
struct PoolBatch {
    window: Window,
    /// The body of its SignedBatch frame; the first eight bytes are the submit sequence.
    body: Vec<u8>,
}

/// Messages of one sender that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Window {
    pub(crate) sender: usize,
    pub(crate) first: usize,
    pub(crate) count: usize,
}

impl Window {
    /// The messages, in order.
    pub(crate) fn messages(self) -> impl DoubleEndedIterator<Item = MessageNumber> + ExactSizeIterator {
        let first = first_of(self.sender) + self.first;
        first..first + self.count
    }
}

/// The first message of an agent.
pub(crate) fn first_of(sender: usize) -> MessageNumber {
    match sender.checked_sub(AGENTS) {
        None => sender * MESSAGES_PER_AGENT,
        Some(_) if patterns::number_of(sender).is_some() => pattern_messages::first_of(sender),
        Some(publisher) => FIRST_PUBLISHED + publisher * MESSAGES_PER_PUBLISHER,
    }
}

/// How many messages an agent may send in a run.
fn count_of(sender: usize) -> usize {
    if sender < AGENTS { MESSAGES_PER_AGENT } else { MESSAGES_PER_PUBLISHER }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Pool {
    /// Seals and signs everything: about a quarter of a second.
    ///
    /// # Panics
    /// Never: names and sizes are fixed.
    #[must_use]
    pub fn new() -> Self {
        let names = (0..AGENTS + CHANNEL_AGENTS).map(|number| format!("acme/agent-{number}"));
        let names = names.chain(patterns::NAMES.map(str::to_owned));
        let agents: Vec<_> = (1..).zip(names).map(|(number, name)| SimAgent::new(&name, number)).collect();
        let channels: [ChannelId; CHANNELS] = std::array::from_fn(channels::id);
        let mut messages = Vec::new();
        for sender in 0..AGENTS {
            for order in 0..MESSAGES_PER_AGENT {
                messages.push(message(&agents, sender, order));
            }
        }
        messages.extend(pattern_messages::seal_all(&agents));
        for (sender, agent) in agents.iter().enumerate().skip(AGENTS).take(PUBLISHERS) {
            let secret = |channel| [u8::try_from(sender * CHANNELS + channel).expect("a handful"); 32];
            let mut publishers: [SimPublisher; CHANNELS] =
                std::array::from_fn(|channel| agent.publish_in(channels[channel], secret(channel)));
            messages.extend((0..MESSAGES_PER_PUBLISHER).map(|order| published(&mut publishers, sender, order)));
        }
        let mut pool = Self {
            snapshot: snapshot(&agents),
            logins: agents.iter().flat_map(|agent| (0..EXPORTERS).map(|n| agent.login(&exporter(n)))).collect(),
            agents,
            channels,
            messages,
            batches: Vec::new(),
            batch_by_root: BTreeMap::new(),
        };
        for sender in 0..AGENTS + PUBLISHERS {
            for first in 0..count_of(sender) {
                for count in WINDOW_SIZES.into_iter().filter(|count| first + count <= count_of(sender)) {
                    pool.sign(Window { sender, first, count });
                }
            }
        }
        for sender in CALLER..STRANGER {
            for first in 0..MESSAGES_PER_SENDER {
                let count_max = if pattern_messages::is_pair(first_of(sender) + first) { 2 } else { 1 };
                (1..=count_max).for_each(|count| pool.sign(Window { sender, first, count }));
            }
        }
        pool
    }

    fn sign(&mut self, window: Window) {
        let envelopes: Vec<_> = window.messages().map(|number| self.messages[number].envelope.clone()).collect();
        let batch = self.agents[window.sender].sign(&envelopes, START_MS);
        self.batch_by_root.insert(batch.header.root, self.batches.len());
        self.batches.push(PoolBatch { window, body: batch.body(0) });
    }

    /// Sizes of the windows that can start here.
    pub(crate) fn window_sizes(first: usize, end: usize) -> impl DoubleEndedIterator<Item = usize> {
        WINDOW_SIZES.into_iter().filter(move |size| first + size <= end)
    }

    /// The body of a SignedBatch frame.
    pub(crate) fn batch_body(&self, window: Window, submit_sequence: u64) -> AlignedVec<16> {
        let batch = self.batches.iter().find(|batch| batch.window == window);
        let mut body = AlignedVec::new();
        body.extend_from_slice(&batch.expect("windows of these sizes are signed").body);
        body[..8].copy_from_slice(&submit_sequence.to_le_bytes());
        body
    }

    /// The key record of an agent, as control has it.
    pub(crate) fn key_record(&self, agent: &AgentId, version: u32) -> Arc<SignedKeyRecord> {
        let is_its = |known: &&SimAgent| known.id == *agent && known.record.record.version == version;
        let known = self.agents.iter().find(is_its).expect("a shard asks for what the snapshot shows");
        Arc::clone(&known.record)
    }

    /// One of the exporter values that logins are signed for, and the login.
    pub(crate) fn login(&self, agent: usize, choice: u64) -> ([u8; 32], &Login) {
        let number = u8::try_from(choice % u64::from(EXPORTERS)).expect("a remainder of a byte");
        (exporter(number), &self.logins[agent * usize::from(EXPORTERS) + usize::from(number)])
    }

    /// Which agent has this id.
    pub(crate) fn agent_of(&self, id: &[u8; 16]) -> Option<usize> {
        self.agents.iter().position(|agent| agent.id.0 == *id)
    }

    /// Which channel has this id.
    pub(crate) fn channel_of(&self, id: &[u8; 16]) -> Option<usize> {
        self.channels.iter().position(|channel| channel.0 == *id)
    }

    /// The shard that owns what a message is for.
    pub(crate) fn owner(&self, to: Recipient, shard_count: usize) -> usize {
        let placement = Placement::new(u16::try_from(shard_count).expect("a handful of shards"));
        let owner = match to {
            Recipient::Agent(agent) => placement.owner(&self.agents[agent].id),
            Recipient::Channel(channel) => placement.channel_owner(&self.channels[channel]),
        };
        usize::from(owner.0)
    }

    /// Which message has this id.
    pub(crate) fn message_of(&self, id: &[u8; 16]) -> Option<MessageNumber> {
        let number = usize::from(u16::from_be_bytes([id[14], id[15]]));
        (number < self.messages.len() && message_id(number).0 == *id).then_some(number)
    }

    /// Whether what was delivered in this frame is this message, and is proven by the batch header it came with.
    pub(crate) fn proves(&self, number: MessageNumber, header: &[u8], body: &[u8], span: &DeliveredSpan) -> bool {
        let Ok(header) = BatchHeaderView::parse(header) else { return false };
        let Some(&batch) = self.batch_by_root.get(header.root()) else { return false };
        let batch = &self.batches[batch];
        let envelope = &body[span.envelope.clone()];
        let leaf = leaf_hash(&span.salt, envelope);
        let root = root_from_path(leaf, span.leaf_index, header.tree_size(), span.path(body));
        header.as_bytes() == &batch.body[8..8 + header.as_bytes().len()]
            && root.as_ref().ok() == Some(header.root())
            && self.messages[number].envelope == envelope
    }
}

/// The id of a message: its number is in it, and a time that grows with its order.
pub(crate) fn message_id(number: MessageNumber) -> MessageId {
    let order = match (number.checked_sub(FIRST_PUBLISHED), number.checked_sub(FIRST_OF_PATTERNS)) {
        (Some(published), _) => published % MESSAGES_PER_PUBLISHER,
        (None, Some(of_patterns)) => of_patterns % MESSAGES_PER_SENDER,
        (None, None) => number % MESSAGES_PER_AGENT,
    };
    let time_ms = START_MS + order as u64;
    if pattern_messages::is_signal(number) {
        return pattern_messages::signal_id(number, time_ms);
    }
    let [high, low] = u16::try_from(number).expect("a pool holds a few hundred messages").to_be_bytes();
    MessageId::from_parts(time_ms, [0, 0, 0, 0, 0, 0, 0, 0, high, low])
}

fn message(agents: &[SimAgent], sender: usize, order: usize) -> PoolMessage {
    let number = sender * MESSAGES_PER_AGENT + order;
    let dice = mix(number as u64 + 1);
    let recipient = (sender + 1 + usize::from(dice.is_multiple_of(3))) % AGENTS;
    let priority = match (dice >> 8) % 10 {
        0 => Priority::Low,
        1 => Priority::High,
        2 => Priority::Critical,
        _ => Priority::Normal,
    };
    let plaintext = vec![0x5a; 32 + order % 7 * 40];
    let (from, to) = (&agents[sender], &agents[recipient]);
    let key_id = to.record.record.key_id();
    let id = message_id(number);
    let mut header = EnvelopeHeader::sealed(from.id, to.id, key_id, id, START_MS, plaintext.len())
        .expect("a simulated payload is small");
    header.priority = priority as u8;
    let expires = number % 11 == 10;
    header.ttl_s = u32::from(expires);
    let wants_notice = !number.is_multiple_of(5);
    header.flags = if wants_notice { FLAG_NOTICE_WANTED } else { 0 };
    let envelope = from.seal_under(to, &header, &plaintext);
    PoolMessage { sender, to: Recipient::Agent(recipient), order, priority, expires, wants_notice, envelope }
}

fn published(publishers: &mut [SimPublisher; CHANNELS], sender: usize, order: usize) -> PoolMessage {
    let number = first_of(sender) + order;
    // As it was before there were patterns: seeds without them keep what they did.
    let dice = mix((number - PATTERN_MESSAGES) as u64 + 1);
    let channel = usize::from(dice.is_multiple_of(3));
    let expires = (dice >> 8).is_multiple_of(8);
    let plaintext = vec![0xa5; 32 + order % 7 * 40];
    let (id, ttl_s) = (message_id(number), u32::from(expires));
    let envelope = publishers[channel].seal_for(id, START_MS, ttl_s, &plaintext);
    let (to, priority) = (Recipient::Channel(channel), Priority::Normal);
    PoolMessage { sender, to, order, priority, expires, wants_notice: false, envelope }
}

fn exporter(number: u8) -> [u8; 32] {
    [0xc0 | number; 32]
}

/// An aligned copy: what the framing layer hands out.
pub(crate) fn aligned(bytes: &[u8]) -> Bytes {
    let mut copy = AlignedVec::<16>::with_capacity(bytes.len());
    copy.extend_from_slice(bytes);
    Bytes::from_owner(copy)
}
