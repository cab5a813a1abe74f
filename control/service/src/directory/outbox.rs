//! The outbox of the audit log: filled inside the writer's transaction.

use std::sync::Arc;

use creto_audit::event::{self, Digest, TimeMs, TokenId};
use creto_audit::{Event, Label, What};
use creto_control_storage::Writing;
use creto_crypto_accel::digest::sha256;
use creto_envelope::control::RotationMode;
use creto_envelope::{AgentId, AgentState};
use creto_policy::Policy;

use super::channels::told_of_channel;
use super::{Pending, TokenChange, states};
use crate::attributes::row_bytes;
use crate::error::ServiceError;
use crate::outbox::{AuditSink, ControlEvent, Kept};
use crate::policy::{FAIL_OPEN, SAME_ORGANIZATION};
use crate::states::{StateRequest, Whose};
use crate::storage::{AUDIT_OUTBOX, Storage};
use crate::telling::Note;
use crate::tokens::{TokenHash, TokenInfo};

/// Who keeps what the directory tells.
pub(crate) struct Outbox {
    pub(crate) sink: Arc<dyn AuditSink>,
    pub(crate) kept: Arc<Kept>,
    /// The last that was told.
    told: u64,
}

/// Whoever runs the node, over its socket.
pub(crate) const OPERATOR: AgentId = AgentId([0; 16]);

impl Outbox {
    pub(crate) fn new(sink: Arc<dyn AuditSink>, kept: Arc<Kept>) -> Self {
        Self { sink, kept, told: 0 }
    }

    /// Tells of events that are durable.
    pub(super) fn tell(&mut self, events: Vec<ControlEvent>) {
        if let Some(last) = events.last() {
            assert!(last.number > self.told, "numbers only go up");
            self.told = last.number;
            self.sink.tell(events);
        }
    }

    /// Writes what happened, and removes what is kept. Returns what is to be told once this is durable.
    pub(super) fn fill(
        &self,
        storage: &Storage,
        transaction: &dyn Writing,
        happened: impl Iterator<Item = Note>,
        now_ms: u64,
    ) -> Result<Vec<ControlEvent>, ServiceError> {
        let table = transaction.table(AUDIT_OUTBOX);
        let kept = self.kept.get();
        // Above what the log has, also in a directory that was restored from an older time.
        let mut number = storage.outbox_number(transaction)?.max(kept);
        table.delete_within(&0, &self.kept.removable())?;
        let mut events = Vec::new();
        for (what, label) in happened {
            number += 1;
            let event = ControlEvent { number, event: Event::new(now_ms, what), label };
            table.put(&number, &event.to_bytes())?;
            events.push(event);
        }
        storage.set_outbox_number(transaction, number)?;
        Ok(events)
    }

    /// Tells what is not kept, again when it was told by an earlier process. Says how much that is.
    pub(super) fn tell_again(&mut self, storage: &Storage) -> Result<usize, ServiceError> {
        let transaction = storage.begin_read()?;
        let table = transaction.table(AUDIT_OUTBOX);
        let mut events = Vec::new();
        for row in table.after(&self.kept.get().max(self.told)) {
            let (number, bytes) = row?;
            let told = ControlEvent::parse(number, &bytes);
            let ControlEvent { event, label, .. } =
                told.ok_or_else(|| storage.damaged(format!("audit_outbox {number}")))?;
            events.push(ControlEvent { number, event: Event::recovered(event.time_ms(), event.what), label });
        }
        let count = events.len();
        self.tell(events);
        Ok(count)
    }
}

