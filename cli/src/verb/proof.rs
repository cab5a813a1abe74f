//! `creto proof export|verify`: who signed a message, in a file that a third party can check without a node.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use creto_agent::proof::{Proven, verify};
use creto_envelope::limits::PROOF_BYTES_MAX;
use creto_envelope::proof::ProofParts;
use creto_envelope::{AgentId, AgentName, MessageId, SignedKeyRecord, TreeDigest, TrustDomain};
use creto_node::config::Config;
use creto_service::client::{Client, ClientError};
use creto_service::{ServiceError, StorageError};
use creto_store::{FileSource, PartMessage, Record, SenderId, recover};
use serde_json::{Value, json};

use super::wal::shard_folders;
use crate::args::{Global, ProofArgs, ProofExportArgs, ProofVerb, ProofVerifyArgs};
use crate::client::{block_on, control_failure};
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{BAD, CAUTION, DIM, GOOD, LITERAL, STRONG, print_json, stdout};

/// What a file of a proof is called, behind the message's id.
const EXTENSION: &str = "proof";
/// Mode of a file that anybody may read, less what the user's umask takes.
const OPEN: u32 = 0o666;
/// Mode of a file that its owner alone may read.
pub(crate) const PRIVATE: u32 = 0o600;
/// Stands for standard input or output.
const STREAM: &str = "-";
/// What the node answers about a record that it does not have.
const UNKNOWN: &str = "record_unknown";

pub(crate) fn run(global: &Global, args: &ProofArgs) -> Result<Exit, Failure> {
    match &args.verb {
        ProofVerb::Export(args) => export(global, args),
        ProofVerb::Verify(args) => run_verify(args),
    }
}

/// Keeps the proof of a message in `folder`, durably, under the message's id. A second message that a stranger gave the
/// same id does not touch it.
pub(crate) fn keep(folder: &Path, message_id: MessageId, from: AgentId, proof: &[u8]) -> Result<PathBuf, Failure> {
    let id = message_id.to_uuid_string();
    let mut path = folder.join(format!("{id}.{EXTENSION}"));
    match std::fs::read(&path) {
        Ok(kept) if kept == proof => return Ok(path),
        Ok(_) => path = folder.join(format!("{id}.{from}.{EXTENSION}")),
        Err(_) => {}
    }
    write_whole(&path, proof, OPEN)?;
    Ok(path)
}

/// Written beside, synced and renamed: whole or not there.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Failure> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    // One of another mode may be left of a run that was killed.
    let _ = std::fs::remove_file(&beside);
    let created = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside);
    let written = created.and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    });
    written.map_err(|error| Failure::file("write", path, &error))
}

