//! The golden files are what this code makes today, byte for byte; and what they hold verifies and opens on the path.
//!
//! `CRETO_GOLDEN=write cargo test -p creto-envelope --test golden` writes them anew: only for a new version of a format.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[allow(dead_code, reason = "each test file takes what it needs")]
mod sample;
mod worked_example;

use std::fs;
use std::path::PathBuf;

use creto_crypto_accel::Backend;
use creto_crypto_accel::merkle::{Tree, TreeHash, leaf_hash, root_from_path};
use creto_crypto_accel::seal::{MessageKey, RecipientSecret, message_key};
use creto_crypto_accel::session::{Peers, ReceiveChain};
use creto_crypto_accel::verify::VerifyingKeys;
use creto_envelope::batch::{BATCH_HEADER_BYTES, BatchHeaderView, BatchView, parse_submit_sequence};
use creto_envelope::control::{Login, login_statement};
use creto_envelope::deliver::Deliver;
use creto_envelope::envelope::signal_until_ms;
use creto_envelope::frame::FRAME_HEADER_BYTES;
use creto_envelope::{EnvelopeView, FrameHeader, FrameType, SignatureSuite, SignedKeyRecord};
use rkyv::util::AlignedVec;
use sample::aligned;
use worked_example::{EXECUTOR_X_WING_SEED, EXPORTER};

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/golden")).join(name)
}

fn golden_bytes(name: &str) -> Vec<u8> {
    let text = fs::read_to_string(golden_path(name)).unwrap();
    hex::decode(text.lines().collect::<String>()).unwrap()
}

/// The body of the frame in a golden file, aligned.
fn golden_body(name: &str, expect: FrameType) -> AlignedVec {
    let frame = golden_bytes(name);
    let header = FrameHeader::parse(frame[..FRAME_HEADER_BYTES].try_into().unwrap()).unwrap();
    assert_eq!((header.frame_type, header.body_bytes as usize), (expect, frame.len() - FRAME_HEADER_BYTES));
    aligned(&frame[FRAME_HEADER_BYTES..])
}

fn golden_json() -> serde_json::Value {
    serde_json::from_str(&fs::read_to_string(golden_path("example.json")).unwrap()).unwrap()
}

fn planner_keys(backend: Backend) -> VerifyingKeys {
    let record = SignedKeyRecord::parse(&golden_bytes("planner.key-record.hex")).unwrap().record;
    VerifyingKeys::with_backend(backend, &record.ed25519, &record.ml_dsa_65).unwrap()
}

#[test]
fn golden_files_are_made_again_byte_for_byte() {
    let write = std::env::var_os("CRETO_GOLDEN").is_some_and(|value| value == "write");
    for (name, text) in worked_example::build() {
        let path = golden_path(&name);
        if write {
            fs::write(&path, text).unwrap();
            continue;
        }
        let found = fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "golden/{name} is not what this code makes: a format changed, or was it meant to?");
    }
}

#[test]
fn both_backends_accept_the_key_records() {
    for agent in ["planner", "executor", "planner-enrolled", "planner-emergency"] {
        let name = &format!("{agent}.key-record.hex");
        let signed = SignedKeyRecord::parse(&golden_bytes(name)).unwrap();
        assert_eq!(signed.to_bytes(), golden_bytes(name));
        for backend in Backend::ALL {
            let keys = VerifyingKeys::with_backend(backend, &signed.record.ed25519, &signed.record.ml_dsa_65).unwrap();
            keys.verify(&signed.record.signed_bytes(), &signed.ed25519, &signed.ml_dsa_65).unwrap();
        }
    }
}

#[test]
fn both_backends_accept_the_login_on_its_connection_and_on_no_other() {
    let login = Login::parse(&golden_body("login.hex", FrameType::Login)).unwrap();
    let statement = login_statement(&EXPORTER, &login.agent, login.key_record_version);
    let elsewhere = login_statement(&[0xef; 32], &login.agent, login.key_record_version);
    for keys in Backend::ALL.map(planner_keys) {
        keys.verify(&statement, &login.ed25519, &login.ml_dsa_65).unwrap();
        keys.verify(&elsewhere, &login.ed25519, &login.ml_dsa_65).unwrap_err();
    }
}

