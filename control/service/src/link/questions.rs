//! What a node asks, on its way to the service's doors, and the answer on its way back.

use std::sync::Arc;

use creto_audit::event::Peer;
use creto_link::{Answer, Question, Refused as Said};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use super::ServiceDoors;
use super::server::Out;
use crate::enrolment::EnrolmentAsked;
use crate::prekeys::{Claim, Upload};
use crate::rotation::{Publication, Refused, Reply};

/// What bounds how many answers there are, and how many bytes they have.
pub(super) type Permits = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// The way back of one answer.
#[derive(Clone)]
pub(super) struct WayBack {
    pub(super) id: u64,
    pub(super) out: UnboundedSender<Out>,
    pub(super) permits: Arc<Permits>,
}

impl WayBack {
    fn send(self, answer: Answer) {
        let Self { id, out, permits } = self;
        // Whoever asked may be gone.
        let _ = out.send(Out { id, answer: Box::new(answer), _permits: permits });
    }

    fn reply<T: Send + 'static>(&self, to: impl FnOnce(Result<T, Said>) -> Answer + Send + 'static) -> Reply<T> {
        let back = self.clone();
        Reply::new(move |answer: Result<T, Refused>| back.send(to(answer.map_err(said))))
    }
}

/// Puts a question to the service. There is one answer, whatever happens.
pub(super) fn ask(doors: &ServiceDoors, question: Question, back: &WayBack) {
    let not_taken = match question {
        Question::Publish { agent, mode, record } => {
            let reply = back.reply(Answer::Publish);
            let taken = doors.publisher.publish(Publication { agent, mode, record, reply });
            taken.map_err(|no| Answer::Publish(Err(said(no))))
        }
        Question::Enrol { token, peer, record } => {
            let reply = back.reply(Answer::Enrol);
            let taken = doors.enrolments.enrol(EnrolmentAsked { token, peer: Peer(peer), record, reply });
            taken.map_err(|no| Answer::Enrol(Err(said(no))))
        }
        Question::KeyRecord { agent, version } => {
            let reply = back
                .reply(|answer: Result<Arc<_>, _>| Answer::KeyRecord(answer.map(Arc::unwrap_or_clone).map(Box::new)));
            let taken = doors.key_records.ask(agent, version, reply);
            taken.map_err(|no| Answer::KeyRecord(Err(said(no))))
        }
        Question::KeyLog(question) => {
            let way = back.clone();
            let taken = doors.key_log.ask(question, move |frame| way.send(Answer::KeyLog(frame)));
            taken.map_err(|no| Answer::KeyLog(question.refused(no)))
        }
        Question::Upload { agent, batch } => {
            let taken = doors.prekeys.upload(Upload { agent, batch, reply: back.reply(Answer::Upload) });
            taken.map_err(|no| Answer::Upload(Err(said(no))))
        }
        Question::Claim { asker, agent } => {
            let reply = back.reply(|answer: Result<_, _>| Answer::Claim(answer.map(Box::new)));
            let taken = doors.prekeys.claim(Claim { asker, agent, reply });
            taken.map_err(|no| Answer::Claim(Err(said(no))))
        }
        Question::Stock { agent } => {
            let taken = doors.prekeys.stock(agent, back.reply(Answer::Stock));
            taken.map_err(|no| Answer::Stock(Err(said(no))))
        }
        Question::ChannelRecord { channel } => {
            let taken = doors.channels.ask(channel, back.reply(Answer::ChannelRecord));
            taken.map_err(|no| Answer::ChannelRecord(Err(said(no))))
        }
    };
    if let Err(answer) = not_taken {
        back.clone().send(answer);
    }
}

fn said(no: Refused) -> Said {
    Said { code: no.code, retry_after_ms: no.retry_after_ms }
}
