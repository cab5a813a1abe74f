//! What both ends of a session spend on cryptography, everything included: renewing the session every 1,000 messages, a key
//! per message, AES-256-GCM, leaf, tree, both signatures; and at the recipient the signatures once per batch, the path, the
//! key, the plaintext, and forgetting the key.
//!
//! Figures are per message: criterion divides by the messages of one iteration.

use std::hint::black_box;

use creto_crypto_accel::keys::XWING_CIPHERTEXT_BYTES;
use creto_crypto_accel::merkle::{PathVerifier, Tree, leaf_hash, leaf_hashes};
use creto_crypto_accel::seal::{RecipientKey, RecipientSecret};
use creto_crypto_accel::session::{Peers, ReceiveChain, SendChain};
use creto_crypto_accel::sign::{HybridSignature, SigningKeys};
use creto_crypto_accel::verify::{Item, RootCache, VerifyingKeys};
use creto_envelope::batch::Statement;
use creto_envelope::envelope::{ENVELOPE_HEADER_BYTES, nonce};
use creto_envelope::{AgentId, EnvelopeHeader, InSession, KeyId, MessageId};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const PAYLOAD_BYTES: usize = 1024;
/// Messages after which a sender renews a session, by default.
const RENEW_MESSAGES: u64 = 1_000;
const SALT: [u8; 16] = [7; 16];
const SENDER: AgentId = AgentId([1; 16]);
const RECIPIENT: AgentId = AgentId([2; 16]);

/// A sender with a session and one batch, whose memory is used again and again.
struct Sender {
    recipient: RecipientKey,
    signing: SigningKeys,
    session: SendChain,
    wrapped_key: [u8; XWING_CIPHERTEXT_BYTES],
    envelopes: Vec<Vec<u8>>,
    leaves: Vec<[u8; 32]>,
    tree: Tree,
}

impl Sender {
    fn new(secret: &RecipientSecret, batch_messages: usize) -> Self {
        let recipient = RecipientKey::parse(secret.public()).expect("an honest key");
        let (session, wrapped_key) = SendChain::open(&recipient, &peers(&recipient));
        Self {
            recipient,
            signing: SigningKeys::from_seeds(&[1; 32], &[2; 32]),
            session,
            wrapped_key,
            envelopes: vec![Vec::new(); batch_messages],
            leaves: Vec::new(),
            tree: Tree::new(),
        }
    }

    /// Seals one payload per envelope and signs the batch.
    fn send(&mut self, payload: &[u8]) -> (Statement, HybridSignature) {
        self.leaves.clear();
        for envelope in &mut self.envelopes {
            if self.session.counter() == RENEW_MESSAGES {
                (self.session, self.wrapped_key) = SendChain::open(&self.recipient, &peers(&self.recipient));
            }
            let (counter, key) = self.session.next().expect("the session was renewed in time");
            let position = InSession { session_id: self.session.session_id(), counter, with_wrapped_key: false };
            let key_id = KeyId(self.recipient.key_id());
            let id = MessageId::from_parts(1_700_000_000_000, [3; 10]);
            let header = EnvelopeHeader::session(SENDER, RECIPIENT, key_id, id, 0, payload.len(), &position)
                .expect("a small payload");
            let header_bytes = header.to_bytes();
            envelope.clear();
            envelope.extend_from_slice(&header_bytes);
            key.seal_append(&header.nonce, &header_bytes, payload, envelope);
        }
        leaf_hashes(self.envelopes.iter().map(|envelope| (&SALT, envelope.as_slice())), &mut self.leaves);
        self.tree.rebuild(&self.leaves);
        let statement = Statement {
            sender: SENDER,
            key_record_version: 1,
            tree_size: self.tree.size(),
            root: self.tree.root(),
            signed_at_ms: 0,
        };
        let signature = self.signing.sign(&statement.to_bytes());
        (statement, signature)
    }
}

