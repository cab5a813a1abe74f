//! The channels that this agent reads, over as many connections as it takes: what the node is asked for each, what came, what the
//! application has. [`link`](super::link) speaks on the stream, [`present`](super::present) opens and shows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use creto_envelope::channel::ChannelName;
use creto_envelope::channel::frames::{
    ChannelAck, ChannelCredit, ChannelLeave, ChannelLeft, ChannelNack, ChannelSubscribe, ChannelSubscribed, GiveBack,
    LeaveMode, Start,
};
use creto_envelope::deliver::{Credit, DeliveredSpan};
use creto_envelope::limits::{CHANNEL_SUBSCRIPTIONS_MAX, CONSUMER_ACK_SEQUENCES_MAX};
use creto_envelope::{ChannelId, GroupId, RejectCode};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;

use super::cursor::{Arrival, Cursor};
use super::error::ChannelError;
use super::message::ChannelMessage;
use crate::directory::{Directory, Identity};
use crate::limits::{CHANNEL_RECORD_PAUSE, CHANNEL_WINDOW_BYTES_LEAST, CHANNEL_WINDOWS_BYTES};
use crate::receiver::open::{Opener, SignedHeader};
use crate::stats::{Counters, UNPOISONED};

/// See the module.
#[derive(Debug)]
pub(crate) struct Reading {
    state: Mutex<State>,
    /// Wakes the stream's writer.
    changed: Notify,
    /// Whether anything was ever subscribed.
    pub(super) wanted: watch::Sender<bool>,
    pub(super) counters: Arc<Counters>,
}

#[derive(Debug, Default)]
struct State {
    subscriptions: BTreeMap<u32, Sub>,
    last_handle: u32,
    /// Number of the stream; zero while there is none.
    stream: u64,
    streams: u64,
    ended: Option<ChannelError>,
}

#[derive(Debug)]
struct Sub {
    name: ChannelName,
    channel: ChannelId,
    group: GroupId,
    /// Where it begins; once it stands, it goes on.
    start: Start,
    cursor: Cursor,
    window_bytes: u32,
    phase: Phase,
    /// Tells what presents its messages how it stood first.
    began: Option<oneshot::Sender<Began>>,
    /// The same, that the subscription itself has ended.
    is_over: Arc<AtomicBool>,
    /// To what presents its messages.
    arrived: mpsc::Sender<Arrived>,
    /// To the application.
    queue: mpsc::Sender<Shown>,
    /// Until it stands.
    stands: Option<oneshot::Sender<Result<(), ChannelError>>>,
    leaving: Option<Leaving>,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// To be asked for on this connection, not before this.
    Wanted(Option<Instant>),
    Asked,
    Stands,
}

#[derive(Debug)]
struct Leaving {
    mode: LeaveMode,
    is_said: bool,
    done: Option<Left>,
}

/// What became of leaving.
type Left = oneshot::Sender<Result<(), ChannelError>>;

/// How a subscription stood when this process first read by it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    /// What was asked for.
    pub(super) start: Start,
    /// The first message that the node does not count as consumed.
    pub(super) next_sequence: u64,
    /// The newest one that the channel kept.
    pub(super) newest_sequence: u64,
}

/// What is to be written now.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) frames: Vec<u8>,
    /// When there is more.
    pub(super) again: Option<Instant>,
    /// Messages that are acknowledged by it, of each channel.
    pub(super) acknowledged: Vec<(ChannelId, Vec<u64>)>,
}

/// What the application gets.
pub(super) type Shown = Result<ChannelMessage, ChannelError>;

/// A message that came for a subscription.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) sequence: u64,
    pub(super) attempt: u8,
    /// On which it came: on another one it comes again.
    pub(super) stream: u64,
    /// Its envelope, and who signed it; or why that is not known.
    pub(super) verified: Result<(Bytes, Arc<Identity>), Unverified>,
}

/// Why it is not known who signed a message.
#[derive(Debug)]
pub(super) enum Unverified {
    /// It does not hold.
    Refused(RejectCode),
    /// Its publisher's record could not be had.
    Unproven(Box<Unproven>),
}

