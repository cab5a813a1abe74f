//! Writing: one transaction at a time, whose changes go to the database in one statement.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::mem;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use super::link::{Driver, Link, Param};
use super::{Place, SCHEMA, Shared, read};
use crate::backend::{Order, Reading, Row, Span, Writing};
use crate::error::StorageError;
use crate::limits::{OUTCOME_TIMEOUT, RECONNECT_PAUSE, UNSENT_BYTES_MAX, UNSENT_ROWS_MAX};
use crate::table::TableRef;

/// The right to write, with the connection for it.
pub(super) struct Seat {
    shared: Arc<Shared>,
    /// `None` when it is lost.
    held: Option<Link>,
}

impl Seat {
    /// Waits until nobody writes, and sees to it that there is a connection.
    pub(super) fn take(shared: Arc<Shared>) -> Result<Self, StorageError> {
        shared.check()?;
        let mut place = shared.writer();
        let place = loop {
            match mem::replace(&mut *place, Place::Taken) {
                Place::Taken => place = shared.writer_is_free.wait(place).unwrap_or_else(PoisonError::into_inner),
                other => {
                    drop(place);
                    break other;
                }
            }
        };
        let mut seat = Self { shared, held: None };
        seat.held = match place {
            Place::Here(link) if !link.is_over() => Some(link),
            _ => Some(seat.shared.take_database()?),
        };
        Ok(seat)
    }

    pub(super) fn link(&self) -> &Link {
        self.held.as_ref().expect("it was connected when it was taken")
    }

    fn driver(&self) -> &Driver {
        &self.shared.driver
    }

    /// Connects again.
    fn renew(&mut self) -> Result<(), StorageError> {
        self.held = None;
        self.held = Some(self.shared.take_database()?);
        Ok(())
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let held = self.held.take().filter(|link| !link.is_over());
        *self.shared.writer() = held.map_or(Place::Empty, Place::Here);
        self.shared.writer_is_free.notify_one();
    }
}

/// A transaction that writes.
pub(super) struct Transaction {
    /// `None` once it is over.
    seat: Option<Seat>,
    /// Changes that the database has not heard of.
    unsent: RefCell<Unsent>,
    /// Rows of tables that were counted, kept up to date.
    counts: RefCell<BTreeMap<&'static str, i64>>,
    is_changed: Cell<bool>,
    is_failed: Cell<bool>,
}

#[derive(Default)]
struct Unsent {
    tables: BTreeMap<&'static str, BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
    rows: usize,
    bytes: usize,
}

const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ";

impl Transaction {
    pub(super) fn begin(mut seat: Seat) -> Result<Self, StorageError> {
        if seat.driver().begin(seat.link(), BEGIN).is_err() {
            // The database was started again meanwhile, which an old connection does not know.
            seat.renew()?;
            seat.driver().begin(seat.link(), BEGIN)?;
        }
        Ok(Self {
            seat: Some(seat),
            unsent: RefCell::default(),
            counts: RefCell::default(),
            is_changed: Cell::new(false),
            is_failed: Cell::new(false),
        })
    }

    fn seat(&self) -> &Seat {
        self.seat.as_ref().expect("a transaction has it until it is over")
    }

    fn on(&self) -> (&Driver, &Link) {
        let seat = self.seat();
        (seat.driver(), seat.link())
    }

    /// Does something that fails the whole transaction if it fails.
    fn attempt<T>(&self, work: impl FnOnce(&Driver, &Link) -> Result<T, StorageError>) -> Result<T, StorageError> {
        if self.is_failed.get() {
            return Err(StorageError::Failed);
        }
        let (driver, link) = self.on();
        work(driver, link).inspect_err(|_| self.is_failed.set(true))
    }

    fn note(&self, table: TableRef, key: &[u8], value: Option<&[u8]>) -> Result<(), StorageError> {
        self.is_changed.set(true);
        let is_full = {
            let mut unsent = self.unsent.borrow_mut();
            unsent.rows += 1;
            unsent.bytes += key.len() + value.map_or(0, <[u8]>::len);
            unsent.tables.entry(table.name()).or_default().insert(key.to_vec(), value.map(<[u8]>::to_vec));
            unsent.rows >= UNSENT_ROWS_MAX || unsent.bytes >= UNSENT_BYTES_MAX
        };
        if is_full { self.send(None) } else { Ok(()) }
    }

