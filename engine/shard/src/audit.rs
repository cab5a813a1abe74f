//! What a shard tells the audit log: an event for whatever happens to a message, a login, a subscription.
//!
//! Events of messages are made of the records of the log, when these are durable. Whoever keeps the audit log remembers up to
//! which record it has them, so after a crash it reads the rest from the log again ([`events_of`] makes the same of them):
//! **no event of an acknowledged message is lost**. Events that are in no record, such as refusals, are told at once, and a
//! crash may take those of the last second. What a stranger can cause is told one by one as long as it is seldom, and counted
//! beyond that.
//!
//! What was told and is not kept yet is bounded: above [`AUDIT_EVENTS_MAX`] a shard reads nothing more from its connections.
//! And a record whose events are not kept holds its segment. So a slow audit log slows the node, and loses nothing.

use creto_audit::budget::Budget;
use creto_audit::event::{Action as AuditAction, ChannelId, Code, DeathCause, ExpiryCause, Peer};
use creto_audit::{Event as AuditEvent, What};
use creto_envelope::batch::key_record_version_in;
use creto_envelope::envelope::kind_and_channel;
use creto_envelope::notice::{NoticeBody, NoticeCause};
use creto_envelope::{AgentId, MessageId, RejectCode};
use creto_policy::{Action as PolicyAction, OpenDoor};
use creto_store::{self as store, BatchPart, Position, Record, RecordLog, SettleCause};

use crate::connection::Connection;
use crate::event::{Action, ConnectionId, Now};
use crate::limits::{
    AUDIT_BATCH_EVENTS, AUDIT_EVENTS_MAX, AUDIT_EVENTS_RESUME, AUDIT_SPARE_BATCHES_MAX, COUNTED_TOLD_US,
};
use crate::shard::Shard;
use crate::stage::RefusedMessage;
use crate::stage::deliver::Void;

/// Events, in order.
#[derive(Debug, Default)]
pub struct AuditBatch {
    /// What happened.
    pub events: Vec<AuditEvent>,
    /// The events of this record of the log, and of all before it, are among these or were told before.
    pub through: Option<Position>,
}

/// What was told and what was kept.
#[derive(Debug, Default)]
pub(crate) struct AuditFeed {
    is_followed: bool,
    /// When this turn is, Unix milliseconds.
    time_ms: u64,
    monotonic_us: u64,
    /// What happened and is not told yet.
    turn: AuditBatch,
    /// Memory of events that are kept, for those that come.
    spare: Vec<Vec<AuditEvent>>,
    /// Events that were told and are not kept yet.
    in_flight: u64,
    is_behind: bool,
    /// What there is goes out with this turn.
    is_due: bool,
    /// How many refusals are still told one by one.
    budget: Budget,
    /// When what is only counted is told next, by the monotonic clock.
    counted_due_us: u64,
    is_end_told: bool,
}

impl AuditFeed {
    pub(crate) fn follow(&mut self) {
        self.is_followed = true;
    }

    /// What is told from now on happens now.
    pub(crate) fn at(&mut self, now: Now) {
        (self.time_ms, self.monotonic_us) = (now.unix_ms, now.monotonic_us);
    }

    pub(crate) fn tell(&mut self, what: What) {
        if self.is_followed {
            self.turn.events.push(AuditEvent::new(self.time_ms, what));
        }
    }

    /// Tells of what a stranger can cause as often as it likes: one by one while that is seldom.
    pub(crate) fn tell_refused(&mut self, what: What) {
        if self.is_followed
            && let Some(what) = self.budget.admit(what, self.time_ms)
        {
            self.tell(what);
        }
    }

    /// Tells of those that were only counted.
    fn tell_merged(&mut self) {
        for what in self.budget.take_merged() {
            self.tell(what);
        }
    }

    /// Whether what is only counted is to be told now.
    fn is_counted_due(&mut self) -> bool {
        let is_due = self.monotonic_us >= self.counted_due_us;
        if is_due {
            self.counted_due_us = self.monotonic_us.saturating_add(COUNTED_TOLD_US);
        }
        is_due
    }

    /// Tells what a record of the log says, that has just become durable.
    pub(crate) fn record(&mut self, position: Position, record: &Record) {
        if self.is_followed {
            events_of(record, |what| self.turn.events.push(AuditEvent::new(self.time_ms, what)));
            self.turn.through = Some(position);
        }
    }

    /// Takes note that events are kept, and takes back the memory in which they were told, as far as there is use for it.
    pub(crate) fn kept(&mut self, events: u64, spare: Vec<Vec<AuditEvent>>) {
        self.in_flight = self.in_flight.checked_sub(events).expect("only what was told is kept");
        let usual = spare.into_iter().filter(|spare| spare.capacity() <= 2 * AUDIT_BATCH_EVENTS);
        self.spare.extend(usual.take(AUDIT_SPARE_BATCHES_MAX - self.spare.len()).map(|mut spare| {
            spare.clear();
            spare
        }));
    }

