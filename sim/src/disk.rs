//! The disk of one shard: a page cache that can be lost, a folder that can be lost, and everything that a log must survive.
//!
//! What is promised is what a file system promises and no more. A write lands in the cache some time after it was asked
//! for; it is durable once a sync that began after it landed has succeeded. At a power loss any subset of the sectors that
//! were not synced is there, and of the changes of the folder any prefix. After a failed sync the cache shows what the disk
//! does not have, and no later sync writes it (the pages count as clean).

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;
use creto_store::limits::BLOCK_BYTES;
use creto_store::{Action, ActionId, DiskError, SegmentFile, SegmentNumber, SegmentSource, SourceError, Write};

use crate::digests::Digests;
use crate::fault::{Fault, FaultCounts};
use crate::planted::PlantedBug;
use crate::random::Random;

/// What a disk writes at once or not at all.
pub const SECTOR_BYTES: usize = 512;

/// How a disk of one run behaves. Chances are one in so many; zero is never.
#[derive(Clone, Debug)]
pub(crate) struct DiskHabits {
    /// The usual time of a write without its sync.
    pub(crate) write_us: u64,
    pub(crate) sync_us: u64,
    pub(crate) slow_one_in: u64,
    pub(crate) failed_write_one_in: u64,
    pub(crate) failed_sync_one_in: u64,
    pub(crate) no_space_one_in: u64,
    pub(crate) failed_read_one_in: u64,
    /// A bit of what is read is another one than on the disk.
    pub(crate) flipped_read_one_in: u64,
    /// A file cannot be made, deleted or shortened, for another reason than want of space.
    pub(crate) failed_file_one_in: u64,
    /// The drive writes to a wrong place, writes nothing, or does not sync, and reports success.
    pub(crate) lie_one_in: u64,
}

/// How a machine stops.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Crash {
    Kill,
    Power,
}

/// Names an action that is under way.
pub(crate) type OpNumber = u64;

/// What a step of the disk led to.
#[derive(Debug)]
pub(crate) enum DiskEvent {
    /// The next step of this action, so much later.
    Later(u64),
    /// The driver is told.
    Completed(ActionId, Result<(), DiskError>),
    /// The driver is given what it wanted to read.
    Read(ActionId, Result<Bytes, DiskError>),
    /// These bytes of this segment are durable, whether anybody is told or not; or the drive says so.
    Durable(SegmentNumber, u64, Vec<u8>),
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    inodes: Vec<Inode>,
    /// Files as a process sees them.
    names: BTreeMap<SegmentNumber, usize>,
    /// Files as they are after a power loss.
    durable_names: BTreeMap<SegmentNumber, usize>,
    /// Changes of the folder that are not synced, in order.
    unsynced_names: Vec<NameChange>,
    ops: BTreeMap<OpNumber, Op>,
    next_op: OpNumber,
    pub(crate) digests: Digests,
    /// No file can be made but from another one.
    pub(crate) is_full: bool,
    /// The drive has reported something that is not so.
    pub(crate) has_lied: bool,
    /// It was read with a bit changed since the node was started.
    pub(crate) has_flipped_a_read: bool,
    /// Writes of dead processes that have not landed.
    late: Vec<(usize, usize, Vec<u8>)>,
}

#[derive(Clone, Debug, Default)]
struct Inode {
    /// What a read sees.
    seen: Vec<u8>,
    /// For each sector that is not as the disk has it: what the disk has.
    unsynced: BTreeMap<usize, Unsynced>,
    /// Whether the file's length may be anything up to this after a power loss.
    is_length_unsynced: bool,
    /// What lay behind a new end, until the next sync.
    cut: Vec<u8>,
}

/// What a sector held before it rotted.
#[derive(Debug)]
pub(crate) struct Rot {
    inode: usize,
    at: usize,
    before: [u8; SECTOR_BYTES],
}

#[derive(Clone, Debug)]
struct Unsynced {
    on_disk: [u8; SECTOR_BYTES],
    /// A sync writes it. After a failed sync the page counts as clean, and none does.
    is_dirty: bool,
}

#[derive(Clone, Copy, Debug)]
enum NameChange {
    Link(SegmentNumber, usize),
    /// From, to.
    Rename(SegmentNumber, SegmentNumber),
    Unlink(SegmentNumber),
}

