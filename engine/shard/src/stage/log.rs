//! Log: parts become records of the write-ahead log, records become durable, and only then is anything answered.
//!
//! Promises that an outcome leaves this file only when every message that it covers was written **and** synced, or was
//! refused; that a duplicate is answered only when its first copy is durable; and that after a disk error nothing is
//! answered as durable any more.

mod admit;
pub(crate) mod hold;
pub(crate) mod letters;
mod notice;
pub(crate) mod subscriptions;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use creto_audit::What;
use creto_envelope::deliver::Nack;
use creto_envelope::{AgentId, ChannelId, GroupId, RejectCode};
use creto_store::planted::{Bug, is_planted};
use creto_store::{
    self as store, ActionId, AppendClass, AppendError, DiskError, LogExtent, MailboxId, Mailboxes, MessageFlags,
    PartMessage, Position, ReadDone, ReadId, Record, RecordLog, RecordSequence, SegmentNumber, Settle, SettleCause,
    SubscriberId, Wal,
};

use self::hold::Hold;
use self::letters::Letters;
use self::notice::{Appended, Notices};
use self::subscriptions::{Changed, Changing, SubscriptionChange};
use crate::audit::AuditFeed;
use crate::channels::members::MemberChange;
use crate::channels::readers::Subscribed;
use crate::event::{Action, Now, ShardIndex};
use crate::expiry::Retention;
use crate::limits::{EXPIRED_PER_TICK, SETTLE_REST_US};
use crate::room::Room;
use crate::route::{BatchPart, PartOutcome, Telling, Told};
use crate::stages::{DurableMarks, StageTimes};

/// The log of a shard with the mailboxes that it feeds.
#[derive(Debug)]
pub struct Log<L = Wal> {
    wal: L,
    mailboxes: Mailboxes,
    retention: Retention,
    /// What waits for room in the log, in order of arrival.
    arrived: VecDeque<Arrived>,
    /// Settles that the log has no space for. They wait here, in order: a consumer says only once that it has a message, and
    /// a message that is never settled would hold its segment, and the space, for ever. Each queued message is in one at most.
    held_settles: VecDeque<Settle>,
    /// Acknowledgements of consumers, in order. Nobody waits for them, so they go with the next record that somebody waits for, or
    /// after [`SETTLE_REST_US`](crate::limits::SETTLE_REST_US) by themselves: a write of their own would stand in the way of the
    /// next message.
    resting: VecDeque<Settle>,
    /// Since when something rests.
    resting_since_us: Option<u64>,
    /// What waits until a record is durable, in the order of the log.
    awaited: VecDeque<Awaited>,
    /// Records of parts that no write has yet, with when the part came; at most as many as wait for a record.
    unwritten: VecDeque<(RecordSequence, u64)>,
    /// How long parts waited for their write.
    queue_times: StageTimes,
    durable_marks: DurableMarks,
    /// Outcomes that wait for nothing.
    refused: Vec<(ShardIndex, PartOutcome)>,
    /// Notices of messages that expired, until they are durable, in the order of the log.
    telling: VecDeque<Appended>,
    /// Answers about notices that wait for nothing.
    answered: Vec<(ShardIndex, Vec<Told>)>,
    messages_untold: u64,
    notices_refused: u64,
    /// Something arrived that the end of this turn came too early for.
    wants_turn: bool,
    /// Reads at the disk, and what they are for.
    reads: BTreeMap<ActionId, ReadId>,
    appended_at_tick: RecordSequence,
    is_fence_told: bool,
    /// Size of the last part that was refused for want of space. As long as it would be again, the log is full.
    refused_bytes: Option<usize>,
    refused_messages: u64,
    /// A backup that copies the log.
    hold: Option<Hold>,
    /// The oldest segment with something that is not in the audit log yet, if there is an audit log.
    not_audited: Option<SegmentNumber>,
    letters: Letters,
    /// Subscriptions that begin or end, until that is durable, in the order of the log; and those about which all is known.
    changing: VecDeque<Changing>,
    changed: Vec<Changed>,
    /// Those that began anew in this turn.
    begun_anew: Vec<(Subscribed, u64)>,
    /// Ends that the log has no space for.
    held_ends: BTreeSet<Subscribed>,
}

