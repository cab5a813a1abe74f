//! The worked example of the pages: two agents, three messages, one batch, everything from fixed inputs.
//!
//! [`build`] makes every file of `envelope/golden` anew. All that is random on the path is an argument here: the seeds of
//! the keys, the coins of the encapsulations, the salts, the ids and the times.

mod inputs;
mod session;
mod tree;

use std::collections::BTreeMap;

use creto_crypto_accel::digest::sha256;
use creto_crypto_accel::keys::{RecipientPublic, SigningPublic};
use creto_crypto_accel::merkle::{Tree, TreeHash, leaf_hash, node_hash};
use creto_crypto_accel::portable::{encapsulate_deterministic, sign_deterministic};
use creto_crypto_accel::seal::{RecipientSecret, message_key};
use creto_crypto_accel::sign::{HybridSignature, SigningKeys};
use creto_crypto_accel::{Backend, verify::VerifyingKeys};
use creto_envelope::batch::encode_signed_batch;
use creto_envelope::control::{
    KeyRecordPublish, KeyRecordPublished, KeyRecordRequest, Login, LoginAccepted, Reject, RotationMode, StreamOpen,
    StreamRole, encode_key_record_response, login_statement,
};
use creto_envelope::deliver::{
    ConsumerAck, ConsumerNack, Credit, DeliverEncoder, MessageToDeliver, Nack, Subscribe, Subscribed,
};
use creto_envelope::key_log::{KeyLeavesRequest, KeyProof, KeyProofRequest};
use creto_envelope::key_record::token_binding;
use creto_envelope::letters::{
    DeadLetterChange, DeadLetterChanged, DeadLetterEntry, DeadLetterList, DeadLetterRead, DeadLetters, DeathCause,
    LetterChange,
};
use creto_envelope::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, IN_FLIGHT_MESSAGES_MAX};
use creto_envelope::notice::{Notice, NoticeBody, NoticeCause};
use creto_envelope::presence::{PresenceAnswer, PresenceAudience, PresenceRequest, PresenceShow, PresenceState};
use creto_envelope::proof::ProofParts;
use creto_envelope::signal::SignalCredit;
use creto_envelope::submit::{SubmitAck, SubmitResult};
use creto_envelope::{
    AgentName, AgentState, BatchHeader, EnvelopeHeader, KeyId, KeyRecord, MessageId, Purpose, RejectCode,
    SignatureSuite, SignedKeyRecord, Statement, TreeDigest, TrustDomain,
};
use hkdf::Hkdf;
use serde::Serialize;
use sha2::Sha256;

use inputs::{
    AgentInput, EXECUTOR, MESSAGES, MessageInput, PLANNER, SIGNAL, SIGNED_AT_MS, VALID_FROM_MS, VALID_UNTIL_MS,
};
use session::SessionValues;

pub(crate) use inputs::{EXECUTOR_X_WING_SEED, EXPORTER};

/// Every golden file: its name and its text.
pub(crate) type Files = BTreeMap<String, String>;

