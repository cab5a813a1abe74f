//! The log of one shard, as a state machine: records in, writes out, durable records back.
//!
//! ```text
//! append(record) --> pending --> next_action(): Write --> the driver writes and syncs --> completed(id, Ok)
//!                                                                                              |
//!                           next_durable(): the same records, in order, now safe to act on <---+
//! ```
//!
//! A group commit takes whatever arrived while the last one was on its way: there is no timer. What fills one does not wait
//! for it: its encoding, and what is to be done for the one before it, are then done while the disk writes. Nothing is handed out by
//! [`Wal::next_durable`] before its write **and** its sync were reported, and only in the order of the log. Any failed
//! write fences the log for ever: after a failed sync nobody knows what the disk holds, and asking again does not tell.

mod digests;
mod frames;
mod hold;
mod interface;
mod seal;
mod space;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use thiserror::Error;

pub use self::frames::Write;
use self::frames::{Content, Frame};
pub use self::hold::HeldLog;
pub use self::space::Space;
use self::space::Trim;
use crate::digest::{Digest, DigestBuilder};
use crate::frame::FrameHeader;
use crate::layout::length_u32;
use crate::limits::{
    BLOCK_BYTES, FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FULL_GROUP_BYTES, PENDING_BYTES_MAX, PENDING_RECORDS_MAX,
    RECYCLED_SEGMENTS_MAX, SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_HEADER_BYTES, WAL_BYTES_MAX, WRITES_IN_FLIGHT_MAX,
};
use crate::lsn::{Epoch, Lsn, Position, RecordSequence, SegmentNumber};
use crate::noted::Noted;
use crate::planted::{Bug, is_planted};
use crate::record::{Record, Start};
use crate::recovery::{Piece, Recovered};

/// Sizes of a log. The defaults are those of [`limits`](crate::limits).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalConfig {
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of the largest frame.
    pub frame_bytes_max: usize,
    /// Bytes on disk at which messages are refused; a part of it is kept for settling and trimming.
    pub wal_bytes_max: u64,
    /// Records waiting for the next group commit.
    pub pending_records_max: usize,
    /// Bytes waiting for the next group commit.
    pub pending_bytes_max: usize,
    /// Writes on their way to the disk. Full ones may be beside them, [`FULL_GROUPS_AHEAD`](crate::limits::FULL_GROUPS_AHEAD).
    pub writes_in_flight_max: usize,
    /// Bytes of records that make a group commit full: it takes no further one, and does not wait for those on their way.
    pub full_group_bytes: usize,
    /// Trimmed segments kept for reuse.
    pub recycled_segments_max: usize,
}

impl Default for WalConfig {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            frame_bytes_max: FRAME_BYTES_MAX,
            wal_bytes_max: WAL_BYTES_MAX,
            pending_records_max: PENDING_RECORDS_MAX,
            pending_bytes_max: PENDING_BYTES_MAX,
            writes_in_flight_max: WRITES_IN_FLIGHT_MAX,
            full_group_bytes: FULL_GROUP_BYTES,
            recycled_segments_max: RECYCLED_SEGMENTS_MAX,
        }
    }
}

