//! What no change of the directory says, on its way to the audit log: refusals, backups, the policy of a start.
//!
//! It takes the way of every event of control: the writer puts it into the outbox. Refusals are told one by one as long as they
//! are seldom, and counted beyond that, so that nobody fills the log by asking.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use creto_audit::budget::Budget;
use creto_audit::{Label, What};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::directory::{Change, OPERATOR};
use crate::limits::NOTES_MAX;
use crate::service::wall_clock_ms;
use crate::writer::{Answer, Pending};

/// How often at most is told what was only counted.
const COUNTED_TOLD: Duration = Duration::from_secs(1);

/// What happened, with the event's text.
pub(crate) type Note = (What, Label);

/// Where to tell it. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Teller {
    notes: mpsc::Sender<Note>,
    refusals: Arc<Refusals>,
}

#[derive(Debug, Default)]
struct Refusals {
    budget: Mutex<Budget>,
    /// Something was counted.
    is_counted: Notify,
}

impl Refusals {
    fn budget(&self) -> MutexGuard<'_, Budget> {
        // What it guards is whole at every moment.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes what is told to the writer.
#[derive(Debug)]
pub(crate) struct Telling {
    notes: mpsc::Receiver<Note>,
    refusals: Arc<Refusals>,
}

pub(crate) fn telling() -> (Teller, Telling) {
    let (sender, notes) = mpsc::channel(NOTES_MAX);
    let refusals = Arc::<Refusals>::default();
    (Teller { notes: sender, refusals: Arc::clone(&refusals) }, Telling { notes, refusals })
}

impl Teller {
    /// Tells of what somebody was refused.
    pub(crate) fn refused(&self, what: What, label: Label) {
        let now_ms = wall_clock_ms();
        let mut budget = self.refusals.budget();
        if let Some(what) = budget.admit(what, now_ms) {
            if self.notes.try_send((what, label)).is_ok() {
                return;
            }
            budget.merge(&what, now_ms);
        }
        drop(budget);
        self.refusals.is_counted.notify_one();
    }

    /// Tells of what happens seldom by itself. Waits while the writer is busy.
    pub(crate) async fn tell(&self, what: What, label: Label) {
        // Whoever does not take it any more is about to end.
        let _ended = self.notes.send((what, label)).await;
    }
}

impl Telling {
    /// Hands everything to the writer until `stopped` resolves, and then what is left.
    pub(crate) async fn run(mut self, changes: mpsc::Sender<Pending>, mut stopped: oneshot::Receiver<()>) {
        let mut notes = Vec::new();
        let mut due = Instant::now();
        let mut is_stopped = false;
        while !is_stopped {
            let has_merged = self.refusals.budget().has_merged();
            tokio::select! {
                count = self.notes.recv_many(&mut notes, NOTES_MAX) => is_stopped = count == 0,
                () = self.refusals.is_counted.notified() => continue,
                () = tokio::time::sleep_until(due), if has_merged => {
                    due = Instant::now() + COUNTED_TOLD;
                    notes.extend(self.merged());
                }
                _ = &mut stopped => is_stopped = true,
            }
            if is_stopped {
                self.notes.close();
                while let Some(note) = self.notes.recv().await {
                    notes.push(note);
                }
                notes.extend(self.merged());
            }
            if notes.is_empty() {
                continue;
            }
            let change = Change::Tell(std::mem::take(&mut notes));
            if changes.send(Pending { change, answer: Answer::Nobody, by: OPERATOR }).await.is_err() {
                return;
            }
        }
    }

    fn merged(&self) -> Vec<Note> {
        self.refusals.budget().take_merged().map(|what| (what, Label::NONE)).collect()
    }
}
