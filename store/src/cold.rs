//! Payloads that are read back from the log: which bytes are asked for, and how they are held against what they must be.
//!
//! ```text
//! wanted messages -> extents (whole blocks, near ones in one) -> the driver reads -> checked against the CRC -> staged
//! ```
//!
//! What was read is staged for the turn in which it came, and handed out in it; it is not cached. The number of reads under
//! way and their bytes are bounded; whoever finds no room waits in a line. Between asking and reading a message may be
//! settled or moved: what is read is believed only if it is, byte by byte, the message that the index means.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::checksum;
use crate::entry::Entry;
use crate::id::MailboxId;
use crate::layout::{Reader, length_usize, pad8};
use crate::limits::{
    BATCH_HEADER_BYTES_MAX, BLOCK_BYTES, READ_AHEAD_BYTES, READ_BYTES_IN_FLIGHT_MAX, READ_EXTENTS_MAX, READ_GAP_BYTES,
    READ_HEADER_BYTES, READS_IN_FLIGHT_MAX, RECORD_HEADER_BYTES,
};
use crate::lsn::SegmentNumber;
use crate::mailboxes::LetterRead;
use crate::noted::Place;
use crate::planted::{Bug, is_planted};
use crate::record::PartMessage;
use crate::slab::Slot;
use crate::wal::DiskError;

/// Bytes of the log to read back, asked for by [`Mailboxes::next_read`](crate::Mailboxes::next_read).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdRead {
    /// To answer under.
    pub id: ReadId,
    /// The segment.
    pub segment: SegmentNumber,
    /// Where in it: a multiple of 4 KiB.
    pub offset: u64,
    /// How many bytes: a multiple of 4 KiB.
    pub bytes: usize,
}

/// Names a [`ColdRead`] until it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId(u64);

/// Names a group of reads that were asked for together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct JobId(u64);

/// What reads are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A subscriber waits for it.
    Deliver(MailboxId),
    /// Readers of a channel wait for it.
    Publish(MailboxId),
    /// It is written again at the log's head.
    Move,
    /// The owner of a dead letter looks at it.
    Look(LetterRead),
    /// Its time is over, and its sender is to be told.
    Expire,
}

/// A message to read back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) slot: Slot,
    pub(crate) sequence: u64,
    pub(crate) place: Place,
}

/// A message as it was read back, with the header of its batch.
#[derive(Debug)]
pub(crate) struct Payload {
    pub(crate) message: PartMessage,
    pub(crate) batch_header: Bytes,
}

/// All reads of a shard.
#[derive(Debug, Default)]
pub(crate) struct Cold {
    jobs: BTreeMap<JobId, Job>,
    last_job: u64,
    last_read: u64,
    /// To be asked for.
    asked: VecDeque<ColdRead>,
    /// Asked for: the job, and which of its extents.
    running: BTreeMap<ReadId, (JobId, usize)>,
    bytes_in_flight: usize,
    /// Mailboxes that found no room.
    waiting: VecDeque<MailboxId>,
    /// What came in this turn.
    staged: BTreeMap<Slot, Payload>,
}

/// Messages that are read together. Their extents never overlap but by a block.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) purpose: Purpose,
    pub(crate) wanted: Vec<Wanted>,
    extents: Vec<Extent>,
    outstanding: usize,
    /// The first read that failed, and how.
    pub(crate) failed: Option<DiskError>,
}

#[derive(Debug, Clone)]
struct Extent {
    segment: SegmentNumber,
    start: u64,
    end: u64,
    content: Option<Bytes>,
}

/// Messages that are to be read together.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    wanted: Vec<Wanted>,
    extents: Vec<Extent>,
}

/// Why what was read is not the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mismatch {
    /// The batch's header is longer than what was read of it.
    HeaderBeyond(u64),
    /// Something else stands there.
    Damage,
}

