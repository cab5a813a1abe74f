//! Deliver: what is durable goes to the connection that reads the mailbox, as far as its credit allows.
//!
//! Promises that only what the mailbox holds as durable is pushed, in its order, once per subscription until it is
//! acknowledged or refused, and never more than the subscriber has room for. A mailbox has one subscriber: the newest. Nothing is
//! pushed to an agent that may not act, and nothing that its sender signed after it was revoked: that becomes a dead letter.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use creto_envelope::control::Reject;
use creto_envelope::deliver::{DeliverEncoder, MessageToDeliver, Subscribed, delivered_message_bytes};
use creto_envelope::letters::REASON_SENDER_REVOKED;
use creto_envelope::limits::{CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX, SIGNAL_CREDIT_MAX};
use creto_envelope::notice::Notice;
use creto_envelope::{AgentId, AgentState, BatchHeaderView, MessageId, RejectCode};
use creto_policy::Snapshot;
use creto_store::planted::{Bug, is_planted};
use creto_store::{Delivery, MailboxId, Mailboxes, SenderId};

use crate::event::Now;
use crate::limits::{DELIVER_BYTES_PER_TURN, DELIVER_MESSAGES_PER_TURN};
use crate::route::Origin;
use crate::stages::{DurableMarks, PushMarks, StageTimes};

/// Who reads the mailboxes of this shard, and how much they can take.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    by_mailbox: BTreeMap<AgentId, Subscription>,
    /// Mailboxes that may have something to push, each at most once.
    ready: VecDeque<AgentId>,
    /// Mailboxes that were ready and whose owners may not act, or are not known here yet. The next snapshot may say otherwise.
    held_back: BTreeSet<AgentId>,
}

#[derive(Debug)]
struct Subscription {
    origin: Origin,
    /// When its connection asked for it, by the node's monotonic clock.
    since_us: u64,
    credit_messages: u32,
    credit_bytes: u32,
    /// Signals that it takes, whatever else it takes.
    credit_signals: u32,
    /// Its agent shows those who may send to it that it reads.
    shows_presence: bool,
    /// The batch header that the subscriber's stream saw last.
    last_header: Option<Bytes>,
    is_ready: bool,
    push_marks: PushMarks,
}

/// Frames for the deliver stream of a connection.
#[derive(Debug)]
pub(crate) struct Push {
    pub(crate) to: Origin,
    pub(crate) frames: Bytes,
    pub(crate) message_count: u64,
}

impl Subscriptions {
    /// Gives the mailbox to a new subscriber; whoever had it before is told. Rings of different shards overtake each
    /// other, so one that asked earlier than the current one is told at once that it was replaced.
    pub(crate) fn subscribe(
        &mut self,
        mailbox: AgentId,
        origin: Origin,
        since_us: u64,
        deliveries_max: Option<u8>,
        now: Now,
        mailboxes: &mut Mailboxes,
    ) -> Vec<Push> {
        let before = self.by_mailbox.get(&mailbox);
        let replaced = before.map(|before| if before.since_us > since_us { origin } else { before.origin });
        let mut pushes = Vec::new();
        if let Some(replaced) = replaced {
            let mut out = Vec::new();
            Reject { context: mailbox.0, ..Reject::new(RejectCode::SubscriptionReplaced) }.encode(&mut out);
            pushes.push(Push { to: replaced, frames: out.into(), message_count: 0 });
            if replaced == origin {
                return pushes;
            }
        }
        // A mailbox stands in `ready` once, whoever reads it.
        let is_ready = before.is_some_and(|before| before.is_ready);
        let subscription = Subscription {
            origin,
            since_us,
            credit_messages: 0,
            credit_bytes: 0,
            credit_signals: before
                .filter(|_| is_planted(Bug::KeepSignalCredit))
                .map_or(0, |before| before.credit_signals),
            shows_presence: is_planted(Bug::KeepPresence) && before.is_some_and(|before| before.shows_presence),
            last_header: None,
            is_ready,
            push_marks: PushMarks::default(),
        };
        self.by_mailbox.insert(mailbox, subscription);
        // What the last subscriber did not acknowledge comes again, in its old order.
        let id = MailboxId(mailbox.0);
        mailboxes.reset(id, deliveries_max, now.monotonic_us, now.unix_ms);
        let mut out = Vec::new();
        let queued_messages = mailboxes.queued_messages(id) - mailboxes.dead_messages(id);
        Subscribed { mailbox, queued_messages }.encode(&mut out);
        pushes.push(Push { to: origin, frames: out.into(), message_count: 0 });
        pushes
    }

