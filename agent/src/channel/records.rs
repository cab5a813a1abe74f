//! Records of channels: asked for on the control stream, verified with the key of the owner that signed them.
//!
//! The node is not trusted to have got a record right: it must be that of the name, its owner of the name's organization, and signed by
//! both keys of the owner's key record, which the node's key log proves. What the node can do is to withhold a newer one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use creto_crypto_accel::digest::sha256;
use creto_envelope::channel::frames::ChannelRequest;
use creto_envelope::channel::{ChannelName, ChannelRecord, SignedChannelRecord};
use creto_envelope::{AgentId, ChannelId, RejectCode, TrustDomain};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout_at};

use super::error::ChannelError;
use crate::directory::Directory;
use crate::limits::{CHANNEL_RECORD_TIMEOUT, REFUSED_PAUSE_MAX, REFUSED_PAUSE_MIN};
use crate::state::publishing::SeenRecord;
use crate::stats::UNPOISONED;
use crate::stream::Refusal;
use crate::worker::offload;

/// The questions of one agent about channels, over as many connections as it takes.
#[derive(Debug)]
pub(crate) struct Records {
    directory: Arc<Directory>,
    state: Mutex<State>,
    /// Wakes the control stream's writer.
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// At most one question for each channel: its answer names the channel.
    questions: BTreeMap<ChannelId, Question>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Question {
    is_written: bool,
    waiting: Vec<oneshot::Sender<Answer>>,
}

#[derive(Clone, Debug)]
enum Answer {
    Record(Arc<SignedChannelRecord>),
    Refused(Refusal),
    Unsupported,
}

/// What a record is beside the one that was seen last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// It is the same.
    Same,
    /// It is newer, or the first.
    New,
    /// It is older, or another one of that version: it does not count.
    Older,
}

impl Seen {
    /// Holds a record against what was seen of its channel, and against the owner that the application has named, if it has.
    ///
    /// The node says who owns a channel, and an agent believes the first one that it is told of. Another one is not believed: the node
    /// may have made it up. Only the application can say that it is right.
    ///
    /// # Errors
    /// [`ChannelError::Record`]: its owner is another one.
    pub(crate) fn check(
        record: &ChannelRecord,
        before: Option<SeenRecord>,
        named: Option<AgentId>,
    ) -> Result<Self, ChannelError> {
        let wrong = |reason| Err(ChannelError::Record { channel: record.name.to_string(), reason });
        if named.is_some_and(|owner| owner != record.owner) {
            return wrong("its owner is not the one that was named");
        }
        let Some(before) = before else { return Ok(Self::New) };
        if before.owner != record.owner {
            return match named {
                // What another one said says nothing about this one's.
                Some(_) => Ok(Self::New),
                None => {
                    wrong("its owner is not the one that it was before; if that is as it should be, name the owner")
                }
            };
        }
        Ok(match record.version.cmp(&before.version) {
            std::cmp::Ordering::Greater => Self::New,
            std::cmp::Ordering::Equal if seen_of(record) == before => Self::Same,
            _ => Self::Older,
        })
    }

    /// Why one that is older does not count.
    pub(crate) fn older(name: &ChannelName) -> ChannelError {
        let reason = "a newer record, or another one of this version, was seen before";
        ChannelError::Record { channel: name.to_string(), reason }
    }
}

/// What is remembered of a record.
pub(crate) fn seen_of(record: &ChannelRecord) -> SeenRecord {
    SeenRecord { version: record.version, sha256: sha256(&[&record.to_bytes()]), owner: record.owner }
}

impl Records {
    pub(crate) fn new(directory: Arc<Directory>) -> Self {
        Self { directory, state: Mutex::default(), asked: Notify::new() }
    }

