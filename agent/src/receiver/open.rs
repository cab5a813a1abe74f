//! From a Deliver frame to payloads: everything is verified again, nothing that the node says is taken on trust.

use std::num::NonZeroU8;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use creto_crypto_accel::digest::{Hash, sha256};
use creto_crypto_accel::merkle::{PathVerifier, TreeHash, leaf_hashes};
use creto_crypto_accel::seal::{RecipientSecret, message_key};
use creto_crypto_accel::session::{Peers, ReceiveChain};
use creto_crypto_accel::verify::{Item, RootCache};
use creto_envelope::deliver::DeliveredSpan;
use creto_envelope::envelope::nonce;
use creto_envelope::proof::ProofParts;
use creto_envelope::thread::TypedPayload;
use creto_envelope::{
    AgentId, BatchHeaderView, ChannelId, EnvelopeView, KeyId, Kind, MessageId, Priority, RejectCode, Suite, TreeDigest,
};

use crate::clock;
use crate::directory::{Directory, Identity, lookup_code};
use crate::error::LookupError;
use crate::keys::AgentKeys;
use crate::limits::ROOTS_CACHED;
use crate::receiver::sessions::{self, IncomingSessions, Sealed, SessionUse};
use crate::self_destruct;
use crate::stats::{Counters, UNPOISONED};
use crate::trace::{self, TraceContext};

#[cfg(test)]
mod tests;

/// What places a message in its tree.
struct LeafProof<'a> {
    span: &'a DeliveredSpan,
    path: &'a [Hash],
    /// There if the signatures of the batch hold.
    leaf: Option<&'a Hash>,
}

/// Verifies and opens what is addressed to one agent.
#[derive(Debug)]
pub(crate) struct Opener {
    keys: Arc<AgentKeys>,
    roots: Mutex<RootCache>,
    /// Whether each message comes with its proof.
    keep_proofs: bool,
    counters: Arc<Counters>,
}

/// A batch header as it came, with the record of its sender; its verdict is made once.
#[derive(Debug)]
pub(crate) struct SignedHeader {
    /// The frame that the header came in: it starts eight bytes into it.
    frame: Bytes,
    identity: Result<Arc<Identity>, LookupError>,
    verdict: OnceLock<Result<(), RejectCode>>,
    /// What the messages of the batch that came so far have proven of its tree.
    paths: Mutex<PathVerifier>,
}

/// Where the batch header stands in the body of a Deliver frame.
const HEADER_OFFSET: usize = 8;
const PARSED: &str = "the frame was parsed when it came";

impl SignedHeader {
    /// `frame` is the body of a Deliver frame that was parsed and carries a header.
    pub(crate) fn new(frame: Bytes, identity: Result<Arc<Identity>, LookupError>) -> Self {
        let header = BatchHeaderView::parse(&frame[HEADER_OFFSET..]).expect(PARSED);
        let paths = Mutex::new(PathVerifier::new(header.root(), header.tree_size()));
        Self { frame, identity, verdict: OnceLock::new(), paths }
    }

    fn view(&self) -> BatchHeaderView<'_> {
        BatchHeaderView::parse(&self.frame[HEADER_OFFSET..]).expect(PARSED)
    }

    /// Whether its sender's record could not be had when it came, and may be had later.
    pub(crate) fn is_unproven(&self) -> bool {
        self.identity.as_ref().is_err_and(LookupError::is_temporary)
    }

    /// The same header, after its sender's record was looked up once more.
    pub(crate) async fn look_up_again(&self, directory: &Directory) -> Self {
        let (sender, version) = {
            let batch = self.view();
            (batch.sender(), batch.key_record_version())
        };
        Self::new(self.frame.clone(), directory.lookup(sender, version).await)
    }
}

/// A message that holds, as far as it has to.
#[derive(Debug)]
pub(crate) enum Arrived {
    Message(Opened),
    /// Signatures and sender hold, and its session says that it was settled before: it is to be acknowledged again.
    Settled(SessionUse),
}