#[derive(Clone, Debug)]
struct Op {
    action: Action,
    /// Of a write: its bytes and the file, as they were when it was issued.
    bytes: Vec<u8>,
    inode: usize,
    phase: Phase,
    /// How it is bound to fail.
    doom: Option<Fault>,
    is_lie: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Issued,
    Landed,
}

impl Disk {
    /// Takes an action; the caller lets [`Disk::step`] follow after the delay that comes back.
    pub(crate) fn begin(
        &mut self,
        action: Action,
        doom: Option<Fault>,
        habits: &DiskHabits,
        run: &mut Chance<'_>,
    ) -> (OpNumber, u64) {
        let (bytes, inode) = match &action {
            Action::Write(write) => (encoded(write), self.names[&write.segment()]),
            _ => (Vec::new(), 0),
        };
        let op = self.next_op;
        self.next_op += 1;
        self.ops.insert(op, Op { action, bytes, inode, phase: Phase::Issued, doom, is_lie: false });
        (op, run.delay(habits.write_us, habits))
    }

    /// Writes that were taken and not reported yet.
    pub(crate) fn writes_under_way(&self) -> usize {
        self.ops.values().filter(|op| matches!(op.action, Action::Write(_))).count()
    }

    /// Goes one step on with an action. Each action has two: it happens, and it is durable.
    pub(crate) fn step(&mut self, number: OpNumber, habits: &DiskHabits, run: &mut Chance<'_>) -> Vec<DiskEvent> {
        let mut op = self.ops.remove(&number).expect("steps of a crashed disk are not taken");
        let events = match op.phase {
            Phase::Issued => self.land(&mut op, habits, run),
            Phase::Landed => self.finish(&mut op, number, habits, run),
        };
        if events.iter().any(|event| matches!(event, DiskEvent::Later(_))) {
            op.phase = Phase::Landed;
            self.ops.insert(number, op);
        }
        events
    }

    /// The drive loses a write, or puts it somewhere else among its files, and says nothing.
    fn lands_wrong(&mut self, inode: usize, bytes: &[u8], habits: &DiskHabits, run: &mut Chance<'_>) -> bool {
        if !run.random.one_in(habits.lie_one_in) {
            return false;
        }
        self.has_lied = true;
        match run.random.below(2) {
            0 => run.faults.add(Fault::VanishedWrite),
            _ => {
                run.faults.add(Fault::MisdirectedWrite);
                let inodes: Vec<usize> = self.names.values().copied().collect();
                let wrong = if run.random.one_in(2) { inode } else { run.random.pick(&inodes) };
                let blocks = self.inodes[wrong].seen.len().saturating_sub(bytes.len()) / BLOCK_BYTES;
                let offset = run.random.index(blocks + 1) * BLOCK_BYTES;
                if self.inodes[wrong].seen.len() >= offset + bytes.len() {
                    self.inodes[wrong].write(offset, bytes);
                }
            }
        }
        true
    }

