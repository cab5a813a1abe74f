//! Control's side: takes links of nodes that it admits, tells each what it publishes, and answers what they ask.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use creto_audit::event::{Digest, Peer};
use creto_audit::{Label, What};
use creto_crypto_accel::digest::sha256;
use creto_envelope::AgentId;
use creto_envelope::prekeys::PrekeyStock;
use creto_link::limits::QUESTIONS_MAX;
use creto_link::snapshot::frames_between;
use creto_link::{FromControl, FromNode, Hello, PolicyPart, RefusedLink, SnapshotHead, Welcome};
use creto_policy::Snapshot;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, BufWriter, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, broadcast, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::TlsAcceptor;

use super::ownership::Ownership;
use super::questions::{Permits, WayBack, ask};
use super::wire::{self, WireError};
use super::{
    ADMITTED_POLL, ANSWER_BYTES_MAX, FIRST_BYTE_MAX, HANDSHAKE_MAX, HANDSHAKES_MAX, HANDSHAKES_OF_ONE_MAX,
    LINKED_TOLD_EVERY, LinkServerOptions, NOTICES_MAX, SILENCE_MAX, ServiceDoors,
};
use crate::error::ServiceError;
use crate::health::Health;
use crate::prekeys::StockSink;
use crate::service::SnapshotSink;
use crate::storage::Storage;
use crate::telling::Teller;

/// What nodes may have asked and not been answered: no node of ours asks for so much, so none is ever made to wait for room.
const PERMITS: usize = QUESTIONS_MAX + 64;
/// Bytes of one permit for those of answers.
const KIB: usize = 1_024;

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

    /// Serves until it is aborted. When it returns it has failed.
    pub(crate) async fn serve(
        self,
        key_grace_ms: u64,
        trust_domain: creto_envelope::TrustDomain,
        incarnation: [u8; 16],
        storage: Arc<Storage>,
        health: Health,
        teller: Teller,
    ) {
        let Self { options, doors, listener, address: _, feed } = self;
        let listener = match TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "links cannot be taken");
                return;
            }
        };
        let ownership = Ownership::new();
        let (owned, owner) = (ownership.clone(), health.clone());
        let look = move || storage.verify();
        let tls = TlsAcceptor::from(Arc::clone(&options.tls));
        let links = Arc::new(Links {
            options,
            doors,
            feed,
            health,
            teller,
            trust_domain,
            key_grace_ms,
            incarnation,
            ownership,
            live: Mutex::default(),
            shaking: Arc::default(),
            told: LinkedTold::default(),
        });
        // None of them ends by itself. Without one of them a node would be served that is not admitted, or none at all.
        tokio::select! {
            () = Arc::clone(&links).watch_admitted() => {}
            () = owned.watch(owner, look) => {}
            () = links.accept(listener, tls) => {}
        }
        tracing::error!("links are not served any more");
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
    /// Of the directory.
    incarnation: [u8; 16],
    ownership: Ownership,
    /// By certificate: a node has one link.
    live: Mutex<BTreeMap<Vec<u8>, Live>>,
    /// Handshakes that are under way, by where they come from.
    shaking: Arc<Shaking>,
    told: LinkedTold,
}

/// When the audit log was told last of a link of each node, by certificate.
#[derive(Debug, Default)]
struct LinkedTold(Mutex<BTreeMap<Vec<u8>, Instant>>);

impl LinkedTold {
    /// Whether it is to be told that this node has a link: not of each, when one comes after the other. Those that are not admitted
    /// any more are not remembered.
    fn is_due(&self, certificate: &[u8], now: Instant, is_admitted: impl Fn(&[u8]) -> bool) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|known, _| is_admitted(known));
        match told.get(certificate) {
            Some(at) if now.duration_since(*at) < LINKED_TOLD_EVERY => false,
            _ => {
                told.insert(certificate.to_vec(), now);
                true
            }
        }
    }
}

/// Room for what one node has asked and was not answered. Without it nothing more is read of that node.
struct AnswerRoom {
    questions: Arc<Semaphore>,
    kib: Arc<Semaphore>,
}

impl AnswerRoom {
    fn new() -> Self {
        Self { questions: Arc::new(Semaphore::new(PERMITS)), kib: Arc::new(Semaphore::new(ANSWER_BYTES_MAX / KIB)) }
    }

