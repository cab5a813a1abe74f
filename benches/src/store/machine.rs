//! A shard that has nothing but its log: it appends what it is told to, as fast as it may or at a fixed rate, and notes
//! when each record was durable.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::Sender;

use bytes::Bytes;
use creto_io::{ActionId, DiskError, EncodeWrite, IoAction, IoEvent, Machine, Now};
use creto_store::{
    Action, BatchPart, MailboxId, MessageFlags, MessageId, PartMessage, Priority, Record, RecordSequence, SenderId,
    Wal, Write,
};
use hdrhistogram::Histogram;

/// Payload of each message; its envelope has 160 bytes of header and a tag of 16 more.
pub(super) const MESSAGE_BYTES: usize = 1_024;
/// Messages of one record: what a sender's batch brings to one shard.
pub(super) const RECORD_MESSAGES: u64 = 16;
const ENVELOPE_BYTES: usize = 160 + MESSAGE_BYTES + 16;
/// Nodes of a path in a batch of 256.
const PATH_NODES: usize = 8;
const BATCH_HEADER_BYTES: usize = 3_448;
/// Segments after which the oldest are given back.
const SEGMENTS_KEPT: u64 = 12;

/// What the shard is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Order {
    /// Keep this many messages on their way.
    Saturate { messages: u64 },
    /// Take in so many messages per second, evenly.
    Rate { messages_per_s: u64 },
    /// Answer with what was done since the last order, once everything is durable.
    Rest,
    /// End.
    Stop,
}

/// What was done between two orders.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) messages: u64,
    pub(super) writes: u64,
    pub(super) bytes: u64,
    /// From the first record taken to the last one durable.
    pub(super) took_us: u64,
    /// From the turn that took a record in until it was durable, in microseconds.
    pub(super) acknowledged: Histogram<u64>,
    /// Each write with its sync, from the log's asking until it knew, in microseconds.
    pub(super) committed: Histogram<u64>,
}

/// Why the log stopped, or what it has done.
pub(super) type Report = Result<Done, String>;

pub(super) struct LogWrite(Write);

impl EncodeWrite for LogWrite {
    fn encode_into(self, out: &mut [u8]) {
        self.0.encode_into(out);
    }
}

pub(super) struct StoreMachine {
    wal: Wal,
    report: Sender<Report>,
    order: Order,
    /// Records that are not durable, oldest first, with the time at which they came.
    waiting: VecDeque<(RecordSequence, u64)>,
    done: Done,
    began_us: u64,
    due_us: u64,
    next_sequence: u64,
    template: Bytes,
    running: BTreeMap<ActionId, creto_store::ActionId>,
    /// When each write that is on its way was asked for.
    writing: BTreeMap<ActionId, u64>,
    now_us: u64,
    actions: u64,
    halt: bool,
    is_fenced: bool,
}

fn nothing_done() -> Done {
    let histogram = || Histogram::new_with_max(60_000_000, 3).expect("a minute in microseconds is a valid range");
    Done { messages: 0, writes: 0, bytes: 0, took_us: 0, acknowledged: histogram(), committed: histogram() }
}

impl StoreMachine {
    pub(super) fn new(wal: Wal, report: Sender<Report>) -> Self {
        Self {
            wal,
            report,
            order: Order::Rest,
            waiting: VecDeque::new(),
            done: nothing_done(),
            began_us: 0,
            due_us: 0,
            next_sequence: 1,
            template: Bytes::from(vec![0x5a; ENVELOPE_BYTES.max(BATCH_HEADER_BYTES)]),
            running: BTreeMap::new(),
            writing: BTreeMap::new(),
            now_us: 0,
            actions: 0,
            halt: false,
            is_fenced: false,
        }
    }

    fn take(&mut self, now: Now, order: Order) {
        self.order = order;
        match order {
            Order::Saturate { .. } | Order::Rate { .. } => {
                (self.began_us, self.due_us) = (now.us, now.us);
                self.done = nothing_done();
            }
            Order::Rest => self.answer_if_resting(),
            Order::Stop => self.halt = true,
        }
    }

    fn append(&mut self, now_us: u64) -> bool {
        let messages = (0..RECORD_MESSAGES).map(|index| {
            let sequence = self.next_sequence + index;
            let id = (u128::from(sequence) << 64) | 7;
            PartMessage {
                mailbox: MailboxId([1; 16]),
                sender: SenderId([2; 16]),
                message_id: MessageId(id.to_be_bytes()),
                sequence,
                expiry_ms: 0,
                leaf_index: u32::try_from(index).expect("a record has few messages"),
                priority: Priority::Normal,
                flags: MessageFlags::NONE,
                salt: [3; 16],
                path: self.template.slice(..PATH_NODES * 32),
                envelope: self.template.slice(..ENVELOPE_BYTES),
            }
        });
        let part = BatchPart { batch_header: self.template.slice(..BATCH_HEADER_BYTES), messages: messages.collect() };
        let Ok(sequence) = self.wal.append(Record::BatchPart(part)) else { return false };
        self.next_sequence += RECORD_MESSAGES;
        self.waiting.push_back((sequence, now_us));
        true
    }