/// What the log wants done. Each but a read is answered with [`Wal::completed`] under its id.
#[derive(Debug, Clone)]
pub enum Action {
    /// Write these bytes, then sync the file (fdatasync, or a write with O_DSYNC), then report.
    Write(Write),
    /// Make the file of a segment: `bytes` long, its space reserved; `recycle` names a segment whose file is renamed for it,
    /// after its digest was deleted. An existing file of that name is replaced. Sync file and folder, then report.
    Prepare {
        /// To report under.
        id: ActionId,
        /// The segment to make.
        segment: SegmentNumber,
        /// Its length.
        bytes: u64,
        /// A segment that is not needed any more, and has that length.
        recycle: Option<SegmentNumber>,
    },
    /// Delete the digest of a segment, then its file, sync the folder, then report. What is not there counts as deleted.
    Delete {
        /// To report under.
        id: ActionId,
        /// The segment.
        segment: SegmentNumber,
    },
    /// Shorten the file of a segment to `bytes`; what lies beyond is not part of the log. Report; no sync is needed.
    Shorten {
        /// To report under.
        id: ActionId,
        /// The segment.
        segment: SegmentNumber,
        /// Its new length.
        bytes: u64,
    },
    /// Write the digest of a segment to its file, as a whole or not at all: under another name first, synced, then
    /// renamed. Report; nothing depends on how it went.
    WriteDigest {
        /// To report under.
        id: ActionId,
        /// The segment.
        segment: SegmentNumber,
        /// Its digest.
        digest: Digest,
    },
    /// Read these bytes of a segment, which are durable. Not reported here: what they are for is not the log's business.
    Read {
        /// To report under.
        id: ActionId,
        /// The segment.
        segment: SegmentNumber,
        /// Where in it: a multiple of 4 KiB.
        offset: u64,
        /// How many: a multiple of 4 KiB.
        bytes: usize,
    },
}

impl Action {
    /// What to report the outcome under.
    pub fn id(&self) -> ActionId {
        match self {
            Self::Write(write) => write.id(),
            Self::Prepare { id, .. }
            | Self::Delete { id, .. }
            | Self::Shorten { id, .. }
            | Self::WriteDigest { id, .. }
            | Self::Read { id, .. } => *id,
        }
    }
}

/// Names an [`Action`] until it is completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ActionId(pub(crate) u64);

/// How an action failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DiskError {
    /// The disk is full.
    #[error("the disk is full: free space on it, or lower wal_bytes_max")]
    NoSpace,
    /// Anything else, in the system's words.
    #[error("{0}")]
    Io(String),
}

/// Why a record was not taken.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AppendError {
    /// too much waits for the disk: try again when the next write is durable
    #[error("too much waits for the disk: try again when the next write is durable")]
    Full,
    /// the log has no space for messages: settle some, or raise wal_bytes_max
    #[error("the log has no space for messages: acknowledge queued messages, or raise wal_bytes_max")]
    StorageFull,
    /// the record has {bytes} bytes, a frame holds {bytes_max}: split it
    #[error("the record has {bytes} bytes, a frame holds {bytes_max}: split it")]
    RecordTooLarge {
        /// What it has.
        bytes: usize,
        /// What fits.
        bytes_max: usize,
    },
    /// the log is sealed: nothing is appended to it any more, send it again to whoever opens it next
    #[error("the log is sealed: nothing is appended to it any more, send it again to whoever opens it next")]
    Sealed,
    /// The log is fenced.
    #[error(transparent)]
    Fenced(#[from] Fenced),
}

/// The log takes and acknowledges nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the log is fenced since {action} failed: {error}; check the disk, then start the node again")]
pub struct Fenced {
    /// What failed.
    pub action: String,
    /// How.
    pub error: DiskError,
}

/// A record that is on the disk for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Durable {
    /// As [`Wal::append`] gave it.
    pub sequence: RecordSequence,
    /// Where it is.
    pub position: Position,
    /// What is kept of it, made once for everybody who keeps something.
    pub noted: Noted,
    /// The record itself, to apply.
    pub record: Record,
}

/// The log of one shard.
#[derive(Debug)]
pub struct Wal {
    config: WalConfig,
    shard_index: u32,
    epoch: Epoch,
    epoch_nonce: u64,
    fenced: Option<Fenced>,
    is_sealed: bool,
    next_action_id: u64,

    // What happens once, before the first frame of this epoch. Strictly one after the other.
    startup: VecDeque<Startup>,
    startup_running: Option<(ActionId, String)>,

    // Records on their way.
    appended: RecordSequence,
    pending: VecDeque<Pending>,
    pending_bytes: usize,
    in_flight: VecDeque<InFlight>,
    durable_records: VecDeque<Durable>,
    durable_sequence: RecordSequence,
    /// Where the last durable record is.
    durable_position: Option<Position>,
    /// Reads that nobody was told of.
    reads: VecDeque<Action>,

