//! A disk in memory that can be told to refuse, and a storage that can be told to lose the answer to a commit.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use creto_control_storage::{Backend, Order, Reading, RedbFile, Row, Span, StorageError, TableRef, Writing};
use creto_envelope::TrustDomain;
use redb::StorageBackend;
use redb::backends::InMemoryBackend;

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
    let file = RedbFile::with_disk(disk).unwrap();
    let storage = Storage::with_backend(Box::new(file), &TrustDomain::default()).unwrap();
    (storage, is_broken)
}

/// Every commit is made and said.
pub(crate) const FINE: u8 = 0;
/// The next commit is made, and nobody hears of it.
pub(crate) const DONE: u8 = 1;
/// The next commit is not made, and nobody hears of it.
pub(crate) const NOT_DONE: u8 = 2;
/// Nothing can be begun.
pub(crate) const AWAY: u8 = 3;

#[derive(Debug)]
struct Uncertain {
    file: RedbFile,
    fate: Arc<AtomicU8>,
}

struct UncertainTransaction {
    transaction: Box<dyn Writing>,
    fate: Arc<AtomicU8>,
}

fn away() -> StorageError {
    StorageError::Unreachable { database: "test".to_owned(), cause: "it is away".to_owned() }
}

impl Backend for Uncertain {
    fn place(&self) -> String {
        self.file.place()
    }

    fn begin_read(&self) -> Result<Box<dyn Reading>, StorageError> {
        if self.fate.load(Ordering::Relaxed) == AWAY { Err(away()) } else { self.file.begin_read() }
    }

    fn begin_write(&self) -> Result<Box<dyn Writing>, StorageError> {
        if self.fate.load(Ordering::Relaxed) == AWAY {
            return Err(away());
        }
        Ok(Box::new(UncertainTransaction { transaction: self.file.begin_write()?, fate: Arc::clone(&self.fate) }))
    }

    fn verify(&self) -> Result<(), StorageError> {
        if self.fate.load(Ordering::Relaxed) == AWAY { Err(away()) } else { self.file.verify() }
    }

    fn create(&self, tables: &[TableRef]) -> Result<(), StorageError> {
        self.file.create(tables)
    }
}

impl Reading for UncertainTransaction {
    fn get(&self, table: TableRef, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.transaction.get(table, key)
    }

    fn get_many(&self, table: TableRef, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        self.transaction.get_many(table, keys)
    }

    fn page(&self, table: TableRef, span: &Span, order: Order, rows_max: usize) -> Result<Vec<Row>, StorageError> {
        self.transaction.page(table, span, order, rows_max)
    }

    fn count(&self, table: TableRef) -> Result<u64, StorageError> {
        self.transaction.count(table)
    }

    fn table_names(&self) -> Result<Vec<String>, StorageError> {
        self.transaction.table_names()
    }
}

impl Writing for UncertainTransaction {
    fn put(&self, table: TableRef, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.transaction.put(table, key, value)
    }

    fn delete(&self, table: TableRef, key: &[u8]) -> Result<(), StorageError> {
        self.transaction.delete(table, key)
    }

    fn delete_span(&self, table: TableRef, span: &Span) -> Result<(), StorageError> {
        self.transaction.delete_span(table, span)
    }

    fn commit(self: Box<Self>) -> Result<(), StorageError> {
        match self.fate.load(Ordering::Relaxed) {
            DONE => self.transaction.commit()?,
            NOT_DONE => self.transaction.abort()?,
            _ => return self.transaction.commit(),
        }
        Err(StorageError::OutcomeUnknown { database: "test".to_owned() })
    }

    fn abort(self: Box<Self>) -> Result<(), StorageError> {
        self.transaction.abort()
    }
}

/// A storage, and what becomes of its commits.
pub(crate) fn uncertain_storage() -> (Storage, Arc<AtomicU8>) {
    let fate = Arc::new(AtomicU8::new(FINE));
    let file = RedbFile::with_disk(InMemoryBackend::new()).unwrap();
    let backend = Uncertain { file, fate: Arc::clone(&fate) };
    (Storage::with_backend(Box::new(backend), &TrustDomain::default()).unwrap(), fate)
}
