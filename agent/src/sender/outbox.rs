//! Every message between `submit` and its answer, as a state machine: no IO, time is an argument.
//!
//! ```text
//!             next_job            sealed + next_frame            answered
//! waiting ----------------> sealing ----------------> in flight ----------> answer
//!    ^                         |                         |
//!    +---- refused for now ----+--- connection lost -----+
//! ```
//!
//! Messages keep the order number that they got when they were submitted. Whatever goes back to `waiting` goes back to
//! its old place, so messages to one recipient leave in the order in which they were submitted, also over a reconnect.
//! A message that the node refuses for now holds back the later ones to the same recipient; those that are in flight
//! already may pass it.
//!
//! The plaintext stays here until the answer: when the recipient turns out to have another key, the message is sealed
//! again, under the same id and in its old place, as soon as the recipient's current record was fetched. Otherwise an
//! envelope's bytes never change.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::batch::entry_bytes;
use creto_envelope::batch::{BATCH_HEADER_BYTES_MAX, encode_signed_batch};
use creto_envelope::control::LoginAccepted;
use creto_envelope::submit::{SubmitAck, SubmitResult, WHOLE_BATCH};
use creto_envelope::{AgentId, BatchHeader, RejectCode};

use super::Receipt;
use super::batcher::{BatchLimits, Cut, cut};
use super::chain::Chain;
use super::message::{Message, SEALED_BEFORE, Sealed};
use super::seal::Planned;
use super::sessions::{Decision, Sessions};
use super::shelf::Shelf;
use crate::backoff::pause;
use crate::directory::Identity;
use crate::error::{LookupError, PrekeyError, SendError};
use crate::limits::{PAUSE_MAX, PREKEY_RETRY_AFTER, REFUSED_PAUSE_MAX, REFUSED_PAUSE_MIN, RESEALS_MAX, SEAL_JOBS_MAX};
use crate::prekeys::PrekeyPolicy;
use crate::prekeys::claimed::ClaimedPrekey;

/// Messages to seal and sign as one batch.
#[derive(Debug)]
pub(crate) struct SealJob {
    pub(crate) number: u64,
    pub(crate) messages: Vec<Message>,
    /// The session of each message; `None` for one that is sealed already or goes without.
    pub(crate) under: Vec<Option<Planned>>,
    /// Nothing may be sealed but in a session.
    pub(crate) sessions_only: bool,
}

/// A batch that is sealed and signed.
#[derive(Debug)]
pub(crate) struct SealedBatch {
    pub(crate) number: u64,
    /// `None`: there is nothing in it.
    pub(crate) header: Option<BatchHeader>,
    pub(crate) salts: Vec<[u8; 16]>,
    pub(crate) messages: Vec<Message>,
    /// Messages that could not be sealed as they must be.
    pub(crate) unsealed: Vec<Message>,
}

/// What came of a message.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) message: Message,
    pub(crate) answer: Result<Receipt, SendError>,
}

/// A message that leaves now.
struct Next {
    /// `None`: it is sealed already.
    decision: Option<Decision>,
    /// Of its envelope.
    bytes: usize,
}

#[derive(Debug)]
struct Sealing {
    number: u64,
    message_count: usize,
    done: Option<SealedBatch>,
}

#[derive(Debug)]
struct InFlight {
    sequence: u64,
    messages: Vec<Message>,
    /// Results that were listed before the batch was answered, by index.
    results: BTreeMap<u32, SubmitResult>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    me: AgentId,
    limits: BatchLimits,
    sessions: Sessions<Chain>,
    link: Option<Link>,
    waiting: BTreeMap<u64, Message>,
    /// Recipients for whom the node refuses messages for now, and until when they are left alone.
    stalled: BTreeMap<AgentId, u64>,
    /// Recipients whose current record is being fetched, because they have another key by now.
    fetching: BTreeSet<AgentId>,
    /// Those of them that nobody has asked for yet.
    to_fetch: Vec<AgentId>,
    /// Prekeys of recipients, to open sessions to.
    shelf: Shelf,
    sealing: VecDeque<Sealing>,
    /// Signals whose moment was missed, until they are answered.
    dropped: Vec<Message>,
    /// What a worker could not seal, until it is answered.
    unsealed: Vec<Message>,
    in_flight: VecDeque<InFlight>,
    in_flight_messages: usize,
    next_order: u64,
    next_job: u64,
    /// The connection is new: what was sealed or in flight on the old one goes back to its place first.
    recover: bool,
    paused_until_us: u64,
}