impl Plan {
    /// Adds a message if it can be read together with those that are in the plan.
    pub(crate) fn add(&mut self, slot: Slot, entry: &Entry) -> bool {
        let place = entry.place();
        let record = u64::from(place.record_offset);
        let message = u64::from(place.message_offset);
        let header_end = (record + READ_HEADER_BYTES).min(message);
        let before = self.extents.clone();
        cover(&mut self.extents, place.segment, record, header_end);
        cover(&mut self.extents, place.segment, message, message + u64::from(place.message_bytes));
        let bytes: u64 = self.extents.iter().map(|extent| extent.end - extent.start).sum();
        let is_too_much = self.extents.len() > READ_EXTENTS_MAX || bytes > READ_AHEAD_BYTES as u64;
        if is_too_much && !self.wanted.is_empty() {
            self.extents = before;
            return false;
        }
        self.wanted.push(Wanted { slot, sequence: entry.sequence(), place });
        true
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }
}

/// Adds the blocks of a range to the extents: to one that is near it in the same segment, or as another one.
fn cover(extents: &mut Vec<Extent>, segment: SegmentNumber, start: u64, end: u64) {
    let block = BLOCK_BYTES as u64;
    let (mut start, mut end) = (start / block * block, end.next_multiple_of(block));
    let is_near = |extent: &Extent, start: u64, end: u64| {
        extent.segment == segment && start <= extent.end + READ_GAP_BYTES && extent.start <= end + READ_GAP_BYTES
    };
    // What joins one may close the gap to the next.
    while let Some(at) = extents.iter().position(|extent| is_near(extent, start, end)) {
        let extent = extents.swap_remove(at);
        (start, end) = (start.min(extent.start), end.max(extent.end));
    }
    extents.push(Extent { segment, start, end, content: None });
}

impl Cold {
    /// Whether another plan may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.running.len() + READ_EXTENTS_MAX <= READS_IN_FLIGHT_MAX
            && self.bytes_in_flight + READ_AHEAD_BYTES <= READ_BYTES_IN_FLIGHT_MAX
    }

    pub(crate) fn begin(&mut self, purpose: Purpose, plan: Plan) -> JobId {
        self.last_job += 1;
        let job = JobId(self.last_job);
        let Plan { wanted, extents } = plan;
        self.jobs.insert(job, Job { purpose, wanted, extents, outstanding: 0, failed: None });
        self.ask(job, 0);
        job
    }

    pub(crate) fn next_read(&mut self) -> Option<ColdRead> {
        self.asked.pop_front()
    }

    /// Takes what a read brought; gives the job back when that was its last one.
    ///
    /// # Panics
    /// When no read of this id is under way.
    pub(crate) fn completed(&mut self, id: ReadId, outcome: Result<Bytes, DiskError>) -> Option<(JobId, Job)> {
        let (job_id, extent) = self.running.remove(&id).expect("only reads that are under way can complete");
        let job = self.jobs.get_mut(&job_id).expect("a job is there until its last read has come");
        let extent = &mut job.extents[extent];
        let bytes = extent.bytes();
        self.bytes_in_flight -= bytes;
        match outcome {
            Ok(content) if content.len() == bytes => extent.content = Some(content),
            Ok(content) => {
                let found = content.len();
                job.failed = Some(DiskError::Io(format!("a read of {bytes} bytes brought {found}")));
            }
            Err(error) => job.failed = Some(error),
        }
        job.outstanding -= 1;
        if job.outstanding > 0 {
            return None;
        }
        if job.failed.is_none() && self.read_long_headers(job_id) {
            return None;
        }
        self.jobs.remove(&job_id).map(|job| (job_id, job))
    }

    /// Puts a mailbox into the line of those that wait for room.
    pub(crate) fn wait(&mut self, mailbox: MailboxId) {
        self.waiting.push_back(mailbox);
    }

    /// The next of those that wait for room, if there is some.
    pub(crate) fn next_waiting(&mut self) -> Option<MailboxId> {
        if self.has_room() { self.waiting.pop_front() } else { None }
    }

    pub(crate) fn stage(&mut self, slot: Slot, payload: Payload) {
        self.staged.insert(slot, payload);
    }

    /// What was read of a message in this turn. The slot may hold another one by now.
    pub(crate) fn staged(&self, slot: Slot, sequence: u64) -> Option<&Payload> {
        self.staged.get(&slot).filter(|payload| payload.message.sequence == sequence)
    }

    pub(crate) fn end_turn(&mut self) {
        self.staged.clear();
    }

    /// Reads that are asked for or under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// Has the extents of a job read, from the one with this number on.
    fn ask(&mut self, job_id: JobId, from: usize) {
        let job = self.jobs.get_mut(&job_id).expect("it was just begun, or is not done");
        for (number, extent) in job.extents.iter().enumerate().skip(from) {
            self.last_read += 1;
            let id = ReadId(self.last_read);
            let bytes = extent.bytes();
            self.asked.push_back(ColdRead { id, segment: extent.segment, offset: extent.start, bytes });
            self.running.insert(id, (job_id, number));
            self.bytes_in_flight += bytes;
            job.outstanding += 1;
        }
    }

    /// Asks for the rest of batch headers that are longer than usual; `false` when there are none.
    fn read_long_headers(&mut self, job_id: JobId) -> bool {
        let job = self.jobs.get_mut(&job_id).expect("a job is there until its last read has come");
        let mut rest = Vec::new();
        for wanted in &job.wanted {
            if let Err(Mismatch::HeaderBeyond(end)) = job.payload(wanted) {
                cover(&mut rest, wanted.place.segment, u64::from(wanted.place.record_offset), end);
            }
        }
        let from = job.extents.len();
        job.extents.append(&mut rest);
        let is_longer = job.extents.len() > from;
        if is_longer {
            self.ask(job_id, from);
        }
        is_longer
    }
}

