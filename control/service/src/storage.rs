//! The directory's tables and the bytes in them, wherever they are kept: in a redb file or in PostgreSQL (`creto-control-storage`).
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | text | `format` u64 LE, `epoch` u64 LE, `trust_domain` text, `retention` 16 bytes, see `mailboxes.rs`; `outbox` u64 LE; `incarnation` 16 bytes that no other directory has, and no earlier state of this one that was restored; `moving` 16 bytes, see `storage/moving.rs` |
//! | `agents` | agent id 16 | [`AgentEntry`] |
//! | `names` | name | agent id 16; the order of the list |
//! | `key_records` | agent id 16, version u32 | SignedKeyRecord as `docs/envelope-format.md` gives it |
//! | `replacements` | agent id 16, version u32 | when and how that version was replaced, and what a snapshot holds of it: 48 bytes, see `replaced_bytes` |
//! | `mailboxes` | agent id 16 | what is set for that agent's mailbox: 32 bytes, see `mailboxes.rs` |
//! | `attributes` | agent id 16 | type, roles and capabilities, see `attributes.rs`; no row: none are set |
//! | `states` | agent id 16 | since when and why an agent may not act, see `states.rs`; no row: it may |
//! | `tokens` | SHA-256 of a token, 32 | what it allows, see `tokens.rs` |
//! | `channels` | channel id 16 | a channel's record, see `channels.rs`; of a deleted one, too |
//! | `channel_names` | name | channel id 16, of those that are not deleted; the order of the list |
//! | `audit_outbox` | number u64 | an event that the audit log may not have yet, see `outbox.rs` |
//! | `key_leaves`, `key_subtrees`, `key_places` | | the key log, see `key_log/tables.rs` |
//! | `prekey_owners`, `prekey_batches`, `prekeys` | | prekeys that were not handed out yet, see `prekeys/tables.rs` |
//!
//! What one change concerns changes in one transaction, and so does the epoch. Commits are durable.
//!
//! `agents` and `replacements` have all that a snapshot holds of key records, so that a start reads a hundred bytes of an agent and
//! not seven thousand.

use std::iter::Peekable;
use std::path::Path;
use std::sync::Arc;

use creto_control_storage::{
    Backend, DatabaseUrl, Postgres, Reading, RedbFile, StorageError, Table, TableRef, Writing, copy_rows,
};
use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentName, AgentState, KeyId, KeyRecord, SignedKeyRecord, TrustDomain};
use creto_policy::{Attributes, KeyVersion, Replacement};

use crate::attributes::parse_row;
use crate::error::ServiceError;
use crate::key_log::tables::{KEY_LEAVES, KEY_PLACES, KEY_SUBTREES};
use crate::limits::{COPY_CACHE_BYTES, VERSIONS_HELD_MAX};
use crate::mailboxes::{DefaultRetention, MailboxRow};
use crate::prekeys::tables::{Owner, PREKEY_BATCHES, PREKEY_OWNERS, PREKEYS};
use crate::states::StateRow;

mod describe;
mod moving;

#[cfg(test)]
pub(crate) mod both;
#[cfg(test)]
pub(crate) mod faulty;
#[cfg(test)]
pub(crate) mod tests;

/// The format that this code writes. Format 1, which knew no replacements, format 2, which knew no settings of mailboxes, format 3,
/// which knew no attributes, no reasons of states and no tokens, format 4, which had what a snapshot holds of a key record in the
/// record only, and format 5, whose key records had no purpose, are read and become this one.
pub const FORMAT: u64 = 6;
/// The first in which it stands beside the records.
const FORMAT_DESCRIBED: u64 = 5;
/// The oldest format that this code reads.
const FORMAT_OLDEST: u64 = 1;

pub(crate) const META: Table<String, Vec<u8>> = Table::new("meta");
pub(crate) const AGENTS: Table<[u8; 16], Vec<u8>> = Table::new("agents");
pub(crate) const NAMES: Table<String, [u8; 16]> = Table::new("names");
pub(crate) const KEY_RECORDS: Table<([u8; 16], u32), Vec<u8>> = Table::new("key_records");

