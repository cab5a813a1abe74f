//! Sessions of channels that this agent publishes under, and who was given them. The file belongs to the one process that publishes.
//!
//! | table | key | value |
//! |---|---|---|
//! | `records` | channel 16 | u8 format=1, [3] 0, u32 version, [32] SHA-256 of the record, [16] its owner, check 8 |
//! | `sessions` | channel 16, session 16 | below |
//! | `given` | channel 16, session 16, agent 16 | u64 the first message that the agent may have been given the key of |
//! | `owed` | channel 16, session 16, agent 16 | u64 the first message that the agent is still to be given the key of |
//!
//! A session, little-endian:
//!
//! ```text
//! 0 u8 format=1 | 1 u8 1 when it is over | 2 [6] 0 | 8 u64 end | 16 u64 begun at | 24 u64 used at, Unix ms
//! 32 [144] sealed: the channel key that newcomers are given | 176 [144] sealed: the chain, zero when it is over | check 8
//! ```
//!
//! What is sealed is 16 random bytes, then ciphertext and tag of AES-256-GCM under a key that follows from them, the row's key and
//! the agent's signing keys. The chain is where it may be when whoever has it now dies: counters before it may have been used.
//! A copy of the file would go on under the same counters, so sessions in a file that is not where it was written are over: they are
//! ended in the transaction that makes the file one of this place.

use std::path::Path;

use creto_crypto_accel::session::{ChannelKey, ChannelSendChain, SessionId};
use creto_envelope::{AgentId, ChannelId};
use redb::{ReadableTable, TableDefinition};
use zeroize::Zeroizing;

use super::sealed::{SEALED_POSITION_BYTES, open_position, seal_position};
use super::{META, META_PLACE, StateFile, with_check};
use crate::channel::publishing::{Changes, Members, StoredSession};
use crate::error::StateError;

const FILE: &str = "publishing.redb";
const RECORDS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("records");
const SESSIONS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("sessions");
const GIVEN: TableDefinition<'_, &[u8; 48], u64> = TableDefinition::new("given");
const OWED: TableDefinition<'_, &[u8; 48], u64> = TableDefinition::new("owed");
const FORMAT: u8 = 1;
const FIXED_BYTES: usize = 32;
const RECORD_BYTES: usize = 56;

/// The newest record of a channel that was seen: an older one is not gone by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SeenRecord {
    pub(crate) version: u32,
    pub(crate) sha256: [u8; 32],
    /// Who owned the channel by it.
    pub(crate) owner: AgentId,
}

/// What is stored of one channel.
#[derive(Debug, Default)]
pub(crate) struct StoredChannel {
    pub(crate) record: Option<SeenRecord>,
    /// In the order of their beginnings, each with those who may have it, or are to have it.
    pub(crate) sessions: Vec<(StoredSession, Members)>,
}

/// The open file.
pub(crate) struct PublishingFile {
    file: StateFile,
    key: Zeroizing<[u8; 32]>,
}

impl PublishingFile {
    /// Opens the file. What is sealed in it is so under `key`.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::InUse`] while another process publishes.
    pub(crate) fn open(folder: &Path, agent: AgentId, key: Zeroizing<[u8; 32]>) -> Result<Self, StateError> {
        let opened = Self { file: StateFile::open(folder, FILE, agent)?, key };
        let file = &opened.file;
        let here = file.place()?;
        let is_copy = file.write(|transaction| {
            let mut meta = transaction.open_table(META).map_err(|error| file.database_error(error))?;
            let known = meta.get(META_PLACE).map_err(|error| file.database_error(error))?;
            let is_copy = known.is_some_and(|known| known.value() != here);
            transaction.open_table(RECORDS).map_err(|error| file.database_error(error))?;
            transaction.open_table(GIVEN).map_err(|error| file.database_error(error))?;
            transaction.open_table(OWED).map_err(|error| file.database_error(error))?;
            let mut sessions = transaction.open_table(SESSIONS).map_err(|error| file.database_error(error))?;
            if is_copy {
                // Somebody else may go on with what is in it; also after this process has ended.
                opened.end_all(&mut sessions)?;
            }
            meta.insert(META_PLACE, &here[..]).map_err(|error| file.database_error(error))?;
            Ok(is_copy)
        })?;
        if is_copy {
            let path = file.path.display();
            tracing::warn!(file = %path, "this is a copy: its sessions may be in use elsewhere, so new ones are begun");
        }
        Ok(opened)
    }

