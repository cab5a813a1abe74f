//! What must be true, kept beside the node: what it promised, and what its disks really hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use creto_store::{FrameHeader, Record, SettleCause, limits};

use crate::channels::truth::Truth;
use crate::clock::START_MS;
use crate::notices::Notices;
use crate::patterns::truth::{PatternCounts, Patterns};
use crate::pool::{FIRST_PUBLISHED, MESSAGES, MESSAGES_PER_AGENT, MessageNumber, Pool, Recipient};

/// A rule that a run broke. `docs/simulation.md` states each in full.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// What was acknowledged is delivered or still in the mailbox, or in the channel.
    NothingAcknowledgedIsLost,
    /// What is acknowledged is durable.
    AcknowledgedIsDurable,
    /// What is delivered is durable.
    DeliveredIsDurable,
    /// A message has one place in its mailbox, for ever.
    StoredOnce,
    /// What is settled durably is not delivered again.
    SettledStaysSettled,
    /// Nothing is settled that was neither acknowledged by its consumer, nor over its time, nor a dead letter that its owner
    /// deleted.
    SettledForAReason,
    /// A dead letter is not delivered, whatever happens, until its owner wants it again.
    DeadStaysDead,
    /// Nothing dies that its consumer did not reject and that was not delivered often enough, and nothing lives again that
    /// nobody asked for.
    DeadForAReason,
    /// A message that expired and asked for it is forgotten only when its sender was told, durably, or could not be.
    ExpiredIsTold,
    /// First in, first out by sender, recipient and priority.
    Order,
    /// What is delivered is what was sent, proven by its signature.
    Content,
    /// A fenced shard acknowledges nothing.
    FencedIsSilent,
    /// Damage below what is durable stops recovery.
    DamageIsNotCut,
    /// What a drive has lost is noticed, unless nothing that it still holds proves that it was there.
    LiesAreNoticed,
    /// Nothing that a sound log may hold keeps a node from starting.
    SoundIsNotRefused,
    /// Nothing is pushed beyond the credit of its consumer.
    CreditIsKept,
    /// What was published is given to everybody who reads the channel, unless its time is over.
    PublishedIsKept,
    /// What a cursor has consumed is not handed to it again, nor shown to its application.
    ConsumedStaysConsumed,
    /// A subscription outlives everything, as it is, until its agent does not want it any more or may not have it.
    SubscriptionIsKept,
    /// Whoever may not read a channel any more is handed nothing of it.
    RemovedGetNothing,
    /// A message is in the hands of one member of a group at a time.
    OneHandAtATime,
    /// Publishers know who reads before they hear of what these are given.
    JoinIsToldFirst,
    /// A request has at most one answer, of whom it asked, after this one was shown it; and it has one if it waits for it.
    AnsweredOnce,
    /// A file is handed out once, whole, or is refused, and of what was settled no chunk is left.
    WholeOrNotAtAll,
    /// Nothing of a signal is in anything that is stored.
    SignalsLeaveNoTrace,
    /// A signal goes to who reads now, in its time, and its sender cannot tell whether there is somebody.
    SignalsGoToWhoListens,
    /// Presence is told as it is, to those who may send.
    PresenceIsTrue,
    /// No mailbox holds more than its quota.
    QuotaIsKept,
    /// What is over is not pushed any more.
    OverIsNotPushed,
    /// Refusals are those that the run has earned.
    RefusedForAReason,
    /// After the faults end, everything ends: answered, delivered, settled.
    ComesToRest,
    /// A node at rest holds nothing.
    RestsEmpty,
    /// A copy of a log that is held is the log as it was when the hold began.
    BackupIsThatMoment,
    /// A log takes no more space than half as much again as what it holds, and two segments.
    SpaceIsBounded,
    /// The same seed gives the same run.
    Replays,
    /// The product stopped on its own invariant.
    Panicked,
}

/// A broken rule, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// What was seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.rule, self.text)
    }
}

/// What a check finds.
pub(crate) type Checked = Result<(), Violation>;

pub(crate) fn broken<T>(rule: Rule, text: impl Into<String>) -> Result<T, Violation> {
    Err(Violation { rule, text: text.into() })
}

