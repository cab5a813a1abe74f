//! The ledger: what was acknowledged (`FILE`) and what was delivered (`FILE.delivered`), one record each.
//!
//! | offset | type | field |
//! |---:|---|---|
//! | 0 | u32 | magic: `0x474c5243` ("CRLG") |
//! | 4 | u32 | pair |
//! | 8 | u64 | number of the message in its run |
//! | 16 | 16 B | message id |
//! | 32 | 32 B | SHA-256 of the payload |
//! | 64 | u32 | flow: messages of one flow and pair are delivered in the order of their numbers; zero: in none |
//! | 68 | u32 | CRC-32C of the 68 bytes before |
//!
//! Records of 72 bytes, little-endian, appended. Records that are cut off or damaged at the end of the file were being
//! written when the tool or the machine stopped: they were never counted, and reading stops there. A damaged record with a
//! whole one behind it is an error: what it said is not known.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};

use creto_envelope::MessageId;
use thiserror::Error;
use tokio::sync::mpsc;

use crate::limits::{LEDGER_BATCH_RECORDS, LEDGER_QUEUE_RECORDS};

/// Bytes of a record.
pub const RECORD_BYTES: usize = 72;

const MAGIC: u32 = u32::from_le_bytes(*b"CRLG");

/// One message in a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Which pair sent and received it.
    pub pair: u32,
    /// Its number in the run.
    pub number: u64,
    /// Its id.
    pub message_id: MessageId,
    /// SHA-256 of its payload.
    pub digest: [u8; 32],
    /// Messages of one flow and pair are delivered in the order of their numbers; zero: in none.
    pub flow: u32,
}

impl Record {
    /// The record's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.pair.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.number.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.message_id.0);
        bytes[32..64].copy_from_slice(&self.digest);
        bytes[64..68].copy_from_slice(&self.flow.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..68]);
        bytes[68..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Parses a record; `None` when it is not whole.
    #[must_use]
    pub fn parse(bytes: &[u8; RECORD_BYTES]) -> Option<Self> {
        let u32_at = |at: usize| bytes[at..].first_chunk().map(|chunk| u32::from_le_bytes(*chunk));
        if u32_at(0)? != MAGIC || u32_at(68)? != crc32c::crc32c(&bytes[..68]) {
            return None;
        }
        Some(Self {
            pair: u32_at(4)?,
            number: u64::from_le_bytes(*bytes[8..].first_chunk()?),
            message_id: MessageId(*bytes[16..].first_chunk()?),
            digest: *bytes[32..].first_chunk()?,
            flow: u32_at(64)?,
        })
    }
}

/// Why a ledger cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// There is a file already.
    #[error("{0} exists already: give another name, or remove it with its .delivered and .keys")]
    Exists(PathBuf),
    /// The file system said no.
    #[error("the ledger {path} cannot be {doing}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// Records are behind one that is not whole: nothing that stopped while it was written looks like that.
    #[error(
        "the ledger {path} is damaged in the middle: the record at byte {offset} is not whole, and others are behind it; \
         nothing is proven with it, and nothing was changed"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where.
        offset: u64,
    },
}

/// The paths that belong to the ledger at `path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerPaths {
    /// What was acknowledged.
    pub acknowledged: PathBuf,
    /// What was delivered.
    pub delivered: PathBuf,
    /// Folder of the receivers' keys, to read back what is still in their mailboxes.
    pub keys: PathBuf,
}

impl LedgerPaths {
    /// The ledger's files.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = OsString::from(path);
            name.push(suffix);
            PathBuf::from(name)
        };
        Self { acknowledged: path.to_owned(), delivered: beside(".delivered"), keys: beside(".keys") }
    }

    /// A file of the ledger that is there already.
    pub(crate) fn taken(&self) -> Option<PathBuf> {
        [&self.acknowledged, &self.delivered, &self.keys].into_iter().find(|path| path.exists()).cloned()
    }

    /// Where the keys of the receiver of `pair` are.
    #[must_use]
    pub fn receiver_keys(&self, pair: usize) -> PathBuf {
        self.keys.join(format!("receiver-{pair}.keys"))
    }
}

/// Whether a ledger is on disk, or only with the kernel, before a record counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Synced: survives a power failure.
    Synced,
    /// Written: survives the death of this process. Losing it shows as a loss, never hides one.
    Written,
}

/// Appends records from a thread of its own, many at a time; each comes with something to hand on once it is down.
#[derive(Debug)]
pub struct LedgerWriter<T> {
    records: mpsc::Sender<(Record, T)>,
    thread: JoinHandle<Result<(), LedgerError>>,
}

