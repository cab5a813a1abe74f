//! A log that lives in memory and nowhere else: for tests and measurements that want a log and no disk, and as the
//! plainest statement of what [`RecordLog`] asks for.
//!
//! It commits in groups as the write-ahead log does: what arrived while a write was on its way goes out in the next one,
//! and is durable (as far as memory goes) when that was reported. Records are laid out as on a disk, encoded one after the
//! other in segments, each group at a multiple of 4 KiB, so that whoever reads back what is queued reads them here, too. Its
//! writes hold what a driver would write; one that has nowhere to write reports them and answers reads from
//! [`MemoryLog::bytes_at`].

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use crate::layout::length_u32;
use crate::limits::BLOCK_BYTES;
use crate::log::{RecordLog, SealedEnd};
use crate::lsn::{Epoch, Lsn, Position, RecordSequence, SegmentNumber};
use crate::mailboxes::LogExtent;
use crate::record::{Record, Start};
use crate::wal::{
    Action, ActionId, AppendClass, AppendError, DiskError, Durable, Fenced, HeldLog, Space, WalConfig, Write,
};

/// A log in memory. Nothing of it outlives it.
#[derive(Debug)]
pub struct MemoryLog {
    config: WalConfig,
    shard_index: u32,
    epoch: Epoch,
    fenced: Option<Fenced>,
    is_sealed: bool,
    next_action_id: u64,

    appended: RecordSequence,
    pending: VecDeque<Record>,
    pending_bytes: usize,
    in_flight: VecDeque<Group>,
    durable_records: VecDeque<Durable>,
    reads: VecDeque<Action>,

    /// The last record that is durable, and where it is.
    durable: (RecordSequence, Option<Position>),
    last_lsn: Lsn,
    /// Where the last durable group ends.
    durable_end: (SegmentNumber, u64),
    /// The groups of each segment, by where they begin.
    segments: BTreeMap<SegmentNumber, BTreeMap<u64, Bytes>>,
    /// Where the next group begins.
    active: (SegmentNumber, u64),
    log_start: SegmentNumber,
    /// The start that a trim wants, and the last record that it carries over.
    trim: Option<(SegmentNumber, RecordSequence)>,
    disk_room: Option<u64>,
    held: Option<HeldLog>,
}

/// Records that are written together.
#[derive(Debug)]
struct Group {
    id: ActionId,
    lsn: Lsn,
    segment: SegmentNumber,
    /// Where it begins, and where the next one does.
    offset: u64,
    end: u64,
    first_sequence: RecordSequence,
    records: Vec<Record>,
    is_written: bool,
}

impl MemoryLog {
    /// An empty log. `epoch` is for its owner to give: a log that remembers nothing cannot know how many there were.
    ///
    /// # Panics
    /// When the configuration contradicts itself, as [`Wal::open`](crate::Wal::open).
    pub fn open(config: WalConfig, shard_index: u32, epoch: Epoch, now_ms: u64) -> Self {
        config.check();
        let first = SegmentNumber(1);
        let mut log = Self {
            config,
            shard_index,
            epoch,
            fenced: None,
            is_sealed: false,
            next_action_id: 0,
            appended: RecordSequence(0),
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: VecDeque::new(),
            durable_records: VecDeque::new(),
            reads: VecDeque::new(),
            durable: (RecordSequence(0), None),
            last_lsn: Lsn(0),
            durable_end: (first, 0),
            segments: BTreeMap::from([(first, BTreeMap::new())]),
            active: (first, 0),
            log_start: first,
            trim: None,
            disk_room: None,
            held: None,
        };
        log.push(Record::Start(Start { epoch, started_ms: now_ms, recovered_through: Lsn(0) }));
        log
    }

    /// What stands at a place of the log, zeros where nothing does: the answer to an [`Action::Read`]. `None` when the
    /// segment is not part of the log any more.
    pub fn bytes_at(&self, segment: SegmentNumber, offset: u64, bytes: usize) -> Option<Bytes> {
        let groups = self.segments.get(&segment)?;
        let mut out = BytesMut::zeroed(bytes);
        let end = offset + bytes as u64;
        for (&start, group) in groups.range(..end) {
            let group_end = start + group.len() as u64;
            let (from, until) = (start.max(offset), group_end.min(end));
            if from < until {
                let (at, length) = (in_memory(from - offset), in_memory(until - from));
                out[at..at + length].copy_from_slice(&group[in_memory(from - start)..][..length]);
            }
        }
        Some(out.freeze())
    }

    fn push(&mut self, record: Record) -> RecordSequence {
        self.pending_bytes += record.encoded_bytes();
        self.pending.push_back(record);
        self.appended = self.appended.next();
        self.appended
    }

