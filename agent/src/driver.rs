//! Keeps an agent connected: one connection after the other, each with its streams and their tasks.

use std::sync::Arc;
use std::time::Duration;

use creto_envelope::channel::SignedChannelRecord;
use creto_envelope::channel::frames::ChannelMembers;
use creto_envelope::channel::listing::ChannelListed;
use creto_envelope::control::{KeyRecordPublished, StreamOpen, StreamRole};
use creto_envelope::key_log::{KeyLeaves, KeyProof};
use creto_envelope::presence::PresenceAnswer;
use creto_envelope::submit::SubmitAck;
use creto_envelope::{FrameType, RejectCode, SignedKeyRecord};
use quinn::{ConnectionError, RecvStream, SendStream, VarInt};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::Backoff;
use crate::channel::ChannelError;
use crate::channel::link::ChannelLink;
use crate::channel::listing::Listings;
use crate::channel::records::Records;
use crate::clock;
use crate::connection::{Dialer, Session};
use crate::directory::Directory;
use crate::error::{ConnectError, ReceiveError};
use crate::key_log::KeyLog;
use crate::keys::AgentKeys;
use crate::letters::Letters;
use crate::limits::{
    CONNECTION_PROVEN, GOODBYE_TIMEOUT, LOGIN_REFUSALS_MAX, RECONNECT_ATTEMPT_TIMEOUT, RECONNECT_PAUSE_MAX,
    RECONNECT_PAUSE_MIN, WRITE_QUEUE_FRAMES,
};
use crate::prekeys::Prekeys;
use crate::presence::Presences;
use crate::receiver::link::DeliverLink;
use crate::rotation::Rotor;
use crate::sender::Event;
use crate::stats::Counters;
use crate::stream::{self, StreamEnd};

/// See the module.
pub(crate) struct Driver {
    pub(crate) dialer: Dialer,
    pub(crate) keys: Arc<AgentKeys>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) key_log: Arc<KeyLog>,
    pub(crate) rotor: Arc<Rotor>,
    pub(crate) letters: Arc<Letters>,
    pub(crate) prekeys: Arc<Prekeys>,
    pub(crate) presences: Arc<Presences>,
    pub(crate) deliver: DeliverLink,
    pub(crate) channels: ChannelLink,
    pub(crate) records: Arc<Records>,
    pub(crate) listings: Arc<Listings>,
    pub(crate) sender: mpsc::Sender<Event>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) closing: watch::Receiver<bool>,
}

impl Driver {
    /// Runs until the agent closes or the node will not have it any more.
    pub(crate) async fn run(self, first: Session) {
        let mut backoff = Backoff::new(RECONNECT_PAUSE_MIN, RECONNECT_PAUSE_MAX);
        let mut session = first;
        let keeper = tokio::spawn(Arc::clone(&self.deliver.inbox).keep());
        let reason = loop {
            let began = Instant::now();
            let Err(error) = self.carry(session).await else { break ConnectError::Closed };
            let is_renewed = self.deliver.inbox.has_renewed();
            if is_renewed {
                tracing::info!("connecting again, for what was passed over");
                self.counters.renewals.add(1);
            } else {
                tracing::info!(%error, "the connection ended, connecting again");
            }
            if is_renewed || began.elapsed() >= CONNECTION_PROVEN {
                backoff.reset();
            }
            session = match self.reconnect(&mut backoff).await {
                Ok(session) => session,
                Err(error) => break error,
            };
            self.counters.reconnects.add(1);
        };
        self.directory.close();
        self.key_log.close();
        self.rotor.close();
        self.letters.close();
        self.prekeys.close();
        self.records.close();
        self.listings.close();
        self.presences.close();
        self.channels.reading.end(&match &reason {
            ConnectError::Closed => ChannelError::Closed,
            error => ChannelError::Disconnected(error.clone()),
        });
        self.deliver.inbox.end(match &reason {
            ConnectError::Closed => ReceiveError::Closed,
            error => ReceiveError::Disconnected(error.clone()),
        });
        self.tell(Event::GiveUp(reason)).await;
        // Another process may subscribe once the sessions are let go. An error means that the runtime is shutting down.
        let _ = keeper.await;
    }

    /// Tries until there is a connection, the agent closes, or the node clearly does not want this agent.
    async fn reconnect(&self, backoff: &mut Backoff) -> Result<Session, ConnectError> {
        let mut refusals = 0;
        loop {
            let pause = backoff.next(u32::from_le_bytes(clock::random()));
            let attempt = async {
                sleep(pause).await;
                self.dialer.log_in(&self.keys, RECONNECT_ATTEMPT_TIMEOUT).await
            };
            let error = tokio::select! {
                attempt = attempt => match attempt {
                    Ok(session) => return Ok(session),
                    Err(error) => error,
                },
                () = self.closed() => return Err(ConnectError::Closed),
            };
            // A node that has just started may not know its agents yet, so one refusal is not the last word.
            let refused = error.code().is_some_and(|code| !code.is_retryable());
            refusals = if refused { refusals + 1 } else { 0 };
            if error.code() == Some(RejectCode::AgentRevoked) || refusals >= LOGIN_REFUSALS_MAX {
                tracing::error!(%error, "giving up on the node");
                return Err(error);
            }
            tracing::debug!(%error, "no connection yet");
        }
    }