impl<T: Send + 'static> LedgerWriter<T> {
    /// Creates `path`, or appends to it.
    ///
    /// # Errors
    /// [`LedgerError`].
    pub fn start(
        path: &Path,
        durability: Durability,
        append: bool,
        mut down: impl FnMut(Record, T) + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let error = |doing, source| LedgerError::File { path: path.to_owned(), doing, source };
        let mut file = OpenOptions::new().append(true).create(true).create_new(!append).open(path).map_err(
            |source| match source.kind() {
                io::ErrorKind::AlreadyExists => LedgerError::Exists(path.to_owned()),
                _ => error("opened", source),
            },
        )?;
        let (records, mut queue) = mpsc::channel(LEDGER_QUEUE_RECORDS);
        let path = path.to_owned();
        let run = move || {
            let error = |doing, source| LedgerError::File { path: path.clone(), doing, source };
            let (mut batch, mut bytes) = (Vec::new(), Vec::new());
            // As a log does it: one sync for whatever came while the last one was under way.
            while queue.blocking_recv_many(&mut batch, LEDGER_BATCH_RECORDS) > 0 {
                bytes.clear();
                batch.iter().for_each(|(record, _): &(Record, T)| bytes.extend_from_slice(&record.to_bytes()));
                file.write_all(&bytes).map_err(|source| error("written", source))?;
                if durability == Durability::Synced {
                    file.sync_data().map_err(|source| error("synced", source))?;
                }
                batch.drain(..).for_each(|(record, rest)| down(record, rest));
            }
            file.sync_all().map_err(|source| error("synced", source))
        };
        let thread = thread::Builder::new()
            .name("creto-ledger".to_owned())
            .spawn(run)
            .map_err(|source| error("written by a thread", source))?;
        Ok(Self { records, thread })
    }

    /// Where records go in.
    #[must_use]
    pub fn records(&self) -> mpsc::Sender<(Record, T)> {
        self.records.clone()
    }

    /// Waits until everything is down. Every clone of [`records`](Self::records) must be gone by then.
    ///
    /// # Errors
    /// The first error that writing met; nothing was handed on after it.
    pub async fn finish(self) -> Result<(), LedgerError> {
        drop(self.records);
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        joined.expect("waiting for a thread does not panic").expect("writing a ledger does not panic")
    }
}

/// Reads a ledger to its end, or to the first record that is not whole; gives how many bytes are behind that point. No record is
/// there: an end that was being written when everything stopped, and nothing that was counted.
///
/// # Errors
/// [`LedgerError::File`]; [`LedgerError::Damaged`] when a whole record is behind one that is not.
pub fn read(path: &Path, mut each: impl FnMut(Record)) -> Result<u64, LedgerError> {
    let error = |source| LedgerError::File { path: path.to_owned(), doing: "read", source };
    let file = File::open(path).map_err(error)?;
    let length = file.metadata().map_err(error)?.len();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut bytes = [0; RECORD_BYTES];
    // Where the next record begins, and the first one that is not whole.
    let (mut at, mut torn_at) = (0, None);
    while length - at >= RECORD_BYTES as u64 {
        reader.read_exact(&mut bytes).map_err(error)?;
        match (Record::parse(&bytes), torn_at) {
            (Some(record), None) => each(record),
            (Some(_), Some(offset)) => return Err(LedgerError::Damaged { path: path.to_owned(), offset }),
            (None, _) => torn_at = torn_at.or(Some(at)),
        }
        at += RECORD_BYTES as u64;
    }
    Ok(length - torn_at.unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    fn record(number: u64) -> Record {
        let message_id = MessageId::from_parts(number, [7; 10]);
        Record { pair: 3, number, message_id, digest: [u8::try_from(number % 251).unwrap(); 32], flow: 9 }
    }

    fn read_all(path: &Path) -> (Vec<u64>, u64) {
        let mut numbers = Vec::new();
        let rest = read(path, |record| numbers.push(record.number)).unwrap();
        (numbers, rest)
    }

    #[tokio::test]
    async fn a_record_is_handed_on_after_it_is_in_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (file, numbers) = (path.clone(), Arc::clone(&seen));
        let writer = LedgerWriter::start(&path, Durability::Synced, false, move |record, ()| {
            let bytes = std::fs::metadata(&file).unwrap().len();
            let before = numbers.lock().unwrap().len() as u64;
            assert!(bytes >= (before + 1) * RECORD_BYTES as u64, "counted before it was written");
            numbers.lock().unwrap().push(record.number);
        })
        .unwrap();
        let records = writer.records();
        for number in 0..10_000 {
            records.send((record(number), ())).await.unwrap();
        }
        drop(records);
        writer.finish().await.unwrap();
        assert_eq!(*seen.lock().unwrap(), (0..10_000).collect::<Vec<_>>());
        assert_eq!(read_all(&path), ((0..10_000).collect(), 0));
    }

    #[test]
    fn reading_stops_at_an_end_that_is_not_whole_and_refuses_a_damaged_middle() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        let whole: Vec<u8> = (0..4).flat_map(|number| record(number).to_bytes()).collect();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let (numbers, rest) = read_all(&path);
            assert_eq!((numbers.len(), rest), (cut / RECORD_BYTES, (cut % RECORD_BYTES) as u64));
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&path, &damaged).unwrap();
            let last = 3 * RECORD_BYTES;
            if at >= last {
                assert_eq!(read_all(&path), (vec![0, 1, 2], RECORD_BYTES as u64), "a flipped bit at {at}");
            } else {
                let begin = (at / RECORD_BYTES * RECORD_BYTES) as u64;
                let error = read(&path, |_| {}).unwrap_err();
                assert!(matches!(error, LedgerError::Damaged { offset, .. } if offset == begin), "at {at}: {error}");
                assert!(error.to_string().contains("damaged in the middle"));
            }
        }
        // Several that were under way together.
        let mut damaged = whole;
        damaged[2 * RECORD_BYTES..].fill(0);
        std::fs::write(&path, &damaged).unwrap();
        assert_eq!(read_all(&path), (vec![0, 1], 2 * RECORD_BYTES as u64));
    }

    #[test]
    fn a_ledger_is_never_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ledger");
        std::fs::write(&path, b"something").unwrap();
        let refused = LedgerWriter::start(&path, Durability::Synced, false, |_, ()| {});
        assert!(matches!(refused, Err(LedgerError::Exists(_))));
    }
}
