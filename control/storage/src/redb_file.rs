//! Tables in one redb file.
//!
//! The file has the types that it always had; their bytes differ from [`Key`]'s in the order of a number's bytes only. A commit is
//! durable (fsync) and two-phase, so that no choice of stored bytes can make a torn commit look whole.

use std::borrow::Cow;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::marker::PhantomData;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use redb::backends::InMemoryBackend;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, ReadableTable,
    ReadableTableMetadata, StorageBackend, TableDefinition, TableError, TableHandle, Value as _, WriteTransaction,
};

use crate::backend::{Backend, Order, Reading, Row, Span, Writing};
use crate::error::StorageError;
use crate::limits::FILE_CACHE_BYTES;
use crate::table::{Key, TableRef, Value};

/// An open file. Cheap reads of the last committed state, one writer.
pub struct RedbFile {
    database: Opened,
    path: PathBuf,
}

enum Opened {
    Database(Box<Database>),
    ReadOnly(Box<ReadOnlyDatabase>),
}

impl RedbFile {
    /// Opens or creates the file, readable by its owner only.
    ///
    /// # Errors
    /// [`StorageError::InUse`], or that the file cannot be had.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let failed = |what| move |source| StorageError::File { what, path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed("open"))?;
        let mut builder = Database::builder();
        builder.set_cache_size(FILE_CACHE_BYTES);
        let database = builder.create_file(file).map_err(|error| database_error(path, error))?;
        // The file's name must be durable before the first answer is, or a crash loses the file with all it holds.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))?;
        Ok(Self::of(database, path))
    }

    /// Makes a new file, readable by its owner only, in the place of what was there. Writing it takes so many bytes of memory.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be made.
    pub fn replace(path: &Path, cache_bytes: usize) -> Result<Self, StorageError> {
        let failed = |what| move |source| StorageError::File { what, path: path.to_owned(), source };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace")(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed("create"))?;
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        Ok(Self::of(builder.create_file(file).map_err(StorageError::redb)?, path))
    }

    /// On another disk than a file, for tests.
    ///
    /// # Errors
    /// [`StorageError`] of that disk.
    pub fn with_disk(disk: impl StorageBackend) -> Result<Self, StorageError> {
        let database = Database::builder().create_with_backend(disk).map_err(StorageError::redb)?;
        Ok(Self::of(database, Path::new("memory")))
    }

    /// Reads a file that no process has open; it stays as it is, to the last byte.
    ///
    /// # Errors
    /// [`StorageError::InUse`], or that the file cannot be had.
    pub fn read_only(path: &Path) -> Result<Self, StorageError> {
        let database = match ReadOnlyDatabase::open(path) {
            Ok(database) => Opened::ReadOnly(Box::new(database)),
            // Its process was killed. What redb would repair when it is opened is repaired here in a copy.
            Err(DatabaseError::RepairAborted) => {
                let failed = |what| move |source| StorageError::File { what, path: path.to_owned(), source };
                let bytes = std::fs::read(path).map_err(failed("read"))?;
                let copy = InMemoryBackend::new();
                let copied = copy.set_len(bytes.len() as u64).and_then(|()| copy.write(0, &bytes));
                copied.map_err(failed("copy into memory"))?;
                let database = Database::builder().create_with_backend(copy).map_err(StorageError::redb)?;
                Opened::Database(Box::new(database))
            }
            Err(other) => return Err(database_error(path, other)),
        };
        Ok(Self { database, path: path.to_owned() })
    }

    fn of(database: Database, path: &Path) -> Self {
        Self { database: Opened::Database(Box::new(database)), path: path.to_owned() }
    }

    /// Gives back the space that is not needed.
    ///
    /// # Errors
    /// [`StorageError`] of the disk.
    pub fn compact(&mut self) -> Result<(), StorageError> {
        match &mut self.database {
            Opened::Database(database) => database.compact().map(drop).map_err(StorageError::redb),
            Opened::ReadOnly(_) => Ok(()),
        }
    }
}

