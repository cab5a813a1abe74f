//! Dead letters, as their owner asks for them: lists, looks, changes. A change is answered when it is durable, like everything
//! that this log says it did.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use creto_envelope::deliver::{DeliverEncoder, MessageToDeliver};
use creto_envelope::letters::{DeadLetterChanged, DeadLetterEntry, DeadLetters, DeathCause, LetterChange};
use creto_envelope::{AgentId, RejectCode};
use creto_store::planted::{Bug, is_planted};
use creto_store::{
    self as store, AppendError, Delivery, LetterFound, LetterRead, LetterUnread, MailboxId, Record, RecordLog,
    RecordSequence, Revive, Settle,
};

use super::Log;
use super::admit::reject_code;
use crate::route::Origin;

/// What the owner of a mailbox asks about its dead letters.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LetterQuestion {
    /// Those behind this sequence, up to so many.
    List {
        /// The sequence.
        after: u64,
        /// How many at most.
        letters_max: usize,
    },
    /// One of them, to look at.
    Read {
        /// Its sequence.
        sequence: u64,
    },
    /// That these are delivered again, or deleted.
    Change {
        /// Which.
        change: LetterChange,
        /// Their sequences.
        sequences: Vec<u64>,
    },
}

/// The answer: whole frames, or why there are none.
pub(crate) type LetterAnswer = Result<Bytes, RejectCode>;

/// Questions on their way to an answer. A connection has one open at a time, so these lists are short.
#[derive(Debug, Default)]
pub(super) struct Letters {
    /// Changes that wait for room in the log.
    waiting: VecDeque<Change>,
    /// Changes that are durable when this record is, and how many letters they concern; in the order of the log.
    appended: VecDeque<(RecordSequence, Origin, u32)>,
    reads: BTreeMap<LetterRead, Origin>,
    answers: Vec<(Origin, LetterAnswer)>,
}

#[derive(Debug)]
struct Change {
    mailbox: AgentId,
    origin: Origin,
    change: LetterChange,
    sequences: Vec<u64>,
}

impl Letters {
    pub(super) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.appended.is_empty() && self.answers.is_empty()
    }
}

impl<L: RecordLog> Log<L> {
    /// Takes a question of a mailbox's owner; [`take_letter_answers`](Self::take_letter_answers) has the answer, now or later.
    pub(crate) fn ask_letters(&mut self, mailbox: AgentId, origin: Origin, question: LetterQuestion) {
        let answer = match question {
            LetterQuestion::List { after, letters_max } => Some(Ok(self.list(mailbox, after, letters_max))),
            // A fenced log reads nothing.
            LetterQuestion::Read { .. } if self.wal.fenced().is_some() => Some(Err(RejectCode::ShardFenced)),
            LetterQuestion::Read { sequence } => match self.mailboxes.dead_letter(MailboxId(mailbox.0), sequence) {
                Some(LetterFound::Here(delivery)) => Some(Ok(letter_frame(&delivery))),
                Some(LetterFound::Busy) => Some(Err(RejectCode::Overloaded)),
                None => Some(Err(RejectCode::UnknownDeadLetter)),
                Some(LetterFound::Later(read)) => {
                    self.letters.reads.insert(read, origin);
                    None
                }
            },
            LetterQuestion::Change { change, sequences } => {
                self.letters.waiting.push_back(Change { mailbox, origin, change, sequences });
                None
            }
        };
        self.letters.answers.extend(answer.map(|answer| (origin, answer)));
    }

    /// Refuses a question.
    pub(crate) fn refuse_letters(&mut self, origin: Origin, code: RejectCode) {
        self.letters.answers.push((origin, Err(code)));
    }

    /// Answers that are ready.
    pub(crate) fn take_letter_answers(&mut self) -> Vec<(Origin, LetterAnswer)> {
        std::mem::take(&mut self.letters.answers)
    }

    /// A dead letter was read, or cannot be.
    pub(crate) fn letter_is_read(&mut self, read: LetterRead, found: &Result<Box<Delivery>, LetterUnread>) {
        // It is answered already when the log was fenced meanwhile.
        let Some(origin) = self.letters.reads.remove(&read) else { return };
        let answer = match found {
            Ok(delivery) => Ok(letter_frame(delivery)),
            Err(LetterUnread::Gone) => Err(RejectCode::UnknownDeadLetter),
            Err(LetterUnread::NotNow) => Err(RejectCode::Overloaded),
        };
        self.letters.answers.push((origin, answer));
    }

