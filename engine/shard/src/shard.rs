//! One core's share: connections that this shard accepted, mailboxes whose partitions it owns, and its log.
//!
//! A driver hands events to [`Shard::apply`] and ends each turn with [`Shard::end_turn`]; both append what they want
//! done to a list of [`Action`]s. Nothing here waits, reads a clock or touches a socket, so a whole node can run in one
//! thread from one seed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use creto_audit::What;
use creto_audit::event::{ChannelId, Code};
use creto_envelope::control::{Reject, StreamRole};
use creto_envelope::deliver::Nack;
use creto_envelope::{AgentId, RejectCode, TreeDigest};
use creto_policy::{DecisionTable, Snapshot};
use creto_store::{RecordLog, Wal};

use crate::audit::{AuditFeed, AuditRefusal};
use crate::channels::Channels;
use crate::connection::Connection;
use crate::event::{Action, ConnectionId, Event, Now, ShardIndex};
use crate::key_records::KeyRecords;
use crate::limits::{
    BAD_SIGNATURES_MAX, ConnectionLimits, DECISION_LIFETIME_MS, DECISION_TABLE_ENTRIES, INGRESS_BYTES_MAX,
    INGRESS_BYTES_RESUME, LOGIN_US_MAX, SIGNALS_PER_TURN,
};
use crate::meter::Meter;
use crate::observe::Counters;
use crate::presence::LastSeen;
use crate::room::Room;
use crate::route::{ExpiredMessage, PartOutcome, Placement, ShardMessage};
use crate::stage::deliver::Subscriptions;
use crate::stage::log::Log;
use crate::stage::log::hold::{HoldAnswer, HoldId, HoldRequest};
use crate::stage::receive::SubmitFrame;
use crate::stage::verify::{Verifier, valid_key_version};
use crate::stage::{Refusals, RefusedMessage};
use crate::stages::StageClock;
use crate::workers::WorkerQueue;

/// One shard.
#[derive(Debug)]
pub struct Shard<L = Wal> {
    pub(crate) index: ShardIndex,
    pub(crate) placement: Placement,
    pub(crate) limits: ConnectionLimits,
    pub(crate) snapshot: Arc<Snapshot>,
    /// What is to be told to senders, from before control said who there is. No more than all shards have on their way.
    early_tells: Vec<(ShardIndex, Vec<ExpiredMessage>)>,
    pub(crate) connections: BTreeMap<ConnectionId, Connection>,
    /// Connections in the order in which they must have logged in, with the monotonic time for it. Those that did, and
    /// those that are gone, are dropped when their time comes.
    login_deadlines: VecDeque<(u64, ConnectionId)>,
    pub(crate) verifier: Verifier,
    /// Key records of others than the connections'.
    pub(crate) key_records: KeyRecords,
    /// What crypto workers verify, if there are any.
    pub(crate) workers: Option<WorkerQueue>,
    pub(crate) decisions: DecisionTable,
    /// What senders have sent, where policy asks or binds.
    pub(crate) meter: Meter,
    pub(crate) log: Log<L>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) last_seen: LastSeen,
    pub(crate) channels: Channels,
    pub(crate) counters: Counters,
    pub(crate) stage_clock: StageClock,
    /// Since when what is answered in this turn was known to be durable.
    pub(crate) durable_since: Vec<u64>,
    /// Batches that arrived in this turn.
    pub(crate) submit_frames: Vec<SubmitFrame>,
    /// What the stages refused in this turn.
    pub(crate) refusals: Refusals,
    /// Messages of this shard to itself: handled in the same turn, in order.
    pub(crate) to_self: VecDeque<ShardMessage>,
    /// Bytes of batches taken in and not yet answered.
    pub(crate) ingress_bytes: usize,
    /// Signals that may still be pushed in this turn.
    pub(crate) signals_left: usize,
    /// Connections whose answers may have moved in this turn.
    pub(crate) touched: Vec<ConnectionId>,
    pub(crate) reading: bool,
    pub(crate) draining: bool,
    pub(crate) audit: AuditFeed,
}

