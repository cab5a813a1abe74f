//! Reading: statements that both kinds of transactions share, and snapshots.

use std::collections::HashMap;
use std::ops::Bound;
use std::sync::Arc;

use super::link::{Driver, Link, Param};
use super::{SCHEMA, Shared};
use crate::backend::{Order, Reading, Row, Span};
use crate::error::StorageError;
use crate::table::TableRef;

pub(super) fn get(driver: &Driver, link: &Link, table: TableRef, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
    let sql = format!("SELECT value FROM {SCHEMA}.\"{}\" WHERE key = $1", table.name());
    let rows = driver.query(link, sql, vec![Param::Bytes(key.to_vec())])?;
    rows.first().map(|row| driver.column(row, 0)).transpose()
}

pub(super) fn get_many(
    driver: &Driver,
    link: &Link,
    table: TableRef,
    keys: &[Vec<u8>],
) -> Result<HashMap<Vec<u8>, Vec<u8>>, StorageError> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let sql = format!("SELECT key, value FROM {SCHEMA}.\"{}\" WHERE key = ANY($1)", table.name());
    let rows = driver.query(link, sql, vec![Param::Many(keys.to_vec())])?;
    rows.iter().map(|row| Ok((driver.column(row, 0)?, driver.column(row, 1)?))).collect()
}

pub(super) fn page(
    driver: &Driver,
    link: &Link,
    table: TableRef,
    span: &Span,
    order: Order,
    rows_max: usize,
) -> Result<Vec<Row>, StorageError> {
    let (condition, params) = condition(span);
    let order = match order {
        Order::Ascending => "ASC",
        Order::Descending => "DESC",
    };
    let table = table.name();
    let sql = format!("SELECT key, value FROM {SCHEMA}.\"{table}\"{condition} ORDER BY key {order} LIMIT {rows_max}");
    let rows = driver.query(link, sql, params)?;
    rows.iter().map(|row| Ok((driver.column(row, 0)?, driver.column(row, 1)?))).collect()
}

pub(super) fn count(driver: &Driver, link: &Link, table: TableRef) -> Result<u64, StorageError> {
    let sql = format!("SELECT count(*) FROM {SCHEMA}.\"{}\"", table.name());
    let rows = driver.query(link, sql, Vec::new())?;
    let count: i64 = rows.first().map_or(Ok(0), |row| driver.column(row, 0))?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// What a statement asks of keys that lie in a span.
pub(super) fn condition(span: &Span) -> (String, Vec<Param>) {
    let bounds = [(&span.from, [">=", ">"]), (&span.to, ["<=", "<"])];
    let (mut conditions, mut params) = (Vec::new(), Vec::new());
    for (bound, [included, excluded]) in bounds {
        let (operator, key) = match bound {
            Bound::Unbounded => continue,
            Bound::Included(key) => (included, key),
            Bound::Excluded(key) => (excluded, key),
        };
        params.push(Param::Bytes(key.clone()));
        conditions.push(format!("key {operator} ${}", params.len()));
    }
    let condition = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    (condition, params)
}

/// A snapshot.
pub(super) struct Snapshot {
    shared: Arc<Shared>,
    /// `None` once it is dropped.
    link: Option<Link>,
}

impl Snapshot {
    pub(super) fn begin(shared: Arc<Shared>) -> Result<Self, StorageError> {
        // The second statement is what takes the snapshot. It may not be older than what this process knows already.
        const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; ";
        let at_least = shared.known().commits;
        let sql = match shared.incarnation {
            None => format!("{BEGIN}SELECT 1"),
            Some(incarnation) => {
                let hex: String = incarnation.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{BEGIN}SELECT incarnation = decode('{hex}', 'hex'), commits FROM {SCHEMA}._writer")
            }
        };
        let (link, was_used) = shared.reader()?;
        let mut snapshot = Self { shared, link: Some(link) };
        let mut seen = snapshot.look(&sql);
        if was_used && !matches!(seen, Ok((true, found)) if found >= at_least) {
            // The database was started again meanwhile, or another one took its place, which an old connection does not know.
            snapshot.link = None;
            snapshot.link = Some(snapshot.shared.connect()?);
            seen = snapshot.look(&sql);
        }
        let (is_ours, found) = seen?;
        snapshot.shared.learn(at_least, is_ours, found)?;
        Ok(snapshot)
    }

    /// Begins, and says what `_writer` says; whoever only reads does not ask.
    fn look(&self, sql: &str) -> Result<(bool, i64), StorageError> {
        let row = self.shared.driver.begin(self.link(), sql)?;
        if self.shared.incarnation.is_none() {
            return Ok((true, 0));
        }
        let is_ours = row.as_ref().and_then(|row| row.get(0)) == Some("t");
        Ok((is_ours, row.and_then(|row| row.get(1)?.parse().ok()).unwrap_or(0)))
    }

    fn link(&self) -> &Link {
        self.link.as_ref().expect("it is there until it is dropped")
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let link = self.link.take().filter(|link| !link.is_over());
        let Some(link) = link else { return self.shared.put_back(None) };
        let shared = Arc::clone(&self.shared);
        self.shared.driver.spawn(async move {
            let is_fine = link.roll_back().await;
            shared.put_back(is_fine.then_some(link));
        });
    }
}

impl Reading for Snapshot {
    fn get(&self, table: TableRef, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        get(&self.shared.driver, self.link(), table, key)
    }

    fn get_many(&self, table: TableRef, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let found = get_many(&self.shared.driver, self.link(), table, keys)?;
        Ok(keys.iter().map(|key| found.get(key).cloned()).collect())
    }

    fn page(&self, table: TableRef, span: &Span, order: Order, rows_max: usize) -> Result<Vec<Row>, StorageError> {
        if span.is_empty() {
            return Ok(Vec::new());
        }
        page(&self.shared.driver, self.link(), table, span, order, rows_max)
    }

    fn count(&self, table: TableRef) -> Result<u64, StorageError> {
        count(&self.shared.driver, self.link(), table)
    }

    fn table_names(&self) -> Result<Vec<String>, StorageError> {
        self.shared.table_names(self.link())
    }
}
