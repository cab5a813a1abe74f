//! The rules, each checked at the moment at which it could first be broken.

use std::collections::BTreeSet;

use creto_envelope::RejectCode;
use creto_envelope::deliver::DeliveredSpan;
use creto_shard::Shard;
use creto_store::{Mailboxes, Noted, NotedMessage, Record, Recovered, RecoveryError, SenderId, SettleCause};

use crate::model::{Checked, Model, Rule, Violation, broken};
use crate::patterns::messages::part_of;
use crate::pool::{FIRST_PUBLISHED, MessageNumber, Pool, Recipient};

/// Refusals after which a message may be accepted behind one that was sent later.
const FOR_WANT_OF_ROOM: [RejectCode; 3] = [RejectCode::MailboxFull, RejectCode::Overloaded, RejectCode::StorageFull];

/// Whether a shard has refused any message for want of room, whoever was told.
pub(crate) fn has_refused_for_room(shard: &Shard) -> bool {
    // A sender that has not heard of it yet never does when the node is killed.
    let has_told = FOR_WANT_OF_ROOM.iter().any(|code| shard.counters().rejects.contains_key(code));
    has_told || shard.log().messages_refused() > 0
}

/// What a recovery read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Replayed {
    /// Shard-wide sequence and message of every stored message.
    pub(crate) stored: Vec<(u64, MessageNumber)>,
    pub(crate) settled: Vec<(u64, SettleCause)>,
    /// Sequences that are dead by what was read last of them.
    pub(crate) dead: BTreeSet<u64>,
    /// Shard-wide sequence of every notice.
    pub(crate) notices: BTreeSet<u64>,
    /// Records in all.
    pub(crate) records: u64,
}

impl Replayed {
    pub(crate) fn take(&mut self, pool: &Pool, record: &Record) -> Checked {
        self.records += 1;
        match record {
            Record::BatchPart(part) => {
                for message in &part.messages {
                    let Some(number) = pool.message_of(&message.message_id.0) else {
                        return broken(Rule::Content, "recovery read a message that nobody sent");
                    };
                    if pool.messages[number].envelope != message.envelope {
                        return broken(Rule::Content, format!("recovery read message {number} changed"));
                    }
                    self.stored.push((message.sequence, number));
                }
            }
            Record::Notice(part) => self.notices.extend(part.messages.iter().map(|notice| notice.sequence)),
            Record::Moved(part) => {
                for message in &part.messages {
                    if message.sender == SenderId::NODE {
                        self.notices.insert(message.sequence);
                        continue;
                    }
                    let Some(number) = pool.message_of(&message.message_id.0) else {
                        return broken(Rule::Content, "recovery read a moved message that nobody sent");
                    };
                    if pool.messages[number].envelope != message.envelope {
                        return broken(
                            Rule::Content,
                            format!("recovery read message {number} changed when it was moved"),
                        );
                    }
                    if self.settled.iter().any(|(sequence, _)| *sequence == message.sequence) {
                        let text = format!("message {number} was moved behind the record that settles it");
                        return broken(Rule::SettledStaysSettled, text);
                    }
                    // The segment of its first record may be gone.
                    if !self.stored.contains(&(message.sequence, number)) {
                        self.stored.push((message.sequence, number));
                    }
                }
            }
            Record::Settle(settle) => self.settled.extend(settle.sequences.iter().map(|&s| (s, settle.cause))),
            Record::Dead(dead) => self.dead.extend(dead.letters.iter().map(|letter| letter.sequence)),
            Record::Revive(revive) => self.live_again(&revive.sequences),
            Record::Dedup(_) | Record::Start(_) => {}
            Record::Subscribe(_) | Record::Unsubscribe(_) | Record::Cursors(_) | Record::Subscriptions(_) => {}
        }
        Ok(())
    }

    fn live_again(&mut self, sequences: &[u64]) {
        for sequence in sequences {
            self.dead.remove(sequence);
        }
    }

