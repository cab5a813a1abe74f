//! The channels stream of one connection: asks for subscriptions, verifies what comes, acknowledges.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use creto_envelope::channel::frames::{CHANNEL_DELIVER_HEADER_BYTES, ChannelDeliver, ChannelLeft, ChannelSubscribed};
use creto_envelope::control::{StreamOpen, StreamRole};
use creto_envelope::deliver::DeliveredSpan;
use creto_envelope::{FrameType, RejectCode};
use quinn::{RecvStream, SendStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{sleep_until, timeout};

use super::error::ChannelError;
use super::reading::{Arrived, Outgoing, Reading, Unproven, Unverified};
use crate::directory::{Directory, Identity};
use crate::limits::{GOODBYE_TIMEOUT, OPEN_JOBS_MAX};
use crate::receiver::Inbox;
use crate::receiver::acknowledgements::Acknowledged;
use crate::receiver::open::{Opener, Refused, SignedHeader};
use crate::stream::{self, StreamEnd};
use crate::worker::offload;

/// What the channels stream needs.
#[derive(Clone)]
pub(crate) struct ChannelLink {
    pub(crate) reading: Arc<Reading>,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) opener: Arc<Opener>,
    pub(crate) directory: Arc<Directory>,
    /// Turns true when the agent is closing: what is to be acknowledged goes out first.
    pub(crate) closing: watch::Receiver<bool>,
}

/// A ChannelDeliver frame whose messages were verified.
struct VerifiedFrame {
    handle: u32,
    body: Bytes,
    messages: Vec<DeliveredSpan>,
    /// Of each message.
    verdicts: Vec<Result<Arc<Identity>, Unverified>>,
}

impl ChannelLink {
    /// Runs until the stream or the connection ends. Waits for the first subscription before it opens a stream.
    pub(crate) async fn run(self, connection: quinn::Connection) -> StreamEnd {
        let mut wanted = self.reading.wanted.subscribe();
        let mut closing = self.closing.clone();
        tokio::select! {
            _ = wanted.wait_for(|wanted| *wanted) => {},
            _ = closing.wait_for(|closing| *closing) => return StreamEnd::Ended,
        }
        let Ok((mut send, receive)) = connection.open_bi().await else { return StreamEnd::Ended };
        let stream = self.reading.stream_opened();
        let mut frames = Vec::new();
        StreamOpen { role: StreamRole::Channels }.encode(&mut frames);
        if let Err(end) = stream::write(&mut send, frames).await {
            return end;
        }
        let (jobs, verified) = mpsc::channel(OPEN_JOBS_MAX);
        tokio::select! {
            end = self.write(send) => end,
            end = self.read(receive, jobs) => end,
            end = self.hand_over(verified, stream) => end,
            end = self.watch_mailbox() => end,
        }
    }

    /// The node ended the connection with this code. One that has no channels ends it over their stream.
    pub(crate) fn ended_with(&self, code: RejectCode) {
        if code == RejectCode::StreamRole && *self.reading.wanted.borrow() {
            self.reading.end(&ChannelError::Unsupported);
            self.reading.wanted.send_replace(false);
        }
    }

    /// Without a mailbox no keys come: what is subscribed ends, and the stream rests.
    async fn watch_mailbox(&self) -> StreamEnd {
        let reason = self.inbox.ended().await;
        self.reading.end(&ChannelError::Mailbox(reason));
        // An error means that the agent is gone.
        let _ = self.closing.clone().wait_for(|closing| *closing).await;
        StreamEnd::Ended
    }

    async fn write(&self, mut send: SendStream) -> StreamEnd {
        let mut closing = self.closing.clone();
        let mut last = false;
        loop {
            let Outgoing { frames, again, acknowledged } = self.reading.take_outgoing();
            if !frames.is_empty()
                && let Err(end) = stream::write(&mut send, frames).await
            {
                return end;
            }
            if self.inbox.is_measured() {
                for (channel, sequences) in acknowledged.into_iter().filter(|(_, sequences)| !sequences.is_empty()) {
                    self.inbox.handed_over(Acknowledged::Channel { channel, sequences: sequences.into() });
                }
            }
            if last {
                // Resolves when the node has everything, or is gone.
                let stopped = send.stopped();
                if send.finish().is_ok() {
                    let _ = timeout(GOODBYE_TIMEOUT, stopped).await;
                }
                return StreamEnd::Ended;
            }
            tokio::select! {
                biased;
                _ = closing.wait_for(|closing| *closing) => last = true,
                () = self.reading.changed() => {},
                () = async { sleep_until(again.expect("there is more to write then")).await }, if again.is_some() => {},
            }
            // The application's turn is not over when its first acknowledgement wakes this: let it finish.
            yield_now().await;
        }
    }

