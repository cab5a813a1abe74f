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
use tokio::task::JoinHandle;

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
    pub(crate) agent: AgentId,
    pub(crate) version: u32,
    pub(crate) reply: Reply<Arc<SignedKeyRecord>>,
}

/// Where shards put questions. Clones lead to the same service.
#[derive(Clone, Debug)]
pub struct KeyRecordDoor(mpsc::Sender<Question>);

/// Where a service takes them from: give it to [`Service::with_key_records`](crate::Service::with_key_records).
#[derive(Debug)]
pub struct KeyRecordQuestions(pub(crate) mpsc::Receiver<Question>);

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

/// Answers until nobody can ask any more. What is at hand is given at once, also while a read is out: a disk may be slow, and a
/// database away.
pub(crate) async fn answer(storage: Arc<Storage>, questions: KeyRecordQuestions) {
    let KeyRecordQuestions(mut questions) = questions;
    let mut records = KeyRecords { storage, recent: Recent::new(KEY_RECORDS_KEPT_MAX) };
    let (mut asked, mut is_open) = (Vec::new(), true);
    // Questions for what has to be read; the door is not looked at while they are as many as it has places.
    let mut missing: Vec<Question> = Vec::new();
    let mut reading: Option<JoinHandle<Read>> = None;
    loop {
        if reading.is_none() && !missing.is_empty() {
            let wanted: Vec<_> = missing.drain(..missing.len().min(KEY_RECORD_ANSWERS_MAX)).collect();
            let storage = Arc::clone(&records.storage);
            reading = Some(tokio::task::spawn_blocking(move || Read::of(&storage, wanted)));
        }
        let may_ask = is_open && missing.len() < KEY_RECORD_QUESTIONS_MAX;
        tokio::select! {
            done = async { reading.as_mut().expect("it is looked at only while there is one").await }, if reading.is_some() => {
                reading = None;
                match done {
                    Ok(read) => records.take(read),
                    Err(error) => match error.try_into_panic() {
                        Ok(panic) => std::panic::resume_unwind(panic),
                        // The service is shutting down; what was not answered says so.
                        Err(_) => return,
                    },
                }
            }
            count = questions.recv_many(&mut asked, KEY_RECORD_ANSWERS_MAX), if may_ask => {
                is_open = count > 0;
                missing.extend(records.give(std::mem::take(&mut asked)));
            }
            // Nobody asks any more, and everybody is answered.
            else => return,
        }
    }
}

/// The stored records, and those that were asked for last. No version of a record ever changes.
struct KeyRecords {
    storage: Arc<Storage>,
    recent: Recent<(AgentId, u32), Arc<SignedKeyRecord>>,
}

impl KeyRecords {
    /// Answers what is at hand. Returns the other questions.
    fn give(&self, asked: Vec<Question>) -> Vec<Question> {
        let mut missing = Vec::new();
        for question in asked {
            match self.recent.get(&(question.agent, question.version)) {
                Some(record) => question.reply.send(Ok(Arc::clone(record))),
                None => missing.push(question),
            }
        }
        missing
    }

    /// Answers what was read, and keeps it.
    fn take(&mut self, read: Read) {
        let Read { wanted, found } = read;
        for Question { agent, version, reply } in wanted {
            // A snapshot shows versions that are stored: one that cannot be read now may be later.
            let record = found.get(&(agent, version)).map(Arc::clone);
            reply.send(record.ok_or_else(|| RejectCode::Overloaded.into()));
        }
        found.into_iter().for_each(|(place, record)| self.recent.insert(place, record));
    }
}

/// Questions, and those of their records that could be read.
struct Read {
    wanted: Vec<Question>,
    found: BTreeMap<(AgentId, u32), Arc<SignedKeyRecord>>,
}

impl Read {
    fn of(storage: &Storage, wanted: Vec<Question>) -> Self {
        let mut places: Vec<_> = wanted.iter().map(|question| (question.agent, question.version)).collect();
        places.sort_unstable();
        places.dedup();
        let keys: Vec<_> = places.iter().map(|(agent, version)| (agent.0, *version)).collect();
        let rows = || -> Result<_, ServiceError> { Ok(storage.begin_read()?.table(KEY_RECORDS).get_many(&keys)?) };
        let rows = rows().unwrap_or_else(|error| {
            tracing::error!(%error, "key records cannot be read");
            Vec::new()
        });
        let mut found = BTreeMap::new();
        for ((agent, version), row) in places.into_iter().zip(rows) {
            match row.map(|row| storage.parse_record(agent, version, &row)) {
                Some(Ok(signed)) => drop(found.insert((agent, version), Arc::new(signed))),
                Some(Err(error)) => {
                    tracing::error!(%error, "a key record cannot be used; restore the directory from a backup");
                }
                None => {
                    tracing::error!(%agent, version, "a key record is missing; restore the directory from a backup");
                }
            }
        }
        Self { wanted, found }
    }
}