    // Frames.
    next_lsn: Lsn,
    previous_crc: u32,
    durable_lsn: Lsn,
    /// Where the last durable frame ends.
    durable_end: (SegmentNumber, u64),
    /// The last frame with records.
    last_record_lsn: Lsn,
    confirm: bool,
    active: Option<Active>,

    // Space.
    segments: BTreeMap<SegmentNumber, u64>,
    /// The first segment of this epoch.
    first_segment: SegmentNumber,
    last_segment: SegmentNumber,
    prepared: Option<SegmentNumber>,
    log_start: SegmentNumber,
    trim: Option<Trim>,
    recyclable: VecDeque<SegmentNumber>,
    removable: VecDeque<SegmentNumber>,
    shorten: Option<(SegmentNumber, u64)>,
    housekeeping: Option<(ActionId, Housekeeping)>,
    short_of_space: bool,
    /// What the file system has left for this log, if somebody looks.
    disk_room: Option<u64>,
    /// The digest of the segment that is being written to, as far as it is durable.
    digesting: Option<DigestBuilder>,
    /// Digests to write.
    digests: VecDeque<(SegmentNumber, Digest)>,
    /// The start that the last durable frame states.
    durable_log_start: SegmentNumber,
    held: Option<HeldLog>,
}

#[derive(Debug)]
struct Pending {
    record: Record,
    bytes: usize,
}

#[derive(Debug)]
struct InFlight {
    id: ActionId,
    frame: Arc<Frame>,
    first_sequence: RecordSequence,
    is_durable: bool,
}

/// The segment that frames are written to.
#[derive(Debug, Clone, Copy)]
struct Active {
    number: SegmentNumber,
    /// Where the next write begins; 0 as long as the header is not written.
    offset: u64,
    first_lsn: Lsn,
}

#[derive(Debug)]
enum Startup {
    Delete(SegmentNumber),
    Rewrite(SegmentNumber, Piece),
    Prepare,
}

#[derive(Debug, Clone, Copy)]
enum Housekeeping {
    Prepare { segment: SegmentNumber, recycle: Option<SegmentNumber> },
    Delete(SegmentNumber),
    Shorten(SegmentNumber, u64),
    WriteDigest,
}

impl Wal {
    /// Opens the log that recovery found. `epoch_nonce` is random, drawn for this start.
    ///
    /// Carry out the actions and serve nobody before [`is_started`](Self::is_started): only then what recovery returned
    /// is proven durable.
    ///
    /// # Panics
    /// When the configuration contradicts itself: a frame that does not fit a segment, fewer than five segments in
    /// `wal_bytes_max`, a zero.
    pub fn open(config: WalConfig, recovered: Recovered, epoch_nonce: u64, now_ms: u64) -> Self {
        config.check();
        let last = recovered.segments.last().copied();
        let mut startup = VecDeque::new();
        // First what recovery read is made durable. One of these frames may be the one that lets older segments go.
        if let Some(last) = last.filter(|_| !is_planted(Bug::SkipRewrite)) {
            let rewrite = recovered.rewrite.into_iter();
            startup.extend(rewrite.map(|piece| Startup::Rewrite(last.number, piece)));
        }
        startup.extend(recovered.leftovers.into_iter().map(Startup::Delete));
        startup.push_back(Startup::Prepare);
        let shorten =
            last.filter(|last| recovered.end_offset < last.bytes).map(|last| (last.number, recovered.end_offset));
        let mut segments: BTreeMap<_, _> = recovered.segments.iter().map(|file| (file.number, file.bytes)).collect();
        segments.extend(shorten);
        let mut wal = Self {
            config,
            shard_index: recovered.shard_index,
            epoch: recovered.epoch.next(),
            epoch_nonce,
            fenced: None,
            is_sealed: false,
            next_action_id: 0,
            startup,
            startup_running: None,
            appended: RecordSequence(0),
            pending: VecDeque::new(),
            pending_bytes: 0,
            in_flight: VecDeque::new(),
            durable_records: VecDeque::new(),
            durable_sequence: RecordSequence(0),
            durable_position: None,
            reads: VecDeque::new(),
            next_lsn: recovered.end_lsn.next(),
            previous_crc: recovered.end_crc,
            durable_lsn: recovered.end_lsn,
            durable_end: (SegmentNumber(0), 0),
            last_record_lsn: Lsn(0),
            confirm: false,
            active: None,
            segments,
            first_segment: last.map_or(SegmentNumber(1), |last| last.number.next()),
            last_segment: last.map_or(SegmentNumber(0), |last| last.number),
            prepared: None,
            log_start: recovered.log_start,
            trim: None,
            recyclable: VecDeque::new(),
            removable: VecDeque::new(),
            shorten,
            housekeeping: None,
            short_of_space: false,
            disk_room: None,
            digesting: None,
            digests: recovered.digests.into(),
            durable_log_start: recovered.log_start,
            held: None,
        };
        let start = Start { epoch: wal.epoch, started_ms: now_ms, recovered_through: recovered.end_lsn };
        wal.push(Record::Start(start));
        wal
    }

