//! Tables in a PostgreSQL database.
//!
//! ```text
//! schema creto
//!   agents, names, ...   key bytea PRIMARY KEY, value bytea NOT NULL: one table for each, its bytes those of `table.rs`
//!   _writer              one row: which process writes, and how many transactions were committed
//! ```
//!
//! **One process writes.** It holds an advisory lock of the database for as long as its connection lives; a second one is refused
//! ([`StorageError::Taken`]). When the connection is lost, the lock is taken again, and `_writer` says whether another process
//! wrote meanwhile ([`StorageError::Overtaken`]), and whether all commits that this one knows of are there still
//! ([`StorageError::WentBack`]). Both are for ever: what this process knows is not what is stored.
//!
//! **A commit is done or not.** Its number is written in its own transaction. When the answer to a commit is lost, the next
//! connection waits for the lock, so the lost session has ended, and reads the number: the outcome is certain then. Only while
//! the database stays away is it unknown ([`StorageError::OutcomeUnknown`]).
//!
//! Readers have connections of their own, each a snapshot (`REPEATABLE READ`). Changes wait here and go in one statement.

mod link;
mod read;
mod url;
mod write;

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use url::{DatabaseUrl, UrlError};

use self::link::{Driver, Link, Param};
use self::read::Snapshot;
use self::write::{Seat, Transaction};
use crate::backend::{Backend, Reading, Writing};
use crate::error::StorageError;
use crate::limits::{LOCK_TIMEOUT, READER_WAIT, READERS_MAX, RECONNECT_PAUSE, TAKEN_WAIT};
use crate::table::TableRef;

/// The schema of all tables.
pub(crate) const SCHEMA: &str = "creto";
/// `cretodir`: whoever holds it writes.
const LOCK: i64 = i64::from_be_bytes(*b"cretodir");

/// An open database.
pub struct Postgres(Arc<Shared>);

pub(crate) struct Shared {
    driver: Driver,
    /// Of this process, as `_writer` names it; `None`: it only reads.
    incarnation: Option<[u8; 16]>,
    known: Mutex<Known>,
    writer: Mutex<Place>,
    writer_is_free: Condvar,
    readers: Mutex<Readers>,
    reader_is_free: Condvar,
    /// When nobody could connect last.
    failed: Mutex<Option<(Instant, StorageError)>>,
    /// When the database could not be taken last.
    not_taken: Mutex<Option<(Instant, StorageError)>>,
}

/// What this process knows of the database.
#[derive(Default)]
struct Known {
    /// How many transactions were committed.
    commits: i64,
    /// Whether there may be one more, of which nobody has heard.
    is_in_doubt: bool,
    /// Why it neither reads nor writes any more.
    lost: Option<Lost>,
}

/// What no new connection mends: see [`StorageError::Overtaken`] and [`StorageError::WentBack`].
#[derive(Clone, Copy)]
enum Lost {
    Overtaken,
    WentBack { known: i64, found: i64 },
}

/// Where the connection that writes is.
enum Place {
    /// With a transaction.
    Taken,
    /// Nowhere.
    Empty,
    /// Here.
    Here(Link),
}

#[derive(Default)]
struct Readers {
    idle: Vec<Link>,
    lent: usize,
}

impl Postgres {
    /// Connects, and takes the database for this process. Over TCP it waits [`TAKEN_WAIT`] for one whose machine may have died.
    ///
    /// # Errors
    /// [`StorageError`]: it cannot be reached, another process has it, it does not keep what it commits, or it is too old.
    pub fn open(url: DatabaseUrl) -> Result<Self, StorageError> {
        let mut incarnation = [0; 16];
        getrandom::fill(&mut incarnation).map_err(|error| StorageError::Thread(std::io::Error::other(error)))?;
        // Of a process that ended on this machine the server has heard.
        let until =
            Instant::now() + if url.is_over_tcp() { TAKEN_WAIT.saturating_sub(LOCK_TIMEOUT) } else { Duration::ZERO };
        let shared = Shared::start(url, Some(incarnation))?;
        let link = loop {
            match shared.take_now(true) {
                Err(StorageError::Taken { database }) if Instant::now() < until => {
                    tracing::info!(%database, "another node has the database, or had it and its machine died; waiting");
                }
                other => break other?,
            }
        };
        *shared.writer() = Place::Here(link);
        Ok(Self(Arc::new(shared)))
    }