    /// Sends what was not sent, in one statement; with the number of the commit, if it is the last.
    fn send(&self, number: Option<i64>) -> Result<(), StorageError> {
        let unsent = mem::take(&mut *self.unsent.borrow_mut());
        if unsent.tables.is_empty() && number.is_none() {
            return Ok(());
        }
        let (mut steps, mut results, mut params, mut tables) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (table, rows) in unsent.tables {
            let (mut keys, mut values, mut gone) = (Vec::new(), Vec::new(), Vec::new());
            for (key, value) in rows {
                match value {
                    Some(value) => {
                        keys.push(key);
                        values.push(value);
                    }
                    None => gone.push(key),
                }
            }
            let step = steps.len();
            if !keys.is_empty() {
                params.extend([Param::Many(keys), Param::Many(values)]);
                let (keys, values) = (params.len() - 1, params.len());
                steps.push(format!(
                    "s{step} AS (INSERT INTO {SCHEMA}.\"{table}\" AS t (key, value) \
                     SELECT * FROM unnest(${keys}, ${values}) \
                     ON CONFLICT (key) DO UPDATE SET value = excluded.value RETURNING (t.xmax = 0) AS is_new)"
                ));
                results.push(format!("(SELECT count(*) FILTER (WHERE is_new) FROM s{step})"));
                tables.push((table, 1));
            }
            let step = steps.len();
            if !gone.is_empty() {
                params.push(Param::Many(gone));
                let keys = params.len();
                steps.push(format!(
                    "s{step} AS (DELETE FROM {SCHEMA}.\"{table}\" WHERE key = ANY(${keys}) RETURNING 1)"
                ));
                results.push(format!("(SELECT count(*) FROM s{step})"));
                tables.push((table, -1));
            }
        }
        if let Some(number) = number {
            let step = steps.len();
            params.extend([Param::Number(number), self.seat().shared.incarnation()]);
            let (number, incarnation) = (params.len() - 1, params.len());
            steps.push(format!(
                "s{step} AS (UPDATE {SCHEMA}._writer SET commits = ${number} \
                 WHERE incarnation = ${incarnation} AND commits = ${number} - 1 RETURNING 1)"
            ));
            results.push(format!("(SELECT count(*) FROM s{step})"));
            // Whoever runs the server may switch it off at any time.
            results.push("current_setting('fsync') = 'on'".to_owned());
        }
        let sql = format!("WITH {} SELECT {}", steps.join(", "), results.join(", "));
        self.attempt(|driver, link| {
            let rows = driver.query(link, sql, params)?;
            let row = rows.first().ok_or_else(|| driver.unreachable("it gave no answer"))?;
            let mut counts = self.counts.borrow_mut();
            for (index, (table, sign)) in tables.iter().enumerate() {
                let changed: i64 = driver.column(row, index)?;
                counts.entry(table).and_modify(|count| *count += sign * changed);
            }
            if number.is_none() {
                return Ok(());
            }
            if driver.column::<i64>(row, tables.len())? != 1 {
                // The connection is the one that took the database, and yet it is another's now.
                self.seat().shared.learn(0, false, 0)?;
            }
            match driver.column(row, tables.len() + 1)? {
                true => Ok(()),
                false => Err(StorageError::NotDurable { database: driver.place() }),
            }
        })
    }

    fn unsent_value(&self, table: TableRef, key: &[u8]) -> Option<Option<Vec<u8>>> {
        self.unsent.borrow().tables.get(table.name())?.get(key).cloned()
    }

    /// What has become of commit `number`, whose answer was an error.
    fn outcome(mut seat: Seat, number: i64, error: StorageError) -> Result<(), StorageError> {
        let until = Instant::now() + OUTCOME_TIMEOUT;
        if !seat.link().is_over() {
            match seat.shared.commits(seat.link()) {
                Ok(commits) => return settled(commits, number, error),
                Err(lost @ (StorageError::Overtaken { .. } | StorageError::WentBack { .. })) => return Err(lost),
                Err(_) => {}
            }
        }
        loop {
            match seat.renew() {
                // With the lock: the session whose answer was lost has ended, and what it did stands.
                Ok(()) => return settled(seat.shared.known().commits, number, error),
                // A pause, so that a database that starts is not flooded.
                Err(error) if error.is_passing() && Instant::now() < until => std::thread::sleep(RECONNECT_PAUSE),
                Err(lost @ (StorageError::Overtaken { .. } | StorageError::WentBack { .. })) => return Err(lost),
                Err(_) => {
                    // As long as this has the seat nobody verifies anything.
                    seat.shared.known().is_in_doubt = true;
                    return Err(StorageError::OutcomeUnknown { database: seat.driver().place() });
                }
            }
        }
    }