    /// Whether the first frame of this epoch is durable, and with it everything that recovery returned.
    pub fn is_started(&self) -> bool {
        self.durable_sequence >= RecordSequence(1)
    }

    /// Takes a record for the next group commit. Every record that is taken comes back from
    /// [`next_durable`](Self::next_durable), in this order, or the log is fenced first.
    ///
    /// # Errors
    /// [`AppendError`]; the record was not taken.
    ///
    /// # Panics
    /// When a count or length in the record is above its limit in [`limits`](crate::limits).
    pub fn append(&mut self, record: Record) -> Result<RecordSequence, AppendError> {
        self.check_append(&record)?;
        Ok(self.push(record))
    }

    /// Whether [`append`](Self::append) would take this record now, to be asked before anything is promised about it.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn check_append(&self, record: &Record) -> Result<(), AppendError> {
        assert!(record.is_within_limits(), "what is written must be readable: keep to the limits of a record");
        self.check_room(AppendClass::of(record), record.encoded_bytes())
    }

    /// Whether a record of this class and size would be taken now.
    ///
    /// # Errors
    /// As [`append`](Self::append).
    pub fn check_room(&self, class: AppendClass, bytes: usize) -> Result<(), AppendError> {
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
        if !self.has_space(class, bytes) {
            return Err(AppendError::StorageFull);
        }
        Ok(())
    }

    /// Bytes of the largest record that fits a frame of this log.
    pub fn record_bytes_max(&self) -> usize {
        self.config.frame_bytes_max - FRAME_HEADER_BYTES
    }

    /// The next thing to do, if there is one: call until `None`, after every append and every completion.
    pub fn next_action(&mut self, now_ms: u64) -> Option<Action> {
        if self.fenced.is_some() {
            return None;
        }
        if self.startup_running.is_some() {
            return None;
        }
        if let Some(step) = self.startup.pop_front() {
            return Some(self.start_up(step));
        }
        if let Some(write) = self.next_write(now_ms) {
            return Some(Action::Write(write));
        }
        if let Some(read) = self.reads.pop_front() {
            return Some(read);
        }
        if self.is_sealed && self.is_written() {
            // Whoever opens the log next finds files that nobody is changing.
            return None;
        }
        self.next_housekeeping()
    }

    /// Has durable bytes of a segment read, at multiples of 4 KiB. The file may be gone when nothing in it is wanted any
    /// more; the read then fails, or brings something else. A fenced log reads nothing.
    pub fn read(&mut self, segment: SegmentNumber, offset: u64, bytes: usize) -> ActionId {
        let id = self.action_id();
        self.reads.push_back(Action::Read { id, segment, offset, bytes });
        id
    }

    /// Takes the outcome of an action other than a read. After a write, [`next_durable`](Self::next_durable) may have records.
    ///
    /// # Errors
    /// [`Fenced`] when a write failed, now or before: acknowledge nothing any more, report not ready.
    ///
    /// # Panics
    /// When no action of this id is under way.
    pub fn completed(&mut self, id: ActionId, outcome: Result<(), DiskError>) -> Result<(), Fenced> {
        if let Some(fenced) = &self.fenced {
            return Err(fenced.clone());
        }
        if let Some((_, action)) = self.startup_running.take_if(|(running, _)| *running == id) {
            return outcome.map_err(|error| self.fence(action, error));
        }
        if let Some((_, housekeeping)) = self.housekeeping.take_if(|(running, _)| *running == id) {
            return self.housekeeping_completed(housekeeping, outcome);
        }
        let write = self.in_flight.iter_mut().find(|write| write.id == id);
        let Some(write) = write else {
            assert!(is_planted(Bug::AcknowledgeBeyondGap), "only actions that are under way can complete");
            return Ok(());
        };
        if let Err(error) =
            outcome.or_else(|error| if is_planted(Bug::AcknowledgeFailedWrite) { Ok(()) } else { Err(error) })
        {
            let (lsn, segment) = (write.frame.header.lsn, write.frame.header.segment);
            return Err(self.fence(format!("writing frame {lsn} to segment {segment}"), error));
        }
        assert!(write.frame.crc().is_some(), "a write that was never encoded cannot be durable");
        write.is_durable = true;
        if is_planted(Bug::AcknowledgeBeyondGap) {
            self.in_flight.iter_mut().filter(|earlier| earlier.id < id).for_each(|earlier| earlier.is_durable = true);
        }
        self.release_durable();
        Ok(())
    }

    /// The next record that is durable, in the order of the log. Apply it, then acknowledge it.
    pub fn next_durable(&mut self) -> Option<Durable> {
        self.durable_records.pop_front()
    }

    /// The last record taken.
    pub fn appended(&self) -> RecordSequence {
        self.appended
    }

    /// The last record known durable, whether handed out by [`next_durable`](Self::next_durable) or not.
    pub fn durable(&self) -> RecordSequence {
        self.durable_sequence
    }

    /// The last frame known durable.
    pub fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// The epoch of this start.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Why nothing is taken and acknowledged any more, if so.
    pub fn fenced(&self) -> Option<&Fenced> {
        self.fenced.as_ref()
    }

    /// Asks for a frame without records if the last durable frame with records is not yet stated durable by a later one.
    /// Call it when the log has been idle for a moment, and at shutdown: from then on, damage to the last acknowledged
    /// frame is found as corruption instead of being taken for an unsynced end.
    pub fn confirm(&mut self) {
        self.confirm = !self.is_confirmed();
    }

    /// Whether the last frame is one without records, which states that everything before it is durable. It may still be
    /// on its way.
    pub fn is_confirmed(&self) -> bool {
        self.last_record_lsn.next() != self.next_lsn || is_planted(Bug::SkipConfirmation)
    }

    /// Whether nothing waits and nothing is on its way: the log may be closed.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty() && !self.wants_confirmation()
    }

    fn push(&mut self, record: Record) -> RecordSequence {
        let bytes = record.encoded_bytes();
        self.pending_bytes += bytes;
        self.pending.push_back(Pending { record, bytes });
        self.appended = self.appended.next();
        self.appended
    }

    fn start_up(&mut self, step: Startup) -> Action {
        let id = self.action_id();
        let (action, name) = match step {
            Startup::Delete(segment) => (Action::Delete { id, segment }, format!("deleting segment {segment}")),
            Startup::Rewrite(segment, piece) => {
                let write = Write::new(id, segment, piece.offset, Content::Copy(piece.bytes));
                (Action::Write(write), format!("writing back the end of segment {segment}"))
            }
            Startup::Prepare => {
                let segment = self.last_segment.next();
                let bytes = self.config.segment_bytes;
                self.segments.insert(segment, bytes);
                self.prepared = Some(segment);
                self.last_segment = segment;
                (Action::Prepare { id, segment, bytes, recycle: None }, format!("making segment {segment}"))
            }
        };
        self.startup_running = Some((id, name));
        action
    }

    /// Hands on the frames whose writes, and all writes before them, are durable.
    fn release_durable(&mut self) {
        while self.in_flight.front().is_some_and(|write| write.is_durable) {
            let write = self.in_flight.pop_front().expect("looked at above");
            let header = write.frame.header;
            assert_eq!(header.lsn, self.durable_lsn.next(), "frames become durable in their order");
            self.durable_lsn = header.lsn;
            self.durable_end = (header.segment, header.end_offset());
            self.previous_crc = write.frame.crc().expect("checked when the write completed");
            self.frame_is_durable(&header);
            if let Some(segment) = write.frame.segment_header {
                self.segment_is_begun(segment);
            }
            let mut sequence = write.first_sequence;
            // The driver has usually dropped its share by now; then the records move and nothing is copied.
            let (records, sums) = Frame::into_records(write.frame);
            let mut sums = sums.into_iter();
            let mut offset = header.body_offset();
            for (index, record) in (0..).zip(records) {
                let position = Position { segment: header.segment, lsn: header.lsn, index, offset };
                offset += length_u32(record.encoded_bytes());
                let noted = record.noted_as_summed(position, &mut sums);
                self.record_is_durable(position, &record, &noted);
                if !is_planted(Bug::DeliverBeforeDurable) {
                    self.durable_records.push_back(Durable { sequence, position, noted, record });
                }
                self.durable_sequence = sequence;
                self.durable_position = Some(position);
                sequence = sequence.next();
            }
            if let Some(digesting) = &mut self.digesting {
                digesting.frame(&header, self.previous_crc);
            }
        }
    }

    fn wants_confirmation(&self) -> bool {
        let is_wanted = self.confirm || (self.is_sealed && !self.is_confirmed());
        is_wanted && self.last_record_lsn == self.durable_lsn
    }

    fn fence(&mut self, action: String, error: DiskError) -> Fenced {
        let fenced = Fenced { action, error };
        self.fenced = Some(fenced.clone());
        fenced
    }

    fn action_id(&mut self) -> ActionId {
        self.next_action_id += 1;
        ActionId(self.next_action_id)
    }
}

