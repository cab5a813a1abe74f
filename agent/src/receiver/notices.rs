//! Notices: what the node says about messages of this agent that expired before they were acknowledged.
//!
//! They come with the mailbox, take credit like deliveries and are acknowledged like them. The node may say the same thing
//! twice, after a crash: repeats are hidden by message id and cause, as far as the window of ids goes.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use creto_envelope::notice::{NOTICE_BODY_BYTES, NoticeBody, NoticeCause};
use creto_envelope::{AgentId, AgentName, MessageId};
use tokio::sync::mpsc;

use super::Inbox;
use super::window::{Arrival, Place};
use crate::error::ReceiveError;

/// A message that this agent sent, that the node had acknowledged, and that expired before its recipient acknowledged it.
///
/// The node says so, and nobody has signed it. It keeps the notice until [`ack`](Self::ack); dropped without, it comes again
/// on the next connection.
#[non_exhaustive]
pub struct Notice {
    /// Whom the message was for; none when the node does not say who that is (any more).
    pub to: Option<AgentName>,
    /// The id of that agent.
    pub to_id: AgentId,
    /// The message's id, as [`Receipt::message_id`](crate::Receipt::message_id) gave it.
    pub message_id: MessageId,
    /// What was over.
    pub cause: NoticeCause,
    /// When, by the node's clock, Unix milliseconds.
    pub expired_at_ms: u64,
    /// How often the node pushed the notice before; zero the first time.
    pub attempt: u8,
    inbox: Weak<Inbox>,
    finished: AtomicBool,
}

impl Notice {
    /// The application has taken note: the node may forget it.
    pub fn ack(&self) {
        self.finish(true);
    }

    fn finish(&self, acknowledged: bool) {
        if !self.finished.swap(true, Ordering::AcqRel)
            && let Some(inbox) = self.inbox.upgrade()
        {
            inbox.notice_finished(self.cause, self.message_id, acknowledged);
        }
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        self.finish(false);
    }
}

impl fmt::Debug for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notice")
            .field("to", &self.to)
            .field("to_id", &self.to_id)
            .field("message_id", &self.message_id)
            .field("cause", &self.cause)
            .field("expired_at_ms", &self.expired_at_ms)
            .finish_non_exhaustive()
    }
}

/// Notices as they come. Once it is dropped, what it has not handed out comes again on the next connection, and so does what
/// comes then, unless somebody asks for notices again.
#[derive(Debug)]
pub struct Notices {
    inbox: Arc<Inbox>,
    /// Taken on drop only.
    queue: Option<mpsc::Receiver<Notice>>,
}

impl Notices {
    /// The next notice, waiting for it, over reconnects too; `None` when no more will come.
    pub async fn next(&mut self) -> Option<Notice> {
        self.queue.as_mut().expect("only drop takes the queue").recv().await
    }
}

impl Drop for Notices {
    fn drop(&mut self) {
        let mut left = Vec::new();
        let mut state = self.inbox.state();
        if let Some(mut queue) = self.queue.take() {
            while let Ok(notice) = queue.try_recv() {
                left.push(notice);
            }
            state.notices.queue = Some(queue);
        }
        // These take the lock, to give back their credit.
        drop(state);
        drop(left);
    }
}

/// Notices that wait for the application, if it wants any.
#[derive(Debug)]
pub(super) struct NoticeQueue {
    /// Gone when no more will come.
    pub(super) sender: Option<mpsc::Sender<Notice>>,
    /// While nobody listens.
    queue: Option<mpsc::Receiver<Notice>>,
    /// Whether somebody ever did.
    was_asked: bool,
}

impl NoticeQueue {
    /// Credit bounds the queue; the channel's own bound holds a node that pushes without credit.
    pub(super) fn new(window_messages: usize) -> Self {
        let (sender, queue) = mpsc::channel(window_messages);
        Self { sender: Some(sender), queue: Some(queue), was_asked: false }
    }
}

/// What the node says is remembered like what an agent sends: under an id that no agent has, one for each cause.
fn sayer(cause: NoticeCause) -> AgentId {
    let mut id = [0; 16];
    id[15] = cause as u8;
    AgentId(id)
}

impl Inbox {
    pub(crate) fn notices(self: &Arc<Self>) -> Result<Notices, ReceiveError> {
        let mut state = self.state();
        let queue = state.notices.queue.take().ok_or(ReceiveError::AlreadySubscribed)?;
        state.notices.was_asked = true;
        drop(state);
        Ok(Notices { inbox: Arc::clone(self), queue: Some(queue) })
    }

    /// A notice came. Where nobody ever asked for any it is written to the log, and acknowledged.
    pub(super) fn noticed(
        self: &Arc<Self>,
        notice: &creto_envelope::notice::Notice,
        to: Option<AgentName>,
        stream: u64,
    ) {
        let NoticeBody { recipient, message_id, expired_at_ms, cause } = notice.body;
        let from = sayer(cause);
        let place = Place { mailbox_sequence: notice.mailbox_sequence, stream };
        let mut state = self.state();
        let has_room = state.has_room();
        state.credit.arrived(NOTICE_BODY_BYTES);
        match state.window.arrived(from, message_id, place) {
            Arrival::Fresh if !state.notices.was_asked => {
                // Acknowledged and said in the log, so that a program that knows nothing of notices fills no mailbox.
                let place = state.window.acknowledged(from, message_id);
                self.done(&mut state, None, place, None);
                state.credit.finished(NOTICE_BODY_BYTES);
                drop(state);
                let to = to.map_or_else(|| recipient.to_string(), |name| name.to_string());
                tracing::warn!(%to, %message_id, ?cause, expired_at_ms, "a message expired before it was acknowledged");
                self.counters.notices_unheard.add(1);
            }
            Arrival::Fresh if state.notices.queue.is_some() => {
                // Whoever wanted them is gone, perhaps because all of it ends: the node keeps it.
                state.window.released(from, message_id);
                state.credit.finished(NOTICE_BODY_BYTES);
                drop(state);
            }
            Arrival::Fresh if !has_room => {
                state.pass_over(from, message_id, NOTICE_BODY_BYTES);
                drop(state);
                self.counters.passed_over.add(1);
            }
            Arrival::Fresh => {
                self.counters.notices.add(1);
                let notice = Notice {
                    to,
                    to_id: recipient,
                    message_id,
                    cause,
                    expired_at_ms,
                    attempt: notice.attempt,
                    inbox: Arc::downgrade(self),
                    finished: AtomicBool::new(false),
                };
                // A queue that is full or gone drops it, so that it comes again. Only a node that pushes more than it has
                // credit for fills one.
                let refused = state.notices.sender.as_ref().map(|sender| sender.try_send(notice));
                // It takes the lock, to give back its credit.
                drop(state);
                drop(refused);
            }
            known => {
                if known == Arrival::Settled {
                    self.done(&mut state, None, Some(place), None);
                }
                state.credit.finished(NOTICE_BODY_BYTES);
                drop(state);
                self.counters.duplicates_hidden.add(1);
            }
        }
        self.changed.notify_one();
    }

    fn notice_finished(&self, cause: NoticeCause, message_id: MessageId, acknowledged: bool) {
        let mut state = self.state();
        if acknowledged {
            let place = state.window.acknowledged(sayer(cause), message_id);
            self.done(&mut state, None, place, None);
        } else {
            state.window.released(sayer(cause), message_id);
        }
        state.credit.finished(NOTICE_BODY_BYTES);
        drop(state);
        self.changed.notify_one();
    }
}
