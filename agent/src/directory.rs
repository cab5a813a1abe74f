//! Key records of other agents: asked for on the control stream, verified, remembered for a while.
//!
//! The node is not trusted to have got a record right: the id must be the one that the name derives to, both keys must have
//! signed the record, and it must be in the node's key log (`key_log.rs`), where everybody sees it. Questions about the same
//! agent are asked once, whoever asks, and asked again on the next connection if this one breaks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use creto_crypto_accel::keys::RecipientPublic;
use creto_crypto_accel::merkle::TreeHash;
use creto_crypto_accel::seal::RecipientKey;
use creto_crypto_accel::sign::HybridSignature;
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::control::KeyRecordRequest;
use creto_envelope::{AgentId, KeyRecord, RejectCode, SignedKeyRecord, TreeDigest};
use creto_transparency::KeyLogError;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::timeout;

use crate::clock::Clock;
use crate::error::LookupError;
use crate::key_log::KeyLog;
use crate::limits::{
    KEY_RECORD_LIFETIME, KEY_RECORD_LOOKUPS_MAX, KEY_RECORD_PAUSE, KEY_RECORD_TIMEOUT, KEY_RECORDS_CACHED,
};
use crate::stats::{Counters, UNPOISONED};
use crate::stream::Refusal;
use crate::worker::offload;

/// The version that stands for "the current one".
pub(crate) const CURRENT: u32 = 0;

/// An agent's public keys, verified and parsed.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) record: KeyRecord,
    /// The record's own signatures.
    self_signed: HybridSignature,
    pub(crate) signing: VerifyingKeys,
    pub(crate) sealing: RecipientKey,
}

impl Identity {
    /// Checks that `signed` is the record of `agent` and that both of its keys signed it.
    pub(crate) fn verify(agent: AgentId, signed: &SignedKeyRecord) -> Result<Self, LookupError> {
        let invalid = |reason| LookupError::Invalid { agent, reason };
        let record = &signed.record;
        if record.agent_id() != agent {
            return Err(invalid("it names another agent"));
        }
        let signing = VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65)
            .and_then(|keys| keys.with_fn_dsa_512(record.fn_dsa_512.as_deref()))
            .map_err(|_| invalid("one of its signing keys is not a valid key"))?;
        signing
            .verify(&record.signed_bytes(), &signed.ed25519, &signed.ml_dsa_65)
            .map_err(|_| invalid("it is not signed by the keys in it"))?;
        let public = RecipientPublic { ml_kem_768: *record.ml_kem_768, x25519: record.x25519 };
        let sealing = RecipientKey::parse(&public).map_err(|_| invalid("its encryption key is not a valid key"))?;
        let self_signed = HybridSignature { ed25519: signed.ed25519, ml_dsa_65: signed.ml_dsa_65.clone() };
        Ok(Self { record: record.clone(), self_signed, signing, sealing })
    }

    /// The record with its signatures, as it came.
    pub(crate) fn signed_record(&self) -> SignedKeyRecord {
        let HybridSignature { ed25519, ml_dsa_65 } = self.self_signed.clone();
        SignedKeyRecord { record: self.record.clone(), ed25519, ml_dsa_65 }
    }
}

/// The tree that a batch says it was signed over.
pub(crate) fn tree_hash(digest: TreeDigest) -> TreeHash {
    match digest {
        TreeDigest::Sha256 => TreeHash::Sha256,
        TreeDigest::Sha3_256 => TreeHash::Sha3_256,
    }
}

type Answer = Result<Arc<Identity>, LookupError>;

/// Key records, and the questions that are open.
#[derive(Debug)]
pub(crate) struct Directory {
    state: Mutex<State>,
    /// Wakes the control stream's writer: there is a question to ask.
    asked: Notify,
    open: Semaphore,
    counters: Arc<Counters>,
    clock: Clock,
    key_log: Arc<KeyLog>,
}

