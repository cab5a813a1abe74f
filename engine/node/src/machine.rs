//! One shard as the driver sees it: translates between what the driver says (`creto-io`) and what the shard
//! understands (`creto-shard`), and keeps what a full ring gave back.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use creto_audit::event::Peer;
use creto_envelope::control::RotationMode;
use creto_envelope::enrol::Enrolled;
use creto_envelope::key_log::{KeyLogQuestion, KeyLogRefusal};
use creto_envelope::limits::{CREDIT_BYTES_MAX, ENVELOPE_BYTES_MAX, SIGNAL_CREDIT_MAX, SIGNAL_ENVELOPE_BYTES_MAX};
use creto_envelope::prekeys::{PrekeyRefusal, PrekeyStock};
use creto_envelope::{AgentId, ChannelId, RejectCode, SignedKeyRecord};
use creto_io::{EncodeWrite, IoAction, IoEvent, Machine, Now, Source};
use creto_net::{ConnId, NetEvent};
use creto_policy::Snapshot;
use creto_service::policy::KeptOn;
use creto_shard::{
    Action, ConnectionId, Event, HoldAnswer, HoldId, HoldRequest, KeyRefused, PrekeyQuestion, Room, Shard, ShardIndex,
    ShardMessage, StreamId, VerifyOutcome,
};
use creto_store::Position;
use crossbeam::channel::Sender;

use crate::audit::Told;
use crate::late::Late;
use crate::metrics::Board;
use crate::room::RoomWatch;
use crate::run::control::Linked;
use crate::workers::{JOBS_PER_SHARD_MAX, JobSender};

/// What shards, control and the main thread send a shard.
#[derive(Debug)]
pub(crate) enum NodeItem {
    /// From another shard.
    Shard(ShardMessage),
    /// From a crypto worker: a batch with its verdict.
    Verified(Box<VerifyOutcome>),
    /// From control: agents and policy.
    Snapshot(Arc<Snapshot>),
    /// From a link: there is something to look at.
    Look,
    /// From control: what became of a key record that an agent of this shard published.
    KeyRecordPublished {
        /// Whoever published it.
        connection: ConnectionId,
        /// The current version, or why not.
        answer: Result<u32, KeyRefused>,
    },
    /// From control: what became of an enrolment that came to this shard.
    Enrolled {
        /// Whoever asked.
        connection: ConnectionId,
        /// What became of it, or why control did not look at it.
        answer: Result<Enrolled, KeyRefused>,
    },
    /// From control: a key record that this shard asked for.
    KeyRecord {
        /// Whose.
        agent: AgentId,
        /// Which version.
        version: u32,
        /// The record, or why not.
        answer: Result<Arc<SignedKeyRecord>, KeyRefused>,
    },
    /// From control: the answer to a question about the key log.
    KeyLogAnswered {
        /// Whoever asked.
        connection: ConnectionId,
        /// A whole frame.
        frames: Bytes,
    },
    /// From control: the record of a channel that a connection asked for.
    ChannelAnswered {
        /// Whoever asked.
        connection: ConnectionId,
        /// The channel.
        channel: ChannelId,
        /// A whole frame, or why not.
        answer: Result<Bytes, RejectCode>,
    },
    /// From control: the answer to a question about prekeys.
    PrekeysAnswered {
        /// Whoever asked.
        connection: ConnectionId,
        /// A whole frame.
        frames: Bytes,
    },
    /// From control: an agent has few one-time prekeys left. All shards are told.
    PrekeysLow {
        /// Whose.
        agent: AgentId,
        /// What is left.
        stock: PrekeyStock,
    },
    /// From the audit log: what this shard told is kept.
    Audited {
        /// So many events.
        events: u64,
        /// Up to this record.
        through: Option<Position>,
        /// The memory in which they were told.
        spare: Vec<Vec<creto_audit::Event>>,
    },
    /// From control: hold the log for a backup, go on, or let go.
    Hold {
        /// Which backup.
        id: HoldId,
        /// What it wants.
        request: HoldRequest,
        /// Where the answer goes; control waits for it, if not for ever.
        answer: Sender<(u16, HoldAnswer)>,
    },
    /// From control: what is kept of a decision?
    Kept {
        /// Who acts.
        sender: AgentId,
        /// What.
        action: creto_policy::Action,
        /// To whom.
        recipient: AgentId,
        /// Where the answer goes; control waits for it, if not for ever.
        answer: Sender<KeptOn>,
    },
    /// From the main thread: take nothing new.
    Drain,
    /// From the main thread, when every shard has drained: write nothing more.
    Seal,
    /// From the main thread: close everything and end.
    Stop,
}