    /// No message is sealed under any of these sessions any more; newcomers may still be given what was before.
    fn end_all(&self, sessions: &mut redb::Table<'_, &'static [u8; 32], &'static [u8]>) -> Result<(), StateError> {
        let file = &self.file;
        let mut ended = Vec::new();
        for row in sessions.iter().map_err(|error| file.database_error(error))? {
            let (key, value) = row.map_err(|error| file.database_error(error))?;
            let key = *key.value();
            let session = self.parse(&key, file.checked(&key, value.value())?)?;
            let value = with_check(&key, self.content(&key, &StoredSession { chain: None, ..session }));
            ended.push((key, value));
        }
        for (key, value) in ended {
            sessions.insert(&key, value.as_slice()).map_err(|error| file.database_error(error))?;
        }
        Ok(())
    }

    /// What is stored of a channel. It is the caller's from now on.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn channel(&self, channel: ChannelId) -> Result<StoredChannel, StateError> {
        let file = &self.file;
        file.write(|transaction| {
            let records = transaction.open_table(RECORDS).map_err(|error| file.database_error(error))?;
            let record = records.get(&channel.0).map_err(|error| file.database_error(error))?;
            let record = record.map(|value| self.parse_record(channel, value.value())).transpose()?;
            let sessions = transaction.open_table(SESSIONS).map_err(|error| file.database_error(error))?;
            let given = transaction.open_table(GIVEN).map_err(|error| file.database_error(error))?;
            let owed = transaction.open_table(OWED).map_err(|error| file.database_error(error))?;
            let mut read = Vec::new();
            let all = session_key(channel, &[0; 16])..=session_key(channel, &[0xff; 16]);
            for row in sessions
                .range::<&[u8; 32]>(&all.start().clone()..=&all.end().clone())
                .map_err(|error| file.database_error(error))?
            {
                let (key, value) = row.map_err(|error| file.database_error(error))?;
                let key = *key.value();
                let session = self.parse(&key, file.checked(&key, value.value())?)?;
                let mut members = Members::default();
                let (first, last) = (given_key(&key, &[0; 16]), given_key(&key, &[0xff; 16]));
                for (table, agents) in [(&given, &mut members.given), (&owed, &mut members.owed)] {
                    for row in table.range::<&[u8; 48]>(&first..=&last).map_err(|error| file.database_error(error))? {
                        let (agent, from) = row.map_err(|error| file.database_error(error))?;
                        let agent = AgentId(*agent.value().last_chunk().expect("48 bytes hold 16"));
                        agents.insert(agent, from.value());
                    }
                }
                read.push((session, members));
            }
            read.sort_by_key(|(session, _)| session.begun_at_ms);
            Ok(StoredChannel { record, sessions: read })
        })
    }

    /// Writes what changed of a channel, durably, in one transaction.
    ///
    /// # Errors
    /// [`StateError`]: nothing that depends on it may be used.
    pub(crate) fn write(&self, channel: ChannelId, changes: &Changes) -> Result<(), StateError> {
        let file = &self.file;
        file.write(|transaction| {
            let mut sessions = transaction.open_table(SESSIONS).map_err(|error| file.database_error(error))?;
            let mut given = transaction.open_table(GIVEN).map_err(|error| file.database_error(error))?;
            let mut owed = transaction.open_table(OWED).map_err(|error| file.database_error(error))?;
            for session in &changes.sessions {
                let key = session_key(channel, &session.base.session_id());
                let value = with_check(&key, self.content(&key, session));
                sessions.insert(&key, value.as_slice()).map_err(|error| file.database_error(error))?;
            }
            for (table, rows) in [(&mut given, &changes.given), (&mut owed, &changes.owed)] {
                for (session, agent, from) in rows {
                    let key = given_key(&session_key(channel, session), &agent.0);
                    match from {
                        Some(from) => table.insert(&key, *from).map_err(|error| file.database_error(error))?,
                        None => table.remove(&key).map_err(|error| file.database_error(error))?,
                    };
                }
            }
            for session in &changes.removed {
                let key = session_key(channel, session);
                sessions.remove(&key).map_err(|error| file.database_error(error))?;
                let (first, last) = (given_key(&key, &[0; 16]), given_key(&key, &[0xff; 16]));
                for table in [&mut given, &mut owed] {
                    table
                        .retain_in::<&[u8; 48], _>(&first..=&last, |_, _| false)
                        .map_err(|error| file.database_error(error))?;
                }
            }
            Ok(())
        })
    }

    /// Writes down which record of a channel is the newest that was seen.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn seen(&self, channel: ChannelId, record: SeenRecord) -> Result<(), StateError> {
        let file = &self.file;
        file.write(|transaction| {
            let mut records = transaction.open_table(RECORDS).map_err(|error| file.database_error(error))?;
            let mut content = Zeroizing::new(Vec::with_capacity(RECORD_BYTES));
            content.extend_from_slice(&[FORMAT, 0, 0, 0]);
            content.extend_from_slice(&record.version.to_le_bytes());
            content.extend_from_slice(&record.sha256);
            content.extend_from_slice(&record.owner.0);
            let value = with_check(&channel.0, content);
            records.insert(&channel.0, value.as_slice()).map_err(|error| file.database_error(error))?;
            Ok(())
        })
    }

    fn parse_record(&self, channel: ChannelId, value: &[u8]) -> Result<SeenRecord, StateError> {
        let content: &[u8; RECORD_BYTES] = self
            .file
            .checked(&channel.0, value)?
            .try_into()
            .map_err(|_| self.file.damaged("what was seen of a channel cannot be read"))?;
        if content[..4] != [FORMAT, 0, 0, 0] {
            return Err(self.file.damaged("what was seen of a channel has an unknown format"));
        }
        let version = u32::from_le_bytes(*content[4..].first_chunk().expect("56 bytes hold it"));
        let sha256 = *content[8..].first_chunk().expect("56 bytes hold it");
        Ok(SeenRecord { version, sha256, owner: AgentId(*content.last_chunk().expect("56 bytes hold it")) })
    }

    fn content(&self, key: &[u8; 32], session: &StoredSession) -> Zeroizing<Vec<u8>> {
        let mut content = Zeroizing::new(Vec::with_capacity(FIXED_BYTES + 2 * SEALED_POSITION_BYTES));
        content.extend_from_slice(&[FORMAT, u8::from(session.chain.is_none()), 0, 0, 0, 0, 0, 0]);
        for number in [session.end, session.begun_at_ms, session.used_at_ms] {
            content.extend_from_slice(&number.to_le_bytes());
        }
        content.extend_from_slice(&seal_position(&self.key, key, &session.base.to_bytes()));
        match &session.chain {
            Some(chain) => content.extend_from_slice(&seal_position(&self.key, key, &chain.to_bytes())),
            None => content.extend_from_slice(&[0; SEALED_POSITION_BYTES]),
        }
        content
    }

    fn parse(&self, key: &[u8; 32], content: &[u8]) -> Result<StoredSession, StateError> {
        let damaged = || self.file.damaged("a session of a channel cannot be read");
        let content: &[u8; FIXED_BYTES + 2 * SEALED_POSITION_BYTES] = content.try_into().map_err(|_| damaged())?;
        let is_over = match content[..8] {
            [FORMAT, is_over @ (0 | 1), 0, 0, 0, 0, 0, 0] => is_over == 1,
            _ => return Err(damaged()),
        };
        let number = |at: usize| u64::from_le_bytes(*content[at..].first_chunk().expect("the fixed part holds it"));
        let opened = |at: usize| {
            let sealed = content[at..].first_chunk().expect("both are there");
            open_position(&self.key, key, sealed).ok_or_else(damaged)
        };
        let base = ChannelKey::from_bytes(&opened(FIXED_BYTES)?).map_err(|_| damaged())?;
        let chain = match is_over {
            true => None,
            false => {
                let bytes = opened(FIXED_BYTES + SEALED_POSITION_BYTES)?;
                Some(ChannelSendChain::from_bytes(&bytes).map_err(|_| damaged())?)
            }
        };
        let id: SessionId = base.session_id();
        if id[..] != key[16..] || chain.as_ref().is_some_and(|chain| chain.session_id() != id) {
            return Err(damaged());
        }
        let end = chain.as_ref().map_or(number(8), ChannelSendChain::counter);
        Ok(StoredSession { base, chain, end, begun_at_ms: number(16), used_at_ms: number(24) })
    }
}

impl std::fmt::Debug for PublishingFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishingFile").field("file", &self.file).finish_non_exhaustive()
    }
}

fn session_key(channel: ChannelId, session: &SessionId) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&channel.0);
    key[16..].copy_from_slice(session);
    key
}

fn given_key(session: &[u8; 32], agent: &[u8; 16]) -> [u8; 48] {
    let mut key = [0; 48];
    key[..32].copy_from_slice(session);
    key[32..].copy_from_slice(agent);
    key
}
