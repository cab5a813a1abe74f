//! What is set for mailboxes: changed inside the writer's transaction, and as the API shows it.

use creto_control_storage::Writing;
use creto_envelope::{AgentId, AgentName};
use creto_policy::mailbox::OutOfRange;

use super::{Directory, Reader, rows_of};
use crate::api::{MailboxInfo, MailboxPage};
use crate::error::ServiceError;
use crate::mailboxes::{MailboxDefaults, MailboxRequest, MailboxRow};
use crate::storage::{AGENTS, AgentEntry, MAILBOXES};

/// What became of one change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum MailboxSet {
    /// This is set now.
    Changed(MailboxRow),
    /// It was set before.
    Same(MailboxRow),
    /// No agent has this name.
    Unknown,
    /// A value is none that may be set.
    OutOfRange(OutOfRange),
}

impl Directory {
    pub(super) fn set_mailbox_one(
        &self,
        transaction: &dyn Writing,
        request: &MailboxRequest,
        now_ms: u64,
    ) -> Result<MailboxSet, ServiceError> {
        let agents = transaction.table(AGENTS);
        let mailboxes = transaction.table(MAILBOXES);
        let id = request.agent;
        if agents.get(&id.0)?.is_none() {
            return Ok(MailboxSet::Unknown);
        }
        let row = mailboxes.get(&id.0)?.map(|row| MailboxRow::parse(&row));
        let before = row.unwrap_or(Some(MailboxRow::default()));
        let before = before.ok_or_else(|| self.storage.damaged(format!("mailbox of agent {id}")))?;
        let settings = match request.change.applied_to(&before.settings) {
            Ok(settings) if settings == before.settings => return Ok(MailboxSet::Same(before)),
            Ok(settings) => settings,
            Err(error) => return Ok(MailboxSet::OutOfRange(error)),
        };
        let after = before.changed(settings, self.retention.retention_s, self.retention.lower, now_ms);
        mailboxes.put(&id.0, &after.to_bytes())?;
        Ok(MailboxSet::Changed(after))
    }
}

impl Reader {
    /// What is set for a mailbox, as the API shows it.
    pub(crate) fn mailbox_info(&self, name: &AgentName, row: &MailboxRow, defaults: &MailboxDefaults) -> MailboxInfo {
        let own = &row.settings;
        MailboxInfo {
            name: name.to_string(),
            id: AgentId::derive(&self.trust_domain, name).to_string(),
            retention_s: own.retention_s,
            messages_max: own.messages_max,
            bytes_max: own.bytes_max,
            max_deliveries: own.max_deliveries,
            in_force: MailboxDefaults {
                retention_s: own.retention_s.unwrap_or(defaults.retention_s),
                messages_max: own.messages_max.unwrap_or(defaults.messages_max),
                bytes_max: own.bytes_max.unwrap_or(defaults.bytes_max),
                max_deliveries: own.max_deliveries.unwrap_or(defaults.max_deliveries),
            },
        }
    }

    /// What is set for the mailbox of the agent with this name.
    pub(crate) fn mailbox(
        &self,
        name: &AgentName,
        defaults: &MailboxDefaults,
    ) -> Result<Option<MailboxInfo>, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let agents = transaction.table(AGENTS);
        let id = AgentId::derive(&self.trust_domain, name);
        if agents.get(&id.0)?.is_none() {
            return Ok(None);
        }
        let row = self.mailbox_row(id, transaction.table(MAILBOXES).get(&id.0)?)?;
        Ok(Some(self.mailbox_info(name, &row, defaults)))
    }

    /// The mailboxes of agents by name, of one organization or of all, those after `after`, at most `limit`.
    pub(crate) fn mailboxes(
        &self,
        organization: Option<&str>,
        after: Option<&str>,
        limit: usize,
        defaults: &MailboxDefaults,
    ) -> Result<MailboxPage, ServiceError> {
        let transaction = self.storage.begin_read()?;
        let fetch = |ids: &[AgentId]| rows_of(&*transaction, MAILBOXES, ids);
        let show = |id: AgentId, entry: AgentEntry, row| {
            Ok(Some(self.mailbox_info(&entry.name, &self.mailbox_row(id, row)?, defaults)))
        };
        let (mailboxes, next_after) = self.named(&*transaction, organization, after, limit, fetch, show)?;
        Ok(MailboxPage { mailboxes, next_after })
    }

    fn mailbox_row(&self, id: AgentId, row: Option<Vec<u8>>) -> Result<MailboxRow, ServiceError> {
        let row = row.map_or(Some(MailboxRow::default()), |row| MailboxRow::parse(&row));
        row.ok_or_else(|| self.storage.damaged(format!("mailbox of agent {id}")))
    }
}