pub(crate) const REPLACEMENTS: Table<([u8; 16], u32), Vec<u8>> = Table::new("replacements");

pub(crate) const MAILBOXES: Table<[u8; 16], Vec<u8>> = Table::new("mailboxes");

pub(crate) const ATTRIBUTES: Table<[u8; 16], Vec<u8>> = Table::new("attributes");

pub(crate) const STATES: Table<[u8; 16], Vec<u8>> = Table::new("states");

pub(crate) const AUDIT_OUTBOX: Table<u64, Vec<u8>> = Table::new("audit_outbox");

pub(crate) const TOKENS: Table<[u8; 32], Vec<u8>> = Table::new("tokens");

pub(crate) const CHANNELS: Table<[u8; 16], Vec<u8>> = Table::new("channels");

pub(crate) const CHANNEL_NAMES: Table<String, [u8; 16]> = Table::new("channel_names");

const META_FORMAT: &str = "format";
const META_EPOCH: &str = "epoch";
const META_TRUST_DOMAIN: &str = "trust_domain";
const META_OUTBOX: &str = "outbox";
const META_RETENTION: &str = "retention";
const META_INCARNATION: &str = "incarnation";

/// What the directory keeps of an agent beside its key records, little-endian:
///
/// ```text
/// 0 u8 format=2 | 1 u8 state | 2 u16 name_bytes | 4 u32 current version | 8 u64 registered_at_ms
/// 16 u64 valid_from_ms | 24 u64 valid_until_ms | 32 [16] key id | 48 u8 third signature, 0 or 1 | 49 [7] 0 | 56 name
/// ```
///
/// What is behind the time of registration repeats the current record, so that lists and starts read a hundred bytes per agent, not
/// seven thousand. Format 1 had no byte 48 to 55.
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
    /// Whether the current record demands a third signature.
    pub has_fn_dsa_512: bool,
    /// The agent's name.
    pub name: AgentName,
}

const ENTRY_FORMAT: u8 = 2;
const ENTRY_FIXED_BYTES: usize = 56;

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
            has_fn_dsa_512: record.fn_dsa_512.is_some(),
            name: record.name.clone(),
        }
    }

    /// The current version of its key record.
    pub(crate) fn current(&self) -> KeyVersion {
        KeyVersion {
            version: self.version,
            key: self.key_id,
            valid_from_ms: self.valid_from_ms,
            valid_until_ms: self.valid_until_ms,
            has_fn_dsa_512: self.has_fn_dsa_512,
            replaced: None,
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
        out.extend_from_slice(&[u8::from(self.has_fn_dsa_512), 0, 0, 0, 0, 0, 0, 0]);
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
            has_fn_dsa_512: parse_flag(&fixed[48..])?,
            name: AgentName::parse(std::str::from_utf8(name).ok()?).ok()?,
        })
    }
}

/// Eight bytes: zero or one, and seven zeros.
fn parse_flag(bytes: &[u8]) -> Option<bool> {
    match bytes {
        [flag @ (0 | 1), 0, 0, 0, 0, 0, 0, 0] => Some(*flag == 1),
        _ => None,
    }
}

const REPLACED_FORMAT: u8 = 2;
const REPLACED_BYTES: usize = 48;

/// The bytes of the table `replacements`, little-endian:
///
/// ```text
/// 0 u8 format=2 | 1 u8 mode: 0 planned, 1 emergency | 2 u8 third signature, 0 or 1 | 3 [5] 0 | 8 u64 replaced at, Unix ms
/// 16 u64 valid_from_ms | 24 u64 valid_until_ms | 32 [16] key id
/// ```
///
/// Format 1 ended at byte 16, and had a zero as byte 2.
pub(crate) fn replaced_bytes(known: &KeyVersion) -> [u8; REPLACED_BYTES] {
    let replaced = known.replaced.as_ref().expect("only a version that was replaced has a row here");
    let mut bytes = [0; REPLACED_BYTES];
    bytes[0] = REPLACED_FORMAT;
    bytes[1] = replaced.mode as u8;
    bytes[2] = known.has_fn_dsa_512.into();
    bytes[8..16].copy_from_slice(&replaced.at_ms.to_le_bytes());
    bytes[16..24].copy_from_slice(&known.valid_from_ms.to_le_bytes());
    bytes[24..32].copy_from_slice(&known.valid_until_ms.to_le_bytes());
    bytes[32..].copy_from_slice(&known.key.0);
    bytes
}

