//! A node as a script: it speaks the protocol, and does exactly what the test tells it.
#![allow(clippy::unwrap_used, reason = "a script that cannot go on fails its test")]
#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use creto_agent::raw::{seal_envelope, sign_batch};
use creto_agent::{Agent, AgentKeys, AgentName, ConnectOptions, MessageId, NodeCertificate, TrustDomain};
use creto_crypto_accel::merkle::{Tree, leaf_hash};
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::batch::parse_submit_sequence;
use creto_envelope::channel::SignedChannelRecord;
use creto_envelope::channel::frames::{
    ChannelAck, ChannelAttach, ChannelCredit, ChannelDeliver, ChannelLeft, ChannelMembers, ChannelNack, ChannelRequest,
    ChannelSubscribe, ChannelSubscribed, encode_channel_response,
};
use creto_envelope::control::{
    KeyRecordRequest, LOGIN_EXPORTER_LABEL, Login, LoginAccepted, Reject, StreamOpen, StreamRole,
    encode_key_record_response, login_statement,
};
use creto_envelope::deliver::{
    ConsumerAck, ConsumerNack, Credit, DeliverEncoder, MessageToDeliver, Nack, Subscribe, Subscribed,
};
use creto_envelope::envelope::EnvelopeHeader;
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::key_log::{KeyLeavesRequest, KeyProof, KeyProofRequest};
use creto_envelope::notice::{Notice, NoticeBody};
use creto_envelope::prekeys::{PrekeyClaim, PrekeyClaimed, PrekeyStockTold};
use creto_envelope::signal::SignalCredit;
use creto_envelope::submit::{SubmitAck, SubmitResult};
use creto_envelope::{
    AgentId, BatchView, ChannelId, EnvelopeView, FrameHeader, FrameType, KeyId, RejectCode, SignedKeyRecord,
};
use creto_transparency::memory::MemoryLog;
use creto_transparency::{KeyLeaf, LeafKind, LogKeys};
use quinn::{RecvStream, SendStream, VarInt};
use rkyv::util::AlignedVec;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// No test waits longer for anything that should come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const FOREVER_MS: u64 = 9_999_999_999_999;

pub(crate) fn name(text: &str) -> AgentName {
    AgentName::parse(text).unwrap()
}

pub(crate) fn keys(text: &str) -> Arc<AgentKeys> {
    Arc::new(AgentKeys::generate(name(text), TrustDomain::default()).unwrap())
}

pub(crate) fn record(keys: &AgentKeys) -> SignedKeyRecord {
    keys.signed_record(keys.record_version(), 0, FOREVER_MS)
}

/// What a dishonest node makes of an honest proof.
type Tamper = Box<dyn FnMut(&mut KeyProof) + Send>;

/// What the node says about keys, and the log in which it says so.
#[derive(Default)]
pub(crate) struct Directory {
    pub(crate) records: BTreeMap<AgentId, SignedKeyRecord>,
    pub(crate) channels: BTreeMap<ChannelId, SignedChannelRecord>,
    pub(crate) log: MemoryLog,
    /// The node gives records that are not in its log.
    pub(crate) slips_in: bool,
    pub(crate) tamper: Option<Tamper>,
    /// Leaves that it gives instead of those of its log.
    pub(crate) shown: Option<MemoryLog>,
}

impl Directory {
    /// The record, which is in the log from now on.
    fn record(&mut self, agent: AgentId) -> Option<SignedKeyRecord> {
        let signed = self.records.get(&agent)?.clone();
        let record = &signed.record;
        if self.slips_in {
            return Some(signed);
        }
        let newest = (0..self.log.size()).rev().map(|index| *self.log.leaf(index));
        if newest.into_iter().find(|leaf| leaf.agent == agent).is_none_or(|leaf| !leaf.is_of(record)) {
            let kind = if record.version == 1 { LeafKind::Enrolled } else { LeafKind::Rotated };
            self.log.append(KeyLeaf::of(record, kind, 5));
        }
        Some(signed)
    }
}

/// The keys of the log.
pub(crate) fn log_keys() -> LogKeys {
    LogKeys::from_seeds("creto.local/creto-audit/peer/keys", &[1; 32], &[2; 32]).unwrap()
}

