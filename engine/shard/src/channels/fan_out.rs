//! Fan-out: what is durable in a channel goes to everybody who reads it, as far as their credit allows.
//!
//! Promises what stage deliver promises for mailboxes, for each reader of a channel: only what is durable, in the order of the channel,
//! within credit, nothing to whoever may not read it, and nothing that its sender signed after it was revoked. **A run of messages is
//! encoded once**: readers that are as far as each other share the bytes, and get a few of their own in front of them. A turn hands
//! out a bounded number of messages and bytes, to each reader its share; those that are left come first in the next one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use creto_envelope::deliver::{DeliverEncoder, MessageToDeliver, delivered_message_bytes};
use creto_envelope::{GroupId, RejectCode};
use creto_policy::{Action as PolicyAction, DecisionTable, Snapshot};
use creto_store::planted::{Bug, is_planted};
use creto_store::{Delivery, Mailboxes, Reader, SegmentNumber};

use super::readers::{Handle, Readers, Seat};
use crate::event::{ConnectionId, Now, ShardIndex};
use crate::limits::{
    CHANNEL_BYTES_PER_TURN, CHANNEL_MESSAGES_PER_TURN, CHANNEL_READERS_PER_TURN, DECISION_LIFETIME_MS,
    DELIVER_BYTES_PER_TURN, DELIVER_MESSAGES_PER_TURN, SHARED_BODIES_BYTES_MAX, SHARED_BODIES_MAX,
};
use crate::stage::deliver::was_signed_when_revoked;

/// A ChannelDeliver frame for one reader, without what stands in front of its body.
#[derive(Debug)]
pub struct ReaderPush {
    /// The connection.
    pub connection: ConnectionId,
    /// Its number for the subscription.
    pub handle: u32,
    /// The body of a Deliver frame, shared with others.
    pub body: Bytes,
}

/// What a turn handed out.
#[derive(Debug, Default)]
pub(crate) struct FannedOut {
    /// By the shard of the connections.
    pub(crate) pushes: BTreeMap<ShardIndex, Vec<ReaderPush>>,
    /// Readers that may not read any more, and why.
    pub(crate) ended: Vec<(Reader, RejectCode)>,
    pub(crate) messages: u64,
    /// Messages that were passed over, because their senders signed them after they were revoked.
    pub(crate) void: u64,
}

/// Encoded bodies, those that were made last.
#[derive(Debug, Default)]
pub(crate) struct FanOut {
    bodies: VecDeque<SharedBody>,
    bytes: usize,
    /// Readers that have something and may not read for now.
    held_back: BTreeSet<Reader>,
}

/// A body, and what is in it: one record has one batch header. Which of its messages it has is not told by the first and the last one:
/// each group leaves out what others of it have, or had before a restart.
#[derive(Debug)]
struct SharedBody {
    record: (SegmentNumber, u32),
    sequences: Box<[u64]>,
    attempt: u8,
    has_header: bool,
    bytes: Bytes,
}

impl SharedBody {
    fn is_of(&self, run: &[Delivery], has_header: bool) -> bool {
        let (record, attempt) = (run[0].record, run[0].attempt);
        (self.record, self.attempt, self.has_header) == (record, attempt, has_header)
            && self.sequences.iter().copied().eq(run.iter().map(|delivery| delivery.message.sequence))
    }
}

/// Whether somebody may go on reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MayRead {
    Yes,
    /// Not now.
    NotNow(RejectCode),
    /// Not any more: the subscription ends.
    NoMore(RejectCode),
}

/// Whether the agent of a subscription may read its channel. What it sent itself is not the point.
pub(crate) fn may_read(
    what: &super::readers::Subscribed,
    now: Now,
    snapshot: &Snapshot,
    decisions: &mut DecisionTable,
) -> MayRead {
    let on = PolicyAction::on_channel(&what.channel);
    match decisions.decide(snapshot, now.unix_ms, &what.agent, PolicyAction::SubscribeChannel, &on, 0) {
        creto_policy::Decision::Allow(_) => MayRead::Yes,
        creto_policy::Decision::Deny(code) => match code {
            RejectCode::PolicyDenied
            | RejectCode::ChannelNotAllowed
            | RejectCode::UnknownChannel
            | RejectCode::AgentRevoked
            | RejectCode::UnknownSender => MayRead::NoMore(code),
            // It is suspended, its keys are over, there is no policy for now: it may be otherwise again.
            code => MayRead::NotNow(code),
        },
    }
}

