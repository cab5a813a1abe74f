//! Agents and their keys: the rules of registration, on top of the tables, and the snapshot that follows from them.

use std::sync::Arc;

use creto_audit::{Label, What};
use creto_control_storage::{Reading, StorageError, Table, Writing};
use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentState, SignedKeyRecord, TrustDomain};
use creto_policy::{Attributes, KeyVersion, Policy, Replacement, Snapshot, SnapshotBuilder};

use crate::api::ErrorCode;
use crate::attributes::AttributesRequest;
use crate::channels::CheckedChannel;
use crate::error::ServiceError;
use crate::key_log::tables::adopt as adopt_key_records;
use crate::limits::{NOTES_MAX, VERSIONS_HELD_MAX};
use crate::mailboxes::{DefaultRetention, MailboxRequest, MailboxRow};
use crate::prekeys::check::CheckedBatch;
use crate::prekeys::tables::{self as prekeys, Uploaded};
use crate::registration::Registration;
use crate::rotation::Rotation;
use crate::states::{StateRequest, Whose};
use crate::storage::{AGENTS, AgentEntry, KEY_RECORDS, Loaded, NAMES, Storage};
use crate::telling::Note;

pub(crate) use attributes::AttributesSet;
pub(crate) use channels::ChannelPut;
use channels::{ChannelTotals, load_channels};
pub(crate) use mailbox::MailboxSet;
pub(crate) use outbox::{OPERATOR, Outbox, token_in, told_of_policy};
use outbox::{told_of_organization, told_of_token};
pub(crate) use reader::Reader;
pub(crate) use rotate::Rotated;
pub(crate) use states::StatesSet;
pub(crate) use tokens::{EnrolRequest, TokenChange, TokenSet};

mod attributes;
mod channels;
mod key_log;
mod keys;
mod mailbox;
mod outbox;
mod reader;
mod rotate;
mod states;
#[cfg(test)]
mod tests;
mod tokens;

/// The one writer of the directory: what the tables hold, and the same in memory as the next snapshot.
pub(crate) struct Directory {
    storage: Arc<Storage>,
    trust_domain: TrustDomain,
    builder: SnapshotBuilder,
    epoch: u64,
    policy: Policy,
    agents_max: u64,
    retention: DefaultRetention,
    key_grace_ms: u64,
    outbox: Option<Outbox>,
    /// What the audit log was to be told and could not yet, because nothing could be written; at most [`NOTES_MAX`].
    untold: Vec<Note>,
    /// How many of them went with the commit whose outcome is not known.
    untold_in_doubt: usize,
    /// What is in memory may be older than what is stored: a commit's outcome was not known.
    is_stale: bool,
    /// What is in memory was loaded again since somebody asked.
    is_reloaded: bool,
}

/// What became of one registration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Registered {
    /// The agent is new.
    Created(AgentEntry),
    /// The same record was registered before.
    Known(AgentEntry),
    /// The directory says no.
    Refused(ErrorCode, String),
}

/// What someone wants changed.
#[derive(Debug)]
pub(crate) enum Change {
    Register(Registration),
    Rotate(Rotation),
    Mailbox(MailboxRequest),
    Policy(Policy),
    Attributes(AttributesRequest),
    State(StateRequest),
    /// As `Register`, with a token; answered as that.
    Enrol(EnrolRequest),
    Token(TokenChange),
    Channel(CheckedChannel),
    /// Nothing: the audit log is told of these.
    Tell(Vec<Note>),
    Prekeys(CheckedBatch),
}

impl Change {
    /// Whether it may concern very many agents: a transaction has one such change at most.
    pub(crate) fn is_bulk(&self) -> bool {
        matches!(self, Self::State(StateRequest { whose: Whose::Organization { .. }, .. }))
    }
}

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Changed {
    Register(Registered),
    Rotate(Rotated),
    Mailbox(MailboxSet),
    /// The epoch from which it is in force.
    Policy(u64),
    Attributes(AttributesSet),
    State(StatesSet),
    Token(TokenSet),
    Channel(ChannelPut),
    Told,
    Prekeys(Uploaded),
}

impl Changed {
    /// Whether the next snapshot differs for it.
    pub(crate) fn is_new(&self) -> bool {
        matches!(
            self,
            Self::Register(Registered::Created(_))
                | Self::Rotate(Rotated::Replaced(_))
                | Self::Mailbox(MailboxSet::Changed(_))
                | Self::Policy(_)
                | Self::Attributes(AttributesSet::Changed(_))
                | Self::Channel(ChannelPut::Created | ChannelPut::Changed | ChannelPut::Deleted)
        ) || matches!(self, Self::State(StatesSet::Done(done)) if done.changed > 0)
    }
}