    /// Forgets a subscriber, unless another one has taken over.
    pub(crate) fn unsubscribe(
        &mut self,
        mailbox: AgentId,
        origin: Origin,
        deliveries_max: Option<u8>,
        now: Now,
        mailboxes: &mut Mailboxes,
    ) {
        if self.is_current(mailbox, origin) {
            self.by_mailbox.remove(&mailbox);
            self.ready.retain(|ready| *ready != mailbox);
            self.held_back.remove(&mailbox);
            mailboxes.reset(MailboxId(mailbox.0), deliveries_max, now.monotonic_us, now.unix_ms);
        }
    }

    /// Whether this connection is the one that reads the mailbox now.
    pub(crate) fn is_current(&self, mailbox: AgentId, origin: Origin) -> bool {
        self.by_mailbox.get(&mailbox).is_some_and(|subscription| subscription.origin == origin)
    }

    /// Adds credit. A subscriber that grants more than the limit gets no more than the limit.
    pub(crate) fn credit(&mut self, mailbox: AgentId, origin: Origin, messages: u32, bytes: u32) {
        if let Some(subscription) = self.by_mailbox.get_mut(&mailbox).filter(|known| known.origin == origin) {
            let messages = if is_planted(Bug::CountCreditTwice) { messages * 2 } else { messages };
            subscription.credit_messages =
                subscription.credit_messages.saturating_add(messages).min(CREDIT_MESSAGES_MAX);
            subscription.credit_bytes = subscription.credit_bytes.saturating_add(bytes).min(CREDIT_BYTES_MAX);
            self.wake(mailbox);
        }
    }

    /// Adds credit for signals, up to the limit.
    pub(crate) fn signal_credit(&mut self, mailbox: AgentId, origin: Origin, signals: u32) {
        if let Some(subscription) = self.by_mailbox.get_mut(&mailbox).filter(|known| known.origin == origin) {
            subscription.credit_signals = subscription.credit_signals.saturating_add(signals).min(SIGNAL_CREDIT_MAX);
        }
    }

    /// Takes whether a reader shows itself. False when another one reads by now.
    pub(crate) fn show_presence(&mut self, mailbox: AgentId, origin: Origin, shows: bool) -> bool {
        let subscription = self.by_mailbox.get_mut(&mailbox).filter(|known| known.origin == origin);
        subscription.map(|subscription| subscription.shows_presence = shows).is_some()
    }

    /// Whether somebody reads the mailbox and shows that.
    pub(crate) fn shows_presence(&self, mailbox: &AgentId) -> bool {
        self.by_mailbox.get(mailbox).is_some_and(|subscription| subscription.shows_presence)
    }

    /// Takes credit for up to `wanted` signals: gives who reads the mailbox and for how many there was some. `None` where there was
    /// none, or nobody reads.
    pub(crate) fn take_signals(&mut self, mailbox: &AgentId, wanted: usize) -> Option<(Origin, usize)> {
        let subscription = self.by_mailbox.get_mut(mailbox)?;
        let taken = subscription.credit_signals.min(u32::try_from(wanted).unwrap_or(u32::MAX));
        subscription.credit_signals -= taken;
        (taken > 0).then_some((subscription.origin, taken as usize))
    }

    /// The consumer of a mailbox is done with these.
    pub(crate) fn settled(&mut self, now: Now, mailbox: &AgentId, sequences: &[u64], times: &mut StageTimes) {
        if let Some(subscription) = self.by_mailbox.get_mut(mailbox) {
            subscription.push_marks.settled(sequences, now.monotonic_us, times);
        }
    }

