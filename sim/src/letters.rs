//! Messages that consumers do not take, and dead letters: what agents say and ask, what the model holds against it.

use bytes::Bytes;
use creto_envelope::deliver::{ConsumerNack, DeliveredSpan, Nack};
use creto_envelope::letters::{
    DeadLetterChange, DeadLetterChanged, DeadLetterList, DeadLetterRead, DeadLetters, LetterChange, parse_dead_letter,
};
use creto_envelope::{FrameType, RejectCode};
use creto_store::{Dead, DeadLetter, DeathCause, Mailboxes, Revive};

use crate::checkers::Replayed;
use crate::model::{Checked, Model, Rule, broken};
use crate::network::{CONTROL, DELIVER, LinkNumber};
use crate::pool::{FIRST_PUBLISHED, MessageNumber, Pool, Recipient, aligned};
use crate::world::World;

/// Time that a push may be on its way between two shards: the mailbox's shard may have buried the message meanwhile.
const RING_US_MAX: u64 = 100;

/// What an agent wants to know about its dead letters, and has not been answered.
#[derive(Clone, Debug)]
pub(crate) enum Question {
    List,
    Read(u64),
    Change(LetterChange, Vec<u64>),
}

impl World<'_> {
    /// Of what the application has, some is refused; the others come back.
    pub(crate) fn refuse_some(
        &mut self,
        link: LinkNumber,
        waiting: Vec<(u64, MessageNumber)>,
    ) -> Vec<(u64, MessageNumber)> {
        let habits = self.profile.letters;
        if self.is_healing || (habits.nack_one_in, habits.reject_one_in) == (0, 0) {
            return waiting;
        }
        let (mut messages, mut rest) = (Vec::new(), Vec::new());
        for (sequence, number) in waiting {
            let nack = if self.letters_random.one_in(habits.reject_one_in) {
                Nack::Never { reason: reason_of(number) }
            } else if self.letters_random.one_in(habits.nack_one_in) {
                let delay_ms = u32::try_from(self.letters_random.below(40)).expect("some milliseconds");
                Nack::Later { delay_ms }
            } else {
                rest.push((sequence, number));
                continue;
            };
            match nack {
                Nack::Never { .. } => self.model.fates[number].consumer_rejected = true,
                Nack::Later { .. } => self.model.tally.nacked += 1,
                Nack::Untouched => {}
            }
            messages.push((sequence, nack));
        }
        if !messages.is_empty() {
            self.note(|| format!("connection {link}: the consumer refuses {messages:?}"));
            self.send_to_node(link, DELIVER, |out| ConsumerNack { messages }.encode(out));
        }
        rest
    }

    /// Now and then the owner of a mailbox looks after its dead letters; when the faults are over, until there are none.
    pub(crate) fn look_after_letters(&mut self, link: LinkNumber) {
        let one_in = if self.is_healing { 3 } else { self.profile.letters.ask_one_in };
        if self.links[link].client_side.question.is_some() || !self.letters_random.one_in(one_in) {
            return;
        }
        let mailbox = self.pool.agents[self.links[link].agent].id;
        let letters_max = u32::try_from(self.letters_random.between(1, 12)).expect("a dozen");
        self.links[link].client_side.question = Some(Question::List);
        self.send_to_node(link, CONTROL, |out| DeadLetterList { mailbox, after: 0, letters_max }.encode(out));
    }

    /// The node answers what was asked about dead letters, or refuses.
    pub(crate) fn letters_answered(&mut self, link: LinkNumber, frame_type: FrameType, body: &Bytes) -> Checked {
        let question = self.links[link].client_side.question.take();
        match (frame_type, question) {
            (FrameType::DeadLetters, Some(Question::List)) => {
                let listed = DeadLetters::parse(body).expect("a shard sends proper frames");
                self.note(|| format!("connection {link}: {} dead letters, {:?}", listed.total, listed.letters));
                let sequences: Vec<u64> = listed.letters.iter().map(|letter| letter.mailbox_sequence).collect();
                self.act_on_letters(link, sequences);
                Ok(())
            }
            (FrameType::DeadLetter, Some(Question::Read(sequence))) => {
                let letter = parse_dead_letter(body).expect("a shard sends proper frames");
                self.check_letter(link, sequence, body, &letter.messages[0])
            }
            (FrameType::DeadLetterChanged, Some(Question::Change(..))) => {
                self.note(|| format!("connection {link}: its dead letters are changed"));
                Ok(())
            }
            (other, question) => broken(
                Rule::RefusedForAReason,
                format!("connection {link} asked {question:?} and was sent a {other:?}"),
            ),
        }
    }

    /// A question may be refused: what it was about may be over, the disk full or failed.
    pub(crate) fn letters_refused(&mut self, link: LinkNumber, code: Option<RejectCode>) -> Checked {
        let question = self.links[link].client_side.question.take();
        match code {
            Some(RejectCode::UnknownDeadLetter) if matches!(question, Some(Question::Read(_))) => Ok(()),
            Some(RejectCode::StorageFull | RejectCode::ShardFenced | RejectCode::Overloaded) => Ok(()),
            code => broken(Rule::RefusedForAReason, format!("connection {link} was refused {question:?}: {code:?}")),
        }
    }

    fn act_on_letters(&mut self, link: LinkNumber, sequences: Vec<u64>) {
        if sequences.is_empty() {
            return;
        }
        let agent = self.links[link].agent;
        let mailbox = self.pool.agents[agent].id;
        if !self.is_healing && self.letters_random.one_in(3) {
            let mailbox_sequence = self.letters_random.pick(&sequences);
            self.links[link].client_side.question = Some(Question::Read(mailbox_sequence));
            self.send_to_node(link, CONTROL, |out| DeadLetterRead { mailbox, mailbox_sequence }.encode(out));
            return;
        }
        let change = if self.letters_random.one_in(2) { LetterChange::Replay } else { LetterChange::Purge };
        let owner = crate::model::owner(self.pool, agent, self.profile.shard_count);
        for sequence in &sequences {
            let Some(&number) = self.model.ledgers[owner].messages.get(sequence) else { continue };
            let fate = &mut self.model.fates[number];
            match change {
                LetterChange::Replay => fate.replay_asked = true,
                LetterChange::Purge => fate.purge_asked = true,
            }
        }
        self.note(|| format!("connection {link}: the owner has {sequences:?} changed: {change:?}"));
        self.links[link].client_side.question = Some(Question::Change(change, sequences.clone()));
        self.send_to_node(link, CONTROL, |out| DeadLetterChange { mailbox, change, sequences }.encode(out));
    }

    /// A dead letter is what was sent, like anything that is delivered.
    fn check_letter(&mut self, link: LinkNumber, sequence: u64, body: &Bytes, span: &DeliveredSpan) -> Checked {
        let agent = self.links[link].agent;
        let header = parse_dead_letter(body).expect("parsed just now").batch_header.expect("a letter has its header");
        let header = body.slice_ref(header.as_bytes());
        let envelope = aligned(&body[span.envelope.clone()]);
        let id = creto_envelope::EnvelopeView::parse(&envelope).map(|view| view.message_id().0);
        let number = id.ok().and_then(|id| self.pool.message_of(&id));
        let holds = number.filter(|&number| {
            self.pool.proves(number, &header, body, span)
                && self.pool.messages[number].to == Recipient::Agent(agent)
                && span.mailbox_sequence == sequence
        });
        self.model.tally.letters_read += 1;
        match holds {
            Some(_) => Ok(()),
            None => broken(Rule::Content, format!("connection {link}: dead letter {sequence} is not what was sent")),
        }
    }

    /// The moment at which the node says something about dead letters: it must be true.
    pub(crate) fn check_letters(&mut self, link: LinkNumber, frame_type: FrameType, body: &[u8]) -> Checked {
        let owner = crate::model::owner(self.pool, self.links[link].agent, self.profile.shard_count);
        match frame_type {
            FrameType::DeadLetters => {
                let listed = DeadLetters::parse(body).expect("a shard sends proper frames");
                listed.letters.iter().try_for_each(|letter| self.model.listed(owner, letter.mailbox_sequence))
            }
            FrameType::DeadLetterChanged => {
                let changed = DeadLetterChanged::parse(body).expect("a shard sends proper frames");
                let Some(Question::Change(change, sequences)) = &self.links[link].client_side.question else {
                    return broken(Rule::RefusedForAReason, format!("connection {link} asked for no change"));
                };
                self.model.changed(owner, *change, sequences, changed.count)
            }
            _ => Ok(()),
        }
    }
}