/// What `example.json` holds, in the order in which a reader needs it.
#[derive(Serialize)]
struct Example {
    about: &'static str,
    trust_domain: &'static str,
    agents: BTreeMap<&'static str, AgentValues>,
    messages: Vec<MessageValues>,
    batch: BatchValues,
    session: SessionValues,
    signal: MessageValues,
    login: LoginValues,
    frames: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct AgentValues {
    name: &'static str,
    spiffe_id: String,
    ed25519_seed: String,
    ml_dsa_65_seed: String,
    x_wing_seed: String,
    agent_id: String,
    partition: u16,
    ed25519_public: String,
    ml_dsa_65_public_sha256: String,
    x25519_public: String,
    ml_kem_768_public_sha256: String,
    key_id: String,
    key_record_version: u32,
    valid_from_ms: u64,
    valid_until_ms: u64,
    key_record_signed_bytes_sha256: String,
    key_record_ed25519: String,
    key_record_ml_dsa_65_sha256: String,
    key_record_file: String,
}

#[derive(Serialize)]
struct MessageValues {
    plaintext: &'static str,
    message_id: String,
    header: String,
    encapsulation_coins: String,
    wrapped_key_sha256: String,
    shared_secret: String,
    hkdf_info: String,
    message_key: String,
    nonce: String,
    payload: String,
    envelope_bytes: usize,
    envelope_sha256: String,
    envelope_file: String,
    salt: String,
    leaf: String,
}

#[derive(Serialize)]
struct BatchValues {
    submit_sequence: u64,
    signed_at_ms: u64,
    tree_size: u32,
    node_of_leaves_0_and_1: String,
    root: String,
    paths: Vec<Vec<String>>,
    statement: String,
    ed25519: String,
    ml_dsa_65_sha256: String,
    batch_header_sha256: String,
    frame_file: &'static str,
    frame_bytes: usize,
    frame_sha256: String,
    deliver_files: [&'static str; 3],
}

#[derive(Serialize)]
struct LoginValues {
    exporter: String,
    statement: String,
    ed25519: String,
    ml_dsa_65_sha256: String,
    frame_file: &'static str,
}

/// An agent with all that follows from its seeds.
struct Agent {
    input: &'static AgentInput,
    record: SignedKeyRecord,
    recipient_public: RecipientPublic,
}

/// A message, sealed.
struct Sealed {
    input: &'static MessageInput,
    envelope: Vec<u8>,
    leaf: [u8; 32],
    values: MessageValues,
}

/// The same batch in suite 2: another tree, and so another statement and other signatures.
fn batch_over_sha3(planner: &Agent, sealed: &[Sealed]) -> Vec<u8> {
    let entries = || sealed.iter().map(|message| (&message.input.salt, &message.envelope[..]));
    let leaves: Vec<_> = entries().map(|(salt, envelope)| TreeHash::Sha3_256.leaf(salt, envelope)).collect();
    let mut tree = Tree::new();
    TreeHash::Sha3_256.rebuild(&mut tree, &leaves);
    let statement = Statement {
        sender: planner.record.record.agent_id(),
        key_record_version: planner.record.record.version,
        tree_size: tree.size(),
        root: tree.root(),
        signed_at_ms: SIGNED_AT_MS,
    };
    let signature = planner.sign(&statement.to_bytes_in(SignatureSuite::HybridSha3));
    let digest = TreeDigest::Sha3_256;
    let header = BatchHeader::over(digest, &statement, &signature.ed25519, &signature.ml_dsa_65, None);
    let mut frame = Vec::new();
    encode_signed_batch(&mut frame, 1, &header, entries()).unwrap();
    frame
}

/// Makes every golden file.
pub(crate) fn build() -> Files {
    let (planner, executor) = (Agent::new(&PLANNER), Agent::new(&EXECUTOR));
    let named = (0..).zip(&MESSAGES).map(|(index, input)| (format!("envelope-{index}"), input));
    let sealed: Vec<_> = named.map(|(name, input)| seal(&name, input, &planner, &executor)).collect();
    let signal = seal("signal-envelope", &SIGNAL, &planner, &executor);
    let leaves: Vec<_> = sealed.iter().map(|message| message.leaf).collect();
    let mut tree = Tree::new();
    tree.rebuild(&leaves);
    let paths: Vec<_> = (0..tree.size())
        .map(|index| {
            let mut path = Vec::new();
            tree.path(index, &mut path);
            path
        })
        .collect();
    let statement = Statement {
        sender: planner.record.record.agent_id(),
        key_record_version: planner.record.record.version,
        tree_size: tree.size(),
        root: tree.root(),
        signed_at_ms: SIGNED_AT_MS,
    };
    let signature = planner.sign(&statement.to_bytes());
    let header = BatchHeader::new(&statement, &signature.ed25519, &signature.ml_dsa_65);

    let mut batch_frame = Vec::new();
    let entries = sealed.iter().map(|message| (&message.input.salt, &message.envelope[..]));
    encode_signed_batch(&mut batch_frame, 1, &header, entries).unwrap();
    // Sequences count acceptance, delivery goes by priority: the urgent request overtakes the greeting before it.
    let deliver_first = deliver(Some(&header), &[(1, 2, 0), (0, 1, 0)], &sealed, &paths);
    let deliver_next = deliver(None, &[(2, 3, 0)], &sealed, &paths);
    // On the next connection: what was pushed and not acknowledged, with its header, for the stream is new.
    let deliver_again = deliver(Some(&header), &[(0, 1, 1)], &sealed, &paths);
    let (login_values, login_frame) = login(&planner);
    let (session_values, session_files) = session::build(&planner, &executor);

    let mut files = session_files;
    for message in sealed.iter().chain([&signal]) {
        files.insert(message.values.envelope_file.clone(), hex_lines(&message.envelope));
    }
    for agent in [&planner, &executor] {
        files.insert(agent.input.key_record_file(), hex_lines(&agent.record.to_bytes()));
    }
    // Format 2: as the planner signs for a token whose secret is 32 bytes 0x5a, and to replace its key in an emergency.
    let token_hash = sha256(&[&[0x5a; 32]]);
    let binding = token_binding(&token_hash, &planner.record.record.agent_id());
    let enrolled = planner.signed_for(1, Purpose::Enrolment(binding));
    let replaced = planner.signed_for(2, Purpose::Rotation(RotationMode::Emergency));
    files.insert("planner-enrolled.key-record.hex".into(), hex_lines(&enrolled.to_bytes()));
    files.insert("planner-emergency.key-record.hex".into(), hex_lines(&replaced.to_bytes()));
    files.insert("signed-batch.hex".into(), hex_lines(&batch_frame));
    files.insert("signed-batch-sha3.hex".into(), hex_lines(&batch_over_sha3(&planner, &sealed)));
    files.insert("deliver-first.hex".into(), hex_lines(&deliver_first));
    files.insert("deliver-next.hex".into(), hex_lines(&deliver_next));
    files.insert("deliver-again.hex".into(), hex_lines(&deliver_again));
    files.insert("login.hex".into(), hex_lines(&login_frame));
    files.insert("proof-1.hex".into(), hex_lines(&proof(1, &planner, &header, &sealed, &paths)));
    files.insert("merkle.json".into(), json(&tree::known_answers()));

    let batch = BatchValues {
        submit_sequence: 1,
        signed_at_ms: SIGNED_AT_MS,
        tree_size: tree.size(),
        node_of_leaves_0_and_1: hex::encode(node_hash(&leaves[0], &leaves[1])),
        root: hex::encode(tree.root()),
        paths: paths.iter().map(|path| path.iter().map(hex::encode).collect()).collect(),
        statement: hex::encode(statement.to_bytes()),
        ed25519: hex::encode(signature.ed25519),
        ml_dsa_65_sha256: digest(&signature.ml_dsa_65[..]),
        batch_header_sha256: digest(&header.to_bytes()),
        frame_file: "signed-batch.hex",
        frame_bytes: batch_frame.len(),
        frame_sha256: digest(&batch_frame),
        deliver_files: ["deliver-first.hex", "deliver-next.hex", "deliver-again.hex"],
    };
    let frames = small_frames(&planner, &executor);
    let example = Example {
        about: "Every value of the worked example, in hex unless it is a number or text. Seeds are public: never use them.",
        trust_domain: "creto.local",
        agents: BTreeMap::from([("planner", planner.values()), ("executor", executor.values())]),
        messages: sealed.into_iter().map(|message| message.values).collect(),
        batch,
        session: session_values,
        signal: signal.values,
        login: login_values,
        frames,
    };
    files.insert("example.json".into(), json(&example));
    files
}

impl Agent {
    fn new(input: &'static AgentInput) -> Self {
        let keys = SigningKeys::with_backend(Backend::Portable, &input.ed25519_seed(), &input.ml_dsa_65_seed());
        let SigningPublic { ed25519, ml_dsa_65 } = keys.public().clone();
        let recipient_public = RecipientSecret::with_backend(Backend::Portable, &input.x_wing_seed()).public().clone();
        let record = KeyRecord {
            version: 1,
            state: AgentState::Active,
            valid_from_ms: VALID_FROM_MS,
            valid_until_ms: VALID_UNTIL_MS,
            ed25519,
            x25519: recipient_public.x25519,
            ml_dsa_65: Box::new(ml_dsa_65),
            ml_kem_768: Box::new(recipient_public.ml_kem_768),
            name: AgentName::parse(input.name).unwrap(),
            trust_domain: TrustDomain::default(),
            fn_dsa_512: None,
            purpose: None,
        };
        VerifyingKeys::parse(&ed25519, &ml_dsa_65).expect("keys of honest seeds are accepted");
        let signature = sign(input, &record.signed_bytes());
        let record = SignedKeyRecord { record, ed25519: signature.ed25519, ml_dsa_65: signature.ml_dsa_65 };
        Self { input, record, recipient_public }
    }

