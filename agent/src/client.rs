//! The agent: the SDK's face.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use creto_crypto_accel::digest::sha256;
use creto_envelope::control::RotationMode;
use creto_envelope::deliver::Credit;
use creto_envelope::letters::{DeadLetters, LetterChange};
use creto_envelope::limits::{CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX, PAYLOAD_PLAINTEXT_BYTES_MAX};
use creto_envelope::{AgentId, AgentName, TreeDigest, TrustDomain};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use crate::channel::line::{Lines, Means};
use crate::channel::link::ChannelLink;
use crate::channel::listing::Listings;
use crate::channel::reading::Reading;
use crate::channel::records::Records;
use crate::clock::{self, Clock};
use crate::connection::Dialer;
use crate::directory::Directory;
use crate::driver::Driver;
use crate::error::{ConnectError, DeadLetterError, ReceiveError, RotateError, SendError, StateError};
use crate::key_log::{KeyLog, KeyLogStatus};
use crate::keys::AgentKeys;
use crate::letters::{DeadLetter, Letters};
use crate::limits::{
    CLOSE_TIMEOUT, CONNECT_TIMEOUT, GOODBYE_TIMEOUT, IDLE_TIMEOUT, IN_FLIGHT_BYTES, IN_FLIGHT_MESSAGES, KEY_GRACE,
    KEY_GRACE_RANGE, RECIPIENT_SESSIONS_MAX, RETRY_FOR, SIGNALS_IN_FLIGHT_BYTES_MAX, SIGNALS_IN_FLIGHT_MAX,
    WINDOW_BYTES, WINDOW_MESSAGES,
};
use crate::prekeys::{PrekeyPolicy, Prekeys};
use crate::presence::{PresencePolicy, Presences};
use crate::receiver::acknowledgements::Acknowledgements;
use crate::receiver::incidents::Incidents;
use crate::receiver::link::DeliverLink;
use crate::receiver::notices::Notices;
use crate::receiver::open::Opener;
use crate::receiver::receipts::{self, ReceiptPolicy};
use crate::receiver::{Delivery, Inbox, Subscription};
use crate::rotation::{KeyRotation, RotationSchedule, Rotor};
use crate::sender::batcher::BatchOptions;
use crate::sender::outbox::Outbox;
use crate::sender::sessions::{SessionPolicy, Sessions};
use crate::sender::{Attachments, Event, PendingSend, Receipt, SendOptions, Sender, adopt_sessions};
use crate::state::{StateDirectory, outgoing};
use crate::stats::{Counters, Stats};
use crate::submit::{Places, Submitter};
use crate::tls::NodeCertificate;
use crate::trace::{Propagation, Tracer};
use crate::worker::on_disk;

