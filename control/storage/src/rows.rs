//! Tables as typed rows.

use std::fmt;
use std::ops::Bound;
use std::vec;

use crate::backend::{Order, Reading, Row, Span, Writing};
use crate::error::StorageError;
use crate::limits::{KEYS_AT_ONCE_MAX, PAGE_ROWS_MAX};
use crate::table::{Key, Table, TableRef, Value};

/// The rows of one table in one transaction. Cheap to make and to copy.
pub struct Rows<'t, T: ?Sized, K, V> {
    on: &'t T,
    table: Table<K, V>,
}

impl<T: ?Sized, K, V> Clone for Rows<'_, T, K, V> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T: ?Sized, K, V> Copy for Rows<'_, T, K, V> {}

impl<T: ?Sized, K, V> fmt::Debug for Rows<'_, T, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rows").field(&self.table).finish()
    }
}

impl<'r> dyn Reading + 'r {
    /// The rows of a table.
    pub fn table<K: Key, V: Value>(&self, table: Table<K, V>) -> Rows<'_, dyn Reading + 'r, K, V> {
        Rows { on: self, table }
    }
}

impl<'w> dyn Writing + 'w {
    /// The rows of a table.
    pub fn table<K: Key, V: Value>(&self, table: Table<K, V>) -> Rows<'_, dyn Writing + 'w, K, V> {
        Rows { on: self, table }
    }
}

impl<'t, T: Reading + ?Sized, K: Key, V: Value> Rows<'t, T, K, V> {
    /// The value at a key.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be read.
    pub fn get(&self, key: &K::View) -> Result<Option<V>, StorageError> {
        let value = self.on.get(self.table.erased(), &K::to_bytes(key))?;
        value.map(|value| self.value(value)).transpose()
    }

    /// The values at some keys, in their order.
    ///
    /// # Errors
    /// [`StorageError`] when one cannot be read.
    pub fn get_many<'k>(&self, keys: impl IntoIterator<Item = &'k K::View>) -> Result<Vec<Option<V>>, StorageError>
    where
        K::View: 'k,
    {
        let keys: Vec<_> = keys.into_iter().map(K::to_bytes).collect();
        let mut values = Vec::with_capacity(keys.len());
        for keys in keys.chunks(KEYS_AT_ONCE_MAX) {
            for value in self.on.get_many(self.table.erased(), keys)? {
                values.push(value.map(|value| self.value(value)).transpose()?);
            }
        }
        Ok(values)
    }

    /// How many rows there are.
    ///
    /// # Errors
    /// [`StorageError`] when they cannot be counted.
    pub fn count(&self) -> Result<u64, StorageError> {
        self.on.count(self.table.erased())
    }

    /// The row with the greatest key.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be read.
    pub fn last(&self) -> Result<Option<(K, V)>, StorageError> {
        self.all().descending().limit(1).next().transpose()
    }

    fn value(&self, bytes: Vec<u8>) -> Result<V, StorageError> {
        V::parse(bytes).ok_or(StorageError::Row { table: self.table.erased().name() })
    }

    /// All rows.
    pub fn all(&self) -> Scan<'t, T, K, V> {
        self.scan(Span::ALL)
    }

    /// The rows from this key on.
    pub fn from(&self, first: &K::View) -> Scan<'t, T, K, V> {
        self.scan(Span { from: Bound::Included(K::to_bytes(first)), to: Bound::Unbounded })
    }

    /// The rows behind this key.
    pub fn after(&self, key: &K::View) -> Scan<'t, T, K, V> {
        self.scan(Span { from: Bound::Excluded(K::to_bytes(key)), to: Bound::Unbounded })
    }

    /// The rows from `first` to `last`, with both.
    pub fn within(&self, first: &K::View, last: &K::View) -> Scan<'t, T, K, V> {
        self.scan(within::<K>(first, last))
    }

    fn scan(&self, span: Span) -> Scan<'t, T, K, V> {
        Scan { rows: *self, span, order: Order::Ascending, left: usize::MAX, page: Vec::new().into_iter() }
    }
}

fn within<K: Key>(first: &K::View, last: &K::View) -> Span {
    Span { from: Bound::Included(K::to_bytes(first)), to: Bound::Included(K::to_bytes(last)) }
}

