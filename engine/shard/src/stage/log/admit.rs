//! What arrived becomes records, as far as the log has room; what it has none for waits in order, or is refused.

use creto_envelope::{Priority, RejectCode};
use creto_policy::MailboxLimits;
use creto_store::planted::{Bug, is_planted};
use creto_store::{
    self as store, Admit, AppendClass, AppendError, MailboxId, MessageFlags, MessageId, Quota, Record, RecordLog,
    RecordSequence, Refusal, SenderId, Settle, SettleCause,
};

use super::{Arrived, Awaited, Log};
use crate::event::Now;
use crate::expiry::{ChannelLimits, MessageRoom};
use crate::limits::{SETTLE_REST_US, SETTLES_RESTING_MAX};
use crate::route::{BatchPart, PartMessage, PartOutcome};

impl<L: RecordLog> Log<L> {
    /// Moves what waits into the log, as far as there is room. Order is kept: nothing overtakes, but for settles that
    /// wait for space. Of a shard that drains nothing rests.
    pub(crate) fn admit(&mut self, now: Now, is_draining: bool) {
        self.wants_turn = false;
        let appended = self.wal.appended();
        self.admit_held_settles();
        self.admit_held_ends();
        self.admit_deaths();
        self.admit_letters();
        while let Some(arrived) = self.arrived.pop_front() {
            let blocked = match arrived {
                Arrived::Part(part, since_us) => {
                    self.admit_part(now, part, since_us).map(|part| Arrived::Part(part, since_us))
                }
                Arrived::Settle(settle) if settle.cause == SettleCause::Acknowledged => {
                    self.resting.push_back(settle);
                    None
                }
                Arrived::Settle(settle) => self.admit_settle(settle).map(Arrived::Settle),
                Arrived::Subscription(change) => self.admit_change(change).map(Arrived::Subscription),
                Arrived::Notices(notices) => self.admit_notices(now, notices).map(Arrived::Notices),
            };
            if let Some(blocked) = blocked {
                match is_planted(Bug::LetOvertake) {
                    false => self.arrived.push_front(blocked),
                    true => self.arrived.push_back(blocked),
                }
                break;
            }
        }
        self.admit_leaving();
        self.admit_resting(now, is_draining || self.wal.appended() > appended);
        self.clean();
        self.trim();
    }