/// A message that holds in every respect.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) identity: Arc<Identity>,
    pub(crate) message_id: MessageId,
    pub(crate) correlation_id: MessageId,
    pub(crate) kind: Kind,
    /// The channel that it is about, or zero.
    pub(crate) channel: ChannelId,
    pub(crate) priority: Priority,
    pub(crate) timestamp_ms: u64,
    pub(crate) payload: Bytes,
    /// Where in a trace its sender was.
    pub(crate) trace: Option<Box<TraceContext>>,
    pub(crate) proof: Option<Bytes>,
    /// Whether its sender asks for a receipt.
    pub(crate) wants_receipt: bool,
    /// Whether its sender asks to be told that it was opened.
    pub(crate) wants_delivered: bool,
    /// It is a signal, and means something for so many seconds.
    pub(crate) signal_ttl_s: Option<NonZeroU8>,
    /// SHA-256 of its envelope, if its sender asks for a receipt or its payload says that it is typed.
    pub(crate) envelope_sha256: Option<[u8; 32]>,
    /// Its place in the session that it belongs to.
    pub(crate) session: Option<SessionUse>,
    /// It opened that session.
    pub(crate) accepted: bool,
    /// The prekey to which that session was opened.
    pub(crate) prekey: Option<KeyId>,
}

/// A message that does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) code: RejectCode,
    /// As the envelope claims, when it could be read.
    pub(crate) from: AgentId,
    pub(crate) message_id: MessageId,
}

impl Opened {
    /// Whether it brings a key of a channel: such a message is nobody's to see.
    pub(crate) fn is_channel_key(&self) -> bool {
        self.kind == Kind::Control && self.channel != ChannelId::ZERO
    }
}

impl Opener {
    pub(crate) fn new(keys: Arc<AgentKeys>, counters: Arc<Counters>) -> Self {
        Self { keys, roots: Mutex::new(RootCache::new(ROOTS_CACHED)), keep_proofs: false, counters }
    }

    /// The same, and each message comes with its proof if `keep_proofs` says so.
    pub(crate) fn with_proofs(self, keep_proofs: bool) -> Self {
        Self { keep_proofs, ..self }
    }

    /// Verifies and opens messages of the frame `body`, in order.
    pub(crate) fn open(
        &self,
        sessions: &IncomingSessions,
        header: &SignedHeader,
        body: &[u8],
        spans: &[DeliveredSpan],
    ) -> Vec<Result<Arrived, Refused>> {
        let leaves = self.leaves(header, body, spans);
        let open = |(index, span)| self.open_one(sessions, header, body, span, leaves.get(index));
        spans.iter().enumerate().map(open).collect()
    }

    /// The leaf of each message, all hashed together; none where the signatures do not hold, and nothing is worth hashing.
    fn leaves(&self, header: &SignedHeader, body: &[u8], spans: &[DeliveredSpan]) -> Vec<Hash> {
        let holds = header.identity.as_ref().is_ok_and(|identity| self.verdict(header, identity).is_ok());
        if !holds {
            return Vec::new();
        }
        let mut leaves = Vec::with_capacity(spans.len());
        let entries = spans.iter().map(|span| (&span.salt, &body[span.envelope.clone()]));
        match header.view().signature_suite().tree_digest() {
            TreeDigest::Sha256 => leaf_hashes(entries, &mut leaves),
            TreeDigest::Sha3_256 => leaves.extend(entries.map(|(salt, bytes)| TreeHash::Sha3_256.leaf(salt, bytes))),
        }
        leaves
    }

    fn open_one(
        &self,
        sessions: &IncomingSessions,
        header: &SignedHeader,
        body: &[u8],
        span: &DeliveredSpan,
        leaf: Option<&Hash>,
    ) -> Result<Arrived, Refused> {
        let refused = |code| Refused { code, from: AgentId::ZERO, message_id: MessageId::ZERO };
        let envelope = EnvelopeView::parse(&body[span.envelope.clone()]).map_err(refused)?;
        let proof = LeafProof { span, path: span.path(body), leaf };
        self.open_envelope(sessions, header, &envelope, &proof).map_err(|code| Refused {
            code,
            from: envelope.sender(),
            message_id: envelope.message_id(),
        })
    }