impl<T: Writing + ?Sized, K: Key, V: Value> Rows<'_, T, K, V> {
    /// Sets the value at a key.
    ///
    /// # Errors
    /// [`StorageError`] when it cannot be written.
    pub fn put(&self, key: &K::View, value: &V::View) -> Result<(), StorageError> {
        self.on.put(self.table.erased(), &K::to_bytes(key), &V::to_bytes(value))
    }

    /// Sets the value at a key, and says what was there before.
    ///
    /// # Errors
    /// As [`Rows::put`].
    pub fn insert(&self, key: &K::View, value: &V::View) -> Result<Option<V>, StorageError> {
        let before = self.get(key)?;
        self.put(key, value)?;
        Ok(before)
    }

    /// Removes a key, if it is there.
    ///
    /// # Errors
    /// As [`Rows::put`].
    pub fn delete(&self, key: &K::View) -> Result<(), StorageError> {
        self.on.delete(self.table.erased(), &K::to_bytes(key))
    }

    /// Removes a key, and says what was there.
    ///
    /// # Errors
    /// As [`Rows::put`].
    pub fn take(&self, key: &K::View) -> Result<Option<V>, StorageError> {
        let before = self.get(key)?;
        if before.is_some() {
            self.delete(key)?;
        }
        Ok(before)
    }

    /// Removes the keys from `first` to `last`, with both.
    ///
    /// # Errors
    /// As [`Rows::put`].
    pub fn delete_within(&self, first: &K::View, last: &K::View) -> Result<(), StorageError> {
        self.on.delete_span(self.table.erased(), &within::<K>(first, last))
    }

    /// Removes all rows.
    ///
    /// # Errors
    /// As [`Rows::put`].
    pub fn clear(&self) -> Result<(), StorageError> {
        self.on.delete_span(self.table.erased(), &Span::ALL)
    }
}

/// Rows of a table one after the other, read page by page: at most [`PAGE_ROWS_MAX`] of them are held. What the transaction
/// changes behind the page that is held is seen.
pub struct Scan<'t, T: ?Sized, K, V> {
    rows: Rows<'t, T, K, V>,
    /// What was not read yet.
    span: Span,
    order: Order,
    /// Most rows that are still wanted.
    left: usize,
    page: vec::IntoIter<Row>,
}

impl<T: ?Sized, K, V> Scan<'_, T, K, V> {
    /// The same, from the greatest key to the least.
    #[must_use]
    pub fn descending(mut self) -> Self {
        self.order = Order::Descending;
        self
    }

    /// The same, at most so many rows; no more are read than that.
    #[must_use]
    pub fn limit(mut self, rows_max: usize) -> Self {
        self.left = rows_max;
        self
    }
}

impl<T: ?Sized, K, V> fmt::Debug for Scan<'_, T, K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scan").field("table", &self.rows.table).field("span", &self.span).finish_non_exhaustive()
    }
}

impl<T: Reading + ?Sized, K: Key, V: Value> Iterator for Scan<'_, T, K, V> {
    type Item = Result<(K, V), StorageError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        if self.page.len() == 0 {
            match self.read() {
                Ok(page) => self.page = page.into_iter(),
                Err(error) => {
                    self.left = 0;
                    return Some(Err(error));
                }
            }
        }
        let (key, value) = self.page.next()?;
        self.left -= 1;
        let row = K::parse(&key).zip(V::parse(value));
        Some(row.ok_or(StorageError::Row { table: self.rows.table.erased().name() }))
    }
}

impl<T: Reading + ?Sized, K: Key, V: Value> Scan<'_, T, K, V> {
    fn read(&mut self) -> Result<Vec<Row>, StorageError> {
        let rows_max = self.left.min(PAGE_ROWS_MAX);
        let page = page_of(self.rows.on, self.rows.table.erased(), &self.span, self.order, rows_max)?;
        match page.last() {
            Some((last, _)) if page.len() == rows_max => match self.order {
                Order::Ascending => self.span.from = Bound::Excluded(last.clone()),
                Order::Descending => self.span.to = Bound::Excluded(last.clone()),
            },
            // There is nothing behind a page that is not full.
            _ => self.left = page.len(),
        }
        Ok(page)
    }
}

fn page_of<T: Reading + ?Sized>(
    on: &T,
    table: TableRef,
    span: &Span,
    order: Order,
    rows_max: usize,
) -> Result<Vec<Row>, StorageError> {
    if span.is_empty() { Ok(Vec::new()) } else { on.page(table, span, order, rows_max) }
}

/// Copies all rows of a table, and says how many there were.
///
/// # Errors
/// [`StorageError`] of either side, or [`StorageError::Row`].
pub fn copy_rows(from: &dyn Reading, to: &dyn Writing, table: TableRef) -> Result<u64, StorageError> {
    let (mut span, mut copied) = (Span::ALL, 0);
    loop {
        let page = page_of(from, table, &span, Order::Ascending, PAGE_ROWS_MAX)?;
        let Some((last, _)) = page.last() else { return Ok(copied) };
        span.from = Bound::Excluded(last.clone());
        for (key, value) in &page {
            // A file takes only rows of its types.
            if !table.typed.is_row(key, value) {
                return Err(StorageError::Row { table: table.name() });
            }
            to.put(table, key, value)?;
        }
        copied += page.len() as u64;
    }
}
