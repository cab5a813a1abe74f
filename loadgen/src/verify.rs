//! Was every acknowledged message delivered, exactly once, as it was sent?
//!
//! What the run's receivers got is in the ledger of deliveries; what is still in their mailboxes (the node or the run was
//! stopped) is read back with their keys, written to that ledger, acknowledged, and counts as delivered.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use creto_agent::{
    Agent, AgentKeys, ConnectError, ConnectOptions, Delivery, KeysError, MessageId, NodeCertificate, ReceiveError,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::time::timeout;

use crate::ledger::{Durability, LedgerError, LedgerPaths, LedgerWriter, Record, read};
use crate::limits::QUIET;
use crate::payload::{digest, mark};
use crate::scenario::id_text;

/// How many ids a report names.
const NAMED_MAX: usize = 10;

/// What is verified.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// The ledger that the run wrote.
    pub ledger: PathBuf,
    /// The node, to read back what is still in the mailboxes. `None`: only the files are compared.
    pub node: Option<(SocketAddr, NodeCertificate)>,
    /// A mailbox from which nothing came for this long counts as read to its end. Default 2 s.
    pub quiet: Duration,
}

impl VerifyOptions {
    /// Verifies the ledger at this path, with the files alone.
    #[must_use]
    pub fn new(ledger: impl Into<PathBuf>) -> Self {
        Self { ledger: ledger.into(), node: None, quiet: QUIET }
    }
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Acknowledged messages in the ledger.
    pub acknowledged: u64,
    /// Delivered messages, each counted once.
    pub delivered: u64,
    /// Of those, messages that were still in their mailbox.
    pub read_back: u64,
    /// Messages that came again because the run stopped between their delivery and its acknowledgement.
    pub redelivered: u64,
    /// Acknowledged and not delivered: must be zero.
    pub lost: u64,
    /// The first of those.
    pub lost_ids: Vec<String>,
    /// Shown to the application more than once: must be zero.
    pub delivered_twice: u64,
    /// Delivered with other bytes than were sent: must be zero.
    pub altered: u64,
    /// Delivered without an acknowledgement that the sender saw: allowed, the connection broke before it came.
    pub delivered_without_acknowledgement: u64,
}

impl VerifyReport {
    /// Whether every acknowledged message was delivered exactly once as it was sent. A ledger without a message proves
    /// nothing, and does not pass.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.acknowledged > 0 && self.lost == 0 && self.delivered_twice == 0 && self.altered == 0
    }
}

