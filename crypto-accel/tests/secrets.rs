//! Secrets are erased when they are dropped, are never printed, and no public type holds one without being listed here.
#![allow(clippy::unwrap_used, reason = "a test stops where it is wrong")]

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod freed;

use std::fmt::{Debug, Write as _};
use std::path::{Path, PathBuf};

use creto_crypto_accel::Backend;
use creto_crypto_accel::seal::{MessageKey, RecipientKey, RecipientSecret, SharedSecret, message_key};
use creto_crypto_accel::session::{
    ChannelEnds, ChannelKey, ChannelReceiveChain, ChannelSendChain, Peers, ReceiveChain, SendChain,
};
use creto_crypto_accel::sign::SigningKeys;
use shake::{ExtendableOutput, Shake256, Update, XofReader};
use zeroize::Zeroizing;

/// Public types of this crate that hold a secret, and what erases it. aws-lc erases whatever it frees (OPENSSL_free).
const SECRET: &[(&str, &str)] = &[
    ("SigningKeys", "aws-lc when it frees both key pairs; ed25519-dalek and ml-dsa on drop"),
    ("RecipientSecret", "aws-lc when it frees both keys; x25519-dalek and ml-kem on drop"),
    ("FnDsaSigner", "Zeroizing; experimental, behind its feature"),
    ("SharedSecret", "Zeroizing"),
    ("MessageKey", "Zeroizing"),
    ("SendChain", "Zeroizing"),
    ("ChannelSendChain", "Zeroizing"),
    ("ChannelKey", "Zeroizing"),
    ("ChannelReceiveChain", "Zeroizing: what was given, and where it has come to"),
    ("EnrolmentToken", "Zeroizing: erased when dropped"),
    ("ReceiveChain", "Zeroizing: the chain key; its kept keys erase themselves one by one and on drop"),
];

/// Public types of this crate that hold none.
const OPEN: &[&str] = &[
    "Backend",
    "ChannelEnds",
    "ChannelSessionError",
    "Choice",
    "HybridSignature",
    "Item",
    "KeyError",
    "OpenError",
    "PathError",
    "PathVerifier",
    "Peers",
    "Processor",
    "ProofError",
    "RecipientKey",
    "RecipientPublic",
    "RootCache",
    "RootKey",
    "SessionError",
    "SessionStateError",
    "SignatureError",
    "SigningPublic",
    "Tree",
    "TreeHash",
    "VerifyingKeys",
];

/// Public types of the other crates that hold a secret of an agent or a node.
const SECRET_ELSEWHERE: &[&str] = &[
    "AgentKeys",
    "DataKey",
    "DatabaseUrl",
    "Passphrase",
    "LogKeys",
    "NodeIdentity",
    "SimAgent",
    "SimPublisher",
    "SimSession",
];

/// What a field's type or name says when it holds a secret.
const SECRET_FIELDS: &[&str] = &[
    "Zeroizing",
    "SigningKeys",
    "RecipientSecret",
    "SharedSecret",
    "MessageKey",
    "SendChain",
    "ChannelKey",
    "ReceiveChain",
    "FnDsaSigner",
    "Seeds",
    "key_pkcs8",
];

const ED25519_SEED: [u8; 32] = *b"ed25519 seed, thirty-two bytes..";
const ML_DSA_SEED: [u8; 32] = *b"ML-DSA-65 seed, also thirty-two.";
const X_WING_SEED: [u8; 32] = *b"an X-Wing seed of the same size.";

/// Every `pub struct` and `pub enum` of the sources in `folder`, with its fields as written.
fn public_types(folder: &Path) -> Vec<(String, String, PathBuf)> {
    let mut types = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            match path.is_dir() {
                true if !matches!(name.as_str(), "tests" | "target") => folders.push(path),
                false if name.ends_with(".rs") && name != "tests.rs" => {
                    let text = std::fs::read_to_string(&path).unwrap();
                    let starts = text.lines().scan(0, |at, line| {
                        let start = *at;
                        *at += line.len() + 1;
                        Some((start, line))
                    });
                    for (start, line) in starts {
                        let code = line.trim_start();
                        let declared = ["pub struct ", "pub enum "].iter().find_map(|head| code.strip_prefix(head));
                        let Some(declared) = declared else { continue };
                        let name: String = declared.chars().take_while(|c| c.is_alphanumeric()).collect();
                        let rest = &text[start..];
                        let closing = format!("\n{}}}", &line[..line.len() - code.len()]);
                        let end = match line.ends_with(';') {
                            true => line.len(),
                            false => rest.find(&closing).unwrap_or(line.len()),
                        };
                        types.push((name, rest[..end].to_owned(), path.clone()));
                    }
                }
                _ => {}
            }
        }
    }
    types
}