    async fn read(&self, mut receive: RecvStream, jobs: mpsc::Sender<JoinHandle<VerifiedFrame>>) -> StreamEnd {
        let mut headers: HashMap<u32, Arc<SignedHeader>> = HashMap::new();
        loop {
            let frame = match stream::read_frame(&mut receive).await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            let parsed = match frame.frame_type {
                FrameType::ChannelDeliver => match self.verify(&frame.body, &mut headers).await {
                    Ok(Some(job)) => match jobs.send(job).await {
                        Ok(()) => Ok(()),
                        Err(_) => return StreamEnd::Ended,
                    },
                    Ok(None) => Ok(()),
                    Err(code) => Err(code),
                },
                FrameType::ChannelSubscribed => {
                    ChannelSubscribed::parse(&frame.body).and_then(|subscribed| self.reading.subscribed(&subscribed))
                }
                FrameType::ChannelLeft => ChannelLeft::parse(&frame.body).map(|left| {
                    headers.remove(&left.handle);
                    self.reading.left(&left);
                }),
                FrameType::Reject => match stream::refusal(&frame.body) {
                    Ok(refusal) => Err(refusal.code.unwrap_or(RejectCode::FrameUnexpected)),
                    Err(end) => return end,
                },
                _ => Err(RejectCode::FrameUnexpected),
            };
            if let Err(code) = parsed {
                return StreamEnd::Broken(code);
            }
        }
    }

    /// Has the messages of a frame verified, beside the stream. None: nobody reads them any more.
    async fn verify(
        &self,
        body: &Bytes,
        headers: &mut HashMap<u32, Arc<SignedHeader>>,
    ) -> Result<Option<JoinHandle<VerifiedFrame>>, RejectCode> {
        let ChannelDeliver { handle, deliver } = ChannelDeliver::parse(body)?;
        if !self.reading.knows(handle) {
            return Err(RejectCode::FrameUnexpected);
        }
        // From here on it is the body of a Deliver frame.
        let body = body.slice(CHANNEL_DELIVER_HEADER_BYTES..);
        self.inbox.counters.received.add(deliver.messages.len());
        if let Some(batch) = deliver.batch_header {
            let identity = self.directory.lookup(batch.sender(), batch.key_record_version()).await;
            headers.insert(handle, Arc::new(SignedHeader::new(body.clone(), identity)));
        }
        let Some(channel) = self.reading.channel_of(handle) else { return Ok(None) };
        let header = headers.get(&handle).cloned().ok_or(RejectCode::FrameUnexpected)?;
        let (opener, directory, messages) = (Arc::clone(&self.opener), Arc::clone(&self.directory), deliver.messages);
        Ok(Some(tokio::spawn(offload(move || {
            let verdicts = match header.is_unproven() {
                // Nothing can be said of them yet: whoever presents them looks again.
                true => {
                    let unproven = |span: &DeliveredSpan| Unproven {
                        channel,
                        opener: Arc::clone(&opener),
                        directory: Arc::clone(&directory),
                        header: Arc::clone(&header),
                        body: body.clone(),
                        span: span.clone(),
                    };
                    messages.iter().map(|span| Err(Unverified::Unproven(Box::new(unproven(span))))).collect()
                }
                false => {
                    let verdicts = opener.verify_published(channel, &header, &body, &messages);
                    let refused =
                        |verdict: Result<_, Refused>| verdict.map_err(|refused| Unverified::Refused(refused.code));
                    verdicts.into_iter().map(refused).collect()
                }
            };
            VerifiedFrame { handle, body, messages, verdicts }
        }))))
    }

    /// Hands messages to their subscriptions, in the order in which they came.
    async fn hand_over(&self, mut verified: mpsc::Receiver<JoinHandle<VerifiedFrame>>, stream: u64) -> StreamEnd {
        while let Some(job) = verified.recv().await {
            let VerifiedFrame { handle, body, messages, verdicts } = job.await.expect("verifying does not panic");
            for (span, verdict) in messages.into_iter().zip(verdicts) {
                let bytes = span.envelope.len();
                let verified = verdict.map(|identity| (body.slice(span.envelope), identity));
                let message = Arrived { sequence: span.mailbox_sequence, attempt: span.attempt, stream, verified };
                if let Err(code) = self.reading.arrived(handle, bytes, message) {
                    return StreamEnd::Broken(code);
                }
            }
        }
        StreamEnd::Ended
    }
}