fn peers(recipient: &RecipientKey) -> Peers {
    Peers { sender: SENDER.0, recipient: RECIPIENT.0, key_id: recipient.key_id() }
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    let secret = RecipientSecret::from_seed(&[3; 32]);
    let payload = vec![5; PAYLOAD_BYTES];
    for (name, batch_messages) in
        [("session-signed-1KiB-256", 256), ("session-signed-1KiB-64", 64), ("session-single-1KiB", 1)]
    {
        group.throughput(Throughput::Elements(batch_messages as u64));
        let mut sender = Sender::new(&secret, batch_messages);
        group.bench_function(name, |b| b.iter(|| sender.send(black_box(&payload))));
    }
    group.finish();
}

/// The sender's and the recipient's part of opening a session.
fn establish(c: &mut Criterion) {
    let mut group = c.benchmark_group("session");
    let secret = RecipientSecret::from_seed(&[3; 32]);
    let recipient = RecipientKey::parse(secret.public()).expect("an honest key");
    let peers = peers(&recipient);
    group.bench_function("open", |b| b.iter(|| SendChain::open(&recipient, black_box(&peers))));
    let (chain, wrapped_key) = SendChain::open(&recipient, &peers);
    group.bench_function("accept", |b| {
        b.iter(|| ReceiveChain::accept(&secret, &peers, &chain.session_id(), black_box(&wrapped_key)));
    });
    let mut stepped = chain;
    group.throughput(Throughput::Elements(1));
    group.bench_function("step", |b| {
        b.iter(|| {
            if stepped.next().is_none() {
                (stepped, _) = SendChain::open(&recipient, &peers);
            }
        });
    });
    group.finish();
}

/// A batch as the recipient has it: header, and for each message salt, path and envelope.
struct Delivered {
    statement: Statement,
    signature: HybridSignature,
    paths: Vec<Vec<[u8; 32]>>,
    envelopes: Vec<Vec<u8>>,
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    let secret = RecipientSecret::from_seed(&[3; 32]);
    for (name, batch_messages) in [("session-1KiB-256", 256u32), ("session-1KiB-64", 64), ("session-1KiB-1", 1)] {
        let mut sender = Sender::new(&secret, batch_messages as usize);
        let public = sender.signing.public();
        let keys = VerifyingKeys::parse(&public.ed25519, &public.ml_dsa_65).expect("honest keys");
        let peers = peers(&sender.recipient);
        let accepted = ReceiveChain::accept(&secret, &peers, &sender.session.session_id(), &sender.wrapped_key)
            .expect("an honest session")
            .to_bytes();
        let (statement, signature) = sender.send(&[5; PAYLOAD_BYTES]);
        let paths = (0..batch_messages).map(|index| {
            let mut path = Vec::new();
            sender.tree.path(index, &mut path);
            path
        });
        let batch = Delivered { statement, signature, paths: paths.collect(), envelopes: sender.envelopes };

        let mut roots = RootCache::new(64);
        let mut verifier = PathVerifier::new(&[0; 32], 0);
        let mut plaintext = Vec::new();
        group.throughput(Throughput::Elements(u64::from(batch_messages)));
        group.bench_function(name, |b| {
            b.iter_batched_ref(
                || ReceiveChain::from_bytes(&accepted).expect("stored just now"),
                |chain| {
                    let statement = batch.statement.to_bytes();
                    let (ed25519, ml_dsa_65) = (&batch.signature.ed25519, &*batch.signature.ml_dsa_65);
                    let item = Item { keys: &keys, statement: &statement, ed25519, ml_dsa_65 };
                    roots.verify(&item).expect("honest signatures");
                    verifier.restart(&batch.statement.root, batch.statement.tree_size);
                    for (index, (envelope, path)) in (0..).zip(batch.envelopes.iter().zip(&batch.paths)) {
                        verifier.verify(leaf_hash(&SALT, envelope), index, path).expect("an honest path");
                        let (header, payload) = envelope.split_at(ENVELOPE_HEADER_BYTES);
                        let counter = u64::from(index);
                        plaintext.clear();
                        chain
                            .open_append(counter, &nonce(counter), header, payload, &mut plaintext)
                            .expect("an honest message");
                        assert_eq!(plaintext.len(), PAYLOAD_BYTES);
                        chain.settle(counter);
                    }
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = seal, establish, open
}
criterion_main!(benches);
