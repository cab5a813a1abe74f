//! What is published: what a channel takes in, keeps, and lets go.
//!
//! A message leaves its channel when its time is over, as any other does, or early, when the channel is at its quota and every
//! subscription has durably consumed it. Nobody's acknowledgement takes it out. So a slow subscriber makes a channel refuse what
//! is new, and never loses what was acknowledged, before its time is over.

use super::subscribe::Channels;
use super::{Admit, Mailboxes, Quota, Refusal, cost_of};
use crate::channel::Consumed;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::limits::{CHANNEL_LEAVE_SHARE, SETTLE_SEQUENCES_PER_LEAVE};
use crate::noted::NotedMessage;
use crate::planted::{Bug, is_planted};
use crate::record::{Settle, SettleCause};
use crate::subscription::Readers;

impl Channels {
    /// These messages of a channel, by growing sequence, leave it when that is written.
    pub(super) fn will_leave(&mut self, mailbox: MailboxId, cause: SettleCause, sequences: &[u64]) {
        let records = sequences.chunks(SETTLE_SEQUENCES_PER_LEAVE);
        self.leaving.extend(records.map(|sequences| Settle { mailbox, cause, sequences: sequences.to_vec() }));
    }
}

impl Mailboxes {
    /// As [`admit_within`](Self::admit_within), for a message that is published in a channel: put it into a part under the
    /// sequence, with the flag [`PUBLISHED`](crate::MessageFlags::PUBLISHED) and an expiry
    /// ([`Retention`](crate::Retention)). At the channel's quota the oldest messages leave that every subscription has consumed:
    /// [`next_leaving`](Self::next_leaving) has the records for that, to append in this turn.
    ///
    /// # Errors
    /// [`Refusal`], to be sent to the sender; [`Refusal::MailboxFull`] also where the oldest message is still to be consumed.
    pub fn admit_published(
        &mut self,
        quota: Quota,
        sender: SenderId,
        message_id: MessageId,
        channel: MailboxId,
        envelope_bytes: usize,
        now_ms: u64,
    ) -> Result<Admit, Refusal> {
        if let Some(durable) = self.known_before(sender, message_id, now_ms)? {
            return Ok(Admit::Duplicate { durable });
        }
        self.make_room(quota, channel, cost_of(envelope_bytes));
        let sequence = self.reserve(quota, channel, envelope_bytes)?;
        self.dedup.insert_pending(sender, message_id);
        Ok(Admit::New(sequence))
    }

    /// A record by which messages leave a channel, to append: what was consumed, when the channel is at its quota, and what is over.
    /// Call it in every turn, until `None`, and append each record before another one of this or of
    /// [`next_cursors`](Self::next_cursors) is asked for: what was missed is counted here, and cursors say it. If it is not appended, call
    /// [`settle_refused`](Self::settle_refused) at once; what is over is found again.
    pub fn next_leaving(&mut self) -> Option<Settle> {
        let settle = self.channels.leaving.pop_front()?;
        if settle.cause == SettleCause::Expired {
            let &number = self.numbers.get(&settle.mailbox).expect("what is being settled is queued");
            self.count_missed(number, &settle.sequences, false);
        }
        Some(settle)
    }

    /// Has as many of the oldest messages leave as the next one needs, and a few more, if all of these are consumed.
    fn make_room(&mut self, quota: Quota, mailbox: MailboxId, cost: u64) {
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        let (messages_max, bytes_max) = self.quota_of(quota);
        let queues = self.boxes.get(number).taken();
        let Some(channel) = &queues.channel else { return };
        let (messages, bytes) = queues.counted();
        let messages_over = (messages + 1).saturating_sub(messages_max);
        let bytes_over = (bytes + cost).saturating_sub(bytes_max);
        if messages_over == 0 && bytes_over == 0 {
            return;
        }
        let consumed = match is_planted(Bug::MakeRoomOfUnconsumed) {
            false => channel.consumed(),
            true => u64::MAX,
        };
        // Nothing was consumed or came in since that was not enough: it is not gone over for each message that is refused.
        if let Some(before) = channel.too_little.filter(|before| before.upto == consumed)
            && (before.messages < messages_over || before.bytes < bytes_over)
        {
            return;
        }
        let (messages_share, bytes_share) = (messages_max / CHANNEL_LEAVE_SHARE, bytes_max / CHANNEL_LEAVE_SHARE);
        let (mut leaving, mut leaving_bytes, mut is_enough) = (Vec::new(), 0, false);
        for kept in channel.kept_after(0).take_while(|kept| kept.sequence <= consumed) {
            let Some(slot) = self.find(number, kept.sequence) else { continue };
            let entry = self.index.entries.get(slot);
            if entry.is_settling() {
                continue;
            }
            leaving.push(kept.sequence);
            leaving_bytes += cost_of(entry.envelope_bytes());
            is_enough = leaving.len() as u64 >= messages_over && leaving_bytes >= bytes_over;
            let is_share = leaving.len() as u64 >= messages_over + messages_share
                || (bytes_over > 0 && leaving_bytes >= bytes_over + bytes_share);
            if is_enough && is_share {
                break;
            }
        }
        // What does not help is not taken.
        if !is_enough {
            let messages = leaving.len() as u64;
            self.channel_mut(number).too_little = Some(Consumed { upto: consumed, messages, bytes: leaving_bytes });
            return;
        }
        for &sequence in &leaving {
            let slot = self.find(number, sequence).expect("it was just found");
            self.index.entries.get_mut(slot).set_settling(true);
        }
        let channel = self.channel_mut(number);
        channel.leaving_messages += leaving.len() as u64;
        channel.leaving_bytes += leaving_bytes;
        channel.memo.clear();
        self.channels.will_leave(mailbox, SettleCause::Consumed, &leaving);
    }