#[derive(Debug)]
enum Arrived {
    /// With when it came, by the node's monotonic clock.
    Part(BatchPart, u64),
    Settle(Settle),
    Notices(Notices),
    Subscription(SubscriptionChange),
}

#[derive(Debug)]
struct Awaited {
    /// The last record that the outcome depends on.
    after: RecordSequence,
    to: ShardIndex,
    outcome: PartOutcome,
    /// Leaf indices of the messages that the record holds.
    stored: Vec<u32>,
}

/// What became durable in a turn. Only [`Log::take_durable`] makes one.
#[derive(Debug, Default)]
pub(crate) struct Durable {
    /// For the shards of the connections that submitted it.
    pub(crate) outcomes: Vec<(ShardIndex, PartOutcome)>,
    /// Mailboxes that have something new.
    pub(crate) mailboxes: BTreeSet<AgentId>,
    /// About notices, for the shards that wait for them.
    pub(crate) told: Vec<(ShardIndex, Vec<Told>)>,
    /// Who subscribes to channels now, and who does not any more, in the order of the log.
    pub(crate) members: Vec<MemberChange>,
    /// What became of subscriptions that begin or end.
    pub(crate) subscriptions: Vec<Changed>,
    pub(crate) messages: u64,
    /// Of these, those that were published in channels.
    pub(crate) published: u64,
    pub(crate) notices: u64,
    pub(crate) expired: u64,
    pub(crate) settled: u64,
    pub(crate) moved: u64,
    /// Messages that became dead letters, and that are none any more because their owner wants them again.
    pub(crate) dead: u64,
    pub(crate) revived: u64,
}

impl<L: RecordLog> Log<L> {
    /// Joins a log and the mailboxes that its recovery filled.
    #[must_use]
    pub fn new(wal: L, mailboxes: Mailboxes) -> Self {
        Self {
            wal,
            mailboxes,
            retention: Retention::default(),
            arrived: VecDeque::new(),
            held_settles: VecDeque::new(),
            resting: VecDeque::new(),
            resting_since_us: None,
            awaited: VecDeque::new(),
            unwritten: VecDeque::new(),
            queue_times: StageTimes::default(),
            durable_marks: DurableMarks::default(),
            refused: Vec::new(),
            telling: VecDeque::new(),
            answered: Vec::new(),
            messages_untold: 0,
            notices_refused: 0,
            wants_turn: false,
            reads: BTreeMap::new(),
            appended_at_tick: RecordSequence(0),
            is_fence_told: false,
            refused_bytes: None,
            refused_messages: 0,
            hold: None,
            not_audited: None,
            letters: Letters::default(),
            changing: VecDeque::new(),
            changed: Vec::new(),
            begun_anew: Vec::new(),
            held_ends: BTreeSet::new(),
        }
    }

    /// The same, and its mailboxes keep what nobody acknowledges for so long.
    #[must_use]
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// The log that everything is written to before it counts.
    #[must_use]
    pub fn wal(&self) -> &L {
        &self.wal
    }

    /// The mailboxes.
    #[must_use]
    pub fn mailboxes(&self) -> &Mailboxes {
        &self.mailboxes
    }

    pub(crate) fn mailboxes_mut(&mut self) -> &mut Mailboxes {
        &mut self.mailboxes
    }

    /// The mailboxes, and when what came into them last became durable.
    pub(crate) fn mailboxes_and_marks(&mut self) -> (&mut Mailboxes, &DurableMarks) {
        (&mut self.mailboxes, &self.durable_marks)
    }

    /// How long parts of batches waited for their write.
    pub(crate) fn queue_times(&self) -> &StageTimes {
        &self.queue_times
    }

    /// How much room there is for messages.
    pub(crate) fn room(&self) -> Room {
        match self.wal.fenced() {
            Some(fenced) => Room::Fenced { cause: fenced.to_string() },
            None => {
                let no_room = |bytes| self.wal.check_room(AppendClass::Message, bytes) == Err(AppendError::StorageFull);
                if self.refused_bytes.is_some_and(no_room) { Room::Full } else { Room::of(self.wal.space()) }
            }
        }
    }

