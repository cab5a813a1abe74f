//! The directory on disk: one redb file, and the bytes in its tables.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | text | `format` u64 LE, `epoch` u64 LE, `trust_domain` text, `retention` 16 bytes, see `mailboxes.rs`; `outbox` u64 LE |
//! | `agents` | agent id 16 | [`AgentEntry`] |
//! | `names` | name | agent id 16; the order of the list |
//! | `key_records` | agent id 16, version u32 | SignedKeyRecord as `docs/envelope-format.md` gives it |
//! | `replacements` | agent id 16, version u32 | when and how that version was replaced: u8 format=1, u8 mode (0 planned, 1 emergency), 6 zeros, u64 LE Unix milliseconds |
//! | `mailboxes` | agent id 16 | what is set for that agent's mailbox: 32 bytes, see `mailboxes.rs` |
//! | `attributes` | agent id 16 | type, roles and capabilities, see `attributes.rs`; no row: none are set |
//! | `states` | agent id 16 | since when and why an agent may not act, see `states.rs`; no row: it may |
//! | `tokens` | SHA-256 of a token, 32 | what it allows, see `tokens.rs` |
//! | `audit_outbox` | number u64 | an event that the audit log may not have yet, see `outbox.rs` |
//! | `key_leaves`, `key_subtrees`, `key_places` | | the key log, see `key_log/tables.rs` |
//! | `prekey_owners`, `prekey_batches`, `prekeys` | | prekeys that were not handed out yet, see `prekeys/tables.rs` |
//!
//! What one change concerns changes in one transaction, and so does the epoch. Commits are durable (fsync) and two-phase, so
//! that no choice of stored bytes can make a torn commit look whole.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentName, AgentState, KeyId, SignedKeyRecord, TrustDomain};
use creto_policy::{Attributes, KeyVersion, Replacement};
use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    TableHandle, WriteTransaction,
};

use crate::attributes::parse_row;
use crate::error::ServiceError;
use crate::key_log::tables::{KEY_LEAVES, KEY_PLACES, KEY_SUBTREES};
use crate::limits::{COPY_CACHE_BYTES, VERSIONS_HELD_MAX};
use crate::mailboxes::{DefaultRetention, MailboxRow};
use crate::prekeys::tables::{Owner, PREKEY_BATCHES, PREKEY_OWNERS, PREKEYS};
use crate::states::StateRow;

#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
mod tests;

/// The format that this code writes. Format 1, which knew no replacements, format 2, which knew no settings of mailboxes, and
/// format 3, which knew no attributes, no reasons of states and no tokens, are read and become this one.
pub const FORMAT: u64 = 4;
/// The oldest format that this code reads.
const FORMAT_OLDEST: u64 = 1;

pub(crate) const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
pub(crate) const AGENTS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("agents");
pub(crate) const NAMES: TableDefinition<'_, &str, &[u8; 16]> = TableDefinition::new("names");
pub(crate) const KEY_RECORDS: TableDefinition<'_, (&[u8; 16], u32), &[u8]> = TableDefinition::new("key_records");

pub(crate) const REPLACEMENTS: TableDefinition<'_, (&[u8; 16], u32), &[u8]> = TableDefinition::new("replacements");

pub(crate) const MAILBOXES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("mailboxes");

pub(crate) const ATTRIBUTES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("attributes");

pub(crate) const STATES: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("states");

pub(crate) const AUDIT_OUTBOX: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("audit_outbox");

pub(crate) const TOKENS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("tokens");

const META_FORMAT: &str = "format";
const META_EPOCH: &str = "epoch";
const META_TRUST_DOMAIN: &str = "trust_domain";
const META_OUTBOX: &str = "outbox";
const META_RETENTION: &str = "retention";

