//! Sessions of a recipient: written by whoever is subscribed, before it acknowledges what they say is settled.
//!
//! A session, little-endian:
//!
//! ```text
//! 0 u8 format=1 | 1 [7] 0 | 8 u64 used: higher was used later | 16 chain, as creto-crypto-accel stores it | check 8
//! ```
//!
//! One that was opened to a prekey:
//!
//! ```text
//! 0 u8 format=2 | 1 [7] 0 | 8 u64 used | 16 [16] id of the prekey | 32 chain | check 8
//! ```
//!
//! A refused message:
//!
//! ```text
//! 0 u8 format=1 | 1 u8 settled: 1 when it was acknowledged after all | 2 [6] 0 | 8 u64 order: higher was refused later
//! 16 u64 refused at, Unix ms | 24 u64 number in the mailbox, 0 if unknown | 32 [32] its key, zero when settled | check 8
//! ```
//!
//! A key of a channel's session, in table `channel_keys` under publisher and session:
//!
//! ```text
//! 0 u8 format=1 | 1 [7] 0 | 8 u64 received at | 16 u64 used at, Unix ms | 24 [144] the channel key, sealed ([`sealed`]) | check 8
//! ```
//!
//! What is remembered of a channel that is read, in table `channels` under its id:
//!
//! ```text
//! 0 u8 format=1 | 1 u8 bits: 1 a subscription began, 2 a record was seen | 2 [6] 0 | 8 u64 what is from before it, at most
//! 16 u32 version of the record | 20 [4] 0 | 24 [32] its SHA-256 | 56 [16] its owner | check 8
//! ```
//!
//! [`sealed`]: super::sealed

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use creto_crypto_accel::session::{ChannelKey, ReceiveChain, SessionId};
use creto_envelope::{AgentId, ChannelId, KeyId};
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use zeroize::Zeroizing;

use super::publishing::SeenRecord;
use super::sealed::{SEALED_POSITION_BYTES, open_position, seal_position};
use super::{StateFile, with_check};
use crate::channel::keys::{KeyChanges, StoredKey, Times, session_of};
use crate::error::StateError;
use crate::receiver::sessions::SessionUse;
use crate::receiver::sessions::refused::Refused;

const FILE: &str = "incoming.redb";
const SESSIONS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("sessions");
const REFUSED: TableDefinition<'_, &[u8; 40], &[u8]> = TableDefinition::new("refused");
const CHANNEL_KEYS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("channel_keys");
const CHANNELS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("channels");
const VALUE_FORMAT: u8 = 1;
/// Of a session that was opened to a prekey.
const PREKEY_VALUE_FORMAT: u8 = 2;
const FIXED_BYTES: usize = 16;
const REFUSED_BYTES: usize = 64;
const CHANNEL_KEY_BYTES: usize = 24 + SEALED_POSITION_BYTES;
const CHANNEL_BYTES: usize = 72;

/// What is remembered of a channel that is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct ReadChannel {
    /// What was published up to and with this may be from before this agent was let in. None: no subscription began.
    pub(crate) before: Option<u64>,
    /// The newest record of it that was seen.
    pub(crate) seen: Option<SeenRecord>,
}

/// A session to write: whose, when it was used, the prekey to which it was opened if it was, and its chain as stored.
pub(crate) struct Write {
    pub(crate) sender: AgentId,
    pub(crate) session: SessionId,
    pub(crate) used: u64,
    pub(crate) prekey: Option<KeyId>,
    pub(crate) chain: Zeroizing<Vec<u8>>,
}

/// A session that was read.
pub(crate) struct Read {
    pub(crate) sender: AgentId,
    pub(crate) session: SessionId,
    pub(crate) used: u64,
    /// To which it was opened, if it was.
    pub(crate) prekey: Option<KeyId>,
    pub(crate) chain: ReceiveChain,
}

/// What the file holds.
pub(crate) struct Stored {
    /// In the order of their use.
    pub(crate) sessions: Vec<Read>,
    /// In the order in which they were refused.
    pub(crate) refused: Vec<(SessionUse, Refused)>,
    pub(crate) channel_keys: Vec<StoredKey>,
    pub(crate) channels: BTreeMap<ChannelId, ReadChannel>,
}

/// Keeps everybody else from the file, and from what belongs to whoever holds it, until it is dropped. Does not open it.
///
/// # Errors
/// [`StateError`]; [`StateError::InUse`] while somebody has it open.
pub(crate) fn lock(folder: &Path) -> Result<File, StateError> {
    super::lock(folder, FILE)
}