    fn land(&mut self, op: &mut Op, habits: &DiskHabits, run: &mut Chance<'_>) -> Vec<DiskEvent> {
        let id = op.action.id();
        let mut events = Vec::new();
        match &op.action {
            Action::Write(write) => {
                let offset = in_memory(write.offset());
                if run.is_struck(op.doom, Fault::FailedWrite, habits.failed_write_one_in) {
                    self.write_some(op.inode, offset, &op.bytes, 1 + run.random.below(3), run.random);
                    return vec![DiskEvent::Completed(id, Err(DiskError::Io("input/output error".into())))];
                }
                op.is_lie = self.lands_wrong(op.inode, &op.bytes, habits, run);
                if !op.is_lie {
                    self.inodes[op.inode].write(offset, &op.bytes);
                }
                if run.planted == Some(PlantedBug::AckBeforeSync) {
                    events.push(DiskEvent::Completed(id, Ok(())));
                }
            }
            Action::Prepare { segment, bytes, recycle, .. } => {
                let is_full = run.is_struck(op.doom, Fault::NoSpace, habits.no_space_one_in)
                    || (self.is_full && recycle.is_none());
                if let Some(recycle) = recycle {
                    self.digests.remove(*recycle);
                }
                // A recycled file may have its new name already when the rest of the work fails.
                if !is_full || (recycle.is_some() && run.random.one_in(2)) {
                    self.prepare(*segment, in_memory(*bytes), *recycle);
                }
                if is_full {
                    return vec![DiskEvent::Completed(id, Err(DiskError::NoSpace))];
                }
            }
            Action::WriteDigest { segment, digest, .. } => self.digests.write(*segment, digest),
            Action::Delete { segment, .. } => {
                self.digests.remove(*segment);
                if self.names.remove(segment).is_some() {
                    self.unsynced_names.push(NameChange::Unlink(*segment));
                }
            }
            Action::Shorten { segment, bytes, .. } => {
                let inode = &mut self.inodes[self.names[segment]];
                inode.cut = inode.seen.split_off(in_memory(*bytes).min(inode.seen.len()));
            }
            Action::Read { segment, offset, bytes, .. } => {
                if run.is_struck(op.doom, Fault::FailedColdRead, habits.failed_read_one_in) {
                    return vec![DiskEvent::Read(id, Err(DiskError::Io("read: input/output error".into())))];
                }
                // The file may be gone, or be another segment by now: nobody wants then what was asked for.
                let mut content = self.bytes(*segment, *offset, *bytes).map(<[u8]>::to_vec);
                if let Some(content) =
                    content.as_mut().filter(|_| run.happens(habits.flipped_read_one_in, Fault::FlippedRead))
                {
                    content[run.random.index(*bytes)] ^= 1 << run.random.below(8);
                    self.has_flipped_a_read = true;
                }
                let outcome =
                    content.map(Bytes::from).ok_or_else(|| DiskError::Io(format!("segment {segment} is not there")));
                return vec![DiskEvent::Read(id, outcome)];
            }
        }
        events.push(DiskEvent::Later(run.delay(habits.sync_us, habits)));
        events
    }

    fn finish(&mut self, op: &mut Op, number: OpNumber, habits: &DiskHabits, run: &mut Chance<'_>) -> Vec<DiskEvent> {
        let id = op.action.id();
        if !matches!(op.action, Action::Write(_))
            && run.is_struck(op.doom, Fault::FailedFile, habits.failed_file_one_in)
        {
            return vec![DiskEvent::Completed(id, Err(DiskError::Io("input/output error".into())))];
        }
        match &op.action {
            Action::Write(write) => {
                if run.is_struck(op.doom, Fault::FailedSync, habits.failed_sync_one_in) {
                    self.inodes[op.inode].fail_sync(run.random);
                    return match run.planted {
                        Some(PlantedBug::RetrySync) => vec![DiskEvent::Completed(id, Ok(()))],
                        Some(PlantedBug::AckBeforeSync) => Vec::new(),
                        _ => vec![DiskEvent::Completed(id, Err(DiskError::Io("sync: input/output error".into())))],
                    };
                }
                if run.random.one_in(habits.lie_one_in) {
                    run.faults.add(Fault::LyingSync);
                    self.has_lied = true;
                    op.is_lie = true;
                } else {
                    self.inodes[op.inode].sync();
                }
                if self.ops.range(..number).any(|(_, earlier)| matches!(earlier.action, Action::Write(_))) {
                    run.faults.add(Fault::ReorderedWrite);
                }
                let mut events = Vec::new();
                // A drive that lies calls durable what it reports. Else: another write's failed sync may have taken this one's pages with it: then this sync says nothing of them.
                if self.has_lied || self.inodes[op.inode].is_on_disk(in_memory(write.offset()), write.bytes()) {
                    events.push(DiskEvent::Durable(write.segment(), write.offset(), std::mem::take(&mut op.bytes)));
                }
                if run.planted != Some(PlantedBug::AckBeforeSync) {
                    events.push(DiskEvent::Completed(id, Ok(())));
                }
                events
            }
            Action::Prepare { segment, .. } => {
                if run.planted != Some(PlantedBug::SkipFolderSync) {
                    self.sync_folder();
                }
                self.inodes[self.names[segment]].is_length_unsynced = false;
                vec![DiskEvent::Completed(id, Ok(()))]
            }
            Action::Delete { .. } => {
                self.sync_folder();
                vec![DiskEvent::Completed(id, Ok(()))]
            }
            Action::Shorten { .. } | Action::WriteDigest { .. } => vec![DiskEvent::Completed(id, Ok(()))],
            Action::Read { .. } => unreachable!("a read has one step"),
        }
    }