fn export(global: &Global, args: &ProofExportArgs) -> Result<Exit, Failure> {
    let config = global.load_config()?;
    let id = args.message.to_uuid_string();
    let sender = args.from.as_ref().map(|from| sender_id(&config, from)).transpose()?;
    let folder = args.log.clone().unwrap_or_else(|| config.wal_dir());
    let (batch_header, message) = find(&folder, args.message, sender)?;
    let key_record = key_record(&config, &batch_header)?;
    let parts = ProofParts {
        batch_header: &batch_header,
        leaf_index: message.leaf_index,
        salt: &message.salt,
        path: &message.path,
        envelope: &message.envelope,
        key_record: &key_record,
    };
    let proof = parts.to_bytes();
    // What does not hold is not handed out: the log would be damaged, or the directory.
    let proven = verify(&proof).map_err(|error| {
        let what = format!("the log and the directory of this node give no proof of {id}: {error}");
        Failure::new(Exit::Found, what, "run `creto wal verify`, and compare the directory with a backup")
    })?;
    let output = match &args.output {
        Some(output) if output.as_os_str() == STREAM => {
            std::io::stdout().lock().write_all(&proof)?;
            return Ok(Exit::Ok);
        }
        Some(output) => output.clone(),
        None => PathBuf::from(format!("{id}.{EXTENSION}")),
    };
    write_whole(&output, &proof, OPEN)?;
    if args.json {
        let mut value = as_json(&proven);
        value["file"] = output.display().to_string().into();
        value["bytes"] = proof.len().into();
        print_json(&value)?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    writeln!(out, "{GOOD}written{GOOD:#}  {} {DIM}({} bytes){DIM:#}\n", output.display(), proof.len())?;
    print(&mut out, &proven)?;
    writeln!(
        out,
        "\nNext: {LITERAL}creto proof verify {}{LITERAL:#}   {DIM}anywhere, without a node{DIM:#}",
        output.display()
    )?;
    Ok(Exit::Ok)
}

fn sender_id(config: &Config, name: &AgentName) -> Result<AgentId, Failure> {
    let trust_domain = TrustDomain::parse(&config.node.trust_domain).map_err(|error| {
        Failure::new(Exit::Usage, format!("node.trust_domain: {error}"), "correct it in the configuration")
    })?;
    Ok(AgentId::derive(&trust_domain, name))
}

/// The message and its batch's header, from the logs under `folder`. They are only read, also while a node writes them.
fn find(folder: &Path, id: MessageId, from: Option<AgentId>) -> Result<(Vec<u8>, PartMessage), Failure> {
    let mut found: Vec<(Vec<u8>, PartMessage)> = Vec::new();
    let mut damage = None;
    for (shard_index, folder) in shard_folders(folder)? {
        let outcome = recover(&mut FileSource::new(&folder), shard_index, |_, record| {
            let (Record::BatchPart(part) | Record::Moved(part)) = record else { return };
            // A notice of the node has the id of the message that it is about.
            for message in part.messages.into_iter().filter(|message| message.sender != SenderId::NODE) {
                if message.message_id.0 == id.0 && from.is_none_or(|from| from.0 == message.sender.0) {
                    found.push((part.batch_header.to_vec(), message));
                }
            }
        });
        damage = damage.or(outcome.err());
    }
    let id = id.to_uuid_string();
    let senders: std::collections::BTreeSet<_> = found.iter().map(|(_, message)| message.sender.0).collect();
    if senders.len() > 1 {
        let what = format!("{} agents sent a message with id {id}", senders.len());
        return Err(Failure::new(Exit::Usage, what, "say whose is meant with --from NAME"));
    }
    // A proof stands for itself, so what was found counts even if the log is damaged elsewhere.
    found.into_iter().next().ok_or_else(|| match damage {
        Some(damage) => Failure::new(Exit::Found, damage.to_string(), "run `creto wal verify`"),
        None => Failure::new(
            Exit::Usage,
            format!("message {id} is not in the log of this node"),
            "check the id; what was read long ago is trimmed, so recipients keep proofs with `creto recv --proofs DIR`",
        ),
    })
}

/// The sender's key record, of the version that signed: from the node if it runs, from its file if it does not.
fn key_record(config: &Config, batch_header: &[u8]) -> Result<SignedKeyRecord, Failure> {
    let (agent, version) = signer(batch_header).ok_or_else(|| {
        Failure::new(Exit::Found, "the batch header in the log is cut short", "run `creto wal verify`")
    })?;
    let unknown = || {
        let what = format!("the directory has no version {version} of the key record of {agent}");
        Failure::new(Exit::Found, what, "restore the directory from the backup that belongs to this log")
    };
    match block_on(async { Ok(Client::new(config.control_socket()).key_record(agent, version).await) })? {
        Ok(record) => Ok(record),
        Err(ClientError::SocketMissing(_) | ClientError::NotRunning(_)) => {
            let found = match config.database() {
                Some(database) => creto_service::offline::key_record_in(database, agent, version),
                None => creto_service::offline::key_record(&config.data_dir().join("control.redb"), agent, version),
            };
            match found {
                Ok(record) => record.ok_or_else(unknown),
                Err(error @ ServiceError::Storage(StorageError::InUse(_))) => {
                    Err(Failure::of(Exit::Unreachable, &error))
                }
                Err(error) => Err(Failure::of(Exit::System, &error)),
            }
        }
        Err(error) if error.code() == Some(UNKNOWN) => Err(unknown()),
        Err(error) => Err(control_failure(&error)),
    }
}

/// Whose key record a batch header asks for, and which version. The proof checks the header as a whole afterwards.
fn signer(batch_header: &[u8]) -> Option<(AgentId, u32)> {
    let version = u32::from_le_bytes(*batch_header.get(8..)?.first_chunk()?);
    Some((AgentId(*batch_header.get(16..)?.first_chunk()?), version))
}

fn run_verify(args: &ProofVerifyArgs) -> Result<Exit, Failure> {
    let proof = read(&args.file)?;
    let verdict = verify(&proof);
    let expected = args.expect_fingerprint.map(|Fingerprint(expected)| expected);
    let unexpected = |proven: &Proven| expected.is_some_and(|expected| expected != proven.signing_fingerprint);
    match verdict {
        Ok(proven) if !unexpected(&proven) => {
            let compared = expected.is_some();
            if args.json {
                let mut value = as_json(&proven);
                value["ok"] = true.into();
                value["fingerprint_compared"] = compared.into();
                print_json(&value)?;
                return Ok(Exit::Ok);
            }
            let mut out = stdout();
            writeln!(out, "{GOOD}holds{GOOD:#}  {}\n", args.file.display())?;
            print(&mut out, &proven)?;
            if !compared {
                let note = "The name is only as good as the fingerprint: compare it with the one that the sender gives over \
                            another channel\n(`creto agent show`), or pass that one with --expect-fingerprint.";
                writeln!(out, "\n{CAUTION}{note}{CAUTION:#}")?;
            }
            Ok(Exit::Ok)
        }
        Ok(proven) => {
            let reason = format!(
                "it holds for the signing keys {}, which are not the expected ones: whoever wrote it is not who you meant",
                hex::encode(proven.signing_fingerprint)
            );
            refused(args, "other_fingerprint", &reason)
        }
        Err(error) => refused(args, error.code(), &error.to_string()),
    }
}

fn refused(args: &ProofVerifyArgs, code: &str, reason: &str) -> Result<Exit, Failure> {
    if args.json {
        print_json(&json!({ "ok": false, "code": code, "reason": reason }))?;
    } else {
        writeln!(stdout(), "{BAD}does not hold{BAD:#}  {}\n  {reason} {DIM}({code}){DIM:#}", args.file.display())?;
    }
    Ok(Exit::Found)
}

/// At most one byte more than a proof can have.
fn read(file: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let limit = PROOF_BYTES_MAX as u64 + 1;
    let read = if file.as_os_str() == STREAM {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|opened| opened.take(limit).read_to_end(&mut bytes))
    };
    read.map(|_| bytes).map_err(|error| Failure::file("read", file, &error))
}