/// The open file.
pub(crate) struct Incoming {
    file: StateFile,
    /// Under which keys of channels are sealed.
    key: Zeroizing<[u8; 32]>,
    /// No transaction succeeds.
    #[cfg(test)]
    pub(crate) fails: bool,
}

impl Incoming {
    /// Opens the file and reads all of it. Keys of channels are sealed in it under `key`.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::InUse`] while another process is subscribed.
    pub(crate) fn open(folder: &Path, agent: AgentId, key: Zeroizing<[u8; 32]>) -> Result<(Self, Stored), StateError> {
        let file = StateFile::open(folder, FILE, agent)?;
        let mut stored = file.write(|transaction| {
            let table = transaction.open_table(SESSIONS).map_err(|error| file.database_error(error))?;
            let mut read = Vec::new();
            for row in table.iter().map_err(|error| file.database_error(error))? {
                let (key, value) = row.map_err(|error| file.database_error(error))?;
                let content = file.checked(key.value(), value.value())?;
                let session = parse(key.value(), content);
                read.push(session.map_err(|reason| file.damaged(format!("a session cannot be read: {reason}")))?);
            }
            let channel_keys = read_channel_keys(&file, transaction, &key)?;
            let channels = read_channels(&file, transaction)?;
            Ok(Stored { sessions: read, refused: read_refused(&file, transaction)?, channel_keys, channels })
        })?;
        stored.sessions.sort_unstable_by_key(|session| session.used);
        stored.refused.sort_unstable_by_key(|(_, refused)| refused.order);
        let incoming = Self {
            file,
            key,
            #[cfg(test)]
            fails: false,
        };
        Ok((incoming, stored))
    }

    /// Writes and removes sessions, and refused messages (those without anything are removed), durably, in one transaction.
    ///
    /// # Errors
    /// [`StateError`]: nothing that depends on this may be acknowledged.
    pub(crate) fn commit(
        &self,
        writes: &[Write],
        removed: &[(AgentId, SessionId)],
        refused: &[(SessionUse, Option<Refused>)],
    ) -> Result<(), StateError> {
        let file = &self.file;
        #[cfg(test)]
        if self.fails {
            return Err(file.damaged("the test says so"));
        }
        file.write(|transaction| {
            let mut table = transaction.open_table(SESSIONS).map_err(|error| file.database_error(error))?;
            for (sender, session) in removed {
                table.remove(&key(*sender, session)).map_err(|error| file.database_error(error))?;
            }
            for Write { sender, session, used, prekey, chain } in writes {
                let key = key(*sender, session);
                let prekey = prekey.as_ref().map_or(&[][..], |prekey| &prekey.0);
                let format = if prekey.is_empty() { VALUE_FORMAT } else { PREKEY_VALUE_FORMAT };
                let mut content = Zeroizing::new(Vec::with_capacity(FIXED_BYTES + prekey.len() + chain.len()));
                content.extend_from_slice(&[format, 0, 0, 0, 0, 0, 0, 0]);
                content.extend_from_slice(&used.to_le_bytes());
                content.extend_from_slice(prekey);
                content.extend_from_slice(chain);
                let value = with_check(&key, content);
                table.insert(&key, value.as_slice()).map_err(|error| file.database_error(error))?;
            }
            let mut table = transaction.open_table(REFUSED).map_err(|error| file.database_error(error))?;
            for (at, refused) in refused {
                let key = refused_key(*at);
                match refused.as_ref().map(|refused| with_check(&key, refused_content(refused))) {
                    Some(value) => table.insert(&key, value.as_slice()).map_err(|error| file.database_error(error))?,
                    None => table.remove(&key).map_err(|error| file.database_error(error))?,
                };
            }
            Ok(())
        })
    }
}

impl Incoming {
    /// Writes and removes keys of channels, durably, in one transaction.
    ///
    /// # Errors
    /// [`StateError`]: none of them may be acknowledged.
    pub(crate) fn commit_channel_keys(&self, changes: &KeyChanges) -> Result<(), StateError> {
        let file = &self.file;
        #[cfg(test)]
        if self.fails {
            return Err(file.damaged("the test says so"));
        }
        file.write(|transaction| {
            let mut table = transaction.open_table(CHANNEL_KEYS).map_err(|error| file.database_error(error))?;
            for StoredKey { key: given, times } in &changes.kept {
                let (publisher, session) = session_of(given);
                let row = key(publisher, &session);
                let mut content = Zeroizing::new(Vec::with_capacity(CHANNEL_KEY_BYTES));
                content.extend_from_slice(&[VALUE_FORMAT, 0, 0, 0, 0, 0, 0, 0]);
                content.extend_from_slice(&times.received_at_ms.to_le_bytes());
                content.extend_from_slice(&times.used_at_ms.to_le_bytes());
                content.extend_from_slice(&seal_position(&self.key, &row, &given.to_bytes()));
                let value = with_check(&row, content);
                table.insert(&row, value.as_slice()).map_err(|error| file.database_error(error))?;
            }
            for (publisher, session) in &changes.removed {
                table.remove(&key(*publisher, session)).map_err(|error| file.database_error(error))?;
            }
            Ok(())
        })
    }
}