    /// Gives the part back when the log has no room for it right now.
    fn admit_part(&mut self, now: Now, part: BatchPart, since_us: u64) -> Option<BatchPart> {
        let bytes = part.messages.iter().map(|m| store::PartMessage::encoded_bytes_of(m.path.len(), m.envelope.len()));
        let record_bytes = store::BatchPart::encoded_bytes_of(part.header.len(), bytes.sum());
        match self.wal.check_room(AppendClass::Message, record_bytes) {
            Ok(()) => {}
            Err(AppendError::Full) => return Some(part),
            Err(error) => {
                if error == AppendError::StorageFull {
                    self.refused_bytes = Some(record_bytes);
                    self.refused_messages += part.messages.len() as u64;
                    self.mailboxes.room_is_wanted();
                }
                self.refuse_part(part, reject_code(&error));
                return None;
            }
        }
        let message_count = u32::try_from(part.messages.len()).expect("a batch has at most 1,024 messages");
        let mut refused = Vec::new();
        let mut messages = Vec::with_capacity(part.messages.len());
        let mut stored = Vec::with_capacity(part.messages.len());
        let mut after = RecordSequence(0);
        for message in part.messages {
            let mailbox = MailboxId(message.recipient.0);
            let sender = SenderId(part.sender.0);
            let message_id = MessageId(message.message_id.0);
            let bytes = message.envelope.len();
            let admitted = match message.room {
                MessageRoom::Mailbox(limits) => {
                    let quota = quota(limits);
                    self.mailboxes.admit_within(quota, sender, message_id, mailbox, bytes, now.unix_ms)
                }
                MessageRoom::Channel(ChannelLimits { messages_max, bytes_max, .. }) => {
                    let quota = Quota { messages_max: Some(messages_max), bytes_max: Some(bytes_max) };
                    self.mailboxes.admit_published(quota, sender, message_id, mailbox, bytes, now.unix_ms)
                }
            };
            match admitted {
                Ok(Admit::New(sequence)) => {
                    stored.push(message.leaf_index);
                    let (expiry_ms, flags) = match message.room {
                        MessageRoom::Mailbox(limits) => {
                            let expiry_ms = self.retention.expiry_ms(now.unix_ms, message.ttl_s, message.bond, &limits);
                            (expiry_ms, flags(&message, expiry_ms, now))
                        }
                        MessageRoom::Channel(ChannelLimits { retention_s, .. }) => {
                            let retention = store::Retention::from_seconds(retention_s);
                            // The record's rules are the log's.
                            let retention = retention.expect("a channel's record says how long it keeps messages");
                            retention.of_message(now.unix_ms, message.ttl_s)
                        }
                    };
                    messages.push(store::PartMessage {
                        mailbox,
                        sender,
                        message_id,
                        sequence,
                        expiry_ms,
                        leaf_index: message.leaf_index,
                        priority: priority(message.priority),
                        flags,
                        salt: message.salt,
                        path: message.path,
                        envelope: message.envelope,
                    });
                }
                Ok(Admit::Duplicate { durable }) => {
                    if !durable && !is_planted(Bug::AnswerDuplicateEarly) {
                        // Its first copy is in the log or on its way: the answer waits for everything up to here.
                        after = self.wal.appended();
                    }
                    refused.push((message.leaf_index, RejectCode::Duplicate));
                }
                Err(refusal) => {
                    self.refused_messages += 1;
                    refused.push((message.leaf_index, refusal_code(refusal)));
                }
            }
        }
        if !messages.is_empty() {
            let record = Record::BatchPart(store::BatchPart { batch_header: part.header, messages });
            after = self.wal.append(record).expect("room was checked for more than this");
            self.unwritten.push_back((after, since_us));
        }
        let pause_ms = self.room().pause_ms();
        let outcome = PartOutcome {
            connection: part.origin.connection,
            sequence: part.sequence,
            message_count,
            refused,
            pause_ms,
            durable_us: None,
        };
        if after <= self.wal.durable() {
            self.refused.push((part.origin.shard, outcome));
        } else {
            self.awaited.push_back(Awaited { after, to: part.origin.shard, outcome, stored });
        }
        None
    }

    pub(super) fn refuse_part(&mut self, part: BatchPart, code: RejectCode) {
        let message_count = u32::try_from(part.messages.len()).expect("a batch has at most 1,024 messages");
        let outcome = PartOutcome {
            connection: part.origin.connection,
            sequence: part.sequence,
            message_count,
            refused: part.messages.iter().map(|message| (message.leaf_index, code)).collect(),
            pause_ms: self.room().pause_ms(),
            durable_us: None,
        };
        self.refused.push((part.origin.shard, outcome));
    }

    /// Gives the record back when the log has no room for it right now.
    fn admit_settle(&mut self, settle: Settle) -> Option<Settle> {
        let record = Record::Settle(settle);
        match self.wal.check_append(&record) {
            Ok(()) if is_planted(Bug::SettleInMemoryOnly) => {
                self.apply_without_record(record);
                None
            }
            Ok(()) => {
                self.wal.append(record).expect("room was just checked");
                None
            }
            Err(AppendError::Full) => Some(settle_of(record)),
            Err(AppendError::StorageFull) => {
                self.held_settles.push_back(settle_of(record));
                None
            }
            // Nothing is settled any more: the messages are delivered again after the restart.
            Err(AppendError::Fenced(_) | AppendError::Sealed) => None,
            Err(error @ AppendError::RecordTooLarge { .. }) => panic!("a settle record fits every frame: {error}"),
        }
    }

    /// Only bugs that are planted do this.
    pub(super) fn apply_without_record(&mut self, record: Record) {
        let (segment, lsn) = (self.wal.extent().active, store::Lsn(0));
        let position = store::Position { segment, lsn, index: 0, offset: 0 };
        let (sequence, noted) = (self.wal.durable(), record.noted(position));
        self.mailboxes.apply(store::Durable { sequence, position, noted, record });
    }

