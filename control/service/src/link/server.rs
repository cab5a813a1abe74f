//! Control's side: takes links of nodes that it admits, tells each what it publishes, and answers what they ask.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use creto_audit::event::{Digest, Peer};
use creto_audit::{Label, What};
use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentId;
use creto_envelope::prekeys::PrekeyStock;
use creto_link::limits::{LARGE_QUESTIONS_MAX, QUESTIONS_MAX};
use creto_link::snapshot::frames_between;
use creto_link::{FromControl, FromNode, Hello, PolicyPart, RefusedLink, SnapshotHead, Welcome};
use creto_policy::Snapshot;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, BufWriter, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;

use super::questions::{Permits, WayBack, ask};
use super::wire::{self, WireError};
use super::{ADMITTED_POLL, HANDSHAKE_MAX, HANDSHAKES_MAX, LinkServerOptions, NOTICES_MAX, SILENCE_MAX, ServiceDoors};
use crate::error::ServiceError;
use crate::health::Health;
use crate::prekeys::StockSink;
use crate::service::SnapshotSink;
use crate::telling::Teller;

/// What nodes may have asked and not been answered: no node of ours asks for so much, so none is ever made to wait for room.
const PERMITS: usize = QUESTIONS_MAX + 64;
/// The same of those with large answers.
const LARGE_PERMITS: usize = LARGE_QUESTIONS_MAX + 8;

/// Takes links when the service runs: give it to [`Service::with_links`](crate::Service::with_links).
pub struct LinkServer {
    options: LinkServerOptions,
    doors: ServiceDoors,
    listener: std::net::TcpListener,
    address: SocketAddr,
    feed: LinkFeed,
}

impl std::fmt::Debug for LinkServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkServer").field("address", &self.address).finish_non_exhaustive()
    }
}

/// What all links are told: a sink for the service's snapshots and its notices about prekeys. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct LinkFeed {
    newest: watch::Sender<Arc<Snapshot>>,
    low: broadcast::Sender<(AgentId, PrekeyStock)>,
}

impl SnapshotSink for LinkFeed {
    fn publish(&self, snapshot: Arc<Snapshot>) {
        self.newest.send_replace(snapshot);
    }
}

impl StockSink for LinkFeed {
    fn is_low(&self, agent: AgentId, stock: PrekeyStock) {
        // Without a link there is nobody to tell: the owner asks when it connects.
        let _ = self.low.send((agent, stock));
    }
}

impl LinkServer {
    /// Listens. Nobody is served before the service runs.
    ///
    /// # Errors
    /// [`ServiceError::LinkListen`].
    pub fn bind(options: LinkServerOptions, doors: ServiceDoors) -> Result<Self, ServiceError> {
        let listen = options.listen;
        let bound = || {
            let listener = std::net::TcpListener::bind(listen)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            io::Result::Ok((listener, address))
        };
        let (listener, address) = bound().map_err(|source| ServiceError::LinkListen { address: listen, source })?;
        let (newest, _) = watch::channel(Arc::new(Snapshot::empty()));
        let (low, _) = broadcast::channel(NOTICES_MAX);
        Ok(Self { options, doors, listener, address, feed: LinkFeed { newest, low } })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The sink for what the links are to be told.
    #[must_use]
    pub fn feed(&self) -> LinkFeed {
        self.feed.clone()
    }

    /// Serves until it is aborted.
    pub(crate) async fn serve(
        self,
        key_grace_ms: u64,
        trust_domain: creto_envelope::TrustDomain,
        health: Health,
        teller: Teller,
    ) {
        let Self { options, doors, listener, address: _, feed } = self;
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "links cannot be taken; restart the control service");
                return;
            }
        };
        let tls = TlsAcceptor::from(Arc::clone(&options.tls));
        let links = Arc::new(Links {
            options,
            doors,
            feed,
            health,
            teller,
            trust_domain,
            key_grace_ms,
            live: Mutex::default(),
        });
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(Arc::clone(&links).watch_admitted());
        let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("it is never closed");
            while tasks.try_join_next().is_some() {}
            match listener.accept().await {
                Ok((stream, peer)) => {
                    tasks.spawn(Arc::clone(&links).take(tls.clone(), stream, peer, permit));
                }
                Err(error) => {
                    tracing::warn!(%error, "a link was not accepted");
                    tokio::time::sleep(ADMITTED_POLL).await;
                }
            }
        }
    }
}