impl<L: RecordLog> Shard<L> {
    /// A shard around its recovered log. It allows nothing until the first [`Event::Snapshot`].
    #[must_use]
    pub fn new(index: ShardIndex, placement: Placement, limits: ConnectionLimits, log: Log<L>) -> Self {
        Self::with_decision_entries(index, placement, limits, log, DECISION_TABLE_ENTRIES)
    }

    /// The same with another size of the decision table, which takes 64 bytes an entry at once.
    #[must_use]
    pub fn with_decision_entries(
        index: ShardIndex,
        placement: Placement,
        limits: ConnectionLimits,
        log: Log<L>,
        decision_entries: usize,
    ) -> Self {
        assert!(index.0 < placement.shard_count(), "a shard is one of the placement's");
        let channels = Channels::of(log.mailboxes());
        Self {
            index,
            placement,
            limits: limits.within_protocol(),
            snapshot: Arc::new(Snapshot::empty()),
            early_tells: Vec::new(),
            connections: BTreeMap::new(),
            login_deadlines: VecDeque::new(),
            verifier: Verifier::default(),
            key_records: KeyRecords::default(),
            workers: None,
            decisions: DecisionTable::new(decision_entries, DECISION_LIFETIME_MS),
            meter: Meter::default(),
            log,
            subscriptions: Subscriptions::default(),
            last_seen: LastSeen::default(),
            channels,
            counters: Counters::default(),
            stage_clock: StageClock::default(),
            durable_since: Vec::new(),
            submit_frames: Vec::new(),
            refusals: Refusals::default(),
            to_self: VecDeque::new(),
            ingress_bytes: 0,
            signals_left: SIGNALS_PER_TURN,
            touched: Vec::new(),
            reading: true,
            draining: false,
            audit: AuditFeed::default(),
        }
    }

    /// Where its memory of decisions is, the one table of it that is large from the beginning.
    #[must_use]
    pub fn decision_memory(&self) -> std::ops::Range<*const u8> {
        self.decisions.memory()
    }

    /// The same shard, which takes only batches whose tree is made of this hash.
    #[must_use]
    pub fn with_tree_digest(mut self, tree_digest: TreeDigest) -> Self {
        self.verifier.demand(tree_digest);
        self
    }

    /// The same with crypto workers that take up to `at_workers_max` batches of this shard at a time: batches are verified
    /// by whoever carries out [`Action::Verify`].
    #[must_use]
    pub fn with_workers(self, at_workers_max: usize) -> Self {
        Self { workers: Some(WorkerQueue::new(at_workers_max)), ..self }
    }

    /// The same with a clock by which stages are measured inside of a turn: microseconds from where [`Now::monotonic_us`] counts, too.
    /// Nothing else is made of it.
    #[must_use]
    pub fn with_stage_clock(self, clock: impl Fn() -> u64 + Send + 'static) -> Self {
        Self { stage_clock: StageClock::of(Box::new(clock)), ..self }
    }