/// Parses them; `None` when they are not as [`replaced_bytes`] writes them.
pub(crate) fn parse_replaced(version: u32, bytes: &[u8]) -> Option<KeyVersion> {
    let bytes: &[u8; REPLACED_BYTES] = bytes.try_into().ok()?;
    let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes[at..].first_chunk()?));
    let known = KeyVersion {
        version,
        key: KeyId(*bytes.last_chunk()?),
        valid_from_ms: u64_at(16)?,
        valid_until_ms: u64_at(24)?,
        has_fn_dsa_512: bytes[2] != 0,
        replaced: Some(Replacement { at_ms: u64_at(8)?, mode: RotationMode::from_u8(bytes[1])? }),
    };
    (replaced_bytes(&known) == *bytes).then_some(known)
}

/// How a version was replaced, by its row.
pub(crate) fn parse_replacement(bytes: &[u8]) -> Option<Replacement> {
    parse_replaced(0, bytes)?.replaced
}

/// What the tables hold of one agent.
pub(crate) struct Loaded {
    pub(crate) id: AgentId,
    pub(crate) entry: AgentEntry,
    /// The newest of them, oldest first, as a snapshot holds them.
    pub(crate) versions: Vec<KeyVersion>,
    pub(crate) mailbox: MailboxRow,
    /// If any are set.
    pub(crate) attributes: Option<Arc<Attributes>>,
    /// Since when its state counts; nobody knows of a revocation without: since ever.
    pub(crate) since_ms: u64,
}

/// The tables that a backup has as they are.
const COPIED: [TableRef; 15] = [
    META.erased(),
    AGENTS.erased(),
    NAMES.erased(),
    KEY_RECORDS.erased(),
    REPLACEMENTS.erased(),
    MAILBOXES.erased(),
    ATTRIBUTES.erased(),
    STATES.erased(),
    TOKENS.erased(),
    CHANNELS.erased(),
    CHANNEL_NAMES.erased(),
    AUDIT_OUTBOX.erased(),
    // Without a format of its own: what a version that knows no key log adds meanwhile becomes leaves when the directory is
    // loaded.
    KEY_LEAVES.erased(),
    KEY_SUBTREES.erased(),
    KEY_PLACES.erased(),
];

/// The others. No prekey may be handed out that a copy has: whoever restored it would hand it out again.
const NOT_COPIED: [TableRef; 3] = [PREKEY_OWNERS.erased(), PREKEY_BATCHES.erased(), PREKEYS.erased()];

/// The directory's tables. Cheap reads of the last committed state, one writer.
pub(crate) struct Storage {
    backend: Box<dyn Backend>,
}

impl Storage {
    /// Opens or creates the file, readable by its owner only, and checks that it is ours. It is not created where the directory was
    /// in a database before.
    pub(crate) fn open(path: &Path, trust_domain: &TrustDomain) -> Result<Self, ServiceError> {
        let is_there = path.exists();
        if !is_there {
            moving::check_unmarked(path)?;
        }
        let storage = Self::with_backend(Box::new(RedbFile::open(path)?), trust_domain)?;
        if is_there {
            // Whoever put the file here and named no database means it.
            moving::unmark(path)?;
        }
        Ok(storage)
    }