fn database_error(path: &Path, error: DatabaseError) -> StorageError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StorageError::InUse(path.to_owned()),
        other => StorageError::redb(other),
    }
}

impl fmt::Debug for RedbFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RedbFile").field(&self.path).finish()
    }
}

impl Backend for RedbFile {
    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn begin_read(&self) -> Result<Box<dyn Reading>, StorageError> {
        let transaction = match &self.database {
            Opened::Database(database) => database.begin_read(),
            Opened::ReadOnly(database) => database.begin_read(),
        };
        Ok(Box::new(Transaction::Read(transaction.map_err(StorageError::redb)?)))
    }

    fn begin_write(&self) -> Result<Box<dyn Writing>, StorageError> {
        let Opened::Database(database) = &self.database else {
            let source = std::io::ErrorKind::ReadOnlyFilesystem.into();
            return Err(StorageError::File { what: "write to", path: self.path.clone(), source });
        };
        let mut transaction = database.begin_write().map_err(StorageError::redb)?;
        transaction.set_durability(Durability::Immediate).map_err(StorageError::redb)?;
        transaction.set_two_phase_commit(true);
        // Which pages are free is written with each commit. Without, whoever opens the file after a crash reads all of it to know: half a
        // minute for a million agents.
        transaction.set_quick_repair(true);
        Ok(Box::new(Transaction::Write(transaction)))
    }

    fn verify(&self) -> Result<(), StorageError> {
        // The file is locked for as long as it is open.
        Ok(())
    }

    fn create(&self, tables: &[TableRef]) -> Result<(), StorageError> {
        let reading = self.begin_read()?;
        let there = reading.table_names()?;
        if tables.iter().all(|table| there.iter().any(|name| name == table.name())) {
            // Nothing to write, so nothing to sync; one with other types is refused.
            return tables.iter().try_for_each(|table| reading.count(*table).map(drop));
        }
        drop(reading);
        let transaction = self.begin_write()?;
        for table in tables {
            // It is opened for that, and made if it is not there.
            transaction.count(*table)?;
        }
        transaction.commit()
    }
}

/// Either kind.
#[allow(clippy::large_enum_variant, reason = "there is one for each transaction, in a box of its own")]
pub(crate) enum Transaction {
    Read(ReadTransaction),
    Write(WriteTransaction),
}

impl Transaction {
    fn write(&self) -> &WriteTransaction {
        match self {
            Self::Write(transaction) => transaction,
            Self::Read(_) => unreachable!("only a transaction that writes is given out as one"),
        }
    }
}

impl Reading for Transaction {
    fn get(&self, table: TableRef, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        table.typed.get(self, table.name, key)
    }

    fn get_many(&self, table: TableRef, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        table.typed.get_many(self, table.name, keys)
    }

    fn page(&self, table: TableRef, span: &Span, order: Order, rows_max: usize) -> Result<Vec<Row>, StorageError> {
        table.typed.page(self, table.name, span, order, rows_max)
    }

    fn count(&self, table: TableRef) -> Result<u64, StorageError> {
        table.typed.count(self, table.name)
    }

    fn table_names(&self) -> Result<Vec<String>, StorageError> {
        let name = |table: redb::UntypedTableHandle| table.name().to_owned();
        Ok(match self {
            Self::Read(transaction) => transaction.list_tables().map_err(StorageError::redb)?.map(name).collect(),
            Self::Write(transaction) => transaction.list_tables().map_err(StorageError::redb)?.map(name).collect(),
        })
    }
}

impl Writing for Transaction {
    fn put(&self, table: TableRef, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        table.typed.put(self.write(), table.name, key, value)
    }

    fn delete(&self, table: TableRef, key: &[u8]) -> Result<(), StorageError> {
        table.typed.delete(self.write(), table.name, key)
    }

    fn delete_span(&self, table: TableRef, span: &Span) -> Result<(), StorageError> {
        if span.is_empty() { Ok(()) } else { table.typed.delete_span(self.write(), table.name, span) }
    }

    fn commit(self: Box<Self>) -> Result<(), StorageError> {
        match *self {
            Self::Write(transaction) => transaction.commit().map_err(StorageError::redb),
            Self::Read(_) => unreachable!("only a transaction that writes is given out as one"),
        }
    }