/// What was compared in a run; a run without is vacuous.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    /// Steps of virtual time.
    pub steps: u64,
    /// Messages that the node acknowledged as stored or as duplicates, each acknowledgement counted.
    pub acknowledgements: u64,
    /// Of these, duplicates.
    pub duplicates: u64,
    /// Messages that an application saw for the first time.
    pub first_deliveries: u64,
    /// Deliveries that the deduplication of the SDK hides.
    pub repeated_deliveries: u64,
    /// Messages that were settled durably.
    pub settled: u64,
    /// Messages that expired, durably.
    pub expired: u64,
    /// Notices that became durable.
    pub notices: u64,
    /// Messages that the node refused for want of room, for a fence or for a shutdown.
    pub refusals: u64,
    /// Logs that were recovered.
    pub recoveries: u64,
    /// Logs that were recovered and held messages.
    pub recoveries_with_messages: u64,
    /// Messages that were read back from a disk to be pushed.
    pub read_back: u64,
    /// Messages that were written again so that their segment could go.
    pub moved: u64,
    /// Messages that were published, durably.
    pub published: u64,
    /// Those that were handed to readers, each time counted.
    pub published_pushed: u64,
    /// Those that an application saw first, for each cursor.
    pub published_shown: u64,
    /// Those that a cursor had had before.
    pub published_again: u64,
    /// Those that left their channel because all had consumed them.
    pub published_consumed: u64,
    /// Those that a cursor must have been given, and was.
    pub given: u64,
    /// Subscriptions that began, durably.
    pub subscriptions: u64,
    /// Those that ended because their agents might not read any more.
    pub subscriptions_ended: u64,
    /// Subscriptions that a start brought back.
    pub subscriptions_recovered: u64,
    /// Cursors that went on, durably.
    pub cursors: u64,
    /// Members whom a publisher had to know when it heard of a message.
    pub joins_checked: u64,
    /// Messages that consumers wanted later.
    pub nacked: u64,
    /// Messages that died.
    pub died: u64,
    /// Deaths that were written again because their messages were moved.
    pub died_again: u64,
    /// Dead letters that were to be delivered again.
    pub revived: u64,
    /// Dead letters that were deleted.
    pub purged: u64,
    /// Dead letters that were looked at.
    pub letters_read: u64,
    /// Logs whose space was held against what they hold.
    pub bounded_logs: u64,
    /// Segments that trimming let go.
    pub trimmed_segments: u64,
    /// Durable images that were recovered to check an acknowledgement.
    pub audits: u64,
    /// Copies of logs that were damaged and recovered.
    pub damaged_copies: u64,
    /// Damaged copies that recovery refused.
    pub damage_refused: u64,
    /// Shards that fenced themselves.
    pub fences: u64,
    /// Pairs of deliveries whose order was checked against their sender's.
    pub ordered_pairs: u64,
    /// Messages that a sender gave up because their ids were too old or too new for the node's clock.
    pub refused_for_the_clock: u64,
    /// Actions of disks.
    pub disk_actions: u64,
    /// Writes of full groups that left although as many as usual were on their way.
    pub groups_ahead: u64,
    /// Reads of recoveries at starts.
    pub recovery_reads: u64,
    /// Logs that were refused after their drive had lied.
    pub lies_refused: u64,
    /// Logs that went on without what their drive had lost, where nothing proved it any more.
    pub lies_cut: u64,
    /// Logs that were refused after their only copy had rotted.
    pub rot_refused: u64,
    /// Backups that were finished and held against the moment at which they were begun.
    pub backups: u64,
    /// Messages that were read with a bit changed and not handed out.
    pub flips_noticed: u64,
    /// Times that a mailbox was held against its quota.
    pub quotas: u64,
    /// What was compared of messaging patterns.
    pub patterns: PatternCounts,
}

