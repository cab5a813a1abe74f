//! What goes to a subscriber next, from memory or from disk.

use bytes::Bytes;
use thiserror::Error;

use super::{Delivery, LetterRead, LetterUnread, Mailboxes};
use crate::cache::Cache;
use crate::cold::{Cold, ColdRead, Job, JobId, Mismatch, Plan, Purpose, ReadId, Wanted};
use crate::entry::Entry;
use crate::id::MailboxId;
use crate::limits::READ_TRIES_MAX;
use crate::lsn::SegmentNumber;
use crate::planted::{Bug, is_planted};
use crate::record::PartMessage;
use crate::slab::Slot;
use crate::wal::DiskError;

/// What a finished read led to.
#[derive(Debug, Default)]
pub struct ReadDone {
    /// A mailbox that may have something to hand out now.
    pub ready: Option<MailboxId>,
    /// Messages that were read back.
    pub messages: u64,
    /// What could not be read, to tell an operator.
    pub problems: Vec<ReadProblem>,
    /// What became of reading a dead letter to be looked at.
    pub letter: Option<(LetterRead, Result<Box<Delivery>, LetterUnread>)>,
}

/// A message that cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("message {sequence} of mailbox {mailbox}, in segment {segment} at byte {offset}, cannot be read back: {kind}")]
pub struct ReadProblem {
    /// Whose message.
    pub mailbox: MailboxId,
    /// Its sequence.
    pub sequence: u64,
    /// The segment.
    pub segment: SegmentNumber,
    /// The byte in it.
    pub offset: u32,
    /// What is wrong.
    pub kind: ReadProblemKind,
}

/// Why a message cannot be read back.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadProblemKind {
    /// The bytes are not those that were written.
    #[error(
        "its bytes are not those that were written; it stays in the log and is not delivered: keep a copy of the folder, \
         run `creto wal verify` on it, and bring the segment back from a backup"
    )]
    Damaged,
    /// The disk does not give them; it is asked again.
    #[error("{0}; it is tried again")]
    TriedAgain(DiskError),
    /// The disk does not give them, however often it is asked.
    #[error("{0}; it stays in the log and is not delivered: check the disk, then start the node again")]
    GivenUp(DiskError),
}

/// A message that is in memory, with the header of its batch.
pub(super) type InMemory<'m> = (&'m PartMessage, &'m Bytes);

impl Mailboxes {
    /// The next messages for the subscriber of a mailbox, within its credit: highest priority first, then in order. With
    /// any byte of credit left, one message may overdraw it.
    /// They count as handed out until they are settled or the mailbox is [`reset`](Self::reset).
    /// What expired is left out; [`expire`](Self::expire) settles it. After subscribers that disappeared without settling
    /// anything there is less, or nothing for a while; [`take_ready`](Self::take_ready) says when there is more.
    ///
    /// Stops where a message is not in memory. It is then asked for, with what follows it
    /// ([`next_read`](Self::next_read)); when it is there, [`read_completed`](Self::read_completed) or
    /// [`next_reader`](Self::next_reader) names the mailbox, to be asked for again in that turn.
    pub fn next_for_delivery(
        &mut self,
        mailbox: MailboxId,
        credit_messages: u32,
        credit_bytes: u64,
        now_ms: u64,
    ) -> Vec<Delivery> {
        let (mut deliveries, mut has_message) = (Vec::new(), false);
        let Some(&number) = self.numbers.get(&mailbox) else { return deliveries };
        let queues = self.boxes.get(number).taken();
        let (is_probing, is_pausing) = (queues.is_probing(), queues.is_pausing);
        let mut allowed = u32::try_from(queues.messages_allowed(&self.index.entries, now_ms)).unwrap_or(u32::MAX);
        let (mut messages_left, mut bytes_left) = (credit_messages, credit_bytes);
        while messages_left > 0 && bytes_left > 0 && !is_pausing {
            let Some(slot) = self.boxes.get(number).taken().front() else { break };
            let entry = self.index.entries.get(slot);
            let is_notice = entry.is_notice();
            if allowed == 0 && !is_notice {
                break;
            }
            // What is passed over is not in hand, whoever had it before.
            let mut attempt = 0;
            let is_pushed_anyway = is_planted(Bug::PushWhatIsOver) && self.in_memory(slot).is_some();
            let is_over = entry.is_over(now_ms) && !is_pushed_anyway;
            if !is_over && !entry.is_settling() && !entry.is_damaged() {
                let (record, next_attempt) = (entry.place(), entry.attempt.saturating_add(1));
                let Some((message, batch_header)) = self.in_memory(slot) else {
                    self.read_ahead(number, messages_left.min(allowed.max(1)), bytes_left, now_ms);
                    break;
                };
                // The index rounds the time up to seconds.
                let is_over = message.expiry_ms != 0 && message.expiry_ms <= now_ms;
                if !is_over || is_planted(Bug::PushWhatIsOver) {
                    let bytes = message.envelope.len() as u64;
                    // The first message may overdraw: else one that is larger than all credit would wait for ever.
                    if bytes > bytes_left && !deliveries.is_empty() {
                        break;
                    }
                    attempt = next_attempt;
                    deliveries.push(Delivery {
                        message: message.clone(),
                        batch_header: batch_header.clone(),
                        record: (record.segment, record.record_offset),
                        attempt,
                    });
                    bytes_left = bytes_left.saturating_sub(bytes);
                    messages_left -= 1;
                    allowed -= u32::from(!is_notice);
                    has_message |= !is_notice;
                }
            }
            self.index.entries.get_mut(slot).attempt = attempt;
            // What is over or being settled waits with what is handed out for the record that ends it.
            self.boxes.get_mut(number).taken_mut().hand_out(&mut self.index.entries, slot);
        }
        if is_probing && has_message {
            self.probe_begins(number);
        }
        deliveries
    }