/// A change that is in the transaction, on its way into memory.
enum Pending {
    Agent(AgentEntry, SignedKeyRecord),
    Key(SignedKeyRecord, RotationMode),
    Mailbox(AgentId, MailboxRow),
    Policy(Policy),
    Attributes(AgentId, Arc<Attributes>),
    Channel(CheckedChannel),
    /// With the reason that was given.
    State(states::Changed, Arc<str>),
}

impl Directory {
    /// Loads everything. The policy is the default one: the same organization may talk. A replaced key is accepted for
    /// `key_grace_ms`; a mailbox for which nothing else is set keeps messages for `retention_s`.
    pub(crate) fn load(
        storage: Arc<Storage>,
        agents_max: u64,
        key_grace_ms: u64,
        retention_s: u32,
        now_ms: u64,
    ) -> Result<Self, ServiceError> {
        let adopted = adopt_key_records(&storage, now_ms)?;
        if adopted > 0 {
            tracing::info!(adopted, "key records from before the key log are its leaves now");
        }
        let retention = storage.adopt_retention(retention_s, now_ms)?;
        let policy = Policy::SameOrganization;
        let trust_domain = storage.trust_domain(&*storage.begin_read()?)?;
        let (builder, epoch) = load_all(&storage, &trust_domain, policy.clone(), retention, key_grace_ms, now_ms)?;
        Ok(Self {
            storage,
            trust_domain,
            builder,
            epoch,
            policy,
            agents_max,
            retention,
            key_grace_ms,
            outbox: None,
            untold: Vec::new(),
            untold_in_doubt: 0,
            is_stale: false,
            is_reloaded: false,
        })
    }

    /// Whether what is in memory may be older than what is stored.
    pub(crate) fn is_stale(&self) -> bool {
        self.is_stale
    }

    /// Loads again what is stored, if what is in memory may be older.
    ///
    /// The outcome of a commit is unknown only until the storage can be written to again: it has ended by then.
    pub(crate) fn refresh(&mut self, now_ms: u64) -> Result<(), ServiceError> {
        if !self.is_stale {
            return Ok(());
        }
        self.storage.begin_write()?.abort()?;
        let (policy, grace_ms) = (self.policy.clone(), self.key_grace_ms);
        let (builder, epoch) = load_all(&self.storage, &self.trust_domain, policy, self.retention, grace_ms, now_ms)?;
        assert!(epoch >= self.epoch, "an epoch never goes back");
        (self.builder, self.epoch) = (builder, epoch);
        if let Some(outbox) = &mut self.outbox {
            // A commit that is there has events that nobody was told of, unless nothing went with it.
            let was_done = outbox.tell_again(&self.storage)? > 0;
            if was_done {
                self.untold.drain(..self.untold_in_doubt);
            }
            self.untold_in_doubt = 0;
        }
        (self.is_stale, self.is_reloaded) = (false, true);
        tracing::info!(epoch, "the directory was loaded again, after a commit whose outcome was not known");
        Ok(())
    }

    /// Whether what is in memory was loaded again since this was asked last: the shards have to be given it.
    pub(crate) fn take_reloaded(&mut self) -> bool {
        std::mem::take(&mut self.is_reloaded)
    }

    fn commit(&mut self, transaction: Box<dyn Writing>) -> Result<(), ServiceError> {
        let committed = transaction.commit();
        self.is_stale |= matches!(committed, Err(StorageError::OutcomeUnknown { .. }));
        Ok(committed?)
    }

    /// Has every change told to the audit log from now on: first what it does not have yet, again, and `notes`.
    pub(crate) fn tell_audit(&mut self, mut outbox: Outbox, notes: Vec<Note>, now_ms: u64) -> Result<(), ServiceError> {
        outbox.tell_again(&self.storage)?;
        self.outbox = Some(outbox);
        self.change(vec![Change::Tell(notes)], now_ms).map(drop)
    }

