//! The other ends of the shards' doors, at a node without a service: what is asked waits for control, or is told to come later.

use std::collections::BTreeMap;
use std::sync::Arc;

use creto_envelope::channel::SignedChannelRecord;
use creto_envelope::enrol::Enrolled;
use creto_envelope::prekeys::{PrekeyStock, SignedPrekey};
use creto_envelope::{AgentId, ChannelId, RejectCode, SignedKeyRecord};
use creto_link as link;
use creto_link::Question;
use creto_link::limits::{LARGE_QUESTIONS_MAX, QUESTIONS_MAX};

use super::ShardQuestions;
use crate::channel_records;
use crate::enrolment::EnrolmentAsked;
use crate::key_log::{self, BUSY};
use crate::key_records;
use crate::prekeys::{self, Claim, Upload};
use crate::rotation::{Publication, Refused, Reply};

/// Something that a shard asked.
#[derive(Debug)]
pub(super) enum Asked {
    Publish(Publication),
    Enrol(EnrolmentAsked),
    KeyRecord(key_records::Question),
    KeyLog(key_log::Asked),
    Upload(Upload),
    Prekeys(prekeys::Question),
    Channel(channel_records::Question),
}

/// Who waits for an answer of control.
#[derive(Debug)]
pub(super) enum Waiting {
    Publish(Reply),
    Enrol(Reply<Enrolled>),
    KeyRecord(AgentId, u32, Reply<Arc<SignedKeyRecord>>),
    KeyLog(key_log::Asked),
    Upload(Reply<PrekeyStock>),
    Claim(Reply<SignedPrekey>),
    Stock(Reply<PrekeyStock>),
    Channel(ChannelId, Reply<Box<SignedChannelRecord>>),
}

impl ShardQuestions {
    /// The next thing that is asked; `None` when no shard can ask any more. Nothing is lost when it is not awaited to its end. What has a
    /// large answer waits where it is unless `takes_large`.
    pub(super) async fn next(&mut self, takes_large: bool) -> Option<Asked> {
        tokio::select! {
            Some(asked) = self.key_records.0.recv() => Some(Asked::KeyRecord(asked)),
            Some(asked) = self.prekeys.questions.recv() => Some(Asked::Prekeys(asked)),
            Some(asked) = self.channels.0.recv(), if takes_large => Some(Asked::Channel(asked)),
            Some(asked) = self.key_log.0.recv(), if takes_large => Some(Asked::KeyLog(asked)),
            Some(asked) = self.publications.next() => Some(Asked::Publish(asked)),
            Some(asked) = self.enrolments.0.recv() => Some(Asked::Enrol(asked)),
            Some(asked) = self.prekeys.uploads.recv() => Some(Asked::Upload(asked)),
            else => None,
        }
    }
}

impl Asked {
    /// The question as it goes to control, and who waits for the answer.
    pub(super) fn split(self) -> (Question, Waiting) {
        match self {
            Self::Publish(Publication { agent, mode, record, reply }) => {
                (Question::Publish { agent, mode, record }, Waiting::Publish(reply))
            }
            Self::Enrol(EnrolmentAsked { token, peer, record, reply }) => {
                (Question::Enrol { token, peer: peer.0, record }, Waiting::Enrol(reply))
            }
            Self::KeyRecord(key_records::Question { agent, version, reply }) => {
                (Question::KeyRecord { agent, version }, Waiting::KeyRecord(agent, version, reply))
            }
            Self::KeyLog(asked) => (Question::KeyLog(asked.question), Waiting::KeyLog(asked)),
            Self::Upload(Upload { agent, batch, reply }) => (Question::Upload { agent, batch }, Waiting::Upload(reply)),
            Self::Prekeys(prekeys::Question::Claim(Claim { asker, agent, reply })) => {
                (Question::Claim { asker, agent }, Waiting::Claim(reply))
            }
            Self::Prekeys(prekeys::Question::Stock { agent, reply }) => {
                (Question::Stock { agent }, Waiting::Stock(reply))
            }
            Self::Channel(channel_records::Question { channel, reply }) => {
                (Question::ChannelRecord { channel }, Waiting::Channel(channel, reply))
            }
        }
    }