impl Tally {
    /// Every count with its name.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'static str, u64)> {
        let counts = [
            ("steps", self.steps),
            ("acknowledgements", self.acknowledgements),
            ("duplicates", self.duplicates),
            ("first_deliveries", self.first_deliveries),
            ("repeated_deliveries", self.repeated_deliveries),
            ("settled", self.settled),
            ("expired", self.expired),
            ("notices", self.notices),
            ("refusals", self.refusals),
            ("recoveries", self.recoveries),
            ("recoveries_with_messages", self.recoveries_with_messages),
            ("read_back", self.read_back),
            ("moved", self.moved),
            ("published", self.published),
            ("published_pushed", self.published_pushed),
            ("published_shown", self.published_shown),
            ("published_again", self.published_again),
            ("published_consumed", self.published_consumed),
            ("given", self.given),
            ("subscriptions", self.subscriptions),
            ("subscriptions_ended", self.subscriptions_ended),
            ("subscriptions_recovered", self.subscriptions_recovered),
            ("cursors", self.cursors),
            ("joins_checked", self.joins_checked),
            ("nacked", self.nacked),
            ("died", self.died),
            ("died_again", self.died_again),
            ("revived", self.revived),
            ("purged", self.purged),
            ("letters_read", self.letters_read),
            ("bounded_logs", self.bounded_logs),
            ("trimmed_segments", self.trimmed_segments),
            ("audits", self.audits),
            ("damaged_copies", self.damaged_copies),
            ("damage_refused", self.damage_refused),
            ("fences", self.fences),
            ("ordered_pairs", self.ordered_pairs),
            ("refused_for_the_clock", self.refused_for_the_clock),
            ("disk_actions", self.disk_actions),
            ("groups_ahead", self.groups_ahead),
            ("recovery_reads", self.recovery_reads),
            ("lies_refused", self.lies_refused),
            ("lies_cut", self.lies_cut),
            ("rot_refused", self.rot_refused),
            ("backups", self.backups),
            ("flips_noticed", self.flips_noticed),
            ("quotas", self.quotas),
        ];
        counts.into_iter().chain(self.patterns.entries()).collect()
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        self.steps += other.steps;
        self.acknowledgements += other.acknowledgements;
        self.duplicates += other.duplicates;
        self.first_deliveries += other.first_deliveries;
        self.repeated_deliveries += other.repeated_deliveries;
        self.settled += other.settled;
        self.expired += other.expired;
        self.notices += other.notices;
        self.refusals += other.refusals;
        self.recoveries += other.recoveries;
        self.recoveries_with_messages += other.recoveries_with_messages;
        self.read_back += other.read_back;
        self.moved += other.moved;
        self.published += other.published;
        self.published_pushed += other.published_pushed;
        self.published_shown += other.published_shown;
        self.published_again += other.published_again;
        self.published_consumed += other.published_consumed;
        self.given += other.given;
        self.subscriptions += other.subscriptions;
        self.subscriptions_ended += other.subscriptions_ended;
        self.subscriptions_recovered += other.subscriptions_recovered;
        self.cursors += other.cursors;
        self.joins_checked += other.joins_checked;
        self.nacked += other.nacked;
        self.died += other.died;
        self.died_again += other.died_again;
        self.revived += other.revived;
        self.purged += other.purged;
        self.letters_read += other.letters_read;
        self.bounded_logs += other.bounded_logs;
        self.trimmed_segments += other.trimmed_segments;
        self.audits += other.audits;
        self.damaged_copies += other.damaged_copies;
        self.damage_refused += other.damage_refused;
        self.fences += other.fences;
        self.ordered_pairs += other.ordered_pairs;
        self.refused_for_the_clock += other.refused_for_the_clock;
        self.disk_actions += other.disk_actions;
        self.groups_ahead += other.groups_ahead;
        self.recovery_reads += other.recovery_reads;
        self.lies_refused += other.lies_refused;
        self.lies_cut += other.lies_cut;
        self.rot_refused += other.rot_refused;
        self.backups += other.backups;
        self.flips_noticed += other.flips_noticed;
        self.quotas += other.quotas;
        self.patterns.merge(&other.patterns);
    }
}

