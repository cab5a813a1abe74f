//! Messages of channels that left memory, read back for those that wait for them.
//!
//! Readers wait for a message, not for a read: all that want the same one wait for one read of it, and are woken by that and
//! nothing else. Messages wait in a line, whoever wants them; when a read is done, the next in line is read. So readers at many
//! places have their turns, one after the other, and a read that frees wakes nobody who would only be sent away again.
//!
//! Failed reads are counted for each message by itself: what can be read neither takes the count of another back, nor adds to it.

use super::Mailboxes;
use super::deliver::{ReadDone, ReadProblemKind, in_memory};
use crate::channel::NextInLine;
use crate::cold::{Job, JobId, Mismatch, Plan, Purpose};
use crate::id::MailboxId;
use crate::limits::{CHANNEL_READS_MAX, READ_TRIES_MAX};
use crate::subscription::{Reader, Waits};

impl Mailboxes {
    /// A reader waits for a message that is on disk only, and has credit for this and what follows it.
    pub(super) fn waits_for_disk(&mut self, reader: Reader, number: u32, wanted: NextInLine) {
        let is_waiting = |waits| matches!(waits, Waits::Read(sequence, _) if sequence == wanted.sequence);
        if !self.waits_of(reader).is_some_and(is_waiting) {
            self.stop_waiting(reader);
            let at = self.channel_mut(number).wait_for_read(reader, wanted);
            self.set_waits(reader, Waits::Read(wanted.sequence, at));
        }
        self.read_next_in_line(number);
    }

    /// Begins as many reads of a channel as there may be, for those that wait longest.
    fn read_next_in_line(&mut self, number: u32) {
        loop {
            let queues = self.boxes.get_mut(number).taken_mut();
            let mailbox = queues.id;
            let Some(channel) = &mut queues.channel else { return };
            let is_full = channel.reads.len() >= CHANNEL_READS_MAX;
            if channel.pauses || channel.waits_for_room || is_full || channel.is_line_empty() {
                return;
            }
            if !self.cold.has_room() {
                channel.waits_for_room = true;
                self.cold.wait(mailbox);
                return;
            }
            let Some(next) = channel.next_in_line() else { return };
            if !self.read_published(number, next) {
                // It is in memory by now, or gone, or cannot be read: they go on.
                self.wake_awaiting(number, &[next.sequence]);
            }
        }
    }

    /// Has a message of a channel read, and what follows it as far as its readers have credit; `false` when that need not, or
    /// cannot, be read.
    fn read_published(&mut self, number: u32, next: NextInLine) -> bool {
        let queues = self.boxes.get_mut(number).taken_mut();
        let mailbox = queues.id;
        let Some(channel) = &mut queues.channel else { return false };
        let (mut messages_left, mut bytes_left) = (next.messages, next.bytes);
        let (mut plan, mut wanted) = (Plan::default(), Vec::new());
        for kept in channel.kept_after(next.sequence.saturating_sub(1)) {
            let Some(slot) = self.index.find(kept.sequence) else { continue };
            let entry = self.index.entries.get(slot);
            if entry.is_over(self.channels.now_ms) || entry.is_settling() || entry.is_damaged() {
                continue;
            }
            // What cannot be read must not take others with it: after a failure, each by itself.
            let has_failed = channel.failed_reads.contains_key(&kept.sequence);
            let is_other = kept.sequence != next.sequence;
            let envelope_bytes = entry.envelope_bytes() as u64;
            let is_beyond = is_other && (messages_left == 0 || envelope_bytes > bytes_left || has_failed);
            let is_here = in_memory(&self.cache, &self.cold, slot, entry).is_some();
            if (is_other && wanted.is_empty()) || is_beyond || is_here || !plan.add(slot, entry) {
                break;
            }
            wanted.push(kept.sequence);
            messages_left = messages_left.saturating_sub(1);
            bytes_left = bytes_left.saturating_sub(envelope_bytes);
            if has_failed {
                break;
            }
        }
        if plan.is_empty() {
            return false;
        }
        let job = self.cold.begin(Purpose::Publish(mailbox), plan);
        channel.reads.insert(job, wanted);
        true
    }

    pub(super) fn read_for_channel(&mut self, mailbox: MailboxId, job_id: JobId, job: &Job, done: &mut ReadDone) {
        // The channel may be gone, or be another one of the same name that did not ask for this.
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        let Some(sequences) = self.channel_mut(number).reads.remove(&job_id) else { return };
        if let Some(error) = &job.failed {
            let first = job.wanted.iter().find_map(|wanted| self.still_at(wanted).map(|slot| (slot, wanted.sequence)));
            // Else all that was wanted of it is gone.
            if let Some((slot, sequence)) = first {
                let channel = self.channel_mut(number);
                let tries = channel.failed_reads.entry(sequence).or_default();
                *tries = tries.saturating_add(1);
                let tries = *tries;
                if tries < READ_TRIES_MAX {
                    channel.wait_again(&sequences);
                    if !std::mem::replace(&mut channel.pauses, true) {
                        self.channels.pausing.push(mailbox);
                    }
                    if tries == 1 {
                        done.problems.push(self.problem(slot, ReadProblemKind::TriedAgain(error.clone())));
                    }
                    return;
                }
                channel.failed_reads.remove(&sequence);
                self.is_damaged(slot, ReadProblemKind::GivenUp(error.clone()), done);
            }
        } else {
            for wanted in &job.wanted {
                self.channel_mut(number).failed_reads.remove(&wanted.sequence);
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
        self.wake_awaiting(number, &sequences);
        self.read_next_in_line(number);
    }

    /// There is room to read.
    pub(super) fn channel_has_room(&mut self, mailbox: MailboxId) {
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        let Some(channel) = &mut self.boxes.get_mut(number).taken_mut().channel else { return };
        if std::mem::take(&mut channel.waits_for_room) {
            self.read_next_in_line(number);
        }
    }

    /// A tick has passed since a read failed.
    pub(super) fn channel_reads_again(&mut self, mailbox: MailboxId) {
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        let Some(channel) = &mut self.boxes.get_mut(number).taken_mut().channel else { return };
        channel.pauses = false;
        self.read_next_in_line(number);
    }

    /// Those that wait for these messages are ready.
    fn wake_awaiting(&mut self, number: u32, sequences: &[u64]) {
        for &sequence in sequences {
            for reader in self.channel_mut(number).take_awaiting(sequence) {
                self.is_reader_ready(reader);
            }
        }
    }

    /// A message of a channel cannot be read: groups give it up.
    pub(super) fn pass_over_damage(&mut self, number: u32, sequence: u64) {
        let channel = self.channel_mut(number);
        channel.damaged.insert(sequence);
        let groups: Vec<u64> = channel.behind(sequence).collect();
        for group in groups {
            self.advance(group);
        }
    }
}