#[derive(Debug)]
struct Link {
    limits: BatchLimits,
    in_flight_messages_max: usize,
    next_sequence: u64,
}

impl Outbox {
    pub(crate) fn new(me: AgentId, limits: BatchLimits, sessions: Sessions<Chain>) -> Self {
        Self {
            me,
            limits,
            sessions,
            link: None,
            waiting: BTreeMap::new(),
            stalled: BTreeMap::new(),
            fetching: BTreeSet::new(),
            to_fetch: Vec::new(),
            shelf: Shelf::default(),
            sealing: VecDeque::new(),
            dropped: Vec::new(),
            unsealed: Vec::new(),
            in_flight: VecDeque::new(),
            in_flight_messages: 0,
            next_order: 0,
            next_job: 0,
            recover: false,
            paused_until_us: 0,
        }
    }

    /// The same, which opens sessions to prekeys as the policy says.
    pub(crate) fn with_prekeys(self, policy: PrekeyPolicy) -> Self {
        Self { shelf: Shelf::new(policy), ..self }
    }

    /// A message was submitted.
    pub(crate) fn push(&mut self, mut message: Message) {
        message.order = self.next_order;
        self.next_order += 1;
        self.waiting.insert(message.order, message);
    }

    /// A connection is there, with these bounds.
    pub(crate) fn connected(&mut self, accepted: &LoginAccepted) {
        assert!(self.link.is_none(), "one connection at a time");
        let limits = BatchLimits {
            messages: self.limits.messages.min(accepted.batch_messages_max as usize).max(1),
            bytes: self.limits.bytes.min((accepted.batch_bytes_max as usize).saturating_sub(BATCH_HEADER_BYTES_MAX)),
            age_us: self.limits.age_us,
        };
        let in_flight_messages_max = (accepted.in_flight_messages_max as usize).max(1);
        self.link = Some(Link { limits, in_flight_messages_max, next_sequence: 1 });
        self.recover_if_due();
    }

    /// The connection is gone; nobody knows what became of what was in flight.
    pub(crate) fn lost(&mut self) {
        self.link = None;
        self.recover = true;
        self.paused_until_us = 0;
        // What they said may not be so any more when there is a connection again.
        self.dropped.extend(self.waiting.extract_if(.., |_, message| message.is_signal).map(|(_, signal)| signal));
    }

    /// Signals that did not go out on the connection on which they were to, or of which that is not known.
    pub(crate) fn take_dropped(&mut self) -> Vec<Message> {
        std::mem::take(&mut self.dropped)
    }

    /// The node asks for a pause.
    pub(crate) fn pause(&mut self, until_us: u64) {
        self.paused_until_us = self.paused_until_us.max(until_us);
    }

    /// The sessions, for whoever renews them or keeps them for another run.
    pub(crate) fn sessions_mut(&mut self) -> &mut Sessions<Chain> {
        &mut self.sessions
    }

    /// The next batch to seal and sign, if one is due.
    pub(crate) fn next_job(&mut self, now_us: u64) -> Option<SealJob> {
        // Again when all of a batch turns out to wait for prekeys, without those.
        loop {
            let Cut::Now(count) = self.cut(now_us) else { return None };
            let (messages, under) = self.take_batch(count, now_us);
            if messages.is_empty() {
                continue;
            }
            let number = self.next_job;
            self.next_job += 1;
            self.sealing.push_back(Sealing { number, message_count: messages.len(), done: None });
            return Some(SealJob { number, messages, under, sessions_only: self.shelf.is_required() });
        }
    }

    /// Takes up to `count` messages out, each with its session. Those whose session must be opened to a prekey that is not in
    /// hand stay, and hold back the later ones to the same recipient.
    fn take_batch(&mut self, count: usize, now_us: u64) -> (Vec<Message>, Vec<Option<Planned>>) {
        let bytes_max = self.link.as_ref().map_or(0, |link| link.limits.bytes);
        let orders: Vec<u64> = self.free().map(|message| message.order).take(count).collect();
        let (mut messages, mut under, mut bytes) = (Vec::with_capacity(count), Vec::with_capacity(count), 0);
        for order in orders {
            // Decided one after the other: a session may be used up or renewed in the middle of a batch, and then a
            // message is larger than it looked.
            let Some(next) = self.decide(order, now_us) else { continue };
            bytes += entry_bytes(next.bytes);
            if !messages.is_empty() && bytes > bytes_max {
                break;
            }
            let message = self.waiting.remove(&order).expect("the order was read from the map just now");
            under.push(next.decision.and_then(|decision| self.plan(&message, decision, now_us)));
            messages.push(message);
        }
        (messages, under)
    }

