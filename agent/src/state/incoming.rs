//! Sessions of a recipient: written by whoever is subscribed, before it acknowledges what they say is settled.
//!
//! A value, little-endian:
//!
//! ```text
//! 0 u8 format=1 | 1 [7] 0 | 8 u64 used: higher was used later | 16 chain, as creto-crypto-accel stores it | check 8
//! ```

use std::path::Path;

use creto_crypto_accel::session::{ReceiveChain, SessionId};
use creto_envelope::AgentId;
use redb::{ReadableTable, TableDefinition};
use zeroize::Zeroizing;

use super::{StateFile, with_check};
use crate::error::StateError;

const FILE: &str = "incoming.redb";
const SESSIONS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("sessions");
const VALUE_FORMAT: u8 = 1;
const FIXED_BYTES: usize = 16;

/// A session to write: whose, when it was used, and its chain as stored.
pub(crate) struct Write {
    pub(crate) sender: AgentId,
    pub(crate) session: SessionId,
    pub(crate) used: u64,
    pub(crate) chain: Zeroizing<Vec<u8>>,
}

/// A session that was read.
pub(crate) struct Read {
    pub(crate) sender: AgentId,
    pub(crate) session: SessionId,
    pub(crate) used: u64,
    pub(crate) chain: ReceiveChain,
}

/// The open file.
#[derive(Debug)]
pub(crate) struct Incoming {
    file: StateFile,
    /// No transaction succeeds.
    #[cfg(test)]
    pub(crate) fails: bool,
}

impl Incoming {
    /// Opens the file and reads every session, in the order of their use.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::InUse`] while another process is subscribed.
    pub(crate) fn open(folder: &Path, agent: AgentId) -> Result<(Self, Vec<Read>), StateError> {
        let file = StateFile::open(folder, FILE, agent)?;
        let mut read = file.write(|transaction| {
            let table = transaction.open_table(SESSIONS).map_err(|error| file.database_error(error))?;
            let mut read = Vec::new();
            for row in table.iter().map_err(|error| file.database_error(error))? {
                let (key, value) = row.map_err(|error| file.database_error(error))?;
                let content = file.checked(key.value(), value.value())?;
                let session = parse(key.value(), content);
                read.push(session.map_err(|reason| file.damaged(format!("a session cannot be read: {reason}")))?);
            }
            Ok(read)
        })?;
        read.sort_unstable_by_key(|session| session.used);
        let incoming = Self {
            file,
            #[cfg(test)]
            fails: false,
        };
        Ok((incoming, read))
    }

    /// Writes and removes sessions, durably, in one transaction.
    ///
    /// # Errors
    /// [`StateError`]: nothing that depends on this may be acknowledged.
    pub(crate) fn commit(&self, writes: &[Write], removed: &[(AgentId, SessionId)]) -> Result<(), StateError> {
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
            for Write { sender, session, used, chain } in writes {
                let key = key(*sender, session);
                let mut content = Zeroizing::new(Vec::with_capacity(FIXED_BYTES + chain.len()));
                content.extend_from_slice(&[VALUE_FORMAT, 0, 0, 0, 0, 0, 0, 0]);
                content.extend_from_slice(&used.to_le_bytes());
                content.extend_from_slice(chain);
                let value = with_check(&key, content);
                table.insert(&key, value.as_slice()).map_err(|error| file.database_error(error))?;
            }
            Ok(())
        })
    }
}

fn key(sender: AgentId, session: &SessionId) -> [u8; 32] {
    let mut key = [0; 32];
    key[..16].copy_from_slice(&sender.0);
    key[16..].copy_from_slice(session);
    key
}

fn parse(key: &[u8; 32], content: &[u8]) -> Result<Read, String> {
    let (fixed, chain) = content.split_first_chunk::<FIXED_BYTES>().ok_or("it is cut short")?;
    if fixed[..8] != [VALUE_FORMAT, 0, 0, 0, 0, 0, 0, 0] {
        return Err("its format is not known".to_owned());
    }
    let (sender, session) = key.split_at(16);
    Ok(Read {
        sender: AgentId(sender.try_into().expect("half of 32 bytes")),
        session: session.try_into().expect("half of 32 bytes"),
        used: u64::from_le_bytes(*fixed[8..].first_chunk().expect("the fixed part holds it")),
        chain: ReceiveChain::from_bytes(chain).map_err(|error| error.to_string())?,
    })
}
