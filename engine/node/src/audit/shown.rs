//! The audit log as the control API shows it: read from its files, beside the thread that writes them.

use std::path::PathBuf;

use creto_audit_store::{LogReader, StoreError, event_json, prove};
use creto_service::api::AuditPage;
use creto_service::audit::{AuditLogSource, AuditUnread};

/// The folder of the log. Every question reads the newest checkpoint and verifies it.
pub(crate) struct AuditShown {
    folder: PathBuf,
}

impl AuditShown {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn open(&self) -> Result<LogReader, AuditUnread> {
        LogReader::open(&self.folder).map_err(unread)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it is the last to see the error")]
fn unread(error: StoreError) -> AuditUnread {
    match error {
        StoreError::NoLeaf(_) => AuditUnread::NoLeaf,
        error => AuditUnread::Unavailable(error.to_string()),
    }
}

impl AuditLogSource for AuditShown {
    fn keys(&self) -> Result<String, AuditUnread> {
        Ok(self.open()?.verifier().public().to_text())
    }

    fn checkpoint(&self) -> Result<String, AuditUnread> {
        Ok(self.open()?.checkpoint().note().to_owned())
    }

    fn proof(&self, leaf: u64) -> Result<String, AuditUnread> {
        Ok(prove(&self.open()?, leaf, None).map_err(unread)?.to_text())
    }

    fn events(&self, from: u64, limit: usize) -> Result<AuditPage, AuditUnread> {
        let log = self.open()?;
        let page = log.events(from, limit).map_err(unread)?;
        let checkpoint = log.checkpoint();
        Ok(AuditPage {
            origin: checkpoint.origin.clone(),
            size: checkpoint.size,
            signed_at_ms: checkpoint.time_ms,
            events: page.events.iter().map(|(index, event)| event_json(*index, event)).collect(),
            next_from: page.next,
        })
    }
}