/// What an event says of a change.
pub(super) fn told(actor: AgentId, change: &Pending, epoch: u64, key_grace_ms: u64, now_ms: u64) -> Note {
    match change {
        Pending::Agent(entry, signed) => (
            What::AgentRegistered {
                agent: signed.record.agent_id(),
                actor,
                key_id: entry.key_id,
                valid_from: TimeMs(entry.valid_from_ms),
                valid_until: TimeMs(entry.valid_until_ms),
                key_version: entry.version,
            },
            Label::of(entry.name.as_str()),
        ),
        Pending::Key(signed, mode) => {
            let (mode, grace_until) = match mode {
                RotationMode::Planned => (event::RotationMode::Planned, now_ms.saturating_add(key_grace_ms)),
                RotationMode::Emergency => (event::RotationMode::Emergency, 0),
            };
            let record = &signed.record;
            (
                What::KeyRotated {
                    agent: record.agent_id(),
                    key_id: record.key_id(),
                    grace_until: TimeMs(grace_until),
                    from_version: record.version - 1,
                    to_version: record.version,
                    mode,
                },
                Label::NONE,
            )
        }
        Pending::Mailbox(mailbox, row) => {
            let settings = &row.settings;
            (
                What::MailboxChanged {
                    mailbox: *mailbox,
                    actor,
                    bytes_max: settings.bytes_max.unwrap_or(0),
                    retention_s: settings.retention_s.unwrap_or(0),
                    messages_max: settings.messages_max.unwrap_or(0),
                    max_deliveries: settings.max_deliveries.unwrap_or(0),
                },
                Label::NONE,
            )
        }
        Pending::Policy(policy) => told_of_policy(policy, epoch),
        Pending::Channel(checked) => told_of_channel(actor, checked),
        Pending::Attributes(agent, attributes) => {
            let attributes = Digest(sha256(&[&row_bytes(attributes)]));
            (What::AgentChanged { agent: *agent, actor, attributes }, Label::NONE)
        }
        Pending::State(states::Changed { agent, state, since_ms }, reason) => {
            let agent = *agent;
            let what = match state {
                AgentState::Active => What::AgentResumed { agent, actor },
                AgentState::Suspended => What::AgentSuspended { agent, actor },
                AgentState::Revoked => What::AgentRevoked { agent, actor, effective: TimeMs(*since_ms) },
            };
            (what, Label::of(reason))
        }
    }
}

/// That a policy is in force, since this epoch.
pub(crate) fn told_of_policy(policy: &Policy, epoch: u64) -> Note {
    let (digest, name) = match policy {
        Policy::Loaded(source) => (*source.digest(), "file"),
        Policy::FailOpen => ([0; 32], FAIL_OPEN),
        _ => ([0; 32], SAME_ORGANIZATION),
    };
    (What::PolicyLoaded { policy: Digest(digest), actor: OPERATOR, epoch }, Label::of(name))
}

/// The first half of a token's hash: it begins with the id that the API shows, and tells nothing about the token.
pub(crate) fn token_in(hash: &TokenHash) -> TokenId {
    TokenId(*hash.first_chunk().expect("a hash has 32 bytes"))
}

/// What an event says of a token that was made or withdrawn.
pub(super) fn told_of_token(actor: AgentId, change: &TokenChange, hash: &TokenHash, info: &TokenInfo) -> Note {
    let token = token_in(hash);
    match change {
        TokenChange::Make(..) => {
            let valid_until = TimeMs(info.expires_at_ms);
            (What::TokenIssued { token, actor, valid_until }, Label::of(&info.scope))
        }
        TokenChange::Withdraw(_) => (What::TokenWithdrawn { token, actor }, Label::of(&info.scope)),
    }
}

/// What an event says of an organization whose agents were revoked together, if these were.
pub(super) fn told_of_organization(
    actor: AgentId,
    request: &StateRequest,
    changed: &[states::Changed],
) -> Option<Note> {
    let Whose::Organization { name, .. } = &request.whose else { return None };
    let first = changed.first().filter(|first| first.state == AgentState::Revoked)?;
    let count = u32::try_from(changed.len()).unwrap_or(u32::MAX);
    let effective = TimeMs(first.since_ms);
    Some((What::OrganizationRevoked { actor, effective, count }, Label::of(name)))
}

#[cfg(test)]
mod tests;
