//! Channels: put and read inside the directory's transactions.

use creto_audit::event::Digest;
use creto_audit::{Label, What};
use creto_control_storage::{Reading, Writing};
use creto_crypto_accel::digest::sha256;
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::channel::{ChannelName, ChannelPattern, ChannelRecord, SignedChannelRecord};
use creto_envelope::{AgentId, AgentState, ChannelId, SignedKeyRecord};

use super::{Directory, Reader};
use crate::api::ErrorCode;
use crate::channels::{ChannelInfo, ChannelPage, ChannelRefusal, ChannelRow, CheckedChannel, publishers, subscribers};
use crate::error::ServiceError;
use crate::limits::{CHANNELS_MAX, PAGE_CHANNELS_LOOKED_AT_MAX, PAGE_CHANNELS_MAX};
use crate::storage::{AGENTS, AgentEntry, CHANNEL_NAMES, CHANNELS, KEY_RECORDS, Storage};
use crate::telling::Note;

/// What became of a channel's record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ChannelPut {
    Created,
    /// Changed or deleted.
    Changed,
    /// It is what the directory has.
    Known,
    Refused(ErrorCode, String),
}

impl Directory {
    /// Takes a channel's record, if it is the next version of what is there, and its owner's to give.
    pub(super) fn put_channel(
        &self,
        transaction: &dyn Writing,
        checked: &CheckedChannel,
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
            Some(owner) if owner.state == AgentState::Active => {}
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
        if before.is_none() && channels.count()? >= CHANNELS_MAX {
            return refused(
                ErrorCode::ChannelsFull,
                format!("the directory holds its limit of {CHANNELS_MAX} channels"),
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
        Ok(if was_there || record.is_deleted { ChannelPut::Changed } else { ChannelPut::Created })
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
    pub(crate) fn channel_as_put(&self, record: &ChannelRecord) -> Result<Option<ChannelInfo>, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let row = self.channel_row(&*transaction, &record.name)?;
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
        let (mut channels, mut last) = (Vec::new(), None);
        for (looked_at, row) in rows.enumerate() {
            let (name, id) = row?;
            if !name.starts_with(prefix) {
                break;
            }
            if channels.len() == limit || looked_at == PAGE_CHANNELS_LOOKED_AT_MAX {
                return Ok(ChannelPage { channels, next_after: last });
            }
            let parsed = ChannelName::parse(&name).map_err(|_| self.storage.damaged(format!("channel {name}")))?;
            if pattern.is_none_or(|pattern| pattern.matches(&parsed)) {
                let row = transaction.table(CHANNELS).get(&id)?;
                let row = row.ok_or_else(|| self.storage.damaged(format!("channel {name}")))?;
                let row = parse(&self.storage, ChannelId(id), &row)?;
                let owner = self.agent_names(&*transaction, &[row.signed.record.owner])?;
                channels.push(row.info(owner.into_iter().next().unwrap_or_default()));
            }
            last = Some(name);
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
            subscribers: Some(self.agent_names(transaction, subscribers(record))?),
            publishers: Some(self.agent_names(transaction, publishers(record))?),
            ..row.info(owner.into_iter().next().unwrap_or_default())
        })
    }

    /// The names of these agents, sorted; ids of those that are not registered.
    fn agent_names(&self, transaction: &dyn Reading, agents: &[AgentId]) -> Result<Vec<String>, ServiceError> {
        let rows = super::rows_of(transaction, AGENTS, agents)?;
        let name = |(agent, row): (&AgentId, Option<Vec<u8>>)| match row {
            None => Ok(agent.to_string()),
            Some(row) => {
                let entry = AgentEntry::parse(&row);
                Ok(entry.ok_or_else(|| self.storage.damaged(format!("agent {agent}")))?.name.to_string())
            }
        };
        let names: Result<Vec<_>, ServiceError> = agents.iter().zip(rows).map(name).collect();
        names.map(|mut names| {
            names.sort_unstable();
            names
        })
    }
}

/// What an event says of a channel that was put.
pub(super) fn told_of_channel(checked: &CheckedChannel) -> Note {
    let signed = checked.signed();
    let record = &signed.record;
    let (channel, owner, version) = (record.channel_id(), record.owner, record.version);
    let what = match record.is_deleted {
        true => What::ChannelDeleted { channel, owner, version },
        false => {
            let digest = Digest(sha256(&[&signed.to_bytes()]));
            What::ChannelChanged { channel, owner, record: digest, version }
        }
    };
    (what, Label::of(record.name.as_str()))
}

fn parse(storage: &Storage, id: ChannelId, row: &[u8]) -> Result<ChannelRow, ServiceError> {
    ChannelRow::parse(row).ok_or_else(|| storage.damaged(format!("channel {id}")))
}