/// What the directory keeps of an agent beside its key records, little-endian:
///
/// ```text
/// 0 u8 format=1 | 1 u8 state | 2 u16 name_bytes | 4 u32 current version | 8 u64 registered_at_ms
/// 16 u64 valid_from_ms | 24 u64 valid_until_ms | 32 [16] key id | 48 name
/// ```
///
/// Validity and key id repeat the current record's, so that the list reads a hundred bytes per agent, not seven
/// thousand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AgentEntry {
    /// Whether the agent may act.
    pub state: AgentState,
    /// Version of the current key record.
    pub version: u32,
    /// When it was registered, Unix milliseconds.
    pub registered_at_ms: u64,
    /// Start of the current record's validity.
    pub valid_from_ms: u64,
    /// End of the current record's validity.
    pub valid_until_ms: u64,
    /// The current encryption key.
    pub key_id: KeyId,
    /// The agent's name.
    pub name: AgentName,
}

const ENTRY_FORMAT: u8 = 1;
const ENTRY_FIXED_BYTES: usize = 48;

impl AgentEntry {
    /// The entry of a fresh agent.
    #[must_use]
    pub fn registered(signed: &SignedKeyRecord, registered_at_ms: u64) -> Self {
        let record = &signed.record;
        Self {
            state: AgentState::Active,
            version: record.version,
            registered_at_ms,
            valid_from_ms: record.valid_from_ms,
            valid_until_ms: record.valid_until_ms,
            key_id: record.key_id(),
            name: record.name.clone(),
        }
    }

    /// The bytes of the table.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let name_bytes = u16::try_from(self.name.as_str().len()).expect("a name has at most 128 bytes");
        let mut out = Vec::with_capacity(ENTRY_FIXED_BYTES + usize::from(name_bytes));
        out.extend_from_slice(&[ENTRY_FORMAT, self.state as u8]);
        out.extend_from_slice(&name_bytes.to_le_bytes());
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.registered_at_ms.to_le_bytes());
        out.extend_from_slice(&self.valid_from_ms.to_le_bytes());
        out.extend_from_slice(&self.valid_until_ms.to_le_bytes());
        out.extend_from_slice(&self.key_id.0);
        debug_assert_eq!(out.len(), ENTRY_FIXED_BYTES);
        out.extend_from_slice(self.name.as_str().as_bytes());
        out
    }

    /// Parses the bytes of the table; `None` when they are not as [`AgentEntry::to_bytes`] writes them.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (fixed, name) = bytes.split_first_chunk::<ENTRY_FIXED_BYTES>()?;
        let u64_at = |at: usize| Some(u64::from_le_bytes(*fixed.get(at..)?.first_chunk()?));
        let name_bytes = u16::from_le_bytes([fixed[2], fixed[3]]);
        if fixed[0] != ENTRY_FORMAT || name.len() != usize::from(name_bytes) {
            return None;
        }
        Some(Self {
            state: AgentState::from_u8(fixed[1])?,
            version: u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]),
            registered_at_ms: u64_at(8)?,
            valid_from_ms: u64_at(16)?,
            valid_until_ms: u64_at(24)?,
            key_id: KeyId(*fixed[32..].first_chunk()?),
            name: AgentName::parse(std::str::from_utf8(name).ok()?).ok()?,
        })
    }
}

const REPLACEMENT_FORMAT: u8 = 1;

/// The bytes of the table `replacements`.
pub(crate) fn replacement_bytes(replacement: &Replacement) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[0] = REPLACEMENT_FORMAT;
    bytes[1] = replacement.mode as u8;
    bytes[8..].copy_from_slice(&replacement.at_ms.to_le_bytes());
    bytes
}

/// Parses them; `None` when they are not as [`replacement_bytes`] writes them.
pub(crate) fn parse_replacement(bytes: &[u8]) -> Option<Replacement> {
    let bytes: &[u8; 16] = bytes.try_into().ok()?;
    let mode = RotationMode::from_u8(bytes[1])?;
    let replacement = Replacement { at_ms: u64::from_le_bytes(*bytes.last_chunk()?), mode };
    (replacement_bytes(&replacement) == *bytes).then_some(replacement)
}

