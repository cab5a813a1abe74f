//! A node's side: one link to its control service, again and again, on a thread of its own.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use creto_envelope::AgentId;
use creto_envelope::prekeys::PrekeyStock;
use creto_link::{
    FrameHeader, FromControl, FromNode, Hello, Incoming, LinkError, RefusedLink, SnapshotRefused, Welcome,
};
use creto_policy::Policy;
use creto_rego::PolicySource as RegoSource;
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{BufReader, BufWriter, split};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::doors::{Asked, Unanswered};
use super::lease::{Lease, Moment};
use super::wire::{self, WireError};
use super::{
    ASK_EVERY, BACKOFF, HANDSHAKE_MAX, LIFETIME_MAX, LIFETIME_MIN, LinkClientOptions, SILENCE_MAX, ShardQuestions,
};
use crate::audit::AuditLogSource;
use crate::error::ServiceError;
use crate::health::{Health, LinkState};
use crate::http;
use crate::policy::RegoPolicy;
use crate::socket::SocketFile;

/// Where a node takes what its control service says. It is called from the link's thread, on which nobody may wait.
pub trait LinkSink: Send + 'static {
    /// The [`Lease`] has something that shards should look at soon.
    fn has_news(&self);

    /// The lease is alive, for the first time.
    fn is_ready(&self);

    /// An agent has few one-time prekeys left.
    fn is_low(&self, agent: AgentId, stock: PrekeyStock);
}

/// Frames that were read and not looked at.
const FRAMES_MAX: usize = 16;
/// Numbers that were asked and are not answered, and are remembered: more than are asked in the longest lifetime.
const ASKED_MAX: usize = 8_192;
/// Frames that were made and not written yet.
const UNSENT_MAX: usize = 64;
/// How long the other side has for its last word when nothing can be written any more.
const LAST_WORD: Duration = Duration::from_secs(1);

const _: () = assert!(ASK_EVERY.as_millis() * ASKED_MAX as u128 > LIFETIME_MAX.as_millis());
/// Nobody looks at it: control is known by its certificate.
const SERVER_NAME: &str = "control.creto.invalid";

/// A link that is not started yet.
pub struct NodeLink {
    options: LinkClientOptions,
    questions: ShardQuestions,
    health: Health,
    audit_log: Arc<dyn AuditLogSource>,
    lease: Lease,
}

impl std::fmt::Debug for NodeLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeLink").field("control", &self.options.control).finish_non_exhaustive()
    }
}

/// A running link. Dropping it ends it and waits for its thread.
#[derive(Debug)]
pub struct LinkHandle {
    socket_path: PathBuf,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<(), ServiceError>>>,
}

impl NodeLink {
    /// The link of a node whose shards ask through the other ends of `questions`, and which says through `health` how it is.
    #[must_use]
    pub fn new(
        options: LinkClientOptions,
        questions: ShardQuestions,
        health: Health,
        audit_log: Arc<dyn AuditLogSource>,
    ) -> Self {
        Self { options, questions, health, audit_log, lease: Lease::default() }
    }

    /// For how long shards may go by what they are given.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.lease.clone()
    }

    /// Starts the thread. It returns at once: nothing waits for control, and shards allow nothing before it has spoken.
    ///
    /// # Errors
    /// [`ServiceError`] when the node's socket cannot be had or the thread not be started.
    pub fn spawn(self, sink: impl LinkSink) -> Result<LinkHandle, ServiceError> {
        let Self { options, questions, health, audit_log, lease } = self;
        let (socket_file, listener) = SocketFile::bind(&options.socket_path)?;
        let socket_path = socket_file.path().to_owned();
        let (stop, stopped) = oneshot::channel();
        let state = LinkState::new(options.control.clone(), lease.clone());
        health.set_link(state.clone());
        let router = http::linked_router(health, audit_log, options.control.clone());
        let (told, sink) = (state.clone(), Box::new(sink));
        let link = Link { options, questions, lease, state, sink, held: None, was_ready: false, ask_every: ASK_EVERY };
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .max_blocking_threads(4)
                .thread_name("creto-link-read")
                .build()
                .map_err(ServiceError::Thread)?;
            runtime.block_on(async move {
                let listener = tokio::net::UnixListener::from_std(listener).map_err(ServiceError::Thread)?;
                let mut linked = tokio::spawn(link.run());
                let cut_off = tokio::select! {
                    cut_off = http::serve_local(listener, router, stopped, move || drop(socket_file)) => cut_off,
                    _ = &mut linked => {
                        // The snapshot lapses by itself.
                        told.set_down("the link has failed; its log says why, restart the node");
                        tracing::error!("the link has failed; restart the node");
                        return Err(ServiceError::Died);
                    }
                };
                linked.abort();
                let _cancelled = linked.await;
                if cut_off == 0 { Ok(()) } else { Err(ServiceError::CutOff(cut_off)) }
            })
        };
        let thread =
            std::thread::Builder::new().name("creto-link".to_owned()).spawn(run).map_err(ServiceError::Thread)?;
        Ok(LinkHandle { socket_path, stop: Some(stop), thread: Some(thread) })
    }
}

