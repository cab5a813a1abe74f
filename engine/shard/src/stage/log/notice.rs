//! What a shard does about messages that expired and whose senders ask to be told.
//!
//! ```text
//! mailbox's shard                                    shard of the sender's mailbox
//! -----------------------------------------------    ------------------------------------------------
//! found, looked at                -- Tell ------->   admitted, a Notice record, durable, delivered
//! settled: Expired                <-- Told -------   when it is durable, or when there is nobody or no room
//! waits for the next start        <-- Told -------   when the log is fenced or sealed
//! ```
//!
//! Promises that a message whose sender could be told is settled only when the notice is durable. A crash between the two
//! leads to a second notice, never to none. Behind a fence the sender is told after the restart.

use std::collections::BTreeMap;

use bytes::Bytes;
use creto_envelope::AgentId;
use creto_envelope::notice::{NOTICE_BODY_BYTES, NoticeBody, NoticeCause};
use creto_policy::{MailboxLimits, Snapshot};
use creto_store::planted::{Bug, is_planted};
use creto_store::{
    self as store, AppendClass, AppendError, Expired, MailboxId, MessageFlags, MessageId, Record, RecordLog,
    RecordSequence, SenderId,
};

use super::admit::quota;
use super::{Arrived, Log};
use crate::event::{Now, ShardIndex};
use crate::expiry::Bond;
use crate::limits::NOTICES_PER_RECORD_MAX;
use crate::route::{ExpiredMessage, Placement, Telling, Told};

/// Notices that wait for room in the log.
#[derive(Debug)]
pub(super) struct Notices {
    /// The shard that waits for the answer.
    from: ShardIndex,
    /// Whom to tell what, and what the mailbox of each may hold; `None` when nobody can be told.
    expired: Vec<(ExpiredMessage, Option<MailboxLimits>)>,
}

/// Notices that are appended.
#[derive(Debug)]
pub(super) struct Appended {
    after: RecordSequence,
    to: ShardIndex,
    told: Vec<Told>,
}

impl Notices {
    /// None of it is told.
    pub(super) fn untold(&self, outcome: Telling) -> (ShardIndex, Vec<Told>) {
        (self.from, self.expired.iter().map(|(expired, _)| told(expired, outcome)).collect())
    }
}

impl Appended {
    /// Whether it is known, after a failure, that these are durable: it is not.
    pub(super) fn unknown(mut self) -> (ShardIndex, Vec<Told>) {
        self.told.iter_mut().for_each(|told| told.outcome = Telling::NotNow);
        (self.to, self.told)
    }
}

impl<L: RecordLog> Log<L> {
    /// Messages that expired, by the shard that is to tell their senders.
    pub(crate) fn next_to_tell(&mut self, placement: &Placement) -> BTreeMap<ShardIndex, Vec<ExpiredMessage>> {
        let mut by_shard: BTreeMap<ShardIndex, Vec<ExpiredMessage>> = BTreeMap::new();
        // It settles nothing any more: senders are told after the restart.
        if self.is_closed() {
            return by_shard;
        }
        for expired in self.mailboxes.next_expired() {
            let expired = message(&expired);
            if is_planted(Bug::ForgetBeforeNotice) {
                self.settle_told(&[told(&expired, Telling::Durable)]);
            }
            by_shard.entry(placement.owner(&expired.sender)).or_default().push(expired);
        }
        for settle in self.mailboxes.next_unreadable() {
            self.messages_untold += settle.sequences.len() as u64;
            self.arrived.push_back(Arrived::Settle(settle));
        }
        by_shard
    }

    /// Takes messages that expired elsewhere, for their senders, whose mailboxes this shard owns.
    pub(crate) fn tell(&mut self, from: ShardIndex, expired: Vec<ExpiredMessage>, snapshot: &Snapshot) {
        let mut expired = expired.into_iter().map(|expired| {
            let sender = snapshot.principal(&expired.sender);
            let is_there = sender.filter(|sender| sender.state() != creto_envelope::AgentState::Revoked);
            // A notice belongs to no session, so the time does not matter.
            (expired, is_there.map(|sender| sender.mailbox_limits(u64::MAX)))
        });
        loop {
            let expired: Vec<_> = expired.by_ref().take(NOTICES_PER_RECORD_MAX).collect();
            if expired.is_empty() {
                break;
            }
            self.arrived.push_back(Arrived::Notices(Notices { from, expired }));
        }
        self.wants_turn = true;
    }