/// What the tables hold of one agent.
pub(crate) struct Loaded {
    pub(crate) entry: AgentEntry,
    /// The newest of them, oldest first.
    pub(crate) versions: Vec<KeyVersion>,
    pub(crate) mailbox: MailboxRow,
    /// If any are set.
    pub(crate) attributes: Option<Arc<Attributes>>,
    /// Since when its state counts; nobody knows of a revocation without: since ever.
    pub(crate) since_ms: u64,
}

/// The open file. Cheap reads of the last committed state, one writer.
pub(crate) struct Storage {
    database: Database,
    path: PathBuf,
}

impl Storage {
    /// Opens or creates the file, readable by its owner only, and checks that it is ours.
    pub(crate) fn open(path: &Path, trust_domain: &TrustDomain) -> Result<Self, ServiceError> {
        let failed = |what| move |source| ServiceError::File { what, path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed("open"))?;
        let database = Database::builder().create_file(file).map_err(|error| match error {
            redb::DatabaseError::DatabaseAlreadyOpen => ServiceError::InUse(path.to_owned()),
            other => ServiceError::database(other),
        })?;
        // The file's name must be durable before the first answer is, or a crash loses the file with all it holds.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))?;
        Self::with_database(database, path, trust_domain)
    }

    fn with_database(database: Database, path: &Path, trust_domain: &TrustDomain) -> Result<Self, ServiceError> {
        let storage = Self { database, path: path.to_owned() };
        storage.adopt(trust_domain)?;
        Ok(storage)
    }

    pub(crate) fn begin_read(&self) -> Result<ReadTransaction, ServiceError> {
        self.database.begin_read().map_err(ServiceError::database)
    }

    pub(crate) fn begin_write(&self) -> Result<WriteTransaction, ServiceError> {
        let mut transaction = self.database.begin_write().map_err(ServiceError::database)?;
        transaction.set_durability(Durability::Immediate).map_err(ServiceError::database)?;
        transaction.set_two_phase_commit(true);
        Ok(transaction)
    }

    pub(crate) fn damaged(&self, what: impl std::fmt::Display) -> ServiceError {
        ServiceError::Damaged(format!("{}: {what}", self.path.display()))
    }

    /// Writes what a new file begins with, or checks what an old one holds.
    fn adopt(&self, trust_domain: &TrustDomain) -> Result<(), ServiceError> {
        let transaction = self.begin_write()?;
        {
            let mut meta = transaction.open_table(META).map_err(ServiceError::database)?;
            transaction.open_table(AGENTS).map_err(ServiceError::database)?;
            transaction.open_table(NAMES).map_err(ServiceError::database)?;
            transaction.open_table(KEY_RECORDS).map_err(ServiceError::database)?;
            transaction.open_table(REPLACEMENTS).map_err(ServiceError::database)?;
            transaction.open_table(MAILBOXES).map_err(ServiceError::database)?;
            transaction.open_table(ATTRIBUTES).map_err(ServiceError::database)?;
            transaction.open_table(STATES).map_err(ServiceError::database)?;
            transaction.open_table(TOKENS).map_err(ServiceError::database)?;
            transaction.open_table(AUDIT_OUTBOX).map_err(ServiceError::database)?;
            transaction.open_table(PREKEY_OWNERS).map_err(ServiceError::database)?;
            transaction.open_table(PREKEY_BATCHES).map_err(ServiceError::database)?;
            transaction.open_table(PREKEYS).map_err(ServiceError::database)?;
            // Without a format of its own: what a version that knows no key log adds meanwhile becomes leaves when the directory is
            // loaded.
            transaction.open_table(KEY_LEAVES).map_err(ServiceError::database)?;
            transaction.open_table(KEY_SUBTREES).map_err(ServiceError::database)?;
            transaction.open_table(KEY_PLACES).map_err(ServiceError::database)?;
            let is_new = meta.is_empty().map_err(ServiceError::database)?;
            if is_new {
                let mut put = |key, value: &[u8]| meta.insert(key, value).map(drop).map_err(ServiceError::database);
                put(META_FORMAT, &FORMAT.to_le_bytes())?;
                put(META_EPOCH, &1_u64.to_le_bytes())?;
                put(META_TRUST_DOMAIN, trust_domain.as_str().as_bytes())?;
            } else {
                self.check_meta(&meta, trust_domain)?;
                // An older version would take every replaced key for a good one, and forget what mailboxes may hold and agents
                // are: it must not open this file any more.
                meta.insert(META_FORMAT, &FORMAT.to_le_bytes()[..]).map_err(ServiceError::database)?;
            }
        }
        transaction.commit().map_err(ServiceError::database)
    }