    /// Says that a mailbox may have something new.
    pub(crate) fn wake(&mut self, mailbox: AgentId) {
        if let Some(subscription) = self.by_mailbox.get_mut(&mailbox).filter(|known| !known.is_ready) {
            subscription.is_ready = true;
            self.ready.push_back(mailbox);
        }
    }

    /// Looks again at what was held back, after control has said something new.
    pub(crate) fn wake_held_back(&mut self) {
        for mailbox in std::mem::take(&mut self.held_back) {
            self.wake(mailbox);
        }
    }

    /// Whether a turn would push something.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }
}

/// What a turn delivered.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    pub(crate) pushes: Vec<Push>,
    /// Messages that were not delivered, because their senders signed them after they were revoked.
    pub(crate) void: Vec<Void>,
}

/// A message that its sender signed after it was revoked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Void {
    pub(crate) mailbox: AgentId,
    pub(crate) sender: AgentId,
    pub(crate) message_id: MessageId,
    pub(crate) sequence: u64,
}

/// What is measured of deliveries.
#[derive(Debug)]
pub(crate) struct Measure<'a> {
    /// When this turn's pushes are made.
    pub(crate) pushed_us: u64,
    /// When what is pushed became durable.
    pub(crate) marks: &'a DurableMarks,
    pub(crate) times: &'a mut StageTimes,
}

impl Measure<'_> {
    fn take(&mut self, subscription: &mut Subscription, deliveries: &[Delivery]) {
        for run in deliveries.chunk_by(|one, next| one.record == next.record) {
            // What was pushed before waited for its consumer, not for this node.
            if let Some(durable_us) = (run[0].attempt <= 1).then(|| self.marks.of(run[0].record)).flatten() {
                self.times.add(self.pushed_us.saturating_sub(durable_us));
            }
        }
        if let Some(last) = deliveries.last() {
            subscription.push_marks.pushed(last.message.sequence, self.pushed_us);
        }
    }
}

/// Pushes what can be pushed now; each mailbox that is ready has one share of the turn.
pub(crate) fn deliver(
    now: Now,
    snapshot: &Snapshot,
    subscriptions: &mut Subscriptions,
    mailboxes: &mut Mailboxes,
    measure: &mut Measure<'_>,
) -> Delivered {
    let mut delivered = Delivered::default();
    for _ in 0..subscriptions.ready.len() {
        let mailbox = subscriptions.ready.pop_front().expect("as many are taken as there were");
        let Some(subscription) = subscriptions.by_mailbox.get_mut(&mailbox) else { continue };
        subscription.is_ready = false;
        share(now, mailbox, snapshot, subscriptions, mailboxes, &mut delivered, measure);
    }
    // Those that waited until others had read what they wanted.
    while let Some(mailbox) = mailboxes.next_reader() {
        share(now, AgentId(mailbox.0), snapshot, subscriptions, mailboxes, &mut delivered, measure);
    }
    delivered
}

/// One mailbox's share of a turn. What is not in memory is asked for; the mailbox is ready again when it is read.
fn share(
    now: Now,
    mailbox: AgentId,
    snapshot: &Snapshot,
    subscriptions: &mut Subscriptions,
    mailboxes: &mut Mailboxes,
    delivered: &mut Delivered,
    measure: &mut Measure<'_>,
) {
    let Some(subscription) = subscriptions.by_mailbox.get_mut(&mailbox) else { return };
    // Without a policy nobody can say any more who may read. Its connection may be another shard's, which closes it as soon as it hears
    // the same.
    if snapshot.policy().is_none()
        || snapshot.principal(&mailbox).is_none_or(|owner| owner.state() != AgentState::Active)
    {
        subscriptions.held_back.insert(mailbox);
        return;
    }
    let messages = DELIVER_MESSAGES_PER_TURN.min(subscription.credit_messages);
    let bytes = DELIVER_BYTES_PER_TURN.min(subscription.credit_bytes);
    if messages == 0 || bytes == 0 {
        return;
    }
    let mut deliveries = mailboxes.next_for_delivery(MailboxId(mailbox.0), messages, u64::from(bytes), now.unix_ms);
    if deliveries.is_empty() {
        return;
    }
    let before = delivered.void.len();
    take_void(mailbox, &mut deliveries, snapshot, &mut delivered.void);
    if let void @ [_, ..] = &delivered.void[before..] {
        let void: Vec<_> = void.iter().map(|void| (void.sequence, REASON_SENDER_REVOKED)).collect();
        mailboxes.reject(MailboxId(mailbox.0), &void, now.unix_ms);
    }
    if !deliveries.is_empty() {
        measure.take(subscription, &deliveries);
        delivered.pushes.push(encode(subscription, &deliveries));
    }
    // There may be more than this share.
    subscriptions.wake(mailbox);
}

