//! Channels: put and read inside the directory's transactions.

use creto_audit::event::Digest;
use creto_audit::{Label, What};
use creto_control_storage::{Reading, Writing};
use creto_crypto_accel::digest::sha256;
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::channel::{ChannelName, ChannelPattern, ChannelRecord, SignedChannelRecord};
use creto_envelope::{AgentId, AgentState, ChannelId, SignedKeyRecord};
use creto_policy::SnapshotBuilder;

use super::{Directory, Reader};
use crate::api::ErrorCode;
use crate::channels::{ChannelInfo, ChannelPage, ChannelRefusal, ChannelRow, CheckedChannel};
use crate::error::ServiceError;
use crate::limits::{
    CHANNEL_LISTED_MAX, CHANNELS_AT_ONCE, CHANNELS_MAX, PAGE_CHANNELS_BYTES_MAX, PAGE_CHANNELS_LOOKED_AT_MAX,
    PAGE_CHANNELS_MAX,
};
use crate::storage::{AGENTS, AgentEntry, CHANNEL_NAMES, CHANNELS, KEY_RECORDS, Storage};
use crate::telling::Note;

/// What became of a channel's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ChannelPut {
    Created,
    Changed,
    Deleted,
    /// It is what the directory has.
    Known,
    Refused(ErrorCode, String),
}

/// How much of what channels share is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct ChannelTotals {
    /// Channels that are not deleted.
    pub(super) channels: u64,
    /// Agents that their records list.
    pub(super) listed: u64,
}

impl ChannelTotals {
    /// What the next snapshot holds: it has what the tables have.
    pub(super) fn of(builder: &SnapshotBuilder) -> Self {
        Self { channels: builder.channel_count() as u64, listed: builder.listed_count() }
    }
}

/// Puts every stored channel into the snapshots to come.
pub(super) fn load_channels(storage: &Storage, builder: &mut SnapshotBuilder) -> Result<(), ServiceError> {
    let transaction = storage.begin_read()?;
    for row in transaction.table(CHANNELS).all() {
        let (id, row) = row?;
        let id = ChannelId(id);
        if builder.insert_channel(parse(storage, id, &row)?.signed.record) != id {
            return Err(storage.damaged(format!("channel {id}")));
        }
    }
    Ok(())
}

fn listed_count(record: &ChannelRecord) -> u64 {
    (record.listed_publishers().len() + record.listed_subscribers().len()) as u64
}

impl Directory {
    /// Takes a channel's record, if it is the next version of what is there, and its owner's to give.
    pub(super) fn put_channel(
        &self,
        transaction: &dyn Writing,
        checked: &CheckedChannel,
        totals: &mut ChannelTotals,
        now_ms: u64,
    ) -> Result<ChannelPut, ServiceError> {
        let refused = |code, message: String| Ok(ChannelPut::Refused(code, message));
        let signed = checked.signed();
        let record = &signed.record;
        let (id, name) = (record.channel_id(), &record.name);
        let channels = transaction.table(CHANNELS);
        let row = channels.get(&id.0)?;
        let before = row.map(|row| parse(&self.storage, id, &row)).transpose()?;
        if before.as_ref().is_some_and(|before| before.signed.record == *record) {
            return Ok(ChannelPut::Known);
        }
        match self.agent_entry(transaction, &record.owner)? {
            Some(owner) if owner.name.organization() != name.organization() => {
                return refused(
                    ErrorCode::ChannelOwner,
                    format!("{} is no agent of {}, whose channel {name} is", owner.name, name.organization()),
                );
            }
            Some(owner) if owner.state == AgentState::Active => {
                // As for a login: keys that are over sign nothing.
                if !(owner.valid_from_ms..owner.valid_until_ms).contains(&now_ms) {
                    return refused(ErrorCode::ChannelOwner, format!("the keys of {} are not valid now", owner.name));
                }
            }
            _ => return refused(ErrorCode::ChannelOwner, "the channel's owner is no active agent".to_owned()),
        }
        if let Some(before) = &before {
            let owner = before.signed.record.owner;
            // Whoever is revoked signs nothing any more: without this nobody could have their channels.
            let is_orphan = || -> Result<bool, ServiceError> {
                let entry = self.agent_entry(transaction, &owner)?;
                Ok(entry.is_none_or(|entry| entry.state == AgentState::Revoked))
            };
            if owner != record.owner && !is_orphan()? {
                return refused(ErrorCode::ChannelOwner, format!("{name} belongs to another agent"));
            }
        }
        let version = before.as_ref().map_or(0, |before| before.signed.record.version);
        if version.checked_add(1) != Some(record.version) {
            let message = format!("{name} has version {version} here, and the record has {}", record.version);
            return refused(ErrorCode::ChannelVersion, message);
        }
        let was_there = before.as_ref().is_some_and(|before| !before.signed.record.is_deleted);
        if record.is_deleted && !was_there {
            return refused(ErrorCode::ChannelUnknown, format!("there is no channel {name} to delete"));
        }
        let listed_before = before.as_ref().map_or(0, |before| listed_count(&before.signed.record));
        let after = ChannelTotals {
            channels: totals.channels - u64::from(was_there) + u64::from(!record.is_deleted),
            listed: totals.listed - listed_before + listed_count(record),
        };
        // Whoever makes nothing larger is let, whatever there is.
        if after.channels > totals.channels && after.channels > CHANNELS_MAX {
            return refused(
                ErrorCode::ChannelsFull,
                format!("the directory holds its limit of {CHANNELS_MAX} channels"),
            );
        }
        if after.listed > totals.listed && after.listed > CHANNEL_LISTED_MAX {
            return refused(
                ErrorCode::ChannelsFull,
                format!("the channels of the directory would list more than {CHANNEL_LISTED_MAX} agents together"),
            );
        }
        let created_at_ms = before.map_or(now_ms, |before| before.created_at_ms);
        let row = ChannelRow { created_at_ms, changed_at_ms: now_ms, signed: signed.clone() };
        channels.put(&id.0, &row.to_bytes())?;
        let names = transaction.table(CHANNEL_NAMES);
        match record.is_deleted {
            true => names.delete(name.as_str())?,
            false => names.put(name.as_str(), &id.0)?,
        }
        *totals = after;
        Ok(match (record.is_deleted, was_there) {
            (true, _) => ChannelPut::Deleted,
            (false, true) => ChannelPut::Changed,
            (false, false) => ChannelPut::Created,
        })
    }