    /// The notices that are not settled.
    pub(crate) fn queued_notices(&self) -> BTreeSet<u64> {
        let is_queued = |sequence: &&u64| !self.settled.iter().any(|(settled, _)| settled == *sequence);
        self.notices.iter().filter(is_queued).copied().collect()
    }

    /// The messages that are stored and not settled.
    pub(crate) fn queued(&self) -> BTreeSet<MessageNumber> {
        let settled: BTreeSet<u64> = self.settled.iter().map(|(sequence, _)| *sequence).collect();
        self.stored.iter().filter(|(sequence, _)| !settled.contains(sequence)).map(|(_, number)| *number).collect()
    }
}

impl Replayed {
    /// As `take`, of what a start by digests notes.
    pub(crate) fn note(&mut self, pool: &Pool, noted: &Noted) {
        self.records += 1;
        match noted {
            Noted::Notice(messages) => self.notices.extend(messages.iter().map(|notice| notice.sequence)),
            Noted::Part(messages) | Noted::Moved(messages) => {
                let (told, messages): (Vec<&NotedMessage>, Vec<&NotedMessage>) =
                    messages.iter().partition(|m| m.sender == SenderId::NODE);
                self.notices.extend(told.iter().map(|notice| notice.sequence));
                let known = messages.iter().filter_map(|m| Some((m.sequence, pool.message_of(&m.message_id.0)?)));
                self.stored.extend(known);
            }
            Noted::Settle(settle) => self.settled.extend(settle.sequences.iter().map(|&s| (s, settle.cause))),
            Noted::Dead(dead) => self.dead.extend(dead.letters.iter().map(|letter| letter.sequence)),
            Noted::Revive(revive) => self.live_again(&revive.sequences),
            Noted::Dedup(_) | Noted::Start(_) => {}
            Noted::Subscribe(_) | Noted::Unsubscribe(_) | Noted::Cursors(_) | Noted::Subscriptions(_) => {}
        }
    }
}

impl Model {
    /// The node says that a message is durable. `since_fence` tells that it was handed in after its shard was fenced.
    pub(crate) fn acknowledged(
        &mut self,
        number: MessageNumber,
        owner: usize,
        is_duplicate: bool,
        since_fence: bool,
    ) -> Checked {
        self.tally.acknowledgements += 1;
        self.tally.duplicates += u64::from(is_duplicate);
        let said = if is_duplicate { "a duplicate" } else { "stored" };
        let fate = &mut self.fates[number];
        if fate.stored.is_none() {
            let text = format!("message {number} was acknowledged as {said}; no durable record of it is on any disk");
            return broken(Rule::AcknowledgedIsDurable, text);
        }
        if let Some(durable_at_fence) = &self.ledgers[owner].fenced
            && (since_fence || !durable_at_fence.contains(&number))
        {
            let text = format!("message {number} was acknowledged as {said} by shard {owner}, which is fenced");
            return broken(Rule::FencedIsSilent, text);
        }
        fate.acknowledged = true;
        Ok(())
    }

    /// The node refuses a message.
    pub(crate) fn refused(&mut self, number: MessageNumber, code: RejectCode) -> Checked {
        self.tally.refusals += 1;
        match code {
            code if FOR_WANT_OF_ROOM.contains(&code) => Ok(()),
            RejectCode::ShardFenced | RejectCode::ShuttingDown => Ok(()),
            // The window is larger than what a sender may have unanswered: only what it knows already may be outside.
            RejectCode::OutsideDedupWindow | RejectCode::SigningTime if self.clock_was_far_off() => Ok(()),
            // An agent that gave messages up for the clock sends others, while those wait in the node.
            RejectCode::TooManyInFlight if self.tally.refused_for_the_clock > 0 => Ok(()),
            RejectCode::OutsideDedupWindow if self.fates[number].sender_knows => Ok(()),
            // The channel is no more, or the publisher, or not everybody knows that yet.
            RejectCode::UnknownChannel | RejectCode::AgentRevoked
                if number >= FIRST_PUBLISHED && !self.channels.denied.is_empty() =>
            {
                Ok(())
            }
            RejectCode::AgentRevoked | RejectCode::UnknownSender if self.patterns.may_be_revoked(number) => Ok(()),
            code => broken(Rule::RefusedForAReason, format!("message {number} was refused: {}", code.name())),
        }
    }