/// What a shard tells the main thread.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ShardReport {
    /// Its log is open and proven; it serves.
    Started,
    /// It has answered everything and written everything.
    Drained,
    /// Its log has an end, or was fenced before.
    Sealed,
    /// Its log stopped.
    Fenced(String),
    /// Its loop ended, whether it was asked to or not.
    Ended,
}

/// What a shard does towards its end, and has not reported yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stopping {
    NotAsked,
    Drains,
    Seals,
    /// What it was asked last.
    Reported,
}

/// A log write on its way to the disk.
#[derive(Debug)]
pub(crate) struct LogWrite(creto_store::Write);

impl EncodeWrite for LogWrite {
    fn encode_into(self, out: &mut [u8]) {
        self.0.encode_into(out);
    }
}

/// How often a shard looks after what has no event of its own, in microseconds.
const TICK_US: u64 = 100_000;

/// Bytes that may wait for a connection: all the credit that it may hold for its mailbox, each message with a path and a batch
/// header of its own (the smallest envelope has 1,296 bytes, those two at most 3,808), one overdrawn message, as much for its
/// channels together, the signals that it has credit for, and its answers. A connection that needs more does not read what it is sent.
pub(crate) const OUT_QUEUE_BYTES_MAX: usize = 2 * (4 * CREDIT_BYTES_MAX as usize + ENVELOPE_BYTES_MAX)
    + SIGNAL_CREDIT_MAX as usize * (SIGNAL_ENVELOPE_BYTES_MAX + 3_808)
    + (4 << 20);

/// Hands a published key record to control, which answers with [`NodeItem::KeyRecordPublished`]; or says at once why not.
/// It never waits.
pub(crate) type PublishKeyRecord =
    Box<dyn Fn(ConnectionId, AgentId, RotationMode, Box<SignedKeyRecord>) -> Result<(), KeyRefused> + Send>;

/// Hands an enrolment to control, which answers with [`NodeItem::Enrolled`]; or says at once why not. It never waits.
pub(crate) type Enrol =
    Box<dyn Fn(ConnectionId, Peer, [u8; 32], Box<SignedKeyRecord>) -> Result<(), KeyRefused> + Send>;
/// Asks control for a version of an agent's key record, which answers with [`NodeItem::KeyRecord`]; or says at once why not. It
/// never waits.
pub(crate) type AskKeyRecord = Box<dyn Fn(AgentId, u32) -> Result<(), KeyRefused> + Send>;

/// Hands a question about the key log to control, which answers with [`NodeItem::KeyLogAnswered`]; or says at once why not. It
/// never waits.
pub(crate) type AskKeyLog = Box<dyn Fn(ConnectionId, KeyLogQuestion) -> Result<(), KeyLogRefusal> + Send>;

/// Asks control for the record of a channel, which answers with [`NodeItem::ChannelAnswered`]; or says at once why not. It never
/// waits.
pub(crate) type AskChannel = Box<dyn Fn(ConnectionId, ChannelId) -> Result<(), RejectCode> + Send>;

