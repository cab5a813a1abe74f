//! Log: parts become records of the write-ahead log, records become durable, and only then is anything answered.
//!
//! Promises that an outcome leaves this file only when every message that it covers was written **and** synced, or was
//! refused; that a duplicate is answered only when its first copy is durable; and that after a disk error nothing is
//! answered as durable any more.

pub(crate) mod hold;
pub(crate) mod letters;
mod notice;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use creto_envelope::deliver::Nack;
use creto_envelope::{AgentId, Priority, RejectCode};
use creto_policy::MailboxLimits;
use creto_store::planted::{Bug, is_planted};
use creto_store::{
    self as store, ActionId, Admit, AppendClass, AppendError, DiskError, LogExtent, MailboxId, Mailboxes, MessageFlags,
    MessageId, Position, Quota, ReadDone, ReadId, Record, RecordLog, RecordSequence, Refusal, SegmentNumber, SenderId,
    Settle, SettleCause, Wal,
};

use self::hold::Hold;
use self::letters::Letters;
use self::notice::{Appended, Notices};
use crate::audit::AuditFeed;
use crate::event::{Action, Now, ShardIndex};
use crate::expiry::Retention;
use crate::limits::EXPIRED_PER_TICK;
use crate::room::Room;
use crate::route::{BatchPart, PartMessage, PartOutcome, Telling, Told};

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
    /// What waits until a record is durable, in the order of the log.
    awaited: VecDeque<Awaited>,
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
}

