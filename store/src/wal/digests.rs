//! Digests: what a start would have to read a sealed segment for, noted while its frames become durable.

use super::{Action, Housekeeping, Wal};
use crate::digest::DigestBuilder;
use crate::limits::DIGEST_BYTES_MAX;
use crate::lsn::Position;
use crate::noted::Noted;
use crate::record::Record;
use crate::segment::SegmentHeader;

impl Wal {
    /// The first frame of a segment is durable, and with it all frames of the one before: that one is sealed.
    pub(super) fn segment_is_begun(&mut self, segment: SegmentHeader) {
        let sealed = self.digesting.replace(DigestBuilder::new(segment, self.config.segment_bytes));
        let Some(sealed) = sealed else { return };
        assert_eq!(sealed.last_lsn().next(), segment.first_lsn, "a digest leads to the segment that follows");
        let number = sealed.segment();
        if let Some(digest) = sealed.finish() {
            self.digests.push_back((number, digest));
        }
        // A disk that does not keep up costs the next start some reading, never memory.
        while self.digests.iter().map(|(_, digest)| digest.bytes()).sum::<usize>() > 2 * DIGEST_BYTES_MAX {
            self.digests.pop_front();
        }
    }

    pub(super) fn record_is_durable(&mut self, position: Position, record: &Record, noted: &Noted) {
        if let Some(digesting) = &mut self.digesting {
            digesting.record(position, record, noted);
        }
    }

    /// The next digest to write, of a segment that still belongs to the log.
    pub(super) fn next_digest(&mut self) -> Option<Action> {
        let (segment, digest) = loop {
            let (segment, digest) = self.digests.pop_front()?;
            if segment >= self.log_start && self.segments.contains_key(&segment) {
                break (segment, digest);
            }
        };
        let id = self.action_id();
        self.housekeeping = Some((id, Housekeeping::WriteDigest));
        Some(Action::WriteDigest { id, segment, digest })
    }
}