    fn open_envelope(
        &self,
        sessions: &IncomingSessions,
        header: &SignedHeader,
        envelope: &EnvelopeView<'_>,
        leaf_proof: &LeafProof<'_>,
    ) -> Result<Arrived, RejectCode> {
        let identity = self.verify(header, envelope, leaf_proof)?;
        let batch = header.view();
        let LeafProof { span, path, .. } = leaf_proof;
        if envelope.recipient() != self.keys.id() {
            return Err(RejectCode::NotMailboxOwner);
        }
        let (payload, session, accepted) = match envelope.suite() {
            Suite::Session => {
                let session =
                    SessionUse { key: (envelope.sender(), envelope.session_id()), counter: envelope.counter() };
                match self.open_in_session(sessions, envelope, session)? {
                    sessions::Opened::Payload { payload, accepted } => (payload, Some(session), accepted),
                    sessions::Opened::Settled => return Ok(Arrived::Settled(session)),
                }
            }
            Suite::Sealed => (self.open_sealed(envelope)?, None, false),
            // What is published comes on another stream.
            _ => return Err(RejectCode::EnvelopeChannel),
        };
        let head = envelope.header();
        let signal_ttl_s = signal_ttl_s(envelope);
        // Nobody writes one elsewhere: what looks so is the application's, or of the SDK itself.
        let (trace, head_bytes) = match trace::may_stand_in(envelope.kind()) && signal_ttl_s.is_none() {
            true => trace::taken(&payload, &self.counters),
            false => (None, 0),
        };
        Ok(Arrived::Message(Opened {
            identity: Arc::clone(identity),
            message_id: envelope.message_id(),
            correlation_id: MessageId(head.correlation_id),
            kind: envelope.kind(),
            channel: envelope.channel(),
            priority: envelope.priority(),
            timestamp_ms: head.timestamp_ms.to_native(),
            wants_receipt: envelope.wants_receipt(),
            wants_delivered: envelope.wants_delivered(),
            signal_ttl_s,
            envelope_sha256: (envelope.wants_receipt()
                || envelope.wants_delivered()
                || TypedPayload::is_claimed(&payload[head_bytes..]))
            .then(|| sha256(&[envelope.as_bytes()])),
            payload: self_destruct::opened(payload, head_bytes),
            trace: trace.map(Box::new),
            proof: self.keep_proofs.then(|| proof(identity, &batch, envelope, span, path)),
            session,
            accepted,
            prekey: envelope.is_to_prekey().then(|| envelope.key_id()),
        }))
    }

