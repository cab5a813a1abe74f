//! Those that read streams: they count what comes, and acknowledge it.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{Context, Message};
use creto_agent::Stats;
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Asked, NatsCast, Reader, Streams, Subjects, UNPOISONED};
use crate::limits::{NATS_PULL_MESSAGES, PAYLOAD_BYTES_MIN, SETTLE_TIMEOUT};
use crate::payload::Mark;
use crate::state::Run;
use crate::target::{Readers, Signals, is_over_after};

/// Has everybody read, until it is over.
pub(super) fn start(cast: NatsCast, readers: &mut Readers<'_>) -> Streams {
    let NatsCast { subjects, receivers, channels, servers, answers, asked, streams, .. } = cast;
    let count = receivers.len();
    for (place, reader) in receivers.into_iter().enumerate() {
        let counting = |run: &Run, mark| run.delivered(mark);
        let reading = Reading::new(readers, readers.pause(place));
        readers.tasks.spawn(reading.read(reader, counting));
    }
    let subscribers = readers.options.shape().subscribers;
    for (channel, stand) in channels.into_iter().enumerate() {
        for (place, reader) in stand.into_iter().enumerate() {
            let pause = readers.pause(count + channel * subscribers + place);
            let counting = move |run: &Run, mark: Mark| match run.publishes_in(mark.number, channel) {
                true => run.read(place, mark),
                false => run.strange(),
            };
            let reading = Reading::new(readers, pause);
            readers.tasks.spawn(reading.read(reader, counting));
        }
    }
    for reader in servers {
        let reading = Reading::new(readers, None);
        readers.tasks.spawn(reading.serve(reader, subjects.clone()));
    }
    for (reader, asked) in answers.into_iter().zip(asked) {
        let reading = Reading::new(readers, None);
        readers.tasks.spawn(reading.take_answers(reader, asked));
    }
    streams
}

/// What every reader has.
struct Reading {
    run: Arc<Run>,
    pause: Option<Duration>,
    signals: Signals,
}

impl Reading {
    fn new(readers: &Readers<'_>, pause: Option<Duration>) -> Self {
        Self { run: Arc::clone(readers.run), pause, signals: readers.signals.clone() }
    }

    /// Begins to read, when it may; none where it is over before, or cannot.
    async fn begin(&self, reader: Reader) -> Option<Pulled> {
        let mut over = self.signals.over.clone();
        let mut open = self.signals.open.clone();
        let opened = tokio::select! {
            opened = open.wait_for(|open| *open) => opened.is_ok(),
            _ = over.wait_for(|over| *over) => false,
        };
        if !opened {
            return None;
        }
        let messages = reader.consumer.stream().max_messages_per_batch(NATS_PULL_MESSAGES).messages().await;
        match messages {
            Ok(messages) => Some(Pulled { run: Arc::clone(&self.run), over, messages, context: reader.context }),
            Err(error) => {
                self.run.failed(&error.to_string());
                None
            }
        }
    }

    /// Acknowledges a delivery: settled when that is handed to the connection.
    async fn settle(&self, message: &Message, mark: Mark) {
        match message.ack().await {
            Ok(()) => self.run.settled(&[mark.due_us]),
            Err(error) => {
                self.run.failed(&error.to_string());
                self.run.unmeasured(1);
            }
        }
    }

    fn mark_of(&self, message: &Message) -> Option<Mark> {
        let mark = self.run.mark_of(&message.payload, None);
        if mark.is_none() {
            self.run.strange();
        }
        mark
    }

    /// Counts what comes.
    async fn read(self, reader: Reader, count: impl Fn(&Run, Mark)) -> Vec<Stats> {
        let Some(mut pulled) = self.begin(reader).await else { return Vec::new() };
        while let Some(message) = pulled.next().await {
            let Some(mark) = self.mark_of(&message) else { continue };
            count(&self.run, mark);
            if is_over_after(self.pause, &mut pulled.over).await {
                break;
            }
            self.settle(&message, mark).await;
        }
        pulled.end().await
    }

    /// Answers requests: a question is acknowledged once its answer is stored, so that none gets lost.
    async fn serve(self, reader: Reader, subjects: Subjects) -> Vec<Stats> {
        let Some(mut pulled) = self.begin(reader).await else { return Vec::new() };
        let mut answering = JoinSet::new();
        while let Some(message) = pulled.next().await {
            while let Some(joined) = answering.try_join_next() {
                joined.expect("answering does not panic");
            }
            let (mark, lane) = (self.mark_of(&message), Subjects::lane_of(&message.subject));
            let Some((mark, lane)) = mark.zip(lane) else { continue };
            self.run.delivered(mark);
            answering.spawn(answer(Arc::clone(&self.run), pulled.context.clone(), subjects.answers(lane), message));
        }
        pulled.end().await
    }

    /// Hands answers to whoever asked.
    async fn take_answers(self, reader: Reader, asked: Asked) -> Vec<Stats> {
        let Some(mut pulled) = self.begin(reader).await else { return Vec::new() };
        while let Some(message) = pulled.next().await {
            match crate::payload::mark(&message.payload) {
                None => self.run.strange(),
                Some(mark) => {
                    let waiting = asked.lock().expect(UNPOISONED).remove(&mark.number);
                    // Nobody waits for an answer that came too late.
                    let _ = waiting.map(|waiting| waiting.send(()));
                    if let Err(error) = message.ack().await {
                        self.run.failed(&error.to_string());
                    }
                }
            }
        }
        pulled.end().await
    }
}

/// What a consumer pulls, until it is over.
struct Pulled {
    run: Arc<Run>,
    over: watch::Receiver<bool>,
    messages: pull::Stream,
    context: Context,
}

impl Pulled {
    /// The next message; none when it is over, or the consumer ended.
    async fn next(&mut self) -> Option<Message> {
        loop {
            let message = tokio::select! {
                biased;
                _ = self.over.wait_for(|over| *over) => return None,
                message = self.messages.next() => message,
            };
            match message? {
                Ok(message) => return Some(message),
                // It asks again by itself.
                Err(error) => self.run.failed(&error.to_string()),
            }
        }
    }

    /// Has what was acknowledged last go out.
    async fn end(self) -> Vec<Stats> {
        // A server that is gone takes nothing; its messages stay.
        let _ = timeout(SETTLE_TIMEOUT, self.context.client().flush()).await;
        Vec::new()
    }
}

async fn answer(run: Arc<Run>, context: Context, subject: String, question: Message) {
    let text = question.payload.slice(..PAYLOAD_BYTES_MIN);
    let stored = match context.publish(subject, text).await {
        Ok(stored) => stored.await.map(drop),
        Err(error) => Err(error),
    };
    match stored {
        Ok(()) => {
            if let Err(error) = question.ack().await {
                run.failed(&error.to_string());
            }
        }
        Err(error) => run.failed(&error.to_string()),
    }
}