    fn agent_entry(&self, transaction: &dyn Writing, agent: &AgentId) -> Result<Option<AgentEntry>, ServiceError> {
        let row = transaction.table(AGENTS).get(&agent.0)?;
        let parse =
            |row: Vec<u8>| AgentEntry::parse(&row).ok_or_else(|| self.storage.damaged(format!("agent {agent}")));
        row.map(parse).transpose()
    }
}

impl Reader {
    /// The record, once its owner's signatures were verified.
    pub(crate) fn check_channel(
        &self,
        signed: SignedChannelRecord,
    ) -> Result<Result<CheckedChannel, ChannelRefusal>, ServiceError> {
        let record = &signed.record;
        let transaction = self.storage.begin_read()?;
        let row = transaction.table(KEY_RECORDS).get(&(record.owner.0, record.owner_key_version))?;
        let Some(row) = row else {
            let message = format!("there is no version {} of the owner's key record", record.owner_key_version);
            return Ok(Err((ErrorCode::ChannelOwner, message)));
        };
        let keys = SignedKeyRecord::parse(&row)
            .ok()
            .and_then(|known| VerifyingKeys::parse(&known.record.ed25519, &known.record.ml_dsa_65).ok());
        let keys = keys.ok_or_else(|| self.storage.damaged(format!("a key record of {}", record.owner)))?;
        Ok(CheckedChannel::verify(signed, &keys))
    }