    /// Gives everything up.
    fn roll_back(&mut self) -> Result<(), StorageError> {
        let Some(seat) = self.seat.take() else { return Ok(()) };
        if seat.link().is_over() { Ok(()) } else { seat.driver().batch(seat.link(), "ROLLBACK") }
    }
}

/// Commit `number` was made if so many were, else it is the error that it was.
fn settled(commits: i64, number: i64, error: StorageError) -> Result<(), StorageError> {
    if commits == number { Ok(()) } else { Err(error) }
}

impl Reading for Transaction {
    fn get(&self, table: TableRef, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        match self.unsent_value(table, key) {
            Some(value) => Ok(value),
            None => self.attempt(|driver, link| read::get(driver, link, table, key)),
        }
    }

    fn get_many(&self, table: TableRef, keys: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
        let asked: Vec<_> = keys.iter().filter(|key| self.unsent_value(table, key).is_none()).cloned().collect();
        let found = self.attempt(|driver, link| read::get_many(driver, link, table, &asked))?;
        let value = |key: &Vec<u8>| self.unsent_value(table, key).unwrap_or_else(|| found.get(key).cloned());
        Ok(keys.iter().map(value).collect())
    }

    fn page(&self, table: TableRef, span: &Span, order: Order, rows_max: usize) -> Result<Vec<Row>, StorageError> {
        if span.is_empty() {
            return Ok(Vec::new());
        }
        self.send(None)?;
        self.attempt(|driver, link| read::page(driver, link, table, span, order, rows_max))
    }

    fn count(&self, table: TableRef) -> Result<u64, StorageError> {
        self.send(None)?;
        if let Some(count) = self.counts.borrow().get(table.name()) {
            return Ok(u64::try_from(*count).unwrap_or(0));
        }
        let count = self.attempt(|driver, link| read::count(driver, link, table))?;
        self.counts.borrow_mut().insert(table.name(), i64::try_from(count).unwrap_or(i64::MAX));
        Ok(count)
    }

    fn table_names(&self) -> Result<Vec<String>, StorageError> {
        self.attempt(|_, link| self.seat().shared.table_names(link))
    }
}

impl Writing for Transaction {
    fn put(&self, table: TableRef, key: &[u8], value: &[u8]) -> Result<(), StorageError> {
        self.note(table, key, Some(value))
    }

    fn delete(&self, table: TableRef, key: &[u8]) -> Result<(), StorageError> {
        self.note(table, key, None)
    }

    fn delete_span(&self, table: TableRef, span: &Span) -> Result<(), StorageError> {
        if span.is_empty() {
            return Ok(());
        }
        self.send(None)?;
        self.is_changed.set(true);
        let (condition, params) = read::condition(span);
        let sql = format!(
            "WITH gone AS (DELETE FROM {SCHEMA}.\"{}\"{condition} RETURNING 1) SELECT count(*) FROM gone",
            table.name()
        );
        self.attempt(|driver, link| {
            let rows = driver.query(link, sql, params)?;
            let gone: i64 = rows.first().map_or(Ok(0), |row| driver.column(row, 0))?;
            self.counts.borrow_mut().entry(table.name()).and_modify(|count| *count -= gone);
            Ok(())
        })
    }

    fn commit(mut self: Box<Self>) -> Result<(), StorageError> {
        if self.is_failed.get() {
            // Whatever comes of that: the transaction is not committed.
            let _over = self.roll_back();
            return Err(StorageError::Failed);
        }
        if !self.is_changed.get() {
            return self.roll_back();
        }
        let known = self.seat().shared.known().commits;
        let number = known.saturating_add(1);
        if let Err(error) = self.send(Some(number)) {
            let _over = self.roll_back();
            return Err(error);
        }
        let seat = self.seat.take().expect("a transaction has it until it is over");
        match seat.driver().batch(seat.link(), "COMMIT") {
            Ok(()) => seat.shared.learn(known, true, number),
            Err(error) => Self::outcome(seat, number, error),
        }
    }

    fn abort(mut self: Box<Self>) -> Result<(), StorageError> {
        self.roll_back()
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        // A connection that fails here is given up, and the database rolls back.
        let _over = self.roll_back();
    }
}
