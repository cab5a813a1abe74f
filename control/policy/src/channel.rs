//! One channel as a shard sees it: what its owner's record says, without the signatures.

use creto_envelope::ChannelId;
use creto_envelope::channel::ChannelRecord;

use crate::principal::{OrganizationId, mix};

/// A channel of a snapshot, shared by all snapshots in which it is the same.
///
/// It takes about 300 bytes, its names, and 16 bytes for each agent that its record lists: 160 KB with a list of 10,000.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Channel {
    id: ChannelId,
    organization: OrganizationId,
    record: ChannelRecord,
    fingerprint: u64,
}

impl Channel {
    pub(crate) fn new(id: ChannelId, organization: OrganizationId, record: ChannelRecord) -> Self {
        let bytes = record.to_bytes();
        let (words, rest) = bytes.as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        let words = words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word));
        // Begun at another number than an agent's.
        let fingerprint = words.fold(mix(1, u64::from(organization.0)), mix);
        Self { id, organization, record, fingerprint }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> ChannelId {
        self.id
    }

    /// The organization that its name begins with.
    #[must_use]
    pub fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// What its owner has signed. It is not deleted.
    #[must_use]
    pub fn record(&self) -> &ChannelRecord {
        &self.record
    }

    /// How many agents its record lists.
    pub(crate) fn listed_count(&self) -> u64 {
        (self.record.listed_publishers().len() + self.record.listed_subscribers().len()) as u64
    }

    /// Everything that a decision can depend on, as one number.
    pub(crate) fn fingerprint(&self) -> u64 {
        self.fingerprint
    }
}
