//! Which signatures and which tree a node takes: what the sender's key record and the deployment demand, nothing else.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod fixture;

use creto_envelope::submit::WHOLE_BATCH;
use creto_envelope::{RejectCode, SignatureSuite, TreeDigest};
use creto_sim::agents::{SimAgent, SimBatch};
use fixture::{NOW, Node, id};

fn batch(sender: &SimAgent, digest: TreeDigest, count: u8) -> SimBatch {
    let executor = SimAgent::new("acme/executor", 2);
    let envelopes: Vec<_> = (1..=count).map(|number| sender.seal(&executor, id(number), NOW.unix_ms, b"x")).collect();
    sender.sign_over(digest, None, &envelopes, NOW.unix_ms)
}

#[track_caller]
fn check(demanded: TreeDigest, sender: &SimAgent, batch: &SimBatch, expect: &[(u32, RejectCode)]) {
    let executor = SimAgent::new("acme/executor", 2);
    let mut node = Node::new(1, &[sender, &executor]);
    node.shards = node.shards.into_iter().map(|shard| shard.with_tree_digest(demanded)).collect();
    let client = node.connect_as(0, sender);
    node.submit(&client, 1, batch);
    node.run();
    assert_eq!(node.acks(&client), (1, expect.to_vec()));
    let reader = node.connect_as(0, &executor);
    node.subscribe(&reader, &executor);
    let deliveries = node.deliveries(&reader);
    assert_eq!(deliveries.len(), if expect.is_empty() { batch.envelopes.len() } else { 0 });
}

#[test]
fn a_deployment_gets_the_tree_that_it_demands_and_no_other() {
    let planner = SimAgent::new("acme/planner", 1);
    let (sha2, sha3) = (TreeDigest::Sha256, TreeDigest::Sha3_256);
    check(sha2, &planner, &batch(&planner, sha2, 5), &[]);
    check(sha3, &planner, &batch(&planner, sha3, 5), &[]);
    check(sha2, &planner, &batch(&planner, sha3, 5), &[(WHOLE_BATCH, RejectCode::BatchDigest)]);
    check(sha3, &planner, &batch(&planner, sha2, 5), &[(WHOLE_BATCH, RejectCode::BatchDigest)]);
}

#[test]
fn a_batch_that_names_another_tree_than_it_was_signed_over_is_refused() {
    let planner = SimAgent::new("acme/planner", 1);
    let mut batch = batch(&planner, TreeDigest::Sha256, 5);
    batch.header.signature_suite = SignatureSuite::HybridSha3;
    check(TreeDigest::Sha3_256, &planner, &batch, &[(WHOLE_BATCH, RejectCode::BatchRoot)]);
    // With the root of that tree it is the signatures that do not fit: they name the suite.
    let mut batch = self::batch(&planner, TreeDigest::Sha3_256, 1);
    let signed = self::batch(&planner, TreeDigest::Sha256, 1);
    (batch.header.ed25519, batch.header.ml_dsa_65) = (signed.header.ed25519, signed.header.ml_dsa_65);
    check(TreeDigest::Sha3_256, &planner, &batch, &[(WHOLE_BATCH, RejectCode::BadSignature)]);
}

#[test]
fn a_signature_that_the_key_record_does_not_know_is_refused() {
    let planner = SimAgent::new("acme/planner", 1);
    let mut batch = batch(&planner, TreeDigest::Sha256, 1);
    batch.header.signature_suite = SignatureSuite::TripleSha256;
    batch.header.fn_dsa_512 = Some(Box::new([7; 666]));
    check(TreeDigest::Sha256, &planner, &batch, &[(WHOLE_BATCH, RejectCode::BatchSuite)]);
}

#[cfg(feature = "fn-dsa")]
#[test]
fn what_the_key_record_demands_must_be_there_and_hold() {
    use creto_crypto_accel::fn_dsa::FnDsaSigner;

    let signer = FnDsaSigner::generate();
    let planner = SimAgent::new("acme/planner", 1).with_fn_dsa_512(signer.public());
    let executor = SimAgent::new("acme/executor", 2);
    let third = |statement: &[u8]| signer.sign(statement);
    for digest in [TreeDigest::Sha256, TreeDigest::Sha3_256] {
        let envelopes = vec![planner.seal(&executor, id(1), NOW.unix_ms, b"x")];
        let whole = planner.sign_over(digest, Some(&third), &envelopes, NOW.unix_ms);
        check(digest, &planner, &whole, &[]);
        let mut changed = whole.clone();
        changed.header.fn_dsa_512.as_mut().unwrap()[100] ^= 1;
        check(digest, &planner, &changed, &[(WHOLE_BATCH, RejectCode::BadSignature)]);
        let fewer = planner.sign_over(digest, None, &envelopes, NOW.unix_ms);
        check(digest, &planner, &fewer, &[(WHOLE_BATCH, RejectCode::BatchSuite)]);
        let changes: [fn(&mut SimBatch); 2] =
            [|batch| batch.header.ed25519[5] ^= 1, |batch| batch.header.ml_dsa_65[5] ^= 1];
        for field in changes {
            let mut changed = whole.clone();
            field(&mut changed);
            check(digest, &planner, &changed, &[(WHOLE_BATCH, RejectCode::BadSignature)]);
        }
    }
}