impl Incoming {
    /// Writes down what is remembered of a channel that is read, durably.
    ///
    /// # Errors
    /// [`StateError`].
    pub(crate) fn commit_channel(&self, channel: ChannelId, read: &ReadChannel) -> Result<(), StateError> {
        let file = &self.file;
        #[cfg(test)]
        if self.fails {
            return Err(file.damaged("the test says so"));
        }
        file.write(|transaction| {
            let mut table = transaction.open_table(CHANNELS).map_err(|error| file.database_error(error))?;
            let mut content = Zeroizing::new(Vec::with_capacity(CHANNEL_BYTES));
            let bits = u8::from(read.before.is_some()) | u8::from(read.seen.is_some()) << 1;
            content.extend_from_slice(&[VALUE_FORMAT, bits, 0, 0, 0, 0, 0, 0]);
            content.extend_from_slice(&read.before.unwrap_or(0).to_le_bytes());
            let none = SeenRecord { version: 0, sha256: [0; 32], owner: AgentId::ZERO };
            let SeenRecord { version, sha256, owner } = read.seen.unwrap_or(none);
            content.extend_from_slice(&version.to_le_bytes());
            content.extend_from_slice(&[0; 4]);
            content.extend_from_slice(&sha256);
            content.extend_from_slice(&owner.0);
            let value = with_check(&channel.0, content);
            table.insert(&channel.0, value.as_slice()).map_err(|error| file.database_error(error))?;
            Ok(())
        })
    }
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Incoming").field("file", &self.file).finish_non_exhaustive()
    }
}

fn read_channel_keys(
    file: &StateFile,
    transaction: &WriteTransaction,
    file_key: &[u8; 32],
) -> Result<Vec<StoredKey>, StateError> {
    let table = transaction.open_table(CHANNEL_KEYS).map_err(|error| file.database_error(error))?;
    let mut read = Vec::new();
    for row in table.iter().map_err(|error| file.database_error(error))? {
        let (row, value) = row.map_err(|error| file.database_error(error))?;
        let content = file.checked(row.value(), value.value())?;
        let key = parse_channel_key(row.value(), content, file_key);
        read.push(key.ok_or_else(|| file.damaged("a key of a channel cannot be read"))?);
    }
    Ok(read)
}

fn parse_channel_key(row: &[u8; 32], content: &[u8], file_key: &[u8; 32]) -> Option<StoredKey> {
    let content: &[u8; CHANNEL_KEY_BYTES] = content.try_into().ok()?;
    if content[..8] != [VALUE_FORMAT, 0, 0, 0, 0, 0, 0, 0] {
        return None;
    }
    let number = |at: usize| Some(u64::from_le_bytes(*content[at..].first_chunk()?));
    let times = Times { received_at_ms: number(8)?, used_at_ms: number(16)? };
    let opened = open_position(file_key, row, content.last_chunk()?)?;
    let given = ChannelKey::from_bytes(&opened).ok()?;
    let (publisher, session) = session_of(&given);
    (key(publisher, &session) == *row).then_some(StoredKey { key: given, times })
}

fn read_channels(
    file: &StateFile,
    transaction: &WriteTransaction,
) -> Result<BTreeMap<ChannelId, ReadChannel>, StateError> {
    let table = transaction.open_table(CHANNELS).map_err(|error| file.database_error(error))?;
    let mut read = BTreeMap::new();
    for row in table.iter().map_err(|error| file.database_error(error))? {
        let (key, value) = row.map_err(|error| file.database_error(error))?;
        let channel = parse_channel(file.checked(key.value(), value.value())?);
        let channel = channel.ok_or_else(|| file.damaged("what is remembered of a channel cannot be read"))?;
        read.insert(ChannelId(*key.value()), channel);
    }
    Ok(read)
}