/// The truth about one run.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) fates: Vec<Fate>,
    pub(crate) ledgers: Vec<Ledger>,
    pub(crate) notices: Notices,
    pub(crate) channels: Truth,
    pub(crate) patterns: Patterns,
    /// Most messages of a mailbox.
    messages_max: u64,
    /// The last message that each application saw first, by sender, recipient and priority: its place with its sender.
    pub(crate) last_order: BTreeMap<(usize, Recipient, u8), usize>,
    /// The same by recipient and priority: its mailbox sequence.
    pub(crate) last_sequence: BTreeMap<(Recipient, u8), u64>,
    /// The node refused something for want of room: what is sent again then comes later than what was not refused.
    pub(crate) refused_for_room: bool,
    /// The latest that the node's wall clock ever showed.
    pub(crate) latest_unix_ms: u64,
    /// Failed deliveries after which a message dies; 0 for never.
    pub(crate) deliveries_max: u8,
    /// The earliest.
    pub(crate) earliest_unix_ms: u64,
    pub(crate) tally: Tally,
}

/// What became of a message.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fate {
    /// The node said that it is durable.
    pub(crate) acknowledged: bool,
    /// Its sender has learned that.
    pub(crate) sender_knows: bool,
    /// Where a durable record of it is.
    pub(crate) stored: Option<Stored>,
    /// An application has it.
    pub(crate) delivered: bool,
    /// It could not be read back once, and its mailbox went on without it until the node was started again.
    pub(crate) passed_over: bool,
    /// Its consumer acknowledged it, and may say so to any node from then on.
    pub(crate) consumer_acknowledged: bool,
    /// A durable record settles it.
    pub(crate) settled: Option<SettleCause>,
    /// The frame of that record; 0 as long as there is none.
    pub(crate) settled_lsn: u64,
    /// Its consumer rejected it, and the node may know.
    pub(crate) consumer_rejected: bool,
    /// A durable record says that it is dead, and none behind it that it is not.
    pub(crate) is_dead: bool,
    pub(crate) was_dead: bool,
    /// A record that would have ended or buried it was on its way when the node stopped, or when it came over a connection that
    /// had been replaced: others may have passed it.
    pub(crate) was_passed: bool,
    /// When it died.
    pub(crate) dead_us: u64,
    /// Its owner wants it again, or gone, and the node may know.
    pub(crate) replay_asked: bool,
    pub(crate) purge_asked: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    pub(crate) shard: usize,
    pub(crate) sequence: u64,
    pub(crate) expiry_ms: u64,
    /// The frame of the record.
    pub(crate) lsn: u64,
}

/// What one disk durably holds, frame by frame in the order of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    /// The last frame up to which all are durable.
    durable_through: u64,
    /// Durable frames beyond a gap.
    beyond: BTreeMap<u64, Vec<Record>>,
    /// Every frame that was called durable, by number.
    frames: BTreeMap<u64, FrameHeader>,
    /// Which message has which sequence, durably.
    pub(crate) messages: BTreeMap<u64, MessageNumber>,
    /// Set when the shard says that it is fenced: nothing becomes durable in its eyes afterwards.
    pub(crate) fenced: Option<BTreeSet<MessageNumber>>,
}

impl Model {
    pub(crate) fn new(shard_count: usize, deliveries_max: u8, messages_max: u64) -> Self {
        Self {
            fates: vec![Fate::default(); MESSAGES],
            ledgers: vec![Ledger::default(); shard_count],
            notices: Notices::default(),
            channels: Truth::default(),
            patterns: Patterns::default(),
            messages_max,
            last_order: BTreeMap::new(),
            last_sequence: BTreeMap::new(),
            refused_for_room: false,
            latest_unix_ms: 0,
            deliveries_max,
            earliest_unix_ms: u64::MAX,
            tally: Tally::default(),
        }
    }

