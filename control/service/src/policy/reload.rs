//! When the file of policy is read again: when somebody asks, and when it has changed and lain still for a moment.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use creto_policy::Policy;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{InForce, LoadError, RegoPolicy};
use crate::api::PolicyInfo;
use crate::directory::{Change, OPERATOR};
use crate::limits::{POLICY_POLL, REFRESH_POLL};
use crate::telling::Teller;
use crate::writer::{Answer, Pending};

/// What somebody who asked is told.
pub(crate) type Reloaded = Result<PolicyInfo, NotReloaded>;

/// Why nothing else is in force than before.
#[derive(Debug)]
pub(crate) enum NotReloaded {
    /// No file is configured.
    NoFile,
    /// The file is refused.
    Load(LoadError),
    /// The epoch could not be written.
    Storage,
    /// The service ends.
    ShuttingDown,
}

/// Somebody asks; nobody may wait for the answer.
#[derive(Debug)]
pub(crate) struct Reload(pub(crate) Option<oneshot::Sender<Reloaded>>);

pub(crate) type Reloads = mpsc::Receiver<Reload>;

/// Loads the policy whenever it is to be, until nobody can ask any more.
pub(crate) async fn follow(in_force: InForce, mut reloads: Reloads, changes: mpsc::Sender<Pending>, teller: Teller) {
    let file = in_force.options.file.clone();
    let mut ticks = interval(POLICY_POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // What was loaded, and what was seen last. Nobody knows what the file was when it was read at the start, so it is read
    // once more.
    let (mut loaded, mut seen) = (None, None);
    // When it is tried again, after the directory could not be written.
    let mut again_at: Option<Instant> = None;
    loop {
        tokio::select! {
            asked = reloads.recv() => {
                let Some(Reload(answer)) = asked else { return };
                let state = file.as_deref().and_then(FileState::of);
                let reloaded = reload(&in_force, &changes, &teller, false).await;
                again_at = again_after(&reloaded);
                (loaded, seen) = (state, state);
                if let Some(answer) = answer {
                    // Whoever went away can look at the log.
                    let _gone = answer.send(reloaded);
                }
            }
            _ = ticks.tick(), if file.is_some() => {
                let state = file.as_deref().and_then(FileState::of);
                // Half a file may be a policy, too: it is read when it has lain still.
                let is_due = again_at.is_some_and(|at| at <= Instant::now());
                if (state != loaded || is_due) && state == seen {
                    loaded = state;
                    // It is in the log, and in the status.
                    again_at = again_after(&reload(&in_force, &changes, &teller, is_due).await);
                }
                seen = state;
            }
        }
    }
}

/// A policy that was read and could not be put into force is tried again by itself: nobody changes its file once more for that.
fn again_after(reloaded: &Reloaded) -> Option<Instant> {
    matches!(reloaded, Err(NotReloaded::Storage)).then(|| Instant::now() + REFRESH_POLL)
}

async fn reload(in_force: &InForce, changes: &mpsc::Sender<Pending>, teller: &Teller, is_again: bool) -> Reloaded {
    let reloaded = load(in_force, changes).await;
    match &reloaded {
        Ok(None) => {}
        Ok(Some(PolicyInfo { name, sha256, epoch, .. })) => {
            tracing::info!(policy = name, sha256, epoch, "another policy is in force");
        }
        Err(NotReloaded::Load(error)) => {
            tracing::error!("the policy was not loaded, the one before it stays in force: {error}");
            let (what, label) = error.note();
            teller.refused(what, label);
        }
        Err(NotReloaded::NoFile) => tracing::warn!("there is no policy to load: [policy] file is not set"),
        // Said once.
        Err(NotReloaded::Storage) if is_again => {}
        Err(NotReloaded::Storage) => {
            tracing::error!("the policy was not loaded: the directory could not be written; it is tried again")
        }
        Err(NotReloaded::ShuttingDown) => {}
    }
    reloaded.map(|info| info.unwrap_or_else(|| in_force.info()))
}

/// What is in force now, if that is another policy than before.
async fn load(in_force: &InForce, changes: &mpsc::Sender<Pending>) -> Result<Option<PolicyInfo>, NotReloaded> {
    let reading = in_force.clone();
    let read = tokio::task::spawn_blocking(move || reading.load());
    let loaded: Arc<RegoPolicy> = match read.await {
        Ok(None) => return Err(NotReloaded::NoFile),
        Ok(Some(Ok(loaded))) => loaded,
        Ok(Some(Err(error))) => {
            in_force.keep(&error);
            return Err(NotReloaded::Load(error));
        }
        Err(panic) => std::panic::resume_unwind(panic.into_panic()),
    };
    if in_force.compiled().is_some_and(|before| before.digest_text() == loaded.digest_text()) {
        in_force.confirm();
        return Ok(None);
    }
    let (answer, answered) = oneshot::channel();
    let policy = Policy::Loaded(Arc::clone(&loaded) as _);
    let pending = Pending { change: Change::Policy(policy), answer: Answer::Policy(answer), by: OPERATOR };
    changes.send(pending).await.map_err(|_| NotReloaded::ShuttingDown)?;
    let epoch = answered.await.map_err(|_| NotReloaded::Storage)?;
    Ok(Some(in_force.replace(loaded, epoch)))
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct FileState {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
}

impl FileState {
    fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Some(Self { inode: metadata.ino(), bytes: metadata.len(), modified })
    }
}