    fn check_meta(
        &self,
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        trust_domain: &TrustDomain,
    ) -> Result<(), ServiceError> {
        let found = self.meta_number(meta, META_FORMAT)?;
        if !(FORMAT_OLDEST..=FORMAT).contains(&found) {
            return Err(ServiceError::Format { found, known: FORMAT });
        }
        let value = meta.get(META_TRUST_DOMAIN).map_err(ServiceError::database)?;
        let value = value.ok_or_else(|| self.damaged("meta trust_domain"))?;
        if value.value() != trust_domain.as_str().as_bytes() {
            return Err(ServiceError::TrustDomain {
                found: String::from_utf8_lossy(value.value()).into_owned(),
                configured: trust_domain.to_string(),
            });
        }
        Ok(())
    }

    /// The epoch in `meta`.
    pub(crate) fn epoch(&self, meta: &impl ReadableTable<&'static str, &'static [u8]>) -> Result<u64, ServiceError> {
        match self.meta_number(meta, META_EPOCH)? {
            0 => Err(self.damaged("meta epoch")),
            epoch => Ok(epoch),
        }
    }

    /// The number of the last event that was written into the outbox.
    pub(crate) fn outbox_number(&self, transaction: &WriteTransaction) -> Result<u64, ServiceError> {
        let meta = transaction.open_table(META).map_err(ServiceError::database)?;
        let row = meta.get(META_OUTBOX).map_err(ServiceError::database)?;
        let Some(row) = row else { return Ok(0) };
        let number = row.value().try_into().map(u64::from_le_bytes);
        number.map_err(|_| self.damaged(format!("meta {META_OUTBOX}")))
    }

    /// Sets it, inside `transaction`.
    pub(crate) fn set_outbox_number(&self, transaction: &WriteTransaction, number: u64) -> Result<(), ServiceError> {
        let mut meta = transaction.open_table(META).map_err(ServiceError::database)?;
        meta.insert(META_OUTBOX, &number.to_le_bytes()[..]).map(drop).map_err(ServiceError::database)
    }

    /// Moves the epoch forward inside `transaction`, and says where to.
    pub(crate) fn advance_epoch(&self, transaction: &WriteTransaction) -> Result<u64, ServiceError> {
        let mut meta = transaction.open_table(META).map_err(ServiceError::database)?;
        let epoch = self.epoch(&meta)?.checked_add(1).ok_or_else(|| self.damaged("meta epoch"))?;
        meta.insert(META_EPOCH, &epoch.to_le_bytes()[..]).map_err(ServiceError::database)?;
        Ok(epoch)
    }

    /// Keeps what the configuration says about retention, and says what of an earlier one still counts.
    pub(crate) fn adopt_retention(&self, retention_s: u32, now_ms: u64) -> Result<DefaultRetention, ServiceError> {
        let transaction = self.begin_write()?;
        let mut meta = transaction.open_table(META).map_err(ServiceError::database)?;
        let row = meta.get(META_RETENTION).map_err(ServiceError::database)?.map(|row| row.value().to_vec());
        let damaged = || self.damaged(format!("meta {META_RETENTION}"));
        let before = row.map(|row| DefaultRetention::parse(&row).ok_or_else(damaged)).transpose()?;
        let retention = DefaultRetention::configured(before, retention_s, now_ms);
        if before == Some(retention) {
            return Ok(retention);
        }
        meta.insert(META_RETENTION, &retention.to_bytes()[..]).map_err(ServiceError::database)?;
        drop(meta);
        transaction.commit().map_err(ServiceError::database)?;
        Ok(retention)
    }