    fn prepare(&mut self, segment: SegmentNumber, bytes: usize, recycle: Option<SegmentNumber>) {
        let change = match recycle {
            Some(recycle) => {
                assert!(self.names.contains_key(&recycle), "segment {recycle} is to be recycled, and is not there");
                NameChange::Rename(recycle, segment)
            }
            None => {
                self.inodes.push(Inode { seen: vec![0; bytes], is_length_unsynced: true, ..Inode::default() });
                NameChange::Link(segment, self.inodes.len() - 1)
            }
        };
        change.apply(&mut self.names);
        self.unsynced_names.push(change);
        assert_eq!(self.inodes[self.names[&segment]].seen.len(), bytes, "only whole segments are recycled");
    }

    fn sync_folder(&mut self) {
        for change in self.unsynced_names.drain(..) {
            change.apply(&mut self.durable_names);
        }
    }

    /// Lands some sectors of a write: on average one in `one_in`.
    fn write_some(&mut self, inode: usize, offset: usize, bytes: &[u8], one_in: u64, random: &mut Random) -> usize {
        let mut landed = 0;
        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if random.one_in(one_in) {
                self.inodes[inode].write(offset + index * SECTOR_BYTES, sector);
                landed += 1;
            }
        }
        landed
    }

    /// The machine stops between two steps.
    pub(crate) fn crash(&mut self, how: Crash, run: &mut Chance<'_>) {
        self.has_flipped_a_read = false;
        let ops = std::mem::take(&mut self.ops);
        for op in ops.into_values() {
            if let (Action::WriteDigest { segment, .. }, Crash::Power) = (&op.action, how) {
                self.digests.remove(*segment);
            }
            let Action::Write(write) = &op.action else { continue };
            if op.phase == Phase::Landed {
                continue;
            }
            let offset = in_memory(write.offset());
            match how {
                Crash::Kill => self.late.push((op.inode, offset, op.bytes)),
                // On its way into the drive: some of it may have arrived. The rest of this function drops more.
                Crash::Power => {
                    self.write_some(op.inode, offset, &op.bytes, 1 + run.random.below(4), run.random);
                }
            }
        }
        if how == Crash::Kill {
            return;
        }
        self.late.clear();
        let kept_changes = run.random.index(self.unsynced_names.len() + 1);
        for change in self.unsynced_names.drain(..).take(kept_changes) {
            change.apply(&mut self.durable_names);
        }
        self.names = self.durable_names.clone();
        for inode in &mut self.inodes {
            inode.lose_power(run);
        }
    }

    /// Some writes of dead processes land, whole or in part, where they were meant to go.
    pub(crate) fn land_late(&mut self, run: &mut Chance<'_>) {
        for (inode, offset, bytes) in std::mem::take(&mut self.late) {
            match run.random.below(8) {
                0 => {}
                // A while later: its file may have got another use meanwhile.
                1..=5 => self.late.push((inode, offset, bytes)),
                _ => {
                    let one_in = 1 + run.random.below(2);
                    let room = self.inodes[inode].seen.len().saturating_sub(offset) / SECTOR_BYTES * SECTOR_BYTES;
                    let bytes = &bytes[..bytes.len().min(room)];
                    if self.write_some(inode, offset, bytes, one_in, run.random) > 0 {
                        run.faults.add(Fault::LateWrite);
                    }
                }
            }
        }
    }

    /// Bytes of a segment as a read sees them; `None` when its file was given away meanwhile, as a log does that was told
    /// too early that its writes are durable.
    pub(crate) fn bytes(&self, segment: SegmentNumber, offset: u64, length: usize) -> Option<&[u8]> {
        let start = in_memory(offset);
        self.inodes[*self.names.get(&segment)?].seen.get(start..start + length)
    }

    /// A segment as a process sees it.
    pub(crate) fn file(&self, segment: SegmentNumber) -> Option<&[u8]> {
        Some(&self.inodes[*self.names.get(&segment)?].seen)
    }

    /// One sector that is durable changes for good where it lies; what it was comes back, to be restored.
    pub(crate) fn rot(&mut self, random: &mut Random) -> Option<Rot> {
        let inodes: Vec<usize> = self.names.values().copied().collect();
        if inodes.is_empty() {
            return None;
        }
        let inode = random.pick(&inodes);
        let sector = random.index((self.inodes[inode].seen.len() / SECTOR_BYTES).max(1));
        let at = sector * SECTOR_BYTES;
        if self.inodes[inode].unsynced.contains_key(&sector) {
            return None;
        }
        let place = self.inodes[inode].seen.get_mut(at..at + SECTOR_BYTES)?;
        let before: [u8; SECTOR_BYTES] = place.try_into().expect("a whole sector");
        match random.below(3) {
            0 => place.fill(0),
            _ => place[random.index(SECTOR_BYTES)] ^= 1 << random.below(8),
        }
        Some(Rot { inode, at, before })
    }

    /// Somebody has brought back what rotted.
    pub(crate) fn restore(&mut self, rot: &Rot) {
        self.inodes[rot.inode].seen[rot.at..rot.at + SECTOR_BYTES].copy_from_slice(&rot.before);
    }

    /// What would be left if the power failed now and every doubtful sector were lost.
    pub(crate) fn durable_image(&self) -> Image {
        let files = self.durable_names.iter().map(|(&number, &inode)| {
            let inode = &self.inodes[inode];
            let mut bytes = inode.seen.clone();
            for (&sector, unsynced) in &inode.unsynced {
                let at = sector * SECTOR_BYTES;
                if let Some(place) = bytes.get_mut(at..at + SECTOR_BYTES) {
                    place.copy_from_slice(&unsynced.on_disk);
                }
            }
            (number, bytes)
        });
        Image { files: files.collect() }
    }

    /// A copy of what a process reads now.
    pub(crate) fn image(&self) -> Image {
        let files = self.names.iter().map(|(&number, &inode)| (number, self.inodes[inode].seen.clone()));
        Image { files: files.collect() }
    }
}