/// Takes out what its sender signed after it was revoked, and says which that is. It was accepted because nobody knew yet.
fn take_void(mailbox: AgentId, deliveries: &mut Vec<Delivery>, snapshot: &Snapshot, void: &mut Vec<Void>) {
    // One record has one header, and so one sender and one time.
    let mut last = None;
    deliveries.retain(|delivery| {
        let is_void = match last {
            Some((record, is_void)) if record == delivery.record => is_void,
            _ => was_signed_when_revoked(delivery, snapshot),
        };
        last = Some((delivery.record, is_void));
        if is_void {
            let message = &delivery.message;
            let (sender, message_id) = (AgentId(message.sender.0), MessageId(message.message_id.0));
            void.push(Void { mailbox, sender, message_id, sequence: message.sequence });
        }
        !is_void
    });
}

pub(crate) fn was_signed_when_revoked(delivery: &Delivery, snapshot: &Snapshot) -> bool {
    let sender = delivery.message.sender;
    // What the node itself says has no batch and no sender.
    let principal = (sender != SenderId::NODE).then(|| snapshot.principal(&AgentId(sender.0))).flatten();
    let Some(revoked_at_ms) = principal.and_then(|principal| principal.revoked_at_ms()) else { return false };
    // A header that cannot be read is no reason for yes.
    BatchHeaderView::parse(&delivery.batch_header).map_or(true, |header| header.signed_at_ms() >= revoked_at_ms)
}

/// One Deliver frame per run of messages of one batch; the header only where it changes.
fn encode(subscription: &mut Subscription, deliveries: &[Delivery]) -> Push {
    let room: usize =
        deliveries.iter().map(|d| delivered_message_bytes(d.message.path.len() / 32, d.message.envelope.len())).sum();
    let mut out = Vec::with_capacity(room + 4096);
    // One record has one header: comparing 3,448 bytes for each message would cost more than copying it.
    for run in deliveries.chunk_by(|a, b| a.record == b.record) {
        if run[0].message.sender == SenderId::NODE {
            encode_notices(&mut out, subscription, run);
            continue;
        }
        let header = &run[0].batch_header;
        let known = subscription.last_header.as_ref() == Some(header);
        let mut frame = DeliverEncoder::begin(&mut out, (!known).then_some(&header[..]));
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
            let bytes = u32::try_from(message.envelope.len()).expect("an envelope is below 2 MiB");
            subscription.credit_messages -= 1;
            subscription.credit_bytes = subscription.credit_bytes.saturating_sub(bytes);
        }
        frame.finish();
        subscription.last_header = Some(header.clone());
    }
    Push { to: subscription.origin, frames: out.into(), message_count: deliveries.len() as u64 }
}

/// A Notice frame for each thing that the node itself says. They have no batch.
fn encode_notices(out: &mut Vec<u8>, subscription: &mut Subscription, notices: &[Delivery]) {
    for Delivery { message, attempt, .. } in notices {
        let body = message.envelope.as_ref().try_into().expect("a shard stores notices of this size");
        let bytes = u32::try_from(message.envelope.len()).expect("a notice is small");
        Notice::encode(out, message.sequence, attempt.saturating_sub(1), body);
        subscription.credit_messages -= 1;
        subscription.credit_bytes = subscription.credit_bytes.saturating_sub(bytes);
    }
}