/// A message whose publisher's record could not be had, with all that it takes to look again.
#[derive(Debug)]
pub(super) struct Unproven {
    pub(super) channel: ChannelId,
    pub(super) opener: Arc<Opener>,
    pub(super) directory: Arc<Directory>,
    pub(super) header: Arc<SignedHeader>,
    pub(super) body: Bytes,
    pub(super) span: DeliveredSpan,
}

/// What a new subscription gives and takes.
pub(super) struct Opened {
    pub(super) handle: u32,
    pub(super) arrived: mpsc::Receiver<Arrived>,
    pub(super) queue: mpsc::Sender<Shown>,
    pub(super) shown: mpsc::Receiver<Shown>,
    pub(super) stands: oneshot::Receiver<Result<(), ChannelError>>,
    pub(super) began: oneshot::Receiver<Began>,
    pub(super) is_over: Arc<AtomicBool>,
}

/// What a subscription may have in flight, and with its application.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) messages: u32,
    /// A share of what all may have together, unless it is said.
    pub(super) bytes: Option<u32>,
}

#[allow(clippy::cast_possible_truncation, reason = "a few dozen")]
const LEAST_OF_ALL: u32 = CHANNEL_WINDOW_BYTES_LEAST * CHANNEL_SUBSCRIPTIONS_MAX as u32;

/// The bytes of a new window beside those that there are. A node holds all of a connection's windows together to a bound. Of that every
/// subscription that there may be has a little, and of the rest each takes half of what is left.
fn window_bytes(there: impl Iterator<Item = u32>, wanted: Option<u32>) -> Result<u32, ChannelError> {
    let (mut used, mut above) = (0, 0);
    for window in there {
        used += window;
        above += window.saturating_sub(CHANNEL_WINDOW_BYTES_LEAST);
    }
    let left = CHANNEL_WINDOWS_BYTES.saturating_sub(used);
    let to_share = CHANNEL_WINDOWS_BYTES - LEAST_OF_ALL;
    let share = CHANNEL_WINDOW_BYTES_LEAST + to_share.saturating_sub(above) / 2;
    let bytes = wanted.unwrap_or(share.min(left));
    match 0 < bytes && bytes <= left {
        true => Ok(bytes),
        false => Err(ChannelError::WindowTooLarge { bytes: wanted.unwrap_or(CHANNEL_WINDOW_BYTES_LEAST), left }),
    }
}

impl Reading {
    pub(crate) fn new(counters: Arc<Counters>) -> Self {
        Self { state: Mutex::default(), changed: Notify::new(), wanted: watch::Sender::new(false), counters }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect(UNPOISONED)
    }

    /// A new subscription.
    pub(super) fn open(
        &self,
        name: &ChannelName,
        channel: ChannelId,
        group: GroupId,
        start: Start,
        wanted: Wanted,
    ) -> Result<Opened, ChannelError> {
        let mut state = self.state();
        if let Some(reason) = &state.ended {
            return Err(reason.clone());
        }
        // One that is being left is left first: the frames of both stand in that order.
        let is_here = |sub: &Sub| sub.channel == channel && sub.group == group && sub.leaving.is_none();
        if state.subscriptions.values().any(is_here) {
            return Err(ChannelError::AlreadySubscribed { channel: name.to_string() });
        }
        if state.subscriptions.len() >= CHANNEL_SUBSCRIPTIONS_MAX {
            return Err(ChannelError::TooMany { most: CHANNEL_SUBSCRIPTIONS_MAX });
        }
        let bytes = window_bytes(state.subscriptions.values().map(|sub| sub.window_bytes), wanted.bytes)?;
        let window = Credit { messages: wanted.messages, bytes };
        state.last_handle = state.last_handle.wrapping_add(1);
        let handle = state.last_handle;
        // What the window allows, and of an earlier stream as much again that the application has not taken; and reports.
        let window_messages = window.messages as usize;
        let (to_present, arrived) = mpsc::channel(window_messages + 1);
        let (queue, shown) = mpsc::channel(3 * window_messages + 2);
        let (stands, told) = oneshot::channel();
        let (begins, began) = oneshot::channel();
        let is_over = Arc::new(AtomicBool::new(false));
        let sub = Sub {
            name: name.clone(),
            channel,
            group,
            start,
            cursor: Cursor::new(group != GroupId::NONE, window),
            window_bytes: bytes,
            began: Some(begins),
            is_over: Arc::clone(&is_over),
            phase: Phase::Wanted(None),
            arrived: to_present,
            queue: queue.clone(),
            stands: Some(stands),
            leaving: None,
        };
        state.subscriptions.insert(handle, sub);
        drop(state);
        self.wanted.send_replace(true);
        self.changed.notify_one();
        Ok(Opened { handle, arrived, queue, shown, stands: told, began, is_over })
    }

