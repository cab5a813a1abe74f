//! Dead letters: messages that are kept and not delivered any more, until their owner has them delivered again or deletes
//! them, or their time is over.
//!
//! A message dies, and lives again, by a record, and only once that is durable. In memory its entry in the index has a flag,
//! and what is known of its death stands here. The record is needed as long as the message is: its segment is held, and where
//! the message is moved, it is written again behind it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::deliver::{ReadDone, ReadProblemKind};
use super::{Delivery, Mailboxes};
use crate::cold::{Job, Plan, Purpose};
use crate::id::MailboxId;
use crate::limits::{BLOCK_BYTES, DEAD_RECORD_LETTERS_MAX};
use crate::lsn::SegmentNumber;
use crate::planted::{Bug, is_planted};
use crate::record::{Dead, DeadLetter, DeathCause, LETTER_BYTES, Priority, Revive, Settle, SettleCause};
use crate::slab::Slot;

/// A dead letter in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedLetter {
    /// Which message, and why it is dead.
    pub letter: DeadLetter,
    /// Bytes of its envelope.
    pub envelope_bytes: usize,
    /// Which queue it waited in.
    pub priority: Priority,
    /// When it loses its meaning, in milliseconds since 1970, up to a second late; 0 = never.
    pub expiry_ms: u64,
}

/// A read of a dead letter that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LetterRead(u64);

/// Why a dead letter was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterUnread {
    /// It is none any more, or is damaged.
    Gone,
    /// The disk did not give it: it may, later.
    NotNow,
}

/// A dead letter to look at.
#[derive(Debug)]
pub enum LetterFound {
    /// Here it is.
    Here(Box<Delivery>),
    /// It is read ([`next_read`](Mailboxes::next_read)); [`ReadDone::letter`](crate::ReadDone::letter) brings it.
    Later(LetterRead),
    /// As much is read as may be: ask again later.
    Busy,
}

/// All dead letters of a shard.
#[derive(Debug, Default)]
pub(super) struct DeadLetters {
    /// By number of the mailbox and sequence.
    letters: BTreeMap<(u32, u64), Letter>,
    /// Records of messages that are to die, to be appended. A message is in one of them at most.
    dying: VecDeque<Dead>,
    /// Sequences whose messages were moved, and whose death is to be written again.
    moved: BTreeSet<u64>,
    reads: u64,
}

#[derive(Debug, Clone, Copy)]
struct Letter {
    letter: DeadLetter,
    /// Of the record that says so.
    segment: SegmentNumber,
    /// Where the message was that the record speaks of, when it was moved since: a record about a message that is not there is
    /// ignored, so both are needed until it is written again.
    moved_from: Option<SegmentNumber>,
}

impl Letter {
    /// Segments that the death needs, beside the one that the message is in.
    fn needs(self) -> impl Iterator<Item = SegmentNumber> {
        std::iter::once(self.segment).chain(self.moved_from)
    }
}

/// Sequences that one look for what is to be written again goes over.
const MOVED_PER_LOOK: usize = 4_096;

impl DeadLetters {
    /// Bytes of the log that the records of all deaths take.
    pub(super) fn bytes(&self) -> u64 {
        (self.letters.len() * LETTER_BYTES) as u64
    }
}

impl Mailboxes {
    /// The consumer refuses these messages for good, with a reason of its own each: they go to the dead letters
    /// ([`next_death`](Self::next_death)). What is not handed out is left out, and so are notices.
    pub fn reject(&mut self, mailbox: MailboxId, asked: &[(u64, u16)], now_ms: u64) {
        let Some(&number) = self.numbers.get(&mailbox) else { return };
        let mut dying = Vec::new();
        for &(sequence, reason) in asked {
            let Some(slot) = self.find_in_hand(number, sequence) else { continue };
            let entry = self.index.entries.get_mut(slot);
            if entry.is_notice() {
                continue;
            }
            entry.set_settling(true);
            let deliveries = self.failed_deliveries(sequence).saturating_add(1);
            dying.push(DeadLetter { sequence, died_ms: now_ms, reason, cause: DeathCause::Rejected, deliveries });
        }
        if !dying.is_empty() {
            self.consumer_is_well(number);
        }
        self.will_die(mailbox, dying);
    }