    /// Connects to read only, also while a process writes.
    ///
    /// # Errors
    /// [`StorageError`] when the database cannot be reached.
    pub fn read_only(url: DatabaseUrl) -> Result<Self, StorageError> {
        let shared = Shared::start(url, None)?;
        let link = shared.connect()?;
        shared.readers().idle.push(link);
        Ok(Self(Arc::new(shared)))
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Postgres").field(&self.0.driver.place()).finish()
    }
}

impl Backend for Postgres {
    fn place(&self) -> String {
        self.0.driver.place()
    }

    fn begin_read(&self) -> Result<Box<dyn Reading>, StorageError> {
        self.0.check()?;
        Ok(Box::new(Snapshot::begin(Arc::clone(&self.0))?))
    }

    fn begin_write(&self) -> Result<Box<dyn Writing>, StorageError> {
        let transaction = Transaction::begin(Seat::take(Arc::clone(&self.0))?)?;
        // With the lock: the session whose answer was lost has ended, and what it did can be read.
        self.0.known().is_in_doubt = false;
        Ok(Box::new(transaction))
    }

    fn verify(&self) -> Result<(), StorageError> {
        let seat = Seat::take(Arc::clone(&self.0))?;
        // An answer on the connection that has the lock: it has it.
        self.0.commits(seat.link())?;
        match self.0.known().is_in_doubt {
            false => Ok(()),
            true => Err(StorageError::OutcomeUnknown { database: self.0.driver.place() }),
        }
    }

    fn create(&self, tables: &[TableRef]) -> Result<(), StorageError> {
        let seat = Seat::take(Arc::clone(&self.0))?;
        let there = self.0.table_names(seat.link())?;
        let missing = tables.iter().filter(|table| !there.iter().any(|name| name == table.name()));
        let statements: Vec<_> = missing.map(|table| create_statement(table.name())).collect();
        if statements.is_empty() { Ok(()) } else { self.0.driver.batch(seat.link(), statements.join("; ")) }
    }
}

fn create_statement(name: &str) -> String {
    format!("CREATE TABLE {SCHEMA}.\"{name}\" (key bytea PRIMARY KEY, value bytea NOT NULL)")
}

impl Shared {
    fn start(url: DatabaseUrl, incarnation: Option<[u8; 16]>) -> Result<Self, StorageError> {
        Ok(Self {
            driver: Driver::start(url)?,
            incarnation,
            known: Mutex::default(),
            writer: Mutex::new(Place::Empty),
            writer_is_free: Condvar::new(),
            readers: Mutex::default(),
            reader_is_free: Condvar::new(),
            failed: Mutex::default(),
            not_taken: Mutex::default(),
        })
    }

    fn writer(&self) -> MutexGuard<'_, Place> {
        // What it guards is whole at every moment; so with the others.
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn readers(&self) -> MutexGuard<'_, Readers> {
        self.readers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// # Errors
    /// What was lost for ever.
    fn check(&self) -> Result<(), StorageError> {
        let database = || self.driver.place();
        match self.known().lost {
            None => Ok(()),
            Some(Lost::Overtaken) => Err(StorageError::Overtaken { database: database() }),
            Some(Lost::WentBack { known, found }) => Err(StorageError::WentBack { database: database(), known, found }),
        }
    }

    /// Takes in what `_writer` says: whether this process is named there, and how many transactions were committed; at least so
    /// many were known when it was asked.
    fn learn(&self, at_least: i64, is_ours: bool, found: i64) -> Result<(), StorageError> {
        let mut known = self.known();
        if known.lost.is_none() {
            known.lost = match is_ours {
                _ if found < at_least => Some(Lost::WentBack { known: at_least, found }),
                false => Some(Lost::Overtaken),
                true => None,
            };
            if known.lost.is_none() {
                known.commits = known.commits.max(found);
            }
        }
        drop(known);
        self.check()
    }

    /// A new connection. Who comes soon after one failed is told the same.
    fn connect(&self) -> Result<Link, StorageError> {
        remembering(&self.failed, || self.driver.connect())
    }

    /// A connection that holds the database for this process, again. Who comes soon after that failed is told the same.
    fn take_database(&self) -> Result<Link, StorageError> {
        self.check()?;
        remembering(&self.not_taken, || self.take_now(false))
    }