#[derive(Debug)]
enum Arrived {
    Part(BatchPart),
    Settle(Settle),
    Notices(Notices),
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
    pub(crate) messages: u64,
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
            awaited: VecDeque::new(),
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
            && self.awaited.is_empty()
            && self.refused.is_empty()
            && self.letters.is_idle()
            && self.telling.is_empty()
            && self.answered.is_empty();
        self.wal.fenced().is_some() || (nothing_waits && self.wal.durable() == self.wal.appended())
    }

    /// Messages refused that are no duplicates, whether their senders have heard of it or not.
    #[must_use]
    pub fn messages_refused(&self) -> u64 {
        self.refused_messages
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
    pub(crate) fn submit(&mut self, part: BatchPart) {
        self.arrived.push_back(Arrived::Part(part));
    }

    /// Takes acknowledgements of a consumer; sequences that are not in the mailbox are ignored.
    pub(crate) fn settle(&mut self, mailbox: AgentId, sequences: &[u64]) {
        if let Some(settle) = self.mailboxes.settle(MailboxId(mailbox.0), sequences, SettleCause::Acknowledged) {
            self.arrived.push_back(Arrived::Settle(settle));
        }
    }

    /// Takes refusals of a consumer; what it was not given is ignored.
    pub(crate) fn nack(&mut self, now: Now, mailbox: AgentId, messages: &[(u64, Nack)], deliveries_max: Option<u8>) {
        let (mut later, mut never) = (Vec::new(), Vec::new());
        for &(sequence, nack) in messages {
            match nack {
                Nack::Later { delay_ms } => later.push((sequence, delay_ms)),
                Nack::Never { reason } => never.push((sequence, reason)),
            }
        }
        self.mailboxes.nack(MailboxId(mailbox.0), &later, deliveries_max, now.monotonic_us, now.unix_ms);
        self.mailboxes.reject(MailboxId(mailbox.0), &never, now.unix_ms);
    }

    /// Moves what waits into the log, as far as there is room. Order is kept: nothing overtakes, but for settles that
    /// wait for space.
    pub(crate) fn admit(&mut self, now: Now) {
        self.wants_turn = false;
        self.admit_held_settles();
        self.admit_deaths();
        self.admit_letters();
        while let Some(arrived) = self.arrived.pop_front() {
            let blocked = match arrived {
                Arrived::Part(part) => self.admit_part(now, part).map(Arrived::Part),
                Arrived::Settle(settle) => self.admit_settle(settle).map(Arrived::Settle),
                Arrived::Notices(notices) => self.admit_notices(now, notices).map(Arrived::Notices),
            };
            if let Some(blocked) = blocked {
                match is_planted(Bug::LetOvertake) {
                    false => self.arrived.push_front(blocked),
                    true => self.arrived.push_back(blocked),
                }
                break;
            }
        }
        self.clean();
        self.trim();
    }

    /// Gives the part back when the log has no room for it right now.
    fn admit_part(&mut self, now: Now, part: BatchPart) -> Option<BatchPart> {
        let bytes = part.messages.iter().map(|m| store::PartMessage::encoded_bytes_of(m.path.len(), m.envelope.len()));
        let record_bytes = store::BatchPart::encoded_bytes_of(part.header.len(), bytes.sum());
        match self.wal.check_room(AppendClass::Message, record_bytes) {
            Ok(()) => {}
            Err(AppendError::Full) => return Some(part),
            Err(error) => {
                if error == AppendError::StorageFull {
                    self.refused_bytes = Some(record_bytes);
                    self.refused_messages += part.messages.len() as u64;
                }
                self.refuse_part(part, reject_code(&error));
                return None;
            }
        }
        let message_count = u32::try_from(part.messages.len()).expect("a batch has at most 1,024 messages");
        let mut refused = Vec::new();
        let mut messages = Vec::with_capacity(part.messages.len());
        let mut stored = Vec::with_capacity(part.messages.len());
        let mut after = RecordSequence(0);
        for message in part.messages {
            let mailbox = MailboxId(message.recipient.0);
            let sender = SenderId(part.sender.0);
            let message_id = MessageId(message.message_id.0);
            let quota = quota(message.limits);
            let bytes = message.envelope.len();
            let admitted = self.mailboxes.admit_within(quota, sender, message_id, mailbox, bytes, now.unix_ms);
            match admitted {
                Ok(Admit::New(sequence)) => {
                    stored.push(message.leaf_index);
                    let expiry_ms = self.retention.expiry_ms(now.unix_ms, message.ttl_s, message.bond, &message.limits);
                    messages.push(store::PartMessage {
                        mailbox,
                        sender,
                        message_id,
                        sequence,
                        expiry_ms,
                        leaf_index: message.leaf_index,
                        priority: priority(message.priority),
                        flags: flags(&message, expiry_ms, now),
                        salt: message.salt,
                        path: message.path,
                        envelope: message.envelope,
                    });
                }
                Ok(Admit::Duplicate { durable }) => {
                    if !durable && !is_planted(Bug::AnswerDuplicateEarly) {
                        // Its first copy is in the log or on its way: the answer waits for everything up to here.
                        after = self.wal.appended();
                    }
                    refused.push((message.leaf_index, RejectCode::Duplicate));
                }
                Err(refusal) => {
                    self.refused_messages += 1;
                    refused.push((message.leaf_index, refusal_code(refusal)));
                }
            }
        }
        if !messages.is_empty() {
            let record = Record::BatchPart(store::BatchPart { batch_header: part.header, messages });
            after = self.wal.append(record).expect("room was checked for more than this");
        }
        let pause_ms = self.room().pause_ms();
        let outcome = PartOutcome {
            connection: part.origin.connection,
            sequence: part.sequence,
            message_count,
            refused,
            pause_ms,
        };
        if after <= self.wal.durable() {
            self.refused.push((part.origin.shard, outcome));
        } else {
            self.awaited.push_back(Awaited { after, to: part.origin.shard, outcome, stored });
        }
        None
    }

    fn refuse_part(&mut self, part: BatchPart, code: RejectCode) {
        let message_count = u32::try_from(part.messages.len()).expect("a batch has at most 1,024 messages");
        let outcome = PartOutcome {
            connection: part.origin.connection,
            sequence: part.sequence,
            message_count,
            refused: part.messages.iter().map(|message| (message.leaf_index, code)).collect(),
            pause_ms: self.room().pause_ms(),
        };
        self.refused.push((part.origin.shard, outcome));
    }

    /// Gives the record back when the log has no room for it right now.
    fn admit_settle(&mut self, settle: Settle) -> Option<Settle> {
        let record = Record::Settle(settle);
        match self.wal.check_append(&record) {
            Ok(()) if is_planted(Bug::SettleInMemoryOnly) => {
                self.apply_without_record(record);
                None
            }
            Ok(()) => {
                self.wal.append(record).expect("room was just checked");
                None
            }
            Err(AppendError::Full) => Some(settle_of(record)),
            Err(AppendError::StorageFull) => {
                self.held_settles.push_back(settle_of(record));
                None
            }
            // Nothing is settled any more: the messages are delivered again after the restart.
            Err(AppendError::Fenced(_) | AppendError::Sealed) => None,
            Err(error @ AppendError::RecordTooLarge { .. }) => panic!("a settle record fits every frame: {error}"),
        }
    }

    /// Only bugs that are planted do this.
    fn apply_without_record(&mut self, record: Record) {
        let (segment, lsn) = (self.wal.extent().active, store::Lsn(0));
        let position = store::Position { segment, lsn, index: 0, offset: 0 };
        let (sequence, noted) = (self.wal.durable(), record.noted(position));
        self.mailboxes.apply(store::Durable { sequence, position, noted, record });
    }

    /// What is to die waits in the mailboxes until the log has room for it.
    fn admit_deaths(&mut self) {
        while let Some(dead) = self.mailboxes.next_death() {
            let record = Record::Dead(dead);
            if self.wal.check_append(&record).is_err() {
                let Record::Dead(dead) = record else { unreachable!("just made") };
                self.mailboxes.death_refused(dead);
                break;
            }
            self.wal.append(record).expect("room was just checked");
        }
    }

    fn admit_held_settles(&mut self) {
        while let Some(settle) = self.held_settles.pop_front() {
            let record = Record::Settle(settle);
            if self.wal.check_append(&record).is_err() {
                self.held_settles.push_front(settle_of(record));
                break;
            }
            self.wal.append(record).expect("room was just checked");
        }
    }

    /// Gives back log space that nothing needs any more. What is still needed of it is carried over first.
    fn trim(&mut self) {
        self.end_costly_hold();
        if self.wal.is_trimming() || self.is_closed() {
            return;
        }
        // Beyond its bound a log is trimmed for less than else.
        let LogExtent { bytes, active, segment_bytes, is_short } = self.wal.extent();
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
    pub(crate) fn disk_completed(&mut self, id: ActionId, outcome: Result<(), DiskError>, actions: &mut Vec<Action>) {
        let Err(fenced) = self.wal.completed(id, outcome) else { return };
        if !self.is_fence_told {
            self.is_fence_told = true;
            actions.push(Action::Fenced { cause: fenced.to_string() });
        }
        for arrived in std::mem::take(&mut self.arrived) {
            match arrived {
                Arrived::Part(part) => self.refuse_part(part, RejectCode::ShardFenced),
                Arrived::Notices(notices) => self.answered.push(notices.untold(Telling::NotNow)),
                Arrived::Settle(_) => {}
            }
        }
        self.letters_are_fenced();
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
    pub(crate) fn take_durable(&mut self, audit: &mut AuditFeed) -> Durable {
        let mut durable = Durable { outcomes: std::mem::take(&mut self.refused), ..Durable::default() };
        while let Some(record) = self.wal.next_durable() {
            audit.record(record.position, &record.record);
            match &record.record {
                Record::BatchPart(part) => {
                    durable.messages += part.messages.len() as u64;
                    durable.mailboxes.extend(part.messages.iter().map(|message| AgentId(message.mailbox.0)));
                }
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
            }
            self.mailboxes.apply(record);
        }
        while self.awaited.front().is_some_and(|awaited| awaited.after <= self.wal.durable()) {
            let Awaited { to, outcome, .. } = self.awaited.pop_front().expect("the front was just looked at");
            durable.outcomes.push((to, outcome));
        }
        self.letters_are_durable();
        durable.told = self.take_told();
        durable
    }
}

fn settle_of(record: Record) -> Settle {
    match record {
        Record::Settle(settle) => settle,
        other => panic!("the record was made from a settle: {other:?}"),
    }
}

fn reject_code(error: &AppendError) -> RejectCode {
    match error {
        AppendError::Full => RejectCode::Overloaded,
        AppendError::StorageFull => RejectCode::StorageFull,
        AppendError::RecordTooLarge { .. } => RejectCode::EnvelopeOversized,
        AppendError::Sealed => RejectCode::ShuttingDown,
        AppendError::Fenced(_) => RejectCode::ShardFenced,
    }
}

fn refusal_code(refusal: Refusal) -> RejectCode {
    match refusal {
        Refusal::MailboxFull => RejectCode::MailboxFull,
        Refusal::OutsideDedupWindow | Refusal::AheadOfClock => RejectCode::OutsideDedupWindow,
        Refusal::TooManyInFlight => RejectCode::TooManyInFlight,
        // ShardFull, TooManySenders, and whatever a later version refuses for want of room.
        _ => RejectCode::Overloaded,
    }
}

/// What else is kept of a message. Only of one that asks for something: records without are of a version that is older.
fn flags(message: &PartMessage, expiry_ms: u64, now: Now) -> MessageFlags {
    if !message.wants_notice {
        return MessageFlags::NONE;
    }
    let wanted_ms = now.unix_ms.saturating_add(u64::from(message.ttl_s) * 1_000);
    match message.ttl_s > 0 && expiry_ms >= wanted_ms {
        true => MessageFlags::WANTS_NOTICE,
        false => MessageFlags::WANTS_NOTICE.with(MessageFlags::KEPT_FOR_RETENTION),
    }
}

fn quota(limits: MailboxLimits) -> Quota {
    let messages_max = (limits.messages_max > 0).then_some(u64::from(limits.messages_max));
    Quota { messages_max, bytes_max: (limits.bytes_max > 0).then_some(limits.bytes_max) }
}

fn priority(priority: Priority) -> store::Priority {
    match priority {
        Priority::Low => store::Priority::Low,
        Priority::Normal => store::Priority::Normal,
        Priority::High => store::Priority::High,
        Priority::Critical => store::Priority::Critical,
    }
}