    /// Waits for room for one more question.
    async fn question(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.questions).acquire_owned().await.expect("it is never closed")
    }

    /// Waits for room for an answer of at most so many bytes.
    async fn answer(&self, bytes_max: usize) -> OwnedSemaphorePermit {
        let kib = u32::try_from(bytes_max.div_ceil(KIB)).expect("a frame is below 1 MiB");
        Arc::clone(&self.kib).acquire_many_owned(kib).await.expect("it is never closed")
    }
}

/// Whether whoever has connected says something within that time. By looking at it: that a stream may be readable says nothing.
async fn speaks(stream: &TcpStream, within: Duration) -> bool {
    matches!(timeout(within, stream.peek(&mut [0; 1])).await, Ok(Ok(1..)))
}

/// How many handshakes are under way, by where they come from.
#[derive(Debug, Default)]
struct Shaking(Mutex<BTreeMap<IpAddr, usize>>);

/// One of them.
struct Handshake {
    of: Arc<Shaking>,
    from: IpAddr,
    _permit: OwnedSemaphorePermit,
}

impl Shaking {
    fn by_place(&self) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
        // What it guards is whole at every moment.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more, unless this place has as many as it may.
    fn begin(self: &Arc<Self>, from: IpAddr, permit: OwnedSemaphorePermit) -> Option<Handshake> {
        let from = place(from);
        let mut by_place = self.by_place();
        let count = by_place.entry(from).or_default();
        if *count == HANDSHAKES_OF_ONE_MAX {
            return None;
        }
        *count += 1;
        Some(Handshake { of: Arc::clone(self), from, _permit: permit })
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut by_place = self.of.by_place();
        if let Some(count) = by_place.get_mut(&self.from) {
            *count -= 1;
            if *count == 0 {
                by_place.remove(&self.from);
            }
        }
    }
}