    /// Carries one connection until it ends. `Ok` when the agent is closing.
    async fn carry(&self, session: Session) -> Result<(), ConnectError> {
        let connection = session.connection.clone();
        let outcome = self.carry_streams(session).await;
        // Looked at before this side closes it too.
        let reason = connection.close_reason();
        let code = match &outcome {
            Err(StreamEnd::Broken(code)) => u32::from(code.as_u16()),
            _ => 0,
        };
        connection.close(VarInt::from_u32(code), b"closed by the agent");
        self.deliver.inbox.lost();
        self.channels.reading.lost();
        self.key_log.lost();
        self.rotor.lost();
        self.letters.lost();
        if let Some(ConnectionError::ApplicationClosed(closed)) = &reason
            && let Some(code) = u16::try_from(closed.error_code.into_inner()).ok().and_then(RejectCode::from_u16)
        {
            self.prekeys.ended_with(code);
            self.records.ended_with(code);
            self.listings.ended_with(code);
            self.presences.ended_with(code);
            self.channels.ended_with(code);
        }
        self.prekeys.lost();
        self.tell(Event::Lost).await;
        outcome.map_err(|end| match (reason, end) {
            (_, StreamEnd::Broken(code)) => ConnectError::Protocol(code),
            (Some(reason), StreamEnd::Ended) => self.dialer.lost(reason),
            (None, StreamEnd::Ended) => ConnectError::Protocol(RejectCode::FrameTruncated),
        })
    }

    async fn carry_streams(&self, session: Session) -> Result<(), StreamEnd> {
        let Session { connection, control: (ask, answers), accepted } = session;
        let (mut submit, acks) = connection.open_bi().await.map_err(|_| StreamEnd::Ended)?;
        let mut open = Vec::new();
        StreamOpen { role: StreamRole::Submit }.encode(&mut open);
        stream::write(&mut submit, open).await?;

        let (frames, to_write) = mpsc::channel(WRITE_QUEUE_FRAMES);
        let mut streams = JoinSet::new();
        streams.spawn(write_submit(submit, to_write));
        streams.spawn(read_submit(acks, self.sender.clone()));
        let control = Control {
            directory: Arc::clone(&self.directory),
            key_log: Arc::clone(&self.key_log),
            rotor: Arc::clone(&self.rotor),
            letters: Arc::clone(&self.letters),
            prekeys: Arc::clone(&self.prekeys),
            records: Arc::clone(&self.records),
            listings: Arc::clone(&self.listings),
            presences: Arc::clone(&self.presences),
        };
        streams.spawn(write_control(ask, control.clone()));
        streams.spawn(read_control(answers, control));
        let mut deliver = JoinSet::new();
        deliver.spawn(self.deliver.clone().run(connection.clone()));
        deliver.spawn(self.channels.clone().run(connection.clone()));

        self.directory.connected();
        self.key_log.connected();
        self.rotor.connected();
        self.prekeys.connected();
        self.records.connected();
        self.listings.connected();
        self.presences.connected();
        self.tell(Event::Connected { accepted, frames }).await;

        let end = tokio::select! {
            Some(end) = streams.join_next() => Err(ended(end)),
            Some(end) = deliver.join_next() => {
                let is_closing = *self.closing.borrow();
                if is_closing {
                    let _ = timeout(GOODBYE_TIMEOUT, all_end(&mut deliver)).await;
                    Ok(())
                } else {
                    Err(ended(end))
                }
            }
            _ = connection.closed() => Err(StreamEnd::Ended),
            () = self.closed() => {
                // The last acknowledgements go out, if the node is there to take them.
                let _ = timeout(GOODBYE_TIMEOUT, all_end(&mut deliver)).await;
                Ok(())
            }
        };
        // Every acknowledgement that was read is told before `Lost` is.
        streams.shutdown().await;
        deliver.shutdown().await;
        end
    }

    async fn tell(&self, event: Event) {
        // The sender is gone only when the runtime shuts down.
        let _ = self.sender.send(event).await;
    }

    async fn closed(&self) {
        // An error means that every handle is gone: the same.
        let _ = self.closing.clone().wait_for(|closing| *closing).await;
    }
}

/// Everybody who asks on the control stream.
#[derive(Clone)]
struct Control {
    directory: Arc<Directory>,
    key_log: Arc<KeyLog>,
    rotor: Arc<Rotor>,
    letters: Arc<Letters>,
    prekeys: Arc<Prekeys>,
    records: Arc<Records>,
    listings: Arc<Listings>,
    presences: Arc<Presences>,
}