/// What the links of one service share.
struct Links {
    options: LinkServerOptions,
    doors: ServiceDoors,
    feed: LinkFeed,
    health: Health,
    teller: Teller,
    trust_domain: creto_envelope::TrustDomain,
    key_grace_ms: u64,
    /// By certificate: a node has one link.
    live: Mutex<BTreeMap<Vec<u8>, Live>>,
}

/// A link that is served.
#[derive(Clone)]
struct Live {
    /// Ends it.
    cut: Arc<Notify>,
}

/// What is on its way to a node, besides snapshots.
pub(super) enum Out {
    Renewed { number: u64, _permit: OwnedSemaphorePermit },
    Answer { id: u64, answer: Box<creto_link::Answer>, _permits: Arc<Permits> },
}

/// Why a node is not served, or not any more.
enum End {
    /// It is told, and so is the audit log.
    Refused(RefusedLink),
    /// The other side, or the network.
    Lost(WireError),
}

impl From<WireError> for End {
    fn from(error: WireError) -> Self {
        Self::Lost(error)
    }
}

fn refused(code: &str, reason: String) -> End {
    End::Refused(RefusedLink { code: code.to_owned(), reason })
}

impl Links {
    fn live(&self) -> MutexGuard<'_, BTreeMap<Vec<u8>, Live>> {
        // What it guards is whole at every moment.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads again which nodes are admitted, and ends the links of those that are not.
    async fn watch_admitted(self: Arc<Self>) {
        let mut ticks = interval(ADMITTED_POLL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            ticks.tick().await;
            let admitted = self.options.admitted.clone();
            let refreshed = tokio::task::spawn_blocking(move || admitted.refresh()).await;
            let problem = match refreshed {
                Ok(refreshed) => refreshed.err().map(|error| error.to_string()),
                Err(_) => return,
            };
            if let Some(problem) = problem.as_ref().filter(|problem| told.as_ref() != Some(*problem)) {
                tracing::error!("{problem}");
            }
            told = problem;
            for (certificate, live) in self.live().iter() {
                if self.options.admitted.name(certificate).is_none() {
                    live.cut.notify_one();
                }
            }
        }
    }

    /// Takes one connection until it ends.
    async fn take(
        self: Arc<Self>,
        tls: TlsAcceptor,
        stream: TcpStream,
        address: SocketAddr,
        handshake: OwnedSemaphorePermit,
    ) {
        let peer = Peer::from(address.ip());
        // Without it small answers wait for others.
        let _slower = stream.set_nodelay(true);
        let stream = match timeout(HANDSHAKE_MAX, tls.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let is_strangers = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
                tracing::debug!(peer = %address.ip(), %error, "a link was refused");
                if is_strangers {
                    tracing::info!(peer = %address.ip(), "somebody who is not admitted wanted a link");
                    let what = What::NodeLinkRefused { node: Digest([0; 32]), peer };
                    self.teller.refused(what, Label::of("not_admitted"));
                }
                return;
            }
            Err(_) => return,
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let Some(certificate) = certificate.map(|certificate| certificate.to_vec()) else { return };
        let node = Digest(sha256(&[&certificate]));
        let (reader, writer) = split(stream);
        let (mut reader, mut writer) = (BufReader::new(reader), BufWriter::new(writer));
        let cut = Arc::new(Notify::new());
        let greeted = self.greet(&certificate, &mut reader).await;
        // Later a frame may be under way, and another one in the middle of it would be read as a part of it.
        let may_say_why = greeted.is_err();
        let ended = match greeted {
            Ok(name) => {
                drop(handshake);
                // One link of a node: the one before it has ended, and control has not noticed yet.
                let before = self.live().insert(certificate.clone(), Live { cut: Arc::clone(&cut) });
                before.into_iter().for_each(|before| before.cut.notify_one());
                tracing::info!(node = name, peer = %address.ip(), "a node has a link");
                self.teller.tell(What::NodeLinked { node, peer }, Label::of(&name)).await;
                let ended = self.serve(&mut reader, &mut writer, &cut, &certificate).await;
                if let Err(End::Lost(error)) = &ended {
                    tracing::info!(node = name, %error, "the link of a node has ended");
                }
                ended
            }
            Err(ended) => Err(ended),
        };
        self.forget(&certificate, &cut);
        if let Err(End::Refused(why)) = ended {
            tracing::warn!(node = %super::fingerprint(&certificate), code = why.code, "{}", why.reason);
            self.teller.refused(What::NodeLinkRefused { node, peer }, Label::of(&why.code));
            let said = FromControl::Refused(why).to_frame();
            // It may be gone.
            if may_say_why && wire::write(&mut writer, &said).await.is_ok() {
                let _ = wire::flush(&mut writer).await;
            }
        }
    }