    fn abort(self: Box<Self>) -> Result<(), StorageError> {
        match *self {
            Self::Write(transaction) => transaction.abort().map_err(StorageError::redb),
            Self::Read(_) => unreachable!("only a transaction that writes is given out as one"),
        }
    }
}

/// A table of certain types in the file, whatever they are.
pub(crate) trait TypedTable: Sync {
    /// Whether these bytes are a row of it. A database takes any.
    fn is_row(&self, key: &[u8], value: &[u8]) -> bool;

    fn get(&self, on: &Transaction, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    fn get_many(&self, on: &Transaction, name: &str, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError>;

    fn page(
        &self,
        on: &Transaction,
        name: &str,
        span: &Span,
        order: Order,
        rows_max: usize,
    ) -> Result<Vec<Row>, StorageError>;

    fn count(&self, on: &Transaction, name: &str) -> Result<u64, StorageError>;

    fn put(&self, on: &WriteTransaction, name: &str, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    fn delete(&self, on: &WriteTransaction, name: &str, key: &[u8]) -> Result<(), StorageError>;

    fn delete_span(&self, on: &WriteTransaction, name: &str, span: &Span) -> Result<(), StorageError>;
}

/// See [`TypedTable`].
pub(crate) struct Typed<K, V>(pub(crate) PhantomData<fn() -> (K, V)>);

/// Reads a table of either kind of transaction; one that a reader does not find is empty.
macro_rules! on_table {
    ($on:expr, $name:expr, $absent:expr, |$table:ident| $read:expr) => {
        match $on {
            Transaction::Read(transaction) => match transaction.open_table(Self::definition($name)) {
                Ok($table) => $read,
                Err(TableError::TableDoesNotExist(_)) => Ok($absent),
                Err(other) => Err(StorageError::redb(other)),
            },
            Transaction::Write(transaction) => {
                let $table = transaction.open_table(Self::definition($name)).map_err(StorageError::redb)?;
                $read
            }
        }
    };
}

impl<K: Key, V: Value> Typed<K, V> {
    fn definition(name: &str) -> TableDefinition<'_, K::Redb, V::Redb> {
        TableDefinition::new(name)
    }

    /// A key as the file has it, and back: a number's bytes the other way round.
    fn turned(key: &[u8]) -> Cow<'_, [u8]> {
        match K::NUMBER_BYTES {
            0 => Cow::Borrowed(key),
            bytes => {
                let mut turned = key.to_vec();
                let number_at = turned.len().checked_sub(bytes).expect("a key has the width of its type");
                turned[number_at..].reverse();
                Cow::Owned(turned)
            }
        }
    }

    fn key_of(key: <K::Redb as redb::Value>::SelfType<'_>) -> Vec<u8> {
        Self::turned(K::Redb::as_bytes(&key).as_ref()).into_owned()
    }

    fn value_of(value: <V::Redb as redb::Value>::SelfType<'_>) -> Vec<u8> {
        V::Redb::as_bytes(&value).as_ref().to_vec()
    }

    fn get_in(table: &impl ReadableTable<K::Redb, V::Redb>, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        let key = Self::turned(key);
        let value = table.get(K::Redb::from_bytes(&key)).map_err(StorageError::redb)?;
        Ok(value.map(|value| Self::value_of(value.value())))
    }

    fn page_in(
        table: &impl ReadableTable<K::Redb, V::Redb>,
        span: &Span,
        order: Order,
        rows_max: usize,
    ) -> Result<Vec<Row>, StorageError> {
        let (from, to) = (Self::turned_bound(&span.from), Self::turned_bound(&span.to));
        let bounds = (Self::bound(&from), Self::bound(&to));
        let rows = table.range::<<K::Redb as redb::Value>::SelfType<'_>>(bounds).map_err(StorageError::redb)?;
        let mut page = Vec::new();
        match order {
            Order::Ascending => {
                for row in rows.take(rows_max) {
                    let (key, value) = row.map_err(StorageError::redb)?;
                    page.push((Self::key_of(key.value()), Self::value_of(value.value())));
                }
            }
            Order::Descending => {
                for row in rows.rev().take(rows_max) {
                    let (key, value) = row.map_err(StorageError::redb)?;
                    page.push((Self::key_of(key.value()), Self::value_of(value.value())));
                }
            }
        }
        Ok(page)
    }

    fn turned_bound(bound: &Bound<Vec<u8>>) -> Bound<Cow<'_, [u8]>> {
        bound.as_ref().map(|key| Self::turned(key))
    }

