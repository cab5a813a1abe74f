//! Messages whose time is over, and whose senders ask to be told so.
//!
//! ```text
//! found -> read, if it left memory -> told: a notice is made durable in its sender's mailbox -> settled
//! ```
//!
//! From when it is found a message counts as being settled: it is neither handed out nor moved, and what a consumer says
//! about it comes too late. The index knows neither sender nor message id, so the message itself is looked at, in memory or
//! read back as cleaning does. A message that cannot be read goes without a notice: a notice never holds what is over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::Mailboxes;
use super::deliver::{ReadDone, ReadProblemKind};
use crate::cold::{Job, JobId, Plan, Purpose};
use crate::flags::MessageFlags;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::limits::{EXPIRING_MAX, READ_TRIES_MAX};
use crate::planted::{Bug, is_planted};
use crate::record::{PartMessage, Settle, SettleCause};
use crate::slab::Slot;

/// A message whose time is over, and whose sender is to be told before it is settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// Whose message it is.
    pub mailbox: MailboxId,
    /// Its sequence there.
    pub sequence: u64,
    /// Who sent it.
    pub sender: SenderId,
    /// Its id.
    pub message_id: MessageId,
    /// When its time was over, in milliseconds since 1970.
    pub expiry_ms: u64,
    /// Whether that was what its mailbox keeps messages for, and not what its sender said.
    pub is_for_retention: bool,
}

/// Messages between being found and being settled.
#[derive(Debug, Default)]
pub(crate) struct Expiring {
    /// To be looked at, in the order in which they were found.
    found: VecDeque<(Slot, u64)>,
    /// The read that is under way.
    job: Option<JobId>,
    /// Looked at, to be told.
    ready: Vec<Expired>,
    /// Sequences of those whose senders cannot be told in this life of the node: the next one finds them again.
    untellable: BTreeSet<u64>,
    /// To be settled without anyone being told.
    unreadable: Vec<(MailboxId, u64)>,
    /// All that were found and are not settled: at most [`EXPIRING_MAX`].
    under_way: usize,
    failed_reads: u8,
    /// After a failed read: until the next tick.
    pauses: bool,
}

impl Mailboxes {
    /// Takes a message whose time is over, if its sender asks to be told. When as many are on their way as may be, it is
    /// found again later.
    pub(super) fn is_to_be_told(&mut self, slot: Slot) -> bool {
        let entry = self.index.entries.get_mut(slot);
        if !entry.wants_notice() {
            return false;
        }
        let sequence = entry.sequence();
        if self.expiring.under_way == EXPIRING_MAX || self.expiring.untellable.contains(&sequence) {
            return true;
        }
        self.expiring.under_way += 1;
        entry.set_settling(true);
        if entry.is_damaged() {
            let mailbox = self.mailbox_of(slot);
            self.expiring.unreadable.push((mailbox, sequence));
        } else {
            self.expiring.found.push_back((slot, sequence));
        }
        true
    }

    /// Messages whose senders are to be told that their time is over: when that is durable, or cannot be,
    /// [`settle_expired`](Self::settle_expired). Call it in every turn; it asks for what must be read.
    pub fn next_expired(&mut self) -> Vec<Expired> {
        while let Some(&(slot, sequence)) = self.expiring.found.front() {
            assert!(self.still_queued(slot, sequence).is_some(), "nobody else settles what is being settled");
            let Some((message, _)) = self.in_memory(slot) else { break };
            let expired = expired(message);
            self.expiring.ready.push(expired);
            self.expiring.found.pop_front();
        }
        self.read_expired();
        std::mem::take(&mut self.expiring.ready)
    }

    /// Messages that go without anyone being told, because they cannot be read. Call it in every turn.
    pub fn next_unreadable(&mut self) -> Vec<Settle> {
        let mut by_mailbox: BTreeMap<MailboxId, Vec<u64>> = BTreeMap::new();
        for (mailbox, sequence) in std::mem::take(&mut self.expiring.unreadable) {
            by_mailbox.entry(mailbox).or_default().push(sequence);
        }
        let settle = |(mailbox, sequences): (_, Vec<u64>)| self.settle_expired(mailbox, &sequences);
        by_mailbox.into_iter().filter_map(settle).collect()
    }

    /// The record that settles messages of [`next_expired`](Self::next_expired), to append.
    pub fn settle_expired(&mut self, mailbox: MailboxId, sequences: &[u64]) -> Option<Settle> {
        let &number = self.numbers.get(&mailbox)?;
        let is_expiring = |&&sequence: &&u64| {
            self.find(number, sequence).is_some_and(|slot| self.index.entries.get(slot).is_settling())
        };
        let sequences: Vec<u64> = sequences.iter().filter(is_expiring).copied().collect();
        self.expiring.under_way = self.expiring.under_way.saturating_sub(sequences.len());
        (!sequences.is_empty()).then_some(Settle { mailbox, cause: SettleCause::Expired, sequences })
    }

