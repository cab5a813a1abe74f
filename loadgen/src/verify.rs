//! Was every acknowledged message delivered, exactly once, in order, as it was sent?
//!
//! What the run's receivers got is in the ledger of deliveries; what is still in their mailboxes (the node or the run was
//! stopped) is read back with their keys, written to that ledger, acknowledged, and counts as delivered.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
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
    /// Of those, delivered.
    pub found: u64,
    /// Acknowledged and not delivered: must be zero.
    pub missing: u64,
    /// The first of those.
    pub missing_ids: Vec<String>,
    /// Shown to the application more than once: must be zero.
    pub duplicated: u64,
    /// Delivered behind a later one of the same sender, recipient and priority: must be zero. A message that the node refused for
    /// a while, because a mailbox was full, may be among them.
    pub out_of_order: u64,
    /// Delivered with other bytes than were sent: must be zero.
    pub altered: u64,
    /// Delivered messages, each counted once.
    pub delivered: u64,
    /// Of those, messages that were still in their mailbox.
    pub read_back: u64,
    /// Messages that came again because the run stopped between their delivery and its acknowledgement.
    pub redelivered: u64,
    /// Delivered without an acknowledgement that the sender saw: allowed, the connection broke before it came.
    pub delivered_without_acknowledgement: u64,
}

impl VerifyReport {
    /// Whether every acknowledged message was delivered exactly once, in order, as it was sent. A ledger without a message proves
    /// nothing, and does not pass.
    #[must_use]
    pub fn holds(&self) -> bool {
        let wrong = [self.missing, self.duplicated, self.out_of_order, self.altered];
        self.acknowledged > 0 && wrong.iter().all(|count| *count == 0)
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
    let mut delivered = load(&paths.delivered)?;
    delivered.sort_unstable();
    let mut order = Order { twice: twice(&delivered), ..Order::default() };
    read(&paths.delivered, |record| order.delivered(&record))?;
    let out_of_order = order.out_of_order;
    Ok(VerifyReport { read_back, redelivered, out_of_order, ..compare(acknowledged, delivered) })
}

/// Whether the messages of each flow came in the order of their numbers.
#[derive(Debug, Default)]
struct Order {
    /// Of each recipient and flow the largest number so far.
    flows: BTreeMap<(u32, u32), u64>,
    /// Messages that come several times, each with whether it has come once: what follows then is counted as that.
    twice: HashMap<MessageId, bool>,
    out_of_order: u64,
}

/// The messages that stand several times in a sorted list.
fn twice(sorted: &[Line]) -> HashMap<MessageId, bool> {
    sorted.windows(2).filter(|two| two[0].0 == two[1].0).map(|two| (two[0].0, false)).collect()
}

impl Order {
    fn delivered(&mut self, record: &Record) {
        let Record { pair, flow, number, message_id, .. } = *record;
        let came_before = self.twice.get_mut(&message_id).is_some_and(|came| std::mem::replace(came, true));
        if flow == 0 || came_before {
            return;
        }
        let largest = self.flows.entry((pair, flow)).or_insert(0);
        self.out_of_order += u64::from(number < *largest);
        *largest = number.max(*largest);
    }
}

fn id_text(id: MessageId) -> String {
    id.to_uuid_string()
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
        duplicated: (deliveries - delivered.len()) as u64,
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
                report.missing += 1;
                if report.missing_ids.len() < NAMED_MAX {
                    report.missing_ids.extend(promised.peek().map(|(id, _)| id_text(*id)));
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
                report.found += 1;
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
    let mut flows = HashMap::new();
    read(&paths.acknowledged, |record| _ = flows.insert(record.message_id, record.flow))?;
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
                // One whose acknowledgement nobody saw has no place in an order.
                flow: flows.get(&delivery.message_id).copied().unwrap_or(0),
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
        assert_eq!((report.acknowledged, report.found, report.delivered), (3, 3, 4));
        assert_eq!(report.delivered_without_acknowledgement, 1);
    }

    #[test]
    fn a_lost_a_doubled_and_an_altered_message_are_each_found() {
        let lost = compare([1, 2, 3].map(line).to_vec(), [1, 3].map(line).to_vec());
        assert_eq!((lost.missing, lost.found, lost.missing_ids.clone()), (1, 2, vec![id_text(line(2).0)]));
        let doubled = compare([1, 2].map(line).to_vec(), [1, 2, 2].map(line).to_vec());
        assert_eq!(doubled.duplicated, 1);
        let altered = compare(vec![line(1)], vec![(line(1).0, [9; 8])]);
        assert_eq!(altered.altered, 1);
        assert!(![lost, doubled, altered].iter().any(VerifyReport::holds));
    }

    #[test]
    fn a_message_that_comes_behind_a_later_one_of_its_flow_is_out_of_order() {
        let id = |number: u64| MessageId::from_parts(number, [1; 10]);
        let record = |pair, flow, number| Record { pair, number, message_id: id(number), digest: [0; 32], flow };
        let mut order =
            Order { twice: twice(&[(id(8), [0; 8]), (id(8), [0; 8]), (id(9), [0; 8])]), ..Order::default() };
        assert_eq!(order.twice.len(), 1);
        // Another sender, another priority, another recipient, and a flow that has no order, are nothing to each other.
        let in_order = [(0, 1, 5), (0, 1, 8), (0, 2, 3), (1, 1, 2), (0, 0, 9), (0, 0, 1), (0, 1, 20), (0, 2, 4)];
        in_order.into_iter().for_each(|(pair, flow, number)| order.delivered(&record(pair, flow, number)));
        assert_eq!(order.out_of_order, 0);
        order.delivered(&record(0, 1, 8));
        assert_eq!(order.out_of_order, 0, "that is one that came twice");
        order.delivered(&record(0, 1, 19));
        assert_eq!(order.out_of_order, 1);
        assert!(!VerifyReport { acknowledged: 1, found: 1, out_of_order: 1, ..VerifyReport::default() }.holds());
    }

    #[test]
    fn a_ledger_without_a_message_proves_nothing() {
        assert!(!compare(Vec::new(), Vec::new()).holds());
        assert!(!compare(Vec::new(), vec![line(1)]).holds());
    }
}