impl FanOut {
    /// Looks again at those that may not read for now.
    pub(crate) fn wake_held_back(&mut self, readers: &mut Readers) {
        for reader in std::mem::take(&mut self.held_back) {
            readers.wake(reader);
        }
    }

    /// Hands out what can be handed out now.
    pub(crate) fn run(
        &mut self,
        now: Now,
        snapshot: &Snapshot,
        decisions: &mut DecisionTable,
        readers: &mut Readers,
        mailboxes: &mut Mailboxes,
    ) -> FannedOut {
        let mut out = FannedOut::default();
        for reader in mailboxes.take_ready_readers() {
            readers.wake(reader);
        }
        let (mut messages_left, mut bytes_left) = (CHANNEL_MESSAGES_PER_TURN, CHANNEL_BYTES_PER_TURN);
        // Each of them once: a reader that gets more stands behind the others.
        for _ in 0..readers.ready_count().min(CHANNEL_READERS_PER_TURN) {
            if messages_left == 0 || bytes_left == 0 {
                break;
            }
            let Some(reader) = readers.next_ready() else { break };
            let seat = readers.seat_mut(reader).expect("it stands in line");
            match check(seat, now, snapshot, decisions) {
                MayRead::Yes => {}
                MayRead::NotNow(RejectCode::Overloaded) => {
                    readers.wake(reader);
                    continue;
                }
                MayRead::NotNow(_) => {
                    self.held_back.insert(reader);
                    continue;
                }
                MayRead::NoMore(code) => {
                    out.ended.push((reader, code));
                    continue;
                }
            }
            let messages = DELIVER_MESSAGES_PER_TURN.min(seat.credit_messages);
            let bytes = DELIVER_BYTES_PER_TURN.min(seat.credit_bytes);
            if messages == 0 || bytes == 0 {
                continue;
            }
            let mut deliveries = mailboxes.next_published(reader, messages, u64::from(bytes), now.unix_ms);
            if deliveries.is_empty() {
                continue;
            }
            let taken = deliveries.len();
            let void = take_void(&mut deliveries, snapshot);
            out.void += void.len() as u64;
            pass_over(reader, seat, &deliveries, &void, mailboxes);
            let bytes: usize = deliveries.iter().map(|delivery| delivery.message.envelope.len()).sum();
            messages_left = messages_left.saturating_sub(taken);
            bytes_left = bytes_left.saturating_sub(bytes);
            self.push(seat, &deliveries, &mut out);
            // There may be more than this share.
            readers.wake(reader);
        }
        out
    }

    /// Whether a body was just made that has exactly this in it; else makes it.
    fn body(&mut self, run: &[Delivery], has_header: bool) -> Bytes {
        let (record, attempt) = (run[0].record, run[0].attempt);
        let is_alike = run.iter().all(|delivery| delivery.attempt == attempt);
        if is_alike && let Some(body) = self.bodies.iter().find(|body| body.is_of(run, has_header)) {
            return body.bytes.clone();
        }
        let body = encode(run, has_header);
        if is_alike {
            self.bytes += body.len();
            let sequences = run.iter().map(|delivery| delivery.message.sequence).collect();
            self.bodies.push_front(SharedBody { record, sequences, attempt, has_header, bytes: body.clone() });
            while self.bodies.len() > SHARED_BODIES_MAX
                || (self.bytes > SHARED_BODIES_BYTES_MAX && self.bodies.len() > 1)
            {
                let oldest = self.bodies.pop_back().expect("there is one");
                self.bytes -= oldest.bytes.len();
            }
        }
        body
    }