    /// A record by which messages die, to append: call until `None`. If it is not appended, give it back to
    /// [`death_refused`](Self::death_refused); the messages are not delivered meanwhile.
    pub fn next_death(&mut self) -> Option<Dead> {
        self.dead.dying.pop_front().or_else(|| self.next_death_again())
    }

    /// The log had no room for what [`next_death`](Self::next_death) gave out.
    pub fn death_refused(&mut self, dead: Dead) {
        if dead.is_again {
            self.dead.moved.extend(dead.letters.iter().map(|letter| letter.sequence));
        } else {
            self.dead.dying.push_front(dead);
        }
    }

    /// The dead letters of a mailbox behind this sequence, in their order, up to `letters_max`.
    pub fn dead_letters(&self, mailbox: MailboxId, after: u64, letters_max: usize) -> Vec<ListedLetter> {
        let Some(&number) = self.numbers.get(&mailbox) else { return Vec::new() };
        let Some(first) = after.checked_add(1) else { return Vec::new() };
        let letters = self.dead.letters.range((number, first)..=(number, u64::MAX)).take(letters_max);
        let listed = letters.map(|(&(_, sequence), Letter { letter, .. })| {
            let slot = self.index.find(sequence).expect("a dead letter is queued");
            let entry = self.index.entries.get(slot);
            ListedLetter {
                letter: *letter,
                envelope_bytes: entry.envelope_bytes(),
                priority: entry.priority(),
                expiry_ms: entry.expiry_ms(),
            }
        });
        listed.collect()
    }

    /// Dead letters of a mailbox.
    pub fn dead_messages(&self, mailbox: MailboxId) -> u64 {
        self.mailbox(mailbox).map_or(0, |queues| queues.dead_messages)
    }

    /// Dead letters of the shard.
    pub fn all_dead_messages(&self) -> u64 {
        self.dead.letters.len() as u64
    }

    /// A dead letter, to look at; it stays one. `None` when the mailbox has none of this sequence that can be read.
    pub fn dead_letter(&mut self, mailbox: MailboxId, sequence: u64) -> Option<LetterFound> {
        let slot = self.find_dead(mailbox, sequence)?;
        let entry = self.index.entries.get(slot);
        if entry.is_damaged() {
            return None;
        }
        let (place, attempt) = (entry.place(), entry.attempt);
        if let Some((message, batch_header)) = self.in_memory(slot) {
            let record = (place.segment, place.record_offset);
            let (message, batch_header) = (message.clone(), batch_header.clone());
            return Some(LetterFound::Here(Box::new(Delivery { message, batch_header, record, attempt })));
        }
        if !self.cold.has_room() {
            return Some(LetterFound::Busy);
        }
        self.dead.reads += 1;
        let read = LetterRead(self.dead.reads);
        self.read_letter(read, slot);
        Some(LetterFound::Later(read))
    }

    /// The record by which dead letters of a mailbox are to be delivered again, in their old order and with all their
    /// deliveries before them, to append. What is not dead is left out; `None` when nothing is left. If the record is not
    /// appended, call [`revive_refused`](Self::revive_refused).
    pub fn revive(&mut self, mailbox: MailboxId, sequences: &[u64]) -> Option<Revive> {
        let sequences = self.dead_of(mailbox, sequences);
        for &sequence in &sequences {
            let slot = self.index.find(sequence).expect("it was just found");
            self.index.entries.get_mut(slot).set_settling(true);
        }
        (!sequences.is_empty()).then_some(Revive { mailbox, sequences })
    }

    /// A record of [`revive`](Self::revive) was not appended: its messages stay dead.
    pub fn revive_refused(&mut self, revive: &Revive) {
        for &sequence in &revive.sequences {
            if let Some(slot) = self.find_dead(revive.mailbox, sequence) {
                self.index.entries.get_mut(slot).set_settling(false);
            }
        }
    }

    /// The record that deletes dead letters of a mailbox, to append; as [`settle`](Self::settle), and what is not dead is
    /// left out.
    pub fn purge(&mut self, mailbox: MailboxId, sequences: &[u64]) -> Option<Settle> {
        let sequences = self.dead_of(mailbox, sequences);
        self.settle(mailbox, &sequences, SettleCause::Purged)
    }

