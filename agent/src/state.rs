//! What an agent remembers of its sessions over a restart: a folder beside its key file, readable by its owner only.
//!
//! | file | table | key | value |
//! |---|---|---|---|
//! | each database | `meta` | text | `format` u64 LE, `agent` agent id 16, in `outgoing.redb` and `publishing.redb` `place` 24 |
//! | `outgoing.redb` | `sessions` | recipient 16 | [`outgoing`] |
//! | `incoming.redb` | `sessions` | sender 16, session id 16 | [`incoming`] |
//! | `incoming.redb` | `refused` | sender 16, session id 16, counter u64 LE | [`incoming`] |
//! | `incoming.redb` | `channel_keys` | publisher 16, session id 16 | [`incoming`] |
//! | `incoming.redb` | `channels` | channel 16 | [`incoming`] |
//! | `publishing.redb` | `records`, `sessions`, `given`, `owed` | [`publishing`] | [`publishing`] |
//!
//! `publishing.redb` has the sessions of channels, and belongs to one process, too.
//!
//! Beside them lies the file `prekeys`, which is no database: [`prekeys`].
//!
//! **Outgoing sessions are taken from the disk before they are used, and put back when the agent closes.** What is on
//! disk is in nobody's use, so no counter is ever used twice, whoever else has the same keys and whenever a process
//! dies: a process that dies loses its outgoing sessions, and the next one pays an encapsulation for each recipient.
//! Nothing is written on the way of a message. The file is open only for these two moments, so processes of one agent
//! do not hinder each other.
//!
//! A copy of `outgoing.redb` would break that: two could take the same sessions. So whoever puts them there writes down
//! which file it is (inode, and when it was made), and in any other file they are ignored. What is written over the very
//! same file, or a whole disk that is set back, cannot be told. `publishing.redb` stays where it is while it is used, with counters that
//! are written down as used before any of them is; in a copy of it all sessions are ended, once and for all.
//!
//! **Incoming sessions are on disk before the acknowledgement that depends on them leaves**, and their file belongs to
//! one process at a time: the one that is subscribed.
//!
//! Beside each file lie a lock and, while nobody has it open, its SHA-256: a damaged file is said to be one before anything
//! reads it. Values end with the first 8 bytes of the SHA-256 over key and value, so that a damaged one is found when it is read
//! and not when a message does not open. Old values are gone from the tables; the pages that held them are used again
//! in time, not overwritten at once.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentId;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition, WriteTransaction,
};
use zeroize::Zeroizing;

use crate::error::StateError;
use crate::keys::AgentKeys;
use crate::keys::file::write_whole;
use crate::limits::STATE_CACHE_BYTES;

pub(crate) mod incoming;
pub(crate) mod outgoing;
pub(crate) mod prekeys;
pub(crate) mod publishing;
pub(crate) mod sealed;

/// The format of files of sessions that this version reads and writes.
pub const STATE_FORMAT: u64 = 1;
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const META_FORMAT: &str = "format";
const META_AGENT: &str = "agent";
const META_PLACE: &str = "place";
const CHECK_BYTES: usize = 8;

/// Where an agent keeps its sessions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StateDirectory {
    /// In the folder `FILE.sessions` beside the key file, where the keys have one; else as [`Memory`](Self::Memory).
    #[default]
    BesideKeys,
    /// In this folder. It belongs to one agent.
    Folder(PathBuf),
    /// In memory: incoming sessions live as long as the [`AgentKeys`], outgoing ones as long as the agent is connected.
    Memory,
}

impl StateDirectory {
    pub(crate) fn folder(&self, keys: &AgentKeys) -> Option<PathBuf> {
        match self {
            Self::Memory => None,
            Self::Folder(folder) => Some(folder.clone()),
            Self::BesideKeys => {
                let mut folder = keys.file()?.as_os_str().to_owned();
                folder.push(".sessions");
                Some(folder.into())
            }
        }
    }
}

/// An open file of sessions; no other process has it.
pub(crate) struct StateFile {
    /// There until it is dropped.
    database: Option<Database>,
    path: PathBuf,
    sum: PathBuf,
    /// Held until the sum is written.
    _lock: File,
}

