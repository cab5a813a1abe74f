//! A start by digests: what is noted of sealed segments is read from beside them, only the rest of the log is read itself.

use std::collections::BTreeSet;

use super::{Corruption, Damage, Recovered, RecoveryError, Survey, for_each_record};
use crate::digest::{Digest, DigestBuilder, DigestDamage, SegmentDigest};
use crate::limits::DIGEST_BYTES_MAX;
use crate::lsn::{Position, SegmentNumber};
use crate::noted::Noted;
use crate::planted::{Bug, is_planted};
use crate::segment::SegmentDamage;
use crate::source::SegmentSource;

/// As [`recover`](super::recover), for who keeps no payloads: hands on what is noted of every record, in order, and takes
/// it from a segment's digest where that is sound. What the digests let it skip is not checked here: it is held against
/// [`Place::crc`](crate::Place::crc) when it is read, and [`verify`](crate::verify()) reads all of it.
///
/// # Errors
/// [`RecoveryError`]: the log cannot be read, or it is damaged where it was known to be durable. Nothing was changed.
pub fn recover_noted<S: SegmentSource>(
    source: &mut S,
    shard_index: u32,
    mut on_noted: impl FnMut(Position, Noted),
) -> Result<Recovered, RecoveryError> {
    let survey = Survey::make(source, shard_index)?;
    let listed: BTreeSet<_> = source.digests()?.into_iter().collect();
    let (mut found, mut made) = (DigestUse::default(), Made::default());
    for place in 0..survey.chain.len() {
        let (file, header) = survey.chain[place];
        match survey.digest(source, place, &listed) {
            Ok(Some(digest)) => {
                found.used += 1;
                let left_out = is_planted(Bug::LeaveOutLastFrame).then(|| digest.last_lsn());
                let entries = digest.entries().filter(|(position, _)| Some(position.lsn) != left_out);
                entries.for_each(|(position, noted)| on_noted(position, noted));
                continue;
            }
            Ok(None) => {}
            Err(damage) => found.refused.push((file.number, damage)),
        }
        found.read += 1;
        let mut builder = DigestBuilder::new(header, file.bytes);
        survey.replay(source, place, |frame, body| {
            for_each_record(frame, body, &mut |position, record| {
                let noted = record.noted(position);
                builder.record(position, &record, &noted);
                on_noted(position, noted);
            })?;
            builder.frame(&frame.header, frame.header.crc);
            Ok(())
        })?;
        made.add(file.number, builder);
    }
    let mut recovered = survey.into_recovered(source)?;
    recovered.digests = made.digests;
    recovered.digest_use = found;
    Ok(recovered)
}

/// How much of a log was read from digests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestUse {
    /// Segments whose digests were taken.
    pub used: usize,
    /// Segments that were read themselves; the last one always is.
    pub read: usize,
    /// Segments whose digests were there and not taken, and why.
    pub refused: Vec<(SegmentNumber, DigestDamage)>,
}

/// Digests made on the way, so that the next start has them. The last segment's is among them: nothing is written to it
/// any more.
#[derive(Default)]
struct Made {
    digests: Vec<(SegmentNumber, Digest)>,
    bytes: usize,
}

impl Made {
    fn add(&mut self, segment: SegmentNumber, builder: DigestBuilder) {
        let Some(digest) = builder.finish() else { return };
        self.bytes += digest.bytes();
        self.digests.push((segment, digest));
        // A log without digests gets them over several starts, rather than all of them held in memory at once.
        while self.bytes > DIGEST_BYTES_MAX && self.digests.len() > 1 {
            self.bytes -= self.digests.remove(0).1.bytes();
        }
    }
}

impl Survey {
    /// The digest to take instead of a segment, if there is one and the segment is not the last.
    fn digest<S: SegmentSource>(
        &self,
        source: &mut S,
        place: usize,
        listed: &BTreeSet<SegmentNumber>,
    ) -> Result<Option<SegmentDigest>, DigestDamage> {
        let (file, _) = self.chain[place];
        if place + 1 == self.chain.len() || !listed.contains(&file.number) {
            return Ok(None);
        }
        // Whatever is wrong with reading it: the segment itself says everything.
        let bytes = source.read_digest(file.number).map_err(|_| DigestDamage::Unreadable)?;
        let digest = SegmentDigest::parse(&bytes)?;
        self.check_digest(place, &digest)?;
        Ok(Some(digest))
    }

    /// Whether this is the digest of that segment, and leads to what follows it.
    pub(crate) fn check_digest(&self, place: usize, digest: &SegmentDigest) -> Result<(), DigestDamage> {
        let (file, header) = self.chain[place];
        let next = self.chain.get(place + 1).map(|(_, next)| (next.first_lsn, next.previous_crc));
        digest.check_place(&header, file.bytes, next.unwrap_or((self.end.lsn.next(), self.end.crc)))
    }

    /// A digest is written when the first frame of the *next* segment is durable. So the digest of the last segment that
    /// can be read proves that there was one behind it.
    pub(super) fn check_nothing_is_behind<S: SegmentSource>(
        &self,
        source: &mut S,
        digests: &[SegmentNumber],
        behind: Option<SegmentDamage>,
    ) -> Result<(), Corruption> {
        let Some(&(file, header)) = self.chain.last().filter(|(file, _)| digests.contains(&file.number)) else {
            return Ok(());
        };
        let digest = source.read_digest(file.number).ok().and_then(|bytes| SegmentDigest::parse(&bytes).ok());
        let Some(digest) = digest.filter(|digest| *digest.segment() == header) else { return Ok(()) };
        let proven = digest.last_lsn().next();
        Err(Corruption {
            segment: file.number.next(),
            offset: 0,
            expected_lsn: proven,
            durable_upto: proven,
            reason: behind.map_or(Damage::MissingSegment, Damage::Segment),
        })
    }
}