impl LinkHandle {
    /// Where the node's own API listens.
    #[must_use]
    pub fn socket_path(&self) -> &Path {
        &self.socket_path
    }

    /// Ends the link and the thread. What was not answered is answered with "shutting down".
    ///
    /// # Errors
    /// What ended it before, or [`ServiceError::CutOff`].
    pub fn shutdown(mut self) -> Result<(), ServiceError> {
        self.stop_and_join()
    }

    fn stop_and_join(&mut self) -> Result<(), ServiceError> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Err(ServiceError::Died)))
    }
}

impl Drop for LinkHandle {
    fn drop(&mut self) {
        if let Err(error) = self.stop_and_join() {
            tracing::error!(%error, "the link did not end well");
        }
    }
}

/// Why there is no link.
#[derive(Debug, Error)]
enum Down {
    #[error("control at {control} cannot be reached ({source}); start `creto control` there, or correct link.control")]
    Connect { control: String, source: io::Error },
    #[error(
        "who answers at {control} is not the control service of link.control_certificate; copy that one's certificate here again, or \
         look who took its address"
    )]
    OtherControl { control: String },
    #[error(
        "control does not admit this node, whose certificate has SHA-256 {fingerprint}; run `creto control admit` there with the node's \
         certificate"
    )]
    NotAdmitted { fingerprint: String },
    #[error("control refuses this node ({}): {}", .0.code, .0.reason)]
    Refused(RefusedLink),
    #[error(
        "control's directory is of the trust domain {control}, and this node is configured for {node}; set node.trust_domain"
    )]
    TrustDomain { control: String, node: String },
    #[error(
        "control says that a snapshot counts for {0} ms, which is no such time; run the same version of creto on both sides"
    )]
    Lifetime(u32),
    #[error("what control sends is refused: {0}")]
    Snapshot(#[from] SnapshotRefused),
    #[error(
        "control's directory is another one than this node holds: it was made anew or restored from a backup; if that is meant, restart \
         this node, else look what answers at the address of control"
    )]
    Incarnation,
    #[error("control does not keep to the order of the link; run the same version of creto on both sides")]
    Order,
    #[error("control said nothing for {} s", SILENCE_MAX.as_secs())]
    Silent,
    #[error("control at {control} has ended the link; start `creto control` there if it does not run any more")]
    Ended { control: String },
    #[error("nothing can be written to the link")]
    Unwritten,
    #[error("the link broke ({0})")]
    Wire(#[from] WireError),
}

impl Down {
    /// An error on a stream of TLS: what the other side said of our certificate is in there, too.
    fn of_tls(error: io::Error, options: &LinkClientOptions) -> Self {
        let control = options.control.clone();
        match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidCertificate(_)) => Self::OtherControl { control },
            Some(rustls::Error::AlertReceived(
                rustls::AlertDescription::UnknownCA
                | rustls::AlertDescription::BadCertificate
                | rustls::AlertDescription::CertificateUnknown
                | rustls::AlertDescription::AccessDenied
                | rustls::AlertDescription::CertificateRequired,
            )) => Self::NotAdmitted { fingerprint: options.fingerprint.clone() },
            _ => match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                    Self::Ended { control }
                }
                _ => Self::Wire(error.into()),
            },
        }
    }

    fn of_wire(error: WireError, options: &LinkClientOptions) -> Self {
        match error {
            WireError::Io(error) => Self::of_tls(error, options),
            other => Self::Wire(other),
        }
    }
}