    /// Who signed the message: its batch's signatures hold, it is in the batch's tree, and is from whom it says.
    fn verify<'h>(
        &self,
        header: &'h SignedHeader,
        envelope: &EnvelopeView<'_>,
        LeafProof { span, path, leaf }: &LeafProof<'_>,
    ) -> Result<&'h Arc<Identity>, RejectCode> {
        let identity = header.identity.as_ref().map_err(lookup_code)?;
        self.verdict(header, identity)?;
        let leaf = *leaf.expect("where the signatures hold, leaves are hashed");
        let batch = header.view();
        match batch.signature_suite().tree_digest() {
            TreeDigest::Sha256 => {
                let mut paths = header.paths.lock().expect(UNPOISONED);
                paths.verify(leaf, span.leaf_index, path).map_err(|_| RejectCode::BatchRoot)?;
            }
            TreeDigest::Sha3_256 => {
                let root = TreeHash::Sha3_256.root_from_path(leaf, span.leaf_index, batch.tree_size(), path);
                if root != Ok(*batch.root()) {
                    return Err(RejectCode::BatchRoot);
                }
            }
        }
        if envelope.sender() != batch.sender() {
            return Err(RejectCode::SenderMismatch);
        }
        Ok(identity)
    }

    /// Verifies messages of the frame `body`, which were published in `channel`, in order: gives who published each. Opens none.
    pub(crate) fn verify_published(
        &self,
        channel: ChannelId,
        header: &SignedHeader,
        body: &[u8],
        spans: &[DeliveredSpan],
    ) -> Vec<Result<Arc<Identity>, Refused>> {
        let leaves = self.leaves(header, body, spans);
        let verify = |(index, span): (usize, &DeliveredSpan)| {
            let refused = |code| Refused { code, from: AgentId::ZERO, message_id: MessageId::ZERO };
            let envelope = EnvelopeView::parse(&body[span.envelope.clone()]).map_err(refused)?;
            let proof = LeafProof { span, path: span.path(body), leaf: leaves.get(index) };
            let verified = self.verify(header, &envelope, &proof).and_then(|identity| {
                let is_of_channel = envelope.suite() == Suite::Channel && envelope.channel() == channel;
                if is_of_channel { Ok(Arc::clone(identity)) } else { Err(RejectCode::EnvelopeChannel) }
            });
            verified.map_err(|code| Refused { code, from: envelope.sender(), message_id: envelope.message_id() })
        };
        spans.iter().enumerate().map(verify).collect()
    }

    fn open_sealed(&self, envelope: &EnvelopeView<'_>) -> Result<Vec<u8>, RejectCode> {
        let secret_key = self.keys.opening(envelope.key_id()).ok_or(RejectCode::UnknownRecipientKey)?;
        let wrapped_key = envelope.wrapped_key().expect("an envelope of the sealed suite was parsed with one");
        let secret = secret_key.decapsulate(wrapped_key).map_err(|_| RejectCode::EnvelopeSeal)?;
        message_key(&secret, envelope.header_bytes())
            .open(&nonce(envelope.counter()), envelope.header_bytes(), envelope.payload())
            .map_err(|_| RejectCode::EnvelopeSeal)
    }

    fn open_in_session(
        &self,
        sessions: &IncomingSessions,
        envelope: &EnvelopeView<'_>,
        session: SessionUse,
    ) -> Result<sessions::Opened, RejectCode> {
        let (sender, session_id) = session.key;
        let accept = envelope.wrapped_key().map(|wrapped_key| {
            move || {
                let secret = self.session_secret(sessions, envelope).ok_or(RejectCode::UnknownRecipientKey)?;
                let peers = Peers { sender: sender.0, recipient: envelope.recipient().0, key_id: envelope.key_id().0 };
                ReceiveChain::accept(&secret, &peers, &session_id, wrapped_key).map_err(|_| RejectCode::EnvelopeSeal)
            }
        });
        let nonce = nonce(session.counter);
        let sealed = Sealed { nonce, aad: envelope.header_bytes(), payload: envelope.payload() };
        let prekey = envelope.is_to_prekey().then(|| envelope.key_id());
        sessions.open_message(session, prekey, accept, &sealed)
    }

    /// The secret half of the key that a session was opened to.
    fn session_secret(&self, sessions: &IncomingSessions, envelope: &EnvelopeView<'_>) -> Option<Arc<RecipientSecret>> {
        let key_id = envelope.key_id();
        if !envelope.is_to_prekey() {
            return self.keys.opening(key_id);
        }
        let (secret, version) = sessions.prekeys(|prekeys| prekeys.opening(key_id, clock::now_ms()))??;
        self.keys.touch(version);
        Some(secret)
    }

    /// The verdict on the header's signatures: made once per header, remembered over connections.
    fn verdict(&self, header: &SignedHeader, identity: &Identity) -> Result<(), RejectCode> {
        *header.verdict.get_or_init(|| {
            let batch = header.view();
            let signed_at_ms = batch.signed_at_ms();
            if signed_at_ms < identity.record.valid_from_ms {
                return Err(RejectCode::KeyNotYetValid);
            }
            if signed_at_ms >= identity.record.valid_until_ms {
                return Err(RejectCode::KeyExpired);
            }
            // Which signatures must be there comes from the record, never from the message.
            if batch.signature_suite().has_fn_dsa_512() != identity.record.fn_dsa_512.is_some() {
                return Err(RejectCode::BatchSuite);
            }
            let statement = batch.statement_bytes();
            let item = Item {
                keys: &identity.signing,
                statement: &statement,
                ed25519: batch.ed25519(),
                ml_dsa_65: batch.ml_dsa_65(),
            };
            let third = identity.signing.verify_fn_dsa_512(&statement, batch.fn_dsa_512());
            let verdict = self.roots.lock().expect(UNPOISONED).verify(&item);
            verdict.and(third).map_err(|_| RejectCode::BadSignature)
        })
    }
}

/// For how many seconds a signal means something; none for a message.
fn signal_ttl_s(envelope: &EnvelopeView<'_>) -> Option<NonZeroU8> {
    envelope.signal_until_ms()?;
    let ttl_s = u8::try_from(envelope.header().ttl_s.to_native()).ok().and_then(NonZeroU8::new);
    Some(ttl_s.expect("a signal was parsed with 1 to 60 seconds"))
}

/// What shows a third party who signed the message.
fn proof(
    identity: &Identity,
    batch: &BatchHeaderView<'_>,
    envelope: &EnvelopeView<'_>,
    span: &DeliveredSpan,
    path: &[Hash],
) -> Bytes {
    let parts = ProofParts {
        batch_header: batch.as_bytes(),
        leaf_index: span.leaf_index,
        salt: &span.salt,
        path: path.as_flattened(),
        envelope: envelope.as_bytes(),
        key_record: &identity.signed_record(),
    };
    Bytes::from(parts.to_bytes())
}
