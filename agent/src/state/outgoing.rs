//! Sessions of a sender between two runs: taken before they are used, put back afterwards.
//!
//! A value, little-endian:
//!
//! ```text
//! 0 u8 format=1 | 1 u8 freed priorities, one bit each | 2 u16 0 | 4 u32 key record version | 8 u64 opened_at_ms
//! 16 [16] key id | 32 [1120] wrapped key | 1152 chain, as creto-crypto-accel stores it | check 8
//! ```
//!
//! A session that was opened to a prekey has format 2, and between wrapped key and chain the prekey's id, 16 bytes; its key id is
//! still that of the record.

use std::path::Path;

use creto_crypto_accel::keys::XWING_CIPHERTEXT_BYTES;
use creto_crypto_accel::session::SendChain;
use creto_envelope::{AgentId, KeyId};
use redb::{ReadableTable, ReadableTableMetadata, TableDefinition};
use zeroize::Zeroizing;

use super::{META, META_PLACE, StateFile, with_check};
use crate::error::StateError;
use crate::limits::RECIPIENT_SESSIONS_MAX;

const FILE: &str = "outgoing.redb";
const SESSIONS: TableDefinition<'_, &[u8; 16], &[u8]> = TableDefinition::new("sessions");
const VALUE_FORMAT: u8 = 1;
const VALUE_FORMAT_PREKEY: u8 = 2;
const FIXED_BYTES: usize = 32 + XWING_CIPHERTEXT_BYTES;
const PREKEY_ID_BYTES: usize = 16;

/// A session that nobody uses at the moment.
#[derive(Debug)]
pub(crate) struct StoredSession {
    pub(crate) recipient: AgentId,
    /// The encryption key of the recipient's record.
    pub(crate) key_id: KeyId,
    /// The prekey that it was opened to.
    pub(crate) prekey: Option<KeyId>,
    pub(crate) record_version: u32,
    /// By the wall clock: it ages while nobody runs.
    pub(crate) opened_at_ms: u64,
    pub(crate) freed: [bool; 4],
    pub(crate) wrapped_key: Box<[u8; XWING_CIPHERTEXT_BYTES]>,
    pub(crate) chain: SendChain,
}

/// Takes every session out of the folder. When this returns they are gone from the disk, durably, and the caller's.
///
/// # Errors
/// [`StateError`]; [`StateError::InUse`] when another process takes or puts at this moment.
pub(crate) fn take(folder: &Path, agent: AgentId) -> Result<Vec<StoredSession>, StateError> {
    if !folder.join(FILE).exists() {
        return Ok(Vec::new());
    }
    let file = StateFile::open(folder, FILE, agent)?;
    let here = file.place()?;
    file.write(|transaction| {
        let mut table = transaction.open_table(SESSIONS).map_err(|error| file.database_error(error))?;
        let mut taken = Vec::new();
        for row in table.iter().map_err(|error| file.database_error(error))? {
            let (recipient, value) = row.map_err(|error| file.database_error(error))?;
            let recipient = *recipient.value();
            let content = file.checked(&recipient, value.value())?;
            let session = parse(AgentId(recipient), content);
            taken.push(session.map_err(|reason| file.damaged(format!("a session cannot be read: {reason}")))?);
        }
        table.retain(|_, _| false).map_err(|error| file.database_error(error))?;
        let meta = transaction.open_table(META).map_err(|error| file.database_error(error))?;
        let place = meta.get(META_PLACE).map_err(|error| file.database_error(error))?;
        if !taken.is_empty() && place.is_none_or(|place| place.value() != here) {
            tracing::warn!(file = %file.path.display(), "this is a copy: its sessions may be in use elsewhere, so new ones are opened");
            taken.clear();
        }
        Ok(taken)
    })
}