/// The reason that a consumer gives for a message.
pub(crate) fn reason_of(number: MessageNumber) -> u16 {
    u16::try_from(number % 1_000).expect("below a thousand") + 1
}

impl Model {
    pub(crate) fn dead_is_durable(&mut self, shard: usize, now_us: u64, dead: &Dead) -> Checked {
        for letter in &dead.letters {
            let Some(&number) = self.ledgers[shard].messages.get(&letter.sequence) else {
                let text = format!("shard {shard} buried sequence {}, which was never stored", letter.sequence);
                return broken(Rule::DeadForAReason, text);
            };
            if let Some(cause) = self.fates[number].settled {
                let text = format!("message {number} died after it was settled: {cause:?}");
                return broken(Rule::SettledStaysSettled, text);
            }
            if dead.is_again {
                self.tally.died_again += 1;
                if !self.fates[number].is_dead {
                    return broken(
                        Rule::DeadForAReason,
                        format!("message {number} was said to be dead again, and was not"),
                    );
                }
                continue;
            }
            self.check_death(number, letter)?;
            self.tally.died += 1;
            let fate = &mut self.fates[number];
            (fate.is_dead, fate.was_dead, fate.dead_us) = (true, true, now_us);
        }
        Ok(())
    }

    fn check_death(&self, number: MessageNumber, letter: &DeadLetter) -> Checked {
        let (fate, most) = (&self.fates[number], self.deliveries_max);
        let has_reason = match letter.cause {
            DeathCause::Rejected => fate.consumer_rejected && letter.reason == reason_of(number),
            DeathCause::Deliveries => most > 0 && letter.deliveries >= most,
        };
        match has_reason {
            true => Ok(()),
            false => broken(Rule::DeadForAReason, format!("message {number} died: {letter:?}, {fate:?}")),
        }
    }

