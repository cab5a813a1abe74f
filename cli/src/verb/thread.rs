//! `creto thread send|verify`: typed messages that name the one they follow, and checking a conversation of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use creto_agent::thread::{THREAD_MESSAGES_MAX, Thread, ThreadError, ThreadMessage, TypedMessage, VerifiedThread};
use creto_envelope::limits::{PAYLOAD_PLAINTEXT_BYTES_MAX, PROOF_BYTES_MAX};
use serde_json::{Value, json};

use crate::args::Global;
use crate::args::thread::{ThreadArgs, ThreadSendArgs, ThreadVerb, ThreadVerifyArgs};
use crate::client::{block_on, connect_with, send_failure};
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{BAD, CAUTION, DIM, GOOD, STRONG, print_json, stdout};
use crate::verb::send::payload;

/// What the opened payload of a typed message is called, beside its proof.
pub(crate) const TYPED_EXTENSION: &str = "typed";

pub(crate) fn run(global: &Global, args: &ThreadArgs) -> Result<Exit, Failure> {
    match &args.verb {
        ThreadVerb::Send(args) => {
            let content = payload(args.file.as_deref(), args.text.as_deref())?;
            block_on(send(global, args, content))
        }
        ThreadVerb::Verify(args) => verify(args),
    }
}

async fn send(global: &Global, args: &ThreadSendArgs, content: Vec<u8>) -> Result<Exit, Failure> {
    let mut message = TypedMessage::new(args.message_type, content);
    message.parent = args.parent.map(|hash| hash.0);
    message.handoff = args.handoff.map(|hash| hash.0);
    message.priority = args.priority.into();
    let agent = connect_with(global, &args.reach, &args.from, |_| ()).await?;
    let sent = agent.send_typed(&args.to, message).await;
    agent.close().await;
    let sent = sent.map_err(|error| send_failure(&error))?;
    let (id, hash) = (sent.message_id.to_uuid_string(), sent.envelope_sha256.map(hex::encode));
    if args.json {
        print_json(&json!({
            "message_id": id,
            "from": args.from.as_str(),
            "to": args.to.as_str(),
            "type": args.message_type.name(),
            "hash": hash,
        }))?;
        return Ok(Exit::Ok);
    }
    let hash = hash.unwrap_or_else(|| "(not known; ask the recipient)".to_owned());
    let mut out = stdout();
    writeln!(out, "{GOOD}durable{GOOD:#}  {id}  {DIM}{} to {}{DIM:#}", args.message_type.name(), args.to)?;
    writeln!(out, "  the next one follows it with --parent {hash}")?;
    Ok(Exit::Ok)
}

fn verify(args: &ThreadVerifyArgs) -> Result<Exit, Failure> {
    let files = files(&args.folders)?;
    let mut thread = Thread::new();
    for (label, (proof, typed)) in &files {
        let (proof, payload) = (read(proof, PROOF_BYTES_MAX)?, read(typed, PAYLOAD_PLAINTEXT_BYTES_MAX)?);
        if let Err(error) = thread.add(label, &proof, &payload) {
            return refused(args, error.label(), error.code(), &error.to_string());
        }
    }
    let verified = match thread.verify() {
        Ok(verified) => verified,
        Err(error @ ThreadError::Empty) => {
            return Err(Failure::of(Exit::Usage, &error));
        }
        Err(error) => return refused(args, error.label(), error.code(), &error.to_string()),
    };
    for message in &verified.messages {
        let expected = args.expect.iter().find(|(name, _)| *name == message.sender);
        if expected.is_some_and(|(_, fingerprint)| fingerprint.0 != message.signing_fingerprint) {
            let reason = format!(
                "{}: {} signed with the keys {}, which are not the expected ones",
                message.label,
                message.sender,
                hex::encode(message.signing_fingerprint)
            );
            return refused(args, Some(&message.label), "other_fingerprint", &reason);
        }
    }
    print(args, &verified)?;
    Ok(Exit::Ok)
}