    /// Stops reading. What it gives resolves when the node has said what became of that.
    pub(super) fn leave(&self, handle: u32, mode: LeaveMode) -> oneshot::Receiver<Result<(), ChannelError>> {
        let (done, left) = oneshot::channel();
        let mut state = self.state();
        let has_stream = state.stream != NO_STREAM;
        let ended = state.ended.clone();
        let Some(sub) = state.subscriptions.get_mut(&handle) else {
            // It ended before, in another way.
            let outcome = match mode {
                LeaveMode::Detach => Ok(()),
                LeaveMode::Unsubscribe => Err(ended.unwrap_or(ChannelError::Closed)),
            };
            let _ = done.send(outcome);
            return left;
        };
        let never_asked = matches!(sub.phase, Phase::Wanted(_));
        match &mut sub.leaving {
            // It is being ended, which is more than leaving it.
            Some(leaving) if mode == LeaveMode::Detach && leaving.mode == LeaveMode::Unsubscribe => {
                let _ = done.send(Ok(()));
            }
            // Nothing of it is at the node, or on this connection: it stays there as it is.
            _ if mode == LeaveMode::Detach && (never_asked || !has_stream) => {
                state.subscriptions.remove(&handle);
                let _ = done.send(Ok(()));
            }
            Some(leaving) if mode == LeaveMode::Unsubscribe && !leaving.is_said => {
                *leaving = Leaving { mode, is_said: false, done: Some(done) };
            }
            Some(leaving) => leaving.done = Some(done),
            none => *none = Some(Leaving { mode, is_said: false, done: Some(done) }),
        }
        drop(state);
        self.changed.notify_one();
        left
    }

    /// A stream is opened: its number.
    pub(super) fn stream_opened(&self) -> u64 {
        let mut state = self.state();
        state.streams += 1;
        state.stream = state.streams;
        state.stream
    }

    /// The connection is gone: everything is asked for again on the next one.
    pub(crate) fn lost(&self) {
        let mut state = self.state();
        state.stream = NO_STREAM;
        let is_left = |sub: &Sub| sub.leaving.as_ref().is_some_and(|leaving| leaving.mode == LeaveMode::Detach);
        state.subscriptions.retain(|_, sub| !is_left(sub));
        for sub in state.subscriptions.values_mut() {
            sub.phase = Phase::Wanted(None);
            if let Some(leaving) = &mut sub.leaving {
                leaving.is_said = false;
            }
        }
    }

    /// No more messages come, for this reason.
    pub(crate) fn end(&self, reason: &ChannelError) {
        let mut state = self.state();
        state.ended.get_or_insert_with(|| reason.clone());
        let ended = std::mem::take(&mut state.subscriptions);
        drop(state);
        ended.into_values().for_each(|sub| sub.end(reason));
    }

    /// What is to be written now, and when there is more to write.
    pub(super) fn take_outgoing(&self) -> Outgoing {
        let now = Instant::now();
        let Outgoing { mut frames, mut again, mut acknowledged } = Outgoing::default();
        for (&handle, sub) in &mut self.state().subscriptions {
            match sub.phase {
                Phase::Wanted(Some(at)) if at > now => again = Some(again.map_or(at, |before| before.min(at))),
                Phase::Wanted(_) => {
                    let Sub { channel, group, start, .. } = *sub;
                    ChannelSubscribe { handle, channel, group, start }.encode(&mut frames);
                    sub.phase = Phase::Asked;
                }
                Phase::Asked => {}
                Phase::Stands => acknowledged.push((sub.channel, sub.say(handle, &mut frames))),
            }
        }
        Outgoing { frames, again, acknowledged }
    }