    /// Sets the policy of a node that starts.
    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.policy = policy.clone();
        self.builder.set_policy(Some(policy));
    }

    /// Counts the changes of the directory and of the policy.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The directory as the shards see it.
    pub(crate) fn snapshot(&self) -> Snapshot {
        self.builder.build(self.epoch)
    }

    /// Makes all of `changes` in one durable transaction; answer `i` is that of change `i`.
    ///
    /// After an error nothing of it is changed, in the file or in memory.
    pub(crate) fn change(&mut self, changes: Vec<Change>, now_ms: u64) -> Result<Vec<Changed>, ServiceError> {
        self.change_by(changes.into_iter().map(|change| (OPERATOR, change)).collect(), now_ms)
    }

    /// As [`Directory::change`], each asked for by this agent; [`OPERATOR`] is whoever may use the control socket.
    ///
    /// What only the audit log is told goes with the next change instead, if this one fails.
    pub(crate) fn change_by(
        &mut self,
        changes: Vec<(AgentId, Change)>,
        now_ms: u64,
    ) -> Result<Vec<Changed>, ServiceError> {
        let told = changes.iter().filter_map(|(_, change)| match change {
            Change::Tell(notes) => Some(notes.as_slice()),
            _ => None,
        });
        let told = told.flatten().copied().collect::<Vec<_>>();
        let refreshed = self.refresh(now_ms);
        let was_tried = refreshed.is_ok();
        let changed = refreshed.and_then(|()| self.change_now(changes, now_ms));
        match &changed {
            Ok(_) => self.untold.clear(),
            Err(_) => {
                self.keep_untold(told);
                if self.is_stale && was_tried {
                    self.untold_in_doubt = self.untold.len();
                }
            }
        }
        changed
    }

    /// Whether the audit log is still to be told of something.
    pub(crate) fn has_untold(&self) -> bool {
        !self.untold.is_empty()
    }

    /// Says what the audit log will never be told, because the service ends.
    pub(crate) fn end(self) {
        if self.has_untold() {
            tracing::error!(
                lost = self.untold.len(),
                "the audit log is not told of these: the directory could not be written"
            );
        }
    }

    fn keep_untold(&mut self, notes: Vec<Note>) {
        if self.outbox.is_none() {
            return;
        }
        let room = NOTES_MAX.saturating_sub(self.untold.len());
        let lost = notes.len().saturating_sub(room);
        self.untold.extend(notes.into_iter().take(room));
        if lost > 0 {
            tracing::error!(
                lost,
                "the audit log is not told of these: the directory cannot be written, and no more are kept"
            );
        }
    }

    fn change_now(&mut self, changes: Vec<(AgentId, Change)>, now_ms: u64) -> Result<Vec<Changed>, ServiceError> {
        let transaction = self.storage.begin_write()?;
        let mut answers = Vec::with_capacity(changes.len());
        let mut pending = Vec::new();
        // Who asked for each of them.
        let mut by_whom = Vec::new();
        // What only the audit log is told.
        let mut notes = self.untold.clone();
        // Whether there is something to keep that the shards need not know.
        let mut is_changed = false;
        let mut totals = ChannelTotals::of(&self.builder);
        for (by, change) in changes {
            answers.push(match change {
                Change::Register(request) => {
                    let answer = self.register_one(&*transaction, &request, new_agents(&pending), now_ms)?;
                    if let Registered::Created(entry) = &answer {
                        pending.push(Pending::Agent(entry.clone(), request.into_signed()));
                    }
                    Changed::Register(answer)
                }
                Change::Rotate(rotation) => {
                    let answer = self.rotate_one(&*transaction, &rotation, now_ms)?;
                    if let Rotated::Replaced(_) = answer {
                        let mode = rotation.mode;
                        pending.push(Pending::Key(rotation.into_signed(), mode));
                    }
                    Changed::Rotate(answer)
                }
                Change::Mailbox(request) => {
                    let answer = self.set_mailbox_one(&*transaction, &request, now_ms)?;
                    if let MailboxSet::Changed(row) = answer {
                        pending.push(Pending::Mailbox(request.agent, row));
                    }
                    Changed::Mailbox(answer)
                }
                Change::Policy(policy) => {
                    pending.push(Pending::Policy(policy));
                    // The epoch that is written below.
                    Changed::Policy(0)
                }
                Change::Attributes(request) => {
                    let answer = self.set_attributes_one(&*transaction, &request)?;
                    if let AttributesSet::Changed(attributes) = &answer {
                        pending.push(Pending::Attributes(request.agent, Arc::clone(attributes)));
                    }
                    Changed::Attributes(answer)
                }
                Change::Enrol(request) => {
                    let (answer, uses_left) = self.enrol_one(&*transaction, &request, new_agents(&pending), now_ms)?;
                    if let Registered::Created(entry) = &answer {
                        let agent = request.registration().signed().record.agent_id();
                        notes.push((
                            What::TokenUsed { token: token_in(request.token()), agent, uses_left },
                            Label::NONE,
                        ));
                        pending.push(Pending::Agent(entry.clone(), request.into_registration().into_signed()));
                    }
                    Changed::Register(answer)
                }
                Change::Token(change) => {
                    let answer = self.change_tokens(&*transaction, &change, now_ms)?;
                    if let TokenSet::Done(hash, info) = &answer {
                        is_changed = true;
                        notes.push(told_of_token(by, &change, hash, info));
                    }
                    Changed::Token(answer)
                }
                Change::Channel(checked) => {
                    let answer = self.put_channel(&*transaction, &checked, &mut totals, now_ms)?;
                    if let ChannelPut::Created | ChannelPut::Changed | ChannelPut::Deleted = answer {
                        pending.push(Pending::Channel(checked));
                    }
                    Changed::Channel(answer)
                }
                Change::Prekeys(batch) => {
                    let answer = prekeys::upload(&self.storage, &*transaction, &batch)?;
                    if let Uploaded::Added(_) = answer {
                        is_changed = true;
                        let count = u32::try_from(batch.prekeys().len()).expect("a batch has a limit");
                        notes.push((What::PrekeysUploaded { agent: batch.agent(), count }, Label::NONE));
                    }
                    Changed::Prekeys(answer)
                }
                Change::State(request) => {
                    let (answer, changed) = self.set_states(&*transaction, &request, now_ms)?;
                    let reason: Arc<str> = request.change.reason.as_deref().unwrap_or_default().into();
                    notes.extend(told_of_organization(by, &request, &changed));
                    pending.extend(changed.into_iter().map(|changed| Pending::State(changed, Arc::clone(&reason))));
                    Changed::State(answer)
                }
                Change::Tell(told) => {
                    notes.extend(told);
                    Changed::Told
                }
            });
            by_whom.resize(pending.len(), by);
        }
        if self.outbox.is_none() {
            notes.clear();
        }
        if pending.is_empty() && notes.is_empty() {
            match is_changed {
                true => self.commit(transaction)?,
                false => transaction.abort()?,
            }
            return Ok(answers);
        }
        self.log_keys(&*transaction, &pending, now_ms)?;
        // What shards need not know is no reason for them to decide anew.
        let epoch = if pending.is_empty() { self.epoch } else { self.storage.advance_epoch(&*transaction)? };
        let told = match &self.outbox {
            Some(outbox) => {
                let changes = pending.iter().zip(&by_whom);
                let changes = changes.map(|(change, by)| outbox::told(*by, change, epoch, self.key_grace_ms, now_ms));
                outbox.fill(&self.storage, &*transaction, changes.chain(notes), now_ms)?
            }
            None => Vec::new(),
        };
        // Durable before memory, and memory before the answer: what a shard decides by is never ahead of the disk.
        self.commit(transaction)?;
        assert!(pending.is_empty() || epoch > self.epoch, "the epoch of a commit is above every earlier one");
        self.epoch = epoch;
        if let Some(outbox) = &mut self.outbox {
            outbox.tell(told);
        }
        for answer in &mut answers {
            if let Changed::Policy(from_epoch) = answer {
                *from_epoch = epoch;
            }
        }
        for change in pending {
            match change {
                Pending::Policy(policy) => self.set_policy(policy),
                Pending::Agent(entry, _) => {
                    let versions = vec![entry.current()];
                    insert(&self.storage, &self.trust_domain, &mut self.builder, &entry, versions)?;
                }
                Pending::Key(signed, mode) => {
                    let record = &signed.record;
                    let replacement = Replacement { at_ms: now_ms, mode };
                    let (agent, next) = (record.agent_id(), KeyVersion::from(record));
                    let replaced = self.builder.replace_key(&agent, next, replacement, VERSIONS_HELD_MAX);
                    replaced.map_err(|error| self.storage.damaged(format!("{}: {error}", record.name)))?;
                }
                Pending::Mailbox(agent, row) => {
                    let lower = row.lower_with(self.retention.lower, now_ms);
                    let is_known = self.builder.set_mailbox(&agent, row.settings, lower);
                    assert!(is_known, "the agent was found in the same transaction");
                }
                Pending::Channel(checked) => {
                    self.builder.insert_channel(checked.into_record());
                }
                Pending::State(states::Changed { agent, state, since_ms }, _) => {
                    let is_known = match state {
                        AgentState::Revoked => self.builder.revoke(&agent, since_ms),
                        state => self.builder.set_state(&agent, state),
                    };
                    assert!(is_known, "the agent was found in the same transaction");
                }
                Pending::Attributes(agent, attributes) => {
                    let is_known = self.builder.set_attributes(&agent, attributes);
                    assert!(is_known, "the agent was found in the same transaction");
                }
            }
        }
        Ok(answers)
    }

    /// What is to be said of a registration whose name is registered; `None` when it is not.
    fn known(&self, transaction: &dyn Writing, request: &Registration) -> Result<Option<Registered>, ServiceError> {
        let agents = transaction.table(AGENTS);
        let record = &request.signed().record;
        let id = record.agent_id();
        let Some(known) = agents.get(&id.0)? else { return Ok(None) };
        let entry = AgentEntry::parse(&known).ok_or_else(|| self.storage.damaged(format!("agent {id}")))?;
        if entry.state == AgentState::Revoked {
            return Ok(Some(Registered::Refused(ErrorCode::AgentRevoked, format!("{} was revoked", record.name))));
        }
        let key_records = transaction.table(KEY_RECORDS);
        let stored = key_records.get(&(id.0, record.version))?;
        let stored = stored.and_then(|row| SignedKeyRecord::parse(&row).ok());
        // Compared without the signatures: the same record signed twice has different ones.
        Ok(Some(match stored {
            Some(stored) if stored.record == *record => Registered::Known(entry),
            _ => Registered::Refused(
                ErrorCode::NameTaken,
                format!("{} is already registered with another key record", record.name),
            ),
        }))
    }

    fn register_one(
        &self,
        transaction: &dyn Writing,
        request: &Registration,
        new_agents: u64,
        now_ms: u64,
    ) -> Result<Registered, ServiceError> {
        if let Some(known) = self.known(transaction, request)? {
            return Ok(known);
        }
        let agents = transaction.table(AGENTS);
        let names = transaction.table(NAMES);
        let key_records = transaction.table(KEY_RECORDS);
        let signed = request.signed();
        let record = &signed.record;
        let id = record.agent_id();
        if record.version != 1 {
            return Ok(Registered::Refused(
                ErrorCode::VersionNotFirst,
                format!("{} is not registered, and the record has version {}", record.name, record.version),
            ));
        }
        // Counted in memory, which has what the tables have: PostgreSQL would read all of them.
        if self.builder.agent_count() as u64 + new_agents >= self.agents_max {
            return Ok(Registered::Refused(
                ErrorCode::DirectoryFull,
                format!("the directory holds its limit of {} agents", self.agents_max),
            ));
        }
        let entry = AgentEntry::registered(signed, now_ms);
        agents.put(&id.0, &entry.to_bytes())?;
        names.put(entry.name.as_str(), &id.0)?;
        key_records.put(&(id.0, record.version), &signed.to_bytes())?;
        Ok(Registered::Created(entry))
    }
}