    /// Gives the notices back when the log has no room for them right now.
    pub(super) fn admit_notices(&mut self, now: Now, notices: Notices) -> Option<Notices> {
        let bytes = notices.expired.len() * store::PartMessage::encoded_bytes_of(0, NOTICE_BODY_BYTES);
        match self.wal.check_room(AppendClass::Message, store::BatchPart::encoded_bytes_of(0, bytes)) {
            Ok(()) => {}
            Err(AppendError::Full) => return Some(notices),
            Err(AppendError::Fenced(_) | AppendError::Sealed) => {
                self.answered.push(notices.untold(Telling::NotNow));
                return None;
            }
            Err(_) => {
                self.notices_refused += notices.expired.len() as u64;
                self.answered.push(notices.untold(Telling::Refused));
                return None;
            }
        }
        let Notices { from, expired } = notices;
        let (mut messages, mut answers) = (Vec::with_capacity(expired.len()), Vec::with_capacity(expired.len()));
        for (expired, limits) in expired {
            let mailbox = MailboxId(expired.sender.0);
            let admit = |limits| self.mailboxes.admit_notice(quota(limits), mailbox, NOTICE_BODY_BYTES).ok();
            let sequence = limits.and_then(admit);
            messages.extend(sequence.map(|sequence| store::PartMessage {
                mailbox,
                sender: SenderId::NODE,
                message_id: MessageId(expired.notice.message_id.0),
                sequence,
                // A notice is over by itself, and nobody is told of that.
                expiry_ms: self.retention.expiry_ms(now.unix_ms, 0, Bond::None, &MailboxLimits::default()),
                leaf_index: 0,
                priority: store::Priority::Normal,
                flags: MessageFlags::NONE,
                salt: [0; 16],
                path: Bytes::new(),
                envelope: Bytes::copy_from_slice(&expired.notice.to_bytes()),
            }));
            self.notices_refused += u64::from(sequence.is_none());
            answers.push(told(&expired, if sequence.is_some() { Telling::Durable } else { Telling::Refused }));
        }
        if messages.is_empty() {
            self.answered.push((from, answers));
            return None;
        }
        let record = Record::Notice(store::BatchPart { batch_header: Bytes::new(), messages });
        let after = self.wal.append(record).expect("room was checked for more than this");
        self.telling.push_back(Appended { after, to: from, told: answers });
        None
    }

    /// What is answered now about notices, and to whom.
    pub(super) fn take_told(&mut self) -> Vec<(ShardIndex, Vec<Told>)> {
        let mut answers = std::mem::take(&mut self.answered);
        while let Some(Appended { to, told, .. }) =
            self.telling.pop_front_if(|telling| telling.after <= self.wal.durable())
        {
            answers.push((to, told));
        }
        answers
    }

    /// Takes the answer: what expired may go, or waits.
    pub(crate) fn settle_told(&mut self, told: &[Told]) {
        let mut by_mailbox: BTreeMap<(AgentId, bool), Vec<u64>> = BTreeMap::new();
        for told in told {
            self.messages_untold += u64::from(told.outcome == Telling::Refused);
            let may_go = told.outcome != Telling::NotNow;
            by_mailbox.entry((told.mailbox, may_go)).or_default().push(told.sequence);
        }
        for ((mailbox, may_go), sequences) in by_mailbox {
            let mailbox = MailboxId(mailbox.0);
            if may_go {
                self.arrived.extend(self.mailboxes.settle_expired(mailbox, &sequences).map(Arrived::Settle));
            } else {
                self.mailboxes.tell_after_restart(mailbox, &sequences);
            }
        }
        self.wants_turn = true;
    }

    /// Notices that this shard could not give: their mailboxes were full or unknown, or the log had no room.
    #[must_use]
    pub fn notices_refused(&self) -> u64 {
        self.notices_refused
    }

    /// Messages that expired without a notice that was asked for: their senders' mailboxes were full or unknown, the log had
    /// no room, or they could not be read.
    #[must_use]
    pub fn messages_untold(&self) -> u64 {
        self.messages_untold
    }
}

fn message(expired: &Expired) -> ExpiredMessage {
    let mailbox = AgentId(expired.mailbox.0);
    let cause = if expired.is_for_retention { NoticeCause::Retention } else { NoticeCause::TimeToLive };
    let notice = NoticeBody {
        recipient: mailbox,
        message_id: creto_envelope::MessageId(expired.message_id.0),
        expired_at_ms: expired.expiry_ms,
        cause,
    };
    ExpiredMessage { sender: AgentId(expired.sender.0), mailbox, sequence: expired.sequence, notice }
}

fn told(expired: &ExpiredMessage, outcome: Telling) -> Told {
    Told { mailbox: expired.mailbox, sequence: expired.sequence, outcome }
}