    /// Bytes of a segment became durable: reads the frames in them and makes what follows the log's end count.
    pub(crate) fn became_durable(
        &mut self,
        pool: &Pool,
        shard: usize,
        offset: u64,
        bytes: &[u8],
        now_us: u64,
    ) -> Checked {
        self.no_signal_is_stored(shard, bytes)?;
        let header_bytes = if offset == 0 { limits::SEGMENT_HEADER_BYTES } else { 0 };
        let mut rest = &bytes[header_bytes..];
        while !rest.is_empty() {
            let Ok(header) = FrameHeader::parse(rest) else {
                return broken(Rule::AcknowledgedIsDurable, format!("shard {shard}: a synced write holds no frame"));
            };
            let Ok(body) = header.check_body(rest) else {
                return broken(Rule::AcknowledgedIsDurable, format!("shard {shard}: a synced frame is damaged"));
            };
            let mut records = Vec::new();
            let mut body = Bytes::copy_from_slice(body);
            while !body.is_empty() {
                let (record, used) = Record::parse(&body).expect("the log wrote a record that it cannot read");
                records.push(record);
                body = body.slice(used..);
            }
            let ledger = &mut self.ledgers[shard];
            ledger.frames.insert(header.lsn.0, header);
            if header.lsn.0 > ledger.durable_through {
                ledger.beyond.insert(header.lsn.0, records);
            }
            rest = &rest[header.total_bytes()..];
        }
        while let Some(records) = self.ledgers[shard].next_in_order() {
            let lsn = self.ledgers[shard].durable_through;
            for record in records {
                match &record {
                    Record::Dead(dead) => self.dead_is_durable(shard, now_us, dead)?,
                    Record::Revive(revive) => self.revive_is_durable(shard, revive)?,
                    record => self.record_is_durable(pool, shard, lsn, record)?,
                }
            }
        }
        Ok(())
    }

    fn record_is_durable(&mut self, pool: &Pool, shard: usize, lsn: u64, record: &Record) -> Checked {
        match record {
            Record::BatchPart(part) => {
                for message in &part.messages {
                    let Some(number) = pool.message_of(&message.message_id.0) else {
                        return broken(Rule::Content, format!("shard {shard} stored a message that nobody sent"));
                    };
                    let stored = Stored { shard, sequence: message.sequence, expiry_ms: message.expiry_ms, lsn };
                    let fate = &mut self.fates[number];
                    if let Some(before) = fate.stored {
                        return broken(
                            Rule::StoredOnce,
                            format!("message {number} was stored at {before:?} and again at {stored:?}"),
                        );
                    }
                    fate.stored = Some(stored);
                    if let Some(other) = self.ledgers[shard].messages.insert(message.sequence, number) {
                        return broken(
                            Rule::StoredOnce,
                            format!("messages {other} and {number} both have the sequence {}", message.sequence),
                        );
                    }
                    self.published_is_durable(pool, number)?;
                    self.is_within_quota(pool, number)?;
                }
            }
            Record::Settle(settle) => {
                for sequence in &settle.sequences {
                    if self.settle_notice(shard, *sequence, settle.cause)? {
                        continue;
                    }
                    let Some(&number) = self.ledgers[shard].messages.get(sequence) else {
                        let text = format!("shard {shard} settled sequence {sequence}, which was never stored");
                        return broken(Rule::SettledForAReason, text);
                    };
                    self.check_settle(number, settle.cause)?;
                    if settle.cause == SettleCause::Consumed {
                        self.all_have_consumed(pool, number, lsn)?;
                        self.tally.published_consumed += 1;
                    }
                    if self.fates[number].settled.replace(settle.cause).is_none() {
                        self.fates[number].settled_lsn = lsn;
                        self.tally.settled += 1;
                        self.tally.purged += u64::from(settle.cause == SettleCause::Purged);
                        if settle.cause == SettleCause::Expired {
                            self.forgotten(pool, number);
                        }
                    }
                }
            }
            Record::Notice(part) => self.notices_are_durable(pool, shard, part)?,
            Record::Moved(part) => {
                for message in &part.messages {
                    if self.is_notice(shard, message.sequence) {
                        self.tally.moved += 1;
                        continue;
                    }
                    let number = pool.message_of(&message.message_id.0);
                    let stored = number.and_then(|number| self.fates[number].stored);
                    if !stored.is_some_and(|stored| stored.shard == shard && stored.sequence == message.sequence) {
                        let text = format!("shard {shard} moved sequence {}, which was never stored", message.sequence);
                        return broken(Rule::StoredOnce, text);
                    }
                    let number = number.expect("it was stored");
                    if let Some(cause) = self.fates[number].settled {
                        let text = format!("message {number} was moved after it was settled: {cause:?}");
                        return broken(Rule::SettledStaysSettled, text);
                    }
                    if pool.messages[number].envelope != message.envelope {
                        return broken(Rule::Content, format!("message {number} was changed when it was moved"));
                    }
                    self.tally.moved += 1;
                }
            }
            Record::Dedup(_) | Record::Start(_) | Record::Dead(_) | Record::Revive(_) => {}
            Record::Subscribe(_) | Record::Unsubscribe(_) | Record::Cursors(_) | Record::Subscriptions(_) => {
                self.subscriptions_are_durable(pool, shard, lsn, record)?;
            }
        }
        Ok(())
    }