/// Hands what an agent wants of the node's prekeys to control, which answers with [`NodeItem::PrekeysAnswered`]; or says at once
/// why not. It never waits.
pub(crate) type AskPrekeys = Box<dyn Fn(ConnectionId, AgentId, PrekeyQuestion) -> Result<(), PrekeyRefusal> + Send>;

type Todo = IoAction<NodeItem, LogWrite>;

pub(crate) struct ShardMachine {
    shard: Shard,
    connections: BTreeMap<ConnectionId, Connection>,
    actions: Vec<Action>,
    todo: VecDeque<Todo>,
    publish: PublishKeyRecord,
    enrol: Enrol,
    ask_key_record: AskKeyRecord,
    ask_key_log: AskKeyLog,
    ask_channel: AskChannel,
    ask_prekeys: AskPrekeys,
    /// The answers to what control did not take, to be told in the next turn.
    not_taken: Vec<Event>,
    outboxes: Vec<Outbox>,
    disk: BTreeMap<u64, creto_store::ActionId>,
    disk_actions: u64,
    next_tick_us: u64,
    is_reading: bool,
    is_started: bool,
    stopping: Stopping,
    report: Sender<(u16, ShardReport)>,
    /// The crypto workers, if there are any.
    workers: Option<JobSender>,
    room: RoomWatch,
    audit: Sender<Told>,
    late: Arc<Late>,
    /// What was allowed without a policy, and is in the log.
    allowed_without_policy: u64,
    /// Of a node whose control service is elsewhere.
    linked: Option<Linked>,
    board: Board,
    shard_index: u16,
}

#[derive(Debug)]
struct Connection {
    id: ConnId,
    streams: BTreeMap<StreamId, creto_net::StreamId>,
}

/// What waits for room in the ring to a shard. Bounded by what the shards have admitted and not answered
/// (`INGRESS_BYTES_MAX` each) and by the credit of subscribers.
#[derive(Debug, Default)]
struct Outbox {
    items: VecDeque<NodeItem>,
    is_full: bool,
}

/// Where a shard says what is not for another shard.
pub(crate) struct Ends {
    /// To control.
    pub(crate) publish: PublishKeyRecord,
    /// To control.
    pub(crate) enrol: Enrol,
    /// To control.
    pub(crate) ask_key_record: AskKeyRecord,
    /// To control.
    pub(crate) ask_key_log: AskKeyLog,
    /// To control.
    pub(crate) ask_channel: AskChannel,
    /// To control.
    pub(crate) ask_prekeys: AskPrekeys,
    /// To the main thread.
    pub(crate) report: Sender<(u16, ShardReport)>,
    /// To the crypto workers, if there are any.
    pub(crate) workers: Option<JobSender>,
    /// To the audit log.
    pub(crate) audit: Sender<Told>,
    /// What control answered when the ring had no room.
    pub(crate) late: Arc<Late>,
    /// Where it leaves its numbers.
    pub(crate) board: Board,
}

impl ShardMachine {
    pub(crate) fn new(
        shard: Shard,
        shard_index: u16,
        shard_count: u16,
        room: RoomWatch,
        ends: Ends,
        linked: Option<Linked>,
    ) -> Self {
        let Ends {
            publish,
            enrol,
            ask_key_record,
            ask_key_log,
            ask_channel,
            ask_prekeys,
            report,
            workers,
            audit,
            late,
            board,
        } = ends;
        let shard = shard.with_audit();
        Self {
            shard: if workers.is_some() { shard.with_workers(JOBS_PER_SHARD_MAX) } else { shard },
            workers,
            connections: BTreeMap::new(),
            actions: Vec::new(),
            todo: VecDeque::new(),
            publish,
            enrol,
            ask_key_record,
            ask_key_log,
            ask_channel,
            ask_prekeys,
            not_taken: Vec::new(),
            outboxes: (0..shard_count).map(|_| Outbox::default()).collect(),
            disk: BTreeMap::new(),
            disk_actions: 0,
            next_tick_us: 0,
            is_reading: true,
            is_started: false,
            stopping: Stopping::NotAsked,
            report,
            room,
            audit,
            late,
            allowed_without_policy: 0,
            linked,
            board,
            shard_index,
        }
    }