/// The files of each typed message: its proof, and its payload. A proof without a payload is of another message.
fn files(folders: &[PathBuf]) -> Result<BTreeMap<String, (PathBuf, PathBuf)>, Failure> {
    let mut files = BTreeMap::new();
    for folder in folders {
        let entries = std::fs::read_dir(folder).map_err(|error| Failure::file("read", folder, &error))?;
        for entry in entries {
            let typed = entry.map_err(|error| Failure::file("read", folder, &error))?.path();
            if typed.extension().is_some_and(|extension| extension == TYPED_EXTENSION) {
                let proof = typed.with_extension("proof");
                files.insert(proof.display().to_string(), (proof, typed));
            }
        }
        if files.len() > THREAD_MESSAGES_MAX {
            return Err(Failure::of(Exit::Usage, &ThreadError::TooMany));
        }
    }
    Ok(files)
}

/// At most one byte more than it may have.
fn read(file: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let read = File::open(file).and_then(|opened| opened.take(bytes_max as u64 + 1).read_to_end(&mut bytes));
    read.map(|_| bytes).map_err(|error| Failure::file("read", file, &error))
}

fn refused(args: &ThreadVerifyArgs, file: Option<&str>, code: &str, reason: &str) -> Result<Exit, Failure> {
    if args.json {
        print_json(&json!({ "ok": false, "file": file, "code": code, "reason": reason }))?;
    } else {
        writeln!(stdout(), "{BAD}does not hold{BAD:#}  {reason} {DIM}({code}){DIM:#}")?;
    }
    Ok(Exit::Found)
}

fn print(args: &ThreadVerifyArgs, verified: &VerifiedThread) -> std::io::Result<()> {
    let compared = |message: &ThreadMessage| args.expect.iter().any(|(name, _)| *name == message.sender);
    let all_compared = verified.messages.iter().all(compared);
    let digest = hex::encode(verified.digest);
    if args.json {
        let messages: Vec<Value> = verified.messages.iter().map(as_json).collect();
        return print_json(&json!({
            "ok": true,
            "digest": digest,
            "fingerprints_compared": all_compared,
            "messages": messages,
        }));
    }
    let mut out = stdout();
    writeln!(out, "{GOOD}holds{GOOD:#}  {} messages, digest {digest}\n", verified.messages.len())?;
    for message in &verified.messages {
        let (at, kind) = (date_time(message.timestamp_ms), message.message_type.name());
        writeln!(out, "  {DIM}{at} UTC{DIM:#}  {STRONG}{}{STRONG:#}  {kind}", message.sender)?;
        writeln!(out, "    {DIM}{}{DIM:#}", hex::encode(message.hash))?;
    }
    if !all_compared {
        let note = "The names are only as good as the fingerprints: compare them over another channel (`creto agent show`), and pass \
                    them with --expect NAME=FINGERPRINT.";
        writeln!(out, "\n{CAUTION}{note}{CAUTION:#}")?;
        let signers: BTreeMap<_, _> =
            verified.messages.iter().map(|message| (&message.sender, message.signing_fingerprint)).collect();
        for (name, fingerprint) in signers {
            writeln!(out, "  {name}={}", hex::encode(fingerprint))?;
        }
    }
    Ok(())
}

fn as_json(message: &ThreadMessage) -> Value {
    json!({
        "file": message.label,
        "type": message.message_type.name(),
        "sender": message.sender.as_str(),
        "sender_id": message.sender_id.to_string(),
        "signing_fingerprint": hex::encode(message.signing_fingerprint),
        "recipient_id": message.recipient_id.to_string(),
        "message_id": message.message_id.to_uuid_string(),
        "timestamp_ms": message.timestamp_ms,
        "hash": hex::encode(message.hash),
        "parent": message.parent.map(hex::encode),
        "handoff": message.handoff.map(hex::encode),
        "content_bytes": message.content_bytes,
    })
}