impl StateFile {
    /// Opens the file `name` in `folder`, making both, and checks that it is the agent's.
    pub(crate) fn open(folder: &Path, name: &str, agent: AgentId) -> Result<Self, StateError> {
        let path = folder.join(name);
        let failed = |doing| move |source| StateError::File { path: folder.join(name), doing, source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed("made"))?;
        let lock = lock(folder, name)?;
        let sum = folder.join(format!("{name}.sha256"));
        check_sum(&path, &sum)?;
        let file = make(&path).map_err(failed("opened"))?;
        let mut builder = Database::builder();
        builder.set_cache_size(STATE_CACHE_BYTES);
        let database = not_panicking(&path, || builder.create_file(file))?.map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => StateError::InUse { path: path.clone() },
            redb::DatabaseError::UpgradeRequired(_) => StateError::Version { path: path.clone(), found: 0 },
            redb::DatabaseError::Storage(redb::StorageError::Io(error))
                if error.kind() != io::ErrorKind::InvalidData =>
            {
                failed("opened")(error)
            }
            error => StateError::Damaged { path: path.clone(), reason: error.to_string() },
        })?;
        // The names must be durable before what depends on the content is told to anybody.
        let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        for folder in [folder, parent] {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("synced"))?;
        }
        let file = Self { database: Some(database), path, sum, _lock: lock };
        file.adopt(agent)?;
        Ok(file)
    }

    fn database(&self) -> &Database {
        self.database.as_ref().expect("only drop takes it")
    }

    /// One durable transaction.
    fn write<R>(&self, work: impl FnOnce(&WriteTransaction) -> Result<R, StateError>) -> Result<R, StateError> {
        not_panicking(&self.path, || {
            let mut transaction = self.database().begin_write().map_err(|error| self.database_error(error))?;
            transaction.set_durability(Durability::Immediate).map_err(|error| self.database_error(error))?;
            transaction.set_two_phase_commit(true);
            let outcome = work(&transaction)?;
            transaction.commit().map_err(|error| self.database_error(error))?;
            Ok(outcome)
        })?
    }

    /// Writes what a new file begins with, or checks what an old one says of itself.
    fn adopt(&self, agent: AgentId) -> Result<(), StateError> {
        let known = not_panicking(&self.path, || {
            let transaction = self.database().begin_read().map_err(|error| self.database_error(error))?;
            match transaction.open_table(META) {
                Ok(meta) => self.check_meta(&meta, agent).map(|()| true),
                Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
                Err(error) => Err(self.database_error(error)),
            }
        })??;
        if known {
            return Ok(());
        }
        self.write(|transaction| {
            let mut meta = transaction.open_table(META).map_err(|error| self.database_error(error))?;
            if !meta.is_empty().map_err(|error| self.database_error(error))? {
                return self.check_meta(&meta, agent);
            }
            for (key, value) in [(META_FORMAT, &STATE_FORMAT.to_le_bytes()[..]), (META_AGENT, &agent.0)] {
                meta.insert(key, value).map_err(|error| self.database_error(error))?;
            }
            Ok(())
        })
    }

    fn check_meta(
        &self,
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        agent: AgentId,
    ) -> Result<(), StateError> {
        let get = |key| -> Result<Vec<u8>, StateError> {
            let value = meta.get(key).map_err(|error| self.database_error(error))?;
            Ok(value.ok_or_else(|| self.damaged(format!("there is no {key}")))?.value().to_vec())
        };
        let format = get(META_FORMAT)?;
        let format = u64::from_le_bytes(format.try_into().map_err(|_| self.damaged("the format is no number"))?);
        if format != STATE_FORMAT {
            return Err(StateError::Version { path: self.path.clone(), found: format });
        }
        if get(META_AGENT)? != agent.0 {
            return Err(StateError::OtherAgent { path: self.path.clone() });
        }
        Ok(())
    }

    fn damaged(&self, reason: impl Into<String>) -> StateError {
        StateError::Damaged { path: self.path.clone(), reason: reason.into() }
    }

    fn database_error(&self, error: impl Into<redb::Error>) -> StateError {
        match error.into() {
            redb::Error::Io(source) => StateError::File { path: self.path.clone(), doing: "written", source },
            error => self.damaged(error.to_string()),
        }
    }

    /// Which file this is: another one after it was copied, moved to another file system, or restored from a backup.
    fn place(&self) -> Result<[u8; 24], StateError> {
        let failed = |source| StateError::File { path: self.path.clone(), doing: "looked at", source };
        let meta = fs::metadata(&self.path).map_err(failed)?;
        // A file system that does not know when a file was made is left with the inode.
        let made = meta.created().ok().and_then(|made| made.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
        let mut place = [0; 24];
        place[..8].copy_from_slice(&meta.ino().to_le_bytes());
        place[8..].copy_from_slice(&made.as_nanos().to_le_bytes());
        Ok(place)
    }

    /// The content of a value, once its check holds.
    fn checked<'v>(&self, key: &[u8], value: &'v [u8]) -> Result<&'v [u8], StateError> {
        let (content, check) =
            value.split_last_chunk::<CHECK_BYTES>().ok_or_else(|| self.damaged("a session is cut short"))?;
        match check_bytes(key, content) == *check {
            true => Ok(content),
            false => Err(self.damaged("a session is not as it was written")),
        }
    }
}