    /// The shard, once the driver has ended.
    pub(crate) fn into_shard(self) -> Shard {
        self.shard
    }

    fn apply(&mut self, now: Now, event: Event) {
        self.shard.apply(shard_time(now), event, &mut self.actions);
    }

    fn take_net(&mut self, now: Now, event: NetEvent) {
        match event {
            NetEvent::Connected { conn, exporter, remote } => {
                let connection = ConnectionId(conn.as_u64());
                tracing::debug!(shard = self.shard_index, %conn, %remote, "connected");
                self.connections.insert(connection, Connection { id: conn, streams: BTreeMap::new() });
                self.apply(now, Event::Connected { connection, exporter, peer: remote });
            }
            NetEvent::StreamOpened { conn, stream } => {
                if let Some(connection) = self.connections.get_mut(&ConnectionId(conn.as_u64())) {
                    connection.streams.insert(StreamId(stream.index()), stream);
                }
            }
            NetEvent::Frame { conn, stream, frame_type, body, .. } => {
                let connection = ConnectionId(conn.as_u64());
                let stream = StreamId(stream.index());
                self.apply(now, Event::Frame { connection, stream, frame_type, body });
            }
            NetEvent::FrameError { conn, stream, error } => {
                let connection = ConnectionId(conn.as_u64());
                let stream = StreamId(stream.index());
                self.apply(now, Event::FrameError { connection, stream, code: error.reject_code() });
            }
            NetEvent::StreamClosed { conn, stream, .. } => {
                let connection = ConnectionId(conn.as_u64());
                self.apply(now, Event::StreamClosed { connection, stream: StreamId(stream.index()) });
            }
            NetEvent::Writable { .. } => {}
            NetEvent::Closed { conn, reason } => {
                tracing::debug!(shard = self.shard_index, %conn, ?reason, "closed");
                let connection = ConnectionId(conn.as_u64());
                self.connections.remove(&connection);
                self.apply(now, Event::Disconnected { connection });
            }
        }
    }

    /// Goes by what control said for no longer than it may.
    fn look_at_lease(&mut self, now: Now) {
        if let Some(snapshot) = self.linked.as_mut().and_then(Linked::look) {
            self.apply(now, Event::Snapshot(snapshot));
        }
    }

