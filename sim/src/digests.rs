//! The digests beside the segments of a log: whole or not there after a crash, and never needed. So anything may become of
//! them between two lives, and a start must find what it finds without them.

use std::collections::BTreeMap;

use bytes::Bytes;
use creto_store::{Digest, Noted, Position, Record, SegmentNumber, recover_noted};

use crate::disk::{DiskSource, SECTOR_BYTES};
use crate::fault::Fault;
use crate::model::{Checked, Rule, broken};
use crate::node::shard_u32;
use crate::random::Random;
use crate::world::World;

#[derive(Clone, Debug, Default)]
pub(crate) struct Digests(BTreeMap<SegmentNumber, Vec<u8>>);

impl Digests {
    pub(crate) fn write(&mut self, segment: SegmentNumber, digest: &Digest) {
        self.0.insert(segment, digest.pieces().concat());
    }

    pub(crate) fn remove(&mut self, segment: SegmentNumber) {
        self.0.remove(&segment);
    }

    pub(crate) fn segments(&self) -> Vec<SegmentNumber> {
        self.0.keys().copied().collect()
    }

    pub(crate) fn read(&self, segment: SegmentNumber) -> Option<Bytes> {
        self.0.get(&segment).map(|digest| Bytes::from(digest.clone()))
    }

    /// One of them is lost, cut, changed, or another's.
    fn damage(&mut self, random: &mut Random) -> bool {
        let segments = self.segments();
        if segments.is_empty() {
            return false;
        }
        let other = self.0[&random.pick(&segments)].clone();
        let segment = random.pick(&segments);
        let digest = self.0.get_mut(&segment).expect("chosen among those that are there");
        // It was cut to nothing before.
        if digest.is_empty() {
            return false;
        }
        let at = random.index(digest.len());
        match random.below(5) {
            0 => drop(self.0.remove(&segment)),
            1 => digest.truncate(at),
            2 => digest[at] ^= 1 << random.below(8),
            3 => digest[at / SECTOR_BYTES * SECTOR_BYTES..].fill(0),
            _ => *digest = other,
        }
        true
    }
}

impl World<'_> {
    pub(crate) fn damage_digests(&mut self, shard: usize) {
        if self.random.one_in(self.profile.damaged_digest_one_in) && self.disks[shard].digests.damage(&mut self.random)
        {
            self.faults.add(Fault::DamagedDigest);
        }
    }

    /// A start by digests notes exactly what reading the whole log gave.
    pub(crate) fn check_digests(&mut self, shard: usize, records: &[(Position, Record)]) -> Checked {
        let mut expected = records.iter().map(|(position, record)| (*position, record.noted(*position)));
        let mut wrong: Option<(Position, Noted)> = None;
        let mut source = DiskSource::new(&self.disks[shard]);
        let on_noted = |position, noted: Noted| {
            if wrong.is_none() && expected.next().as_ref() != Some(&(position, noted.clone())) {
                wrong = Some((position, noted));
            }
        };
        let outcome = recover_noted(&mut source, shard_u32(shard), on_noted);
        let missing = expected.next();
        if outcome.is_err() || wrong.is_some() || missing.is_some() {
            let text = format!("shard {shard}: by digests {outcome:?}, first {wrong:?}, left out {missing:?}");
            return broken(Rule::NothingAcknowledgedIsLost, text);
        }
        Ok(())
    }
}
