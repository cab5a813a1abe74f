//! The door through which shards get key records: a snapshot has what decisions read of an agent, and not its keys.
//!
//! ```text
//! shard                                  control thread
//! -------------------------------------  ------------------------------------------------
//! agent, version -- KeyRecordDoor ---->  one read transaction for all that wait
//! the record     <-- Reply ------------
//! ```
//!
//! What came last is kept for the next who asks: an agent that connects again, to whichever shard, does so also while a database is
//! away. All shards that have a record share it.
//!
//! A shard asks when somebody logs in, and when somebody wants to read a record, and goes on meanwhile. There is one answer to each
//! question, whatever happens.

use std::collections::BTreeMap;
use std::sync::Arc;

use creto_envelope::{AgentId, RejectCode, SignedKeyRecord};
use creto_policy::Recent;
use tokio::sync::mpsc;

use crate::error::ServiceError;
use crate::limits::{KEY_RECORD_ANSWERS_MAX, KEY_RECORD_QUESTIONS_MAX, KEY_RECORDS_KEPT_MAX};
use crate::rotation::{Refused, not_taken};
use crate::storage::{KEY_RECORDS, Storage};

pub use crate::rotation::Reply;

#[cfg(test)]
mod tests;

/// A question with whoever waits for its answer.
#[derive(Debug)]
pub(crate) struct Question {
    agent: AgentId,
    version: u32,
    reply: Reply<Arc<SignedKeyRecord>>,
}

/// Where shards put questions. Clones lead to the same service.
#[derive(Clone, Debug)]
pub struct KeyRecordDoor(mpsc::Sender<Question>);

/// Where a service takes them from: give it to [`Service::with_key_records`](crate::Service::with_key_records).
#[derive(Debug)]
pub struct KeyRecordQuestions(mpsc::Receiver<Question>);

/// A door of at most [`KEY_RECORD_QUESTIONS_MAX`] questions. It may be made before the service is.
#[must_use]
pub fn key_record_questions() -> (KeyRecordDoor, KeyRecordQuestions) {
    let (door, questions) = mpsc::channel(KEY_RECORD_QUESTIONS_MAX);
    (KeyRecordDoor(door), KeyRecordQuestions(questions))
}

impl KeyRecordDoor {
    /// Asks for a version of an agent's key record that a snapshot has shown, without waiting.
    ///
    /// # Errors
    /// Why the question was not taken; its reply was not, and will not be, called.
    pub fn ask(&self, agent: AgentId, version: u32, reply: Reply<Arc<SignedKeyRecord>>) -> Result<(), Refused> {
        let asked = self.0.try_send(Question { agent, version, reply });
        asked.map_err(|error| not_taken(error, |back| back.reply.forget()))
    }
}

/// Answers until nobody can ask any more.
pub(crate) async fn answer(storage: Arc<Storage>, questions: KeyRecordQuestions) {
    let KeyRecordQuestions(mut questions) = questions;
    let mut records = KeyRecords { storage, recent: Recent::new(KEY_RECORDS_KEPT_MAX) };
    let mut waiting = Vec::new();
    while questions.recv_many(&mut waiting, KEY_RECORD_ANSWERS_MAX).await > 0 {
        let asked = std::mem::take(&mut waiting);
        // Reads may have to wait for the disk.
        let answered = tokio::task::spawn_blocking(move || {
            records.answer_all(asked);
            records
        });
        match answered.await {
            Ok(back) => records = back,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The service is shutting down; what was not answered says so.
                Err(_) => return,
            },
        }
    }
}

/// The stored records, and those that were asked for last. No version of a record ever changes.
struct KeyRecords {
    storage: Arc<Storage>,
    recent: Recent<(AgentId, u32), Arc<SignedKeyRecord>>,
}

impl KeyRecords {
    fn answer_all(&mut self, asked: Vec<Question>) {
        let mut missing: Vec<_> = asked.iter().map(|question| (question.agent, question.version)).collect();
        missing.retain(|place| self.recent.get(place).is_none());
        missing.sort_unstable();
        missing.dedup();
        // Beside what is kept: more may be asked for than there is room for.
        let read = self.read(&missing);
        for Question { agent, version, reply } in asked {
            let place = (agent, version);
            let found = self.recent.get(&place).or_else(|| read.get(&place)).map(Arc::clone);
            // A snapshot shows versions that are stored: one that cannot be read now may be later.
            reply.send(found.ok_or_else(|| RejectCode::Overloaded.into()));
        }
        read.into_iter().for_each(|(place, record)| self.recent.insert(place, record));
    }

    /// Those of these records that can be read.
    fn read(&self, places: &[(AgentId, u32)]) -> BTreeMap<(AgentId, u32), Arc<SignedKeyRecord>> {
        let mut found = BTreeMap::new();
        if places.is_empty() {
            return found;
        }
        let keys: Vec<_> = places.iter().map(|(agent, version)| (agent.0, *version)).collect();
        let rows = || -> Result<_, ServiceError> { Ok(self.storage.begin_read()?.table(KEY_RECORDS).get_many(&keys)?) };
        let rows = rows().unwrap_or_else(|error| {
            tracing::error!(%error, "key records cannot be read");
            Vec::new()
        });
        for ((agent, version), row) in places.iter().zip(rows) {
            match row.map(|row| self.storage.parse_record(*agent, *version, &row)) {
                Some(Ok(signed)) => drop(found.insert((*agent, *version), Arc::new(signed))),
                Some(Err(error)) => {
                    tracing::error!(%error, "a key record cannot be used; restore the directory from a backup");
                }
                None => {
                    tracing::error!(%agent, version, "a key record is missing; restore the directory from a backup")
                }
            }
        }
        found
    }
}