    /// Moves changes into the log, as far as there is room.
    pub(super) fn admit_letters(&mut self) {
        while let Some(Change { mailbox, origin, change, sequences }) = self.letters.waiting.pop_front() {
            if self.wal.fenced().is_some() {
                self.letters.answers.push((origin, Err(RejectCode::ShardFenced)));
                continue;
            }
            let id = MailboxId(mailbox.0);
            let record = match change {
                LetterChange::Replay => self.mailboxes.revive(id, &sequences).map(Record::Revive),
                LetterChange::Purge => self.mailboxes.purge(id, &sequences).map(Record::Settle),
            };
            let Some(record) = record else {
                // Somebody else may have asked for it just before: it is said when that is durable.
                self.letters.appended.push_back((self.wal.appended(), origin, 0));
                continue;
            };
            let concerned = match &record {
                Record::Revive(Revive { sequences, .. }) | Record::Settle(Settle { sequences, .. }) => sequences.len(),
                other => unreachable!("just made: {other:?}"),
            };
            let concerned = u32::try_from(concerned).expect("a frame names at most DEAD_LETTER_CHANGES_MAX");
            if let Err(error) = self.wal.check_append(&record) {
                self.change_refused(&record);
                if error == AppendError::Full {
                    self.letters.waiting.push_front(Change { mailbox, origin, change, sequences });
                    break;
                }
                self.letters.answers.push((origin, Err(reject_code(&error))));
                continue;
            }
            if is_planted(Bug::ReviveInMemoryOnly) && change == LetterChange::Replay {
                self.apply_without_record(record);
                self.letters.answers.push((origin, Ok(changed_frame(concerned))));
                continue;
            }
            let after = self.wal.append(record).expect("room was just checked");
            self.letters.appended.push_back((after, origin, concerned));
        }
    }

    /// Answers the changes that are durable now.
    pub(super) fn letters_are_durable(&mut self) {
        let durable = self.wal.durable();
        while let Some((_, origin, concerned)) = self.letters.appended.pop_front_if(|(after, ..)| *after <= durable) {
            self.letters.answers.push((origin, Ok(changed_frame(concerned))));
        }
    }

    /// Nobody knows what the disk holds: the owner looks again when the node has started again.
    pub(super) fn letters_are_fenced(&mut self) {
        let appended = std::mem::take(&mut self.letters.appended).into_iter().map(|(_, origin, _)| origin);
        let asked = appended.chain(std::mem::take(&mut self.letters.reads).into_values());
        self.letters.answers.extend(asked.map(|origin| (origin, Err(RejectCode::ShardFenced))));
    }

    fn change_refused(&mut self, record: &Record) {
        match record {
            Record::Revive(revive) => self.mailboxes.revive_refused(revive),
            Record::Settle(settle) => self.mailboxes.settle_refused(settle),
            other => unreachable!("no change of dead letters: {other:?}"),
        }
    }

    fn list(&self, mailbox: AgentId, after: u64, letters_max: usize) -> Bytes {
        let id = MailboxId(mailbox.0);
        let listed = self.mailboxes.dead_letters(id, after, letters_max).into_iter();
        let letters = listed.map(|listed| DeadLetterEntry {
            mailbox_sequence: listed.letter.sequence,
            died_ms: listed.letter.died_ms,
            expiry_ms: listed.expiry_ms,
            envelope_bytes: u32::try_from(listed.envelope_bytes).expect("an envelope is below 2 MiB"),
            reason: listed.letter.reason,
            cause: match listed.letter.cause {
                store::DeathCause::Rejected => DeathCause::Rejected,
                store::DeathCause::Deliveries => DeathCause::Deliveries,
            },
            deliveries: listed.letter.deliveries,
        });
        let mut out = Vec::new();
        DeadLetters { total: self.mailboxes.dead_messages(id), letters: letters.collect() }.encode(&mut out);
        out.into()
    }
}

fn letter_frame(delivery: &Delivery) -> Bytes {
    let Delivery { message, batch_header, attempt, .. } = delivery;
    let mut out = Vec::with_capacity(message.envelope.len() + batch_header.len() + 1_024);
    let mut frame = DeliverEncoder::begin_letter(&mut out, batch_header);
    let (path, rest) = message.path.as_chunks::<32>();
    assert!(rest.is_empty(), "a path is made of whole hashes");
    frame.push(&MessageToDeliver {
        mailbox_sequence: message.sequence,
        leaf_index: message.leaf_index,
        attempt: *attempt,
        salt: &message.salt,
        path,
        envelope: &message.envelope,
    });
    frame.finish();
    out.into()
}

fn changed_frame(count: u32) -> Bytes {
    let mut out = Vec::new();
    DeadLetterChanged { count }.encode(&mut out);
    out.into()
}