/// What the node makes of a question about prekeys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Prekeys {
    /// It has none.
    None,
    /// It does not expect such a frame.
    Unexpected,
    /// It knows no such frame, and ends the connection with its refusal.
    UnknownType,
    /// It refuses a question about dead letters that is open, and then says that it has none.
    RefusesLetters,
}

pub(crate) struct Peer {
    endpoint: quinn::Endpoint,
    pub(crate) address: SocketAddr,
    pub(crate) certificate: NodeCertificate,
    records: Arc<Mutex<Directory>>,
    /// About whom no question is answered yet.
    withheld: watch::Sender<BTreeSet<AgentId>>,
    pub(crate) prekeys: Prekeys,
    /// Claims that came.
    pub(crate) claims: Arc<AtomicU64>,
    /// A question about dead letters came, and is not answered.
    pub(crate) letters: Arc<AtomicBool>,
    pub(crate) accepted: LoginAccepted,
}

impl Peer {
    pub(crate) fn start(agents: &[&AgentKeys]) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let mut tls =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key.into())
                .unwrap();
        tls.alpn_protocols = vec![b"creto/1".to_vec()];
        let quic = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(quic));
        let endpoint = quinn::Endpoint::server(config, ([127, 0, 0, 1], 0).into()).unwrap();
        let records = agents.iter().map(|keys| (keys.id(), record(keys))).collect();
        let mut directory = Directory { records, ..Directory::default() };
        agents.iter().for_each(|keys| drop(directory.record(keys.id())));
        Self {
            address: endpoint.local_addr().unwrap(),
            certificate: NodeCertificate::from_der(made.cert.der().to_vec()),
            endpoint,
            records: Arc::new(Mutex::new(directory)),
            withheld: watch::Sender::default(),
            prekeys: Prekeys::None,
            claims: Arc::default(),
            letters: Arc::default(),
            accepted: LoginAccepted {
                node_time_ms: 0,
                shard_index: 0,
                shard_count: 1,
                in_flight_messages_max: 4_096,
                batch_messages_max: 1_024,
                batch_bytes_max: 2 << 20,
            },
        }
    }

    /// What the directory says about `agent` from now on.
    pub(crate) fn set_record(&self, agent: AgentId, record: SignedKeyRecord) {
        self.records.lock().unwrap().records.insert(agent, record);
    }

    /// What the node says about keys.
    pub(crate) fn directory(&self) -> std::sync::MutexGuard<'_, Directory> {
        self.records.lock().unwrap()
    }

    /// About these agents no question is answered from now on, and those about all others are.
    pub(crate) fn withhold(&self, agents: &[AgentId]) {
        self.withheld.send_replace(agents.iter().copied().collect());
    }

    pub(crate) fn options(&self, keys: &Arc<AgentKeys>) -> ConnectOptions {
        ConnectOptions::new(self.address, self.certificate.clone(), Arc::clone(keys))
    }

    /// Connects an agent and accepts its login.
    pub(crate) async fn connect(&self, options: ConnectOptions) -> (Agent, Link) {
        let (agent, link) = tokio::join!(Agent::connect(options), self.accept());
        (agent.unwrap(), link)
    }

    /// Waits for a connection and its Login, which must verify.
    pub(crate) async fn accept(&self) -> Link {
        let (connection, mut control, login) = self.login().await;
        let record = self.records.lock().unwrap().records[&login.agent].clone().record;
        let mut exporter = [0; 32];
        connection.export_keying_material(&mut exporter, LOGIN_EXPORTER_LABEL, b"").unwrap();
        VerifyingKeys::parse(&record.ed25519, &record.ml_dsa_65)
            .unwrap()
            .verify(
                &login_statement(&exporter, &login.agent, login.key_record_version),
                &login.ed25519,
                &login.ml_dsa_65,
            )
            .expect("the login verifies over this connection");
        let mut frame = Vec::new();
        self.accepted.encode(&mut frame);
        control.send.write_all(&frame).await.unwrap();
        let prekeys = (self.prekeys, Arc::clone(&self.claims), Arc::clone(&self.letters));
        let withheld = self.withheld.subscribe();
        tokio::spawn(answer_questions(control, Arc::clone(&self.records), withheld, prekeys, connection.clone()));
        Link { connection, submit: None, deliver: None, channels: None, owner: login.agent, header_sent: None }
    }

    /// Waits for a connection and refuses its login.
    pub(crate) async fn refuse(&self, code: RejectCode) {
        let (connection, mut control, _) = self.login().await;
        let mut frame = Vec::new();
        Reject::new(code).encode(&mut frame);
        control.send.write_all(&frame).await.unwrap();
        connection.closed().await;
    }

    async fn login(&self) -> (quinn::Connection, Stream, Login) {
        let incoming = timeout(PATIENCE, self.endpoint.accept()).await.expect("a connection comes").unwrap();
        let connection = incoming.await.unwrap();
        let (role, mut control) = Stream::accept(&connection).await;
        assert_eq!(role, StreamRole::Control);
        let (frame_type, body) = control.next().await.unwrap();
        assert_eq!(frame_type, FrameType::Login);
        let login = Login::parse(&body).unwrap();
        (connection, control, login)
    }
}

