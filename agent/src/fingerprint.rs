//! What two people compare aloud, of keys that are proven to be in the key log.

use creto_envelope::{AgentId, AgentName, KeyId};
use creto_transparency::fingerprint::Fingerprint;

use crate::client::Agent;
use crate::directory::CURRENT;
use crate::error::LookupError;
use crate::key_log::KeyPlace;

/// The keys of an agent as digits, and where they stand in the key log.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct AgentFingerprint {
    /// Whose.
    pub name: AgentName,
    /// The agent's id.
    pub agent: AgentId,
    /// Of its signing keys: it stays as long as the agent does.
    pub identity: Fingerprint,
    /// Of its current key record: every key, name and date in it. It changes with every key that is replaced.
    pub record: Fingerprint,
    /// Version of that record.
    pub version: u32,
    /// Its encryption key.
    pub key_id: KeyId,
    /// Where the record is in the node's key log, proven just now.
    pub place: KeyPlace,
}

impl Agent {
    /// The fingerprint of an agent's keys, asked for anew and proven: for people who compare it over another channel. One's own
    /// name is one's own record as the node gives it to others.
    ///
    /// # Errors
    /// [`LookupError`]; [`LookupError::KeyLog`] when the node cannot prove the record.
    pub async fn fingerprint(&self, name: &AgentName) -> Result<AgentFingerprint, LookupError> {
        let agent = self.id_of(name);
        let (directory, key_log) = (self.directory(), self.key_log_of());
        directory.forget_current(agent);
        let identity = directory.lookup(agent, CURRENT).await?;
        let record = &identity.record;
        let place = key_log.prove(record).await?;
        Ok(AgentFingerprint {
            name: name.clone(),
            agent,
            identity: Fingerprint::of_agent(record),
            record: Fingerprint::of_record(record),
            version: record.version,
            key_id: record.key_id(),
            place,
        })
    }
}
