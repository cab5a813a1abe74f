//! What a delivery costs from one stored copy to a thousand subscribers, without a disk. Long; run it alone on a machine at rest:
//!
//! `cargo test --release -p creto-store --test fan_out -- --ignored --nocapture`
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    clippy::disallowed_methods,
    reason = "a test harness that measures: a wrong unwrap fails the test"
)]

use std::time::Instant;

use bytes::Bytes;
use creto_store::{
    Admit, BatchPart, Durable, GroupId, Lsn, MailboxId, Mailboxes, MailboxesConfig, MessageFlags, MessageId,
    PartMessage, Position, Priority, Quota, Reader, Record, RecordSequence, SegmentNumber, SenderId, StartAt,
    SubscriberId,
};

const NOW_MS: u64 = 1_800_000_000_000;
const CHANNEL: MailboxId = MailboxId([9; 16]);
const SUBSCRIBERS: u32 = 1_000;
const MESSAGES: u64 = 2_000;

/// Mailboxes whose records are durable at once.
struct Shard {
    mailboxes: Mailboxes,
    durable: u64,
}

impl Shard {
    fn apply(&mut self, record: Record) {
        self.durable += 1;
        let position = Position { segment: SegmentNumber(1), lsn: Lsn(self.durable), index: 0, offset: 4_192 };
        let noted = record.noted(position);
        self.mailboxes.apply(Durable { sequence: RecordSequence(self.durable), position, noted, record });
    }

    fn publish(&mut self, first: u64, count: u64) {
        let envelopes = Bytes::from(vec![7; 1_024]);
        let mut part = BatchPart { batch_header: Bytes::from_static(&[1; 100]), messages: Vec::new() };
        for number in first..first + count {
            let mut id = [0; 16];
            id[..6].copy_from_slice(&NOW_MS.to_be_bytes()[2..]);
            id[8..].copy_from_slice(&number.to_be_bytes());
            let (sender, message_id) = (SenderId([1; 16]), MessageId(id));
            let admitted = self.mailboxes.admit_published(Quota::default(), sender, message_id, CHANNEL, 1_024, NOW_MS);
            let Ok(Admit::New(sequence)) = admitted else { panic!("{admitted:?}") };
            part.messages.push(PartMessage {
                mailbox: CHANNEL,
                sender,
                message_id,
                sequence,
                expiry_ms: NOW_MS + 3_600_000,
                leaf_index: 0,
                priority: Priority::Normal,
                flags: MessageFlags::PUBLISHED,
                salt: [0; 16],
                path: Bytes::new(),
                envelope: envelopes.clone(),
            });
        }
        self.apply(Record::BatchPart(part));
    }
}

#[test]
#[ignore = "long: measures"]
fn a_delivery_from_one_stored_copy_costs_little() {
    for in_a_turn in [1, 16] {
        let mut shard = Shard { mailboxes: Mailboxes::new(MailboxesConfig::default(), [1, 2]), durable: 0 };
        for number in 0..SUBSCRIBERS {
            let mut id = [7; 16];
            id[..4].copy_from_slice(&number.to_be_bytes());
            let (subscriber, group) = (SubscriberId(id), GroupId::NONE);
            let subscribe = shard.mailboxes.subscribe(CHANNEL, subscriber, group, Some(StartAt::Oldest)).unwrap();
            shard.apply(Record::Subscribe(subscribe.unwrap()));
            let reader: Reader = shard.mailboxes.attach(CHANNEL, subscriber, group).unwrap();
            assert!(shard.mailboxes.next_published(reader, 100, u64::MAX, NOW_MS).is_empty());
        }
        let before = shard.mailboxes.published_lookups();
        let (mut deliveries, mut cursors, mut cursor_bytes) = (0_u64, 0_u64, 0_u64);
        let (mut hand_out, mut acknowledge) = (0.0, 0.0);
        for turn in 0..MESSAGES / in_a_turn {
            shard.publish(1 + turn * in_a_turn, in_a_turn);
            let begun = Instant::now();
            let ready = shard.mailboxes.take_ready_readers();
            let mut last = Vec::with_capacity(ready.len());
            for reader in ready {
                let found = shard.mailboxes.next_published(reader, 100, u64::MAX, NOW_MS);
                deliveries += found.len() as u64;
                last.push((reader, found.last().unwrap().message.sequence));
            }
            shard.mailboxes.end_turn();
            hand_out += begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            for (reader, sequence) in last {
                shard.mailboxes.acknowledge_upto(reader, sequence);
            }
            while let Some(record) = shard.mailboxes.next_cursors(1 << 20) {
                let record = Record::Cursors(record);
                (cursors, cursor_bytes) = (cursors + 1, cursor_bytes + record.encoded_bytes() as u64);
                shard.apply(record);
            }
            acknowledge += begun.elapsed().as_secs_f64();
        }
        let lookups = shard.mailboxes.published_lookups() - before;
        println!(
            "{in_a_turn} messages of 1 KiB a turn to {SUBSCRIBERS} subscribers: {deliveries} deliveries, {lookups} lookups; \
             {:.0} ns a delivery to hand out, {:.0} ns to acknowledge it; {cursors} records of {} bytes",
            hand_out * 1e9 / deliveries as f64,
            acknowledge * 1e9 / deliveries as f64,
            cursor_bytes / cursors,
        );
        assert_eq!((deliveries, lookups, cursors), (MESSAGES * u64::from(SUBSCRIBERS), MESSAGES, MESSAGES / in_a_turn));
    }
}
