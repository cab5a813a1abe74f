//! Space: which segments exist, which may go, and who may still write.

use super::{Action, AppendClass, AppendError, DiskError, Fenced, Housekeeping, Wal};
use crate::frame::FrameHeader;
use crate::limits::SEGMENT_HEADER_BYTES;
use crate::lsn::{RecordSequence, SegmentNumber};
use crate::planted::{Bug, is_planted};
use crate::record::Record;

/// A trim under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Trim {
    log_start: SegmentNumber,
    /// The last record that carries over what the trimmed segments knew.
    after: RecordSequence,
    /// Whether a frame states the new start; once that frame is durable, the files go.
    is_stated: bool,
}

/// How full the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes of all its files.
    pub bytes: u64,
    /// What they can grow to: `wal_bytes_max`, or less when the file system has less.
    pub bytes_max: u64,
    /// Bytes that messages can still take; at none of them they are refused. At a quarter of `bytes_max`, slow the senders
    /// down.
    pub message_bytes_left: u64,
}

impl Wal {
    /// How full the log is.
    pub fn space(&self) -> Space {
        let reserved = self.reserved_bytes(AppendClass::Message);
        Space {
            bytes: self.allocated_bytes(),
            bytes_max: self.allocated_bytes() + self.unallocated_bytes(),
            message_bytes_left: self.room_bytes().saturating_sub(reserved + self.pending_bytes as u64),
        }
    }

    /// Takes what the file system has left for this log beyond the files that it has. Messages are then refused while two
    /// segments can still be made, so that settling and trimming have theirs, instead of when the disk refuses one. Tell it
    /// again and again: others write there, too.
    pub fn set_disk_room(&mut self, bytes: u64) {
        self.disk_room = Some(bytes);
    }

    /// Bytes of a segment file.
    pub fn segment_bytes(&self) -> u64 {
        self.config.segment_bytes
    }

    /// The oldest segment that belongs to the log.
    pub fn log_start(&self) -> SegmentNumber {
        self.log_start
    }

    /// The segment that is being written to; the last recovered one before the first write.
    pub fn active_segment(&self) -> SegmentNumber {
        self.active.map_or(self.log_start, |active| active.number)
    }

    /// Whether a [`trim`](Self::trim) is not finished; the next one has to wait.
    pub fn is_trimming(&self) -> bool {
        self.trim.is_some()
    }

    /// Lets the log begin at `log_start`. `carry_over` holds what older segments know and is still needed; it is made
    /// durable, then a frame states the new start, and when that frame is durable the older files go.
    ///
    /// # Errors
    /// [`AppendError::Fenced`] and [`AppendError::Sealed`]; nothing was begun.
    ///
    /// # Panics
    /// When a trim is under way, or `log_start` lies outside the log: both are the caller's mistake.
    pub fn trim(&mut self, log_start: SegmentNumber, carry_over: Vec<Record>) -> Result<(), AppendError> {
        if let Some(fenced) = &self.fenced {
            return Err(fenced.clone().into());
        }
        if self.is_sealed {
            return Err(AppendError::Sealed);
        }
        assert!(!self.is_trimming(), "one trim at a time");
        assert!(log_start > self.log_start && log_start <= self.active_segment(), "only a prefix of the log can go");
        for record in carry_over {
            assert!(record.is_within_limits() && record.encoded_bytes() <= self.record_bytes_max());
            self.push(record);
        }
        self.trim = Some(Trim { log_start, after: self.appended, is_stated: false });
        if is_planted(Bug::TrimBeforeCarryOver) {
            self.let_segments_go(log_start, self.durable_log_start);
        }
        Ok(())
    }

    /// Bytes of files that are not part of the log any more: kept for reuse, or about to be deleted.
    pub fn spare_bytes(&self) -> u64 {
        let spare = self.recyclable.iter().chain(&self.removable);
        spare.filter_map(|segment| self.segments.get(segment)).sum()
    }

    /// Whether files that are not part of the log any more are on their way out.
    pub(super) fn is_giving_back(&self) -> bool {
        !self.removable.is_empty() || matches!(self.housekeeping, Some((_, Housekeeping::Delete(_))))
    }

    /// Gives back one of the files that are kept for reuse, unless it is the one that the next segment will need: for a log
    /// that takes more space than it should.
    pub fn drop_spare(&mut self) {
        let needed = usize::from(self.prepared.is_none());
        if self.recyclable.len() > needed {
            self.removable.extend(self.recyclable.pop_back());
        }
    }