#[derive(Debug, Default)]
struct State {
    known: Cache,
    /// At most one question per agent is on the wire, so that an answer, which carries no number, fits one question.
    questions: BTreeMap<AgentId, VecDeque<Question>>,
    /// Agents whose first question must be asked on this connection.
    to_ask: VecDeque<AgentId>,
    closed: bool,
}

#[derive(Debug)]
struct Question {
    version: u32,
    /// The record came, and is being proven: another one is not taken.
    is_answered: bool,
    waiting: Vec<oneshot::Sender<Answer>>,
}

impl Directory {
    pub(crate) fn new(counters: Arc<Counters>, clock: Clock, key_log: Arc<KeyLog>) -> Self {
        Self {
            state: Mutex::default(),
            asked: Notify::new(),
            open: Semaphore::new(KEY_RECORD_LOOKUPS_MAX),
            counters,
            clock,
            key_log,
        }
    }

    /// The keys of `agent` under `version` of its record ([`CURRENT`] for the current one).
    pub(crate) async fn lookup(&self, agent: AgentId, version: u32) -> Answer {
        let known = match self.key_log.alarm() {
            None => self.known(agent, version),
            // A log that cannot be read now says nothing about keys that it has proven: what was current last, however long ago.
            Some(KeyLogError::Withheld { .. }) => self.known_at(agent, version, 0),
            // Also those that are known are not used: whoever exchanged one key may have exchanged the next.
            Some(source) => return Err(LookupError::KeyLog { agent, source }),
        };
        if let Some(known) = known {
            return Ok(known);
        }
        let _place = self.open.acquire().await.map_err(|_| LookupError::Closed)?;
        let mut refused = None;
        let answer = timeout(KEY_RECORD_TIMEOUT, self.answer_of(agent, version, &mut refused)).await;
        answer.unwrap_or_else(|_| {
            self.abandon(agent, version);
            Err(refused.map_or(LookupError::TimedOut { agent }, LookupError::Refused))
        })
    }

    /// Asks until there is an answer: a node that cannot read its directory now says so, and may in a moment. Its last word of that
    /// kind is left in `refused`.
    async fn answer_of(&self, agent: AgentId, version: u32, refused: &mut Option<RejectCode>) -> Answer {
        loop {
            let Some(answer) = self.ask(agent, version)? else {
                return self.known(agent, version).ok_or(LookupError::Closed);
            };
            match answer.await.unwrap_or(Err(LookupError::Closed)) {
                Err(LookupError::Refused(code)) if code.is_retryable() => {
                    *refused = Some(code);
                    let pause = Duration::from_millis(code.retry_after_ms().into());
                    tokio::time::sleep(pause.max(KEY_RECORD_PAUSE)).await;
                }
                answer => return answer,
            }
        }
    }

    /// Closes a question for which nobody waits any more.
    fn abandon(&self, agent: AgentId, version: u32) {
        let mut state = self.state.lock().expect(UNPOISONED);
        let Some(questions) = state.questions.get_mut(&agent) else { return };
        questions.retain(|question| {
            question.version != version || question.waiting.iter().any(|waiting| !waiting.is_closed())
        });
        match questions.is_empty() {
            true => drop(state.questions.remove(&agent)),
            false => {
                state.to_ask.push_back(agent);
                drop(state);
                self.asked.notify_one();
            }
        }
    }

    /// The keys, if they are known already.
    pub(crate) fn known(&self, agent: AgentId, version: u32) -> Option<Arc<Identity>> {
        self.known_at(agent, version, self.clock.now_us())
    }

    fn known_at(&self, agent: AgentId, version: u32, now_us: u64) -> Option<Arc<Identity>> {
        self.state.lock().expect(UNPOISONED).known.get(agent, version, now_us)
    }

    /// The current record of `agent` is out of date: ask again next time.
    pub(crate) fn forget_current(&self, agent: AgentId) {
        self.state.lock().expect(UNPOISONED).known.current.remove(&agent);
    }