    /// Why this service cannot say any more what the directory is, if it cannot.
    fn lost(&self) -> Option<String> {
        Some(self.health.readiness().directory).filter(|cause| !cause.is_empty())
    }

    fn forget(&self, certificate: &[u8], cut: &Arc<Notify>) {
        let mut live = self.live();
        if live.get(certificate).is_some_and(|live| Arc::ptr_eq(&live.cut, cut)) {
            live.remove(certificate);
        }
    }

    /// Hears who it is. Returns what it is called.
    async fn greet(&self, certificate: &[u8], reader: &mut (impl AsyncRead + Unpin)) -> Result<String, End> {
        let not_admitted = || refused("not_admitted", NOT_ADMITTED.to_owned());
        let name = self.options.admitted.name(certificate).ok_or_else(not_admitted)?;
        if let Some(cause) = self.lost() {
            return Err(refused("directory", cause));
        }
        let mut body = Vec::new();
        let read = timeout(HANDSHAKE_MAX, wire::read(reader, &mut body)).await;
        let header = read.map_err(|_| End::Lost(WireError::Stuck))??;
        let said = FromNode::parse(header, &body).map_err(WireError::from)?;
        let FromNode::Hello(Hello { trust_domain, retention_s }) = said else {
            return Err(refused(
                "hello",
                "the first frame is no Hello; run the same version of creto on both sides".to_owned(),
            ));
        };
        if trust_domain != self.trust_domain {
            let reason = format!(
                "control's directory is of the trust domain {}, and the node is configured for {}; set node.trust_domain",
                self.trust_domain.as_str(),
                trust_domain.as_str()
            );
            return Err(refused("trust_domain", reason));
        }
        if retention_s != self.options.retention_s {
            let reason = format!(
                "mailboxes keep messages for {} s at control and for {retention_s} s at the node; set mailbox.retention alike, or keys \
                 of sessions could be gone before the messages that need them",
                self.options.retention_s
            );
            return Err(refused("retention", reason));
        }
        Ok(name)
    }

    /// Serves one node until its link ends.
    async fn serve(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        cut: &Notify,
        certificate: &[u8],
    ) -> Result<(), End> {
        let (out, outgoing) = unbounded_channel();
        let reading = self.read(reader, out);
        let writing = self.write(writer, outgoing);
        tokio::select! {
            ended = reading => Err(End::Lost(ended)),
            ended = writing => Err(End::Lost(ended)),
            () = cut.notified() => match self.options.admitted.name(certificate) {
                None => Err(refused("not_admitted", NOT_ADMITTED.to_owned())),
                // The node has another link.
                Some(_) => Err(End::Lost(WireError::Io(io::Error::other("the node came again")))),
            },
        }
    }

