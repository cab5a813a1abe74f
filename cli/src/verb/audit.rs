//! `creto audit`: read, export, prove and verify the audit log, without a node.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use creto_audit::export::{ExportError, Summary};
use creto_audit::limits::{NOTE_BYTES_MAX, PROOF_BYTES_MAX};
use creto_audit::proof::{InclusionProof, PROOF_HEADER, ProvenEntry};
use creto_audit::{CheckpointError, LogVerifier, SignedCheckpoint, What};
use creto_audit_store::disk::RealDisk;
use creto_audit_store::{ExportFailure, LogReader, StoreError, export, keys, prove, verify_export, verify_log};
use creto_envelope::MessageId;
use serde_json::{Value, json};

use crate::args::Global;
use crate::args::audit::{AuditArgs, AuditExportArgs, AuditLogArgs, AuditProveArgs, AuditVerb, AuditVerifyArgs};
use crate::exit::{Exit, Failure};
use crate::moment::date_time;
use crate::terminal::{BAD, DIM, GOOD, STRONG, grouped, print_json, stdout};

mod alerts;
pub(crate) mod filter;
mod follow;
mod list;
mod show;

use filter::Filter;

/// Standard input or output.
const STREAM: &str = "-";
/// The folder in a node's data.
pub(crate) const FOLDER: &str = "audit";

pub(crate) fn run(global: &Global, args: &AuditArgs) -> Result<Exit, Failure> {
    match &args.verb {
        AuditVerb::Tail(args) => list::tail(global, args),
        AuditVerb::Query(args) => list::query(global, args),
        AuditVerb::Alerts(args) => alerts::list(global, args),
        AuditVerb::Export(args) => write_export(global, args),
        AuditVerb::Prove(args) => write_proof(global, args),
        AuditVerb::Verify(args) => verify(args),
    }
}

/// The folder of the log that the arguments mean.
fn folder(global: &Global, args: &AuditLogArgs) -> Result<PathBuf, Failure> {
    match &args.log {
        Some(folder) => Ok(folder.clone()),
        None => Ok(global.load_config()?.data_dir().join(FOLDER)),
    }
}

/// The log that the arguments mean.
fn open(global: &Global, args: &AuditLogArgs) -> Result<LogReader, Failure> {
    LogReader::open(&folder(global, args)?).map_err(|error| store(&error))
}

fn store(error: &StoreError) -> Failure {
    let exit = match error {
        StoreError::Damaged { .. } | StoreError::Checkpoint(_) => Exit::Found,
        StoreError::NoLeaf(_) => Exit::Usage,
        _ => Exit::System,
    };
    Failure::of(exit, error)
}

fn failed(error: &ExportFailure) -> Failure {
    match error {
        ExportFailure::Log(error) => store(error),
        ExportFailure::Io(_) => Failure::of(Exit::System, error),
        ExportFailure::Export(_) => Failure::of(Exit::Found, error),
    }
}

/// Where a result goes: a file that appears whole or not at all, or standard output.
fn write_to(output: &Path, write: impl FnOnce(&mut dyn Write) -> Result<(), Failure>) -> Result<(), Failure> {
    if output.as_os_str() == STREAM {
        let mut out = BufWriter::new(std::io::stdout().lock());
        write(&mut out)?;
        return Ok(out.flush()?);
    }
    let fail = |error: std::io::Error| Failure::file("write", output, &error);
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(fail)?;
    {
        let mut out = BufWriter::new(file.as_file_mut());
        write(&mut out)?;
        out.flush().map_err(fail)?;
    }
    file.as_file().sync_all().map_err(fail)?;
    file.persist(output).map_err(|error| fail(error.error))?;
    Ok(())
}