    /// Bytes of the log to read, for [`Wal::read`](crate::Wal::read): call until `None`, after deliveries were asked for and
    /// after [`read_completed`](Self::read_completed).
    pub fn next_read(&mut self) -> Option<ColdRead> {
        self.cold.next_read()
    }

    /// Takes what a read brought, and checks it. What is good is in memory until [`end_turn`](Self::end_turn).
    ///
    /// # Panics
    /// When no read of this id is under way.
    pub fn read_completed(&mut self, id: ReadId, outcome: Result<Bytes, DiskError>) -> ReadDone {
        let mut done = ReadDone::default();
        let Some((job_id, job)) = self.cold.completed(id, outcome) else { return done };
        match job.purpose {
            Purpose::Deliver(mailbox) => self.read_for_delivery(mailbox, job_id, &job, &mut done),
            Purpose::Publish(channel) => self.read_for_channel(channel, job_id, &job, &mut done),
            Purpose::Move => self.read_for_moving(job_id, &job, &mut done),
            Purpose::Look(read) => self.letter_is_read(read, &job, &mut done),
            Purpose::Expire => self.read_for_expiry(job_id, &job, &mut done),
        }
        done
    }

    /// A mailbox that waited for room to read, when there is some: ask for its deliveries. Call until `None`. What channels
    /// waited to read is asked for ([`next_read`](Self::next_read)).
    pub fn next_reader(&mut self) -> Option<MailboxId> {
        loop {
            let mailbox = self.cold.next_waiting()?;
            self.channel_has_room(mailbox);
            // It may have been emptied, and filled again, since.
            if let Some(queues) = self.mailbox_mut(mailbox)
                && std::mem::take(&mut queues.waits_for_room)
            {
                return Some(mailbox);
            }
        }
    }

    /// Mailboxes whose reads failed and may be tried again: ask for their deliveries. Call it at every tick.
    pub fn retry_reads(&mut self) -> Vec<MailboxId> {
        self.clean_again();
        self.expire_again();
        for channel in std::mem::take(&mut self.channels.pausing) {
            self.channel_reads_again(channel);
        }
        let pausing = std::mem::take(&mut self.pausing);
        for &mailbox in &pausing {
            if let Some(queues) = self.mailbox_mut(mailbox) {
                queues.pauses = false;
            }
        }
        pausing
    }

    /// All deliveries of a turn were asked for: what was read for it is let go, and what the cache holds too much.
    pub fn end_turn(&mut self) {
        self.forget_memos();
        self.cold.end_turn();
        self.cache.shrink();
    }

    /// Reads that are asked for and not answered.
    pub fn reads_in_flight(&self) -> usize {
        self.cold.in_flight()
    }