    /// Joins the question about this record, or opens it. None if the record is known by now.
    fn ask(&self, agent: AgentId, version: u32) -> Result<Option<oneshot::Receiver<Answer>>, LookupError> {
        let now_us = self.clock.now_us();
        let mut state = self.state.lock().expect(UNPOISONED);
        if state.closed {
            return Err(LookupError::Closed);
        }
        if state.known.get(agent, version, now_us).is_some() {
            return Ok(None);
        }
        let (reply, answer) = oneshot::channel();
        let questions = state.questions.entry(agent).or_default();
        match questions.iter_mut().find(|question| question.version == version) {
            Some(question) => {
                // Whoever gave up waiting makes room.
                question.waiting.retain(|waiting| !waiting.is_closed());
                question.waiting.push(reply);
            }
            None => {
                questions.push_back(Question { version, is_answered: false, waiting: vec![reply] });
                if questions.len() == 1 {
                    state.to_ask.push_back(agent);
                }
                drop(state);
                self.counters.key_record_lookups.add(1);
                self.asked.notify_one();
            }
        }
        Ok(Some(answer))
    }

    /// The next question for the control stream, waiting for one.
    pub(crate) async fn next_question(&self) -> KeyRecordRequest {
        loop {
            let asked = self.asked.notified();
            if let Some(question) = self.take_question() {
                return question;
            }
            asked.await;
        }
    }

    fn take_question(&self) -> Option<KeyRecordRequest> {
        let mut state = self.state.lock().expect(UNPOISONED);
        while let Some(agent) = state.to_ask.pop_front() {
            if let Some(question) = state.questions.get(&agent).and_then(VecDeque::front)
                && !question.is_answered
            {
                return Some(KeyRecordRequest { agent, version: question.version });
            }
        }
        None
    }

    /// A new connection: every open question is asked again.
    pub(crate) fn connected(&self) {
        let mut state = self.state.lock().expect(UNPOISONED);
        let is_open = |questions: &VecDeque<Question>| questions.front().is_some_and(|first| !first.is_answered);
        state.to_ask = state.questions.iter().filter(|(_, open)| is_open(open)).map(|(agent, _)| *agent).collect();
        drop(state);
        self.asked.notify_one();
    }

    /// A record came. It is used once it is proven to be in the key log. Answers that nobody asked for are ignored.
    pub(crate) fn answered(self: &Arc<Self>, signed: SignedKeyRecord) {
        let agent = signed.record.agent_id();
        let version = signed.record.version;
        let asked = {
            let mut state = self.state.lock().expect(UNPOISONED);
            let Some(question) = state.questions.get_mut(&agent).and_then(VecDeque::front_mut) else { return };
            // A late answer to a question that was given up, or a second one to the same.
            if question.is_answered || (question.version != CURRENT && question.version != version) {
                return;
            }
            question.is_answered = true;
            question.version
        };
        // The proof comes on the stream that brought the record: whoever reads it must not wait here. Nor does this end with the
        // connection: nobody else would answer the question.
        let this = Arc::clone(self);
        tokio::spawn(async move {
            let verdict = match offload(move || Identity::verify(agent, &signed)).await {
                Err(error) => Err(error),
                Ok(identity) => {
                    let proven = this.key_log.prove(&identity.record).await;
                    proven.and_then(|_| this.keep(agent, asked, Arc::new(identity)))
                }
            };
            this.finish(agent, asked, verdict);
        });
    }

    fn keep(&self, agent: AgentId, asked: u32, identity: Arc<Identity>) -> Answer {
        let now_us = self.clock.now_us();
        let mut state = self.state.lock().expect(UNPOISONED);
        let kept = state.known.insert(agent, asked == CURRENT, Arc::clone(&identity), now_us);
        kept.map(|()| identity).map_err(|reason| LookupError::Invalid { agent, reason })
    }