/// Where an agent connects, as whom, and with which bounds.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// The node's UDP address.
    pub node: SocketAddr,
    /// The node's certificate: exactly this one is trusted.
    pub certificate: NodeCertificate,
    /// Who the agent is.
    pub keys: Arc<AgentKeys>,
    /// How long [`Agent::connect`] waits for the node. Default 5 s.
    pub connect_timeout: Duration,
    /// How long a silent node counts as alive; a third of it is the pause between keep-alives. Default 6 s.
    pub idle_timeout: Duration,
    /// Most messages that are submitted and not answered; above it `send` and `submit` wait. Default 8,192. The node's
    /// own bound holds as well.
    pub in_flight_messages: u32,
    /// Most bytes of envelopes that are submitted and not answered. Default 64 MiB.
    pub in_flight_bytes: u32,
    /// How long a message is sent again that the node refuses for now (mailbox full, busy). Default 30 s.
    pub retry_for: Duration,
    /// When a batch closes.
    pub batch: BatchOptions,
    /// How long a session to a recipient serves; [`SessionPolicy::Off`] seals each message by itself.
    pub sessions: SessionPolicy,
    /// Whether sessions are opened to prekeys, and whether this agent has some of its own at the node while it receives. It makes
    /// none without a folder for its state: what was sealed to them must open after a restart. One whose folder was lost says so in
    /// its log; it replaces its encryption key, so that the node forgets what is gone, if it does so on a schedule. Default [`PrekeyPolicy::Prefer`].
    pub prekeys: PrekeyPolicy,
    /// Where sessions are kept over a restart. Default: beside the key file, if the keys have one.
    pub state: StateDirectory,
    /// Most deliveries that the application may hold without an acknowledgement. Default 1,024.
    pub window_messages: u32,
    /// Most bytes of the envelopes of those. Default 4 MiB.
    pub window_bytes: u32,
    /// How often the agent replaces its encryption key by itself; its keys must be in a file. Default: never.
    pub rotation: RotationSchedule,
    /// How long a replaced encryption key opens what was sealed to it, before it is erased: at least as long as the node
    /// accepts it, 1 hour to 30 days. Default 7 days, as on the node.
    pub key_grace: Duration,
    /// Whether deliveries come with a proof of who signed them ([`Delivery::proof`]): a copy of the envelope and about
    /// 10 KiB, for each delivery that the application holds. Default off.
    pub keep_proofs: bool,
    /// To whom the agent shows that it reads its mailbox. Default: nobody. A node that is older than this ends the connection of an agent
    /// that shows itself.
    pub presence: PresencePolicy,
    /// Which receipts a sender gets that asks for some. Default: all.
    pub receipts: ReceiptPolicy,
    /// Who knows the traces that this process is part of. With somebody, messages tell their recipients which span they come from: inside of
    /// the seal, 32 bytes and the tracestate ([`trace`](crate::trace)). **A recipient whose SDK is older than that sees these bytes before
    /// the payload.** Default: nobody, and no message has a byte of it.
    pub trace: Option<Arc<dyn Propagation>>,
    /// Hash of the tree under each batch signature. A node whose deployment demands another one than the default,
    /// SHA-256, refuses with [`BatchDigest`](crate::RejectCode::BatchDigest).
    pub tree_digest: TreeDigest,
}

impl ConnectOptions {
    /// The usual bounds.
    #[must_use]
    pub fn new(node: SocketAddr, certificate: NodeCertificate, keys: impl Into<Arc<AgentKeys>>) -> Self {
        Self {
            node,
            certificate,
            keys: keys.into(),
            connect_timeout: CONNECT_TIMEOUT,
            idle_timeout: IDLE_TIMEOUT,
            in_flight_messages: IN_FLIGHT_MESSAGES,
            in_flight_bytes: IN_FLIGHT_BYTES,
            retry_for: RETRY_FOR,
            batch: BatchOptions::default(),
            sessions: SessionPolicy::default(),
            prekeys: PrekeyPolicy::default(),
            state: StateDirectory::default(),
            window_messages: WINDOW_MESSAGES,
            window_bytes: WINDOW_BYTES,
            rotation: RotationSchedule::default(),
            key_grace: KEY_GRACE,
            keep_proofs: false,
            presence: PresencePolicy::Nobody,
            receipts: ReceiptPolicy::All,
            trace: None,
            tree_digest: TreeDigest::Sha256,
        }
    }

    /// Keeps the state of sessions in this folder, which belongs to this agent alone.
    #[must_use]
    pub fn state(mut self, folder: impl Into<PathBuf>) -> Self {
        self.state = StateDirectory::Folder(folder.into());
        self
    }
}

/// An agent that is logged in to a node, over as many connections as it takes. Clones are the same agent.
///
/// When the last clone is dropped the connection closes; [`close`](Self::close) does it in good order.
#[derive(Clone, Debug)]
pub struct Agent {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    keys: Arc<AgentKeys>,
    /// Which node it is.
    certificate: NodeCertificate,
    rotor: Arc<Rotor>,
    inbox: Arc<Inbox>,
    letters: Arc<Letters>,
    opener: Arc<Opener>,
    directory: Arc<Directory>,
    key_log: Arc<KeyLog>,
    prekeys: Arc<Prekeys>,
    counters: Arc<Counters>,
    submitter: Arc<Submitter>,
    closing: watch::Sender<bool>,
    /// To the sender's task; weak, because that one ends when the driver has.
    events: mpsc::WeakSender<Event>,
    lines: Arc<Lines>,
    means: Arc<Means>,
    reading: Arc<Reading>,
    records: Arc<Records>,
    listings: Arc<Listings>,
    presences: Arc<Presences>,
    tasks: Mutex<Option<(JoinHandle<()>, JoinHandle<()>)>>,
    receiving: tokio::sync::Mutex<Option<Subscription>>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.closing.send_replace(true);
    }
}

