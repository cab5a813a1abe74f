//! The door through which shards get the records of channels: a snapshot has what decisions read of them, and not the signatures by
//! which agents see for themselves what a channel's owner said.
//!
//! ```text
//! shard                          control thread
//! -----------------------------  ------------------------------------------------
//! channel -- ChannelDoor ----->  one read transaction for some that wait
//! record  <-- Reply -----------
//! ```
//!
//! A shard asks when an agent does, and goes on meanwhile. There is one answer to each question, whatever happens.

use std::sync::Arc;

use creto_envelope::channel::SignedChannelRecord;
use creto_envelope::{ChannelId, RejectCode};
use tokio::sync::mpsc;

use crate::channels::ChannelRow;
use crate::error::ServiceError;
use crate::limits::{CHANNEL_QUESTIONS_MAX, CHANNELS_AT_ONCE};
use crate::rotation::{Refused, not_taken};
use crate::storage::{CHANNELS, Storage};

pub use crate::rotation::Reply;

#[cfg(test)]
mod tests;

/// A question with whoever waits for its answer.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) channel: ChannelId,
    pub(crate) reply: Reply<Box<SignedChannelRecord>>,
}

/// Where shards put questions. Clones lead to the same service.
#[derive(Clone, Debug)]
pub struct ChannelDoor(mpsc::Sender<Question>);

/// Where a service takes them from: give it to [`Service::with_channels`](crate::Service::with_channels).
#[derive(Debug)]
pub struct ChannelQuestions(pub(crate) mpsc::Receiver<Question>);

/// A door of at most [`CHANNEL_QUESTIONS_MAX`] questions. It may be made before the service is.
#[must_use]
pub fn channel_questions() -> (ChannelDoor, ChannelQuestions) {
    let (door, questions) = mpsc::channel(CHANNEL_QUESTIONS_MAX);
    (ChannelDoor(door), ChannelQuestions(questions))
}

impl ChannelDoor {
    /// Asks for the record of a channel, without waiting. One that is not there, or was deleted, is
    /// [`UnknownChannel`](RejectCode::UnknownChannel).
    ///
    /// # Errors
    /// Why the question was not taken; its reply was not, and will not be, called.
    pub fn ask(&self, channel: ChannelId, reply: Reply<Box<SignedChannelRecord>>) -> Result<(), Refused> {
        let asked = self.0.try_send(Question { channel, reply });
        asked.map_err(|error| not_taken(error, |back| back.reply.forget()))
    }
}

/// Answers until nobody can ask any more.
pub(crate) async fn answer(storage: Arc<Storage>, questions: ChannelQuestions) {
    let ChannelQuestions(mut questions) = questions;
    let mut waiting = Vec::new();
    // Few at a time: a record may be large.
    while questions.recv_many(&mut waiting, CHANNELS_AT_ONCE).await > 0 {
        let asked = std::mem::take(&mut waiting);
        let storage = Arc::clone(&storage);
        // Reads may have to wait for the disk.
        let answered = tokio::task::spawn_blocking(move || answer_all(&storage, asked));
        if let Err(error) = answered.await {
            match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The service is shutting down; what was not answered says so.
                Err(_) => return,
            }
        }
    }
}

fn answer_all(storage: &Storage, asked: Vec<Question>) {
    let rows = || -> Result<_, ServiceError> {
        let ids = asked.iter().map(|question| &question.channel.0);
        Ok(storage.begin_read()?.table(CHANNELS).get_many(ids)?)
    };
    let rows = match rows() {
        Ok(rows) => rows,
        Err(error) => {
            tracing::error!(%error, "records of channels cannot be read");
            return asked.into_iter().for_each(|question| question.reply.send(Err(RejectCode::Overloaded.into())));
        }
    };
    for (Question { channel, reply }, row) in asked.into_iter().zip(rows) {
        reply.send(match row.map(|row| ChannelRow::parse(&row)) {
            None => Err(RejectCode::UnknownChannel.into()),
            Some(Some(row)) if row.signed.record.is_deleted => Err(RejectCode::UnknownChannel.into()),
            Some(Some(row)) => Ok(Box::new(row.signed)),
            Some(None) => {
                tracing::error!(%channel, "the record of a channel cannot be used; restore the directory from a backup");
                Err(RejectCode::Overloaded.into())
            }
        });
    }
}
