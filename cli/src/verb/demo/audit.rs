//! What the node's audit log says about the run, read after the node has stopped: verified as an auditor does it, with the log's
//! public keys and nothing else, and held against the book.
//!
//! The node counts nothing here: which messages must be in its log is what its senders were told.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use creto_agent::{AgentId, MessageId, RejectCode};
use creto_audit::export::Verifier;
use creto_audit::proof::InclusionProof;
use creto_audit::{LogVerifier, SignedCheckpoint, What};
use creto_audit_store::layout::PUBLIC_KEYS;
use creto_audit_store::{LogReader, export, keys, prove, verify_export};

use super::book::Pages;
use crate::exit::{Exit, Failure};
use crate::terminal::grouped;

mod show;
#[cfg(test)]
mod tests;

/// The log in one file, in the node's folder.
pub(super) const EXPORT: &str = "demo.audit";

/// How often the log says that a message was accepted, for each message of the book.
#[derive(Debug)]
pub(super) struct Tally {
    /// Ascending.
    messages: Vec<Entry>,
    unknown: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    id: MessageId,
    is_acknowledged: bool,
    /// Stays at 255.
    accepted: u8,
}

/// What became of the messages in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    /// Acknowledged messages that it has as accepted, once.
    pub(super) once: u64,
    /// Acknowledged messages that it does not have.
    pub(super) missing: u64,
    /// Messages that it has as accepted more than once, acknowledged or not.
    pub(super) twice: u64,
    /// Accepted messages that nobody sent.
    pub(super) unknown: u64,
}

impl Tally {
    pub(super) fn of(pages: &Pages) -> Self {
        let entry = |id, is_acknowledged| Entry { id, is_acknowledged, accepted: 0 };
        let sent = pages.sent.iter().map(|sent| entry(sent.id, false));
        let acknowledged = pages.acknowledged.iter().map(|id| entry(*id, true));
        let mut messages: Vec<Entry> = sent.chain(acknowledged).collect();
        messages.sort_unstable_by_key(|entry| (entry.id, !entry.is_acknowledged));
        messages.dedup_by_key(|entry| entry.id);
        Self { messages, unknown: 0 }
    }

    fn see(&mut self, what: &What) {
        let What::Accepted { message_id, .. } = what else { return };
        match self.messages.binary_search_by_key(message_id, |entry| entry.id) {
            Ok(at) => self.messages[at].accepted = self.messages[at].accepted.saturating_add(1),
            Err(_) => self.unknown += 1,
        }
    }

    fn messages(&self) -> Messages {
        let mut messages = Messages { unknown: self.unknown, ..Messages::default() };
        for entry in &self.messages {
            messages.once += u64::from(entry.is_acknowledged && entry.accepted == 1);
            messages.missing += u64::from(entry.is_acknowledged && entry.accepted == 0);
            messages.twice += u64::from(entry.accepted > 1);
        }
        messages
    }
}

impl Messages {
    /// What is not as it must be.
    fn problems(self) -> Vec<String> {
        let counts = [
            (self.missing, "acknowledged messages are missing in the audit log"),
            (self.twice, "messages stand more than once as accepted in the audit log"),
            (self.unknown, "messages stand in the audit log that nobody sent"),
        ];
        let wrong = counts.into_iter().filter(|(count, _)| *count > 0);
        wrong.map(|(count, what)| format!("{} {what}", grouped(count))).collect()
    }
}

/// An event that must be in the log, and can be proven to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exhibit {
    /// Policy refused this message of this agent.
    Denial { sender: AgentId, message_id: MessageId },
    /// The operator revoked this agent.
    Revocation { agent: AgentId },
    /// A connection of this agent was closed because it is revoked.
    Closing { agent: AgentId },
}

impl Exhibit {
    /// What it is called in the log.
    fn kind(self) -> &'static str {
        match self {
            Self::Denial { .. } => "submit_refused",
            Self::Revocation { .. } => "agent_revoked",
            Self::Closing { .. } => "connection_closed",
        }
    }

    /// The reason that it must give.
    fn code(self) -> Option<RejectCode> {
        match self {
            Self::Denial { .. } => Some(RejectCode::PolicyDenied),
            Self::Revocation { .. } => None,
            Self::Closing { .. } => Some(RejectCode::AgentRevoked),
        }
    }

    fn name(self) -> String {
        let code = self.code().map_or_else(String::new, |code| format!(" ({})", code.name()));
        format!("{}{code}", self.kind())
    }

    fn is(self, what: &What) -> bool {
        match (self, *what) {
            (Self::Denial { sender: of, message_id: id }, What::SubmitRefused { sender, message_id, code, .. }) => {
                (of, id) == (sender, message_id) && self.code().is_some_and(|wanted| code == wanted.into())
            }
            (Self::Revocation { agent: of }, What::AgentRevoked { agent, .. }) => of == agent,
            (Self::Closing { agent: of }, What::ConnectionClosed { agent, code, .. }) => {
                of == agent && self.code().is_some_and(|wanted| code == wanted.into())
            }
            _ => false,
        }
    }
}