struct Link {
    options: LinkClientOptions,
    questions: ShardQuestions,
    lease: Lease,
    state: LinkState,
    sink: Box<dyn LinkSink>,
    /// Of the snapshot that the shards have: the incarnation of its directory, and its epoch.
    held: Option<([u8; 16], u64)>,
    /// Whether the sink was told so.
    was_ready: bool,
    /// How often it is asked whether the snapshot still holds.
    ask_every: Duration,
}

type Frames = mpsc::Receiver<Result<(FrameHeader, Vec<u8>), WireError>>;

impl Link {
    /// Links, again and again. It ends when it is aborted, or nobody can ask any more and nobody listens.
    async fn run(mut self) {
        let mut wait = BACKOFF.0;
        loop {
            let control = self.options.control.clone();
            let connected = {
                let connecting = connect(&self.options);
                tokio::pin!(connecting);
                loop {
                    tokio::select! {
                        connected = &mut connecting => break connected,
                        Some(asked) = self.questions.next(true) => asked.put_off(),
                    }
                }
            };
            let down = match connected {
                Ok(stream) => {
                    let begun = Instant::now();
                    let down = self.serve(stream).await;
                    if begun.elapsed() > BACKOFF.1 {
                        wait = BACKOFF.0;
                    }
                    down
                }
                Err(down) => down,
            };
            let cause = down.to_string();
            if self.state.set_down(&cause) {
                tracing::warn!(control, "{cause}");
            }
            let until = Instant::now() + jittered(wait);
            wait = (wait * 2).min(BACKOFF.1);
            loop {
                tokio::select! {
                    () = sleep_until(until) => break,
                    Some(asked) = self.questions.next(true) => asked.put_off(),
                }
            }
        }
    }

    /// One link, until it ends.
    async fn serve(&mut self, stream: TlsStream<TcpStream>) -> Down {
        let (reader, writer) = split(stream);
        let (frames, mut arrived) = mpsc::channel(FRAMES_MAX);
        // By itself, so that a frame is never left in the middle.
        let reading = tokio::spawn(async move {
            let mut reader = BufReader::new(reader);
            loop {
                let mut body = Vec::new();
                let frame = wire::read(&mut reader, &mut body).await.map(|header| (header, body));
                let is_last = frame.is_err();
                if frames.send(frame).await.is_err() || is_last {
                    return;
                }
            }
        });
        // By itself, too: who waits until the other side takes something goes on to read what that one says.
        let (unsent, mut outgoing) = mpsc::channel::<Vec<u8>>(UNSENT_MAX);
        let writing = tokio::spawn(async move {
            let mut writer = BufWriter::new(writer);
            while let Some(frame) = outgoing.recv().await {
                wire::write(&mut writer, &frame).await?;
                while let Ok(frame) = outgoing.try_recv() {
                    wire::write(&mut writer, &frame).await?;
                }
                wire::flush(&mut writer).await?;
            }
            Ok::<_, WireError>(())
        });
        let mut waiting = Unanswered::default();
        let ended = self.talk(&unsent, &mut arrived, &mut waiting).await;
        drop(unsent);
        reading.abort();
        waiting.put_off();
        match ended {
            Ok(never) => match never {},
            Err(Down::Unwritten) => match writing.await {
                Ok(Err(error)) => Down::of_wire(error, &self.options),
                _ => Down::Ended { control: self.options.control.clone() },
            },
            Err(down) => {
                writing.abort();
                match down {
                    Down::Wire(error) => Down::of_wire(error, &self.options),
                    down => down,
                }
            }
        }
    }