    /// Opens the database, makes the tables if there are none, and checks that they are ours. One that is new takes over what is
    /// in the file at `path`, if there is one, as a backup has it; the file is renamed then, so that this happens once.
    pub(crate) fn open_database(
        url: DatabaseUrl,
        path: &Path,
        trust_domain: &TrustDomain,
    ) -> Result<Self, ServiceError> {
        moving::open_database(Self { backend: Box::new(Postgres::open(url)?) }, path, trust_domain)
    }

    pub(crate) fn with_backend(backend: Box<dyn Backend>, trust_domain: &TrustDomain) -> Result<Self, ServiceError> {
        let storage = Self { backend };
        storage.is_ours(trust_domain)?;
        storage.create_all()?;
        storage.adopt(trust_domain)?;
        Ok(storage)
    }

    fn create_all(&self) -> Result<(), ServiceError> {
        self.backend.create(&COPIED)?;
        Ok(self.backend.create(&NOT_COPIED)?)
    }

    /// Whether there is a directory already. One that is not ours stays as it is.
    ///
    /// # Errors
    /// [`ServiceError::Format`] and [`ServiceError::TrustDomain`].
    fn is_ours(&self, trust_domain: &TrustDomain) -> Result<bool, ServiceError> {
        let transaction = self.begin_read()?;
        if !transaction.table_names()?.iter().any(|name| name == META.erased().name())
            || transaction.table(META).count()? == 0
        {
            return Ok(false);
        }
        self.check_meta(&*transaction, trust_domain)?;
        Ok(true)
    }

    /// Tables that are only read, whatever they are.
    pub(crate) fn unchecked(backend: Box<dyn Backend>) -> Self {
        Self { backend }
    }

    pub(crate) fn begin_read(&self) -> Result<Box<dyn Reading>, ServiceError> {
        Ok(self.backend.begin_read()?)
    }

    pub(crate) fn begin_write(&self) -> Result<Box<dyn Writing>, ServiceError> {
        Ok(self.backend.begin_write()?)
    }

    pub(crate) fn damaged(&self, what: impl std::fmt::Display) -> ServiceError {
        ServiceError::Damaged(format!("{}: {what}", self.backend.place()))
    }

    /// Writes what new tables begin with, or checks what old ones hold.
    fn adopt(&self, trust_domain: &TrustDomain) -> Result<(), ServiceError> {
        let transaction = self.begin_write()?;
        let meta = transaction.table(META);
        if meta.count()? == 0 {
            meta.put(META_EPOCH, &1_u64.to_le_bytes())?;
            meta.put(META_TRUST_DOMAIN, trust_domain.as_str().as_bytes())?;
        } else {
            self.check_meta(&*transaction, trust_domain)?;
            if self.meta_number(&*transaction, META_FORMAT)? < FORMAT_DESCRIBED {
                describe::all(self, &*transaction)?;
            }
        }
        // An older version would take every replaced key for a good one, and forget what mailboxes may hold and agents are: it
        // must not open these tables any more.
        meta.put(META_FORMAT, &FORMAT.to_le_bytes())?;
        if meta.get(META_INCARNATION)?.is_none() {
            let mut incarnation = [0; 16];
            getrandom::fill(&mut incarnation).map_err(|error| ServiceError::Thread(std::io::Error::other(error)))?;
            meta.put(META_INCARNATION, &incarnation)?;
        }
        Ok(transaction.commit()?)
    }

    /// Which directory this is: another one than every other, and than this one before it was restored.
    pub(crate) fn incarnation(&self) -> Result<[u8; 16], ServiceError> {
        let row = self.begin_read()?.table(META).get(META_INCARNATION)?;
        let row = row.and_then(|row| row.try_into().ok());
        row.ok_or_else(|| self.damaged("meta incarnation"))
    }

    /// Whether one was given to it.
    pub(crate) fn has_incarnation(&self) -> Result<bool, ServiceError> {
        Ok(self.begin_read()?.table(META).get(META_INCARNATION)?.is_some())
    }

    /// What is in the tables is from a backup: whoever opens them next gives them another incarnation.
    pub(crate) fn forget_incarnation(&self) -> Result<(), ServiceError> {
        let transaction = self.begin_write()?;
        transaction.table(META).delete(META_INCARNATION)?;
        Ok(transaction.commit()?)
    }