impl Job {
    /// The message as it was read, if it is, byte by byte, the one that is wanted.
    pub(crate) fn payload(&self, wanted: &Wanted) -> Result<Payload, Mismatch> {
        let place = &wanted.place;
        let (record, message) = (u64::from(place.record_offset), u64::from(place.message_offset));
        let fixed_end = record + RECORD_HEADER_BYTES as u64 + 8;
        let fixed = self.bytes(place.segment, record, fixed_end).ok_or(Mismatch::Damage)?;
        let header_bytes = u32::from_le_bytes(*fixed.last_chunk().expect("sixteen bytes were asked for"));
        let header_end = fixed_end + u64::from(header_bytes);
        if length_usize(header_bytes) > BATCH_HEADER_BYTES_MAX
            || fixed_end + pad8(length_usize(header_bytes)) as u64 > message
        {
            return Err(Mismatch::Damage);
        }
        let batch_header =
            self.bytes(place.segment, fixed_end, header_end).ok_or(Mismatch::HeaderBeyond(header_end))?;
        let message_end = message + u64::from(place.message_bytes);
        let encoded = self.bytes(place.segment, message, message_end).ok_or(Mismatch::Damage)?;
        let crc = checksum::crc32c_append(checksum::crc32c(&batch_header), &encoded);
        let is_right = crc == place.crc || is_planted(Bug::BelieveWhatIsRead);
        let mut reader = Reader::new(&encoded);
        match PartMessage::parse(&mut reader) {
            Ok(message) if is_right && reader.left() == 0 && message.sequence == wanted.sequence => {
                Ok(Payload { message, batch_header })
            }
            _ => Err(Mismatch::Damage),
        }
    }

    fn bytes(&self, segment: SegmentNumber, start: u64, end: u64) -> Option<Bytes> {
        let holds = |extent: &&Extent| extent.segment == segment && extent.start <= start && end <= extent.end;
        let extent = self.extents.iter().find(holds)?;
        let content = extent.content.as_ref()?;
        let at = |offset: u64| usize::try_from(offset - extent.start).expect("an extent is in memory");
        Some(content.slice(at(start)..at(end)))
    }
}

impl Extent {
    fn bytes(&self) -> usize {
        usize::try_from(self.end - self.start).expect("an extent is in memory")
    }
}

#[cfg(test)]
mod tests;