    /// The node refused a question. A refusal that fits none is late, and is ignored.
    pub(crate) fn refused(&self, refusal: &Refusal) {
        let agent = AgentId(refusal.context);
        let first =
            |state: &State| state.questions.get(&agent)?.front().map(|first| (first.version, first.is_answered));
        let Some((asked, false)) = first(&self.state.lock().expect(UNPOISONED)) else { return };
        let error = match refusal.code {
            Ok(code) => LookupError::Refused(code),
            Err(number) => LookupError::RefusedWith(number),
        };
        self.finish(agent, asked, Err(error));
    }

    /// Answers the first question about `agent`, if it is still that one, and brings up the next.
    fn finish(&self, agent: AgentId, asked: u32, verdict: Answer) {
        let mut state = self.state.lock().expect(UNPOISONED);
        let Some(questions) = state.questions.get_mut(&agent) else { return };
        if questions.front().is_none_or(|question| question.version != asked) {
            return;
        }
        let question = questions.pop_front().expect("the front was looked at just now");
        if questions.is_empty() {
            state.questions.remove(&agent);
        } else {
            state.to_ask.push_back(agent);
            self.asked.notify_one();
        }
        drop(state);
        for waiting in question.waiting {
            // Whoever asked may have stopped waiting.
            let _ = waiting.send(verdict.clone());
        }
    }

    /// No connection will come any more.
    pub(crate) fn close(&self) {
        let mut state = self.state.lock().expect(UNPOISONED);
        state.closed = true;
        state.questions.clear();
        drop(state);
        self.open.close();
    }
}

/// Records by agent and version, and which version is the current one. Bounded; the oldest go first.
#[derive(Debug, Default)]
struct Cache {
    records: HashMap<(AgentId, u32), Arc<Identity>>,
    order: VecDeque<(AgentId, u32)>,
    current: HashMap<AgentId, (u32, u64)>,
}

impl Cache {
    fn get(&self, agent: AgentId, version: u32, now_us: u64) -> Option<Arc<Identity>> {
        let version = match version {
            CURRENT => {
                let (version, fetched_us) = self.current.get(&agent)?;
                let age_us = u128::from(now_us.saturating_sub(*fetched_us));
                (age_us < KEY_RECORD_LIFETIME.as_micros()).then_some(*version)?
            }
            version => version,
        };
        self.records.get(&(agent, version)).cloned()
    }

    /// Remembers a record. A version that was seen before must have the keys that it had then.
    fn insert(
        &mut self,
        agent: AgentId,
        current: bool,
        identity: Arc<Identity>,
        now_us: u64,
    ) -> Result<(), &'static str> {
        let key = (agent, identity.record.version);
        let known = match self.records.get(&key) {
            Some(before)
                if before.signing.fingerprint() != identity.signing.fingerprint()
                    || before.sealing.key_id() != identity.sealing.key_id() =>
            {
                return Err("the same version had other keys before");
            }
            before => before.is_some(),
        };
        if current && self.current.get(&agent).is_some_and(|(version, _)| *version > key.1) {
            return Err("a newer version was current before");
        }
        if current {
            self.current.insert(agent, (key.1, now_us));
        }
        if known {
            return Ok(());
        }
        if self.order.len() == KEY_RECORDS_CACHED
            && let Some(oldest) = self.order.pop_front()
        {
            self.records.remove(&oldest);
            if self.current.get(&oldest.0).is_some_and(|(version, _)| *version == oldest.1) {
                self.current.remove(&oldest.0);
            }
        }
        self.order.push_back(key);
        self.records.insert(key, identity);
        Ok(())
    }
}

/// The code under which a delivery counts whose sender's record cannot be had.
pub(crate) fn lookup_code(error: &LookupError) -> RejectCode {
    match error {
        LookupError::Refused(code) => *code,
        // It holds once the node lets the agent look again.
        LookupError::KeyLog { source: KeyLogError::Withheld { .. }, .. } => RejectCode::UnknownSender,
        LookupError::Invalid { .. } | LookupError::KeyLog { .. } => RejectCode::BadSignature,
        _ => RejectCode::UnknownSender,
    }
}

#[cfg(test)]
mod tests;