    fn push(&mut self, seat: &mut Seat, deliveries: &[Delivery], out: &mut FannedOut) {
        let Handle { origin, number } = seat.handle;
        for run in deliveries.chunk_by(|a, b| a.record == b.record) {
            let has_header = seat.header_of != Some(run[0].record);
            let body = self.body(run, has_header);
            let push = ReaderPush { connection: origin.connection, handle: number, body };
            out.pushes.entry(origin.shard).or_default().push(push);
            seat.header_of = Some(run[0].record);
            for delivery in run {
                let bytes = u32::try_from(delivery.message.envelope.len()).expect("an envelope is below 2 MiB");
                seat.credit_messages -= 1;
                seat.credit_bytes = seat.credit_bytes.saturating_sub(bytes);
            }
        }
        out.messages += deliveries.len() as u64;
    }
}

/// Whether whoever has this seat may read: asked once for each snapshot, and again when the answer is old. One that lapsed has the epoch
/// under which it was allowed, and says no.
fn check(seat: &mut Seat, now: Now, snapshot: &Snapshot, decisions: &mut DecisionTable) -> MayRead {
    let (epoch, until_ms) = seat.allowed;
    if is_planted(Bug::ReadAfterRemoval) && epoch > 0 {
        return MayRead::Yes;
    }
    if snapshot.policy().is_some() && epoch == snapshot.epoch() && now.unix_ms < until_ms {
        return MayRead::Yes;
    }
    let may = may_read(&seat.what, now, snapshot, decisions);
    if may == MayRead::Yes {
        seat.allowed = (snapshot.epoch(), now.unix_ms.saturating_add(DECISION_LIFETIME_MS));
    }
    may
}

/// Takes out what its sender signed after it was revoked; returns the sequences.
fn take_void(deliveries: &mut Vec<Delivery>, snapshot: &Snapshot) -> Vec<u64> {
    // One record has one header, and so one sender and one time.
    let (mut last, mut void) = (None, Vec::new());
    deliveries.retain(|delivery| {
        let is_void = match last {
            Some((record, is_void)) if record == delivery.record => is_void,
            _ => was_signed_when_revoked(delivery, snapshot),
        };
        last = Some((delivery.record, is_void));
        if is_void {
            void.push(delivery.message.sequence);
        }
        !is_void
    });
    void
}

/// What was passed over counts as consumed: of a group at once, of a subscriber of its own as soon as all before it is.
fn pass_over(reader: Reader, seat: &mut Seat, deliveries: &[Delivery], void: &[u64], mailboxes: &mut Mailboxes) {
    if seat.what.group != GroupId::NONE {
        mailboxes.acknowledge_each(reader, void);
        return;
    }
    if let Some(last) = deliveries.last() {
        seat.pushed = last.message.sequence;
    }
    let Some(&last) = void.last() else { return };
    seat.passed_over = seat.passed_over.max(last);
    if seat.passed_over > seat.pushed && seat.acknowledged >= seat.pushed {
        mailboxes.acknowledge_upto(reader, seat.consumed());
    }
}

fn encode(run: &[Delivery], has_header: bool) -> Bytes {
    let header = has_header.then_some(&run[0].batch_header);
    let room: usize =
        run.iter().map(|d| delivered_message_bytes(d.message.path.len() / 32, d.message.envelope.len())).sum();
    let mut out = Vec::with_capacity(room + 8 + header.map_or(0, Bytes::len));
    let mut frame = DeliverEncoder::begin_body(&mut out, header.map(|header| &header[..]));
    for Delivery { message, attempt, .. } in run {
        let (path, rest) = message.path.as_chunks::<32>();
        assert!(rest.is_empty(), "a path is made of whole hashes");
        frame.push(&MessageToDeliver {
            mailbox_sequence: message.sequence,
            leaf_index: message.leaf_index,
            attempt: attempt.saturating_sub(1),
            salt: &message.salt,
            path,
            envelope: &message.envelope,
        });
    }
    frame.finish();
    out.into()
}
