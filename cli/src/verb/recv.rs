//! `creto recv`: prints what an agent is sent, and acknowledges each message once it is printed, or rejects it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use creto_agent::thread::Typed;
use creto_agent::{Agent, Delivery, Incident, Notice, NoticeCause, PresencePolicy, ReceiptKind, ReceiveError};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::{Global, RecvArgs};
use crate::client::{block_on, connect_with, receive_failure};
use crate::exit::{Exit, Failure, plain};
use crate::moment::time;
use crate::terminal::{CAUTION, DIM, GOOD, STRONG, stdout};
use crate::traces::Traces;
use crate::verb::attach::{self, Inbox, Shown};
use crate::verb::proof::{PRIVATE, keep, write_whole};
use crate::verb::thread::TYPED_EXTENSION;

/// Why the command goes on or ends.
enum Next {
    Message(Box<Delivery>),
    /// The node says that a message of this agent expired.
    Notice(Notice),
    /// Another agent says what is so just now.
    Signal(creto_agent::Signal),
    /// Something came that is not to be trusted.
    Refused(Incident),
    /// Nothing came in time, or Ctrl-C.
    End,
}

pub(crate) fn run(global: &Global, args: &RecvArgs) -> Result<Exit, Failure> {
    let _traces = Traces::begin(&args.trace)?;
    block_on(receive(global, args))
}

async fn receive(global: &Global, args: &RecvArgs) -> Result<Exit, Failure> {
    if let Some(folder) = &args.proofs {
        std::fs::create_dir_all(folder).map_err(|error| Failure::file("make the folder", folder, &error))?;
    }
    let files = Inbox::open(global, args).await?;
    let keep_proofs = args.proofs.is_some();
    let agent = connect_with(global, &args.reach, &args.agent, |options| {
        options.keep_proofs = keep_proofs;
        options.prekeys = args.prekeys.into();
        options.receipts = args.receipts.into();
        if args.show_presence {
            options.presence = PresencePolicy::Senders;
        }
    })
    .await?;
    let printed = print_all(&agent, files, args).await;
    // In every case: what was printed is acknowledged before the connection ends.
    agent.close().await;
    printed?;
    Ok(Exit::Ok)
}

async fn print_all(agent: &Agent, mut files: Inbox, args: &RecvArgs) -> Result<(), Failure> {
    // Asked for first: what comes while nobody listens is only logged.
    let mut notices = agent.notices().map_err(|error| receive_failure(&error))?;
    let signals = args.signals.then(|| agent.signals()).transpose();
    let mut signalled = signals.map_err(|error| receive_failure(&error))?;
    let mut mailbox = agent.subscribe().map_err(|error| receive_failure(&error))?;
    let mut incidents = agent.incidents();
    let mut signals = Signals::catch()?;
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let next = async {
            tokio::select! {
                // A message that is there is printed even when the signal came first: it is ours already.
                biased;
                delivery = mailbox.next() => delivery.unwrap_or(Err(ReceiveError::Closed)).map(|delivery| Next::Message(Box::new(delivery))),
                Some(notice) = notices.next() => Ok(Next::Notice(notice)),
                Some(signal) = next_of(signalled.as_mut()) => Ok(Next::Signal(signal)),
                incident = incidents.next() => Ok(incident.map_or(Next::End, Next::Refused)),
                () = signals.next() => Ok(Next::End),
            }
        };
        let next = if args.follow {
            next.await
        } else {
            tokio::time::timeout(Duration::from_millis(args.wait), next).await.unwrap_or(Ok(Next::End))
        };
        match next.map_err(|error| receive_failure(&error))? {
            Next::Message(delivery) => {
                let delivery = match files.take(*delivery).await? {
                    Shown::Message(delivery) => delivery,
                    Shown::Part => continue,
                    Shown::File(file) => {
                        let kept = keep_proof(args, &file.head)?;
                        attach::print(&file, args.json, kept.as_deref())?;
                        file.head.ack();
                        left -= 1;
                        continue;
                    }
                };
                let kept = keep_proof(args, &delivery)?;
                let typed = typed(&delivery);
                if let (Some(kept), Some(_)) = (&kept, &typed) {
                    // Beside its proof, header and all: what `creto thread verify` needs to see what was signed.
                    write_whole(&kept.with_extension(TYPED_EXTENSION), &delivery.payload, PRIVATE)?;
                }
                if !print(&delivery, typed.as_ref(), args.json, kept.as_deref())? {
                    // Nobody has seen it, and nobody is told that somebody has.
                    delivery.ack();
                    continue;
                }
                // Only now: a message that could not be printed comes again.
                match args.reject {
                    Some(reason) => delivery.reject(reason),
                    None => delivery.ack(),
                }
                left -= 1;
            }
            Next::Notice(notice) => {
                print_notice(&notice, args.json)?;
                notice.ack();
            }
            Next::Signal(signal) => crate::verb::signal::print(&signal, args.json)?,
            Next::Refused(incident) => {
                let _ = writeln!(anstream::stderr().lock(), "{CAUTION}refused{CAUTION:#}  {incident}");
            }
            Next::End => break,
        }
    }
    Ok(())
}

