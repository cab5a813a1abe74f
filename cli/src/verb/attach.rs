//! Files as attachments: what `creto send` sends in chunks, and what `creto recv --attachments` puts together.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use creto_agent::attachment::{
    AttachmentError, AttachmentId, AttachmentLimits, Attachments, FileToSend, ReceivedFile, Taken,
};
use creto_agent::{Agent, AgentName, Delivery, SendOptions};
use creto_crypto_accel::digest::sha256;
use indicatif::ProgressBar;
use serde_json::json;

use super::backup::{bar, show, size};
use super::recv::{harmless, payload_as_json, shown_here};
use super::send::payload;
use crate::args::{Global, RecvArgs, SendArgs};
use crate::client::{keys_folder, keys_path, send_failure};
use crate::exit::{Exit, Failure};
use crate::moment::time;
use crate::terminal::{CAUTION, DIM, GOOD, STRONG, print_json, stdout};

/// How far files have come that are being sent: a folder beside the agent's keys.
const UPLOADS_EXTENSION: &str = "keys.uploads";
/// Where files are received unless a folder is named: beside the agent's keys, too.
const RECEIVED_EXTENSION: &str = "keys.attachments";

/// Sends a file, and goes on with it where an earlier run stopped.
pub(crate) async fn send(
    global: &Global,
    args: &SendArgs,
    agent: &Agent,
    path: &Path,
    options: SendOptions,
) -> Result<Exit, Failure> {
    let mut file = FileToSend::new(path);
    file.options = options;
    if let Some(text) = &args.text {
        file.note = payload(None, Some(text))?.into();
    }
    file.resume = Some(journal(global, args, path)?);
    let bar = bar("sending");
    let begin = Instant::now();
    let sent = agent.send_file(&args.to, file, |at| show(&bar, at.durable_bytes, at.bytes)).await;
    bar.finish_and_clear();
    let sent = sent.map_err(|error| failure(&error))?;
    let took = begin.elapsed();
    let id = hex::encode(sent.id.0);
    if args.json {
        print_json(&json!({
            "attachment_id": id,
            "message_id": sent.message_id.to_uuid_string(),
            "from": args.from.as_str(),
            "to": args.to.as_str(),
            "file_bytes": sent.bytes,
            "messages": sent.messages,
            "resumed_chunks": sent.resumed_chunks,
            "receipt_wanted": args.receipt,
            "elapsed_us": u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        }))?;
        return Ok(Exit::Ok);
    }
    let resumed = match sent.resumed_chunks {
        0 => String::new(),
        chunks => format!(", {chunks} of them by an earlier run"),
    };
    let (bytes, seconds) = (size(sent.bytes), took.as_secs_f64());
    writeln!(
        stdout(),
        "{GOOD}durable{GOOD:#}  attachment {id}  {DIM}{bytes} in {} messages{resumed} to {} in {seconds:.1} s{DIM:#}",
        sent.messages,
        args.to
    )?;
    Ok(Exit::Ok)
}

/// Where it is kept how far this file has come on its way to this agent.
fn journal(global: &Global, args: &SendArgs, path: &Path) -> Result<PathBuf, Failure> {
    let whole = path.canonicalize().map_err(|error| Failure::file("read", path, &error))?;
    let name = sha256(&[args.to.as_str().as_bytes(), b"\0", whole.as_os_str().as_encoded_bytes()]);
    let keys = keys_path(&keys_folder(global, &args.reach.keys), &args.from);
    Ok(keys.with_extension(UPLOADS_EXTENSION).join(hex::encode(&name[..16])))
}

/// What a failure means for the status.
pub(crate) fn failure(error: &AttachmentError) -> Failure {
    let exit = match error {
        AttachmentError::Send(error) => return send_failure(error),
        AttachmentError::Name { .. } | AttachmentError::Description | AttachmentError::TooLarge { .. } => Exit::Usage,
        AttachmentError::Changed { .. } => Exit::Found,
        _ => Exit::System,
    };
    Failure::of(exit, error)
}

/// Files that `creto recv` receives.
pub(crate) struct Inbox {
    /// None where everything is rejected.
    attachments: Option<Attachments>,
    bars: BTreeMap<(AgentName, AttachmentId), ProgressBar>,
    /// Attachments of which it was said that they come later; behind [`TOLD_MAX`] it is said again.
    told: BTreeSet<(AgentName, AttachmentId)>,
    /// Parts in a row that could not be taken.
    failed: usize,
}

const TOLD_MAX: usize = 1_024;
/// Parts in a row that could not be taken, before the command ends.
const FAILED_MAX: usize = 8;

