//! What a queued message takes in memory.
//!
//! `CRETO_MESSAGES=10000000 cargo test --release -p creto-store --test memory -- --nocapture` measures ten million.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test that measures: a wrong unwrap or cast fails it, and it tells how long things take"
)]

use std::time::Instant;

use creto_store::{
    DedupConfig, Lsn, MailboxId, Mailboxes, MailboxesConfig, MessageFlags, MessageId, Noted, NotedMessage, Place,
    Position, Priority, SegmentNumber, SenderId, SettleCause,
};

const RECORD_MESSAGES: u64 = 100;
const MAILBOXES: u64 = 1_000;
const MESSAGE_BYTES: u32 = 96 + 8 * 32 + 1_024;

/// What recovery notes of a record of messages of 1 KiB.
fn record(first: u64) -> (Position, Noted) {
    let records_per_segment = (64 << 20) / (RECORD_MESSAGES * u64::from(MESSAGE_BYTES) + 3_472);
    let number = first / RECORD_MESSAGES;
    let segment = SegmentNumber(1 + number / records_per_segment);
    let offset = u32::try_from(4_192 + number % records_per_segment * 140_000).unwrap();
    let message = |at: u64| {
        let sequence = first + at + 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&sequence.to_be_bytes());
        NotedMessage {
            mailbox: MailboxId((u128::from(sequence * 7 % MAILBOXES) + 1).to_be_bytes()),
            sender: SenderId([1; 16]),
            message_id: MessageId(id),
            sequence,
            expiry_ms: 1_800_000_000_000 + sequence,
            priority: Priority::from_byte((sequence % 4) as u8).unwrap(),
            flags: MessageFlags::NONE,
            envelope_bytes: 1_024,
            place: Place {
                segment,
                record_offset: offset,
                message_offset: offset + 3_472 + u32::try_from(at).unwrap() * MESSAGE_BYTES,
                message_bytes: MESSAGE_BYTES,
                crc: sequence as u32,
            },
        }
    };
    let messages = (0..RECORD_MESSAGES).map(message).collect();
    (Position { segment, lsn: Lsn(number + 1), index: 0, offset }, Noted::Part(messages))
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

#[test]
fn a_queued_message_takes_at_most_64_bytes_of_memory() {
    let count = std::env::var("CRETO_MESSAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    // The window of message ids is bounded by itself, and not what is measured here.
    let dedup = DedupConfig { sender_ids_max: 1, ..DedupConfig::default() };
    let mut mailboxes = Mailboxes::new(MailboxesConfig { dedup, ..MailboxesConfig::default() }, [1, 2]);
    let (before, begun) = (resident_bytes(), Instant::now());
    let mut longest_us = 0;
    for first in (0..count).step_by(RECORD_MESSAGES as usize) {
        let (position, noted) = record(first);
        let at = Instant::now();
        mailboxes.note(position, noted);
        longest_us = longest_us.max(at.elapsed().as_micros());
    }
    let took = begun.elapsed();
    mailboxes.recovered();
    let bytes = (resident_bytes() - before) as f64 / count as f64;
    println!(
        "{count} messages: {bytes:.1} bytes each, {:.0} ns to note one, the longest record took {longest_us} us",
        took.as_nanos() as f64 / count as f64
    );
    assert_eq!(mailboxes.messages(), count);
    assert!((52.0..=64.0).contains(&bytes), "{bytes:.1} bytes a message");

    // What is settled gives its memory back.
    let mut sequences: Vec<Vec<u64>> = vec![Vec::new(); MAILBOXES as usize];
    (1..=count).for_each(|sequence| sequences[(sequence * 7 % MAILBOXES) as usize].push(sequence));
    for (mailbox, sequences) in (1_u128..).zip(sequences) {
        for sequences in sequences.chunks(10_000) {
            let settle = mailboxes.settle(MailboxId(mailbox.to_be_bytes()), sequences, SettleCause::Acknowledged);
            let position = Position { segment: SegmentNumber(9_999), lsn: Lsn(1), index: 0, offset: 4_192 };
            mailboxes.note(position, Noted::Settle(settle.unwrap()));
        }
    }
    assert_eq!((mailboxes.messages(), mailboxes.queued_bytes()), (0, 0));
    let left = resident_bytes().saturating_sub(before) as f64 / count as f64;
    println!("{left:.1} bytes for each when all are settled");
    assert!(left < 20.0, "{left:.1} bytes for each when all are settled");
}
