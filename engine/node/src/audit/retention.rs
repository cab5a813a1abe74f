//! When entries of the audit log are old enough to go.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use creto_audit_store::{LogReader, StoreError};

/// How often is looked: entries go by files of 65,536, and a few hours more or less are no matter.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

pub(super) struct Retention {
    folder: PathBuf,
    retention_ms: u64,
    /// When is looked next.
    pub(super) due: Instant,
}

impl Retention {
    /// Looks at once, and every hour from then on.
    pub(super) fn new(folder: PathBuf, retention: Duration) -> Self {
        let retention_ms = u64::try_from(retention.as_millis()).unwrap_or(u64::MAX);
        Self { folder, retention_ms, due: Instant::now() }
    }

    /// The entries before this leaf may go: they were signed so long ago by the node's clock.
    pub(super) fn next(&mut self, now_ms: u64) -> Result<u64, StoreError> {
        self.due = Instant::now() + LOOK_EVERY;
        LogReader::open(&self.folder)?.signed_before(now_ms.saturating_sub(self.retention_ms))
    }
}