    pub(crate) fn revive_is_durable(&mut self, shard: usize, revive: &Revive) -> Checked {
        for sequence in &revive.sequences {
            let number = self.ledgers[shard].messages.get(sequence).copied();
            let Some(number) = number.filter(|&number| self.fates[number].is_dead && self.fates[number].replay_asked)
            else {
                let text = format!("shard {shard} gave life to sequence {sequence}: {number:?}");
                return broken(Rule::DeadForAReason, text);
            };
            self.tally.revived += 1;
            self.fates[number].is_dead = false;
        }
        Ok(())
    }

    /// A dead letter is not pushed, but for a push that was on its way when it died.
    pub(crate) fn not_dead(&self, number: MessageNumber, now_us: u64) -> Checked {
        let fate = &self.fates[number];
        match fate.is_dead && now_us > fate.dead_us + RING_US_MAX {
            true => broken(Rule::DeadStaysDead, format!("dead message {number} was pushed: {fate:?}")),
            false => Ok(()),
        }
    }

    fn listed(&self, shard: usize, sequence: u64) -> Checked {
        let number = self.ledgers[shard].messages.get(&sequence).copied();
        // It may have been given life, or deleted, while the answer was on its way.
        match number.is_some_and(|number| self.fates[number].was_dead) {
            true => Ok(()),
            false => {
                broken(Rule::DeadStaysDead, format!("shard {shard} lists sequence {sequence} as dead: {number:?}"))
            }
        }
    }

