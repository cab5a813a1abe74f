//! A disk in memory that keeps only what it promised: what was synced. The rest may land, land in part, or land late.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use creto_store::{Digest, SegmentFile, SegmentNumber, SegmentSource, SourceError};

pub(crate) const SECTOR_BYTES: usize = 512;

/// Random numbers from a seed (splitmix64), the same on every machine.
#[derive(Clone)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub(crate) fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }
}

#[derive(Clone, Default)]
struct Inode {
    /// What survives a loss of power.
    synced: Vec<u8>,
    /// What a read sees.
    seen: Vec<u8>,
    /// Written since the last sync, in order.
    unsynced: Vec<(usize, Vec<u8>)>,
}

/// How the machine stops.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Crash {
    /// The process dies. What was written stays readable; writes that were under way may land later.
    Kill,
    /// The power fails. Of what was not synced, any subset of sectors is there.
    Power,
}

#[derive(Clone, Default)]
pub(crate) struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<SegmentNumber, usize>,
    /// Digests, which are there as a whole or not at all, as far as a crash goes.
    digests: BTreeMap<SegmentNumber, Vec<u8>>,
    /// Writes of dead processes that have not landed.
    late: Vec<(usize, usize, Vec<u8>)>,
}

impl Disk {
    pub(crate) fn prepare(&mut self, segment: SegmentNumber, bytes: u64, recycle: Option<SegmentNumber>) {
        if let Some(recycle) = recycle {
            assert!(self.names.contains_key(&recycle), "segment {recycle} is to be recycled, and is not there");
            self.digests.remove(&recycle);
        }
        let inode = match recycle.and_then(|recycle| self.names.remove(&recycle)) {
            Some(inode) => inode,
            None => {
                let zeros = vec![0; bytes as usize];
                self.inodes.push(Inode { synced: zeros.clone(), seen: zeros, unsynced: Vec::new() });
                self.inodes.len() - 1
            }
        };
        assert_eq!(self.inodes[inode].seen.len() as u64, bytes, "only whole segments are recycled");
        self.names.insert(segment, inode);
    }

    pub(crate) fn write_digest(&mut self, segment: SegmentNumber, digest: &Digest) {
        assert!(self.names.contains_key(&segment), "a digest lies beside its segment");
        self.digests.insert(segment, digest.pieces().concat());
    }

    /// The digests, to look at and to damage.
    pub(crate) fn digests_mut(&mut self) -> &mut BTreeMap<SegmentNumber, Vec<u8>> {
        &mut self.digests
    }

    /// Something happens to a digest: it is lost, cut, changed, or another's.
    pub(crate) fn damage_digest(&mut self, random: &mut Random) {
        let Some(segment) = self.digests.keys().nth(random.below(self.digests.len().max(1))).copied() else { return };
        let another = self.digests.values().nth(random.below(self.digests.len())).cloned().unwrap();
        let digest = self.digests.get_mut(&segment).unwrap();
        let at = random.below(digest.len());
        match random.below(5) {
            0 => drop(self.digests.remove(&segment)),
            1 => digest.truncate(at),
            2 => digest[at] ^= 1 << random.below(8),
            3 => digest[at / SECTOR_BYTES * SECTOR_BYTES..].fill(0),
            _ => *digest = another,
        }
    }

    pub(crate) fn delete(&mut self, segment: SegmentNumber) {
        self.digests.remove(&segment);
        self.names.remove(&segment);
    }

    pub(crate) fn shorten(&mut self, segment: SegmentNumber, bytes: u64) {
        let inode = &mut self.inodes[self.names[&segment]];
        inode.seen.truncate(bytes as usize);
        // Writes of a killed process may still be there, behind the end that recovery found.
        for (offset, write) in &mut inode.unsynced {
            write.truncate((bytes as usize).saturating_sub(*offset));
        }
        inode.unsynced.retain(|(_, write)| !write.is_empty());
        inode.synced.truncate(bytes as usize);
    }

    pub(crate) fn write(&mut self, segment: SegmentNumber, offset: u64, bytes: &[u8]) {
        let inode = self.names[&segment];
        self.write_inode(inode, offset as usize, bytes);
    }

    pub(crate) fn sync(&mut self, segment: SegmentNumber) {
        let inode = &mut self.inodes[self.names[&segment]];
        inode.synced.clone_from(&inode.seen);
        inode.unsynced.clear();
    }

    /// Writes that were issued and have not reached the disk when the process dies.
    pub(crate) fn leave_late(&mut self, segment: SegmentNumber, offset: u64, bytes: Vec<u8>) {
        if let Some(&inode) = self.names.get(&segment) {
            self.late.push((inode, offset as usize, bytes));
        }
    }

    /// Some late writes of dead processes land, whole or in part, where they were meant to go.
    pub(crate) fn land_late(&mut self, random: &mut Random) {
        for (inode, offset, bytes) in std::mem::take(&mut self.late) {
            match random.below(4) {
                0 => {}
                1 => self.late.push((inode, offset, bytes)),
                _ => {
                    for (at, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                        let start = offset + at * SECTOR_BYTES;
                        if !random.one_in(4) && start + sector.len() <= self.inodes[inode].seen.len() {
                            self.write_inode(inode, start, sector);
                        }
                    }
                }
            }
        }
    }

    pub(crate) fn crash(&mut self, how: Crash, random: &mut Random) {
        if how == Crash::Kill {
            return;
        }
        self.late.clear();
        for inode in &mut self.inodes {
            let lands_one_in = 1 + random.below(3);
            for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
                for (at, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let start = offset + at * SECTOR_BYTES;
                    if random.one_in(lands_one_in) {
                        inode.synced[start..start + sector.len()].copy_from_slice(sector);
                    }
                }
            }
            inode.seen.clone_from(&inode.synced);
        }
    }

    /// The bytes of a segment, to look at and to damage.
    pub(crate) fn bytes_mut(&mut self, segment: SegmentNumber) -> &mut Vec<u8> {
        &mut self.inodes[self.names[&segment]].seen
    }

    pub(crate) fn names(&self) -> Vec<SegmentNumber> {
        self.names.keys().copied().collect()
    }

    fn write_inode(&mut self, inode: usize, offset: usize, bytes: &[u8]) {
        let inode = &mut self.inodes[inode];
        inode.seen[offset..offset + bytes.len()].copy_from_slice(bytes);
        inode.unsynced.push((offset, bytes.to_vec()));
    }
}

impl SegmentSource for Disk {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        let file = |(&number, &inode): (&SegmentNumber, &usize)| SegmentFile {
            number,
            bytes: self.inodes[inode].seen.len() as u64,
        };
        Ok(self.names.iter().map(file).collect())
    }

    fn digests(&mut self) -> Result<Vec<SegmentNumber>, SourceError> {
        Ok(self.digests.keys().copied().collect())
    }

    fn read_digest(&mut self, segment: SegmentNumber) -> Result<Bytes, SourceError> {
        Ok(Bytes::from(self.digests[&segment].clone()))
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        let action = || format!("read segment {segment}");
        let inode = self.names.get(&segment).map(|&inode| &self.inodes[inode]);
        let start = offset as usize;
        let bytes = inode.and_then(|inode| inode.seen.get(start..start + out.len()));
        match bytes {
            Some(bytes) => {
                out.copy_from_slice(bytes);
                Ok(())
            }
            None => Err(SourceError { action: action(), error: io::ErrorKind::UnexpectedEof.into() }),
        }
    }
}