/// What became of a delivery.
pub(crate) enum Shown {
    /// It is no part of an attachment.
    Message(Box<Delivery>),
    /// A file is whole: to be printed, and then acknowledged.
    File(Box<ReceivedFile>),
    /// A part of one.
    Part,
}

impl Inbox {
    /// Receives into the folder that is given, or one beside the agent's keys.
    pub(crate) async fn open(global: &Global, args: &RecvArgs) -> Result<Self, Failure> {
        let mut inbox = Self { attachments: None, bars: BTreeMap::new(), told: BTreeSet::new(), failed: 0 };
        if args.reject.is_none() {
            let folder = args.attachments.clone().unwrap_or_else(|| {
                keys_path(&keys_folder(global, &args.reach.keys), &args.agent).with_extension(RECEIVED_EXTENSION)
            });
            let mut limits = AttachmentLimits::default();
            limits.file_bytes_max = args.file_bytes_max;
            limits.parts_bytes_max = limits.parts_bytes_max.max(args.file_bytes_max.saturating_mul(2));
            let opened = Attachments::open(folder, limits).await;
            inbox.attachments = Some(opened.map_err(|error| failure(&error))?);
        }
        Ok(inbox)
    }

    /// Takes a delivery, and shows how far its file is if it belongs to one.
    pub(crate) async fn take(&mut self, delivery: Delivery) -> Result<Shown, Failure> {
        let Some(attachments) = &self.attachments else { return Ok(Shown::Message(Box::new(delivery))) };
        let sender = delivery.from.clone();
        let taken = match attachments.take(delivery).await {
            // It comes again: the disk may have room by then.
            Err(error) if self.failed < FAILED_MAX => {
                self.failed += 1;
                warn(format_args!("{CAUTION}later{CAUTION:#}  a part of a file of {sender}: {error}"));
                return Ok(Shown::Part);
            }
            taken => taken.map_err(|error| failure(&error))?,
        };
        self.failed = 0;
        match taken {
            Taken::Message(message) => return Ok(Shown::Message(message)),
            Taken::Part(part) => {
                let bar = self.bars.entry((part.from, part.id)).or_insert_with(|| bar("file"));
                bar.set_message(format!("from {sender}"));
                show(bar, part.received_bytes, part.bytes);
            }
            Taken::File(file) => {
                self.end(&sender, file.id);
                return Ok(Shown::File(file));
            }
            Taken::Later { from, id, later } => {
                if self.told.len() >= TOLD_MAX {
                    self.told.clear();
                }
                if self.told.insert((from, id)) {
                    let id = hex::encode(id.0);
                    warn(format_args!(
                        "{CAUTION}later{CAUTION:#}  attachment {id} of {sender}: {later}; it comes again"
                    ));
                }
            }
            Taken::Refused { id, refusal, .. } => {
                self.end(&sender, id);
                let id = hex::encode(id.0);
                warn(format_args!(
                    "{CAUTION}refused{CAUTION:#}  attachment {id} of {sender}: {refusal} (creto dlq has its head)"
                ));
            }
            _ => {}
        }
        Ok(Shown::Part)
    }

    fn end(&mut self, from: &AgentName, id: AttachmentId) {
        if let Some(bar) = self.bars.remove(&(from.clone(), id)) {
            bar.finish_and_clear();
        }
    }
}

fn warn(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

pub(crate) fn print(file: &ReceivedFile, as_json: bool, proof: Option<&Path>) -> std::io::Result<()> {
    let mut exact = std::io::stdout().lock();
    let path = file.path.display().to_string();
    if as_json {
        let mut line = json!({
            "attachment_id": hex::encode(file.id.0),
            "message_id": file.head.message_id.to_uuid_string(),
            "from": file.head.from.as_str(),
            "timestamp_ms": file.head.timestamp_ms,
            "path": path,
            "name": file.name,
            "media_type": file.media_type,
            "file_bytes": file.bytes,
        });
        if let Some(proof) = proof {
            line["proof"] = proof.display().to_string().into();
        }
        payload_as_json(&mut line, &file.note);
        writeln!(exact, "{line}")?;
    } else {
        let (at, from) = (time(file.head.timestamp_ms), &file.head.from);
        write!(stdout(), "{DIM}{at}{DIM:#}  {STRONG}{from}{STRONG:#}  {GOOD}file{GOOD:#}  ")?;
        write!(exact, "{} ({})", harmless(&path), size(file.bytes))?;
        if file.note.is_empty() {
            writeln!(exact)?;
        } else {
            writeln!(exact, "  {}", shown_here(&file.note))?;
        }
    }
    exact.flush()
}