    /// The next group, if there is something to write and a free slot.
    fn next_write(&mut self) -> Option<Write> {
        if self.in_flight.len() >= self.config.writes_in_flight_max {
            return None;
        }
        let first_bytes = self.pending.front()?.encoded_bytes();
        let (mut segment, mut offset) = self.active;
        if offset + first_bytes as u64 > self.config.segment_bytes {
            (segment, offset) = (segment.next(), 0);
            self.segments.insert(segment, BTreeMap::new());
        }
        let room = in_memory(self.config.segment_bytes - offset).min(self.config.frame_bytes_max);
        let first_sequence = RecordSequence(self.appended.0 - self.pending.len() as u64 + 1);
        let mut records = Vec::new();
        let mut bytes = BytesMut::new();
        while let Some(record) = self.pending.pop_front_if(|record| bytes.len() + record.encoded_bytes() <= room) {
            let start = bytes.len();
            bytes.resize(start + record.encoded_bytes(), 0);
            record.encode_into(&mut bytes[start..]);
            records.push(record);
        }
        self.pending_bytes -= bytes.len();
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        let end = offset + bytes.len() as u64;
        let bytes = bytes.freeze();
        self.segments.entry(segment).or_default().insert(offset, bytes.clone());
        self.active = (segment, end);
        self.last_lsn = self.last_lsn.next();
        let id = self.action_id();
        let lsn = self.last_lsn;
        self.in_flight.push_back(Group { id, lsn, segment, offset, end, first_sequence, records, is_written: false });
        Some(Write::of_bytes(id, segment, offset, bytes))
    }

    /// Hands on the groups that are written, as far as all before them are.
    fn release_durable(&mut self) {
        while let Some(group) = self.in_flight.pop_front_if(|group| group.is_written) {
            let mut offset = length_u32(in_memory(group.offset));
            let mut sequence = group.first_sequence;
            for (index, record) in (0..).zip(group.records) {
                let position = Position { segment: group.segment, lsn: group.lsn, index, offset };
                offset += length_u32(record.encoded_bytes());
                let noted = record.noted(position);
                self.durable_records.push_back(Durable { sequence, position, noted, record });
                self.durable = (sequence, Some(position));
                sequence = sequence.next();
            }
            self.durable_end = (group.segment, group.end);
        }
        self.finish_trim();
    }

    fn finish_trim(&mut self) {
        if let Some((log_start, _)) = self.trim.take_if(|(_, after)| *after <= self.durable.0) {
            self.log_start = log_start;
            self.drop_trimmed();
        }
    }

    fn drop_trimmed(&mut self) {
        let (log_start, held) = (self.log_start, self.held);
        let is_held = |segment| held.is_some_and(|held| held.holds(segment));
        self.segments.retain(|&segment, _| segment >= log_start || is_held(segment));
    }

    /// Bytes of all segments: each counts as a whole, as a file would.
    fn allocated_bytes(&self) -> u64 {
        self.segments.len() as u64 * self.config.segment_bytes
    }

    fn bytes_max(&self) -> u64 {
        let allocated = self.allocated_bytes();
        let room = self.disk_room.unwrap_or(u64::MAX).min(self.config.wal_bytes_max.saturating_sub(allocated));
        allocated + room
    }

    /// Bytes that messages can take beyond what is there and pending: two segments are for what settling and trimming write.
    fn message_room(&self) -> u64 {
        self.room_before(2)
    }

    /// Bytes left before the last `segments` begin.
    fn room_before(&self, segments: u64) -> u64 {
        let active = self.config.segment_bytes - self.active.1;
        let room = active + self.bytes_max() - self.allocated_bytes();
        room.saturating_sub(segments * self.config.segment_bytes + self.pending_bytes as u64)
    }

    fn action_id(&mut self) -> ActionId {
        self.next_action_id += 1;
        ActionId(self.next_action_id)
    }
}

impl RecordLog for MemoryLog {
    fn append(&mut self, record: Record) -> Result<RecordSequence, AppendError> {
        self.check_append(&record)?;
        Ok(self.push(record))
    }

    fn check_append(&self, record: &Record) -> Result<(), AppendError> {
        assert!(record.is_within_limits(), "what is written must be readable: keep to the limits of a record");
        self.check_room(AppendClass::of(record), record.encoded_bytes())
    }

    fn check_room(&self, class: AppendClass, bytes: usize) -> Result<(), AppendError> {
        if let Some(fenced) = &self.fenced {
            return Err(fenced.clone().into());
        }
        if self.is_sealed {
            return Err(AppendError::Sealed);
        }
        let bytes_max = self.record_bytes_max();
        if bytes > bytes_max {
            return Err(AppendError::RecordTooLarge { bytes, bytes_max });
        }
        if self.pending.len() >= self.config.pending_records_max
            || self.pending_bytes + bytes > self.config.pending_bytes_max
        {
            return Err(AppendError::Full);
        }
        // What settling and trimming write is bounded by what is stored.
        let room = match class {
            AppendClass::Message => self.message_room(),
            AppendClass::Replay => self.room_before(1),
            AppendClass::Settle | AppendClass::Internal => u64::MAX,
        };
        // What is pending may need a group of its own, and a segment's end that is too short for it is lost.
        if room < (bytes + 2 * self.config.frame_bytes_max) as u64 {
            return Err(AppendError::StorageFull);
        }
        Ok(())
    }

