//! Reads the directory of a node that is stopped. The file stays as it is, to the last byte.

use std::path::Path;

use creto_envelope::{AgentId, SignedKeyRecord};
use redb::backends::InMemoryBackend;
use redb::{Builder, DatabaseError, ReadOnlyDatabase, ReadableDatabase, StorageBackend};

use crate::error::ServiceError;
use crate::storage::KEY_RECORDS;

/// The key record of `agent` with this version, from the directory file at `path`; `None` when it is not there.
///
/// # Errors
/// [`ServiceError::InUse`] while a node runs: ask it instead ([`Client::key_record`](crate::client::Client::key_record)).
pub fn key_record(path: &Path, agent: AgentId, version: u32) -> Result<Option<SignedKeyRecord>, ServiceError> {
    match ReadOnlyDatabase::open(path) {
        Ok(database) => find(&database, path, agent, version),
        Err(DatabaseError::DatabaseAlreadyOpen) => Err(ServiceError::InUse(path.to_owned())),
        // The node was killed. What redb would repair at its next start is repaired here in a copy.
        Err(DatabaseError::RepairAborted) => {
            let bytes = std::fs::read(path).map_err(|source| ServiceError::File {
                what: "read",
                path: path.to_owned(),
                source,
            })?;
            let copy = InMemoryBackend::new();
            copy.set_len(bytes.len() as u64)
                .and_then(|()| copy.write(0, &bytes))
                .map_err(|source| ServiceError::File { what: "copy into memory", path: path.to_owned(), source })?;
            let database = Builder::new().create_with_backend(copy).map_err(ServiceError::database)?;
            find(&database, path, agent, version)
        }
        Err(other) => Err(ServiceError::database(other)),
    }
}

fn find(
    database: &impl ReadableDatabase,
    path: &Path,
    agent: AgentId,
    version: u32,
) -> Result<Option<SignedKeyRecord>, ServiceError> {
    let transaction = database.begin_read().map_err(ServiceError::database)?;
    let records = match transaction.open_table(KEY_RECORDS) {
        Ok(records) => records,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(other) => return Err(ServiceError::database(other)),
    };
    let Some(row) = records.get((&agent.0, version)).map_err(ServiceError::database)? else { return Ok(None) };
    let signed = SignedKeyRecord::parse(row.value());
    signed.map(Some).map_err(|_| ServiceError::Damaged(format!("{}: key record of {agent}", path.display())))
}