    /// What becomes of a message that leaves now. `None`: it waits for a prekey, which is asked for.
    fn decide(&mut self, order: u64, now_us: u64) -> Option<Next> {
        let Self { waiting, sessions, shelf, .. } = self;
        let message = waiting.get_mut(&order).expect("the order was read from the map just now");
        if message.is_signal {
            // In no session: what is lost on the way must cost none a key, nor open one that nobody has then.
            return Some(Next { decision: None, bytes: message.plain().header.envelope_bytes() });
        }
        if shelf.is_awaited(&message.recipient) {
            return None;
        }
        if let Some(sealed) = &message.sealed {
            return Some(Next { decision: None, bytes: sealed.envelope.len() });
        }
        let plain = message.plain.as_mut().expect(SEALED_BEFORE);
        if let Some(prekey) = shelf.look(&message.recipient)
            && prekey.version() > plain.recipient.record.version
        {
            plain.adopt(&prekey.identity);
        }
        let (to, priority) = (plain.to(), plain.priority());
        let mut decision = sessions.decide(&to, priority, now_us);
        if (decision.opens() || decision.opens_next()) && !shelf.is_ready(&to.recipient, to.record_version, now_us) {
            shelf.want(to.recipient, decision.opens(), now_us);
            if decision.opens() {
                return None;
            }
            decision = sessions.go_on(&to, priority, decision);
        }
        Some(Next { decision: Some(decision), bytes: plain.envelope_bytes(decision) })
    }

    fn plan(&mut self, message: &Message, decision: Decision, now_us: u64) -> Option<Planned> {
        let Self { sessions, shelf, me, .. } = self;
        let plain = message.plain();
        let open = || Chain::new(*me, Arc::clone(&plain.recipient), shelf.take(&message.recipient));
        let (to, priority, may_expire) = (plain.to(), plain.priority(), plain.header.ttl_s > 0);
        let under = sessions.take(&to, priority, may_expire, decision, now_us, open)?;
        Some(Planned { under, carries: decision.carries })
    }

    /// Bytes of the envelope that a message has, or would have if it were sealed now.
    fn envelope_bytes(&self, message: &Message, now_us: u64) -> usize {
        match &message.sealed {
            Some(sealed) => sealed.envelope.len(),
            None if message.is_signal => message.plain().header.envelope_bytes(),
            None => {
                let plain = message.plain();
                plain.envelope_bytes(self.sessions.decide(&plain.to(), plain.priority(), now_us))
            }
        }
    }

    /// The messages that nothing holds back, in order.
    fn free(&self) -> impl Iterator<Item = &Message> {
        // A signal takes no room in a mailbox and needs no prekey, so it waits for neither.
        let held = |message: &Message| {
            let recipient = &message.recipient;
            let is_stalled = self.stalled.contains_key(recipient) || self.shelf.is_awaited(recipient);
            self.fetching.contains(recipient) || (is_stalled && !message.is_signal)
        };
        self.waiting.values().filter(move |message| !held(message))
    }

    /// When [`next_job`](Self::next_job) should be asked again, if nothing else happens.
    pub(crate) fn deadline_us(&mut self, now_us: u64) -> Option<u64> {
        let stalled_until = self.stalled.values().min().copied();
        match self.cut(now_us) {
            Cut::At(at) => Some(stalled_until.map_or(at, |until| at.min(until))),
            Cut::Empty | Cut::Now(_) => {
                let paused = (self.paused_until_us > now_us).then_some(self.paused_until_us);
                [stalled_until, paused].into_iter().flatten().min()
            }
        }
    }