fn print(out: &mut impl Write, proven: &Proven) -> std::io::Result<()> {
    let fingerprint = hex::encode(proven.signing_fingerprint);
    writeln!(out, "  signed by    {STRONG}{}{STRONG:#} {DIM}in {}{DIM:#}", proven.sender, proven.trust_domain)?;
    writeln!(out, "  fingerprint  {fingerprint}")?;
    writeln!(out, "  signed at    {} UTC {DIM}by the sender's clock{DIM:#}", date_time(proven.signed_at_ms))?;
    let (signatures, tree) = (signatures(proven).join(" and "), tree(proven));
    let version = proven.key_record_version;
    writeln!(out, "  with         {signatures} over {tree}, key record version {version}")?;
    writeln!(out, "  message      {}", proven.message_id.to_uuid_string())?;
    writeln!(out, "  to           {}", proven.recipient)?;
    if let Some(correlation_id) = proven.correlation_id {
        writeln!(out, "  belongs to   {}", correlation_id.to_uuid_string())?;
    }
    writeln!(out, "  made at      {} UTC", date_time(proven.timestamp_ms))?;
    let (kind, priority) = (word(&proven.kind), word(&proven.priority));
    writeln!(out, "  is           {kind}, {priority}, {} bytes of sealed payload", proven.payload_bytes)?;
    writeln!(
        out,
        "  leaf         {} of {} under root {}",
        proven.leaf_index,
        proven.tree_size,
        hex::encode(proven.root)
    )
}