impl Inode {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let (first, last) = (offset / SECTOR_BYTES, (offset + bytes.len()) / SECTOR_BYTES);
        assert!(offset.is_multiple_of(SECTOR_BYTES) && bytes.len().is_multiple_of(SECTOR_BYTES), "whole sectors only");
        for sector in first..last {
            let at = sector * SECTOR_BYTES;
            let on_disk = self.seen[at..at + SECTOR_BYTES].try_into().expect("a whole sector");
            // What the disk has is older than everything in the cache.
            self.unsynced.entry(sector).or_insert(Unsynced { on_disk, is_dirty: true }).is_dirty = true;
        }
        self.seen[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    fn sync(&mut self) {
        self.unsynced.retain(|_, unsynced| !unsynced.is_dirty);
        self.is_length_unsynced = false;
        self.cut.clear();
    }

    fn is_on_disk(&self, offset: usize, length: usize) -> bool {
        self.unsynced.range(offset / SECTOR_BYTES..(offset + length) / SECTOR_BYTES).next().is_none()
    }

    /// Some dirty sectors were written, the others never will be: the cache calls all of them clean.
    fn fail_sync(&mut self, random: &mut Random) {
        let one_in = 1 + random.below(4);
        self.unsynced.retain(|_, unsynced| !unsynced.is_dirty || !random.one_in(one_in));
        for unsynced in self.unsynced.values_mut() {
            unsynced.is_dirty = false;
        }
    }

    fn lose_power(&mut self, run: &mut Chance<'_>) {
        if !self.cut.is_empty() {
            let tail = std::mem::take(&mut self.cut);
            if run.random.one_in(2) {
                self.seen.extend_from_slice(&tail);
            }
        }
        let written = self.unsynced.len();
        let one_in = run.random.below(4);
        let mut kept = 0;
        for (sector, unsynced) in std::mem::take(&mut self.unsynced) {
            if unsynced.is_dirty && run.random.one_in(one_in) {
                kept += 1;
                continue;
            }
            let at = sector * SECTOR_BYTES;
            if let Some(place) = self.seen.get_mut(at..at + SECTOR_BYTES) {
                place.copy_from_slice(&unsynced.on_disk);
            }
        }
        if written > 0 && kept == 0 {
            run.faults.add(Fault::LostWrite);
        } else if kept < written {
            run.faults.add(Fault::TornWrite);
        }
        if std::mem::take(&mut self.is_length_unsynced) {
            let sectors = self.seen.len() / SECTOR_BYTES;
            self.seen.truncate(run.random.index(sectors + 1) * SECTOR_BYTES);
        }
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<SegmentNumber, usize>) {
        match self {
            Self::Link(segment, inode) => {
                names.insert(segment, inode);
            }
            Self::Rename(from, to) => {
                if let Some(inode) = names.remove(&from) {
                    names.insert(to, inode);
                }
            }
            Self::Unlink(segment) => {
                names.remove(&segment);
            }
        }
    }
}

/// What decides in a step: chance, the bug that is planted, and the list of what was done.
#[derive(Debug)]
pub(crate) struct Chance<'r> {
    pub(crate) random: &'r mut Random,
    pub(crate) faults: &'r mut FaultCounts,
    pub(crate) planted: Option<PlantedBug>,
}