    /// The record that the node has of this channel now, verified.
    pub(crate) async fn fetch(
        &self,
        name: &ChannelName,
        trust_domain: &TrustDomain,
    ) -> Result<Arc<ChannelRecord>, ChannelError> {
        let until = Instant::now() + CHANNEL_RECORD_TIMEOUT;
        let channel = ChannelId::derive(trust_domain, name);
        let mut refused = None;
        loop {
            let answer = self.ask(channel)?;
            let refusal = match timeout_at(until, answer).await {
                Err(_) => return Err(refused.unwrap_or(ChannelError::TimedOut)),
                Ok(Err(_)) => return Err(ChannelError::Closed),
                Ok(Ok(Answer::Unsupported)) => return Err(ChannelError::Unsupported),
                Ok(Ok(Answer::Record(signed))) => {
                    let verified = self.verify(name, trust_domain, &signed);
                    return timeout_at(until, verified).await.unwrap_or(Err(ChannelError::TimedOut));
                }
                Ok(Ok(Answer::Refused(refusal))) => refusal,
            };
            let error = ChannelError::refused(
                name.as_str(),
                "use it",
                refusal.code.map_or_else(|number| number, RejectCode::as_u16),
            );
            let pause =
                Duration::from_millis(refusal.retry_after_ms.into()).clamp(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX);
            if !error.is_retryable() || Instant::now() + pause >= until {
                return Err(error);
            }
            refused = Some(error);
            sleep(pause).await;
        }
    }

    async fn verify(
        &self,
        name: &ChannelName,
        trust_domain: &TrustDomain,
        signed: &Arc<SignedChannelRecord>,
    ) -> Result<Arc<ChannelRecord>, ChannelError> {
        let wrong = |reason| ChannelError::Record { channel: name.to_string(), reason };
        let record = &signed.record;
        if record.name != *name || record.trust_domain != *trust_domain {
            return Err(wrong("it is the record of another channel"));
        }
        if record.is_deleted {
            return Err(ChannelError::Unknown { channel: name.to_string() });
        }
        let owner = self.directory.lookup(record.owner, record.owner_key_version).await;
        let owner = owner.map_err(|source| ChannelError::Owner { channel: name.to_string(), source })?;
        if owner.record.name.organization() != name.organization() {
            return Err(wrong("its owner is of another organization"));
        }
        let checked = Arc::clone(signed);
        let verdict = offload(move || {
            let statement = checked.record.signed_bytes();
            owner.signing.verify(&statement, &checked.ed25519, &checked.ml_dsa_65)
        });
        verdict.await.map_err(|_| wrong("its owner has not signed it"))?;
        Ok(Arc::new(signed.record.clone()))
    }

    fn ask(&self, channel: ChannelId) -> Result<oneshot::Receiver<Answer>, ChannelError> {
        let (reply, answer) = oneshot::channel();
        let mut state = self.state.lock().expect(UNPOISONED);
        if state.closed {
            return Err(ChannelError::Closed);
        }
        let question = state.questions.entry(channel).or_default();
        question.waiting.retain(|waiting| !waiting.is_closed());
        question.waiting.push(reply);
        drop(state);
        self.asked.notify_one();
        Ok(answer)
    }

    /// The next question for the control stream, waiting for one.
    pub(crate) async fn next_frame(&self) -> Vec<u8> {
        loop {
            let asked = self.asked.notified();
            if let Some(channel) = self.take_question() {
                let mut frame = Vec::new();
                ChannelRequest { channel }.encode(&mut frame);
                return frame;
            }
            asked.await;
        }
    }

    fn take_question(&self) -> Option<ChannelId> {
        let mut state = self.state.lock().expect(UNPOISONED);
        let (channel, question) = state.questions.iter_mut().find(|(_, question)| !question.is_written)?;
        question.is_written = true;
        Some(*channel)
    }

    /// A record came. One that nobody asked for is ignored.
    pub(crate) fn answered(&self, signed: SignedChannelRecord) {
        let channel = signed.record.channel_id();
        self.answer(channel, &Answer::Record(Arc::new(signed)));
    }