fn parse_channel(content: &[u8]) -> Option<ReadChannel> {
    let content: &[u8; CHANNEL_BYTES] = content.try_into().ok()?;
    let bits = match content[..8] {
        [VALUE_FORMAT, bits @ 0..=3, 0, 0, 0, 0, 0, 0] => bits,
        _ => return None,
    };
    let before = (bits & 1 == 1).then(|| u64::from_le_bytes(*content[8..].first_chunk().expect("72 bytes hold it")));
    let seen = (bits & 2 == 2).then(|| SeenRecord {
        version: u32::from_le_bytes(*content[16..].first_chunk().expect("72 bytes hold it")),
        sha256: *content[24..].first_chunk().expect("72 bytes hold it"),
        owner: AgentId(*content.last_chunk().expect("72 bytes hold it")),
    });
    Some(ReadChannel { before, seen })
}

fn read_refused(file: &StateFile, transaction: &WriteTransaction) -> Result<Vec<(SessionUse, Refused)>, StateError> {
    let table = transaction.open_table(REFUSED).map_err(|error| file.database_error(error))?;
    let mut read = Vec::new();
    for row in table.iter().map_err(|error| file.database_error(error))? {
        let (key, value) = row.map_err(|error| file.database_error(error))?;
        let content = file.checked(key.value(), value.value())?;
        let refused = parse_refused(key.value(), content);
        read.push(refused.ok_or_else(|| file.damaged("a refused message cannot be read"))?);
    }
    Ok(read)
}

fn refused_key(at: SessionUse) -> [u8; 40] {
    let mut out = [0; 40];
    out[..32].copy_from_slice(&key(at.key.0, &at.key.1));
    out[32..].copy_from_slice(&at.counter.to_le_bytes());
    out
}

fn refused_content(refused: &Refused) -> Zeroizing<Vec<u8>> {
    let Refused { key, order, refused_at_ms, mailbox_sequence } = refused;
    let mut content = Zeroizing::new(Vec::with_capacity(REFUSED_BYTES));
    content.extend_from_slice(&[VALUE_FORMAT, u8::from(key.is_none()), 0, 0, 0, 0, 0, 0]);
    [order, refused_at_ms, mailbox_sequence].iter().for_each(|number| content.extend_from_slice(&number.to_le_bytes()));
    match key {
        Some(key) => content.extend_from_slice(&key[..]),
        None => content.extend_from_slice(&[0; 32]),
    }
    content
}

fn parse_refused(key: &[u8; 40], content: &[u8]) -> Option<(SessionUse, Refused)> {
    let content: &[u8; REFUSED_BYTES] = content.try_into().ok()?;
    let number = |at: usize| Some(u64::from_le_bytes(*content.get(at..)?.first_chunk()?));
    let is_settled = match content[..8] {
        [VALUE_FORMAT, settled @ (0 | 1), 0, 0, 0, 0, 0, 0] => settled == 1,
        _ => return None,
    };
    let at = SessionUse {
        key: (AgentId(*key.first_chunk()?), *key[16..].first_chunk()?),
        counter: u64::from_le_bytes(*key.last_chunk()?),
    };
    let message_key = (!is_settled).then(|| Arc::new(Zeroizing::new(*content.last_chunk().expect("64 bytes hold 32"))));
    let (order, refused_at_ms, mailbox_sequence) = (number(8)?, number(16)?, number(24)?);
    Some((at, Refused { key: message_key, order, refused_at_ms, mailbox_sequence }))
}

fn key(sender: AgentId, session: &SessionId) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&sender.0);
    key[16..].copy_from_slice(session);
    key
}

fn parse(key: &[u8; 32], content: &[u8]) -> Result<Read, String> {
    let (fixed, chain) = content.split_first_chunk::<FIXED_BYTES>().ok_or("it is cut short")?;
    let (prekey, chain) = match fixed[..8] {
        [VALUE_FORMAT, 0, 0, 0, 0, 0, 0, 0] => (None, chain),
        [PREKEY_VALUE_FORMAT, 0, 0, 0, 0, 0, 0, 0] => {
            let (prekey, chain) = chain.split_first_chunk().ok_or("it is cut short")?;
            (Some(KeyId(*prekey)), chain)
        }
        _ => return Err("its format is not known".to_owned()),
    };
    let (sender, session) = key.split_at(16);
    Ok(Read {
        sender: AgentId(sender.try_into().expect("half of 32 bytes")),
        session: session.try_into().expect("half of 32 bytes"),
        used: u64::from_le_bytes(*fixed[8..].first_chunk().expect("the fixed part holds it")),
        prekey,
        chain: ReceiveChain::from_bytes(chain).map_err(|error| error.to_string())?,
    })
}