    fn take_item(&mut self, now: Now, source: Source, item: NodeItem) {
        match (source, item) {
            (Source::Shard(from), NodeItem::Shard(message)) => {
                self.apply(now, Event::FromShard { from: ShardIndex(from), message });
            }
            (Source::Control, NodeItem::Snapshot(snapshot)) => self.apply(now, Event::Snapshot(snapshot)),
            // Looked at before any item.
            (Source::Control, NodeItem::Look) => {}
            (Source::Control, NodeItem::KeyRecordPublished { connection, answer }) => {
                self.apply(now, Event::KeyRecordPublished { connection, answer });
            }
            (Source::Control, NodeItem::Enrolled { connection, answer }) => {
                self.apply(now, Event::Enrolled { connection, answer });
            }
            (Source::Control, NodeItem::KeyRecord { agent, version, answer }) => {
                self.apply(now, Event::KeyRecordAnswered { agent, version, answer });
            }
            (Source::Control, NodeItem::KeyLogAnswered { connection, frames }) => {
                self.apply(now, Event::KeyLogAnswered { connection, frames });
            }
            (Source::Control, NodeItem::ChannelAnswered { connection, channel, answer }) => {
                self.apply(now, Event::ChannelAnswered { connection, channel, answer });
            }
            (Source::Control, NodeItem::PrekeysAnswered { connection, frames }) => {
                self.apply(now, Event::PrekeysAnswered { connection, frames });
            }
            (Source::Control, NodeItem::PrekeysLow { agent, stock }) => {
                self.apply(now, Event::PrekeysLow { agent, stock });
            }
            (Source::Control, NodeItem::Audited { events, through, spare }) => {
                self.apply(now, Event::Audited { events, through, spare });
            }
            (Source::Control, NodeItem::Verified(outcome)) => self.apply(now, Event::Verified(*outcome)),
            (Source::Control, NodeItem::Hold { id, request, answer }) => {
                let held = self.shard.hold(shard_time(now), id, request);
                // It has room for one answer of each shard. Control may have given up waiting.
                let _ = answer.try_send((self.shard_index, held));
            }
            (Source::Control, NodeItem::Kept { sender, action, recipient, answer }) => {
                let now = shard_time(now);
                let kept = KeptOn {
                    shard: self.shard_index,
                    decision: self.shard.kept_decision(now, &sender, action, &recipient),
                    recent_messages: self.shard.recent_messages(now, &sender),
                };
                // As above.
                let _ = answer.try_send(kept);
            }
            (Source::Control, NodeItem::Drain) => {
                self.stopping = Stopping::Drains;
                self.todo.push_back(IoAction::StopAccepting);
                self.apply(now, Event::Drain);
            }
            (Source::Control, NodeItem::Seal) => {
                self.stopping = Stopping::Seals;
                self.apply(now, Event::Seal);
            }
            (Source::Control, NodeItem::Stop) => {
                let code = u32::from(RejectCode::ShuttingDown.as_u16());
                self.todo.push_back(IoAction::CloseAll { code, reason: RejectCode::ShuttingDown.name() });
                self.todo.push_back(IoAction::Halt);
            }
            (source, item) => unreachable!("{source:?} does not send {item:?}"),
        }
    }

    fn translate(&mut self, action: Action) {
        match action {
            Action::Send { connection, stream, frames } => {
                let Some(known) = self.connections.get(&connection) else { return };
                let Some(&stream) = known.streams.get(&stream) else { return };
                self.todo.push_back(IoAction::Send { conn: known.id, stream, pieces: frames.into() });
            }
            Action::Authenticated { connection } => {
                let Some(conn) = self.connections.get(&connection).map(|known| known.id) else { return };
                self.todo.push_back(IoAction::Authenticated { conn });
                if !self.is_reading {
                    self.todo.push_back(IoAction::PauseReading { conn, stream: None });
                }
            }
            Action::Close { connection, code } => {
                let Some(conn) = self.connections.get(&connection).map(|known| known.id) else { return };
                self.todo.push_back(IoAction::Close { conn, code: u32::from(code.as_u16()), reason: code.name() });
            }
            Action::SetReading(is_reading) => {
                self.is_reading = is_reading;
                self.todo.extend(self.connections.values().map(|known| match is_reading {
                    true => IoAction::ResumeReading { conn: known.id, stream: None },
                    false => IoAction::PauseReading { conn: known.id, stream: None },
                }));
            }
            Action::ToShard { to, message } => {
                self.todo.push_back(IoAction::SendItem { to: to.0, item: NodeItem::Shard(message) });
            }
            Action::PublishKeyRecord { connection, agent, mode, record } => {
                if let Err(refused) = (self.publish)(connection, agent, mode, record) {
                    self.not_taken.push(Event::KeyRecordPublished { connection, answer: Err(refused) });
                }
            }
            Action::Enrol { connection, peer, token_hash, record } => {
                if let Err(refused) = (self.enrol)(connection, peer, token_hash, record) {
                    self.not_taken.push(Event::Enrolled { connection, answer: Err(refused) });
                }
            }
            Action::AskKeyRecord { agent, version } => {
                if let Err(refused) = (self.ask_key_record)(agent, version) {
                    self.not_taken.push(Event::KeyRecordAnswered { agent, version, answer: Err(refused) });
                }
            }
            Action::AskKeyLog { connection, question } => {
                if let Err(refusal) = (self.ask_key_log)(connection, question) {
                    let frames = question.refused(refusal).into();
                    self.not_taken.push(Event::KeyLogAnswered { connection, frames });
                }
            }
            Action::AskChannel { connection, channel } => {
                if let Err(code) = (self.ask_channel)(connection, channel) {
                    self.not_taken.push(Event::ChannelAnswered { connection, channel, answer: Err(code) });
                }
            }
            Action::AskPrekeys { connection, asker, question } => {
                let topic = question.topic();
                if let Err(refusal) = (self.ask_prekeys)(connection, asker, question) {
                    let frames = topic.refused(refusal);
                    self.not_taken.push(Event::PrekeysAnswered { connection, frames });
                }
            }
            Action::Disk(action) => self.translate_disk(action),
            Action::Verify(job) => {
                let workers = self.workers.as_ref().expect("only a shard with workers asks for verdicts");
                workers.send(self.shard_index, job);
            }
            Action::Audit(batch) => {
                // The thread lives longer than every shard.
                let _ = self.audit.send(Told::Shard(self.shard_index, batch));
            }
            Action::Unreadable { problem } => tracing::error!(shard = self.shard_index, "{problem}"),
            Action::Fenced { cause } => {
                // Whoever asks whether this node is ready must not wait for the next tick, or for the main thread.
                self.room.tell(&Room::Fenced { cause: cause.clone() });
                self.tell(ShardReport::Fenced(cause));
            }
        }
    }

