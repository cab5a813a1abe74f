//! A backup that is taken while everything else happens: begun at any moment, copied piece by piece, held against the model.

use std::collections::BTreeMap;

use creto_store::{HeldLog, PartMessage, Record, SegmentNumber, recover};

use crate::disk::{Disk, Random};
use crate::node::{Node, SHARD, small_config};

/// A log that is held, and what is copied of it so far.
pub(crate) struct Backup {
    held: HeldLog,
    /// What must be in it: acknowledged, and not durably settled.
    queued: BTreeMap<u64, PartMessage>,
    next: SegmentNumber,
    copy: Disk,
}

impl Backup {
    /// Holds the log, if it has started.
    pub(crate) fn begin(node: &mut Node, queued: BTreeMap<u64, PartMessage>) -> Option<Self> {
        let held = node.wal.hold()?;
        Some(Self { held, queued, next: held.first_segment, copy: Disk::default() })
    }

    /// Copies the next file; says whether it was the last.
    pub(crate) fn copy_one(&mut self, disk: &mut Disk) -> bool {
        let mut bytes = disk.bytes_mut(self.next).clone();
        if self.next == self.held.last_segment {
            bytes.truncate(usize::try_from(self.held.end_offset).unwrap());
        }
        self.copy.prepare(self.next, bytes.len() as u64, None);
        self.copy.write(self.next, 0, &bytes);
        self.copy.sync(self.next);
        self.next = self.next.next();
        self.next > self.held.last_segment
    }

    /// The copy must be exactly what was durable when it was begun, and a node must go on with it.
    pub(crate) fn check(mut self, random: &mut Random) -> Result<(), String> {
        let mut queued = BTreeMap::new();
        let recovered = recover(&mut self.copy, SHARD, |_, record| match record {
            Record::BatchPart(part) | Record::Moved(part) | Record::Notice(part) => {
                queued.extend(part.messages.into_iter().map(|message| (message.sequence, message)))
            }
            Record::Settle(settle) => settle.sequences.iter().for_each(|sequence| drop(queued.remove(sequence))),
            // A dead letter is kept like any other.
            _ => {}
        });
        let recovered = recovered.map_err(|error| format!("a backup cannot be read: {error}"))?;
        if recovered.end_lsn() != self.held.end_lsn {
            return Err(format!("a backup ends with frame {}, not {}", recovered.end_lsn(), self.held.end_lsn));
        }
        if queued != self.queued {
            let missing = self.queued.keys().find(|&sequence| queued.get(sequence) != self.queued.get(sequence));
            return Err(format!("a backup holds another state; the first that is missing or changed: {missing:?}"));
        }
        let mut node = Node::start(&mut self.copy, small_config(2), super::crash::mailboxes_config(), random.next(), 1)
            .map_err(|error| format!("a node does not start on a backup: {error}"))?
            .0;
        node.settle_down(&mut self.copy, random, 1);
        if node.wal.is_started() { Ok(()) } else { Err("a node does not go on with a backup".to_owned()) }
    }
}
