//! The directory of a node that is stopped, or of a backup.

use std::path::Path;

use creto_control_storage::{Backend, DatabaseUrl, Postgres, RedbFile};
use creto_envelope::{AgentId, SignedKeyRecord};

use crate::error::ServiceError;
use crate::storage::{KEY_RECORDS, Storage};

/// The key record of `agent` with this version, from the directory file at `path`; `None` when it is not there.
///
/// # Errors
/// [`StorageError::InUse`](creto_control_storage::StorageError::InUse) while a node runs: ask it instead ([`Client::key_record`](crate::client::Client::key_record)).
pub fn key_record(path: &Path, agent: AgentId, version: u32) -> Result<Option<SignedKeyRecord>, ServiceError> {
    find(&RedbFile::read_only(path)?, agent, version)
}

/// The same from a database.
///
/// # Errors
/// [`StorageError`](creto_control_storage::StorageError) when it cannot be reached.
pub fn key_record_in(
    database: DatabaseUrl,
    agent: AgentId,
    version: u32,
) -> Result<Option<SignedKeyRecord>, ServiceError> {
    find(&Postgres::read_only(database)?, agent, version)
}

/// Copies the directory of a database into a new file at `path`, readable by its owner only, as a backup has it.
///
/// # Errors
/// [`StorageError`](creto_control_storage::StorageError) when the database cannot be reached, or the file not be written.
pub fn copy(database: DatabaseUrl, path: &Path) -> Result<(), ServiceError> {
    Storage::unchecked(Box::new(Postgres::read_only(database)?)).copy_to(path)
}

/// Takes from the directory file at `path`, which is from a backup, what tells it from every other: nodes of other processes that know a
/// later state do not take it for the same.
///
/// # Errors
/// [`StorageError`](creto_control_storage::StorageError) when it cannot be written.
pub fn forget_incarnation(path: &Path) -> Result<(), ServiceError> {
    match has_incarnation(path)? {
        true => Storage::unchecked(Box::new(RedbFile::open(path)?)).forget_incarnation(),
        false => Ok(()),
    }
}

/// Whether the directory file at `path` has what tells it from every other.
///
/// # Errors
/// [`StorageError`](creto_control_storage::StorageError) when it cannot be read.
pub fn has_incarnation(path: &Path) -> Result<bool, ServiceError> {
    Storage::unchecked(Box::new(RedbFile::read_only(path)?)).has_incarnation()
}

fn find(backend: &dyn Backend, agent: AgentId, version: u32) -> Result<Option<SignedKeyRecord>, ServiceError> {
    let Some(row) = backend.begin_read()?.table(KEY_RECORDS).get(&(agent.0, version))? else { return Ok(None) };
    let signed = SignedKeyRecord::parse(&row);
    signed.map(Some).map_err(|_| ServiceError::Damaged(format!("{}: key record of {agent}", backend.place())))
}