    /// Waits until something is to be written.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The node says that a subscription is durable.
    pub(super) fn subscribed(&self, subscribed: &ChannelSubscribed) -> Result<(), RejectCode> {
        let mut state = self.state();
        let Some(sub) = state.subscriptions.get_mut(&subscribed.handle) else { return Ok(()) };
        if !matches!(sub.phase, Phase::Asked) || sub.channel != subscribed.channel {
            return Err(RejectCode::FrameUnexpected);
        }
        let ChannelSubscribed { next_sequence, oldest_sequence, newest_sequence, .. } = *subscribed;
        tracing::debug!(channel = %sub.name, next_sequence, oldest_sequence, newest_sequence, "reading the channel");
        sub.phase = Phase::Stands;
        if let Some(began) = sub.began.take() {
            // Whoever presents may be gone: it is being left.
            let _ = began.send(Began { start: sub.start, next_sequence, newest_sequence });
        }
        sub.start = Start::GoOn;
        sub.cursor.opened(next_sequence);
        if let Some(stands) = sub.stands.take() {
            // Whoever asked may have stopped waiting.
            let _ = stands.send(Ok(()));
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// The node does not hand out to a subscription any more.
    pub(super) fn left(&self, left: &ChannelLeft) {
        let mut state = self.state();
        let Some(sub) = state.subscriptions.get_mut(&left.handle) else { return };
        let error = ChannelError::refused(sub.name.as_str(), "subscribe", left.code);
        let was_asked = sub.leaving.as_ref().filter(|leaving| leaving.is_said).map(|leaving| leaving.mode);
        // What was asked to end and could not be now is read again, so that it can be asked once more.
        if left.code != 0 && was_asked != Some(LeaveMode::Detach) && error.is_retryable() {
            let pause = Duration::from_millis(left.retry_after_ms.into()).max(CHANNEL_RECORD_PAUSE);
            sub.phase = Phase::Wanted(Some(Instant::now() + pause));
            if let Some(leaving) = &mut sub.leaving {
                leaving.is_said = false;
            }
            drop(state);
            return self.changed.notify_one();
        }
        let mut sub = state.subscriptions.remove(&left.handle).expect("it was there just now");
        drop(state);
        let has_ended = matches!(
            RejectCode::from_u16(left.code),
            Some(RejectCode::UnknownChannel | RejectCode::ChannelNotAllowed | RejectCode::PolicyDenied)
        );
        sub.is_over.store(has_ended, Ordering::Release);
        // There is none to end: it ended before.
        let is_over = left.code == 0 || left.code == RejectCode::NotSubscribed.as_u16();
        let outcome = match was_asked {
            Some(LeaveMode::Detach) => Ok(()),
            Some(LeaveMode::Unsubscribe) if is_over => Ok(()),
            None if left.code == 0 => Err(ChannelError::Closed),
            _ => Err(error),
        };
        match sub.leaving.take().and_then(|leaving| leaving.done) {
            // Whoever asked may have stopped waiting.
            Some(done) => drop(done.send(outcome)),
            None => {
                if let Err(error) = outcome {
                    sub.end(&error);
                }
            }
        }
    }

    /// Which channel a subscription reads. None: it reads none any more.
    pub(super) fn channel_of(&self, handle: u32) -> Option<ChannelId> {
        self.state().subscriptions.get(&handle).map(|sub| sub.channel)
    }

    /// Whether the node may name this subscription: there is one, or was.
    pub(super) fn knows(&self, handle: u32) -> bool {
        handle != 0 && handle <= self.state().last_handle
    }

    /// A message came.
    pub(super) fn arrived(&self, handle: u32, bytes: usize, message: Arrived) -> Result<(), RejectCode> {
        let mut state = self.state();
        let stream = state.stream;
        let Some(sub) = state.subscriptions.get_mut(&handle) else { return Ok(()) };
        if stream != message.stream {
            return Ok(());
        }
        match sub.cursor.arrived(message.sequence, bytes) {
            Arrival::Fresh => match sub.arrived.try_send(message) {
                Ok(()) => Ok(()),
                // Nobody presents it any more: it is being left.
                Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
                Err(mpsc::error::TrySendError::Full(_)) => Err(RejectCode::FrameUnexpected),
            },
            Arrival::Known => {
                drop(state);
                self.counters.duplicates_hidden.add(1);
                self.changed.notify_one();
                Ok(())
            }
            Arrival::Overrun => Err(RejectCode::FrameUnexpected),
        }
    }

    /// Hands a message to the application, unless it comes again on another stream.
    pub(super) fn show(&self, handle: u32, stream: u64, message: ChannelMessage) {
        let mut state = self.state();
        let is_here = state.stream == stream;
        let Some(sub) = state.subscriptions.get_mut(&handle) else { return };
        if is_here && sub.cursor.queued(message.sequence) {
            // As many find a place as the cursor allows.
            let _ = sub.queue.try_send(Ok(message));
        }
    }

    /// The application takes a message. False: it is another member's by now.
    pub(super) fn taken(&self, handle: u32, sequence: u64) -> bool {
        // What came before the subscription ended is still there to be seen.
        self.state().subscriptions.get_mut(&handle).is_none_or(|sub| sub.cursor.shown(sequence))
    }

    /// What came and is not ready for the application.
    pub(super) fn hidden(&self, handle: u32) -> Vec<u64> {
        self.state().subscriptions.get(&handle).map_or_else(Vec::new, |sub| sub.cursor.hidden())
    }

    /// In a group: a message goes back.
    pub(super) fn given_back(&self, handle: u32, sequence: u64, how: GiveBack) -> bool {
        self.finish(handle, |cursor| cursor.given_back(sequence, how))
    }

    /// The application has a message.
    pub(super) fn acknowledged(&self, handle: u32, sequence: u64) -> bool {
        self.finish(handle, |cursor| cursor.acknowledged(sequence))
    }

    /// The application does not get to see a message, and it is acknowledged.
    pub(super) fn skipped(&self, handle: u32, sequence: u64) -> bool {
        self.finish(handle, |cursor| cursor.skipped(sequence))
    }

    fn finish(&self, handle: u32, finish: impl FnOnce(&mut Cursor) -> bool) -> bool {
        let is_new = self.state().subscriptions.get_mut(&handle).is_some_and(|sub| finish(&mut sub.cursor));
        self.changed.notify_one();
        is_new
    }

    /// The number of the stream that there is now.
    pub(super) fn stream(&self) -> u64 {
        self.state().stream
    }
}

/// The number of no stream.
const NO_STREAM: u64 = 0;

impl Sub {
    /// Acknowledgements, credit, and that it is left. Gives the messages that are acknowledged by it.
    fn say(&mut self, handle: u32, frames: &mut Vec<u8>) -> Vec<u64> {
        if self.leaving.as_ref().is_some_and(|leaving| leaving.is_said) {
            return Vec::new();
        }
        if self.leaving.is_some() && self.group != GroupId::NONE {
            self.cursor.leaves();
        }
        let nacks = self.cursor.take_nacks();
        let (acks, credit) = self.cursor.take_outgoing();
        // As many in a frame as go back in the same way.
        for alike in nacks.chunk_by(|(_, one), (_, other)| one == other) {
            for some in alike.chunks(CONSUMER_ACK_SEQUENCES_MAX) {
                let sequences = some.iter().map(|(sequence, _)| *sequence).collect();
                ChannelNack { handle, how: some[0].1, sequences }.encode(frames);
            }
        }
        for sequences in acks.chunks(CONSUMER_ACK_SEQUENCES_MAX) {
            ChannelAck { handle, sequences: sequences.to_vec() }.encode(frames);
        }
        match &mut self.leaving {
            Some(leaving) => {
                leaving.is_said = true;
                ChannelLeave { handle, mode: leaving.mode }.encode(frames);
            }
            None => {
                if let Some(Credit { messages, bytes }) = credit.filter(|credit| credit.messages + credit.bytes > 0) {
                    ChannelCredit { handle, messages, bytes }.encode(frames);
                }
            }
        }
        acks
    }

    fn end(self, reason: &ChannelError) {
        if let Some(done) = self.leaving.and_then(|leaving| leaving.done) {
            let _ = done.send(Err(reason.clone()));
        }
        if let Some(stands) = self.stands {
            let _ = stands.send(Err(reason.clone()));
        }
        // There is a place for it: what came and was not shown is not in the queue.
        let _ = self.queue.try_send(Err(reason.clone()));
    }
}

#[cfg(test)]
mod tests;
