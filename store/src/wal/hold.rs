//! A hold: the files of the log as it is durable at one moment stay as they are, so that they can be copied meanwhile.
//!
//! Frames are only ever written behind the last durable one, so what stands before that point changes no more; all that
//! can happen to it is that its file is deleted, shortened, or renamed for another segment. A hold puts that off. The
//! log goes on otherwise, trims included: their files stay until the hold is over.

use super::Wal;
use crate::lsn::{Epoch, Lsn, SegmentNumber};
use crate::planted::{Bug, is_planted};

/// A log up to a frame that is durable. Recovery of these files alone finds exactly that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLog {
    /// Whose log it is.
    pub shard_index: u32,
    /// The epoch of this start.
    pub epoch: Epoch,
    /// The first segment that belongs to it.
    pub first_segment: SegmentNumber,
    /// The last one.
    pub last_segment: SegmentNumber,
    /// Where its last frame ends in the last segment: what lies behind is not part of it.
    pub end_offset: u64,
    /// Its last frame.
    pub end_lsn: Lsn,
}

impl HeldLog {
    pub(crate) fn holds(&self, segment: SegmentNumber) -> bool {
        (self.first_segment..=self.last_segment).contains(&segment)
    }
}

impl Wal {
    /// Keeps the files of everything that is durable now as they are, until [`let_go`](Self::let_go). One hold at a time:
    /// another one takes its place. `None` before the log has started: what recovery found is not proven durable yet.
    ///
    /// A fenced log can be held, too: what it acknowledged before is durable.
    pub fn hold(&mut self) -> Option<HeldLog> {
        if !self.is_started() {
            return None;
        }
        let (last_segment, end_offset) = self.durable_end;
        let held = HeldLog {
            shard_index: self.shard_index,
            epoch: self.epoch,
            first_segment: self.durable_log_start,
            last_segment,
            end_offset,
            end_lsn: self.durable_lsn,
        };
        self.held = Some(held);
        Some(held)
    }

    /// Ends the hold: files that only it kept may go now.
    pub fn let_go(&mut self) {
        self.held = None;
    }

    /// What is held, if something is.
    pub fn held(&self) -> Option<&HeldLog> {
        self.held.as_ref()
    }

    /// Bytes of files that are trimmed and would be given back but for the hold.
    pub fn held_back_bytes(&self) -> u64 {
        let trimmed = self.removable.iter().chain(&self.recyclable).filter(|&&segment| self.is_held(segment));
        trimmed.filter_map(|segment| self.segments.get(segment)).sum()
    }

    pub(super) fn is_held(&self, segment: SegmentNumber) -> bool {
        self.held.is_some_and(|held| held.holds(segment)) && !is_planted(Bug::ReuseHeld)
    }
}