    /// Control is away: whoever asks is told to come again.
    pub(super) fn put_off(self) {
        self.split().1.put_off();
    }
}

impl Waiting {
    /// As [`Question::is_large`].
    fn is_large(&self) -> bool {
        matches!(self, Self::KeyLog(_) | Self::Channel(..))
    }

    /// The same as a service that has no time says.
    pub(super) fn put_off(self) {
        let busy = || Refused::from(RejectCode::Overloaded);
        match self {
            Self::Publish(reply) => reply.send(Err(busy())),
            Self::Enrol(reply) => reply.send(Err(busy())),
            Self::KeyRecord(_, _, reply) => reply.send(Err(busy())),
            Self::KeyLog(asked) => {
                let frame = asked.question.refused(BUSY);
                asked.answer(frame);
            }
            Self::Upload(reply) | Self::Stock(reply) => reply.send(Err(busy())),
            Self::Claim(reply) => reply.send(Err(busy())),
            Self::Channel(_, reply) => reply.send(Err(busy())),
        }
    }

    /// Hands the answer on, if it is one to this question. Whoever waits is told to come again if it is not.
    pub(super) fn answer(self, answer: link::Answer) -> Result<(), NotIts> {
        match (self, answer) {
            (Self::Publish(reply), link::Answer::Publish(answer)) => reply.send(answer.map_err(refused)),
            (Self::Enrol(reply), link::Answer::Enrol(answer)) => reply.send(answer.map_err(refused)),
            (Self::KeyRecord(agent, version, reply), link::Answer::KeyRecord(answer)) => {
                let is_its =
                    |record: &SignedKeyRecord| record.record.agent_id() == agent && record.record.version == version;
                match answer {
                    Ok(record) if is_its(&record) => reply.send(Ok(Arc::from(record))),
                    Ok(_) => {
                        Self::KeyRecord(agent, version, reply).put_off();
                        return Err(NotIts);
                    }
                    Err(no) => reply.send(Err(refused(no))),
                }
            }
            (Self::Channel(channel, reply), link::Answer::ChannelRecord(answer)) => match answer {
                Ok(signed) if signed.record.channel_id() == channel => reply.send(Ok(signed)),
                Ok(_) => {
                    Self::Channel(channel, reply).put_off();
                    return Err(NotIts);
                }
                Err(no) => reply.send(Err(refused(no))),
            },
            (Self::KeyLog(asked), link::Answer::KeyLog(frame)) => asked.answer(frame),
            (Self::Upload(reply), link::Answer::Upload(answer)) => reply.send(answer.map_err(refused)),
            (Self::Claim(reply), link::Answer::Claim(answer)) => {
                reply.send(answer.map(|prekey| *prekey).map_err(refused));
            }
            (Self::Stock(reply), link::Answer::Stock(answer)) => reply.send(answer.map_err(refused)),
            (waiting, _) => {
                waiting.put_off();
                return Err(NotIts);
            }
        }
        Ok(())
    }
}

/// Everybody who waits for an answer, by the question's id.
#[derive(Debug, Default)]
pub(super) struct Unanswered {
    all: BTreeMap<u64, Waiting>,
    large: usize,
}

impl Unanswered {
    /// Whether there is room for another question.
    pub(super) fn has_room(&self) -> bool {
        self.all.len() < QUESTIONS_MAX
    }

    /// Whether there is room for another one with a large answer.
    pub(super) fn has_room_for_large(&self) -> bool {
        self.large < LARGE_QUESTIONS_MAX
    }

    pub(super) fn insert(&mut self, id: u64, waiting: Waiting) {
        self.large += usize::from(waiting.is_large());
        self.all.insert(id, waiting);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.all.remove(&id)?;
        self.large -= usize::from(waiting.is_large());
        Some(waiting)
    }

    /// The link is gone: all are told to come again.
    pub(super) fn put_off(self) {
        self.all.into_values().for_each(Waiting::put_off);
    }
}

/// An answer to another question.
#[derive(Debug)]
pub(super) struct NotIts;

fn refused(no: link::Refused) -> Refused {
    Refused { code: no.code, retry_after_ms: no.retry_after_ms }
}