/// The next signal, if signals are asked for.
async fn next_of(signals: Option<&mut creto_agent::Signals>) -> Option<creto_agent::Signal> {
    signals?.next().await
}

/// Keeps the proof of a message, if proofs are kept; returns where.
fn keep_proof(args: &RecvArgs, delivery: &Delivery) -> Result<Option<PathBuf>, Failure> {
    let proof = args.proofs.as_deref().zip(delivery.proof());
    proof.map(|(folder, proof)| keep(folder, delivery.message_id, delivery.from_id, proof)).transpose()
}

/// Ctrl-C and SIGTERM.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self, Failure> {
        let no_signals = |error| {
            let what = format!("signals cannot be caught: {}", plain(&error));
            Failure::new(Exit::System, what, "check the limits on open files")
        };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(no_signals)?,
            terminate: signal(SignalKind::terminate()).map_err(no_signals)?,
        })
    }

    /// Waits for the next of either.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {},
            _ = self.terminate.recv() => {},
        }
    }
}

/// The typed message that this is. What only says so is shown as it came.
fn typed(delivery: &Delivery) -> Option<Typed> {
    delivery.typed().unwrap_or_else(|error| {
        let id = delivery.message_id.to_uuid_string();
        let _ = writeln!(anstream::stderr().lock(), "{CAUTION}not typed{CAUTION:#}  {id}: {error}");
        None
    })
}

/// Whether there was something to print.
fn print(delivery: &Delivery, typed: Option<&Typed>, as_json: bool, proof: Option<&Path>) -> std::io::Result<bool> {
    let Some(burning) = delivery.self_destructing() else {
        return print_payload(delivery, &delivery.payload, typed, as_json, proof).map(|()| true);
    };
    // What is printed is a copy: of that the reader's terminal, and whatever keeps its output, decide.
    let printed = burning.read(|payload| print_payload(delivery, payload, typed, as_json, proof));
    printed.map(|printed| printed.map(|()| true)).unwrap_or_else(|| {
        let id = delivery.message_id.to_uuid_string();
        writeln!(anstream::stderr().lock(), "{CAUTION}gone{CAUTION:#}  {id} destroyed itself before it was printed")?;
        Ok(false)
    })
}

