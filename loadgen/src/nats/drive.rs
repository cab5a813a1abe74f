//! Connections to a NATS server, its streams, and those that send.

mod read;

use std::collections::BTreeMap;
use std::error::Error as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Consumer, pull};
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::stream::{DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{self, Context};
use async_nats::{Client, ConnectOptions, Subject};
use bytes::Bytes;
use creto_agent::{AgentId, Stats};
use creto_envelope::MessageId;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{NatsError, NatsServer};
use crate::arrival::{Planned, Way};
use crate::limits::{NATS_ACK_PENDING_MAX, NATS_CLOSE_TIMEOUT, NATS_TIMEOUT, PENDING_PER_SENDER, REQUEST_TIMEOUT};
use crate::options::{RunError, RunOptions, Shape};
use crate::setup::run_label;
use crate::state::Told;
use crate::target::{Cast, Line, Readers};

impl NatsServer {
    pub(super) async fn connect(&self, name: &str) -> Result<Client, NatsError> {
        let mut options = ConnectOptions::new().name(name).connection_timeout(NATS_TIMEOUT);
        if let Some(certificate) = &self.certificate {
            options = options.add_root_certificates(certificate.clone());
        }
        if self.url.starts_with("tls://") {
            options = options.require_tls(true);
        }
        let unreachable = |reason: String| NatsError::Connect { url: self.url.clone(), reason };
        match timeout(NATS_TIMEOUT, options.connect(&self.url)).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(unreachable(error.to_string())),
            Err(_) => Err(unreachable(format!("no answer within {} s", NATS_TIMEOUT.as_secs()))),
        }
    }

    async fn context(&self, name: &str) -> Result<Context, NatsError> {
        let client = self.connect(name).await?;
        Ok(ContextBuilder::new()
            .timeout(NATS_TIMEOUT)
            .max_ack_inflight(PENDING_PER_SENDER)
            .backpressure_on_inflight(true)
            .build(client))
    }
}

/// One that reads: its connection, and what it reads.
#[derive(Debug)]
struct Reader {
    context: Context,
    consumer: Consumer<pull::Config>,
}

/// Requests of one sender that are not answered yet, by the number of their message.
type Asked = Arc<Mutex<BTreeMap<u64, oneshot::Sender<()>>>>;

const UNPOISONED: &str = "no code panics while it holds this lock";

/// Everybody.
#[derive(Debug)]
pub(crate) struct NatsCast {
    subjects: Subjects,
    senders: Vec<Context>,
    receivers: Vec<Reader>,
    /// Of each channel its subscribers.
    channels: Vec<Vec<Reader>>,
    servers: Vec<Reader>,
    /// Of each sender, its answers; none where nobody asks.
    answers: Vec<Reader>,
    asked: Vec<Asked>,
    streams: Streams,
}

/// The names of a run's subjects, which are those of its streams with a dot.
#[derive(Clone, Debug)]
struct Subjects(String);

impl Subjects {
    fn mailbox(&self, place: usize) -> String {
        format!("{}.m.{place}", self.0)
    }

    fn channel(&self, place: usize) -> String {
        format!("{}.c.{place}", self.0)
    }

    /// A request of the sender at `lane` to the agent at `place`.
    fn request(&self, place: usize, lane: usize) -> String {
        format!("{}.q.{place}.{lane}", self.0)
    }

    fn answers(&self, lane: usize) -> String {
        format!("{}.a.{lane}", self.0)
    }

    /// The lane that asked, from the subject of a request.
    fn lane_of(request: &str) -> Option<usize> {
        request.rsplit_once('.')?.1.parse().ok()
    }
}

/// The streams that a run has made, and the connection that makes them.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    context: Context,
    names: Vec<String>,
}

impl Streams {
    async fn make(&mut self, subject: String, retention: RetentionPolicy) -> Result<String, NatsError> {
        let name: String = subject.chars().filter(|letter| *letter != '*').collect::<String>().replace('.', "-");
        let config = jetstream::stream::Config {
            name: name.clone(),
            subjects: vec![subject],
            retention,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            num_replicas: 1,
            ..jetstream::stream::Config::default()
        };
        let made = self.context.create_stream(config).await;
        made.map_err(|error| NatsError::Stream { name: name.clone(), reason: error.to_string() })?;
        self.names.push(name.clone());
        Ok(name)
    }
}