/// A result on standard output, or on standard error when that holds the file.
fn tell(
    output: &Path,
    value: &Value,
    as_json: bool,
    text: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<(), Failure> {
    let is_stream = output.as_os_str() == STREAM;
    match (as_json, is_stream) {
        (true, false) => print_json(value)?,
        (true, true) => eprintln!("{value}"),
        (false, false) => text(&mut stdout())?,
        (false, true) => {}
    }
    Ok(())
}

fn write_export(global: &Global, args: &AuditExportArgs) -> Result<Exit, Failure> {
    let log = open(global, &args.log)?;
    let mut filter = Filter::new(&args.filter, log.checkpoint())?;
    let is_whole = !args.redact && filter.is_empty();
    let hides_all = args.redact && filter.is_empty();
    let mut exported = None;
    write_to(&args.output, |mut out| {
        let disclose = |event: &_| is_whole || (!hides_all && filter.fits(event));
        exported = Some(export(&log, &mut out, disclose).map_err(|error| failed(&error))?);
        Ok(())
    })?;
    let exported = exported.expect("it was written");
    let value = json!({
        "file": args.output.display().to_string(),
        "leaves": exported.leaves,
        "disclosed": exported.disclosed,
        "dropped": exported.dropped,
        "root": hex::encode(log.checkpoint().root),
        "origin": log.checkpoint().origin,
    });
    tell(&args.output, &value, args.json, |out| {
        let (leaves, hidden) = (grouped(exported.leaves), grouped(exported.leaves - exported.disclosed));
        writeln!(
            out,
            "{GOOD}written{GOOD:#}  {}  {leaves} leaves, {hidden} of them only hashes",
            args.output.display()
        )?;
        if exported.dropped > 0 {
            let dropped = grouped(exported.dropped);
            writeln!(
                out,
                "{DIM}The entries of {dropped} were dropped when their time was over: `[audit] retention`.{DIM:#}"
            )?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

fn write_proof(global: &Global, args: &AuditProveArgs) -> Result<Exit, Failure> {
    let log = open(global, &args.log)?;
    let since = args.since.as_deref().map(|file| read_checkpoint(log.verifier(), file)).transpose()?;
    let since = since.transpose().map_err(|error| Failure::of(Exit::Found, &error))?;
    let index = match (args.index, &args.message) {
        (Some(index), _) => index,
        (None, Some(message)) => accepted(&log, message)?,
        (None, None) => {
            return Err(Failure::new(Exit::Usage, "neither a leaf nor a message is given", "give one of them"));
        }
    };
    let proof = prove(&log, index, since.as_ref()).map_err(|error| store(&error))?;
    let output = args.output.clone().unwrap_or_else(|| PathBuf::from(format!("{index}.tlog-proof")));
    write_to(&output, |out| Ok(out.write_all(proof.to_text().as_bytes())?))?;
    let value = json!({ "file": output.display().to_string(), "index": index, "size": log.checkpoint().size });
    tell(&output, &value, args.json, |out| {
        let size = grouped(log.checkpoint().size);
        writeln!(out, "{GOOD}written{GOOD:#}  {}  leaf {index} of {size}", output.display())
    })?;
    Ok(Exit::Ok)
}

/// The leaf that says that the message was accepted: the last one, since ids are chosen by senders.
fn accepted(log: &LogReader, message: &MessageId) -> Result<u64, Failure> {
    let mut found = None;
    list::each(log, 0..log.checkpoint().size, |index, event| {
        if matches!(event.event.what, What::Accepted { message_id, .. } if message_id == *message) {
            found = Some(index);
        }
        Ok(())
    })?;
    let what = || format!("no signed event says that the message {} was accepted", message.to_uuid_string());
    found.ok_or_else(|| {
        Failure::new(
            Exit::Found,
            what(),
            "an event is signed within a second; look at the id, or at another node's log",
        )
    })
}

/// A checkpoint's file. The outer error: it could not be read.
fn read_checkpoint(log: &LogVerifier, file: &Path) -> Result<Result<SignedCheckpoint, CheckpointError>, Failure> {
    Ok(log.verify(&read(file, NOTE_BYTES_MAX)?))
}

/// At most one byte more than there can be.
fn read(file: &Path, bytes_max: usize) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let opened = File::open(file).and_then(|opened| opened.take(bytes_max as u64 + 1).read_to_end(&mut bytes));
    opened.map(|_| bytes).map_err(|error| Failure::file("read", file, &error))
}

/// What was verified.
enum Verified {
    Log(SignedCheckpoint, Summary),
    Entry(Box<ProvenEntry>),
}

fn verify(args: &AuditVerifyArgs) -> Result<Exit, Failure> {
    let public = keys::load_public(&args.key).map_err(|error| store(&error))?;
    let log = LogVerifier::new(public).map_err(|error| Failure::of(Exit::Usage, &error))?;
    let since = match args.since.as_deref().map(|file| read_checkpoint(&log, file)).transpose()? {
        Some(Err(error)) => return refused(args, error.code(), &format!("the checkpoint of --since: {error}"), None),
        Some(Ok(since)) => Some(since),
        None => None,
    };
    match verify_any(args, &log, since) {
        Ok(Ok(verified)) => holds(args, &verified),
        Ok(Err(error)) => {
            let place = match &error {
                Broken::Export(ExportError::Found(finding)) => finding.place(),
                _ => None,
            };
            refused(args, error.code(), &error.to_string(), place)
        }
        Err(failure) => Err(failure),
    }
}

/// What does not hold.
enum Broken {
    Export(ExportError),
    Proof(creto_audit::proof::ProofError),
}

impl Broken {
    fn code(&self) -> &'static str {
        match self {
            Self::Export(error) => error.code(),
            Self::Proof(error) => error.code(),
        }
    }
}

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Export(error) => error.fmt(f),
            Self::Proof(error) => error.fmt(f),
        }
    }
}