    /// Every agent with the newest [`VERSIONS_HELD_MAX`] versions of its key record, for the snapshot at start.
    pub(crate) fn load(&self, mut each: impl FnMut(Loaded) -> Result<(), ServiceError>) -> Result<u64, ServiceError> {
        let transaction = self.begin_read()?;
        let meta = transaction.open_table(META).map_err(ServiceError::database)?;
        let agents = transaction.open_table(AGENTS).map_err(ServiceError::database)?;
        let names = transaction.open_table(NAMES).map_err(ServiceError::database)?;
        let key_records = transaction.open_table(KEY_RECORDS).map_err(ServiceError::database)?;
        let replacements = transaction.open_table(REPLACEMENTS).map_err(ServiceError::database)?;
        let mailboxes = transaction.open_table(MAILBOXES).map_err(ServiceError::database)?;
        let attributes = transaction.open_table(ATTRIBUTES).map_err(ServiceError::database)?;
        let states = transaction.open_table(STATES).map_err(ServiceError::database)?;
        for row in agents.iter().map_err(ServiceError::database)? {
            let (id, entry) = row.map_err(ServiceError::database)?;
            let id = AgentId(*id.value());
            let damaged = || self.damaged(format!("agent {id}"));
            let entry = AgentEntry::parse(entry.value()).ok_or_else(damaged)?;
            let mut versions = Vec::with_capacity(1);
            let stored = key_records.range((&id.0, 0)..=(&id.0, u32::MAX)).map_err(ServiceError::database)?;
            for row in stored.rev().take(VERSIONS_HELD_MAX) {
                let (key, bytes) = row.map_err(ServiceError::database)?;
                let signed = SignedKeyRecord::parse(bytes.value()).map_err(|_| damaged())?;
                let version = key.value().1;
                if signed.record.agent_id() != id || signed.record.version != version {
                    return Err(damaged());
                }
                let row = replacements.get((&id.0, version)).map_err(ServiceError::database)?;
                let replaced = row.map(|row| parse_replacement(row.value()).ok_or_else(damaged)).transpose()?;
                // Every version but the current one has a time at which it was replaced.
                if replaced.is_some() == versions.is_empty() {
                    return Err(damaged());
                }
                versions.push(KeyVersion { record: Arc::new(signed), replaced });
            }
            versions.reverse();
            let named = names.get(entry.name.as_str()).map_err(ServiceError::database)?;
            let newest = versions.last().map(|version| &version.record.record);
            let whole = named.is_some_and(|named| *named.value() == id.0)
                && newest.is_some_and(|newest| newest.version == entry.version && newest.key_id() == entry.key_id);
            if !whole {
                return Err(damaged());
            }
            let row = mailboxes.get(&id.0).map_err(ServiceError::database)?;
            let mailbox = row.map_or(Some(MailboxRow::default()), |row| MailboxRow::parse(row.value()));
            let mailbox = mailbox.ok_or_else(damaged)?;
            let attributes = self.attributes(&attributes, id)?.map(Arc::new);
            let since_ms = self.state(&states, id)?.map_or(0, |state| state.since_ms);
            each(Loaded { entry, versions, mailbox, attributes, since_ms })?;
        }
        self.epoch(&meta)
    }