    /// Whether this process still has the tables, and knows everything that is stored.
    pub(crate) fn verify(&self) -> Result<(), StorageError> {
        self.backend.verify()
    }

    fn check_meta(&self, transaction: &dyn Reading, trust_domain: &TrustDomain) -> Result<(), ServiceError> {
        let found = self.meta_number(transaction, META_FORMAT)?;
        if !(FORMAT_OLDEST..=FORMAT).contains(&found) {
            return Err(ServiceError::Format { found, known: FORMAT });
        }
        let value = transaction.table(META).get(META_TRUST_DOMAIN)?;
        let value = value.ok_or_else(|| self.damaged("meta trust_domain"))?;
        if value != trust_domain.as_str().as_bytes() {
            return Err(ServiceError::TrustDomain {
                found: String::from_utf8_lossy(&value).into_owned(),
                configured: trust_domain.to_string(),
            });
        }
        Ok(())
    }

    /// The trust domain in `meta`.
    pub(crate) fn trust_domain(&self, transaction: &dyn Reading) -> Result<TrustDomain, ServiceError> {
        let value = transaction.table(META).get(META_TRUST_DOMAIN)?.unwrap_or_default();
        let domain = std::str::from_utf8(&value).ok().and_then(|text| TrustDomain::parse(text).ok());
        domain.ok_or_else(|| self.damaged("meta trust_domain"))
    }

    /// The epoch in `meta`.
    pub(crate) fn epoch(&self, transaction: &dyn Reading) -> Result<u64, ServiceError> {
        match self.meta_number(transaction, META_EPOCH)? {
            0 => Err(self.damaged("meta epoch")),
            epoch => Ok(epoch),
        }
    }

    /// The number of the last event that was written into the outbox.
    pub(crate) fn outbox_number(&self, transaction: &dyn Reading) -> Result<u64, ServiceError> {
        match transaction.table(META).get(META_OUTBOX)? {
            Some(row) => self.number(META_OUTBOX, &row),
            None => Ok(0),
        }
    }

    /// Sets it, inside `transaction`.
    pub(crate) fn set_outbox_number(&self, transaction: &dyn Writing, number: u64) -> Result<(), ServiceError> {
        Ok(transaction.table(META).put(META_OUTBOX, &number.to_le_bytes())?)
    }

    /// Moves the epoch forward inside `transaction`, and says where to.
    pub(crate) fn advance_epoch(&self, transaction: &dyn Writing) -> Result<u64, ServiceError> {
        let epoch = self.epoch(transaction)?.checked_add(1).ok_or_else(|| self.damaged("meta epoch"))?;
        transaction.table(META).put(META_EPOCH, &epoch.to_le_bytes())?;
        Ok(epoch)
    }

    /// Keeps what the configuration says about retention, and says what of an earlier one still counts.
    pub(crate) fn adopt_retention(&self, retention_s: u32, now_ms: u64) -> Result<DefaultRetention, ServiceError> {
        let transaction = self.begin_write()?;
        let meta = transaction.table(META);
        let damaged = || self.damaged(format!("meta {META_RETENTION}"));
        let row = meta.get(META_RETENTION)?;
        let before = row.map(|row| DefaultRetention::parse(&row).ok_or_else(damaged)).transpose()?;
        let retention = DefaultRetention::configured(before, retention_s, now_ms);
        if before == Some(retention) {
            return Ok(retention);
        }
        meta.put(META_RETENTION, &retention.to_bytes())?;
        transaction.commit()?;
        Ok(retention)
    }