    /// Takes what the file system has left for this log.
    pub(crate) fn set_disk_room(&mut self, bytes: u64) {
        self.wal.set_disk_room(bytes);
    }

    /// Whether the log's first frame since the start is durable, and with it everything that recovery found.
    pub(crate) fn is_started(&self) -> bool {
        self.wal.is_started()
    }

    /// Whether another turn without new events would do something.
    pub(crate) fn wants_turn(&self) -> bool {
        self.wants_turn
    }

    /// Whether nothing waits for the disk.
    pub(crate) fn is_idle(&self) -> bool {
        let nothing_waits = self.arrived.is_empty()
            && self.resting.is_empty()
            && self.awaited.is_empty()
            && self.refused.is_empty()
            && self.letters.is_idle()
            && self.telling.is_empty()
            && self.answered.is_empty()
            && self.changing.is_empty()
            && self.changed.is_empty();
        self.wal.fenced().is_some() || (nothing_waits && self.wal.durable() == self.wal.appended())
    }

    /// Messages refused that are no duplicates, whether their senders have heard of it or not.
    #[must_use]
    pub fn messages_refused(&self) -> u64 {
        self.refused_messages
    }

    /// When the log wants a turn that nothing else brings: what rests has rested.
    pub(crate) fn next_deadline_us(&self) -> Option<u64> {
        self.resting_since_us.map(|since_us| since_us.saturating_add(SETTLE_REST_US))
    }

    /// Takes nothing into the log any more, whoever asks. What is in it becomes durable.
    pub(crate) fn seal(&mut self) {
        self.wal.seal();
    }

    /// Whether the log is sealed and all of it is durable, or is fenced: there is nothing more to wait for.
    pub(crate) fn is_at_end(&self) -> bool {
        self.wal.fenced().is_some() || self.wal.end().is_some()
    }