fn as_json(proven: &Proven) -> Value {
    json!({
        "sender": proven.sender.as_str(),
        "trust_domain": proven.trust_domain.as_str(),
        "sender_id": proven.sender_id.to_string(),
        "spiffe_id": proven.sender.spiffe_id(&proven.trust_domain),
        "signing_fingerprint": hex::encode(proven.signing_fingerprint),
        "signatures": signatures(proven),
        "tree_digest": tree(proven),
        "key_record_version": proven.key_record_version,
        "key_id": proven.key_id.to_string(),
        "signed_at_ms": proven.signed_at_ms,
        "recipient_id": proven.recipient.to_string(),
        "message_id": proven.message_id.to_uuid_string(),
        "correlation_id": proven.correlation_id.map(|id| id.to_uuid_string()),
        "timestamp_ms": proven.timestamp_ms,
        "kind": word(&proven.kind),
        "priority": word(&proven.priority),
        "envelope_bytes": proven.envelope_bytes,
        "payload_bytes": proven.payload_bytes,
        "leaf": hex::encode(proven.leaf),
        "leaf_index": proven.leaf_index,
        "tree_size": proven.tree_size,
        "root": hex::encode(proven.root),
    })
}

fn signatures(proven: &Proven) -> &'static [&'static str] {
    match proven.signature_suite.has_fn_dsa_512() {
        true => &["Ed25519", "ML-DSA-65", "FN-DSA-512"],
        false => &["Ed25519", "ML-DSA-65"],
    }
}

fn tree(proven: &Proven) -> &'static str {
    match proven.signature_suite.tree_digest() {
        TreeDigest::Sha256 => "SHA-256",
        TreeDigest::Sha3_256 => "SHA3-256",
    }
}

fn word(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

/// 64 hexadecimal digits; spaces, colons and hyphens between them do not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint(pub(crate) [u8; 32]);

impl std::str::FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits: String = text.chars().filter(|c| !matches!(c, ' ' | ':' | '-')).collect();
        let mut bytes = [0; 32];
        hex::decode_to_slice(&digits, &mut bytes).map_err(|_| {
            format!(
                "a fingerprint has 64 hexadecimal digits, as `creto agent show` prints it; this has {}",
                digits.len()
            )
        })?;
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_as_people_write_it() {
        let plain = "00ff".repeat(16);
        let spaced = "00FF ".repeat(16);
        assert_eq!(plain.parse::<Fingerprint>(), spaced.parse::<Fingerprint>());
        for wrong in ["", "00", &"0g".repeat(32), &"00".repeat(33)] {
            assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_stranger_with_the_same_message_id_does_not_replace_a_proof() {
        let folder = tempfile::tempdir().unwrap();
        let (id, honest, stranger) = (MessageId([1; 16]), AgentId([2; 16]), AgentId([3; 16]));
        let first = keep(folder.path(), id, honest, b"first").unwrap();
        assert_eq!(keep(folder.path(), id, honest, b"first").unwrap(), first, "a second delivery is the same proof");
        let second = keep(folder.path(), id, stranger, b"second").unwrap();
        assert_ne!(first, second);
        assert_eq!(std::fs::read(first).unwrap(), b"first");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
