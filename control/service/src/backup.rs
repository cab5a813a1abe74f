//! Backups of a running node: holds the logs, copies the directory, and forgets a backup that is not heard of.
//!
//! ```text
//! creto backup                  control thread                                   shards
//! ------------                  -----------------------------------------------  --------------------------------
//! POST /v1/backups -- socket -> ask every shard ------------------------------> hold the log as it is durable now
//!                  <-- 201 ---- then copy the directory in one read transaction
//! copy the segments
//! POST /v1/backups/{id} ------> the copy of the directory, when it is complete - go on holding
//! DELETE /v1/backups/{id} ----> was everything held until now? ----------------- let go
//! ```
//!
//! The logs come first. An agent is in the directory before a shard hears of it, and nothing ever leaves the directory; so
//! whoever a message of the logs names is in the directory at every later moment. The other order would lose the senders
//! that were registered in between.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::api::{BackupSource, HeldShard};
use crate::limits::BACKUP_LEASE;
use crate::storage::Storage;

/// What a backup asks of the logs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HoldRequest {
    /// Hold them as they are durable now.
    Begin,
    /// Go on.
    Renew,
    /// Let go.
    End,
}

/// Why the logs are not held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotHeld {
    /// A shard cannot hold its log now, and why.
    Unavailable(String),
    /// A shard has let go before it was asked to, and why.
    Over(String),
}

/// The node that is backed up.
pub trait BackupHost: Send + Sync + 'static {
    /// What it consists of, asked while its logs are held: what the audit log does not have then is in them, or in the outbox.
    ///
    /// # Errors
    /// Why what the log has cannot be said now.
    fn source(&self) -> Result<BackupSource, NotHeld>;

    /// Asks all shards, and waits for their answers, a few seconds at most.
    ///
    /// # Errors
    /// [`NotHeld`], when one of them does not hold its log.
    fn hold(&self, backup: u64, request: HoldRequest) -> Result<Vec<HeldShard>, NotHeld>;
}

/// The one backup that may be under way.
pub(crate) struct Backups {
    host: Arc<dyn BackupHost>,
    storage: Arc<Storage>,
    copy_path: PathBuf,
    current: Mutex<Option<Current>>,
}

struct Current {
    id: u64,
    until: Instant,
    copy: Copy,
}

/// The copy of the directory.
enum Copy {
    Running,
    Complete,
    Failed(String),
}

/// Why a backup is refused.
pub(crate) enum Refused {
    Running,
    NotHeld(NotHeld),
    CopyFailed(String),
}

impl From<NotHeld> for Refused {
    fn from(not_held: NotHeld) -> Self {
        Self::NotHeld(not_held)
    }
}

impl Backups {
    /// For a directory at `directory_path`. What an earlier process left of a copy is removed.
    pub(crate) fn new(host: Arc<dyn BackupHost>, storage: Arc<Storage>, directory_path: &Path) -> Self {
        let mut copy_path = directory_path.as_os_str().to_owned();
        copy_path.push(".backup");
        let backups = Self { host, storage, copy_path: copy_path.into(), current: Mutex::new(None) };
        backups.remove_copy();
        backups
    }

    pub(crate) fn source(&self) -> Result<BackupSource, NotHeld> {
        self.host.source()
    }

    /// Holds the logs, and starts to copy the directory on a thread of its own.
    pub(crate) fn begin(self: &Arc<Self>, id: u64) -> Result<Vec<HeldShard>, Refused> {
        let mut current = self.current();
        if current.as_ref().is_some_and(|current| current.until > Instant::now()) {
            return Err(Refused::Running);
        }
        // A copy that is still being written belongs to nobody any more; its thread takes it away at its end.
        if current.as_ref().is_some_and(|current| matches!(current.copy, Copy::Running)) {
            return Err(Refused::Running);
        }
        let shards = self.host.hold(id, HoldRequest::Begin)?;
        *current = Some(Current { id, until: Instant::now() + BACKUP_LEASE, copy: Copy::Running });
        drop(current);
        let backups = Arc::clone(self);
        let spawned = std::thread::Builder::new().name("creto-backup".to_owned()).spawn(move || backups.copy(id));
        if let Err(error) = spawned {
            self.copied(id, Err(format!("no thread can be started: {error}")));
        }
        Ok(shards)
    }

    /// Goes on holding the logs; the path of the directory's copy, once there is one.
    pub(crate) fn renew(&self, id: u64) -> Result<Option<PathBuf>, Refused> {
        let mut current = self.current();
        let current = Self::find(&mut current, id)?;
        self.host.hold(id, HoldRequest::Renew)?;
        current.until = Instant::now() + BACKUP_LEASE;
        match &current.copy {
            Copy::Running => Ok(None),
            Copy::Complete => Ok(Some(self.copy_path.clone())),
            Copy::Failed(error) => Err(Refused::CopyFailed(error.clone())),
        }
    }

    /// Lets go of the logs, and says whether they were held until now.
    pub(crate) fn end(&self, id: u64) -> Result<Result<(), NotHeld>, Refused> {
        let mut current = self.current();
        Self::find(&mut current, id)?;
        let held = self.host.hold(id, HoldRequest::End);
        self.forget(&mut current);
        Ok(held.map(drop))
    }

    /// Takes away what a backup left that is not heard of any more, and says whether there was one. Its hold on the logs ends
    /// by itself.
    pub(crate) fn end_late(&self) -> bool {
        let mut current = self.current();
        let is_late = current.as_ref().is_some_and(|current| current.until <= Instant::now());
        if is_late {
            self.forget(&mut current);
        }
        // One whose copy is still being written is forgotten when it is.
        is_late && current.is_none()
    }

    /// Whether this backup is the one that is under way.
    pub(crate) fn is_under_way(&self, id: u64) -> bool {
        self.current().as_ref().is_some_and(|current| current.id == id)
    }

    fn find(current: &mut Option<Current>, id: u64) -> Result<&mut Current, Refused> {
        let current = current.as_mut().filter(|current| current.id == id && current.until > Instant::now());
        current.ok_or_else(|| NotHeld::Over("the node has no backup of this name under way".to_owned()).into())
    }

    fn forget(&self, current: &mut Option<Current>) {
        match current {
            // Its thread removes what it is writing.
            Some(Current { copy: Copy::Running, until, .. }) => *until = Instant::now(),
            _ => {
                *current = None;
                self.remove_copy();
            }
        }
    }

    fn copy(&self, id: u64) {
        let copied = self.storage.copy_to(&self.copy_path).map_err(|error| error.to_string());
        self.copied(id, copied);
    }

    fn copied(&self, id: u64, copied: Result<(), String>) {
        let mut current = self.current();
        let Some(current) = current.as_mut().filter(|current| current.id == id) else { return };
        if current.until <= Instant::now() || copied.is_err() {
            self.remove_copy();
        }
        current.copy = match copied {
            Ok(()) => Copy::Complete,
            Err(error) => {
                tracing::error!(%error, "the directory could not be copied for a backup");
                Copy::Failed(error)
            }
        };
    }

    fn remove_copy(&self) {
        match fs::remove_file(&self.copy_path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.copy_path.display(), %error, "the copy of the directory could not be removed");
            }
            _ => {}
        }
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        // What it guards is whole at every moment.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Backups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backups").field("copy_path", &self.copy_path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
