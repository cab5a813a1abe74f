//! A seal: nothing is appended any more, what is on its way becomes durable, and then the log has an end.
//!
//! A seal lives in memory, in the start that made it. On the disk it is the empty frame that closes this epoch: it states
//! that every frame before it is durable, so damage to any of them is found as corruption. It forbids nothing to the next
//! start, which is what a seal is for; that one draws a higher epoch and writes to a new segment, whose header cuts off,
//! durably and before anything is acknowledged, whatever this start may still have on its way. So an owner that died
//! without a seal is shut out by the next one's epoch, and an owner that hands over seals first and loses nothing of what
//! it was still writing.

use super::Wal;
use crate::log::SealedEnd;

impl Wal {
    /// Ends the log's life in this process: from now on nothing is appended. What was taken before becomes durable, a trim
    /// that was begun is finished, and an empty frame states all of it. Sealing twice is sealing once.
    pub fn seal(&mut self) {
        self.is_sealed = true;
    }

    /// Whether [`seal`](Self::seal) was called.
    pub fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// Where a sealed log ends, once everything in it is durable and nothing that changes its files is under way: from then
    /// on another owner may open it. `None` before that, and for good when the log was fenced first.
    pub fn end(&self) -> Option<SealedEnd> {
        let is_over = self.is_sealed && self.is_started() && self.is_written() && self.housekeeping.is_none();
        let position = self.durable_position.filter(|_| is_over && self.fenced.is_none())?;
        Some(SealedEnd { epoch: self.epoch, sequence: self.durable_sequence, position })
    }

    /// Whether there is nothing left to write, and nothing on its way.
    pub(super) fn is_written(&self) -> bool {
        self.pending.is_empty() && self.in_flight.is_empty() && !self.wants_empty_frame()
    }
}