    /// Lets the log ask again for space that the disk refused. Call it when time has passed.
    pub fn retry_space(&mut self) {
        self.short_of_space = false;
    }

    /// Moves the log's start into the frame that is being built, when everything carried over is in it or before it.
    pub(super) fn advance_log_start(&mut self) {
        let framed = RecordSequence(self.appended.0 - self.pending.len() as u64);
        if let Some(trim) = self.trim.as_mut().filter(|trim| trim.after <= framed && !trim.is_stated) {
            trim.is_stated = true;
            self.log_start = trim.log_start;
        }
    }

    /// Whether a frame is wanted though no record waits.
    pub(super) fn wants_empty_frame(&self) -> bool {
        self.trim.is_some_and(|trim| !trim.is_stated) || self.wants_confirmation()
    }

    /// A frame became durable: if it states a new start, what lies before may go.
    pub(super) fn frame_is_durable(&mut self, header: &FrameHeader) {
        let before = std::mem::replace(&mut self.durable_log_start, header.log_start);
        let Some(trim) = self.trim.filter(|trim| trim.log_start <= header.log_start) else { return };
        self.trim = None;
        self.let_segments_go(trim.log_start, before);
    }

    /// Segments below this one are not needed any more: for another use, or to be deleted. Those below `before` were let go
    /// earlier.
    fn let_segments_go(&mut self, log_start: SegmentNumber, before: SegmentNumber) {
        let trimmed: Vec<_> = self.segments.range(..log_start).map(|(&number, &bytes)| (number, bytes)).collect();
        // It counts until its file is gone, and is not to be had for another use any more.
        let being_deleted = match self.housekeeping {
            Some((_, Housekeeping::Delete(segment))) => Some(segment),
            _ => None,
        };
        for (number, bytes) in trimmed {
            if self.removable.contains(&number) || self.recyclable.contains(&number) || being_deleted == Some(number) {
                continue;
            }
            // Only files of this start: a write of an earlier process may still be on its way to an older one. And none whose
            // deletion failed: nobody knows whether it is there.
            let is_of_this_start = number >= self.first_segment && number >= before;
            let is_reusable = bytes == self.config.segment_bytes && is_of_this_start;
            if is_reusable && self.recyclable.len() < self.config.recycled_segments_max {
                self.recyclable.push_back(number);
            } else {
                self.removable.push_back(number);
            }
        }
    }

    pub(super) fn next_housekeeping(&mut self) -> Option<Action> {
        if self.housekeeping.is_some() || !self.is_started() {
            return None;
        }
        let housekeeping = self.next_prepare().or_else(|| {
            let is_held = self.shorten.is_some_and(|(number, _)| self.is_held(number));
            let shorten = if is_held { None } else { self.shorten.take() };
            let shorten = shorten.filter(|(number, _)| !self.removable.contains(number));
            shorten.map(|(number, bytes)| Housekeeping::Shorten(number, bytes))
        });
        // Before anything is deleted: digests are small, and the sooner they are there, the less a start has to read.
        if housekeeping.is_none()
            && let Some(digest) = self.next_digest()
        {
            return Some(digest);
        }
        let housekeeping = housekeeping.or_else(|| {
            let place = self.removable.iter().position(|&segment| !self.is_held(segment))?;
            self.removable.remove(place).map(Housekeeping::Delete)
        })?;
        let id = self.action_id();
        self.housekeeping = Some((id, housekeeping));
        Some(match housekeeping {
            Housekeeping::Prepare { segment, recycle } => {
                Action::Prepare { id, segment, bytes: self.config.segment_bytes, recycle }
            }
            Housekeeping::Delete(segment) => Action::Delete { id, segment },
            Housekeeping::Shorten(segment, bytes) => Action::Shorten { id, segment, bytes },
            Housekeeping::WriteDigest => unreachable!("made with its action"),
        })
    }