impl Agent {
    /// Connects and logs in. Later the agent reconnects on its own, with growing pauses of 50 ms to 5 s.
    ///
    /// # Errors
    /// [`ConnectError`] says why there is no connection, and what to do.
    pub async fn connect(options: ConnectOptions) -> Result<Self, ConnectError> {
        if options.prekeys == PrekeyPolicy::Require && options.sessions == SessionPolicy::Off {
            return Err(ConnectError::PrekeysWithoutSessions);
        }
        let dialer = Dialer::new(options.node, &options.certificate, options.idle_timeout)?;
        let session = dialer.log_in(&options.keys, options.connect_timeout).await?;

        let clock = Clock::start();
        let folder = options.state.folder(&options.keys);
        let mut sessions = Sessions::new(options.sessions, RECIPIENT_SESSIONS_MAX);
        let stored = take_sessions(folder.clone(), options.keys.id()).await?;
        adopt_sessions(&mut sessions, stored, options.prekeys, clock.now_us());
        let counters = Arc::new(Counters::default());
        let key_log = open_key_log(&options, Arc::clone(&counters)).await?;
        let directory = Arc::new(Directory::new(Arc::clone(&counters), clock, Arc::clone(&key_log)));
        let prekeys = Prekeys::new(Arc::clone(&options.keys), Arc::clone(&counters));
        // Whoever keeps no state may still have to erase what another process of the same keys keeps beside them.
        let prekey_folder = folder.clone().or_else(|| StateDirectory::BesideKeys.folder(&options.keys));
        let prekeys = Arc::new(prekeys.of(options.prekeys, prekey_folder));
        let window = Credit {
            messages: options.window_messages.clamp(1, CREDIT_MESSAGES_MAX),
            bytes: options.window_bytes.clamp(1, CREDIT_BYTES_MAX),
        };
        let (messages, submitted) = mpsc::channel(1_024);
        let submitter = Arc::new(Submitter {
            keys: Arc::clone(&options.keys),
            directory: Arc::clone(&directory),
            counters: Arc::clone(&counters),
            clock,
            messages,
            places: Places::new(options.in_flight_messages, options.in_flight_bytes),
            retry_for_us: u64::try_from(options.retry_for.as_micros()).unwrap_or(u64::MAX),
            signal_places: Places::new(SIGNALS_IN_FLIGHT_MAX, SIGNALS_IN_FLIGHT_BYTES_MAX),
            seals_to_records: options.prekeys != PrekeyPolicy::Require,
            tracer: Tracer::new(options.trace),
        });
        let inbox = Inbox::new(Arc::clone(&submitter), folder.clone(), window);
        let (inbox, due) = match options.receipts {
            ReceiptPolicy::Off => (inbox, None),
            policy => {
                let (outbound, due) = receipts::queues(window.messages as usize, policy);
                (inbox.with_receipts(outbound), Some(due))
            }
        };
        let inbox = Arc::new(inbox);
        let (closing, closed) = watch::channel(false);
        let (events, to_sender) = mpsc::channel(64);
        let listings = Arc::new(Listings::new());
        let (lines, records) = (Arc::new(Lines::default()), Arc::new(Records::new(Arc::clone(&directory))));
        let (weak, state) = (events.downgrade(), folder.clone());
        let means = Arc::new(Means::new(&submitter, Arc::clone(&records), weak, closed.clone(), state));
        let reading = Arc::new(Reading::new(Arc::clone(&counters)));
        let sender = Sender {
            keys: Arc::clone(&options.keys),
            outbox: Outbox::new(options.keys.id(), options.batch.into(), sessions).with_prekeys(options.prekeys),
            directory: Arc::clone(&directory),
            prekeys: Arc::clone(&prekeys),
            lines: Arc::clone(&lines),
            attachments: Attachments::default(),
            clock,
            counters: Arc::clone(&counters),
            messages: submitted,
            events: to_sender,
            state: folder,
            tree_digest: options.tree_digest,
        };
        let letters = Arc::new(Letters::new(options.keys.id()));
        let opener =
            Arc::new(Opener::new(Arc::clone(&options.keys), Arc::clone(&counters)).with_proofs(options.keep_proofs));
        let deliver = DeliverLink {
            inbox: Arc::clone(&inbox),
            opener: Arc::clone(&opener),
            directory: Arc::clone(&directory),
            prekeys: Arc::clone(&prekeys),
            shows_presence: options.presence == PresencePolicy::Senders,
            closing: closed.clone(),
        };
        let presences = Arc::new(Presences::new());
        let channels = ChannelLink {
            reading: Arc::clone(&reading),
            inbox: Arc::clone(&inbox),
            opener: Arc::clone(&opener),
            directory: Arc::clone(&directory),
            closing: closed.clone(),
        };
        let rotor = Arc::new(Rotor::new(
            Arc::clone(&options.keys),
            Arc::clone(&directory),
            Arc::clone(&counters),
            options.rotation,
            options.key_grace.clamp(*KEY_GRACE_RANGE.start(), *KEY_GRACE_RANGE.end()),
            prekeys.replaced(),
            prekeys.to_replace(),
        ));
        tokio::spawn(Arc::clone(&prekeys).look_after(closed.clone()));
        tokio::spawn(Arc::clone(&rotor).look_after(closed.clone()));
        tokio::spawn(Arc::clone(&key_log).look_after(closed.clone()));
        if let Some(due) = due {
            tokio::spawn(receipts::send(Arc::clone(&submitter), Arc::clone(&inbox), due, closed.clone()));
        }
        let driver = Driver {
            dialer,
            keys: Arc::clone(&options.keys),
            directory: Arc::clone(&directory),
            key_log: Arc::clone(&key_log),
            rotor: Arc::clone(&rotor),
            letters: Arc::clone(&letters),
            prekeys: Arc::clone(&prekeys),
            presences: Arc::clone(&presences),
            deliver,
            channels,
            records: Arc::clone(&records),
            listings: Arc::clone(&listings),
            sender: events.clone(),
            counters: Arc::clone(&counters),
            closing: closed,
        };
        let sender = tokio::spawn(sender.run());
        let driver = tokio::spawn(driver.run(session));
        let shared = Shared {
            keys: options.keys,
            certificate: options.certificate,
            rotor,
            inbox,
            letters,
            opener,
            directory,
            key_log,
            prekeys,
            counters,
            submitter,
            closing,
            events: events.downgrade(),
            lines,
            means,
            reading,
            records,
            listings,
            presences,
            tasks: Mutex::new(Some((driver, sender))),
            receiving: tokio::sync::Mutex::new(None),
        };
        drop(events);
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The agent's own name.
    #[must_use]
    pub fn name(&self) -> &AgentName {
        self.shared.keys.name()
    }

    /// The agent's own id.
    #[must_use]
    pub fn id(&self) -> AgentId {
        self.shared.keys.id()
    }

    /// The id that a name of this agent's trust domain derives to.
    pub(crate) fn id_of(&self, name: &AgentName) -> AgentId {
        AgentId::derive(self.shared.keys.trust_domain(), name)
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.shared.directory
    }

    pub(crate) fn inbox(&self) -> &Arc<Inbox> {
        &self.shared.inbox
    }

    pub(crate) fn submitter(&self) -> &Submitter {
        &self.shared.submitter
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    pub(crate) fn trust_domain(&self) -> &TrustDomain {
        self.shared.keys.trust_domain()
    }

    /// What publishing in channels takes.
    pub(crate) fn publishing(&self) -> (&Arc<Lines>, &Arc<Means>) {
        (&self.shared.lines, &self.shared.means)
    }

    /// What reading channels takes.
    pub(crate) fn reading(&self) -> (&Arc<Reading>, &Arc<Inbox>) {
        (&self.shared.reading, &self.shared.inbox)
    }

    pub(crate) fn listings(&self) -> &Listings {
        &self.shared.listings
    }

    pub(crate) fn presences(&self) -> &Presences {
        &self.shared.presences
    }

    pub(crate) fn records(&self) -> &Arc<Records> {
        &self.shared.records
    }

    /// SHA-256 of the certificate by which the node is known.
    pub(crate) fn node_digest(&self) -> [u8; 32] {
        sha256(&[self.shared.certificate.as_der()])
    }

    pub(crate) fn key_log_of(&self) -> &KeyLog {
        &self.shared.key_log
    }

    /// What this agent has seen of the node's key log, and what it found there that no honest node does.
    #[must_use]
    pub fn key_log(&self) -> KeyLogStatus {
        self.shared.key_log.status()
    }

    /// Reads the leaves of the key log that are new, now: it is done within a minute of each connect and every ten minutes anyway. 120 bytes
    /// come for each leaf that was not read before.
    pub async fn read_key_log(&self) -> KeyLogStatus {
        self.shared.key_log.read_on().await;
        self.key_log()
    }

    /// Sends a message and waits until it is durable. The usual options; see [`send_with`](Self::send_with).
    ///
    /// # Errors
    /// [`SendError`]. Over a lost connection the message is sent again under the same id; that is no error.
    pub async fn send(&self, to: &AgentName, payload: impl Into<Bytes>) -> Result<Receipt, SendError> {
        self.send_with(to, payload, SendOptions::default()).await
    }

    /// Sends a message and waits until it is durable. When the recipient has another key by now, it is sealed again to
    /// that one, under the same id; this holds for [`submit`](Self::submit) and [`send_many`](Self::send_many) too.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_with(
        &self,
        to: &AgentName,
        payload: impl Into<Bytes>,
        options: SendOptions,
    ) -> Result<Receipt, SendError> {
        self.submit(to, payload, options).await?.await
    }

    /// Sends many messages and waits until each is answered; the answers stand in the order of the messages. They
    /// travel in signed batches, with as many in flight as the bounds allow.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use creto_agent::AgentName;
    /// # let agent = node.connect("planner").await?;
    /// let worker = AgentName::parse("acme/worker")?;
    /// let answers = agent.send_many((0..1_000).map(|n| (&worker, format!("task {n}")))).await;
    /// for answer in answers {
    ///     answer?; // each message has an answer of its own
    /// }
    /// # assert_eq!(agent.stats().acknowledged, 1_000);
    /// # Ok(()) }) }
    /// ```
    pub async fn send_many<'n, P: Into<Bytes>>(
        &self,
        messages: impl IntoIterator<Item = (&'n AgentName, P)>,
    ) -> Vec<Result<Receipt, SendError>> {
        let mut pending = Vec::new();
        for (to, payload) in messages {
            pending.push(self.submit(to, payload, SendOptions::default()).await);
        }
        let mut answers = Vec::with_capacity(pending.len());
        for submitted in pending {
            answers.push(match submitted {
                Ok(answer) => answer.await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    /// Submits a message without waiting for its answer, which the [`PendingSend`] gives. Waits only while too much is
    /// in flight, and for the recipient's keys when they are not known yet. Messages to one recipient that one task
    /// submits one after the other are delivered in that order.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use std::time::Duration;
    /// # use creto_agent::{AgentName, Priority, SendOptions};
    /// # let agent = node.connect("planner").await?;
    /// # let worker = AgentName::parse("acme/worker")?;
    /// let urgent = SendOptions {
    ///     priority: Priority::High,
    ///     ttl: Some(Duration::from_secs(60)),
    ///     deadline: Some(Duration::from_secs(5)),
    ///     ..SendOptions::default()
    /// };
    /// let first = agent.submit(&worker, "one", urgent).await?;
    /// let second = agent.submit(&worker, "two", urgent).await?; // does not wait for the first
    /// first.await?;
    /// second.await?;
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`SendError`] when the message cannot be submitted.
    pub async fn submit(
        &self,
        to: &AgentName,
        payload: impl Into<Bytes>,
        options: SendOptions,
    ) -> Result<PendingSend, SendError> {
        let payload = payload.into();
        if payload.len() > PAYLOAD_PLAINTEXT_BYTES_MAX {
            return Err(SendError::TooLarge { bytes: payload.len() });
        }
        let deadline = options.deadline.map(|after| (after, Instant::now() + after));
        let message_id = clock::new_message_id();
        let submit = self.shared.submitter.submit(message_id, to, payload, options, deadline);
        match deadline {
            None => submit.await,
            Some((after, at)) => timeout_at(at, submit).await.unwrap_or(Err(SendError::TimedOut { message_id, after })),
        }
    }

    /// Gives every recipient a new session with the next message to it, as after a compromise of this process's memory:
    /// whoever learned the keys of the old ones learns nothing of what comes. Costs one encapsulation for each recipient.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the agent was closed.
    pub async fn renew_sessions(&self) -> Result<(), SendError> {
        let events = self.shared.events.upgrade().ok_or(SendError::Closed)?;
        events.send(Event::RenewSessions).await.map_err(|_| SendError::Closed)
    }

    /// Waits until everything that was submitted so far is answered.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the agent was closed.
    pub async fn flush(&self) -> Result<(), SendError> {
        self.shared.submitter.places.take_all().await
    }

    /// The agent's mailbox as a stream of deliveries. One at a time ([`receive`](Self::receive) keeps one of its own);
    /// when it is dropped, another may follow and goes on
    /// where it stopped. [`Subscription`] is a [`futures_core::Stream`] too.
    ///
    /// # Errors
    /// [`ReceiveError::AlreadySubscribed`].
    pub fn subscribe(&self) -> Result<Subscription, ReceiveError> {
        self.shared.inbox.subscribe()
    }

    /// The next delivery: [`subscribe`](Self::subscribe) for whoever wants one at a time.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use creto_agent::AgentName;
    /// # let agent = node.connect("planner").await?;
    /// # let worker = AgentName::parse("acme/worker")?;
    /// agent.send(&worker, "what is new?").await?;
    /// let answer = agent.receive().await?;
    /// println!("{} says {:?}", answer.from, answer.payload);
    /// answer.ack();
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`ReceiveError`] when no more deliveries will come, or while there is a subscription.
    pub async fn receive(&self) -> Result<Delivery, ReceiveError> {
        let mut receiving = self.shared.receiving.lock().await;
        let subscription = match &mut *receiving {
            Some(subscription) => subscription,
            none => none.insert(self.subscribe()?),
        };
        subscription.next().await.unwrap_or_else(|| Err(self.shared.inbox.end_reason()))
    }

    /// Replaces the agent's encryption key: makes a new one, saves it in the key file, and has the node go by it. What is
    /// sealed to the old one still arrives and opens for the grace period.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # let agent = node.connect("planner").await?;
    /// let rotation = agent.rotate_keys().await?;
    /// println!("key record {} counts since {:?}", rotation.version, rotation.published_in);
    /// # assert_eq!(rotation.version, 2);
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`RotateError`]. A new key that was saved and not published is published with the next connection.
    pub async fn rotate_keys(&self) -> Result<KeyRotation, RotateError> {
        self.rotate(RotationMode::Planned).await
    }

    /// Replaces an encryption key that may be in foreign hands: from the node's answer on, nothing that is sealed to it or
    /// to one before it is accepted; senders seal again by themselves. The old keys leave the key file at once, and
    /// memory once they were not needed for ten minutes: what the node had accepted before is opened as long as this
    /// process receives. Their prekeys leave their file before this returns, unless another process receives, which erases them
    /// within two minutes.
    ///
    /// # Errors
    /// As [`rotate_keys`](Self::rotate_keys).
    pub async fn rotate_compromised_keys(&self) -> Result<KeyRotation, RotateError> {
        self.rotate(RotationMode::Emergency).await
    }

    async fn rotate(&self, mode: RotationMode) -> Result<KeyRotation, RotateError> {
        let rotation = self.shared.rotor.rotate(mode).await?;
        // Before this returns: whoever replaces a key and ends must not leave the prekeys of the old one behind.
        self.shared.prekeys.erase_ended().await;
        Ok(rotation)
    }

    /// A page of the dead letters of this agent's mailbox, by growing number: those behind `after` (0 for the first page), up to
    /// `letters_max`, at most 256. [`DeadLetters::total`](crate::DeadLetters) says how many there are.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use creto_agent::AgentName;
    /// # let agent = node.connect("planner").await?;
    /// # agent.send(&AgentName::parse("acme/worker")?, "what is new?").await?;
    /// let answer = agent.receive().await?;
    /// answer.reject(7); // never again; 7 is what this application calls it
    /// # while agent.dead_letters(0, 1).await?.total == 0 {
    /// #     tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    /// # }
    /// let page = agent.dead_letters(0, 100).await?;
    /// for listed in &page.letters {
    ///     let letter = agent.dead_letter(listed.mailbox_sequence).await?;
    ///     println!("{} from {}: reason {}", listed.mailbox_sequence, letter.from, listed.reason);
    /// }
    /// let numbers: Vec<u64> = page.letters.iter().map(|listed| listed.mailbox_sequence).collect();
    /// agent.replay_dead_letters(&numbers).await?;
    /// # assert_eq!(numbers.len(), 1);
    /// # agent.receive().await?.ack();
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`DeadLetterError`].
    pub async fn dead_letters(&self, after: u64, letters_max: u32) -> Result<DeadLetters, DeadLetterError> {
        self.shared.letters.list(after, letters_max).await
    }

    /// A dead letter to look at, verified and opened like a delivery. It stays a dead letter.
    ///
    /// # Errors
    /// [`DeadLetterError`].
    pub async fn dead_letter(&self, mailbox_sequence: u64) -> Result<DeadLetter, DeadLetterError> {
        let Shared { letters, inbox, opener, directory, .. } = &*self.shared;
        letters.read(mailbox_sequence, inbox, opener, directory).await
    }

    /// Has dead letters delivered again, at their old places and with all their deliveries before them. Durable when this
    /// returns. Says how many it were: numbers that are no dead letters are left out, also those that an attempt before a
    /// lost connection has changed already.
    ///
    /// # Errors
    /// [`DeadLetterError`]; some of them may be changed.
    pub async fn replay_dead_letters(&self, mailbox_sequences: &[u64]) -> Result<u64, DeadLetterError> {
        self.shared.letters.change(LetterChange::Replay, mailbox_sequences).await
    }

    /// Deletes dead letters, for good. Durable when this returns. Says how many it were, as
    /// [`replay_dead_letters`](Self::replay_dead_letters).
    ///
    /// # Errors
    /// [`DeadLetterError`]; some of them may be deleted.
    pub async fn purge_dead_letters(&self, mailbox_sequences: &[u64]) -> Result<u64, DeadLetterError> {
        let count = self.shared.letters.change(LetterChange::Purge, mailbox_sequences).await?;
        // One that is no dead letter may be on its way, and its key is needed.
        if count == mailbox_sequences.len() as u64 {
            self.shared.inbox.purged(mailbox_sequences).await;
        }
        Ok(count)
    }

    /// Messages that came and could not be verified or opened, from now on.
    #[must_use]
    pub fn incidents(&self) -> Incidents {
        self.shared.inbox.incidents()
    }

    /// Acknowledgements of this agent, of its mailbox and of channels, when they are handed to the connection, from now on: for tools that
    /// measure. That is later than [`Delivery::ack`] by what has to be on disk before, and no word of the node.
    #[must_use]
    pub fn acknowledgements(&self) -> Acknowledgements {
        self.shared.inbox.acknowledgements()
    }

    /// What the node says about messages that this agent sent and that expired before they were acknowledged
    /// ([`SendOptions::notice`]).
    ///
    /// Notices wait in the agent's own mailbox, so they come while it is subscribed ([`subscribe`](Self::subscribe),
    /// [`receive`](Self::receive)), in this process or in another of the same agent, and take their place in the same
    /// window: acknowledge them. Ask for them before subscribing. While nobody has asked, each is written to the log as a
    /// warning, counted ([`Stats::notices_unheard`]) and acknowledged.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/doc/node.rs"));
    /// # fn main() -> Result<(), Box<dyn Error>> { with_node(async |node| {
    /// # use std::time::Duration;
    /// # use creto_agent::SendOptions;
    /// # let agent = node.connect("planner").await?;
    /// let mut notices = agent.notices()?;
    /// let _mailbox = agent.subscribe()?;
    /// # // Nobody acknowledges in this mailbox: it is its own.
    /// # let slow_reader = agent.name().clone();
    /// let soon = SendOptions { ttl: Some(Duration::from_secs(1)), ..SendOptions::default() };
    /// let sent = agent.send_with(&slow_reader, "are you there?", soon).await?;
    /// let notice = notices.next().await.expect("the agent is not closed");
    /// assert_eq!(notice.message_id, sent.message_id);
    /// notice.ack(); // the node may forget it
    /// # Ok(()) }) }
    /// ```
    ///
    /// # Errors
    /// [`ReceiveError::AlreadySubscribed`] while there is one.
    pub fn notices(&self) -> Result<Notices, ReceiveError> {
        self.shared.inbox.notices()
    }

    /// What the agent did so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// Closes in good order: waits until what was submitted is answered (at most 10 s), sends the last
    /// acknowledgements, says goodbye, and leaves its sessions for the next run. Every clone is closed with it.
    pub async fn close(self) {
        // Whatever is not answered by then is answered with `Closed`.
        let _ = timeout(CLOSE_TIMEOUT, async {
            self.shared.inbox.receipts_sent().await;
            self.flush().await?;
            self.shared.lines.close().await;
            Ok::<(), SendError>(())
        })
        .await;
        let _ = timeout(GOODBYE_TIMEOUT, self.shared.prekeys.settled()).await;
        self.shared.closing.send_replace(true);
        let tasks = self.shared.tasks.lock().expect(crate::stats::UNPOISONED).take();
        if let Some((driver, sender)) = tasks {
            // An error means that the runtime is shutting down. The sender ends after the driver, and leaves its sessions.
            let _ = driver.await;
            let _ = sender.await;
        }
    }
}

/// The sessions of an earlier run.
async fn take_sessions(folder: Option<PathBuf>, me: AgentId) -> Result<Vec<outgoing::StoredSession>, ConnectError> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    match on_disk(move || outgoing::take(&folder, me)).await {
        // Another process takes or leaves its own at this moment. New sessions are as good.
        Err(StateError::InUse { .. }) => Ok(Vec::new()),
        outcome => outcome.map_err(|error| ConnectError::State(Arc::new(error))),
    }
}

/// What was seen of the node's key log is beside the key file, or in the state folder of keys that have none.
async fn open_key_log(options: &ConnectOptions, counters: Arc<Counters>) -> Result<Arc<KeyLog>, ConnectError> {
    let file = match options.keys.file() {
        Some(file) => {
            let mut beside = file.as_os_str().to_owned();
            beside.push(".keylog");
            Some(PathBuf::from(beside))
        }
        None => options.state.folder(&options.keys).map(|folder| folder.join("keylog")),
    };
    let keys = Arc::clone(&options.keys);
    let opened = on_disk(move || KeyLog::open(keys, file, counters)).await;
    opened.map(Arc::new).map_err(|error| ConnectError::KeyLog(Arc::new(error)))
}