    fn cut(&mut self, now_us: u64) -> Cut {
        self.stalled.retain(|_, until_us| *until_us > now_us);
        let Some(link) = &self.link else { return Cut::Empty };
        if self.recover || self.paused_until_us > now_us || self.sealing.len() >= SEAL_JOBS_MAX {
            return Cut::Empty;
        }
        let under_way = self.in_flight_messages + self.sealing.iter().map(|s| s.message_count).sum::<usize>();
        let room = link.in_flight_messages_max.saturating_sub(under_way).min(link.limits.messages);
        if room == 0 {
            return Cut::Empty;
        }
        let limits = BatchLimits { messages: room, ..link.limits };
        let waiting = self.free().map(|message| (self.envelope_bytes(message, now_us), message.came_us));
        cut(&limits, waiting, under_way == 0, now_us)
    }

    /// A batch was sealed and signed. What could not be sealed is for [`take_unsealed`](Self::take_unsealed).
    pub(crate) fn sealed(&mut self, mut batch: SealedBatch) {
        self.unsealed.append(&mut batch.unsealed);
        let place = self.sealing.iter_mut().find(|sealing| sealing.number == batch.number);
        place.expect("every job was given out by next_job").done = Some(batch);
        self.recover_if_due();
    }

    /// Messages that had to go in a session to a prekey, and whose session was over when they were sealed.
    pub(crate) fn take_unsealed(&mut self) -> Vec<Answered> {
        let answered = |message: Message| {
            let recipient = message.plain().recipient.record.name.to_string();
            Answered { message, answer: Err(SendError::NoPrekey { recipient, source: PrekeyError::SessionOver }) }
        };
        self.unsealed.drain(..).map(answered).collect()
    }

    /// The next SignedBatch frame to write, in the order in which the jobs were given out.
    pub(crate) fn next_frame(&mut self) -> Option<Vec<u8>> {
        if self.recover {
            return None;
        }
        let link = self.link.as_mut()?;
        let (batch, header) = loop {
            self.sealing.front()?.done.as_ref()?;
            let mut batch = self.sealing.pop_front()?.done?;
            if let Some(header) = batch.header.take() {
                break (batch, header);
            }
        };
        let mut messages = batch.messages;
        let mut frame = Vec::new();
        let entries = batch.salts.iter().zip(&messages).map(|(salt, message)| (salt, message.sealed_bytes()));
        encode_signed_batch(&mut frame, link.next_sequence, &header, entries)
            .expect("the limits of batches are below those of the wire");
        messages.iter_mut().for_each(|message| message.sent += 1);
        self.in_flight_messages += messages.len();
        self.in_flight.push_back(InFlight { sequence: link.next_sequence, messages, results: BTreeMap::new() });
        link.next_sequence += 1;
        Some(frame)
    }

    /// The node answered. Appends what is settled to `answers`; what is refused for now goes back to wait.
    ///
    /// # Errors
    /// When the acknowledgement does not fit what was sent: the connection is of no use any more.
    pub(crate) fn acknowledged(
        &mut self,
        ack: &SubmitAck,
        now_us: u64,
        answers: &mut Vec<Answered>,
    ) -> Result<(), RejectCode> {
        let link = self.link.as_ref().ok_or(RejectCode::FrameUnexpected)?;
        if ack.through_sequence >= link.next_sequence {
            return Err(RejectCode::BatchSequence);
        }
        for result in &ack.results {
            let first = self.in_flight.front().map_or(u64::MAX, |batch| batch.sequence);
            let at = usize::try_from(result.sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
            let batch = self.in_flight.get_mut(at).ok_or(RejectCode::BatchSequence)?;
            if result.index != WHOLE_BATCH && result.index as usize >= batch.messages.len() {
                return Err(RejectCode::BatchSequence);
            }
            batch.results.insert(result.index, *result);
        }
        while self.in_flight.front().is_some_and(|batch| batch.sequence <= ack.through_sequence) {
            let batch = self.in_flight.pop_front().expect("the front was looked at just now");
            self.in_flight_messages -= batch.messages.len();
            for (index, message) in (0_u32..).zip(batch.messages) {
                let result = batch.results.get(&index).or_else(|| batch.results.get(&WHOLE_BATCH));
                self.settle(message, result.copied(), now_us, answers);
            }
        }
        if ack.pause_ms > 0 {
            let pause = Duration::from_millis(u64::from(ack.pause_ms)).min(PAUSE_MAX);
            self.pause(now_us.saturating_add(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX)));
        }
        Ok(())
    }

