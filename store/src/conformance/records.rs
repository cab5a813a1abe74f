//! Records to append: of every kind that a shard appends, no two alike.

use bytes::Bytes;

use super::Random;
use crate::flags::MessageFlags;
use crate::id::{MailboxId, MessageId, SenderId};
use crate::record::{BatchPart, Dedup, DedupSender, PartMessage, Priority, Record, Settle, SettleCause};

/// Makes records; each has a number of its own in it.
#[derive(Debug, Default)]
pub(super) struct Records {
    number: u64,
}

impl Records {
    /// A record of any kind, its envelopes not longer than this.
    pub(super) fn any(&mut self, random: &mut Random, envelope_bytes_max: usize) -> Record {
        match random.below(10) {
            0..5 => self.message(random, envelope_bytes_max),
            5..8 => self.settle(random),
            8 => match self.message(random, envelope_bytes_max) {
                Record::BatchPart(part) => Record::Moved(part),
                other => other,
            },
            _ => self.dedup(random),
        }
    }

    /// Messages, one to three.
    pub(super) fn message(&mut self, random: &mut Random, envelope_bytes_max: usize) -> Record {
        let batch_header = some_bytes(random, 200);
        let count = 1 + random.below(3);
        let messages = (0..count).map(|_| self.part_message(random, envelope_bytes_max / count)).collect();
        Record::BatchPart(BatchPart { batch_header, messages })
    }

    /// One message with an envelope of this many bytes.
    pub(super) fn message_of(&mut self, random: &mut Random, envelope_bytes: usize) -> Record {
        let mut message = self.part_message(random, 0);
        message.envelope = Bytes::from(vec![random.bits().to_le_bytes()[0]; envelope_bytes]);
        Record::BatchPart(BatchPart { batch_header: Bytes::new(), messages: vec![message] })
    }

    /// A settle of some sequences.
    pub(super) fn settle(&mut self, random: &mut Random) -> Record {
        let count = 1 + random.below(20);
        let sequences = (0..count).map(|_| self.next()).collect();
        Record::Settle(Settle { mailbox: MailboxId(sixteen(random)), cause: SettleCause::Acknowledged, sequences })
    }

    /// What a trim carries over.
    pub(super) fn dedup(&mut self, random: &mut Random) -> Record {
        let senders = (0..random.below(4)).map(|_| DedupSender {
            sender: SenderId(sixteen(random)),
            floor_ms: random.bits(),
            ids: (0..random.below(8)).map(|_| MessageId(sixteen(random))).collect(),
        });
        let senders = senders.collect();
        Record::Dedup(Dedup { next_sequence: self.next(), senders })
    }

    fn part_message(&mut self, random: &mut Random, envelope_bytes_max: usize) -> PartMessage {
        PartMessage {
            mailbox: MailboxId(sixteen(random)),
            sender: SenderId(sixteen(random)),
            message_id: MessageId(sixteen(random)),
            sequence: self.next(),
            expiry_ms: random.bits(),
            leaf_index: u32::from_le_bytes(*random.bits().to_le_bytes().first_chunk().expect("four of eight")),
            flags: if random.below(2) == 0 { MessageFlags::NONE } else { MessageFlags::WANTS_NOTICE },
            priority: Priority::High,
            salt: sixteen(random),
            path: Bytes::from(vec![0x5a; 32 * random.below(5)]),
            envelope: some_bytes(random, envelope_bytes_max),
        }
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }
}

fn sixteen(random: &mut Random) -> [u8; 16] {
    (u128::from(random.bits()) << 64 | u128::from(random.bits())).to_le_bytes()
}

fn some_bytes(random: &mut Random, bytes_max: usize) -> Bytes {
    let length = random.below(bytes_max + 1);
    let eights = (0..length.div_ceil(8)).flat_map(|_| random.bits().to_le_bytes());
    let bytes: Vec<u8> = eights.take(length).collect();
    bytes.into()
}