    /// The channel with this name, with the names that it lists; a deleted one is none.
    pub(crate) fn channel(&self, name: &ChannelName) -> Result<Option<ChannelInfo>, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let Some(row) = self.channel_row(&*transaction, name)? else { return Ok(None) };
        let record = &row.signed.record;
        if record.is_deleted {
            return Ok(None);
        }
        self.channel_shown(&*transaction, &row).map(Some)
    }

    /// The signed record of the channel with this name, of a deleted one, too.
    pub(crate) fn channel_record(&self, name: &ChannelName) -> Result<Option<Vec<u8>>, ServiceError> {
        let transaction = self.storage.begin_read()?;
        Ok(self.channel_row(&*transaction, name)?.map(|row| row.signed.to_bytes()))
    }

    /// What the answer to a change shows.
    pub(crate) fn channel_as_put(&self, name: &ChannelName) -> Result<Option<ChannelInfo>, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let row = self.channel_row(&*transaction, name)?;
        row.map(|row| self.channel_shown(&*transaction, &row)).transpose()
    }

    /// Channels whose names fit, by name, at most `limit` of them. A page may hold fewer, and even none, and not be the last.
    pub(crate) fn channels(
        &self,
        pattern: Option<&ChannelPattern>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ChannelPage, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let limit = limit.clamp(1, PAGE_CHANNELS_MAX);
        let prefix = pattern.map_or("", ChannelPattern::prefix);
        let names = transaction.table(CHANNEL_NAMES);
        let rows = match after {
            Some(after) if after >= prefix => names.after(after),
            _ => names.from(prefix),
        };
        let fits = |name: &str| match pattern {
            None => Ok(true),
            Some(pattern) => {
                let name = ChannelName::parse(name).map_err(|_| self.storage.damaged(format!("channel {name}")))?;
                Ok::<_, ServiceError>(pattern.matches(&name))
            }
        };
        let mut names =
            rows.take_while(|row| row.as_ref().map_or(true, |(name, _)| name.starts_with(prefix))).peekable();
        let (mut channels, mut last, mut looked_at, mut read_bytes) = (Vec::new(), None, 0, 0);
        while names.peek().is_some() {
            if channels.len() == limit
                || looked_at >= PAGE_CHANNELS_LOOKED_AT_MAX
                || read_bytes >= PAGE_CHANNELS_BYTES_MAX
            {
                return Ok(ChannelPage { channels, next_after: last });
            }
            // Few at a time: a record may be large, and each is a row of its own in a database.
            let mut ids = Vec::new();
            while ids.len() < CHANNELS_AT_ONCE.min(limit - channels.len()) && looked_at < PAGE_CHANNELS_LOOKED_AT_MAX {
                let Some(row) = names.next() else { break };
                let (name, id) = row?;
                looked_at += 1;
                if fits(&name)? {
                    ids.push(id);
                }
                last = Some(name);
            }
            let rows = transaction.table(CHANNELS).get_many(ids.iter())?;
            let mut shown = Vec::with_capacity(ids.len());
            for (id, row) in ids.iter().zip(rows) {
                let row = row.ok_or_else(|| self.storage.damaged(format!("channel {}", ChannelId(*id))))?;
                read_bytes += row.len();
                shown.push(parse(&self.storage, ChannelId(*id), &row)?);
            }
            let owners: Vec<_> = shown.iter().map(|row| row.signed.record.owner).collect();
            let owners = self.agent_names(&*transaction, &owners)?;
            channels.extend(shown.iter().zip(owners).map(|(row, owner)| row.info(owner)));
        }
        Ok(ChannelPage { channels, next_after: None })
    }

    fn channel_row(&self, transaction: &dyn Reading, name: &ChannelName) -> Result<Option<ChannelRow>, ServiceError> {
        let id = ChannelId::derive(&self.trust_domain, name);
        let row = transaction.table(CHANNELS).get(&id.0)?;
        row.map(|row| parse(&self.storage, id, &row)).transpose()
    }

    fn channel_shown(&self, transaction: &dyn Reading, row: &ChannelRow) -> Result<ChannelInfo, ServiceError> {
        let record = &row.signed.record;
        let owner = self.agent_names(transaction, &[record.owner])?;
        Ok(ChannelInfo {
            subscribers: Some(sorted(self.agent_names(transaction, record.listed_subscribers())?)),
            publishers: Some(sorted(self.agent_names(transaction, record.listed_publishers())?)),
            ..row.info(owner.into_iter().next().unwrap_or_default())
        })
    }

    /// The names of these agents, in their order; ids of those that are not registered.
    fn agent_names(&self, transaction: &dyn Reading, agents: &[AgentId]) -> Result<Vec<String>, ServiceError> {
        let rows = super::rows_of(transaction, AGENTS, agents)?;
        let name = |(agent, row): (&AgentId, Option<Vec<u8>>)| match row {
            None => Ok(agent.to_string()),
            Some(row) => {
                let entry = AgentEntry::parse(&row);
                Ok(entry.ok_or_else(|| self.storage.damaged(format!("agent {agent}")))?.name.to_string())
            }
        };
        agents.iter().zip(rows).map(name).collect()
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_unstable();
    names
}

/// What an event says of a channel that was put.
pub(super) fn told_of_channel(actor: AgentId, checked: &CheckedChannel) -> Note {
    let signed = checked.signed();
    let record = &signed.record;
    let (channel, owner, version) = (record.channel_id(), record.owner, record.version);
    let digest = Digest(sha256(&[&signed.to_bytes()]));
    let what = match record.is_deleted {
        true => What::ChannelDeleted { channel, owner, actor, record: digest, version },
        false => What::ChannelChanged { channel, owner, actor, record: digest, version },
    };
    (what, Label::of(record.name.as_str()))
}

fn parse(storage: &Storage, id: ChannelId, row: &[u8]) -> Result<ChannelRow, ServiceError> {
    ChannelRow::parse(row).ok_or_else(|| storage.damaged(format!("channel {id}")))
}