/// Why a ledger could not be verified.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// A file cannot be used.
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    /// The keys of a receiver cannot be read.
    #[error("{0}")]
    Keys(#[from] KeysError),
    /// A receiver cannot connect.
    #[error("a receiver of the run cannot read its mailbox: {0}")]
    Connect(#[from] ConnectError),
    /// A receiver cannot subscribe.
    #[error("a receiver of the run cannot read its mailbox: {0}")]
    Receive(#[from] ReceiveError),
}

/// Verifies a ledger.
///
/// # Errors
/// [`VerifyError`]. A message that is missing is no error: it stands in the report.
pub async fn verify(options: VerifyOptions) -> Result<VerifyReport, VerifyError> {
    let paths = LedgerPaths::of(&options.ledger);
    let (mut read_back, mut redelivered) = (0, 0);
    if let Some((node, certificate)) = &options.node {
        (read_back, redelivered) = drain_mailboxes(&paths, *node, certificate, options.quiet).await?;
    }
    let acknowledged = load(&paths.acknowledged)?;
    let delivered = load(&paths.delivered)?;
    Ok(VerifyReport { read_back, redelivered, ..compare(acknowledged, delivered) })
}

/// A message as both ledgers have it: its id, and enough of its digest to notice other bytes.
type Line = (MessageId, [u8; 8]);

fn load(path: &Path) -> Result<Vec<Line>, LedgerError> {
    let mut lines = Vec::new();
    read(path, |Record { message_id, digest, .. }| {
        lines.push((message_id, *digest.first_chunk().expect("32 bytes hold 8")));
    })?;
    Ok(lines)
}

/// Holds both lists against each other, by id.
fn compare(mut acknowledged: Vec<Line>, mut delivered: Vec<Line>) -> VerifyReport {
    acknowledged.sort_unstable();
    acknowledged.dedup_by_key(|(id, _)| *id);
    delivered.sort_unstable();
    let deliveries = delivered.len();
    delivered.dedup_by_key(|(id, _)| *id);
    let mut report = VerifyReport {
        acknowledged: acknowledged.len() as u64,
        delivered: delivered.len() as u64,
        delivered_twice: (deliveries - delivered.len()) as u64,
        ..VerifyReport::default()
    };
    let (mut promised, mut came) = (acknowledged.into_iter().peekable(), delivered.into_iter().peekable());
    loop {
        let order = match (promised.peek(), came.peek()) {
            (Some((promised, _)), Some((came, _))) => promised.cmp(came),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return report,
        };
        match order {
            Ordering::Less => {
                report.lost += 1;
                if report.lost_ids.len() < NAMED_MAX {
                    report.lost_ids.extend(promised.peek().map(|(id, _)| id_text(*id)));
                }
                promised.next();
            }
            Ordering::Greater => {
                report.delivered_without_acknowledgement += 1;
                came.next();
            }
            Ordering::Equal => {
                let same = promised.next().map(|(_, digest)| digest) == came.next().map(|(_, digest)| digest);
                report.altered += u64::from(!same);
            }
        }
    }
}

/// Reads every receiver's mailbox to its end. Gives how many messages were new, and how many the run had already.
async fn drain_mailboxes(
    paths: &LedgerPaths,
    node: SocketAddr,
    certificate: &NodeCertificate,
    quiet: Duration,
) -> Result<(u64, u64), VerifyError> {
    let mut known = HashSet::new();
    let torn_bytes = read(&paths.delivered, |record| _ = known.insert(record.message_id))?;
    cut(&paths.delivered, torn_bytes)?;
    let writer =
        LedgerWriter::start(&paths.delivered, Durability::Synced, true, |_, delivery| Delivery::ack(&delivery))?;
    let records = writer.records();
    let (mut read_back, mut redelivered) = (0, 0);
    for pair in 0.. {
        let keys = paths.receiver_keys(pair);
        if !keys.exists() {
            break;
        }
        let agent = Agent::connect(ConnectOptions::new(node, certificate.clone(), AgentKeys::load(keys)?)).await?;
        let mut mailbox = agent.subscribe()?;
        while let Ok(Some(delivery)) = timeout(quiet, mailbox.next()).await {
            let delivery = delivery?;
            if known.contains(&delivery.message_id) {
                redelivered += 1;
                delivery.ack();
                continue;
            }
            read_back += 1;
            let record = Record {
                pair: u32::try_from(pair).unwrap_or(u32::MAX),
                number: mark(&delivery.payload).map_or(u64::MAX, |mark| mark.number),
                message_id: delivery.message_id,
                digest: digest(&delivery.payload),
            };
            // A ledger that cannot be written ends below with its own error.
            drop(records.send((record, delivery)).await);
        }
        agent.close().await;
    }
    drop(records);
    writer.finish().await?;
    Ok((read_back, redelivered))
}

/// Cuts a torn record off, so that what is appended can be read.
fn cut(path: &Path, torn_bytes: u64) -> Result<(), LedgerError> {
    if torn_bytes == 0 {
        return Ok(());
    }
    let cut = || {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(file.metadata()?.len() - torn_bytes)
    };
    cut().map_err(|source| LedgerError::File { path: path.to_owned(), doing: "cut", source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(n: u8) -> Line {
        (MessageId::from_parts(u64::from(n), [n; 10]), [n; 8])
    }

    #[test]
    fn every_acknowledged_message_delivered_once_holds() {
        let report = compare([3, 1, 2].map(line).to_vec(), [2, 3, 1, 9].map(line).to_vec());
        assert!(report.holds());
        assert_eq!((report.acknowledged, report.delivered, report.delivered_without_acknowledgement), (3, 4, 1));
    }

    #[test]
    fn a_lost_a_doubled_and_an_altered_message_are_each_found() {
        let lost = compare([1, 2, 3].map(line).to_vec(), [1, 3].map(line).to_vec());
        assert_eq!((lost.lost, lost.lost_ids.clone()), (1, vec![id_text(line(2).0)]));
        let doubled = compare([1, 2].map(line).to_vec(), [1, 2, 2].map(line).to_vec());
        assert_eq!(doubled.delivered_twice, 1);
        let altered = compare(vec![line(1)], vec![(line(1).0, [9; 8])]);
        assert_eq!(altered.altered, 1);
        assert!(![lost, doubled, altered].iter().any(VerifyReport::holds));
    }

    #[test]
    fn a_ledger_without_a_message_proves_nothing() {
        assert!(!compare(Vec::new(), Vec::new()).holds());
        assert!(!compare(Vec::new(), vec![line(1)]).holds());
    }
}
