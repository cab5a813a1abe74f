//! The write-ahead log on the disk in memory that keeps only what was synced, stopped by kill and by loss of power.

use bytes::Bytes;
use creto_store::conformance::{Handed, Medium, Opened, Random};
use creto_store::{Action, SegmentSource, Wal, WalConfig, recover};

use super::broken::AsDisk;
use crate::disk::{self, Crash, Disk, SECTOR_BYTES};
use crate::node::{NOW_MS, SHARD};

pub(super) struct DiskMedium {
    disk: Disk,
    config: WalConfig,
    /// When late writes of dead processes land.
    random: disk::Random,
}

impl DiskMedium {
    pub(super) fn new(seed: u64) -> Self {
        Self { disk: Disk::default(), config: super::config(seed), random: disk::Random(seed) }
    }

    /// Some sectors of a write reach the cache.
    fn write_in_part(&mut self, handed: &Handed) {
        let Action::Write(write) = &handed.action else { return };
        let one_in = 1 + self.random.below(3);
        for (at, sector) in (0..).zip(handed.bytes.chunks(SECTOR_BYTES)) {
            if self.random.one_in(one_in) {
                self.disk.write(write.segment(), write.offset() + at * SECTOR_BYTES as u64, sector);
            }
        }
    }
}

impl Medium for DiskMedium {
    type Log = Wal;

    const KEEPS: bool = true;

    fn open(&mut self, random: &mut Random) -> Result<Opened<Wal>, String> {
        let mut records = Vec::new();
        let recovered = recover(&mut self.disk, SHARD, |position, record| records.push((position, record)));
        let recovered = recovered.map_err(|error| error.to_string())?;
        let log = Wal::open(self.config.clone(), recovered, random.bits(), NOW_MS);
        Ok(Opened { log, recovered: records })
    }

    fn carry_out(&mut self, _: &Wal, handed: &Handed) -> Bytes {
        if self.random.one_in(4) {
            self.disk.land_late(&mut self.random);
        }
        match &handed.action {
            Action::Write(write) => {
                self.disk.write(write.segment(), write.offset(), &handed.bytes);
                self.disk.sync(write.segment());
            }
            Action::Prepare { segment, bytes, recycle, .. } => self.disk.prepare(*segment, *bytes, *recycle),
            Action::Delete { segment, .. } => self.disk.delete(*segment),
            Action::Shorten { segment, bytes, .. } => self.disk.shorten(*segment, *bytes),
            Action::WriteDigest { segment, digest, .. } => self.disk.write_digest(*segment, digest),
            Action::Read { segment, offset, bytes, .. } => {
                let mut content = vec![0; *bytes];
                let read = self.disk.read(*segment, *offset, &mut content);
                return read.map(|()| content.into()).unwrap_or_default();
            }
        }
        Bytes::new()
    }

    fn fail(&mut self, handed: &Handed, _: &mut Random) {
        match &handed.action {
            Action::Write(_) => self.write_in_part(handed),
            Action::Delete { segment, .. } if self.random.one_in(2) => self.disk.delete(*segment),
            // The file has its new name and the old content, or nothing has happened.
            Action::Prepare { segment, bytes, recycle: Some(recycle), .. } if self.random.one_in(2) => {
                self.disk.prepare(*segment, *bytes, Some(*recycle));
            }
            _ => {}
        }
    }

    fn stop(&mut self, under_way: Vec<Handed>, _: &mut Random) {
        let how = if self.random.one_in(2) { Crash::Kill } else { Crash::Power };
        for handed in under_way {
            match &handed.action {
                Action::Write(write) => match self.random.below(4) {
                    0 => {}
                    1 => self.disk.write(write.segment(), write.offset(), &handed.bytes),
                    2 => self.write_in_part(&handed),
                    _ => self.disk.leave_late(write.segment(), write.offset(), handed.bytes.clone()),
                },
                Action::Prepare { segment, bytes, recycle, .. } if self.random.one_in(2) => {
                    self.disk.prepare(*segment, *bytes, *recycle);
                }
                Action::Delete { segment, .. } if self.random.one_in(2) => self.disk.delete(*segment),
                Action::Shorten { segment, bytes, .. } if self.random.one_in(2) => self.disk.shorten(*segment, *bytes),
                Action::WriteDigest { segment, digest, .. } if self.random.one_in(2) => {
                    self.disk.write_digest(*segment, digest);
                }
                _ => {}
            }
        }
        self.disk.crash(how, &mut self.random);
    }
}

impl AsDisk for DiskMedium {
    fn write_and_not_sync(&mut self, handed: &Handed) -> bool {
        let Action::Write(write) = &handed.action else { return false };
        self.disk.write(write.segment(), write.offset(), &handed.bytes);
        true
    }
}
