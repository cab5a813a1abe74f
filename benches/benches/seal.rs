//! What the sender and the recipient of messages spend on cryptography: sealing, the batch tree and its signatures.
//!
//! Figures are per message wherever a group has a throughput: criterion divides by the elements of one iteration.

use std::hint::black_box;

use creto_crypto_accel::merkle::{Tree, leaf_hash, leaf_hashes, root_from_path};
use creto_crypto_accel::seal::{RecipientKey, RecipientSecret, message_key};
use creto_crypto_accel::sign::SigningKeys;
use creto_crypto_accel::verify::{RootCache, VerifyingKeys, verify_turn};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

/// Leaves of one batch: the default at which a sender closes it.
const BATCH_MESSAGES: usize = 256;
const BATCH_SIZE: u32 = 256;
const PAYLOAD_BYTES: usize = 1024;
const HEADER_BYTES: usize = 160;
const TAG_BYTES: usize = 16;
/// Length of a batch statement; its content does not matter for the cost.
const STATEMENT_BYTES: usize = 80;
const NONCE: [u8; 12] = [0; 12];
const SALT: [u8; 16] = [7; 16];

/// The sealed suite, whole: one encapsulation per message.
fn sealed(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    let secret = RecipientSecret::from_seed(&[3; 32]);
    let recipient = RecipientKey::parse(secret.public()).expect("an honest key");
    let header = [1; HEADER_BYTES];
    let mut payload = vec![2; PAYLOAD_BYTES];
    group.bench_function("sealed-1KiB", |b| {
        b.iter(|| {
            let (wrapped, shared) = recipient.encapsulate();
            let tag = message_key(&shared, &header).seal_in_place(&NONCE, &header, &mut payload);
            (wrapped, tag)
        });
    });
    let (wrapped, shared) = recipient.encapsulate();
    let mut sealed = Vec::new();
    message_key(&shared, &header).seal_append(&NONCE, &header, &[2; PAYLOAD_BYTES], &mut sealed);
    group.bench_function("open-sealed-1KiB", |b| {
        b.iter_batched_ref(
            || sealed.clone(),
            |sealed| {
                let shared = secret.decapsulate(black_box(&wrapped)).expect("an honest share");
                message_key(&shared, &header).open_in_place(&NONCE, &header, sealed).expect("an honest payload").len()
            },
            BatchSize::SmallInput,
        );
    });
    group.finish();
}

/// Everything a sender does for a message of an open session: its key, AES-256-GCM, its leaf, and its share of one tree
/// and one hybrid signature. This is "seal + batch-sign" of the specification.
fn batch_signed(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(BATCH_MESSAGES as u64));
    let secret = RecipientSecret::from_seed(&[3; 32]);
    let (_, shared) = RecipientKey::parse(secret.public()).expect("an honest key").encapsulate();
    let signer = SigningKeys::from_seeds(&[1; 32], &[2; 32]);
    let mut envelopes = vec![vec![0; HEADER_BYTES + PAYLOAD_BYTES + TAG_BYTES]; BATCH_MESSAGES];
    let (mut leaves, mut tree) = (Vec::new(), Tree::new());
    group.bench_function("batch-signed-1KiB-256", |b| {
        b.iter(|| {
            leaves.clear();
            for envelope in &mut envelopes {
                let (header, rest) = envelope.split_at_mut(HEADER_BYTES);
                let (payload, tag) = rest.split_at_mut(PAYLOAD_BYTES);
                tag.copy_from_slice(&message_key(&shared, header).seal_in_place(&NONCE, header, payload));
            }
            leaf_hashes(envelopes.iter().map(|envelope| (&SALT, envelope.as_slice())), &mut leaves);
            tree.rebuild(&leaves);
            let mut statement = [0; STATEMENT_BYTES];
            statement[..32].copy_from_slice(&tree.root());
            signer.sign(&statement)
        });
    });
    group.finish();
}

/// What a node does to believe a batch: leaves, tree, both signatures; and the parts of it.
fn verify(c: &mut Criterion) {
    let signer = SigningKeys::from_seeds(&[1; 32], &[2; 32]);
    let keys = VerifyingKeys::parse(&signer.public().ed25519, &signer.public().ml_dsa_65).expect("honest keys");
    let envelopes = vec![vec![5; HEADER_BYTES + PAYLOAD_BYTES + TAG_BYTES]; BATCH_MESSAGES];
    let mut leaves: Vec<_> = envelopes.iter().map(|envelope| leaf_hash(&SALT, envelope)).collect();
    let mut tree = Tree::new();
    tree.rebuild(&leaves);
    let mut statement = [0; STATEMENT_BYTES];
    statement[..32].copy_from_slice(&tree.root());
    let signature = signer.sign(&statement);
    let item = creto_crypto_accel::verify::Item {
        keys: &keys,
        statement: &statement,
        ed25519: &signature.ed25519,
        ml_dsa_65: &signature.ml_dsa_65,
    };

    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(BATCH_MESSAGES as u64));
    group.bench_function("verify-batch-1KiB-256", |b| {
        b.iter(|| {
            leaves.clear();
            leaf_hashes(envelopes.iter().map(|envelope| (&SALT, envelope.as_slice())), &mut leaves);
            tree.rebuild(&leaves);
            assert_eq!(tree.root(), statement[..32]);
            verify_turn(&[item])
        });
    });
    group.bench_function("verify-root-256", |b| b.iter(|| black_box(item).verify()));
    group.bench_function("merkle-rebuild-256", |b| {
        b.iter(|| {
            tree.rebuild(black_box(&leaves));
            tree.root()
        });
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("sign-root", |b| b.iter(|| signer.sign(black_box(&statement))));
    let mut cache = RootCache::new(64);
    cache.verify(&item).expect("an honest signature");
    group.bench_function("verify-root-cached", |b| b.iter(|| cache.verify(black_box(&item))));
    let mut path = Vec::new();
    tree.path(77, &mut path);
    group.bench_function("root-from-path-256", |b| {
        b.iter(|| root_from_path(black_box(leaves[77]), 77, BATCH_SIZE, &path));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = sealed, batch_signed, verify
}
criterion_main!(benches);