impl NatsCast {
    pub(crate) async fn make(server: &NatsServer, options: &RunOptions) -> Result<Self, RunError> {
        let Shape { senders, receivers, servers, channels, subscribers } = options.shape();
        let context = server.context("bench").await?;
        let info = context.client().server_info();
        if !info.jetstream {
            return Err(NatsError::NoJetStream { url: server.url.clone() }.into());
        }
        if options.sizes.bytes_max() > info.max_payload {
            let text = format!("this NATS server takes payloads of up to {} bytes (max_payload)", info.max_payload);
            return Err(RunError::Option(text));
        }
        let subjects = Subjects(format!("bench-{}", run_label()));
        // Nothing comes again because its reader is slow, or away: what came twice would count as a fault.
        let ack_wait = options.warmup.saturating_add(options.duration).saturating_add(options.drain_timeout);
        let ack_wait = ack_wait.saturating_add(Duration::from_secs(60));
        let reader = async |stream: &str, durable: String| -> Result<Reader, NatsError> {
            let context = server.context(&durable).await?;
            let config = pull::Config {
                durable_name: Some(durable),
                ack_policy: AckPolicy::Explicit,
                ack_wait,
                max_ack_pending: NATS_ACK_PENDING_MAX,
                ..pull::Config::default()
            };
            let made = context.create_consumer_on_stream(config, stream).await;
            let consumer =
                made.map_err(|error| NatsError::Stream { name: stream.to_owned(), reason: error.to_string() })?;
            Ok(Reader { context, consumer })
        };
        let mut streams = Streams { context, names: Vec::new() };
        let mut cast = Self {
            subjects: subjects.clone(),
            senders: Vec::new(),
            receivers: Vec::new(),
            channels: Vec::new(),
            servers: Vec::new(),
            answers: Vec::new(),
            asked: Vec::new(),
            streams: streams.clone(),
        };
        for place in 0..receivers {
            let stream = streams.make(subjects.mailbox(place), RetentionPolicy::WorkQueue).await?;
            cast.receivers.push(reader(&stream, format!("r{place}")).await?);
        }
        for channel in 0..channels {
            let stream = streams.make(subjects.channel(channel), RetentionPolicy::Interest).await?;
            let mut reading = Vec::new();
            for place in 0..subscribers {
                reading.push(reader(&stream, format!("c{channel}-{place}")).await?);
            }
            cast.channels.push(reading);
        }
        for place in 0..servers {
            let subject = format!("{}.q.{place}.*", subjects.0);
            let stream = streams.make(subject, RetentionPolicy::WorkQueue).await?;
            cast.servers.push(reader(&stream, format!("q{place}")).await?);
        }
        for lane in 0..senders {
            cast.senders.push(server.context(&format!("s{lane}")).await?);
            cast.asked.push(Asked::default());
            if servers > 0 {
                let stream = streams.make(subjects.answers(lane), RetentionPolicy::WorkQueue).await?;
                cast.answers.push(reader(&stream, format!("a{lane}")).await?);
            }
        }
        Ok(Self { streams, ..cast })
    }
}

impl Cast for NatsCast {
    type Line = NatsLine;
    type Left = Streams;

    fn sender_ids(&self) -> Vec<AgentId> {
        Vec::new()
    }

    fn lines(&mut self) -> Vec<NatsLine> {
        let all = |count: usize, name: &dyn Fn(usize) -> String| (0..count).map(|at| Subject::from(name(at))).collect();
        let mailboxes: Arc<[Subject]> = all(self.receivers.len(), &|place| self.subjects.mailbox(place));
        let (channels, servers) = (self.channels.len(), self.servers.len());
        let lines = std::mem::take(&mut self.senders).into_iter().zip(&self.asked).enumerate();
        let line = |(lane, (context, asked)): (usize, (Context, &Asked))| NatsLine {
            context,
            mailboxes: Arc::clone(&mailboxes),
            channel: (channels > 0).then(|| self.subjects.channel(lane % channels).into()),
            servers: all(servers, &|place| self.subjects.request(place, lane)),
            asked: Arc::clone(asked),
        };
        lines.map(line).collect()
    }

    fn read(self, readers: &mut Readers<'_>) -> Streams {
        read::start(self, readers)
    }

    async fn close(left: Streams) -> Vec<Stats> {
        let mut deleting = JoinSet::new();
        for name in left.names {
            let context = left.context.clone();
            deleting.spawn(async move {
                // A server that is gone keeps them; the next run has other names.
                let _ = timeout(NATS_CLOSE_TIMEOUT, context.delete_stream(name)).await;
            });
        }
        deleting.join_all().await;
        Vec::new()
    }
}

/// A connection that publishes.
#[derive(Debug)]
pub(crate) struct NatsLine {
    context: Context,
    mailboxes: Arc<[Subject]>,
    channel: Option<Subject>,
    /// Where this sender asks each of those that answer.
    servers: Arc<[Subject]>,
    asked: Asked,
}

impl Line for NatsLine {
    type Answer = PublishAckFuture;

    async fn submit(&mut self, planned: &Planned, payload: Bytes) -> Result<PublishAckFuture, Told> {
        let subject = match planned.way {
            Way::Publish => self.channel.clone().expect("a run that publishes has a channel"),
            _ => self.mailboxes[planned.target % self.mailboxes.len()].clone(),
        };
        self.context.publish(subject, payload).await.map_err(|error| told_of(&error))
    }

    async fn answer(answer: PublishAckFuture) -> Result<Option<MessageId>, Told> {
        answer.await.map(|_| None).map_err(|error| told_of(&error))
    }

    fn request(&mut self, planned: &Planned, payload: Bytes) -> impl Future<Output = Told> + Send + 'static {
        let subject = self.servers[planned.target % self.servers.len()].clone();
        let (context, asked, number) = (self.context.clone(), Arc::clone(&self.asked), planned.number);
        async move {
            let (answer, answered) = oneshot::channel();
            asked.lock().expect(UNPOISONED).insert(number, answer);
            let told = async {
                // The answer may come before the word that the question is stored.
                let stored = context.publish(subject, payload).await.map_err(|error| told_of(&error))?;
                stored.await.map_err(|error| told_of(&error))?;
                answered.await.map_err(|_| Told::Unknown)
            };
            let told = match timeout(REQUEST_TIMEOUT, told).await {
                Ok(Ok(())) => Told::Done,
                Ok(Err(told)) => told,
                Err(_) => Told::Unknown,
            };
            asked.lock().expect(UNPOISONED).remove(&number);
            told
        }
    }
}

/// What became of a message that was not acknowledged.
fn told_of(error: &PublishError) -> Told {
    let refused = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    let code = refused.and_then(|refused| u16::try_from(refused.error_code().0).ok());
    match (error.kind(), code) {
        (PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe, _) | (_, None) => Told::Unknown,
        (_, Some(code)) => Told::Refused(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_lane_that_its_answer_is_for() {
        let subjects = Subjects("bench-1".to_owned());
        assert_eq!(Subjects::lane_of(&subjects.request(3, 17)), Some(17));
        assert_eq!(Subjects::lane_of("nothing"), None);
    }
}