    /// The node refused something. Says whether it was a question about a channel.
    pub(crate) fn refused(&self, refusal: &Refusal) -> bool {
        self.answer(ChannelId(refusal.context), &Answer::Refused(*refusal))
    }

    fn answer(&self, channel: ChannelId, answer: &Answer) -> bool {
        let mut state = self.state.lock().expect(UNPOISONED);
        if state.questions.get(&channel).is_none_or(|question| !question.is_written) {
            return false;
        }
        let question = state.questions.remove(&channel).expect("it was there just now");
        drop(state);
        for waiting in question.waiting {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(answer.clone());
        }
        true
    }

    /// A new connection: every open question is asked again.
    pub(crate) fn connected(&self) {
        self.state.lock().expect(UNPOISONED).questions.values_mut().for_each(|question| question.is_written = false);
        self.asked.notify_one();
    }

    /// The node ended the connection with this code. One that knows no such question ends it over the first.
    pub(crate) fn ended_with(&self, code: RejectCode) {
        if code != RejectCode::FrameUnknownType {
            return;
        }
        let state = self.state.lock().expect(UNPOISONED);
        let written: Vec<ChannelId> =
            state.questions.iter().filter(|(_, question)| question.is_written).map(|(channel, _)| *channel).collect();
        drop(state);
        for channel in written {
            self.answer(channel, &Answer::Unsupported);
        }
    }

    /// No connection will come any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock().expect(UNPOISONED);
        state.closed = true;
        state.questions.clear();
    }
}

#[cfg(test)]
mod tests {
    use creto_envelope::channel::{Publishing, Subscribing};

    use super::*;

    fn record(version: u32, owner: u8) -> ChannelRecord {
        ChannelRecord {
            version,
            name: ChannelName::parse("acme/alerts").expect("a name"),
            trust_domain: TrustDomain::default(),
            owner: AgentId([owner; 16]),
            owner_key_version: 1,
            signed_at_ms: 0,
            subscribing: Subscribing::Open,
            publishing: Publishing::Open,
            has_history: false,
            is_deleted: false,
            retention_s: 60,
            messages_max: 100,
            bytes_max: 1_000_000,
            subscribers_max: 100,
        }
    }

    #[test]
    fn a_channel_has_the_owner_that_it_had_first_unless_the_application_names_another() {
        let (mine, evil) = (record(3, 1), record(4, 66));
        let (me, them) = (Some(AgentId([1; 16])), Some(AgentId([66; 16])));
        let seen = Some(seen_of(&mine));
        assert_eq!(Seen::check(&mine, None, None).expect("the first"), Seen::New);
        // A newer version, well signed by an agent that the node has made up.
        assert!(matches!(Seen::check(&evil, seen, None), Err(ChannelError::Record { .. })));
        assert!(matches!(Seen::check(&evil, None, me), Err(ChannelError::Record { .. })), "named before it was seen");
        assert!(matches!(Seen::check(&evil, seen, me), Err(ChannelError::Record { .. })));
        // The application knows of another owner.
        assert_eq!(Seen::check(&evil, seen, them).expect("it is named"), Seen::New);
        // And whoever believed the wrong one is brought back, whatever version that had come to.
        assert_eq!(Seen::check(&mine, Some(seen_of(&evil)), me).expect("it is named"), Seen::New);
    }

    #[test]
    fn an_older_record_or_another_one_of_a_version_does_not_count() {
        let seen = Some(seen_of(&record(3, 1)));
        let check = |record: &ChannelRecord| Seen::check(record, seen, None).expect("its owner is the same");
        assert_eq!(check(&record(3, 1)), Seen::Same);
        assert_eq!(check(&record(2, 1)), Seen::Older);
        assert_eq!(check(&ChannelRecord { retention_s: 61, ..record(3, 1) }), Seen::Older);
        assert_eq!(check(&ChannelRecord { retention_s: 61, ..record(4, 1) }), Seen::New);
    }
}