    pub(super) fn housekeeping_completed(
        &mut self,
        housekeeping: Housekeeping,
        outcome: Result<(), DiskError>,
    ) -> Result<(), Fenced> {
        match (housekeeping, outcome) {
            (Housekeeping::Prepare { segment, .. }, Ok(())) => self.prepared = Some(segment),
            (Housekeeping::Prepare { segment, recycle }, Err(DiskError::NoSpace)) => {
                // Nothing was promised about the new segment. What is there goes on; messages are refused meanwhile.
                self.short_of_space = true;
                self.segments.remove(&segment);
                self.last_segment = SegmentNumber(segment.0 - 1);
                // Renamed or not: whichever name it has, it is deleted, here or by the next start.
                if let Some(recycle) = recycle {
                    self.segments.insert(recycle, self.config.segment_bytes);
                    self.removable.push_back(recycle);
                }
            }
            // The file may exist or not, half made: nothing can be built on it.
            (Housekeeping::Prepare { segment, .. }, Err(error)) => {
                return Err(self.fence(format!("making segment {segment}"), error));
            }
            (Housekeeping::Delete(segment), Ok(())) => {
                self.segments.remove(&segment);
                self.short_of_space = false;
            }
            (Housekeeping::Shorten(segment, bytes), Ok(())) => {
                self.segments.insert(segment, bytes);
            }
            // Space that does not come back is no danger to what is stored: the file counts on, the next start deletes it.
            (Housekeeping::Delete(_) | Housekeeping::Shorten(..), Err(_)) => {}
            // Without a digest the next start reads the segment.
            (Housekeeping::WriteDigest, _) => {}
        }
        Ok(())
    }

    pub(super) fn has_space(&self, class: AppendClass, bytes: usize) -> bool {
        // What is pending may need a frame of its own, and a segment's end that is too short for it is lost.
        let frame_bytes = self.config.frame_bytes_max as u64;
        let pending = self.pending_bytes as u64 + bytes as u64 + 2 * frame_bytes;
        // `wal_bytes_max` bounds messages. Settling is how space comes back: if it could be refused, one message that waits
        // long would hold a full log for ever. What it writes is bounded by what is stored, and how often a letter dies again by
        // how often it is replayed; only the disk can refuse it.
        let is_bounded_by_what_is_stored = matches!(class, AppendClass::Settle | AppendClass::Internal);
        (is_bounded_by_what_is_stored && !self.short_of_space)
            || self.room_bytes() >= pending + self.reserved_bytes(class)
    }

    /// One segment is kept for settling and replays, and one more for what trimming itself has to write.
    fn reserved_bytes(&self, class: AppendClass) -> u64 {
        match class {
            AppendClass::Message => 2 * self.usable_bytes(),
            AppendClass::Replay | AppendClass::Settle => self.usable_bytes(),
            AppendClass::Internal => 0,
        }
    }

    /// Bytes that can still be written before something is trimmed.
    fn room_bytes(&self) -> u64 {
        let active = self.active.map_or(0, |active| self.config.segment_bytes - active.offset);
        let is_preparing = matches!(self.housekeeping, Some((_, Housekeeping::Prepare { .. })));
        let ready =
            u64::from(self.prepared.is_some()) + u64::from(is_preparing) + self.next_recyclable().count() as u64;
        let unallocated = self.unallocated_bytes() / self.config.segment_bytes;
        active + (ready + unallocated) * self.usable_bytes()
    }

    fn next_prepare(&mut self) -> Option<Housekeeping> {
        let active = self.active?;
        // The file after a segment exists only once that segment's header is durable: recovery takes a later file for proof
        // that no earlier one can be missing.
        if self.durable_lsn < active.first_lsn && !is_planted(Bug::PrepareEarly) {
            return None;
        }
        // Made ahead, so that no group commit waits for it.
        if self.prepared.is_some() || active.offset < self.config.segment_bytes / 2 {
            return None;
        }
        let place = self.next_recyclable().next();
        let recycle = place.and_then(|place| self.recyclable.remove(place));
        // Messages end two segments before `wal_bytes_max`; beyond it, only settling and trimming ask for more.
        if recycle.is_none() && self.short_of_space {
            return None;
        }
        if let Some(recycle) = recycle {
            self.segments.remove(&recycle);
        }
        let segment = self.last_segment.next();
        self.last_segment = segment;
        self.segments.insert(segment, self.config.segment_bytes);
        Some(Housekeeping::Prepare { segment, recycle })
    }

    /// Places of the files that can be had for another segment now.
    fn next_recyclable(&self) -> impl Iterator<Item = usize> {
        (0..self.recyclable.len()).filter(|&place| !self.is_held(self.recyclable[place]))
    }

    /// Bytes by which the files may still grow.
    fn unallocated_bytes(&self) -> u64 {
        let configured = self.config.wal_bytes_max.saturating_sub(self.allocated_bytes());
        match self.short_of_space {
            true => 0,
            false => self.disk_room.map_or(configured, |room| room.min(configured)),
        }
    }

    fn usable_bytes(&self) -> u64 {
        self.config.segment_bytes - SEGMENT_HEADER_BYTES as u64
    }

    fn allocated_bytes(&self) -> u64 {
        self.segments.values().sum()
    }
}