    /// Messages that were to leave early stay, or are gone.
    pub(super) fn leaves_no_more(&mut self, number: u32, cost: u64) {
        let channel = self.channel_mut(number);
        channel.too_little = None;
        channel.leaving_messages = channel.leaving_messages.saturating_sub(1);
        channel.leaving_bytes = channel.leaving_bytes.saturating_sub(cost);
    }

    /// A message is durable in a channel.
    pub(super) fn take_in_published(&mut self, number: u32, message: &NotedMessage) {
        let is_in_order = self.channel_mut(number).push(message.sequence, message.message_id.time_ms());
        if !is_in_order {
            self.unordered.push(number);
        }
        self.news(number);
    }

    /// The record is made by which these messages, in order, expire in a channel, or it is taken back: they count as missed by
    /// the subscriptions that still want them.
    pub(super) fn count_missed(&mut self, number: u32, sequences: &[u64], is_taken_back: bool) {
        let Some(&last) = sequences.last() else { return };
        let Self { boxes, index, channels, .. } = self;
        let Some(channel) = &mut boxes.get_mut(number).taken_mut().channel else { return };
        channel.too_little = None;
        // What cannot be read either, and was not come by yet, is counted here.
        for &sequence in sequences {
            let is_damaged = || index.find(sequence).is_some_and(|slot| index.entries.get(slot).is_damaged());
            match is_taken_back {
                true if is_damaged() => drop(channel.damaged.insert(sequence)),
                true => {}
                false => drop(channel.damaged.remove(&sequence)),
            }
        }
        for behind in channel.behind(last) {
            let Some(subscription) = channels.subscriptions.get_mut(&behind) else { continue };
            let missed = subscription.wanted_of(sequences) as u64;
            if missed > 0 {
                subscription.missed = match is_taken_back {
                    true => subscription.missed.saturating_sub(missed),
                    false => subscription.missed.saturating_add(missed),
                };
                channels.has_missed(behind);
            }
        }
    }

    /// These messages, in order, are gone from a channel.
    pub(super) fn forget_published(&mut self, number: u32, gone: &[u64], is_recovery: bool) {
        let Some(&last) = gone.last() else { return };
        let Some(channel) = &mut self.boxes.get_mut(number).taken_mut().channel else { return };
        channel.forget(gone);
        // Recovery does this once, at its end.
        if is_recovery {
            return;
        }
        let behind: Vec<u64> = channel.behind(last).collect();
        for subscription in behind {
            let Some(of) = self.channels.subscriptions.get_mut(&subscription) else { continue };
            let Readers::Group(group) = &mut of.readers else { continue };
            // Most groups know nothing of what leaves, and nothing changes for them.
            let known = group.known_of(gone);
            known.iter().for_each(|&sequence| group.forget(sequence));
            let is_ahead = !group.done.is_empty();
            if is_ahead {
                self.advance(subscription);
            }
            if is_ahead || !known.is_empty() {
                self.group_goes_on(subscription);
            }
        }
    }

    /// Moves the cursor of a group over what is done, or gone, up to the first message that is neither. What cannot be read is given
    /// up, for nobody will be done with it, and counts as missed.
    pub(super) fn advance(&mut self, number: u64) {
        let Some(subscription) = self.channels.subscriptions.get_mut(&number) else { return };
        let Readers::Group(group) = &mut subscription.readers else { return };
        let Some(channel) = &self.boxes.get(subscription.mailbox).taken().channel else { return };
        let before = subscription.cursor;
        let (mut passed, mut first, mut lost) = (before, u64::MAX, 0);
        for kept in channel.kept_after(before) {
            if !group.done.contains(&kept.sequence) {
                // Whoever has it has it from memory.
                if !channel.damaged.contains(&kept.sequence) || group.in_hand.contains_key(&kept.sequence) {
                    first = kept.sequence;
                    break;
                }
                lost += 1;
            }
            passed = kept.sequence;
        }
        // What is done and gone, too: so it does not matter which of both came first.
        passed = group.done.range(..first).next_back().map_or(passed, |&done| done.max(passed));
        group.done = group.done.split_off(&passed.saturating_add(1));
        subscription.cursor = passed;
        subscription.missed = subscription.missed.saturating_add(lost);
        group.handed = group.handed.max(subscription.cursor);
        if subscription.cursor != before {
            self.channels.is_dirty(number);
        }
    }

    /// Recovery has read everything: channels and groups are put in order.
    pub(super) fn channels_are_recovered(&mut self) {
        let mut numbers: Vec<u64> = self.channels.subscriptions.keys().copied().collect();
        numbers.sort_unstable();
        for number in numbers {
            self.advance(number);
            // What the log says leads here, so it is durable.
            let subscription = self.channels.subscriptions.get_mut(&number).expect("it was just listed");
            subscription.durable = subscription.cursor;
            self.refloor(number);
        }
    }
}

/// Published messages of one record that settles some, by their mailbox's number.
pub(super) fn sorted(mut sequences: Vec<u64>) -> Vec<u64> {
    sequences.sort_unstable();
    sequences.dedup();
    sequences
}