    /// The key record with another version, for `purpose`.
    fn signed_for(&self, version: u32, purpose: Purpose) -> SignedKeyRecord {
        let record = KeyRecord { version, purpose: Some(purpose), ..self.record.record.clone() };
        let signature = self.sign(&record.signed_bytes());
        SignedKeyRecord { record, ed25519: signature.ed25519, ml_dsa_65: signature.ml_dsa_65 }
    }

    fn sign(&self, statement: &[u8]) -> HybridSignature {
        sign(self.input, statement)
    }

    fn values(&self) -> AgentValues {
        let record = &self.record.record;
        AgentValues {
            name: self.input.name,
            spiffe_id: record.name.spiffe_id(&record.trust_domain),
            ed25519_seed: hex::encode(self.input.ed25519_seed()),
            ml_dsa_65_seed: hex::encode(self.input.ml_dsa_65_seed()),
            x_wing_seed: hex::encode(self.input.x_wing_seed()),
            agent_id: record.agent_id().to_string(),
            partition: record.agent_id().partition(),
            ed25519_public: hex::encode(record.ed25519),
            ml_dsa_65_public_sha256: digest(&record.ml_dsa_65[..]),
            x25519_public: hex::encode(record.x25519),
            ml_kem_768_public_sha256: digest(&record.ml_kem_768[..]),
            key_id: record.key_id().to_string(),
            key_record_version: record.version,
            valid_from_ms: record.valid_from_ms,
            valid_until_ms: record.valid_until_ms,
            key_record_signed_bytes_sha256: digest(&record.signed_bytes()),
            key_record_ed25519: hex::encode(self.record.ed25519),
            key_record_ml_dsa_65_sha256: digest(&self.record.ml_dsa_65[..]),
            key_record_file: self.input.key_record_file(),
        }
    }
}

fn sign(input: &AgentInput, statement: &[u8]) -> HybridSignature {
    sign_deterministic(&input.ed25519_seed(), &input.ml_dsa_65_seed(), statement)
}

fn seal(name: &str, input: &'static MessageInput, sender: &Agent, recipient: &Agent) -> Sealed {
    let message_id = MessageId::from_parts(input.timestamp_ms, input.id_random);
    let header = EnvelopeHeader {
        kind: input.kind as u8,
        priority: input.priority as u8,
        flags: input.flags,
        ttl_s: input.ttl_s,
        correlation_id: input.correlation_id,
        ..EnvelopeHeader::sealed(
            sender.record.record.agent_id(),
            recipient.record.record.agent_id(),
            KeyId(recipient.recipient_public.key_id()),
            message_id,
            input.timestamp_ms,
            input.plaintext.len(),
        )
        .unwrap()
    };
    let header_bytes = header.to_bytes();
    let coins = input.coins();
    let (wrapped_key, secret) = encapsulate_deterministic(&recipient.recipient_public, &coins).unwrap();
    let mut envelope = [&header_bytes[..], &wrapped_key].concat();
    message_key(&secret, &header_bytes).seal_append(
        &header.nonce,
        &header_bytes,
        input.plaintext.as_bytes(),
        &mut envelope,
    );
    // The key once more by another hand: what opens under it was sealed under it.
    let info = [&b"creto/sealed/v1\0"[..], &header_bytes].concat();
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(None, secret.expose()).expand(&info, &mut key).unwrap();

    let leaf = leaf_hash(&input.salt, &envelope);
    let values = MessageValues {
        plaintext: input.plaintext,
        message_id: message_id.to_uuid_string(),
        header: hex::encode(header_bytes),
        encapsulation_coins: hex::encode(coins),
        wrapped_key_sha256: digest(&wrapped_key),
        shared_secret: hex::encode(secret.expose()),
        hkdf_info: hex::encode(&info),
        message_key: hex::encode(key),
        nonce: hex::encode(header.nonce),
        payload: hex::encode(&envelope[160 + 1_120..]),
        envelope_bytes: envelope.len(),
        envelope_sha256: digest(&envelope),
        envelope_file: format!("{name}.hex"),
        salt: hex::encode(input.salt),
        leaf: hex::encode(leaf),
    };
    Sealed { input, envelope, leaf, values }
}

/// A Deliver frame of messages given by leaf index, mailbox sequence and attempt.
fn deliver(
    header: Option<&BatchHeader>,
    pushed: &[(u32, u64, u8)],
    sealed: &[Sealed],
    paths: &[Vec<[u8; 32]>],
) -> Vec<u8> {
    let header = header.map(BatchHeader::to_bytes);
    let mut frame = Vec::new();
    let mut encoder = DeliverEncoder::begin(&mut frame, header.as_ref().map(|header| &header[..]));
    for &(leaf_index, mailbox_sequence, attempt) in pushed {
        let message = &sealed[leaf_index as usize];
        encoder.push(&MessageToDeliver {
            mailbox_sequence,
            leaf_index,
            attempt,
            salt: &message.input.salt,
            path: &paths[leaf_index as usize],
            envelope: &message.envelope,
        });
    }
    encoder.finish();
    frame
}

/// What shows a third party who signed the message at `leaf_index`.
fn proof(leaf_index: u32, sender: &Agent, header: &BatchHeader, sealed: &[Sealed], paths: &[Vec<[u8; 32]>]) -> Vec<u8> {
    let message = &sealed[leaf_index as usize];
    ProofParts {
        batch_header: &header.to_bytes(),
        leaf_index,
        salt: &message.input.salt,
        path: paths[leaf_index as usize].as_flattened(),
        envelope: &message.envelope,
        key_record: &sender.record,
    }
    .to_bytes()
}

fn login(agent: &Agent) -> (LoginValues, Vec<u8>) {
    let record = &agent.record.record;
    let statement = login_statement(&EXPORTER, &record.agent_id(), record.version);
    let HybridSignature { ed25519, ml_dsa_65 } = agent.sign(&statement);
    let values = LoginValues {
        exporter: hex::encode(EXPORTER),
        statement: hex::encode(statement),
        ed25519: hex::encode(ed25519),
        ml_dsa_65_sha256: digest(&ml_dsa_65[..]),
        frame_file: "login.hex",
    };
    let mut frame = Vec::new();
    Login { agent: record.agent_id(), key_record_version: record.version, ed25519, ml_dsa_65 }.encode(&mut frame);
    (values, frame)
}

fn small_frames(planner: &Agent, executor: &Agent) -> BTreeMap<&'static str, String> {
    fn frame(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        hex::encode(out)
    }
    let mailbox = executor.record.record.agent_id();
    let accepted = LoginAccepted {
        node_time_ms: VALID_FROM_MS + 500,
        shard_index: 1,
        shard_count: 2,
        in_flight_messages_max: IN_FLIGHT_MESSAGES_MAX,
        batch_messages_max: u32::try_from(BATCH_MESSAGES_MAX).unwrap(),
        batch_bytes_max: u32::try_from(BATCH_BYTES_MAX).unwrap(),
    };
    let ack =
        SubmitAck { through_sequence: 1, pause_ms: 0, results: vec![SubmitResult::new(1, 2, RejectCode::Duplicate)] };
    let reject = Reject {
        code: RejectCode::UnknownAgent.as_u16(),
        retry_after_ms: 0,
        context: planner.record.record.agent_id().0,
    };
    let nacked = vec![(2, Nack::Later { delay_ms: 500 }), (3, Nack::Never { reason: 7 })];
    let letter = DeadLetterEntry {
        mailbox_sequence: 3,
        died_ms: accepted.node_time_ms,
        expiry_ms: 0,
        envelope_bytes: 1_296,
        reason: 7,
        cause: DeathCause::Rejected,
        deliveries: 1,
    };
    let change = DeadLetterChange { mailbox, change: LetterChange::Replay, sequences: vec![3] };
    // Of message 1, whose time to live is a minute.
    let notice = NoticeBody {
        recipient: mailbox,
        message_id: MessageId::from_parts(MESSAGES[1].timestamp_ms, MESSAGES[1].id_random),
        expired_at_ms: VALID_FROM_MS + 61_020,
        cause: NoticeCause::TimeToLive,
    };
    let presence = PresenceAnswer { agent: mailbox, state: PresenceState::Seen { minutes: 7 } };
    let proof_request = KeyProofRequest { agent: mailbox, version: 1, seen: 40, wants_keys: false };
    let no_proof = KeyProof { agent: mailbox, version: 9, answer: Err(RejectCode::UnknownKeyVersion.into()) };
    let mut response = Vec::new();
    encode_key_record_response(&mut response, &planner.record);
    let mut publish = Vec::new();
    KeyRecordPublish { mode: RotationMode::Planned, record: planner.record.clone() }.encode(&mut publish);
    BTreeMap::from([
        ("stream_open_control", frame(|out| StreamOpen { role: StreamRole::Control }.encode(out))),
        ("stream_open_submit", frame(|out| StreamOpen { role: StreamRole::Submit }.encode(out))),
        ("stream_open_deliver", frame(|out| StreamOpen { role: StreamRole::Deliver }.encode(out))),
        ("login_accepted", frame(|out| accepted.encode(out))),
        ("reject", frame(|out| reject.encode(out))),
        ("key_record_request", frame(|out| KeyRecordRequest { agent: mailbox, version: 0 }.encode(out))),
        ("key_record_response_header", hex::encode(&response[..16])),
        ("key_record_publish_header", hex::encode(&publish[..24])),
        ("key_record_published", frame(|out| KeyRecordPublished { version: 2 }.encode(out))),
        ("submit_ack", frame(|out| ack.encode(out))),
        ("subscribe", frame(|out| Subscribe { mailbox }.encode(out))),
        ("subscribed", frame(|out| Subscribed { mailbox, queued_messages: 3 }.encode(out))),
        ("credit", frame(|out| Credit { messages: 256, bytes: 1024 * 1024 }.encode(out))),
        ("consumer_ack", frame(|out| ConsumerAck { sequences: vec![2, 3] }.encode(out))),
        ("consumer_nack", frame(|out| ConsumerNack { messages: nacked }.encode(out))),
        ("notice", frame(|out| Notice::encode(out, 4, 0, &notice.to_bytes()))),
        ("signal_credit", frame(|out| SignalCredit { signals: 64 }.encode(out))),
        ("presence_show", frame(|out| PresenceShow { audience: PresenceAudience::Senders }.encode(out))),
        ("presence_request", frame(|out| PresenceRequest { agent: mailbox }.encode(out))),
        ("presence_answer", frame(|out| presence.encode(out))),
        ("dead_letter_list", frame(|out| DeadLetterList { mailbox, after: 0, letters_max: 100 }.encode(out))),
        ("dead_letters", frame(|out| DeadLetters { total: 1, letters: vec![letter] }.encode(out))),
        ("dead_letter_read", frame(|out| DeadLetterRead { mailbox, mailbox_sequence: 3 }.encode(out))),
        ("dead_letter_change", frame(|out| change.encode(out))),
        ("dead_letter_changed", frame(|out| DeadLetterChanged { count: 1 }.encode(out))),
        ("key_proof_request", frame(|out| proof_request.encode(out))),
        ("key_proof_refused", frame(|out| no_proof.encode(out))),
        ("key_leaves_request", frame(|out| KeyLeavesRequest { from: 40, through: 52 }.encode(out))),
    ])
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(sha256(&[bytes]))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap() + "\n"
}

/// Hex in lines of 32 bytes.
fn hex_lines(bytes: &[u8]) -> String {
    bytes.chunks(32).map(|line| hex::encode(line) + "\n").collect()
}