/// What was found in a log that holds.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// Events in the log.
    pub(super) events: u64,
    /// Of those, events that a crash took and that were made again from the shards' logs.
    pub(super) recovered: u64,
    /// Signed checkpoints whose root was computed again.
    pub(super) checkpoints: u64,
    pub(super) messages: Messages,
    /// Exhibits with the leaf that was proven to be them; `None`: the log has none.
    pub(super) proofs: Vec<(Exhibit, Option<u64>)>,
    pub(super) took: Duration,
}

/// Runs one of the functions below on a thread on which it may block. Inside is what is wrong with the log.
pub(super) async fn examine(
    work: impl FnOnce() -> Result<Findings, String> + Send + 'static,
) -> Result<Result<Findings, String>, Failure> {
    let examined = tokio::task::spawn_blocking(move || {
        let began = Instant::now();
        work().map(|findings| Findings { took: began.elapsed(), ..findings })
    });
    examined.await.map_err(|error| Failure::of(Exit::System, &error))
}

/// Exports the log in `log` to a file in `folder`, verifies that file, and proves each exhibit in a file of its own.
///
/// # Errors
/// What cannot be read or written, or does not hold.
pub(super) fn export_and_verify(
    log: &Path,
    folder: &Path,
    mut tally: Tally,
    exhibits: &[Exhibit],
) -> Result<Findings, String> {
    let reader = LogReader::open(log).map_err(text)?;
    let path = folder.join(EXPORT);
    export(&reader, &mut BufWriter::new(File::create(&path).map_err(text)?), |_| true).map_err(text)?;

    // From here on the auditor: with the public keys, the export, and the proofs.
    let auditor = LogVerifier::new(keys::load_public(&log.join(PUBLIC_KEYS)).map_err(text)?).map_err(text)?;
    let mut found = vec![None; exhibits.len()];
    let file = BufReader::new(File::open(&path).map_err(text)?);
    let verified = verify_export(file, &auditor, None, |seen| {
        tally.see(&seen.event.event.what);
        for (exhibit, found) in exhibits.iter().zip(&mut found) {
            if exhibit.is(&seen.event.event.what) {
                found.get_or_insert(seen.index);
            }
        }
    });
    let (checkpoint, summary) = verified.map_err(text)?;
    let mut proofs = Vec::new();
    for (exhibit, index) in exhibits.iter().zip(found) {
        if let Some(index) = index {
            let path = folder.join(format!("{}.tlog-proof", exhibit.kind()));
            let proof = prove(&reader, index, None).map_err(text)?;
            fs::write(&path, proof.to_text()).map_err(text)?;
            check_proof(&path, &auditor, &checkpoint, *exhibit)?;
        }
        proofs.push((*exhibit, index));
    }
    Ok(Findings {
        events: summary.leaves,
        recovered: summary.recovered,
        checkpoints: summary.checkpoints,
        messages: tally.messages(),
        proofs,
        took: Duration::ZERO,
    })
}

/// Checks that the proof in a file holds under this checkpoint, and is of that event.
fn check_proof(
    path: &PathBuf,
    auditor: &LogVerifier,
    checkpoint: &SignedCheckpoint,
    exhibit: Exhibit,
) -> Result<(), String> {
    let proof = InclusionProof::parse(&fs::read(path).map_err(text)?).map_err(text)?;
    let proven = proof.verify(auditor, Some(checkpoint)).map_err(text)?;
    match exhibit.is(&proven.event.event.what) {
        true => Ok(()),
        false => Err(format!("the proof of leaf {} proves another event than {}", proven.index, exhibit.kind())),
    }
}

/// Verifies the log where it lies: one of a long run is not written a second time.
///
/// # Errors
/// What cannot be read, or does not hold.
pub(super) fn verify_in_place(log: &Path, mut tally: Tally) -> Result<Findings, String> {
    let reader = LogReader::open(log).map_err(text)?;
    let milestones = reader.milestones().map_err(text)?;
    let mut verifier = Verifier::new(reader.checkpoint().clone(), milestones, None).map_err(text)?;
    for block in reader.blocks(0) {
        let block = block.map_err(text)?;
        verifier.block(&block.bundle, &block.tile, |seen| tally.see(&seen.event.event.what)).map_err(text)?;
    }
    let summary = verifier.finish().map_err(text)?;
    Ok(Findings {
        events: summary.leaves,
        recovered: summary.recovered,
        checkpoints: summary.checkpoints,
        messages: tally.messages(),
        ..Findings::default()
    })
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