    /// Of these sequences, those of dead letters about which nothing else is on its way to the log; each once.
    fn dead_of(&self, mailbox: MailboxId, sequences: &[u64]) -> Vec<u64> {
        let sequences: BTreeSet<u64> = sequences.iter().take(DEAD_RECORD_LETTERS_MAX).copied().collect();
        let is_free = |sequence: &u64| {
            let slot = self.find_dead(mailbox, *sequence);
            slot.is_some_and(|slot| !self.index.entries.get(slot).is_settling())
        };
        sequences.into_iter().filter(is_free).collect()
    }

    fn find_dead(&self, mailbox: MailboxId, sequence: u64) -> Option<Slot> {
        let &number = self.numbers.get(&mailbox)?;
        self.find(number, sequence).filter(|&slot| self.index.entries.get(slot).is_dead())
    }

    /// These messages, which are handed out and no more will be, die when their record is durable.
    pub(super) fn will_die(&mut self, mailbox: MailboxId, dying: Vec<DeadLetter>) {
        let records = dying.chunks(DEAD_RECORD_LETTERS_MAX);
        let records = records.map(|letters| Dead { mailbox, is_again: false, letters: letters.to_vec() });
        self.dead.dying.extend(records);
    }

    /// Deaths of one mailbox whose messages were moved, to be written again: those that are still dead, and about which
    /// nothing else is on its way to the log, which would then stand before this.
    fn next_death_again(&mut self) -> Option<Dead> {
        let mut dead: Option<(u32, Dead)> = None;
        let mut done = Vec::new();
        for &sequence in self.dead.moved.iter().take(MOVED_PER_LOOK) {
            let entry = self.index.find(sequence).map(|slot| self.index.entries.get(slot));
            let Some(entry) = entry.filter(|entry| entry.is_dead()) else {
                done.push(sequence);
                continue;
            };
            if entry.is_settling() {
                continue;
            }
            let number = entry.mailbox;
            let (of, dead) = dead.get_or_insert_with(|| {
                let mailbox = self.boxes.get(number).taken().id;
                (number, Dead { mailbox, is_again: true, letters: Vec::new() })
            });
            if *of == number {
                done.push(sequence);
                dead.letters.push(self.dead.letters[&(number, sequence)].letter);
                if dead.letters.len() == DEAD_RECORD_LETTERS_MAX {
                    break;
                }
            }
        }
        for sequence in done {
            self.dead.moved.remove(&sequence);
        }
        dead.map(|(_, dead)| dead)
    }

    /// A message was moved: if it is dead, that is to be written again.
    pub(super) fn dead_is_moved(&mut self, slot: Slot, from: SegmentNumber) {
        let entry = self.index.entries.get(slot);
        if !entry.is_dead() {
            return;
        }
        let letter = self.dead.letters.get_mut(&(entry.mailbox, entry.sequence())).expect("a dead letter stands here");
        if is_planted(Bug::ForgetDeadWhenMoved) {
            let before = std::mem::replace(&mut letter.segment, entry.segment());
            self.index.mark(letter.segment);
            self.index.unmark(before);
            return;
        }
        self.dead.moved.insert(entry.sequence());
        if letter.moved_from.is_none() {
            letter.moved_from = Some(from);
            self.index.mark(from);
        }
    }

    pub(super) fn apply_dead(&mut self, dead: &Dead, segment: SegmentNumber) {
        // A death may outlive the segment of its message, as a settle may.
        let Some(&number) = self.numbers.get(&dead.mailbox) else { return };
        // What cleaning itself writes must not be a reason to clean.
        if !dead.is_again {
            self.a_record_is_behind(0);
        }
        for letter in &dead.letters {
            let found = self.find(number, letter.sequence);
            // A channel has no dead letters: no record of ours says so.
            let Some(slot) = found.filter(|&slot| !self.index.entries.get(slot).is_published()) else { continue };
            self.index.mark(segment);
            let marked = Letter { letter: *letter, segment, moved_from: None };
            if let Some(before) = self.dead.letters.insert((number, letter.sequence), marked) {
                // Written again, and this one is enough for where the message is now.
                before.needs().for_each(|segment| self.index.unmark(segment));
                self.dead.moved.remove(&letter.sequence);
                continue;
            }
            self.forget_failures(slot);
            let queues = self.boxes.get_mut(number).taken_mut();
            queues.remove(&mut self.index.entries, slot);
            queues.dead_messages += 1;
            let entry = self.index.entries.get_mut(slot);
            entry.set_handed_out(false);
            entry.set_delayed(false);
            entry.set_settling(false);
            entry.set_dead(true);
        }
        // What consumers died of is out of the way.
        if !dead.is_again {
            self.consumer_is_well(number);
        }
    }