async fn write_control(mut stream: SendStream, control: Control) -> StreamEnd {
    let Control { directory, key_log, rotor, letters, prekeys, records, listings, presences } = control;
    loop {
        let frame = tokio::select! {
            question = directory.next_question() => {
                let mut frame = Vec::new();
                question.encode(&mut frame);
                frame
            }
            frame = key_log.next_frame() => frame,
            frame = rotor.next_frame() => frame,
            frame = letters.next_frame() => frame,
            frame = prekeys.next_frame() => frame,
            frame = records.next_frame() => frame,
            frame = listings.next_frame() => frame,
            frame = presences.next_frame() => frame,
        };
        if let Err(end) = stream::write(&mut stream, frame).await {
            return end;
        }
    }
}

async fn read_control(mut stream: RecvStream, control: Control) -> StreamEnd {
    let Control { directory, key_log, rotor, letters, prekeys, records, listings, presences } = control;
    loop {
        let frame = match stream::read_frame(&mut stream).await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        match frame.frame_type {
            FrameType::KeyRecordResponse => match SignedKeyRecord::parse(&frame.body) {
                Ok(record) => directory.answered(record),
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::KeyProof => match KeyProof::parse(&frame.body) {
                Ok(proof) => key_log.proven(proof).await,
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::KeyLeaves => match KeyLeaves::parse(&frame.body) {
                Ok(page) => key_log.leaves(page),
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::KeyRecordPublished => match KeyRecordPublished::parse(&frame.body) {
                Ok(published) => rotor.published(published.version),
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::DeadLetters | FrameType::DeadLetter | FrameType::DeadLetterChanged => {
                if !letters.answered(frame) {
                    return StreamEnd::Broken(RejectCode::FrameUnexpected);
                }
            }
            FrameType::PrekeyUploaded | FrameType::PrekeyClaimed | FrameType::PrekeyStock => {
                if let Err(code) = prekeys.answered(&frame) {
                    return StreamEnd::Broken(code);
                }
            }
            FrameType::PresenceAnswer => match PresenceAnswer::parse(&frame.body) {
                Ok(answer) => presences.answered(answer),
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::ChannelResponse => match SignedChannelRecord::parse(&frame.body) {
                Ok(record) => records.answered(record),
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::ChannelListed => match ChannelListed::parse(&frame.body) {
                Ok(listed) => listings.answered(listed),
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::Reject => match stream::refusal(&frame.body) {
                Ok(refusal) if records.refused(&refusal) || listings.refused(&refusal) => {}
                Ok(refusal) if rotor.refused(&refusal) || letters.refused(&refusal) => {}
                // Last of those that name nobody: what is about dead letters says nothing about prekeys.
                Ok(refusal) if prekeys.refused(&refusal) => {}
                // About an agent: a question that was asked, or one that nobody waits for any more.
                Ok(refusal) if refusal.context != [0; 16] => directory.refused(&refusal),
                Ok(refusal) => return StreamEnd::Broken(refusal.code.unwrap_or(RejectCode::FrameUnexpected)),
                Err(end) => return end,
            },
            _ => return StreamEnd::Broken(RejectCode::FrameUnexpected),
        }
    }
}

async fn write_submit(mut stream: SendStream, mut frames: mpsc::Receiver<Vec<u8>>) -> StreamEnd {
    while let Some(frame) = frames.recv().await {
        if let Err(end) = stream::write(&mut stream, frame).await {
            return end;
        }
    }
    // The sender has dropped the queue: the node acknowledged what does not fit.
    StreamEnd::Broken(RejectCode::BatchSequence)
}

async fn read_submit(mut stream: RecvStream, sender: mpsc::Sender<Event>) -> StreamEnd {
    loop {
        let frame = match stream::read_frame(&mut stream).await {
            Ok(frame) => frame,
            Err(end) => return end,
        };
        let event = match frame.frame_type {
            FrameType::SubmitAck => match SubmitAck::parse(&frame.body) {
                Ok(ack) => Event::Acknowledged(ack),
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::ChannelMembers => match ChannelMembers::parse(&frame.body) {
                Ok(members) => Event::Members(members),
                Err(code) => return StreamEnd::Broken(code),
            },
            FrameType::Reject => match stream::refusal(&frame.body) {
                // About a channel: what was asked of it.
                Ok(refusal) if refusal.context != [0; 16] => Event::MembersRefused(refusal),
                Ok(refusal) if refusal.retry_after_ms > 0 && refusal.code.is_ok_and(RejectCode::is_retryable) => {
                    Event::Pause(Duration::from_millis(u64::from(refusal.retry_after_ms)))
                }
                Ok(refusal) => return StreamEnd::Broken(refusal.code.unwrap_or(RejectCode::FrameUnexpected)),
                Err(end) => return end,
            },
            _ => return StreamEnd::Broken(RejectCode::FrameUnexpected),
        };
        if sender.send(event).await.is_err() {
            return StreamEnd::Ended;
        }
    }
}

/// Waits until each of them has ended.
async fn all_end(streams: &mut JoinSet<StreamEnd>) {
    while streams.join_next().await.is_some() {}
}

fn ended(end: Result<StreamEnd, tokio::task::JoinError>) -> StreamEnd {
    end.expect("a stream's task does not panic")
}