    /// A message is durable in a mailbox: there are no more than may be.
    fn is_within_quota(&mut self, pool: &Pool, number: MessageNumber) -> Checked {
        let to = pool.messages[number].to;
        if number >= FIRST_PUBLISHED || self.messages_max > FIRST_PUBLISHED as u64 {
            return Ok(());
        }
        let of_mailbox = self.fates.iter().zip(&pool.messages).filter(|(_, message)| message.to == to);
        let held = of_mailbox.filter(|(fate, _)| fate.stored.is_some() && fate.settled.is_none()).count() as u64;
        self.tally.quotas += 1;
        match held <= self.messages_max {
            true => Ok(()),
            false => {
                let text = format!("with message {number} {to:?} holds {held} messages of {}", self.messages_max);
                broken(Rule::QuotaIsKept, text)
            }
        }
    }

    /// Whether the wall clock ever was so far from the time of the message ids that these were refused for it.
    pub(crate) fn clock_was_far_off(&self) -> bool {
        self.latest_unix_ms > START_MS + limits::DEDUP_WINDOW_MS
            || self.earliest_unix_ms + limits::DEDUP_AHEAD_MS < START_MS + MESSAGES_PER_AGENT as u64
    }

    pub(crate) fn check_settle(&self, number: MessageNumber, cause: SettleCause) -> Checked {
        let fate = &self.fates[number];
        let has_reason = match cause {
            SettleCause::Acknowledged => fate.consumer_acknowledged,
            SettleCause::Expired => {
                let expiry_ms = fate.stored.map_or(0, |stored| stored.expiry_ms);
                expiry_ms != 0 && expiry_ms <= self.latest_unix_ms
            }
            SettleCause::GivenUp => false,
            // That they have is looked at when the record is durable.
            SettleCause::Consumed => number >= FIRST_PUBLISHED,
            SettleCause::Purged => fate.was_dead && fate.purge_asked,
        };
        match has_reason {
            true => Ok(()),
            false => broken(Rule::SettledForAReason, format!("message {number} was settled as {cause:?}: {fate:?}")),
        }
    }

    /// A shard's log starts again: frames beyond a gap were cut, or will be written again.
    pub(crate) fn restarts(&mut self, shard: usize) {
        let ledger = &mut self.ledgers[shard];
        ledger.beyond.clear();
        ledger.frames.split_off(&(ledger.durable_through + 1));
        ledger.fenced = None;
    }

    /// A shard's log is fenced. What is durable now is all that it may still answer for.
    pub(crate) fn is_fenced(&mut self, shard: usize) {
        self.tally.fences += 1;
        self.ledgers[shard].fenced = Some(self.ledgers[shard].messages.values().copied().collect());
    }
}

impl Ledger {
    /// The frames that were called durable, and all before them.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &FrameHeader> {
        self.frames.range(..=self.durable_through).map(|(_, frame)| frame)
    }

    pub(crate) fn durable_through(&self) -> u64 {
        self.durable_through
    }

    /// The last frame with records that was called durable.
    pub(crate) fn last_record_lsn(&self) -> u64 {
        self.frames().filter(|frame| frame.record_count > 0).map(|frame| frame.lsn.0).max().unwrap_or_default()
    }

    fn next_in_order(&mut self) -> Option<Vec<Record>> {
        let records = self.beyond.remove(&(self.durable_through + 1))?;
        self.durable_through += 1;
        Some(records)
    }
}

/// The shard that owns a mailbox.
pub(crate) fn owner(pool: &Pool, agent: usize, shard_count: usize) -> usize {
    pool.owner(Recipient::Agent(agent), shard_count)
}