    /// Every agent with what a snapshot holds of the newest [`VERSIONS_HELD_MAX`] versions of its key record, for the start. No
    /// record is read.
    pub(crate) fn load(&self, mut each: impl FnMut(Loaded) -> Result<(), ServiceError>) -> Result<u64, ServiceError> {
        let transaction = self.begin_read()?;
        let names = transaction.table(NAMES);
        let held_max = u32::try_from(VERSIONS_HELD_MAX).expect("a small number");
        // All in the order of agents, so each is read once, from its beginning to its end.
        let mut agents = transaction.table(AGENTS).all();
        let mut replacements = Beside::of(transaction.table(REPLACEMENTS).all());
        let mut mailboxes = Beside::of(transaction.table(MAILBOXES).all());
        let mut attributes = Beside::of(transaction.table(ATTRIBUTES).all());
        let mut states = Beside::of(transaction.table(STATES).all());
        loop {
            let mut entries = Vec::with_capacity(NAMES_AT_ONCE);
            for row in agents.by_ref().take(NAMES_AT_ONCE) {
                let (id, entry) = row?;
                let entry = AgentEntry::parse(&entry);
                entries.push((id, entry.ok_or_else(|| self.damaged(format!("agent {}", AgentId(id))))?));
            }
            if entries.is_empty() {
                return self.epoch(&*transaction);
            }
            let named = names.get_many(entries.iter().map(|(_, entry)| entry.name.as_str()))?;
            for ((key, entry), named) in entries.into_iter().zip(named) {
                let id = AgentId(key);
                let damaged = || self.damaged(format!("agent {id}"));
                // Those that are not held are not read: they become more for ever.
                let not_held = entry.version.saturating_sub(held_max);
                if not_held > 0 {
                    replacements = Beside::of(transaction.table(REPLACEMENTS).after(&(key, not_held)));
                }
                let mut versions = Vec::with_capacity(1);
                while let Some(((_, version), row)) = replacements.next_where(|(agent, _)| agent.cmp(&key))? {
                    versions.push(parse_replaced(version, &row).ok_or_else(damaged)?);
                }
                versions.push(entry.current());
                // Every version but the current one was replaced by the one that follows it, without a gap.
                let follow = versions.iter().zip(1..).all(|(known, place)| known.version == not_held + place);
                if named != Some(key) || !follow {
                    return Err(damaged());
                }
                let row = mailboxes.next_where(|agent| agent.cmp(&key))?;
                let mailbox = row.map_or(Some(MailboxRow::default()), |(_, row)| MailboxRow::parse(&row));
                let mailbox = mailbox.ok_or_else(damaged)?;
                let row = attributes.next_where(|agent| agent.cmp(&key))?;
                let attributes = self.parse_attributes(id, row.map(|(_, row)| row))?.map(Arc::new);
                let row = states.next_where(|agent| agent.cmp(&key))?;
                let since_ms = self.parse_state(id, row.map(|(_, row)| row))?.map_or(0, |state| state.since_ms);
                each(Loaded { id, entry, versions, mailbox, attributes, since_ms })?;
            }
        }
    }

    /// The current key record of an agent; `None` when it is not registered.
    pub(crate) fn current_record(
        &self,
        transaction: &dyn Reading,
        id: AgentId,
    ) -> Result<Option<KeyRecord>, ServiceError> {
        let damaged = || self.damaged(format!("agent {id}"));
        let Some(row) = transaction.table(AGENTS).get(&id.0)? else { return Ok(None) };
        let version = AgentEntry::parse(&row).ok_or_else(damaged)?.version;
        let row = transaction.table(KEY_RECORDS).get(&(id.0, version))?.ok_or_else(damaged)?;
        self.parse_record(id, version, &row).map(|signed| Some(signed.record))
    }

    /// The key record in a row of its table.
    pub(crate) fn parse_record(&self, id: AgentId, version: u32, row: &[u8]) -> Result<SignedKeyRecord, ServiceError> {
        let signed = SignedKeyRecord::parse(row).ok();
        let is_its = |signed: &SignedKeyRecord| signed.record.version == version && signed.record.agent_id() == id;
        let damaged = || self.damaged(format!("key record {version} of agent {id}"));
        signed.filter(is_its).ok_or_else(damaged)
    }