    fn translate_disk(&mut self, action: creto_store::Action) {
        self.disk_actions += 1;
        let id = self.disk_actions;
        self.disk.insert(id, action.id());
        self.todo.push_back(match action {
            creto_store::Action::Write(write) => IoAction::Write {
                id,
                segment: write.segment().0,
                offset: write.offset(),
                bytes: write.bytes(),
                write: LogWrite(write),
            },
            creto_store::Action::Prepare { id: _, segment, bytes, recycle } => {
                IoAction::Prepare { id, segment: segment.0, bytes, recycle: recycle.map(|segment| segment.0) }
            }
            creto_store::Action::WriteDigest { id: _, segment, digest } => {
                IoAction::WriteDigest { id, segment: segment.0, pieces: digest.pieces().to_vec() }
            }
            creto_store::Action::Delete { id: _, segment } => IoAction::Delete { id, segment: segment.0 },
            creto_store::Action::Shorten { id: _, segment, bytes } => {
                IoAction::Shorten { id, segment: segment.0, bytes }
            }
            creto_store::Action::Read { id: _, segment, offset, bytes } => {
                IoAction::Read { id, segment: segment.0, offset, bytes }
            }
        });
    }

    fn tell(&self, report: ShardReport) {
        // The main thread only stops listening when it is about to end the process.
        let _ = self.report.send((self.shard_index, report));
    }

    /// Every use of the door that stands open while no policy can be loaded is in the log.
    fn report_open_door(&mut self) {
        let allowed = self.shard.counters().decisions.allowed_without_policy;
        if allowed > self.allowed_without_policy {
            let count = allowed - self.allowed_without_policy;
            self.allowed_without_policy = allowed;
            tracing::warn!(
                shard = self.shard_index,
                count,
                "allowed without a policy, because none can be loaded and [policy] on_failure says so"
            );
        }
    }

    fn report_progress(&mut self) {
        if !self.is_started && self.shard.is_started() {
            self.is_started = true;
            self.room.tell(&self.shard.room());
            self.tell(ShardReport::Started);
        }
        if self.stopping == Stopping::Drains && self.shard.is_drained() {
            self.stopping = Stopping::Reported;
            self.tell(ShardReport::Drained);
        }
        if self.stopping == Stopping::Seals && self.shard.is_sealed() {
            self.stopping = Stopping::Reported;
            self.tell(ShardReport::Sealed);
        }
    }
}