fn make(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// The lock of the file `name` in `folder`: nobody else has it until this is dropped.
fn lock(folder: &Path, name: &str) -> Result<File, StateError> {
    let path = folder.join(name);
    let lock = make(&folder.join(format!("{name}.lock"))).map_err(|source| StateError::File {
        path: path.clone(),
        doing: "opened",
        source,
    })?;
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => StateError::InUse { path: path.clone() },
        TryLockError::Error(source) => StateError::File { path: path.clone(), doing: "locked", source },
    })?;
    Ok(lock)
}

/// Runs the database's code, which panics on some damage that its checks do not find. A process that is built to abort on
/// a panic ends there.
fn not_panicking<R>(path: &Path, run: impl FnOnce() -> R) -> Result<R, StateError> {
    // Whatever it had under way is dropped with it, and the file is opened anew or not at all.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| StateError::Damaged {
        path: path.to_owned(),
        reason: "the database stopped over what it read".to_owned(),
    })
}

impl Drop for StateFile {
    /// Leaves the sum of the file. Without it, after a crash or an error here, the next one opens the file unseen.
    fn drop(&mut self) {
        // Closing writes, too. Whatever is not written then is not needed: every transaction was durable by itself.
        let database = self.database.take();
        if not_panicking(&self.path, || drop(database)).is_err() {
            tracing::warn!(file = %self.path.display(), "the file of sessions was not closed well");
            return;
        }
        // The file before its sum, and the sum whole or not at all: what a crash leaves must not condemn the file.
        let left = File::open(&self.path)
            .and_then(|file| file.sync_all())
            .and_then(|()| fs::read(&self.path))
            .and_then(|bytes| write_whole(&self.sum, &sha256(&[&bytes])));
        if let Err(error) = left {
            tracing::debug!(%error, file = %self.path.display(), "no sum is left of it");
        }
    }
}

/// Holds a file against the sum that was left of it, before redb sees it: redb checks its pages when it has to repair, and
/// otherwise takes them at their word. The sum is gone afterwards, durably, because the file is about to change.
fn check_sum(path: &Path, sum: &Path) -> Result<(), StateError> {
    let failed = |doing| move |source| StateError::File { path: path.to_owned(), doing, source };
    let left = match fs::read(sum) {
        Ok(left) => left,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("checked")(error)),
    };
    match fs::read(path) {
        Ok(bytes) if sha256(&[&bytes])[..] != left => {
            let reason = "it is not as it was left".to_owned();
            return Err(StateError::Damaged { path: path.to_owned(), reason });
        }
        // It was moved away: a new one begins.
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("read")(error)),
        _ => {}
    }
    fs::remove_file(sum).map_err(failed("checked"))?;
    let folder = path.parent().expect("a file in a folder");
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("synced"))
}

impl std::fmt::Debug for StateFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateFile").field("path", &self.path).finish_non_exhaustive()
    }
}

/// A value: what it holds, and its check.
fn with_check(key: &[u8], mut content: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let check = check_bytes(key, &content);
    // Grown by hand, so that no copy of a key is left behind by the allocator.
    let mut value = Zeroizing::new(Vec::with_capacity(content.len() + CHECK_BYTES));
    value.append(&mut content);
    value.extend_from_slice(&check);
    value
}

fn check_bytes(key: &[u8], content: &[u8]) -> [u8; CHECK_BYTES] {
    *sha256(&[key, content]).first_chunk().expect("32 bytes hold 8")
}

#[cfg(test)]
mod tests;
