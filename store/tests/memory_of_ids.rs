//! What a shard that remembers as many message ids as it may takes in memory for each message.
//!
//! `CRETO_MESSAGES=4000000 cargo test --release -p creto-store --test memory_of_ids -- --nocapture` fills it.
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test that measures: a wrong unwrap or cast fails it"
)]

use creto_store::{
    Lsn, MailboxId, Mailboxes, MailboxesConfig, MessageFlags, MessageId, Noted, NotedMessage, Place, Position,
    Priority, SegmentNumber, SenderId,
};

const NOW_MS: u64 = 1_800_000_000_000;
const SENDERS: u64 = 100;
const BATCH_MESSAGES: u64 = 256;
const MESSAGE_BYTES: u32 = 96 + 8 * 32 + 1_200;

/// What recovery notes of a batch: a sender's, to one of a thousand mailboxes.
fn batch(number: u64) -> (Position, Noted) {
    let position = Position { segment: SegmentNumber(1 + number / 160), lsn: Lsn(number + 1), index: 0, offset: 4_192 };
    let message = |at: u64| {
        let sequence = number * BATCH_MESSAGES + at + 1;
        let mut id = [0; 16];
        id[..6].copy_from_slice(&(NOW_MS + number).to_be_bytes()[2..]);
        id[8..].copy_from_slice(&sequence.to_be_bytes());
        let offset = position.offset + 3_472 + at as u32 * MESSAGE_BYTES;
        NotedMessage {
            flags: MessageFlags::NONE,
            mailbox: MailboxId((u128::from(number % 1_000) + 1).to_be_bytes()),
            sender: SenderId((u128::from(number % SENDERS) + 1).to_be_bytes()),
            message_id: MessageId(id),
            sequence,
            expiry_ms: 0,
            priority: Priority::Normal,
            envelope_bytes: 1_200,
            place: Place {
                segment: position.segment,
                record_offset: position.offset,
                message_offset: offset,
                message_bytes: MESSAGE_BYTES,
                crc: sequence as u32,
            },
        }
    };
    (position, Noted::Part((0..BATCH_MESSAGES).map(message).collect()))
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

/// Of ten million on two shards, 8.4 million are remembered: together they stay within 1 GiB.
#[test]
fn a_queued_message_whose_id_is_remembered_takes_at_most_104_bytes_of_memory() {
    let count = std::env::var("CRETO_MESSAGES").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000_000);
    let mut mailboxes = Mailboxes::new(MailboxesConfig::default(), [1, 2]);
    let before = resident_bytes();
    for number in 0..count / BATCH_MESSAGES {
        let (position, noted) = batch(number);
        mailboxes.note(position, noted);
    }
    mailboxes.recovered();
    let messages = mailboxes.messages();
    let bytes = (resident_bytes() - before) as f64 / messages as f64;
    println!("{messages} messages of {SENDERS} senders, whose ids are remembered: {bytes:.1} bytes each");
    assert_eq!(messages, count / BATCH_MESSAGES * BATCH_MESSAGES);
    assert!((52.0 + 24.0..=104.0).contains(&bytes), "{bytes:.1} bytes a message");
}