async fn answer_questions(
    control: Stream,
    records: Arc<Mutex<Directory>>,
    withheld: watch::Receiver<BTreeSet<AgentId>>,
    (prekeys, claims, letters): (Prekeys, Arc<AtomicU64>, Arc<AtomicBool>),
    connection: quinn::Connection,
) {
    let (answers, mut frames) = mpsc::unbounded_channel::<Vec<u8>>();
    let Stream { mut send, mut receive } = control;
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            if send.write_all(&frame).await.is_err() {
                return;
            }
        }
    });
    while let Some((frame_type, body)) = next_frame(&mut receive).await {
        let mut frame = Vec::new();
        match frame_type {
            FrameType::KeyProofRequest => {
                let question = KeyProofRequest::parse(&body).unwrap();
                let mut directory = records.lock().unwrap();
                let mut proof = directory.log.prove(&question, &log_keys(), 5);
                if let Some(tamper) = &mut directory.tamper {
                    tamper(&mut proof);
                }
                proof.encode(&mut frame);
                let _ = answers.send(frame);
                continue;
            }
            FrameType::KeyLeavesRequest => {
                let question = KeyLeavesRequest::parse(&body).unwrap();
                let directory = records.lock().unwrap();
                directory.shown.as_ref().unwrap_or(&directory.log).leaves(&question).encode(&mut frame);
                let _ = answers.send(frame);
                continue;
            }
            FrameType::PrekeyClaim => {
                let agent = PrekeyClaim::parse(&body).unwrap().agent;
                claims.fetch_add(1, Ordering::Relaxed);
                match prekeys {
                    Prekeys::None => {}
                    Prekeys::Unexpected => {
                        Reject::new(RejectCode::FrameUnexpected).encode(&mut frame);
                        let _ = answers.send(frame);
                        continue;
                    }
                    Prekeys::UnknownType => {
                        Reject::new(RejectCode::FrameUnknownType).encode(&mut frame);
                        let _ = answers.send(frame);
                        let code = u32::from(RejectCode::FrameUnknownType.as_u16());
                        connection.close(VarInt::from_u32(code), b"the frame's type is not known");
                        continue;
                    }
                    Prekeys::RefusesLetters => {
                        if letters.swap(false, Ordering::Relaxed) {
                            Reject::new(RejectCode::FrameUnexpected).encode(&mut frame);
                        }
                    }
                }
                PrekeyClaimed { agent, answer: Err(RejectCode::NoPrekey.into()) }.encode(&mut frame);
                let _ = answers.send(frame);
                continue;
            }
            FrameType::DeadLetterList => {
                letters.store(true, Ordering::Relaxed);
                continue;
            }
            FrameType::PrekeyStockRequest => {
                PrekeyStockTold { answer: Err(RejectCode::Overloaded.into()) }.encode(&mut frame);
                let _ = answers.send(frame);
                continue;
            }
            FrameType::ChannelRequest => {
                let channel = ChannelRequest::parse(&body).unwrap().channel;
                match records.lock().unwrap().channels.get(&channel) {
                    Some(record) => encode_channel_response(&mut frame, record),
                    None => {
                        let unknown = Reject::new(RejectCode::UnknownChannel);
                        Reject { context: channel.0, ..unknown }.encode(&mut frame);
                    }
                }
                let _ = answers.send(frame);
                continue;
            }
            _ => assert_eq!(frame_type, FrameType::KeyRecordRequest),
        }
        let question = KeyRecordRequest::parse(&body).unwrap();
        let record = records.lock().unwrap().record(question.agent);
        match record {
            Some(record) => encode_key_record_response(&mut frame, &record),
            None => Reject { context: question.agent.0, ..Reject::new(RejectCode::UnknownAgent) }.encode(&mut frame),
        }
        if !withheld.borrow().contains(&question.agent) {
            let _ = answers.send(frame);
            continue;
        }
        let (answers, mut withheld) = (answers.clone(), withheld.clone());
        tokio::spawn(async move {
            if withheld.wait_for(|withheld| !withheld.contains(&question.agent)).await.is_ok() {
                let _ = answers.send(frame);
            }
        });
    }
}