    fn bound<'a>(bound: &'a Bound<Cow<'_, [u8]>>) -> Bound<<K::Redb as redb::Value>::SelfType<'a>> {
        bound.as_ref().map(|key| K::Redb::from_bytes(key))
    }
}

impl<K: Key, V: Value> TypedTable for Typed<K, V> {
    fn is_row(&self, key: &[u8], value: &[u8]) -> bool {
        K::parse(key).is_some() && V::parse(value.to_vec()).is_some()
    }

    fn get(&self, on: &Transaction, name: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        on_table!(on, name, None, |table| Self::get_in(&table, key))
    }

    fn get_many(&self, on: &Transaction, name: &str, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        on_table!(on, name, vec![None; keys.len()], |table| keys.iter().map(|key| Self::get_in(&table, key)).collect())
    }

    fn page(
        &self,
        on: &Transaction,
        name: &str,
        span: &Span,
        order: Order,
        rows_max: usize,
    ) -> Result<Vec<Row>, StorageError> {
        on_table!(on, name, Vec::new(), |table| Self::page_in(&table, span, order, rows_max))
    }

    fn count(&self, on: &Transaction, name: &str) -> Result<u64, StorageError> {
        on_table!(on, name, 0, |table| table.len().map_err(StorageError::redb))
    }

    fn put(&self, on: &WriteTransaction, name: &str, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        let mut table = on.open_table(Self::definition(name)).map_err(StorageError::redb)?;
        let key = Self::turned(key);
        let written = table.insert(K::Redb::from_bytes(&key), V::Redb::from_bytes(value));
        written.map(drop).map_err(StorageError::redb)
    }

    fn delete(&self, on: &WriteTransaction, name: &str, key: &[u8]) -> Result<(), StorageError> {
        let mut table = on.open_table(Self::definition(name)).map_err(StorageError::redb)?;
        let key = Self::turned(key);
        table.remove(K::Redb::from_bytes(&key)).map(drop).map_err(StorageError::redb)
    }

    fn delete_span(&self, on: &WriteTransaction, name: &str, span: &Span) -> Result<(), StorageError> {
        let mut table = on.open_table(Self::definition(name)).map_err(StorageError::redb)?;
        let (from, to) = (Self::turned_bound(&span.from), Self::turned_bound(&span.to));
        let bounds = (Self::bound(&from), Self::bound(&to));
        table.retain_in::<<K::Redb as redb::Value>::SelfType<'_>, _>(bounds, |_, _| false).map_err(StorageError::redb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Table;

    #[test]
    fn a_file_whose_process_was_killed_opens_without_being_read_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("directory.redb");
        let file = RedbFile::open(&path).unwrap();
        let rows: Table<u64, Vec<u8>> = Table::new("rows");
        file.create(&[rows.erased()]).unwrap();
        for number in 0..20_u64 {
            let transaction = file.begin_write().unwrap();
            transaction.table(rows).put(&number, &[7; 9_000]).unwrap();
            transaction.commit().unwrap();
            // What a process that is killed now leaves behind.
            let killed = folder.path().join(format!("killed-{number}.redb"));
            std::fs::copy(&path, &killed).unwrap();
            let mut builder = Database::builder();
            builder.set_repair_callback(move |_| panic!("all of the file has to be read after commit {number}"));
            drop(builder.open(&killed).unwrap());
            let left = RedbFile::open(&killed).unwrap();
            assert_eq!(left.begin_read().unwrap().table(rows).count().unwrap(), number + 1);
        }
    }
}