    pub(super) fn apply_revive(&mut self, revive: &Revive, is_recovery: bool) {
        let Some(&number) = self.numbers.get(&revive.mailbox) else { return };
        self.a_record_is_behind(0);
        let mut alive = Vec::new();
        for &sequence in &revive.sequences {
            let Some(slot) = self.find(number, sequence) else { continue };
            if !self.index.entries.get(slot).is_dead() {
                continue;
            }
            self.bury(number, sequence);
            let entry = self.index.entries.get_mut(slot);
            entry.set_dead(false);
            entry.set_settling(false);
            entry.attempt = 0;
            alive.push(slot);
        }
        let queues = self.boxes.get_mut(number).taken_mut();
        queues.dead_messages -= alive.len() as u64;
        if !is_recovery {
            queues.wait_again(&mut self.index.entries, alive);
            self.is_ready(revive.mailbox);
            return;
        }
        // Everything waits in one list here: finding each its place would take as long as the list, for each record.
        let is_unordered = std::mem::replace(&mut queues.is_unordered, true);
        for slot in alive {
            queues.push(&mut self.index.entries, slot);
        }
        if !is_unordered {
            self.unordered.push(number);
        }
    }

    /// A record about dead letters, or about subscriptions, takes a block of the log, or its bytes if these are more, and leaves
    /// nothing that is needed for long: a reader that rejects a message and has it delivered again, over and over, fills the log as
    /// fast as one that reads messages, and has it cleaned as often.
    pub(super) fn a_record_is_behind(&mut self, bytes: usize) {
        self.cleaning.settled(bytes.max(BLOCK_BYTES) as u64);
    }

    /// Forgets what is known of a death.
    pub(super) fn bury(&mut self, number: u32, sequence: u64) {
        let letter = self.dead.letters.remove(&(number, sequence)).expect("a dead letter stands here");
        letter.needs().for_each(|segment| self.index.unmark(segment));
        self.dead.moved.remove(&sequence);
    }

    fn read_letter(&mut self, read: LetterRead, slot: Slot) {
        let mut plan = Plan::default();
        let is_added = plan.add(slot, self.index.entries.get(slot));
        assert!(is_added, "one message fits every plan");
        self.cold.begin(Purpose::Look(read), plan);
    }

    /// A dead letter was read to be looked at.
    pub(super) fn letter_is_read(&mut self, read: LetterRead, job: &Job, done: &mut ReadDone) {
        let wanted = &job.wanted[0];
        let Some(slot) = self.still_queued(wanted.slot, wanted.sequence) else {
            done.letter = Some((read, Err(LetterUnread::Gone)));
            return;
        };
        let entry = self.index.entries.get(slot);
        let (place, attempt) = (entry.place(), entry.attempt);
        if place != wanted.place {
            // It was moved meanwhile: it is read where it is now.
            self.read_letter(read, slot);
            return;
        }
        let payload = match &job.failed {
            Some(error) => {
                done.problems.push(self.problem(slot, ReadProblemKind::TriedAgain(error.clone())));
                Err(LetterUnread::NotNow)
            }
            None => match job.payload(wanted) {
                Ok(payload) => Ok(payload),
                Err(_) => {
                    self.is_damaged(slot, ReadProblemKind::Damaged, done);
                    Err(LetterUnread::Gone)
                }
            },
        };
        let delivery = payload.map(|payload| {
            done.messages += 1;
            let record = (place.segment, place.record_offset);
            Box::new(Delivery { message: payload.message, batch_header: payload.batch_header, record, attempt })
        });
        done.letter = Some((read, delivery));
    }
}
