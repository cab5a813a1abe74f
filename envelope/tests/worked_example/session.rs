//! The session of the worked example: one encapsulation, then messages that are its first, its second and its fifth.

use creto_crypto_accel::digest::sha256;
use creto_crypto_accel::portable::{encapsulate_deterministic, open_session_deterministic};
use creto_crypto_accel::session::Peers;
use creto_envelope::{EnvelopeHeader, InSession, KeyId, MessageId};
use hkdf::Hkdf;
use serde::Serialize;
use sha2::Sha256;

use super::inputs::{SESSION_COINS, SESSION_MESSAGES, SessionMessageInput};
use super::{Agent, Files, digest, hex_lines};

#[derive(Serialize)]
pub(crate) struct SessionValues {
    encapsulation_coins: String,
    wrapped_key_sha256: String,
    shared_secret: String,
    session_id_input_sha256: String,
    session_id: String,
    hkdf_info: String,
    chain_keys: Vec<String>,
    messages: Vec<SessionMessageValues>,
}

#[derive(Serialize)]
struct SessionMessageValues {
    plaintext: &'static str,
    counter: u64,
    message_id: String,
    header: String,
    message_key: String,
    nonce: String,
    payload: String,
    envelope_bytes: usize,
    envelope_sha256: String,
    envelope_file: String,
}

pub(crate) fn build(sender: &Agent, recipient: &Agent) -> (SessionValues, Files) {
    let peers = Peers {
        sender: sender.record.record.agent_id().0,
        recipient: recipient.record.record.agent_id().0,
        key_id: recipient.recipient_public.key_id(),
    };
    let public = &recipient.recipient_public;
    let (mut chain, wrapped_key) = open_session_deterministic(public, &peers, &SESSION_COINS).unwrap();

    // The derivation once more by another hand: what is sealed by the chain must open under these keys.
    let (_, secret) = encapsulate_deterministic(public, &SESSION_COINS).unwrap();
    let id_input = [&b"creto/session-id/v1"[..], &peers.sender, &peers.recipient, &peers.key_id, &wrapped_key].concat();
    let session_id: [u8; 16] = sha256(&[&id_input])[..16].try_into().unwrap();
    assert_eq!(session_id, chain.session_id());
    let info = [&b"creto/session/v1\0"[..], &session_id, &peers.sender, &peers.recipient, &peers.key_id].concat();
    let mut chain_key = [0; 32];
    Hkdf::<Sha256>::new(None, secret.expose()).expand(&info, &mut chain_key).unwrap();
    let (mut chain_keys, mut message_keys) = (Vec::new(), Vec::new());
    for _ in 0..=SESSION_MESSAGES[2].counter {
        chain_keys.push(hex::encode(chain_key));
        let mut okm = [0; 64];
        Hkdf::<Sha256>::from_prk(&chain_key).unwrap().expand(b"creto/session-step/v1", &mut okm).unwrap();
        chain_key = okm[..32].try_into().unwrap();
        message_keys.push(hex::encode(&okm[32..]));
    }

    let (mut files, mut messages) = (Files::new(), Vec::new());
    for (index, input) in SESSION_MESSAGES.iter().enumerate() {
        let header = header(input, &peers, session_id, sender, recipient);
        let header_bytes = header.to_bytes();
        let mut envelope = header_bytes.to_vec();
        if input.with_wrapped_key {
            envelope.extend_from_slice(&wrapped_key);
        }
        let payload_start = envelope.len();
        let key = loop {
            let (counter, key) = chain.next().unwrap();
            if counter == input.counter {
                break key;
            }
        };
        key.seal_append(&header.nonce, &header_bytes, input.plaintext.as_bytes(), &mut envelope);
        let envelope_file = format!("session-envelope-{index}.hex");
        messages.push(SessionMessageValues {
            plaintext: input.plaintext,
            counter: input.counter,
            message_id: MessageId(header.message_id).to_uuid_string(),
            header: hex::encode(header_bytes),
            message_key: message_keys[usize::try_from(input.counter).unwrap()].clone(),
            nonce: hex::encode(header.nonce),
            payload: hex::encode(&envelope[payload_start..]),
            envelope_bytes: envelope.len(),
            envelope_sha256: digest(&envelope),
            envelope_file: envelope_file.clone(),
        });
        files.insert(envelope_file, hex_lines(&envelope));
    }
    let values = SessionValues {
        encapsulation_coins: hex::encode(SESSION_COINS),
        wrapped_key_sha256: digest(&wrapped_key),
        shared_secret: hex::encode(secret.expose()),
        session_id_input_sha256: digest(&id_input),
        session_id: hex::encode(session_id),
        hkdf_info: hex::encode(info),
        chain_keys,
        messages,
    };
    (values, files)
}

fn header(
    input: &SessionMessageInput,
    peers: &Peers,
    session_id: [u8; 16],
    sender: &Agent,
    recipient: &Agent,
) -> EnvelopeHeader {
    let position = InSession { session_id, counter: input.counter, with_wrapped_key: input.with_wrapped_key };
    EnvelopeHeader::session(
        sender.record.record.agent_id(),
        recipient.record.record.agent_id(),
        KeyId(peers.key_id),
        MessageId::from_parts(input.timestamp_ms, input.id_random),
        input.timestamp_ms,
        input.plaintext.len(),
        &position,
    )
    .unwrap()
}