struct Stream {
    send: SendStream,
    receive: RecvStream,
}

impl Stream {
    async fn accept(connection: &quinn::Connection) -> (StreamRole, Self) {
        let (send, receive) = timeout(PATIENCE, connection.accept_bi()).await.expect("a stream comes").unwrap();
        let mut stream = Self { send, receive };
        let (frame_type, body) = stream.next().await.unwrap();
        assert_eq!(frame_type, FrameType::StreamOpen);
        (StreamOpen::parse(&body).unwrap().role, stream)
    }

    async fn next(&mut self) -> Option<(FrameType, AlignedVec<8>)> {
        next_frame(&mut self.receive).await
    }
}

async fn next_frame(receive: &mut RecvStream) -> Option<(FrameType, AlignedVec<8>)> {
    let mut header = [0; FRAME_HEADER_BYTES];
    receive.read_exact(&mut header).await.ok()?;
    let header = FrameHeader::parse(&header).unwrap();
    let mut body = AlignedVec::<8>::new();
    body.resize(header.body_bytes as usize, 0);
    receive.read_exact(&mut body).await.ok()?;
    Some((header.frame_type, body))
}

/// A batch as it was submitted.
#[derive(Clone)]
pub(crate) struct Batch {
    pub(crate) sequence: u64,
    pub(crate) header: Vec<u8>,
    pub(crate) entries: Vec<([u8; 16], Vec<u8>)>,
}

impl Batch {
    /// A batch of a sender that is not connected: sealed to `to`, one message for each payload.
    pub(crate) fn make(from: &AgentKeys, to: &AgentKeys, payloads: &[&str]) -> Self {
        let envelopes = payloads.iter().enumerate().map(|(n, payload)| {
            let mut random = [0; 10];
            random[..4].copy_from_slice(&from.id().0[..4]);
            random[9] = u8::try_from(n).unwrap();
            envelope(from, to, MessageId::from_parts(1_760_000_000_000, random), payload)
        });
        Self::of(from, envelopes.collect())
    }

    pub(crate) fn of(from: &AgentKeys, envelopes: Vec<Vec<u8>>) -> Self {
        let entries: Vec<_> =
            envelopes.into_iter().enumerate().map(|(n, e)| ([u8::try_from(n).unwrap(); 16], e)).collect();
        let header = sign_batch(from, entries.iter().map(|(salt, e)| (salt, e.as_slice())), 1_760_000_000_000);
        Self { sequence: 0, header: header.to_bytes().to_vec(), entries }
    }

    pub(crate) fn ids(&self) -> Vec<MessageId> {
        self.entries.iter().map(|(_, envelope)| aligned(envelope, |view| view.message_id())).collect()
    }
}

pub(crate) fn envelope(from: &AgentKeys, to: &AgentKeys, id: MessageId, payload: &str) -> Vec<u8> {
    let header = EnvelopeHeader::sealed(from.id(), to.id(), KeyId(to.key_id().0), id, 1_760_000_000_000, payload.len());
    seal_envelope(&header.unwrap(), &record(to), payload.as_bytes()).unwrap()
}