    async fn talk(
        &mut self,
        unsent: &mpsc::Sender<Vec<u8>>,
        arrived: &mut Frames,
        waiting: &mut Unanswered,
    ) -> Result<std::convert::Infallible, Down> {
        let LinkClientOptions { trust_domain, retention_s, .. } = &self.options;
        let (trust_domain, retention_s) = (trust_domain.clone(), *retention_s);
        let hello = FromNode::Hello(Hello { trust_domain: trust_domain.clone(), retention_s });
        // So that the first snapshot counts as soon as it is there.
        let mut asked = VecDeque::from([(0_u64, Moment::now())]);
        for said in [hello, FromNode::Ask { number: 0 }] {
            unsent.try_send(said.to_frame()).expect("nothing was sent before");
        }
        let (lifetime, incarnation) = match next(arrived).await? {
            FromControl::Welcome(Welcome { trust_domain: control, .. }) if control != trust_domain => {
                let (control, node) = (control.as_str().to_owned(), trust_domain.as_str().to_owned());
                return Err(Down::TrustDomain { control, node });
            }
            FromControl::Welcome(Welcome { incarnation, .. })
                if self.held.is_some_and(|(held, _)| held != incarnation) =>
            {
                return Err(Down::Incarnation);
            }
            FromControl::Welcome(Welcome { lifetime_ms, incarnation, .. }) => {
                let lifetime = Duration::from_millis(lifetime_ms.into());
                if !(LIFETIME_MIN..=LIFETIME_MAX).contains(&lifetime) {
                    return Err(Down::Lifetime(lifetime_ms));
                }
                (lifetime, incarnation)
            }
            FromControl::Refused(why) => return Err(Down::Refused(why)),
            _ => return Err(Down::Order),
        };
        let mut incoming = Incoming::new(trust_domain, self.held.map_or(0, |(_, epoch)| epoch));
        // What the shards have is control's newest, and this link has said so.
        let mut is_current = false;
        let (mut question_id, mut number) = (0_u64, 0_u64);
        let mut asks = interval(self.ask_every);
        asks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut silent_at, mut is_over) = (Instant::now() + SILENCE_MAX, false);
        loop {
            tokio::select! {
                frame = arrived.recv() => {
                    if !is_over {
                        silent_at = Instant::now() + SILENCE_MAX;
                    }
                    match parsed(frame)? {
                        FromControl::SnapshotBegin(head) => incoming.begin(head, compile)?,
                        FromControl::Agents(agents) => incoming.agents(&agents)?,
                        FromControl::Gone(ids) => incoming.gone(&ids)?,
                        FromControl::Channels(channels) => incoming.channels(&channels)?,
                        FromControl::ChannelsGone(ids) => incoming.channels_gone(&ids)?,
                        FromControl::SnapshotEnd { agents, channels } => {
                            let snapshot = Arc::new(incoming.end(agents, channels)?);
                            self.held = Some((incarnation, snapshot.epoch()));
                            self.state.set_epoch(snapshot.epoch());
                            self.lease.publish(snapshot);
                            self.sink.has_news();
                            is_current = true;
                        }
                        FromControl::Renewed { number: renewed } if is_current && renewed <= number => {
                            self.renew(&mut asked, renewed, lifetime);
                        }
                        FromControl::Answer { id, answer } => {
                            let waits = waiting.remove(id).ok_or(Down::Order)?;
                            waits.answer(answer).map_err(|_| Down::Order)?;
                        }
                        FromControl::PrekeysLow { agent, stock } => self.sink.is_low(agent, stock),
                        FromControl::Refused(why) => return Err(Down::Refused(why)),
                        FromControl::Renewed { .. } | FromControl::Welcome(_) => return Err(Down::Order),
                    }
                }
                Some((room, question)) = next_question(&mut self.questions, waiting.has_room_for_large(), unsent),
                    if waiting.has_room() && !is_over =>
                {
                    question_id += 1;
                    room.send(frame_of(question, question_id, waiting));
                }
                // It goes on while a snapshot is on its way, however long that takes: control hears that this node is there.
                _ = asks.tick() => {
                    let at = Moment::now();
                    // Without room there is no hurry: what was asked before is not even on its way.
                    if unsent.try_send(FromNode::Ask { number: number + 1 }.to_frame()).is_ok() {
                        number += 1;
                        asked.push_back((number, at));
                        if asked.len() > ASKED_MAX {
                            asked.pop_front();
                        }
                    }
                }
                // Control may have said why before it ended the link.
                () = unsent.closed(), if !is_over => (silent_at, is_over) = (Instant::now() + LAST_WORD, true),
                () = sleep_until(silent_at) => return Err(if is_over { Down::Unwritten } else { Down::Silent }),
            }
        }
    }

    /// Control had, when it was asked this, nothing that did not come before: the snapshot counts from that moment.
    fn renew(&mut self, asked: &mut VecDeque<(u64, Moment)>, number: u64, lifetime: Duration) {
        // One that is not remembered was asked too long ago to count for anything.
        let answered = asked.iter().take_while(|(known, _)| *known <= number).count();
        let Some((_, at)) = asked.drain(..answered).next_back() else { return };
        let was_alive = self.lease.left().is_some();
        if !self.lease.confirm(at.plus(lifetime)) {
            let cause = "what control confirms was over before it arrived: the link is slower than link.snapshot_lifetime; raise it at \
                         control";
            if self.state.set_down(cause) {
                tracing::warn!("{cause}");
            }
            return;
        }
        if self.state.set_up(at) {
            let epoch = self.held.map(|(_, epoch)| epoch);
            tracing::info!(control = self.options.control, epoch, "control is linked");
        }
        if !was_alive {
            self.sink.has_news();
        }
        if !self.was_ready {
            self.was_ready = true;
            self.sink.is_ready();
        }
    }
}