fn verify_any(
    args: &AuditVerifyArgs,
    log: &LogVerifier,
    since: Option<SignedCheckpoint>,
) -> Result<Result<Verified, Broken>, Failure> {
    let file = &args.file;
    let result = if file.is_dir() {
        verify_folder(file, log, since)
    } else if file.as_os_str() == STREAM {
        verify_stream(std::io::stdin().lock(), log, since)
    } else {
        let opened = File::open(file).map_err(|error| Failure::file("read", file, &error))?;
        verify_stream(opened, log, since)
    };
    match result {
        Ok(verified) => Ok(verified),
        Err(ExportFailure::Export(error)) => Ok(Err(Broken::Export(error))),
        Err(other) => Err(failed(&other)),
    }
}

fn verify_stream(
    file: impl Read,
    log: &LogVerifier,
    since: Option<SignedCheckpoint>,
) -> Result<Result<Verified, Broken>, ExportFailure> {
    let mut file = BufReader::with_capacity(1 << 20, file);
    let mut head = Vec::new();
    file.by_ref().take(PROOF_HEADER.len() as u64).read_to_end(&mut head)?;
    if InclusionProof::is_one(&head) {
        file.take(PROOF_BYTES_MAX as u64).read_to_end(&mut head)?;
        let proven = InclusionProof::parse(&head).and_then(|proof| proof.verify(log, since.as_ref()));
        return Ok(proven.map(|proven| Verified::Entry(Box::new(proven))).map_err(Broken::Proof));
    }
    let (checkpoint, summary) = verify_export(head.as_slice().chain(file), log, since, |_| ())?;
    Ok(Ok(Verified::Log(checkpoint, summary)))
}

/// The files of a log themselves, as they are.
fn verify_folder(
    folder: &Path,
    log: &LogVerifier,
    since: Option<SignedCheckpoint>,
) -> Result<Result<Verified, Broken>, ExportFailure> {
    let own = LogVerifier::new(log.public().clone()).map_err(StoreError::Keys)?;
    let reader = match LogReader::with_disk(RealDisk::new(folder), own) {
        Ok(Some(reader)) => reader,
        Ok(None) => return Err(StoreError::NoLog(folder.display().to_string()).into()),
        Err(StoreError::Checkpoint(error)) => return Ok(Err(Broken::Export(ExportError::Checkpoint(error)))),
        Err(other) => return Err(other.into()),
    };
    let summary = verify_log(&reader, since)?;
    Ok(Ok(Verified::Log(reader.checkpoint().clone(), summary)))
}