/// Puts sessions into the folder for another run. The caller uses them no more.
///
/// # Errors
/// [`StateError`]; the sessions are lost then, which costs an encapsulation each.
pub(crate) fn put(folder: &Path, agent: AgentId, sessions: Vec<StoredSession>) -> Result<(), StateError> {
    if sessions.is_empty() {
        return Ok(());
    }
    let file = StateFile::open(folder, FILE, agent)?;
    let here = file.place()?;
    file.write(|transaction| {
        let mut meta = transaction.open_table(META).map_err(|error| file.database_error(error))?;
        let known = meta.get(META_PLACE).map_err(|error| file.database_error(error))?;
        let is_copy = known.is_some_and(|known| known.value() != here);
        meta.insert(META_PLACE, &here[..]).map_err(|error| file.database_error(error))?;
        let mut table = transaction.open_table(SESSIONS).map_err(|error| file.database_error(error))?;
        if is_copy {
            // What is in it from elsewhere must not be taken for this file's own.
            table.retain(|_, _| false).map_err(|error| file.database_error(error))?;
        }
        let there = table.len().map_err(|error| file.database_error(error))?;
        if there + sessions.len() as u64 > RECIPIENT_SESSIONS_MAX as u64 {
            // Those of another process of this agent: the later ones are as good.
            table.retain(|_, _| false).map_err(|error| file.database_error(error))?;
        }
        for session in sessions {
            let key = session.recipient.0;
            let value = with_check(&key, session.to_bytes());
            table.insert(&key, value.as_slice()).map_err(|error| file.database_error(error))?;
        }
        Ok(())
    })
}

impl StoredSession {
    fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let chain = self.chain.to_bytes();
        let mut out = Zeroizing::new(Vec::with_capacity(FIXED_BYTES + PREKEY_ID_BYTES + chain.len()));
        let freed = self.freed.iter().rev().fold(0_u8, |bits, freed| bits << 1 | u8::from(*freed));
        let format = if self.prekey.is_some() { VALUE_FORMAT_PREKEY } else { VALUE_FORMAT };
        out.extend_from_slice(&[format, freed, 0, 0]);
        out.extend_from_slice(&self.record_version.to_le_bytes());
        out.extend_from_slice(&self.opened_at_ms.to_le_bytes());
        out.extend_from_slice(&self.key_id.0);
        out.extend_from_slice(&self.wrapped_key[..]);
        debug_assert_eq!(out.len(), FIXED_BYTES);
        self.prekey.iter().for_each(|prekey| out.extend_from_slice(&prekey.0));
        out.extend_from_slice(&chain);
        out
    }
}

fn parse(recipient: AgentId, content: &[u8]) -> Result<StoredSession, String> {
    let (fixed, chain) = content.split_first_chunk::<FIXED_BYTES>().ok_or("it is cut short")?;
    let [format, freed @ 0..=15, 0, 0, v0, v1, v2, v3, ..] = *fixed else {
        return Err("its format is not known".to_owned());
    };
    let (prekey, chain) = match format {
        VALUE_FORMAT => (None, chain),
        VALUE_FORMAT_PREKEY => {
            let (id, chain) = chain.split_first_chunk::<PREKEY_ID_BYTES>().ok_or("it is cut short")?;
            (Some(KeyId(*id)), chain)
        }
        _ => return Err("its format is not known".to_owned()),
    };
    Ok(StoredSession {
        recipient,
        key_id: KeyId(*fixed[16..].first_chunk().expect("the fixed part holds it")),
        prekey,
        record_version: u32::from_le_bytes([v0, v1, v2, v3]),
        opened_at_ms: u64::from_le_bytes(*fixed[8..].first_chunk().expect("the fixed part holds it")),
        freed: [0, 1, 2, 3].map(|priority| freed >> priority & 1 == 1),
        wrapped_key: Box::new(*fixed[32..].first_chunk().expect("the fixed part holds it")),
        chain: SendChain::from_bytes(chain).map_err(|error| error.to_string())?,
    })
}