    /// What is to die waits in the mailboxes until the log has room for it.
    fn admit_deaths(&mut self) {
        while let Some(dead) = self.mailboxes.next_death() {
            let record = Record::Dead(dead);
            if self.wal.check_append(&record).is_err() {
                let Record::Dead(dead) = record else { unreachable!("just made") };
                self.mailboxes.death_refused(dead);
                break;
            }
            self.wal.append(record).expect("room was just checked");
        }
    }

    /// What nobody waits for: at once where it is to go now, as when it has company in this turn, or when it has rested.
    fn admit_resting(&mut self, now: Now, goes_now: bool) {
        if self.resting.is_empty() && !self.mailboxes.has_cursors() {
            self.resting_since_us = None;
            return;
        }
        let since_us = *self.resting_since_us.get_or_insert(now.monotonic_us);
        let has_rested = now.monotonic_us.saturating_sub(since_us) >= SETTLE_REST_US;
        if !goes_now && !has_rested && self.resting.len() < SETTLES_RESTING_MAX {
            return;
        }
        self.resting_since_us = None;
        while let Some(settle) = self.resting.pop_front() {
            if let Some(blocked) = self.admit_settle(settle) {
                // The disk is busy, and has company for it when it has done something.
                self.resting.push_front(blocked);
                return;
            }
        }
        self.admit_cursors();
    }

    fn admit_held_settles(&mut self) {
        while let Some(settle) = self.held_settles.pop_front() {
            let record = Record::Settle(settle);
            if self.wal.check_append(&record).is_err() {
                self.held_settles.push_front(settle_of(record));
                break;
            }
            self.wal.append(record).expect("room was just checked");
        }
    }
}

pub(super) fn settle_of(record: Record) -> Settle {
    match record {
        Record::Settle(settle) => settle,
        other => panic!("the record was made from a settle: {other:?}"),
    }
}

pub(super) fn reject_code(error: &AppendError) -> RejectCode {
    match error {
        AppendError::Full => RejectCode::Overloaded,
        AppendError::StorageFull => RejectCode::StorageFull,
        AppendError::RecordTooLarge { .. } => RejectCode::EnvelopeOversized,
        AppendError::Sealed => RejectCode::ShuttingDown,
        AppendError::Fenced(_) => RejectCode::ShardFenced,
    }
}

fn refusal_code(refusal: Refusal) -> RejectCode {
    match refusal {
        Refusal::MailboxFull => RejectCode::MailboxFull,
        Refusal::OutsideDedupWindow | Refusal::AheadOfClock => RejectCode::OutsideDedupWindow,
        Refusal::TooManyInFlight => RejectCode::TooManyInFlight,
        // ShardFull, TooManySenders, and whatever a later version refuses for want of room.
        _ => RejectCode::Overloaded,
    }
}

/// What else is kept of a message. Only of one that asks for something: records without are of a version that is older.
fn flags(message: &PartMessage, expiry_ms: u64, now: Now) -> MessageFlags {
    if !message.wants_notice {
        return MessageFlags::NONE;
    }
    let wanted_ms = now.unix_ms.saturating_add(u64::from(message.ttl_s) * 1_000);
    match message.ttl_s > 0 && expiry_ms >= wanted_ms {
        true => MessageFlags::WANTS_NOTICE,
        false => MessageFlags::WANTS_NOTICE.with(MessageFlags::KEPT_FOR_RETENTION),
    }
}

pub(super) fn quota(limits: MailboxLimits) -> Quota {
    let messages_max = (limits.messages_max > 0).then_some(u64::from(limits.messages_max));
    Quota { messages_max, bytes_max: (limits.bytes_max > 0).then_some(limits.bytes_max) }
}

fn priority(priority: Priority) -> store::Priority {
    match priority {
        Priority::Low => store::Priority::Low,
        Priority::Normal => store::Priority::Normal,
        Priority::High => store::Priority::High,
        Priority::Critical => store::Priority::Critical,
    }
}