fn holds(args: &AuditVerifyArgs, verified: &Verified) -> Result<Exit, Failure> {
    let checkpoint = match verified {
        Verified::Log(checkpoint, _) => checkpoint,
        Verified::Entry(proven) => &proven.checkpoint,
    };
    if let Some(file) = &args.keep_checkpoint {
        write_to(file, |out| Ok(out.write_all(checkpoint.note().as_bytes())?))?;
    }
    let mut value = json!({
        "ok": true,
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": hex::encode(checkpoint.root),
        "time_ms": checkpoint.time_ms,
        "signatures": ["Ed25519", "ML-DSA-65"],
        "extends_what_was_seen": args.since.is_some(),
    });
    match verified {
        Verified::Log(_, summary) => {
            value["leaves"] = summary.leaves.into();
            value["only_hashes"] = summary.hidden.into();
            value["only_hashes_before"] = summary.hidden_first.into();
            value["dropped_before"] = summary.dropped_below.into();
            value["sources"] = summary.sources.into();
            value["recovered"] = summary.recovered.into();
            value["checkpoints"] = summary.checkpoints.into();
        }
        Verified::Entry(proven) => value["event"] = show::as_json(proven.index, &proven.event),
    }
    if args.json {
        print_json(&value)?;
        return Ok(Exit::Ok);
    }
    let mut out = stdout();
    writeln!(out, "{GOOD}holds{GOOD:#}  {}\n", args.file.display())?;
    writeln!(out, "  log         {STRONG}{}{STRONG:#}", checkpoint.origin)?;
    writeln!(
        out,
        "  signed at   {} UTC {DIM}by the node's clock, Ed25519 and ML-DSA-65{DIM:#}",
        date_time(checkpoint.time_ms)
    )?;
    writeln!(out, "  root        {}", hex::encode(checkpoint.root))?;
    match verified {
        Verified::Log(_, summary) => {
            let (leaves, hidden) = (grouped(summary.leaves), grouped(summary.hidden));
            writeln!(out, "  leaves      {leaves}, {hidden} of them only hashes")?;
            if let Some(beginning) = beginning(summary) {
                writeln!(out, "  beginning   {beginning}")?;
            }
            writeln!(
                out,
                "  chains      {} without a hole, {} events found again after a crash",
                summary.sources,
                grouped(summary.recovered)
            )?;
        }
        Verified::Entry(proven) => {
            let (index, size) = (grouped(proven.index), grouped(checkpoint.size));
            writeln!(out, "  leaf        {index} of {size}")?;
            writeln!(out, "  says        {}", show::line(&proven.event))?;
        }
    }
    Ok(Exit::Ok)
}

/// What is to be said of a log whose first entries are not there.
fn beginning(summary: &Summary) -> Option<String> {
    let (hidden, dropped) = (summary.hidden_first, summary.dropped_below);
    let leaf = grouped(hidden);
    match hidden {
        0 => None,
        _ if hidden <= dropped => Some(format!(
            "entries before leaf {leaf} are not here: the log says that it dropped those before {}. Their hashes verify",
            grouped(dropped)
        )),
        _ => Some(format!(
            "entries before leaf {leaf} are not here, and the log does not say that it dropped them all. Their hashes verify"
        )),
    }
}

fn refused(
    args: &AuditVerifyArgs,
    code: &str,
    reason: &str,
    place: Option<creto_audit::export::Place>,
) -> Result<Exit, Failure> {
    if args.json {
        let event = place.and_then(|place| place.event);
        print_json(&json!({
            "ok": false,
            "code": code,
            "reason": reason,
            "leaf": place.map(|place| place.index),
            "source": event.map(|(source, _)| source.to_string()),
            "position": event.map(|(_, position)| position),
        }))?;
    } else {
        writeln!(stdout(), "{BAD}does not hold{BAD:#}  {}\n  {reason} {DIM}({code}){DIM:#}", args.file.display())?;
    }
    Ok(Exit::Found)
}
