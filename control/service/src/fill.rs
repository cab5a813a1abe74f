//! Directories of very many agents, for whoever measures what one costs: registering a million of them would take hours.

use std::path::Path;

use creto_envelope::{SignedKeyRecord, TrustDomain};
use creto_transparency::{KeyLeaf, LeafKind};

use crate::error::ServiceError;
use crate::key_log::tables::LogWriter;
use crate::service::wall_clock_ms;
use crate::storage::{AGENTS, AgentEntry, KEY_RECORDS, NAMES, Storage};

/// Agents that are written together.
const AGENTS_AT_ONCE: usize = 10_000;

/// Writes agents, each with the first version of its key record, into the directory's file at `path`, which is made if it is not
/// there. Everything is as if they had been registered one by one, but nobody looks at their signatures: for measurements only. Returns
/// how many there were. Fastest in the order of their ids.
///
/// # Errors
/// [`ServiceError`] when the file cannot be written, or was written by somebody else.
pub fn fill(
    path: &Path,
    trust_domain: &TrustDomain,
    records: impl IntoIterator<Item = SignedKeyRecord>,
) -> Result<u64, ServiceError> {
    let storage = Storage::open(path, trust_domain)?;
    let mut records = records.into_iter().peekable();
    let mut written = 0;
    while records.peek().is_some() {
        let now_ms = wall_clock_ms();
        let transaction = storage.begin_write()?;
        let mut log = LogWriter::open(&storage, &*transaction)?;
        for signed in records.by_ref().take(AGENTS_AT_ONCE) {
            let (record, entry) = (&signed.record, AgentEntry::registered(&signed, now_ms));
            let id = record.agent_id();
            transaction.table(AGENTS).put(&id.0, &entry.to_bytes())?;
            transaction.table(NAMES).put(entry.name.as_str(), &id.0)?;
            transaction.table(KEY_RECORDS).put(&(id.0, record.version), &signed.to_bytes())?;
            log.append(&KeyLeaf::of(record, LeafKind::Enrolled, now_ms))?;
            written += 1;
        }
        storage.advance_epoch(&*transaction)?;
        transaction.commit()?;
    }
    Ok(written)
}