    fn take_now(&self, is_first: bool) -> Result<Link, StorageError> {
        let link = self.connect()?;
        let driver = &self.driver;
        let locked = driver.query(&link, "SELECT pg_advisory_lock($1)".to_owned(), vec![Param::Number(LOCK)]);
        match locked {
            Ok(_) => {}
            Err(StorageError::Refused { database, cause }) if cause.ends_with("(55P03)") => {
                tracing::debug!(%database, "another process holds the database");
                return Err(StorageError::Taken { database });
            }
            Err(other) => return Err(other),
        }
        if is_first {
            self.lay_out(&link)?;
            let sql = format!(
                "INSERT INTO {SCHEMA}._writer (id, incarnation, commits) VALUES (1, $1, 0) \
                 ON CONFLICT (id) DO UPDATE SET incarnation = excluded.incarnation"
            );
            driver.query(&link, sql, vec![self.incarnation()])?;
        }
        self.commits(&link)?;
        Ok(link)
    }

    fn incarnation(&self) -> Param {
        // No row has the name of a process that only reads, so that it never writes.
        Param::Bytes(self.incarnation.unwrap_or_default().to_vec())
    }

    /// Makes the schema and the row of the writer. What is there is not made again: that asks for rights, also where it does
    /// nothing.
    fn lay_out(&self, link: &Link) -> Result<(), StorageError> {
        let driver = &self.driver;
        let is_there = |what: &str| -> Result<bool, StorageError> {
            let rows = driver.query(link, format!("SELECT {what} IS NOT NULL"), Vec::new())?;
            rows.first().map_or(Ok(false), |row| driver.column(row, 0))
        };
        if !is_there(&format!("to_regnamespace('{SCHEMA}')"))? {
            driver.batch(link, format!("CREATE SCHEMA {SCHEMA}"))?;
        }
        if !is_there(&format!("to_regclass('{SCHEMA}._writer')"))? {
            driver.batch(
                link,
                format!(
                    "CREATE TABLE {SCHEMA}._writer \
                     (id int8 PRIMARY KEY CHECK (id = 1), incarnation bytea NOT NULL, commits int8 NOT NULL)"
                ),
            )?;
        }
        Ok(())
    }

    /// How many transactions were committed, as this connection sees it.
    ///
    /// # Errors
    /// [`StorageError`], also when that is not what this process knows.
    fn commits(&self, link: &Link) -> Result<i64, StorageError> {
        let at_least = self.known().commits;
        let sql = format!("SELECT incarnation = $1, commits FROM {SCHEMA}._writer");
        let rows = self.driver.query(link, sql, vec![self.incarnation()])?;
        let (is_ours, found) = match rows.first() {
            Some(row) => (self.driver.column(row, 0)?, self.driver.column(row, 1)?),
            None => (false, 0),
        };
        self.learn(at_least, is_ours, found)?;
        Ok(found)
    }

    fn table_names(&self, link: &Link) -> Result<Vec<String>, StorageError> {
        let sql = format!(
            "SELECT tablename::text FROM pg_tables WHERE schemaname = '{SCHEMA}' AND left(tablename::text, 1) <> '_'"
        );
        let rows = self.driver.query(link, sql, Vec::new())?;
        rows.iter().map(|row| self.driver.column(row, 0)).collect()
    }

    /// A connection to read, of [`READERS_MAX`], and whether it was used before.
    fn reader(&self) -> Result<(Link, bool), StorageError> {
        let mut readers = self.readers();
        let until = Instant::now() + READER_WAIT;
        while readers.lent >= READERS_MAX {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.driver.unreachable("all connections are busy"));
            }
            readers = self.reader_is_free.wait_timeout(readers, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        readers.lent += 1;
        let idle = loop {
            match readers.idle.pop() {
                Some(link) if link.is_over() => {}
                other => break other,
            }
        };
        drop(readers);
        let link = idle.map_or_else(|| self.connect().map(|link| (link, false)), |link| Ok((link, true)));
        link.inspect_err(|_| self.put_back(None))
    }

    /// Takes back what [`Shared::reader`] lent.
    fn put_back(&self, link: Option<Link>) {
        let mut readers = self.readers();
        readers.lent -= 1;
        readers.idle.extend(link.filter(|link| !link.is_over()));
        drop(readers);
        self.reader_is_free.notify_one();
    }
}

/// Does `attempt`, but for [`RECONNECT_PAUSE`] after it failed: then it fails as before. Whoever comes meanwhile waits for it.
fn remembering<T>(
    failed: &Mutex<Option<(Instant, StorageError)>>,
    attempt: impl FnOnce() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, error)) = failed.as_ref()
        && at.elapsed() < RECONNECT_PAUSE
    {
        return Err(error.again());
    }
    let attempted = attempt();
    *failed = attempted.as_ref().err().map(|error| (Instant::now(), error.again()));
    attempted
}