    /// Counts what cannot be told one by one.
    fn merge(&mut self, what: &What) {
        if self.is_followed {
            self.budget.merge(what, self.time_ms);
        }
    }

    /// What happened goes out with this turn, however little it is.
    fn tick(&mut self) {
        self.is_due = true;
    }

    /// What is to be told now. Not a little every turn: whoever keeps it would be woken as often.
    pub(crate) fn end_turn(&mut self) -> Option<AuditBatch> {
        let is_due = std::mem::take(&mut self.is_due) || self.turn.events.len() >= AUDIT_BATCH_EVENTS;
        if !is_due || (self.turn.events.is_empty() && self.turn.through.is_none()) {
            return None;
        }
        self.in_flight += self.turn.events.len() as u64;
        let events = self.spare.pop().unwrap_or_default();
        Some(std::mem::replace(&mut self.turn, AuditBatch { events, through: None }))
    }

    /// Whether so much is not kept yet that nothing more should be taken in.
    pub(crate) fn is_behind(&mut self) -> bool {
        let most = if self.is_behind { AUDIT_EVENTS_RESUME } else { AUDIT_EVENTS_MAX };
        self.is_behind = self.in_flight + self.turn.events.len() as u64 > most;
        self.is_behind
    }
}

impl<L: RecordLog> Shard<L> {
    /// The same shard, whose events somebody keeps: it hands them out as [`Action::Audit`] and waits for
    /// [`Event::Audited`](crate::Event::Audited).
    #[must_use]
    pub fn with_audit(mut self) -> Self {
        self.audit.follow();
        self.log.hold_for_audit();
        self
    }

    /// Hands out what happened in this turn.
    pub(crate) fn tell_audit(&mut self, actions: &mut Vec<Action>) {
        if self.draining {
            // This turn may be the last.
            self.audit_tick();
            self.audit_end();
        }
        actions.extend(self.audit.end_turn().map(Action::Audit));
    }

    /// A while has passed: what happened since goes out, however little it is, with what was only counted.
    pub(crate) fn audit_tick(&mut self) {
        if self.audit.is_counted_due() || self.draining {
            if self.snapshot.is_fail_open() {
                self.audit_open_door();
            }
            self.audit.tell_merged();
        }
        self.audit.tick();
    }

    /// Tells, once, that nothing is accepted here any more.
    fn audit_end(&mut self) {
        let Some(end) = self.log.wal().end().filter(|_| !self.audit.is_end_told) else { return };
        self.audit.is_end_told = true;
        self.audit.tell(What::ShardStopped { epoch: end.epoch.0, last_frame: end.position.lsn.0 });
    }

    /// Tells who was let through without a policy.
    pub(crate) fn audit_open_door(&mut self) {
        let OpenDoor { uses, others } = self.decisions.take_open_door();
        let epoch = self.snapshot.epoch();
        let told = |subject, action, object, count| What::FailOpenUsed { subject, object, epoch, count, action };
        for ((subject, action, object), count) in uses {
            self.audit.tell(told(subject, audit_action(action), object, count));
        }
        if others > 0 {
            self.audit.merge(&told(AgentId::ZERO, AuditAction::Send, AgentId::ZERO, others));
        }
    }

    /// Tells of messages that their senders signed after they were revoked.
    pub(crate) fn audit_void(&mut self, void: &[Void]) {
        for &Void { mailbox, sender, message_id, sequence } in void {
            let code = RejectCode::AgentRevoked.into();
            self.audit.tell(What::DeliveryDenied { sender, recipient: mailbox, message_id, sequence, code });
        }
    }

    /// Tells of messages of one connection that were refused: one event for each reason.
    pub(crate) fn audit_refused(&mut self, connection: ConnectionId, refused: impl Iterator<Item = AuditRefusal>) {
        let mut by_code: Vec<AuditRefusal> = Vec::new();
        for refused in refused.filter(|refused| refused.code != RejectCode::Duplicate) {
            match by_code.iter_mut().find(|first| first.code == refused.code) {
                Some(first) => first.count = first.count.saturating_add(refused.count),
                None => by_code.push(refused),
            }
        }
        if by_code.is_empty() {
            return;
        }
        let Some(state) = self.connections.get(&connection) else { return };
        let Some(login) = state.login else { return };
        let (sender, key_version, peer) = (login.agent, login.key_record_version, state.audit_peer());
        for AuditRefusal { recipient, message_id, code, count } in by_code {
            let is_forged = code == RejectCode::BadSignature;
            let code = Code::from(code);
            self.audit.tell_refused(match is_forged {
                true => What::SignatureFailure { claimed: sender, sender, peer, key_version, count, code },
                false => What::SubmitRefused { sender, recipient, message_id, key_version, count, code },
            });
        }
    }

    /// Tells of a login that was refused.
    pub(crate) fn audit_login_failed(&mut self, connection: ConnectionId, claimed: [u8; 16], code: RejectCode) {
        let Some(state) = self.connections.get(&connection) else { return };
        let (claimed, peer) = (AgentId(claimed), state.audit_peer());
        self.audit.tell_refused(What::LoginFailed { claimed, peer, connection: connection.0, code: code.into() });
    }
}