    /// The node pushes a message to a consumer.
    pub(crate) fn pushed(
        &self,
        pool: &Pool,
        span: &DeliveredSpan,
        envelope: &[u8],
        mailbox: usize,
        now_us: u64,
    ) -> Result<MessageNumber, Violation> {
        let Some(number) = envelope.get(64..80).and_then(|id| pool.message_of(id.try_into().ok()?)) else {
            return broken(Rule::Content, "a message was pushed that nobody sent");
        };
        if pool.messages[number].to != Recipient::Agent(mailbox) {
            return broken(Rule::Content, format!("message {number} was pushed to agent {mailbox}"));
        }
        let fate = &self.fates[number];
        match fate.stored {
            Some(stored) if stored.sequence == span.mailbox_sequence => {}
            stored => {
                let sequence = span.mailbox_sequence;
                let text =
                    format!("message {number} was pushed as sequence {sequence}; its durable record: {stored:?}");
                return broken(Rule::DeliveredIsDurable, text);
            }
        }
        // One that expires while it is on its way between two shards is settled and pushed at once; that does no harm.
        if fate.settled.is_some_and(|cause| cause != SettleCause::Expired) {
            return broken(Rule::SettledStaysSettled, format!("message {number} was pushed: {fate:?}"));
        }
        self.not_dead(number, now_us)?;
        Ok(number)
    }

    /// The deduplication of the SDK has let a message through to the application.
    pub(crate) fn delivered_first(&mut self, pool: &Pool, number: MessageNumber, sequence: u64) -> Checked {
        let message = &pool.messages[number];
        assert!(!self.fates[number].delivered, "the SDK's deduplication lets nothing through twice");
        self.fates[number].delivered = true;
        self.tally.first_deliveries += 1;
        // One that expires is skipped when its time is over, and comes after all when the clock was set back since. One that was
        // a dead letter comes when its owner wants it, or after all when the node stopped before it was one.
        // So is one that could not be read back, and comes after the next start.
        let fate = &self.fates[number];
        if message.expires || fate.was_dead || fate.was_passed || fate.passed_over {
            return Ok(());
        }
        let priority = message.priority as u8;
        let last = self.last_sequence.insert((message.to, priority), sequence);
        if last.is_some_and(|last| last >= sequence) {
            let text = format!("message {number} has sequence {sequence}; {last:?} came to the application before it");
            return broken(Rule::Order, text);
        }
        let key = (message.sender, message.to, priority);
        // Agents of the patterns send what is wanted next.
        let place = if part_of(number).is_some() { self.patterns.place_of(number) } else { Some(message.order) };
        let Some(place) = place else { return Ok(()) };
        let last = self.last_order.insert(key, place);
        if self.refused_for_room {
            return Ok(());
        }
        self.tally.ordered_pairs += u64::from(last.is_some());
        if last.is_some_and(|last| last >= place) {
            let text = format!(
                "message {number} of agent {} (place {place}) came to the application after place {last:?}",
                message.sender
            );
            return broken(Rule::Order, text);
        }
        Ok(())
    }