    /// The senders of messages of [`next_expired`](Self::next_expired) cannot be told before the node starts again: the messages
    /// wait for that, as any others, and are not given out again. Like those they can be moved, and hold nothing.
    pub fn tell_after_restart(&mut self, mailbox: MailboxId, sequences: &[u64]) {
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        for &sequence in sequences {
            let Some(slot) = self.find(number, sequence) else { continue };
            let entry = self.index.entries.get_mut(slot);
            if entry.is_settling() {
                entry.set_settling(false);
                self.expiring.under_way -= 1;
                self.expiring.untellable.insert(sequence);
            }
        }
    }

    /// A message leaves.
    pub(super) fn forget_untellable(&mut self, sequence: u64) {
        if !self.expiring.untellable.is_empty() {
            self.expiring.untellable.remove(&sequence);
        }
    }

    /// Messages whose time is over and that wait for their senders to be told.
    pub fn expiring_messages(&self) -> usize {
        self.expiring.under_way
    }

    /// A tick has passed: what failed is tried again.
    pub(super) fn expire_again(&mut self) {
        self.expiring.pauses = false;
    }

    fn read_expired(&mut self) {
        if self.expiring.job.is_some() || self.expiring.pauses || !self.cold.has_room() {
            return;
        }
        let mut plan = Plan::default();
        while let Some(&(slot, _)) = self.expiring.found.front() {
            if self.in_memory(slot).is_some() || !plan.add(slot, self.index.entries.get(slot)) {
                break;
            }
            self.expiring.found.pop_front();
            // After a failure, one at a time: what cannot be read must not take others with it.
            if self.expiring.failed_reads > 0 {
                break;
            }
        }
        if !plan.is_empty() {
            self.expiring.job = Some(self.cold.begin(Purpose::Expire, plan));
        }
    }

    pub(super) fn read_for_expiry(&mut self, job_id: JobId, job: &Job, done: &mut ReadDone) {
        assert_eq!(self.expiring.job.take(), Some(job_id), "expiry reads one thing at a time");
        if let Some(error) = &job.failed {
            self.expiring.failed_reads += 1;
            let tries = self.expiring.failed_reads;
            for wanted in job.wanted.iter().rev() {
                self.expiring.found.push_front((wanted.slot, wanted.sequence));
            }
            let first = job.wanted[0];
            if tries >= READ_TRIES_MAX {
                self.expiring.failed_reads = 0;
                self.expiring.found.pop_front();
                self.goes_untold(first.slot, ReadProblemKind::GivenUp(error.clone()), done);
                return;
            }
            self.expiring.pauses = true;
            if tries == 1 {
                done.problems.push(self.problem(first.slot, ReadProblemKind::TriedAgain(error.clone())));
            }
            return;
        }
        self.expiring.failed_reads = 0;
        for wanted in &job.wanted {
            match job.payload(wanted) {
                Ok(_) if is_planted(Bug::NoNoticeFromDisk) => {
                    let mailbox = self.mailbox_of(wanted.slot);
                    self.expiring.unreadable.push((mailbox, wanted.sequence));
                }
                Ok(payload) => self.expiring.ready.push(expired(&payload.message)),
                // It was being moved when it was found: it is read again where it is now.
                Err(_) if self.still_at(wanted).is_none() => {
                    self.expiring.found.push_front((wanted.slot, wanted.sequence));
                }
                Err(_) => self.goes_untold(wanted.slot, ReadProblemKind::Damaged, done),
            }
        }
    }

    fn goes_untold(&mut self, slot: Slot, kind: ReadProblemKind, done: &mut ReadDone) {
        let (mailbox, sequence) = (self.mailbox_of(slot), self.index.entries.get(slot).sequence());
        self.is_damaged(slot, kind, done);
        self.expiring.unreadable.push((mailbox, sequence));
    }

    fn mailbox_of(&self, slot: Slot) -> MailboxId {
        self.boxes.get(self.index.entries.get(slot).mailbox).taken().id
    }
}

fn expired(message: &PartMessage) -> Expired {
    Expired {
        mailbox: message.mailbox,
        sequence: message.sequence,
        sender: message.sender,
        message_id: message.message_id,
        expiry_ms: message.expiry_ms,
        is_for_retention: message.flags.contains(MessageFlags::KEPT_FOR_RETENTION),
    }
}