/// The next question, when there is room for its frame.
async fn next_question<'u>(
    questions: &mut ShardQuestions,
    takes_large: bool,
    unsent: &'u mpsc::Sender<Vec<u8>>,
) -> Option<(mpsc::Permit<'u, Vec<u8>>, Asked)> {
    let room = unsent.reserve().await.ok()?;
    Some((room, questions.next(takes_large).await?))
}

fn frame_of(asked: Asked, id: u64, waiting: &mut Unanswered) -> Vec<u8> {
    let (question, waits) = asked.split();
    waiting.insert(id, waits);
    FromNode::Question { id, question }.to_frame()
}

async fn next(arrived: &mut Frames) -> Result<FromControl, Down> {
    parsed(timeout(HANDSHAKE_MAX, arrived.recv()).await.map_err(|_| Down::Silent)?)
}

fn parsed(frame: Option<Result<(FrameHeader, Vec<u8>), WireError>>) -> Result<FromControl, Down> {
    let ended = || WireError::Io(io::ErrorKind::UnexpectedEof.into());
    let (header, body) = frame.ok_or_else(ended)??;
    FromControl::parse(header, &body).map_err(|error: LinkError| Down::Wire(error.into()))
}

async fn connect(options: &LinkClientOptions) -> Result<TlsStream<TcpStream>, Down> {
    let failed = |source| Down::Connect { control: options.control.clone(), source };
    let late = || io::Error::from(io::ErrorKind::TimedOut);
    let stream = timeout(HANDSHAKE_MAX, TcpStream::connect(&options.control)).await;
    let stream = stream.map_err(|_| failed(late()))?.map_err(failed)?;
    // Without it a question waits for the acknowledgement of the one before.
    let _slower = stream.set_nodelay(true);
    let name = ServerName::try_from(SERVER_NAME).expect("it is a name");
    let handshake = TlsConnector::from(Arc::clone(&options.tls)).connect(name, stream);
    let stream = timeout(HANDSHAKE_MAX, handshake).await.map_err(|_| failed(late()))?;
    stream.map_err(|error| Down::of_tls(error, options))
}

/// A policy of control, as this node's own compiler reads it.
fn compile(name: &str, text: &str, sha256: &[u8; 32]) -> Result<Policy, String> {
    let compiled = RegoSource::parse(name, text).map_err(|error| error.to_string())?;
    let policy = RegoPolicy::new(compiled, text);
    match creto_policy::PolicySource::digest(&policy) == sha256 {
        true => Ok(Policy::Loaded(Arc::new(policy))),
        false => Err("its text is not the one that control has".to_owned()),
    }
}

/// Half of `wait` to all of it: nodes that lost control together do not come back together.
fn jittered(wait: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness all wait as long: no harm is done but that.
    let _even = getrandom::fill(&mut random);
    let half = wait / 2;
    half + half.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests;