impl Chance<'_> {
    /// Whether this happens to an action: because it is bound to, or by chance.
    fn is_struck(&mut self, doom: Option<Fault>, fault: Fault, one_in: u64) -> bool {
        if doom == Some(fault) {
            self.faults.add(fault);
            return true;
        }
        self.happens(one_in, fault)
    }

    fn happens(&mut self, one_in: u64, fault: Fault) -> bool {
        let happens = self.random.one_in(one_in);
        if happens {
            self.faults.add(fault);
        }
        happens
    }

    fn delay(&mut self, usual_us: u64, habits: &DiskHabits) -> u64 {
        let factor = if self.happens(habits.slow_one_in, Fault::SlowDisk) { 50 } else { 1 };
        self.random.between(usual_us / 2 + 1, usual_us * 2 + 1) * factor
    }
}

/// A copy of the files of a log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Image {
    pub(crate) files: BTreeMap<SegmentNumber, Vec<u8>>,
}

impl SegmentSource for Image {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        Ok(self.files.iter().map(|(&number, bytes)| SegmentFile { number, bytes: bytes.len() as u64 }).collect())
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        read(self.files.get(&segment).map(Vec::as_slice), segment, offset, out)
    }
}

/// Reads the files of a disk; after `reads_left` reads, the next one fails.
#[derive(Debug)]
pub(crate) struct DiskSource<'d> {
    pub(crate) disk: &'d Disk,
    pub(crate) reads_left: Option<u64>,
    pub(crate) has_failed: bool,
    pub(crate) reads: u64,
}

impl<'d> DiskSource<'d> {
    pub(crate) fn new(disk: &'d Disk) -> Self {
        Self { disk, reads_left: None, has_failed: false, reads: 0 }
    }
}

impl SegmentSource for DiskSource<'_> {
    fn segments(&mut self) -> Result<Vec<SegmentFile>, SourceError> {
        let file = |(&number, &inode): (&SegmentNumber, &usize)| SegmentFile {
            number,
            bytes: self.disk.inodes[inode].seen.len() as u64,
        };
        Ok(self.disk.names.iter().map(file).collect())
    }

    fn digests(&mut self) -> Result<Vec<SegmentNumber>, SourceError> {
        Ok(self.disk.digests.segments())
    }

    fn read_digest(&mut self, segment: SegmentNumber) -> Result<Bytes, SourceError> {
        let action = format!("read the digest of segment {segment}");
        self.disk.digests.read(segment).ok_or(SourceError { action, error: io::ErrorKind::NotFound.into() })
    }

    fn read(&mut self, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
        self.reads += 1;
        if let Some(left) = &mut self.reads_left {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => {
                    self.has_failed = true;
                    let error = io::Error::other("input/output error");
                    return Err(SourceError { action: format!("read segment {segment}"), error });
                }
            }
        }
        let inode = self.disk.names.get(&segment).map(|&inode| &self.disk.inodes[inode]);
        read(inode.map(|inode| inode.seen.as_slice()), segment, offset, out)
    }
}

fn read(file: Option<&[u8]>, segment: SegmentNumber, offset: u64, out: &mut [u8]) -> Result<(), SourceError> {
    let start = in_memory(offset);
    match file.and_then(|file| file.get(start..start + out.len())) {
        Some(bytes) => {
            out.copy_from_slice(bytes);
            Ok(())
        }
        None => {
            Err(SourceError { action: format!("read segment {segment}"), error: io::ErrorKind::UnexpectedEof.into() })
        }
    }
}

fn encoded(write: &Write) -> Vec<u8> {
    let mut bytes = vec![0; write.bytes()];
    write.encode_into(&mut bytes);
    bytes
}

fn in_memory(bytes: u64) -> usize {
    usize::try_from(bytes).expect("a simulated disk is small")
}