fn aligned<R>(envelope: &[u8], read: impl FnOnce(EnvelopeView<'_>) -> R) -> R {
    let mut bytes = AlignedVec::<8>::new();
    bytes.extend_from_slice(envelope);
    read(EnvelopeView::parse(&bytes).unwrap())
}

/// One accepted connection of an agent.
pub(crate) struct Link {
    pub(crate) connection: quinn::Connection,
    submit: Option<Stream>,
    deliver: Option<Stream>,
    channels: Option<Stream>,
    owner: AgentId,
    header_sent: Option<Vec<u8>>,
}

impl Link {
    async fn stream(&mut self, role: StreamRole) -> &mut Stream {
        while match role {
            StreamRole::Submit => self.submit.is_none(),
            StreamRole::Channels => self.channels.is_none(),
            _ => self.deliver.is_none(),
        } {
            match Stream::accept(&self.connection).await {
                (StreamRole::Submit, stream) => assert!(self.submit.replace(stream).is_none()),
                (StreamRole::Deliver, stream) => assert!(self.deliver.replace(stream).is_none()),
                (StreamRole::Channels, stream) => assert!(self.channels.replace(stream).is_none()),
                (role, _) => panic!("a second {role:?} stream"),
            }
        }
        match role {
            StreamRole::Submit => self.submit.as_mut().unwrap(),
            StreamRole::Channels => self.channels.as_mut().unwrap(),
            _ => self.deliver.as_mut().unwrap(),
        }
    }

    /// The next batch; its tree and both signatures hold.
    pub(crate) async fn batch(&mut self) -> Batch {
        let submit = self.stream(StreamRole::Submit).await;
        let (frame_type, body) = timeout(PATIENCE, submit.next()).await.expect("a batch comes").unwrap();
        assert_eq!(frame_type, FrameType::SignedBatch);
        let mut entries = Vec::new();
        let view = BatchView::parse(&body[8..], &mut entries).unwrap();
        let entries: Vec<_> = entries.iter().map(|entry| (entry.salt, view.envelope(entry).to_vec())).collect();
        let mut tree = Tree::new();
        tree.rebuild(&entries.iter().map(|(salt, envelope)| leaf_hash(salt, envelope)).collect::<Vec<_>>());
        assert_eq!(tree.root(), *view.header.root());
        Batch { sequence: parse_submit_sequence(&body).unwrap(), header: view.header.as_bytes().to_vec(), entries }
    }

    /// Batches until they hold `count` messages: all of their ids, in order, and the last sequence.
    pub(crate) async fn ids(&mut self, count: usize) -> (Vec<MessageId>, u64) {
        let (mut ids, mut sequence) = (Vec::new(), 0);
        while ids.len() < count {
            let batch = self.batch().await;
            sequence = batch.sequence;
            ids.extend(batch.ids());
        }
        assert_eq!(ids.len(), count);
        (ids, sequence)
    }

    pub(crate) async fn acknowledge(&mut self, through_sequence: u64, results: &[(u64, u32, RejectCode)]) {
        let results = results.iter().map(|(sequence, index, code)| {
            // Without a wish of the node: the pauses are those of the SDK.
            SubmitResult { retry_after: 0, ..SubmitResult::new(*sequence, *index, *code) }
        });
        let mut frame = Vec::new();
        SubmitAck { through_sequence, pause_ms: 0, results: results.collect() }.encode(&mut frame);
        self.stream(StreamRole::Submit).await.send.write_all(&frame).await.unwrap();
    }

    /// Expects Subscribe and answers it; gives the credit to begin with.
    pub(crate) async fn subscription(&mut self) -> Credit {
        self.subscription_for_keys().await;
        self.credit().await
    }

    /// Expects Subscribe of an agent that reads nothing of its mailbox but keys, and answers it.
    pub(crate) async fn subscription_for_keys(&mut self) {
        let owner = self.owner;
        let deliver = self.stream(StreamRole::Deliver).await;
        let (frame_type, body) = deliver.next().await.unwrap();
        assert_eq!(frame_type, FrameType::Subscribe);
        assert_eq!(Subscribe::parse(&body).unwrap().mailbox, owner);
        let mut frame = Vec::new();
        Subscribed { mailbox: owner, queued_messages: 0 }.encode(&mut frame);
        deliver.send.write_all(&frame).await.unwrap();
    }

    pub(crate) async fn credit(&mut self) -> Credit {
        let deliver = self.stream(StreamRole::Deliver).await;
        let (frame_type, body) = timeout(PATIENCE, deliver.next()).await.expect("credit comes").unwrap();
        assert_eq!(frame_type, FrameType::Credit);
        Credit::parse(&body).unwrap()
    }

    /// Acknowledgements until there are `count`; credit in between is let by.
    pub(crate) async fn consumer_acks(&mut self, count: usize) -> Vec<u64> {
        let deliver = self.stream(StreamRole::Deliver).await;
        let mut sequences = Vec::new();
        while sequences.len() < count {
            let (frame_type, body) = timeout(PATIENCE, deliver.next()).await.expect("acknowledgements come").unwrap();
            match frame_type {
                FrameType::ConsumerAck => sequences.extend(ConsumerAck::parse(&body).unwrap().sequences),
                FrameType::Credit => {}
                other => panic!("{other:?} on the deliver stream"),
            }
        }
        assert_eq!(sequences.len(), count, "{sequences:?}");
        sequences
    }

    /// The frames in which so many messages are acknowledged; nothing else comes between them.
    pub(crate) async fn consumer_ack_frames(&mut self, count: usize) -> Vec<Vec<u64>> {
        let deliver = self.stream(StreamRole::Deliver).await;
        let mut frames: Vec<Vec<u64>> = Vec::new();
        while frames.iter().map(Vec::len).sum::<usize>() < count {
            let (frame_type, body) = timeout(PATIENCE, deliver.next()).await.expect("acknowledgements come").unwrap();
            assert_eq!(frame_type, FrameType::ConsumerAck);
            frames.push(ConsumerAck::parse(&body).unwrap().sequences);
        }
        frames
    }

    /// Refusals until there are `count`; credit in between is let by.
    pub(crate) async fn consumer_nacks(&mut self, count: usize) -> Vec<(u64, Nack)> {
        let deliver = self.stream(StreamRole::Deliver).await;
        let mut messages = Vec::new();
        while messages.len() < count {
            let (frame_type, body) = timeout(PATIENCE, deliver.next()).await.expect("refusals come").unwrap();
            match frame_type {
                FrameType::ConsumerNack => messages.extend(ConsumerNack::parse(&body).unwrap().messages),
                FrameType::Credit => {}
                other => panic!("{other:?} on the deliver stream"),
            }
        }
        assert_eq!(messages.len(), count, "{messages:?}");
        messages
    }

    /// Pushes messages of a batch: (index in the batch, mailbox sequence, attempt). The header goes once per batch.
    pub(crate) async fn deliver(&mut self, batch: &Batch, messages: &[(usize, u64, u8)]) {
        self.deliver_changed(batch, messages, |_| {}).await;
    }

    /// As [`deliver`](Self::deliver), with the frame's bytes changed before they leave.
    pub(crate) async fn deliver_changed(
        &mut self,
        batch: &Batch,
        messages: &[(usize, u64, u8)],
        change: impl FnOnce(&mut Vec<u8>),
    ) {
        let mut tree = Tree::new();
        tree.rebuild(&batch.entries.iter().map(|(salt, envelope)| leaf_hash(salt, envelope)).collect::<Vec<_>>());
        let known = self.header_sent.as_ref() == Some(&batch.header);
        self.header_sent = Some(batch.header.clone());
        let mut frame = Vec::new();
        let mut encoder = DeliverEncoder::begin(&mut frame, (!known).then_some(&batch.header));
        for (index, mailbox_sequence, attempt) in messages {
            let (salt, envelope) = &batch.entries[*index];
            let mut path = Vec::new();
            let leaf_index = u32::try_from(*index).unwrap();
            tree.path(leaf_index, &mut path);
            let (mailbox_sequence, attempt) = (*mailbox_sequence, *attempt);
            encoder.push(&MessageToDeliver { mailbox_sequence, leaf_index, attempt, salt, path: &path, envelope });
        }
        encoder.finish();
        change(&mut frame);
        self.stream(StreamRole::Deliver).await.send.write_all(&frame).await.unwrap();
    }

    /// Expects to be asked who subscribes to a channel, and says so.
    pub(crate) async fn attached(&mut self, members: &[AgentId]) -> ChannelId {
        let channel = self.attaches().await;
        self.members(&ChannelMembers { channel, version: 1, is_whole: true, joined: members.to_vec(), left: vec![] })
            .await;
        channel
    }

    /// Expects to be asked who subscribes to a channel.
    pub(crate) async fn attaches(&mut self) -> ChannelId {
        let submit = self.stream(StreamRole::Submit).await;
        let (frame_type, body) = timeout(PATIENCE, submit.next()).await.expect("a question comes").unwrap();
        assert_eq!(frame_type, FrameType::ChannelAttach);
        ChannelAttach::parse(&body).unwrap().channel
    }

    /// Expects that the publisher does not want to be told any more.
    pub(crate) async fn detached(&mut self) {
        let submit = self.stream(StreamRole::Submit).await;
        let (frame_type, _) = timeout(PATIENCE, submit.next()).await.expect("it comes").unwrap();
        assert_eq!(frame_type, FrameType::ChannelDetach);
    }

    /// Says who subscribes to a channel.
    pub(crate) async fn members(&mut self, members: &ChannelMembers) {
        let mut frame = Vec::new();
        members.encode(&mut frame);
        self.stream(StreamRole::Submit).await.send.write_all(&frame).await.unwrap();
    }

    /// Expects that a channel is subscribed to, answers, and waits for credit.
    pub(crate) async fn channel_subscription(&mut self, next_sequence: u64) -> ChannelSubscribe {
        self.channel_subscription_at(next_sequence, 0).await.0
    }

    /// As [`channel_subscription`](Self::channel_subscription), of a channel that keeps messages up to `newest_sequence`; gives the credit,
    /// too.
    pub(crate) async fn channel_subscription_at(
        &mut self,
        next_sequence: u64,
        newest_sequence: u64,
    ) -> (ChannelSubscribe, ChannelCredit) {
        let channels = self.stream(StreamRole::Channels).await;
        let (frame_type, body) = timeout(PATIENCE, channels.next()).await.expect("a subscription comes").unwrap();
        assert_eq!(frame_type, FrameType::ChannelSubscribe);
        let subscribe = ChannelSubscribe::parse(&body).unwrap();
        let ChannelSubscribe { handle, channel, .. } = subscribe;
        let oldest_sequence = 0;
        let mut frame = Vec::new();
        ChannelSubscribed { handle, channel, next_sequence, oldest_sequence, newest_sequence }.encode(&mut frame);
        channels.send.write_all(&frame).await.unwrap();
        let (frame_type, body) = timeout(PATIENCE, channels.next()).await.expect("credit comes").unwrap();
        assert_eq!((frame_type, ChannelCredit::parse(&body).unwrap().handle), (FrameType::ChannelCredit, handle));
        (subscribe, ChannelCredit::parse(&body).unwrap())
    }

    /// Expects that a channel is subscribed to only to be left, and answers.
    pub(crate) async fn channel_subscription_again(&mut self, next_sequence: u64) -> ChannelSubscribe {
        let (frame_type, body) = self.channel_frame().await;
        assert_eq!(frame_type, FrameType::ChannelSubscribe);
        let subscribe = ChannelSubscribe::parse(&body).unwrap();
        let ChannelSubscribe { handle, channel, .. } = subscribe;
        let (oldest_sequence, newest_sequence) = (0, 0);
        let mut frame = Vec::new();
        ChannelSubscribed { handle, channel, next_sequence, oldest_sequence, newest_sequence }.encode(&mut frame);
        self.stream(StreamRole::Channels).await.send.write_all(&frame).await.unwrap();
        subscribe
    }

    /// The next frame of the channels stream that is no credit.
    pub(crate) async fn channel_frame(&mut self) -> (FrameType, AlignedVec<8>) {
        let channels = self.stream(StreamRole::Channels).await;
        loop {
            let (frame_type, body) = timeout(PATIENCE, channels.next()).await.expect("it comes").unwrap();
            if frame_type != FrameType::ChannelCredit {
                return (frame_type, body);
            }
        }
    }

    /// The next messages of a channel that a member of a group gives back.
    pub(crate) async fn channel_nack(&mut self) -> ChannelNack {
        let (frame_type, body) = self.channel_frame().await;
        assert_eq!(frame_type, FrameType::ChannelNack);
        ChannelNack::parse(&body).unwrap()
    }

    /// Refuses something on the submit stream.
    pub(crate) async fn refuse_submit(&mut self, reject: Reject) {
        let mut frame = Vec::new();
        reject.encode(&mut frame);
        self.stream(StreamRole::Submit).await.send.write_all(&frame).await.unwrap();
    }

    /// Says that a channel is not read any more.
    pub(crate) async fn channel_left(&mut self, left: &ChannelLeft) {
        let mut frame = Vec::new();
        left.encode(&mut frame);
        self.stream(StreamRole::Channels).await.send.write_all(&frame).await.unwrap();
    }

    /// Pushes messages of a batch to a subscription of a channel: (index in the batch, sequence).
    pub(crate) async fn deliver_channel(&mut self, handle: u32, batch: &Batch, messages: &[(usize, u64)]) {
        let mut tree = Tree::new();
        tree.rebuild(&batch.entries.iter().map(|(salt, envelope)| leaf_hash(salt, envelope)).collect::<Vec<_>>());
        let mut body = Vec::new();
        let mut encoder = DeliverEncoder::begin_body(&mut body, Some(&batch.header));
        for (index, mailbox_sequence) in messages {
            let (salt, envelope) = &batch.entries[*index];
            let mut path = Vec::new();
            let leaf_index = u32::try_from(*index).unwrap();
            tree.path(leaf_index, &mut path);
            let (mailbox_sequence, attempt) = (*mailbox_sequence, 0);
            encoder.push(&MessageToDeliver { mailbox_sequence, leaf_index, attempt, salt, path: &path, envelope });
        }
        encoder.finish();
        let mut frame = Vec::new();
        ChannelDeliver::encode_head(&mut frame, handle, body.len());
        frame.extend_from_slice(&body);
        self.stream(StreamRole::Channels).await.send.write_all(&frame).await.unwrap();
    }

    /// The next acknowledgement of a channel's messages; credit in between is let by.
    pub(crate) async fn channel_ack(&mut self) -> ChannelAck {
        let (frame_type, body) = self.channel_frame().await;
        assert_eq!(frame_type, FrameType::ChannelAck);
        ChannelAck::parse(&body).unwrap()
    }

    /// The next credit for signals; credit for messages in between is let by.
    pub(crate) async fn signal_credit(&mut self) -> SignalCredit {
        let deliver = self.stream(StreamRole::Deliver).await;
        loop {
            let (frame_type, body) = timeout(PATIENCE, deliver.next()).await.expect("credit comes").unwrap();
            match frame_type {
                FrameType::SignalCredit => return SignalCredit::parse(&body).unwrap(),
                FrameType::Credit => {}
                other => panic!("{other:?} on the deliver stream"),
            }
        }
    }

    /// Pushes messages of a batch as signals, by their places in it; the frame's bytes may be changed before they leave.
    pub(crate) async fn signals(&mut self, batch: &Batch, indices: &[usize], change: impl FnOnce(&mut Vec<u8>)) {
        let mut tree = Tree::new();
        tree.rebuild(&batch.entries.iter().map(|(salt, envelope)| leaf_hash(salt, envelope)).collect::<Vec<_>>());
        let mut frame = Vec::new();
        let mut encoder = DeliverEncoder::begin_signal(&mut frame, &batch.header);
        for index in indices {
            let (salt, envelope) = &batch.entries[*index];
            let mut path = Vec::new();
            let leaf_index = u32::try_from(*index).unwrap();
            tree.path(leaf_index, &mut path);
            let (mailbox_sequence, attempt) = (0, 0);
            encoder.push(&MessageToDeliver { mailbox_sequence, leaf_index, attempt, salt, path: &path, envelope });
        }
        encoder.finish();
        change(&mut frame);
        self.stream(StreamRole::Deliver).await.send.write_all(&frame).await.unwrap();
    }

    /// Pushes a notice.
    pub(crate) async fn notice(&mut self, mailbox_sequence: u64, attempt: u8, body: &NoticeBody) {
        let mut frame = Vec::new();
        Notice::encode(&mut frame, mailbox_sequence, attempt, &body.to_bytes());
        self.stream(StreamRole::Deliver).await.send.write_all(&frame).await.unwrap();
    }

    /// Refuses something on the deliver stream.
    pub(crate) async fn refuse_deliver(&mut self, code: RejectCode) {
        let mut frame = Vec::new();
        Reject::new(code).encode(&mut frame);
        self.stream(StreamRole::Deliver).await.send.write_all(&frame).await.unwrap();
    }

    /// Breaks the connection off.
    pub(crate) fn cut(self) {
        self.connection.close(VarInt::from_u32(9_999), b"cut by the test");
    }
}

/// Waits until something becomes true that no message announces.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(tokio::time::Instant::now() < end, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