    /// The attributes of an agent, if any are set.
    pub(crate) fn attributes(
        &self,
        table: &impl ReadableTable<&'static [u8; 16], &'static [u8]>,
        id: AgentId,
    ) -> Result<Option<Attributes>, ServiceError> {
        let Some(row) = table.get(&id.0).map_err(ServiceError::database)? else { return Ok(None) };
        parse_row(row.value()).map(Some).ok_or_else(|| self.damaged(format!("attributes of agent {id}")))
    }

    /// Since when and why an agent may not act.
    pub(crate) fn state(
        &self,
        table: &impl ReadableTable<&'static [u8; 16], &'static [u8]>,
        id: AgentId,
    ) -> Result<Option<StateRow>, ServiceError> {
        let Some(row) = table.get(&id.0).map_err(ServiceError::database)? else { return Ok(None) };
        StateRow::parse(row.value()).map(Some).ok_or_else(|| self.damaged(format!("state of agent {id}")))
    }

    /// Writes all tables, as they are at one moment, into a new file at `path`, readable by its owner only. Changes go on
    /// meanwhile, and are not in it.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), ServiceError> {
        let failed = |what| move |source| ServiceError::File { what, path: path.to_owned(), source };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed("replace")(error)),
            _ => {}
        }
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(path).map_err(failed("create"))?;
        let from = self.begin_read()?;
        let mut builder = Database::builder();
        builder.set_cache_size(COPY_CACHE_BYTES);
        let mut copy = builder.create_file(file).map_err(ServiceError::database)?;
        let mut known = Vec::new();
        {
            let to = copy.begin_write().map_err(ServiceError::database)?;
            macro_rules! copy_tables {
                ($($table:ident),+) => {$(
                    known.push($table.name());
                    let mut into = to.open_table($table).map_err(ServiceError::database)?;
                    for row in from.open_table($table).map_err(ServiceError::database)?.iter().map_err(ServiceError::database)? {
                        let (key, value) = row.map_err(ServiceError::database)?;
                        into.insert(key.value(), value.value()).map_err(ServiceError::database)?;
                    }
                    drop(into);
                )+};
            }
            copy_tables!(
                META,
                AGENTS,
                NAMES,
                KEY_RECORDS,
                REPLACEMENTS,
                MAILBOXES,
                ATTRIBUTES,
                STATES,
                TOKENS,
                AUDIT_OUTBOX,
                KEY_LEAVES,
                KEY_SUBTREES,
                KEY_PLACES
            );
            // No prekey that may be handed out before the copy is: whoever restored it would hand it out again.
            known.extend([PREKEY_OWNERS.name(), PREKEY_BATCHES.name(), PREKEYS.name()]);
            let mut owners = to.open_table(PREKEY_OWNERS).map_err(ServiceError::database)?;
            let stored = from.open_table(PREKEY_OWNERS).map_err(ServiceError::database)?;
            for row in stored.iter().map_err(ServiceError::database)? {
                let (agent, owner) = row.map_err(ServiceError::database)?;
                let owner = Owner::without_prekeys(owner.value()).ok_or_else(|| self.damaged("prekey_owners"))?;
                owners.insert(agent.value(), &owner[..]).map_err(ServiceError::database)?;
            }
            drop(owners);
            to.commit().map_err(ServiceError::database)?;
        }
        // A table that is added and not named above would be missing in every backup.
        let unknown = from.list_tables().map_err(ServiceError::database)?.find(|table| !known.contains(&table.name()));
        if let Some(unknown) = unknown {
            return Err(ServiceError::UnknownTable(unknown.name().to_owned()));
        }
        copy.compact().map_err(ServiceError::database)?;
        Ok(())
    }

    fn meta_number(
        &self,
        meta: &impl ReadableTable<&'static str, &'static [u8]>,
        key: &str,
    ) -> Result<u64, ServiceError> {
        let value = meta.get(key).map_err(ServiceError::database)?;
        let number = value.and_then(|value| value.value().try_into().ok()).map(u64::from_le_bytes);
        number.ok_or_else(|| self.damaged(format!("meta {key}")))
    }
}