/// How many agents are registered by the transaction so far.
fn new_agents(pending: &[Pending]) -> u64 {
    pending.iter().filter(|change| matches!(change, Pending::Agent(..))).count() as u64
}

/// Every agent and channel as it is stored, under this policy, and the epoch.
fn load_all(
    storage: &Storage,
    trust_domain: &TrustDomain,
    policy: Policy,
    retention: DefaultRetention,
    key_grace_ms: u64,
    now_ms: u64,
) -> Result<(SnapshotBuilder, u64), ServiceError> {
    let mut builder = SnapshotBuilder::with_policy(policy);
    builder.set_key_grace_ms(key_grace_ms);
    let epoch = storage.load(|Loaded { id, entry, versions, mailbox, attributes, since_ms }| {
        let agent = insert(storage, trust_domain, &mut builder, &entry, versions)?;
        if agent != id {
            return Err(storage.damaged(format!("agent {id}")));
        }
        if entry.state == AgentState::Revoked {
            builder.revoke(&agent, since_ms);
        }
        if let Some(attributes) = attributes {
            builder.set_attributes(&agent, attributes);
        }
        builder.set_mailbox(&agent, mailbox.settings, mailbox.lower_with(retention.lower, now_ms));
        Ok(())
    })?;
    load_channels(storage, &mut builder)?;
    Ok((builder, epoch))
}

fn insert(
    storage: &Storage,
    trust_domain: &TrustDomain,
    builder: &mut SnapshotBuilder,
    entry: &AgentEntry,
    versions: Vec<KeyVersion>,
) -> Result<AgentId, ServiceError> {
    let inserted = builder.insert_versions(trust_domain, &entry.name, entry.state, versions);
    inserted.map_err(|error| storage.damaged(format!("{}: {error}", entry.name)))
}

/// Agents whose rows are read together.
const AGENTS_AT_ONCE: usize = 64;

/// The rows of these agents in one table, in their order.
fn rows_of(
    transaction: &dyn Reading,
    table: Table<[u8; 16], Vec<u8>>,
    ids: &[AgentId],
) -> Result<Vec<Option<Vec<u8>>>, ServiceError> {
    Ok(transaction.table(table).get_many(ids.iter().map(|id| &id.0))?)
}
