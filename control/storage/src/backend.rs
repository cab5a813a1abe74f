//! What a back end does. Keys and values are bytes here; `rows.rs` gives them their types.

use std::fmt;
use std::ops::Bound;

use crate::error::StorageError;
use crate::table::TableRef;

/// A row: the bytes of its key, and those of its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// In which order rows are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Order {
    /// The least key first.
    Ascending,
    /// The greatest key first.
    Descending,
}

/// Which keys: from where, to where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Span {
    /// The least.
    pub from: Bound<Vec<u8>>,
    /// The greatest.
    pub to: Bound<Vec<u8>>,
}

impl Span {
    /// All of them.
    pub const ALL: Self = Self { from: Bound::Unbounded, to: Bound::Unbounded };

    /// Whether no key can lie in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => from >= to,
        }
    }
}

/// Where tables are kept.
pub trait Backend: Send + Sync + fmt::Debug {
    /// What it is, for messages: the path of a file, or a database without its password.
    fn place(&self) -> String;

    /// A snapshot of what was committed last. It waits for no writer, and sees nothing that is committed later.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be read now.
    fn begin_read(&self) -> Result<Box<dyn Reading>, StorageError>;

    /// A transaction. There is one at a time: it waits for the one before.
    ///
    /// # Errors
    /// [`StorageError`] when nothing can be written now.
    fn begin_write(&self) -> Result<Box<dyn Writing>, StorageError>;

    /// Whether this process is still the one that writes, and what it knows of is all that is stored. It waits for a transaction that
    /// is under way.
    ///
    /// # Errors
    /// [`StorageError`]: it is not, or nobody can say.
    fn verify(&self) -> Result<(), StorageError>;

    /// Makes sure that these tables are there.
    ///
    /// # Errors
    /// [`StorageError`], also when one is there with other types.
    fn create(&self, tables: &[TableRef]) -> Result<(), StorageError>;
}

/// A state of all tables.
pub trait Reading: Send {
    /// The value at a key.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be read.
    fn get(&self, table: TableRef, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError>;

    /// The values at some keys, at most [`KEYS_AT_ONCE_MAX`](crate::limits::KEYS_AT_ONCE_MAX), in their order.
    ///
    /// # Errors
    /// As [`Reading::get`].
    fn get_many(&self, table: TableRef, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError>;

    /// The first rows of a span in this order, at most `rows_max`.
    ///
    /// # Errors
    /// As [`Reading::get`].
    fn page(&self, table: TableRef, span: &Span, order: Order, rows_max: usize) -> Result<Vec<Row>, StorageError>;

    /// How many rows there are.
    ///
    /// # Errors
    /// As [`Reading::get`].
    fn count(&self, table: TableRef) -> Result<u64, StorageError>;

    /// The names of all tables.
    ///
    /// # Errors
    /// As [`Reading::get`].
    fn table_names(&self) -> Result<Vec<String>, StorageError>;
}

/// A state of all tables that is being changed. Dropped, it changes nothing.
pub trait Writing: Reading {
    /// Sets the value at a key.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be written. A change that comes after may say so, or the commit.
    fn put(&self, table: TableRef, key: &[u8], value: &[u8]) -> Result<(), StorageError>;

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// As [`Writing::put`].
    fn delete(&self, table: TableRef, key: &[u8]) -> Result<(), StorageError>;

    /// Removes all keys of a span.
    ///
    /// # Errors
    /// As [`Writing::put`].
    fn delete_span(&self, table: TableRef, span: &Span) -> Result<(), StorageError>;

    /// Makes the changes durable, all of them or none.
    ///
    /// # Errors
    /// [`StorageError`]: none of them is made. [`StorageError::OutcomeUnknown`]: nobody knows; whoever keeps the tables in memory
    /// loads them again.
    fn commit(self: Box<Self>) -> Result<(), StorageError>;

    /// Gives the changes up.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be known that they are; they are not made in any case.
    fn abort(self: Box<Self>) -> Result<(), StorageError>;
}