/// Who may use which part of the space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendClass {
    /// Messages: refused first.
    Message,
    /// Dead letters to be delivered again, subscriptions to channels and their cursors: still taken when messages are not, and
    /// yet bounded. They free nothing, and what is consumed or refused again may be replayed again, without end.
    Replay,
    /// Settles: they are how space comes back.
    Settle,
    /// What the log needs itself to give space back.
    Internal,
}

impl AppendClass {
    /// What a record counts as.
    pub fn of(record: &Record) -> Self {
        match record {
            Record::BatchPart(_) | Record::Notice(_) => Self::Message,
            Record::Revive(_) | Record::Subscribe(_) | Record::Cursors(_) => Self::Replay,
            Record::Dead(dead) if dead.is_again => Self::Internal,
            Record::Settle(_) | Record::Dead(_) | Record::Unsubscribe(_) => Self::Settle,
            Record::Dedup(_) | Record::Start(_) | Record::Moved(_) | Record::Subscriptions(_) => Self::Internal,
        }
    }
}

impl WalConfig {
    pub(crate) fn check(&self) {
        let block = BLOCK_BYTES as u64;
        assert!(self.segment_bytes.is_multiple_of(block) && self.frame_bytes_max.is_multiple_of(BLOCK_BYTES));
        assert!((BLOCK_BYTES..=FRAME_BYTES_MAX).contains(&self.frame_bytes_max), "frame_bytes_max is out of range");
        let first_write_bytes = (SEGMENT_HEADER_BYTES + self.frame_bytes_max) as u64;
        assert!(self.segment_bytes >= first_write_bytes, "a frame must fit into a segment");
        assert!(self.segment_bytes <= SEGMENT_BYTES_MAX, "segment_bytes is out of range");
        assert!(self.wal_bytes_max / self.segment_bytes >= 5, "wal_bytes_max must hold at least five segments");
        assert!(self.writes_in_flight_max > 0 && self.pending_records_max > 0);
        assert!(self.full_group_bytes > 0, "a group commit has something in it");
        assert!(self.pending_bytes_max >= FrameHeader::frame_bytes(0), "pending_bytes_max must hold a record");
    }
}