fn print_payload(
    delivery: &Delivery,
    payload: &[u8],
    typed: Option<&Typed>,
    as_json: bool,
    proof: Option<&Path>,
) -> std::io::Result<()> {
    // Written as it is: output that leaves out styles would leave out what looks like one in a message, too.
    let mut exact = std::io::stdout().lock();
    if as_json {
        let mut line = json!({
            "message_id": delivery.message_id.to_uuid_string(),
            "from": delivery.from.as_str(),
            "timestamp_ms": delivery.timestamp_ms,
            "priority": format!("{:?}", delivery.priority).to_lowercase(),
            "kind": format!("{:?}", delivery.kind).to_lowercase(),
            "correlation_id": delivery.correlation_id.map(|id| id.to_uuid_string()),
            "mailbox_sequence": delivery.mailbox_sequence,
            "attempt": delivery.attempt,
            "receipt_wanted": delivery.receipt_wanted,
            "payload_bytes": payload.len(),
        });
        if let Some(burning) = delivery.self_destructing() {
            line["self_destruct"] = json!({"after_reading": burning.after_reading, "until_ms": burning.until_ms});
        }
        if let Some(receipt) = delivery.receipt() {
            line["receipt"] = json!({
                "kind": receipt_word(receipt.kind),
                "message_id": receipt.message_id.to_uuid_string(),
                "envelope_sha256": hex::encode(receipt.envelope_sha256),
                "at_ms": receipt.at_ms,
            });
        }
        if let Some(proof) = proof {
            line["proof"] = proof.display().to_string().into();
        }
        if let Some(typed) = typed {
            line["typed"] = json!({
                "type": typed.message_type.name(),
                "hash": hex::encode(typed.hash),
                "parent": typed.parent.map(hex::encode),
                "handoff": typed.handoff.map(hex::encode),
            });
        }
        payload_as_json(&mut line, typed.map_or(payload, |typed| &typed.content));
        writeln!(exact, "{line}")?;
    } else {
        write!(stdout(), "{DIM}{}{DIM:#}  {STRONG}{}{STRONG:#}  ", time(delivery.timestamp_ms), delivery.from)?;
        match delivery.receipt() {
            Some(receipt) => {
                let (id, at, word) =
                    (receipt.message_id.to_uuid_string(), time(receipt.at_ms), receipt_word(receipt.kind));
                writeln!(stdout(), "{GOOD}receipt{GOOD:#} for {id}, {word} {at}")?;
            }
            None => {
                if let Some(typed) = typed {
                    write!(stdout(), "{GOOD}{}{GOOD:#}  ", typed.message_type.name())?;
                }
                if delivery.self_destructing().is_some() {
                    write!(stdout(), "{CAUTION}burns{CAUTION:#}  ")?;
                }
                writeln!(exact, "{}", shown_here(typed.map_or(payload, |typed| &typed.content)))?;
            }
        }
    }
    exact.flush()
}

fn receipt_word(kind: ReceiptKind) -> &'static str {
    match kind {
        ReceiptKind::Delivered => "delivered",
        _ => "acknowledged",
    }
}

/// Adds a payload, as text where it is some.
pub(crate) fn payload_as_json(value: &mut Value, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) => value["text"] = text.into(),
        Err(_) => value["base64"] = STANDARD.encode(payload).into(),
    }
}

/// The payload as standard output may show it.
pub(crate) fn shown_here(payload: &[u8]) -> String {
    shown(payload, std::io::stdout().is_terminal())
}

fn print_notice(notice: &Notice, as_json: bool) -> std::io::Result<()> {
    let (word, why) = match notice.cause {
        NoticeCause::Retention => ("retention", "its mailbox kept it no longer"),
        _ => ("time_to_live", "its time to live was over"),
    };
    let id = notice.message_id.to_uuid_string();
    let to = notice.to.as_ref().map_or_else(|| notice.to_id.to_string(), |name| name.as_str().to_owned());
    if as_json {
        let line = json!({
            "notice": "expired",
            "message_id": id,
            "to": notice.to.as_ref().map(|name| name.as_str()),
            "to_id": notice.to_id.to_string(),
            "cause": word,
            "expired_at_ms": notice.expired_at_ms,
            "attempt": notice.attempt,
        });
        writeln!(std::io::stdout().lock(), "{line}")
    } else {
        let at = time(notice.expired_at_ms);
        writeln!(stdout(), "{DIM}{at}{DIM:#}  {CAUTION}expired{CAUTION:#}  {id} to {STRONG}{to}{STRONG:#}: {why}")
    }
}

/// A stranger's text, of which nothing can move the cursor or change a colour.
pub(crate) fn harmless(text: &str) -> String {
    let safe = |c: char| if c.is_control() && c != '\n' && c != '\t' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().map(safe).collect()
}

/// The payload as text. On a terminal nothing of it may move the cursor or change a colour: it is a stranger's.
fn shown(payload: &[u8], on_terminal: bool) -> String {
    match std::str::from_utf8(payload) {
        Ok(text) if on_terminal => harmless(text),
        Ok(text) => text.to_owned(),
        Err(_) => format!("({} bytes that are not text; --json shows them)", payload.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_cannot_drive_the_terminal() {
        let text = "a\u{1b}[31mb\u{9b}c\td\ne\r";
        assert_eq!(shown(text.as_bytes(), true), "a\u{fffd}[31mb\u{fffd}c\td\ne\u{fffd}");
        assert_eq!(shown(text.as_bytes(), false), text);
        assert_eq!(shown(&[0xff, 0], true), "(2 bytes that are not text; --json shows them)");
    }
}