#[test]
fn both_backends_verify_and_open_the_signed_batch() {
    let body = golden_body("signed-batch.hex", FrameType::SignedBatch);
    assert_eq!(parse_submit_sequence(&body), Ok(1));
    let batch_bytes = aligned(&body[8..]);
    let mut entries = Vec::new();
    let batch = BatchView::parse(&batch_bytes, &mut entries).unwrap();

    let leaves: Vec<_> = entries.iter().map(|entry| leaf_hash(&entry.salt, batch.envelope(entry))).collect();
    let mut tree = Tree::new();
    tree.rebuild(&leaves);
    assert_eq!(tree.root(), *batch.header.root());
    let messages = &golden_json()["messages"];
    for backend in Backend::ALL {
        check_signatures(backend, &batch.header);
        for (index, entry) in entries.iter().enumerate() {
            let values = &messages[index];
            assert_eq!(hex::encode(leaves[index]), values["leaf"]);
            let plaintext = check_open(backend, batch.envelope(entry), &values["message_key"]);
            assert_eq!(plaintext, values["plaintext"]);
        }
    }
}

#[test]
fn both_backends_open_the_signal_which_says_when_it_is_over() {
    let envelope = aligned(&golden_bytes("signal-envelope.hex"));
    let values = &golden_json()["signal"];
    for backend in Backend::ALL {
        assert_eq!(check_open(backend, &envelope, &values["message_key"]), values["plaintext"]);
    }
    let view = EnvelopeView::parse(&envelope).unwrap();
    let until_ms = Some(view.header().timestamp_ms.to_native() + 10_000);
    assert_eq!((view.signal_until_ms(), signal_until_ms(&envelope)), (until_ms, until_ms));
    assert_eq!(signal_until_ms(&golden_bytes("envelope-1.hex")), None, "it has a time to live, and is stored");
}

#[test]
fn both_backends_verify_the_batch_over_a_sha3_tree_as_no_other_suite() {
    let body = golden_body("signed-batch-sha3.hex", FrameType::SignedBatch);
    let batch_bytes = aligned(&body[8..]);
    let mut entries = Vec::new();
    let batch = BatchView::parse(&batch_bytes, &mut entries).unwrap();
    assert_eq!(batch.header.signature_suite(), SignatureSuite::HybridSha3);
    let hash = TreeHash::Sha3_256;
    let leaves: Vec<_> = entries.iter().map(|entry| hash.leaf(&entry.salt, batch.envelope(entry))).collect();
    let mut tree = Tree::new();
    hash.rebuild(&mut tree, &leaves);
    assert_eq!(tree.root(), *batch.header.root());
    let (statement, header) = (batch.header.statement(), &batch.header);
    for keys in Backend::ALL.map(planner_keys) {
        for (suite, holds) in [(SignatureSuite::HybridSha3, true), (SignatureSuite::HybridSha256, false)] {
            let verdict = keys.verify(&statement.to_bytes_in(suite), header.ed25519(), header.ml_dsa_65());
            assert_eq!(verdict.is_ok(), holds, "{suite:?}");
        }
    }
}

#[test]
fn both_backends_verify_and_open_what_is_delivered() {
    let bodies = ["deliver-first.hex", "deliver-next.hex", "deliver-again.hex"]
        .map(|name| golden_body(name, FrameType::Deliver));
    let views = bodies.each_ref().map(|body| Deliver::parse(body).unwrap());
    let has_header = views.each_ref().map(|view| view.batch_header.is_some());
    assert_eq!(has_header, [true, false, true], "the first frame of a stream and of a batch brings the header");
    let pushed: Vec<_> = views
        .iter()
        .flat_map(|view| view.messages.iter().map(|message| (message.mailbox_sequence, message.attempt)))
        .collect();
    assert_eq!(pushed, [(2, 0), (1, 0), (3, 0), (1, 1)], "the first message is pushed again as what it was");

    let messages = &golden_json()["messages"];
    for backend in Backend::ALL {
        let mut last_header = None;
        for (body, view) in bodies.iter().zip(&views) {
            last_header = view.batch_header.or(last_header);
            let header = last_header.expect("the first frame has a header");
            check_signatures(backend, &header);
            for message in &view.messages {
                let envelope = &body[message.envelope.clone()];
                let leaf = leaf_hash(&message.salt, envelope);
                let root = root_from_path(leaf, message.leaf_index, header.tree_size(), message.path(body)).unwrap();
                assert_eq!(root, *header.root());
                let values = &messages[message.leaf_index as usize];
                assert_eq!(check_open(backend, envelope, &values["message_key"]), values["plaintext"]);
            }
        }
    }
}

