//! One connection of this shard: its login, its streams, and the batches whose outcome it waits for.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use creto_envelope::control::StreamRole;
use creto_envelope::limits::SUBMIT_RESULTS_MAX;
use creto_envelope::submit::{SubmitAck, SubmitResult, WHOLE_BATCH};
use creto_envelope::{AgentId, RejectCode, SignedKeyRecord};

use crate::channels::ChannelEnd;
use crate::event::StreamId;
use crate::key_records::{RecordQuestion, WaitingLogin};
use crate::limits::{IN_FLIGHT_BATCHES_MAX, STREAMS_MAX};
use crate::presence::PresenceQuestions;

/// Who logged in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LoggedIn {
    pub(crate) agent: AgentId,
    pub(crate) key_record_version: u32,
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) exporter: [u8; 32],
    pub(crate) peer: SocketAddr,
    pub(crate) login: Option<LoggedIn>,
    /// The record that the login names, whose keys signed it. Every version has the same signing keys, so it verifies batches under
    /// each of them. There with the login.
    pub(crate) signer: Option<Arc<SignedKeyRecord>>,
    /// A login that waits for that record.
    pub(crate) waiting_login: Option<Box<WaitingLogin>>,
    /// Key records that it wants to read, in the order in which they are answered.
    pub(crate) record_questions: VecDeque<RecordQuestion>,
    pub(crate) login_failures: u32,
    pub(crate) protocol_errors: u32,
    pub(crate) bad_signatures: u32,
    /// Whether this connection reads its mailbox.
    pub(crate) subscribed: bool,
    /// The control stream that waits for control's answer about a key record.
    pub(crate) publishing: Option<StreamId>,
    /// The control stream that waits for what becomes of an enrolment.
    pub(crate) enrolling: Option<StreamId>,
    /// The control stream that waits for an answer about dead letters.
    pub(crate) asking: Option<StreamId>,
    /// Questions about the key log that control has not answered.
    pub(crate) key_log_questions: u32,
    /// Questions about prekeys that control has not answered.
    pub(crate) prekey_questions: u32,
    /// Its subscriptions to channels.
    pub(crate) channels: ChannelEnd,
    /// It has uploaded prekeys, or asked what is left of them: it is told when they become few.
    pub(crate) keeps_prekeys: bool,
    /// What it asks of presence.
    pub(crate) presence: PresenceQuestions,
    pub(crate) submit: SubmitLedger,
    streams: BTreeMap<StreamId, StreamRole>,
}

impl Connection {
    pub(crate) fn new(exporter: [u8; 32], peer: SocketAddr) -> Self {
        Self {
            exporter,
            peer,
            login: None,
            signer: None,
            waiting_login: None,
            record_questions: VecDeque::new(),
            login_failures: 0,
            protocol_errors: 0,
            bad_signatures: 0,
            subscribed: false,
            publishing: None,
            enrolling: None,
            asking: None,
            key_log_questions: 0,
            prekey_questions: 0,
            channels: ChannelEnd::default(),
            keeps_prekeys: false,
            presence: PresenceQuestions::default(),
            submit: SubmitLedger::default(),
            streams: BTreeMap::new(),
        }
    }

    pub(crate) fn role(&self, stream: StreamId) -> Option<StreamRole> {
        self.streams.get(&stream).copied()
    }

    pub(crate) fn stream(&self, role: StreamRole) -> Option<StreamId> {
        self.streams.iter().find(|(_, known)| **known == role).map(|(stream, _)| *stream)
    }

    /// Gives a stream its role. A role is taken once per connection, so that order inside it means something.
    pub(crate) fn open_stream(&mut self, stream: StreamId, role: StreamRole) -> Result<(), RejectCode> {
        let taken = self.streams.contains_key(&stream) || self.stream(role).is_some();
        if taken || self.streams.len() >= STREAMS_MAX {
            return Err(RejectCode::StreamRole);
        }
        self.streams.insert(stream, role);
        Ok(())
    }
}

/// The batches of one submit stream, from arrival to answer. Answers are given in the order of arrival: a SubmitAck is
/// cumulative.
#[derive(Debug, Default)]
pub(crate) struct SubmitLedger {
    /// Sequence of the last batch that arrived.
    last_sequence: u64,
    waiting: VecDeque<WaitingBatch>,
    messages_in_flight: u32,
    /// Results of batches that are answered but not yet told.
    results: Vec<SubmitResult>,
    answered_through: u64,
    told_through: u64,
    /// How long a log that is filling up asks the sender to wait; told with the next answer.
    pause_ms: u32,
}

#[derive(Debug)]
struct WaitingBatch {
    sequence: u64,
    /// Messages whose outcome is open.
    open_messages: u32,
    message_count: u32,
    bytes: usize,
    refused: Vec<SubmitResult>,
}

impl SubmitLedger {
    /// An empty ledger whose next batch follows this sequence.
    pub(crate) fn after(last_sequence: u64) -> Self {
        Self { last_sequence, answered_through: last_sequence, told_through: last_sequence, ..Self::default() }
    }