    pub(super) fn in_memory(&self, slot: Slot) -> Option<InMemory<'_>> {
        in_memory(&self.cache, &self.cold, slot, self.index.entries.get(slot))
    }

    /// Has the next messages of a mailbox read that are not in memory, as far as its credit goes.
    fn read_ahead(&mut self, number: u32, messages: u32, bytes: u64, now_ms: u64) {
        let queues = self.boxes.get(number).taken();
        if queues.read.is_some() || queues.waits_for_room || queues.pauses {
            return;
        }
        let mailbox = queues.id;
        if !self.cold.has_room() {
            self.boxes.get_mut(number).taken_mut().waits_for_room = true;
            self.cold.wait(mailbox);
            return;
        }
        // After a failure, one at a time: what cannot be read must not take others with it.
        let messages = if queues.failed_reads > 0 { 1 } else { messages };
        let (mut messages_left, mut bytes_left) = (messages, bytes);
        let mut plan = Plan::default();
        for slot in queues.waiting(&self.index.entries) {
            let entry = self.index.entries.get(slot);
            if entry.is_over(now_ms) || entry.is_settling() || entry.is_damaged() {
                continue;
            }
            let envelope_bytes = entry.envelope_bytes() as u64;
            let is_beyond = messages_left == 0 || (envelope_bytes > bytes_left && !plan.is_empty());
            if is_beyond || self.in_memory(slot).is_some() || !plan.add(slot, entry) {
                break;
            }
            messages_left -= 1;
            bytes_left = bytes_left.saturating_sub(envelope_bytes);
        }
        assert!(!plan.is_empty(), "the first message that waits is not in memory");
        let job = self.cold.begin(Purpose::Deliver(mailbox), plan);
        self.boxes.get_mut(number).taken_mut().read = Some(job);
    }

    fn read_for_delivery(&mut self, mailbox: MailboxId, job_id: JobId, job: &Job, done: &mut ReadDone) {
        // The mailbox may be gone, or be another one of the same name that did not ask for this.
        let Some(queues) = self.mailbox_mut(mailbox).filter(|queues| queues.read == Some(job_id)) else { return };
        queues.read = None;
        if let Some(error) = &job.failed {
            self.read_failed(mailbox, job, error, done);
            return;
        }
        queues.failed_reads = 0;
        done.ready = Some(mailbox);
        for wanted in &job.wanted {
            let Some(slot) = self.still_queued(wanted.slot, wanted.sequence) else { continue };
            match job.payload(wanted) {
                Ok(payload) => {
                    self.cold.stage(slot, payload);
                    done.messages += 1;
                }
                // It was moved meanwhile, and its segment may be another one by now: it is read again where it is.
                Err(_) if self.index.entries.get(slot).place() != wanted.place => {}
                Err(Mismatch::Damage | Mismatch::HeaderBeyond(_)) => {
                    self.is_damaged(slot, ReadProblemKind::Damaged, done);
                }
            }
        }
    }

    /// The disk did not give what was asked for. Its files may be gone because all that was wanted of them is settled.
    fn read_failed(&mut self, mailbox: MailboxId, job: &Job, error: &DiskError, done: &mut ReadDone) {
        let Some(slot) = job.wanted.iter().find_map(|wanted| self.still_at(wanted)) else {
            done.ready = Some(mailbox);
            return;
        };
        let queues = self.mailbox_mut(mailbox).expect("a message of it is queued");
        queues.failed_reads += 1;
        let tries = queues.failed_reads;
        if tries >= READ_TRIES_MAX {
            queues.failed_reads = 0;
            done.ready = Some(mailbox);
            self.is_damaged(slot, ReadProblemKind::GivenUp(error.clone()), done);
            return;
        }
        queues.pauses = true;
        self.pausing.push(mailbox);
        if tries == 1 {
            let problem = self.problem(slot, ReadProblemKind::TriedAgain(error.clone()));
            done.problems.push(problem);
        }
    }

    /// A message cannot be handed out. It stays queued, beside what is handed out, until it expires.
    pub(super) fn is_damaged(&mut self, slot: Slot, kind: ReadProblemKind, done: &mut ReadDone) {
        done.problems.push(self.problem(slot, kind));
        self.index.set_damaged(slot);
        let entry = self.index.entries.get(slot);
        let (number, sequence) = (entry.mailbox, entry.sequence());
        if entry.is_published() {
            // Else it was counted as missed already by those that want it.
            if !entry.is_settling() {
                self.pass_over_damage(number, sequence);
            }
        } else if !entry.is_handed_out() && !entry.is_delayed() && !entry.is_dead() {
            self.boxes.get_mut(number).taken_mut().hand_out(&mut self.index.entries, slot);
        }
    }

    pub(super) fn problem(&self, slot: Slot, kind: ReadProblemKind) -> ReadProblem {
        let entry = self.index.entries.get(slot);
        let place = entry.place();
        ReadProblem {
            mailbox: self.boxes.get(entry.mailbox).taken().id,
            sequence: entry.sequence(),
            segment: place.segment,
            offset: place.message_offset,
            kind,
        }
    }

    /// The slot of a message that is queued, and where it was when it was asked for.
    pub(super) fn still_at(&self, wanted: &Wanted) -> Option<Slot> {
        let slot = self.still_queued(wanted.slot, wanted.sequence)?;
        (self.index.entries.get(slot).place() == wanted.place).then_some(slot)
    }

    pub(super) fn still_queued(&self, slot: Slot, sequence: u64) -> Option<Slot> {
        self.index.entries.look(slot).filter(|entry| entry.sequence() == sequence).map(|_| slot)
    }
}

/// A message that is in memory: in the cache, or read back in this turn.
pub(super) fn in_memory<'m>(cache: &'m Cache, cold: &'m Cold, slot: Slot, entry: &Entry) -> Option<InMemory<'m>> {
    let sequence = entry.sequence();
    cache.get(entry.piece, sequence).or_else(|| {
        let payload = cold.staged(slot, sequence)?;
        Some((&payload.message, &payload.batch_header))
    })
}