#[test]
fn every_public_type_is_listed_as_secret_or_open() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let types = public_types(&source);
    assert!(types.len() > 20, "the sources were found");
    for (name, fields, path) in &types {
        let (secret, open) = (SECRET.iter().any(|(listed, _)| listed == name), OPEN.contains(&name.as_str()));
        assert!(secret != open, "{name} in {}: list it in this test, as secret or as open", path.display());
        let looks_secret =
            SECRET_FIELDS.iter().any(|field| fields.split_once('{').is_some_and(|f| f.1.contains(field)));
        assert!(!looks_secret || secret, "{name} is listed as open and holds a secret");
    }
    for listed in SECRET.iter().map(|(name, _)| name).chain(OPEN) {
        assert!(types.iter().any(|(name, ..)| name == listed), "{listed} is listed and gone");
    }
}

#[test]
fn public_types_of_other_crates_that_hold_secrets_are_listed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folders = ["agent", "cli", "control", "engine", "envelope", "loadgen", "net", "sim", "store"];
    for folder in folders {
        for (name, fields, path) in public_types(&root.join(folder)) {
            let holds = |field: &&&str| {
                let fields = fields.split_once(['{', '(']).map_or("", |(_, fields)| fields);
                // A comment may speak of what it likes.
                fields.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(**field))
            };
            if let Some(field) = SECRET_FIELDS.iter().find(holds) {
                let listed = SECRET_ELSEWHERE.contains(&name.as_str());
                assert!(listed, "{name} in {} holds {field}: list it in this test", path.display());
            }
        }
    }
}

#[test]
fn no_secret_type_derives_what_would_print_or_compare_it() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (name, _, path) in public_types(&source) {
        if SECRET.iter().any(|(listed, _)| *listed == name) {
            let text = std::fs::read_to_string(&path).unwrap();
            let before = &text[..text.find(&format!("pub struct {name}")).unwrap()];
            let attributes = before.lines().rev().take_while(|line| line.starts_with(['#', '/']));
            let derives: String = attributes.filter(|line| line.starts_with("#[derive")).collect();
            for forbidden in ["Debug", "PartialEq", "Clone", "Hash", "Serialize"] {
                assert!(!derives.contains(forbidden), "{name} derives {forbidden}");
            }
        }
    }
}

/// One of each type that holds a secret, and the secrets that are known to be in there.
struct Specimens {
    signing: SigningKeys,
    recipient: RecipientSecret,
    shared: SharedSecret,
    key: MessageKey,
    given: MessageKey,
    send: SendChain,
    receive: ReceiveChain,
    channel_send: ChannelSendChain,
    channel_receive: ChannelReceiveChain,
}

const CHANNEL_SECRET: [u8; 32] = *b"a channel's session begins here.";
/// Of a state's stored form.
const CHAIN_KEY: std::ops::Range<usize> = 32..64;
const GIVEN_KEY: [u8; 32] = *b"a message key given as bytes ...";

impl Specimens {
    fn make(backend: Backend) -> Self {
        let recipient = RecipientSecret::with_backend(backend, &X_WING_SEED);
        let public = RecipientKey::with_backend(backend, recipient.public()).unwrap();
        let (_, shared) = public.encapsulate();
        let peers = Peers { sender: [1; 16], recipient: [2; 16], key_id: public.key_id() };
        let (mut send, wrapped_key) = SendChain::open(&public, &peers);
        let mut receive = ReceiveChain::accept(&recipient, &peers, &send.session_id(), &wrapped_key).unwrap();
        // A key in use and one that was skipped.
        assert!(send.next().is_some() && receive.key(1).is_ok());
        let ends = ChannelEnds { channel: [3; 16], publisher: [4; 16] };
        let mut channel_send = ChannelSendChain::with_backend(backend, ends, &CHANNEL_SECRET);
        assert!(channel_send.next().is_some());
        let given = ChannelKey::with_backend(backend, &channel_send.key().to_bytes()).unwrap();
        let mut channel_receive = ChannelReceiveChain::new(given);
        assert!(channel_receive.key(3).is_ok() && channel_receive.key(2).is_ok());
        Self {
            signing: SigningKeys::with_backend(backend, &ED25519_SEED, &ML_DSA_SEED),
            key: message_key(&shared, &[3; 160]),
            given: MessageKey::from_bytes(backend, Zeroizing::new(GIVEN_KEY)),
            recipient,
            shared,
            send,
            receive,
            channel_send,
            channel_receive,
        }
    }