fn audit_action(action: PolicyAction) -> AuditAction {
    match action {
        PolicyAction::SendMessage => AuditAction::Send,
        PolicyAction::ReadDirectory => AuditAction::ReadDirectory,
        PolicyAction::Subscribe | PolicyAction::SubscribeChannel => AuditAction::Subscribe,
        PolicyAction::Publish => AuditAction::Publish,
        // Until it has a word of its own in the log: what least may do.
        _ => AuditAction::Administer,
    }
}

impl Connection {
    pub(crate) fn audit_peer(&self) -> Peer {
        Peer::from(self.peer.ip())
    }
}

/// Messages that were refused for one reason.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AuditRefusal {
    /// Whom the first was for; zero where that was not looked at.
    pub(crate) recipient: AgentId,
    /// The id of the first; zero where that was not looked at.
    pub(crate) message_id: MessageId,
    pub(crate) code: RejectCode,
    pub(crate) count: u32,
}

impl AuditRefusal {
    /// Of messages that were not looked at one by one.
    pub(crate) fn of(code: RejectCode, count: u32) -> Self {
        Self { recipient: AgentId([0; 16]), message_id: MessageId([0; 16]), code, count }
    }
}

impl From<&RefusedMessage> for AuditRefusal {
    fn from(refused: &RefusedMessage) -> Self {
        let &RefusedMessage { recipient, message_id, code, .. } = refused;
        Self { recipient, message_id, code, count: 1 }
    }
}

/// What a record of the log says happened, in order. Records that only keep the log in shape say nothing.
pub fn events_of(record: &Record, mut tell: impl FnMut(What)) {
    match record {
        Record::BatchPart(part) => accepted(part, tell),
        Record::Notice(part) => noticed(part, tell),
        Record::Settle(settle) => {
            let mailbox = AgentId(settle.mailbox.0);
            for &sequence in &settle.sequences {
                tell(match settle.cause {
                    SettleCause::Acknowledged => What::Delivered { mailbox, sequence },
                    SettleCause::Expired => What::Expired { mailbox, sequence },
                    SettleCause::GivenUp => What::GivenUp { mailbox, sequence },
                    SettleCause::Purged => What::Purged { mailbox, sequence },
                    // Nobody's acknowledgement takes it out, so who consumed it is told nowhere.
                    SettleCause::Consumed => continue,
                });
            }
        }
        Record::Dead(dead) if !dead.is_again => {
            for letter in &dead.letters {
                tell(What::DeadLettered {
                    mailbox: AgentId(dead.mailbox.0),
                    sequence: letter.sequence,
                    reason: letter.reason,
                    cause: match letter.cause {
                        store::DeathCause::Rejected => DeathCause::Rejected,
                        store::DeathCause::Deliveries => DeathCause::Deliveries,
                    },
                    deliveries: letter.deliveries,
                });
            }
        }
        Record::Revive(revive) => {
            for &sequence in &revive.sequences {
                tell(What::Revived { mailbox: AgentId(revive.mailbox.0), sequence });
            }
        }
        Record::Start(start) => {
            tell(What::ShardStarted { epoch: start.epoch.0, recovered_through: start.recovered_through.0 });
        }
        Record::Moved(_) | Record::Dead(_) | Record::Dedup(_) => {}
        Record::Subscribe(_) | Record::Unsubscribe(_) | Record::Cursors(_) | Record::Subscriptions(_) => {}
    }
}

fn accepted(part: &BatchPart, mut tell: impl FnMut(What)) {
    // Zero says "the log does not say it": of a record that no node of ours would have admitted.
    let key_version = key_record_version_in(&part.batch_header).unwrap_or(0);
    for message in &part.messages {
        let (message_kind, channel) = kind_and_channel(&message.envelope).unwrap_or_default();
        tell(What::Accepted {
            sender: AgentId(message.sender.0),
            recipient: AgentId(message.mailbox.0),
            message_id: MessageId(message.message_id.0),
            channel: ChannelId(channel),
            sequence: message.sequence,
            envelope_bytes: u32::try_from(message.envelope.len()).expect("an envelope is far below 4 GiB"),
            key_version,
            priority: message.priority as u8,
            message_kind,
        });
    }
}

fn noticed(part: &BatchPart, mut tell: impl FnMut(What)) {
    for message in &part.messages {
        // Zero says "the log does not say it", as above.
        let body = NoticeBody::parse(&message.envelope).ok();
        tell(What::Noticed {
            mailbox: AgentId(message.mailbox.0),
            recipient: body.map_or(AgentId([0; 16]), |body| body.recipient),
            message_id: MessageId(message.message_id.0),
            sequence: message.sequence,
            cause: match body.map(|body| body.cause) {
                Some(NoticeCause::Retention) => ExpiryCause::Retention,
                _ => ExpiryCause::TimeToLive,
            },
        });
    }
}