    fn settle(&mut self, message: Message, result: Option<SubmitResult>, now_us: u64, answers: &mut Vec<Answered>) {
        let code = result.map(|result| result.code);
        let message_id = message.id;
        // What is durable under the id of a duplicate is these bytes, unless it was sealed again: then it may be the
        // envelope of an earlier connection, whose answer was lost, and nobody has the one that opens this session.
        let is_durable = code.is_none_or(|code| code == RejectCode::Duplicate.as_u16() && message.reseals == 0);
        if let Some(ticket) = message.sealed.as_ref().and_then(|sealed| sealed.ticket)
            && is_durable
        {
            self.sessions.acknowledged(message.recipient, ticket);
        }
        let Some(number) = code else {
            let envelope_sha256 = message.digest();
            let receipt = Receipt { message_id, was_duplicate: false, envelope_sha256 };
            return answers.push(Answered { message, answer: Ok(receipt) });
        };
        let code = RejectCode::from_u16(number);
        // A number that is not known here is worth another try when it is the node's own state.
        let for_now = code.map_or((500..600).contains(&number), RejectCode::is_retryable);
        if for_now && now_us < message.retry_until_us {
            let retry_after = Duration::from_millis(u64::from(result.map_or(0, |result| result.retry_after_ms())));
            return self.stall(message, code, retry_after, now_us);
        }
        if code == Some(RejectCode::UnknownRecipientKey) && message.plain.is_some() && message.reseals < RESEALS_MAX {
            return self.seal_again(message, now_us);
        }
        // It went out on an earlier connection too, which may have stored it; or the disk failed while it was written.
        let may_be_stored =
            code == Some(RejectCode::OutsideDedupWindow) && message.sent > 1 || code == Some(RejectCode::ShardFenced);
        let answer = match code {
            Some(RejectCode::Duplicate) => {
                let envelope_sha256 = message.digest().filter(|_| is_durable);
                Ok(Receipt { message_id, was_duplicate: true, envelope_sha256 })
            }
            Some(code) if may_be_stored => Err(SendError::Unknown { code, message_id }),
            Some(code) => Err(SendError::Refused { code, message_id }),
            None => Err(SendError::RefusedWith { code: number, message_id }),
        };
        answers.push(Answered { message, answer });
    }

    /// The node refused a message for now: it waits, and the later ones to the same recipient with it.
    fn stall(&mut self, mut message: Message, code: Option<RejectCode>, retry_after: Duration, now_us: u64) {
        // The node's wish, or our own pause if that is longer: it grows with every refusal.
        let pause = pause(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX, message.refusals).max(retry_after.min(PAUSE_MAX));
        let until_us = now_us.saturating_add(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
        message.refusals += 1;
        if let Some(Sealed { envelope, .. }) = &mut message.sealed {
            // It may wait long after the rest of its batch was answered, whose memory it would keep.
            *envelope = Bytes::copy_from_slice(envelope);
        }
        if code != Some(RejectCode::ShardFenced) {
            // This time it was certainly not stored.
            message.sent -= 1;
        }
        let stalled = self.stalled.entry(message.recipient).or_default();
        *stalled = until_us.max(*stalled);
        self.waiting.insert(message.order, message);
    }

    /// The recipient has another key: the message waits in its place until that is known, and with it whatever else goes
    /// to the same recipient.
    fn seal_again(&mut self, mut message: Message, now_us: u64) {
        let sealed = message.sealed.take().expect("what was answered was sealed");
        self.sessions.forget(message.recipient, sealed.key_id);
        message.sent -= 1;
        if message.reseals > 0 {
            // The node told an old key again: it may take a moment until the new one is known everywhere in it.
            let pause = pause(REFUSED_PAUSE_MIN, REFUSED_PAUSE_MAX, message.reseals);
            let until_us = now_us.saturating_add(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX));
            let stalled = self.stalled.entry(message.recipient).or_default();
            *stalled = until_us.max(*stalled);
        }
        message.reseals += 1;
        let key_is_old = sealed.key_id == message.plain().key_id();
        if key_is_old && self.fetching.insert(message.recipient) {
            self.to_fetch.push(message.recipient);
        }
        self.waiting.insert(message.order, message);
    }

    /// Recipients whose current record is to be fetched; each is answered with [`fetched`](Self::fetched).
    pub(crate) fn take_fetches(&mut self) -> Vec<AgentId> {
        std::mem::take(&mut self.to_fetch)
    }