    fn record_bytes_max(&self) -> usize {
        self.config.frame_bytes_max
    }

    fn next_action(&mut self, _now_ms: u64) -> Option<Action> {
        if self.fenced.is_some() {
            return None;
        }
        self.next_write().map(Action::Write).or_else(|| self.reads.pop_front())
    }

    fn completed(&mut self, id: ActionId, outcome: Result<(), DiskError>) -> Result<(), Fenced> {
        if let Some(fenced) = &self.fenced {
            return Err(fenced.clone());
        }
        let group = self.in_flight.iter_mut().find(|group| group.id == id);
        let group = group.expect("only actions that are under way can complete");
        if let Err(error) = outcome {
            let fenced = Fenced { action: format!("writing group {}", group.lsn), error };
            self.fenced = Some(fenced.clone());
            return Err(fenced);
        }
        group.is_written = true;
        self.release_durable();
        Ok(())
    }

    fn next_durable(&mut self) -> Option<Durable> {
        self.durable_records.pop_front()
    }

    fn appended(&self) -> RecordSequence {
        self.appended
    }

    fn durable(&self) -> RecordSequence {
        self.durable.0
    }

    fn epoch(&self) -> Epoch {
        self.epoch
    }

    fn is_started(&self) -> bool {
        self.durable.1.is_some()
    }

    fn fenced(&self) -> Option<&Fenced> {
        self.fenced.as_ref()
    }

    /// There is no later reader to prove anything to.
    fn confirm(&mut self) {}

    fn read(&mut self, segment: SegmentNumber, offset: u64, bytes: usize) -> ActionId {
        let id = self.action_id();
        self.reads.push_back(Action::Read { id, segment, offset, bytes });
        id
    }

    fn extent(&self) -> LogExtent {
        LogExtent::new(self.space(), self.held_back_bytes(), self.active.0, self.config.segment_bytes)
    }

    fn log_start(&self) -> SegmentNumber {
        self.log_start
    }

    fn trim(&mut self, log_start: SegmentNumber, carry_over: Vec<Record>) -> Result<(), AppendError> {
        if let Some(fenced) = &self.fenced {
            return Err(fenced.clone().into());
        }
        if self.is_sealed {
            return Err(AppendError::Sealed);
        }
        assert!(!self.is_trimming(), "one trim at a time");
        assert!(log_start > self.log_start && log_start <= self.active.0, "only a prefix of the log can go");
        for record in carry_over {
            assert!(record.is_within_limits() && record.encoded_bytes() <= self.record_bytes_max());
            self.push(record);
        }
        self.trim = Some((log_start, self.appended));
        self.finish_trim();
        Ok(())
    }

    fn is_trimming(&self) -> bool {
        self.trim.is_some()
    }

    fn space(&self) -> Space {
        Space { bytes: self.allocated_bytes(), bytes_max: self.bytes_max(), message_bytes_left: self.message_room() }
    }

    fn set_disk_room(&mut self, bytes: u64) {
        self.disk_room = Some(bytes);
    }

    /// It keeps nothing spare, and is refused nothing.
    fn tick(&mut self, _bytes_max: u64) {}

    fn seal(&mut self) {
        self.is_sealed = true;
    }

    fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    fn end(&self) -> Option<SealedEnd> {
        let is_over = self.is_sealed && self.fenced.is_none() && self.durable.0 == self.appended;
        let position = self.durable.1.filter(|_| is_over)?;
        Some(SealedEnd { epoch: self.epoch, sequence: self.durable.0, position })
    }

    fn hold(&mut self) -> Option<HeldLog> {
        if !self.is_started() {
            return None;
        }
        let (last_segment, end_offset) = self.durable_end;
        let end_lsn = self.durable.1.map_or(Lsn(0), |position| position.lsn);
        let (shard_index, epoch, first_segment) = (self.shard_index, self.epoch, self.log_start);
        self.held = Some(HeldLog { shard_index, epoch, first_segment, last_segment, end_offset, end_lsn });
        self.drop_trimmed();
        self.held
    }

    fn let_go(&mut self) {
        self.held = None;
        self.drop_trimmed();
    }

    fn held(&self) -> Option<&HeldLog> {
        self.held.as_ref()
    }

    fn held_back_bytes(&self) -> u64 {
        self.segments.range(..self.log_start).count() as u64 * self.config.segment_bytes
    }
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("it is in memory")
}