    /// A log was recovered: everything that it durably held is there, and nothing that it durably settled is queued.
    pub(crate) fn recovered(&mut self, shard: usize, replayed: &Replayed) -> Checked {
        self.tally.recoveries += 1;
        self.tally.recoveries_with_messages += u64::from(!replayed.stored.is_empty());
        self.holds_what_is_durable(shard, replayed)?;
        self.dead_are_recovered(shard, replayed)?;
        for &(sequence, cause) in &replayed.settled {
            let known = replayed.stored.iter().find(|(stored, _)| *stored == sequence);
            if let Some(&(_, number)) = known {
                self.check_settle_recovered(number, cause)?;
            }
        }
        Ok(())
    }

    /// A settle may have landed without being synced: it still needs its reason.
    fn check_settle_recovered(&self, number: MessageNumber, cause: SettleCause) -> Checked {
        match cause {
            SettleCause::Acknowledged => self.check_settle(number, cause),
            // Its expiry may have landed without being synced, too.
            SettleCause::Expired if self.fates[number].stored.is_none() => Ok(()),
            cause => self.check_settle(number, cause),
        }
    }

    fn holds_what_is_durable(&self, shard: usize, replayed: &Replayed) -> Checked {
        self.holds_the_notices(shard, &replayed.notices, &replayed.queued_notices())?;
        let stored: BTreeSet<MessageNumber> = replayed.stored.iter().map(|(_, number)| *number).collect();
        let queued = replayed.queued();
        for (number, fate) in self.fates.iter().enumerate() {
            if fate.stored.is_none_or(|stored| stored.shard != shard) {
                continue;
            }
            match fate.settled {
                None if !stored.contains(&number) => {
                    let text = format!("shard {shard} recovered without message {number}: {fate:?}");
                    return broken(Rule::NothingAcknowledgedIsLost, text);
                }
                Some(_) if queued.contains(&number) => {
                    let text = format!("shard {shard} recovered message {number} as queued: {fate:?}");
                    return broken(Rule::SettledStaysSettled, text);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The mailboxes hold what the log holds.
    pub(crate) fn mailboxes_filled(&self, shard: usize, replayed: &Replayed, mailboxes: &Mailboxes) -> Checked {
        let queued = replayed.queued().len() + replayed.queued_notices().len();
        let (expected, found) = (queued as u64, mailboxes.messages());
        match expected == found {
            true => Ok(()),
            false => broken(
                Rule::SettledStaysSettled,
                format!("shard {shard}: the log holds {expected} messages that are not settled, the mailboxes {found}"),
            ),
        }
    }

    /// The durable part of a disk alone gives back everything that is durable.
    pub(crate) fn audited(
        &mut self,
        shard: usize,
        outcome: Result<Recovered, RecoveryError>,
        replayed: &Replayed,
    ) -> Checked {
        self.tally.audits += 1;
        match outcome {
            Ok(_) => self.holds_what_is_durable(shard, replayed),
            Err(error) => broken(
                Rule::NothingAcknowledgedIsLost,
                format!("shard {shard}: a power loss now would leave a log that cannot be recovered: {error}"),
            ),
        }
    }

    /// A drained node has settled everything, on its disk and not in memory alone.
    pub(crate) fn everything_is_settled(&self) -> Checked {
        self.every_notice_is_settled()?;
        match self.fates.iter().position(|fate| fate.stored.is_some() && fate.settled.is_none()) {
            None => Ok(()),
            Some(number) => {
                let fate = &self.fates[number];
                broken(Rule::RestsEmpty, format!("message {number} is gone from memory and not settled: {fate:?}"))
            }
        }
    }

    /// After everything has come to rest: nothing acknowledged is missing.
    pub(crate) fn nothing_is_missing(&self) -> Checked {
        for (number, fate) in self.fates[..FIRST_PUBLISHED].iter().enumerate() {
            let needs_no_delivery = matches!(fate.settled, Some(SettleCause::Expired | SettleCause::Purged));
            if fate.acknowledged && !fate.delivered && !needs_no_delivery {
                let text = format!("message {number} was acknowledged and never delivered: {fate:?}");
                return broken(Rule::NothingAcknowledgedIsLost, text);
            }
        }
        Ok(())
    }
}
