//! What the choices cost that a deployment or a key record can make: the tree over SHA3-256 instead of SHA-256, and
//! FN-DSA-512 as a third signature (with `--features fn-dsa`). Suite 1 is in the bench `seal`.

use std::hint::black_box;

use creto_crypto_accel::merkle::{Tree, TreeHash, leaf_hashes};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

/// Leaves of one batch: the default at which a sender closes it.
const BATCH_MESSAGES: usize = 256;
/// A message of a session with 1 KiB of payload.
const ENVELOPE_BYTES: usize = 160 + 1024 + 16;
const SALT: [u8; 16] = [7; 16];

fn trees(c: &mut Criterion) {
    let mut group = c.benchmark_group("suites");
    group.throughput(Throughput::Elements(BATCH_MESSAGES as u64));
    let envelopes: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte; ENVELOPE_BYTES]).collect();
    let (mut tree, mut leaves) = (Tree::new(), Vec::with_capacity(BATCH_MESSAGES));
    group.bench_function("tree-sha256-256x1KiB", |b| {
        b.iter(|| {
            leaves.clear();
            leaf_hashes(envelopes.iter().map(|envelope| (&SALT, &envelope[..])), &mut leaves);
            tree.rebuild(&leaves);
            black_box(tree.root())
        });
    });
    group.bench_function("tree-sha3-256x1KiB", |b| {
        b.iter(|| {
            leaves.clear();
            leaves.extend(envelopes.iter().map(|envelope| TreeHash::Sha3_256.leaf(&SALT, envelope)));
            TreeHash::Sha3_256.rebuild(&mut tree, &leaves);
            black_box(tree.root())
        });
    });
    group.finish();
}

#[cfg(feature = "fn-dsa")]
fn third_signature(c: &mut Criterion) {
    use creto_crypto_accel::fn_dsa::FnDsaSigner;
    use creto_crypto_accel::sign::SigningKeys;
    use creto_crypto_accel::verify::VerifyingKeys;

    let mut group = c.benchmark_group("suites");
    let statement = [5; 80];
    let signer = FnDsaSigner::generate();
    let public = SigningKeys::from_seeds(&[1; 32], &[2; 32]).public().clone();
    let keys = VerifyingKeys::parse(&public.ed25519, &public.ml_dsa_65).expect("honest keys");
    let keys = keys.with_fn_dsa_512(Some(signer.public())).expect("an honest key");
    let signature = signer.sign(&statement);
    group.bench_function("fn-dsa-512-keygen", |b| b.iter(FnDsaSigner::generate));
    group.bench_function("fn-dsa-512-sign", |b| b.iter(|| signer.sign(black_box(&statement))));
    group.bench_function("fn-dsa-512-verify", |b| {
        b.iter(|| keys.verify_fn_dsa_512(black_box(&statement), Some(&signature)).expect("an honest signature"));
    });
    group.finish();
}

#[cfg(not(feature = "fn-dsa"))]
fn third_signature(_: &mut Criterion) {}

criterion_group!(suites, trees, third_signature);
criterion_main!(suites);