    /// Takes one event in. What it leads to may wait for [`Shard::end_turn`].
    pub fn apply(&mut self, now: Now, event: Event, actions: &mut Vec<Action>) {
        self.audit.at(now);
        match event {
            Event::Connected { connection, exporter, peer } => {
                let before = self.connections.insert(connection, Connection::new(exporter, peer));
                assert!(before.is_none(), "a connection id is never used again");
                self.login_deadlines.push_back((now.monotonic_us.saturating_add(LOGIN_US_MAX), connection));
            }
            Event::Frame { connection, stream, frame_type, body } => {
                self.take_frame(now, connection, stream, frame_type, body, actions);
            }
            Event::FrameError { connection, stream, code } => {
                // Where the next frame begins cannot be known any more.
                self.refuse(connection, stream, Reject::new(code), code, actions);
                self.close(connection, code, actions);
            }
            Event::StreamClosed { .. } => {}
            Event::Disconnected { connection } => self.forget(connection, actions),
            // What this shard's own connections ask waits for the end of the turn, or until the log has started: what comes later waits
            // behind it, or an older question would change a subscription under a newer one.
            Event::FromShard { from: _, message: message @ ShardMessage::Channel { .. } }
                if !self.log.is_started() || !self.to_self.is_empty() =>
            {
                self.to_self.push_back(message);
            }
            Event::FromShard { from: _, message } => self.take_message(now, message, actions),
            Event::Snapshot(snapshot) => self.replace_snapshot(now, snapshot, actions),
            Event::KeyRecordPublished { connection, answer } => {
                self.key_record_published(connection, answer, actions);
            }
            Event::Enrolled { connection, answer } => self.enrolled(connection, answer, actions),
            Event::KeyRecordAnswered { agent, version, answer } => {
                self.key_record_answered(now, (agent, version), &answer, actions);
            }
            Event::KeyLogAnswered { connection, frames } => self.key_log_answered(connection, frames, actions),
            Event::ChannelAnswered { connection, channel, answer } => {
                self.channel_answered(connection, channel, answer, actions);
            }
            Event::PrekeysAnswered { connection, frames } => self.prekeys_answered(connection, frames, actions),
            Event::PrekeysLow { agent, stock } => self.prekeys_low(agent, stock, actions),
            Event::Disk { id, outcome } => self.log.disk_completed(id, outcome, &mut self.audit, actions),
            Event::DiskRead { id, outcome } => {
                let done = self.log.disk_read(id, outcome);
                self.counters.read_back(&done);
                if let Some((read, found)) = &done.letter {
                    self.log.letter_is_read(*read, found);
                }
                if let Some(mailbox) = done.ready {
                    self.subscriptions.wake(AgentId(mailbox.0));
                }
                actions.extend(done.problems.into_iter().map(|problem| Action::Unreadable { problem }));
            }
            Event::Verified(outcome) => {
                let queue = self.workers.as_mut().expect("only a shard with workers asks for verdicts");
                queue.complete(now, outcome, &mut self.counters.stages.verify);
            }
            Event::Audited { events, through, spare } => {
                self.audit.kept(events, spare);
                through.into_iter().for_each(|through| self.log.audited(through));
            }
            Event::DiskRoom { bytes } => self.log.set_disk_room(bytes),
            Event::Tick => {
                self.audit_tick();
                self.log.tick(now);
                for mailbox in self.log.mailboxes_mut().retry_reads() {
                    self.subscriptions.wake(AgentId(mailbox.0));
                }
                self.channel_tick();
                self.last_seen.pass(now.unix_ms);
                self.counters.decisions = self.decisions.stats();
                self.counters.stages.queue.clone_from(self.log.queue_times());
                self.give_up_key_records(now, actions);
                self.close_without_login(now, actions);
            }
            Event::Drain => self.draining = true,
            Event::Seal => self.log.seal(),
        }
    }

    /// Holds the log for a backup, goes on holding it, or lets it go.
    pub fn hold(&mut self, now: Now, id: HoldId, request: HoldRequest) -> HoldAnswer {
        self.log.hold(now, id, request)
    }

    /// Ends a turn: runs the path over everything that arrived in it.
    pub fn end_turn(&mut self, now: Now, actions: &mut Vec<Action>) {
        self.audit.at(now);
        self.decisions.begin_turn();
        self.channels.begin_turn();
        // Until the first frame of this start is durable, what recovery found is not proven durable either: nothing of
        // it may be delivered, and no resend may be told that it is stored.
        if !self.log.is_started() {
            self.log.commit(now, actions);
            // What arrives can only be held: no more of it than is here already.
            if self.reading && !self.submit_frames.is_empty() {
                self.reading = false;
                actions.push(Action::SetReading(false));
            }
            return;
        }
        self.ingress(now, actions);
        self.tell_expired(actions);
        self.run_own_messages(now, actions);
        self.commit(now, actions);
        self.egress(now, actions);
        self.sweep(now, actions);
        self.run_own_messages(now, actions);
        self.answer(actions);
        self.measure_answers(now);
        self.dispatch(now, actions);
        self.tell_audit(actions);
        self.steer_reading(actions);
        self.signals_left = SIGNALS_PER_TURN;
    }