    /// Whether nothing will change in the log any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.wal.is_sealed() || self.wal.fenced().is_some()
    }

    /// Takes a part; it becomes a record as soon as the log has room.
    pub(crate) fn submit(&mut self, now: Now, part: BatchPart) {
        self.arrived.push_back(Arrived::Part(part, now.monotonic_us));
    }

    /// Takes acknowledgements of a consumer; sequences that are not in the mailbox are ignored.
    pub(crate) fn settle(&mut self, mailbox: AgentId, sequences: &[u64]) {
        if let Some(settle) = self.mailboxes.settle(MailboxId(mailbox.0), sequences, SettleCause::Acknowledged) {
            self.arrived.push_back(Arrived::Settle(settle));
        }
    }

    /// Takes refusals of a consumer; what it was not given is ignored.
    pub(crate) fn nack(&mut self, now: Now, mailbox: AgentId, messages: &[(u64, Nack)], deliveries_max: Option<u8>) {
        let (mut later, mut never, mut untouched) = (Vec::new(), Vec::new(), Vec::new());
        for &(sequence, nack) in messages {
            match nack {
                Nack::Later { delay_ms } => later.push((sequence, delay_ms)),
                Nack::Never { reason } => never.push((sequence, reason)),
                Nack::Untouched => untouched.push(sequence),
            }
        }
        self.mailboxes.untouched(MailboxId(mailbox.0), &untouched);
        self.mailboxes.nack(MailboxId(mailbox.0), &later, deliveries_max, now.monotonic_us, now.unix_ms);
        self.mailboxes.reject(MailboxId(mailbox.0), &never, now.unix_ms);
    }

    /// Gives back log space that nothing needs any more. What is still needed of it is carried over first.
    fn trim(&mut self) {
        self.end_costly_hold();
        if self.wal.is_trimming() || self.is_closed() {
            return;
        }
        // Beyond its bound a log is trimmed for less than else.
        let LogExtent { bytes, active, segment_bytes, is_short, .. } = self.wal.extent();
        let is_short = is_short || bytes > self.mailboxes.space_bytes_max(segment_bytes);
        let log_start = self.wal.log_start();
        let point = self.mailboxes.trim_point(log_start, active, segment_bytes, is_short);
        let point = point.map(|point| point.min(self.not_audited.unwrap_or(point)));
        if let Some(point) = point.filter(|point| *point > log_start) {
            let carried = self.mailboxes.carry_over(point, self.wal.record_bytes_max());
            self.wal.trim(point, carried).expect("neither fenced nor sealed since it was asked above");
        }
    }

    /// Keeps every segment with something that is not in the audit log.
    pub(crate) fn hold_for_audit(&mut self) {
        self.not_audited = Some(self.wal.log_start());
    }

    /// Lets segments go whose records are all in the audit log, up to this one.
    pub(crate) fn audited(&mut self, through: Position) {
        self.not_audited = self.not_audited.map(|held| held.max(through.segment));
    }

    /// Keeps the log's space in proportion to what is queued: a step of cleaning, and what it has ready.
    fn clean(&mut self) {
        // A log that is being copied keeps its files whatever is moved.
        if self.is_closed() || self.wal.held().is_some() {
            return;
        }
        while let Some(part) = self.mailboxes.next_moved() {
            let record = Record::Moved(part);
            if self.wal.check_append(&record).is_err() {
                let Record::Moved(part) = record else { unreachable!("just made") };
                self.mailboxes.move_refused(part);
                break;
            }
            self.wal.append(record).expect("room was just checked");
        }
        self.mailboxes.clean(&self.wal.extent());
    }

    /// What has no event of its own: expiry, a last confirmation when the log rests, space asked for again.
    pub(crate) fn tick(&mut self, now: Now) {
        let expired = self.mailboxes.expire(now.unix_ms, EXPIRED_PER_TICK);
        self.arrived.extend(expired.into_iter().map(Arrived::Settle));
        self.mailboxes.pass(now.monotonic_us);
        self.end_late_hold(now);
        self.wal.tick(self.mailboxes.space_bytes_max(self.wal.extent().segment_bytes));
        let is_resting = std::mem::replace(&mut self.appended_at_tick, self.wal.appended()) == self.wal.appended();
        if is_resting {
            self.wal.confirm();
        }
    }

    /// Hands out what the disk should do now.
    pub(crate) fn commit(&mut self, now: Now, actions: &mut Vec<Action>) {
        while let Some(action) = self.wal.next_action(now.unix_ms) {
            if let store::Action::Write(write) = &action {
                let written = write.last_record();
                while let Some((_, since_us)) = self.unwritten.pop_front_if(|(record, _)| *record <= written) {
                    self.queue_times.add(now.monotonic_us.saturating_sub(since_us));
                }
            }
            actions.push(Action::Disk(action));
        }
    }

    /// Ends the deliveries of a turn: what they did not find in memory is asked for.
    pub(crate) fn end_deliveries(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.mailboxes.end_turn();
        while let Some(read) = self.mailboxes.next_read() {
            let id = self.wal.read(read.segment, read.offset, read.bytes);
            self.reads.insert(id, read.id);
        }
        self.commit(now, actions);
    }

    /// Takes what the disk has read.
    pub(crate) fn disk_read(&mut self, id: ActionId, outcome: Result<Bytes, DiskError>) -> ReadDone {
        let read = self.reads.remove(&id).expect("only what was asked for is read");
        self.mailboxes.read_completed(read, outcome)
    }

    /// Takes what the disk has done. A failure fences the log: what waits is refused, nothing is answered as durable.
    pub(crate) fn disk_completed(
        &mut self,
        id: ActionId,
        outcome: Result<(), DiskError>,
        audit: &mut AuditFeed,
        actions: &mut Vec<Action>,
    ) {
        let Err(fenced) = self.wal.completed(id, outcome) else { return };
        if !self.is_fence_told {
            self.is_fence_told = true;
            audit.tell(What::ShardFenced { epoch: self.wal.epoch().0 });
            actions.push(Action::Fenced { cause: fenced.to_string() });
        }
        for arrived in std::mem::take(&mut self.arrived) {
            match arrived {
                Arrived::Part(part, _) => self.refuse_part(part, RejectCode::ShardFenced),
                Arrived::Notices(notices) => self.answered.push(notices.untold(Telling::NotNow)),
                Arrived::Subscription(change) => self.changed.push((change, Err(RejectCode::ShardFenced))),
                Arrived::Settle(_) => {}
            }
        }
        self.resting.clear();
        self.resting_since_us = None;
        self.letters_are_fenced();
        self.changes_are_fenced();
        for telling in std::mem::take(&mut self.telling) {
            self.answered.push(telling.unknown());
        }
        // Nobody knows whether these are on the disk: the sender keeps them and asks again, under the same ids.
        for Awaited { to, mut outcome, stored, .. } in std::mem::take(&mut self.awaited) {
            for (_, code) in outcome.refused.iter_mut().filter(|(_, code)| *code == RejectCode::Duplicate) {
                *code = RejectCode::ShardFenced;
            }
            if is_planted(Bug::AnswerWhenFenced) {
                outcome.refused.retain(|(_, code)| *code != RejectCode::ShardFenced);
                self.refused.push((to, outcome));
                continue;
            }
            outcome.refused.extend(stored.into_iter().map(|index| (index, RejectCode::ShardFenced)));
            self.refused.push((to, outcome));
        }
    }

    /// Takes what became durable since the last call.
    pub(crate) fn take_durable(&mut self, now: Now, audit: &mut AuditFeed) -> Durable {
        let mut durable = Durable { outcomes: std::mem::take(&mut self.refused), ..Durable::default() };
        while let Some(record) = self.wal.next_durable() {
            audit.record(record.position, &record.record);
            match &record.record {
                Record::BatchPart(part) => {
                    self.durable_marks.durable(record.position, now.monotonic_us);
                    durable.messages += part.messages.len() as u64;
                    let is_published = |message: &&PartMessage| message.flags.contains(MessageFlags::PUBLISHED);
                    durable.published += part.messages.iter().filter(is_published).count() as u64;
                    // Readers of channels are named by the store.
                    let in_mailboxes = part.messages.iter().filter(|message| !is_published(message));
                    durable.mailboxes.extend(in_mailboxes.map(|message| AgentId(message.mailbox.0)));
                }
                // Consumed long before, by all.
                Record::Settle(settle) if settle.cause == SettleCause::Consumed => {}
                Record::Settle(settle) => {
                    durable.settled += settle.sequences.len() as u64;
                    if settle.cause == SettleCause::Expired {
                        durable.expired += settle.sequences.len() as u64;
                    }
                }
                Record::Notice(part) => {
                    durable.notices += part.messages.len() as u64;
                    durable.mailboxes.extend(part.messages.iter().map(|message| AgentId(message.mailbox.0)));
                }
                Record::Moved(part) => durable.moved += part.messages.len() as u64,
                Record::Dead(dead) if !dead.is_again => durable.dead += dead.letters.len() as u64,
                Record::Revive(revive) => durable.revived += revive.sequences.len() as u64,
                Record::Dedup(_) | Record::Start(_) | Record::Dead(_) => {}
                Record::Subscribe(subscribe) => {
                    let store::Subscribe { channel, subscriber, group, .. } = *subscribe;
                    durable.members.push(MemberChange::Joined(subscribed(channel, subscriber, group)));
                }
                Record::Unsubscribe(unsubscribe) => {
                    let store::Unsubscribe { channel, subscriber, group } = *unsubscribe;
                    durable.members.push(MemberChange::Left(subscribed(channel, subscriber, group)));
                }
                Record::Cursors(_) | Record::Subscriptions(_) => {}
            }
            self.mailboxes.apply(record);
        }
        // A log without writes, or with one that has failed: nobody measures how long these waited.
        while self.unwritten.pop_front_if(|(record, _)| *record <= self.wal.durable()).is_some() {}
        while self.awaited.front().is_some_and(|awaited| awaited.after <= self.wal.durable()) {
            let Awaited { to, outcome, .. } = self.awaited.pop_front().expect("the front was just looked at");
            durable.outcomes.push((to, PartOutcome { durable_us: Some(now.monotonic_us), ..outcome }));
        }
        self.letters_are_durable();
        durable.told = self.take_told();
        durable.subscriptions = self.take_changed();
        durable
    }
}

fn subscribed(channel: MailboxId, subscriber: SubscriberId, group: store::GroupId) -> Subscribed {
    Subscribed { channel: ChannelId(channel.0), agent: AgentId(subscriber.0), group: GroupId(group.0) }
}