    /// Sixteen bytes of each secret, copied where nothing is freed.
    fn secrets(&self) -> Vec<(&'static str, [u8; 16])> {
        let first = |bytes: &[u8]| *bytes.first_chunk::<16>().unwrap();
        let mut expanded = [0; 96];
        Shake256::default().chain(X_WING_SEED).finalize_xof().read(&mut expanded);
        let (send, receive) = (self.send.to_bytes(), self.receive.to_bytes());
        let kept = &receive[receive.len() - 16 - 64..];
        vec![
            ("Ed25519 seed", first(&ED25519_SEED)),
            ("ML-DSA-65 seed", first(&ML_DSA_SEED)),
            ("X-Wing seed", first(&X_WING_SEED)),
            ("ML-KEM-768 d", first(&expanded)),
            ("ML-KEM-768 z", first(&expanded[32..])),
            ("X25519 secret", first(&expanded[64..])),
            ("shared secret", first(self.shared.expose())),
            ("given message key", first(&GIVEN_KEY)),
            ("sender's chain key", first(&send[CHAIN_KEY])),
            ("secret of a channel's session", first(&CHANNEL_SECRET)),
            ("publisher's chain key", first(&self.channel_send.to_bytes()[CHAIN_KEY])),
            ("subscriber's chain key", first(&self.channel_receive.to_bytes()[CHAIN_KEY])),
            ("recipient's chain key", first(&receive[CHAIN_KEY])),
            ("recipient's first kept key", first(kept)),
            ("recipient's second kept key", first(&kept[32..])),
        ]
    }
}

#[test]
fn no_debug_output_contains_a_secret() {
    for backend in Backend::ALL {
        let all = Specimens::make(backend);
        let secrets = all.secrets();
        let channel_key = all.channel_send.key();
        let (send, receive): (&dyn Debug, &dyn Debug) = (&all.channel_send, &all.channel_receive);
        let things: [&dyn Debug; 10] = [
            &all.signing,
            &all.recipient,
            &all.shared,
            &all.key,
            &all.given,
            &all.send,
            &all.receive,
            send,
            receive,
            &channel_key,
        ];
        for thing in things {
            let text = format!("{thing:?} {thing:#?} {thing:x?} {thing:X?}").replace(char::is_whitespace, "");
            for (name, secret) in &secrets {
                let as_text = std::str::from_utf8(secret).map(|text| text.replace(char::is_whitespace, ""));
                assert!(!as_text.is_ok_and(|secret| text.contains(&secret)), "{name} is printed as text");
                // Any four bytes in a row, in the forms in which Rust prints bytes.
                for four in secret.windows(4) {
                    let (mut hex, mut decimal) = (String::new(), String::new());
                    for byte in four {
                        write!(hex, "{byte:02x}").unwrap();
                        write!(decimal, "{byte},").unwrap();
                    }
                    let list: Vec<_> = four.iter().map(|byte| format!("{byte:x}")).collect();
                    let lower = text.to_lowercase();
                    for form in [hex, decimal.trim_end_matches(',').to_owned(), list.join(",")] {
                        assert!(!lower.contains(&form), "{name} is printed as {form} in {text}");
                    }
                }
            }
        }
    }
}

/// Made, used and dropped: of no secret is a copy left in memory that was given back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn nothing_that_is_freed_contains_a_secret() {
    for backend in Backend::ALL {
        let all = Specimens::make(backend);
        let secrets = all.secrets();
        secrets.iter().for_each(|(_, secret)| freed::look_for(secret));
        drop(all.signing.sign(b"statement"));
        let Specimens { signing, recipient, shared, key, given, send, mut receive, channel_send, channel_receive } =
            all;
        drop((send.to_bytes(), receive.to_bytes(), send.at(7)));
        drop((channel_send.to_bytes(), channel_receive.to_bytes(), channel_send.at(7), channel_send.key()));
        receive.settle(0);
        let mut sealed = Vec::new();
        given.seal_append(&[0; 12], b"", b"payload", &mut sealed);
        key.seal_append(&[0; 12], b"", b"payload", &mut sealed);
        drop((signing, recipient, shared, send, receive, channel_send, channel_receive));
        // Everything again from its seeds, with what is temporary on the way.
        drop(Specimens::make(backend));
        let found: Vec<_> = freed::found().into_iter().map(|number| secrets[number].0).collect();
        assert_eq!(found, Vec::<&str>::new(), "{backend:?}");
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[test]
fn a_secret_that_is_freed_as_it_was_is_found() {
    for (number, secret) in [ED25519_SEED, X_WING_SEED].iter().enumerate() {
        freed::look_for(&ML_DSA_SEED);
        freed::look_for(secret);
        let mut copy = Vec::with_capacity(32);
        copy.extend_from_slice(secret);
        if number == 0 {
            copy.reserve(1_000); // it moves, and leaves its bytes behind
            copy.fill(0);
        }
        drop(std::hint::black_box(copy));
        assert_eq!(freed::found(), [1]);
    }
}

#[cfg(all(feature = "fn-dsa", target_os = "linux", target_env = "gnu"))]
#[test]
fn nothing_that_is_freed_contains_the_third_signing_key() {
    use creto_crypto_accel::fn_dsa::FnDsaSigner;
    let signer = Box::new(FnDsaSigner::generate());
    let stored = Box::new(signer.to_stored());
    for part in stored.as_chunks::<16>().0.iter().step_by(8) {
        freed::look_for(part);
    }
    drop(signer.sign(b"statement"));
    let again = Box::new(FnDsaSigner::from_stored(&stored).unwrap());
    drop((again, stored, signer));
    assert_eq!(freed::found(), []);
}
