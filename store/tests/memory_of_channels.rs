//! What a message in a channel takes in memory, beside what any queued message does (`memory.rs`).
#![allow(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    clippy::disallowed_methods,
    reason = "a test that measures: a wrong unwrap or cast fails it"
)]

use creto_store::{
    DedupConfig, Lsn, MailboxId, Mailboxes, MailboxesConfig, MessageFlags, MessageId, Noted, NotedMessage, Place,
    Position, Priority, SegmentNumber, SenderId,
};

const RECORD_MESSAGES: u64 = 100;
const CHANNELS: u64 = 10;
const MESSAGE_BYTES: u32 = 96 + 8 * 32 + 1_024;

/// What recovery notes of a record of messages of 1 KiB.
fn record(first: u64, flags: MessageFlags) -> (Position, Noted) {
    let number = first / RECORD_MESSAGES;
    let (segment, offset) = (SegmentNumber(1 + number / 400), 4_192 + (number % 400) as u32 * 140_000);
    let message = |at: u64| {
        let sequence = first + at + 1;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&sequence.to_be_bytes());
        NotedMessage {
            mailbox: MailboxId((u128::from(sequence * 7 % CHANNELS) + 1).to_be_bytes()),
            sender: SenderId([1; 16]),
            message_id: MessageId(id),
            sequence,
            expiry_ms: 1_800_000_000_000 + sequence,
            priority: Priority::Normal,
            flags,
            envelope_bytes: 1_024,
            place: Place {
                segment,
                record_offset: offset,
                message_offset: offset + 3_472 + at as u32 * MESSAGE_BYTES,
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
fn a_message_in_a_channel_takes_at_most_40_bytes_more_than_one_in_a_mailbox() {
    let count = 1_000_000;
    let mut all = Vec::new();
    let mut bytes_each = |flags| {
        let dedup = DedupConfig { sender_ids_max: 1, ..DedupConfig::default() };
        let mut mailboxes = Mailboxes::new(MailboxesConfig { dedup, ..MailboxesConfig::default() }, [1, 2]);
        let before = resident_bytes();
        for first in (0..count).step_by(RECORD_MESSAGES as usize) {
            let (position, noted) = record(first, flags);
            mailboxes.note(position, noted);
        }
        mailboxes.recovered();
        assert_eq!(mailboxes.messages(), count);
        let bytes = (resident_bytes() - before) as f64 / count as f64;
        // What one run gives back, the next would take again unseen.
        all.push(mailboxes);
        bytes
    };
    let (queued, published) = (bytes_each(MessageFlags::NONE), bytes_each(MessageFlags::PUBLISHED));
    println!("{count} messages: {queued:.1} bytes each in mailboxes, {published:.1} in channels");
    assert!((16.0..=40.0).contains(&(published - queued)), "{queued:.1} and {published:.1} bytes a message");
}