/// An address, or the network of 64 bits of one that has a whole network to itself.
fn place(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// A link that is served.
#[derive(Clone)]
struct Live {
    /// Ends it.
    cut: Arc<Notify>,
    /// What the node is called.
    name: String,
}

/// An answer on its way to a node.
pub(super) struct Out {
    pub(super) id: u64,
    pub(super) answer: Box<creto_link::Answer>,
    pub(super) _permits: Arc<Permits>,
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

    /// Takes connections.
    async fn accept(self: Arc<Self>, listener: TcpListener, tls: TlsAcceptor) {
        let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            let permit = Arc::clone(&permits).acquire_owned().await.expect("it is never closed");
            while let Some(ended) = tasks.try_join_next() {
                if let Err(error) = ended {
                    tracing::error!(%error, "the link of a node has failed");
                }
            }
            match listener.accept().await {
                Ok((stream, peer)) => match self.shaking.begin(peer.ip(), permit) {
                    Some(handshake) => {
                        tasks.spawn(Arc::clone(&self).take(tls.clone(), stream, peer, handshake));
                    }
                    None => tracing::debug!(peer = %peer.ip(), "too many handshakes from there"),
                },
                Err(error) => {
                    tracing::warn!(%error, "a link was not accepted");
                    tokio::time::sleep(ADMITTED_POLL).await;
                }
            }
        }
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
    async fn take(self: Arc<Self>, tls: TlsAcceptor, stream: TcpStream, address: SocketAddr, handshake: Handshake) {
        let peer = Peer::from(address.ip());
        // Without it small answers wait for others.
        let _slower = stream.set_nodelay(true);
        // Whoever connects speaks first, and at once.
        if !speaks(&stream, FIRST_BYTE_MAX).await {
            return;
        }
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
                let live = Live { cut: Arc::clone(&cut), name: name.clone() };
                let before = self.live().insert(certificate.clone(), live);
                before.into_iter().for_each(|before| before.cut.notify_one());
                self.health.set_linked(&name, true);
                tracing::info!(node = name, peer = %address.ip(), "a node has a link");
                let is_admitted = |certificate: &[u8]| self.options.admitted.name(certificate).is_some();
                if self.told.is_due(&certificate, Instant::now(), is_admitted) {
                    self.teller.tell(What::NodeLinked { node, peer }, Label::of(&name)).await;
                }
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

    /// Why it cannot say so for now, or for ever.
    fn in_doubt(&self) -> Option<String> {
        let passing = || self.health.is_directory_in_doubt().then(|| IN_DOUBT.to_owned());
        self.lost().or_else(passing)
    }

    fn forget(&self, certificate: &[u8], cut: &Arc<Notify>) {
        let mut live = self.live();
        if live.get(certificate).is_some_and(|live| Arc::ptr_eq(&live.cut, cut)) {
            let gone = live.remove(certificate);
            gone.into_iter().for_each(|gone| self.health.set_linked(&gone.name, false));
        }
    }

    /// Hears who it is. Returns what it is called.
    async fn greet(&self, certificate: &[u8], reader: &mut (impl AsyncRead + Unpin)) -> Result<String, End> {
        let not_admitted = || refused("not_admitted", NOT_ADMITTED.to_owned());
        let name = self.options.admitted.name(certificate).ok_or_else(not_admitted)?;
        if let Some(cause) = self.in_doubt() {
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
        let ((asked, to_confirm), (confirmed, renewed)) = (watch::channel(None), watch::channel(None));
        let reading = self.read(reader, out, asked);
        let writing = self.write(writer, outgoing, renewed);
        tokio::select! {
            () = self.confirm(to_confirm, confirmed) => Err(End::Lost(WireError::Io(io::ErrorKind::UnexpectedEof.into()))),
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
    async fn read(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        out: UnboundedSender<Out>,
        asked: watch::Sender<Option<u64>>,
    ) -> WireError {
        let room = AnswerRoom::new();
        let mut body = Vec::new();
        loop {
            let permit = room.question().await;
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
                // The newest one is answered for all.
                Ok(FromNode::Ask { number }) => drop(asked.send_replace(Some(number))),
                Ok(FromNode::Question { id, question }) => {
                    let bytes = room.answer(question.answer_bytes_max()).await;
                    let back = WayBack { id, out: out.clone(), permits: Arc::new((permit, bytes)) };
                    ask(&self.doors, question, &back);
                }
                Ok(FromNode::Hello(_)) => return creto_link::LinkError::Value.into(),
                Err(error) => return error.into(),
            }
        }
    }

    /// Confirms what was asked when a look that began after that has found that there is no other directory than this one.
    async fn confirm(&self, mut asked: watch::Receiver<Option<u64>>, confirmed: watch::Sender<Option<u64>>) {
        while asked.changed().await.is_ok() {
            let number = *asked.borrow_and_update();
            self.ownership.seen_from_now().await;
            // Asked again in a moment.
            if self.in_doubt().is_none() {
                confirmed.send_replace(number);
            }
        }
    }

    /// Tells a node everything, in order: no answer before the snapshot that was published before it.
    async fn write(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        outgoing: UnboundedReceiver<Out>,
        renewed: watch::Receiver<Option<u64>>,
    ) -> WireError {
        match self.tell(writer, outgoing, renewed).await {
            Ok(()) => WireError::Io(io::Error::other("the service has ended")),
            Err(error) => error,
        }
    }

    async fn tell(
        &self,
        writer: &mut (impl AsyncWrite + Unpin),
        mut outgoing: UnboundedReceiver<Out>,
        mut renewed: watch::Receiver<Option<u64>>,
    ) -> Result<(), WireError> {
        let lifetime_ms = u32::try_from(self.options.lifetime.as_millis()).unwrap_or(u32::MAX);
        let (trust_domain, incarnation) = (self.trust_domain.clone(), self.incarnation);
        let welcome = Welcome { trust_domain, lifetime_ms, incarnation };
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
                        let Out { id, answer, _permits } = said;
                        wire::write(writer, &FromControl::Answer { id, answer: *answer }.to_frame()).await?;
                        next = outgoing.try_recv().ok();
                    }
                }
                changed = renewed.changed() => {
                    let (Ok(()), Some(number)) = (changed, *renewed.borrow_and_update()) else { return Ok(()) };
                    // Everything that was published before it was asked, and what came since.
                    self.catch_up(writer, &mut newest, &mut told).await?;
                    wire::write(writer, &FromControl::Renewed { number }.to_frame()).await?;
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

const IN_DOUBT: &str =
    "it is not known what the database of the directory has: it cannot be reached; its log says more";
const NOT_ADMITTED: &str =
    "control does not admit this node; run `creto control admit` there with the node's certificate";

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn the_audit_log_is_told_of_a_node_that_comes_again_and_again_once_in_a_while() {
        let (told, begin) = (LinkedTold::default(), Instant::now());
        let all = |_: &[u8]| true;
        assert!(told.is_due(b"a", begin, all));
        assert!(told.is_due(b"b", begin, all), "each node for itself");
        let almost = LINKED_TOLD_EVERY - Duration::from_millis(1);
        // Whoever comes all the time is told again when the time is over, not put off for ever.
        for tenth in 0..10 {
            assert!(!told.is_due(b"a", begin + LINKED_TOLD_EVERY * tenth / 10, all), "{tenth} tenths of it");
        }
        assert!(!told.is_due(b"a", begin + almost, all));
        assert!(told.is_due(b"a", begin + LINKED_TOLD_EVERY, all));
        assert!(!told.is_due(b"a", begin + LINKED_TOLD_EVERY + almost, all), "counted from when it was told");
        // Who is not admitted any more is forgotten, and takes no room.
        assert!(told.is_due(b"c", begin + LINKED_TOLD_EVERY, |certificate| certificate == b"c"));
        assert_eq!(told.0.lock().unwrap().len(), 1);
        assert!(told.is_due(b"a", begin + LINKED_TOLD_EVERY, all), "admitted again, it is news");
    }

    #[tokio::test]
    async fn whoever_connects_and_says_nothing_is_not_waited_for() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        assert!(!speaks(&server, Duration::from_millis(50)).await);
        client.writable().await.unwrap();
        assert_eq!(client.try_write(b"x").unwrap(), 1);
        assert!(speaks(&server, FIRST_BYTE_MAX).await, "one byte is enough");
        const { assert!(FIRST_BYTE_MAX.as_millis() < HANDSHAKE_MAX.as_millis()) };
    }

    #[tokio::test]
    async fn what_is_owed_to_a_node_that_reads_nothing_is_bounded_in_bytes_and_in_answers() {
        const LARGEST: usize = 1 << 20;
        let at_once = Duration::ZERO;
        let room = AnswerRoom::new();
        let mut owed = Vec::new();
        while let Ok(bytes) = timeout(at_once, room.answer(LARGEST)).await {
            owed.push(bytes);
        }
        assert_eq!(owed.len() * LARGEST, ANSWER_BYTES_MAX, "so much, and not a byte more");
        assert!(timeout(at_once, room.answer(1)).await.is_err());
        // An answer that has left makes room for as much.
        owed.pop();
        let small = timeout(at_once, room.answer(1)).await;
        assert!(small.is_ok() && timeout(at_once, room.answer(LARGEST)).await.is_err());
        drop(small);
        assert!(timeout(at_once, room.answer(LARGEST)).await.is_ok());
        let mut asked = Vec::new();
        while let Ok(question) = timeout(at_once, room.question()).await {
            asked.push(question);
        }
        assert_eq!(asked.len(), PERMITS);
    }

    #[tokio::test]
    async fn a_stranger_has_a_few_handshakes_at_a_time_and_leaves_room_for_others() {
        let permits = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let permit = || Arc::clone(&permits).try_acquire_owned().unwrap();
        let shaking = Arc::new(Shaking::default());
        let stranger = IpAddr::V6("2001:db8::1".parse().unwrap());
        let mut theirs: Vec<_> =
            (0..HANDSHAKES_OF_ONE_MAX).map(|_| shaking.begin(stranger, permit()).unwrap()).collect();
        // Another address of the same network is nobody else.
        for again in [stranger, IpAddr::V6("2001:db8::ffff".parse().unwrap())] {
            assert!(shaking.begin(again, permit()).is_none());
        }
        let one = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        let mapped = IpAddr::V6(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped());
        let others = [one, mapped, IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let nodes: Vec<_> = others.iter().map(|&node| shaking.begin(node, permit()).unwrap()).collect();
        assert_eq!(shaking.by_place().get(&one), Some(&2), "one address in two ways");
        assert_eq!(
            permits.available_permits(),
            HANDSHAKES_MAX - HANDSHAKES_OF_ONE_MAX - 4,
            "what is refused holds none"
        );
        theirs.pop();
        assert!(shaking.begin(stranger, permit()).is_some());
        drop((theirs, nodes));
        assert_eq!((shaking.by_place().len(), permits.available_permits()), (0, HANDSHAKES_MAX));
    }
}
