//! A disk in memory that can be told to refuse.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use creto_envelope::TrustDomain;
use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend};

use super::Storage;

#[derive(Debug)]
struct FaultyDisk {
    disk: InMemoryBackend,
    is_broken: Arc<AtomicBool>,
}

impl FaultyDisk {
    fn check(&self) -> io::Result<()> {
        if self.is_broken.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl StorageBackend for FaultyDisk {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.disk.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check()?;
        self.disk.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.check()?;
        self.disk.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.check()?;
        self.disk.write(offset, data)
    }
}

/// A storage, and the switch that breaks its disk.
pub(crate) fn storage() -> (Storage, Arc<AtomicBool>) {
    let is_broken = Arc::new(AtomicBool::new(false));
    let disk = FaultyDisk { disk: InMemoryBackend::new(), is_broken: Arc::clone(&is_broken) };
    let database = Database::builder().create_with_backend(disk).unwrap();
    let storage = Storage::with_database(database, Path::new("memory"), &TrustDomain::default()).unwrap();
    (storage, is_broken)
}