    /// Whether another turn without new events would do something.
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.log.is_started() && self.has_unfinished()
    }

    /// When another turn without new events would do something, on the monotonic clock, unless it is a tick's.
    #[must_use]
    pub fn next_deadline_us(&self) -> Option<u64> {
        self.log.next_deadline_us()
    }

    /// Whether what recovery found is proven durable, so that the shard serves.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.log.is_started()
    }

    /// Whether everything that was taken in is answered and on disk; asked while draining. Other shards may still have
    /// something for it: seal it when all have drained.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.draining
            && !self.has_unfinished()
            && self.log.is_idle()
            && self
                .connections
                .values()
                .all(|state| state.submit.is_idle() && state.publishing.is_none() && state.asking.is_none())
    }

    /// Whether the log has come to its end ([`Event::Seal`]), or was fenced before: whoever opens it next finds all of it,
    /// and nothing is under way to it.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.log.is_at_end()
    }

    /// How much room the log has for messages, or that it is fenced.
    #[must_use]
    pub fn room(&self) -> Room {
        self.log.room()
    }

    /// What this shard has counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Bytes of batches that were taken in and are not answered.
    #[must_use]
    pub fn ingress_bytes(&self) -> usize {
        self.ingress_bytes
    }

    /// Batches that wait for a crypto worker or its verdict.
    #[must_use]
    pub fn batches_at_workers(&self) -> usize {
        self.workers.as_ref().map_or(0, WorkerQueue::len)
    }

    /// What is kept of the decision about a pair of agents, if something is.
    #[must_use]
    pub fn kept_decision(
        &self,
        now: Now,
        sender: &AgentId,
        action: creto_policy::Action,
        recipient: &AgentId,
    ) -> Option<creto_policy::Decision> {
        self.decisions.kept(&self.snapshot, now.unix_ms, sender, action, recipient)
    }

    /// How many messages of an agent were accepted here of late, if policy reads that.
    #[must_use]
    pub fn recent_messages(&self, now: Now, sender: &AgentId) -> u32 {
        self.meter.look(sender, now.monotonic_us)
    }

    /// How many subscriptions to channels of this shard there are, durably, and how many of them are read by a connection.
    #[must_use]
    pub fn channel_subscriptions(&self) -> (u64, u64) {
        self.channels.counts()
    }

    /// What this shard goes by.
    #[must_use]
    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// The log and the mailboxes, to look at.
    #[must_use]
    pub fn log(&self) -> &Log<L> {
        &self.log
    }

    fn has_unfinished(&self) -> bool {
        !self.submit_frames.is_empty()
            || !self.to_self.is_empty()
            || self.subscriptions.has_work()
            || self.channels.has_work()
            || self.log.mailboxes().is_cleaning()
            || self.log.wants_turn()
    }

    /// Sends to a shard, which may be this one.
    pub(crate) fn tell(&mut self, to: ShardIndex, message: ShardMessage, actions: &mut Vec<Action>) {
        if to == self.index {
            self.to_self.push_back(message);
        } else {
            actions.push(Action::ToShard { to, message });
        }
    }

    pub(crate) fn run_own_messages(&mut self, now: Now, actions: &mut Vec<Action>) {
        while let Some(message) = self.to_self.pop_front() {
            self.take_message(now, message, actions);
        }
    }

    fn take_message(&mut self, now: Now, message: ShardMessage, actions: &mut Vec<Action>) {
        match message {
            ShardMessage::Submit(part) => self.log.submit(now, part),
            ShardMessage::Signal(part) => self.take_signals(now, &part, actions),
            ShardMessage::Outcome(outcome) => self.take_outcome(outcome),
            ShardMessage::Subscribe { mailbox, origin, since_us } => {
                let most = self.deliveries_max(&mailbox);
                // Whoever reads now says itself whether it shows that.
                self.last_seen.forget(&mailbox);
                let mailboxes = self.log.mailboxes_mut();
                let pushes = self.subscriptions.subscribe(mailbox, origin, since_us, most, now, mailboxes);
                self.push(pushes, actions);
            }
            ShardMessage::Unsubscribe { mailbox, origin } => {
                let most = self.deliveries_max(&mailbox);
                if self.subscriptions.is_current(mailbox, origin) && self.subscriptions.shows_presence(&mailbox) {
                    self.last_seen.stopped(mailbox, now.unix_ms);
                }
                self.subscriptions.unsubscribe(mailbox, origin, most, now, self.log.mailboxes_mut());
            }
            ShardMessage::Credit { mailbox, origin, messages, bytes } => {
                self.subscriptions.credit(mailbox, origin, messages, bytes);
            }
            ShardMessage::SignalCredit { mailbox, origin, signals } => {
                self.subscriptions.signal_credit(mailbox, origin, signals);
            }
            ShardMessage::PresenceShow { mailbox, origin, audience } => self.presence_shown(mailbox, origin, audience),
            ShardMessage::PresenceAsk { agent, origin, is_allowed } => {
                self.answer_presence(now, agent, origin, is_allowed, actions);
            }
            ShardMessage::PresenceTold { connection, answer } => self.presence_told(connection, answer, actions),
            ShardMessage::ConsumerAck { mailbox, origin, sequences } => {
                // An acknowledgement of a subscriber that was replaced may concern what the new one was just given.
                if self.subscriptions.is_current(mailbox, origin) {
                    self.subscriptions.settled(now, &mailbox, &sequences, &mut self.counters.stages.settle);
                    self.log.settle(mailbox, &sequences);
                }
            }
            ShardMessage::ConsumerNack { mailbox, origin, messages } => {
                // As an acknowledgement; what is lost with a replaced subscriber comes again at once.
                if self.subscriptions.is_current(mailbox, origin) {
                    self.counters.messages_nacked +=
                        messages.iter().filter(|(_, nack)| matches!(nack, Nack::Later { .. })).count() as u64;
                    let most = self.deliveries_max(&mailbox);
                    self.log.nack(now, mailbox, &messages, most);
                }
            }
            // Nobody can say for now who may read what; the snapshot here may be another than that of the connection's shard.
            ShardMessage::LetterQuestion { origin, .. } if self.snapshot.policy().is_none() => {
                self.log.refuse_letters(origin, RejectCode::PolicyUnavailable);
            }
            ShardMessage::LetterQuestion { mailbox, origin, question } => {
                self.log.ask_letters(mailbox, origin, question);
            }
            ShardMessage::LetterAnswer { connection, answer } => self.letters_answered(connection, answer, actions),
            // Control has not said yet who exists: nobody may conclude from that that they do not.
            ShardMessage::Tell { from, expired } if self.snapshot.policy().is_none() => {
                self.early_tells.push((from, expired));
            }
            ShardMessage::Tell { from, expired } => self.log.tell(from, expired, &self.snapshot),
            ShardMessage::Told { told } => self.log.settle_told(&told),
            ShardMessage::Channel { channel, origin, ask } => {
                self.take_channel_ask(now, channel, origin, ask, actions);
            }
            ShardMessage::ChannelNews { connection, news } => self.take_channel_news(connection, news, actions),
            ShardMessage::FanOut { pushes } => self.send_fan_out(pushes, actions),
            ShardMessage::Push { connection, frames } => self.send_deliver(connection, frames, actions),
        }
    }

    /// After how many failed deliveries a message of this mailbox is a dead letter, if that was set for it.
    fn deliveries_max(&self, mailbox: &AgentId) -> Option<u8> {
        self.snapshot.principal(mailbox)?.mailbox_settings().max_deliveries
    }

    fn take_outcome(&mut self, outcome: PartOutcome) {
        let PartOutcome { connection, sequence, message_count, refused, pause_ms, durable_us } = outcome;
        self.audit_refused(connection, refused.iter().map(|(_, code)| AuditRefusal::of(*code, 1)));
        for (_, code) in &refused {
            match code {
                RejectCode::Duplicate => self.counters.messages_duplicate += 1,
                code => self.counters.reject(*code, 1),
            }
        }
        // The connection may be gone; what it submitted is durable all the same and its resend will be a duplicate.
        if let Some(state) = self.connections.get_mut(&connection) {
            state.submit.settle(sequence, message_count, refused.into_iter());
            state.submit.slow_down(pause_ms);
            self.touched.push(connection);
            self.durable_since.extend(durable_us);
        }
    }

    pub(crate) fn send_deliver(&mut self, connection: ConnectionId, frames: Bytes, actions: &mut Vec<Action>) {
        let stream = self.connections.get(&connection).and_then(|state| state.stream(StreamRole::Deliver));
        if let Some(stream) = stream {
            actions.push(Action::Send { connection, stream, frames });
        }
    }

    /// Tells each sender what the stages of this turn refused, and what is answered.
    fn answer(&mut self, actions: &mut Vec<Action>) {
        let Refusals { batches, messages } = std::mem::take(&mut self.refusals);
        let mut hostile = Vec::new();
        for refused in batches {
            self.counters.reject(refused.code, 1);
            let Some(state) = self.connections.get_mut(&refused.connection) else { continue };
            let message_count = state.submit.refuse(refused.sequence, refused.code);
            self.audit_refused(refused.connection, [AuditRefusal::of(refused.code, message_count)].into_iter());
            let Some(state) = self.connections.get_mut(&refused.connection) else { continue };
            self.touched.push(refused.connection);
            if refused.code == RejectCode::BadSignature {
                state.bad_signatures += 1;
                if state.bad_signatures >= BAD_SIGNATURES_MAX {
                    hostile.push(refused.connection);
                }
            }
        }
        for of_batch in messages.chunk_by(|a, b| (a.connection, a.sequence) == (b.connection, b.sequence)) {
            self.audit_refused(of_batch[0].connection, of_batch.iter().map(AuditRefusal::from));
        }
        for refused in messages {
            self.counters.reject(refused.code, 1);
            if let Some(state) = self.connections.get_mut(&refused.connection) {
                let RefusedMessage { sequence, leaf_index, code, retry_after_ms, .. } = refused;
                state.submit.refuse_message(sequence, leaf_index, code, retry_after_ms);
                self.touched.push(refused.connection);
            }
        }
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for connection in touched {
            let Some(state) = self.connections.get_mut(&connection) else { continue };
            let Some(stream) = state.stream(StreamRole::Submit) else { continue };
            let mut out = Vec::new();
            let answered = state.submit.encode_acks(&mut out);
            self.ingress_bytes -= answered;
            if !out.is_empty() {
                actions.push(Action::Send { connection, stream, frames: out.into() });
            }
        }
        for connection in hostile {
            self.close(connection, RejectCode::BadSignature, actions);
        }
    }

    /// Stops reading when too much is unanswered, and goes on when enough of it is.
    fn steer_reading(&mut self, actions: &mut Vec<Action>) {
        let wanted = match self.reading {
            true => self.ingress_bytes <= INGRESS_BYTES_MAX,
            false => self.ingress_bytes <= INGRESS_BYTES_RESUME,
        };
        let wanted = wanted && !self.audit.is_behind();
        if wanted != self.reading {
            self.reading = wanted;
            actions.push(Action::SetReading(wanted));
        }
    }

    /// Ends connections that had time to log in and did not: a stranger must not hold the places of agents.
    fn close_without_login(&mut self, now: Now, actions: &mut Vec<Action>) {
        while let Some((_, connection)) = self.login_deadlines.pop_front_if(|(due_us, _)| *due_us <= now.monotonic_us) {
            if self.connections.get(&connection).is_none_or(|state| state.login.is_some()) {
                continue;
            }
            let is_waiting = |state: &Connection| state.enrolling.is_some() || state.waiting_login.is_some();
            let is_waiting = self.connections.get(&connection).is_some_and(is_waiting);
            if self.reading && !is_waiting {
                self.close(connection, RejectCode::LoginRequired, actions);
            } else {
                // Its login may be among what the shard does not read now, or control has not answered it yet.
                self.login_deadlines.push_back((now.monotonic_us.saturating_add(LOGIN_US_MAX), connection));
            }
        }
    }

    /// Closes a connection; it is forgotten when the driver says that it is gone.
    pub(crate) fn close(&mut self, connection: ConnectionId, code: RejectCode, actions: &mut Vec<Action>) {
        if self.connections.contains_key(&connection) {
            actions.push(Action::Close { connection, code });
        }
        self.forget(connection, actions);
    }

    fn forget(&mut self, connection: ConnectionId, actions: &mut Vec<Action>) {
        let Some(state) = self.connections.remove(&connection) else { return };
        if let Some(login) = state.login.filter(|_| state.subscribed) {
            let (agent, connection) = (login.agent, connection.0);
            self.audit.tell(What::Unsubscribed { agent, channel: ChannelId::default(), connection, code: Code(0) });
        }
        self.ingress_bytes -= state.submit.waiting_bytes();
        self.submit_frames.retain(|frame| frame.connection != connection);
        if let Some(workers) = &mut self.workers {
            workers.forget(connection);
        }
        self.refusals.batches.retain(|refused| refused.connection != connection);
        self.refusals.messages.retain(|refused| refused.connection != connection);
        if let Some(login) = state.login.filter(|_| state.subscribed) {
            let origin = crate::route::Origin { shard: self.index, connection };
            let message = ShardMessage::Unsubscribe { mailbox: login.agent, origin };
            self.tell(self.placement.owner(&login.agent), message, actions);
        }
        self.forget_channels(connection, state.login.map(|login| login.agent), state.channels, actions);
    }

    /// Takes the new agents and policy; whoever may not act any more is disconnected.
    fn replace_snapshot(&mut self, now: Now, snapshot: Arc<Snapshot>, actions: &mut Vec<Action>) {
        if self.snapshot.is_fail_open() {
            // The last uses, under the epoch that they were made in.
            self.audit_open_door();
        }
        let may_take_away = snapshot.may_take_away_since(&self.snapshot);
        let before = std::mem::replace(&mut self.snapshot, snapshot);
        self.tell_listings(&before, actions);
        // Without a policy for a while the count goes on: the next one may read it.
        if self.snapshot.policy().is_some() && !self.snapshot.reads_recent_messages() {
            self.meter.forget_recent();
        }
        self.subscriptions.wake_held_back();
        self.look_at_subscriptions(may_take_away);
        let refused: Vec<_> = self
            .connections
            .iter()
            .filter_map(|(&connection, state)| {
                let login = state.login?;
                let version = login.key_record_version;
                let refused = valid_key_version(&self.snapshot, &login.agent, version, now.unix_ms).err()?;
                Some((connection, login.agent, refused))
            })
            .collect();
        for (connection, agent, code) in refused {
            self.audit.tell(What::ConnectionClosed { agent, connection: connection.0, code: code.into() });
            self.close(connection, code, actions);
        }
        if self.snapshot.policy().is_some() {
            for (from, expired) in std::mem::take(&mut self.early_tells) {
                self.log.tell(from, expired, &self.snapshot);
            }
        }
    }
}