    fn load(&mut self, now: Now) {
        match self.order {
            Order::Saturate { messages } => {
                while self.waiting.len() as u64 * RECORD_MESSAGES < messages && self.append(now.us) {}
            }
            Order::Rate { messages_per_s } => {
                while self.due_us <= now.us {
                    if !self.append(now.us) {
                        // What the log does not take is late from here on, and counts as such.
                        break;
                    }
                    self.due_us += RECORD_MESSAGES * 1_000_000 / messages_per_s.max(1);
                }
            }
            Order::Rest | Order::Stop => {}
        }
    }

    fn take_durable(&mut self, now: Now) {
        while self.wal.next_durable().is_some() {}
        let durable = self.wal.durable();
        while let Some((_, since_us)) = self.waiting.pop_front_if(|(sequence, _)| *sequence <= durable) {
            self.done.messages += RECORD_MESSAGES;
            self.done.acknowledged.saturating_record((now.us - since_us).max(1));
            self.done.took_us = now.us - self.began_us;
        }
        let (start, active) = (self.wal.log_start(), self.wal.active_segment());
        if active.0 > start.0 + SEGMENTS_KEPT && !self.wal.is_trimming() && self.wal.fenced().is_none() {
            let _ = self.wal.trim(creto_store::SegmentNumber(active.0 - SEGMENTS_KEPT / 2), Vec::new());
        }
        if matches!(self.order, Order::Rest) && !self.done.acknowledged.is_empty() {
            self.answer_if_resting();
        }
    }

    fn answer_if_resting(&mut self) {
        if self.waiting.is_empty() && self.wal.is_started() && !self.is_fenced {
            let done = std::mem::replace(&mut self.done, nothing_done());
            // Whoever asked may be gone: then nobody wants to know.
            let _ = self.report.send(Ok(done));
        }
    }
}

impl Machine for StoreMachine {
    type Item = Order;
    type Write = LogWrite;

    fn on_event(&mut self, now: Now, event: IoEvent<Order>) {
        match event {
            IoEvent::Item { item, .. } => self.take(now, item),
            IoEvent::DiskDone { id, result } => {
                if let Some(since_us) = self.writing.remove(&id) {
                    self.done.committed.saturating_record((now.us - since_us).max(1));
                }
                let id = self.running.remove(&id).expect("the driver answers what it was asked, once");
                let result = result.map_err(|error| match error {
                    DiskError::NoSpace => creto_store::DiskError::NoSpace,
                    DiskError::Io(text) => creto_store::DiskError::Io(text),
                });
                if let Err(fenced) = self.wal.completed(id, result)
                    && !std::mem::replace(&mut self.is_fenced, true)
                {
                    let _ = self.report.send(Err(fenced.to_string()));
                }
            }
            _ => {}
        }
    }

    fn on_turn(&mut self, now: Now) {
        self.now_us = now.us;
        self.take_durable(now);
        if self.wal.is_started() {
            self.load(now);
        }
    }

    fn poll_action(&mut self) -> Option<IoAction<Order, LogWrite>> {
        let Some(action) = self.wal.next_action(1_700_000_000_000) else {
            return std::mem::take(&mut self.halt).then_some(IoAction::Halt);
        };
        self.actions += 1;
        let id = self.actions;
        self.running.insert(id, action.id());
        Some(match action {
            Action::Write(write) => {
                self.writing.insert(id, self.now_us);
                self.done.writes += 1;
                self.done.bytes += write.bytes() as u64;
                let (segment, offset, bytes) = (write.segment().0, write.offset(), write.bytes());
                IoAction::Write { id, segment, offset, bytes, write: LogWrite(write) }
            }
            Action::Prepare { segment, bytes, recycle, .. } => {
                IoAction::Prepare { id, segment: segment.0, bytes, recycle: recycle.map(|segment| segment.0) }
            }
            Action::WriteDigest { segment, digest, .. } => {
                IoAction::WriteDigest { id, segment: segment.0, pieces: digest.pieces().to_vec() }
            }
            Action::Delete { segment, .. } => IoAction::Delete { id, segment: segment.0 },
            Action::Shorten { segment, bytes, .. } => IoAction::Shorten { id, segment: segment.0, bytes },
            Action::Read { segment, offset, bytes, .. } => IoAction::Read { id, segment: segment.0, offset, bytes },
        })
    }

    fn next_deadline_us(&self) -> Option<u64> {
        matches!(self.order, Order::Rate { .. }).then_some(self.due_us)
    }
}