    /// Takes what a node asks. What is not answered is bounded by permits: without one nothing more is read.
    async fn read(&self, reader: &mut (impl AsyncRead + Unpin), out: UnboundedSender<Out>) -> WireError {
        let (permits, large) = (Arc::new(Semaphore::new(PERMITS)), Arc::new(Semaphore::new(LARGE_PERMITS)));
        let mut body = Vec::new();
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("it is never closed");
            let header = match timeout(SILENCE_MAX, wire::read(reader, &mut body)).await {
                Ok(Ok(header)) => header,
                Ok(Err(error)) => return error,
                Err(_) => return WireError::Io(io::Error::new(io::ErrorKind::TimedOut, "the node is silent")),
            };
            match FromNode::parse(header, &body) {
                // Without a directory that is known to be the one that there is, nothing is confirmed.
                Ok(FromNode::Ask { .. }) if self.lost().is_some() => {
                    return WireError::Io(io::Error::other("the directory may not be the newest any more"));
                }
                Ok(FromNode::Ask { number }) => {
                    let _ended = out.send(Out::Renewed { number, _permit: permit });
                }
                Ok(FromNode::Question { id, question }) => {
                    let large = match question.is_large() {
                        true => Some(Arc::clone(&large).acquire_owned().await.expect("it is never closed")),
                        false => None,
                    };
                    let back = WayBack { id, out: out.clone(), permits: Arc::new((permit, large)) };
                    ask(&self.doors, question, &back);
                }
                Ok(FromNode::Hello(_)) => return creto_link::LinkError::Value.into(),
                Err(error) => return error.into(),
            }
        }
    }

    /// Tells a node everything, in order: no answer before the snapshot that was published before it.
    async fn write(&self, writer: &mut (impl AsyncWrite + Unpin), outgoing: UnboundedReceiver<Out>) -> WireError {
        match self.tell(writer, outgoing).await {
            Ok(()) => WireError::Io(io::Error::other("the service has ended")),
            Err(error) => error,
        }
    }

    async fn tell(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        mut outgoing: UnboundedReceiver<Out>,
    ) -> Result<(), WireError> {
        let lifetime_ms = u32::try_from(self.options.lifetime.as_millis()).unwrap_or(u32::MAX);
        let welcome = Welcome { trust_domain: self.trust_domain.clone(), lifetime_ms };
        wire::write(writer, &FromControl::Welcome(welcome).to_frame()).await?;
        let (mut newest, mut low) = (self.feed.newest.subscribe(), self.feed.low.subscribe());
        let mut told = Told { snapshot: Arc::new(Snapshot::empty()), policy: PolicyPart::AsBefore };
        loop {
            self.catch_up(writer, &mut newest, &mut told).await?;
            wire::flush(writer).await?;
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return Ok(()) },
                said = outgoing.recv() => {
                    let Some(said) = said else { return Ok(()) };
                    let mut next = Some(said);
                    while let Some(said) = next {
                        // Before each: what it says may be of this very moment.
                        self.catch_up(writer, &mut newest, &mut told).await?;
                        let frame = match said {
                            Out::Renewed { number, _permit } => FromControl::Renewed { number }.to_frame(),
                            Out::Answer { id, answer, _permits } => FromControl::Answer { id, answer: *answer }.to_frame(),
                        };
                        wire::write(writer, &frame).await?;
                        next = outgoing.try_recv().ok();
                    }
                }
                notice = low.recv() => match notice {
                    Ok((agent, stock)) => {
                        wire::write(writer, &FromControl::PrekeysLow { agent, stock }.to_frame()).await?;
                    }
                    // It is one among many; the owner asks, too.
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
            }
        }
    }

    /// Tells what was published since this node was told something.
    async fn catch_up(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        newest: &mut watch::Receiver<Arc<Snapshot>>,
        told: &mut Told,
    ) -> Result<(), WireError> {
        loop {
            let now = Arc::clone(&newest.borrow_and_update());
            // Nothing is there before the service publishes its first.
            if Arc::ptr_eq(&now, &told.snapshot) || now.epoch() == 0 {
                return Ok(());
            }
            let policy = PolicyPart::of(&now);
            let head = SnapshotHead {
                epoch: now.epoch(),
                is_whole: told.snapshot.epoch() == 0,
                key_grace_ms: self.key_grace_ms,
                policy: if policy == told.policy { PolicyPart::AsBefore } else { policy.clone() },
            };
            wire::write(writer, &FromControl::SnapshotBegin(head).to_frame()).await?;
            for frame in frames_between(&told.snapshot, &now) {
                wire::write(writer, &frame.to_frame()).await?;
            }
            let (agents, channels) = (now.agent_count() as u64, now.channel_count() as u64);
            let end = FromControl::SnapshotEnd { agents, channels };
            wire::write(writer, &end.to_frame()).await?;
            *told = Told { snapshot: now, policy };
        }
    }
}

/// What a node was told last.
struct Told {
    snapshot: Arc<Snapshot>,
    policy: PolicyPart,
}

const NOT_ADMITTED: &str =
    "control does not admit this node; run `creto control admit` there with the node's certificate";