    /// The attributes of an agent, if any are set.
    pub(crate) fn attributes(
        &self,
        transaction: &dyn Reading,
        id: AgentId,
    ) -> Result<Option<Attributes>, ServiceError> {
        self.parse_attributes(id, transaction.table(ATTRIBUTES).get(&id.0)?)
    }

    pub(crate) fn parse_attributes(
        &self,
        id: AgentId,
        row: Option<Vec<u8>>,
    ) -> Result<Option<Attributes>, ServiceError> {
        let Some(row) = row else { return Ok(None) };
        parse_row(&row).map(Some).ok_or_else(|| self.damaged(format!("attributes of agent {id}")))
    }

    /// Since when and why an agent may not act.
    pub(crate) fn state(&self, transaction: &dyn Reading, id: AgentId) -> Result<Option<StateRow>, ServiceError> {
        self.parse_state(id, transaction.table(STATES).get(&id.0)?)
    }

    pub(crate) fn parse_state(&self, id: AgentId, row: Option<Vec<u8>>) -> Result<Option<StateRow>, ServiceError> {
        let Some(row) = row else { return Ok(None) };
        StateRow::parse(&row).map(Some).ok_or_else(|| self.damaged(format!("state of agent {id}")))
    }

    /// Writes all tables, as they are at one moment, into a new file at `path`, readable by its owner only. Changes go on
    /// meanwhile, and are not in it.
    pub(crate) fn copy_to(&self, path: &Path) -> Result<(), ServiceError> {
        let from = self.begin_read()?;
        let mut copy = RedbFile::replace(path, COPY_CACHE_BYTES)?;
        copy.create(&COPIED)?;
        let to = copy.begin_write()?;
        self.copy_rows(&*from, &*to)?;
        to.commit()?;
        Ok(copy.compact()?)
    }

    fn copy_rows(&self, from: &dyn Reading, to: &dyn Writing) -> Result<(), ServiceError> {
        // A table that is added and not named above would be missing in every backup.
        let is_known = |name: &String| COPIED.iter().chain(&NOT_COPIED).any(|table| table.name() == name);
        if let Some(unknown) = from.table_names()?.into_iter().find(|name| !is_known(name)) {
            return Err(ServiceError::UnknownTable(unknown));
        }
        for table in COPIED {
            copy_rows(from, to, table)?;
        }
        for row in from.table(PREKEY_OWNERS).all() {
            let (agent, owner) = row?;
            let owner = Owner::without_prekeys(&owner).ok_or_else(|| self.damaged("prekey_owners"))?;
            to.table(PREKEY_OWNERS).put(&agent, &owner)?;
        }
        Ok(())
    }

    fn meta_number(&self, transaction: &dyn Reading, key: &str) -> Result<u64, ServiceError> {
        let value = transaction.table(META).get(key)?;
        self.number(key, &value.unwrap_or_default())
    }

    fn number(&self, key: &str, value: &[u8]) -> Result<u64, ServiceError> {
        value.try_into().map(u64::from_le_bytes).map_err(|_| self.damaged(format!("meta {key}")))
    }
}

/// Names that are looked up together.
const NAMES_AT_ONCE: usize = 256;

/// Rows that are read beside others, in the same order.
struct Beside<I: Iterator> {
    rows: Peekable<I>,
}

impl<I, K, V> Beside<I>
where
    I: Iterator<Item = Result<(K, V), StorageError>>,
{
    fn of(rows: I) -> Self {
        Self { rows: rows.peekable() }
    }

    /// The next row if it is where `place` says `Equal`; those before it, which nothing asked for, are passed over.
    fn next_where(&mut self, place: impl Fn(&K) -> std::cmp::Ordering) -> Result<Option<(K, V)>, StorageError> {
        while let Some(row) = self.rows.peek() {
            match row.as_ref().map_or(std::cmp::Ordering::Equal, |(key, _)| place(key)) {
                std::cmp::Ordering::Less => drop(self.rows.next()),
                std::cmp::Ordering::Equal => return self.rows.next().transpose(),
                std::cmp::Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }
}