    /// The current record of a recipient came, or cannot be had: then what waited for it is answered so.
    pub(crate) fn fetched(
        &mut self,
        recipient: AgentId,
        record: Result<Arc<Identity>, LookupError>,
        answers: &mut Vec<Answered>,
    ) {
        self.fetching.remove(&recipient);
        match record {
            Ok(identity) => {
                let waiting = self.waiting.values_mut().filter(|message| message.recipient == recipient);
                for plain in waiting.filter_map(|message| message.plain.as_mut()) {
                    if identity.record.version >= plain.recipient.record.version {
                        plain.adopt(&identity);
                    }
                }
            }
            Err(source) => {
                let hopeless = |_: &u64, message: &mut Message| {
                    message.recipient == recipient && message.reseals > 0 && message.sealed.is_none()
                };
                for (_, message) in self.waiting.extract_if(.., hopeless) {
                    let name = message.plain().recipient.record.name.to_string();
                    let answer = Err(SendError::Recipient { recipient: name, source: source.clone() });
                    answers.push(Answered { message, answer });
                }
            }
        }
    }

    /// Recipients of whom a prekey is to be claimed; each is answered with [`claimed`](Self::claimed).
    pub(crate) fn take_claims(&mut self) -> Vec<AgentId> {
        self.shelf.take_wanted()
    }

    /// A prekey of a recipient came, or there is none: then sessions are opened to the key of its record, or, where none may be,
    /// what waited for it is answered so. A node that could not say is asked again first, and on the word of one that gave a prekey
    /// that does not hold nothing goes.
    pub(crate) fn claimed(
        &mut self,
        recipient: AgentId,
        prekey: Result<Arc<ClaimedPrekey>, PrekeyError>,
        now_us: u64,
        answers: &mut Vec<Answered>,
    ) {
        let source = match prekey {
            Ok(prekey) => return self.shelf.put(recipient, prekey, now_us),
            Err(source) => source,
        };
        let was_awaited = self.shelf.is_awaited(&recipient);
        let is_asked_again = self.shelf.missing(recipient, &source, now_us);
        let goes_without = !self.shelf.is_required() && !source.is_false();
        if !was_awaited || (goes_without && !is_asked_again) {
            return;
        }
        let may_come = source.is_retryable();
        if may_come {
            let until_us = now_us.saturating_add(u64::try_from(PREKEY_RETRY_AFTER.as_micros()).unwrap_or(u64::MAX));
            let stalled = self.stalled.entry(recipient).or_default();
            *stalled = until_us.max(*stalled);
        }
        let hopeless = |_: &u64, message: &mut Message| {
            let waits = goes_without || (may_come && now_us < message.retry_until_us);
            message.recipient == recipient && message.sealed.is_none() && !waits
        };
        for (_, message) in self.waiting.extract_if(.., hopeless) {
            let name = message.plain().recipient.record.name.to_string();
            let answer = Err(SendError::NoPrekey { recipient: name, source: source.clone() });
            answers.push(Answered { message, answer });
        }
    }

    /// On a new connection: once no worker holds a batch any more, everything unanswered goes back to its place.
    fn recover_if_due(&mut self) {
        if !self.recover || self.link.is_none() || self.sealing.iter().any(|sealing| sealing.done.is_none()) {
            return;
        }
        self.recover = false;
        let sent = self.in_flight.drain(..).flat_map(|batch| batch.messages);
        let sealed = self.sealing.drain(..).filter_map(|sealing| sealing.done).flat_map(|batch| batch.messages);
        for message in sent.chain(sealed) {
            if message.is_signal {
                self.dropped.push(message);
            } else {
                self.waiting.insert(message.order, message);
            }
        }
        self.in_flight_messages = 0;
    }

    /// Messages that were on a connection and come again on the next one.
    pub(crate) fn unanswered(&self) -> usize {
        self.in_flight.iter().flat_map(|batch| &batch.messages).filter(|message| !message.is_signal).count()
    }

    /// Takes out every message that no worker holds, to tell its caller that there will be no answer.
    pub(crate) fn give_up(&mut self) -> Vec<Message> {
        let sealed = self.sealing.iter_mut().filter_map(|sealing| sealing.done.take());
        let mut all: Vec<Message> = sealed.flat_map(|batch| batch.messages).collect();
        all.append(&mut self.dropped);
        all.extend(self.in_flight.drain(..).flat_map(|batch| batch.messages));
        all.extend(std::mem::take(&mut self.waiting).into_values());
        self.in_flight_messages = 0;
        all
    }
}

#[cfg(test)]
mod tests;