    fn changed(&self, shard: usize, change: LetterChange, sequences: &[u64], count: u32) -> Checked {
        let is_done = |sequence: &&u64| {
            let number = self.ledgers[shard].messages.get(*sequence);
            number.is_some_and(|&number| {
                let fate = &self.fates[number];
                match change {
                    LetterChange::Replay => !fate.is_dead || fate.settled.is_some(),
                    LetterChange::Purge => fate.settled.is_some(),
                }
            })
        };
        // Another connection of the same agent may have changed some of them since.
        let done = sequences.iter().filter(is_done).count();
        match done >= count as usize {
            true => Ok(()),
            false => broken(
                Rule::AcknowledgedIsDurable,
                format!("shard {shard} says {count} of {sequences:?} are changed ({change:?}); durably {done} are"),
            ),
        }
    }

    /// A message comes to the application for the first time, on a connection that another one has replaced since it was
    /// pushed there: where it was blamed for that once too often, it is about to die, and others have passed it.
    pub(crate) fn comes(&mut self, number: MessageNumber, mailboxes: &Mailboxes) {
        let fate = &mut self.fates[number];
        fate.was_passed |= fate.stored.is_some_and(|stored| mailboxes.is_passed_over(stored.sequence));
    }

    /// A shard stops: what was about to end or to die may wait again, behind what has passed it.
    pub(crate) fn stops(&mut self, shard: usize, mailboxes: &Mailboxes) {
        for fate in self.fates[..FIRST_PUBLISHED].iter_mut().filter(|fate| !fate.delivered && fate.settled.is_none()) {
            let sequence = fate.stored.filter(|stored| stored.shard == shard).map(|stored| stored.sequence);
            fate.was_passed |= sequence.is_some_and(|sequence| mailboxes.is_passed_over(sequence));
        }
    }

    /// Who is dead after a recovery was dead before, and the other way round, but for what landed without being synced.
    pub(crate) fn dead_are_recovered(&self, shard: usize, replayed: &Replayed) -> Checked {
        for (number, fate) in self.fates.iter().enumerate() {
            let Some(stored) = fate.stored.filter(|stored| stored.shard == shard && fate.settled.is_none()) else {
                continue;
            };
            let is_dead = replayed.dead.contains(&stored.sequence);
            let is_queued = replayed.queued().contains(&number);
            if fate.is_dead && !is_dead && is_queued && !fate.replay_asked {
                let text = format!("shard {shard} recovered dead message {number} as one that waits: {fate:?}");
                return broken(Rule::DeadStaysDead, text);
            }
        }
        Ok(())
    }

    /// The mailboxes hold as dead what the log says is dead.
    pub(crate) fn dead_filled(&self, shard: usize, pool: &Pool, replayed: &Replayed, mailboxes: &Mailboxes) -> Checked {
        let queued = replayed.queued();
        let is_queued = |sequence: &&u64| {
            let known = replayed.stored.iter().find(|(stored, _)| stored == *sequence);
            known.is_some_and(|(_, number)| queued.contains(number))
        };
        let expected: Vec<u64> = replayed.dead.iter().filter(is_queued).copied().collect();
        let found = pool.agents.iter().flat_map(|agent| {
            let id = creto_store::MailboxId(agent.id.0);
            mailboxes.dead_letters(id, 0, usize::MAX).into_iter().map(|listed| listed.letter.sequence)
        });
        let mut found: Vec<u64> = found.collect();
        found.sort_unstable();
        match found == expected {
            true => Ok(()),
            false => broken(
                Rule::DeadStaysDead,
                format!("shard {shard}: by its log {expected:?} are dead, in its mailboxes {found:?}"),
            ),
        }
    }
}