impl Machine for ShardMachine {
    type Item = NodeItem;
    type Write = LogWrite;

    fn on_event(&mut self, now: Now, event: IoEvent<NodeItem>) {
        self.look_at_lease(now);
        match event {
            IoEvent::Net(event) => self.take_net(now, event),
            IoEvent::SendFull { conn, .. } => {
                // See OUT_QUEUE_BYTES_MAX: only a peer that does not read what it asked for comes here.
                let code = RejectCode::Overloaded;
                self.todo.push_back(IoAction::Close { conn, code: u32::from(code.as_u16()), reason: code.name() });
            }
            IoEvent::Item { source, item } => self.take_item(now, source, item),
            IoEvent::RingFull { to, item } => {
                let outbox = &mut self.outboxes[usize::from(to)];
                outbox.is_full = true;
                outbox.items.push_front(item);
            }
            IoEvent::RingRoom { to } => {
                let outbox = &mut self.outboxes[usize::from(to)];
                outbox.is_full = false;
                // In front of what the last turn left over: all of that is younger.
                for item in outbox.items.drain(..).rev() {
                    self.todo.push_front(IoAction::SendItem { to, item });
                }
            }
            IoEvent::DiskDone { id, result } => {
                let id = self.disk.remove(&id).expect("the driver answers what it was asked, once");
                self.apply(now, Event::Disk { id, outcome: result.map_err(disk_error) });
            }
            IoEvent::ReadDone { id, result } => {
                let id = self.disk.remove(&id).expect("the driver answers what it was asked, once");
                self.apply(now, Event::DiskRead { id, outcome: result.map_err(disk_error) });
            }
        }
    }

    fn on_turn(&mut self, now: Now) {
        self.look_at_lease(now);
        if now.us >= self.next_tick_us {
            self.next_tick_us = now.us + TICK_US;
            if let Some(bytes) = self.room.disk_room() {
                self.apply(now, Event::DiskRoom { bytes });
            }
            self.apply(now, Event::Tick);
            self.board.leave(&self.shard);
            if self.is_started {
                self.room.tell(&self.shard.room());
            }
        }
        for answer in std::mem::take(&mut self.not_taken) {
            self.apply(now, answer);
        }
        for item in self.late.take() {
            self.take_item(now, Source::Control, item);
        }
        self.shard.end_turn(shard_time(now), &mut self.actions);
        for action in std::mem::take(&mut self.actions) {
            self.translate(action);
        }
        self.report_open_door();
        self.report_progress();
    }

    fn poll_action(&mut self) -> Option<Todo> {
        loop {
            match self.todo.pop_front()? {
                IoAction::SendItem { to, item } if self.outboxes[usize::from(to)].is_full => {
                    // Behind what the ring gave back: what one shard says to another stays in order.
                    self.outboxes[usize::from(to)].items.push_back(item);
                }
                action => return Some(action),
            }
        }
    }

    fn next_deadline_us(&self) -> Option<u64> {
        if self.shard.has_work() || !self.not_taken.is_empty() {
            return Some(0);
        }
        let deadline_us = self.shard.next_deadline_us();
        Some(deadline_us.map_or(self.next_tick_us, |deadline_us| deadline_us.min(self.next_tick_us)))
    }
}

fn shard_time(now: Now) -> creto_shard::Now {
    creto_shard::Now { unix_ms: now.wall_ms, monotonic_us: now.us }
}

fn disk_error(error: creto_io::DiskError) -> creto_store::DiskError {
    match error {
        creto_io::DiskError::NoSpace => creto_store::DiskError::NoSpace,
        creto_io::DiskError::Io(text) => creto_store::DiskError::Io(text),
    }
}

#[cfg(test)]
mod tests;
