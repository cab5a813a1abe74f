//! The write-ahead log on real files. A stop is a kill: what was written in part stays in part.

use bytes::Bytes;
use creto_store::conformance::{Folder, Handed, Medium, Opened, Random};
use creto_store::{Action, FileSource, Wal, WalConfig, recover};

use crate::node::{NOW_MS, SHARD};

pub(super) struct FileMedium {
    folder: Folder,
    config: WalConfig,
    _files: tempfile::TempDir,
}

impl FileMedium {
    pub(super) fn new(seed: u64) -> Self {
        let files = tempfile::tempdir().unwrap();
        Self { folder: Folder::new(files.path()), config: super::config(seed), _files: files }
    }

    /// The first bytes of a write reach the file.
    fn write_in_part(&self, handed: &Handed, random: &mut Random) {
        if let Action::Write(write) = &handed.action {
            let bytes = random.below(handed.bytes.len() + 1);
            self.folder.write(write.segment(), write.offset(), &handed.bytes[..bytes]).unwrap();
        }
    }
}

impl Medium for FileMedium {
    type Log = Wal;

    const KEEPS: bool = true;

    fn open(&mut self, random: &mut Random) -> Result<Opened<Wal>, String> {
        let mut records = Vec::new();
        let mut source = FileSource::new(self.folder.path());
        let recovered = recover(&mut source, SHARD, |position, record| records.push((position, record)));
        let recovered = recovered.map_err(|error| error.to_string())?;
        let log = Wal::open(self.config.clone(), recovered, random.bits(), NOW_MS);
        Ok(Opened { log, recovered: records })
    }

    fn carry_out(&mut self, _: &Wal, handed: &Handed) -> Bytes {
        self.folder.carry_out(&handed.action).unwrap_or_else(|error| panic!("{:?}: {error}", handed.action))
    }

    fn fail(&mut self, handed: &Handed, random: &mut Random) {
        match &handed.action {
            // Gone, and yet it failed: the folder could not be synced.
            action @ Action::Delete { .. } if random.one_in(2) => drop(self.folder.carry_out(action).unwrap()),
            _ => self.write_in_part(handed, random),
        }
    }

    fn stop(&mut self, under_way: Vec<Handed>, random: &mut Random) {
        for handed in under_way {
            match &handed.action {
                Action::Write(_) => self.write_in_part(&handed, random),
                action if random.one_in(2) => drop(self.folder.carry_out(action).unwrap()),
                _ => {}
            }
        }
    }
}