    /// Takes a batch in.
    ///
    /// `Err` with [`RejectCode::BatchSequence`] when it is not the next one: nothing can be said about such a stream any
    /// more. Too many in flight is an answer like any other, so the caller refuses the batch as a whole.
    pub(crate) fn arrive(
        &mut self,
        sequence: u64,
        message_count: u32,
        bytes: usize,
        in_flight_messages_max: u32,
    ) -> Result<Fits, RejectCode> {
        if sequence != self.last_sequence.wrapping_add(1) || self.waiting.len() >= IN_FLIGHT_BATCHES_MAX {
            return Err(RejectCode::BatchSequence);
        }
        self.last_sequence = sequence;
        let fits = self.messages_in_flight.saturating_add(message_count) <= in_flight_messages_max;
        self.messages_in_flight = self.messages_in_flight.saturating_add(message_count);
        self.waiting.push_back(WaitingBatch {
            sequence,
            open_messages: message_count,
            message_count,
            bytes,
            refused: Vec::new(),
        });
        Ok(if fits { Fits::Yes } else { Fits::No })
    }

    /// Records what became of `message_count` messages of a batch.
    pub(crate) fn settle(
        &mut self,
        sequence: u64,
        message_count: u32,
        refused: impl Iterator<Item = (u32, RejectCode)>,
    ) {
        let batch = self.find(sequence);
        batch.open_messages = batch
            .open_messages
            .checked_sub(message_count)
            .expect("no more outcomes arrive than messages were submitted");
        batch.refused.extend(refused.map(|(index, code)| SubmitResult::new(sequence, index, code)));
    }

    /// Refuses one message; `retry_after_ms` is when trying again may help, if that is known better than the code says.
    pub(crate) fn refuse_message(
        &mut self,
        sequence: u64,
        leaf_index: u32,
        code: RejectCode,
        retry_after_ms: Option<u32>,
    ) {
        self.settle(sequence, 1, std::iter::once((leaf_index, code)));
        let result = self.find(sequence).refused.last_mut().expect("it was just refused");
        if let Some(retry_after_ms) = retry_after_ms {
            result.retry_after = u16::try_from(retry_after_ms.div_ceil(10)).unwrap_or(u16::MAX);
        }
    }

    /// Refuses a batch as a whole. Returns how many messages it has.
    pub(crate) fn refuse(&mut self, sequence: u64, code: RejectCode) -> u32 {
        let batch = self.find(sequence);
        batch.open_messages = 0;
        batch.refused = vec![SubmitResult::new(sequence, WHOLE_BATCH, code)];
        batch.message_count
    }

    fn find(&mut self, sequence: u64) -> &mut WaitingBatch {
        let first = self.waiting.front().map_or(sequence, |batch| batch.sequence);
        let index = usize::try_from(sequence.wrapping_sub(first)).unwrap_or(usize::MAX);
        let batch = self.waiting.get_mut(index).expect("an outcome names a batch that waits for one");
        debug_assert_eq!(batch.sequence, sequence);
        batch
    }

    /// Moves batches that are answered off the front; returns how many bytes they held.
    fn advance(&mut self) -> usize {
        let mut bytes = 0;
        while self.waiting.front().is_some_and(|batch| batch.open_messages == 0) {
            let batch = self.waiting.pop_front().expect("the front was just looked at");
            self.answered_through = batch.sequence;
            self.messages_in_flight -= batch.message_count;
            bytes += batch.bytes;
            self.results.extend(batch.refused);
        }
        bytes
    }

    /// Encodes what is new since the last call; returns how many bytes of batches were answered with it.
    pub(crate) fn encode_acks(&mut self, out: &mut Vec<u8>) -> usize {
        let bytes = self.advance();
        if self.answered_through == self.told_through {
            return bytes;
        }
        // All but the last frame repeat the old sequence: a batch is answered only when all of its results are told.
        while self.results.len() > SUBMIT_RESULTS_MAX {
            let results = self.results.drain(..SUBMIT_RESULTS_MAX).collect();
            SubmitAck { through_sequence: self.told_through, pause_ms: 0, results }.encode(out);
        }
        let results = std::mem::take(&mut self.results);
        let pause_ms = std::mem::take(&mut self.pause_ms);
        SubmitAck { through_sequence: self.answered_through, pause_ms, results }.encode(out);
        self.told_through = self.answered_through;
        bytes
    }

    /// Asks the sender for a pause with the next answer; the longest wish counts.
    pub(crate) fn slow_down(&mut self, pause_ms: u32) {
        self.pause_ms = self.pause_ms.max(pause_ms);
    }

    /// Bytes of the batches that still wait.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting.iter().map(|batch| batch.bytes).sum()
    }

    /// Whether every batch is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }
}

/// Whether a batch fits what one connection may have in flight.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fits {
    Yes,
    No,
}

#[cfg(test)]
mod tests;