#[test]
fn both_backends_open_the_session_in_any_order() {
    let values = &golden_json()["session"];
    let envelopes = [0, 1, 2].map(|index| aligned(&golden_bytes(&format!("session-envelope-{index}.hex"))));
    let views = envelopes.each_ref().map(|envelope| EnvelopeView::parse(envelope).unwrap());
    let opener = &views[0];
    assert_eq!(hex::encode(opener.session_id()), values["session_id"]);
    assert!(views[1].wrapped_key().is_none() && views[2].wrapped_key().is_none());
    let peers = Peers { sender: opener.sender().0, recipient: opener.recipient().0, key_id: opener.key_id().0 };
    for backend in Backend::ALL {
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let recipient = RecipientSecret::with_backend(backend, &EXECUTOR_X_WING_SEED);
            let wrapped_key = opener.wrapped_key().unwrap();
            let mut chain = ReceiveChain::accept(&recipient, &peers, &opener.session_id(), wrapped_key).unwrap();
            for index in order {
                let (view, values) = (&views[index], &values["messages"][index]);
                let (header, payload) = (view.header_bytes(), view.payload());
                let by_chain = chain.open(view.counter(), &view.header().nonce, header, payload).unwrap();
                let key: [u8; 32] = hex::decode(values["message_key"].as_str().unwrap()).unwrap().try_into().unwrap();
                let key = MessageKey::from_bytes(backend, key.into());
                assert_eq!(key.open(&view.header().nonce, header, payload).unwrap(), by_chain);
                assert_eq!(String::from_utf8(by_chain).unwrap(), values["plaintext"]);
                chain.settle(view.counter());
            }
        }
    }
}

#[track_caller]
fn check_signatures(backend: Backend, header: &BatchHeaderView<'_>) {
    let keys = planner_keys(backend);
    let mut statement = header.statement();
    keys.verify(&statement.to_bytes(), header.ed25519(), header.ml_dsa_65()).unwrap();
    statement.signed_at_ms += 1;
    keys.verify(&statement.to_bytes(), header.ed25519(), header.ml_dsa_65()).unwrap_err();
}

/// Opens an envelope twice: by the recipient's key, and by the message key of the example.
#[track_caller]
fn check_open(backend: Backend, envelope: &[u8], key: &serde_json::Value) -> String {
    let bytes = aligned(envelope);
    let view = EnvelopeView::parse(&bytes).unwrap();
    let recipient = RecipientSecret::with_backend(backend, &EXECUTOR_X_WING_SEED);
    assert_eq!(recipient.key_id(), view.key_id().0);
    let secret = recipient.decapsulate(view.wrapped_key().unwrap()).unwrap();
    let key: [u8; 32] = hex::decode(key.as_str().unwrap()).unwrap().try_into().unwrap();
    let keys = [message_key(&secret, view.header_bytes()), MessageKey::from_bytes(backend, key.into())];
    let [by_recipient, by_example] =
        keys.map(|key| key.open(&view.header().nonce, view.header_bytes(), view.payload()).unwrap());
    assert_eq!(by_recipient, by_example);
    String::from_utf8(by_recipient).unwrap()
}

#[test]
fn a_batch_header_has_the_same_bytes_in_a_batch_and_in_a_delivery() {
    let batch = golden_bytes("signed-batch.hex");
    let deliver = golden_bytes("deliver-first.hex");
    assert_eq!(batch[16..][..BATCH_HEADER_BYTES], deliver[16..][..BATCH_HEADER_BYTES]);
}
